"""Output constraints are checked as IFEval means them, and no clever answer gets round them."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from desta_lab.evaluation import constraints
from desta_lab.evaluation.constraints import CHECKS, is_obeyed
from desta_lab.evaluation.tasks import task_ladder

CAPITAL, LOWER = "change_case:english_capital", "change_case:english_lowercase"
JSON, QUOTED, TITLE = (
    "detectable_format:json_format",
    "startend:quotation",
    "detectable_format:title",
)
STARTS, ENDS = "combination:repeat_prompt", "startend:end_checker"
WITH, WITHOUT = "keywords:existence", "keywords:forbidden_words"
BULLETS, WORDS = "detectable_format:number_bullet_lists", "length_constraints:number_words"
SENTENCES, PARAGRAPHS = (
    "length_constraints:number_sentences",
    "length_constraints:number_paragraphs",
)

# arguments under which every check can be called
ARGUMENTS = {
    STARTS: {"prompt_to_repeat": "The speaker"},
    ENDS: {"end_phrase": "That is all."},
    WITH: {"keywords": ["rain"]},
    WITHOUT: {"forbidden_words": ["rain"]},
    BULLETS: {"num_bullets": 1},
    WORDS: {"num_words": 3, "relation": "less than"},
    SENTENCES: {"num_sentences": 3, "relation": "less than"},
    PARAGRAPHS: {"num_paragraphs": 1},
}

CASES = [
    (CAPITAL, {}, "THE SPEED IS SLOW.", True),
    (CAPITAL, {}, "THE ÉCOLE IS IN ZÜRICH, 42!", True),
    (CAPITAL, {}, "THE SPEED iS SLOW", False),
    (CAPITAL, {}, "STRAßE", False),
    (CAPITAL, {}, "42!", False),
    (LOWER, {}, "the école is “slow”, 42!", True),
    (LOWER, {}, "the speed is slow, in the US", False),
    (LOWER, {}, "...", False),
    (JSON, {}, '{"gender": "female"}', True),
    (JSON, {}, '```json\n{"gender": "female"}\n```', True),
    (JSON, {}, '```JSON {"gender": "female"}```', True),
    (JSON, {}, "```\n[1, 2]\n```\n", True),
    (JSON, {}, "```Json```[1, 2]", True),  # so IFEval's own code
    (JSON, {}, "``````[1, 2]", False),
    (JSON, {}, 'Here it is: {"gender": "female"}', False),
    (JSON, {}, '{"gender": "female"} I hope this helps.', False),
    (JSON, {}, "{'gender': 'female'}", False),
    (JSON, {}, '{"gender": "female"', False),
    (JSON, {}, "```json\n```", False),
    (JSON, {}, "female", False),
    (QUOTED, {}, ' "The speaker is female."\n', True),
    (QUOTED, {}, "“The speaker is female.”", False),
    (QUOTED, {}, '"The speaker" is female.', False),
    (QUOTED, {}, '"', False),
    (QUOTED, {}, '""', False),
    (QUOTED, {}, '"  "', False),
    (TITLE, {}, "<<\xa0>>", False),
    (TITLE, {}, "<< > >>", True),
    (TITLE, {}, "<<female>>", True),
    (TITLE, {}, "My answer:\n<<poem of joy>> and more", True),
    (TITLE, {}, "<<<female>>>", True),
    (TITLE, {}, "<female>", False),
    (TITLE, {}, "<<  >>", False),
    (TITLE, {}, "<<>>>>", False),
    (TITLE, {}, ">>female<<", False),
    (TITLE, {}, "<<fe\nmale>>", False),
    (STARTS, {"prompt_to_repeat": "My answer is "}, "\nMY ANSWER IS: female", True),
    (STARTS, {"prompt_to_repeat": "My answer is"}, "So my answer is female", False),
    (STARTS, {"prompt_to_repeat": "Sure (yes)."}, "sure (YES). Female", True),
    (ENDS, {"end_phrase": "Any other questions?"}, 'Female. "ANY OTHER QUESTIONS?"', True),
    (ENDS, {"end_phrase": "Any other questions?"}, "Any other questions? No.", False),
    (WITH, {"keywords": ["Rain", "siren"]}, "The sirens wail; a train passes.", True),
    (WITH, {"keywords": ["rain", "siren"]}, "Only rain.", False),
    (WITH, {"keywords": ["STRASSE"]}, "die Straße", True),
    (WITH, {"keywords": ["r.in"]}, "rain", False),
    (WITHOUT, {"forbidden_words": ["rain"]}, "A train.", True),
    (WITHOUT, {"forbidden_words": ["rain"]}, "No RAIN!", False),
    (WITHOUT, {"forbidden_words": ["c++"]}, "I like C++.", False),
    (WITHOUT, {"forbidden_words": ["café"]}, "Le CAFÉ.", False),
    (BULLETS, {"num_bullets": 2}, "Two:\n* one\n  - two\nThe end", True),
    (BULLETS, {"num_bullets": 2}, "* one\n* two\n* three", False),
    (BULLETS, {"num_bullets": 1}, "**Bold is no bullet**\n* one", True),
    (BULLETS, {"num_bullets": 2}, "one * two\n1. three\n*", False),
    (BULLETS, {"num_bullets": 1}, "*\nA star that is alone has the next line for its text.", True),
    (BULLETS, {"num_bullets": 1}, "*\n* one", True),
    (BULLETS, {"num_bullets": 2}, "*\n- one", True),
    (WORDS, {"num_words": 3, "relation": "at least"}, "one, two — three", True),
    (WORDS, {"num_words": 3, "relation": "at least"}, "one, two — !!!", False),
    (WORDS, {"num_words": 3, "relation": "less than"}, "one two three", False),
    (SENTENCES, {"num_sentences": 3, "relation": "at least"}, "One. Two! Is it three?", True),
    (
        SENTENCES,
        {"num_sentences": 3, "relation": "at least"},
        "He said “Go.” She went. Then silence",
        True,
    ),
    (
        SENTENCES,
        {"num_sentences": 2, "relation": "at least"},
        "Dr. A. B. Jones paid 3.50 in the U.S. today",
        False,
    ),
    (SENTENCES, {"num_sentences": 2, "relation": "at least"}, "It began in 1990. It ended.", True),
    (
        SENTENCES,
        {"num_sentences": 2, "relation": "at least"},
        "The answer is no. It is late.",
        True,
    ),
    (
        SENTENCES,
        {"num_sentences": 3, "relation": "less than"},
        "1. The first item.\n2. The second item.",
        True,
    ),
    (SENTENCES, {"num_sentences": 2, "relation": "at least"}, "Well... it goes on", False),
    (SENTENCES, {"num_sentences": 2, "relation": "at least"}, "Hm. ! ? ... ???", False),
    (PARAGRAPHS, {"num_paragraphs": 2}, "One\n\nstill one\n***\nTwo", True),
    (PARAGRAPHS, {"num_paragraphs": 2}, "***\nOne\n***\nTwo\n***", True),
    (PARAGRAPHS, {"num_paragraphs": 2}, "One\n***\n***\nTwo", False),
    (PARAGRAPHS, {"num_paragraphs": 2}, "One\n\nTwo", False),
]


@pytest.mark.parametrize(("instruction", "arguments", "answer", "expected"), CASES)
def test_answers_obey_or_do_not(instruction, arguments, answer, expected):
    assert is_obeyed(instruction, answer, **arguments) is expected


@pytest.mark.parametrize("instruction", CHECKS)
@pytest.mark.parametrize("answer", ["", " \n\t", "\u200b\ufeff", "\u00a0"])
def test_an_empty_answer_never_obeys(instruction, answer):
    assert is_obeyed(instruction, answer, **ARGUMENTS.get(instruction, {})) is False


@pytest.mark.parametrize("instruction", CHECKS)
@pytest.mark.parametrize(
    "piece",
    [
        "<<",
        ">>",
        "*",
        "***",
        "\n",
        " \n*",
        "-\n",
        "[",
        '"',
        "```",
        ". ",
        "a.",
        "rain",
        "A b. ",
        "e\u0301 ",
    ],
)
def test_a_long_answer_costs_no_more_than_its_length(instruction, piece):
    """100 kB in well under a second: published patterns take minutes on some of these."""
    for _ in range(3):  # another process may have slowed one of them down
        started = time.process_time()
        is_obeyed(instruction, piece * (100_000 // len(piece)), **ARGUMENTS.get(instruction, {}))
        took = time.process_time() - started
        if took < 1.0:
            break
    assert took < 1.0


def test_arguments_that_are_none_are_left_out():
    """Published data sets carry every argument of every instruction in every row."""
    assert is_obeyed(BULLETS, "* one", num_bullets=1, relation=None, keywords=None)


def test_an_unknown_instruction_is_refused_in_words():
    with pytest.raises(
        KeyError, match=r"No check for the instruction 'startend:nothing'; there are change_case"
    ):
        is_obeyed("startend:nothing", "yes")


@pytest.mark.parametrize("answer", ["", "one two"])
@pytest.mark.parametrize(
    ("instruction", "arguments", "message"),
    [
        (WORDS, {"num_words": 3, "relation": "at most"}, "relation 'at most' is unknown"),
        (SENTENCES, {"num_sentences": 3, "relation": "at most"}, "relation 'at most' is unknown"),
        (WITH, {"keywords": []}, "at least one word is needed"),
        (WITHOUT, {"forbidden_words": [" "]}, "phrase to look for is empty"),
        (ENDS, {"end_phrase": " "}, "phrase to look for is empty"),
    ],
)
def test_arguments_without_a_meaning_are_refused_in_words(instruction, arguments, message, answer):
    with pytest.raises(ValueError, match=message):
        is_obeyed(instruction, answer, **arguments)


@pytest.mark.parametrize("value", ["3", 3.0, True, [3]])
def test_a_number_that_is_no_whole_number_is_refused(value):
    with pytest.raises(TypeError, match=r"num_bullets is .*; write a whole number"):
        is_obeyed(BULLETS, "* one", num_bullets=value)


def test_every_constraint_of_the_ladder_can_be_checked():
    asked = {task.constraint for task in task_ladder() if task.constraint is not None}
    assert asked
    assert asked <= CHECKS.keys()


def test_a_check_can_be_called_by_name():
    assert constraints.json_format("[1]")


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=200), st.sampled_from(sorted(CHECKS)))
def test_any_text_gets_a_plain_yes_or_no(answer, name):
    assert is_obeyed(name, answer, **ARGUMENTS.get(name, {})) in (True, False)


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1, max_size=50))
def test_the_two_cases_exclude_each_other(answer):
    assert not (
        is_obeyed("change_case:english_capital", answer)
        and is_obeyed("change_case:english_lowercase", answer)
    )


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
)


@settings(max_examples=60, deadline=None)
@given(VALUES, st.sampled_from(["", "json", "JSON"]), st.sampled_from(["", "\n", "  \n\n"]))
def test_any_json_value_is_json_with_and_without_a_fence_and_trailing_space(value, tag, trailing):
    text = json.dumps(value)
    assert is_obeyed("detectable_format:json_format", text + trailing)
    assert is_obeyed("detectable_format:json_format", f"```{tag}\n{text}\n```{trailing}")
    assert not is_obeyed("detectable_format:json_format", f"Here you are: {text} enjoy {{")


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40))
def test_what_starts_ends_or_is_quoted_is_found_whatever_surrounds_it(middle):
    assert is_obeyed(
        "combination:repeat_prompt", f"  my ANSWER is {middle}", prompt_to_repeat="My answer is"
    )
    assert is_obeyed("startend:end_checker", f"{middle} that IS all. \n", end_phrase="That is all.")
    assert is_obeyed("startend:quotation", f' "x{middle}x" ')


@pytest.mark.parametrize("answer", ["ẞ STRASSE", "ǅ", "İ", "ŉ", "𝐀", "\u200b", "\x00"])
@pytest.mark.parametrize("name", sorted(CHECKS))
def test_odd_characters_get_a_plain_yes_or_no(answer, name):
    assert is_obeyed(name, answer, **ARGUMENTS.get(name, {})) in (True, False)
