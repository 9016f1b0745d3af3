"""A two-module base model, adapters for it, and a store on a temporary folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from ramole.adapters.store.files import Files, open_files
from ramole.adapters.store.objects import Objects
from ramole.adapters.store.records import NewAdapter
from ramole.adapters.store.store import Store
from ramole.lora.base import BaseShapes
from support.new_adapter import new_adapter
from support.s3_server import new_bucket, s3_options, s3_server

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
            # Small enough beside a base weight of this shape.
            tensors[f"{name}.lora_A.weight"] = torch.randn(rank, d, generator=generator) * 0.1
            tensors[f"{name}.lora_B.weight"] = torch.randn(o, rank, generator=generator) * 0.1
        config = {
            "peft_type": "LORA",
            "r": rank,
            "lora_alpha": 4,
            "base_model_name_or_path": base_id,
            "target_modules": sorted(base.modules),
        }
        return json.dumps(config).encode(), save(tensors)

    return make


@dataclass(frozen=True)
class Place:
    """Where a store lies."""

    folder: Path
    uri: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def open(self) -> Store:
        return Store.open(self.folder, self.uri, self.options)

    def elsewhere(self, folder: Path) -> Place:
        """The same content, as a server on another machine has it."""
        return replace(self, folder=folder)

    @property
    def files(self) -> Files:
        scratch = self.folder / "scratch"
        return open_files(self.uri, self.options, folder=self.folder, scratch=scratch)

    @property
    def objects(self) -> set[str]:
        return Objects(self.files).digests()


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """Address of a running S3 server."""
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture
def s3_place(s3: str, tmp_path: Path) -> Place:
    return Place(tmp_path / "store", new_bucket(s3), s3_options(s3))


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "folder":
        return Place(tmp_path / "store")
    found: Place = request.getfixturevalue("s3_place")
    return found


@pytest.fixture
def store(place: Place) -> Iterator[Store]:
    opened = place.open()
    yield opened
    opened.close()


@pytest.fixture
def new_at() -> Callable[..., NewAdapter]:
    """An admitted upload, spooled in the scratch folder of a place."""
    counter = iter(range(10_000))

    def make(
        place: Place,
        name: str = "math",
        content: str = "a",
        *,
        key: str = "",
        expected: int | None = None,
        samples: tuple[str, ...] = ("1 + 1",),
    ) -> NewAdapter:
        path = place.folder / "scratch" / f"spooled-{next(counter)}"
        path.write_bytes(content.encode())
        return new_adapter(name, content, path, key=key, expected=expected, samples=samples)

    return make


@pytest.fixture
def new(place: Place, new_at: Callable[..., NewAdapter]) -> Upload:
    """`new_at` the place of the test's store."""
    return partial(new_at, place)
