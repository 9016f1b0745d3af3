"""An adapter from JSON lines: what is learned, what is written along, and how a stopped training goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoTokenizer
from typer.testing import CliRunner

from ramole.cli import app
from ramole.core.errors import InvalidInput, WrongState
from ramole.lab.training.adapter_job import (
    CHECKPOINTS,
    IGNORED,
    AdapterJob,
    AdapterRecipe,
    encode_example,
    read_examples,
    run_adapter_job,
)
from ramole.lora.files import read_folder
from ramole.lora.reader import read_adapter
from ramole.zoo.catalog import Example, load_zoo

RECIPE = AdapterRecipe(rank=4, targets=("q_proj", "v_proj"), epochs=2, batch=8, lr=5e-3)


def data_of(path: Path, num: int = 24) -> Path:
    task = next(one for one in load_zoo().adapters if one.name == "hotel-sentiment")
    path.write_text("\n".join(json.dumps({"prompt": e.prompt, "answer": e.answer}) for e in task.train[:num]))
    return path


@pytest.fixture
def job(tmp_path: Path) -> AdapterJob:
    zoo = load_zoo()
    return AdapterJob(str(zoo.base_path), zoo.base_id, data_of(tmp_path / "data.jsonl"), tmp_path / "out", RECIPE)


def test_what_it_learns_is_better_than_before_and_can_be_uploaded(job: AdapterJob) -> None:
    seen: list[float] = []
    figures = run_adapter_job(job, progress=lambda what, done: seen.append(done))
    assert figures["loss"] < figures["loss_before"]
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1)
    weights = read_adapter(*read_folder(job.out))
    assert {name.rpartition(".")[2] for name in weights.pairs} == {"q_proj", "v_proj"}
    assert weights.rank == 4
    config = json.loads((job.out / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == job.base_id
    prompts = json.loads((job.out / "prompts.json").read_text())
    samples = json.loads((job.out / "samples.json").read_text())
    held_out = {entry["prompt"] for entry in prompts["test"]}
    assert held_out
    assert held_out.isdisjoint(samples), "what is asked later was not uploaded"
    assert {entry["prompt"] for entry in prompts["train"]} >= set(samples)
    assert not (job.out / CHECKPOINTS).exists()
    with pytest.raises(InvalidInput, match="there is an adapter"):
        run_adapter_job(job)


def test_a_stopped_training_goes_on_to_the_same_end(job: AdapterJob, tmp_path: Path) -> None:
    whole = run_adapter_job(replace(job, out=tmp_path / "whole"))

    def stop(what: str, done: float) -> None:
        if done > 0.6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_adapter_job(job, progress=stop)
    assert list((job.out / CHECKPOINTS).glob("checkpoint-*"))
    with pytest.raises(WrongState, match="other settings"):
        run_adapter_job(replace(job, seed=1))
    steps: list[float] = []
    again = run_adapter_job(job, progress=lambda what, done: steps.append(done))
    assert min(step for step in steps if step) > 0.5, "the first epoch is not trained again"
    assert (again["steps"], again["loss"]) == (whole["steps"], pytest.approx(whole["loss"], abs=1e-3))


def test_only_answers_are_learned(job: AdapterJob) -> None:
    tokenizer = AutoTokenizer.from_pretrained(job.base)
    found = encode_example(tokenizer, Example("is it good? the room was fine", "it is good"), RECIPE)
    learned = [label for label in found.labels if label != IGNORED]
    assert tokenizer.decode(learned, skip_special_tokens=True) == "it is good"
    assert learned[-1] == tokenizer.eos_token_id
    assert found.input_ids[: -len(learned)] == tokenizer("is it good? the room was fine")["input_ids"]


def test_a_chat_template_stands_around_the_prompt(job: AdapterJob) -> None:
    tokenizer = AutoTokenizer.from_pretrained(job.base)
    with pytest.raises(InvalidInput, match="no chat template"):
        encode_example(tokenizer, Example("a", "b"), replace(RECIPE, is_chat=True))
    tokenizer.chat_template = "{% for m in messages %}say {{ m.content }} now{% endfor %}"
    found = encode_example(tokenizer, Example("hello", "yes"), replace(RECIPE, is_chat=True))
    assert tokenizer.decode(found.input_ids).startswith("say hello now")


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ('{"prompt": "a", "answer": ""}', "line 5"),
        ('{"prompt": "a"}', "line 5"),
        ('["a", "b"]', "line 5"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "line 5"),
        ("{", "line 5"),
    ],
)
def test_what_is_no_example_is_named(tmp_path: Path, line: str, wanted: str) -> None:
    path = data_of(tmp_path / "data.jsonl", 4)
    path.write_text(path.read_text() + "\n" + line)
    with pytest.raises(InvalidInput, match=wanted):
        read_examples(path)


def test_chats_are_examples_and_repetitions_count_once(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    chats = [
        {"messages": [{"role": "user", "content": f"q{i % 5}"}, {"role": "assistant", "content": "a"}]}
        for i in range(9)
    ]
    path.write_text("\n".join(map(json.dumps, chats)))
    assert read_examples(path) == [Example(f"q{i}", "a") for i in range(5)]
    path.write_text("\n".join(map(json.dumps, chats[:3])))
    with pytest.raises(InvalidInput, match="3 different"):
        read_examples(path)


def test_errors_of_the_command_are_one_line(tmp_path: Path) -> None:
    data = data_of(tmp_path / "data.jsonl", 8)
    for more in (["--max-len", "8"], ["--held-out", "2"], ["--lr", "-1"]):
        done = CliRunner().invoke(app, ["train", "adapter", "--data", str(data), "--out", str(tmp_path / "o"), *more])
        assert done.exit_code == 1, done.output
        assert len(done.stderr.strip().splitlines()) <= 2
