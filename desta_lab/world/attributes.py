"""The attributes of the spoken world: each is defined once, with its values, words and sound.

To add one, write its `Attribute` here, name it at the end of `_ALL`, and give it a place in
`SENTENCE`. Design, clips, descriptions, questions and the text world follow, and so do people's
recordings, except for a `voice`. After a later change of a sound raise `corpora` in
`cache.VERSIONS`. A whisper has no pitch left, so whispered clips do not tell one. Gender and topic
have no function: `spoken.design_clips` deals speakers by gender, and the topic chooses the words.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from desta_lab.world.scenes import Wave, render_scene, set_level
from desta_lab.world.voices import whisper_filter

# the seed description; the place of an attribute holds `known` or, in NEUTRAL, `unknown`
SENTENCE = (
    "A {gender} with {accent} {manner} at {rate} and {loudness}, with {scene} in the background."
)


@dataclass(frozen=True, kw_only=True)
class Attribute:
    """One attribute of a clip: its values, the words that describe and ask about it, its sound.

    `words` gives each value its word in a sentence; a value's position is its class number in
    tables, probes and colours. `surface` gives the words, lower case and separated by spaces, by
    which free text names a value, its own among them; negations, as "no echo", name none.
    `restatements` are other sentences for the same fact: {0} is the word of the value, {1} its
    synonym.

    The sound of a value is a function of it and of a random generator, at one of four stages: first
    `voice` gives settings of `Synthesiser.speak`, `speech` changes what was said (words keep their
    moments, what it adds behind them stays), `beside` renders so many seconds of another sound, and
    `clip` changes the whole. Waves are mono at 16 kHz.
    """

    name: str
    noun: str  # what a question calls it
    words: Mapping[str, str]
    question: str
    stem: str  # how a sentence about it begins; the word follows
    answer_stem: str = ""  # how an answer to the question begins, where that is not `stem`
    known: str = ""  # its place in SENTENCE, "a {} speed"; without one it is never described
    unknown: str = ""  # what stands there when nothing is known: "some speed"
    filled: str = ""  # what stands there when only some is known, where that is not `known`
    surface: Mapping[str, str] = field(default_factory=dict)
    synonyms: Mapping[str, str] = field(default_factory=dict)
    restatements: tuple[str, ...] = ()
    voice: Callable[[str, np.random.Generator], dict[str, Any]] | None = None
    speech: Callable[[str, Wave, np.random.Generator], Wave] | None = None
    beside: Callable[[str, float, np.random.Generator], Wave] | None = None
    clip: Callable[[str, Wave, np.random.Generator], Wave] | None = None

    @property
    def values(self) -> tuple[str, ...]:
        """The values, in the order of their class numbers."""
        return tuple(self.words)

    @property
    def options(self) -> dict[str, str]:
        """What follows a stem for each value: `{"quiet": " low", "loud": " high"}`."""
        return {value: f" {word}" for value, word in self.words.items()}

    def in_sentence(self, value: str) -> str:
        """A value as it stands in the seed description: `a slow speed`, `an American accent`."""
        return re.sub("^a (?=[aeiouAEIOU])", "an ", self.known.format(self.words[value]))

    def fill_blank(self, value: str) -> str:
        """A value as it stands in `NEUTRAL` in the place of `unknown`: `slow speed`."""
        form = (self.filled or self.known).removeprefix("a ")
        return form.format(self.words.get(value, value))


GENDER = Attribute(
    name="gender",
    noun="gender",
    words={"female": "female", "male": "male"},
    question="What is the gender of the speaker?",
    stem="The speaker is",
    known="{} speaker",
    unknown="person",
    filled="{} person",
    surface={"female": "female woman she her", "male": "male man he his him"},
    synonyms={"female": "woman", "male": "man"},
    restatements=("It is a {0} speaker.", "A {1} is heard.", "{0}."),
)
ACCENT = Attribute(
    name="accent",
    noun="accent",
    words={"American": "American", "Scottish": "Scottish", "Caribbean": "Caribbean"},
    question="What is the accent of the speaker?",
    stem="The accent is",
    known="a {} accent",
    unknown="some accent",
    surface={
        "American": "american america american-accented",
        "Scottish": "scottish scotland scot scottish-accented",
        "Caribbean": "caribbean jamaica jamaican caribbean-accented",
    },
    restatements=("The speaker has the {0} accent.", "The voice sounds {0}.", "{0} accent."),
    voice=lambda value, _: {"accent": value},
)
WORDS_PER_MINUTE = {"slow": (110, 130), "fast": (210, 240)}
RATE = Attribute(
    name="rate",
    noun="speed",
    words={"slow": "slow", "fast": "fast"},
    question="What is the speed of the speech?",
    stem="The speed is",
    known="a {} speed",
    unknown="some speed",
    surface={
        "slow": "slow slowly slower slow-paced slow-moving",
        "fast": "fast quick quickly rapid rapidly faster fast-paced fast-moving",
    },
    restatements=("The speech is {0}.", "The speed of the speech is {0}.", "{0} speed."),
    voice=lambda value, rng: {
        "words_per_minute": int(rng.integers(*WORDS_PER_MINUTE[value], endpoint=True))
    },
)
LEVEL = {"quiet": (-40.0, -36.0), "loud": (-24.0, -20.0)}  # dBFS of the whole clip
LOUDNESS = Attribute(
    name="loudness",
    noun="volume",
    words={"quiet": "low", "loud": "high"},
    question="What is the volume of the voice?",
    stem="The volume is",
    known="a {} volume",
    unknown="some volume",
    surface={
        "quiet": "low quiet quietly soft softly low-volume",
        "loud": "high loud loudly high-volume",
    },
    synonyms={"quiet": "quiet", "loud": "loud"},
    restatements=("The voice has a {0} volume.", "The voice is {1}.", "{0} volume."),
    clip=lambda value, wave, rng: set_level(wave, rng.uniform(*LEVEL[value])),
)
MANNER = Attribute(
    name="manner",
    noun="manner",
    words={"spoken": "talks", "whispered": "whispers"},
    question="Does the speaker talk or whisper?",
    stem="The speaker",
    known="{}",
    unknown="speaks",
    surface={
        "spoken": "talks talk talking speaks speak speaking says spoken",
        "whispered": "whisper whispers whispering whispered",
    },
    synonyms={"spoken": "spoken", "whispered": "whispered"},
    restatements=("The voice {0}.", "The speech is {1}.", "{0}."),
    speech=lambda value, wave, rng: whisper_filter(wave, rng) if value == "whispered" else wave,
)
SCENE = Attribute(
    name="scene",
    noun="background",
    words={"rain": "rain", "siren": "a siren", "birds": "birds", "music": "music"},
    question="What is the background sound?",
    stem="In the background there is",
    answer_stem="The background sound is",
    known="{}",
    unknown="something",
    surface={
        "rain": "rain raindrops rainy raining",
        "siren": "siren sirens",
        "birds": "birds bird birdsong",
        "music": "music musical",
    },
    restatements=(
        "There is {0} in the background.",
        "Behind the voice there is {0}.",
        "{0} in the background.",
    ),
    beside=render_scene,
)
# what the words are about: no seed description mentions it, so no target does (rung 5)
TOPIC = Attribute(
    name="topic",
    noun="topic",
    words={"food": "food", "travel": "travel", "sport": "sport"},
    question="What is the talk about?",
    stem="The talk is about",
    surface={
        "food": "food cooking meal eating",
        "travel": "travel journey trip travelling",
        "sport": "sport sports game",
    },
    restatements=("The topic is {0}.", "The talk is on {0}.", "{0}."),
)

_ALL = (GENDER, ACCENT, RATE, LOUDNESS, MANNER, SCENE, TOPIC)
VOCABULARY = {attribute.name: attribute for attribute in _ALL}
ATTRIBUTES = {name: attribute.values for name, attribute in VOCABULARY.items()}  # name → its values
DESCRIBED = tuple(name for name, attribute in VOCABULARY.items() if attribute.known)
NEUTRAL = SENTENCE.format_map({name: VOCABULARY[name].unknown for name in DESCRIBED})


def plain_attribute(name: str, values: tuple[str, ...]) -> Attribute:
    """An attribute of which only its name and its values are known, in plain words."""
    noun = name.replace("_", " ")
    return Attribute(
        name=name,
        noun=noun,
        words={value: value for value in values},
        question=f"What is the {noun}?",
        stem=f"The {noun} is",
    )


def get_attribute(name: str, values: tuple[str, ...]) -> Attribute:
    """The spoken world's attribute of this name if it has these values, else a plain one."""
    if set(values) <= set(ATTRIBUTES.get(name, ())):
        return VOCABULARY[name]
    return plain_attribute(name, values)
