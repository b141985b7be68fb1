"""Figures are drawn from tables alone, say the same thing every time, and are saved with their
tables.
"""

import csv
import functools
import itertools
import json
import math
import re
import sys
from pathlib import Path

import matplotlib
import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import soundfile

from desta_lab.audio import DataWarning
from desta_lab.clips import Span
from desta_lab.evaluation.tasks import RUNGS, task_ladder
from desta_lab.views import claim_figures, clip_figures, study_figures
from desta_lab.views.saving import save_figure
from desta_lab.views.style import PALETTE, SERIES
from desta_lab.world.attributes import ATTRIBUTES, DESCRIBED
from desta_lab.world.tables import open_corpus
from tests import tiny

STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 200, 300)


def rung_table() -> pd.DataFrame:
    """A made-up per-rung table with the shape that an evaluation has."""
    rng = np.random.default_rng(0)
    top = {0: 0.97, 1: 0.93, 2: 0.7, 3: 0.82, 4: 0.55, 5: 0.02}
    rows = []
    for run, gain in (("self", 1.0), ("label", 0.25)):
        for rung, best in top.items():
            for condition in ("audio", "silence", "shuffled", "oracle"):
                for step in STEPS if condition != "oracle" else STEPS[-1:]:
                    risen = 1 / (1 + np.exp(-(np.log2(step + 1) - 5 - rung / 3)))
                    score = {
                        "audio": best * gain * risen,
                        "oracle": 0.9 if rung == 4 else 0.97,
                    }.get(condition, 0.0)
                    score = min(1, score + rng.normal(0, 0.015))
                    interval = {"low": score - 0.07, "high": min(1, score + 0.07)}
                    rows.append(
                        {
                            "run": run,
                            "step": step,
                            "condition": condition,
                            "rung": rung,
                            "measure": "calibrated",
                            "score": score,
                        }
                        | interval
                    )
    return pd.DataFrame(rows)


def summary_table() -> pd.DataFrame:
    """A made-up per-task table with the shape that an evaluation has."""
    rng = np.random.default_rng(1)
    heard = dict(zip(DESCRIBED, itertools.cycle((0.62, 0.45, 0.9, 0.97, 0.99, 0.94))))
    rows = []
    for task in task_ladder():
        for run in ("self", "label"):
            for condition, step in (
                ("audio", 0),
                ("audio", 300),
                ("silence", 300),
                ("shuffled", 300),
                ("oracle", 300),
            ):
                mean = task.chance
                if condition == "oracle":
                    mean = 0.55 if task.attribute == "accent" else 0.98
                elif (
                    condition == "audio" and step and (run == "self" or task.attribute == "gender")
                ):
                    mean = heard.get(task.attribute, task.chance)
                value = float(np.clip(mean + rng.normal(0, 0.02), 0, 1))
                rows.append(
                    {
                        "run": run,
                        "step": step,
                        "condition": condition,
                        "task": task.name,
                        "rung": task.rung,
                        "attribute": task.attribute,
                    }
                    | {
                        "chance": task.chance,
                        "measure": "calibrated",
                        "accuracy": value,
                        "clips": 96,
                        "speakers": 12,
                    }
                    | {"low": max(0, value - 0.08), "high": min(1, value + 0.06), "oracle": 0.98}
                    | {"counted": task.attribute != "accent"}
                )
    return pd.DataFrame(rows)


def mel(frames: int = 300, seed: int = 0) -> np.ndarray:
    """Something like speech in front of a scene: harmonics under an envelope, and noise."""
    rng = np.random.default_rng(seed)
    time, band = np.meshgrid(np.linspace(0, 3, frames), np.arange(80))
    voice = np.clip(np.sin(time * 9), 0, 1) * np.exp(-band / 30) * (1 + np.cos(band * 0.9))
    return np.log10(0.02 + voice + 0.1 * rng.random((80, frames)))


SPANS = [
    Span("speech", 0.3, 2.6),
    Span("scene:a siren", 0.1, 2.9),
    Span("word:the", 0.3, 0.45),
    Span("word:train", 0.45, 1.0),
    Span("word:to", 1.05, 1.15),
    Span("word:Glasgow", 1.2, 2.0),
    Span("word:left", 2.1, 2.6),
]


def attention() -> np.ndarray:
    rng = np.random.default_rng(2)
    centre = np.linspace(10, 140, 8)[:, None]
    raw = np.exp(-(((np.arange(150) - centre) / 14) ** 2)) + 0.05 * rng.random((8, 150))
    return raw / raw.sum(1, keepdims=True)


def mixture(queries: int = 8) -> np.ndarray:
    raw = np.exp(np.random.default_rng(3).normal(0, 0.8, (queries, 4)))
    return raw / raw.sum(1, keepdims=True)


def coverage_table() -> pd.DataFrame:
    share = {"self": 0.9, "soft": 1.0, "label": 0.17, "template": 1.0}
    perplexity = {"self": 1.9, "soft": 1.7, "label": 812.0, "template": 14.2}
    rows = [
        (kind, name, min(1.0, max(0, share[kind] - 0.08 * i * (kind == "self"))), perplexity[kind])
        for kind in share
        for i, name in enumerate(DESCRIBED)
    ]
    return pd.DataFrame(rows, columns=["kind", "attribute", "share", "perplexity"])


def tokens() -> tuple[list[str], list[float]]:
    words = (
        "A woman with a Scottish accent whispers slow ly at a low volume , "
        "a sir en wails behind her ."
    )
    said = [" " + word for word in words.split()] * 2 + ["\n", "$5", " cost$", ""]
    return said, list(np.random.default_rng(4).gamma(0.4, 1.2, len(said)))


def sheet_rows() -> list[dict]:
    return [
        {
            "mel": mel(300 - 10 * i, i),
            "seconds": 3.0 - 0.1 * i,
            "attributes": {name: ATTRIBUTES[name][i % len(ATTRIBUTES[name])] for name in DESCRIBED},
            "transcript": "The train to Glasgow left before the rain began to fall on us",
            "spans": [
                Span("speech", 0.3, 1.7),
                Span(f"scene:{ATTRIBUTES['scene'][i % 4]}", 0.1, 1.8),
            ],
        }
        for i in range(12)
    ]


def benchmark_table() -> pd.DataFrame:
    """Two metrics of one run by two protocols, its control, and two published systems, one of which
    differs.
    """
    rows = [
        {
            "system": system,
            "metric": metric,
            "protocol": protocol,
            "value": value,
            "kind": kind,
            "differs": differs,
            "low": value - 6 if kind != "published" else math.nan,
            "high": value + 6 if kind != "published" else math.nan,
            "clips": 96,
            "chance": 25.0 if kind != "published" else math.nan,
            "source": "a repository",
        }
        for metric in ("single", "multi")
        for system, protocol, value, kind, differs in (
            ("ours: ranked", "ranked", 51.0, "measured", ""),
            ("ours: parsed", "parsed", 38.0, "measured", ""),
            ("ours: silence", "silence", 26.0, "control", ""),
            ("DeSTA2", "judge", 63.0, "published", "*†"),
            ("SALMONN", "parsed", 42.5, "published", ""),
        )
    ]
    return pd.DataFrame(rows)


DRAWN = {
    "benchmark": lambda: study_figures.plot_benchmark(
        benchmark_table(), "Ranking finds more than parsing.", "* By a judge."
    ),
    "emergence": lambda: claim_figures.plot_emergence(
        rung_table(),
        "Trained on one prompt, the connector answers questions it never saw; bare labels do "
        "not carry over.",
    ),
    "held_out": lambda: claim_figures.plot_held_out(
        summary_table(), "Four of six attributes rise above every control."
    ),
    "layer_mixture": lambda: claim_figures.plot_layer_mixture(
        mixture(), (0, 1, 2, 3), "Queries read the upper layers."
    ),
    "layer_mixture_64": lambda: claim_figures.plot_layer_mixture(mixture(64), (7, 15, 23, 31)),
    "query_to_time": lambda: clip_figures.plot_query_attention(
        attention(), mel(), SPANS, 3.0, "Each query has its moment."
    ),
    "token_evidence": lambda: claim_figures.plot_token_evidence(
        *tokens(), headline="Few words carry the audio."
    ),
    "coverage": lambda: claim_figures.plot_coverage(
        coverage_table(), "Self-generated targets keep most attributes."
    ),
    "spectrogram_sheet": lambda: clip_figures.plot_spectrograms(
        sheet_rows(), headline="Twelve clips of the spoken world."
    ),
}
drawn = functools.cache(lambda name: DRAWN[name]())
every_figure = pytest.mark.parametrize("name", DRAWN)


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every figure, saved once."""
    folder = tmp_path_factory.mktemp("figures") / "new" / "folder"
    for name in DRAWN:
        save_figure(drawn(name), folder, name, provenance={"config": "abc", "seeds": [0, 1]})
    return folder


@every_figure
def test_a_saved_figure_brings_its_table_and_provenance(name: str, album: Path):
    assert {path.suffix for path in album.glob(f"{name}.*")} == {".png", ".svg", ".csv", ".json"}
    told = json.loads((album / f"{name}.json").read_text())
    assert told["config"] == "abc"
    assert told["seeds"] == [0, 1]
    assert told["versions"]["matplotlib"] == matplotlib.__version__
    with (album / f"{name}.csv").open(newline="") as file:
        assert len(list(csv.reader(file))) == 1 + len(drawn(name).table)


@every_figure
def test_a_figure_has_ink_and_nothing_outside_its_frame(name: str, album: Path):
    pixels = matplotlib.image.imread(album / f"{name}.png")[..., :3]
    assert pixels.std() > 0.02
    edge = [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
    assert all((side > 0.99).all() for side in edge), "ink touches the edge: something is clipped"


@every_figure
def test_the_legend_covers_no_panel(name: str):
    figure = drawn(name)
    figure.draw_without_rendering()
    for legend in figure.legends:
        for axes in figure.axes:
            assert not legend.get_window_extent().overlaps(axes.get_window_extent())


@every_figure
def test_a_notebook_shows_a_figure_once(name: str):
    assert drawn(name).png().startswith(b"\x89PNG")
    from matplotlib import pyplot

    assert not pyplot.get_fignums()


def test_the_svg_carries_no_date(album: Path):
    assert not re.search(r"<dc:date>", (album / "layer_mixture.svg").read_text())


def test_saving_leaves_the_old_file_when_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    old = save_figure(drawn("layer_mixture"), tmp_path, "mixture").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        save_figure(drawn("layer_mixture_64"), tmp_path, "mixture")
    assert (tmp_path / "mixture.png").read_bytes() == old
    assert len(list(tmp_path.iterdir())) == 4


def test_every_rung_has_its_panel_and_every_control_its_place():
    figure = drawn("emergence")
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        f"Rung {k}: {v}" for k, v in RUNGS.items()
    ]
    named = {text.get_text() for text in figure.legends[0].get_texts()}
    assert {
        SERIES[name].label
        for name in ("self", "label", "untrained", "shuffled", "silence", "oracle")
    } <= named


def test_a_rung_that_the_oracle_cannot_do_says_so():
    table = rung_table()
    figure = claim_figures.plot_emergence(table[table["rung"] != 4])
    assert any("no task that the oracle can do" in text.get_text() for text in figure.axes[4].texts)


def test_emergence_needs_no_label_run():
    table = rung_table()
    figure = claim_figures.plot_emergence(table[table["run"] == "self"])
    assert SERIES["label"].label not in {text.get_text() for text in figure.legends[0].get_texts()}


def test_a_run_without_a_look_is_drawn_under_its_own_name():
    table = rung_table()
    figure = claim_figures.plot_emergence(
        table.assign(run=table["run"].replace("label", "no transcript"))
    )
    assert "no transcript" in {text.get_text() for text in figure.legends[0].get_texts()}


def test_a_task_that_the_oracle_cannot_do_stays_and_says_so():
    labels = [label.get_text() for label in drawn("held_out").axes[0].get_yticklabels()]
    assert len(labels) == len(DESCRIBED)
    assert [label for label in labels if "oracle cannot" in label] == [
        "accent\n(the oracle cannot do it)"
    ]


def test_rungs_with_several_tasks_of_an_attribute_name_them():
    labels = [
        label.get_text()
        for label in claim_figures.plot_held_out(summary_table(), rung=4).axes[0].get_yticklabels()
    ]
    assert "gender: pronoun" in labels


def test_drawing_leaves_its_arguments_and_the_global_style_alone():
    before, style = rung_table(), dict(matplotlib.rcParams)
    table = before.copy()
    claim_figures.plot_emergence(table)
    pd.testing.assert_frame_equal(table, before)
    assert dict(matplotlib.rcParams) == style


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (
            lambda: claim_figures.plot_emergence(rung_table(), measure="raw"),
            r"No row with measure 'raw'; the table has",
        ),
        (lambda: claim_figures.plot_held_out(summary_table(), rung=9), "No row of rung 9"),
        (
            lambda: claim_figures.plot_layer_mixture(np.zeros((8, 4)), (0, 1, 2, 3)),
            "sums to 0, not 1; take the softmax",
        ),
        (
            lambda: save_figure(matplotlib.figure.Figure(), Path(), "bare"),
            "'bare' comes without a table",
        ),
    ],
)
def test_a_table_that_cannot_be_drawn_is_refused_in_words(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


def test_a_foreign_figure_is_saved_with_its_table(tmp_path: Path):
    own = matplotlib.figure.Figure()
    own.subplots().plot([1, 2])
    png = save_figure(own, tmp_path, "own", pd.DataFrame({"x": [1, 2]}))
    assert png.with_suffix(".csv").read_text() == "x\n1\n2\n"


SIGNS = r" a$\frac{b$_^"
LABELLED = {
    "benchmark": lambda: study_figures.plot_benchmark(
        benchmark_table().assign(metric="x" + SIGNS, system=lambda rows: rows["system"] + SIGNS)
    ),
    "emergence": lambda: claim_figures.plot_emergence(
        rung_table().assign(run=lambda rows: rows["run"] + SIGNS), SIGNS
    ),
    "held_out": lambda: claim_figures.plot_held_out(
        summary_table().assign(attribute=lambda rows: rows["attribute"] + SIGNS)
    ),
    "token_evidence": lambda: claim_figures.plot_token_evidence([SIGNS, "a"], [1.0, 2.0]),
    "coverage": lambda: claim_figures.plot_coverage(
        coverage_table().assign(attribute=lambda rows: rows["attribute"] + SIGNS)
    ),
    "spectrogram_sheet": lambda: clip_figures.plot_spectrograms(
        [
            row | {"transcript": SIGNS, "spans": [Span(f"scene:{SIGNS}", 0.1, 1.0)]}
            for row in sheet_rows()
        ]
    ),
    "profiles": lambda: clip_figures.plot_time_profiles(
        mel(), 3.0, {SIGNS: np.ones(9)}, [Span(f"word:{SIGNS}", 0.1, 1.0)]
    ),
}


@pytest.mark.parametrize("name", LABELLED)
def test_no_text_from_data_is_read_as_mathematics(name: str):
    assert LABELLED[name]().png()


def luminance(colour: str) -> float:
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in matplotlib.colors.to_rgb(colour)
    ]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_series_differ_without_colour():
    """In grey, two series differ in marker or line; the two runs that matter also in luminance."""
    shapes = {(str(look.line), look.marker) for look in SERIES.values()}
    assert len(shapes) == len(SERIES)
    assert luminance(PALETTE["label"]) - luminance(PALETTE["self"]) > 0.2


def test_a_value_without_an_interval_takes_none_from_the_others():
    def count_bars(table):
        axes = claim_figures.plot_held_out(table).axes[0]
        bars = [bar for drawn in axes.containers for bar in drawn.lines[2]]
        ends = [ends for bar in bars for ends in bar.get_segments()]
        return sum(len(one) == 2 and bool(np.isfinite(one).all()) for one in ends)

    table = summary_table()
    lacking = (table["run"] == "self") & (table["step"] == 300) & (table["condition"] == "audio")
    first = table.index[lacking & (table["rung"] == 3)][0]
    fewer = table.assign(low=table["low"].drop(first), high=table["high"].drop(first))
    assert count_bars(fewer) == count_bars(table) - 1


def test_without_oracle_rows_the_column_says_where_the_oracle_stands():
    table = summary_table()
    figure = claim_figures.plot_held_out(table[table["condition"] != "oracle"])
    assert SERIES["oracle"].label in {text.get_text() for text in figure.legends[0].get_texts()}


def test_one_step_alone_can_be_drawn():
    table = rung_table()
    assert claim_figures.plot_emergence(table[table["step"] == 0]).png()


def test_a_figure_is_saved_as_pdf_too_where_that_is_asked_for(tmp_path, monkeypatch):
    png = save_figure(drawn("layer_mixture"), tmp_path, "plain")
    assert not png.with_suffix(".pdf").exists()
    monkeypatch.setenv("DESTA_LAB_ALSO", "pdf")
    for name in ("one", "two"):
        save_figure(drawn("layer_mixture"), tmp_path, name)
    first, second = (tmp_path / f"{name}.pdf" for name in ("one", "two"))
    assert first.read_bytes().startswith(b"%PDF") and first.read_bytes() == second.read_bytes()


def test_a_table_is_saved_as_parquet_too_where_pyarrow_is(tmp_path, monkeypatch):
    monkeypatch.setenv("DESTA_LAB_ALSO", "parquet")
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(ImportError, match="pip install pyarrow"):
            save_figure(drawn("layer_mixture"), tmp_path, "asked")
    assert not list(tmp_path.iterdir())
    pytest.importorskip("pyarrow")
    table = pd.DataFrame({"mixed": [1, "a"], "x": [0.5, float("nan")]})
    save_figure(drawn("layer_mixture"), tmp_path, "asked", table)
    kept = pd.read_parquet(tmp_path / "asked.parquet")
    assert kept["mixed"].tolist() == ["1", "a"] and kept["x"].isna().tolist() == [False, True]


def test_clips_of_any_length_are_drawn(tmp_path: Path):
    rows = ["audio,speaker,scene"]
    for i, samples in enumerate((16_007, 22_051, 31 * 16_000)):
        soundfile.write(tmp_path / f"{i}.wav", tiny.wave(i, samples / 16_000), 16_000)
        rows.append(f"{i}.wav,me,rain")
    (tmp_path / "clips.csv").write_text("\n".join(rows))
    with pytest.warns(DataWarning, match="first 30 s"):
        corpus = open_corpus(tmp_path)
        picture = clip_figures.plot_clips(corpus, corpus.clips)
    drawn = picture.table[picture.table["part"] == "clip"]
    assert drawn["end"].tolist() == [1.02, 1.38, 30.0]


def test_answers_are_marked_right_or_wrong_and_one_answer_is_judged_by_every_task() -> None:
    rows = [
        ("a", "anna", "Describe it.", "A woman whispers.", "female", 1.0),
        ("a", "anna", "Describe it.", "A woman whispers.", "spoken", 0.0),
        ("a", "anna", "Where is it?", "At sea, 在海上.", "rain", 0.0),
        ("b", "b" * 128, "Where is it?", "In the rain.", "rain", 1.0),  # as Common Voice names them
    ]
    names = ["clip", "who", "question", "answer", "value", "said"]
    table = pd.DataFrame(rows, columns=names)
    picture = clip_figures.plot_answers(table, "What it says")
    (axes,) = picture.axes
    texts = [text.get_text() for text in axes.texts]
    assert texts[:2] == ["A woman whispers.", "1 of 2; not spoken"]
    assert texts[3:] == ["✗ right: rain", "In the rain.", "✓"]
    assert texts[2].split()[:2] == ["At", "sea,"] and texts[2].isascii()
    names_of = [label.get_text() for label in axes.get_yticklabels()]
    assert names_of[0] == "anna" and len(names_of[1]) < 30
    assert list(picture.table.columns) == names
