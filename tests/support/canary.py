"""What must never be written or told: a canary among prompts, samples and weights, and whatever looks like a key.

`overheard` hears what a process writes as `ramole serve` would; `CanaryNet` holds every test to it.
"""

from __future__ import annotations

import base64
import io
import logging
import re
import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from google.rpc.status_pb2 import Status

from ramole.gateway.keys import PREFIX
from ramole.observability.logs import ACCESS_LOGGER, ROOT_LOGGER, JsonLines, setup_logging

CANARY = "qanaryqx"
"""A word that stands in prompts, samples and weights, and nowhere else; so short that clipped texts show it whole."""


def _encoded() -> Iterator[str]:
    raw = CANARY.encode()
    yield CANARY
    yield raw.hex()
    yield ", ".join(map(str, raw))
    for shift in range(3):  # whatever stands before it; the characters that depend on neighbours are left out
        text = base64.b64encode(bytes(shift) + raw).decode().rstrip("=")
        yield re.escape(text[-(-8 * shift // 6) : (8 * (shift + len(raw))) // 6])


_FORMS = re.compile("|".join([*_encoded(), rf"\b{PREFIX}[\w-]{{43}}(?![\w-])"]), re.IGNORECASE)


def leaks(text: str, *secrets: str) -> list[str]:
    """What should not be there, with what is around it.

    Args:
        secrets: more of it, e.g. the secret of a system.
    """
    found = [(match.start(), match.end()) for match in _FORMS.finditer(text)]
    for secret in secrets:
        found += [(at, at + len(secret)) for at in [text.find(secret)] if at >= 0]
    return [text[max(0, start - 120) : end + 60] for start, end in found]


def check_silent(text: str, *secrets: str) -> None:
    """Fails where anything leaks, and says where."""
    found = leaks(text, *secrets)
    assert not found, f"{len(found)} leaks, the first:\n{found[0]}"


def told_by(error: Any) -> str:
    """All that a failed call tells, in words."""
    lines = [error.code().name, error.details() or ""]
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            lines += [f"{detail.type_url} {detail.value!r}" for detail in Status.FromString(value).details]
        else:
            lines.append(f"{key}: {value!r}")
    return "\n".join(lines)


class _Handler(logging.StreamHandler[io.StringIO]):
    """Our own records as the server writes them, those of libraries as Python does."""

    def __init__(self) -> None:
        super().__init__(io.StringIO())
        self._ours = JsonLines()

    def format(self, record: logging.LogRecord) -> str:
        is_ours = record.name.partition(".")[0] == ROOT_LOGGER
        return self._ours.format(record) if is_ours else super().format(record)

    def text(self) -> str:
        """What was written so far."""
        return self.stream.getvalue()


@contextmanager
def overheard() -> Iterator[_Handler]:
    """All that is logged inside, at the levels of a server that nobody has configured, and all warnings.

    What is printed is up to pytest's `capfd`.
    """
    loggers = [logging.getLogger(name) for name in (ROOT_LOGGER, ACCESS_LOGGER)]
    before = [(each, each.handlers[:], each.level, each.propagate) for each in loggers]
    handler = _Handler()
    root = logging.getLogger()
    setup_logging(handler.stream)
    root.addHandler(handler)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            yield handler
        finally:
            root.removeHandler(handler)
            handler.stream.write("\n".join(str(each.message) for each in warned))
            for each, handlers, level, propagates in before:
                each.handlers[:], each.propagate = handlers, propagates
                each.setLevel(level)


class CanaryNet:
    """A plugin: a test whose output holds the canary or a key fails, whatever it is about."""

    def __init__(self) -> None:
        self._handler = _Handler()
        self._num_read = 0
        logging.getLogger().addHandler(self._handler)
        logging.getLogger(ROOT_LOGGER).setLevel("INFO")  # as `setup_logging` does

    @pytest.hookimpl(trylast=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """What pytest shows of a failed test stays short: a line for each call would fill pages."""
        shown: Any = session.config.pluginmanager.get_plugin("logging-plugin")
        for handler in (shown.caplog_handler, shown.report_handler):
            handler.setLevel("WARNING")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """After each phase of each test."""
        report = yield
        printed = (text for name, text in report.sections if "log" not in name)
        found = leaks("\n".join([self._handler.text(), *printed]))
        self._handler.setStream(io.StringIO())
        if found and report.outcome != "failed":
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid}: what nobody may see was written:\n{found[0]}"
        return report


_ANSWERS = ("text", "content", "logprobs", "samples")


def texts(value: Any) -> str:
    """A JSON value without what an answer says: the reports in it."""
    if isinstance(value, dict):
        return "\n".join(f"{key}: {texts(its)}" for key, its in value.items() if key not in _ANSWERS)
    return "\n".join(map(texts, value)) if isinstance(value, list) else str(value)
