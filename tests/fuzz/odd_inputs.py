"""Inputs that no client should send, made from what the ports say of themselves: a JSON schema, a message's descriptor.

From a seed, and fast: a million of them take minutes.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from google.protobuf.descriptor import Descriptor, FieldDescriptor

Json = Any

_TEXTS = [
    "", " ", "a", "one", "default/one@1", "two", "auto", "zoo/base", "zoo/base:one", "b/secret", "\0", "\x1b[31m",
    "\ud800", "\u202e", "🙂" * 9, "e\u0301" * 5, "../../etc/passwd", "a/b/c/d", "one@-1", "one@99999999999999999999",
    "x" * 300, "file:///etc/passwd", "hf://a/b", "'; --", "<script>", "{{7*7}}", "%00", "null", "NaN", "user",
    "system", "text", "1e999", "hello n1", "hello n2", "n1",
]  # fmt: skip
_NUMBERS: list[Json] = [
    0, 1, -1, 2, 3, 7, 16, 17, 64, 65, 2**31, 2**63, 2**64, -(2**63), 10**400, 0.5, 1.0, -0.0, 1e-40, 1e308, -1e308,
]  # fmt: skip
_OTHERS: list[Json] = [None, True, False, [], {}, [[]], [None], {"": 0}]


def odd_json(r: random.Random, schema: Mapping[str, Any], schemas: Mapping[str, Any], depth: int = 0) -> Json:
    """A value that mostly fits `schema`; one part in ten does not.

    Args:
        schemas: what ``$ref`` leads to.
    """
    if r.random() < 0.04:
        return r.choice([*_OTHERS, *_NUMBERS, *_TEXTS])
    if "$ref" in schema:
        return odd_json(r, schemas[schema["$ref"].rpartition("/")[2]], schemas, depth)
    for branches in ("anyOf", "oneOf", "allOf"):
        if branches in schema:
            return odd_json(r, r.choice(schema[branches]), schemas, depth)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return r.choice(schema["enum"])
    kind = schema.get("type")
    if kind == "object" or "properties" in schema:
        return _object(r, schema, schemas, depth)
    if kind == "array":
        items = schema.get("items", {})
        return [odd_json(r, items, schemas, depth + 1) for _ in range(r.choice([0, 1, 1, 2, 2, 3, 9]))]
    if kind == "string":
        return r.choice(_TEXTS)
    if kind in ("integer", "number"):
        low, high = schema.get("minimum", 0), schema.get("maximum", 3)
        return r.choice([low, high, 1, r.choice(_NUMBERS)])
    if kind == "boolean":
        return r.random() < 0.5
    return None if kind == "null" else r.choice([*_OTHERS, *_TEXTS])


def _object(r: random.Random, schema: Mapping[str, Any], schemas: Mapping[str, Any], depth: int) -> Json:
    required = set(schema.get("required", ()))
    chosen = {}
    for name, its in schema.get("properties", {}).items():
        if (name in required and r.random() < 0.97) or (name not in required and r.random() < 0.25 / (depth + 1)):
            chosen[name] = odd_json(r, its, schemas, depth + 1)
    if r.random() < 0.05:
        chosen[r.choice(_TEXTS)] = r.choice(_OTHERS)
    return chosen


def odd_body(r: random.Random, kind: str, schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> tuple[str, bytes]:
    """A body and its content type.

    Args:
        kind: that the route takes, as the page of the API says.
    """
    if kind.startswith("multipart/"):
        return _form(r, schema, schemas)
    chance = r.random()
    if chance < 0.03:
        return kind, r.randbytes(r.choice([0, 1, 9, 300]))
    if chance < 0.05:
        deep = r.choice([10, 3_000, 100_000])
        return kind, r.choice([b"[" * deep, b'{"a":' * deep, b"[" * deep + b"]" * deep, b"1" * deep])
    raw = json.dumps(odd_json(r, schema, schemas)).encode()
    return (kind if r.random() < 0.97 else r.choice(["", "text/plain", "multipart/form-data", "\\"])), mutated(r, raw)


def _form(r: random.Random, schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> tuple[str, bytes]:
    edge = b"edge"
    value = odd_json(r, schema, schemas)
    parts = value.items() if isinstance(value, dict) else [("odd", value)]
    lines = []
    for name, part in parts:
        for each in part if isinstance(part, list) else [part]:
            file = r.choice(["", '; filename="x"', '; filename="../x"'])
            text = each.encode("utf-8", "replace") if isinstance(each, str) else json.dumps(each).encode()
            disposition = f'form-data; name="{name}"{file}'.encode("utf-8", "replace")
            lines += [b"--" + edge, b"content-disposition: " + disposition, b"", text]
    return f"multipart/form-data; boundary={edge.decode()}", mutated(
        r, b"\r\n".join([*lines, b"--" + edge + b"--", b""])
    )


def mutated(r: random.Random, raw: bytes) -> bytes:
    """The same in nine of ten cases; else some bytes are others, missing or there twice."""
    if r.random() < 0.9 or not raw:
        return raw
    data = bytearray(raw)
    for _ in range(r.choice([1, 1, 2, 5])):
        at = r.randrange(len(data) + 1)
        match r.randrange(4):
            case 0:
                data[at : at + 1] = r.randbytes(1)
            case 1:
                del data[at : at + r.randint(1, 8)]
            case 2:
                data[at:at] = r.randbytes(r.randint(1, 4))
            case _:
                data[at:at] = data[at : at + 20]
    return bytes(data)


_QUERIES = ["", "", "", "?limit=3", "?limit=-1", "?limit=x&after=%00", "?after=default/one", "?=&=&a", "?%ff=%fe"]


def odd_path(r: random.Random, path: str) -> str:
    """A path with its parameters filled in, and perhaps a query."""
    parts = []
    for part in path.split("/"):
        parts.append(quote(r.choice(_TEXTS).encode("utf-8", "replace"), safe="/@:") if part.startswith("{") else part)
    return "/".join(parts) + r.choice(_QUERIES)


def odd_headers(r: random.Random) -> list[bytes]:
    """Lines of a request's head, most of them harmless."""
    chance = r.random()
    if chance < 0.8:
        return []
    lines = [
        b"x-request-id: " + r.choice([b"", b"a", b"x" * 200, b"\xff\xfe", b"a b", b"../x"]),
        b"x-request-timeout: " + r.choice([b"", b"0", b"-1", b"nan", b"inf", b"1e999", b"9", b"soon", b"1_0"]),
        b"authorization: "
        + r.choice([b"", b"Bearer", b"Bearer ", b"Basic eDp5", b"bearer \xff", b"Bearer " + b"k" * 900]),
        b"expect: 100-continue",
        b"accept-encoding: gzip, br",
        b"content-encoding: gzip",
        b"transfer-encoding: identity",
        b"content-length: " + r.choice([b"-1", b"0x5", b"5, 5", b"99999999999999999999", b"1"]),
        b"x: " + bytes(r.choice(b"abc \t\x80\xff") for _ in range(20)),
        r.choice([b": x", b"no colon", b"bad name: x", b" folded", b"x:\0"]),
    ]
    return r.sample(lines, r.choice([1, 1, 2]))


def odd_message(r: random.Random, kind: Descriptor) -> bytes:
    """A message as bytes: mostly legal values at odd places, now and then bytes that are none."""
    if r.random() < 0.03:
        return r.randbytes(r.choice([1, 3, 30]))
    return mutated(r, _message(r, kind, 0))


def _message(r: random.Random, kind: Descriptor, depth: int) -> bytes:
    out = b""
    for field in kind.fields:
        if r.random() > (0.6 if depth == 0 else 0.35):
            continue
        for _ in range(r.choice([1, 1, 2, 3]) if field.is_repeated else 1):
            out += _field(r, field, depth)
    if r.random() < 0.03:
        out += _key(r.randrange(1, 5000), 2) + _varint(3) + b"odd"
    return out


def _field(r: random.Random, field: FieldDescriptor, depth: int) -> bytes:
    number = field.number
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return b"" if depth > 4 else _lengthed(number, _message(r, field.message_type, depth + 1))
    if field.type == FieldDescriptor.TYPE_STRING:
        text = r.choice(_TEXTS).encode("utf-8", "surrogatepass" if r.random() < 0.02 else "replace")
        return _lengthed(number, text)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return _lengthed(number, r.randbytes(r.choice([0, 1, 40])))
    if field.type == FieldDescriptor.TYPE_FLOAT:
        return _key(number, 5) + r.choice(_FLOATS)
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        return _key(number, 1) + r.choice(_FLOATS) * 2
    if field.type in (FieldDescriptor.TYPE_FIXED32, FieldDescriptor.TYPE_SFIXED32):
        return _key(number, 5) + r.randbytes(4)
    if field.type in (FieldDescriptor.TYPE_FIXED64, FieldDescriptor.TYPE_SFIXED64):
        return _key(number, 1) + r.randbytes(8)
    return _key(number, 0) + _varint(r.choice([0, 1, 1, 2, 3, 5, 8, 64, 300, 2**31, 2**32 - 1, 2**63, 2**64 - 1]))


_FLOATS = [bytes.fromhex(text) for text in ("00000000", "0000803f", "0000003f", "000080bf", "0000c07f", "0000807f")]


def _lengthed(number: int, data: bytes) -> bytes:
    return _key(number, 2) + _varint(len(data)) + data


def _key(number: int, wire_type: int) -> bytes:
    return _varint(number << 3 | wire_type)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
