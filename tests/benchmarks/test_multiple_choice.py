"""A generated answer names one option or none, and protocols stand side by side."""

import time

import pytest

from desta_lab.benchmarks.benchmark import BenchmarkError
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
    ],
)
def test_a_generated_answer_names_one_option_or_none(response, index):
    assert name_option(response, OPTIONS) == index


def test_letters_are_taken_off_options_only_where_every_one_has_its_own():
    assert strip_letters(["(A) dog", "B. cat", "c) bird"]) == ("dog", "cat", "bird")
    assert strip_letters(["A: flat", "C: sharp"]) == ("A: flat", "C: sharp")


def test_an_option_that_is_a_letter_is_named_by_its_text():
    assert name_option("A", ["D", "A", "G"]) == 1 and name_option(' "G". ', ["D", "A", "G"]) == 2


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
