"""The report for GPUs, in its tiny shapes on a CPU: every case runs, and those that check find nothing wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.pages import ROOT


@pytest.mark.parametrize(
    ("stage", "least"),
    [
        ("kernels", {"check: decode", "time: decode"}),
        ("engine", {"check: tokens agree", "slot write"}),
        ("bench", set()),
    ],
)
def test_a_stage_runs_on_a_cpu(stage: str, least: set[str], tmp_path: Path) -> None:
    command = [
        sys.executable,
        "ops/gpu/report.py",
        "--device",
        "cpu",
        "--seconds",
        "200",
        "--out",
        str(tmp_path),
        stage,
    ]
    environment = dict(os.environ, PYTHONPATH=str(ROOT / "services"))
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False)
    report = json.loads((tmp_path / "report.json").read_text())
    wrong = [case for case in report["cases"] if case.get("ok") is False or "skipped" in case]
    assert not wrong, (tmp_path / f"{stage}.log").read_text()[-2000:]
    assert done.returncode == 0
    assert least <= {case["case"] for case in report["cases"]}
    assert {case["stage"] for case in report["cases"]} == {stage}
    assert "WRONG" not in done.stdout


def test_an_unknown_stage_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, "ops/gpu/report.py", "--device", "meta", "--seconds", "60", "--out", str(tmp_path)]
    environment = dict(os.environ, PYTHONPATH=str(ROOT / "services"))
    done = subprocess.run(
        [*command, "nothing"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "invalid choice" in done.stderr
