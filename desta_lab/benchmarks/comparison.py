"""What was measured on a public test set beside what was published about other systems."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from desta_lab.benchmarks.test_sets import BenchmarkError

PUBLISHED = Path(__file__).resolve().parents[2] / "data" / "published.csv"
# test set → its name in data/published.csv
NAMES = {
    "speech-ifeval": "Speech-IFEval",
    "sakura": "SAKURA",
    "mmau": "MMAU v05.15.25 mini",
    "dynamic-superb": "",
}
# test set → the metric that its headline and the order of systems go by
MAIN = {
    "speech-ifeval": "IFrate",
    "sakura": "multi",
    "mmau": "accuracy",
    "dynamic-superb": "accuracy",
}


def published(benchmark: str) -> pd.DataFrame:
    """What public repositories say of other systems on a benchmark, with source, protocol and number of items.

    A part of a benchmark has its own name: "SAKURA gender".

    Raises:
        BenchmarkError: nothing was read about it.
    """
    table = pd.read_csv(PUBLISHED)
    if benchmark not in set(table["benchmark"]):
        raise BenchmarkError(
            f"Nothing published about {benchmark!r}; there is {', '.join(table['benchmark'].unique())}."
        )
    return table[table["benchmark"] == benchmark]


def side_by_side(measured: pd.DataFrame) -> pd.DataFrame:
    """What `choices.rates` or `speech_ifeval.rates` found: a column a protocol; chance, letters, unparsed."""
    value = [f"{row.value:.1f} [{row.low:.1f}, {row.high:.1f}]" for row in measured.itertuples()]
    told = "told" if "told" in measured else "protocol"
    by = measured.assign(value=value).pivot(index=["group", "metric"], columns=told, values="value")
    more = [name for name in ("chance", "commonest", "unparsed", "clips") if name in measured]
    rest = measured.groupby(["group", "metric"])[more].max().round(1)
    order = measured[["group", "metric"]].drop_duplicates().apply(tuple, axis=1).tolist()
    return by[list(dict.fromkeys(measured[told]))].join(rest).loc[order]


def beside(measured: pd.DataFrame, benchmark: str, name: str) -> tuple[pd.DataFrame, str]:
    """What was measured above what was published, row by row, and the sentence that says where they cannot be compared.

    Columns: system, metric, protocol, value, low, high, clips, chance, kind (measured, control, published), differs
    (`*`: another protocol than any of ours, `†`: other items), source. SAKURA's published means are taken over the
    tracks that were measured, of systems that answered them all.
    """
    ours = measured[measured["group"] == "all"].assign(differs="")
    ours["kind"] = np.where(ours["protocol"] == "silence", "control", "measured")
    short = {"our rule": "reasoning by our rule", "judge": "reasoning by a judge"}
    ours["system"] = name + ": " + (ours["told"].map(short) if "told" in ours else ours["protocol"])
    theirs = _theirs(benchmark, [group for group in measured["group"].unique() if group != "all"])
    theirs = theirs[theirs["metric"].isin(ours["metric"])].assign(kind="published")
    marks, why = (
        [],
        {
            "*": defaultdict[str, dict[str, None]](dict),
            "†": defaultdict[str, dict[str, None]](dict),
        },
    )
    for row in theirs.itertuples():
        mine = ours[(ours["metric"] == row.metric) & (ours["kind"] == "measured")]
        here, clips = dict.fromkeys(mine["protocol"]), int(mine["clips"].max())
        reasons = {}
        if row.protocol.split(" (")[0] not in here:
            reasons["*"] = f"{row.protocol} there, {' or '.join(here)} here"
        if row.clips != clips:
            reasons["†"] = f"{row.clips} there, {clips} here"
        marks.append("".join(reasons))
        for mark, reason in reasons.items():
            why[mark][reason][row.metric] = None
    both = pd.concat([ours, theirs.assign(differs=marks)], ignore_index=True)
    columns = [
        "system",
        "metric",
        "protocol",
        "value",
        "low",
        "high",
        "clips",
        "chance",
        "kind",
        "differs",
        "source",
    ]
    if theirs.empty:
        return both.reindex(columns=columns), "Nothing published about it is stored here."
    said = ["Hollow: published, without intervals."]
    for mark, what in (("*", "told by another protocol"), ("†", "other items")):
        if why[mark]:
            said.append(
                f"{mark} {what}: "
                + "; ".join(f"{', '.join(m)}: {reason}" for reason, m in why[mark].items())
                + "."
            )
    said += ["A marked number must not be compared."] if len(said) > 1 else []
    return both.reindex(columns=columns), " ".join(said)


def _theirs(benchmark: str, groups: Sequence[str]) -> pd.DataFrame:
    """The published rows to be drawn, the best system first."""
    table, name = pd.read_csv(PUBLISHED).rename(columns={"items": "clips"}), NAMES[benchmark]
    found = table[table["benchmark"] == name]
    if benchmark == "sakura":
        tracks = table[table["benchmark"].isin([f"{name} {group}" for group in groups])]
        same = tracks.groupby(["system", "metric"], sort=False)
        found = same.agg(
            value=("value", "mean"),
            protocol=("protocol", "first"),
            clips=("clips", "sum"),
            source=("source", "first"),
            tracks=("benchmark", "nunique"),
        ).reset_index()
        found = found[found["tracks"] == len(groups)]
    order = found[found["metric"] == MAIN[benchmark]].sort_values("value", ascending=False)[
        "system"
    ]
    return found.assign(place=found["system"].map({s: i for i, s in enumerate(order)})).sort_values(
        "place", kind="stable"
    )


def headline(table: pd.DataFrame, benchmark: str, name: str) -> str:
    """What was measured of a test set's main metric, by every protocol, as one sentence."""
    main = table[(table["metric"] == MAIN[benchmark]) & (table["kind"] != "published")]
    said = [
        f"{'on ' * (row.protocol == 'silence')}{row.protocol} {row.value:.0f} % [{row.low:.0f}, {row.high:.0f}]"
        for row in main.itertuples()
    ]
    chance = [] if main["chance"].isna().all() else [f"chance {main['chance'].iloc[0]:.0f} %"]
    return f"{name}, {MAIN[benchmark]}: {', '.join(said + chance)}"
