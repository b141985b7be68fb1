"""Speed as ratios against named baselines, all measured in one run on the `cpu` preset."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from desta_lab import audio
from desta_lab.evaluation import scoring
from desta_lab.evaluation.tasks import TRAINED_PROMPT, task_ladder
from desta_lab.model import build, chat, presets, weights
from desta_lab.model.audio_llm import AudioLLM
from desta_lab.model.backbone import Backbone
from desta_lab.model.connector import ConnectorShape
from desta_lab.model.encoder import Encoder
from desta_lab.training.batches import IGNORE, collate
from desta_lab.training.targets import kl_loss

COLUMNS = ("name", "value", "unit", "aim", "detail")
ROUNDS = 9
BATCH = 8
RESPONSE = (
    "A man with a Scottish accent talks at a slow pace and a low volume, "
    "with rain in the background."
)


def run(progress: Callable[[str], Callable[..., None]]) -> list[dict[str, Any]]:
    """Every benchmark as a row of `COLUMNS`; the detail says what was compared."""
    report = progress("bench")
    llm = build.build_audio_llm(presets.cpu(), progress=report)
    times: dict[str, float] = {}
    works: list[Callable[[], dict[str, float]]] = [
        partial(_time_steps, llm),
        _time_published_step,
        partial(_time_scoring, llm),
        _time_import,
    ]
    for done, work in enumerate(works, 1):
        times |= work()
        report(done, len(works))
    step, floor, published = times["step"], times["floor"], times["published"]
    plain, shared = times["plain"], times["shared"]
    against_floor = f"{step:.2f} s against {floor:.2f} s: frozen backbone forward + backward, "
    encoding = f"{published:.2f} s a step: 30 s of audio encoded in the step, 64 queries, "
    one_by_one = f"{shared:.2f} s against {plain:.2f} s: one forward per clip, task and option"
    rows = [
        ("training step / floor", step / floor, "x", "≤ 1.15", against_floor + "same tokens"),
        (
            "samples/s against re-encoding 30 s",
            published / step,
            "x",
            "≥ 3.5",
            encoding + "no prefix kept, float32",
        ),
        ("shared-prefix scoring", plain / shared, "x", "≥ 3", one_by_one),
        ("import desta_lab", times["import"], "s", "< 0.5", "fresh interpreter"),
    ]
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows]


def _time_import() -> dict[str, float]:
    code = "import time; t = time.perf_counter(); import desta_lab; print(time.perf_counter() - t)"
    command = [sys.executable, "-c", code]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {"import": float(printed)}


def _medians(rounds: int = ROUNDS, **works: Callable[[], Any]) -> dict[str, float]:
    """Median seconds of each, taken in turns: a machine that slows down slows all of them."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):  # the first turn warms up
        for name, work in works.items():
            _wait_for_device()
            begin = time.perf_counter()
            work()
            _wait_for_device()
            if turn:
                times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(taken) for name, taken in times.items()}


def _wait_for_device() -> None:
    """Let a GPU end what it was given: its kernels run on after the call that asked for them."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _time_steps(llm: AudioLLM) -> dict[str, float]:
    """One soft training step, and its floor: the same tokens through the frozen backbone."""
    return _medians(**build_steps(llm)[1])


def build_steps(
    llm: AudioLLM, rows: int = BATCH, response: int | None = None, frames: int | None = None
) -> tuple[int, dict[str, Any]]:
    """A soft training step and its floor on random encoder states, of `frames` a clip.

    Args:
        response: tokens of the response; `RESPONSE` and its end of turn by default.

    Returns:
        The tokens that a step reads, without the prefix that all rows share, and both as functions.
    """
    tokenizer, device = llm.backbone.tokenizer, llm.backbone.device
    text = RESPONSE if response is None else " ".join([RESPONSE] * response)
    messages = chat.audio_messages(TRAINED_PROMPT)
    stream = chat.build_stream(tokenizer, messages, llm.queries, response=text)
    if response is not None:
        stream = replace(stream, ids=stream.ids[: stream.start + response])
    batch = collate([stream] * rows, llm.backbone.pad_id)
    at = batch.labels != IGNORE
    frames = llm.encoder.frames if frames is None else frames
    states = torch.randn(len(llm.encoder.taps), rows, frames, llm.encoder.width).half()
    likeliest = int(at.sum()), 50
    ids = torch.randint(0, len(tokenizer), likeliest, dtype=torch.int32, device=device)
    logp = torch.full(likeliest, -5.0, dtype=torch.float16, device=device)
    optimizer = torch.optim.AdamW(llm.connector.parameters(), lr=1e-4, fused=True)
    llm.connector.train()

    def step() -> None:
        logits = llm.response_logits(batch.prefix, batch.ids, at, llm.connect(states))
        kl_loss(logits, ids, logp).backward()
        nn.utils.clip_grad_norm_(llm.connector.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    silent = torch.zeros(rows, llm.queries, llm.backbone.width, device=device)
    embeddings = llm.splice(batch.ids, silent)

    def floor() -> None:
        given = embeddings.clone().requires_grad_(True)
        logits = llm.backbone.logits(llm.backbone.hidden_states(given, batch.prefix)[at])
        logits.log_softmax(-1).sum().backward()

    return batch.ids.numel(), {"step": step, "floor": floor}


def _time_published_step() -> dict[str, float]:
    """A step in the published manner: 30 s encoded every time, 64 queries, no prefix kept."""
    preset = presets.cpu()
    shape = ConnectorShape(queries=64, depth=2, heads=6, ffn=3072)
    encoder = Encoder.load(weights.find_weights(preset.encoder), audio.WHISPER_SECONDS)
    backbone = Backbone.load(weights.find_weights(preset.backbone))
    connector = build.build_connector(shape, encoder, backbone)
    llm = AudioLLM(encoder, connector, backbone, {})
    stream = chat.build_stream(
        backbone.tokenizer, chat.audio_messages(TRAINED_PROMPT), 64, response=RESPONSE
    )
    whole = collate([stream] * BATCH, backbone.pad_id)
    ids = torch.tensor([list(stream.ids)] * BATCH)
    labels = torch.cat([torch.full((BATCH, len(whole.prefix)), IGNORE), whole.labels], dim=1)
    waves = [
        np.random.default_rng(i).normal(0, 0.1, audio.RATE * 4).astype(np.float32)
        for i in range(BATCH)
    ]
    optimizer = torch.optim.Adam(connector.parameters(), lr=1e-4)
    connector.train()

    def step() -> None:
        hidden = backbone.hidden_states(llm.splice(ids, connector(encoder.encode(waves))))
        logits = backbone.logits(hidden).flatten(0, 1)
        nn.functional.cross_entropy(logits, labels.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return _medians(2, published=step)


def _time_scoring(llm: AudioLLM) -> dict[str, float]:
    """Every task of two clips: one forward a clip, or one per clip, task and option."""
    llm.connector.eval()
    tasks = task_ladder()
    with torch.no_grad():
        embeddings = llm.connect(
            torch.randn(len(llm.encoder.taps), 2, llm.encoder.frames, llm.encoder.width)
        )
    return _medians(
        2,
        shared=lambda: scoring.score_options(llm, tasks, embeddings),
        plain=lambda: scoring.score_options_one_by_one(llm, tasks, embeddings),
    )
