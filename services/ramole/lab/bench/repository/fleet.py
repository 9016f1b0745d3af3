"""Many small random adapters: as PEFT folders, in a store, in an index. Everything through the product's own calls."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from pymilvus import MilvusClient
from safetensors.numpy import save

from ramole.adapters.store.records import NewAdapter
from ramole.adapters.store.store import Store
from ramole.core.call import ANONYMOUS
from ramole.core.errors import Unavailable
from ramole.core.names import AdapterName, AdapterRef
from ramole.lora.admission import AdmissionLimits, admit
from ramole.lora.base import BaseShapes
from ramole.lora.digest import content_digest
from ramole.lora.files import CONFIG_FILE, TENSORS_FILE
from ramole.retrieval.generations import IndexType
from ramole.retrieval.index import VectorIndex
from ramole.retrieval.values import IndexEntry, Row

Vectors = NDArray[np.float32]

TARGETS = ("q_proj", "v_proj")
_ROWS_PER_CALL = 1000
_MEMORY = "/dev/shm"
_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Maker:
    """Makes adapters of one base model, each with other numbers. They are too weak to change an answer."""

    base: BaseShapes
    rank: int

    def files(self, number: int) -> tuple[bytes, bytes]:
        """adapter_config.json and adapter_model.safetensors."""
        rng = np.random.default_rng(number)
        tensors: dict[str, Vectors] = {}
        for module, (d, o) in self.base.modules.items():
            if module.rpartition(".")[2] in TARGETS:
                name = f"base_model.model.{module}"
                tensors[f"{name}.lora_A.weight"] = 0.01 * rng.standard_normal((self.rank, d), np.float32)
                tensors[f"{name}.lora_B.weight"] = 0.01 * rng.standard_normal((o, self.rank), np.float32)
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": self.base.base_id,
            "r": self.rank,
            "lora_alpha": self.rank,
            "target_modules": list(TARGETS),
        }
        return json.dumps(config).encode(), save(tensors)

    def folder(self, root: Path, number: int) -> Path:
        """The same as a PEFT folder below `root`."""
        path = root / adapter_name(number)
        path.mkdir(parents=True)
        config, tensors = self.files(number)
        (path / CONFIG_FILE).write_bytes(config)
        (path / TENSORS_FILE).write_bytes(tensors)
        return path


def adapter_name(number: int) -> str:
    """Of one adapter of a fleet."""
    return f"fleet-{number:06d}"


def sample_of(number: int) -> str:
    """Its one sample input, and a prompt that fits it."""
    return f"task number {number} : {number * 7919 % 10_007}"


def fill_store(folder: Path, maker: Maker, count: int) -> list[AdapterRef]:
    """Admits and stores `count` adapters and leaves the store closed. Returns what is live.

    The store is filled in memory and copied, where the system has such a place: several syncs of a disk for each
    adapter would take most of a benchmark's time.
    """
    with TemporaryDirectory(prefix="ramole-bench-", dir=_MEMORY if os.access(_MEMORY, os.W_OK) else None) as memory:
        store = Store.open(Path(memory))
        try:
            refs = [_put(store, maker, number) for number in range(count)]
            store.save_catalog()
        finally:
            store.close()
        shutil.copytree(memory, folder, dirs_exist_ok=True)
    return refs


def _put(store: Store, maker: Maker, number: int) -> AdapterRef:
    config, tensors = maker.files(number)
    path = store.scratch / adapter_name(number)
    with path.open("xb") as file:
        file.write(tensors)
        file.flush()
        os.fsync(file.fileno())
    new = NewAdapter(
        name=AdapterName(ANONYMOUS.tenant, adapter_name(number)),
        base_model=maker.base.base_id,
        is_public=False,
        samples=(sample_of(number),),
        idempotency_key="",
        expected_version=None,
        report=admit(config, tensors, maker.base, AdmissionLimits(maker.rank)).report,
        num_bytes=len(config) + len(tensors),
        digest=content_digest(config, tensors),
        config_json=config,
        tensors_path=path,
    )
    record, _ = store.put(new)
    return store.publish(record.ref).ref


def random_vectors(count: int, dim: int, seed: int) -> Vectors:
    """Unit vectors ``[count, dim]`` in all directions."""
    vectors = np.random.default_rng(seed).standard_normal((count, dim), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def fill_index(
    uri: str,
    refs: Sequence[AdapterRef],
    bases: Sequence[str],
    vectors: Vectors,
    encoder_id: str,
    index_type: IndexType = IndexType.FLAT,
) -> None:
    """Indexes adapter i of base model ``bases[i % len(bases)]`` under one sample vector; returns when all can be found.

    Args:
        uri: of a Milvus Lite folder's server, or of a database of a Milvus server, without an index so far.
        vectors: ``[len(refs), dim]``.
    """
    index = VectorIndex.open(uri, timeout_s=_TIMEOUT_S, index_type=index_type)
    try:
        for start in range(0, len(refs), _ROWS_PER_CALL):
            entries = [
                IndexEntry(Row(ref, bases[i % len(bases)], is_public=False), [vectors[i]])
                for i, ref in enumerate(refs[start : start + _ROWS_PER_CALL], start)
            ]
            index.upsert(entries, encoder_id=encoder_id)
    finally:
        index.close()
    flush(uri)


def flush(uri: str) -> None:
    """Writes out what lies in memory: a Lite folder then searches files."""
    client = MilvusClient(uri, timeout=_TIMEOUT_S, dedicated=True)
    try:
        for name in client.list_collections():
            client.flush(name)
    finally:
        client.close()


def seal(uri: str, num_rows: int, *, timeout_s: float = 1200.0) -> None:
    """Returns once all rows of each collection of a server lie in sealed and indexed segments: 20 s after a flush for
    FLAT, many minutes for a large graph.

    Until then it searches growing ones, which takes about twice as long, and is busy with others.

    Raises:
        Unavailable: it still does not after `timeout_s`.
    """
    client = MilvusClient(uri, timeout=_TIMEOUT_S, dedicated=True)
    deadline = time.monotonic() + timeout_s
    try:
        for name in client.list_collections():
            while not _is_settled(client, name, num_rows):
                if time.monotonic() > deadline:
                    raise Unavailable("the Milvus server has not sealed its segments in time", remedy="try again")
                time.sleep(0.5)
    finally:
        client.close()


def _is_settled(client: MilvusClient, name: str, num_rows: int) -> bool:
    state = client.describe_index(name, "emb")
    return (
        sum(one.num_rows for one in client.list_loaded_segments(name)) >= num_rows
        and state["state"] == "Finished"
        and not state["pending_index_rows"]
    )


def make_refs(count: int) -> list[AdapterRef]:
    """Refs without content, for an index alone."""
    return [AdapterRef(ANONYMOUS.tenant, adapter_name(number), 1, f"{number:064x}") for number in range(count)]
