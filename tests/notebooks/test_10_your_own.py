"""Notebook 10: an ablation with a row per seed, recordings from a folder, and controls beside
both.
"""

import pytest

from desta_lab.course import notebooks

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


def test_two_seeds_are_said_to_show_nothing_unless_their_interval_does(ran) -> None:
    card = (ran.figures / "course" / "ablation" / "card.json").read_text()
    assert '"NOT SHOWN"' in card or '"SHOWN"' in card
    effect = ran.measured["effect"]
    assert f"{effect:+.2f} [" in ran.printed and f"{effect:+.2f} [" in card


def test_a_bad_row_is_refused_with_its_file_and_line(ran) -> None:
    assert "bad.csv, line 4" in ran.printed


def test_the_measured_table_of_people_is_a_picture_before_the_students_own_folder() -> None:
    (source,) = notebooks.find_sources(["10"])
    text = source.read_text()
    assert text.index("people_last.csv") < text.index("**Never tested:**") < text.index("FOLDER =")
