"""A finished run answers a test set: generation and the rank of every option, written in the test set's own format."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from desta_lab import audio, cache
from desta_lab.benchmarks.test_sets import SETS, Item
from desta_lab.evaluation import conditions, scoring
from desta_lab.evaluation.tasks import Task
from desta_lab.model import chat
from desta_lab.model.audio_llm import AudioLLM

LINES = "answers.jsonl"  # every answer as it comes, under a line that says whose they are


@torch.no_grad()
def answer(
    llm: AudioLLM,
    items: Sequence[Item],
    out: Path,
    run: Mapping[str, Any],
    *,
    root: Path | None = None,
    max_new_tokens: int = 48,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Item]:
    """The items with `response` and, where there are options, `scores` and `silence`; every answer is kept as it comes.

    The question is asked as the test set words it, under the system prompt of training, and answered greedily. An
    option is ranked by its text, without its letter, as the start of the answer. `run` says who answers (any JSON);
    a call that was stopped goes on where it was. Clips are looked for in `root`, by default beside the questions.

    Raises:
        FileNotFoundError: a clip is missing.
        ValueError: `out` holds answers of another run or to other questions, or an item has several clips.
    """
    asked = [(item.group, item.hop, item.id, item.question, item.options) for item in items]
    mine = {
        "run": dict(run),
        "tokens": max_new_tokens,
        "questions": hashlib.sha256(repr(asked).encode()).hexdigest(),
    }
    paths = [_clip(item, root) for item in items]  # before the first answer, which costs
    done = _resume(out / LINES, json.loads(json.dumps(mine)))
    llm.connector.eval()
    deaf = conditions.embed_silence(llm)
    with (out / LINES).open("a", encoding="utf-8") as lines:
        for i in range(len(done), len(items)):
            item = items[i]
            try:
                row = _answer(llm, item, paths[i], deaf, max_new_tokens)
            except ValueError as error:
                raise ValueError(f"{item.where}: {error}") from error
            lines.write(json.dumps(row) + "\n")
            lines.flush()
            done.append(row)
            progress(i + 1, len(items))
    return [replace(item, **row) for item, row in zip(items, done, strict=True)]


def _answer(
    llm: AudioLLM, item: Item, path: Path, deaf: torch.Tensor, max_new_tokens: int
) -> dict[str, Any]:
    room = (
        None if llm.backbone.max_positions is None else llm.backbone.max_positions - max_new_tokens
    )
    stream = chat.build_stream(
        llm.backbone.tokenizer, chat.audio_messages(item.question), llm.queries, max_tokens=room
    )
    spoken = conditions.embed_clips(llm, llm.encoder.encode([audio.read_audio(path)]))
    ids = llm.generate_ids([stream], spoken, max_new_tokens=max_new_tokens)
    row: dict[str, Any] = {"response": llm.backbone.decode(ids[0])}
    if item.options:
        task = Task("", 3, "", item.question, "", {text: text for text in item.options})
        both = scoring.score_options_one_by_one(llm, [task], torch.cat([spoken, deaf]))[0]
        each = both / scoring.option_lengths(llm.backbone.tokenizer, task)
        row |= {"scores": tuple(each[0].tolist()), "silence": tuple(each[1].tolist())}
    return row


def _resume(path: Path, mine: dict[str, Any]) -> list[dict[str, Any]]:
    """Answers that are there already; a line that was cut off by a kill is dropped."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    head, *rows = [line for line in text.splitlines(keepends=True) if line.endswith("\n")] or [
        json.dumps(mine) + "\n"
    ]
    theirs = json.loads(head)
    if theirs != mine:
        other = ", ".join(name for name in mine if theirs.get(name) != mine[name])
        raise ValueError(f"{path}: answers with another {other}; give another --out, or delete it.")
    cache.write_whole(path, "".join([head, *rows]).encode())
    return [
        {name: tuple(v) if isinstance(v, list) else v for name, v in json.loads(row).items()}
        for row in rows
    ]


def _clip(item: Item, root: Path | None) -> Path:
    if len(item.clips) != 1:
        raise ValueError(
            f"{item.where}: {len(item.clips)} clips; only questions about one are answered, leave it out."
        )
    path = (root or item.root) / item.clips[0]
    if not path.exists():
        raise FileNotFoundError(
            f"{item.where}: no clip {path}; fetch the clips, or say where they are with --audio."
        )
    return path


def write(items: Iterable[Item], benchmark: str, out: Path) -> list[Path]:
    """Answered items as files in the test set's own format, which `benchmarks.read` and its authors' code read."""
    parts: dict[str, list[Item]] = {}
    for item in items:
        name = {"sakura": f"{item.group}_{item.hop}", "mmau": "mmau"}.get(benchmark, item.group)
        parts.setdefault(name, []).append(item)
    paths = []
    for name, some in parts.items():
        path, field = (
            out / f"{name}.json",
            {"mmau": "model_prediction", "dynamic-superb": "pred"}.get(benchmark, "response"),
        )
        rows = [{**item.row, **_ours(item, field)} for item in some]
        content: Any = rows
        if benchmark == "sakura":
            told = {
                i.id: {"instruction": i.question, "label": i.answer, **_ours(i, field)}
                for i in some
            }
            content = {"attribute": some[0].group, "type": some[0].hop, "results": told}
        elif benchmark == "dynamic-superb":
            content = {
                "predictions": [
                    {**row, "id": item.id} for row, item in zip(rows, some, strict=True)
                ]
            }
        if benchmark == "speech-ifeval":
            path = out / SETS[name][0]
            cache.write_whole(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
        else:
            cache.write_whole(path, f"{json.dumps(content, indent=1)}\n".encode())
        paths.append(path)
    return paths


def _ours(item: Item, field: str) -> dict[str, Any]:
    """The fields of an answer, the response under the name that the test set gives it."""
    scores = {} if item.scores is None else {"scores": item.scores, "silence": item.silence}
    return {field: item.response, **scores}
