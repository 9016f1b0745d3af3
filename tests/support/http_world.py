"""The same world, asked over HTTP: each RPC by the route that does the same, its answers read back into messages."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import httpx
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message

from ramole.core.call import Principal
from ramole.core.errors import (
    AlreadyExists,
    Conflict,
    InvalidInput,
    NotFound,
    PermissionDenied,
    RamoleError,
    Unauthenticated,
)
from ramole.gateway.http.upload_form import FILES
from ramole.transport.identity import principal_to_metadata
from ramole.v1 import gateway_pb2
from support.tenant_world import TenantWorld

Route = Callable[[Any], tuple[str, str, dict[str, Any]]]
"""A message -> method, path and arguments of httpx."""


def raised(answer: httpx.Response, body: Any) -> RamoleError:
    """The error that an answer tells."""
    error = body["error"]
    kinds: dict[int, type[RamoleError]] = {
        400: InvalidInput, 401: Unauthenticated, 403: PermissionDenied, 404: NotFound,
        409: AlreadyExists if "idempotency key" in error["message"] else Conflict,
    }  # fmt: skip
    return kinds[answer.status_code](error["message"], field=error["param"] or "")


def adapter_path(name: str, more: str = "") -> str:
    """A path holds the tenant, which over gRPC may be left out."""
    assert "/" in name
    return f"/v1/adapters/{name}{more}"


def _query(message: Message) -> dict[str, Any]:
    found = MessageToDict(message, preserving_proto_field_name=True)
    return {key: value for key, value in found.items() if key != "adapter"}


def _body(message: Message) -> dict[str, Any]:
    found = _query(message)
    return found | {key: int(found[key]) for key in ("expected_version",) if key in found}


def form_of(messages: Sequence[gateway_pb2.UploadAdapterRequest]) -> list[tuple[str, tuple[str | None, bytes]]]:
    """The parts of an upload."""
    head = MessageToDict(messages[0].header, preserving_proto_field_name=True)
    if "expected_version" in head:
        head["expected_version"] = int(head["expected_version"])
    names = {file: name for name, file in FILES.items()}
    parts = [(names[part.chunk.file], (part.chunk.file, part.chunk.data)) for part in messages[1:]]
    return [("header", (None, json.dumps(head).encode())), *parts]


ROUTES: dict[str, Route] = {
    "Route": lambda m: ("POST", "/v1/route", {"json": MessageToDict(m, preserving_proto_field_name=True)}),
    "UploadAdapter": lambda parts: ("POST", "/v1/adapters", {"files": form_of(parts)}),
    "GetAdapter": lambda m: ("GET", adapter_path(m.adapter), {"params": _query(m)}),
    "ListAdapters": lambda m: ("GET", "/v1/adapters", {"params": _query(m)}),
    "GetHistory": lambda m: ("GET", adapter_path(m.adapter, "/history"), {}),
    "DownloadAdapter": lambda m: ("GET", adapter_path(m.adapter, "/weights"), {}),
    "RollbackAdapter": lambda m: ("POST", adapter_path(m.adapter, "/rollback"), {"json": _body(m)}),
    "DeleteAdapter": lambda m: ("DELETE", adapter_path(m.adapter), {"params": _query(m)}),
    "RevokeAdapter": lambda m: ("POST", adapter_path(m.adapter, "/revoke"), {"json": _body(m)}),
    "Reindex": lambda _: ("POST", "/v1/reindex", {}),
    "Describe": lambda _: ("GET", "/v1/server", {}),
}


class HttpTenantWorld(TenantWorld):
    """Asked over HTTP for what HTTP has a route, and over gRPC for the rest."""

    async def ask(self, who: Principal | None, rpc: str, request: Any) -> list[Any]:
        """See `TenantWorld.ask`."""
        if rpc not in ROUTES:
            return await super().ask(who, rpc, request)
        own = who.tenant if who else "default"
        if hasattr(request, "adapter") and "/" not in request.adapter:
            request.adapter = f"{own}/{request.adapter}"
        method, path, more = ROUTES[rpc](request)
        headers = dict(principal_to_metadata(who)) if who else {}
        async with self.http.stream(method, path, headers=headers, **more) as answer:
            if answer.is_error:
                raise raised(answer, json.loads(await answer.aread()))
            if rpc == "DownloadAdapter":
                return [await answer.aread()]
            kind = getattr(gateway_pb2, f"{rpc}Response")
            if rpc == "Reindex":
                return [ParseDict(step, kind()) async for step in events(answer)]
            return [ParseDict(json.loads(await answer.aread()), kind())]


async def events(answer: httpx.Response) -> AsyncIterator[Any]:
    """Server-sent events, which are JSON. Raises what they tell."""
    async for line in answer.aiter_lines():
        if line.startswith("data: "):
            step = json.loads(line.removeprefix("data: "))
            if "error" in step:
                raise InvalidInput(step["error"]["message"])
            yield step
