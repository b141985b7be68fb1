"""A cell of a sweep: one config and one seed, and the grammar in which its settings are written."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np

from desta_lab.cache import VERSIONS, Provenance
from desta_lab.clips import Corpus
from desta_lab.evaluation.conditions import AUDIO_CONDITIONS, ORACLE
from desta_lab.experiments.corpus_tasks import corpus_tasks
from desta_lab.experiments.frozen_parts import MAKERS
from desta_lab.experiments.rows import KINDS
from desta_lab.model import presets, weights
from desta_lab.model.bounds import CountOrZero, check_bounds, convert_value, unused_options
from desta_lab.model.connector import CONNECTORS, ConnectorShape
from desta_lab.model.presets import Preset
from desta_lab.world.attributes import DESCRIBED
from desta_lab.world.spoken import attribute_facts

SCORED_RUNGS = (0, 2, 3)  # of the task ladder, in every cell
SCORED_CONDITIONS = (*AUDIO_CONDITIONS, ORACLE, "untrained")
LADDER = "ladder"  # what a cell measures unless a sweep says otherwise: options ranked
WORDS = "words"  # options ranked, and answers in the backbone's own words
CHOICES: dict[str, tuple[str, ...]] = {
    "target": KINDS,
    "label": tuple(DESCRIBED),
    "connector.kind": tuple(CONNECTORS),
}
LISTS = ("taps", "betas")  # settings whose value is a list of numbers
TRAINING = "train_config."  # how a run's config calls what trains; the same names without it
NOT_SETTINGS = ("name", "purpose", *presets.MEASURED)  # they change no result


@dataclass(frozen=True)
class Cell:
    """One config and one seed.

    Args:
        target: the kind of target that trains.
        measured: the name of what is measured; cells of another name are other cells.
        corpus: somebody's own, instead of the spoken world.
    """

    preset: Preset
    target: str
    seed: CountOrZero
    measured: str = LADDER
    corpus: Corpus | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for what the corpus or this preset cannot give."""
        check_bounds(self)
        for split, name in presets.CLIPS_USED.items() if self.corpus is None else ():
            used, there = getattr(self.preset, name), self.preset.clips[split]
            if used is not None and used > there:
                raise ValueError(
                    f"{name} is {used}, and clips.{split} makes {there} clips; change one of them."
                )
        if self.target == "other" and (self.preset.glass_box or self.corpus):
            fault = (
                "nano is the backbone here" if self.preset.glass_box else "this corpus is another"
            )
            raise ValueError(
                f"The target 'other' is written by nano about the spoken world, and {fault}; take "
                "that world and another backbone, such as preset cpu's."
            )

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Every setting by its dotted name; models that lie in a folder by their hash."""
        models = {name: _model_id(getattr(self.preset, name)) for name in ("encoder", "backbone")}
        return {**list_settings(self.preset), "target": self.target, **models}

    @cached_property
    def provenance(self) -> Provenance:
        """What determines the cell's result, known before any model is loaded."""
        unused = unused_options(self.preset)
        ladder = corpus_tasks(self.corpus, self.preset).tasks
        if self.measured == WORDS:
            asked = [repr(task) for task in ladder]
        else:  # only ranked
            ranked = [replace(task, in_words="") for task in ladder if task.rung in SCORED_RUNGS]
            asked = [repr(task) for task in ranked]
        facts = {
            "settings": {
                name: value for name, value in self.settings.items() if name not in unused
            },
            "seed": self.seed,
            "measured": self.measured,
            "corpora": VERSIONS["corpora"],
            **attribute_facts(),
            "tasks": asked,
            "conditions": SCORED_CONDITIONS,
        }
        if self.corpus is not None:
            facts["corpus"] = self.corpus.hash
        return Provenance("cells", facts)

    @property
    def key(self) -> str:
        """The name of the cell in tables and on disk."""
        return self.provenance.key


def _model_id(name: str) -> str:
    """A model's id, or the hash of its weights if it is a folder: the folder may move.

    So is one's own among the models, as it may be trained again.
    """
    if name == presets.NANO:
        return f"nano-{weights.hash_folder(weights.NANO_FOLDER)[:12]}"
    fixed = name in weights.KNOWN or name in MAKERS
    places = [Path(name), *([] if fixed else [weights.models_dir() / name])]
    folder = next(filter(Path.is_dir, places), None)
    return weights.hash_folder(folder) if folder else name


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


def check_setting(preset: Preset, name: str, value: Any, labels: Sequence[str] = ()) -> Any:
    """A value in the type of its setting. Raises ValueError, which says what the setting takes.

    `labels` are the attributes of somebody's own corpus.
    """
    if name not in list_settings(preset):
        known = ", ".join(list_settings(preset))
        raise ValueError(f"A sweep cannot change {name!r}; it changes {known}.")
    if isinstance(value, np.generic):
        value = value.item()
    field, _, inner = name.partition(".")
    hints = get_type_hints(ConnectorShape if inner else Preset) | {"target": str}
    value = convert_value(name, value, int if field == "clips" else hints[inner or field])
    choices = labels if name == "label" and labels else CHOICES.get(name, (value,))
    if value not in choices:
        raise ValueError(f"{name} is one of {', '.join(choices)}, not {value!r}.")
    return value


def make_cell(
    preset: Preset,
    settings: Mapping[str, Any],
    seed: int,
    measured: str = LADDER,
    corpus: Corpus | None = None,
) -> Cell:
    """The cell of a preset with some settings changed."""
    for name, value in settings.items():
        if name != "target":
            preset = change_setting(preset, name, value)
    return Cell(preset, settings.get("target", "self"), seed, measured, corpus)


# ---- settings as a command line writes them ----


def parse_grid(settings: Iterable[str]) -> dict[str, list[Any]]:
    """`["steps=40,80", "label=rate", "taps=[0,1],[3]"]` as a grid.

    Numbers, true, false, null and lists are written as in JSON; anything else is a word. A list of
    lists is several lists.

    Raises:
        ValueError: a setting has no value, an empty one, or stands twice.
    """
    return {name: _parse_values(name, text) for name, text in _split(settings).items()}


def parse_slurm(settings: Iterable[str]) -> dict[str, Any]:
    """`["slurm_partition=gpu", "timeout_min=60"]` as submitit's parameters."""
    return {name: _parse_value(text) for name, text in _split(settings).items()}


def _split(settings: Iterable[str]) -> dict[str, str]:
    """Name → text of its values."""
    texts: dict[str, str] = {}
    for setting in settings:
        name, _, text = setting.removeprefix(TRAINING).partition("=")
        if not name or not text.strip():
            raise ValueError(
                f"{setting!r} sets nothing; write a name and a value, such as steps=40."
            )
        if name in texts:
            raise ValueError(
                f"{name} is set twice; write its values at once, {name}={texts[name]},{text}."
            )
        texts[name] = text
    return texts


def _parse_values(name: str, text: str) -> list[Any]:
    """The values that a text lists, separated by commas."""
    try:
        values = json.loads(f"[{text}]")
    except ValueError:  # a word among them
        values = [_parse_value(part) for part in text.split(",")]
    if "" in values:
        raise ValueError(f"{name}={text} has an empty value; write one between the commas.")
    if len(values) == 1 and isinstance(values[0], list) and values[0]:
        nested = all(isinstance(one, list) for one in values[0])
        values = list(values[0]) if nested else values
    if len(set(map(repr, values))) < len(values):
        raise ValueError(f"{name}={text} has a value twice; write each once.")
    return list(values)


def _parse_value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
