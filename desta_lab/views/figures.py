"""Tidy tables → figures, saved with their data and provenance, and drawn again from the saved CSV.

Every public drawing function keeps what it drew as a table on the `Picture` it returns; `save` writes that table beside
the picture and `redraw` reads it back. The same colour, line and marker mean the same thing in every figure, and tell
things apart in grey too.
"""

import io
import json
import math
import platform
import textwrap
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import desta_lab
from desta_lab.evaluation.tasks import RUNGS
from desta_lab.views.card import plain, save_bytes, to_json

# Okabe and Ito's colours, which people with any colour vision tell apart, and a grey: one meaning each, everywhere
PALETTE = {
    "audio": "#0072B2",
    "self": "#0072B2",
    "label": "#E69F00",
    "label_others": "#E69F00",
    "label_own": "#E69F00",
    "soft": "#56B4E9",
    "template": "#009E73",
    "other": "#F0E442",
    "untrained": "#D55E00",
    "shuffled": "#CC79A7",
    "silence": "#7F7F7F",
    "oracle": "#000000",
    "text": "#000000",
}


class Look(NamedTuple):
    """How one series is named and drawn in every figure."""

    label: str
    line: Any
    marker: str


LOOKS = {
    "self": Look("self-generated targets, audio", "-", "o"),
    "soft": Look("soft targets, audio", "-", "v"),
    "label": Look("bare-label targets, audio", "-", "s"),
    "label_others": Look("bare label, other attributes", (0, (5, 2)), "s"),
    "label_own": Look("bare label, its own attribute", (0, (1, 1)), "D"),
    "template": Look("templated targets, audio", (0, (5, 1)), "P"),
    "other": Look("another LLM's targets, audio", (0, (3, 1, 1, 1)), "X"),
    "untrained": Look("untrained connector (step 0)", "none", "D"),
    "shuffled": Look("shuffled audio", "-.", "^"),
    "silence": Look("silence", ":", "x"),
    "oracle": Look("text oracle", "--", "*"),
}
MEASURES = {
    "calibrated": "calibrated ranking",
    "raw": "raw ranking",
    "free_form": "free-form match",
    "obeyed": "constraint obeyed",
}
_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "image.interpolation": "nearest",
    "svg.hashsalt": "desta_lab",  # the same bytes for the same table
}
_DPI = 150  # pixels per inch of the PNG
_LINE_CHARACTERS = 13  # characters of a bold headline per inch of figure


class Picture(Figure):
    """A figure that knows the table it was drawn from; a notebook shows it once, as a PNG."""

    kind: str = ""
    table: pd.DataFrame
    options: dict[str, Any]

    def _repr_png_(self) -> bytes:
        with matplotlib.rc_context(_STYLE):
            return _render(self, "png")


def save(
    figure: Figure,
    folder: Path | str,
    name: str,
    table: pd.DataFrame | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Save a figure as PNG and SVG with its table (CSV) and provenance (JSON); returns the path of the PNG.

    Without `table` it is the table of the picture. `provenance` is config hash, checkpoint hash, seeds, versions; how
    to draw the figure again and the versions of the drawing libraries are added. Each file is whole or not there.
    """
    table = table if table is not None else getattr(figure, "table", None)
    if table is None:
        raise ValueError(f"The figure {name!r} comes without a table; pass the one that it was drawn from.")
    given = dict(provenance or {})
    libraries = {package: version(package) for package in ("matplotlib", "numpy", "pandas", "seaborn")}
    ours = {"python": platform.python_version(), "desta_lab": desta_lab.__version__, **libraries}
    recipe = {"kind": getattr(figure, "kind", ""), "options": getattr(figure, "options", {})}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(_STYLE):
        files = {"png": _render(figure, "png"), "svg": _render(figure, "svg")}
    files["csv"] = table.to_csv(index=False, lineterminator="\n").encode()
    files["json"] = to_json({**given, "figure": recipe, "versions": {**ours, **given.get("versions", {})}})
    for suffix, content in files.items():
        save_bytes(folder / f"{name}.{suffix}", content)
    return folder / f"{name}.png"


def redraw(csv: Path | str) -> Picture:
    """Draw a saved figure again from its CSV and the JSON beside it."""
    path = Path(csv)
    recipe = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["figure"]
    if recipe["kind"] not in _DRAW:
        raise ValueError(f"{path} was drawn by other hands than {', '.join(_DRAW)}; draw it where it was made.")
    words = dict.fromkeys(("token", "name", "values"), str)  # never numbers, whatever they look like
    table = pd.read_csv(path, dtype=words, keep_default_na=False, na_values=[""])
    return _picture(recipe["kind"], table, recipe["options"])


# ---- what generalises ----


def emergence(
    rungs: pd.DataFrame, headline: str = "", measure: str = "calibrated", names: Mapping[int, str] = RUNGS
) -> Picture:
    """Emergence curves: how far above chance each rung stands at every checkpoint, beside its controls.

    `rungs` has a row per run × step × view × rung × measure: `score` (0 is chance, 1 is perfect) with `low` and `high`.
    The controls are those of the first run in the order of `LOOKS`; a rung without rows says so in its panel.
    """
    table = rungs.loc[rungs["measure"] == measure, ["run", "step", "view", "rung", "measure", "score", "low", "high"]]
    if table.empty:
        raise ValueError(f"No row with measure {measure!r}; the table has {sorted(rungs['measure'].unique())}.")
    return _picture("emergence", table, {"headline": headline, "names": {str(k): v for k, v in names.items()}})


def _emergence(picture: Picture, table: pd.DataFrame, headline: str, names: Mapping[str, str]) -> None:
    picture.set_size_inches(10, 5.8)
    grid = picture.subplots(2, math.ceil(len(names) / 2), sharex=True, sharey=True, squeeze=False)
    runs = _ordered(table["run"])
    last = max(1, int(table["step"].max()))
    for axes, (rung, name) in zip(grid.flat, names.items(), strict=False):
        rows = table[table["rung"] == int(rung)].sort_values("step")
        axes.set_title(f"Rung {rung}: {name}", loc="left")
        axes.axhline(0, color="#B0B0B0", lw=0.8, zorder=0, label="chance")
        if rows.empty:
            axes.text(
                0.5, 0.5, "no task that the oracle can do", ha="center", transform=axes.transAxes, color="#555555"
            )
        for view in ("silence", "shuffled", "oracle"):
            _curve(axes, rows[(rows["run"] == runs[0]) & (rows["view"] == view)], view)
        for run in reversed(runs):
            _curve(axes, rows[(rows["run"] == run) & (rows["view"] == "audio")], run)
        start = rows[(rows["run"] == runs[0]) & (rows["view"] == "audio") & (rows["step"] == 0)]
        if len(start):
            axes.plot([0], start["score"], label=LOOKS["untrained"].label, zorder=4, **_mark("untrained"))
    corner = grid[0, 0]
    corner.set_xscale("symlog", linthresh=1, linscale=0.5)
    decades = [10**power for power in range(1 + int(math.log10(last))) if 2 * 10**power <= last]
    corner.set_xticks([0, *decades, last], [str(tick) for tick in (0, *decades, last)], minor=False)
    corner.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    corner.set_xlim(-0.15, last * 1.15)
    corner.set_ylim(min(-0.3, table["low"].min() - 0.05), 1.08)
    measure = MEASURES.get(table["measure"].iloc[0], table["measure"].iloc[0])
    for axes in grid[-1]:
        axes.set_xlabel("training step")
    picture.supylabel(
        f"accuracy above chance, {measure}\n(0 is chance, 1 is perfect; bands: 95 % interval)", fontsize=9
    )
    _legend(picture, list(grid.flat), columns=4)
    _headline(picture, headline)


def held_out(summary: pd.DataFrame, headline: str = "", measure: str = "calibrated", rung: int = 3) -> Picture:
    """Which attributes rose above every control: accuracy of each task of a rung at the last step, with 95 % intervals.

    `summary` has a row per run × step × view × task × measure, with `accuracy`, `low`, `high`, `chance`, `oracle` and
    `counted`. A task that the oracle cannot do stays in the figure, and says so.
    """
    columns = ["run", "step", "view", "task", "rung", "attribute", "chance", "measure", "accuracy", "low", "high"]
    table = summary.loc[(summary["measure"] == measure) & (summary["rung"] == rung), [*columns, "oracle", "counted"]]
    if table.empty:
        raise ValueError(f"No row of rung {rung} with measure {measure!r}; evaluate it first or name another.")
    return _picture("held_out", table, {"headline": headline})


def _held_out(picture: Picture, table: pd.DataFrame, headline: str) -> None:
    runs = _ordered(table["run"])
    main = table[table["run"] == runs[0]]
    series = {run: _at(table[(table["run"] == run) & (table["view"] == "audio")], last=True) for run in runs}
    series["untrained"] = _at(main[main["view"] == "audio"], last=False)
    series |= {view: _at(main[main["view"] == view], last=True) for view in ("shuffled", "silence", "oracle")}
    tasks = series[runs[0]].sort_values("accuracy")
    if series["oracle"].empty:
        series["oracle"] = tasks.assign(accuracy=tasks["oracle"], low=math.nan, high=math.nan)
    series = {name: rows for name, rows in series.items() if len(rows)}
    single = tasks["attribute"].is_unique
    picture.set_size_inches(8, 1.6 + 0.62 * len(tasks))
    axes = picture.subplots()
    for i, task in enumerate(tasks.itertuples()):
        axes.plot([task.chance] * 2, [i - 0.42, i + 0.42], color="#707070", lw=1.2, ls=(0, (1, 1)), label="chance")
        if i % 2:
            axes.axhspan(i - 0.5, i + 0.5, color="#F3F3F3", zorder=0, lw=0)
    places = {task: i for i, task in enumerate(tasks["task"])}
    for place, (name, rows) in zip(np.linspace(0.34, -0.34, len(series)), series.items(), strict=True):
        y = rows["task"].map(places) + place
        reach = np.clip([rows["accuracy"] - rows["low"], rows["high"] - rows["accuracy"]], 0, None)
        bars = reach if np.isfinite(reach).all() else None
        axes.errorbar(rows["accuracy"], y, xerr=bars, elinewidth=1.5, label=_look(name).label, **_mark(name))
    names = [row.attribute if single else f"{row.attribute}: {row.task}" for row in tasks.itertuples()]
    notes = ["" if row.counted else "\n(the oracle cannot do it)" for row in tasks.itertuples()]
    axes.set_yticks(range(len(tasks)), [name + note for name, note in zip(names, notes, strict=True)], fontsize=10)
    axes.tick_params(axis="y", length=0)
    axes.set(xlim=(min(0, table["low"].min()), 1.02), ylim=(-0.5, len(tasks) - 0.5))
    axes.set_xlabel(f"accuracy, {MEASURES.get(table['measure'].iloc[0], '')} (bars: 95 % interval over speakers)")
    _legend(picture, [axes], columns=4)
    _headline(picture, headline)


# ---- what the connector does ----


def layer_mixture(weights: Float[np.ndarray, "query tap"], taps: Sequence[int], headline: str = "") -> Picture:
    """Where each query token reads: its softmaxed share of every tapped layer."""
    if not np.allclose(weights.sum(axis=1), 1, atol=1e-3):
        raise ValueError(f"A row sums to {weights.sum(axis=1).max():.3g}, not 1; take the softmax over the taps first.")
    grid = [(q, layer, float(w)) for q, row in enumerate(weights) for layer, w in zip(taps, row, strict=True)]
    return _picture("layer_mixture", pd.DataFrame(grid, columns=["query", "layer", "share"]), {"headline": headline})


def _layer_mixture(picture: Picture, table: pd.DataFrame, headline: str) -> None:
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
    _headline(picture, headline)


def query_to_time(
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
    named = [*map(_span, spans), *((f"word:{name}", start, end) for name, start, end in map(_span, words))]
    rows = [*_rows("mel", 0, mel, 2), *_rows("attention", 0, attention * attention.shape[1], 4), *_span_rows(0, named)]
    return _picture("query_to_time", pd.DataFrame(rows), {"seconds": float(seconds), "headline": headline})


def _query_to_time(picture: Picture, table: pd.DataFrame, seconds: float, headline: str) -> None:
    attention = _matrix(table, "attention")
    picture.set_size_inches(9, 4.2 + 0.06 * len(attention))
    bars, top, below = picture.subplots(3, 1, sharex=True, height_ratios=[0.9, 2, 1 + 0.08 * len(attention)])
    for place, kind in ((0.0, "word"), (1.0, "scene"), (2.0, "speech")):
        _bars(bars, table, kind, place, 0.8)
    bars.set(ylim=(-0.5, 2.5), xlim=(0, seconds))
    bars.set_yticks(range(3), ["words", "scene", "speech"])
    bars.tick_params(length=0)
    bars.spines[:].set_visible(False)
    mel = _matrix(table, "mel")
    top.imshow(mel, origin="lower", aspect="auto", cmap="Greys", extent=(0, seconds, 0, len(mel)))
    top.set_ylabel("mel band")
    extent = (0, seconds, len(attention) - 0.5, -0.5)
    image = below.imshow(attention, aspect="auto", cmap="mako_r", vmin=0, extent=extent)
    below.set(ylabel="query token", xlabel="time (s)")
    below.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(8, integer=True))
    picture.colorbar(image, ax=below, label="attention\n(1: spread evenly)", pad=0.01)
    _headline(picture, headline)


def token_evidence(
    tokens: Sequence[str], nats: Sequence[float] | Float[np.ndarray, "token"], headline: str = ""
) -> Picture:
    """Which words of a target carry the audio: how much the description changes the prediction of each token (KL)."""
    shown = [token.strip().replace("\n", "⏎") or ("⏎" if "\n" in token else "␣") for token in tokens]
    table = pd.DataFrame([(a, float(b)) for a, b in zip(shown, nats, strict=True)], columns=["token", "nats"])
    return _picture("token_evidence", table, {"headline": headline})


def _token_evidence(picture: Picture, table: pd.DataFrame, headline: str, width: int = 32) -> None:
    lines = [table.iloc[start : start + width] for start in range(0, len(table), width)]
    picture.set_size_inches(1.2 + 0.28 * min(width, max(12, len(table))), 0.4 + 1.9 * len(lines))
    grid = picture.subplots(len(lines), 1, sharey=True, squeeze=False)
    for axes, rows in zip(grid.flat, lines, strict=True):
        axes.bar(range(len(rows)), rows["nats"], color=PALETTE["audio"], width=0.75)
        axes.set_xticks(
            range(len(rows)), rows["token"], rotation=60, ha="right", rotation_mode="anchor", parse_math=False
        )
        axes.set_xlim(-0.6, min(width, max(12, len(table))) - 0.4)
        axes.tick_params(axis="x", length=0)
    picture.supylabel("evidence from the audio (KL, nats)", fontsize=9)
    _headline(picture, headline)


# ---- what it learns from ----


def coverage(table: pd.DataFrame, headline: str = "") -> Picture:
    """What a target drops it cannot teach: the share of targets that name each attribute rightly, per target kind.

    `table` has `kind`, `attribute`, `share` and, where it is known, `perplexity` of the kind under the backbone.
    """
    columns = [name for name in ("kind", "attribute", "share", "perplexity") if name in table]
    return _picture("coverage", table[columns], {"headline": headline})


def _coverage(picture: Picture, table: pd.DataFrame, headline: str) -> None:
    kinds = _ordered(table["kind"])
    picture.set_size_inches(1.6 + table["attribute"].nunique() * (0.5 + 0.2 * len(kinds)), 3.2)
    axes = picture.subplots()
    colours = {kind: _colour(kind) for kind in kinds}
    bars = {"edgecolor": "#222222", "linewidth": 0.6, "saturation": 1, "legend": False}
    sns.barplot(table, x="attribute", y="share", hue="kind", hue_order=kinds, palette=colours, ax=axes, **bars)
    for kind, container, hatch in zip(kinds, axes.containers, ("", "//", "..", "xx", "\\\\", "++"), strict=False):
        perplexity = table.loc[table["kind"] == kind, "perplexity"].mean() if "perplexity" in table else math.nan
        container.set_label(kind if math.isnan(perplexity) else f"{kind} (perplexity {perplexity:.3g})")
        for patch in container:
            patch.set_hatch(hatch)
    axes.set(ylim=(0, 1.02), xlabel="attribute", ylabel="share of targets that\nname it rightly")
    _legend(picture, [axes], columns=3)
    _headline(picture, headline)


def spectrogram_sheet(rows: Sequence[Mapping[str, Any]], columns: int = 3, headline: str = "") -> Picture:
    """Clips of a corpus as spectrograms, with their attributes above and the spans that hold the evidence.

    A row has `mel` [mel, frame], `seconds`, `attributes` {name: value}, `spans` as in `query_to_time`, and if known a
    `transcript`.
    """
    lines: list[dict[str, Any]] = []
    for panel, row in enumerate(rows):
        values = list(row["attributes"].values())
        said = textwrap.shorten(str(row.get("transcript", "")), 48, placeholder=" …")
        caption = "\n".join([" · ".join(values[:3]), " · ".join(values[3:]), *([f"“{said}”"] if said else [])])
        lines += [{"part": "clip", "panel": panel, "name": caption, "start": 0.0, "end": float(row["seconds"])}]
        lines += [*_rows("mel", panel, row["mel"], 1), *_span_rows(panel, map(_span, row["spans"]))]
    return _picture("spectrogram_sheet", pd.DataFrame(lines), {"columns": columns, "headline": headline})


def _spectrogram_sheet(picture: Picture, table: pd.DataFrame, columns: int, headline: str) -> None:
    clips = table[table["part"] == "clip"]
    picture.set_size_inches(3.5 * columns, 2.3 * math.ceil(len(clips) / columns) + 0.4)
    grid = picture.subplots(math.ceil(len(clips) / columns), columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(clips) :]:
        axes.set_axis_off()
    for axes, clip in zip(grid.flat, clips.itertuples(), strict=False):
        rows = table[table["panel"] == clip.panel]
        mel = _matrix(rows, "mel")
        axes.imshow(mel, origin="lower", aspect="auto", cmap="Greys", extent=(0, clip.end, 0, len(mel)))
        for kind, place in (("speech", 1.10), ("scene", 1.28)):
            _bars(axes, rows, kind, place * len(mel), 0.16 * len(mel))
        axes.xaxis.set_major_locator(matplotlib.ticker.MultipleLocator(1 if clips["end"].max() < 10 else 5))
        axes.set(xlim=(0, clips["end"].max()), ylim=(0, 1.38 * len(mel)), yticks=(0, len(mel) // 2, len(mel)))
        axes.set_title(clip.name, loc="left", fontsize=8, parse_math=False)
    picture.supxlabel("time (s)", fontsize=9)
    picture.supylabel("mel band", fontsize=9)
    _headline(picture, headline)


# ---- shared ----

_DRAW: dict[str, Callable[..., None]] = {
    "emergence": _emergence,
    "held_out": _held_out,
    "layer_mixture": _layer_mixture,
    "query_to_time": _query_to_time,
    "token_evidence": _token_evidence,
    "coverage": _coverage,
    "spectrogram_sheet": _spectrogram_sheet,
}


def _picture(kind: str, table: pd.DataFrame, options: dict[str, Any]) -> Picture:
    with matplotlib.rc_context(_STYLE):
        picture = Picture(layout="constrained")
        FigureCanvasAgg(picture)
        picture.kind, picture.table, picture.options = kind, table.reset_index(drop=True), plain(options)
        _DRAW[kind](picture, picture.table, **picture.options)
    return picture


def _render(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=_DPI, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


def _headline(picture: Picture, headline: str) -> None:
    if headline:
        lines = textwrap.fill(headline, int(_LINE_CHARACTERS * picture.get_figwidth() * 0.8))
        picture.suptitle(lines, x=0.01, ha="left", fontsize=11, fontweight="bold", parse_math=False)


def _legend(picture: Picture, grid: Sequence[Axes], columns: int) -> None:
    """One legend below the panels, each series once, in the order of `LOOKS`."""
    found: dict[str, Any] = {}
    for axes in grid:
        handles, labels = axes.get_legend_handles_labels()
        found = dict(zip(labels, handles, strict=True)) | found
    order = [look.label for look in LOOKS.values()]
    labels = sorted(found, key=lambda label: order.index(label) if label in order else len(order))
    picture.legend([found[label] for label in labels], labels, loc="outside lower center", ncols=columns)


def _ordered(names: pd.Series) -> list[str]:
    """Each name once, in the order of `LOOKS`, strangers last."""
    return [name for name in (*LOOKS, *sorted(set(names) - set(LOOKS))) if name in set(names)]


def _look(name: str) -> Look:
    return LOOKS.get(name, Look(name, (0, (1, 1)), "h"))


def _colour(name: str) -> str:
    return PALETTE.get(name, "#555555")


def _mark(name: str) -> dict[str, Any]:
    """How one point is drawn, without a line."""
    edge = {} if _look(name).marker == "x" else {"mec": "white", "mew": 0.5}
    return {
        "marker": _look(name).marker,
        "color": _colour(name),
        "ls": "none",
        "ms": 8 if name == "oracle" else 6,
        **edge,
    }


def _curve(axes: Axes, rows: pd.DataFrame, name: str) -> None:
    """One series over the steps with its interval; the oracle, which no step changes, as a level."""
    if rows.empty:
        return
    look, colour = _look(name), _colour(name)
    if name == "oracle":
        axes.axhline(rows["score"].mean(), color=colour, ls=look.line, lw=1.2, label=look.label)
        return
    strong: Any = {"lw": 1.2, "ms": 3.5} if name in ("silence", "shuffled") else {"lw": 2.0, "ms": 4.5}
    axes.fill_between(rows["step"], rows["low"], rows["high"], color=colour, alpha=0.18, lw=0)
    axes.plot(rows["step"], rows["score"], color=colour, ls=look.line, marker=look.marker, label=look.label, **strong)


def _at(rows: pd.DataFrame, last: bool) -> pd.DataFrame:
    """The rows of the last step, or of step 0."""
    return rows[rows["step"] == (rows["step"].max() if last else 0)]


def _span(span: Any) -> tuple[str, float, float]:
    name, start, end = (span.name, span.start, span.end) if hasattr(span, "name") else span
    return str(name), float(start), float(end)


def _span_rows(panel: int, spans: Any) -> list[dict[str, Any]]:
    return [{"part": "span", "panel": panel, "name": name, "start": start, "end": end} for name, start, end in spans]


def _rows(part: str, panel: int, matrix: np.ndarray, digits: int) -> list[dict[str, Any]]:
    """A matrix as table rows, one a line, its numbers in one cell: a CSV of readable size."""
    lines = [" ".join(f"{value:.{digits}f}" for value in line) for line in np.asarray(matrix, dtype=float)]
    return [{"part": part, "panel": panel, "row": i, "values": line} for i, line in enumerate(lines)]


def _matrix(table: pd.DataFrame, part: str) -> np.ndarray:
    return np.array([[float(value) for value in line.split()] for line in table.loc[table["part"] == part, "values"]])


def _bars(axes: Axes, table: pd.DataFrame, kind: str, place: float, height: float) -> None:
    """The spans of one kind as labelled bars at one height."""
    fill, ink = {"speech": ("#4D4D4D", "white"), "scene": ("#C9C9C9", "black")}.get(kind, ("white", "black"))
    for span in table[table["part"] == "span"].itertuples():
        sort, _, value = span.name.partition(":")
        if sort != kind:
            continue
        width = span.end - span.start
        axes.barh(place, width, height, left=span.start, color=fill, edgecolor="#4D4D4D", lw=0.6)
        middle = span.start + width / 2
        axes.text(middle, place, value or sort, color=ink, ha="center", va="center", fontsize=7, parse_math=False)
