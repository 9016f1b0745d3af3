"""JSON lines: one object per record, one line per object. Set up by the composition root only."""

from __future__ import annotations

import json
import logging
import traceback
from datetime import UTC, datetime
from typing import TextIO

from ramole.core.call import entered_call
from ramole.core.errors import told
from ramole.core.texts import visible_json

ROOT_LOGGER = "ramole"
ACCESS_LOGGER = "ramole.access"


class JsonLines(logging.Formatter):
    """Formats a record with its message, its `extra={"fields": {...}}` and its traceback, which quotes no request.

    A line that is written while this task works for a call carries the request id by itself,
    and the trace id if it is traced.
    """

    def format(self, record: logging.LogRecord) -> str:
        """One line, never more: control codes inside values are escaped, so that none reaches a terminal."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        call = entered_call()
        if call is not None:
            line["request_id"] = call.request_id
            if call.trace.trace_id:
                line["trace_id"] = call.trace.trace_id
        fields = getattr(record, "fields", None)
        if isinstance(fields, dict):
            line.update(fields)
        if record.exc_info and record.exc_info[1] is not None:
            line["traceback"] = "".join(_trace(record.exc_info[1], set())).rstrip()
        return visible_json(json.dumps(line, ensure_ascii=False, default=str))


def setup_logging(stream: TextIO, level: str = "INFO", access_level: str = "INFO") -> None:
    """Sends everything that ramole logs to `stream`; other libraries keep their own handlers.

    Args:
        stream: usually standard error.
        level: of the project's loggers.
        access_level: of the access log, which writes one INFO record for each call.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger(ROOT_LOGGER)
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False
    logging.getLogger(ACCESS_LOGGER).setLevel(access_level)


def _trace(error: BaseException, seen: set[int]) -> list[str]:
    """As Python writes it, what it came from first, but of each exception only what may be told."""
    seen.add(id(error))
    lines: list[str] = []
    came_from = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if came_from is not None and id(came_from) not in seen:
        lines += [*_trace(came_from, seen), "\nwhich led to:\n\n"]
    lines += ["Traceback (most recent call last):\n", *traceback.format_tb(error.__traceback__), f"{told(error)}\n"]
    for inner in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
        if id(inner) not in seen:
            lines += ["\nwith:\n\n", *_trace(inner, seen)]
    return lines
