"""Checks of what computes: libraries, device, models."""

from __future__ import annotations

import os
import platform
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from ramole.app.doctor.findings import Case, Finding
from ramole.app.preflight import check_models
from ramole.lora.sources import is_gguf

_SHOWN = ("torch", "transformers", "sentence-transformers", "onnxruntime", "ray", "pymilvus", "milvus-lite", "grpcio")


def libraries(_: Case) -> Finding:
    """Whether what the extra `serve` asks for is installed, in the versions that it asks for."""
    wrong = []
    try:
        asked = [Requirement(text) for text in metadata.requires("ramole") or ()]
    except metadata.PackageNotFoundError:
        return Finding.warning("ramole is not installed as a package", "pip install 'ramole[serve]'")
    for each in asked:
        if each.marker is not None and not each.marker.evaluate({"extra": "serve"}):
            continue
        found = _version(each.name)
        if not found:
            wrong.append(f"{each.name} is missing")
        elif not each.specifier.contains(found, prereleases=True):
            wrong.append(f"{each.name} is {found}, not {each.specifier}")
    if wrong:
        return Finding.failed("; ".join(wrong), "pip install 'ramole[serve]', with constraints.txt for tried versions")
    shown = ", ".join(f"{name} {_version(name)}" for name in _SHOWN)
    return Finding.ok(f"ramole {_version('ramole')}, Python {platform.python_version()}, {shown}")


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def device(case: Case) -> Finding:
    """Whether the device of the engine is there, and whether the threads fit the cores."""
    import torch

    from ramole.executor.facts import read_device_facts
    from ramole.executor.memory_plan import threads_of

    settings = case.settings
    case.device = facts = read_device_facts(settings.executor.device)
    num_gpus, cores = torch.cuda.device_count(), len(os.sched_getaffinity(0))
    says = f"{facts.device}; {cores} cores, {num_gpus} GPUs that torch {torch.__version__} can use"
    threads = threads_of(settings.executor, facts) * settings.executor.replicas
    threads += settings.embedding.threads * settings.embedding.replicas
    if threads > cores:
        remedy = "lower executor.threads or embedding.threads: more threads than cores wait for each other"
        return Finding.warning(f"{says}; engine and encoder use {threads} threads", remedy, field="executor.threads")
    if settings.executor.device == "cpu" and num_gpus:
        return Finding.warning(says, "set executor.device to cuda to use a GPU", field="executor.device")
    return Finding.ok(says)


def base_model(case: Case) -> Finding:
    """Whether config, weights and tokenizer are there and can be read. Loads no weights."""
    from ramole.executor.text import TextCodec
    from ramole.lora.base import read_base_shapes

    settings = case.settings
    check_models(settings)
    base, revision = settings.base_model, settings.base_revision
    shapes = read_base_shapes(base, settings.base_id, revision)
    try:
        codec = TextCodec.load(base, None, revision=revision)
    except Exception as error:  # each kind of tokenizer has errors of its own
        said = " ".join(str(error).split())
        remedy = "name a folder or hub id with a tokenizer that transformers can load"
        return Finding.failed(f"{base!r} has no tokenizer that can be read: {said[:200]}", remedy, field="base_model")
    template = "a chat template" if codec.has_chat_template else "no chat template"
    says = f"{settings.base_id}: {len(shapes.modules)} modules, {template}"
    if is_gguf(base):
        return Finding.ok(f"{says}; the weights of the GGUF file are dequantised, and take more memory than it")
    if not shapes.norms:
        if Path(base).is_dir():
            return Finding.failed(
                f"{base!r} has no weights", "name a folder with safetensors files", field="base_model"
            )
        return Finding.warning(f"{says}; its weights are not on this machine", "nothing: the start fetches them")
    return Finding.ok(says)


def memory(case: Case) -> Finding:
    """What the executor would take of the device: it would start, or be refused. Reads no weights."""
    from ramole.executor.loading import plan_of

    device = case.device
    if device is None:
        return Finding.failed("the device is not known", "mend that first", field="executor.device")
    if case.runs:  # what is not free may be its own
        device = replace(device, free_bytes=device.total_bytes)
    case.plan = plan_of(case.settings, widest_rank=case.widest_rank, device=device)
    return Finding.ok(case.plan.summary)


def router(case: Case) -> Finding:
    """Whether the RouterLoRA can be read."""
    from ramole.mixture.router import load_router

    folder = case.settings.executor.router
    if not folder:
        return Finding.ok("none: routed compositions are refused")
    pairs = load_router(Path(folder)).pairs
    return Finding.ok(f"{folder}: {len(pairs)} modules")


def encoder(case: Case) -> Finding:
    """Whether encoder and retriever can be loaded. Loads them, as only that tells who they are."""
    from ramole.embedding.encoder import Encoder

    options = case.settings.embedding
    loaded = Encoder.load(
        options.encoder,
        instruction=options.instruction,
        threads=options.threads,
        retriever=options.retriever,
        base_model=case.settings.base_model,
        runtime="onnx" if options.runtime == "onnx" else "torch",  # what `auto` tries takes long, and cannot fail
    )
    case.encoder_id = loaded.encoder_id
    retriever = f", retriever {options.retriever}" if options.retriever else ", no trained retriever"
    return Finding.ok(f"{loaded.encoder_id}: {loaded.dim} dimensions{retriever}")
