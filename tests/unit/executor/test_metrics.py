"""What the executor counts of an engine that runs."""

from __future__ import annotations

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from ramole.core.composition import Expert
from ramole.executor.metrics import EngineMetrics
from ramole.executor.sequence import Sequence
from ramole.mixture.plan import StepPlan
from ramole.observability.specs import OTHER, TenantNames
from support.engine_world import make_world


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def test_steps_tell_batch_adapters_mask_and_tokens(registry: CollectorRegistry) -> None:
    metrics = EngineMetrics(registry, TenantNames(["acme"]), max_waiting=7)
    world = make_world(max_rows=2)
    plans: list[StepPlan] = []

    def stepped(plan: StepPlan, *figures: float) -> None:
        plans.append(plan)
        metrics.step(plan, *figures)  # type: ignore[arg-type]

    world.stepped = stepped
    metrics.watch(world.engine)

    def value(name: str, **labels: str) -> float:
        found = registry.get_sample_value(f"ramole_{name}", labels)
        assert found is not None, name
        return found

    shared = Expert("a0")
    sequences = [
        Sequence("0", [3, 4, 5], 4, (shared, Expert("a1")), tenant="acme"),
        Sequence("1", [3, 4], 4, (shared, Expert("a2")), tenant="globex"),
        Sequence("2", [3], 2, (), tenant="initech"),
    ]
    for sequence in sequences:
        world.engine.add(sequence)
    assert value("queue_length", tenant="acme") == 1
    assert value("queue_length", tenant=OTHER) == 2
    assert value("queue_limit") == 7
    world.engine.step()
    assert value("queue_length", tenant=OTHER) == 1
    assert value("requests_running") == value("kv_rows") == 2
    assert value("slots_pinned") == value("slots_used") == 3
    assert value("slots") == 8
    assert 0 < value("kv_usage_ratio") < 1
    world.run()
    mixed = [plan for plan in plans if plan.num_adapters]
    num_tokens = sum(len(sequence.tokens) for sequence in sequences)
    assert value("step_duration_seconds_count") == value("batch_size_count") == len(plans)
    assert value("batch_size_sum") == sum(plan.num_requests for plan in plans)
    assert value("batch_unique_adapters_count") == len(mixed) < len(plans), "steps without adapters have no mask"
    assert value("batch_unique_adapters_sum") == sum(len(set(plan.slots.flat) - {0}) for plan in mixed)
    density = sum(np.count_nonzero(plan.mask) / plan.mask.size for plan in mixed)
    assert value("batch_mask_density_sum") == pytest.approx(density)
    assert value("step_tokens_total", kind="prefill") == sum(len(sequence.prompt) for sequence in sequences)
    assert value("step_tokens_total", kind="decode") == num_tokens - len(sequences)
    assert value("inter_token_latency_seconds_count") == num_tokens - len(sequences)
    assert value("kv_usage_ratio") == value("slots_pinned") == value("requests_running") == 0
    for sequence in sequences:
        metrics.answered(sequence)
    for stage in ("queue", "prefill", "decode"):
        assert value("stage_duration_seconds_count", stage=stage) == 3


@pytest.mark.parametrize(
    ("weights", "entropy"), [([1, 1, 1], 1.0), ([3, 0, 0], 0.0), ([1, 1, 0], np.log(2) / np.log(3))]
)
def test_the_gates_entropy_is_of_an_answers_mean_weights(
    registry: CollectorRegistry, weights: list[float], entropy: float
) -> None:
    metrics = EngineMetrics(registry, TenantNames(()), max_waiting=7)
    mixed = Sequence("0", [1], 1, (Expert("a"), Expert("b"), Expert("c")))
    mixed.add_usage(np.array([weights, weights], np.float64), np.array([3.0, 3.0]))
    single = Sequence("1", [1], 1, (Expert("a"),))
    single.add_usage(np.ones((2, 1)), np.ones(2))
    for sequence in (mixed, single, Sequence("2", [1], 1)):
        metrics.answered(sequence)
    assert registry.get_sample_value("ramole_gate_entropy_ratio_count") == 1
    assert registry.get_sample_value("ramole_gate_entropy_ratio_sum") == pytest.approx(entropy)


def test_an_answer_that_never_began_has_no_stages(registry: CollectorRegistry) -> None:
    metrics = EngineMetrics(registry, TenantNames(()), max_waiting=7)
    metrics.answered(Sequence("0", [1], 1))
    assert registry.get_sample_value("ramole_stage_duration_seconds_count", {"stage": "queue"}) is None
