"""Limits of tenants: each counts for itself, what ran over is paid for, and a refusal says how long to wait."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import time_machine
from hypothesis import given
from hypothesis import strategies as st

from ramole.core.errors import LimitExceeded
from ramole.core.settings import TenantLimitSettings
from ramole.gateway.tenant_limits import TenantLimits


@pytest.fixture(autouse=True, scope="module")
def now() -> Iterator[time_machine.Coordinates]:
    """Time stands still: no minute ends in the middle of a test."""
    with time_machine.travel(1_800_000_007, tick=False) as coordinates:
        yield coordinates


def limits(**default: int) -> TenantLimits:
    return TenantLimits(TenantLimitSettings(**default), {"rich": TenantLimitSettings()})


def test_without_limits_there_are_none() -> None:
    free = limits()
    with ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(free.request("a"))(10**6)


@given(st.integers(1, 20))
def test_places_come_back(number: int) -> None:
    few = limits(requests_in_flight=number)
    for _ in range(2):
        with ExitStack() as stack:
            for _ in range(number):
                stack.enter_context(few.request("a"))
            with pytest.raises(LimitExceeded, match="are running") as caught:
                stack.enter_context(few.request("a"))
            assert caught.value.retry_after_s
            stack.enter_context(few.request("b"))
            stack.enter_context(few.request("rich"))


@given(st.integers(1, 20))
def test_a_minute_holds_so_many_requests(number: int) -> None:
    few = limits(requests_per_minute=number)
    for _ in range(number):
        with few.request("a"):
            pass
    with pytest.raises(LimitExceeded, match="requests a minute") as caught, few.request("a"):
        pass
    assert 1 <= (caught.value.retry_after_s or 0) <= 120
    with few.request("b"):
        pass


@given(st.integers(1, 1000), st.lists(st.integers(0, 400), max_size=30))
def test_tokens_are_counted_as_they_come(number: int, costs: list[int]) -> None:
    few, spent = limits(tokens_per_minute=number), 0
    for cost in costs:
        if spent >= number:
            with pytest.raises(LimitExceeded, match="tokens a minute"), few.request("a"):
                pass
            return
        with few.request("a") as spend:
            for part in (cost // 2, cost - cost // 2):
                spend(part)
        spent += cost


def test_a_refused_request_holds_no_place_and_counts_for_nothing() -> None:
    one = limits(requests_in_flight=1, requests_per_minute=2)
    with one.request("a"):
        for _ in range(5):
            with pytest.raises(LimitExceeded, match="are running"), one.request("a"):
                pass
    with one.request("a"):
        pass


def test_a_minute_ends(now: time_machine.Coordinates) -> None:
    two = limits(requests_per_minute=2)
    for _ in range(2):
        with two.request("a"):
            pass
    with pytest.raises(LimitExceeded) as caught, two.request("a"):
        pass
    now.shift((caught.value.retry_after_s or 0) + 1)
    with two.request("a"):  # as it was told
        pass
    now.shift(120)
    for _ in range(2):
        with two.request("a"):
            pass
