"""Hidden states of a base model as a second view, from the states themselves to an artefact that is served."""

from __future__ import annotations

import json
import shutil
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from ramole.app import resolve
from ramole.cli import app
from ramole.core.errors import InvalidInput, WrongState
from ramole.core.settings import EmbeddingSettings, ExecutorSettings, PlainSettings, ServerSettings, Settings
from ramole.embedding.encoder import MINILM, Asked, Encoder
from ramole.embedding.executor_states import ExecutorStates
from ramole.embedding.fingerprint import LAST_SHARE, Fingerprint
from ramole.embedding.retriever import Read, read_retriever
from ramole.embedding.servicer import EmbeddingService
from ramole.executor.servicer import ExecutorService
from ramole.transport.peers import Peers
from ramole.transport.picker import DirectoryPicker
from ramole.transport.server import GrpcServer
from ramole.transport.vectors import vector_from_pb
from ramole.v1.embedding_pb2 import AnswerSoFar, EmbedRequest
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


def test_behind_an_answer_the_state_is_of_its_last_token(base: Path) -> None:
    fingerprint, tokenizer = Fingerprint.open(base), AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    answers = [[5, 9, 7], [], [11]]
    rows = fingerprint.encode(TEXTS, answers)
    for text, answer, row in zip(TEXTS, answers, rows, strict=True):
        with torch.no_grad():
            ids = torch.tensor([[*tokenizer(text)["input_ids"], *answer]])
            states = model(ids, output_hidden_states=True).hidden_states
        alone = [state[0, -1] / state[0, -1].norm() for state in states[1:]]
        assert np.abs(row - torch.cat(alone).numpy()).max() < 1e-5
    assert np.abs(fingerprint.encode(["word " * 5000], [[5, 9]]) - rows[0]).max() > 0.01, "the text is cut, not they"
    with pytest.raises(InvalidInput, match="no such token"):
        fingerprint.encode(TEXTS[:1], [[10**6]])


async def test_where_an_answer_goes_on_the_sentence_is_known(trained: Path, base: Path) -> None:
    settings = resolve(Settings(embedding=EmbeddingSettings(retriever=str(trained))))
    service = EmbeddingService(settings)
    await service.start()
    encoder, read = service._encoders[0][0], []
    embed = encoder._embed
    encoder._embed = lambda texts: (read.append(texts), embed(texts))[1]  # type: ignore[method-assign, func-returns-value]

    async def vectors(texts: list[str], *answers: list[int]) -> np.ndarray:
        asked = EmbedRequest(texts=texts, answers=[AnswerSoFar(token_ids=tokens) for tokens in answers])
        answer = await service.Embed(asked, None)  # type: ignore[arg-type]
        return np.array([vector_from_pb(vector, field="vectors") for vector in answer.vectors])

    first = await vectors(TEXTS[:1])
    behind, new = await vectors(TEXTS[:2], [5, 9], [5, 9])
    assert [len(texts) for texts in read] == [1, 1], "of the second the first text is known"
    assert np.abs(behind - first[0]).max() > 1e-3
    assert np.abs((await vectors(TEXTS[:2], [5, 9], [5, 9])) - [behind, new]).max() < 1e-5
    assert len(read) == 2
    with pytest.raises(InvalidInput, match="2 answers to 1 texts"):
        await vectors(TEXTS[:1], [1], [2])
    await service.close()


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


async def test_the_executors_may_read_the_base_instead(trained: Path, base: Path, tmp_path: Path) -> None:
    """The same vectors, and no second copy of the base."""
    options = EmbeddingSettings(retriever=str(trained), states="executor")
    settings = resolve(
        PlainSettings(embedding=options, data_dir=tmp_path, executor=ExecutorSettings(max_rows=2, slot_rank=16))
    )
    directory: dict[str, str] = {}
    peers = Peers(partial(DirectoryPicker, directory))
    async with AsyncExitStack() as stack:
        stack.push_async_callback(peers.close)
        executor = GrpcServer(ExecutorService(settings, peers), ServerSettings())
        stack.push_async_callback(executor.stop)
        service = EmbeddingService(settings, peers)
        await service.start()  # before there is an executor
        stack.push_async_callback(service.close)
        await executor.start()
        directory["executor"] = executor.address
        texts = [*TEXTS, "word " * 500]
        asked = EmbedRequest(texts=texts, answers=[AnswerSoFar(token_ids=ids) for ids in ([], [5, 9], [], [])])
        answer = await service.Embed(asked, None)  # type: ignore[arg-type]
        served = np.array([vector_from_pb(vector, field="vectors") for vector in answer.vectors])
        assert isinstance(service._encoders[0][0]._fingerprint, ExecutorStates)
    own = Encoder.load(
        MINILM, instruction=settings.embedding.instruction, threads=1, retriever=str(trained), base_model=str(base)
    )
    wanted = own.encode_asked([Asked(TEXTS[0]), Asked(TEXTS[1], (5, 9)), Asked(TEXTS[2])])
    assert answer.encoder_id == own.encoder_id
    assert np.abs(served[:3] - wanted).max() < 1e-4
    assert np.isfinite(served).all()


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
