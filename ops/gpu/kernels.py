"""Stage: the kernels over the shapes of real bases, right against float64 and timed beside W x.

`error` is |y - want| / |want| over rows with experts. Of bfloat16 2e-3 to 5e-3 is what two roundings make. Rows without
experts must keep what was in them, to the bit.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from device_clock import call_us, device_us, synchronize
from module_world import ModuleCase, ModuleWorld, expected
from records import Records

from ramole.core.composition import Merge, Weighting

LIMITS = {torch.bfloat16: 1e-2, torch.float16: 3e-3, torch.float32: 2e-5}
_KEPT = 7.0

_QO = ModuleCase(name="q/o decode", d=4096, o=4096, num_requests=64, num_experts=3, num_adapters=96)
CHECKS = (
    _QO,
    replace(_QO, name="k/v decode", o=1024),
    replace(_QO, name="gate/up decode", o=14336, num_requests=32, num_adapters=32),
    replace(_QO, name="down decode", d=14336, num_requests=32, num_adapters=32),
    replace(_QO, name="prefill of 2048", num_requests=1, num_adapters=3, num_tokens=2048),
    replace(_QO, name="prefill of 4 x 500, rank 64", o=14336, num_requests=4, num_adapters=8, num_tokens=500, rank=64),
    replace(_QO, name="k = 8", num_experts=8, num_requests=32, num_adapters=32),
    replace(_QO, name="one request", num_requests=1, num_experts=1, num_adapters=1, weighting=Weighting.UNIFORM),
    replace(_QO, name="parameters merged", rank=64, weighting=Weighting.ROUTER_WITH_PRIOR, merge=Merge.PARAMETERS),
    replace(_QO, name="odd widths, mixed ranks", d=3584, o=1100, rank=32, ranks=(32, 1, 8, 31)),
    replace(_QO, name="float16", dtype=torch.float16),
    replace(_QO, name="float32", dtype=torch.float32, num_requests=32),
)
_TINY = replace(_QO, d=96, o=80, num_requests=8, num_adapters=5, rank=8, dtype=torch.float32)
TINY_CHECKS = (
    replace(_TINY, name="decode"),
    replace(_TINY, name="prefill", num_requests=2, num_tokens=20, merge=Merge.PARAMETERS),
    # The interpreter multiplies the bits of bfloat16 as if they were integers.
    replace(_TINY, name="float16, mixed ranks", dtype=torch.float16, ranks=(8, 1, 3)),
)


def check(case: ModuleCase, device: torch.device) -> dict[str, Any]:
    """Whether one step is right, and the same when it runs again."""
    world, plan = ModuleWorld(case, device), case.plan()
    x = world.random(plan.num_tokens, case.d)
    is_bare = torch.repeat_interleave(torch.from_numpy((plan.slots == 0).all(1)), torch.tensor(plan.lengths)).to(device)
    found = []
    for _ in range(2):
        y = torch.zeros(plan.num_tokens, case.o, dtype=case.dtype, device=device)
        y[is_bare] = _KEPT
        world.add(plan, x, y)
        found.append(y)
    synchronize(device)
    want, got = expected(x, world.module, plan)[~is_bare], found[0][~is_bare].double()
    error = float((got - want).norm() / want.norm())
    is_kept = bool((found[0][is_bare] == _KEPT).all())
    return {
        "ok": error < LIMITS[case.dtype] and is_kept,
        "error": error,
        "others_kept": is_kept,
        "repeats_to_the_bit": torch.equal(*found),
    }


def timing(case: ModuleCase, device: torch.device, *, repeats: int) -> dict[str, Any]:
    """Microseconds of one module beside its own W x and one LoRA for everybody, over copies that exceed the cache."""
    plan = case.plan()
    item = case.dtype.itemsize
    num_bytes = (plan.num_adapters * case.rank * (case.d + case.o) + case.d * case.o) * item
    worlds = [ModuleWorld(case, device, seed=i) for i in range(min(24, int(150e6 / num_bytes) + 1) if item == 2 else 1)]
    x = worlds[0].random(plan.num_tokens, case.d)
    y = torch.zeros(plan.num_tokens, case.o, dtype=case.dtype, device=device)
    form = worlds[0].mixture.step(plan).form
    a, b = (
        worlds[0].random(case.num_experts * case.rank, case.d),
        worlds[0].random(case.num_experts * case.rank, case.o),
    )

    def ours() -> None:
        for world in worlds:
            form.add(x, y, world.module)

    def base() -> None:
        for world in worlds:
            world.base(x)

    def shared() -> None:
        for _ in worlds:
            y.addmm_(x @ a.T, b)

    with torch.inference_mode():
        ours_us, base_us, shared_us = (
            device_us(run, device, repeats=repeats) / len(worlds) for run in (ours, base, shared)
        )
        host_us = call_us(lambda: form.add(x, y, worlds[0].module), device, repeats=repeats)
    return {
        "us": ours_us,
        "base_us": base_us,
        "over_base": (ours_us + base_us) / base_us,
        "one_shared_lora_us": shared_us,
        "eager_call_us": host_us,
        "adapters_in_step": plan.num_adapters,
    }


def run(records: Records, device: torch.device, *, is_tiny: bool) -> None:
    """All checks, then all timings."""
    for case in TINY_CHECKS if is_tiny else CHECKS:
        records.attempt(f"check: {case.name}", partial(check, case, device))
    # Interpreted kernels take a second each.
    for case in TINY_CHECKS[:1] if is_tiny else CHECKS[:9]:
        run_case = partial(timing, case, device, repeats=1 if is_tiny else 10)
        records.attempt(f"time: {case.name}", run_case, needs_s=5)
