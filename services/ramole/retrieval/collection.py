"""The physical collection behind the alias, and which encoder its vectors came from.

Collections are called ``adapters__<encoder>__g<generation>``; the alias `ALIAS` names the one that serves. Schema and
index stay in the subset that Milvus Lite 3.2 and Milvus 2.3 and later have in common: no nullable and no dynamic
fields, no scalar index, FLAT (exact) search.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from pymilvus import DataType, MilvusClient
from pymilvus.exceptions import MilvusException

from ramole.core.errors import InvalidInput, WrongState

ALIAS = "adapters_live"
GENERATION = 1

_PREFIX = "adapters__"
_ENCODER_PROPERTY = "ramole.encoder_id"
# Milvus hashes base models into this many partitions. Its default of 64 makes creating and loading slow.
_NUM_PARTITIONS = 16
_RACE_POLL_S = 0.05
_NOT_FOUND = 100


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection that holds vectors of one encoder."""

    name: str
    encoder_id: str
    dim: int

    def check(self, encoder_id: str, dim: int, *, field: str) -> None:
        """Refuses vectors that do not belong here.

        Raises:
            WrongState: they come from another encoder.
            InvalidInput: they have another dimension.
        """
        if encoder_id != self.encoder_id:
            raise WrongState(
                f"the index holds vectors of encoder {self.encoder_id!r}, not of {encoder_id!r}",
                field="encoder_id",
                remedy="serve with that encoder, or rebuild the index from the adapter store",
            )
        if dim != self.dim:
            raise InvalidInput(f"{dim} dimensions, the index has {self.dim}", field=field, remedy="check the encoder")


def find_live(client: MilvusClient, timeout_s: float) -> Collection | None:
    """The loaded collection that the alias names; None while nothing was ever indexed.

    Raises:
        MilvusException: the server does not answer.
    """
    try:
        # By its alias: in a database other than the default one, Milvus 2.3 can neither list nor describe aliases.
        live = _describe(client, ALIAS, timeout_s)
    except MilvusException as error:
        if error.code == _NOT_FOUND:
            return None
        raise
    client.load_collection(live.name, timeout=timeout_s)
    return live


def create_live(client: MilvusClient, encoder_id: str, dim: int, timeout_s: float) -> Collection:
    """Makes the first generation of `encoder_id` and points the alias at it. Finishes what a crash left half done.

    Raises:
        WrongState: a collection of that name holds vectors of another encoder.
        MilvusException: the server does not answer.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return _create_live(client, encoder_id, dim, timeout_s)
        except MilvusException:
            # Another replica may be doing the same and be ahead with any of these steps; then it will finish them.
            live = find_live(client, timeout_s)
            if live is not None:
                return live
            if time.monotonic() > deadline:
                raise
            time.sleep(_RACE_POLL_S)


def _create_live(client: MilvusClient, encoder_id: str, dim: int, timeout_s: float) -> Collection:
    name = f"{_PREFIX}{re.sub(r'[^A-Za-z0-9]', '_', encoder_id)}__g{GENERATION}"
    if not client.has_collection(name, timeout=timeout_s):
        _create(client, name, encoder_id, dim, timeout_s)
    if not client.list_indexes(name, timeout=timeout_s):
        indexes = MilvusClient.prepare_index_params()
        indexes.add_index("emb", index_type="FLAT", metric_type="COSINE")
        # The collection is empty: there is no building to wait for.
        client.create_index(name, indexes, sync=False, timeout=timeout_s)
    collection = _describe(client, name, timeout_s)
    collection.check(encoder_id, dim, field="samples")
    client.load_collection(name, timeout=timeout_s)
    client.create_alias(name, ALIAS, timeout=timeout_s)
    return collection


def _describe(client: MilvusClient, name: str, timeout_s: float) -> Collection:
    facts = client.describe_collection(name, timeout=timeout_s)
    dim = next(field["params"]["dim"] for field in facts["fields"] if field["name"] == "emb")
    return Collection(facts["collection_name"], facts["properties"].get(_ENCODER_PROPERTY, ""), int(dim))


def _create(client: MilvusClient, name: str, encoder_id: str, dim: int, timeout_s: float) -> None:
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("pk", DataType.VARCHAR, is_primary=True, max_length=256)
    schema.add_field("base_model", DataType.VARCHAR, max_length=128, is_partition_key=True)
    schema.add_field("tenant", DataType.VARCHAR, max_length=64)
    schema.add_field("is_public", DataType.BOOL)
    schema.add_field("name", DataType.VARCHAR, max_length=64)
    schema.add_field("version", DataType.INT64)
    schema.add_field("digest", DataType.VARCHAR, max_length=64)
    schema.add_field("state", DataType.VARCHAR, max_length=16)
    schema.add_field("emb", DataType.FLOAT_VECTOR, dim=dim)
    client.create_collection(
        name,
        schema=schema,
        num_partitions=_NUM_PARTITIONS,
        consistency_level="Bounded",
        properties={_ENCODER_PROPERTY: encoder_id},
        timeout=timeout_s,
    )
