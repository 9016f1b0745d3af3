"""The routes: path and method -> work inside the bracket. Nothing is decided here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from ramole.core.errors import NotFound, RamoleError
from ramole.gateway.http.bodies import Body, ChatBody, CompletionBody
from ramole.gateway.http.edge import Edge, Exchange
from ramole.gateway.http.errors import body_of, headers_of, status_of
from ramole.gateway.http.models import Models
from ramole.gateway.http.openai import OpenAi

Work = Callable[[Exchange], Awaitable[None]]

_REF = "#/components/schemas/{model}"
_BODIES: tuple[type[Body], ...] = (CompletionBody, ChatBody)


def make_app(
    edge: Edge,
    openai: OpenAi,
    models: Models,
    *,
    check_ready: Callable[[], Awaitable[None]],
    version: str,
    has_docs: bool,
) -> FastAPI:
    """The application of the HTTP port.

    Args:
        check_ready: raises while prompts should go elsewhere.
        has_docs: whether ``/docs`` and ``/openapi.json`` are there.
    """
    app = FastAPI(
        title="ramole",
        version=version,
        docs_url="/docs" if has_docs else None,
        redoc_url=None,
        openapi_url="/openapi.json" if has_docs else None,
    )

    def route(method: str, path: str, work: Work, body: type[Body] | None = None) -> None:
        name = f"{method} {path}"

        async def endpoint(_: Request) -> Response:
            return edge.call(name, work)

        app.add_api_route(
            path,
            endpoint,
            methods=[method],
            name=name,
            summary=(work.__doc__ or "").partition("\n")[0],
            response_class=Response,
            openapi_extra=_reads(body),
        )

    route("POST", "/v1/completions", openai.completions, CompletionBody)
    route("POST", "/v1/chat/completions", openai.chat, ChatBody)
    route("GET", "/v1/models", models.all)
    route("GET", "/v1/models/{model:path}", models.one)

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

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException) -> Response:
        what = f"{request.method} {request.url.path[:200]}"
        told = _told(NotFound(f"there is no {what}", remedy="see the API reference"))
        told.status_code = error.status_code  # 404, or 405 for another method of a path
        return told

    app.openapi = lambda: _described(app)  # type: ignore[method-assign]
    return app


def _told(error: RamoleError) -> Response:
    return JSONResponse(body_of(error), status_of(error), headers_of(error))


def _reads(body: type[Body] | None) -> dict[str, Any] | None:
    """The work reads the body itself, inside the bracket; the framework only describes it."""
    if body is None:
        return None
    schema = {"$ref": _REF.format(model=body.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _described(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        page = get_openapi(title=app.title, version=app.version, routes=app.routes)
        _, found = models_json_schema([(body, "validation") for body in _BODIES], ref_template=_REF)
        page.setdefault("components", {}).setdefault("schemas", {}).update(found["$defs"])
        app.openapi_schema = page
    return app.openapi_schema
