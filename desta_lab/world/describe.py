"""Clips in words: the seed description, and the values that a text names."""

import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache

import regex

from desta_lab.audio import DataWarning
from desta_lab.clips import ROWS, Corpus
from desta_lab.world.attributes import ATTRIBUTES, DESCRIBED, SENTENCE, VOCABULARY, get_attribute
from desta_lab.world.public_corpora import PUBLIC_CORPORA

# in front of a phrase: "not", "isn't", "no", …, perhaps with an article
_NEGATED = regex.compile(
    r"(?:\b(?:not|no|never|without|neither|nor|cannot)|n't)\s+(?:(?:an?|the|any)\s+)?$"
)
_NEGATION_WIDTH = 40  # characters before a phrase that are looked at
_OR = regex.compile(r",?\s+or\s+(?:(?:an?|the|any)\s+)?")  # between two phrases
MAX_OPEN_VALUES = 20  # values of an attribute without a closed vocabulary that can be asked about
MAX_NUMBERS = 5  # of them, where all are numbers and repeat: others are measurements
_NUMBER = regex.compile(r"[-+−]?\d*[.,]?\d+(e[-+]?\d+)?", regex.IGNORECASE)


def describe(attributes: Mapping[str, str], *, topic: bool = False) -> str:
    """One English sentence that names every described attribute of a clip.

    A small backbone answers questions about this sentence at 0.9 to 1.0 where it fails on a list
    of `key: value` pairs (LOG.md). With `topic=True` a second sentence names the topic, which
    training never mentions: only the text oracle of rung 5 reads it. Raises KeyError if an
    attribute is missing or has a value that the spoken world does not know.
    """
    for name in (*DESCRIBED, "topic") if topic else DESCRIBED:
        if (value := attributes.get(name)) not in ATTRIBUTES[name]:
            known = ", ".join(ATTRIBUTES[name])
            fault = "is missing" if value is None else f"cannot be {value!r}"
            raise KeyError(f"The attribute {name} {fault}; give the clip one of {known}.")
    parts = {name: VOCABULARY[name].in_sentence(attributes[name]) for name in DESCRIBED}
    sentence = SENTENCE.format_map(parts)
    return f"{sentence} {attribute_clause('topic', attributes['topic'])}" if topic else sentence


def describe_known(attributes: Mapping[str, str]) -> str:
    """The description of a clip of which something is not known: that is left open (`NEUTRAL`)."""
    whole = all(attributes.get(name) in ATTRIBUTES[name] for name in DESCRIBED)
    return describe(attributes) if whole else fill_neutral(attributes)


def fill_neutral(attributes: Mapping[str, str]) -> str:
    """`NEUTRAL` with those of its blanks filled in that have a value."""
    parts = {name: VOCABULARY[name].unknown for name in DESCRIBED}
    for name in parts.keys() & attributes.keys():
        parts[name] = VOCABULARY[name].fill_blank(attributes[name])
    return SENTENCE.format_map(parts)


def describe_plainly(attributes: Mapping[str, str]) -> str:
    """The description of a clip by one short sentence an attribute."""
    clauses = [attribute_clause(name, value) for name, value in attributes.items()]
    return " ".join(clauses) or "This is a recording."


def description_function(corpus: Corpus) -> Callable[..., str]:
    """The function that describes the clips of a corpus, from their attributes."""
    if is_spoken_world(corpus):
        return describe
    if is_recorded(corpus):
        return describe_known
    public = PUBLIC_CORPORA.get(str(corpus.recipe.get("source")))
    return public.describe if public else describe_plainly


def is_spoken_world(corpus: Corpus) -> bool:
    """Whether a corpus is the spoken world."""
    return corpus.recipe.get("world") == "spoken"


def is_recorded(corpus: Corpus) -> bool:
    """Whether a corpus is the factorial design over people's recordings."""
    return corpus.recipe.get("world") == "recorded"


def askable_attributes(corpus: Corpus) -> dict[str, tuple[str, ...]]:
    """The attributes that clips of a corpus can be asked about, each with its values in order.

    Left out are attributes with one value, and open vocabularies of more than `MAX_OPEN_VALUES`
    values, such as names and notes; with a DataWarning measurements, such as an age; of recorded
    voices, what no description mentions, too.
    """
    if is_spoken_world(corpus):
        return {name: ATTRIBUTES[name] for name in DESCRIBED}
    public = PUBLIC_CORPORA.get(str(corpus.recipe.get("source")))
    vocabularies = public.attributes if public else ATTRIBUTES
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for clip in corpus.clips:
        for name, value in clip.attributes.items():
            if name in DESCRIBED or not is_recorded(corpus):
                found[name][value] += 1
    askable = {}
    for name, values in found.items():
        closed = {*values} <= {*vocabularies.get(name, ())}
        if not closed and _are_measurements(values):
            _warn_of_measurements(corpus, name, values)
        elif len(values) > 1 and (closed or len(values) <= MAX_OPEN_VALUES):
            askable[name] = order_values(name, values, vocabularies)
    return askable


def order_values(
    name: str, values: Collection[str], vocabularies: Mapping[str, Sequence[str]] = ATTRIBUTES
) -> tuple[str, ...]:
    """Values of an attribute in the order of its vocabulary, if that has all; else by alphabet."""
    known = [value for value in vocabularies.get(name, ()) if value in values]
    return tuple(known if len(known) == len({*values}) else sorted({*values}))


def _are_measurements(values: Counter[str]) -> bool:
    """Whether values are numbers of which there are many, or that hardly repeat."""
    many = len(values) > MAX_NUMBERS or values.total() < 2 * len(values)
    return len(values) > 1 and many and all(map(_NUMBER.fullmatch, values))


def _warn_of_measurements(corpus: Corpus, name: str, values: Iterable[str]) -> None:
    several = list(values)
    path = corpus.folder / corpus.recipe.get("table", ROWS)
    fault = f"{name!r} has {len(several)} different numbers, such as {' and '.join(several[:2])}"
    remedy = "it is not asked about; write a few ranges in words instead, such as low and high"
    warnings.warn(f"{path}: the column {fault}; {remedy}.", DataWarning, stacklevel=3)


def attribute_clause(name: str, value: str) -> str:
    """One short sentence that names a value: `In the background there is rain.`

    A value that the spoken world does not know is named plainly: `The emotion is angry.`
    """
    attribute = get_attribute(name, (value,))
    return f"{attribute.stem}{attribute.options[value]}."


def surface_words(name: str, value: str) -> tuple[str, ...]:
    """The words by which free text names a value, in lower case; by default the value itself."""
    known = VOCABULARY[name].surface if name in VOCABULARY else {}
    return tuple(known[value].split()) if value in known else (value.lower(),)


def mentioned_values(text: str, name: str, values: Iterable[str] | None = None) -> set[str]:
    """The values of an attribute that a text names by whole words: {"female"} for "a woman".

    `values` are the possible ones; by default those of the spoken world.
    """
    possible = ATTRIBUTES[name] if values is None else values
    return named_by_phrases(text, {value: surface_words(name, value) for value in possible})


# ---- the one matcher of free text ----


def named_by_phrases(text: str, phrases: Mapping[str, Iterable[str]]) -> set[str]:
    """The values of which a text says a phrase; `phrases` gives each value its own.

    Phrases are compared whatever their case, by the word boundaries of Unicode (UAX 29), where a
    hyphen joins: "low" is not in "lower" or "low-key", "1" not in "10" or "1.5", and a Chinese word
    is found without blanks. Of phrases that begin at one place the longest is said: "car horn" does
    not name "car". A phrase right behind an English "not", "no", "n't", "never", "without",
    "neither" or "nor" is not said, nor is one that "or" joins to it ("does not talk or whisper"
    names nothing); no other negation is known.
    """
    values: dict[str, set[str]] = defaultdict(set)
    for value, words in phrases.items():
        for phrase in words:
            values[_normalise(phrase)].add(value)
    values.pop("", None)
    if not values:
        return set()
    text = _normalise(text)
    found: set[str] = set()
    denied = 0  # where the last phrase ends that is not said
    for match in _compile_phrases(tuple(sorted(values))).finditer(text):
        before = text[max(0, match.start() - _NEGATION_WIDTH) : match.start()]
        if _NEGATED.search(before) or (denied and _OR.fullmatch(text, denied, match.start())):
            denied = match.end()
        else:
            found |= values[match.group()]
    return found


def _normalise(text: str) -> str:
    """Folded case, composed characters, one blank between words, no emphasis by underscores."""
    plain = unicodedata.normalize("NFC", text.casefold()).replace("’", "'")
    return " ".join(regex.sub(r"(?<!\w)_+|_+(?!\w)", " ", plain).split())


@cache
def _compile_phrases(phrases: tuple[str, ...]) -> regex.Pattern[str]:
    """A pattern that finds phrases in normal form as whole words, the longest first."""
    longest = sorted(phrases, key=len, reverse=True)
    return regex.compile("|".join(map(_whole_words, longest)), regex.WORD)


def _whole_words(phrase: str) -> str:
    before = r"(?<!\w[-‐‑])\b" if phrase[0].isalnum() else ""
    before = r"(?<![-−.,])" + before if phrase[0].isdigit() else before
    after = r"\b(?![-‐‑]\w)" if phrase[-1].isalnum() else ""
    return before + regex.escape(phrase) + after


# ---- what targets keep ----


def attribute_coverage(
    texts: Iterable[str],
    attributes: Iterable[Mapping[str, str]],
    values: Mapping[str, Iterable[str]] | None = None,
) -> dict[str, float]:
    """The share of texts that name each attribute rightly: what a target omits it cannot teach.

    `attributes` are those of each text's clip; a clip counts where the attribute is known.
    `values` are the possible ones by attribute; by default those that the spoken world describes.
    """
    pairs = list(zip(texts, attributes, strict=True))
    coverage = {}
    for name, possible in (values or {name: ATTRIBUTES[name] for name in DESCRIBED}).items():
        told = [(text, clip[name]) for text, clip in pairs if name in clip]
        right = [mentioned_values(text, name, possible) == {value} for text, value in told]
        coverage[name] = sum(right) / max(1, len(right))
    return coverage
