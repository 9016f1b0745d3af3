"""`ramole bench repository`: thousands of adapters in store, index and servers."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ramole.lab.bench.repository.fleet_cases import run_fleet_case
from ramole.lab.bench.repository.options import RepositoryOptions, full_repository_options, quick_repository_options
from ramole.lab.bench.repository.search_cases import LITE, NUMPY, SERVER, fill_server, run_search_case
from ramole.lab.machine import cpu_name, torch_threads
from ramole.lab.milvus_server import MilvusServer

Progress = Callable[[str], None]


def run_repository_bench(*, quick: bool, progress: Progress) -> dict[str, Any]:
    """Measures search, start, memory, throughput and uploads, beside the rivals where there are some.

    Args:
        quick: smaller fleets, in minutes; "sizes" tells which.
        progress: called with the name of each part before it runs.

    Returns:
        {"setup", "sizes", "cases", "not_measured", "summary"}, ready for JSON. What cannot be measured here is None in
        the summary, and "not_measured" says why.
    """
    return run_repository(quick_repository_options() if quick else full_repository_options(), progress=progress)


def run_repository(options: RepositoryOptions, *, progress: Progress, has_server: bool = True) -> dict[str, Any]:
    """The same for any sizes; without `has_server` as if the package of the Milvus server were missing."""
    # Filled together; the others when their turn comes, so that nobody searches beside rows of no concern.
    waves = [(options.lite_1k, options.rows_10k, options.rows_200k), *((case,) for case in options.more_searches)]
    cases = []
    load_before = os.getloadavg()
    with _milvus(has_server, progress) as (uri, reason):
        for wave in waves:
            if uri:
                progress(f"filling Milvus with {', '.join(case.name for case in wave)}")
            databases = fill_server(uri, wave) if uri else {}
            for case in wave:
                progress(f"search, {case.num_rows} rows")
                cases.append(run_search_case(case, databases.get(case.name, "")))
    with torch_threads(1):  # admission's small sums: threads that wait for each other take ten times as long
        fleet = run_fleet_case(options.fleet, progress)
    lite_1k, rows_10k, rows_200k = (case["contestants"] for case in cases[:3])
    summary = {
        "search_p50_ms_server_10k": _p50(rows_10k, SERVER),
        "search_p50_ms_server_200k": _p50(rows_200k, SERVER),
        "search_p50_ms_lite_1k": _p50(lite_1k, LITE),
        "search_p50_ms_numpy_10k": _p50(rows_10k, NUMPY),
        "uploads_per_s": fleet["uploads"][-1]["uploads_per_s"],
        "upload_to_answer_s": fleet["upload_to_answer_s"],
        "throughput_2000_vs_100": fleet["traffic"][0]["many_vs_few"],
        "startup_s_10k": fleet["start_s"][options.fleet.num_all],
    }
    return {
        "setup": _setup() | {"load_before": load_before, "load_after": os.getloadavg()},
        "sizes": asdict(options),
        "cases": [*cases, fleet],
        "not_measured": {key: reason for key, value in summary.items() if value is None},
        "summary": summary,
    }


def _p50(contestants: dict[str, dict[str, float]], name: str) -> float | None:
    return contestants[name]["p50_ms"] if name in contestants else None


@contextmanager
def _milvus(is_wanted: bool, progress: Progress) -> Iterator[tuple[str, str]]:
    """URI of a server that runs for as long as this; else an empty one, and the reason."""
    if not is_wanted:
        yield "", "no Milvus server was asked for"
        return
    if not MilvusServer.is_installed():
        yield "", "the package milvus==2.3.5 is not installed (x86_64 Linux only)"
        return
    progress("starting Milvus")
    with TemporaryDirectory(prefix="ramole-bench-milvus-") as folder:
        server = MilvusServer(Path(folder)).start()
        try:
            yield server.uri, ""
        finally:
            server.stop()


def _setup() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        **{name: version(name) for name in ("pymilvus", "milvus-lite", "numpy")},
    }
