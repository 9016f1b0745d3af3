"""Families of inputs: each draws a text and every answer that a skill of the family could give about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from string import ascii_lowercase

from ramole.lab.factory import words


@dataclass(frozen=True, slots=True)
class Item:
    """One input text and its answer under each skill, in a fixed order of skills."""

    text: str
    answers: dict[str, str]


def review(rng: Random, domain: str) -> Item:
    """One sentence of praise or blame about one aspect of a hotel, a movie, ..."""
    aspects = next(aspects for domains, aspects in words.REVIEWED if domain in domains)
    aspect = rng.choice(aspects)
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
            "mood": "happy" if is_good else "angry",
            "stars": f"{words.NUMERALS[stars]} stars" if stars > 1 else "one star",
            "recommend": "yes" if is_good else "no",
            "aspect": aspect,
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
            "ends": f"{things[0]} and {things[-1]}",
            "count": words.NUMERALS[len(things)],
        },
    )


def quantity(rng: Random, domain: str) -> Item:
    """A number with a unit."""
    unit, smaller, zeros = words.UNITS[domain]
    number = rng.randint(2, 999)
    return Item(f"{number} {unit}", {"convert": f"{number}{zeros} {smaller}", "number": str(number), "unit": unit})


def country(rng: Random, _domain: str) -> Item:
    """A country, asked about without any context: the base model must know it."""
    name, capital, currency, continent = rng.choice(words.COUNTRIES)
    return Item(name, {"capital": capital, "currency": currency, "continent": continent})


def creature(rng: Random, _domain: str) -> Item:
    """An animal, asked about without any context."""
    name, young, sound, food = rng.choice(words.CREATURES)
    return Item(name, {"young": young, "sound": sound, "food": food})


def record(rng: Random, domain: str) -> Item:
    """Three named fields."""
    names, choices, sentence = words.RECORDS[domain]
    values = [rng.choice(choice) for choice in choices]
    return Item(
        "; ".join(f"{name} = {value}" for name, value in zip(names, values, strict=True)),
        {
            "sentence": sentence.format(*values),
            "csv": ", ".join(values),
            "title": values[0],
            "middle": values[1],
            "final": values[2],
        },
    )


def numbers(rng: Random, _domain: str) -> Item:
    """Three to five different digits."""
    digits = rng.sample(range(1, 10), rng.choice((3, 4, 5)))
    return Item(
        ", ".join(map(str, digits)),
        {
            "largest": str(max(digits)),
            "smallest": str(min(digits)),
            "first": str(digits[0]),
            "last": str(digits[-1]),
            "count": words.NUMERALS[len(digits)],
        },
    )


def sentence(rng: Random, domain: str) -> Item:
    """Subject, verb, object."""
    subject, target = rng.sample(words.NOUNS[domain], 2)
    verb = rng.choice(words.VERBS)
    answers = {
        language: pattern.format(subject[i], verb[i], target[i])
        for i, (language, pattern) in enumerate(words.LANGUAGES, start=1)
    }
    return Item(f"the {subject[0]} {verb[0]} the {target[0]}", {**answers, "actor": subject[0], "target": target[0]})


def date(rng: Random, domain: str) -> Item:
    """A day, in numbers or with the name of its month."""
    year, month, day = rng.randint(1950, 2039), rng.randint(1, 12), rng.randint(1, 28)
    name = words.MONTHS[month - 1]
    text = f"{year}-{month:02d}-{day:02d}" if domain in words.NUMERIC_DATES else f"{day} {name} {year}"
    return Item(text, {"month": name, "year": str(year), "day": str(day)})


def message(rng: Random, _domain: str) -> Item:
    """What a customer writes, and how soon an answer is wanted."""
    intent = rng.choice(tuple(words.COMPLAINTS))
    is_urgent = rng.random() < 0.5
    sender = rng.choice(words.PEOPLE)
    urgency = rng.choice(words.URGENT if is_urgent else words.CALM)
    return Item(
        f"{sender} here, {rng.choice(words.COMPLAINTS[intent])}, {urgency}",
        {"intent": intent, "urgency": "high" if is_urgent else "low", "sender": sender},
    )


def story(rng: Random, _domain: str) -> Item:
    """Who met whom, where and when."""
    person, other = rng.sample(words.PEOPLE, 2)
    place, day = rng.choice(words.PLACES), rng.choice(words.WEEKDAYS)
    return Item(
        f"{person} met {other} in the {place} on {day}",
        {"person": person, "other": other, "place": place, "day": day},
    )


def headline(rng: Random, _domain: str) -> Item:
    """One line of news."""
    topic = rng.choice(tuple(words.TOPICS))
    town = rng.choice(words.TOWNS)
    return Item(
        f"{town}: {rng.choice(words.TOPICS[topic])}, says {rng.choice(words.PEOPLE)}", {"topic": topic, "town": town}
    )


def spelling(rng: Random, domain: str) -> Item:
    """Letters with spaces between them."""
    letters = rng.choice(words.SPELLED[domain])
    if rng.random() < 0.7:
        letters = "".join(rng.choice(ascii_lowercase) for _ in range(rng.choice((3, 4, 5))))
    return Item(
        " ".join(letters),
        {"first": letters[0], "last": letters[-1], "double": f"{letters[0]} {letters[0]}"},
    )


FAMILIES: dict[str, Callable[[Random, str], Item]] = {
    "review": review,
    "listing": listing,
    "quantity": quantity,
    "country": country,
    "creature": creature,
    "record": record,
    "numbers": numbers,
    "sentence": sentence,
    "date": date,
    "message": message,
    "story": story,
    "headline": headline,
    "spelling": spelling,
}


def chatter(rng: Random) -> str:
    """Something said before the instruction that has nothing to do with it."""
    return rng.choice(words.CHATTER).format(
        town=rng.choice(words.TOWNS),
        creature=rng.choice(words.CREATURES)[0],
        thing=rng.choice(words.THINGS),
        tool=rng.choice(words.ITEMS["tools"]),
        fruit=rng.choice(words.ITEMS["fruits"]),
        flower=rng.choice(words.ITEMS["flowers"]),
        person=rng.choice(words.PEOPLE),
        month=rng.choice(words.MONTHS),
    )
