"""What cannot be sent is refused by the field's name, before anything is sent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from ramole.client.client import RamoleClient
from ramole.core.errors import InvalidInput
from ramole.core.sampling import Sampling

HALF = "a\udcff"


async def generate(client: RamoleClient, **options: Any) -> None:
    await client.complete(**{"prompt": "x", **options})


def folder(tmp_path: Path) -> Path:
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_bytes(b"{}")
    return tmp_path


CALLS: dict[str, tuple[Callable[[RamoleClient, Path], Awaitable[Any]], str]] = {
    "prompt": (lambda c, _: generate(c, prompt=HALF), "prompt"),
    "named adapter": (lambda c, _: generate(c, adapters=["b", HALF]), "adapters[1].adapter"),
    "stop": (lambda c, _: generate(c, sampling=Sampling(stop=("x", HALF))), "sampling.stop[1]"),
    "route": (lambda c, _: c.route(HALF), "prompt"),
    "k": (lambda c, _: c.route("x", k=-1), "k"),
    "samples": (lambda c, path: c.upload(folder(path), ["x", HALF]), "samples[1]"),
    "name": (lambda c, path: c.upload(folder(path), ["x"], adapter=HALF), "adapter"),
    "base": (lambda c, path: c.upload(folder(path), ["x"], base_model=HALF), "base_model"),
    "key": (lambda c, path: c.upload(folder(path), ["x"], idempotency_key=HALF), "idempotency_key"),
    "source": (lambda c, _: c.upload(f"hf://{HALF}", ["x"], adapter="a"), "source"),
    "version": (lambda c, path: c.upload(folder(path), ["x"], expected_version=2**70), "expected_version"),
    "get": (lambda c, _: c.get(HALF), "adapter"),
    "comment": (lambda c, _: c.delete("a", comment=HALF), "comment"),
    "revocation": (lambda c, _: c.revoke("a", comment=HALF), "comment"),
    "tenant": (lambda c, _: anext(c.adapters(tenant=HALF)), "tenant"),
    "folder": (lambda c, path: c.upload(path / HALF, ["x"]), "folder"),
}


@pytest.mark.parametrize("case", CALLS)
async def test_half_a_character_or_a_number_out_of_range_names_its_field(case: str, tmp_path: Path) -> None:
    call, field = CALLS[case]
    async with RamoleClient("127.0.0.1:1", timeout_s=5, retries=0) as client:
        with pytest.raises(InvalidInput) as caught:
            await call(client, tmp_path)
    assert caught.value.field == field
    assert caught.value.remedy
    str(caught.value).encode()


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("http://127.0.0.1:50051", "http://"),
        ("localhost", "no port"),
        ("[::1]", "no port"),
        ("", "no port"),
        (":50051", "no host"),
        ("::1:50051", "brackets"),
        ("localhost:none", "'none'"),
        ("localhost:0", "'0'"),
        ("localhost:65536", "'65536'"),
        ("local host:1", "' '"),
        ("host/path:1", "'/'"),
        ("h\udcff:1", "udcff"),
    ],
)
def test_an_address_says_which_rule_it_breaks(address: str, says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        RamoleClient(address)
    assert says in caught.value.message
    assert caught.value.field == "address"
    assert "host:port" in caught.value.remedy


@pytest.mark.parametrize("address", ["127.0.0.1:1", "[::1]:50051", "ramole.example:443", "dns:///ramole:50051"])
async def test_an_address_of_every_kind_is_taken(address: str) -> None:
    async with RamoleClient(address):
        pass
