"""Attention over packed tokens of many sequences, behind transformers' public attention interface.

The model sees one row of T tokens without padding and without a cache of its own; this function writes the new keys and
values into the blocks of `KvBlocks` and lets every token attend to its own sequence only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F

from ramole.executor.block_pool import BLOCK
from ramole.executor.kv_blocks import KvBlocks

NAME = "ramole_packed"


@dataclass(frozen=True, slots=True)
class Scores:
    """How a layer makes weights of products of queries and keys.

    Attributes:
        scale: multiplies them.
        window: a token sees so many, itself included; None = all.
        softcap: they are bent to stay below it in absolute value; None = they are not.
    """

    scale: float
    window: int | None = None
    softcap: float | None = None


class DecodeForm(Protocol):
    """The leading tokens of a step, one of each sequence, in one of two ways to compute them."""

    @property
    def num_tokens(self) -> int:
        """n."""

    def attend(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, scores: Scores
    ) -> None:
        """Writes k and v into the blocks, and what the tokens see into `out`.

        Args:
            q: [n, H, D] of any strides, `k` and `v` [n, H_kv, D].
            out: [n, H, D], contiguous.
        """


@dataclass(slots=True)
class GatheredDecode:
    """Copies the blocks of all sequences side by side, as far as the longest: on any device, and the CPU's oracle.

    Attributes:
        tables: blocks of each sequence, filled up with `NULL`: [n, W].
        positions: of each token in its sequence, [n].
        places: where their keys and values go, among all tokens of all blocks: [n].
    """

    kv: KvBlocks
    tables: torch.Tensor
    positions: torch.Tensor
    places: torch.Tensor
    _masks: dict[int | None, torch.Tensor] = field(default_factory=dict)

    @property
    def num_tokens(self) -> int:
        """See `DecodeForm`."""
        return len(self.positions)

    def attend(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, scores: Scores
    ) -> None:
        """See `DecodeForm`."""
        keys, values = self.kv.keys[layer], self.kv.values[layer]
        n, num_heads, _ = q.shape
        keys.view(-1, *k.shape[1:])[self.places] = k
        values.view(-1, *v.shape[1:])[self.places] = v
        # Heads that share keys become the query axis: no copy of the keys for each head.
        grouped = q.reshape(n, k.shape[1], num_heads // k.shape[1], -1)
        own_keys, own_values = (each[self.tables].flatten(1, 2).transpose(1, 2) for each in (keys, values))
        out.copy_(attend(grouped, own_keys, own_values, self.mask(scores.window), scores).reshape(out.shape))

    def mask(self, window: int | None) -> torch.Tensor:
        """Which cached tokens each token sees, [n, 1, 1, W * BLOCK]; made once for all layers."""
        if window not in self._masks:
            j = torch.arange(self.tables.shape[1] * BLOCK, device=self.positions.device)
            self._masks[window] = visible(self.positions[:, None], j, window)[:, None, None]
        return self._masks[window]


@dataclass(slots=True)
class Segment:
    """A longer run of tokens of one sequence.

    Attributes:
        start, stop: which of the packed tokens.
        past: tokens of the sequence that are cached already.
        blocks: of the sequence, as far as these tokens reach.
        places: where their keys and values go, among all tokens of all blocks: [stop - start].
    """

    start: int
    stop: int
    past: int
    blocks: torch.Tensor
    places: torch.Tensor
    _masks: dict[int | None, torch.Tensor] = field(default_factory=dict)

    def attend(
        self, keys: torch.Tensor, values: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, how: Scores
    ) -> torch.Tensor:
        """Writes k and v into the blocks. Returns what the tokens see.

        Args:
            keys, values: of the layer, [blocks, BLOCK, H_kv, D].
            q: [1, H, n, D], `k` and `v` [1, H_kv, n, D] of these tokens.

        Returns:
            [1, H, n, D]
        """
        keys.flatten(0, 1).index_copy_(0, self.places, k[0].transpose(0, 1))
        values.flatten(0, 1).index_copy_(0, self.places, v[0].transpose(0, 1))
        end = self.past + self.stop - self.start
        if self.past:
            k, v = (
                each.index_select(0, self.blocks).flatten(0, 1)[:end].transpose(0, 1)[None] for each in (keys, values)
            )
        is_causal = not self.past and how.softcap is None and (how.window is None or end <= how.window)
        shares = q.shape[1] > k.shape[1]
        if shares and not (how.softcap is None and (is_causal or q.device.type == "cpu")):
            # On a GPU no fast kernel takes both a mask and keys that heads share.
            group = q.shape[1] // k.shape[1]
            k, v, shares = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1), False
        if is_causal:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=how.scale, enable_gqa=shares)
        return attend(q, k, v, self._mask(how.window, end, q.device), how, enable_gqa=shares)

    def _mask(self, window: int | None, end: int, device: torch.device) -> torch.Tensor:
        if window not in self._masks:
            i = torch.arange(self.past, end, device=device)[:, None]
            self._masks[window] = visible(i, torch.arange(end, device=device), window)
        return self._masks[window]


@dataclass(frozen=True, slots=True)
class PackedTokens:
    """Where the tokens of one step belong.

    Attributes:
        decode: the leading tokens, one of each sequence; None = there are none.
        segments: longer runs of tokens, in packed order.
    """

    kv: KvBlocks
    decode: DecodeForm | None = None
    segments: tuple[Segment, ...] = ()


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
    num_heads, num_tokens, head_dim = query.shape[1:]
    scores = Scores(head_dim**-0.5 if scaling is None else scaling, sliding_window or None, softcap)
    out = query.new_empty(num_tokens, num_heads, value.shape[-1])
    if tokens.decode is not None:
        n = tokens.decode.num_tokens
        q, k, v = (each[0, :, :n].transpose(0, 1) for each in (query, key, value))
        tokens.decode.attend(layer, q, k, v, out[:n], scores)
    if tokens.segments:
        keys, values = tokens.kv.keys[layer], tokens.kv.values[layer]
        for segment in tokens.segments:
            q, k, v = (each[:, :, segment.start : segment.stop] for each in (query, key, value))
            seen = segment.attend(keys, values, q, k, v, scores)
            out[segment.start : segment.stop] = seen[0].transpose(0, 1)
    return out.unsqueeze(0), None


def visible(i: torch.Tensor, j: torch.Tensor, window: int | None) -> torch.Tensor:
    """Whether tokens at positions i see those at positions j."""
    mask = j <= i
    return mask & (i - j < window) if window else mask


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor, how: Scores, *, enable_gqa: bool = False
) -> torch.Tensor:
    """What queries [..., H, n, D] see of keys and values [..., H, m, D]: [..., H, n, D].

    Args:
        enable_gqa: k and v have fewer heads; not with a softcap.
    """
    if how.softcap is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=how.scale, enable_gqa=enable_gqa)
    scores = torch.tanh((q @ k.transpose(-1, -2)).float() * how.scale / how.softcap) * how.softcap
    return torch.softmax(scores.masked_fill(~mask, float("-inf")), -1).to(v.dtype) @ v
