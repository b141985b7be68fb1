"""Features: computed once, close to the real thing, never read torn, foreign or out of order."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from desta_lab import audio
from desta_lab.audio import RATE
from desta_lab.model.encoder import PUBLISHED_TAPS, Encoder
from desta_lab.training import features
from desta_lab.training.features import FeatureStore
from tests import tiny

COUNT = 10  # clips, in shards of 4: 4 + 4 + 2


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(features, "SHARD", 4)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny.corpus(tmp_path_factory.mktemp("corpus"), COUNT)


@pytest.fixture
def encoder():
    """An encoder that counts the clips it encodes."""
    counted = Encoder(tiny.whisper().encoder, (0, 3), tiny.SECONDS)
    counted.count = 0
    encode = counted.encode

    def counting(waves, taps=None):
        counted.count += len(waves)
        return encode(waves, taps)

    counted.encode = counting
    return counted


def store_of(folder, encoder, corpus, clips=None, sha="e" * 64) -> FeatureStore:
    return FeatureStore(folder, encoder, sha, corpus, corpus.clips if clips is None else clips)


def ids(clips) -> list[str]:
    return [clip.id for clip in clips]


def direct(encoder, corpus, clips) -> torch.Tensor:
    return Encoder.encode(encoder, [audio.read_audio(corpus.path(clip)) for clip in clips])


def test_features_are_what_the_encoder_says_in_half_precision(tmp_path, encoder, corpus):
    store = store_of(tmp_path, encoder, corpus)
    store.compute(batch=3)
    expected = direct(encoder, corpus, corpus.clips)
    assert store.shape == (4, 20, 64)  # the published layers, of which two are tapped
    kept = store[ids(corpus.clips)]
    assert kept.dtype == torch.float16
    torch.testing.assert_close(kept.float(), expected, atol=1e-3, rtol=2e-3)
    torch.testing.assert_close(
        store[[corpus.clips[7].id, corpus.clips[2].id]], kept[:, [7, 2]], atol=0, rtol=0
    )


def test_every_clip_is_encoded_once(tmp_path, encoder, corpus):
    told = []
    store_of(tmp_path, encoder, corpus).compute(lambda *news: told.append(news))
    assert encoder.count == COUNT
    assert told[-1] == (COUNT, COUNT)
    again = store_of(tmp_path, encoder, corpus)
    again.compute()
    assert encoder.count == COUNT
    assert again[ids(corpus.clips)].shape == (2, COUNT, 20, 64)


def test_features_are_memory_mapped_half_floats(tmp_path, encoder, corpus):
    store = store_of(tmp_path, encoder, corpus)
    store.compute()
    _ = store[ids(corpus.clips)]
    assert all(
        isinstance(shard, np.memmap) and shard.dtype == np.float16
        for shard in store._shards.values()
    )
    size = sum(path.stat().st_size for path in store.folder.glob("*.npy")) / 1e9
    assert store.gigabytes == pytest.approx(size, rel=0.02)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def foreign(path):
    np.save(path, np.zeros_like(np.load(path)))


@pytest.mark.parametrize(
    "harm", [truncate, foreign, lambda path: path.unlink()], ids=["torn", "foreign", "gone"]
)
def test_a_harmed_shard_is_found_and_only_that_one_made_again(tmp_path, encoder, corpus, harm):
    store = store_of(tmp_path, encoder, corpus)
    store.compute()
    before = store[ids(corpus.clips)]
    harm(store.folder / "00001.npy")
    again = store_of(tmp_path, encoder, corpus)
    again.compute()
    assert encoder.count == COUNT + 4
    assert torch.equal(again[ids(corpus.clips)], before)


@pytest.mark.parametrize("text", [None, b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000])
def test_without_a_readable_list_of_checksums_nothing_is_believed(tmp_path, encoder, corpus, text):
    store = store_of(tmp_path, encoder, corpus)
    store.compute()
    path = store.folder / "shards.json"
    path.unlink() if text is None else path.write_bytes(text)
    store_of(tmp_path, encoder, corpus).compute()
    assert encoder.count == 2 * COUNT


def test_killed_half_way_it_goes_on_where_it_was(tmp_path, encoder, corpus):
    def killed(done, total):
        if done > 4:
            raise KeyboardInterrupt

    store = store_of(tmp_path, encoder, corpus)
    with pytest.raises(KeyboardInterrupt):
        store.compute(killed, batch=2)
    (store.folder / f".00001.npy.{tiny.ended_process()}.part").write_bytes(b"half a shard")
    assert encoder.count == 6
    again = store_of(tmp_path, encoder, corpus)
    again.compute()
    assert encoder.count == 6 + COUNT - 4
    torch.testing.assert_close(
        again[ids(corpus.clips)].float(),
        direct(encoder, corpus, corpus.clips),
        atol=1e-3,
        rtol=2e-3,
    )
    assert not list(again.folder.glob(".*.part"))


def test_everything_that_determines_the_numbers_is_in_the_name(
    tmp_path, encoder, corpus, monkeypatch
):
    monkeypatch.delitem(PUBLISHED_TAPS, 4)  # no published layers: each encoder keeps its own
    folder = store_of(tmp_path, encoder, corpus).folder
    others = [
        store_of(tmp_path, encoder, corpus, sha="f" * 64),
        store_of(tmp_path, encoder, corpus, corpus.clips[:-1]),
        store_of(
            tmp_path, encoder, corpus, corpus.clips[::-1]
        ),  # rows have no names: the order is theirs
        store_of(tmp_path, Encoder(tiny.whisper().encoder, (0, 2), tiny.SECONDS), corpus),
        store_of(tmp_path, Encoder(tiny.whisper().encoder, (0, 3), 0.2), corpus),
    ]
    others.append(
        FeatureStore(tmp_path, encoder, "e" * 64, corpus, corpus.clips, {"denoise": True})
    )
    assert len({folder, *(store.folder for store in others)}) == 7
    assert store_of(tmp_path, encoder, corpus).folder == folder


def test_an_encoder_with_fewer_taps_finds_the_store_of_the_published_ones(tmp_path, corpus):
    every, one = (
        Encoder(tiny.whisper().encoder, taps, tiny.SECONDS) for taps in ((0, 1, 2, 3), (2,))
    )
    store_of(tmp_path, every, corpus).compute()
    one.encode = None  # it must not be asked
    store = store_of(tmp_path, one, corpus)
    store.compute()
    names = ids(corpus.clips)
    assert torch.equal(store[names], store_of(tmp_path, every, corpus)[names][2:3])


def test_another_order_of_the_same_clips_reads_the_right_rows(tmp_path, encoder, corpus):
    first, turned = (
        store_of(tmp_path, encoder, corpus),
        store_of(tmp_path, encoder, corpus, corpus.clips[::-1]),
    )
    first.compute()
    turned.compute()
    some = ids(corpus.clips[:3])
    torch.testing.assert_close(turned[some], first[some], atol=1e-3, rtol=1e-3)


def test_changed_audio_is_another_store(tmp_path, encoder):
    words = tiny.corpus(tmp_path / "corpus", 2)
    before = store_of(tmp_path, encoder, words).folder
    soundfile.write(words.path(words.clips[1]), tiny.wave(9), RATE)
    assert store_of(tmp_path, encoder, words).folder != before


def test_a_full_disk_is_a_sentence_before_anything_is_written(
    tmp_path, encoder, corpus, monkeypatch
):
    store = store_of(tmp_path, encoder, corpus)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=102_399))
    with pytest.raises(
        OSError, match=r"the features need 0.000102 GB and .* are free; free some, use fewer clips"
    ):
        store.compute()
    assert encoder.count == 0
    assert not list(store.folder.iterdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=102_400))
    store.compute()
    assert encoder.count == COUNT
