"""The finished runs that ship: each packed into one archive, restored or opened from it."""

import io
import json
import lzma
import re
import stat
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save
from torch import nn

from desta_lab import cache
from desta_lab.cache import Provenance
from desta_lab.experiments.experiment import RUNS, Experiment
from desta_lab.experiments.inside import Inside
from desta_lab.experiments.inside_tables import TABLES
from desta_lab.experiments.quickstart import coverage_provenance
from desta_lab.model import build, weights
from desta_lab.model.audio_llm import AudioLLM, ProvenanceError
from desta_lab.model.runs import (
    VERDICT,
    CheckpointError,
    checkpoint_path,
    describe_run,
    index_path,
    list_checkpoints,
    open_run,
)
from desta_lab.training import checkpoints, trainer

FOLDER = weights.NANO_FOLDER.parent / "finished"
ARCHIVE = FOLDER / "nano.zip"  # of the notebooks; beside it `laptop.zip`
# facts of a run that say where it was made, not what was learned
PLACE = {"dtype", "device", "targets"}
RECORDS, CONFIG, LIST = "records.jsonl", "config.json", "checkpoints/checkpoints.json"
ANCHOR = "anchor.safetensors"  # of step 0: the one tensor of it that the precision decides
MEMBER = re.compile(  # the name of every file that an archive may hold
    r"anchor\.safetensors"
    r"|runs/(self|label)/((config|verdict)\.json|records\.jsonl)"
    r"|runs/(self|label)/checkpoints/(checkpoints\.json|\d{6}\.safetensors)"
    r"|results/[a-z]+/[0-9a-f]{16}/\w+\.(json|csv|safetensors)",
    re.ASCII,
)
PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA)
LARGEST = 500_000_000  # bytes of all files together; the larger that ships has 32 million


class ArchiveError(ValueError):
    """An archive of a finished run that cannot be trusted; the message names it and the fault."""


def shipped_archive(preset: str) -> Path:
    """Where the archive of a preset's finished run is, or would be."""
    return FOLDER / f"{preset}.zip"


# ---- to pack one ----


def round_checkpoint(experiment: Experiment) -> None:
    """Round the last self-generated connector (`round_weights`): it packs to 40 % of its bytes.

    To be called between training and the main job, whose tables are of the checkpoint.
    """
    folder, llm = experiment.train("self"), experiment.llm
    last = list_checkpoints(folder)[-1]
    checkpoints.load_checkpoint(folder, llm, last["step"])
    round_weights(llm.connector)
    checkpoints.save_checkpoint(folder, llm, last["step"], last["loss"], last.get("records"))


def round_weights(connector: nn.Module) -> None:
    """Round the weights of linear layers to bf16, as a machine with bf16 does at each product."""
    for module in connector.modules():
        if isinstance(module, nn.Linear):
            module.weight.data = module.weight.data.to(torch.bfloat16).float()


def pack(experiment: Experiment, archive: Path | None = None) -> int:
    """Write what is needed of a finished main job into one archive; returns its bytes.

    Of the checkpoints only the last self-generated one is in it; of the results, the scores of
    every checkpoint and the oracle; for notebooks (nano) the targets and the tables of the analysis
    too.
    """
    archive = archive or shipped_archive(experiment.preset.name)
    content: dict[str, bytes] = {}
    for kind in RUNS:
        folder = experiment.run_folder(kind)
        paths = [folder / CONFIG, folder / RECORDS, folder / VERDICT, index_path(folder)]
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
    seen = set()
    for kind in RUNS:
        for checkpoint in experiment.scored_checkpoints(kind):
            provenance = experiment.score_provenance(checkpoint)
            if provenance.key not in seen:
                yield provenance
            seen.add(provenance.key)
    if experiment.preset.glass_box:
        yield experiment.targets_provenance
        yield coverage_provenance(experiment)
        inside = Inside.from_experiment(experiment)
        for name in TABLES:
            inside.table(name)
            yield inside.provenance(name)


# ---- to use one ----


def restore(experiment: Experiment, archive: Path | None = None) -> str:
    """Unpack the finished run for an experiment that would train the same; returns a sentence.

    Nothing that exists is overwritten, and no backbone is fetched to know what it would train. An
    experiment of other data, weights, steps or seed gets no run, and the sentence says what one
    costs.

    Raises:
        ArchiveError: the archive is damaged, or holds anything else than a finished run.
    """
    archive = archive or shipped_archive(experiment.preset.name)
    here = weights.is_installed(experiment.preset.backbone, experiment.root / "models")
    if here and archive.exists():
        with _open_archive(archive) as shipped:
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
    return (
        "No finished run of this preset and seed is here; "
        f"run_quickstart(experiment) makes it ({build.state_minutes(experiment.preset)})."
    )


def open_last(archive: Path, root: Path | None = None) -> tuple[AudioLLM, str, str]:
    """The AudioLLM of an archive's last connector, what it is in one line, and its sha256.

    Nothing is unpacked for longer than that. Other weights of encoder or backbone than those it was
    trained with are taken with a warning.

    Raises:
        ArchiveError: as for `restore`.
        ProvenanceError: encoder or backbone is not here.
    """
    with (
        _open_archive(archive) as shipped,
        TemporaryDirectory() as temporary,
        _name_archive(archive, temporary),
    ):
        _extract(shipped, "runs/self/", Path(temporary))
        run = Path(temporary) / "runs" / "self"
        try:
            llm, about = open_run(run, root=root, strict=False), describe_run(run, archive.name)
            return llm, about, list_checkpoints(run)[-1]["sha256"]
        except CheckpointError as error:
            raise ArchiveError(_say_fault(error, run)) from error


# ---- the archive: nothing in it is believed before it is checked ----


@contextmanager
def _open_archive(archive: Path) -> Iterator[zipfile.ZipFile]:
    """The archive, if all its entries are files of a finished run, each of them once."""
    try:
        if not archive.is_file():
            raise ArchiveError("it is no file")
        with zipfile.ZipFile(archive) as shipped:
            _check_entries(shipped)
            yield shipped
    except (ArchiveError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError) as error:
        fault = str(error).rstrip(".") or "it is cut off"
        remedy = "get it again from where the package comes from"
        raise ArchiveError(f"{archive}: {fault}; {remedy}.") from error


@contextmanager
def _name_archive(archive: Path, place: str) -> Iterator[None]:
    """Let what is said of files in a place, which is gone soon, name the archive they are of."""
    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            yield
    except ProvenanceError as error:
        raise ProvenanceError(str(error).replace(place, str(archive))) from error
    finally:
        for one in caught:
            warnings.warn(str(one.message).replace(place, str(archive)), one.category, stacklevel=4)


def _check_entries(shipped: zipfile.ZipFile) -> None:
    entries, names = shipped.infolist(), shipped.namelist()
    for entry in entries:
        name, kind = entry.filename, stat.S_IFMT(entry.external_attr >> 16)
        if entry.orig_filename != name or not MEMBER.fullmatch(name):
            raise ArchiveError(f"{entry.orig_filename!r} is no file of a finished run")
        if kind not in (0, stat.S_IFREG):
            raise ArchiveError(f"{name!r} is a link, not a file")
        if entry.flag_bits & 1 or entry.compress_type not in PACKED:
            raise ArchiveError(f"{name!r} is packed in a way that is not read")
    if len(set(names)) < len(names):
        raise ArchiveError("a file is there twice")
    if sum(entry.file_size for entry in entries) > LARGEST:
        raise ArchiveError(f"it would unpack to more than {LARGEST:,} bytes")
    needed = [f"runs/{kind}/{name}" for kind in RUNS for name in (CONFIG, RECORDS, LIST)]
    if missing := [name for name in (ANCHOR, *needed) if name not in names]:
        raise ArchiveError(f"it has no {missing[0]!r}")


def _read_json(shipped: zipfile.ZipFile, name: str) -> dict[str, Any]:
    try:
        found = json.loads(shipped.read(name))
    except (ValueError, RecursionError) as error:
        raise ArchiveError(f"{name}: no JSON ({error})") from error
    if not isinstance(found, dict):
        raise ArchiveError(f"{name}: {type(found).__name__}, not an object")
    return found


def _restore_results(experiment: Experiment, shipped: zipfile.ZipFile) -> None:
    """Put every shipped result where this machine, in its precision, looks for it."""
    dtype = experiment.llm.provenance["dtype"]
    for name in shipped.namelist():
        if not name.startswith("results/") or not name.endswith(f"/{cache.HEAD}"):
            continue
        _, kind, key, _ = name.split("/")
        about = _read_json(shipped, name).get("determined_by")
        about = about if isinstance(about, dict) else {}
        if not isinstance(about.get("facts"), dict) or kind not in cache.VERSIONS:
            raise ArchiveError(f"{name}: it does not say what determines its result")
        if about.get("version") != cache.VERSIONS[kind]:
            continue  # made again when it is asked for
        if Provenance(kind, about["facts"]).key != key or about.get("kind") != kind:
            raise ArchiveError(f"{name}: what determines its result was changed")
        provenance = Provenance(kind, {**about["facts"], "dtype": dtype})
        if not provenance.folder(experiment.root).exists():
            read = partial(_read_shipped, shipped, Provenance(kind, about["facts"]))
            cache.find_or_make(experiment.root, provenance, read)


def _read_shipped(shipped: zipfile.ZipFile, provenance: Provenance) -> Any:
    folder = f"results/{provenance.kind}/{provenance.key}/"
    with TemporaryDirectory() as place:
        _extract(shipped, folder, Path(place))
        found = cache.find(Path(place) / "results", provenance)
    if found is None:
        raise ArchiveError(f"{folder}: not the result that was packed")
    return found


def _extract(shipped: zipfile.ZipFile, folder: str, place: Path) -> None:
    shipped.extractall(place, [name for name in shipped.namelist() if name.startswith(folder)])


def _is_same(experiment: Experiment, shipped: zipfile.ZipFile, kind: str) -> bool:
    """Whether the run that ships is the one this experiment would train, on whatever machine."""
    theirs = _read_json(shipped, f"runs/{kind}/{CONFIG}")
    ours = cache.to_plain(experiment.run_config(kind))
    return all(theirs.get(name) == ours[name] for name in ours.keys() - PLACE)


def _restore_run(experiment: Experiment, shipped: zipfile.ZipFile, kind: str) -> None:
    """Unpack one run; its list of checkpoints comes last, so a kill leaves no finished run."""
    folder = experiment.run_folder(kind)
    if trainer.is_finished(folder, experiment.train_config):
        return
    with trainer.own_run(folder), TemporaryDirectory() as temporary:
        if not trainer.is_finished(folder, experiment.train_config):
            _extract(shipped, f"runs/{kind}/", Path(temporary))
            place = Path(temporary) / "runs" / kind
            listed = _check_run(experiment, shipped, place)
            for path in filter(Path.is_file, place.rglob("*")):
                if path not in (place / CONFIG, index_path(place)):
                    cache.write_whole(folder / path.relative_to(place), path.read_bytes())
            first = checkpoint_path(folder, 0)
            first.parent.mkdir(parents=True, exist_ok=True)
            if _save_first(experiment.llm, shipped, first) != listed[0]["sha256"]:
                first.unlink()
            cache.write_whole(index_path(folder), json.dumps(listed, indent=1).encode())


def _check_run(experiment: Experiment, shipped: zipfile.ZipFile, run: Path) -> list[dict[str, Any]]:
    """The list of a run's checkpoints with the hash of its records, if all that is here is whole.

    The archive is older than those hashes.
    """
    steps, told = experiment.train_config.steps, f"runs/{run.name}"
    if (run / VERDICT).is_file():
        _read_json(shipped, f"{told}/{VERDICT}")
    try:
        listed = list_checkpoints(run)
        if not trainer.is_finished(run, experiment.train_config):
            raise ArchiveError(f"{told}: its list has not every checkpoint")
        records = checkpoints.read_records(run, steps)
    except CheckpointError as error:
        raise ArchiveError(_say_fault(error, run)) from error
    known = {one["step"]: one["sha256"] for one in listed}
    for path in (run / "checkpoints").glob("*.safetensors"):
        if known.get(int(path.stem)) != cache.hash_file(path):
            raise ArchiveError(f"{told}: {path.name} is not what its list has")
    if run.name == "self" and not checkpoint_path(run, steps).is_file():
        raise ArchiveError(f"{told}: it has no checkpoint of step {steps}")
    hashes = {one["step"]: checkpoints.hash_records(records[: one["step"]]) for one in listed}
    return [one | ({"records": hashes[one["step"]]} if one["step"] else {}) for one in listed]


def _say_fault(error: CheckpointError, run: Path) -> str:
    """What is wrong with an unpacked run, without the place that it was unpacked to."""
    fault = str(error).split(";")[0].replace(f"{run}/", "").replace(str(run), "")
    return f"runs/{run.name}: {fault}"


def _save_first(llm: AudioLLM, shipped: zipfile.ZipFile, path: Path) -> str:
    """Save step 0: the connector as its seed builds it, anchored as on the machine that trained it.

    The anchor is made of the backbone's embeddings, which bf16 rounds; all else is the same
    anywhere.
    """
    here = {name: tensor.clone() for name, tensor in llm.trainable_state().items()}
    try:
        llm.load_trainable_state({**here, **load(shipped.read(ANCHOR))})
    except (SafetensorError, RuntimeError) as error:
        raise ArchiveError(f"{ANCHOR}: not the anchor of this connector") from error
    sha256 = llm.save_connector(path)
    llm.load_trainable_state(here)
    return sha256
