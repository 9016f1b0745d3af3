"""Checks of what is kept: data folder, store, index, caches."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import psutil

from ramole.adapters.store.files import open_files
from ramole.adapters.store.manifests import Loaded, Manifests
from ramole.adapters.store.records import AdapterRecord
from ramole.app.doctor.findings import Case, Finding
from ramole.core.errors import LimitExceeded
from ramole.tiers.reserve import Reserve

_LOW_BYTES = 2**30
_MIB = 2**20


def data_folder(case: Case) -> Finding:
    """Whether the data folder can be used, and whether a server uses it."""
    folder = case.settings.data_dir
    unusable = _unusable(folder)
    if unusable:
        return Finding.failed(
            f"the folder {str(folder)!r} cannot be used: {unusable}", "name another folder", field="data_dir"
        )
    if not folder.exists():
        return Finding.ok(f"{folder} is not there yet: the first start makes it")
    return Finding.ok(f"{folder} is {'in use by a running server' if case.runs else 'free: no server runs on it'}")


def _unusable(folder: Path) -> str:
    """Why a folder could not be made or written; '' = it could."""
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        return f"{there} is no folder"
    return "" if os.access(there, os.W_OK | os.X_OK) else f"{there} cannot be written"


def disk(case: Case) -> Finding:
    """Whether the disk of the data folder has room for uploads."""
    folder = case.settings.data_dir
    if not folder.exists():
        return Finding.ok("nothing to look at yet")
    try:
        Reserve(folder).check()
    except LimitExceeded as error:
        return Finding.failed(error.message, error.remedy, field="data_dir")
    free = shutil.disk_usage(folder).free
    says = f"{free // _MIB} MiB free"
    if free < _LOW_BYTES:
        return Finding.warning(says, "make room: uploads are refused when the disk is full", field="data_dir")
    return Finding.ok(says)


def store(case: Case) -> Finding:
    """Whether the store can be read, and what of it cannot."""
    options, folder = case.settings.adapters, case.store_folder
    if not options.store_uri and not folder.exists():
        case.wanted = set()
        return Finding.ok("empty: the first start makes it")
    files = open_files(options.store_uri, options.store_options, folder=folder, scratch=folder / "scratch")
    loaded = Manifests(files).load(finishes=False)
    case.wanted = _findable(loaded)
    ranks = (r.report.rank for r in loaded.records if r.base_model == case.settings.base_id)
    case.widest_rank = max(ranks, default=0)
    says = f"{len(loaded.records)} live versions, of which {len(case.wanted)} are the latest and retrieved by prompts"
    if loaded.num_unreadable:
        return Finding.warning(
            f"{says}; {loaded.num_unreadable} manifests cannot be read", "restore them: their adapters are not served"
        )
    return Finding.ok(says)


def _findable(loaded: Loaded) -> set[str]:
    """The latest live version of each name, unless it is one that is only named: as the gateway has it indexed."""
    latest: dict[tuple[str, str], AdapterRecord] = {}
    for record in loaded.records:
        key = record.ref.tenant, record.ref.name
        if key not in latest or latest[key].ref.version < record.ref.version:
            latest[key] = record
    return {f"{record.ref} {record.ref.digest}" for record in latest.values() if record.num_samples}


def index(case: Case) -> Finding:
    """Whether the index answers, is of the encoder of the settings, and holds what the store does."""
    from ramole.retrieval.index import VectorIndex

    options = case.settings.retrieval
    is_server = "://" in options.uri
    path = Path(options.uri or case.settings.data_dir / "index.db")
    if not is_server and case.runs:
        return _index_of_server(case)
    if not is_server and not path.exists():
        return _compared(case, "", set())
    found = VectorIndex.open(
        options.uri if is_server else str(path),
        token=options.token,
        ca_file=options.ca_file,
        timeout_s=options.timeout_s,
    )
    try:
        live = next(iter(found.generations()), None)
        rows = {f"{row.ref} {row.ref.digest}" for batch in found.rows() for row in batch}
    finally:
        found.close()
    return _compared(case, live.encoder_id if live else "", rows)


def _index_of_server(case: Case) -> Finding:
    """An embedded index is open in the running server only; what that says of it."""
    if case.server is None:
        return Finding.ok("open in the running server, which was not asked")
    if not case.server.encoder_id and case.wanted:
        return Finding.warning("the running server has nothing indexed, or its index does not answer", "see its log")
    return _of_encoder(case, case.server.encoder_id) or Finding.ok("open in the running server")


def _compared(case: Case, encoder_id: str, rows: set[str]) -> Finding:
    wrong = _of_encoder(case, encoder_id)
    if wrong is not None:
        return wrong
    says = f"{len(rows)} adapters{f' by {encoder_id}' if encoder_id else ''}"
    if case.wanted is None:
        return Finding.ok(f"{says}; not compared with the store")
    missing, surplus = len(case.wanted - rows), len(rows - case.wanted)
    if missing or surplus:
        return Finding.warning(
            f"{says}; {missing} of the store are missing, {surplus} are not in the store",
            "nothing: a server mends it at its start, hourly and after failures; if it stays, see its log",
        )
    return Finding.ok(f"{says}, as in the store")


def _of_encoder(case: Case, encoder_id: str) -> Finding | None:
    """What to say of an index of another encoder than that of the settings; None = it is of that one, or empty."""
    if not encoder_id or not case.encoder_id or encoder_id == case.encoder_id:
        return None
    says = f"the index is of encoder {encoder_id}, the settings name {case.encoder_id}"
    if case.settings.embedding.previous is not None:
        return Finding.warning(says, "start, and run `ramole reindex`", field="embedding.encoder")
    return Finding.failed(
        says,
        "set embedding back, or embedding.previous to the encoder so far, start, and run `ramole reindex`",
        field="embedding.encoder",
    )


def caches(case: Case) -> Finding:
    """Whether the tiers of adapters have the disk and the memory that they may take."""
    options, folder = case.settings.cache, case.settings.cache_dir
    unusable = _unusable(folder)
    if unusable:
        return Finding.failed(
            f"the folder {str(folder)!r} cannot be used: {unusable}", "name another folder", field="cache.dir"
        )
    there = next(path for path in (folder, *folder.parents) if path.exists())
    used = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.exists() else 0
    free, memory = shutil.disk_usage(there).free, psutil.virtual_memory().total
    host = options.host_bytes * case.settings.executor.replicas
    says = (
        f"disk {used // _MIB} of {options.disk_bytes // _MIB} MiB in {folder}, host memory up to {host // _MIB} MiB, "
        f"{case.plan.sizes.num_slots if case.plan else case.settings.executor.num_slots} slots"
    )
    if options.disk_bytes > used + free:
        return Finding.warning(f"{says}; the disk has {free // _MIB} MiB left", "lower it", field="cache.disk_bytes")
    if host > memory // 2:
        return Finding.warning(
            f"{says}; the machine has {memory // _MIB} MiB",
            "lower it: models need some too",
            field="cache.host_bytes",
        )
    return Finding.ok(says)
