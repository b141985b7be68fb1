"""A cell is what it measures: however its settings are written, wherever its models lie."""

import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from desta_lab.experiments import cells
from desta_lab.experiments.cells import Cell, make_cell, parse_grid, parse_slurm
from desta_lab.model import presets
from desta_lab.world.attributes import ATTRIBUTES
from tests import tiny
from tests.experiments.test_sweep import NANO, grid


def test_how_a_grid_is_written_does_not_matter(tmp_path: Path):
    one = grid(tmp_path, seeds=(0, 1))
    backwards = {"connector.pool": np.array([2, 1, 2]), "steps": (80, 40)}
    other = grid(tmp_path, settings=backwards, seeds=(1, 0, 1))
    assert [cell.key for cell in one.cells] == [cell.key for cell in other.cells]
    inside = grid(
        tmp_path,
        settings={"connector.pool": [1, 2]},
        preset=replace(NANO, steps=40, minutes=(9.0, 9.0)),
    )
    assert {cell.key for cell in inside.cells} < {cell.key for cell in one.cells}
    pd.testing.assert_frame_equal(one.run(), other.run())


def test_a_number_is_the_same_cell_however_it_is_typed(tmp_path: Path):
    keys = [
        grid(tmp_path, settings={"lr": value}).cells[0].key for value in (1, 1.0, np.float64(1))
    ]
    assert len(set(keys)) == 1


def test_nested_fields_the_target_and_the_amount_of_data_can_be_turned(tmp_path: Path):
    settings = {
        "target": ["self", "label"],
        "clips.train": [48, 96],
        "connector.anchored": False,
        "connector.queries": 8,
    }
    cells = grid(tmp_path, settings=settings).cells
    assert {(c.target, c.preset.clips["train"]) for c in cells} == set(
        itertools.product(("self", "label"), (48, 96))
    )
    assert all(
        c.preset.connector.queries == 8 and c.preset.clips["test"] == NANO.clips["test"]
        for c in cells
    )
    assert presets.nano() == NANO


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"step": [40]},
            r"cannot change 'step'; it changes target, .*connector\.queries, .*clips\.train, "
            ".*steps, batch",
        ),
        ({"minutes": [1]}, "cannot change 'minutes'"),
        ({"connector": [1]}, "cannot change 'connector'"),
        ({"steps": ["many"]}, "steps takes int, not 'many'"),
        ({"steps": [True]}, "steps takes int, not True"),
        ({"connector.width": [0.5]}, r"connector.width takes int \| None, not 0.5"),
        (
            {"target": ["mine"]},
            "target is one of self, hard, instruction-free, label, template, other, not 'mine'",
        ),
        ({"connector.kind": "frame"}, "connector.kind is one of qformer, frames"),
        ({"steps": []}, "a value for each"),
        ({"connector.queries": [4, 8]}, "changes nothing while connector.anchored is true"),
    ],
)
def test_a_wrong_setting_is_one_sentence(settings: dict, sentence: str, tmp_path: Path):
    with pytest.raises(ValueError, match=sentence):
        grid(tmp_path, settings=settings)


def test_a_cell_does_not_depend_on_the_place_of_its_models(tmp_path: Path):
    one = tiny.hf_folder(tmp_path / "one", tiny.whisper())
    other = tiny.hf_folder(tmp_path / "other", tiny.whisper(seed=1))
    moved = Path(shutil.copytree(one, tmp_path / "moved"))
    keys = [Cell(replace(NANO, encoder=str(f)), "self", 0).key for f in (one, moved, other)]
    assert keys[0] == keys[1] != keys[2]


def test_a_model_of_ones_own_that_is_trained_again_is_another_cell(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("DESTA_LAB_DATA", str(tmp_path))
    keys = set()
    for seed in (0, 1):
        tiny.hf_folder(tmp_path / "models" / "mine", tiny.whisper(seed=seed))
        keys.add(Cell(replace(NANO, encoder="mine"), "self", 0).key)
    assert len(keys) == 2


def test_another_measurement_or_attention_is_another_cell():
    cell = make_cell(NANO, {}, 0)
    assert make_cell(NANO, {}, 0, measured="forgetting").key != cell.key
    assert make_cell(NANO, {"attention": "eager"}, 0).key != cell.key
    assert make_cell(replace(NANO, minutes=(9.0, 9.0)), {}, 0).key == cell.key


def test_other_attributes_are_another_cell_also_where_it_does_not_ask_about_them(monkeypatch):
    before = make_cell(NANO, {}, 0).key
    monkeypatch.setitem(ATTRIBUTES, "topic", ("food", "travel", "sport", "weather"))
    assert make_cell(NANO, {}, 0).key != before


def test_other_conditions_are_another_cell(monkeypatch: pytest.MonkeyPatch):
    before = make_cell(NANO, {}, 0).key
    monkeypatch.setattr(cells, "SCORED_CONDITIONS", (*cells.SCORED_CONDITIONS, "reversed"))
    assert make_cell(NANO, {}, 0).key != before


def test_settings_are_parsed_as_a_command_line_writes_them():
    assert parse_grid(["connector.width=null,64", "label=rate", "connector.anchored=false"]) == {
        "connector.width": [None, 64],
        "label": ["rate"],
        "connector.anchored": [False],
    }
    taps = {"[0,1]": [[0, 1]], "[0,1],null": [[0, 1], None], "[[0,1],[3]]": [[0, 1], [3]]}
    for text, values in taps.items():
        assert parse_grid([f"taps={text}"]) == {"taps": values}
    assert parse_slurm(["slurm_exclude=a,b", "timeout_min=60"]) == {
        "slurm_exclude": "a,b",
        "timeout_min": 60,
    }
