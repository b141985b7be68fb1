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

# words by which an attribute's value is recognised in free text; matched as whole words, lower case
SURFACE: dict[str, dict[str, tuple[str, ...]]] = {
    "gender": {"female": ("female", "woman", "she", "her"), "male": ("male", "man", "he", "his", "him")},
    "accent": {
        "American": ("american", "america", "american-accented"),
        "Scottish": ("scottish", "scotland", "scot", "scottish-accented"),
        "Caribbean": ("caribbean", "jamaica", "jamaican", "caribbean-accented"),
    },
    "rate": {
        "slow": ("slow", "slowly", "slower", "slow-paced", "slow-moving"),
        "fast": ("fast", "quick", "quickly", "rapid", "rapidly", "faster", "fast-paced", "fast-moving"),
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
            raise KeyError(f"The attribute {name} cannot be {value!r}; it is one of {', '.join(ATTRIBUTES[name])}.")
    article = "an" if a["accent"][0] in "AEIOU" else "a"
    sentence = (
        f"A {a['gender']} speaker with {article} {a['accent']} accent {_VERB[a['manner']]} at a {a['rate']} speed "
        f"and a {_VOLUME[a['loudness']]} volume, with {_SCENE[a['scene']]} in the background."
    )
    return f"{sentence} The talk is about {attributes['topic']}." if topic else sentence


def mentions(text: str, attribute: str) -> set[str]:
    """The values of an attribute that a text names, by whole words: `mentions("a woman", "gender") == {"female"}`."""
    words = {word.strip(".,;:!?\"'()[]{}*") for word in text.lower().replace("\n", " ").split()}
    return {value for value, surface in SURFACE[attribute].items() if words & set(surface)}


def coverage(texts: Iterable[str], attributes: Iterable[Mapping[str, str]]) -> dict[str, float]:
    """The share of texts that name each described attribute rightly: what a target drops it cannot teach."""
    pairs = list(zip(texts, attributes, strict=True))
    return {
        name: sum(mentions(text, name) == {a[name]} for text, a in pairs) / max(1, len(pairs)) for name in DESCRIBED
    }
