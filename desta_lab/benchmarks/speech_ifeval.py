"""Speech-IFEval (Lu et al. 2025, kehanlu/Speech-IFEval): IFrate of three sets, and Δ against the model's own text LLM.

Closed-ended and creative items are checked by rule. Whether a chain-of-thought item shows reasoning is told by a judge
there; here it is told by a rule of our own, and the two are never mixed.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from desta_lab.benchmarks.test_sets import SETS, BenchmarkError, read_jsonl, sets
from desta_lab.evaluation.constraints import is_obeyed, number_sentences
from desta_lab.evaluation.statistics import interval_ends, resample_rows

_STEPS = re.compile(
    r"^[ \t]*(?:step\s*\d|\d+[.)]\s)|\b(?:because|therefore|thus|hence|so that|since|first(?:ly)?|then|finally)\b",
    re.IGNORECASE | re.MULTILINE,
)


def follows(row: Mapping[str, Any]) -> bool:
    """Whether a response obeys every constraint of its row, strictly; an empty one never does."""
    pairs = zip(row["instruction_id_list"], row["kwargs"], strict=True)
    return all(is_obeyed(name, row["response"], **given) for name, given in pairs)


def reasons(response: str) -> bool:
    """Our rule for chain of thought: at least two sentences, one of them with a word or number that marks a step.

    Steps are numbered lines, "step 1", and words such as "because", "therefore", "first", "then". A judge may see
    reasoning without any of them; so this rate stands apart from the published one.
    """
    return bool(_STEPS.search(response)) and number_sentences(
        response, num_sentences=2, relation="at least"
    )


def items(folder: Path | str) -> pd.DataFrame:
    """Every item of a folder of answers: set, id (or line), constraint, protocol (rule or judge), followed (0 or 1).

    Chain-of-thought items appear once by our rule and, where `reports/llm_eval@chain-of-thought.jsonl` holds a judge's
    word (`correct`), once by it.

    Raises:
        BenchmarkError: no set's file is there, or one is not in its format.
    """
    folder, rows = Path(folder), []
    for name, path in sets(folder).items():
        fields = ("response",) if name == "cot" else ("response", "instruction_id_list", "kwargs")
        for line, row in read_jsonl(path, fields):
            kind = "reasoning" if name == "cot" else "+".join(row["instruction_id_list"])
            try:
                right = reasons(row["response"]) if name == "cot" else follows(row)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise BenchmarkError(
                    f"{path}, line {line} (id {row.get('id', line)}): {error}"
                ) from error
            rows.append(
                {
                    "set": name,
                    "id": str(row.get("id", line)),
                    "constraint": kind,
                    "protocol": "rule",
                    "followed": right,
                }
            )
        judged = path.parent / "reports" / f"llm_eval@{path.name}"
        if name == "cot" and judged.exists():
            for line, row in read_jsonl(judged, ("correct",)):
                rows.append(
                    {
                        "set": "cot",
                        "id": str(row.get("id", line)),
                        "constraint": "reasoning",
                        "protocol": "judge",
                        "followed": bool(row["correct"]),
                    }
                )
    if not rows:
        raise BenchmarkError(
            f"{folder}: no {' or '.join(files[0] for files in SETS.values())} here."
        )
    return pd.DataFrame(rows).astype({"followed": float})


def ifrate(items: pd.DataFrame, protocol: str = "rule") -> pd.DataFrame:
    """Rate per set and IFrate, the mean of the sets that are there, in per cent with intervals over items.

    `protocol` says who told reasoning from its absence: `rule` (ours) or `judge` (as published); the other two sets
    are always checked by rule.
    """
    named, drawn = _drawn(items, protocol)
    rows = [{"set": name, "rate": named[name], **_ends(drawn[name])} for name in named]
    rows.append({"set": "IFrate", "rate": _mean(named), **_ends(_mean(drawn))})
    return pd.DataFrame(rows).assign(protocol=protocol)


def delta(audio: pd.DataFrame, text: pd.DataFrame, protocol: str = "rule") -> dict[str, float]:
    """Δ = (IFrate of the audio model − IFrate of its own text LLM) / IFrate of the text LLM, in per cent.

    Both are resampled over the same items. Raises BenchmarkError where they did not answer the same ones.
    """
    ours, theirs = (_used(items, protocol) for items in (audio, text))
    if sorted(zip(ours["set"], ours["id"], strict=True)) != sorted(
        zip(theirs["set"], theirs["id"], strict=True)
    ):
        raise BenchmarkError(
            f"The audio model and its text LLM answered different items (cot by the {protocol}); score the same sets."
        )
    (heard, heard_drawn), (read, read_drawn) = _drawn(audio, protocol), _drawn(text, protocol)
    delta = 100 * (_mean(heard_drawn) - _mean(read_drawn)) / _mean(read_drawn)
    return {"delta": 100 * (_mean(heard) - _mean(read)) / _mean(read), **_ends(delta)}


def rates(items: pd.DataFrame, text: pd.DataFrame | None = None) -> pd.DataFrame:
    """Rates of Speech-IFEval's sets, IFrate and, with the text LLM's answers, Δ, in the columns of `choices.rates`.

    Once with reasoning told by our rule and, where a judge's word is there, once by it.
    """
    tables = []
    for who in [who for who in ("rule", "judge") if (_used(items, who)["protocol"] == who).any()]:
        table = ifrate(items, who).rename(columns={"set": "metric", "rate": "value"})
        if text is not None:
            lost = delta(items, text, who)
            table.loc[len(table)] = ["delta", lost["delta"], lost["low"], lost["high"], who]
        used = _used(items, who)
        told = "our rule" if who == "rule" else "judge"
        mixed = f"rule and {told}" if "cot" in set(used["set"]) else "rule"
        how = {"closed": "rule", "creative": "rule", "cot": told}
        counts = used["set"].value_counts()
        table["protocol"] = [how.get(metric, mixed) for metric in table["metric"]]
        table["clips"] = [int(counts.get(metric, len(used))) for metric in table["metric"]]
        tables.append(table.assign(group="all", told=told))
    return pd.concat(tables, ignore_index=True)


def _used(items: pd.DataFrame, protocol: str) -> pd.DataFrame:
    return items[(items["set"] != "cot") | (items["protocol"] == protocol)]


def _drawn(items: pd.DataFrame, protocol: str) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Per cent followed in every set, and in resamples of its items (the same resamples for the same ids)."""
    used = _used(items, protocol)
    rates: dict[str, float] = {}
    drawn: dict[str, np.ndarray] = {}
    for name in [name for name in SETS if name in set(used["set"])]:
        values = used[used["set"] == name].sort_values("id")["followed"].to_numpy()
        picks = resample_rows(len(values), seed=len(drawn))
        rates[name], drawn[name] = 100 * values.mean(), 100 * values[picks].mean(1)
    return rates, drawn


def _mean(rates: Mapping[str, Any]) -> Any:
    return sum(rates.values()) / len(rates)


def _ends(values: np.ndarray) -> dict[str, float]:
    low, high = interval_ends(values)
    return {"low": low, "high": high}
