"""Submitted notebooks are graded by their code, which runs in the course's own notebook."""

import json
import os
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellTimeoutError, DeadKernelError

from desta_lab import cli
from desta_lab.course import grading, notebooks

GOOD = "def seconds_of_frame(frame):\n    return frame / 50"
BAD = "def above_chance(accuracy, options):\n    return accuracy"


def hand_in(folder: Path, *own: str, number: str = "00") -> Path:
    """A submission: the course's notebook with these cells behind its own, and a card that lies."""
    notebook = notebooks.build_notebook(notebooks.find_sources([number])[0], solved=False)
    for code in own:
        notebook.cells.append(nbformat.v4.new_code_cell(code))
    for cell in notebook.cells:
        if "lesson.check(" in cell.source:
            text = {"text/plain": "✓ above_chance: All properties hold."}
            cell.outputs = [nbformat.v4.new_output("display_data", data=text)]
    path = folder / "ann.ipynb"
    nbformat.write(notebook, path)
    return path


def sources(path: Path) -> list[str]:
    return [cell.source for cell in nbformat.read(path, as_version=4).cells]


def test_the_students_cells_take_the_place_of_the_exercises_and_the_rest_is_the_courses(
    tmp_path: Path,
) -> None:
    path = hand_in(tmp_path, "halves = 50", "def seconds_of_frame(frame):\n    return 0", GOOD)
    grafted = grading.graft(sources(path), "00")
    course = notebooks.build_notebook(notebooks.find_sources(["00"])[0], solved=False)
    theirs = [cell.source for cell in course.cells]
    added = [cell.source for cell in grafted.cells if cell.source not in theirs]
    assert added[0] == "halves = 50" and added[2] == GOOD
    place = [cell.source for cell in grafted.cells].index(GOOD)
    assert 'lesson.check("seconds_of_frame"' in grafted.cells[place + 1].source
    assert not any(cell.get("outputs") for cell in grafted.cells)
    code = [cell.source for cell in grafted.cells if cell.cell_type == "code"]
    assert sum("def seconds_of_frame" in source for source in code) == 2


@pytest.mark.parametrize(
    "code",
    [
        "seconds_of_frame = lambda frame: frame / 50",
        "import math\n\ndef  seconds_of_frame (frame):\n    return frame / 50",
        "@staticmethod\ndef seconds_of_frame(frame):\n    return frame / 50",
        "class seconds_of_frame:\n    pass",
        "from functools import partial as seconds_of_frame",
        "seconds_of_frame: object = print",
    ],
)
def test_an_exercise_is_found_however_its_function_was_written(code: str) -> None:
    cells = [cell.source for cell in grading.graft([code], "00").cells]
    assert 'lesson.check("seconds_of_frame"' in cells[cells.index(code) + 1]


def test_a_call_a_comment_or_a_comparison_is_no_answer() -> None:
    for code in ("seconds_of_frame(1)", "# def seconds_of_frame(frame):", "seconds_of_frame == 1"):
        assert code not in [cell.source for cell in grading.graft([code], "00").cells]


def judged_of(*own: str, where: str = "behind") -> dict[str, str]:
    """What each check of notebook 00 is given once the grafted cells above it ran: its code."""
    course = notebooks.build_notebook(notebooks.find_sources(["00"])[0], solved=False)
    cells = [cell.source for cell in course.cells if cell.cell_type == "code"]
    at = next((i for i, cell in enumerate(cells) if f"def {where}" in cell), len(cells))
    ran, given = [], {}
    for cell in grading.graft([*cells[:at], *own, *cells[at:]], "00").cells:
        if cell.cell_type == "code":
            ran.append(cell.source)
            for name in EXERCISES:
                if cell.source.startswith(f'lesson.check("{name}"'):
                    given[name] = [one for one in ran if f"def {name}(" in one][-1]
    return given


EXERCISES = ("seconds_of_frame", "silenced", "above_chance")
QUIET = "def silenced(wave, start, end):\n    return wave"
SCORE = "def above_chance(accuracy, options):\n    return (accuracy - 1 / options) / SCALE"


@pytest.mark.parametrize("where", ["behind", *EXERCISES])
def test_solved_exercises_count_in_any_layout_and_the_last_try_counts(where: str) -> None:
    first = "def seconds_of_frame(frame):\n    return 0"
    assert judged_of(first, QUIET, SCORE, GOOD, where=where) == {
        "seconds_of_frame": GOOD,
        "silenced": QUIET,
        "above_chance": SCORE,
    }
    both = f"{GOOD}\n\n\n{QUIET}"
    given = judged_of(both, where=where)
    assert given["seconds_of_frame"] == given["silenced"] == both
    assert "your code here" in given["above_chance"]
    given = judged_of(SCORE, QUIET, GOOD, where=where)
    assert (given["above_chance"], given["seconds_of_frame"]) == (SCORE, GOOD)


def test_an_early_check_gets_what_a_late_answer_needs() -> None:
    sources = ["SCALE = 1", "lesson.card()", "import math\nHALF = math.pi * SCALE"]
    late = "def seconds_of_frame(frame):\n    return frame / helped(HALF)"
    helper = "def helped(value):\n    return 50"
    cells = [cell.source for cell in grading.graft([*sources, late, helper], "00").cells]
    until = cells.index('lesson.check("seconds_of_frame", seconds_of_frame)')
    assert cells[until - 4 : until] == [sources[0], sources[2], late, helper]


def test_the_set_up_is_the_courses_and_imports_beside_it_stay() -> None:
    mine = 'import math\nlesson = desta_lab.setup("00", preset="cpu")\nhalf = math.pi / 2'
    cells = [cell.source for cell in grading.graft([mine, GOOD], "00").cells]
    assert "import math\n\nhalf = math.pi / 2" in cells
    assert not any('preset="cpu"' in cell for cell in cells)


CELL = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
SET_UP = 'desta_lab.setup("00")'


def page(**more: object) -> str:
    """A notebook as JSON, with other values."""
    return json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []} | more)


BAD_FILES = {
    "an empty object": "{}",
    "nothing": "",
    "a list": "[]",
    "null": "null",
    "torn": page()[:40],
    "a page": "<html><script>alert(1)</script></html>",
    "nested": "[" * 100_000,
    "of no cells": page(),
    "cells that are a text": page(cells="lesson"),
    "cells that are numbers": page(cells=[1, 2]),
    "a cell without a kind": page(cells=[{"source": SET_UP}]),
    "code that is a number": page(cells=[CELL | {"source": 5}]),
    "code that is null": page(cells=[CELL | {"source": None}]),
    "code that is a list of numbers": page(cells=[CELL | {"source": [1, 2]}]),
    "a version to come": page(nbformat=9),
    "a version that is a text": page(nbformat="four"),
    "of another course": page(cells=[CELL | {"source": 'desta_lab.setup("77")'}]),
    "a number that is a name": page(cells=[CELL | {"source": "desta_lab.setup(NUMBER)"}]),
    "set-up in prose alone": page(
        cells=[{"cell_type": "markdown", "metadata": {}, "source": SET_UP}]
    ),
    "of two notebooks": page(cells=[CELL | {"source": f'{SET_UP}\ndesta_lab.setup("05")'}]),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_what_is_no_notebook_of_the_course_is_left_out_with_a_sentence(
    tmp_path: Path, kind: str
) -> None:
    (tmp_path / "bad.ipynb").write_text(BAD_FILES[kind])
    table, (sentence,) = grading.grade_files([tmp_path])
    assert table.empty and "bad.ipynb: " in sentence and sentence.endswith(".")


def test_what_is_no_plain_small_text_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.ipynb").mkdir()
    os.mkfifo(tmp_path / "b.ipynb")
    (tmp_path / "c.ipynb").write_bytes(b" " * (grading.LONGEST + 1))
    (tmp_path / "d.ipynb").symlink_to(tmp_path / "nowhere")
    (tmp_path / "e.ipynb").write_bytes("{}".encode("utf-16"))
    (tmp_path / "=f<b>\n.ipynb").write_text("{}")
    table, left_out = grading.grade_files([tmp_path])
    assert table.empty and len(left_out) == 6
    assert not any("\n" in sentence for sentence in left_out)
    for sentence, words in zip(left_out[1:4], ("plain", "plain", "MB"), strict=True):
        assert words in sentence


TINY = """\
# %% [markdown]
# # 99 · Tiny: does it grade?

# %%
from desta_lab.course import checks
from desta_lab.course.checks import notebook_00 as pieces
if False:
    desta_lab.setup("99")


class lesson:
    exercises = {{}}
    check = staticmethod(checks.judge)


{exercises}"""
EXERCISE = """\
# %% tags=["exercise"]
def {name}(*value):
    ### BEGIN SOLUTION
    return value
    ### END SOLUTION


# %%
lesson.check("{name}", {name})

"""
PASSED = "✓ {}: All properties hold."


def forged(name: str, how: str) -> str:
    """An answer that says that it passed, instead of passing."""
    said = f"say = type('', (), dict(__repr__=lambda self: {PASSED.format(name)!r}))()"
    return (
        f"{said}\nfrom IPython.display import display\ndef {name}(*given):\n    {how}\n    return 0"
    )


HOSTILE = {  # exercise → code, state, words of the message
    "seconds_of_frame": ("%%time\n" + GOOD, "passed", ""),
    "text_ifrate": (forged("text_ifrate", "display(say)"), "wrong", ""),
    "forgetting_rate": (forged("forgetting_rate", "print(say)"), "wrong", ""),
    "flattering": (forged("flattering", "import sys; sys.displayhook(say)"), "wrong", ""),
    "perplexity": (
        "def perplexity(*given):\n    raise ValueError('<img src=x>\\n=1+1' + 'x' * 999)",
        "wrong",
        "‹img src=x> =1+1xxx",
    ),
    "above_chance": (
        "checks.load_checks()['above_chance'].judge.__code__ = (lambda answer: None).__code__\n"
        "above_chance = print",
        "not judged",
        "refuses no wrong answer",
    ),
    "coverage": ("coverage = input()", "not attempted", "The cell stopped with NameError"),
    "erase": (
        "lesson.check = lambda name, answer: checks.Judgement(name, 'passed', 'Yes.')\nerase = 1",
        "not judged",
        "refuses no wrong answer",
    ),
    "voiceprint": ("import os\nvoiceprint = os._exit(0)", "not attempted", "kernel died"),
    "grid": ("grid = dict", "not attempted", "kernel died"),
}


@pytest.fixture
def tiny_course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A course of one notebook, without models."""
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path)
    exercises = "".join(EXERCISE.format(name=name) for name in HOSTILE)
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "99_tiny.py").write_text(TINY.format(exercises=exercises))


def test_a_submission_that_cheats_breaks_or_never_ends_is_graded_by_what_it_does(
    tmp_path: Path, tiny_course: None
) -> None:
    path = hand_in(tmp_path, *(code for code, *_ in HOSTILE.values()), number="99")
    table, left_out = grading.grade_files([path])
    assert not left_out and list(table["exercise"]) == list(HOSTILE)
    for row in table.to_dict("records"):
        _, state, words = HOSTILE[row["exercise"]]
        assert row["state"] == state and words in row["message"], row
        assert len(row["message"]) <= 300 and "\n" not in row["message"]


@pytest.mark.slow
def test_a_cell_that_never_ends_stops_its_notebook_and_what_came_before_counts(
    tmp_path: Path, tiny_course: None
) -> None:
    path = hand_in(tmp_path, GOOD, "import time\ntext_ifrate = time.sleep(999)", number="99")
    rows = {row["exercise"]: row for row in grading.grade_notebook(path, timeout=20)}
    assert rows["seconds_of_frame"]["state"] == "passed"
    assert rows["text_ifrate"]["state"] == "not attempted"
    assert "took more than 20 s" in rows["grid"]["message"]


@pytest.mark.parametrize("error", [CellTimeoutError("cell"), DeadKernelError("Kernel died")])
def test_a_class_is_graded_on_where_one_notebook_was_stopped(
    tmp_path: Path, tiny_course: None, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def execute(client, **how):
        raise error

    monkeypatch.setattr(grading.NotebookClient, "execute", execute)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        hand_in(tmp_path / name, GOOD, number="99")
    table, _ = grading.grade_files([tmp_path])
    assert len(table) == 2 * len(HOSTILE) and set(table["state"]) == {"not attempted"}
    assert table["message"].str.startswith("The notebook was stopped: ").all()


def test_the_command_refuses_what_is_not_there(tmp_path: Path, capsys) -> None:
    assert cli.main(["grade", str(tmp_path / "none.ipynb")]) != 0
    assert "there is no such file or folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (["--preset", "nanno"], "There is no preset 'nanno'"),
        (["--preset", "mine.toml"], "mine.toml: no such file"),
        (["--out", "."], "is a folder; name the CSV file"),
    ],
)
def test_the_command_refuses_before_any_kernel_starts_what_would_grade_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, how: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(grading, "grade_notebook", lambda *given: pytest.fail("it was graded"))
    (tmp_path / "a.ipynb").write_text("{}")
    assert cli.main(["grade", "a.ipynb", *how]) == 1
    assert words in capsys.readouterr().err


def test_a_preset_in_a_file_is_found_from_the_folder_of_a_kernel(
    tmp_path: Path, tiny_course: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []

    def execute(client, env):
        told.append(env["DESTA_LAB_PRESET"])

    monkeypatch.setattr(grading.NotebookClient, "execute", execute)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text('base = "nano"')
    grading.grade_files([hand_in(tmp_path, GOOD, number="99")], "mine.toml")
    assert told == [str(tmp_path / "mine.toml")]


def test_answers_below_their_checks_are_judged_and_the_rest_is_not_attempted(
    tmp_path: Path, tiny_course: None
) -> None:
    two = "def forgetting_rate(*given):\n    return 0\n\n\ndef above_chance(a, n):\n    return a"
    right = (
        "def above_chance(accuracy, options):\n    return (accuracy - 1 / options) / left(options)"
    )
    left = "def left(options):\n    return 1 - 1 / options"
    wrong = "def seconds_of_frame(frame):\n    return frame"
    again = 'lesson.check("seconds_of_frame", seconds_of_frame)  # in a cell of their own'
    path = hand_in(tmp_path, wrong, again, two, right, left, GOOD, number="99")
    table, _ = grading.grade_files([path])
    assert list(table["exercise"]) == list(HOSTILE)
    states = dict(zip(table["exercise"], table["state"], strict=True))
    solved = {"seconds_of_frame": "passed", "above_chance": "passed", "forgetting_rate": "wrong"}
    assert states == dict.fromkeys(HOSTILE, "not attempted") | solved


@pytest.mark.slow
@pytest.mark.weights
def test_a_submission_is_graded_by_what_its_code_does(tmp_path: Path) -> None:
    path = hand_in(tmp_path, GOOD, BAD)
    table, left_out = grading.grade_files([path])
    states = dict(zip(table["exercise"], table["state"], strict=True))
    assert not left_out
    assert states == {
        "seconds_of_frame": "passed",
        "silenced": "not attempted",
        "above_chance": "wrong",
    }
