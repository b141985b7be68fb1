"""A folder with a CSV becomes a corpus, and a fault in it is named by its line."""

import csv
import io
import os
import unicodedata

import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from desta_lab.audio import DataFault, DataWarning
from desta_lab.clips import MIN_CLIPS, SHARES, Corpus, CorpusError, split_clips
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


@pytest.mark.parametrize("names", [["mum"], ["mum", "ben"], ["mum", "ben", "anna"]])
def test_whatever_their_names_the_clips_of_few_speakers_are_split(tmp_path, names):
    assert tables.deal_speaker("mum") == "test"
    for place in range(MIN_CLIPS):
        write_noise(tmp_path / f"{place}.wav", seconds=0.1)
    rows = [f"{place}.wav,{names[place % len(names)]}" for place in range(MIN_CLIPS)]
    write_lines(tmp_path / "clips.csv", "audio,speaker", *rows)
    found = split_clips(tables.open_corpus(tmp_path))
    assert all(found.clips.values()) and not found.disjoint_speakers


def test_many_speakers_are_dealt_eight_to_one_to_one():
    dealt = [tables.deal_speaker(f"voice-{number}") for number in range(5000)]
    for split, share in SHARES.items():
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
        ([*ROWS, "wavs/3.wav,ben"], "line 5: 2 cells, not 5 as the header has; "),
        ([*ROWS, ROWS[1]], "line 5: the clip 'wavs/0' appears twice; "),
        ([*ROWS, "../x.wav,ben,,test,sad"], r"line 5: audio '../x.wav' leaves the folder; "),
        ([*ROWS, "/etc/x.wav,ben,,test,sad"], r"line 5: audio '/etc/x.wav' leaves the folder; "),
        ([*ROWS, ",ben,,test,sad"], "line 5: audio '' names no file; write its path"),
        ([*ROWS, r"..\x.wav,ben,,test,sad"], "line 5: audio .* leaves the folder; "),
        ([*ROWS, r"\etc\x.wav,ben,,test,sad"], "line 5: audio .* leaves the folder; "),
        ([*ROWS, "wavs/3.wav,cy,,train-dev,sad"], "line 5: 'train-dev' names two splits; choose"),
        ([*ROWS, "wavs/3.wav,cy,,Eval/Test,sad"], "line 5: 'Eval/Test' names two splits; choose"),
        (["audio,speaker,a b,a  b"], "line 1: the column 'a b' and 'a b' is there twice; "),
        (["audio,speaker,ab,a\u200bb"], "line 1: the column 'ab' and 'ab' is there twice; "),
        (["sep=;", "audio;speaker"], "no column audio, speaker; the header has sep=;.*semicolons"),
        ([*ROWS, "wavs/3.wav,cy,,held-out,sad"], "line 5: unknown split 'held-out'; .* dev, "),
        ([*ROWS, 'wavs/3.wav,cy,"Hi,test,sad'], "line 5: no row of a table .*; correct its quotes"),
        ([*ROWS[:2], "", ",,,,", *ROWS[2:], "wavs/9.wav,a,,,"], "line 7: .*no such file; "),
        ([*ROWS[:1], 'wavs/0.wav,a,"one\ntwo",,', "wavs/9.wav,a,,,"], "line 4: .*no such file; "),
        (["audio,speaker,mood,mood"], "line 1: the column 'mood' and 'mood' is there twice; "),
        (["audio,speaker,mood,Mood "], "line 1: the column 'mood' and 'Mood' is there twice; "),
        ([], "line 1: no column audio, speaker; "),
    ],
)
def test_a_bad_table_is_named_by_its_line(tmp_path, rows, words):
    fill(tmp_path, rows)
    with pytest.raises(CorpusError, match=words):
        tables.corpus_from_folder(tmp_path)
    assert not (tmp_path / "clips.jsonl").exists()


def test_signs_that_nobody_sees_make_no_other_voice_or_class(tmp_path):
    rows = ["audio,speaker,mood", "wavs/0.wav,an\u00adna,\u200esad\u200e", "wavs/1.wav,anna,sad"]
    fill(tmp_path, rows)
    clips = tables.corpus_from_folder(tmp_path).clips
    assert {(clip.speaker, clip.attributes["mood"]) for clip in clips} == {("anna", "sad")}


@pytest.mark.parametrize("other", ["ａnna", "\u0430nna", "ANNA"])
def test_speakers_that_look_alike_are_told_with_counts(tmp_path, other):
    fill(tmp_path, ["audio,speaker", "wavs/0.wav,anna", f"wavs/1.wav,{other}", "wavs/2.wav,ben"])
    with pytest.warns(DataWarning, match=r"look alike: 'anna' \(1 clips\), .* \(1 clips\)"):
        tables.corpus_from_folder(tmp_path)


@pytest.mark.parametrize("first", [0, 1])
def test_a_column_that_only_numbers_the_rows_is_no_attribute(tmp_path, first):
    rows = [f"{i + first},wavs/{i}.wav,{i},{i % 2}" for i in range(4)]
    fill(tmp_path, ["index,audio,speaker,class", *rows])
    with pytest.warns(DataWarning, match="the column 'index' only numbers the rows and is left ou"):
        clips = tables.corpus_from_folder(tmp_path).clips
    assert [clip.attributes for clip in clips] == [{"class": str(i % 2)} for i in range(4)]


def test_an_encoding_that_cannot_be_read_is_refused(tmp_path):
    fill(tmp_path, ROWS)
    with pytest.raises(CorpusError, match="byte 0 is not undefined; save the table as UTF-8"):
        tables.corpus_from_folder(tmp_path, encoding="undefined")


def test_a_refused_table_leaves_the_corpus_as_it_was(tmp_path):
    fill(tmp_path, ROWS)
    before = tables.open_corpus(tmp_path).hash
    fill(tmp_path, [*ROWS, ROWS[1]])
    with pytest.raises(CorpusError, match=r"clips\.csv, line 5: "):
        tables.open_corpus(tmp_path)
    assert Corpus.read(tmp_path).hash == before


def test_another_recording_of_the_same_length_makes_another_corpus(tmp_path):
    fill(tmp_path, ROWS)
    before = tables.open_corpus(tmp_path)
    path = before.path(before.clips[0])
    wave, rate = soundfile.read(path)
    soundfile.write(path, wave / 2, rate)
    after = tables.open_corpus(tmp_path)
    assert after.clips == before.clips and after.hash != before.hash


def test_a_corpus_that_is_not_written_knows_its_sound_too(tmp_path):
    fill(tmp_path, ROWS)
    before = tables.corpus_from_folder(tmp_path, save=False)
    path = before.path(before.clips[0])
    wave, rate = soundfile.read(path)
    soundfile.write(path, wave / 2, rate)
    after = tables.corpus_from_folder(tmp_path, save=False)
    assert not (tmp_path / "clips.jsonl").exists()
    assert after.clips == before.clips and after.hash != before.hash
    assert after.hash == tables.open_corpus(tmp_path).hash


def test_an_opened_corpus_keeps_the_name_and_the_licence_that_it_was_told(tmp_path):
    fill(tmp_path, ROWS)
    made = tables.corpus_from_folder(tmp_path, name="mine", licence="CC-BY-4.0")
    assert tables.open_corpus(tmp_path).hash == made.hash
    fill(tmp_path, ROWS[:-1])
    opened = tables.open_corpus(tmp_path)
    assert len(opened.clips) == len(made.clips) - 1
    assert (opened.name, opened.licence) == ("mine", "CC-BY-4.0")
    (tmp_path / "corpus.json").write_text("{")
    assert tables.open_corpus(tmp_path).licence == "unknown"


def test_an_opened_corpus_is_not_written_again(tmp_path):
    fill(tmp_path, ROWS)
    tables.open_corpus(tmp_path)
    places = [(tmp_path / name).stat().st_ino for name in ("corpus.json", "clips.jsonl")]
    tables.open_corpus(tmp_path)
    assert [(tmp_path / n).stat().st_ino for n in ("corpus.json", "clips.jsonl")] == places


def test_a_folder_that_cannot_be_written_opens(tmp_path, monkeypatch):
    fill(tmp_path, ROWS)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.write_bytes", refuse)
        locked = tables.open_corpus(tmp_path)
    assert not (tmp_path / "clips.jsonl").exists()
    assert locked.hash == tables.open_corpus(tmp_path).hash


# ---- cells as they stand ----


def read_moods(folder, *moods):
    """The attributes of clips whose table has these moods, and whatever is warned of."""
    rows = [f'wavs/{place}.wav,s{place},"{mood}"' for place, mood in enumerate(moods)]
    fill(folder, ["audio,speaker,mood", *rows])
    return [clip.attributes.get("mood") for clip in tables.open_corpus(folder).clips]


@pytest.mark.parametrize(
    "mood", ["angry ", " angry", "\tangry", "angry\u00a0", "\ufeffangry", "angry\u200b", "angry\n"]
)
def test_blanks_around_a_cell_make_no_class(tmp_path, mood):
    assert read_moods(tmp_path, "angry", mood) == ["angry", "angry"]


def test_two_ways_to_write_a_letter_make_one_class(tmp_path):
    assert read_moods(tmp_path, "gêné", unicodedata.normalize("NFD", "gêné")) == ["gêné", "gêné"]


def test_blanks_within_a_value_are_one_blank(tmp_path):
    assert read_moods(tmp_path, "very\u00a0 angry", "very angry") == ["very angry"] * 2


@pytest.mark.parametrize("word", ["001", "NA", "nan", "None", "null", "1.0", "TRUE", "1e5"])
def test_a_cell_stays_the_text_that_it_is(tmp_path, word):
    assert read_moods(tmp_path, word) == [word]
    fill(tmp_path, ["audio,speaker", f"wavs/0.wav,{word}"])
    assert tables.open_corpus(tmp_path).clips[0].speaker == word


def test_values_in_capitals_and_without_are_told_with_their_counts(tmp_path):
    with pytest.warns(DataWarning, match=r"mood has 1 .*'Angry' \(1 clips\), 'angry' \(2 clips\)"):
        assert read_moods(tmp_path, "Angry", "angry", "angry") == ["Angry", "angry", "angry"]


def test_a_speaker_with_a_blank_behind_is_the_same_and_in_one_split(tmp_path):
    fill(tmp_path, ["audio,speaker,split", "wavs/0.wav,anna,train", "wavs/1.wav,anna ,test"])
    with pytest.raises(CorpusError, match="line 3: speaker 'anna' is in 'train' and 'test'; "):
        tables.open_corpus(tmp_path)


@pytest.mark.parametrize("index", ["", "Unnamed: 0", " "])
def test_a_column_without_a_name_is_left_out_with_a_word(tmp_path, index):
    fill(tmp_path, [f"{index},audio,speaker,mood", "3,wavs/0.wav,anna,calm"])
    with pytest.warns(DataWarning, match="line 1: a column without a name"):
        corpus = tables.open_corpus(tmp_path)
    assert corpus.clips[0].attributes == {"mood": "calm"}


def test_own_columns_may_be_written_in_capitals(tmp_path):
    fill(tmp_path, ["Audio,SPEAKER,Split,Mood", "wavs/0.wav,anna,Train,calm"])
    corpus = tables.open_corpus(tmp_path)
    assert corpus.splits == {"train": ("anna",)}
    assert corpus.clips[0].attributes == {"Mood": "calm"}


@pytest.mark.parametrize(("disk", "table"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_a_file_is_found_however_its_letters_are_written(tmp_path, disk, table):
    write_noise(tmp_path / unicodedata.normalize(disk, "gêné.wav"))
    row = unicodedata.normalize(table, "gêné.wav")
    write_lines(tmp_path / "clips.csv", "audio,speaker", f"{row},anna")
    corpus = tables.open_corpus(tmp_path)
    assert corpus.path(corpus.clips[0]).is_file()
    assert corpus.clips[0].id == "gêné"


def test_a_long_clip_is_kept_with_a_word(tmp_path):
    fill(tmp_path, ["audio,speaker", "wavs/0.wav,anna", "long.wav,ben"])
    write_noise(tmp_path / "long.wav", seconds=31.0)
    with pytest.warns(DataWarning, match=r"1 of 2 clips are longer than 30 s; .*line 3"):
        corpus = tables.open_corpus(tmp_path)
    assert corpus.clips[1].seconds == 31.0


# ---- splits ----


@pytest.mark.parametrize(
    ("told", "split"),
    [
        *((word, "validation") for word in ("dev", "val", "valid", "validation", "eval", "DEV ")),
        *((word, "train") for word in ("Train", "training", "train.clean.100", "train-clean-360")),
        *((word, "test") for word in ("TEST", "test_other", "testing")),
    ],
)
def test_a_split_is_known_by_its_other_names(tmp_path, told, split):
    fill(tmp_path, ["audio,speaker,split", f"wavs/0.wav,anna,{told}"])
    assert tables.open_corpus(tmp_path).splits == {split: ("anna",)}


# ---- encodings and separators ----

TABLE = "audio,speaker,mood\nwavs/0.wav,Zoë,gêné\nwavs/1.wav,Ben,calm\n"
MOODS = [("Zoë", "gêné"), ("Ben", "calm")]


def read_as(folder, content, **how):
    fill(folder, [])
    (folder / "clips.csv").write_bytes(content)
    corpus = tables.corpus_from_folder(folder, **how)
    return [(clip.speaker, clip.attributes["mood"]) for clip in corpus.clips]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_table_is_read_as_any_program_saves_it(tmp_path, encoding, separator, end):
    text = TABLE.replace(",", separator).replace("\n", end)
    assert read_as(tmp_path, text.encode(encoding)) == MOODS


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_names_of_columns_may_stand_in_quotes(tmp_path, separator):
    """As R writes them, and other programs that put every text in quotes."""
    text = TABLE.replace(",", f'"{separator}"').replace("\n", '"\n"')
    assert read_as(tmp_path, f'"{text}'.removesuffix('"').encode()) == MOODS


@pytest.mark.parametrize(
    ("mark", "encoding"), [("utf-8-sig", "utf-8"), ("utf-16", "utf-16"), ("utf-32", "utf-32")]
)
def test_a_mark_before_a_name_in_quotes_is_no_letter_of_it(tmp_path, mark, encoding):
    content = TABLE.replace("audio", '"audio"').encode(mark)
    assert read_as(tmp_path, content) == MOODS
    assert read_as(tmp_path, content, encoding=encoding) == MOODS


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16-le"])
def test_an_encoding_without_a_mark_is_told_or_asked_for(tmp_path, encoding):
    content = TABLE.encode(encoding)
    with pytest.raises(CorpusError, match=r"clips\.csv, line [12]: .* utf-8; save .*encoding="):
        read_as(tmp_path, content)
    assert read_as(tmp_path, content, encoding=encoding) == MOODS


def test_big5_is_read_where_it_is_told(tmp_path):
    content = TABLE.replace("Zoë", "王").replace("gêné", "平靜").encode("big5")
    with pytest.raises(CorpusError, match="line 2: byte 30 is not utf-8; "):
        read_as(tmp_path, content)
    assert read_as(tmp_path, content, encoding="big5")[0] == ("王", "平靜")


def test_an_encoding_that_nobody_knows_is_named(tmp_path):
    with pytest.raises(CorpusError, match="unknown encoding 'utf-9'; "):
        read_as(tmp_path, TABLE.encode(), encoding="utf-9")


def test_a_cell_may_be_longer_than_what_csv_allows(tmp_path):
    limit = csv.field_size_limit()
    fill(tmp_path, ["audio,speaker,transcript", f"wavs/0.wav,anna,{'ha ' * 50_000}"])
    assert len(tables.open_corpus(tmp_path).clips[0].transcript) == 149_999
    assert csv.field_size_limit() == limit


CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=9)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=st.lists(st.lists(CELLS, min_size=2, max_size=2), min_size=1, max_size=4))
def test_any_cell_comes_back_or_the_table_is_refused(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("any") / "any.csv"
    text = io.StringIO(newline="")
    csv.writer(text).writerows([["a", "b"], *rows])
    path.write_bytes(text.getvalue().encode())
    read = [(row["a"], row["b"]) for _, row in tables.read_table(path, ("a", "b"))]
    wanted = [tuple(tables._trim(cell) for cell in row) for row in rows]
    assert read == [row for row in wanted if any(row)]


def test_a_csv_is_read_with_its_quotes_and_a_tsv_without(tmp_path):
    write_lines(tmp_path / "a.csv", "a,b", '"x, y",z')
    write_lines(tmp_path / "a.tsv", "a\tb", '"x\tz')
    (_, row), (_, tabbed) = (
        next(tables.read_table(tmp_path / name, ("a",), tabs=tabs))
        for name, tabs in (("a.csv", False), ("a.tsv", True))
    )
    assert (row["a"], tabbed["a"]) == ("x, y", '"x')


def test_a_folder_whose_name_is_no_utf_8_opens(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    fill(tmp_path, ROWS)
    folder.mkdir()
    for name in ("wavs", "clips.csv"):
        (tmp_path / name).rename(folder / name)
    corpus = tables.open_corpus(folder)
    assert corpus.name == "caf\ufffd" and tables.open_corpus(folder) == corpus
    assert Corpus.read(folder, check_audio=True).hash == corpus.hash


# ---- results ----

RESULTS = "arm,seed,score,note\nself,0,0.5,\nNA,1,,x\n"


def test_a_table_of_results_comes_back_with_its_words_and_gaps(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text(RESULTS)
    found = tables.read_results(path, ["arm"], ["seed", "score"], gaps=["score"])
    assert found["arm"].tolist() == ["self", "NA"] and found["seed"].tolist() == [0, 1]
    assert found["score"].isna().tolist() == [False, True]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", r"results\.csv: no table in CSV"),
        (RESULTS.encode("utf-16"), r"results\.csv: no table in CSV"),
        (RESULTS.replace("0.5", '"').encode(), r"results\.csv: no table in CSV"),
        (RESULTS.replace("arm", "who").encode(), "line 1: no column arm; restore it"),
        (RESULTS.replace(",", ";").encode(), "line 1: no column arm, seed, score"),
        (
            RESULTS.replace("self,", "self,1,").replace("NA,", "NA,1,").encode(),
            "line 2: more cells",
        ),
        (RESULTS.replace("self", "").encode(), "line 2: the column 'arm' has nothing"),
        (RESULTS.replace(",1,,", ",x,,").encode(), "line 3: the column 'seed' has x"),
        (RESULTS.replace("0.5", "1e999").encode(), "line 2: the column 'score' has inf"),
        (RESULTS.replace("0,0.5", ",0.5").encode(), "line 2: the column 'seed' has nothing"),
    ],
)
def test_a_table_of_results_that_was_changed_is_named_by_its_line(tmp_path, content, words):
    path = tmp_path / "results.csv"
    path.write_bytes(content)
    with pytest.raises(DataFault, match=words) as fault:
        tables.read_results(path, ["arm"], ["seed", "score"], gaps=["score"])
    assert str(path) in str(fault.value) and "\n" not in str(fault.value)
