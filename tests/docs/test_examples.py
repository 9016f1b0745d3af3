"""What README and the guides show works: commands and Python against one server, settings through their reader."""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ramole.client import RamoleClient
from ramole.core.setting_errors import load_settings
from ramole.core.settings import PlainSettings
from ramole.zoo.catalog import load_zoo
from support.pages import NOT_RUN, Example, examples
from support.server_process import ServerProcess

COMMANDS = [example for example in examples("bash") if example.is_run]
SHOWN_ADDRESS = "127.0.0.1:50051"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    process = ServerProcess(tmp_path_factory.mktemp("docs") / "data", "--local").wait_until_serving()
    yield process
    assert not process.stop(), "processes outlived the server"


@pytest.mark.parametrize("page", dict.fromkeys(example.page for example in COMMANDS), ids=lambda page: page.name)
async def test_the_commands_run(page: Path, server: ServerProcess, tmp_path: Path) -> None:
    pages = list(dict.fromkeys(example.page for example in COMMANDS))
    adapter = load_zoo().adapters[pages.index(page)]  # of its own, since one of the pages revokes it
    shutil.copytree(adapter.path, tmp_path / "my-adapter")
    (tmp_path / "samples.txt").write_text("\n".join(adapter.samples))
    async with RamoleClient(server.address) as client:  # pages after the first show it as uploaded
        await client.upload(tmp_path / "my-adapter", adapter.samples)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    script = "\n".join(example.text for example in COMMANDS if example.page == page)
    done = await asyncio.to_thread(
        subprocess.run,
        ["bash", "-e", "-x", "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PATH": path, "RAMOLE_ADDRESS": server.address, "XDG_CONFIG_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("example", [example for example in examples("python") if example.is_run], ids=str)
async def test_the_python_runs(example: Example, server: ServerProcess, capsys: pytest.CaptureFixture[str]) -> None:
    text = example.text.replace(SHOWN_ADDRESS, server.address)
    code = compile(text, str(example), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if inspect.iscoroutine(running := eval(code, {"__name__": "example"})):
        await running
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("example", examples("yaml"), ids=str)
def test_the_settings_load(example: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "ramole.yaml"
    file.write_text(example.text)
    monkeypatch.setenv("RAMOLE_CONFIG", str(file))
    assert load_settings() != PlainSettings()


def test_what_is_not_run_says_why() -> None:
    for example in (*examples("bash"), *examples("python")):
        assert not example.info or len(example.info) > len(NOT_RUN), example
