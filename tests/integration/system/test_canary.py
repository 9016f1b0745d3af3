"""The five applications on Ray: what is asked stays out of output, Ray's logs, metrics and the audit log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
import psutil

from ramole.app.scratch import MARK
from ramole.v1 import gateway_pb2, records_pb2
from ramole.v1.gateway_pb2_grpc import GatewayStub
from ramole.zoo.catalog import Zoo
from support.canary import CANARY, check_silent, told_by
from support.server_process import ServerProcess
from support.strangers import words

PROMPT = f"{CANARY} {CANARY}"
REQUESTS = {
    "OK": gateway_pb2.GenerateRequest(prompt=PROMPT, sampling={"max_tokens": 4}),
    "INVALID_ARGUMENT": gateway_pb2.GenerateRequest(prompt=f"{PROMPT} " * 150),
    "NOT_FOUND": gateway_pb2.GenerateRequest(prompt=PROMPT, adapters=[{"adapter": "nobody/none"}]),
}


def upload(zoo: Zoo, weights: bytes) -> Iterator[gateway_pb2.UploadAdapterRequest]:
    header = records_pb2.UploadHeader(adapter="canary", samples=[f"{CANARY} of a sample"])
    yield gateway_pb2.UploadAdapterRequest(header=header)
    config = (zoo.adapters[0].path / "adapter_config.json").read_bytes()
    for file, data in (("adapter_config.json", config), ("adapter_model.safetensors", weights)):
        yield gateway_pb2.UploadAdapterRequest(chunk=records_pb2.FileChunk(file=file, data=data))


def ray_logs(system: ServerProcess) -> dict[str, str]:
    """All that Ray keeps of what its processes write."""
    folders = set()
    for process in system.descendants():
        try:
            folders.add(process.environ().get(MARK, ""))
        except psutil.Error:
            continue
    [folder] = folders - {""}
    paths = [path for path in (Path(folder) / "session_latest" / "logs").rglob("*") if path.is_file()]
    return {path.name: path.read_text(errors="replace") for path in paths}


def outcome(call: Callable[[], Any], told: list[str]) -> str:
    """The code of a call; what a failure tells is kept."""
    try:
        call()
    except grpc.RpcError as error:
        told.append(told_by(error))
        return str(error.code().name)
    return "OK"


def test_nothing_is_written(system: ServerProcess, zoo: Zoo) -> None:
    told: list[str] = []
    with grpc.insecure_channel(system.address) as channel:
        stub = GatewayStub(channel)
        for code, request in REQUESTS.items():
            assert outcome(lambda asked=request: list(stub.Generate(asked, timeout=60)), told) == code
        real = (zoo.adapters[0].path / "adapter_model.safetensors").read_bytes()
        for weights, code in ((CANARY.encode() * 20, "INVALID_ARGUMENT"), (real, "OK")):
            sent = upload(zoo, weights)
            assert outcome(lambda parts=sent: stub.UploadAdapter(parts, timeout=60), told) == code
        stub.DeleteAdapter(gateway_pb2.DeleteAdapterRequest(adapter="canary"), timeout=60)
    logs = ray_logs(system)
    assert any('"logger": "ramole.access"' in text for text in logs.values()), "replicas write there"
    with urlopen(f"http://127.0.0.1:{system.metrics_port}/metrics", timeout=30) as page:
        metrics = page.read().decode()
    audit = (system.data_dir / "audit.jsonl").read_text()
    assert '"canary"' in audit.replace("default/canary", "canary")
    check_silent("\n".join([system.log, metrics, audit, *told, *logs.values()]), *words(system.data_dir))
