"""Random repositories of several tenants: what each principal gets through every door is what a plain rule says."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ramole.core.call import Principal
from ramole.core.errors import NotFound
from ramole.v1 import gateway_pb2
from support.tenant_world import ANN, BOB, EVE, TenantWorld, names

STRANGER = Principal("z", "zoe")


@dataclass(frozen=True)
class Upload:
    name: str
    number: int
    is_public: bool


@dataclass(frozen=True)
class Delete:
    name: str
    is_all: bool


@dataclass
class Model:
    """The rule: own versions, and public ones of names whose latest version is public."""

    live: dict[str, dict[int, tuple[bool, int]]] = field(default_factory=dict)
    gone: dict[str, set[int]] = field(default_factory=dict)

    def upload(self, step: Upload) -> None:
        live = self.live.setdefault(step.name, {})
        if live and live[max(live)] == (step.is_public, step.number):
            return
        live[max([0, *live, *self.gone.get(step.name, ())]) + 1] = (step.is_public, step.number)

    def delete(self, step: Delete) -> bool:
        """Whether there was something to delete."""
        live = self.live.get(step.name, {})
        doomed = list(live) if step.is_all else [max(live)] if live else []
        for version in doomed:
            del live[version]
            self.gone.setdefault(step.name, set()).add(version)
        return bool(doomed)

    def visible(self, who: Principal, name: str) -> list[int]:
        live = self.live.get(name, {})
        if may_everything(who, name):
            return sorted(live)
        return [version for version in sorted(live) if live[version][0] and live[max(live)][0]]

    def history(self, who: Principal, name: str) -> list[int]:
        gone = self.gone.get(name, set()) if may_everything(who, name) else set()
        return sorted({*self.visible(who, name), *gone}, reverse=True)

    def retrievable(self, tenant: str) -> set[str]:
        latest = {name: max(live) for name, live in self.live.items() if live}
        return {f"{n}@{v}" for n, v in latest.items() if n.startswith(f"{tenant}/") or self.live[n][v][0]}


def may_everything(who: Principal, name: str) -> bool:
    return name.startswith(f"{who.tenant}/") or "admin" in who.roles


NAMES = st.sampled_from(["a/x", "a/y", "b/x", "b/y", "c/x"])
UPLOADS = st.builds(Upload, NAMES, st.integers(0, 3), st.booleans())
STEPS = st.lists(st.one_of(UPLOADS, UPLOADS, UPLOADS, st.builds(Delete, NAMES, st.booleans())), min_size=2, max_size=7)


@given(STEPS, st.integers(1, 3))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_door_shows_the_same_world(steps: list[Upload | Delete], page_size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(play(Path(folder), steps, page_size))


async def play(folder: Path, steps: list[Upload | Delete], page_size: int) -> None:
    world, model = TenantWorld(folder), Model()
    await world.start()
    try:
        for step in steps:
            if isinstance(step, Upload):
                await world.give(step.name, step.number, is_public=step.is_public)
                model.upload(step)
            else:
                name = step.name if step.is_all else f"{step.name}@{max(model.live.get(step.name, {}), default=1)}"
                refused = await world.refusal(EVE, "DeleteAdapter", gateway_pb2.DeleteAdapterRequest(adapter=name))
                assert (refused is None) == model.delete(step)
        touched = sorted({step.name for step in steps})
        for who in (ANN, BOB, STRANGER, EVE):
            await sees(world, model, who, touched, page_size)
    finally:
        await world.stop()


async def sees(world: TenantWorld, model: Model, who: Principal, touched: list[str], page_size: int) -> None:
    seen = {name: model.visible(who, name) for name in touched}
    assert await world.listed(who, page_size=page_size) == [f"{n}@{v}" for n in touched for v in seen[n]]
    latest = [f"{name}@{max(model.live[name])}" for name in touched if seen[name]]
    assert await world.listed(who, page_size=page_size, latest_only=True) == latest
    [found] = await world.ask(who, "Route", gateway_pb2.RouteRequest(prompt="prompt n0", k=8))
    assert set(names(hit.adapter for hit in found.adapters)) == model.retrievable(who.tenant)
    for name in touched:
        for version in range(max([0, *model.live.get(name, ()), *model.gone.get(name, ())]) + 2):
            asked = f"{name}@{version}" if version else name
            expected = version or max(model.live.get(name, ()), default=0)
            answer = f"{name}@{expected}" if expected in seen[name] else None
            assert await got(world, who, asked) == [answer] * 3, (who.name, asked)
        history = await asked_for(world, who, "GetHistory", gateway_pb2.GetHistoryRequest(adapter=name))
        versions = [entry.adapter.version for answer in history or () for entry in answer.entries]
        assert versions == model.history(who, name), (who.name, name)


async def got(world: TenantWorld, who: Principal, name: str) -> list[str | None]:
    """The version that it is to a reader, a downloader and a prompt; None = it does not exist."""
    used = gateway_pb2.GenerateRequest(prompt="hello", adapters=[gateway_pb2.WeightedAdapter(adapter=name)])
    read = await asked_for(world, who, "GetAdapter", gateway_pb2.GetAdapterRequest(adapter=name))
    sent = await asked_for(world, who, "DownloadAdapter", gateway_pb2.DownloadAdapterRequest(adapter=name))
    said = await asked_for(world, who, "Generate", used)
    return [
        names([read[0].record.adapter])[0] if read else None,
        names([sent[0].header.adapter])[0] if sent else None,
        names([said[0].routing.adapters[0].adapter])[0] if said else None,
    ]


async def asked_for(world: TenantWorld, who: Principal, rpc: str, request: object) -> list[object] | None:
    try:
        return await world.ask(who, rpc, request)
    except NotFound:
        return None
