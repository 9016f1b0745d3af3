"""The routes by which scripts for vLLM load and unload adapters.

To load is to upload from a source that the operator allows; to unload is to delete. What was loaded without samples is
used by requests that name it and never retrieved: vLLM retrieves nothing, and its scripts send none.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from ramole.core import access
from ramole.core.errors import Conflict, InvalidInput, NotFound, RamoleError
from ramole.gateway.http.bodies import parse
from ramole.gateway.http.edge import Exchange
from ramole.gateway.http.queries import LoadLoraBody, NoQuery, UnloadLoraBody, parse_query
from ramole.gateway.management import Management
from ramole.v1.gateway_pb2 import DeleteAdapterRequest, GetAdapterRequest, UploadAdapterRequest
from ramole.v1.records_pb2 import UploadHeader

_FIELDS = {"source": "lora_path", "adapter": "lora_name", "base_model": "base_model_name"}


class VllmRoutes:
    """``/v1/load_lora_adapter`` and ``/v1/unload_lora_adapter``."""

    def __init__(self, management: Management) -> None:
        self._management = management

    async def load(self, exchange: Exchange) -> None:
        """Loads an adapter, as vLLM does: the server fetches it, and requests may name it as their model."""
        parse_query(NoQuery, exchange.request)
        body = parse(LoadLoraBody, await exchange.body())
        try:
            name = access.named_to_change(body.lora_name)
            if not body.load_inplace:
                await self._check_new(str(name))
            async with aclosing(_header(body)) as parts:
                await self._management.upload(parts)
        except Conflict as error:
            raise _loaded(body.lora_name) from error
        except RamoleError as error:
            raise _told(error) from error
        await exchange.tell_text(f"Success: LoRA adapter '{body.lora_name}' added successfully.")

    async def unload(self, exchange: Exchange) -> None:
        """Unloads an adapter, as vLLM does: it is deleted here, all versions of its name."""
        parse_query(NoQuery, exchange.request)
        body = parse(UnloadLoraBody, await exchange.body())
        try:
            await self._management.delete(DeleteAdapterRequest(adapter=body.lora_name, comment="unloaded"))
        except RamoleError as error:
            raise _told(error) from error
        await exchange.tell_text(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")

    async def _check_new(self, name: str) -> None:
        """Before anything is fetched; the store asks again."""
        try:
            await self._management.get(GetAdapterRequest(adapter=name, without_samples=True))
        except NotFound:
            return
        raise _loaded(name)


async def _header(body: LoadLoraBody) -> AsyncGenerator[UploadAdapterRequest]:
    header = UploadHeader(
        adapter=body.lora_name,
        samples=body.samples,
        is_named_only=not body.samples,
        base_model=body.base_model_name or "",
        tags=body.tags,
        is_public=body.is_public,
        source=_uri(body.lora_path),
        expected_version=None if body.load_inplace else 0,
    )
    yield UploadAdapterRequest(header=header)


def _uri(path: str) -> str:
    """vLLM takes paths, and names of repositories of the hub."""
    if "://" in path:
        return path
    return f"file://{path}" if path.startswith("/") else f"hf://{path}"


def _loaded(name: str) -> InvalidInput:
    return InvalidInput(
        f"the LoRA adapter {name!r} has already been loaded", field="lora_name", remedy="set load_inplace to replace it"
    )


def _told(error: RamoleError) -> RamoleError:
    """The error by the key of the body that it comes from."""
    field = error.field.removeprefix("header.")
    return error.at(_FIELDS.get(field, field))
