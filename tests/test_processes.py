"""Several processes on one job: the same numbers as one process, the same files, and a clear word
when one dies.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from desta_lab import cli, processes
from desta_lab.cache import Provenance
from desta_lab.experiments import rows
from desta_lab.training import checkpoints, features, targets, trainer
from tests import tiny

ROOT = Path(__file__).parents[1]
RECIPE = tiny.RECIPE
SHORT = replace(RECIPE, steps=10)
LAST = f"checkpoints/{RECIPE.steps:06d}.safetensors"
TARGETS = Provenance("targets", {"backbone_sha256": "r"})
PAIRS = [(f"Speaker {i} talks.", "What is it?") for i in range(11)]

# What every rank does, by way of the command line, whose last words are under test.
JOB = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from desta_lab import cli, processes
from desta_lab.clips import Corpus
from desta_lab.experiments import rows
from desta_lab.training import features, targets, trainer
from tests import tiny
from tests.test_processes import PAIRS, RECIPE, TARGETS, rows_of

def job(args):
    folder = Path(os.environ["FOLDER"])
    features.SHARD = 5
    words = Corpus.read(folder / "corpus")
    # each rank has another connector: rank 0's counts
    llm = tiny.audio_llm(dropout=0.0, seed=processes.rank())
    store = features.FeatureStore(folder / "features", llm.encoder, "e" * 64, words, words.clips)
    store.compute()
    how = {"max_new_tokens": 8, "batch": 4}
    make = lambda: targets.generate_soft_targets(llm.backbone, "tiny", "r", PAIRS, **how)
    rows.find_or_write_targets(folder, TARGETS, make)

    def progress(step, total, record):
        if step == 13 and processes.rank() == 1 and "KILL" in os.environ:
            (folder / "dead").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    for run in ("run", "undisturbed"):
        how = {"state_every": 5, "progress": progress}
        trainer.train(llm, store, rows_of(words), RECIPE, folder / run, **how)
        llm = tiny.audio_llm(dropout=0.0, seed=processes.rank())
    assert processes.broadcast(processes.rank()) == 0
    shared = processes.map_over_ranks(range(5), lambda i: (i, processes.rank()))
    assert shared == [(0, 0), (1, 1), (2, 0), (3, 1), (4, 0)]
    # in one piece, as both write into one pipe
    os.write(1, f"rank {processes.rank()} is done\\n".encode())
    processes.leave_ranks()
    return 0

cli.COMMANDS["quickstart"] = replace(cli.COMMANDS["quickstart"], run=job)
sys.exit(cli.main(["quickstart"]))
"""


def launch(folder: Path, **env: str) -> subprocess.CompletedProcess:
    """The job in two processes of `accelerate launch`, on gloo."""
    (folder / "job.py").write_text(JOB)
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "--main_process_port",
        "0",
        str(folder / "job.py"),
    ]
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "FOLDER": str(folder),
        **env,
    }
    return subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=300, check=False
    )


def rows_of(words) -> list[dict]:
    """Examples with responses of different lengths: a mean of means would not be the mean."""
    return [
        {**row, "response": "a tone" + " of the audio" * (i % 4)}
        for i, row in enumerate(tiny.examples(words))
    ]


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def losses(folder: Path) -> list[float]:
    return [
        json.loads(line)["loss"] for line in (folder / "records.jsonl").read_text().splitlines()
    ]


def assert_same_run(one: Path, other: Path) -> None:
    """The same loss at every step and the same weights at the end, but for rounding."""
    assert losses(one) == pytest.approx(losses(other), rel=1e-4)
    weights, others = (
        load_file(sorted((run / "checkpoints").glob("*.safetensors"))[-1]) for run in (one, other)
    )
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        # a key's bias has no gradient but rounding, and Adam makes steps of it; all others are far
        # closer
        close = 1e-2 if name.endswith("key.bias") else 1e-4
        torch.testing.assert_close(
            tensor, others[name], rtol=1e-3, atol=close, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folder of the whole job done by one process."""
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "SHARD", 5)
        llm, store, _ = tiny.prepared(folder, dropout=0.0)
        how = {"max_new_tokens": 8, "batch": 4}
        rows.find_or_write_targets(
            folder,
            TARGETS,
            lambda: targets.generate_soft_targets(llm.backbone, "tiny", "r", PAIRS, **how),
        )
        trainer.train(llm, store, rows_of(store.corpus), RECIPE, folder / "run", state_every=5)
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The same done by two processes, one of which dies after 13 steps; then both again."""
    folder = tmp_path_factory.mktemp("two")
    tiny.corpus(folder / "corpus")
    killed = launch(folder, KILL="1")
    seconds, left = time.time() - (folder / "dead").stat().st_mtime, len(losses(folder / "run"))
    return folder, killed, seconds, left, launch(folder)


def test_a_rank_that_dies_stops_the_others_with_a_clear_word(two):
    _, killed, seconds, left, _ = two
    assert killed.returncode != 0 and seconds < 30.0
    said = [line for line in killed.stderr.splitlines() if line.startswith("Rank 0 of 2: ")]
    assert (
        len(said) == 1
        and "run the same command again" in said[0]
        and "it goes on where it was" in said[0]
    )
    assert "is done" not in killed.stdout
    assert 13 <= left < RECIPE.steps


def test_the_same_command_goes_on_to_the_bits_of_an_undisturbed_run(two):
    folder, _, _, _, resumed = two
    assert resumed.returncode == 0, resumed.stderr
    assert {"rank 0 is done", "rank 1 is done"} <= set(resumed.stdout.splitlines())
    assert losses(folder / "run") == losses(folder / "undisturbed")
    assert (folder / "run" / LAST).read_bytes() == (folder / "undisturbed" / LAST).read_bytes()
    assert checkpoints.list_checkpoints(folder / "run") == checkpoints.list_checkpoints(
        folder / "undisturbed"
    )


def test_two_processes_learn_what_one_learns(alone, two):
    assert_same_run(two[0] / "run", alone / "run")
    assert trainer.is_finished(two[0] / "run", RECIPE)


@pytest.mark.parametrize("part", ["features", "targets"])
def test_two_processes_leave_the_same_files_as_one(alone, two, part):
    assert len(files(alone / part)) >= 3
    assert files(two[0] / part) == files(alone / part)


@pytest.mark.parametrize("loss", ["hard", "soft"])
def test_a_batch_in_parts_teaches_what_the_whole_teaches(tmp_path, loss):
    for run, accumulate in (
        ("whole", 1),
        ("parts", 3),
    ):  # of a batch of 4: parts of 2, 1 and 1 rows
        llm, store, _ = tiny.prepared(tmp_path, dropout=0.0)
        rows = rows_of(store.corpus)
        told = [
            targets.Target(
                row["seed_description"], row["prompt"], row["response"], "soft", "", "", ""
            )
            for row in rows
        ]
        soft = targets.soften_targets(llm.backbone, told) if loss == "soft" else None
        trainer.train(
            llm, store, rows, SHORT, tmp_path / run, soft_targets=soft, accumulate=accumulate
        )
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


def test_a_batch_with_fewer_rows_than_parts_is_refused(tmp_path):
    llm, store, rows = tiny.prepared(tmp_path)
    with pytest.raises(
        ValueError,
        match=r"A batch of 4 has no row for each of 5 micro-batches \(1 processes, accumulate 5\)",
    ):
        trainer.train(llm, store, rows, SHORT, tmp_path / "run", accumulate=5)


def test_layers_computed_twice_teach_the_same(tmp_path):
    for run, checkpointing in (("plain", False), ("twice", True)):
        llm, store, rows = tiny.prepared(tmp_path, dropout=0.0)
        llm.backbone.gradient_checkpointing = checkpointing
        trainer.train(llm, store, rows, SHORT, tmp_path / run)
    assert_same_run(tmp_path / "twice", tmp_path / "plain")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_precision_backbone_trains_a_float32_connector(tmp_path, dtype):
    full, half = (tiny.prepared(tmp_path, dropout=0.0, **how) for how in ({}, {"dtype": dtype}))
    for run, (llm, store, examples) in (("full", full), ("half", half)):
        trainer.train(llm, store, examples, SHORT, tmp_path / run)
        assert {p.dtype for p in llm.trainable_parameters.values()} == {torch.float32}
    assert losses(tmp_path / "half") == pytest.approx(losses(tmp_path / "full"), rel=5e-2)


# ---- one process ----


def test_one_process_opens_no_group():
    assert (processes.world_size(), processes.rank(), processes.is_main_rank()) == (1, 0, True)
    processes.join_ranks()
    with processes.main_first():
        processes.wait_for_all()
    seen = []
    assert processes.map_over_ranks("abc", str.upper, lambda *news: seen.append(news)) == [
        "A",
        "B",
        "C",
    ]
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert processes.broadcast({"a": 1}) == {"a": 1}
    assert not torch.distributed.is_initialized()


def test_a_command_that_cannot_be_shared_says_so(monkeypatch, capsys):
    for name, value in {"LOCAL_RANK": "1", "RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["doctor"]) == 1
    assert (
        capsys.readouterr().err
        == "Rank 1 of 2: several processes share quickstart alone; start doctor as one.\n"
    )
