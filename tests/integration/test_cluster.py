"""The system on a Ray that was there before: the very configuration of k8s/, and `ramole serve --address`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from ramole.app.services import SERVICES
from ramole.client import SyncRamoleClient
from ramole.gateway.keys import KeyFile, Role
from ramole.lab.milvus_server import MilvusServer
from ramole.zoo.catalog import Zoo
from support.certificates import Authority
from support.manifests import ROOT
from support.ray_cluster import RayCluster
from support.s3_server import new_bucket, s3_server
from support.server_process import ServerProcess, free_port

pytestmark = pytest.mark.slow

NODE = {"ramole-services": 32.0, "ramole-gateway": 4.0, "ramole-executor": 4.0}


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


def patched(overlay: str, folder: Path, milvus: str, store: str) -> tuple[dict[str, Any], int, int, str]:
    """The overlay's configuration with this machine's paths and ports, a small base model, and no GPU.

    Returns:
        it, the ports of gRPC and HTTP, and an API key.
    """
    patch = yaml.safe_load((ROOT / "k8s" / "overlays" / overlay / "serve-config.yaml").read_text())
    config: dict[str, Any] = yaml.safe_load(patch["spec"]["serveConfigV2"])
    settings = config["applications"][0]["args"]["settings"]
    grpc_port, http_port = free_port(), free_port()
    settings["data_dir"] = str(folder / "data")
    settings.pop("base_model", None)
    gateway = settings["gateway"]
    _, key = KeyFile(folder / "keys.json").add("tester", "default", Role.ADMIN)
    gateway["keys_file"] = str(folder / "keys.json")
    gateway["server"]["port"], gateway["http"]["port"] = grpc_port, http_port
    gateway["replicas"] = 1  # whose ports are fixed, on one machine
    settings["executor"] |= {"device": "cpu", "dtype": "float32", "max_len": 256}
    settings["retrieval"]["uri"] = milvus
    settings["retrieval"]["token_file"] = str(folder / "token")
    (folder / "token").write_text("root:Milvus\n")
    if "secret_file" in settings["internal"]:
        (folder / "key").write_text("k" * 64)
        settings["internal"]["secret_file"] = str(folder / "key")
    else:
        tls = settings["internal"]["tls"]
        files = Authority().write(folder, tls["server_name"])
        for name, path in zip(("cert_file", "key_file", "ca_file"), files, strict=True):
            tls[name] = str(path)
    for field in ("store_uri", "audit_uri"):
        if field in settings["adapters"]:
            settings["adapters"][field] = f"{store}/{field}"
    for application in config["applications"]:
        application["args"]["settings"] = settings
    config["http_options"] = {"host": "127.0.0.1", "port": free_port()}
    return config, grpc_port, http_port, key


@pytest.mark.parametrize("overlay", ["cpu-dev", "gpu-prod"])
def test_the_configuration_of_an_overlay_serves(
    overlay: str,
    cluster: RayCluster,
    milvus: str,
    zoo: Zoo,
    tmp_path: Path,
    cluster_store: str,
) -> None:
    config, grpc_port, http_port, key = patched(overlay, tmp_path, milvus, cluster_store)
    cluster.apply(config)
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
