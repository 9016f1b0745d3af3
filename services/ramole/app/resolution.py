"""Settings as people write them -> settings as services read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ramole.core.errors import WrongState
from ramole.core.settings import Settings


def resolve(settings: Settings) -> Settings:
    """Replaces 'zoo' and 'auto' by what they stand for, and relative paths by absolute ones. Idempotent.

    Raises:
        WrongState: a routed default preset without a router.
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
        changes["base_id"] = settings.base_id or settings.base_model
        router = "" if router == "auto" else router
        retriever = "" if retriever == "auto" else retriever
    changes["executor"] = settings.executor.model_copy(update={"router": _absolute(router)})
    embedding = settings.embedding
    previous = embedding.previous
    changes["embedding"] = embedding.model_copy(
        update={
            "retriever": _retriever(retriever),
            "previous": previous and previous.model_copy(update={"retriever": _retriever(previous.retriever)}),
        }
    )
    changes["retrieval"] = settings.retrieval.model_copy(update={"ca_file": _absolute(settings.retrieval.ca_file)})
    if settings.gateway.composition.weighting.is_routed and not router:
        raise WrongState(
            f"the default preset {settings.gateway.preset!r} needs a RouterLoRA",
            field="gateway.preset",
            remedy="set executor.router to the folder of one, or choose another preset",
        )
    return settings.model_copy(update=changes)


def _retriever(setting: str) -> str:
    if setting == "zoo":
        from ramole.zoo.catalog import SHIPPED_RETRIEVER

        return str(SHIPPED_RETRIEVER)
    return _absolute(setting)


def _absolute(path_or_id: str) -> str:
    path = Path(path_or_id)
    return str(path.absolute()) if path_or_id and path.exists() else path_or_id
