"""Speed on one GPU at real sizes: training steps and the writing of targets, on random weights."""

import gc
import operator
import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import islice, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import soundfile
import torch
import transformers
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from desta_lab import audio
from desta_lab.bench import ratios
from desta_lab.clips import Clip, Corpus
from desta_lab.evaluation.tasks import TRAINED_PROMPT
from desta_lab.model import build, chat, presets, weights
from desta_lab.model.audio_llm import AudioLLM
from desta_lab.model.backbone import Backbone
from desta_lab.model.connector import ConnectorShape
from desta_lab.model.encoder import PUBLISHED_TAPS, Encoder
from desta_lab.model.presets import Preset
from desta_lab.published.systems import free_memory
from desta_lab.training.batches import Example, collate
from desta_lab.training.features import Features, FeatureStore, OnTheFlyFeatures
from desta_lab.training.targets import TOP_K, SoftTarget
from desta_lab.training.trainer import TrainConfig, build_optimizer, read_parts, take_step
from desta_lab.world.attributes import ATTRIBUTES, DESCRIBED
from desta_lab.world.describe import describe

NO_GPU = "bench --gpu measures an NVIDIA GPU, and there is none here; leave --gpu out."
ROUNDS = 5
STEPS = 3  # of training, one after the other, in each round
TOKENS, DESCRIPTIONS = 40, 64  # of the writing of targets

# TFLOP/s of dense bf16 (T4: fp16), from NVIDIA's data sheets, by a word of the device's name
# fmt: off
PEAKS = {
    "H100 PCIe": 756, "H100 NVL": 835, "H200 NVL": 835,  # before their kin, which are faster
    "H100": 989, "H200": 989, "A100": 312, "L4": 121, "T4": 65,
}
# fmt: on


@dataclass(frozen=True)
class Size:
    """A model of random weights: how it is called, and its config of transformers."""

    name: str
    kind: str
    config: dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A preset's training step, with an encoder and a backbone of these sizes."""

    preset: Preset
    encoder: Size
    backbone: Size

    @property
    def name(self) -> str:
        """How the case is called in every sentence about it."""
        parts = f"{self.encoder.name}, {self.backbone.name}, batch {self.preset.batch}"
        return f"{self.preset.name} form ({parts})"


@dataclass(frozen=True)
class Card:
    """What is measured: the device, its name and its memory in GB."""

    device: torch.device
    name: str
    memory_gb: float

    @property
    def peak(self) -> int | None:
        """TFLOP/s at best; None of a card that is not known, or of a part of one (MIG)."""
        known = [one for one in PEAKS if re.search(rf"\b{one}\b", self.name)]
        return PEAKS[known[0]] if known and "MIG" not in self.name else None


def whisper(name: str, layers: int, width: int, heads: int, mel_bins: int = 80) -> Size:
    """A Whisper encoder of this size; the decoder, which is not read, has one layer."""
    shape = {"d_model": width, "encoder_layers": layers, "encoder_ffn_dim": 4 * width}
    shape |= {"encoder_attention_heads": heads, "decoder_attention_heads": heads}
    return Size(name, "whisper", {**shape, "decoder_layers": 1, "num_mel_bins": mel_bins})


def llm(name: str, kind: str, width: int, layers: int, heads: tuple[int, int], **more: Any) -> Size:
    """An LLM of this size; `heads` are those of queries and of keys."""
    shape = {"hidden_size": width, "num_hidden_layers": layers}
    grouped = {"num_attention_heads": heads[0], "num_key_value_heads": heads[1]}
    return Size(name, kind, {"vocab_size": 151_936, **shape, **grouped, **more})


Row = tuple[str, float, str, str, str]  # in the order of `ratios.COLUMNS`

TIED = {"tie_word_embeddings": True}
SMALL = whisper("Whisper small", 12, 768, 12)
MEDIUM = whisper("Whisper medium", 24, 1024, 16)
LARGE = whisper("Whisper large-v3", 32, 1280, 20, 128)
HALF = llm("0.5 B", "qwen2", 896, 24, (14, 2), intermediate_size=4864, **TIED)
ONE_AND_HALF = llm("1.5 B", "qwen2", 1536, 28, (12, 2), intermediate_size=8960, **TIED)
FOUR = llm("4 B", "qwen3", 2560, 36, (32, 8), head_dim=128, intermediate_size=9728, **TIED)
EIGHT = llm("8 B", "llama", 4096, 32, (32, 8), intermediate_size=14_336, vocab_size=128_256)

CASES = (
    Case(presets.t4(), SMALL, HALF),
    Case(presets.t4(), SMALL, ONE_AND_HALF),
    Case(presets.workstation(), MEDIUM, FOUR),
    Case(presets.desta25(), LARGE, EIGHT),
)
WRITERS = (HALF, FOUR, EIGHT)


def run(
    progress: Callable[[str], Callable[..., None]],
    cases: Sequence[Case] = CASES,
    writers: Sequence[Size] = WRITERS,
    rounds: int = ROUNDS,
) -> dict[str, Any]:
    """The device, versions, every measurement as a row of `ratios.COLUMNS`, and what was left out.

    Without a GPU it measures the CPU, which is of use with small sizes alone.

    Raises:
        WeightsError: the tokenizer cannot be had.
    """
    report, card, left_out = progress("bench"), find_card(), list[str]()
    report(describe_cost(cases, writers, card))
    tokenizer = weights.load_tokenizer(weights.find_weights(presets.cpu().backbone))
    how = (tokenizer, card, rounds, left_out)
    works = {case.name: partial(_measure_steps, case, *how) for case in cases}
    works |= {_name_writing(size): partial(_measure_writing, size, *how) for size in writers}
    rows: list[Row] = []
    for done, (name, work) in enumerate(works.items(), 1):
        report(f"{done} of {len(works)}: {name}")
        rows += attempt(name, work, card, left_out) or []
        _free_memory()
        report(done, len(works))
    return {
        "device": card.name,
        "memory_gb": round(card.memory_gb, 1),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "rows": [dict(zip(ratios.COLUMNS, row, strict=True)) for row in rows],
        "left_out": left_out,
    }


def find_card() -> Card:
    """The GPU that is measured, or the CPU."""
    device = build.pick_device()
    if device.type == "cpu":
        return Card(device, "CPU", free_memory()[0])
    about = torch.cuda.get_device_properties(device)
    return Card(device, about.name, about.total_memory / 1e9)


def describe_cost(cases: Sequence[Case], writers: Sequence[Size], card: Card) -> str:
    """What it takes, in one sentence."""
    sizes = {size.name: size for size in [*writers, *(case.backbone for case in cases)]}
    parameters = {name: count_parameters(size) for name, size in sizes.items()}
    largest = max(parameters, key=parameters.__getitem__)
    return (
        f"{len(cases)} cases of training and {len(writers)} of writing, of random weights, on "
        f"{card.name} ({card.memory_gb:.1f} GB). The largest backbone, {largest}, takes "
        f"{parameters[largest] * 2 / 1e9:.1f} GB for its weights alone, and what does not fit is "
        "left out; how long it takes was not measured."
    )


def attempt(name: str, work: Callable[[], Any], card: Card, left_out: list[str]) -> Any:
    """What a work returns; None, and a sentence in `left_out`, where this card cannot do it."""
    try:
        return work()
    except torch.OutOfMemoryError:
        why = f"it does not fit the {card.memory_gb:.1f} GB of {card.name}"
    except RuntimeError as error:  # no compiler, or no numbers in this card's precision
        why = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0].rstrip('.')}"
    left_out.append(f"{name} is left out: {why}.")
    return None


def _free_memory() -> None:
    """Let go of what the last case left on the card."""
    torch.compiler.reset()
    gc.collect()
    torch.cuda.empty_cache()


# ---- parts of random weights ----


def count_parameters(size: Size) -> int:
    """The number of parameters of a model of this size."""
    with torch.device("meta"):  # shapes without memory
        return int(_random_model(size, torch.float32).num_parameters())


def _random_model(size: Size, dtype: torch.dtype) -> Any:
    kind: Any = AutoModel if size.kind == "whisper" else AutoModelForCausalLM
    return kind.from_config(AutoConfig.for_model(size.kind, **size.config), dtype=dtype)


def _random_backbone(size: Size, tokenizer: Any, card: Card) -> Backbone:
    with card.device:
        model = _random_model(size, build.pick_dtype(card.device))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return Backbone(model, tokenizer)


def _random_encoder(size: Size, seconds: float, card: Card) -> Encoder:
    dtype = torch.float32 if card.device.type == "cpu" else build.pick_dtype(card.device)
    with card.device:
        model = _random_model(size, dtype).encoder
    return Encoder(model, PUBLISHED_TAPS[len(model.layers)], seconds).to(card.device)


def _random_system(case: Case, tokenizer: Any, card: Card) -> AudioLLM:
    backbone = _random_backbone(case.backbone, tokenizer, card)
    encoder = _random_encoder(case.encoder, case.preset.seconds, card)
    connector = build.build_connector(case.preset.connector, encoder, backbone)
    return AudioLLM(encoder, connector.to(card.device).train(), backbone)


def _write_noise(folder: Path, clips: int, seconds: float) -> Corpus:
    """A corpus of clips of noise."""
    names = [f"{number:03d}" for number in range(clips)]
    for name, wave in zip(names, ratios.noise(clips, seconds), strict=True):
        soundfile.write(folder / f"{name}.wav", wave, audio.RATE)
    known = tuple(Clip(name, f"{name}.wav", seconds, "", "nobody", {}) for name in names)
    return Corpus(folder, "noise", {}, 0, "CC0-1.0", {}, known)


# ---- training steps ----


def _measure_steps(
    case: Case, tokenizer: Any, card: Card, rounds: int, left_out: list[str]
) -> list[Row]:
    """The rows of one case, whose steps are taken in turns."""
    system, preset = _random_system(case, tokenizer, card), case.preset
    stream = system.build_stream(chat.audio_messages(TRAINED_PROMPT), response=ratios.RESPONSE)
    batch = collate([stream] * preset.batch, system.backbone.pad_id)
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(ignore_cleanup_errors=True))
        corpus = _write_noise(Path(folder), preset.batch, preset.seconds)
        find = {clip.id: corpus.path(clip) for clip in corpus.clips}.__getitem__
        take = _step_taker(case, system, stream, corpus, stack)
        stores = [_WatchedStore(folder, system.encoder, corpus) for _ in range(2)]
        works = {
            "step": stores[0].timed(take(system, stores[0])),
            "heard": take(system, OnTheFlyFeatures(system.encoder, find)),
            "floor": _repeat(ratios.floor_step(system, batch)),
        }
        peak = _measure_peak(works["step"], card)  # before the published system takes memory
        works["published"] = _repeat(_published_step(case, system.backbone, card))
        first = stores[1].timed(take(_compile_connector(system), stores[1]))
        name = f"The compiled connector of {case.name}"
        warm_up = attempt(name, partial(ratios.time_once, first), card, left_out)
        if warm_up is not None:
            works["compiled"] = first
        sizes = {"body": _count_body(system.backbone), "tokens": batch.ids.numel()}
        facts = {**sizes, **peak, "warm_up": warm_up}
        taken = ratios.medians(rounds, **works)
        times = {name: seconds / STEPS for name, seconds in taken.items()}
        return step_rows(case, times, facts, card)


class _WatchedStore(FeatureStore):
    """A store that counts what was read, so that a clock can wait for what is read ahead."""

    def __init__(self, folder: str, encoder: Encoder, corpus: Corpus) -> None:
        super().__init__(Path(folder), encoder, "random", corpus, corpus.clips)
        self.compute()
        self.reads, self._awaited = 0, 1  # one is read before the first step

    def __getitem__(self, names: Sequence[str]) -> Any:
        states = super().__getitem__(names)
        self.reads += 1
        return states

    def timed(self, steps: Callable[[], None]) -> Callable[[], None]:
        """The steps, to the end of what they read ahead: reading counts where it takes longer."""

        def steps_and_reads() -> None:
            steps()
            self._awaited += STEPS
            end = time.monotonic() + 60  # a read may have failed, which the next step says
            while self.reads < self._awaited and time.monotonic() < end:
                time.sleep(0.0002)

        return steps_and_reads


def _repeat(work: Callable[[], Any]) -> Callable[[], None]:
    """A work, `STEPS` times."""

    def repeated() -> None:
        for _ in range(STEPS):
            work()

    return repeated


def _step_taker(
    case: Case, system: AudioLLM, stream: chat.TokenStream, corpus: Corpus, stack: ExitStack
) -> Callable[[AudioLLM, Features], Callable[[], None]]:
    """A function that gives `STEPS` training steps of a system on features, as `train` takes them.

    The thread that reads ahead ends with `stack`.
    """
    count, vocabulary = len(stream.response), system.backbone.model.config.vocab_size
    soft_target = SoftTarget(
        torch.randint(0, vocabulary, (count, TOP_K)).int(), torch.full((count, TOP_K), -5.0).half()
    )
    examples = [Example(stream, clip.id, soft_target) for clip in corpus.clips]
    config = TrainConfig(steps=1000, batch=case.preset.batch, lr=case.preset.lr)
    optimizer = build_optimizer(system, config)

    def take(one: AudioLLM, features: Features) -> Callable[[], None]:
        ahead = read_parts(one, features, examples.__getitem__, config, len(examples), 1, 0)
        parts = stack.enter_context(ahead)
        return _repeat(partial(take_step, one, features, parts, optimizer, config, 0, 1))

    return take


def _compile_connector(system: AudioLLM) -> AudioLLM:
    """The same system, whose connector is compiled when it is first called."""
    backend = "inductor" if torch.cuda.is_available() else "aot_eager"  # which needs no compiler
    connector: Any = torch.compile(system.connector, backend=backend)
    return AudioLLM(system.encoder, connector, system.backbone)


def _published_step(case: Case, backbone: Backbone, card: Card) -> Callable[[], None]:
    """A step in the published manner: DeSTA2.5's connector for `desta25`, else DeSTA2's."""
    encoder = _random_encoder(case.encoder, audio.WHISPER_SECONDS, card)
    depth = 6 if case.preset.name == "desta25" else 2
    heads = case.encoder.config["encoder_attention_heads"]
    shape = ConnectorShape(queries=64, depth=depth, heads=heads)
    waves = ratios.noise(case.preset.batch, case.preset.seconds)
    return ratios.published_step(shape, encoder, backbone, waves)


def _count_body(backbone: Backbone) -> int:
    """The parameters of a backbone without its embeddings and head."""
    decoder = backbone.model.get_decoder()
    return int(decoder.num_parameters() - decoder.get_input_embeddings().weight.numel())


def _measure_peak(work: Callable[[], Any], card: Card) -> dict[str, float]:
    """The most memory that a GPU gives out in a work, in GB; nothing of a CPU."""
    if card.device.type == "cpu":
        return {}
    work()  # the optimizer's state and the prefix come to be
    torch.cuda.reset_peak_memory_stats()
    work()
    return {"peak_gb": torch.cuda.max_memory_allocated() / 1e9}


def step_rows(
    case: Case, times: Mapping[str, float], facts: Mapping[str, Any], card: Card
) -> list[Row]:
    """The rows of a case from the seconds of its steps and what else was found."""
    step, ms = times["step"], {name: f"{taken * 1e3:.1f} ms" for name, taken in times.items()}
    against = f"{ms['step']} against {ms['floor']}: frozen backbone forward + backward, same tokens"
    encoding = f"{ms['published']}: 30 s encoded in the step, 64 queries, whole prompt, all logits"
    hearing = f"{ms['heard']}: clips encoded in the step, not read from a memory map"
    rows: list[Row] = [
        ("training step / floor", step / times["floor"], "x", "≤ 1.05", against),
        ("published manner / step", times["published"] / step, "x", "≥ 2", encoding),
        ("step with the encoder in it / step", times["heard"] / step, "x", "", hearing),
    ]
    if "compiled" in times:
        detail = f"{ms['compiled']}: torch.compile, after {STEPS} first steps of "
        detail += f"{facts['warm_up']:.1f} s"
        ratio = step / times["compiled"]
        rows.append(("step / step with compiled connector", ratio, "x", "", detail))
    reading = "read ahead from a memory map"
    rows.append(("training", case.preset.batch / step, "samples/s", "", reading))
    if card.peak is not None:
        share = 4 * facts["body"] * facts["tokens"] / step / (card.peak * 1e12)
        detail = f"4 × {facts['body'] / 1e9:.2f} B × {facts['tokens']} tokens a step, "
        detail += f"of {card.peak} TFLOP/s"
        rows.append(("model-FLOPs utilisation", 100 * share, "%", "", detail))
    if "peak_gb" in facts:
        detail = f"of {card.memory_gb:.1f} GB; encoder and backbone are in it"
        rows.append(("peak memory of a step", facts["peak_gb"], "GB", "", detail))
    return [(f"{case.name}: {row[0]}", *row[1:]) for row in rows]


# ---- writing targets ----


def _name_writing(size: Size) -> str:
    return f"writing targets ({size.name}, {DESCRIPTIONS} at once)"


def _measure_writing(
    size: Size, tokenizer: Any, card: Card, rounds: int, left_out: list[str]
) -> list[Row]:
    """Tokens a second of greedy answers, with the usual cache and with one of fixed size.

    With the latter `generate` of transformers compiles the backbone, on a GPU and not on a CPU.
    """
    backbone, name = _random_backbone(size, tokenizer, card), _name_writing(size)
    values = islice(product(*(ATTRIBUTES[one] for one in DESCRIBED)), DESCRIPTIONS)
    descriptions = [describe(dict(zip(DESCRIBED, one, strict=True))) for one in values]
    streams = [
        chat.build_stream(tokenizer, chat.description_messages(one, TRAINED_PROMPT), 0)
        for one in descriptions
    ]
    written: dict[str, list[tuple[int, ...]]] = {}

    def write(cache: str, **options: Any) -> None:
        how = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "batch": DESCRIPTIONS}
        written[cache] = backbone.generate_ids(streams, **how, **options)

    works = {"usual": partial(write, "usual")}
    static = partial(write, "static", cache_implementation="static")
    work = partial(ratios.time_once, static)
    warm_up = attempt(f"The static cache of {name}", work, card, left_out)
    if warm_up is not None:
        works["static"] = static
    times = ratios.medians(rounds, **works)
    speed = {cache: sum(map(len, written[cache])) / taken for cache, taken in times.items()}
    detail = f"greedy, {TOKENS} tokens each, {times['usual']:.2f} s"
    rows = [(f"{name}, usual cache", speed["usual"], "tokens/s", "", detail)]
    if warm_up is not None:
        same = sum(map(operator.eq, written["usual"], written["static"]))
        detail = f"{times['static']:.2f} s, after a first time of {warm_up:.1f} s; {same} of "
        detail += f"{DESCRIPTIONS} answers are those of the usual cache"
        rows.append((f"{name}, static cache", speed["static"], "tokens/s", "", detail))
    return rows
