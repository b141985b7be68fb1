"""People's recordings become the factorial design: balanced, independent, apart by speaker."""

import itertools
import json
import math
import sys
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from desta_lab import audio
from desta_lab.audio import RATE, DataWarning
from desta_lab.clips import CorpusError
from desta_lab.experiments.corpus_tasks import corpus_tasks
from desta_lab.model import presets
from desta_lab.world import recorded, spoken
from desta_lab.world.attributes import ATTRIBUTES
from desta_lab.world.describe import askable_attributes, describe, describe_known
from desta_lab.world.tables import corpus_from_folder
from tests import tiny
from tests.world.test_spoken import cramers_v

CELLS = math.prod(len(ATTRIBUTES[name]) for name in recorded.MADE)
CLIPS = {"validation": CELLS, "test": CELLS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.people(tmp_path_factory.mktemp("voices") / "people")


@pytest.fixture(scope="module")
def voices(folder: Path) -> recorded.Voices:
    return recorded.read_voices(folder, "language")


@pytest.fixture(scope="module")
def corpus(voices: recorded.Voices, tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("data")
    return recorded.build_recorded_corpus(root, voices, CLIPS, together="language", workers=1)


def test_what_is_made_of_recordings_is_balanced_and_independent_of_the_speaker(corpus):
    for split in CLIPS:
        clips = corpus.split(split)
        for name in recorded.MADE:
            counts = Counter(clip.attributes[name] for clip in clips).values()
            assert max(counts) - min(counts) <= 1, (split, name)
        for one, other in itertools.combinations(recorded.MADE, 2):
            pairs = [(clip.attributes[one], clip.attributes[other]) for clip in clips]
            assert cramers_v(pairs) < 0.05, (one, other)
        heard = Counter(clip.speaker for clip in clips)
        assert max(heard.values()) - min(heard.values()) <= 1
        for name in ("rate", "loudness", "manner"):
            pairs = [(clip.speaker, clip.attributes[name]) for clip in clips]
            assert cramers_v(pairs) < 0.2, name


def test_a_language_is_in_one_split_and_both_genders_in_each(corpus, voices):
    spoken = {
        split: {voices.about[name]["language"] for name in corpus.splits[split]} for split in CLIPS
    }
    assert not spoken["validation"] & spoken["test"]
    for split in CLIPS:
        assert {voices.about[s]["gender"] for s in corpus.splits[split]} == {"female", "male"}


def test_clips_carry_what_is_known_and_where_it_is_heard(corpus, voices):
    clip = corpus.split("test")[0]
    assert clip.attributes["gender"] == voices.about[clip.speaker]["gender"]
    names = [span.name for span in clip.spans]
    assert names.count("speech") >= 1
    assert names[-1] == f"scene:{clip.attributes['scene']}"
    wave = audio.read_audio(corpus.path(clip))
    assert len(wave) == 4 * RATE
    assert clip.transcript.startswith("Line")


def test_how_long_a_person_speaks_does_not_tell_the_rate(corpus):
    lengths = {
        rate: np.mean(
            [
                sum(span.end - span.start for span in clip.spans if span.name == "speech")
                for clip in corpus.clips
                if clip.attributes["rate"] == rate
            ]
        )
        for rate in ("slow", "fast")
    }
    assert abs(lengths["slow"] - lengths["fast"]) < 0.35, lengths


def test_who_says_too_little_to_fill_a_clip_is_named(tmp_path):
    folder = tiny.people(tmp_path / "people")
    table = pd.read_csv(folder / "people.csv")
    wave, rate = soundfile.read(folder / "emma-0.flac")
    soundfile.write(folder / "emma-0.flac", wave[: round(2.0 * rate)], rate)
    table[table["audio"] != "emma-1.flac"].to_csv(folder / "people.csv", index=False)
    with pytest.warns(
        audio.DataWarning, match=r"1 speakers, such as 'emma'.*record 5\.1 s of each"
    ):
        recorded.build_recorded_corpus(tmp_path / "data", recorded.read_voices(folder), CLIPS)


def test_loudness_is_the_level_of_the_clip(corpus):
    levels = {"quiet": [], "loud": []}
    for clip in corpus.clips:
        wave = audio.read_audio(corpus.path(clip))
        levels[clip.attributes["loudness"]].append(10 * np.log10((wave**2).mean()))
    assert max(levels["quiet"]) < min(levels["loud"]) - 5


def test_stretching_changes_the_time_and_keeps_the_pitch():
    time = np.arange(2 * RATE) / RATE
    tone = (0.3 * np.sin(2 * np.pi * 200 * time)).astype(np.float32)
    for speed in recorded.SPEEDS.values():
        out = recorded.stretch_time(tone, speed)
        np.testing.assert_array_equal(out, recorded.stretch_time(tone, speed))
        assert len(out) == pytest.approx(len(tone) / speed, abs=2)
        middle = out[len(out) // 4 : 3 * len(out) // 4]
        peak = np.abs(np.fft.rfft(middle * np.hanning(len(middle)))).argmax()
        assert peak * RATE / len(middle) == pytest.approx(200, abs=2)


def test_the_same_recordings_give_the_same_clips_and_are_found_again(corpus, voices, tmp_path):
    again = recorded.build_recorded_corpus(tmp_path, voices, CLIPS, together="language", workers=1)
    assert (again.hash, again.folder.name) == (corpus.hash, corpus.folder.name)
    for one in corpus.clips[:4]:
        assert again.path(one).read_bytes() == corpus.path(one).read_bytes()
    told: list[int] = []
    recorded.build_recorded_corpus(
        tmp_path, voices, CLIPS, together="language", progress=lambda *n: told.append(n[0])
    )
    assert not told, "Nothing is rendered again."


def test_other_values_make_another_corpus(corpus, voices, tmp_path, monkeypatch):
    folders = []
    monkeypatch.setattr(spoken, "render_corpus", lambda one, *_: folders.append(one) or corpus)
    recorded.build_recorded_corpus(tmp_path, voices, CLIPS)
    monkeypatch.setitem(ATTRIBUTES, "scene", ("rain", "wind"))
    recorded.build_recorded_corpus(tmp_path, voices, CLIPS)
    assert len(set(folders)) == 2


def test_another_recording_makes_another_corpus_and_nothing_is_written_beside_it(folder, tmp_path):
    other = tiny.people(tmp_path / "people")
    before = recorded.read_voices(other)
    soundfile.write(other / "anna-0.flac", tiny.wave(3, 2.0), RATE)
    assert recorded.read_voices(other).sha256 != before.sha256
    assert {path.suffix for path in other.iterdir()} == {".csv", ".flac"}


def test_splits_that_the_table_tells_are_kept(tmp_path):
    folder = tiny.people(tmp_path / "people")
    table = pd.read_csv(folder / "people.csv")
    order = sorted(set(table["speaker"]))
    parts = ["train"] * (len(order) - 3) + ["dev", "test", "test"]
    table["split"] = table["speaker"].map(dict(zip(order, parts, strict=True)))
    table.to_csv(folder / "people.csv", index=False)
    counts = {"train": 8, "validation": 4, "test": 4}
    voices = recorded.read_voices(folder)
    corpus = recorded.build_recorded_corpus(tmp_path / "data", voices, counts, workers=1)
    assert corpus.splits["validation"] == (order[-3],)
    assert corpus.splits["test"] == tuple(order[-2:])


def test_splits_that_lack_one_or_part_who_stay_together_are_refused(tmp_path):
    folder = tiny.people(tmp_path / "people")
    table = pd.read_csv(folder / "people.csv")
    counts = {"train": 4, "validation": 4, "test": 4}

    def build(*parts: str) -> None:
        table["split"] = [part for part in parts for _ in range(2)]
        table.to_csv(folder / "people.csv", index=False)
        voices = recorded.read_voices(folder, "language")
        how = {"together": "language", "workers": 1}
        recorded.build_recorded_corpus(tmp_path / "data", voices, counts, **how)

    with pytest.raises(CorpusError, match=r"'validation' has 0; it needs 1: move some there"):
        build("train", "train", "test", "test", "test", "test")
    with pytest.raises(CorpusError, match=r"language 'en' is in 'train' and 'validation'"):
        build("train", "train", "train", "dev", "test", "test")


def test_dealing_gives_each_split_its_share_of_people_and_of_genders():
    about = {f"s{i:02d}": {"gender": ("female", "male")[i % 2]} for i in range(40)}
    dealt = recorded.deal_speakers(about, recorded.SHARES)
    assert {split: len(names) for split, names in dealt.items()} == {
        "train": 24,
        "validation": 6,
        "test": 10,
    }
    for names in dealt.values():
        women = sum(about[name]["gender"] == "female" for name in names)
        assert abs(2 * women - len(names)) <= 1


def test_nothing_that_is_not_known_is_described_or_asked(corpus):
    attributes = {"gender": "male", "rate": "slow", "loudness": "loud", "scene": "birds"}
    assert describe_known(attributes) == (
        "A male person with some accent speaks at slow speed and high volume, with birds in the "
        "background."
    )
    assert "British accent" in describe_known({"accent": "British"})
    whole = tiny.attributes(0)
    assert describe_known(whole) == describe(whole)
    assert set(askable_attributes(corpus)) == {"gender", *recorded.MADE}
    asked = corpus_tasks(corpus, presets.nano())
    assert asked.describe is describe_known, "The nano LLM reads it, language or not."
    assert "language" not in asked.values


# ---- what is refused ----


def test_a_speaker_of_two_genders_is_refused_by_file(tmp_path):
    folder = tiny.people(tmp_path / "people")
    table = pd.read_csv(folder / "people.csv")
    table.loc[1, "gender"] = "male"
    table.to_csv(folder / "people.csv", index=False)
    with pytest.raises(CorpusError, match=r"anna-1.flac: gender of 'anna' is 'female' in anna-0"):
        recorded.read_voices(folder)


def test_a_missing_file_is_refused_by_line(tmp_path):
    folder = tiny.people(tmp_path / "people")
    (folder / "anna-1.flac").unlink()
    with pytest.raises(CorpusError, match=r"people.csv, line 3.*anna-1.flac"):
        recorded.read_voices(folder)


def test_a_language_that_is_not_known_is_refused(tmp_path):
    folder = tiny.people(tmp_path / "people")
    table = pd.read_csv(folder / "people.csv")
    table.loc[:1, "language"] = ""
    table.to_csv(folder / "people.csv", index=False)
    with pytest.raises(CorpusError, match="no language is known of speaker 'anna'"):
        recorded.read_voices(folder, "language")


def test_voices_that_were_read_without_the_column_are_refused_in_a_sentence(voices, tmp_path):
    with pytest.raises(CorpusError, match=r"no group is known of speaker 'anna'; .*='group'\."):
        recorded.build_recorded_corpus(tmp_path, voices, CLIPS, together="group")
    assert not list(tmp_path.iterdir())


def test_a_column_that_the_table_lacks_is_named_with_those_it_has(tmp_path):
    folder = tiny.people(tmp_path / "people")
    with pytest.raises(CorpusError, match=r"'group'; fill it, or .* \(language, gender\)"):
        recorded.read_voices(folder, "group")


def test_too_few_people_are_refused(tmp_path):
    folder = tiny.people(tmp_path / "people")
    table = pd.read_csv(folder / "people.csv")
    table[table["speaker"].isin(["anna", "ben"])].to_csv(folder / "people.csv", index=False)
    voices = recorded.read_voices(folder)
    with pytest.raises(CorpusError, match=r"2 speakers.*record more people"):
        recorded.build_recorded_corpus(tmp_path / "data", voices, CLIPS)


def test_a_folder_without_a_table_says_what_to_write(tmp_path):
    with pytest.raises(CorpusError, match=r"write clips.csv with the columns audio and speaker"):
        recorded.read_voices(tmp_path)


def test_whispered_and_sung_lines_are_left_out(tmp_path):
    folder = tiny.people(tmp_path / "people")
    table = pd.read_csv(folder / "people.csv")
    table["manner"] = ["sung", "spoken"] * (len(table) // 2)
    table.to_csv(folder / "people.csv", index=False)
    voices = recorded.read_voices(folder)
    assert voices.left_out == len(table) // 2
    assert all(len(lines) == 1 for lines in voices.lines.values())
    table.assign(manner="normal").to_csv(folder / "people.csv", index=False)
    with pytest.raises(CorpusError, match="none of 12 recordings is spoken, by its column"):
        recorded.read_voices(folder)


def test_without_the_library_one_sentence_says_what_to_install(monkeypatch, voices, tmp_path):
    monkeypatch.setitem(sys.modules, "python_stretch.Signalsmith", None)
    with pytest.raises(ImportError, match="pip install python-stretch"):
        recorded.build_recorded_corpus(tmp_path, voices, CLIPS)


def test_a_public_corpus_is_read_from_its_manifest(tmp_path):
    folder = tiny.people(tmp_path / "people")
    table = pd.read_csv(folder / "people.csv", dtype=str)
    (folder / "people.csv").unlink()
    table.to_csv(folder / "clips.csv", index=False)
    corpus_from_folder(folder)
    (folder / "clips.csv").unlink()
    voices = recorded.read_voices(folder)
    assert set(voices.lines) == set(table["speaker"])
    assert json.loads((folder / "corpus.json").read_text())["splits"] == {
        name: list(speakers) for name, speakers in (voices.told or {}).items()
    }


def test_splits_of_a_manifest_that_cannot_be_kept_are_not_dealt_anew_unsaid(tmp_path):
    folder = tiny.people(tmp_path / "people")
    table = pd.read_csv(folder / "people.csv", dtype=str)
    (folder / "people.csv").unlink()
    table.to_csv(folder / "clips.csv", index=False)
    corpus = corpus_from_folder(folder)
    (folder / "clips.csv").unlink()
    speakers = sorted(table["speaker"].unique())
    head = json.loads((corpus.folder / "corpus.json").read_text())
    for splits, said in (
        ({"train": speakers[:-2], "test": speakers[-2:]}, "too few speakers for validation"),
        ({"test": speakers}, ""),  # one part of a download: nothing was parted
    ):
        (folder / "corpus.json").write_text(json.dumps({**head, "splits": splits}))
        with pytest.warns(DataWarning, match=said) if said else nullcontext():
            assert recorded.read_voices(folder).told is None
