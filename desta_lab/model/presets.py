"""Presets: which frozen parts, which connector and how much of everything; the only file that knows model names."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from desta_lab import processes
from desta_lab.model import chat, weights
from desta_lab.model.audio_llm import AudioLLM
from desta_lab.model.backbone import Backbone, fastest_dtype
from desta_lab.model.connector import FrameStack, QFormer
from desta_lab.model.encoder import Encoder, transcribe
from desta_lab.world.attributes import NEUTRAL

NANO = (
    Path(__file__).resolve().parents[2] / "data" / "nano"
)  # the glass-box LLM that ships with the checkout


@dataclass(frozen=True)
class ConnectorShape:
    """Sizes of the connector; `width=None`, `post_norm=True`, `anchored=False` is the published form."""

    kind: str = "qformer"  # or "frames", the comparison
    queries: int = 64
    depth: int = 6
    heads: int = 20
    ffn: int = 3072
    width: int | None = None
    pool: int = 1  # neighbouring frames averaged before they are read
    post_norm: bool = True
    dropout: float = 0.1
    scaled: bool = False  # output multiplied by the backbone's embedding scale
    anchored: bool = False  # born saying NEUTRAL; its length sets the number of queries


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
    """Everything a run needs to know, as data: always shown, always overridable with `dataclasses.replace`.

    `minutes`, `memory_gb` and `disk_gb` are what the quickstart took where it was measured (README, LOG.md); None
    where nobody has run it yet.
    """

    name: str
    encoder: str
    backbone: str
    purpose: str
    seconds: float = 4.0  # every clip is cropped or padded to this
    connector: ConnectorShape = field(default_factory=ConnectorShape)
    clips: dict[str, int] = field(
        default_factory=lambda: {"train": 1440, "validation": 192, "test": 384}
    )
    steps: int = 160
    batch: int = 8
    lr: float = 1e-3
    label: str = "scene"  # the attribute whose bare values train the rival run
    checkpoint_every: int = 64  # steps between two checkpoints
    test: int = 64  # clips scored at every checkpoint
    held_out: int = 32  # clips of other speakers that calibrate the ranking
    free_form_clips: int = (
        6  # clips answered in free form at every checkpoint; twice as many at the last
    )
    taps: tuple[int, ...] | None = (
        None  # tapped layers; None: the published ones of the encoder's size
    )
    tuning: str = (
        "frozen"  # what of the backbone learns: nothing, adapters ("lora-8", of rank 8) or "full"
    )
    prompts: int = 1  # how many describing prompts train (tasks.PROMPTS)
    train: int | None = None  # clips trained with, of those there are; None: all
    transcript: bool = False  # whether a clip's words stand behind its audio embeddings
    accumulate: int = (
        1  # parts that a step's batch is computed in, one after the other, to save memory
    )
    checkpointing: bool = False  # compute the backbone's layers twice in training, to save memory
    attention: str | None = (
        None  # of the backbone: "eager" is faster where rows are short; None: as transformers picks
    )
    minutes: float | None = None
    memory_gb: float | None = None
    disk_gb: float | None = None


# in no hash where they are not used: older work is found
OPTIONS = (
    "taps",
    "tuning",
    "prompts",
    "train",
    "transcript",
    "accumulate",
    "checkpointing",
    "attention",
)


def hashed_fields(preset: Preset) -> dict[str, Any]:
    """A preset's fields for a hash, without the options that it does not use."""
    unused = {
        f.name for f in fields(preset) if f.name in OPTIONS and getattr(preset, f.name) == f.default
    }
    return {name: value for name, value in asdict(preset).items() if name not in unused}


def nano() -> Preset:
    """Real ears, glass-box backbone: exercises and CI."""
    return Preset(
        "nano",
        "whisper-tiny.en",
        str(NANO),
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
    """Real models on a laptop: the main job."""
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
    """Course labs on a free 16 GB GPU."""
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
    """Research on a 24 GB GPU."""
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
    """The published system: its connector exactly, 64 queries, 30 s."""
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
    """The system before it, as its released inference computes it: that taps one layer before its training code does.

    It counts `encoder_hidden_states`, whose first entry is no layer's output, so its 2, 5, 8, 11 are the outputs of
    layers 1, 4, 7, 10 (kehanlu/DeSTA2, modeling_desta.py). `replace(desta2(), taps=(2, 5, 8, 11))` undoes it.
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
    """A preset by its name; raises ValueError with the names there are."""
    if name not in PRESETS:
        raise ValueError(f"There is no preset {name!r}; take one of {', '.join(PRESETS)}.")
    return PRESETS[name]()


def pick_preset() -> Preset:
    """The preset that suits this machine: by the GPU's memory, or `cpu` where there is none.

    `desta25` and `desta2` are never picked: their backbones stand behind a licence gate, so they are asked for by
    name.
    """
    if not torch.cuda.is_available():
        return cpu()
    return workstation() if torch.cuda.get_device_properties(0).total_memory / 1e9 > 20 else t4()


def pick_device() -> torch.device:
    """A CUDA GPU if there is one, this rank's where there are several ranks, else the CPU."""
    processes.join_ranks()
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def build_connector(
    shape: ConnectorShape, taps: int, d_enc: int, backbone: Backbone, seed: int = 0
) -> nn.Module:
    """A new connector of this shape, the same for the same seed; parameters in float32."""
    scale = backbone.embedding_scale if shape.scaled else 1.0
    ids = torch.tensor(chat.encode_text(backbone.tokenizer, NEUTRAL))
    queries = len(ids) if shape.anchored else shape.queries
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if shape.kind == "frames":
            return FrameStack(d_enc=d_enc, d_llm=backbone.width, queries=queries, scale=scale)
        return QFormer(
            taps=taps,
            d_enc=d_enc,
            d_llm=backbone.width,
            queries=queries,
            depth=shape.depth,
            heads=shape.heads,
            ffn=shape.ffn,
            width=shape.width,
            pool=shape.pool,
            post_norm=shape.post_norm,
            dropout=shape.dropout,
            scale=scale,
            anchor=backbone.embed(ids).detach().float() if shape.anchored else None,
        )


def build_audio_llm(
    preset: Preset,
    *,
    root: Path | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
    **how: Any,
) -> AudioLLM:
    """Encoder, a new connector and backbone of a preset, on the fastest device and precision there is.

    `how` goes to the backbone's `from_pretrained` (dtype, quantization_config, …); with a `device_map` in it the
    backbone stays where that puts it.

    The frozen parts may be half precision; the connector and the loss stay in float32 (TRAPS: fp16 gives NaN).
    """
    where = pick_device()
    with processes.main_first():  # one fetches
        ears, mind = (
            weights.find_weights(name, root, progress=progress)
            for name in (preset.encoder, preset.backbone)
        )
    dtype = fastest_dtype(where)
    hears = torch.float32 if where.type == "cpu" else dtype
    dtype = (
        torch.float32 if preset.tuning == "full" else dtype
    )  # small steps vanish in half precision
    encoder = Encoder.load(ears, preset.seconds, preset.taps, dtype=hears).to(where)
    attention = {"attn_implementation": preset.attention} if preset.attention else {}
    backbone = Backbone.load(mind, **{"dtype": dtype, **attention, **how})
    backbone.gradient_checkpointing = preset.checkpointing
    if "device_map" not in how:
        backbone.to(where)
    connector = build_connector(
        preset.connector, len(encoder.taps), encoder.width, backbone, seed
    ).to(where)
    names = {"encoder": preset.encoder, "backbone": preset.backbone}
    provenance = {
        "encoder_sha256": weights.hash_folder(ears),
        "backbone_sha256": weights.hash_folder(mind),
        "taps": list(encoder.taps),
        "seconds": preset.seconds,
        "connector": asdict(preset.connector),
        "tuning": preset.tuning,
    }
    backbone.unfreeze(preset.tuning, seed)
    write = lambda waves: transcribe(ears, waves)  # noqa: E731
    return AudioLLM(encoder, connector, backbone, provenance, names=names, transcribe=write)


def with_parts(preset: Preset, parts: dict[str, Any]) -> Preset:
    """The preset as a run used it: crop, taps, connector and tuning as they stand in the run's `parts`."""
    return replace(
        preset,
        seconds=parts["seconds"],
        taps=tuple(parts["taps"]),
        connector=ConnectorShape(**parts["connector"]),
        tuning=parts.get("tuning", "frozen"),
    )
