"""A generated answer names one option or none, and protocols stand side by side."""

import time

import pytest

from desta_lab.benchmarks.formats import BenchmarkError
from desta_lab.benchmarks.mmau import BENCHMARK as MMAU
from desta_lab.benchmarks.multiple_choice import name_option, strip_letters
from tests.benchmarks.samples import mmau, write_json

OPTIONS = ["a bird", "a bird song", "rain", "a siren"]


@pytest.mark.parametrize(
    "response, index",
    [
        ("(b)", 1),
        ("b) a bird song", 1),
        ("B.", 1),
        ("The answer is (c).", 2),
        ("rain", 2),
        ("It is a bird song.", 1),
        ("a bird", 0),
        ("rain or a siren", None),
        ("(a) or (b)", None),
        ("", None),
        ("no idea", None),
        ("D", 3),
        ("It is a Siren!", 3),
        ("trains", None),
        ("(z)", None),
        ("The answer is B", 1),
        ("The answer is B.", 1),
        ("**B**", 1),
        ("**B.** a bird song", 1),
        ("**Answer:** (B)", 1),
        ("[B]", 1),
        ("Answer: c", 2),
        ("Option D is the best.", 3),
        ("B is correct.", 1),
        ("The answer is B because it sings.", 1),
        ("答案是B", 1),
        ("The answer is a bird song.", 1),
        ("The best option a listener has is rain.", 2),
        ("It is not rain but a siren.", 3),
        ("A train.", None),
        ("**rain**", 2),
        (r"\boxed{B}", 1),
        ("<answer>B</answer>", 1),
        ("Ｂ", 1),
        ("选B", 1),
        ("Answer - B", 1),
        ("I choose B.", 1),
        ("It is not (b)", None),
        ("(B) is incorrect, so (c)", 2),
        ("The answer isn't B. D", None),
    ],
)
def test_a_generated_answer_names_one_option_or_none(response, index):
    assert name_option(response, OPTIONS) == index


def test_letters_are_taken_off_options_only_where_every_one_has_its_own():
    assert strip_letters(["(A) dog", "B. cat", "c) bird"]) == ("dog", "cat", "bird")
    assert strip_letters(["A: flat", "C: sharp"]) == ("A: flat", "C: sharp")


@pytest.mark.parametrize(
    ("options", "words"),
    [(["(B) dog", "(A) cat"], "letters b, a; write them in order"), (["dog", " "], "is empty")],
)
def test_options_that_cannot_be_told_by_their_letters_are_refused(options, words):
    with pytest.raises(BenchmarkError, match=f"item 3: .*{words}"):
        strip_letters(options, "item 3")


def test_an_option_that_is_a_letter_is_named_by_its_text():
    assert name_option("A", ["D", "A", "G"]) == 1 and name_option(' "G". ', ["D", "A", "G"]) == 2


def test_a_stated_letter_is_an_option_of_that_text_before_it_is_a_place():
    assert name_option("The answer is A.", ["D", "A", "G"]) == 1
    assert name_option("(a)", ["D", "A", "G"]) == 0


def test_options_of_one_text_are_one_option():
    options = ["man", "woman", "Man", "child"]
    assert name_option("It is a man.", options) == name_option("(c)", options) == 0
    assert name_option("woman", options) == 1


def test_a_question_that_lists_a_choice_twice_is_scored(tmp_path):
    row = mmau(choices=["dog", "cat", "dog", "cow"], answer="dog", model_output="a dog")
    row |= {"scores": [-2.0, -3.0, -1.0, -4.0], "silence": [-2.0, -2.0, -2.0, -2.0]}
    items = MMAU.read(write_json(tmp_path / "m.json", [row]))
    found = MMAU.grade(items).iloc[0]
    assert found["chance"] == 1 / 3 and found["letter"] == "a"
    assert found[["ranked", "calibrated", "parsed", "string match"]].tolist() == [1, 1, 1, 1]


def test_what_has_no_right_option_is_named_and_the_rest_is_scored(tmp_path):
    rows = [
        mmau(model_output="cat"),
        mmau(id="8", answer="cow", model_output="cow"),
        mmau(id="9", choices=["cat", "cat"], model_output="cat"),
    ]
    scored = MMAU.score(MMAU.read(write_json(tmp_path / "m.json", rows)))
    assert set(scored["clips"]) == {1} and set(scored["value"]) == {100}
    first, second = scored.attrs["left_out"]
    assert "item 1: the answer 'cow' is none of dog, cat" in first
    assert "item 2: all options are the same (cat, cat)" in second


def test_protocols_stand_side_by_side_with_silence_and_a_missing_one_is_not_a_zero(tmp_path):
    row = mmau(model_output="Hard to say", scores=[-3.0, -1.0], silence=[-4.0, -1.5])
    items = MMAU.read(write_json(tmp_path / "m.json", [row]))
    both = MMAU.grade(items).iloc[0]
    assert (both["ranked"], both["calibrated"], both["silence"]) == (1, 0, 1)
    assert both["parsed"] == both["string match"] == 0
    assert both["unparsed"] == 1
    items = MMAU.read(write_json(tmp_path / "m.json", [mmau(model_prediction="cat")]))
    assert set(MMAU.score(items)["protocol"]) == {"parsed", "string match"}


@pytest.mark.parametrize(
    "row, said",
    [
        (mmau(answer="cow"), "none of dog, cat"),
        (mmau(answer=None), "no answer; it was not published"),
    ],
)
def test_an_answer_that_is_no_option_or_not_public_is_refused(tmp_path, row, said):
    items = MMAU.read(write_json(tmp_path / "m.json", [row | {"model_prediction": "cat"}]))
    with pytest.raises(BenchmarkError, match=f"item 0: .*{said}"):
        MMAU.score(items)


@pytest.mark.parametrize("piece", ["{", "a", "\n", " ", "\t1", "step ", "- ", "<<", "***", '"'])
def test_an_odd_long_answer_names_nothing_and_takes_no_longer_than_its_length(piece):
    begin = time.process_time()
    assert name_option(piece * (100_000 // len(piece)), ["rain", "a siren"]) is None
    assert time.process_time() - begin < 5  # seconds: what is quadratic takes minutes
