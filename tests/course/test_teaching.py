"""The page for instructors names what there is."""

import re

from desta_lab.course import notebooks

PAGE = notebooks.NOTEBOOKS / "TEACHING.md"


def test_every_session_shows_a_figure_that_is_there() -> None:
    text = PAGE.read_text(encoding="utf-8")
    sessions = re.findall(r"^\| \d · .*$", text, re.MULTILINE)
    assert len(sessions) == 6
    for session in sessions:
        shown = re.findall(r"`([\w/]+\.png)`", session)
        assert any(name.startswith(("course/", "inside/")) for name in shown), session
        assert all((PAGE.parents[1] / "figures" / name).is_file() for name in shown), session


def test_every_exercise_that_a_page_names_is_there() -> None:
    sources = notebooks.find_sources()
    there = {one["number"] for source in sources for one in notebooks.list_exercises(source)}
    pages = [*notebooks.NOTEBOOKS.glob("*.md"), *sources]
    for page in pages:
        text = re.sub(r"\[.*?\]\(.*?\)", "", page.read_text(encoding="utf-8"))
        named = re.findall(r"\b(?:exercise|part [AB] without) (\d+\.\d+)", text)
        assert set(named) <= there, page.name


def test_what_a_student_can_edit_counts_for_no_mark_but_completion() -> None:
    grade = PAGE.read_text(encoding="utf-8").split("| of the grade | for |")[1].split("\n\n")[0]
    assert "completion: a card" in grade and "score" not in grade
