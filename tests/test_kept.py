"""What is kept is whole whatever befell its writer: a kill, a full disk, a rival, a closed folder.

The faults come in forked children, see tests/faults.py.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from desta_lab import cache
from desta_lab.cache import Provenance, find_or_make
from desta_lab.clips import Corpus, CorpusError
from desta_lab.experiments import rows
from desta_lab.experiments.costs import StageCosts
from desta_lab.model import nano
from desta_lab.training import checkpoints, trainer, writers
from desta_lab.training.targets import SoftTarget, Target, TargetError
from desta_lab.world.spoken import build_spoken_corpus
from tests import faults, tiny

ROOT = Path(__file__).parents[1]
FEW = "kill=1,full=1,race=1,read-only=1"  # trials of each operation in every test run


def try_faults(kinds: str, operations: str, folder: Path) -> dict[str, Any]:
    """What a fresh process found: trials by fault and operation, and what went wrong."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults", kinds, operations, str(folder)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """A few faults of every kind, for the quick operations, in one process."""
    return try_faults(FEW, ",".join(faults.QUICK), tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize("kind", ["kill", "full", "race", "read-only"])
def test_after_any_fault_the_next_run_ends_the_same(few, kind):
    assert not [fault for fault in few["faults"] if fault.startswith(kind)]
    assert few["trials"][kind]


@pytest.mark.slow
@pytest.mark.parametrize("operation", faults.FOUND)
def test_what_is_whole_is_found_where_nothing_may_be_written(operation, tmp_path):
    assert not try_faults("read-only=1", operation, tmp_path)["faults"]


@pytest.mark.slow
@pytest.mark.parametrize("operation", faults.OPERATIONS)
def test_wherever_it_is_killed_the_next_run_ends_the_same(operation, tmp_path):
    found = try_faults("kill=0", operation, tmp_path)
    assert not found["faults"] and found["trials"]["kill"][operation] > 2


@pytest.mark.slow
@pytest.mark.parametrize("operation", faults.OPERATIONS)
def test_wherever_the_disk_is_full_one_sentence_says_so_and_no_draft_stays(operation, tmp_path):
    assert not try_faults("full=0", operation, tmp_path)["faults"]


@pytest.mark.slow
@pytest.mark.parametrize("operation", faults.OPERATIONS)
def test_two_that_begin_at_once_end_with_one_result(operation, tmp_path):
    assert not try_faults("race=8", operation, tmp_path)["faults"]


# ---- torn and altered ----

RESULTS = {
    "scores": faults.table,
    "oracles": faults.table,
    "coverage": lambda: {"perplexity": {"self": 1.5}, "coverage": {"label": 1.0}},
    "cells": faults.pieces,
    "targets": faults.pieces,
    "sites": faults.tensors,
}
HARMS = {
    "cut in half": lambda content: content[: len(content) // 2],
    "without its last bytes": lambda content: content[:-2],
    "empty": lambda content: b"",
    "foreign JSON": lambda content: b'{"rows": [1, 2]}\n',
    "a list": lambda content: b"[]",
    "a number": lambda content: b"1",
    "deep": lambda content: b"[" * 100_000,
    "zeros": lambda content: bytes(len(content)),
}


def as_bytes(result: Any) -> Any:
    """A result with its types, to compare."""
    if isinstance(result, pd.DataFrame):
        return result.to_csv(), [str(kind) for kind in result.dtypes]
    if isinstance(result, torch.Tensor):
        return str(result.dtype), result.tolist()
    return [(k, as_bytes(v)) for k, v in result.items()] if isinstance(result, dict) else result


@pytest.fixture
def kept(tmp_path, request):
    """A result of one kind: its provenance, a maker that counts, and what was made."""
    provenance, calls = Provenance(request.param, {"fact": 1}), []

    def make() -> Any:
        calls.append(1)
        return RESULTS[request.param]()

    return provenance, make, calls, as_bytes(find_or_make(tmp_path, provenance, make))


@pytest.mark.parametrize("kept", RESULTS, indirect=True)
@pytest.mark.parametrize("harm", HARMS)
def test_a_harmed_file_of_a_result_is_made_again(kept, harm, tmp_path):
    provenance, make, calls, made = kept
    folder = provenance.folder(tmp_path)
    for n, path in enumerate(sorted(folder.iterdir()), 2):
        path.write_bytes(HARMS[harm](path.read_bytes()))
        assert cache.find(tmp_path, provenance) is None, path
        assert as_bytes(find_or_make(tmp_path, provenance, make)) == made and len(calls) == n


@pytest.mark.parametrize("kept", RESULTS, indirect=True)
def test_no_flipped_bit_changes_what_is_read(kept, tmp_path):
    provenance, make, calls, made = kept
    for path in sorted(provenance.folder(tmp_path).iterdir()):
        whole = path.read_bytes()
        for bit in range(0, 8 * len(whole), 13 if path.name == cache.HEAD else 97):
            harmed = bytearray(whole)
            harmed[bit // 8] ^= 1 << bit % 8
            path.write_bytes(harmed)
            found = cache.find(tmp_path, provenance)
            assert found is None or as_bytes(found) == made, (path.name, bit)
        path.write_bytes(whole)
    find_or_make(tmp_path, provenance, make)
    assert len(calls) == 1


@pytest.mark.parametrize("other", ["file", "link"])
def test_what_stands_in_the_place_of_a_result_is_replaced(tmp_path, other):
    folder = Provenance("scores", {}).folder(tmp_path)
    folder.parent.mkdir()
    if other == "file":
        folder.write_text("no folder")
    else:
        (tmp_path / "elsewhere").mkdir()
        folder.symlink_to(tmp_path / "elsewhere")
    found = find_or_make(tmp_path, Provenance("scores", {}), faults.table)
    assert len(found) == 3 and folder.is_dir() and not folder.is_symlink()


def test_a_result_without_a_hash_of_its_head_as_earlier_releases_wrote_it_is_found(tmp_path):
    provenance = Provenance("scores", {})
    find_or_make(tmp_path, provenance, faults.table)
    path = provenance.folder(tmp_path) / cache.HEAD
    head = json.loads(path.read_text())
    del head["pieces_sha256"]
    path.write_text(json.dumps(head))
    assert cache.find(tmp_path, provenance) is not None


def test_a_manifest_that_was_cut_after_a_line_is_found_and_one_without_a_count_is_read(tmp_path):
    corpus = tiny.corpus(tmp_path / "tones", 4)
    rows_path, head_path = corpus.folder / "clips.jsonl", corpus.folder / "corpus.json"
    lines = rows_path.read_bytes().splitlines(keepends=True)
    rows_path.write_bytes(b"".join(lines[:3]))
    with pytest.raises(CorpusError, match=r"clips.jsonl: 3 clips, and corpus.json counts 4; res"):
        Corpus.read(corpus.folder)
    head = json.loads(head_path.read_text())
    assert head.pop("count") == 4
    head_path.write_text(json.dumps(head))
    assert len(Corpus.read(corpus.folder).clips) == 3
    rows_path.write_bytes(b"".join(lines))
    assert Corpus.read(corpus.folder).hash == corpus.hash  # results of older corpora are found


def shards(folder: Path) -> list[Path]:
    faults.write_shards(folder)
    return sorted((folder / "targets").glob("targets-*.jsonl"))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("harm", ["a line less", "half a line", "another letter"])
def test_a_changed_shard_of_targets_is_refused_with_what_to_do(tmp_path, harm, last):
    path = shards(tmp_path)[-1 if last else 0]
    whole = path.read_bytes()
    path.write_bytes(
        {
            "a line less": b"".join(whole.splitlines(keepends=True)[:-1]),
            "half a line": whole[:-20],
            "another letter": whole.replace(b'"response": "', b'"response": "X'),
        }[harm]
    )
    with pytest.raises(TargetError, match=f"{path.name}: changed since it was written; remove it"):
        faults.write_shards(tmp_path)
    path.unlink()
    shards(tmp_path)
    assert path.read_bytes() == whole


def test_a_half_shard_of_an_earlier_release_is_named_by_its_line(tmp_path):
    path = shards(tmp_path)[0]
    note = path.with_name(writers.NOTE)
    about = json.loads(note.read_text())
    del about["sha256"]
    note.write_text(json.dumps(about))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CorpusError, match=r"targets-00000.jsonl, line 2: not JSON"):
        faults.write_shards(tmp_path)


# ---- killed in the middle of targets ----


def test_targets_go_on_with_the_parts_that_are_there(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "PART", 2)
    pairs = [(f"A sound {i}.", "What?") for i in range(5)]
    asked, told, alive = [], [], [2]

    def write(part: Any, progress: Any) -> Any:
        if len(asked) == alive[0]:
            raise KeyboardInterrupt
        asked.append(part)
        progress(1, 1)
        made = [Target(*pair, "x", "self", "tiny", "r", "", False, [1]) for pair in part]
        soft = SoftTarget(torch.ones(1, 2, dtype=torch.int32), torch.zeros(1, 2).half())
        return made, [soft] * len(part)

    def find() -> rows.Targets:
        facts = {"backbone_sha256": "r", "pairs": pairs}
        provenance = Provenance("targets", facts)
        return rows.find_or_write_parts(
            tmp_path, provenance, pairs, write, lambda *news: told.append(news)
        )

    with pytest.raises(KeyboardInterrupt):
        find()
    alive[0] = 9
    targets = find()
    assert asked == [pairs[:2], pairs[2:4], pairs[4:]] and told == [(2, 5), (4, 5), (5, 5)]
    assert [(row.description, row.prompt) for row in targets.rows] == pairs
    assert len([path for path in (tmp_path / "targets").iterdir() if path.is_dir()]) == 1
    assert find().rows == targets.rows and len(asked) == 3


# ---- who may write, and read ----


def test_new_files_and_folders_follow_the_umask(tmp_path):
    before = os.umask(0o002)
    try:
        build_spoken_corpus(tmp_path / "spoken", clips={"test": 1}, seconds=2.0, workers=1)
        find_or_make(tmp_path, Provenance("cells", {}), faults.pieces)
        faults.write_whole(tmp_path)
    finally:
        os.umask(before)
    for path in tmp_path.rglob("*"):
        if path.suffix != ".lock":
            wanted = 0o775 if path.is_dir() else 0o664
            assert path.stat().st_mode & 0o777 == wanted, path


def test_a_closed_folder_is_one_sentence(tmp_path, monkeypatch):
    def closed(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied", "x")

    monkeypatch.setattr(Path, "write_bytes", closed)
    with pytest.raises(PermissionError) as caught:
        cache.write_whole(tmp_path / "a.json", b"")
    said = f"{tmp_path / 'a.json'} cannot be written (Permission denied); choose a folder that"
    assert str(caught.value).startswith(said)
    with StageCosts(tmp_path / "costs.json").stage("features"):
        pass  # what it costs is not worth an error


@pytest.mark.parametrize("operation, size", [("features", 500), ("answers", 300)])
def test_a_disk_that_fills_up_while_something_is_added_is_one_sentence(
    operation, size, tmp_path, monkeypatch
):
    monkeypatch.setattr(faults, "LLM", tiny.audio_llm(dropout=0.0))
    tiny.corpus(tmp_path / "input", faults.CLIPS)
    cannot = rf"{tmp_path}.* cannot be written \(File too large\); free some space\.$"
    with faults.room_for(size), pytest.raises(OSError, match=cannot):
        faults.OPERATIONS[operation](tmp_path)
    faults.OPERATIONS[operation](tmp_path)


def test_lines_are_added_at_once_and_a_full_disk_is_told_by_its_file(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text("first\n")
    full = pytest.raises(OSError, match=rf"^{path} cannot be written .* free some space\.$")
    with full, cache.appending(path) as append:
        append("ümlaut")
        assert path.read_text(encoding="utf-8") == "first\nümlaut\n"
        with faults.room_for(16):
            append("third")
    assert path.read_bytes() == "first\nümlaut\nth".encode()
    with pytest.raises(OSError, match=f"^{tmp_path} cannot be"), cache.appending(tmp_path):
        pass


def test_a_model_of_transformers_on_a_full_disk_is_one_sentence(tmp_path):
    model, words = tiny.causal(), tiny.tokenizer()
    with faults.room_for(2000), pytest.raises(OSError, match=f"^{tmp_path} cannot be .*free some"):
        nano.save_nano(model, words, tmp_path)


def test_of_two_jobs_of_a_run_the_second_waits_and_finds_it_finished(tmp_path):
    llm, store, examples = tiny.prepared(tmp_path)
    recipe = trainer.TrainConfig(steps=2, batch=2, checkpoint_every=2)
    trainer.train(llm, store, examples, recipe, tmp_path / "run")
    listed = checkpoints.list_checkpoints(tmp_path / "run")
    records = (tmp_path / "run" / "records.jsonl").read_bytes()
    trainer.train(tiny.audio_llm(), store, examples, recipe, tmp_path / "run")
    assert checkpoints.list_checkpoints(tmp_path / "run") == listed
    assert (tmp_path / "run" / "records.jsonl").read_bytes() == records


def test_the_draft_of_a_living_process_stays(tmp_path):
    with cache.draft_of(tmp_path / "a") as draft:
        draft.write_text("half")
        cache.remove_drafts(tmp_path)
        assert draft.exists()
