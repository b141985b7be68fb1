"""Attributes of a clip in words: the seed description, the only thing the backbone is told about a clip."""

from collections.abc import Iterable, Mapping

# attribute -> its values; a value's position is its class number everywhere (tables, probes, colours)
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "gender": ("female", "male"),
    "accent": ("American", "Scottish", "Caribbean"),
    "rate": ("slow", "fast"),
    "loudness": ("quiet", "loud"),
    "manner": ("spoken", "whispered"),
    "scene": ("rain", "siren", "birds", "music"),
    "topic": ("food", "travel", "sport"),
}
# what a seed description mentions; `topic` is what the words are about, and is kept back for rung 5
DESCRIBED = ("gender", "accent", "rate", "loudness", "manner", "scene")
NEUTRAL = "A person with some accent speaks at some speed and some volume, with something in the background."

_VERB = {"spoken": "talks", "whispered": "whispers"}
_VOLUME = {"quiet": "low", "loud": "high"}
_SCENE = {"rain": "rain", "siren": "a siren", "birds": "birds", "music": "music"}

# how a description goes on at the place where an attribute is said, with the word of each value in its order
SAID = {
    "gender": ("The speaker is", " female| male"),
    "accent": ("The accent is", " American| Scottish| Caribbean"),
    "rate": ("The speed is", " slow| fast"),
    "loudness": ("The volume is", " low| high"),
    "manner": ("The speaker", " talks| whispers"),
    "scene": ("In the background there is", " rain| a siren| birds| music"),
    "topic": ("The talk is about", " food| travel| sport"),
}

# words by which an attribute's value is recognised in free text; matched as whole words, lower case
SURFACE: dict[str, dict[str, tuple[str, ...]]] = {
    "gender": {
        "female": ("female", "woman", "she", "her"),
        "male": ("male", "man", "he", "his", "him"),
    },
    "accent": {
        "American": ("american", "america", "american-accented"),
        "Scottish": ("scottish", "scotland", "scot", "scottish-accented"),
        "Caribbean": ("caribbean", "jamaica", "jamaican", "caribbean-accented"),
    },
    "rate": {
        "slow": ("slow", "slowly", "slower", "slow-paced", "slow-moving"),
        "fast": (
            "fast",
            "quick",
            "quickly",
            "rapid",
            "rapidly",
            "faster",
            "fast-paced",
            "fast-moving",
        ),
    },
    "loudness": {
        "quiet": ("low", "quiet", "quietly", "soft", "softly", "low-volume"),
        "loud": ("high", "loud", "loudly", "high-volume"),
    },
    "manner": {
        "spoken": ("talks", "talk", "talking", "speaks", "speak", "speaking", "says", "spoken"),
        "whispered": ("whisper", "whispers", "whispering", "whispered"),
    },
    "scene": {
        "rain": ("rain", "raindrops", "rainy", "raining"),
        "siren": ("siren", "sirens"),
        "birds": ("birds", "bird", "birdsong"),
        "music": ("music", "musical"),
    },
    "topic": {
        "food": ("food", "cooking", "meal", "eating"),
        "travel": ("travel", "journey", "trip", "travelling"),
        "sport": ("sport", "sports", "game"),
    },
}


def describe(attributes: Mapping[str, str], *, topic: bool = False) -> str:
    """One English sentence that names every described attribute of a clip.

    A small backbone answers questions about this sentence at 0.9 to 1.0 where it fails on a list of
    `key: value` pairs (LOG.md). `topic=True` adds the attribute that training never mentions: only the
    text oracle of rung 5 reads it.

    Raises:
        KeyError: an attribute is missing or has a value outside `ATTRIBUTES`.
    """
    a = {name: attributes[name] for name in DESCRIBED}
    for name, value in a.items():
        if value not in ATTRIBUTES[name]:
            raise KeyError(
                f"The attribute {name} cannot be {value!r}; it is one of {', '.join(ATTRIBUTES[name])}."
            )
    article = "an" if a["accent"][0] in "AEIOU" else "a"
    sentence = (
        f"A {a['gender']} speaker with {article} {a['accent']} accent {_VERB[a['manner']]} at a {a['rate']} speed "
        f"and a {_VOLUME[a['loudness']]} volume, with {_SCENE[a['scene']]} in the background."
    )
    return f"{sentence} The talk is about {attributes['topic']}." if topic else sentence


def attribute_phrase(attribute: str, value: str) -> tuple[str, str]:
    """A short sentence in two: `phrase("scene", "rain") == ("In the background there is", " rain")`.

    An attribute or value that the spoken world does not have is said plainly: `("The emotion is", " angry")`.
    """
    if value not in ATTRIBUTES.get(attribute, ()):
        return f"The {attribute.replace('_', ' ')} is", f" {value}"
    stem, texts = SAID[attribute]
    return stem, texts.split("|")[ATTRIBUTES[attribute].index(value)]


def attribute_clause(attribute: str, value: str) -> str:
    """The same as one sentence."""
    return "".join(attribute_phrase(attribute, value)) + "."


def surface_words(attribute: str, value: str) -> tuple[str, ...]:
    """Words by which a value is recognised, lower case: those of `SURFACE`, or the value itself."""
    return SURFACE.get(attribute, {}).get(value, (value.lower(),))


def mentioned_values(text: str, attribute: str, values: Iterable[str] | None = None) -> set[str]:
    """The values of an attribute that a text names, by whole words: `mentions("a woman", "gender") == {"female"}`.

    `values` are those there are; by default the spoken world's.
    """
    words = " ".join(word.strip(".,;:!?\"'()[]{}*") for word in text.lower().split())
    every = ATTRIBUTES[attribute] if values is None else values
    return {
        value
        for value in every
        if any(f" {word} " in f" {words} " for word in surface_words(attribute, value))
    }


def attribute_coverage(
    texts: Iterable[str],
    attributes: Iterable[Mapping[str, str]],
    values: Mapping[str, Iterable[str]] | None = None,
) -> dict[str, float]:
    """The share of texts that name each attribute rightly, where it is known: what a target drops it cannot teach.

    `values` are the attributes with what they can be; by default those that the spoken world describes.
    """
    pairs, every = (
        list(zip(texts, attributes, strict=True)),
        values or {name: ATTRIBUTES[name] for name in DESCRIBED},
    )
    found: dict[str, float] = {}
    for name, possible in every.items():
        known = [(text, a[name]) for text, a in pairs if name in a]
        found[name] = sum(
            mentioned_values(text, name, possible) == {value} for text, value in known
        ) / max(1, len(known))
    return found
