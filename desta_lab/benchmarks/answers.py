"""A finished run answers a test set: generation and the score of every option."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from jaxtyping import Float
from torch import Tensor

from desta_lab import audio, cache
from desta_lab.benchmarks import formats
from desta_lab.benchmarks.benchmark import Item
from desta_lab.benchmarks.formats import ANSWER_FIELDS, BenchmarkError
from desta_lab.evaluation import conditions, scoring
from desta_lab.evaluation.tasks import Task
from desta_lab.model import chat
from desta_lab.model.audio_llm import AudioLLM

LINES = "answers.jsonl"  # every answer as it comes, under a line that says whose they are
LOCK = ".answers.lock"
Key = tuple[str, str, str]  # of a question, see `Item.key`


@torch.no_grad()
def answer_items(
    llm: AudioLLM,
    items: Sequence[Item],
    out: Path,
    run: Mapping[str, Any],
    *,
    root: Path | None = None,
    max_new_tokens: int = 48,
    with_transcript: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Item]:
    """Answer items; each then has a `response` and, where it has options, `scores` and `silence`.

    The question is asked as the test set words it, under the system prompt of training, and
    answered greedily. An option is scored by its text, without its letter, as the start of the
    answer. `run` says who answers (any JSON). Answers are kept by their question, so a call that
    was stopped goes on with the questions that have none; one call at a time writes to a folder.
    Clips are looked for in `root`, by default beside the questions. `with_transcript` puts what
    Whisper understands of a clip behind its audio embeddings, as for runs that were trained so.

    Raises:
        FileNotFoundError: A clip is missing.
        BenchmarkError: `out` holds answers of another run or to other questions, or another call
            writes to it; or an item has not just one clip.
    """
    asked = repr([(*item.key, item.question, item.options) for item in items])
    questions = hashlib.sha256(asked.encode()).hexdigest()
    facts = {"run": run, "tokens": max_new_tokens, "questions": questions}
    about = cache.to_plain(facts | ({"with_transcript": True} if with_transcript else {}))
    paths = [_find_clip(item, root) for item in items]  # before the first answer, which costs
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / LOCK, timeout=0):
            rows = _read_answers(out / LINES, about, {item.key for item in items})
            silence = conditions.embed_silence(llm)
            with cache.appending(out / LINES) as append:
                for item, path in zip(items, paths, strict=True):
                    if item.key in rows:
                        continue
                    row = _answer_item(llm, item, path, silence, max_new_tokens, with_transcript)
                    append(json.dumps({"item": item.key, **row}, allow_nan=False))
                    rows[item.key] = row
                    progress(len(rows), len(items))
    except Timeout as error:
        fault = "another call writes its answers here"
        raise BenchmarkError.at(out, fault, "wait for it, or give another --out") from error
    return [replace(item, **rows[item.key]) for item in items]


def _answer_item(
    llm: AudioLLM,
    item: Item,
    path: Path,
    silence: Float[Tensor, "1 query d_llm"],
    max_new_tokens: int,
    with_transcript: bool,
) -> dict[str, Any]:
    try:
        wave, messages = audio.read_audio(path), chat.audio_messages(item.question)
        words = None
        if with_transcript:
            if llm.transcribe is None:
                raise ValueError("this AudioLLM has no Whisper decoder; pass transcribe=….")
            words = llm.transcribe([wave])
        stream = llm.build_stream(messages, max_new_tokens, transcripts=words)
        heard = llm.encode_audio([wave])
    except ValueError as error:
        raise BenchmarkError(f"{item.where}: {error}") from error
    ids = llm.generate_ids([stream], heard, max_new_tokens=max_new_tokens)
    row: dict[str, Any] = {"response": llm.backbone.decode(ids[0])}
    if item.options:
        task = Task("", 3, "", item.question, "", {text: text for text in item.options})
        said = words and [*words, ""]  # silence has no words
        pair = torch.cat([heard, silence])
        (both,) = scoring.score_options_one_by_one(llm, [task], pair, said)
        scoring.check_finite(both, item.where)
        per_token = both / scoring.option_lengths(llm.backbone.tokenizer, task)
        texts = list(task.options)  # a text that is listed twice is scored once
        columns = [texts.index(text) for text in item.options]
        for name, values in zip(("scores", "silence"), per_token[:, columns], strict=True):
            row[name] = tuple(values.tolist())
    return row


def _read_answers(path: Path, about: dict[str, Any], asked: set[Key]) -> dict[Key, dict[str, Any]]:
    """The answers that are there already; a last line that was cut off by a kill is dropped."""
    lines = formats.read_text(path).split("\n")[:-1] if path.exists() else []
    head, *rest = lines or [json.dumps(about)]
    theirs = formats.parse_json(head, f"{path}, line 1")
    theirs = theirs if isinstance(theirs, dict) else {}
    if others := [name for name in about | theirs if theirs.get(name) != about.get(name)]:
        fault = f"answers with another {', '.join(others)}"
        raise BenchmarkError.at(path, fault, "give another --out, or delete it")
    rows: dict[Key, dict[str, Any]] = {}
    for number, line in enumerate(rest, start=2):
        where = f"{path}, line {number}"
        row = formats.parse_json(line, where)
        formats.check_fields(where, row, {"item": [str]}, {"response": str, **ANSWER_FIELDS})
        key = tuple(row["item"])
        if key not in asked or key in rows or row.get("response") is None:
            fault = f"no answer to one of the questions, or a second one ({' '.join(key).strip()})"
            raise BenchmarkError.at(where, fault, "delete the line, and it is answered again")
        rows[key] = {"response": row["response"], **formats.option_scores(row)}
    cache.write_whole(path, "".join(f"{line}\n" for line in [head, *rest]).encode())
    return rows


def _find_clip(item: Item, root: Path | None) -> Path:
    if len(item.clips) != 1:
        fault = f"{len(item.clips)} clips; only questions about one are answered"
        raise BenchmarkError.at(item.where, fault, "leave it out")
    path = (root or item.root) / item.clips[0]
    if not path.exists():
        remedy = "fetch the clips, or say where they are with --audio"
        raise FileNotFoundError(f"{item.where}: no clip {path}; {remedy}.")
    return path
