"""What files and tensors are that look like no adapter: people upload them by mistake, and need to be told which."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

# Enough to know a format by.
START_BYTES = 512

_DOWNLOAD_AGAIN = "download it again from the link of the raw file, signed in if that is asked for"
_SAVE_AGAIN = "save the adapter again with PEFT's save_pretrained(..., safe_serialization=True)"
_SAVE_PRETRAINED = "save the adapter with PEFT's save_pretrained, not the model's state_dict"
_PREFIX = "base_model.model."

# Parts of names that wrappers of a model add; they belong to no module.
_WRAPPERS = {
    "_orig_mod": "torch.compile",
    "_fsdp_wrapped_module": "FSDP",
    "_checkpoint_wrapped_module": "activation checkpointing",
    "module": "a data-parallel wrapper",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """What something is, to follow "is", and what to do about it."""

    what: str
    remedy: str


_PICKLE = Finding(
    "a pickle, and pickle files are never read", "load it with PEFT where you trust it, and save it as safetensors"
)
_STARTS: dict[tuple[bytes, ...], Finding] = {
    (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"): _PICKLE,
    (b"GGUF", b"GGLA", b"ggla"): Finding("a file of llama.cpp", "upload the PEFT adapter that it was converted from"),
    (b"PK\x03\x04", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ"): Finding(
        "compressed", "unpack it, and upload what it holds"
    ),
    (b"\x89HDF", b"\x93NUMPY"): Finding("a file of HDF5 or NumPy", _SAVE_AGAIN),
    (bytes(16),): Finding("empty: it begins with zeros, as an unfinished download does", _DOWNLOAD_AGAIN),
}
_PAGE = Finding("a web page, as servers send one in place of a file", _DOWNLOAD_AGAIN)
_TEXT_STARTS: dict[tuple[bytes, ...], Finding] = {
    (b"version https://git-lfs",): Finding(
        "a Git LFS pointer, not the file that it stands for", "run `git lfs pull` and upload that file"
    ),
    (b"<!doctype", b"<html", b"<head", b"<?xml", b"<error"): _PAGE,
    (b"{",): Finding("JSON", "upload each file under its own name"),
}


def about_file(data: bytes) -> Finding | None:
    """What a file that is neither JSON nor safetensors is, judged by its first `START_BYTES`; None = nobody knows."""
    start = data[:START_BYTES]
    if start[8:9] == b"{" and not any(start[4:8]):
        return Finding("a safetensors file, or the beginning of one", "upload it whole, and under its own name")
    if start.startswith(b"PK") and b"data.pkl" in start:  # torch.save writes a zip
        return _PICKLE
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    for known, head in ((_STARTS, start), (_TEXT_STARTS, text[:32].lower())):
        for starts, finding in known.items():
            if head.startswith(starts):
                return finding
    return Finding("text", _DOWNLOAD_AGAIN) if _is_text(text) else None


def _is_text(start: bytes) -> bool:
    return (
        bool(start)
        and start[:64].isascii()
        and all(chr(byte).isprintable() or byte in b"\t\r\n" for byte in start[:64])
    )


_KOHYA = r"^(unet|text_encoder)|^lora_(unet|te\d?|transformer)_|(^|[._])lora_(down|up)(\.|$)|\.alpha$"
_METHODS = r"(^|\.)(prompt_embeddings|ia3_l|hada_w|lokr_w|oft_[rs]|vera_lambda|lora_E$|ranknum)"
_NAMES: tuple[tuple[re.Pattern[str], Finding], ...] = tuple(
    (re.compile(pattern), Finding(what, remedy))
    for pattern, what, remedy in (
        (
            r"\.lora_[AB]\.[^.]+\.weight$",
            "not a LoRA tensor's name as PEFT saves it: it holds the name that the adapter had in memory",
            _SAVE_PRETRAINED,
        ),
        (r"lora_magnitude_vector", "a DoRA magnitude", "train a plain LoRA, with use_dora=False"),
        (r"lora_embedding_", "an embedding LoRA", "train without the embedding among target_modules"),
        (r"modules_to_save", "a whole replaced module", "train without modules_to_save"),
        (r"token_adapter", "trained token embeddings", "train without trainable_token_indices"),
        (r"\.bias", "a bias", "train with bias='none' and lora_bias=False, save with save_embedding_layers=False"),
        (r"base_layer", "a part of a base module other than its weight", _SAVE_AGAIN),
        (
            _KOHYA,
            "not a LoRA tensor's name of PEFT, but one of kohya's scripts or of diffusers",
            "image models are not served; an adapter of a language model must be saved by PEFT",
        ),
        (_METHODS, "a tensor of another method than LoRA", "train a plain LoRA"),
        (
            r"\.lora_[AB]\.weight$",
            f"not a LoRA tensor's name of PEFT: the prefix {_PREFIX} is missing",
            _SAVE_PRETRAINED,
        ),
        (
            r"\.weight$",
            "not a LoRA tensor's name, but a weight of a whole model",
            "upload the adapter without its model",
        ),
    )
)
_NO_LORA = Finding("not a LoRA tensor's name", f"only {_PREFIX}<module>.lora_A.weight and .lora_B.weight are served")


def about_name(name: str) -> Finding:
    """What a tensor is whose name is none of a PEFT LoRA."""
    return next((finding for pattern, finding in _NAMES if pattern.search(name)), _NO_LORA)


def about_module(module: str, known: Collection[str]) -> Finding | None:
    """Why a module that is none of the base model's `known` ones is called as it is; None = it is no name of theirs."""
    if module.startswith(_PREFIX) and module.removeprefix(_PREFIX) in known:
        return Finding(f"named with the prefix {_PREFIX} twice", "wrap the base model by PEFT once, and save that")
    parts = module.split(".")
    wrappers = [part for part in parts if part in _WRAPPERS]
    if wrappers and ".".join(part for part in parts if part not in _WRAPPERS) in known:
        return Finding(
            f"named with {wrappers[0]!r}, which {_WRAPPERS[wrappers[0]]} adds", "unwrap the model before saving it"
        )
    if longer := next((name for name in known if name.endswith(f".{module}")), ""):
        return Finding(
            f"named as in the model without its head: here it is {longer}", "train on AutoModelForCausalLM of this base"
        )
    if shorter := next((name for name in known if module.endswith(f".{name}")), ""):
        return Finding(
            f"named as a part of a larger model: here it is {shorter}", "train on AutoModelForCausalLM of this base"
        )
    return None
