"""Messages as JSON."""

from __future__ import annotations

import pytest
from google.protobuf.json_format import ParseDict

from ramole.gateway.http.messages import as_json
from ramole.v1.common_pb2 import AdapterRef
from ramole.v1.gateway_pb2 import GetHistoryResponse, ListAdaptersResponse, RouteResponse
from ramole.v1.records_pb2 import AdapterRecord, HistoryEntry


def record(version: int) -> AdapterRecord:
    made = AdapterRecord(adapter=AdapterRef(tenant="a", name="b", version=version), tags=["x"])
    made.report.bytes = version
    made.created_at.FromSeconds(10**9)
    return made


@pytest.mark.parametrize("version", [0, 1, 2**32, 2**53 - 1])
def test_numbers_are_numbers(version: int) -> None:
    page = as_json(ListAdaptersResponse(records=[record(version), record(1)]))
    first = page["records"][0]
    assert (first["adapter"]["version"], first["report"]["bytes"]) == (version, version)
    assert (page["next_page_token"], first["is_public"], first["samples"]) == ("", False, []), (
        "what is so anyway is told"
    )
    assert first["created_at"] == "2001-09-09T01:46:40Z"
    assert "relative_norm" not in first["report"], "not known"


def test_what_a_number_cannot_hold_exactly_is_a_text() -> None:
    assert as_json(record(2**53))["adapter"]["version"] == str(2**53)


def test_absent_things_stay_away() -> None:
    assert "doubt" not in as_json(RouteResponse())
    assert as_json(RouteResponse(doubt=0.0))["doubt"] == 0
    assert "removed_at" not in as_json(GetHistoryResponse(entries=[HistoryEntry()]))["entries"][0]
    assert as_json(RouteResponse(), has_defaults=False) == {}


def test_it_can_be_read_back() -> None:
    page = ListAdaptersResponse(records=[record(2**53 - 1), record(2**60)], next_page_token="x")
    assert ParseDict(as_json(page), ListAdaptersResponse()) == page
