"""The typed client of the public service.

async with RamoleClient("127.0.0.1:50051") as client:
    print((await client.complete("Translate to German: good morning")).text)
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from copy import copy
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import grpc

from ramole.client.checks import message
from ramole.client.codec import (
    batch_event_from_pb,
    completion_from_pb,
    description_from_pb,
    event_from_pb,
    record_from_pb,
    route_from_pb,
    version_from_pb,
)
from ramole.client.download import save_download
from ramole.client.requests import Request, UseAdapter, request_to_pb
from ramole.client.retries import PublicRemote, repeated
from ramole.client.upload import Progress, check_folder, upload_header, upload_messages
from ramole.client.values import (
    AdapterRecord,
    Completion,
    Description,
    ReindexProgress,
    Revoked,
    Route,
    Routing,
    Uploaded,
    Usage,
    Version,
)
from ramole.core.address import check_address
from ramole.core.answer import Chunk
from ramole.core.chat import Message
from ramole.core.composition import Composition
from ramole.core.errors import InvalidInput, RamoleError
from ramole.core.names import AdapterRef
from ramole.core.sampling import Sampling
from ramole.transport.channels import Channels
from ramole.transport.picker import StaticPicker
from ramole.transport.stubs import reading
from ramole.transport.values import ref_from_pb
from ramole.v1 import gateway_pb2
from ramole.v1.gateway_pb2_grpc import GatewayStub

if TYPE_CHECKING:
    from ramole.v1.gateway_pb2_grpc import GatewayAsyncStub

_REINDEX_TIMEOUT_S = 86_400.0


class RamoleClient:
    """Calls one gateway. All methods raise the errors of `ramole.core.errors`, with field and remedy.

    What fails with an error whose `retry_after_s` is not None is repeated after that time, as far as it changes nothing
    on the server (an upload: if it has an idempotency key) and nothing of an answer has arrived. A connection that was
    lost is made anew by the next call.

    Args:
        address: ``host:port``; an IPv6 host in brackets.
        timeout_s: deadline of each call, with all its tries; None leaves it to the server.
        key: API key, if the server asks for one.
        ca_file: PEM file with the CA of the server's certificate; '' = no TLS.
        retries: tries of one call after the first; 0 = each error is raised at once.

    Attributes:
        address: as given.

    Raises:
        InvalidInput: the address is none, or there are less than 0 retries.
        OSError: the file cannot be read.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout_s: float | None = None,
        key: str = "",
        ca_file: str | Path = "",
        retries: int = 2,
    ) -> None:
        self.address = check_address(address)
        _check_retries(retries)  # before a channel is made
        credentials = grpc.ssl_channel_credentials(Path(ca_file).read_bytes()) if ca_file else None
        self._channels = Channels(through_proxy=True, credentials=credentials)
        self._key = key
        self._set_options(timeout_s, retries)

    def _set_options(self, timeout_s: float | None, retries: int) -> None:
        self._timeout_s, self._retries = timeout_s, _check_retries(retries)
        remote: PublicRemote[GatewayAsyncStub] = PublicRemote(
            GatewayStub, StaticPicker(self.address), self._channels, key=self._key, retries=retries
        )
        self._gateway = remote.stub

    def with_options(self, *, timeout_s: float | None = None, retries: int | None = None) -> Self:
        """The same client, on the same connection, with other options: ``client.with_options(timeout_s=2).describe()``.

        None = as they are. Closing either client closes both.
        """
        other = copy(self)
        other._set_options(
            self._timeout_s if timeout_s is None else timeout_s, self._retries if retries is None else retries
        )
        return other

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection; calls that still run are cancelled."""
        await self._channels.close()

    async def generate(
        self,
        prompt: str = "",
        *,
        messages: Sequence[Message] = (),
        token_ids: Sequence[int] = (),
        adapters: Sequence[str | UseAdapter] = (),
        composition: Composition | None = None,
        sampling: Sampling | None = None,
        query: str = "",
        tags: Sequence[str] = (),
        may_fall_back: bool = False,
        allow_degraded: bool = False,
    ) -> AsyncGenerator[Routing | Chunk | Usage]:
        """Streams an answer: one Routing, then Chunks, then one Usage. Closing the generator cancels the request.

        Args:
            prompt, messages, token_ids: what to answer; one of the three. See `Request` for these and the others.
        """
        request = Request(
            prompt,
            messages,
            token_ids,
            adapters,
            composition,
            sampling,
            query,
            tags,
            may_fall_back,
            allow_degraded,
        )
        events = self._gateway.Generate(request_to_pb(request), timeout=self._timeout_s)
        async with reading(events) as answers:
            async for event in answers:
                yield event_from_pb(event)

    async def complete(
        self,
        prompt: str = "",
        *,
        messages: Sequence[Message] = (),
        token_ids: Sequence[int] = (),
        adapters: Sequence[str | UseAdapter] = (),
        composition: Composition | None = None,
        sampling: Sampling | None = None,
        query: str = "",
        tags: Sequence[str] = (),
        may_fall_back: bool = False,
        allow_degraded: bool = False,
    ) -> Completion:
        """The whole answer at once; arguments as for `generate`."""
        request = Request(
            prompt,
            messages,
            token_ids,
            adapters,
            composition,
            sampling,
            query,
            tags,
            may_fall_back,
            allow_degraded,
        )
        asked = gateway_pb2.CompleteRequest(request=request_to_pb(request))
        return completion_from_pb(await self._gateway.Complete(asked, timeout=self._timeout_s))

    async def generate_batch(
        self, requests: Sequence[str | Request]
    ) -> AsyncGenerator[tuple[int, Routing | Chunk | Usage | RamoleError]]:
        """Streams the answers of several prompts, which run as one batch: events as of `generate`, as they are made,
        each with the number of its request. Closing the generator cancels all of them.

        A request that fails ends with its error, as a value; the others go on.

        Args:
            requests: 1 to 64.
        """
        asked = message(
            gateway_pb2.GenerateBatchRequest,
            requests=[request_to_pb(each if isinstance(each, Request) else Request(each)) for each in requests],
        )
        events = self._gateway.GenerateBatch(asked, timeout=self._timeout_s)
        async with reading(events) as answers:
            async for event in answers:
                yield event.index, batch_event_from_pb(event)

    async def route(self, prompt: str, *, k: int = 0, tags: Sequence[str] = ()) -> Route:
        """The k adapters with all of `tags` that fit `prompt` best, without generating; 0 = the server's default."""
        request = message(gateway_pb2.RouteRequest, prompt=prompt, k=k, tags=tags)
        return route_from_pb(await self._gateway.Route(request, timeout=self._timeout_s))

    async def upload(
        self,
        folder: Path | str,
        samples: Sequence[str] = (),
        *,
        adapter: str = "",
        base_model: str = "",
        idempotency_key: str = "",
        expected_version: int | None = None,
        is_public: bool = False,
        is_named_only: bool = False,
        tags: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> Uploaded:
        """Uploads a PEFT LoRA folder, or has the server fetch one. On return the next fitting prompt uses it, durably.

        Args:
            folder: holds adapter_config.json and adapter_model.safetensors; or, with ``://`` in it, a URI that the
                server fetches them from: ``hf://org/repo@revision``, or what its setting adapters.sources allows.
            samples: typical inputs of the adapter; they place it in the retriever's space. None if it is only named.
            adapter: ``name`` or ``tenant/name``; empty = the name of the folder; needed with a URI.
            base_model: empty = as adapter_config.json says.
            idempotency_key: makes retries safe, and so has them made.
            expected_version: upload only if this is the latest version; 0 = the name must be new.
            is_public: whether other tenants may retrieve it.
            is_named_only: it is never retrieved; only requests that name it use it.
            tags: what `generate`, `route` and `adapters` may filter by.
            progress: called with the bytes that are on their way and those of the whole, again and again; from zero
                again when the upload is tried again. Not for a URI. It must return at once.

        Raises:
            AdapterRefused: admission failed.
            Conflict: `expected_version` is not the latest.
        """
        source = folder if isinstance(folder, str) and "://" in folder else ""
        folder_name = "" if source else check_folder(Path(folder))
        path = None if source else Path(folder)
        header = await upload_header(
            path,
            source=source,
            adapter=adapter or folder_name,
            samples=samples,
            base_model=base_model,
            idempotency_key=idempotency_key,
            expected_version=expected_version,
            is_public=is_public,
            is_named_only=is_named_only,
            tags=tags,
        )
        answer = await repeated(
            lambda limit_s: self._gateway.UploadAdapter(upload_messages(path, header, progress), timeout=limit_s),
            self._retries if idempotency_key else 0,
            self._timeout_s,
        )
        return Uploaded(record_from_pb(answer.record), answer.created)

    async def get(self, adapter: str) -> AdapterRecord:
        """One version: the latest when none is pinned."""
        answer = await self._gateway.GetAdapter(
            message(gateway_pb2.GetAdapterRequest, adapter=adapter),
            timeout=self._timeout_s,
        )
        return record_from_pb(answer.record)

    async def adapters(
        self,
        *,
        base_model: str = "",
        tenant: str = "",
        name_prefix: str = "",
        latest_only: bool = False,
        tags: Sequence[str] = (),
        page_size: int = 0,
    ) -> AsyncGenerator[AdapterRecord]:
        """All live versions that pass the filters, ordered by name, without their samples."""
        token = ""
        while True:
            request = message(
                gateway_pb2.ListAdaptersRequest,
                base_model=base_model,
                tenant=tenant,
                name_prefix=name_prefix,
                latest_only=latest_only,
                tags=tags,
                page_size=page_size,
                page_token=token,
                without_samples=True,
            )
            answer = await self._gateway.ListAdapters(request, timeout=self._timeout_s)
            for record in answer.records:
                yield record_from_pb(record)
            token = answer.next_page_token
            if not token:
                return

    async def history(self, adapter: str) -> tuple[Version, ...]:
        """All versions of a name, those that are gone too, newest first."""
        answer = await self._gateway.GetHistory(
            message(gateway_pb2.GetHistoryRequest, adapter=adapter),
            timeout=self._timeout_s,
        )
        return tuple(version_from_pb(entry) for entry in answer.entries)

    async def download(self, adapter: str, folder: Path) -> AdapterRef:
        """Writes both files of a version, checked against its digest, into a folder.

        Args:
            folder: is made when it is absent; files of these names in it are replaced.

        Raises:
            Corrupt: the bytes that arrived have another digest.
        """
        parts = self._gateway.DownloadAdapter(
            message(gateway_pb2.DownloadAdapterRequest, adapter=adapter),
            timeout=self._timeout_s,
        )
        async with reading(parts) as answers:
            return await save_download(answers, folder)

    async def rollback(self, adapter: str, *, expected_version: int | None = None) -> Uploaded:
        """Makes ``tenant/name@version`` the latest again, as a new version with its content and samples.

        Raises:
            Conflict: `expected_version` is not the latest.
        """
        answer = await self._gateway.RollbackAdapter(
            message(gateway_pb2.RollbackAdapterRequest, adapter=adapter, expected_version=expected_version),
            timeout=self._timeout_s,
        )
        return Uploaded(record_from_pb(answer.record), answer.created)

    async def delete(
        self, adapter: str, *, comment: str = "", expected_version: int | None = None
    ) -> tuple[AdapterRef, ...]:
        """Removes one version, or all of a name; running requests finish. The comment is kept in the history.

        Raises:
            NotFound: there is no such version.
            Conflict: `expected_version` is not the latest.
        """
        answer = await self._gateway.DeleteAdapter(
            message(
                gateway_pb2.DeleteAdapterRequest, adapter=adapter, comment=comment, expected_version=expected_version
            ),
            timeout=self._timeout_s,
        )
        return tuple(ref_from_pb(ref) for ref in answer.removed)

    async def revoke(self, adapter: str, *, comment: str = "", expected_version: int | None = None) -> Revoked:
        """As `delete`, but running requests that use the adapter end with Cancelled."""
        answer = await self._gateway.RevokeAdapter(
            message(
                gateway_pb2.RevokeAdapterRequest, adapter=adapter, comment=comment, expected_version=expected_version
            ),
            timeout=self._timeout_s,
        )
        return Revoked(tuple(ref_from_pb(ref) for ref in answer.removed), answer.aborted)

    async def reindex(self) -> AsyncGenerator[ReindexProgress]:
        """Rebuilds the index with the configured encoder while requests run; closing it breaks off, to go on later."""
        call = self._gateway.Reindex(gateway_pb2.ReindexRequest(), timeout=_REINDEX_TIMEOUT_S)
        async with reading(call) as steps:
            async for step in steps:
                yield ReindexProgress(step.generation, step.encoder_id, step.done, step.total)

    async def describe(self) -> Description:
        """The served model and its load."""
        return description_from_pb(await self._gateway.Describe(gateway_pb2.DescribeRequest(), timeout=self._timeout_s))


def _check_retries(retries: int) -> int:
    if retries < 0:
        raise InvalidInput(f"{retries} retries", field="retries", remedy="use 0 for none")
    return retries
