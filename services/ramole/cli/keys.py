"""`keys`: who may call. Works on the file that the server follows, not through the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ramole.cli._common import AsJson, told
from ramole.cli._extras import needing
from ramole.cli._output import add_row, note, say, say_json, show_table, table_of

if TYPE_CHECKING:
    from ramole.gateway.keys import KeyFile

keys_app = typer.Typer(help="API keys: who may call the server whose settings these are.", no_args_is_help=True)


def _keys() -> KeyFile:
    from ramole.app import load_settings, resolve
    from ramole.gateway.identity import keys_path
    from ramole.gateway.keys import KeyFile

    return KeyFile(keys_path(resolve(load_settings())))


@keys_app.command("add")
@needing("serve")
def add(
    name: Annotated[str, typer.Argument(help="Who holds it.")],
    tenant: Annotated[str, typer.Option(help="Whose adapters it sees and changes.")] = "default",
    role: Annotated[str, typer.Option(help="user (generates), publisher (changes adapters) or admin.")] = "user",
    as_json: AsJson = False,
) -> None:
    """Make a key and show it, once."""
    from ramole.core.call import ROLES
    from ramole.core.errors import InvalidInput
    from ramole.gateway.keys import Role

    with told():
        if role not in ROLES:
            raise InvalidInput(f"{role[:40]!r} is no role", field="--role", remedy=f"use {', '.join(ROLES)}")
        key, secret = _keys().add(name, tenant, Role(role))
    if as_json:
        say_json({"id": key.id, "name": key.name, "tenant": key.tenant, "role": key.role.value, "key": secret})
        return
    note(f"key {key.id} of {key.name}, {key.role.value} of tenant {key.tenant}; it is not shown again:")
    say(secret)


@keys_app.command("list")
@needing("serve")
def list_(as_json: AsJson = False) -> None:
    """Show all keys, without their secrets."""
    with told():
        keys = _keys().all()
    rows = [(key.id, key.name, key.tenant, key.role.value, f"{key.created_at:%Y-%m-%d}") for key in keys]
    names = ("id", "name", "tenant", "role", "created")
    if as_json:
        say_json([dict(zip(names, row, strict=True)) for row in rows])
        return
    table = table_of(*names)
    for row in rows:
        add_row(table, *row)
    show_table(table)


@keys_app.command("remove")
@needing("serve")
def remove(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `keys list` shows it.")], as_json: AsJson = False
) -> None:
    """Make a key worthless, within half a second."""
    with told():
        key = _keys().remove(key_id)
    if as_json:
        say_json({"id": key.id, "name": key.name, "tenant": key.tenant, "role": key.role.value})
        return
    say(f"removed key {key.id} of {key.name}")
