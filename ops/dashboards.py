"""The dashboards of Grafana, described once and written as JSON.

python ops/dashboards.py      # writes ops/grafana/*.json
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "grafana"

_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_RATE = "$__rate_interval"
_WIDTH, _HEIGHT, _PER_ROW = 8, 8, 3


@dataclass(frozen=True)
class Panel:
    """One picture: expressions with their legends."""

    title: str
    unit: str
    lines: tuple[tuple[str, str], ...]
    kind: str = "timeseries"
    text: str = ""


@dataclass(frozen=True)
class Dashboard:
    """One page of them."""

    uid: str
    title: str
    panels: tuple[Panel, ...]


def _rate(metric: str, by: str = "", where: str = "") -> str:
    return f"sum by ({by}) (rate({_of(metric, where)}[{_RATE}]))" if by else f"sum(rate({_of(metric, where)}[{_RATE}]))"


def _of(metric: str, where: str = "") -> str:
    return f'{metric}{{job=~"$job"{", " + where if where else ""}}}'


def _quantiles(metric: str, where: str = "") -> tuple[tuple[str, str], ...]:
    return tuple(
        (f"histogram_quantile({share}, {_rate(f'{metric}_bucket', 'le', where)})", f"p{share * 100:g}")
        for share in (0.5, 0.9, 0.99)
    )


def _mean(metric: str) -> tuple[str, str]:
    return f"{_rate(f'{metric}_sum')} / {_rate(f'{metric}_count')}", "mean"


def _share(metric: str, where: str, by: str = "") -> str:
    return f"{_rate(metric, by, where)} / {_rate(metric, by)}"


_BAD = 'code=~"UNKNOWN|DEADLINE_EXCEEDED|INTERNAL|UNAVAILABLE|DATA_LOSS"'

_OVERVIEW = Dashboard(
    "ramole-overview",
    "ramole: overview",
    (
        Panel("Answers", "reqps", ((_rate("ramole_answers_total", "code"), "{{code}}"),)),
        Panel(
            "Share of answers that fail",
            "percentunit",
            ((_share("ramole_answers_total", _BAD), "failed"),),
            text="What callers do wrong, break off, or are refused for their limits is not counted.",
        ),
        Panel("Time to first token", "s", _quantiles("ramole_time_to_first_token_seconds")),
        Panel("Whole answers", "s", _quantiles("ramole_answer_duration_seconds")),
        Panel(
            "Where the time goes",
            "s",
            (
                (
                    f"{_rate('ramole_stage_duration_seconds_sum', 'stage')}"
                    f" / {_rate('ramole_stage_duration_seconds_count', 'stage')}",
                    "{{stage}}",
                ),
            ),
            text="Mean seconds of an answer in each stage.",
        ),
        Panel("Tokens", "short", ((_rate("ramole_tokens_total", "kind"), "{{kind}} per second"),)),
        Panel(
            "Replicas",
            "short",
            ((f"count by (service, version) ({_of('ramole_build_info')})", "{{service}} {{version}}"),),
        ),
        Panel("Calls by service", "reqps", ((_rate("ramole_requests_total", "service"), "{{service}}"),)),
        Panel("Calls in flight", "short", ((f"sum by (service) ({_of('ramole_requests_in_flight')})", "{{service}}"),)),
        Panel(
            "Slowest calls, p99",
            "s",
            (
                (
                    "topk(10, histogram_quantile(0.99, "
                    f"{_rate('ramole_request_duration_seconds_bucket', 'le, method')}))",
                    "{{method}}",
                ),
            ),
        ),
        Panel(
            "Error budget burnt, times what is promised",
            "short",
            (
                ('job:ramole_answer_errors:ratio_rate1h{job=~"$job"} / 0.001', "answers, 1 h"),
                ('job:ramole_first_tokens_late:ratio_rate1h{job=~"$job"} / 0.01', "first tokens, 1 h"),
            ),
            text="1 is as fast as the month allows; an alert pages at 14.4.",
        ),
        Panel(
            "Alerts",
            "short",
            (('sum by (alertname) (ALERTS{alertname=~"Ramole.*", alertstate="firing"})', "{{alertname}}"),),
        ),
    ),
)

_ENGINE = Dashboard(
    "ramole-engine",
    "ramole: engine",
    (
        Panel("Between two tokens", "s", _quantiles("ramole_inter_token_latency_seconds")),
        Panel("One step", "s", _quantiles("ramole_step_duration_seconds")),
        Panel(
            "Steps",
            "short",
            ((_rate("ramole_step_duration_seconds_count", "instance, replica"), "{{instance}} {{replica}}"),),
        ),
        Panel("Requests in a step", "short", (*_quantiles("ramole_batch_size"), _mean("ramole_batch_size"))),
        Panel("Tokens computed", "short", ((_rate("ramole_step_tokens_total", "kind"), "{{kind}} per second"),)),
        Panel(
            "Requests",
            "short",
            (
                (f"sum({_of('ramole_requests_running')})", "running"),
                (f"sum({_of('ramole_queue_length')})", "waiting"),
                (f"sum({_of('ramole_kv_rows')})", "rows"),
            ),
        ),
        Panel("Time in the queue", "s", _quantiles("ramole_stage_duration_seconds", 'stage="queue"')),
        Panel("Prefill", "s", _quantiles("ramole_stage_duration_seconds", 'stage="prefill"')),
        Panel("Decode", "s", _quantiles("ramole_stage_duration_seconds", 'stage="decode"')),
        Panel(
            "KV memory in use",
            "percentunit",
            ((f"max by (instance, replica) ({_of('ramole_kv_usage_ratio')})", "{{instance}} {{replica}}"),),
        ),
        Panel(
            "KV memory taken from the youngest",
            "short",
            ((_rate("ramole_preemptions_total", "instance, replica"), "{{instance}} {{replica}} per second"),),
        ),
        Panel(
            "Prompt tokens reused",
            "percentunit",
            (
                (
                    _rate("ramole_prefix_tokens_total", "instance, replica", 'kind="reused"')
                    + " / "
                    + _rate("ramole_prefix_tokens_total", "instance, replica", 'kind="asked"'),
                    "{{instance}} {{replica}}",
                ),
            ),
        ),
        Panel(
            "Queue in use",
            "percentunit",
            (
                (
                    f"sum by (instance, replica) ({_of('ramole_queue_length')})"
                    f" / sum by (instance, replica) ({_of('ramole_queue_limit')})",
                    "{{instance}} {{replica}}",
                ),
            ),
        ),
        Panel("Pick of an executor", "s", _quantiles("ramole_stage_duration_seconds", 'stage="pick"')),
    ),
)

_ADAPTERS = Dashboard(
    "ramole-adapters",
    "ramole: adapters",
    (
        Panel(
            "Slots",
            "short",
            (
                (f"sum({_of('ramole_slots')})", "there are"),
                (f"sum({_of('ramole_slots_used')})", "with an adapter"),
                (f"sum({_of('ramole_slots_pinned')})", "used by running requests"),
            ),
        ),
        Panel(
            "Found in a tier",
            "percentunit",
            (
                (
                    _share("ramole_tier_requests_total", 'result="hit"', "tier"),
                    "{{tier}}",
                ),
            ),
        ),
        Panel("Evictions", "short", ((_rate("ramole_tier_evictions_total", "tier"), "{{tier}} per second"),)),
        Panel("Loads", "short", ((_rate("ramole_tier_load_duration_seconds_count", "tier"), "{{tier}} per second"),)),
        Panel(
            "Load, p99",
            "s",
            (
                (
                    f"histogram_quantile(0.99, {_rate('ramole_tier_load_duration_seconds_bucket', 'le, tier')})",
                    "{{tier}}",
                ),
            ),
        ),
        Panel(
            "Failures",
            "short",
            (
                (
                    f"sum by (service, tier) (increase({_of('ramole_tier_failures_total')}[{_RATE}]))",
                    "{{service}} {{tier}}",
                ),
            ),
        ),
        Panel("Adapters in a tier", "short", ((f"sum by (tier) ({_of('ramole_tier_entries')})", "{{tier}}"),)),
        Panel("Bytes in a tier", "bytes", ((f"sum by (tier) ({_of('ramole_tier_bytes')})", "{{tier}}"),)),
        Panel(
            "Unique adapters of a step",
            "short",
            (*_quantiles("ramole_batch_unique_adapters"), _mean("ramole_batch_unique_adapters")),
        ),
        Panel(
            "Density of the mask",
            "percentunit",
            (_mean("ramole_batch_mask_density"),),
            text="1: all requests of a step use the same adapters; 1/b: each has its own.",
        ),
        Panel(
            "Entropy of the gate",
            "percentunit",
            (*_quantiles("ramole_gate_entropy_ratio"), _mean("ramole_gate_entropy_ratio")),
            text="How evenly an answer's experts share the weight: 0, one has all; 1, all have the same.",
        ),
        Panel(
            "Uploads",
            "short",
            (
                (f"sum(increase({_of('ramole_uploads_total')}[{_RATE}]))", "acknowledged"),
                (f"sum by (reason) (increase({_of('ramole_upload_failures_total')}[{_RATE}]))", "{{reason}}"),
            ),
        ),
        Panel(
            "Repository",
            "short",
            (
                (f"max({_of('ramole_store_versions')})", "versions"),
                (f"max({_of('ramole_store_findable')})", "to be found"),
                (f"max({_of('ramole_index_rows')})", "in the index"),
            ),
        ),
    ),
)

_RETRIEVAL = Dashboard(
    "ramole-retrieval",
    "ramole: retrieval",
    (
        Panel("Embedding of a prompt", "s", _quantiles("ramole_stage_duration_seconds", 'stage="embed"')),
        Panel("Search", "s", _quantiles("ramole_stage_duration_seconds", 'stage="search"')),
        Panel("Searches", "reqps", ((_rate("ramole_searches_total", "result"), "{{result}}"),)),
        Panel("Similarity of the nearest", "percentunit", _quantiles("ramole_retrieval_similarity")),
        Panel(
            "Doubt",
            "percentunit",
            (*_quantiles("ramole_retrieval_doubt"), _mean("ramole_retrieval_doubt")),
            text="How likely it is that no adapter was made for the prompt.",
        ),
        Panel("Answers that do without", "reqps", ((_rate("ramole_fallbacks_total", "reason"), "{{reason}}"),)),
        Panel(
            "Texts in a call of the encoder",
            "short",
            (*_quantiles("ramole_encode_texts"), _mean("ramole_encode_texts")),
        ),
        Panel("One call of the encoder", "s", _quantiles("ramole_encode_duration_seconds")),
        Panel("Index open", "short", ((f"max by (instance) ({_of('ramole_index_up')})", "{{instance}}"),), kind="stat"),
        Panel(
            "Index less store",
            "short",
            ((f"max({_of('ramole_index_rows')}) - max({_of('ramole_store_findable')})", "adapters"),),
            kind="stat",
        ),
        Panel("Out of line since", "s", ((f"max({_of('ramole_reconcile_lag_seconds')})", "lag"),), kind="stat"),
        Panel(
            "Upkeep",
            "short",
            (
                (f"sum by (result) (increase({_of('ramole_reconciles_total')}[{_RATE}]))", "runs: {{result}}"),
                (f"sum by (kind) (increase({_of('ramole_reconcile_repairs_total')}[{_RATE}]))", "{{kind}}"),
            ),
        ),
    ),
)

_TENANTS = Dashboard(
    "ramole-tenants",
    "ramole: tenants",
    (
        Panel(
            "Answers",
            "reqps",
            ((_rate("ramole_answers_total", "tenant"), "{{tenant}}"),),
            text="Tenants that a setting names (limits, weights, quotas); all others are `other`.",
        ),
        Panel(
            "Share that is refused for limits",
            "percentunit",
            (
                (
                    _share("ramole_answers_total", 'code="RESOURCE_EXHAUSTED"', "tenant"),
                    "{{tenant}}",
                ),
            ),
        ),
        Panel(
            "Share that fails",
            "percentunit",
            (
                (
                    _share("ramole_answers_total", _BAD, "tenant"),
                    "{{tenant}}",
                ),
            ),
        ),
        Panel(
            "Tokens of prompts",
            "short",
            ((_rate("ramole_tokens_total", "tenant", 'kind="prompt"'), "{{tenant}} per second"),),
        ),
        Panel(
            "Tokens of answers",
            "short",
            ((_rate("ramole_tokens_total", "tenant", 'kind="completion"'), "{{tenant}} per second"),),
        ),
        Panel("Waiting for the engine", "short", ((f"sum by (tenant) ({_of('ramole_queue_length')})", "{{tenant}}"),)),
    ),
)

DASHBOARDS = (_OVERVIEW, _ENGINE, _ADAPTERS, _RETRIEVAL, _TENANTS)


def as_json(dashboard: Dashboard) -> str:
    """What Grafana imports."""
    data = {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": ["ramole"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
                {
                    "name": "job",
                    "label": "Job",
                    "type": "query",
                    "datasource": _SOURCE,
                    "query": "label_values(ramole_build_info, job)",
                    "refresh": 2,
                    "includeAll": True,
                    "allValue": ".*",
                    "current": {"text": "All", "value": "$__all"},
                },
            ]
        },
        "links": [
            {"title": "ramole", "type": "dashboards", "tags": ["ramole"], "asDropdown": True, "keepTime": True},
        ],
        "panels": [_panel(number, panel) for number, panel in enumerate(dashboard.panels)],
    }
    return json.dumps(data, indent=1) + "\n"


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    return {
        "id": number + 1,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": _SOURCE,
        "gridPos": {
            "x": number % _PER_ROW * _WIDTH,
            "y": number // _PER_ROW * _HEIGHT,
            "w": _WIDTH,
            "h": _HEIGHT,
        },
        "fieldConfig": {
            "defaults": {"unit": panel.unit},
            "overrides": [],
        },
        "targets": [
            {"refId": chr(ord("A") + place), "expr": expression, "legendFormat": legend}
            for place, (expression, legend) in enumerate(panel.lines)
        ],
    }


def main() -> None:
    """Writes all of them."""
    FOLDER.mkdir(exist_ok=True)
    for dashboard in DASHBOARDS:
        (FOLDER / f"{dashboard.uid.removeprefix('ramole-')}.json").write_text(as_json(dashboard))


if __name__ == "__main__":
    main()
