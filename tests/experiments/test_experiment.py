"""What a run is found by, and which one is taken where none is named."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from desta_lab.experiments.experiment import Experiment, newest_run, no_progress
from desta_lab.model import presets


def run(root: Path, name: str, when: int, judged: bool) -> Path:
    """A run's folder, finished at a time, with the tables of a main job or without."""
    folder = root / "runs" / name
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "checkpoints.json").write_text("[]")
    os.utime(folder / "checkpoints" / "checkpoints.json", (when, when))
    if judged:
        (folder / "evals").mkdir()
    return folder


def test_a_run_that_a_main_job_judged_comes_before_a_newer_cell_of_a_sweep(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no finished run here; make one with"):
        newest_run(tmp_path)
    cell = run(tmp_path, "nano-self-1", when=9, judged=False)
    assert newest_run(tmp_path) == cell
    run(tmp_path, "nano-label-1", when=10, judged=True)
    run(tmp_path, "nano-self-2", when=5, judged=True)
    later = run(tmp_path, "cpu-self-3", when=7, judged=True)
    assert newest_run(tmp_path) == later


def test_attention_computed_in_another_way_is_another_run_and_other_targets(tmp_path: Path):
    small = replace(presets.nano(), clips={"train": 24, "validation": 24, "test": 24})
    fused, eager = (
        Experiment(replace(small, attention=how), root=tmp_path, progress=no_progress)
        for how in (None, "eager")
    )
    assert [lab.llm.backbone.model.config._attn_implementation for lab in (fused, eager)] == [
        "sdpa",
        "eager",
    ]
    assert (
        "attention" not in fused.run_config("label")
        and eager.run_config("label")["attention"] == "eager"
    )
    assert fused.run_folder("label") != eager.run_folder("label")
    assert fused.targets[2] != eager.targets[2]
