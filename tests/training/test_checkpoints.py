"""Checkpoints: the right steps, none twice, none changed."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from desta_lab import cache
from desta_lab.model.audio_llm import hash_state, hash_tensors
from desta_lab.model.runs import checkpoint_path, index_path
from desta_lab.training import checkpoints
from desta_lab.training.checkpoints import CheckpointError, StateError
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
def run(tmp_path):
    llm = tiny.audio_llm()
    hashes = {}
    for step in (0, 1, 2):
        checkpoints.save_checkpoint(
            tmp_path, moved(llm, step), step, None if step == 0 else 1.0 / step
        )
        hashes[step] = hash_tensors(llm.connector)
    return llm, tmp_path, hashes


def test_every_checkpoint_can_be_loaded_again(run):
    llm, folder, hashes = run
    for step in (1, 0, 2):
        checkpoints.load_checkpoint(folder, llm, step)
        assert hash_tensors(llm.connector) == hashes[step]
    assert [(one["step"], one["loss"]) for one in checkpoints.list_checkpoints(folder)] == [
        (0, None),
        (1, 1.0),
        (2, 0.5),
    ]
    assert not list(folder.rglob("*.part"))


def test_the_same_weights_under_two_steps_are_refused(run):
    llm, folder, _ = run
    with pytest.raises(
        CheckpointError, match="step 3 is the same file as step 2; nothing was learned in between"
    ):
        checkpoints.save_checkpoint(folder, llm, 3, 0.1)
    assert [one["step"] for one in checkpoints.list_checkpoints(folder)] == [0, 1, 2]


def test_a_checkpoint_may_be_saved_again(run):
    llm, folder, _ = run
    before = checkpoints.list_checkpoints(folder)
    checkpoints.save_checkpoint(folder, llm, 2, 0.5)
    assert checkpoints.list_checkpoints(folder) == before


@pytest.mark.parametrize("fault", ["changed", "missing"])
def test_a_changed_or_missing_file_is_refused(run, fault):
    llm, folder, hashes = run
    path = checkpoint_path(folder, 1)
    if fault == "missing":
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1  # one bit of one weight: still a whole safetensors file
        path.write_bytes(content)
    with pytest.raises(
        CheckpointError,
        match={
            "changed": r"000001.safetensors: changed since it was saved; delete",
            "missing": r"000001.safetensors: not here; .* the files of steps 0, 2, so take one",
        }[fault],
    ):
        checkpoints.load_checkpoint(folder, llm, 1)
    assert hash_tensors(llm.connector) == hashes[2]


def test_a_step_without_a_checkpoint_names_those_that_have_one(run):
    llm, folder, _ = run
    with pytest.raises(CheckpointError, match="no checkpoint at step 3; it has 0, 1, 2"):
        checkpoints.load_checkpoint(folder, llm, 3)


NO_LISTS = ["null", "1", '"x"', "{}", "[]", "[1]", "[{}]", "NaN", "[" * 10**5]
NO_LISTS += [
    f'[{{"step": {step}, "sha256": "x"}}]' for step in ('"4"', "null", "-1", "4.0", "true")
]
NO_LISTS += ['[{"step": 4, "sha256": 5}]', '[{"step": 4}]']
NO_LISTS += ['[{"step": 4, "sha256": "x"}, {"step": 4, "sha256": "y"}]']


@pytest.mark.parametrize("text", ["", "[{", "\x00\xff", *NO_LISTS])
def test_an_unreadable_list_is_a_sentence(run, text):
    llm, folder, _ = run
    index_path(folder).write_bytes(text.encode("latin-1"))
    with pytest.raises(
        CheckpointError,
        match=r"checkpoints.json: no readable list of checkpoints .* "
        "delete the run's folder and train again",
    ):
        checkpoints.load_checkpoint(folder, llm, 1)


def test_every_file_belongs_to_its_line(run):
    _, folder, _ = run
    listed = json.loads(index_path(folder).read_text())
    assert [f"{one['step']:06d}.safetensors" for one in listed] == sorted(
        p.name for p in (folder / "checkpoints").glob("*.safetensors")
    )
    assert len({one["sha256"] for one in listed}) == 3


# ---- the state to resume from ----


def adam(llm):
    optimizer = torch.optim.AdamW(llm.trainable_parameters.values(), fused=True)
    for parameter in llm.trainable_parameters.values():
        parameter.grad = torch.ones_like(parameter)
    return optimizer


@pytest.fixture
def state(run):
    """A run with the state of step 1; its llm, folder and a new optimizer to load it into."""
    llm, folder, _ = run
    optimizer = adam(llm)
    optimizer.step()
    checkpoints.save_state(folder, llm, optimizer, 1)
    return llm, folder, adam(llm)


def test_a_state_comes_back(state):
    assert checkpoints.load_state(state[1], state[0], state[2], steps=2) == 1
    assert cache.hash_file(checkpoints.state_path(state[1]))
    assert not list(state[1].rglob("*.part"))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        ("bit", "its numbers are not those that were written"),
        ("block", "its numbers are not those that were written"),
        ("run", "it is the state of another run"),
        ("range", "it is of step 1, and the run has 0"),
        ("moments", "its moments are not those of what learns here"),
        ("step", "its moments are not those of step 2"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_with_what_to_do(state, harm, words):
    llm, folder, optimizer = state
    path, steps = checkpoints.state_path(folder), 2
    if harm in ("bit", "block"):
        content = bytearray(path.read_bytes())
        content[-4096:-1] = bytes(4095) if harm == "block" else content[-4096:-1]
        content[-1] ^= harm == "bit"
        path.write_bytes(content)
    elif harm == "run":
        (folder / "config.json").write_text("{}")
    elif harm == "range":
        steps = 0
    else:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["about"])
        tensors = load_file(path)
        if harm == "moments":
            del tensors["moment.0.exp_avg"]
        about |= {"step": 2 if harm == "step" else 1, "tensors": hash_state(tensors)}
        save_file(tensors, path, metadata={"about": json.dumps(about)})
    before = hash_tensors(llm.connector)
    with pytest.raises(StateError, match=rf"state.safetensors: damaged \({words}.*delete it and"):
        checkpoints.load_state(folder, llm, optimizer, steps)
    assert hash_tensors(llm.connector) == before


def _edit(change):
    def edit(listed):
        change(listed)
        return listed

    return edit


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda listed: listed[::-1], "its steps are not in order"),
        (lambda listed: [*listed, {**listed[1], "step": 9}], "a step or a file is there twice"),
        (_edit(lambda listed: listed[1].update(loss=float("nan"))), "no list of step, sha256"),
        (_edit(lambda listed: listed[1].update(records=3)), "no list of step, sha256"),
        (_edit(lambda listed: listed[1].update(loss=10**400)), "no list of step, sha256"),
        (_edit(lambda listed: listed[1].pop("loss")), "no list of step, sha256"),
    ],
)
def test_a_list_that_no_run_writes_is_refused(run, edit, words):
    _, folder, _ = run
    listed = edit(checkpoints.list_checkpoints(folder))
    index_path(folder).write_text(json.dumps(listed))
    with pytest.raises(CheckpointError, match=words):
        checkpoints.list_checkpoints(folder)
