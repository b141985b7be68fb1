"""Presets are data; every one of them goes the same way, whatever the models."""

import os
from dataclasses import MISSING, asdict, dataclass, fields, replace

import pytest

from desta_lab.evaluation.tasks import PROMPTS
from desta_lab.model import bounds, presets
from desta_lab.model.connector import ConnectorShape
from desta_lab.training.trainer import TrainConfig


def test_an_unknown_preset_names_the_ones_there_are():
    known = "nano, cpu, laptop, t4, workstation, desta25, desta2"
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
    used = {
        name: set(presets.OPTIONS) & set(bounds.hashed_fields(presets.get_preset(name)))
        for name in taps
    }
    assert used.pop("laptop") == {"every_checkpoint"} and not any(used.values())
    assert {"taps", "train"} <= set(bounds.hashed_fields(replace(presets.desta2(), train=48)))
    assert presets.replace(presets.desta2(), taps=(2, 5, 8, 11)).taps == (2, 5, 8, 11)


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
        (
            "connector",
            replace(presets.SMALL, pool=201),
            "connector.pool is 201, and clips have 200",
        ),
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
    with pytest.raises(ValueError, match=r"betas are 2 values, not \(0\.9,\)"):
        bounds.check_value("betas", (0.9,), tuple[bounds.Share, bounds.Share])


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


# ---- presets in files ----


def written(folder, text: str):
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def test_a_file_is_a_preset_of_its_own_name_that_starts_from_a_known_one(tmp_path):
    text = 'base = "cpu"\nsteps = 7\nlr = 1\ntaps = [0, 3]\nbetas = [0.8, 0.9]\n'
    text += "[connector]\ndepth = 4\n[clips]\ntrain = 48\n"
    preset = presets.get_preset(str(written(tmp_path, text)))
    assert (preset.name, preset.backbone, preset.minutes) == ("mine", "SmolLM2-135M-Instruct", None)
    assert (preset.steps, preset.lr, preset.taps, preset.betas) == (7, 1.0, (0, 3), (0.8, 0.9))
    assert preset.connector == replace(presets.SMALL, depth=4)
    assert preset.clips == {**presets.cpu().clips, "train": 48}
    (tmp_path / "llm").mkdir()
    alone = written(tmp_path, 'name = "own-1"\nencoder = "whisper-base"\nbackbone = "llm"\n')
    preset = presets.read_preset(alone)
    assert preset.name == "own-1" and preset.backbone == str(tmp_path / "llm")
    assert presets.part_id(preset.backbone) == "llm"
    assert presets.without_paths(preset)["backbone"] == "llm"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("steps =", "not TOML"),
        ('base = "mega"', "base is one of nano, cpu"),
        ("base = 3", "base is one of nano, cpu"),
        ("steps = 3", "encoder is missing; name it, or a base"),
        ('base = "cpu"\nstep = 3', "has no field 'step'; it has base, name"),
        ('base = "cpu"\nsteps = 0', "steps is a whole number from 1"),
        ('base = "cpu"\nsteps = "many"', "steps takes int, not 'many'"),
        ('base = "cpu"\nsteps = true', "steps takes int, not True"),
        ('base = "cpu"\ntaps = ["a"]', r"taps takes a list such as \[0,3\]"),
        ('base = "cpu"\nbetas = [0.9]', r"betas takes a list such as \[0.9,0.98\]"),
        (f'base = "cpu"\nbetas = [{10**400}, 0.9]', "betas takes a list"),
        (f'base = "cpu"\nlr = {10**400}', "lr takes float"),
        (f'base = "cpu"\nsteps = {"9" * 5000}', "a value is too large"),
        (f"base = 0x{'f' * 5000}", "digits"),
        (f"base = {'[' * 3000}", "a value is too large"),
        ('base = "cpu"\nconnector = 4', r"write it below a line \[connector\]"),
        ('base = "cpu"\n[connector]\ndeep = 4', r"\[connector\] has no 'deep'; it has kind"),
        ('base = "cpu"\n[connector]\ndepth = 0', "depth is a whole number from 1"),
        ('base = "cpu"\n[connector]\nheads = 7', "7 attention heads do not divide"),
        ('base = "cpu"\n[clips]\nall = 4', r"\[clips\] has no 'all'; it has train"),
        ('base = "cpu"\n[clips]\ntrain = 0', "clips is a whole number from 1"),
        ('base = "cpu"\nname = "../x"', "not '../x'"),
        ('base = "cpu"\nname = "nano"', "no other preset's"),
        ('base = "cpu"\nbackbone = " "', "backbone is the name or folder of a model"),
        ('base = "cpu"\nencoder = ""', "encoder is the name or folder of a model"),
        ('base = "cpu"\ntest = 1', "Shuffled audio needs two test clips"),
        ('base = "cpu"\ntuning = "banana"', "tuning is 'frozen'"),
    ],
)
def test_a_wrong_file_is_one_sentence_that_names_file_and_field(text: str, words: str, tmp_path):
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=words) as fault:
        presets.get_preset(path)
    assert str(fault.value).startswith(f"{path}: ") and "\n" not in str(fault.value)


def test_a_new_option_changes_no_hash_of_what_does_not_use_it():
    @dataclass(frozen=True)
    class Later(TrainConfig):
        noise: float = bounds.option(0.0)

    before = bounds.hashed_fields(TrainConfig(1))
    assert {"warmup", "betas", "seed"} <= before.keys()
    assert bounds.hashed_fields(Later(1)) == before
    assert bounds.hashed_fields(Later(1, noise=0.5)) == {**before, "noise": 0.5}


def test_a_new_option_of_the_connector_changes_no_hash_either():
    @dataclass(frozen=True)
    class Shape(ConnectorShape):
        gate: bool = bounds.option(False)

    nano = presets.nano()
    wide, gated = (replace(nano, connector=Shape(depth=2, gate=gate)) for gate in (False, True))
    assert bounds.hashed_fields(wide)["connector"] == {**asdict(ConnectorShape()), "depth": 2}
    assert bounds.hashed_fields(gated)["connector"]["gate"] is True
    unused = bounds.unused_options(nano)
    assert bounds.unused_options(wide) == {*unused, "connector.gate"}
    assert bounds.unused_options(gated) == unused


def test_what_trains_is_the_same_in_a_preset_as_in_a_training_config():
    config, preset = TrainConfig(1), presets.nano()
    usual = {one.name for one in fields(TrainConfig) if one.default is not MISSING} - {"seed"}
    assert usual >= {"warmup", "floor", "betas", "weight_decay", "max_grad_norm"}
    for name in usual & presets.OPTIONS.keys():
        assert getattr(config, name) == getattr(preset, name)
    required = {one.name for one in fields(presets.Preset)} - presets.OPTIONS.keys()
    assert {one.name for one in fields(TrainConfig)} - {"seed"} <= required | presets.OPTIONS.keys()


def test_a_model_in_a_folder_whose_name_is_no_utf_8_has_one_that_any_file_takes(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    preset = presets.change_parts(presets.nano(), backbone=str(folder))
    assert presets.without_paths(preset)["backbone"] == "caf\ufffd"
    assert len(presets.name_changes(preset, {})) == 8
