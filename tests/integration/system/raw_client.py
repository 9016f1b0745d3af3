"""A client that knows nothing but the .proto files: run as a script with freshly generated stubs on its path.

usage: raw_client.py STUBS ADDRESS FOLDER PROMPT NAME SAMPLES_JSON
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path


def main(stubs: str, address: str, folder: str, prompt: str, name: str, samples: str) -> None:
    sys.path.insert(0, stubs)
    import grpc

    import ramole
    from ramole.v1 import common_pb2, gateway_pb2, gateway_pb2_grpc, records_pb2

    assert Path(str(ramole.__file__)).is_relative_to(stubs), "this test must not use the installed package"

    def upload() -> Iterator[gateway_pb2.UploadAdapterRequest]:
        yield gateway_pb2.UploadAdapterRequest(
            header=records_pb2.UploadHeader(adapter=name, samples=json.loads(samples))
        )
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            data = (Path(folder) / file).read_bytes()
            for start in range(0, len(data), 2**20):
                yield gateway_pb2.UploadAdapterRequest(
                    chunk=records_pb2.FileChunk(file=file, data=data[start : start + 2**20])
                )

    with grpc.insecure_channel(address) as channel:
        gateway = gateway_pb2_grpc.GatewayStub(channel)
        record = gateway.UploadAdapter(upload(), timeout=60).record
        listed = gateway.ListAdapters(gateway_pb2.ListAdaptersRequest(page_size=1000), timeout=30).records
        request = gateway_pb2.GenerateRequest(
            prompt=prompt,
            adapters=[gateway_pb2.WeightedAdapter(adapter=name)],
            composition=common_pb2.Composition(preset=common_pb2.PRESET_SELECTION),
        )
        events = list(gateway.Generate(request, timeout=60))
        try:
            list(gateway.Generate(gateway_pb2.GenerateRequest(), timeout=30))
            refusal = "none"
        except grpc.RpcError as error:
            refusal = f"{error.code().name} {error.details()}"
        gateway.DeleteAdapter(gateway_pb2.DeleteAdapterRequest(adapter=name), timeout=30)
    said = {
        "version": record.adapter.version,
        "modules": len(record.report.modules),
        "listed": [r.adapter.name for r in listed],
        "events": [event.WhichOneof("event") for event in events],
        "text": "".join(event.chunk.text for event in events),
        "used": [a.adapter.name for a in events[-1].usage.adapters],
        "refusal": refusal,
    }
    sys.stdout.write(json.dumps(said))


if __name__ == "__main__":
    main(*sys.argv[1:])
