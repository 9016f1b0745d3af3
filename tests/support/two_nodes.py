"""Two Ray nodes in two network namespaces, joined by a cable that can be cut, and faults of them under load.

Run as a script inside ``unshare -n --pid --fork --mount-proc --kill-child``: nothing outside can reach it, and all that
it has started ends with it. Writes a line of JSON for each fault: ``{"row": {...}, "complaints": [...]}``.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import psutil

from ramole.app.serve_config import serve_config
from ramole.app.services import SERVICES
from ramole.core.settings import PlainSettings
from ramole.gateway.keys import KeyFile
from ramole.lab.chaos.traffic import Traffic
from ramole.zoo.catalog import load_zoo
from statuses import ROWS
from support.fault_report import row_of
from support.fleet import replicas_of, serving_gateways
from support.traffic_tasks import two_tenants
from support.traffic_world import following

HEAD, WORKER = "10.9.0.1", "10.9.0.2"
REDIS = 6379
NEEDED = ("redis-server", "nft", "ip", "unshare", "nsenter")
CODES = frozenset(row.kind.reason() for row in ROWS)
CALM_S, START_S = 5.0, 240.0

# Custom resources: of the many, one replica on each node; the single writers beside Ray's head.
SPREAD = {f"place-{name}": 1.0 for name in ("embedding", "executor", "gateway")}
SINGLE = {"place-single": 2.0}


class Nodes:
    """Redis, the head with GCS and the single writers, and a worker with one replica of everything else.

    Args:
        folder: for everything that they write.
        counts: replicas of each service.
    """

    def __init__(self, folder: Path, counts: dict[str, int]) -> None:
        self._folder, self._counts = folder, counts
        # A health check each second: in a cluster Ray takes half a minute to give a node up.
        self._env = os.environ | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": (token := secrets.token_hex(16)),
            "RAY_USAGE_STATS_ENABLED": "0",
            **{f"RAY_health_check_{name}_ms": "2000" for name in ("initial_delay", "period", "timeout")},
            "RAY_health_check_failure_threshold": "3",
            "RAY_gcs_rpc_server_reconnect_timeout_s": "120",
        }
        self._http = httpx.Client(
            base_url=f"http://{HEAD}:8265", headers={"authorization": f"Bearer {token}"}, timeout=30, trust_env=False
        )
        self._redis: subprocess.Popen[bytes] | None = None
        self._wire()

    def start(self, config: dict[str, Any]) -> None:
        """Returns when everything runs, on both nodes."""
        self.start_redis()
        self.start_head()
        wait(lambda: self._http.get("/api/version").status_code == 200)
        self.start_worker()
        answer = self._http.put("/api/serve/applications/", json=config)
        assert answer.status_code == 200, answer.text
        wait(lambda: set(self._statuses()) == {"RUNNING"})
        self.wait_until_whole()

    def wait_until_whole(self) -> None:
        """Returns when every service has all of its replicas again. Asks no dashboard: it ends with the GCS."""
        wait(lambda: all(len(replicas_of(name, psutil.process_iter())) == self._counts[name] for name in SERVICES))
        wait(lambda: len(self.gateways()) == self._counts["gateway"])

    def gateways(self) -> list[str]:
        """Addresses of those that serve."""
        found = []
        for process in psutil.process_iter():
            ip = WORKER if self._is_on_worker(process) else HEAD
            found += [f"{ip}:{address.rpartition(':')[2]}" for address in serving_gateways([process], host=ip)]
        return found

    def start_redis(self) -> None:
        with (self._folder / "redis.log").open("ab") as log:
            self._redis = subprocess.Popen(
                f"redis-server --bind {HEAD} --port {REDIS} --protected-mode no --appendonly yes".split(),
                cwd=self._folder,
                stdout=log,
                stderr=log,
            )

    def kill_redis(self) -> None:
        assert self._redis is not None
        self._redis.kill()
        self._redis.wait()

    def start_head(self) -> None:
        self._ray(
            *("--head", f"--node-ip-address={HEAD}", "--port=6399", "--dashboard-host=0.0.0.0"),
            *("--dashboard-port=8265", f"--resources={json.dumps(SPREAD | SINGLE)}", f"--temp-dir={self._folder}/ray"),
            name="head",
            env={"RAY_REDIS_ADDRESS": f"{HEAD}:{REDIS}", "RAY_external_storage_namespace": "drill"},
        )

    def start_worker(self) -> None:
        """Joins, also again after the cluster has given it up."""
        self._ray(
            *(f"--address={HEAD}:6399", f"--node-ip-address={WORKER}", f"--resources={json.dumps(SPREAD)}"),
            name="worker",
            into=("nsenter", "-t", str(self._holder.pid), "-n"),
        )

    def kill_worker(self) -> None:
        """kill -9 of everything on the second node, as when its machine dies."""
        for process in psutil.process_iter():
            if process.pid != self._holder.pid and self._is_on_worker(process):
                with suppress(psutil.Error):
                    process.kill()

    def has_gcs(self) -> bool:
        return bool(self._gcs())

    def kill_gcs(self) -> None:
        for process in self._gcs():
            process.kill()

    def restart_gcs(self) -> None:
        """With the command line that `ray start` gave it, as its pod does."""
        self._gcs_log = (self._folder / "gcs.log").open("ab")
        subprocess.Popen(
            self._gcs_command, env=self._gcs_env, stdout=self._gcs_log, stderr=self._gcs_log, start_new_session=True
        )

    def note_gcs(self) -> None:
        """What it takes to start it again."""
        (gcs,) = self._gcs()
        self._gcs_command, self._gcs_env = gcs.cmdline(), gcs.environ()

    def cut(self) -> None:
        """No packet passes between the nodes."""
        sh("nft add table inet cut")
        for hook in ("input", "output"):
            sh(f"nft add chain inet cut {hook} '{{ type filter hook {hook} priority 0; }}'")
            side = "saddr" if hook == "input" else "daddr"
            sh(f"nft add rule inet cut {hook} ip {side} {WORKER} drop")

    def heal(self) -> None:
        sh("nft delete table inet cut")

    @staticmethod
    def _gcs() -> list[psutil.Process]:
        found = (each for each in psutil.process_iter(["name", "status"]) if "gcs_server" in each.info["name"])
        return [each for each in found if each.info["status"] != psutil.STATUS_ZOMBIE]

    def _wire(self) -> None:
        sh("ip link set lo up")
        self._holder = subprocess.Popen(["unshare", "-n", "sleep", "infinity"])
        wait(lambda: self._namespace(self._holder.pid) != self._namespace(os.getpid()))
        inside = f"nsenter -t {self._holder.pid} -n"
        sh(f"ip link add left type veth peer name right netns {self._holder.pid}")
        for prefix, link, ip in (("", "left", HEAD), (inside, "right", WORKER)):
            sh(f"{prefix} ip link set lo up; {prefix} ip addr add {ip}/24 dev {link}; {prefix} ip link set {link} up")

    def _is_on_worker(self, process: psutil.Process) -> bool:
        return self._namespace(process.pid) == self._namespace(self._holder.pid)

    @staticmethod
    def _namespace(pid: int) -> str:
        with suppress(OSError):
            return os.readlink(f"/proc/{pid}/ns/net")
        return ""

    def _statuses(self) -> list[str]:
        found = self._http.get("/api/serve/applications/").raise_for_status().json()["applications"]
        return [found.get(name, {}).get("status", "MISSING") for name in SERVICES]

    def _ray(self, *options: str, name: str, env: dict[str, str] | None = None, into: Sequence[str] = ()) -> None:
        ray = str(Path(sys.executable).with_name("ray"))
        common = ("--num-cpus=16", f"--object-store-memory={100 * 2**20}", "--disable-usage-stats")
        with (self._folder / f"{name}.log").open("ab") as log:
            done = subprocess.run(
                [*into, ray, "start", *options, *common],
                env=self._env | (env or {}),
                stdout=log,
                stderr=log,
                timeout=START_S,
                check=False,
            )
        assert done.returncode == 0, (self._folder / f"{name}.log").read_text()[-3000:]


def settings(folder: Path) -> PlainSettings:
    """Two of what keeps nothing, one on each node; the index is in a folder beside the store: no Milvus is needed."""
    (folder / "key").write_text(secrets.token_hex(32))
    open_host = {"host": "0.0.0.0"}

    def many(name: str) -> dict[str, Any]:
        return {"replicas": 2, "server": open_host, "resources": {"custom": {f"place-{name}": 1}}}

    single = {"server": open_host, "resources": {"custom": {"place-single": 1}}}
    return PlainSettings(
        data_dir=folder / "data",
        internal={"secret_file": folder / "key"},
        adapters=single,
        retrieval=single,
        embedding=many("embedding"),
        executor=many("executor"),
        gateway=many("gateway")
        | {"server": open_host | {"port": 0}, "http": {"port": None}, "keys_file": folder / "keys.json"},
    )


async def drill(folder: Path, report: Path) -> None:
    given = settings(folder)
    nodes = Nodes(folder, {name: spec.section(given).replicas for name, spec in SERVICES.items()})
    tenants = two_tenants(load_zoo(), KeyFile(folder / "keys.json"))
    nodes.start(serve_config(given))
    nodes.note_gcs()

    async def after(seconds: float, act: Callable[[], None]) -> None:
        await asyncio.sleep(seconds)
        await asyncio.to_thread(act)

    async def redis() -> None:
        nodes.kill_redis()
        await after(10, nodes.start_redis)
        # The GCS has ended itself when Redis was gone.
        await asyncio.to_thread(wait, lambda: not nodes.has_gcs())
        nodes.restart_gcs()

    async def gcs() -> None:
        nodes.kill_gcs()
        await after(8, nodes.restart_gcs)

    async def partition() -> None:
        nodes.cut()
        await after(20, nodes.heal)
        # Ray has given the node up for good: it must join anew.
        await asyncio.to_thread(nodes.kill_worker)
        await asyncio.to_thread(nodes.start_worker)

    async def node() -> None:
        nodes.kill_worker()
        await after(10, nodes.start_worker)

    faults = {"kill -9 of Redis": redis, "kill -9 of the GCS": gcs, "partition of a node": partition}
    for name, fault in (faults | {"kill -9 of a node": node}).items():
        async with following(nodes.gateways) as service:
            traffic = Traffic(service.address, tenants, CODES, askers=2)
            await traffic.set_up()
            async with traffic.running():
                await asyncio.sleep(CALM_S)
                since_s = traffic.now_s
                await fault()
                await asyncio.to_thread(nodes.wait_until_whole)
                await asyncio.sleep(CALM_S)
            await traffic.close()
        line = {
            "row": asdict(row_of(name, traffic.history, since_s, "")),
            "complaints": list(traffic.history.complaints()),
        }
        with report.open("a") as file:
            file.write(json.dumps(line) + "\n")


def missing() -> list[str]:
    """Programs that are not here."""
    return [name for name in NEEDED if shutil.which(name) is None]


def inside_namespaces(command: Sequence[str]) -> list[str]:
    """`command`, in namespaces of its own."""
    return ["unshare", "-n", "--pid", "--fork", "--mount-proc", f"--kill-child={signal.Signals.SIGKILL.name}", *command]


def wait(holds: Callable[[], bool]) -> None:
    """Returns once it does."""
    deadline = time.monotonic() + START_S
    while True:
        with suppress(httpx.HTTPError):
            if holds():
                return
        assert time.monotonic() < deadline
        time.sleep(0.5)


def sh(line: str) -> None:
    subprocess.run(line, shell=True, check=True)


if __name__ == "__main__":
    asyncio.run(drill(Path(sys.argv[1]), Path(sys.argv[2])))
