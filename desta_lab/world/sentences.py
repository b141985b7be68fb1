"""What the spoken world says: clauses from a small grammar, by topic."""

from collections.abc import Sequence

import numpy as np


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split(", "))


SUBJECTS = _split(
    "my brother, the farmer, her father, our neighbour, the old doctor, their daughter, "
    "his mother, the young teacher, the driver, another girl, the mayor, a quiet stranger, "
    "the other boy, Arthur, Martha"
)
LINKS = _split("and later, because, while, but, and then, so, before, after")
PHRASES = {  # the topics of Clip.attributes, which no model is told
    "food": {
        "verbs": _split("cooked, served, tasted, ordered, shared, prepared, brought over, burnt"),
        "objects": _split(
            "the roasted carrots, a bowl of warm porridge, thirty butter biscuits, "
            "a pot of pepper soup, the dark bread, four fried fish, the largest turkey, "
            "another plate of rice, the bitter chocolate, a jar of apple sauce, "
            "some birthday cake, a third lemon tart, the garlic potatoes, a sour orange"
        ),
        "places": _split(
            "for dinner, at the market, on the kitchen floor, with her mother, under the stairs, "
            "at the bakery"
        ),
    },
    "travel": {
        "verbs": _split("caught, missed, waited for, boarded, booked, heard about, paid for, took"),
        "objects": _split(
            "the early train north, a ferry across the water, the third bus to the airport, "
            "another harbour tour, a cheap flight over the mountains, the car to the border, "
            "a journey around the world, the night coach, a boat up the river, "
            "the first tram to the square, a taxi to the station, the road along the shore"
        ),
        "places": _split(
            "on Thursday morning, with thirty tourists, in the storm, for the winter, "
            "without a passport, from Perth"
        ),
    },
    "sport": {
        "verbs": _split(
            "won, lost, watched, started, finished, talked about, trained for, cheered for"
        ),
        "objects": _split(
            "the first quarter of the match, a hard game of cricket, the northern football final, "
            "another bicycle race, the third hour of tennis, a swimming record, "
            "her fourth marathon, the rugby trophy, an archery contest, the horse race, "
            "a hurdles heat, the under thirteen league, a boxing bout, the basketball derby"
        ),
        "places": _split(
            "in the park, with the other players, after a short rest, at the stadium, "
            "for the cup, on grass"
        ),
    },
}
# words that want another word behind them: no sentence ends on one
_LOOSE_ENDS = frozenset(
    _split(
        "a, an, the, of, to, and, or, but, so, because, while, before, after, later, then, at, "
        "in, on, for, with, under, over, from, without, her, his, my, our, their, another, some, "
        "up, across, around, along, about, first, third, fourth, four, thirty, other, old, "
        "young, quiet, roasted, warm, butter, pepper, fried, largest, bitter, birthday, lemon, "
        "garlic, sour, early, harbour, cheap, night, hard, northern, bicycle, swimming, archery, "
        "horse, hurdles, boxing, basketball, short, kitchen, apple, dark"
    )
)


def make_sentence(topic: str, rng: np.random.Generator) -> str:
    """Four linked clauses about a topic: more words than a clip holds, to be cut where it ends."""
    text = _make_clause(topic, rng)
    for _ in range(3):
        text += f", {_pick(LINKS, rng)} {_make_clause(topic, rng)}"
    return text


def _make_clause(topic: str, rng: np.random.Generator) -> str:
    return " ".join(_pick(part, rng) for part in (SUBJECTS, *PHRASES[topic].values()))


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def shorten_words(words: Sequence[str], count: int) -> list[str]:
    """The first `count` words, or somewhat fewer, so that the last one can end a sentence."""
    while count > 2 and words[count - 1].rstrip(",") in _LOOSE_ENDS:
        count -= 1
    return list(words[:count])
