"""Checks answer in words, and every wrong answer that ships is caught by its name."""

import pytest

from desta_lab.course import checks

WRONG = [(name, mistake) for name, check in checks.load_checks().items() for mistake in check.wrong]


@pytest.mark.parametrize("name, mistake", WRONG)
def test_a_wrong_answer_is_caught_and_its_mistake_named(name: str, mistake: str) -> None:
    judged = checks.judge(name, checks.load_checks()[name].wrong[mistake])
    assert judged.state == "wrong"
    assert mistake.lower() in judged.message.lower(), judged.message


@pytest.mark.parametrize("name", checks.load_checks())
def test_every_check_ships_wrong_answers_and_knows_a_stub(name: str) -> None:
    assert len(checks.load_checks()[name].wrong) >= 2
    assert checks.judge(name, None).state == checks.judge(name, ...).state == "not attempted"


def test_an_answer_that_breaks_is_told_so() -> None:
    judged = checks.judge("above_chance", lambda accuracy, options: 1 / 0)
    assert judged.state == "wrong" and "ZeroDivisionError" in judged.message


def test_an_error_that_ends_with_a_full_stop_gets_no_second_one() -> None:
    def stopping(accuracy, options):
        raise RuntimeError("Sizes differ.")

    assert "RuntimeError: Sizes differ. Run it" in checks.judge("above_chance", stopping).message


def test_a_stub_is_not_attempted_yet() -> None:
    def stub(accuracy, options): ...

    def described(accuracy, options):
        """Put it on a scale."""
        ...  # your code here

    def passing(accuracy, options):
        pass

    for answer in (stub, described, passing, lambda accuracy, options: ...):
        assert checks.judge("above_chance", answer).message == "Not attempted yet."


def test_a_forgotten_return_is_told_so() -> None:
    def forgetful(accuracy, options):
        (accuracy - 1 / options) / (1 - 1 / options)

    judged = checks.judge("above_chance", forgetful)
    assert judged.state == "wrong" and "`return` is missing" in judged.message


def test_what_is_right_passes_and_says_so_in_html_too() -> None:
    judged = checks.judge(
        "above_chance", lambda accuracy, options: (accuracy - 1 / options) / (1 - 1 / options)
    )
    assert judged.state == "passed" and "above_chance" in judged._repr_html_()


def test_a_check_that_is_not_there_is_a_sentence() -> None:
    with pytest.raises(ValueError, match="There is no check 'above'"):
        checks.judge("above", 1)
