"""From the two files of an adapter to its weights. Admission and every executor read here, so they cannot differ.

Accepted tensor names are exactly PEFT's ``base_model.model.<module>.lora_A.weight`` and ``....lora_B.weight``, of the
modules that the config selects: PEFT leaves out others without a word. PEFT may save the
base's embedding and head along, as ``base_model.model.<module>.weight``, of a wrapped head ``....base_layer.weight``:
admission compares them with the base, after that they are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from ramole.core.errors import AdapterRefused
from ramole.lora.config import AdapterConfig, read_config
from ramole.lora.files import CONFIG_FILE, TENSORS_FILE
from ramole.lora.foreign import about_name
from ramole.lora.header import TensorSpec, read_header
from ramole.lora.weights import AdapterWeights, LoraPair

_KEY = re.compile(r"base_model\.model\.(?P<module>[A-Za-z0-9_.-]+)\.lora_(?P<side>[AB])\.weight")
_BASE_KEY = re.compile(r"base_model\.model\.(?P<module>[A-Za-z0-9_.-]+?)(?P<wrapped>\.base_layer)?\.weight")
# Names in one message.
_MAX_SHOWN = 8


@dataclass(frozen=True, slots=True)
class PairLayout:
    """Where one A/B pair lies in the file, with its scaling."""

    a: TensorSpec
    b: TensorSpec
    scaling: float

    @property
    def rank(self) -> int:
        """r."""
        return self.a.shape[0]

    @property
    def widths(self) -> tuple[int, int]:
        """(d, o) that the pair was made for."""
        return self.a.shape[1], self.b.shape[0]


@dataclass(frozen=True, slots=True)
class AdapterLayout:
    """Everything that can be known before a tensor is read: config, modules, shapes.

    `base_weights` are copies of base weights that came along, by module.
    """

    config: AdapterConfig
    pairs: Mapping[str, PairLayout]
    base_weights: Mapping[str, TensorSpec] = field(default_factory=dict)

    def check_selected(self, selected: Collection[str]) -> None:
        """Raises AdapterRefused when the file holds modules that are not among `selected`, see `Targets.selected`."""
        surplus = sorted(self.pairs.keys() - selected)
        if surplus:
            key = self.config.targets.key_against(surplus[0])
            raise AdapterRefused(
                f"the file holds modules that the config does not select, and PEFT would leave out: {shown(surplus)}",
                field=f"{CONFIG_FILE}:{key}",
                remedy="have the config select them if they belong to the adapter, or take them out of the file",
            )

    def load(self, tensors: bytes | memoryview) -> AdapterWeights:
        """Copies the tensors out of the file. Scaling is multiplied into b in float32.

        Each keeps the file's dtype, but a b that this would round stays float32.
        """
        return AdapterWeights({module: _load_pair(pair, tensors) for module, pair in self.pairs.items()})


def read_layout(config_json: bytes, tensors: bytes | memoryview) -> AdapterLayout:
    """Reads config and header and pairs the tensors up, in the sorted order of the modules.

    Raises:
        AdapterRefused: either file is malformed, a pair is incomplete, or shapes and config disagree.
    """
    config, header = read_config(config_json), read_header(tensors)
    sides: dict[str, dict[str, TensorSpec]] = {}
    base_weights: dict[str, TensorSpec] = {}
    wrapped: set[str] = set()
    for name, spec in header.items():
        if match := _KEY.fullmatch(name):
            sides.setdefault(match["module"], {})[match["side"]] = spec
        elif (match := _BASE_KEY.fullmatch(name)) and ".lora_" not in name:
            base_weights[match["module"]] = spec
            wrapped |= {match["module"]} if match["wrapped"] else set()
        else:
            raise _refuse_name(name)
    if alone := wrapped - sides.keys():
        raise _refuse(f"a base weight of {min(alone)} came without its pair", "save the adapter again")
    if not sides:
        raise _refuse("it holds no LoRA tensor", "upload the file that PEFT's save_pretrained wrote")
    pairs = {module: _pair(config, module, sides[module]) for module in sorted(sides)}
    return AdapterLayout(config, pairs, base_weights)


def read_adapter(config_json: bytes, tensors: bytes | memoryview) -> AdapterWeights:
    """Both files at once, of an adapter that was admitted or that nobody else's answer depends on.

    Raises:
        AdapterRefused: as `read_layout`, or the file holds modules that the config does not select.
    """
    layout = read_layout(config_json, tensors)
    layout.check_selected(layout.config.targets.selected(layout.pairs))
    return layout.load(tensors)


def shown(names: Sequence[str]) -> str:
    """The first of many names, for a message."""
    more = f" and {len(names) - _MAX_SHOWN} more" if len(names) > _MAX_SHOWN else ""
    return f"{', '.join(names[:_MAX_SHOWN])}{more}"


def _refuse(message: str, remedy: str) -> AdapterRefused:
    return AdapterRefused(message, field=TENSORS_FILE, remedy=remedy)


def _refuse_name(name: str) -> AdapterRefused:
    found = about_name(name)
    return _refuse(f"{name[:160]!r} is {found.what}", found.remedy)


def _pair(config: AdapterConfig, module: str, sides: Mapping[str, TensorSpec]) -> PairLayout:
    if len(sides) != 2:
        missing = "B" if "A" in sides else "A"
        raise _refuse(f"module {module} has no lora_{missing}", "save the whole adapter")
    a, b, rank = sides["A"], sides["B"], config.rank_of(module)
    if len(a.shape) == 1 or len(b.shape) == 1:
        raise _refuse(
            f"module {module}: A {a.shape} and B {b.shape} do not multiply: a flattened part, as FSDP keeps it",
            "gather the parameters before saving, for example with FSDP.summon_full_params",
        )
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1]:
        raise _refuse(f"module {module}: A {a.shape} and B {b.shape} do not multiply", "A is [r, in], B is [out, r]")
    if a.shape[0] != rank:
        raise _refuse(
            f"module {module} has rank {a.shape[0]} in the file and {rank} in the config",
            "upload files that were saved together",
        )
    return PairLayout(a, b, config.scaling_of(module, rank))


def _load_pair(pair: PairLayout, tensors: bytes | memoryview) -> LoraPair:
    # Rounded to half precision, a scaling that is no power of two would cost what PEFT, which keeps it apart, does not.
    b = load_tensor(pair.b, tensors).float().mul_(pair.scaling)
    narrow = b.to(pair.b.dtype)
    is_exact = narrow is b or torch.equal(narrow.float(), b)
    return LoraPair(load_tensor(pair.a, tensors), narrow if is_exact else b)


def load_tensor(spec: TensorSpec, tensors: bytes | memoryview) -> torch.Tensor:
    """One tensor out of the file."""
    # A copy of its own: aligned, writable, and independent of the file's buffer.
    data = bytearray(memoryview(tensors)[spec.start : spec.end])
    return torch.frombuffer(data, dtype=spec.dtype).view(spec.shape)
