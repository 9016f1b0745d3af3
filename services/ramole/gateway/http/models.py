"""``/v1/models``: what a client may write as its `model`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from ramole.core import access
from ramole.core.bounds import check_number
from ramole.core.errors import InvalidInput
from ramole.gateway.backends import Backends
from ramole.gateway.http.answers import Json
from ramole.gateway.http.edge import Exchange
from ramole.gateway.http.openai import AUTO
from ramole.v1.adapters_pb2 import ListStoredRequest
from ramole.v1.gateway_pb2 import ListAdaptersRequest
from ramole.v1.records_pb2 import AdapterRecord

_LIMIT = 1000


class Models:
    """The base, ``auto``, and the latest versions of the adapters that the caller may see."""

    def __init__(self, backends: Backends, base_id: str) -> None:
        self._backends = backends
        self._base_id = base_id
        self._since = int(time.time())

    async def all(self, exchange: Exchange) -> None:
        """A page: at most `limit` adapters, after the one that is called `after`."""
        query = exchange.request.query_params
        limit, after = _limit(query.get("limit")), query.get("after", "")
        shown = [] if after else [self._own(self._base_id), self._own(AUTO)]
        has_more = False
        async for record in self._adapters():
            name = f"{record.adapter.tenant}/{record.adapter.name}"
            if after and name <= after:
                continue
            if len(shown) >= limit:
                has_more = True
                break
            shown.append(self._adapter(record))
        await exchange.tell(
            {"object": "list", "data": shown, "has_more": has_more, "last_id": shown[-1]["id"] if shown else None}
        )

    async def one(self, exchange: Exchange) -> None:
        """One of them."""
        model = exchange.request.path_params["model"]
        if model in (self._base_id, AUTO):
            await exchange.tell(self._own(model))
            return
        name = access.named(model.removeprefix(f"{self._base_id}:"), field="model")
        found = await self._backends.find(name)
        if found is None or not found.is_live:
            raise access.missing(name, field="model")
        await exchange.tell(self._adapter(found.record))

    async def _adapters(self) -> AsyncIterator[AdapterRecord]:
        query = ListAdaptersRequest(base_model=self._base_id, latest_only=True, without_samples=True, page_size=_LIMIT)
        while True:
            page = (await self._backends.adapters.ListStored(ListStoredRequest(query=query))).page
            for record in page.records:
                yield record
            query.page_token = page.next_page_token
            if not query.page_token:
                return

    def _own(self, name: str) -> Json:
        return {"id": name, "object": "model", "created": self._since, "owned_by": "ramole", "parent": None}

    def _adapter(self, record: AdapterRecord) -> Json:
        ref = record.adapter
        return {
            "id": f"{ref.tenant}/{ref.name}",
            "object": "model",
            "created": record.created_at.seconds,
            "owned_by": ref.tenant,
            "parent": self._base_id,
            "ramole": {"version": ref.version, "digest": ref.digest, "is_public": record.is_public},
        }


def _limit(text: str | None) -> int:
    if text is None:
        return _LIMIT
    try:
        limit = int(text)
    except ValueError:
        raise InvalidInput(f"{text[:40]!r} is no number", field="limit", remedy="give one") from None
    check_number("page_size", limit, at="limit")
    return limit or _LIMIT
