"""What a run keeps on disk: connectors at some steps, and a state to resume from.

<run>/checkpoints/000000.safetensors …, checkpoints.json     connectors, and their list
<run>/state/state.safetensors                                what learns, its moments, the step
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from desta_lab import cache
from desta_lab.model.audio_llm import (
    AudioLLM,
    ProvenanceError,
    checkpoint_path,
    hash_state,
    index_path,
    read_index,
)


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
    try:
        return read_index(run)
    except ProvenanceError as error:
        raise CheckpointError(str(error)) from error


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
    if not path.exists():
        there = [str(one) for one in known if checkpoint_path(run, one).exists()]
        raise CheckpointError(
            f"{path}: not here; of the {len(known)} checkpoints of this run there are the files of "
            f"steps {', '.join(there) or 'none'}, so take one of these, or train again in another "
            "data folder (the run that ships has its first and its last)."
        )
    if cache.hash_file(path) != known[step]:
        raise CheckpointError(
            f"{path}: changed since it was saved; delete the run's folder and train again."
        )
    llm.load_connector(path)


# ---- the state to resume from ----


def state_path(run: Path) -> Path:
    """The file that a run resumes from."""
    return run / "state" / "state.safetensors"


def save_state(run: Path, llm: AudioLLM, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write what learns, Adam's moments and the step as one file, moved into place whole.

    It holds the hash of all its numbers, and that of the run it belongs to.
    """
    tensors = {f"weight.{name}": tensor for name, tensor in llm.trainable_state().items()}
    for number, moments in optimizer.state_dict()["state"].items():
        for name, moment in moments.items():
            tensors[f"moment.{number}.{name}"] = moment
    about = {"step": step, "run": _run_hash(run), "tensors": hash_state(tensors)}
    cache.save_tensors(state_path(run), tensors, about=json.dumps(about, sort_keys=True))


def load_state(run: Path, llm: AudioLLM, optimizer: torch.optim.Optimizer, steps: int) -> int:
    """Load weights and moments onto their devices; return the step, or 0 where there is no state.

    Args:
        steps: of the whole run.

    Raises:
        StateError: the file is damaged, or the state of another run or model.
    """
    path = state_path(run)
    if not path.exists():
        return 0
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get("about", "{}"))
        tensors = load_file(path)
        _check_state(about, tensors, run, steps)
        weights, moments = _with_prefix(tensors, "weight."), _with_prefix(tensors, "moment.")
        _check_moments(moments, llm, about["step"])
        llm.load_trainable_state(weights)
        _load_moments(optimizer, moments)
    except (SafetensorError, OSError, RuntimeError, TypeError, KeyError, ValueError) as error:
        fault = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
        raise StateError(
            f"{path}: damaged ({fault}); delete it and train again: step 0 leads to the same."
        ) from error
    return int(about["step"])


def _run_hash(run: Path) -> str:
    """What tells a run from any other: its config, and the connector that it began with."""
    config = run / "config.json"
    begin = [one["sha256"] for one in list_checkpoints(run) if one["step"] == 0]
    about = [cache.hash_file(config) if config.is_file() else None, begin]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def _check_state(about: dict[str, Any], tensors: dict[str, Tensor], run: Path, steps: int) -> None:
    """Raise ValueError for a state that is not as it was written, or not of this run."""
    if about.get("tensors") != hash_state(tensors):
        raise ValueError("its numbers are not those that were written, or were by an old version")
    if about["run"] != _run_hash(run):
        raise ValueError("it is the state of another run")
    if not 0 < about["step"] <= steps:
        raise ValueError(f"it is of step {about['step']}, and the run has {steps}")


def _check_moments(moments: dict[str, Tensor], llm: AudioLLM, step: int) -> None:
    """Raise ValueError unless every parameter that learns has Adam's moments of this step."""
    wanted = {
        f"{number}.{name}": () if name == "step" else parameter.shape
        for number, parameter in enumerate(llm.trainable_parameters.values())
        for name in ("step", "exp_avg", "exp_avg_sq")
    }
    if {name: tuple(moment.shape) for name, moment in moments.items()} != {
        name: tuple(shape) for name, shape in wanted.items()
    }:
        raise ValueError("its moments are not those of what learns here")
    if {int(moment) for name, moment in moments.items() if name.endswith(".step")} != {step}:
        raise ValueError(f"its moments are not those of step {step}")


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
