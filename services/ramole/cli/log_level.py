"""`log-level`: how much a running server logs. Works on the file that the server follows, not through the server."""

from __future__ import annotations

from typing import Annotated

import typer

from ramole.cli._common import AsJson, told
from ramole.cli._extras import needing
from ramole.cli._output import say, say_json


@needing("serve")
def log_level(
    level: Annotated[str, typer.Argument(help="debug, info, warning or error; absent = only show it.")] = "",
    reset: Annotated[bool, typer.Option("--reset", help="As the settings say again.")] = False,
    as_json: AsJson = False,
) -> None:
    """Change how much the server whose settings these are logs, within half a second and until it is reset."""
    from ramole.app import load_settings, resolve
    from ramole.core.errors import InvalidInput
    from ramole.observability.levels import LevelFile

    with told():
        if level and reset:
            raise InvalidInput("a level, and none", field="--reset", remedy="leave out one of them")
        settings = resolve(load_settings())
        file = LevelFile(settings.data_dir)
        if level or reset:
            file.write(level)
        found = file.read()
    used = found or settings.logging.level
    if as_json:
        say_json({"level": used, "setting": settings.logging.level, "file": file.path if found else None})
        return
    say(f"{used}, {f'by {file.path}; `ramole log-level --reset` removes it' if found else 'as the settings say'}")
