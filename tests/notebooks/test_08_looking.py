"""Notebook 08: ways to say where an answer came from, beside a flat profile and the scene's own
window.
"""

import pytest

pytestmark = pytest.mark.weights


@pytest.fixture(scope="module")
def table(ran):
    return ran.table.set_index("method")


def test_a_flat_profile_gains_nothing_and_the_window_itself_most(table) -> None:
    assert table.loc["a flat profile", ["gain", "fall"]].abs().max() < 1e-9
    assert table.loc["the window itself", "gain_low"] > 0
    assert table["gain"].idxmax() == "the window itself"


def test_shapley_values_of_windows_find_the_scene(table) -> None:
    assert table.loc["shapley, windows", "gain_low"] > 0
    assert (
        table.loc["shapley, windows", "fall_low"] > 0
    )  # it is made from such deletions: a check that it is right


def test_mean_attention_is_not_shown_to_find_the_scene(table) -> None:
    for name in (
        "query attention",
        "answer attention",
        "answer rollout",
        "query attention, untrained",
    ):
        assert table.loc[name, "gain_low"] < 0.01, name
        assert table.loc[name, "gain"] < table.loc["shapley, windows", "gain"], name


def test_the_untrained_attention_points_at_nothing_that_the_answer_uses(table) -> None:
    row = table.loc["query attention, untrained"]
    assert row["fall_low"] < 0  # silencing it does not hurt more than a random quarter


def test_both_guesses_are_answered_from_the_table(ran, table) -> None:
    told, gain = ran.measured, table["gain"]
    assert told["attention"] == pytest.approx(gain["query attention"], abs=1e-6)
    assert told["shapley"] == pytest.approx(gain["shapley, windows"], abs=1e-6)


def test_the_student_sees_the_panel_as_a_still(ran) -> None:
    outputs = [out for cell in ran.notebook.cells for out in cell.get("outputs", [])]
    assert any("still" in str(out.get("data", {}).get("text/html", "")) for out in outputs)
