"""`generate` and `route`: prompts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from ramole.cli._common import DEFAULT_ADDRESS, Address, AsJson, connect, run, waiting
from ramole.cli._completion import complete_adapter
from ramole.cli._output import note, say, say_json, say_piece
from ramole.cli._why import show_why
from ramole.core.composition import PRESETS, Composition
from ramole.core.errors import InvalidInput

if TYPE_CHECKING:
    from ramole.client import RamoleClient


def generate(
    prompt: Annotated[str, typer.Argument(help="Plain prompt.")],
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            help="Use this adapter instead of retrieval; may be given several times.", autocompletion=complete_adapter
        ),
    ] = None,
    preset: Annotated[str, typer.Option(help=f"One of {', '.join(PRESETS)}.")] = "",
    k: Annotated[int | None, typer.Option(help="Adapters to retrieve; 0 = the base model alone.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Tokens to generate at most; absent = as many as fit.")] = None,
    temperature: Annotated[float, typer.Option(help="0 = greedy.")] = 0.0,
    seed: Annotated[int | None, typer.Option(help="Of the random numbers; the same seed, the same answer.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Cut the answer before this text.")] = None,
    tag: Annotated[
        list[str] | None, typer.Option(help="Retrieve only adapters with this tag; given several times, with all.")
    ] = None,
    why: Annotated[bool, typer.Option("--why", help="Then show what the answer was made of.")] = False,
    as_json: AsJson = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Answer a prompt, streaming; then say which adapters answered."""
    from ramole.client import Chunk, Routing, Usage
    from ramole.core.sampling import Sampling

    async def main() -> None:
        text, used = "", []
        async with connect(address) as client:
            composition = await _composition(client, preset, k)
            events = client.generate(
                prompt,
                adapters=adapter or (),
                composition=composition,
                sampling=Sampling(max_tokens=max_tokens, temperature=temperature, seed=seed, stop=tuple(stop or ())),
                tags=tag or (),
            )
            with waiting("waiting for the answer") as has_come:
                async for event in events:
                    if isinstance(event, Chunk):
                        has_come()
                        text += event.text
                        if not as_json:
                            say_piece(event.text)
                    elif isinstance(event, Routing):
                        routing = event
                    elif isinstance(event, Usage):
                        usage = event
                        used = [
                            {"adapter": str(a.ref), "similarity": a.similarity, "mean_weight": a.mean_weight}
                            for a in event.adapters
                        ]
        if as_json:
            say_json({"text": text, "adapters": used})
            return
        say("")
        if why:
            show_why(routing, usage)
            return
        for a in used:
            note(f"  {a['adapter']}  similarity {a['similarity']:.2f}  weight {a['mean_weight']:.2f}")

    run(main)


async def _composition(client: RamoleClient, preset: str, k: int | None) -> Composition | None:
    """What --preset and --k ask for; None = the server's default."""
    if not preset and k is None:
        return None
    if preset and preset not in PRESETS:
        raise InvalidInput(f"no preset {preset!r}", field="--preset", remedy=f"use one of {', '.join(PRESETS)}")
    composition = PRESETS[preset] if preset else (await client.describe()).default_composition
    return composition if k is None else replace(composition, k=k)


def route(
    prompt: Annotated[str, typer.Argument(help="Plain prompt.")],
    k: Annotated[int, typer.Option(help="How many adapters; 0 = the server's default.")] = 0,
    tag: Annotated[
        list[str] | None, typer.Option(help="Retrieve only adapters with this tag; given several times, with all.")
    ] = None,
    as_json: AsJson = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Say which adapters a prompt would get, without generating."""
    from ramole.client import Route

    async def main() -> Route:
        async with connect(address) as client:
            return await client.route(prompt, k=k, tags=tag or ())

    found = run(main)
    if as_json:
        say_json([{"adapter": str(a.ref), "similarity": a.similarity} for a in found.adapters])
        return
    for a in found.adapters:
        say(f"{a.similarity:+.3f}  {a.ref}")
    if found.doubt is not None:
        note(f"doubt that any of them was made for it: {found.doubt:.2f}")
