"""Writers: the same ids and answers whoever computes, in shards that survive a kill."""

import asyncio
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from desta_lab import cli
from desta_lab.clips import CorpusError
from desta_lab.model import chat, weights
from desta_lab.model.backbone import Backbone
from desta_lab.model.weights import hash_folder
from desta_lab.training import writers
from desta_lab.training.targets import (
    TargetError,
    Writer,
    backbone_writer,
    check_writer,
    generate_targets,
)
from desta_lab.training.writers import read_rows, server_writer, write_shards
from desta_lab.world.describe import describe
from tests import tiny

TOKENS = 12
PROMPTS = ("Paraphrase the description.", "What can you hear?")
PAIRS = [(describe(tiny.attributes(i)), PROMPTS[i % 2]) for i in range(10)]
ROWS = [{"id": f"c{i}", "seed_description": d, "prompt": p} for i, (d, p) in enumerate(PAIRS)]


@pytest.fixture(scope="module")
def nano() -> Backbone:
    return Backbone.load(weights.NANO_FOLDER)


@pytest.fixture(scope="module")
def revision() -> str:
    return hash_folder(weights.NANO_FOLDER)


class Server(ThreadingHTTPServer):
    """What `vllm serve` speaks, of /v1/models and /v1/completions, with a backbone behind it."""

    daemon_threads = True

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.backbone, self.one_at_a_time = backbone, threading.Lock()
        self.serves, self.with_ids = "nano", True
        self.asked: list[dict[str, Any]] = []  # the bodies of what was answered
        self.keys: set[str | None] = set()
        self.failures = 0  # so many completions that come get a 500
        self.last = sys.maxsize  # after so many answers the server dies
        self.address = f"http://127.0.0.1:{self.server_port}"

    def complete(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        """A choice for every prompt, as vLLM forms it, the last first: clients go by the index."""
        mind, choices = self.backbone, []
        streams = [chat.TokenStream(tuple(ids), len(ids)) for ids in body["prompt"]]
        for index, ids in enumerate(mind.generate_ids(streams, body["max_tokens"])):
            stopped = ids[-1] in body["stop_token_ids"]
            choice = {
                "index": index,
                "text": mind.decode(ids),
                "finish_reason": "stop" if stopped else "length",
            }
            choices.append(choice | ({"token_ids": list(ids)} if self.with_ids else {}))
        return choices[::-1]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args: Any) -> None:
        pass

    def answer(self, status: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        known = self.path == "/v1/models"
        self.answer(
            200 if known else 404,
            {"data": [{"id": self.server.serves}]} if known else {"error": "no such"},
        )

    def do_POST(self) -> None:
        body, mine = json.loads(self.rfile.read(int(self.headers["Content-Length"]))), self.server
        with mine.one_at_a_time:
            mine.keys.add(self.headers["Authorization"])
            if len(mine.asked) >= mine.last:
                return  # the connection closes without a word
            if mine.failures:
                mine.failures -= 1
                self.answer(500, {"error": "out of memory"})
            elif any(len(ids) > 500 for ids in body["prompt"]):
                self.answer(400, {"error": "the prompt is longer than max_model_len"})
            else:
                mine.asked.append(body)
                self.answer(200, {"choices": mine.complete(body)})


@pytest.fixture
def server(nano: Backbone, monkeypatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server(nano) as serving:
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


def by_server(serving: Server, **how: Any) -> Writer:
    return server_writer(
        serving.address,
        weights.NANO_FOLDER,
        "nano",
        **{"max_new_tokens": TOKENS, "waits": (0.01, 0.01), **how},
    )


def by_nano(nano: Backbone, revision: str) -> Writer:
    return backbone_writer(nano, "nano", revision, max_new_tokens=TOKENS)


def read_back(folder: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for path in sorted(folder.glob("targets-*"))
        for line in path.read_text().splitlines()
    ]


class Words:
    """The least of a tokenizer: a letter is a token."""

    eos_token, chat_template = "\0", "double"
    added_tokens_decoder: ClassVar[dict[int, Any]] = {}

    def __len__(self) -> int:
        return sys.maxunicode + 1

    def apply_chat_template(self, messages: list[dict[str, str]], **how: Any) -> str:
        return messages[-1]["content"]

    def __call__(self, text: str, **how: Any) -> Any:
        return SimpleNamespace(input_ids=list(map(ord, text)))

    def decode(self, ids: list[int], **how: Any) -> str:
        return "".join(map(chr, ids))


def echo(asked: list[int] | None = None, **how: Any) -> Writer:
    """A writer that repeats a prompt's last letters, and notes how many prompts it is given."""

    def ask(prompts: Any) -> list[Any]:
        if asked is not None:
            asked.append(len(prompts))
        return [(ids[-4:], False) for ids in prompts]

    return replace(Writer("echo", "e" * 64, Words(), 4, ask), **how)


# ---- one prompt, one answer ----


def test_a_server_is_sent_the_ids_that_the_transformers_writer_reads(
    server, nano, revision, monkeypatch, tmp_path
):
    read: list[tuple[int, ...]] = []
    complete = Backbone.generate_ids

    def noting(self, streams, *rest):
        read.extend(stream.ids for stream in streams)
        return complete(self, streams, *rest)

    monkeypatch.setattr(Backbone, "generate_ids", noting)
    generate_targets(nano, "nano", revision, PAIRS, max_new_tokens=TOKENS)
    own, read[:] = list(read), []
    assert by_nano(nano, revision).complete(own) and read == own
    monkeypatch.undo()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    write_shards(ROWS, by_server(server), tmp_path)
    sent = [tuple(ids) for body in server.asked for ids in body["prompt"]]
    assert sent == own
    assert all(chat.SLOT not in ids for ids in sent)
    assert server.asked[0]["stop_token_ids"] == list(nano.end_ids)
    assert server.asked[0]["temperature"] == 0


@pytest.mark.parametrize("with_ids", [True, False], ids=["vLLM's ids", "text alone"])
def test_server_and_backbone_write_the_same_bytes(server, nano, revision, tmp_path, with_ids):
    server.with_ids = with_ids
    write_shards(ROWS, by_server(server), tmp_path / "server", shard=4)
    write_shards(ROWS, by_nano(nano, revision), tmp_path / "backbone", shard=4)
    names = sorted(path.name for path in (tmp_path / "server").glob("*.json*"))
    assert names == ["shards.json", *(f"targets-{i:05d}.jsonl" for i in range(3))]
    rows, own = read_back(tmp_path / "server"), read_back(tmp_path / "backbone")
    if not with_ids:  # text alone shows no ids
        assert all(row.pop("response_ids") for row in own)
    assert rows == own
    notes = [
        json.loads((tmp_path / place / "shards.json").read_text())
        for place in ("server", "backbone")
    ]
    same = notes[0].pop("sha256") == notes[1].pop("sha256")
    assert notes[0] == notes[1] and same == with_ids


def test_answers_and_provenance_are_those_of_self_written(server, nano, revision, tmp_path):
    own = generate_targets(nano, "nano", revision, PAIRS, max_new_tokens=TOKENS)
    check_writer(own.values(), revision)
    write_shards(ROWS, by_server(server), tmp_path)
    rows = read_back(tmp_path)
    assert {row["provenance"]["truncated"] for row in rows} == {
        row.truncated for row in own.values()
    }
    for row, pair in zip(rows, PAIRS, strict=True):
        target = own[pair]
        assert row["response"] == target.response
        assert row["provenance"] == {
            "kind": "self",
            "writer": "nano",
            "revision": revision,
            "decoding": target.decoding,
            "truncated": target.truncated,
        }
        assert row["messages"] == chat.audio_messages(pair[1])


def test_an_answer_that_the_length_ended_is_marked_truncated(server, tmp_path):
    write_shards(ROWS, by_server(server, max_new_tokens=2), tmp_path / "short")
    write_shards(ROWS, by_server(server, max_new_tokens=60), tmp_path / "long")
    assert {row["provenance"]["truncated"] for row in read_back(tmp_path / "short")} == {True}
    assert {row["provenance"]["truncated"] for row in read_back(tmp_path / "long")} == {False}


def test_many_prompts_go_out_in_bounded_requests_and_come_back_in_order(
    server, nano, revision, monkeypatch
):
    monkeypatch.setattr(writers, "PER_REQUEST", 3)
    prompts = [by_nano(nano, revision).encode_prompt(*pair) for pair in PAIRS]
    answers = by_server(server).complete(prompts)
    assert sorted(len(body["prompt"]) for body in server.asked) == [1, 3, 3, 3]
    assert [tuple(ids) for ids, _ in answers] == [
        ids for ids, _ in by_nano(nano, revision).complete(prompts)
    ]


def test_a_penalty_in_the_models_own_settings_is_not_obeyed(server, nano, tmp_path):
    folder = tmp_path / "nano"
    nano.model.save_pretrained(folder)
    nano.tokenizer.save_pretrained(folder)
    settings = folder / "generation_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"repetition_penalty": 1.1}))
    writer = server_writer(server.address, folder, "nano", max_new_tokens=2)
    writer.complete([writer.encode_prompt(*PAIRS[0])])
    settings.unlink()  # then transformers takes the ends from config.json
    writer = server_writer(server.address + "/v1/", folder, "nano", max_new_tokens=2)
    writer.complete([writer.encode_prompt(*PAIRS[0])])
    assert [body["repetition_penalty"] for body in server.asked] == [1.0, 1.0]
    assert [body["stop_token_ids"] for body in server.asked] == [list(nano.end_ids)] * 2


# ---- a server that does not do as it should ----


def test_a_server_that_fails_twice_is_asked_a_third_time(server, tmp_path):
    writer, server.failures = by_server(server), 2
    write_shards(ROWS, writer, tmp_path)
    assert len(read_back(tmp_path)) == len(ROWS)
    assert server.failures == 0


def test_a_server_that_dies_is_named_and_what_is_written_stays(server, nano, revision, tmp_path):
    writer, server.last = by_server(server), 2
    with pytest.raises(
        ConnectionError, match=rf"{server.address}/v1/completions does not answer .*asked 3 times"
    ):
        write_shards(ROWS, writer, tmp_path, shard=2)
    assert len(read_back(tmp_path)) == 4
    assert not list(tmp_path.glob("*.part"))
    server.last = sys.maxsize
    write_shards(ROWS, by_server(server), tmp_path, shard=2)
    sent = [tuple(ids) for body in server.asked for ids in body["prompt"]]
    assert len(sent) == len(set(sent)) == len(ROWS)


def test_nobody_at_the_address_is_a_sentence():
    with Server(None) as gone:  # type: ignore[arg-type]
        address = gone.address
    with pytest.raises(
        ConnectionError, match=f"{address}/v1/models does not answer .*start the server"
    ):
        server_writer(address, weights.NANO_FOLDER, "nano", waits=(0.01,))
    with pytest.raises(ValueError, match="write it as http://host:8000"):
        server_writer("localhost:8000", weights.NANO_FOLDER, "nano")


def test_a_server_of_another_model_is_refused(server):
    server.serves = "meta/another"
    with pytest.raises(
        ValueError,
        match=rf"{server.address} serves meta/another, not nano: start it with `vllm serve",
    ):
        by_server(server)
    server.serves = "some/folder/nano"
    assert by_server(server).name == "nano"


def test_what_the_server_refuses_is_said_in_its_words_and_not_asked_again(server, tmp_path):
    long = [{"id": "c", "seed_description": "noise " * 180, "prompt": "What is it?"}]
    writer, begin = by_server(server, waits=(60.0,)), time.perf_counter()
    with pytest.raises(ValueError, match=r"HTTP 400.*longer than max_model_len"):
        write_shards(long, writer, tmp_path)
    assert time.perf_counter() - begin < 30


class Elsewhere(BaseHTTPRequestHandler):
    """Whoever a redirect leads to: notes every header it is sent."""

    headers_seen: ClassVar[list[dict[str, str]]] = []

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.headers_seen.append(dict(self.headers))
        self.send_response(200)
        self.end_headers()

    do_POST = do_GET


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("method", ["do_GET", "do_POST"])
def test_a_redirect_is_refused_and_the_key_goes_nowhere_else(
    server, monkeypatch, tmp_path, status, method
):
    monkeypatch.setenv("VLLM_API_KEY", "open sesame")
    monkeypatch.setattr(Elsewhere, "headers_seen", [])
    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as elsewhere:
        thread = threading.Thread(target=elsewhere.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        target = f"http://localhost:{elsewhere.server_port}/v1/models"

        def redirect(self: Handler) -> None:
            self.send_response(status)
            self.send_header("Location", target)
            self.send_header("Content-Length", "0")
            self.end_headers()

        monkeypatch.setattr(Handler, method, redirect)
        with pytest.raises(
            ValueError,
            match=rf"^{server.address}/v1/\w+ redirects to {target}, "
            r"and a key is sent nowhere else; "
            r"give the address of the server itself\.$",
        ):
            write_shards(ROWS[:1], by_server(server), tmp_path)
        elsewhere.shutdown()
        thread.join()
    assert Elsewhere.headers_seen == []


@pytest.mark.parametrize("part", ["head", "body"])
def test_a_server_that_answers_drop_by_drop_is_given_up_in_bounded_time(server, monkeypatch, part):
    monkeypatch.setattr(writers, "SECONDS", 0.3)

    def drip(self: Handler) -> None:
        if part == "body":
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
        with suppress(OSError):  # the client hangs up
            for _ in range(200):
                self.wfile.write(b"{" if part == "body" else b"H")
                time.sleep(0.05)

    monkeypatch.setattr(Handler, "do_GET", drip)
    begin = time.perf_counter()
    with pytest.raises(ConnectionError, match=r"does not answer \(.+\), asked 2 times"):
        by_server(server, waits=(0.01,))
    assert time.perf_counter() - begin < 5


def test_a_server_may_be_asked_where_an_event_loop_runs(server):
    async def in_a_notebook() -> Writer:
        return by_server(server)

    assert asyncio.run(in_a_notebook()).name == "nano"


def test_an_address_that_speaks_another_protocol_is_named(server, monkeypatch):
    monkeypatch.setattr(Handler, "do_GET", lambda self: self.answer(200, {"hello": "world"}))
    with pytest.raises(ValueError, match=r"does not speak the OpenAI protocol.*hello"):
        by_server(server)


def test_a_key_is_sent_where_there_is_one(server, monkeypatch, tmp_path):
    monkeypatch.setenv("VLLM_API_KEY", "open sesame")
    write_shards(ROWS[:1], by_server(server), tmp_path)
    assert server.keys == {"Bearer open sesame"}


def spoil_with(change: Any) -> Any:
    """Handler's answers to a completion, with their choices changed."""

    def complete(self: Server, body: dict[str, Any]) -> Any:
        prompts = body["prompt"]
        return change(
            [
                {
                    "index": i,
                    "text": "A.",
                    "token_ids": [5, 2],
                    "prompt_token_ids": prompts[i],
                    "finish_reason": "stop",
                }
                for i in range(len(prompts))
            ]
        )

    return complete


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda cs: [c | {"index": c["index"] + 1} for c in cs], r"gave answers \[1, 2, 3"),
        (lambda cs: [c | {"index": 0} for c in cs], r"gave answers \[0, 0"),
        (lambda cs: [c | {"index": str(c["index"])} for c in cs], r"gave answers \['0'"),
        (lambda cs: cs[1:], "gave answers .* to 10 prompts"),
        (lambda cs: [c | {"token_ids": [10**6]} for c in cs], r"answered \[1000000\]"),
        (lambda cs: [c | {"token_ids": [-1]} for c in cs], r"answered \[-1\]"),
        (lambda cs: [c | {"token_ids": ["5"]} for c in cs], r"answered \['5'\]"),
        (lambda cs: [c | {"token_ids": [5] * 99} for c in cs], "not at most 12 ids"),
        (lambda cs: [c | {"prompt_token_ids": [1]} for c in cs], "answered another prompt"),
        (lambda cs: [c | {"finish_reason": "abort"} for c in cs], "ended in 'abort'"),
        (lambda cs: ["a"] * len(cs), "does not speak the OpenAI protocol"),
        (lambda cs: [c | {"token_ids": 0} for c in cs], "answered 0, neither a text nor token ids"),
        (lambda cs: [c | {"token_ids": []} for c in cs], r"answered \[\], neither a text"),
        (lambda cs: [c | {"token_ids": None, "text": None} for c in cs], "answered None, neither"),
        (
            lambda cs: [c | {"token_ids": None, "text": "\ud800"} for c in cs],
            r"answered \\ud800, n",
        ),
        (lambda cs: [c | {"prompt_token_ids": 5} for c in cs], "answered another prompt"),
        (lambda cs: [c | {"token_ids": [5, 2, 5, 2]} for c in cs], "goes on behind an end of turn"),
        (
            lambda cs: [c | {"finish_reason": "length"} for c in cs],
            "after 2 of 12 tokens; start it",
        ),
    ],
)
def test_an_answer_that_is_none_to_what_was_asked_is_refused(
    server, monkeypatch, tmp_path, change, words
):
    monkeypatch.setattr(Server, "complete", spoil_with(change))
    with pytest.raises(ValueError, match=words):
        write_shards(ROWS, by_server(server), tmp_path)
    assert not read_back(tmp_path)


@pytest.mark.parametrize(
    ("said", "words"),
    [('{"data": [{}]}', "serves None, not nano"), ("[" * 10**5, "does not speak the OpenAI proto")],
)
def test_models_without_a_name_and_endless_brackets_are_refused(server, monkeypatch, said, words):
    monkeypatch.setattr(writers, "_send", lambda url, body: writers._Reply(url, 200, None, said))
    with pytest.raises(ValueError, match=words):
        by_server(server)


NO_ADDRESSES = ["http://[::1", "http://a:99999", "http://a:x", "http://", "http://\ud800", "a"]
NO_ADDRESSES += ["http://me:secret@a", "http://a?b=c", "ftp://a", "http://a\n", "http://xn--/", ""]


@pytest.mark.parametrize("address", NO_ADDRESSES)
def test_what_is_no_address_is_refused_before_anything_is_sent(address):
    with pytest.raises(ValueError, match="is no address of a server; write it as http://host:8000"):
        writers.check_address(address)


@pytest.mark.parametrize("key", ["open\nsesame", "sésame"])
def test_a_key_that_cannot_be_sent_is_not_printed(server, monkeypatch, key):
    monkeypatch.setenv("VLLM_API_KEY", key)
    with pytest.raises(ValueError, match="VLLM_API_KEY holds signs that no key has") as caught:
        by_server(server)
    assert "sesame" not in str(caught.value) and "same" not in str(caught.value)


def test_a_reply_without_an_end_is_given_up(server, monkeypatch):
    monkeypatch.setattr(writers, "REPLY_BYTES", 20)
    with pytest.raises(ValueError, match=r"/v1/models answers with more than 20 bytes"):
        by_server(server)


def test_a_row_that_is_longer_than_the_llm_can_read_is_refused(nano, revision, tmp_path):
    long = {"id": "c7", "seed_description": "talks " * 1100, "prompt": "What is it?"}
    with pytest.raises(chat.ChatError, match=r"^c7: The conversation has 1\d+ tokens.* 1012"):
        write_shards([long], by_nano(nano, revision), tmp_path)
    with pytest.raises(chat.ChatError, match="the limit is 1012; shorten it"):
        pair = (long["seed_description"], long["prompt"])
        generate_targets(nano, "nano", revision, [pair], max_new_tokens=TOKENS)


# ---- shards ----


def test_an_empty_manifest_is_refused(tmp_path):
    with pytest.raises(TargetError, match="The manifest has no rows"):
        write_shards([], echo(), tmp_path)


def test_the_ids_of_an_own_answer_are_kept_and_another_writers_are_not(tmp_path):
    write_shards(ROWS[:1], echo(), tmp_path / "own")
    write_shards([ROWS[0] | {"response_ids": [1]}], echo(), tmp_path / "other", kind="other")
    (own,), (other,) = read_back(tmp_path / "own"), read_back(tmp_path / "other")
    assert own["response_ids"] == list(map(ord, own["response"]))
    assert "response_ids" not in other


@pytest.mark.parametrize("place", ["transcripts", "clip"])
def test_a_description_in_the_words_of_the_clip_is_refused(tmp_path, place):
    text = f"So: {ROWS[0]['seed_description'].upper().replace(' ', chr(0xA0))}!"
    sound = {"role": "user", "content": "<|AUDIO|>", "audios": [{"audio": "1.wav", "text": text}]}
    more = {"transcripts": [text]} if place == "transcripts" else {"messages": [sound]}
    with pytest.raises(TargetError, match="c0: the description leaks"):
        write_shards([ROWS[0] | more], echo(), tmp_path)


def test_refusals_are_counted_and_the_first_is_shown(tmp_path):
    path = tmp_path / "targets-00000.jsonl"
    said = [
        "A man speaks.",
        "I'm sorry, but I can\u2019t transcribe audio files.",
        "As a text-based AI, I have no ears.",
        "I cannot hear the clip.",
        "The speaker says he cannot come.",
    ]
    path.write_text("".join(json.dumps({"response": text}) + "\n" for text in said))
    assert writers.find_refusals_in([path]) == (3, said[1])


def test_a_killed_job_goes_on_at_the_first_missing_shard_with_the_same_bytes(tmp_path):
    told: list[tuple[int, int]] = []
    whole, asked = tmp_path / "whole", []
    write_shards(ROWS, echo(asked), whole, shard=3, progress=lambda *news: told.append(news))
    assert asked == [3, 3, 3, 1]
    assert told == [(3, 3), (6, 6), (9, 9), (10, 10)]

    killed = tmp_path / "killed"

    def dying(prompts: Any) -> list[Any]:
        if (killed / "targets-00001.jsonl").exists():
            raise KeyboardInterrupt
        return echo().complete(prompts)

    with pytest.raises(KeyboardInterrupt):
        write_shards(ROWS, echo(complete=dying), killed, shard=3)
    draft = killed / ".targets-00002.jsonl.1.1.part"
    draft.write_text('{"id": "c6"')  # as a kill in the middle of writing leaves it
    before = {path: path.stat().st_mtime_ns for path in killed.glob("targets-*.jsonl")}
    assert len(before) == 2

    again: list[int] = []
    told.clear()
    write_shards(ROWS, echo(again), killed, shard=3, progress=lambda *news: told.append(news))
    assert again == [3, 1]
    assert not draft.exists()
    assert told == [(3, 0), (6, 0), (9, 3), (10, 4)]
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    files = [
        {path.name: path.read_bytes() for path in folder.glob("targets-*")}
        for folder in (whole, killed)
    ]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "another"}, "writer 'echo', now 'another'"),
        ({"revision": "f" * 64}, "revision 'eee"),
        ({"max_new_tokens": 5}, "decoding 'greedy, 4 tokens', now 'greedy, 5 tokens'"),
        ({"tokenizer": tiny.tokenizer()}, "prompts '"),
    ],
)
def test_shards_of_other_settings_are_not_mixed(tmp_path, change, words):
    write_shards(ROWS[:4], echo(), tmp_path, shard=2)
    with pytest.raises(TargetError, match=f"{words}.*choose another folder"):
        write_shards(ROWS, echo(**change), tmp_path, shard=2)
    assert len(read_back(tmp_path)) == 4


def test_shards_without_their_note_or_of_another_size_are_refused(tmp_path):
    write_shards(ROWS, echo(), tmp_path, shard=2)
    with pytest.raises(TargetError, match="shard 2, now 3"):
        write_shards(ROWS, echo(), tmp_path, shard=3)
    with pytest.raises(TargetError, match="kind 'self', now 'other'"):
        write_shards(ROWS, echo(), tmp_path, shard=2, kind="other")
    (tmp_path / "shards.json").unlink()
    with pytest.raises(TargetError, match="revision None, now"):
        write_shards(ROWS, echo(), tmp_path, shard=2)


def test_shards_of_another_manifest_are_refused(tmp_path):
    write_shards(ROWS, echo(), tmp_path, shard=4)
    with pytest.raises(TargetError, match=r"targets-00000.jsonl answers other rows"):
        write_shards([ROWS[0] | {"prompt": "Another?"}, *ROWS[1:]], echo(), tmp_path, shard=4)
    with pytest.raises(TargetError, match=r"targets-00002.jsonl: the manifest ends before"):
        write_shards(ROWS[:8], echo(), tmp_path, shard=4)


@pytest.mark.parametrize(
    "change",
    [
        {"messages": [{"role": "user", "content": "<|AUDIO|>", "audios": [{"audio": "b.wav"}]}]},
        {"split": "test"},
        {"dataset": "another"},
    ],
)
def test_shards_of_a_manifest_with_another_clip_or_column_are_refused(tmp_path, change):
    sound = {"audio": "a.wav", "text": "hello"}
    old = [{"role": "user", "content": "<|AUDIO|>", "audios": [sound]}]
    row = ROWS[0] | {"split": "train", "messages": old, "response": "Somebody else's."}
    write_shards([row], echo(), tmp_path)
    write_shards([row], echo(), tmp_path)
    with pytest.raises(TargetError, match=r"targets-00000.jsonl answers other rows"):
        write_shards([row | change], echo(), tmp_path)


def test_equal_prompts_of_a_shard_are_asked_once(tmp_path):
    asked: list[int] = []
    twins = [row | {"id": f"{row['id']}-{i}"} for row in ROWS[:2] for i in range(3)]
    write_shards(twins, echo(asked), tmp_path)
    assert asked == [2]
    rows = read_back(tmp_path)
    assert [row["id"] for row in rows] == [row["id"] for row in twins]
    assert len({row["response"] for row in rows[:3]}) == 1


def test_two_processes_do_not_write_in_one_folder(tmp_path):
    def within(prompts: Any) -> list[Any]:
        write_shards(ROWS, echo(), tmp_path)
        return []

    with pytest.raises(OSError, match="another process writes here"):
        write_shards(ROWS, echo(complete=within), tmp_path)


def test_what_else_a_row_holds_is_kept_and_its_clip_stays_in_the_messages(tmp_path):
    sound = {"audio": "clips/1.wav", "text": "hello"}
    old = [{"role": "user", "content": "<|AUDIO|>", "audios": [sound]}]
    row = ROWS[0] | {
        "dataset": "toy",
        "split": "train",
        "response": "Somebody else's.",
        "messages": old,
    }
    write_shards([row], echo(), tmp_path / "one")
    (made,) = read_back(tmp_path / "one")
    assert (made["dataset"], made["split"]) == ("toy", "train")
    assert made["response"] != row["response"]
    assert made["messages"] == [
        *chat.audio_messages(row["prompt"])[:-1],
        chat.audio_messages(row["prompt"])[-1] | {"audios": [sound]},
    ]
    with pytest.raises(CorpusError, match="c0: 2 clips and one description"):
        write_shards([row | {"messages": old * 2}], echo(), tmp_path / "two")


def test_a_description_in_the_prompt_is_refused(tmp_path):
    leaking = ROWS[0] | {"prompt": f"Is this right? {ROWS[0]['seed_description'].upper()}"}
    with pytest.raises(TargetError, match="c0: the description leaks into the training prompt"):
        write_shards([leaking], echo(), tmp_path)
    assert not read_back(tmp_path)


def test_a_manifest_is_read_line_by_line_and_a_bad_line_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps(ROWS[0]), "", json.dumps(ROWS[1] | {"prompt": 3})]
    path.write_text("\n".join(lines))
    rows = read_rows(path)
    assert next(rows) == ROWS[0]
    with pytest.raises(
        CorpusError, match=r"rows\.jsonl, line 3: the field 'prompt' is missing or no text"
    ):
        next(rows)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"messages": "x"}, "'messages' is str; write a list"),
        ({"messages": [1]}, "a message lacks role or content"),
        ({"messages": [{"role": "user", "content": "", "audios": 1}]}, "'audios' is int, not list"),
        ({"transcripts": 5}, "'transcripts' is no list of texts"),
        ({"transcripts": [5]}, "'transcripts' is no list of texts"),
        ({"dataset": 5}, "'dataset' is no text"),
    ],
)
def test_what_else_a_row_holds_is_of_its_type(tmp_path, change, words):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n" + json.dumps(ROWS[0] | change))
    with pytest.raises(CorpusError, match=f"rows.jsonl, line 2: {words}"):
        list(read_rows(path))


def test_a_clip_without_words_leaks_none(tmp_path):
    write_shards([ROWS[0] | {"transcripts": [None]}], echo(), tmp_path)
    assert [row["transcripts"] for row in read_back(tmp_path)] == [[None]]


@pytest.mark.parametrize("noted", [None, [], "x"])
def test_a_note_of_shards_that_is_none_is_named(tmp_path, noted):
    write_shards(ROWS[:2], echo(), tmp_path)
    note = tmp_path / writers.NOTE
    note.write_text(json.dumps(json.loads(note.read_text()) | {"sha256": noted}))
    with pytest.raises(CorpusError, match=r"shards\.json: 'sha256' is \w+, not dict"):
        write_shards(ROWS[:2], echo(), tmp_path)


@pytest.mark.parametrize("change", [{"response": None}, {"response": 5}, None])
def test_a_shard_without_its_answers_is_named_by_its_line(tmp_path, change):
    (path,) = write_shards(ROWS[:2], echo(), tmp_path)
    first, second = map(json.loads, path.read_text().splitlines())
    second = {k: v for k, v in second.items() if k != "response"} | (change or {})
    path.write_text(f"{json.dumps(first)}\n{json.dumps(second)}\n")
    note = tmp_path / writers.NOTE  # as a kill between shard and note leaves it
    note.write_text(json.dumps(json.loads(note.read_text()) | {"sha256": {}}))
    with pytest.raises(CorpusError, match=r"targets-00000\.jsonl, line 2: .*'response' is"):
        write_shards(ROWS[:2], echo(), tmp_path)


def test_a_manifest_in_another_encoding_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps(ROWS[0]).encode("utf-16"))
    with pytest.raises(CorpusError, match=r"rows.jsonl, line 1: not UTF-8 .*; save it as UTF-8"):
        list(read_rows(path))


def test_the_command_says_its_cost_after_the_first_shard_and_resumes(server, tmp_path, capsys):
    path, outs = tmp_path / "rows.jsonl", [tmp_path / "backbone", tmp_path / "server"]
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    command = [
        "write",
        str(path),
        str(outs[0]),
        "--backbone",
        str(weights.NANO_FOLDER),
        "--tokens",
        "8",
        "--shard",
        "4",
    ]
    assert cli.main(command) == 0
    said = capsys.readouterr()
    assert "10 rows in 3 files of at most 4" in said.out
    assert re.search(r"[\d.]+ rows a second: .* for the 6 rows left", said.err)
    assert {row["provenance"]["writer"] for row in read_back(outs[0])} == {"nano"}

    assert cli.main([*command[:2], str(outs[1]), *command[3:], "--server", server.address]) == 0
    write_shards(ROWS, by_server(server, max_new_tokens=8), tmp_path / "called", shard=4)
    assert read_back(outs[1]) == read_back(tmp_path / "called")

    capsys.readouterr()
    assert cli.main(command) == 0
    assert "rows a second" not in capsys.readouterr().err
    assert cli.main([*command[:-1], "5"]) == 1
    assert "shard 4, now 5" in capsys.readouterr().err


MILLIONS = """
import resource, sys
from pathlib import Path
from types import SimpleNamespace
from desta_lab.training.targets import Writer
from desta_lab.training.writers import read_rows, write_shards

class Words:
    eos_token, chat_template, added_tokens_decoder = ".", "double", {}
    def __len__(self): return sys.maxunicode + 1
    def apply_chat_template(self, messages, **how): return messages[-1]["content"]
    def __call__(self, text, **how): return SimpleNamespace(input_ids=list(map(ord, text)))
    def decode(self, ids, **how): return "".join(map(chr, ids))

repeat = lambda prompts: [(ids[-4:], False) for ids in prompts]
writer = Writer("count", "c" * 64, Words(), 4, repeat)
peaks = []
note = lambda *news: peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
note()
write_shards(read_rows(Path(sys.argv[1])), writer, Path(sys.argv[2]), shard=500, progress=note)
print(len(peaks), peaks[0], peaks[-1])
"""


def test_a_hundred_thousand_rows_take_the_memory_of_a_shard(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = (
        {"id": str(i), "seed_description": f"Sound {i}.", "prompt": "What is it?"}
        for i in range(100_000)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [
        sys.executable,
        "-c",
        MILLIONS,
        str(path),
        str(tmp_path / "out"),
    ]  # without the checks of types: 20 x
    said = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    ).stdout
    notes, before, after = map(int, said.split())
    assert notes == 1 + 200
    assert after < 1.05 * before
