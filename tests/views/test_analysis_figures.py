"""The analysis is drawn as the main job is: from tables alone, told apart in grey, and what is
missing is said.
"""

import csv
import functools
import io
import itertools
import math
from pathlib import Path

import matplotlib
import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.container import ErrorbarContainer

from desta_lab.clips import Span
from desta_lab.views import clip_figures, explanation_figures, representation_figures, style
from desta_lab.views.saving import Picture, save_figure
from desta_lab.views.style import ANALYSIS_SERIES, printable

# every table here is made up, with the shape that an analysis has
STEPS = (0, 1, 2, 4, 8, 32, 64, 100, 170)
CHANCE = {
    "gender": 0.5,
    "accent": 1 / 3,
    "rate": 0.5,
    "loudness": 0.5,
    "manner": 0.5,
    "scene": 0.25,
}
FIXED = ["log-mel", *(f"encoder {i}" for i in range(4))]
MOVED = ["block 0", "block 1", "mixture", "audio embeddings"]
SITES = [*FIXED, *MOVED, *(f"slots {i}" for i in range(12)), *(f"answer {i}" for i in range(12))]
ANCHORS = ["woman", "man", "Scottish", "slow", " loud", "whisper", "rain", "siren"]


def around(value: float, width: float = 0.06) -> dict[str, float]:
    return {"low": max(0.0, value - width), "high": min(1.0, value + width)}


def probe_table() -> pd.DataFrame:
    rng, rows = np.random.default_rng(0), []
    for i, site in enumerate(SITES):
        for step in STEPS[:1] if site in FIXED else STEPS:
            for k, (attribute, chance) in enumerate(CHANCE.items()):
                risen = (
                    0.9
                    if site in FIXED
                    else 0.8 / (1 + math.exp(3 + k / 2 - math.log2(step + 1))) * (1 - i / 200)
                )
                for kind, above in (("probe", risen), ("random labels", 0.02)):
                    value = float(
                        np.clip(chance + (1 - chance) * above + rng.normal(0, 0.02), 0, 1)
                    )
                    rows.append(
                        {
                            "step": step,
                            "site": site,
                            "attribute": attribute,
                            "kind": kind,
                            "accuracy": value,
                        }
                    )
                    rows[-1] |= around(value) | {"chance": chance}
    return pd.DataFrame(rows)


def spoken_table() -> pd.DataFrame:
    rows = []
    for step in STEPS:
        for k, (attribute, chance) in enumerate(CHANCE.items()):
            value = chance + (1 - chance) * 0.85 / (1 + math.exp(5 + k - math.log2(step + 1)))
            rows.append(
                {
                    "step": step,
                    "attribute": attribute,
                    "accuracy": value,
                    **around(value),
                    "chance": chance,
                }
            )
    return pd.DataFrame(rows)


def curve_table() -> pd.DataFrame:
    rows = []
    for i, site in enumerate(("log-mel", "encoder 3", "audio embeddings", "slots 29", "answer 29")):
        for attribute, chance in CHANCE.items():
            for clips in (24, 48, 96, 192, 384):
                value = chance + (1 - chance) * (1 - i / 8) * (1 - math.exp(-clips / 90))
                rows.append(
                    {"site": site, "attribute": attribute, "clips": clips, "accuracy": value}
                )
                rows[-1] |= around(value) | {"chance": chance}
    return pd.DataFrame(rows)


def cka_table() -> pd.DataFrame:
    names = [*FIXED, *MOVED, "slots 29", "answer 29"]
    pairs = [(i, j) for i in range(len(names)) for j in range(i + 1, len(names))]
    rows = [(names[i], names[j], math.exp(-abs(i - j) / 3), 0.08, 0.01) for i, j in pairs]
    table = pd.DataFrame(rows, columns=["a", "b", "cka", "null", "p"])
    ends = {"low": table["cka"] - 0.05, "high": table["cka"] + 0.05}
    return table.assign(**ends, scaled=(table["cka"] + 1) / 2)


def map_table() -> pd.DataFrame:
    rng, points = np.random.default_rng(1), []
    scene = np.array(["rain", "siren", "birds", "music"])[np.arange(96) % 4]
    for method in ("pca", "umap"):
        for seed in (0, 1):
            for step in STEPS:
                away = np.log2(step + 1) * (np.arange(96) % 4 - 1.5)
                frame = pd.DataFrame({"clip": [f"c{i}" for i in range(96)], "scene": scene})
                frame["gender"] = np.where(np.arange(96) % 2, "female", "male")
                x, y = rng.normal(away, 1.5), rng.normal(0, 2, 96)
                frame = frame.assign(trustworthiness=0.8 + step / 1000, explained=math.nan)
                points.append(frame.assign(step=step, method=method, seed=seed, x=x, y=y))
    return pd.concat(points)


def gap_table() -> pd.DataFrame:
    rows = []
    for step in STEPS:
        rise = math.log2(step + 1) / 8
        values = {
            "norm ratio": 6 - 4.8 * rise,
            "cosine to its own text": 0.6 * rise,
            "cosine, other clip's text": 0.4 * rise,
            "cosine, a sentence that says nothing": 0.3,
        }
        rows += [
            {"step": step, "measure": name, "value": v, "low": v - 0.03, "high": v + 0.03}
            for name, v in values.items()
        ]
    return pd.DataFrame(rows)


def word_table() -> pd.DataFrame:
    rows = []
    for step in (0, 8, 64, 170):
        for query, anchor in enumerate(ANCHORS):
            told = (
                [anchor, "$ny", "extraordinarily"]
                if step < 64 or query % 2
                else [" person", anchor, "\n"]
            )
            rows += [
                {"step": step, "query": query, "word": word, "cosine": near, "anchor": anchor}
                for word, near in zip(told, (0.9 - step / 400, 0.2, 0.05), strict=True)
            ]
    return pd.DataFrame(rows).assign(share=0.5, null=0.15, initial_cosine=0.6)


def head_table() -> pd.DataFrame:
    rng = np.random.default_rng(2)
    grid = [(layer, head) for layer in range(30) for head in range(9)]
    table = pd.DataFrame(grid, columns=["layer", "head"])
    table = table.assign(share=rng.beta(1, 12, 270), pointing=rng.beta(3, 5, 270))
    return table.assign(null_low=0.2, null_high=0.5)


def evidence_table() -> pd.DataFrame:
    methods = [
        "query attention",
        "answer attention",
        "rollout",
        "ablation",
        "integrated gradients",
        "Shapley values",
    ]
    rows = []
    for i, method in enumerate(methods):
        for attribute in ("gender", "scene", "topic"):
            for null, base in (("own", 0.4 + 0.09 * i), ("shuffled", 0.41), ("uniform", 0.37)):
                for measure in ("pointing", "iou", "mass"):
                    rows.append(
                        {"method": method, "attribute": attribute, "null": null, "measure": measure}
                    )
                    rows[-1] |= {"value": base} | around(base)
                    if null == "own":
                        gain = base - 0.41
                        rows[-1] |= {"gain": gain, "gain_low": gain - 0.1, "gain_high": gain + 0.1}
    return pd.DataFrame(rows)


def deletion_table() -> pd.DataFrame:
    rows = []
    for share in np.linspace(0, 1, 9):
        for curve, moved in (("deletion", 1 - share), ("insertion", share)):
            for order, power in (("attribution", 3 if curve == "deletion" else 0.4), ("random", 1)):
                value = 2.5 * moved**power - 0.2
                rows.append({"curve": curve, "order": order, "share": share, "margin": value})
                rows[-1] |= {"low": value - 0.2, "high": value + 0.2}
                if order == "attribution":
                    rows[-1] |= {"gain": 0.4, "gain_low": 0.1, "gain_high": 0.7}
    return pd.DataFrame(rows)


def lens_table() -> pd.DataFrame:
    rows = []
    for attribute, chance in CHANCE.items():
        for condition, best in (
            ("audio", 0.8),
            ("oracle", 1.0),
            ("tuned lens", 0.9),
            ("shuffled", 0.02),
            ("untrained", 0.0),
        ):
            for layer in range(30):
                value = chance + (1 - chance) * best / (1 + math.exp(20 - layer))
                rows.append(
                    {
                        "attribute": attribute,
                        "layer": layer,
                        "condition": condition,
                        "accuracy": value,
                        "margin": 4 * best,
                    }
                )
                rows[-1] |= around(value) | {"chance": chance}
    return pd.DataFrame(rows)


def patch_table() -> pd.DataFrame:
    rng, rows = np.random.default_rng(3), []
    for k, attribute in enumerate(CHANCE):
        for query in range(-1, 8):
            value = 1.0 if query < 0 else 0.6 if query == k else float(rng.uniform(0, 0.1))
            word = "all" if query < 0 else ANCHORS[query]
            rows.append({"attribute": attribute, "query": query, "moved": value, "word": word})
            rows[-1] |= {"low": value - 0.06, "high": value + 0.06}
            rows[-1] |= {"same": 0.05, "p": 0.001 if value > 0.5 else 0.6}
    return pd.DataFrame(rows)


def erasure_table() -> pd.DataFrame:
    rows = []
    for asked, chance in CHANCE.items():
        rows.append(
            {
                "erased": "",
                "asked": asked,
                "kind": "untouched",
                "accuracy": 0.9,
                "chance": chance,
                **around(0.9),
                **_change(0.0),
            }
        )
        for erased in CHANCE:
            for kind in ("erased", "random direction"):
                value = chance + 0.03 if kind == "erased" and erased == asked else 0.89
                rows.append(
                    {
                        "erased": erased,
                        "asked": asked,
                        "kind": kind,
                        "accuracy": value,
                        "chance": chance,
                    }
                )
                rows[-1] |= around(value) | _change(value - 0.9)
    return pd.DataFrame(rows)


def _change(value: float) -> dict[str, float]:
    return {"change": value, "change_low": value - 0.04, "change_high": value + 0.04}


def feature_table() -> pd.DataFrame:
    rows = []
    for site in ("audio embeddings", "slots 1"):
        for feature in range(12):
            attribute = list(CHANCE)[feature % 6]
            row = {"site": site, "feature": feature, "attribute": attribute, "value": "siren"}
            row |= {"purity": 0.6 + feature / 40, "null": 0.63, "explained": 0.9}
            row |= {"features": 12, "pure": 1}
            moved = 0.05 * feature if feature >= 6 else math.nan
            row |= {"change": moved, "random": 0.1, "random_low": -0.1, "random_high": 0.3}
            rows.append(row | {"low": moved - 0.1, "high": moved + 0.1, "p": 0.05})
    return pd.DataFrame(rows)


def listening_tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    kinds = {"knocked": ("listening heads", "random heads")}
    kinds["factor"] = ("audio minus silence", "another clip's", "random directions", "calibrated")
    tables = []
    for along, names in kinds.items():
        rows = [
            {"asked": asked, "kind": kind, along: amount, "accuracy": 0.8 - i * amount / 20}
            | around(0.8 - i * amount / 20)
            | {"chance": 0.4}
            for asked in ("gender", "all")
            for i, kind in enumerate(names)
            for amount in ([0] if kind == "calibrated" else [0, 1, 2])
        ]
        tables.append(pd.DataFrame(rows))
    return tables[0], tables[1]


def sound() -> tuple:
    rng = np.random.default_rng(4)
    time = np.linspace(0, 3, 150)
    profiles = {
        "attention": np.exp(-((time - 1) ** 2)),
        "integrated gradients": np.sin(4 * time) * np.exp(-((time - 2) ** 2)),
        "Shapley values": rng.random(15),
    }
    spans = [
        Span("speech", 0.3, 2.6),
        Span("scene:a siren", 0.1, 2.9),
        Span("word:Glasgow", 1.2, 2.0),
    ]
    return rng.normal(0, 1, (80, 300)), 3.0, profiles, spans


DRAWN = {
    "readable": lambda: representation_figures.plot_probe_accuracy(
        probe_table(),
        spoken_table(),
        "All six attributes are present; four become readable; two are spoken.",
    ),
    "selectivity": lambda: representation_figures.plot_selectivity(
        probe_table(), "The probe reads; on random labels it stays at chance."
    ),
    "learning_curves": lambda: representation_figures.plot_learning_curves(
        curve_table(), "A hundred clips are enough."
    ),
    "similarity": lambda: representation_figures.plot_similarity(
        cka_table(), "Neighbouring sites lay out the clips alike."
    ),
    "maps": lambda: representation_figures.plot_maps(
        map_table(), colour="scene", headline="The scenes part along training."
    ),
    "modality_gap": lambda: representation_figures.plot_modality_gap(
        gap_table(), "Hearing comes near reading, and stays apart."
    ),
    "nearest_words": lambda: representation_figures.plot_nearest_words(
        word_table(), "Most queries keep the word they were born as."
    ),
    "answer_attention": lambda: explanation_figures.plot_answer_attention(
        head_table(), "A few heads look at the audio."
    ),
    "evidence": lambda: explanation_figures.plot_evidence(
        evidence_table(), "Attention is not explanation; Shapley finds it."
    ),
    "deletion": lambda: explanation_figures.plot_deletion(
        deletion_table(), "The attribution is faithful."
    ),
    "logit_lens": lambda: explanation_figures.plot_logit_lens(
        lens_table(), "The answer is there from layer 20."
    ),
    "patching": lambda: explanation_figures.plot_patching(
        patch_table(), "One query carries one attribute."
    ),
    "erasure": lambda: explanation_figures.plot_erasure(
        erasure_table(), "Erasing an attribute takes it away, and it alone."
    ),
    "sparse_features": lambda: explanation_figures.plot_features(
        feature_table(), "Six features stand for a value."
    ),
    "listening_heads": lambda: explanation_figures.plot_listening(
        *listening_tables(), "A few heads carry the answer."
    ),
    "listen_where": lambda: clip_figures.plot_time_profiles(
        *sound(), headline="Three methods, three moments."
    ),
}
TABLES = {  # the drawings of one long table, for what all of them must survive
    "readable": (
        lambda table, **how: representation_figures.plot_probe_accuracy(
            table, spoken_table(), **how
        ),
        probe_table,
    ),
    "selectivity": (representation_figures.plot_selectivity, probe_table),
    "learning_curves": (representation_figures.plot_learning_curves, curve_table),
    "similarity": (representation_figures.plot_similarity, cka_table),
    "maps": (representation_figures.plot_maps, map_table),
    "modality_gap": (representation_figures.plot_modality_gap, gap_table),
    "nearest_words": (representation_figures.plot_nearest_words, word_table),
    "answer_attention": (explanation_figures.plot_answer_attention, head_table),
    "evidence": (explanation_figures.plot_evidence, evidence_table),
    "deletion": (explanation_figures.plot_deletion, deletion_table),
    "logit_lens": (explanation_figures.plot_logit_lens, lens_table),
    "patching": (explanation_figures.plot_patching, patch_table),
    "erasure": (explanation_figures.plot_erasure, erasure_table),
    "sparse_features": (explanation_figures.plot_features, feature_table),
    "listening_heads": (
        lambda table, **how: explanation_figures.plot_listening(
            table, listening_tables()[1], **how
        ),
        lambda: listening_tables()[0],
    ),
}
drawn = functools.cache(lambda name: DRAWN[name]())
every_drawing = pytest.mark.parametrize("name", DRAWN)
every_table = pytest.mark.parametrize("name", TABLES)


def texts(figure: Picture) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


def shown(figure: Picture) -> list[Axes]:
    return [axes for axes in figure.axes if axes.axison]


def whole(figure: Picture) -> bool:
    """There is ink, and none of it is cut off at the edge."""
    pixels = matplotlib.image.imread(io.BytesIO(figure.png()))[..., :3]
    return pixels.std() > 0.02 and all(
        (s > 0.99).all() for s in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])
    )


@every_drawing
def test_an_insight_is_saved_with_its_table(name: str, tmp_path: Path):
    figure = drawn(name)
    save_figure(figure, tmp_path, "figure")
    with (tmp_path / "figure.csv").open(newline="") as file:
        assert len(list(csv.reader(file))) == 1 + len(figure.table)
    assert whole(figure)


@every_drawing
@pytest.mark.parametrize("seeds", [[0, 1, 2], [4]])
def test_a_figure_says_below_its_panels_of_which_seeds_it_is(name: str, seeds: list[int]):
    figure = DRAWN[name]()
    bands = "over speakers" in texts(figure)
    style.state_seeds(figure, seeds)
    told = "3 training seeds" if len(seeds) == 3 else "training seed 4 alone"
    assert texts(figure).count(told) == 1 and len(figure.legends) == 1 and whole(figure)
    assert ("over speakers" in texts(figure)) == (bands and len(seeds) == 1)
    assert (f"95 % t-interval over {told}" in texts(figure)) == (bands and len(seeds) == 3)
    largest = name == "patching" and len(seeds) == 3
    assert ("p: the largest of theirs" in texts(figure)) == largest


@every_drawing
def test_every_axis_says_what_it_is(name: str):
    figure = drawn(name)
    for axes in shown(figure):
        grid = [
            other for other in shown(figure) if other.get_subplotspec() and axes.get_subplotspec()
        ]
        assert (
            axes.get_xlabel()
            or figure.get_supxlabel()
            or any(other.get_xlabel() for other in grid)
            or not grid
        )
        assert (
            axes.get_ylabel() or figure.get_supylabel() or any(other.get_ylabel() for other in grid)
        )


@every_drawing
def test_no_legend_of_an_insight_covers_a_panel(name: str):
    figure = drawn(name)
    figure.draw_without_rendering()
    for legend in figure.legends:
        box = legend.get_window_extent()
        assert not any(box.overlaps(axes.get_window_extent()) for axes in shown(figure))
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1


@every_drawing
def test_tick_labels_do_not_run_into_each_other(name: str):
    figure = drawn(name)
    figure.draw_without_rendering()
    for axes in shown(figure):
        for axis in (axes.xaxis, axes.yaxis):
            labels = [
                label for label in axis.get_ticklabels() if label.get_visible() and label.get_text()
            ]
            boxes = [
                label.get_window_extent() for label in labels if label.get_window_extent().width
            ]
            for one, other in itertools.pairwise(boxes):
                overlap = (
                    min(one.x1, other.x1) - max(one.x0, other.x0),
                    min(one.y1, other.y1) - max(one.y0, other.y0),
                )
                assert min(overlap) < 2, (
                    f"{axes.get_title(loc='left')}: {[label.get_text() for label in labels]}"
                )


def shapes(axes: Axes) -> list[str]:
    """What each named series of a panel looks like when its colour is taken away."""
    points = [one[0] for one in axes.containers if isinstance(one, ErrorbarContainer)]
    lines = [*points, *(one for one in axes.lines if one.get_label()[:1] != "_")]
    clouds = [one for one in axes.collections if isinstance(one, PathCollection)]
    drawn_as = [
        f"{line.get_marker()} {line.get_linestyle()} {line._dash_pattern}" for line in lines
    ]
    return drawn_as + [str(cloud.get_paths()[0].vertices) for cloud in clouds]


@every_drawing
def test_the_series_of_one_panel_differ_without_colour(name: str):
    for axes in shown(drawn(name)):
        assert len(set(shapes(axes))) == len(shapes(axes))


@pytest.mark.parametrize(
    "name", ["selectivity", "maps", "modality_gap", "evidence", "deletion", "logit_lens"]
)
def test_there_are_series_to_tell_apart(name: str):
    assert max(len(shapes(axes)) for axes in shown(drawn(name))) > 1


def test_what_is_compared_is_told_apart_in_grey():
    for group in (
        ("probe", "random labels"),
        ("own", "shuffled", "uniform"),
        ("attribution", "random"),
        ("audio minus silence", "another clip's", "random directions"),
        ("listening heads", "random heads"),
        ("feature", "random directions"),
        ("purity", "purity null"),
        ("audio", "oracle", "shuffled", "untrained"),
        ("cosine to its own text", "cosine, other clip's text"),
    ):
        assert len(
            {(str(ANALYSIS_SERIES[name].line), ANALYSIS_SERIES[name].marker) for name in group}
        ) == len(group)


@every_table
def test_an_insight_survives_an_analysis_without_intervals(name: str):
    draw, table = TABLES[name]
    rows = table()
    assert whole(draw(rows.assign(**{end: math.nan for end in ("low", "high") if end in rows})))


@every_table
def test_an_insight_survives_one_step_and_one_attribute(name: str):
    draw, table = TABLES[name]
    rows = table()
    for column in ("step", "attribute", "asked"):
        if column in rows:
            rows = rows[rows[column] == rows[column].iloc[-1]]
    assert len(rows)
    assert whole(
        draw(rows, headline="One step, one attribute: a headline that is rather long for it.")
    )


@pytest.mark.parametrize(
    "name", ["readable", "selectivity", "learning_curves", "similarity", "evidence"]
)
def test_a_long_name_is_shortened_and_not_cut(name: str):
    draw, table = TABLES[name]
    rows = table()
    for column in {"site", "a", "b", "method"} & set(rows):
        rows[column] = "the site that somebody named as if there were room for it, " + rows[column]
    figure = draw(rows)
    assert whole(figure)
    assert "the site that…" in texts(figure)


@every_table
def test_no_label_is_read_as_mathematics(name: str):
    draw, table = TABLES[name]
    rows = table()
    labels = {"site", "a", "b", "attribute", "asked", "erased", "word", "anchor", "gender"}
    for column in labels & set(rows):
        rows[column] = rows[column] + r" a$\frac{b$_^"
    figure = draw(rows)
    assert figure.png()
    assert not any(text.get_parse_math() for text in figure.findobj(matplotlib.text.Text))


def test_powers_of_ten_stay_on_a_logarithmic_axis_and_labels_beside_them_are_text(tmp_path: Path):
    picture = Picture(pd.DataFrame({"x": [1]}), r"a$\frac{b$")
    axes = picture.subplots()
    axes.set(xscale="log", xlim=(1, 1e6), xlabel=r"$\frac{$")
    axes.barh([r"$\frac{$", "b"], [10, 20])
    save_figure(picture, tmp_path, "log")
    assert all(tick.label1.get_parse_math() for tick in axes.xaxis.get_major_ticks())
    assert not any(tick.label1.get_parse_math() for tick in axes.yaxis.get_major_ticks())


@every_table
def test_a_table_that_lacks_a_column_is_refused_by_its_name(name: str):
    draw, table = TABLES[name]
    rows = table()
    gone = {"similarity": "cka", "maps": "x"}.get(name) or next(
        column for column in ("accuracy", "value", "share", "margin", "moved") if column in rows
    )
    with pytest.raises(ValueError, match=f"no column {gone}; it has"):
        draw(rows.drop(columns=gone))


def test_an_empty_table_is_refused_in_words():
    with pytest.raises(ValueError, match="no row; measure first"):
        representation_figures.plot_selectivity(probe_table()[:0])


def test_what_training_does_not_move_is_drawn_at_every_step():
    figure = drawn("readable")
    image = figure.axes[0].images[0].get_array()
    assert image.shape[1] == len(STEPS)
    assert (image[: len(FIXED)] == image[: len(FIXED), :1]).all()
    assert not (image[len(FIXED) :] == image[len(FIXED) :, :1]).all()


def test_families_of_sites_are_thinned_to_their_ends_and_between():
    labels = [label.get_text() for label in drawn("readable").axes[0].get_yticklabels()]
    assert labels[: len(FIXED) + len(MOVED)] == [*FIXED, *MOVED]
    slots = [label for label in labels if label.startswith("slots")]
    assert (len(slots), slots[0], slots[-1]) == (6, "slots 0", "slots 11")


def test_the_heat_maps_and_the_strips_share_one_scale():
    figure = drawn("readable")
    scales = {image.get_clim() for axes in figure.axes[:12] for image in axes.images}
    assert scales == {(0.0, 1.0)}
    assert figure.axes[1].images[0] is not None
    assert {"present", "readable", "spoken"} <= set(texts(figure).split("\n"))


def test_an_attribute_that_was_never_asked_for_says_so():
    spoken = spoken_table()
    figure = representation_figures.plot_probe_accuracy(
        probe_table(), spoken[spoken["attribute"] != "scene"]
    )
    assert "not measured" in texts(figure)
    assert "not measured" not in texts(drawn("readable"))


def test_a_step_without_a_probe_is_crossed_and_says_so():
    probes = probe_table()
    figure = representation_figures.plot_probe_accuracy(
        probes[(probes["step"] != 8) | (probes["site"] != "slots 0")], spoken_table()
    )
    assert "not measured" in {text.get_text() for text in figure.legends[0].get_texts()}


def test_a_pair_that_is_not_above_its_null_is_hatched():
    axes = drawn("similarity").axes[0]
    hatched = sum(patch.get_hatch() is not None for patch in axes.patches)
    table = cka_table()
    assert hatched == (table["cka"] <= table["null"]).sum()  # above the diagonal
    low = representation_figures.plot_similarity(table.assign(scaled=-1.0)).axes[0]
    assert sum(patch.get_hatch() is not None for patch in low.patches) == hatched, "it has no null"


def test_sites_against_steps_are_a_rectangle():
    table = cka_table().assign(b=[f"step {2**i}" for i in range(55)])
    shape = (
        representation_figures.plot_similarity(table[table["a"].isin(FIXED)])
        .axes[0]
        .images[0]
        .get_array()
        .shape
    )
    assert shape == (5, table["a"].isin(FIXED).sum())


def test_maps_show_at_most_six_steps_and_what_they_keep():
    figure = drawn("maps")
    assert len(shown(figure)) == 6
    assert all(axes.get_aspect() == 1 for axes in figure.axes)
    assert "trustworthiness 0.97" in figure.axes[5].get_title(loc="left")
    points = map_table()
    points.loc[points["step"] == 0, "trustworthiness"] = math.nan
    assert "trustworthiness not measured" in texts(representation_figures.plot_maps(points))


def test_the_two_halves_of_a_similarity_are_explained_where_nothing_is_hatched():
    figure = representation_figures.plot_similarity(cka_table().assign(null=0.0))
    assert "below it: all of the same variance" in texts(figure)


def test_a_map_says_how_alike_neighbours_are_beside_random_labels():
    points = map_table().assign(explained=0.314)
    rows = [{"step": step, "method": "pca", "seed": 0, "attribute": "scene"} for step in STEPS]
    purity = pd.DataFrame(rows).assign(purity=0.62, null_low=0.21, null_high=0.29)
    drawn_map = representation_figures.plot_maps(points, "scene", purity=purity)
    assert "variance 31%" in texts(drawn_map)
    assert "neighbours alike 0.62 (random 0.21 to 0.29)" in texts(drawn_map)


def test_a_word_no_nearer_than_chance_is_hatched():
    axes = drawn("nearest_words").axes[0]
    words = word_table().query("step == 0")
    hatched = sum(patch.get_hatch() is not None for patch in axes.patches)
    assert hatched == (words["cosine"] <= words["null"]).sum() > 0


def test_a_query_that_kept_its_word_is_bold():
    figure = drawn("nearest_words")
    bold = {text.get_text() for text in figure.axes[0].texts if text.get_fontweight() == "bold"}
    assert {text.split()[0] for text in bold} == {anchor.strip() for anchor in ANCHORS}


def test_a_query_that_was_born_as_no_word_has_a_dash():
    figure = representation_figures.plot_nearest_words(word_table().assign(anchor=""))
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()][:2] == ["0  —", "1  —"]
    assert not any(text.get_fontweight() == "bold" for text in figure.axes[0].texts)


@pytest.mark.parametrize(
    ("name", "lacking"), [("deletion", "curve"), ("modality_gap", "measure"), ("erasure", "kind")]
)
def test_a_panel_without_rows_says_so(name: str, lacking: str):
    draw, table = TABLES[name]
    rows = table()
    gone = {"deletion": "insertion", "modality_gap": "norm ratio", "erasure": "random direction"}[
        name
    ]
    assert "not measured" in texts(draw(rows[rows[lacking] != gone]))


def test_a_method_that_was_not_scored_on_an_attribute_says_so():
    table = evidence_table()
    figure = explanation_figures.plot_evidence(
        table[(table["method"] != "rollout") | (table["attribute"] != "topic")]
    )
    assert "not measured" in texts(figure)
    with pytest.raises(ValueError, match="No row with measure 'area'; the table has"):
        explanation_figures.plot_evidence(table, measure="area")


def test_erasing_is_measured_from_the_untouched_model():
    table = erasure_table()
    with pytest.raises(ValueError, match="No row of kind 'untouched'"):
        explanation_figures.plot_erasure(table[table["kind"] != "untouched"])
    told = {text.get_text() for text in drawn("erasure").axes[0].texts}
    assert {"−0.37", "−0.01"} <= told


def test_erasing_has_one_order_one_sign_and_the_name_of_its_control():
    table = erasure_table()
    asked = sorted(CHANCE)  # as a table that was grouped has them
    table = table.sort_values("asked", key=lambda names: names.map(asked.index), kind="stable")
    figure = explanation_figures.plot_erasure(table)
    left, right, bar = figure.axes
    rows = [text.get_text() for text in left.get_yticklabels()]
    columns = [text.get_text().split("  ")[0] for text in left.get_xticklabels()]
    assert rows == columns and len(rows) == len(CHANCE)
    assert all(np.diag(left.images[0].get_array()) > 0.1)
    assert "random labels" in right.get_title(loc="left")
    assert "random directions" not in texts(figure)
    figure.png()  # which writes the colour bar
    written = [text.get_text() for text in bar.get_yticklabels()]
    assert bar.get_ylabel() == "change of accuracy" and written[-1].startswith("−")


def test_the_whole_clip_patched_is_no_query():
    image = drawn("patching").axes[0].images[0].get_array()
    assert image.shape == (len(CHANCE), len(ANCHORS))
    assert image.max() < 1


def test_a_profile_may_have_any_length_and_evidence_against():
    strips = drawn("listen_where").axes[2:]
    assert [axes.get_ylabel() for axes in strips] == [
        "attention",
        "integrated gradients",
        "Shapley values",
    ]
    assert strips[1].get_ylim()[0] < -0.1
    mel, seconds, profiles, spans = sound()
    assert "not measured" in texts(
        clip_figures.plot_time_profiles(
            mel, seconds, profiles | {"none": np.full(9, math.nan)}, spans
        )
    )


def test_a_token_is_written_with_the_signs_of_the_font():
    assert [printable(token) for token in (" rain", "\n", "", math.nan, "雨", "é")] == [
        "rain",
        "⏎",
        "␣",
        "—",
        "\\u96e8",
        "é",
    ]


def test_drawing_an_insight_leaves_its_arguments_alone():
    for name, (draw, table) in TABLES.items():
        rows = table()
        before = rows.copy()
        draw(rows)
        pd.testing.assert_frame_equal(rows, before, obj=name)


def test_the_film_rests_at_every_step_and_moves_between_them(tmp_path):
    from PIL import Image

    points = pd.DataFrame(
        [
            (step, "pca", 0, f"c{i}", i + step, float(i % 3), "female")
            for step in (0, 4, 8)
            for i in range(6)
        ],
        columns=["step", "method", "seed", "clip", "x", "y", "gender"],
    )
    with Image.open(
        representation_figures.save_film(points, tmp_path / "map.gif", method="pca", between=3)
    ) as film:
        frames = film.n_frames
        assert film.format == "GIF"
    assert 3 <= frames <= 3 * 2 * 3  # equal frames in a row are merged by the writer
    assert [path.name for path in tmp_path.iterdir()] == ["map.gif"]
