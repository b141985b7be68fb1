"""Speech-IFEval (Lu et al. 2025): IFrate of three sets, and Δ against the model's own text LLM.

From kehanlu/Speech-IFEval: a folder with one JSONL file a set; a row holds `instruction,
audio_filepath, instruction_id_list, kwargs` and, once a model answered, `response`; the words of a
judge stand in `reports/llm_eval@<file>`. A row's `id` counts from 0 in one file and from 1 in
another, and chain-of-thought rows have none: a question is known by its clip and its instruction.

Closed-ended and creative items are checked by the published rule, and once more by IFEval's own.
Whether a chain-of-thought item shows reasoning is told by a judge there; here it is told by a rule
of our own, and the two are never mixed.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from desta_lab import cache
from desta_lab.benchmarks import formats
from desta_lab.benchmarks.benchmark import Benchmark, Item
from desta_lab.benchmarks.formats import WORD, BenchmarkError, Fields
from desta_lab.evaluation.constraints import CHECKS, Check, is_obeyed, number_sentences
from desta_lab.evaluation.statistics import interval_ends, resample_rows

# set → the names its file has had (kehanlu/Speech-IFEval: README, and older commits)
SETS = {
    "closed": ("closed_ended_questions.jsonl", "close.jsonl"),
    "creative": ("creative_writing.jsonl", "open.jsonl"),
    "cot": ("chain-of-thought.jsonl",),
}
# who judges → the rule of the constraints, and who tells reasoning
PROTOCOLS = {"rule": ("rule", "our rule"), "judge": ("rule", "judge"), "IFEval": ("IFEval", None)}
FIELDS: Fields = {
    "id": WORD,
    "instruction": str,
    "audio_filepath": str,
    "instruction_id_list": [str],
    "kwargs": [dict],
    "response": str,
}
_BULLET = re.compile(r"\s*(?:\*[^*]|[-•\d])")
_PARAGRAPH_END = re.compile(r"\*\*\*|\n")
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
    compares_text = True
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

        `judged_by`: our rule for reasoning; the judge, where its word is there; and IFEval, whose
        own rule for bullets and paragraphs is then used beside the better word on reasoning.
        """
        own = check_items(items)
        theirs = None if text is None else check_items(text)
        judged = "judge" in set(own["protocol"])
        names = [name for name in PROTOCOLS if name != "judge" or judged]
        return pd.concat([_score(own, theirs, name) for name in names], ignore_index=True)


# ---- reading ----


def find_sets(folder: Path) -> dict[str, Path]:
    """The sets' files that are in a folder, or in its `eval_data`."""
    places = (folder / "eval_data", folder)
    found = {}
    for name, files in SETS.items():
        there = [place / file for place in places for file in files if (place / file).exists()]
        if len(there) > 1:
            fault = f"two files of the set {name}, {there[0].name} and {there[1]}"
            raise BenchmarkError.at(folder, fault, "keep the one that is meant")
        if there:
            found[name] = there[0]
    return found


def _items(name: str, file: Path) -> Iterator[Item]:
    root = file.parent.parent if file.parent.name == "eval_data" else file.parent
    rows = list(_read_rows(file))
    ids = [str(row["id"]) for _, _, row in rows if row.get("id") is not None]
    formats.refuse_repeated(file, ids)
    judge = file.parent / "reports" / f"llm_eval@{file.name}"
    asked = {key for _, key, _ in rows}
    judged = _read_judge(judge, asked) if name == "cot" and judge.exists() else {}
    for where, key, row in rows:
        if "response" not in row and not {"instruction", "audio_filepath"} <= set(row):
            fault = "no field response and, of a question, instruction or audio_filepath"
            raise BenchmarkError.at(where, fault, "add it")
        yield Item(
            where=where,
            id=key,
            question=row.get("instruction") or "",
            group=name,
            clips=(row["audio_filepath"],) if row.get("audio_filepath") else (),
            root=root / "audios",
            response=formats.first_text(row, "response"),
            judged=judged.get(key),
            row=row,
        )


def _question_key(line: int, row: Mapping[str, Any]) -> str:
    """What a question is known by in every file: clip and instruction, else its id or line."""
    if row.get("audio_filepath") and row.get("instruction"):
        return f"{row['audio_filepath']}: {row['instruction']}"
    return str(line if row.get("id") is None else row["id"])


def _read_judge(file: Path, asked: set[str]) -> dict[str, bool]:
    """A judge's word on every answered row, by question."""
    rows = list(_read_rows(file))
    for where, _, row in rows:
        formats.check_fields(where, row, {"correct": bool})
    words = {key: row["correct"] for _, key, row in rows}
    formats.refuse_repeated(file, [key for _, key, _ in rows])
    if apart := sorted(asked ^ words.keys()):
        some = formats.name_some(apart)
        fault = f"{len(words)} judged and {len(asked)} answered, apart in {some}"
        raise BenchmarkError.at(file, fault, "let the judge read these answers, all of them")
    return words


def _read_rows(path: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Rows of a JSONL file with their places and questions, each field of its kind."""
    for number, line in enumerate(formats.read_text(path).split("\n"), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            row = formats.parse_json(line, where)
            formats.check_fields(where, row, {}, FIELDS)
            yield where, _question_key(number, row), row


# ---- the rules ----


def number_bullet_lists(answer: str, *, num_bullets: int) -> bool:
    """The published rule: exactly this many lines start with `*`, `-`, `•` or a digit.

    `**bold**` is none.
    """
    return sum(map(bool, map(_BULLET.match, answer.split("\n")))) == num_bullets


def number_paragraphs(answer: str, *, num_paragraphs: int) -> bool:
    """The published rule: exactly this many texts between line breaks or `***`."""
    return sum(bool(text.strip()) for text in _PARAGRAPH_END.split(answer)) == num_paragraphs


# The repository holds IFEval's code for these two, which does not give its published verdicts;
# these give every one of them (DeSTA2's 1,333 answers).
PUBLISHED: Mapping[str, Check] = {
    "detectable_format:number_bullet_lists": number_bullet_lists,
    "length_constraints:number_paragraphs": number_paragraphs,
}
RULES = {"rule": {**CHECKS, **PUBLISHED}, "IFEval": CHECKS}


def follows_constraints(row: Mapping[str, Any], checks: Mapping[str, Check]) -> bool:
    """Whether a response obeys every constraint of its row, strictly; an empty one never does."""
    names, given = row.get("instruction_id_list") or [], row.get("kwargs") or []
    if not names or len(names) != len(given):
        fault = f"{len(names)} instructions and {len(given)} kwargs"
        raise ValueError(f"{fault}; write one of each for every constraint.")
    pairs = zip(names, given, strict=True)
    return all(is_obeyed(name, row["response"], checks=checks, **given) for name, given in pairs)


def shows_reasoning(response: str) -> bool:
    """Our rule for chain of thought: at least two sentences, one of which marks a step.

    Steps are numbered lines, "step 1", and words such as "because", "therefore", "first", "then". A
    judge may see reasoning without any of them; so this rate stands apart from the published one.
    """
    marked = bool(_STEPS.search(response))
    return marked and number_sentences(response, num_sentences=2, relation="at least")


def check_items(items: Sequence[Item]) -> pd.DataFrame:
    """Every answered item by each who judges it: set, id, protocol and followed (0 or 1).

    The protocols of constraints are `rule`, as published, and `IFEval`; those of reasoning
    `our rule` and, where a judge told, `judge`. Raises BenchmarkError if an item has no response,
    or constraints that no rule knows.
    """
    rows = []
    for item in items:
        if not isinstance(item.row.get("response"), str):
            raise BenchmarkError.at(item.where, "no response", "let the model answer it first")
        try:
            if item.group == "cot":
                words = {"our rule": shows_reasoning(item.row["response"])}
                words |= {} if item.judged is None else {"judge": item.judged}
            else:
                words = {name: follows_constraints(item.row, c) for name, c in RULES.items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            fault = str(error.args[0] if isinstance(error, KeyError) else error).rstrip(".")
            remedy = "" if ";" in fault else "; write what its instruction takes"
            where = f"{item.where} (id {item.row.get('id')})"
            raise BenchmarkError(f"{where}: {fault}{remedy}.") from error
        rows += [(item.group, item.id, name, float(word)) for name, word in words.items()]
    return pd.DataFrame(rows, columns=["set", "id", "protocol", "followed"])


# ---- rates ----


def ifrate(table: pd.DataFrame, protocol: str = "rule") -> pd.DataFrame:
    """Rate per set and IFrate, their mean, in per cent with intervals over items.

    `protocol` is one of `PROTOCOLS`. With `judge` it is as published: constraints by the published
    rule, reasoning by the judge; with `rule` reasoning is told by our rule.
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
    interval; both are resampled over the same items. NaN where the text LLM follows nothing. Raises
    BenchmarkError if they did not answer the same items.
    """
    parts = (_of_protocol(table, protocol) for table in (audio, text))
    ours, theirs = (set(zip(part["set"], part["id"], strict=True)) for part in parts)
    if apart := sorted(f"{name} {key}" for name, key in ours ^ theirs):
        fault = "The audio model and its text LLM answered different items"
        some = f"{formats.name_some(apart)}; cot by {_reasoning_by(audio, protocol)}"
        raise BenchmarkError(f"{fault} ({len(apart)}: {some}); score the same sets.")
    (heard, heard_draws), (read, read_draws) = (_bootstrap_sets(t, protocol) for t in (audio, text))
    with np.errstate(divide="ignore", invalid="ignore"):
        delta = 100 * (_mean(heard) - _mean(read)) / _mean(read)
        draws = 100 * (_mean(heard_draws) - _mean(read_draws)) / _mean(read_draws)
    return (float(delta), *interval_ends(draws))


def _score(own: pd.DataFrame, text: pd.DataFrame | None, protocol: str) -> pd.DataFrame:
    table = ifrate(own, protocol).rename(columns={"set": "metric", "rate": "value"})
    if text is not None:
        table.loc[len(table)] = ["delta", *forgetting_rate(own, text, protocol), protocol]
    counts = _of_protocol(own, protocol)["set"].value_counts()
    rule, judge = PROTOCOLS[protocol][0], _reasoning_by(own, protocol)
    mixed = f"{rule} and {judge}" if "cot" in counts else rule
    protocols = {"closed": rule, "creative": rule, "cot": judge}
    table["protocol"] = [protocols.get(metric, mixed) for metric in table["metric"]]
    table["clips"] = [int(counts.get(metric, counts.sum())) for metric in table["metric"]]
    return table.assign(group="all", judged_by="our rule" if protocol == "rule" else protocol)


def _reasoning_by(table: pd.DataFrame, protocol: str) -> str:
    """Who tells reasoning under a protocol: the judge under IFEval, too, if it was asked."""
    judge = "judge" if "judge" in set(table["protocol"]) else "our rule"
    return PROTOCOLS[protocol][1] or judge


def _of_protocol(table: pd.DataFrame, protocol: str) -> pd.DataFrame:
    judges = (PROTOCOLS[protocol][0], _reasoning_by(table, protocol))
    return table[table["protocol"].isin(judges)]


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
    if not rates:
        raise BenchmarkError(f"No item was judged by the protocol {protocol!r}; take another.")
    return rates, draws


def _mean(rates: Mapping[str, Any]) -> Any:
    return sum(rates.values()) / len(rates)


BENCHMARK = SpeechIFEval()
