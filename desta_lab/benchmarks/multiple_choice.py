"""Multiple choice by protocols that stand side by side, because the protocol moves the numbers.

`ranked` is the option that scores highest, `calibrated` the one that gains most over silence,
`parsed` the option that the generated answer names; beside them the test set's own rule, and
`silence`, the control.
"""

import re
import unicodedata
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from desta_lab.benchmarks.benchmark import Benchmark, Item
from desta_lab.benchmarks.formats import BenchmarkError
from desta_lab.evaluation.statistics import percentile_interval, resample_weights
from desta_lab.world.describe import named_by_phrases

MAX_OPTIONS = 26  # they are known by their letters
_MARKS = re.compile(  # emphasis of Markdown, a box of LaTeX, tags
    r"[*`]|(?<![A-Za-z0-9])_+|_+(?![A-Za-z0-9])|\\(?:boxed|text)\{|[{}]|</?\w+>"
)
_DENIED_BEFORE = re.compile(
    r"(?:\b(?:not|neither|nor|never)|n't)\s+(?:(?:be|option|choice|the)\s+)*$"
)
_DENIED_AFTER = re.compile(
    r"[)\]）\s]*(?:is|was|are|would\s+be)(?:n't|\s+not|\s+(?:\w+\s+)?(?:wrong|incorrect|false))\b"
)
_BRACKETED = re.compile(
    r"(?<![A-Za-z])[(\[（]?([A-Za-z])[)）](?![A-Za-z])|\[([A-Za-z])\](?![A-Za-z])"
)
_STATED = re.compile(  # "B." first, "B" alone, "The answer is B", "Option B is right", "B is best"
    r"^[^\w(\[（]*([A-Za-z])(?:\s*[.:]|\s+[-–—]\s|[^\w)\]）]*$)"
    r"|(?:\b(?i:answer|option|choice|letter)(?i:\s+is)?|choose|pick|select|答案是?|选择?)"
    r"\s*[:：=–-]?\s*[\"'“]?([A-Za-z])"
    r"(?=\s*(?:[.,;:!?\"'”)]|$|\n|\b(?:because|since|as)\b))"
    r"|\b(?i:option|choice|letter)\s+([A-Z])\b"
    r"|\b([A-Z])\s+is\s+(?:the\s+)?(?:correct|right|answer|best)\b"
)
_LETTERED = re.compile(r"^\s*\(?([A-Za-z])[).:]\s*")


class MultipleChoice(Benchmark):
    """A test set of questions with options."""

    official: str  # how its own repository tells whether an answer is right
    averages_items = False  # whether `all` is the mean of items, and not of groups

    @abstractmethod
    def is_right(self, item: Item, right: int) -> bool | None:
        """Whether an answer is right by the official rule; None where the rule cannot tell."""

    def clip_metrics(self, table: pd.DataFrame, protocol: str) -> pd.DataFrame:
        """Clip × metric of one group, in per cent; NaN where a metric does not count the clip."""
        right = table.set_index("id")[[protocol]].dropna()
        return 100 * right.rename(columns={protocol: self.metric})

    def grade(self, items: Sequence[Item]) -> pd.DataFrame:
        """Items as 0 or 1 by every protocol, NaN where it needs what is not there.

        `unparsed` is 1 where no single option was named. What has no right option is left out, with
        all that was asked about its clip, and named in `attrs["left_out"]`. Raises BenchmarkError,
        that of the first item, if not one has a right option.
        """
        rows: list[dict[str, Any]] = []
        faults: list[BenchmarkError] = []
        out: set[tuple[str, str]] = set()
        for item in items:
            try:
                rows.append(self._grade(item, find_right(item)))
            except BenchmarkError as error:
                faults.append(error)
                out.add((item.group, item.id))
        rows = [row for row in rows if (row["group"], row["id"]) not in out]
        if not rows:
            raise faults[0]
        protocols = ["ranked", "calibrated", "silence", "parsed", "unparsed", self.official]
        columns = ["where", "id", "group", "hop", "chance", "letter", *protocols]
        table = pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(protocols, float))
        if table["parsed"].notna().any():  # else nothing was generated, and scores may be there
            faults += [
                BenchmarkError.at(item.where, "no answer, and others have one", "answer it")
                for item in items
                if item.response is None
            ]
        table.attrs["left_out"] = [str(fault) for fault in faults]
        return table

    def _grade(self, item: Item, right: int) -> dict[str, Any]:
        same = same_options(item.options)
        scores: dict[str, Any] = {"ranked": item.scores, "silence": item.silence}
        if item.scores is not None and item.silence is not None:
            scores["calibrated"] = np.subtract(item.scores, item.silence)
        judged: dict[str, Any] = {
            name: same[int(np.argmax(of_option))] == right
            for name, of_option in scores.items()
            if of_option is not None
        }
        if item.response is not None:
            named = name_option(item.response, item.options)
            judged |= {"parsed": named == right, "unparsed": named is None}
        place = {"where": item.where, "id": item.id, "group": item.group, "hop": item.hop}
        about = {"chance": 1 / len(set(same)), "letter": chr(ord("a") + right)}
        return {**place, **about, **judged, self.official: self.is_right(item, right)}

    def score(self, items: Sequence[Item], text: Sequence[Item] | None = None) -> pd.DataFrame:
        """Per cent right of every group and of all by every protocol, with intervals over clips.

        `chance` and `unparsed` of `all` are means of groups where its value is one. `commonest` is
        the share of the commonest right letter: near `chance` where letters are balanced. Items
        that cannot be scored are named in `attrs["left_out"]`. Raises BenchmarkError if no item has
        an answer, or a right option.
        """
        table = self.grade(items)
        protocols = ("ranked", "calibrated", "parsed", self.official, "silence")
        if table[list(protocols)].isna().all(axis=None):
            remedy = "write them with `python -m desta_lab answer`"
            raise BenchmarkError.at(items[0].where, "no answer here, nor elsewhere", remedy)
        rows = [row for protocol in protocols for row in self._score(table, protocol)]
        scored = pd.DataFrame(rows)
        scored.attrs |= table.attrs
        return scored

    def _score(self, table: pd.DataFrame, protocol: str) -> list[dict[str, Any]]:
        groups = {str(name): some for name, some in table.groupby("group", sort=False)}
        values = {name: self.clip_metrics(some, protocol) for name, some in groups.items()}
        values = {name: some for name, some in values.items() if len(some)}
        if not values:
            return []
        # other clips in every group, so other resamples
        draws = {name: _bootstrap_columns(v, seed) for seed, (name, v) in enumerate(values.items())}
        parts = {name: [groups[name]] for name in values}  # of which means are taken
        everything = pd.concat(values.values())
        answered = pd.concat([groups[name] for name in values])
        if self.averages_items:
            draws["all"], parts["all"] = _bootstrap_columns(everything), [answered]
        else:
            draws["all"] = np.mean(list(draws.values()), axis=0)
            parts["all"] = [groups[name] for name in values]
        groups["all"], values["all"] = answered, everything
        rows = []
        for name, drawn in draws.items():
            rates = [part[["chance", "unparsed"]].mean() for part in parts[name]]
            chance, unparsed = 100 * np.mean(rates, axis=0)
            about = {
                "clips": len(values[name]),
                "chance": chance,
                "commonest": 100 * groups[name]["letter"].value_counts(normalize=True).iloc[0],
                "unparsed": unparsed if protocol == "parsed" else np.nan,
            }
            for metric, column in zip(everything.columns, drawn.T, strict=True):
                named = {"group": name, "metric": metric, "protocol": protocol}
                value, low, high = percentile_interval(column)
                rows.append({**named, "value": value, "low": low, "high": high, **about})
        return rows


def _bootstrap_columns(values: pd.DataFrame, seed: int = 0) -> np.ndarray:
    """Mean of every column, of the data (first row) and of resamples of its rows: [draw, metric].

    NaN where a resample has no row that the metric counts.
    """
    matrix, weights = values.to_numpy(float), resample_weights(len(values), seed)
    with np.errstate(invalid="ignore"):
        return (weights @ np.nan_to_num(matrix)) / (weights @ ~np.isnan(matrix))


# ---- options ----


def same_options(options: Sequence[str]) -> list[int]:
    """For every option the first that has its text: a text that is listed twice is one option."""
    texts = [_bare(text) for text in options]
    return [texts.index(text) for text in texts]


def name_option(response: str, options: Sequence[str]) -> int | None:
    """The option that a generated answer names; None where it names none, or several.

    In this order: an answer that is one option and nothing else; a letter in brackets, alone,
    first with a mark behind it, or stated ("The answer is B"); the one option whose whole text is
    said (`world.describe.named_by_phrases`, which knows "not rain").
    """
    said, same = _bare(response), same_options(options)
    texts = [_bare(text) for text in options]
    if not said:
        return None
    if said in texts:
        return texts.index(said)
    plain = _MARKS.sub("", unicodedata.normalize("NFKC", response)).strip()
    letters = {_letter_index(letter) for letter in _letters(_BRACKETED, plain)}
    letters |= {
        texts.index(letter) if letter in texts else _letter_index(letter)
        for letter in _letters(_STATED, plain)
    }
    found = {same[index] for index in letters if index < len(options)}
    if not found:
        named = named_by_phrases(response, {str(index): [options[index]] for index in set(same)})
        found = {int(index) for index in named}
    return found.pop() if len(found) == 1 else None


def _letters(pattern: re.Pattern[str], text: str) -> set[str]:
    """The letters that a pattern finds and that nothing around them denies."""
    return {
        match[match.lastindex or 0].lower()
        for match in pattern.finditer(text)
        if not _DENIED_BEFORE.search(text[max(0, match.start() - 40) : match.start()].lower())
        and not _DENIED_AFTER.match(text[match.end(match.lastindex or 0) :].lower())
    }


def _letter_index(letter: str) -> int:
    return ord(letter) - ord("a")


def _bare(text: str) -> str:
    return text.strip(" \t\n\"'.!*`").casefold()


def find_right(item: Item) -> int:
    """The index of the right option, from its letter or its text.

    Raises BenchmarkError if there is no answer, it is no option, or all options are the same.
    """
    if item.answer is None:
        fault = "no answer; it was not published with this part"
        raise BenchmarkError.at(item.where, fault, "score another one")
    options = ", ".join(item.options)
    index = name_option(item.answer, item.options)
    if index is None:
        fault = f"the answer {item.answer!r} is none of {options}"
        raise BenchmarkError.at(item.where, fault, "correct it")
    if len(set(same_options(item.options))) < 2:
        fault = f"all options are the same ({options})"
        raise BenchmarkError.at(item.where, fault, "write another one")
    return index


def strip_letters(options: Sequence[Any], where: str = "the options") -> tuple[str, ...]:
    """Options without their letters, where every one has its own: "(A) dog" or "B. cat".

    Raises BenchmarkError if letters are those of all options in another order, or one is empty.
    """
    texts = [str(option) for option in options]
    found = [_LETTERED.match(text) for text in texts]
    own = all(m and m[1].lower() == chr(ord("a") + i) for i, m in enumerate(found))
    letters = [m[1].lower() for m in found if m]
    if not own and sorted(letters) == [chr(ord("a") + i) for i in range(len(texts))]:
        fault = f"the options have the letters {', '.join(letters)}"
        raise BenchmarkError.at(where, fault, "write them in order")
    if own:
        texts = [text[m.end() :] for text, m in zip(texts, found, strict=True) if m]
    if not all(map(str.strip, texts)):
        raise BenchmarkError.at(where, "an option is empty", "write it, or leave it out")
    return tuple(text.strip() for text in texts)
