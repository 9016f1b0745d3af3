"""Hidden states of a base model as a second view, from the states themselves to an artefact that is served."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from ramole.app import resolve
from ramole.cli import app
from ramole.core.errors import WrongState
from ramole.core.settings import EmbeddingSettings, Settings
from ramole.embedding.encoder import MINILM, Encoder
from ramole.embedding.fingerprint import LAST_SHARE, Fingerprint
from ramole.embedding.retriever import Read, read_retriever
from ramole.embedding.servicer import EmbeddingService
from ramole.transport.vectors import vector_from_pb
from ramole.v1.embedding_pb2 import EmbedRequest
from ramole.zoo.catalog import ADAPTERS, load_zoo

TEXTS = ["name the first item: a pear, a fig", "say good morning in french", "short"]


@pytest.fixture(scope="module")
def base() -> Path:
    return load_zoo().base_path


def test_a_vector_is_the_last_prompt_token_after_each_layer(base: Path) -> None:
    fingerprint = Fingerprint.open(base)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base).eval(), AutoTokenizer.from_pretrained(base)
    assert fingerprint.layers == (1, 2, 3, 4)
    rows = fingerprint.encode(TEXTS)
    assert rows.shape == (3, fingerprint.dim)
    for text, row in zip(TEXTS, rows, strict=True):
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
        alone = [state[0, -1] / state[0, -1].norm() for state in states[1:]]
        assert np.abs(row - torch.cat(alone).numpy()).max() < 1e-5


def test_the_mean_leaves_out_the_first_token_and_both_stand_side_by_side(base: Path) -> None:
    last, mean, both = (Fingerprint.open(base, read=read) for read in (Read.LAST, Read.MEAN, Read.BOTH))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base).eval(), AutoTokenizer.from_pretrained(base)
    texts = [*TEXTS, "x"]
    rows = mean.encode(texts)
    for text, row in zip(texts, rows, strict=True):
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
        counted = [state[0, 1:] if state.shape[1] > 1 else state[0] for state in states[1:]]
        alone = [one.mean(0) / one.mean(0).norm() for one in counted]
        assert np.abs(row - torch.cat(alone).numpy()).max() < 1e-5
    sides = both.encode(texts)
    assert sides.shape == (4, both.dim)
    expected = np.concatenate([LAST_SHARE * last.encode(texts), rows], axis=1)
    assert np.abs(sides - expected).max() < 1e-5


def test_a_long_text_is_cut_and_a_missing_layer_is_refused(base: Path) -> None:
    fingerprint = Fingerprint.open(base, [2, 4])
    rows = fingerprint.encode(["word " * 5000, TEXTS[0]])
    assert rows.shape == (2, fingerprint.dim)
    assert np.isfinite(rows).all()
    assert np.abs(rows[1] - fingerprint.encode(TEXTS[:1])[0]).max() < 1e-5
    with pytest.raises(WrongState, match="4 layers"):
        Fingerprint.open(base, [5])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command makes of twelve adapters."""
    folder = tmp_path_factory.mktemp("fingerprint")
    adapters = folder / "adapters"
    for path in sorted((load_zoo().base_path.parent / ADAPTERS).iterdir())[:12]:
        shutil.copytree(path, adapters / path.name)
        (adapters / path.name / "task.json").unlink()
    options = ["--out", str(folder / "out"), "--adapters", str(adapters), "--mode", "none", "--share", "0.5"]
    done = CliRunner().invoke(app, ["train", "retriever", *options, "--fingerprint", "zoo", "--json"])
    assert done.exit_code == 0, done.output
    assert "fingerprint_whitened" in json.loads(done.stdout)["figures"]
    return folder / "out"


async def test_the_service_reads_the_base_that_it_serves(trained: Path, base: Path) -> None:
    settings = resolve(Settings(embedding=EmbeddingSettings(retriever=str(trained))))
    service = EmbeddingService(settings)
    await service.start()
    answer = await service.Embed(EmbedRequest(texts=TEXTS), None)  # type: ignore[arg-type]
    await service.close()
    served = np.array([vector_from_pb(vector, field="vectors") for vector in answer.vectors])
    plain = Encoder.load(MINILM, instruction=settings.embedding.instruction, threads=1)
    artefact = read_retriever(trained)
    assert artefact.fingerprint is not None
    assert artefact.fingerprint.read is Read.BOTH
    read = Fingerprint.open(base, read=Read.BOTH)
    expected = np.concatenate([plain.encode(TEXTS), read.encode(TEXTS)], axis=1)
    linear_map = artefact.linear_map
    assert linear_map is not None
    assert np.abs(served - linear_map(expected)).max() < 1e-4
    assert answer.encoder_id != plain.encoder_id


def test_another_base_is_refused(trained: Path, base: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(base, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    for model in (str(other), ""):
        with pytest.raises(WrongState, match="reads a base model") as refusal:
            Encoder.load(MINILM, instruction="", threads=1, retriever=str(trained), base_model=model)
        assert refusal.value.field == "embedding.retriever"


def test_two_views_need_a_common_metric(tmp_path: Path) -> None:
    options = ["--out", str(tmp_path / "out"), "--fingerprint", "zoo", "--no-whiten"]
    done = CliRunner().invoke(app, ["train", "retriever", *options])
    assert done.exit_code != 0
    assert "--no-whiten" in done.stderr
