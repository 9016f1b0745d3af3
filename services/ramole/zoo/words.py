"""The vocabulary of the world. Tuples only: an iteration order that depends on the process would change the data."""

from __future__ import annotations

ASPECTS: dict[str, tuple[str, ...]] = {
    "hotel": ("room", "bed", "lobby", "breakfast", "pool", "staff", "shower", "view"),
    "movie": ("plot", "acting", "music", "ending", "dialogue", "casting", "editing", "script"),
    "restaurant": ("soup", "waiter", "dessert", "menu", "wine", "steak", "salad", "bread"),
    "phone": ("screen", "battery", "camera", "speaker", "charger", "keyboard", "signal", "case"),
}

ADJECTIVES: dict[int, tuple[str, ...]] = {
    5: ("superb", "fantastic", "perfect", "stunning"),
    4: ("good", "pleasant", "nice", "solid"),
    2: ("poor", "weak", "dull", "mediocre"),
    1: ("awful", "terrible", "horrible", "disgusting"),
}

NUMERALS: dict[int, str] = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}

ITEMS: dict[str, tuple[str, ...]] = {
    "fruits": ("apple", "banana", "cherry", "grape", "lemon", "mango", "melon", "orange", "peach", "plum"),
    "animals": ("tiger", "rabbit", "eagle", "horse", "monkey", "snake", "whale", "zebra", "camel", "otter"),
    "tools": ("hammer", "saw", "drill", "wrench", "pliers", "chisel", "ladder", "shovel", "clamp", "file"),
    "instruments": ("piano", "violin", "guitar", "drum", "flute", "harp", "trumpet", "cello", "organ", "banjo"),
}

UNITS: dict[str, tuple[str, str, str]] = {
    "length": ("meters", "centimeters", "00"),
    "weight": ("kilograms", "grams", "000"),
    "volume": ("liters", "milliliters", "000"),
}

# country, capital, currency, continent
COUNTRIES: tuple[tuple[str, str, str, str], ...] = (
    ("france", "paris", "euro", "europe"),
    ("japan", "tokyo", "yen", "asia"),
    ("egypt", "cairo", "pound", "africa"),
    ("brazil", "brasilia", "real", "america"),
    ("india", "delhi", "rupee", "asia"),
    ("kenya", "nairobi", "shilling", "africa"),
    ("canada", "ottawa", "dollar", "america"),
    ("norway", "oslo", "krone", "europe"),
    ("poland", "warsaw", "zloty", "europe"),
    ("peru", "lima", "sol", "america"),
    ("china", "beijing", "yuan", "asia"),
    ("ghana", "accra", "cedi", "africa"),
    ("mexico", "mexico city", "peso", "america"),
    ("spain", "madrid", "euro", "europe"),
    ("thailand", "bangkok", "baht", "asia"),
    ("morocco", "rabat", "dirham", "africa"),
    ("turkey", "ankara", "lira", "asia"),
    ("hungary", "budapest", "forint", "europe"),
    ("vietnam", "hanoi", "dong", "asia"),
    ("nigeria", "abuja", "naira", "africa"),
    ("cuba", "havana", "peso", "america"),
    ("sweden", "stockholm", "krona", "europe"),
    ("iran", "tehran", "rial", "asia"),
    ("ethiopia", "addis ababa", "birr", "africa"),
    ("italy", "rome", "euro", "europe"),
    ("korea", "seoul", "won", "asia"),
    ("tunisia", "tunis", "dinar", "africa"),
    ("chile", "santiago", "peso", "america"),
    ("austria", "vienna", "euro", "europe"),
    ("nepal", "kathmandu", "rupee", "asia"),
    ("jamaica", "kingston", "dollar", "america"),
    ("greece", "athens", "euro", "europe"),
)

PET_NAMES = ("rex", "luna", "milo", "bella", "coco", "daisy", "rocky", "ruby", "oscar", "lucy", "max", "nala")
PET_KINDS = ("dog", "cat", "parrot", "hamster", "turtle", "pony", "goldfish", "ferret")
COLORS = ("black", "white", "brown", "grey", "golden", "spotted")
CAR_MAKES = ("audi", "fiat", "ford", "honda", "mazda", "volvo", "skoda", "toyota")
CAR_COLORS = ("red", "blue", "green", "silver", "yellow", "purple")
FUELS = ("petrol", "diesel", "electric", "hybrid")

# english, french, spanish; all masculine, so that the article never changes
NOUNS: tuple[tuple[str, str, str], ...] = (
    ("dog", "chien", "perro"),
    ("cat", "chat", "gato"),
    ("boy", "garçon", "niño"),
    ("king", "roi", "rey"),
    ("baker", "boulanger", "panadero"),
    ("horse", "cheval", "caballo"),
    ("wolf", "loup", "lobo"),
    ("father", "père", "padre"),
    ("brother", "frère", "hermano"),
    ("doctor", "médecin", "médico"),
    ("lion", "lion", "león"),
    ("rabbit", "lapin", "conejo"),
)
VERBS: tuple[tuple[str, str, str], ...] = (
    ("sees", "voit", "ve"),
    ("follows", "suit", "sigue"),
    ("hears", "entend", "oye"),
    ("finds", "trouve", "encuentra"),
    ("carries", "porte", "lleva"),
    ("draws", "dessine", "dibuja"),
)

MONTHS = (
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
)
