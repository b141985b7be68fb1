"""The result card: a page that says whether the claim held, by which rule, with every control."""

import base64
import functools
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from desta_lab.audio import DataWarning
from desta_lab.cache import read_text, to_json, to_plain, write_whole
from desta_lab.evaluation.tasks import RUNGS

Rows = Sequence[Mapping[str, Any]]


def write_card(folder: Path | str, result: Mapping[str, Any]) -> Path:
    """Write `card.html` and `card.json` into a folder, each whole or not at all.

    Args:
        result: Any of: title, preset, claim, found, verdict and said {verdict, rule, reasons},
            rungs, tasks, people and seeds (tables: records or a DataFrame), targets {perplexity,
            coverage}, stages {name: seconds}, peak_memory_gb, versions, hashes, notes, figures
            [(path, alternative text)]. What is missing is left out of the page; other names go to
            the JSON alone.

    Returns:
        The path of the page.
    """
    page, data = render_card(result)
    write_whole(Path(folder) / "card.json", to_json(data))
    write_whole(Path(folder) / "card.html", page.encode())
    return Path(folder) / "card.html"


def render_card(result: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The page as one self-contained HTML string, and the same result as plain data."""
    figures = [(Path(path), text) for path, text in result.get("figures", [])]
    data = to_plain({**result, "figures": [(path.name, text) for path, text in figures]})
    shown = {
        **data,
        "title": _get_title(data),
        "rungs": _compare_runs(data.get("rungs") or []),
        "figures": [
            {"text": text, "content": base64.b64encode(path.read_bytes()).decode("ascii")}
            for path, text in figures
        ],
    }
    return _load_template().render(shown), data


def add_people(folder: Path, run: str, result: Mapping[str, Any]) -> None:
    """Add what a run scored on people to its card, if the card there is of this run.

    A card that cannot be read stays as it is, with a DataWarning.
    """
    path = folder / "card.json"
    data = _read_card(path) if path.is_file() else {}
    if run in (data.get("hashes") or {}).values():
        former = [*(data.get("people_notes") or []), *result["notes"]]  # of an earlier test, too
        notes = [note for note in data.get("notes") or [] if note not in former]
        figures = data.get("figures") or []
        data["figures"] = [(folder / Path(name).name, text) for name, text in figures]
        data |= {"people": result["people"], "notes": [*notes, *result["notes"]]}
        data["people_notes"] = result["notes"]
        write_card(folder, data)


def _read_card(path: Path) -> dict[str, Any]:
    """What a `card.json` holds; nothing, with a DataWarning, of a file that is no card."""
    try:
        data: dict[str, Any] = json.loads(read_text(path))
        kinds = {"hashes": dict, "figures": list, "notes": list, "people_notes": list}
        if wrong := [
            name for name, kind in kinds.items() if not isinstance(data.get(name) or kind(), kind)
        ]:
            raise TypeError(f"{wrong[0]} is {type(data[wrong[0]]).__name__}")
        if not all(isinstance(name, str) for name, _ in data.get("figures") or []):
            raise TypeError("a figure without a name")
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        fault = f"{path}: no readable card ({error}), so nothing is added to it"
        warnings.warn(f"{fault}; run the main job again.", DataWarning, stacklevel=3)
        return {}
    return data


def format_card(result: Mapping[str, Any], page: Path | str | None = None) -> str:
    """The card in a few lines of plain text: the claim, what was found, where to look, and why."""
    data = to_plain(result)
    lines = [_get_title(data) + (f" (preset {data['preset']})" if data.get("preset") else "")]
    if data.get("claim"):
        lines = [f"Claim: {data['claim']} (preset {data.get('preset')})."]
        lines.append(f"Found: {data.get('found')}")
    if page is not None:
        lines.append(f"See:   {page}")
    verdicts = [data.get("verdict") or {"verdict": "NO VERDICT"}, data.get("said")]
    for judged in filter(None, verdicts):
        lines.append(f"{judged['verdict']}. Rule: {judged.get('rule', 'no rule was applied.')}")
        lines += [f"  - {reason}" for reason in judged.get("reasons", [])]
    lines += [f"  note: {note}" for note in data.get("notes") or []]
    if stages := data.get("stages"):
        parts = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in stages.items())
        lines.append(f"{sum(stages.values()):.0f} s: {parts}")
    if data.get("peak_memory_gb") is not None:
        lines.append(f"Peak memory {data['peak_memory_gb']:.2f} GB")
    return "\n".join(lines)


@functools.cache
def _load_template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"columns": _list_columns, "format_value": _format_value}
    environment.filters |= {"add_interval": _add_interval, "to_rows": _to_rows}
    return environment.get_template("card.html.jinja")


def _get_title(data: Mapping[str, Any]) -> str:
    return str(data.get("title") or "DeSTA Lab: result")


def _list_columns(rows: Rows) -> list[str]:
    return list(dict.fromkeys(column for row in rows for column in row))


def _to_rows(values: Any, key: str, value: str) -> Rows:
    """{a: 1} and {a: {x: 1}} as rows of a table; what is a table already stays."""
    if not isinstance(values, Mapping):
        return values or []
    several = {k: v if isinstance(v, Mapping) else {value: v} for k, v in values.items()}
    return [{key: name, **found} for name, found in several.items()]


def _compare_runs(rows: Rows) -> Rows:
    """A line for each rung and measure, with a column for each run and condition."""
    lines: dict[Any, dict[str, Any]] = {}
    for row in rows:
        rung, measure = row["rung"], row.get("measure")
        name = f"{rung} {RUNGS.get(rung, '')}"
        line = lines.setdefault((rung, measure), {"rung": name, "measure": measure})
        line[f"{row['run']}: {row['condition']}"] = _add_interval(row)["score"]
    return [lines[key] for key in sorted(lines, key=str)]


def _add_interval(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with `low` and `high` in brackets behind its accuracy or score."""
    value = next((name for name in ("accuracy", "score") if name in row), None)
    if value is None or row.get("low") is None or row.get("high") is None:
        return dict(row)
    joined = f"{_format_value(row[value])} {_format_value([row['low'], row['high']])}"
    rest = {name: found for name, found in row.items() if name not in ("low", "high")}
    return rest | {value: joined}


def _format_value(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"
    if isinstance(value, list):
        return f"[{', '.join(map(_format_value, value))}]"
    return str(value)
