"""What the operator sees of replicas: their troubles, whole lines, once; not their calls and not other libraries."""

from __future__ import annotations

import io
import logging
from pathlib import Path

from ramole.app.replica_logs import ReplicaLogs
from ramole.observability.logs import ACCESS_LOGGER, JsonLines


def line(level: int, logger: str, message: str, **fields: str) -> str:
    record = logging.LogRecord(logger, level, __file__, 1, message, None, None)
    record.fields = fields
    return JsonLines().format(record) + "\n"


def test_troubles_are_copied_once_and_whole(tmp_path: Path) -> None:
    stream = io.StringIO()
    logs = ReplicaLogs(tmp_path, stream)
    logs.copy()  # before there is any file
    failed = line(logging.ERROR, "ramole.transport.call_bracket", "/x/Generate failed", request_id="r-1")
    warned = line(logging.WARNING, "ramole.retrieval.index", "cannot connect to Milvus: ü")
    first, second = tmp_path / "worker-a.err", tmp_path / "worker-b.err"
    first.write_text(
        line(logging.INFO, ACCESS_LOGGER, "call", code="INTERNAL") + failed + 'noise\n{"level": "error"\n["error"]\n'
    )
    second.write_text(warned[:20])
    (tmp_path / "worker-a.out").write_text(failed)
    (tmp_path / "raylet.err").write_text(failed)
    logs.copy()
    assert stream.getvalue() == failed
    with second.open("a") as file:
        file.write(warned[20:])
    logs.copy()
    logs.copy()
    assert stream.getvalue() == failed + warned
    assert "r-1" in stream.getvalue()
