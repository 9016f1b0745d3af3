"""Addresses are host:port, those of IPv6 in brackets, and nothing else."""

from __future__ import annotations

import pytest

from ramole.core.address import check_address, is_loopback, join_address
from ramole.core.errors import InvalidInput


@pytest.mark.parametrize(
    ("host", "text"), [("127.0.0.1", "127.0.0.1:1"), ("::1", "[::1]:1"), ("fe80::1%eth0", "[fe80::1%eth0]:1")]
)
def test_what_is_joined_is_an_address(host: str, text: str) -> None:
    assert join_address(host, 1) == text
    assert check_address(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host",
        "host:",
        ":1",
        "::1:50051",
        "[::1]",
        "::1",
        "http://host:1",
        "host:0",
        "host:65536",
        "host:1/",
        "h h:1",
    ],
)
def test_everything_else_is_refused_with_the_right_form(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_address(text)
    assert refused.value.field == "address"
    assert "[::1]:50051" in refused.value.remedy


@pytest.mark.parametrize(
    ("address", "is_here"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("10.0.0.1:1", False),
        ("[fd00::1]:1", False),
        ("localhost.example.org:1", False),
        ("[::1", False),
    ],
)
def test_loopback_is_this_machine(address: str, is_here: bool) -> None:
    assert is_loopback(address) == is_here
