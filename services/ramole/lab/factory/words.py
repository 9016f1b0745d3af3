"""The vocabulary of the world. Tuples only: an iteration order that depends on the process would change the data."""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Domains of one line are near each other: they share what is said about them.
REVIEWED: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (_words("hotel hostel resort"), _words("room bed lobby breakfast pool shower balcony towel")),
    (_words("movie series musical"), _words("plot acting music ending dialogue cast script scene")),
    (_words("restaurant cafe bistro"), _words("soup waiter dessert menu wine coffee salad bread")),
    (_words("phone tablet laptop"), _words("screen battery camera speaker charger keyboard signal case")),
    (_words("novel comic biography"), _words("chapter hero prose author cover opening illustration style")),
    (_words("airline ferry train"), _words("seat crew meal departure cabin luggage window boarding")),
)

ADJECTIVES: dict[int, tuple[str, ...]] = {
    5: _words("superb fantastic perfect stunning"),
    4: _words("good pleasant nice solid"),
    2: _words("poor weak dull mediocre"),
    1: _words("awful terrible horrible disgusting"),
}

NUMERALS: dict[int, str] = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}

ITEMS: dict[str, tuple[str, ...]] = {
    "fruits": _words("apple banana cherry grape lemon mango melon orange peach plum"),
    "vegetables": _words("carrot onion potato cabbage spinach radish leek garlic pumpkin celery"),
    "flowers": _words("rose tulip lily daisy orchid poppy violet iris jasmine lotus"),
    "animals": _words("tiger rabbit camel horse monkey zebra wolf otter goat bear"),
    "birds": _words("eagle robin owl crow swan parrot stork heron falcon duck"),
    "fish": _words("trout salmon tuna carp pike cod shark herring perch eel"),
    "tools": _words("hammer saw drill wrench pliers chisel ladder shovel clamp rake"),
    "utensils": _words("fork spoon knife ladle whisk kettle pan bowl grater sieve"),
    "instruments": _words("piano violin guitar drum flute harp trumpet cello organ banjo"),
    "cities": _words("paris london madrid vienna oslo prague dublin athens lisbon warsaw"),
    "rivers": _words("nile danube rhine amazon volga thames seine ganges congo mekong"),
    "mountains": _words("everest etna fuji elbrus olympus denali kilimanjaro vesuvius matterhorn sinai"),
}

# unit, smaller unit, zeros between them
UNITS: dict[str, tuple[str, str, str]] = {
    "cable": ("meters", "centimeters", "00"),
    "road": ("kilometers", "meters", "000"),
    "screw": ("centimeters", "millimeters", "0"),
    "flour": ("kilograms", "grams", "000"),
    "cargo": ("tons", "kilograms", "000"),
    "medicine": ("grams", "milligrams", "000"),
    "water": ("liters", "milliliters", "000"),
    "wine": ("liters", "deciliters", "0"),
    "savings": ("dollars", "cents", "00"),
}

# name, capital, currency, continent
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
    ("italy", "rome", "euro", "europe"),
)

# grown animal, its young, its sound, what it eats
CREATURES: tuple[tuple[str, str, str, str], ...] = (
    ("dog", "puppy", "bark", "meat"),
    ("cat", "kitten", "meow", "mice"),
    ("cow", "calf", "moo", "grass"),
    ("sheep", "lamb", "baa", "clover"),
    ("hen", "chick", "cluck", "grain"),
    ("duck", "duckling", "quack", "weeds"),
    ("lion", "cub", "roar", "antelopes"),
    ("frog", "tadpole", "croak", "flies"),
    ("horse", "foal", "neigh", "hay"),
    ("pig", "piglet", "oink", "scraps"),
    ("owl", "owlet", "hoot", "voles"),
    ("bee", "larva", "buzz", "nectar"),
    ("snake", "snakelet", "hiss", "rats"),
    ("wolf", "pup", "howl", "deer"),
    ("goose", "gosling", "honk", "reeds"),
    ("donkey", "filly", "bray", "straw"),
)

PET_NAMES = _words("rex luna milo bella coco daisy rocky ruby oscar lucy max nala")
COLORS = _words("black white brown grey golden red blue green silver purple")
PEOPLE = _words("anna tom maria john sara peter lena paul emma hugo nina carl olga ivan ruth sam")
TOWNS = _words("paris london madrid vienna oslo prague dublin athens lisbon warsaw rome berlin")
PLACES = _words("garden kitchen market library station museum park office school harbor theater bakery")
WEEKDAYS = _words("monday tuesday wednesday thursday friday saturday sunday")
FOODS = _words("rice pasta curry pizza salad pancakes stew noodles omelette risotto")

# domain -> names of its three fields, their values, the sentence made of them
RECORDS: dict[str, tuple[tuple[str, str, str], tuple[tuple[str, ...], ...], str]] = {
    "pet": (
        ("name", "kind", "color"),
        (PET_NAMES, _words("dog cat parrot hamster turtle"), COLORS),
        "{0} is a {2} {1}",
    ),
    "horse": (
        ("name", "breed", "color"),
        (PET_NAMES, _words("arab shire pony mustang cob"), COLORS),
        "{0} is a {2} {1}",
    ),
    "zoo animal": (
        ("name", "kind", "color"),
        (PET_NAMES, _words("panda giraffe gorilla penguin seal"), COLORS),
        "{0} is a {2} {1}",
    ),
    "car": (
        ("make", "color", "fuel"),
        (_words("audi fiat ford honda mazda volvo"), COLORS, _words("petrol diesel electric hybrid")),
        "the {0} is {1} and {2}",
    ),
    "bike": (
        ("make", "color", "type"),
        (_words("giant trek cube scott merida bianchi"), COLORS, _words("mountain road city folding")),
        "the {0} is {1} and {2}",
    ),
    "boat": (
        ("make", "color", "engine"),
        (_words("hanse bavaria linder zodiac hobie dufour"), COLORS, _words("sail motor oar steam")),
        "the {0} is {1} and {2}",
    ),
    "employee": (
        ("name", "job", "town"),
        (PEOPLE, _words("clerk driver cook guard manager"), TOWNS),
        "{0} works as a {1} in {2}",
    ),
    "student": (
        ("name", "subject", "town"),
        (PEOPLE, _words("physics law music history biology"), TOWNS),
        "{0} studies {1} in {2}",
    ),
    "patient": (
        ("name", "problem", "town"),
        (PEOPLE, _words("cough fever rash migraine allergy"), TOWNS),
        "{0} from {2} has a {1}",
    ),
    "booking": (("guest", "place", "day"), (PEOPLE, TOWNS, WEEKDAYS), "{0} goes to {1} on {2}"),
    "delivery": (("customer", "town", "day"), (PEOPLE, TOWNS, WEEKDAYS), "{0} gets a parcel in {1} on {2}"),
    "lunch": (("guest", "dish", "day"), (PEOPLE, FOODS, WEEKDAYS), "{0} eats {1} on {2}"),
}

NUMBERED = _words("scores prices ages temperatures votes speeds")

# english, french, spanish, german, italian; one article each, so that it never changes
NOUNS: dict[str, tuple[tuple[str, ...], ...]] = {
    "animal": (
        ("dog", "chien", "perro", "hund", "cane"),
        ("cat", "chat", "gato", "kater", "gatto"),
        ("wolf", "loup", "lobo", "wolf", "lupo"),
        ("horse", "cheval", "caballo", "hengst", "cavallo"),
        ("lion", "lion", "leon", "loewe", "leone"),
        ("rabbit", "lapin", "conejo", "hase", "coniglio"),
    ),
    "family": (
        ("father", "pere", "padre", "vater", "papa"),
        ("brother", "frere", "hermano", "bruder", "fratello"),
        ("boy", "garcon", "nino", "junge", "ragazzo"),
        ("uncle", "oncle", "tio", "onkel", "zio"),
        ("cousin", "cousin", "primo", "vetter", "cugino"),
        ("son", "fils", "hijo", "sohn", "figlio"),
    ),
    "work": (
        ("baker", "boulanger", "panadero", "baecker", "panettiere"),
        ("doctor", "medecin", "medico", "arzt", "dottore"),
        ("farmer", "paysan", "granjero", "bauer", "contadino"),
        ("teacher", "maitre", "maestro", "lehrer", "insegnante"),
        ("painter", "peintre", "pintor", "maler", "pittore"),
        ("driver", "chauffeur", "conductor", "fahrer", "autista"),
    ),
}
VERBS: tuple[tuple[str, ...], ...] = (
    ("sees", "voit", "ve", "sieht", "vede"),
    ("follows", "suit", "sigue", "verfolgt", "segue"),
    ("hears", "entend", "oye", "hoert", "sente"),
    ("finds", "trouve", "encuentra", "findet", "trova"),
    ("carries", "porte", "lleva", "traegt", "porta"),
    ("draws", "dessine", "dibuja", "malt", "disegna"),
)
LANGUAGES: tuple[tuple[str, str], ...] = (
    ("french", "le {0} {1} le {2}"),
    ("spanish", "el {0} {1} el {2}"),
    ("german", "der {0} {1} den {2}"),
    ("italian", "il {0} {1} il {2}"),
)

MONTHS = _words("january february march april may june july august september october november december")
NUMERIC_DATES = _words("birthday invoice deadline")
WRITTEN_DATES = _words("festival wedding voyage")

DESKS = _words("bank shop clinic telephone insurance gas")
COMPLAINTS: dict[str, tuple[str, ...]] = {
    "billing": ("i was charged twice", "the bill is too high", "my refund is missing", "the fee is wrong"),
    "technical": ("the website is down", "the app keeps crashing", "i see an error code", "the line is dead"),
    "account": ("i forgot my password", "please change my address", "close my account", "my login is locked"),
    "feedback": ("thank you for the help", "i love your service", "the staff was great", "keep up the work"),
}
URGENT = ("i need this today", "this is an emergency", "answer at once", "it can not wait")
CALM = ("there is no rush", "take your time", "next week is fine", "whenever you can")

STORIES = _words("diary news travel school police")

PRESS = _words("newspaper radio magazine blog")
TOPICS: dict[str, tuple[str, ...]] = {
    "sports": ("team wins the cup", "runner breaks a record", "coach praises the striker", "fans cheer the goal"),
    "business": ("shares fall again", "factory hires workers", "bank cuts its rates", "company buys its rival"),
    "science": ("telescope spots a planet", "lab tests a vaccine", "robot explores the sea", "fossil amazes experts"),
    "politics": (
        "mayor loses the vote",
        "minister signs a treaty",
        "parliament debates taxes",
        "voters choose a judge",
    ),
}

SPELLED: dict[str, tuple[str, ...]] = {
    "words": tuple(word[:5] for word in (*ITEMS["fruits"], *ITEMS["animals"], *ITEMS["tools"])),
    "names": tuple(name[:5] for name in (*PEOPLE, *PET_NAMES)),
    "towns": tuple(town[:5] for town in TOWNS),
}

CHATTER: tuple[str, ...] = (
    "while in {town} with my {creature}, ",
    "i repaired the {thing} with a {tool}. now ",
    "we love {fruit}s and {flower}s. so ",
    "my friend {person} likes numbers. ",
    "after the trip to {town} in {month}, ",
    "{person} sent me a letter. please ",
    "the {thing} of {person} was cheap. anyway, ",
    "good morning from {town}! ",
)
THINGS = _words("phone car hotel movie book radio boat bill lamp ticket")
