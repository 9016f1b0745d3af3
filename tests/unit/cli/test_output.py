"""What users wrote is printed as written, by every command, in a process of its own; a wrong argument is named."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ramole.cli import app
from ramole.lora.digest import content_digest
from support.gateway_world import World, key_of

HOSTILE = "[/x] [wip] [red]red :smile: \x1b[31m\u202e\r\x07 naïve 漢 " + "long " * 40 + "end"
SHOWN = "[/x] [wip] [red]red :smile: \\x1b[31m\\u202e\\r\\x07 naïve 漢 " + "long " * 40 + "end"
NAME = "[b]n:key:"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    for name in ("plain", NAME):
        ref = world.adapters.add(name)
        world.retrieval.add(ref)
        record = world.adapters.records[key_of(ref)]
        record.source = HOSTILE
        record.samples[:] = [HOSTILE]
    await world.start_neighbours()
    await world.start_gateway()
    world.adapters.remove(world.adapters.add("plain", 2), "revoked", HOSTILE)
    yield world
    await world.stop()


async def ramole(
    world: World, *args: str | bytes | Path, code: int = 0, env: dict[str, str] | None = None
) -> tuple[str, str]:
    """Stdout and stderr of a command that ends with `code`."""
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("ramole")),
        *args,
        env=os.environ | {"RAMOLE_ADDRESS": world.servers["gateway"].address} | (env or {}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == code, err.decode()
    assert b"Traceback" not in err
    assert not {"\x1b", "\r", "\x07", "\u202e"} & set((out + err).decode())
    return out.decode(), err.decode()


async def test_tables_keep_every_character_and_every_row_on_its_line(world: World) -> None:
    out, _ = await ramole(world, "adapters", "history", "plain")
    rows = [line for line in out.splitlines() if "default/plain" in line]
    assert len(rows) == 2
    assert all(SHOWN in row for row in rows)
    out, _ = await ramole(world, "adapters")
    assert f"default/{NAME}@1" in out
    out, _ = await ramole(world, "adapters", "--json")
    assert f"default/{NAME}@1" in [row["adapter"] for row in json.loads(out)]
    out, _ = await ramole(world, "adapters", "show", "plain@1")
    shown = json.loads(out)
    assert (shown["source"], shown["samples"]) == (HOSTILE, [HOSTILE])


async def test_a_terminal_gets_no_code_but_our_own(world: World) -> None:
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("ramole")),
        *("adapters", "history", "plain"),
        env=os.environ | {"RAMOLE_ADDRESS": world.servers["gateway"].address, "COLUMNS": "1000"},
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    seen = b""
    while data := await asyncio.to_thread(_read, ours):
        seen += data
    os.close(ours)
    assert await process.wait() == 0
    assert SHOWN in seen.decode()
    assert not {code for code in ("\x1b[31m", "\u202e", "\x07") if code in seen.decode()}


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 2**16)
    except OSError:  # the last one on the other side has gone
        return b""


async def test_answers_routes_and_removals_too(world: World) -> None:
    out, err = await ramole(world, "generate", "[/x] [wip] :smile: \x1b[31m\u202e", "--k", "2")
    assert out.strip() == "[/x][wip]:smile:\\x1b[31m\\u202e"
    assert f"default/{NAME}@1" in err
    out, _ = await ramole(world, "route", "[/x]", "--k", "2")
    assert f"default/{NAME}@1" in out
    out, _ = await ramole(world, "adapters", "rollback", "plain@1")
    assert "from plain@1" in out
    out, _ = await ramole(world, "adapters", "delete", "plain", "--comment", HOSTILE)
    assert "default/plain@1 is deleted" in out
    assert world.adapters.removals[-1].comment == HOSTILE


async def test_an_error_is_one_line_with_what_was_given(world: World) -> None:
    _, err = await ramole(world, "adapters", "show", f"[/x] {'long ' * 20}:smile:", code=1)
    assert err.count("\n") == 1
    assert f"'[/x] {'long ' * 20}:smile:'" in err
    _, err = await ramole(world, "upload", "[/x]\x1b:smile:", "--samples", __file__, code=1)
    assert "there is no folder [/x]\\x1b:smile:" in err
    _, err = await ramole(world, "generate", NO_TEXT, code=1)
    assert err.startswith("error: prompt: ")
    _, err = await ramole(world, "adapters", "show", "a" * 65, code=1)
    assert err.startswith("error: adapter: ")


async def test_an_upload_says_what_it_read(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (folder / name).write_text("{}")
    samples = tmp_path / "samples.txt"
    samples.write_text("[/x] \x1b:smile:\nof two lines\n\nsecond\n")
    out, err = await ramole(world, "upload", folder, "--samples", samples)
    assert "default/mine@1 is live" in out
    assert "2 samples from samples.txt (paragraphs), the first: [/x] \\x1b:smile:\\nof two lines\n" in err
    assert "--samples-format lines it would be 3" in err
    _, err = await ramole(world, "upload", folder, "--samples", samples, "--samples-format", "lines")
    assert "3 samples from samples.txt (lines)" in err
    samples.write_bytes("grüße\n".encode("latin-1"))
    _, err = await ramole(world, "upload", folder, "--samples", samples, code=1)
    assert "--samples: samples.txt is not UTF-8: byte 2 (line 1) is 0xfc (convert it" in err
    _, err = await ramole(world, "upload", folder, "--samples", tmp_path / "none", code=1)
    assert "--samples: there is no file" in err


NO_TEXT = b"a\xff"
ARGUMENTS: dict[str, tuple[list[str | bytes], str]] = {
    "prompt": (["generate", NO_TEXT], "prompt"),
    "adapter": (["generate", "x", "--adapter", NO_TEXT], "adapters[0].adapter"),
    "stop": (["generate", "x", "--stop", NO_TEXT], "sampling.stop[0]"),
    "preset": (["generate", "x", "--preset", NO_TEXT], "--preset"),
    "route": (["route", NO_TEXT], "prompt"),
    "number": (["route", "x", "--k", "-1"], "k"),
    "tenant": (["adapters", "--tenant", NO_TEXT], "tenant"),
    "name": (["adapters", "history", NO_TEXT], "adapter"),
    "comment": (["adapters", "delete", "plain", "--comment", NO_TEXT], "comment"),
    "address": (["route", "x", "--address", NO_TEXT + b":1"], "address"),
    "folder": (["upload", NO_TEXT, "--samples", __file__], "folder"),
    "scheme": (["route", "x", "--address", "http://127.0.0.1:1"], "address"),
    "empty stop": (["generate", "x", "--stop", ""], "sampling.stop"),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_an_argument_that_is_no_text_or_breaks_a_rule_names_its_field(case: str) -> None:
    """In this process: what differs between the cases is said before anything leaves it."""
    args, field = ARGUMENTS[case]
    done = CliRunner().invoke(app, [os.fsdecode(arg) for arg in args])
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: {field}: ")


async def test_a_terminal_of_another_encoding_gets_escapes(world: World) -> None:
    out, _ = await ramole(world, "generate", "naïve 漢", "--k", "0", env={"PYTHONIOENCODING": "ascii"})
    assert out.strip() == "na\\xefve\\u6f22"


async def test_a_folder_that_cannot_be_written_is_one_line(world: World, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    world.adapters.records["default", "plain", 1].adapter.digest = content_digest(b"{}", memoryview(b"abcd"))
    _, err = await ramole(world, "adapters", "download", "plain@1", tmp_path / "file" / "below", code=1)
    assert err == f"error: {tmp_path / 'file' / 'below'}: Not a directory\n"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("train", "retriever", "--out", "out", "--base", "/no/model"), "--base: there is no folder '/no/model'"),
        (("train", "retriever", "--out", "out", "--fingerprint", "./no"), "--fingerprint: there is no folder './no'"),
        (("train", "retriever", "--out", "out", "--device", "gpu0"), "--device: no device 'gpu0'"),
        (("bench", "executor", "--device", "[/x]"), "--device: no device '[/x]'"),
    ],
)
async def test_what_a_library_would_not_explain_is_refused_before_it_loads(
    world: World, args: tuple[str, ...], says: str
) -> None:
    _, err = await ramole(world, *args, code=1)
    assert err.startswith(f"error: {says}")


async def test_a_variable_that_is_no_text_is_refused_by_its_name(world: World) -> None:
    _, err = await ramole(world, "serve", "--local", env={"RAMOLE_BASE_ID": os.fsdecode(NO_TEXT)}, code=1)
    assert err.startswith("error: RAMOLE_BASE_ID: ")
