"""Names of people, by the company that they keep: titles, phrases that announce a name, known names.

A known given name beside a surname is a name; so is what follows "Dr." or "my name is", known or not. A known
name alone is one if it is no everyday word. What is a name in one place of a text is one in all its places.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import msgspec

from isthmus.core.label import Finding
from isthmus.perimeter.detectors.gazetteer import Trait, load
from isthmus.perimeter.detectors.vocabulary import vocabulary
from isthmus.perimeter.detectors.words import Word, split

KIND = "pii.name"

_MOST_WORDS = 5
_LONGEST = 8
_FAMILIAR = 0.6
_LEAST = 0.1
_ECHO = 0.75
_ANNOUNCED = 0.85

_TITLES = vocabulary("titles")
_PARTICLES = vocabulary("particles")
_ENGLISH = vocabulary("english")
_SUFFIXES = vocabulary("suffixes")
#: What makes a run of capitals something else than a person.
_OTHERS = vocabulary("other-than-people")
_NEVER = vocabulary("never-names")
_NAMED = re.compile(
    r"(?:\b(?:(?:my|the|his|her|their|whose|maiden|last|first|full|family|middle|sur|user|partner's|wife's|husband's)\s?"
    r"name(?:'s|\sis|\swas)?(?:\s(?:on|in|of)\s(?:the|my)\s\w+)?|name\s(?:is|was)|named(?:\s(?:him|her|it))?"
    r"|(?:call|called|calls)\s(?:me|him|her)|was\scalled|goes\sby|known\sas|signed(?:\sby)?|yours,?|sincerely,?|regards,?"
    r"|surname|attn|c/o|mein\sname\sist|ich\shei(?:ß|ss)e|name\sdes\s\w+|gezeichnet|grüßen,?|gruß,?|je\sm'appelle"
    r"|mon\snom\sest|nommée?|cordialement,?|signé|me\sllamo|mi\snombre\ses|se\sllama|llamad[oa]|atentamente,?|saludos,?"
    r"|mi\schiamo|il\smio\snome\sè|si\schiama|saluti,?|meu\snome\sé|chamo-me|me\schamo|chama-se|mijn\snaam\sis|ik\sheet"
    r"|groeten,?|nazywam\ssię|mam\sna\simię|jag\sheter|mitt\snamn\sär|mit\snavn\ser|jeg\shedder|jeg\sheter|nimeni\son"
    r"|меня\sзовут|мене\sзвати|зовут|με\sλένε)[\s:?]+"
    r"|\b(?:name|nome|nom|nombre|naam|navn|namn|imię(?:\si\snazwisko)?|имя|фио|vorname|nachname|apellidos?|cognome|prénom"
    r"|patient(?:in)?|employee|customer|client|contact|author|director|directed\sby|kunde|kundin|mitarbeiter(?:in)?"
    r"|cliente|paciente|from|to|cc|user|attendees|participants|assignee|reporter)\s{0,3}:\s*)$",
    re.IGNORECASE,
)
_GREETED = re.compile(
    r"\b(?:dear|hi|hello|hey|liebe[rs]?|lieber|hallo|chère?|bonjour|hola|querid[oa]|estimad[oa]|ciao|caro|cara|gentile"
    r"|olá|car[oa]|beste|hej|moi|cześć|thanks|thank\syou|this\sis|i'?\s?a?m|here\sis|it's|ask|tell|told|contact|call|ping"
    r"|email|meet|met|about|with|by|for|to|son|daughter|brother|sister|mother|father|wife|husband|kid|child|friend"
    r"|colleague|boss|manager|doctor|patient|singer|player|director|producer|songwriter|writer|actor|actress|author|artist|lawyer|nurse|teacher|engineer|officer|minister|president|ceo|cto|cfo|starring|between|under|says|said"
    r"|featuring|founders?|von|mit|für|bei|pour|avec|chez|par|con|para|por|per|da|com|voor|door|med|för|av|z|dla|od)[\s:,]+$",
    re.IGNORECASE,
)
_ACTING = re.compile(
    r"(?:['’]s\b|\s*,?\s(?:said|says|say|told|asked|asks|wrote|writes|lives|lived|works|worked|thinks|thought|wants|wanted"
    r"|called|calls|began|was\sborn|was\sinfluenced|has\sbeen|had|has|went|came|joined|left|died|sang|sings|speaks?|spoke"
    r"|shouted|listed|explained|replied|got|gave|sent|needs|needed|is\s(?:a|an|the|from|very|my|our|on)|just|will|would"
    r"|sagte|sagt|wohnt|arbeitet|hat|ist|a\sdit|habite|travaille|dijo|vive|trabaja|dice|ha\sdetto|abita|lavora|disse|mora"
    r"|zei|woont|werkt|novel|book|song|album|film|movie|painting|poem|concert|biography|fan)\b|:\s*\S)",
    re.IGNORECASE,
)
_CONTRACTED = re.compile(r"['’](?:m|s|re|ve|ll|d|t)$", re.IGNORECASE)
#: Capitals inside a word, as in ClassVar; names have them behind Mc, Mac, De, Di and the like.
_IDENTIFIER = re.compile(
    r"^(?!(?:Ma?c|De|Di|Du|La|Le|Van|Von|O['’]|D['’]|L['’])[A-Z])[^-]*(?:[a-zß-ÿ][A-Z]|[A-Z]{2}[a-z])"
)
#: What is also a name, and much more often something else when it stands alone.
_RARELY_ALONE = vocabulary("rarely-alone")
#: What only a person does.
_SPEAKING = re.compile(
    r"(?:,?\s(?:said|says|told|asked|wrote|lives|lived|was\sborn|shouted|whispered|laughed|smiled|explained|replied|sang|spoke|thinks"
    r"|sagte|wohnt|habite|vive|abita|woont)\b"
    r"|,\s(?:can|could|would|will)\s(?:you|i)\b|['’]s\s(?:address|phone|email|number|account|birthday|mother|father|wife"
    r"|husband|son|daughter|kid|child|house|salary|passport))",
)
_PATRONYMIC = re.compile(
    r"(?:sson|ss?en|d[óo]ttir|ova|eva|ovi[čć]|evi[čć]|ovich|evich|ovna|ski|sky|ska|wicz|czyk|enko|chuk|yan|shvili|dze|escu"
    r"|o[ğg]lu|opoulos|akis|idis|inen|stein|berg|mann|ez|elli|etti|ucci|ovsky|ová|sdotter)$"
)


class _Writing(msgspec.Struct, frozen=True):
    """How a text is written: with capitals at all, in capitals only, mostly in words that are known."""

    cased: bool
    loud: bool
    familiar: bool


class _Run(msgspec.Struct, frozen=True):
    """Words that may be one name together: `words[first:last]` of the text's words."""

    first: int
    last: int
    score: float


class Names:
    """Finds names of people, of the kind `pii.name`; the score says how much speaks for each."""

    name = "names"

    def find(self, text: str) -> list[Finding]:
        """The names in order of their start; none overlaps another."""
        return self.among(text, split(text, load()))

    def among(self, text: str, words: Sequence[Word]) -> list[Finding]:
        """The names as `find` gives them, for a text that was split already."""
        writing = _writing(words)
        runs = [run for span in _spans(words, writing) if (run := _best(text, words, span, writing))]
        return [
            Finding(KIND, words[run.first].start, words[run.last - 1].end, self.name, round(run.score, 2))
            for run in _echoed(words, _listed(words, runs))
            if run.score >= _LEAST
        ]


def _writing(words: Sequence[Word]) -> _Writing:
    everyday = sum(1 for word in words if word.traits & Trait.WORD)
    unknown = sum(1 for word in words if not word.traits)
    cased = any(word.capital for word in words)
    # Without capitals a name can only be told from words that are known, and those are the English ones.
    known = everyday >= _FAMILIAR * (everyday + unknown) and (
        cased or any(word.key in _ENGLISH for word in words)
    )
    return _Writing(cased=cased, loud=all(word.said.isupper() for word in words), familiar=known)


def _spans(words: Sequence[Word], writing: _Writing) -> Iterator[tuple[int, int]]:
    """The longest stretches of words that may belong together: one space apart, and capitals or particles."""
    at = 0
    while at < len(words):
        if not _may_begin(words[at], writing):
            at += 1
            continue
        end = at + 1
        while (
            end < min(len(words), at + _LONGEST)
            and words[end].gap in _JOINTS
            and _may_go_on(words, end, writing)
        ):
            end += 1
        while words[end - 1].key in _PARTICLES and end - 1 > at:
            end -= 1
        yield at, end
        at = end


_JOINTS = frozenset([" ", "\xa0", ". ", "  ", ", Jr", " '", "."])


def _may_begin(word: Word, writing: _Writing) -> bool:
    if writing.cased:
        return word.capital and (word.key not in _NEVER or word.key in _PARTICLES)
    # Where most words are unknown, an unknown one tells nothing.
    possible = _is_known(word) or (writing.familiar and not word.traits)
    return possible and word.key not in _NEVER and len(word.said) > 1


def _may_go_on(words: Sequence[Word], at: int, writing: _Writing) -> bool:
    word, before = words[at], words[at - 1]
    if "." in word.gap and not (before.initial or before.key in _TITLES or before.key in _SUFFIXES):
        return False
    if _may_begin(word, writing):
        return True
    return word.key in _PARTICLES and at + 1 < len(words) and words[at + 1].gap == " "


def _best(text: str, words: Sequence[Word], span: tuple[int, int], writing: _Writing) -> _Run | None:
    """The best name in a stretch of words."""
    first, last = span
    titled = False
    while first < last and (words[first].key in _TITLES or _is_no_name(words[first])):
        titled = words[first].key in _TITLES
        first += 1
    if not titled and first > 0 and words[first - 1].key in _TITLES and first < last:
        titled = words[first].gap.strip(".") == " "
    while last > first and (_is_no_name(words[last - 1]) or words[last - 1].key in _PARTICLES):
        if words[last - 1].key in _OTHERS:
            return None
        last -= 1
    if first >= last:
        return None
    if not titled:
        # What leads a name in, such as a profession or the first word of a sentence, is left out.
        while last - first > 1 and words[first].traits == Trait.WORD:
            first += 1
    last = min(last, first + _MOST_WORDS)
    score = _score(text, words[first:last], titled, writing)
    return _Run(first, last, score)


def _is_no_name(word: Word) -> bool:
    if _CONTRACTED.search(word.said) or (_IDENTIFIER.search(word.said) and not _is_known(word)):
        return True
    return word.key in _NEVER or word.key in _OTHERS or (word.acronym and not word.traits & Trait.GIVEN)


def _is_known(word: Word) -> bool:
    return bool(word.traits & (Trait.GIVEN | Trait.SURNAME))


def _score(text: str, words: Sequence[Word], titled: bool, writing: _Writing) -> float:
    before = text[max(0, words[0].start - 60) : words[0].start]
    after = text[words[-1].end : words[-1].end + 24]
    score = _by_gazetteer(words, writing)
    if not writing.cased:
        score *= 0.75
    if titled:
        return max(score, 0.9)
    if score < _ANNOUNCED and _NAMED.search(before):
        return max(score, _announced(words))
    if score and _GREETED.search(before):
        score += 0.15
    known = any(_is_known(word) for word in words)
    if score and (known or len(words) > 1) and _ACTING.match(after):
        score += 0.15
    if score and _SPEAKING.match(after):
        score += 0.2
    return min(score, 0.95)


def _announced(words: Sequence[Word]) -> float:
    """How sure a name is of which nothing is known but that it was announced as one."""
    if all(word.traits == Trait.WORD for word in words):
        return 0.3
    return 0.3 if len(words) > 3 and not any(_is_known(word) for word in words) else _ANNOUNCED


def _by_gazetteer(words: Sequence[Word], writing: _Writing) -> float:
    """How much the words themselves say that they are a name."""
    real = [word for word in words if not word.initial and word.key not in _PARTICLES]
    if not real:
        return 0.0
    if len(real) == 1:
        return min(0.85, _alone(real[0], writing) + (0.25 if len(words) > 1 else 0.0))
    if len(real) < len(words) and not any(_is_known(word) for word in real):
        # German and Romance nouns are joined by the same particles as noble names.
        return 0.2
    strengths = sorted((_strength(word, writing) for word in real), reverse=True)
    has_given = any(word.traits & Trait.GIVEN for word in real)
    # Two good halves make a whole; a third word that is none takes from it.
    whole = sum(strengths[:2]) / 2 - 0.1 * sum(1 for strength in strengths[2:] if strength < 0.3)
    return max(0.0, min(0.85, whole + (0.05 if has_given else -0.1)))


def _strength(word: Word, writing: _Writing) -> float:
    """How sure a word is part of a name where its neighbour is: 1 for a name that is nothing else."""
    if _is_known(word):
        sure = 0.9 if word.traits & Trait.GIVEN else 0.85
        return 0.45 if word.traits & Trait.WORD else 0.7 if word.traits & Trait.PLACE else sure
    if _PATRONYMIC.search(word.key) and len(word.said) > 5 and not word.traits:
        return 0.75
    return 0.0 if word.traits else 0.5 if writing.familiar else 0.25


def _alone(word: Word, writing: _Writing) -> float:
    """How sure a single word is a name."""
    if word.acronym or word.key in _RARELY_ALONE:
        return 0.0
    sure = _alone_at_best(word)
    if word.said.isupper() and not writing.loud:
        return sure / 2
    if writing.familiar:
        return sure
    # In a language whose words are not known, any of them may be written like a name: least in mid-sentence.
    likely = writing.cased and word.gap == " " and word.traits & Trait.GIVEN
    return sure * (0.85 if likely else 0.5)


def _alone_at_best(word: Word) -> float:
    if not _is_known(word):
        unknown = 0.0 if word.traits else 0.2
        return unknown + (0.1 if unknown and _PATRONYMIC.search(word.key) and len(word.said) > 6 else 0.0)
    if word.traits & Trait.PLACE:
        return 0.3
    if word.traits & Trait.WORD:
        return 0.3 if word.traits & Trait.GIVEN else 0.2
    return 0.6 if word.traits & Trait.GIVEN else 0.5


def _listed(words: Sequence[Word], runs: Sequence[_Run]) -> list[_Run]:
    """The runs, those raised that stand in a list beside a surer one: "Mark, Kaylee and Hope"."""
    raised = list(runs)
    for order in (range(len(raised)), reversed(range(len(raised)))):
        before: _Run | None = None
        for at in order:
            run = raised[at]
            if before is not None and before.score >= 0.5 > run.score and _is_beside(words, before, run):
                raised[at] = run = _Run(run.first, run.last, 0.55)
            before = run
    return raised


def _is_beside(words: Sequence[Word], one: _Run, other: _Run) -> bool:
    first, second = sorted((one, other), key=lambda run: run.first)
    known = all(_is_known(word) or not word.traits for word in words[other.first : other.last])
    between = words[first.last : second.first]
    if second.first == first.last:
        return known and words[second.first].gap.strip() == ","
    return (
        known
        and len(between) == 1
        and between[0].key in {"and", "und", "et", "y", "e", "en", "i", "och", "og"}
    )


def _echoed(words: Sequence[Word], runs: Sequence[_Run]) -> list[_Run]:
    """The runs, those raised whose words are part of a surer, longer name elsewhere in the text."""
    sure = {
        word.key
        for run in runs
        if run.score >= _ECHO and run.last - run.first > 1
        for word in words[run.first : run.last]
        if not word.initial
    }
    return [
        _Run(run.first, run.last, max(run.score, _ECHO))
        if run.last - run.first == 1 and words[run.first].key in sure
        else run
        for run in runs
    ]
