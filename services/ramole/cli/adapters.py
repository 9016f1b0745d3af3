"""`upload` and `adapters`: the repository."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from ramole.cli._common import DEFAULT_ADDRESS, Address, AsJson, bar, run
from ramole.core.errors import InvalidInput

adapters_app = typer.Typer(help="The repository.")

Adapter = Annotated[str, typer.Argument(help="name, tenant/name or tenant/name@version.")]
Comment = Annotated[str, typer.Option(help="Why; kept in the history.")]
Expected = Annotated[
    int | None, typer.Option("--expected-version", help="Only if this is the latest version of the name.", min=0)
]


def upload(
    folder: Annotated[str, typer.Argument(help="A PEFT folder; or a URI that the server fetches it from.")],
    samples: Annotated[
        Path, typer.Option(help="Typical inputs: a JSON list, or one a line.", exists=True, dir_okay=False)
    ],
    name: Annotated[str, typer.Option(help="name or tenant/name; default: the folder's name; needed with a URI.")] = "",
    base_model: Annotated[str, typer.Option(help="Default: as adapter_config.json says.")] = "",
    public: Annotated[bool, typer.Option("--public", help="Other tenants may retrieve it.")] = False,
    expected: Annotated[
        int | None,
        typer.Option("--expected-version", help="Only if this is the latest version; 0 = the name is new.", min=0),
    ] = None,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Upload one adapter; it is used by the next fitting prompt."""
    from ramole.client import RamoleClient, Uploaded

    async def main() -> Uploaded:
        async with RamoleClient(address) as client:
            with bar(f"uploading {folder}"):
                return await client.upload(
                    folder,
                    _read_samples(samples),
                    adapter=name,
                    base_model=base_model,
                    is_public=public,
                    expected_version=expected,
                )

    done = run(main)
    record = done.record
    relative = record.relative_norm
    print(
        f"{record.ref} {'is live' if done.is_created else 'was there already'}: rank {record.rank}, "
        f"{len(record.modules)} modules, {record.num_bytes} bytes, norm {record.norm:.3g} "
        f"({'beside base weights that are not known' if relative is None else f'{relative:.2g} of the base weight'}), "
        f"{record.num_samples} samples, sha256 {record.ref.digest[:12]}"
    )


def _read_samples(path: Path) -> list[str]:
    """A JSON list of strings, or the lines of a text file that are not empty."""
    text = path.read_text()
    if not text.lstrip().startswith("["):
        return [line for line in text.splitlines() if line.strip()]
    try:
        samples = json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidInput(f"{path.name} is not JSON: {error}", field="--samples", remedy="give a list") from None
    if not all(isinstance(sample, str) for sample in samples):
        raise InvalidInput(f"{path.name} holds more than strings", field="--samples", remedy="give a list of strings")
    return list(samples)


@adapters_app.callback(invoke_without_command=True)
def list_adapters(
    context: typer.Context,
    tenant: Annotated[str, typer.Option(help="Only this tenant's.")] = "",
    prefix: Annotated[str, typer.Option(help="Only names that begin with this.")] = "",
    base_model: Annotated[str, typer.Option(help="Only adapters of this base model.")] = "",
    latest: Annotated[bool, typer.Option("--latest", help="Only the latest version of each name.")] = False,
    as_json: AsJson = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """List the repository, or look after one adapter with a command below."""
    if context.invoked_subcommand:
        return
    from ramole.client import AdapterRecord, RamoleClient

    async def main() -> list[AdapterRecord]:
        async with RamoleClient(address) as client:
            found = client.adapters(tenant=tenant, name_prefix=prefix, base_model=base_model, latest_only=latest)
            return [record async for record in found]

    records = run(main)
    if as_json:
        rows = [{"adapter": str(r.ref), "digest": r.ref.digest, "rank": r.rank, "bytes": r.num_bytes} for r in records]
        print(json.dumps(rows))
    elif records:
        columns = ("rank", "modules", "bytes", "norm", "samples", "created", "sha256")
        table = Table(Column("adapter", no_wrap=True), *columns)
        for r in records:
            table.add_row(
                str(r.ref),
                str(r.rank),
                str(len(r.modules)),
                str(r.num_bytes),
                f"{r.norm:.3g}",
                str(r.num_samples),
                f"{r.created_at:%Y-%m-%d %H:%M}",
                r.ref.digest[:12],
            )
        _console().print(table)
    else:
        print("nothing here: ramole upload FOLDER --samples FILE", file=sys.stderr)


@adapters_app.command()
def show(adapter: Adapter, address: Address = DEFAULT_ADDRESS) -> None:
    """Everything that is known of one version, as JSON."""
    from ramole.client import AdapterRecord, RamoleClient

    async def main() -> AdapterRecord:
        async with RamoleClient(address) as client:
            return await client.get(adapter)

    print(json.dumps(asdict(run(main)), default=str, indent=1))


@adapters_app.command()
def history(adapter: Adapter, as_json: AsJson = False, address: Address = DEFAULT_ADDRESS) -> None:
    """All versions of a name, those that are gone too, newest first."""
    from ramole.client import RamoleClient, Version

    async def main() -> tuple[Version, ...]:
        async with RamoleClient(address) as client:
            return await client.history(adapter)

    versions = run(main)
    if as_json:
        print(json.dumps([asdict(version) for version in versions], default=str))
        return
    table = Table(Column("adapter", no_wrap=True), "created", "state", "source", "comment", "sha256")
    for v in versions:
        state = f"{v.removal} {v.removed_at:%Y-%m-%d %H:%M}" if v.removed_at else "live"
        table.add_row(str(v.ref), f"{v.created_at:%Y-%m-%d %H:%M}", state, v.source, v.comment, v.ref.digest[:12])
    _console().print(table)


@adapters_app.command()
def download(
    adapter: Adapter,
    folder: Annotated[Path, typer.Argument(help="Where to write the two files.", file_okay=False)],
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Write the PEFT folder of one version, checked against its digest."""
    from ramole.client import RamoleClient
    from ramole.core.names import AdapterRef

    async def main() -> AdapterRef:
        async with RamoleClient(address) as client:
            with bar(f"downloading {adapter}"):
                return await client.download(adapter, folder)

    print(f"{run(main)} is in {folder}")


@adapters_app.command()
def rollback(
    adapter: Annotated[str, typer.Argument(help="tenant/name@version: what the next version shall be like.")],
    expected: Expected = None,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Make an older version the latest again, as a new version."""
    from ramole.client import RamoleClient, Uploaded

    async def main() -> Uploaded:
        async with RamoleClient(address) as client:
            return await client.rollback(adapter, expected_version=expected)

    done = run(main)
    print(f"{done.record.ref} is {'live' if done.is_created else 'like that already'}, from {adapter}")


@adapters_app.command()
def delete(
    adapter: Adapter, comment: Comment = "", expected: Expected = None, address: Address = DEFAULT_ADDRESS
) -> None:
    """Delete one version, or all of a name; running requests finish."""
    from ramole.client import RamoleClient

    async def main() -> list[str]:
        async with RamoleClient(address) as client:
            return [str(ref) for ref in await client.delete(adapter, comment=comment, expected_version=expected)]

    for ref in run(main):
        print(f"{ref} is deleted")


@adapters_app.command()
def revoke(
    adapter: Adapter, comment: Comment = "", expected: Expected = None, address: Address = DEFAULT_ADDRESS
) -> None:
    """Delete one version, or all of a name, and abort running requests that use it."""
    from ramole.client import RamoleClient, Revoked

    async def main() -> Revoked:
        async with RamoleClient(address) as client:
            return await client.revoke(adapter, comment=comment, expected_version=expected)

    done = run(main)
    for ref in done.refs:
        print(f"{ref} is revoked")
    print(f"{done.aborted} running requests were aborted", file=sys.stderr)


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 170)
