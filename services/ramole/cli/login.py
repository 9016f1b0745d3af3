"""`login`, `logout` and `whoami`: which server, and who one is there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ramole.cli._common import AsJson, access, connect, run, told
from ramole.cli._login import DEFAULT_ADDRESS, Login, forget_login, login_path, write_login
from ramole.cli._output import note, say, say_json
from ramole.core.address import check_address
from ramole.core.errors import Unauthenticated

if TYPE_CHECKING:
    from ramole.client import Description


def login(
    address: Annotated[str, typer.Option(help="Public port of the server; asked for when it is absent.")] = "",
    key: Annotated[str, typer.Option(help="API key; better typed in when it is asked for.", show_default=False)] = "",
    ca: Annotated[str, typer.Option(help="CA of the server's certificate, a PEM file; given, TLS is used.")] = "",
    as_json: AsJson = False,
) -> None:
    """Try a server, and use it from now on: address, key and CA go to ramole.toml in ~/.config, for you only.

    Asks for the address, and for the key if the server wants one. Flags and RAMOLE_* variables still go first.
    """
    given = access.get()
    with told():
        wanted = address or given.address or _ask(f"address [{DEFAULT_ADDRESS}]") or DEFAULT_ADDRESS
        ca_file = ca or given.ca
        made = Login(
            check_address(wanted),
            key or given.key,
            str(Path(ca_file).expanduser().absolute()) if ca_file else "",
        )
        try:
            known = _describe_at(made)
        except Unauthenticated:
            if made.key or not (typed := _ask("API key", is_hidden=True)):
                raise
            made = Login(made.address, typed, made.ca)
            known = _describe_at(made)
        path = write_login(made)
    if as_json:
        say_json(_facts(made.address, known) | {"file": path})
        return
    say(f"{_who(known)} at {made.address}, which serves {known.base_model}")
    note(f"kept in {path}; `ramole logout` removes it")


def logout(as_json: AsJson = False) -> None:
    """Forget the server and the key that `ramole login` has kept."""
    with told():
        has_been = forget_login()
    if as_json:
        say_json({"file": login_path(), "is_removed": has_been})
        return
    say(f"{login_path()} is {'removed' if has_been else 'not there'}")


def whoami(
    as_json: AsJson = False,
    address: Annotated[str, typer.Option(help="Public port of the server.")] = "",
) -> None:
    """Say which server the commands call, and who one is there."""

    async def main() -> tuple[str, Description]:
        async with connect(address) as client:
            return client.address, await client.describe()

    where, known = run(main)
    if as_json:
        say_json(_facts(where, known))
        return
    say(f"{_who(known)} at {where}, ramole {known.version}, which serves {known.base_model}")


def _describe_at(login: Login) -> Description:
    """What a server says of itself, to somebody with exactly this login."""
    import asyncio

    from ramole.client import RamoleClient

    async def main() -> Description:
        async with RamoleClient(login.address, key=login.key, ca_file=login.ca, timeout_s=20, retries=0) as client:
            return await client.describe()

    return asyncio.run(main())


def _facts(address: str, known: Description) -> dict[str, Any]:
    who = known.caller
    return {
        "address": address,
        "version": known.version,
        "base_model": known.base_model,
        "tenant": who.tenant,
        "name": who.name,
        "roles": who.roles,
    }


def _who(known: Description) -> str:
    who = known.caller
    return f"{who.name or 'anonymous'}, {', '.join(who.roles) or 'without a role'} of tenant {who.tenant}"


def _ask(what: str, *, is_hidden: bool = False) -> str:
    """What the user types; nothing where nobody can."""
    if not sys.stdin.isatty():
        return ""
    answer: str = typer.prompt(what, default="", hide_input=is_hidden, show_default=False, err=True)
    return answer.strip()
