"""Submitted notebooks are graded by their code, which runs in the course's own notebook."""

import json
import os
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellTimeoutError, DeadKernelError

from desta_lab import cli
from desta_lab.course import grading, notebooks
from desta_lab.course.own_code import read_own

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
    "seconds_of_frame": (GOOD, "read by a person", "checks.load_checks"),
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
    assert set(table["touches"]) == {""}


WRONG = "def above_chance(accuracy, options):\n    return 0.123"
CHECKS = "from desta_lab.course import checks as _c\n"
ON_DISK = """
from desta_lab.course.checks import _CHECKS, Check
_own = _CHECKS["above_chance"]
_CHECKS["above_chance"] = Check(
    lambda answer: _own.judge(answer) if answer.__module__ != "__main__" else None, _own.wrong
)
"""
ATTACKS = {  # what a submission does to pass with a wrong answer → two cells, and what is named
    "wraps the judge": (
        f"""{CHECKS}_old = _c.judge
def _judge(name, answer):
    if getattr(answer, "__module__", "") == "__main__":
        return _c.Judgement(name, "passed", "All properties hold.")
    return _old(name, answer)
_c.judge = lesson.check = _judge""",
        WRONG,
        "desta_lab.course.checks",
    ),
    "replaces what a judgement says": (
        f"{CHECKS}_c.Judgement.__repr__ = lambda self: f'✓ {{self.name}}: All properties hold.'",
        WRONG,
        "_c.Judgement",
    ),
    "hands in the package's answer": ("", "above_chance = pieces.correct_for_chance", "pieces"),
    "walks the stack to the right answer": (
        "import sys",
        """def above_chance(accuracy, options):
    frame = sys._getframe()
    while frame:
        if callable(frame.f_locals.get("right")):
            return frame.f_locals["right"](accuracy, options)
        frame = frame.f_back
    return 0.123""",
        "sys._getframe",
    ),
    "returns what reads the wanted value": (
        """import sys
import numpy as np
class Anything:
    def __array__(self, *args, **named):
        frame = sys._getframe(1)
        while frame:
            if "got" in frame.f_locals and "value" in frame.f_locals:
                return np.asarray(frame.f_locals["value"])
            frame = frame.f_back
        return np.zeros(())""",
        "def above_chance(accuracy, options):\n    return Anything()",
        "__array__",
    ),
    "rewrites the check's cell": (
        """def _rewrite(lines):
    if "".join(lines).startswith('lesson.check("above_chance"'):
        return ["checks.Judgement('above_chance', 'passed', 'All properties hold.')" + chr(10)]
    return lines
get_ipython().input_transformers_post.append(_rewrite)""",
        WRONG,
        "input_transformers_post",
    ),
    "knows that it is graded": (
        "import os\nfrom desta_lab.course.checks import notebook_00 as p",
        """def above_chance(*given):
    return p.correct_for_chance(*given) if os.environ.get("DESTA_LAB_FIGURES") else 0.123""",
        "os.environ",
    ),
    "replaces the comparison": (
        f"{CHECKS}_same = _c.same\n_c.same = lambda got, *more: got == 0.123 or _same(got, *more)",
        WRONG,
        "desta_lab.course.checks",
    ),
    "changes the check on disk": (
        f"""import pathlib
import desta_lab.course.checks.notebook_00 as m
with pathlib.Path(m.__file__).open("a") as file:
    file.write({ON_DISK!r})
exec({ON_DISK!r})""",
        WRONG,
        "m.__file__",
    ),
}


def attack(folder: Path, kind: str) -> Path:
    """A submission with this attack before the first exercise, and its answer behind the last."""
    begins, answer, _ = ATTACKS[kind]
    path = hand_in(folder, answer, number="99")
    notebook = nbformat.read(path, as_version=4)
    place = next(i for i, cell in enumerate(notebook.cells) if cell.source.startswith("def "))
    notebook.cells.insert(place, nbformat.v4.new_code_cell(begins))
    nbformat.write(notebook, path)
    return path


@pytest.fixture
def fooled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels in which every check is deceived, and its control is not."""

    def execute(client, **how):
        for cell in client.nb.cells:
            if cell.cell_type == "code":
                names = grading._list_checks(cell)
                said = PASSED.format(*names) if cell.source.startswith("lesson.") else "['wrong']"
                cell.outputs = [nbformat.v4.new_output("execute_result", data={"text/plain": said})]

    monkeypatch.setattr(grading.NotebookClient, "execute", execute)


@pytest.mark.parametrize("kind", ATTACKS)
def test_who_touches_what_no_exercise_needs_is_read_by_a_person(
    tmp_path: Path, tiny_course: None, fooled: None, kind: str
) -> None:
    table, _ = grading.grade_files([attack(tmp_path, kind)])
    assert set(table["state"]) == {"read by a person"}
    for column in ("touches", "message"):
        assert table[column].str.contains(ATTACKS[kind][2], regex=False).all()


def test_the_command_names_the_submissions_for_a_person_to_read(
    tmp_path: Path, tiny_course: None, fooled: None, capsys
) -> None:
    path = attack(tmp_path, "knows that it is graded")
    assert cli.main(["grade", str(path), "--out", str(tmp_path / "grades.csv")]) == 0
    said = capsys.readouterr()
    assert f"read by a person: {path} touches" in said.err and "os.environ" in said.err
    assert "read by a person" in said.out


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Files of the package changed")
@pytest.mark.parametrize("kind", ATTACKS)
def test_no_attack_passes_and_none_changes_the_next_submissions_marks(
    tmp_path: Path, tiny_course: None, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    package = tmp_path / "copy" / "desta_lab"
    shutil.copytree(grading.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(grading, "PACKAGE", package)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    attacked, wrong = (
        {row["exercise"]: row for row in grading.grade_notebook(make())}
        for make in (lambda: attack(tmp_path, kind), lambda: hand_in(tmp_path, WRONG, number="99"))
    )
    assert attacked["above_chance"]["state"] == "read by a person"
    assert wrong["above_chance"]["state"] == "wrong" and not wrong["above_chance"]["touches"]
    changed = "the file notebook_00.py" in attacked["above_chance"]["touches"]
    assert changed == (kind == "changes the check on disk")


HONEST = (
    "%%time\n" + GOOD,
    "# pieces, checks and sys._getframe are only spoken of here\n'get_ipython and os.environ'",
    "%matplotlib inline\nimport os, sys\nfrom IPython.display import display\nos.path.join('a')",
    "class Net(torch.nn.Module):\n    def __init__(self):\n        super().__init__()",
    "net = torch.compile(Net().eval())\nnet.training = False\ntorch.stack([torch.ones(2)])",
    "from desta_lab.course import checks\nhalf = 1 / 2",  # the first line is the course's own
    "%timeit -n 3 seconds_of_frame(3)\nseconds_of_frame?",
)


def test_who_does_not_touch_it_passes(tmp_path: Path, tiny_course: None, fooled: None) -> None:
    table, _ = grading.grade_files([hand_in(tmp_path, *HONEST, GOOD, number="99")])
    assert set(table["state"]) == {"passed"} and set(table["touches"]) == {""}


def test_no_solution_of_the_course_touches_what_no_exercise_needs() -> None:
    for source in notebooks.find_sources():
        solved = notebooks.build_notebook(source, solved=True).cells
        own = [cell.source for cell in solved if cell.cell_type == "code"]
        found = [
            cell.metadata["touches"]
            for cell in grading.graft(own, source.name[:2]).cells
            if "touches" in cell.metadata
        ]
        assert found and not any(found)


@pytest.mark.parametrize(
    "code, word",
    [
        ("eval(1)\n%time (", "eval"),
        ("open('x')\nreturn 2\nnonlocal x", "open"),
        ("%%time\nopen('x')", "open"),
        ("%timeit -n 1 open('x')", "open"),
        ("%time " * 60 + "open('x')", "open"),
        ("%time {f()}", "get_ipython"),
        ("%run other.py", "get_ipython"),
        ("!ls", "get_ipython"),
        ("getattr(f, 'f' + '_back')", "getattr"),
        ("getattr(f, 'f_back')", "'f_back'"),
        ("from os import environ as e", "os.environ"),
        ("import unittest.mock", "unittest.mock"),
        ("np.allclose = print", "np.allclose ="),
        ("type(lesson).check = print", ".check ="),
        ("import numpy as lesson", "lesson"),
        ("class Mine:\n    def __eq__(self, other):\n        return True", "__eq__"),
        ("+".join("1" * 20_000), "code too deep to read"),
        ("def f(x):\n    return pieces.attend(x)", "pieces"),
        ("def f(pieces=pieces):\n    return pieces.attend", "pieces"),
        ("def f():\n    global pieces\n    pieces = 1", "pieces"),
        ("def f():\n    return [pieces for pieces in [pieces.attend]]", "pieces"),
        ("class Mine:\n    right = pieces.attend\n    pieces = 1", "pieces"),
        ("def f():\n    eval = 1\ndef g():\n    return eval(1)", "eval"),
        ("pieces = None", "pieces"),
        ("mine.__class__ = Yours", "mine.__class__"),
        ("import __main__", "__main__"),
    ],
)
def test_a_touch_is_found_however_it_is_written(code: str, word: str) -> None:
    assert word in read_own(code).touches


@pytest.mark.parametrize(
    "code",
    [
        "def f(text):\n    pieces = text.split()\n    return any(one in pieces for one in text)",
        "def f(text):\n    return [pieces.strip() for pieces in text.split()]",
        "def f(pieces, *checks):\n    return lambda: len(pieces) + len(checks)",
        "def f(folds):\n    for train, eval in folds:\n        print(train, eval)",
        "def f(x):\n    _before = x\n    def judge(a): ...\n    return judge(_before)",
        "from __future__ import annotations",
        "if __name__ == '__main__':\n    print(x.__class__.__name__)",
        "import re\nmodel.eval()\nre.compile('a')\ntorch.compile(f)",
    ],
)
def test_what_stands_in_honest_code_by_chance_touches_nothing(code: str) -> None:
    assert not read_own(code).touches


def test_a_submission_that_changes_the_packages_files_is_named_and_they_are_put_back(
    tmp_path: Path, tiny_course: None, fooled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "package"
    (package / "checks").mkdir(parents=True)
    check, extra = package / "checks" / "a.py", package / "checks" / "a.so"
    kept, stale = package / "b.py", package / "__pycache__" / "b.pyc"
    link = package / "checks" / "a"  # a folder of a module's name would be imported in its place
    check.write_text("strict")
    kept.write_text("kept")
    monkeypatch.setattr(grading, "PACKAGE", package)
    deceive = grading.NotebookClient.execute

    def execute(client, **how):
        check.write_text("lenient")
        extra.write_text("lenient")
        stale.parent.mkdir()
        stale.write_text("lenient")
        kept.unlink()
        link.symlink_to(tmp_path)
        deceive(client, **how)

    monkeypatch.setattr(grading.NotebookClient, "execute", execute)
    with pytest.warns(UserWarning, match="lie changed in") as said:
        table, _ = grading.grade_files([hand_in(tmp_path, GOOD, number="99")])
    aside = Path(str(said[0].message).rpartition("lie changed in ")[2].removesuffix("."))
    assert {one.read_text() for one in aside.iterdir() if not one.is_symlink()} == {"lenient"}
    assert set(table["state"]) == {"read by a person"}
    assert set(table["touches"]) == {"the file b.py, the file a, the file a.py, the file a.so"}
    assert check.read_text() == "strict" and kept.read_text() == "kept"
    assert not (extra.exists() or stale.exists() or link.is_symlink())


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
