"""The demonstration: the whole system on this machine, real adapters, plain prompts, and what became of each."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ramole.client import Completion, RamoleClient, StepSnapshot
from ramole.core.composition import PRESETS, Composition
from ramole.core.sampling import Sampling
from ramole.core.texts import visible
from ramole.zoo.catalog import Example, Zoo, ZooAdapter

if TYPE_CHECKING:
    from rich.table import Table

MAX_TOKENS = 24
NUM_PROMPTS = 36

Progress = Callable[[str, int], AbstractContextManager[Callable[[], None]]]
"""``with progress(what, total) as advance: advance()`` after each of `total` parts."""


@dataclass(frozen=True, slots=True)
class Answered:
    """One prompt with its right answer and what came back."""

    example: Example
    completion: Completion

    @property
    def is_correct(self) -> bool:
        """Whether the text is exactly the expected one."""
        return self.completion.text.strip() == self.example.answer


@dataclass(frozen=True, slots=True)
class DemoReport:
    """Everything that the demo shows.

    Attributes:
        names: adapter name by digest.
        by_preset: right answers to the mixed batch under each preset; empty unless asked for.
    """

    mixed: tuple[Answered, ...]
    base: tuple[Answered, ...]
    unseen_adapter: str
    unseen_before: tuple[Answered, ...]
    unseen_after: tuple[Answered, ...]
    fullest_step: StepSnapshot
    names: dict[str, str]
    by_preset: dict[str, int]
    seconds: float

    def summary(self) -> dict[str, int | float]:
        """The figures of the demo, as `ramole demo --json` prints them."""
        return {
            "prompts": len(self.mixed),
            "correct": _count(self.mixed),
            "base_correct": _count(self.base),
            "unseen_before": _share(self.unseen_before),
            "unseen_after": _share(self.unseen_after),
            "max_batch": max(len(self.fullest_step.mask), *(a.completion.usage.max_batch for a in self.mixed)),
            "max_unique_adapters": len(self.fullest_step.digests),
            "seconds": round(self.seconds, 1),
        }


async def run_demo(
    address: str, zoo: Zoo, progress: Progress, started_s: float, *, compares_presets: bool = False
) -> DemoReport:
    """Plays the demo against a running system that holds no adapter of the zoo yet.

    Args:
        address: of the public port.
        started_s: `time.monotonic` at the start of the whole demo, for the total.
        compares_presets: ask the mixed batch under every preset as well.
    """
    # The first that nobody can stand in for, of a skill that neither router nor retriever was trained with.
    sizes = Counter(adapter.cluster for adapter in zoo.adapters)
    unseen = next(adapter for adapter in zoo.adapters if adapter.is_new_skill and sizes[adapter.cluster] == 1)
    known = [adapter for adapter in zoo.adapters if adapter is not unseen]
    examples = [adapter.prompts[i] for i in range(len(known[0].prompts)) for adapter in known][:NUM_PROMPTS]
    async with RamoleClient(address) as client:
        with progress(f"uploading {len(known)} adapters", len(known)) as advance:
            for adapter in known:
                await _upload(client, adapter)
                advance()
        bare = Composition(k=0)
        base = await _ask(client, examples, progress, "asking the base model alone", composition=bare)
        mixed = await _ask(client, examples, progress, "asking with retrieved adapters")
        by_preset = {}
        for name, composition in PRESETS.items() if compares_presets else ():
            answers = await _ask(client, examples, progress, f"asking with preset {name}", composition=composition)
            by_preset[name] = _count(answers)
        before = await _ask(client, unseen.prompts, progress, f"asking for {unseen.name}, which nobody has uploaded")
        await _upload(client, unseen)
        after = await _ask(client, unseen.prompts, progress, "asking the same once it is uploaded")
        fullest = (await client.describe()).fullest_step
        names = {record.ref.digest: record.ref.name async for record in client.adapters()}
    seconds = time.monotonic() - started_s
    return DemoReport(mixed, base, unseen.name, before, after, fullest, names, by_preset, seconds)


async def _upload(client: RamoleClient, adapter: ZooAdapter) -> None:
    await client.upload(adapter.path, adapter.samples, adapter=adapter.name)


async def _ask(
    client: RamoleClient,
    examples: Sequence[Example],
    progress: Progress,
    what: str,
    composition: Composition | None = None,
) -> tuple[Answered, ...]:
    """All prompts at once, none of them naming an adapter. No `composition` = the server's default."""
    sampling = Sampling(max_tokens=MAX_TOKENS)
    with progress(what, len(examples)) as advance:

        async def ask(example: Example) -> Answered:
            completion = await client.complete(example.prompt, sampling=sampling, composition=composition)
            advance()
            return Answered(example, completion)

        return tuple(await asyncio.gather(*map(ask, examples)))


def _count(answers: Iterable[Answered]) -> int:
    return sum(answer.is_correct for answer in answers)


def _share(answers: Sequence[Answered]) -> float:
    return round(_count(answers) / len(answers), 3)


def answers_table(title: str, answers: Sequence[Answered]) -> Table:
    """Prompt, adapters with similarity, mean weights, answer, expected answer, right or wrong."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(visible(title)), title_justify="left", show_lines=False, expand=True)
    table.add_column("prompt", ratio=5, overflow="ellipsis", no_wrap=True)
    table.add_column("retrieved adapters: similarity, mean weight", ratio=6, overflow="ellipsis", no_wrap=True)
    table.add_column("answer", ratio=3, overflow="ellipsis", no_wrap=True)
    table.add_column("expected", ratio=3, overflow="ellipsis", no_wrap=True)
    table.add_column("", width=1)
    for answer in answers:
        used = ", ".join(
            f"{used.ref.name} {used.similarity:.2f} {used.mean_weight:.2f}" for used in answer.completion.usage.adapters
        )
        texts = (answer.example.prompt, used or "none", answer.completion.text, answer.example.answer)
        mark = Text("✓", "green") if answer.is_correct else Text("✗", "red")
        table.add_row(*(Text(visible(text)) for text in texts), mark)
    return table


def mask_picture(step: StepSnapshot, names: Mapping[str, str]) -> str:
    """M, one line for each request of the step, one column for each unique adapter."""
    rows = "\n".join("  " + " ".join("■" if used else "·" for used in row) for row in step.mask)
    columns = "\n".join(f"  {j:2d} {name}" for j, name in enumerate(names.get(d, d[:12]) for d in step.digests))
    b, p = len(step.mask), len(step.digests)
    return (
        f"The fullest step ran b = {b} requests ({step.tokens} tokens) with p = {p} unique adapters in one forward.\n"
        f"M [{b} x {p}], requests down, adapters across:\n{rows}\ncolumns:\n{columns}"
    )
