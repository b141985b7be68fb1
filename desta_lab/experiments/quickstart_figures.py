"""The figures of the main job, drawn from its tables and from the connector at the last step."""

import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from desta_lab import audio, cache
from desta_lab.evaluation.tasks import RUNGS
from desta_lab.experiments.experiment import Experiment
from desta_lab.training.targets import token_evidence
from desta_lab.views import claim_figures, clip_figures
from desta_lab.views.replies import plot_attention
from desta_lab.views.saving import save_figure

Figures = dict[str, tuple[Any, str]]  # file name → figure and alternative text


def draw_figures(
    experiment: Experiment,
    rungs: pd.DataFrame,
    tasks: pd.DataFrame,
    compared: dict[str, Any],
    found: Sequence[str],
) -> Figures:
    """Draw every figure, those of the connector as it is now.

    Args:
        rungs, tasks: scores per rung and per task along training.
        compared: perplexity and coverage of the kinds of target.
        found: the verdict with options ranked, then in the backbone's own words.
    """
    asked = {task.rung for task in experiment.tasks}
    names = {rung: name for rung, name in RUNGS.items() if rung in asked}
    figures: Figures = {}
    if len(rungs):  # there is no curve where the text oracle can do no task
        figures["emergence"] = (
            claim_figures.plot_emergence(rungs, found[0], names=names),
            f"Score of every rung along training. {found[0]}.",
        )
    if (tasks["measure"] == "said").any():
        figures["said"] = (
            claim_figures.plot_held_out(tasks, found[1], "said"),
            "Share of right answers in the model's own words, per attribute, for both runs and "
            "every control.",
        )
    figures |= {
        "held_out": (
            claim_figures.plot_held_out(tasks, found[0]),
            "Accuracy on questions never trained, per attribute, for both runs and every control.",
        ),
        "coverage": (
            claim_figures.plot_coverage(
                _coverage_table(compared), "What a target drops it cannot teach"
            ),
            "Share of targets that name each attribute, per kind of target.",
        ),
    }
    if hasattr(experiment.llm.connector, "mixture"):
        figures |= _connector_figures(experiment)
    return figures | _example_figures(experiment)


def save_figures(
    figures: Figures, out: Path, provenance: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """Save figures; returns their paths with their alternative texts, as a card takes them."""
    return [
        (str(save_figure(figure, out, name, provenance=provenance)), alt)
        for name, (figure, alt) in figures.items()
    ]


def save_table(table: pd.DataFrame, out: Path) -> None:
    """Save the scores of every clip, which are many, as `table.csv.gz`."""
    text = table.to_csv(index=False).encode()
    cache.write_whole(out / "table.csv.gz", gzip.compress(text, mtime=0))


def _coverage_table(compared: dict[str, Any]) -> pd.DataFrame:
    rows = [
        (kind, attribute, share, compared["perplexity"][kind])
        for kind, shares in compared["coverage"].items()
        for attribute, share in shares.items()
    ]
    return pd.DataFrame(rows, columns=["kind", "attribute", "share", "perplexity"])


def _connector_figures(experiment: Experiment) -> Figures:
    """Where the Q-Former reads: in which layer, and when."""
    llm, clip = experiment.llm, experiment.clips("test")[0]
    connector: Any = llm.connector
    wave = audio.read_audio(experiment.corpus.path(clip))
    mixture = connector.mixture().detach().cpu().numpy()
    taps, title = llm.encoder.taps, "Where each query token reads"
    return {
        "layer_mixture": (
            claim_figures.plot_layer_mixture(mixture, taps, title),
            "Share of every tapped layer in every query token.",
        ),
        "query_to_time": (
            plot_attention(llm, wave, llm.encoder.encode([wave]).float(), clip.spans),
            "Spectrogram of one clip with its evidence spans, above the time each query token "
            "attends to.",
        ),
    }


def _example_figures(experiment: Experiment) -> Figures:
    """Six training clips, and the first target word by word."""
    tokens, nats = token_evidence(experiment.llm.backbone, experiment.targets.rows[0])
    return {
        "corpus": (
            clip_figures.plot_clips(experiment.corpus, experiment.clips("train")[:6]),
            "Spectrograms of six clips with their attributes and evidence spans.",
        ),
        "token_evidence": (
            claim_figures.plot_token_evidence(tokens, nats.tolist(), "Which words carry the clip"),
            "KL per token of one target between reading the description and reading nothing.",
        ),
    }
