"""A file of typical inputs is read as what it is, or refused; never as fragments or as one heap."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ramole.core.errors import InvalidInput
from ramole.core.samples import Samples, SamplesFormat, read_samples

PROMPTS = tuple(f"Question {i}:\nWhat is {i} + {i}?" + "\nAnswer:" * (i % 2) for i in range(20))


def read(tmp_path: Path, data: str | bytes, name: str = "samples.txt", **options: SamplesFormat) -> Samples:
    path = tmp_path / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return read_samples(path, field="--samples", **options)


def test_one_a_line(tmp_path: Path) -> None:
    found = read(tmp_path, "\n\none\n two \nthree\u2028still\n\n")
    assert found == Samples(("one", " two ", "three\u2028still"), SamplesFormat.LINES)
    assert read(tmp_path, "one\r\n\r\ntwo\r\n").texts == ("one", "two")


def test_texts_of_several_lines_stay_whole_and_the_other_reading_is_named(tmp_path: Path) -> None:
    found = read(tmp_path, "\n\n".join(PROMPTS))
    assert found == Samples(PROMPTS, SamplesFormat.PARAGRAPHS, num_lines=50)
    assert read(tmp_path, "\r\n \r\n".join(PROMPTS).replace("\n", "\r\n").replace("\r\r", "\r")).texts == PROMPTS
    forced = read(tmp_path, "\n\n".join(PROMPTS), format=SamplesFormat.LINES)
    assert (len(forced.texts), forced.num_lines) == (50, 0)
    assert read(tmp_path, "a\nb", format=SamplesFormat.PARAGRAPHS).texts == ("a\nb",)


ENTRIES = ("one", "two\nlines", '{"three"}')
LISTS = [
    list(ENTRIES),
    [{"text": entry, "label": 1} for entry in ENTRIES],
    [{"prompt": entry, "completion": "x"} for entry in ENTRIES],
    [{"input": entry, "output": "x"} for entry in ENTRIES],
    [
        {
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": entry},
                {"role": "assistant", "content": "a"},
            ]
        }
        for entry in ENTRIES
    ],
    [{"messages": [{"role": "user", "content": [{"type": "text", "text": entry}]}]} for entry in ENTRIES],
    [{"prompt": [{"role": "user", "content": entry}]} for entry in ENTRIES],
]


@pytest.mark.parametrize("entries", LISTS)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_json_is_known_by_its_content_with_and_without_a_mark(tmp_path: Path, entries: list[object], mark: str) -> None:
    whole = mark + json.dumps(entries, indent=1)
    for name in ("a.json", "a.txt", "a"):
        assert read(tmp_path, whole, name) == Samples(ENTRIES, SamplesFormat.JSON)
    lines = mark + "\n".join(map(json.dumps, entries))
    for name in ("a.jsonl", "a.ndjson", *(("a.json", "a.txt") if isinstance(entries[0], dict) else ())):
        assert read(tmp_path, lines, name) == Samples(ENTRIES, SamplesFormat.JSONL)


@pytest.mark.parametrize(
    "text", ["[INST] hello [/INST]\n[INST] bye [/INST]", "{name} asks\n{name} answers", "[1, 2] sort it\n[3] sort it"]
)
def test_text_that_begins_with_a_bracket_is_text(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text) == Samples(tuple(text.split("\n")), SamplesFormat.LINES)


@pytest.mark.parametrize(
    ("data", "name", "says"),
    [
        ("", "a.txt", "no text"),
        (" \n\n", "a.txt", "no text"),
        ("[]", "a.json", "no text"),
        ('{"a": 1}', "a.json", "no list of texts"),
        ('["a", "b"', "a.json", "not JSON"),
        ('["a", "b"', "a.txt", "not JSON"),
        ('{"text": "a"}\n{"text": "b"', "a.txt", "line 2 of a.txt is not JSON"),
        ('{"text": "a"\n{"text": "b"}', "a.txt", "line 1 of a.txt is not JSON"),
        ("plain", "a.jsonl", "line 1 of a.jsonl is not JSON"),
        ('["a", 1]', "a.json", "entry 2 of a.json has no text"),
        ('["a", " "]', "a.json", "entry 2"),
        ('["\\ud800"]', "a.json", "entry 1 of a.json: character 1"),
        ('[{"text": "a", "prompt": "b"}]', "a.json", "'text', 'prompt'"),
        ('[{"instruction": "translate", "input": "b"}]', "a.json", "'instruction', 'input'"),
        ('[{"question": "b"}]', "a.json", "'question'"),
        ('[{"messages": [{"role": "assistant", "content": "b"}]}]', "a.json", "no text in 'messages'"),
        ('[{"messages": [{"role": "user", "content": [{"type": "image"}]}]}]', "a.json", "no text in 'messages'"),
        ("[" * 100_000, "a.json", "not JSON"),
    ],
)
def test_what_is_not_clear_is_refused_with_its_place(tmp_path: Path, data: str, name: str, says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(tmp_path, data, name)
    assert says in caught.value.message
    assert caught.value.field == "--samples"
    assert caught.value.remedy
