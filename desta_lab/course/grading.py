"""Grading: a submitted notebook's own code, run in the course's notebook by a fresh kernel."""

import os
import re
import symtable
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError
from nbformat import NotebookNode

from desta_lab.course import cohort, notebooks
from desta_lab.course.checks import SIGNS
from desta_lab.model.presets import get_preset

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

    Raises:
        ValueError: there is no such preset; in its kernels nothing would be attempted.
    """
    get_preset(preset)
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

    Only the code that the student added runs, within the course's own notebook, from the top, in
    an empty kernel. Neither the outputs nor the card that came with the file are read. An exercise
    whose check was not reached is not attempted. Each check is also given the wrong answers that it
    knows: where it refuses none, the submission changed it, and the exercise is not judged.

    Args:
        timeout: seconds that one cell may take; then the notebook is stopped.

    Raises:
        GradingError: the file is no notebook, or none of the course.
    """
    sources = _read(file)
    number = _find_number(file, sources)
    notebook = graft(sources, number)
    with tempfile.TemporaryDirectory() as here:
        own = {"DESTA_LAB_PRESET": notebooks.locate_preset(preset), "DESTA_LAB_FIGURES": here}
        how: dict[str, Any] = {"allow_errors": True, "resources": {"metadata": {"path": here}}}
        # Its own IPython folder: no start-up file of one submission runs in another's kernel.
        own["IPYTHONDIR"] = str(Path(here) / "ipython")
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
            row = {"notebook": number, "exercise": name, "state": state}
            rows.append(row | {"message": message})
    return rows


@dataclass(frozen=True)
class _Own:
    """A student's cell, and the place of the course's cell before which it stands."""

    code: str
    place: int
    defines: frozenset[str]
    uses: frozenset[str]  # of what other cells define

    @classmethod
    def read(cls, code: str, place: int) -> "_Own":
        """A cell with what its top gives a value, and what it reads; its code does not run."""
        defines, uses = set[str](), set[str]()
        with suppress(SyntaxError, ValueError, MemoryError, RecursionError):
            python = TransformerManager().transform_cell(re.sub("^%%.*", "", code))
            tables = [top := symtable.symtable(python, "cell", "exec")]
            for table in tables:
                tables += table.get_children()
                for one in table.get_symbols():
                    if table is top and (one.is_assigned() or one.is_imported()):
                        defines.add(one.get_name())
                    if one.is_global() and one.is_referenced():
                        uses.add(one.get_name())
        return cls(code, place, frozenset(defines), frozenset(uses - defines))

    @property
    def cell(self) -> NotebookNode:
        return nbformat.v4.new_code_cell(self.code, metadata={"own": True})


def graft(submitted: Sequence[str], number: str) -> NotebookNode:
    """The course's notebook with the student's cells in their places.

    A stub stays only where its name is never defined. Where the last definition of a name stands
    below its check, it runs before the check, too, with those of the student's cells that it needs,
    and with those that stand beside it and did not run yet. What stands below the last check is
    judged by none and left out. The set-up is the course's. Behind each check a cell gives it the
    wrong answers that it knows.

    Args:
        submitted: the code of every cell that was handed in.
    """
    source = notebooks.find_sources([number])[0]
    course = notebooks.build_notebook(source, solved=False).cells
    own = _place(submitted, course)
    defined = {name for one in own for name in one.defines}
    last = max((i for i, cell in enumerate(course) if _list_checks(cell)), default=-1)
    cells: list[NotebookNode] = []
    ran: set[int] = set()
    for i, cell in enumerate(course):
        here = [n for n, one in enumerate(own) if one.place == i <= last]
        ran.update(here)
        for name in _list_checks(cell):
            here += _bring_forward(name, own, i, ran)
            ran.update(here)
        cells += [own[n].cell for n in here]
        stub = re.search(r"^def (\w+)\(", cell.source, re.MULTILINE)
        if "exercise" in cell.metadata.get("tags", []) and stub and stub[1] in defined:
            continue
        controls = [CONTROL.format(name=name) for name in _list_checks(cell)]
        cells += [cell, *map(nbformat.v4.new_code_cell, controls)]
    return nbformat.v4.new_notebook(cells=cells, metadata=notebooks.NOTEBOOK_METADATA)


def _place(submitted: Sequence[str], course: Sequence[NotebookNode]) -> list[_Own]:
    """The student's cells in their order, each before the course's cell that follows it."""
    places = {cell.source.strip(): i for i, cell in enumerate(course)}
    own: list[_Own] = []
    waiting: list[str] = []
    place = 0
    for source in [*submitted, None]:
        at = len(course) if source is None else places.get(source.strip())
        if at is None:
            waiting.append(SETUP.sub("", str(source)))
            continue
        place = max(place, at)
        own += [_Own.read(one, place) for one in waiting if one.strip()]
        waiting = []
    return own


def _bring_forward(name: str, own: Sequence[_Own], check: int, ran: set[int]) -> list[int]:
    """Which cells run again, or earlier, so that a check gets the last definition of its name."""

    def find(name: str, before: int) -> int | None:
        there = [n for n, one in enumerate(own) if name in one.defines]
        return max([n for n in there if n <= before], default=min(there, default=None))

    last = find(name, len(own))
    if last is None or own[last].place <= check:
        return []
    beside = {n for n in range(last) if own[n].place == own[last].place} - ran
    needed, open_ends = set[int](), [last]
    while open_ends:
        n = open_ends.pop()
        needed.add(n)
        sources = {find(used, n) for used in own[n].uses}
        open_ends += [m for m in sources - needed if m is not None and own[m].place > check]
    return sorted(beside | needed)


def _list_checks(cell: NotebookNode) -> list[str]:
    """The exercises that a cell of the course has judged."""
    theirs = cell.cell_type == "code" and "own" not in cell.metadata
    return CHECK.findall(cell.source) if theirs else []


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
