"""The demo: its figures, and as a new user runs it: its own processes, and nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from ramole.demo import DemoReport


def processes_with(marker: str) -> list[psutil.Process]:
    """Processes that inherited `marker` in their environment, whoever their parent is by now."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TEST_OF_RAMOLE") == marker and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def check(figures: dict[str, int | float]) -> None:
    assert figures["prompts"] >= 32
    assert figures["correct"] >= 0.85 * figures["prompts"]
    assert figures["correct"] >= 2 * figures["base_correct"]
    assert figures["unseen_after"] >= 0.8
    assert figures["unseen_after"] > figures["unseen_before"]
    assert figures["max_batch"] >= 8
    assert figures["max_unique_adapters"] >= 8


def test_the_demo_answers_and_retrieves(played: DemoReport) -> None:
    check(played.summary())


@pytest.mark.slow  # one more start of everything; that a start leaves nothing behind: conftest.py, test_start_stop.py
def test_the_command_cleans_up(tmp_path: Path) -> None:
    marker = str(tmp_path)
    done = subprocess.run(
        [Path(sys.executable).with_name("ramole"), "demo", "--json"],
        env=os.environ | {"TEST_OF_RAMOLE": marker},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    check(json.loads(done.stdout))
    _, alive = psutil.wait_procs(processes_with(marker), timeout=15)
    assert not alive, f"the demo left processes behind: {alive}"
    assert not list(tmp_path.iterdir()), "the demo left files in the working directory"
