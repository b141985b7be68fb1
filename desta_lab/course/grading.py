"""Grading: a submitted notebook's own code, run in the course's notebook by a fresh kernel."""

import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nbformat
import pandas as pd
from nbclient import NotebookClient
from nbformat import NotebookNode

from desta_lab.course import notebooks

CHECK = re.compile(r'lesson\.check\("(\w+)"')
JUDGED = re.compile(r"^([✓✗…]) (\w+): (.*)$", re.MULTILINE)
STATES = {"✓": "passed", "✗": "wrong", "…": "not attempted"}
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
            rows += [{"file": str(file), **row} for row in grade_notebook(file, preset)]
        except GradingError as error:
            left_out.append(str(error))
    return pd.DataFrame(rows, columns=COLUMNS), left_out


def _notebooks_in(folder: Path) -> list[Path]:
    return sorted(one for one in folder.rglob("*.ipynb") if ".ipynb_checkpoints" not in one.parts)


def grade_notebook(file: Path, preset: str = "nano", timeout: int = 3600) -> list[dict[str, str]]:
    """Notebook, exercise, state and message of every exercise of one submission.

    Only the code that the student added runs, in the place of the exercises of the course's own
    notebook, from the top, in an empty kernel. Neither the outputs nor the card that came with the
    file are read. An exercise whose check was not reached is not attempted.

    Raises:
        GradingError: the file is no notebook, or none of the course.
    """
    submitted = _read(file)
    number = _find_number(file, submitted)
    notebook = graft(submitted, number)
    with tempfile.TemporaryDirectory() as here:
        client = NotebookClient(
            notebook, timeout=timeout, allow_errors=True, resources={"metadata": {"path": here}}
        )
        client.execute(env={**os.environ, "DESTA_LAB_PRESET": preset, "DESTA_LAB_FIGURES": here})
    rows = []
    for cell in notebook.cells:
        for name in CHECK.findall(cell.source) if cell.cell_type == "code" else ():
            state, message = _read_judgement(name, cell)
            rows.append({"notebook": number, "exercise": name, "state": state, "message": message})
    return rows


def graft(submitted: NotebookNode, number: str) -> NotebookNode:
    """The course's notebook with the student's cells in the place of its exercises.

    What a student wrote in cells of their own before an exercise stands before it here, too.
    """
    source = notebooks.find_sources([number])[0]
    course = notebooks.build_notebook(source, solved=False)
    known = {cell.source.strip() for cell in course.cells}
    own = [
        cell.source
        for cell in submitted.cells
        if cell.cell_type == "code" and cell.source.strip() not in known | {""}
    ]
    cells = []
    for cell in course.cells:
        if "exercise" in cell.metadata.get("tags", []):
            stub = re.search(r"^def \w+\(", cell.source, re.MULTILINE)
            defines = [i for i, code in enumerate(own) if stub and stub[0] in code]
            if defines:
                upto = defines[-1] + 1  # the last try counts
                cells += [nbformat.v4.new_code_cell(code) for code in own[:upto]]
                own = own[upto:]
                continue
        cells.append(cell)
    return nbformat.v4.new_notebook(cells=cells, metadata=notebooks.NOTEBOOK_METADATA)


def _read(file: Path) -> NotebookNode:
    if file.stat().st_size > LONGEST:
        raise GradingError(f"{file}: larger than {LONGEST // 2**20} MB; clear its outputs first.")
    try:
        found = nbformat.read(file, as_version=4)
    except Exception as error:  # whatever is wrong with the file, it is no notebook
        raise GradingError(
            f"{file}: no notebook ({type(error).__name__}); hand in .ipynb."
        ) from error
    return found


def _find_number(file: Path, submitted: NotebookNode) -> str:
    code = "\n".join(cell.source for cell in submitted.cells if cell.cell_type == "code")
    numbers = re.findall(r"""desta_lab\.setup\(["'](\d\d)["']""", code)
    there = {source.name[:2] for source in notebooks.find_sources()}
    if not numbers or numbers[0] not in there:
        raise GradingError(
            f"{file}: none of the course's notebooks; it has no cell with desta_lab.setup(…) of "
            f"one of {', '.join(sorted(there))}."
        )
    return str(numbers[0])


def _read_judgement(name: str, cell: NotebookNode) -> tuple[str, str]:
    for output in cell.get("outputs", []):
        if output.output_type == "error":
            return "not attempted", f"The cell stopped with {output.ename}: {output.evalue}"
        text = output.get("data", {}).get("text/plain", "")
        if found := JUDGED.search(text):
            return STATES[found[1]], found[3]
    return "not attempted", "The check was not reached."
