"""Feeds what Ray Serve knows of a deployment to the scaling policy. Runs in Serve's controller; imports no ray.

Serve has delays and factors of its own, which are set so that they change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from statistics import fmean
from typing import Any, Protocol

from ramole.app.scaling import Fleet, Record, ScalingPolicy, call_load, executor_load
from ramole.core.settings import CallScalingSettings, ScalingSettings

_RECORD_S = 1.0
"""Between two records of a replica."""
_MEAN_S = 4.0
"""The mean over this time is its load: a moment says little."""
_HISTORY = "history"


class _Point(Protocol):
    value: float


class Context(Protocol):
    """What of Serve's AutoscalingContext is used."""

    current_time: float
    target_num_replicas: int
    current_num_replicas: int
    total_queued_requests: float
    raw_metrics: Mapping[str, Mapping[Any, Sequence[_Point]]]
    policy_state: Mapping[str, Any]


class ServeScaling:
    """Built by Serve's controller, called several times a second.

    Args:
        policy: fields of the `ScalingPolicy`.
        calls: in flight that one replica can do; None = it is an executor, which records what it can do.
    """

    def __init__(self, policy: dict[str, Any], calls: int | None) -> None:
        self._policy = ScalingPolicy(**policy)
        self._load = executor_load if calls is None else partial(call_load, calls=calls)

    def __call__(self, context: Context) -> tuple[int, dict[str, Any]]:
        """How many replicas there should be, and what Serve hands in again next time."""
        fleet = Fleet(
            target=context.target_num_replicas,
            ready=context.current_num_replicas,
            loads=[self._load(record) for record in _records(context.raw_metrics)],
            waiting=context.total_queued_requests,
        )
        number, history = self._policy.decide(context.policy_state.get(_HISTORY), context.current_time, fleet)
        return number, {_HISTORY: history}


def _records(metrics: Mapping[str, Mapping[Any, Sequence[_Point]]]) -> list[Record]:
    """The mean record of each replica that has sent any."""
    records: dict[Any, dict[str, float]] = {}
    for name, by_replica in metrics.items():
        for replica, points in by_replica.items():
            if points:
                records.setdefault(replica, {})[name] = fmean(point.value for point in points)
    return [record for record in records.values() if "inflight" in record]


def autoscaling_config(settings: ScalingSettings) -> dict[str, Any]:
    """The option ``autoscaling_config`` of a deployment."""
    return {
        "min_replicas": settings.min,
        # Also with none at least: a start that would fail shall fail now, not under the first prompt.
        "initial_replicas": max(1, settings.min),
        "max_replicas": settings.max,
        "metrics_interval_s": _RECORD_S,
        "look_back_period_s": _MEAN_S,
        "upscale_delay_s": 0.0,
        "downscale_delay_s": 0.0,
        "policy": {
            "policy_function": f"{ServeScaling.__module__}:{ServeScaling.__qualname__}",
            "policy_kwargs": {
                "policy": asdict(ScalingPolicy.of(settings)),
                "calls": settings.calls if isinstance(settings, CallScalingSettings) else None,
            },
        },
    }
