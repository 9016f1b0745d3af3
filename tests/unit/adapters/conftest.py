"""A two-module base model, adapters for it, and a store on a temporary folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from ramole.adapters.records import NewAdapter
from ramole.adapters.store import Store
from ramole.core.names import AdapterName
from ramole.lora.admission import AdmissionReport
from ramole.lora.base import BaseShapes
from ramole.lora.digest import content_digest

MakeFiles = Callable[..., tuple[bytes, bytes]]
Upload = Callable[..., NewAdapter]


@pytest.fixture(scope="session")
def base() -> BaseShapes:
    return BaseShapes("tiny", {"m.q": (64, 48), "m.v": (64, 32)})


@pytest.fixture(scope="session")
def make_files(base: BaseShapes) -> MakeFiles:
    """(config, tensors) of a good adapter; another seed is other content."""

    def make(seed: int = 0, *, rank: int = 2, base_id: str = "tiny") -> tuple[bytes, bytes]:
        generator = torch.Generator().manual_seed(seed)
        tensors = {}
        for module, (d, o) in base.modules.items():
            name = f"base_model.model.{module}"
            tensors[f"{name}.lora_A.weight"] = torch.randn(rank, d, generator=generator)
            tensors[f"{name}.lora_B.weight"] = torch.randn(o, rank, generator=generator)
        config = {"peft_type": "LORA", "r": rank, "lora_alpha": 4, "base_model_name_or_path": base_id}
        return json.dumps(config).encode(), save(tensors)

    return make


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> Iterator[Store]:
    opened = Store.open(root)
    yield opened
    opened.close()


@pytest.fixture
def new(root: Path) -> Upload:
    """An admitted upload, spooled in the store's scratch folder."""
    counter = iter(range(10_000))

    def make(
        name: str = "math",
        content: str = "a",
        *,
        key: str = "",
        expected: int | None = None,
        samples: tuple[str, ...] = ("1 + 1",),
    ) -> NewAdapter:
        path = root / "scratch" / f"spooled-{next(counter)}"
        path.write_bytes(content.encode())
        return NewAdapter(
            name=AdapterName.parse(name),
            base_model="tiny",
            is_public=False,
            samples=samples,
            idempotency_key=key,
            expected_version=expected,
            report=AdmissionReport(("m.q",), 2, 100, 1.5),
            digest=content_digest(b"{}", content.encode()),
            config_json=b"{}",
            tensors_path=path,
        )

    return make
