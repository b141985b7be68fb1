"""The pages beside the notebooks are tied to what they are about."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from nbclient.exceptions import CellExecutionError

from desta_lab import cli
from desta_lab.course import notebooks

ROOT = Path(__file__).resolve().parents[2]
ERRORS = (ROOT / "notebooks" / "ERRORS.md").read_text(encoding="utf-8")
PAGES = notebooks.build_pages()
GLOSSARY = (ROOT / "notebooks" / "GLOSSARY.md").read_text(encoding="utf-8")


@cache
def modules() -> list[ast.Module]:
    return [
        ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "desta_lab").rglob("*.py")
    ]


def errors() -> set[str]:
    """Every exception that the package defines and a user can meet; `Wrong` and what is private
    never leave a check.
    """
    return {
        node.name
        for tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and re.fullmatch(r"[A-Z]\w+Error", node.name)
    }


@cache
def words() -> str:
    """All text of the package's strings, joined as Python joins them."""
    nodes = (node for tree in modules() for node in ast.walk(tree))
    strings = (node.value for node in nodes if isinstance(node, ast.Constant))
    return " ".join(" ".join(text for text in strings if isinstance(text, str)).split())


def test_every_error_of_the_package_has_its_section_and_no_other_is_told_of() -> None:
    assert set(re.findall(r"^## (\w+Error)$", ERRORS, re.MULTILINE)) == errors()


@pytest.mark.parametrize("piece", re.findall(r'"([^"]+)"', ERRORS))
def test_what_the_page_quotes_is_what_the_package_says(piece: str) -> None:
    assert " ".join(piece.split()) in words(), f"no string of the package holds {piece!r}"


def test_every_word_of_the_glossary_is_used_in_the_course() -> None:
    told = [
        term
        for row in re.findall(r"^\| \*\*(.+?)\*\* \|", GLOSSARY, re.MULTILINE)
        for term in row.split(", ")
    ]
    prose = " ".join(notebooks.read_prose(source) for source in notebooks.find_sources()).lower()
    unused = [
        term for term in told if term.lower().removesuffix("s").replace(" δ", "") not in prose
    ]
    assert told == sorted(told, key=str.lower) or len(told) > 30
    assert not unused


@pytest.mark.parametrize("path", sorted(PAGES), ids=lambda path: path.name)
def test_gallery_and_time_table_are_those_of_the_notebooks(path: Path) -> None:
    assert path.read_bytes() == PAGES[path], "run `python -m desta_lab course`"
    assert all(
        source.name[:2] in path.read_text(encoding="utf-8") for source in notebooks.find_sources()
    )


def test_every_headline_figure_is_kept_with_its_words() -> None:
    assert "not run yet" not in notebooks._gallery()


def test_a_number_that_no_notebook_has_is_refused_with_those_there_are(capsys):
    assert cli.main(["course", "--only", "05,99"]) == 1
    assert "no notebook 99; there are 00, 01," in capsys.readouterr().err


def test_a_cell_that_fails_is_a_sentence_of_the_command(capsys, monkeypatch):
    def fail(source, preset):
        raise CellExecutionError("a long traceback", "NameError", "name 'x' is not defined")

    monkeypatch.setattr(notebooks, "write_files", lambda only: [])
    monkeypatch.setattr(notebooks, "run_notebook", fail)
    assert cli.main(["course", "--run", "--only", "05"]) == 1
    said = capsys.readouterr().err
    assert "05_emergence.py: a cell failed (NameError: name 'x' is not defined); correct" in said
    assert "traceback" not in said.lower()


def test_on_a_phone_the_outputs_of_a_page_have_its_whole_width(tmp_path: Path) -> None:
    (source,) = notebooks.find_sources(["00"])
    notebooks.write_html(notebooks.build_notebook(source, solved=True), tmp_path / "page.html")
    head = (tmp_path / "page.html").read_text(encoding="utf-8").split("</head>")[0]
    assert "(max-width: 540px)" in head and "div.output_subarea { max-width: 100%; }" in head
