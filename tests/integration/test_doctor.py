"""The doctor looks at a real system before, while and after it runs: it says what is there, and changes nothing."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from ramole.app.doctor import Access, Case, Finding, Verdict, examine, keeping
from ramole.app.resolution import resolve
from ramole.client import RamoleClient
from ramole.core.settings import (
    EmbeddingSettings,
    GatewaySettings,
    HttpSettings,
    PlainSettings,
    PublicServerSettings,
    Settings,
)
from ramole.zoo.catalog import load_zoo
from support.local_system import local_system


async def looked(settings: Settings, address: str = "") -> dict[str, Finding]:
    found = [checked async for checked in examine(lambda: settings, Access(address))]
    assert len({checked.name for checked in found}) == len(found)
    return {checked.name: checked.finding for checked in found}


def not_ok(found: dict[str, Finding]) -> dict[str, str]:
    return {name: finding.says for name, finding in found.items() if finding.verdict is not Verdict.OK}


def kept(case: Case) -> dict[str, Finding]:
    """The checks of what is kept, which need no model."""
    return {check.__name__: check(case) for check in (keeping.data_folder, keeping.store, keeping.index)}


async def test_a_system_before_while_and_after_it_runs(tmp_path: Path) -> None:
    zoo, data = load_zoo(), tmp_path / "data"
    gateway = GatewaySettings(server=PublicServerSettings(port=0), http=HttpSettings(port=0))
    embedding = EmbeddingSettings(retriever="", runtime="torch")
    settings = resolve(PlainSettings(data_dir=data, gateway=gateway, embedding=embedding))
    case = Case(settings, Access())
    assert not not_ok(kept(case))
    assert not data.exists(), "it only looks"
    async with local_system(data, embedding=settings.embedding) as system:
        async with RamoleClient(system.address) as client:
            adapter = zoo.adapters[0]
            await client.upload(adapter.path, adapter.samples)
        found = await looked(settings, system.address)
        assert not not_ok(found)
        assert f"{system.address} serves {zoo.base_id}" in found["server"].says
        assert "a server runs here" in found["ports"].says
        assert "open in the running server" in found["index"].says
        assert " s ahead" in found["clock"].says or " s behind" in found["clock"].says
        async with RamoleClient(system.address) as client:
            assert (await client.route("x")).adapters, "it was not disturbed"
    files = sorted(path.relative_to(data) for path in data.rglob("*"))
    case = Case(settings, Access(), encoder_id=found["encoder"].says.partition(":")[0])
    found = await asyncio.to_thread(kept, case)
    assert not not_ok(found)
    assert found["index"].says == f"1 adapters by {case.encoder_id}, as in the store"
    assert sorted(path.relative_to(data) for path in data.rglob("*")) == files
    case = Case(settings, Access(), encoder_id="another")
    found = await asyncio.to_thread(kept, case)
    assert (found["index"].verdict, found["index"].field) == (Verdict.FAILED, "embedding.encoder")
    assert "ramole reindex" in found["index"].remedy
    shutil.rmtree(data / "store" / "manifests")
    case = Case(settings, Access())
    assert "0 of the store are missing, 1 are not in the store" in not_ok(await asyncio.to_thread(kept, case))["index"]
