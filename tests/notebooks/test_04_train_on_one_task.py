"""Notebook 04 trains for a minute: the right pairs rise on what was never trained, the wrong pairs
do not.
"""

import pandas as pd
import pytest

pytestmark = pytest.mark.weights


def scores(table: pd.DataFrame, rung: int) -> pd.DataFrame:
    """The dots of one rung by their names."""
    return table[table["rung"] == rung].set_index("name")


@pytest.mark.parametrize("rung", [0, 3])
def test_right_pairs_rise_above_every_control(ran, rung: int) -> None:
    dots = scores(ran.table, rung)
    controls = ["untrained connector", "silence, soft", "shuffled audio, soft", "wrong targets"]
    assert (
        dots.loc[["soft targets", "hard targets"], "low"].min() > dots.loc[controls, "high"].max()
    )


@pytest.mark.parametrize("rung", [0, 3])
def test_wrong_pairs_teach_nothing_about_the_clip(ran, rung: int) -> None:
    wrong = scores(ran.table, rung).loc["wrong targets"]
    assert wrong["low"] < 0.1 and abs(wrong["score"]) < 0.15


def test_the_finished_run_and_the_oracle_stand_above_the_short_runs(ran) -> None:
    dots = scores(ran.table, 3)
    finished = next(name for name in dots.index if name.startswith("finished run"))
    assert (
        dots.loc["soft targets", "high"]
        < dots.loc[finished, "low"]
        <= dots.loc["text oracle", "score"]
        == 1
    )


def test_the_loss_falls_more_where_targets_belong_to_their_clips(ran) -> None:
    table = ran.table
    losses = table[table["name"] == "loss"].groupby("run")["loss"]
    fall = 1 - losses.apply(lambda loss: loss.iloc[-10:].mean()) / losses.apply(
        lambda loss: loss.iloc[:10].mean()
    )
    assert fall[["soft", "hard"]].min() > 0.2 > fall["mispaired"]


def test_the_loop_by_hand_is_the_packages_and_only_the_connector_moves(ran) -> None:
    said = ran.printed.split("by hand: [")[1].splitlines()[0]
    by_hand, package = (
        text.strip(" []").replace(",", " ").split() for text in said.split("]   package: ")
    )
    assert [float(a) for a in by_hand] == pytest.approx([float(b) for b in package], rel=0.01)
    assert "'connector': 'moved'" in ran.printed and ran.printed.count("the same, bit for bit") == 2


def test_a_killed_run_ends_in_the_same_weights(ran) -> None:
    said = ran.printed
    equal, of = (
        said.split("killed after step 3")[1]
        .split(" tensors equal")[0]
        .splitlines()[-1]
        .split(" of ")
    )
    assert int(equal) == int(of) > 0
