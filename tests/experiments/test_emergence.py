"""The emergence report: what it says is what its tables say, and what is measured once is not
measured again.
"""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from desta_lab import cli
from desta_lab.evaluation import conditions
from desta_lab.experiments import emergence
from desta_lab.model import presets
from desta_lab.views import emergence_figures
from tests import tiny


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report, made again from the tables that ship."""
    folder = tmp_path_factory.mktemp("report")
    for name in emergence.TABLES:
        shutil.copy(emergence.HOME / f"{name}.csv", folder)
    emergence.write_report(folder)
    return folder


def test_the_report_that_ships_is_what_its_tables_say_to_the_byte(rebuilt: Path) -> None:
    for path in [emergence.HOME / "README.md", *emergence.HOME.glob("figure_*.csv")]:
        assert (rebuilt / path.name).read_bytes() == path.read_bytes(), path.name


def test_every_claim_has_its_rule_its_numbers_and_its_figure(rebuilt: Path) -> None:
    found = emergence.judge_tables(
        {name: pd.read_csv(rebuilt / f"{name}.csv") for name in emergence.TABLES}
    )
    words = (rebuilt / "README.md").read_text(encoding="utf-8")
    for name, (claim, _) in found.items():
        assert claim.rule in words and claim.verdict[1:] in words
        assert claim.numbers and all(number in words for number in claim.numbers)
        assert (rebuilt / f"figure_{name}.png").exists()
    assert "nan" not in words.replace("nano", "")


def test_the_rule_of_what_stays_is_of_the_checkpoints_that_were_measured(rebuilt: Path) -> None:
    tables = {name: pd.read_csv(rebuilt / f"{name}.csv") for name in emergence.TABLES}
    assert "one checkpoint (16 steps)" in emergence.judge_tables(tables)["curves"][0].rule
    for name in ("curves", "probes"):
        tables[name] = tables[name][tables[name]["step"] % 32 == 0]
    assert "one checkpoint (32 steps)" in emergence.judge_tables(tables)["curves"][0].rule


def test_the_report_that_ships_is_renewed_by_its_like_alone() -> None:
    usual = cli.build_parser().parse_args(["emerge"])
    assert (tuple(usual.seeds), usual.checkpoint_every) == (emergence.SEEDS, emergence.EVERY)
    shipped = replace(presets.nano(), checkpoint_every=emergence.EVERY)
    assert emergence.report_folder(shipped, [0, 1, 2, 3, 4]) == emergence.HOME
    folders = [
        emergence.report_folder(shipped, [0, 1]),
        emergence.report_folder(replace(shipped, checkpoint_every=50), [0, 1, 2, 3, 4]),
        emergence.report_folder(presets.cpu(), [0, 1, 2, 3, 4]),
    ]
    assert [folder.name for folder in folders] == [
        "emergence-nano",
        "emergence-nano",
        "emergence-cpu",
    ]
    assert {folder.parent for folder in folders} == {emergence.HOME.parent}


def test_one_more_attribute_has_a_panel_of_its_own() -> None:
    tables = [pd.read_csv(emergence.HOME / f"{name}.csv") for name in ("curves", "probes")]
    more = [
        pd.concat([one, one[one["attribute"] == "scene"].assign(attribute="pitch")])
        for one in tables
    ]
    picture = emergence_figures.plot_curves(*more, "One more.")
    drawn = [axes.get_title("left") for axes in picture.axes if axes.lines]
    assert drawn == ["accent", "gender", "loudness", "manner", "rate", "scene", "pitch"]


def test_every_task_is_drawn_however_many_attributes_there_are() -> None:
    steps = {f"attribute {n:02d}": 16.0 * (n + 1) for n in range(12)}
    crossings = pd.DataFrame({"attribute": steps.keys(), "stable": steps.values()}).assign(
        seed=0, task=lambda table: table["attribute"]
    )
    nulls = pd.DataFrame([{"name": "measured", "mean": 5.0, "low": 4.0, "high": 6.0}])
    picture = emergence_figures.plot_crossings(crossings, nulls, "Twelve.")
    drawn = [line for line in picture.axes[0].lines if line.get_label() in steps]
    assert [line.get_xdata()[0] for line in drawn] == list(steps.values())
    assert len({(line.get_marker(), line.get_color()) for line in drawn}) == 12


def test_the_runs_that_most_claims_need_come_first() -> None:
    runs = emergence.plan_runs([0, 1, 2, 3, 4, 0])
    assert [run.seed for run in runs[:5]] == [0, 1, 2, 3, 4] and all(
        run.is_full for run in runs[:5]
    )
    assert not any(run.is_full for run in runs[5:])
    assert len(set(runs)) == len(runs) == 5 + 3 + 9


@pytest.mark.weights
def test_what_is_known_of_a_checkpoint_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emergence, "PROBED", {"validation": 16, "test": 32})
    monkeypatch.setattr(emergence, "SCORED", 16)
    monkeypatch.setattr(emergence, "CALIBRATING", 8)
    monkeypatch.setattr(
        emergence, "plan_runs", lambda seeds: [emergence.Run(seed) for seed in seeds]
    )
    clips = {"train": 32, "validation": 16, "test": 32}
    preset = replace(
        presets.nano(),
        clips=clips,
        steps=2,
        checkpoint_every=1,
        batch=2,
        test=8,
        held_out=8,
        free_form_clips=1,
    )
    root = tmp_path / "data"
    root.mkdir()
    tiny.share_weights(root)
    first = emergence.measure_runs(preset, [0], tmp_path / "out", root=root)
    assert sorted(first["curves"]["step"].unique()) == [0, 1, 2]
    assert set(first["curves"]["condition"]) == {"audio", "shuffled", "silence"}
    assert first["probes"].groupby("step")["attribute"].nunique().tolist() == [6, 6, 6]
    monkeypatch.setattr(emergence.RunMeasurement, "_embed", None)  # would be called
    again = emergence.measure_runs(preset, [0], tmp_path / "again", root=root)
    for name, table in first.items():
        pd.testing.assert_frame_equal(table, again[name])
    silence = conditions.AUDIO_CONDITIONS["silence"]
    monkeypatch.setitem(conditions.AUDIO_CONDITIONS, "noise", silence)
    with pytest.raises(TypeError):  # it is called: the scores of other conditions are others
        emergence.measure_runs(preset, [0], tmp_path / "more", root=root)


@pytest.mark.parametrize("transcript", [True, False])
def test_a_run_that_was_trained_with_transcripts_is_scored_with_them(
    monkeypatch: pytest.MonkeyPatch, transcript: bool
) -> None:
    def score(llm, tasks, *clips, transcripts: bool, **how) -> pd.DataFrame:
        assert transcripts is transcript
        return pd.DataFrame(columns=emergence.COLUMNS)

    monkeypatch.setattr(emergence, "evaluate", score)
    run = emergence.RunMeasurement.__new__(emergence.RunMeasurement)
    run.experiment = SimpleNamespace(preset=replace(presets.nano(), transcript=transcript))
    run.llm, run.tasks, run.scored, run.calibration, run.clips = None, [], [], [], []
    run._score_answers(torch.zeros(0, 1, 1))
