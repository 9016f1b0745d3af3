"""kill -9 at any point: what was acknowledged is there, what was not is gone or whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_every_crash_point(tmp_path: Path) -> None:
    script = Path(__file__).with_name("crash_points.py")
    command = [sys.executable, str(script), str(tmp_path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100, "the scenario has many file operations, and each was a crash point"
