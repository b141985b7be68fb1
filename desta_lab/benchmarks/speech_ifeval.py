"""Speech-IFEval (Lu et al. 2025): IFrate of three sets, and Δ against the model's own text LLM.

From kehanlu/Speech-IFEval: a folder with one JSONL file a set; a row holds `id, instruction,
audio_filepath, instruction_id_list, kwargs` and, once a model answered, `response`; the words of a
judge stand in `reports/llm_eval@<file>`.

Closed-ended and creative items are checked by rule. Whether a chain-of-thought item shows reasoning
is told by a judge there; here it is told by a rule of our own, and the two are never mixed.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from desta_lab import cache
from desta_lab.benchmarks.benchmark import Benchmark, BenchmarkError, Item, first_text
from desta_lab.evaluation.constraints import is_obeyed, number_sentences
from desta_lab.evaluation.statistics import interval_ends, resample_rows

# set → the names its file has had (kehanlu/Speech-IFEval: README, and older commits)
SETS = {
    "closed": ("closed_ended_questions.jsonl", "close.jsonl"),
    "creative": ("creative_writing.jsonl", "open.jsonl"),
    "cot": ("chain-of-thought.jsonl",),
}
_STEPS = re.compile(
    r"^[ \t]*(?:step\s*\d|\d+[.)]\s)|"
    r"\b(?:because|therefore|thus|hence|so that|since|first(?:ly)?|then|finally)\b",
    re.IGNORECASE | re.MULTILINE,
)


class SpeechIFEval(Benchmark):
    """Three JSONL files, of which any may be missing."""

    name = "speech-ifeval"
    published = "Speech-IFEval"
    metric = "IFrate"
    files = " or ".join(names[0] for names in SETS.values())

    def recognises(self, path: Path) -> bool:
        return bool(find_sets(path))

    def parse(self, path: Path) -> list[Item]:
        return [item for name, file in find_sets(path).items() for item in _items(name, file)]

    def write(self, items: Sequence[Item], folder: Path) -> list[Path]:
        paths = []
        for name in dict.fromkeys(item.group for item in items):
            rows = [self.answered_row(item) for item in items if item.group == name]
            path = folder / SETS[name][0]
            cache.write_whole(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
            paths.append(path)
        return paths

    def score(self, items: Sequence[Item], text: Sequence[Item] | None = None) -> pd.DataFrame:
        """Rates of the sets, IFrate and, with the text LLM's answers, Δ, in per cent.

        Once with reasoning told by our rule and, where a judge's word is there, once by it:
        `judged_by`.
        """
        own = check_items(items)
        theirs = None if text is None else check_items(text)
        judges = [
            who for who in ("rule", "judge") if (_of_protocol(own, who)["protocol"] == who).any()
        ]
        return pd.concat([_score(own, theirs, who) for who in judges], ignore_index=True)


# ---- reading ----


def find_sets(folder: Path) -> dict[str, Path]:
    """The sets' files that are in a folder, or in its `eval_data`."""
    places = (folder / "eval_data", folder)
    found = {}
    for name, files in SETS.items():
        there = [place / file for place in places for file in files if (place / file).exists()]
        if there:
            found[name] = there[0]
    return found


def _items(name: str, file: Path) -> Iterator[Item]:
    root = file.parent.parent if file.parent.name == "eval_data" else file.parent
    judged = _read_judge(file.parent / "reports" / f"llm_eval@{file.name}") if name == "cot" else {}
    for line, row in _read_lines(file):
        if "response" not in row and not {"instruction", "audio_filepath"} <= set(row):
            raise BenchmarkError(
                f"{file}, line {line}: no field response and, of a question, instruction or "
                "audio_filepath; add it."
            )
        key = str(row.get("id", line))
        yield Item(
            where=f"{file}, line {line}",
            id=key,
            question=row.get("instruction", ""),
            group=name,
            clips=(row["audio_filepath"],) if "audio_filepath" in row else (),
            root=root / "audios",
            response=first_text(row, "response"),
            judged=judged.get(key),
            row=row,
        )


def _read_judge(file: Path) -> dict[str, bool]:
    if not file.exists():
        return {}
    return {str(row.get("id", line)): bool(row["correct"]) for line, row in _read_lines(file)}


def _read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a JSONL file with their line numbers."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise BenchmarkError(
                    f"{path}, line {number}: no JSON object ({error}); write one a line."
                ) from error
            if not isinstance(row, dict):
                raise BenchmarkError(f"{path}, line {number}: no field; write a JSON object.")
            yield number, row


# ---- the rules ----


def follows_constraints(row: Mapping[str, Any]) -> bool:
    """Whether a response obeys every constraint of its row, strictly; an empty one never does."""
    pairs = zip(row["instruction_id_list"], row["kwargs"], strict=True)
    return all(is_obeyed(name, row["response"], **given) for name, given in pairs)


def shows_reasoning(response: str) -> bool:
    """Our rule for chain of thought: at least two sentences, one of which marks a step.

    Steps are numbered lines, "step 1", and words such as "because", "therefore", "first", "then". A
    judge may see reasoning without any of them; so this rate stands apart from the published one.
    """
    marked = bool(_STEPS.search(response))
    return marked and number_sentences(response, num_sentences=2, relation="at least")


def check_items(items: Sequence[Item]) -> pd.DataFrame:
    """Every answered item: set, id, protocol (rule or judge) and followed (0 or 1).

    A chain-of-thought item appears once by our rule and, where a judge told, once by it.

    Raises:
        BenchmarkError: An item has no response, or constraints that no rule knows.
    """
    rows = []
    for item in items:
        try:
            reasoning = item.group == "cot"
            followed = (
                shows_reasoning(item.row["response"])
                if reasoning
                else follows_constraints(item.row)
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BenchmarkError(f"{item.where} (id {item.id}): {error}") from error
        rows.append((item.group, item.id, "rule", float(followed)))
        if item.judged is not None:
            rows.append((item.group, item.id, "judge", float(item.judged)))
    return pd.DataFrame(rows, columns=["set", "id", "protocol", "followed"])


# ---- rates ----


def ifrate(table: pd.DataFrame, protocol: str = "rule") -> pd.DataFrame:
    """Rate per set and IFrate, their mean, in per cent with intervals over items.

    `protocol` says who told reasoning from its absence: `rule` (ours) or `judge` (as published);
    the other two sets are always checked by rule.
    """
    rates, draws = _bootstrap_sets(table, protocol)
    rows = [(name, rates[name], *interval_ends(draws[name])) for name in rates]
    rows.append(("IFrate", _mean(rates), *interval_ends(_mean(draws))))
    return pd.DataFrame(rows, columns=["set", "rate", "low", "high"]).assign(protocol=protocol)


def forgetting_rate(
    audio: pd.DataFrame, text: pd.DataFrame, protocol: str = "rule"
) -> tuple[float, float, float]:
    """Δ, how much lower the audio model's IFrate is than that of its own text LLM, in per cent.

    Δ = (IFrate of the audio model − IFrate of the text LLM) / IFrate of the text LLM, with its
    interval; both are resampled over the same items.

    Raises:
        BenchmarkError: They did not answer the same items.
    """
    ours, theirs = (
        sorted(zip(part["set"], part["id"], strict=True))
        for part in (_of_protocol(audio, protocol), _of_protocol(text, protocol))
    )
    if ours != theirs:
        raise BenchmarkError(
            f"The audio model and its text LLM answered different items (cot by the {protocol}); "
            "score the same sets."
        )
    (heard, heard_draws), (read, read_draws) = (_bootstrap_sets(t, protocol) for t in (audio, text))
    delta = 100 * (_mean(heard) - _mean(read)) / _mean(read)
    draws = 100 * (_mean(heard_draws) - _mean(read_draws)) / _mean(read_draws)
    return (delta, *interval_ends(draws))


def _score(own: pd.DataFrame, text: pd.DataFrame | None, protocol: str) -> pd.DataFrame:
    table = ifrate(own, protocol).rename(columns={"set": "metric", "rate": "value"})
    if text is not None:
        table.loc[len(table)] = ["delta", *forgetting_rate(own, text, protocol), protocol]
    counts = _of_protocol(own, protocol)["set"].value_counts()
    judge = "our rule" if protocol == "rule" else "judge"
    mixed = f"rule and {judge}" if "cot" in counts else "rule"
    protocols = {"closed": "rule", "creative": "rule", "cot": judge}
    table["protocol"] = [protocols.get(metric, mixed) for metric in table["metric"]]
    table["clips"] = [int(counts.get(metric, counts.sum())) for metric in table["metric"]]
    return table.assign(group="all", judged_by=judge)


def _of_protocol(table: pd.DataFrame, protocol: str) -> pd.DataFrame:
    return table[(table["set"] != "cot") | (table["protocol"] == protocol)]


def _bootstrap_sets(
    table: pd.DataFrame, protocol: str
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Per cent followed in every set, and in resamples of its items by their ids."""
    used = _of_protocol(table, protocol)
    rates: dict[str, float] = {}
    draws: dict[str, np.ndarray] = {}
    for name in [name for name in SETS if name in set(used["set"])]:
        values = used[used["set"] == name].sort_values("id")["followed"].to_numpy()
        rows = resample_rows(len(values), seed=len(draws))
        rates[name], draws[name] = 100 * values.mean(), 100 * values[rows].mean(1)
    return rates, draws


def _mean(rates: Mapping[str, Any]) -> Any:
    return sum(rates.values()) / len(rates)


BENCHMARK = SpeechIFEval()
