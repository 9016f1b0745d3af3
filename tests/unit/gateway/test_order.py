"""An order is valid whatever brought it: these are brought by plain values."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from ramole.core.chat import Message
from ramole.core.composition import PRESETS, Composition, Weighting
from ramole.core.errors import InvalidInput
from ramole.core.names import AdapterName
from ramole.core.sampling import Sampling
from ramole.gateway.values import NamedAdapter, Order


def order(**fields: Any) -> Order:
    plain = {"prompt": "x", "adapters": [], "composition": PRESETS["mixture"], "sampling": Sampling()}
    return Order.of(**{**plain, "max_prompt_chars": 100, **fields})


def test_plain_values_become_an_order() -> None:
    made = order(adapters=[("a", 1.0, 1.0), ("acme/b@2", 0.5, 2.0)], may_fall_back=True)
    assert made.named == (
        NamedAdapter(AdapterName("default", "a")),
        NamedAdapter(AdapterName("acme", "b", 2), weight=0.5, scale=2.0),
    )
    assert made.may_fall_back


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": " \n"}, "prompt"),
        ({"prompt": "x" * 101}, "prompt"),
        ({"adapters": [("a", 1.0, 1.0)] * 9}, "adapters"),
        ({"adapters": [("a", 1.0, 1.0), ("../x", 1.0, 1.0)]}, "adapters[1].adapter"),
        ({"adapters": [("a", float("nan"), 1.0)]}, "adapters[0].weight"),
        ({"adapters": [("a", 1.0, 1.0), ("b", 1.0, 1e9)]}, "adapters[1].scale"),
        ({"composition": Composition(Weighting.EXPLICIT)}, "adapters"),
        ({"tokens": [1]}, "prompt_token_ids"),
        ({"prompt": "", "tokens": [1], "messages": [Message("user", "x")]}, "prompt_token_ids"),
        ({"messages": [Message("user", "x")]}, "messages"),
        ({"prompt": "", "tokens": [1] * 101}, "prompt_token_ids"),
        ({"prompt": "", "tokens": [1, 2, -3]}, "prompt_token_ids[2]"),
        ({"prompt": "", "tokens": [2**32]}, "prompt_token_ids[0]"),
    ],
)
def test_what_is_wrong_is_named_with_a_remedy(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        order(**fields)
    assert caught.value.field == field
    assert caught.value.remedy


@pytest.mark.parametrize("axis", ["preset", "weighting", "merge"])
def test_an_unknown_name_is_refused_with_those_that_there_are(axis: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Composition().with_axes(**{axis: "best"})  # type: ignore[arg-type]
    assert caught.value.field == f"composition.{axis}"
    assert caught.value.remedy.startswith("use ")


def test_the_constructor_checks_as_well() -> None:
    with pytest.raises(InvalidInput):
        Order(" ", (), PRESETS["mixture"], Sampling())


def test_an_order_needs_no_protobuf() -> None:
    code = "import sys, ramole.gateway.values; print(*(name for name in sys.modules if 'protobuf' in name))"
    assert not subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
