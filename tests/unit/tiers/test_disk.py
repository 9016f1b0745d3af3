"""The disk tier: survives restarts, trusts no file, keeps its limit, and is never in the way."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ramole.lora.content import Content
from ramole.lora.digest import content_digest
from ramole.lora.files import TENSORS_FILE
from ramole.tiers.disk import DiskTier
from support.full_disk import files_of_at_most

SIZE = 1000


def make(i: int, size: int = SIZE) -> tuple[str, Content]:
    content = Content(b"{}", bytes([i]) * (size - 2))
    return content_digest(content.config_json, content.tensors), content


def kept(tier: DiskTier, *numbers: int) -> list[bool]:
    return [tier.path(make(i)[0]) is not None for i in numbers]


def use(tier: DiskTier, i: int, at_s: int) -> None:
    """As if it had last been used at that time: clocks of file systems are coarse."""
    path = tier.path(make(i)[0])
    assert path is not None
    os.utime(path, (at_s, at_s))


def check_books(tier: DiskTier, folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert tier.counts.num_bytes == sum(path.stat().st_size for path in files)
    assert 2 * tier.counts.num_entries == len(files)


@pytest.mark.parametrize("num_bytes", [SIZE - 2, 10, 0])
def test_a_copy_is_what_was_verified_whatever_becomes_of_the_file(tmp_path: Path, num_bytes: int) -> None:
    digest, content = make(1)
    tier = DiskTier(tmp_path, 10 * SIZE, Content.copy_of_folder)
    assert tier.put(digest, content)
    read = tier.get(digest)
    assert read is not None
    (tmp_path / digest[:2] / digest / TENSORS_FILE).write_bytes(bytes(num_bytes))  # in place, and cut short
    assert bytes(read.tensors) == content.tensors
    assert tier.get(digest) is None


def test_survives_a_restart_and_a_map_survives_its_file(tmp_path: Path) -> None:
    digest, content = make(1)
    assert DiskTier(tmp_path, 10 * SIZE).put(digest, content)
    again = DiskTier(tmp_path, 10 * SIZE)
    assert (again.counts.num_entries, again.counts.num_bytes) == (1, SIZE)
    mapped = again.get(digest)
    assert mapped is not None
    again.drop(digest)
    assert again.get(digest) is None
    assert (mapped.config_json, bytes(mapped.tensors)) == (content.config_json, content.tensors)
    assert (again.counts.hits, again.counts.misses) == (1, 1)
    check_books(again, tmp_path)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "lose", "grow"])
def test_a_broken_file_is_dropped_and_can_come_again(tmp_path: Path, damage: str) -> None:
    digest, content = make(1)
    tier = DiskTier(tmp_path, 10 * SIZE)
    tier.put(digest, content)
    folder = tier.path(digest)
    assert folder is not None
    file = folder / TENSORS_FILE
    data = file.read_bytes()
    match damage:
        case "flip":
            file.write_bytes(data[:500] + b"\xff" + data[501:])
        case "cut":
            file.write_bytes(data[:-1])
        case "empty":
            file.write_bytes(b"")
        case "lose":
            file.unlink()
        case _:
            file.write_bytes(data + b"x")
    restarted = DiskTier(tmp_path, 10 * SIZE)
    assert restarted.get(digest) is None
    assert restarted.path(digest) is None
    assert restarted.counts.failures == 1
    assert restarted.put(digest, content)
    assert restarted.get(digest) is not None
    check_books(restarted, tmp_path)


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    tier = DiskTier(tmp_path, 3 * SIZE)
    for i in range(3):
        tier.put(*make(i))
        use(tier, i, at_s=1000 + i)
    assert tier.get(make(0)[0]) is not None
    tier.put(*make(3))
    assert kept(tier, 0, 1, 2, 3) == [True, False, False, True]  # it goes a tenth below its limit
    assert tier.counts.evictions == 2
    check_books(tier, tmp_path)


def test_what_another_process_put_there_counts_when_room_is_made(tmp_path: Path) -> None:
    ours, theirs = DiskTier(tmp_path, 4 * SIZE), DiskTier(tmp_path, 4 * SIZE)
    for i in range(3):
        theirs.put(*make(i))
        use(theirs, i, at_s=1000 + i)
    for i in range(3, 7):
        ours.put(*make(i))
        use(ours, i, at_s=1000 + i)
    ours.put(*make(7))
    assert kept(ours, *range(8)) == [False] * 4 + [True] * 4
    assert theirs.get(make(7)[0]) is not None
    check_books(ours, tmp_path)


def test_too_large_is_not_kept(tmp_path: Path) -> None:
    tier = DiskTier(tmp_path, SIZE - 1)
    assert not tier.put(*make(1))
    assert not DiskTier(tmp_path / "none", 0).put(*make(1))
    assert not (tmp_path / "none").exists()


def test_a_full_disk_is_no_error_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    tier = DiskTier(tmp_path, 10 * SIZE)
    digest, content = make(1)
    with files_of_at_most(SIZE // 2):
        assert not tier.put(digest, content)
    assert tier.counts.failures == 1
    assert tier.path(digest) is None
    check_books(tier, tmp_path)
    assert tier.put(digest, content)


def test_a_folder_that_vanished_is_made_again(tmp_path: Path) -> None:
    tier = DiskTier(tmp_path / "cache", 10 * SIZE)
    tier.put(*make(1))
    shutil.rmtree(tmp_path / "cache")
    assert tier.get(make(1)[0]) is None
    assert tier.put(*make(1))
    assert tier.get(make(1)[0]) is not None


def test_drafts_of_a_killed_process_go_in_time(tmp_path: Path) -> None:
    old, new = (tmp_path / "drafts" / name for name in ("old", "new"))
    for draft in (old, new):
        draft.mkdir(parents=True)
        (draft / TENSORS_FILE).write_bytes(b"half")
    os.utime(old, (1000, 1000))
    DiskTier(tmp_path, SIZE)
    assert (old.exists(), new.exists()) == (False, True)


def test_what_nobody_wants_any_more_is_not_kept(tmp_path: Path) -> None:
    tier = DiskTier(tmp_path, 10 * SIZE)
    assert not tier.put(*make(1), is_wanted=lambda: False)
    assert not list(tmp_path.rglob(TENSORS_FILE))
    assert tier.counts.failures == 0
    check_books(tier, tmp_path)


def test_a_drop_waits_for_a_put_that_was_wanted_and_takes_it_away(tmp_path: Path) -> None:
    tier = DiskTier(tmp_path, 10 * SIZE)
    digest, content = make(1)
    drop = threading.Thread(target=tier.drop, args=(digest,))

    def is_wanted() -> bool:
        drop.start()
        return True

    assert tier.put(digest, content, is_wanted=is_wanted)
    drop.join()
    assert tier.path(digest) is None
    check_books(tier, tmp_path)


def test_two_processes_that_put_and_drop_in_turn_do_not_lose_count(tmp_path: Path) -> None:
    puts, drops = DiskTier(tmp_path, 100 * SIZE), DiskTier(tmp_path, 100 * SIZE)
    for i in range(50):
        puts.put(*make(i))
        drops.drop(make(i)[0])
        assert drops.counts.num_bytes == 0
        assert puts.counts.num_bytes <= 10 * SIZE  # by then it has read the folder again
    check_books(DiskTier(tmp_path, 100 * SIZE), tmp_path)


class SharedFolder(RuleBasedStateMachine):
    """Two processes do as they like with one folder, and the limit holds."""

    MAX_BYTES = 8 * SIZE

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="ramole-disk-tier-"))
        self.tiers = [DiskTier(self.folder, self.MAX_BYTES) for _ in range(2)]

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @property
    def num_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    @rule(who=st.integers(0, 1), i=st.integers(0, 15), size=st.sampled_from([SIZE // 4, SIZE // 2, 3 * SIZE]))
    def put(self, who: int, i: int, size: int) -> None:
        digest, content = make(i, size)
        assert self.tiers[who].put(digest, content)
        assert self.tiers[who].path(digest) is not None

    @rule(who=st.integers(0, 1), i=st.integers(0, 15), size=st.sampled_from([SIZE // 4, SIZE // 2, 3 * SIZE]))
    def drop(self, who: int, i: int, size: int) -> None:
        digest, _ = make(i, size)
        self.tiers[who].drop(digest)
        assert self.tiers[1 - who].get(digest) is None

    @rule(who=st.integers(0, 1))
    def clear(self, who: int) -> None:
        for path in list(self.folder.glob("[0-9a-f][0-9a-f]/*")):
            self.tiers[who].drop(path.name)
        assert self.num_bytes == 0

    @rule(who=st.integers(0, 1))
    def restart(self, who: int) -> None:
        self.tiers[who] = DiskTier(self.folder, self.MAX_BYTES)
        check_books(self.tiers[who], self.folder)

    @invariant()
    def the_limit_holds(self) -> None:
        assert self.num_bytes <= self.MAX_BYTES * 1.2

    @invariant()
    def no_count_is_out_of_bounds(self) -> None:
        for tier in self.tiers:
            assert 0 <= tier.counts.num_bytes <= self.MAX_BYTES * 1.2
            assert tier.counts.num_entries >= 0


TestSharedFolder = SharedFolder.TestCase
TestSharedFolder.settings = settings(max_examples=40, stateful_step_count=50, deadline=None)
