"""MMAU's own rule goes by words."""

import json

import pytest

from desta_lab.benchmarks.formats import BenchmarkError
from desta_lab.benchmarks.mmau import BENCHMARK as MMAU
from desta_lab.benchmarks.mmau import matches_words
from tests.benchmarks.samples import mmau, write_json


@pytest.mark.parametrize(
    "said, right",
    [("The answer is: a dog.", True), ("dog", False), ("a dog or a cat", False), ("", False)],
)
def test_mmaus_own_rule_wants_every_word_of_the_answer_and_none_of_another(said, right):
    assert matches_words(said, "a dog", ["a dog", "a cat"]) is right


def test_answers_carry_both_keys_that_the_authors_read(tmp_path):
    old = mmau(model_output="stale")
    items = MMAU.read(write_json(tmp_path / "m.json", [old]))
    (path,) = MMAU.write(items, tmp_path / "out")
    (row,) = json.loads(path.read_text())
    assert row["model_prediction"] == row["model_output"] == "stale"
    differ = write_json(tmp_path / "n.json", [old | {"model_prediction": "new"}])
    with pytest.raises(BenchmarkError, match="item 0: model_prediction and model_output differ"):
        MMAU.read(differ)


def test_the_authors_rule_reads_choices_as_they_are_listed(tmp_path):
    row = mmau(choices=["(A) dog", "(B) cat"], answer="(B) cat", model_output="cat")
    found = MMAU.grade(MMAU.read(write_json(tmp_path / "m.json", [row]))).iloc[0]
    assert found["parsed"] == 1 and found["string match"] == 0  # the letter was not said
