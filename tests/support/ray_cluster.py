"""A Ray head as `ray start` makes one, with the REST interface by which KubeRay tells Serve what to run."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import psutil

from ramole.app.scratch import MARK, Scratch, members
from ramole.lab.milvus_server import bound_to_parent
from support.server_process import free_port


class RayCluster:
    """One head on loopback, in a session of its own; leaves nothing behind.

    Args:
        log: file for what it prints.
        resources: custom ones, as its node offers them.
        env: for it and all replicas.

    Attributes:
        address: for `ray.init` and `ramole serve --address`.
        env: variables of a process that is to attach to it.
    """

    def __init__(self, log: Path, resources: Mapping[str, float], env: Mapping[str, str] | None = None) -> None:
        self._scratch = Scratch.make()
        self._token = secrets.token_hex(16)
        port, self._dashboard = free_port(), free_port()
        self.address = f"127.0.0.1:{port}"
        self.env = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self._token, "RAY_USAGE_STATS_ENABLED": "0"}
        command = [
            str(Path(sys.executable).with_name("ray")),
            "start",
            "--head",
            "--block",
            "--node-ip-address=127.0.0.1",
            f"--port={port}",
            f"--dashboard-port={self._dashboard}",
            "--dashboard-host=127.0.0.1",
            "--num-cpus=16",
            f"--dashboard-agent-listen-port={free_port()}",
            f"--object-store-memory={100 * 2**20}",
            f"--resources={json.dumps(dict(resources))}",
            f"--temp-dir={self._scratch.path}",
            "--disable-usage-stats",
        ]
        self._log = log.open("wb")
        self._process = subprocess.Popen(
            bound_to_parent(command),
            env=os.environ | self.env | {MARK: str(self._scratch.path)} | dict(env or {}),
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._http = httpx.Client(
            base_url=f"http://127.0.0.1:{self._dashboard}",
            headers={"authorization": f"Bearer {self._token}"},
            timeout=90,
            trust_env=False,
        )

    def wait_until_up(self) -> RayCluster:
        """Returns when the dashboard answers."""
        deadline = time.monotonic() + 120
        while True:
            try:
                if self._http.get("/api/version").status_code == 200:
                    return self
            except httpx.TransportError:
                pass
            assert self._process.poll() is None, "the head has ended"
            assert time.monotonic() < deadline, "the dashboard does not answer"
            time.sleep(0.2)

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None and self._http.get("/api/version").status_code == 200

    def processes(self) -> list[psutil.Process]:
        """All that belong to it."""
        return members(self._scratch.path)

    def replicas(self, service: str) -> set[str]:
        """Ids of the replicas of a service that are RUNNING."""
        deployments = self.applications().get(service, {}).get("deployments", {})
        found = deployments.get(service, {}).get("replicas", [])
        return {each["replica_id"] for each in found if each["state"] == "RUNNING"}

    def apply(self, config: Mapping[str, Any]) -> None:
        """What KubeRay does with ``serveConfigV2``."""
        answer = self._http.put("/api/serve/applications/", json=config)
        assert answer.status_code == 200, answer.text

    def applications(self) -> dict[str, Any]:
        """Status of each application by its name."""
        answer = self._http.get("/api/serve/applications/")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()["applications"]
        return found

    def wait_until_running(self, names: Mapping[str, Any] | tuple[str, ...], limit_s: float = 240) -> dict[str, Any]:
        """Returns their statuses; fails as soon as Serve has given one up."""
        deadline = time.monotonic() + limit_s
        while True:
            found = self.applications()
            statuses = {name: found.get(name, {}).get("status") for name in names}
            if set(statuses.values()) == {"RUNNING"}:
                return found
            assert "DEPLOY_FAILED" not in statuses.values(), {name: each.get("message") for name, each in found.items()}
            assert time.monotonic() < deadline, statuses
            time.sleep(0.5)

    def stop(self) -> None:
        """Ends every process of it."""
        self._http.close()
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._scratch.remove()
        self._log.close()
