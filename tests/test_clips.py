"""A corpus is read whole and valid, or refused with the file, the line and the remedy."""

import json
import threading
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from desta_lab.clips import (
    MIN_CLIPS,
    Clip,
    Corpus,
    CorpusError,
    Span,
    balance_speakers,
    split_clips,
)
from desta_lab.world.describe import askable_attributes, description_function

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
    assert corpus.split("training") == corpus.split("train")


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
    "a list for a text": ({"audio": ["a.wav"]}, "'audio' is list, not str"),
    "a list for the attributes": ({"attributes": ["gender"]}, "'attributes' is list, not dict"),
    "nested attributes": ({"attributes": {"age": {"years": "3"}}}, "attribute 'age' is dict"),
    "an empty attribute": ({"attributes": {"age": [None]}}, "attribute 'age' is list"),
    "a number for the spans": ({"spans": 7}, "'spans' is int, not list"),
    "a span with a text for a time": (
        {"spans": [{"name": "speech", "start": "0", "end": 0.2}]},
        "'start' is str, not float",
    ),
    "more seconds than there are": ({"seconds": 10**400}, "'seconds' is"),
    "no number of seconds": ({"seconds": float("nan")}, "'seconds' is nan"),
    "a path that can be none": ({"audio": "a\0b"}, "is missing"),
    "a path that is too long": ({"audio": "a" * 5000}, "is missing"),
    "an empty path": ({"audio": ""}, "is missing"),
    "an absolute path": ({"audio": "/etc/passwd"}, "leaves the folder"),
    "half a character": ({"transcript": "\ud800"}, "not UTF-8"),
    "a span that is a list": ({"spans": [["speech", 0, 1]]}, "a span is list"),
}


@pytest.mark.parametrize("fault", BAD_ROWS)
def test_a_bad_row_is_named_by_file_and_line(corpus, fault):
    fields, words = BAD_ROWS[fault]
    change_row(corpus, 1, **fields)
    with pytest.raises(CorpusError, match=r"clips\.jsonl, line 2: .*;") as caught:
        Corpus.read(corpus.folder)
    assert words in str(caught.value)


NO_OBJECTS = [
    *(b"{broken", b"[1, 2]", b"", b"null", b"7", b"true", b'"text"', b"[" * 100_000),
    *('{"id": "ü"}'.encode("utf-16"), b'{"id": "\xfc"}', b"\x00", b'{"id": "a", "id": "b"}'),
    b'{"seed": ' + b"1" * 5000 + b"}",
]


@pytest.mark.parametrize("line", NO_OBJECTS, ids=range(len(NO_OBJECTS)))
def test_a_line_that_is_no_object_is_named(corpus, line):
    path = corpus.folder / "clips.jsonl"
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([*lines[:2], line, lines[2]]) + b"\n")
    with pytest.raises(CorpusError, match=r"clips\.jsonl, line 3: .*;"):
        Corpus.read(corpus.folder)
    (corpus.folder / "corpus.json").write_bytes(line)
    with pytest.raises(CorpusError, match=r"corpus\.json: .*;"):
        Corpus.read(corpus.folder)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda some: (
        st.lists(some, max_size=2) | st.dictionaries(st.text(max_size=3), some, max_size=2)
    ),
    max_leaves=4,
)
FIELDS = ["name", "recipe", "seed", "licence", "splits"]
CLIP_FIELDS = ["id", "audio", "seconds", "transcript", "speaker", "attributes", "spans"]


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(field=st.sampled_from([*FIELDS, *CLIP_FIELDS]), value=JSON)
def test_any_value_of_any_field_is_read_or_refused_by_its_file(corpus, field, value):
    head, rows = (corpus.folder / name for name in ("corpus.json", "clips.jsonl"))
    before = head.read_bytes(), rows.read_bytes()
    try:
        if field in FIELDS:
            head.write_text(json.dumps(json.loads(before[0]) | {field: value}))
        else:
            change_row(corpus, 1, **{field: value})
        read = Corpus.read(corpus.folder)
        description_function(read)
        askable_attributes(read)
    except CorpusError as error:
        place = f"{rows}, line 2: " if field in CLIP_FIELDS else f"{corpus.folder}/c"
        assert str(error).startswith(place)
    finally:
        head.write_bytes(before[0])
        rows.write_bytes(before[1])


@pytest.mark.parametrize("name", ["", " ", "..", "../out", "a/b", "a\\b", "a\0b"])
def test_a_name_that_leads_elsewhere_is_refused(corpus, name):
    head = json.loads((corpus.folder / "corpus.json").read_text(encoding="utf-8"))
    (corpus.folder / "corpus.json").write_text(json.dumps(head | {"name": name}), encoding="utf-8")
    with pytest.raises(
        CorpusError, match=r"corpus\.json: the name .* cannot be that of a folder; "
    ):
        Corpus.read(corpus.folder)


def test_splits_are_read_under_their_own_names_and_others_are_refused(corpus):
    path = corpus.folder / "corpus.json"
    head = json.loads(path.read_text(encoding="utf-8"))
    told = {"Train": ["anna"], "dev": ["bert"], "test": ["carl"]}
    path.write_text(json.dumps(head | {"splits": told}), encoding="utf-8")
    assert list(Corpus.read(corpus.folder).splits) == ["train", "validation", "test"]
    path.write_text(json.dumps(head | {"splits": {"mine": ["anna"]}}), encoding="utf-8")
    with pytest.raises(CorpusError, match=r"corpus\.json: unknown split 'mine'; the names known"):
        Corpus.read(corpus.folder)


def test_what_is_refused_is_not_written(corpus):
    before = Corpus.read(corpus.folder)
    about = {"name": "tiny", "recipe": {}, "seed": 3, "licence": "", "splits": SPLITS}
    with pytest.raises(CorpusError, match="'dora' is in no split"):
        Corpus.write(corpus.folder, [replace(corpus.clips[0], speaker="dora")], **about)
    assert Corpus.read(corpus.folder) == before


def test_a_corpus_is_whole_to_whoever_reads_it_while_it_is_written(corpus):
    about = {"name": "tiny", "recipe": {}, "seed": 3, "licence": "", "splits": SPLITS}

    def write():
        for number in range(40):
            clips = [replace(clip, transcript=f"{number}") for clip in corpus.clips]
            Corpus.write(corpus.folder, clips, **about)

    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive():
        assert len(Corpus.read(corpus.folder).clips) == 3
    writer.join()
    assert sorted(path.name for path in corpus.folder.iterdir() if path.suffix != ".wav") == [
        "clips.jsonl",
        "corpus.json",
    ]


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


def speakers_of(found):
    return {split: {clip.speaker for clip in clips} for split, clips in found.clips.items()}


@pytest.mark.parametrize(
    "splits",
    [
        {"train": "abcdefghij", "test": "kl"},
        {"train": "abcdefghij", "validation": "kl"},
        {"train": "abcdefghijkl"},
        {"train": "ab", "test": "cdefghijkl"},
        {"train": "abc", "validation": "defghijkl"},
        {"train": "abcd"},
    ],
)
def test_a_split_that_is_missing_is_dealt_from_the_speakers_of_training(tmp_path, splits):
    voices = [who for members in splits.values() for who in members]
    found = split_clips(of_speakers(tmp_path, voices * 2, splits))
    speakers = speakers_of(found)
    assert found.disjoint_speakers
    assert sum(map(len, speakers.values())) == len(voices)
    assert all(speakers.values()) and len(speakers["test"]) >= 2
    for split in splits.keys() - {"train"}:
        assert speakers[split] == set(splits[split])


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        ({"train": "abcdefghijk", "test": "l"}, "split 'test' has 1 speakers; 2 are needed"),
        ({"train": "a", "test": "bcd"}, "split 'train' has 0 speakers; 1 are needed"),
        ({"test": "abcd"}, "split 'train' has 0 speakers; 1 are needed"),
    ],
)
def test_a_test_that_was_told_is_never_trained_on(tmp_path, splits, words):
    voices = [who for members in splits.values() for who in members]
    with pytest.raises(CorpusError, match=words):
        split_clips(of_speakers(tmp_path, voices * 8, splits))


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
