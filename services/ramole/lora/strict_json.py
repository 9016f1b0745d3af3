"""JSON from strangers: bounded size and depth, an object at the top, no repeated keys, no NaN, text that is Unicode."""

from __future__ import annotations

import json

from ramole.core.errors import AdapterRefused


def parse_object(data: bytes, *, field: str, max_bytes: int, max_depth: int = 6) -> dict[str, object]:
    """Parses one JSON object.

    Args:
        field: the file that `data` comes from, for the error.

    Raises:
        AdapterRefused: too large, too deep, not UTF-8, not JSON, half a surrogate pair, or not an object.
    """

    def refuse(message: str) -> AdapterRefused:
        return AdapterRefused(message, field=field, remedy="upload the files as PEFT's save_pretrained wrote them")

    if len(data) > max_bytes:
        raise refuse(f"{len(data)} bytes of JSON, the limit is {max_bytes}")

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        made = dict(pairs)
        if len(made) != len(pairs):
            raise ValueError("a key appears twice")
        return made

    def no_constant(text: str) -> object:
        raise ValueError(f"{text} is not a number")

    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        raise refuse(f"not valid JSON: {str(error)[:160]}") from None
    if not isinstance(value, dict):
        raise refuse("the JSON is not an object")
    if _is_deeper(value, max_depth):
        raise refuse(f"the JSON is nested deeper than {max_depth} levels")
    if b"\\u" in data:
        for key, part in value.items():
            try:
                json.dumps({key: part}, ensure_ascii=False).encode("utf-8")
            except UnicodeEncodeError as error:  # half of a pair is no text: nothing that holds it could be sent back
                shown = key.encode("utf-8", "backslashreplace").decode()
                raise refuse(f"not valid JSON: {error.reason}").at(f"{field}:{shown}") from None
    return value


def _is_deeper(value: object, max_depth: int) -> bool:
    level = [value]
    for _ in range(max_depth):
        level = [
            child
            for node in level
            if isinstance(node, dict | list)
            for child in (node.values() if isinstance(node, dict) else node)
        ]
        if not level:
            return False
    return any(isinstance(node, dict | list) for node in level)
