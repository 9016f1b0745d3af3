"""`generate` and `route`: prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ramole.cli._asking import (
    Adapters,
    K,
    MaxParts,
    MaxTokens,
    Preset,
    RerouteAt,
    RerouteAtEnd,
    Seed,
    Stop,
    Tags,
    Temperature,
    check_preset,
    composition_of,
    needs_default,
    rerouted,
)
from ramole.cli._common import DEFAULT_ADDRESS, Address, AsJson, connect, run, waiting
from ramole.cli._output import note, say, say_json, say_piece
from ramole.cli._why import show_why

if TYPE_CHECKING:
    from ramole.client import AdapterUsage, Usage


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
    reroute_at: RerouteAt = None,
    reroute_at_end: RerouteAtEnd = False,
    max_parts: MaxParts = None,
    why: Annotated[bool, typer.Option("--why", help="Then show what the answer was made of.")] = False,
    as_json: AsJson = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Answer a prompt, streaming; then say which adapters answered."""
    from ramole.client import Chunk, Routing, Usage
    from ramole.core.sampling import Sampling

    async def main() -> None:
        pieces: list[str] = []  # of each part
        routings: list[Routing] = []
        check_preset(preset)
        async with connect(address) as client:
            default = (await client.describe()).default_composition if needs_default(preset, k) else None
            composition = rerouted(composition_of(preset, k, default), reroute_at, max_parts, at_end=reroute_at_end)
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
                        pieces[-1] += event.text
                        if not as_json:
                            say_piece(event.text)
                    elif isinstance(event, Routing):
                        routings.append(event)
                        pieces.append("")
                    elif isinstance(event, Usage):
                        usage = event
        if as_json:
            parts = {"parts": _parts(pieces, usage)} if usage.parts else {}
            say_json({"text": "".join(pieces), "adapters": _used(usage.adapters), **parts})
            return
        say("")
        if why:
            show_why(routings, usage, pieces)
            return
        for a in _used(usage.adapters):
            note(f"  {a['adapter']}  similarity {a['similarity']:.2f}  weight {a['mean_weight']:.2f}")

    run(main)


def _used(adapters: Sequence[AdapterUsage]) -> list[dict[str, Any]]:
    return [{"adapter": str(a.ref), "similarity": a.similarity, "mean_weight": a.mean_weight} for a in adapters]


def _parts(pieces: Sequence[str], usage: Usage) -> list[dict[str, Any]]:
    return [
        {"text": text, "adapters": _used(part.adapters), "end": part.end and part.end.value}
        for text, part in zip(pieces, usage.parts, strict=True)
    ]


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
