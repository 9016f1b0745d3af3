"""What clients of the public service can see, and that the check of `make protos-check` notices a broken promise."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor import FileDescriptor

from ramole.transport.stubs import TRIED_ONCE
from ramole.v1 import adapters_pb2, embedding_pb2, executor_pb2, gateway_pb2, retrieval_pb2

PROTOS = Path(__file__).parents[3] / "protos"


def behind(file: FileDescriptor) -> set[str]:
    return {file.name}.union(*(behind(each) for each in file.dependencies))


def test_the_public_service_shows_no_internal_message() -> None:
    assert behind(gateway_pb2.DESCRIPTOR) == {
        "ramole/v1/gateway.proto",
        "ramole/v1/records.proto",
        "ramole/v1/common.proto",
        "google/protobuf/timestamp.proto",
    }


def test_what_is_tried_once_exists() -> None:
    files = (adapters_pb2, embedding_pb2, executor_pb2, retrieval_pb2)
    services = [service for file in files for service in file.DESCRIPTOR.services_by_name.values()]
    assert {f"/{service.full_name}/{method.name}" for service in services for method in service.methods} >= TRIED_ONCE


@pytest.mark.parametrize(
    ("line", "instead", "says"),
    [
        ("  double norm = 4;\n", "", "was deleted"),
        ("  double norm = 4;\n", "  float norm = 4;\n", "changed type"),
        ("  uint32 rank = 2;\n", "  uint32 largest_rank = 2;\n", "changed name"),
    ],
)
def test_a_promise_to_released_clients_cannot_be_broken(tmp_path: Path, line: str, instead: str, says: str) -> None:
    protos = tmp_path / "protos"
    shutil.copytree(PROTOS, protos)
    records = protos / "ramole/v1/records.proto"
    text = records.read_text()
    assert line in text
    records.write_text(text.replace(line, instead))
    buf = Path(sys.executable).parent / "buf"
    command = [buf, "breaking", protos, "--against", PROTOS / "released.binpb"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode
    assert says in done.stdout, done.stdout + done.stderr
