"""Everything that must not get in, and the name under which it is refused."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import save

from ramole.core.errors import AdapterRefused, WrongState
from ramole.lora.admission import AdmissionLimits, admit
from ramole.lora.base import BaseShapes
from ramole.lora.config import read_config
from ramole.lora.header import read_header

BASE = BaseShapes("tiny", {"m.q": (6, 5), "m.v": (6, 3)})
LIMITS = AdmissionLimits(max_rank=8)
CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "r": 2,
    "lora_alpha": 4,
    "base_model_name_or_path": "tiny",
    "target_modules": ["q", "v"],
    "bias": "none",
}
Tensors = dict[str, torch.Tensor]


def key(module: str, side: str) -> str:
    return f"base_model.model.{module}.lora_{side}.weight"


def tensors() -> Tensors:
    generator = torch.Generator().manual_seed(0)
    made: Tensors = {}
    for module, (d, o) in BASE.modules.items():
        made[key(module, "A")] = torch.randn(2, d, generator=generator)
        made[key(module, "B")] = torch.randn(o, 2, generator=generator)
    return made


def config(**changes: Any) -> bytes:
    return json.dumps({**CONFIG, **changes}).encode()


def test_admitted_with_its_report() -> None:
    made = tensors()
    report = admit(config(), save(made), BASE, LIMITS).report
    assert report.modules == ("m.q", "m.v")
    assert report.rank == 2
    assert report.num_bytes == 4 * (2 * 6 + 5 * 2 + 2 * 6 + 3 * 2)
    updates = [2.0 * made[key(m, "B")].double() @ made[key(m, "A")].double() for m in BASE.modules]
    assert report.norm == pytest.approx(sum(float(u.square().sum()) for u in updates) ** 0.5, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("peft_type", "IA3"),
        ("peft_type", None),
        ("use_dora", True),
        ("bias", "all"),
        ("bias", "lora_only"),
        ("bias", None),
        ("lora_bias", True),
        ("modules_to_save", ["lm_head"]),
        ("trainable_token_indices", [1, 2]),
        ("layer_replication", [[0, 2], [1, 3]]),
        ("target_parameters", ["experts.gate_up_proj"]),
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "pissa_niter_16"),
        ("init_lora_weights", "olora"),
        ("init_lora_weights", "corda"),
        ("init_lora_weights", "loftq"),
        ("init_lora_weights", "lora_ga"),
        ("init_lora_weights", "mica"),
        ("init_lora_weights", {"a": 1}),
        ("alora_invocation_tokens", [5]),
        ("use_qalora", True),
        ("use_bdlora", {"nblocks": 2}),
        ("arrow_config", {"top_k": 2}),
        ("kasa_config", {"beta": 1}),
        ("velora_config", {"x": 1}),
        ("monteclora_config", {"x": 1}),
        ("loftq_config", {"loftq_bits": 4}),
        ("corda_config", {"x": 1}),
        ("lora_ga_config", {"x": 1}),
        ("megatron_config", {"x": 1}),
        ("ensure_weight_tying", True),
        ("a_key_of_the_future", "on"),
        ("r", 0),
        ("r", -1),
        ("r", 2.0),
        ("r", True),
        ("r", None),
        ("r", 10**30),
        ("lora_alpha", "16"),
        ("lora_alpha", None),
        ("lora_alpha", True),
        ("lora_alpha", 1e300),
        ("lora_alpha", 10**400),
        ("use_rslora", "yes"),
        ("use_rslora", 1),
        ("base_model_name_or_path", 3),
        ("base_model_name_or_path", "x" * 5000),
        ("rank_pattern", ["q"]),
        ("rank_pattern", {"q": 0}),
        ("rank_pattern", {"": 2}),
        ("rank_pattern", {"q" * 300: 2}),
        ("rank_pattern", {f"q{i}": 2 for i in range(5000)}),
        ("rank_pattern", {"(?=q)": 2}),
        ("rank_pattern", {"q{,2}": 2}),
        ("rank_pattern", {"(q": 2}),
        ("rank_pattern", {"q)": 2}),
        ("rank_pattern", {"q**": 2}),
        ("rank_pattern", {"(" * 20 + "q" + ")" * 20: 2}),
        ("alpha_pattern", {"q": None}),
        ("alpha_pattern", {r"\1": 1}),
    ],
)
def test_config_key_is_named(name: str, value: object) -> None:
    with pytest.raises(AdapterRefused) as caught:
        read_config(config(**{name: value}))
    assert caught.value.field == f"adapter_config.json:{name}"
    assert caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize("value", ["8", 0, -4, True, None, 2.0, 1e300, 10**400, [2]])
@pytest.mark.parametrize("key", ["rank_pattern", "alpha_pattern"])
def test_the_entry_of_a_pattern_is_named(key: str, value: object) -> None:
    if key == "alpha_pattern" and value in (0, -4, 2.0) and not isinstance(value, bool):
        read_config(config(**{key: {"layers.3.q": value}}))  # a factor like any other
        return
    with pytest.raises(AdapterRefused, match=r"'layers\.3\.q'") as caught:
        read_config(config(**{key: {"v": 2, "layers.3.q": value}}))
    assert caught.value.field == f"adapter_config.json:{key}"
    assert f" to {4096 if key == 'rank_pattern' else '1e+06'}" in caught.value.remedy


@pytest.mark.parametrize(
    "data", [rb'{"\ud800": 1}', rb'{"peft_type": "LORA", "revision": "a\uDFFF"}', rb'{"x": ["\udead"]}']
)
def test_half_a_surrogate_pair_is_refused_before_it_is_named(data: bytes) -> None:
    with pytest.raises(AdapterRefused, match="surrogates") as caught:
        read_config(data)
    f"{caught.value.message} {caught.value.field}".encode()


def test_a_key_s_control_codes_are_shown_as_such() -> None:
    with pytest.raises(AdapterRefused) as caught:
        read_config(config(**{"\x1b[31mred": 1}))
    assert caught.value.field == r"adapter_config.json:\x1b[31mred"


def test_empty_unknown_keys_and_plain_initialisations_pass() -> None:
    read_config(config(new_key=None, other={}, use_dora=False, modules_to_save=None, init_lora_weights="gaussian"))
    read_config(config(init_lora_weights=True, megatron_core="megatron.core", qalora_group_size=16))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"r": 2, "r": 3}',
        b'{"r": NaN}',
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"peft_type": "LORA", "x": [[[[[[[[1]]]]]]]]}',
        b" " * (2 * 2**20),
        b'{"r": ' + b"9" * 10_000 + b"}",
    ],
)
def test_bad_json_is_refused(data: bytes) -> None:
    with pytest.raises(AdapterRefused):
        read_config(data)


def drop(name: str) -> Callable[[Tensors], object]:
    return lambda made: made.pop(name)


def put(name: str, tensor: torch.Tensor) -> Callable[[Tensors], object]:
    return lambda made: made.__setitem__(name, tensor)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop(key("m.q", "B")), "m.q has no lora_B"),
        (drop(key("m.v", "A")), "m.v has no lora_A"),
        (put(key("m.q", "A"), torch.ones(3, 6)), "do not multiply"),
        (put(key("m.q", "A"), torch.ones(12)), "do not multiply"),
        (put(key("m.q", "A"), torch.ones(2, 7)), "maps 6 to 5"),
        (put(key("m.q", "B"), torch.ones(4, 2)), "maps 6 to 5"),
        (put(key("m.x", "A"), torch.ones(2, 6)), "m.x has no lora_B"),
        (put("base_model.model.m.q.lora_magnitude_vector", torch.ones(5)), "DoRA"),
        (put("base_model.model.m.q.lora_B.bias", torch.ones(5)), "a bias"),
        (put("base_model.model.m.q.base_layer.weight", torch.ones(5, 6)), "base model"),
        (put("base_model.model.m.e.lora_embedding_A", torch.ones(2, 6)), "embedding"),
        (put("base_model.model.lm_head.modules_to_save.weight", torch.ones(2, 6)), "replaced module"),
        (put("m.q.lora_A.weight", torch.ones(2, 6)), "not a LoRA tensor"),
        (put("base_model.model.m.q.lora_A.default.weight", torch.ones(2, 6)), "not a LoRA tensor"),
        (put(key("m.q", "A"), torch.full((2, 6), float("nan"))), "not finite"),
        (put(key("m.q", "B"), torch.full((5, 2), float("inf"))), "not finite"),
        (put(key("m.q", "B"), torch.full((5, 2), 3e38)), "not finite"),
        (put(key("m.q", "B"), torch.full((5, 2), 1e30)), "holds the value"),
        (put(key("m.q", "B"), torch.full((5, 2), 4e3)), "Frobenius"),
        (put(key("m.q", "A"), torch.ones(2, 6, dtype=torch.int64)), "'I64'"),
        (put(key("m.q", "A"), torch.ones(2, 6, dtype=torch.float64)), "'F64'"),
    ],
)
def test_tensors_that_do_not_fit(change: Callable[[Tensors], object], words: str) -> None:
    made = tensors()
    change(made)
    with pytest.raises(AdapterRefused) as caught:
        admit(config(), save(made), BASE, LIMITS)
    assert words in caught.value.message


def test_unknown_module_is_named() -> None:
    made = tensors() | {key("m.x", "A"): torch.ones(2, 6), key("m.x", "B"): torch.ones(5, 2)}
    with pytest.raises(AdapterRefused, match=r"m\.x is no Linear"):
        admit(config(), save(made), BASE, LIMITS)


def test_rank_of_config_and_limit() -> None:
    with pytest.raises(AdapterRefused, match="rank 2 in the file and 4 in the config"):
        admit(config(r=4), save(tensors()), BASE, LIMITS)
    with pytest.raises(AdapterRefused, match="rank 2, this server takes up to 1"):
        admit(config(), save(tensors()), BASE, AdmissionLimits(max_rank=1))


def test_an_adapter_without_effect_is_refused() -> None:
    made = {name: t if "lora_A" in name else torch.zeros_like(t) for name, t in tensors().items()}
    orthogonal = tensors()
    for module in BASE.modules:
        a, b = orthogonal[key(module, "A")], orthogonal[key(module, "B")]
        a[1] = a[0]
        b[:, 1] = -b[:, 0]
    for without_effect in (made, orthogonal):
        with pytest.raises(AdapterRefused, match="changes nothing"):
            admit(config(), save(without_effect), BASE, LIMITS)
    with pytest.raises(AdapterRefused, match="changes nothing"):
        admit(config(lora_alpha=0), save(tensors()), BASE, LIMITS)


def test_a_pair_out_of_balance_is_refused() -> None:
    """Its product is harmless, but A x overflows."""
    for low, high in (("A", "B"), ("B", "A")):
        made = tensors()
        made[key("m.q", low)] *= 1e-30
        made[key("m.q", high)] *= 1e30
        with pytest.raises(AdapterRefused, match="holds the value"):
            admit(config(), save(made), BASE, LIMITS)


def relative_to(made: Tensors, module: str, base_norm: float) -> float:
    update = 2.0 * made[key(module, "B")].double() @ made[key(module, "A")].double()
    return float(update.norm()) / base_norm


def test_norms_are_measured_against_the_base_weight() -> None:
    made = tensors()
    base = BaseShapes("tiny", BASE.modules, norms={"m.q": 2.0, "m.v": 1e3})
    relative = relative_to(made, "m.q", 2.0)
    measured = admit(config(), save(made), base, AdmissionLimits(8, max_relative_norm=relative * 1.01)).report
    assert measured.relative_norm == pytest.approx(relative, rel=1e-6)
    with pytest.raises(AdapterRefused, match=r"m\.q is .* times as large as the base weight"):
        admit(config(), save(made), base, AdmissionLimits(8, max_relative_norm=relative * 0.99))
    huge = BaseShapes("tiny", BASE.modules, norms={"m.q": 1e9, "m.v": 1e10})
    with pytest.raises(AdapterRefused, match="changes nothing"):
        admit(config(), save(made), huge, LIMITS)


def test_an_unknown_base_weight_is_reported_as_such_and_limited_by_its_shape() -> None:
    made = tensors()
    assumed = {module: o**0.5 for module, (_, o) in BASE.modules.items()}
    relative = max(relative_to(made, module, norm) for module, norm in assumed.items())
    partly = BaseShapes("tiny", BASE.modules, norms={"m.v": 1e3})
    for base in (BASE, partly):
        assert admit(config(), save(made), base, LIMITS).report.relative_norm is None
    admit(config(), save(made), BASE, AdmissionLimits(8, max_relative_norm=relative * 1.01))
    with pytest.raises(AdapterRefused, match="a base weight of its shape") as caught:
        admit(config(), save(made), BASE, AdmissionLimits(8, max_relative_norm=relative * 0.99))
    assert caught.value.remedy


def test_modules_that_do_nothing_are_not_reported() -> None:
    made = tensors()
    made[key("m.q", "B")] = torch.zeros(5, 2)
    measured = BaseShapes("tiny", BASE.modules, norms={"m.v": 2.0})
    report = admit(config(), save(made), measured, LIMITS).report
    assert report.modules == ("m.v",)
    assert report.relative_norm == pytest.approx(relative_to(made, "m.v", 2.0), rel=1e-6)
    as_good_as_zero = BaseShapes("tiny", BASE.modules, norms={"m.q": 1e9})
    assert admit(config(), save(tensors()), as_good_as_zero, LIMITS).report.modules == ("m.v",)


def test_base_revision_must_match() -> None:
    data = save(tensors())
    pinned = AdmissionLimits(8, base_revision="abc")
    for named in (None, "", "abc"):
        admit(config(revision=named), data, BASE, pinned)
    with pytest.raises(WrongState, match="'def'") as caught:
        admit(config(revision="def"), data, BASE, pinned)
    assert caught.value.field == "adapter_config.json:revision"
    admit(config(revision="def"), data, BASE, LIMITS)


def test_base_model_must_match() -> None:
    data = save(tensors())
    with pytest.raises(WrongState, match="'other'"):
        admit(config(base_model_name_or_path="other"), data, BASE, LIMITS)
    with pytest.raises(WrongState, match="does not say"):
        admit(config(base_model_name_or_path=None), data, BASE, LIMITS)
    with pytest.raises(WrongState) as caught:
        admit(config(), data, BASE, LIMITS, base_model="other")
    assert caught.value.field == "base_model"
    admit(config(base_model_name_or_path="/home/me/llama"), data, BASE, LIMITS, base_model="tiny")


class Bomb:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (pytest.fail, ("a pickle was opened",))


def test_pickle_is_named_and_never_opened(tmp_path: Any) -> None:
    torch.save({"x": torch.ones(2)}, tmp_path / "new.bin")
    torch.save({"x": torch.ones(2)}, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    files = [(tmp_path / name).read_bytes() for name in ("new.bin", "old.bin")]
    for data in (*files, *(pickle.dumps([Bomb()] * 9, protocol) for protocol in range(2, 6))):
        with pytest.raises(AdapterRefused, match="pickle files are never read"):
            read_header(data)


def test_expensive_patterns_end_soon() -> None:
    hostile = {"(a*)*" * 20 + "b": 2, "(a|a|aa)*" * 10 + "c": 2, "(.*.*.*)*" * 10 + "d": 2}
    parsed = read_config(config(rank_pattern=hostile))
    modules = ["a" * 200 + str(number) for number in range(10_000)]
    with pytest.raises(AdapterRefused, match="too much work"):
        [parsed.rank_of(module) for module in modules]
