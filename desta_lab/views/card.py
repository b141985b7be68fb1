"""The result card: one page that says whether the claim held, by which rule, with every number and every control."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from desta_lab.cache import to_json, to_plain, write_whole
from desta_lab.evaluation.tasks import RUNGS

_STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #8881; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 2rem; }
.verdict { border: 2px solid; border-left-width: .8rem; padding: .3rem 1rem; }
.verdict strong { font-size: 1.4rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1rem 0; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { border-bottom: 1px solid var(--line); padding: .15rem .6rem; text-align: right; vertical-align: top; }
th { font-weight: 600; } thead th { background: var(--soft); }
th:first-child, td.text { text-align: left; }
figure { margin: 1.5rem 0; } img { max-width: 100%; background: #fff; } code { overflow-wrap: anywhere; }
@media print { body { margin: 0; max-width: none; font-size: 10pt; } figure, tr { break-inside: avoid; } }
"""
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def write_card(folder: Path | str, result: Mapping[str, Any]) -> Path:
    """Write `card.html` and `card.json` into a folder, each whole or not at all; returns the path of the page.

    `result` holds any of: title, preset, verdict {verdict, rule, reasons}, rungs, tasks (tables: records or a
    DataFrame), targets {perplexity, coverage}, stages {name: seconds}, peak_memory_gb, versions, hashes, notes,
    figures [(path, alternative text)]. What is missing is left out of the page; more goes to the JSON alone.
    """
    page, data = render_card(result)
    folder = Path(folder)
    write_whole(folder / "card.json", to_json(data))
    write_whole(folder / "card.html", page.encode())
    return folder / "card.html"


def render_card(result: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The page as one self-contained HTML string, and the same result as plain data."""
    data = to_plain(
        {**result, "figures": [(Path(path).name, alt) for path, alt in result.get("figures", [])]}
    )
    targets = data.get("targets") or {}
    memory = data.get("peak_memory_gb")
    sections = [
        f"<h1>{escape(_title(data))}</h1>",
        _paragraph("Preset", data.get("preset")),
        _verdict(data.get("verdict") or {}),
        _table("Rungs at the last step (0 is chance, 1 is perfect)", _by_rung(data.get("rungs"))),
        *(_figure(Path(path), alt) for path, alt in result.get("figures", [])),
        _table(
            "Tasks at the last step (accuracy, with its interval in brackets)",
            [_with_interval(row) for row in data.get("tasks") or []],
        ),
        _list("Notes", data.get("notes")),
        _table(
            "Targets: perplexity under the backbone",
            _records(targets.get("perplexity"), "kind", "perplexity"),
        ),
        _table(
            "Targets: share that names the attribute rightly",
            _records(targets.get("coverage"), "kind", "share"),
        ),
        _table("Seconds per stage", _records(data.get("stages"), "stage", "seconds")),
        _paragraph("Peak memory", None if memory is None else f"{memory:.2f} GB"),
        _table("Versions", _records(data.get("versions"), "part", "version")),
        _table("Hashes", _records(data.get("hashes"), "part", "hash")),
    ]
    body = "\n".join(section for section in sections if section)
    return _PAGE.format(title=escape(_title(data)), style=_STYLE, body=body), data


def format_card(result: Mapping[str, Any]) -> str:
    """The card in a few lines of plain text, for the terminal."""
    data = to_plain(result)
    verdict = data.get("verdict") or {}
    lines = [_title(data) + (f" (preset {data['preset']})" if data.get("preset") else "")]
    lines += [
        f"{verdict.get('verdict', 'NO VERDICT')}: {verdict.get('rule', 'no rule was applied.')}"
    ]
    lines += [f"  - {reason}" for reason in verdict.get("reasons", [])]
    lines += [f"  note: {note}" for note in data.get("notes") or []]
    if stages := data.get("stages"):
        lines.append(
            f"{sum(stages.values()):.0f} s: "
            + ", ".join(f"{name} {s:.0f} s" for name, s in stages.items())
        )
    if data.get("peak_memory_gb") is not None:
        lines.append(f"Peak memory {data['peak_memory_gb']:.2f} GB")
    return "\n".join(lines)


def _title(data: Mapping[str, Any]) -> str:
    return str(data.get("title") or "DeSTA Lab: result")


def _paragraph(name: str, value: Any) -> str:
    return "" if value is None else f"<p>{escape(name)}: {escape(str(value))}</p>"


def _verdict(verdict: Mapping[str, Any]) -> str:
    if not verdict:
        return ""
    head = f"<p><strong>{escape(str(verdict['verdict']))}</strong></p>\n<p>Rule: {escape(str(verdict['rule']))}</p>"
    reasons = "".join(f"<li>{escape(str(reason))}</li>" for reason in verdict.get("reasons", []))
    return f'<section class="verdict" aria-label="Verdict">\n{head}\n<ul>{reasons}</ul>\n</section>'


def _list(name: str, items: Sequence[Any] | None) -> str:
    rows = "".join(f"<li>{escape(str(item))}</li>" for item in items or [])
    return f"<h2>{escape(name)}</h2>\n<ul>{rows}</ul>" if rows else ""


def _records(values: Any, key: str, value: str) -> list[dict[str, Any]] | None:
    """{a: 1} and {a: {x: 1}} as rows of a table; what is a table already stays."""
    if not isinstance(values, Mapping):
        return values
    return [
        {key: name, **(one if isinstance(one, Mapping) else {value: one})}
        for name, one in values.items()
    ]


def _table(caption: str, rows: Sequence[Mapping[str, Any]] | None) -> str:
    if not rows:
        return ""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    head = "".join(f'<th scope="col">{escape(column.replace("_", " "))}</th>' for column in columns)
    body = "\n".join(f"<tr>{_cells(row, columns)}</tr>" for row in rows)
    return (
        f'<div class="wide">\n<table>\n<caption>{escape(caption)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>"
    )


def _cells(row: Mapping[str, Any], columns: Sequence[str]) -> str:
    first, *rest = (row.get(column) for column in columns)
    numeric = [not isinstance(value, str) or value.endswith("]") for value in rest]
    cells = [
        f"<td>{_show(v)}</td>" if n else f'<td class="text">{_show(v)}</td>'
        for v, n in zip(rest, numeric, strict=True)
    ]
    return f'<th scope="row">{_show(first)}</th>{"".join(cells)}'


def _with_interval(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row whose `low` and `high` stand in brackets behind its accuracy or score."""
    value = next((name for name in ("accuracy", "score") if name in row), None)
    if value is None or row.get("low") is None or row.get("high") is None:
        return dict(row)
    shown = f"{_show(row[value])} {_show([row['low'], row['high']])}"
    return {
        name: shown if name == value else one
        for name, one in row.items()
        if name not in ("low", "high")
    }


def _by_rung(rows: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    """The rung table with a line for each rung and measure, and a column for each run and condition."""
    lines: dict[Any, dict[str, Any]] = {}
    for row in rows or []:
        line = lines.setdefault(
            (row["rung"], row.get("measure")),
            {"rung": f"{row['rung']} {RUNGS.get(row['rung'], '')}"},
        )
        line["measure"] = row.get("measure")
        line[f"{row['run']}: {row['condition']}"] = _with_interval(row)["score"]
    return [lines[key] for key in sorted(lines, key=str)]


def _show(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"
    if isinstance(value, list):
        return f"[{', '.join(_show(one) for one in value)}]"
    return escape(str(value))


def _figure(path: Path, alt: str) -> str:
    source = base64.b64encode(path.read_bytes()).decode("ascii")
    return (
        f'<figure>\n<img alt="{escape(alt)}" src="data:image/png;base64,{source}">\n'
        f"<figcaption>{escape(alt)}</figcaption>\n</figure>"
    )
