"""Presets: which frozen parts, which connector and how much of everything, as data."""

import hashlib
import json
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from desta_lab import cache
from desta_lab.audio import FRAMES_PER_SECOND, WHISPER_SECONDS
from desta_lab.model.bounds import (
    Count,
    CountOrZero,
    Positive,
    Share,
    check_bounds,
    convert_value,
    option,
    whole_number,
)
from desta_lab.model.connector import ConnectorShape

NANO = "nano"  # the name of the glass-box LLM, which ships with the repository
PARTS = ("encoder", "backbone")  # the frozen ones, by name or folder
# split → the setting that says how many of its clips are used
CLIPS_USED = {"train": "train", "test": "test", "validation": "held_out"}
ATTENTIONS = ("sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention")


def parse_tuning(tuning: str) -> int | None:
    """What of the backbone learns: 0 nothing, None all of it, else adapters of that rank.

    Raises:
        ValueError: another word than "frozen", "full" or such as "lora-8".
    """
    kind, _, rank = tuning.partition("-")
    if kind == "lora" and rank.isdecimal() and int(rank):
        return int(rank)
    if tuning not in ("frozen", "full"):
        raise ValueError(f"tuning is 'frozen', 'full' or such as 'lora-8', not {tuning!r}.")
    return 0 if tuning == "frozen" else None


SMALL = ConnectorShape(
    depth=2,
    heads=8,
    ffn=1024,
    width=256,
    pool=2,
    post_norm=False,
    dropout=0.0,
    scaled=True,
    anchored=True,
)


@dataclass(frozen=True)
class Preset:
    """Everything a run needs to know; change a field with `dataclasses.replace`.

    `minutes`, `memory_gb` and `disk_gb` were measured on the quickstart (README, LOG.md); minutes
    are those of two CPU cores with bf16, and without. They are None where nobody has run it yet.
    """

    name: str
    encoder: str
    backbone: str
    purpose: str
    seconds: Positive = 4.0  # every clip is cropped or padded to this
    connector: ConnectorShape = field(default_factory=ConnectorShape)
    clips: dict[str, Count] = field(
        default_factory=lambda: {"train": 1440, "validation": 192, "test": 384}
    )
    steps: Count = 160
    batch: Count = 8
    lr: Positive = 1e-3
    label: str = "scene"  # the attribute whose bare values train the rival run
    checkpoint_every: Count = 64  # steps between two checkpoints
    test: Count = 64  # clips scored at every checkpoint
    held_out: Count = 32  # clips of other speakers that calibrate the ranking
    every_checkpoint: bool = option(True)  # score all of them; else the first and the last
    # clips whose rung 3 is answered in words between the first and the last step, where all test
    # clips are; twice as many are asked everything else at the last
    free_form_clips: Count = 6
    taps: tuple[int, ...] | None = option(None)  # tapped layers; None: those published for the size
    tuning: str = option("frozen")  # of the backbone: or "full", or "lora-8" (adapters of rank 8)
    prompts: Annotated[int, whole_number(1, 6)] = option(1)  # how many of tasks.PROMPTS train
    train: Count | None = option(None)  # training clips that are used; None: all
    transcript: bool = option(False)  # whether a clip's words follow its audio embeddings
    accumulate: Count = option(1)  # micro-batches of a step, one after the other, to save memory
    gradient_checkpointing: bool = option(False)  # the backbone's layers twice, to save memory
    attention: str | None = option(None)  # of the backbone; None: as transformers picks
    warmup: CountOrZero = option(20)  # steps in which the learning rate rises
    floor: Share = option(0.1)  # the share of lr at which it ends
    betas: tuple[Share, Share] = option((0.9, 0.98))  # of AdamW
    weight_decay: Share = option(0.01)
    max_grad_norm: Positive = option(1.0)
    minutes: tuple[float, float | None] | None = None
    memory_gb: float | None = None
    disk_gb: float | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for a setting that cannot be; no model is needed to know it."""
        check_bounds(self)
        for part in PARTS:
            if not getattr(self, part).strip():
                raise ValueError(f"{part} is the name or folder of a model, not {''!r}.")
        if self.seconds > WHISPER_SECONDS:
            most = f"Whisper hears at most {WHISPER_SECONDS:g} s"
            raise ValueError(f"seconds is {self.seconds:g}, and {most}.")
        frames = self.seconds * FRAMES_PER_SECOND
        if frames < 1 or abs(frames - round(frames)) > 1e-6:
            fault = f"seconds is {self.seconds:g}, no whole number of encoder frames"
            raise ValueError(f"{fault}; take a multiple of {1 / FRAMES_PER_SECOND:g}.")
        shape = self.connector
        if shape.kind == "qformer" and shape.pool > frames:
            fault = f"connector.pool is {shape.pool}, and clips have {frames:g} encoder frames"
            raise ValueError(f"{fault}; pool fewer.")
        taps = self.taps
        if taps is not None and (not taps or len({*taps}) < len(taps) or min(taps) < 0):
            raise ValueError(f"taps are different layers from 0, at least one, not {taps}.")
        parse_tuning(self.tuning)
        if self.attention not in (None, *ATTENTIONS):
            known = ", ".join(ATTENTIONS)
            raise ValueError(f"attention is one of {known}, not {self.attention!r}.")
        if min(self.test, self.clips.get("test", 2)) < 2:
            raise ValueError("Shuffled audio needs two test clips; enlarge test or clips.test.")
        if self.accumulate > self.batch:
            fault = f"A batch of {self.batch} has no row for each of {self.accumulate}"
            raise ValueError(f"{fault} micro-batches; enlarge it, or accumulate fewer.")

    @property
    def glass_box(self) -> bool:
        """Whether the backbone is the nano LLM, which knows only the words of its text world."""
        return self.backbone == NANO


OPTIONS = {one.name: one for one in fields(Preset) if "option" in one.metadata}
# the options of the models, each with the value that a connector file means which is silent on it
LATER = {name: one.default for name, one in OPTIONS.items() if one.metadata["of_models"]}
MEMORY = ("accumulate", "gradient_checkpointing")  # they save some, and change only rounding
MEASURED = ("minutes", "memory_gb", "disk_gb")  # on the preset's own models and sizes


def nano() -> Preset:
    """A real encoder and the nano LLM: for exercises and CI."""
    return Preset(
        "nano",
        "whisper-tiny.en",
        NANO,
        "exercises, CI, the glass box",
        connector=SMALL,
        clips={"train": 768, "validation": 96, "test": 192},
        steps=300,
        batch=16,
        minutes=(4.0, 7.0),
        memory_gb=1.7,
        disk_gb=1.0,
    )


def cpu() -> Preset:
    """Real models on a laptop: for the main job."""
    return Preset(
        "cpu",
        "whisper-tiny.en",
        "SmolLM2-135M-Instruct",
        "the main job with real models",
        connector=SMALL,
        minutes=(23.0, 53.0),
        memory_gb=3.3,
        disk_gb=1.7,
    )


def laptop() -> Preset:
    """As `cpu`, with a backbone of 0.5 B that also says its answers."""
    return replace(
        cpu(),
        name="laptop",
        backbone="Qwen/Qwen2.5-Coder-0.5B-Instruct",
        purpose="the main job in the model's own words",
        every_checkpoint=False,
        minutes=(33.0, None),
        memory_gb=4.8,
        disk_gb=2.9,
    )


def t4() -> Preset:
    """For course labs on a free GPU of 16 GB."""
    return Preset(
        "t4",
        "openai/whisper-small",
        "Qwen/Qwen2.5-0.5B-Instruct",
        "course labs",
        connector=replace(SMALL, width=512, heads=8, ffn=2048),
        clips={"train": 2880, "validation": 192, "test": 384},
        steps=600,
        batch=16,
        lr=5e-4,
    )


def workstation() -> Preset:
    """For research on a GPU of 24 GB."""
    return Preset(
        "workstation",
        "openai/whisper-medium",
        "Qwen/Qwen3-4B-Instruct-2507",
        "research",
        connector=replace(SMALL, width=768, heads=12, ffn=3072),
        clips={"train": 5760, "validation": 192, "test": 768},
        steps=1200,
        batch=16,
        lr=3e-4,
    )


def desta25() -> Preset:
    """DeSTA2.5-Audio, the published system: its connector exactly, 64 queries, 30 s."""
    return Preset(
        "desta25",
        "openai/whisper-large-v3",
        "meta-llama/Llama-3.1-8B-Instruct",
        "the published system",
        seconds=30.0,
        steps=2000,
        batch=12,
        lr=1e-4,
    )


def desta2() -> Preset:
    """DeSTA2 as its released inference computes it, which taps one layer earlier than its training.

    The inference code indexes `encoder_hidden_states`, whose first entry is the input of layer 0.
    So its 2, 5, 8, 11 are the outputs of layers 1, 4, 7, 10 (kehanlu/DeSTA2, modeling_desta.py).
    `replace(desta2(), taps=(2, 5, 8, 11))` gives the layers of the training code.
    """
    return replace(
        desta25(),
        name="desta2",
        encoder="openai/whisper-small",
        backbone="meta-llama/Meta-Llama-3-8B-Instruct",
        purpose="the published system before it",
        connector=ConnectorShape(depth=2, heads=12),
        batch=8,
        taps=(1, 4, 7, 10),
    )


PRESETS: dict[str, Callable[[], Preset]] = {
    p.__name__: p for p in (nano, cpu, laptop, t4, workstation, desta25, desta2)
}


def change_parts(preset: Preset, **parts: str | None) -> Preset:
    """The preset with another encoder or backbone, by name or folder; its cost is not known."""
    given: dict[str, Any] = {part: name for part, name in parts.items() if name is not None}
    given |= dict.fromkeys(MEASURED) if given else {}
    return replace(preset, **given)


def part_id(name: str) -> str:
    """The name of a model without its place: of a folder only the last part."""
    return cache.show_name(Path(name)) if Path(name).is_dir() else name


def is_nano(name: str) -> bool:
    """Whether the name of a backbone (`part_id`) is that of a nano LLM, of any size."""
    return name.split("-")[0] == NANO


def without_paths(preset: Preset) -> dict[str, Any]:
    """The fields of a preset for a result, which names models and no places."""
    parts = {part: part_id(getattr(preset, part)) for part in PARTS}
    return {**asdict(preset), **parts}


def name_changes(preset: Preset, facts: Mapping[str, Any]) -> str:
    """What differs from the preset that ships, as the end of a folder's name; nothing is "".

    A few short settings stand in words (`steps-40-seed-1`), all else, and every preset of one's
    own, as 8 characters of a hash. `facts` are what else differs; one that is 0 or empty does not.
    """
    usual = without_paths(PRESETS[preset.name]()) if preset.name in PRESETS else {}
    same = ("name", "purpose", *MEASURED, *MEMORY)
    changes = {
        name: value
        for name, value in without_paths(preset).items()
        if name not in same and (name not in usual or value != usual[name])
    } | {name: value for name, value in facts.items() if value}
    words = "-".join(f"{name}-{value}" for name, value in changes.items())
    if re.fullmatch(r"[\w.-]{0,40}", words):
        return words
    return hashlib.sha256(json.dumps(changes, sort_keys=True).encode()).hexdigest()[:8]


# ---- presets in files ----


def read_preset(path: Path) -> Preset:
    """A preset from a TOML file with fields of `Preset`.

        base = "cpu"            # a preset to start from
        backbone = "my-llm"     # a name, a hub id, or a folder, from this file or from here
        steps = 300
        [connector]
        depth = 4

    Its name is that of the file, unless it has a `name`.

    Raises:
        ValueError: names the file and the field.
    """
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: not TOML ({error}); write lines such as steps = 300.") from error
    except UnicodeError as error:
        raise ValueError(f"{path}: no text in UTF-8 ({error}); save it in UTF-8.") from error
    except (ValueError, RecursionError) as error:  # a number or a nesting that Python does not read
        raise ValueError(f"{path}: a value is too large ({error}); correct it.") from error
    try:
        base = given.pop("base", None)
        if base is not None and not (isinstance(base, str) and base in PRESETS):
            raise ValueError(f"base is one of {', '.join(PRESETS)}, not {base!r}.")
        start = None if base is None else PRESETS[base]()
        settings = _convert_fields(given, start)
        for part in PARTS:
            if settings.get(part, "").strip() and (path.parent / settings[part]).is_dir():
                settings[part] = str(path.parent / settings[part])
        settings = {"name": path.stem, **dict.fromkeys(MEASURED), **settings}
        _check_name(settings["name"])
        if start is not None:
            return replace(start, **settings)
        if missing := [part for part in PARTS if part not in settings]:
            raise ValueError(f"{missing[0]} is missing; name it, or a base, such as base = 'cpu'.")
        return Preset(**{"purpose": "your own", **settings})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _convert_fields(given: Mapping[str, Any], start: Preset | None) -> dict[str, Any]:
    """The fields of a preset in their types; tables change those of the preset to start from."""
    hints = get_type_hints(Preset)
    settings: dict[str, Any] = {}
    for name, value in given.items():
        if name not in hints:
            raise ValueError(f"a preset has no field {name!r}; it has base, {', '.join(hints)}.")
        if name in ("connector", "clips") and not isinstance(value, dict):
            raise ValueError(f"{name} is a table; write it below a line [{name}].")
        if name == "connector":
            inner = get_type_hints(ConnectorShape)
            changes = _convert_table(name, value, inner)
            settings[name] = replace(start.connector if start else ConnectorShape(), **changes)
        elif name == "clips":
            splits = dict.fromkeys(("train", "validation", "test"), int)
            usual = start.clips if start else nano().clips
            settings[name] = {**usual, **_convert_table(name, value, splits)}
        else:
            settings[name] = convert_value(name, value, hints[name])
    return settings


def _convert_table(name: str, given: Mapping[str, Any], hints: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a table in their types."""
    if unknown := [one for one in given if one not in hints]:
        raise ValueError(f"[{name}] has no {unknown[0]!r}; it has {', '.join(hints)}.")
    return {one: convert_value(f"{name}.{one}", value, hints[one]) for one, value in given.items()}


def _check_name(name: str) -> None:
    if not re.fullmatch(r"\w[\w.-]*", name) or name in PRESETS:
        raise ValueError(
            f"name is part of the names of folders and no other preset's: letters, digits, '.', "
            f"'_' and '-', not {name!r}."
        )


def get_preset(name: str | Path) -> Preset:
    """A preset by its name, or from a file `….toml` (`read_preset`).

    Raises:
        ValueError: there is none of this name, or the file is wrong.
    """
    if str(name).endswith(".toml"):
        return read_preset(Path(name))
    name = str(name)
    if name not in PRESETS:
        raise ValueError(f"There is no preset {name!r}; take one of {', '.join(PRESETS)}.")
    return PRESETS[name]()
