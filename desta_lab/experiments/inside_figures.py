"""The figures of the analysis: from which tables each is drawn, and its headline."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd

from desta_lab import audio
from desta_lab.evaluation.statistics import format_interval
from desta_lab.views import clip_figures, saving
from desta_lab.views.explanation_figures import (
    plot_answer_attention,
    plot_deletion,
    plot_erasure,
    plot_evidence,
    plot_features,
    plot_listening,
    plot_logit_lens,
    plot_patching,
)
from desta_lab.views.representation_figures import (
    plot_learning_curves,
    plot_maps,
    plot_modality_gap,
    plot_nearest_words,
    plot_probe_accuracy,
    plot_selectivity,
    plot_similarity,
)

if TYPE_CHECKING:
    from desta_lab.experiments.inside import Inside


def draw_figures(
    inside: "Inside", tables: dict[str, pd.DataFrame], seeds: int = 1
) -> dict[str, saving.Picture]:
    """Every figure whose tables, perhaps pooled over seeds, are there, by the name of its file."""
    label, drawn = inside.label, {}
    for name, (draw, sources, title) in FIGURES.items():
        if set(sources.split()) <= set(tables):
            given = [tables[source] for source in sources.split()]
            headline = title.format(label=label) if isinstance(title, str) else title(*given, seeds)
            drawn[name] = draw(*given, headline)
    if "purity" in tables:
        for method, title in MAPS.items():
            how = label, title.format(label=label), method, tables["purity"]
            drawn[f"map_{method}"] = plot_maps(tables["points"], *how)
    if "profiles" in tables:
        drawn["listen_where"] = _draw_profiles(inside, tables["profiles"], label)
    return drawn


def _state_evidence(summary: pd.DataFrame, seeds: int) -> str:
    """How many methods find the evidence, by their paired gains in mass over another clip's."""
    own = summary[(summary["null"] == "own") & (summary["measure"] == "mass")]
    found = own[own["gain_low"] > 0]["method"].tolist()
    names = f" ({'; '.join(found)})" if 0 < len(found) < 4 else ""
    return (
        f"{len(found)} of {len(own)} methods find the evidence better than another clip's{names}; "
        "of methods that find nothing, one in forty would"
    )


def state_features(features: pd.DataFrame, seeds: int = 1) -> str:
    """How many sparse features stand for a value, and how many of those added move the answer.

    Of a table pooled over several `seeds`, what is found in every one of them.
    """
    pure, moving, names = [], [], []
    steered = features.dropna(subset="p")
    for site, rows in steered.groupby("site", sort=False):
        pure.append(f"{rows['pure'].sum():.0f} ({site})")
        moved = rows[(rows["p"] < 0.05) & (rows["low"] > 0)]
        moving.append(f"{len(moved)} of {len(rows)}")
        names += [f"{row.attribute}: {row.value}" for row in moved.itertuples()]
    which, count = f" ({'; '.join(names)})" if names else "", features["features"].iloc[0]
    return (
        f"Of {count:.0f} features {' and '.join(pure)} are purer than shuffled labels make any; "
        f"added to other clips, {' and '.join(moving)} move the answer beyond every random "
        f"direction{' in every seed' if seeds > 1 else ''}{which}"
    )


def state_listening(heads: pd.DataFrame, direction: pd.DataFrame, seeds: int = 1) -> str:
    """Whether the listening heads carry the answer, and whether a louder audio raises accuracy.

    Of tables pooled over several `seeds`, what holds in every one of them.
    """
    last = heads[(heads["asked"] == "all") & (heads["knocked"] == heads["knocked"].max())]
    without, random = (last[last["kind"] == kind].iloc[0] for kind in LISTENING)
    more = without["p"] < 0.05 and without["change_high"] < 0
    factor = direction.loc[direction["best"].astype(float).idxmax(), "factor"]  # of most seeds
    best = direction[(direction["asked"] == "all") & (direction["factor"] == factor)]
    best = best.set_index("kind")
    louder, by_chance = best.loc["audio minus silence"], best.loc["random directions"]
    than = "more" if more else "no more"
    if seeds > 1:
        than = f"{'' if more else 'not '}in every seed more"
    how = "changes nothing in" if seeds == 1 else "does not surely change"
    if louder["change_high"] < 0:
        how = "lowers"
    elif louder["change_low"] > 0 and louder["p"] < 0.05:
        how = "raises"
    return (
        f"Without the {without['knocked']} heads that look at the audio most accuracy changes by "
        f"{_change(without)}, {than} than without random ones "
        f"({_change(random)}); audio minus silence × {louder['factor']:g} {how} that of "
        f"uncalibrated answers ({_change(louder)}; random directions {_change(by_chance)})"
    )


def _change(row: pd.Series) -> str:
    return format_interval(row[["change", "change_low", "change_high"]].tolist(), "+.2f")


def _draw_profiles(inside: "Inside", profiles: pd.DataFrame, label: str) -> saving.Picture:
    """The profiles of the first scored clip over its spectrogram."""
    row, encoder = inside.scored[0], inside.llm.encoder
    clip = inside.clips[row]
    own = profiles[(profiles["attribute"] == label) & (profiles["clip"] == clip.id)]
    by_method = {
        str(method): rows.sort_values("place")["value"].to_numpy()
        for method, rows in own.groupby("method", sort=False)
    }
    (mel,) = audio.log_mel(inside.read_waves([row]), encoder.seconds, encoder.mel_bins)
    return clip_figures.plot_time_profiles(
        mel.numpy(),
        encoder.seconds,
        by_method,
        clip.spans,
        f"Where the answer about the {label} was heard",
    )


LISTENING = "listening heads", "random heads"
MAPS = {
    "pca": "The audio embeddings of unseen speakers, by {label}",
    "umap": "The same clips through UMAP",
}
# figure → how it is drawn, from which tables, and its title or what writes it from these tables
FIGURES: dict[str, tuple[Callable[..., saving.Picture], str, str | Callable[..., str]]] = {
    "readable": (plot_probe_accuracy, "probes answers", "Present, readable, spoken: three things"),
    "selectivity": (plot_selectivity, "probes", "What a probe reads, and what of random labels"),
    "learning_curves": (plot_learning_curves, "learning_curves", "How many clips a probe needs"),
    "similar_sites": (plot_similarity, "similar_sites", "Which sites lay out the clips alike"),
    "similar_steps": (
        plot_similarity,
        "similar_steps",
        "How the audio embeddings change along training",
    ),
    "modality_gap": (plot_modality_gap, "gap", "Does hearing come closer to reading?"),
    "nearest_words": (plot_nearest_words, "words", "The words that each query lies nearest to"),
    "answer_attention": (plot_answer_attention, "heads", "Which heads look at the audio"),
    "evidence": (partial(plot_evidence, measure="mass"), "evidence", _state_evidence),
    "deletion": (plot_deletion, "deletion", "Taking away what matters ({label})"),
    "logit_lens": (plot_logit_lens, "lens", "At which layer the answer is there"),
    "patching": (plot_patching, "patching", "Which query carries which attribute"),
    "erasure": (plot_erasure, "erasure", "What the answer uses"),
    "sparse_features": (plot_features, "sparse_features", state_features),
    "listening_heads": (plot_listening, "listening_heads audio_direction", state_listening),
}
