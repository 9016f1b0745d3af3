"""Router training: starts at the uniform mixture, trains the router only, always leaves something to choose from."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ramole.core.composition import PRESETS, Expert
from ramole.core.errors import InvalidInput
from ramole.lab.training.lm import Encoded, answer_loss, collate, exact_matches
from ramole.lab.training.router import RouterRecipe, RouterTask, candidates, survivors, train_router
from ramole.lora.weights import AdapterWeights, LoraPair
from ramole.mixture.mixture import Mixture
from ramole.mixture.plan import RequestMixture, build_step_plan
from ramole.mixture.slots import SlotShape

WIDTH, NUM_EXPERTS, PROMPT = 32, 4, (1, 7, 9, 3)
MODULES = ("model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj")


@pytest.fixture
def model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        pad_token_id=0,
        initializer_range=0.3,  # loud enough for the experts to matter
    )
    return LlamaForCausalLM(config).eval().requires_grad_(False)


@pytest.fixture
def mixture(model: Any) -> Mixture:
    made = Mixture(model, SlotShape(num_slots=NUM_EXPERTS + 1, slot_rank=4, router_rank=4))
    for slot in range(1, NUM_EXPERTS + 1):
        pairs = {name: LoraPair(torch.randn(4, WIDTH) / 4, torch.randn(WIDTH, 4) / 2) for name in MODULES}
        made.write(slot, AdapterWeights(pairs))
    return made


def tasks() -> list[RouterTask]:
    nearest = np.array([[1, 2, 3, 4], [1, 2, 3, 4]])
    return [
        RouterTask((Encoded((*PROMPT, 10, 2), 4), Encoded((*PROMPT, 11, 12, 2), 4)), nearest),
        RouterTask((Encoded((*PROMPT, 20, 2), 4), Encoded((5, *PROMPT, 20, 2), 5)), nearest[:, ::-1].copy()),
    ]


def loss_of(model: Any, mixture: Mixture, preset: str) -> torch.Tensor:
    batch = collate(tasks()[0].examples)
    request = RequestMixture.build(PRESETS[preset], [Expert("", 0.5), Expert("", 0.4), Expert("", 0.3)], [1, 2, 3])
    with torch.no_grad(), mixture.running(build_step_plan([request] * 2, [batch.ids.shape[1]] * 2)):
        return answer_loss(model, batch)


def train(model: Any, mixture: Mixture, steps: int, **changes: Any) -> tuple[dict[str, LoraPair], list[float]]:
    seen: list[float] = []
    recipe = RouterRecipe(steps=steps, num_groups=2, group_size=2, **changes)
    pairs = train_router(model, mixture, tasks(), recipe, pad=0, seed=0, progress=seen.append)
    return pairs, seen


def test_an_untrained_router_is_the_uniform_mixture(model: Any, mixture: Mixture) -> None:
    pairs, _ = train(model, mixture, steps=0)
    assert all(float(pair.b.abs().max()) == 0 and float(pair.a.abs().max()) > 0 for pair in pairs.values())
    torch.testing.assert_close(loss_of(model, mixture, "ramole"), loss_of(model, mixture, "mixture"))


def test_training_lowers_the_loss_and_moves_the_router_only(model: Any, mixture: Mixture) -> None:
    frozen = {name: tensor.clone() for name, tensor in model.state_dict(keep_vars=True).items() if "router" not in name}
    adapters = {name: module.lora_b.clone() for name, module in mixture.modules.items()}
    before = loss_of(model, mixture, "mixture")
    pairs, seen = train(model, mixture, steps=60, dropout=0.0, random_share=0.0, lr=3e-2)
    assert set(pairs) == set(MODULES)
    assert seen == [pytest.approx((i + 1) / 60) for i in range(60)]
    assert float(loss_of(model, mixture, "ramole")) < 0.95 * float(before)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in frozen.items())
    assert all(torch.equal(adapters[name], module.lora_b) for name, module in mixture.modules.items())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_training_repeats_with_the_seed(model: Any, mixture: Mixture) -> None:
    first, _ = train(model, mixture, steps=3)
    second, _ = train(model, mixture, steps=3)
    assert all(torch.equal(first[name].b, second[name].b) for name in MODULES)


@given(
    k=st.integers(2, 6),
    share=st.floats(0, 1),
    dropout=st.floats(0, 1),
    seed=st.integers(0, 10_000),
)
def test_candidates_and_survivors(k: int, share: float, dropout: float, seed: int) -> None:
    recipe = RouterRecipe(k=k, random_share=share, dropout=dropout)
    rng = Random(seed)
    nearest = list(range(1, 10))
    chosen = candidates(nearest, recipe, rng)
    assert chosen[0] == nearest[0]
    assert len(set(chosen)) == k
    left = survivors(chosen, recipe, rng)
    assert len(set(left)) == len(left) >= recipe.min_survivors
    assert set(left) <= set(chosen)


@pytest.mark.parametrize("min_survivors", [1, 4])
def test_a_recipe_without_a_choice_is_refused(min_survivors: int) -> None:
    with pytest.raises(InvalidInput, match="survive"):
        RouterRecipe(k=3, min_survivors=min_survivors)


def test_exact_match_looks_at_answers_only(model: Any) -> None:
    prompt = (1, 5, 6, 3)
    with torch.no_grad():
        best = int(model(input_ids=torch.tensor([prompt])).logits[0, -1].argmax())
    right, wrong = Encoded((*prompt, best), 4), Encoded((*prompt, (best + 1) % 40), 4)
    longer = Encoded((*prompt, best, 1, 1, 1), 7)
    assert exact_matches(model, collate([right, wrong, longer]))[:2] == [True, False]
