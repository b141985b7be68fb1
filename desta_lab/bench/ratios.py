"""Speed as ratios against named baselines, all measured in one run on the `cpu` preset."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from desta_lab import audio
from desta_lab.evaluation import scoring
from desta_lab.evaluation.tasks import TRAINED_PROMPT, task_ladder
from desta_lab.model import build, chat, presets, weights
from desta_lab.model.audio_llm import AudioLLM
from desta_lab.model.backbone import Backbone
from desta_lab.model.connector import ConnectorShape
from desta_lab.model.encoder import Encoder
from desta_lab.training.batches import IGNORE, Batch, collate
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
        lambda: medians(**build_steps(llm)[1]),
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


def medians(rounds: int = ROUNDS, **works: Callable[[], Any]) -> dict[str, float]:
    """Median seconds of each, taken in turns: a machine that slows down slows all of them."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):  # the first turn warms up
        for name, work in works.items():
            taken = time_once(work)
            if turn:
                times[name].append(taken)
    return {name: statistics.median(taken) for name, taken in times.items()}


def time_once(work: Callable[[], Any]) -> float:
    """Seconds that a work takes, on a GPU to the end of what it started there."""
    _wait_for_device()
    begin = time.perf_counter()
    work()
    _wait_for_device()
    return time.perf_counter() - begin


def _wait_for_device() -> None:
    """Let a GPU end what it was given: its kernels run on after the call that asked for them."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


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

    return batch.ids.numel(), {"step": step, "floor": floor_step(llm, batch)}


def floor_step(llm: AudioLLM, batch: Batch) -> Callable[[], None]:
    """The floor of a step: its tokens through the frozen backbone, forward and backward."""
    at = (batch.labels != IGNORE).to(llm.backbone.device)
    zeros = torch.zeros(len(batch.ids), llm.queries, llm.backbone.width)
    embeddings = llm.splice(batch.ids, zeros.to(llm.backbone.device))

    def floor() -> None:
        given = embeddings.clone().requires_grad_(True)
        logits = llm.backbone.logits(llm.backbone.hidden_states(given, batch.prefix)[at])
        logits.log_softmax(-1).sum().backward()

    return floor


def _time_published_step() -> dict[str, float]:
    """A step in the published manner on the parts of the `cpu` preset."""
    preset = presets.cpu()
    shape = ConnectorShape(queries=64, depth=2, heads=6, ffn=3072)
    encoder = Encoder.load(weights.find_weights(preset.encoder), audio.WHISPER_SECONDS)
    backbone = Backbone.load(weights.find_weights(preset.backbone))
    return medians(2, published=published_step(shape, encoder, backbone, noise(BATCH, 4.0)))


def noise(clips: int, seconds: float) -> list[Float[np.ndarray, "sample"]]:
    """Waveforms of noise, another for each clip."""
    samples = round(audio.RATE * seconds)
    return [
        np.random.default_rng(i).normal(0, 0.1, samples).astype(np.float32) for i in range(clips)
    ]


def published_step(
    shape: ConnectorShape,
    encoder: Encoder,
    backbone: Backbone,
    waves: Sequence[Float[np.ndarray, "sample"]],
) -> Callable[[], None]:
    """A step in the published manner: audio encoded every time, no prefix kept, all logits.

    The new connector is in bf16 where the backbone is. An encoder of 30 s encodes 30 s.
    """
    device, size = backbone.device, len(waves)
    dtype = torch.bfloat16 if backbone.dtype is torch.bfloat16 else torch.float32
    connector = build.build_connector(shape, encoder, backbone).to(device, dtype)
    llm = AudioLLM(encoder, connector, backbone, {})
    stream = llm.build_stream(chat.audio_messages(TRAINED_PROMPT), response=RESPONSE)
    whole = collate([stream] * size, backbone.pad_id)
    ids = torch.tensor([list(stream.ids)] * size)
    before = torch.full((size, len(whole.prefix)), IGNORE)
    labels = torch.cat([before, whole.labels], dim=1).flatten().to(device)
    optimizer = torch.optim.Adam(connector.parameters(), lr=1e-4)
    connector.train()

    def step() -> None:
        embeddings = connector(encoder.encode(waves).to(dtype))
        logits = backbone.logits(backbone.hidden_states(llm.splice(ids, embeddings)))
        nn.functional.cross_entropy(logits.flatten(0, 1), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _time_scoring(llm: AudioLLM) -> dict[str, float]:
    """Every task of two clips: one forward a clip, or one per clip, task and option."""
    llm.connector.eval()
    tasks = task_ladder()
    with torch.no_grad():
        embeddings = llm.connect(
            torch.randn(len(llm.encoder.taps), 2, llm.encoder.frames, llm.encoder.width)
        )
    return medians(
        2,
        shared=lambda: scoring.score_options(llm, tasks, embeddings),
        plain=lambda: scoring.score_options_one_by_one(llm, tasks, embeddings),
    )
