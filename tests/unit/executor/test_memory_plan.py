"""What is left open is settled so that it fits, and what cannot fit is refused with settings that would."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ramole.core.errors import WrongState
from ramole.core.settings import ExecutorSettings, PlainSettings
from ramole.executor import facts
from ramole.executor.loading import load_runner, plan_of
from ramole.executor.memory_plan import BaseFacts, DeviceFacts, Plan, make_plan
from support.engine_world import tiny_llama

GIB = 2**30
SMALL = BaseFacts(
    dtype="float32",
    num_weights=134_515_008,
    num_layers=30,
    num_kv_heads=3,
    head_dim=64,
    hidden=576,
    feed_forward=1536,
    vocab_size=49152,
    linears=((576, 576), (576, 192), (576, 192), (576, 576), (576, 1536), (576, 1536), (1536, 576)) * 30,
    max_positions=8192,
)
LARGE = replace(SMALL, dtype="bfloat16", num_weights=8_030_000_000, num_layers=32, num_kv_heads=8, head_dim=128)
CPU = DeviceFacts(device="cpu", name="this machine", total_bytes=32 * GIB, free_bytes=16 * GIB, cores=8, has_bf16=False)
GPU = DeviceFacts(
    device="cuda", name="a GPU", total_bytes=80 * GIB, free_bytes=79 * GIB, cores=16, has_bf16=True, others=3
)


def plan(base: BaseFacts = SMALL, device: DeviceFacts = CPU, **options: Any) -> Plan:
    return make_plan(ExecutorSettings(**options), base, device, slot_rank=16)


@pytest.mark.parametrize(
    ("base", "device", "dtype"),
    [
        ("float32", CPU, "float32"),
        ("bfloat16", CPU, "float32"),
        ("float16", CPU, "float32"),
        ("bfloat16", replace(CPU, has_bf16=True), "bfloat16"),
        ("bfloat16", GPU, "bfloat16"),
        ("float16", GPU, "float16"),
        ("bfloat16", replace(GPU, has_bf16=False), "float32"),
        ("float64", GPU, "float32"),
    ],
)
def test_the_dtype_is_the_checkpoints_where_the_device_has_it(base: str, device: DeviceFacts, dtype: str) -> None:
    assert plan(replace(SMALL, dtype=base), device).sizes.dtype == dtype
    assert plan(replace(SMALL, dtype=base), device, dtype="bfloat16").sizes.dtype == "bfloat16"


def test_threads_leave_a_core_to_the_others_and_replicas_share_them() -> None:
    assert plan().threads == 7
    assert plan(replicas=2).threads == 3
    assert plan(device=replace(CPU, cores=1)).threads == 1
    assert plan(device=GPU).threads == 1
    assert plan(threads=5).threads == 5


def test_with_enough_memory_everything_is_as_large_as_it_can_be() -> None:
    sizes = plan(LARGE, GPU).sizes
    assert (sizes.num_slots, sizes.max_rows, sizes.max_len) == (64, 32, 8192)
    assert sizes.kv_tokens == 32 * 8192


def test_explicit_settings_stay() -> None:
    sizes = plan(num_slots=100, max_len=512, max_rows=3).sizes
    assert (sizes.num_slots, sizes.max_rows, sizes.max_len, sizes.kv_tokens) == (100, 3, 512, 1536)


def test_replicas_on_a_cpu_share_its_memory() -> None:
    assert plan(replicas=2).budget_bytes == plan().budget_bytes // 2
    assert plan(LARGE, GPU, replicas=2).budget_bytes == plan(LARGE, GPU).budget_bytes


@given(
    memory=st.integers(2**28, 2**35),
    rank=st.integers(1, 64),
    options=st.fixed_dictionaries(
        {},
        optional={
            "num_slots": st.integers(2, 200),
            "max_len": st.integers(8, 8192),
            "max_rows": st.integers(1, 64),
            "kv_blocks": st.integers(1, 2000),
        },
    ),
    base=st.sampled_from([SMALL, LARGE, replace(SMALL, max_positions=None), replace(SMALL, max_positions=77)]),
)
def test_a_plan_fits_or_its_refusal_names_settings_that_do(
    memory: int, rank: int, options: dict[str, Any], base: BaseFacts
) -> None:
    options = {"token_budget": 512, **options, "memory_bytes": memory}
    if base.max_positions and options.get("max_len", 0) > base.max_positions:
        options.pop("max_len")
    made = refused_or_made(options, base, rank)
    if isinstance(made, WrongState):
        ways = [re.findall(r"executor\.(\w+) to (\w+)", way) for way in made.remedy.split(" or ")]
        ways = [way for way in ways if way]
        for way in ways:
            assert isinstance(refused_or_made(options | dict(way), base, rank), Plan), way
        assert ways or (made.field, made.remedy[-6:]) == ("base_model", "ADR 30")
        return
    assert made.num_bytes <= memory
    assert made.sizes.num_slots >= 2
    assert made.sizes.kv_tokens >= made.sizes.max_len or {"kv_blocks", "max_len"} <= options.keys()
    assert made.sizes.max_len <= options.get("max_len", base.max_positions or 4096)
    assert made.sizes.kv_blocks == options.get("kv_blocks", made.sizes.kv_blocks)


def test_a_few_of_the_longest_requests_fit_at_once() -> None:
    sizes = plan(memory_bytes=900 * 2**20, num_slots=9, max_rows=32).sizes
    assert 4 * sizes.max_len <= sizes.kv_tokens < 32 * sizes.max_len
    assert plan(kv_blocks=10).sizes.max_len == 160, "no request is longer than all blocks"


def refused_or_made(options: dict[str, Any], base: BaseFacts, rank: int) -> Plan | WrongState:
    try:
        return make_plan(ExecutorSettings(**options), base, CPU, slot_rank=rank)
    except WrongState as error:
        return error


def test_a_refusal_names_three_settings_and_what_they_must_be() -> None:
    with pytest.raises(WrongState) as refused:
        plan(memory_fraction=0.1, max_len=8192, max_rows=8)
    assert refused.value.field == "executor.memory_fraction"
    assert len(re.findall(r"executor\.\w+ to", refused.value.remedy)) == 3
    assert "base model 513.1 MiB" in refused.value.message
    with pytest.raises(WrongState, match=r"one model over several devices, of which this machine has 4 is not built"):
        plan(replace(LARGE, num_weights=70_000_000_000), GPU)


def test_more_positions_than_the_base_model_knows_are_refused_before_it_is_loaded() -> None:
    with pytest.raises(WrongState, match="knows 8192 positions") as refused:
        plan(max_len=9000)
    assert refused.value.field == "executor.max_len"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base")
    tiny_llama().save_pretrained(path)  # type: ignore[operator]
    return path


def test_facts_are_those_of_the_model_and_need_no_weights(folder: Path) -> None:
    model: Any = tiny_llama()
    found = facts.read_base_facts(str(folder))
    (folder / "model.safetensors").rename(folder / "elsewhere")
    assert facts.read_base_facts(str(folder)) == found
    (folder / "elsewhere").rename(folder / "model.safetensors")
    assert found.num_weights == sum(p.numel() for p in model.parameters())
    assert found.linears == tuple(
        (m.in_features, m.out_features) for m in model.model.modules() if isinstance(m, torch.nn.Linear)
    )
    assert (found.num_layers, found.max_positions, found.dtype) == (
        model.config.num_hidden_layers,
        model.config.max_position_embeddings,
        "float32",
    )


def test_a_quantised_checkpoint_counts_as_its_files_are(folder: Path, tmp_path: Path) -> None:
    config = tiny_llama().config
    config.quantization_config = {"quant_method": "bitsandbytes", "load_in_4bit": True}  # type: ignore[union-attr]
    config.save_pretrained(tmp_path)  # type: ignore[operator, union-attr]
    found = facts.read_base_facts(str(tmp_path))
    assert found.num_weights == 0
    assert found.packed_bytes == facts.read_base_facts(str(folder)).num_weights // 2
    assert found.form == "quantised: bitsandbytes"


def test_this_machine_is_known() -> None:
    device = facts.read_device_facts("cpu")
    assert 0 < device.free_bytes <= device.total_bytes
    assert device.cores >= 1
    with pytest.raises(WrongState, match="no device 'cuda:99'"):
        facts.read_device_facts("cuda:99")


def test_a_container_is_held_to_its_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "_CGROUP", tmp_path)
    alone = facts.read_device_facts("cpu")
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "memory.max").write_text(f"{2**28}\n")
    (tmp_path / "memory.current").write_text(f"{2**27}\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 100\n")
    inside = facts.read_device_facts("cpu")
    assert (inside.cores, inside.total_bytes, inside.free_bytes) == (1, 2**28, 2**28 - 2**27 + 100)
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert facts.read_device_facts("cpu").total_bytes == alone.total_bytes


def test_nothing_is_loaded_that_does_not_fit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ramole.executor.loading.load_model", lambda *_, **__: pytest.fail("it was loaded"))
    options = ExecutorSettings(router="", memory_bytes=1000)
    with pytest.raises(WrongState, match="are needed"):
        load_runner(PlainSettings(base_model=str(folder), executor=options))


def test_the_widest_adapter_decides_the_slot_rank(folder: Path) -> None:
    settings = PlainSettings(base_model=str(folder), executor=ExecutorSettings(router=""))
    assert [plan_of(settings, widest_rank=rank).sizes.slot_rank for rank in (0, 8, 40)] == [16, 16, 40]
