"""`ramole bench executor`: runs all cases and sums them up."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from ramole.lab.bench.executor.engine_cases import OURS, run_engine_case
from ramole.lab.bench.executor.guard_case import run_guard_case
from ramole.lab.bench.executor.module_cases import EINSUM, run_module_case
from ramole.lab.bench.executor.options import (
    BenchOptions,
    EngineCase,
    Rival,
    StepCase,
    full_options,
    gpu_steps,
    quick_options,
    real_cases,
)
from ramole.lab.bench.executor.slot_cases import run_slot_case
from ramole.lab.bench.executor.step_cases import run_step_case
from ramole.lab.bench.timing import ratio
from ramole.lab.machine import cpu_name, torch_threads

Progress = Callable[[str], None]
Record = Callable[[dict[str, Any]], None]

GAIN = "native_overhead_vs_best_torch"


def run_executor_bench(
    *, quick: bool, device: str = "cpu", threads: int, progress: Progress, record: Record = lambda case: None
) -> dict[str, Any]:
    """Measures the engine beside its rivals.

    Args:
        quick: the summary's cases only, in minutes.
        threads: torch threads for everybody.
        progress: called with the name of each case before it runs.
        record: called with the result of each case when it is there; a long run that is cut off has lost nothing.

    Returns:
        {"setup", "cases", "summary"}, ready for JSON. Every ratio is a median over interleaved rounds.
    """
    options = quick_options() if quick else full_options()
    if device.startswith("cuda"):
        options = replace(options, steps=gpu_steps(quick))
    return run_bench(options, device=device, threads=threads, progress=progress, record=record)


def run_bench(
    options: BenchOptions, *, device: str, threads: int, progress: Progress, record: Record = lambda case: None
) -> dict[str, Any]:
    """The same for any sizes."""
    place = torch.device(device)
    cases: list[dict[str, Any]] = []

    def measure(run: Callable[[Any, torch.device], dict[str, Any]], case: Any) -> dict[str, Any]:
        progress(f"{len(cases) + 1} of {options.num_cases}: {case.name}")
        cases.append(run(case, place))
        record(cases[-1])
        return cases[-1]

    with torch_threads(threads):
        k1, k3, idle = (measure(run_engine_case, case) for case in (options.k1, options.k3, options.idle))
        guards = measure(run_guard_case, options.guards)
        prefill, decode = (measure(run_module_case, case) for case in (options.prefill, options.decode))
        gains = [measure(run_module_case, case)[GAIN] for case in options.overheads]
        slots = measure(run_slot_case, options.slots)
        for engine_case in options.more_engines:
            measure(run_engine_case, engine_case)
        for module_case in options.more_modules:
            measure(run_module_case, module_case)
        for slot_case in options.more_slots:
            measure(run_slot_case, slot_case)
        for step_case in options.steps:
            measure(run_step_case, step_case)
    summary = {
        "k1_p32_vs_peft_mixed": ratio(k1["times"], Rival.PEFT_MIXED, OURS),
        "k1_p32_vs_no_adapters": ratio(k1["times"], Rival.NO_ADAPTERS, OURS),
        "k3_p32_vs_no_adapters_h1024": ratio(k3["times"], Rival.NO_ADAPTERS, OURS),
        "prefill_vs_masked_einsum": ratio(prefill["times"], EINSUM, OURS),
        "decode_vs_masked_einsum": ratio(decode["times"], EINSUM, OURS),
        "no_adapters_vs_plain": ratio(idle["times"], Rival.PLAIN, Rival.NO_ADAPTERS),
        "guarded_vs_unguarded": guards["unguarded_over_guarded"],
        GAIN: min((gain for gain in gains if isinstance(gain, float)), default=None),
        "ttft_2x_slots": slots["ttft_ratio"],
        "kv_held_vs_used": k1["kv_bytes_per_token_held"] / k1["kv_bytes_per_token"],
    }
    return {"setup": _setup(place, threads), "cases": cases, "summary": summary}


def run_base_bench(
    source: str, *, quick: bool, device: str, threads: int, progress: Progress, record: Record = lambda case: None
) -> dict[str, Any]:
    """Measures the engine on a real base, beside transformers and PEFT; arguments as of `run_executor_bench`.

    Args:
        source: folder or GGUF file.

    Returns:
        {"setup", "cases", "summary"}; the summary has tokens per second of each case and contestant.
    """
    cases = []
    todo = real_cases(source, quick=quick)
    with torch_threads(threads):
        for i, case in enumerate(todo):
            progress(f"{i + 1} of {len(todo)}: {case.name}")
            cases.append(run_engine_case(case, torch.device(device)))
            record(cases[-1])
    summary = {
        f"{case['name']} {name}": contestant["tokens_per_s"]
        for case in cases
        for name, contestant in case["contestants"].items()
    }
    return {"setup": _setup(torch.device(device), threads) | {"base": source}, "cases": cases, "summary": summary}


def run_bench_case(case: EngineCase | StepCase, device: torch.device) -> dict[str, Any]:
    """One case by itself."""
    return run_engine_case(case, device) if isinstance(case, EngineCase) else run_step_case(case, device)


def _setup(device: torch.device, threads: int) -> dict[str, Any]:
    import peft
    import transformers

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "cpu": cpu_name(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": threads,
        "dtype": "float32",
    }
