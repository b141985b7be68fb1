"""A class's cards become one table and one plot; a file that is no card is named."""

import json
import os
from pathlib import Path

import pandas as pd
import pytest

from desta_lab import cli
from desta_lab.course import cohort

HOMES = {"05": "crossing", "06": "erase", "07": "principal_map"}  # notebook → an exercise of it


def card(
    student: str, low: float, high: float, *, default: bool = False, notebook: str = "05"
) -> dict:
    guess = {
        "name": "risen",
        "question": "How many?",
        "low": low,
        "high": high,
        "least": 0.0,
        "most": 6.0,
        "default": default,
        "measured": 6.0,
        "inside": low <= 6 <= high,
    }
    return {
        "notebook": notebook,
        "student": student,
        "preset": "nano",
        "predictions": [guess, {**guess, "measured": None}],
        "exercises": {HOMES.get(notebook, "crossing"): "passed" if high == 6 else "wrong"},
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
    table, left_out = cohort.read_cards(folder)
    assert not left_out and len(table) == 8 and set(table["kind"]) == {"prediction", "exercise"}
    digest = cohort.summarise_class(table).set_index("notebook")
    assert digest.loc["05", "students"] == 3 and digest.loc["05", "ranges"] == 2
    assert table["question"].dropna().unique() == ["How many?"]
    assert (
        digest.loc["05", "held the answer"] == 0.5 and digest.loc["05", "exercises solved"] == 0.33
    )


def test_the_command_writes_a_table_and_a_plot_and_can_be_run_again(folder: Path, capsys) -> None:
    (folder / "notes.json").write_text("null")
    for _ in range(2):
        assert cli.main(["class", str(folder)]) == 0
    said = capsys.readouterr()
    assert "held the answer" in said.out and "left out: " in said.err
    assert (folder / "class" / "guesses.png").exists() and len(
        pd.read_csv(folder / "class" / "class.csv")
    ) == 8


def changed(**guess: object) -> str:
    """A card whose guess has other values."""
    one = card("Eve", 5, 6)
    one["predictions"][0] |= guess
    return json.dumps(one)


BAD = {
    "torn": "{",
    "a list": "[]",
    "null": "null",
    "a page": "<html><script>alert(1)</script></html>",
    "without a student": '{"notebook": "05"}',
    "of wrong types": '{"notebook": 2, "student": 1, "predictions": 3}',
    "nested": "[" * 100_000,
    "of two students": '{"student": "Eve", ' + json.dumps(card("Eli", 5, 6))[1:],
    "of Ada again, with a blank": json.dumps(card("Ada ", 5, 6)),
    "not a number": changed(measured=float("nan")),
    "endless": changed(high=float("inf")),
    "huge": changed(low=-(10**400)),
    "a text for a number": changed(low="5"),
    "upside down": changed(low=6, high=5),
    "a yes that is a text": changed(default="no"),
    "a novel": changed(question="How many?" * 100),
    "off the slider": changed(high=7),
    "a slider of no width": changed(low=0, high=0, most=0),
    "no slider": changed(most=None),
    "HTML for a question": changed(question="<img src=x onerror=alert(1)>"),
    "HTML for a name": json.dumps(card("<b>Eve</b>", 5, 6)),
    "a student without a name": json.dumps(card(" \u200b", 5, 6)),
    "a student that is a number": json.dumps(card("Eve", 5, 6) | {"student": 7}),
    "no notebook": json.dumps(card("Eve", 5, 6, notebook="all")),
    "a notebook that there is not": json.dumps(card("Eve", 5, 6, notebook="77")),
    "an exercise of another notebook": json.dumps(
        card("Eve", 5, 6) | {"exercises": {"above_chance": "passed"}}
    ),
    "a list of exercises": json.dumps(card("Eve", 5, 6) | {"exercises": ["above"]}),
    "one guess twice": json.dumps(
        card("Eve", 5, 6) | {"predictions": card("Eve", 5, 6)["predictions"][:1] * 2}
    ),
    "many guesses": json.dumps(card("Eve", 5, 6) | {"predictions": [{}] * 500}),
    "nothing in it": json.dumps(card("Eve", 5, 6) | {"predictions": [], "exercises": {}}),
    "an exercise of its own": json.dumps(card("Eve", 5, 6) | {"exercises": {"mine": "passed"}}),
    "a state of its own": json.dumps(card("Eve", 5, 6) | {"exercises": {"above": ["passed"]}}),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_file_that_is_no_card_is_named_and_left_out(folder: Path, kind: str) -> None:
    (folder / "notes.json").write_text(BAD[kind])
    table, (sentence,) = cohort.read_cards(folder)
    assert "notes.json: no card of a lesson" in sentence
    assert len(table) == 8 and "Eve" not in set(table["student"])


def test_a_guess_on_a_slider_of_its_own_is_named_and_left_out(folder: Path) -> None:
    one = json.loads(changed(least=-1e9, most=1e9))
    (folder / "notes.json").write_text(json.dumps(one))
    table, (sentence,) = cohort.read_cards(folder)
    assert "notes.json of Eve: no guess risen" in sentence
    assert set(table.loc[table["student"] == "Eve", "kind"]) == {"exercise"}
    (folder / "notes.json").write_text(json.dumps(one | {"preset": "t4"}))  # which has its own
    assert not cohort.read_cards(folder)[1]


def test_a_range_that_nobody_set_scores_as_the_whole_slider(folder: Path) -> None:
    table, _ = cohort.read_cards(folder)
    scores = table[table["kind"] == "prediction"].set_index(["student", "notebook"])["score"]
    assert scores["Ada", "05"] == pytest.approx(1 / 6) and scores["Cy", "05"] == 1
    assert scores["Ben", "05"] == pytest.approx((1 + 10 * 4) / 6)


def test_what_is_no_plain_small_text_is_left_out(folder: Path) -> None:
    os.mkfifo(folder / "pipe.json")
    (folder / "utf16.json").write_text(json.dumps(card("Eve", 5, 6)), encoding="utf-16")
    with (folder / "large.json").open("wb") as file:
        file.truncate(200_000_000)
    table, left_out = cohort.read_cards(folder)
    assert len(table) == 8 and len(left_out) == 3
    assert "200000000 bytes" in left_out[0] and "not a plain file" in left_out[1]


def test_a_second_card_of_a_student_is_left_out_but_the_anonymous_are_many(folder: Path) -> None:
    for name, student in (("x", "Ada"), ("y", "anonymous"), ("z", "anonymous")):
        (folder / f"{name}.json").write_text(json.dumps(card(student, 1, 2)))
    table, left_out = cohort.read_cards(folder)
    assert len(left_out) == 1 and "Ada has a card of 05 already" in left_out[0]
    (folder / "x.json").write_text(json.dumps(card(" ADA\u200b ", 1, 2)))
    _, left_out = cohort.read_cards(folder)
    assert len(left_out) == 1 and "ADA has a card of 05 already" in left_out[0]
    assert cohort.summarise_class(table).set_index("notebook").loc["05", "students"] == 5


def test_no_text_of_a_card_is_a_formula_or_mathematics(folder: Path) -> None:
    for i, sign in enumerate("=+-@\t"):
        one = card(f"{sign}1+1", 5, 6, notebook="07")
        one["predictions"][0]["question"] = "=a$\\frac{b$?"
        (folder / f"{sign.strip()}{i}.json").write_text(json.dumps(one))
    table, left_out = cohort.read_cards(folder)
    assert not left_out
    written = cohort.write_report(table, folder)
    for name in ("class.csv", "guesses.csv"):
        texts = pd.read_csv(written / name, keep_default_na=False).astype(str)
        columns = texts[["student", "notebook", "name", "question"]]
        assert not columns.map(lambda text: text.startswith(tuple("=+-@\t\r"))).to_numpy().any()


def test_a_class_that_only_did_exercises_has_a_table(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(card("Ada", 5, 6) | {"predictions": []}))
    assert cli.main(["class", str(tmp_path)]) == 0
    assert len(pd.read_csv(tmp_path / "class" / "class.csv")) == 1


def test_an_empty_folder_says_what_to_put_there(tmp_path: Path, capsys) -> None:
    assert cli.main(["class", str(tmp_path)]) == 1
    assert "card-NN.json" in capsys.readouterr().err
