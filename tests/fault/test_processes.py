"""kill -9 and SIGSTOP of each kind of process, under load, with two of everything that may be two."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator

import pytest

from ramole.lab.chaos.traffic import Traffic
from ramole.zoo.catalog import Zoo
from statuses import ROWS
from support.fault_report import Row, row_of
from support.fleet import Fleet
from support.traffic_world import following

pytestmark = pytest.mark.fault

CODES = frozenset(row.kind.reason() for row in ROWS)
CALM_S, AFTER_S = 3.0, 25.0


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, zoo: Zoo) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path_factory.mktemp("fleet"), zoo).wait_until_serving()
    yield fleet
    assert not fleet.stop(), "processes outlived the server"


def kill_one(service: str) -> Callable[[Fleet], None]:
    return lambda fleet: fleet.processes(service)[0].kill()


def stop_one(service: str) -> Callable[[Fleet], None]:
    """It stands still, with its connections open, and never comes back by itself."""
    return lambda fleet: fleet.processes(service)[0].send_signal(signal.SIGSTOP)


def kill_named(title: str) -> Callable[[Fleet], None]:
    def kill(fleet: Fleet) -> None:
        for process in fleet.named(title):
            process.kill()

    return kill


# Fault, what strikes, seconds for which requests may fail (0: none may).
FAULTS: dict[str, tuple[Callable[[Fleet], None], float]] = {
    "kill -9 of an executor": (kill_one("executor"), 0),
    "kill -9 of an embedding replica": (kill_one("embedding"), 0),
    "kill -9 of a gateway": (kill_one("gateway"), 0),
    "kill -9 of the adapter store": (kill_one("adapters"), 40),
    "kill -9 of retrieval, its index in a folder": (kill_one("retrieval"), 40),
    "SIGSTOP of an executor": (stop_one("executor"), 15),
    "SIGSTOP of a gateway": (stop_one("gateway"), 15),
    "kill -9 of Serve's controller": (kill_named("ServeController"), 0),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_requests_live_through(fault: str, fleet: Fleet, add_row: Callable[[Row], None]) -> None:
    strike, bound_s = FAULTS[fault]
    async with following(fleet.gateways) as service:
        traffic = Traffic(service.address, fleet.tenants, CODES)
        await traffic.set_up()
        async with traffic.running():
            await asyncio.sleep(CALM_S)
            since_s = traffic.now_s
            strike(fleet)
            await asyncio.sleep(AFTER_S)
            await asyncio.to_thread(fleet.wait_until_serving)
            await asyncio.sleep(CALM_S)
        await traffic.close()
    history = traffic.history
    row = row_of(fault, history, since_s, f"{bound_s:.0f} s" if bound_s else "none fails")
    add_row(row)
    assert list(history.complaints()) == []
    assert row.requests
    assert row.recovery_s <= bound_s, row.codes
