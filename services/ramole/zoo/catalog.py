"""Opens the shipped zoo: paths, samples and test prompts. Reads JSON only; loads no model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ramole.zoo.manifest import Manifest
from ramole.zoo.splits import Example

BASE_ID = "ramole/zoo-base"
BASE_STAGE = "base"
ROUTER_STAGE = "router"
ADAPTERS = "adapters"
SAMPLES = "samples.json"
PROMPTS = "prompts.json"


@dataclass(frozen=True, slots=True)
class ZooAdapter:
    """One shipped adapter.

    Attributes:
        name: of the adapter and of its task.
        cluster: adapters of one cluster do similar things.
        path: a PEFT folder.
        samples: what an upload sends along, 20 prompts.
        prompts: 16 test prompts with the one right answer; every second one in a wording that occurs neither in
            the adapter's training nor in its samples.
        is_held_out: whether the router was trained without it.
    """

    name: str
    cluster: str
    path: Path
    samples: tuple[str, ...]
    prompts: tuple[Example, ...]
    is_held_out: bool


@dataclass(frozen=True, slots=True)
class Zoo:
    """The whole world. `base_id` is the name by which the adapters call their base model."""

    base_id: str
    base_path: Path
    router_path: Path
    adapters: tuple[ZooAdapter, ...]


def load_zoo(root: Path | None = None) -> Zoo:
    """Opens and verifies a zoo; None = the one that ships with the package.

    Raises:
        NotFound: `root` holds no zoo.
        Corrupt: a file does not have the digest that the manifest says.
    """
    root = root or Path(__file__).parent / "data"
    manifest = Manifest.read(root)
    manifest.verify()
    adapters = tuple(_adapter(root, manifest, stage) for stage in manifest.stages if stage.startswith(f"{ADAPTERS}/"))
    return Zoo(manifest.header["base_id"], root / BASE_STAGE, root / ROUTER_STAGE, adapters)


def _adapter(root: Path, manifest: Manifest, stage: str) -> ZooAdapter:
    path, figures = root / stage, manifest.figures(stage)
    return ZooAdapter(
        name=path.name,
        cluster=figures["cluster"],
        path=path,
        samples=tuple(json.loads((path / SAMPLES).read_text("utf-8"))),
        prompts=tuple(Example(**entry) for entry in json.loads((path / PROMPTS).read_text("utf-8"))),
        is_held_out=figures["is_held_out"],
    )
