"""An error that a servicer raises reaches a client two hops away unchanged, in every cardinality."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo  # type: ignore[import-untyped]
from grpc_status import rpc_status

from ramole.core import errors
from ramole.core.errors import DeadlineExceeded, ExpertUnavailable, Internal, InvalidInput, LimitExceeded, RamoleError
from ramole.observability.logs import ACCESS_LOGGER
from ramole.transport.errors import to_status
from ramole.v1 import adapters_pb2
from ramole.v1.adapters_pb2_grpc import AdaptersStub
from support.probe_service import CALLS, ProbeService, RelayService, chunks, facts

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, RamoleError) and kind is not RamoleError
]


@pytest.mark.parametrize("cardinality", CALLS)
async def test_every_error_class_crosses_two_hops_unchanged(net: Any, cardinality: str) -> None:
    probe = ProbeService()
    far = await net.serve(probe)
    near = await net.serve(RelayService(net.peers(far.address)))
    peers = net.peers(near.address)
    call, answer = CALLS[cardinality]
    assert await call(peers) == answer
    cases = [kind("what is wrong", field="a.b", remedy="do this") for kind in (*KINDS, DeadlineExceeded, Internal)]
    cases += [kind("ends with (brackets)") for kind in KINDS]
    for error in cases:
        probe.failure = error
        with pytest.raises(RamoleError) as caught:
            await call(peers)
        assert facts(caught.value) == facts(error)


@pytest.mark.parametrize("problem", ExpertUnavailable.PROBLEMS)
async def test_an_expert_that_cannot_be_used_arrives_with_its_place_and_its_problem(
    net: Any, problem: type[RamoleError], caplog: pytest.LogCaptureFixture
) -> None:
    error = ExpertUnavailable.of(problem("broken", remedy="upload it again"), 2)
    code = to_status(error, "id").code.name
    assert code == to_status(problem("broken"), "id").code.name
    probe = ProbeService(error)
    server = await net.serve(probe)
    with caplog.at_level(logging.INFO, ACCESS_LOGGER), pytest.raises(ExpertUnavailable) as caught:
        await CALLS["stream"][0](net.peers(server.address))
    logged = [record.fields["code"] for record in caplog.records if record.name == ACCESS_LOGGER]  # type: ignore[attr-defined]
    counted = [
        sample.labels["code"]
        for family in probe.registry.collect()
        for sample in family.samples
        if sample.name == "ramole_requests_total"
    ]
    assert logged == counted == [code], "the log and the metrics tell what the client saw"
    assert facts(caught.value) == facts(error)
    assert (caught.value.expert, caught.value.problem) == (2, problem)
    adapters = caught.value.of_adapter("adapters[2].adapter")
    assert facts(adapters) == (problem, "broken", "adapters[2].adapter", "upload it again")


def test_what_says_nothing_about_the_adapter_stays_what_it_is() -> None:
    error = ExpertUnavailable.of(errors.Unavailable("the store is down"), 1)
    assert facts(error) == (errors.Unavailable, "the store is down", "experts[1]", "")
    assert error.retry_after_s


@pytest.mark.parametrize("cardinality", CALLS)
async def test_an_unexpected_exception_tells_the_client_nothing_but_the_request_id(
    net: Any, cardinality: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = await net.serve(ProbeService(RuntimeError("secret: password")))
    with caplog.at_level(logging.ERROR), pytest.raises(Internal) as caught:
        await CALLS[cardinality][0](net.peers(server.address))
    assert "secret" not in str(caught.value)
    assert "request id" in caught.value.message
    assert "secret: password" in caplog.text


async def test_the_wire_form_is_the_documented_one(net: Any) -> None:
    server = await net.serve(ProbeService(InvalidInput("bad k", field="composition.k", remedy="use 0 to 8")))
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = AdaptersStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetStored(adapters_pb2.GetStoredRequest(adapter="x"), metadata=(("x-request-id", "mine-1"),))
    error = caught.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == "composition.k: bad k (use 0 to 8)"
    trailers = dict(error.trailing_metadata() or ())
    assert trailers["x-request-id"] == "mine-1"
    status = rpc_status.status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    assert status.message == error.details()
    info, request = ErrorInfo(), BadRequest()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(request)
    assert (info.reason, info.domain) == ("INVALID_INPUT", "ramole")
    assert dict(info.metadata) == {"field": "composition.k", "remedy": "use 0 to 8", "request_id": "mine-1"}
    assert request.field_violations[0].field == "composition.k"
    assert len(status.details) == 2, "no RetryInfo: the same request will never succeed"


async def test_what_may_be_repeated_says_when(net: Any) -> None:
    server = await net.serve(ProbeService(LimitExceeded("full", retry_after_s=2.5)))
    async with grpc.aio.insecure_channel(server.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await AdaptersStub(channel).GetStored(adapters_pb2.GetStoredRequest(adapter="x"))
    raw = dict(caught.value.trailing_metadata() or ())["grpc-status-details-bin"]
    retry = RetryInfo()
    assert rpc_status.status_pb2.Status.FromString(raw).details[1].Unpack(retry)
    assert retry.retry_delay.ToTimedelta() == timedelta(seconds=2.5)
    with pytest.raises(LimitExceeded) as raised:
        await CALLS["unary"][0](net.peers(server.address))
    assert raised.value.retry_after_s == 2.5


@pytest.mark.parametrize("letter", ["x", "é", "漢", "\n"])
async def test_a_message_of_any_length_and_script_arrives_with_its_class(net: Any, letter: str) -> None:
    server = await net.serve(ProbeService(InvalidInput(letter * 50_000, field=letter * 900, remedy=letter * 5_000)))
    with pytest.raises(InvalidInput) as caught:
        await CALLS["unary"][0](net.peers(server.address))
    assert caught.value.message.startswith(letter * 100)


async def test_a_message_over_the_size_limit_is_refused_as_such(net: Any) -> None:
    server = await net.serve(ProbeService())
    with pytest.raises(LimitExceeded):
        await net.peers(server.address).adapters.stub.Put(chunks(b"x" * (5 * 2**20)))


async def test_a_server_that_is_not_there_is_unavailable(net: Any) -> None:
    for call, _ in CALLS.values():
        with pytest.raises(errors.Unavailable) as caught:
            await call(net.peers("127.0.0.1:1"))
        assert caught.value.remedy


async def test_half_a_surrogate_pair_in_an_error_arrives_as_an_escape(net: Any) -> None:
    server = await net.serve(ProbeService(InvalidInput("key 'a\ud800'", field="a.\udcff", remedy="not \ud800")))
    with pytest.raises(InvalidInput) as caught:
        await CALLS["unary"][0](net.peers(server.address))
    assert facts(caught.value) == (InvalidInput, "key 'a\\ud800'", "a.\\udcff", "not \\ud800")
