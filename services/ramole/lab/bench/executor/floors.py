"""What no implementation can beat: the arithmetic and the memory traffic of W x and of a LoRA of rank k r on top."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypedDict


class Floor(TypedDict):
    """Sums over the modules of one step, float32.

    `floor_ratio` is the smaller of the two ratios: the least that W x + LoRA can cost over W x, whichever of arithmetic
    and memory is the bottleneck.
    """

    base_flops: int
    lora_flops: int
    base_bytes: int
    lora_bytes: int
    flops_ratio: float
    bytes_ratio: float
    floor_ratio: float


def floor_of(
    widths: Iterable[tuple[int, int]],
    *,
    lora_widths: Iterable[tuple[int, int]],
    num_tokens: int,
    num_adapters: int,
    k: int,
    rank: int,
) -> Floor:
    """The floor of one step.

    Args:
        widths: (d, o) of every Linear of the base.
        lora_widths: (d, o) of those that the adapters touch.
        num_tokens, num_adapters: T and p. Each W and each of the p adapters is read once.
    """
    sizes = list(widths)
    rows = sum(d + o for d, o in lora_widths)
    base_flops = 2 * num_tokens * sum(d * o for d, o in sizes)
    lora_flops = 2 * num_tokens * k * rank * rows
    base_bytes = 4 * sum(d * o for d, o in sizes)
    lora_bytes = 4 * num_adapters * rank * rows
    flops_ratio, bytes_ratio = 1 + lora_flops / base_flops, 1 + lora_bytes / base_bytes
    return Floor(
        base_flops=base_flops,
        lora_flops=lora_flops,
        base_bytes=base_bytes,
        lora_bytes=lora_bytes,
        flops_ratio=flops_ratio,
        bytes_ratio=bytes_ratio,
        floor_ratio=min(flops_ratio, bytes_ratio),
    )
