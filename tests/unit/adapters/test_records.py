"""Manifests: the form on disk, what is read back from it, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramole.adapters.store.local_files import LocalFiles
from ramole.adapters.store.manifests import Manifests
from ramole.adapters.store.records import (
    AdapterRecord,
    Removal,
    State,
    record_from_raw,
    record_to_raw,
    removal_from_raw,
    removal_to_raw,
)
from ramole.core.errors import Corrupt
from ramole.core.names import AdapterName, AdapterRef
from ramole.lora.admission import AdmissionReport

DIGEST = "0123456789abcdef" * 4
REF = AdapterRef("acme", "math", 3, DIGEST)
RECORD = AdapterRecord(
    ref=REF,
    base_model="org/base",
    state=State.LIVE,
    is_public=True,
    report=AdmissionReport(("layers.0.q", "layers.1.q"), 8, 4096, 1.25, 0.5),
    num_bytes=5000,
    num_samples=2,
    samples_sha256="f" * 64,
    created_at=datetime(2026, 11, 28, 12, 30, 15, 250_000, UTC),
    samples=("one", "zwei ☃"),
    idempotency_key="key",
    source="hf://org/repo@main",
    tags=("de", "mail"),
)
MANIFEST: dict[str, Any] = {
    "format": 2,
    "tenant": "acme",
    "name": "math",
    "version": 3,
    "digest": DIGEST,
    "base_model": "org/base",
    "state": "live",
    "is_public": True,
    "report": {
        "modules": ["layers.0.q", "layers.1.q"],
        "rank": 8,
        "num_bytes": 4096,
        "norm": 1.25,
        "relative_norm": 0.5,
    },
    "num_bytes": 5000,
    "num_samples": 2,
    "samples_sha256": "f" * 64,
    "samples": ["one", "zwei ☃"],
    "created_at": "2026-11-28T12:30:15.250000+00:00",
    "idempotency_key": "key",
    "expected_version": None,
    "source": "hf://org/repo@main",
    "tags": ["de", "mail"],
}
REMOVAL = Removal(REF, RECORD.created_at, datetime(2026, 11, 29, tzinfo=UTC), "revoked", "harmful")
GONE: dict[str, Any] = {
    **{key: MANIFEST[key] for key in ("format", "tenant", "name", "version", "digest", "created_at")},
    "removed_at": "2026-11-29T00:00:00+00:00",
    "reason": "revoked",
    "comment": "harmful",
}

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.integers(0, 2**62)
times = st.datetimes(timezones=st.just(UTC))
refs = st.builds(AdapterRef, texts, texts, numbers, st.text("0123456789abcdef", min_size=64, max_size=64))
norms = st.floats(0, allow_infinity=False)
reports = st.builds(AdmissionReport, st.lists(texts, max_size=5).map(tuple), numbers, numbers, norms, st.none() | norms)
records = st.builds(
    AdapterRecord,
    ref=refs,
    base_model=texts,
    state=st.sampled_from(State),
    is_public=st.booleans(),
    report=reports,
    num_bytes=numbers,
    num_samples=numbers,
    samples_sha256=texts,
    created_at=times,
    samples=st.lists(texts, max_size=3).map(tuple),
    idempotency_key=texts,
    expected_version=st.none() | numbers,
    source=texts,
    tags=st.lists(texts, max_size=3).map(tuple),
)
removals = st.builds(Removal, refs, times, times, texts, texts)


@pytest.fixture
def manifests(tmp_path: Path) -> Manifests:
    return Manifests(LocalFiles(tmp_path, tmp_path / "scratch"))


def write(folder: Path, raw: object, suffix: str = ".json") -> None:
    path = folder / "manifests" / "acme" / "math" / f"3{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(raw if isinstance(raw, str) else json.dumps(raw))


def test_the_form_on_disk(manifests: Manifests, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    manifests.create(RECORD)
    assert json.loads((tmp_path / "manifests/acme/math/3.json").read_bytes()) == MANIFEST
    manifests.remove(REMOVAL)
    assert json.loads((tmp_path / "manifests/acme/math/3.gone").read_bytes()) == GONE


def test_what_lies_on_disk_is_read(manifests: Manifests, tmp_path: Path) -> None:
    write(tmp_path, MANIFEST)
    assert manifests.read(REF) == RECORD
    write(tmp_path, MANIFEST | {"report": {k: v for k, v in MANIFEST["report"].items() if k != "relative_norm"}})
    assert manifests.read(REF) == replace(RECORD, report=replace(RECORD.report, relative_norm=None))
    write(tmp_path, {key: value for key, value in MANIFEST.items() if key != "tags"})
    assert manifests.read(REF) == replace(RECORD, tags=()), "written before there were tags"
    write(tmp_path, GONE, ".gone")
    assert manifests.removals(AdapterName("acme", "math")) == [REMOVAL]


@given(records)
def test_a_record_comes_back_as_it_went(record: AdapterRecord) -> None:
    assert record_from_raw(json.loads(json.dumps(record_to_raw(record)))) == record


@given(removals)
def test_a_removal_comes_back_as_it_went(removal: Removal) -> None:
    assert removal_from_raw(json.loads(json.dumps(removal_to_raw(removal)))) == removal


@pytest.mark.parametrize("missing", sorted(MANIFEST.keys() - {"tags"}))
def test_every_field_must_be_there(manifests: Manifests, tmp_path: Path, missing: str) -> None:
    write(tmp_path, {key: value for key, value in MANIFEST.items() if key != missing})
    with pytest.raises(Corrupt):
        manifests.read(REF)
    if missing in GONE and missing != "format":
        write(tmp_path, {key: value for key, value in GONE.items() if key != missing}, ".gone")
        assert manifests.removals(AdapterName("acme", "math")) == []


@pytest.mark.parametrize(
    "damage",
    [
        {"format": 1},
        {"format": "2"},
        {"digest": "0123"},
        {"digest": DIGEST.upper()},
        {"digest": None},
        {"version": "three"},
        {"state": "dead"},
        {"is_public": "perhaps"},
        {"report": []},
        {"report": {**MANIFEST["report"], "modules": "layers"}},
        {"report": {**MANIFEST["report"], "norm": None}},
        {"num_bytes": 1.5},
        {"samples": "one"},
        {"samples": [1]},
        {"created_at": 1_764_333_015},
        {"created_at": "1764333015"},
        {"created_at": "yesterday"},
        {"expected_version": "latest"},
        {"source": None},
    ],
    ids=str,
)
def test_what_is_malformed_is_corrupt_and_left_alone(
    manifests: Manifests, tmp_path: Path, damage: dict[str, Any]
) -> None:
    write(tmp_path, MANIFEST | damage)
    with pytest.raises(Corrupt) as refused:
        manifests.read(REF)
    assert refused.value.field == "adapter"
    assert manifests.load().num_unreadable == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "[1]"])
def test_what_is_no_object_is_corrupt(manifests: Manifests, tmp_path: Path, text: str) -> None:
    write(tmp_path, text)
    with pytest.raises(Corrupt):
        manifests.read(REF)
