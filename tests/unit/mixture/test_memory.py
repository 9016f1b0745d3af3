"""Slots take memory where they are filled, and leave nothing behind."""

from __future__ import annotations

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ramole.lora.weights import LoraPair
from ramole.mixture.memory import zeros
from ramole.mixture.slots import ModuleSlots, SlotShape

CPU = torch.device("cpu")
MIB = 2**20


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_was_never_written_takes_no_memory(dtype: torch.dtype) -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    room = zeros((64, MIB), dtype=dtype, device=CPU)
    assert process.memory_info().rss - before < 8 * MIB
    assert room.shape == (64, MIB)
    assert room.data_ptr() % 64 == 0
    assert room.is_contiguous()
    room[3] = 1
    assert process.memory_info().rss - before < 16 * MIB
    assert torch.equal(room[3], torch.ones(MIB, dtype=dtype))
    assert not room[2].any()
    assert zeros((2, 3), dtype=dtype, device=CPU).tolist() == [[0.0] * 3] * 2


@given(ranks=st.lists(st.integers(0, 4), min_size=1, max_size=5))
def test_a_slot_holds_its_last_adapter_and_nothing_of_those_before(ranks: list[int]) -> None:
    module = ModuleSlots(0, (6, 5), SlotShape(3, 4, 2), dtype=torch.float32, device=CPU)
    g = torch.Generator().manual_seed(1)
    module.set_router(LoraPair(torch.randn(2, 6, generator=g), torch.randn(5, 2, generator=g)))
    for rank in ranks:
        pair = LoraPair(torch.randn(rank, 6, generator=g), torch.randn(5, rank, generator=g))
        if rank:
            module.write(1, pair)
        else:
            module.clear(1)
    fresh = ModuleSlots(0, (6, 5), SlotShape(3, 4, 2), dtype=torch.float32, device=CPU)
    fresh.set_router(LoraPair(module.router_a, module.router_b))
    if ranks[-1]:
        fresh.write(1, pair)
    for name in ("lora_a", "lora_b", "c", "ranks", "device_ranks"):
        assert getattr(module, name).tolist() == getattr(fresh, name).tolist(), name
