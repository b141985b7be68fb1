"""A study says what its table shows and no more: over seeds, by rule, and again from the table that
was kept.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from desta_lab import cache, cli
from desta_lab.audio import DataFault
from desta_lab.experiments import ablation, findings, sweep
from desta_lab.experiments.ablation_page import render_page, run_ablation
from desta_lab.experiments.studies import STUDIES, Study, get_study, register_study
from desta_lab.experiments.sweep import Cell
from desta_lab.model import presets
from desta_lab.views import study_figures
from desta_lab.views.progress import no_progress
from desta_lab.views.saving import save_figure

MEASURED: list[str] = []  # the cells that the stand-in was asked to measure
TRUE = {"top": 0.8, "half": 120.0, "slope": 1.5}


def stand_in(cell: Cell, root: Path) -> dict:
    """Scores that suffer from labels, grow with the clips, and shiver with seed and cell."""
    MEASURED.append(cell.key)
    noise = np.random.default_rng([cell.seed, *cell.target.encode()]).normal(0, 0.02)
    clips = cell.preset.train or cell.preset.clips["train"]
    score = (
        TRUE["top"] / (1 + (TRUE["half"] / clips) ** TRUE["slope"])
        - 0.5 * (cell.target == "label")
        + noise
    )
    conditions = {
        "audio": score,
        "untrained": 0.0,
        "silence": 0.01,
        "shuffled": -0.01,
        "oracle": 1.0,
    }
    rows = [
        {"condition": condition, "rung": rung, "attribute": attribute, "score": float(value)}
        for condition, value in conditions.items()
        for rung, attribute in [(0, "all"), (2, "all"), (3, "all"), (3, "scene")]
    ]
    return {"run": cell.key, "rows": rows, "trained": 1.0, "scored": 1.0, "prepared": 1.0}


@pytest.fixture(autouse=True)
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    MEASURED.clear()
    monkeypatch.setattr(sweep, "train_and_score", stand_in)


def run(
    names: list[str], folder: Path, seeds: tuple[int, ...] = (0, 1, 2), jobs: int = 1
) -> dict[str, list[str]]:
    """What each study says; tables and figures go to a folder beside the data."""
    out = folder / "ablations" / "nano"
    return {
        s.name: said
        for s, said in ablation.run_studies(
            names, "nano", seeds, jobs, out, no_progress, folder / "data"
        )
    }


def made_up(
    curve, seeds: int = 5, noise: float = 0.01, amounts=(48, 96, 192, 384, 768)
) -> pd.DataFrame:
    """A scaling study's table whose scores follow a curve."""
    rng = np.random.default_rng(0)
    rows = [
        (str(n), float(n), seed, curve(n) + rng.normal(0, noise))
        for n in amounts
        for seed in range(seeds)
    ]
    table = pd.DataFrame(rows, columns=["arm", "at", "seed", "score"])
    return table.assign(rung=3, attribute="all", condition="audio", cell="")


# ---- what a study is ----


@pytest.mark.parametrize("study", STUDIES.values(), ids=list(STUDIES))
def test_every_arm_is_a_cell_of_its_own_and_one_of_them_is_the_base(study: Study, tmp_path: Path):
    for preset in study.presets:
        cells = ablation.build_sweep(study.name, preset, (0,), root=tmp_path).cells
        assert len({cell.key for cell in cells}) == len(study.arms_of(preset))
        assert study.baseline_arm in study.arms_of(preset)
    assert len(ablation.build_sweep(study.name, root=tmp_path).seeds) == 5
    assert study.limits.endswith((".", ".)"))


def test_the_base_of_nano_is_its_preset_with_fewer_and_faster_steps(tmp_path: Path):
    mine, turned = (
        replace(presets.nano(), steps=7),
        replace(presets.nano(), steps=150, attention="eager"),
    )
    assert ablation.build_sweep("depth", root=tmp_path).cells[1].preset == turned
    assert ablation.build_sweep("depth", mine, root=tmp_path).cells[1].preset == mine


def test_an_unknown_study_is_answered_with_those_there_are():
    with pytest.raises(ValueError, match="take one of targets, prompts, layers"):
        get_study("target")


def test_a_student_adds_an_arm_and_finds_the_others_measured(tmp_path: Path):
    ablation.build_sweep("depth", seeds=(0,), root=tmp_path, progress=no_progress).run()
    MEASURED.clear()
    more = {"8": {"connector.depth": 8}}
    table = ablation.build_sweep(
        "depth", seeds=(0,), more=more, root=tmp_path, progress=no_progress
    ).run()
    assert list(dict.fromkeys(table["arm"])) == ["1", "2", "4", "8"] and len(MEASURED) == 1


def test_cells_that_failed_end_the_command_with_1_and_are_run_again_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    def fails(cell: Cell, root: Path) -> dict:
        raise ValueError("The disk is full.")

    monkeypatch.setenv("DESTA_LAB_DATA", str(tmp_path / "data"))
    command = ["ablate", "depth", "--seeds", "0", "--jobs", "1", "--out", str(tmp_path / "o")]
    monkeypatch.setattr(sweep, "train_and_score", fails)
    assert cli.main(command) == 1
    said = capsys.readouterr()
    assert "Every cell failed" in said.err and said.out.count("The disk is full.") == 3
    monkeypatch.setattr(sweep, "train_and_score", stand_in)
    assert cli.main(command) == 1, "what failed is not run again by itself"
    assert cli.main([*command, "--retry"]) == 0


# ---- what it says ----


def test_a_study_in_words_states_draws_and_lists_both_heights(tmp_path: Path, monkeypatch):
    def both(cell: Cell, root: Path) -> dict:
        found = stand_in(cell, root)
        loss = 0.4 * (cell.target == "hard")
        rows = [{**row, "said": row["score"] - loss} for row in found["rows"]]
        return {**found, "rows": rows}

    monkeypatch.setitem(STUDIES, "words", replace(get_study("words"), measure=both))
    sentences = run(["words"], tmp_path)["words"]
    ranked, said, in_formats = sentences
    what = "Rung 2, the right answer in an output format, in the LLM's own words against self"
    assert in_formats.startswith(f"{what}, over 3 seeds: ") and "hard" in in_formats
    assert "shown: label -0.5" in ranked and "hard" in ranked.partition("not shown:")[2]
    assert said.startswith("Rung 3 in the LLM's own words against self, over 3 seeds: shown: hard")
    kept = ablation.load_table("words", folder=tmp_path / "ablations")
    assert findings.state_findings(get_study("words"), kept) == sentences
    picture = findings.draw_study(get_study("words"), kept)
    titles = [axes.get_title(loc="left") for axes in picture.axes]
    assert titles[1] == "Rung 3, in its own words" and len(titles) == 3
    drawn = picture.axes[1].get_lines()
    means = findings.scores_by_arm(kept, height="said").mean()
    heights = [np.asarray(line.get_ydata(), float) for line in drawn]
    assert any(len(one) == len(means) and np.allclose(means, one) for one in heights)
    page = render_page(tmp_path / "ablations")
    columns = "| said | said, rung 2 | said, untrained | said, shuffled | said, silence |"
    assert f"{columns} said, text oracle |" in page
    hard = next(line for line in page.splitlines() if line.startswith("| hard |"))
    assert f" {means['hard']:.2f} " in hard


def test_a_difference_is_shown_and_noise_is_not(tmp_path: Path):
    said = run(["targets"], tmp_path, seeds=(0, 1, 2, 3, 4))["targets"]
    assert said[0].startswith("Rung 3 against self, over 5 seeds: shown: label -0.5")
    assert "not shown: hard" in said[0] and "template" in said[0].split("not shown")[1]
    label = findings.compare_arms(
        STUDIES["targets"], ablation.load_table("targets", folder=tmp_path / "ablations")
    )[-1]
    assert label.low < -0.5 < label.high and label.seeds == 5


def test_one_seed_shows_nothing(tmp_path: Path):
    said = run(["targets"], tmp_path, seeds=(0,))["targets"]
    assert "in one seed, which alone shows nothing" in said[0] and "label -0.5" in said[0]


def test_differences_are_paired_over_the_seeds_that_both_arms_have():
    table = made_up(lambda n: 0.5, seeds=4, noise=0.0, amounts=(1, 2))
    shift = {0: 0.0, 1: 0.3, 2: -0.2, 3: 0.1}
    table["score"] += table["seed"].map(shift) + np.where(
        table["arm"] == "2", 0.1 + 0.01 * table["seed"], 0
    )
    table = table[~((table["arm"] == "2") & (table["seed"] == 3))]
    study = Study("made-up", "Made up", "?", {"1": {}, "2": {"steps": 2}}, "Nothing.")
    gap = findings.compare_arms(study, table)[0]
    assert gap.seeds == 3 and gap.mean == pytest.approx(0.11)
    assert gap.high - gap.mean == pytest.approx(4.302653 * 0.01 / np.sqrt(3)) and gap.shown


def test_the_fit_finds_the_curve_that_made_the_points():
    found = findings.fit_curve(
        made_up(lambda n: TRUE["top"] / (1 + (TRUE["half"] / n) ** TRUE["slope"]))
    )
    assert found is not None and found.is_determined
    assert found.top[0] == pytest.approx(0.8, abs=0.03) and found.half[0] == pytest.approx(
        120, rel=0.1
    )
    assert found.half[1] <= 120 * 1.05 and found.half[2] >= 120 * 0.95
    np.testing.assert_allclose(found.score_at(np.array([found.half[0]])), found.top[0] / 2)


@pytest.mark.parametrize(
    "curve",
    [lambda n: 0.0, lambda n: 0.1 * np.log(n / 40), lambda n: 0.7],
    ids=["nothing is learned", "it does not level off", "all is learned before the first amount"],
)
def test_a_curve_that_the_points_do_not_determine_is_refused(curve):
    study = STUDIES["clips"]
    table = made_up(curve, noise=0.03)
    found = findings.fit_curve(table)
    assert found is None or not found.is_determined
    assert any(
        "not determined" in one or "No curve" in one
        for one in findings.state_findings(study, table)
    )
    assert (
        "fitted curve"
        not in findings.draw_study(study, table).axes[0].get_legend_handles_labels()[1]
    )


def test_a_curve_takes_four_amounts_and_three_seeds():
    def curve(n: float) -> float:
        return 0.8 / (1 + 120 / n)

    assert findings.fit_curve(made_up(curve, amounts=(48, 96, 192))) is None
    assert findings.fit_curve(made_up(curve, seeds=2)) is None


# ---- running it ----


def test_a_cell_that_two_studies_share_is_measured_once(tmp_path: Path):
    run(["depth", "steps"], tmp_path, seeds=(0, 1))
    assert len(MEASURED) == len(set(MEASURED)) == 2 * (3 + 4 - 1)


def test_without_jobs_only_what_is_finished_is_drawn(tmp_path: Path):
    assert run(["depth"], tmp_path, jobs=0) == {}
    run(["depth"], tmp_path, seeds=(0,))
    MEASURED.clear()
    assert set(run(["depth", "steps"], tmp_path, jobs=0)) == {"depth"}
    assert not MEASURED and set(
        ablation.load_table("depth", folder=tmp_path / "ablations")["seed"]
    ) == {0}


def test_a_study_that_was_not_run_names_the_command(tmp_path: Path):
    with pytest.raises(
        FileNotFoundError, match="run `python -m desta_lab ablate clips --preset cpu`"
    ):
        ablation.load_table("clips", "cpu", tmp_path)


@pytest.mark.parametrize("change", ["a row twice", "half a seed"])
def test_a_table_that_no_study_writes_is_named_by_its_line(tmp_path: Path, change: str):
    rows = ["arm,at,seed,cell,rung,attribute,condition,score"]
    rows += [f"self,,{seed},c{seed},3,all,audio,0.5" for seed in range(2)]
    rows.append(rows[-1] if change == "a row twice" else rows[-1].replace(",1,", ",1.5,"))
    path = tmp_path / "nano" / "targets.csv"
    path.parent.mkdir()
    path.write_text("\n".join(rows) + "\n")
    with pytest.raises(DataFault, match=rf"^{path}, line 4: a seed that is no whole number, or a"):
        ablation.load_table("targets", "nano", tmp_path)


def test_the_figure_is_drawn_again_from_its_table(tmp_path: Path):
    run(["clips"], tmp_path, seeds=(0, 1, 2, 3))
    png = tmp_path / "ablations" / "nano" / "clips.png"
    picture = findings.draw_study(
        STUDIES["clips"], ablation.load_table("clips", folder=tmp_path / "ablations")
    )
    again = save_figure(picture, tmp_path / "again", "clips")
    assert again.read_bytes() == png.read_bytes()
    labels = picture.axes[0].get_legend_handles_labels()[1]
    assert {
        "audio, one seed",
        "text oracle",
        "shuffled audio",
        "silence",
        "chance",
        "fitted curve",
    } <= set(labels)


def test_a_study_may_bring_its_own_measure_words_and_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    other = Study(
        "own",
        "Own",
        "What?",
        {"a": {}, "b": {"steps": 9}},
        "All else.",
        measure=stand_in,
        measured="own",
        state=lambda study, found: [f"{found['arm'].nunique()} arms."],
        draw=lambda study, found: study_figures.plot_ablation(found, "Own words"),
    )
    monkeypatch.setitem(STUDIES, "own", other)
    assert run(["own"], tmp_path) == {"own": ["2 arms."]}
    assert "2 arms." in render_page(tmp_path / "ablations")
    assert not set(ablation.load_table("own", folder=tmp_path / "ablations")["cell"]) & {
        cell.key for cell in ablation.build_sweep("depth", root=tmp_path).cells
    }


STRANGE = {  # what is wrong with a study from outside → what it is given
    "The package has a study 'depth'": {"name": "depth"},
    "letters, digits, '_' and '-', not 'a/b'": {"name": "a/b"},
    "give it two or more": {"arms": {"a": {}}},
    "has no arm 30, which `only` names; it has 20, 40": {"only": {"nano": ("20", "30")}},
    "has no baseline": {"arms": {"a": {"steps": 4}, "b": {"steps": 5}}},
    "cannot change 'step'": {"arms": {"a": {}, "b": {"step": 5}}},
    "steps is a whole number from 1": {"arms": {"a": {}, "b": {"steps": 0}}},
    "There is no preset 'mega'": {"presets": ("mega",)},
    "a setting with a number, such as steps or connector.depth, not 'depth'": {"amount": "depth"},
    "steps or connector.depth, not 'encoder'": {"amount": "encoder"},
}
PLAIN = Study(
    "warm", "Warm-up", "Does a longer warm-up help?", {"20": {}, "40": {"warmup": 40}}, "All."
)


@pytest.mark.parametrize("words", STRANGE)
def test_a_study_from_outside_that_cannot_be_run_is_refused(words: str):
    with pytest.raises(ValueError) as fault:
        register_study(replace(PLAIN, **STRANGE[words]))
    assert words in str(fault.value) and "warm" not in STUDIES


def test_a_study_from_outside_is_run_and_drawn_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(STUDIES, "warm", PLAIN)  # and taken out again at the end
    assert register_study(PLAIN) is get_study("warm")
    how = {"folder": tmp_path / "page", "root": tmp_path / "data", "progress": no_progress}
    found = run_ablation(["warm"], seeds=(0, 1, 2), **how)
    assert found["warm"][0].startswith("Rung 3 against 20, over 3 seeds")
    page = (tmp_path / "page" / "README.md").read_text()
    assert "## Warm-up" in page and 'Again: `run_ablation(["warm"], "nano", (0, 1, 2))`' in page
    assert (tmp_path / "page" / "nano" / "warm.png").exists()
    mine = replace(presets.nano(), name="mine", steps=9)
    run_ablation(["depth"], mine, (0,), **how)
    assert "](mine/depth.png)" in (tmp_path / "page" / "README.md").read_text()


# ---- the page ----


def test_only_what_the_page_that_ships_has_goes_there_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DESTA_LAB_DATA", str(tmp_path / "data"))
    monkeypatch.setitem(STUDIES, "warm", PLAIN)
    own, mine = tmp_path / "figures" / "ablations-own", replace(presets.nano(), name="mine")
    assert ablation.page_folder(["depth", "clips"]) == ablation.SHIPPED
    for other in (["depth"], "nano", (0,)), (["depth"], mine), (["depth", "warm"],):
        assert ablation.page_folder(*other) == own
    how = {"root": tmp_path / "data", "progress": no_progress}
    run_ablation(["warm"], **how)
    assert (own / "README.md").exists() and len(ablation.load_table("warm"))


def test_what_failed_is_run_again_in_python_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fails(cell: Cell, root: Path) -> dict:
        raise ValueError("The disk is full.")

    how = {"folder": tmp_path / "page", "root": tmp_path / "data", "progress": no_progress}
    monkeypatch.setattr(sweep, "train_and_score", fails)
    assert not run_ablation(["depth"], seeds=(0, 1, 2), **how)
    monkeypatch.setattr(sweep, "train_and_score", stand_in)
    assert not run_ablation(["depth"], seeds=(0, 1, 2), **how)
    assert run_ablation(["depth"], seeds=(0, 1, 2), retry=True, **how)["depth"]


def test_the_page_is_that_of_its_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DESTA_LAB_DATA", str(tmp_path / "data"))
    folder = tmp_path / "ablations"
    command = [
        "ablate",
        "targets",
        "clips",
        "--jobs",
        "1",
        "--seeds",
        "0,1,2",
        "--out",
        str(folder),
    ]
    assert cli.main(command) == 0
    other = tmp_path / "mine" / "README.md"
    other.parent.mkdir()
    other.write_text("# Mine")
    assert cli.main([*command[:-1], str(other.parent)]) == 1
    assert other.read_text() == "# Mine" and not (other.parent / "nano").exists()
    page = (folder / "README.md").read_text()
    for study in (STUDIES["targets"], STUDIES["clips"]):
        assert (
            study.question in page and study.limits in page and f"(nano/{study.name}.png)" in page
        )
        for sentence in findings.state_findings(
            study, ablation.load_table(study.name, folder=folder)
        ):
            assert f"- {sentence}\n" in page
    assert (
        "python -m desta_lab ablate depth" in page.split("## Not run yet")[1]
        and "**Target kind**" not in page
    )
    assert render_page(folder) == page
    kept = folder / "nano" / "targets.csv"
    table = ablation.load_table("targets", folder=folder)
    table.loc[table["arm"] == "label", "score"] += 0.5
    table.to_csv(kept, index=False)
    assert "label -0.5" in page and "label -0.5" not in render_page(folder)


def test_the_page_says_how_far_rounding_moves_a_cell(tmp_path: Path):
    run(["rounding"], tmp_path)
    kept = tmp_path / "ablations" / "nano" / "rounding.csv"
    assert "by 0.00 at the median of 3 seeds and 0.00 at most" in render_page(
        tmp_path / "ablations"
    )
    table = ablation.load_table("rounding", folder=tmp_path / "ablations")
    moved = (table["arm"] == "fused") & (table["rung"] == 3)
    table.loc[moved, "score"] += table.loc[moved, "seed"].map({0: -0.3, 1: 0.1, 2: 0.0})
    table.to_csv(kept, index=False)
    assert "by 0.10 at the median of 3 seeds and 0.30 at most" in render_page(
        tmp_path / "ablations"
    )


def test_the_page_that_ships_is_that_of_the_tables_that_ship():
    page = (ablation.SHIPPED / "README.md").read_bytes()
    assert page == render_page().encode(), (
        "draw it again: `from desta_lab.experiments.ablation_page import write_page; write_page()`"
    )
    assert list(ablation.SHIPPED.glob("nano/*.csv"))


def test_the_tables_that_ship_name_the_cells_of_their_version(tmp_path: Path, monkeypatch):
    now = cache.VERSIONS["cells"]
    for path in ablation.SHIPPED.glob("*/*.csv"):
        # of cpu and of forgetting on nano every clip weighed alike in calibration (LOG)
        older = path.parent.name == "cpu" or path.parts[-2:] == ("nano", "forgetting.csv")
        monkeypatch.setitem(cache.VERSIONS, "cells", 2 if older else now)
        table = pd.read_csv(path, dtype={"cell": str, "arm": str})
        seeds = table["seed"].unique().tolist()
        sweep = ablation.build_sweep(path.stem, path.parent.name, seeds, root=tmp_path)
        names = [(name["arm"], name["seed"]) for name in sweep.names]
        keys = dict(zip(names, [cell.key for cell in sweep.cells], strict=True))
        shipped = table.drop_duplicates("cell").set_index(["arm", "seed"])["cell"].to_dict()
        assert shipped.items() <= keys.items(), path
