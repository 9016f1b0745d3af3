"""What a simulation of fleets measures."""

from __future__ import annotations

from dataclasses import dataclass, field

from ramole.lab.bench.fleet.replica import Tiers


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetCase:
    """One fleet under one kind of traffic, run with every chooser on the same requests.

    Attributes:
        num_adapters: of the repository, by Zipf's law of exponent `alpha`.
        k: adapters of one request.
        seconds: simulated; the first half is not counted.
        busy: part of the rows that requests take, about.
        num_gateways: that choose without knowing of each other.
        churn_per_s: popular adapters that are replaced by new ones.
        failures: replicas that die and come back empty, one after the other.
        num_moved: sets of adapters whose home is looked up with and without one replica.
    """

    num_replicas: int
    num_adapters: int
    seconds: float
    alpha: float = 1.0
    k: int = 3
    busy: float = 0.6
    num_gateways: int = 4
    churn_per_s: float = 2.0
    failures: int = 1
    num_moved: int = 2000
    tiers: Tiers = field(default_factory=Tiers)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingCase:
    """A fleet whose load goes up and down, with the scaling policy and beside fixed numbers.

    Attributes:
        least, most: bounds; the load swings between 60 % of the rows of each.
        period_s: of the load.
        num_periods: the first is not counted.
        start_s: of a replica.
        down_s: cool-down before there are fewer.
    """

    least: int = 4
    most: int = 16
    num_adapters: int = 10_000
    period_s: float = 240.0
    num_periods: int = 3
    start_s: float = 20.0
    down_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceCase:
    """What one choice costs a gateway.

    Attributes:
        num_hot: adapters that every replica holds.
    """

    num_replicas: int = 256
    num_slots: int = 64
    num_hot: int = 8
    num_adapters: int = 1_000_000
    num_choices: int = 4000


@dataclass(frozen=True, slots=True)
class FleetOptions:
    """One run."""

    fleets: tuple[FleetCase, ...]
    scaling: ScalingCase
    choice: ChoiceCase


def full_fleet_options() -> FleetOptions:
    """8, 64 and 256 replicas, up to a million adapters, and traffic that is less and more skewed."""
    return FleetOptions(
        (
            FleetCase(num_replicas=8, num_adapters=10_000, seconds=400, failures=0),
            FleetCase(num_replicas=8, num_adapters=10_000, seconds=400),
            FleetCase(num_replicas=64, num_adapters=100_000, seconds=120),
            FleetCase(num_replicas=256, num_adapters=1_000_000, seconds=80),
            FleetCase(num_replicas=64, num_adapters=1_000_000, alpha=0.7, seconds=80),
            FleetCase(num_replicas=64, num_adapters=100_000, alpha=1.3, seconds=80),
            FleetCase(num_replicas=64, num_adapters=100_000, k=1, seconds=80),
            FleetCase(num_replicas=64, num_adapters=100_000, busy=0.85, seconds=80),
            FleetCase(num_replicas=64, num_adapters=100_000, num_gateways=16, seconds=80),
        ),
        ScalingCase(),
        ChoiceCase(),
    )


def quick_fleet_options() -> FleetOptions:
    """The three sizes for a shorter time, in under half a minute."""
    return FleetOptions(
        (
            FleetCase(num_replicas=8, num_adapters=10_000, seconds=60, num_moved=300),
            FleetCase(num_replicas=64, num_adapters=100_000, seconds=14, num_moved=300),
            FleetCase(num_replicas=256, num_adapters=1_000_000, seconds=6, num_moved=300),
        ),
        ScalingCase(least=2, most=6, period_s=120.0, num_periods=2, down_s=30.0),
        ChoiceCase(num_choices=1000),
    )
