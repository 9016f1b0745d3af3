"""`reindex`: the vector index rebuilt from the store."""

from __future__ import annotations

from rich.progress import BarColumn, MofNCompleteColumn, TimeElapsedColumn

from ramole.cli._common import DEFAULT_ADDRESS, Address, AsJson, connect, run
from ramole.cli._output import progress, say, say_json


def reindex(address: Address = DEFAULT_ADDRESS, as_json: AsJson = False) -> None:
    """Embed every adapter anew with the configured encoder, while the server goes on serving.

    For a new retriever: set embedding.encoder to it and embedding.previous to the one so far, restart, and run this.
    Stopped half-way, it goes on from there next time.
    """
    from ramole.client import ReindexProgress

    async def main() -> ReindexProgress:
        with progress(BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()) as display:
            task = display.add_task("embedding adapters", total=None)
            async with connect(address) as client:
                async for step in client.reindex():
                    display.update(task, completed=step.done, total=step.total)
        return step

    done = run(main)
    facts = {"generation": done.generation, "encoder_id": done.encoder_id, "adapters": done.total}
    if as_json:
        say_json(facts)
    else:
        say(f"generation {done.generation} serves: {done.total} adapters by {done.encoder_id}")
