"""MMAU (Sakshi et al. 2024): questions about sound, music and speech with given choices.

From Sakshi113/MMAU: a JSON list of {id, audio_id, question, choices, answer, task}; answers are the
same list with `model_prediction` (its README) or `model_output` (its scoring script, and
kehanlu/DeSTA2.5-Audio). We write both. Some questions of MMAU mini list a choice twice.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from desta_lab.benchmarks import formats
from desta_lab.benchmarks.benchmark import Item
from desta_lab.benchmarks.formats import ANSWER_FIELDS, WORD, BenchmarkError, Fields
from desta_lab.benchmarks.multiple_choice import MAX_OPTIONS, MultipleChoice, strip_letters

REQUIRED: Fields = {"id": WORD, "audio_id": str, "question": str, "choices": [WORD]}
RESPONSES = ("model_prediction", "model_output")
OPTIONAL: Fields = {"answer": WORD, "task": str, **dict.fromkeys(RESPONSES, WORD), **ANSWER_FIELDS}


class MMAU(MultipleChoice):
    """A JSON list; an answer is right by the words that it says."""

    name = "mmau"
    published = "MMAU v05.15.25 mini"
    files = "a JSON list of questions"
    response_field = RESPONSES[0]
    official = "string match"
    averages_items = True

    def recognises(self, path: Path) -> bool:
        return any(isinstance(formats.read_json(file), list) for file in formats.find_json(path))

    def parse(self, path: Path) -> list[Item]:
        items = []
        for file in formats.find_json(path):
            rows = formats.read_json(file)
            if not isinstance(rows, list):
                remedy = "write MMAU's JSON list, or name the right --benchmark"
                raise BenchmarkError.at(file, "no list of questions", remedy)
            items += [self._item(file, index, row) for index, row in enumerate(rows)]
        return items

    def _item(self, file: Path, index: int, row: Any) -> Item:
        where = f"{file}, item {index}"
        formats.check_fields(where, row, REQUIRED, OPTIONAL)
        options = strip_letters(row["choices"], where)
        if not 2 <= len(options) <= MAX_OPTIONS:
            remedy = f"write 2 to {MAX_OPTIONS}"
            raise BenchmarkError.at(where, f"{len(options)} choices", remedy)
        if len({str(row[name]) for name in RESPONSES if row.get(name) is not None}) > 1:
            fault = f"{' and '.join(RESPONSES)} differ"
            raise BenchmarkError.at(where, fault, "keep the model's answer in both")
        listed = ", ".join(f'"{option}"' for option in options[:-1]) + f' or "{options[-1]}"'
        return Item(
            where=where,
            id=str(row["id"]),
            question=f"{row['question']} Choose from the following options: {listed}.",
            group=row.get("task") or "",
            clips=(row["audio_id"].removeprefix("./"),),
            root=file.resolve().parent,
            options=options,
            answer=formats.first_text(row, "answer"),
            response=formats.first_text(row, *RESPONSES),
            row=row,
            **formats.option_scores(row),
        )

    def write(self, items: Sequence[Item], folder: Path) -> list[Path]:
        rows = [self.answered_row(item) | dict.fromkeys(RESPONSES, item.response) for item in items]
        return [formats.write_json(folder / "mmau.json", rows)]

    def is_right(self, item: Item, right: int) -> bool | None:
        if item.response is None:
            return None
        choices = [str(choice) for choice in item.row["choices"]]
        return matches_words(item.response, str(item.row["answer"]), choices)


def matches_words(response: str, answer: str, options: Sequence[str]) -> bool:
    """MMAU's own rule: every word of the answer is said, and no word of only another option."""
    said, own, *others = (
        set(re.findall(r"\w+", text.lower())) for text in (response, answer, *options)
    )
    foreign = {word for words in others if words != own for word in words - own}
    return bool(said) and own <= said and not said & foreign


BENCHMARK = MMAU()
