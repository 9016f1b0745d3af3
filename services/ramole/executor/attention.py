"""Attention over packed tokens of many sequences, behind transformers' public attention interface.

The model sees one row of T tokens without padding and without a cache of its own; this function writes the new keys and
values into `KvRows` and lets every token attend to its own sequence only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from ramole.executor.kv_rows import KvRows

NAME = "ramole_packed"


@dataclass(frozen=True, slots=True)
class PackedTokens:
    """Where the tokens of one step belong.

    Attributes:
        kv: the cache.
        rows: KV row of each leading decode token, [n].
        positions: position of each decode token in its sequence, [n].
        segments: (start, stop, row, past) of each longer run of tokens, in packed order; `past` tokens are cached.
    """

    kv: KvRows
    rows: torch.Tensor
    positions: torch.Tensor
    segments: tuple[tuple[int, int, int, int], ...]


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
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, _no_mask)
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
        longest = int(positions.max()) + 1
        j = torch.arange(longest, device=query.device)
        mask = _window(j <= positions[:, None], positions[:, None] - j, sliding_window)
        # Heads that share keys become the query axis: no copy of the keys for each head.
        q = query[0, :, :n].transpose(0, 1).reshape(n, num_kv_heads, group, head_dim)
        k, v = _rows(keys, rows)[:, :, :longest], _rows(values, rows)[:, :, :longest]
        out[:n] = _attend(q, k, v, mask[:, None, None], scale, softcap).reshape(n, num_heads, -1)
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


def _no_mask(*_: Any, **__: Any) -> None:
    # The step knows who may see whom; transformers' own mask would be [1, 1, T, T] over unrelated requests.
    return None


def _window(mask: torch.Tensor, distance: torch.Tensor, sliding_window: int | None) -> torch.Tensor:
    return mask & (distance < sliding_window) if sliding_window else mask


def _rows(cache: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    n = rows.shape[0]
    # The scheduler hands low rows out first, so in the common case this is a view of the first n rows.
    is_prefix = bool((rows == torch.arange(n, device=rows.device)).all())
    return cache[:n] if is_prefix else cache[rows]


def _attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor, scale: float, softcap: float | None
) -> torch.Tensor:
    if softcap is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    scores = torch.tanh((q @ k.transpose(-1, -2)).float() * scale / softcap) * softcap
    return torch.softmax(scores.masked_fill(~mask, float("-inf")), -1).to(v.dtype) @ v
