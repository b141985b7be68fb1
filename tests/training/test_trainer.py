"""Training: only the connector learns, and a run killed at any moment ends in the same bits."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from desta_lab.cache import CacheError
from desta_lab.model.audio_llm import ProvenanceError, hash_tensors
from desta_lab.model.chat import ChatError
from desta_lab.model.runs import index_path
from desta_lab.training import checkpoints, trainer
from desta_lab.training.checkpoints import StateError
from desta_lab.training.targets import TOP_K, Target, soften_targets
from desta_lab.training.trainer import (
    FreezeError,
    LossError,
    TrainConfig,
    is_finished,
    run_folder,
    train,
)
from tests import tiny

ROOT = Path(__file__).parents[2]
RECIPE = tiny.RECIPE
LAST = f"{RECIPE.steps:06d}.safetensors"


def records(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


def losses(folder) -> list[float]:
    return [record["loss"] for record in records(folder)]


def everything_but_time(folder) -> list[dict]:
    return [
        {key: value for key, value in record.items() if key != "seconds"}
        for record in records(folder)
    ]


@pytest.fixture
def parts(tmp_path):
    return tiny.prepared(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that nothing interrupted, and the frozen hashes before and after it."""
    root = tmp_path_factory.mktemp("whole")
    llm, store, rows = tiny.prepared(root)
    before = [hash_tensors(part) for part in (llm.encoder, llm.backbone)]
    train(llm, store, rows, RECIPE, root / "run", state_every=5)
    after = [hash_tensors(part) for part in (llm.encoder, llm.backbone)]
    return root / "run", before, after, llm


# ---- what learns ----


def test_only_the_connector_learns_and_all_of_it(whole):
    folder, before, after, llm = whole
    assert before == after
    born, learned = (
        load_file(folder / "checkpoints" / name) for name in ("000000.safetensors", LAST)
    )
    assert set(born) == set(learned) == set(llm.connector.state_dict())
    assert not [name for name in born if torch.equal(born[name], learned[name])]
    assert all(
        torch.equal(learned[name], tensor) for name, tensor in llm.connector.state_dict().items()
    )
    assert not llm.connector.training


def test_the_loss_falls(whole):
    said = losses(whole[0])
    assert sum(said[-4:]) < 0.8 * sum(said[:4])


def test_a_run_leaves_one_record_a_step_and_its_checkpoints(whole):
    folder = whole[0]
    assert [record["step"] for record in records(folder)] == list(range(1, RECIPE.steps + 1))
    assert [record["lr"] for record in records(folder)] == [
        RECIPE.learning_rate(step) for step in range(RECIPE.steps)
    ]
    assert {key for record in records(folder) for key in record} == {
        "step",
        "loss",
        "lr",
        "grad_norm",
        "tokens",
        "seconds",
    }
    listed = checkpoints.list_checkpoints(folder)
    assert (
        [one["step"] for one in listed]
        == checkpoints.checkpoint_steps(RECIPE.steps, RECIPE.checkpoint_every)
        == [0, 1, 2, 4, 8, 16, 24]
    )
    assert [one["loss"] for one in listed[1:]] == [
        losses(folder)[one["step"] - 1] for one in listed[1:]
    ]
    assert is_finished(folder, RECIPE)
    assert not is_finished(folder, replace(RECIPE, steps=30))
    assert not is_finished(folder.parent, RECIPE)
    assert not list(folder.rglob("*.part"))


def test_a_backbone_that_moves_during_the_run_makes_it_invalid(parts, tmp_path, whole):
    llm, store, rows = parts

    def tamper(step, total, record):
        if step == 13:
            llm.backbone.model.get_input_embeddings().weight.data[7, 3] += 1e-3

    with pytest.raises(FreezeError, match="The frozen backbone changed during training"):
        train(llm, store, rows, RECIPE, tmp_path / "run", state_every=5, progress=tamper)
    assert not is_finished(tmp_path / "run", RECIPE)
    # with the parts as they were, the same call starts anew and ends where an honest run ends
    again = tiny.audio_llm(seed=3)
    train(again, store, rows, RECIPE, tmp_path / "run", state_every=5)
    assert is_finished(tmp_path / "run", RECIPE)
    assert (tmp_path / "run" / "checkpoints" / LAST).read_bytes() == (
        whole[0] / "checkpoints" / LAST
    ).read_bytes()


def test_an_encoder_that_moves_is_named_too(parts, tmp_path):
    llm, store, rows = parts

    def tamper(step, total, record):
        llm.encoder.whisper.conv1.bias.data[0] += 1.0

    with pytest.raises(FreezeError, match="The frozen encoder changed"):
        train(llm, store, rows, replace(RECIPE, steps=2), tmp_path / "run", progress=tamper)


def test_a_connector_tensor_that_never_changes_is_named(parts, tmp_path):
    llm, store, rows = parts
    llm.connector.idle = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(FreezeError, match="After 4 steps these tensors never changed: idle"):
        train(llm, store, rows, replace(RECIPE, steps=4), tmp_path / "run")


@pytest.mark.parametrize("tuning", ["lora-2", "full"])
def test_a_thawed_backbone_learns_resumes_and_is_itself_again_when_asked(tuning, tmp_path):
    recipe = replace(RECIPE, steps=6)

    def fresh(folder):
        llm, store, rows = tiny.prepared(folder)
        llm.backbone.unfreeze(tuning)
        return llm, store, rows

    llm, store, rows = fresh(tmp_path / "a")
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        before = llm.backbone.hidden_states(llm.backbone.embed(ids))
    train(llm, store, rows, recipe, tmp_path / "run")
    with torch.no_grad():
        learned = llm.backbone.hidden_states(llm.backbone.embed(ids))
        with llm.backbone.untuned():
            assert torch.equal(llm.backbone.hidden_states(llm.backbone.embed(ids)), before)
        assert torch.equal(llm.backbone.hidden_states(llm.backbone.embed(ids)), learned)
    assert not torch.allclose(learned, before, atol=1e-3)

    def stop(step, total, record):
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(*fresh(tmp_path / "b"), recipe, tmp_path / "cut", state_every=2, progress=stop)
    train(*fresh(tmp_path / "c"), recipe, tmp_path / "cut", state_every=2)
    name = "checkpoints/000006.safetensors"
    assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()

    checkpoints.load_checkpoint(tmp_path / "run", llm, 0)
    with torch.no_grad():
        assert torch.equal(llm.backbone.hidden_states(llm.backbone.embed(ids)), before)


def test_adapters_turned_down_to_nothing_are_the_old_backbone(parts, tmp_path):
    llm, store, rows = parts
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        before = llm.backbone.hidden_states(llm.backbone.embed(ids))
    llm.backbone.unfreeze("lora-2")
    train(llm, store, rows, replace(RECIPE, steps=4), tmp_path / "run")
    llm.backbone.scale_adapters(0.0)
    with torch.no_grad():
        assert torch.equal(llm.backbone.hidden_states(llm.backbone.embed(ids)), before)
        llm.backbone.scale_adapters(1.0)
        assert not torch.equal(llm.backbone.hidden_states(llm.backbone.embed(ids)), before)


def test_a_frozen_weight_beside_adapters_is_still_guarded(parts, tmp_path):
    llm, store, rows = parts
    llm.backbone.unfreeze("lora-2")

    def tamper(step, total, record):
        llm.backbone.model.get_input_embeddings().weight.data[7, 3] += 1e-3

    with pytest.raises(FreezeError, match="The frozen backbone changed"):
        train(llm, store, rows, replace(RECIPE, steps=2), tmp_path / "run", progress=tamper)


def test_a_file_of_a_thawed_run_is_refused_by_a_frozen_one(tmp_path):
    llm, frozen = tiny.audio_llm(), tiny.audio_llm()
    llm.backbone.unfreeze("lora-2")
    llm.provenance["tuning"] = "lora-2"
    llm.save_connector(tmp_path / "a.safetensors")
    with pytest.raises(ProvenanceError, match="trained with tuning lora-2"):
        frozen.load_connector(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="not 'lora-0'"):
        frozen.backbone.unfreeze("lora-0")


def test_a_single_tap_has_no_mixture_to_learn(tmp_path):
    llm, words = tiny.audio_llm(), tiny.corpus(tmp_path / "corpus", 4)
    llm.encoder = tiny.Encoder(tiny.whisper().encoder, (2,), tiny.SECONDS)
    llm.connector = tiny.QFormer(
        taps=1, d_enc=64, d_llm=tiny.WIDTH, queries=5, depth=1, heads=4, ffn=32
    )
    store = tiny.FeatureStore(tmp_path / "features", llm.encoder, "", words, words.clips)
    store.compute()
    for _ in range(2):  # the second call goes on from the state of the first
        train(llm, store, tiny.examples(words), replace(RECIPE, steps=3), tmp_path / "run")
    assert is_finished(tmp_path / "run", replace(RECIPE, steps=3))


# ---- soft targets ----


def test_soft_targets_are_learned_too(parts, tmp_path):
    llm, store, rows = parts
    told = [
        Target(
            row["seed_description"], row["prompt"], row["response"], "soft", "tiny", "", "", False
        )
        for row in rows
    ]
    soft = soften_targets(llm.backbone, told, TOP_K)
    train(llm, store, rows, RECIPE, tmp_path / "run", soft_targets=soft)
    said = losses(tmp_path / "run")
    assert all(loss > 0 for loss in said)
    assert sum(said[-4:]) < 0.8 * sum(said[:4])


# ---- killed and resumed ----

CHILD = """
import sys, time
from pathlib import Path
from desta_lab.training.trainer import train
from tests import tiny

def progress(step, total, record):
    print(step, flush=True)
    time.sleep(0.2 if step >= 13 else 0)  # so that the parent can kill this process

folder = Path(sys.argv[1])
llm, store, rows = tiny.prepared(folder)
train(llm, store, rows, tiny.RECIPE, folder / "run", state_every=5, progress=progress)
"""


def test_a_killed_process_is_resumed_to_the_same_bits(tmp_path, whole):
    threads = str(torch.get_num_threads())  # of another number the sums are rounded otherwise
    same = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    env = {**os.environ, **same, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=env
    ) as child:
        for line in child.stdout:
            if int(line) >= 13:
                child.send_signal(signal.SIGKILL)
                break
    assert child.returncode == -signal.SIGKILL
    folder = tmp_path / "run"
    assert 13 <= len((folder / "records.jsonl").read_text().splitlines()) < RECIPE.steps
    assert not is_finished(folder, RECIPE)

    told = []
    llm, store, rows = tiny.prepared(
        tmp_path, seed=9
    )  # whatever connector comes in, the state decides
    train(
        llm, store, rows, RECIPE, folder, state_every=5, progress=lambda step, *_: told.append(step)
    )
    assert told == list(range(11, RECIPE.steps + 1))
    expected = whole[0]
    assert everything_but_time(folder) == everything_but_time(expected)
    assert checkpoints.list_checkpoints(folder) == checkpoints.list_checkpoints(expected)
    for one in checkpoints.list_checkpoints(expected):
        name = f"{one['step']:06d}.safetensors"
        assert (folder / "checkpoints" / name).read_bytes() == (
            expected / "checkpoints" / name
        ).read_bytes()
    assert hash_tensors(llm.connector) == hash_tensors(whole[3].connector)


# ---- a run that was altered ----


@pytest.fixture
def altered(whole, tmp_path):
    """A copy of the finished run, to alter; its state is kept."""
    shutil.copytree(whole[0], tmp_path / "run")
    return tmp_path / "run"


def cut_list(folder, *without):
    kept = [one for one in checkpoints.list_checkpoints(folder) if one["step"] not in without]
    index_path(folder).write_text(json.dumps(kept))


@pytest.mark.parametrize(("without", "first"), [((24,), None), ((8,), 1), ((8, 24), 1)])
def test_a_checkpoint_that_left_the_list_is_made_again(parts, whole, altered, without, first):
    cut_list(altered, *without)
    assert not is_finished(altered, RECIPE)
    told = []
    llm, store, rows = parts
    train(llm, store, rows, RECIPE, altered, state_every=5, progress=lambda n, *_: told.append(n))
    assert told == ([] if first is None else list(range(first, RECIPE.steps + 1)))
    assert is_finished(altered, RECIPE)
    assert checkpoints.list_checkpoints(altered) == checkpoints.list_checkpoints(whole[0])
    assert everything_but_time(altered) == everything_but_time(whole[0])
    assert hash_tensors(llm.connector) == hash_tensors(whole[3].connector)


def test_a_checkpoint_that_is_not_of_the_plan_is_not_scored(parts, altered):
    listed = checkpoints.list_checkpoints(altered)
    foreign = {"step": 9, "sha256": "0" * 64, "loss": 0.1}
    index_path(altered).write_text(json.dumps([*listed[:5], foreign, *listed[5:]]))
    with pytest.raises(checkpoints.CheckpointError, match="not what this run wrote"):
        checkpoints.read_records(altered)
    assert not is_finished(altered, RECIPE)
    llm, store, rows = parts
    checkpoints.state_path(altered).unlink()
    train(llm, store, rows, RECIPE, altered, state_every=5)
    assert checkpoints.list_checkpoints(altered) == listed


def change(number, **values):
    """Alter the values of one record."""

    def edit(lines):
        lines[number] = json.dumps(json.loads(lines[number]) | values) + "\n"
        return lines

    return edit


RECORD_FAULTS = {
    "a row of another run": (change(9, loss=1.25), "lines 9 to 16: not what this run wrote"),
    "a row of a checkpoint": (change(7, loss=1.25), "lines 5 to 8: not what this run wrote"),
    "another learning rate": (change(0, lr=0.5), "line 1: not what this run wrote there"),
    "a row twice": (lambda ls: [*ls[:4], *ls[3:]], "line 5: not the record of step 5"),
    "a row missing": (lambda ls: ls[:4] + ls[5:], "line 5: not the record of step 5"),
    "two rows swapped": (lambda ls: [ls[1], ls[0], *ls[2:]], "line 1: not the record of step 1"),
    "the end missing": (lambda ls: ls[:20], "lines 17 to 24: not what this run wrote"),
    "nothing": (lambda ls: [], "line 1: not what this run wrote there"),
    "no number": (change(3, loss=None), "line 4: not the record of step 4"),
    "NaN": (change(3, grad_norm=float("nan")), "line 4: not the record of step 4"),
    "a number that no float holds": (change(3, tokens=10**400), "line 4: not the record of step 4"),
    "a text": (change(3, seconds="1"), "line 4: not the record of step 4"),
    "a blank line": (lambda ls: ["\n", *ls], "line 1: not the record of step 1"),
    "a list": (lambda ls: ["[]\n", *ls[1:]], "line 1: not the record of step 1"),
    "half a row": (lambda ls: [ls[0], ls[1][:9] + "\n", *ls[2:]], "line 2: not the record of"),
}


@pytest.mark.parametrize("fault", RECORD_FAULTS)
def test_records_that_this_run_did_not_write_are_refused(altered, fault):
    edit, words = RECORD_FAULTS[fault]
    path = altered / "records.jsonl"
    path.write_text("".join(edit(path.read_text().splitlines(keepends=True))))
    with pytest.raises(checkpoints.CheckpointError, match=rf"records\.jsonl, {words}"):
        checkpoints.read_records(altered)


@pytest.mark.parametrize("there", ["nothing", "folder", "pipe", "utf-16"])
def test_records_that_are_no_text_are_refused_and_do_not_hang(altered, there):
    path = altered / "records.jsonl"
    text = path.read_text()
    path.unlink()
    if there == "utf-16":
        path.write_text(text, encoding="utf-16")
    elif there != "nothing":
        (os.mkfifo if there == "pipe" else os.mkdir)(path)
    with pytest.raises(checkpoints.CheckpointError, match="no readable records"):
        checkpoints.read_records(altered)


def test_a_row_that_is_being_written_is_left_out(altered):
    path = altered / "records.jsonl"
    before = checkpoints.read_records(altered)
    with path.open("a") as file:
        file.write('{"step": 25, "lo')
    assert checkpoints.read_records(altered) == before


def test_a_run_does_not_go_on_after_rows_of_another(parts, tmp_path):
    llm, store, rows = parts

    def stop(step, *_):
        if step == 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(llm, store, rows, RECIPE, tmp_path / "run", state_every=5, progress=stop)
    path = tmp_path / "run" / "records.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(change(2, loss=9.0)(list(lines))))
    with pytest.raises(checkpoints.CheckpointError, match="lines 3 to 4: not what"):
        train(llm, store, rows, RECIPE, tmp_path / "run", state_every=5)
    path.write_text("".join(lines[:3]))
    with pytest.raises(checkpoints.CheckpointError, match="lines 3 to 4: not what"):
        train(llm, store, rows, RECIPE, tmp_path / "run", state_every=5)


@pytest.mark.parametrize("at", [1, 5, 23])
def test_wherever_it_stops_it_ends_the_same(parts, tmp_path, whole, at):
    llm, store, rows = parts

    def stop(step, total, record):
        if step == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(llm, store, rows, RECIPE, tmp_path / "run", state_every=5, progress=stop)
    with (tmp_path / "run" / "records.jsonl").open("a") as file:
        file.write('{"step": 99, "lo')  # a line that was being written
    train(llm, store, rows, RECIPE, tmp_path / "run", state_every=5)
    assert everything_but_time(tmp_path / "run") == everything_but_time(whole[0])
    assert (tmp_path / "run" / "checkpoints" / LAST).read_bytes() == (
        whole[0] / "checkpoints" / LAST
    ).read_bytes()


def test_a_finished_run_is_left_as_it_is(tmp_path, whole):
    llm, store, rows = tiny.prepared(tmp_path)
    before = {path: path.read_bytes() for path in whole[0].rglob("*") if path.is_file()}
    train(llm, store, rows, RECIPE, whole[0], progress=lambda *news: pytest.fail("trained again"))
    assert {path: path.read_bytes() for path in whole[0].rglob("*") if path.is_file()} == before
    assert hash_tensors(llm.connector) == hash_tensors(whole[3].connector)


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter.*")
def test_a_state_is_loaded_onto_the_device_of_the_parameters_as_fused_adam_keeps_it(whole):
    folder, _, _, trained = whole
    llm = tiny.audio_llm().to("meta")  # stands for a GPU: what stays on the CPU is seen
    parameters = llm.trainable_parameters.values()
    optimizer = torch.optim.AdamW(parameters, fused=True)
    assert checkpoints.load_state(folder, llm, optimizer, RECIPE.steps) == RECIPE.steps

    reference = torch.optim.AdamW(trained.trainable_parameters.values(), fused=True)
    for parameter in trained.trainable_parameters.values():
        parameter.grad = torch.ones_like(parameter)
    with torch.no_grad():
        reference.step()
    kept = reference.state_dict()["state"]
    loaded = optimizer.state_dict()["state"]
    assert loaded.keys() == kept.keys()
    for number, moments in kept.items():
        assert loaded[number].keys() == moments.keys() == {"step", "exp_avg", "exp_avg_sq"}
        for name, moment in moments.items():
            assert loaded[number][name].device.type == "meta"
            assert loaded[number][name].dtype == moment.dtype
            assert loaded[number][name].shape == moment.shape


@pytest.mark.parametrize("harm", ["torn", "empty", "foreign", "stepless"])
def test_a_damaged_state_is_a_sentence_and_nothing_is_lost(parts, tmp_path, whole, harm):
    llm, store, rows = parts
    folder = tmp_path / "run"

    def stop(step, total, record):
        if step == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(llm, store, rows, RECIPE, folder, state_every=5, progress=stop)
    state = folder / "state" / "state.safetensors"
    content = load_file(state)
    if harm == "torn":
        state.write_bytes(state.read_bytes()[:-50])
    elif harm == "empty":
        state.write_bytes(b"")
    elif harm == "foreign":
        save_file(
            {f"other.{name}": t for name, t in content.items()}, state, metadata={"step": "10"}
        )
    else:
        save_file(content, state)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(
        StateError, match=r"state.safetensors: damaged \(.+\); delete it and train again"
    ):
        train(llm, store, rows, RECIPE, folder, state_every=5)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before

    state.unlink()  # what the sentence says
    train(llm, store, rows, RECIPE, folder, state_every=5)
    assert everything_but_time(folder) == everything_but_time(whole[0])
    assert (folder / "checkpoints" / LAST).read_bytes() == (
        whole[0] / "checkpoints" / LAST
    ).read_bytes()


def test_training_leaves_torchs_random_numbers_alone(parts, tmp_path):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    train(*parts, replace(RECIPE, steps=2), tmp_path / "run")
    assert torch.equal(torch.rand(3), expected)


# ---- what cannot be trained ----


def test_an_example_longer_than_the_backbone_reads_is_a_sentence(parts, tmp_path):
    llm, store, rows = parts
    rows[3]["response"] = "tone " * 600
    with pytest.raises(ChatError, match=r"has \d+ tokens and the limit is 512; shorten it"):
        train(llm, store, rows, RECIPE, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_no_number_stops_the_run(parts, tmp_path):
    llm, store, rows = parts

    def poison(step, total, record):
        llm.connector.proj[1].bias.data[0] = float("nan")

    with pytest.raises(LossError, match="The loss of step 3 is nan; lower the learning rate"):
        train(
            llm,
            store,
            rows,
            RECIPE,
            tmp_path / "run",
            progress=lambda s, *r: poison(s, *r) if s == 2 else None,
        )
    assert [record["step"] for record in records(tmp_path / "run")] == [1, 2]
    assert not is_finished(tmp_path / "run", RECIPE)


# ---- the recipe and the folder ----


def test_the_rate_rises_in_a_line_and_falls_in_a_cosine():
    recipe = TrainConfig(steps=100, lr=1.0, warmup=10, floor=0.1)
    rates = [recipe.learning_rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.55)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)


def test_every_epoch_trains_every_example_once_in_an_order_of_its_own():
    recipe = TrainConfig(steps=9, batch=4, seed=1)
    drawn = [row for step in range(9) for row in recipe.batch_rows(step, 12)]
    epochs = [drawn[:12], drawn[12:24], drawn[24:]]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert (
        recipe.batch_rows(3, 12)
        == recipe.batch_rows(3, 12)
        != replace(recipe, seed=2).batch_rows(3, 12)
    )
    assert len(recipe.batch_rows(0, 3)) == 4  # a batch may be larger than the set


def test_the_same_config_finds_the_same_run(tmp_path):
    provenance = {"backbone_sha256": "b" * 64, "taps": [0, 1]}
    config = {"train_config": asdict(RECIPE), "provenance": provenance}
    folder = run_folder(tmp_path, "nano-self", config)
    assert folder.name.startswith("nano-self-")
    assert run_folder(tmp_path, "nano-self", dict(reversed(config.items()))) == folder
    assert (
        run_folder(
            tmp_path, "nano-self", {**config, "train_config": asdict(replace(RECIPE, lr=1.0))}
        )
        != folder
    )
    written = json.loads((folder / "config.json").read_text())
    assert written["provenance"] == provenance
    assert written["train_config"] == {**config["train_config"], "betas": [0.9, 0.98]}
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_a_path_is_no_part_of_a_runs_identity(tmp_path):
    with pytest.raises(CacheError, match="weights is a path, and files move"):
        run_folder(tmp_path, "nano-self", {"weights": tmp_path / "model.safetensors"})
    assert not list(tmp_path.iterdir())


def test_a_gradient_taken_twice_is_compared_to_the_bit(parts):
    llm, store, rows = parts
    before = hash_tensors(llm.connector)
    assert trainer.compare_gradients(llm, store, rows, tiny.RECIPE) == 0.0
    assert hash_tensors(llm.connector) == before
    assert all(parameter.grad is None for parameter in llm.connector.parameters())

    connect, calls = type(llm).connect, iter((1.0, 1.25))
    llm.connect = lambda states: connect(llm, states) * next(calls)  # as if the device drifted
    assert trainer.compare_gradients(llm, store, rows, tiny.RECIPE) > 0.05
