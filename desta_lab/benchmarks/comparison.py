"""What was measured on a public test set beside what was published about other systems."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from desta_lab.benchmarks.benchmark import Benchmark
from desta_lab.benchmarks.formats import BenchmarkError
from desta_lab.world.tables import read_results

PUBLISHED = Path(__file__).resolve().parents[2] / "data" / "published.csv"
COLUMNS = ["system", "metric", "protocol", "value", "low", "high", "clips", "chance"]
COLUMNS += ["kind", "differs", "source"]
MARKS = {"*": "told by another protocol", "†": "other items"}  # what cannot be compared, and why


def read_published(name: str) -> pd.DataFrame:
    """What public repositories say of other systems, with source, protocol and number of items.

    A part of a test set has its own name: "SAKURA gender". Raises BenchmarkError if there is none.
    """
    table = _read_published()
    found = table[table["benchmark"] == name]
    if found.empty:
        known = ", ".join(table["benchmark"].unique())
        raise BenchmarkError(f"Nothing published about {name!r}; there is {known}.")
    return found


def _read_published() -> pd.DataFrame:
    texts = ("benchmark", "system", "metric", "unit", "protocol", "source")
    return read_results(PUBLISHED, texts, ("value", "items"))


def pivot_protocols(measured: pd.DataFrame) -> pd.DataFrame:
    """What `Benchmark.score` found, a row per group and metric and a column per protocol."""
    value = [f"{row.value:.1f} [{row.low:.1f}, {row.high:.1f}]" for row in measured.itertuples()]
    protocol = "judged_by" if "judged_by" in measured else "protocol"
    rows = ["group", "metric"]
    wide = measured.assign(value=value).pivot(index=rows, columns=protocol, values="value")
    more = [name for name in ("chance", "commonest", "unparsed", "clips") if name in measured]
    rest = measured.groupby(rows)[more].max().round(1)
    order = pd.MultiIndex.from_frame(measured[rows].drop_duplicates())
    return wide[measured[protocol].unique()].join(rest).loc[order]


def compare_with_published(
    measured: pd.DataFrame, benchmark: Benchmark, name: str
) -> tuple[pd.DataFrame, str]:
    """What `name` measured above what was published, and a note on what cannot be compared.

    Columns: system, metric, protocol, value, low, high, clips, chance, kind (measured, control,
    published), differs (the marks of `MARKS`), source.
    """
    ours = measured[measured["group"] == "all"].assign(differs="")
    ours["kind"] = np.where(ours["protocol"] == "silence", "control", "measured")
    judges = {
        "our rule": "reasoning by our rule",
        "judge": "reasoning by a judge",
        "IFEval": "constraints by IFEval's rule",
    }
    about = ours["judged_by"].map(judges) if "judged_by" in ours else ours["protocol"]
    ours["system"] = f"{name}: " + about
    groups = [group for group in measured["group"].unique() if group != "all"]
    theirs = _published_rows(benchmark, groups)
    theirs = theirs[theirs["metric"].isin(ours["metric"])].assign(kind="published")
    if theirs.empty:
        return ours.reindex(columns=COLUMNS), "Nothing published about it is stored here."
    reasons = [_differences(row, ours) for row in theirs.itertuples()]
    theirs["differs"] = ["".join(found) for found in reasons]
    both = pd.concat([ours, theirs], ignore_index=True)
    return both.reindex(columns=COLUMNS), _note(theirs["metric"], reasons)


def _differences(published: Any, ours: pd.DataFrame) -> dict[str, str]:
    """Why a published row cannot be compared with ours of the same metric: mark → reason."""
    ours = ours[(ours["metric"] == published.metric) & (ours["kind"] == "measured")]
    protocols, clips = ours["protocol"].unique(), int(ours["clips"].max())
    found = {}
    if published.protocol.split(" (")[0] not in protocols:
        found["*"] = f"{published.protocol} there, {' or '.join(protocols)} here"
    if published.clips != clips:
        found["†"] = f"{published.clips} there, {clips} here"
    return found


def _note(metrics: Iterable[str], reasons: Sequence[dict[str, str]]) -> str:
    sentences = ["Hollow: published, without intervals."]
    for mark, meaning in MARKS.items():
        because: dict[str, dict[str, None]] = {}  # reason → its metrics, each once
        for metric, found in zip(metrics, reasons, strict=True):
            if mark in found:
                because.setdefault(found[mark], {})[metric] = None
        parts = "; ".join(f"{', '.join(names)}: {why}" for why, names in because.items())
        sentences += [f"{mark} {meaning}: {parts}."] if parts else []
    if len(sentences) > 1:
        sentences.append("A marked number must not be compared.")
    return " ".join(sentences)


def _published_rows(benchmark: Benchmark, groups: Sequence[str]) -> pd.DataFrame:
    """The published rows of the whole test set, the best system first.

    Where its tracks are published too, means are taken over those that were measured, of systems
    that answered all.
    """
    table = _read_published().rename(columns={"items": "clips"})
    found = table[table["benchmark"] == benchmark.published]
    tracks = table[table["benchmark"].str.startswith(f"{benchmark.published} ")]
    if len(tracks):
        measured = [f"{benchmark.published} {name}" for name in groups]
        tracks = tracks[tracks["benchmark"].isin(measured)]
        found = tracks.groupby(["system", "metric"], sort=False).agg(
            value=("value", "mean"),
            protocol=("protocol", "first"),
            clips=("clips", "sum"),
            source=("source", "first"),
            tracks=("benchmark", "nunique"),
        )
        found = found[found["tracks"] == len(groups)].reset_index()
    best = found[found["metric"] == benchmark.metric].sort_values("value", ascending=False)
    places = {system: place for place, system in enumerate(best["system"])}
    return found.assign(place=found["system"].map(places)).sort_values("place", kind="stable")


def write_headline(table: pd.DataFrame, benchmark: Benchmark, name: str) -> str:
    """What was measured of a test set's main metric, by every protocol, as one sentence."""
    main = table[(table["metric"] == benchmark.metric) & (table["kind"] != "published")]
    parts = [
        f"{'on ' * (row.protocol == 'silence')}{row.protocol} {row.value:.0f} % [{row.low:.0f}, "
        f"{row.high:.0f}]"
        for row in main.itertuples()
    ]
    if main["chance"].notna().any():
        parts.append(f"chance {main['chance'].iloc[0]:.0f} %")
    return f"{name}, {benchmark.metric}: {', '.join(parts)}"
