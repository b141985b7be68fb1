"""A sweep measures a cell once: however its grid is written, whoever is killed, and however far it
is extended.
"""

import importlib.util
import itertools
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from desta_lab import cli
from desta_lab.evaluation.verdict import able_tasks
from desta_lab.experiments import forgetting, measures, sweep
from desta_lab.experiments.cells import LADDER, WORDS
from desta_lab.experiments.experiment import Experiment
from desta_lab.experiments.sweep import Cell, Sweep
from desta_lab.model import presets
from desta_lab.views.progress import no_progress
from desta_lab.views.saving import save_figure
from tests import tiny

ROOT = Path(__file__).parents[2]
NANO = presets.nano()
GRID = {"steps": [40, 80], "connector.pool": [1, 2]}
CONDITIONS = {"audio": 1.0, "shuffled": 0.0, "silence": 0.01, "untrained": -0.02, "oracle": 1.5}


def stand_in(cell: Cell, root: Path) -> dict:
    """Scores that grow with the steps, shrink with pooling and shiver with the seed."""
    noise = float(np.random.default_rng([cell.seed, cell.preset.steps]).normal(0, 0.02))
    score = 0.1 + cell.preset.steps / 160 - cell.preset.connector.pool / 20 + noise
    rows = [
        {"condition": condition, "rung": rung, "attribute": attribute, "score": score * part}
        for condition, part in CONDITIONS.items()
        for rung, attribute in [(0, "all"), (2, "all"), (3, "all"), (3, "gender"), (3, "scene")]
    ]
    return {
        "run": f"run-{cell.key}",
        "rows": rows,
        "trained": cell.preset.steps * 0.5,
        "scored": 10.0,
        "prepared": 30.0,
    }


def fails_at_80(cell: Cell, root: Path) -> dict:
    if cell.preset.steps == 80:
        raise RuntimeError("The loss of step 7 is nan;\n lower the learning rate.")
    return stand_in(cell, root)


def fills_the_gpu(cell: Cell, root: Path) -> dict:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 14 GiB")


def dies_at_80(cell: Cell, root: Path) -> dict:
    if cell.preset.steps == 80:
        os.kill(os.getpid(), signal.SIGKILL)
    return stand_in(cell, root)


class Counted:
    """A stand-in that remembers what it was asked to measure, and may be stopped before one of its
    cells.
    """

    def __init__(self, stop_before: int | None = None) -> None:
        self.cells: list[Cell] = []
        self.stop_before = stop_before

    def __call__(self, cell: Cell, root: Path) -> dict:
        if len(self.cells) == self.stop_before:
            raise KeyboardInterrupt
        self.cells.append(cell)
        return stand_in(cell, root)


def grid(
    root: Path, measure=stand_in, settings=GRID, seeds=(0,), preset=NANO, progress=no_progress
) -> Sweep:
    how = {"measure": measure, "measured": "a stand-in", "progress": progress}
    return Sweep(preset, settings, seeds=seeds, root=root, **how)


# ---- what a cell is ----


def test_a_grid_is_every_combination_for_every_seed(tmp_path: Path):
    cells = grid(tmp_path, seeds=range(3)).cells
    found = {(cell.preset.steps, cell.preset.connector.pool, cell.seed) for cell in cells}
    assert found == set(itertools.product((40, 80), (1, 2), range(3)))
    assert len({cell.key for cell in cells}) == len(cells) == 12


def test_a_seed_is_a_whole_number_of_any_kind(tmp_path: Path):
    assert grid(tmp_path, seeds=(np.int64(3), 0, 3)).seeds == [0, 3]
    with pytest.raises(ValueError, match=r"seeds is a whole number from 0 to .*, not -1"):
        grid(tmp_path, seeds=(0, -1))


def test_every_seed_has_one_cell_before_any_has_two(tmp_path: Path):
    measure = Counted()
    grid(tmp_path, measure, seeds=range(3)).run()
    assert [cell.seed for cell in measure.cells] == [0, 1, 2, *[0] * 3, *[1] * 3, *[2] * 3]


def test_without_a_score_there_is_no_picture(tmp_path: Path):
    with pytest.raises(ValueError, match="No cell of this sweep has a score on rung 3; run it"):
        grid(tmp_path).figure()


# ---- once, and to the end ----


def test_a_second_run_measures_nothing(tmp_path: Path):
    first = grid(tmp_path, one := Counted()).run()
    second = grid(tmp_path, two := Counted()).run()
    assert (len(one.cells), len(two.cells)) == (4, 0)
    pd.testing.assert_frame_equal(first, second)


def test_a_larger_grid_finds_the_cells_of_a_smaller_one(tmp_path: Path):
    grid(tmp_path).run()
    wider = {**GRID, "steps": [40, 80, 160], "batch": [16, 32]}  # 16 is the preset's own
    grid(tmp_path, more := Counted(), settings=wider, seeds=(0, 1)).run()
    assert len(more.cells) == 3 * 2 * 2 * 2 - 4
    assert not [
        c for c in more.cells if c.seed == 0 and c.preset.batch == 16 and c.preset.steps != 160
    ]


def test_a_cell_that_fills_the_gpu_keeps_one_sentence(tmp_path: Path):
    assert set(grid(tmp_path, fills_the_gpu).run()["error"]) == {
        "OutOfMemoryError: The GPU has no memory for another 2.00 GiB; end other programs that use "
        "it, or take less by --jobs or --preset."
    }


def test_a_failure_is_kept_with_its_reason_and_the_others_go_on(tmp_path: Path):
    told: list = []
    one = grid(tmp_path, fails_at_80, progress=lambda stage: lambda *news: told.append(news))
    table = one.run()
    failed = table[table["error"].notna()]
    assert set(failed["steps"]) == {80} and failed["score"].isna().all() and len(failed) == 2
    assert set(failed["error"]) == {
        "RuntimeError: The loss of step 7 is nan; lower the learning rate."
    }
    assert set(table.loc[table["error"].isna(), "steps"]) == {40}
    assert sum("failed. RuntimeError" in str(news[0]) for news in told) == 2 and told[-1] == (4, 4)
    assert "2 finished, 2 failed, 0 to run." in one.forecast()
    assert len(one.factor_means()["knob"].unique()) == 1, "of steps there is one value left"
    grid(tmp_path, again := Counted()).run()
    assert not again.cells
    grid(tmp_path, again).run(retry=True)
    assert {cell.preset.steps for cell in again.cells} == {80}
    assert grid(tmp_path).table()["error"].isna().all()


def test_a_sweep_that_was_stopped_goes_on(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        grid(tmp_path, one := Counted(stop_before=3)).run()
    grid(tmp_path, two := Counted()).run()
    assert (len(one.cells), len(two.cells)) == (3, 1)


def test_a_torn_file_is_measured_again(tmp_path: Path):
    grid(tmp_path).run()
    torn = grid(tmp_path).cells[1].provenance.folder(tmp_path) / "data.json"
    torn.write_text(torn.read_text()[:50])
    grid(tmp_path, more := Counted()).run()
    assert len(more.cells) == 1


def test_a_runtime_that_dies_leaves_what_was_finished(tmp_path: Path):
    code = (
        "import sys; from pathlib import Path; from tests.experiments import test_sweep as t\n"
        "t.grid(Path(sys.argv[1]), t.dies_at_80, {'steps': [40, 80]}).run()"
    )
    dead = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True
    )
    assert dead.returncode == -signal.SIGKILL
    grid(tmp_path, more := Counted(), {"steps": [40, 80]}).run()
    assert [cell.preset.steps for cell in more.cells] == [80]


def test_of_a_sweep_whose_cells_all_failed_the_command_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.setenv("DESTA_LAB_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(sweep, "train_and_score", fails_at_80)
    command = ["sweep", "--preset", "nano", "--set", "steps=80", "--out", str(tmp_path / "out")]
    assert [cli.main(command) for _ in range(2)] == [1, 1], "what was found failed, too"
    assert "Every cell failed; mend the cause" in capsys.readouterr().err
    monkeypatch.setattr(sweep, "train_and_score", stand_in)
    assert cli.main([*command, "--retry"]) == 0


def test_the_table_of_the_command_is_whole_or_the_one_before(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("DESTA_LAB_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(sweep, "train_and_score", stand_in)
    out = tmp_path / "out"
    command = ["sweep", "--preset", "nano", "--set", "steps=80", "--out", str(out)]
    assert cli.main(command) == 0
    os.link(out / "table.csv", tmp_path / "held")  # as whoever reads the table holds it open
    (tmp_path / "held").write_text("of another sweep")
    assert cli.main(command) == 0
    assert (tmp_path / "held").read_text() == "of another sweep", "it was written in place"
    assert pd.read_csv(out / "table.csv")["steps"].unique().tolist() == [80]


# ---- elsewhere ----


def test_two_processes_give_the_same_table_as_one_and_outlive_a_dead_cell(tmp_path: Path):
    settings = {"steps": [40, 60, 80]}
    one = grid(tmp_path / "one", settings=settings).run()
    two = grid(tmp_path / "two", dies_at_80, settings).run(jobs=2)
    pd.testing.assert_frame_equal(one[one["steps"] < 80], two[two["steps"] < 80])
    lost = two[two["steps"] == 80]
    assert lost["error"].tolist() == ["Its process ended with status -9"]


def test_another_process_needs_a_function_that_it_can_import(tmp_path: Path):
    with pytest.raises(ValueError, match="put it into a file, or run with jobs=1"):
        grid(tmp_path, lambda cell, root: stand_in(cell, root)).run(jobs=2)


@pytest.mark.skipif(
    importlib.util.find_spec("submitit") is None, reason="submitit is not installed"
)
@pytest.mark.filterwarnings("ignore")
def test_submitit_gives_the_same_table(tmp_path: Path):
    settings = {"steps": [40, 80]}
    one = grid(tmp_path / "one", settings=settings).run()
    two = grid(tmp_path / "two", dies_at_80, settings).run(
        slurm={"cluster": "local", "timeout_min": 5}
    )
    pd.testing.assert_frame_equal(one[one["steps"] < 80], two[two["steps"] < 80])
    assert two["error"].dropna().str.startswith("Its job failed").tolist() == [True]


@pytest.mark.skipif(
    importlib.util.find_spec("submitit") is not None, reason="submitit is installed"
)
def test_slurm_without_submitit_says_what_to_install(tmp_path: Path):
    with pytest.raises(ValueError, match=r"pip install \"desta-lab\[slurm\]"):
        grid(tmp_path).run(slurm={})


# ---- what it says ----


def test_the_forecast_comes_first_and_says_what_it_does_not_know(tmp_path: Path):
    told: list = []
    one = grid(tmp_path, seeds=(0, 1), progress=lambda stage: lambda *news: told.append(news))
    assert one.forecast() == (
        "8 cells (settings: 4, seeds: 2): 0 finished, 0 failed, 8 to run. How long that takes will "
        "be known from the first cells."
    )
    one.run()
    assert "8 to run" in told[0][0] and told[1] == (1, 8)


def test_the_forecast_goes_by_the_median_of_the_finished_cells(tmp_path: Path):
    grid(tmp_path, settings={"steps": 100}).run()  # 100 steps of 0.5 s and 10 s to score
    five = grid(tmp_path, settings={"steps": 100}, seeds=range(5))
    assert five.forecast(jobs=2).endswith(
        "4 to run. That takes about 2 minutes, by the 60 s of the median finished cell."
    )


def test_no_cell_that_is_there_breaks_a_forecast(tmp_path: Path):
    def says_no_seconds(cell: Cell, root: Path) -> dict:
        return {"rows": stand_in(cell, root)["rows"]}

    def takes_no_time(cell: Cell, root: Path) -> dict:
        return {**stand_in(cell, root), "trained": 0, "scored": 0.0}

    def says_it_in_words(cell: Cell, root: Path) -> dict:
        return {**stand_in(cell, root), "trained": None, "scored": "long"}

    wide = {"steps": [40, 60, 80]}
    for measure, root in ((says_no_seconds, tmp_path), (says_it_in_words, tmp_path / "other")):
        grid(root, measure, {"steps": 40}).run()
        assert grid(root, settings=wide).forecast().endswith("known from the first cells.")
    grid(tmp_path, takes_no_time, {"steps": 60}).run()
    assert "about 0 minutes, by the 0 s" in grid(tmp_path, settings=wide).forecast()
    (tmp_path / "cells" / "notes.json").write_text("[1, 2")
    for name in ("provenance.json", "data.json"):
        (
            grid(tmp_path, settings={"steps": 60}).cells[0].provenance.folder(tmp_path) / name
        ).write_text("[]")
        assert "1 finished, 0 failed, 2 to run" in grid(tmp_path, settings=wide).forecast()
    assert grid(tmp_path, settings=wide).run()["error"].isna().all()


def test_more_processes_than_cells_are_not_started_and_none_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list = []

    def run_workers(work, tasks, jobs):
        asked.append(jobs)
        for number, task in enumerate(tasks):
            work(task)
            yield number, None

    monkeypatch.setattr(sweep.processes, "run_workers", run_workers)
    grid(tmp_path).run(jobs=10**6)
    grid(tmp_path).run(jobs=10**6)
    assert asked == [4]
    with pytest.raises(ValueError, match="jobs is a whole number from 1"):
        grid(tmp_path).run(jobs=0)


def test_tapped_layers_are_one_value_and_lists_of_them_several(tmp_path: Path):
    assert [c.preset.taps for c in grid(tmp_path, settings={"taps": (0, 3)}).cells] == [(0, 3)]
    some = grid(tmp_path, settings={"taps": [[0, 1], (3,), None]}, seeds=(0, 1))
    assert {cell.preset.taps for cell in some.cells} == {(0, 1), (3,), None}
    table = some.run()
    assert {str(taps) for taps in table["taps"]} == {"[0, 1]", "[3]", "none"}
    assert "taps" in some.factor_means()["knob"].tolist() and some.figure().get_suptitle()


def test_a_cell_whose_models_cannot_be_had_stops_a_sweep_before_its_first(tmp_path: Path):
    measure = Counted()
    one = grid(tmp_path, measure, {"steps": 40, "backbone": ["nano", "nope"]})
    with pytest.raises(RuntimeError, match="'nope' is no folder"):
        one.run()
    assert not measure.cells


def test_intervals_are_over_seeds_and_unknown_for_one(tmp_path: Path):
    alone = grid(tmp_path).run()
    assert (
        alone["low"].isna().all()
        and (alone["seeds"] == 1).all()
        and (alone["mean"] == alone["score"]).all()
    )
    table = grid(tmp_path, seeds=range(3)).run()
    some = table[(table["steps"] == 40) & (table["connector.pool"] == 1)]
    some = some[(some["attribute"] == "gender") & (some["condition"] == "audio")]
    reach = 4.302653 * some["score"].std() / np.sqrt(3)  # t of two degrees of freedom
    np.testing.assert_allclose(some["low"], some["score"].mean() - reach, rtol=1e-5)
    np.testing.assert_allclose(some["high"], some["score"].mean() + reach, rtol=1e-5)
    assert (table["seeds"] == 3).all() and set(table["condition"]) == set(CONDITIONS)
    assert not table.duplicated(
        ["steps", "connector.pool", "seed", "rung", "attribute", "condition"]
    ).any()


def test_the_picture_says_which_knob_moves_the_score_most_and_is_drawn_again(tmp_path: Path):
    one = grid(tmp_path, seeds=range(3))
    one.run()
    assert one.factor_means()["knob"].unique().tolist() == ["steps", "connector.pool", "seed"]
    picture = one.figure()
    said = picture.get_suptitle().replace("\n", " ")
    means = (
        one.factor_means()
        .query("knob == 'steps' and condition == 'audio'")
        .set_index("name")["score"]
    )
    assert said.startswith(
        f"steps moves rung 3 most: {means['40']:.2f} at 40, {means['80']:.2f} at 80; all "
        f"else equal +0.2"
    )
    low, high = (float(end) for end in said.split("[")[1].rstrip("]").split(", "))
    assert low < means["80"] - means["40"] < high
    assert high - low < 0.15, (
        "pooling and the seed are taken out of a difference at equal pooling and seed"
    )
    assert len(picture.axes) == 3
    assert save_figure(picture, tmp_path, "knobs").with_suffix(".csv").exists()


def test_one_cell_has_a_picture_too(tmp_path: Path):
    one = grid(tmp_path, settings={})
    one.run()
    picture = one.figure()
    assert len(picture.axes) == 1 and picture.get_suptitle().startswith("Rung 3: ")


def test_the_command_line_writes_table_and_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.setenv("DESTA_LAB_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(sweep, "train_and_score", fails_at_80)
    command = [
        "sweep",
        "--preset",
        "nano",
        "--set",
        "steps=40,60,80",
        "--set",
        "connector.pool=1,2",
        "--seeds",
        "0,1",
    ]
    assert cli.main([*command, "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert (
        "12 cells (settings: 6, seeds: 2): 0 finished" in said.err
        and "failed: RuntimeError" in said.out
        and "4 of 12 cells failed; mend the cause, and run this again with --retry." in said.err
    )
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {
        "table.csv",
        "knobs.png",
        "knobs.csv",
    }
    assert set(pd.read_csv(tmp_path / "out" / "table.csv")["steps"]) == {40, 60, 80}
    capsys.readouterr()
    assert cli.main(command[:5]) == 1  # of one seed
    said = capsys.readouterr().out
    assert (tmp_path / "figures" / "sweep-nano-steps" / "knobs.png").exists()
    assert "NaN" not in said and "one cell alone has no interval; more --seeds give one" in said
    assert cli.main(["sweep", "--preset", "nano", "--set", "step=40"]) == 1
    assert "it changes target" in capsys.readouterr().err


# ---- a corpus of one's own ----


def test_a_corpus_of_ones_own_is_measured_with_its_own_labels_and_cells(tmp_path: Path):
    folder, seen = tiny.recordings(tmp_path / "own"), []

    def measure(cell: Cell, root: Path) -> dict:
        seen.append((cell.corpus.name, cell.preset.label))
        return stand_in(cell, root)

    how = {"root": tmp_path / "data", "measure": measure, "measured": "a stand-in"}
    how |= {"progress": no_progress}
    own = Sweep(NANO, {"label": ["manner", "scene"]}, corpus=folder, **how)
    usual = Sweep(NANO, {"label": ["manner", "scene"]}, **how)
    assert own.run()["error"].isna().all() and set(own.table()["label"]) == {"manner", "scene"}
    assert seen == [("own", "manner"), ("own", "scene")]
    assert not {cell.key for cell in own.cells} & {cell.key for cell in usual.cells}
    again = Sweep(NANO, {"steps": [40]}, corpus=folder, **how)
    assert again.cells[0].preset.label == NANO.label == "scene"


def test_a_sweep_over_few_clips_says_so_in_words_and_on_its_picture(tmp_path: Path):
    told: list = []
    how = {"root": tmp_path / "data", "measure": stand_in, "measured": "a stand-in"}
    own = Sweep(
        NANO,
        {"steps": [40, 80]},
        corpus=tiny.recordings(tmp_path / "own"),
        progress=lambda stage: lambda *news: told.append(news[0]),
        **how,
    )
    own.run()
    few = "Tested with 4 clips of too few speakers, so that differences may be chance"
    assert told[-1].startswith(few) and "24 clips and 4 speakers are the least" in told[-1]
    assert few in own.figure().get_suptitle().replace("\n", " ")
    assert not Sweep(NANO, {"steps": [40, 80]}, progress=no_progress, **how).caveat


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"clips.train": 9}, "clips.train changes nothing on a corpus of your own"),
        ({"label": "gender"}, "label is one of manner, scene, not 'gender'"),
        ({"target": "other"}, "about the spoken world"),
    ],
)
def test_what_a_corpus_of_ones_own_cannot_give_is_refused(settings, words: str, tmp_path: Path):
    folder = tiny.recordings(tmp_path / "own")
    with pytest.raises(ValueError, match=words):
        Sweep(NANO, settings, corpus=folder, root=tmp_path / "data")


# ---- the real cell ----


@pytest.mark.weights
def test_a_real_cell_trains_scores_and_shares_what_others_made(tmp_path: Path):
    tiny.share_weights(tmp_path)
    small = replace(
        NANO, clips={"train": 24, "validation": 8, "test": 8}, batch=4, test=8, held_out=8
    )
    small = replace(small, free_form_clips=1)
    one = Sweep(small, {"steps": [3, 8]}, root=tmp_path, progress=no_progress)
    table = one.run()
    assert table["error"].isna().all()
    last = table[(table["rung"] == 3) & (table["condition"] == "audio")]
    assert set(last["attribute"]) == {
        "all",
        "gender",
        "accent",
        "rate",
        "loudness",
        "manner",
        "scene",
    }
    assert set(table["condition"]) == set(CONDITIONS) and set(table["rung"]) == {0, 2, 3}
    oracle = table[table["condition"] == "oracle"]
    assert (oracle["score"] > 0.9).all(), "the glass box can do all of it when it reads"
    assert (table.loc[table["condition"] == "silence", "score"].abs() < 0.5).all()
    made = {kind: list((tmp_path / kind).glob("[!.]*")) for kind in ("corpora", "targets", "runs")}
    assert {kind: len(folders) for kind, folders in made.items()} == {
        "corpora": 1,
        "targets": 1,
        "runs": 2,
    }
    first, second = one.results()
    assert second["prepared"] < first["prepared"] / 2
    assert first["trained"] > 0 and first["scored"] > 0
    assert (
        "of the median finished cell"
        in Sweep(small, {"steps": [3, 8, 20]}, root=tmp_path, progress=no_progress).forecast()
    )


@pytest.mark.weights
def test_a_cell_in_words_has_both_heights_and_the_scores_of_the_main_job(tmp_path: Path):
    tiny.share_weights(tmp_path)
    small = replace(
        NANO, clips={"train": 24, "validation": 8, "test": 8}, batch=4, test=8, held_out=8, steps=3
    )
    small = replace(small, free_form_clips=2, every_checkpoint=False)
    how = {"measure": measures.train_and_ask, "measured": WORDS}
    sweep = Sweep(small, root=tmp_path, progress=no_progress, **how)
    table = sweep.run()
    assert table["error"].isna().all(), table["error"].iloc[0]
    assert set(table["condition"]) == set(CONDITIONS) and set(table["rung"]) > {0, 2, 3}
    job = Experiment(small, root=tmp_path)
    scores = job.evaluate("self")
    oracle = job.oracle()
    gender = scores[(scores["task"] == "ask_gender") & (scores["condition"] == "audio")]
    rows = table[table["attribute"] == "gender"].set_index("condition")
    able = able_tasks(pd.concat([scores, oracle]), "said")
    assert "ask_gender" in able, "the glass box says it when it reads"
    last = gender[gender["step"] == 3]
    assert rows.loc["audio", "said"] == pytest.approx(2 * last["said"].mean() - 1)
    assert rows.loc["audio", "score"] == pytest.approx(2 * last["calibrated"].mean() - 1)
    start = gender[gender["step"] == 0]
    assert rows.loc["untrained", "said"] == pytest.approx(2 * start["said"].mean() - 1)
    usual = Sweep(small, root=tmp_path, progress=no_progress).cells[0]
    assert usual.key != sweep.cells[0].key and "tasks" in usual.provenance.facts


def test_only_a_cell_in_words_depends_on_how_its_questions_are_worded():
    asked = {
        measured: Cell(presets.laptop(), "self", 0, measured).provenance.facts["tasks"]
        for measured in (LADDER, WORDS)
    }
    assert len(asked[WORDS]) > len(asked[LADDER]), "all rungs"
    assert not any("in_words=" in task for task in asked[LADDER])
    assert any("in_words=" in task for task in asked[WORDS])


# ---- arms ----


def test_arms_are_named_settings_and_share_the_cells_of_a_grid(tmp_path):
    table = grid(tmp_path, settings={"steps": [40]}).run()
    told: list = []
    arms = {"short": {"steps": 40}, "last layer": {"taps": [3], "steps": 40}}
    sweep = Sweep(
        NANO,
        arms=arms,
        root=tmp_path,
        measure=stand_in,
        measured="a stand-in",
        progress=lambda _: lambda *news: told.append(news),
    )
    assert "1 finished, 0 failed, 1 to run" in sweep.forecast()
    assert list(dict.fromkeys(sweep.run()["arm"])) == ["short", "last layer"]
    assert set(table["cell"]) < {cell.key for cell in sweep.cells}
    with pytest.raises(ValueError, match="tuning"):
        Sweep(NANO, arms={"odd": {"tunning": "full"}}, root=tmp_path)


def test_another_measurement_is_another_cell_and_another_process_finds_taps_again(tmp_path):
    how = {"arms": {"last layer": {"taps": (3,)}}, "root": tmp_path, "progress": no_progress}
    mine, usual = Sweep(NANO, measure=stand_in, measured="a stand-in", **how), Sweep(NANO, **how)
    with pytest.raises(ValueError, match="name what your measure does"):
        Sweep(NANO, measure=stand_in, **how)
    table = mine.run(2)
    assert len(table) and table["error"].isna().all() and usual.results() == [None]
    assert mine.cells[0].settings == usual.cells[0].settings


@pytest.mark.weights
def test_a_cell_that_tunes_is_measured_at_every_share_and_at_0_it_is_the_untouched_backbone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(forgetting, "SHARES", (0.0, 0.5, 1.0))
    monkeypatch.setattr(forgetting, "EACH", 1)
    tiny.share_weights(tmp_path)
    small = replace(
        NANO, clips={"train": 24, "validation": 8, "test": 8}, batch=4, test=8, held_out=8, steps=3
    )
    small = replace(small, free_form_clips=1, tuning="lora-2")
    how = {"measure": forgetting.train_and_forget, "measured": "forgetting"}
    table = Sweep(small, root=tmp_path, progress=no_progress, **how).run()
    assert table["error"].isna().all(), table["error"].iloc[0]
    heard = table[
        (table["rung"] == 3) & (table["attribute"] == "all") & (table["condition"] == "audio")
    ]
    assert set(heard["share"]) == set(forgetting.SHARES)
    for attribute in ("following", "perplexity"):
        rows = table[table["attribute"] == attribute].set_index(["condition", "share"])["score"]
        assert rows["text", 0.0] == rows["untouched", 1.0]
    asked = table[table["condition"] == "untouched"].set_index("attribute")["score"]
    assert asked["detectable_format:json_format"] == 1 and asked["startend:end_checker"] == 0
    assert "startend:end_checker" not in set(table.loc[table["condition"] == "text", "attribute"])
