"""Many LoRAs in one pass: each is what PEFT makes of its folder, and none feels the others."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from ramole.lab.factory.adapters import RECIPES, AdapterRecipe, Bank
from ramole.lab.training.lm import Encoded

KINDS = {f"{kind.rank}-{len(kind.targets)}-{kind.uses_rslora}": kind for kind in RECIPES}


def make_base() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def texts(count: int) -> list[list[Encoded]]:
    rng = Random(5)
    return [
        [Encoded(tuple(rng.randrange(3, 64) for _ in range(rng.randint(6, 9))), 4) for _ in range(12)]
        for _ in range(count)
    ]


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_saved_adapter_gives_the_same_logits_through_peft(kind: AdapterRecipe, tmp_path: Path) -> None:
    from peft import PeftModel

    count, size = 3, 2
    seeds = [f"adapter {i}" for i in range(count)]
    bank = Bank.put_on(make_base(), kind, seeds)
    bank.train(texts(count), seeds, pad=0)
    ids = torch.randint(3, 64, (count * size, 8), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        banked = bank.model(input_ids=ids).logits.view(count, size, 8, -1)
        plain = make_base()(input_ids=ids).logits.view(count, size, 8, -1)
        for number in range(count):
            folder = tmp_path / str(number)
            folder.mkdir()
            bank.save(number, folder, base_id="a/base")
            model = PeftModel.from_pretrained(make_base(), folder).eval()
            alone = model(input_ids=ids).logits.view(count, size, 8, -1)
            torch.testing.assert_close(alone[number], banked[number], rtol=1e-4, atol=1e-5)
            assert not torch.allclose(alone[number - 1], banked[number - 1], rtol=1e-2, atol=1e-3)
            assert not torch.allclose(alone[number], plain[number], rtol=1e-2, atol=1e-3)


def test_an_adapter_is_the_same_alone_and_beside_others() -> None:
    kind, data = AdapterRecipe(4, 8, ("q_proj", "v_proj"), 1e-2, steps=10), texts(3)
    seeds = ["a", "b", "c"]
    together = Bank.put_on(make_base(), kind, seeds)
    together.train(data, seeds, pad=0)
    alone = Bank.put_on(make_base(), kind, seeds[1:2])
    alone.train(data[1:2], seeds[1:2], pad=0)
    for name, layer in alone.layers.items():
        torch.testing.assert_close(layer.b[0], together.layers[name].b[1], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(layer.a[0], together.layers[name].a[1], rtol=1e-3, atol=1e-4)
        assert not torch.allclose(layer.b[0], together.layers[name].b[0], atol=1e-3)
