"""The Hugging Face layout, as converted models are written in it."""

import json
import shutil
from pathlib import Path
from typing import Any


def save_half(model: Any, ready: Path) -> None:
    """Write float16 weights under a config that asks for float32: half the disk, full precision.

    Whisper comes in float16 and loses nothing. SmolLM2's Q4_1 values move by at most 0.0005 of
    themselves.
    """
    model.half().save_pretrained(ready)
    config = ready / "config.json"
    shutil.copymode(config, ready / "model.safetensors")  # safetensors lets only the owner read
    write_json(config, {**json.loads(config.read_text()), "dtype": "float32"})


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON in the order of its keys, as transformers does."""
    path.write_text(json.dumps(content, indent=2) + "\n")
