"""The synchronous client of the public service, for scripts, threads and notebooks.

with SyncRamoleClient("127.0.0.1:50051") as client:
    print(client.complete("Translate to German: good morning").text)
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from copy import copy
from pathlib import Path
from types import TracebackType
from typing import Self

from ramole.client.client import RamoleClient
from ramole.client.loop_thread import LoopThread
from ramole.client.requests import Request, UseAdapter
from ramole.client.upload import Progress
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
from ramole.core.answer import Chunk
from ramole.core.chat import Message
from ramole.core.composition import Composition
from ramole.core.errors import RamoleError
from ramole.core.names import AdapterRef
from ramole.core.sampling import Sampling


class SyncRamoleClient:
    """`RamoleClient` without ``await``: the same calls, arguments, retries and errors.

    May be shared by threads, and used where an event loop runs. Ctrl-C during a call cancels it on the server; so does
    closing an iterator half-way, or dropping it. A process that is forked needs a client of its own.

    Args:
        address, timeout_s, key, ca_file, retries: as for `RamoleClient`.
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
        async def connect() -> RamoleClient:
            return RamoleClient(address, timeout_s=timeout_s, key=key, ca_file=ca_file, retries=retries)

        self._loop = LoopThread()
        try:
            self._client = self._loop.run(connect())  # gRPC's asyncio wants to begin where its loop is
        except BaseException:
            self._loop.close()
            raise

    def with_options(self, *, timeout_s: float | None = None, retries: int | None = None) -> Self:
        """See `RamoleClient.with_options`."""
        other = copy(self)
        other._client = self._client.with_options(timeout_s=timeout_s, retries=retries)
        return other

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; calls of other threads that still run are cancelled."""
        self._loop.close(self._client.close)

    def generate(
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
    ) -> Generator[Routing | Chunk | Usage]:
        """See `RamoleClient.generate`."""
        return self._loop.iterate(
            self._client.generate(
                prompt,
                messages=messages,
                token_ids=token_ids,
                adapters=adapters,
                composition=composition,
                sampling=sampling,
                query=query,
                tags=tags,
                may_fall_back=may_fall_back,
                allow_degraded=allow_degraded,
            )
        )

    def complete(
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
        """See `RamoleClient.complete`."""
        return self._loop.run(
            self._client.complete(
                prompt,
                messages=messages,
                token_ids=token_ids,
                adapters=adapters,
                composition=composition,
                sampling=sampling,
                query=query,
                tags=tags,
                may_fall_back=may_fall_back,
                allow_degraded=allow_degraded,
            )
        )

    def generate_batch(
        self, requests: Sequence[str | Request]
    ) -> Generator[tuple[int, Routing | Chunk | Usage | RamoleError]]:
        """See `RamoleClient.generate_batch`."""
        return self._loop.iterate(self._client.generate_batch(requests))

    def route(self, prompt: str, *, k: int = 0, tags: Sequence[str] = ()) -> Route:
        """See `RamoleClient.route`."""
        return self._loop.run(self._client.route(prompt, k=k, tags=tags))

    def upload(
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
        """See `RamoleClient.upload`; `progress` is called in another thread."""
        return self._loop.run(
            self._client.upload(
                folder,
                samples,
                adapter=adapter,
                base_model=base_model,
                idempotency_key=idempotency_key,
                expected_version=expected_version,
                is_public=is_public,
                is_named_only=is_named_only,
                tags=tags,
                progress=progress,
            )
        )

    def get(self, adapter: str) -> AdapterRecord:
        """See `RamoleClient.get`."""
        return self._loop.run(self._client.get(adapter))

    def adapters(
        self,
        *,
        base_model: str = "",
        tenant: str = "",
        name_prefix: str = "",
        latest_only: bool = False,
        tags: Sequence[str] = (),
        page_size: int = 0,
    ) -> Generator[AdapterRecord]:
        """See `RamoleClient.adapters`."""
        return self._loop.iterate(
            self._client.adapters(
                base_model=base_model,
                tenant=tenant,
                name_prefix=name_prefix,
                latest_only=latest_only,
                tags=tags,
                page_size=page_size,
            )
        )

    def history(self, adapter: str) -> tuple[Version, ...]:
        """See `RamoleClient.history`."""
        return self._loop.run(self._client.history(adapter))

    def download(self, adapter: str, folder: Path) -> AdapterRef:
        """See `RamoleClient.download`."""
        return self._loop.run(self._client.download(adapter, folder))

    def rollback(self, adapter: str, *, expected_version: int | None = None) -> Uploaded:
        """See `RamoleClient.rollback`."""
        return self._loop.run(self._client.rollback(adapter, expected_version=expected_version))

    def delete(self, adapter: str, *, comment: str = "", expected_version: int | None = None) -> tuple[AdapterRef, ...]:
        """See `RamoleClient.delete`."""
        return self._loop.run(self._client.delete(adapter, comment=comment, expected_version=expected_version))

    def revoke(self, adapter: str, *, comment: str = "", expected_version: int | None = None) -> Revoked:
        """See `RamoleClient.revoke`."""
        return self._loop.run(self._client.revoke(adapter, comment=comment, expected_version=expected_version))

    def reindex(self) -> Generator[ReindexProgress]:
        """See `RamoleClient.reindex`."""
        return self._loop.iterate(self._client.reindex())

    def describe(self) -> Description:
        """See `RamoleClient.describe`."""
        return self._loop.run(self._client.describe())
