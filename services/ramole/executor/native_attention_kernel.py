"""The machine code behind `native_attention`: numba compiles this file. Imported only by `native_attention`.

Everything is raw memory and nothing here checks bounds; `native_attention` guarantees shapes, types and lifetimes.
numba's cache on disk watches this file alone, so no constant of another file may be used here, but of `raw_memory`.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from ramole.mixture.raw_memory import FLOATS, INTS, floats, ints, prefetch

_TENSOR = (FLOATS, types.int64, types.int64)  # with the strides of its tokens and heads

# step, keys, values; q, k, v; out, scale, softcap, window
SIGNATURE = types.void(
    INTS, FLOATS, FLOATS, *_TENSOR, *_TENSOR, *_TENSOR, FLOATS, types.float32, types.float32, types.int64
)

# Neither nnan nor ninf: numbers that overflow must show up as NaN in the answer that they belong to.
FASTMATH = {"reassoc", "nsz", "contract", "arcp"}

BLOCK = 16  # tokens of a block of the cache
LOG2_E, LN_2 = 1.4426950408889634, 0.6931471805599453


@intrinsic
def _float_of(_typing: Any, bits: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), codegen


@njit(fastmath=FASTMATH)
def _exp(x: Any) -> Any:
    """e^x of x <= 0; 0 below -87, NaN of NaN. Without branches, so that it is computed by vectors."""
    power = x * types.float32(LOG2_E) - types.float32(0.5)
    n = types.int32(power if power > types.float32(-126) else types.float32(-126))
    f = x - types.float32(n) * types.float32(LN_2)
    value = types.float32(1 / 720)
    value = value * f + types.float32(1 / 120)
    value = value * f + types.float32(1 / 24)
    value = value * f + types.float32(1 / 6)
    value = value * f + types.float32(1 / 2)
    value = value * f + types.float32(1)
    value = value * f + types.float32(1)
    value *= _float_of(types.int32(types.int32(n + types.int32(127)) << types.int32(23)))
    return types.float32(0) if x < types.float32(-87) else value


@njit(fastmath=FASTMATH)
def _products(q: Any, at: Any, dim: Any, table: Any, row: Any, stride: Any, count: Any, out: Any, to: Any) -> None:
    """out[to + j] = <q[at : at + dim], table[row + j stride]> of `count` rows, four at a time."""
    j = 0
    while j + 4 <= count:
        r0 = row + j * stride
        r1, r2, r3 = r0 + stride, r0 + 2 * stride, r0 + 3 * stride
        s0 = s1 = s2 = s3 = types.float32(0)
        for i in range(dim):
            x = q[at + i]
            s0 += x * table[r0 + i]
            s1 += x * table[r1 + i]
            s2 += x * table[r2 + i]
            s3 += x * table[r3 + i]
        out[to + j], out[to + j + 1], out[to + j + 2], out[to + j + 3] = s0, s1, s2, s3
        j += 4
    while j < count:
        r0 = row + j * stride
        s0 = types.float32(0)
        for i in range(dim):
            s0 += q[at + i] * table[r0 + i]
        out[to + j] = s0
        j += 1


@njit(fastmath=FASTMATH)
def _add(a: Any, at: Any, table: Any, row: Any, stride: Any, count: Any, dim: Any, out: Any, to: Any) -> None:
    """out[to : to + dim] += sum_j a[at + j] table[row + j stride] of `count` rows, four at a time."""
    j = 0
    while j + 4 <= count:
        r0 = row + j * stride
        r1, r2, r3 = r0 + stride, r0 + 2 * stride, r0 + 3 * stride
        a0, a1, a2, a3 = a[at + j], a[at + j + 1], a[at + j + 2], a[at + j + 3]
        for i in range(dim):
            out[to + i] += a0 * table[r0 + i] + a1 * table[r1 + i] + a2 * table[r2 + i] + a3 * table[r3 + i]
        j += 4
    while j < count:
        r0 = row + j * stride
        a0 = a[at + j]
        for i in range(dim):
            out[to + i] += a0 * table[r0 + i]
        j += 1


@njit(fastmath=FASTMATH)
def _softmax(a: Any, at: Any, count: Any) -> None:
    """Softmax over a[at : at + count], in place."""
    top = a[at]
    for j in range(at + 1, at + count):
        top = a[j] if a[j] > top else top
    total = types.float32(0)
    for j in range(at, at + count):
        a[j] = _exp(a[j] - top)
        total += a[j]
    norm = types.float32(1) / total
    for j in range(at, at + count):
        a[j] *= norm


def attend(
    step: Any,
    keys: Any,
    values: Any,
    q: Any,
    q_token: Any,
    q_head: Any,
    k: Any,
    k_token: Any,
    k_head: Any,
    v: Any,
    v_token: Any,
    v_head: Any,
    out: Any,
    scale: Any,
    softcap: Any,
    window: Any,
) -> None:
    """One token of each sequence: writes its key and value into the blocks, and what it sees into out [n, H, D].

    Args:
        step: addresses of the block tables [n, W], of the positions [n] and of scratch [H, W * BLOCK] (float32); then
            W, H, H_kv, D, and the first and one-past-last sequence.
        keys: [blocks, BLOCK, H_kv, D], as `values`.
        softcap: 0 = none.
        window: 0 = none.
    """
    tables, positions, scores = ints(step[0]), ints(step[1]), floats(step[2])
    width, num_heads, num_kv_heads, dim = step[3], step[4], step[5], step[6]
    group, stride = num_heads // num_kv_heads, num_kv_heads * dim
    room = width * BLOCK
    for n in range(step[7], step[8]):
        position, table = positions[n], n * width
        at = (tables[table + position // BLOCK] * BLOCK + position % BLOCK) * stride
        for h in range(num_kv_heads):
            for i in range(dim):
                keys[at + h * dim + i] = k[n * k_token + h * k_head + i]
                values[at + h * dim + i] = v[n * v_token + h * v_head + i]
        first = max(0, position + 1 - window) if window > 0 else 0
        for block in range(first // BLOCK, position // BLOCK + 1):
            start, stop = max(first, block * BLOCK), min(position + 1, block * BLOCK + BLOCK)
            row = (tables[table + block] * BLOCK + start % BLOCK) * stride
            if block < position // BLOCK:
                prefetch(keys, tables[table + block + 1] * BLOCK * stride, BLOCK * stride)
            else:
                prefetch(values, tables[table + first // BLOCK] * BLOCK * stride, BLOCK * stride)
            for head in range(num_heads):
                own, to = row + head // group * dim, head * room + start
                _products(q, n * q_token + head * q_head, dim, keys, own, stride, stop - start, scores, to)
        for head in range(num_heads):
            for j in range(head * room + first, head * room + position + 1):
                scores[j] *= scale
            if softcap > 0:
                for j in range(head * room + first, head * room + position + 1):
                    # tanh(y) = (1 - e^-2|y|) / (1 + e^-2|y|), with the sign of y
                    y = scores[j] / softcap
                    e = _exp(types.float32(-2) * abs(y))
                    bent = softcap * (types.float32(1) - e) / (types.float32(1) + e)
                    scores[j] = -bent if y < 0 else bent
            _softmax(scores, head * room + first, position + 1 - first)
            for i in range(dim):
                out[(n * num_heads + head) * dim + i] = 0
        for block in range(first // BLOCK, position // BLOCK + 1):
            start, stop = max(first, block * BLOCK), min(position + 1, block * BLOCK + BLOCK)
            row = (tables[table + block] * BLOCK + start % BLOCK) * stride
            if block < position // BLOCK:
                prefetch(values, tables[table + block + 1] * BLOCK * stride, BLOCK * stride)
            for head in range(num_heads):
                own, to = row + head // group * dim, (n * num_heads + head) * dim
                _add(scores, head * room + start, values, own, stride, stop - start, dim, out, to)
