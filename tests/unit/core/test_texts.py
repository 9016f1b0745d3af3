"""What is shown is what was written, and what is no text is refused by the byte."""

from __future__ import annotations

import json
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramole.core.errors import InvalidInput, NotFound
from ramole.core.texts import check_text, lines_of, read_text, visible, visible_json


@pytest.mark.parametrize("text", ["[/x] [wip] :smile: \\x1b", "naïve 漢字 العربية 👩\u200d🔬 नमस्\u200dते", ""])
def test_what_can_be_read_is_shown_as_it_stands(text: str) -> None:
    assert visible(text) == text


def test_no_character_moves_a_cursor_or_turns_a_line() -> None:
    shown = visible("".join(map(chr, range(sys.maxunicode + 1))))
    kinds = {unicodedata.category(char) for char in shown}
    assert not kinds & {"Cc", "Cs", "Zl", "Zp"}
    assert not {unicodedata.bidirectional(char) for char in shown} & {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI"}
    assert visible("a\x1b[31m\u202eb\ud800\n") == "a\\x1b[31m\\u202eb\\ud800\\n"
    assert visible("a\x1b\n\tb", keep="\n\t") == "a\\x1b\n\tb"


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_what_is_shown_can_be_written_and_what_is_sent_too(text: str) -> None:
    visible(text).encode()
    if any("\ud800" <= char <= "\udfff" for char in text):
        with pytest.raises(InvalidInput) as caught:
            check_text(text, field="prompt")
        assert caught.value.field == "prompt"
        str(caught.value).encode()
    else:
        assert check_text(text, field="prompt") == text


@given(st.text(alphabet=st.characters(exclude_categories=("Cs",))))
def test_json_stays_the_same_value(text: str) -> None:
    shown = visible_json(json.dumps({"a": text}, ensure_ascii=False))
    assert json.loads(shown) == {"a": text}
    assert visible(shown) == shown


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_an_encoding_that_names_itself_is_read(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("grüße\n漢".encode(encoding))
    assert read_text(path, field="f") == "grüße\n漢"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("eins\nzwei\ngrüße".encode("latin-1"), ("byte 12", "line 3", "0xfc")),
        ("漢字".encode("utf-16-le")[:-1] + b"\xff", ("0x",)),
        ("plain".encode("utf-16-le"), ("line 1", "zero byte")),
        (b"\xff\xfea", ("UTF-16",)),
    ],
)
def test_another_encoding_is_refused_with_place_and_remedy(tmp_path: Path, data: bytes, says: tuple[str, ...]) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(InvalidInput) as caught:
        read_text(path, field="--samples")
    assert all(word in caught.value.message for word in ("a.txt", *says))
    assert caught.value.field == "--samples"
    assert "UTF-8" in caught.value.remedy


def test_what_is_no_file_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no file"):
        read_text(tmp_path / "none", field="f")
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_text(tmp_path, field="f")


def test_only_line_ends_end_a_line() -> None:
    assert lines_of("a\r\nb\rc\nd\u2028e\x0cf\x85g") == ["a", "b", "c", "d\u2028e\x0cf\x85g"]
