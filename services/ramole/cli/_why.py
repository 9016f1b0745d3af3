"""What an answer was made of, for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ramole.cli._output import add_row, say, show_table, table_of

if TYPE_CHECKING:
    from ramole.client import AdapterUsage, Routing, Usage

_BARS = "▁▂▃▄▅▆▇█"


def show_why(routings: Sequence[Routing], usage: Usage, pieces: Sequence[str]) -> None:
    """Adapters with their weights, the doubt, what is missing, and where the time went, on stdout.

    Args:
        routings, pieces: of each part of the answer, its routing and its text.
    """
    if len(usage.parts) > 1:
        for number, (routing, part, text) in enumerate(zip(routings, usage.parts, pieces, strict=True), start=1):
            say(f"part {number}: {text!r}")
            _show_used(routing, part.adapters)
    else:
        _show_used(routings[0], usage.adapters)
    for left in routings[-1].left_out:
        say(f"without {left.ref}: {left.reason}")
    if routings[0].doubt is not None:
        say(f"doubt that any adapter was made for it: {routings[0].doubt:.2f}")
    found_s = sum(routing.embed_s + routing.search_s for routing in routings)
    say(
        f"{usage.prompt_tokens} tokens in, {usage.completion_tokens} out ({usage.finish_reason.value}); found in "
        f"{found_s:.3f} s, queued {usage.queue_s:.3f} s, first token after "
        f"{usage.first_token_s:.3f} s, all after {usage.total_s:.3f} s; in a batch of up to {usage.max_batch} requests "
        f"and {usage.max_unique_adapters} adapters"
    )


def _show_used(routing: Routing, adapters: Sequence[AdapterUsage]) -> None:
    if adapters:
        table = table_of("adapter", "similarity", "weight", "by layer")
        for a in adapters:
            add_row(table, str(a.ref), f"{a.similarity:.2f}", f"{a.mean_weight:.2f}", layer_bar(a.layer_weights))
        show_table(table)
    else:
        say("the base model alone" + (", since retrieval was down" if routing.has_fallen_back else ""))


def layer_bar(weights: Sequence[float]) -> str:
    """One block for each layer, as high as the adapter's weight there: a full one is 1 or more, of either sign."""
    return "".join(_BARS[min(int(abs(weight) * len(_BARS)), len(_BARS) - 1)] for weight in weights)
