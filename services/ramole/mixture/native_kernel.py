"""The machine code behind `native`: numba compiles this file. Imported only by `native.load_kernel`.

Everything is raw memory, because a call must cost next to nothing: a module and a step are tables of addresses and
sizes (int64), filled once by `native`. Nothing here checks bounds; `native` guarantees shapes, types and lifetimes.
numba's cache on disk watches this file alone, so no constant of another file may be used here, but of `raw_memory`.
"""

from __future__ import annotations

import math
from typing import Any

from numba import njit, types

from ramole.mixture.raw_memory import FLOATS, INTS, floats, ints, prefetch

# module, step, x, y, scratch
SIGNATURE = types.void(INTS, INTS, FLOATS, FLOATS, types.int64)

# Neither nnan nor ninf: a poisoned adapter must poison exactly its own rows, and a softmax may meet infinities.
BLOCK = 4  # tokens that share what is loaded of an adapter
TILE = 256  # output columns that stay in the nearest cache meanwhile

FASTMATH = {"reassoc", "nsz", "contract", "arcp"}


@njit(fastmath=FASTMATH)
def _shrink(table: Any, rows: Any, num_rows: Any, x: Any, at: Any, d: Any, out: Any) -> None:
    """out[n] = <table[rows[n]], x[at : at + d]>, row by row: one stream from memory."""
    for n in range(num_rows):
        row = rows[n] * d
        total = types.float32(0)
        for i in range(d):
            total += table[row + i] * x[at + i]
        out[n] = total


@njit(fastmath=FASTMATH)
def _expand(table: Any, rows: Any, num_rows: Any, h: Any, y: Any, at: Any, o: Any) -> None:
    """y[at : at + o] += sum_n h[n] table[rows[n]], row by row."""
    for n in range(num_rows):
        row, factor = rows[n] * o, h[n]
        for i in range(o):
            y[at + i] += factor * table[row + i]


@njit(fastmath=FASTMATH)
def _shrink_4(table: Any, rows: Any, num_rows: Any, x: Any, at: Any, d: Any, out: Any, stride: Any) -> None:
    """The same for BLOCK tokens, out[t * stride + n], four rows at a time: each value is loaded once for all."""
    x0, x1, x2, x3 = at, at + d, at + 2 * d, at + 3 * d
    n = 0
    while n + 4 <= num_rows:
        r0, r1, r2, r3 = rows[n] * d, rows[n + 1] * d, rows[n + 2] * d, rows[n + 3] * d
        s00 = s01 = s02 = s03 = types.float32(0)
        s10 = s11 = s12 = s13 = types.float32(0)
        s20 = s21 = s22 = s23 = types.float32(0)
        s30 = s31 = s32 = s33 = types.float32(0)
        for i in range(d):
            a0, a1, a2, a3 = table[r0 + i], table[r1 + i], table[r2 + i], table[r3 + i]
            v = x[x0 + i]
            s00 += a0 * v
            s01 += a1 * v
            s02 += a2 * v
            s03 += a3 * v
            v = x[x1 + i]
            s10 += a0 * v
            s11 += a1 * v
            s12 += a2 * v
            s13 += a3 * v
            v = x[x2 + i]
            s20 += a0 * v
            s21 += a1 * v
            s22 += a2 * v
            s23 += a3 * v
            v = x[x3 + i]
            s30 += a0 * v
            s31 += a1 * v
            s32 += a2 * v
            s33 += a3 * v
        out[n], out[n + 1], out[n + 2], out[n + 3] = s00, s01, s02, s03
        m = stride + n
        out[m], out[m + 1], out[m + 2], out[m + 3] = s10, s11, s12, s13
        m += stride
        out[m], out[m + 1], out[m + 2], out[m + 3] = s20, s21, s22, s23
        m += stride
        out[m], out[m + 1], out[m + 2], out[m + 3] = s30, s31, s32, s33
        n += 4
    while n < num_rows:
        r0 = rows[n] * d
        s00 = s10 = s20 = s30 = types.float32(0)
        for i in range(d):
            a0 = table[r0 + i]
            s00 += a0 * x[x0 + i]
            s10 += a0 * x[x1 + i]
            s20 += a0 * x[x2 + i]
            s30 += a0 * x[x3 + i]
        out[n], out[stride + n], out[2 * stride + n], out[3 * stride + n] = s00, s10, s20, s30
        n += 1


@njit(fastmath=FASTMATH)
def _expand_4(table: Any, rows: Any, num_rows: Any, h: Any, stride: Any, y: Any, at: Any, o: Any, tile: Any) -> None:
    """The same for BLOCK tokens, with h[t * stride + n]. Rows add to a tile of y, four at a time."""
    for first in range(0, o, TILE):
        width = min(TILE, o - first)
        for t in range(BLOCK):
            for i in range(width):
                tile[t * TILE + i] = y[at + t * o + first + i]
        n = 0
        while n + 4 <= num_rows:
            r0, r1 = rows[n] * o + first, rows[n + 1] * o + first
            r2, r3 = rows[n + 2] * o + first, rows[n + 3] * o + first
            h00, h01, h02, h03 = h[n], h[n + 1], h[n + 2], h[n + 3]
            m = stride + n
            h10, h11, h12, h13 = h[m], h[m + 1], h[m + 2], h[m + 3]
            m += stride
            h20, h21, h22, h23 = h[m], h[m + 1], h[m + 2], h[m + 3]
            m += stride
            h30, h31, h32, h33 = h[m], h[m + 1], h[m + 2], h[m + 3]
            for i in range(width):
                b0, b1, b2, b3 = table[r0 + i], table[r1 + i], table[r2 + i], table[r3 + i]
                tile[i] += h00 * b0 + h01 * b1 + h02 * b2 + h03 * b3
                tile[TILE + i] += h10 * b0 + h11 * b1 + h12 * b2 + h13 * b3
                tile[2 * TILE + i] += h20 * b0 + h21 * b1 + h22 * b2 + h23 * b3
                tile[3 * TILE + i] += h30 * b0 + h31 * b1 + h32 * b2 + h33 * b3
            n += 4
        while n < num_rows:
            r0 = rows[n] * o + first
            h00, h10, h20, h30 = h[n], h[stride + n], h[2 * stride + n], h[3 * stride + n]
            for i in range(width):
                b0 = table[r0 + i]
                tile[i] += h00 * b0
                tile[TILE + i] += h10 * b0
                tile[2 * TILE + i] += h20 * b0
                tile[3 * TILE + i] += h30 * b0
            n += 1
        for t in range(BLOCK):
            for i in range(width):
                y[at + t * o + first + i] = tile[t * TILE + i]


@njit(fastmath=FASTMATH)
def _add_scores(
    a: Any, q: Any, router_rank: Any, c: Any, u: Any, at: Any, slots: Any, ranks: Any, num_experts: Any, slot_rank: Any
) -> None:
    """a_i += q^T C_i u_i / sqrt(Q)."""
    n = 0
    for j in range(num_experts):
        slot = slots[at + j]
        score = types.float32(0)
        for m in range(router_rank):
            key = types.float32(0)
            for i in range(ranks[slot]):
                key += c[(slot * router_rank + m) * slot_rank + i] * u[n + i]
            score += q[m] * key
        a[j] += score / math.sqrt(types.float32(router_rank))
        n += ranks[slot]


@njit(fastmath=FASTMATH)
def _softmax(a: Any, n: Any) -> None:
    """Softmax over a[:n], in place."""
    top = a[0]
    for j in range(1, n):
        top = max(top, a[j])
    total = types.float32(0)
    for j in range(n):
        a[j] = math.exp(a[j] - top)
        total += a[j]
    for j in range(n):
        a[j] /= total


@njit(fastmath=FASTMATH)
def _scale(u: Any, a: Any, scales: Any, at: Any, slots: Any, ranks: Any, num_experts: Any) -> None:
    """OUTPUTS: h_i = c_i a_i u_i, in the place of u."""
    n = 0
    for j in range(num_experts):
        factor = scales[at + j] * a[j]
        for i in range(n, n + ranks[slots[at + j]]):
            u[i] *= factor
        n += ranks[slots[at + j]]


@njit(fastmath=FASTMATH)
def _merge(u: Any, a: Any, scales: Any, at: Any, slots: Any, ranks: Any, num_experts: Any, mean: Any) -> None:
    """PARAMETERS: h_i = c_i a_i sum_j a_j u_j, in the place of u; `mean` is zero and as long as the largest rank."""
    n = 0
    for j in range(num_experts):
        rank = ranks[slots[at + j]]
        for i in range(rank):
            mean[i] += a[j] * u[n + i]
        n += rank
    n = 0
    for j in range(num_experts):
        rank = ranks[slots[at + j]]
        for i in range(rank):
            u[n + i] = scales[at + j] * a[j] * mean[i]
        n += rank


def scratch_bytes(k: int, slot_rank: int, router_rank: int) -> int:
    """Room that `add_rows` needs beside its arguments."""
    floats = BLOCK * (k * slot_rank + router_rank + TILE) + slot_rank + k
    return 8 * (k * slot_rank + router_rank) + 4 * floats


def add_rows(module: Any, step: Any, x: Any, y: Any, scratch: Any) -> None:
    """Adds the update of the requests `requests` to y, token by token; the formulas are those of `forms`.

    Args:
        module: addresses of lora_a [S, R, d], lora_b [S, R, o], c [S, Q, R], router_a [Q, d] (float32) and
            ranks [S] (int64); then d, o, R, Q and the module's index.
        step: addresses of requests [n], starts [b + 1], slots [b, k], flags [b, 2] (int64; the flags are is_routed,
            merges_parameters), of gates, scales [b, k] and usage [modules, b, k] (float32); then b, k and n.
        x: [T, d]. y: [T, o], changed in place.
        scratch: address of `scratch_bytes` that nobody else uses meanwhile.
    """
    lora_a, lora_b, c = floats(module[0]), floats(module[1]), floats(module[2])
    router_a, ranks = floats(module[3]), ints(module[4])
    d, o, slot_rank, router_rank, index = module[5], module[6], module[7], module[8], module[9]
    requests, starts, slots, flags = ints(step[0]), ints(step[1]), ints(step[2]), ints(step[3])
    gates, scales = floats(step[4]), floats(step[5])
    b, k, num_requests = step[7], step[8], step[9]
    usage = floats(step[6] + 4 * index * b * k)

    width = k * slot_rank
    rows = ints(scratch)  # [k R]: which rows of lora_a and lora_b the request uses
    router_rows = ints(scratch + 8 * width)  # [Q]
    u_at = scratch + 8 * (width + router_rank)
    q_at = u_at + 4 * BLOCK * width
    mean_at = q_at + 4 * BLOCK * router_rank
    u, q = floats(u_at), floats(q_at)  # [BLOCK, k R], becomes h; [BLOCK, Q]
    mean, a = floats(mean_at), floats(mean_at + 4 * slot_rank)  # [R]; [k]
    tile = floats(mean_at + 4 * (slot_rank + k))  # [BLOCK, TILE]
    for i in range(router_rank):
        router_rows[i] = i

    for place in range(num_requests):
        request = requests[place]
        at = request * k
        num_rows = num_experts = 0
        for j in range(k):
            slot = slots[at + j]
            num_experts += slot != 0
            for i in range(ranks[slot]):
                rows[num_rows] = slot * slot_rank + i
                num_rows += 1
        if num_rows == 0:
            continue
        is_routed, merges_parameters = flags[2 * request] != 0, flags[2 * request + 1] != 0
        token, stop = starts[request], starts[request + 1]
        for j in range(k):
            prefetch(lora_b, slots[at + j] * slot_rank * o, ranks[slots[at + j]] * o)
        while token < stop:
            num_tokens = BLOCK if token + BLOCK <= stop else 1
            if num_tokens == BLOCK:
                _shrink_4(lora_a, rows, num_rows, x, token * d, d, u, width)
                if is_routed:
                    _shrink_4(router_a, router_rows, router_rank, x, token * d, d, q, router_rank)
            else:
                _shrink(lora_a, rows, num_rows, x, token * d, d, u)
                if is_routed:
                    _shrink(router_a, router_rows, router_rank, x, token * d, d, q)
            for t in range(num_tokens):
                own_u, own_q = floats(u_at + 4 * t * width), floats(q_at + 4 * t * router_rank)
                for j in range(num_experts):
                    a[j] = gates[at + j]
                if is_routed:
                    _add_scores(a, own_q, router_rank, c, own_u, at, slots, ranks, num_experts, slot_rank)
                    _softmax(a, num_experts)
                for j in range(num_experts):
                    usage[at + j] += a[j]
                if merges_parameters:
                    for i in range(slot_rank):
                        mean[i] = 0
                    _merge(own_u, a, scales, at, slots, ranks, num_experts, mean)
                else:
                    _scale(own_u, a, scales, at, slots, ranks, num_experts)
            if token + num_tokens == stop and place + 1 < num_requests:
                for j in range(k):
                    slot = slots[requests[place + 1] * k + j]
                    prefetch(lora_a, slot * slot_rank * d, ranks[slot] * d)
            if num_tokens == BLOCK:
                _expand_4(lora_b, rows, num_rows, u, width, y, token * o, o, tile)
            else:
                _expand(lora_b, rows, num_rows, u, y, token * o, o)
            token += num_tokens
