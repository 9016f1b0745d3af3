"""adapter_config.json, read strictly: what cannot be served exactly is refused by the name of its key.

The tensors file must hold just the modules that target_modules and its kin select (see `targets`). Written against
`LoraConfig` of PEFT 0.21; a key that this release does not have is accepted only while it is empty.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeVar

from ramole.core.errors import AdapterRefused
from ramole.lora.expressions import Work
from ramole.lora.files import CONFIG_FILE
from ramole.lora.foreign import about_file
from ramole.lora.patterns import PatternTable
from ramole.lora.strict_json import parse_object
from ramole.lora.targets import Names, Targets

MAX_CONFIG_BYTES = 2**20
MAX_RANK = 4096
MAX_ALPHA = 1e6

Number = TypeVar("Number", int, float)

_HARMLESS = frozenset(
    {
        # where and how it was trained
        "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
        "lora_dropout", "eva_config", "runtime_config",
        # layout of the base weight; LoRA tensors have one layout only
        "fan_in_fan_out",
        # parameters of features that are refused by their own key
        "megatron_core", "qalora_group_size",
        # read below
        "peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "bias", "init_lora_weights",
        "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
    }
)  # fmt: skip

_ALTERED_BASE = "its initialisation alters the base weights, which all adapters here share"
_REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "use_dora": "DoRA rescales the base weights per adapter",
        "lora_bias": "a bias of its own is not a low-rank update",
        "modules_to_save": "whole modules would have to be replaced per request",
        "trainable_token_indices": "token embeddings would have to be replaced per request",
        "layer_replication": "the adapter belongs to a base with other layers",
        "target_parameters": "bare parameters are not wrapped, only Linear and Conv1D modules",
        "alora_invocation_tokens": "activation from a token on is not supported",
        "use_qalora": "QA-LoRA pools the input before the update",
        "use_bdlora": "block-diagonal LoRA is another kind of update",
        "loftq_config": _ALTERED_BASE,
        "corda_config": _ALTERED_BASE,
        "lora_ga_config": _ALTERED_BASE,
        "arrow_config": "the adapter is itself a router over other adapters",
        "kasa_config": "KaSA alters the base weights",
        "velora_config": "not supported",
        "monteclora_config": "sampled weights are not supported",
        "megatron_config": "tensor-parallel modules are not supported",
        "ensure_weight_tying": "tied embeddings cannot be wrapped",
    }
)
_PLAIN_INITIALISATIONS = (True, False, None, "gaussian", "eva", "orthogonal")
_NEUTRAL: tuple[object, ...] = (None, False, 0, "", [], {})


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """What of the config decides the maths, and which modules belong to it.

    Attributes:
        base_model: base_model_name_or_path as written; empty if absent.
        revision: of the base model, as written; empty if absent.
    """

    base_model: str
    revision: str
    rank: int
    alpha: float
    use_rslora: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    targets: Targets
    _rank_keys: PatternTable = field(repr=False, compare=False)
    _alpha_keys: PatternTable = field(repr=False, compare=False)

    def rank_of(self, module: str) -> int:
        """r of a module, by PEFT's matching rule."""
        key = self._rank_keys.find(module)
        return self.rank if key is None else self.rank_pattern[key]

    def scaling_of(self, module: str, rank: int) -> float:
        """alpha / r, or alpha / sqrt(r) with rsLoRA. `rank` is the module's, from `rank_of`."""
        key = self._alpha_keys.find(module)
        alpha = self.alpha if key is None else self.alpha_pattern[key]
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank


def read_config(data: bytes) -> AdapterConfig:
    """Parses and checks the file.

    Raises:
        AdapterRefused: malformed, or not plain LoRA; its field is ``adapter_config.json:<key>``.
    """
    raw = _parse(data)
    if raw.get("peft_type") != "LORA":
        raise _refuse("peft_type", f"{_show(raw.get('peft_type'))} is not supported", "use LORA")
    for key, value in raw.items():
        if key not in _HARMLESS and value not in _NEUTRAL:
            reason = _REFUSED.get(key, "this key is not known here and could change the result")
            raise _refuse(key, f"{_show(value)}: {reason}", "train a plain LoRA, or leave the key out")
    if raw.get("bias", "none") != "none":
        raise _refuse("bias", f"{_show(raw['bias'])}: base biases are shared by all adapters", "use bias='none'")
    if raw.get("init_lora_weights") not in _PLAIN_INITIALISATIONS:
        remedy = "save with path_initial_model_for_weight_conversion, which makes it a plain LoRA"
        raise _refuse("init_lora_weights", f"{_show(raw['init_lora_weights'])}: {_ALTERED_BASE}", remedy)
    rank_pattern, alpha_pattern = _pattern(raw, "rank_pattern", _rank), _pattern(raw, "alpha_pattern", _alpha)
    work = Work()
    return AdapterConfig(
        base_model=_text(raw, "base_model_name_or_path"),
        revision=_text(raw, "revision"),
        rank=_rank("r", raw.get("r")),
        alpha=_alpha("lora_alpha", raw.get("lora_alpha")),
        use_rslora=_flag(raw, "use_rslora"),
        rank_pattern=rank_pattern,
        alpha_pattern=alpha_pattern,
        targets=_targets(raw, work),
        _rank_keys=PatternTable(rank_pattern, work, field=f"{CONFIG_FILE}:rank_pattern"),
        _alpha_keys=PatternTable(alpha_pattern, work, field=f"{CONFIG_FILE}:alpha_pattern"),
    )


def _parse(data: bytes) -> dict[str, object]:
    try:
        return parse_object(data, field=CONFIG_FILE, max_bytes=MAX_CONFIG_BYTES)
    except AdapterRefused:
        found = None if data.lstrip()[:1] in (b"{", b"[") else about_file(data)
        if found is None:
            raise
        raise AdapterRefused(f"this is {found.what}", field=CONFIG_FILE, remedy=found.remedy) from None


def _refuse(key: str, message: str, remedy: str) -> AdapterRefused:
    return AdapterRefused(message, field=f"{CONFIG_FILE}:{_show(key)[1:-1]}", remedy=remedy)


def _show(value: object) -> str:
    return repr(value)[:80]


def _rank(key: str, value: object) -> int:
    if type(value) is not int or not 1 <= value <= MAX_RANK:
        raise _refuse(key, f"{_show(value)} is not a rank", f"use a whole number from 1 to {MAX_RANK}")
    return value


def _alpha(key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > MAX_ALPHA:
        raise _refuse(
            key, f"{_show(value)} is not a usable alpha", f"use a number from -{MAX_ALPHA:g} to {MAX_ALPHA:g}"
        )
    return float(value)


def _flag(raw: Mapping[str, object], key: str) -> bool:
    value = raw.get(key)
    if value is not None and not isinstance(value, bool):
        raise _refuse(key, f"{_show(value)} is not a boolean", "use true or false")
    return bool(value)


def _text(raw: Mapping[str, object], key: str) -> str:
    value = raw.get(key)
    if value is not None and not (isinstance(value, str) and len(value) <= 1024):
        raise _refuse(key, f"{_show(value)} is not a name", "use a short string")
    return value or ""


def _pattern(raw: Mapping[str, object], key: str, check: Callable[[str, object], Number]) -> dict[str, Number]:
    value = raw.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _refuse(key, f"{_show(value)} is not a map", "use a map from module name to number")
    checked: dict[str, Number] = {}
    for pattern, number in value.items():
        try:
            checked[pattern] = check(key, number)
        except AdapterRefused as error:
            raise _refuse(key, f"{_show(pattern)}: {error.message}", error.remedy) from None
    return checked


def _targets(raw: Mapping[str, object], work: Work) -> Targets:
    layers, lists = raw.get("layers_to_transform"), _names(raw, "layers_pattern")
    given = layers if isinstance(layers, list) else [] if layers is None else [layers]
    numbers = frozenset(number for number in given if type(number) is int)
    if not all(type(number) is int for number in given):
        raise _refuse("layers_to_transform", f"{_show(layers)} is not a list of layers", "use whole numbers")
    modules, excluded = _name_set(raw, "target_modules"), _name_set(raw, "exclude_modules")
    if not modules:
        raise _refuse("target_modules", "the config does not say which modules it adapts", "name those of the file")
    # PEFT does not open such configs either.
    if layers is not None and isinstance(modules, str):
        raise _refuse(
            "layers_to_transform", "it narrows a list of target_modules, not an expression", "name the layers there"
        )
    if lists and layers is None:
        raise _refuse("layers_pattern", "it says nothing without layers_to_transform", "leave it out, or add that key")
    return Targets(
        modules=modules,
        excluded=excluded,
        layers=numbers or None,
        layer_lists=(lists,) if isinstance(lists, str) else tuple(lists),
        file=CONFIG_FILE,
        work=work,
    )


def _name_set(raw: Mapping[str, object], key: str) -> Names:
    names = _names(raw, key)
    return names if isinstance(names, str) else frozenset(names)


def _names(raw: Mapping[str, object], key: str) -> str | list[str]:
    """One expression or a list of names; an empty list if absent."""
    value = raw.get(key) or []
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise _refuse(key, f"{_show(value)} names no modules", "use a list of module names, or one expression")
    return value
