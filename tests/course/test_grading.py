"""Submitted notebooks are graded by their code, which runs in the course's own notebook."""

from pathlib import Path

import nbformat
import pytest

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


def test_the_students_cells_take_the_place_of_the_exercises_and_the_rest_is_the_courses(
    tmp_path: Path,
) -> None:
    path = hand_in(tmp_path, "halves = 50", "def seconds_of_frame(frame):\n    return 0", GOOD)
    grafted = grading.graft(nbformat.read(path, as_version=4), "00")
    course = notebooks.build_notebook(notebooks.find_sources(["00"])[0], solved=False)
    theirs = [cell.source for cell in course.cells]
    added = [cell.source for cell in grafted.cells if cell.source not in theirs]
    assert added[0] == "halves = 50" and added[-1] == GOOD
    place = [cell.source for cell in grafted.cells].index(GOOD)
    assert 'lesson.check("seconds_of_frame"' in grafted.cells[place + 1].source
    assert not any(cell.get("outputs") for cell in grafted.cells)
    code = [cell.source for cell in grafted.cells if cell.cell_type == "code"]
    assert sum("def seconds_of_frame" in source for source in code) == 2


def test_what_is_no_notebook_of_the_course_is_left_out_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.ipynb").write_text("{}")
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "b.ipynb")
    (tmp_path / "c.ipynb").write_bytes(b" " * (grading.LONGEST + 1))
    table, left_out = grading.grade_files([tmp_path])
    assert table.empty
    assert [Path(one.split(": ")[0]).name for one in left_out] == ["a.ipynb", "b.ipynb", "c.ipynb"]
    for sentence, words in zip(left_out, ("no", "desta_lab.setup", "MB"), strict=True):
        assert words in sentence


def test_the_command_refuses_what_is_not_there(tmp_path: Path, capsys) -> None:
    assert cli.main(["grade", str(tmp_path / "none.ipynb")]) != 0
    assert "there is no such file or folder" in capsys.readouterr().err


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
