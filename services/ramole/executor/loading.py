"""From settings to a runner and its tokenizer. Blocks while weights are read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ramole.core.errors import WrongState
from ramole.core.settings import Settings
from ramole.executor.text import TextCodec

if TYPE_CHECKING:
    from ramole.executor.runner import ModelRunner


def load_runner(settings: Settings) -> tuple[ModelRunner, TextCodec]:
    """Loads everything that the engine needs. Blocks.

    Raises:
        WrongState: the base model or the router does not fit the settings.
    """
    import torch

    from ramole.executor.runner import ModelRunner, load_model
    from ramole.mixture.router import load_router

    options = settings.executor
    torch.set_num_threads(options.threads)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise WrongState("no CUDA device", field="executor.device", remedy="set it to cpu")
    base, revision = settings.base_model, settings.base_revision
    try:
        model = load_model(base, dtype=options.dtype, device=options.device, revision=revision)
        codec = TextCodec.load(
            base, model.generation_config, revision=revision, parse_special_tokens=options.parse_special_tokens
        )
    except Exception as error:  # each kind of file and architecture has errors of its own
        raise WrongState(
            f"{base!r} cannot be loaded: {type(error).__name__}: {str(error)[:300]}",
            field="base_model",
            remedy="name a folder or hub id with a causal language model, its weights and its tokenizer",
        ) from error
    runner = ModelRunner(
        model,
        num_slots=options.num_slots,
        slot_rank=options.slot_rank,
        max_rows=options.max_rows,
        max_len=options.max_len,
        num_blocks=options.kv_blocks or None,
        router=load_router(Path(options.router)) if options.router else None,
    )
    return runner, codec
