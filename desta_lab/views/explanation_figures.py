"""Figures of why the model answers as it does: where it looks, what the answer is made of."""

import math

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from desta_lab.views import style
from desta_lab.views.saving import Picture, styled
from desta_lab.views.style import ANALYSIS_SERIES, SPEAKER_INTERVAL

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

# ---- where it looks, and whether that is why ----


@styled
def plot_answer_attention(table: pd.DataFrame, headline: str = "") -> Picture:
    """Which heads of the backbone look at the audio as the answer begins, and at the evidence.

    Columns: layer, head, share (attention on the audio slots), pointing (share of clips that peak
    in the evidence), and null_low and null_high, between which heads of random weights over the
    query tokens lie.
    """
    table = style.select_columns(table, "layer head share pointing null_low null_high")
    layers, heads = sorted(table["layer"].unique()), sorted(table["head"].unique())
    size = (max(8, 2.4 + 0.5 * len(heads)), max(2.8, 1.5 + 0.14 * len(layers)))
    picture = Picture(table, headline, size)
    tops = {"share": max(1e-3, np.nan_to_num(table["share"].max())), "pointing": 1.0}
    for axes, (name, label) in zip(
        picture.subplots(1, 2, sharey=True), _HEADS.items(), strict=True
    ):
        wide = style.pivot(table, name, ("layer", layers), ("head", heads))
        low, high = (table[end].iloc[0] for end in ("null_low", "null_high"))
        alike = ((wide >= low) & (wide <= high)).to_numpy() & (name == "pointing")
        image = style.draw_heat_map(axes, wide, tops[name], alike, "as heads with random weights")
        for axis, numbers in ((axes.xaxis, heads), (axes.yaxis, layers)):
            few = style.pick_evenly(range(len(numbers)), 10)
            axis.set_ticks(few, [str(numbers[i]) for i in few])
        axes.set(
            xlabel="head", ylabel="backbone layer\n(0 is the first)" if name == "share" else ""
        )
        if table[name].isna().all():
            style.annotate(axes, "not measured")
        picture.colorbar(image, ax=axes, label=label)
    style.add_legend(picture, picture.axes, columns=3)
    return picture


@styled
def plot_evidence(summary: pd.DataFrame, headline: str = "", measure: str = "pointing") -> Picture:
    """Attention is not explanation: how well each method finds the evidence, against two nulls.

    Columns: method, attribute, null (`own`, `shuffled`, `uniform`), measure (`pointing`, `iou`,
    `mass`), value, low and high; of `own` rows also gain, gain_low and gain_high, the difference
    from `shuffled` paired clip by clip. A method finds the evidence if its gain is above 0.
    """
    rows = style.select_measure(summary, measure)
    columns = "method attribute null measure value low high gain gain_low gain_high"
    table = style.select_columns(rows, columns)
    methods, attributes = (style.unique_values(table[name]) for name in ("method", "attribute"))
    size = (9.0, 1.2 + (0.7 + 0.3 * len(methods)) * len(attributes))
    picture = Picture(table, headline, size)
    grid = picture.subplots(len(attributes), 2, squeeze=False, sharey=True, sharex="col")
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


@styled
def plot_deletion(curves: pd.DataFrame, headline: str = "") -> Picture:
    """Is the attribution faithful? The answer's margin while audio is taken away, or put back.

    Columns: curve (`deletion`, `insertion`), order (`attribution`, `random`), share, margin (nats),
    low and high; and, of the attribution, gain, gain_low and gain_high: how far its curve lies on
    the right side of the random orders' mean, paired clip by clip.
    """
    columns = "curve order share margin low high gain gain_low gain_high"
    table = style.select_columns(curves, columns)
    picture = Picture(table, headline, (8.5, 3.4))
    for axes, (curve, how) in zip(picture.subplots(1, 2, sharey=True), _MOVED.items(), strict=True):
        rows = table[table["curve"] == curve]
        for order in ("random", "attribution"):
            some = rows[rows["order"] == order]
            style.draw_line(axes, some, "share", "margin", ANALYSIS_SERIES[order])
        if rows.empty:
            style.annotate(axes, "not measured")
        axes.axhline(0, **style.ZERO)
        axes.set_title(f"{curve}: {how}{_gain_in_words(rows)}", loc="left")
        axes.set(xlabel="share of the audio moved", xlim=(-0.03, 1.03))
    picture.axes[0].set_ylabel("margin of the right answer (nats)")
    style.add_legend(picture, picture.axes, 3, SPEAKER_INTERVAL)
    return picture


def _gain_in_words(rows: pd.DataFrame) -> str:
    """What the attribution gains over random orders, as a line of a title."""
    own = rows.dropna(subset="gain")
    if own.empty:
        return ""
    gain, low, high = (own[name].iloc[0] for name in ("gain", "gain_low", "gain_high"))
    return f"\ngain over random orders {gain:.2f} nats [{low:.2f}, {high:.2f}]"


# ---- what the answer is made of ----


@styled
def plot_logit_lens(lens: pd.DataFrame, headline: str = "") -> Picture:
    """At which layer of the backbone the answer is there: accuracy of reading out the option.

    Columns: attribute, layer, condition (`audio`, `tuned lens`, `oracle`, `shuffled`, `untrained`),
    accuracy, low, high, chance, margin.
    """
    columns = "attribute layer condition accuracy low high chance margin"
    table = style.select_columns(lens, columns)
    label = "backbone layer (0 is the first)"
    picture, panels = style.facets(table, "attribute", headline, (2.9, 2.2), label)
    shuffled = ANALYSIS_SERIES["shuffled"]._replace(label="shuffled audio")
    for axes, rows in panels:
        for condition in ("oracle", "shuffled", "untrained", "tuned lens", "audio"):
            some = rows[rows["condition"] == condition]
            series = shuffled if condition == "shuffled" else ANALYSIS_SERIES[condition]
            style.draw_line(axes, some, "layer", "accuracy", series)
        style.draw_chance(axes.axhline, rows)
        axes.set_ylim(-0.02, 1.05)
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(6, integer=True))
    picture.supylabel("accuracy at the answer position", fontsize=9)
    style.add_legend(picture, picture.axes, 3, SPEAKER_INTERVAL)
    return picture


@styled
def plot_patching(patch: pd.DataFrame, headline: str = "") -> Picture:
    """Which query carries what: how the answer moves when one query comes from another clip.

    Columns: attribute, query (−1, all of them, is not drawn), moved, low, high, same (moved between
    clips of the same value), p of no difference between the two, and word, which the query was
    initialised with.
    """
    table = style.select_columns(patch, "attribute query moved low high same p word")
    table = table.assign(word=table["word"].map(lambda word: style.printable(word or None)))
    single = table[table["query"] >= 0]
    names, queries = style.unique_values(single["attribute"]), sorted(single["query"].unique())
    few = len(queries) <= 24  # few enough to write every number into its cell
    width = max(6.5, 2.6 + (0.34 if few else 0.19) * len(queries))
    picture = Picture(table, headline, (width, 2.2 + 0.36 * len(names)))
    axes = picture.subplots()
    wide = style.pivot(single, "moved", ("attribute", names), ("query", queries))
    p = style.pivot(single, "p", ("attribute", names), ("query", queries))
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


@styled
def plot_erasure(erase: pd.DataFrame, headline: str = "") -> Picture:
    """What is used: how far accuracy falls when an attribute is erased, or random directions.

    Columns: erased, asked, kind (`erased`, `random direction`, `untouched`), accuracy, low, high,
    chance, and the paired change with change_low and change_high.
    """
    columns = "erased asked kind accuracy low high chance change change_low change_high"
    table = style.select_columns(erase, columns)
    untouched = table[table["kind"] == "untouched"]
    if untouched.empty:
        raise ValueError(
            "No row of kind 'untouched'; a change is measured from there, so evaluate it first."
        )
    start = untouched.groupby("asked")[["accuracy", "chance"]].mean()
    changed = _measure_fall(table)
    names = [style.unique_values(changed[column]) for column in ("erased", "asked")]
    top = max(0.1, np.nan_to_num(changed["fall"].max()))
    size = (2.4 + 2 * max(2.6, 0.66 * len(names[1])), 2.4 + 0.4 * len(names[0]))
    picture = Picture(table, headline, size)
    titles = {
        "erased": "the attribute erased",
        "random direction": "as many random directions erased",
    }
    labels = [
        f"{name}  {accuracy:.2f} ({chance:.2f})"
        for name, accuracy, chance in start.reindex(names[1]).itertuples()
    ]
    for axes, (kind, title) in zip(
        picture.subplots(1, 2, sharey=True), titles.items(), strict=True
    ):
        rows = changed[changed["kind"] == kind]
        image = _draw_fall(axes, rows, names[0], names[1], top)
        axes.set_title(title, loc="left")
        axes.set_xticks(range(len(labels)), labels, rotation=90)
        axes.set_xlabel("asked for, with its\naccuracy untouched (chance)")
        axes.set_ylabel("erased" if kind == "erased" else "")
    picture.colorbar(image, ax=picture.axes, label="fall in accuracy")
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
    fall = style.pivot(rows, "fall", ("erased", down), ("asked", across))
    within = style.pivot(rows, "within", ("erased", down), ("asked", across))
    if rows.empty:
        style.annotate(axes, "not measured")
    faint, reason = within.eq(True).to_numpy(), "no change, or as random directions"
    return style.draw_heat_map(axes, fall, top, faint, reason, (0 - fall).map(_format_change))


def _format_change(change: float) -> str:
    return "" if math.isnan(change) else f"{change:+.2f}".replace("-", "−")


@styled
def plot_features(features: pd.DataFrame, headline: str = "") -> Picture:
    """What the purest sparse feature of each attribute stands for, and whether answers follow it.

    Columns: site, attribute, value, purity (AUC), null (what the purest of all features stays
    below under shuffled labels), explained, features (of the site) and pure (of the attribute);
    change (of the share answered with the value when it is added), low, high, random, random_low,
    random_high and p. A feature that was not added has no change, and is not drawn.
    """
    columns = "site attribute value purity null explained features pure change low high random"
    table = style.select_columns(features, f"{columns} random_low random_high p")
    table = table.dropna(subset="change")
    sites, names = (style.unique_values(table[name]) for name in ("site", "attribute"))
    picture = Picture(table, headline, (9.0, 1.3 + len(sites) * (0.7 + 0.3 * len(names))))
    grid = picture.subplots(len(sites), 2, squeeze=False, sharex="col")
    for (left, right), site in zip(grid, sites, strict=True):
        some = table[table["site"] == site].iloc[::-1]
        at = pd.Series(np.arange(len(some)) * 1.0, some.index)
        for name, series in (("null", "purity null"), ("purity", "purity")):
            ends = some.assign(low=some[name], high=some[name])
            style.draw_dots(left, ends, name, at, ANALYSIS_SERIES[series])
        by_chance = some[["random", "random_low", "random_high"]].set_axis(
            ["change", "low", "high"], axis=1
        )
        style.draw_dots(right, by_chance, "change", at + 0.18, ANALYSIS_SERIES["random directions"])
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


@styled
def plot_listening(heads: pd.DataFrame, direction: pd.DataFrame, headline: str = "") -> Picture:
    """Do the heads that look at the audio carry the answer, and does a louder audio help it?

    Both tables have the columns asked (`all` is drawn), kind, accuracy, low, high and chance;
    `heads` also knocked, the number of heads, and `direction` also factor.
    """
    parts = {"knocked": heads, "factor": direction}
    columns = "asked kind accuracy low high chance"
    tables = [
        style.select_columns(rows, f"{columns} {along}").assign(part=along)
        for along, rows in parts.items()
    ]
    table = pd.concat(tables).query("asked == 'all'")
    picture = Picture(table, headline, (9.0, 4.6))
    panels = picture.subplots(1, 2, sharey=True)
    for axes, along in zip(panels, parts, strict=True):
        rows = table[table["part"] == along]
        for kind in style.unique_values(rows["kind"]):
            some = rows[rows["kind"] == kind]
            if kind == "calibrated":
                look = {"color": "black", "ls": "--", "lw": 1.2, "label": "calibrated answers"}
                axes.axhline(some["accuracy"].iloc[0], zorder=0, **look)
            else:
                style.draw_line(axes, some, along, "accuracy", ANALYSIS_SERIES[kind])
        style.draw_chance(axes.axhline, rows, "chance")
    panels[0].set(
        xlabel="heads of the backbone knocked out", ylabel="accuracy, mean over the tasks"
    )
    panels[0].set_title("calibrated answers without some heads", loc="left")
    panels[1].set_title("uncalibrated answers, a direction added", loc="left")
    panels[1].set(xlabel="added so many times at the last layer")
    panels[1].set_xscale("symlog", linthresh=0.25, linscale=0.5)
    for axes, along, form in ((panels[0], "knocked", "d"), (panels[1], "factor", "g")):
        places = sorted(table[along].dropna().unique())
        axes.set_xticks(places, [format(int(x) if form == "d" else x, form) for x in places])
    panels[1].minorticks_off()
    panels[1].set_xlim(-0.05, None)
    panels[0].set_ylim(0, 1.02)
    style.add_legend(picture, picture.axes, 3, _DRAWS)
    return picture
