"""The system under faults: one table of what each cost, in build/fault-report.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from ramole.zoo.catalog import Zoo, load_zoo
from support.fault_report import Row

REPORT = Path(__file__).parents[2] / "build" / "fault-report.json"


@pytest.fixture(scope="session")
def zoo() -> Zoo:
    return load_zoo()


ROWS = pytest.StashKey[list[Row]]()


@pytest.fixture(scope="session")
def add_row(request: pytest.FixtureRequest) -> Callable[[Row], None]:
    """Adds one to the report."""
    return request.config.stash.setdefault(ROWS, []).append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = config.stash.get(ROWS, [])
    if not rows:
        return
    terminalreporter.write_line(f"{'fault':44} {'requests':>8} {'failed':>6} {'lost':>4} {'recovery_s':>10}  promised")
    for row in rows:
        terminalreporter.write_line(
            f"{row.fault:44} {row.requests:8} {row.failed:6} {row.lost:4} {row.recovery_s:10.1f}  {row.bound}"
        )
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps({"rows": [asdict(row) for row in rows]}, indent=1))
