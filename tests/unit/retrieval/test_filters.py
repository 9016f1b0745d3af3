from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramole.core.errors import InvalidInput
from ramole.core.names import AdapterName
from ramole.retrieval.filters import tagged, versions_of, visible_to

SAFE = st.text("abcXYZ019._:/@-", min_size=1, max_size=128)
TAGS = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True)
HOSTILE = st.text(min_size=0, max_size=140) | st.text("\"'\\ ()=abc\n\u2028\uff02", max_size=20)
LITERAL = re.compile(r'"(?:[^"\\]|\\.)*"')


def test_the_filters_as_milvus_sees_them() -> None:
    assert visible_to("acme", "meta-llama/Llama-3.2_1B@main") == (
        'base_model == "meta-llama/Llama-3.2_1B@main" and (tenant == "acme" or is_public == true)'
    )
    names = [AdapterName("acme", "mail"), AdapterName("beta", "mail"), AdapterName("acme", "code")]
    assert versions_of(names) == (
        '(tenant == "acme" and name in ["mail", "code"]) or (tenant == "beta" and name in ["mail"])'
    )


@given(tenant=SAFE, base_model=SAFE)
def test_safe_values_pass_unchanged(tenant: str, base_model: str) -> None:
    assert LITERAL.findall(visible_to(tenant, base_model)) == [f'"{base_model}"', f'"{tenant}"']


@given(tenant=HOSTILE, base_model=HOSTILE)
def test_no_value_changes_the_shape_of_a_filter(tenant: str, base_model: str) -> None:
    for build, shape in (
        (visible_to, "base_model == ? and (tenant == ? or is_public == true)"),
        (lambda tenant, name: versions_of([AdapterName(tenant, name)]), "(tenant == ? and name in [?])"),
    ):
        try:
            expression = build(tenant, base_model)
        except InvalidInput:
            continue
        assert LITERAL.sub("?", expression) == shape
        assert expression.isascii()
        assert "\\" not in expression


@given(st.lists(TAGS | HOSTILE, min_size=1, max_size=20))
def test_no_tag_changes_the_shape_of_a_filter(tags: list[str]) -> None:
    try:
        expression = tagged(tags)
    except InvalidInput:
        return
    literals = LITERAL.findall(expression)
    assert literals == [f'"{tag}"' for tag in sorted(set(tags))]
    assert len(literals) <= 16
    assert expression == f"array_contains_all(tags, [{', '.join(literals)}])"


@given(st.lists(TAGS, min_size=1, max_size=16, unique=True))
def test_tags_pass(tags: list[str]) -> None:
    assert LITERAL.findall(tagged(tags)) == [f'"{tag}"' for tag in sorted(tags)]


@pytest.mark.parametrize("value", ["", "a" * 129, 'a"', "a\\", "a b", "a\n", "é", "a'", "\u0661", "$x", "{x}", "%"])
def test_refused_values_name_the_field(value: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        visible_to("acme", value)
    assert refused.value.field == "base_model"
    assert refused.value.remedy
