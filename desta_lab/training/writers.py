"""Targets by the million: who may write them (transformers, vLLM, a server), and shards that a killed job goes on from.

    row ─ chat.read ─ token ids ─▶ Writer ─▶ text, cut off? ─ targets.row ─▶ targets-00000.jsonl, targets-00001.jsonl, …

Every writer reads the same token ids and decodes greedily; provenance does not say which program multiplied.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from filelock import FileLock, Timeout

from desta_lab import cache
from desta_lab.clips import CorpusError, parse_json_row
from desta_lab.model import chat
from desta_lab.model.backbone import Backbone, end_ids_of
from desta_lab.model.weights import hash_folder
from desta_lab.training.targets import Kind, Target, TargetError, training_row

SHARD = 1000  # rows in a file: at most this many are written again after a kill
PER_REQUEST, REQUESTS = (
    32,
    8,
)  # prompts a request × requests at a time = 256, vLLM's default of sequences at a time
WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before a server that failed is asked again
SECONDS = 600.0  # that a server may take for one request
Answer = tuple[
    Sequence[int] | str, bool
]  # token ids (or text) of an answer, and whether it was cut off
Ask = Callable[[Sequence[tuple[int, ...]]], Sequence[Answer]]


@dataclass(frozen=True)
class Writer:
    """An LLM that answers prompts of token ids greedily; `name` and `revision` (a hash of weights) are provenance."""

    name: str
    revision: str
    tokenizer: Any
    max_new_tokens: int
    ask: Ask

    @property
    def decoding(self) -> str:
        """As `targets.self_written` says it."""
        return f"greedy, {self.max_new_tokens} tokens"

    def prompt(self, description: str, question: str) -> tuple[int, ...]:
        """The token ids that are read: those of `targets.self_written`."""
        return chat.build_stream(
            self.tokenizer, chat.description_messages(description, question), 0
        ).ids


# ---- three writers ----


def backbone_writer(
    backbone: Backbone, name: str, revision: str, *, max_new_tokens: int = 40, batch: int = 32
) -> Writer:
    """The backbone itself, in this process."""

    def ask(prompts: Sequence[tuple[int, ...]]) -> list[Answer]:
        streams = [chat.TokenStream(ids, len(ids)) for ids in prompts]
        with backbone.untuned():
            answers = backbone.generate_ids(streams, max_new_tokens, batch)
        return [(ids, ids[-1] not in backbone.end_ids) for ids in answers]

    return Writer(name, revision, backbone.tokenizer, max_new_tokens, ask)


def vllm_writer(folder: Path, name: str, *, max_new_tokens: int = 40, **how: Any) -> Writer:
    """The offline engine of vLLM, on this machine's GPUs; `how` goes to `vllm.LLM` (tensor_parallel_size, dtype, …).

    Raises:
        ValueError: vLLM is not installed.
    """
    try:
        library = import_module("vllm")
    except ImportError as error:
        raise ValueError(
            'This writer needs the package vllm: `pip install "desta-lab[vllm]"`.'
        ) from error
    words, decoding = _decoding(folder)
    engine = library.LLM(model=str(folder), **how)
    settings = library.SamplingParams(**decoding, max_tokens=max_new_tokens)

    def ask(prompts: Sequence[tuple[int, ...]]) -> list[Answer]:
        read = [{"prompt_token_ids": list(ids)} for ids in prompts]
        outputs = [found.outputs[0] for found in engine.generate(read, settings, use_tqdm=False)]
        return [(list(output.token_ids), output.finish_reason != "stop") for output in outputs]

    return Writer(name, hash_folder(folder), words, max_new_tokens, ask)


def server_writer(
    address: str,
    folder: Path,
    name: str,
    *,
    max_new_tokens: int = 40,
    waits: Sequence[float] = WAITS,
) -> Writer:
    """An OpenAI-compatible address, such as `vllm serve` opens: `/v1/completions` with token ids as prompts.

    Its model is known by name alone: that it has the weights of `folder`, whose tokenizer and hash are used, is on
    your word. `VLLM_API_KEY` in the environment is sent as its key. Failures of the connection and of the server (5xx)
    are met by asking again after each of `waits`, in seconds.

    Raises:
        ConnectionError: nobody answers there, now or later.
        ValueError: another model is served there, or a request is refused.
    """
    base = address.rstrip("/").removesuffix("/v1")
    if not base.startswith(("http://", "https://")):
        raise ValueError(f"{address} is no address of a server; write it as http://host:8000.")
    words, decoding = _decoding(folder)
    names = [model["id"] for model in _fetch(f"{base}/v1/models", None, "data", waits)]
    served = next((one for one in names if Path(one).name == Path(name).name), None)
    if served is None:
        raise ValueError(
            f"{address} serves {', '.join(names) or 'nothing'}, not {name}: start it with `vllm serve {folder} "
            f"--served-model-name {name}`, or write with the backbone that it serves."
        )
    fixed = {"model": served, "max_tokens": max_new_tokens, "return_token_ids": True, **decoding}

    def one(prompts: Sequence[tuple[int, ...]]) -> list[Answer]:
        choices = _fetch(f"{base}/v1/completions", {**fixed, "prompt": prompts}, "choices", waits)
        if len(choices) != len(prompts):
            raise ValueError(
                f"{address} gave {len(choices)} answers to {len(prompts)} prompts; is it vLLM's server?"
            )
        choices = sorted(choices, key=lambda choice: choice["index"])
        return [(c.get("token_ids") or c["text"], c["finish_reason"] != "stop") for c in choices]

    def ask(prompts: Sequence[tuple[int, ...]]) -> list[Answer]:
        parts = [
            prompts[first : first + PER_REQUEST] for first in range(0, len(prompts), PER_REQUEST)
        ]
        with ThreadPoolExecutor(REQUESTS) as pool:
            return [answer for answers in pool.map(one, parts) for answer in answers]

    return Writer(name, hash_folder(folder), words, max_new_tokens, ask)


def _decoding(folder: Path) -> tuple[Any, dict[str, Any]]:
    """The tokenizer of a model folder, and how transformers decodes greedily with it, in vLLM's words."""
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    words = AutoTokenizer.from_pretrained(folder)
    if (folder / "generation_config.json").is_file():
        own = GenerationConfig.from_pretrained(folder)
    else:
        own = GenerationConfig.from_model_config(AutoConfig.from_pretrained(folder))
    stop, penalty = (
        list(end_ids_of(words, own)),
        own.repetition_penalty or 1.0,
    )  # Qwen2.5 brings a penalty, for one
    return words, {"temperature": 0.0, "stop_token_ids": stop, "repetition_penalty": penalty}


def _fetch(
    url: str, body: dict[str, Any] | None, wanted: str, waits: Sequence[float]
) -> list[dict[str, Any]]:
    """The list of this name in what a server answers, to a question in JSON if there is one; it may fail some times."""
    key = os.environ.get("VLLM_API_KEY")
    headers = {"Content-Type": "application/json"} | (
        {"Authorization": f"Bearer {key}"} if key else {}
    )
    request = Request(url, None if body is None else json.dumps(body).encode(), headers)
    fault: Exception
    for wait in (*waits, None):
        try:
            with urlopen(request, timeout=SECONDS) as reply:
                text = reply.read()
            break
        except HTTPError as error:
            with error:
                said = error.read().decode(errors="replace").strip()
            if error.code < 500:
                raise ValueError(
                    f"{url} refuses what is asked (HTTP {error.code}): {said[:500]}"
                ) from error
            fault = error
        except (OSError, HTTPException) as error:
            fault = error
        if wait is None:
            raise ConnectionError(
                f"{url} does not answer ({fault}), asked {len(waits) + 1} times; start the server, or correct the "
                "address, and run this again: what is written stays."
            ) from fault
        time.sleep(wait)
    try:
        found: list[dict[str, Any]] = json.loads(text)[wanted]
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"{url} does not speak the OpenAI protocol, it answers {text[:80]!r}; correct the address."
        ) from error
    return found


# ---- shards ----


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSONL file with `id`, `seed_description` and `prompt`, one at a time; raises CorpusError."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            found = parse_json_row(line, where)
            for column in ("id", "seed_description", "prompt"):
                if not isinstance(found.get(column), str):
                    raise CorpusError(
                        f"{where}: the field {column!r} is missing or no text; add it."
                    )
            yield found


def write_shards(
    rows: Iterable[Mapping[str, Any]],
    writer: Writer,
    folder: Path,
    *,
    kind: Kind = "self",
    shard: int = SHARD,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Answer rows of (id, seed_description, prompt, …) in files `targets-00000.jsonl` … with DeSTA-AQA5M's columns.

    Rows are read as a stream; what else they hold is kept, and the clip of their messages. Each file is there whole or
    not at all, so that a killed job, run again, goes on at the first that is missing. Within a file, equal prompts are
    asked once. `progress` is told (rows done, rows written now).

    Raises:
        TargetError: the folder holds answers of another writer or decoding, or to other rows; a description leaks.
        OSError: another process writes here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(folder / ".lock").acquire(timeout=0)
    except Timeout as error:
        raise OSError(
            f"{folder}: another process writes here; wait for it, or choose another folder."
        ) from error
    with held:
        _settle(folder, writer, kind, shard)
        paths: list[Path] = []
        done, new, source = 0, 0, iter(rows)
        while part := list(islice(source, shard)):
            path = folder / f"targets-{len(paths):05d}.jsonl"
            if path.exists():
                _same(path, part)
            else:
                written = _written(part, writer, kind)
                new += len(part)
                text = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in written)
                cache.write_whole(path, text.encode())
            paths.append(path)
            done += len(part)
            if progress:
                progress(done, new)
        if stale := sorted(set(folder.glob("targets-*.jsonl")) - set(paths)):
            raise TargetError(
                f"{stale[0]}: the manifest ends before this shard; remove it, it is another manifest's."
            )
    return paths


def _settle(folder: Path, writer: Writer, kind: Kind, shard: int) -> None:
    """Write down what determines every shard of a folder, or refuse to mix it with what was written otherwise."""
    read = json.dumps(
        writer.prompt("description", "prompt")
    )  # the chat template, and the ids of its words
    now = {
        "kind": kind,
        "writer": writer.name,
        "revision": writer.revision,
        "decoding": writer.decoding,
        "shard": shard,
        "prompts": hashlib.sha256(read.encode()).hexdigest(),
    }
    note = folder / "shards.json"
    then = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else {}
    if then != now and (then or any(folder.glob("targets-*.jsonl"))):
        apart = ", ".join(
            f"{key} {then.get(key)!r}, now {one!r}"
            for key, one in now.items()
            if then.get(key) != one
        )
        raise TargetError(
            f"{folder} holds targets written otherwise ({apart}); choose another folder."
        )
    cache.write_whole(note, f"{json.dumps(now, indent=1)}\n".encode())


def _written(part: Sequence[Mapping[str, Any]], writer: Writer, kind: Kind) -> list[dict[str, Any]]:
    """The rows of one shard with their answers."""
    prompts = [writer.prompt(one["seed_description"], one["prompt"]) for one in part]
    unique = list(dict.fromkeys(prompts))
    answers = dict(zip(unique, writer.ask(unique), strict=True))
    rows = []
    for one, ids in zip(part, prompts, strict=True):
        said, cut = answers[ids]
        response = (
            said.strip() if isinstance(said, str) else chat.decode_ids(writer.tokenizer, said)
        )
        target = Target(
            one["seed_description"],
            one["prompt"],
            response,
            kind,
            writer.name,
            writer.revision,
            writer.decoding,
            cut,
        )
        made = training_row(one["id"], target, one.get("dataset", ""))
        sounds = [
            sound for message in one.get("messages", ()) for sound in message.get("audios") or ()
        ]
        if len(sounds) > 1:
            raise CorpusError(
                f"{one['id']}: {len(sounds)} clips and one description; give every row one clip."
            )
        if sounds:
            made["messages"][-1]["audios"] = sounds
        rows.append({**one, **made})
    return rows


def _same(path: Path, part: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a shard that answers other rows than the manifest's."""
    with path.open(encoding="utf-8") as lines:
        there = [json.loads(line) for line in lines]
    told = [
        [(one["id"], one["seed_description"], one["prompt"]) for one in rows]
        for rows in (there, part)
    ]
    if told[0] != told[1]:
        raise TargetError(
            f"{path} answers other rows than the manifest's; remove it, or choose another folder."
        )
