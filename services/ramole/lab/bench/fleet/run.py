"""`ramole bench fleet`: runs all cases and sums them up."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from ramole.lab.bench.fleet.cases import goals, run_choice_case, run_fleet_case, run_scaling_case
from ramole.lab.bench.fleet.options import FleetOptions, full_fleet_options, quick_fleet_options
from ramole.lab.machine import cpu_name

Progress = Callable[[str], None]


def run_fleet_bench(*, quick: bool, progress: Progress) -> dict[str, Any]:
    """Simulates fleets of executors with the placement and the scaling policy that serve, beside others' placement.

    Args:
        quick: shorter, in under half a minute.
        progress: called with the name of each part before it runs.

    Returns:
        {"setup", "sizes", "cases", "summary"}, ready for JSON.
    """
    return run_fleet(quick_fleet_options() if quick else full_fleet_options(), progress=progress)


def run_fleet(options: FleetOptions, *, progress: Progress) -> dict[str, Any]:
    """The same for any sizes."""
    started_s = time.monotonic()
    progress(f"a choice among {options.choice.num_replicas}")
    choice = run_choice_case(options.choice)
    fleets = []
    for case in options.fleets:
        progress(f"{case.num_replicas} replicas, {case.num_adapters} adapters")
        fleets.append(run_fleet_case(case))
    progress("a load that swings")
    scaling = run_scaling_case(options.scaling)
    by_policy, by_peak = scaling["fleets"]["policy"], scaling["fleets"]["peak"]
    summary = {
        **goals(fleets),
        "choice_ms_p50": choice["choice_ms_p50"],
        "choice_ms_p99": choice["choice_ms_p99"],
        "scaling_replicas_vs_peak": by_policy["mean_replicas"] / by_peak["mean_replicas"],
        "scaling_failed": by_policy["failed"],
    }
    setup = {"python": platform.python_version(), "cpu": cpu_name(), "cores": os.cpu_count()}
    return {
        "setup": setup | {"seconds": time.monotonic() - started_s},
        "sizes": asdict(options),
        "cases": [choice, *fleets, scaling],
        "summary": summary,
    }
