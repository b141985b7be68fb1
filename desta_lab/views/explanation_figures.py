"""Drawings of the analysis, each from one tidy table: where it looks, whether that is why, and what the answer uses."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from jaxtyping import Float

from desta_lab.views import representation_figures, style
from desta_lab.views.saving import Picture
from desta_lab.views.style import PALETTE, add_legend, draw, drawing, pick_evenly, say, seen, tidy

_FOUND = {  # how evidence was found → what its number is
    "pointing": "share of clips whose\npeak lies in the evidence",
    "iou": "overlap over union\nwith the evidence",
    "mass": "share of the profile\ninside the evidence",
}

# ---- where it looks, and whether that is why ----


def plot_answer_attention(table: pd.DataFrame, headline: str = "") -> Picture:
    """Which heads of the backbone look at the audio as the answer begins, and which of them point at the evidence.

    Columns: layer, head, share (attention on the audio slots) and pointing (share of clips that peak in the evidence).
    """
    return draw("answer_attention", tidy(table, "layer head share pointing"), headline)


@drawing("answer_attention")
def _answer_attention(picture: Picture, table: pd.DataFrame) -> None:
    layers, heads = sorted(table["layer"].unique()), sorted(table["head"].unique())
    picture.set_size_inches(max(8, 2.4 + 0.5 * len(heads)), max(2.8, 1.5 + 0.14 * len(layers)))
    labels = {
        "share": "attention on the audio slots\n(share)",
        "pointing": "peak in the evidence\n(share of clips)",
    }
    for axes, name in zip(picture.subplots(1, 2, sharey=True), labels, strict=True):
        top = 1.0 if name == "pointing" else max(1e-3, np.nan_to_num(table[name].max()))
        image = style.heat_map(
            axes, style.as_matrix(table, "layer", "head", name, layers, heads), top
        )
        for axis, numbers in ((axes.xaxis, heads), (axes.yaxis, layers)):
            few = pick_evenly(range(len(numbers)), 10)
            axis.set_ticks(few, [str(numbers[i]) for i in few])
        axes.set(xlabel="head", ylabel="backbone layer (0 is the first)" if name == "share" else "")
        if table[name].isna().all():
            say(axes, "not measured")
        picture.colorbar(image, ax=axes, label=labels[name])
    add_legend(picture, picture.axes, columns=3)


def plot_evidence(summary: pd.DataFrame, headline: str = "", measure: str = "pointing") -> Picture:
    """Attention is not explanation: how well each method finds the evidence of a clip, against two nulls.

    Columns: method, attribute, null (`own`, `shuffled`, `uniform`), measure (`pointing`, `iou`, `mass`), value, low and
    high. A method knows where the evidence is if `own` stands right of both nulls.
    """
    rows = summary[summary["measure"] == measure]
    if rows.empty:
        raise ValueError(
            f"No row with measure {measure!r}; the table has {sorted(summary['measure'].unique())}."
        )
    return draw("evidence", tidy(rows, "method attribute null measure value low high"), headline)


@drawing("evidence")
def _evidence(picture: Picture, table: pd.DataFrame) -> None:
    methods, measure = seen(table["method"]), table["measure"].iloc[0]
    said = _FOUND.get(measure, measure)
    for axes, rows in style.panels(
        picture,
        table,
        "attribute",
        (2.8, 0.9 + 0.36 * len(methods)),
        said,
        sharex=True,
        sharey=True,
    ):
        for null, shift in (("uniform", 0.28), ("shuffled", 0.05), ("own", -0.18)):
            some = rows[rows["null"] == null]
            style.dots(
                axes,
                some,
                "value",
                some["method"].map(methods.index) + shift,
                representation_figures.ANALYSIS_SERIES[null],
            )
        style.name_rows(
            axes, methods, [name for name in methods if name not in set(rows["method"])]
        )
        axes.set_xlim(-0.02, 1.02)
    picture.supylabel("method", fontsize=9)
    add_legend(picture, picture.axes, 3, representation_figures.INTERVAL)


def plot_deletion(curves: pd.DataFrame, headline: str = "") -> Picture:
    """Is the attribution faithful? The answer's margin while parts of the audio are taken away, or put back.

    Columns: curve (`deletion`, `insertion`), order (`attribution`, `random`), share, margin (nats), low and high.
    """
    return draw("deletion", tidy(curves, "curve order share margin low high"), headline)


@drawing("deletion")
def _deletion(picture: Picture, table: pd.DataFrame) -> None:
    picture.set_size_inches(8.5, 3.4)
    said = {
        "deletion": "taken away (should fall early)",
        "insertion": "put back (should rise early)",
    }
    for axes, (curve, how) in zip(picture.subplots(1, 2, sharey=True), said.items(), strict=True):
        for order in ("random", "attribution"):
            rows = table[(table["curve"] == curve) & (table["order"] == order)]
            style.draw_line(
                axes, rows, "share", "margin", representation_figures.ANALYSIS_SERIES[order]
            )
        if curve not in set(table["curve"]):
            say(axes, "not measured")
        axes.axhline(0, color="#B0B0B0", lw=0.8, zorder=0)
        axes.set_title(f"{curve}: {how}", loc="left")
        axes.set(xlabel="share of the audio moved", xlim=(-0.03, 1.03))
    picture.axes[0].set_ylabel("margin of the right answer (nats)")
    add_legend(picture, picture.axes, 3, representation_figures.INTERVAL)


def plot_time_profiles(
    mel: Float[np.ndarray, "mel frame"],
    seconds: float,
    profiles: Mapping[str, Any],
    spans: Iterable[Any],
    headline: str = "",
) -> Picture:
    """Where each method says that the answer was heard, under the spectrogram and the spans that hold the evidence.

    A profile is an array over 0 … `seconds` of any length; each strip has a scale of its own, and below its line is
    evidence against. Spans as in `figures.query_to_time`.
    """
    rows = [*style.matrix_rows("mel", 0, mel, 2), *style.span_rows(0, spans)]
    for name, profile in profiles.items():
        values = np.asarray(profile, dtype=float)
        scale = np.nanmax(np.abs(values), initial=0) or 1.0
        rows += [
            row | {"name": name} for row in style.matrix_rows("profile", 0, values[None] / scale, 4)
        ]
    return draw("listen_where", pd.DataFrame(rows), headline, seconds=float(seconds))


@drawing("listen_where")
def _listen_where(picture: Picture, table: pd.DataFrame, seconds: float) -> None:
    strips = table[table["part"] == "profile"]
    picture.set_size_inches(9, 3.4 + 0.5 * len(strips))
    bars, top, *below = picture.subplots(
        2 + len(strips), 1, sharex=True, height_ratios=[0.9, 2, *[0.6] * len(strips)]
    )
    style.spectrogram(bars, top, table, seconds)
    for axes, (_, row) in zip(below, strips.iterrows(), strict=True):
        values = style.matrix(pd.DataFrame([row]), "profile")[0]
        edges = np.linspace(0, seconds, len(values) + 1)
        axes.stairs(values, edges, baseline=0, fill=True, color=PALETTE["audio"])
        axes.axhline(0, color="#707070", lw=0.6)
        axes.set(yticks=[], ylim=(min(-0.05, np.nanmin(values, initial=0)), 1.05))
        axes.set_ylabel(style.short(row["name"]), rotation=0, ha="right", va="center")
        if not np.isfinite(values).any():
            say(axes, "not measured")
        for span in table[table["part"] == "span"].itertuples():
            if not span.name.startswith("word"):
                look = "--" if span.name.startswith("speech") else ":"
                axes.vlines(
                    [span.start, span.end],
                    0,
                    1,
                    transform=axes.get_xaxis_transform(),
                    color="black",
                    lw=1,
                    ls=look,
                )
    picture.axes[-1].set_xlabel(
        "time (s); each strip on a scale of its own; dashed: speech, dotted: scene"
    )


# ---- what the answer is made of ----


def plot_logit_lens(lens: pd.DataFrame, headline: str = "") -> Picture:
    """At which layer of the backbone the answer is there: accuracy of reading the option at the answer position.

    Columns: attribute, layer, condition (`audio`, `oracle`, `shuffled`, `untrained`), accuracy, low, high, chance, margin.
    """
    return draw(
        "logit_lens",
        tidy(lens, "attribute layer condition accuracy low high chance margin"),
        headline,
    )


@drawing("logit_lens")
def _logit_lens(picture: Picture, table: pd.DataFrame) -> None:
    for axes, rows in style.panels(
        picture,
        table,
        "attribute",
        (2.9, 2.2),
        "backbone layer (0 is the first)",
        sharex=True,
        sharey=True,
    ):
        for condition in ("oracle", "shuffled", "untrained", "audio"):
            look = (
                representation_figures.ANALYSIS_SERIES[condition]._replace(label="shuffled audio")
                if condition == "shuffled"
                else representation_figures.ANALYSIS_SERIES[condition]
            )
            style.draw_line(axes, rows[rows["condition"] == condition], "layer", "accuracy", look)
        representation_figures.chance(axes.axhline, rows)
        axes.set_ylim(-0.02, 1.05)
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(6, integer=True))
    picture.supylabel("accuracy at the answer position", fontsize=9)
    add_legend(picture, picture.axes, 3, representation_figures.INTERVAL)


def plot_patching(patch: pd.DataFrame, headline: str = "") -> Picture:
    """Which query carries what: how much of the answer's difference moves when one query comes from another clip.

    Columns: attribute, query (−1, all of them, is not drawn), moved, low, high and word, which the query was born as.
    """
    table = tidy(patch, "attribute query moved low high word")
    return draw(
        "patching", table.assign(word=table["word"].map(representation_figures.born_as)), headline
    )


@drawing("patching")
def _patching(picture: Picture, table: pd.DataFrame) -> None:
    table = table[table["query"] >= 0]
    names, queries = seen(table["attribute"]), sorted(table["query"].unique())
    few = len(queries) <= 24  # few enough to write every number into its cell
    picture.set_size_inches(
        max(6.5, 2.6 + (0.34 if few else 0.19) * len(queries)), 2.2 + 0.36 * len(names)
    )
    axes = picture.subplots()
    wide, low = (
        style.as_matrix(table, "attribute", "query", name, names, queries)
        for name in ("moved", "low")
    )
    top = max(0.05, np.nan_to_num(table["moved"].max()))
    texts = wide.map("{:.2f}".format) if few else None
    image = style.heat_map(
        axes,
        wide,
        top,
        faint=~(low > 0).to_numpy(),
        reason="interval holds 0, or has no ends",
        texts=texts,
    )
    born = table.groupby("query")["word"].first()
    axes.set_xticks(
        range(len(queries)), [f"{born.get(query, '')}  {query}" for query in queries], rotation=90
    )
    axes.set(xlabel="query token, and the word it was born as", ylabel="attribute asked for")
    picture.colorbar(image, ax=axes, label="share of the answer's\ndifference that moves")
    add_legend(picture, [axes], columns=3)


def plot_erasure(erase: pd.DataFrame, headline: str = "") -> Picture:
    """What is used: the fall in accuracy when an attribute is erased from the audio embeddings, or a random direction.

    Columns: erased, asked, kind (`erased`, `random direction`, `untouched`), accuracy, low, high and chance.
    """
    table = tidy(erase, "erased asked kind accuracy low high chance")
    if not (table["kind"] == "untouched").any():
        raise ValueError(
            "No row of kind 'untouched'; a change is measured from there, so evaluate it first."
        )
    return draw("erasure", table, headline)


@drawing("erasure")
def _erasure(picture: Picture, table: pd.DataFrame) -> None:
    start = table[table["kind"] == "untouched"].groupby("asked")[["accuracy", "chance"]].mean()
    table = table[table["kind"] != "untouched"].assign(before=table["asked"].map(start["accuracy"]))
    table = table.assign(fall=table["before"] - table["accuracy"])
    table = table.assign(
        within=~((table["high"] < table["before"]) | (table["low"] > table["before"]))
    )
    down, across = seen(table["erased"]), seen(table["asked"])
    top = max(0.1, np.nan_to_num(table["fall"].max()))
    picture.set_size_inches(2.4 + 2 * max(2.6, 0.66 * len(across)), 2.4 + 0.4 * len(down))
    labels = [
        f"{name}  {start['accuracy'].get(name, math.nan):.2f} ({start['chance'].get(name, math.nan):.2f})"
        for name in across
    ]
    for axes, kind in zip(
        picture.subplots(1, 2, sharey=True), ("erased", "random direction"), strict=True
    ):
        rows = table[table["kind"] == kind]
        fall, within = (
            style.as_matrix(rows, "erased", "asked", name, down, across)
            for name in ("fall", "within")
        )
        image = style.heat_map(
            axes,
            fall,
            top,
            within.eq(True).to_numpy(),
            "interval holds the untouched accuracy",
            (0 - fall).map(_signed),
        )
        axes.set_title(
            "the attribute erased" if kind == "erased" else "as many random directions erased",
            loc="left",
        )
        axes.set_xticks(range(len(across)), labels, rotation=90)
        axes.set_xlabel("asked for, with its\naccuracy untouched (chance)")
        axes.set_ylabel("erased" if kind == "erased" else "")
        if rows.empty:
            say(axes, "not measured")
    picture.colorbar(image, ax=picture.axes, label="fall in accuracy")
    add_legend(picture, picture.axes, columns=2)


def _signed(change: float) -> str:
    return f"{change:+.2f}".replace("-", "−")
