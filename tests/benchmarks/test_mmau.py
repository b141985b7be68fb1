"""MMAU's own rule goes by words."""

import pytest

from desta_lab.benchmarks.mmau import matches_words


@pytest.mark.parametrize(
    "said, right",
    [("The answer is: a dog.", True), ("dog", False), ("a dog or a cat", False), ("", False)],
)
def test_mmaus_own_rule_wants_every_word_of_the_answer_and_none_of_another(said, right):
    assert matches_words(said, "a dog", ["a dog", "a cat"]) is right
