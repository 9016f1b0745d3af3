"""What an answer was made of, for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ramole.cli._output import add_row, say, show_table, table_of

if TYPE_CHECKING:
    from ramole.client import Routing, Usage

_BARS = "▁▂▃▄▅▆▇█"


def show_why(routing: Routing, usage: Usage) -> None:
    """Adapters with their weights, the doubt, what is missing, and where the time went, on stdout."""
    if usage.adapters:
        table = table_of("adapter", "similarity", "weight", "by layer")
        for a in usage.adapters:
            add_row(table, str(a.ref), f"{a.similarity:.2f}", f"{a.mean_weight:.2f}", layer_bar(a.layer_weights))
        show_table(table)
    else:
        say("the base model alone" + (", since retrieval was down" if routing.has_fallen_back else ""))
    for left in routing.left_out:
        say(f"without {left.ref}: {left.reason}")
    if routing.doubt is not None:
        say(f"doubt that any adapter was made for it: {routing.doubt:.2f}")
    say(
        f"{usage.prompt_tokens} tokens in, {usage.completion_tokens} out ({usage.finish_reason.value}); found in "
        f"{routing.embed_s + routing.search_s:.3f} s, queued {usage.queue_s:.3f} s, first token after "
        f"{usage.first_token_s:.3f} s, all after {usage.total_s:.3f} s; in a batch of up to {usage.max_batch} requests "
        f"and {usage.max_unique_adapters} adapters"
    )


def layer_bar(weights: Sequence[float]) -> str:
    """One block for each layer, as high as the adapter's weight there: a full one is 1 or more, of either sign."""
    return "".join(_BARS[min(int(abs(weight) * len(_BARS)), len(_BARS) - 1)] for weight in weights)
