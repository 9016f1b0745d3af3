"""`chat`, `generate --why` and completion, as a person or a pipe uses them."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ramole.cli._why import layer_bar
from ramole.core.errors import WrongState
from support.world_thread import WorldThread, world_thread

RAMOLE = str(Path(sys.executable).with_name("ramole"))
SECONDS = re.compile(r"\d+\.\d{3} s")


@pytest.fixture(scope="module")
def shared() -> Iterator[WorldThread]:
    with world_thread() as thread:
        yield thread


@pytest.fixture
def world(shared: WorldThread) -> WorldThread:
    shared.world.executor.requests.clear()
    shared.world.executor.gates.clear()
    return shared


def ramole(world: WorldThread, *args: str, typed: str = "", code: int = 0, **env: str) -> tuple[str, str]:
    """Stdout and stderr of a command that ends with `code`."""
    done = subprocess.run(
        [RAMOLE, *args],
        env=os.environ | {"RAMOLE_ADDRESS": world.address} | env,
        input=typed,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return SECONDS.sub("# s", done.stdout), done.stderr


WHY = """\
hello
┏━━━━━━━━━━━━━┳━━━━━━━━━━━━┳━━━━━━━━┳━━━━━━━━━━┓
┃ adapter     ┃ similarity ┃ weight ┃ by layer ┃
┡━━━━━━━━━━━━━╇━━━━━━━━━━━━╇━━━━━━━━╇━━━━━━━━━━┩
│ default/b@1 │ 0.00       │ 0.25   │ ▃▅       │
└─────────────┴────────────┴────────┴──────────┘
3 tokens in, 1 out (length); found in # s, queued # s, first token after # s, all after # s; in a batch of up to 4 \
requests and 5 adapters
"""


def test_an_answer_says_what_it_was_made_of(world: WorldThread) -> None:
    assert ramole(world, "generate", "hello", "--adapter", "b", "--why") == (WHY, "")
    out, _ = ramole(world, "generate", "hello", "--k", "0", "--why")
    assert "the base model alone\n" in out


def test_a_pipe_gives_one_turn_a_line_and_the_conversation_is_kept(world: WorldThread) -> None:
    out, err = ramole(world, "chat", "--system", "be brief", "--adapter", "a", typed="hello [/x]\n\nand you\n/why\n")
    first, second, *why = out.splitlines()
    assert first == "bebriefhello[/x]"
    assert second == "bebriefhello[/x]bebriefhello[/x]andyou"
    assert "default/a@1" in "\n".join(why)
    assert not err
    said = [[(turn.role, turn.content) for turn in request.messages] for request in world.world.executor.requests]
    assert said == [
        [("system", "be brief"), ("user", "hello [/x]")],
        [("system", "be brief"), ("user", "hello [/x]"), ("assistant", first), ("user", "and you")],
    ]


def test_adapters_are_listed_pinned_and_left_to_retrieval(world: WorldThread) -> None:
    lines = ["/use b c", "/adapters", "one", "/auto", "/adapters a", "two", "/reset", "three", "/quit", "never said"]
    out, err = ramole(world, "chat", typed="\n".join(lines))
    assert out.splitlines() == [
        *("  default/a@1", "* default/b@1", "* default/c@1"),
        "one",
        "  default/a@1",
        "oneonetwo",
        "three",
    ]
    assert err.splitlines() == ["every answer uses default/b@1, default/c@1", "retrieval chooses", "forgotten"]
    pinned, _, after_reset = world.world.executor.requests
    assert len(pinned.experts) == 2
    assert len(after_reset.messages) == 1


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("/nothing", "error: no command /nothing (use /adapters, /use, /auto, /why, /reset, /help or /quit)"),
        ("/use", "error: which adapters? (name them: /use NAME...)"),
        ("/use nobody", "error: adapter: "),
        ("x" * 101, "error: messages: "),
    ],
)
def test_the_first_error_of_a_pipe_ends_it(world: WorldThread, line: str, says: str) -> None:
    out, err = ramole(world, "chat", typed=f"{line}\nhello\n", code=1)
    assert out == ""
    assert err.startswith(says)
    assert err.count("\n") == 1


def test_a_base_without_a_template_is_said_to_be_one(world: WorldThread) -> None:
    lacking = WrongState("the base model has no chat template", field="messages", remedy="send a prompt")
    world.world.executor.failures["Execute"] = [lacking]
    _, err = ramole(world, "chat", typed="hello\n", code=1)
    assert err == "error: messages: the base model has no chat template (send a prompt)\n"


class Terminal:
    """`ramole chat` at a terminal."""

    def __init__(self, world: WorldThread) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [RAMOLE, "chat", "--adapter", "a"],
            env=os.environ | {"RAMOLE_ADDRESS": world.address, "TERM": "dumb"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.seen = ""

    def until(self, what: str) -> None:
        """Reads until the terminal shows it; forgets what stood before its end."""
        while what not in self.seen:
            assert select.select([self._ours], [], [], 30)[0], f"no {what!r} in {self.seen!r}"
            self.seen += os.read(self._ours, 2**12).decode()
        self.seen = self.seen.partition(what)[2]

    def type(self, line: str) -> None:
        os.write(self._ours, line.encode())

    def close(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._ours)


def test_a_terminal_goes_on_after_errors_and_ctrl_c_ends_the_answer_alone(world: WorldThread) -> None:
    terminal = Terminal(world)
    try:
        terminal.until("> ")
        terminal.type("/why\n")
        terminal.until("there is no answer yet")
        terminal.until("> ")
        terminal.type("/nothing\n")
        terminal.until("no command /nothing")
        terminal.until("> ")
        world.gate("step")
        terminal.type("first second\n")
        terminal.until("first second\r\n")
        terminal.until("first")
        terminal.process.send_signal(signal.SIGINT)
        terminal.until("> ")
        world.until_idle()
        world.open("step")
        terminal.type("hello\n")
        terminal.until("hello\r\n")
        terminal.until("hello\r\n")
        assert [turn.content for turn in world.world.executor.requests[-1].messages] == ["hello"]
        terminal.until("> ")  # an end typed before it is asked for is lost
        terminal.type("\x04")
        assert terminal.process.wait(30) == 0
    finally:
        terminal.close()


def test_bars_are_as_high_as_the_weights() -> None:
    assert layer_bar([0.0, 0.125, 0.5, 0.99, 1.0, 2.0, -0.5]) == "▁▂▅████▅".replace("████", "███")
    assert layer_bar([]) == ""


@pytest.mark.parametrize(
    ("words", "offers"),
    [
        ("ramole adapters show ", ["a", "b", "c"]),
        ("ramole adapters delete b", ["b"]),
        ("ramole generate x --adapter default/", ["default/a", "default/b", "default/c"]),
        ("ramole chat --adapter nobody", []),
        ("ramole logi", ["login"]),
    ],
)
def test_tab_offers_what_the_server_has(world: WorldThread, words: str, offers: list[str]) -> None:
    number = str(len(words.split(" ")) - 1)
    env = {"_RAMOLE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": number}
    out, err = ramole(world, **env)
    assert out.split() == offers
    assert not err
    out, err = ramole(world, **env | {"RAMOLE_ADDRESS": "127.0.0.1:1"})
    assert (out.split() if "log" not in words else [], err) == ([], "")


def test_completion_installs_itself(world: WorldThread, tmp_path: Path) -> None:
    (tmp_path / ".bashrc").touch()
    ramole(world, "--install-completion", "bash", HOME=str(tmp_path), _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    [script] = (tmp_path / ".bash_completions").iterdir()
    assert "_RAMOLE_COMPLETE=complete_bash" in script.read_text()
    assert str(script) in (tmp_path / ".bashrc").read_text()
