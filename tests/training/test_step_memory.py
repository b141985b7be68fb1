"""A step that does not fit into memory says what does, and nothing of the run is lost."""

import json
from dataclasses import replace

import pytest
import torch

from desta_lab import processes
from desta_lab.model.audio_llm import hash_tensors
from desta_lab.training import trainer
from desta_lab.training.features import OnTheFlyFeatures
from desta_lab.training.trainer import StepMemoryError, train
from tests import tiny

RECIPE = replace(tiny.RECIPE, steps=8, batch=8)
GPU = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 14.75 GiB. See documentation."
CPU = (
    "[enforce fail at alloc_cpu.cpp:127] data. DefaultCPUAllocator: can't allocate memory: you "
    "tried to allocate 4000000 bytes. Error code 12 (Cannot allocate memory)"
)


@pytest.fixture
def parts(tmp_path):
    return tiny.prepared(tmp_path, dropout=0.0)


def limit_rows(llm, rows, where="forward", error=None):
    """Let more than so many rows at once run out of memory; returns how many were tried."""
    error = torch.OutOfMemoryError(GPU) if error is None else error
    connect, tried = type(llm).connect, []

    def fail(*_):
        raise error

    def limited(states):
        count = states.shape[1]
        tried.append(count)
        embeddings = connect(llm, states)
        if count > rows and where == "forward":
            fail()
        elif count > rows:
            embeddings.register_hook(fail)
        return embeddings

    llm.connect = limited
    return tried


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("error", [torch.OutOfMemoryError(GPU), RuntimeError(CPU), MemoryError()])
@pytest.mark.parametrize(("fits", "accumulate", "tries"), [(4, 2, [8, 4]), (1, 8, [8, 4, 2, 1])])
def test_the_sentence_names_the_rows_that_fit(
    parts, tmp_path, where, error, fits, accumulate, tries
):
    llm, store, rows = parts
    tried = limit_rows(llm, fits, where, error)
    with pytest.raises(
        StepMemoryError,
        match=rf"^Step 1 needs more memory than cpu has, at 8 rows at once \(batch 8 in 1 micro-"
        rf"batches\), and {fits} would fit; go on with --accumulate {accumulate} \(the preset's "
        r"accumulate\), or go on with --checkpointing \(its gradient_checkpointing\), or take a "
        r"smaller backbone\.$",
    ) as caught:
        train(llm, store, rows, RECIPE, tmp_path / "run")
    assert tried == tries
    assert caught.value.__context__ is None  # which would keep what was computed in memory


def test_a_step_of_which_not_even_one_row_fits_asks_for_less(parts, tmp_path):
    llm, store, rows = parts
    limit_rows(llm, 0)
    words = (
        r"and 0 would fit; go on with --checkpointing \(its gradient_checkpointing\), or take a "
        r"smaller backbone\.$"
    )
    with pytest.raises(StepMemoryError, match=words):
        train(llm, store, rows, RECIPE, tmp_path / "run")
    llm.backbone.gradient_checkpointing = True
    with pytest.raises(StepMemoryError, match=r"and 0 would fit; take a smaller backbone\.$"):
        train(llm, store, rows, RECIPE, tmp_path / "run", accumulate=8)


def test_the_longest_rows_are_tried(parts, tmp_path):
    llm, store, rows = parts
    limit_rows(llm, 4)
    last = rows[RECIPE.batch_rows(0, len(rows))[-1]]
    last["response"] = "a tone of the audio"
    shapes, logits = [], llm.response_logits
    llm.response_logits = lambda *given: (
        shapes.append((len(given[0]), *given[1].shape)) or logits(*given)
    )
    with pytest.raises(StepMemoryError, match="and 4 would fit"):
        train(llm, store, rows, RECIPE, tmp_path / "run")
    ((prefix, count, tokens),) = shapes  # of what was tried and fitted
    stream = llm.build_stream(last["messages"], response=last["response"])
    assert count == 4 and prefix + tokens == len(stream.ids)


@pytest.mark.parametrize("live", [False, True])
def test_a_run_that_ran_out_keeps_its_weights_and_goes_on_in_parts(parts, tmp_path, live):
    llm, store, rows = parts
    if live:
        of = {clip.id: store.corpus.path(clip) for clip in store.corpus.clips}
        store = OnTheFlyFeatures(llm.encoder, of.__getitem__)
    train(llm, store, rows, RECIPE, tmp_path / "whole")
    llm.connector.load_state_dict(tiny.audio_llm(dropout=0.0).connector.state_dict())
    hashes = []

    def fill(step, *_):
        hashes.append(hash_tensors(llm.connector))
        if step == 5:
            limit_rows(llm, 4)

    how = {"state_every": 2}
    with pytest.raises(StepMemoryError, match=r"^Step 6 needs more .* go on with --accumulate 2 "):
        train(llm, store, rows, RECIPE, tmp_path / "run", progress=fill, **how)
    assert hash_tensors(llm.connector) == hashes[-1] and len(hashes) == 5
    assert all(parameter.grad is None for parameter in llm.trainable_parameters.values())
    train(llm, store, rows, RECIPE, tmp_path / "run", accumulate=2, **how)
    assert trainer.is_finished(tmp_path / "run", RECIPE)
    name = "records.jsonl"
    ran, whole = (
        [json.loads(line)["loss"] for line in (tmp_path / run / name).read_text().splitlines()]
        for run in ("run", "whole")
    )
    assert ran == pytest.approx(whole, rel=1e-4)


def test_another_error_of_a_step_stays_what_it_is(parts, tmp_path):
    llm, store, rows = parts
    limit_rows(llm, 4, error=RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match=r"^mat1 and mat2 shapes"):
        train(llm, store, rows, RECIPE, tmp_path / "run")


def test_memory_that_the_machine_lacks_is_known_by_torchs_own_error():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert processes.is_out_of_memory(caught.value)
    assert processes.explain_memory(caught.value, []) == (
        "The machine has no memory for another 4503599627370496 bytes; end other programs that "
        "use it."
    )
    assert not processes.is_out_of_memory(StepMemoryError(GPU))
    assert not processes.is_out_of_memory(ValueError(GPU))
