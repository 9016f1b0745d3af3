"""The engine without a server, on the shipped zoo."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ramole.core.composition import PRESETS, Expert
from ramole.core.errors import AdapterRefused, InvalidInput, NotFound
from ramole.core.sampling import Sampling
from ramole.core.settings import ExecutorSettings
from ramole.executor.offline import OfflineEngine
from ramole.zoo.catalog import load_zoo

SHORT = Sampling(max_tokens=24)


@pytest.fixture(scope="module")
def engine() -> OfflineEngine:
    zoo = load_zoo()
    settings = ExecutorSettings(router=str(zoo.router_path), num_slots=9)
    return OfflineEngine(zoo.base_path, {adapter.name: adapter.path for adapter in zoo.adapters}, settings=settings)


def test_adapters_answer_their_own_prompts_in_one_batch(engine: OfflineEngine) -> None:
    adapters = load_zoo().adapters  # more than there are slots
    answers = engine.generate([a.prompts[0].prompt for a in adapters], [[a.name] for a in adapters], sampling=SHORT)
    right = [answer == a.prompts[0].answer for answer, a in zip(answers, adapters, strict=True)]
    assert sum(right) >= 0.9 * len(right)
    assert engine.generate([adapters[0].prompts[0].prompt], sampling=SHORT) != answers[:1]


def test_a_stop_string_and_a_seed(engine: OfflineEngine) -> None:
    adapters = load_zoo().adapters
    name, prompt = adapters[0].name, adapters[0].prompts[0]
    word = prompt.answer.split()[-1]
    cut = engine.generate([prompt.prompt], [[name]], sampling=Sampling(max_tokens=24, stop=(word,)))
    assert cut == [prompt.answer[: prompt.answer.index(word)]]
    sampling = Sampling(max_tokens=12, temperature=1.5, seed=3)
    experts = [[Expert(name, similarity=0.9), Expert(adapters[1].name, similarity=0.8)]]
    once, again = (
        engine.generate([prompt.prompt], experts, composition=PRESETS["ramole_prior"], sampling=sampling)
        for _ in range(2)
    )
    assert once == again


def test_mistakes_are_named_and_leave_the_engine_usable(engine: OfflineEngine, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="adapter lists"):
        engine.generate(["a", "b"], [["x"]])
    with pytest.raises(NotFound, match="nobody"):
        engine.generate(["a", "b"], [["nobody"], []])
    assert not engine.engine.has_work
    assert len(engine.generate(["a"], sampling=SHORT)) == 1


def test_a_folder_is_judged_as_an_upload_is(tmp_path: Path) -> None:
    zoo = load_zoo()
    good = zoo.adapters[0]
    shutil.copytree(good.path, tmp_path / "surplus")
    config = tmp_path / "surplus" / "adapter_config.json"
    raw = json.loads(config.read_text())
    config.write_text(json.dumps(raw | {"target_modules": raw["target_modules"][:1]}))
    adapters = {"surplus": tmp_path / "surplus", good.name: good.path}
    with OfflineEngine(zoo.base_path, adapters, settings=ExecutorSettings(router="", num_slots=3)) as engine:
        with pytest.raises(AdapterRefused, match="does not select, and PEFT would"):
            engine.generate([good.prompts[0].prompt], [["surplus"]], sampling=SHORT)
        assert engine.generate([good.prompts[0].prompt], [[good.name]], sampling=SHORT)
