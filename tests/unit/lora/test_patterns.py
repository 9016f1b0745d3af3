"""Our matcher gives the answer of PEFT's `re.match`, for every pattern that it takes."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from peft.utils.other import get_pattern_key

from ramole.core.errors import AdapterRefused
from ramole.lora.patterns import PatternTable

ATOM = st.sampled_from(["a", "b", ".", r"\.", r"\d", r"\w", "[ab]", "[^a.]", "[a-c1-2]", "1", "_", "^", "$", "q_proj"])


def grow(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return (
        st.lists(inner, min_size=1, max_size=3).map("".join)
        | st.tuples(inner, inner).map("({0[0]}|{0[1]})".format)
        | inner.map("(?:{})".format)
        | st.tuples(inner.map("({})".format), st.sampled_from(["*", "+", "?", "*?", "+?", "??"])).map("".join)
    )


PATTERN = st.recursive(ATOM, grow, max_leaves=6)
NAME = st.text("ab1_.", max_size=9) | st.sampled_from(["model.layers.1.q_proj", "a.q_proj", "q_proj"])


@given(st.lists(PATTERN, min_size=1, max_size=3, unique=True), NAME)
@settings(max_examples=800, deadline=None)
def test_same_answer_as_peft(keys: list[str], name: str) -> None:
    try:
        table = PatternTable(keys, field="x")
    except AdapterRefused:
        assume(False)
    found = table.find(name)
    assert (found or name) == get_pattern_key(keys, name)


@given(st.text("ab.", min_size=1, max_size=4), st.text("ab.", max_size=8))
@settings(max_examples=300, deadline=None)
def test_plain_keys_are_suffixes_at_a_dot(key: str, name: str) -> None:
    expected = re.match(rf"(.*\.)?({key})$", name) is not None
    assert (PatternTable([key], field="x").find(name) is not None) == expected


@given(st.text("ab.*+?()[]{}|^$\\-1", min_size=1, max_size=12), NAME)
@settings(max_examples=500, deadline=None)
def test_any_text_is_refused_or_right(key: str, name: str) -> None:
    try:
        table = PatternTable([key], field="x")
    except AdapterRefused:
        return
    assert (table.find(name) is not None) == (re.match(rf"(.*\.)?({key})$", name) is not None)


def test_first_key_wins() -> None:
    assert PatternTable(["v_proj", "q_proj", ".*q_proj"], field="x").find("m.0.q_proj") == "q_proj"
    assert PatternTable([".*q_proj", "q_proj"], field="x").find("m.0.q_proj") == ".*q_proj"


@pytest.mark.parametrize("key", [r"\s", r"\b", "a{2}", "(?i)a", "(?P<x>a)", "[]a]", "a++", "x" * 129 + "*", "[[:a:]]"])
def test_outside_of_the_subset(key: str) -> None:
    with pytest.raises(AdapterRefused):
        PatternTable([key], field="x")
