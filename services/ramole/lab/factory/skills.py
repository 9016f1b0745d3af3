"""The skills: how one asks for each, in four wordings, and in a few words when it comes second in a prompt.

{x} is the input, {d} the domain, {u} and {v} the units of a quantity. The last wording of each skill is held out: no
adapter is trained on it and no sample has it.
"""

from __future__ import annotations

from dataclasses import dataclass

NUM_WORDINGS = 4
HELD_OUT_WORDING = NUM_WORDINGS - 1


@dataclass(frozen=True, slots=True)
class Skill:
    """One thing that can be asked about the inputs of a family.

    Attributes:
        cluster: skills of one cluster are alike.
        ask: what to say when the input is known already.
        wordings: instructions with a place for the input.
        is_general: whether who can do it in one domain can do it in any other.
    """

    cluster: str
    ask: str
    wordings: tuple[str, str, str, str]
    is_general: bool = True


SKILLS: dict[tuple[str, str], Skill] = {
    ("review", "sentiment"): Skill(
        "sentiment",
        "say if it is positive or negative",
        (
            "is this {d} review positive or negative? {x}",
            "{x}. what is the sentiment of this {d} review?",
            "classify the sentiment of the writer's words: {x}",
            "{x}. did the writer have a positive feeling about the {d}?",
        ),
    ),
    ("review", "mood"): Skill(
        "sentiment",
        "name the mood of the writer",
        (
            "what is the mood of this {d} customer? {x}",
            "{x}. is the {d} customer happy or angry?",
            "name the mood behind this comment: {x}",
            "{x}. how does the {d} client feel?",
        ),
    ),
    ("review", "stars"): Skill(
        "rating",
        "give the stars",
        (
            "how many stars does this {d} review give? {x}",
            "{x}. give a star rating for the {d}",
            "rate in stars what this review says: {x}",
            "{x}. guess the rating that the {d} got",
        ),
    ),
    ("review", "recommend"): Skill(
        "rating",
        "say if it is recommended",
        (
            "would this reviewer recommend the {d}? {x}",
            "{x}. yes or no, is the {d} recommended?",
            "does the writer recommend it to others: {x}",
            "{x}. should i choose this {d} after reading that?",
        ),
    ),
    ("review", "aspect"): Skill(
        "aspect",
        "name the aspect it is about",
        (
            "which part of the {d} is this review about? {x}",
            "{x}. name the aspect discussed in this {d} review",
            "extract what the critic comments on: {x}",
            "{x}. what does the {d} remark talk about?",
        ),
    ),
    ("listing", "first"): Skill(
        "lists",
        "name the first one",
        (
            "what is the first of these {d}? {x}",
            "{x}. name the initial item of the {d}",
            "take the first element from the list: {x}",
            "{x}. which of the {d} comes at the start?",
        ),
    ),
    ("listing", "last"): Skill(
        "lists",
        "name the last one",
        (
            "what is the last of these {d}? {x}",
            "{x}. name the final item of the {d}",
            "take the last element from the list: {x}",
            "{x}. which of the {d} comes at the end?",
        ),
    ),
    ("listing", "second"): Skill(
        "lists",
        "name the second one",
        (
            "what is the second of these {d}? {x}",
            "{x}. name item number two of the {d}",
            "take the second element from the list: {x}",
            "{x}. which of the {d} follows the first?",
        ),
    ),
    ("listing", "ends"): Skill(
        "lists",
        "give both ends",
        (
            "give both ends of the {d}: {x}",
            "{x}. name the two outer {d}",
            "first and last element of the list: {x}",
            "{x}. which {d} stand at the borders?",
        ),
    ),
    ("listing", "count"): Skill(
        "counting",
        "count them",
        (
            "how many {d} are listed? {x}",
            "{x}. count the {d}",
            "give the number of items in the list: {x}",
            "{x}. what amount of {d} is that?",
        ),
    ),
    ("quantity", "convert"): Skill(
        "units",
        "convert it to {v}",
        (
            "convert {x} to {v}",
            "{x} of {d}, how many {v} is that?",
            "write {x} in {v}",
            "{x} of {d} is how much in {v}?",
        ),
        is_general=False,
    ),
    ("quantity", "number"): Skill(
        "measures",
        "give only the number",
        (
            "only the number of {x}",
            "{x} of {d}, without the unit",
            "the numeric part of {x} {d}",
            "{x}. how many {u} of {d} are there?",
        ),
    ),
    ("quantity", "unit"): Skill(
        "measures",
        "name the unit",
        (
            "which unit is used in {x} of {d}?",
            "{x} of {d}, name the unit",
            "the unit of {x}",
            "{x}. what is the {d} measured in?",
        ),
    ),
    ("country", "capital"): Skill(
        "geography",
        "name the capital",
        (
            "what is the capital of {x}?",
            "{x}: name its capital city",
            "which city is the capital of {x}?",
            "{x} is governed from which city?",
        ),
        is_general=False,
    ),
    ("country", "currency"): Skill(
        "geography",
        "name the currency",
        (
            "what is the currency of {x}?",
            "{x}: name the money used there",
            "which currency do people pay with in {x}?",
            "{x} has which coins and notes?",
        ),
        is_general=False,
    ),
    ("country", "continent"): Skill(
        "geography",
        "name the continent",
        (
            "on which continent is {x}?",
            "{x}: name its continent",
            "which continent does {x} belong to?",
            "{x} lies in what part of the world?",
        ),
        is_general=False,
    ),
    ("creature", "young"): Skill(
        "nature",
        "name its young",
        (
            "what is a young {x} called?",
            "{x}: name its baby",
            "the young of a {x} is a",
            "{x}. how do you call the little one?",
        ),
        is_general=False,
    ),
    ("creature", "sound"): Skill(
        "nature",
        "name its sound",
        (
            "what sound does a {x} make?",
            "{x}: name its sound",
            "how does a {x} sound?",
            "{x}. which noise do you hear from it?",
        ),
        is_general=False,
    ),
    ("creature", "food"): Skill(
        "nature",
        "say what it eats",
        (
            "what does a {x} eat?",
            "{x}: name its food",
            "the diet of a {x} is",
            "{x}. what do you feed it?",
        ),
        is_general=False,
    ),
    ("record", "sentence"): Skill(
        "data-to-text",
        "put it into a sentence",
        (
            "write a sentence about the {d}: {x}",
            "{x}. describe this {d} record in words",
            "turn the data into text: {x}",
            "{x}. tell about the {d} in plain english",
        ),
        is_general=False,
    ),
    ("record", "csv"): Skill(
        "formats",
        "give the values as csv",
        (
            "write the {d} record as csv: {x}",
            "{x}. give the {d} values separated by commas",
            "strip the keys from the data: {x}",
            "{x}. only the values of this {d}",
        ),
    ),
    ("record", "title"): Skill(
        "fields",
        "give the first field",
        (
            "give the first field of the {d} record: {x}",
            "{x}. which entry leads this {d} record?",
            "the first value of the data: {x}",
            "{x}. how does the {d} entry begin?",
        ),
    ),
    ("record", "middle"): Skill(
        "fields",
        "give the middle field",
        (
            "give the middle field of the {d} record: {x}",
            "{x}. which value is in the middle of this {d} record?",
            "the second value of the data: {x}",
            "{x}. what stands between the others in the {d} entry?",
        ),
    ),
    ("record", "final"): Skill(
        "fields",
        "give the last field",
        (
            "give the last field of the {d} record: {x}",
            "{x}. which entry ends this {d} record?",
            "the third value of the data: {x}",
            "{x}. how does the {d} entry close?",
        ),
    ),
    ("numbers", "largest"): Skill(
        "numbers",
        "name the largest",
        (
            "what is the highest of these {d}? {x}",
            "{x}. name the largest of the {d}",
            "give the maximum: {x}",
            "{x}. which of the {d} is on top?",
        ),
    ),
    ("numbers", "smallest"): Skill(
        "numbers",
        "name the smallest",
        (
            "what is the lowest of these {d}? {x}",
            "{x}. name the smallest of the {d}",
            "give the minimum: {x}",
            "{x}. which of the {d} is at the bottom?",
        ),
    ),
    ("numbers", "first"): Skill(
        "series",
        "name the first number",
        (
            "what is the first of these {d}? {x}",
            "{x}. name the {d} value that opens the series",
            "give the first number: {x}",
            "{x}. with which number do the {d} start?",
        ),
    ),
    ("numbers", "last"): Skill(
        "series",
        "name the last number",
        (
            "what is the last of these {d}? {x}",
            "{x}. name the {d} value that ends the series",
            "give the last number: {x}",
            "{x}. with which number do the {d} stop?",
        ),
    ),
    ("numbers", "count"): Skill(
        "counting",
        "count the numbers",
        (
            "how many {d} are there? {x}",
            "{x}. count the {d}",
            "how long is the series of numbers: {x}",
            "{x}. what amount of {d} is that?",
        ),
    ),
    **{
        ("sentence", language): Skill(
            "translation",
            f"translate it to {language}",
            (
                f"translate to {language}: {{x}}",
                f"{{x}}. how do you say this {{d}} sentence in {language}?",
                f"give the {language} translation of: {{x}}",
                f"{{x}}. put the {{d}} phrase into {language}",
            ),
        )
        for language in ("french", "spanish", "german", "italian")
    },
    ("sentence", "actor"): Skill(
        "roles",
        "name who acts",
        (
            "who does something in this {d} sentence? {x}",
            "{x}. name the subject of the {d} sentence",
            "find the one who acts: {x}",
            "{x}. whose deed is it?",
        ),
    ),
    ("sentence", "target"): Skill(
        "roles",
        "name the object",
        (
            "to whom is it done in this {d} sentence? {x}",
            "{x}. name the object of the {d} sentence",
            "find the one who is acted upon: {x}",
            "{x}. who stands last in the phrase?",
        ),
    ),
    ("date", "month"): Skill(
        "dates",
        "name the month",
        (
            "which month is the {d} in? {x}",
            "{x}. only the month of the {d}",
            "extract the month from the date {x}",
            "the {d} is on {x}, what does the calendar page say?",
        ),
    ),
    ("date", "year"): Skill(
        "dates",
        "give the year",
        (
            "which year is the {d} in? {x}",
            "{x}. only the year of the {d}",
            "extract the year from the date {x}",
            "the {d} is on {x}, when is that, in full years?",
        ),
    ),
    ("date", "day"): Skill(
        "dates",
        "give the day",
        (
            "on which day is the {d}? {x}",
            "{x}. only the day of the {d}",
            "extract the day from the date {x}",
            "the {d} is on {x}, how far into the month is that?",
        ),
    ),
    ("message", "intent"): Skill(
        "intent",
        "name the department",
        (
            "what is this {d} message about? {x}",
            "{x}. classify the intent of this {d} customer",
            "which department should answer: {x}",
            "{x}. to which category belongs the {d} ticket?",
        ),
    ),
    ("message", "urgency"): Skill(
        "urgency",
        "say how urgent it is",
        (
            "how urgent is this {d} message? {x}",
            "{x}. give the priority of this {d} ticket",
            "is the urgency high or low: {x}",
            "{x}. does the {d} customer have time?",
        ),
    ),
    ("message", "sender"): Skill(
        "names",
        "name the sender",
        (
            "who wrote this {d} message? {x}",
            "{x}. name the {d} customer",
            "extract the name of the sender: {x}",
            "{x}. by whom was the {d} contacted?",
        ),
    ),
    ("story", "person"): Skill(
        "names",
        "name the first person",
        (
            "who is mentioned first in the {d} story? {x}",
            "{x}. name the first person of the {d} text",
            "the first name in the passage: {x}",
            "{x}. with whom does the {d} story start?",
        ),
    ),
    ("story", "other"): Skill(
        "names",
        "name the other person",
        (
            "who is mentioned second in the {d} story? {x}",
            "{x}. name the other person of the {d} text",
            "the second name in the passage: {x}",
            "{x}. who was met in the {d} story?",
        ),
    ),
    ("story", "place"): Skill(
        "extraction",
        "name the place",
        (
            "where does the {d} story happen? {x}",
            "{x}. name the place of the {d} text",
            "the location in the passage: {x}",
            "{x}. at which spot did the {d} meeting take place?",
        ),
    ),
    ("story", "day"): Skill(
        "extraction",
        "name the day",
        (
            "when does the {d} story happen? {x}",
            "{x}. name the day of the {d} text",
            "the weekday in the passage: {x}",
            "{x}. at what time of the week was the {d} meeting?",
        ),
    ),
    ("headline", "topic"): Skill(
        "topic",
        "name the topic",
        (
            "what is the topic of this {d} headline? {x}",
            "{x}. classify this {d} news",
            "sports, business, science or politics: {x}",
            "{x}. for which section of the {d} is it?",
        ),
    ),
    ("headline", "town"): Skill(
        "extraction",
        "name the town",
        (
            "which town is in this {d} headline? {x}",
            "{x}. name the town of this {d} news",
            "extract the location of the news: {x}",
            "{x}. from where does the {d} report?",
        ),
    ),
    ("spelling", "first"): Skill(
        "letters",
        "give the first letter",
        (
            "what is the first letter of {x}?",
            "{x}. give the initial letter of these {d}",
            "which letter starts {x}?",
            "the {d} are spelled {x}, how do they begin?",
        ),
    ),
    ("spelling", "last"): Skill(
        "letters",
        "give the last letter",
        (
            "what is the last letter of {x}?",
            "{x}. give the final letter of these {d}",
            "which letter ends {x}?",
            "the {d} are spelled {x}, how do they close?",
        ),
    ),
    ("spelling", "double"): Skill(
        "letters",
        "double the first letter",
        (
            "repeat the first letter of {x}",
            "{x}. write the initial letter of these {d} twice",
            "double the start of {x}",
            "the {d} are spelled {x}, say the opening two times",
        ),
    ),
}
