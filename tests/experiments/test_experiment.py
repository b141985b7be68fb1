"""What a run, its targets and its scores are found by, and which run is taken where none is
named.
"""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from desta_lab.clips import Clip
from desta_lab.experiments.costs import StageCosts
from desta_lab.experiments.experiment import Experiment
from desta_lab.experiments.scoring_plan import ScoringPlan
from desta_lab.model import presets
from desta_lab.model.runs import VERDICT, index_path, newest_run
from tests import tiny

SMALL = replace(presets.nano(), clips={"train": 24, "validation": 24, "test": 24})


def run(root: Path, name: str, when: int, judged: bool) -> Path:
    """A run's folder, finished at a time, with a main job's verdict or without."""
    folder = root / "runs" / name
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "checkpoints.json").write_text("[]")
    os.utime(folder / "checkpoints" / "checkpoints.json", (when, when))
    if judged:
        (folder / VERDICT).write_text("{}")
    return folder


def test_a_run_that_a_main_job_judged_comes_before_a_newer_cell_of_a_sweep(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"quickstart` \(with `--preset nano` in min"):
        newest_run(tmp_path)
    cell = run(tmp_path, "nano-self-1", when=9, judged=False)
    assert newest_run(tmp_path) == cell
    run(tmp_path, "nano-label-1", when=10, judged=True)
    run(tmp_path, "nano-self-2", when=5, judged=True)
    later = run(tmp_path, "cpu-self-3", when=7, judged=True)
    assert newest_run(tmp_path) == later


def test_a_run_that_was_stopped_is_no_finished_one(tmp_path: Path):
    stopped = run(tmp_path, "nano-self-1", when=9, judged=False)
    listed = [{"step": step, "sha256": str(step), "loss": None} for step in (0, 1, 2)]
    index_path(stopped).write_text(json.dumps(listed[:2]))
    (stopped / "config.json").write_text('{"train_config": {"steps": 2}}')
    with pytest.raises(FileNotFoundError, match="no finished run here"):
        newest_run(tmp_path)
    older = run(tmp_path, "nano-self-2", when=5, judged=False)
    assert newest_run(tmp_path) == older
    index_path(stopped).write_text(json.dumps(listed))
    assert newest_run(tmp_path) == stopped


def test_half_of_the_clips_between_the_ends_can_still_be_compared_and_calibrated():
    clips = [Clip(str(i), "", 1.0, "", str(i), {}) for i in range(3)]
    plan = ScoringPlan(SMALL, "a", [], clips[:2], clips[2:])
    assert all(plan.clips(step) == (clips[:2], clips[2:]) for step in (0, 1, SMALL.steps))


def test_runs_that_differ_in_a_setting_have_each_a_folder_for_their_figures(tmp_path: Path):
    def folder(**how: object) -> str:
        given = {name: how.pop(name) for name in ("seed", "prompts", "describe") if name in how}
        preset = replace(how.pop("preset", presets.nano()), **how)
        return Experiment(preset, root=tmp_path / "data", **given).figures_folder("look").name

    assert folder() == folder(accumulate=2, minutes=None) == "look-nano"
    assert folder(preset=presets.cpu()) == "look"
    assert folder(steps=40, seed=1) == "look-nano-steps-40-seed-1"
    assert folder(preset=presets.cpu(), label="rate") == "look-label-rate"
    (tmp_path / "mine.toml").write_text('base = "nano"\nsteps = 40')
    own = presets.get_preset(tmp_path / "mine.toml")
    others = (
        folder(prompts=["What do you hear?"]),
        folder(prompts=["Say what you hear."]),
        folder(connector=replace(presets.SMALL, depth=3)),
        folder(preset=own),
        folder(preset=own, steps=80),
    )
    assert len({*others}) == 5 and all(len(name.split("-")[2]) == 8 for name in others)


@pytest.fixture(scope="module")
def experiments(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Experiment]:
    """Experiments of one seed that differ in one thing each."""
    root = tmp_path_factory.mktemp("data")
    tiny.share_weights(root)
    settings = {"fused": {}, "eager": {"attention": "eager"}, "tapped": {"taps": (3,)}}
    return {name: Experiment(replace(SMALL, **how), root=root) for name, how in settings.items()}


CHECKPOINT = {"step": 0, "sha256": "a" * 64}


@pytest.mark.weights
def test_attention_computed_in_another_way_is_another_result_of_every_kind(
    experiments: dict[str, Experiment],
):
    fused, eager = experiments["fused"], experiments["eager"]
    ways = [one.llm.backbone.model.config._attn_implementation for one in (fused, eager)]
    assert ways == ["sdpa", "eager"]
    assert fused.run_folder("label") != eager.run_folder("label")
    assert fused.targets_provenance.key != eager.targets_provenance.key
    assert fused.oracle_provenance.key != eager.oracle_provenance.key
    assert fused.score_provenance(CHECKPOINT).key != eager.score_provenance(CHECKPOINT).key


@pytest.mark.weights
def test_what_only_the_ear_needs_changes_nothing_of_what_is_read(
    experiments: dict[str, Experiment],
):
    fused, tapped = experiments["fused"], experiments["tapped"]
    assert fused.oracle_provenance.key == tapped.oracle_provenance.key
    assert fused.targets_provenance.key == tapped.targets_provenance.key
    assert fused.run_folder("label") != tapped.run_folder("label")


@pytest.mark.weights
def test_a_new_fact_of_the_models_enters_every_result(
    experiments: dict[str, Experiment], monkeypatch: pytest.MonkeyPatch
):
    one = experiments["fused"]
    results = [
        lambda: one.run_folder("label").name,
        lambda: one.targets_provenance.key,
        lambda: one.oracle_provenance.key,
        lambda: one.score_provenance(CHECKPOINT).key,
    ]
    before = [make() for make in results]
    monkeypatch.setitem(one.llm.provenance, "quantization", "8 bit")
    assert all(make() != old for make, old in zip(results, before, strict=True))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"seconds": null}',
        '{"seconds": {}}',
        '{"seconds": {"models": 1%s}, "peak_memory_gb": 1}' % ("0" * 400),
    ],
)
def test_damaged_costs_are_begun_anew(text: str, tmp_path: Path):
    path = tmp_path / "costs.json"
    path.write_text(text)
    costs = StageCosts(path)
    with costs.stage("models"):
        pass
    assert set(costs.total()["seconds"]) == {"models"} and costs.total()["peak_memory_gb"] > 0
    assert StageCosts(path).total() == costs.total()
