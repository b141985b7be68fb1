"""Streaming: a million rows train in flat memory, and features need not lie on any disk."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from desta_lab.audio import AudioError
from desta_lab.clips import CorpusError
from desta_lab.experiments.experiment import Experiment
from desta_lab.model import build, presets
from desta_lab.model.chat import ChatError
from desta_lab.training import features, trainer
from desta_lab.training.features import FeatureStore, OnTheFlyFeatures
from desta_lab.training.trainer import TrainConfig, train
from desta_lab.world.manifests import Manifest
from tests import tiny

ROOT = Path(__file__).parents[2]
RECIPE = TrainConfig(steps=12, batch=4, lr=3e-3, warmup=3, checkpoint_every=8)
LAST = f"checkpoints/{RECIPE.steps:06d}.safetensors"
CLIPS = 12


def lines(count: int) -> Iterator[str]:
    """Rows of DeSTA-AQA5M, some 500 bytes each, in which a few clips come again and again."""
    rows = []
    for number in range(CLIPS):
        row = {
            "id": "row-ID",
            "dataset": "tones",
            "seed_description": f"[00:00-00:01] tone {number} in noise " * 6,
            "prompt": "What is it?",
            "response": f"a tone, number {number}",
            "messages": [
                {"role": "system", "content": "Focus on the audio clips and instructions."},
                {
                    "role": "user",
                    "content": "<|AUDIO|>\nWhat is it?",
                    "audios": [{"audio": f"{number:03d}.wav"}],
                },
            ],
        }
        rows.append(json.dumps(row) + "\n")
    return (rows[i % CLIPS].replace("row-ID", f"row-{i}", 1) for i in range(count))


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return tiny.corpus(tmp_path_factory.mktemp("clips"), CLIPS)


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(lines(30)))
    return file


def trained(folder: Path, rows, recipe: TrainConfig = RECIPE, stop: int | None = None) -> bytes:
    """The last checkpoint of a run with fresh tiny models that encode on the fly."""
    llm = tiny.audio_llm()

    def progress(step, total, record):
        if step == stop:
            raise KeyboardInterrupt

    train(
        llm, OnTheFlyFeatures(llm.encoder), rows, recipe, folder, state_every=5, progress=progress
    )
    return (folder / LAST).read_bytes()


# ---- training on a manifest ----


HARMS = {
    "no JSON": (b'"response": ', b'"response" ', r"line 18: not JSON \(.*\); repair or remove it"),
    "a column less": (
        b'"response"',
        b'"answer"',
        r"line 18: the field 'response' is missing; add it",
    ),
    "no text": (b"a tone", b"\xff\xfe", r"line 18: not UTF-8 \(.*\); save it as UTF-8"),
    "two clips": (
        b'[{"audio": "005',
        b'[{"audio": "004.wav"}, {"audio": "005',
        r"line 18: 2 clips in 'audios'; ",
    ),
    "no audio": (
        b"005.wav",
        b"gone.wav",
        r"line 18: audio file '.*gone.wav' is missing; restore it, or pass root=",
    ),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_bad_row_stops_the_run_with_file_and_line_and_repaired_it_ends_in_the_same_bits(
    path, clips, tmp_path, harm, monkeypatch
):
    expected = trained(tmp_path / "whole", Manifest(path, clips.folder))
    monkeypatch.setattr(trainer, "AHEAD", 2)  # so that the run is under way when it meets row 18
    good = path.read_bytes()
    old, new, words = HARMS[harm]
    before, bad, after = good.partition(good.splitlines(keepends=True)[17])
    path.write_bytes(before + bad.replace(old, new) + after)
    with pytest.raises(CorpusError, match=rf"rows\.jsonl, {words}"):
        trained(tmp_path / "run", Manifest(path, clips.folder))
    path.write_bytes(good)
    assert trained(tmp_path / "run", Manifest(path, clips.folder)) == expected


# ---- training on it ----


def test_a_manifest_trains_to_the_bits_that_its_rows_in_memory_train_to(path, clips, tmp_path):
    rows = Manifest(path, clips.folder)
    assert trained(tmp_path / "disk", rows) == trained(tmp_path / "memory", list(rows))


@pytest.mark.parametrize("ahead", [1, 4096])
def test_stopped_and_gone_on_a_manifest_ends_in_the_same_bits(
    path, clips, tmp_path, ahead, monkeypatch
):
    rows = Manifest(path, clips.folder)
    expected = trained(tmp_path / "whole", rows)
    monkeypatch.setattr(trainer, "AHEAD", ahead)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "run", rows, stop=8)
    assert trained(tmp_path / "run", rows) == expected


def test_an_example_too_long_is_named_before_its_own_step(path, clips, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "AHEAD", 1)
    rows = list(Manifest(path, clips.folder))
    last = RECIPE.batch_rows(6, len(rows))[-1]
    rows[last]["response"] = "tone " * 600
    with pytest.raises(
        ChatError, match=rf"Example {last + 1} \(row-{last}\): .* the limit is 512; shorten it"
    ):
        trained(tmp_path / "run", rows)
    assert len((tmp_path / "run" / "records.jsonl").read_text().splitlines()) == 6


def test_the_order_of_an_epoch_is_drawn_once(monkeypatch):
    def order(epoch: int) -> list[int]:
        return torch.randperm(
            1001, generator=torch.Generator().manual_seed(7 * 100_003 + epoch)
        ).tolist()

    expected = order(0) + order(1)
    drawn, draw = [], torch.randperm
    monkeypatch.setattr(
        torch, "randperm", lambda *args, **how: drawn.append(args) or draw(*args, **how)
    )
    recipe = TrainConfig(steps=500, batch=4, seed=7)
    assert [i for step in range(500) for i in recipe.batch_rows(step, 1001)] == expected[:2000]
    assert len(drawn) == 2


CHILD = """
import json, sys, time
from pathlib import Path
from desta_lab.training.features import OnTheFlyFeatures
from desta_lab.training.trainer import TrainConfig, train
from desta_lab.world.manifests import Manifest
from tests import tiny

clips, *manifests = map(Path, sys.argv[1:])
for path in manifests:
    llm = tiny.audio_llm()
    begin, steps = time.perf_counter(), []
    rows = Manifest(path, clips)
    opened = time.perf_counter() - begin
    config = TrainConfig(20, 8, warmup=3, checkpoint_every=8)
    train(llm, OnTheFlyFeatures(llm.encoder), rows, config, path.with_suffix(""),
          progress=lambda *news: steps.append(time.perf_counter() - begin))
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(json.dumps({"rows": len(rows), "opened_s": opened, "first_step_s": steps[0],
                      "peak_mb": int(status["VmHWM"].split()[0]) * 1024 / 1e6}))
"""


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="peak memory is read from Linux' /proc"
)
@pytest.mark.parametrize("count", [100_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_manifest(count, clips, tmp_path):
    files = [tmp_path / f"{rows}.jsonl" for rows in (1000, count)]
    for file in files:
        with file.open("w") as out:
            out.writelines(lines(int(file.stem)))
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(clips.folder), *map(str, files)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    print(done.stdout)
    few, many = map(json.loads, done.stdout.splitlines())
    assert many["rows"] == count
    assert many["peak_mb"] - few["peak_mb"] < 64  # 100,000 rows in memory take more than 200


# ---- features ----


@pytest.fixture
def encoder(monkeypatch):
    """An encoder that counts the clips it encodes; shards hold four clips."""
    monkeypatch.setattr(features, "SHARD", 4)
    counted = tiny.audio_llm().encoder
    encode, counted.count = counted.encode, 0

    def counting(waves, taps=None):
        counted.count += len(waves)
        return encode(waves, taps)

    counted.encode = counting
    return counted


def store_of(folder, encoder, clips) -> FeatureStore:
    return FeatureStore(folder, encoder, "e" * 64, clips, clips.clips)


def ids(clips, *numbers: int) -> list[str]:
    return [clips.clips[i].id for i in numbers]


def test_states_on_the_fly_are_those_that_are_stored(encoder, clips, tmp_path):
    store = store_of(tmp_path, encoder, clips)
    store.compute(batch=4)
    live = OnTheFlyFeatures(encoder)
    some = [str(clips.path(clips.clips[i])) for i in (4, 5, 6, 7)]
    assert torch.equal(live[some], store[some])  # the same clips in one batch: the same bits
    assert torch.equal(store[some], store[ids(clips, 4, 5, 6, 7)])
    mixed = [some[1], str(clips.path(clips.clips[0])), some[1]]
    torch.testing.assert_close(live[mixed], store[mixed], atol=1e-3, rtol=2e-3)
    assert live[mixed].dtype == store[mixed].dtype == torch.float16


def test_on_the_fly_a_clip_is_encoded_once_a_batch_and_may_have_any_name(encoder, clips):
    where = {clip.id: clips.path(clip) for clip in clips.clips}
    live = OnTheFlyFeatures(encoder, where.__getitem__)
    states = live[ids(clips, 3, 3, 1, 3)]
    assert encoder.count == 2
    assert torch.equal(states[:, 0], states[:, 3])
    assert not torch.equal(states[:, 0], states[:, 2])


def test_audio_that_is_not_there_is_named(encoder, tmp_path):
    with pytest.raises(AudioError, match=r"gone\.wav: no such file"):
        OnTheFlyFeatures(encoder)[[str(tmp_path / "gone.wav")]]


@pytest.mark.parametrize("harm", ["missing", "torn"])
def test_a_partial_store_encodes_what_it_lacks_and_writes_nothing(encoder, clips, tmp_path, harm):
    store_of(tmp_path, encoder, clips).compute()
    shard = store_of(tmp_path, encoder, clips).folder / "00001.npy"
    whole = store_of(tmp_path, encoder, clips)[ids(clips, 5, 0, 6, 5)]
    shard.unlink() if harm == "missing" else shard.write_bytes(shard.read_bytes()[:-100])
    left = {file: file.read_bytes() for file in shard.parent.iterdir()}
    encoder.count = 0
    partial = store_of(tmp_path, encoder, clips)
    for _ in range(2):
        torch.testing.assert_close(partial[ids(clips, 5, 0, 6, 5)], whole, atol=1e-3, rtol=2e-3)
    assert encoder.count == 4  # two clips, twice
    assert {file: file.read_bytes() for file in shard.parent.iterdir()} == left


def test_a_clip_of_another_corpus_is_refused(encoder, clips, tmp_path):
    with pytest.raises(
        ValueError,
        match=r"stranger is none of the 12 clips of .*; open the store with it, or use On",
    ):
        store_of(tmp_path, encoder, clips)[["stranger"]]


def test_a_manifest_trains_from_a_partial_store(path, clips, tmp_path):
    llm = tiny.audio_llm()
    store = FeatureStore(tmp_path / "elsewhere", llm.encoder, "e" * 64, clips, clips.clips)
    train(llm, store, Manifest(path, clips.folder), RECIPE, tmp_path / "run")
    assert trainer.is_finished(tmp_path / "run", RECIPE)


def test_features_go_to_the_disk_that_the_environment_names(clips, tmp_path, monkeypatch):
    monkeypatch.setenv("DESTA_LAB_FEATURES", str(tmp_path / "other disk"))
    speakers = sorted({clip.speaker for clip in clips.clips})
    lab = Experiment(presets.nano(), root=tmp_path / "data")
    lab.llm = tiny.audio_llm()
    voices = {"train": speakers[:2], "validation": speakers[2:3], "test": speakers[3:]}
    lab.corpus = dataclasses.replace(
        clips, splits={split: tuple(names) for split, names in voices.items()}
    )
    assert lab.features.folder.parent == tmp_path / "other disk"
    assert list(lab.features.folder.glob("*.npy"))
    assert not (tmp_path / "data" / "features").exists()
    monkeypatch.delenv("DESTA_LAB_FEATURES")
    assert features.features_folder(tmp_path / "data") == tmp_path / "data" / "features"


# ---- what the page on targets says ----


def test_the_lines_of_the_page_train(path, clips, tmp_path, monkeypatch):
    block = re.search(
        r"```python\n([^`]*Manifest\([^`]*)```", (ROOT / "docs" / "targets.md").read_text()
    )
    assert block, "docs/targets.md shows no training on a manifest."
    lines = re.sub(r"steps=[\d_]+", "steps=2", block[1])
    monkeypatch.setattr(build, "build_audio_llm", lambda preset: tiny.audio_llm())
    monkeypatch.chdir(tmp_path)
    os.symlink(clips.folder, tmp_path / "clips")
    exec(lines, {})
    assert len(list(tmp_path.rglob("records.jsonl"))) == 1
