"""The cards of a class in one table: guesses, how well the ranges held, exercises solved."""

import json
import re
import textwrap
import unicodedata
from collections import Counter
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from desta_lab import cache
from desta_lab.clips import unique_keys
from desta_lab.course.checks import SIGNS, load_checks
from desta_lab.course.lesson import SURE, score_interval
from desta_lab.views import saving, style

_Kind = TypeVar("_Kind")
COLUMNS = ["student", "notebook", "preset", "file", "kind", "name", "question"]
COLUMNS += ["low", "high", "least", "most", "default", "measured", "held", "score"]
_GUESS = itemgetter("notebook", "preset", "name")  # of a row: which guess it is
_ASKED = itemgetter("question", "least", "most")
_MOST_BYTES = 1_000_000  # of a card
_MOST_ENTRIES = 50  # predictions, or exercises, of a card
_MOST_SIGNS = 300  # of a text
_LARGEST = 1e9  # a number that an axis still draws
_MOST_PANELS = 60  # questions in the plot
_MARKUP = re.compile(r"<\s*[A-Za-z/!?]|&#?\w+;")  # what a page would not show as text
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # with these a spreadsheet begins to compute


def read_cards(folder: Path) -> tuple[pd.DataFrame, list[str]]:
    """Every prediction and every exercise of the cards under a folder, and what was left out.

    Columns: student, notebook, preset, file, kind (prediction or exercise), name, question, low,
    high, least and most (the slider's ends), default (nobody set the range), measured, held (1
    where the range held the answer or the exercise was solved), score (the interval score; 1 for a
    default).
    A file that is no card, a second card of a student for a notebook, and a guess with another
    question or slider than most cards have, are left out with a sentence.

    Raises:
        ValueError: there is no card; the message holds what was left out.
    """
    rows: list[dict[str, Any]] = []
    left_out: list[str] = []
    seen: dict[tuple[str, str], Path] = {}
    for path in sorted(set(folder.rglob("*.json")) - set((folder / "class").glob("*"))):
        try:
            card = _read_card(path)
            student, notebook = clean_text(card["student"]), clean_text(card["notebook"])
            if notebook not in set(_list_homes().values()):
                raise ValueError(f"{notebook!r} is no notebook's number")
            preset, file = clean_text(card["preset"]), clean_text(path.name)
            who = unicodedata.normalize("NFKC", student).casefold()  # capitals do not count
            if who == "anonymous":
                who = student = clean_text(f"anonymous, {path.relative_to(folder).as_posix()}")
            found = [
                *_list_guesses(card["predictions"]),
                *_list_exercises(card["exercises"], notebook),
            ]
            if not found:
                raise ValueError("it has no guess with its answer, and no exercise that was tried")
            first = seen.setdefault((who, notebook), path)
            if first != path:
                raise ValueError(f"{student} has a card of {notebook} already, {first.name}")
        except KeyError as error:
            left_out.append(f"{path}: no card of a lesson (it lacks {error}).")
        except (ValueError, OSError, RecursionError) as error:
            left_out.append(f"{path}: no card of a lesson ({error}).")
        else:
            one = {"student": student, "notebook": notebook, "preset": preset, "file": file}
            rows += [one | row for row in found]
    rows, other = _keep_common(rows)
    left_out += other
    if not rows:
        why = " ".join(left_out)
        raise ValueError(
            f"{folder}: no card here; put the card-NN.json files that lesson.card() wrote into it. "
            f"{why}".strip()
        )
    return pd.DataFrame(rows, columns=COLUMNS), left_out


def _keep_common(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows without guesses whose question or slider most cards do not have, and what was not.

    Cards are compared with those of the same notebook and preset.
    """
    asked: dict[Any, Counter[Any]] = {}
    for row in rows:
        if row["kind"] == "prediction":
            asked.setdefault(_GUESS(row), Counter())[_ASKED(row)] += 1
    usual = {guess: counts.most_common(1)[0][0] for guess, counts in asked.items()}
    kept, left_out = [], []
    for row in rows:
        if row["kind"] == "prediction" and _ASKED(row) != usual[_GUESS(row)]:
            why = "most cards have another question or slider"
            left_out.append(f"{row['file']} of {row['student']}: no guess {row['name']} ({why}).")
        else:
            kept.append(row)
    return kept, left_out


def _read_card(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError("not a plain file")
    if (size := path.stat().st_size) > _MOST_BYTES:
        raise ValueError(f"{size} bytes; a card has at most {_MOST_BYTES}")
    card = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique_keys)
    return _expect(card, dict)


def _expect(value: Any, kind: type[_Kind]) -> _Kind:
    """A value of this type; a list or dict of few entries."""
    if not isinstance(value, kind):
        raise ValueError(f"{str(value)[:40]!r} is no {kind.__name__}")
    if isinstance(value, list | dict) and len(value) > _MOST_ENTRIES:
        raise ValueError(f"{len(value)} entries; at most {_MOST_ENTRIES} are read")
    return value


def clean_text(value: Any) -> str:
    """A text of one line, which no spreadsheet takes for a formula.

    Raises:
        ValueError: it is no text, holds HTML, or is empty or long.
    """
    text = unicodedata.normalize("NFC", _expect(value, str)).strip(" \u00a0")
    if not 0 < len(text) <= _MOST_SIGNS:
        raise ValueError(f"a text of {len(text)} signs; 1 to {_MOST_SIGNS} are read")
    if _MARKUP.search(text):
        raise ValueError(f"{text[:40]!r} holds HTML")
    if not (shown := join_lines(text)):
        raise ValueError("a text without a sign")
    return shown


def join_lines(text: str) -> str:
    """A text in one line of printable signs, which no spreadsheet takes for a formula."""
    shown = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    return f"'{shown}" if text.startswith(_FORMULA) or shown.startswith(_FORMULA) else shown


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST:
        raise ValueError(f"{str(value)[:40]!r} is no number up to {_LARGEST:g}")
    return float(value)


def _list_guesses(guesses: Any) -> Iterator[dict[str, Any]]:
    seen = set()
    for guess in _expect(guesses, list):
        if _expect(guess, dict)["measured"] is None:
            continue
        limits = ("low", "high", "measured", "least", "most")
        numbers = {name: _number(guess[name]) for name in limits}
        low, high, measured, least, most = numbers.values()
        if not (least <= low <= high <= most and least < most):
            raise ValueError(f"a range from {low:g} to {high:g} on {least:g} to {most:g}")
        texts = {name: clean_text(guess[name]) for name in ("name", "question")}
        if texts["name"] in seen:
            raise ValueError(f"{texts['name']} is guessed twice")
        seen.add(texts["name"])
        default = _expect(guess["default"], bool)
        score = 1.0 if default else score_interval(low, high, measured, least, most)
        marks = {"default": default, "held": float(low <= measured <= high), "score": score}
        yield {"kind": "prediction", **texts, **numbers, **marks}


def _list_homes() -> dict[str, str]:
    """Exercise → the number of its notebook, which its check's file has in its name."""
    return {name: check.judge.__module__[-2:] for name, check in load_checks().items()}


def _list_exercises(exercises: Any, notebook: str) -> Iterator[dict[str, Any]]:
    homes = _list_homes()
    for name, state in _expect(exercises, dict).items():
        if state not in [*SIGNS]:
            raise ValueError(f"{str(state)[:40]!r} is no state of an exercise")
        if name not in homes:
            raise ValueError(f"the course has no exercise {name[:40]!r}")
        if homes[name] != notebook:
            raise ValueError(f"{name} is an exercise of {homes[name]}, not of {notebook}")
        yield {"kind": "exercise", "name": clean_text(name), "held": float(state == "passed")}


def summarise_class(table: pd.DataFrame) -> pd.DataFrame:
    """Per notebook: students, how many ranges they set, how well these held, exercises solved.

    The interval score is the mean over all ranges; one that nobody set scores 1.
    """
    rows = []
    for notebook, part in table.groupby("notebook"):
        own = part[(part["kind"] == "prediction") & part["default"].eq(False)]
        row = {
            "notebook": notebook,
            "students": part["student"].nunique(),
            "ranges": len(own),
            "held the answer": own["held"].mean(),
            "well calibrated": SURE,
            "interval score": part["score"].mean(),
            "exercises solved": part.loc[part["kind"] == "exercise", "held"].mean(),
        }
        rows.append(row)
    return pd.DataFrame(rows).round(2)


def write_report(table: pd.DataFrame, folder: Path) -> Path:
    """Write `class.csv` and, where there are guesses, a plot of them into `class/`, its folder."""
    out = folder / "class"
    cache.write_whole(out / "class.csv", table.to_csv(index=False).encode())
    guesses = table[table["kind"] == "prediction"]
    if guesses.empty:
        return out
    own = guesses.loc[guesses["default"].eq(False), "held"]
    held = f"{own.mean():.0%} of {len(own)} ranges held the answer"
    headline = f"{held}; {SURE:.0%} would be well calibrated"
    questions = list(guesses.groupby(["notebook", "preset", "name"], sort=False))[:_MOST_PANELS]
    size = (7.0, 1 + 1.3 * len(questions))
    picture, grid = style.subplots(len(questions), 1, headline, size, squeeze=False)
    for axes, ((notebook, preset, _), rows) in zip(grid[:, 0], questions, strict=True):
        _draw_guesses(axes, rows)
        title = textwrap.shorten(
            f"{notebook} on {preset} · {rows['question'].iloc[0]}", 90, placeholder=" …"
        )
        axes.set_title(title, fontsize=9, loc="left")
    legend = "range guessed (dotted: missed; grey: left at the default); dashed: what was measured"
    picture.supxlabel(legend, fontsize=8)
    saving.save_figure(picture, out, "guesses", guesses.drop(columns="file"))
    return out


def _draw_guesses(axes: Any, rows: pd.DataFrame) -> None:
    """One line a student, from the low to the high end of the range, and what was measured."""
    for i, guess in enumerate(rows.to_dict("records")):
        colour = style.PALETTE["silence" if guess["default"] else "audio"]
        line = "-" if guess["held"] else ":"
        axes.plot([guess["low"], guess["high"]], [i, i], color=colour, lw=3, ls=line)
    axes.axvline(rows["measured"].median(), color=style.PALETTE["oracle"], ls="--", lw=1)
    slider = (rows["least"].iloc[0], rows["most"].iloc[0])
    axes.set(yticks=[], ylabel=f"{len(rows)} students", xlim=slider)
