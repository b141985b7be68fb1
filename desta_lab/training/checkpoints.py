"""What a run keeps on disk: connectors at some steps, and a state to resume from.

<run>/checkpoints/000000.safetensors …, checkpoints.json     connectors, and their list
<run>/state/state.safetensors                                what learns, its moments, the step
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from desta_lab import cache
from desta_lab.model.audio_llm import AudioLLM, checkpoint_path, index_path


class CheckpointError(ValueError):
    """A checkpoint is missing, doubled or changed; the message names it."""


class StateError(ValueError):
    """A run cannot go on from its state on disk; the message names the file and what to do."""


# ---- checkpoints ----


def checkpoint_steps(steps: int, every: int = 64) -> list[int]:
    """The steps with a checkpoint: 0, the powers of two below `every`, its multiples, the last."""
    powers = [2**n for n in range(every.bit_length()) if 2**n < min(every, steps)]
    return sorted({0, *powers, *range(every, steps, every), steps})


def save_checkpoint(run: Path, llm: AudioLLM, step: int, loss: float | None) -> None:
    """Write the connector, then its line in the list: a kill leaves no line without a file.

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


# ---- the state to resume from ----


def state_path(run: Path) -> Path:
    """The file that a run resumes from."""
    return run / "state" / "state.safetensors"


def save_state(run: Path, llm: AudioLLM, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write what learns, Adam's moments and the step as one file, moved into place whole."""
    tensors = {f"weight.{name}": tensor for name, tensor in llm.trainable_state().items()}
    for number, moments in optimizer.state_dict()["state"].items():
        for name, moment in moments.items():
            tensors[f"moment.{number}.{name}"] = moment.detach().cpu().contiguous()
    path = state_path(run)
    path.parent.mkdir(exist_ok=True)
    save_file(tensors, path.with_suffix(".part"), metadata={"step": str(step)})
    path.with_suffix(".part").replace(path)


def load_state(run: Path, llm: AudioLLM, optimizer: torch.optim.Optimizer) -> int:
    """Load weights and moments onto their devices; return the step, or 0 where there is no state.

    Raises:
        StateError: the file is damaged, or the state of another model.
    """
    path = state_path(run)
    if not path.exists():
        return 0
    try:
        with safe_open(path, "pt") as file:
            step = int(file.metadata()["step"])
        tensors = load_file(path)
        llm.load_trainable_state(_with_prefix(tensors, "weight."))
        _load_moments(optimizer, _with_prefix(tensors, "moment."))
    except (SafetensorError, RuntimeError, TypeError, KeyError, ValueError) as error:
        fault = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
        raise StateError(
            f"{path}: damaged ({fault}); delete it and train again: step 0 leads to the same."
        ) from error
    return step


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, without that prefix."""
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _load_moments(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Give the optimizer its moments; torch moves each to its parameter's device, `step` too."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, moment = name.split(".", 1)
        state.setdefault(int(number), {})[moment] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
