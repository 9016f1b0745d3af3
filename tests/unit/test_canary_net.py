"""The search for leaks finds them, in whatever form, and the net fails the test that leaks."""

from __future__ import annotations

import base64
import logging
import os
import re
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from ramole.core.errors import WrongState
from ramole.gateway.keys import PREFIX
from ramole.observability.logs import ROOT_LOGGER
from support.canary import CANARY, check_silent, leaks, overheard

KEY = PREFIX + secrets.token_urlsafe(32)
PLANTED = {
    "plain": f"a line about {CANARY} and more",
    "another case": CANARY.upper(),
    "JSON": '{"prompt": "tell ' + CANARY + '"}',
    "bytes": repr(CANARY.encode()),
    "numbers": str(list(CANARY.encode())),
    "hex": ("x" + CANARY + "y").encode().hex(),
    **{f"base64 {n}": base64.b64encode((n * "x" + CANARY + "yz").encode()).decode() for n in range(4)},
    "a key": f"Bearer {KEY}",
    "a key in JSON": f'"{KEY}",',
}


@pytest.mark.parametrize("text", PLANTED.values(), ids=PLANTED)
def test_a_planted_leak_is_found(text: str) -> None:
    assert leaks(text)
    with pytest.raises(AssertionError, match="leak"):
        check_silent(text)


def test_what_is_no_leak_is_none() -> None:
    check_silent(f"the key {PREFIX}... of ann, digest {secrets.token_hex(32)}, rml-short, qanary")
    assert leaks("its secret is abc", "abc")


def test_what_is_logged_is_heard_as_a_server_writes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # the net of this very suite would hear it too
    with overheard() as heard:
        logging.getLogger(f"{ROOT_LOGGER}.x").info("here is %s", CANARY)
        logging.getLogger("some.library").warning("and %s", KEY)
        logging.getLogger("some.library").info("not shown: %s", KEY)
    assert len(leaks(heard.text())) == 2


@pytest.mark.parametrize(
    ("error", "is_told"),
    [
        (KeyError(CANARY), False),
        (ValueError(f"bad value {CANARY}"), False),
        (TypeError(f"{CANARY!r} has type str"), False),
        (OSError(28, "no space left"), True),
        (RuntimeError("out of memory"), True),
        (WrongState("an adapter of another base"), True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_traceback_quotes_no_request(error: Exception, is_told: bool) -> None:
    try:
        try:
            raise error
        except Exception as cause:
            raise RuntimeError("the engine failed") from cause
    except RuntimeError:
        with overheard() as heard:
            logging.getLogger(f"{ROOT_LOGGER}.x").exception("failed")
    text = heard.text()
    check_silent(text)
    assert type(error).__name__ in text
    assert (str(error) in text) == is_told
    assert text.count("test_canary_net.py") == 2, "the frames of both"


LEAKING = f'''
import logging, sys, warnings
import pytest

@pytest.fixture
def late():
    yield
    print("{CANARY}")

def test_prints(): print("it is {CANARY}")
def test_prints_errors(): print("it is {CANARY}", file=sys.stderr)
def test_logs(): logging.getLogger("ramole.access").info("it is %s", "{CANARY}")
def test_a_library_logs(): logging.getLogger("library").warning("it is %s", "{KEY}")
def test_leaks_late(late): pass
def test_is_silent(): logging.getLogger("ramole.access").info("nothing")
'''


CONFTEST = """
from support.canary import CanaryNet

def pytest_configure(config):
    config.pluginmanager.register(CanaryNet())
"""


def test_a_test_that_leaks_fails(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(LEAKING)
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "-p", "no:asyncio", "test_it.py"]
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    run = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        check=False,
        text=True,
        timeout=120,
    )
    every = set(re.findall(r"^(?:FAILED|ERROR|PASSED) test_it.py::(\w+)", run.stdout, re.MULTILINE))
    bad = set(re.findall(r"^(?:FAILED|ERROR) test_it.py::(\w+)", run.stdout, re.MULTILINE))
    assert every - bad == {"test_is_silent"}, run.stdout[-500:].replace(CANARY, "...")
    assert bad == {"test_prints", "test_prints_errors", "test_logs", "test_a_library_logs", "test_leaks_late"}
