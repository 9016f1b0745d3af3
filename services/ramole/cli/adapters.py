"""`upload` and `adapters`: the repository."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ramole.cli._common import DEFAULT_ADDRESS, Address, AsJson, bar, connect, run
from ramole.cli._completion import complete_adapter
from ramole.cli._output import add_row, note, say, say_json, show_table, table_of
from ramole.core.samples import KEYS, Samples, SamplesFormat, read_samples

adapters_app = typer.Typer(help="The repository.")

_PREVIEW_CHARS = 120

Adapter = Annotated[
    str, typer.Argument(help="name, tenant/name or tenant/name@version.", autocompletion=complete_adapter)
]
Comment = Annotated[str, typer.Option(help="Why; kept in the history.")]
Expected = Annotated[
    int | None, typer.Option("--expected-version", help="Only if this is the latest version of the name.", min=0)
]


def upload(
    folder: Annotated[str, typer.Argument(help="A PEFT folder; or a URI that the server fetches it from.")],
    samples: Annotated[
        Path,
        typer.Option(
            help="Typical inputs: one a line; or with blank lines between texts of several lines; or a JSON list, or "
            f"JSON lines, of strings or objects with {', '.join(KEYS)}."
        ),
    ],
    name: Annotated[str, typer.Option(help="name or tenant/name; default: the folder's name; needed with a URI.")] = "",
    base_model: Annotated[str, typer.Option(help="Default: as adapter_config.json says.")] = "",
    samples_format: Annotated[
        SamplesFormat | None,
        typer.Option(help="How to read the samples; default: told by the file's ending and content."),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Other tenants may retrieve it.")] = False,
    expected: Annotated[
        int | None,
        typer.Option("--expected-version", help="Only if this is the latest version; 0 = the name is new.", min=0),
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option(help="What requests may filter by; may be given several times.")
    ] = None,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Upload one adapter; it is used by the next fitting prompt."""
    from ramole.client import Uploaded

    async def main() -> Uploaded:
        inputs = _read_samples(samples, samples_format).texts
        async with connect(address) as client:
            with bar(f"uploading {folder}"):
                return await client.upload(
                    folder,
                    inputs,
                    adapter=name,
                    base_model=base_model,
                    is_public=public,
                    expected_version=expected,
                    tags=tag or (),
                )

    done = run(main)
    record = done.record
    relative = record.relative_norm
    say(
        f"{record.ref} {'is live' if done.is_created else 'was there already'}: rank {record.rank}, "
        f"{len(record.modules)} modules, {record.num_bytes} bytes, norm {record.norm:.3g} "
        f"({'beside base weights that are not known' if relative is None else f'{relative:.2g} of the base weight'}), "
        f"{record.num_samples} samples, sha256 {record.ref.digest[:12]}"
    )


def _read_samples(path: Path, format: SamplesFormat | None) -> Samples:
    """What a file holds; says on stderr how it was read, so that a wrong reading is seen."""
    found = read_samples(path, format=format, field="--samples")
    first = found.texts[0] if len(found.texts[0]) <= _PREVIEW_CHARS else f"{found.texts[0][:_PREVIEW_CHARS]}..."
    note(f"{len(found.texts)} samples from {path.name} ({found.format}), the first: {first}")
    if found.num_lines:
        note(
            f"taken as {len(found.texts)} texts between blank lines; with --samples-format lines it would be "
            f"{found.num_lines}, one a line"
        )
    return found


@adapters_app.callback(invoke_without_command=True)
def list_adapters(
    context: typer.Context,
    tenant: Annotated[str, typer.Option(help="Only this tenant's.")] = "",
    prefix: Annotated[str, typer.Option(help="Only names that begin with this.")] = "",
    base_model: Annotated[str, typer.Option(help="Only adapters of this base model.")] = "",
    latest: Annotated[bool, typer.Option("--latest", help="Only the latest version of each name.")] = False,
    tag: Annotated[
        list[str] | None, typer.Option(help="Only adapters with this tag; given several times, with all of them.")
    ] = None,
    as_json: AsJson = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """List the repository, or look after one adapter with a command below."""
    if context.invoked_subcommand:
        return
    from ramole.client import AdapterRecord

    async def main() -> list[AdapterRecord]:
        async with connect(address) as client:
            found = client.adapters(
                tenant=tenant, name_prefix=prefix, base_model=base_model, latest_only=latest, tags=tag or ()
            )
            return [record async for record in found]

    records = run(main)
    if as_json:
        rows = [
            {
                "adapter": str(r.ref),
                "digest": r.ref.digest,
                "rank": r.rank,
                "bytes": r.num_bytes,
                "tags": list(r.tags),
            }
            for r in records
        ]
        say_json(rows)
    elif records:
        columns = ("rank", "modules", "bytes", "norm", "samples", "tags", "created", "sha256")
        table = table_of("adapter", *columns)
        for r in records:
            add_row(
                table,
                str(r.ref),
                str(r.rank),
                str(len(r.modules)),
                str(r.num_bytes),
                f"{r.norm:.3g}",
                str(r.num_samples),
                " ".join(r.tags),
                f"{r.created_at:%Y-%m-%d %H:%M}",
                r.ref.digest[:12],
            )
        show_table(table)
    else:
        note("nothing here: ramole upload FOLDER --samples FILE")


@adapters_app.command()
def show(adapter: Adapter, address: Address = DEFAULT_ADDRESS) -> None:
    """Everything that is known of one version, as JSON."""
    from ramole.client import AdapterRecord

    async def main() -> AdapterRecord:
        async with connect(address) as client:
            return await client.get(adapter)

    say_json(asdict(run(main)), indent=1)


@adapters_app.command()
def history(adapter: Adapter, as_json: AsJson = False, address: Address = DEFAULT_ADDRESS) -> None:
    """All versions of a name, those that are gone too, newest first."""
    from ramole.client import Version

    async def main() -> tuple[Version, ...]:
        async with connect(address) as client:
            return await client.history(adapter)

    versions = run(main)
    if as_json:
        say_json([asdict(version) for version in versions])
        return
    table = table_of("adapter", "created", "state", "source", "comment", "sha256")
    for v in versions:
        state = f"{v.removal} {v.removed_at:%Y-%m-%d %H:%M}" if v.removed_at else "live"
        add_row(table, str(v.ref), f"{v.created_at:%Y-%m-%d %H:%M}", state, v.source, v.comment, v.ref.digest[:12])
    show_table(table)


@adapters_app.command()
def download(
    adapter: Adapter,
    folder: Annotated[Path, typer.Argument(help="Where to write the two files.", file_okay=False)],
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Write the PEFT folder of one version, checked against its digest."""
    from ramole.core.names import AdapterRef

    async def main() -> AdapterRef:
        async with connect(address) as client:
            with bar(f"downloading {adapter}"):
                return await client.download(adapter, folder)

    say(f"{run(main)} is in {folder}")


@adapters_app.command()
def rollback(
    adapter: Annotated[str, typer.Argument(help="tenant/name@version: what the next version shall be like.")],
    expected: Expected = None,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Make an older version the latest again, as a new version."""
    from ramole.client import Uploaded

    async def main() -> Uploaded:
        async with connect(address) as client:
            return await client.rollback(adapter, expected_version=expected)

    done = run(main)
    say(f"{done.record.ref} is {'live' if done.is_created else 'like that already'}, from {adapter}")


@adapters_app.command()
def delete(
    adapter: Adapter, comment: Comment = "", expected: Expected = None, address: Address = DEFAULT_ADDRESS
) -> None:
    """Delete one version, or all of a name; running requests finish."""

    async def main() -> list[str]:
        async with connect(address) as client:
            return [str(ref) for ref in await client.delete(adapter, comment=comment, expected_version=expected)]

    for ref in run(main):
        say(f"{ref} is deleted")


@adapters_app.command()
def revoke(
    adapter: Adapter, comment: Comment = "", expected: Expected = None, address: Address = DEFAULT_ADDRESS
) -> None:
    """Delete one version, or all of a name, and abort running requests that use it."""
    from ramole.client import Revoked

    async def main() -> Revoked:
        async with connect(address) as client:
            return await client.revoke(adapter, comment=comment, expected_version=expected)

    done = run(main)
    for ref in done.refs:
        say(f"{ref} is revoked")
    note(f"{done.aborted} running requests were aborted")
