"""A gateway, on a real store and a real index, that several principals ask."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import httpx

from ramole.core.call import ADMIN, PUBLISHER, Principal
from ramole.core.errors import RamoleError
from ramole.core.settings import HttpSettings, ServerSettings, Settings
from ramole.gateway.servicer import GatewayService
from ramole.transport.errors import from_rpc_error
from ramole.transport.identity import principal_to_metadata
from ramole.transport.peers import Peers
from ramole.transport.server import GrpcServer
from ramole.v1 import gateway_pb2, records_pb2
from ramole.v1.gateway_pb2_grpc import GatewayStub
from support.real_world import RealWorld, adapter_files

RPCS = gateway_pb2.DESCRIPTOR.services_by_name["Gateway"].methods_by_name

ANN, BOB = (Principal(tenant, name, frozenset({PUBLISHER})) for tenant, name in (("a", "ann"), ("b", "bob")))
EVE = Principal("ops", "eve", frozenset({ADMIN}))


def with_http(settings: Settings, **options: Any) -> Settings:
    """The same with an HTTP port, any free one."""
    gateway = settings.gateway.model_copy(update={"http": HttpSettings(port=0, **options)})
    return settings.model_copy(update={"gateway": gateway})


class TenantWorld(RealWorld):
    """Believes whoever asks.

    Attributes:
        http: client of its HTTP port.
    """

    http: httpx.AsyncClient

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.audit = folder / "data" / "audit.jsonl"

    def serve(self, peers: Peers) -> GrpcServer:
        """A server that believes what a call's metadata says of its principal, as the services behind a gateway do."""
        return GrpcServer(GatewayService(self.settings, peers), ServerSettings(), default_timeout_s=30.0)

    async def start(self) -> None:
        """Everything."""
        self.settings = with_http(self.settings)
        await self.start_neighbours()
        await self.start_gateway()
        self.http = await self._stack.enter_async_context(
            httpx.AsyncClient(base_url=f"http://{self.servers['gateway'].http_address}", timeout=30)
        )
        channel = await self._stack.enter_async_context(grpc.aio.insecure_channel(self.servers["gateway"].address))
        self._stub = GatewayStub(channel)

    async def ask(self, who: Principal | None, rpc: str, request: Any) -> list[Any]:
        """All answers; `request` is a list of messages where the call streams in. Raises RamoleError.

        Args:
            who: None = does not say.
        """
        sent = iter(request) if RPCS[rpc].client_streaming else request
        call = getattr(self._stub, rpc)(sent, metadata=principal_to_metadata(who) if who else ())
        try:
            return [answer async for answer in call] if RPCS[rpc].server_streaming else [await call]
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None

    async def refusal(self, who: Principal, rpc: str, request: Any) -> RamoleError | None:
        """How the call fails; None if it does not."""
        try:
            await self.ask(who, rpc, request)
        except RamoleError as error:
            return error
        return None

    async def give(self, name: str, number: int, *, is_public: bool = False) -> records_pb2.AdapterRecord:
        """Uploads ``tenant/name``, which prompts with n<number> in them find."""
        [answer] = await self.ask(EVE, "UploadAdapter", upload(name, number, is_public=is_public))
        record: records_pb2.AdapterRecord = answer.record
        return record

    async def listed(self, who: Principal | None, **asked: Any) -> list[str]:
        """All pages of a listing; no page but the only one may be empty."""
        found: list[str] = []
        request = gateway_pb2.ListAdaptersRequest(**asked)
        while True:
            [page] = await self.ask(who, "ListAdapters", request)
            assert page.records or not request.page_token, "an empty page tells that something is hidden there"
            found += names(record.adapter for record in page.records)
            request.page_token = page.next_page_token
            if not request.page_token:
                return found


def upload(name: str, number: int, **header: Any) -> Sequence[gateway_pb2.UploadAdapterRequest]:
    """The messages of an upload."""
    head = records_pb2.UploadHeader(**{"adapter": name, "samples": [f"sample n{number}"], **header})
    chunks = [records_pb2.FileChunk(file=file, data=data) for file, data in adapter_files(number).items()]
    parts = [gateway_pb2.UploadAdapterRequest(chunk=chunk) for chunk in chunks]
    return [gateway_pb2.UploadAdapterRequest(header=head), *parts]


def names(refs: Any) -> list[str]:
    """``tenant/name@version`` of each."""
    return [f"{ref.tenant}/{ref.name}@{ref.version}" for ref in refs]
