"""Attention over blocks against plain attention over each sequence alone, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ramole.executor import native_attention
from ramole.executor.attention import DecodeForm, GatheredDecode, Scores, Segment
from ramole.executor.block_pool import BLOCK, blocks_for
from ramole.executor.block_tables import BlockTables, places_of
from ramole.executor.kv_blocks import KvBlocks
from ramole.executor.native_attention import load_kernel, native_decode
from ramole.executor.sequence import Sequence

CPU = torch.device("cpu")
NUM_BLOCKS = 80


def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, position: int, how: Scores) -> torch.Tensor:
    """What one token [H, D] sees of its own sequence [L, H_kv, D]."""
    group = q.shape[0] // k.shape[1]
    k, v = (each.double().repeat_interleave(group, 1) for each in (k, v))
    scores = torch.einsum("hd,lhd->hl", q.double(), k) * how.scale
    if how.softcap is not None:
        scores = how.softcap * torch.tanh(scores / how.softcap)
    j = torch.arange(k.shape[0])
    scores[:, (j > position) | (position - j >= (how.window or 10**9))] = -torch.inf
    return torch.einsum("hl,lhd->hd", torch.softmax(scores, -1), v)


class Cache:
    """Sequences of random keys and values, scattered over blocks."""

    def __init__(self, seed: int, lengths: list[int], num_heads: int, num_kv_heads: int, head_dim: int) -> None:
        g = torch.Generator().manual_seed(seed)
        self.g, self.sizes = g, (num_heads, num_kv_heads, head_dim)
        self.kv = KvBlocks(
            num_layers=1,
            num_blocks=NUM_BLOCKS,
            num_heads=num_kv_heads,
            max_len=10**3,
            head_dim=head_dim,
            dtype=torch.float32,
            device=CPU,
        )
        free = (2 + torch.randperm(NUM_BLOCKS, generator=g)).tolist()
        self.sequences: list[Sequence] = []
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []
        for i, length in enumerate(lengths):
            sequence = Sequence(str(i), [1] * (length + 1), 1)
            sequence.blocks = [free.pop() for _ in range(blocks_for(length + BLOCK))]
            places = torch.from_numpy(places_of(sequence, length))
            sequence.num_cached = length
            self.sequences.append(sequence)
            for held, cached in ((self.keys, self.kv.keys), (self.values, self.kv.values)):
                held.append(self.random(length, num_kv_heads))
                cached[0].flatten(0, 1)[places] = held[-1]

    def random(self, count: int, heads: int) -> torch.Tensor:
        return torch.randn(count, heads, self.sizes[2], generator=self.g)

    def form(self, name: str, num_threads: int = 1) -> DecodeForm:
        tables = BlockTables(self.sequences)
        tables.update()
        if name == "native":
            make = native_decode(self.kv, num_threads)
            assert make is not None
            return make(tables)
        table = torch.from_numpy(np.ascontiguousarray(tables.array[:, : tables.width]))
        return GatheredDecode(self.kv, table, torch.from_numpy(tables.positions), torch.from_numpy(tables.places()))


hows = st.builds(
    Scores,
    scale=st.sampled_from([0.125, 0.3, 1.0]),
    window=st.sampled_from([None, 1, 5, 16, 40]),
    softcap=st.sampled_from([None, 2.0, 30.0]),
)
shapes = st.sampled_from([(1, 1, 4), (4, 2, 8), (9, 3, 64), (8, 8, 16), (6, 1, 80)])


@pytest.fixture(scope="module", params=["gathered", "native"])
def form(request: pytest.FixtureRequest) -> Any:
    if request.param == "native" and load_kernel() is None:
        pytest.skip("numba does not work here: THE NATIVE FORM IS NOT TESTED")
    return request.param


@given(
    seed=st.integers(0, 99),
    lengths=st.lists(st.sampled_from([0, 1, 15, 16, 17, 31, 32, 100, 200]), min_size=1, max_size=4),
    shape=shapes,
    how=hows,
    transposed=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_a_token_sees_its_own_sequence(
    form: str, seed: int, lengths: list[int], shape: tuple[int, int, int], how: Scores, transposed: bool
) -> None:
    num_heads, num_kv_heads, _ = shape
    cache = Cache(seed, lengths, *shape)
    n = len(lengths)
    q, k, v = (cache.random(n, heads) for heads in (num_heads, num_kv_heads, num_kv_heads))
    if transposed:  # transformers' layouts have heads before tokens
        q, k, v = (each.transpose(0, 1).contiguous().transpose(0, 1) for each in (q, k, v))
    out = torch.full((n, *q.shape[1:]), torch.nan)
    cache.form(form).attend(0, q, k, v, out, how)
    for i, length in enumerate(lengths):
        keys, values = torch.cat([cache.keys[i], k[i : i + 1]]), torch.cat([cache.values[i], v[i : i + 1]])
        torch.testing.assert_close(out[i].double(), plain(q[i], keys, values, length, how), atol=2e-5, rtol=2e-5)
        place = int(places_of(cache.sequences[i], 1)[0])
        assert torch.equal(cache.kv.keys[0].flatten(0, 1)[place], k[i])
        assert torch.equal(cache.kv.values[0].flatten(0, 1)[place], v[i])


@given(seed=st.integers(0, 99), past=st.sampled_from([0, 1, 16, 37]), shape=shapes, how=hows)
@settings(max_examples=40, deadline=None)
def test_a_chunk_sees_what_came_before_it(seed: int, past: int, shape: tuple[int, int, int], how: Scores) -> None:
    cache, length = Cache(seed, [past], *shape), 11
    sequence = cache.sequences[0]
    q, k, v = (cache.random(length, heads) for heads in (shape[0], shape[1], shape[1]))
    blocks = torch.tensor(sequence.blocks[: blocks_for(past + length)])
    segment = Segment(0, length, past, blocks, torch.from_numpy(places_of(sequence, length)))
    out = segment.attend(cache.kv.keys[0], cache.kv.values[0], *(each.transpose(0, 1)[None] for each in (q, k, v)), how)
    keys, values = torch.cat([cache.keys[0], k]), torch.cat([cache.values[0], v])
    for i in range(length):
        want = plain(q[i], keys, values, past + i, how)
        torch.testing.assert_close(out[0, :, i].double(), want, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_what_overflows_shows_in_its_own_row_only(form: str, value: float) -> None:
    cache = Cache(0, [20, 20, 20], 4, 2, 8)
    q, k, v = (cache.random(3, heads) for heads in (4, 2, 2))
    clean, out = torch.empty(3, 4, 8), torch.empty(3, 4, 8)
    cache.form(form).attend(0, q, k, v, clean, Scores(0.3))
    cache.kv.keys[0].flatten(0, 1)[places_of(replaced(cache.sequences[1]), 20)] *= value
    cache.form(form).attend(0, q, k, v, out, Scores(0.3))
    assert torch.equal(out[[0, 2]], clean[[0, 2]])
    assert not torch.isfinite(out[1]).all()


def replaced(sequence: Sequence) -> Sequence:
    """The same from its first token."""
    first = Sequence(sequence.id, sequence.prompt, 1)
    first.blocks = sequence.blocks
    return first


def test_the_kernel_gives_a_sequence_the_same_whatever_is_beside_it() -> None:
    if load_kernel() is None:
        pytest.skip("numba does not work here: THE NATIVE FORM IS NOT TESTED")
    cache = Cache(0, [7, 130, 64], 9, 3, 64)
    q, k, v = (cache.random(3, heads) for heads in (9, 3, 3))
    together, alone = torch.empty(3, 9, 64), torch.empty(1, 9, 64)
    cache.form("native").attend(0, q, k, v, together, Scores(0.125))
    cache.sequences = cache.sequences[1:2]
    cache.form("native").attend(0, q[1:2], k[1:2], v[1:2], alone, Scores(0.125))
    assert torch.equal(together[1], alone[0])


@pytest.mark.parametrize("lengths", [[200], [3, 400, 5, 17], [100] * 7])
def test_threads_share_the_sequences_of_a_large_step(lengths: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    if load_kernel() is None:
        pytest.skip("numba does not work here: THE NATIVE FORM IS NOT TESTED")
    monkeypatch.setattr(native_attention, "_MIN_SHARED_BYTES", 0)
    cache, n = Cache(0, lengths, 9, 3, 64), len(lengths)
    q, k, v = (cache.random(n, heads) for heads in (9, 3, 3))
    want, got = torch.empty(n, 9, 64), torch.empty(n, 9, 64)
    cache.form("native").attend(0, q, k, v, want, Scores(0.125))
    form = cache.form("native", 3)
    for _ in range(3):  # layers
        form.attend(0, q, k, v, got.zero_(), Scores(0.125))
        assert torch.equal(got, want)


def test_other_dtypes_and_devices_have_no_kernel() -> None:
    kv = KvBlocks(num_layers=1, num_blocks=2, num_heads=1, max_len=9, head_dim=4, dtype=torch.bfloat16, device=CPU)
    assert native_decode(kv, 1) is None
