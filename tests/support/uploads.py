"""What the store gets of an upload."""

from __future__ import annotations

from typing import Any

from ramole.v1.adapters_pb2 import PutRequest
from ramole.v1.gateway_pb2 import UploadAdapterRequest


def put_request(**part: Any) -> PutRequest:
    """One message of an upload, with its `header` or its `chunk`."""
    return PutRequest(upload=UploadAdapterRequest(**part))
