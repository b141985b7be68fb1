"""Frozen parts that nobody releases: smaller nano LLMs, and a Whisper with redrawn weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import nn

from desta_lab import cache
from desta_lab.evaluation import text_world
from desta_lab.model import nano, weights
from desta_lab.views.progress import Progress

Maker = Callable[[Path, Any], None]  # a folder and a progress function


def small_nano(width: int, layers: int) -> Maker:
    """A maker of a smaller nano LLM, trained on the text that the shipped one was trained on."""

    def make(folder: Path, progress: Any) -> None:
        rows = text_world.nano_training_rows()
        model, tokenizer = nano.train_nano(rows, width=width, layers=layers, progress=progress)
        call = f"train_nano(nano_training_rows(), width={width}, layers={layers})"
        about = {"made_by": call, "parameters": model.num_parameters()}
        nano.save_nano(model, tokenizer, folder, about)

    return make


def redraw_whisper(folder: Path, progress: Any) -> None:
    """Make Whisper tiny.en with newly drawn weights; its positions, which nobody learned, stay."""
    from transformers import WhisperModel

    source = weights.find_weights("whisper-tiny.en", folder.parent, progress=progress)
    model = WhisperModel.from_pretrained(source)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv1d | nn.LayerNorm):
                module.reset_parameters()
    model.save_pretrained(folder)


MAKERS: dict[str, Maker] = {
    "nano-64x2": small_nano(64, 2),
    "nano-96x3": small_nano(96, 3),
    "whisper-tiny.en-redrawn": redraw_whisper,
}


def make_part(name: str, models: Path, progress: Progress) -> None:
    """Make a frozen part, whole or not at all, or wait for the process that makes it."""
    models.mkdir(parents=True, exist_ok=True)
    with FileLock(models / f".{name}.lock"):
        if not (models / name / "config.json").exists():
            with cache.draft_of(models / name) as draft:
                MAKERS[name](draft, progress(name))
