"""Whole lines only, whatever the disk does."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ramole.adapters.audit import AuditFile, AuditLog, open_audit
from ramole.core.errors import NotFound, WrongState
from ramole.core.names import AdapterRef
from ramole.core.settings import AdapterSettings, PlainSettings
from support.full_disk import files_of_at_most
from support.s3_server import new_bucket, s3_options

REF = AdapterRef("t", "a", 1, "0" * 64)


async def write(log: AuditLog, detail: str, refs: int = 1) -> None:
    async with log.entry("upload", "t/a") as entry:
        entry.refs, entry.detail = [REF] * refs, detail


def details(path: Path) -> list[str]:
    return [json.loads(line)["detail"] for line in path.read_text().splitlines()]


async def test_one_line_for_each_version_and_for_an_error(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(AuditFile(path))
    await write(log, "first", refs=2)
    with pytest.raises(NotFound):
        async with log.entry("delete", "t/b"):
            raise NotFound("no such adapter")
    path.rename(tmp_path / "older")
    await write(log, "second")
    lines = [json.loads(line) for line in (tmp_path / "older").read_text().splitlines()]
    assert [(line["action"], line["adapter"], line["outcome"], line["reason"]) for line in lines] == [
        ("upload", "t/a@1", "ok", ""),
        ("upload", "t/a@1", "ok", ""),
        ("delete", "t/b", "NotFound", "no such adapter"),
    ]
    assert details(path) == ["second"]


async def test_a_line_that_fits_in_part_is_taken_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(AuditFile(path))
    await write(log, "before")
    size = path.stat().st_size
    with files_of_at_most(size + size // 2):
        await write(log, "lost")
    assert path.stat().st_size == size
    assert "cannot be written" in caplog.text
    assert "lost" in caplog.text
    await write(log, "after")
    assert details(path) == ["before", "after"]


async def test_on_an_object_store_each_action_is_an_object(
    tmp_path: Path, s3: str, caplog: pytest.LogCaptureFixture
) -> None:
    import s3fs

    uri, options = new_bucket(s3), s3_options(s3)
    settings = PlainSettings(data_dir=tmp_path, adapters=AdapterSettings(audit_uri=uri, store_options=options))
    log = open_audit(settings)
    await write(log, "first", refs=2)
    await write(log, "second")
    files = s3fs.S3FileSystem(**options, use_listings_cache=False)
    found = sorted(files.find(uri))
    assert [[json.loads(line)["detail"] for line in files.cat_file(name).splitlines()] for name in found] == [
        ["first", "first"],
        ["second"],
    ]
    files.rm(uri.rpartition("/")[0], recursive=True)
    await write(log, "lost")
    assert "lost" in caplog.text
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("uri", ["file:///tmp/audit", "nowhere://bucket"])
def test_an_audit_log_that_can_be_nowhere(uri: str, tmp_path: Path) -> None:
    with pytest.raises(WrongState) as refused:
        open_audit(PlainSettings(data_dir=tmp_path, adapters=AdapterSettings(audit_uri=uri)))
    assert refused.value.field == "adapters.audit_uri"
