"""Settings as people write them -> settings as services read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ramole.core.errors import InvalidInput, WrongState
from ramole.core.names import check_indexable, check_tenant, derive_base_id
from ramole.core.settings import Settings


def resolve(settings: Settings) -> Settings:
    """Replaces 'zoo' and 'auto' by what they stand for, and relative paths by absolute ones. Idempotent.

    Looks at nothing but the settings themselves: what they name may be on other machines (see `preflight`).

    Raises:
        WrongState: a routed default preset without a router; a name or URI that no request could be served with.
    """
    changes: dict[str, Any] = {"data_dir": settings.data_dir.absolute()}
    router, retriever = settings.executor.router, settings.embedding.retriever
    if settings.base_model == "zoo":
        from ramole.zoo.catalog import load_zoo

        zoo = load_zoo()
        changes["base_model"] = str(zoo.base_path)
        changes["base_id"] = settings.base_id or zoo.base_id
        router = str(zoo.router_path) if router == "auto" else router
        retriever = "zoo" if retriever == "auto" else retriever
    else:
        changes["base_model"] = _absolute(settings.base_model)
        changes["base_id"] = settings.base_id or derive_base_id(settings.base_model)
        router = "" if router == "auto" else router
        retriever = "" if retriever == "auto" else retriever
    _check_names(settings, changes["base_id"])
    changes["executor"] = settings.executor.model_copy(update={"router": _absolute(router)})
    embedding = settings.embedding
    previous = embedding.previous
    changes["embedding"] = embedding.model_copy(
        update={
            "encoder": _absolute(embedding.encoder),
            "retriever": _retriever(retriever),
            "previous": previous
            and previous.model_copy(
                update={"encoder": _absolute(previous.encoder), "retriever": _retriever(previous.retriever)}
            ),
        }
    )
    retrieval = settings.retrieval
    uri = retrieval.uri if "://" in retrieval.uri or not retrieval.uri else str(Path(retrieval.uri).absolute())
    changes["retrieval"] = retrieval.model_copy(
        update={"ca_file": _absolute(retrieval.ca_file), "token_file": _absolute(retrieval.token_file), "uri": uri}
    )
    internal, tls = settings.internal, settings.internal.tls
    changes["internal"] = internal.model_copy(
        update={
            "secret_file": internal.secret_file and internal.secret_file.absolute(),
            "tls": tls.model_copy(
                update={name: _absolute(getattr(tls, name)) for name in ("cert_file", "key_file", "ca_file")}
            ),
        }
    )
    changes["tracing"] = settings.tracing.model_copy(update={"ca_file": _absolute(settings.tracing.ca_file)})
    if settings.cache.dir is not None:
        changes["cache"] = settings.cache.model_copy(update={"dir": settings.cache.dir.absolute()})
    if settings.gateway.composition.weighting.is_routed and not router:
        raise WrongState(
            f"the default preset {settings.gateway.preset!r} needs a RouterLoRA",
            field="gateway.preset",
            remedy="set executor.router to the folder of one, or choose another preset",
        )
    return settings.model_copy(update=changes)


def _check_names(settings: Settings, base_id: str) -> None:
    """What every upload and every prompt would be refused for later."""
    if not settings.base_model.strip():
        raise WrongState("it is empty", field="base_model", remedy="name 'zoo', a folder or a hub id")
    try:
        check_indexable(base_id, field="base_id")
    except InvalidInput as error:
        raise WrongState(
            f"{base_id or settings.base_model!r} cannot be the name of a base model",
            field="base_id",
            remedy=f"set base_id to the name that your adapters give it; {error.remedy}",
        ) from error
    for tenant in settings.adapters.tenant_quotas:
        check_tenant(tenant, field="adapters.tenant_quotas")
    for tenant in settings.executor.tenant_weights:
        check_tenant(tenant, field="executor.tenant_weights")
    uris = [("adapters.sources", source) for source in settings.adapters.sources]
    for field, uri in (
        *uris,
        ("adapters.store_uri", settings.adapters.store_uri),
        ("adapters.audit_uri", settings.adapters.audit_uri),
    ):
        if uri and not (uri.partition("://")[1] and uri.partition("://")[0]):
            raise WrongState(f"{uri[:160]!r} is not a URI", field=field, remedy="for example s3://bucket/folder")
    if "://" in settings.retrieval.uri and not _is_server(settings.retrieval.uri):
        raise WrongState(
            f"{settings.retrieval.uri[:160]!r} is not the address of a server",
            field="retrieval.uri",
            remedy="for example https://host:19530, or a path without ://",
        )


def _is_server(uri: str) -> bool:
    try:
        parts = urlsplit(uri)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # the port is no number
        return False


def _retriever(setting: str) -> str:
    if setting == "zoo":
        from ramole.zoo.catalog import SHIPPED_RETRIEVER

        return str(SHIPPED_RETRIEVER)
    return _absolute(setting)


def _absolute(path_or_id: str) -> str:
    path = Path(path_or_id)
    return str(path.absolute()) if path_or_id and path.exists() else path_or_id
