from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest

from ramole.client import Chunk, Routing, TierStatus, Usage, UseAdapter
from ramole.core.composition import PRESETS, Composition, Merge, Weighting
from ramole.core.errors import (
    AdapterRefused,
    Corrupt,
    ExpertUnavailable,
    InvalidInput,
    NotFound,
    RamoleError,
    Unavailable,
    WrongState,
)
from ramole.core.sampling import Sampling
from ramole.v1 import common_pb2, gateway_pb2
from ramole.v1.gateway_pb2_grpc import GatewayStub
from support.gateway_world import BASE, World


def names(routing: Any) -> list[str]:
    return [adapter.ref.name for adapter in routing.adapters]


async def test_a_plain_prompt_is_embedded_searched_and_executed_with_what_was_found(world: World) -> None:
    events = [event async for event in world.client.generate("one two three")]
    assert world.log[:3] == ["Embed", "Search", "Execute"]
    routing, *chunks, usage = events
    assert isinstance(routing, Routing)
    assert isinstance(usage, Usage)
    assert [chunk.text for chunk in chunks if isinstance(chunk, Chunk)] == ["one", "two", "three"]
    assert all(isinstance(chunk, Chunk) and chunk.logprobs == (-1.0,) for chunk in chunks)
    assert names(routing) == names(usage) == ["a", "b", "c"]
    assert [a.similarity for a in routing.adapters] == [0.5, 0.375, 0.25]
    assert routing.base_model == BASE
    assert routing.request_id
    assert (routing.composition.weighting, routing.composition.k) == (Weighting.UNIFORM, 3)
    assert not routing.has_fallen_back
    assert [a.mean_weight for a in usage.adapters] == [0.25, 1.25, 2.25]
    assert usage.adapters[0].layer_weights == (0.25, 0.5)
    assert (usage.finish_reason, usage.prompt_tokens, usage.completion_tokens) == ("length", 3, 3)
    assert (usage.max_batch, usage.max_unique_adapters, usage.queue_s) == (4, 5, 0.5)
    assert (usage.prefill_s, usage.decode_s) == (0.25, 0.75)
    assert [a.tier for a in usage.adapters] == ["disk"] * 3
    assert 0 < usage.first_token_s <= usage.total_s
    (request,) = world.executor.requests
    assert [expert.similarity for expert in request.experts] == [0.5, 0.375, 0.25]


async def test_every_axis_and_sampling_parameter_reaches_the_executor(world: World) -> None:
    composition = Composition(Weighting.SIMILARITY, Merge.PARAMETERS, k=2, tau=0.25, spread=0.5, scale=0.5)
    sampling = Sampling(max_tokens=7, stop=("x",), temperature=0.5, seed=3, logprobs=True)
    answer = await world.client.complete("go", composition=composition, sampling=sampling)
    (request,) = world.executor.requests
    assert answer.routing.composition == composition
    assert len(request.experts) == 2
    assert (request.composition.tau, request.composition.spread) == (0.25, 0.5)
    assert (request.sampling.max_tokens, request.sampling.seed, list(request.sampling.stop)) == (7, 3, ["x"])


async def test_the_repositorys_doubt_takes_the_place_of_spread(world: World) -> None:
    calibrated = PRESETS["calibrated"]
    for doubt, composition, wanted in (
        (None, calibrated, 0.35),
        (0.75, calibrated, 0.75),
        (0.75, PRESETS["hedged"], 0.35),
    ):
        world.retrieval.doubt = doubt
        world.executor.requests.clear()
        answer = await world.client.complete("go", composition=composition)
        (request,) = world.executor.requests
        assert request.composition.spread == pytest.approx(wanted)
        assert (answer.routing.doubt, answer.routing.composition.spread) == (doubt, pytest.approx(wanted))
        assert (await world.client.route("go")).doubt == doubt
    named = await world.client.complete("go", adapters=["d", "a"], composition=calibrated)
    assert (named.routing.doubt, named.routing.composition.spread) == (None, pytest.approx(0.35))


async def test_who_gives_a_spread_means_it(world: World) -> None:
    world.retrieval.doubt = 0.75
    async with grpc.aio.insecure_channel(world.servers["gateway"].address) as channel:
        for fields, wanted in (({"spread": 0.25}, 0.25), ({"spread": 0.25, "adaptive_spread": True}, 0.75)):
            composition = common_pb2.Composition(preset=common_pb2.PRESET_CALIBRATED, **fields)
            events = GatewayStub(channel).Generate(Request(prompt="x", composition=composition))
            [report] = [event.routing async for event in events if event.HasField("routing")]
            assert report.composition.spread == wanted


async def test_named_adapters_skip_retrieval(world: World) -> None:
    composition = Composition(Weighting.EXPLICIT, k=5)
    named = ["d", UseAdapter("default/a@1", weight=0.25, scale=2.0)]
    answer = await world.client.complete("go", adapters=named, composition=composition)
    assert "Search" not in world.log
    assert names(answer.routing) == ["d", "a"]
    assert answer.routing.composition.k == 2
    (request,) = world.executor.requests
    assert [(e.weight, e.scale, e.similarity) for e in request.experts] == [(1.0, 1.0, 0.0), (0.25, 2.0, 0.0)]


async def test_k_zero_asks_nobody(world: World) -> None:
    answer = await world.client.complete("go", composition=Composition(k=0))
    assert not answer.routing.adapters
    assert set(world.log) == {"Execute", "step"}


async def test_an_empty_index_leaves_the_base_model_alone(world: World) -> None:
    world.retrieval.rows.clear()
    answer = await world.client.complete("go")
    assert answer.text == "go"
    assert not answer.routing.adapters


@pytest.mark.parametrize("method", ["Embed", "Search"])
async def test_broken_retrieval_is_unavailable_unless_the_base_model_may_answer(world: World, method: str) -> None:
    broken = world.embedding if method == "Embed" else world.retrieval
    broken.failures[method] = [Unavailable("down")] * 4
    with pytest.raises(Unavailable, match="down") as caught:
        await world.client.complete("go")
    assert world.log.count(method) == 2, "one layer tries twice"
    assert caught.value.retry_after_s
    answer = await world.client.complete("go", may_fall_back=True)
    assert answer.routing.has_fallen_back
    assert answer.routing.composition.k == 0
    assert answer.text == "go"


async def test_a_failed_executor_that_is_alone_does_not_get_the_order_again(world: World) -> None:
    world.executor.failures["Execute"] = [Unavailable("the engine stopped")]
    with pytest.raises(Unavailable, match="the engine stopped"):
        await world.client.complete("go")
    assert world.log.count("Execute") == 1


async def test_retrieval_that_hangs_counts_as_down(world: World) -> None:
    world.retrieval.gates["Search"] = asyncio.Event()
    answer = await world.client.complete("go", may_fall_back=True)
    assert answer.routing.has_fallen_back


async def test_an_error_of_retrieval_that_is_no_outage_is_never_papered_over(world: World) -> None:
    world.retrieval.failures["Search"] = [WrongState("another encoder")]
    with pytest.raises(WrongState, match="another encoder"):
        await world.client.complete("go", may_fall_back=True)


@pytest.mark.parametrize("error", [NotFound, Corrupt, AdapterRefused, WrongState])
async def test_an_adapter_that_cannot_be_loaded_is_routed_around(world: World, error: type[RamoleError]) -> None:
    world.executor.failures["Execute"] = [ExpertUnavailable.of(error("bad"), index) for index in (1, 0)]
    answer = await world.client.complete("go")
    assert answer.text == "go"
    assert world.log.count("Search") == world.log.count("Execute") == 3
    assert [routed.ref.name for routed in answer.routing.adapters] == ["c", "d"], "a and b are bad, k = 3, of four"
    assert [(each.ref.name, each.reason) for each in answer.routing.left_out] == [
        ("b", error.reason()),
        ("a", error.reason()),
    ]


async def test_routing_around_has_an_end(world: World) -> None:
    world.executor.failures["Execute"] = [ExpertUnavailable.of(NotFound("gone"), 0)] * 9
    with pytest.raises(NotFound, match="gone"):
        await world.client.complete("go")
    assert world.log.count("Execute") == 4


async def test_a_named_adapter_that_cannot_be_loaded_is_not_replaced(world: World) -> None:
    world.executor.failures["Execute"] = [ExpertUnavailable.of(Corrupt("broken", remedy="upload it again"), 1)]
    with pytest.raises(Corrupt, match="broken") as caught:
        await world.client.complete("go", adapters=["a", "b"])
    assert (caught.value.field, caught.value.remedy) == ("adapters[1].adapter", "upload it again")
    assert world.log.count("Execute") == 1


async def test_an_error_that_is_no_adapters_fault_is_not_routed_around(world: World) -> None:
    world.executor.failures["Execute"] = [WrongState("no router", field="composition.weighting")]
    with pytest.raises(WrongState, match="no router"):
        await world.client.complete("go")
    assert world.log.count("Execute") == 1


async def test_an_error_after_the_first_piece_reaches_the_client_as_it_is(world: World) -> None:
    world.executor.failures["step"] = [NotFound("late")]
    events = world.client.generate("one two")
    assert isinstance(await anext(events), Routing)
    assert isinstance(await anext(events), Chunk)
    with pytest.raises(NotFound, match="late"):
        await anext(events)
    assert world.log.count("Execute") == 1


async def test_an_unknown_finish_reason_is_an_error(world: World) -> None:
    for reason in (0, 99):
        world.executor.finish_reason = reason
        with pytest.raises(Corrupt, match=f"finish reason {reason}"):
            await world.client.complete("go")


async def test_a_client_that_leaves_frees_the_executor(world: World) -> None:
    world.executor.gates["step"] = asyncio.Event()
    async with aclosing(world.client.generate("one two three")) as events:
        await anext(events)
        assert world.executor.num_running == 1
    async with asyncio.timeout(10):
        while world.executor.num_running:  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(0.01)


async def test_the_route_of_a_prompt_is_what_generate_would_use(world: World) -> None:
    assert names(await world.client.route("go")) == ["a", "b", "c"]
    route = await world.client.route("go", k=1)
    assert names(route) == ["a"]
    assert route.embed_s > 0
    assert "Execute" not in world.log
    with pytest.raises(InvalidInput) as caught:
        await world.client.route("go", k=9)
    assert caught.value.field == "k"


async def test_the_description_adds_up_the_executors(world: World) -> None:
    about = await world.client.describe()
    assert (about.base_model, about.num_slots, about.running, about.resident_adapters) == (BASE, 8, 1, 1)
    assert about.fullest_step.digests == ("p", "q")
    assert about.fullest_step.mask == ((True, False), (True, True))
    assert about.default_composition.k == 3
    limits, settings = about.limits, world.settings
    assert (limits.max_prompt_chars, limits.max_len, limits.max_waiting, limits.max_batch_requests) == (
        100,
        512,
        64,
        64,
    )
    assert limits.max_upload_bytes == settings.adapters.max_upload_bytes
    assert (limits.max_rank, limits.max_samples) == (settings.adapters.max_rank, settings.adapters.max_samples)
    assert (about.router, about.encoder_id, about.has_chat_template) == ("r", "e", True)
    assert (about.caller.tenant, about.caller.roles) == ("default", ("admin",))
    assert about.time is not None
    assert abs((datetime.now(UTC) - about.time).total_seconds()) < 60
    assert (about.max_running, about.ended, about.tokens_out) == (32, 9, 90)
    assert about.tiers == (TierStatus("device", 1, 100, 7, 3),)
    assert {each.name: each.serving for each in about.services} == dict.fromkeys(
        ("adapters", "embedding", "retrieval", "executor"), 1
    )


async def test_the_description_says_which_service_is_down(world: World) -> None:
    await world.servers["embedding"].stop()
    found = {each.name: (each.replicas, each.serving) for each in (await world.client.describe()).services}
    assert found == {"adapters": (1, 1), "embedding": (1, 0), "retrieval": (1, 1), "executor": (1, 1)}


async def test_a_description_does_without_an_index_that_fails_or_hangs(world: World) -> None:
    world.retrieval.failures["ListGenerations"] = [Unavailable("down")] * 2
    assert (await world.client.describe()).encoder_id == ""
    world.retrieval.gates["ListGenerations"] = asyncio.Event()
    async with asyncio.timeout(10):
        about = await world.client.describe()
    assert (about.encoder_id, about.num_slots) == ("", 8)


Request = gateway_pb2.GenerateRequest
Adapter = gateway_pb2.WeightedAdapter
BAD: list[tuple[Request, type[RamoleError], str]] = [
    (Request(), InvalidInput, "prompt"),
    (Request(prompt=" \n"), InvalidInput, "prompt"),
    (Request(prompt="x" * 101), InvalidInput, "prompt"),
    (Request(prompt="x", composition=common_pb2.Composition(k=9)), InvalidInput, "composition.k"),
    (Request(prompt="x", composition=common_pb2.Composition(tau=0)), InvalidInput, "composition.tau"),
    (Request(prompt="x", composition=common_pb2.Composition(tau=float("nan"))), InvalidInput, "composition.tau"),
    (Request(prompt="x", composition=common_pb2.Composition(spread=1.5)), InvalidInput, "composition.spread"),
    (Request(prompt="x", composition=common_pb2.Composition(scale=float("inf"))), InvalidInput, "composition.scale"),
    (Request(prompt="x", composition=common_pb2.Composition(preset=99)), InvalidInput, "composition.preset"),  # type: ignore[arg-type]
    (Request(prompt="x", composition=common_pb2.Composition(weighting=99)), InvalidInput, "composition.weighting"),  # type: ignore[arg-type]
    (Request(prompt="x", composition=common_pb2.Composition(merge=99)), InvalidInput, "composition.merge"),  # type: ignore[arg-type]
    (
        Request(prompt="x", composition=common_pb2.Composition(weighting=common_pb2.WEIGHTING_EXPLICIT)),
        InvalidInput,
        "adapters",
    ),
    (Request(prompt="x", sampling=common_pb2.Sampling(max_tokens=10**6)), InvalidInput, "sampling.max_tokens"),
    (Request(prompt="x", fallback=99), InvalidInput, "fallback"),  # type: ignore[arg-type]
    (Request(prompt="x", adapters=[Adapter(adapter="a")] * 9), InvalidInput, "adapters"),
    (
        Request(prompt="x", adapters=[Adapter(adapter="a"), Adapter(adapter="../x")]),
        InvalidInput,
        "adapters[1].adapter",
    ),
    (Request(prompt="x", adapters=[Adapter(adapter="a", weight=float("nan"))]), InvalidInput, "adapters[0].weight"),
    (Request(prompt="x", adapters=[Adapter(adapter="a", scale=float("-inf"))]), InvalidInput, "adapters[0].scale"),
    (Request(prompt="x", adapters=[Adapter(adapter="a"), Adapter(adapter="none")]), NotFound, "adapters[1].adapter"),
    (Request(prompt="x", adapters=[Adapter(adapter="a@7")]), NotFound, "adapters[0].adapter"),
    (Request(prompt="x", adapters=[Adapter(adapter="foreign")]), WrongState, "adapters[0].adapter"),
    (Request(prompt="x", base_model="other/base"), WrongState, "base_model"),
]


@pytest.mark.parametrize(("request_", "kind", "field"), BAD, ids=[f"{i}-{case[2]}" for i, case in enumerate(BAD)])
async def test_a_bad_request_names_the_field_and_the_remedy(
    world: World, request_: Request, kind: type[RamoleError], field: str
) -> None:
    from ramole.transport.errors import from_rpc_error

    world.adapters.add("foreign", base="other/base")
    async with grpc.aio.insecure_channel(world.servers["gateway"].address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await anext(aiter(GatewayStub(channel).Generate(request_)))
    error = from_rpc_error(caught.value)
    assert type(error) is kind
    assert error.field == field
    assert error.remedy
    assert "Execute" not in world.log
