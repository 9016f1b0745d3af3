"""The reference page of the metrics, made from their declarations."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping

from ramole.observability.specs import LABELS, CounterSpec, GaugeSpec, HistogramSpec, Spec

MODULES: Mapping[str, str] = {
    "observability.metrics": "every service",
    "observability.stages": "gateway, executor",
    "gateway.metrics": "gateway",
    "embedding.metrics": "embedding",
    "retrieval.metrics": "retrieval",
    "executor.metrics": "executor",
    "observability.tiers": "executor, adapters",
    "adapters.metrics": "adapters",
}
"""Where metrics are declared, and which services have them."""

_KINDS: Mapping[type[Spec], str] = {CounterSpec: "counter", GaugeSpec: "gauge", HistogramSpec: "histogram"}


def specs() -> Iterator[tuple[Spec, str]]:
    """Every metric with the services that have it, in the order of the declarations."""
    seen = set()
    for module, services in MODULES.items():
        for value in vars(importlib.import_module(f"ramole.{module}")).values():
            if isinstance(value, Spec) and id(value) not in seen:  # one that two services share is imported by both
                seen.add(id(value))
                yield value, services


def exported(spec: Spec) -> tuple[str, ...]:
    """The names of its series."""
    if isinstance(spec, HistogramSpec):
        return tuple(f"{spec.name}_{suffix}" for suffix in ("bucket", "sum", "count"))
    return (f"{spec.name}_total",) if isinstance(spec, CounterSpec) else (spec.name,)


def metrics_page() -> str:
    """All metrics and all labels."""
    lines = [
        "# Metrics",
        "",
        "Made from the declarations. The same names and types on Ray and without it. A histogram has the series "
        "`_bucket`, `_sum` and `_count`. Seconds and bytes, always.",
        "",
        "| series | type | labels | of | meaning |",
        "|---|---|---|---|---|",
    ]
    for spec, services in specs():
        name = spec.name if isinstance(spec, HistogramSpec) else exported(spec)[0]
        labels = ", ".join(f"`{label}`" for label in spec.labels)
        lines.append(f"| `{name}` | {_KINDS[type(spec)]} | {labels} | {services} | {spec.text} |")
    lines += [
        "",
        "## Labels",
        "",
        "Every series has `service` and `replica`. No label takes what a client makes up: each has few values.",
        "",
        "| label | values |",
        "|---|---|",
    ]
    for name, label in LABELS.items():
        lines.append(f"| `{name}` | {', '.join(f'`{value}`' for value in sorted(label.values)) or label.bound} |")
    return "\n".join([*lines, ""])
