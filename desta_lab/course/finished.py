"""The small finished run that ships: packed into one archive, and restored from it."""

import io
import json
import stat
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors.torch import load, load_file, save
from torch import Tensor

from desta_lab import cache
from desta_lab.cache import Provenance
from desta_lab.experiments.experiment import RUNS, Experiment
from desta_lab.experiments.inside import Inside
from desta_lab.experiments.inside_tables import TABLES
from desta_lab.experiments.quickstart import coverage_provenance
from desta_lab.model.audio_llm import VERDICT, AudioLLM, checkpoint_path, index_path
from desta_lab.model.weights import NANO_FOLDER
from desta_lab.training import checkpoints, trainer

ARCHIVE = NANO_FOLDER.parent / "finished" / "nano.zip"
# facts of a run that say where it was made, not what was learned
PLACE = {"dtype", "device", "targets"}
RECORDS, CONFIG = "records.jsonl", "config.json"
ANCHOR = "anchor.safetensors"  # of step 0: the one tensor of it that the precision decides


def pack(experiment: Experiment, archive: Path = ARCHIVE) -> int:
    """Write what a notebook needs of a finished main job into one archive; returns its bytes.

    Of the checkpoints only the last self-generated one is in it; of the results, the scores of
    every checkpoint, the oracle, the targets and the tables of the analysis.
    """
    content: dict[str, bytes] = {}
    for kind in RUNS:
        folder = experiment.run_folder(kind)
        paths = [folder / CONFIG, folder / RECORDS, folder / VERDICT]
        paths.append(index_path(folder))
        if kind == "self":
            paths.append(checkpoint_path(folder, experiment.train_config.steps))
        for path in paths:
            content[f"runs/{kind}/{path.relative_to(folder).as_posix()}"] = path.read_bytes()
    for provenance in _results(experiment):
        folder = provenance.folder(experiment.root)
        for path in sorted(folder.iterdir()):
            content[f"results/{provenance.kind}/{folder.name}/{path.name}"] = path.read_bytes()
    first = load_file(checkpoint_path(experiment.run_folder("self"), 0))
    content[ANCHOR] = save({"anchor": first["anchor"]})
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name in sorted(content):
            entry = zipfile.ZipInfo(name, (2000, 1, 1, 0, 0, 0))  # the same bytes at any time
            file.writestr(entry, content[name], zipfile.ZIP_LZMA)
    cache.write_whole(archive, buffer.getvalue())
    return archive.stat().st_size


def _results(experiment: Experiment) -> Iterator[Provenance]:
    """What determines each result that ships; all of them are on disk after the main job."""
    yield experiment.oracle_provenance
    yield experiment.targets_provenance
    yield coverage_provenance(experiment)
    seen = set()
    for kind in RUNS:
        for checkpoint in checkpoints.list_checkpoints(experiment.run_folder(kind)):
            provenance = experiment.score_provenance(checkpoint)
            if provenance.key not in seen:
                yield provenance
            seen.add(provenance.key)
    inside = Inside.from_experiment(experiment)
    for name in TABLES:
        inside.table(name)
        yield inside.provenance(name)


def restore(experiment: Experiment, archive: Path = ARCHIVE) -> str:
    """Unpack the finished run for an experiment that would train the same; returns a sentence.

    Nothing that exists is overwritten. An experiment of other data, steps or seed gets no run, and
    the sentence says what one costs.

    Raises:
        ValueError: the archive holds a link, or a name that leads out of its folder.
    """
    if experiment.preset.glass_box and archive.exists():
        with zipfile.ZipFile(archive) as shipped:
            _refuse_paths(shipped, archive)
            _restore_results(experiment, shipped)
            if all(_is_same(experiment, shipped, kind) for kind in RUNS):
                for kind in RUNS:
                    _restore_run(experiment, shipped, kind)
    # the names of runs need the models, which may not be here before the first run
    begun = any((experiment.root / "runs").glob(f"{experiment.preset.name}-*"))
    folders = [experiment.run_folder(kind) for kind in RUNS] if begun else []
    if folders and all(trainer.is_finished(f, experiment.train_config) for f in folders):
        names = ", ".join(folder.name for folder in folders)
        return f"Finished runs: {names}. Nothing needs training."
    minutes = experiment.preset.minutes
    cost = f"about {minutes:g} minutes on two CPU cores" if minutes else "not measured yet"
    return (
        "No finished run of this preset and seed is here; "
        f"run_quickstart(experiment) makes it ({cost})."
    )


def _refuse_paths(shipped: zipfile.ZipFile, archive: Path) -> None:
    """Refuse an archive that could write anywhere else than into the folder of a run."""
    for entry in shipped.infolist():
        name, mode = entry.filename, entry.external_attr >> 16
        windows = "\\" in name or ":" in name
        if name.startswith("/") or ".." in name.split("/") or windows or stat.S_ISLNK(mode):
            raise ValueError(
                f"{archive}: {name!r} is a link, or leads out of the folder of the run; get the "
                "archive again from where the package comes from."
            )


def _restore_results(experiment: Experiment, shipped: zipfile.ZipFile) -> None:
    """Put every shipped result where this machine, in its precision, looks for it."""
    dtype = experiment.llm.provenance["dtype"]
    heads = [name for name in shipped.namelist() if name.endswith(f"/{cache.HEAD}")]
    for head in heads:
        about = json.loads(shipped.read(head))["determined_by"]
        if about["version"] != cache.VERSIONS[about["kind"]]:
            continue  # made again when it is asked for
        provenance = Provenance(about["kind"], {**about["facts"], "dtype": dtype})
        if provenance.folder(experiment.root).exists():
            continue
        folder = head.removesuffix(cache.HEAD)
        cache.find_or_make(experiment.root, provenance, partial(_read_shipped, shipped, folder))


def _read_shipped(shipped: zipfile.ZipFile, folder: str) -> Any:
    names = [name for name in shipped.namelist() if name.startswith(folder)]
    with TemporaryDirectory() as place:
        shipped.extractall(place, names)
        return cache.read_result(Path(place) / folder)[1]


def _is_same(experiment: Experiment, shipped: zipfile.ZipFile, kind: str) -> bool:
    """Whether the run that ships is the one this experiment would train, on whatever machine."""
    theirs = json.loads(shipped.read(f"runs/{kind}/{CONFIG}"))
    ours = cache.to_plain(experiment.run_config(kind))
    return all(theirs.get(name) == ours[name] for name in ours.keys() - PLACE)


def _restore_run(experiment: Experiment, shipped: zipfile.ZipFile, kind: str) -> None:
    """Unpack one run; its list of checkpoints comes last, so a kill leaves no finished run."""
    folder = experiment.run_folder(kind)
    if trainer.is_finished(folder, experiment.train_config):
        return
    with trainer.own_run(folder):
        if not trainer.is_finished(folder, experiment.train_config):
            _unpack_run(experiment, shipped, folder, f"runs/{kind}/")


def _unpack_run(
    experiment: Experiment, shipped: zipfile.ZipFile, folder: Path, source: str
) -> None:
    index = index_path(folder)
    list_name = source + index.relative_to(folder).as_posix()
    for name in shipped.namelist():
        if name.startswith(source) and name not in (list_name, source + CONFIG):
            cache.write_whole(folder / name.removeprefix(source), shipped.read(name))
    first = checkpoint_path(folder, 0)
    first.parent.mkdir(parents=True, exist_ok=True)
    listed = json.loads(shipped.read(list_name))
    anchor = load(shipped.read(ANCHOR))
    if _save_first(experiment.llm, anchor, first) != listed[0]["sha256"]:
        first.unlink()
    cache.write_whole(index, shipped.read(list_name))


def _save_first(llm: AudioLLM, anchor: dict[str, Tensor], path: Path) -> str:
    """Save step 0: the connector as its seed builds it, anchored as on the machine that trained it.

    The anchor is made of the backbone's embeddings, which bf16 rounds; all else is the same
    anywhere.
    """
    here = {name: tensor.clone() for name, tensor in llm.trainable_state().items()}
    llm.load_trainable_state({**here, **anchor})
    sha256 = llm.save_connector(path)
    llm.load_trainable_state(here)
    return sha256
