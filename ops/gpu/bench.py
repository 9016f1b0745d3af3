"""Stage: `ramole bench executor` on this device, its decode steps first: they are what only a GPU shows."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from records import Records

from ramole.lab.bench.executor.options import BaseSize, EngineCase, Rival, StepCase, gpu_steps
from ramole.lab.bench.executor.run import run_bench_case

_TINY = BaseSize(32, 1, vocab_size=97)


def cases(*, is_tiny: bool) -> list[StepCase | EngineCase]:
    """The most telling first."""
    steps = list(gpu_steps(True))
    engine = EngineCase(
        "engine beside PEFT and transformers",
        BaseSize(2048, 8, vocab_size=32_000),
        num_requests=32,
        num_adapters=32,
        k=1,
        rank=16,
        rivals=(Rival.NO_ADAPTERS, Rival.PEFT_MIXED, Rival.TRANSFORMERS_CB),
        rounds=3,
        dtype="bfloat16",
    )
    if not is_tiny:
        return [*steps, engine]
    small = replace(
        steps[0], base=_TINY, sweep=((2, 2, 1),), rank=4, dtype="float32", prompt_tokens=5, num_steps=2, rounds=1
    )
    few = replace(
        engine, base=_TINY, num_requests=3, num_adapters=3, rank=4, prompt_tokens=(2, 6), new_tokens=3, rounds=1,
        num_alone=1, rivals=(Rival.NO_ADAPTERS, Rival.PEFT_MIXED), dtype="float32",
    )  # fmt: skip
    return [small, few]


def told(result: dict[str, Any]) -> dict[str, Any]:
    """The figures of one case, without each single time."""
    if "points" in result:
        figures = {
            f"b{point['b']} p{point['p']} k{point['k']}": {
                name: f"{1000 * seconds:.2f} ms, {point['over_base'][name] or 0:.2f}"
                for name, seconds in point["step_s"].items()
            }
            for point in result["points"]
        }
        return {"ok": result["tokens_equal"], **figures}
    figures = {name: f"{found['tokens_per_s']:.0f} tokens/s" for name, found in result["contestants"].items()}
    # In half precision a tie may fall otherwise; then nothing is wrong.
    is_exact = result["case"]["dtype"] == "float32"
    return {"ok": result["tokens_equal"] or not is_exact, "tokens_equal": result["tokens_equal"], **figures} | (
        {"could_not_run": result["skipped"]} if result["skipped"] else {}
    )


def run(records: Records, device: torch.device, *, is_tiny: bool) -> None:
    """One case after the other."""
    for case in cases(is_tiny=is_tiny):
        records.attempt(case.name, partial(_measured, case, device), needs_s=0 if is_tiny else 30)


def _measured(case: StepCase | EngineCase, device: torch.device) -> dict[str, Any]:
    return told(run_bench_case(case, device))
