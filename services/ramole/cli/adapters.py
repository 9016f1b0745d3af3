"""`upload` and `adapters`: the repository."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from ramole.cli._common import DEFAULT_ADDRESS, Address, AsJson, bar, run
from ramole.core.errors import InvalidInput


def upload(
    folder: Annotated[Path, typer.Argument(help="A PEFT folder.", exists=True, file_okay=False)],
    samples: Annotated[
        Path, typer.Option(help="Typical inputs: a JSON list, or one a line.", exists=True, dir_okay=False)
    ],
    name: Annotated[str, typer.Option(help="name or tenant/name; default: the folder's name.")] = "",
    base_model: Annotated[str, typer.Option(help="Default: as adapter_config.json says.")] = "",
    public: Annotated[bool, typer.Option("--public", help="Other tenants may retrieve it.")] = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Upload one adapter; it is used by the next fitting prompt."""
    from ramole.client import RamoleClient, Uploaded

    async def main() -> Uploaded:
        async with RamoleClient(address) as client:
            with bar(f"uploading {folder.name}"):
                return await client.upload(
                    folder, _read_samples(samples), adapter=name, base_model=base_model, is_public=public
                )

    done = run(main)
    record = done.record
    print(
        f"{record.ref} {'is live' if done.is_created else 'was there already'}: rank {record.rank}, "
        f"{len(record.modules)} modules, {record.num_bytes} bytes, norm {record.norm:.3g}, "
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


def adapters(
    delete: Annotated[str, typer.Option(help="Delete this adapter; running requests finish.")] = "",
    revoke: Annotated[str, typer.Option(help="Delete this adapter and abort running requests that use it.")] = "",
    as_json: AsJson = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """List the repository, or remove an adapter from it."""
    from ramole.client import AdapterRecord, RamoleClient

    async def main() -> list[AdapterRecord]:
        async with RamoleClient(address) as client:
            if delete:
                for ref in await client.delete(delete):
                    print(f"{ref} is deleted")
            if revoke:
                for ref in (await client.revoke(revoke)).refs:
                    print(f"{ref} is revoked")
            return [] if delete or revoke else [record async for record in client.adapters()]

    records = run(main)
    if as_json:
        rows = [{"adapter": str(r.ref), "digest": r.ref.digest, "rank": r.rank, "bytes": r.num_bytes} for r in records]
        print(json.dumps(rows))
    elif records:
        table = Table(
            Column("adapter", no_wrap=True), "rank", "modules", "bytes", "norm", "samples", "created", "sha256"
        )
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
        Console(width=None if sys.stdout.isatty() else 170).print(table)
    elif not (delete or revoke):
        print("the repository is empty: ramole upload FOLDER --samples FILE", file=sys.stderr)
