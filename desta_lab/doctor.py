"""Is this machine ready, which preset suits it, and what will that cost?"""

import importlib.metadata
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def cost(preset: Any) -> str:
    """What a preset takes, in one sentence: measured where it was measured, and said where it was not."""
    from desta_lab.model import weights

    fetch = [
        n
        for n in (preset.encoder, preset.backbone)
        if not Path(n).is_dir() and not weights.is_installed(n)
    ]
    known = sum(weights.KNOWN[n].download_mb for n in fetch if n in weights.KNOWN)
    others = [n for n in fetch if n not in weights.KNOWN]
    load = f"a download of {known} MB first" if known else "no download"
    load += f" and {', '.join(others)} from the model hub" if others else ""
    if preset.minutes is None:
        return f"Preset {preset.name}: time and memory were not measured on this kind of machine yet; {load}."
    return (
        f"Preset {preset.name}: about {preset.minutes:g} minutes on two CPU cores, {preset.memory_gb:g} GB of memory, "
        f"{preset.disk_gb:g} GB of disk, {load}. A second run takes seconds."
    )


def checks(preset: Any = None) -> Iterator[tuple[str, bool, str]]:
    """Rows of (what, is it right, what was found and what to do), for a preset or the one that suits this machine."""
    from packaging.requirements import Requirement

    yield (
        "python",
        (3, 11) <= sys.version_info[:2] <= (3, 13),
        f"{platform.python_version()} (3.11 to 3.13)",
    )
    wrong, count = [], 0
    for text in importlib.metadata.requires("desta-lab") or []:
        need = Requirement(text)
        if need.marker and not need.marker.evaluate({"extra": ""}):
            continue
        count += 1
        try:
            found = importlib.metadata.version(need.name)
            if not need.specifier.contains(found, prereleases=True):
                wrong.append(f"{need.name} {found} is outside {need.specifier}")
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{need.name} is missing")
    remedy = "; run `pip install -c constraints.txt -e .`"
    yield "packages", not wrong, "; ".join(wrong) + remedy if wrong else f"{count} in range"
    import torch

    from desta_lab.model import build, presets, weights

    where = build.pick_device()
    capability = (
        ".".join(map(str, torch.cuda.get_device_capability())) if where.type == "cuda" else "no GPU"
    )
    dtype = str(build.pick_dtype(where)).removeprefix("torch.")
    yield (
        "torch",
        True,
        f"{torch.__version__}, {where.type} (compute capability: {capability}), frozen parts in {dtype}",
    )
    preset = preset or presets.pick_preset()
    for name in (preset.encoder, preset.backbone):
        here = Path(name).is_dir() or weights.is_installed(name)
        known = name in weights.KNOWN
        said = (
            "present"
            if here
            else f"will be fetched ({weights.KNOWN[name].download_mb} MB)"
            if known
            else "from the hub"
        )
        yield f"weights {name}", here or known or where.type == "cuda", said
    yield (
        "nano weights",
        (weights.NANO_FOLDER / "model.safetensors").exists(),
        str(weights.NANO_FOLDER),
    )
    root = weights.models_dir().parent
    free = shutil.disk_usage(root if root.exists() else Path.cwd()).free / 1e9
    need_gb = (preset.disk_gb or 10.0) + 1
    yield "disk", free > need_gb, f"{free:.0f} GB free, {need_gb:g} GB needed"
    yield "preset", True, cost(preset)


def table(preset: Any = None) -> tuple[str, bool]:
    """The checks as text, one line each, and whether all of them hold."""
    rows = list(checks(preset))
    wide = max(len(name) for name, *_ in rows)
    lines = [f"{'OK  ' if ok else 'FAIL'}  {name:<{wide}}  {said}" for name, ok, said in rows]
    return "\n".join(lines), all(ok for _, ok, _ in rows)
