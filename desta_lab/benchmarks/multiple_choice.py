"""Multiple choice by protocols that stand side by side, because the protocol moves the numbers.

`ranked` is the option that scores highest, `calibrated` the one that gains most over silence, `parsed` the option that
the generated answer names; beside them the test set's own rule (`OFFICIAL`).
"""

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from desta_lab.benchmarks.test_sets import BenchmarkError, Item
from desta_lab.evaluation.statistics import percentile_interval, resample_weights

# test set → how its own repository tells whether an answer is right
OFFICIAL = {"sakura": "judge", "mmau": "string match", "dynamic-superb": "exact match"}
_LETTER = re.compile(
    r"(?<![A-Za-z])\(?([A-Za-z])\)(?![A-Za-z])|^\s*([A-Za-z])\s*[.:]|^\s*([A-Za-z])\s*$"
)


def chosen(response: str, options: Sequence[str]) -> int | None:
    """Which option a generated answer names: by its letter, or by its text if no other option's is there; else None.

    The order is: an answer that is one option and nothing else; a letter in brackets or alone; the one option whose
    whole text occurs. Naming two is no answer.
    """
    exact = [i for i, text in enumerate(options) if _bare(text) == _bare(response)]
    if len(exact) == 1:
        return exact[0]
    found = {
        ord(letter.lower()) - ord("a")
        for groups in _LETTER.findall(response.strip())
        for letter in groups
        if letter
    }
    letters = {i for i in found if i < len(options)}
    if len(letters) == 1:
        return letters.pop()
    said = response.casefold()
    named = [
        i
        for i, text in enumerate(options)
        if re.search(rf"(?<!\w){re.escape(text.casefold())}(?!\w)", said)
    ]
    within = {
        i for i in named for j in named if i != j and options[i].casefold() in options[j].casefold()
    }
    left = [i for i in named if i not in within]  # "bird" inside "bird song" was not named
    return left[0] if len(left) == 1 and not letters else None


def right(item: Item) -> int:
    """The index of the right option, from its letter or its text.

    Raises:
        BenchmarkError: there is no answer, or it is none of the options.
    """
    if item.answer is None:
        raise BenchmarkError(
            f"{item.where}: no answer; it was not published with this part. Score another one."
        )
    index = chosen(item.answer, item.options)
    if index is None:
        raise BenchmarkError(
            f"{item.where}: the answer {item.answer!r} is none of {', '.join(item.options)}."
        )
    return index


def matches(response: str, answer: str, options: Sequence[str]) -> bool:
    """MMAU's own rule: every word of the answer is said, and no word that only another option has."""
    said, own, *others = (
        set(re.findall(r"\w+", text.lower())) for text in (response, answer, *options)
    )
    foreign = {word for words in others if words != own for word in words - own}
    return bool(said) and own <= said and not said & foreign


def scored(items: Sequence[Item], benchmark: str) -> pd.DataFrame:
    """Items as 0 or 1 by every protocol: ranked, calibrated, parsed, the test set's own; and ranked on silence.

    A protocol whose field is missing is NaN. `unparsed` is 1 where no single option was named.
    """
    table = []
    for item in items:
        index, response = right(item), item.response
        said = None if response is None else chosen(response, item.options)
        gain = None
        if item.scores is not None and item.silence is not None:
            gain = np.subtract(item.scores, item.silence)
        heard, lifted, deaf = (
            None if s is None else float(int(np.argmax(s)) == index)
            for s in (item.scores, gain, item.silence)
        )
        official: bool | None = item.judged
        if benchmark != "sakura" and response is not None:
            own = item.options[index]
            exact = response.strip().casefold() == own.casefold()
            official = matches(response, own, item.options) if benchmark == "mmau" else exact
        table.append(
            {
                "id": item.id,
                "group": item.group,
                "hop": item.hop,
                "chance": 1 / len(item.options),
                "letter": chr(ord("a") + index),
                "ranked": heard,
                "calibrated": lifted,
                "silence": deaf,
                "parsed": None if response is None else float(said == index),
                "unparsed": None if response is None else float(said is None),
                OFFICIAL[benchmark]: None if official is None else float(official),
            }
        )
    kinds = dict.fromkeys(
        ("ranked", "calibrated", "silence", "parsed", "unparsed", OFFICIAL[benchmark]), float
    )
    return pd.DataFrame(table).astype(kinds)


def rates(items: Sequence[Item], benchmark: str) -> pd.DataFrame:
    """Per cent right of every group and of all, by every protocol, with 95 % intervals over clips.

    SAKURA has three metrics: single, multi, and multi where the same clip's single was right; items of the two hops are
    paired by clip. `all` is the mean of the groups, but for MMAU, which counts items. `commonest` is the share of the
    commonest right letter: near `chance` where letters are balanced.

    Raises:
        BenchmarkError: a clip has one hop only, or no item has an answer.
    """
    table, found = scored(items, benchmark), []
    protocols = ("ranked", "calibrated", "parsed", OFFICIAL[benchmark], "silence")
    if table[list(protocols)].isna().all(axis=None):
        raise BenchmarkError(
            f"{items[0].where}: no answer here, nor elsewhere; write them with `python -m desta_lab answer`."
        )
    groups = {str(name): some for name, some in table.groupby("group", sort=False)}
    whole = benchmark == "mmau" or len(groups) == 1
    for protocol in protocols:
        values = {name: _correct(some, protocol, benchmark) for name, some in groups.items()}
        values = {name: some for name, some in values.items() if len(some)}
        if not values:
            continue
        drawn = {name: _resampled(some) for name, some in values.items()}
        every = pd.concat(values.values())
        drawn["all"] = _resampled(every) if whole else np.mean(list(drawn.values()), axis=0)
        for name, draws in drawn.items():
            some = table if name == "all" else groups[name]
            used = every if name == "all" else values[name]
            for metric, column in zip(used.columns, draws.T, strict=True):
                # a resample may have no clip whose single was right: it does not count
                value, low, high = percentile_interval(column)
                found.append(
                    {
                        "group": name,
                        "metric": metric,
                        "protocol": protocol,
                        "value": value,
                        "low": low,
                        "high": high,
                        "clips": len(used),
                        "chance": 100 * some["chance"].mean(),
                        "commonest": 100 * some["letter"].value_counts(normalize=True).iloc[0],
                        "unparsed": 100 * some["unparsed"].mean()
                        if protocol == "parsed"
                        else np.nan,
                    }
                )
    return pd.DataFrame(found)


def _correct(some: pd.DataFrame, protocol: str, benchmark: str) -> pd.DataFrame:
    """Clip × metric of one group, in per cent; NaN where a metric does not count the clip."""
    if benchmark != "sakura":
        return 100 * some.set_index("id")[[protocol]].dropna().rename(
            columns={protocol: "accuracy"}
        )
    hops = some.pivot(index="id", columns="hop", values=protocol).reindex(
        columns=["single", "multi"]
    )
    lone = hops.index[hops.isna().any(axis=1) & hops.notna().any(axis=1)]
    if len(lone):
        raise BenchmarkError(
            f"{lone[0]}: answered in one hop and not in the other ({protocol}); answer both, or neither."
        )
    hops = hops.dropna()
    return 100 * hops.assign(**{"multi | single": hops["multi"].where(hops["single"] == 1)})


def _resampled(values: pd.DataFrame) -> np.ndarray:
    """Mean of every column, of the data (first row) and of resamples of its rows: [draw, metric]."""
    matrix, count = values.to_numpy(float), len(values)
    weights = resample_weights(count)
    with np.errstate(invalid="ignore"):
        return (weights @ np.nan_to_num(matrix)) / (weights @ ~np.isnan(matrix))


def _bare(text: str) -> str:
    return text.strip(" \t\n\"'.!").casefold()
