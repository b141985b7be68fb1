"""A step is measured one factor at a time, and the page of costs says what was measured."""

import importlib.util
import re
from math import prod
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from desta_lab import cli
from desta_lab.bench import ratios, scaling
from desta_lab.model import presets
from desta_lab.views import study_figures
from tests import tiny

ROOT = Path(__file__).parents[1]
SMALL = {
    "batch": ("clips a step", (2, 4)),
    "response": ("tokens of the response", (3, 9)),
    "queries": ("audio embeddings a clip", (8, 16)),
    "seconds": ("seconds of audio a clip", (2, 4)),
}


@pytest.fixture(scope="module")
def measured() -> pd.DataFrame:
    return scaling.measure_factors(tiny.audio_llm(), SMALL, [presets.NANO], rounds=1)


def test_every_value_of_every_factor_has_its_row(measured: pd.DataFrame):
    found = [(row.factor, row.value) for row in measured.itertuples() if row.factor != "backbone"]
    assert found == [(factor, value) for factor, (_, values) in SMALL.items() for value in values]
    nano = measured[measured["factor"] == "backbone"].iloc[0]
    assert nano["name"] == presets.NANO and 1 < nano["value"] < 3  # million parameters
    assert (measured[["seconds", "floor"]] > 0).all().all()


def test_the_tokens_of_a_step_are_batch_times_queries_response_and_rest(measured: pd.DataFrame):
    tokens = measured.set_index(["factor", "name"])["tokens"]
    assert tokens["batch", "4"] == 2 * tokens["batch", "2"]
    assert tokens["response", "9"] - tokens["response", "3"] == ratios.BATCH * 6
    assert tokens["queries", "16"] - tokens["queries", "8"] == ratios.BATCH * 8
    assert tokens["seconds", "4"] == tokens["seconds", "2"] == 2 * tokens["batch", "4"]


def test_a_step_learns_and_its_floor_leaves_the_connector_alone():
    llm = tiny.audio_llm()
    _, works = ratios.build_steps(llm, 2, 3, frames=12)
    before = llm.connector.proj[1].weight.detach().clone()
    works["floor"]()
    assert llm.connector.proj[1].weight.equal(before)
    works["step"]()
    assert not llm.connector.proj[1].weight.equal(before)


def made_up() -> pd.DataFrame:
    """A table of every factor, as if a step took 0.1 s and 2 ms a token."""
    rows = [
        {"factor": factor, "value": value, "per": per, "name": str(value)}
        | {"tokens": 60 * value if factor in scaling.OF_TOKENS else 480}
        for factor, (per, values) in scaling.FACTORS.items()
        for value in values
    ]
    table = pd.DataFrame(rows)
    seconds = 0.1 + 0.002 * table["tokens"]
    return table.assign(seconds=seconds, floor=0.8 * seconds)


def test_the_fit_finds_what_a_step_and_a_token_cost():
    table = made_up()
    assert np.allclose(scaling.fit_tokens(table), (0.1, 0.002, 1))
    slow = table["factor"] == "seconds"  # it changes no token, so the fit leaves it out
    table.loc[slow, "seconds"] *= 9
    assert np.allclose(scaling.fit_tokens(table), (0.1, 0.002, 1))
    assert scaling.describe_fit(table).startswith("A step takes 0.10 s and 2.00 ms a token")


def test_the_figure_draws_every_factor_with_its_slope_from_the_table_alone():
    table = made_up()
    table.loc[table["factor"] == "batch", "seconds"] = 0.05 * table["value"]
    picture = study_figures.plot_costs(table, "What a step costs.")
    panels = {axes.get_title(loc="left"): axes for axes in picture.axes if axes.get_title("left")}
    assert list(panels) == list(scaling.FACTORS)
    assert panels["batch"].get_title(loc="right") == "slope 1.00"
    assert panels["seconds"].get_title(loc="right") == "slope 0.00"
    units = [axes.get_xlabel() for axes in panels.values()]
    assert units == [per for per, _ in scaling.FACTORS.values()]
    assert all(axes.get_xscale() == axes.get_yscale() == "log" for axes in panels.values())
    markers = {line.get_marker() for line in panels["batch"].lines}
    assert len(markers) == 3  # in grey they are told by their marks
    assert picture.png()


def test_scaling_leaves_its_table_and_figure_and_says_the_fit(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr(scaling.build, "build_audio_llm", lambda *_, **__: tiny.audio_llm())
    monkeypatch.setattr(scaling, "measure_factors", lambda *_: made_up())
    assert cli.main(["bench", "--scaling", "--out", str(tmp_path)]) == 0
    assert "ms a token" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {
        f"scaling.{form}" for form in ("csv", "json", "png", "svg")
    }
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "scaling.csv", dtype={"name": str}),
        made_up(),
        check_dtype=False,
        check_like=True,
    )


def test_a_backbone_that_is_not_here_is_refused_before_anything_is_measured(capsys):
    assert cli.main(["bench", "--scaling", "--backbone", "nobody/has-it"]) == 1
    assert "'nobody/has-it' is not on disk" in capsys.readouterr().err
    assert cli.main(["bench", "--backbone", presets.NANO]) == 1
    assert "give it, too" in capsys.readouterr().err


# ---- the page ----


@pytest.fixture
def maker() -> ModuleType:
    """docs/make_cost.py."""
    spec = importlib.util.spec_from_file_location("make_cost", ROOT / "docs" / "make_cost.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_costs_is_that_of_its_code_and_of_the_table(maker: ModuleType):
    said = maker.PAGE.read_text(encoding="utf-8")
    assert maker.page() == said, "Run `python docs/make_cost.py`."


def test_the_page_takes_its_cpu_numbers_from_the_table_alone(maker, tmp_path, monkeypatch):
    monkeypatch.setattr(maker, "TABLE", tmp_path / "scaling.csv")
    assert "Not measured yet" in maker.page()
    made_up().to_csv(maker.TABLE, index=False)
    page = maker.page()
    assert "Not measured yet" not in page
    assert "A step takes 0.10 s and 2.00 ms a token (R² 1.00)." in page
    assert "| 16 clips a step |  | 960 | 2.020 | 1.616 | 1.25 |" in page


def test_every_number_in_the_words_of_the_page_is_one_that_its_code_prints(maker: ModuleType):
    said = maker.PAGE.read_text(encoding="utf-8").split("## On a GPU")[1]
    printed = said.split("```text\n")[1].split("```")[0]
    words = re.sub(r"```.*?```", "", said, flags=re.DOTALL)
    known = set(re.findall(r"[\d.]+", printed.replace(",", "")))
    amounts = re.findall(r"(\d[\d.,]*)(?:,? or (\d[\d.]*))? (?:TB\b|ms\b|h\b|×)", words)
    numbers = {number.replace(",", "") for pair in amounts for number in pair if number}
    assert len(numbers) > 15
    assert numbers - known == {"148", "7000"}  # hearing timed alone; all hours


def test_the_page_counts_the_bytes_that_a_store_keeps(maker: ModuleType, tmp_path: Path):
    names: dict = {}
    exec(maker.PAGE.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0], names)
    _, store, _ = tiny.prepared(tmp_path)
    assert names["clip_bytes"](64, tiny.SECONDS) == prod(store.shape) * 2
    assert names["clip_bytes"](names["WIDTHS"]["desta25"], 30) == 4 * 1500 * 1280 * 2
