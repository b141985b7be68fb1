"""The result card: a page that says whether the claim held, by which rule, with every control."""

import base64
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from desta_lab.cache import to_json, to_plain, write_whole
from desta_lab.evaluation.tasks import RUNGS

Rows = Sequence[Mapping[str, Any]]

_TEMPLATE = "card.html.jinja"


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
    targets = data.get("targets") or {}
    page = _load_template().render(
        title=_get_title(data),
        preset=data.get("preset"),
        claim=data.get("claim"),
        found=data.get("found"),
        verdicts=[{"reasons": [], **data[name]} for name in ("verdict", "said") if data.get(name)],
        rungs=_compare_runs(data.get("rungs") or []),
        figures=[{"text": text, "content": _encode(path)} for path, text in figures],
        tasks=[_add_interval(row) for row in data.get("tasks") or []],
        people=[_add_interval(row) for row in data.get("people") or []],
        seeds=[_add_interval(row) for row in data.get("seeds") or []],
        notes=data.get("notes"),
        perplexity=_to_rows(targets.get("perplexity"), "kind", "perplexity"),
        coverage=_to_rows(targets.get("coverage"), "kind", "share"),
        stages=_to_rows(data.get("stages"), "stage", "seconds"),
        peak_memory_gb=data.get("peak_memory_gb"),
        versions=_to_rows(data.get("versions"), "part", "version"),
        hashes=_to_rows(data.get("hashes"), "part", "hash"),
    )
    return page, data


def add_people(folder: Path, run: str, result: Mapping[str, Any]) -> None:
    """Add what a run scored on people to its card, if the card there is of this run."""
    path = folder / "card.json"
    data = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    if run not in (data.get("hashes") or {}).values():
        return
    notes = [note for note in data.get("notes") or [] if note not in result["notes"]]
    figures = [(folder / name, text) for name, text in data.get("figures", [])]
    people = {"people": result["people"], "notes": [*notes, *result["notes"]], "figures": figures}
    write_card(folder, {**data, **people})


def format_card(result: Mapping[str, Any], page: Path | str | None = None) -> str:
    """The card in a few lines of plain text: the claim, what was found, where to look, and why."""
    data = to_plain(result)
    lines = [_get_title(data) + (f" (preset {data['preset']})" if data.get("preset") else "")]
    if data.get("claim"):
        lines = [f"Claim: {data['claim']} (preset {data.get('preset')})."]
        lines.append(f"Found: {data.get('found')}")
    if page is not None:
        lines.append(f"See:   {page}")
    for judged in filter(
        None, (data.get("verdict") or {"verdict": "NO VERDICT"}, data.get("said"))
    ):
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
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"columns": _list_columns, "format_value": _format_value}
    return environment.get_template(_TEMPLATE)


def _get_title(data: Mapping[str, Any]) -> str:
    return str(data.get("title") or "DeSTA Lab: result")


def _encode(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode("ascii")


def _list_columns(rows: Rows) -> list[str]:
    return list(dict.fromkeys(column for row in rows for column in row))


def _to_rows(values: Any, key: str, value: str) -> Rows | None:
    """{a: 1} and {a: {x: 1}} as rows of a table; what is a table already stays."""
    if not isinstance(values, Mapping):
        return values
    return [
        {key: name, **(found if isinstance(found, Mapping) else {value: found})}
        for name, found in values.items()
    ]


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
    interval = _format_value([row["low"], row["high"]])
    rest = {name: found for name, found in row.items() if name not in ("low", "high")}
    return rest | {value: f"{_format_value(row[value])} {interval}"}


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
