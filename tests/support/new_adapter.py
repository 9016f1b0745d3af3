"""What the store gets of an admitted upload."""

from __future__ import annotations

from pathlib import Path

from ramole.adapters.store.records import NewAdapter
from ramole.core.names import AdapterName
from ramole.lora.admission import AdmissionReport
from ramole.lora.digest import content_digest


def new_adapter(
    name: str,
    content: str,
    path: Path,
    *,
    key: str = "",
    expected: int | None = None,
    samples: tuple[str, ...] = ("1 + 1",),
) -> NewAdapter:
    """`path` holds `content`."""
    return NewAdapter(
        name=AdapterName.parse(name, tenant="default"),
        base_model="tiny",
        is_public=False,
        samples=samples,
        idempotency_key=key,
        expected_version=expected,
        report=AdmissionReport(("m.q",), 2, 100, 1.5),
        num_bytes=2 + len(content.encode()),
        digest=content_digest(b"{}", content.encode()),
        config_json=b"{}",
        tensors_path=path,
    )
