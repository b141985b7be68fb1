"""Figures of why the model answers as it does: where it looks, what the answer is made of."""

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.ticker import FuncFormatter

from desta_lab.views import style
from desta_lab.views.saving import Picture
from desta_lab.views.style import ANALYSIS_SERIES, SPEAKER_INTERVAL, draws

_MEASURES = {  # of how well a method finds the evidence
    "pointing": "share of clips whose\npeak lies in the evidence",
    "iou": "overlap over union\nwith the evidence",
    "mass": "share of the profile\ninside the evidence",
}
_HEADS = {
    "share": "attention on the audio slots\n(share)",
    "pointing": "peak in the evidence\n(share of clips)",
}
_DRAWS = f"{SPEAKER_INTERVAL}; of what is random, the range of its draws"
_MOVED = {"deletion": "taken away (should fall early)", "insertion": "put back (should rise early)"}
_ERASED = {
    "erased": "the attribute erased",
    "random direction": "as many directions of random labels erased",
}

# ---- where it looks, and whether that is why ----


@draws("layer head share pointing null_low null_high")
def plot_answer_attention(table: pd.DataFrame, headline: str = "") -> Picture:
    """Which heads of the backbone look at the audio as the answer begins, and at the evidence.

    `share` is the attention on the audio slots, `pointing` the share of clips that peak in the
    evidence; heads of random weights over the query tokens lie between `null_low` and `null_high`.
    """
    layers, heads = sorted(table["layer"].unique()), sorted(table["head"].unique())
    size = (max(8, 2.4 + 0.5 * len(heads)), max(2.8, 1.5 + 0.14 * len(layers)))
    picture, grid = style.subplots(1, 2, headline, size, table, sharey=True)
    tops = {"share": max(1e-3, np.nan_to_num(table["share"].max())), "pointing": 1.0}
    for axes, (name, label) in zip(grid, _HEADS.items(), strict=True):
        wide = style.pivot(table, name, ("layer", layers), ("head", heads))
        low, high = (table[end].iloc[0] for end in ("null_low", "null_high"))
        alike = ((wide >= low) & (wide <= high)).to_numpy() & (name == "pointing")
        image = style.draw_heat_map(axes, wide, tops[name], alike, "as heads with random weights")
        for axis, numbers in ((axes.xaxis, heads), (axes.yaxis, layers)):
            few = style.pick_evenly(range(len(numbers)), 10)
            axis.set_ticks(few, [str(numbers[i]) for i in few])
        axes.set_xlabel("head")
        if table[name].isna().all():
            style.annotate(axes, "not measured")
        picture.colorbar(image, ax=axes, label=label)
    grid[0].set_ylabel("backbone layer\n(0 is the first)")
    style.add_legend(picture, picture.axes, columns=3)
    return picture


@draws("method attribute null measure value low high gain gain_low gain_high")
def plot_evidence(table: pd.DataFrame, headline: str = "", measure: str = "pointing") -> Picture:
    """Attention is not explanation: how well each method finds the evidence, against two nulls.

    A `measure` is `pointing`, `iou` or `mass`, and a `null` is `own` (none), `shuffled` or
    `uniform`. Rows of `own` have a `gain`, the difference from `shuffled` paired clip by clip: a
    method finds the evidence if it is above 0.
    """
    table = style.select_measure(table, measure)
    methods, attributes = (style.unique_values(table[name]) for name in ("method", "attribute"))
    size = (9.0, 1.2 + (0.7 + 0.3 * len(methods)) * len(attributes))
    share = {"squeeze": False, "sharey": True, "sharex": "col"}
    picture, grid = style.subplots(len(attributes), 2, headline, size, table, **share)
    for (left, right), attribute in zip(grid, attributes, strict=True):
        rows = table[table["attribute"] == attribute]
        for null, shift in (("uniform", 0.28), ("shuffled", 0.05), ("own", -0.18)):
            some = rows[rows["null"] == null]
            at = some["method"].map(methods.index) + shift
            style.draw_dots(left, some, "value", at, ANALYSIS_SERIES[null])
        own = rows[rows["null"] == "own"].drop(columns=["value", "low", "high"])
        gains = own.rename(columns={"gain_low": "low", "gain_high": "high"})
        series = ANALYSIS_SERIES["own"]._replace(label="")
        style.draw_dots(right, gains, "gain", gains["method"].map(methods.index), series)
        right.axvline(0, **style.ZERO)
        absent = [name for name in methods if name not in set(rows["method"])]
        style.name_rows(left, methods, absent)
        left.set_xlim(-0.02, 1.02)
        left.set_title(str(attribute), loc="left")
    grid[-1, 0].set_xlabel(_MEASURES.get(measure, measure))
    grid[-1, 1].set_xlabel("gain over another clip's evidence\n(paired clip by clip)")
    picture.supylabel("method", fontsize=9)
    style.add_legend(picture, list(grid[:, 0]), 3, SPEAKER_INTERVAL)
    return picture


@draws("curve order share margin low high gain gain_low gain_high")
def plot_deletion(table: pd.DataFrame, headline: str = "") -> Picture:
    """Is the attribution faithful? The answer's margin while audio is taken away, or put back.

    A `curve` is `deletion` or `insertion`, an `order` `attribution` or `random`; the margin is in
    nats. Rows of `attribution` have a `gain`: how far their curve lies on the right side of the
    random orders' mean, paired clip by clip.
    """
    picture, grid = style.subplots(1, 2, headline, (8.5, 3.4), table, sharey=True)
    for axes, (curve, how) in zip(grid, _MOVED.items(), strict=True):
        rows = table[table["curve"] == curve]
        for order in ("random", "attribution"):
            some = rows[rows["order"] == order]
            style.draw_line(axes, some, "share", "margin", ANALYSIS_SERIES[order])
        if rows.empty:
            style.annotate(axes, "not measured")
        axes.axhline(0, **style.ZERO)
        title = f"{curve}: {how}"
        for own in rows.dropna(subset="gain").head(1).itertuples():
            ends = f"[{own.gain_low:.2f}, {own.gain_high:.2f}]"
            title += f"\ngain over random orders {own.gain:.2f} nats {ends}"
        axes.set_title(title, loc="left")
        axes.set(xlabel="share of the audio moved", xlim=(-0.03, 1.03))
    grid[0].set_ylabel("margin of the right answer (nats)")
    style.add_legend(picture, picture.axes, 3, SPEAKER_INTERVAL)
    return picture


# ---- what the answer is made of ----


@draws("attribute layer condition accuracy low high chance margin")
def plot_logit_lens(table: pd.DataFrame, headline: str = "") -> Picture:
    """At which layer of the backbone the answer is there: accuracy of reading out the option.

    A `condition` is `audio`, `tuned lens`, `oracle`, `shuffled` or `untrained`.
    """
    label = "backbone layer (0 is the first)"
    picture, panels = style.facets(table, "attribute", headline, (2.9, 2.2), label)
    looks = ANALYSIS_SERIES | {
        "shuffled": ANALYSIS_SERIES["shuffled"]._replace(label="shuffled audio")
    }
    for axes, rows in panels:
        for condition in ("oracle", "shuffled", "untrained", "tuned lens", "audio"):
            some = rows[rows["condition"] == condition]
            style.draw_line(axes, some, "layer", "accuracy", looks[condition])
        style.draw_chance(axes.axhline, rows)
        axes.set_ylim(-0.02, 1.05)
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(6, integer=True))
    picture.supylabel("accuracy at the answer position", fontsize=9)
    style.add_legend(picture, picture.axes, 3, SPEAKER_INTERVAL)
    return picture


@draws("attribute query moved low high same p word")
def plot_patching(table: pd.DataFrame, headline: str = "") -> Picture:
    """Which query carries what: how the answer moves when one query comes from another clip.

    Query −1, all of them, is not drawn. `same` is what moves between clips of the same value, `p`
    of no difference between the two, and `word` what the query was initialised with.
    """
    table = table.assign(word=table["word"].map(lambda word: style.printable(word or None)))
    single = table[table["query"] >= 0]
    names, queries = style.unique_values(single["attribute"]), sorted(single["query"].unique())
    few = len(queries) <= 24  # few enough to write every number into its cell
    size = (max(6.5, 2.6 + (0.34 if few else 0.19) * len(queries)), 2.2 + 0.36 * len(names))
    picture, axes = style.subplots(1, 1, headline, size, table)
    wide, p = (
        style.pivot(single, name, ("attribute", names), ("query", queries))
        for name in ("moved", "p")
    )
    top = max(0.05, np.nan_to_num(single["moved"].max()))
    texts = wide.map("{:z.2f}".format) if few else None
    faint = ~(p < 0.05).to_numpy()
    reason = "not shown beyond clips of the same value (p ≥ .05, corrected for the queries)"
    image = style.draw_heat_map(axes, wide, top, faint, reason, texts)
    words = single.groupby("query")["word"].first()
    labels = [f"{words.get(query, '')}  {query}" for query in queries]
    axes.set_xticks(range(len(queries)), labels, rotation=90)
    axes.set(xlabel="query token, and the word it was born as", ylabel="attribute asked for")
    picture.colorbar(image, ax=axes, label="share of the answer's\ndifference that moves")
    style.add_legend(picture, [axes], columns=3)
    return picture


@draws("erased asked kind accuracy low high chance change change_low change_high")
def plot_erasure(table: pd.DataFrame, headline: str = "") -> Picture:
    """What is used: how accuracy changes when an attribute or random labels are erased.

    A `kind` is `erased`, `random direction` (of random labels) or `untouched`; the change is
    paired. Rows and columns are in one order, so an attribute asked and erased is on the diagonal.
    """
    untouched = table[table["kind"] == "untouched"]
    if untouched.empty:
        raise ValueError(
            "No row of kind 'untouched', from where a change is measured; evaluate it."
        )
    start = untouched.groupby("asked")[["accuracy", "chance"]].mean()
    changed = _measure_fall(table)
    down = style.unique_values(changed["erased"])
    across = style.sort_values(changed["asked"], down)
    top = max(0.1, np.nan_to_num(changed["fall"].max()))
    size = (2.4 + 2 * max(2.6, 0.66 * len(across)), 2.4 + 0.4 * len(down))
    picture, grid = style.subplots(1, 2, headline, size, table, sharey=True)
    labels = [
        f"{name}  {accuracy:.2f} ({chance:.2f})"
        for name, accuracy, chance in start.reindex(across).itertuples()
    ]
    for axes, (kind, title) in zip(grid, _ERASED.items(), strict=True):
        image = _draw_fall(axes, changed[changed["kind"] == kind], down, across, top)
        axes.set_title(title, loc="left")
        axes.set_xticks(range(len(labels)), labels, rotation=90)
        axes.set_xlabel("asked for, with its\naccuracy untouched (chance)")
    grid[0].set_ylabel("erased")
    change = FuncFormatter(lambda fall, _: _write_change(-fall))
    picture.colorbar(image, ax=picture.axes, label="change of accuracy", format=change)
    style.add_legend(picture, picture.axes, columns=2)
    return picture


def _measure_fall(table: pd.DataFrame) -> pd.DataFrame:
    """The changed rows, with the `fall`, and whether it may be nothing or a random direction's."""
    table = table[table["kind"] != "untouched"]
    random = table[table["kind"] == "random direction"].set_index(["erased", "asked"])
    pairs = zip(table["erased"], table["asked"], strict=True)
    floor = [random["change_low"].get(pair, 0.0) for pair in pairs]
    holds_zero = (table["change_low"] <= 0) & (table["change_high"] >= 0)
    as_random = (table["kind"] == "erased") & (table["change"] >= floor)
    return table.assign(fall=-table["change"], within=holds_zero | as_random)


def _draw_fall(
    axes: Axes, rows: pd.DataFrame, down: list[str], across: list[str], top: float
) -> AxesImage:
    fall, within = (
        style.pivot(rows, name, ("erased", down), ("asked", across)) for name in ("fall", "within")
    )
    if rows.empty:
        style.annotate(axes, "not measured")
    texts = (0 - fall).map(_write_change)
    faint, reason = within.eq(True).to_numpy(), "no change, or as with random labels"
    return style.draw_heat_map(axes, fall, top, faint, reason, texts)


def _write_change(change: float) -> str:
    return f"{0.0 + round(change, 2):+.2f}".replace("-", "−")


@draws(
    "site attribute value purity null explained features pure "
    "change low high random random_low random_high p"
)
def plot_features(table: pd.DataFrame, headline: str = "") -> Picture:
    """What the purest sparse feature of each attribute stands for, and whether answers follow it.

    `purity` is an AUC, `null` what the purest of all features stays below under shuffled labels;
    `features` are those of the site, `pure` those of the attribute; `change` is of the share
    answered with the value when the feature is added. One that was not added is not drawn.
    """
    table = table.dropna(subset="change")
    sites, names = (style.unique_values(table[name]) for name in ("site", "attribute"))
    size = (9.0, 1.3 + len(sites) * (0.7 + 0.3 * len(names)))
    share = {"squeeze": False, "sharex": "col"}
    picture, grid = style.subplots(len(sites), 2, headline, size, table, **share)
    for (left, right), site in zip(grid, sites, strict=True):
        some = table[table["site"] == site].iloc[::-1]
        at = pd.Series(np.arange(len(some)) * 1.0, some.index)
        for name, series in (("null", "purity null"), ("purity", "purity")):
            ends = some.assign(low=some[name], high=some[name])
            style.draw_dots(left, ends, name, at, ANALYSIS_SERIES[series])
        by_chance = some.assign(low=some["random_low"], high=some["random_high"])
        style.draw_dots(right, by_chance, "random", at + 0.18, ANALYSIS_SERIES["random directions"])
        style.draw_dots(right, some, "change", at - 0.12, ANALYSIS_SERIES["feature"])
        right.axvline(0, **style.ZERO)
        values = some["value"].where(~some["value"].str.contains(" / "), "differs")  # by seed
        rows = zip(some["attribute"], values, some["pure"], strict=True)
        style.name_rows(left, [f"{name}: {value} (of {pure:.0f})" for name, value, pure in rows])
        style.name_rows(right, [""] * len(some))
        count, explained = some[["features", "explained"]].iloc[0]
        title = f"{site}: {count:.0f} features, {explained:.0%} of the variance on unseen speakers"
        left.set_title(title, loc="left")
        left.set_xlim(0.48, 1.02)
    grid[-1, 0].set_xlabel("purity (AUC of its largest activation in a clip)")
    grid[-1, 1].set_xlabel(
        "change of the share answered with its value\nwhen it is added to others"
    )
    picture.supylabel("attribute: value (of so many pure features)", fontsize=9)
    style.add_legend(picture, list(grid.flat), 2, _DRAWS)
    return picture


@draws("asked kind accuracy low high chance knocked", "asked kind accuracy low high chance factor")
def plot_listening(heads: pd.DataFrame, direction: pd.DataFrame, headline: str = "") -> Picture:
    """Do the heads that look at the audio carry the answer, and does a louder audio help it?

    What was asked for `all` tasks is drawn: without so many heads (`knocked`), and with a direction
    added so many times (`factor`).
    """
    tables = {"knocked": heads, "factor": direction}
    parts = [table.assign(part=along) for along, table in tables.items()]
    table = pd.concat(parts).query("asked == 'all'")
    picture, panels = style.subplots(1, 2, headline, (9.0, 4.6), table, sharey=True)
    for axes, along in zip(panels, tables, strict=True):
        rows = table[table["part"] == along]
        for kind in style.unique_values(rows["kind"]):
            some = rows[rows["kind"] == kind]
            if kind == "calibrated":
                look = {"color": "black", "ls": "--", "lw": 1.2, "label": "calibrated answers"}
                axes.axhline(some["accuracy"].iloc[0], zorder=0, **look)
            else:
                style.draw_line(axes, some, along, "accuracy", ANALYSIS_SERIES[kind])
        style.draw_chance(axes.axhline, rows, "chance")
    left, right = panels
    left.set_title("calibrated answers without some heads", loc="left")
    left.set(xlabel="heads of the backbone knocked out", ylabel="accuracy, mean over the tasks")
    right.set_title("uncalibrated answers, a direction added", loc="left")
    right.set(xlabel="added so many times at the last layer")
    right.set_xscale("symlog", linthresh=0.25, linscale=0.5)
    for axes, along in zip(panels, tables, strict=True):
        places = sorted(table[along].dropna().unique())
        axes.set_xticks(places, [f"{place:g}" for place in places])
    right.minorticks_off()
    right.set_xlim(-0.05, None)
    left.set_ylim(0, 1.02)
    style.add_legend(picture, picture.axes, 3, _DRAWS)
    return picture
