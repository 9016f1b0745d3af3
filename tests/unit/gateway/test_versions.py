"""Rollback, history and download, and who is said to have asked."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from ramole.core.call import ANONYMOUS
from ramole.core.errors import Corrupt, InvalidInput, Unavailable
from ramole.lora.digest import content_digest
from ramole.v1 import gateway_pb2
from ramole.v1.gateway_pb2_grpc import GatewayStub
from support.gateway_world import World


async def test_a_rollback_goes_the_way_of_an_upload(world: World) -> None:
    world.retrieval.add(world.adapters.add("b", 2))
    done = await world.client.rollback("b@1", expected_version=2)
    assert world.log == ["Restage", "Embed", "Upsert", "Publish"]
    assert (str(done.record.ref), done.is_created, done.record.source) == ("default/b@3", True, "default/b@1")
    assert {row for row in world.findable if row.startswith("b@")} == {"b@3"}


async def test_a_rollback_that_fails_leaves_the_latest_in_place(world: World) -> None:
    world.retrieval.add(world.adapters.add("b", 2))
    before = world.stored, world.findable
    world.retrieval.failures["Upsert"] = [Unavailable("down")] * 2
    with pytest.raises(Unavailable):
        await world.client.rollback("b@1")
    assert (world.stored, world.findable) == before
    with pytest.raises(InvalidInput):
        await world.client.rollback("../b@1")


async def test_history(world: World) -> None:
    world.adapters.remove(world.adapters.add("a", 2), "revoked", "c")
    gone, live = await world.client.history("a")
    assert (str(live.ref), live.removed_at, live.removal) == ("default/a@1", None, "")
    assert (gone.removal, gone.comment, gone.removed_at is not None) == ("revoked", "c", True)


async def test_a_download_is_checked_against_its_digest(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "got"
    with pytest.raises(Corrupt):
        await world.client.download("a", folder)
    assert not folder.exists()
    world.adapters.records["default", "a", 1].adapter.digest = content_digest(b"{}", b"abcd")
    assert str(await world.client.download("a", folder)) == "default/a@1"
    assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert (folder / "adapter_model.safetensors").read_bytes() == b"abcd"
    (folder / "adapter_config.json").write_text("old")
    await world.client.download("a@1", folder)
    assert (folder / "adapter_config.json").read_bytes() == b"{}"


async def test_removals_carry_reason_and_comment(world: World) -> None:
    await world.client.delete("b", comment="too old")
    await world.client.revoke("c", comment="leaks")
    assert [(r.comment, r.is_revocation) for r in world.adapters.removals] == [("too old", False), ("leaks", True)]


async def test_nobody_can_forge_who_asked(world: World, folder: Path) -> None:
    async with grpc.aio.insecure_channel(world.servers["gateway"].address) as channel:
        forged = (("x-ramole-name", "root"), ("x-ramole-tenant", "acme"), ("x-ramole-roles", "nobody"))
        stub = GatewayStub(channel)
        await stub.GetAdapter(gateway_pb2.GetAdapterRequest(adapter="b"), metadata=forged)
        await stub.ListAdapters(gateway_pb2.ListAdaptersRequest(), metadata=forged)
        await stub.DeleteAdapter(gateway_pb2.DeleteAdapterRequest(adapter="b"), metadata=forged)
    await world.client.upload(folder, ["sample"])
    for method in ("GetStored", "ListStored", "DeleteStored", "Put", "Publish"):
        caller = world.adapters.callers[method]
        assert (caller.tenant, caller.roles) == (ANONYMOUS.tenant, ANONYMOUS.roles), method
        assert caller.name.startswith("ipv4:127.0.0.1:"), method
