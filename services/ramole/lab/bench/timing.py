"""Interleaved timing. A busy machine slows everyone down alike, so only ratios within one round are compared."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median

import torch

Times = dict[str, list[float]]


def synchronize(device: torch.device) -> None:
    """Waits for a GPU to finish what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def clock(device: torch.device) -> float:
    """Seconds, after everything queued on `device` has run."""
    synchronize(device)
    return time.perf_counter()


def interleave(
    contestants: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    device: torch.device,
    repeats: int = 1,
    before: Callable[[], object] | None = None,
) -> Times:
    """Times every contestant once a round, starting with another one each round; one more round comes first, uncounted.

    Args:
        repeats: calls whose times are added up.
        before: runs, untimed, before each call: leaves the caches as the real neighbour would.

    Returns:
        Seconds per round, all repeats together.
    """
    times: Times = {name: [] for name in contestants}
    names = list(contestants)
    for i in range(rounds + 1):
        turn = i % len(names)
        for name in names[turn:] + names[:turn]:
            seconds = 0.0
            for _ in range(repeats):
                if before is not None:
                    before()
                start_s = clock(device)
                contestants[name]()
                seconds += clock(device) - start_s
            if i:
                times[name].append(seconds)
    return times


def ratio(times: Mapping[str, Sequence[float]], slow: str, fast: str) -> float:
    """How many times faster `fast` is: the median over the rounds of the ratio within the round."""
    return median(s / f for s, f in zip(times[slow], times[fast], strict=True))
