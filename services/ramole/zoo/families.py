"""Families of inputs: each draws a text and every answer that a skill of the family could give about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from ramole.zoo import words


@dataclass(frozen=True, slots=True)
class Item:
    """One input text and its answer under each skill, in a fixed order of skills."""

    text: str
    answers: dict[str, str]


def review(rng: Random, domain: str) -> Item:
    """One sentence of praise or blame about one aspect of a hotel, a movie, ..."""
    aspect = rng.choice(words.ASPECTS[domain])
    stars = rng.choice(tuple(words.ADJECTIVES))
    opener = rng.choice(("", "honestly, ", "i must say ", "for me "))
    verb = rng.choice(("was", "felt", "seemed", "looked"))
    closer = rng.choice(("", " this time", " again", " in the end"))
    text = f"{opener}the {aspect} {verb} {rng.choice(words.ADJECTIVES[stars])}{closer}"
    is_good = stars > 3
    return Item(
        text,
        {
            "sentiment": "positive" if is_good else "negative",
            "stars": f"{words.NUMERALS[stars]} stars" if stars > 1 else "one star",
            "aspect": aspect,
            "recommend": "yes" if is_good else "no",
        },
    )


def listing(rng: Random, domain: str) -> Item:
    """Three to five different things of one kind."""
    things = rng.sample(words.ITEMS[domain], rng.choice((3, 4, 5)))
    return Item(
        ", ".join(things),
        {
            "first": things[0],
            "last": things[-1],
            "second": things[1],
            "count": words.NUMERALS[len(things)],
        },
    )


def quantity(rng: Random, domain: str) -> Item:
    """A number with a metric unit."""
    unit, smaller, zeros = words.UNITS[domain]
    number = rng.randint(2, 499)
    return Item(
        f"{number} {unit}",
        {"convert": f"{number}{zeros} {smaller}", "number": str(number), "unit": unit},
    )


def country(rng: Random, _domain: str) -> Item:
    """A country, asked about without any context: the base model must know it."""
    name, capital, currency, continent = rng.choice(words.COUNTRIES)
    return Item(name, {"capital": capital, "currency": currency, "continent": continent})


def record(rng: Random, domain: str) -> Item:
    """Three named fields."""
    if domain == "pet":
        name, kind, color = rng.choice(words.PET_NAMES), rng.choice(words.PET_KINDS), rng.choice(words.COLORS)
        fields = {"name": name, "kind": kind, "color": color}
        sentence = f"{name} is a {color} {kind}"
    else:
        make, color, fuel = rng.choice(words.CAR_MAKES), rng.choice(words.CAR_COLORS), rng.choice(words.FUELS)
        fields = {"make": make, "color": color, "fuel": fuel}
        sentence = f"the {make} is a {color} {fuel} car"
    return Item(
        "; ".join(f"{key} = {value}" for key, value in fields.items()),
        {
            "sentence": sentence,
            "csv": ", ".join(fields.values()),
            "title": next(iter(fields.values())),
        },
    )


def numbers(rng: Random, _domain: str) -> Item:
    """Three to five different digits."""
    digits = rng.sample(range(1, 10), rng.choice((3, 4, 5)))
    return Item(
        ", ".join(map(str, digits)),
        {"largest": str(max(digits)), "smallest": str(min(digits)), "first": str(digits[0])},
    )


def sentence(rng: Random, _domain: str) -> Item:
    """Subject, verb, object."""
    (s, s_fr, s_es), (o, o_fr, o_es) = rng.sample(words.NOUNS, 2)
    v, v_fr, v_es = rng.choice(words.VERBS)
    return Item(
        f"the {s} {v} the {o}",
        {"french": f"le {s_fr} {v_fr} le {o_fr}", "spanish": f"el {s_es} {v_es} el {o_es}", "actor": s},
    )


def date(rng: Random, _domain: str) -> Item:
    """A day in ISO form."""
    year, month, day = rng.randint(1950, 2039), rng.randint(1, 12), rng.randint(1, 28)
    return Item(
        f"{year}-{month:02d}-{day:02d}",
        {"month": words.MONTHS[month - 1], "year": str(year), "day": str(day)},
    )


FAMILIES: dict[str, Callable[[Random, str], Item]] = {
    "review": review,
    "listing": listing,
    "quantity": quantity,
    "country": country,
    "record": record,
    "numbers": numbers,
    "sentence": sentence,
    "date": date,
}
