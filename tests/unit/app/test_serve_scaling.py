"""Serve's own context and options, without a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray.serve._private.autoscaling_state import _resolve_policy_callable
from ray.serve._private.common import DeploymentID, ReplicaID, TimeStampedValue
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from ramole.app import build
from ramole.app.serve_scaling import autoscaling_config
from ramole.core.settings import CallScalingSettings, ExecutorScalingSettings, ScalingSettings

DEPLOYMENT = DeploymentID("executor", "executor")
SETTINGS = CallScalingSettings(min=1, max=5, target=0.5, up_s=2, down_s=4, calls=10)


def config_of(settings: ScalingSettings) -> AutoscalingConfig:
    return AutoscalingConfig(**autoscaling_config(settings))


def context(
    now_s: float, target: int, records: list[dict[str, list[float]]], state: dict[str, Any], waiting: float = 0.0
) -> AutoscalingContext:
    """As Serve makes it; each record is of one replica, a series of values by name."""
    replicas = [ReplicaID(str(i), DEPLOYMENT) for i in range(len(records))]
    names = {name for record in records for name in record}
    metrics = {
        name: {
            replica: [TimeStampedValue(float(i), value) for i, value in enumerate(record[name])]
            for replica, record in zip(replicas, records, strict=True)
            if name in record
        }
        for name in names
    }
    return AutoscalingContext(
        deployment_id=DEPLOYMENT,
        deployment_name="executor",
        app_name="executor",
        current_num_replicas=len(replicas),
        target_num_replicas=target,
        running_replicas=replicas,
        total_num_requests=waiting,
        total_queued_requests=waiting,
        aggregated_metrics=None,
        raw_metrics=metrics,
        capacity_adjusted_min_replicas=1,
        capacity_adjusted_max_replicas=5,
        policy_state=state,
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=now_s,
        config=None,
    )


def test_serve_builds_the_policy_from_the_options_and_its_state_carries_it_on() -> None:
    policy = _resolve_policy_callable(config_of(SETTINGS).policy)
    busy = [{"inflight": [4.0, 12.0]}]  # a mean of .8 of what one can do
    number, state = policy(context(0.0, 1, busy, {}))
    assert number == 1
    number, state = policy(context(1.0, 1, busy, state))
    assert number == 1
    number, state = policy(context(2.5, 1, busy, state))
    assert number == 2
    idle = [{"inflight": [0.0]}, {"inflight": [0.0]}]
    for now_s in (3.0, 5.0):
        number, state = policy(context(now_s, 2, idle, state))
        assert number == 2
    assert policy(context(7.0, 2, idle, state))[0] == 1


def test_a_replica_without_a_record_is_not_taken_for_idle() -> None:
    policy = _resolve_policy_callable(config_of(SETTINGS).policy)
    state: dict[str, Any] = {}
    for now_s in range(20):
        number, state = policy(context(float(now_s), 2, [{"inflight": [0.0]}, {}], state))
        assert number == 2


def test_an_executor_that_sleeps_wakes_when_somebody_waits() -> None:
    policy = _resolve_policy_callable(config_of(ExecutorScalingSettings(min=0, max=2)).policy)
    number, state = policy(context(0.0, 0, [], {}))
    assert number == 0
    assert policy(context(0.1, 0, [], state, waiting=1.0))[0] == 1


@pytest.mark.parametrize("least", [0, 1, 2])
def test_serves_own_delays_are_off_and_a_start_is_tried_at_once(least: int) -> None:
    config = config_of(ExecutorScalingSettings(min=least, max=3))
    assert (config.min_replicas, config.initial_replicas, config.max_replicas) == (least, max(1, least), 3)
    assert config.upscale_delay_s == config.downscale_delay_s == 0
    assert config.get_upscaling_factor() == config.get_downscaling_factor() == 1


def test_bounds_make_an_application_that_scales(tmp_path: Path) -> None:
    given = {"data_dir": str(tmp_path), "executor": {"scaling": {"min": 0, "max": 3}}}
    for name in ("executor", "embedding"):
        options = build({"service": name, "settings": given})._bound_deployment._deployment_config
        assert (options.autoscaling_config is not None) == (name == "executor")
        if options.autoscaling_config is not None:
            assert options.autoscaling_config.max_replicas == 3
            assert not options.autoscaling_config.policy.is_default_policy_function()
