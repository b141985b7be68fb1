"""Drawings of the main job: tidy tables → figures.

Every public function keeps what it drew as a table on the `Picture` it returns, so that `save` can write it beside the
picture and `redraw` read it back.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from jaxtyping import Float
from matplotlib.axes import Axes

from desta_lab.evaluation.statistics import t_half_width
from desta_lab.evaluation.tasks import RUNGS
from desta_lab.views.saving import Picture
from desta_lab.views.style import (
    PALETTE,
    SERIES,
    add_legend,
    as_span,
    draw,
    drawing,
    get_colour,
    get_series,
    marker_style,
    matrix,
    matrix_rows,
    name_rows,
    ordered,
    panels,
    printable,
    say,
    seen,
    set_step_axis,
    short,
    span_bars,
    span_rows,
    spectrogram,
    tidy,
)

MEASURES = {
    "calibrated": "calibrated ranking",
    "raw": "raw ranking",
    "free_form": "free-form match",
    "obeyed": "constraint obeyed",
}

# ---- what generalises ----


def plot_emergence(
    rungs: pd.DataFrame,
    headline: str = "",
    measure: str = "calibrated",
    names: Mapping[int, str] = RUNGS,
) -> Picture:
    """Emergence curves: how far above chance each rung stands at every checkpoint, beside its controls.

    `rungs` has a row per run × step × condition × rung × measure: `score` (0 is chance, 1 is perfect) with `low` and `high`.
    The controls are those of the first run in the order of `LOOKS`; a rung without rows says so in its panel.
    """
    table = rungs.loc[
        rungs["measure"] == measure,
        ["run", "step", "condition", "rung", "measure", "score", "low", "high"],
    ]
    if table.empty:
        raise ValueError(
            f"No row with measure {measure!r}; the table has {sorted(rungs['measure'].unique())}."
        )
    return draw("emergence", table, headline, names={str(k): v for k, v in names.items()})


@drawing("emergence")
def _emergence(picture: Picture, table: pd.DataFrame, names: Mapping[str, str]) -> None:
    picture.set_size_inches(10, 5.8)
    grid = picture.subplots(2, math.ceil(len(names) / 2), sharex=True, sharey=True, squeeze=False)
    runs = ordered(table["run"])
    for axes, (rung, name) in zip(grid.flat, names.items(), strict=False):
        rows = table[table["rung"] == int(rung)].sort_values("step")
        axes.set_title(f"Rung {rung}: {name}", loc="left")
        axes.axhline(0, color="#B0B0B0", lw=0.8, zorder=0, label="chance")
        if rows.empty:
            say(axes, "no task that the oracle can do")
        for condition in ("silence", "shuffled", "oracle"):
            _curve(
                axes, rows[(rows["run"] == runs[0]) & (rows["condition"] == condition)], condition
            )
        for run in reversed(runs):
            _curve(axes, rows[(rows["run"] == run) & (rows["condition"] == "audio")], run)
        start = rows[
            (rows["run"] == runs[0]) & (rows["condition"] == "audio") & (rows["step"] == 0)
        ]
        if len(start):
            axes.plot(
                [0],
                start["score"],
                label=SERIES["untrained"].label,
                zorder=4,
                **marker_style("untrained"),
            )
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    set_step_axis(grid[0, 0], max(1, int(table["step"].max())))
    grid[0, 0].set_ylim(min(-0.3, table["low"].min() - 0.05), 1.08)
    measure = MEASURES.get(table["measure"].iloc[0], table["measure"].iloc[0])
    for axes in grid[-1]:
        axes.set_xlabel("training step")
    picture.supylabel(
        f"accuracy above chance, {measure}\n(0 is chance, 1 is perfect; bands: 95 % interval)",
        fontsize=9,
    )
    add_legend(picture, list(grid.flat), columns=4)


def plot_held_out(
    summary: pd.DataFrame, headline: str = "", measure: str = "calibrated", rung: int = 3
) -> Picture:
    """Which attributes rose above every control: accuracy of each task of a rung at the last step, with 95 % intervals.

    `summary` has a row per run × step × condition × task × measure, with `accuracy`, `low`, `high`, `chance`, `oracle` and
    `counted`. A task that the oracle cannot do stays in the figure, and says so.
    """
    columns = [
        "run",
        "step",
        "condition",
        "task",
        "rung",
        "attribute",
        "chance",
        "measure",
        "accuracy",
        "low",
        "high",
    ]
    table = summary.loc[
        (summary["measure"] == measure) & (summary["rung"] == rung), [*columns, "oracle", "counted"]
    ]
    if table.empty:
        raise ValueError(
            f"No row of rung {rung} with measure {measure!r}; evaluate it first or name another."
        )
    return draw("held_out", table, headline)


@drawing("held_out")
def _held_out(picture: Picture, table: pd.DataFrame) -> None:
    runs = ordered(table["run"])
    main = table[table["run"] == runs[0]]
    series = {
        run: _at(table[(table["run"] == run) & (table["condition"] == "audio")], last=True)
        for run in runs
    }
    series["untrained"] = _at(main[main["condition"] == "audio"], last=False)
    series |= {
        condition: _at(main[main["condition"] == condition], last=True)
        for condition in ("shuffled", "silence", "oracle")
    }
    tasks = series[runs[0]].sort_values("accuracy")
    if series["oracle"].empty:
        series["oracle"] = tasks.assign(accuracy=tasks["oracle"], low=math.nan, high=math.nan)
    series = {name: rows for name, rows in series.items() if len(rows)}
    single = tasks["attribute"].is_unique
    picture.set_size_inches(8, 1.6 + 0.62 * len(tasks))
    axes = picture.subplots()
    for i, task in enumerate(tasks.itertuples()):
        axes.plot(
            [task.chance] * 2,
            [i - 0.42, i + 0.42],
            color="#707070",
            lw=1.2,
            ls=(0, (1, 1)),
            label="chance",
        )
        if i % 2:
            axes.axhspan(i - 0.5, i + 0.5, color="#F3F3F3", zorder=0, lw=0)
    places = {task: i for i, task in enumerate(tasks["task"])}
    for place, (name, rows) in zip(
        np.linspace(0.34, -0.34, len(series)), series.items(), strict=True
    ):
        y = rows["task"].map(places) + place
        width = np.clip([rows["accuracy"] - rows["low"], rows["high"] - rows["accuracy"]], 0, None)
        bars = width if np.isfinite(width).all() else None
        axes.errorbar(
            rows["accuracy"],
            y,
            xerr=bars,
            elinewidth=1.5,
            label=get_series(name).label,
            **marker_style(name),
        )
    names = [
        row.attribute if single else f"{row.attribute}: {row.task}" for row in tasks.itertuples()
    ]
    notes = ["" if row.counted else "\n(the oracle cannot do it)" for row in tasks.itertuples()]
    axes.set_yticks(
        range(len(tasks)),
        [name + note for name, note in zip(names, notes, strict=True)],
        fontsize=10,
    )
    axes.tick_params(axis="y", length=0)
    axes.set(xlim=(min(0, table["low"].min()), 1.02), ylim=(-0.5, len(tasks) - 0.5))
    axes.set_xlabel(f"accuracy, {MEASURES.get(table['measure'].iloc[0], '')} (bars: 95 % interval)")
    add_legend(picture, [axes], columns=4)


def plot_knobs(table: pd.DataFrame, headline: str = "", rung: int = 3) -> Picture:
    """Which knobs of a sweep matter: the mean score of a rung at every value of every knob, beside its controls.

    `table` has a row per knob × `name` (of the value) × condition: `score` over the `cells` that have it, with `low` and
    `high`, which are NaN where one cell has it.
    """
    return draw(
        "knobs", tidy(table, "knob name condition score low high cells"), headline, rung=rung
    )


@drawing("knobs")
def _knobs(picture: Picture, table: pd.DataFrame, rung: int) -> None:
    conditions = [
        condition
        for condition in ("audio", "untrained", "silence", "shuffled", "oracle")
        if condition in set(table["condition"])
    ]
    shifts = dict(zip(conditions, np.linspace(-0.24, 0.24, len(conditions)), strict=True))
    for axes, rows in panels(picture, table, "knob", (3.0, 2.6), "value", sharey=True):
        values = seen(rows["name"])
        axes.axhline(0, color="#B0B0B0", lw=0.8, zorder=0, label="chance")
        for condition in conditions:
            own = rows[rows["condition"] == condition]
            width = [own["score"] - own["low"], own["high"] - own["score"]]
            at = own["name"].map(values.index) + shifts[condition]
            look: Any = (
                {"label": "audio, trained"}
                if condition == "audio"
                else {"label": get_series(condition).label}
            )
            look |= marker_style(condition) | ({"marker": "o"} if condition == "audio" else {})
            axes.errorbar(at, own["score"], yerr=width, elinewidth=1.2, **look)
        axes.set_xticks(range(len(values)), [short(value) for value in values])
        axes.tick_params(axis="x", rotation=25 if sum(map(len, values)) > 24 else 0)
        axes.set_xlim(-0.5, len(values) - 0.5)
    low, high = table[["low", "score"]].min().min(), table[["high", "score"]].max().max()
    picture.axes[0].set_ylim(min(-0.3, low - 0.05), max(1.08, high + 0.05))
    picture.supylabel(
        f"rung {rung}, accuracy above chance\n(0 is chance, 1 is perfect)", fontsize=9
    )
    add_legend(
        picture,
        picture.axes,
        3,
        "bars: 95 % interval over cells and seeds, where there are several",
    )


def plot_ablation(
    table: pd.DataFrame, headline: str = "", unit: str = "", curve: Sequence[float] = ()
) -> Picture:
    """A study's arms on rung 3 and rung 0: every seed a dot, the mean with its 95 % t-interval, beside every control.

    `table` has a row per arm × seed × rung × attribute × condition with its `score`, above chance. With a `unit` the arms
    are amounts (`at`) and stand on a logarithmic axis; `curve` is top, half and slope of a curve through rung 3.
    """
    return draw(
        "ablation",
        tidy(table, "arm at seed rung attribute condition score"),
        headline,
        unit=unit,
        curve=list(curve),
    )


@drawing("ablation")
def _ablation(picture: Picture, table: pd.DataFrame, unit: str, curve: Sequence[float]) -> None:
    table = table[(table["attribute"] == "all") & table["rung"].isin([0, 3])]
    arms = table.drop_duplicates("arm").set_index("arm")["at"]
    names = [str(arm) for arm in arms.index]
    places = pd.Series(np.arange(len(arms), dtype=float), index=arms.index)
    step = 1.0
    if unit:  # as far apart as their logarithms, the nearest two 1 apart
        logs = np.log(arms)
        step = max(np.diff(np.sort(logs)).min(), 1e-9) if len(logs) > 1 else 1.0
        places = (logs - logs.min()) / step
        names = [
            name if name == f"{at:g}" else f"{name} ({at:g})"
            for name, at in zip(names, arms, strict=True)
        ]
    long = sum(map(len, names)) > 26
    picture.set_size_inches(max(7.0, 1.4 + 1.3 * (1 + places.max())), 4.2 if long else 3.8)
    grid = picture.subplots(1, 2, sharey=True, sharex=True)
    conditions = [
        condition
        for condition in ("audio", "untrained", "silence", "shuffled", "oracle")
        if condition in set(table["condition"])
    ]
    shifts = dict(zip(conditions, (0.0, 0.14, 0.22, 0.30, 0.38), strict=False))
    many = table["seed"].nunique() > 1
    for axes, rung in zip(grid, (3, 0), strict=True):
        axes.set_title(f"Rung {rung}: {RUNGS[rung]}", loc="left")
        axes.axhline(0, color="#B0B0B0", lw=0.8, zorder=0, label="chance")
        rows = table[table["rung"] == rung]
        if curve and rung == 3:
            top, half, slope = curve
            across = np.geomspace(arms.min(), arms.max(), 100)
            at = (np.log(across) - np.log(arms.min())) / step
            axes.plot(
                at,
                top / (1 + (half / across) ** slope),
                color=get_colour("audio"),
                lw=1.2,
                label="fitted curve",
            )
        for condition in conditions:
            own = rows[rows["condition"] == condition].groupby("arm", sort=False)["score"]
            if condition == "audio" and many:
                dots = rows[rows["condition"] == condition]
                at = dots["arm"].map(places) - 0.16
                plain: Any = {
                    "ls": "none",
                    "marker": "o",
                    "ms": 3.5,
                    "color": get_colour(condition),
                    "alpha": 0.55,
                }
                axes.plot(at, dots["score"], label="audio, one seed", **plain)
            mean, number = own.mean(), own.count()
            look: Any = marker_style(condition) | (
                {"marker": "o", "ms": 7}
                if condition == "audio"
                else {"ms": 7 if condition == "oracle" else 4}
            )
            label = (
                "audio, mean over seeds"
                if condition == "audio" and many
                else get_series(condition).label
            )
            bars = t_half_width(own.sem(), number)
            axes.errorbar(
                places[mean.index] + shifts[condition],
                mean,
                yerr=bars,
                elinewidth=1.2,
                label=label,
                **look,
            )
        axes.set_xticks(places, names, rotation=20 if long else 0, ha="right" if long else "center")
        axes.set_xlim(-0.5, places.max() + 0.65)
        axes.set_xlabel(unit)
    grid[0].set_ylim(min(-0.3, table["score"].min() - 0.05), 1.08)
    picture.supylabel("accuracy above chance\n(0 is chance, 1 is perfect)", fontsize=9)
    add_legend(picture, list(grid), 3, "bars: 95 % interval over seeds" if many else "one seed")


def plot_benchmark(table: pd.DataFrame, headline: str = "", note: str = "") -> Picture:
    """What was measured on a public test set, with 95 % intervals and controls, beside what was published (hollow).

    `table` has a row per system × metric: `value` with `low` and `high` (per cent), `chance`, `kind` (measured, control
    or published), and `differs`, the marks of what cannot be compared, which `note` explains below.
    """
    names = "system metric protocol value low high clips chance kind differs source"
    return draw("benchmark", tidy(table, names), headline, note=note)


@drawing("benchmark")
def _benchmark(picture: Picture, table: pd.DataFrame, note: str) -> None:
    metrics, systems = seen(table["metric"]), seen(table["system"])
    picture.set_size_inches(3.2 + 1.75 * max(2, len(metrics)), 1.7 + 0.23 * len(systems))
    grid = picture.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    looks = {
        "measured": {
            "label": "measured here, 95 % interval",
            "ls": "none",
            **marker_style("audio"),
            "marker": "o",
        },
        "control": {
            "label": "control: the clip is silence",
            "ls": "none",
            **marker_style("silence"),
        },
        "published": {
            "label": "published",
            "ls": "none",
            "marker": "o",
            "mfc": "none",
            "mec": "black",
            "ms": 6,
        },
    }
    for axes, metric in zip(grid, metrics, strict=True):
        rows = table[table["metric"] == metric]
        name_rows(axes, systems)
        axes.set_yticks(range(len(systems)), [short(name, 48) for name in systems])
        axes.set_title({"delta": "Δ, forgetting rate"}.get(metric, metric), loc="left")
        if rows["chance"].notna().any():
            axes.axvline(
                rows["chance"].mean(), color="#707070", lw=1.2, ls=(0, (1, 1)), label="chance"
            )
        for kind, look in looks.items():
            own = rows[rows["kind"] == kind]
            if own.empty:
                continue
            width = np.clip([own["value"] - own["low"], own["high"] - own["value"]], 0, None)
            bars = width if np.isfinite(width).all() else None
            axes.errorbar(
                own["value"], own["system"].map(systems.index), xerr=bars, elinewidth=1.5, **look
            )
        for row in rows[rows["differs"].fillna("") != ""].itertuples():
            axes.annotate(
                row.differs,
                (row.value, systems.index(row.system)),
                (4, 2),
                textcoords="offset points",
            )
        low = -60 if metric == "delta" else 0
        axes.set_xlim(
            min(low, rows["value"].min() - 5) - 2,
            106 if metric != "delta" else max(12, rows["high"].max() + 3),
        )
        axes.set_xlabel("per cent")
    add_legend(
        picture,
        list(grid),
        4 if len(metrics) > 2 else 2,
        textwrap.fill(note, int(13 * picture.get_figwidth())),
    )


# ---- what the connector does ----


def plot_layer_mixture(
    weights: Float[np.ndarray, "query tap"], taps: Sequence[int], headline: str = ""
) -> Picture:
    """Where each query token reads: its softmaxed share of every tapped layer."""
    if not np.allclose(weights.sum(axis=1), 1, atol=1e-3):
        raise ValueError(
            f"A row sums to {weights.sum(axis=1).max():.3g}, not 1; take the softmax over the taps first."
        )
    grid = [
        (q, layer, float(w))
        for q, row in enumerate(weights)
        for layer, w in zip(taps, row, strict=True)
    ]
    return draw("layer_mixture", pd.DataFrame(grid, columns=["query", "layer", "share"]), headline)


@drawing("layer_mixture")
def _layer_mixture(picture: Picture, table: pd.DataFrame) -> None:
    wide = table.pivot(index="query", columns="layer", values="share")
    queries, taps = wide.shape
    few = queries <= 16  # few enough to write every number into its cell
    picture.set_size_inches(2.4 + 0.75 * taps, max(2.4, 1.2 + (0.28 if few else 0.07) * queries))
    axes = picture.subplots()
    bar = {"label": f"share of the mixture (even: {1 / taps:.2f})"}
    every = 1 if few else 8
    sns.heatmap(
        wide,
        ax=axes,
        cmap="mako_r",
        vmin=0,
        annot=few,
        fmt=".2f",
        cbar_kws=bar,
        yticklabels=every,
        linewidths=0.5 * few,
    )
    axes.tick_params(axis="y", rotation=0)
    axes.set(xlabel="tapped layer (0 is the first)", ylabel="query token")


def plot_query_attention(
    attention: Float[np.ndarray, "query frame"],
    mel: Float[np.ndarray, "mel mel_frame"],
    spans: Sequence[Any],
    seconds: float,
    words: Sequence[Any] = (),
    headline: str = "",
) -> Picture:
    """Where in the clip each query token looks, under its log-mel spectrogram and the spans that hold the evidence.

    Both arrays cover 0 … `seconds`. A span is `(name, start, end)` or has these attributes; its name is `speech`,
    `scene:<value>` or `word:<word>`; `words` are more spans, named by the word alone.
    """
    named = [*spans, *((f"word:{name}", start, end) for name, start, end in map(as_span, words))]
    rows = [
        *matrix_rows("mel", 0, mel, 2),
        *matrix_rows("attention", 0, attention * attention.shape[1], 4),
        *span_rows(0, named),
    ]
    return draw("query_to_time", pd.DataFrame(rows), headline, seconds=float(seconds))


@drawing("query_to_time")
def _query_to_time(picture: Picture, table: pd.DataFrame, seconds: float) -> None:
    attention = matrix(table, "attention")
    picture.set_size_inches(9, 4.2 + 0.06 * len(attention))
    bars, top, below = picture.subplots(
        3, 1, sharex=True, height_ratios=[0.9, 2, 1 + 0.08 * len(attention)]
    )
    spectrogram(bars, top, table, seconds)
    extent = (0, seconds, len(attention) - 0.5, -0.5)
    image = below.imshow(attention, aspect="auto", cmap="mako_r", vmin=0, extent=extent)
    below.set(ylabel="query token", xlabel="time (s)")
    below.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(8, integer=True))
    picture.colorbar(image, ax=below, label="attention\n(1: spread evenly)", pad=0.01)


def plot_token_evidence(
    tokens: Sequence[str], nats: Sequence[float] | Float[np.ndarray, "token"], headline: str = ""
) -> Picture:
    """Which words of a target carry the audio: how much the description changes the prediction of each token (KL)."""
    table = pd.DataFrame(
        [(printable(a), float(b)) for a, b in zip(tokens, nats, strict=True)],
        columns=["token", "nats"],
    )
    return draw("token_evidence", table, headline)


@drawing("token_evidence")
def _token_evidence(picture: Picture, table: pd.DataFrame, width: int = 32) -> None:
    lines = [table.iloc[start : start + width] for start in range(0, len(table), width)]
    picture.set_size_inches(1.2 + 0.28 * min(width, max(12, len(table))), 0.4 + 1.9 * len(lines))
    grid = picture.subplots(len(lines), 1, sharey=True, squeeze=False)
    for axes, rows in zip(grid.flat, lines, strict=True):
        axes.bar(range(len(rows)), rows["nats"], color=PALETTE["audio"], width=0.75)
        axes.set_xticks(
            range(len(rows)),
            rows["token"],
            rotation=60,
            ha="right",
            rotation_mode="anchor",
            parse_math=False,
        )
        axes.set_xlim(-0.6, min(width, max(12, len(table))) - 0.4)
        axes.tick_params(axis="x", length=0)
    picture.supylabel("evidence from the audio (KL, nats)", fontsize=9)


# ---- what it learns from ----


def plot_coverage(table: pd.DataFrame, headline: str = "") -> Picture:
    """What a target drops it cannot teach: the share of targets that name each attribute rightly, per target kind.

    `table` has `kind`, `attribute`, `share` and, where it is known, `perplexity` of the kind under the backbone.
    """
    columns = [name for name in ("kind", "attribute", "share", "perplexity") if name in table]
    return draw("coverage", table[columns], headline)


@drawing("coverage")
def _coverage(picture: Picture, table: pd.DataFrame) -> None:
    kinds = ordered(table["kind"])
    picture.set_size_inches(1.6 + table["attribute"].nunique() * (0.5 + 0.2 * len(kinds)), 3.2)
    axes = picture.subplots()
    colours = {kind: get_colour(kind) for kind in kinds}
    bars = {"edgecolor": "#222222", "linewidth": 0.6, "saturation": 1, "legend": False}
    sns.barplot(
        table,
        x="attribute",
        y="share",
        hue="kind",
        hue_order=kinds,
        palette=colours,
        ax=axes,
        **bars,
    )
    for kind, container, hatch in zip(
        kinds, axes.containers, ("", "//", "..", "xx", "\\\\", "++"), strict=False
    ):
        perplexity = (
            table.loc[table["kind"] == kind, "perplexity"].mean()
            if "perplexity" in table
            else math.nan
        )
        container.set_label(
            kind if math.isnan(perplexity) else f"{kind} (perplexity {perplexity:.3g})"
        )
        for patch in container:
            patch.set_hatch(hatch)
    axes.set(ylim=(0, 1.02), xlabel="attribute", ylabel="share of targets that\nname it rightly")
    add_legend(picture, [axes], columns=3)


def plot_spectrograms(
    rows: Sequence[Mapping[str, Any]], columns: int = 3, headline: str = ""
) -> Picture:
    """Clips of a corpus as spectrograms, with their attributes above and the spans that hold the evidence.

    A row has `mel` [mel, frame], `seconds`, `attributes` {name: value}, `spans` as in `query_to_time`, and if known a
    `transcript`.
    """
    lines: list[dict[str, Any]] = []
    for panel, row in enumerate(rows):
        values = list(row["attributes"].values())
        said = textwrap.shorten(str(row.get("transcript", "")), 48, placeholder=" …")
        caption = "\n".join(
            [" · ".join(values[:3]), " · ".join(values[3:]), *([f"“{said}”"] if said else [])]
        )
        lines += [
            {
                "part": "clip",
                "panel": panel,
                "name": caption,
                "start": 0.0,
                "end": float(row["seconds"]),
            }
        ]
        lines += [*matrix_rows("mel", panel, row["mel"], 1), *span_rows(panel, row["spans"])]
    return draw("spectrogram_sheet", pd.DataFrame(lines), headline, columns=columns)


@drawing("spectrogram_sheet")
def _spectrogram_sheet(picture: Picture, table: pd.DataFrame, columns: int) -> None:
    clips = table[table["part"] == "clip"]
    picture.set_size_inches(3.5 * columns, 2.3 * math.ceil(len(clips) / columns) + 0.4)
    grid = picture.subplots(
        math.ceil(len(clips) / columns), columns, sharex=True, sharey=True, squeeze=False
    )
    for axes in grid.flat[len(clips) :]:
        axes.set_axis_off()
    for axes, clip in zip(grid.flat, clips.itertuples(), strict=False):
        rows = table[table["panel"] == clip.panel]
        mel = matrix(rows, "mel")
        axes.imshow(
            mel, origin="lower", aspect="auto", cmap="Greys", extent=(0, clip.end, 0, len(mel))
        )
        for kind, place in (("speech", 1.10), ("scene", 1.28)):
            span_bars(axes, rows, kind, place * len(mel), 0.16 * len(mel))
        axes.xaxis.set_major_locator(
            matplotlib.ticker.MultipleLocator(1 if clips["end"].max() < 10 else 5)
        )
        axes.set(
            xlim=(0, clips["end"].max()),
            ylim=(0, 1.38 * len(mel)),
            yticks=(0, len(mel) // 2, len(mel)),
        )
        axes.set_title(clip.name, loc="left", fontsize=8, parse_math=False)
    picture.supxlabel("time (s)", fontsize=9)
    picture.supylabel("mel band", fontsize=9)


def _curve(axes: Axes, rows: pd.DataFrame, name: str) -> None:
    """One series over the steps with its interval; the oracle, which no step changes, as a level."""
    if rows.empty:
        return
    look, colour = get_series(name), get_colour(name)
    if name == "oracle":
        axes.axhline(rows["score"].mean(), color=colour, ls=look.line, lw=1.2, label=look.label)
        return
    strong: Any = (
        {"lw": 1.2, "ms": 3.5} if name in ("silence", "shuffled") else {"lw": 2.0, "ms": 4.5}
    )
    axes.fill_between(rows["step"], rows["low"], rows["high"], color=colour, alpha=0.18, lw=0)
    axes.plot(
        rows["step"],
        rows["score"],
        color=colour,
        ls=look.line,
        marker=look.marker,
        label=look.label,
        **strong,
    )


def _at(rows: pd.DataFrame, last: bool) -> pd.DataFrame:
    """The rows of the last step, or of step 0."""
    return rows[rows["step"] == (rows["step"].max() if last else 0)]
