"""Small fleets, in simulated time: what comes out is exact and the same each time."""

from __future__ import annotations

import json
from itertools import takewhile

import pytest

from ramole.app.scaling import ScalingPolicy
from ramole.lab.bench.fleet.cases import goals, run_fleet_case
from ramole.lab.bench.fleet.choosers import contestants
from ramole.lab.bench.fleet.options import ChoiceCase, FleetCase, FleetOptions, ScalingCase
from ramole.lab.bench.fleet.replica import Tiers
from ramole.lab.bench.fleet.run import run_fleet
from ramole.lab.bench.fleet.simulation import Simulation
from ramole.lab.bench.fleet.traffic import Traffic

SMALL = FleetCase(num_replicas=4, num_adapters=2000, seconds=60, num_gateways=2, num_moved=200, failures=0)


def simulation(name: str = "ramole", num_replicas: int = 3, policy: ScalingPolicy | None = None) -> Simulation:
    return Simulation(
        lambda sim, gateway: contestants()[name](gateway, sim.load, lambda: sim.now_s, 10.0),
        num_replicas=num_replicas,
        tiers=Tiers(num_rows=4),
        num_gateways=2,
        warm_s=0.0,
        policy=policy,
        start_s=2.0,
    )


def test_ours_finds_more_adapters_where_they_are_and_waits_no_longer() -> None:
    case = run_fleet_case(SMALL)
    reached = goals([case])
    assert reached["hit_rate_vs_power_of_two"] > 1.2
    assert reached["mean_wait_vs_power_of_two"] < 1
    assert reached["failed"] == 0
    moved = {name: row["moved"] for name, row in case["choosers"].items()}
    assert moved["ramole"] < 0.5 < min(moved["random"], moved["power_of_two"])
    assert json.loads(json.dumps(run_fleet_case(SMALL))) == json.loads(json.dumps(case))


@pytest.mark.parametrize("name", contestants())
def test_every_request_is_answered_though_replicas_die(name: str) -> None:
    sim = simulation(name)
    for at_s in (5.0, 9.0, 9.5):
        sim.at(at_s, sim.kill)
    traffic = Traffic(num_adapters=100, num_gateways=2)
    outcome = sim.run(traffic.arrivals(4.0, seed=1), 20.0)
    num_asked = sum(1 for _ in takewhile(lambda each: each.at_s < 20.0, traffic.arrivals(4.0, seed=1)))
    assert len(outcome.waits_s) == num_asked
    assert outcome.num_repeated > 0
    assert outcome.num_failed == 0


def test_the_fleet_follows_its_load_and_loses_nobody() -> None:
    policy = ScalingPolicy(least=1, most=4, target=0.7, up_s=2.0, down_s=10.0)
    outcome = simulation(num_replicas=1, policy=policy).run(
        Traffic(num_adapters=50, num_gateways=2).arrivals(1.0, 1, peak=8.0, period_s=100.0), 200.0
    )
    numbers = [number for _, number in outcome.changes]
    assert max(numbers) == 4
    assert min(numbers[numbers.index(4) :]) < 4
    assert outcome.num_failed == outcome.num_repeated == 0


def test_the_whole_says_what_it_measured() -> None:
    options = FleetOptions(
        (SMALL,),
        ScalingCase(least=1, most=2, period_s=30.0, num_periods=2, start_s=1.0, down_s=5.0),
        ChoiceCase(num_replicas=8, num_choices=20),
    )
    parts: list[str] = []
    result = json.loads(json.dumps(run_fleet(options, progress=parts.append)))
    assert [case["kind"] for case in result["cases"]] == ["choice", "fleet", "scaling"]
    assert len(parts) == 3
    assert all(isinstance(value, int | float) for value in result["summary"].values())
