"""Adapter names: what is accepted round-trips, everything else is refused by its field."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramole.core.errors import InvalidInput
from ramole.core.names import AdapterName, check_digest, check_tags

parts = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)


@given(parts, parts, st.integers(0, 10**9 - 1))
def test_names_round_trip(tenant: str, name: str, version: int) -> None:
    adapter = AdapterName(tenant, name, version)
    assert AdapterName.parse(str(adapter), tenant="") == adapter


def test_a_bare_name_belongs_to_the_caller() -> None:
    assert AdapterName.parse("sql", tenant="acme") == AdapterName("acme", "sql")
    assert str(AdapterName.parse("sql@3", tenant="beta")) == "beta/sql@3"
    assert AdapterName.parse("beta/sql", tenant="acme") == AdapterName("beta", "sql")
    with pytest.raises(InvalidInput, match="the tenant is empty"):
        AdapterName.parse("sql", tenant="")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "a/",
        "/a",
        "a/b/c",
        "a b",
        "a@",
        "a@0",
        "a@-1",
        "a@1.0",
        "a@x",
        "../a",
        ".a",
        "a\n",
        "ä",
        "a" * 65,
        "a@٣",
    ],
)
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        AdapterName.parse(text, tenant="acme", field="adapters[0]")
    assert raised.value.field == "adapters[0]"
    assert raised.value.remedy


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("a" * 65, "the name has 65 characters, not at most 64"),
        ("t" * 70 + "/a", "the tenant has 70 characters"),
        ("", "the name is empty"),
        ("/a", "the tenant is empty"),
        ("a b", "the name holds ' '"),
        ("ä/a", "the tenant holds 'ä'"),
        (".a", "begins with '.'"),
        ("a/b/c", "second '/'"),
        ("a@x", "'x' is no number"),
        ("a@0", "versions begin with 1"),
        ("a@1234567890", "10 digits"),
    ],
)
def test_the_broken_rule_and_the_value_are_named(text: str, rule: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        AdapterName.parse(text, tenant="acme")
    assert rule in raised.value.message
    assert repr(text[:20])[:-1] in raised.value.message


@pytest.mark.parametrize("text", ["", "A" * 64, "0" * 63, "../" + "0" * 61])
def test_a_digest_is_64_hex_digits(text: str) -> None:
    with pytest.raises(InvalidInput):
        check_digest(text)
    assert check_digest("0a" * 32)


TAGS = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True)


@given(st.lists(TAGS, max_size=16))
def test_tags_are_sorted_and_each_is_there_once(tags: list[str]) -> None:
    assert check_tags(tags) == tuple(sorted(set(tags)))


@given(st.integers(17, 40), TAGS.filter(lambda tag: len(tag) < 60))
def test_seventeen_tags_are_too_many(count: int, tag: str) -> None:
    tags = [f"{tag}{number}" for number in range(count)]
    with pytest.raises(InvalidInput, match="given") as refused:
        check_tags(tags, field="header.tags")
    assert refused.value.field == "header.tags"


@pytest.mark.parametrize("tag", ["", "A", "-a", ".a", "_a", "a b", "a\n", "é", "a" * 65, "a/b", "a,b", "\u0661"])
def test_what_is_no_tag_is_named(tag: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_tags(["fine", tag], field="header.tags")
    assert refused.value.field == "header.tags[1]"
    assert refused.value.remedy
