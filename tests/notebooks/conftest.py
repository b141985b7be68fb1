"""Notebooks run from the top in an empty kernel, each once a session, with its figures in a folder
of its own.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from desta_lab.course.notebooks import build_notebook, execute_notebook, find_sources


@dataclass(frozen=True)
class Ran:
    """What a notebook left: its cells with outputs, the folder of its figures, and what it took."""

    number: str
    notebook: nbformat.NotebookNode
    figures: Path
    took: dict

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


class Notebooks:
    """Runs a notebook when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.known = folder, {}

    def __call__(self, number: str, *, solved: bool) -> Ran:
        key = f"{number}-{'solved' if solved else 'student'}"
        if key not in self.known:
            source = next(s for s in find_sources() if s.name.startswith(number))
            notebook = build_notebook(source, solved=solved)
            took = execute_notebook(notebook, preset="nano", figures=self.folder / key, timeout=600)
            self.known[key] = Ran(number, notebook, self.folder / key, took)
        return self.known[key]


@pytest.fixture(scope="session")
def notebooks(tmp_path_factory: pytest.TempPathFactory) -> Notebooks:
    return Notebooks(tmp_path_factory.mktemp("notebooks"))


@pytest.fixture(scope="module")
def ran(request: pytest.FixtureRequest, notebooks: Notebooks) -> Ran:
    """The solved notebook whose number the test file has."""
    return notebooks(request.path.name.split("_")[1], solved=True)
