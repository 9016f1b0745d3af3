"""Everything that commands print. What users wrote is shown as written: never as markup, control codes as escapes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from ramole.core.texts import visible

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn, Task

# Wider than any table: what reads a file or a pipe wants one row a line.
_UNBROKEN = 1_000_000


def prepare_streams() -> None:
    """Lets a terminal or pipe of another encoding than UTF-8 show what it cannot as escapes, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def say(line: str) -> None:
    """One line of the result, on stdout."""
    print(visible(line), flush=True)


def say_json(value: object, *, indent: int | None = None) -> None:
    """One JSON value on stdout, in ASCII; dates and paths as text."""
    print(json.dumps(value, default=str, indent=indent))


def say_piece(piece: str) -> None:
    """The next piece of a longer text, on stdout at once."""
    print(visible(piece, keep="\n\t"), end="", flush=True)


def note(line: str) -> None:
    """One line beside the result, on stderr."""
    Console(stderr=True).print(Text(visible(line), style="dim"), soft_wrap=True)


def complain(line: str) -> None:
    """What went wrong, on stderr."""
    Console(stderr=True).print(Text.assemble(("error:", "red"), " ", visible(line)), soft_wrap=True)


def table_of(*columns: str) -> Table:
    """An empty table, for `add_row` and `show_table`. The first column is never wrapped."""
    first, *others = columns
    return Table(Column(first, no_wrap=True), *others)


def add_row(table: Table, *cells: str) -> None:
    """One more row; any text may stand in it."""
    table.add_row(*(Text(visible(cell)) for cell in cells))


def show_table(table: Table) -> None:
    """On stdout: as wide as the terminal, or as wide as it is."""
    console = Console(width=None if sys.stdout.isatty() else _UNBROKEN)
    if not sys.stdout.isatty():
        table.expand = False
        for column in table.columns:
            column.ratio, column.overflow = None, "ignore"
    if table.title:
        console.print(table.title, soft_wrap=True)
        table.title = None
    console.print(table)


@contextmanager
def progress(*columns: ProgressColumn, is_transient: bool = True) -> Iterator[Progress]:
    """As `display_of`, shown in the block."""
    with display_of(*columns, is_transient=is_transient) as display:
        yield display


def display_of(*columns: ProgressColumn, is_transient: bool = True) -> Progress:
    """A display on stderr of each task's description, then of `columns`, once it is started; gone when it is done."""
    from rich.progress import Progress, TextColumn

    class Description(TextColumn):
        def render(self, task: Task) -> Text:
            return Text(visible(task.description))

    console = Console(stderr=True)
    # In a file or a pipe, what is gone when it is done would leave an empty line.
    is_off = is_transient and not console.is_terminal
    return Progress(Description(""), *columns, console=console, transient=is_transient, disable=is_off)


@contextmanager
def live_on_terminal(*, is_off: bool = False) -> Iterator[Callable[..., None]]:
    """Gives what shows tables and lines in place of those before, on stdout; in a file or a pipe, behind them."""
    from rich.console import Group
    from rich.live import Live

    if is_off or not sys.stdout.isatty():

        def tell(*parts: Table | str) -> None:
            for part in parts:
                if isinstance(part, str):
                    say(part)
                else:
                    show_table(part)

        yield tell
        return
    with Live(auto_refresh=False, screen=False) as live:

        def show(*parts: Table | str) -> None:
            live.update(Group(*(Text(visible(p)) if isinstance(p, str) else p for p in parts)), refresh=True)

        yield show


_STYLES = {"ok": "green", "warning": "yellow", "failed": "red"}


def say_verdict(verdict: str, name: str, line: str) -> None:
    """One line of a list of checks, on stdout."""
    text = Text.assemble((f"{verdict:7}", _STYLES[verdict]), f"  {name:14}  {visible(line)}")
    Console(width=None if sys.stdout.isatty() else _UNBROKEN).print(text, soft_wrap=True)
