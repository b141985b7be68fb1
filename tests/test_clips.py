"""A corpus is read whole and valid, or refused with the file, the line and the remedy."""

import json

import numpy as np
import pytest
import soundfile

from desta_lab.clips import (
    MIN_CLIPS,
    Clip,
    Corpus,
    CorpusError,
    Span,
    balance_speakers,
    split_clips,
)

SPLITS = {"train": ["anna", "bert"], "test": ["carl"]}


@pytest.fixture
def corpus(tmp_path):
    rng = np.random.default_rng(0)
    clips = []
    for number, speaker in enumerate(["anna", "bert", "carl"]):
        soundfile.write(str(tmp_path / f"{number}.wav"), 0.1 * rng.standard_normal(16_000), 16_000)
        spans = (Span("speech", 0.1, 0.9),)
        clips.append(
            Clip(f"c{number}", f"{number}.wav", 1.0, "Größe", speaker, {"gender": "female"}, spans)
        )
    return Corpus.write(
        tmp_path,
        clips,
        name="tiny",
        recipe={"by": "hand"},
        seed=3,
        licence="CC0-1.0",
        splits=SPLITS,
    )


def change_row(corpus, number, **fields):
    path = corpus.folder / "clips.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    row = json.loads(lines[number]) | fields
    row = {name: value for name, value in row.items() if value is not None}
    lines[number] = json.dumps(row)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_a_corpus_comes_back_as_it_was_written(corpus):
    again = Corpus.read(corpus.folder, check_audio=True)
    assert again == corpus
    assert [clip.transcript for clip in again.clips] == ["Größe"] * 3
    assert again.clips[0].spans == (Span("speech", 0.1, 0.9),)
    assert (again.name, again.seed, again.licence, again.recipe) == (
        "tiny",
        3,
        "CC0-1.0",
        {"by": "hand"},
    )


def test_splits_follow_the_speakers(corpus):
    assert [clip.id for clip in corpus.split("train")] == ["c0", "c1"]
    assert [clip.id for clip in corpus.split("test")] == ["c2"]
    assert corpus.path(corpus.clips[0]).is_file()
    with pytest.raises(CorpusError, match=r"no split 'dev'; there are train, test"):
        corpus.split("dev")


def test_the_hash_names_the_manifest(corpus):
    assert Corpus.read(corpus.folder).hash == corpus.hash
    change_row(corpus, 0, transcript="other")
    assert Corpus.read(corpus.folder).hash != corpus.hash


BAD_ROWS = {
    "a missing field": ({"speaker": None}, "'speaker' is missing"),
    "a number for a text": ({"transcript": 7}, "'transcript' is int, not str"),
    "a text for a number": ({"seconds": "1.0"}, "'seconds' is str, not float"),
    "a truth for a number": ({"seconds": True}, "'seconds' is bool"),
    "no time at all": ({"seconds": 0}, "'seconds' is 0"),
    "a number as attribute": ({"attributes": {"age": 30}}, "attribute 'age' is int"),
    "a file that is not there": ({"audio": "none.wav"}, "'none.wav' is missing"),
    "a path out of the folder": ({"audio": "../0.wav"}, "leaves the folder"),
    "an id used before": ({"id": "c0"}, "'c0' appears twice"),
    "a stranger": ({"speaker": "dora"}, "'dora' is in no split"),
    "a span behind the end": (
        {"spans": [{"name": "speech", "start": 0.5, "end": 2.0}]},
        "not inside 0 … 1.0 s",
    ),
    "a span that runs backwards": (
        {"spans": [{"name": "speech", "start": 0.5, "end": 0.2}]},
        "not inside",
    ),
    "a span without a name": ({"spans": [{"start": 0.5, "end": 0.7}]}, "'name' is missing"),
    "a span that is a list": ({"spans": [["speech", 0, 1]]}, "a span is list"),
}


@pytest.mark.parametrize("fault", BAD_ROWS)
def test_a_bad_row_is_named_by_file_and_line(corpus, fault):
    fields, words = BAD_ROWS[fault]
    change_row(corpus, 1, **fields)
    with pytest.raises(CorpusError, match=r"clips\.jsonl, line 2: .*;") as caught:
        Corpus.read(corpus.folder)
    assert words in str(caught.value)


@pytest.mark.parametrize("line", ["{broken", "[1, 2]", ""])
def test_a_line_that_is_no_object_is_named(corpus, line):
    path = corpus.folder / "clips.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([*lines[:2], line, lines[2]]) + "\n", encoding="utf-8")
    with pytest.raises(CorpusError, match=r"clips\.jsonl, line 3: "):
        Corpus.read(corpus.folder)


def test_a_speaker_in_two_splits_is_refused(corpus):
    head = json.loads((corpus.folder / "corpus.json").read_text(encoding="utf-8"))
    head["splits"]["test"].append("anna")
    (corpus.folder / "corpus.json").write_text(json.dumps(head), encoding="utf-8")
    with pytest.raises(
        CorpusError, match=r"corpus\.json: speaker 'anna' is in 'train' and 'test'; "
    ):
        Corpus.read(corpus.folder)


@pytest.mark.parametrize("name", ["corpus.json", "clips.jsonl"])
def test_a_folder_that_is_no_corpus_says_what_is_missing(corpus, name):
    (corpus.folder / name).unlink()
    with pytest.raises(CorpusError, match=rf"{name}: no such file; "):
        Corpus.read(corpus.folder)


def test_a_corpus_without_clips_is_refused(corpus):
    (corpus.folder / "clips.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(CorpusError, match="no clips"):
        Corpus.read(corpus.folder)


@pytest.mark.parametrize(
    ("wave", "words"),
    [
        (np.zeros(16_000), "silent"),
        (np.full(16_000, np.nan), "not a finite number"),
        (np.zeros(0), "0 samples"),
        (np.full(32_000, 0.1), "2.00 s long but the manifest says 1.00 s"),
    ],
)
def test_listening_finds_bad_audio_and_names_its_line(corpus, wave, words):
    soundfile.write(str(corpus.folder / "1.wav"), wave, 16_000, subtype="FLOAT")
    Corpus.read(corpus.folder)
    with pytest.raises(CorpusError, match=r"clips\.jsonl, line 2: .*1\.wav: ") as caught:
        Corpus.read(corpus.folder, check_audio=True)
    assert words in str(caught.value)


def of_speakers(folder, speakers, splits):
    folder.mkdir(exist_ok=True)
    soundfile.write(str(folder / "a.wav"), np.full(800, 0.1), 8_000)
    clips = [Clip(f"c{i}", "a.wav", 0.1, "", speaker, {}) for i, speaker in enumerate(speakers)]
    return Corpus.write(
        folder, clips, name="x", recipe={}, seed=0, licence="CC0-1.0", splits=splits
    )


def test_a_corpus_with_voices_for_every_split_is_parted_by_them(tmp_path):
    corpus = of_speakers(tmp_path, "abcd", {"train": "a", "validation": "b", "test": "cd"})
    found = split_clips(corpus)
    assert found.disjoint_speakers
    assert found.clips == {split: corpus.split(split) for split in corpus.splits}


@pytest.mark.parametrize("speakers", [["me"] * MIN_CLIPS, ["me", "you"] * 20])
def test_with_too_few_voices_clips_are_parted_and_none_is_in_two(tmp_path, speakers):
    corpus = of_speakers(tmp_path, speakers, {"train": set(speakers)})
    found = split_clips(corpus)
    dealt = [clip for clips in found.clips.values() for clip in clips]
    assert not found.disjoint_speakers
    assert sorted(clip.id for clip in dealt) == sorted(clip.id for clip in corpus.clips)
    assert all(clip.speaker == clip.id for clip in dealt)
    train, validation, test = (len(found.clips[split]) for split in ("train", "validation", "test"))
    assert train > test > validation >= 2


def test_a_handful_of_clips_of_one_voice_is_refused(tmp_path):
    with pytest.raises(CorpusError, match=f"15 clips of 1 speakers; record at least {MIN_CLIPS}"):
        split_clips(of_speakers(tmp_path, ["me"] * (MIN_CLIPS - 1), {"train": ["me"]}))


def test_speakers_take_turns_until_the_count_is_reached():
    clips = [Clip(f"c{i}", "a.wav", 0.1, "", who, {}) for i, who in enumerate("aaabbc")]
    assert [clip.id for clip in balance_speakers(clips, 5)] == ["c0", "c3", "c5", "c1", "c4"]
    assert balance_speakers(clips, 99) != clips and len(balance_speakers(clips, 99)) == 6
