"""What a killed server leaves is removed by the next one; what a living one has is never touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from ramole.app.scratch import MARK, PREFIX, Scratch, members, sweep

_OWNER = """
import os, subprocess, sys, time
from pathlib import Path
from ramole.app.scratch import MARK, Scratch

scratch = Scratch.make(Path(sys.argv[1]))
helper = subprocess.Popen(
    [sys.executable, "-c", "import time; time.sleep(600)"],
    env=os.environ | {MARK: str(scratch.path)},
    start_new_session=True,
    stdout=subprocess.DEVNULL,
)
print(scratch.path, helper.pid, flush=True)
sys.stdin.read()
scratch.remove()
"""


@contextmanager
def owner(base: Path) -> Iterator[tuple[subprocess.Popen[str], Path, psutil.Process]]:
    """A process that owns a folder, the folder, and a process that works for it."""
    process = subprocess.Popen(
        [sys.executable, "-c", _OWNER, str(base)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdin is not None
    helper: psutil.Process | None = None
    try:
        path, pid = process.stdout.readline().split()
        helper = psutil.Process(int(pid))
        yield process, Path(path), helper
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
        if helper is not None and helper.is_running():
            helper.kill()


def test_a_dead_owners_folder_and_processes_go_and_a_living_ones_stay(tmp_path: Path) -> None:
    with owner(tmp_path) as (dead, left, orphan), owner(tmp_path) as (living, kept, helper):
        dead.send_signal(signal.SIGKILL)
        dead.wait()
        assert members(left) == [orphan]
        sweep(tmp_path)
        assert not left.exists()
        assert not psutil.pid_exists(orphan.pid) or orphan.status() == psutil.STATUS_ZOMBIE
        assert kept.exists()
        assert helper.is_running()
        assert living.poll() is None


def test_an_owner_that_ends_in_order_leaves_nothing(tmp_path: Path) -> None:
    with owner(tmp_path) as (process, path, helper):
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait() == 0
        assert not path.exists()
        assert not psutil.pid_exists(helper.pid) or helper.status() == psutil.STATUS_ZOMBIE


_LATECOMER = """
import os, sys, time
from pathlib import Path

folder, mark, is_member = Path(sys.argv[1]), sys.argv[2], len(sys.argv) > 3
end = time.monotonic() + (600 if is_member else 0.5)
for i in range(10**9):
    (folder / "session").mkdir(parents=True, exist_ok=True)
    try:
        (folder / "session" / str(i % 50)).write_text("x")
    except FileNotFoundError:
        pass
    if i == 0:
        print("writes", flush=True)
    if time.monotonic() > end:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:], "member"], os.environ | {mark: str(folder)})
    time.sleep(0.001)
"""


def test_who_writes_while_the_folder_goes_and_is_seen_late_goes_too(tmp_path: Path) -> None:
    """As a process between its fork and its own program is: it writes, and nothing tells whose it is yet."""
    scratch = Scratch.make(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", _LATECOMER, str(scratch.path), MARK], stdout=subprocess.PIPE, text=True
    ) as latecomer:
        try:
            assert latecomer.stdout is not None
            assert latecomer.stdout.readline() == "writes\n"
            assert not members(scratch.path)
            scratch.remove()
            assert not scratch.path.exists()
            assert latecomer.wait(10) is not None  # which signal it was, only psutil has heard
            assert not scratch.path.exists()
        finally:
            latecomer.kill()


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "owner").touch()
    (tmp_path / f"{PREFIX}link").symlink_to(elsewhere)
    (tmp_path / f"{PREFIX}without-owner").mkdir()
    (tmp_path / f"{PREFIX}file").touch()
    sweep(tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    assert (elsewhere / "owner").exists()


def test_a_process_is_no_member_of_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = Scratch.make(tmp_path)
    monkeypatch.setenv(MARK, str(scratch.path))
    assert os.getpid() not in {process.pid for process in members(scratch.path)}
    scratch.remove()
    assert not scratch.path.exists()
