"""What runs on the CPU runs on another device, which this machine may lack: tests are run again."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import torch
from torch.utils import backend_registration

from desta_lab.course.notebooks import build_notebook, execute_notebook, find_sources
from desta_lab.experiments import quickstart
from desta_lab.experiments.experiment import Experiment
from desta_lab.model import presets

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch takes no device that is written in Python",
)

# files, and those of their tests that hold what they compare on the CPU themselves
QUICK = {
    "training/test_trainer.py": "lora or soft_targets or ends_the_same",
    "evaluation/test_evaluate.py": "every_clip or further_control or free_answers or reading",
    "experiments/test_inside_own.py": "(every_connector and qformer) or (script and published)",
}
PICK = "from tests import second_device\nsecond_device.pick()"


def run_again(file: str, only: str) -> subprocess.CompletedProcess[str]:
    """Run tests of a file, in a process of their own, with every AudioLLM on the second device."""
    command = [sys.executable, "-m", "pytest", "-p", "tests.second_device", "-n", "0", "-q"]
    command += ["--tb=short", "-k", only, f"tests/{file}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("file", QUICK)
def test_the_tests_of_a_part_pass_on_a_second_device(file):
    done = run_again(file, QUICK[file])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    there = re.search(r"([1-9]\d*) of (\d+) AudioLLMs were on elsewhere:0", done.stdout)
    assert there and there[1] == there[2]


def test_a_second_device_refuses_what_a_gpu_refuses():
    code = """
import torch
from tests.second_device import DEVICE
there, here = torch.ones(2, device=DEVICE), torch.ones(2)
assert torch.equal((there + there[0]).cpu(), here * 2)
assert (there + torch.tensor(1.0)).device == DEVICE
for wrong in (lambda: there + here, lambda: here[there.long()], lambda: there.numpy()):
    try:
        wrong()
    except (RuntimeError, TypeError) as error:
        assert "device" in str(error)
    else:
        raise AssertionError(wrong)
"""
    command, environment = [sys.executable, "-c", code], {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=ROOT, env=environment, check=True)


@pytest.mark.parametrize(
    ("place", "apart", "told"),
    [
        ("cpu", 0.0, []),
        ("cuda:0", 0.0, ["is the same to the bit."]),
        ("cuda:0", 3e-6, ["differs by 3e-06 of its largest value"]),
    ],
)
def test_a_card_of_a_gpu_says_within_what_it_repeats_itself(
    place, apart, told, tmp_path, monkeypatch
):
    experiment = Experiment(presets.nano(), root=tmp_path)
    device = SimpleNamespace(device=torch.device(place))
    monkeypatch.setattr(Experiment, "llm", SimpleNamespace(backbone=device))
    monkeypatch.setattr(Experiment, "features", None)
    monkeypatch.setattr(Experiment, "training_rows", lambda self, kind: ([], None))
    monkeypatch.setattr(quickstart.trainer, "compare_gradients", lambda *_: apart)
    notes = quickstart._notes_on_device(experiment)
    assert [note.split("taken twice there, ")[1].split(", so")[0] for note in notes] == told


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.parametrize("source", find_sources(), ids=lambda source: source.name[:2])
def test_a_solved_notebook_runs_on_a_second_device(source, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = build_notebook(source, solved=True)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(PICK, id="device"))
    execute_notebook(notebook, preset="nano", figures=tmp_path)
