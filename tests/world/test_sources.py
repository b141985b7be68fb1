"""Other people's data: a table becomes a corpus, a manifest streams, and a fault is named by its line."""

import itertools
import json

import numpy as np
import pytest
import soundfile

from desta_lab.clips import CorpusError
from desta_lab.world import sources


def fill(folder, rows):
    (folder / "wavs").mkdir()
    for number in range(4):
        wave = 0.1 * np.random.default_rng(number).standard_normal(8_000 + 800 * number)
        soundfile.write(str(folder / "wavs" / f"{number}.wav"), wave, 8_000)
    (folder / "clips.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


ROWS = [
    "audio,speaker,transcript,split,emotion",
    "wavs/0.wav,ann,Hello there,train,happy",
    'wavs/1.wav,ann,"Yes, no",train,',
    "wavs/2.wav,ben,,test,sad",
]


def test_a_table_becomes_a_corpus(tmp_path):
    fill(tmp_path, ROWS)
    corpus = sources.corpus_from_folder(tmp_path, name="moods", licence="CC-BY-4.0")
    assert [clip.id for clip in corpus.split("train")] == ["wavs/0", "wavs/1"]
    assert [clip.attributes for clip in corpus.clips] == [
        {"emotion": "happy"},
        {},
        {"emotion": "sad"},
    ]
    assert [clip.seconds for clip in corpus.clips] == pytest.approx([1.0, 1.1, 1.2])
    assert corpus.clips[1].transcript == "Yes, no"
    assert (corpus.name, corpus.licence) == ("moods", "CC-BY-4.0")


def test_without_a_split_column_speakers_stay_whole(tmp_path):
    fill(tmp_path, ["audio,speaker", *(f"wavs/{number}.wav,s{number // 2}" for number in range(4))])
    corpus = sources.corpus_from_folder(tmp_path)
    assert sorted(who for people in corpus.splits.values() for who in people) == ["s0", "s1"]
    assert set(corpus.splits) <= {"train", "validation", "test"}


@pytest.mark.parametrize("names", [range(4), range(10, 14), range(70, 74)])
def test_few_speakers_are_dealt_so_that_every_split_has_enough(tmp_path, names):
    fill(
        tmp_path,
        ["audio,speaker", *(f"wavs/{place}.wav,voice-{name}" for place, name in enumerate(names))],
    )
    corpus = sources.open_corpus(tmp_path)
    assert {split: len(people) for split, people in corpus.splits.items()} == {
        "train": 1,
        "validation": 1,
        "test": 2,
    }


def test_splits_that_the_table_tells_are_kept_however_few_voices_they_have(tmp_path):
    fill(
        tmp_path,
        ["audio,speaker,split", *(f"wavs/{place}.wav,{place},train" for place in range(4))],
    )
    assert sources.open_corpus(tmp_path).splits == {"train": ("0", "1", "2", "3")}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["file,speaker", "wavs/0.wav,ann"], "line 1: no column audio; "),
        ([*ROWS, "wavs/9.wav,ben,,test,sad"], "line 5: .*no such file; "),
        ([*ROWS, "wavs/3.wav,ann,,test,sad"], "line 5: speaker 'ann' is in 'train' and 'test'; "),
        ([*ROWS, "wavs/3.wav,,,test,sad"], "line 5: the speaker is empty; "),
        ([*ROWS, "wavs/3.wav,ben"], "line 5: more or fewer cells"),
        ([*ROWS, ROWS[1]], "'wavs/0' appears twice; "),
    ],
)
def test_a_bad_table_is_named_by_its_line(tmp_path, rows, words):
    fill(tmp_path, rows)
    with pytest.raises(CorpusError, match=words):
        sources.corpus_from_folder(tmp_path)


def aqa_row(number):
    message = {
        "role": "user",
        "content": "<|AUDIO|>",
        "audios": [{"audio": f"{number}.wav", "text": "hi"}],
    }
    return {
        "id": str(number),
        "dataset": "toy",
        "seed_description": "[00:00-00:05] hi (Gender: Female)",
        "prompt": "What can you hear?",
        "response": "A woman.",
        "messages": [message],
    }


def test_a_manifest_streams_without_being_read_to_its_end(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text(
        "\n".join([json.dumps(aqa_row(number)) for number in range(3)] + ["broken"]),
        encoding="utf-8",
    )
    rows = sources.iterate_manifest(path, root="clips")
    first = list(itertools.islice(rows, 3))
    assert [row["id"] for row in first] == ["0", "1", "2"]
    assert first[1]["messages"][0]["audios"][0]["audio"].replace("\\", "/") == "clips/1.wav"
    with pytest.raises(CorpusError, match=r"train\.jsonl, line 4: not JSON"):
        next(rows)


def test_the_published_training_rows_have_three_columns_only(tmp_path):
    path = tmp_path / "train.jsonl"
    row = {
        name: value for name, value in aqa_row(0).items() if name in ("id", "messages", "response")
    }
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert list(sources.iterate_manifest(path)) == [row]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"response": None}, "'response' is missing; "),
        ({"prompt": 3}, "'prompt' is int, not str; "),
        ({"messages": "hello"}, "'messages' is str, not list; "),
        ({"messages": [{"role": "user"}]}, "lacks role or content; "),
        (
            {"messages": [{"role": "user", "content": "", "audios": [{"text": "hi"}]}]},
            "lacks its 'audio' path; ",
        ),
    ],
)
def test_a_bad_manifest_row_is_named_by_its_line(tmp_path, change, words):
    row = {name: value for name, value in (aqa_row(0) | change).items() if value is not None}
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps(aqa_row(1)) + "\n" + json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(CorpusError, match=f"line 2: .*{words}"):
        list(sources.iterate_manifest(path))
