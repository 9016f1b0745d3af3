"""A trained retriever on disk: what was learned on top of a sentence encoder, and where it comes from.

retriever.json       format, mode, base encoder and its digest, instruction, files with digests; tasks, seed, figures
lora/                mode "lora": a PEFT folder; its update is added to the base encoder's weights
encoder/             mode "full": a whole sentence-transformers model, which replaces the base encoder
map.safetensors      optional, any mode: matrix W [m, d] and centre g [d]; e becomes W (e - g), scaled to length 1

With a fingerprint (`fingerprint.py`) e is the encoder's vector and the base model's beside it; the map is then a must.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ramole.core.errors import Corrupt, InvalidInput, NotFound, RamoleError, WrongState
from ramole.lora.digest import sha256_of
from ramole.lora.files import CONFIG_FILE, read_folder

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

FORMAT = 1
MANIFEST = "retriever.json"
LORA, ENCODER, MAP = "lora", "encoder", "map.safetensors"
FIELD = "embedding.retriever"

_MIN_NORM = 1e-6
_TRAIN_AGAIN = "train it again with `ramole train retriever`"

Floats = NDArray[np.float32]


class Mode(StrEnum):
    """What was trained."""

    LORA = "lora"
    FULL = "full"
    NONE = "none"


def unit_rows(vectors: Floats, *, field: str) -> Floats:
    """Scales rows to length 1. Raises RamoleError when one is zero or not finite."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    # Written so that NaN fails as well.
    if not (np.isfinite(norms) & (norms > _MIN_NORM)).all():
        raise RamoleError(
            "the encoder made a vector that is zero or not finite", field=field, remedy="check the encoder's weights"
        )
    rows: Floats = vectors / norms
    return rows


class Read(StrEnum):
    """At which tokens of a text a base model's hidden states are read."""

    LAST = "last"
    """The last one, where the answer begins."""
    MEAN = "mean"
    """The mean over all but the first."""
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class FingerprintOf:
    """The base model whose hidden states a retriever reads: its content digest, which layers, and where."""

    base_sha256: str
    layers: tuple[int, ...]
    read: Read = Read.LAST

    def __str__(self) -> str:
        where = "" if self.read is Read.LAST else f" {self.read}"  # what was made before there was a choice stays valid
        return f"{self.base_sha256} {self.layers}{where}"


@dataclass(frozen=True, slots=True)
class LinearMap:
    """A change of the metric, the same for adapters and prompts.

    Attributes:
        matrix: W, [m, d].
        centre: g, [d].
    """

    matrix: Floats
    centre: Floats

    def __call__(self, vectors: Floats) -> Floats:
        """[n, d] -> rows of length 1, [n, m]."""
        mapped = (vectors - self.centre) @ self.matrix.T
        return unit_rows(mapped.astype(np.float32, copy=False), field=FIELD)


@dataclass(frozen=True, slots=True)
class Retriever:
    """A verified artefact.

    Attributes:
        base, base_sha256: name and content digest of the encoder that it was trained on.
        instruction: put in front of every text.
        fingerprint: the base model that is read as well; None = none.
        files: digests by path in the folder, of all that decides about vectors.
        about: the rest of the manifest: recipe, tasks, seed, figures.
    """

    folder: Path
    mode: Mode
    base: str
    base_sha256: str
    instruction: str
    linear_map: LinearMap | None
    files: Mapping[str, str]
    about: Mapping[str, Any]
    fingerprint: FingerprintOf | None = None

    @property
    def parts(self) -> dict[str, str]:
        """Digests by name of everything beside the encoder that decides about vectors."""
        mark = self.fingerprint
        return {**self.files, **({"fingerprint": str(mark)} if mark else {})}

    def merge_into(self, model: SentenceTransformer) -> None:
        """Adds the LoRA, if there is one, to the weights of the base encoder.

        Raises:
            AdapterRefused: its files are malformed.
            WrongState: it was made for other modules.
        """
        if self.mode is not Mode.LORA:
            return
        import torch

        from ramole.lora.reader import read_adapter

        weights = read_adapter(*read_folder(self.folder / LORA))
        modules = dict(model.transformers_model.named_modules())
        for name, pair in weights.pairs.items():
            weight = getattr(modules.get(name), "weight", None)
            if weight is None or tuple(weight.shape) != (pair.b.shape[0], pair.a.shape[1]):
                raise WrongState(
                    f"the retriever's LoRA has a module {name!r} that the encoder {self.base!r} has not in this shape",
                    field=FIELD,
                    remedy=_TRAIN_AGAIN,
                )
            with torch.no_grad():
                weight += (pair.b.float() @ pair.a.float()).to(weight.dtype)


def read_retriever(folder: Path) -> Retriever:
    """Opens and verifies an artefact.

    Raises:
        NotFound: the folder holds none.
        WrongState: another format.
        Corrupt: the manifest can not be read, or a file is not what it says.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise NotFound(f"no {MANIFEST} in {str(folder)!r}", field=FIELD, remedy=_TRAIN_AGAIN)
    try:
        manifest = json.loads(path.read_text("utf-8"))
        if (found := manifest.pop("format")) != FORMAT:
            raise WrongState(f"the retriever has format {found!r}, not {FORMAT}", field=FIELD, remedy=_TRAIN_AGAIN)
        files: dict[str, str] = manifest.pop("files")
        for name, digest in files.items():
            if not (folder / name).is_file() or sha256_of(folder / name) != digest:
                raise Corrupt(f"{name} of the retriever is damaged or missing", field=FIELD, remedy=_TRAIN_AGAIN)
        mark = manifest.pop("fingerprint", None)
        return Retriever(
            folder=folder,
            fingerprint=mark
            and FingerprintOf(
                str(mark["base_sha256"]), tuple(map(int, mark["layers"])), Read(mark.get("read", Read.LAST))
            ),
            mode=Mode(manifest.pop("mode")),
            base=manifest.pop("base"),
            base_sha256=manifest.pop("base_sha256"),
            instruction=manifest.pop("instruction"),
            linear_map=_read_map(folder / MAP) if MAP in files else None,
            files=files,
            about=manifest,
        )
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise Corrupt(f"{MANIFEST} can not be read: {error!r}", field=FIELD, remedy=_TRAIN_AGAIN) from error


def save_retriever(artefact: Retriever, model: SentenceTransformer) -> Retriever:
    """Writes `artefact`, whose folder is new and whose files are still to come.

    Args:
        model: carries the trained LoRA as PEFT attaches it, or is wholly trained, as the mode says.

    Raises:
        InvalidInput: the folder holds something already.
    """
    folder = artefact.folder
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / MANIFEST).exists():
        raise InvalidInput(f"there is a retriever in {str(folder)!r}", field="--out", remedy="give another folder")
    if artefact.mode is Mode.LORA:
        model.transformers_model.save_pretrained(str(folder / LORA))
        _tidy_config(folder / LORA / CONFIG_FILE, artefact.base)
    elif artefact.mode is Mode.FULL:
        model.save(str(folder / ENCODER), create_model_card=False, safe_serialization=True)
    if artefact.linear_map is not None:
        from safetensors.numpy import save_file

        save_file({"matrix": artefact.linear_map.matrix, "centre": artefact.linear_map.centre}, folder / MAP)
    roots = (folder / LORA, folder / ENCODER)
    paths = sorted(path for root in roots for path in root.rglob("*") if path.is_file())
    paths += [folder / MAP] if artefact.linear_map is not None else []
    done = replace(artefact, files={path.relative_to(folder).as_posix(): sha256_of(path) for path in paths})
    manifest = {
        "format": FORMAT,
        "mode": done.mode,
        "base": done.base,
        "base_sha256": done.base_sha256,
        "instruction": done.instruction,
        "files": done.files,
        **({"fingerprint": asdict(done.fingerprint)} if done.fingerprint else {}),
        **done.about,
    }
    # Last: a folder without it is no retriever.
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
    return done


def _tidy_config(path: Path, base: str) -> None:
    # PEFT writes a path of this machine, and a set in an order that differs from run to run.
    config = json.loads(path.read_text("utf-8"))
    config.update(base_model_name_or_path=base, target_modules=sorted(config["target_modules"]), inference_mode=True)
    path.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", "utf-8")


def _read_map(path: Path) -> LinearMap:
    from safetensors.numpy import load_file

    tensors = load_file(path)
    matrix, centre = tensors["matrix"], tensors["centre"]
    if centre.ndim != 1 or matrix.ndim != 2 or matrix.shape[1] != centre.size:
        raise ValueError(f"{MAP} holds a matrix {matrix.shape} and a centre {centre.shape}")
    return LinearMap(matrix.astype(np.float32), centre.astype(np.float32))
