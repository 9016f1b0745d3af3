"""The cases of `ramole bench fleet`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ramole.app.scaling import ScalingPolicy
from ramole.lab.bench.fleet.choosers import OURS, Chooser, contestants
from ramole.lab.bench.fleet.options import ChoiceCase, FleetCase, ScalingCase
from ramole.lab.bench.fleet.replica import Tiers
from ramole.lab.bench.fleet.simulation import Outcome, Simulation
from ramole.lab.bench.fleet.traffic import Traffic
from ramole.transport.affinity import Placement, Report

_TTL_S = 10.0  # as the router of the executors has it
_SEED = 1


def run_fleet_case(case: FleetCase) -> dict[str, Any]:
    """The same requests with every chooser."""
    rows = {name: _row(_simulate(case, name)) | {"moved": _moved(case, name)} for name in contestants()}
    return {"name": _name(case), "kind": "fleet", "case": asdict(case), "choosers": rows}


def _name(case: FleetCase) -> str:
    default = FleetCase(num_replicas=0, num_adapters=0, seconds=0)
    parts = [f"{case.num_replicas} replicas", f"{case.num_adapters} adapters"]
    parts += [
        f"{name} {getattr(case, name)}"
        for name in ("alpha", "k", "busy", "num_gateways", "failures")
        if getattr(case, name) != getattr(default, name)
    ]
    return ", ".join(parts)


def _simulate(case: FleetCase, name: str) -> Outcome:
    traffic = Traffic(
        num_adapters=case.num_adapters,
        alpha=case.alpha,
        k=case.k,
        churn_per_s=case.churn_per_s,
        num_gateways=case.num_gateways,
    )

    def make(sim: Simulation, gateway: int) -> Chooser:
        return contestants()[name](_SEED + gateway, sim.load, lambda: sim.now_s, _TTL_S)

    simulation = Simulation(
        make,
        num_replicas=case.num_replicas,
        tiers=case.tiers,
        num_gateways=case.num_gateways,
        warm_s=case.seconds / 2,
        start_s=case.seconds / 10,
    )
    for i in range(case.failures):
        simulation.at(case.seconds * (0.6 + 0.3 * i / case.failures), simulation.kill)
    rate_per_s = case.num_replicas * _served_per_s(case.tiers, case.busy)
    return simulation.run(traffic.arrivals(rate_per_s, _SEED), case.seconds)


def _served_per_s(tiers: Tiers, busy: float) -> float:
    """Requests of one second that keep this part of a replica's rows."""
    return tiers.num_rows * busy / (1 + tiers.crowded * busy)


def _row(outcome: Outcome) -> dict[str, Any]:
    loads = np.array(list(outcome.loads.values()))
    watched = outcome.watched[outcome.hottest]
    by_hottest = [outcome.loads[name] for name in watched if name in outcome.loads]
    waits_ms = 1000 * np.array(outcome.waits_s)
    return {
        "requests": len(waits_ms),
        "hit_rate": outcome.num_hits / outcome.num_wanted,
        "warm_rate": outcome.num_warm / outcome.num_wanted,
        "wait_ms_mean": float(waits_ms.mean()),
        "wait_ms_p50": float(np.quantile(waits_ms, 0.5)),
        "wait_ms_p99": float(np.quantile(waits_ms, 0.99)),
        "wait_ms_p999": float(np.quantile(waits_ms, 0.999)),
        "imbalance": float(loads.max() / loads.mean()),
        "imbalance_hottest": float(max(by_hottest) / loads.mean()),
        "homes_of_hottest": len(watched),
        "share_of_hottest": sum(watched.values()) / len(waits_ms),
        "repeated": outcome.num_repeated,
        "failed": outcome.num_failed,
    }


def _moved(case: FleetCase, name: str) -> float:
    """Part of the idle fleet's sets of adapters that go elsewhere when one replica has left."""
    traffic = Traffic(num_adapters=case.num_adapters, alpha=0.0, k=case.k, churn_per_s=0)
    arrivals = traffic.arrivals(1.0, _SEED)
    wanted = [next(arrivals).wanted for _ in range(case.num_moved)]
    names = [f"replica-{i}" for i in range(case.num_replicas)]
    homes = []
    for some in (names, names[1:]):
        chooser = contestants()[name](_SEED, lambda _: 0.0, lambda: 0.0, _TTL_S)
        chooser.update(dict.fromkeys(some, Report()))
        homes.append([chooser.choose(each) for each in wanted])
    return float(np.mean([before != after for before, after in zip(*homes, strict=True)]))


def run_scaling_case(case: ScalingCase) -> dict[str, Any]:
    """The load of a day in minutes: the policy beside as many replicas as the peak and as the mean need."""
    tiers = Tiers()
    policy = ScalingPolicy(least=case.least, most=case.most, target=0.7, up_s=3.0, down_s=case.down_s)
    mean = round((case.least + case.most) / 2)
    fleets: Mapping[str, tuple[int, ScalingPolicy | None]] = {
        "policy": (case.least, policy),
        "peak": (case.most, None),
        "mean": (mean, None),
    }
    rows = {name: _scaled(case, tiers, num_replicas, by) for name, (num_replicas, by) in fleets.items()}
    return {"name": "load that swings", "kind": "scaling", "case": asdict(case), "fleets": rows}


def _scaled(case: ScalingCase, tiers: Tiers, num_replicas: int, policy: ScalingPolicy | None) -> dict[str, Any]:
    simulation = Simulation(
        lambda sim, _: Placement(_TTL_S, lambda: sim.now_s),
        num_replicas=num_replicas,
        tiers=tiers,
        num_gateways=2,
        warm_s=case.period_s,
        policy=policy,
        start_s=case.start_s,
    )
    traffic = Traffic(num_adapters=case.num_adapters, num_gateways=2)
    rate_per_s = case.least * _served_per_s(tiers, 0.6)
    until_s = case.period_s * case.num_periods
    arrivals = traffic.arrivals(rate_per_s, _SEED, peak=case.most / case.least, period_s=case.period_s)
    outcome = simulation.run(arrivals, until_s)
    numbers = [number for _, number in outcome.changes]
    turns = sum((b > a) != (c > b) for a, b, c in zip(numbers, numbers[1:], numbers[2:], strict=False))
    row = _row(outcome)
    return {
        "mean_replicas": outcome.replica_seconds / (until_s - case.period_s),
        "changes": len(numbers),
        "turns": turns,
        **{key: row[key] for key in ("requests", "hit_rate", "wait_ms_mean", "wait_ms_p99", "failed", "repeated")},
    }


def run_choice_case(case: ChoiceCase) -> dict[str, Any]:
    """Milliseconds of this thread for a choice with all that belongs to it, and for a round of reports."""
    rng = np.random.default_rng(_SEED)
    hot = [f"hot-{i}" for i in range(case.num_hot)]

    def reports() -> dict[str, Report]:
        cold = rng.integers(0, case.num_adapters, (case.num_replicas, case.num_slots - case.num_hot)).tolist()
        return {
            f"replica-{i}": Report(float(i % 12), frozenset([*hot, *(f"a{j}" for j in adapters)]), 16)
            for i, adapters in enumerate(cold)
        }

    placement = Placement(_TTL_S, time.monotonic)
    rounds = [reports() for _ in range(4)]
    update_ms = [_ms(lambda told=told: placement.update(told)) for told in rounds]
    wanted: Sequence[tuple[str, ...]] = [
        (hot[i % case.num_hot], hot[(i + 1) % case.num_hot], f"a{rng.integers(case.num_adapters)}")
        for i in range(case.num_choices)
    ]

    def choose(some: tuple[str, ...]) -> None:
        name = placement.choose(some)
        placement.send(name, some)
        placement.finish(name)

    costs_ms = np.array([_ms(lambda some=some: choose(some)) for some in wanted])
    return {
        "name": f"a choice among {case.num_replicas}",
        "kind": "choice",
        "case": asdict(case),
        "choice_ms_p50": float(np.quantile(costs_ms, 0.5)),
        "choice_ms_p99": float(np.quantile(costs_ms, 0.99)),
        "update_ms": float(np.median(update_ms[1:])),
    }


def _ms(do: Any) -> float:
    started_s = time.thread_time()
    do()
    return 1000 * (time.thread_time() - started_s)


def goals(fleets: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Over all cases the worst of what was promised."""
    ours = [case["choosers"][OURS] for case in fleets]
    rivals = [case["choosers"]["power_of_two"] for case in fleets]
    pairs = list(zip(ours, rivals, strict=True))
    return {
        "hit_rate_vs_power_of_two": min(our["hit_rate"] / rival["hit_rate"] for our, rival in pairs),
        "p99_vs_power_of_two": max(our["wait_ms_p99"] / rival["wait_ms_p99"] for our, rival in pairs),
        "mean_wait_vs_power_of_two": max(our["wait_ms_mean"] / rival["wait_ms_mean"] for our, rival in pairs),
        "imbalance": max(our["imbalance"] for our in ours),
        "imbalance_hottest": max(our["imbalance_hottest"] for our in ours),
        "moved_vs_share": max(
            our["moved"] * case["case"]["num_replicas"] for our, case in zip(ours, fleets, strict=True)
        ),
        "failed": float(sum(our["failed"] for our in ours)),
    }
