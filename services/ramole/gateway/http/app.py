"""The routes: path and method -> work inside the bracket. Nothing is decided here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from ramole.core.errors import NotFound, RamoleError
from ramole.gateway.http.bodies import Body, ChatBody, CompletionBody
from ramole.gateway.http.description import described, operation
from ramole.gateway.http.edge import Edge, Exchange
from ramole.gateway.http.errors import body_of, headers_of, status_of
from ramole.gateway.http.management import ManagementRoutes
from ramole.gateway.http.models import Models
from ramole.gateway.http.openai import OpenAi
from ramole.gateway.http.queries import (
    DeleteQuery,
    GetQuery,
    ListQuery,
    LoadLoraBody,
    Query,
    RevokeBody,
    RollbackBody,
    RouteBody,
    UnloadLoraBody,
    UploadFromSource,
    UploadHead,
)
from ramole.gateway.http.vllm import VllmRoutes
from ramole.transport.call_limit import Kind

Work = Callable[[Exchange], Awaitable[None]]

_ADAPTERS = "/v1/adapters"
_ADAPTER = "/v1/adapters/{tenant}/{name}"


def make_app(
    edge: Edge,
    openai: OpenAi,
    models: Models,
    management: ManagementRoutes,
    vllm: VllmRoutes,
    *,
    check_ready: Callable[[], Awaitable[None]],
    tell_pool: Callable[[], Awaitable[bytes]] | None = None,
    version: str,
    has_docs: bool,
) -> FastAPI:
    """The application of the HTTP port.

    Args:
        check_ready: raises while prompts should go elsewhere.
        tell_pool: what ``/metrics/pool`` says to anybody; None = there is no such path.
        has_docs: whether ``/docs`` and ``/openapi.json`` are there.
    """
    app = FastAPI(
        title="ramole",
        version=version,
        docs_url="/docs" if has_docs else None,
        redoc_url=None,
        openapi_url="/openapi.json" if has_docs else None,
    )

    bodies: list[type[Body]] = []

    def route(
        method: str,
        path: str,
        work: Work,
        body: type[Body] | None = None,
        *,
        query: type[Query] | None = None,
        form: type[Body] | None = None,
        kind: Kind = Kind.CALL,
    ) -> None:
        name = f"{method} {path}"
        bodies.extend(filter(None, (body, form)))

        async def endpoint(_: Request) -> Response:
            return edge.call(name, work, kind)

        app.add_api_route(
            path,
            endpoint,
            methods=[method],
            name=name,
            summary=(work.__doc__ or "").partition("\n")[0],
            response_class=Response,
            openapi_extra=operation(path, body, query, form),
        )

    route("POST", "/v1/completions", openai.completions, CompletionBody)
    route("POST", "/v1/chat/completions", openai.chat, ChatBody)
    route("GET", "/v1/models", models.all)
    route("GET", "/v1/models/{model:path}", models.one)

    route("POST", _ADAPTERS, management.upload, UploadFromSource, form=UploadHead, kind=Kind.TRANSFER)
    route("GET", _ADAPTERS, management.list, query=ListQuery)
    route("GET", _ADAPTER, management.get, query=GetQuery)
    route("DELETE", _ADAPTER, management.delete, query=DeleteQuery)
    route("GET", f"{_ADAPTER}/history", management.history)
    route("GET", f"{_ADAPTER}/config", management.config, kind=Kind.TRANSFER)
    route("GET", f"{_ADAPTER}/weights", management.weights, kind=Kind.TRANSFER)
    route("POST", f"{_ADAPTER}/rollback", management.roll_back, RollbackBody)
    route("POST", f"{_ADAPTER}/revoke", management.revoke, RevokeBody)
    route("POST", "/v1/reindex", management.reindex, kind=Kind.WATCH)
    route("POST", "/v1/route", management.route, RouteBody)
    route("GET", "/v1/server", management.server)
    route("GET", "/metrics", management.metrics, kind=Kind.WATCH)
    route("POST", "/v1/load_lora_adapter", vllm.load, LoadLoraBody, kind=Kind.TRANSFER)
    route("POST", "/v1/unload_lora_adapter", vllm.unload, UnloadLoraBody)

    @app.get("/health", summary="Whether this process lives.")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready", summary="Whether a prompt would be answered now.")
    async def ready() -> Response:
        try:
            await check_ready()
        except RamoleError as error:
            return _told(error)
        return JSONResponse({"status": "ready"})

    if tell_pool is not None:

        @app.get("/metrics/pool", summary="What a Gateway API endpoint picker reads.")
        async def pool() -> Response:
            try:
                return Response(await tell_pool(), media_type=CONTENT_TYPE_LATEST)
            except RamoleError as error:
                return _told(error)

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException) -> Response:
        what = f"{request.method} {request.url.path[:200]}"
        told = _told(NotFound(f"there is no {what}", remedy="see the API reference"))
        told.status_code = error.status_code  # 404, or 405 for another method of a path
        return told

    app.openapi = lambda: described(app, bodies)  # type: ignore[method-assign]
    return app


def _told(error: RamoleError) -> Response:
    return JSONResponse(body_of(error), status_of(error), headers_of(error))
