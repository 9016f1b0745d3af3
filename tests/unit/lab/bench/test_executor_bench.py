"""The benchmark itself, on sizes where figures mean nothing but answers must agree."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch

from ramole.core.composition import Composition, Expert, Merge, Weighting
from ramole.lab.bench.executor.engine_cases import run_engine_case
from ramole.lab.bench.executor.floors import floor_of
from ramole.lab.bench.executor.options import (
    BaseSize,
    BenchOptions,
    EngineCase,
    ModuleCase,
    Rival,
    SlotCase,
    StepCase,
    full_options,
    real_cases,
)
from ramole.lab.bench.executor.run import run_bench
from ramole.lab.bench.executor.step_cases import RIVALS
from ramole.lab.bench.executor.world import make_pairs
from ramole.lab.bench.timing import interleave, ratio
from ramole.lora.weights import AdapterWeights
from ramole.mixture.mixture import Mixture
from ramole.mixture.plan import RequestMixture, StepPlan, build_step_plan
from ramole.mixture.slots import SlotShape
from ramole.mixture.step import Form, Step
from support.engine_world import tiny_llama

TINY = BaseSize(hidden=32, num_layers=1, vocab_size=97)
KEYS = {
    "k1_p32_vs_peft_mixed",
    "k1_p32_vs_no_adapters",
    "k3_p32_vs_no_adapters_h1024",
    "prefill_vs_masked_einsum",
    "decode_vs_masked_einsum",
    "no_adapters_vs_plain",
    "guarded_vs_unguarded",
    "native_overhead_vs_best_torch",
    "ttft_2x_slots",
    "kv_held_vs_used",
}
RATIOS = {
    "k1_p32_vs_peft_mixed": ("k1", "peft_mixed", "ramole"),
    "k1_p32_vs_no_adapters": ("k1", "no_adapters", "ramole"),
    "k3_p32_vs_no_adapters_h1024": ("k3", "no_adapters", "ramole"),
    "prefill_vs_masked_einsum": ("prefill", "masked_einsum", "ramole"),
    "decode_vs_masked_einsum": ("decode", "masked_einsum", "ramole"),
    "no_adapters_vs_plain": ("idle", "plain", "no_adapters"),
}
"""Figure of the summary -> its case, and who takes how many times as long as whom."""
CPU = torch.device("cpu")


def tiny_case(name: str, k: int, *rivals: Rival) -> EngineCase:
    return EngineCase(
        name,
        TINY,
        num_requests=4,
        num_adapters=4,
        k=k,
        rank=4,
        router_rank=2,
        prompt_tokens=(2, 9),
        new_tokens=6,
        rivals=rivals,
        rounds=1,
        num_alone=2,
    )


def tiny_module(name: str, num_tokens: int) -> ModuleCase:
    return ModuleCase(
        name, 32, num_requests=4, tokens_per_request=num_tokens, num_adapters=6, k=3, rank=4, router_rank=2, rounds=2
    )


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_summary_has_its_keys_and_every_contestant_gives_the_same_answer() -> None:
    options = BenchOptions(
        k1=tiny_case("k1", 1, Rival.NO_ADAPTERS, Rival.PEFT_MIXED, Rival.PEFT_ONE_BY_ONE),
        k3=tiny_case("k3", 3, Rival.NO_ADAPTERS),
        idle=tiny_case("idle", 1, Rival.NO_ADAPTERS, Rival.PLAIN),
        guards=tiny_case("guards", 1),
        prefill=tiny_module("prefill", 16),
        decode=tiny_module("decode", 1),
        overheads=(tiny_module("overhead", 1),),
        slots=SlotCase(
            "slots", TINY, num_adapters=8, k=2, rank=4, prompt_tokens=(2, 9), new_tokens=4, num_requests=12, rounds=1
        ),
        more_engines=(
            replace(tiny_case("staggered", 3, Rival.NO_ADAPTERS), arrivals_per_step=1),
            replace(tiny_case("request_weights", 2, Rival.NO_ADAPTERS, Rival.PLAIN_LORA), preset="mixture"),
        ),
        steps=(
            StepCase(
                "steps", TINY, ((1, 1, 1), (3, 6, 3)), rank=4, dtype="float32", prompt_tokens=5, num_steps=3, rounds=1
            ),
        ),
    )
    seen: list[str] = []
    kept: list[Any] = []
    report = run_bench(options, device="cpu", threads=1, progress=seen.append, record=kept.append)
    assert kept == report["cases"]

    assert set(report["summary"]) == KEYS
    summary, cases = report["summary"], {case["name"]: case for case in report["cases"]}
    for key, (case, slow, fast) in RATIOS.items():
        times = cases[case]["times"]
        assert summary[key] == median(s / f for s, f in zip(times[slow], times[fast], strict=True)), key
    assert len(seen) == options.num_cases == len(report["cases"])
    for case in report["cases"]:
        assert case["tokens_equal" if case["kind"] != "module" else "outputs_equal"] is True, case["name"]
        assert not case.get("skipped")
    k1 = report["cases"][0]
    assert k1["differs_from_base"]
    assert k1["contestants"][Rival.PEFT_MIXED]["tokens_equal"] is True
    assert k1["contestants"][Rival.PEFT_ONE_BY_ONE]["tokens_equal"] is True
    json.dumps(report)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_rival_that_cannot_run_is_reported_and_leaves_the_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("not on this machine")

    monkeypatch.setattr("ramole.lab.bench.executor.rivals.GenerateBatch.__call__", fail)
    report = run_engine_case(tiny_case("k1", 1, Rival.NO_ADAPTERS, Rival.PEFT_MIXED), CPU)
    assert report["skipped"] == {"peft_mixed": "RuntimeError: not on this machine"}
    assert set(report["contestants"]) == {"ramole", "no_adapters"}


def test_ratios_are_taken_within_a_round() -> None:
    # A disturbance that triples one whole round must not move the ratio.
    times = {"slow": [2.0, 6.0, 2.0], "fast": [1.0, 3.0, 1.0]}
    assert ratio(times, "slow", "fast") == 2


def test_every_round_starts_with_another_contestant_and_the_first_is_not_counted() -> None:
    calls: list[str] = []
    times = interleave({n: lambda n=n: calls.append(n) for n in "ab"}, rounds=2, device=CPU)  # type: ignore[misc]
    assert calls == ["a", "b", "b", "a", "a", "b"]
    assert [len(seconds) for seconds in times.values()] == [2, 2]


def test_the_floor_of_a_square_layer() -> None:
    floor = floor_of([(64, 64)], lora_widths=[(64, 64)], num_tokens=8, num_adapters=2, k=1, rank=4)
    assert floor["flops_ratio"] == 1 + 2 * 4 / 64
    assert floor["bytes_ratio"] == 1 + 2 * 2 * 4 / 64
    assert floor["floor_ratio"] == floor["flops_ratio"]


def test_the_full_grid_names_every_case_once() -> None:
    options = full_options()
    engines = (options.k1, options.k3, options.idle, options.guards, *options.more_engines)
    modules = (options.prefill, options.decode, *options.overheads, *options.more_modules)
    names = [case.name for case in (*engines, *modules, options.slots, *options.more_slots)]
    assert len(set(names)) == len(names) == options.num_cases
    assert all(case.k <= case.num_adapters for case in (*engines, *modules))


@pytest.mark.parametrize("form", RIVALS.values(), ids=RIVALS)
def test_a_rival_form_computes_what_ours_computes(form: Callable[[StepPlan, int, torch.device], Form]) -> None:
    torch.manual_seed(0)
    model = torch.nn.ModuleDict({"proj": torch.nn.Linear(12, 10)}).requires_grad_(False)
    mixture = Mixture(model, SlotShape(6, 4, 1))
    for slot in range(1, 6):
        mixture.write(slot, AdapterWeights(make_pairs(model, ["proj"], rank=1 + slot % 4, seed=slot)))
    compositions = [Composition(w, Merge.OUTPUTS) for w in (Weighting.UNIFORM, Weighting.SIMILARITY)]
    experts = [Expert("", similarity=0.1 * i) for i in range(3)]
    mixtures = [
        RequestMixture.build(compositions[i % 2], experts[: len(slots)], slots)
        for i, slots in enumerate([(1, 2, 3), (), (2,), (5, 4), (1,)])
    ]
    plan = build_step_plan(mixtures, [1, 1, 1, 1, 1])
    x = torch.randn(5, 12)
    with mixture.running(plan):
        want = model["proj"](x)
    with mixture.running_step(Step(plan, form(plan, 1, CPU))):
        torch.testing.assert_close(model["proj"](x), want)


@pytest.mark.parametrize(
    ("k", "rivals"),
    [(0, (Rival.TRANSFORMERS_GENERATE, Rival.TRANSFORMERS_CB)), (1, (Rival.NO_ADAPTERS, Rival.PEFT_MIXED))],
)
def test_a_real_base_is_measured_beside_its_rivals(k: int, rivals: tuple[Rival, ...], tmp_path: Path) -> None:
    tiny_llama().save_pretrained(tmp_path)  # type: ignore[operator]
    case = EngineCase(
        "real", TINY, num_requests=3, num_adapters=2, k=k, rank=4, prompt_tokens=(4, 9), new_tokens=4, rounds=1,
        num_alone=1, rivals=rivals, source=str(tmp_path),
    )  # fmt: skip
    found = run_engine_case(case, CPU)
    assert found["tokens_equal"]
    assert not found["skipped"]
    assert {found["contestants"][rival]["tokens_equal"] for rival in rivals} <= {True, None}
    assert found["contestants"]["ramole"]["first_token_s"] > 0
    assert found["kv_bytes_per_token"] >= 2 * 2 * 2 * 8 * 4, "layers, keys and values, heads, width, float32"


def test_a_real_base_is_asked_everything() -> None:
    cases = real_cases("folder", quick=False)
    asked = {(case.k, case.num_requests, case.prompt_tokens[0]) for case in cases}
    assert asked == {(k, b, n) for k in (0, 1, 3) for b in (1, 8, 32) for n in (32, 512)}
    assert len(real_cases("folder", quick=True)) < len(cases)
