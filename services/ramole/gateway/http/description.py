"""What ``/openapi.json`` says of requests: the work reads them itself, inside the bracket; here they are described."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from ramole.gateway.http.answers import Json
from ramole.gateway.http.bodies import Body
from ramole.gateway.http.queries import Query
from ramole.gateway.http.upload_form import FILES, FORM, HEADER

_REF = "#/components/schemas/{model}"


def operation(path: str, body: type[Body] | None, query: type[Query] | None, form: type[Body] | None) -> Json:
    """Parameters and body of one route.

    Args:
        path: with its parameters in braces.
        form: header of an upload by a form.
    """
    parameters: list[Json] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)", path)
    ]
    if query is not None:
        schema = query.model_json_schema()
        required = schema.get("required", ())
        parameters += [
            {"name": name, "in": "query", "required": name in required, "schema": its}
            for name, its in schema.get("properties", {}).items()
        ]
    content: Json = {}
    if form is not None:
        files = {name: {"type": "string", "format": "binary", "description": file} for name, file in FILES.items()}
        properties = {HEADER: _ref(form), **files}
        content[FORM] = {"schema": {"type": "object", "properties": properties, "required": list(properties)}}
    if body is not None:
        content["application/json"] = {"schema": _ref(body)}
    is_required = form is not None or (body is not None and any(f.is_required() for f in body.model_fields.values()))
    described: Json = {"parameters": parameters} if parameters else {}
    return described | ({"requestBody": {"required": is_required, "content": content}} if content else {})


def described(app: FastAPI, bodies: Sequence[type[Body]]) -> dict[str, Any]:
    """The whole page, made once."""
    if app.openapi_schema is None:
        page = get_openapi(title=app.title, version=app.version, routes=app.routes)
        _, found = models_json_schema([(body, "validation") for body in bodies], ref_template=_REF)
        page.setdefault("components", {}).setdefault("schemas", {}).update(found["$defs"])
        app.openapi_schema = page
    return app.openapi_schema


def _ref(body: type[Body]) -> Json:
    return {"$ref": _REF.format(model=body.__name__)}
