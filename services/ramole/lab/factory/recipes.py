"""What a zoo is built from, and the presets."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field

from ramole.lab.factory.adapters import RECIPES, AdapterRecipe
from ramole.lab.factory.base import BaseRecipe, Phase
from ramole.lab.factory.tasks import TASKS, Task
from ramole.lab.training.router import RouterRecipe

SHIPPED_DOMAINS = (
    *("hotel", "hostel", "movie", "fruits", "vegetables", "tools", "cable", "country", "creature"),
    *("pet", "car", "scores", "animal", "birthday", "bank", "words"),
)
TINY_DOMAINS = ("hotel", "hostel", "country", "bank", "shop")


@dataclass(frozen=True, slots=True)
class ZooRecipe:
    """What a zoo is built from.

    Attributes:
        world: the tasks that the base model learns to know.
        tasks: one adapter is made for each; a part of `world`.
        base: the base model.
        adapters: the tasks of the world take these in turns.
        router: the RouterLoRA.
        router_rank: Q.
    """

    world: tuple[Task, ...] = TASKS
    tasks: tuple[Task, ...] = TASKS
    base: BaseRecipe = field(default_factory=BaseRecipe)
    adapters: tuple[AdapterRecipe, ...] = RECIPES
    router: RouterRecipe = field(default_factory=RouterRecipe)
    router_rank: int = 8

    def adapter(self, task: Task) -> AdapterRecipe:
        """How this task's adapter is made; the same whatever other tasks there are."""
        return self.adapters[self.world.index(task) % len(self.adapters)]

    @property
    def digest(self) -> str:
        """Differs between recipes that differ."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def _tasks_of(domains: tuple[str, ...]) -> tuple[Task, ...]:
    return tuple(task for task in TASKS if task.domain in domains)


PRESETS: dict[str, ZooRecipe] = {
    "full": ZooRecipe(),
    "shipped": ZooRecipe(tasks=_tasks_of(SHIPPED_DOMAINS)),
    "tiny": ZooRecipe(
        world=_tasks_of(TINY_DOMAINS),
        tasks=_tasks_of(TINY_DOMAINS),
        base=BaseRecipe(
            hidden=64,
            layers=2,
            heads=4,
            kv_heads=2,
            intermediate=176,
            batch=32,
            phases=(
                Phase(steps=600, fit=0.95, plain=0.4, lr=(5e-3, 2e-3), pairs=0.0, chatter=0.0),
                Phase(steps=150, fit=0.9, plain=0.3, lr=(2e-3, 5e-4), pairs=0.2),
                Phase(steps=50, fit=0.3, plain=0.5, lr=(5e-4, 1e-4)),
            ),
        ),
        adapters=tuple(RECIPES[i] for i in (0, 1, 3, 5)),
        router=RouterRecipe(steps=40, num_groups=4),
    ),
}
