"""What the commands share: options, error lines, progress bars."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from threading import Lock, Timer
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

from ramole.cli._checks import check_environment
from ramole.cli._login import Login, resolve_login
from ramole.cli._output import complain, display_of, progress
from ramole.core.errors import RamoleError

if TYPE_CHECKING:
    from rich.progress import Progress

    from ramole.client import RamoleClient, SyncRamoleClient

T = TypeVar("T")


access: ContextVar[Login] = ContextVar("access", default=Login())  # noqa: B039  # frozen
"""What stands before the command, or in the environment."""


Address = Annotated[
    str, typer.Option(help="Public port of the server; default: as before the command, else as logged in.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
DEFAULT_ADDRESS = ""
"""Of a command: what else says it, see `resolve_login`."""
_LONG_S = 2.0


def connect(address: str) -> RamoleClient:
    """A client of the server that the command line, the environment or the login names; it tries nothing twice."""
    from ramole.client import RamoleClient

    found = resolved(address)
    return RamoleClient(found.address, key=found.key, ca_file=found.ca, retries=0)


def connect_sync(address: str) -> SyncRamoleClient:
    """The same, for commands that talk with a person."""
    from ramole.client import SyncRamoleClient

    found = resolved(address)
    return SyncRamoleClient(found.address, key=found.key, ca_file=found.ca, retries=0)


def resolved(address: str) -> Login:
    """What a command that makes clients of its own connects with."""
    given = access.get()
    return resolve_login(address or given.address, given.key, given.ca)


def run(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Runs a coroutine; errors as in `told`."""
    with told():
        return asyncio.run(main())


def leave() -> NoReturn:
    """Ends the process at once, as one that has done what it should; no other thread and no exit hook runs on."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(0)


@contextmanager
def told() -> Iterator[None]:
    """Errors that a user can act on become one line and exit code 1."""
    try:
        check_environment()
        yield
    except RamoleError as error:
        complain(" ".join(str(error).split()))
        raise typer.Exit(1) from None
    except OSError as error:
        # Of a file that the user named, or a library's word on what it could not load. Anything else is a defect,
        # whose traceback is wanted.
        if error.filename is None and error.errno is not None:
            raise
        complain(f"{error.filename}: {error.strerror}" if error.errno is not None else " ".join(str(error).split()))
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


@contextmanager
def bar(what: str, total: int | None = None) -> Iterator[Callable[[], None]]:
    """A progress bar on stderr, gone when it is done; `total` None = unknown."""
    from rich.progress import BarColumn, TimeElapsedColumn

    with progress(BarColumn(), TimeElapsedColumn()) as display:
        task = display.add_task(what, total=total)
        yield lambda: display.advance(task)


@contextmanager
def waiting(what: str) -> Iterator[Callable[[], None]]:
    """Says on a terminal's stderr what is waited for, when that takes long. What it gives ends it before the block."""
    from rich.progress import SpinnerColumn, TimeElapsedColumn

    display = display_of(SpinnerColumn(), TimeElapsedColumn())
    display.add_task(what, total=None)
    with _late(display) as end:
        yield end


@contextmanager
def sending(what: str, then: str) -> Iterator[Callable[[int, int], None]]:
    """A bar of bytes on a terminal's stderr, when it takes long; gone when it is done.

    Args:
        what: goes on.
        then: what is waited for when all bytes are on their way.
    """
    from rich.progress import BarColumn, DownloadColumn, TimeElapsedColumn, TransferSpeedColumn

    display = display_of(BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeElapsedColumn())
    task = display.add_task(what, total=None)

    def told(done: int, total: int) -> None:
        display.update(task, completed=done, total=total, description=what if done < total else then)

    with _late(display):
        yield told


@contextmanager
def _late(display: Progress) -> Iterator[Callable[[], None]]:
    """Shows it when the block takes long. What it gives ends it before the block."""
    lock = Lock()
    is_over = False

    def show() -> None:
        with lock:
            if not is_over:
                display.start()

    def end() -> None:
        nonlocal is_over
        with lock:
            is_over = True
        display.stop()

    timer = Timer(_LONG_S, show)
    timer.daemon = True
    timer.start()
    try:
        yield end
    finally:
        timer.cancel()
        end()
