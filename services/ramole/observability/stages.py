"""Where the time of an answer goes: the one metric that gateway and executor share."""

from __future__ import annotations

from ramole.observability.specs import HistogramSpec

STAGE_S = HistogramSpec(
    "ramole_stage_duration_seconds",
    "Seconds that an answer spends in each stage: embed and search of those that are retrieved, the pick of an "
    "executor, its queue (loads of adapters included), prefill to the first token, decode of the others.",
    ("stage",),
)
