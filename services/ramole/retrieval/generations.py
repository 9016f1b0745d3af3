"""Generations: all rows of one encoder, and the alias that names the generation which serves.

Generation N is two collections, ``adapters__<encoder>__gN`` with the mean vectors and, beside it, ``...__samples`` with
the sample vectors. The alias `ALIAS` points to the means of the live one. A higher number than the live one's is being
built, a lower one is on its way out.

A generation that was made before adapters had tags has no field for them, and stays as it is: it serves what asks for
no tags, and a new generation has it.

Schema and index stay in the subset that Milvus Lite 3.2 and Milvus 2.3 and later have in common: no nullable and no
dynamic fields, no scalar index.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pymilvus import DataType, MilvusClient
from pymilvus.exceptions import MilvusException

from ramole.core.bounds import MAX_TAGS
from ramole.core.errors import EncoderMismatch, InvalidInput, WrongState
from ramole.core.names import MAX_TAG_CHARS

ALIAS = "adapters_live"

_SAMPLES = "__samples"
_NAME = re.compile(r"adapters__\w+__g(\d+)")
_ENCODER_PROPERTY = "ramole.encoder_id"
# Milvus hashes base models into this many partitions, and a search looks into one.
_NUM_PARTITIONS = 16
_POLL_S = 0.05
_NOT_FOUND = 100


class IndexType(StrEnum):
    """How vectors are searched: exactly, or by a graph (Malkov & Yashunin) for 100 000 rows of one base and more."""

    FLAT = "flat"
    HNSW = "hnsw"


# All vectors are unit vectors, so inner products are cosines. For the metric COSINE, Milvus works out the length of
# every row at every search, which takes longer than the products.
_INDEX_PARAMS: dict[IndexType, dict[str, Any]] = {
    IndexType.FLAT: {"index_type": "FLAT", "metric_type": "IP"},
    IndexType.HNSW: {"index_type": "HNSW", "metric_type": "IP", "params": {"M": 16, "efConstruction": 200}},
}


@dataclass(frozen=True, slots=True)
class IndexGeneration:
    """Rows of one encoder.

    Attributes:
        means: name of its collection of mean vectors.
        has_tags: whether its rows say which tags their adapters have.
    """

    number: int
    encoder_id: str
    dim: int
    means: str
    has_tags: bool = True

    @property
    def samples(self) -> str:
        """Name of the collection of sample vectors."""
        return f"{self.means}{_SAMPLES}"

    def check(self, encoder_id: str, dim: int, *, field: str) -> None:
        """Refuses vectors that do not belong here.

        Raises:
            EncoderMismatch: they come from another encoder.
            InvalidInput: they have another dimension.
        """
        if encoder_id != self.encoder_id:
            raise EncoderMismatch(
                f"the index holds vectors of encoder {self.encoder_id!r}, not of {encoder_id!r}",
                field="encoder_id",
                remedy="serve with that encoder, or rebuild the index with `ramole reindex`",
            )
        if dim != self.dim:
            raise InvalidInput(f"{dim} dimensions, the index has {self.dim}", field=field, remedy="check the encoder")

    def check_tags(self) -> None:
        """Raises WrongState if its rows do not say which tags their adapters have."""
        if not self.has_tags:
            raise WrongState(
                "the index was made before adapters had tags",
                field="tags",
                remedy="leave them out, or have the operator run `ramole reindex`",
            )


class Generations:
    """The collections of one Milvus database.

    Args:
        client: connected.
        timeout_s: of each call. All methods raise MilvusException when Milvus fails.
        index_type: of generations that are created.
    """

    def __init__(self, client: MilvusClient, timeout_s: float, index_type: IndexType = IndexType.FLAT) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._index_type = index_type

    def live(self) -> IndexGeneration | None:
        """The generation that serves; None while nothing was ever indexed."""
        try:
            # By its alias: in a database other than the default one, Milvus 2.3 can neither list nor describe aliases.
            return self._describe(ALIAS)
        except MilvusException as error:
            if error.code == _NOT_FOUND:
                return None
            raise

    def all(self) -> list[IndexGeneration]:
        """Every generation, oldest first, loaded or not."""
        names = [name for name in self._client.list_collections(timeout=self._timeout_s) if _NAME.fullmatch(name)]
        return sorted((self._describe(name) for name in names), key=lambda generation: generation.number)

    def create(self, encoder_id: str, dim: int, number: int) -> IndexGeneration:
        """Makes an empty generation, or finishes what a crash left half done. Loaded, but not live.

        Raises:
            EncoderMismatch: that number holds vectors of another encoder.
        """
        means = f"adapters__{re.sub(r'[^A-Za-z0-9]', '_', encoder_id)}__g{number}"
        for name in (f"{means}{_SAMPLES}", means):
            if not self._client.has_collection(name, timeout=self._timeout_s):
                self._client.create_collection(
                    name,
                    schema=_schema(dim),
                    num_partitions=_NUM_PARTITIONS,
                    consistency_level="Bounded",
                    properties={_ENCODER_PROPERTY: encoder_id},
                    timeout=self._timeout_s,
                )
            if not self._client.list_indexes(name, timeout=self._timeout_s):
                indexes = MilvusClient.prepare_index_params()
                indexes.add_index("emb", **_INDEX_PARAMS[self._index_type])
                # The collection is empty: there is no building to wait for.
                self._client.create_index(name, indexes, sync=False, timeout=self._timeout_s)
        found = self._describe(means)
        found.check(encoder_id, dim, field="samples")
        self.load(found)
        return found

    def create_live(self, encoder_id: str, dim: int) -> IndexGeneration:
        """Makes the first generation and lets it serve, together with any other replica that does the same.

        Raises:
            EncoderMismatch: there is one already, of another encoder.
        """
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                generation = self.create(encoder_id, dim, 1)
                self._client.create_alias(generation.means, ALIAS, timeout=self._timeout_s)
                return generation
            except MilvusException:
                # Another replica may be ahead with any of these steps; then it will finish them.
                live = self.live()
                if live is not None:
                    self.load(live)
                    return live
                if time.monotonic() > deadline:
                    raise
                time.sleep(_POLL_S)

    def promote(self, generation: IndexGeneration) -> None:
        """Lets `generation` serve from now on."""
        if self.live() is None:
            self._client.create_alias(generation.means, ALIAS, timeout=self._timeout_s)
        else:
            self._client.alter_alias(generation.means, ALIAS, timeout=self._timeout_s)

    def drop(self, generation: IndexGeneration) -> None:
        """Removes a generation that does not serve: Milvus itself would drop a live one without a word."""
        live = self.live()
        assert live is None or live.number != generation.number
        for name in (generation.means, generation.samples):
            self._client.drop_collection(name, timeout=self._timeout_s)

    def load(self, generation: IndexGeneration) -> None:
        """Makes a generation searchable; does nothing if it is."""
        names = (generation.samples, generation.means)
        for name in names:  # both at once: a server takes seconds for it
            self._client.load_collection(name, timeout=self._timeout_s, _async=True)
        for name in names:
            self._client.load_collection(name, timeout=self._timeout_s)

    def _describe(self, name: str) -> IndexGeneration:
        facts = self._client.describe_collection(name, timeout=self._timeout_s)
        means = facts["collection_name"]
        number = _NAME.fullmatch(means)
        assert number is not None, means
        dim = next(field["params"]["dim"] for field in facts["fields"] if field["name"] == "emb")
        has_tags = any(field["name"] == "tags" for field in facts["fields"])
        return IndexGeneration(
            int(number[1]), facts["properties"].get(_ENCODER_PROPERTY, ""), int(dim), means, has_tags
        )


def _schema(dim: int) -> Any:
    """Of both collections: whose row it is, who may see it, and the vector."""
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("pk", DataType.VARCHAR, is_primary=True, max_length=256)
    schema.add_field("base_model", DataType.VARCHAR, max_length=128, is_partition_key=True)
    schema.add_field("tenant", DataType.VARCHAR, max_length=64)
    schema.add_field("is_public", DataType.BOOL)
    schema.add_field("name", DataType.VARCHAR, max_length=64)
    schema.add_field("version", DataType.INT64)
    schema.add_field("digest", DataType.VARCHAR, max_length=64)
    schema.add_field("num_samples", DataType.INT64)
    schema.add_field(
        "tags", DataType.ARRAY, element_type=DataType.VARCHAR, max_capacity=MAX_TAGS, max_length=MAX_TAG_CHARS
    )
    schema.add_field("emb", DataType.FLOAT_VECTOR, dim=dim)
    return schema
