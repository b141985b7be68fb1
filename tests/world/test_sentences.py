"""The grammar of the spoken world: many sentences, each on its topic, cut where one can end."""

import numpy as np
import pytest

from desta_lab.world.attributes import ATTRIBUTES
from desta_lab.world.sentences import PHRASES, make_sentence, shorten_words


def test_every_topic_has_its_phrases():
    assert tuple(PHRASES) == ATTRIBUTES["topic"]


@pytest.mark.parametrize("topic", PHRASES)
def test_sentences_hardly_ever_repeat(topic):
    rng = np.random.default_rng(0)
    assert len({" ".join(make_sentence(topic, rng).split()[:6]) for _ in range(300)}) > 200


def test_a_sentence_is_cut_behind_a_word_that_can_end_it():
    words = ["the", "mayor", "tasted", "the", "garlic", "potatoes", "at", "the", "bakery"]
    assert shorten_words(words, 8) == words[:6]
    assert shorten_words(words, 9) == words
