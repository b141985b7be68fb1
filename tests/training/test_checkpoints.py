"""The checkpoint ladder: the right steps, no rung twice, no rung changed."""

import json

import pytest
import torch

from desta_lab.model.audio_llm import hash_tensors
from desta_lab.training import checkpoints
from desta_lab.training.checkpoints import CheckpointError
from tests import tiny


def test_steps_are_powers_of_two_then_evenly_spaced_and_the_last():
    assert checkpoints.checkpoint_steps(240, 64) == [0, 1, 2, 4, 8, 16, 32, 64, 128, 192, 240]
    assert checkpoints.checkpoint_steps(24, 8) == [0, 1, 2, 4, 8, 16, 24]
    assert checkpoints.checkpoint_steps(1, 64) == [0, 1]
    assert checkpoints.checkpoint_steps(5, 64) == [0, 1, 2, 4, 5]


def moved(llm, seed):
    torch.manual_seed(seed)
    with torch.no_grad():
        llm.connector.query_tokens.normal_()
    return llm


@pytest.fixture
def climbed(tmp_path):
    llm = tiny.audio_llm()
    hashes = {}
    for step in (0, 1, 2):
        checkpoints.save_checkpoint(
            tmp_path, moved(llm, step), step, None if step == 0 else 1.0 / step
        )
        hashes[step] = hash_tensors(llm.connector)
    return llm, tmp_path, hashes


def test_any_rung_can_be_climbed_back_to(climbed):
    llm, folder, hashes = climbed
    for step in (1, 0, 2):
        checkpoints.load_checkpoint(folder, llm, step)
        assert hash_tensors(llm.connector) == hashes[step]
    assert [(rung["step"], rung["loss"]) for rung in checkpoints.list_checkpoints(folder)] == [
        (0, None),
        (1, 1.0),
        (2, 0.5),
    ]
    assert not list(folder.glob("*.part"))


def test_the_same_weights_under_two_steps_are_refused(climbed):
    llm, folder, _ = climbed
    with pytest.raises(
        CheckpointError, match="step 3 is the same file as step 2; nothing was learned in between"
    ):
        checkpoints.save_checkpoint(folder, llm, 3, 0.1)
    assert [rung["step"] for rung in checkpoints.list_checkpoints(folder)] == [0, 1, 2]


def test_a_rung_may_be_kept_again(climbed):
    llm, folder, _ = climbed
    before = checkpoints.list_checkpoints(folder)
    checkpoints.save_checkpoint(folder, llm, 2, 0.5)
    assert checkpoints.list_checkpoints(folder) == before


@pytest.mark.parametrize("fault", ["changed", "missing"])
def test_a_changed_or_missing_file_is_refused(climbed, fault):
    llm, folder, hashes = climbed
    path = folder / "000001.safetensors"
    if fault == "missing":
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1  # one bit of one weight: still a whole safetensors file
        path.write_bytes(content)
    with pytest.raises(
        CheckpointError, match=r"000001.safetensors: missing or changed since it was kept; delete"
    ):
        checkpoints.load_checkpoint(folder, llm, 1)
    assert hash_tensors(llm.connector) == hashes[2]


def test_a_step_that_was_not_kept_names_those_that_were(climbed):
    llm, folder, _ = climbed
    with pytest.raises(CheckpointError, match="no rung at step 3; it has 0, 1, 2"):
        checkpoints.load_checkpoint(folder, llm, 3)


@pytest.mark.parametrize("text", ["", "[{", "\x00\xff"])
def test_an_unreadable_list_of_rungs_is_a_sentence(climbed, text):
    llm, folder, _ = climbed
    (folder / "ladder.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(
        CheckpointError,
        match=r"ladder.json: no readable ladder .* delete the run's folder and train again",
    ):
        checkpoints.load_checkpoint(folder, llm, 1)


def test_every_file_belongs_to_its_line(climbed):
    _, folder, _ = climbed
    listed = json.loads((folder / "ladder.json").read_text())
    assert [f"{rung['step']:06d}.safetensors" for rung in listed] == sorted(
        p.name for p in folder.glob("*.safetensors")
    )
    assert len({rung["sha256"] for rung in listed}) == 3
