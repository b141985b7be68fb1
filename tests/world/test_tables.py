"""A folder with a CSV becomes a corpus, and a fault in it is named by its line."""

import pytest

from desta_lab.clips import CorpusError
from desta_lab.world import tables
from tests.world.files import write_lines, write_noise


def fill(folder, rows):
    for number in range(4):
        write_noise(folder / "wavs" / f"{number}.wav", seconds=1 + number / 10)
    write_lines(folder / "clips.csv", *rows)


ROWS = [
    "audio,speaker,transcript,split,emotion",
    "wavs/0.wav,ann,Hello there,train,happy",
    'wavs/1.wav,ann,"Yes, no",train,',
    "wavs/2.wav,ben,,test,sad",
]


def test_a_table_becomes_a_corpus(tmp_path):
    fill(tmp_path, ROWS)
    corpus = tables.corpus_from_folder(tmp_path, name="moods", licence="CC-BY-4.0")
    assert [clip.id for clip in corpus.split("train")] == ["wavs/0", "wavs/1"]
    moods = [clip.attributes for clip in corpus.clips]
    assert moods == [{"emotion": "happy"}, {}, {"emotion": "sad"}]
    assert [clip.seconds for clip in corpus.clips] == pytest.approx([1.0, 1.1, 1.2])
    assert corpus.clips[1].transcript == "Yes, no"
    assert (corpus.name, corpus.licence) == ("moods", "CC-BY-4.0")


def test_without_a_split_column_speakers_stay_whole(tmp_path):
    fill(tmp_path, ["audio,speaker", *(f"wavs/{number}.wav,s{number // 2}" for number in range(4))])
    corpus = tables.corpus_from_folder(tmp_path)
    assert sorted(who for people in corpus.splits.values() for who in people) == ["s0", "s1"]
    assert set(corpus.splits) <= {"train", "validation", "test"}


@pytest.mark.parametrize("names", [range(4), range(10, 14), range(70, 74)])
def test_few_speakers_are_dealt_so_that_every_split_has_enough(tmp_path, names):
    rows = [f"wavs/{place}.wav,voice-{name}" for place, name in enumerate(names)]
    fill(tmp_path, ["audio,speaker", *rows])
    counts = {name: len(people) for name, people in tables.open_corpus(tmp_path).splits.items()}
    assert counts == {"train": 1, "validation": 1, "test": 2}


def test_many_speakers_are_dealt_eight_to_one_to_one():
    dealt = [tables.deal_speaker(f"voice-{number}") for number in range(5000)]
    for split, share in tables.SHARES.items():
        assert dealt.count(split) / len(dealt) == pytest.approx(share, abs=0.02)


def test_splits_that_the_table_gives_are_kept_however_few_voices_they_have(tmp_path):
    rows = [f"wavs/{place}.wav,{place},train" for place in range(4)]
    fill(tmp_path, ["audio,speaker,split", *rows])
    assert tables.open_corpus(tmp_path).splits == {"train": ("0", "1", "2", "3")}


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
        tables.corpus_from_folder(tmp_path)


def test_a_csv_is_read_with_its_quotes_and_a_tsv_without(tmp_path):
    write_lines(tmp_path / "a.csv", "a,b", '"x, y",z')
    write_lines(tmp_path / "a.tsv", "a\tb", '"x\tz')
    (_, row), (_, tabbed) = (
        next(tables.read_table(tmp_path / name, ("a",), tabs=tabs))
        for name, tabs in (("a.csv", False), ("a.tsv", True))
    )
    assert (row["a"], tabbed["a"]) == ("x, y", '"x')
