"""What a training step costs, one factor at a time from the `cpu` preset's form, and its floor."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from desta_lab import cache
from desta_lab.audio import FRAMES_PER_SECOND
from desta_lab.bench import ratios
from desta_lab.model import build, presets, weights
from desta_lab.model.audio_llm import AudioLLM
from desta_lab.views import saving, study_figures

RESPONSE = 24  # tokens, where the response is not the factor
FACTORS: Mapping[str, tuple[str, Sequence[int]]] = {  # what a value counts, and the values
    "batch": ("clips a step", (2, 4, 8, 16)),
    "response": ("tokens of the response", (8, 24, 72)),
    "queries": ("audio embeddings a clip", (8, 16, 32, 64)),
    "seconds": ("seconds of audio a clip", (2, 4, 8, 16)),
}
OF_TOKENS = ("batch", "response", "queries")  # the factors that change the number of tokens alone


def run(
    progress: Callable[[str], Callable[..., None]],
    backbones: Sequence[str] = (),
    out: Path | None = None,
) -> tuple[pd.DataFrame, Path]:
    """Measure every factor on this machine's device; returns the table and the figure's file.

    Args:
        backbones: further ones that are on disk, beside nano and that of the preset.
        out: the folder; `figures/cost` by default.

    Raises:
        ValueError: a backbone is not on disk.
    """
    for name in backbones:
        if not weights.is_installed(name):
            raise ValueError(f"The backbone {name!r} is not on disk; fetch it, or leave it out.")
    out = cache.make_folder(out or weights.models_dir().parents[1] / "figures" / "cost")
    report = progress("bench")
    llm = build.build_audio_llm(presets.cpu(), progress=report)
    names = dict.fromkeys([presets.NANO, presets.cpu().backbone, *backbones])
    table = measure_factors(llm, FACTORS, list(names), report)
    figure = study_figures.plot_costs(table, describe_fit(table))
    device = llm.backbone.device.type
    about = {
        "preset": presets.without_paths(presets.cpu()),
        "response": RESPONSE,
        "rounds": ratios.ROUNDS,
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "threads": torch.get_num_threads(),
        "dtype": llm.provenance["dtype"],
        "torch": torch.__version__,
    }
    return table, saving.save_figure(figure, out, "scaling", provenance=about)


def measure_factors(
    llm: AudioLLM,
    factors: Mapping[str, tuple[str, Sequence[int]]],
    backbones: Sequence[str] = (),
    report: Callable[..., None] = lambda done, total: None,
    rounds: int = ratios.ROUNDS,
) -> pd.DataFrame:
    """The median seconds of a step and of its floor at every value, in turns within a factor.

    Args:
        factors: some of `FACTORS`.
        backbones: names of models, which are measured in the `cpu` preset.

    Returns:
        A table with factor, value, what it counts (`per`), name (of a backbone), tokens, seconds
        and floor. The value of a backbone is millions of parameters.
    """
    rows = []
    for done, (factor, (per, values)) in enumerate(factors.items(), 1):
        built = {str(value): (value, *_build_steps(llm, factor, value)) for value in values}
        rows += _time_in_turns(factor, per, built, rounds)
        report(done, len(factors) + bool(backbones))
    built = {}
    for name in backbones:
        other = build.build_audio_llm(presets.change_parts(presets.cpu(), backbone=name))
        millions = round(other.backbone.model.num_parameters() / 1e6, 1)
        built[presets.part_id(name)] = millions, *ratios.build_steps(other, response=RESPONSE)
    rows += _time_in_turns("backbone", "million parameters of the backbone", built, rounds)
    report(1, 1)
    return pd.DataFrame(rows)


def _build_steps(llm: AudioLLM, factor: str, value: int) -> tuple[int, dict[str, Any]]:
    """The tokens of a step, the step and its floor, where one factor has this value."""
    if factor == "queries":  # an anchor would set their number
        shape = replace(presets.cpu().connector, queries=value, anchored=False)
        connector = build.build_connector(shape, llm.encoder, llm.backbone)
        llm = AudioLLM(llm.encoder, connector.to(llm.backbone.device), llm.backbone)
    sizes = {"batch": ratios.BATCH, "response": RESPONSE, factor: value}
    frames = value * FRAMES_PER_SECOND if factor == "seconds" else None
    return ratios.build_steps(llm, sizes["batch"], sizes["response"], frames)


def _time_in_turns(
    factor: str, per: str, built: Mapping[str, tuple[Any, int, dict[str, Any]]], rounds: int
) -> list[dict[str, Any]]:
    """The rows of one factor; each value has its size, its tokens, its step and its floor."""
    works = {f"{kind} {name}": one[2][kind] for name, one in built.items() for kind in one[2]}
    times = ratios.medians(rounds, **works)
    return [
        {"factor": factor, "value": value, "per": per, "name": name, "tokens": tokens}
        | {"seconds": times[f"step {name}"], "floor": times[f"floor {name}"]}
        for name, (value, tokens, _) in built.items()
    ]


def fit_tokens(table: pd.DataFrame) -> tuple[float, float, float]:
    """Seconds of a step ≈ a + b × tokens, by least squares: a, b, and R².

    It reads the rows in which the number of tokens alone changes: batch, response, queries.
    """
    rows = table[table["factor"].isin(OF_TOKENS)]
    b, a = np.polyfit(rows["tokens"], rows["seconds"], 1)
    return float(a), float(b), float(np.corrcoef(rows["tokens"], rows["seconds"])[0, 1] ** 2)


def describe_fit(table: pd.DataFrame) -> str:
    """The fit as a sentence."""
    a, b, r2 = fit_tokens(table)
    return f"A step takes {a:.2f} s and {1e3 * b:.2f} ms a token (R² {r2:.2f})."
