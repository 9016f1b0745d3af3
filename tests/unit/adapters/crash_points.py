"""Kills a writing process with SIGKILL before every single file operation of a fixed scenario, one after the other, and
checks each time what a restart finds. A script, so that it may fork: pytest's process has threads.

Writes the number of crash points; any broken promise ends it with an AssertionError.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

from ramole.adapters.records import NewAdapter
from ramole.adapters.store import Store
from ramole.core.names import AdapterName, AdapterRef
from ramole.lora.admission import AdmissionReport
from ramole.lora.digest import content_digest

EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"}
SCENARIO = [
    ("live", "math", "a"),
    ("live", "math", "b"),
    ("live", "sums", "a"),
    ("staged", "sums", "c"),
    ("delete", "math@1", ""),
    ("discard", "sums", "d"),
    ("delete", "math", ""),
    ("live", "math", "e"),
    ("delete", "sums", ""),
]


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
    new = NewAdapter(
        name=AdapterName.parse(name),
        base_model="tiny",
        is_public=False,
        samples=("sample",),
        idempotency_key="",
        expected_version=None,
        report=AdmissionReport(("m.q",), 2, 100, 1.5),
        digest=content_digest(b"{}", content.encode()),
        config_json=b"{}",
        tensors_path=path,
    )
    return store.put(new)[0].ref


def run(root: Path, log: int) -> None:
    """The scenario. Every promise is written to `log` when it begins and when it has been made."""
    store = Store.open(root)
    for verb, name, content in SCENARIO:
        if verb == "delete":
            doomed = [r.ref for r in store.page(None, 99, lambda _: True)]
            target = AdapterName.parse(name)
            for ref in doomed:
                if (ref.tenant, ref.name) == (target.tenant, target.name) and target.version in (0, ref.version):
                    os.write(log, f"deleting {ref} {ref.digest}\n".encode())
            for ref in store.delete(target):
                os.write(log, f"deleted {ref} {ref.digest}\n".encode())
            continue
        ref = stage(store, name, content)
        os.write(log, f"{'discarded' if verb == 'discard' else 'staged'} {ref} {ref.digest}\n".encode())
        if verb == "live":
            os.write(log, f"publishing {ref} {ref.digest}\n".encode())
            store.publish(ref)
            os.write(log, f"live {ref} {ref.digest}\n".encode())
        elif verb == "discard":
            store.discard(ref)
    store.close()


def check(root: Path, log: Path) -> None:
    """A restart finds what was promised, and nothing half done."""
    last: dict[str, str] = {}
    digests: dict[str, str] = {}
    for line in log.read_text().splitlines():
        word, ref, digest = line.split()
        last[ref], digests[ref] = word, digest
    store = Store.open(root)
    found = {str(record.ref): record for record in store.page(None, 99, lambda _: True)}
    for ref, word in last.items():
        if word == "live":
            assert ref in found, f"{ref} was acknowledged and is lost"
        if word in ("deleted", "staged", "discarded"):
            assert ref not in found, f"{ref} is back although it was last {word}"
    for ref, record in found.items():
        assert record.is_live
        assert digests[ref] == record.ref.digest
        store.read(record.ref.digest)
    used = {record.ref.digest for record in found.values()}
    assert {path.name for path in (root / "objects").glob("*/*")} == used, "content without an adapter"
    assert list(store.scratch.iterdir()) == []
    for name in ("math", "sums"):
        versions = [int(ref.rpartition("@")[2]) for ref in last if f"/{name}@" in ref]
        assert stage(store, name, "new").version > max(versions, default=0), "a number was used twice"
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
            run(root, handle)
            os._exit(0)
        os.close(handle)
        _, status = os.waitpid(child, 0)
        check(root, log)
        shutil.rmtree(root)
        if not os.WIFSIGNALED(status):
            assert os.waitstatus_to_exitcode(status) == 0
            sys.stdout.write(str(number - 1))
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]))
