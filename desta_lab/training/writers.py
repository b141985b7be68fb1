"""Targets by the million: three kinds of writers, and files from which a killed job resumes.

    row ─ token ids ─▶ Writer ─▶ answer ─ training_row ─▶ targets-00000.jsonl, …

Every writer reads the same token ids and decodes greedily; a row's provenance names no program.
"""

import asyncio
import hashlib
import json
import os
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
from filelock import FileLock, Timeout

from desta_lab.cache import write_whole
from desta_lab.clips import CorpusError, parse_json_row
from desta_lab.model import chat
from desta_lab.model.backbone import Backbone, end_ids_of
from desta_lab.model.weights import hash_folder
from desta_lab.training.targets import Kind, Target, TargetError, training_row

SHARD = 1000  # rows in a file: at most this many are written again after a kill
PER_REQUEST = 32  # prompts in a request to a server
REQUESTS = 8  # at a time; 32 × 8 = 256, vLLM's default of sequences at a time
WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before a server that failed is asked again
SECONDS = 600.0  # that one request may take in all
NEEDED = ("id", "seed_description", "prompt")  # columns of a row that is answered

Answer = tuple[Sequence[int] | str, bool]  # token ids or text, and whether the answer was cut off
Complete = Callable[[Sequence[tuple[int, ...]]], Sequence[Answer]]


@dataclass(frozen=True)
class Writer:
    """An LLM that answers prompts of token ids greedily.

    Args:
        name: the LLM, as provenance names it.
        revision: the hash of its weights.
        complete: prompts → one answer each, in the same order.
    """

    name: str
    revision: str
    tokenizer: Any
    max_new_tokens: int
    complete: Complete

    @property
    def decoding(self) -> str:
        """How answers are chosen, as in `targets.generate_targets`."""
        return f"greedy, {self.max_new_tokens} tokens"

    def encode_prompt(self, description: str, question: str) -> tuple[int, ...]:
        """The token ids of the text condition, as in `targets.generate_targets`."""
        messages = chat.description_messages(description, question)
        return chat.build_stream(self.tokenizer, messages, 0).ids


# ---- writers on this machine ----


def backbone_writer(
    backbone: Backbone, name: str, revision: str, *, max_new_tokens: int = 40, batch: int = 32
) -> Writer:
    """The backbone itself, in this process."""

    def complete(prompts: Sequence[tuple[int, ...]]) -> list[Answer]:
        streams = [chat.TokenStream(ids, len(ids)) for ids in prompts]
        with backbone.untuned():
            answers = backbone.generate_ids(streams, max_new_tokens, batch)
        return [(ids, ids[-1] not in backbone.end_ids) for ids in answers]

    return Writer(name, revision, backbone.tokenizer, max_new_tokens, complete)


def vllm_writer(folder: Path, name: str, *, max_new_tokens: int = 40, **options: Any) -> Writer:
    """The offline engine of vLLM, on this machine's GPUs.

    `options` go to `vllm.LLM` (tensor_parallel_size, dtype, …).

    Raises:
        ValueError: vLLM is not installed.
    """
    try:
        vllm = import_module("vllm")
    except ImportError as error:
        raise ValueError(
            'This writer needs the package vllm: `pip install "desta-lab[vllm]"`.'
        ) from error
    tokenizer, decoding = _greedy_decoding(folder)
    engine = vllm.LLM(model=str(folder), **options)
    sampling = vllm.SamplingParams(**decoding, max_tokens=max_new_tokens)

    def complete(prompts: Sequence[tuple[int, ...]]) -> list[Answer]:
        inputs = [{"prompt_token_ids": list(ids)} for ids in prompts]
        outputs = [one.outputs[0] for one in engine.generate(inputs, sampling, use_tqdm=False)]
        return [(list(output.token_ids), output.finish_reason != "stop") for output in outputs]

    return Writer(name, hash_folder(folder), tokenizer, max_new_tokens, complete)


def _greedy_decoding(folder: Path) -> tuple[Any, dict[str, Any]]:
    """The tokenizer of a model folder, and its greedy decoding in vLLM's words."""
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(folder)
    if (folder / "generation_config.json").is_file():
        settings = GenerationConfig.from_pretrained(folder)
    else:
        settings = GenerationConfig.from_model_config(AutoConfig.from_pretrained(folder))
    return tokenizer, {
        "temperature": 0.0,
        "stop_token_ids": list(end_ids_of(tokenizer, settings)),
        "repetition_penalty": settings.repetition_penalty or 1.0,  # Qwen2.5 brings one
    }


# ---- a server ----


def server_writer(
    address: str,
    folder: Path,
    name: str,
    *,
    max_new_tokens: int = 40,
    waits: Sequence[float] = WAITS,
) -> Writer:
    """An OpenAI-compatible server, such as `vllm serve` starts: `/v1/completions` with token ids.

    A server names its model and shows no weights: that it has those of `folder`, whose tokenizer
    and hash are used, is on your word. The key in `VLLM_API_KEY` is sent to this address and to
    no other, so no redirect is followed. After a failure of the connection or of the server (5xx)
    the request is sent again after each of `waits`, in seconds.

    Raises:
        ConnectionError: the server does not answer, now or later.
        ValueError: it serves another model, redirects, or refuses a request.
    """
    base = address.rstrip("/").removesuffix("/v1")
    if not base.startswith(("http://", "https://")):
        raise ValueError(f"{address} is no address of a server; write it as http://host:8000.")
    tokenizer, decoding = _greedy_decoding(folder)
    models = [str(one["id"]) for one in _request(f"{base}/v1/models", None, "data", waits)]
    served = [model for model in models if Path(model).name == Path(name).name]
    if not served:
        raise ValueError(
            f"{address} serves {', '.join(models) or 'nothing'}, not {name}: start it with "
            f"`vllm serve {folder} --served-model-name {name}`, "
            "or write with the backbone that it serves."
        )
    settings = {
        "model": served[0],
        "max_tokens": max_new_tokens,
        "return_token_ids": True,
        **decoding,
    }

    def complete_some(prompts: Sequence[tuple[int, ...]]) -> list[Answer]:
        body = {**settings, "prompt": prompts}
        choices = _request(f"{base}/v1/completions", body, "choices", waits)
        if len(choices) != len(prompts):
            raise ValueError(
                f"{address} gave {len(choices)} answers to {len(prompts)} prompts; "
                "is it vLLM's server?"
            )
        choices = sorted(choices, key=lambda choice: choice["index"])
        return [(c.get("token_ids") or c["text"], c["finish_reason"] != "stop") for c in choices]

    def complete(prompts: Sequence[tuple[int, ...]]) -> list[Answer]:
        with ThreadPoolExecutor(REQUESTS) as pool:
            parts = pool.map(complete_some, _split(prompts, PER_REQUEST))
            return [answer for part in parts for answer in part]

    return Writer(name, hash_folder(folder), tokenizer, max_new_tokens, complete)


def _request(
    url: str, body: Mapping[str, Any] | None, wanted: str, waits: Sequence[float]
) -> list[dict[str, Any]]:
    """The list of this name in a server's answer to a POST, or to a GET without a body; retried."""
    for wait in (0.0, *waits):
        time.sleep(wait)
        try:
            response = _send(url, body)
        except TimeoutError:
            fault = f"nothing in {SECONDS:g} s"
        except (httpx.HTTPError, OSError) as error:
            fault = str(error) or type(error).__name__
        else:
            if response.status_code < 500:
                return _parse(response, wanted)
            fault = f"HTTP {response.status_code}"
    raise ConnectionError(
        f"{url} does not answer ({fault}), asked {len(waits) + 1} times; start the server, or "
        "correct the address, and run this again: what is written stays."
    )


def _send(url: str, body: Mapping[str, Any] | None) -> httpx.Response:
    """Send one request with the key, if any; no redirect is followed; limited to `SECONDS`."""
    key = os.environ.get("VLLM_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    client = httpx.AsyncClient(headers=headers, timeout=None, verify=_ssl_context())

    async def send() -> httpx.Response:
        async with asyncio.timeout(SECONDS), client:
            return await client.request("GET" if body is None else "POST", url, json=body)

    with ThreadPoolExecutor(1) as thread:  # a notebook's own thread runs an event loop already
        return thread.submit(asyncio.run, send()).result()


@cache
def _ssl_context() -> ssl.SSLContext:
    """One context for all requests, as it takes long to make."""
    return httpx.create_ssl_context()


def _parse(response: httpx.Response, wanted: str) -> list[dict[str, Any]]:
    """The list of this name in a response that is no failure of the server; raises ValueError."""
    url, status = response.url, response.status_code
    if response.is_redirect:
        raise ValueError(
            f"{url} redirects to {response.headers['Location']}, and a key is sent nowhere else; "
            "give the address of the server itself."
        )
    if status >= 300:
        raise ValueError(
            f"{url} refuses the request (HTTP {status}): {response.text.strip()[:500]}"
        )
    try:
        found: list[dict[str, Any]] = response.json()[wanted]
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"{url} does not speak the OpenAI protocol, it answers {response.text[:80]!r}; "
            "correct the address."
        ) from error
    return found


# ---- files of targets ----


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSONL file, each with the `NEEDED` columns, one by one; raises CorpusError."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            place = f"{path}, line {number}"
            row = parse_json_row(line, place)
            for column in NEEDED:
                if not isinstance(row.get(column), str):
                    raise CorpusError(
                        f"{place}: the field {column!r} is missing or no text; add it."
                    )
            yield row


def write_shards(
    rows: Iterable[Mapping[str, Any]],
    writer: Writer,
    folder: Path,
    *,
    kind: Kind = "self",
    shard: int = SHARD,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Answer rows of (id, seed_description, prompt, …) in files `targets-00000.jsonl`, …

    The files have DeSTA-AQA5M's columns, and whatever else a row holds; the clip of a row's
    messages stays in them. Rows are read as a stream. A file is there whole or not at all, so a
    killed job that is run again goes on with the first that is missing. Equal prompts of a file
    are answered once. `progress` is called with (rows done, rows written by this call).

    Raises:
        TargetError: the folder holds answers of another writer or decoding, or to other rows; or
            a description is in a prompt.
        OSError: another process writes here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / ".lock").acquire(timeout=0)
    except Timeout as error:
        raise OSError(
            f"{folder}: another process writes here; wait for it, or choose another folder."
        ) from error
    paths: list[Path] = []
    done = new = 0
    with lock:
        _check_settings(folder, writer, kind, shard)
        for part in _split(rows, shard):
            path = folder / f"targets-{len(paths):05d}.jsonl"
            if path.exists():
                _check_rows(path, part)
            else:
                answered = _answer_rows(part, writer, kind)
                lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in answered]
                write_whole(path, "".join(lines).encode())
                new += len(part)
            paths.append(path)
            done += len(part)
            if progress:
                progress(done, new)
        if stale := sorted(set(folder.glob("targets-*.jsonl")) - set(paths)):
            raise TargetError(
                f"{stale[0]}: the manifest ends before this shard; "
                "remove it, it is another manifest's."
            )
    return paths


def _split(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` items, the last one shorter, from a stream."""
    source = iter(items)
    while part := list(islice(source, size)):
        yield part


def _check_settings(folder: Path, writer: Writer, kind: Kind, shard: int) -> None:
    """Note what determines every file of the folder, or refuse to mix it with something else."""
    prompt = json.dumps(writer.encode_prompt("description", "prompt"))  # template and tokenizer
    settings = {
        "kind": kind,
        "writer": writer.name,
        "revision": writer.revision,
        "decoding": writer.decoding,
        "shard": shard,
        "prompts": hashlib.sha256(prompt.encode()).hexdigest(),
    }
    note = folder / "shards.json"
    earlier = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else {}
    different = [name for name, value in settings.items() if earlier.get(name) != value]
    if different and (earlier or any(folder.glob("targets-*.jsonl"))):
        words = [f"{name} {earlier.get(name)!r}, now {settings[name]!r}" for name in different]
        raise TargetError(
            f"{folder} holds targets written otherwise ({', '.join(words)}); choose another folder."
        )
    write_whole(note, f"{json.dumps(settings, indent=1)}\n".encode())


def _check_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a file that answers other rows than these."""
    with path.open(encoding="utf-8") as lines:
        answered = [json.loads(line) for line in lines]
    there, wanted = ([[row[c] for c in NEEDED] for row in some] for some in (answered, rows))
    if there != wanted:
        raise TargetError(
            f"{path} answers other rows than the manifest's; remove it, or choose another folder."
        )


def _answer_rows(
    rows: Sequence[Mapping[str, Any]], writer: Writer, kind: Kind
) -> list[dict[str, Any]]:
    """The rows of one file with their answers."""
    prompts = [writer.encode_prompt(row["seed_description"], row["prompt"]) for row in rows]
    unique = list(dict.fromkeys(prompts))
    answers = dict(zip(unique, writer.complete(unique), strict=True))
    return [
        _answered_row(row, *answers[prompt], writer, kind)
        for row, prompt in zip(rows, prompts, strict=True)
    ]


def _answered_row(
    row: Mapping[str, Any], answer: Sequence[int] | str, cut_off: bool, writer: Writer, kind: Kind
) -> dict[str, Any]:
    """A row in DeSTA-AQA5M's columns, with what else it held and the clip of its messages."""
    text = answer if isinstance(answer, str) else chat.decode_ids(writer.tokenizer, answer)
    target = Target(
        row["seed_description"],
        row["prompt"],
        text.strip(),
        kind,
        writer.name,
        writer.revision,
        writer.decoding,
        cut_off,
    )
    made = training_row(row["id"], target, row.get("dataset", ""))
    clips = [clip for message in row.get("messages", ()) for clip in message.get("audios") or ()]
    if len(clips) > 1:
        raise CorpusError(
            f"{row['id']}: {len(clips)} clips and one description; give every row one clip."
        )
    if clips:
        made["messages"][-1]["audios"] = clips
    return {**row, **made}
