"""What an endpoint picker reads, as its protocol says it; from a real engine behind a real HTTP port."""

from __future__ import annotations

import time
from collections.abc import Mapping

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ramole.core.composition import Composition
from ramole.core.names import AdapterRef
from ramole.gateway.pool import KV_USAGE, LORA_INFO, RUNNING, WAITING, Pool, SeenNames
from ramole.gateway.values import Choice, Routing
from ramole.v1.executor_pb2 import GetStatusResponse
from support.front_door import front_door

A, B, C = (AdapterRef("acme", name, 1, name * 64) for name in "abc")


def read(text: bytes) -> tuple[dict[str, float], Mapping[str, str], float]:
    """As a picker does: gauges by name, and of the adapters' gauge the sample with the latest time."""
    gauges: dict[str, float] = {}
    infos = []
    for family in text_string_to_metric_families(text.decode()):
        assert family.type == "gauge"
        for sample in family.samples:
            if sample.name == LORA_INFO:
                infos.append(sample)
            else:
                assert not sample.labels
                gauges[sample.name] = sample.value
    latest = max(infos, key=lambda sample: sample.value)
    return gauges, latest.labels, latest.value


def names(*refs: AdapterRef) -> SeenNames:
    seen = SeenNames()
    seen.saw(Routing(tuple(map(Choice, refs)), Composition()))
    return seen


async def test_two_executors_are_one_member_of_the_pool() -> None:
    statuses = [
        GetStatusResponse(
            running=3,
            waiting=1,
            num_slots=8,
            kv_usage=0.5,
            resident_digests=[A.digest, B.digest],
            awaited_digests=["?"],
        ),
        GetStatusResponse(
            running=1, num_slots=8, kv_usage=0.25, resident_digests=[A.digest], awaited_digests=[C.digest]
        ),
    ]

    async def ask() -> list[GetStatusResponse]:
        return statuses

    gauges, labels, value = read(await Pool(ask, names(A, B, C), clock=lambda: 5.0).text())
    assert gauges == {WAITING: 1, RUNNING: 4, KV_USAGE: 0.375}
    assert labels == {
        "max_lora": "16",
        "running_lora_adapters": "acme/a,acme/b",
        "waiting_lora_adapters": "acme/c",
    }
    assert value == 5.0


async def test_executors_are_asked_ten_times_a_second_at_most() -> None:
    now_s, asked = 100.0, 0

    async def ask() -> list[GetStatusResponse]:
        nonlocal asked
        asked += 1
        return [GetStatusResponse(running=asked)]

    pool = Pool(ask, SeenNames(), clock=lambda: now_s)
    for step_s, expected in ((0.0, 1), (0.05, 1), (0.06, 2), (-50.0, 3)):  # the clock was set back
        now_s += step_s
        assert read(await pool.text())[0][RUNNING] == expected


def test_names_are_bounded_and_the_latest() -> None:
    seen = SeenNames()
    for number in range(5000):
        seen.saw(Routing((Choice(AdapterRef("t", f"n{number}", 1, str(number))),), Composition()))
    seen.saw(Routing((Choice(AdapterRef("t", "other", 2, "4999")),), Composition()))
    assert seen.of(["0", "4998", "4999", "4999"]) == ["t/n4998", "t/other"]


@pytest.mark.parametrize("is_on", [True, False])
async def test_the_port_tells_it_where_the_setting_allows(is_on: bool) -> None:
    async with front_door(http={"pool_metrics": is_on}) as door, door.http() as http:
        answer = await http.get("/metrics/pool")
        if not is_on:
            assert answer.status_code == 404
            return
        gauges, labels, value = read(answer.content)
        assert gauges.keys() == {WAITING, RUNNING, KV_USAGE}
        assert labels["running_lora_adapters"] == ""  # nothing was used yet
        assert abs(value - time.time()) < 60
