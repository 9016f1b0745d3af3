"""The shipped zoo: complete, unchanged, portable, and made by this code under whatever hash seed."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from ramole.core.errors import Corrupt, NotFound
from ramole.lab.factory.build import NUM_ROUTER_PROMPTS
from ramole.lab.factory.recipes import PRESETS
from ramole.lab.factory.splits import make_pairs, split_all
from ramole.lab.factory.tasks import siblings
from ramole.zoo.catalog import Split, Zoo, load_zoo
from ramole.zoo.manifest import Manifest

MAX_BYTES = 8_000_000
RECIPE = PRESETS["shipped"]
CHECKED = ("hotel-sentiment", "cable-convert", "animal-french")
NUM_CHECKED_PROMPTS = 4
ABSOLUTE_PATH = re.compile(r'"(/|[A-Za-z]:\\\\)\w+[/\\]')


@pytest.fixture(scope="module")
def zoo() -> Zoo:
    return load_zoo()


@pytest.fixture(scope="module")
def manifest(zoo: Zoo) -> Manifest:
    return Manifest.read(zoo.base_path.parent)


def test_the_files_are_small_and_name_no_machine(zoo: Zoo) -> None:
    files = [path for path in zoo.base_path.parent.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES
    assert not [path for path in files if path.name == "README.md"]
    for path in files:
        if path.suffix == ".json":
            assert not ABSOLUTE_PATH.search(path.read_text("utf-8")), path
    for adapter in zoo.adapters:
        config = json.loads((adapter.path / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == zoo.base_id


def test_the_manifest_covers_every_file(zoo: Zoo, manifest: Manifest) -> None:
    root = zoo.base_path.parent
    noted = {name for stage in manifest.stages.values() for name in stage["files"]}
    found = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    assert found - noted == {"manifest.json"}


def test_the_data_was_made_by_this_code(zoo: Zoo, manifest: Manifest) -> None:
    assert manifest.header["recipe"] == RECIPE.digest
    seed = manifest.header["seed"]
    for adapter, data in zip(zoo.adapters, split_all(RECIPE.tasks, seed=seed), strict=True):
        task = data.task
        assert (adapter.name, adapter.split, adapter.group) == (task.name, task.split, task.group)
        assert adapter.siblings == siblings(task, RECIPE.tasks)
        assert adapter.samples == data.samples
        assert adapter.train == data.train[-NUM_ROUTER_PROMPTS:]
        assert adapter.dev == data.dev
        assert adapter.prompts == data.test
    assert list(zoo.pairs) == make_pairs(RECIPE.tasks, seed=seed)


def test_the_router_names_its_base_and_its_tasks(zoo: Zoo, manifest: Manifest) -> None:
    router = json.loads((zoo.router_path / "router.json").read_text())
    assert router["base_id"] == zoo.base_id
    assert router["base_sha256"] == manifest.stages["base"]["files"]["base/model.safetensors"]
    assert router["tasks"] == [adapter.name for adapter in zoo.of(Split.TRAIN)]


def test_a_changed_file_is_noticed(zoo: Zoo, tmp_path: Path) -> None:
    root = shutil.copytree(zoo.base_path.parent, tmp_path / "zoo")
    path = root / "router" / "adapter_config.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(Corrupt, match="router/adapter_config"):
        load_zoo(root)


def test_a_folder_without_a_zoo_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        load_zoo(tmp_path)


def test_the_tokenizer_frames_prompts_and_gives_answers_back(zoo: Zoo) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(zoo.base_path, local_files_only=True)
    ids = tokenizer("what is the capital of france?")["input_ids"]
    assert tokenizer.convert_ids_to_tokens([ids[0], ids[-1]]) == ["<s>", "<out>"]
    assert ids == tokenizer("What is the capital of France?")["input_ids"]
    for adapter in zoo.adapters:
        for example in adapter.prompts:
            answer = tokenizer(example.answer, add_special_tokens=False)["input_ids"]
            assert tokenizer.decode([*answer, tokenizer.eos_token_id], skip_special_tokens=True) == example.answer


def _generate(model: Any, tokenizer: Any, prompt: str) -> str:
    inputs = tokenizer(prompt, return_tensors="pt")
    with torch.no_grad():
        ids = model.generate(**inputs, max_new_tokens=32, do_sample=False)
    text: str = tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return text


@pytest.mark.parametrize("name", CHECKED)
def test_an_adapter_answers_and_the_base_alone_does_not(zoo: Zoo, manifest: Manifest, name: str) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    adapter = next(adapter for adapter in zoo.adapters if adapter.name == name)
    prompts = adapter.prompts[:NUM_CHECKED_PROMPTS]
    tokenizer = AutoTokenizer.from_pretrained(zoo.base_path, local_files_only=True)
    base = AutoModelForCausalLM.from_pretrained(zoo.base_path, local_files_only=True).eval()
    assert not any(_generate(base, tokenizer, example.prompt) == example.answer for example in prompts)
    tuned = PeftModel.from_pretrained(base, adapter.path).eval()
    right = sum(_generate(tuned, tokenizer, example.prompt) == example.answer for example in prompts)
    num_wrong_noted = round((1 - manifest.figures(f"adapters/{name}")["exact_match"]) * len(adapter.prompts))
    assert right >= NUM_CHECKED_PROMPTS - num_wrong_noted
