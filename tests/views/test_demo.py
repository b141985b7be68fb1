"""The demo's page: an answer that comes in pieces, beside its oracle and its control."""

import gc
import json
import os
import socket
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import soundfile

from desta_lab import audio
from desta_lab.evaluation import conditions
from desta_lab.model.connector import FrameStack
from desta_lab.model.nano import LIMITS
from desta_lab.training import checkpoints
from desta_lab.views import replies
from desta_lab.views.demo import (
    MOST_BYTES,
    UNKNOWN,
    Demo,
    build_page,
    find_refusal,
    open_page,
    stream_answer,
)
from tests import tiny
from tests.views import test_panels as made

QUESTION = "What is the background sound?"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    return Demo(made.stand_in(tmp_path_factory.mktemp("job")))


def test_the_page_of_a_glass_box_says_that_it_knows_only_its_own_text_world(
    demo: Demo, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert LIMITS not in demo.note
    monkeypatch.setitem(demo.experiment.llm.names, "backbone", "nano")
    assert Demo(demo.experiment).note.endswith(LIMITS)


def test_the_pieces_of_a_streamed_answer_are_the_whole_answer(demo: Demo) -> None:
    wave = replies.read_wave(demo.experiment, next(iter(demo.clips.values())))
    with replies.use_checkpoint(demo.experiment) as llm:
        spoken = replies.embed_audio(llm, wave)
        pieces = list(stream_answer(llm, spoken, QUESTION))
        whole = replies.answer_audio(llm, spoken, QUESTION).text
    assert "".join(pieces).strip().startswith(whole)


def test_a_transcript_stands_behind_a_streamed_answer_as_behind_a_whole_one(demo: Demo) -> None:
    wave = replies.read_wave(demo.experiment, next(iter(demo.clips.values())))
    with replies.use_checkpoint(demo.experiment) as llm:
        spoken, words = replies.embed_audio(llm, wave), "a few words of the clip"
        pieces = "".join(stream_answer(llm, spoken, QUESTION, words)).strip()
        assert pieces.startswith(replies.answer_audio(llm, spoken, QUESTION, None, words).text)
        assert pieces != "".join(stream_answer(llm, spoken, QUESTION)).strip()


def test_an_answer_stands_beside_its_oracle_and_silence(demo: Demo) -> None:
    name, clip = next(iter(demo.clips.items()))
    answer, oracle, silence, figure = list(demo.stream_answers(name, None, QUESTION))[-1]
    with replies.use_checkpoint(demo.experiment) as llm:
        assert oracle == replies.answer_text(llm, clip, QUESTION).text
        nothing = np.zeros_like(replies.read_wave(demo.experiment, clip))
        assert (
            silence == replies.answer_audio(llm, replies.embed_audio(llm, nothing), QUESTION).text
        )
    assert answer and figure.png().startswith(b"\x89PNG")


def test_a_recording_is_heard_instead_of_the_clip_and_has_no_oracle(
    demo: Demo, tmp_path: Path
) -> None:
    own = np.random.default_rng(0).normal(0, 0.1, 2 * audio.RATE)
    soundfile.write(tmp_path / "own.wav", own, audio.RATE)
    *_, (_, oracle, _, figure) = demo.stream_answers(
        next(iter(demo.clips)), str(tmp_path / "own.wav"), QUESTION
    )
    assert oracle == UNKNOWN and not (figure.table["part"] == "span").any()


def test_a_connector_that_attends_to_no_frames_answers_without_a_figure(tmp_path: Path) -> None:
    job = made.stand_in(tmp_path)
    job.llm.connector = FrameStack(d_enc=64, d_llm=tiny.WIDTH, queries=5)
    checkpoints.save_checkpoint(tmp_path / "frames", job.llm, 1, None)
    job.run_folder = lambda kind: tmp_path / "frames"
    demo = Demo(job)
    *_, (answer, _, silence, figure) = demo.stream_answers(next(iter(demo.clips)), None, QUESTION)
    assert answer and silence and figure is None


@pytest.mark.parametrize(
    "name, question, said", [(None, QUESTION, "no sound yet"), ("x", " ", "no question yet")]
)
def test_what_is_missing_is_said(demo: Demo, name: str | None, question: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        next(demo.stream_answers(name, None, question))


def test_a_fault_while_speaking_reaches_the_reader(
    demo: Demo, monkeypatch: pytest.MonkeyPatch
) -> None:
    with replies.use_checkpoint(demo.experiment) as llm:
        monkeypatch.setattr(
            llm,
            "generate_ids",
            lambda *_, **__: (_ for _ in ()).throw(RuntimeError("out of memory")),
        )
        with pytest.raises(RuntimeError, match="out of memory"):
            list(stream_answer(llm, conditions.embed_silence(llm), QUESTION))


@pytest.mark.filterwarnings(
    "ignore", "ignore::pytest.PytestUnraisableExceptionWarning"
)  # Gradio's own
def test_the_page_has_a_microphone_and_asks_nothing_of_the_network(demo: Demo) -> None:
    pytest.importorskip("gradio", reason="the demo's extra is not installed")
    app = build_page(demo)
    kinds = [block["type"] for block in app.get_config_file()["components"]]
    assert {"dropdown", "audio", "textbox", "image", "button"} <= set(kinds)
    assert not app.analytics_enabled
    del app
    gc.collect()  # its event loops are warned of here, not in the next test


def fetch(address: str, path: str, content: bytes | None = None, **headers: str) -> tuple[int, str]:
    """Status and text of one request."""
    request = urllib.request.Request(address + path, content, headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()


def multipart(content: bytes) -> tuple[bytes, dict[str, str]]:
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="mine.wav"\r\n\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    return head + content + b"\r\n--x--\r\n", kind


@pytest.mark.filterwarnings("ignore", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_server_answers_its_own_page_alone_and_keeps_no_recording(demo: Demo) -> None:
    pytest.importorskip("gradio", reason="the demo's extra is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with open_page(demo, port) as address:
        kept = Path(os.environ["GRADIO_TEMP_DIR"])
        assert fetch(address, "/")[0] == 200
        assert fetch(address, "/", Origin=address)[0] == 200
        assert fetch(address, "/", Host=f"evil.example:{port}")[0] == 403
        assert fetch(address, "/", Origin="https://evil.example")[0] == 403
        small, kind = multipart(b"sound" * 100)
        status, said = fetch(address, "/gradio_api/upload", small, **kind)
        assert status == 200 and Path(json.loads(said)[0]).is_relative_to(kept.resolve())
        kind["Content-Length"] = f"{MOST_BYTES + 1}"
        status, said = fetch(address, "/gradio_api/upload", small, **kind)
        assert status == 413 and "20 MiB" in said
    assert not kept.exists() and "GRADIO_TEMP_DIR" not in os.environ
    gc.collect()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "127.0.0.1:7860"}, None),
        ({"host": "localhost:7860", "origin": "http://localhost:7860"}, None),
        ({}, 403),
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"host": "127.0.0.1:7860", "origin": "null"}, 403),
        ({"host": "127.0.0.1:7860", "origin": "http://127.0.0.1:8000"}, 403),
        ({"host": "127.0.0.1:7860", "transfer-encoding": "chunked"}, 411),
        ({"host": "127.0.0.1:7860", "content-length": "60000000"}, 413),
    ],
)
def test_what_comes_from_elsewhere_or_is_too_large_is_refused(
    headers: dict[str, str], status: int | None
) -> None:
    scope = {"headers": [(name.encode(), value.encode()) for name, value in headers.items()]}
    refusal = find_refusal(scope)
    assert (refusal and refusal[0]) == status
