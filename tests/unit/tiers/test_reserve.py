"""What only removals may use of a disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from ramole.core.errors import LimitExceeded
from ramole.tiers.reserve import Reserve
from support.full_disk import disk_of, fill

MIB = 2**20


def test_a_removal_finds_on_a_full_disk_what_nothing_else_finds(tmp_path: Path) -> None:
    with disk_of(tmp_path / "disk", 128 * MIB) as disk:
        reserve = Reserve(disk)
        reserve.fill()
        reserve.check(100 * MIB)
        with pytest.raises(LimitExceeded, match="disk"):
            reserve.check(127 * MIB)
        fill(disk)
        with pytest.raises(LimitExceeded):
            reserve.check()
        for _ in range(3):  # others take what they can in between
            with reserve.opened():
                (disk / "gone").write_bytes(bytes(4096))
            fill(disk)
            (disk / "gone").unlink()
        (disk / "filler").unlink()
        with reserve.opened():
            pass
        assert (disk / "reserve").stat().st_blocks * 512 == 2 * MIB


def test_what_another_replica_has_used_is_not_taken_by_uploads(tmp_path: Path) -> None:
    with disk_of(tmp_path / "disk", 128 * MIB) as disk:
        Reserve(disk).fill()
        fill(disk)
        (disk / "reserve").unlink()
        with pytest.raises(LimitExceeded):
            Reserve(disk).check()


def test_a_tiny_disk_and_a_folder_that_is_not_there_have_none(tmp_path: Path) -> None:
    with disk_of(tmp_path / "disk", 64 * 1024) as disk:
        reserve = Reserve(disk)
        reserve.fill()
        reserve.check(2**40)
        with reserve.opened():
            assert list(disk.iterdir()) == []
    nowhere = Reserve(tmp_path / "none")
    nowhere.fill()
    nowhere.check()
    with nowhere.opened():
        assert not (tmp_path / "none").exists()
