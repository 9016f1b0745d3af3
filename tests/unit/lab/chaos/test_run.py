"""What a user reads of a run: his plan is checked before anything is sent, and every second is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from ramole.core.errors import InvalidInput, RamoleError
from ramole.lab.chaos.history import OK, Asked, Changed, History
from ramole.lab.chaos.plan import read_plan
from ramole.lab.chaos.run import DOCUMENTED, report
from statuses import ROWS

PLAN = """
tenants:
  - name: ann
    key_file: ann.key
    adapters:
      - {name: sql, folder: adapters/sql, samples: samples.txt}
  - name: bob
    key_file: ann.key
    adapters:
      - {name: haiku, folder: /adapters/haiku, samples: samples.txt, prompts: [rain]}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "ann.key").write_text(" secret\n")
    (tmp_path / "samples.txt").write_text("one\ntwo\nthree\nfour\n")
    (tmp_path / "empty.key").write_text("\n")
    return tmp_path


def plan(folder: Path, text: str) -> Path:
    path = folder / "chaos.yaml"
    path.write_text(text)
    return path


def test_paths_count_from_the_plan_and_samples_are_asked(folder: Path) -> None:
    ann, bob = read_plan(plan(folder, PLAN))
    assert (ann.name, ann.key, bob.name) == ("ann", "secret", "bob")
    assert ann.tasks[0].folder == folder / "adapters" / "sql"
    assert ann.tasks[0].samples == ("one", "two", "three", "four")
    assert ann.tasks[0].prompts == ("one", "two", "three")
    assert bob.tasks[0].folder == Path("/adapters/haiku")
    assert bob.tasks[0].prompts == ("rain",)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("name: bob", "name: ann", "each tenant"),
        ("key_file: ann.key\n", "key_file: none.key\n", "none.key"),
        ("key_file: ann.key\n", "key_file: empty.key\n", "is empty"),
        ("folder: adapters/sql, ", "", "adapters.0.folder"),
        ("prompts: [rain]", "prompt: rain", "adapters.0.prompt"),
        ("samples: samples.txt}", "samples: none.txt}", "none.txt"),
        ("tenants:", "tenant:", "tenants"),
    ],
)
def test_a_wrong_plan_is_refused_by_name(old: str, new: str, told: str, folder: Path) -> None:
    with pytest.raises(RamoleError, match=told):
        read_plan(plan(folder, PLAN.replace(old, new)))


def test_one_tenant_is_too_few(folder: Path) -> None:
    with pytest.raises(InvalidInput, match="tenants"):
        read_plan(plan(folder, PLAN.split("  - name: bob", maxsplit=1)[0]))


def test_every_second_is_told_by_code() -> None:
    def asked(end_s: float, code: str) -> Asked:
        return Asked("ann", end_s - 0.1, end_s, 5.0, code)

    changed = [Changed("upload", "ann/new", 11.0, 12.5, "UNAVAILABLE")]
    history = History(
        DOCUMENTED, [asked(10.2, OK), asked(10.9, OK), asked(12.1, "UNAVAILABLE"), asked(12.2, "HUH")], changed
    )
    told = report(history, since_s=10.0)
    assert told["by_second"] == [
        {"second": 0, "requests": {OK: 2}, "changes": {}},
        {"second": 2, "requests": {"UNAVAILABLE": 1, "HUH": 1}, "changes": {"UNAVAILABLE": 1}},
    ]
    assert (told["requests"], told["failed"], told["changes"], told["failed_changes"], told["lost"]) == (4, 2, 1, 1, 0)
    assert (told["first_failure_s"], told["last_failure_s"]) == (2.1, 2.2)
    assert told["complaints"] == ["an answer ended with HUH, which no documentation knows"]


def test_what_is_documented_is_what_the_documentation_has() -> None:
    assert {row.kind.reason() for row in ROWS} <= DOCUMENTED
