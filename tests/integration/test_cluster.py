"""The system on a Ray that was there before: the very configuration of k8s/, and `ramole serve --address`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ramole.app.services import SERVICES
from ramole.client import SyncRamoleClient
from ramole.lab.milvus_server import MilvusServer
from ramole.zoo.catalog import Zoo
from support.cluster_config import NODE, patched
from support.ray_cluster import RayCluster
from support.s3_server import new_bucket, s3_server
from support.server_process import ServerProcess, free_port

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture
def cluster_store(s3: str) -> str:
    return new_bucket(s3)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, s3: str) -> Iterator[RayCluster]:
    variables = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_ENDPOINT_URL": s3}
    cluster = RayCluster(tmp_path_factory.mktemp("ray") / "ray.log", NODE, variables)
    try:
        yield cluster.wait_until_up()
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def milvus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if not MilvusServer.is_installed():
        pytest.skip("NOT CHECKED: there is no Milvus server here")
    server = MilvusServer(tmp_path_factory.mktemp("milvus")).start()
    yield server.uri
    server.stop()


@pytest.mark.parametrize("overlay", ["cpu-dev", "gpu-prod"])
def test_the_configuration_of_an_overlay_serves(
    overlay: str,
    cluster: RayCluster,
    milvus: str,
    zoo: Zoo,
    tmp_path: Path,
    cluster_store: str,
) -> None:
    world = patched(overlay, tmp_path, milvus, cluster_store)
    grpc_port, http_port = world.grpc_port, world.http_port
    key = world.add_key("tester", "default")
    cluster.apply(world.config)
    try:
        found = cluster.wait_until_running(tuple(SERVICES))
        replicas = {name: len(found[name]["deployments"][name]["replicas"]) for name in SERVICES}
        two = {"embedding", "retrieval", "executor"} if overlay == "gpu-prod" else set()
        assert replicas == {name: 2 if name in two else 1 for name in SERVICES}
        adapter = zoo.adapters[0]
        prompt = adapter.prompts[0].prompt
        with SyncRamoleClient(f"127.0.0.1:{grpc_port}", key=key) as client:
            client.upload(adapter.path, adapter.samples, adapter=adapter.name)
            answer = client.complete(prompt, adapters=[adapter.name])
            assert answer.text
        with httpx.Client(base_url=f"http://127.0.0.1:{http_port}", headers={"authorization": f"Bearer {key}"}) as http:
            told = http.post("/v1/completions", json={"model": adapter.name, "prompt": prompt}, timeout=60)
            assert told.status_code == 200, told.text
            assert told.json()["choices"][0]["text"] == answer.text
            routed = http.post("/v1/completions", json={"model": "auto", "prompt": prompt}, timeout=60)
            assert routed.json()["ramole"][0]["usage"]["adapters"], routed.text
    finally:
        cluster.apply({"applications": []})
    assert cluster.is_alive


def test_serve_attaches_and_takes_only_its_own_away(cluster: RayCluster, tmp_path: Path) -> None:
    server = ServerProcess(
        tmp_path / "data", "--address", cluster.address, env=cluster.env | {"RAMOLE_EXECUTOR__ROUTER": ""}
    )
    try:
        server.wait_until_serving()
        assert set(cluster.applications()) == set(SERVICES)
        second = subprocess.run(
            [Path(sys.executable).with_name("ramole"), "serve", "--address", cluster.address],
            env=os.environ | cluster.env | {"RAMOLE_DATA_DIR": str(tmp_path / "other")},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert second.returncode == 1
        assert "ray.address: applications with the names of our services run there" in second.stderr
    finally:
        assert not server.stop()
    assert cluster.applications() == {}
    assert cluster.is_alive


def test_no_ray_at_an_address_is_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("ramole"), "serve", "--address", f"127.0.0.1:{free_port()}"],
        env=os.environ | {"RAMOLE_DATA_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: there is no Ray to attach to at")
