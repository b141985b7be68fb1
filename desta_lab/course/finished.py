"""The small finished run that ships: one archive beside the nano LLM, unpacked where the lab looks for its runs."""

import io
import json
import zipfile
from pathlib import Path

from desta_lab import cache
from desta_lab.experiments.inside import Inside
from desta_lab.experiments.inside_subject import TABLES
from desta_lab.experiments.quickstart import Quickstart
from desta_lab.model import weights
from desta_lab.training import checkpoints, trainer

ARCHIVE = weights.NANO_FOLDER.parent / "finished" / "nano.zip"
KINDS = ("self", "label")
PLACE = {"dtype", "device", "targets"}  # of a run's config: where it was made, not what was learned


def pack(lab: Quickstart, archive: Path = ARCHIVE) -> int:
    """Write what a notebook needs of a finished job into one archive; returns its size in bytes.

    Of the ladder only the last self-generated rung is kept, with the tables of every rung and those of the analysis.
    """
    content: dict[str, bytes] = {}
    for kind in KINDS:
        folder = lab.train(kind)
        lab.evaluate(kind)
        for name in ("config.json", "records.jsonl", "checkpoints/checkpoints.json"):
            content[f"{kind}/{name}"] = (folder / name).read_bytes()
        content |= {f"{kind}/evals/{path.name}": path.read_bytes() for path in lab.evals(kind)}
    last = f"checkpoints/{lab.train_config.steps:06d}.safetensors"
    content[f"self/{last}"] = (lab.run_folder("self") / last).read_bytes()
    look = Inside(lab)
    content |= {
        f"self/inside/{name}.csv": look.table(name).to_csv(index=False).encode() for name in TABLES
    }
    lab.oracle()
    content[f"oracles/{lab.oracle_path.name}"] = lab.oracle_path.read_bytes()
    for path in sorted((lab.root / "targets" / lab.targets[2]).iterdir()):
        content[f"targets/{lab.targets[2]}/{path.name}"] = path.read_bytes()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name in sorted(content):
            entry = zipfile.ZipInfo(
                name, (2000, 1, 1, 0, 0, 0)
            )  # the same bytes whenever it is packed
            file.writestr(entry, content[name], zipfile.ZIP_LZMA)
    cache.write_whole(archive, buffer.getvalue())
    return archive.stat().st_size


def restore(lab: Quickstart, archive: Path = ARCHIVE) -> str:
    """Unpack the finished run for a lab that would train the same one; returns a sentence on what there is now.

    Nothing that exists is overwritten. A lab of other data, steps or seed gets nothing, and is told what it will cost.
    """
    shipped = zipfile.ZipFile(archive) if archive.exists() else None
    if lab.preset.glass_box and shipped:
        with shipped:
            for name in shipped.namelist():
                if name.startswith(("oracles/", "targets/")):
                    _put(lab.root / name, shipped.read(name))
            if all(_same(shipped, lab, kind) for kind in KINDS):
                for kind in KINDS:
                    _unpack(shipped, lab, kind)
    begun = any(
        (lab.root / "runs").glob(f"{lab.preset.name}-*")
    )  # a run's name needs its targets: minutes, where none
    folders = [lab.run_folder(kind) for kind in KINDS] if begun else []
    if folders and all(trainer.is_finished(folder, lab.train_config) for folder in folders):
        return f"Finished runs: {', '.join(folder.name for folder in folders)}. Nothing needs training."
    cost = (
        f"about {lab.preset.minutes:g} minutes on two CPU cores"
        if lab.preset.minutes
        else "not measured yet"
    )
    return f"No finished run of this preset and seed is here; lab.run() makes it ({cost})."


def _same(shipped: zipfile.ZipFile, lab: Quickstart, kind: str) -> bool:
    """Whether the run that ships is the one this lab would train, wherever either is made."""
    theirs = json.loads(shipped.read(f"{kind}/config.json"))
    ours = json.loads(json.dumps(lab.run_config(kind), default=str))
    return all(theirs.get(key) == ours[key] for key in ours.keys() - PLACE)


def _unpack(shipped: zipfile.ZipFile, lab: Quickstart, kind: str) -> None:
    """One run into its folder: the ladder's list last, so that a kill leaves no finished run behind."""
    folder, listed = lab.run_folder(kind), shipped.read(f"{kind}/checkpoints/checkpoints.json")
    hashes = [rung["sha256"] for rung in json.loads(listed)]
    if not trainer.is_finished(folder, lab.train_config):
        for name in shipped.namelist():
            if name.startswith((f"{kind}/evals/", f"{kind}/records", f"{kind}/checkpoints/0")):
                _put(folder / name.removeprefix(f"{kind}/"), shipped.read(name))
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        first = folder / "checkpoints" / "000000.safetensors"
        if lab.llm.save_connector(first) != hashes[0]:  # the connector as this seed bears it
            first.unlink()
        cache.write_whole(folder / "checkpoints" / "checkpoints.json", listed)
    if kind == "self" and checkpoints.list_checkpoints(folder)[-1]["sha256"] == hashes[-1]:
        look = Inside(lab)  # the tables are of this run's last connector, and of no other's
        for name in TABLES:
            _put(look.path(name), shipped.read(f"{kind}/inside/{name}.csv"))


def _put(path: Path, content: bytes) -> None:
    if not path.exists():
        cache.write_whole(path, content)
