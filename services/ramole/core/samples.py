"""Files of typical inputs: a JSON list, JSON lines, texts that blank lines separate, or one text a line.

| format     | what it looks like                                                          |
|------------|-----------------------------------------------------------------------------|
| json       | one list of entries                                                         |
| jsonl      | one entry a line, each an object                                            |
| paragraphs | a text is what stands between two blank lines, with its own line ends       |
| lines      | a text is a line that is not blank                                          |

An entry is a string, or an object with one of the keys `KEYS`. ``.json`` and ``.jsonl`` are JSON whatever is in them.
Any other file is JSON when it begins as such, and else text: of paragraphs as soon as a blank line stands between two
lines, for then its texts may have several lines each.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from ramole.core.errors import InvalidInput
from ramole.core.texts import check_text, lines_of, read_text, visible

KEYS = ("text", "prompt", "input", "messages")
"""Where an object has its text. ``messages`` is a chat, whose last message of the user is taken."""

_JSON_LINES = (".jsonl", ".ndjson")
# "[INST] ..." is a text: a list of entries begins with a string or an object, or ends at once.
_BEGINS_LIST = re.compile(r'\[\s*(["{\]]|$)')


class SamplesFormat(StrEnum):
    """How a file of texts is laid out."""

    LINES = "lines"
    PARAGRAPHS = "paragraphs"
    JSON = "json"
    JSONL = "jsonl"


@dataclass(frozen=True, slots=True)
class Samples:
    """What a file holds.

    Attributes:
        texts: in the order of the file, as they stand there.
        format: as which it was read.
        num_lines: texts that the same file would be, read as one a line; 0 unless that is another reading of it.
    """

    texts: tuple[str, ...]
    format: SamplesFormat
    num_lines: int = 0


def read_samples(path: Path, *, format: SamplesFormat | None = None, field: str = "samples") -> Samples:
    """Reads typical inputs, e.g. for `RamoleClient.upload`.

    Args:
        format: None = told by the file's ending and content, see above.
        field: what errors call the file.

    Raises:
        NotFound: there is no such file.
        InvalidInput: it is not of its format, of no known encoding, or holds no text; names the line or entry at fault.
    """
    text = read_text(path, field=field)
    chosen = format or _format_of(path, text)
    name = visible(path.name)
    match chosen:
        case SamplesFormat.JSON:
            texts = [_text(entry, where, field) for where, entry in _entries(text, name, field)]
        case SamplesFormat.JSONL:
            texts = [_text(entry, f"line {line} of {name}", field) for line, entry in json_lines(text, name, field)]
        case SamplesFormat.PARAGRAPHS:
            texts = _paragraphs(text)
        case SamplesFormat.LINES:
            texts = _full_lines(text)
    if not texts:
        raise InvalidInput(f"{name} holds no text", field=field, remedy="give typical inputs, one a line")
    is_open = chosen is SamplesFormat.PARAGRAPHS and format is None
    num_lines = len(_full_lines(text)) if is_open else 0
    return Samples(tuple(texts), chosen, 0 if num_lines == len(texts) else num_lines)


def json_lines(text: str, name: str, field: str) -> Iterator[tuple[int, Any]]:
    """The values of a JSON Lines file with the numbers of their lines. Raises InvalidInput: a line is not JSON."""
    for number, line in enumerate(lines_of(text), start=1):
        if line.strip():
            yield number, _parsed(line, f"line {number} of {name}", field)


def read_json(path: Path, *, field: str) -> Any:
    """One JSON value. Raises NotFound, or InvalidInput when the file is not JSON."""
    return _parsed(read_text(path, field=field), visible(str(path)), field)


def _format_of(path: Path, text: str) -> SamplesFormat:
    ending, begin = path.suffix.lower(), text.lstrip()
    if ending == ".json" and _is_object(text):
        return SamplesFormat.JSON
    if ending in _JSON_LINES or (begin.startswith("{") and any(map(_is_object, lines_of(text)))):
        return SamplesFormat.JSONL
    if ending == ".json" or _BEGINS_LIST.match(begin) or (begin.startswith("{") and _is_object(text)):
        return SamplesFormat.JSON
    paragraphs = _paragraphs(text)
    has_long = any("\n" in paragraph for paragraph in paragraphs)
    return SamplesFormat.PARAGRAPHS if has_long and len(paragraphs) > 1 else SamplesFormat.LINES


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _full_lines(text: str) -> list[str]:
    return [line for line in lines_of(text) if line.strip()]


def _paragraphs(text: str) -> list[str]:
    found: list[list[str]] = [[]]
    for line in lines_of(text):
        if line.strip():
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return ["\n".join(lines) for lines in found if lines]


def _entries(text: str, name: str, field: str) -> Iterator[tuple[str, Any]]:
    value = _parsed(text, name, field)
    if not isinstance(value, list):
        raise InvalidInput(f"{name} holds no list of texts", field=field, remedy="give a JSON list of typical inputs")
    for number, entry in enumerate(value, start=1):
        yield f"entry {number} of {name}", entry


def _parsed(text: str, where: str, field: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            f"{where} is not JSON: {error}",
            field=field,
            remedy="repair it, or say that its format is lines or paragraphs if it holds plain texts",
        ) from None


def _text(entry: Any, where: str, field: str) -> str:
    """The text of one entry. Raises InvalidInput when it has none, or when it is not clear which."""
    value, key = entry, ""
    if isinstance(entry, Mapping):
        keys = [key for key in KEYS if key in entry]
        if len(keys) != 1 or "instruction" in entry:
            found = ", ".join(repr(key) for key in list(entry)[:8]) or "nothing"
            raise InvalidInput(
                f"{where} holds {found}: it is not clear what the text is",
                field=field,
                remedy=f"give strings, or objects with one of the keys {', '.join(KEYS)}",
            )
        key = keys[0]
        value = entry[key]
    # Under `prompt`, too, some data sets have a chat.
    if key in ("messages", "prompt") and isinstance(value, list):
        value = _last_of_user(value)
    if not isinstance(value, str) or not value.strip():
        raise InvalidInput(
            f"{where} has no text{f' in {key!r}' if key else ''}",
            field=field,
            remedy="give a text that is not blank; of a chat, a message of the user",
        )
    try:
        return check_text(value, field=field)
    except InvalidInput as error:
        raise InvalidInput(f"{where}: {error.message}", field=field, remedy=error.remedy) from None


def _last_of_user(messages: list[Any]) -> Any:
    said = [one.get("content") for one in messages if isinstance(one, Mapping) and one.get("role") == "user"]
    content = said[-1] if said else None
    if not isinstance(content, list):
        return content
    # As parts; a picture among them is no text.
    parts: list[Any] = [part.get("text") if isinstance(part, Mapping) else part for part in content]
    return "\n".join(parts) if all(isinstance(part, str) for part in parts) else None
