"""What one engine can run at all: a sequence that breaks one of these rules is refused before it is queued."""

from __future__ import annotations

from collections.abc import Sequence as Ordered

from ramole.core.composition import Composition, Expert
from ramole.core.errors import InvalidInput, LimitExceeded, WrongState
from ramole.executor.block_pool import BLOCK
from ramole.executor.sequence import Sequence


def fit_length(sequence: Sequence, *, max_len: int, num_blocks: int) -> None:
    """Gives a sequence without `max_tokens` as many as fit.

    Raises:
        InvalidInput: it is empty or could not end, even with all memory for itself.
    """
    length, longest = len(sequence.prompt), min(max_len, BLOCK * num_blocks)
    setting = "executor.max_len" if longest == max_len else "executor.kv_blocks"
    if not length:
        raise InvalidInput("the prompt has no tokens", field="prompt", remedy="send some text")
    if length >= longest:
        raise InvalidInput(
            f"{length} prompt tokens leave no room for an answer in {longest}",
            field="prompt",
            remedy=f"shorten it to at most {longest - 1} tokens or raise {setting}",
        )
    sequence.max_tokens = sequence.max_tokens or longest - length
    if length + sequence.max_tokens > longest:
        raise InvalidInput(
            f"{length} prompt tokens + {sequence.max_tokens} new ones exceed {longest}",
            field="sampling.max_tokens",
            remedy=f"ask for at most {longest - length}, give no number (as many as fit) or raise {setting}",
        )


def check_experts(experts: Ordered[Expert], composition: Composition, *, num_slots: int, has_router: bool) -> None:
    """`num_slots` counts the empty one.

    Raises:
        LimitExceeded: they need more slots than there are.
        WrongState: a routed composition without a RouterLoRA.
    """
    num_adapters = len({expert.digest for expert in experts})
    if num_adapters > num_slots - 1:
        raise LimitExceeded(f"{num_adapters} adapters asked for", field="adapters", remedy="raise executor.num_slots")
    if composition.weighting.is_routed and experts and not has_router:
        raise WrongState(
            "this server has no RouterLoRA",
            field="composition.weighting",
            remedy="use another weighting, or set executor.router",
        )
