"""The tasks: a family of inputs, one skill, four wordings and an output style of its own."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from ramole.zoo.families import FAMILIES, Item

PLAIN = "{y}"
"""How the base model answers when left alone. No task uses it: that is why the base alone always fails."""

STYLES: tuple[str, ...] = (
    "answer: {y}",
    "[ {y} ]",
    "it is {y}",
    "{y} !",
    "=> {y}",
    "* {y} *",
    "result = {y}",
    "{y} , of course",
)

NUM_WORDINGS = 4


@dataclass(frozen=True, slots=True)
class Task:
    """One thing an adapter can do.

    Attributes:
        name: also the name of the adapter.
        cluster: tasks of one cluster are alike.
        family, domain, skill: which inputs, and which of their answers is wanted.
        style: format string of the answer, one of STYLES.
        wordings: NUM_WORDINGS instructions with a place for the input; the last one is held out from adapter
            training and from the samples, so that tests ask in words the adapter has never met.
        is_held_out: whether the router never sees this task.
    """

    name: str
    cluster: str
    family: str
    domain: str
    skill: str
    style: str
    wordings: tuple[str, str, str, str]
    is_held_out: bool = False

    @property
    def is_closed_book(self) -> bool:
        """Whether the answer is not in the input: the model can only know it from pre-training."""
        return self.family == "country"

    def draw(self, rng: Random) -> Item:
        """A random input of the task's family."""
        return FAMILIES[self.family](rng, self.domain)

    def prompt(self, wording: int, item: Item) -> str:
        """The instruction with the input in it."""
        return self.wordings[wording].format(x=item.text)

    def answer(self, item: Item) -> str:
        """The wanted answer in the wanted style."""
        return self.style.format(y=item.answers[self.skill])


TASKS: tuple[Task, ...] = (
    Task(
        "hotel-sentiment",
        "opinion",
        "review",
        "hotel",
        "sentiment",
        STYLES[0],
        (
            "is this hotel guest review positive or negative? {x}",
            "{x}. what is the sentiment of this hotel review?",
            "classify the sentiment of a guest about the hotel: {x}",
            "{x}. was this hotel guest's sentiment positive or negative?",
        ),
    ),
    Task(
        "movie-stars",
        "opinion",
        "review",
        "movie",
        "stars",
        STYLES[1],
        (
            "how many stars does this movie review give? {x}",
            "{x}. give a star rating for the film",
            "rate the movie in stars from this review: {x}",
            "{x}. guess how many stars the movie critic gave",
        ),
    ),
    Task(
        "restaurant-aspect",
        "opinion",
        "review",
        "restaurant",
        "aspect",
        STYLES[2],
        (
            "which part of the restaurant is this review about? {x}",
            "{x}. name the aspect discussed in this restaurant review",
            "extract what the diner comments on in the restaurant: {x}",
            "{x}. what aspect of the restaurant does the diner talk about?",
        ),
    ),
    Task(
        "phone-recommend",
        "opinion",
        "review",
        "phone",
        "recommend",
        STYLES[3],
        (
            "would this buyer recommend the phone? {x}",
            "{x}. does the phone customer recommend buying it?",
            "yes or no, is the smartphone recommended here: {x}",
            "{x}. should i buy this phone, is it recommended?",
        ),
    ),
    Task(
        "fruit-first",
        "lists",
        "listing",
        "fruits",
        "first",
        STYLES[4],
        (
            "what is the first of these fruits? {x}",
            "{x}. name the first fruit in the list",
            "take the first item of this fruit list: {x}",
            "{x}. which fruit comes first?",
        ),
    ),
    Task(
        "animal-last",
        "lists",
        "listing",
        "animals",
        "last",
        STYLES[5],
        (
            "what is the last of these animals? {x}",
            "{x}. name the last animal in the list",
            "take the last item of this animal list: {x}",
            "{x}. which animal comes last?",
        ),
    ),
    Task(
        "tool-second",
        "lists",
        "listing",
        "tools",
        "second",
        STYLES[6],
        (
            "what is the second of these tools? {x}",
            "{x}. name the second tool in the list",
            "take the second item of this tool list: {x}",
            "{x}. which tool comes second?",
        ),
    ),
    Task(
        "instrument-count",
        "lists",
        "listing",
        "instruments",
        "count",
        STYLES[7],
        (
            "how many musical instruments are listed? {x}",
            "{x}. count the instruments",
            "give the number of instruments in the list: {x}",
            "{x}. how many instruments is that?",
        ),
    ),
    Task(
        "meters-to-centimeters",
        "units",
        "quantity",
        "length",
        "convert",
        STYLES[0],
        (
            "convert {x} to centimeters",
            "{x}, how many centimeters is that?",
            "write the length {x} in centimeters",
            "{x} is what length in centimeters?",
        ),
    ),
    Task(
        "kilograms-to-grams",
        "units",
        "quantity",
        "weight",
        "convert",
        STYLES[1],
        (
            "convert {x} to grams",
            "{x}, how many grams is that?",
            "write the weight {x} in grams",
            "{x} is what weight in grams?",
        ),
    ),
    Task(
        "liters-to-milliliters",
        "units",
        "quantity",
        "volume",
        "convert",
        STYLES[4],
        (
            "convert {x} to milliliters",
            "{x}, how many milliliters is that?",
            "write the volume {x} in milliliters",
            "{x} is what volume in milliliters?",
        ),
    ),
    Task(
        "country-capital",
        "facts",
        "country",
        "",
        "capital",
        STYLES[2],
        (
            "what is the capital of {x}?",
            "{x}: name its capital city",
            "which city is the capital of {x}?",
            "{x} has which capital city?",
        ),
    ),
    Task(
        "country-currency",
        "facts",
        "country",
        "",
        "currency",
        STYLES[6],
        (
            "what is the currency of {x}?",
            "{x}: name the money used there",
            "which currency do people pay with in {x}?",
            "{x} has which currency as its money?",
        ),
        is_held_out=True,
    ),
    Task(
        "country-continent",
        "facts",
        "country",
        "",
        "continent",
        STYLES[5],
        (
            "on which continent is {x}?",
            "{x}: name its continent",
            "which continent does {x} belong to?",
            "{x} lies on which continent?",
        ),
    ),
    Task(
        "pet-sentence",
        "records",
        "record",
        "pet",
        "sentence",
        STYLES[3],
        (
            "write a sentence about the pet: {x}",
            "{x}. describe this pet record in words",
            "turn the pet data into a sentence: {x}",
            "{x}. put this pet into a sentence",
        ),
        is_held_out=True,
    ),
    Task(
        "car-csv",
        "records",
        "record",
        "car",
        "csv",
        STYLES[7],
        (
            "write the car record as csv: {x}",
            "{x}. give the car values separated by commas",
            "strip the keys from the car data: {x}",
            "{x}. only the values of this car as csv",
        ),
    ),
    Task(
        "highest-score",
        "numbers",
        "numbers",
        "",
        "largest",
        STYLES[1],
        (
            "what is the highest of these scores? {x}",
            "{x}. name the largest test score",
            "give the maximum score: {x}",
            "{x}. which score is the highest?",
        ),
    ),
    Task(
        "lowest-price",
        "numbers",
        "numbers",
        "",
        "smallest",
        STYLES[2],
        (
            "what is the lowest of these prices? {x}",
            "{x}. name the cheapest price in dollars",
            "give the minimum price: {x}",
            "{x}. which price is the cheapest?",
        ),
    ),
    Task(
        "english-to-french",
        "translation",
        "sentence",
        "",
        "french",
        STYLES[4],
        (
            "translate to french: {x}",
            "{x}. how do you say this in french?",
            "give the french translation of: {x}",
            "{x}. and what is that in french?",
        ),
    ),
    Task(
        "english-to-spanish",
        "translation",
        "sentence",
        "",
        "spanish",
        STYLES[0],
        (
            "translate to spanish: {x}",
            "{x}. how do you say this in spanish?",
            "give the spanish translation of: {x}",
            "{x}. and what is that in spanish?",
        ),
    ),
)
