"""Commands speak in sentences, say what they cost, and fail without a traceback."""

import argparse
import ast
import dataclasses
import hashlib
import importlib
import io
import json
import os
import re
import socket
import sys
import warnings
from functools import cache as cache_once
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from desta_lab import audio, cache, cli, doctor
from desta_lab.audio import RATE
from desta_lab.bench import ratios
from desta_lab.course import finished, notebooks
from desta_lab.experiments import experiment, sweep
from desta_lab.model import backbone, build, nano, presets, runs, weights
from desta_lab.views import progress, saving
from desta_lab.views.progress import progress_reporter
from tests import tiny

ROOT = Path(__file__).parents[1]


def test_doctor_names_every_check_and_its_remedy(capsys, monkeypatch):
    assert cli.main(["doctor"]) in (0, 1)
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith(("OK  ", "FAIL")) for line in lines)
    for part in ("python", "packages", "torch", "weights", "disk", "preset"):
        assert any(part in line for line in lines), part


def test_doctor_fails_on_a_version_out_of_range(monkeypatch):
    monkeypatch.setattr(doctor.importlib.metadata, "version", lambda name: "0.0.1")
    rows = {name: (ok, finding) for name, ok, finding in doctor.check_machine()}
    ok, finding = rows["packages"]
    assert not ok and "outside" in finding and "pip install" in finding


def test_doctor_measures_the_disk_that_a_new_data_folder_will_be_on(monkeypatch, tmp_path):
    monkeypatch.setenv("DESTA_LAB_DATA", str(tmp_path / "not" / "yet"))
    measured = []

    def free_space(folder):
        measured.append(folder)
        return SimpleNamespace(free=5e12)

    monkeypatch.setattr(doctor.shutil, "disk_usage", free_space)
    doctor.check_machine()
    assert measured == [tmp_path]


def test_doctor_says_how_to_install_a_package_that_only_lies_there(monkeypatch):
    def unknown(name):
        raise doctor.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.importlib.metadata, "requires", unknown)
    rows = {name: (ok, finding) for name, ok, finding in doctor.check_machine()}
    ok, finding = rows["packages"]
    assert not ok and "desta-lab itself is not installed; run `pip install" in finding


def test_a_benchmark_waits_for_the_gpu_before_and_after_what_it_times(monkeypatch):
    events = []
    monkeypatch.setattr(ratios.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(ratios.torch.cuda, "synchronize", lambda: events.append("wait"))
    monkeypatch.setattr(ratios.time, "perf_counter", lambda: events.append("clock") or 0.0)
    ratios.medians(rounds=1, step=lambda: events.append("step"))
    assert events == ["wait", "clock", "step", "wait", "clock"] * 2


def test_the_nano_preset_needs_no_download_of_its_backbone():
    assert "nano from the model hub" not in doctor.describe_cost(presets.nano())


def test_the_cost_is_said_or_said_to_be_unknown():
    assert "minutes on two CPU cores" in doctor.describe_cost(presets.cpu())
    assert "not measured" in doctor.describe_cost(presets.t4())


@pytest.mark.parametrize(
    "dtype, minutes",
    [(torch.bfloat16, "23 minutes on two CPU cores,"), (torch.float32, "53 minutes on two CPU")],
)
def test_the_minutes_said_at_the_start_are_those_of_this_kind_of_cpu(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, minutes: str
) -> None:
    monkeypatch.setattr(build, "pick_dtype", lambda device: dtype)
    assert f"about {minutes}" in doctor.describe_cost(presets.cpu())


def test_what_will_be_downloaded_is_said_before_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "is_installed", lambda name: False)
    said = doctor.describe_cost(presets.laptop())
    first = "a download of 71 MB and about 1000 MB, Qwen/Qwen2.5-Coder-0.5B-Instruct, from the"
    assert f"{first} model hub first" in said
    monkeypatch.setattr(weights, "is_installed", lambda name: True)
    assert "no download" in doctor.describe_cost(presets.laptop())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_minutes_that_only_one_kind_of_cpu_has_are_said_of_that_kind_alone(monkeypatch, dtype):
    monkeypatch.setattr(build, "pick_dtype", lambda device: dtype)
    known = "about 33 minutes" in doctor.describe_cost(presets.laptop())
    assert known == (dtype is torch.bfloat16)
    assert known or "not measured on this kind of machine" in doctor.describe_cost(presets.laptop())


def test_an_unknown_preset_is_one_sentence(capsys):
    assert cli.main(["quickstart", "--preset", "mega"]) == 1
    assert capsys.readouterr().err.strip() == (
        "ValueError: There is no preset 'mega'; take one of nano, cpu, laptop, t4, workstation, "
        "desta25, desta2."
    )


def test_ask_without_a_run_says_how_to_make_one(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setenv("DESTA_LAB_DATA", str(tmp_path))
    monkeypatch.setattr(finished, "FOLDER", tmp_path)  # and none ships
    wave = np.sin(np.arange(RATE) / 10)
    soundfile.write(tmp_path / "a.wav", wave, RATE)
    assert cli.main(["ask", str(tmp_path / "a.wav"), "What is it?"]) == 1
    assert "python -m desta_lab quickstart" in capsys.readouterr().err


def test_a_run_that_was_trained_with_transcripts_is_asked_with_them(tmp_path, capsys, monkeypatch):
    from desta_lab.model.audio_llm import Generation

    soundfile.write(tmp_path / "a.wav", np.sin(np.arange(RATE) / 10), RATE)
    runs.index_path(tmp_path).parent.mkdir()
    runs.checkpoint_path(tmp_path, 300).write_bytes(b"")
    last = {"step": 300, "sha256": hashlib.sha256(b"").hexdigest(), "loss": None}
    runs.index_path(tmp_path).write_text(json.dumps([last]))
    asked = []

    def generate(messages, with_transcript=False, **how):
        asked.append(with_transcript)
        return Generation(["yes"], [(1,)], [[("a.wav", "hello")]])

    llm = tiny.audio_llm()
    monkeypatch.setattr(llm, "generate", generate)
    monkeypatch.setattr(runs, "open_connector", lambda *given, **how: llm)
    for config, said in (("{}", False), ('{"transcript": true}', True)):
        (tmp_path / "config.json").write_text(config)
        line = ["ask", str(tmp_path / "a.wav"), "What is it?", "--run", str(tmp_path)]
        assert cli.main(line) == 0
        assert ("hello" in capsys.readouterr().out) == said
    assert asked == [False, False, True, False]  # with the clip, and without it


def test_a_saved_connector_that_was_trained_with_transcripts_is_asked_with_them(
    tmp_path, capsys, monkeypatch
):
    from desta_lab.model.audio_llm import AudioLLM, Generation

    soundfile.write(tmp_path / "a.wav", np.sin(np.arange(RATE) / 10), RATE)
    (tmp_path / "model.safetensors").write_bytes(b"")
    asked = []

    class Saved:
        encoder, glass_box, transcript = SimpleNamespace(seconds=30), False, True

        def generate(self, messages, with_transcript=False, **how):
            asked.append(with_transcript)
            return Generation(["yes"], [(1,)], [[("a.wav", "hello")]])

    monkeypatch.setattr(AudioLLM, "from_pretrained", lambda *place, **how: Saved())
    assert cli.main(["ask", str(tmp_path / "a.wav"), "What is it?", "--run", str(tmp_path)]) == 0
    assert "hello" in capsys.readouterr().out and asked == [True, False]


def test_inside_opens_the_run_of_a_corpus_of_ones_own(tmp_path, capsys, monkeypatch):
    from desta_lab.experiments import experiment, inside, inside_seeds

    assert inside.Inside and inside_seeds  # imported before what it takes is replaced

    given = {}

    class Stop(ValueError):
        pass

    def take(preset, **how):
        given.update(how)
        raise Stop("enough")

    monkeypatch.setattr(experiment, "Experiment", take)
    line = ["inside", "--preset", "nano", "--corpus", str(tmp_path), "--label", "mood"]
    assert cli.main(line) == 1 and "enough" in capsys.readouterr().err
    assert given["corpus"] == tmp_path and given["label"] == "mood" and given["seed"] == 0
    for seeds in (["--seed", "3"], ["--seeds", "3,4"]):
        assert cli.main([*line, *seeds]) == 1 and given["seed"] == 3


@pytest.mark.filterwarnings("default")
def test_a_warning_of_this_package_is_one_line(capsys, monkeypatch):
    def warn(args):
        warnings.warn("Two clips are long.", audio.DataWarning, stacklevel=1)
        return 0

    monkeypatch.setitem(cli.COMMANDS, "doctor", cli.Command((), warn))
    assert cli.main(["doctor"]) == 0
    assert capsys.readouterr().err == "Note: Two clips are long.\n"


def test_progress_without_a_terminal_is_a_line_at_a_time():
    out = io.StringIO()
    tell = progress_reporter(out)("features")
    tell("Downloading …")
    for done in range(1, 4):
        tell(done, 3, {"loss": 0.5})
    assert out.getvalue().splitlines()[0] == "Downloading …"
    assert out.getvalue().splitlines()[-1].startswith("features: 3/3, loss 0.500")
    assert (
        len(out.getvalue().splitlines()) == 2
    )  # nothing in between: less than five seconds went by


def test_no_bar_flashes_up(monkeypatch: pytest.MonkeyPatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def shown(done: int) -> str:
        clock = iter([0.0, 1.5, 1.6, 1.7])
        with monkeypatch.context() as patch:
            patch.setattr(progress.time, "perf_counter", lambda: next(clock))
            tell = progress_reporter(Terminal())("features")
            tell(done, 4)
        tell(4, 4)
        return capsys.readouterr().err

    assert shown(3) == "" and "features" in shown(1)  # half a second is left, and four and a half


def test_a_bar_in_a_notebook_is_empty_at_the_end(monkeypatch: pytest.MonkeyPatch):
    """Of a widget's bar a saved page would keep how it began: `corpus: 0%| 1/1056`."""
    told = []

    class Handle:
        def update(self, content, **how):
            told.append(content)

    def display(content, **how):
        told.append(content)
        return Handle()

    clock = iter([0.0, 0.5, 1.5, 1.6, 3.0, 4.0])
    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(clock))
    tell = progress._report_in_notebook("corpus")
    for done in (1, 2, 3, 5, 10):
        tell(done, 10)
    assert [content["text/plain"].split(",")[0] for content in told] == [
        "corpus: 2/10",
        "corpus: 5/10",
        "",
    ]


# ---- refused before work begins ----


class WorkBegan(BaseException):
    """A command went on to what takes long, or wrote a result."""


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where work would begin, the test fails."""

    def begin(*args, **how):
        raise WorkBegan

    for owner, name in (
        (experiment.Experiment, "train"),
        (experiment.Experiment, "oracle"),
        (experiment.spoken, "build_spoken_corpus"),
        (sweep.Sweep, "_measure"),
        (nano, "train_nano"),
        (build, "build_audio_llm"),
        (backbone.Backbone, "load"),
        (notebooks, "run_notebook"),
        (cache, "write_whole"),
    ):
        monkeypatch.setattr(owner, name, begin)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of things that no command can use, beside a clip, a row and an encoder."""
    here = tmp_path_factory.mktemp("here")
    (here / "data").mkdir()
    (here / "empty").mkdir()
    (here / "file").write_text("x")
    (here / "none.wav").write_bytes(b"")
    (here / "none.jsonl").write_text("\n")
    (here / "torn.jsonl").write_text('{"id": "a"\n')
    row = '{"id": "a", "seed_description": "A man.", "prompt": "Who?"}\n'
    (here / "row.jsonl").write_text(row)
    soundfile.write(here / "a.wav", np.sin(np.arange(RATE) / 10), RATE)
    tiny.hf_folder(here / "encoder", tiny.whisper())
    (here / "mine.toml").write_text('base = "nano"\nsteps = 9\n')
    (here / "wrong.toml").write_text('base = "nano"\nsteps = 0\n')
    (here / "far.toml").write_text('base = "nano"\nbackbone = "nope"\n')
    (here / "list.toml").write_text('base = ["nano"]\n')
    (here / "utf16.toml").write_text('base = "nano"\n', encoding="utf-16")
    os.mkfifo(here / "pipe")
    tiny.recordings(here / "own")
    return here


BOUND = "whole number from"
SWEPT = {  # value of --set → words of the sentence
    "steps=-1": f"steps is a {BOUND} 1",
    "steps=5,5": "steps=5,5 has a value twice",
    "steps=0": f"steps is a {BOUND} 1",
    "steps=40,0": f"steps is a {BOUND} 1",
    "steps=99999999999": f"steps is a {BOUND} 1 to 1000000000",
    "steps=1e400": "steps takes int, not inf",
    "steps=true": "steps takes int, not True",
    "steps=null": "steps takes int, not None",
    "steps=many": "steps takes int, not 'many'",
    "steps={}": "steps takes int",
    "steps=[40,80]": "steps takes int",
    "steps=": "'steps=' sets nothing",
    "steps": "'steps' sets nothing",
    "=4": "'=4' sets nothing",
    "steps=4,,5": "has an empty value",
    "batch=0": f"batch is a {BOUND} 1",
    "accumulate=99": "no row for each of 99",
    "lr=-1": "lr is a number above 0",
    "lr=0": "lr is a number above 0",
    "lr=Infinity": "lr is a number above 0, not inf",
    "lr=NaN": "lr is a number above 0, not nan",
    "lr=nan": "lr takes float",
    f"lr=1{'0' * 400}": "lr takes float",
    "train=0": f"train is a {BOUND} 1",
    "train=99999": "clips.train makes 768 clips",
    "test=99999": "clips.test makes 192 clips",
    "test=1": "Shuffled audio needs two test clips",
    "held_out=0": f"held_out is a {BOUND} 1",
    "free_form_clips=0": f"free_form_clips is a {BOUND} 1",
    "checkpoint_every=0": f"checkpoint_every is a {BOUND} 1",
    "prompts=0": f"prompts is a {BOUND} 1 to 6",
    "prompts=7": f"prompts is a {BOUND} 1 to 6",
    "seconds=0": "seconds is a number above 0",
    "seconds=31": "seconds is 31",
    "taps=[]": "taps are different layers",
    "taps=[0,0]": "taps are different layers",
    "taps=[-1]": "taps are different layers",
    'taps=[0,"a"]': "taps takes a list such as [0,3]",
    "taps=[0,1.5]": "taps takes a list such as [0,3]",
    "taps={}": "taps takes a list such as [0,3]",
    "taps=last": "taps takes a list such as [0,3]",
    "clips.train=0": f"clips is a {BOUND} 1",
    "clips.train=-5": f"clips is a {BOUND} 1",
    "clips.nope=1": "cannot change 'clips.nope'",
    "tuning=banana": "tuning is 'frozen', 'full' or",
    "tuning=lora-0": "tuning is 'frozen', 'full' or",
    "attention=banana": "attention is one of",
    "transcript=1": "transcript takes bool",
    "label=nope": "label is one of",
    "target=nope": "target is one of",
    "target=other": "nano is the backbone here",
    "backbone=nope": "'nope' is no folder, no known name",
    "encoder=nope": "'nope' is no folder, no known name",
    "heads=7": "cannot change 'heads'",
    "nope=1": "cannot change 'nope'",
    "name=x": "cannot change 'name'",
    "connector=1": "cannot change 'connector'",
    "connector.nope=1": "cannot change 'connector.nope'",
    "connector.heads=7": "7 attention heads do not divide",
    "connector.queries=0": f"queries is a {BOUND} 1",
    "connector.queries=4": "changes nothing while connector.anchored",
    "connector.width=0": f"width is a {BOUND} 1",
    "connector.kind=nope": "connector.kind is one of",
    "connector.dropout=1": "dropout is a number from 0 to below 1",
    "steps=40 --set steps=80": "steps is set twice",
    "warmup=5 --set train_config.warmup=6": "warmup is set twice",
    "train_config.warmup=-1": f"warmup is a {BOUND} 0",
    "train_config.warmup=null": "warmup takes int, not None",
    "train_config.nope=1": "cannot change 'nope'",
    "floor=1": "floor is a number from 0 to below 1",
    "betas=[0.9]": "betas takes a list such as [0.9,0.98]",
    "betas=[0.9,2]": "betas is a number from 0 to below 1",
    "betas=null": "betas takes a list such as [0.9,0.98]",
    "steps=4 --corpus {here}/nope": "no such folder",
    "encoder={here}/encoder --set taps=[9]": "must lie in 0 … 3",
    "encoder={here}/encoder --set connector.width=null --set connector.heads=7": "7 attention",
}
NO_FOLDER = "is no folder that can be written"
REFUSED = {  # command line → words of the sentence
    **{f"sweep --preset nano --set {value}": words for value, words in SWEPT.items()},
    "sweep --preset nope": "There is no preset 'nope'",
    "sweep --preset nano --seeds -1": "'-1' is not a whole number from 0",
    "sweep --preset nano --seeds a": "'a' is not a whole number from 0",
    "sweep --preset nano --seeds 0,,1": "'' is not a whole number from 0",
    "sweep --preset nano --seeds=": "'' is not a whole number from 0",
    "sweep --preset nano --seeds 0,1,0": "'0,1,0' names a seed twice",
    "emerge --seeds 0,0": "'0,0' names a seed twice",
    "ablate depth --seeds 2,2": "'2,2' names a seed twice",
    "sweep --preset nano --jobs 0": "'0' is not a whole number from 1",
    "sweep --preset nano --jobs -1": "'-1' is not a whole number from 1",
    "sweep --preset nano --slurm x": "'x' sets nothing",
    "sweep --preset nano --jobs 2 --slurm a=1": "give one",
    "ablate depth --jobs 0 --retry": "--retry runs what failed; give one",
    "sweep --preset nano --slurm a=1 --slurm a=2": "a is set twice",
    "sweep --preset nano --out {here}/file": NO_FOLDER,
    "quickstart --preset nope": "There is no preset 'nope'",
    "quickstart --preset nano --steps 0": "'0' is not a whole number from 1",
    "quickstart --preset nano --steps -1": "'-1' is not a whole number from 1",
    "quickstart --preset nano --steps x": "'x' is not a whole number from 1",
    "quickstart --preset nano --steps 99999999999": "from 1 to 1000000000",
    "quickstart --preset nano --seeds -1": "'-1' is not a whole number from 0",
    "quickstart --preset nano --seeds 0,1 --test-voices {here}": "tests the run of one seed",
    "quickstart --preset nano --test-voices {here} --track tensorboard": "trains nothing",
    "quickstart --preset nano --test-voices {here}/empty": "0 CSV files, and none is clips.csv",
    "quickstart --preset nano --accumulate 0": "'0' is not a whole number from 1",
    "quickstart --preset nano --accumulate 99": "no row for each of 99",
    "quickstart --preset nano --batch 0": "unrecognized arguments: --batch 0",
    "quickstart --preset {here}/nope.toml": "nope.toml: no such file",
    "quickstart --preset {here}/wrong.toml": "wrong.toml: steps is a whole number from 1",
    "quickstart --preset {here}/far.toml": "'nope' is no folder, no known name",
    "quickstart --preset {here}/list.toml": "list.toml: base is one of nano, cpu",
    "quickstart --preset {here}/utf16.toml": "utf16.toml: no text in UTF-8",
    "quickstart --preset=": "There is no preset ''",
    "quickstart --preset nano --out=": "argument --out: it is empty",
    "quickstart --preset nano --corpus=": "argument --corpus: it is empty",
    "quickstart --preset nano --backbone nope": "'nope' is no folder, no known name",
    "quickstart --preset nano --backbone {here}/file": "file' is no folder, no known name",
    "quickstart --preset nano --encoder ../x": "'../x' is no folder, no known name",
    "quickstart --preset nano --encoder a/b/c": "'a/b/c' is no folder, no known name",
    "quickstart --preset nano --backbone=": "backbone is the name or folder of a model",
    "quickstart --preset nano --encoder {here}/empty": "has no config.json",
    "inside --preset {here}/wrong.toml": "wrong.toml: steps is a whole number from 1",
    "inside --preset nano --encoder nope": "'nope' is no folder, no known name",
    "sweep --preset {here}/wrong.toml": "wrong.toml: steps is a whole number from 1",
    "demo --preset {here}/wrong.toml": "wrong.toml: steps is a whole number from 1",
    "emerge --preset {here}/wrong.toml": "wrong.toml: steps is a whole number from 1",
    "ablate --preset {here}/mine.toml": "of preset mine; take one of nano, cpu, laptop, or name",
    "course --run --only 01 --preset {here}/wrong.toml": "wrong.toml: steps is a whole number",
    "ask {here}/a.wav What? --backbone nano": "give that with --published",
    "ask {here}/a.wav What? --published {here}/file --preset nope": "There is no preset 'nope'",
    "quickstart --preset nano --track x": "invalid choice: 'x'",
    "quickstart --preset nano --label nope": "the label is one of",
    "quickstart --preset nano --label=": "the label is one of",
    "quickstart --preset nano --corpus {here}/nope": "nope: no such folder; give a",
    "quickstart --preset nano --corpus {here}/file": "file: no such folder; give a",
    "quickstart --preset nano --corpus {here}/empty": "empty: it has no clips.csv; give a folder",
    "quickstart --preset nano --out {here}/file": NO_FOLDER,
    "quickstart --preset nano --out {here}/file/x": NO_FOLDER,
    "inside --preset nope": "There is no preset 'nope'",
    "inside --preset nano --run nope": "invalid choice: 'nope'",
    "inside --preset nano --seed -1": "'-1' is not a whole number from 0",
    "inside --preset nano --seeds 1,1": "'1,1' names a seed twice",
    "inside --preset nano --out {here}/file": NO_FOLDER,
    "ablate nope": "There is no study 'nope'",
    "ablate --preset nope": "There is no preset 'nope'",
    "ablate --preset t4": "No study is of preset t4; take one of nano, cpu",
    "ablate depth --jobs 0": "No study of depth has two finished arms of preset nano to draw",
    "ablate --jobs -1": "'-1' is not a whole number from 0",
    "ablate --seeds -1": "'-1' is not a whole number from 0",
    "ablate --out {here}/file": NO_FOLDER,
    "emerge --preset nope": "There is no preset 'nope'",
    "emerge --seeds -1": "'-1' is not a whole number from 0",
    "emerge --checkpoint-every 0": "'0' is not a whole number from 1",
    "emerge --out {here}/file": NO_FOLDER,
    "course --only 99": "There is no notebook 99",
    "course --only=": "There is no notebook",
    "course --run --only 01 --preset nope": "There is no preset 'nope'",
    "write {here}/none.jsonl {here}/o --backbone nano": "no row here",
    "write {here}/torn.jsonl {here}/o --backbone nano": "torn.jsonl, line 1: not JSON",
    "write {here}/nope {here}/o --backbone nano": "nope: no such file",
    "write {here}/empty {here}/o --backbone nano": "empty: no plain file; name a JSONL file",
    "write {here}/pipe {here}/o --backbone nano": "pipe: no plain file; name a JSONL file",
    "write {here}/row.jsonl '' --backbone nano": "argument folder: it is empty",
    "write {here}/row.jsonl {here}/o --backbone=": "'' is no folder, no known name",
    "write {here}/row.jsonl {here}/o --backbone nano --server=": "'' is no address of a server",
    "ask {here}/a.wav What? --preset=": "give that with --published",
    "write {here}/row.jsonl {here}/file --backbone nano": NO_FOLDER,
    "write {here}/row.jsonl {here}/o --backbone nope": "'nope' is no folder, no known name",
    "write {here}/row.jsonl {here}/o --backbone nano --shard 0": "'0' is not a whole number from 1",
    "write {here}/row.jsonl {here}/o --backbone nano --tokens 0": "'0' is not a whole number",
    "write {here}/row.jsonl {here}/o --backbone nano --server x": "'x' is no address of a server",
    "demo --preset nope": "There is no preset 'nope'",
    "demo --preset nano --port 0": "'0' is not a whole number from 1 to 65535",
    "demo --preset nano --port 99999": "'99999' is not a whole number from 1 to 65535",
    "nano {here}/file": NO_FOLDER,
    "nano {here}/file/x": NO_FOLDER,
    "ask {here}/nope.wav What?": "no such file",
    "ask {here}/empty What?": "no plain file",
    "ask {here}/none.wav What?": "the file has 0 bytes",
    "ask {here}/file What?": "not readable as audio",
    "ask {here}/a.wav ''": "There is no question",
    "ask {here}/a.wav What? --run {here}/nope": "no checkpoints of a run here",
    "ask {here}/a.wav What? --run {here}/empty": "no checkpoints of a run here",
    "ask {here}/a.wav What? --run {here}/file": "no checkpoints of a run here",
    "ask {here}/a.wav What? --preset desta2": "give that with --published",
    "ask {here}/a.wav What? --published {here}/file --run {here}/empty": "give one",
    "score {here}/empty": "files of no test set here",
    "score {here}/nope": "files of no test set here",
    "score {here}/empty --benchmark sakura": "no question here",
    "score {here}/empty --benchmark nope": "There is no test set 'nope'",
    "score {here}/empty --benchmark sakura --text {here}/file": "--text is about Speech-IFEval",
    "answer {here}/empty --out {here}/o": "files of no test set here",
    "answer {here}/empty --out {here}/o --tokens 0": "'0' is not a whole number from 1",
    "parity {here}/empty": "no desta25.json here",
    "class {here}/empty": "no card here",
    "class {here}/nope": "no card here",
    "nope": "invalid choice: 'nope'",
}


def run_command(line: str, here: Path) -> int:
    """The exit status of a command line."""
    try:
        return cli.main([word.replace("{here}", str(here)) for word in split(line)])
    except SystemExit as end:  # argparse's
        return int(end.code or 0)


def split(line: str) -> list[str]:
    """The words of a command line; quotes within a word stay, as in taps=[0,"a"]."""
    return ["" if word == "''" else word for word in line.split()]


@pytest.mark.parametrize("line", REFUSED)
def test_what_cannot_be_is_refused_in_a_sentence_before_work_begins(
    line: str, here: Path, no_work: None, capsys, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DESTA_LAB_DATA", str(here / "data"))
    assert run_command(line, here) in (1, 2)
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert REFUSED[line] in last


@pytest.mark.parametrize(
    "line",
    [
        "sweep --preset nano --set steps=40,80 --set lr=1e-3,1",
        "sweep --preset nano --set taps=[0,1]",
        "sweep --preset nano --set taps=[0,1],[3],null",
        "sweep --preset nano --set train_config.warmup=5,10 --set betas=[0.9,0.95],[0.9,0.99]",
        "sweep --preset {here}/mine.toml --backbone SmolLM2-135M-Instruct --set floor=0.2",
        "sweep --preset nano --corpus {here}/own --set label=manner,scene",
        "quickstart --preset {here}/mine.toml --out {here}/new",
        "ablate depth --preset {here}/mine.toml --out {here}/new/mine",
        "sweep --preset nano --set connector.width=null,64 --set label=rate,scene",
        "quickstart --preset nano --steps 1 --seeds 0 --accumulate 1 --out {here}/new",
        "write {here}/row.jsonl {here}/new --backbone nano --shard 1 --tokens 1",
        "nano {here}/new",
        "ablate depth --out {here}/new/nano",
    ],
)
def test_what_can_be_begins(line: str, here: Path, no_work: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DESTA_LAB_DATA", str(here / "data"))
    with pytest.raises(WorkBegan):
        run_command(line, here)


def test_no_steps_are_not_the_steps_of_the_preset(monkeypatch: pytest.MonkeyPatch, no_work: None):
    seen = []
    monkeypatch.setattr(experiment.Experiment, "train", lambda one, kind: seen.append(one.preset))
    monkeypatch.setattr(experiment.Experiment, "evaluate", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["quickstart", "--preset", "nano", "--steps", "7", "--accumulate", "2"])
    assert {(one.steps, one.accumulate) for one in seen} == {(7, 2)}


def test_a_demo_without_its_package_or_its_port_is_refused_before_training(
    no_work: None, capsys, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert cli.main(["demo", "--preset", "nano"]) == 1
    assert "The demo needs Gradio" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "gradio", argparse)  # anything that can be imported
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
        assert cli.main(["demo", "--preset", "nano", "--port", str(port)]) == 1
    assert f"Port {port} cannot be opened" in capsys.readouterr().err


def test_a_tracker_without_its_package_is_refused_before_work(no_work: None, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert cli.main(["quickstart", "--preset", "nano", "--track", "wandb"]) == 1
    assert "run `pip install wandb`, or leave --track out" in capsys.readouterr().err


def test_forms_that_cannot_be_saved_are_refused_before_work(no_work: None, capsys, monkeypatch):
    assert cli.main(["quickstart", "--preset", "nano", "--also", "pdf,doc"]) == 1
    assert "There is no form 'doc'" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert cli.main(["sweep", "--preset", "nano", "--also", "parquet"]) == 1
    assert "run `pip install pyarrow`" in capsys.readouterr().err
    assert saving.ALSO_VARIABLE not in os.environ


# ---- what a message says ----


def options_of(command: str) -> set[str]:
    """The options of a command, or of all."""
    chosen = cli.COMMANDS.values() if command == "" else [cli.COMMANDS[command]]
    return {name for one in chosen for names, _ in one.arguments for name in names} | {"--help"}


@cache_once
def messages() -> list[tuple[str, str]]:
    """What every statement of the package says, as one text, with its file."""
    found = []
    for path in sorted((ROOT / "desta_lab").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in (one for one in ast.walk(tree) if isinstance(one, ast.Raise | ast.Expr)):
            parts = [one.value for one in ast.walk(node) if isinstance(one, ast.Constant)]
            found.append((path.name, " ".join(part for part in parts if isinstance(part, str))))
    return found


def documents() -> list[tuple[str, str]]:
    """Every line of the documents that show commands."""
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    paths += sorted((ROOT / "notebooks").glob("*.md"))
    return [
        (path.name, line)
        for path in paths
        for line in path.read_text(encoding="utf-8").splitlines()
    ]


# of other programs: git, pip, hf, vllm, accelerate
FOREIGN = {"--depth", "--dest", "--no-deps", "--no-input", "--only-binary", "--quiet", "--revision"}
FOREIGN |= {"--local-dir", "--served-model-name", "--multi_gpu", "--num_processes", "--cpu"}


def test_every_option_that_is_named_is_one_of_the_command_line():
    named = {
        (name, option)
        for name, text in messages() + documents()
        for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", text)
    }
    assert len(named) > 40
    assert not {pair for pair in named if pair[1] not in options_of("") | FOREIGN}


def test_every_command_that_is_shown_has_the_options_it_is_shown_with():
    shown = [
        (where, found)
        for where, text in messages() + documents()
        for found in re.findall(r"-m desta_lab ([a-z]+)([^`\n|#]*)", text)
    ]
    assert len(shown) > 15
    for where, (command, rest) in shown:
        options = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", rest))
        assert options <= options_of(command), f"{where}: {command} {rest}"


def test_no_message_of_a_command_names_an_argument_that_only_python_has():
    only = re.compile(r"\b(quantise|offload|force)=")
    words = [text for name, text in messages() if name != "probes.py" and only.search(text)]
    assert words and all("in Python `published.systems.open_system`" in text for text in words)


@pytest.mark.parametrize(
    ("line", "less"),
    [
        (["inside"], ", or take less by --preset or --backbone or --encoder"),
        (["answer", "sakura", "--out", "answers"], ", or take less by --tokens"),
        (["bench"], ""),
    ],
)
def test_memory_that_runs_out_is_one_sentence_with_what_takes_less(monkeypatch, capsys, line, less):
    said = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 14.75 GiB. See more."
    faults = [torch.OutOfMemoryError(said), MemoryError()]

    def run(args):
        raise faults.pop(0)

    whole = cli.COMMANDS[line[0]]
    monkeypatch.setitem(cli.COMMANDS, line[0], dataclasses.replace(whole, run=run))
    for words in (
        "OutOfMemoryError: The GPU has no memory for another 2.00 GiB",
        "MemoryError: The machine has no memory for another tensor",
    ):
        assert cli.main(line) == 1
        assert capsys.readouterr().err == f"{words}; end other programs that use it{less}.\n"


def test_every_error_of_the_package_is_one_that_the_command_line_prints():
    printed = (ValueError, RuntimeError, OSError, ImportError, Warning)
    for path in sorted((ROOT / "desta_lab").rglob("*.py")):
        if path.parent.name == "checks":  # they judge an exercise, and none leaves its check
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and node.name.endswith(("Error", "Fault", "Warning")):
                module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                error = getattr(importlib.import_module(module), node.name)
                assert issubclass(error, printed), error
