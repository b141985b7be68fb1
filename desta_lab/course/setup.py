"""One line that makes a notebook ready anywhere."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from pandas.api.types import is_numeric_dtype
from transformers.utils import logging

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

    What is well is said in one line; a table says what is not.

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
    if not all(check.ok for check in checks):
        print(doctor.format_checks(checks))
        raise RuntimeError("Mend what the table marks FAIL, then run this cell again.")
    ready = "This machine has what the notebook needs. `python -m desta_lab doctor` says more."
    print(ready, describe_cost(notebook, chosen.name), sep="\n")  # a notebook speaks
    matplotlib.rcParams.update(saving.STYLE)  # figures drawn by hand look like the package's
    logging.disable_progress_bar()  # the small models load in a second
    _read_words_from_the_left()
    experiment = Experiment(chosen, seed=seed, root=root, progress=progress_reporter())
    print(finished.restore(experiment))
    return Lesson(notebook, experiment)


def _read_words_from_the_left() -> None:
    """Let tables in this notebook show words whole and from the left, and no running numbers."""
    if "IPython" not in sys.modules or (shell := sys.modules["IPython"].get_ipython()) is None:
        return
    shell.display_formatter.formatters["text/html"].for_type(pd.DataFrame, format_table)


def format_table(table: pd.DataFrame) -> str:
    """A table as HTML: columns of words stand on the left, and an index that only counts is out."""
    count = len(table.columns)
    places = [i for i, kind in enumerate(table.dtypes, 1) if not is_numeric_dtype(kind)]
    words = {f"words-{i}-of-{count}": count - i + 1 for i in places}  # class → place from the right
    rules = "".join(
        f".{name} tr > :nth-last-child({place}) {{ text-align: left; }} "
        for name, place in words.items()
    )
    index = not isinstance(table.index, pd.RangeIndex)
    with pd.option_context("display.max_colwidth", None):
        shown = table.to_html(index=index, border=0, max_rows=60, classes=list(words))
    return f"<style>{rules}</style>{shown}"
