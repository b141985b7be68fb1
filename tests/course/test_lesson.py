"""A lesson keeps what was guessed and tried, and its card says how well the student knew."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from desta_lab.cache import Provenance
from desta_lab.course import lesson as lessons
from desta_lab.course.lesson import Lesson, describe_cost, format_table
from desta_lab.experiments.experiment import Experiment
from desta_lab.model import presets
from desta_lab.model.runs import index_path
from desta_lab.views import style


@pytest.fixture
def lesson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lesson:
    monkeypatch.setenv("DESTA_LAB_FIGURES", str(tmp_path))
    return Lesson("05", Experiment(presets.nano(), root=tmp_path / "data"))


def slider(box):
    return box.children[1]


def card(lesson: Lesson) -> dict:
    return json.loads((lesson.out / "card-05.json").read_text())


def test_a_guess_is_a_range_that_is_held_against_what_was_measured(lesson: Lesson) -> None:
    slider(lesson.predict("risen", "How many?", 0.0, 6.0, step=1.0)).value = (2, 4)
    assert "outside" in repr(lesson.reveal("risen", 6.0))
    assert "inside" in repr(lesson.reveal("risen", 4.0)).split(":")[-1]


def test_a_guess_is_locked_when_its_answer_is_shown(lesson: Lesson) -> None:
    box = lesson.predict("risen", "How many?", 0.0, 6.0, step=1.0)
    slider(box).value = (1, 3)
    lesson.reveal("risen", 6.0)
    assert slider(box).disabled and box.children[2].disabled
    slider(box).value, box.children[2].value = (6, 6), False
    assert lesson.predict("risen", "How many?", 0.0, 6.0, step=1.0) is box
    guess = lesson.reveal("risen", 6.0)
    assert (guess.low, guess.high, guess.default) == (1, 3, False)
    lesson.card()
    assert card(lesson)["predictions"][0]["high"] == 3


def test_a_guess_locked_before_its_answer_is_printed_stays_as_it_was(lesson: Lesson) -> None:
    box = lesson.predict("risen", "How many?", 0.0, 6.0, step=1.0)
    slider(box).value = (1, 3)
    lesson.lock("risen")
    assert slider(box).disabled
    slider(box).value = (6, 6)
    assert lesson.guesses[0].measured is None
    guess = lesson.reveal("risen", 6.0)
    assert (guess.low, guess.high, guess.measured) == (1, 3, 6)
    with pytest.raises(ValueError, match="Nothing was predicted under 'fallen'"):
        lesson.lock("risen", "fallen")


def test_a_cell_run_again_keeps_the_guess(lesson: Lesson) -> None:
    slider(lesson.predict("risen", "How many?", 0.0, 6.0, step=1.0)).value = (1, 3)
    assert slider(lesson.predict("risen", "How many?", 0.0, 6.0, step=1.0)).value == (1, 3)


def test_a_guess_nobody_set_is_called_the_default_and_scores_as_the_whole_slider(
    lesson: Lesson,
) -> None:
    lesson.predict("risen", "How many?", 0.0, 6.0, step=1.0)
    guess = lesson.reveal("risen", 3.0)
    assert repr(guess).startswith("The default range") and guess.score == 1
    assert "you set no range" in lesson.card().data
    assert card(lesson)["predictions"][0]["default"] is True


def test_a_default_that_is_meant_counts_ticked_or_moved_away_and_back(lesson: Lesson) -> None:
    ticked = lesson.predict("ticked", "How many?", 0.0, 8.0, step=1.0)
    ticked.children[2].value = True
    moved = slider(lesson.predict("moved", "How many?", 0.0, 8.0, step=1.0))
    start = moved.value
    moved.value = (1, 2)
    moved.value = start
    for name in ("ticked", "moved"):
        guess = lesson.reveal(name, 3.0)
        assert not guess.default and (guess.low, guess.high) == (2, 6) and guess.score == 0.5
    assert "2 of your 2 ranges" in lesson.card().data


def test_the_interval_score_is_proper_and_the_whole_slider_does_not_win() -> None:
    believed = np.random.default_rng(0).beta(5, 3, 20_000)
    low, high = np.quantile(believed, [0.1, 0.9])

    def expected(low: float, high: float) -> float:
        return float(np.mean([lessons.score_interval(low, high, x, 0.0, 1.0) for x in believed]))

    honest = expected(low, high)
    assert expected(0.0, 1.0) == 1 and honest < 0.6
    for other in [(low - 0.1, high), (low + 0.1, high), (low, high - 0.1), (low, 1.0), (0.5, 0.5)]:
        assert expected(*other) > honest


@pytest.mark.parametrize("measured", [float("nan"), float("inf")])
def test_what_is_no_number_is_not_revealed(lesson: Lesson, measured: float) -> None:
    lesson.predict("risen", "How many?", 0.0, 6.0, step=1.0)
    with pytest.raises(ValueError, match="reveal a number"):
        lesson.reveal("risen", measured)


@pytest.mark.parametrize("low, high, step", [(0, 6, 1), (0, 1, None), (-1, 1, 0.05), (1, 1000, 10)])
def test_the_default_stands_on_the_sliders_grid(lesson: Lesson, low, high, step) -> None:
    lesson.predict("x", "How much?", float(low), float(high), step=step and float(step))
    assert (
        lesson.guesses[0].default and low <= lesson.guesses[0].low < lesson.guesses[0].high <= high
    )


def test_revealing_what_was_never_asked_is_a_sentence(lesson: Lesson) -> None:
    with pytest.raises(ValueError, match=r"lesson\.predict\('risen'"):
        lesson.reveal("risen", 1.0)


def test_the_card_holds_guesses_exercises_and_where_it_was_made(lesson: Lesson) -> None:
    slider(lesson.predict("risen", "How many?", 0.0, 6.0, step=1.0)).value = (5, 6)
    lesson.reveal("risen", 6.0)
    lesson.check("above_chance", None)
    lesson.check(
        "above_chance", lambda accuracy, options: (accuracy - 1 / options) / (1 - 1 / options)
    )
    page = lesson.card(student="Ada").data
    kept = card(lesson)
    assert "1 of your 1 ranges held the answer" in page and "1 of 1 exercises solved" in page
    assert kept["student"] == "Ada" and kept["exercises"] == {"above_chance": "passed"}
    assert kept["predictions"][0] | {"question": ""} == {
        "name": "risen",
        "question": "",
        "low": 5.0,
        "high": 6.0,
        "least": 0.0,
        "most": 6.0,
        "default": False,
        "measured": 6.0,
        "inside": True,
        "score": pytest.approx(1 / 6),
    }


def test_the_students_own_function_runs_where_its_check_passed(lesson: Lesson) -> None:
    def theirs(read, logits):
        return [2.0]

    def ours(read, logits):
        return torch.tensor([1.0])

    assert lesson.use("layer_mixture", theirs, ours)(0, 0) == 1.0
    assert lesson.credit == "the package's code"
    lesson.exercises |= {"layer_mixture": "passed", "splice": "wrong"}
    assert torch.equal(lesson.use("layer_mixture", theirs, ours)(0, 0), torch.tensor([2.0]))
    assert lesson.credit == "your code"
    assert lesson.use("splice", theirs, ours) is ours
    assert lesson.credit == "your layer_mixture and the package's splice"
    assert lesson.credit_of("splice") == "the package's code"
    with pytest.raises(ValueError, match="Nobody used tapped"):
        lesson.credit_of("splice", "tapped")


def test_an_answer_that_was_changed_after_it_passed_is_judged_again(lesson: Lesson) -> None:
    def right(accuracy, options):
        return (accuracy - 1 / options) / (1 - 1 / options)

    def ours(accuracy, options):
        return -1.0

    assert lesson.check("above_chance", right).state == "passed"
    assert lesson.use("above_chance", right, ours, tensors=False) is right
    assert lesson.use("above_chance", lambda a, n: a - 1 / n, ours) is ours
    assert lesson.exercises["above_chance"] == "wrong" and lesson.credit == "the package's code"


def test_the_headline_is_saved_with_its_table_and_shown_with_words(lesson: Lesson) -> None:
    picture, axes = style.subplots(headline="One")
    axes.plot([0, 1], [0, 1])
    shown = lesson.show(picture, "A line that rises.", pd.DataFrame({"x": [0, 1]}))
    _, metadata = shown._repr_mimebundle_()
    assert metadata["image/png"]["alt"] == "A line that rises."
    assert (lesson.out / "05.svg").exists() and len(pd.read_csv(lesson.out / "05.csv")) == 2
    assert json.loads((lesson.out / "05.json").read_text())["alt"] == "A line that rises."


def test_a_result_of_a_lesson_is_made_once_and_again_for_another_connector(
    lesson: Lesson, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def make() -> pd.DataFrame:
        made.append(1)
        return pd.DataFrame({"answer": ["001", "NA"], "score": [0.5, float("nan")]})

    def train(sha256: str) -> None:
        index_path(tmp_path).parent.mkdir(exist_ok=True)
        index_path(tmp_path).write_text(json.dumps([{"step": 0, "sha256": sha256, "loss": None}]))

    monkeypatch.setattr(lesson.experiment, "run_folder", lambda kind: tmp_path)
    monkeypatch.setattr(
        lesson.experiment, "provenance", lambda kind, **facts: Provenance(kind, facts)
    )
    train("a")
    table = lesson.find_or_make("answers", make, step=0)
    assert lesson.find_or_make("answers", make, step=0).equals(table) and len(made) == 1
    assert table["answer"].tolist() == ["001", "NA"] and table["score"].isna().tolist() == [
        False,
        True,
    ]
    lesson.find_or_make("answers", make, step=1)
    train("b")
    lesson.find_or_make("answers", make, step=0)
    assert len(made) == 3


def test_what_was_not_measured_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    costs = {
        "05": {"nano": {"seconds": 130, "memory_gb": 1.2, "on": "2 CPU cores, no GPU", "cells": {}}}
    }
    monkeypatch.setattr(lessons, "COSTS", tmp_path / "costs.json")
    assert "not measured yet" in describe_cost("05", "nano")
    lessons.COSTS.write_text(json.dumps(costs))
    assert "about 2 min" in describe_cost("05", "nano") and "not measured yet" in describe_cost(
        "05", "t4"
    )


def test_figures_of_a_student_go_where_git_does_not_look(monkeypatch) -> None:
    monkeypatch.delenv("DESTA_LAB_FIGURES", raising=False)
    root = Path(__file__).parents[2]
    lesson = Lesson("05", Experiment(presets.nano(), root=root / "data"))
    ignored = subprocess.run(["git", "check-ignore", "-q", lesson.out / "05.png"], cwd=root)
    assert ignored.returncode == 0


def test_tables_show_words_whole_and_from_the_left() -> None:
    said = "The speaker is female, and in the background there is a siren that goes on."
    page = format_table(pd.DataFrame({"answer": [said], "score": [0.5]}))
    assert said in page and "<th>0</th>" not in page
    assert ".words-1-of-2 tr > :nth-last-child(2) { text-align: left; }" in page
    assert "words-2" not in page
    assert "<th>clip</th>" in format_table(pd.DataFrame({"score": [0.5]}, index=["clip"]))
