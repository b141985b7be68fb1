"""A class's cards, merged: who guessed what, how well the ranges held, which exercises were solved."""

import json
from pathlib import Path

import pandas as pd

from desta_lab import cache
from desta_lab.course.lesson import SURE
from desta_lab.views import saving, style


def gather(folder: Path) -> pd.DataFrame:
    """Every prediction and every exercise of the cards under a folder, one row each.

    Columns: student, notebook, kind (prediction or exercise), name, question, low, high, default, measured, held (1
    where the range held the answer or the exercise was solved).

    Raises:
        ValueError: there is no card, or a file is not one; the message names it.
    """
    rows = []
    for path in sorted(set(folder.rglob("*.json")) - set((folder / "class").glob("*"))):
        try:
            card = json.loads(path.read_text(encoding="utf-8"))
            who = {
                "student": str(card["student"]),
                "notebook": str(card["notebook"]),
                "file": path.name,
            }
            for guess in card["predictions"]:
                if guess["measured"] is not None:
                    told = {
                        key: guess[key]
                        for key in ("name", "question", "low", "high", "default", "measured")
                    }
                    rows.append(
                        {**who, "kind": "prediction", **told, "held": float(guess["inside"])}
                    )
            for name, state in card["exercises"].items():
                rows.append(
                    {**who, "kind": "exercise", "name": name, "held": float(state == "passed")}
                )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path}: no card of a lesson ({type(error).__name__}: {error}); take it out of the folder, or ask for "
                "the file that lesson.card() wrote."
            ) from error
    if not rows:
        raise ValueError(f"{folder}: no card here; put the students' card-NN.json files into it.")
    return pd.DataFrame(rows)


def digest(table: pd.DataFrame) -> pd.DataFrame:
    """Per notebook: students, share of own ranges that held the answer, share of exercises solved."""
    rows = []
    for notebook, some in table.groupby("notebook"):
        own = some[(some["kind"] == "prediction") & ~some["default"].fillna(False).astype(bool)]
        rows.append(
            {
                "notebook": notebook,
                "students": some["student"].nunique(),
                "ranges": len(own),
                "held the answer": own["held"].mean(),
                "well calibrated": SURE,
                "exercises solved": some.loc[some["kind"] == "exercise", "held"].mean(),
            }
        )
    return pd.DataFrame(rows).round(2)


def report(table: pd.DataFrame, folder: Path) -> Path:
    """Write `class.csv` and a plot of every guess beside what was measured into `class/`; returns that folder."""
    out = folder / "class"
    guesses = table[table["kind"] == "prediction"]
    own = guesses.loc[~guesses["default"].astype(bool), "held"]
    names = list(dict.fromkeys(zip(guesses["notebook"], guesses["name"], strict=True)))
    headline = f"{own.mean():.0%} of {len(own)} ranges held the answer; {SURE:.0%} would be well calibrated"
    rows = max(1, len(names))
    picture, grid = style.subplots(rows, 1, headline, (7.0, 1 + 1.3 * rows), squeeze=False)
    for axes, (notebook, name) in zip(grid[:, 0], names, strict=False):
        some = guesses[(guesses["notebook"] == notebook) & (guesses["name"] == name)].reset_index(
            drop=True
        )
        for i, guess in some.iterrows():
            colour = style.PALETTE["silence" if guess["default"] else "audio"]
            axes.plot(
                [guess["low"], guess["high"]],
                [i, i],
                color=colour,
                lw=3,
                ls="-" if guess["held"] else ":",
            )
        axes.axvline(some["measured"].mean(), color=style.PALETTE["oracle"], ls="--", lw=1)
        axes.set(yticks=[], ylabel=f"{len(some)} students")
        axes.set_title(f"{notebook} · {some['question'].iloc[0]}", fontsize=9, loc="left")
    picture.supxlabel(
        "range guessed (dotted: missed; grey: left at the default) and what was measured (dashed)",
        fontsize=8,
    )
    saving.save_figure(picture, out, "guesses", guesses.drop(columns="file"))
    cache.write_whole(out / "class.csv", table.to_csv(index=False).encode())
    return out
