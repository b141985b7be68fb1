"""Presets are data; every one of them goes the same way, whatever the models."""

from dataclasses import replace

import pytest
import torch

from desta_lab.model import presets


def test_an_unknown_preset_names_the_ones_there_are():
    known = "nano, cpu, t4, workstation, desta25, desta2"
    with pytest.raises(ValueError, match=f"There is no preset 'gpu'; take one of {known}"):
        presets.get_preset("gpu")
    assert {presets.get_preset(name).name for name in presets.PRESETS} == set(presets.PRESETS)


@pytest.mark.parametrize(("name", "depth", "heads"), [("desta25", 6, 20), ("desta2", 2, 12)])
def test_the_published_systems_have_the_published_connector(name, depth, heads):
    preset = presets.get_preset(name)
    shape = preset.connector
    assert (shape.queries, shape.depth, shape.heads, shape.ffn) == (64, depth, heads, 3072)
    assert shape.post_norm
    assert not (shape.width or shape.scaled or shape.anchored)
    assert preset.seconds == 30.0


def test_only_desta2_names_its_own_taps_and_unused_options_enter_no_hash():
    taps = {name: presets.get_preset(name).taps for name in presets.PRESETS}
    assert taps.pop("desta2") == (1, 4, 7, 10)
    assert set(taps.values()) == {None}
    assert not any(
        set(presets.OPTIONS) & set(presets.hashed_fields(presets.get_preset(name))) for name in taps
    )
    assert {"taps", "train"} <= set(presets.hashed_fields(replace(presets.desta2(), train=48)))
    assert presets.replace(presets.desta2(), taps=(2, 5, 8, 11)).taps == (2, 5, 8, 11)


@pytest.mark.parametrize(
    ("memory_gb", "name"), [(16, "t4"), (24, "workstation"), (80, "workstation")]
)
def test_the_hardware_picks_the_preset(monkeypatch, memory_gb, name):
    class Gpu:
        total_memory = memory_gb * 1e9

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Gpu())
    assert presets.pick_preset().name == name


def test_without_a_gpu_the_cpu_preset_is_picked(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert presets.pick_preset().name == "cpu"
