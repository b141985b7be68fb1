"""Grading: a submitted notebook's own code, run in the course's notebook by a fresh kernel."""

import os
import re
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError
from nbformat import NotebookNode

from desta_lab.course import cohort, notebooks
from desta_lab.course.checks import SIGNS

CHECK = re.compile(r'lesson\.check\("(\w+)"')
NUMBER = re.compile(r"""desta_lab\.setup\(\s*["'](\d\d)["']""")
SETUP = re.compile(r"^.*\bdesta_lab\.setup\([^)]*\).*$", re.MULTILINE)
JUDGED = re.compile(r"([✓✗…]) (\w+): (.*)", re.DOTALL)
CONTROL = """\
from desta_lab.course.checks import load_checks as _known
_before = dict(lesson.exercises)
_states = [lesson.check(n, a).state for n in ["{name}"] for a in _known()[n].wrong.values()]
lesson.exercises.update(_before)
_states"""
STATES = {sign: state for state, sign in SIGNS.items()}
COLUMNS = ["file", "notebook", "exercise", "state", "message"]
LONGEST = 8 * 2**20  # bytes of a submitted notebook


class GradingError(ValueError):
    """A file is no notebook of the course; the message names it."""


def grade_files(paths: Sequence[Path], preset: str = "nano") -> tuple[pd.DataFrame, list[str]]:
    """One row per submitted notebook and exercise, and a sentence for every file left out.

    Args:
        paths: notebooks, or folders that hold some.
        preset: what the notebooks run on.
    """
    files = [one for path in paths for one in ([path] if path.is_file() else _notebooks_in(path))]
    rows, left_out = [], []
    for file in files:
        try:
            name = cohort.join_lines(str(file))
            rows += [{"file": name, **row} for row in grade_notebook(file, preset)]
        except GradingError as error:
            left_out.append(cohort.join_lines(str(error)))
    return pd.DataFrame(rows, columns=COLUMNS), left_out


def _notebooks_in(folder: Path) -> list[Path]:
    return sorted(one for one in folder.rglob("*.ipynb") if ".ipynb_checkpoints" not in one.parts)


def grade_notebook(file: Path, preset: str = "nano", timeout: int = 900) -> list[dict[str, str]]:
    """Notebook, exercise, state and message of every exercise of one submission.

    Only the code that the student added runs, in the place of the exercises of the course's own
    notebook, from the top, in an empty kernel. Neither the outputs nor the card that came with the
    file are read. An exercise whose check was not reached is not attempted. Each check is also
    given the wrong answers that it knows: where it refuses none, the submission changed it, and the
    exercise is not judged.

    Args:
        timeout: seconds that one cell may take; then the notebook is stopped.

    Raises:
        GradingError: the file is no notebook, or none of the course.
    """
    sources = _read(file)
    number = _find_number(file, sources)
    notebook = graft(sources, number)
    with tempfile.TemporaryDirectory() as here:
        own = {"DESTA_LAB_PRESET": preset, "DESTA_LAB_FIGURES": here}
        how: dict[str, Any] = {"allow_errors": True, "resources": {"metadata": {"path": here}}}
        stopped = ""
        try:
            NotebookClient(notebook, timeout=timeout, **how).execute(env={**os.environ, **own})
        except CellTimeoutError:
            stopped = f"The notebook was stopped: a cell took more than {timeout} s."
        except RuntimeError:  # a dead kernel, or one that does not start
            stopped = "The notebook was stopped: its kernel died."
    rows = []
    for cell, control in pairwise(notebook.cells):
        for name in _list_checks(cell):
            state, message = _read_judgement(name, cell, stopped)
            if state == "passed" and "wrong" not in _last_result(control):
                state, message = "not judged", "Its check refuses no wrong answer here; look at it."
            message = cohort.join_lines(message.replace("<", "‹"))[:300]
            rows.append({"notebook": number, "exercise": name, "state": state, "message": message})
    return rows


def graft(submitted: Sequence[str], number: str) -> NotebookNode:
    """The course's notebook with the student's cells in the place of its exercises.

    What a student wrote in cells of their own before an exercise stands before it here, too. The
    set-up is the course's. Behind each check a cell gives it the wrong answers that it knows.

    Args:
        submitted: the code of every cell that was handed in.
    """
    source = notebooks.find_sources([number])[0]
    course = notebooks.build_notebook(source, solved=False)
    known = {cell.source.strip() for cell in course.cells}
    own = [SETUP.sub("", code) for code in submitted if code.strip() not in known | {""}]
    cells: list[NotebookNode] = []
    for cell in course.cells:
        if "exercise" in cell.metadata.get("tags", []):
            stub = re.search(r"^def (\w+)\(", cell.source, re.MULTILINE)
            defines = [i for i, code in enumerate(own) if stub and _defines(code, stub[1])]
            if defines:
                upto = defines[-1] + 1  # the last try counts
                cells += map(nbformat.v4.new_code_cell, own[:upto])
                own = own[upto:]
                continue
        controls = [CONTROL.format(name=name) for name in _list_checks(cell)]
        cells += [cell, *map(nbformat.v4.new_code_cell, controls)]
    return nbformat.v4.new_notebook(cells=cells, metadata=notebooks.NOTEBOOK_METADATA)


def _defines(code: str, name: str) -> bool:
    """Whether code gives a name a value at its top: by `def`, `class`, `import` or `=`."""
    own = rf"(?:(?:async +)?def|class) +{name}\b|{name} *(?::[^=\n]*)?=(?!=)"
    return bool(re.search(rf"^(?:{own}|from .* import .*\b{name}\b)", code, re.MULTILINE))


def _list_checks(cell: NotebookNode) -> list[str]:
    """The exercises that a cell has judged."""
    return CHECK.findall(cell.source) if cell.cell_type == "code" else []


def _read(file: Path) -> list[str]:
    """The code of every cell of a notebook."""
    if not file.is_file():
        raise GradingError(f"{file}: no plain file; hand in .ipynb.")
    if file.stat().st_size > LONGEST:
        raise GradingError(f"{file}: larger than {LONGEST // 2**20} MB; clear its outputs first.")
    try:
        cells = nbformat.read(file, as_version=4).cells
        code = [cell.source for cell in cells if cell.cell_type == "code"]
        if not all(isinstance(one, str) for one in code):
            raise TypeError("a cell whose code is no text")
    except Exception as error:  # whatever is wrong with the file, it is no notebook
        kind = type(error).__name__
        raise GradingError(f"{file}: no notebook ({kind}); hand in .ipynb.") from error
    return code


def _find_number(file: Path, submitted: Sequence[str]) -> str:
    numbers = {number for code in submitted for number in NUMBER.findall(code)}
    there = {source.name[:2] for source in notebooks.find_sources()}
    if len(numbers) == 1 and numbers <= there:
        return str(numbers.pop())
    found, wanted = (", ".join(sorted(some)) or "none" for some in (numbers, there))
    raise GradingError(
        f"{file}: none of the course's notebooks, or several; it needs one cell with "
        f"desta_lab.setup(…) of one of {wanted}, and has {found}."
    )


def _read_judgement(name: str, cell: NotebookNode, stopped: str) -> tuple[str, str]:
    for output in cell.get("outputs", []):
        if output.output_type == "error":
            return "not attempted", f"The cell stopped with {output.ename}: {output.evalue}"
    found = JUDGED.fullmatch(_last_result(cell))
    if found and found[2] == name:
        return STATES[found[1]], found[3]
    return "not attempted", stopped or "The check was not reached."


def _last_result(cell: NotebookNode) -> str:
    """The text of a cell's value; what it displayed or printed on the way is none."""
    results = [one for one in cell.get("outputs", []) if one.output_type == "execute_result"]
    return str(results[-1].get("data", {}).get("text/plain", "")) if results else ""
