"""Each install has what it needs and no more: what is imported where, and what happens in a smaller one."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import AsyncIterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from support.gateway_world import World
from support.installs import ROOT, declared, modules_of, run_with

PACKAGE = ROOT / "services" / "ramole"
RUN = """
import json, sys
from typer.testing import CliRunner
from ramole.cli import app

done = [CliRunner().invoke(app, args) for args in json.loads(sys.argv[1])]
print(json.dumps([(each.exit_code, each.stdout, each.stderr) for each in done]))
"""
# Parts of numba and pydantic; what torch brings where there may be a GPU; a server to measure for whoever has it.
NOT_NAMED = {"llvmlite", "pydantic_core", "triton", "milvus"}
# Below the Trainer of transformers, and below torch's export.
NOT_IMPORTED = {"accelerate", "gguf", "onnx"}


async def outcomes(installed: str, *commands: tuple[str, ...]) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of each of these, where `ramole[installed]` is all there is."""
    code, out, err = await run_with(modules_of(installed), RUN, json.dumps(commands))
    assert code == 0, err
    found: list[tuple[int, str, str]] = [tuple(each) for each in json.loads(out)]
    return found


def imported(path: Path) -> set[str]:
    """Top-level modules of other packages that a file imports anywhere."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"ramole"}


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    owners = packages_distributions()
    files = [path for path in PACKAGE.rglob("*.py") if path.parent.name != "v1"]
    used: set[str] = set()
    for path in files:
        extras = ("", "serve", "lab") if "lab" in path.relative_to(PACKAGE).parts else ("", "serve")
        names = {canonicalize_name(each.name) for extra in extras for each in declared(extra)}
        for module in imported(path) - NOT_NAMED:
            its = names & set(map(canonicalize_name, owners.get(module, ())))
            assert its, f"{path.name} imports {module}, which none of {extras} declares"
            used |= its
    everything = {canonicalize_name(each.name) for extra in ("", "serve", "lab") for each in declared(extra)}
    assert everything - used - {"ramole"} == NOT_IMPORTED


def test_the_client_has_an_extra_of_its_name() -> None:
    assert declared("client") == []


async def test_a_client_loads_no_server() -> None:
    code, out, err = await run_with(None, "import ramole.client, sys; print(*sys.modules)")
    assert code == 0, err
    loaded = {name.partition(".")[0] for name in out.split()} - sys.stdlib_module_names
    assert not {"torch", "ray", "pymilvus", "transformers", "numpy", "pydantic", "prometheus_client"} & loaded
    # gRPC itself tries to import its own further packages.
    assert {name for name in loaded if not name.startswith(("grpc", "_"))} <= {
        *("ramole", "google", "typing_extensions", "cython_runtime")
    }


async def test_a_client_only_install_has_a_client() -> None:
    calls = """
import asyncio, ramole, ramole.cli, ramole.client

async def main():
    async with ramole.RamoleClient("127.0.0.1:1", timeout_s=5, retries=0) as client:
        await client.complete("a prompt")

try:
    asyncio.run(main())
except ramole.Unavailable as error:
    print(error.remedy)
try:
    ramole.OfflineEngine
except ImportError as error:
    print(error)
"""
    code, out, err = await run_with(modules_of(), calls)
    assert code == 0, err
    remedy, lacking = out.splitlines()
    assert "check the address" in remedy
    assert lacking.endswith("pip install 'ramole[serve]'")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    world.give("a")
    await world.start_neighbours()
    await world.start_gateway()
    yield world
    await world.stop()


async def test_the_commands_of_a_client_need_no_more(world: World, tmp_path: Path) -> None:
    for file in ("adapter_config.json", "adapter_model.safetensors", "samples.txt"):
        (tmp_path / file).write_text("{}")
    upload = ("upload", str(tmp_path), "--samples", str(tmp_path / "samples.txt"), "--samples-format", "lines")
    served = {
        ("adapters", "--json"): '"default/a@1"',
        ("adapters", "show", "a"): "sample of a",
        ("generate", "a prompt", "--json"): '"adapters"',
        ("route", "a prompt"): "default/a@1",
    }
    at = ("--address", world.servers["gateway"].address)
    for shown, (code, out, err) in zip(
        served.values(), await outcomes("", *((*args, *at) for args in served)), strict=True
    ):
        assert code == 0, err
        assert shown in out
    for code, out, err in await outcomes("", *((*args, "--address", "127.0.0.1:1") for args in (upload, ("reindex",)))):
        assert (code, out) == (1, "")
        assert "check the address" in err


@pytest.mark.parametrize("installed", ["", "serve"])
async def test_a_command_names_the_extra_that_it_lacks(installed: str) -> None:
    lacking = {
        ("evaluate",): "lab",
        ("bench", "executor"): "lab",
        ("bench", "repository"): "lab",
        ("train", "router", "--out", "x"): "lab",
        ("train", "retriever", "--out", "x"): "lab",
        ("zoo", "build", "--out", "x"): "lab",
    }
    if not installed:
        lacking |= {("serve",): "serve", ("demo", "--local"): "serve"}
    for extra, (code, out, err) in zip(lacking.values(), await outcomes(installed, *lacking), strict=True):
        assert (code, out) == (1, "")
        assert err.startswith("error: this command needs ")
        assert err.endswith(f": pip install 'ramole[{extra}]'\n")
        assert err.count("\n") == 1
