"""Notebooks run from the top, each once a session, with figures in a folder of their own: the
student's in an empty kernel, then the solved one in the same, emptied.
"""

import json
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from desta_lab.course.notebooks import build_notebook, execute_notebook, find_sources


@dataclass(frozen=True)
class Ran:
    """What a notebook left: its cells with outputs, and the folder of its figures."""

    number: str
    notebook: nbformat.NotebookNode
    figures: Path

    @property
    def card(self) -> dict:
        return json.loads((self.figures / "course" / f"card-{self.number}.json").read_text())

    @property
    def measured(self) -> dict[str, float]:
        """What was measured beside each prediction."""
        return {guess["name"]: guess["measured"] for guess in self.card["predictions"]}

    @property
    def table(self) -> pd.DataFrame:
        """The table of the headline figure."""
        return pd.read_csv(self.figures / "course" / f"{self.number}.csv")

    @property
    def printed(self) -> str:
        """All that its cells said in words."""
        outputs = [out for cell in self.notebook.cells for out in cell.get("outputs", [])]
        return "\n".join(
            out.get("text") or str(out.get("data", {}).get("text/plain", "")) for out in outputs
        )


EMPTY = """
import os, matplotlib.pyplot
matplotlib.pyplot.close("all")
os.environ["DESTA_LAB_FIGURES"] = {figures!r}
%reset -f
"""


class Notebooks:
    """Runs a notebook, unsolved and solved, when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.known = folder, {}

    def __call__(self, number: str, *, solved: bool) -> Ran:
        if number not in self.known:
            self.known[number] = self._run(number)
        return self.known[number][solved]

    def _run(self, number: str) -> dict[bool, Ran]:
        """The student's and the solved notebook, in one kernel: what it imports takes seconds."""
        source = next(s for s in find_sources() if s.name.startswith(number))
        pair = {solved: build_notebook(source, solved=solved) for solved in (False, True)}
        homes = {solved: self.folder / f"{number}-{solved}" for solved in pair}
        empty = EMPTY.format(figures=str(homes[True].resolve()))
        both = deepcopy(pair[False])
        both.cells += [nbformat.v4.new_code_cell(empty, id="empty"), *deepcopy(pair[True].cells)]
        for place, cell in enumerate(both.cells):
            cell["id"] = f"cell-{place}"
        execute_notebook(both, preset="nano", figures=homes[False], timeout=600)
        count = len(pair[False].cells)
        pair[False].cells, pair[True].cells = both.cells[:count], both.cells[count + 1 :]
        return {solved: Ran(number, own, homes[solved]) for solved, own in pair.items()}


@pytest.fixture(scope="session")
def notebooks(tmp_path_factory: pytest.TempPathFactory) -> Notebooks:
    return Notebooks(tmp_path_factory.mktemp("notebooks"))


@pytest.fixture(scope="module")
def ran(request: pytest.FixtureRequest, notebooks: Notebooks) -> Ran:
    """The solved notebook whose number the test file has."""
    return notebooks(request.path.name.split("_")[1], solved=True)
