"""The vector index over adapters. Blocking and thread-safe; the same calls for a Milvus Lite folder and a server."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
from numpy.typing import ArrayLike
from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException

from ramole.core.composition import MAX_EXPERTS
from ramole.core.errors import InvalidInput, Unavailable
from ramole.core.names import AdapterName, AdapterRef, check_digest
from ramole.retrieval.collection import Collection, create_live, find_live
from ramole.retrieval.filters import LIVE, check_value, versions_of, visible_to
from ramole.retrieval.lite import LiteServer
from ramole.retrieval.ranking import OVERFETCH, best
from ramole.retrieval.values import Hit, Row
from ramole.retrieval.vectors import unit, unit_mean

_ROWS_PER_BATCH = 1000
_SETTLE_POLL_S = 0.02
# gRPC would wait up to two minutes before it tries a server again that was gone for long.
_GRPC_OPTIONS = {"grpc.initial_reconnect_backoff_ms": 100, "grpc.max_reconnect_backoff_ms": 1000}
_REF_FIELDS = ["tenant", "name", "version", "digest"]

_log = logging.getLogger(__name__)


class VectorIndex:
    """Adapter versions by the mean of their sample vectors. Holds the newest version of each name only.

    Args:
        client: connected; owned by the index from now on.
        timeout_s: of each call to Milvus.
        lite: the embedded server that `client` talks to, if there is one.
    """

    def __init__(self, client: MilvusClient, timeout_s: float, lite: LiteServer | None = None) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._lite = lite
        self._live: Collection | None = None
        # Milvus Lite has no write lock of its own.
        self._writing = threading.Lock()

    @classmethod
    def open(cls, uri: str, *, token: str = "", timeout_s: float = 10.0) -> VectorIndex:
        """Connects to the server at `uri`, or opens the Milvus Lite folder if `uri` is a path.

        Raises:
            WrongState: the folder is in use or is no index.
            Unavailable: the server does not answer or refuses the token.
        """
        # Expected failures are logged here, once and short; pymilvus would print each with its traceback.
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
        logging.getLogger("milvus_lite").setLevel(logging.WARNING)
        with ExitStack() as undo:
            lite = None if "://" in uri else LiteServer.open(Path(uri))
            if lite:
                undo.callback(lite.close)
            try:
                client = MilvusClient(
                    lite.uri if lite else uri,
                    token=token,
                    timeout=timeout_s,
                    dedicated=True,
                    grpc_options=_GRPC_OPTIONS,
                )
                undo.callback(client.close)
                find_live(client, timeout_s)
            except (MilvusException, grpc.RpcError) as error:
                _log.warning("cannot connect to Milvus: %s", error)
                raise Unavailable(
                    "the vector index does not answer",
                    field="retrieval.uri",
                    remedy="check retrieval.uri, retrieval.token and the server",
                ) from error
            undo.pop_all()
        return cls(client, timeout_s, lite)

    def close(self) -> None:
        """Disconnects; an embedded folder is written out and unlocked."""
        self._client.close()
        if self._lite:
            self._lite.close()

    def search(self, vector: ArrayLike, *, encoder_id: str, base_model: str, tenant: str, k: int) -> list[Hit]:
        """The k nearest adapters of `base_model` that `tenant` may see, by cosine; best first, ties by name.

        Raises:
            InvalidInput: a bad vector, name or k.
            WrongState: the index holds vectors of another encoder.
            Unavailable: Milvus failed.
        """
        if not 1 <= k <= MAX_EXPERTS:
            raise InvalidInput(f"k = {k}", field="k", remedy=f"use 1 to {MAX_EXPERTS}")
        query = unit(vector, field="vector")
        visible = visible_to(tenant, base_model)
        with self._calling():
            live = self._find()
            if live is None:
                return []
            live.check(encoder_id, query.size, field="vector")
            [found] = self._client.search(
                live.name,
                data=[query],
                anns_field="emb",
                filter=visible,
                limit=k + OVERFETCH,
                output_fields=_REF_FIELDS,
                search_params={"metric_type": "COSINE"},
                # Reads what this client wrote. Strong would wait 200 ms for the clock of a server.
                consistency_level="Session",
                timeout=self._timeout_s,
            )
        return best([Hit(_ref(hit["entity"]), min(1.0, max(-1.0, hit["distance"]))) for hit in found], k)

    def upsert(self, row: Row, samples: Sequence[ArrayLike], *, encoder_id: str) -> None:
        """Makes `row` findable under the mean of its sample vectors; on return, searches find it.

        Takes the place of older versions of the name. If a newer version is there already, that one stays alone.

        Raises:
            InvalidInput: a bad name, digest, base model, encoder id or vector.
            WrongState: the index holds vectors of another encoder.
            Unavailable: Milvus failed, or did not show the row in time. The row may appear later; upsert it again.
        """
        _check_ref(row.ref)
        check_digest(row.ref.digest, field="adapter.digest")
        check_value(row.base_model, "base_model")
        check_value(encoder_id, "encoder_id")
        mean = unit_mean(samples, field="samples")
        entity = {
            "pk": str(row.ref),
            "base_model": row.base_model,
            "tenant": row.ref.tenant,
            "is_public": row.is_public,
            "name": row.ref.name,
            "version": row.ref.version,
            "digest": row.ref.digest,
            "state": LIVE,
            "emb": mean,
        }
        with self._writing, self._calling():
            live = self._find() or create_live(self._client, encoder_id, mean.size, self._timeout_s)
            live.check(encoder_id, mean.size, field="samples")
            self._live = live
            # Not `upsert`: Milvus 2.3 puts an upserted row into the partition of another base model (milvus#30772),
            # where no search that names its own looks for it. A crash in between is repaired from the store.
            self._delete(live, [str(row.ref)])
            self._client.insert(live.name, [entity], timeout=self._timeout_s)
            self._settle(live, row.ref)

    def remove(self, ref: AdapterRef) -> None:
        """Takes one version out; on return, searches no longer find it. A version that is not there is no error.

        Raises:
            InvalidInput: a bad name.
            Unavailable: Milvus failed; the version may still be there.
        """
        _check_ref(ref)
        with self._writing, self._calling():
            live = self._find()
            if live is None:
                return
            for seen in self._watch(live, ref):
                if ref.version not in seen:
                    return
                self._delete(live, [str(ref)])

    def rows(self) -> Generator[list[Row], None, None]:
        """Every row, in batches, in no order. Rows that are written meanwhile may or may not be among them.

        Raises:
            Unavailable: Milvus failed.
        """
        with self._calling():
            live = self._find()
            if live is None:
                return
            batches = self._client.query_iterator(
                live.name,
                batch_size=_ROWS_PER_BATCH,
                output_fields=[*_REF_FIELDS, "base_model", "is_public"],
                consistency_level="Strong",
                timeout=self._timeout_s,
            )
            try:
                while batch := batches.next():
                    yield [Row(_ref(entity), entity["base_model"], entity["is_public"]) for entity in batch]
            finally:
                batches.close()

    def _find(self) -> Collection | None:
        if self._live is None:
            self._live = find_live(self._client, self._timeout_s)
        return self._live

    def _settle(self, live: Collection, ref: AdapterRef) -> None:
        """Returns once `ref`, or a newer version of its name, is the only row of that name that can be seen."""
        for seen in self._watch(live, ref):
            newest = max(seen, default=0)
            stale = [version for version in seen if version < newest]
            if stale:
                self._delete(live, [str(AdapterName(ref.tenant, ref.name, version)) for version in stale])
            elif newest > ref.version or seen.get(ref.version) == ref.digest:
                return

    def _watch(self, live: Collection, ref: AdapterRef) -> Iterator[Mapping[int, str]]:
        """Looks again and again at the rows of one name, as version -> digest, until the caller has seen enough.

        Strong consistency on a server: what was written before is seen, here and by searches from now on.

        Raises:
            Unavailable: the caller still was not content after `timeout_s`.
        """
        deadline = time.monotonic() + self._timeout_s
        while True:
            found = self._client.query(
                live.name,
                filter=versions_of(ref.tenant, ref.name),
                output_fields=["version", "digest"],
                consistency_level="Strong",
                timeout=self._timeout_s,
            )
            yield {row["version"]: row["digest"] for row in found}
            if time.monotonic() > deadline:
                raise Unavailable(f"the index did not show the change of {ref} in time", remedy="try again")
            time.sleep(_SETTLE_POLL_S)

    def _delete(self, live: Collection, keys: list[str]) -> None:
        self._client.delete(live.name, ids=keys, timeout=self._timeout_s)

    @contextmanager
    def _calling(self) -> Iterator[None]:
        """Turns every failure of Milvus into Unavailable and looks the collection up anew next time."""
        try:
            yield
        except (MilvusException, grpc.RpcError) as error:
            self._live = None
            _log.warning("Milvus failed: %s", error)
            raise Unavailable("the vector index does not answer", remedy="retry with back-off") from error


def _check_ref(ref: AdapterRef) -> None:
    if AdapterName.parse(str(ref), field="adapter") != AdapterName(ref.tenant, ref.name, ref.version):
        raise InvalidInput(f"{str(ref)[:160]!r} is not an adapter version", field="adapter", remedy="pin a version")


def _ref(entity: Mapping[str, Any]) -> AdapterRef:
    return AdapterRef(entity["tenant"], entity["name"], entity["version"], entity["digest"])
