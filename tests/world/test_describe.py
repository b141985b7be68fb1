"""Every corpus has its descriptions and its questions, and free text is read back."""

import itertools

import pytest

from desta_lab.audio import DataWarning
from desta_lab.clips import Clip, Corpus
from desta_lab.world import describe
from desta_lab.world.attributes import ATTRIBUTES, DESCRIBED, NEUTRAL, VOCABULARY, get_attribute
from desta_lab.world.public_corpora import CREMA_D, ESC_50_EVENTS
from tests.world.files import write_noise

FACTS = {name: values[-1] for name, values in ATTRIBUTES.items()}


def corpus_of(folder, rows, **recipe):
    """A corpus of clips with these attributes."""
    write_noise(folder / "a.wav")
    clips = [Clip(f"c{i}", "a.wav", 0.5, "", "s", row) for i, row in enumerate(rows)]
    return Corpus.write(
        folder, clips, name="any", recipe=recipe, seed=0, licence="", splits={"train": ["s"]}
    )


# ---- the spoken world ----


def test_a_description_is_one_sentence():
    assert describe.describe(FACTS | {"accent": "American", "scene": "siren"}) == (
        "A male speaker with an American accent whispers at a fast speed and a high volume, with "
        "a siren in the background."
    )
    assert describe.describe(FACTS, topic=True).endswith(" The talk is about sport.")


def test_the_neutral_sentence_names_no_value():
    assert NEUTRAL == (
        "A person with some accent speaks at some speed and some volume, with something in the "
        "background."
    )


def test_a_description_names_every_described_value_and_no_other():
    for values in itertools.product(*(ATTRIBUTES[name] for name in DESCRIBED)):
        facts = dict(zip(DESCRIBED, values, strict=True))
        text = describe.describe(facts)
        assert {name: describe.mentioned_values(text, name) for name in DESCRIBED} == {
            name: {value} for name, value in facts.items()
        }
        assert not describe.mentioned_values(text, "topic")


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (FACTS | {"rate": "sluggish"}, "rate cannot be 'sluggish'; give the clip one of slow"),
        ({"gender": "male"}, "accent is missing; give the clip one of American, Scottish"),
        (
            {name: FACTS[name] for name in DESCRIBED},
            "topic is missing; give the clip one of food, travel, sport",
        ),
    ],
)
def test_a_missing_or_strange_value_is_refused_in_words(facts, said):
    with pytest.raises(KeyError, match=f"The attribute {said}"):
        describe.describe(facts, topic=True)


def test_an_attribute_is_whole():
    for attribute in VOCABULARY.values():
        values = set(attribute.values)
        assert len(values) > 1 and set(attribute.surface) == values
        assert attribute.question.endswith("?")
        assert not attribute.synonyms or set(attribute.synonyms) == values
        words = " ".join(attribute.surface.values()).split()
        assert len(words) == len(set(words)), f"{attribute.name}: a word names two values"


def test_an_attribute_with_other_values_is_plain():
    assert get_attribute("scene", ("rain",)) is VOCABULARY["scene"]
    plain = get_attribute("room_size", ("big", "small"))
    assert (plain.question, plain.stem) == ("What is the room size?", "The room size is")
    assert plain.options == {"big": " big", "small": " small"}
    assert get_attribute("scene", ("rain", "wind")).question == "What is the scene?"


# ---- free text ----


def test_values_are_found_by_whole_words():
    assert describe.mentioned_values("A woman, she said.", "gender") == {"female"}
    assert describe.mentioned_values("She or he?", "gender") == {"female", "male"}
    assert describe.mentioned_values("The humane theory", "gender") == set()
    assert describe.mentioned_values("It is MERRY!", "mood", ["merry", "sad"]) == {"merry"}


def test_coverage_counts_texts_that_name_the_right_value_alone():
    texts = ["A loud woman.", "A loud man.", "Nobody."]
    facts = [{"gender": "female"}, {"gender": "female"}, {}]
    coverage = describe.attribute_coverage(texts, facts, {"gender": ATTRIBUTES["gender"]})
    assert coverage == {"gender": 0.5}


# ---- other corpora ----


def test_every_corpus_is_described_by_its_own_sentence(tmp_path):
    described = {
        describe.describe: {"world": "spoken"},
        CREMA_D.describe: {"source": "crema-d"},
        describe.describe_plainly: {"source": "folder"},
    }
    for function, recipe in described.items():
        assert describe.description_function(corpus_of(tmp_path, [{}], **recipe)) == function


def test_plain_descriptions_have_a_sentence_an_attribute():
    facts = {"mood": "calm", "room_size": "big", "scene": "rain"}
    assert describe.describe_plainly(facts) == (
        "The mood is calm. The room size is big. In the background there is rain."
    )
    assert describe.describe_plainly({}) == "This is a recording."


def test_a_clip_is_asked_about_what_differs_and_is_no_name(tmp_path):
    rows = [
        {"mood": f"{i % 3}", "room": "hall", "note": f"take {i}", "scene": "rain"}
        for i in range(24)
    ]
    rows[0] |= {"scene": "music"}
    asked = describe.askable_attributes(corpus_of(tmp_path, rows, source="folder"))
    assert asked == {"mood": ("0", "1", "2"), "scene": ("rain", "music")}


@pytest.mark.parametrize("numbers", [range(20, 26), (3.2, 11.5, -4), range(24)])
def test_a_column_of_measurements_is_not_asked_about_and_a_sentence_says_so(tmp_path, numbers):
    count = 24 if len(numbers) > 5 else 5  # of clips
    rows = [
        {"age": f"{numbers[i % len(numbers)]}", "stars": f"{i % 2}", "mood": "ab"[i % 2]}
        for i in range(count)
    ]
    said = f"folder/clips.csv: the column 'age' has {len(numbers)} different numbers, such as "
    with pytest.warns(DataWarning, match=f"{said}.*; write a few ranges in words instead"):
        asked = describe.askable_attributes(
            corpus_of(tmp_path / "folder", rows, source="folder", table="clips.csv")
        )
    assert asked == {"stars": ("0", "1"), "mood": ("a", "b")}


def test_closed_vocabularies_are_asked_about_in_their_order(tmp_path):
    rows = [{"event": event, "kind": kind} for event, kind in ESC_50_EVENTS.items()]
    asked = describe.askable_attributes(corpus_of(tmp_path, rows[::-1], source="esc-50"))
    assert asked["event"] == tuple(ESC_50_EVENTS)
    assert asked["kind"] == ("animal", "nature", "human", "home", "city")


def test_the_spoken_world_is_asked_about_what_is_described(tmp_path):
    asked = describe.askable_attributes(corpus_of(tmp_path, [FACTS], world="spoken"))
    assert asked == {name: ATTRIBUTES[name] for name in DESCRIBED}


@pytest.mark.parametrize(
    "text, values, named",
    [
        ("There are 10.", ("1", "10"), {"10"}),
        ("It lasts 1.5 s", ("1",), set()),
        ("-5 degrees", ("5",), set()),
        ("A car horn.", ("car", "car horn"), {"car horn"}),
        ("a car and a car\n horn", ("car", "car horn"), {"car", "car horn"}),
        ("lower, low-key, slow", ("low",), set()),
        ("foods", ("food",), set()),
        ("It is her.", ("she", "he"), set()),
        ("He is not angry.", ("angry", "not angry"), {"not angry"}),
        ("He isn't angry.", ("angry", "not angry"), set()),
        ("Not a male but a female voice", ("male", "female"), {"female"}),
        ("There is no music, only rain", ("music", "rain"), {"rain"}),
        ("No doubt: rain", ("rain",), {"rain"}),
        ("The speaker does not talk or whisper.", ("talk", "whisper"), set()),
        ("It is not a siren, or the music, or rain", ("siren", "music", "rain"), set()),
        ("Not slow, fast", ("slow", "fast"), {"fast"}),
        ("The speaker talks or does not whisper", ("talks", "whisper"), {"talks"}),
        ("He does not talk; loud or quiet?", ("talk", "loud", "quiet"), {"loud", "quiet"}),
        ("then (laugh) again", ("(laugh)", "(cry)"), {"(laugh)"}),
        ("他听起来很生气。", ("生气", "高兴"), {"生气"}),
        ('{"gender":"female"}', ("female", "male"), {"female"}),
        ("he/she", ("he", "she"), {"he", "she"}),
        ("**Rain** and _siren_", ("rain", "siren"), {"rain", "siren"}),
        ("A child’s voice", ("child's",), {"child's"}),
        ("cafe\u0301", ("caf\u00e9",), {"caf\u00e9"}),
        ("no_emotion", ("no", "emotion", "no_emotion"), {"no_emotion"}),
        ("", ("rain", ""), set()),
    ],
)
def test_free_text_names_values_by_whole_words_the_longest_first(text, values, named) -> None:
    assert describe.named_by_phrases(text, {value: [value] for value in values}) == named
