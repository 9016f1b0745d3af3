from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator

import pytest

from ramole.core.call import CallContext, call_scope
from ramole.observability.logs import ACCESS_LOGGER, ROOT_LOGGER, setup_logging


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    loggers = [logging.getLogger(ROOT_LOGGER), logging.getLogger(ACCESS_LOGGER)]
    before = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    yield io.StringIO()
    for logger, handlers, level, propagates in before:
        logger.handlers[:], logger.propagate = handlers, propagates
        logger.setLevel(level)


def test_a_record_is_one_line_of_json_whatever_it_holds(stream: io.StringIO) -> None:
    setup_logging(stream)
    try:
        raise RuntimeError("two\nlines")
    except RuntimeError:
        logging.getLogger("ramole.x").exception("bad\n%s", "ü", extra={"fields": {"request_id": "r", "odd": object()}})
    (text,) = stream.getvalue().splitlines()
    line = json.loads(text)
    assert line["message"] == "bad\nü"
    assert line["request_id"] == "r"
    assert (line["level"], line["logger"]) == ("error", "ramole.x")
    assert "RuntimeError: two\nlines" in line["traceback"]


async def test_a_line_carries_the_id_of_the_call_that_it_is_written_for(stream: io.StringIO) -> None:
    setup_logging(stream)
    log = logging.getLogger("ramole.x")
    log.warning("before")
    with call_scope(CallContext.begin("r-1")):
        log.warning("here")
        later = asyncio.create_task(asyncio.to_thread(log.warning, "in its thread"))
    log.warning("after")
    await later
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    found = {line["message"]: line.get("request_id") for line in lines}
    assert found == {"before": None, "here": "r-1", "in its thread": "r-1", "after": None}


def test_no_code_of_what_users_wrote_reaches_a_terminal(stream: io.StringIO) -> None:
    setup_logging(stream)
    hostile = "\x1b[31m\x9b31m\u202e\x7f\ud800 漢"
    logging.getLogger("ramole.x").warning("%s", hostile)
    assert json.loads(stream.getvalue())["message"] == hostile
    assert not set(hostile) - set("漢 [31m") & set(stream.getvalue())


def test_levels_are_set_apart_and_setting_up_twice_logs_once(stream: io.StringIO) -> None:
    setup_logging(stream)
    setup_logging(stream, level="WARNING", access_level="ERROR")
    logging.getLogger("ramole.x").info("no")
    logging.getLogger(ACCESS_LOGGER).warning("no")
    logging.getLogger("ramole.x").warning("yes")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["yes"]
