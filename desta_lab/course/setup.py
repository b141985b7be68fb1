"""One line that makes a notebook ready anywhere."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib

from desta_lab import doctor
from desta_lab.course import finished
from desta_lab.course.lesson import Lesson, describe_cost
from desta_lab.experiments.experiment import Experiment
from desta_lab.model import presets
from desta_lab.views import saving
from desta_lab.views.progress import progress_reporter


def setup(
    notebook: str,
    preset: str | None = None,
    *,
    root: Path | None = None,
    seed: int = 0,
    **more: Any,
) -> Lesson:
    """Check this machine, say what the notebook costs, unpack the finished run; installs nothing.

    Args:
        notebook: its number, such as "05".
        preset: which frozen parts; by default `$DESTA_LAB_PRESET`, else nano, which runs anywhere.
        root: where corpora, features, targets and runs are kept; `data/` by default.
        more: fields of the preset to replace (`steps=100`).

    Raises:
        RuntimeError: something is missing; the table above it says what, and what to do.
        ValueError: there is no such preset.
    """
    name = preset or os.environ.get("DESTA_LAB_PRESET", "nano")
    chosen = replace(presets.get_preset(name), **more)
    checks = doctor.check_machine(chosen)
    print(doctor.format_checks(checks))  # a notebook speaks
    if not all(check.ok for check in checks):
        raise RuntimeError("Mend what the table marks FAIL, then run this cell again.")
    print(describe_cost(notebook, chosen.name))
    matplotlib.rcParams.update(saving.STYLE)  # figures drawn by hand look like the package's
    experiment = Experiment(chosen, seed=seed, root=root, progress=progress_reporter())
    print(finished.restore(experiment))
    return Lesson(notebook, experiment)
