"""Targets by the million: writers beside the backbone, and files from which a killed job resumes.

    row ─ token ids ─▶ Writer ─▶ answer ─ training_row ─▶ targets-00000.jsonl, …

Every writer reads the same token ids and decodes greedily; a row's provenance names no program.
"""

import asyncio
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
from filelock import FileLock, Timeout

from desta_lab.cache import hash_file, remove_drafts, to_json, write_whole
from desta_lab.clips import CorpusError, get_field, parse_json_row, unique_keys
from desta_lab.model import chat
from desta_lab.model.backbone import end_ids_of
from desta_lab.model.weights import hash_folder, load_tokenizer, reading
from desta_lab.training.targets import (
    Answer,
    Kind,
    TargetError,
    Writer,
    check_leak,
    find_refusals,
    training_row,
)
from desta_lab.world.manifests import list_sounds

SHARD = 1000  # rows in a file: at most this many are written again after a kill
PER_REQUEST = 32  # prompts in a request to a server
REQUESTS = 8  # at a time; 32 × 8 = 256, vLLM's default of sequences at a time
WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before a server that failed is asked again
SECONDS = 600.0  # that one request may take in all
REPLY_BYTES = 2**26  # of one reply at most: 64 MiB, some thousand times what 32 answers take
# Argmax in vLLM's words: each setting that a model's own generation_config.json would change.
GREEDY = {
    "temperature": 0.0,
    "top_p": 1.0,
    "top_k": -1,
    "min_p": 0.0,
    "min_tokens": 0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
NOTE = "shards.json"  # beside the files: what determines them, and the sha256 of each
NEEDED = ("id", "seed_description", "prompt")  # columns of a row that is answered
MADE = ("response", "response_ids", "messages", "provenance")  # columns that an answer writes


# ---- a server ----


def _read_folder(folder: Path) -> tuple[Any, int | None, list[int]]:
    """The tokenizer of a model folder, the positions the LLM knows, and the ends of an answer."""
    from transformers import AutoConfig, GenerationConfig

    tokenizer = load_tokenizer(folder)
    with reading(folder):
        config = AutoConfig.from_pretrained(folder)
        if (folder / "generation_config.json").is_file():
            settings = GenerationConfig.from_pretrained(folder)
        else:
            settings = GenerationConfig.from_model_config(config)
    known = getattr(config.get_text_config(), "max_position_embeddings", None)
    return tokenizer, known, list(end_ids_of(tokenizer, settings))


def _is_cut_off(finish_reason: Any) -> bool:
    """Whether an answer ended at its length; raises ValueError where it ended in neither way."""
    if finish_reason not in ("stop", "length"):
        raise ValueError(f"An answer ended in {finish_reason!r}, not in a stop; write it again.")
    return bool(finish_reason == "length")


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
    base = check_address(address)
    tokenizer, known, ends = _read_folder(folder)
    models = [str(one.get("id")) for one in _request(f"{base}/v1/models", None, "data", waits)]
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
        "stop_token_ids": ends,
        **GREEDY,
    }

    def complete_some(prompts: Sequence[tuple[int, ...]]) -> list[Answer]:
        body = {**settings, "prompt": prompts}
        choices = _request(f"{base}/v1/completions", body, "choices", waits)
        return _read_choices(address, prompts, choices, ends, max_new_tokens)

    def complete(prompts: Sequence[tuple[int, ...]]) -> list[Answer]:
        with ThreadPoolExecutor(REQUESTS) as pool:
            parts = pool.map(complete_some, _split(prompts, PER_REQUEST))
            return [answer for part in parts for answer in part]

    return Writer(name, hash_folder(folder), tokenizer, max_new_tokens, complete, known)


def check_address(address: str) -> str:
    """The address of a server without `/v1`; raises ValueError for what is no address."""
    base = address.rstrip("/").removesuffix("/v1")
    try:
        url = httpx.URL(base)
        good = url.scheme in ("http", "https") and bool(url.host) and 0 < (url.port or 80) < 2**16
        good = good and not (url.query or url.fragment or url.userinfo)
    except (httpx.InvalidURL, ValueError):
        good = False
    if not good:
        raise ValueError(f"{address!r} is no address of a server; write it as http://host:8000.")
    return base


def _read_choices(
    address: str,
    prompts: Sequence[tuple[int, ...]],
    choices: Sequence[dict[str, Any]],
    ends: Sequence[int],
    most: int,
) -> list[Answer]:
    """The answers of a server in the order of the prompts; raises ValueError for any other."""
    places: list[Any] = [choice.get("index") for choice in choices]
    if not all(type(i) is int for i in places) or sorted(places) != list(range(len(prompts))):
        fault = f"{address} gave answers {str(places)[:80]} to {len(prompts)} prompts"
        raise ValueError(f"{fault}, which are numbered from 0; is it vLLM's server?")
    choices = sorted(choices, key=lambda choice: choice["index"])
    answers: list[Answer] = []
    for prompt, choice in zip(prompts, choices, strict=True):
        ids: Any = choice.get("token_ids")
        text: Any = choice.get("text")
        said = str(text if ids is None else ids)[:80].encode("ascii", "backslashreplace").decode()
        is_text = ids is None and isinstance(text, str) and not re.search("[\ud800-\udfff]", text)
        is_ids = isinstance(ids, list) and ids and all(type(i) is int for i in ids)
        cut_off, fault = _is_cut_off(choice.get("finish_reason")), ""
        if choice.get("prompt_token_ids") not in (None, list(prompt)):
            fault = "answered another prompt than it was sent; is it vLLM's server?"
        elif not (is_text or is_ids):
            fault = f"answered {said}, neither a text nor token ids; is it vLLM's server?"
        elif is_ids and set(ids[:-1]) & set(ends):
            fault = f"answered {said}, which goes on behind an end of turn; is it vLLM's server?"
        elif is_ids and cut_off and len(ids) < most:
            cut = f"cut an answer off after {len(ids)} of {most} tokens"
            fault = f"{cut}; start it with a longer context."
        if fault:
            raise ValueError(f"{address} {fault}")
        answers.append((ids if is_ids else text, cut_off))
    return answers


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
            if response.status < 500:
                return _parse(response, wanted)
            fault = f"HTTP {response.status}"
    raise ConnectionError(
        f"{url} does not answer ({fault}), asked {len(waits) + 1} times; start the server, or "
        "correct the address, and run this again: what is written stays."
    )


_ssl_context = cache(httpx.create_ssl_context)  # one for all requests, as it takes long to make


@dataclass(frozen=True)
class _Reply:
    """What a server answered, read to its end."""

    url: str
    status: int
    location: str | None  # of a redirect
    text: str


def _send(url: str, body: Mapping[str, Any] | None) -> _Reply:
    """Send one request with the key, if any; no redirect is followed.

    Limited to `SECONDS` and to `REPLY_BYTES`; raises ValueError for a longer reply.
    """
    key = os.environ.get("VLLM_API_KEY", "")
    if not (key.isascii() and key.isprintable()):  # an error of the library would print it
        raise ValueError("VLLM_API_KEY holds signs that no key has; set it again, without breaks.")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    client = httpx.AsyncClient(headers=headers, timeout=None, verify=_ssl_context())

    async def send() -> _Reply:
        method, content = "GET" if body is None else "POST", bytearray()
        async with asyncio.timeout(SECONDS), client, client.stream(method, url, json=body) as got:
            async for chunk in got.aiter_bytes():
                content += chunk
                if len(content) > REPLY_BYTES:
                    fault = f"{url} answers with more than {REPLY_BYTES} bytes"
                    raise ValueError(f"{fault}; correct the address.")
            location = got.headers.get("Location") if got.is_redirect else None
            text = content.decode(errors="replace")
            return _Reply(str(got.url), got.status_code, location, text)

    with ThreadPoolExecutor(1) as thread:  # a notebook's own thread runs an event loop already
        return thread.submit(asyncio.run, send()).result()


def _parse(reply: _Reply, wanted: str) -> list[dict[str, Any]]:
    """The list of this name in a reply that is no failure of the server; raises ValueError."""
    if reply.location is not None:
        fault = f"{reply.url} redirects to {reply.location}, and a key is sent nowhere else"
        raise ValueError(f"{fault}; give the address of the server itself.")
    if reply.status >= 300:
        fault = f"{reply.url} refuses the request (HTTP {reply.status})"
        raise ValueError(f"{fault}: {reply.text.strip()[:500]}")
    try:
        found = json.loads(reply.text, object_pairs_hook=unique_keys)[wanted]
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise TypeError
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        fault = f"does not speak the OpenAI protocol, it answers {reply.text[:80]!r}"
        raise ValueError(f"{reply.url} {fault}; correct the address.") from error
    return found


# ---- files of targets ----


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSONL file, each with the `NEEDED` columns, one by one; raises CorpusError."""
    if not path.is_file():
        fault = "no plain file" if path.exists() else "no such file"
        raise CorpusError.at(path, fault, "name a JSONL file, one row a line")
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _check_row(line, f"{path}, line {number}")


def _check_row(line: bytes, place: str) -> dict[str, Any]:
    row = parse_json_row(line, place)
    for column in NEEDED:
        if not isinstance(row.get(column), str):
            raise CorpusError(f"{place}: the field {column!r} is missing or no text; add it.")
    list_sounds(row.get("messages", []), place)
    words = row.get("transcripts") or []
    if not isinstance(words, list) or not all(isinstance(one, str | None) for one in words):
        raise CorpusError.at(place, "'transcripts' is no list of texts", "correct its type")
    if not isinstance(row.get("dataset", ""), str):
        raise CorpusError.at(place, "'dataset' is no text", "put it in quotes")
    return row


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
        TargetError: there are no rows; the folder holds answers of another writer or decoding, or
            to other rows; or a description is in what training is given.
        ChatError: a row is longer than the LLM can read.
        ValueError: an answer is none to what was asked.
        OSError: another process writes here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / ".lock").acquire(timeout=0)
    except Timeout as error:
        remedy = "wait for it, or choose another folder"
        raise OSError(f"{folder}: another process writes here; {remedy}.") from error
    paths: list[Path] = []
    done = new = 0
    with lock:
        remove_drafts(folder, 0.0)
        settings, hashes = _check_settings(folder, writer, kind, shard)
        for part in _split(rows, shard):
            path = folder / f"targets-{len(paths):05d}.jsonl"
            if path.exists():
                _check_shard(path, part, hashes)
            else:
                answered = _answer_rows(part, writer, kind)
                lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in answered]
                write_whole(path, "".join(lines).encode())
                new += len(part)
            if path.name not in hashes:
                hashes[path.name] = hash_file(path)
                write_whole(folder / NOTE, to_json({**settings, "sha256": hashes}))
            paths.append(path)
            done += len(part)
            if progress:
                progress(done, new)
        if stale := sorted(set(folder.glob("targets-*.jsonl")) - set(paths)):
            fault = f"{stale[0]}: the manifest ends before this shard"
            raise TargetError(f"{fault}; remove it, it is another manifest's.")
    if not paths:
        raise TargetError("The manifest has no rows; there is nothing to write.")
    return paths


def find_refusals_in(paths: Iterable[Path]) -> tuple[int, str | None]:
    """How many responses of files say that their writer cannot hear, and the first of them."""
    count, first = 0, None
    for path in paths:
        with path.open(encoding="utf-8") as lines:
            refusals = find_refusals(json.loads(line)["response"] for line in lines)
        count, first = count + len(refusals), first or next(iter(refusals), None)
    return count, first


def _split(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` items, the last one shorter, from a stream."""
    source = iter(items)
    while part := list(islice(source, size)):
        yield part


def _check_settings(
    folder: Path, writer: Writer, kind: Kind, shard: int
) -> tuple[dict[str, Any], dict[str, str]]:
    """Note what determines every file of the folder, or refuse to mix it with something else.

    Returns what is noted, and the sha256 of the files that are there, by name.
    """
    prompt = json.dumps(writer.encode_prompt("description", "prompt"))  # template and tokenizer
    settings = {
        "kind": kind,
        "writer": writer.name,
        "revision": writer.revision,
        "decoding": writer.decoding,
        "shard": shard,
        "prompts": hashlib.sha256(prompt.encode()).hexdigest(),
    }
    note = folder / NOTE
    earlier = parse_json_row(note.read_bytes(), str(note)) if note.is_file() else {}
    different = [name for name, value in settings.items() if earlier.get(name) != value]
    if different and (earlier or any(folder.glob("targets-*.jsonl"))):
        words = [f"{name} {earlier.get(name)!r}, now {settings[name]!r}" for name in different]
        fault = f"{folder} holds targets written otherwise ({', '.join(words)})"
        raise TargetError(f"{fault}; choose another folder.")
    noted = get_field(earlier, "sha256", dict, str(note)) if "sha256" in earlier else {}
    hashes = {name: sha256 for name, sha256 in noted.items() if (folder / name).is_file()}
    write_whole(note, to_json({**settings, "sha256": hashes}))
    return settings, hashes


def _check_shard(path: Path, rows: Sequence[Mapping[str, Any]], hashes: Mapping[str, str]) -> None:
    """Refuse a file that is not as it was written, or answers other rows than these."""
    sha256 = hash_file(path)
    if hashes.get(path.name, sha256) != sha256:
        raise TargetError(f"{path}: changed since it was written; remove it to write it again.")
    answered = list(read_rows(path))
    for number, row in enumerate(answered, 1):
        get_field(row, "response", str, f"{path}, line {number}")
    there, wanted = ([_of_manifest(row) for row in some] for some in (answered, rows))
    if there != wanted:
        remedy = "remove it, or choose another folder"
        raise TargetError(f"{path} answers other rows than the manifest's; {remedy}.")


def _of_manifest(row: Mapping[str, Any]) -> str:
    """What a row has from the manifest, as JSON: all but what its writer makes, and its clips."""
    given = {name: value for name, value in row.items() if name not in MADE}
    facts = {"dataset": "", **given, "clips": _clips_of(row)}
    return json.dumps(facts, sort_keys=True)


def _clips_of(row: Mapping[str, Any]) -> list[Any]:
    return [clip for message in row.get("messages", ()) for clip in message.get("audios") or ()]


def _answer_rows(
    rows: Sequence[Mapping[str, Any]], writer: Writer, kind: Kind
) -> list[dict[str, Any]]:
    """The rows of one file with their answers."""
    prompts = [_encode_row(row, writer) for row in rows]
    unique = list(dict.fromkeys(prompts))
    completed = writer.complete(unique)
    writer.check_answers(unique, completed)
    answers = dict(zip(unique, completed, strict=True))
    return [
        _answered_row(row, answers[prompt], writer, kind)
        for row, prompt in zip(rows, prompts, strict=True)
    ]


def _encode_row(row: Mapping[str, Any], writer: Writer) -> tuple[int, ...]:
    try:
        return writer.encode_prompt(row["seed_description"], row["prompt"])
    except chat.ChatError as error:
        raise chat.ChatError(f"{row['id']}: {error}") from error


def _answered_row(
    row: Mapping[str, Any], answer: Answer, writer: Writer, kind: Kind
) -> dict[str, Any]:
    """A row in DeSTA-AQA5M's columns, with what else it held and the clip of its messages."""
    target = writer.make_target(row["seed_description"], row["prompt"], answer, kind)
    made = training_row(row["id"], target, row.get("dataset", ""))
    clips = _clips_of(row)
    if len(clips) > 1:
        fault = f"{row['id']}: {len(clips)} clips and one description"
        raise CorpusError(f"{fault}; give every row one clip.")
    if clips:
        made["messages"][-1]["audios"] = clips
    given = [*(clip.get("text") for clip in clips), *(row.get("transcripts") or ())]
    check_leak(row["id"], row["seed_description"], filter(None, given))
    return {**{name: value for name, value in row.items() if name != "response_ids"}, **made}
