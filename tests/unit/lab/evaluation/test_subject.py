"""A user's own adapters and test file: read, or refused by the name of what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ramole.core.errors import InvalidInput, NotFound
from ramole.lab.evaluation.subject import folder_subject, zoo_subject
from ramole.zoo.catalog import Zoo


def test_a_folder_is_read_like_the_zoo(zoo: Zoo, adapters: Path) -> None:
    mine, theirs = folder_subject(zoo.base_path, adapters, routers=[zoo.router_path]), zoo_subject(zoo)
    by_name = {entry.name: entry for entry in theirs.entries}
    for entry in mine.entries:
        known = by_name[entry.name]
        assert (entry.samples, entry.train, entry.tests) == (known.samples, known.train, known.tests)
        assert entry.is_trained == known.is_trained
    assert {entry.is_trained for entry in theirs.entries} == {True, False}


def test_a_test_file_replaces_the_folders_own_prompts(zoo: Zoo, adapters: Path, tmp_path: Path) -> None:
    first, second = sorted(path.name for path in adapters.iterdir())[:2]
    file = tmp_path / "tests.jsonl"
    lines = [
        {"prompt": "a", "answer": "b", "adapter": second},
        {"prompt": "c", "answer": "d", "adapters": [first, second]},
    ]
    file.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    subject = folder_subject(zoo.base_path, adapters, tests=file)
    assert [len(entry.tests) for entry in subject.entries] == [0, 1, 0, 0, 0, 0]
    assert subject.two_skill[0].adapters == (0, 1)
    assert not any(entry.is_trained for entry in subject.entries)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2"),
        ('{"prompt": "a", "adapter": "x"}', "line 2"),
        ('["a"]', "line 2"),
        ('{"prompt": "a", "answer": "b", "adapter": "nobody"}', "'nobody'"),
    ],
)
def test_a_bad_line_is_named(zoo: Zoo, adapters: Path, tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "tests.jsonl"
    file.write_text("\n" + line)
    with pytest.raises(InvalidInput, match=message):
        folder_subject(zoo.base_path, adapters, tests=file)


def test_folders_without_what_is_needed_are_refused(zoo: Zoo, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no PEFT folder"):
        folder_subject(zoo.base_path, tmp_path)
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(NotFound, match=r"samples\.json"):
        folder_subject(zoo.base_path, tmp_path)
    (folder / "samples.json").write_text('{"a": 1}')
    with pytest.raises(InvalidInput, match="list of texts"):
        folder_subject(zoo.base_path, tmp_path)
    (folder / "samples.json").write_text('["a"]')
    (folder / "prompts.json").write_text('[{"prompt": "a"}]')
    with pytest.raises(InvalidInput, match=r"prompts\.json"):
        folder_subject(zoo.base_path, tmp_path)
