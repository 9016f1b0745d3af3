"""ContentReader at hand: what the store's metrics say, and that nothing of a deleted adapter stays behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
from prometheus_client import CollectorRegistry

from ramole.adapters.content_reader import ContentReader
from ramole.adapters.store.store import Store
from ramole.core.errors import Corrupt, NotFound
from ramole.core.names import AdapterName
from ramole.lora.content import Content
from ramole.lora.digest import content_digest
from ramole.observability.tiers import TierMetrics
from ramole.tiers.disk import DiskTier
from support.new_adapter import new_adapter

MATH = AdapterName("default", "math")
DIGEST = content_digest(b"{}", b"a")


@dataclass
class House:
    """A store with one adapter, and what lies before it."""

    store: Store
    disk: DiskTier
    contents: ContentReader
    registry: CollectorRegistry

    def metric(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"ramole_tier_{name}", labels)

    def look_ups(self, tier: str) -> tuple[float | None, float | None]:
        """Hits and misses."""
        hits, misses = (self.metric("requests_total", tier=tier, result=result) for result in ("hit", "miss"))
        return hits, misses


@pytest.fixture(params=["local", "remote"])
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Store]:
    uri = "" if request.param == "local" else f"memory://{uuid4().hex}"
    store = Store.open(tmp_path / "store", uri)
    publish(store)
    yield store
    store.close()


def publish(store: Store) -> None:
    spooled = store.scratch / "spooled"
    spooled.write_bytes(b"a")
    store.publish(store.put(new_adapter(str(MATH), "a", spooled))[0].ref)


@pytest.fixture
def house(store: Store, tmp_path: Path) -> Iterator[House]:
    disk, registry = DiskTier(tmp_path / "cache", 2**20), CollectorRegistry()
    contents = ContentReader(store, disk, TierMetrics(registry), negative_s=60.0)
    yield House(store, disk, contents, registry)
    contents.close()


async def test_the_store_counts_what_it_served_and_what_it_could_not(house: House) -> None:
    is_remote = house.store.folder(DIGEST) is None
    for _ in range(3):
        assert (await house.contents.get(DIGEST)).tensors == b"a"
    assert house.look_ups("store") == ((1, 0) if is_remote else (3, 0))
    assert house.look_ups("disk") == ((2, 1) if is_remote else (0, 0))
    with pytest.raises(NotFound):
        await house.contents.get("0" * 64)
    assert house.look_ups("store") == ((1, 1) if is_remote else (3, 1))
    assert house.metric("failures_total", tier="store") == 0
    assert house.metric("evictions_total", tier="store") == 0
    assert house.metric("load_duration_seconds_count", tier="store") == (1 if is_remote else 3)
    assert house.metric("bytes", tier="store") is None  # nobody counts them


async def test_a_folder_that_is_handed_over_counts_as_served(house: House) -> None:
    for _ in range(2):
        folder = await house.contents.folder(DIGEST)
        assert folder is not None
        assert Content.of_folder(folder, DIGEST).tensors == b"a"
    assert house.look_ups("store") == ((1, 0) if house.store.folder(DIGEST) is None else (2, 0))


async def test_broken_files_are_a_miss_and_a_failure_once(house: House) -> None:
    house.store._objects.remove(DIGEST)
    for _ in range(3):
        with pytest.raises(Corrupt):
            await house.contents.get(DIGEST)
    assert house.look_ups("store") == (0, 1)  # then it is not asked for a while
    assert house.metric("failures_total", tier="store") == 1


async def test_what_was_missing_can_be_read_as_soon_as_it_is_there(house: House) -> None:
    house.store.delete(MATH)
    house.contents.drop(DIGEST)
    with pytest.raises(NotFound):
        await house.contents.get(DIGEST)
    publish(house.store)
    assert (await house.contents.get(DIGEST)).tensors == b"a"


class Overtaken(DiskTier):
    """The adapter is deleted while its files are written."""

    contents: ContentReader
    store: Store

    def put(self, digest: str, content: Content, *, is_wanted: Callable[[], bool] = lambda: True) -> bool:
        self.store.delete(MATH)
        self.contents.drop(digest)
        return super().put(digest, content, is_wanted=is_wanted)


@pytest.mark.parametrize("store", ["remote"], indirect=True)
async def test_a_read_that_a_deletion_overtakes_leaves_no_files(store: Store, tmp_path: Path) -> None:
    disk = Overtaken(tmp_path / "cache", 2**20)
    disk.store, disk.contents = store, ContentReader(store, disk, TierMetrics(CollectorRegistry()), negative_s=60.0)
    try:
        assert (await disk.contents.get(DIGEST)).tensors == b"a"  # who asked before the deletion gets it
    finally:
        disk.contents.close()
    assert disk.path(DIGEST) is None
