"""SAKURA (Yang et al. 2025): a single-hop and a multi-hop choice about the same clip.

From ckyang1124/SAKURA: `<Track>/metadata.csv` with the columns file, attribute_label,
single_instruction, single_answer, multi_instruction, multi_answer, and the clips in
`<Track>/audio/`. An answer file holds one track and hop, {attribute, type, results: {clip:
{instruction, response, label}}}; the words of a judge stand beside it in `<name>_judgements.json`.
"""

import csv
import io
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

import pandas as pd

from desta_lab.benchmarks import formats
from desta_lab.benchmarks.benchmark import Item
from desta_lab.benchmarks.formats import ANSWER_FIELDS, WORD, BenchmarkError, Fields
from desta_lab.benchmarks.multiple_choice import MultipleChoice

HOPS = ("single", "multi")
QUESTION_FIELDS: Fields = {"file": str} | {
    f"{hop}_{part}": str for hop in HOPS for part in ("instruction", "answer")
}
RESULTS_FIELDS: Fields = {"attribute": str, "type": str, "results": dict}
VERDICTS = {"correct": True, "incorrect": False}


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
        tables = formats.find_files(path, "metadata.csv")
        if tables:
            return [item for table in tables for item in _questions(table)]
        return [item for file in formats.find_json(path) for item in _answers(file)]

    def write(self, items: Sequence[Item], folder: Path) -> list[Path]:
        paths = []
        for group, hop in dict.fromkeys((item.group, item.hop) for item in items):
            some = [item for item in items if (item.group, item.hop) == (group, hop)]
            results = {
                item.id: {"instruction": item.question, "label": item.answer}
                | self.answered_row(item)
                for item in some
            }
            content = {"attribute": group, "type": hop, "results": results}
            paths.append(formats.write_json(folder / f"{group}_{hop}.json", content))
        return paths

    def is_right(self, item: Item, right: int) -> bool | None:
        return item.judged

    def clip_metrics(self, table: pd.DataFrame, protocol: str) -> pd.DataFrame:
        """Single, multi, and multi where the same clip's single was right: hops are paired by clip.

        Raises BenchmarkError if a clip has one hop only.
        """
        hops = table.pivot(index="id", columns="hop", values=protocol).reindex(columns=list(HOPS))
        lone = hops.index[hops.isna().any(axis=1) & hops.notna().any(axis=1)]
        if len(lone):
            where = table.set_index("id").loc[[lone[0]], "where"].iloc[0]
            fault = f"answered in one hop and not in the other ({protocol})"
            raise BenchmarkError.at(where, fault, "answer both, or neither")
        hops = hops.dropna()
        return 100 * hops.assign(**{"multi | single": hops["multi"].where(hops["single"] == 1)})


def _questions(table: Path) -> Iterator[Item]:
    track = table.resolve().parent
    for where, row in _read_table(table):
        formats.check_fields(where, row, QUESTION_FIELDS)
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
            )


def _read_table(table: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a CSV file, each with its place."""
    rows = csv.DictReader(io.StringIO(formats.read_text(table), newline=""), strict=True)
    try:
        columns = rows.fieldnames or []
        formats.refuse_repeated(f"{table}, line 1", [f"the column {name!r}" for name in columns])
        for row in rows:
            where = f"{table}, line {rows.line_num}"
            if None in row:
                fault = f"{len(row[None])} cells more than columns"
                raise BenchmarkError.at(where, fault, "put texts with commas in quotes")
            yield where, row
    except csv.Error as error:
        where = f"{table}, line {rows.reader.line_num}"
        raise BenchmarkError.at(where, f"no CSV ({error})", "correct it") from error


def _answers(file: Path) -> Iterator[Item]:
    content = formats.read_json(file)
    formats.check_fields(str(file), content, RESULTS_FIELDS)
    group, hop = content["attribute"].lower(), content["type"]
    if hop not in HOPS:
        fault = f"type {hop!r} is neither single nor multi"
        raise BenchmarkError.at(file, fault, "correct it")
    if PureWindowsPath(group).name != group:  # it will be a part of a file's name
        fault = f"the attribute {content['attribute']!r} is a path"
        raise BenchmarkError.at(file, fault, "write a name without slashes")
    judged = _read_judgements(file.with_name(f"{file.stem}_judgements.json"), content["results"])
    for clip, row in content["results"].items():
        where = f"{file}, {clip}"
        fields: Fields = {"instruction": str, "label": str}
        formats.check_fields(where, row, fields, {"response": WORD, **ANSWER_FIELDS})
        yield Item(
            where=where,
            id=clip,
            question=row["instruction"],
            group=group,
            hop=hop,
            clips=(clip,),
            root=file.parent,
            options=lettered_options(row["instruction"], where),
            answer=row["label"],
            response=formats.first_text(row, "response"),
            judged=judged.get(clip),
            **formats.option_scores(row),
        )


def _read_judgements(file: Path, asked: Collection[str]) -> dict[str, bool]:
    """A judge's word by clip; where it gave none there is none."""
    if not file.exists():
        return {}
    content = formats.read_json(file)
    formats.check_fields(str(file), content, {"results": dict})
    if unknown := [clip for clip in content["results"] if clip not in asked]:
        fault = f"{formats.name_some(unknown)} judged, but not answered"
        raise BenchmarkError.at(file, fault, "let the judge read these answers")
    judged = {}
    for clip, row in content["results"].items():
        formats.check_fields(f"{file}, {clip}", row, {}, {"Judgement": str})
        word = (row.get("Judgement") or "").strip().lower()
        if word and word not in VERDICTS:
            fault = f"the judgement {word!r} is neither correct nor incorrect"
            raise BenchmarkError.at(f"{file}, {clip}", fault, "let it be judged again")
        if word:
            judged[clip] = VERDICTS[word]
    return judged


def lettered_options(question: str, where: str = "the question") -> tuple[str, ...]:
    """The options written as "(a) … (b) …" at the end of a question.

    Raises BenchmarkError if there are not two of them with letters in order.
    """
    _, *parts = re.split(r"\(([A-Za-z])\)", question)
    letters = [letter.lower() for letter in parts[::2]]
    first = len(letters) - 1 - letters[::-1].index("a") if "a" in letters else len(letters)
    found = letters[first:]
    if len(found) < 2 or found != [chr(ord("a") + i) for i in range(len(found))]:
        fault = f"no options (a) … (b) … in {question!r}"
        raise BenchmarkError.at(where, fault, "write them at its end, in order")
    return tuple(text.strip() for text in parts[1::2][first:])


BENCHMARK = Sakura()
