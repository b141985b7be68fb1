"""Checks hold: what students got wrong is refused in words, what is right passes in any style, and
no mutant of a solution passes that is not listed with its reason.
"""

import re
import warnings

import pytest

from desta_lab.course import checks
from tests.course.answers import EQUIVALENT, MISTAKES, RIGHT, Mistake
from tests.course.mutants import build, mutate, read_solutions

FAST = 6  # of the mutants of an exercise every sixth is tried in CI


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda one: f"{one.exercise}-{one.words}")
def test_what_students_got_wrong_is_refused_in_words(mistake: Mistake) -> None:
    judged = checks.judge(mistake.exercise, mistake.answer)
    assert judged.state == "wrong"
    assert mistake.words.lower() in judged.message.lower(), judged.message


@pytest.mark.parametrize("name, style, answer", RIGHT, ids=[f"{n}-{s}" for n, s, _ in RIGHT])
def test_what_is_right_passes_in_any_style(name: str, style: str, answer) -> None:
    judged = checks.judge(name, answer)
    assert judged.state == "passed", judged.message


def survivors(name: str, every: int) -> list[str]:
    """The mutants of a solution that pass its check without a reason."""
    solution, names = read_solutions()[name]
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in a notebook, where a warning stops nothing
        assert checks.judge(name, build(solution, names)).state == "passed"
        for line, mutant in list(mutate(solution))[::every]:
            after = line.split(" → ")[1]
            listed = any(re.search(pattern, after) for pattern in EQUIVALENT.get(name, {}))
            if not listed and checks.judge(name, build(mutant, names)).state == "passed":
                found.append(line)
    return found


@pytest.mark.parametrize("name", read_solutions())
def test_some_mutants_of_every_solution_are_refused(name: str) -> None:
    assert not survivors(name, every=FAST)


@pytest.mark.slow
@pytest.mark.parametrize("name", read_solutions())
def test_every_mutant_of_every_solution_is_refused_or_no_wrong_answer(name: str) -> None:
    assert not survivors(name, every=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", EQUIVALENT)
def test_every_reason_is_that_of_a_mutant_which_passes(name: str) -> None:
    solution, names = read_solutions()[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        passed = [
            line.split(" → ")[1]
            for line, mutant in mutate(solution)
            if checks.judge(name, build(mutant, names)).state == "passed"
        ]
    for pattern in EQUIVALENT[name]:
        assert any(re.search(pattern, line) for line in passed), pattern
