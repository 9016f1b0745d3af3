"""Files from strangers, made up by hypothesis: everything is admitted or refused by name, and nothing else happens."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from ramole.core.errors import AdapterRefused, RamoleError
from ramole.lora import config as config_module
from ramole.lora.admission import MAX_ENTRY, AdmissionLimits, admit
from ramole.lora.base import BaseShapes
from ramole.lora.config import AdapterConfig, read_config
from ramole.lora.digest import content_digest
from ramole.lora.strict_json import parse_object

BASE = BaseShapes("tiny", {"m.q": (6, 5), "m.v": (6, 3)}, norms={"m.q": 3.0, "m.v": 2.0})
LIMITS = AdmissionLimits(max_rank=4, max_relative_norm=10.0)
GOOD: dict[str, Any] = {
    "peft_type": "LORA",
    "r": 2,
    "lora_alpha": 4,
    "base_model_name_or_path": "tiny",
    "target_modules": ["m.q", "m.v"],
}

T = TypeVar("T")

# Numbers where parsers break: around limits, beyond 64 bits, not finite, not quite integers.
NUMBERS = (
    st.sampled_from([0, 1, -1, 2**31, 2**32, 2**53 + 1, 2**63, 2**64, 10**400, 0.5, -0.0, 1e308, 1e-320, True])
    | st.integers(-3, 5000)
    | st.floats(allow_nan=True)
)
VALUES = st.recursive(
    st.none() | NUMBERS | st.text(max_size=8) | st.sampled_from(["none", "LORA", "tiny", "q", ".*", "(q|v)+"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(
    sorted(config_module._HARMLESS | set(config_module._REFUSED))  # every key that is treated in some way
) | st.text(max_size=12)
PATTERNS = st.dictionaries(st.text(alphabet="mqv.()|*+?[]^$\\dw-", max_size=12), NUMBERS, max_size=4)
CHANGES = st.dictionaries(KEYS, VALUES, max_size=3) | st.fixed_dictionaries(
    {}, optional={"rank_pattern": PATTERNS, "alpha_pattern": PATTERNS, "r": NUMBERS, "lora_alpha": NUMBERS}
)


def attempt(call: Callable[[], T]) -> tuple[T | None, RamoleError | None]:
    """What a call returned, or how it refused; anything else passes."""
    try:
        return call(), None
    except RamoleError as error:
        return None, error


def read(data: bytes) -> AdapterConfig | None:
    """None when it is refused, as it must be: by name and with a remedy."""
    config, refusal = attempt(lambda: read_config(data))
    if refusal is not None:
        assert isinstance(refusal, AdapterRefused)
        assert refusal.field.startswith("adapter_config.json")
        assert refusal.message
        assert refusal.remedy
    return config


@given(CHANGES)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_changed_configs(changes: dict[str, Any]) -> None:
    config = read(json.dumps({**GOOD, **changes}).encode())
    if config is None:
        return
    try:
        ranks = [config.rank_of(module) for module in BASE.modules]
        scales = [config.scaling_of(module, rank) for module, rank in zip(BASE.modules, ranks, strict=True)]
    except AdapterRefused:
        return
    assert all(type(rank) is int and 1 <= rank <= config_module.MAX_RANK for rank in ranks)
    assert all(math.isfinite(scale) and abs(scale) <= config_module.MAX_ALPHA for scale in scales)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode) | VALUES.map(lambda v: json.dumps(v).encode()))
@settings(max_examples=300, deadline=None)
def test_any_bytes_as_config(data: bytes) -> None:
    read(data)


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=4), st.integers(0, 200))
@settings(max_examples=300, deadline=None)
def test_damaged_configs(edits: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(json.dumps(GOOD).encode())
    for position, value in edits:
        data[position % len(data)] = value
    read(bytes(data))
    read(bytes(data[: cut % len(data)]))


@given(st.integers(1, 400), st.sampled_from(["[", '{"a":', '[{"a":']))
def test_nesting_never_exhausts_the_stack(depth: int, opening: str) -> None:
    for data in (opening * depth * 100, '{"x":' + "[" * depth + "]" * depth + "}"):
        try:
            parse_object(data.encode(), field="f", max_bytes=10**6)
        except AdapterRefused:
            continue
        assert depth <= 6


def key(module: str, side: str) -> str:
    return f"base_model.model.{module}.lora_{side}.weight"


@st.composite
def adapters(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Whole adapters that differ from a good one in shapes, names, dtypes and the size of their values."""
    made: dict[str, torch.Tensor] = {}
    generator = torch.Generator().manual_seed(draw(st.integers(0, 3)))
    for module, (d, o) in BASE.modules.items():
        rank = draw(st.sampled_from([2, 2, 2, 1, 5]))
        dtype = draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]))
        for side, shape in (("A", (rank, d)), ("B", (o, rank))):
            if draw(st.integers(0, 9)) == 0:
                shape = draw(st.lists(st.integers(1, 7), min_size=1, max_size=3).map(tuple))  # noqa: PLW2901
            size = draw(st.sampled_from([1.0, 1.0, 0.0, 1e-40, 1e4, 1e30, float("inf"), float("nan")]))
            tensor = (torch.randn(shape, generator=generator, dtype=torch.float64) * size).to(dtype)
            name = key(module, side) if draw(st.integers(0, 9)) else draw(st.text(max_size=9))
            made[name] = tensor
    alphas = st.sampled_from([4, 4, 0, -4, 1e6, -1e6, 1e-6, 5e-324])
    config = {
        "lora_alpha": draw(alphas),
        "alpha_pattern": draw(st.dictionaries(st.sampled_from(["q", "m.v"]), alphas, max_size=2)),
        "use_rslora": draw(st.booleans()),
    }
    return json.dumps(GOOD | config).encode(), save(made)


@given(adapters())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_is_admitted_is_fit_to_share_a_batch(files: tuple[bytes, bytes]) -> None:
    config, tensors = files
    admission, refusal = attempt(lambda: admit(config, tensors, BASE, LIMITS))
    if admission is None:
        assert refusal is not None
        assert refusal.field
        assert refusal.remedy
        return
    weights, report = admission.weights, admission.report
    assert set(weights.pairs) == {name.split(".lora_")[0].removeprefix("base_model.model.") for name in load(tensors)}
    assert set(report.modules) <= {module for module, pair in weights.pairs.items() if pair.a.any() and pair.b.any()}
    assert 0 < report.norm <= LIMITS.max_norm
    assert report.relative_norm is not None
    assert 0 < report.relative_norm <= LIMITS.max_relative_norm
    for module, pair in weights.pairs.items():
        d, o = BASE.modules[module]
        assert (pair.a.shape, pair.b.shape) == ((pair.rank, d), (o, pair.rank))
        assert 1 <= pair.rank <= LIMITS.max_rank
        for dtype in (torch.float32, torch.bfloat16):  # those of the executors
            output = pair.b.to(dtype) @ (pair.a.to(dtype) @ torch.full((d,), 1e4, dtype=dtype))
            assert output.isfinite().all()
        assert max(pair.a.abs().max(), pair.b.abs().max()) <= MAX_ENTRY


@given(st.binary(max_size=20), st.binary(max_size=20), st.binary(max_size=20), st.binary(max_size=20))
def test_digests_of_different_files_differ(config: bytes, tensors: bytes, other_config: bytes, other: bytes) -> None:
    is_same = (config, tensors) == (other_config, other)
    assert (content_digest(config, tensors) == content_digest(other_config, other)) == is_same
