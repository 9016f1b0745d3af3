"""Every number and text that a client may send: its edges, just outside, and what is no number at all."""

from __future__ import annotations

import math
import re
import struct
from pathlib import Path
from typing import Any

import pytest

from ramole.core import bounds
from ramole.core.bounds import COUNTS, NUMBERS, TEXTS, Number
from ramole.core.errors import InvalidInput
from ramole.core.settings import GatewaySettings
from ramole.gateway.codec import order_from_pb
from ramole.v1 import common_pb2, gateway_pb2

ROOT = Path(__file__).parents[3]

FLOATS = {path: bound for path, bound in NUMBERS.items() if not bound.is_whole}
WHOLES = {path: bound for path, bound in NUMBERS.items() if bound.is_whole}
ONE_EACH = [path for path in WHOLES if path not in ("sampling.stop_token_ids", "prompt_token_ids", "page_size")]
OUTSIDE = [math.nan, math.inf, -math.inf, 3e38, -3e38, 1e-40, -1e-40, 1e-45]


def float32(value: float) -> float:
    return float(struct.unpack("f", struct.pack("f", value))[0])


def request_with(path: str, value: Any) -> gateway_pb2.GenerateRequest:
    """A legal request but for one field."""
    request = gateway_pb2.GenerateRequest(prompt="x", adapters=[gateway_pb2.WeightedAdapter(adapter="a")])
    parent, _, field = path.rpartition(".")
    message: Any = request.adapters[0] if parent == "adapters" else getattr(request, parent) if parent else request
    if isinstance(value, list):
        getattr(message, field).extend(value)
    else:
        setattr(message, field, value)
    request.sampling.logprobs = request.sampling.top_logprobs > 0
    if path in ("composition.max_parts", "composition.separators"):
        request.composition.reroute = common_pb2.REROUTE_AT_END
        request.ClearField("adapters")
    return request


def accept(path: str, value: Any) -> None:
    order_from_pb(request_with(path, value), GatewaySettings())


def refuse(path: str, value: Any) -> InvalidInput:
    with pytest.raises(InvalidInput) as raised:
        accept(path, value)
    assert raised.value.field == path.replace("adapters.", "adapters[0].")
    assert raised.value.remedy
    return raised.value


def edges(bound: Number) -> list[float]:
    smallest = bound.low or bound.tiniest
    return sorted(
        {0.0, bound.high, smallest if bound.low >= 0 else bound.tiniest, *([bound.low] if bound.low < 0 else [])}
    )


@pytest.mark.parametrize("path", FLOATS)
def test_both_edges_are_taken_as_they_arrive(path: str) -> None:
    bound = FLOATS[path]
    for edge in edges(bound):
        if edge or bound.zero or bound.low <= 0:
            accept(path, edge)  # the field is a float32 on the wire
    if not bound.zero and bound.low > 0:
        refuse(path, 0.0)


@pytest.mark.parametrize("path", FLOATS)
def test_just_outside_is_refused_with_the_range(path: str) -> None:
    bound = FLOATS[path]
    outside = [bound.high * 1.001, -bound.high * 1.001]
    smallest = bound.low if bound.low > 0 else bound.tiniest
    if smallest:
        outside.append(smallest * 0.999)
    for value in outside:
        assert bound.phrase in refuse(path, value).remedy


@pytest.mark.parametrize("path", FLOATS)
@pytest.mark.parametrize("value", OUTSIDE)
def test_what_is_no_useful_number_is_refused(path: str, value: float) -> None:
    bound = FLOATS[path]
    if bound.holds(float32(value)):  # a share of the weight may be as small as it likes
        assert path == "composition.spread"
        accept(path, value)
    else:
        refuse(path, value)


@pytest.mark.parametrize("path", ONE_EACH)
def test_whole_numbers_have_edges_too(path: str) -> None:
    bound = WHOLES[path]
    for edge in (0, int(bound.low), int(bound.high)):
        accept(path, edge)
    if bound.high < 2**32:
        refuse(path, int(bound.high) + 1)


def test_lists_and_texts_have_edges_too() -> None:
    stop, tokens = TEXTS["sampling.stop"], COUNTS["sampling.stop_token_ids"]
    assert stop.max_count is not None
    accept("sampling.stop", ["x" * stop.high] * stop.max_count)
    refuse("sampling.stop", ["x"] * (stop.max_count + 1))
    refuse("sampling.stop", ["x" * (stop.high + 1)])
    refuse("sampling.stop", [""])
    separators = TEXTS["composition.separators"]
    assert separators.max_count is not None
    accept("composition.separators", ["x" * separators.high] * separators.max_count)
    refuse("composition.separators", ["x"] * (separators.max_count + 1))
    refuse("composition.separators", ["x" * (separators.high + 1)])
    refuse("composition.separators", [""])
    refuse("composition.max_parts", 1)
    accept("sampling.stop_token_ids", [2**32 - 1] * tokens.high)
    refuse("sampling.stop_token_ids", [0] * (tokens.high + 1))
    many = gateway_pb2.GenerateRequest(prompt="x", adapters=[gateway_pb2.WeightedAdapter(adapter="a")] * 9)
    with pytest.raises(InvalidInput, match="adapters"):
        order_from_pb(many, GatewaySettings())


@pytest.mark.parametrize("path", [path for path, bound in TEXTS.items() if bound.max_count is None])
def test_a_text_may_be_as_long_as_the_table_says(path: str) -> None:
    bound = TEXTS[path]
    check = bounds.check_text if bound.max_total is None else lambda field, text: bounds.check_texts(field, [text])
    check(path, "x" * bound.high)
    with pytest.raises(InvalidInput, match=str(bound.high)):
        check(path, "x" * (bound.high + 1))
    if bound.max_total is not None:
        count = bound.max_total // bound.high
        bounds.check_texts(path, ["x" * bound.high] * count)
        with pytest.raises(InvalidInput, match="in all"):
            bounds.check_texts(path, ["x" * bound.high] * count + ["x"])


def comments() -> dict[str, str]:
    """The comment in front of each field of the public protos, by ``Message.field``."""
    found: dict[str, str] = {}
    for proto in (ROOT / "protos/ramole/v1").glob("*.proto"):
        message, comment = "", ""
        for line in map(str.strip, proto.read_text().splitlines()):
            if start := re.match(r"message (\w+)", line):
                message = start[1]
            if line.startswith("//"):
                comment += line[2:]
            elif field := re.match(r"(?:optional |repeated )?[\w.<>, ]+ (\w+) = \d+;", line):
                found[f"{message}.{field[1]}"], comment = " ".join(comment.split()), ""
            else:
                comment = ""
    return found


MESSAGES = {
    "composition": "Composition",
    "sampling": "Sampling",
    "adapters": "WeightedAdapter",
    "header": "UploadHeader",
}
ALONE = {
    "adapters": "GenerateRequest",
    "messages": "GenerateRequest",
    "prompt_token_ids": "GenerateRequest",
    "requests": "GenerateBatchRequest",
    "tags": "GenerateRequest",
    "page_size": "ListAdaptersRequest",
    "comment": "DeleteAdapterRequest",
}


def test_the_protos_say_the_ranges() -> None:
    said = comments()
    table = {**{k: v for k, v in NUMBERS.items() if k not in COUNTS}, **TEXTS, **COUNTS}
    for path, bound in table.items():
        parent, _, field = path.rpartition(".")
        assert bound.phrase in said[f"{MESSAGES[parent] if parent else ALONE[path]}.{field}"], path


def test_the_page_says_the_ranges() -> None:
    page = (ROOT / "docs/bounds.md").read_text()
    assert page == bounds.page(), "run: python -m ramole.core.bounds > docs/bounds.md"
