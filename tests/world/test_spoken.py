"""The spoken world is balanced, speaker-disjoint and reproducible; its attributes are audible."""

import itertools
import json
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from desta_lab import audio
from desta_lab.clips import Corpus, CorpusError
from desta_lab.world import attributes, recorded, scenes, spoken
from desta_lab.world.attributes import ATTRIBUTES
from desta_lab.world.voices import list_speakers

NAMES = tuple(ATTRIBUTES)


def cramers_v(pairs) -> float:
    """0 where two labels are independent, 1 where one tells the other (Cramér 1946)."""
    rows, columns = ({pair[side]: None for pair in pairs} for side in (0, 1))
    table = np.array([[pairs.count((row, column)) for column in columns] for row in rows], float)
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    return float(
        np.sqrt(((table - expected) ** 2 / expected).sum() / table.sum() / (min(table.shape) - 1))
    )


@pytest.mark.parametrize(
    ("split", "count"), [("train", 1440), ("validation", 192), ("test", 384), ("test", 100)]
)
def test_values_are_balanced_within_one_and_independent(split, count):
    plans = spoken.design_clips(split, count, seed=0)
    for name in NAMES:
        counts = Counter(plan[name] for plan in plans).values()
        assert max(counts) - min(counts) <= 1, name
    for one, other in itertools.combinations(NAMES, 2):
        assert cramers_v([(plan[one], plan[other]) for plan in plans]) < (
            0.05 if count >= 192 else 0.1
        ), (one, other)


def test_all_cells_are_crossed_and_speakers_are_used_evenly():
    plans = spoken.design_clips("train", 1440, seed=0)
    cells = Counter(tuple(plan[name] for name in spoken.CROSSED) for plan in plans)
    assert len(cells) == 192
    assert max(cells.values()) - min(cells.values()) <= 2, "7.5 rounds of 192 cells"
    heard = Counter(plan["speaker"] for plan in plans)
    assert len(heard) == 40
    assert max(heard.values()) - min(heard.values()) <= 1
    for name in set(NAMES) - {"gender"}:
        assert cramers_v([(plan["speaker"], plan[name]) for plan in plans]) < 0.1, name


def test_speakers_are_disjoint_between_splits_and_half_female():
    splits = {split: spoken.split_speakers(split) for split in spoken.SPLIT_SPEAKERS}
    everyone = [speaker.name for people in splits.values() for speaker in people]
    assert len(everyone) == len(set(everyone)) == len(list_speakers()) == 64
    for split, people in splits.items():
        assert Counter(speaker.gender for speaker in people) == dict.fromkeys(
            ("female", "male"), spoken.SPLIT_SPEAKERS[split] // 2
        )


def test_a_world_is_a_valid_corpus(world):
    again = Corpus.read(world.folder, check_audio=True)
    assert again.hash == world.hash
    assert (len(again.split("train")), len(again.split("test"))) == (96, 32)
    genders = {speaker.name: speaker.gender for speaker in list_speakers()}
    for clip in again.clips:
        assert set(clip.attributes) == set(NAMES)
        assert all(clip.attributes[name] in values for name, values in ATTRIBUTES.items())
        assert clip.attributes["gender"] == genders[clip.speaker]
        assert len(audio.read_audio(again.path(clip))) == 4 * audio.RATE


def test_every_word_has_its_moment_in_order(world):
    for clip in world.clips:
        words = [span for span in clip.spans if span.name.startswith("word:")]
        assert [span.name for span in words] == [
            f"word:{word.strip('.,').lower()}" for word in clip.transcript.split()
        ]
        assert all(one.end <= other.start + 0.002 for one, other in itertools.pairwise(words))
        speech = next(span for span in clip.spans if span.name == "speech")
        assert (words[0].start, words[-1].end) == (speech.start, speech.end)
        assert any(span.name == f"scene:{clip.attributes['scene']}" for span in clip.spans)


def test_speech_fills_most_of_a_clip_at_both_rates(world):
    lengths = {rate: [] for rate in attributes.WORDS_PER_MINUTE}
    words = {rate: [] for rate in attributes.WORDS_PER_MINUTE}
    for clip in world.clips:
        speech = next(span for span in clip.spans if span.name == "speech")
        lengths[clip.attributes["rate"]].append(speech.end - speech.start)
        words[clip.attributes["rate"]].append(len(clip.transcript.split()))
    assert all(np.mean(seconds) > 2.9 and min(seconds) > 1.8 for seconds in lengths.values())
    assert np.mean(words["fast"]) > 1.6 * np.mean(words["slow"])


def test_loudness_classes_never_overlap(world):
    levels = {value: [] for value in attributes.LEVEL}
    for clip in world.clips:
        levels[clip.attributes["loudness"]].append(
            scenes.measure_level(audio.read_audio(world.path(clip)))
        )
    assert max(levels["quiet"]) < -35
    assert min(levels["loud"]) > -28


@pytest.mark.parametrize("name", [name for name in ATTRIBUTES if name != "gender"])
def test_every_attribute_is_heard(name):
    """The gender is that of the speaker; every other value changes the sound by itself."""
    plan = spoken.design_clips("test", 1, seed=0)[0]
    waves = {
        spoken.render_clip(plan | {name: value}, 4.0)[0].tobytes() for value in ATTRIBUTES[name]
    }
    assert len(waves) == len(ATTRIBUTES[name])


def test_what_a_change_adds_behind_the_speech_is_kept(monkeypatch):
    longer = {"speech": lambda _, speech, rng: np.pad(speech, (0, 8000), constant_values=1.0)}
    only = {"manner": replace(attributes.MANNER, **longer), "loudness": attributes.LOUDNESS}
    monkeypatch.setattr(spoken, "VOCABULARY", only)
    plan = spoken.design_clips("test", 1, seed=0)[0]
    speech, rng = np.zeros(audio.RATE, dtype=np.float32), np.random.default_rng(0)
    wave, _ = spoken.compose_clip(plan, speech, 0.9, [], "", {}, 4.0, rng)
    assert (wave > wave.max() / 2).sum() == 8000 - 0.05 * audio.RATE


def test_what_is_done_to_the_whole_clip_keeps_its_loudness(monkeypatch):
    plan = spoken.design_clips("test", 1, seed=0)[0] | {"loudness": "loud", "far": "yes"}
    far = replace(
        attributes.plain_attribute("far", ("no", "yes")), clip=lambda _, clip, rng: clip / 9
    )
    monkeypatch.setitem(attributes.VOCABULARY, "far", far)
    assert -28 < scenes.measure_level(spoken.render_clip(plan, 4.0)[0]) < -19


ROOM = """
ROOM = Attribute(
    name="room",
    noun="room",
    words={"dry": "a chamber", "echo": "a hall"},
    question="In which room is the speaker?",
    stem="The speaker is in",
    known="{}",
    unknown="some room",
    surface={"dry": "chamber", "echo": "hall"},
    speech=lambda value, speech, rng: (
        speech if value == "dry" else np.convolve(speech, [1, *np.zeros(3999), 0.6])
    ),
)
SENTENCE += " This is {room}."
_ALL += (ROOM,)
VOCABULARY = {"""
FOLLOWS = """
import json
from desta_lab.evaluation.tasks import task_ladder
from desta_lab.world import describe, recorded, spoken

clips = {"test": 6}
corpus = spoken.build_spoken_corpus("corpus", clips=clips, workers=1)
plan = spoken.design_clips("test", 1, seed=0)[0]
waves = [spoken.render_clip(plan | {"room": room}, 4.0)[0].tolist() for room in ("dry", "echo")]
print(json.dumps({
    "key": spoken.spoken_provenance(clips, 4.0, 0).key,
    "rooms": [clip.attributes["room"] for clip in corpus.clips],
    "said": [describe.describe(clip.attributes) for clip in corpus.clips],
    "asked": {task.question for task in task_ladder() if task.attribute == "room"},
    "made": recorded.MADE,
    "waves": waves,
}, default=sorted))
"""


def test_an_attribute_is_one_file(tmp_path):
    """Written in `attributes.py` alone it is heard, described, asked, and another world."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(spoken.__file__).parents[1], tmp_path / "desta_lab", ignore=ignored)
    path = tmp_path / "desta_lab" / "world" / "attributes.py"
    text = path.read_text("utf-8")
    path.write_text(text.replace("VOCABULARY = {", ROOM), encoding="utf-8")
    done = subprocess.run([sys.executable, "-c", FOLLOWS], cwd=tmp_path, capture_output=True)
    assert not done.returncode, done.stderr.decode()
    found = json.loads(done.stdout)
    assert Counter(found["rooms"]) == {"dry": 3, "echo": 3}
    for room, said in zip(found["rooms"], found["said"], strict=True):
        assert said.endswith(f" This is {'a hall' if room == 'echo' else 'a chamber'}.")
    assert "In which room is the speaker?" in found["asked"]
    assert set(found["made"]) == {*recorded.MADE, "room"}
    dry, echo = map(np.array, found["waves"])
    late = [np.corrcoef(wave[4000:], wave[:-4000])[0, 1] for wave in (dry, echo)]
    assert late[1] > late[0] + 0.2, "the echo comes 0.25 seconds later"
    assert found["key"] != spoken.spoken_provenance({"test": 6}, 4.0, 0).key


def test_provenance_names_all_that_determines_the_clips():
    settings = {"clips": {"train": 3}, "seconds": 4.0, "seed": 0}
    changed = [{"clips": {"train": 4}}, {"seconds": 5.0}, {"seed": 1}]
    keys = {spoken.spoken_provenance(**settings | change).key for change in [{}, *changed]}
    assert len(keys) == 4


@pytest.mark.parametrize("drawn", [{"breath": ("held", "free")}, {"scene": ("rain", "wind")}])
def test_other_attributes_are_another_world(drawn, world, monkeypatch):
    """Else the clips of before are found under the key of the new world."""
    settings = {"clips": {"train": 3}, "seconds": 4.0, "seed": 0}
    shipped = spoken.spoken_provenance(**settings)
    for name, values in drawn.items():
        monkeypatch.setitem(ATTRIBUTES, name, values)
    assert spoken.spoken_provenance(**settings).key != shipped.key
    shape = {split: len(world.split(split)) for split in world.splits}
    with pytest.raises(CorpusError, match="choose another folder"):
        spoken.build_spoken_corpus(world.folder, clips=shape)


def files(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_the_same_seed_gives_the_same_bytes_for_any_number_of_workers(tmp_path):
    few = {"train": 12, "test": 6}
    spoken.build_spoken_corpus(tmp_path / "one", clips=few, workers=1)
    spoken.build_spoken_corpus(tmp_path / "two", clips=few, workers=2)
    spoken.build_spoken_corpus(tmp_path / "other", clips=few, workers=1, seed=1)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert files(tmp_path / "one") != files(tmp_path / "other")


def test_a_built_world_is_not_built_again_and_no_other_one_is_built_over_it(world, monkeypatch):
    monkeypatch.setattr(spoken, "render_clip", lambda *_: pytest.fail("a clip was rendered"))
    shape = {split: len(world.split(split)) for split in world.splits}
    assert spoken.build_spoken_corpus(world.folder, clips=shape).hash == world.hash
    with pytest.raises(CorpusError, match="choose another folder"):
        spoken.build_spoken_corpus(world.folder, clips=shape, seed=1)


def test_an_interrupted_build_goes_on_with_what_was_rendered(tmp_path, monkeypatch):
    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    clips = {"train": 6}
    with pytest.raises(KeyboardInterrupt):
        spoken.build_spoken_corpus(tmp_path / "a", clips=clips, workers=1, progress=stop)
    assert not (tmp_path / "a").exists()
    (draft,) = tmp_path.glob(".a.part")
    with (draft / "rendered.jsonl").open("a") as lines:
        lines.write('{"id": "train-0')  # as a kill leaves it
    seen = []
    spoken.build_spoken_corpus(
        tmp_path / "a", clips=clips, workers=1, progress=lambda *counts: seen.append(counts)
    )
    spoken.build_spoken_corpus(tmp_path / "b", clips=clips, workers=1)
    assert seen == [(4, 6), (5, 6), (6, 6)]
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert not draft.exists()


def test_a_draft_with_a_line_that_is_none_is_named(tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        spoken.build_spoken_corpus(tmp_path / "a", clips={"train": 2}, workers=1, progress=stop)
    with (tmp_path / ".a.part" / "rendered.jsonl").open("ab") as lines:
        lines.write(b"\xff\n")
    with pytest.raises(CorpusError, match=r"rendered\.jsonl, line 3: not UTF-8"):
        spoken.build_spoken_corpus(tmp_path / "a", clips={"train": 2}, workers=1)


def test_a_draft_of_other_settings_is_made_anew(tmp_path):
    draft = tmp_path / ".a.part"
    draft.mkdir()
    (draft / "rendered.jsonl").write_text('{"seed": 9}\n')
    (draft / "old.flac").write_bytes(b"old")
    spoken.build_spoken_corpus(tmp_path / "a", clips={"train": 2}, workers=1)
    assert not list((tmp_path / "a").glob("old.flac"))


def test_progress_counts_to_the_end(tmp_path):
    told = []
    spoken.build_spoken_corpus(
        tmp_path / "spoken",
        clips={"test": 3},
        workers=1,
        progress=lambda *counts: told.append(counts),
    )
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(CorpusError, match="no split 'dev'"):
        spoken.build_spoken_corpus(tmp_path / "spoken", clips={"dev": 3}, workers=1)
    assert not list(tmp_path.iterdir())
