"""One source per notebook becomes the student's notebook and the solved one, the same bytes every time.

The source is `notebooks/src/NN_name.py` in jupytext's percent format. Four tags say what a cell is:

    exercise   code whose `### BEGIN SOLUTION … ### END SOLUTION` the student writes; lines after `### STUB` stand there
               instead, without their `# `, and where there are none, `...  # your code here`
    hint       text that is folded under the word Hint
    expensive  code before which the measured minutes are written
    headline   the cell of the last figure, which answers the title
"""

import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Collection, Iterator
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import torch
from nbclient import NotebookClient
from nbformat import NotebookNode

from desta_lab import cache
from desta_lab.course.lesson import COSTS, costs

NOTEBOOKS = COSTS.parent
REPOSITORY = "desta-lab/desta_lab"  # owner and name on GitHub, for the badge and Colab's clone
KINDS = ("predict", "fill in", "break", "tweak")
SOLUTION = re.compile(
    r"^( *)### BEGIN SOLUTION\n(.*?)^ *### END SOLUTION\n?", re.DOTALL | re.MULTILINE
)
STUB = re.compile(r"^ *### STUB\n", re.MULTILINE)
EXERCISE = re.compile(
    r"^### Exercise (?P<number>[\d.]+) · (?P<title>.+) · (?P<kind>.+) · (?P<minutes>\d+) min$", re.M
)
COLAB = """\
# On Colab this fetches the lab, once; anywhere else it does nothing. Neither torch nor numpy is touched.
import importlib.util

if importlib.util.find_spec("desta_lab") is None:
    !git clone -q --depth 1 https://github.com/{repository} lab && pip install -q -e lab
    %cd lab"""


def sources(only: Collection[str] = ()) -> list[Path]:
    """The notebooks' sources in the order of the course, or those of some numbers."""
    every = sorted((NOTEBOOKS / "src").glob("[0-9][0-9]_*.py"))
    return [source for source in every if not only or source.name[:2] in only]


def build(source: Path, *, solved: bool) -> NotebookNode:
    """One source as a notebook without outputs.

    Raises:
        ValueError: an exercise has no heading of its form, or a solution block is not closed; the message names it.
    """
    text = source.read_text(encoding="utf-8")
    if text.count("### BEGIN SOLUTION") != len(SOLUTION.findall(text)):
        raise ValueError(f"{source.name}: a ### BEGIN SOLUTION has no ### END SOLUTION.")
    number = source.name[:2]
    read = jupytext.reads(text, fmt="py:percent")
    cells: list[NotebookNode] = []
    seen: dict[str, int] = {}
    for kind, content, tags in _cells(read.cells, number, source.stem, solved=solved):
        key = f"{number}\0{kind}\0{content}"
        seen[key] = seen.get(key, 0) + 1
        name = hashlib.sha256(f"{key}\0{seen[key]}".encode()).hexdigest()[:8]
        make = nbformat.v4.new_markdown_cell if kind == "markdown" else nbformat.v4.new_code_cell
        cells.append(make(content, id=name, metadata={"tags": tags} if tags else {}))
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    language = {"language_info": {"name": "python"}}
    return nbformat.v4.new_notebook(cells=cells, metadata={**kernel, **language})


def _cells(
    cells: list[NotebookNode], number: str, stem: str, *, solved: bool
) -> Iterator[tuple[str, str, list[str]]]:
    """Kind, content and tags of every cell of the notebook that is built."""
    url = _colab(f"{'solutions/' if solved else ''}{stem}")
    badge = f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({url})"
    waiting: tuple[str, str, list[str]] | None = (
        None  # the solution, printed once its check and its hints stand
    )
    for i, cell in enumerate(cells):
        tags = cell.metadata.get("tags", [])
        content = cell.source
        if waiting is not None and "hint" not in tags and not content.startswith("lesson.check("):
            yield waiting
            waiting = None
        if i == 0:
            content = f"{badge}\n\n{content}"
        if i == 1:
            yield "code", COLAB.format(repository=REPOSITORY), ["colab"]
        if "expensive" in tags:
            yield "markdown", _price(number, content), ["cost"]
        if "hint" in tags:
            content = _folded("Hint", content)
        if "exercise" in tags:
            whole = SOLUTION.sub(lambda m: STUB.split(m[2])[0], content).rstrip()
            if not solved:
                waiting = "markdown", _folded("Solution", f"```python\n{whole}\n```"), ["solution"]
            content = whole if solved else SOLUTION.sub(_stub, content).rstrip()
        yield cell.cell_type, content, tags
    if waiting is not None:
        yield waiting


def _colab(name: str) -> str:
    """Where Colab opens a built notebook."""
    return f"https://colab.research.google.com/github/{REPOSITORY}/blob/main/notebooks/{name}.ipynb"


def _stub(block: re.Match[str]) -> str:
    """What stands where the solution stood."""
    _, *stub = STUB.split(block[2])
    if not stub:
        return f"{block[1]}...  # your code here\n"
    return re.sub(r"^( *)# ?", r"\1", stub[0], flags=re.MULTILINE)


def _folded(word: str, content: str) -> str:
    return f"<details><summary>{word}</summary>\n\n{content}\n\n</details>"


def _price(number: str, code: str) -> str:
    """The measured seconds of an expensive cell on every preset, in one line."""
    key = _code_key(code)
    known = {
        name: entry for name, entry in costs().get(number, {}).items() if key in entry["cells"]
    }
    if not known:
        return "⏱ *The next cell works for a while; its time was not measured yet.*"
    said = ", ".join(f"{_span(entry['cells'][key])} on `{name}`" for name, entry in known.items())
    on = next(iter(known.values()))["on"]
    return f"⏱ *The next cell takes about {said} the first time (measured on {on}); after that it is found on disk.*"


def _span(seconds: float) -> str:
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _code_key(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()[:8]


def exercises(source: Path) -> list[dict[str, Any]]:
    """Number, title, kind and minutes of every exercise of a source."""
    return [
        {**m.groupdict(), "minutes": int(m["minutes"])} for m in EXERCISE.finditer(_prose(source))
    ]


def _prose(source: Path) -> str:
    return re.sub(r"^# ?", "", source.read_text(encoding="utf-8"), flags=re.MULTILINE)


def written(notebook: NotebookNode) -> bytes:
    """A notebook as the bytes of its file."""
    return (nbformat.writes(notebook, indent=1, ensure_ascii=False) + "\n").encode()


def outputs(only: Collection[str] = ()) -> dict[Path, bytes]:
    """Every built notebook, or those of some numbers: its file → its bytes."""
    return {
        NOTEBOOKS / ("solutions" if solved else "") / f"{source.stem}.ipynb": written(
            build(source, solved=solved)
        )
        for source in sources(only)
        for solved in (False, True)
    }


def pages() -> dict[Path, bytes]:
    """The pages with a part that is drawn from sources, figures and costs: their file → their bytes."""
    parts = {
        NOTEBOOKS.parent / "README.md": ("course", _course()),
        NOTEBOOKS / "README.md": ("gallery", _gallery()),
        NOTEBOOKS / "TEACHING.md": ("timetable", _timetable()),
    }
    return {path: _between(path, name, content) for path, (name, content) in parts.items()}


def _between(path: Path, name: str, content: str) -> bytes:
    """A page with what stands between `<!-- name -->` and `<!-- /name -->` replaced."""
    text = path.read_text(encoding="utf-8")
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(
            f"{path}: needs one {begin.strip()} and one {end}; put them where the table belongs."
        )
    before, after = text.split(begin)[0], text.split(end)[1]
    return f"{before}{begin}{content}{end}{after}".encode()


def _course() -> str:
    """One row a notebook: number, question, minutes with its exercises, and its badge."""
    rows = ["| | notebook | question | minutes | |", "|---|---|---|---|---|"]
    measured = costs()
    for source in sources():
        number, (name, question) = source.name[:2], title(source).split(" · ", 1)[1].split(": ", 1)
        seconds = measured.get(number, {}).get("nano", {}).get("seconds", 0)
        minutes = sum(one["minutes"] for one in exercises(source)) + round(seconds / 60)
        link, badge = f"[{name}](notebooks/{source.stem}.ipynb)", f"[Colab]({_colab(source.stem)})"
        rows.append(f"| {number} | {link} | {question} | {minutes} | {badge} |")
    return "\n".join(rows) + "\n"


def _gallery() -> str:
    """One row a notebook: its question, and the figure that answered it where it was run last."""
    rows = ["| notebook | its last figure |", "|---|---|"]
    for source in sources():
        number = source.name[:2]
        figure = NOTEBOOKS.parent / "figures" / "course" / f"{number}.json"
        shown = "not run yet"
        if figure.exists():
            alt = escape(json.loads(figure.read_text(encoding="utf-8"))["alt"])
            shown = f'<img src="../figures/course/{number}.png" width="420" alt="{alt}">'
        name, question = title(source).split(": ", 1)
        rows.append(f"| [{name}]({source.stem}.ipynb)<br>{question} | {shown} |")
    return "\n".join(rows) + "\n"


def _timetable() -> str:
    rows = ["| notebook | question | exercises, minutes |", "|---|---|---|"]
    for source in sources():
        question = title(source).split(" · ", 1)[1]
        rows.append(
            f"| {source.name[:2]} | {question} | {sum(one['minutes'] for one in exercises(source))} |"
        )
    return "\n".join(rows) + "\n"


def title(source: Path) -> str:
    """A notebook's title, "05 · Emergence: does …?"."""
    first = next(
        line for line in source.read_text(encoding="utf-8").splitlines() if line.startswith("# # ")
    )
    return first.removeprefix("# # ")


def write(only: Collection[str] = ()) -> list[Path]:
    """Build the notebooks and pages into their places; returns the files that changed."""
    built = outputs(only) | pages()
    changed = [
        path for path, content in built.items() if not path.exists() or path.read_bytes() != content
    ]
    for path in changed:
        cache.write_whole(path, built[path])
    return changed


def execute(
    notebook: NotebookNode, *, preset: str, figures: Path, timeout: int = 3600
) -> dict[str, Any]:
    """Run a notebook from the top in an empty kernel; returns seconds, seconds of its cells, and peak memory.

    Figures and card go to `figures/course`. The notebook is filled with its outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed; the message holds it.
    """
    notebook.cells.append(nbformat.v4.new_code_cell(_PEAK, id="peak"))
    surroundings = {
        **os.environ,
        "DESTA_LAB_PRESET": preset,
        "DESTA_LAB_FIGURES": str(figures.resolve()),
    }
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as here:
        client = NotebookClient(notebook, timeout=timeout, resources={"metadata": {"path": here}})
        client.execute(env=surroundings)
    last = notebook.cells.pop()
    seconds = {
        _code_key(cell.source): _seconds(cell.metadata["execution"])
        for cell in notebook.cells
        if "expensive" in cell.metadata.get("tags", [])
    }
    return {
        "seconds": round(time.perf_counter() - begin, 1),
        "memory_gb": round(float(last.outputs[0]["text"]), 2),
        "cells": seconds,
    }


def run(source: Path, preset: str) -> dict[str, Any]:
    """Execute a solved notebook: its page, its headline figure, and what it took."""
    figures = (
        NOTEBOOKS.parent / "figures" / ("" if preset == "nano" else preset)
    )  # the gallery is nano's
    notebook = build(source, solved=True)
    measured = execute(notebook, preset=preset, figures=figures)
    html(notebook, figures / "course" / "pages" / f"{source.stem}.html")
    note(source.name[:2], preset, measured, _machine())
    return measured


def _machine() -> str:
    """What the costs were measured on, in words."""
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU"
    return f"{os.cpu_count()} CPU cores, {gpu}"


def note(number: str, preset: str, measured: dict[str, Any], on: str) -> None:
    """Keep what a notebook took on a preset where the build and `setup` find it."""
    known = costs()
    known.setdefault(number, {})[preset] = {**measured, "on": on}
    cache.write_whole(
        COSTS, cache.to_json({n: dict(sorted(known[n].items())) for n in sorted(known)})
    )


def html(notebook: NotebookNode, path: Path) -> None:
    """An executed notebook as one page with its figures."""
    from nbconvert import HTMLExporter

    page, _ = HTMLExporter(template_name="classic").from_notebook_node(notebook)
    cache.write_whole(path, page.encode())


_PEAK = """\
import resource as _r, sys as _s
print(_r.getrusage(_r.RUSAGE_SELF).ru_maxrss * (1 if _s.platform == "darwin" else 1024) / 1e9)"""


def _seconds(clock: dict[str, str]) -> float:
    begin, end = (
        datetime.fromisoformat(clock[name].replace("Z", "+00:00"))
        for name in ("iopub.execute_input", "shell.execute_reply")
    )
    return round((end - begin).total_seconds(), 1)
