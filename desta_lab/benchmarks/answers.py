"""A finished run answers a test set: generation and the score of every option."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from desta_lab import audio, cache
from desta_lab.benchmarks.benchmark import Item
from desta_lab.evaluation import conditions, scoring
from desta_lab.evaluation.tasks import Task
from desta_lab.model import chat
from desta_lab.model.audio_llm import AudioLLM

LINES = "answers.jsonl"  # every answer as it comes, under a line that says whose they are


@torch.no_grad()
def answer_items(
    llm: AudioLLM,
    items: Sequence[Item],
    out: Path,
    run: Mapping[str, Any],
    *,
    root: Path | None = None,
    max_new_tokens: int = 48,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Item]:
    """Answer items; each then has a `response` and, where it has options, `scores` and `silence`.

    The question is asked as the test set words it, under the system prompt of training, and
    answered greedily. An option is scored by its text, without its letter, as the start of the
    answer. `run` says who answers (any JSON); a call that was stopped goes on where it was. Clips
    are looked for in `root`, by default beside the questions.

    Raises:
        FileNotFoundError: A clip is missing.
        ValueError: `out` holds answers of another run or to other questions, or an item has not
        just one clip.
    """
    asked = [(item.group, item.hop, item.id, item.question, item.options) for item in items]
    about = {
        "run": dict(run),
        "tokens": max_new_tokens,
        "questions": hashlib.sha256(repr(asked).encode()).hexdigest(),
    }
    paths = [_find_clip(item, root) for item in items]  # before the first answer, which costs
    rows = _read_answers(out / LINES, json.loads(json.dumps(about)))
    silence = conditions.embed_silence(llm)
    with (out / LINES).open("a", encoding="utf-8") as lines:
        for item, path in list(zip(items, paths, strict=True))[len(rows) :]:
            try:
                row = _answer_item(llm, item, path, silence, max_new_tokens)
            except ValueError as error:
                raise ValueError(f"{item.where}: {error}") from error
            lines.write(json.dumps(row) + "\n")
            lines.flush()
            rows.append(row)
            progress(len(rows), len(items))
    return [replace(item, **row) for item, row in zip(items, rows, strict=True)]


def _answer_item(
    llm: AudioLLM,
    item: Item,
    path: Path,
    silence: Float[Tensor, "1 query d_llm"],
    max_new_tokens: int,
) -> dict[str, Any]:
    limit = llm.backbone.max_positions
    room = None if limit is None else limit - max_new_tokens
    tokenizer, messages = llm.backbone.tokenizer, chat.audio_messages(item.question)
    stream = chat.build_stream(tokenizer, messages, llm.queries, max_tokens=room)
    heard = conditions.embed_clips(llm, llm.encoder.encode([audio.read_audio(path)]))
    ids = llm.generate_ids([stream], heard, max_new_tokens=max_new_tokens)
    row: dict[str, Any] = {"response": llm.backbone.decode(ids[0])}
    if item.options:
        task = Task("", 3, "", item.question, "", {text: text for text in item.options})
        (both,) = scoring.score_options_one_by_one(llm, [task], torch.cat([heard, silence]))
        per_token = both / scoring.option_lengths(tokenizer, task)
        row |= {name: tuple(per_token[i].tolist()) for i, name in enumerate(("scores", "silence"))}
    return row


def _read_answers(path: Path, about: dict[str, Any]) -> list[dict[str, Any]]:
    """The answers that are there already; a line that was cut off by a kill is dropped."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
    head, *rows = lines or [json.dumps(about) + "\n"]
    theirs = json.loads(head)
    if theirs != about:
        other = ", ".join(name for name in about if theirs.get(name) != about[name])
        raise ValueError(f"{path}: answers with another {other}; give another --out, or delete it.")
    cache.write_whole(path, "".join([head, *rows]).encode())
    return [
        {name: tuple(v) if isinstance(v, list) else v for name, v in json.loads(row).items()}
        for row in rows
    ]


def _find_clip(item: Item, root: Path | None) -> Path:
    if len(item.clips) != 1:
        raise ValueError(
            f"{item.where}: {len(item.clips)} clips; only questions about one are answered, leave "
            "it out."
        )
    path = (root or item.root) / item.clips[0]
    if not path.exists():
        raise FileNotFoundError(
            f"{item.where}: no clip {path}; fetch the clips, or say where they are with --audio."
        )
    return path
