"""Our matcher gives the answer of PEFT's `re.match`, for every pattern that it takes."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from peft.utils.other import get_pattern_key

from ramole.core.errors import AdapterRefused
from ramole.lora.expressions import Work
from ramole.lora.patterns import PatternTable

ATOM = st.sampled_from(
    ["a", "b", ".", r"\.", r"\d", r"\w", "[ab]", "[^a.]", "[a-c1-2]", "1", "_", "^", "$", "q_proj", r"\b", r"[\D.-]"]
)


REPEAT = st.sampled_from(["*", "+", "?", "*?", "+?", "??", "{2}", "{0,2}", "{1,}?"])


def grow(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return (
        st.lists(inner, min_size=1, max_size=3).map("".join)
        | st.tuples(inner, inner).map("({0[0]}|{0[1]})".format)
        | inner.map("(?:{})".format)
        | st.tuples(inner.map("({})".format), REPEAT).map("".join)
    )


PATTERN = st.recursive(ATOM, grow, max_leaves=6)
NAME = st.text("ab1_.", max_size=9) | st.sampled_from(["model.layers.1.q_proj", "a.q_proj", "q_proj"])


@given(st.lists(PATTERN, min_size=1, max_size=3, unique=True), NAME)
@settings(max_examples=800, deadline=None)
def test_same_answer_as_peft(keys: list[str], name: str) -> None:
    try:
        table = PatternTable(keys, Work(), field="x")
    except AdapterRefused:
        assume(False)
    found = table.find(name)
    assert (found or name) == get_pattern_key(keys, name)


@given(st.text("ab.", min_size=1, max_size=4), st.text("ab.", max_size=8))
@settings(max_examples=300, deadline=None)
def test_plain_keys_are_suffixes_at_a_dot(key: str, name: str) -> None:
    expected = re.match(rf"(.*\.)?({key})$", name) is not None
    assert (PatternTable([key], Work(), field="x").find(name) is not None) == expected


@given(st.text("ab.*+?()[]{}|^$\\-1,:", min_size=1, max_size=12), NAME)
@settings(max_examples=500, deadline=None)
def test_any_text_is_refused_or_right(key: str, name: str) -> None:
    try:
        table = PatternTable([key], Work(), field="x")
    except AdapterRefused:
        return
    assert (table.find(name) is not None) == (re.match(rf"(.*\.)?({key})$", name) is not None)


def test_first_key_wins() -> None:
    assert PatternTable(["v_proj", "q_proj", ".*q_proj"], Work(), field="x").find("m.0.q_proj") == "q_proj"
    assert PatternTable([".*q_proj", "q_proj"], Work(), field="x").find("m.0.q_proj") == ".*q_proj"


@pytest.mark.parametrize(
    "key",
    [
        r"\1", r"\12", r"\x41", r"\Q+\E", r"\pL", r"\z", r"\C", "a{,2}", "a{2", "^*", r"\b+", "a**", "a{2}{3}", "*a",
        "(?i)a", "(?P<x>a)", "(?=a)", "[]a]", "[^]a]", r"[\w-z]", "[a-c-e]", "[b-a]", "a++", "x" * 129 + "*", "[[:a:]]",
        "a{1001}", "(" * 17 + "a" + ")" * 17, "(a", "a)", "[a", "a\\",
    ],
)  # fmt: skip
def test_what_the_engines_could_read_differently_is_refused(key: str) -> None:
    with pytest.raises(AdapterRefused):
        PatternTable([key], Work(), field="x")


@given(st.lists(NAME.filter(bool), min_size=1, max_size=40), NAME)
@settings(max_examples=200, deadline=None)
def test_many_plain_keys(keys: list[str], name: str) -> None:
    keys = [key.replace("1", ".") for key in keys] + keys
    assert (PatternTable(keys, Work(), field="x").find(name) or name) == get_pattern_key(keys, name)


def test_hostile_expressions_cost_little_memory_and_a_bounded_number_of_steps() -> None:
    script = """
import json, resource, sys
from ramole.core.errors import AdapterRefused
from ramole.lora.config import read_config
names = [f"model.layers.{i}." + "ab" * 100 for i in range(8192)]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
refused = 0
for expression in json.load(sys.stdin):
    raw = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": expression}
    try:
        read_config(json.dumps(raw).encode()).targets.selected(names)
    except AdapterRefused as error:
        refused += error.field == "adapter_config.json:target_modules" and bool(error.remedy)
print(refused, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    hostile = [
        "[\x01-\U0010ffff]" * 204,
        "[!-~]" * 800,
        "(?:.*a)" * 500,
        "(?:(?:a|b)*c?)*" * 200 + "z",
        "(?:a|b)*a" + "(?:a|b)" * 500,
        "(?:.*a.{30}){20}",
        "a?" * 2000 + "a" * 20,
    ]
    done = subprocess.run(
        [sys.executable, "-c", script], input=json.dumps(hostile), capture_output=True, text=True, check=True
    )
    refused, mib = map(int, done.stdout.split())
    assert refused == len(hostile)
    assert mib < 50
