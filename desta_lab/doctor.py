"""Is this machine ready, which preset suits it, and what will that cost?"""

import importlib.metadata
import platform
import shutil
import sys
from typing import NamedTuple

import torch
from packaging.requirements import Requirement

from desta_lab.model import build, weights
from desta_lab.model.presets import Preset

PYTHONS = ((3, 11), (3, 13))  # the oldest and the newest that were tested


class Check(NamedTuple):
    """One thing that was looked at: whether it is right, what was found and what to do."""

    name: str
    ok: bool
    finding: str


def describe_cost(preset: Preset) -> str:
    """What a preset takes, in one sentence: measured, or said not to be measured."""
    missing = [name for name in (preset.encoder, preset.backbone) if not weights.is_installed(name)]
    megabytes = sum(weights.KNOWN[name].download_mb for name in missing if name in weights.KNOWN)
    others = [name for name in missing if name not in weights.KNOWN]
    parts = [f"{megabytes} MB"] if megabytes else []
    parts += [_describe_hub(name) for name in others]
    download = f"a download of {' and '.join(parts)} first" if parts else "no download"
    if build.minutes_here(preset) is None:
        unknown = "time and memory were not measured on this kind of machine yet"
        return f"Preset {preset.name}: {unknown}; {download}."
    return (
        f"Preset {preset.name}: {build.state_minutes(preset)}, "
        f"{preset.memory_gb:g} GB of memory, {preset.disk_gb:g} GB of disk, {download}. "
        "A second run takes seconds."
    )


def _describe_hub(name: str) -> str:
    size = weights.HUB_MB.get(name)
    return f"{f'about {size} MB, ' if size else ''}{name}, from the model hub"


def check_machine(preset: Preset | None = None) -> list[Check]:
    """Look at everything that a preset needs, or the preset that suits this machine."""
    preset = preset or build.pick_preset()
    oldest, newest = PYTHONS
    is_tested = oldest <= sys.version_info[:2] <= newest
    return [
        Check("python", is_tested, f"{platform.python_version()} (3.11 to 3.13)"),
        _check_packages(),
        _check_torch(),
        _check_weights(preset.encoder),
        _check_weights(preset.backbone),
        Check("nano weights", weights.is_installed("nano"), str(weights.NANO_FOLDER)),
        _check_disk(preset),
        Check("preset", True, describe_cost(preset)),
    ]


def format_checks(checks: list[Check]) -> str:
    """The checks as text, one line each."""
    width = max(len(check.name) for check in checks)
    return "\n".join(
        f"{'OK  ' if ok else 'FAIL'}  {name:<{width}}  {it}" for name, ok, it in checks
    )


def _check_packages() -> Check:
    """Compare every package with the range that this package declares."""
    remedy = "run `pip install -c constraints.txt -e .`"
    try:
        declared = [Requirement(need) for need in importlib.metadata.requires("desta-lab") or []]
    except importlib.metadata.PackageNotFoundError:
        return Check("packages", False, f"desta-lab itself is not installed; {remedy}")
    needed = [n for n in declared if not n.marker or n.marker.evaluate({"extra": ""})]
    faults = []
    for need in needed:
        try:
            version = importlib.metadata.version(need.name)
        except importlib.metadata.PackageNotFoundError:
            faults.append(f"{need.name} is missing")
            continue
        if not need.specifier.contains(version, prereleases=True):
            faults.append(f"{need.name} {version} is outside {need.specifier}")
    finding = "; ".join([*faults, remedy]) if faults else f"{len(needed)} in range"
    return Check("packages", not faults, finding)


def _check_torch() -> Check:
    device, capability = build.pick_device(), "no GPU"
    if device.type == "cuda":
        capability = ".".join(map(str, torch.cuda.get_device_capability()))
    dtype = str(build.pick_dtype(device)).removeprefix("torch.")
    finding = f"{torch.__version__}, {device.type} (compute capability: {capability})"
    return Check("torch", True, f"{finding}, frozen parts in {dtype}")


def _check_weights(name: str) -> Check:
    title = f"weights {name}"
    if weights.is_installed(name):
        return Check(title, True, "present")
    if name in weights.KNOWN:
        return Check(title, True, f"will be fetched ({weights.KNOWN[name].download_mb} MB)")
    if weights.hub_answers():
        return Check(title, True, "will be fetched from the model hub")
    return Check(title, False, "not here, and the model hub does not answer")


def _check_disk(preset: Preset) -> Check:
    root = weights.models_dir().parent.absolute()
    there = next(folder for folder in (root, *root.parents) if folder.exists())
    free = shutil.disk_usage(there).free / 1e9
    need = (preset.disk_gb or 10.0) + 1
    return Check("disk", free > need, f"{free:.0f} GB free, {need:g} GB needed")
