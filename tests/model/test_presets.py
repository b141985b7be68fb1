"""Presets are data; every one of them goes the same way, whatever the models."""

from dataclasses import replace

import pytest
import torch

from desta_lab.evaluation.tasks import PROMPTS
from desta_lab.model import presets
from desta_lab.training.trainer import TrainConfig


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


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("steps", -1, "steps is a whole number from 1 to 1000000000, not -1"),
        ("batch", 0, "batch is a whole number from 1 to 1000000000, not 0"),
        ("lr", -1.0, "lr is a number above 0, not -1.0"),
        ("lr", float("inf"), "lr is a number above 0, not inf"),
        ("steps", 10**11, "steps is a whole number from 1 to 1000000000, not 100000000000"),
        ("prompts", 7, "prompts is a whole number from 1 to 6, not 7"),
        ("clips", {"train": 0, "validation": 8, "test": 8}, "clips is a whole number from 1 to"),
        ("train", 0, "train is a whole number from 1 to 1000000000, not 0"),
        ("taps", (), "taps are different layers from 0, at least one"),
        ("taps", (1, 1), "taps are different layers from 0, at least one"),
        ("taps", (-1, 1), "taps are different layers from 0, at least one"),
        ("seconds", 31.0, "seconds is 31, and Whisper hears at most 30 s"),
        ("seconds", 0.03, "seconds is 0.03, no whole number of encoder frames; take a multiple of"),
        ("seconds", 1e-9, "seconds is 1e-09, no whole number of encoder frames"),
        ("tuning", "banana", "tuning is 'frozen', 'full' or such as 'lora-8'"),
        ("attention", "banana", "attention is one of sdpa, eager, .*, not 'banana'"),
        ("accumulate", 99, "A batch of 16 has no row for each of 99 micro-batches"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_before_anything_is_loaded(field, value, words):
    with pytest.raises(ValueError, match=words):
        replace(presets.nano(), **{field: value})


def test_the_most_prompts_of_a_preset_are_all_there_are():
    assert replace(presets.nano(), prompts=len(PROMPTS)).prompts == 6
    with pytest.raises(ValueError, match="prompts is"):
        replace(presets.nano(), prompts=len(PROMPTS) + 1)


def test_a_run_of_no_steps_is_refused():
    with pytest.raises(ValueError, match="steps is a whole number from 1 to 1000000000, not 0"):
        TrainConfig(steps=0)
    with pytest.raises(ValueError, match=r"betas is a number from 0 to below 1, not 1\.0"):
        TrainConfig(steps=1, betas=(0.9, 1.0))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("heads", 7, "7 attention heads do not divide a width of 256"),
        ("depth", 0, "depth is a whole number from 1 to 1000000000, not 0"),
        ("dropout", 1.0, "dropout is a number from 0 to below 1, not 1.0"),
        ("kind", "banana", "no connector 'banana'; take one of qformer, frames"),
    ],
)
def test_a_connector_that_cannot_be_is_refused(field, value, words):
    with pytest.raises(ValueError, match=words):
        replace(presets.SMALL, **{field: value})
