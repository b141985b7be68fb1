"""A cell of a sweep: one config and one seed, and the grammar in which its settings are written."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np

from desta_lab.cache import VERSIONS, Provenance
from desta_lab.evaluation.conditions import AUDIO_CONDITIONS, ORACLE
from desta_lab.evaluation.tasks import task_ladder
from desta_lab.experiments.rows import KINDS
from desta_lab.model import presets, weights
from desta_lab.model.connector import CONNECTORS, ConnectorShape
from desta_lab.model.presets import Preset
from desta_lab.world.attributes import DESCRIBED

SCORED_RUNGS = (0, 2, 3)  # of the task ladder, in every cell
SCORED_CONDITIONS = (*AUDIO_CONDITIONS, ORACLE, "untrained")
LADDER = "ladder"  # what a cell measures unless a sweep says otherwise
CHOICES: dict[str, tuple[str, ...]] = {
    "target": KINDS,
    "label": tuple(DESCRIBED),
    "connector.kind": tuple(CONNECTORS),
}
NOT_SETTINGS = ("name", "purpose", "minutes", "memory_gb", "disk_gb")  # they change no result


@dataclass(frozen=True)
class Cell:
    """One config and one seed.

    Args:
        target: the kind of target that trains.
        measured: the name of what is measured; cells of another name are other cells.
    """

    preset: Preset
    target: str
    seed: int
    measured: str = LADDER

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Every setting by its dotted name; models that lie in a folder by their hash."""
        models = {name: _model_id(getattr(self.preset, name)) for name in ("encoder", "backbone")}
        return {**list_settings(self.preset), "target": self.target, **models}

    @cached_property
    def provenance(self) -> Provenance:
        """What determines the cell's result, known before any model is loaded."""
        used = presets.hashed_fields(self.preset)
        facts = {
            "settings": {
                name: value
                for name, value in self.settings.items()
                if name not in presets.OPTIONS or name in used
            },
            "seed": self.seed,
            "measured": self.measured,
            "corpora": VERSIONS["corpora"],
            "tasks": [repr(task) for task in task_ladder() if task.rung in SCORED_RUNGS],
            "conditions": SCORED_CONDITIONS,
        }
        return Provenance("cells", facts)

    @property
    def key(self) -> str:
        """The name of the cell in tables and on disk."""
        return self.provenance.key


def _model_id(name: str) -> str:
    """A model's id, or the hash of its weights if it is a folder: the folder may move."""
    if name == presets.NANO:
        return f"nano-{weights.hash_folder(weights.NANO_FOLDER)[:12]}"
    return weights.hash_folder(Path(name)) if Path(name).is_dir() else name


# ---- settings by their dotted names ----


def list_settings(preset: Preset) -> dict[str, Any]:
    """Every setting that a sweep can change, by its dotted name, as this preset has it."""
    settings: dict[str, Any] = {"target": "self"}
    for name, value in asdict(preset).items():
        if isinstance(value, dict):
            settings |= {f"{name}.{inner}": one for inner, one in value.items()}
        elif name not in NOT_SETTINGS:
            settings[name] = value
    return settings


def change_setting(preset: Preset, name: str, value: Any) -> Preset:
    """The preset with one setting, named as in `list_settings`, changed to another value."""
    field, _, inner = name.partition(".")
    if inner:
        whole = getattr(preset, field)
        one = {inner: value}
        value = {**whole, **one} if isinstance(whole, dict) else replace(whole, **one)
    return replace(preset, **{field: value})


def check_setting(preset: Preset, name: str, value: Any) -> Any:
    """A value in the type of its setting. Raises ValueError, which says what the setting takes."""
    if name not in list_settings(preset):
        known = ", ".join(list_settings(preset))
        raise ValueError(f"A sweep cannot change {name!r}; it changes {known}.")
    wanted = _type_of(name)
    if isinstance(value, np.generic):
        value = value.item()
    if wanted is tuple and isinstance(value, list):
        value = tuple(value)
    if wanted is float and type(value) is int:
        value = float(value)
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        kinds = [kind.__name__ for kind in get_args(wanted) or (wanted,)]
        words = " | ".join(kinds).replace("NoneType", "None")
        raise ValueError(f"{name} takes {words}, not {value!r}.")
    if value not in CHOICES.get(name, (value,)):
        raise ValueError(f"{name} is one of {', '.join(CHOICES[name])}, not {value!r}.")
    return value


def _type_of(name: str) -> Any:
    field, _, inner = name.partition(".")
    special: Mapping[str, Any] = {"target": str, "clips": int, "taps": tuple}
    if field in special:
        return special[field]
    return get_type_hints(ConnectorShape)[inner] if inner else get_type_hints(Preset)[field]


def make_cell(
    preset: Preset, settings: Mapping[str, Any], seed: int, measured: str = LADDER
) -> Cell:
    """The cell of a preset with some settings changed."""
    for name, value in settings.items():
        if name != "target":
            preset = change_setting(preset, name, value)
    return Cell(preset, settings.get("target", "self"), seed, measured)


# ---- settings as a command line writes them ----


def parse_grid(settings: Iterable[str]) -> dict[str, list[Any]]:
    """`["steps=40,80", "label=rate"]` as a grid.

    Numbers, true, false and null are written as in JSON; anything else is a word.
    """
    grid: dict[str, list[Any]] = {}
    for setting in settings:
        name, values = _split(setting)
        grid.setdefault(name, []).extend(_parse_value(text) for text in values.split(","))
    return grid


def parse_slurm(settings: Iterable[str]) -> dict[str, Any]:
    """`["slurm_partition=gpu", "timeout_min=60"]` as submitit's parameters."""
    return {name: _parse_value(text) for name, text in map(_split, settings)}


def _split(setting: str) -> tuple[str, str]:
    name, sign, text = setting.partition("=")
    if not sign:
        raise ValueError(f"{setting!r} sets nothing; write a name and a value, such as steps=40.")
    return name, text


def _parse_value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
