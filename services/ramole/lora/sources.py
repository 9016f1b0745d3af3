"""Where a base model lies: a folder, a hub id, or a GGUF file, which transformers dequantises."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GGUF = ".gguf"


def is_gguf(base: str) -> bool:
    """Whether a base model is a GGUF file."""
    return base.endswith(GGUF)


def base_arguments(base: str, revision: str = "") -> dict[str, Any]:
    """What every ``from_pretrained`` is called with for a base model; `revision` of a hub id, empty = its default."""
    if is_gguf(base):
        path = Path(base)
        return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name, "local_files_only": True}
    return {
        "pretrained_model_name_or_path": base,
        "revision": revision or "main",
        "local_files_only": Path(base).is_dir(),
    }


def empty_model(base: str, revision: str = "") -> PreTrainedModel:
    """The model of a config on the meta device: all modules, no weights.

    Raises:
        WrongState: it cannot be read, or is not a causal language model that this installation knows.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from ramole.core.errors import WrongState

    arguments = base_arguments(base, revision)
    try:
        config = AutoConfig.from_pretrained(**arguments)
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, ImportError) as error:
        raise WrongState(
            f"the config of {base!r} does not describe a causal language model: {str(error)[:300]}",
            field="base_model",
            remedy="name a folder, a hub id or a GGUF file that transformers can load",
        ) from error
    return model


def weight_files(base: str, revision: str = "") -> list[Path]:
    """The safetensors files of a base model that are on this machine."""
    folder = Path(base)
    if is_gguf(base):
        return []
    if not folder.is_dir():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        try:
            folder = Path(snapshot_download(base, revision=revision or None, local_files_only=True))
        except (LocalEntryNotFoundError, HfHubHTTPError, ValueError, OSError):
            return []
    return sorted(folder.glob("*.safetensors"))
