"""Presets: which frozen parts, which connector and how much of everything, as data."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Annotated, Any

import torch

from desta_lab.audio import FRAMES_PER_SECOND, WHISPER_SECONDS
from desta_lab.model.bounds import Count, CountOrZero, Positive, check_bounds, whole_number
from desta_lab.model.connector import ConnectorShape

NANO = "nano"  # the name of the glass-box LLM, which ships with the repository
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
        raise ValueError(
            f"tuning is 'frozen', 'full' or such as 'lora-8' (rank 8), not {tuning!r}."
        )
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

    `minutes`, `memory_gb` and `disk_gb` were measured on the quickstart (README, LOG.md). They are
    None where nobody has run it yet.
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
    free_form_clips: CountOrZero = (
        6  # clips answered in words at every checkpoint; twice as many at the last
    )
    taps: tuple[int, ...] | None = None  # tapped layers; None: the published ones of this size
    tuning: str = "frozen"  # of the backbone: "frozen", "lora-8" (adapters of rank 8) or "full"
    prompts: Annotated[int, whole_number(1, 6)] = 1  # how many of tasks.PROMPTS train
    train: Count | None = None  # training clips that are used; None: all
    transcript: bool = False  # whether a clip's words follow its audio embeddings
    accumulate: Count = 1  # micro-batches of a step, one after the other, to save memory
    gradient_checkpointing: bool = False  # compute the backbone's layers twice, to save memory
    attention: str | None = None  # of the backbone; None: as transformers picks
    minutes: float | None = None
    memory_gb: float | None = None
    disk_gb: float | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for a setting that cannot be; no model is needed to know it."""
        check_bounds(self)
        if self.seconds > WHISPER_SECONDS:
            raise ValueError(
                f"seconds is {self.seconds:g}, and Whisper hears at most {WHISPER_SECONDS:g} s."
            )
        frames = self.seconds * FRAMES_PER_SECOND
        if frames < 1 or abs(frames - round(frames)) > 1e-6:
            raise ValueError(
                f"seconds is {self.seconds:g}, no whole number of encoder frames; take a multiple "
                f"of {1 / FRAMES_PER_SECOND:g}."
            )
        taps = self.taps
        if taps is not None and (not taps or len({*taps}) < len(taps) or min(taps) < 0):
            raise ValueError(f"taps are different layers from 0, at least one, not {taps}.")
        parse_tuning(self.tuning)
        if self.attention not in (None, *ATTENTIONS):
            raise ValueError(
                f"attention is one of {', '.join(ATTENTIONS)}, not {self.attention!r}."
            )
        if self.accumulate > self.batch:
            raise ValueError(
                f"A batch of {self.batch} has no row for each of {self.accumulate} micro-batches; "
                "enlarge it, or accumulate fewer."
            )

    @property
    def glass_box(self) -> bool:
        """Whether the backbone is the nano LLM, which knows only the words of its text world."""
        return self.backbone == NANO


# fields that enter a hash only where they are used, so that older results are still found
OPTIONS = (
    "taps",
    "tuning",
    "prompts",
    "train",
    "transcript",
    "accumulate",
    "gradient_checkpointing",
    "attention",
)


def hashed_fields(preset: Preset) -> dict[str, Any]:
    """The fields of a preset for a hash, without the options that it does not use."""
    unused = {
        f.name for f in fields(preset) if f.name in OPTIONS and getattr(preset, f.name) == f.default
    }
    return {name: value for name, value in asdict(preset).items() if name not in unused}


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
        minutes=3.0,
        memory_gb=2.4,
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
        minutes=18.0,
        memory_gb=5.8,
        disk_gb=1.7,
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
        connector=ConnectorShape(),
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
    return Preset(
        "desta2",
        "openai/whisper-small",
        "meta-llama/Meta-Llama-3-8B-Instruct",
        "the published system before it",
        seconds=30.0,
        connector=ConnectorShape(depth=2, heads=12),
        steps=2000,
        batch=8,
        lr=1e-4,
        taps=(1, 4, 7, 10),
    )


PRESETS: dict[str, Callable[[], Preset]] = {
    p.__name__: p for p in (nano, cpu, t4, workstation, desta25, desta2)
}


def get_preset(name: str) -> Preset:
    """A preset by its name. Raises ValueError with the names that exist."""
    if name not in PRESETS:
        raise ValueError(f"There is no preset {name!r}; take one of {', '.join(PRESETS)}.")
    return PRESETS[name]()


def pick_preset() -> Preset:
    """The preset that suits this machine's GPU by its memory, or `cpu` if there is no GPU.

    `desta25` and `desta2` are never picked, because their backbones are behind a licence gate.
    """
    if not torch.cuda.is_available():
        return cpu()
    memory_gb = torch.cuda.get_device_properties(0).total_memory / 1e9
    return workstation() if memory_gb > 20 else t4()
