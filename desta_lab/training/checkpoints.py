"""What a run keeps on disk: connectors at some steps, and a state to resume from.

<run>/checkpoints/000000.safetensors …, checkpoints.json     connectors, and their list
<run>/records.jsonl                                          one record a step
<run>/state/state.safetensors                                what learns, its moments, the step
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from desta_lab import cache
from desta_lab.model.audio_llm import AudioLLM, hash_state
from desta_lab.model.bounds import is_number
from desta_lab.model.runs import ANEW, checkpoint_path, find_checkpoint, index_path
from desta_lab.model.runs import CheckpointError as CheckpointError
from desta_lab.model.runs import list_checkpoints as list_checkpoints

# of a record, what the same run writes again; `seconds` beside it depend on the machine
RECORDED = ("step", "loss", "lr", "grad_norm", "tokens")


class StateError(ValueError):
    """A run cannot go on from its state on disk; the message names the file and what to do."""


# ---- checkpoints ----


def checkpoint_steps(steps: int, every: int = 64) -> list[int]:
    """The steps with a checkpoint: 0, the powers of two below `every`, its multiples, the last."""
    powers = [2**n for n in range(every.bit_length()) if 2**n < min(every, steps)]
    return sorted({0, *powers, *range(every, steps, every), steps})


def save_checkpoint(
    run: Path, llm: AudioLLM, step: int, loss: float | None, records: str | None = None
) -> None:
    """Write the connector, then its line in the list: a kill leaves no line without a file.

    The file does not contain its step, so equal weights give equal hashes. `records` is the hash
    of all records up to this step (`hash_records`).

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
            fault = f"{path.parent}: step {step} is the same file as step {one['step']}"
            raise CheckpointError(f"{fault}; nothing was learned in between.")
    known = {} if records is None else {"records": records}
    others.append({"step": step, "sha256": sha256, "loss": loss, **known})
    others.sort(key=lambda one: one["step"])
    _write_list(run, others)


def keep_checkpoints(run: Path, steps: Sequence[int]) -> None:
    """Take every other step off the list of a run's checkpoints."""
    listed = list_checkpoints(run)
    kept = [one for one in listed if one["step"] in steps]
    if kept != listed:
        _write_list(run, kept)


def _write_list(run: Path, listed: Sequence[Mapping[str, Any]]) -> None:
    cache.write_whole(index_path(run), json.dumps(listed, indent=1).encode())


def load_checkpoint(run: Path, llm: AudioLLM, step: int) -> None:
    """Load the connector of one step; raises CheckpointError as `find_checkpoint` does."""
    llm.load_connector(find_checkpoint(run, step))


# ---- the records ----


def records_path(run: Path) -> Path:
    """The records of a run, one line a step."""
    return run / "records.jsonl"


def hash_records(records: Sequence[Mapping[str, Any]], before: str = "") -> str:
    """One sha256 of some records, and of all before them by their hash."""
    for record in records:
        facts = json.dumps([record[name] for name in RECORDED])
        before = hashlib.sha256(f"{before}{facts}".encode()).hexdigest()
    return before


def read_records(run: Path, steps: int | None = None) -> list[dict[str, Any]]:
    """The record of every step that a run has taken, in their order.

    They are compared with the list of checkpoints, which has the loss of its steps and the hash of
    all records before (none of releases before this one). A last line that is being written is
    left out.

    Args:
        steps: how many are read; by default all.

    Raises:
        CheckpointError: a row is missing, doubled, out of order, or none that this run wrote.
    """
    path, records, listed = records_path(run), [], list_checkpoints(run)
    try:
        lines = cache.read_text(path).splitlines(keepends=True)
    except (OSError, UnicodeError) as error:
        raise CheckpointError(f"{path}: no readable records ({error}); {ANEW}.") from error
    for number, line in enumerate(lines[:steps], start=1):
        record = _parse_record(line, number)
        if record is None and number == len(lines) and not line.endswith("\n"):
            break
        if record is None:
            fault = f"{path}, line {number}: not the record of step {number}"
            raise CheckpointError(f"{fault}; {ANEW}.")
        records.append(record)
    hashed, seen = "", 0
    for one in listed:
        step = one["step"]
        if step == 0 or (steps is not None and step > steps):
            continue
        hashed, first, seen = hash_records(records[seen:step], hashed), seen + 1, step
        known = len(records) >= step and one["loss"] in (None, records[step - 1]["loss"])
        if not known or one.get("records", hashed) != hashed:
            lines_of = f"line {step}" if first == step else f"lines {first} to {step}"
            raise CheckpointError(f"{path}, {lines_of}: not what this run wrote there; {ANEW}.")
    if steps is not None and len(records) < steps:
        raise CheckpointError(f"{path}: {len(records)} records of {steps} steps; {ANEW}.")
    return records


def _parse_record(line: str, step: int) -> dict[str, Any] | None:
    """The record of a step in a line, if there is one: finite numbers under all its names."""
    try:
        record = json.loads(line)
        numbers = [record[name] for name in (*RECORDED, "seconds")]
        whole = all(type(one) in (int, float) and is_number(one) for one in numbers)
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
    return record if whole and record["step"] == step else None


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
        remedy = "delete it and train again: step 0 leads to the same"
        raise StateError(f"{path}: damaged ({fault}); {remedy}.") from error
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
        f"{number}.{name}": torch.Size() if name == "step" else parameter.shape
        for number, parameter in enumerate(llm.trainable_parameters.values())
        for name in ("step", "exp_avg", "exp_avg_sq")
    }
    if {name: moment.shape for name, moment in moments.items()} != wanted:
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
