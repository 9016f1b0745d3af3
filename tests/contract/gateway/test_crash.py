"""kill -9 of a whole system between any two calls of its gateway: what was acknowledged is there, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from contract.gateway import crash_points

TESTS = Path(__file__).parents[2]


@pytest.mark.parametrize(("stride", "at_least"), [(13, 4), pytest.param(1, 50, marks=pytest.mark.slow)])
def test_a_system_that_is_killed_is_whole_after_a_restart(tmp_path: Path, stride: int, at_least: int) -> None:
    command = [sys.executable, crash_points.__file__, str(tmp_path), str(stride)]
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=900, env=environment)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= at_least, "crash points"
