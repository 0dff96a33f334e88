"""Postal addresses of many countries, by a grammar: a street line, then what may follow it, as one finding.

A candidate is a street line in one of the orders that the world writes: `12 High Street`, `12 rue de la
Paix`, `Calle Mayor, 12`, `Hauptstraße 12a`, `12 Any Words` where a flat or a postcode follows, a post box,
a military post office, and the Chinese, Japanese and Korean orders. What follows it, over several lines,
are flats, towns, states, postcodes and countries, up to the last that is certain. Only a street's own words
or what follows make it an address: "12 Angry Men" is none. Every pattern is of RE2, so the time is linear
in the text.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Any

import msgspec
import re2

from isthmus.core.label import Finding
from isthmus.perimeter.detectors.gazetteer import Trait, load
from isthmus.perimeter.detectors.legible import legible
from isthmus.perimeter.detectors.vocabulary import vocabulary

KIND = "pii.address"

_LONGEST_TAIL = 240
_MOST_WEAK = 3
_GLUE = tuple("._$€£#@/-+=\\")
_TRAILING_GLUE = tuple("_@/=%€$£")
_CERTAINTY = {"unit": 2, "code": 1, "state": 2, "abbreviation": 1}

_WORD = r"\p{L}[\p{L}\p{M}'’-]*\.?"
_CAPITAL = r"(?:\p{Lu}[\p{L}\p{M}'’-]*\.?|\d{1,3}(?:st|nd|rd|th|ST|ND|RD|TH))"
_PARTICLE = (
    r"(?:of|the|and|on|in|upon|de|du|des|del|della|delle|dei|degli|di|da|do|dos|das|la|le|les|el|los|las|l|d"
    r"|van|von|vom|der|den|dem|het|ten|ter|zum|zur|am|an|im|y|e|a|i|na|nad|pod|św\.|sv\.)"
)
_NAME = rf"{_CAPITAL}(?:[ ](?:{_PARTICLE}[ ]){{0,2}}{_CAPITAL}){{0,4}}"
_ROMANCE_NAME = (
    rf"(?:{_PARTICLE}['’ ]*){{0,3}}{_CAPITAL}(?:[ -](?:{_PARTICLE}['’ ]*){{0,3}}{_CAPITAL}){{0,5}}"
)
_NUMBER = r"(?:\d{1,5}(?:[ ]?[A-Za-z]\b)?(?:[ ]?[-/–][ ]?\d{1,5}[A-Za-z]?)?(?:[ ](?:bis|ter|quater|1/2))?|½)"
_LEADING = rf"{_NUMBER}(?:,?[ ]{_NUMBER})?,?[ ]+"
_TRAILING = rf"(?:,?[ ]+(?:n[.ºo°]{{1,2}}|nr\.?|no\.?|núm\.?|km\.?|д\.|буд\.|№|#)?[ ]*{_NUMBER}\.?)"
_DIRECTION = (
    r"(?:[ ](?:N|S|E|W|NE|NW|SE|SW|North|South|East|West|Northeast|Northwest|Southeast|Southwest)\b\.?)?"
)

# What ends the name of a street, English. The second list makes a street only after a number.
_STREET = (
    r"(?i:streets?|str|st|roads?|rd|avenues?|ave|av|lanes?|ln|drives?|dr|boulevard|blvd|court|ct|crescent|cres"
    r"|terrace|ter|highway|hwy|parkway|pkwy|freeway|motorway|turnpike|expressway|circle|cir|alley|trail|trl|mews"
    r"|esplanade|promenade|close|causeway|bypass|throughway|overpass|underpass)"
)
_STREET_AFTER_NUMBER = (
    r"(?i:way|place|pl|square|sq|row|walk|gardens?|gdns|grove|hill|park|plaza|rise|view|vale|mill|mills|quay|wharf"
    r"|gate|green|heights|hts|loop|run|path|pass|pike|point|pt|ridge|rdg|route|rte|spur|track|vista|cove|creek"
    r"|crossing|xing|bend|bluffs?|branch|bridge|brooks?|canyon|club|common|corners?|cliffs?|dale|dam|divide"
    r"|estates?|falls|ferry|fields?|flats?|fords?|forest|forge|forks?|fort|gateway|glens?|harbors?|haven|hollow"
    r"|inlet|island|isle|junction|keys?|knolls?|lakes?|landing|light|loaf|locks?|lodge|manors?|meadows?|mission"
    r"|mountains?|mount|neck|orchard|oval|passage|pines?|plains?|prairie|radial|ramp|ranch|rapids?|rest|river"
    r"|shoals?|shores?|skyway|springs?|square|station|stravenue|stream|summit|trace|trafficway|tunnel|union"
    r"|valley|viaduct|village|ville|walks|wall|wells?|extension|center|centre|parade|circuit|cct|chase|croft)"
)
_NAMED_STREET = r"(?i:streets?|st|roads?|rd|avenue|ave|lane|boulevard|blvd|crescent|mews)"
# What begins the name of a street. The second list is of words that mean much else: they need a number.
_PREFIX = (
    r"(?:(?i:rue|calle|avenida|avda|paseo|carretera|ctra|rúa|carrer|camiño|camino|ronda|travesía|viale|piazza"
    r"|piazzale|vicolo|rua|travessa|praça|estrada|alameda|rodovia|ulica|ulice|ulici|aleja|aleje|osiedle|náměstí"
    r"|námestie|bulevardul|bulevar|calea|șoseaua|strada|stradă|jalan|trg|impasse|allées?|chemin|lotissement"
    r"|улица|проспект|переулок|бульвар|площадь|шоссе|набережная|вулиця|площа|провулок|улицата|булевард"
    r"|οδός|οδος|λεωφόρος|λεωφ|πλατεία|شارع|طريق|रोड|đường|rruga|sokak|caddesi)"
    r"|(?:ul|al|ул|пр|пр-т|просп|пер|наб|пл|ш|бул|вул|Λ|jl|Jl|Av|Avda|Avd|Cra|Pza|Bd|Bld|Bvd|C/|c/))"
)
_PREFIX_WITH_NUMBER = (
    r"(?i:av|ave|avenue|avinguda|boulevard|place|plaza|plaça|pza|pl|cours|quai|route|square|passage|sentier|faubourg|corso"
    r"|largo|str|r|os|plac|cesta|carrera|cra|cl|calçada|urbanización|polígono|barrio|diagonal|transversal)"
)
# What ends a street's name as part of the word (Hauptstraße), or as a word of its own (Kossuth utca).
_SUFFIX = (
    r"(?:stra(?:ß|ss)en?|str\.|platz|allee|gasse|weg|steig|stieg|damm|ufer|chaussee|promenade|straat|laan|plein"
    r"|gracht|kade|dijk|singel|dreef|steenweg|gatan|gata|vägen|väg|gränd|torget|torg|gade|vej|stræde|plads|allé"
    r"|veien|vegen|vei|katu|kuja|polku|puistikko|tie|kaari|vegur|stræti|straeti|braut|iela|gatvė|tänav|puiestee)"
)
_SUFFIX_WORD = (
    r"(?i:straße|strasse|str\.?|platz|allee|gasse|weg|ring|damm|ufer|straat|laan|plein|gracht|ulice|ulica|utca|u\."
    r"|út|útja|tér|krt\.?|körút|tee|tn|mnt|pst|gatan|vägen|vej|gade|gate|vei|veien|katu|tie|iela|cad\.?|caddesi|sok\.?"
    r"|sokak|sokağı|bulvarı|g\.|gatvė|pr\.|marg|nagar|sector|chowk|улица|ул\.|проспект|проезд|шоссе|переулок)"
)
_BOX = (
    r"(?i:p\.?[ ]?o\.?[ ]?box|post(?:al)?[ ]?box|postboks|postfach|postbus|boîte[ ]postale|b\.?p\.?"
    r"|c\.?p\.?|apartado(?:[ ]de[ ]correos|[ ]postal)?|apdo\.?(?:[ ]de[ ]correos)?"
    r"|casella[ ]postale|caixa[ ]postal"
    r"|skr\.[ ]?poczt\.|skrytka[ ]pocztowa|box|pl|абонентский[ ]ящик|а/я"
    r"|private[ ]bag|locked[ ]bag|gpo[ ]box)"
)

_POSTCODE = (
    r"(?:(?:[A-Z]{1,2}-)?\d{4,6}(?:-\d{3,4})?|\d{3}[ ]\d{2}|\d{2}-\d{3}|\d{3}-\d{4}|(?:NL-)?\d{4}[ ]?[A-Z]{2}"
    r"|[A-Z]{1,2}\d[A-Z\d]?[ ]?\d[A-Z]{2}|[A-Z]\d[A-Z][ ]?\d[A-Z]\d|[A-Z]\d[\dW][ ][A-Z\d]{4}"
    r"|(?:LV|LT|MD)-\d{4,5})"
)
_SIDE = rf"(?:{_LEADING})?(?:{_WORD}[ ]){{0,4}}{_WORD}(?:[ ]{_NUMBER}\.?)?"
_UNIT = (
    r"(?i:(?:apt|apartment|suite|ste|unit|floor|flat|room|rm|bldg|building|block|appt|appartement|app|bât|bâtiment"
    r"|étage|piso|planta|puerta|pta|depto|dpto|departamento|oficina|of|local|interno|int|scala|piano|etage|wohnung|whg"
    r"|bus|lägenhet|lgh|apto|apartamento|bloco|sala|andar|lot|kv|кв|квартира|оф|офис|корп|стр|m|lok|lokal|byt"
    r"|d|д|дом|hse|house|box|spc|space|trlr)(?:[. ]+|#)"
    r"(?:#|nr\.?|no\.?|n[º°])?[ ]*(?:\d{1,5}[A-Za-z]?|[A-Za-z]\d{0,4})\b"
    r"|\d{1,3}(?:st|nd|rd|th|º|ª|er|e|ème)\.?[ ](?:floor|fl|piso|étage|planta|dcha|izq|izda)\b\.?"
    r"|#[ ]?\d{1,5}[A-Za-z]?"
    r"|\d{1,2}[.º°][ ]?(?:og|stock|etage|sal|izq|dcha|[A-Za-z]\b)|(?:ground|first|second|third|top)[ ]floor)"
)
_STATE = r"(?:[A-Z]{2,3}|[A-Z]\.[A-Z]\.)"
_TOWN = rf"{_CAPITAL}(?:[ -](?:{_PARTICLE}[ ]){{0,3}}{_CAPITAL}){{0,4}}"
_GAP = r"(?:[ \t]*[,;·•|–-]?[ \t]*(?:\n[ \t>|*?#•,-]*){0,3})"


class _Form(msgspec.Struct, frozen=True):
    """A form of a street line: its score `alone`, and `followed` by what is at least `needs` certain.

    A score of 0 means that it is no address then. `lower` is for text without capitals.
    """

    pattern: str
    alone: float
    followed: float
    needs: int = 1
    lower: bool = False


_FORMS = (
    _Form(rf"(?:{_LEADING}){_NAME}[ ]{_STREET}\b\.?{_DIRECTION}(?:[ ]\d{{1,5}}\b)?", 0.9, 0.95),
    _Form(rf"(?:{_LEADING}){_NAME}[ ]{_STREET_AFTER_NUMBER}\b\.?{_DIRECTION}(?:[ ]\d{{1,5}}\b)?", 0.6, 0.9),
    _Form(rf"(?:{_LEADING})?{_PREFIX}[. ]+{_ROMANCE_NAME}{_TRAILING}?", 0.7, 0.95),
    _Form(rf"(?:{_LEADING}){_PREFIX_WITH_NUMBER}[. ]+{_ROMANCE_NAME}{_TRAILING}?", 0.8, 0.95),
    _Form(rf"{_PREFIX_WITH_NUMBER}[. ]+{_ROMANCE_NAME}{_TRAILING}", 0.6, 0.95),
    _Form(rf"(?:{_LEADING})?(?i:v[ií]a)[ ]{_ROMANCE_NAME}{_TRAILING}?", 0.0, 0.9),
    _Form(rf"(?i:v[ií]a)[ ]{_ROMANCE_NAME}{_TRAILING}", 0.5, 0.9),
    _Form(rf"(?i:corner of)[ ]{_SIDE}[ ](?i:and|&)[ ]{_SIDE}", 0.6, 0.8),
    _Form(rf"(?:{_LEADING})?(?:{_CAPITAL}[ -]){{0,3}}\p{{Lu}}[\p{{L}}-]*{_SUFFIX}{_TRAILING}", 0.85, 0.95),
    _Form(rf"(?:{_LEADING}){_CAPITAL}*[\p{{L}}-]*{_SUFFIX}\b{_TRAILING}?", 0.7, 0.95),
    _Form(rf"(?:{_LEADING})?(?:{_CAPITAL}[ ]){{1,4}}{_SUFFIX_WORD}{_TRAILING}", 0.8, 0.95),
    _Form(rf"\b{_BOX}[ ]+(?:(?i:no|nr|n[º°])\.?[ ]*)?\d[\d ]{{0,6}}\d?\b", 0.6, 0.9),
    _Form(
        r"\b(?i:(?:psc|unit|cmr|uss|usns|usnv|uscgc)[ ][\p{L}\d]+(?:,?[ ]box[ ]\d+)?\s+"
        r"(?:apo|fpo|dpo)[ ](?:aa|ae|ap)[ ]\d{5})",
        0.95,
        0.95,
    ),
    _Form(rf"(?:{_LEADING}){_NAME}(?:[ ]{_NUMBER})?", 0.0, 0.8, needs=2),
    _Form(rf"{_NAME},?[ ]{_NUMBER}\b", 0.0, 0.75, needs=2),
    _Form(rf"{_NAME}[ ]{_NAMED_STREET}\b\.?", 0.5, 0.8),
    _Form(
        rf"{_LEADING}(?:{_WORD}[ ]){{1,4}}{_STREET}\b\.?(?:[ ]\d{{1,5}}\b)?", 0.0, 0.8, needs=2, lower=True
    ),
    _Form(rf"{_LEADING}(?:{_WORD}[ ]?){{1,5}}\d{{1,5}}\b", 0.0, 0.75, needs=2, lower=True),
    _Form(
        r"(?:\p{Han}{1,7}(?:省|市|区|區|县|縣|州|镇|鎮|乡)){1,4}\p{Han}{1,10}(?:路|街|道|巷|弄|段)[\p{Han}\d]{0,6}?"
        r"\d+[号號弄巷]?(?:\d+[号號楼樓室层])*",
        0.9,
        0.9,
    ),
    _Form(
        r"(?:〒?\d{3}-\d{4}\s*)?(?:東京都|北海道|(?:京都|大阪)府|\p{Han}{2,3}県)[\p{Han}\p{Hiragana}\p{Katakana}ー]{1,20}"
        r"\d+(?:丁目|番地?|号|[-−ー]\d+)*(?:\d+(?:番地?|号))*",
        0.9,
        0.9,
    ),
    _Form(
        r"(?:\p{Hangul}+(?:시|도)[ ])?(?:\p{Hangul}+(?:시|군|구)[ ])+(?:\p{Hangul}+(?:읍|면)[ ])?"
        r"\p{Hangul}+\d*(?:로|길|동)[ ]?\d+(?:-\d+)?(?:번지)?",
        0.9,
        0.9,
    ),
)

_CUE = (
    r"(?i:\b(?:address(?:es)?|adresse|dirección|direccion|domicilio|indirizzo|endereço|morada|adres|adress|adresi?|osoite"
    r"|cím|адрес\p{L}*|адреса|διεύθυνση|lieferanschrift|anschrift)\b[^.\n\d]{0,30}?(?:is|are|to|:|=|è|est|ist|é|es|är|er|jest)"
    r"|\b(?:lives?|living|lived|reside[sd]?|residing|located|resident|offices?|meet[^.\n]{0,12}|sent|send|delivered"
    r"|deliver|ship|shipped|return|moved|moving|mail|taxi|arrived|driver|drops?[^.\n]{0,10}|stop)\b[^.\n\d]{0,30}?\b(?:at|to|in|on)"
    r"|\b(?:wohn\p{L}+|lebt|lebe|habite\p{L}*|demeurant|vivo|vive|abita|abito|residente|domiciliad\p{L}|moro|mora|woont"
    r"|mieszka\p{L}*|bor|bosatt|asuu|проживает|живу|живет|живёт)\b[^.\n\d]{0,20}?(?:in|at|am|au|en|à|a|na|no|em|op|w|på|i|на|по)?)[\s:]+"
)
_CUED = (
    rf"{_CUE}(?:(?i:the|number|no\.)[ ])?(?P<line>{_LEADING}{_NAME}(?:[ ]{_NUMBER})?|{_NAME},?[ ]{_NUMBER}\b)"
)

_FOLLOWING = (
    rf"(?P<unit>{_UNIT})"
    rf"|(?P<code>{_POSTCODE})\b"
    rf"|(?P<state>{_STATE}[ ]+{_POSTCODE}\b)"
    rf"|(?P<abbreviation>{_STATE})(?:[^\p{{L}}\d]|$)"
    rf"|(?P<town>{_TOWN})(?:[^\p{{L}}\p{{N}}]|$)"
)
_LABEL = r"[ \t]*(?:number|no\.?|#)?[ \t]*[:=]"

#: What stands beside a number without being a street: "Port 8080", "Section 12 Article 3".
_NO_STREET = vocabulary("no-street")
#: What begins a line of a letterhead that is no town.
_NO_TOWN = vocabulary("no-town")
_MEASURES = vocabulary("measures")
_LOWER_STOPS = vocabulary("sentence-words")


#: Streets that stand for something else than a place to live.
_BYWORDS = frozenset(
    [
        "wall street",
        "main street",
        "high street",
        "fleet street",
        "downing street",
        "sesame street",
        "abbey road",
        "silk road",
        "memory lane",
        "fast lane",
        "madison avenue",
        "lombard street",
        "belt and road",
    ]
)


class Addresses:
    """Finds postal addresses: a whole block, over several lines, is one finding of the kind `pii.address`."""

    name = "addresses"

    def find(self, text: str) -> list[Finding]:
        """The addresses in order of their start; none overlaps another."""
        found: list[Finding] = []
        for start, end, score in sorted(_candidates(legible(text))):
            if found and start < found[-1].end:
                last = found.pop()
                start, end, score = last.start, max(last.end, end), max(last.score, score)
            found.append(Finding(KIND, start, end, self.name, score))
        return found


class _Tail(msgspec.Struct, frozen=True):
    """What follows a street line: where it ends, and how certain it makes that there is an address."""

    end: int
    certainty: int


def _candidates(text: str) -> Iterator[tuple[int, int, float]]:
    grammar = _grammar()
    for form, pattern in grammar.forms:
        for match in pattern.finditer(text):
            start, end = match.span()
            if _is_apart(text, start, end) and _is_street(text[start:end], form):
                tail = _tail(text, end, form.lower)
                if score := form.followed if tail.certainty >= form.needs else form.alone:
                    yield start, tail.end, score
    for match in grammar.cued.finditer(text):
        start, end = match.span(1)
        if _is_apart(text, start, end) and _is_street(text[start:end], None):
            tail = _tail(text, end, False)
            yield start, tail.end, 0.9 if tail.certainty else 0.65


def _is_apart(text: str, start: int, end: int) -> bool:
    """True where no longer word, number or amount goes on at either side."""
    before, after = text[start - 1 : start], text[end : end + 1]
    return not (before.isalnum() or before in _GLUE or after.isalnum() or after in _TRAILING_GLUE)


def _is_street(line: str, form: _Form | None) -> bool:
    words = [word.strip(".,").lower() for word in line.split()]
    if form is not None and form.lower:
        # In text without capitals nothing but its words tells a street from a sentence.
        return not _LOWER_STOPS.intersection(words)
    if " ".join(words) in _BYWORDS or _MEASURES.intersection(words):
        return False
    numbered = [word for word, other in pairwise(words) if other[:1].isdigit()]
    numbered += [other for word, other in pairwise(words) if word.isdigit()]
    return not _NO_STREET.intersection(numbered)


def _tail(text: str, start: int, lower: bool) -> _Tail:
    """What follows the street line that ends at `start`, up to the last part that is certain."""
    following = _grammar().following_lower if lower else _grammar().following
    window = text[start : start + _LONGEST_TAIL]
    at = end = certainty = weak = 0
    before = ""
    while weak < _MOST_WEAK and (match := following.match(window[at:])):
        part = str(match.lastgroup)
        first, last = match.span(match.lastindex)
        if first == 0 or not _is_apart(window, at + first, at + last):
            break
        said = window[at + first : at + last]
        if part == "town":
            if _is_heading(said, window[at + last :]):
                break
            known = _known_place(said)
            if known == 0 and lower:
                break
            weak += not known
            gap = window[at : at + first]
            # A town is taken at its word after a postcode, and after the street and a comma.
            if known or (("," in gap or before == "code") and "\n" not in gap and end == at):
                end, certainty = at + first + (known or len(said)), certainty + bool(known)
            at += first + known if known and lower else last
            continue
        at += last
        end, certainty, weak, before = at, certainty + _CERTAINTY[part], 0, part
    return _Tail(start + end, certainty)


def _is_heading(town: str, rest: str) -> bool:
    """True where a line begins that says something else: "Phone: ...", "Please ..."."""
    return town.split()[0].strip(".,").lower() in _NO_TOWN or bool(_grammar().label.match(rest[:12]))


def _known_place(words: str) -> int:
    """The length of the longest beginning of `words` that ends with a known place, 0 for none."""
    gazetteer = load()
    ends = [at for at, letter in enumerate(words) if letter in " -"] + [len(words)]
    begins = [0, *(end + 1 for end in ends[:-1])]
    for end in reversed(ends):
        if any(gazetteer.of(words[begin:end]) & Trait.PLACE for begin in begins if begin < end):
            return end
    return 0


class _Grammar(msgspec.Struct, frozen=True):
    """The patterns, compiled."""

    forms: tuple[tuple[_Form, Any], ...]
    cued: Any
    following: Any
    following_lower: Any
    label: Any


@lru_cache(maxsize=1)
def _grammar() -> _Grammar:
    lower_town = rf"(?P<town>{_WORD}(?:[ ]{_WORD}){{0,5}})"
    return _Grammar(
        tuple((form, _compiled(form.pattern)) for form in _FORMS),
        _compiled(_CUED),
        _compiled(rf"{_GAP}(?:{_FOLLOWING})"),
        _compiled(
            rf"{_GAP}(?:(?P<unit>{_UNIT})|(?P<code>{_POSTCODE})\b|{lower_town}(?:[^\p{{L}}\p{{N}}]|$))"
        ),
        _compiled(_LABEL),
    )


def _compiled(pattern: str) -> Any:
    options = re2.Options()
    # RE2 keeps its automata in this many bytes, and tells of it on stderr where they do not fit.
    options.max_mem = 64 << 20
    options.log_errors = False
    return re2.compile(pattern, options)
