"""litellm as a client of the HTTP port, in an environment of its own: it is too large to live beside the tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ramole.core.settings import HttpSettings
from support.world_thread import world_thread

VERSION = "1.110.2"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment that has litellm."""
    folder = tmp_path_factory.mktemp("litellm")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=120)
    found = folder / "bin" / "python"
    done = subprocess.run(
        [found, "-m", "pip", "install", "-q", f"litellm=={VERSION}"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"litellm cannot be installed here: {done.stderr[-300:]}")
    return found


def test_it_completes_streams_and_is_refused(python: Path) -> None:
    with world_thread(http=HttpSettings(port=0)) as world:
        done = subprocess.run(
            [python, Path(__file__).with_name("litellm_client.py")],
            env={"PATH": os.environ["PATH"], "URL": world.url, "KEY": "none", "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])  # it says more, in front
    kind, message = said.pop("refused")
    assert kind == "NotFoundError"
    assert "nobody" in message
    texts = dict.fromkeys(("whole", "streamed", "async", "text"), "twowords")
    assert said == texts | {"tokens": 2}
