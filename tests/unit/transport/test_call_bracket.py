"""The bracket around a call, without any transport: what an HTTP server gets from it, too."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from ramole.core.call import ANONYMOUS, Principal, current_call, entered_call
from ramole.core.errors import (
    DeadlineExceeded,
    Internal,
    LimitExceeded,
    NotFound,
    RamoleError,
    Unauthenticated,
    Unavailable,
)
from ramole.core.settings import ServerSettings
from ramole.observability.logs import ACCESS_LOGGER, ROOT_LOGGER, setup_logging
from ramole.observability.metrics import RpcMetrics
from ramole.transport.call_bracket import CallBracket
from ramole.transport.call_limit import CallLimit, Kind
from ramole.transport.identity import Identify, Peer, principal_to_metadata, seen_principal, told_principal

METHOD = "POST /v1/completions"
PEER = Peer("ipv4:10.0.0.7:40112", metadata={"x-request-id": "r-1"})


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    loggers = [logging.getLogger(ROOT_LOGGER), logging.getLogger(ACCESS_LOGGER)]
    before = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    stream = io.StringIO()
    setup_logging(stream)
    yield stream
    for logger, handlers, level, propagates in before:
        logger.handlers[:], logger.propagate = handlers, propagates
        logger.setLevel(level)


class House:
    """A bracket and what it writes into."""

    def __init__(self, identify: Identify = seen_principal, default_timeout_s: float | None = None) -> None:
        self.registry = CollectorRegistry()
        self.limit = CallLimit(ServerSettings(max_inflight=1))
        self.limit.is_open = True
        self.bracket = CallBracket(self.limit, RpcMetrics(self.registry), identify, default_timeout_s)

    async def call(
        self, failure: BaseException | None = None, peer: Peer = PEER, timeout_s: float | None = None
    ) -> str:
        call = self.bracket.begin(peer, timeout_s)
        async with self.bracket.around(call, METHOD, Kind.CALL, peer):
            await asyncio.sleep(0)
            if failure is not None:
                raise failure
            return current_call().request_id

    def count(self, code: str) -> float | None:
        return self.registry.get_sample_value("ramole_requests_total", {"method": METHOD, "code": code})

    @property
    def inflight(self) -> float | None:
        return self.registry.get_sample_value("ramole_requests_in_flight", {"method": METHOD})


def lines(log: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


async def test_a_call_is_current_inside_and_leaves_one_line_and_one_count(log: io.StringIO) -> None:
    house = House()
    assert await house.call() == "r-1"
    assert entered_call() is None
    (line,) = lines(log)
    assert line.pop("seconds") >= 0
    assert line.pop("time")
    assert line == {
        "level": "info",
        "logger": "ramole.access",
        "message": "call",
        "request_id": "r-1",
        "method": METHOD,
        "code": "OK",
        "peer": "ipv4:10.0.0.7:40112",
    }
    assert (house.count("OK"), house.inflight, house.limit.inflight) == (1, 0, 0)


async def test_an_error_keeps_its_class_and_gives_its_code(log: io.StringIO) -> None:
    house, error = House(), NotFound("no adapter x", field="adapter")
    error.__cause__ = KeyError("x")
    with pytest.raises(NotFound) as caught:
        await house.call(error)
    assert caught.value is error
    assert isinstance(error.__cause__, KeyError)
    assert [line["code"] for line in lines(log)] == ["NOT_FOUND"]
    assert (house.count("NOT_FOUND"), house.inflight, house.limit.inflight) == (1, 0, 0)


async def test_what_is_no_error_of_ours_tells_the_log_everything_and_the_client_nothing(log: io.StringIO) -> None:
    house = House()
    with pytest.raises(Internal) as caught:
        await house.call(RuntimeError("secret"))
    assert "secret" not in str(caught.value)
    assert "r-1" in caught.value.message
    failed, access = lines(log)
    assert (failed["level"], failed["request_id"], access["code"]) == ("error", "r-1", "INTERNAL")
    assert "RuntimeError: secret" in failed["traceback"]


async def test_a_client_that_goes_away_is_cancelled_and_leaves_its_place() -> None:
    house = House()
    with pytest.raises(asyncio.CancelledError):
        await house.call(asyncio.CancelledError())
    assert (house.count("CANCELLED"), house.inflight, house.limit.inflight) == (1, 0, 0)


async def test_a_refused_call_takes_no_place_and_gives_none_back() -> None:
    house = House()
    async with house.bracket.around(house.bracket.begin(PEER, None), METHOD, Kind.CALL, PEER):
        with pytest.raises(LimitExceeded):
            await house.call()
        assert house.limit.inflight == 1
    house.limit.is_open = False
    with pytest.raises(Unavailable):
        await house.call()
    assert house.limit.inflight == 0
    assert (house.count("RESOURCE_EXHAUSTED"), house.count("UNAVAILABLE"), house.inflight) == (1, 1, 0)
    call = house.bracket.begin(PEER, None)
    async with house.bracket.around(call, METHOD, Kind.CALL, PEER, even_if_closed=True):
        assert house.limit.inflight == 1


async def test_the_deadline_is_the_clients_with_a_moment_to_spare_or_the_servers() -> None:
    bracket = House(default_timeout_s=5.0).bracket
    for given, has_default, want in ((1.0, True, 0.95), (10.0, True, 9.9), (None, True, 5.0)):
        left = bracket.begin(PEER, given, has_default=has_default).remaining_s()
        assert left == pytest.approx(want, abs=0.02)
    assert bracket.begin(PEER, None, has_default=False).remaining_s() is None


async def test_work_that_overlooks_its_deadline_is_cut_off() -> None:
    house = House()
    call = house.bracket.begin(PEER, 0.01)
    with pytest.raises(DeadlineExceeded):
        async with asyncio.timeout(20), house.bracket.around(call, METHOD, Kind.CALL, PEER):
            await asyncio.Event().wait()
    assert (house.count("DEADLINE_EXCEEDED"), house.limit.inflight) == (1, 0)


@pytest.mark.parametrize("request_id", ["with space", "x" * 65, "", None])
async def test_an_unsafe_request_id_is_replaced(request_id: str | None) -> None:
    peer = Peer("h", metadata={} if request_id is None else {"x-request-id": request_id})
    assert await House().call(peer=peer) not in (request_id, "")


async def test_who_asks_is_believed_between_services_and_found_out_at_the_edge() -> None:
    told = Principal("acme", "Zoë, via a:b", frozenset({"admin", "auditor"}))
    peer = Peer("ipv4:10.0.0.7:40112", metadata=dict(principal_to_metadata(told)))
    assert await who_asks(told_principal, peer) == told
    assert await who_asks(seen_principal, peer) == replace(ANONYMOUS, name="ipv4:10.0.0.7:40112")
    certified = Peer("ipv4:10.0.0.7:40112", ("b.example", "a.example"), peer.metadata)
    assert await who_asks(seen_principal, certified) == replace(ANONYMOUS, name="a.example,b.example")
    assert await who_asks(told_principal, Peer("h")) == ANONYMOUS


async def who_asks(identify: Identify, peer: Peer) -> Principal:
    bracket = House(identify).bracket
    async with bracket.around(bracket.begin(peer, None), METHOD, Kind.CALL, peer):
        return current_call().principal


async def test_who_is_not_known_is_refused_like_any_call_but_may_ask_for_health() -> None:
    def refuse(peer: Peer) -> Principal:
        raise Unauthenticated("no key came along", field="authorization")

    house = House(refuse)
    with pytest.raises(Unauthenticated):
        await house.call()
    assert (house.count("UNAUTHENTICATED"), house.inflight) == (1, 0)
    async with house.bracket.around(house.bracket.begin(PEER, None), METHOD, Kind.WATCH, PEER, even_if_closed=True):
        assert current_call().principal == ANONYMOUS


async def test_every_call_of_many_at_once_has_its_own_context() -> None:
    house = House()
    house.limit = CallLimit(ServerSettings())
    house.limit.is_open = True
    house.bracket = CallBracket(house.limit, RpcMetrics(CollectorRegistry()), seen_principal)
    peers = [Peer("h", metadata={"x-request-id": f"r-{i}"}) for i in range(20)]
    failures = [RamoleError("x") if i % 3 else None for i in range(20)]
    found = await asyncio.gather(*map(house.call, failures, peers), return_exceptions=True)
    assert [each for each in found if isinstance(each, str)] == [f"r-{i}" for i in range(0, 20, 3)]
    assert house.limit.inflight == 0
