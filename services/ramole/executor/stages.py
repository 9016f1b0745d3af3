"""What the engine has recorded of a request, as spans of its trace: written when it is over, outside the engine."""

from __future__ import annotations

from ramole.core.trace import Trace
from ramole.executor.sequence import Sequence
from ramole.observability.tiers import Tier

LOAD = "load adapter"


def note_stages(trace: Trace, sequence: Sequence, now_s: float) -> None:
    """Queue, writes into slots, prefill and decode, as far as the request came.

    Args:
        now_s: when it ended, whatever ended it; all times are those of `time.monotonic`.
    """
    started_s, first_s = sequence.admitted_s, sequence.first_token_s
    queued_until_s = now_s if started_s is None else started_s
    trace.note("queue", sequence.arrived_s, queued_until_s, {"overtaken": sequence.skipped})
    for digest, since_s, until_s in sequence.placed:
        trace.note(LOAD, since_s, until_s, {"tier": Tier.DEVICE.value, "digest": digest})
    if started_s is None:
        return
    prefilled_s = now_s if first_s is None else first_s
    trace.note("prefill", started_s, prefilled_s, {"prompt_tokens": len(sequence.prompt)})
    if first_s is not None:
        attributes = {
            "completion_tokens": len(sequence.tokens),
            "preempted": sequence.num_preempted,
            "max_batch": sequence.max_batch,
            "max_unique_adapters": sequence.max_unique_adapters,
        }
        trace.note("decode", first_s, sequence.last_token_s or first_s, attributes)
