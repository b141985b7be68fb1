"""Other people's test sets in their own formats: Speech-IFEval, SAKURA, MMAU and Dynamic-SUPERB.

Speech-IFEval (Lu et al. 2025, kehanlu/Speech-IFEval): a folder with one JSONL file a set; a row holds `id,
instruction, audio_filepath, instruction_id_list, kwargs, metric, label, dataset` and, once a model answered,
`response`; a judge's words stand in `reports/llm_eval@<file>`.

SAKURA (ckyang1124/SAKURA, data/README.md and evaluation/README.md): `<Track>/metadata.csv` with the columns file,
attribute_label, single_instruction, single_answer, multi_instruction, multi_answer, the clips in `<Track>/audio/`; an
answer file holds one track and hop, {attribute, type, results: {clip: {instruction, response, label}}}, and a judge's
words stand beside it in `<name>_judgements.json`.

MMAU (Sakshi113/MMAU, README and mmau-test-mini.json): a JSON list of {id, audio_id, question, choices, answer, task};
answers are the same list with `model_prediction` (kehanlu/DeSTA2.5-Audio also has `model_output`).

Dynamic-SUPERB (dynamic-superb/multimodal-llama, README): `<instance>/metadata.json`, {clip: {instruction, label, …}},
beside its clips; answers are `<instance>.json`, {predictions: [{id, pred, label, instruction}]}.

Ours add `scores` and `silence` to an answer: log-probability per token of every option, hearing the clip or nothing.
`speech_ifeval` and `choices` score the answers, `comparison` sets them beside published ones.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# set → the names its file has had (kehanlu/Speech-IFEval: README, and older commits)
SETS = {
    "closed": ("closed_ended_questions.jsonl", "close.jsonl"),
    "creative": ("creative_writing.jsonl", "open.jsonl"),
    "cot": ("chain-of-thought.jsonl",),
}
CLOSED = 26  # options a question may have: they are known by their letters
_LISTED = re.compile(r"answer could be:?\s*(.+)", re.IGNORECASE | re.DOTALL)
_LETTERED = re.compile(r"^\s*\(?([A-Za-z])[).:]\s*")


class BenchmarkError(ValueError):
    """A file of a test set is not in its format; the message names the file, the line and what is missing."""


def which(path: Path) -> str:
    """The test set that the files under a path are of, told by their names and shape.

    Raises:
        BenchmarkError: nothing here is like any of them; the message says what each would hold.
    """
    if sets(path):
        return "speech-ifeval"
    if _found(path, "metadata.csv"):
        return "sakura"
    if _found(path, "metadata.json"):
        return "dynamic-superb"
    for file in _json_files(path):
        content = _load(file)
        if isinstance(content, list):
            return "mmau"
        for key, name in (("results", "sakura"), ("predictions", "dynamic-superb")):
            if isinstance(content, dict) and key in content:
                return name
    raise BenchmarkError(
        f"{path}: no {' or '.join(files[0] for files in SETS.values())} (Speech-IFEval), <Track>/metadata.csv or JSON "
        "with results (SAKURA), JSON list (MMAU), metadata.json or JSON with predictions (Dynamic-SUPERB) here; give "
        "the folder or file of the questions or answers, or name the test set with --benchmark."
    )


# ---- Speech-IFEval ----


def read_jsonl(path: Path, needed: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a JSONL file with their line numbers, each with the needed fields.

    Raises:
        BenchmarkError: no such file, a line that is no JSON object, or one without a needed field.
    """
    if not path.exists():
        raise BenchmarkError(
            f"{path}: no such file; give the folder or file that the model's answers were written to."
        )
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
            missing = [name for name in needed if not isinstance(row, dict) or name not in row]
            if missing:
                raise BenchmarkError(
                    f"{path}, line {number}: no field {', '.join(missing)}; add it."
                )
            yield number, row


def sets(folder: Path) -> dict[str, Path]:
    """Speech-IFEval's files that are in a folder, or in its `eval_data`."""
    places = [folder / "eval_data", folder]
    found = {name: [p / file for p in places for file in files] for name, files in SETS.items()}
    return {
        name: there[0]
        for name, paths in found.items()
        if (there := [path for path in paths if path.exists()])
    }


# ---- questions and answers ----


@dataclass(frozen=True)
class Item:
    """One question of a test set and, where a model answered it, the answer.

    `scores` and `silence` are log-probabilities per token of every option, hearing the clip and hearing nothing;
    `judged` is a judge's word. `row` is the question as its file has it, `where` says where that is.
    """

    where: str
    id: str
    question: str
    group: str = ""  # track, task or instance
    hop: str = ""
    clips: tuple[str, ...] = ()  # relative to `root`
    root: Path = Path()
    options: tuple[str, ...] = ()
    answer: str | None = None
    response: str | None = None
    scores: tuple[float, ...] | None = None
    silence: tuple[float, ...] | None = None
    judged: bool | None = None
    row: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("scores", "silence"):
            given = getattr(self, name)
            if given is not None and len(given) != len(self.options):
                raise BenchmarkError(
                    f"{self.where}: {len(given)} {name} for {len(self.options)} options ({', '.join(self.options)}); "
                    "write one for each, in their order."
                )


def read(path: Path | str, benchmark: str) -> list[Item]:
    """The questions of a test set (Speech-IFEval's too), with their answers where the files hold them.

    Raises:
        BenchmarkError: a file or row is not in the format; the message names it and says what to do.
    """
    items = {
        "sakura": _sakura,
        "mmau": _mmau,
        "dynamic-superb": _dynamic,
        "speech-ifeval": _speech,
    }[benchmark](Path(path))
    again = [
        key for key, count in Counter((i.group, i.hop, i.id) for i in items).items() if count > 1
    ]
    if again:
        raise BenchmarkError(
            f"{path}: {' '.join(again[0]).strip()} is there twice; keep one of them."
        )
    if not items:
        raise BenchmarkError(f"{path}: no question here; give the folder or file that holds them.")
    return items


def _json_files(path: Path) -> list[Path]:
    names = sorted(path.glob("*.json")) if path.is_dir() else [path]
    return [
        name for name in names if name.suffix == ".json" and not name.stem.endswith("_judgements")
    ]


def _found(path: Path, name: str) -> list[Path]:
    """Files of this name: the path itself, or in it, or in its folders."""
    return [path] if path.name == name else sorted([*path.glob(name), *path.glob(f"*/{name}")])


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"{path}: no JSON ({error}); write the file again.") from error


def _need(where: str, row: Any, names: Sequence[str]) -> None:
    missing = [
        name for name in names if not isinstance(row, dict) or row.get(name) in (None, "", [])
    ]
    if missing:
        raise BenchmarkError(
            f"{where}: no {', '.join(missing)}; add it, or name the right --benchmark."
        )


def _text(row: Mapping[str, Any], *names: str) -> str | None:
    """The first of these fields that is there, as text."""
    return next((str(row[name]) for name in names if row.get(name) is not None), None)


def _given(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: tuple(map(float, row[name]))
        for name in ("scores", "silence")
        if row.get(name) is not None
    }


def _sakura(path: Path) -> list[Item]:
    items = []
    for table in _found(path, "metadata.csv"):
        with table.open(encoding="utf-8-sig", newline="") as lines:
            rows = csv.DictReader(lines)
            for row in rows:
                where = f"{table}, line {rows.line_num}"
                names = [
                    f"{hop}_{part}"
                    for hop in ("single", "multi")
                    for part in ("instruction", "answer")
                ]
                _need(where, row, ["file", *names])
                track, clip = (
                    table.resolve().parent.name.lower(),
                    f"{table.resolve().parent.name}/audio/{row['file']}",
                )
                for hop in ("single", "multi"):
                    question, answer = row[f"{hop}_instruction"], row[f"{hop}_answer"]
                    options, root = lettered(question, where), table.resolve().parents[1]
                    items.append(
                        Item(
                            where,
                            clip,
                            question,
                            track,
                            hop,
                            (clip,),
                            root,
                            options,
                            answer,
                            row=row,
                        )
                    )
    for file in () if items else _json_files(path):
        content = _load(file)
        _need(str(file), content, ("attribute", "type", "results"))
        if content["type"] not in ("single", "multi"):
            raise BenchmarkError(
                f"{file}: type {content['type']!r} is neither single nor multi; correct it."
            )
        twin = file.with_name(f"{file.stem}_judgements.json")
        words = _load(twin) if twin.exists() else {"results": {"": {}}}
        _need(str(twin), words, ("results",))
        for clip, row in content["results"].items():
            where = f"{file}, {clip}"
            _need(where, row, ("instruction", "label"))
            word = str(words["results"].get(clip, {}).get("Judgement", "")).strip().lower()
            told = {"correct": True, "incorrect": False}.get(word)
            items.append(
                Item(
                    where,
                    clip,
                    row["instruction"],
                    content["attribute"].lower(),
                    content["type"],
                    (clip,),
                    file.parent,
                    lettered(row["instruction"], where),
                    row["label"],
                    _text(row, "response"),
                    judged=told,
                    row=row,
                    **_given(row),
                )
            )
    return items


def _mmau(path: Path) -> list[Item]:
    items = []
    for file in _json_files(path):
        content = _load(file)
        if not isinstance(content, list):
            raise BenchmarkError(
                f"{file}: no list of questions; write MMAU's JSON list, or name the right --benchmark."
            )
        for index, row in enumerate(content):
            where = f"{file}, item {index}"
            _need(where, row, ("id", "audio_id", "question", "choices"))
            options = plain(row["choices"])
            if not 2 <= len(options) <= CLOSED:
                raise BenchmarkError(f"{where}: {len(options)} choices; write 2 to {CLOSED}.")
            listed = ", ".join(f'"{option}"' for option in options[:-1]) + f' or "{options[-1]}"'
            items.append(
                Item(
                    where,
                    str(row["id"]),
                    f"{row['question']} Choose from the following options: {listed}.",
                    row.get("task", ""),
                    "",
                    (row["audio_id"].removeprefix("./"),),
                    file.resolve().parent,
                    options,
                    _text(row, "answer"),
                    _text(row, "model_prediction", "model_output"),
                    row=row,
                    **_given(row),
                )
            )
    return items


def _dynamic(path: Path) -> list[Item]:
    asked = {
        file.parent.name: (file, _load(file))
        for file in map(Path.resolve, _found(path, "metadata.json"))
    }
    told = {} if asked else {file.stem: (file, _load(file)) for file in _json_files(path)}
    items = []
    for name, (file, content) in (asked | told).items():
        if told:
            _need(str(file), content, ("predictions",))
            rows = enumerate(content["predictions"])
            content = {
                str(row["id"]) if isinstance(row, dict) and "id" in row else f"prediction {i}": row
                for i, row in rows
            }
        if not isinstance(content, dict):
            raise BenchmarkError(
                f"{file}: no JSON object of clips; write Dynamic-SUPERB's, or name the right --benchmark."
            )
        for clip, row in content.items():
            _need(f"{file}, {clip}", row, ("instruction", "label"))
        labels = tuple(sorted({str(row["label"]) for row in content.values()}))
        for clip, row in content.items():
            where = f"{file}, {clip}"
            options = _listed(row["instruction"], str(row["label"])) or labels
            if not 2 <= len(options) <= CLOSED:
                raise BenchmarkError(
                    f"{where}: {len(options)} options; only closed questions are scored, whose instruction says 'The "
                    f"answer could be … or …' or whose file has 2 to {CLOSED} different labels."
                )
            question = row["instruction"] + (f"\n{row['text']}" if row.get("text") else "")
            pair = Path(clip).with_name(f"{Path(clip).stem}_pair{Path(clip).suffix}").as_posix()
            clips = tuple(f"{name}/{one}" for one in ([clip, pair] if row.get("file2") else [clip]))
            items.append(
                Item(
                    where,
                    clip,
                    question,
                    name,
                    "",
                    clips,
                    file.parent.parent,
                    options,
                    str(row["label"]),
                    _text(row, "pred"),
                    row=row,
                    **_given(row),
                )
            )
    return items


def _speech(path: Path) -> list[Item]:
    items = []
    for name, file in sets(path).items():
        root = file.parent.parent if file.parent.name == "eval_data" else file.parent
        for line, row in read_jsonl(file, ("instruction", "audio_filepath")):
            where, said, clips = (
                f"{file}, line {line}",
                _text(row, "response"),
                (row["audio_filepath"],),
            )
            key, question = str(row.get("id", line)), row["instruction"]
            items.append(
                Item(where, key, question, name, "", clips, root / "audios", response=said, row=row)
            )
    return items


def plain(options: Sequence[Any]) -> tuple[str, ...]:
    """Options without the letters in front of them, where every one has its own: "(A) dog" or "B. cat"."""
    found = [_LETTERED.match(str(option)) for option in options]
    own = all(match and match[1].lower() == chr(ord("a") + i) for i, match in enumerate(found))
    return tuple(
        (str(o)[m.end() :] if own and m else str(o)).strip()
        for o, m in zip(options, found, strict=True)
    )


def lettered(question: str, where: str = "the question") -> tuple[str, ...]:
    """The options written as "(a) … (b) …" at the end of a question, as SAKURA has them.

    Raises:
        BenchmarkError: there are not two of them with letters in order.
    """
    _, *parts = re.split(r"\(([A-Za-z])\)", question)
    letters = [letter.lower() for letter in parts[::2]]
    first = len(letters) - 1 - letters[::-1].index("a") if "a" in letters else len(letters)
    if len(letters) - first < 2 or letters[first:] != [
        chr(ord("a") + i) for i in range(len(letters) - first)
    ]:
        raise BenchmarkError(
            f"{where}: no options (a) … (b) … in {question!r}; write them at its end, in order."
        )
    return tuple(text.strip() for text in parts[1::2][first:])


def _listed(instruction: str, label: str) -> tuple[str, ...]:
    """The options after "the answer could be", where the right label is among them."""
    found = _LISTED.search(instruction)
    words = re.split(r",\s*(?:or\s+)?|\s+or\s+", found[1].strip().rstrip(".?!")) if found else []
    options = tuple(word.strip(" '\"") for word in words)
    return options if label.casefold() in map(str.casefold, options) else ()
