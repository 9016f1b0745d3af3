"""The store that the gateway's tests use answers as the real one: random calls, made to both."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ramole.adapters.servicer import AdaptersService
from ramole.core.call import Principal
from ramole.core.errors import NotFound, PermissionDenied, RamoleError
from ramole.core.settings import ServerSettings, Settings
from ramole.transport.errors import from_rpc_error
from ramole.transport.identity import principal_to_metadata
from ramole.transport.server import GrpcServer
from ramole.transport.service import Service
from ramole.v1 import adapters_pb2 as pb
from ramole.v1 import common_pb2, gateway_pb2, records_pb2
from ramole.v1.adapters_pb2_grpc import AdaptersStub
from support.gateway_world import BASE, Adapters
from support.real_world import SHAPES
from support.tenant_world import ANN, BOB, EVE, names, upload


@dataclass(frozen=True)
class Step:
    """One call.

    Attributes:
        stored: which of the versions that were put so far, where the call is about one.
    """

    who: Principal
    rpc: str
    name: str
    stored: int
    flag: bool


RPCS = ["Publish", "Restage", "Discard", "GetStored", "GetStoredHistory", "DeleteStored"]
STEP = st.builds(
    Step,
    st.sampled_from([ANN, ANN, BOB, EVE]),
    st.sampled_from(["Put"] * 3 + ["Publish"] * 2 + RPCS),
    st.sampled_from(["a/x", "a/x", "x", "a/x@1", "a/x@2", "x@2", "b/x", "a/y"]),
    st.integers(0, 5),
    st.booleans(),
)


@given(st.lists(STEP, min_size=10, max_size=25))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_fake_store_answers_as_the_real_one(steps: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(compare(Path(folder), steps))


async def compare(folder: Path, steps: Sequence[Step]) -> None:
    place = Settings(base_model=BASE, base_id=BASE, data_dir=folder / "data")
    async with AsyncExitStack() as stack:
        real, fake = [await Side.open(service, stack) for service in (AdaptersService(place, SHAPES), Adapters([]))]
        for number, step in enumerate(steps):
            assert await fake.ask(step, number) == await real.ask(step, number), step
        for who in (ANN, BOB, EVE):
            assert await fake.listed(who) == await real.listed(who), who.name


class Side:
    """One of both stores."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub
        self._stored: list[common_pb2.AdapterRef] = []

    @classmethod
    async def open(cls, service: Service, stack: AsyncExitStack) -> Side:
        server = GrpcServer(service, ServerSettings())
        await server.start()
        stack.push_async_callback(server.stop)
        return cls(AdaptersStub(await stack.enter_async_context(grpc.aio.insecure_channel(server.address))))

    async def ask(self, step: Step, number: int) -> object:
        """What matters of the answer, or of the error."""
        try:
            answer = await self._call(step.who, step.rpc, self._request(step, number))
        except RamoleError as error:
            is_worded = isinstance(error, NotFound | PermissionDenied) and step.rpc != "Publish"
            return type(error), str(error) if is_worded else ""
        match step.rpc:
            case "Put" | "Restage":
                self._stored.append(answer.record.adapter)
                return answer.created, answer.is_live, told(answer.record)
            case "Publish" | "GetStored":
                return getattr(answer, "is_live", None), told(answer.record)
            case "GetStoredHistory":
                held = [e.adapter for e in answer.entries if e.adapter.digest in answer.held_digests]
                return [(names([e.adapter]), e.source, e.removal, e.comment) for e in answer.entries], names(held)
            case "DeleteStored":
                freed = [ref for ref in answer.removed if ref.digest in answer.freed_digests]
                return names(answer.removed), names(freed)
        return None

    def _request(self, step: Step, number: int) -> Any:
        ref = self._stored[step.stored % len(self._stored)] if self._stored else common_pb2.AdapterRef(digest="0" * 64)
        name = step.name
        parts = upload(name.partition("@")[0], number, is_public=step.flag)
        return {
            "Put": iter([pb.PutRequest(upload=part) for part in parts]),
            "Publish": pb.PublishRequest(adapter=ref),
            "Discard": pb.DiscardRequest(adapter=ref),
            "Restage": pb.RestageRequest(adapter=name if "@" in name else f"{name}@1"),
            "GetStored": pb.GetStoredRequest(adapter=name),
            "GetStoredHistory": pb.GetStoredHistoryRequest(adapter=name),
            "DeleteStored": pb.DeleteStoredRequest(adapter=name, comment="why", is_revocation=step.flag),
        }[step.rpc]

    async def listed(self, who: Principal) -> list[object]:
        found: list[object] = []
        query = gateway_pb2.ListAdaptersRequest(page_size=2)
        while True:
            page = (await self._call(who, "ListStored", pb.ListStoredRequest(query=query))).page
            found += [told(record) for record in page.records]
            query.page_token = page.next_page_token
            if not query.page_token:
                return found

    async def _call(self, who: Principal, rpc: str, request: Any) -> Any:
        try:
            return await getattr(self._stub, rpc)(request, metadata=principal_to_metadata(who))
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None


def told(record: records_pb2.AdapterRecord) -> tuple[object, ...]:
    return names([record.adapter]), record.is_public, record.source, record.base_model
