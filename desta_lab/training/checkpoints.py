"""Checkpoints of a run: connector files at steps 0, 1, 2, 4, …, then evenly spaced, each with its hash."""

import json
from pathlib import Path
from typing import Any

from desta_lab import cache
from desta_lab.model.audio_llm import AudioLLM


class CheckpointError(ValueError):
    """A checkpoint is missing, doubled or changed; the message names it."""


def checkpoint_steps(steps: int, every: int = 64) -> list[int]:
    """The steps of a run's checkpoints: 0, the powers of two below `every`, its multiples, the last."""
    powers = [2**n for n in range(every.bit_length()) if 2**n < min(every, steps)]
    return sorted({0, *powers, *range(every, steps, every), steps})


def checkpoint_path(run: Path, step: int) -> Path:
    """The connector file of one step in a run's folder."""
    return run / "checkpoints" / f"{step:06d}.safetensors"


def index_path(run: Path) -> Path:
    """The list of a run's checkpoints in its folder."""
    return run / "checkpoints" / "checkpoints.json"


def save_checkpoint(run: Path, llm: AudioLLM, step: int, loss: float | None) -> None:
    """Write the connector, then its line in the list: a kill between the two leaves no line without a file.

    The file does not contain its step, so equal weights give equal hashes.

    Raises:
        CheckpointError: the weights are those of another step.
    """
    path = checkpoint_path(run, step)
    path.parent.mkdir(parents=True, exist_ok=True)
    sha256 = llm.save_connector(path)
    listed = list_checkpoints(run) if index_path(run).exists() else []
    others = [one for one in listed if one["step"] != step]
    for one in others:
        if one["sha256"] == sha256:
            raise CheckpointError(
                f"{path.parent}: step {step} is the same file as step {one['step']}; "
                "nothing was learned in between."
            )
    others.append({"step": step, "sha256": sha256, "loss": loss})
    others.sort(key=lambda one: one["step"])
    cache.write_whole(index_path(run), json.dumps(others, indent=1).encode())


def list_checkpoints(run: Path) -> list[dict[str, Any]]:
    """The checkpoints of a run in the order of their steps, each as `{"step", "sha256", "loss"}`.

    Raises:
        CheckpointError: there is no readable list.
    """
    path = index_path(run)
    try:
        listed: list[dict[str, Any]] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: no readable list of checkpoints ({error}); "
            "delete the run's folder and train again."
        ) from error
    return listed


def load_checkpoint(run: Path, llm: AudioLLM, step: int) -> None:
    """Load the connector of one step after its hash has been compared with the list.

    Raises:
        CheckpointError: the step is not listed, or its file is missing or changed.
    """
    path = checkpoint_path(run, step)
    known = {one["step"]: one["sha256"] for one in list_checkpoints(run)}
    if step not in known:
        raise CheckpointError(
            f"{path.parent}: no checkpoint at step {step}; it has {', '.join(map(str, known))}."
        )
    if not path.exists() or cache.hash_file(path) != known[step]:
        raise CheckpointError(
            f"{path}: missing or changed since it was saved; "
            "delete the run's folder and train again."
        )
    llm.load_connector(path)
