"""From settings to a runner and its tokenizer. Blocks while weights are read."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ramole.core.errors import WrongState
from ramole.core.settings import Settings
from ramole.executor.memory_plan import DeviceFacts, Plan, Sizes, make_plan
from ramole.executor.text import TextCodec
from ramole.lora.ranks import slot_rank_for
from ramole.lora.sources import base_arguments, is_gguf

if TYPE_CHECKING:
    import torch

    from ramole.executor.runner import ModelRunner

_log = logging.getLogger(__name__)


class Loaded(NamedTuple):
    """What the engine needs."""

    runner: ModelRunner
    codec: TextCodec
    sizes: Sizes


def plan_of(settings: Settings, *, widest_rank: int = 0, device: DeviceFacts | None = None) -> Plan:
    """What the executor of these settings would take of this machine; reads no weights.

    Args:
        widest_rank: of the adapters that it will serve, for settings that leave `slot_rank` open.
        device: None = as it is now.

    Raises:
        WrongState: there is no such device, the base model cannot be read, or it does not fit.
    """
    from ramole.executor.facts import read_base_facts, read_device_facts
    from ramole.mixture.router import load_router

    options = settings.executor
    device = device or read_device_facts(options.device)
    base = read_base_facts(settings.base_model, settings.base_revision)
    rank = slot_rank_for(widest_rank) if options.slot_rank == "auto" else options.slot_rank
    router_rank = load_router(Path(options.router)).rank if options.router else 0
    return make_plan(options, base, device, slot_rank=rank, router_rank=router_rank)


def load_runner(settings: Settings, *, widest_rank: int = 0) -> Loaded:
    """Plans, then loads everything that the engine needs. Blocks.

    Args:
        widest_rank: see `plan_of`.

    Raises:
        WrongState: the base model or the router does not fit the settings or the device.
    """
    import torch

    from ramole.executor.runner import ModelRunner
    from ramole.mixture.router import load_router

    options = settings.executor
    plan = plan_of(settings, widest_rank=widest_rank)
    _log.info("%s", plan.summary)
    for line in plan.lines():
        _log.info("memory: %s", line)
    sizes = plan.sizes
    torch.set_num_threads(plan.threads)
    if plan.device != "cpu":
        # It would plan anew, for tens of milliseconds, at every new length of a masked batch.
        torch.backends.cuda.enable_cudnn_sdp(False)
    base, revision = settings.base_model, settings.base_revision
    try:
        model = load_model(base, dtype=sizes.dtype, device=plan.device, revision=revision)
        codec = TextCodec.load(
            base,
            model.generation_config,
            revision=revision,
            parse_special_tokens=options.parse_special_tokens,
        )
    except Exception as error:  # each kind of file and architecture has errors of its own
        raise WrongState(
            f"{base!r} cannot be loaded: {type(error).__name__}: {str(error)[:300]}",
            field="base_model",
            remedy="name a GGUF file, or a folder or hub id with a causal language model, its weights and tokenizer",
        ) from error
    runner = ModelRunner(
        model,
        num_slots=sizes.num_slots,
        slot_rank=sizes.slot_rank,
        max_rows=sizes.max_rows,
        max_len=sizes.max_len,
        num_blocks=sizes.kv_blocks,
        router=load_router(Path(options.router)) if options.router else None,
    )
    return Loaded(runner, codec, sizes)


def load_model(path: str, *, dtype: str, device: str, revision: str = "") -> torch.nn.Module:
    """Loads a causal LM from a folder, a GGUF file or a hub id; `revision` of an id, empty = its default.

    On a CPU, weights that are stored in `dtype` are not copied: their pages are those of the file.
    """
    import torch
    import transformers
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # a server's log is no terminal
    arguments: dict[str, Any] = base_arguments(path, revision) | {"dtype": getattr(torch, dtype)}
    if is_gguf(path) and hasattr(transformers, "GgufConfig"):
        # Where it could keep the blocks of the file, it would put modules of its own in place of the Linears.
        arguments["quantization_config"] = transformers.GgufConfig(dequantize=True)
    model: torch.nn.Module = transformers.AutoModelForCausalLM.from_pretrained(**arguments)
    for module in model.modules():
        # bitsandbytes' int8 would compute columns in which some token of the batch is large in another way: one request
        # would change another's answer.
        state: Any = getattr(module, "state", None)
        if getattr(state, "threshold", 0):
            state.threshold = 0.0
    # Quantised ones are where they can be computed already, and cannot all be moved.
    return model.to(device) if next(model.parameters()).device.type == "cpu" else model
