"""The sentence encoder by torch and by ONNX Runtime: time, difference, and whether the same adapters are found."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from statistics import median
from typing import Any, Literal

import numpy as np
import torch

from ramole.core.settings import PAPER_INSTRUCTION
from ramole.embedding.encoder import MINILM, Encoder
from ramole.lab.bench.serve.options import EncoderCase
from ramole.lab.bench.timing import interleave, ratio
from ramole.zoo.catalog import SHIPPED_RETRIEVER, Zoo, load_zoo

Runtime = Literal["torch", "onnx"]

TORCH: Runtime = "torch"
ONNX: Runtime = "onnx"

_TOP = 5


def run_encoder_case(case: EncoderCase) -> dict[str, Any]:
    """Measures one case in this process, on one thread, while no server runs."""
    zoo = load_zoo()
    runtimes: tuple[Runtime, ...] = (TORCH, ONNX)
    encoders = {runtime: _load(runtime, zoo) for runtime in runtimes}
    prompts = [example.prompt for adapter in zoo.adapters for example in adapter.prompts[: case.num_prompts]]
    batches = {}
    for size in case.sizes:
        texts = prompts[:size]
        contestants = {str(name): partial(encoder.encode, texts) for name, encoder in encoders.items()}
        times = interleave(contestants, rounds=case.rounds, device=torch.device("cpu"))
        batches[size] = {
            "p50_ms": {name: 1000 * median(seconds) for name, seconds in times.items()},
            "onnx_is_faster_by": ratio(times, TORCH, ONNX),
        }
    found, difference = _found(encoders, zoo, prompts)
    return {
        "name": "encoder",
        "kind": "encoder",
        "case": asdict(case),
        "batches": batches,
        "largest_difference": difference,
        "same_top_k": float(np.mean((found[TORCH] == found[ONNX]).all(axis=1))),
        "num_prompts": len(prompts),
    }


def _load(runtime: Runtime, zoo: Zoo) -> Encoder:
    return Encoder.load(
        MINILM,
        instruction=PAPER_INSTRUCTION,
        threads=1,
        retriever=str(SHIPPED_RETRIEVER),
        base_model=str(zoo.base_path),
        runtime=runtime,
    )


def _found(
    encoders: dict[Runtime, Encoder], zoo: Zoo, prompts: list[str]
) -> tuple[dict[Runtime, np.ndarray[Any, Any]], float]:
    """The nearest adapters of each prompt, in order, and the largest difference of one number of its vectors."""
    found, vectors = {}, {}
    for name, encoder in encoders.items():
        means = np.stack([encoder.encode(list(adapter.samples)).mean(axis=0) for adapter in zoo.adapters])
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        vectors[name] = np.concatenate([encoder.encode(prompts[i : i + 16]) for i in range(0, len(prompts), 16)])
        found[name] = np.argsort(-(vectors[name] @ means.T), axis=1)[:, :_TOP]
    return found, float(np.abs(vectors[TORCH] - vectors[ONNX]).max())
