"""Prometheus itself, with the configuration that is shipped."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.pages import ROOT
from support.server_process import free_port

SHIPPED = ROOT / "ops" / "prometheus"

_START_S = 60.0


def binary(name: str) -> str:
    """`prometheus` or `promtool`; the test is skipped where it is not installed."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed (Debian: apt-get install prometheus): OPS/PROMETHEUS IS NOT TESTED")
    return path


def rules() -> list[dict[str, Any]]:
    """Every rule that is shipped."""
    files = [yaml.safe_load(path.read_text()) for path in sorted((SHIPPED / "rules").glob("*.yml"))]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def shown() -> list[str]:
    """Every expression of every dashboard, with values for Grafana's variables."""
    pages = [json.loads(path.read_text()) for path in sorted((ROOT / "ops" / "grafana").glob("*.json"))]
    expressions = [target["expr"] for page in pages for panel in page["panels"] for target in panel["targets"]]
    return [each.replace("$__rate_interval", "5m").replace("$job", "ramole") for each in expressions]


def runbook_expressions() -> dict[str, str]:
    """What each runbook looks at first."""
    found = {}
    for path in sorted((ROOT / "ops" / "runbooks").glob("*.md")):
        [expression] = re.findall(r"```text\n(.*?)\n```", path.read_text(), re.DOTALL)
        found[path.stem] = expression
    return found


class Prometheus:
    """One that runs, at `url`. All methods raise AssertionError when it says that something is wrong."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path: str, **parameters: str) -> Any:
        """The data of an answer of its API."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of every series."""
        found = self.get("query", query=expression)["result"]
        return [(each["metric"], float(each["value"][1])) for each in found]

    def until(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """The same, once it is not empty."""
        deadline = time.monotonic() + _START_S
        while not (found := self.query(expression)):
            assert time.monotonic() < deadline, f"nothing for {expression}"
            time.sleep(0.2)
        return found

    def silent(self, expressions: Collection[str]) -> list[str]:
        """Those for which there is nothing, even after a while: a scrape that came too late empties all gauges."""
        deadline = time.monotonic() + 10
        while True:
            expressions = [each for each in expressions if not self.query(each)]
            if not expressions or time.monotonic() > deadline:
                return expressions
            time.sleep(0.5)


@contextmanager
def prometheus_of(metrics_port: int, folder: Path) -> Iterator[Prometheus]:
    """Runs it on what is shipped, but for the address of the target and the pace.

    Args:
        folder: for its data.
    """
    program, port = binary("prometheus"), free_port()
    config = (SHIPPED / "prometheus.yml").read_text()
    for shipped, here in (
        (r"_interval: 15s", "_interval: 1s"),
        (r"127\.0\.0\.1:9464", f"127.0.0.1:{metrics_port}"),
        (r"rules/\*\.yml", str(SHIPPED / "rules" / "*.yml")),
    ):
        config, changes = re.subn(shipped, here, config)
        assert changes, f"{shipped} is not in the shipped configuration"
    (folder / "prometheus.yml").write_text(config)
    command = [
        program,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--web.listen-address=127.0.0.1:{port}",
        f"--storage.tsdb.path={folder / 'data'}",
    ]
    with (folder / "prometheus.log").open("wb") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            _wait(f"http://127.0.0.1:{port}/-/ready", process, folder / "prometheus.log")
            yield Prometheus(port)
        finally:
            process.terminate()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
