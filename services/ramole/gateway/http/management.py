"""The routes that manage the repository: they read requests and write answers; what they do is `gateway.management`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

from prometheus_client.exposition import CONTENT_TYPE_LATEST

from ramole.core import access
from ramole.core.errors import RamoleError
from ramole.gateway.http.answers import event
from ramole.gateway.http.bodies import Body, parse
from ramole.gateway.http.edge import ADAPTERS_KEY, Exchange, while_connected
from ramole.gateway.http.messages import as_json
from ramole.gateway.http.queries import (
    DeleteQuery,
    GetQuery,
    ListQuery,
    NoBody,
    NoQuery,
    RevokeBody,
    RollbackBody,
    RouteBody,
    UploadFromSource,
    parse_query,
)
from ramole.gateway.http.upload_form import FORM, header_of, upload_messages
from ramole.gateway.management import Management
from ramole.observability.export import Exposition, as_text
from ramole.transport.values import ref_from_pb
from ramole.v1.gateway_pb2 import (
    DeleteAdapterRequest,
    DescribeResponse,
    DownloadAdapterRequest,
    DownloadAdapterResponse,
    GetAdapterRequest,
    GetHistoryRequest,
    ListAdaptersRequest,
    ReindexResponse,
    RevokeAdapterRequest,
    RollbackAdapterRequest,
    RouteRequest,
)

_CREATED = 201


class ManagementRoutes:
    """``/v1/adapters`` and what stands beside it.

    Args:
        describe: what the server says of itself.
        exposition: its metrics.
        max_header_bytes: of the header of an upload.
    """

    def __init__(
        self,
        management: Management,
        describe: Callable[[], Awaitable[DescribeResponse]],
        exposition: Exposition,
        *,
        max_header_bytes: int,
    ) -> None:
        self._management = management
        self._describe = describe
        self._exposition = exposition
        self._max_header_bytes = max_header_bytes

    async def upload(self, exchange: Exchange) -> None:
        """Uploads one adapter: both files as a form, or a source from which the server fetches them."""
        parse_query(NoQuery, exchange.request)
        kind = exchange.request.headers.get("content-type", "")
        is_form = kind.partition(";")[0].strip().lower() == FORM
        try:
            if is_form:
                parts = upload_messages(kind, exchange.pieces(), max_header_bytes=self._max_header_bytes)
            else:
                parts = _one(header_of(parse(UploadFromSource, await exchange.body())))
            async with aclosing(parts):
                answer = await self._management.upload(parts)
        except RamoleError as error:
            raise _told(error, is_form=is_form) from error
        await exchange.tell(as_json(answer), _CREATED if answer.created else 200)

    async def list(self, exchange: Exchange) -> None:
        """A page of the live versions that pass the filters, ordered by name."""
        query = parse_query(ListQuery, exchange.request)
        await exchange.tell(as_json(await self._management.list(ListAdaptersRequest(**query.model_dump()))))

    async def get(self, exchange: Exchange) -> None:
        """One version: the latest, or `name@version`."""
        query = parse_query(GetQuery, exchange.request)
        request = GetAdapterRequest(adapter=_adapter(exchange), without_samples=query.without_samples)
        await exchange.tell(as_json(await self._management.get(request)))

    async def history(self, exchange: Exchange) -> None:
        """All versions of a name, those that are gone too, newest first."""
        parse_query(NoQuery, exchange.request)
        await exchange.tell(as_json(await self._management.history(GetHistoryRequest(adapter=_adapter(exchange)))))

    async def config(self, exchange: Exchange) -> None:
        """adapter_config.json of one version."""
        async with aclosing(self._download(exchange)) as parts:
            header = (await anext(parts)).header
            await exchange.tell_bytes(_one(header.config_json), "application/json", len(header.config_json))

    async def weights(self, exchange: Exchange) -> None:
        """adapter_model.safetensors of one version."""
        async with aclosing(self._download(exchange)) as parts:
            size = (await anext(parts)).header.size
            exchange.headers["content-disposition"] = 'attachment; filename="adapter_model.safetensors"'
            await exchange.tell_bytes(_data(parts), "application/octet-stream", size)

    async def roll_back(self, exchange: Exchange) -> None:
        """Makes `name@version` the latest again, as a new version."""
        body = await _small(exchange, RollbackBody)
        request = RollbackAdapterRequest(adapter=_adapter(exchange), expected_version=body.expected_version)
        answer = await self._management.roll_back(request)
        await exchange.tell(as_json(answer), _CREATED if answer.created else 200)

    async def delete(self, exchange: Exchange) -> None:
        """Removes one version, or all of a name; running requests finish."""
        query = parse_query(DeleteQuery, exchange.request)
        request = DeleteAdapterRequest(adapter=_adapter(exchange), **query.model_dump())
        await exchange.tell(as_json(await self._management.delete(request)))

    async def revoke(self, exchange: Exchange) -> None:
        """Removes the content of one version, or of all of a name; running requests that use it are aborted."""
        body = await _small(exchange, RevokeBody)
        request = RevokeAdapterRequest(adapter=_adapter(exchange), **body.model_dump())
        await exchange.tell(as_json(await self._management.revoke(request)))

    async def reindex(self, exchange: Exchange) -> None:
        """Rebuilds the index with the configured encoder; tells its progress until it is done or nobody listens."""
        await _small(exchange, NoBody)
        async with while_connected(exchange.request):
            await exchange.tell_events(_events(self._management.reindex()))

    async def route(self, exchange: Exchange) -> None:
        """Which adapters a prompt would get."""
        parse_query(NoQuery, exchange.request)
        body = parse(RouteBody, await exchange.body())
        await exchange.tell(as_json(await self._management.route(RouteRequest(**body.model_dump()))))

    async def server(self, exchange: Exchange) -> None:
        """The served model, limits and load."""
        parse_query(NoQuery, exchange.request)
        await exchange.tell(as_json(await self._describe()))

    async def metrics(self, exchange: Exchange) -> None:
        """This gateway's metrics for Prometheus; with keys, for operators."""
        access.check_operator()
        parse_query(NoQuery, exchange.request)
        text = as_text(self._exposition)
        await exchange.tell_bytes(_one(text), CONTENT_TYPE_LATEST, len(text))

    async def _download(self, exchange: Exchange) -> AsyncGenerator[DownloadAdapterResponse]:
        """The header, then pieces; the answer's headers say which version it is."""
        parse_query(NoQuery, exchange.request)
        request = DownloadAdapterRequest(adapter=_adapter(exchange))
        async with aclosing(self._management.download(request)) as parts:
            async for part in parts:
                if part.HasField("header"):
                    ref = ref_from_pb(part.header.adapter)
                    exchange.headers[ADAPTERS_KEY] = str(ref)
                    exchange.headers["etag"] = f'"{ref.digest}"'
                yield part


def _adapter(exchange: Exchange) -> str:
    path = exchange.request.path_params
    return f"{path['tenant']}/{path['name']}"


Kind = TypeVar("Kind", bound=Body)


async def _small(exchange: Exchange, kind: type[Kind]) -> Kind:
    """A body that may be left out."""
    parse_query(NoQuery, exchange.request)
    return parse(kind, await exchange.body() or b"{}")


def _told(error: RamoleError, *, is_form: bool) -> RamoleError:
    """The error of an upload, by the name that HTTP has for what is at fault."""
    if error.field.startswith("chunk."):
        return error.at("body")
    return error if is_form else error.at(error.field.removeprefix("header."))


Part = TypeVar("Part")


async def _one(part: Part) -> AsyncGenerator[Part]:
    yield part


async def _data(parts: AsyncGenerator[DownloadAdapterResponse]) -> AsyncGenerator[bytes]:
    async with aclosing(parts):
        async for part in parts:
            yield part.data


async def _events(steps: AsyncGenerator[ReindexResponse]) -> AsyncGenerator[bytes]:
    async with aclosing(steps):
        async for step in steps:
            yield event(as_json(step))
