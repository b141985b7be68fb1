"""Dynamic-SUPERB (Huang et al. 2024): one instruction a clip, in many instances.

From dynamic-superb/multimodal-llama: `<instance>/metadata.json`, {clip: {instruction, label, …}},
beside its clips; answers are `<instance>.json`, {predictions: [{id, pred, label, instruction}]}.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from desta_lab.benchmarks import formats
from desta_lab.benchmarks.benchmark import Item
from desta_lab.benchmarks.formats import ANSWER_FIELDS, WORD, BenchmarkError, Fields
from desta_lab.benchmarks.multiple_choice import MAX_OPTIONS, MultipleChoice

REQUIRED: Fields = {"instruction": str, "label": WORD}
OPTIONAL: Fields = {"id": WORD, "pred": WORD, "text": str, "file2": str, **ANSWER_FIELDS}
# up to the end of the sentence, behind which "Answer with one word." may stand
_LISTED = re.compile(r"answer could be:?\s*(.+?)(?:[.?!](?=\s|$)|\n|$)", re.IGNORECASE)


class DynamicSuperb(MultipleChoice):
    """Its closed questions: those whose instruction or file shows what could be answered."""

    name = "dynamic-superb"
    files = "<instance>/metadata.json, or a JSON object with predictions"
    questions = "metadata.json"
    answers = "predictions"
    response_field = "pred"
    official = "exact match"

    def parse(self, path: Path) -> list[Item]:
        items = []
        for instance, file, rows in _instances(path):
            for clip, row in rows:
                formats.check_fields(f"{file}, {clip}", row, REQUIRED, OPTIONAL)
            labels = tuple(sorted({str(row["label"]) for _, row in rows}))
            items += [_item(instance, file, clip, row, labels) for clip, row in rows]
        return items

    def write(self, items: Sequence[Item], folder: Path) -> list[Path]:
        paths = []
        for group in dict.fromkeys(item.group for item in items):
            some = [item for item in items if item.group == group]
            rows = [{**self.answered_row(item), "id": item.id} for item in some]
            paths.append(formats.write_json(folder / f"{group}.json", {"predictions": rows}))
        return paths

    def is_right(self, item: Item, right: int) -> bool | None:
        """Its own rule: the response is the label, whatever the case."""
        if item.response is None:
            return None
        return item.response.strip().casefold() == item.options[right].casefold()


def _instances(path: Path) -> Iterator[tuple[str, Path, list[tuple[str, Any]]]]:
    """(instance, file, (clip, row)s): of the questions or, where there are none, of the answers."""
    questions = [file.resolve() for file in formats.find_files(path, "metadata.json")]
    for file in questions:
        content = formats.read_json(file)
        if not isinstance(content, dict):
            remedy = "write Dynamic-SUPERB's, or name the right --benchmark"
            raise BenchmarkError.at(file, "no JSON object of clips", remedy)
        yield file.parent.name, file, list(content.items())
    for file in [] if questions else formats.find_json(path):
        content = formats.read_json(file)
        formats.check_fields(str(file), content, {"predictions": [dict]})
        rows = enumerate(content["predictions"])
        yield file.stem, file, [(str(row.get("id", f"prediction {n}")), row) for n, row in rows]


def _item(instance: str, file: Path, clip: str, row: dict, labels: tuple[str, ...]) -> Item:
    where = f"{file}, {clip}"
    if not Path(clip).name:
        raise BenchmarkError.at(where, f"{clip!r} names no clip", "write the name of its file")
    options = _listed_options(row["instruction"], str(row["label"])) or labels
    if not 2 <= len(options) <= MAX_OPTIONS:
        remedy = "only closed questions are scored, whose instruction says 'The answer could be … "
        remedy += f"or …' or whose file has 2 to {MAX_OPTIONS} different labels"
        raise BenchmarkError.at(where, f"{len(options)} options", remedy)
    pair = Path(clip).with_name(f"{Path(clip).stem}_pair{Path(clip).suffix}").as_posix()
    clips = [clip, pair] if row.get("file2") else [clip]
    return Item(
        where=where,
        id=clip,
        question=row["instruction"] + (f"\n{row['text']}" if row.get("text") else ""),
        group=instance,
        clips=tuple(f"{instance}/{name}" for name in clips),
        root=file.parent.parent,
        options=options,
        answer=str(row["label"]),
        response=formats.first_text(row, "pred"),
        row=row,
        **formats.option_scores(row),
    )


def _listed_options(instruction: str, label: str) -> tuple[str, ...]:
    """The options after "the answer could be", where the right label is among them."""
    found = _LISTED.search(instruction)
    if not found:
        return ()
    words = re.split(r",\s*(?:or\s+)?|\s+or\s+", found[1].strip())
    options = tuple(word.strip(" '\"") for word in words)
    return options if label.casefold() in map(str.casefold, options) else ()


BENCHMARK = DynamicSuperb()
