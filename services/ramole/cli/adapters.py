"""`upload` and `adapters`: the repository."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ramole.cli._common import DEFAULT_ADDRESS, Address, AsJson, bar, connect, run, sending
from ramole.cli._completion import complete_adapter
from ramole.cli._output import add_row, note, say, say_json, show_table, table_of
from ramole.core.errors import InvalidInput
from ramole.core.samples import KEYS, Samples, SamplesFormat, read_samples

if TYPE_CHECKING:
    from ramole.client import AdapterRecord, Revoked, Uploaded, Version
    from ramole.core.names import AdapterRef

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
        Path | None,
        typer.Option(
            help="Typical inputs: one a line; or with blank lines between texts of several lines; or a JSON list, or "
            f"JSON lines, of strings or objects with {', '.join(KEYS)}. Needed, unless --named-only."
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="name or tenant/name; default: the folder's name; needed with a URI.")] = "",
    base_model: Annotated[str, typer.Option(help="Default: as adapter_config.json says.")] = "",
    samples_format: Annotated[
        SamplesFormat | None,
        typer.Option(help="How to read the samples; default: told by the file's ending and content."),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Other tenants may retrieve it.")] = False,
    named_only: Annotated[
        bool, typer.Option("--named-only", help="Never retrieved: only requests that name it use it; no samples.")
    ] = False,
    expected: Annotated[
        int | None,
        typer.Option("--expected-version", help="Only if this is the latest version; 0 = the name is new.", min=0),
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option(help="What requests may filter by; may be given several times.")
    ] = None,
    as_json: AsJson = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Upload one adapter; it is used by the next fitting prompt."""

    async def main() -> Uploaded:
        inputs = _inputs(samples, samples_format, is_named_only=named_only)
        async with connect(address) as client:
            with sending(f"uploading {folder}", f"checking and indexing {folder}") as progress:
                return await client.upload(
                    folder,
                    inputs,
                    adapter=name,
                    base_model=base_model,
                    is_public=public,
                    is_named_only=named_only,
                    expected_version=expected,
                    tags=tag or (),
                    progress=progress,
                )

    done = run(main)
    if as_json:
        say_json(_uploaded(done))
        return
    record = done.record
    relative = record.relative_norm
    say(
        f"{record.ref} {'is live' if done.is_created else 'was there already'}: rank {record.rank}, "
        f"{len(record.modules)} modules, {record.num_bytes} bytes, norm {record.norm:.3g} "
        f"({'beside base weights that are not known' if relative is None else f'{relative:.2g} of the base weight'}), "
        f"{record.num_samples} samples, sha256 {record.ref.digest[:12]}"
    )


def _inputs(samples: Path | None, format: SamplesFormat | None, *, is_named_only: bool) -> tuple[str, ...]:
    """What places an adapter in the retriever's space: nothing of one that is only named."""
    if is_named_only == (samples is not None):
        raise InvalidInput(
            "samples of an adapter that is only named" if is_named_only else "no samples",
            field="--samples",
            remedy="give either --samples or --named-only",
        )
    return _read_samples(samples, format).texts if samples is not None else ()


def _uploaded(done: Uploaded) -> dict[str, Any]:
    """What a script wants to know of a new version: the row that `adapters` lists, and whether it is new."""
    return _row(done.record) | {"is_created": done.is_created}


def _row(record: AdapterRecord) -> dict[str, Any]:
    return {
        "adapter": str(record.ref),
        "digest": record.ref.digest,
        "rank": record.rank,
        "bytes": record.num_bytes,
        "tags": list(record.tags),
    }


def _removed(refs: Sequence[AdapterRef]) -> list[dict[str, str]]:
    return [{"adapter": str(ref), "digest": ref.digest} for ref in refs]


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

    async def main() -> list[AdapterRecord]:
        async with connect(address) as client:
            found = client.adapters(
                tenant=tenant, name_prefix=prefix, base_model=base_model, latest_only=latest, tags=tag or ()
            )
            return [record async for record in found]

    records = run(main)
    if as_json:
        say_json([_row(record) for record in records])
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

    async def main() -> AdapterRecord:
        async with connect(address) as client:
            return await client.get(adapter)

    say_json(asdict(run(main)), indent=1)


@adapters_app.command()
def history(adapter: Adapter, as_json: AsJson = False, address: Address = DEFAULT_ADDRESS) -> None:
    """All versions of a name, those that are gone too, newest first."""

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
    as_json: AsJson = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Write the PEFT folder of one version, checked against its digest."""

    async def main() -> AdapterRef:
        async with connect(address) as client:
            with bar(f"downloading {adapter}"):
                return await client.download(adapter, folder)

    ref = run(main)
    if as_json:
        say_json({"adapter": str(ref), "digest": ref.digest, "folder": folder})
        return
    say(f"{ref} is in {folder}")


@adapters_app.command()
def rollback(
    adapter: Annotated[str, typer.Argument(help="tenant/name@version: what the next version shall be like.")],
    expected: Expected = None,
    as_json: AsJson = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Make an older version the latest again, as a new version."""

    async def main() -> Uploaded:
        async with connect(address) as client:
            return await client.rollback(adapter, expected_version=expected)

    done = run(main)
    if as_json:
        say_json(_uploaded(done))
        return
    say(f"{done.record.ref} is {'live' if done.is_created else 'like that already'}, from {adapter}")


@adapters_app.command()
def delete(
    adapter: Adapter,
    comment: Comment = "",
    expected: Expected = None,
    as_json: AsJson = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Delete one version, or all of a name; running requests finish."""

    async def main() -> tuple[AdapterRef, ...]:
        async with connect(address) as client:
            return await client.delete(adapter, comment=comment, expected_version=expected)

    refs = run(main)
    if as_json:
        say_json({"removed": _removed(refs)})
        return
    for ref in refs:
        say(f"{ref} is deleted")


@adapters_app.command()
def revoke(
    adapter: Adapter,
    comment: Comment = "",
    expected: Expected = None,
    as_json: AsJson = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Delete one version, or all of a name, and abort running requests that use it."""

    async def main() -> Revoked:
        async with connect(address) as client:
            return await client.revoke(adapter, comment=comment, expected_version=expected)

    done = run(main)
    if as_json:
        say_json({"removed": _removed(done.refs), "aborted": done.aborted})
        return
    for ref in done.refs:
        say(f"{ref} is revoked")
    note(f"{done.aborted} running requests were aborted")
