"""The cards of a class in one table: guesses, how well the ranges held, exercises solved."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from desta_lab import cache
from desta_lab.course.lesson import SURE
from desta_lab.views import saving, style

GUESS_COLUMNS = ("name", "question", "low", "high", "default", "measured")


def read_cards(folder: Path) -> pd.DataFrame:
    """Every prediction and every exercise of the cards under a folder, one row each.

    Columns: student, notebook, kind (prediction or exercise), name, question, low, high, default,
    measured, held (1 where the range held the answer or the exercise was solved).

    Raises:
        ValueError: there is no card, or a file is not one; the message names it.
    """
    rows: list[dict[str, Any]] = []
    for path in sorted(set(folder.rglob("*.json")) - set((folder / "class").glob("*"))):
        try:
            card = json.loads(path.read_text(encoding="utf-8"))
            who = {"student": str(card["student"]), "notebook": str(card["notebook"])}
            rows += [{**who, "file": path.name, **row} for row in _card_rows(card)]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path}: no card of a lesson ({type(error).__name__}: {error}); take it out of "
                "the folder, or ask for the file that lesson.card() wrote."
            ) from error
    if not rows:
        raise ValueError(f"{folder}: no card here; put the students' card-NN.json files into it.")
    return pd.DataFrame(rows)


def _card_rows(card: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for guess in card["predictions"]:
        if guess["measured"] is not None:
            values = {column: guess[column] for column in GUESS_COLUMNS}
            yield {"kind": "prediction", **values, "held": float(guess["inside"])}
    for name, state in card["exercises"].items():
        yield {"kind": "exercise", "name": name, "held": float(state == "passed")}


def summarise_class(table: pd.DataFrame) -> pd.DataFrame:
    """Per notebook: students, share of own ranges that held the answer, of exercises solved."""
    rows = []
    for notebook, part in table.groupby("notebook"):
        own = part[(part["kind"] == "prediction") & ~part["default"].fillna(False).astype(bool)]
        row = {
            "notebook": notebook,
            "students": part["student"].nunique(),
            "ranges": len(own),
            "held the answer": own["held"].mean(),
            "well calibrated": SURE,
            "exercises solved": part.loc[part["kind"] == "exercise", "held"].mean(),
        }
        rows.append(row)
    return pd.DataFrame(rows).round(2)


def write_report(table: pd.DataFrame, folder: Path) -> Path:
    """Write `class.csv` and a plot of every guess into `class/`; returns that folder."""
    out = folder / "class"
    guesses = table[table["kind"] == "prediction"]
    own = guesses.loc[~guesses["default"].astype(bool), "held"]
    held = f"{own.mean():.0%} of {len(own)} ranges held the answer"
    headline = f"{held}; {SURE:.0%} would be well calibrated"
    questions = list(guesses.groupby(["notebook", "name"], sort=False))
    height = max(1, len(questions))
    picture, grid = style.subplots(height, 1, headline, (7.0, 1 + 1.3 * height), squeeze=False)
    for axes, ((notebook, _), rows) in zip(grid[:, 0], questions, strict=False):
        _draw_guesses(axes, rows)
        axes.set_title(f"{notebook} · {rows['question'].iloc[0]}", fontsize=9, loc="left")
    legend = "range guessed (dotted: missed; grey: left at the default); dashed: what was measured"
    picture.supxlabel(legend, fontsize=8)
    saving.save_figure(picture, out, "guesses", guesses.drop(columns="file"))
    cache.write_whole(out / "class.csv", table.to_csv(index=False).encode())
    return out


def _draw_guesses(axes: Any, rows: pd.DataFrame) -> None:
    """One line a student, from the low to the high end of the range, and what was measured."""
    for i, guess in enumerate(rows.to_dict("records")):
        colour = style.PALETTE["silence" if guess["default"] else "audio"]
        line = "-" if guess["held"] else ":"
        axes.plot([guess["low"], guess["high"]], [i, i], color=colour, lw=3, ls=line)
    axes.axvline(rows["measured"].mean(), color=style.PALETTE["oracle"], ls="--", lw=1)
    axes.set(yticks=[], ylabel=f"{len(rows)} students")
