"""The vector index over adapters. Blocking and thread-safe; the same calls for a Milvus Lite folder and a server."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import grpc
from numpy.typing import ArrayLike
from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException

from ramole.core.address import join_address
from ramole.core.bounds import MAX_EXPERTS
from ramole.core.errors import InvalidInput, Unavailable, WrongState
from ramole.core.names import AdapterName, AdapterRef
from ramole.retrieval.calibration import Calibration
from ramole.retrieval.doubt import NUM_NEAREST
from ramole.retrieval.filters import narrowed, tagged, visible_to
from ramole.retrieval.generations import Generations, IndexGeneration, IndexType
from ramole.retrieval.lite import LiteServer
from ramole.retrieval.rows import Prepared, Rows
from ramole.retrieval.search import Search
from ramole.retrieval.values import Found, IndexEntry, Row
from ramole.retrieval.vectors import unit
from ramole.tiers.full_disk import disk_full, is_told_as_full
from ramole.transport.proxy import proxy_option, proxy_remedy

# gRPC would wait up to two minutes before it tries a server again that was gone for long.
_GRPC_OPTIONS = {"grpc.initial_reconnect_backoff_ms": 100, "grpc.max_reconnect_backoff_ms": 1000}
_MILVUS_PORT = 19530
_NAMES_PER_CALL = 100
_LITE_COMFORT = 5000
"""Adapters up to which a search of the embedded engine takes no longer than an embedding, about."""
_FRESH_S = 1.0
"""How long a replica may overlook that another one has changed the live generation."""


_log = logging.getLogger(__name__)


class VectorIndex:
    """Adapter versions by their sample vectors. Holds the newest version of each name only.

    Args:
        client: connected; owned by the index from now on.
        timeout_s: of each call to Milvus.
        best_of: what an adapter scores: 0 = cosine of the mean sample, j = mean over its j nearest samples.
        index_type: of generations that are made from now on.
        lite: the embedded server that `client` talks to, if there is one.

    Attributes:
        has_failed: whether Milvus did, the last time that it was asked.
    """

    def __init__(
        self,
        client: MilvusClient,
        timeout_s: float,
        *,
        best_of: int = 0,
        index_type: IndexType = IndexType.FLAT,
        lite: LiteServer | None = None,
    ) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._lite = lite
        self._generations = Generations(client, timeout_s, index_type)
        self._rows = Rows(client, timeout_s)
        self._search = Search(client, self._rows, timeout_s, best_of)
        self._calibration = Calibration(self._rows, self._search, is_sole_writer=lite is not None)
        self._live: IndexGeneration | None = None
        self._loaded: set[IndexGeneration] = set()
        self._seen_at = 0.0
        self._has_warned = False
        self.has_failed = False
        # Milvus Lite has no write lock of its own.
        self._writing = threading.Lock()

    @classmethod
    def open(
        cls,
        uri: str,
        *,
        token: str = "",
        ca_file: str = "",
        timeout_s: float = 10.0,
        best_of: int = 0,
        index_type: IndexType = IndexType.FLAT,
    ) -> VectorIndex:
        """Connects to the server at `uri`, or opens the Milvus Lite folder if `uri` is a path.

        Args:
            ca_file: PEM file of the authority behind an https server's certificate; '' = those of the system.

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
            where = lite.uri if lite else uri
            parts = urlsplit(where)
            address = join_address(parts.hostname or "", parts.port or _MILVUS_PORT)
            try:
                client = MilvusClient(
                    where,
                    token=token,
                    timeout=timeout_s,
                    dedicated=True,
                    grpc_options=dict((*_GRPC_OPTIONS.items(), proxy_option(address))),
                    **({"server_pem_path": ca_file} if ca_file else {}),
                )
                undo.callback(client.close)
                index = cls(client, timeout_s, best_of=best_of, index_type=index_type, lite=lite)
                index._find()
            except (MilvusException, grpc.RpcError) as error:
                # Settings are the operator's, whose log says more; whoever sent a prompt can only wait.
                _log.warning(
                    "cannot connect to Milvus (check retrieval.uri, retrieval.token, retrieval.ca_file): %s",
                    "; ".join(filter(None, (str(error), proxy_remedy(address)))),
                )
                raise Unavailable("the vector index does not answer", remedy="retry with back-off") from error
            undo.pop_all()
        return index

    def close(self) -> None:
        """Disconnects; an embedded folder is written out and unlocked."""
        self._client.close()
        if self._lite:
            self._lite.close()

    def generations(self) -> list[IndexGeneration]:
        """The live generation and, behind it, the one that is being built; empty while nothing was ever indexed.

        Raises:
            Unavailable: Milvus failed.
        """
        with self._calling():
            return self._current()

    def search(
        self,
        vector: ArrayLike,
        *,
        encoder_id: str,
        base_model: str,
        tenant: str,
        k: int,
        tags: Sequence[str] = (),
        without: Sequence[AdapterName] = (),
        among: Sequence[AdapterName] = (),
    ) -> Found:
        """The k nearest adapters of `base_model` that `tenant` may see; best first, ties by name.

        Args:
            tags: only adapters that have all of these. Doubt is of whole repositories and then cannot be told.
            without, among: none of these, only these, whatever their versions; () = all. Doubt as with tags.

        Raises:
            InvalidInput: a bad vector, name, tag or k.
            WrongState: there are tags, and the index was made before adapters had some.
            EncoderMismatch: the index holds vectors of another encoder.
            Unavailable: Milvus failed.
        """
        if not 1 <= k <= MAX_EXPERTS:
            raise InvalidInput(f"k = {k}", field="k", remedy=f"use 1 to {MAX_EXPERTS}")
        query = unit(vector, field="vector")
        visible = visible_to(tenant, base_model)
        if tags:
            visible = f"{visible} and {tagged(tags)}"
        if narrow := narrowed(without, among):
            visible = f"{visible} and {narrow}"
        with self._calling():
            live = self._find()
            if live is not None and live.encoder_id != encoder_id:
                live = self._find(fresh=True)
            if live is None:
                return Found([])
            live.check(encoder_id, query.size, field="vector")
            if tags:
                live.check_tags()
            [hits] = self._search.nearest(live, query[None], visible, NUM_NEAREST)
            doubt, is_of_few = (None, False) if tags or narrow else self._calibration.doubt(live, base_model, hits)
        return Found(hits[:k], doubt, is_of_few)

    def calibrate(self, base_model: str) -> bool:
        """Learns from its own rows how much to doubt what searches for `base_model` find, if they have changed much.

        Returns:
            Whether it has learned something new.

        Raises:
            InvalidInput: a bad name.
            Unavailable: Milvus failed.
        """
        with self._calling():
            live = self._find(fresh=True)
            if live is None:
                return False
            has_learned = self._calibration.learn(live, base_model)
            size = self._calibration.num_adapters
            if self._lite and size > _LITE_COMFORT and not self._has_warned:
                self._has_warned = True
                _log.warning("%d adapters are many for Milvus Lite: let retrieval.uri name a Milvus server", size)
            return has_learned

    def upsert(self, entries: Sequence[IndexEntry], *, encoder_id: str, number: int = 0) -> list[IndexGeneration]:
        """Makes adapter versions findable; on return, searches find them.

        Takes the place of older versions of their names. If a newer version is there already, that one stays alone.

        Args:
            number: of the generation to write to; 0 = the live one and the one that is being built, where they are of
                this encoder.

        Returns:
            Both generations: an adapter must be upserted once for each of their encoders.

        Raises:
            InvalidInput: a bad name, digest, base model, encoder id or vector.
            EncoderMismatch: no such generation holds vectors of this encoder.
            Unavailable: Milvus failed, or did not show the rows in time. They may appear later; upsert them again.
        """
        prepared = Prepared.check(entries, encoder_id)
        with self._writing, self._calling():
            current = self._current() or [self._generations.create_live(encoder_id, prepared.dim)]
            if number:
                targets = [self._by_number(current, number)]
            else:
                targets = [generation for generation in current if generation.encoder_id == encoder_id] or current[:1]
            for generation in targets:
                generation.check(encoder_id, prepared.dim, field="samples")
                self._rows.write(generation, prepared)
            self._calibration.changed(len(entries))
            return current

    def remove(self, refs: Iterable[AdapterRef]) -> None:
        """Takes versions out; on return, searches no longer find them. A version that is not there is no error.

        Raises:
            InvalidInput: a bad name.
            Unavailable: Milvus failed; the version may still be there.
        """
        names = [AdapterName.parse(str(ref), tenant="", field="adapters") for ref in refs]
        if not names:
            return
        with self._writing, self._calling():
            for generation in self._current():
                for start in range(0, len(names), _NAMES_PER_CALL):
                    self._rows.remove(generation, names[start : start + _NAMES_PER_CALL])
            self._calibration.changed(len(names))

    def rows(self, number: int = 0) -> Generator[list[Row], None, None]:
        """Every row, in batches, in no order. Rows that are written meanwhile may or may not be among them.

        Args:
            number: of a generation; 0 = the live one.

        Raises:
            Unavailable: Milvus failed.
        """
        with self._calling():
            current = self._current()
            generation = self._by_number(current, number) if number else next(iter(current), None)
            if generation is not None:
                yield from self._rows.listed(generation)

    def count(self) -> int:
        """Adapters in the live generation. Raises Unavailable: Milvus failed."""
        with self._calling():
            live = self._find()
            return 0 if live is None else self._rows.count(live)

    def build(self, encoder_id: str, dim: int) -> int:
        """Begins a generation beside the live one, or goes on with one that was begun for the same encoder.

        From now on `upsert` writes to both. Returns its number.

        Raises:
            WrongState: another generation is being built.
            Unavailable: Milvus failed.
        """
        with self._writing, self._calling():
            numbers = [generation.number for generation in self._generations.all()]
            for generation in self._current()[1:]:
                if (generation.encoder_id, generation.dim, generation.has_tags) == (encoder_id, dim, True):
                    return self._generations.create(encoder_id, dim, generation.number).number
                self._generations.drop(generation)  # of an encoder that nobody wants any more, or without tags
            return self._generations.create(encoder_id, dim, max(numbers, default=0) + 1).number

    def promote(self, number: int) -> None:
        """Lets a built generation serve and drops all older ones.

        Raises:
            WrongState: there is no such generation.
            Unavailable: Milvus failed.
        """
        with self._writing, self._calling():
            self._generations.promote(self._by_number(self._generations.all(), number))
            self._find(fresh=True)
        # Searches that have begun, here or in a replica that has not noticed, still read the old one.
        time.sleep(2 * _FRESH_S)
        with self._writing, self._calling():
            for generation in self._generations.all():
                if generation.number < number:
                    self._generations.drop(generation)

    def _find(self, *, fresh: bool = False) -> IndexGeneration | None:
        if fresh or self._live is None or time.monotonic() - self._seen_at > _FRESH_S:
            live = self._generations.live()
            if live is not None and live != self._live:
                self._generations.load(live)
            self._live = live
            self._seen_at = time.monotonic()
        return self._live

    def _current(self) -> list[IndexGeneration]:
        """The live generation and, behind it, those that are being built; empty while nothing was ever indexed."""
        live = self._find(fresh=True)
        if live is None:
            return []
        building = [each for each in self._generations.all() if each.number > live.number]
        for generation in building:
            if generation not in self._loaded:  # one that was begun before a restart
                self._generations.load(generation)
                self._loaded.add(generation)
        return [live, *building]

    def _by_number(self, generations: Sequence[IndexGeneration], number: int) -> IndexGeneration:
        for generation in generations:
            if generation.number == number:
                return generation
        raise WrongState(f"the index has no generation {number}", field="generation", remedy="start the rebuild again")

    @contextmanager
    def _calling(self) -> Iterator[None]:
        """Turns every failure of Milvus into Unavailable and looks the collection up anew next time.

        A full disk is one that the embedded engine shares with the adapters, and told as theirs: LimitExceeded.
        """
        try:
            yield
            self.has_failed = False
        except (MilvusException, grpc.RpcError) as error:
            self.has_failed = True
            self._live = None
            self._loaded.clear()
            _log.warning("Milvus failed: %s", error)
            if self._lite and is_told_as_full(str(error)):
                raise disk_full() from error
            raise Unavailable("the vector index does not answer", remedy="retry with back-off") from error
