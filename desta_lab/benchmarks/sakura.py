"""SAKURA (Yang et al. 2025): a single-hop and a multi-hop choice about the same clip.

From ckyang1124/SAKURA: `<Track>/metadata.csv` with the columns file, attribute_label,
single_instruction, single_answer, multi_instruction, multi_answer, and the clips in
`<Track>/audio/`. An answer file holds one track and hop, {attribute, type, results: {clip:
{instruction, response, label}}}; the words of a judge stand beside it in `<name>_judgements.json`.
"""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from desta_lab.benchmarks.benchmark import (
    BenchmarkError,
    Item,
    find_files,
    find_json,
    first_text,
    option_scores,
    read_json,
    require_fields,
    write_json,
)
from desta_lab.benchmarks.multiple_choice import MultipleChoice

HOPS = ("single", "multi")


class Sakura(MultipleChoice):
    """Four tracks; a judge, which is another language model, tells whether an answer is right."""

    name = "sakura"
    published = "SAKURA"
    metric = "multi"
    files = "<Track>/metadata.csv, or a JSON object with results"
    questions = "metadata.csv"
    answers = "results"
    official = "judge"

    def parse(self, path: Path) -> list[Item]:
        tables = find_files(path, "metadata.csv")
        if tables:
            return [item for table in tables for item in _questions(table)]
        return [item for file in find_json(path) for item in _answers(file)]

    def write(self, items: Sequence[Item], folder: Path) -> list[Path]:
        paths = []
        for group, hop in dict.fromkeys((item.group, item.hop) for item in items):
            some = [item for item in items if (item.group, item.hop) == (group, hop)]
            results = {item.id: self._result(item) for item in some}
            content = {"attribute": group, "type": hop, "results": results}
            paths.append(write_json(folder / f"{group}_{hop}.json", content))
        return paths

    def _result(self, item: Item) -> dict[str, Any]:
        """An answer as its authors write it, without the question's row, which holds both hops."""
        about = {"instruction": item.question, "label": item.answer}
        return {**about, **self.answered_row(replace(item, row={}))}

    def is_right(self, item: Item, right: int) -> bool | None:
        return item.judged

    def clip_metrics(self, table: pd.DataFrame, protocol: str) -> pd.DataFrame:
        """Single, multi, and multi where the same clip's single was right: hops are paired by clip.

        Raises:
            BenchmarkError: A clip has one hop only.
        """
        hops = table.pivot(index="id", columns="hop", values=protocol).reindex(columns=list(HOPS))
        lone = hops.index[hops.isna().any(axis=1) & hops.notna().any(axis=1)]
        if len(lone):
            raise BenchmarkError(
                f"{lone[0]}: answered in one hop and not in the other ({protocol}); answer both, "
                "or neither."
            )
        hops = hops.dropna()
        return 100 * hops.assign(**{"multi | single": hops["multi"].where(hops["single"] == 1)})


def _questions(table: Path) -> Iterator[Item]:
    track = table.resolve().parent
    with table.open(encoding="utf-8-sig", newline="") as lines:
        rows = csv.DictReader(lines)
        for row in rows:
            where = f"{table}, line {rows.line_num}"
            parts = [f"{hop}_{part}" for hop in HOPS for part in ("instruction", "answer")]
            require_fields(where, row, ["file", *parts])
            clip = f"{track.name}/audio/{row['file']}"
            for hop in HOPS:
                question = row[f"{hop}_instruction"]
                yield Item(
                    where=where,
                    id=clip,
                    question=question,
                    group=track.name.lower(),
                    hop=hop,
                    clips=(clip,),
                    root=track.parent,
                    options=lettered_options(question, where),
                    answer=row[f"{hop}_answer"],
                    row=row,
                )


def _answers(file: Path) -> Iterator[Item]:
    content = read_json(file)
    require_fields(str(file), content, ("attribute", "type", "results"))
    if content["type"] not in HOPS:
        raise BenchmarkError(
            f"{file}: type {content['type']!r} is neither single nor multi; correct it."
        )
    judged = _read_judgements(file.with_name(f"{file.stem}_judgements.json"))
    for clip, row in content["results"].items():
        where = f"{file}, {clip}"
        require_fields(where, row, ("instruction", "label"))
        yield Item(
            where=where,
            id=clip,
            question=row["instruction"],
            group=content["attribute"].lower(),
            hop=content["type"],
            clips=(clip,),
            root=file.parent,
            options=lettered_options(row["instruction"], where),
            answer=row["label"],
            response=first_text(row, "response"),
            judged=judged.get(clip),
            row=row,
            **option_scores(row),
        )


def _read_judgements(file: Path) -> dict[str, bool]:
    if not file.exists():
        return {}
    content = read_json(file)
    require_fields(str(file), content, ("results",))
    verdicts = {"correct": True, "incorrect": False}
    words = {
        clip: str(row.get("Judgement", "")).strip().lower()
        for clip, row in content["results"].items()
    }
    return {clip: verdicts[word] for clip, word in words.items() if word in verdicts}


def lettered_options(question: str, where: str = "the question") -> tuple[str, ...]:
    """The options written as "(a) … (b) …" at the end of a question.

    Raises:
        BenchmarkError: There are not two of them with letters in order.
    """
    _, *parts = re.split(r"\(([A-Za-z])\)", question)
    letters = [letter.lower() for letter in parts[::2]]
    first = len(letters) - 1 - letters[::-1].index("a") if "a" in letters else len(letters)
    found = letters[first:]
    if len(found) < 2 or found != [chr(ord("a") + i) for i in range(len(found))]:
        raise BenchmarkError(
            f"{where}: no options (a) … (b) … in {question!r}; write them at its end, in order."
        )
    return tuple(text.strip() for text in parts[1::2][first:])


BENCHMARK = Sakura()
