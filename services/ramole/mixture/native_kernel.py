"""The machine code behind `native`: numba compiles this file. Imported only by `native.load_kernel`.

Everything is raw memory, because a call must cost next to nothing: a module and a step are tables of addresses and
sizes (int64), filled once by `native`. Nothing here checks bounds; `native` guarantees shapes, types and lifetimes.
numba's cache on disk watches this file alone, so no constant of another file may be used here.
"""

from __future__ import annotations

import math
from typing import Any

from numba import njit, types
from numba.extending import intrinsic

INTS = types.CPointer(types.int64)
FLOATS = types.CPointer(types.float32)

# module, step, x, y, scratch
SIGNATURE = types.void(INTS, INTS, FLOATS, FLOATS, types.int64)

# Neither nnan nor ninf: a poisoned adapter must poison exactly its own rows, and a softmax may meet infinities.
FASTMATH = {"reassoc", "nsz", "contract", "arcp"}


@intrinsic
def _floats(_typing: Any, address: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return FLOATS(address), codegen


@intrinsic
def _ints(_typing: Any, address: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return INTS(address), codegen


@njit(fastmath=FASTMATH)
def _shrink(table: Any, rows: Any, num_rows: Any, x: Any, at: Any, d: Any, out: Any) -> None:
    """out[n] = <table[rows[n]], x[at : at + d]>, four rows at a time so that x is read once for them."""
    n = 0
    while n + 4 <= num_rows:
        r0, r1, r2, r3 = rows[n] * d, rows[n + 1] * d, rows[n + 2] * d, rows[n + 3] * d
        s0 = s1 = s2 = s3 = types.float32(0)
        for i in range(d):
            value = x[at + i]
            s0 += table[r0 + i] * value
            s1 += table[r1 + i] * value
            s2 += table[r2 + i] * value
            s3 += table[r3 + i] * value
        out[n], out[n + 1], out[n + 2], out[n + 3] = s0, s1, s2, s3
        n += 4
    while n < num_rows:
        r0 = rows[n] * d
        s0 = types.float32(0)
        for i in range(d):
            s0 += table[r0 + i] * x[at + i]
        out[n] = s0
        n += 1


@njit(fastmath=FASTMATH)
def _expand(table: Any, rows: Any, num_rows: Any, h: Any, y: Any, at: Any, o: Any) -> None:
    """y[at : at + o] += sum_n h[n] table[rows[n]], four rows at a time so that y is read and written once for them."""
    n = 0
    while n + 4 <= num_rows:
        r0, r1, r2, r3 = rows[n] * o, rows[n + 1] * o, rows[n + 2] * o, rows[n + 3] * o
        h0, h1, h2, h3 = h[n], h[n + 1], h[n + 2], h[n + 3]
        for i in range(o):
            y[at + i] += h0 * table[r0 + i] + h1 * table[r1 + i] + h2 * table[r2 + i] + h3 * table[r3 + i]
        n += 4
    while n < num_rows:
        r0, h0 = rows[n] * o, h[n]
        for i in range(o):
            y[at + i] += h0 * table[r0 + i]
        n += 1


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


def add_rows(module: Any, step: Any, x: Any, y: Any, scratch: Any) -> None:
    """Adds the update of the requests `requests` to y, token by token; the formulas are those of `forms`.

    Args:
        module: addresses of lora_a [S, R, d], lora_b [S, R, o], c [S, Q, R], router_a [Q, d] (float32) and
            ranks [S] (int64); then d, o, R, Q and the module's index.
        step: addresses of requests [n], starts [b + 1], slots [b, k], flags [b, 3] (int64; the flags are is_routed,
            is_explicit, merges_parameters), of logits, weights, scales [b, k] and usage [modules, b, k] (float32);
            then b, k and n.
        x: [T, d]. y: [T, o], changed in place.
        scratch: address of 8 * (2 k R + 2 Q + R + k) bytes that nobody else uses meanwhile.
    """
    lora_a, lora_b, c = _floats(module[0]), _floats(module[1]), _floats(module[2])
    router_a, ranks = _floats(module[3]), _ints(module[4])
    d, o, slot_rank, router_rank, index = module[5], module[6], module[7], module[8], module[9]
    requests, starts, slots, flags = _ints(step[0]), _ints(step[1]), _ints(step[2]), _ints(step[3])
    logits, weights, scales = _floats(step[4]), _floats(step[5]), _floats(step[6])
    b, k, num_requests = step[8], step[9], step[10]
    usage = _floats(step[7] + 4 * index * b * k)

    rows = _ints(scratch)  # [k R]: which rows of lora_a and lora_b the request uses
    router_rows = _ints(scratch + 8 * k * slot_rank)  # [Q]
    u = _floats(scratch + 8 * (k * slot_rank + router_rank))  # [k R], becomes h
    q = _floats(scratch + 8 * (2 * k * slot_rank + router_rank))  # [Q]
    mean = _floats(scratch + 8 * (2 * k * slot_rank + 2 * router_rank))  # [R]
    a = _floats(scratch + 8 * ((2 * k + 1) * slot_rank + 2 * router_rank))  # [k]
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
        is_routed, is_explicit = flags[3 * request] != 0, flags[3 * request + 1] != 0
        merges_parameters = flags[3 * request + 2] != 0
        for token in range(starts[request], starts[request + 1]):
            _shrink(lora_a, rows, num_rows, x, token * d, d, u)
            for j in range(num_experts):
                a[j] = weights[at + j] if is_explicit else logits[at + j]
            if is_routed:
                _shrink(router_a, router_rows, router_rank, x, token * d, d, q)
                _add_scores(a, q, router_rank, c, u, at, slots, ranks, num_experts, slot_rank)
            if not is_explicit:
                _softmax(a, num_experts)
            for j in range(num_experts):
                usage[at + j] += a[j]
            if merges_parameters:
                for i in range(slot_rank):
                    mean[i] = 0
                _merge(u, a, scales, at, slots, ranks, num_experts, mean)
            else:
                _scale(u, a, scales, at, slots, ranks, num_experts)
            _expand(lora_b, rows, num_rows, u, y, token * o, o)
