"""The states of the next micro-batch are read while one is learned, and nothing else changes."""

import threading
import time
from dataclasses import replace

import pytest
import torch

from desta_lab.training import features, trainer
from desta_lab.training.batches import MicroBatch, read_ahead
from desta_lab.training.features import FeatureStore, OnTheFlyFeatures
from desta_lab.training.trainer import train
from tests import tiny

RECIPE = replace(tiny.RECIPE, steps=8)
LAST = f"checkpoints/{RECIPE.steps:06d}.safetensors"


class Store(FeatureStore):
    """A store that notes who reads what, and may be slow or fail."""

    seconds, fails_at = 0.0, None

    def __getitem__(self, names):
        begin = time.perf_counter()
        self.reads.append((threading.current_thread(), names))
        if len(self.reads) == self.fails_at:
            raise OSError("the disk is gone; bring it back.")
        time.sleep(self.seconds)
        states = super().__getitem__(names)
        self.spent += time.perf_counter() - begin
        return states

    @property
    def readers(self):
        return {reader for reader, _ in self.reads}


@pytest.fixture
def parts(tmp_path):
    llm, store, rows = tiny.prepared(tmp_path, dropout=0.0)
    store.__class__, store.reads, store.spent = Store, [], 0.0
    return llm, store, rows


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) == before


def micro_batch(step, number):
    return MicroBatch([], 10 * step + number)


def test_micro_batches_come_in_order_and_one_is_read_ahead():
    begun, places = [], [(step, number) for step in range(3) for number in range(2)]

    def read(*place):
        begun.append(place)
        return micro_batch(*place)

    with read_ahead(read, iter(places)) as results:
        for done, found in enumerate(results):
            assert found == micro_batch(*places[done])
            assert len(begun) <= done + 2
    assert begun == places


def test_an_error_comes_at_its_own_place_and_what_is_waiting_is_not_read():
    def read(step, number):
        if step == 1:
            raise OSError("gone; bring it back.")
        return micro_batch(step, number)

    with read_ahead(read, ((step, 0) for step in range(9))) as results:
        assert next(results) == micro_batch(0, 0)
        with pytest.raises(OSError, match=r"^gone; bring it back\.$"):
            next(results)
    with pytest.raises(KeyboardInterrupt), read_ahead(read, [(0, 0), (1, 0)]) as results:
        next(results)
        raise KeyboardInterrupt


def test_reading_and_stepping_overlap(parts, tmp_path):
    llm, store, rows = parts
    store.seconds, connect, begun, ended = 0.15, llm.connect, [], []

    def slow(states):
        begun.append(time.perf_counter())
        time.sleep(store.seconds)
        return connect(states)

    llm.connect = slow
    train(llm, store, rows, RECIPE, tmp_path, progress=lambda *_: ended.append(time.perf_counter()))
    assert store.spent >= RECIPE.steps * store.seconds
    stepping = sum(ended) - sum(begun)
    assert ended[-1] - begun[0] < stepping + store.spent / 2  # one after the other: the whole of it


@pytest.mark.parametrize("accumulate", [1, 3])
def test_each_step_learns_from_the_states_of_its_own_rows(parts, tmp_path, accumulate):
    llm, store, rows = parts
    connect, heard = llm.connect, []
    llm.connect = lambda states: heard.append(states) or connect(states)
    train(llm, store, rows, RECIPE, tmp_path, accumulate=accumulate)
    expected = [
        [rows[row]["id"] for row in RECIPE.batch_rows(step, len(rows))[part::accumulate]]
        for step in range(RECIPE.steps)
        for part in range(accumulate)
    ]
    assert [names for _, names in store.reads] == expected
    assert store.readers.isdisjoint({threading.current_thread()}) and len(store.readers) == 1
    for states, names in zip(heard, expected, strict=True):
        assert states.dtype == torch.float16
        assert torch.equal(states, FeatureStore.__getitem__(store, names))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_failed_read_stops_its_own_step_and_the_run_goes_on_to_the_same_bits(
    parts, tmp_path, accumulate
):
    llm, store, rows = parts
    how = {"accumulate": accumulate, "state_every": 2}
    train(llm, store, rows, RECIPE, tmp_path / "whole", **how)
    for fails_at, harm in ((6 * accumulate, OSError), (None, KeyboardInterrupt)):
        llm.connector.load_state_dict(tiny.audio_llm(dropout=0.0).connector.state_dict())
        store.reads.clear()
        store.fails_at, folder = fails_at, tmp_path / harm.__name__

        def stop(step, *_, harm=harm):
            if step == 5 and harm is KeyboardInterrupt:
                raise harm

        with pytest.raises(harm, match=None if harm is KeyboardInterrupt else "the disk is gone"):
            train(llm, store, rows, RECIPE, folder, progress=stop, **how)
        assert len((folder / "records.jsonl").read_text().splitlines()) == 5
        store.fails_at = None
        train(llm, store, rows, RECIPE, folder, **how)
        assert (folder / LAST).read_bytes() == (tmp_path / "whole" / LAST).read_bytes()


def test_the_gradients_of_an_interrupted_step_are_not_learned(parts, tmp_path):
    llm, store, rows = parts
    train(llm, store, rows, RECIPE, tmp_path / "whole")
    llm.connector.load_state_dict(tiny.audio_llm(dropout=0.0).connector.state_dict())
    for parameter in llm.trainable_parameters.values():
        parameter.grad = torch.ones_like(parameter)
    train(llm, store, rows, RECIPE, tmp_path / "again")
    assert (tmp_path / "again" / LAST).read_bytes() == (tmp_path / "whole" / LAST).read_bytes()


@pytest.mark.parametrize("kind", ["on the fly", "missing shards"])
def test_the_encoder_never_runs_beside_the_step(parts, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(features, "SHARD", 4)
    llm, store, rows = parts
    words = store.corpus
    of = {clip.id: words.path(clip) for clip in words.clips}
    live = OnTheFlyFeatures(llm.encoder, of.__getitem__)
    if kind == "missing shards":
        live = FeatureStore(tmp_path / "partial", llm.encoder, "e" * 64, words, words.clips)
        live.compute()
        (live.folder / "00001.npy").unlink()
        live = FeatureStore(tmp_path / "partial", llm.encoder, "e" * 64, words, words.clips)
    encode, threads = llm.encoder.encode, []

    def noted(*args):
        threads.append(threading.current_thread())
        return encode(*args)

    llm.encoder.encode = noted
    train(llm, live, rows, RECIPE, tmp_path / "run")
    assert set(threads) == {threading.current_thread()}
    assert trainer.is_finished(tmp_path / "run", RECIPE)


def test_a_clip_that_the_store_lacks_is_named_at_its_own_step(parts, tmp_path):
    llm, store, rows = parts
    rows[RECIPE.batch_rows(2, len(rows))[0]]["id"] = "stranger"
    with pytest.raises(ValueError, match=r"^stranger is none of the 12 clips of .*; open the st"):
        train(llm, store, rows, RECIPE, tmp_path / "run")
    assert len((tmp_path / "run" / "records.jsonl").read_text().splitlines()) == 2
