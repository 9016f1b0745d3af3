"""A cluster of two nodes that loses one, the way to it, its control plane, or what that keeps its state in."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import two_nodes
from support.fault_report import Row
from support.manifests import ROOT

pytestmark = pytest.mark.fault

LIMIT_S = 580.0

# Seconds for which requests may fail (0: none may), and what is promised beyond that.
FAULTS: dict[str, tuple[float, str]] = {
    "kill -9 of Redis": (0, "none fails; Ray's GCS ends with it: both must restart"),
    "kill -9 of the GCS": (0, "none fails; nothing is placed, scaled or replaced meanwhile"),
    "partition of a node": (12, "12 s for those led there; the node must join anew"),
    "kill -9 of a node": (15, "15 s for those led there; a single writer on it: until Ray places it again"),
}


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    missing = two_nodes.missing()
    if missing or os.geteuid():
        pytest.skip(f"NOT CHECKED: needs root and {', '.join(missing) or 'no more'}")
    report = tmp_path_factory.mktemp("nodes") / "report.jsonl"
    report.touch()
    folder = Path(tempfile.mkdtemp(prefix="ramole-nodes-"))  # short enough for Ray's sockets
    log = report.with_name("drill.log")
    try:
        with log.open("wb") as out:
            command = [sys.executable, two_nodes.__file__, str(folder), str(report)]
            done = subprocess.run(
                two_nodes.inside_namespaces(command),
                env=os.environ
                | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT / "services", ROOT / "tests", ROOT / "docs")))},
                stdout=out,
                stderr=out,
                timeout=LIMIT_S,
                check=False,
            )
        found = {each["row"]["fault"]: each for each in map(json.loads, report.read_text().splitlines())}
        if done.returncode and not found:
            pytest.fail(f"the nodes did not come up:\n{log.read_text(errors='replace')[-4000:]}")
        yield found | {"log": log.read_text(errors="replace")[-4000:]}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("fault", FAULTS)
def test_requests_live_through(fault: str, lines: dict[str, Any], add_row: Callable[[Row], None]) -> None:
    bound_s, bound = FAULTS[fault]
    assert fault in lines, lines["log"]
    row = Row(**(lines[fault]["row"] | {"bound": bound}))
    add_row(row)
    assert lines[fault]["complaints"] == []
    assert row.requests
    assert row.recovery_s <= bound_s, row.codes
