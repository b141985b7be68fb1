"""A class's cards become one table and one plot; a file that is no card is named."""

import json
from pathlib import Path

import pandas as pd
import pytest

from desta_lab import cli
from desta_lab.course import cohort


def card(
    student: str, low: float, high: float, *, default: bool = False, notebook: str = "05"
) -> dict:
    guess = {
        "name": "risen",
        "question": "How many?",
        "low": low,
        "high": high,
        "default": default,
        "measured": 6.0,
        "inside": low <= 6 <= high,
    }
    return {
        "notebook": notebook,
        "student": student,
        "predictions": [guess, {**guess, "measured": None}],
        "exercises": {"above_chance": "passed" if high == 6 else "wrong"},
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    cards = [
        card("Ada", 5, 6),
        card("Ben", 1, 2),
        card("Cy", 2, 4, default=True),
        card("Ada", 5, 6, notebook="06"),
    ]
    for i, one in enumerate(cards):
        (tmp_path / f"{i}").mkdir()
        (tmp_path / f"{i}" / f"card-{one['notebook']}.json").write_text(json.dumps(one))
    return tmp_path


def test_cards_become_one_row_a_prediction_and_an_exercise(folder: Path) -> None:
    table = cohort.read_cards(folder)
    assert len(table) == 8 and set(table["kind"]) == {"prediction", "exercise"}
    digest = cohort.summarise_class(table).set_index("notebook")
    assert digest.loc["05", "students"] == 3 and digest.loc["05", "ranges"] == 2
    assert table["question"].dropna().unique() == ["How many?"]
    assert (
        digest.loc["05", "held the answer"] == 0.5 and digest.loc["05", "exercises solved"] == 0.33
    )


def test_the_command_writes_a_table_and_a_plot_and_can_be_run_again(folder: Path, capsys) -> None:
    for _ in range(2):
        assert cli.main(["class", str(folder)]) == 0
    assert "held the answer" in capsys.readouterr().out
    assert (folder / "class" / "guesses.png").exists() and len(
        pd.read_csv(folder / "class" / "class.csv")
    ) == 8


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"notebook": "05"}', '{"notebook": 2, "student": 1, "predictions": 3}']
)
def test_a_file_that_is_no_card_is_named(folder: Path, content: str, capsys) -> None:
    (folder / "notes.json").write_text(content)
    assert cli.main(["class", str(folder)]) == 1
    said = capsys.readouterr().err
    assert "notes.json" in said and "lesson.card()" in said


def test_an_empty_folder_says_what_to_put_there(tmp_path: Path, capsys) -> None:
    assert cli.main(["class", str(tmp_path)]) == 1
    assert "card-NN.json" in capsys.readouterr().err
