"""Bad input gets the right status with field and remedy, and leaves nothing behind."""

from __future__ import annotations

import json
import pickle
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status
from safetensors.numpy import load_file, save_file

from ramole.v1 import common_pb2, gateway_pb2, gateway_pb2_grpc, records_pb2
from ramole.zoo.catalog import Zoo, ZooAdapter
from support.server_process import ServerProcess

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
PRECONDITION, EXHAUSTED = grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.fixture
async def stub(system: ServerProcess) -> AsyncIterator[gateway_pb2_grpc.GatewayStub]:
    async with grpc.aio.insecure_channel(system.address) as channel:
        yield gateway_pb2_grpc.GatewayStub(channel)


def error_info(error: grpc.aio.AioRpcError) -> ErrorInfo:
    status = rpc_status.from_call(error)
    assert status is not None, error.details()
    info = ErrorInfo()
    assert any(detail.Unpack(info) for detail in status.details)
    assert info.domain == "ramole"
    return info


GENERATE_CASES = {
    "empty prompt": (gateway_pb2.GenerateRequest(prompt="  "), INVALID, "prompt"),
    "k out of range": (
        gateway_pb2.GenerateRequest(prompt="x", composition=common_pb2.Composition(k=9)), INVALID, "composition.k",
    ),
    "tau out of range": (
        gateway_pb2.GenerateRequest(prompt="x", composition=common_pb2.Composition(tau=0)), INVALID, "composition.tau",
    ),
    "explicit without adapters": (
        gateway_pb2.GenerateRequest(
            prompt="x", composition=common_pb2.Composition(weighting=common_pb2.WEIGHTING_EXPLICIT)
        ),
        INVALID, "adapters",
    ),
    "unknown adapter": (
        gateway_pb2.GenerateRequest(prompt="x", adapters=[gateway_pb2.WeightedAdapter(adapter="nobody/none")]),
        NOT_FOUND, "adapters",
    ),
    "bad adapter name": (
        gateway_pb2.GenerateRequest(prompt="x", adapters=[gateway_pb2.WeightedAdapter(adapter="a b")]),
        INVALID, "adapters",
    ),
    "wrong base": (gateway_pb2.GenerateRequest(prompt="x", base_model="other/model"), PRECONDITION, "base_model"),
    "too many tokens": (
        gateway_pb2.GenerateRequest(prompt="x", sampling=common_pb2.Sampling(max_tokens=10**6)),
        INVALID, "sampling.max_tokens",
    ),
    "longer than the context": (
        gateway_pb2.GenerateRequest(prompt="word " * 2000), INVALID, "prompt",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", GENERATE_CASES)
async def test_a_bad_request_names_field_and_remedy(stub: gateway_pb2_grpc.GatewayStub, case: str) -> None:
    request, code, field = GENERATE_CASES[case]
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        async for _ in stub.Generate(request, timeout=60):
            pass
    assert raised.value.code() is code, raised.value.details()
    info = error_info(raised.value)
    assert info.metadata["field"].startswith(field)
    assert info.metadata["remedy"]
    assert info.metadata["request_id"]


class Upload:
    """The messages of one upload of a zoo adapter, to be spoilt."""

    def __init__(self, adapter: ZooAdapter, name: str) -> None:
        self.header = records_pb2.UploadHeader(adapter=name, samples=adapter.samples)
        self.config = (adapter.path / "adapter_config.json").read_bytes()
        self.tensors = (adapter.path / "adapter_model.safetensors").read_bytes()
        self.tensors_name = "adapter_model.safetensors"

    def messages(self) -> Iterator[gateway_pb2.UploadAdapterRequest]:
        yield gateway_pb2.UploadAdapterRequest(header=self.header)
        for file, data in (("adapter_config.json", self.config), (self.tensors_name, self.tensors)):
            for at in range(0, len(data), 2**20):
                chunk = records_pb2.FileChunk(file=file, data=data[at : at + 2**20])
                yield gateway_pb2.UploadAdapterRequest(chunk=chunk)


def spoil(upload: Upload, case: str, tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    path.write_bytes(upload.tensors)
    match case:
        case "wrong base":
            upload.header.base_model = "other/model"
        case "wrong base in the config":
            upload.config = json.dumps(json.loads(upload.config) | {"base_model_name_or_path": "x/y"}).encode()
        case "corrupt safetensors":
            upload.tensors = upload.tensors[:1000]
        case "oversized":
            upload.tensors += bytes(4 * 2**20)
        case "pickle":
            upload.tensors, upload.tensors_name = pickle.dumps({"a": 1}), "adapter_model.bin"
        case "pickle under a false name":
            upload.tensors = pickle.dumps({"a": 1}, protocol=2)
        case "NaN":
            tensors = load_file(path)
            tensors[sorted(tensors)[0]][0, 0] = float("nan")
            save_file(tensors, path)
            upload.tensors = path.read_bytes()
        case "no samples":
            del upload.header.samples[:]
        case "DoRA":
            upload.config = json.dumps(json.loads(upload.config) | {"use_dora": True}).encode()
        case "changes nothing":
            tensors = load_file(path)
            save_file({name: value * (0 if "lora_B" in name else 1) for name, value in tensors.items()}, path)
            upload.tensors = path.read_bytes()
        case "wrong sha256":
            upload.header.sha256["adapter_model.safetensors"] = "0" * 64


UPLOAD_CASES = {
    "wrong base": (PRECONDITION, "base_model"),
    "wrong base in the config": (PRECONDITION, "adapter_config.json"),
    "corrupt safetensors": (INVALID, "adapter_model.safetensors"),
    "oversized": (EXHAUSTED, ""),
    "pickle": (INVALID, ""),
    "pickle under a false name": (INVALID, "adapter_model.safetensors"),
    "NaN": (INVALID, "adapter_model.safetensors"),
    "no samples": (INVALID, ""),
    "DoRA": (INVALID, "adapter_config.json"),
    "changes nothing": (INVALID, "adapter_model.safetensors"),
    "wrong sha256": (INVALID, ""),
}


def footprint(system: ServerProcess) -> list[str]:
    """Every file of the adapter store."""
    return sorted(str(p.relative_to(system.data_dir)) for p in (system.data_dir / "store").rglob("*") if p.is_file())


@pytest.mark.parametrize("case", UPLOAD_CASES)
async def test_a_bad_upload_is_refused_and_leaves_nothing_behind(
    stub: gateway_pb2_grpc.GatewayStub, system: ServerProcess, zoo: Zoo, tmp_path: Path, case: str
) -> None:
    code, field = UPLOAD_CASES[case]
    name = f"bad-{case.replace(' ', '-')}"
    upload = Upload(zoo.adapters[0], name)
    spoil(upload, case, tmp_path)
    before = footprint(system)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.UploadAdapter(upload.messages(), timeout=60)
    assert raised.value.code() is code, raised.value.details()
    info = error_info(raised.value)
    assert info.metadata["field"].startswith(field)
    assert info.metadata["remedy"]
    assert footprint(system) == before
    with pytest.raises(grpc.aio.AioRpcError) as missing:
        await stub.GetAdapter(gateway_pb2.GetAdapterRequest(adapter=name), timeout=60)
    assert missing.value.code() is NOT_FOUND


async def test_a_broken_upload_stream_leaves_nothing_behind(
    stub: gateway_pb2_grpc.GatewayStub, system: ServerProcess, zoo: Zoo
) -> None:
    before = footprint(system)
    call = stub.UploadAdapter(timeout=60)
    messages = list(Upload(zoo.adapters[0], "broken").messages())
    for message in messages[:-1]:
        await call.write(message)
    call.cancel()
    with pytest.raises(grpc.aio.AioRpcError) as missing:
        await stub.GetAdapter(gateway_pb2.GetAdapterRequest(adapter="broken"), timeout=60)
    assert missing.value.code() is NOT_FOUND
    assert footprint(system) == before
