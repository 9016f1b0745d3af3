"""The log level changes while a server runs, by a file; lines stay what they are."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ramole.app.system import System, run
from ramole.cli import app
from ramole.core.call import CallContext, call_scope
from ramole.core.errors import Corrupt, InvalidInput
from ramole.core.settings import LoggingSettings, PlainSettings, Settings
from ramole.observability.levels import LEVELS, LevelFile
from ramole.observability.logs import ACCESS_LOGGER, ROOT_LOGGER

log = logging.getLogger("ramole.x")


@pytest.fixture
def restored() -> Iterator[None]:
    loggers = [logging.getLogger(ROOT_LOGGER), logging.getLogger(ACCESS_LOGGER)]
    before = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, handlers, level, propagates in before:
        logger.handlers[:], logger.propagate = handlers, propagates
        logger.setLevel(level)


class Idle:
    """A system that does nothing."""

    address = http_address = ""

    async def stop(self) -> None: ...


async def until_level(level: str) -> None:
    async with asyncio.timeout(30):
        while logging.getLogger(ROOT_LOGGER).level != logging.getLevelName(level.upper()):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def running(settings: Settings) -> asyncio.Task[None]:
    ready = asyncio.Event()

    async def start(_: Settings) -> System:
        return Idle()

    task = asyncio.create_task(run(start, settings, lambda _: ready.set()))
    await ready.wait()
    return task


async def test_a_running_system_follows_the_file(
    restored: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    file = LevelFile(tmp_path / "data")
    settings = PlainSettings(data_dir=tmp_path / "data", logging=LoggingSettings(level="warning", access=False))
    task = await running(settings)
    await until_level("warning")
    log.info("too little")
    logging.getLogger(ACCESS_LOGGER).info("call")
    file.write("debug")
    await until_level("debug")
    with call_scope(CallContext.begin("r-1")):
        log.debug("in a call")
    file.path.write_text("loud")
    async with asyncio.timeout(30):
        while "stays as it was" not in stream.getvalue():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    log.debug("still")
    file.write("")
    await until_level("warning")
    log.info("too little again")
    os.kill(os.getpid(), signal.SIGTERM)
    await task
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["message"] for line in lines if line["logger"] == "ramole.x"] == ["in a call", "still"]
    assert [line["message"] for line in lines if "log level is" in line["message"]] == [
        "the log level is debug",
        "the log level is warning",
    ]
    assert [line["request_id"] for line in lines if line["message"] == "in a call"] == ["r-1"]
    assert ACCESS_LOGGER not in [line["logger"] for line in lines]


@pytest.mark.parametrize("level", LEVELS)
def test_the_command_sets_and_resets_it(level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAMOLE_DATA_DIR", str(tmp_path))
    file = tmp_path / "log-level"

    def told(*args: str) -> dict[str, str]:
        done = CliRunner().invoke(app, ["log-level", *args, "--json"])
        assert done.exit_code == 0, done.output
        found: dict[str, str] = json.loads(done.stdout)
        return found

    assert told() == {"level": "info", "setting": "info", "file": None}
    assert told(level) == told() == {"level": level, "setting": "info", "file": str(file)}
    assert LevelFile(tmp_path).read() == level
    assert told("--reset") == {"level": "info", "setting": "info", "file": None}


def test_what_is_no_level_is_refused(tmp_path: Path) -> None:
    file = LevelFile(tmp_path)
    for wrong in ("loud", "INFO", "debug\n", "é"):
        with pytest.raises(InvalidInput, match="is no level"):
            file.write(wrong)
    assert file.read() == ""
    for content in (b"loud", b"\xff", b""):
        file.path.write_bytes(content)
        with pytest.raises(Corrupt, match="cannot be used"):
            file.read()
