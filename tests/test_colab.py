"""Colab brings its own torch, numpy and front end; the lab fits into them and leaves them alone."""

import json
import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from desta_lab.course import notebooks

ROOT = Path(__file__).resolve().parents[1]
# What Colab's image holds of what the lab asks for (googlecolab/backend-info, pip-freeze.gpu.txt of
# February 2026, the last one read). Of these a set-up cell must move none: the running kernel has
# loaded them, or they take minutes. Its peft (0.18.1) is not among them: transformers 5.23 wants a
# newer one, and it is small.
COLAB = {
    "torch": "2.10.0",
    "numpy": "2.0.2",
    "pandas": "2.2.2",
    "scipy": "1.16.3",
    "scikit-learn": "1.6.1",
    "matplotlib": "3.10.0",
    "seaborn": "0.13.2",
    "ipython": "7.34.0",
    "ipywidgets": "7.7.1",
    "accelerate": "1.12.0",
    "tqdm": "4.67.3",
    "joblib": "1.5.3",
    "soundfile": "0.13.1",
    "soxr": "1.0.0",
    "umap-learn": "0.5.11",
    "packaging": "26.0",
    "filelock": "3.24.3",
}
WHEELS: dict[str, dict[str, str]] = {
    "3.12": {},
    "3.13": {"numpy": "2.1.3", "pandas": "2.2.3"},
}  # the first for 3.13
NEEDS = {
    canonicalize_name(Requirement(line).name): Requirement(line)
    for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
}


@pytest.mark.parametrize("name", COLAB)
def test_what_colab_has_is_in_range(name: str) -> None:
    assert COLAB[name] in NEEDS[name].specifier, (
        f"pip would replace Colab's {name} {COLAB[name]}: {NEEDS[name]}"
    )


def test_the_front_end_is_left_to_colab() -> None:
    assert not {"jupyterlab", "notebook", "ipykernel", "jupyter-server"} & NEEDS.keys()


def found(version: str) -> str | None:
    """A Python of this version that runs, if there is one on the path."""
    python = shutil.which(f"python{version}")
    works = python and subprocess.run([python, "--version"], capture_output=True).returncode == 0
    return python if works else None


# Notebook 00 as it is shipped, in a kernel of this Python: its first cell clones and installs. Then
# all twelve, solved, from the clone. The first line printed is the seconds of that first cell.
RUN = """
import os, sys
from datetime import datetime
from pathlib import Path
import nbformat
from nbclient import NotebookClient

shipped = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(shipped, timeout=1800, kernel_name="python3").execute()
ran = next(cell for cell in shipped.cells if "colab" in cell.metadata.get("tags", []))
start, end = (ran.metadata.execution[at] for at in ("iopub.execute_input", "shell.execute_reply"))
when = [datetime.fromisoformat(at.replace("Z", "+00:00")) for at in (start, end)]
print((when[1] - when[0]).total_seconds(), flush=True)

os.chdir("lab")
sys.path.insert(0, os.getcwd())
from desta_lab.course import notebooks

for source in notebooks.find_sources():
    notebook = notebooks.build_notebook(source, solved=True)
    notebooks.execute_notebook(notebook, preset="nano", figures=Path("../figures"))
"""
GITHUB = "https://github.com/"


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.parametrize("version", ["3.12", "3.13"])
def test_the_set_up_cell_installs_into_colabs_versions_and_every_notebook_runs(
    version: str, tmp_path: Path
) -> None:
    """In a fresh virtual environment, into which Colab's torch brings gigabytes.

    The cell is the shipped one. Git alone is told that the address it clones is this repository.
    """
    home = found(version)
    if home is None:
        pytest.skip(f"no python{version} on the path")
    subprocess.run([home, "-m", "venv", str(tmp_path / "colab")], check=True)
    programs, bare = tmp_path / "colab" / "bin", tmp_path / "bare"
    bare.mkdir()
    environment = os.environ | {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{ROOT.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": GITHUB + notebooks.REPOSITORY,
    }
    environment.pop("PYTHONPATH", None)

    def run(*words: str | Path) -> str:
        done = subprocess.run(words, cwd=bare, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def versions() -> dict[str, str]:
        listed = json.loads(run(programs / "python", "-m", "pip", "list", "--format", "json"))
        return {canonicalize_name(one["name"]): one["version"] for one in listed}

    has = COLAB | WHEELS[version] | {"ipykernel": "6.17.1"}
    of_the_test = ("nbclient", "nbformat", "jupytext")
    pins = [f"{name}=={version}" for name, version in has.items()]
    run(programs / "python", "-m", "pip", "install", "-q", *pins, *of_the_test)
    before = versions()
    shipped = ROOT / "notebooks" / "00_first_light.ipynb"
    seconds = run(programs / "python", "-c", RUN, shipped).splitlines()[0]
    after = versions()
    assert {name: after[name] for name in has} == {name: before[name] for name in has}
    assert float(seconds) < 120
    assert len([*(bare / "figures" / "course").glob("*.png")]) >= 12
