"""The command line. Parses, calls, prints; everything it does can be done from Python as well."""

from typing import Annotated

import typer

from ramole.cli._common import access
from ramole.cli._login import Login
from ramole.cli._output import prepare_streams
from ramole.cli.adapters import adapters_app, upload
from ramole.cli.bench import bench_app
from ramole.cli.chat import chat
from ramole.cli.doctor import doctor
from ramole.cli.evaluate import evaluate
from ramole.cli.keys import keys_app
from ramole.cli.log_level import log_level
from ramole.cli.login import login, logout, whoami
from ramole.cli.prompts import generate, route
from ramole.cli.reindex import reindex
from ramole.cli.status import status
from ramole.cli.subspaces import overlap_map, similar
from ramole.cli.system import demo, serve, serve_config
from ramole.cli.train import train_app
from ramole.cli.zoo import zoo_app

app = typer.Typer(
    help="Plain prompt in, the right LoRA adapters found, mixed and applied, in one heterogeneous batch.",
    epilog="Exit codes: 0 done; 1 failed, a line on stderr says why; 2 the command line is wrong; 130 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def prepare(
    address: Annotated[
        str, typer.Option(help="Public port of the server.", envvar="RAMOLE_ADDRESS", show_default=False)
    ] = "",
    key: Annotated[str, typer.Option(help="API key of the server.", envvar="RAMOLE_KEY", show_default=False)] = "",
    ca: Annotated[
        str, typer.Option(help="CA of the server's certificate, a PEM file; given, TLS is used.", envvar="RAMOLE_CA")
    ] = "",
) -> None:
    """Before every command."""
    prepare_streams()
    access.set(Login(address, key, ca))


for command in (
    *(serve, serve_config, demo, generate, chat, route, upload),
    *(login, logout, whoami, status, doctor, evaluate, reindex),
):
    app.command()(command)
app.command("log-level")(log_level)
adapters_app.command()(similar)
adapters_app.command("map")(overlap_map)
app.add_typer(adapters_app, name="adapters")
app.add_typer(zoo_app, name="zoo")
app.add_typer(bench_app, name="bench")
app.add_typer(keys_app, name="keys")
app.add_typer(train_app, name="train")

__all__ = ["app"]
