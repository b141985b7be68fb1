"""Notebook 10: an ablation with a row per seed, recordings from a folder, and controls beside
both.
"""

import pytest

pytestmark = pytest.mark.weights
CONTROLS = {"untrained", "shuffled", "silence", "oracle"}


@pytest.fixture(scope="module")
def table(ran):
    rows = ran.table
    assert ((rows["low"] <= rows["score"]) & (rows["score"] <= rows["high"])).all()
    return rows


def test_every_run_of_the_ablation_has_a_row_with_its_controls(table) -> None:
    runs = table[table["panel"] == "ablation"].groupby("row")["series"].agg(set)
    assert len(runs) == 4 and all(series == CONTROLS | {"self"} for series in runs)
    assert runs.index.str.endswith("seed 0").sum() == runs.index.str.endswith("seed 1").sum() == 2


def test_forty_steps_teach_something_that_silence_and_another_clip_do_not_have(table) -> None:
    scores = table[table["panel"] == "ablation"].pivot(
        index="row", columns="series", values="score"
    )
    assert (scores["self"] > scores[["shuffled", "silence"]].max(axis=1) + 0.1).all()
    assert (scores["oracle"] > scores["self"]).all()


def test_the_finished_run_hears_the_stand_in_and_a_telephone_costs_it_something(table) -> None:
    every = table[(table["panel"] == "recordings") & (table["row"] == "all of them")].set_index(
        "series"
    )
    assert set(every.index) == CONTROLS | {"studio", "telephone"}
    assert (
        every.loc["studio", "low"] > every.loc[["untrained", "shuffled", "silence"], "high"].max()
    )
    assert every.loc["studio", "score"] > every.loc["telephone", "score"]


def test_what_a_folder_alone_taught_stands_beside_every_control(table, ran) -> None:
    rows = table[table["panel"] == "folder"].pivot(index="row", columns="series", values="score")
    assert set(rows.index) == {"gender", "manner", "scene", "all of them"} and set(
        rows.columns
    ) == CONTROLS | {"self"}
    assert not rows.isna().any(axis=None) and (rows["oracle"] > 0.8).all()
    assert rows.loc["all of them", "self"] > rows.loc["all of them", ["shuffled", "silence"]].max()
    assert f"{ran.measured['folder']:.2f}" == f"{rows.loc['all of them', 'self']:.2f}"


def test_the_targets_of_the_folder_were_read_off_its_table(ran) -> None:
    assert "In the background there is" in ran.printed and "clear of every control" in ran.printed


def test_two_seeds_are_said_to_show_nothing_unless_their_interval_does(ran) -> None:
    card = (ran.figures / "course" / "ablation" / "card.json").read_text()
    assert '"NOT SHOWN"' in card or '"SHOWN"' in card
    effect = ran.measured["effect"]
    assert f"{effect:+.2f} [" in ran.printed and f"{effect:+.2f} [" in card


def test_a_bad_row_is_refused_with_its_file_and_line(ran) -> None:
    assert "bad.csv, line 4" in ran.printed
