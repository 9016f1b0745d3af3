"""`chat`: a conversation with the server, and what each answer was made of."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Annotated

import typer

from ramole.cli._asking import (
    Adapters,
    K,
    MaxTokens,
    Preset,
    Seed,
    Stop,
    Tags,
    Temperature,
    check_preset,
    composition_of,
    needs_default,
)
from ramole.cli._common import DEFAULT_ADDRESS, Address, connect_sync, told, waiting
from ramole.cli._output import complain, note, say, say_piece
from ramole.cli._why import show_why
from ramole.core.chat import Message
from ramole.core.composition import Composition
from ramole.core.errors import InvalidInput, RamoleError
from ramole.core.sampling import Sampling

if TYPE_CHECKING:
    from ramole.client import Routing, SyncRamoleClient, Usage

_PROMPT = "> "
_HELP = """\
/adapters [PREFIX]  what the server has; * = used for every answer
/use NAME...        use these for every answer, whatever retrieval thinks
/auto               let retrieval choose again
/why                what the last answer was made of
/reset              forget what was said
/help               this list
/quit               leave; Ctrl-D too. Ctrl-C ends an answer"""


def chat(
    adapter: Adapters = None,
    preset: Preset = "",
    k: K = None,
    system: Annotated[str, typer.Option(help="What the model is told first.")] = "",
    max_tokens: MaxTokens = None,
    temperature: Temperature = 0.0,
    seed: Seed = None,
    stop: Stop = None,
    tag: Tags = None,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Talk with the server; /help lists what can be asked about the answers.

    From a pipe each line is one turn, and the first error ends it.
    """
    with told(), connect_sync(address) as client:
        check_preset(preset)
        if adapter and tag:
            raise InvalidInput("tags, and nothing is retrieved", field="--tag", remedy="leave out --tag or --adapter")
        default = client.describe().default_composition if needs_default(preset, k) else None
        talk = Talk(
            client,
            adapter or [],
            system,
            Sampling(max_tokens=max_tokens, temperature=temperature, seed=seed, stop=tuple(stop or ())),
            composition_of(preset, k, default),
            tag or [],
        )
        if not sys.stdin.isatty():
            for line in sys.stdin:
                if not talk.take(line.strip()):
                    return
            return
        note("/help lists the commands")
        for line in _typed():
            try:
                if not talk.take(line.strip()):
                    return
            except RamoleError as error:
                complain(" ".join(str(error).split()))
            except KeyboardInterrupt:
                say("")


class Talk:
    """A conversation. What failed, or was broken off, has not been said.

    Args:
        adapters: used for every answer; empty = retrieval chooses.
        system: what the model is told first; '' = nothing.
        composition: None = the server's default.
        tags: what retrieval looks among.
    """

    def __init__(
        self,
        client: SyncRamoleClient,
        adapters: list[str],
        system: str,
        sampling: Sampling,
        composition: Composition | None,
        tags: list[str],
    ) -> None:
        self._client = client
        self._adapters = adapters
        self._first = [Message("system", system)] if system else []
        self._said = list(self._first)
        self._sampling = sampling
        self._composition = composition
        self._tags = tags
        self._last: tuple[Routing, Usage] | None = None
        self._commands: dict[str, Callable[[list[str]], None]] = {
            "/adapters": self._list,
            "/use": self._use,
            "/auto": self._auto,
            "/why": self._why,
            "/reset": self._reset,
            "/help": lambda _: say_piece(f"{_HELP}\n"),
        }

    def take(self, line: str) -> bool:
        """Answers one line, or does what it commands; false when that is to leave.

        Raises:
            RamoleError: of the server, or for a command that is none.
        """
        if not line.startswith("/"):
            if line:
                self._answer(line)
            return True
        name, *words = line.split()
        if name == "/quit":
            return False
        if name not in self._commands:
            raise InvalidInput(f"no command {name}", remedy=f"use {', '.join(self._commands)} or /quit")
        self._commands[name](words)
        return True

    def _answer(self, line: str) -> None:
        from ramole.client import Chunk, Routing

        asked = [*self._said, Message("user", line)]
        text = ""
        events = self._client.generate(
            messages=asked,
            adapters=self._adapters,
            composition=self._composition,
            sampling=self._sampling,
            tags=[] if self._adapters else self._tags,  # those of /use are not looked for
        )
        with closing(events), waiting("waiting for the answer") as has_come:
            for event in events:
                if isinstance(event, Chunk):
                    has_come()
                    text += event.text
                    say_piece(event.text)
                elif isinstance(event, Routing):
                    routing = event
                else:
                    self._last = (routing, event)
        say("")
        # A template takes no empty turn; of an answer without text nothing is left to go on from.
        self._said = [*asked, Message("assistant", text)] if text.strip() else self._said

    def _list(self, words: list[str]) -> None:
        prefix = words[0] if words else ""
        for record in self._client.adapters(name_prefix=prefix, latest_only=True):
            name = f"{record.ref.tenant}/{record.ref.name}"
            is_used = {name, record.ref.name, str(record.ref)} & set(self._adapters)
            say(f"{'*' if is_used else ' '} {record.ref}")

    def _use(self, words: list[str]) -> None:
        if not words:
            raise InvalidInput("which adapters?", remedy="name them: /use NAME...")
        found = [str(self._client.get(word).ref) for word in words]
        self._adapters = words
        note(f"every answer uses {', '.join(found)}")

    def _auto(self, _: list[str]) -> None:
        self._adapters = []
        note("retrieval chooses")

    def _why(self, _: list[str]) -> None:
        if self._last is None:
            note("there is no answer yet")
        else:
            routing, usage = self._last
            show_why([routing], usage, [])

    def _reset(self, _: list[str]) -> None:
        self._said, self._last = list(self._first), None
        note("forgotten")


def _typed() -> Iterator[str]:
    """Lines of a terminal, with the editing and the history of readline where it is there."""
    with suppress(ImportError):
        import readline  # noqa: F401  # loading it is enough
    while True:
        try:
            yield input(_PROMPT)
        except EOFError:
            say("")
            return
        except KeyboardInterrupt:
            say("")
