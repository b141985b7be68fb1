"""One source per notebook becomes the student's notebook and the solved one, always the same bytes.

The source is `notebooks/src/NN_name.py` in jupytext's percent format. Five tags say what a cell is:

    exercise   code whose `### BEGIN SOLUTION … ### END SOLUTION` the student writes; the lines
               after `### STUB` stand there instead, without their `# `; by default `...`
    hint       text that is folded under the word Hint
    expensive  code before which the measured seconds are written; its result is kept on disk
    slow       the same, but nothing is kept: it takes them each time
    headline   the cell of the last figure, which answers the title
"""

import hashlib
import json
import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterator
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import torch
from filelock import FileLock
from nbclient import NotebookClient
from nbformat import NotebookNode

from desta_lab import cache
from desta_lab.course.lesson import COSTS, read_costs
from desta_lab.model.presets import get_preset

NOTEBOOKS = COSTS.parent
REPOSITORY = "desta-lab/desta_lab"  # owner and name on GitHub, for the badge and Colab's clone
PRICED = {"expensive", "slow"}  # tags of cells before which their seconds are written
SOLUTION = re.compile(
    r"^( *)### BEGIN SOLUTION\n(.*?)^ *### END SOLUTION\n?", re.DOTALL | re.MULTILINE
)
STUB = re.compile(r"^ *### STUB\n", re.MULTILINE)
EXERCISE = re.compile(
    r"^### Exercise (?P<number>[\d.]+) · (?P<title>.+) · (?P<kind>.+) · (?P<minutes>\d+) min$", re.M
)
COLAB = """\
# On Colab this fetches the package, once; elsewhere it does nothing. Torch and numpy stay.
import importlib.util

if importlib.util.find_spec("desta_lab") is None:
    !git clone -q --depth 1 https://github.com/{repository} lab && pip install -q -e lab
    %cd lab"""
ON_A_PHONE = """\
<style>@media (max-width: 540px) {
div#notebook, div#notebook-container { padding: 0 .5em; }
div.output_subarea { max-width: 100%; }
}</style>"""
PEAK_MEMORY = """\
import resource as _r, sys as _s
print(_r.getrusage(_r.RUSAGE_SELF).ru_maxrss * (1 if _s.platform == "darwin" else 1024) / 1e9)"""
NOTEBOOK_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


Cell = tuple[str, str, list[str]]  # kind (code or markdown), content, tags


def find_sources(only: Collection[str] = ()) -> list[Path]:
    """The notebooks' sources in the order of the course, or those of some numbers.

    Raises:
        ValueError: a number is no notebook's; the message lists those there are.
    """
    sources = {path.name[:2]: path for path in sorted((NOTEBOOKS / "src").glob("[0-9][0-9]_*.py"))}
    if unknown := sorted(set(only) - set(sources)):
        there = ", ".join(sources)
        raise ValueError(f"There is no notebook {', '.join(unknown)}; there are {there}.")
    return [path for number, path in sources.items() if not only or number in only]


def build_notebook(source: Path, *, solved: bool) -> NotebookNode:
    """One source as a notebook without outputs.

    Raises:
        ValueError: a solution block is not closed; the message names the source.
    """
    text = source.read_text(encoding="utf-8")
    if text.count("### BEGIN SOLUTION") != len(SOLUTION.findall(text)):
        raise ValueError(f"{source.name}: a ### BEGIN SOLUTION has no ### END SOLUTION.")
    seen = Counter[str]()
    cells = []
    for kind, content, tags in _build_cells(
        jupytext.reads(text, "py:percent").cells, source, solved
    ):
        key = f"{source.name[:2]}\0{kind}\0{content}"
        seen[key] += 1
        name = hashlib.sha256(f"{key}\0{seen[key]}".encode()).hexdigest()[:8]
        make = nbformat.v4.new_markdown_cell if kind == "markdown" else nbformat.v4.new_code_cell
        cells.append(make(content, id=name, metadata={"tags": tags} if tags else {}))
    return nbformat.v4.new_notebook(cells=cells, metadata=NOTEBOOK_METADATA)


def _build_cells(cells: list[NotebookNode], source: Path, solved: bool) -> Iterator[Cell]:
    """The source's cells with badge, set-up, prices and folded solutions."""
    url = _colab_url(f"{'solutions/' if solved else ''}{source.stem}")
    badge = f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({url})"
    waiting: Cell | None = None  # a solution, which stands after its check and its hints
    for i, cell in enumerate(cells):
        tags, content = cell.metadata.get("tags", []), cell.source
        if waiting and "hint" not in tags and not content.startswith("lesson.check("):
            yield waiting
            waiting = None
        if solved and cell.cell_type == "markdown":  # its notebook lies one folder deeper
            content = content.replace("](../", "](../../")
        if i == 0:
            content = f"{badge}\n\n{content}"
        if i == 1:
            yield "code", COLAB.format(repository=REPOSITORY), ["colab"]
        if PRICED.intersection(tags):
            price = _price(source.name[:2], content, kept="expensive" in tags)
            yield "markdown", price, ["cost"]
        if "hint" in tags:
            content = _fold("Hint", content)
        if "exercise" in tags:
            whole, stub = _solution_and_stub(content)
            content = whole if solved else stub
            if not solved:
                folded = _fold("Solution", f"```python\n{whole}\n```")
                waiting = ("markdown", folded, ["solution"])
        yield cell.cell_type, content, tags
    if waiting:
        yield waiting


def _solution_and_stub(content: str) -> tuple[str, str]:
    """An exercise as it is solved, and as the student finds it."""

    def stub(block: re.Match[str]) -> str:
        _, *lines = STUB.split(block[2])
        if not lines:
            return f"{block[1]}...  # your code here\n"
        return re.sub(r"^( *)# ?", r"\1", lines[0], flags=re.MULTILINE)

    solution = SOLUTION.sub(lambda block: STUB.split(block[2])[0], content)
    return solution.rstrip(), SOLUTION.sub(stub, content).rstrip()


def _colab_url(name: str) -> str:
    return f"https://colab.research.google.com/github/{REPOSITORY}/blob/main/notebooks/{name}.ipynb"


def _fold(word: str, content: str) -> str:
    return f"<details><summary>{word}</summary>\n\n{content}\n\n</details>"


def _price(number: str, code: str, *, kept: bool) -> str:
    """The measured seconds of a cell that works for a while on every preset, in one line."""
    key = _code_key(code)
    costs = read_costs().get(number, {}).items()
    known = {preset: cost for preset, cost in costs if key in cost["cells"]}
    if not known:
        return "⏱ *The next cell works for a while; its time was not measured yet.*"
    times = ", ".join(f"{_span(cost['cells'][key])} on `{name}`" for name, cost in known.items())
    machine = next(iter(known.values()))["on"]
    if not kept:
        return f"⏱ *The next cell takes about {times}, each time (measured on {machine}).*"
    return (
        f"⏱ *The next cell takes about {times} the first time (measured on {machine}); "
        "after that it is found on disk.*"
    )


def _span(seconds: float) -> str:
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _code_key(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()[:8]


def list_exercises(source: Path) -> list[dict[str, Any]]:
    """Number, title, kind and minutes of every exercise of a source."""
    found = EXERCISE.finditer(read_prose(source))
    return [{**match.groupdict(), "minutes": int(match["minutes"])} for match in found]


def read_prose(source: Path) -> str:
    """A source's text without the comment signs."""
    return re.sub(r"^# ?", "", source.read_text(encoding="utf-8"), flags=re.MULTILINE)


def read_title(source: Path) -> tuple[str, str]:
    """A notebook's title, "05 · Emergence: does …?", as its name and its question."""
    match = re.search(r"^# \d\d · (.+?): (.+)$", read_prose(source), re.MULTILINE)
    if match is None:
        raise ValueError(f"{source.name}: needs a title such as “# # 05 · Emergence: does …?”.")
    return match[1], match[2]


def build_files(only: Collection[str] = ()) -> dict[Path, bytes]:
    """Every built notebook, or those of some numbers: its file → its bytes."""
    files = {}
    for source in find_sources(only):
        for folder, solved in ((NOTEBOOKS, False), (NOTEBOOKS / "solutions", True)):
            notebook = build_notebook(source, solved=solved)
            text = nbformat.writes(notebook, indent=1, ensure_ascii=False) + "\n"
            files[folder / f"{source.stem}.ipynb"] = text.encode()
    return files


def build_pages() -> dict[Path, bytes]:
    """The pages that hold a table of the course, drawn from sources, figures and costs."""
    parts = {
        NOTEBOOKS.parent / "README.md": ("course", _course()),
        NOTEBOOKS / "README.md": ("gallery", _gallery()),
        NOTEBOOKS / "TEACHING.md": ("timetable", _timetable()),
    }
    return {path: _between(path, name, content) for path, (name, content) in parts.items()}


def _between(path: Path, name: str, content: str) -> bytes:
    """A page with what stands between `<!-- name -->` and `<!-- /name -->` replaced."""
    text, begin, end = path.read_text(encoding="utf-8"), f"<!-- {name} -->\n", f"<!-- /{name} -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"{path}: needs one {begin.strip()} and one {end} around the table.")
    return f"{text.split(begin)[0]}{begin}{content}{end}{text.split(end)[1]}".encode()


def _course() -> str:
    """One row a notebook: number, question, minutes of exercises, reading and runs, its badge."""
    rows = ["| | notebook | question | minutes | |", "|---|---|---|---|---|"]
    for source in find_sources():
        number, (name, question) = source.name[:2], read_title(source)
        seconds = read_costs().get(number, {}).get("nano", {}).get("seconds", 0)
        minutes = _exercise_minutes(source) + round(reading_minutes(source) + seconds / 60)
        link = f"[{name}](notebooks/{source.stem}.ipynb)"
        badge = f"[Colab]({_colab_url(source.stem)})"
        rows.append(f"| {number} | {link} | {question} | {minutes} | {badge} |")
    return "\n".join(rows) + "\n"


def _gallery() -> str:
    """One row a notebook: its question, and the figure that answered it where it was run last."""
    rows = ["| notebook | its last figure |", "|---|---|"]
    for source in find_sources():
        number, (name, question) = source.name[:2], read_title(source)
        figure = NOTEBOOKS.parent / "figures" / "course" / f"{number}.json"
        shown = "not run yet"
        if figure.exists():
            alt = escape(json.loads(figure.read_text(encoding="utf-8"))["alt"])
            shown = f'<img src="../figures/course/{number}.png" width="420" alt="{alt}">'
        rows.append(f"| [{number} · {name}]({source.stem}.ipynb)<br>{question} | {shown} |")
    return "\n".join(rows) + "\n"


def _timetable() -> str:
    rows = ["| notebook | question | exercises, minutes |", "|---|---|---|"]
    for source in find_sources():
        question = ": ".join(read_title(source))
        rows.append(f"| {source.name[:2]} | {question} | {_exercise_minutes(source)} |")
    return "\n".join(rows) + "\n"


def reading_minutes(source: Path) -> float:
    """About how long the text and code of a student's notebook take to read, folded cells aside.

    At 200 words of text and 25 lines of code a minute; these are assumed, not measured.
    """
    words = lines = 0
    for cell in build_notebook(source, solved=False).cells:
        if {"hint", "solution"}.isdisjoint(cell.metadata.get("tags", [])):
            words += len(cell.source.split()) if cell.cell_type == "markdown" else 0
            lines += len(cell.source.splitlines()) if cell.cell_type == "code" else 0
    return words / 200 + lines / 25


def _exercise_minutes(source: Path) -> int:
    return sum(exercise["minutes"] for exercise in list_exercises(source))


def write_files(only: Collection[str] = ()) -> list[Path]:
    """Build the notebooks and pages into their places; returns the files that changed."""
    built = build_files(only) | build_pages()
    changed = [path for path in built if not path.exists() or path.read_bytes() != built[path]]
    for path in changed:
        cache.write_whole(path, built[path])
    return changed


def locate_preset(preset: str) -> str:
    """A preset's name as a kernel in another folder finds it: of a file, its whole path."""
    return str(Path(preset).resolve()) if preset.endswith(".toml") else preset


def execute_notebook(
    notebook: NotebookNode, *, preset: str, figures: Path, timeout: int = 3600
) -> dict[str, Any]:
    """Run a notebook from the top in an empty kernel, and fill it with its outputs.

    Figures and card go to `figures/course`.

    Returns:
        seconds, seconds of its expensive and slow cells, and peak memory in GB.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed; the message holds it.
    """
    notebook.cells.append(nbformat.v4.new_code_cell(PEAK_MEMORY, id="peak"))
    own = {"DESTA_LAB_PRESET": locate_preset(preset), "DESTA_LAB_FIGURES": str(figures.resolve())}
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as here:
        client = NotebookClient(notebook, timeout=timeout, resources={"metadata": {"path": here}})
        client.execute(env={**os.environ, **own})
    last = notebook.cells.pop()
    priced = [cell for cell in notebook.cells if PRICED.intersection(cell.metadata.get("tags", []))]
    return {
        "seconds": round(time.perf_counter() - begin, 1),
        "memory_gb": round(float(last.outputs[0]["text"]), 2),
        "cells": {_code_key(cell.source): _cell_seconds(cell) for cell in priced},
    }


def _cell_seconds(cell: NotebookNode) -> float:
    clock = cell.metadata["execution"]
    begin, end = (
        datetime.fromisoformat(clock[name].replace("Z", "+00:00"))
        for name in ("iopub.execute_input", "shell.execute_reply")
    )
    return round((end - begin).total_seconds(), 1)


def run_notebook(source: Path, preset: str) -> dict[str, Any]:
    """Execute a solved notebook: its page, its headline figure, and what it took."""
    gallery = NOTEBOOKS.parent / "figures"  # it shows nano's figures
    chosen = get_preset(preset)
    figures = gallery if chosen.glass_box else gallery / chosen.name
    notebook = build_notebook(source, solved=True)
    measured = execute_notebook(notebook, preset=preset, figures=figures)
    write_html(notebook, figures / "course" / "pages" / f"{source.stem}.html")
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU"
    record_cost(source.name[:2], chosen.name, measured, f"{os.cpu_count()} CPU cores, {gpu}")
    return measured


def write_html(notebook: NotebookNode, path: Path) -> None:
    """An executed notebook as one page with its figures."""
    from nbconvert import HTMLExporter

    page, _ = HTMLExporter(template_name="classic").from_notebook_node(notebook)
    cache.write_whole(path, page.replace("</head>", f"{ON_A_PHONE}</head>", 1).encode())


def record_cost(number: str, preset: str, measured: dict[str, Any], machine: str) -> None:
    """Keep what a notebook took on a preset where the build and `setup` find it."""
    with FileLock(COSTS.with_name(".costs.lock")):  # another notebook may end now
        costs = read_costs()
        costs.setdefault(number, {})[preset] = {**measured, "on": machine}
        ordered = {number: dict(sorted(costs[number].items())) for number in sorted(costs)}
        cache.write_whole(COSTS, cache.to_json(ordered))
