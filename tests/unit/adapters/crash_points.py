"""Kills a writing process with SIGKILL before every single file operation of a fixed scenario, one after the other, and
checks each time what a restart finds. A script, so that it may fork: pytest's process has threads.

Writes the number of crash points; any broken promise ends it with an AssertionError.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from ramole.adapters.store.files import Files
from ramole.adapters.store.local_files import LocalFiles
from ramole.adapters.store.objects import Objects
from ramole.adapters.store.store import Store
from ramole.core.names import AdapterName, AdapterRef
from support.new_adapter import new_adapter

EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"}
SCENARIO = [
    ("live", "math", "a"),
    ("live", "math", "b"),
    ("live", "sums", "a"),
    ("live", "math", "e"),
    ("live", "sums", "e"),
    ("revoke", "math@3", ""),
    ("staged", "sums", "c"),
    ("delete", "math@1", ""),
    ("discard", "sums", "d"),
    ("delete", "math", ""),
]


SHORT = [("live", "math", "a"), ("live", "math", "b"), ("delete", "math@1", ""), ("discard", "sums", "b")]


def kill_before(number: int) -> None:
    """Arms the process: it dies before its `number`-th file operation."""
    left = number

    def count() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = lambda handle: count()  # type: ignore[assignment]
    sys.addaudithook(lambda event, _: count() if event in EVENTS else None)


def stage(store: Store, name: str, content: str) -> AdapterRef:
    path = store.scratch / f"upload-{name}-{content}"
    path.write_bytes(content.encode())
    return store.put(new_adapter(name, content, path))[0].ref


def run(store: Store, log: Callable[[str], object], scenario: Sequence[tuple[str, str, str]] = SCENARIO) -> None:
    """The scenario. Every promise goes to `log` when it begins and when it has been made."""
    for verb, name, content in scenario:
        if verb in ("delete", "revoke"):
            live = [r.ref for r in store.page(None, 99, lambda _: True)]
            target = AdapterName.parse(name, tenant="default")
            doomed = [ref for ref in live if ref.name == target.name and target.version in (0, ref.version)]
            if verb == "revoke":
                doomed = [ref for ref in live if ref.digest in {other.digest for other in doomed}]
            for ref in doomed:
                log(f"deleting {ref} {ref.digest}")
            for ref in store.delete(target) if verb == "delete" else store.revoke(target):
                log(f"deleted {ref} {ref.digest}")
            store.save_catalog()
            continue
        ref = stage(store, name, content)
        log(f"{'discarded' if verb == 'discard' else 'staged'} {ref} {ref.digest}")
        if verb == "live":
            log(f"publishing {ref} {ref.digest}")
            store.publish(ref)
            log(f"live {ref} {ref.digest}")
        elif verb == "discard":
            store.discard(ref)
    store.close()


def check(store: Store, log: Iterable[str], files: Files) -> None:
    """A restart, `store`, finds what was promised, and nothing half done. `files` are its own."""
    last: dict[str, str] = {}
    numbers: dict[str, list[int]] = {"math": [0], "sums": [0]}
    digests: dict[tuple[str, str], str] = {}
    for line in log:
        word, ref, digest = line.split()
        last[ref], digests[ref, digest] = word, digest
        name, _, version = ref.partition("/")[2].partition("@")
        if word in ("live", "deleting", "deleted"):
            numbers[name].append(int(version))
    found = {str(record.ref): record for record in store.page(None, 99, lambda _: True)}
    for ref, word in last.items():
        if word == "live":
            assert ref in found, f"{ref} was acknowledged and is lost"
        if word in ("deleted", "staged", "discarded"):
            assert ref not in found, f"{ref} is back although it was last {word}"
    for ref, record in found.items():
        assert record.is_live
        assert (ref, record.ref.digest) in digests
        store.read(record.ref.digest)
        assert store.with_samples(record).samples
    store.sweep()
    used = {record.ref.digest for record in found.values()}
    assert Objects(files).digests() == used, "content without an adapter"
    assert list(store.scratch.iterdir()) == []
    for name, versions in numbers.items():
        assert stage(store, name, "new").version > max(versions), "a number of a live version was used twice"
    store.close()


def main(folder: Path) -> None:
    """Crash point after crash point, until the scenario outruns the killer."""
    # A killed process loses nothing that it has handed to the kernel; syncing would only cost time here.
    os.fsync = lambda handle: None  # type: ignore[assignment]
    number = 0
    while True:
        number += 1
        root, log = folder / "store", folder / "log"
        handle = os.open(log, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        child = os.fork()
        if child == 0:
            kill_before(number)
            run(Store.open(root), partial(print, file=os.fdopen(handle, "w"), flush=True))
            os._exit(0)
        os.close(handle)
        _, status = os.waitpid(child, 0)
        check(
            Store.open(root),
            log.read_text().splitlines(),
            LocalFiles(root, root / "scratch"),
        )
        shutil.rmtree(root)
        if not os.WIFSIGNALED(status):
            assert os.waitstatus_to_exitcode(status) == 0
            sys.stdout.write(str(number - 1))
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]))
