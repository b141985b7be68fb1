"""One line that makes a notebook ready anywhere."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from desta_lab import doctor
from desta_lab.model import presets
from desta_lab.quickstart import Quickstart
from desta_lab.views.progress import bars


def setup(
    preset: str = "nano", *, root: Path | None = None, out: Path | None = None, seed: int = 0, **more: Any
) -> Quickstart:
    """Check this machine, say what it will cost, and return the lab; works twice, installs nothing.

    `more` replaces fields of the preset (`steps=100`). The lab's parts are made when they are first touched.

    Raises:
        RuntimeError: something is missing; the table above it says what, and what to do.
    """
    chosen = replace(presets.named(preset), **more)
    text, well = doctor.table()
    print(text)  # a notebook speaks
    print(doctor.cost(chosen))
    if not well:
        raise RuntimeError("Mend what the table marks FAIL, then run this cell again.")
    return Quickstart(chosen, seed=seed, root=root, out=out, progress=bars())
