"""ONNX Runtime instead of torch: the same vectors, the same adapters found, or the model as it is."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from ramole.core.errors import WrongState
from ramole.core.settings import PAPER_INSTRUCTION
from ramole.embedding.encoder import MINILM, Encoder
from ramole.embedding.onnx_form import TOLERANCE, OnnxForm
from ramole.zoo.catalog import SHIPPED_RETRIEVER, load_zoo


def load(runtime: str) -> Encoder:
    return Encoder.load(
        MINILM,
        instruction=PAPER_INSTRUCTION,
        threads=1,
        retriever=str(SHIPPED_RETRIEVER),
        base_model=str(load_zoo().base_path),
        runtime=runtime,  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def both() -> tuple[Encoder, Encoder]:
    return load("torch"), load("onnx")


@pytest.mark.parametrize(
    "texts", [["a"], ["two", "three words here"], ["x " * 3000, "short"], [f"number {'and ' * n}" for n in range(33)]]
)
def test_the_vectors_are_those_of_the_model(both: tuple[Encoder, Encoder], texts: list[str]) -> None:
    by_torch, by_onnx = both
    assert by_torch.encoder_id == by_onnx.encoder_id
    assert np.abs(by_torch.encode(texts) - by_onnx.encode(texts)).max() < TOLERANCE


def test_the_shipped_prompts_find_the_same_adapters_in_the_same_order(both: tuple[Encoder, Encoder]) -> None:
    zoo = load_zoo()
    prompts = [adapter.prompts[0].prompt for adapter in zoo.adapters]
    orders = []
    for encoder in both:
        means = np.stack([encoder.encode(list(adapter.samples[:6])).mean(0) for adapter in zoo.adapters])
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        orders.append(np.argsort(-(encoder.encode(prompts) @ means.T), axis=1)[:, :5])
    assert (orders[0] == orders[1]).all()


def test_a_graph_with_other_vectors_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    honest = OnnxForm.__call__
    monkeypatch.setattr(OnnxForm, "__call__", lambda self, texts: honest(self, texts) + 1e-3)
    with pytest.raises(WrongState, match=r"embedding\.runtime.*differ"):
        Encoder.load(MINILM, instruction="", threads=1, runtime="onnx")
    with caplog.at_level(logging.WARNING):
        encoder = Encoder.load(MINILM, instruction="", threads=1, runtime="auto")
    assert "runs on torch" in caplog.text
    assert isinstance(encoder.encode(["hello"]), np.ndarray)


def test_a_model_without_a_graph_runs_on_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no operator of that name")

    monkeypatch.setattr(torch.onnx, "export", refuse)
    with pytest.raises(WrongState, match="no operator of that name"):
        Encoder.load(MINILM, instruction="", threads=1, runtime="onnx")
    encoder = Encoder.load(MINILM, instruction="", threads=1, runtime="auto")
    assert encoder.encode(["hello"]).shape == (1, 384)
