"""The pages that are made from code say all of it, and each experiment can be found."""

from __future__ import annotations

import html

import reference
from ramole.core.setting_errors import fields, section_of
from ramole.v1 import gateway_pb2
from support.pages import ROOT


def test_the_api_page_has_every_call_and_every_field_with_its_comment() -> None:
    page = reference.api_page()
    for method in gateway_pb2.DESCRIPTOR.services_by_name["Gateway"].methods:
        assert f"### {method.name}\n" in page
        assert f"### {method.input_type.name}\n" in page
        assert f"### {method.output_type.name}\n" in page
    assert "| `spread` | optional float | Share of the weight that all adapters get alike: 0 to 1;" in page
    assert "INVALID_ARGUMENT" in page


def test_the_settings_page_has_every_setting() -> None:
    page = html.unescape(reference.settings_page())
    for key, field in fields():
        assert (f"## {'.'.join(key)}\n" if section_of(field) else f"| `{key[-1]}` |") in page
        assert field.description is None or section_of(field) or field.description.split("|")[0] in page


def test_each_experiment_has_a_row_in_the_index() -> None:
    index = (ROOT / "docs/log/index.md").read_text()
    for path in (ROOT / "docs/log").glob("2*.md"):
        assert f"({path.name})" in index, f"{path.name} is not in docs/log/index.md"
