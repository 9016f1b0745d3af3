"""Attention over packed tokens of many sequences, behind transformers' public attention interface.

The model sees one row of T tokens without padding and without a cache of its own; this function writes the new keys and
values into `KvRows` and lets every token attend to its own sequence only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

from ramole.executor.kv_rows import KvRows

NAME = "ramole_packed"


@dataclass(slots=True)
class PackedTokens:
    """Where the tokens of one step belong.

    Attributes:
        kv: the cache.
        rows: KV row of each leading decode token, [n].
        positions: position of each decode token in its sequence, [n].
        segments: (start, stop, row, past) of each longer run of tokens, in packed order; `past` tokens are cached.
        longest: at least the largest of `positions` plus 1; known on the host, so that no layer waits for the device.
        is_prefix: whether `rows` is 0, 1, ..., n - 1: the cache is then read in place.
    """

    kv: KvRows
    rows: torch.Tensor
    positions: torch.Tensor
    segments: tuple[tuple[int, int, int, int], ...]
    longest: int
    is_prefix: bool
    _masks: dict[int | None, torch.Tensor] = field(default_factory=dict)

    def decode_mask(self, sliding_window: int | None) -> torch.Tensor:
        """Which of `longest` cached tokens each decode token sees, [n, 1, 1, longest]; made once for all layers."""
        if sliding_window not in self._masks:
            j = torch.arange(self.longest, device=self.positions.device)
            i = self.positions[:, None]
            self._masks[sliding_window] = _window(j <= i, i - j, sliding_window)[:, None, None]
        return self._masks[sliding_window]


# Attention functions are registered by name for the whole process; the step travels in a context variable so that
# several engines in one process (and in several threads) stay apart.
_PACKED: ContextVar[PackedTokens] = ContextVar("packed_tokens")


@contextmanager
def packed(tokens: PackedTokens) -> Iterator[None]:
    """Makes `tokens` the step that the attention layers compute."""
    token = _PACKED.set(tokens)
    try:
        yield
    finally:
        _PACKED.reset(token)


def install() -> str:
    """Registers the attention function with transformers (idempotent) and returns its name."""
    from transformers import AttentionInterface

    # No mask function is registered with it: transformers then makes no mask, which would be [1, 1, T, T] over
    # unrelated requests. The step knows who may see whom.
    AttentionInterface.register(NAME, packed_attention)
    return NAME


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention signature: query [1, H, T, D], key and value [1, H_kv, T, D] -> [1, T, H, D]."""
    tokens = _PACKED.get()
    layer = int(getattr(module, "layer_idx", 0) or 0)
    keys, values = tokens.kv.keys[layer], tokens.kv.values[layer]
    num_heads, num_tokens, head_dim = query.shape[1:]
    num_kv_heads = key.shape[1]
    group = num_heads // num_kv_heads
    scale = head_dim**-0.5 if scaling is None else scaling
    out = query.new_empty(num_tokens, num_heads, value.shape[-1])
    n = tokens.rows.shape[0]
    if n:
        rows, positions = tokens.rows, tokens.positions
        keys[rows, :, positions] = key[0, :, :n].transpose(0, 1)
        values[rows, :, positions] = value[0, :, :n].transpose(0, 1)
        # Heads that share keys become the query axis: no copy of the keys for each head.
        q = query[0, :, :n].transpose(0, 1).reshape(n, num_kv_heads, group, head_dim)
        k, v = (keys[:n], values[:n]) if tokens.is_prefix else (keys[rows], values[rows])
        k, v = k[:, :, : tokens.longest], v[:, :, : tokens.longest]
        mask = tokens.decode_mask(sliding_window)
        out[:n] = _attend(q, k, v, mask, scale, softcap).reshape(n, num_heads, -1)
    for start, stop, row, past in tokens.segments:
        end = past + stop - start
        keys[row, :, past:end] = key[0, :, start:stop]
        values[row, :, past:end] = value[0, :, start:stop]
        i = torch.arange(past, end, device=query.device)[:, None]
        j = torch.arange(end, device=query.device)[None]
        mask = _window(j <= i, i - j, sliding_window)
        k = keys[row : row + 1, :, :end].repeat_interleave(group, 1)
        v = values[row : row + 1, :, :end].repeat_interleave(group, 1)
        attended = _attend(query[:, :, start:stop], k, v, mask, scale, softcap)
        out[start:stop] = attended[0].transpose(0, 1)
    return out.unsqueeze(0), None


def _window(mask: torch.Tensor, distance: torch.Tensor, sliding_window: int | None) -> torch.Tensor:
    return mask & (distance < sliding_window) if sliding_window else mask


def _attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor, scale: float, softcap: float | None
) -> torch.Tensor:
    if softcap is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    scores = torch.tanh((q @ k.transpose(-1, -2)).float() * scale / softcap) * softcap
    return torch.softmax(scores.masked_fill(~mask, float("-inf")), -1).to(v.dtype) @ v
