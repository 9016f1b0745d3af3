"""What the commands share: options, error lines, progress bars."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape

from ramole.core.errors import RamoleError

T = TypeVar("T")

Address = Annotated[str, typer.Option(help="Public port of the server.", envvar="RAMOLE_ADDRESS")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
DEFAULT_ADDRESS = "127.0.0.1:50051"


def run(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Runs a coroutine; errors that a user can act on become one line and exit code 1."""
    try:
        return asyncio.run(main())
    except (RamoleError, ValidationError) as error:
        line = " ".join(str(error).split())
        Console(stderr=True).print(f"[red]error:[/red] {escape(line)}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


@contextmanager
def bar(what: str, total: int | None = None) -> Iterator[Callable[[], None]]:
    """A progress bar on stderr, gone when it is done; `total` None = unknown."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    # A bar that nobody sees would leave an empty line in the log.
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task)
