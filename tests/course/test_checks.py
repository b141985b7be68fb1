"""Checks answer in words, and every wrong answer that ships is caught by its name."""

import pytest

from desta_lab.course import checks

WRONG = [(name, mistake) for name, one in checks.load_checks().items() for mistake in one.wrong]


@pytest.mark.parametrize("name, mistake", WRONG)
def test_a_wrong_answer_is_caught_and_its_mistake_named(name: str, mistake: str) -> None:
    said = checks.judge(name, checks.load_checks()[name].wrong[mistake])
    assert said.state == "wrong"
    assert mistake.lower() in said.message.lower(), said.message


@pytest.mark.parametrize("name", checks.load_checks())
def test_every_check_ships_wrong_answers_and_knows_a_stub(name: str) -> None:
    assert len(checks.load_checks()[name].wrong) >= 2
    assert checks.judge(name, None).state == checks.judge(name, ...).state == "not attempted"


def test_an_answer_that_breaks_is_told_so() -> None:
    said = checks.judge("above_chance", lambda accuracy, options: 1 / 0)
    assert said.state == "wrong" and "ZeroDivisionError" in said.message


def test_a_function_that_returns_nothing_is_not_attempted_yet() -> None:
    said = checks.judge("above_chance", lambda accuracy, options: ...)
    assert said.message == "Not attempted yet."


def test_what_is_right_passes_and_says_so_in_html_too() -> None:
    said = checks.judge(
        "above_chance", lambda accuracy, options: (accuracy - 1 / options) / (1 - 1 / options)
    )
    assert said.state == "passed" and "above_chance" in said._repr_html_()


def test_a_check_that_is_not_there_is_a_sentence() -> None:
    with pytest.raises(ValueError, match="There is no check 'above'"):
        checks.judge("above", 1)
