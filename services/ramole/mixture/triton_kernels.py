"""The GPU code behind `triton_form`. Imported only there; `TRITON_INTERPRET=1` runs it on the CPU, slowly.

Two kernels for each module. `shrink` writes u_i = A_i x of every expert, and the router's q = A_r x as one expert more.
`expand` scores, takes the softmax, scales and adds sum_i B_i h_i; the small part is computed again by each block of
output columns, which costs less than another launch. Every element of the output has one writer and every sum a fixed
order: no atomics, the same numbers at every run. A tile reads the slots of its own tokens only, and of those only the
rows that their ranks fill. Parameters carry no types: the compiler of Triton reads annotations as its own.
"""

from __future__ import annotations

import triton
import triton.language as tl

IS_ROUTED, MERGES_PARAMETERS = 1, 2


@triton.jit
def _rank_in_tile(ranks, tile_slots, tile, K: tl.constexpr):
    """Sum of the ranks of a tile's experts at this module: 0 = nothing to do."""
    total = 0
    for j in tl.static_range(K):
        total += tl.load(ranks + tl.load(tile_slots + tile * K + j))
    return total


@triton.jit
def shrink(
    x,
    lora_a,
    router_a,
    ranks,
    tile_tokens,
    tile_slots,
    flags,
    u,
    d,
    x_stride,
    num_tiles,
    R: tl.constexpr,
    Q: tl.constexpr,
    K: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """u[split, tile, j] [BLOCK_T, BLOCK_R] = x[tokens, chunk] A_j[:, chunk]^T; j = K is the router.

    Grid (tiles, K + 1, splits of d). x [T, d], lora_a [S, R, d], router_a [Q, d], ranks [S], tile_tokens [n, BLOCK_T],
    tile_slots [n, K], flags [T].
    """
    tile, j, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    at = tl.arange(0, BLOCK_T)
    row = tl.arange(0, BLOCK_R)
    token = tl.load(tile_tokens + tile * BLOCK_T + at)
    is_token = token >= 0
    if j < K:
        slot = tl.load(tile_slots + tile * K + j)
        num_rows = tl.load(ranks + slot)
        table = lora_a + slot.to(tl.int64) * R * d
    else:
        flag = tl.load(flags + token, mask=is_token, other=0) & 1
        num_rows = tl.where(_rank_in_tile(ranks, tile_slots, tile, K) > 0, tl.max(flag, 0) * Q, 0)
        table = router_a
    if num_rows > 0:
        acc = tl.zeros((BLOCK_T, BLOCK_R), tl.float32)
        x_rows = x + token.to(tl.int64)[:, None] * x_stride
        rows = table + row[:, None] * d
        for start in range(0, CHUNK, BLOCK_D):
            column = split * CHUNK + start + tl.arange(0, BLOCK_D)
            inside = (column < d)[None, :]
            xs = tl.load(x_rows + column[None, :], mask=is_token[:, None] & inside, other=0.0)
            a = tl.load(rows + column[None, :], mask=(row < num_rows)[:, None] & inside, other=0.0)
            acc += tl.dot(xs, tl.trans(a), input_precision="ieee")
        place = ((split * num_tiles + tile) * (K + 1) + j).to(tl.int64) * BLOCK_T
        tl.store(u + (place + at[:, None]) * BLOCK_R + row[None, :], acc, mask=is_token[:, None])


@triton.jit
def _shrunk(
    u,
    tile,
    j,
    num_tiles,
    is_token,
    K: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """u_j [BLOCK_T, BLOCK_R] of a tile: the sum over the splits, in their order."""
    at = tl.arange(0, BLOCK_T)
    row = tl.arange(0, BLOCK_R)
    acc = tl.zeros((BLOCK_T, BLOCK_R), tl.float32)
    for split in range(SPLITS):
        place = ((split * num_tiles + tile) * (K + 1) + j).to(tl.int64) * BLOCK_T
        acc += tl.load(u + (place + at[:, None]) * BLOCK_R + row[None, :], mask=is_token[:, None], other=0.0)
    return acc


@triton.jit
def expand(
    y,
    lora_b,
    c,
    ranks,
    tile_tokens,
    tile_slots,
    gates,
    scales,
    flags,
    u,
    usage,
    o,
    y_stride,
    num_tiles,
    score_scale,
    R: tl.constexpr,
    Q: tl.constexpr,
    K: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """y[tokens, block] += sum_j h_j B_j[:, block], with h from u as in `formulas`; block 0 writes `usage`.

    Grid (tiles, blocks of o). y [T, o], lora_b [S, R, o], c [S, Q, R], gates, scales and usage [T, K].
    """
    tile, block = tl.program_id(0), tl.program_id(1)
    if _rank_in_tile(ranks, tile_slots, tile, K) == 0:
        return
    at = tl.arange(0, BLOCK_T)
    row = tl.arange(0, BLOCK_R)
    expert = tl.arange(0, BLOCK_K)
    column = block * BLOCK_O + tl.arange(0, BLOCK_O)
    inside = column < o
    token = tl.load(tile_tokens + tile * BLOCK_T + at)
    is_token = token >= 0
    flag = tl.load(flags + token, mask=is_token, other=0)
    is_place = is_token[:, None] & (expert < K)[None, :]
    place = token[:, None] * K + expert[None, :]
    is_expert = tl.load(tile_slots + tile * K + expert, mask=expert < K, other=0) != 0

    a = tl.load(gates + place, mask=is_place, other=0.0)
    if tl.max(flag & 1, 0) > 0:
        logits = a
        q = _shrunk(u, tile, K, num_tiles, is_token, K, SPLITS, BLOCK_T, BLOCK_R)
        for j in tl.static_range(K):
            slot = tl.load(tile_slots + tile * K + j)
            rank = tl.load(ranks + slot)
            if rank > 0:
                own = _shrunk(u, tile, j, num_tiles, is_token, K, SPLITS, BLOCK_T, BLOCK_R)
                # C_j transposed, [R, Q]
                pair = c + slot.to(tl.int64) * Q * R + row[None, :] * R + row[:, None]
                couple = tl.load(pair, mask=(row < Q)[None, :] & (row < rank)[:, None], other=0.0).to(tl.float32)
                own = tl.where((row < rank)[None, :], own, 0.0)
                score = tl.sum(tl.dot(own, couple, input_precision="ieee") * q, 1) * score_scale
                logits += tl.where((expert == j)[None, :], score[:, None], 0.0)
        logits = tl.where(is_expert[None, :], logits, float("-inf"))
        e = tl.where(is_expert[None, :], tl.exp(logits - tl.max(logits, 1)[:, None]), 0.0)
        a = tl.where(((flag & 1) != 0)[:, None], e / tl.sum(e, 1)[:, None], a)
    if block == 0:
        tl.store(usage + place, a, mask=is_place)

    merges = ((flag & 2) != 0)[:, None]
    mean = tl.zeros((BLOCK_T, BLOCK_R), tl.float32)
    if tl.max(flag & 2, 0) > 0:
        for j in tl.static_range(K):
            rank = tl.load(ranks + tl.load(tile_slots + tile * K + j))
            if rank > 0:
                own = _shrunk(u, tile, j, num_tiles, is_token, K, SPLITS, BLOCK_T, BLOCK_R)
                mean += tl.sum(tl.where((expert == j)[None, :], a, 0.0), 1)[:, None] * own
    factors = a * tl.load(scales + place, mask=is_place, other=0.0)
    acc = tl.zeros((BLOCK_T, BLOCK_O), tl.float32)
    for j in tl.static_range(K):
        slot = tl.load(tile_slots + tile * K + j)
        rank = tl.load(ranks + slot)
        if rank > 0:
            own = _shrunk(u, tile, j, num_tiles, is_token, K, SPLITS, BLOCK_T, BLOCK_R)
            factor = tl.sum(tl.where((expert == j)[None, :], factors, 0.0), 1)[:, None]
            is_row = row < rank
            h = tl.where(is_row[None, :], tl.where(merges, mean, own) * factor, 0.0)
            table = lora_b + slot.to(tl.int64) * R * o + row[:, None] * o + column[None, :]
            b = tl.load(table, mask=is_row[:, None] & inside[None, :], other=0.0)
            acc += tl.dot(h.to(b.dtype), b, input_precision="ieee")
    out = y + token.to(tl.int64)[:, None] * y_stride + column[None, :]
    is_out = is_token[:, None] & inside[None, :]
    old = tl.load(out, mask=is_out, other=0.0)
    tl.store(out, (old.to(tl.float32) + acc).to(old.dtype), mask=is_out)
