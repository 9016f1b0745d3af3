"""What the routes that manage the repository read: bodies of JSON, and what may stand behind the question mark.

Ranges are not repeated here: the services behind check them, and errors name the field.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar, get_origin

from pydantic import ConfigDict, Field, ValidationError
from starlette.requests import Request

from ramole.core.errors import InvalidInput
from ramole.gateway.http.bodies import Body, invalid

Version = Annotated[int, Field(ge=0, lt=2**64)]


class AboutUpload(Body):
    """What an upload says of itself, as `UploadHeader` of the protocol.

    Attributes:
        adapter: ``name`` or ``tenant/name``.
        samples: typical inputs; they place the adapter in the retriever's space.
        is_named_only: only requests that name the adapter use it; then there are no samples.
        tags: what requests may filter by.
        expected_version: only if this is the latest version; 0 = the name must be new.
    """

    adapter: str
    samples: tuple[str, ...] = ()
    is_named_only: bool = False
    base_model: str = ""
    tags: tuple[str, ...] = ()
    is_public: bool = False
    idempotency_key: str = ""
    expected_version: Version | None = None


class UploadHead(AboutUpload):
    """The part ``header`` of an upload. `sha256`: of the files, by their names; checked on arrival."""

    sha256: dict[str, str] = Field(default={})


class UploadFromSource(AboutUpload):
    """An upload that the server fetches itself, from `source`: ``hf://org/repo@revision``, or what it allows."""

    source: Annotated[str, Field(min_length=1)]


class RollbackBody(Body):
    """``POST /v1/adapters/{tenant}/{name}@{version}/rollback``."""

    expected_version: Version | None = None


class RevokeBody(Body):
    """``POST /v1/adapters/{tenant}/{name}/revoke``. `comment` is kept in the history."""

    comment: str = ""
    expected_version: Version | None = None


class RouteBody(Body):
    """``POST /v1/route``. `k`: 0 = the server's default."""

    prompt: str
    k: Annotated[int, Field(ge=0, lt=2**32)] = 0
    tags: tuple[str, ...] = ()


class LoadLoraBody(Body):
    """``POST /v1/load_lora_adapter``, as vLLM takes it, with what this server can use besides.

    Attributes:
        lora_path: an absolute path, a URI, or the name of a repository of the Hugging Face hub.
        load_inplace: whether the name may exist already.
        samples: typical inputs; without them only requests that name the adapter use it.
    """

    lora_name: str
    lora_path: Annotated[str, Field(min_length=1)]
    load_inplace: bool = False
    base_model_name: str | None = None
    samples: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    is_public: bool = False


class UnloadLoraBody(Body):
    """``POST /v1/unload_lora_adapter``, as vLLM takes it. The name decides; adapters have no numbers here."""

    lora_name: str
    lora_int_id: int | None = None


class NoBody(Body):
    """Nothing."""


class Query(Body):
    """What stands behind the question mark: everything is text there."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class NoQuery(Query):
    """Nothing."""


class ListQuery(Query):
    """``GET /v1/adapters``, as `ListAdaptersRequest` of the protocol. `tags` may stand there several times."""

    base_model: str = ""
    tenant: str = ""
    name_prefix: str = ""
    latest_only: bool = False
    tags: tuple[str, ...] = ()
    without_samples: bool = False
    page_size: Annotated[int, Field(ge=0, lt=2**32)] = 0
    page_token: str = ""


class GetQuery(Query):
    """``GET /v1/adapters/{tenant}/{name}``."""

    without_samples: bool = False


class DeleteQuery(Query):
    """``DELETE /v1/adapters/{tenant}/{name}``. `comment` is kept in the history."""

    comment: str = ""
    expected_version: Version | None = None


Kind = TypeVar("Kind", bound=Query)


def parse_query(kind: type[Kind], request: Request) -> Kind:
    """Raises InvalidInput, by the name of the parameter."""
    raw: dict[str, Any] = {}
    for key, value in request.query_params.multi_items():
        field = kind.model_fields.get(key)
        if field is not None and get_origin(field.annotation) is tuple:
            raw[key] = (*raw.get(key, ()), value)
        elif key in raw:
            raise InvalidInput("it stands there twice", field=key[:80], remedy="give it once")
        else:
            raw[key] = value
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise invalid(error) from None
