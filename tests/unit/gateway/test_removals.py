from __future__ import annotations

import asyncio

import pytest

from ramole.core.errors import Conflict, InvalidInput, NotFound, Unavailable
from support.gateway_world import World


async def test_a_deletion_goes_index_store_devices(world: World) -> None:
    removed = await world.client.delete("b")
    assert [str(ref) for ref in removed] == ["default/b@1"]
    assert [step for step in world.log if step in ("Remove", "DeleteStored", "Evict")] == [
        "Remove",
        "DeleteStored",
        "Evict",
    ]
    assert "b@1" not in world.stored | world.findable
    (eviction,) = world.executor.evicted
    assert list(eviction.digests) == [removed[0].digest]
    assert not eviction.abort


async def test_all_versions_of_a_name_go_at_once(world: World) -> None:
    world.retrieval.add(world.adapters.add("b", 2))
    world.adapters.add("b", 3)
    assert len(await world.client.delete("default/b")) == 3
    assert world.live == {"a@1", "c@1", "d@1"} == world.findable


async def test_deleting_the_latest_version_makes_the_one_before_findable_again(world: World) -> None:
    world.retrieval.add(world.adapters.add("b", 2))
    assert "b@1" not in world.findable
    await world.client.delete("b@2")
    assert "b@1" in world.findable
    assert "b@2" not in world.stored | world.findable


async def test_a_revocation_aborts_and_counts(world: World) -> None:
    revoked = await world.client.revoke("b@1")
    assert [str(ref) for ref in revoked.refs] == ["default/b@1"]
    assert revoked.aborted == 2
    assert world.executor.evicted[0].abort


async def test_a_revocation_takes_the_content_from_store_and_devices_first(world: World) -> None:
    await world.client.revoke("b")
    assert [step for step in world.log if step in ("Remove", "DeleteStored", "Evict")] == [
        "DeleteStored",
        "Evict",
        "Remove",
    ]
    assert "b@1" not in world.stored | world.findable


async def test_a_revocation_takes_every_version_with_the_same_content(world: World) -> None:
    copy = world.adapters.add("copy")
    copy.digest = world.adapters.records["default", "b", 1].adapter.digest
    world.adapters.records["default", "copy", 1].adapter.digest = copy.digest
    world.retrieval.add(copy)
    revoked = await world.client.revoke("b")
    assert {str(ref) for ref in revoked.refs} == {"default/b@1", "default/copy@1"}
    assert world.live == {"a@1", "c@1", "d@1"} == world.findable


async def test_without_an_index_a_revocation_works_and_the_row_goes_later(world: World) -> None:
    world.retrieval.failures["Remove"] = [Unavailable("down")] * 5
    revoked = await world.client.revoke("b")
    assert revoked.aborted == 2
    assert "b@1" not in world.stored
    async with asyncio.timeout(20):
        while "b@1" in world.findable:  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(0.01)
    assert world.findable == {"a@1", "c@1", "d@1"}


async def test_a_revocation_that_failed_half_way_can_be_repeated(world: World) -> None:
    world.executor.failures["Evict"] = [Unavailable("down")]
    with pytest.raises(Unavailable):
        await world.client.revoke("b@1")
    assert "b@1" not in world.stored
    again = await world.client.revoke("b@1")
    assert ([str(ref) for ref in again.refs], again.aborted) == (["default/b@1"], 2)
    assert world.executor.evicted[-1].digests == [again.refs[0].digest]
    assert "b@1" not in world.findable


async def test_deleting_an_old_version_does_not_touch_the_row_of_the_latest(world: World) -> None:
    world.retrieval.add(world.adapters.add("b", 2))
    await world.client.delete("b@1")
    assert "Upsert" not in world.log
    assert "b@2" in world.findable


async def test_a_content_that_another_version_has_stays_on_the_devices(world: World) -> None:
    digest = world.adapters.records["default", "b", 1].adapter.digest
    world.adapters.add("b", 2)
    world.adapters.records["default", "b", 2].adapter.digest = digest
    await world.client.delete("b@1")
    assert "Evict" not in world.log
    await world.client.delete("b@2")
    assert world.executor.evicted[0].digests == [digest]


async def test_a_version_whose_upload_is_under_way_cannot_be_deleted(world: World) -> None:
    world.retrieval.add(world.adapters.add("e", is_live=False))
    with pytest.raises(NotFound):
        await world.client.delete("e@1")
    assert "e@1" in world.stored & world.findable


async def test_what_is_deleted_while_it_is_made_findable_again_leaves_no_row(world: World) -> None:
    world.retrieval.add(world.adapters.add("b", 2))
    gate = world.retrieval.gates["Upsert"] = asyncio.Event()
    restoring = asyncio.create_task(world.client.delete("b@2"))
    await world.retrieval.until("Upsert")
    await world.client.delete("b@1")
    gate.set()
    await restoring
    assert not {"b@1", "b@2"} & (world.stored | world.findable)


async def test_unknown_and_malformed_names_are_refused(world: World) -> None:
    for name in ("nope", "b@9"):
        with pytest.raises(NotFound):
            await world.client.delete(name)
        with pytest.raises(NotFound):
            await world.client.revoke(name)
    with pytest.raises(InvalidInput):
        await world.client.delete("../b")
    assert "Remove" not in world.log


async def test_busy_devices_fail_a_revocation_but_no_deletion(world: World) -> None:
    world.executor.failures["Evict"] = [Unavailable("down")] * 2
    assert await world.client.delete("b")
    with pytest.raises(Unavailable):
        await world.client.revoke("c")


async def test_a_deletion_whose_client_leaves_runs_to_its_end(world: World) -> None:
    gate = world.adapters.gates["DeleteStored"] = asyncio.Event()
    task = asyncio.create_task(world.client.delete("b"))
    await world.adapters.until("DeleteStored")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.set()
    await world.servers["gateway"].stop()
    assert "b@1" not in world.stored | world.findable
    assert world.executor.evicted


async def test_only_the_expected_version_is_removed(world: World) -> None:
    world.retrieval.add(world.adapters.add("b", 2))
    await world.client.delete("b@2", expected_version=2)
    await world.client.revoke("c", expected_version=1)
    assert [request.expected_version for request in world.adapters.removals] == [2, 1]
    assert "Remove" in world.log


async def test_a_removal_that_expected_another_version_touches_nothing(world: World) -> None:
    world.adapters.failures["DeleteStored"] = [Conflict("b is at version 1", field="expected_version")]
    before = world.stored, world.findable
    with pytest.raises(Conflict) as raised:
        await world.client.delete("b", expected_version=7)
    assert raised.value.field == "expected_version"
    assert (world.stored, world.findable) == before
    assert "Remove" not in world.log


async def test_a_version_that_comes_between_keeps_its_place_in_the_index(world: World) -> None:
    world.adapters.failures["DeleteStored"] = [Conflict("b is at version 2", field="expected_version")]
    with pytest.raises(Conflict):
        await world.client.revoke("b", expected_version=1)
    assert "b@1" in world.stored & world.findable
    assert not world.executor.evicted
