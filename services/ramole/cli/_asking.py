"""Options of the commands that have prompts answered: one set of them, so that they mean the same everywhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from ramole.cli._completion import complete_adapter
from ramole.core.composition import PRESETS, REROUTED_PRESET, Composition, Reroute
from ramole.core.errors import InvalidInput

Adapters = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter",
        help="Use this adapter instead of retrieval; may be given several times.",
        autocompletion=complete_adapter,
    ),
]
Preset = Annotated[str, typer.Option(help=f"One of {', '.join(PRESETS)}.")]
K = Annotated[int | None, typer.Option(help="Adapters to retrieve; 0 = the base model alone.")]
MaxTokens = Annotated[int | None, typer.Option(help="Tokens to generate at most; absent = as many as fit.")]
Temperature = Annotated[float, typer.Option(help="0 = greedy.")]
Seed = Annotated[int | None, typer.Option(help="Of the random numbers; the same seed, the same answer.")]
Stop = Annotated[list[str] | None, typer.Option(help="Cut the answer before this text; may be given several times.")]
Tags = Annotated[
    list[str] | None,
    typer.Option("--tag", help="Retrieve only adapters with this tag; given several times, with all."),
]


RerouteAt = Annotated[
    list[str] | None,
    typer.Option(
        "--reroute-at",
        help="Look for other adapters behind this text of the answer; may be given several times.",
    ),
]
RerouteAtEnd = Annotated[
    bool,
    typer.Option("--reroute-at-end", help="Look for other adapters where the first ones end and the base would go on."),
]
MaxParts = Annotated[int | None, typer.Option(help="Parts of the answer at most, with --reroute-at or -at-end.")]


def check_preset(preset: str) -> str:
    """Raises InvalidInput for a name that is none; '' = none is asked for."""
    if preset and preset not in PRESETS:
        raise InvalidInput(f"no preset {preset!r}", field="--preset", remedy=f"use one of {', '.join(PRESETS)}")
    return preset


def needs_default(preset: str, k: int | None) -> bool:
    """Whether `composition_of` wants to know the server's default."""
    return k is not None and not preset


def composition_of(preset: str, k: int | None, default: Composition | None) -> Composition | None:
    """What --preset and --k ask for; None = the server's default, whatever it is."""
    composition = PRESETS[preset] if preset else default
    return composition if k is None or composition is None else replace(composition, k=k)


def rerouted(
    composition: Composition | None, separators: list[str] | None, max_parts: int | None, *, at_end: bool
) -> Composition | None:
    """What --reroute-at, --reroute-at-end and --max-parts add to it."""
    when = Reroute.AT_END if at_end else Reroute.AT if separators else Reroute.OFF
    if when is Reroute.OFF:
        if max_parts is not None:
            raise InvalidInput(
                "parts without re-routing", field="--max-parts", remedy="give --reroute-at or --reroute-at-end too"
            )
        return composition
    return replace(
        composition or PRESETS[REROUTED_PRESET],
        reroute=when,
        separators=tuple(separators or ()),
        max_parts=max_parts or 0,
    )
