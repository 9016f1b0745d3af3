"""`generate` and `route`: prompts."""

from __future__ import annotations

from typing import Annotated

import typer

from ramole.cli._asking import (
    Adapters,
    K,
    MaxTokens,
    Preset,
    Seed,
    Stop,
    Tags,
    Temperature,
    check_preset,
    composition_of,
    needs_default,
)
from ramole.cli._common import DEFAULT_ADDRESS, Address, AsJson, connect, run, waiting
from ramole.cli._output import note, say, say_json, say_piece
from ramole.cli._why import show_why


def generate(
    prompt: Annotated[str, typer.Argument(help="Plain prompt.")],
    adapter: Adapters = None,
    preset: Preset = "",
    k: K = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = 0.0,
    seed: Seed = None,
    stop: Stop = None,
    tag: Tags = None,
    why: Annotated[bool, typer.Option("--why", help="Then show what the answer was made of.")] = False,
    as_json: AsJson = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Answer a prompt, streaming; then say which adapters answered."""
    from ramole.client import Chunk, Routing, Usage
    from ramole.core.sampling import Sampling

    async def main() -> None:
        text, used = "", []
        check_preset(preset)
        async with connect(address) as client:
            default = (await client.describe()).default_composition if needs_default(preset, k) else None
            events = client.generate(
                prompt,
                adapters=adapter or (),
                composition=composition_of(preset, k, default),
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


def route(
    prompt: Annotated[str, typer.Argument(help="Plain prompt.")],
    k: Annotated[int, typer.Option(help="How many adapters; 0 = the server's default.")] = 0,
    tag: Tags = None,
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
