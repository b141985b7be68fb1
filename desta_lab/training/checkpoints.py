"""The checkpoint ladder: connector-only files at steps 0, 1, 2, 4, 8, …, then evenly, each with its hash."""

import hashlib
import json
from pathlib import Path
from typing import Any

from desta_lab import cache
from desta_lab.model.audio_llm import AudioLLM


class CheckpointError(ValueError):
    """A rung of the ladder is missing, doubled or not the file it was; the message names it."""


def checkpoint_steps(steps: int, linear: int = 64) -> list[int]:
    """Steps at which the connector is kept: 0, powers of two below `linear`, every `linear` steps, and the last."""
    powers = [0]
    power = 1
    while power < min(linear, steps):
        powers.append(power)
        power *= 2
    return sorted({*powers, *range(linear, steps, linear), steps})


def save_checkpoint(folder: Path, llm: AudioLLM, step: int, loss: float | None) -> None:
    """Add one rung: the file first, its line in `ladder.json` after, so a kill leaves no line without a file.

    The file says nothing about its step, so two rungs with the same weights have the same hash.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sha256 = llm.save_connector(folder / f"{step:06d}.safetensors")
    rungs = (
        {rung["step"]: rung for rung in list_checkpoints(folder)}
        if (folder / "ladder.json").exists()
        else {}
    )
    twin = next((s for s, rung in rungs.items() if rung["sha256"] == sha256 and s != step), None)
    if twin is not None:
        raise CheckpointError(
            f"{folder}: step {step} is the same file as step {twin}; nothing was learned in between."
        )
    rungs[step] = {"step": step, "sha256": sha256, "loss": loss}
    cache.write_whole(
        folder / "ladder.json", json.dumps([rungs[s] for s in sorted(rungs)], indent=1).encode()
    )


def list_checkpoints(folder: Path) -> list[dict[str, Any]]:
    """The rungs of a ladder in order of their steps: `{"step", "sha256", "loss"}`."""
    path = folder / "ladder.json"
    try:
        rungs: list[dict[str, Any]] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: no readable ladder ({error}); delete the run's folder and train again."
        ) from error
    return rungs


def load_checkpoint(folder: Path, llm: AudioLLM, step: int) -> None:
    """Load one rung's connector, after comparing the file with the hash it was kept under."""
    path = folder / f"{step:06d}.safetensors"
    known = {rung["step"]: rung["sha256"] for rung in list_checkpoints(folder)}
    if step not in known:
        raise CheckpointError(
            f"{folder}: no rung at step {step}; it has {', '.join(map(str, known))}."
        )
    if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != known[step]:
        raise CheckpointError(
            f"{path}: missing or changed since it was kept; delete the run's folder and train again."
        )
    llm.load_connector(path)
