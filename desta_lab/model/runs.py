"""A run's folder: the list of its checkpoints, its config and verdict, the AudioLLM it opens as."""

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from desta_lab import cache
from desta_lab.clips import HEAD, Corpus, CorpusError
from desta_lab.model import weights
from desta_lab.model.audio_llm import AudioLLM, ProvenanceError
from desta_lab.model.bounds import is_number
from desta_lab.model.build import open_connector
from desta_lab.model.connector import OwnConnector

VERDICT = "verdict.json"  # in the folder of a run that a main job has judged
ANEW = "delete the run's folder and train again"  # what is to be done with a run that was changed


class CheckpointError(ProvenanceError):
    """A checkpoint or a record is missing, doubled or changed; the message names it."""


def checkpoint_path(run: Path, step: int) -> Path:
    """The connector file of one step in a run's folder."""
    return run / "checkpoints" / f"{step:06d}.safetensors"


def index_path(run: Path) -> Path:
    """The list of a run's checkpoints in its folder."""
    return run / "checkpoints" / "checkpoints.json"


def list_checkpoints(run: Path) -> list[dict[str, Any]]:
    """The checkpoints of a run in the order of their steps, each as `{"step", "sha256", "loss"}`.

    Raises:
        CheckpointError: there is no readable list.
    """
    path = index_path(run)
    try:
        listed = json.loads(cache.read_text(path))
        if not (isinstance(listed, list) and listed and all(map(_is_checkpoint, listed))):
            raise TypeError("it is no list of step, sha256 and loss")
        if any(len({one[name] for one in listed}) < len(listed) for name in ("step", "sha256")):
            raise ValueError("a step or a file is there twice")
        if listed != sorted(listed, key=lambda one: one["step"]):
            raise ValueError("its steps are not in order")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        fault = f"{path}: no readable list of checkpoints ({error})"
        raise CheckpointError(f"{fault}; {ANEW}.") from error
    return listed


def _is_checkpoint(one: Any) -> bool:
    return (
        isinstance(one, dict)
        and type(one.get("step")) is int
        and one["step"] >= 0
        and isinstance(one.get("sha256"), str)
        and "loss" in one
        and (one["loss"] is None or is_number(one["loss"]))
        and isinstance(one.get("records", ""), str)
    )


def find_checkpoint(run: Path, step: int) -> Path:
    """The connector file of one step, after its hash has been compared with the list.

    Raises:
        CheckpointError: the step is not listed, or its file is missing or changed.
    """
    path = checkpoint_path(run, step)
    known = {one["step"]: one["sha256"] for one in list_checkpoints(run)}
    if step not in known:
        there = ", ".join(map(str, known))
        raise CheckpointError(f"{path.parent}: no checkpoint at step {step}; it has {there}.")
    if not path.is_file():
        there = ", ".join(str(one) for one in known if checkpoint_path(run, one).is_file())
        raise CheckpointError(
            f"{path}: not here; of the {len(known)} checkpoints of this run there are the files of "
            f"steps {there or 'none'}, so take one of these, or train again in another data folder "
            "(the run that ships has its first and its last)."
        )
    if cache.hash_file(path) != known[step]:
        raise CheckpointError(f"{path}: changed since it was saved; {ANEW}.")
    return path


def open_run(
    folder: Path,
    step: int | None = None,
    root: Path | None = None,
    connector: OwnConnector | None = None,
    *,
    strict: bool = True,
) -> AudioLLM:
    """The AudioLLM of a run's checkpoint, see `AudioLLM.from_run` and `open_connector`."""
    if not index_path(folder).is_file():
        remedy = "train one with `python -m desta_lab quickstart`"
        if (folder / weights.WEIGHTS).is_file():
            remedy = "it is what save_pretrained wrote; open it with AudioLLM.from_pretrained"
        raise FileNotFoundError(f"{folder}: no checkpoints of a run here; {remedy}.")
    last = list_checkpoints(folder)[-1]
    step = last["step"] if step is None else step
    path, config = find_checkpoint(folder, step), read_run_config(folder)
    llm = open_connector(path, root, config.get("attention"), connector, strict=strict)
    llm.transcript = bool(config.get("transcript"))
    if step == last["step"] and (folder / VERDICT).is_file():  # the verdict is of the last step
        llm.result = weights.read_object(folder / VERDICT, {"verdict": str, "reasons": list})
        if llm.result.get("checkpoint", last["sha256"]) != last["sha256"]:
            fault = f"{folder / VERDICT}: the verdict of another connector"
            raise ProvenanceError(f"{fault}; delete it, and run the main job again.")
    return llm


def read_run_config(folder: Path) -> dict[str, Any]:
    """The config of a run; nothing of a folder that has none.

    Raises:
        WeightsError: it is no JSON object.
        ProvenanceError: it is not the config that the run's folder is named by.
    """
    path = folder / "config.json"
    if not path.exists():
        return {}
    config, named = weights.read_object(path), re.search("-([0-9a-f]{16})$", folder.name)
    if named and cache.Provenance("runs", config).key != named[1]:
        fault = f"{path}: not the config of this run, whose folder is named by it"
        raise ProvenanceError(f"{fault}; get the folder again, or train the run again.")
    return config


def newest_run(root: Path | None = None) -> Path:
    """The self-generated run that was finished last, if possible of those that were judged.

    Raises:
        FileNotFoundError: there is no run; the message says how to make one.
    """
    runs = (root or weights.models_dir().parent) / "runs"
    begun = [run for run in runs.glob("*-self-*") if index_path(run).exists()]
    trained = [run for run in begun if _is_finished(run)]
    if not trained:
        raise FileNotFoundError(
            f"{runs}: no finished run here; make one with `python -m desta_lab quickstart` "
            "(with `--preset nano` in minutes)."
        )
    judged = [run for run in trained if (run / VERDICT).exists()]
    return max(judged or trained, key=lambda run: index_path(run).stat().st_mtime)


def _is_finished(run: Path) -> bool:
    """Whether a run has the last checkpoint of its config, if it says how many steps it takes."""
    try:
        steps = weights.read_object(run / "config.json")["train_config"]["steps"]
        return bool(list_checkpoints(run)[-1]["step"] == steps)
    except (weights.WeightsError, CheckpointError, LookupError, TypeError):
        return True  # whoever opens it is told what is wrong


def describe_run(folder: Path, name: str = "") -> str:
    """A run's name (its folder's, or its archive's) with preset, corpus and last step."""
    name = name or folder.name
    preset = re.sub(r"-[a-z]+-[0-9a-f]{16}$|\.zip$", "", name)
    step = list_checkpoints(folder)[-1]["step"]
    return f"{name} (preset {preset}, corpus {_name_corpus(folder)}, step {step})"


def _name_corpus(folder: Path) -> str:
    """The corpus of a run, by name where its verdict or a corpus beside the runs tells it."""
    judged = folder / VERDICT
    name = weights.read_object(judged).get("corpus") if judged.is_file() else None
    sha256 = str(read_run_config(folder).get("corpus"))
    heads = (folder.resolve().parent.parent / "corpora").glob(f"*/{HEAD}")
    for head in sorted(heads) if name is None else ():
        with suppress(CorpusError):
            if (corpus := Corpus.read(head.parent)).hash == sha256:
                return corpus.name
    return str(name or sha256[:8])
