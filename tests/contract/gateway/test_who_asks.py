"""Two tenants and an operator ask every RPC of the public service, and every route that does the same over HTTP, on a
real store and a real index."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from ramole.core.call import Principal
from ramole.core.errors import AlreadyExists, Conflict, NotFound, PermissionDenied, RamoleError
from ramole.v1 import common_pb2, gateway_pb2
from support.http_world import ROUTES, HttpTenantWorld
from support.tenant_world import ANN, BOB, EVE, RPCS, TenantWorld, names, upload

pytestmark = pytest.mark.asyncio(loop_scope="module")

Request = Callable[[str], Any]
"""About the adapter with this name."""
Standing = Callable[[type[TenantWorld]], Awaitable[TenantWorld]]

HIDDEN = ("a/hidden", "a/hidden@1", "a/hidden@2", "a/mixed", "a/mixed@1", "a/mixed@2")
"""From tenant b."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def standing(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Standing]:
    """Worlds that nobody changes, by the way they are asked."""
    async with AsyncExitStack() as stack:
        worlds: dict[type[TenantWorld], TenantWorld] = {}

        async def get(kind: type[TenantWorld]) -> TenantWorld:
            if kind not in worlds:
                worlds[kind] = await furnished(kind, tmp_path_factory.mktemp("standing"))
                stack.push_async_callback(worlds[kind].stop)
            return worlds[kind]

        yield get


@pytest_asyncio.fixture(loop_scope="module", params=[TenantWorld, HttpTenantWorld], ids=["grpc", "http"])
async def world(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[TenantWorld]:
    """One of its own."""
    world = await furnished(request.param, tmp_path)
    yield world
    await world.stop()


async def furnished(kind: type[TenantWorld], folder: Path) -> TenantWorld:
    """A private adapter, a public one, and one whose public version has a private one after it; and one of tenant b."""
    world = kind(folder)
    await world.start()
    await world.give("a/hidden", 0)
    await world.give("a/shared", 1, is_public=True)
    await world.give("a/mixed", 2, is_public=True)
    await world.give("a/mixed", 3)
    await world.give("b/own", 4)
    return world


def words(error: RamoleError | None) -> tuple[object, ...]:
    """All that a client hears."""
    return type(error), str(error), getattr(error, "retry_after_s", None), getattr(error, "is_final", None)


async def is_hidden(world: TenantWorld, who: Principal, rpc: str, request: Request, name: str) -> None:
    """The call fails as for a name that nobody ever had."""
    error = await world.refusal(who, rpc, request(name))
    known = name.partition("@")[0].rpartition("/")[2]
    nobodys = await world.refusal(who, rpc, request(name.replace(known, "nobodys")))
    assert isinstance(error, NotFound), name
    assert tuple(str(part).replace(known, "nobodys") for part in words(error)) == tuple(map(str, words(nobodys)))


def reads(rpc: str, request: Request) -> Callable[[TenantWorld], Awaitable[None]]:
    """The call answers with what is the caller's own or public; of the rest it knows nothing."""

    async def check(world: TenantWorld) -> None:
        for who, name in (
            (ANN, "hidden"), (ANN, "a/hidden@1"), (ANN, "mixed@1"), (ANN, "a/mixed"), (BOB, "own"), (BOB, "a/shared@1"),
            (EVE, "a/hidden"), (EVE, "b/own@1"),
        ):  # fmt: skip
            assert await world.ask(who, rpc, request(name)), name
        for name in (*HIDDEN, "hidden", "shared", "b/hidden"):
            await is_hidden(world, BOB, rpc, request, name)
        for who, name in ((ANN, "b/own"), (ANN, "own"), (EVE, "hidden")):
            await is_hidden(world, who, rpc, request, name)

    return check


async def everything(world: TenantWorld) -> object:
    """What store and index hold."""
    history = [
        await world.ask(EVE, "GetHistory", gateway_pb2.GetHistoryRequest(adapter=name))
        for name in ("a/hidden", "a/shared", "a/mixed", "b/own")
    ]
    return history, await world.listed(EVE), [await routed(world, who) for who in (ANN, BOB, EVE)]


def changes(rpc: str, request: Request, *others: Request) -> Callable[[TenantWorld], Awaitable[None]]:
    """The call changes what is the caller's own; of another tenant's names all are refused, with the same words."""

    async def check(world: TenantWorld) -> None:
        before = await everything(world)
        for name in ("a/hidden", "a/shared", "a/nobodys", "a/shared@1", "a/mixed@2"):
            for asked in (request, *others):
                error = await world.refusal(BOB, rpc, asked(name))
                assert isinstance(error, PermissionDenied), name
                assert name not in str(error)
                assert words(error) == words(await world.refusal(BOB, rpc, request("a/nobodys")))
        assert await everything(world) == before
        await world.ask(ANN, rpc, request("hidden@1" if rpc == "RollbackAdapter" else "hidden"))
        await world.ask(EVE, rpc, request("a/mixed@1" if rpc == "RollbackAdapter" else "a/shared"))
        assert await everything(world) != before

    return check


async def routed(world: TenantWorld, who: Principal) -> list[str]:
    [found] = await world.ask(who, "Route", gateway_pb2.RouteRequest(prompt="prompt n0", k=8))
    return sorted(names(hit.adapter for hit in found.adapters))


async def generates(world: TenantWorld) -> None:
    def named(name: str) -> gateway_pb2.GenerateRequest:
        return gateway_pb2.GenerateRequest(prompt="hello", adapters=[gateway_pb2.WeightedAdapter(adapter=name)])

    await reads("Generate", named)(world)
    every = common_pb2.Composition(k=8)
    for who, seen in ((ANN, ["a/hidden@1", "a/mixed@2", "a/shared@1"]), (BOB, ["a/shared@1", "b/own@1"])):
        request = gateway_pb2.GenerateRequest(prompt="prompt n0", composition=every)
        routing, *_, end = await world.ask(who, "Generate", request)
        assert sorted(names(used.adapter for used in routing.routing.adapters)) == seen
        assert sorted(names(used.adapter for used in end.usage.adapters)) == seen


async def completes(world: TenantWorld) -> None:
    def named(name: str) -> gateway_pb2.CompleteRequest:
        adapters = [gateway_pb2.WeightedAdapter(adapter=name)]
        return gateway_pb2.CompleteRequest(request=gateway_pb2.GenerateRequest(prompt="hello", adapters=adapters))

    await reads("Complete", named)(world)
    for who, seen in ((ANN, ["a/hidden@1", "a/mixed@2", "a/shared@1"]), (BOB, ["a/shared@1", "b/own@1"])):
        asked = gateway_pb2.GenerateRequest(prompt="prompt n0", composition=common_pb2.Composition(k=8))
        [whole] = await world.ask(who, "Complete", gateway_pb2.CompleteRequest(request=asked))
        assert sorted(names(used.adapter for used in whole.routing.adapters)) == seen
        assert sorted(names(used.adapter for used in whole.usage.adapters)) == seen


async def generates_batches(world: TenantWorld) -> None:
    """What one request of a batch may not see fails as a name that nobody had, also where it may be left out."""
    asked = [
        gateway_pb2.GenerateRequest(
            prompt="hello", adapters=[gateway_pb2.WeightedAdapter(adapter=name)], allow_degraded=True
        )
        for name in ("a/hidden", "a/nobodys", "own", "a/shared")
    ]
    events = await world.ask(BOB, "GenerateBatch", gateway_pb2.GenerateBatchRequest(requests=asked))
    failures = {event.index: event.failure for event in events if event.HasField("failure")}
    used = {
        event.index: names(each.adapter for each in event.usage.adapters) for event in events if event.HasField("usage")
    }
    assert used == {2: ["b/own@1"], 3: ["a/shared@1"]}
    assert sorted(failures) == [0, 1]
    assert [failures[i].reason for i in (0, 1)] == ["NOT_FOUND"] * 2
    assert str(failures[0]).replace("hidden", "nobodys") == str(failures[1])


async def routes(world: TenantWorld) -> None:
    assert await routed(world, ANN) == ["a/hidden@1", "a/mixed@2", "a/shared@1"]
    assert await routed(world, BOB) == ["a/shared@1", "b/own@1"]
    assert await routed(world, EVE) == ["a/shared@1"], "what an operator may look at does not answer its prompts"


async def lists(world: TenantWorld) -> None:
    everyones = ["a/hidden@1", "a/mixed@1", "a/mixed@2", "a/shared@1", "b/own@1"]
    for size in (1, 2, 100):
        assert await world.listed(ANN, page_size=size) == everyones[:4]
        assert await world.listed(BOB, page_size=size) == everyones[3:]
        assert await world.listed(EVE, page_size=size) == everyones
        assert await world.listed(BOB, page_size=size, tenant="a") == ["a/shared@1"]
        assert await world.listed(BOB, page_size=size, latest_only=True, tenant="a") == ["a/shared@1"]
    [hidden] = await world.ask(BOB, "ListAdapters", gateway_pb2.ListAdaptersRequest(tenant="a", name_prefix="hidden"))
    [nobodys] = await world.ask(BOB, "ListAdapters", gateway_pb2.ListAdaptersRequest(tenant="nobody"))
    assert hidden == nobodys
    # A token of somebody else is a place to begin at, not a key.
    [page] = await world.ask(ANN, "ListAdapters", gateway_pb2.ListAdaptersRequest(page_size=1))
    assert await world.listed(BOB, page_token=page.next_page_token) == everyones[3:]


async def uploads(world: TenantWorld) -> None:
    ours = upload("a/hidden", 0, idempotency_key="key")
    await changes(
        "UploadAdapter",
        lambda name: upload(name.partition("@")[0], 5, is_public=True),
        lambda name: upload(name.partition("@")[0], 0, expected_version=7),
        lambda name: upload(name.partition("@")[0], 0, idempotency_key="key"),
        lambda name: upload(name.partition("@")[0], 0, samples=[]),
    )(world)
    # Keys and versions are a tenant's own: nobody runs into those of another.
    await world.ask(ANN, "UploadAdapter", ours)
    [answer] = await world.ask(BOB, "UploadAdapter", upload("hidden", 6, idempotency_key="key", expected_version=0))
    assert names([answer.record.adapter]) == ["b/hidden@1"]
    assert isinstance(await world.refusal(BOB, "UploadAdapter", upload("own", 5, expected_version=0)), Conflict)
    again = await world.refusal(BOB, "UploadAdapter", upload("own", 5, idempotency_key="key"))
    assert isinstance(again, AlreadyExists)
    assert "a/" not in str(again)


async def gets_history(world: TenantWorld) -> None:
    await reads("GetHistory", lambda name: gateway_pb2.GetHistoryRequest(adapter=name))(world)
    await world.give("a/shared", 5)
    await world.give("a/shared", 6, is_public=True)
    for version in ("@1", "@2"):
        await world.give("a/shared", 7 + int(version[1:]), is_public=True)
    await world.ask(ANN, "DeleteAdapter", gateway_pb2.DeleteAdapterRequest(adapter="shared@4", comment="leaked"))
    for who, seen in ((ANN, [5, 4, 3, 2, 1]), (EVE, [5, 4, 3, 2, 1]), (BOB, [5, 3, 1])):
        [history] = await world.ask(who, "GetHistory", gateway_pb2.GetHistoryRequest(adapter="a/shared"))
        assert [entry.adapter.version for entry in history.entries] == seen, "of others' adapters, live public versions"


async def revokes(world: TenantWorld) -> None:
    # A content that two tenants hold is revoked for one of them.
    await world.ask(BOB, "UploadAdapter", upload("copy", 1))
    [answer] = await world.ask(BOB, "RevokeAdapter", gateway_pb2.RevokeAdapterRequest(adapter="copy"))
    assert names(answer.removed) == ["b/copy@1"]
    assert [eviction.tenant for eviction in world.executor.evicted if eviction.abort] == ["b"], "ann's requests go on"
    assert await routed(world, BOB) == ["a/shared@1", "b/own@1"]
    await changes(
        "RevokeAdapter",
        lambda name: gateway_pb2.RevokeAdapterRequest(adapter=name),
        lambda name: gateway_pb2.RevokeAdapterRequest(adapter=name, expected_version=7, comment="x" * 1000),
    )(world)


async def reindexes(world: TenantWorld) -> None:
    for who in (ANN, BOB):
        assert isinstance(await world.refusal(who, "Reindex", gateway_pb2.ReindexRequest()), PermissionDenied)
    world.embedding.loaded.insert(0, "new")
    *_, last = await world.ask(EVE, "Reindex", gateway_pb2.ReindexRequest())
    assert (last.encoder_id, last.done, last.total) == ("new", 4, 4), "of all tenants"
    await routes(world)


async def describes(world: TenantWorld) -> None:
    [theirs] = await world.ask(BOB, "Describe", gateway_pb2.DescribeRequest())
    [operators] = await world.ask(EVE, "Describe", gateway_pb2.DescribeRequest())
    assert operators.fullest_step.digests
    assert not theirs.HasField("fullest_step"), "it names contents that others use"
    assert (theirs.caller.tenant, theirs.caller.name, list(theirs.caller.roles)) == ("b", "bob", ["publisher"])
    assert (operators.caller.tenant, operators.caller.name, list(operators.caller.roles)) == ("ops", "eve", ["admin"])
    assert [(each.name, each.replicas, each.serving) for each in operators.services] == [
        (name, 1, 1) for name in ("adapters", "embedding", "retrieval", "executor")
    ]
    assert (operators.ended, operators.tokens_out) == (9, 90)
    assert [(tier.adapters, tier.hits) for tier in operators.tiers] == [(1, 7)]
    for each in (theirs, operators):
        for field in ("fullest_step", "caller", "time"):
            each.ClearField(field)
    for field in ("ended", "tokens_out", "tiers", "services"):
        operators.ClearField(field)
    assert theirs == operators


CHECKS: dict[str, Callable[[TenantWorld], Awaitable[None]]] = {
    "Generate": generates,
    "Complete": completes,
    "GenerateBatch": generates_batches,
    "Route": routes,
    "UploadAdapter": uploads,
    "GetAdapter": reads("GetAdapter", lambda name: gateway_pb2.GetAdapterRequest(adapter=name)),
    "ListAdapters": lists,
    "GetHistory": gets_history,
    "DownloadAdapter": reads("DownloadAdapter", lambda name: gateway_pb2.DownloadAdapterRequest(adapter=name)),
    "RollbackAdapter": changes(
        "RollbackAdapter",
        lambda name: gateway_pb2.RollbackAdapterRequest(adapter=name),
        lambda name: gateway_pb2.RollbackAdapterRequest(adapter=name, expected_version=7),
    ),
    "DeleteAdapter": changes(
        "DeleteAdapter",
        lambda name: gateway_pb2.DeleteAdapterRequest(adapter=name),
        lambda name: gateway_pb2.DeleteAdapterRequest(adapter=name, expected_version=7),
    ),
    "RevokeAdapter": revokes,
    "Reindex": reindexes,
    "Describe": describes,
}


READING = {
    "Generate",
    "Complete",
    "GenerateBatch",
    "Route",
    "Describe",
    "GetAdapter",
    "ListAdapters",
    "DownloadAdapter",
}
"""Whose checks change nothing, so that they share a world."""
BOTH_PORTS = [(TenantWorld, rpc) for rpc in sorted(RPCS)] + [(HttpTenantWorld, rpc) for rpc in sorted(ROUTES)]


@pytest.mark.parametrize(
    ("kind", "rpc"),
    BOTH_PORTS,
    ids=[f"{rpc}-{'http' if kind is HttpTenantWorld else 'grpc'}" for kind, rpc in BOTH_PORTS],
)
async def test_an_rpc_keeps_tenants_apart(
    kind: type[TenantWorld], rpc: str, standing: Standing, tmp_path: Path
) -> None:
    if rpc in READING:
        await CHECKS[rpc](await standing(kind))
        return
    world = await furnished(kind, tmp_path)
    try:
        await CHECKS[rpc](world)
    finally:
        await world.stop()


async def test_whoever_does_not_say_may_do_everything(world: TenantWorld) -> None:
    """There are no keys yet."""
    assert await world.listed(None) == ["a/hidden@1", "a/mixed@1", "a/mixed@2", "a/shared@1", "b/own@1"]
    [answer] = await world.ask(None, "UploadAdapter", upload("mine", 5))
    assert names([answer.record.adapter]) == ["default/mine@1"]
    await world.ask(None, "DeleteAdapter", gateway_pb2.DeleteAdapterRequest(adapter="a/hidden"))
    assert len(await world.listed(None)) == 5


async def test_the_audit_log_says_who_tried_and_who_did(world: TenantWorld) -> None:
    await world.refusal(BOB, "UploadAdapter", upload("a/hidden", 5))
    await world.ask(BOB, "DeleteAdapter", gateway_pb2.DeleteAdapterRequest(adapter="own"))
    refused, deleted = [json.loads(line) for line in world.audit.read_text().splitlines()][-2:]
    assert (refused["tenant"], refused["adapter"], refused["outcome"]) == ("b", "a/hidden", "PermissionDenied")
    assert (deleted["tenant"], deleted["adapter"], deleted["outcome"]) == ("b", "b/own@1", "ok")
