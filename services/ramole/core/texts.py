"""Text that people wrote: whether it can be sent, how it is shown, and how a file of it is read."""

from __future__ import annotations

import codecs
import json
import re
import unicodedata
from pathlib import Path

from ramole.core.errors import InvalidInput, NotFound

_LINE_END = re.compile(r"\r\n|\r|\n")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
# Of the format characters, only joiners, the soft hyphen and a few marks of scripts are part of what is written; the
# others turn the direction of what follows, or hide it.
_WRITTEN_FORMATS = frozenset("\u00ad\u200c\u200d\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f")
_HIDDEN = ("Cc", "Cs", "Cf", "Zl", "Zp")
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def check_text(text: str, *, field: str) -> str:
    """Returns `text` if it can be written as UTF-8. Raises InvalidInput when it holds half of a surrogate pair."""
    found = _SURROGATE.search(text)
    if found:
        raise InvalidInput(
            f"character {found.start() + 1} is \\u{ord(found[0]):04x}, which stands for no text",
            field=field,
            remedy="give valid Unicode; an argument or a file of another encoding has to be converted to UTF-8",
        )
    return text


def visible(text: str, *, keep: str = "") -> str:
    """The text for a terminal, a table or a log: as written, but control and direction codes become escapes.

    Args:
        keep: control characters that stay, e.g. line ends of a longer text.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape(char) if _is_hidden(char) and char not in keep else char for char in text)


def visible_json(text: str) -> str:
    """The same for a text of JSON, with JSON's own escapes: it stays JSON of the same value."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(json.dumps(char)[1:-1] if _is_hidden(char) else char for char in text)


def read_text(path: Path, *, field: str) -> str:
    """A text file: UTF-8 with or without a byte order mark, or UTF-16 or UTF-32 with one.

    Raises:
        NotFound: there is no such file.
        InvalidInput: it is a folder, cannot be read, or is in another encoding; names the first byte at fault.
    """
    name = visible(path.name)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise NotFound(f"there is no file {visible(str(path))}", field=field, remedy="check the path") from None
    except OSError as error:
        raise InvalidInput(f"{name} cannot be read: {error.strerror}", field=field, remedy="name a text file") from None
    encoding = next((encoding for mark, encoding in _MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidInput(
            f"{name} is not {encoding.removesuffix('-sig').upper()}: byte {error.start} (line {line}) is "
            f"0x{data[error.start]:02x}",
            field=field,
            remedy=f"convert it, e.g. iconv -f LATIN1 -t UTF-8 {name}",
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InvalidInput(
            f"{name} is no text: line {line} holds a zero byte",
            field=field,
            remedy="convert it to UTF-8, e.g. iconv -f UTF-16LE -t UTF-8",
        )
    return text


def lines_of(text: str) -> list[str]:
    """The lines, without their ends. Unlike `str.splitlines`, only a line end of a text file ends one."""
    return _LINE_END.split(text)


def _is_hidden(char: str) -> bool:
    return unicodedata.category(char) in _HIDDEN and char not in _WRITTEN_FORMATS


def _escape(char: str) -> str:
    return char.encode("unicode_escape", "backslashreplace").decode("ascii")
