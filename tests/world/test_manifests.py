"""A DeSTA-AQA5M manifest is read a row at a time, and a fault is named by its line."""

import json

import pytest

from desta_lab.clips import CorpusError
from desta_lab.world.manifests import Manifest
from desta_lab.world.public_corpora import CREMA_D
from tests.world.files import write_lines, write_noise
from tests.world.test_public_corpora import crema_d

COUNT = 12


def make_row(number):
    sound = {"audio": f"{number % 4}.wav", "text": f"word {number}"}
    message = {"role": "user", "content": "<|AUDIO|>", "audios": [sound]}
    return {
        "id": f"row-{number}",
        "dataset": "toy",
        "seed_description": "[00:00-00:05] hi (Gender: Female)",
        "prompt": "What can you hear?",
        "response": "Eine schöne Stimme.",
        "messages": [message],
    }


@pytest.fixture
def path(tmp_path):
    for number in range(4):
        write_noise(tmp_path / f"{number}.wav")
    file = tmp_path / "rows.jsonl"
    rows = (json.dumps(make_row(number), ensure_ascii=False) for number in range(COUNT))
    write_lines(file, *rows)
    return file


def test_a_manifest_is_a_sequence_of_its_rows_each_with_its_clip(path):
    rows = Manifest(path, path.parent)
    assert len(rows) == COUNT
    assert [row["id"] for row in rows] == [f"row-{number}" for number in range(COUNT)]
    assert [row["id"] for row in rows[-2:]] == ["row-10", "row-11"]
    assert rows[5]["clip"] == str(path.parent / "1.wav")
    assert rows[5]["messages"][0]["audios"][0]["audio"] == rows[5]["clip"]
    assert rows[5]["response"] == "Eine schöne Stimme."
    with pytest.raises(IndexError):
        rows[COUNT]


def test_the_text_of_a_clip_becomes_its_transcript_where_it_is_asked_for(path):
    assert Manifest(path, path.parent, transcripts=True)[3]["transcripts"] == ["word 3"]
    assert "transcripts" not in Manifest(path, path.parent)[3]


def test_the_published_training_rows_have_three_columns_only(path):
    row = {name: make_row(0)[name] for name in ("id", "messages", "response")}
    write_lines(path, json.dumps(row))
    assert Manifest(path, path.parent)[0].keys() == {*row, "clip"}


@pytest.mark.parametrize("size", [1, 700, 1 << 22])
def test_wherever_blocks_end_lines_begin_where_they_begin(path, size, monkeypatch):
    monkeypatch.setattr("desta_lab.world.manifests.BLOCK", size)
    path.write_text(path.read_text("utf-8").rstrip("\n"), "utf-8")  # a last line needs no break
    rows = Manifest(path, path.parent)
    assert [row["id"] for row in rows] == [f"row-{number}" for number in range(COUNT)]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], r"rows\.jsonl: no rows; "),
        ([json.dumps(make_row(0)), '{"id": "1", "mess'], r"rows\.jsonl, line 2: not JSON"),
        ([json.dumps(make_row(0)), "", json.dumps(make_row(1))], r"line 2: empty; remove"),
    ],
    ids=["no rows", "torn last line", "empty line"],
)
def test_a_manifest_that_is_cut_or_has_a_hole_is_refused_when_it_is_opened(path, lines, words):
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(CorpusError, match=words):
        Manifest(path, path.parent)


def test_a_manifest_that_is_not_there_is_a_sentence(tmp_path):
    with pytest.raises(CorpusError, match=r"rows\.jsonl: no such file; download"):
        Manifest(tmp_path / "rows.jsonl")


def change_audios(audios):
    return {"messages": [{"role": "user", "content": "", "audios": audios}]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"response": None}, "'response' is missing; "),
        ({"prompt": 3}, "'prompt' is int, not str; "),
        ({"messages": "hello"}, "'messages' is str, not list; "),
        ({"messages": [{"role": "user"}]}, "lacks role or content; "),
        (change_audios([{"text": "hi"}]), "lacks its 'audio' path; "),
        (change_audios(1), "'audios' is int, not list; correct its type"),
        (change_audios([{"audio": "0.wav", "text": 5}]), "the 'text' of a clip is int, not str; "),
        ({"messages": [{"role": "user", "content": 5}]}, "lacks role or content; give it both as"),
        (change_audios([{"audio": "0.wav"}] * 2), "2 clips in 'audios'; "),
        (change_audios([{"audio": "gone.wav"}]), "audio file '.*gone.wav' is missing; "),
        (change_audios([{"audio": "x" * 300}]), "audio file '.*xx' is missing; "),
    ],
)
def test_a_bad_manifest_row_is_named_by_its_line(path, change, words):
    row = {name: value for name, value in (make_row(0) | change).items() if value is not None}
    write_lines(path, json.dumps(make_row(1)), json.dumps(row))
    rows = Manifest(path, path.parent)
    with pytest.raises(CorpusError, match=f"line 2: .*{words}"):
        rows[1]


def test_a_published_manifest_meets_the_clips_of_a_public_corpus(tmp_path):
    crema_d(tmp_path / "CREMA-D")
    corpus = CREMA_D.build(tmp_path / "CREMA-D")
    rows = [
        {"id": clip.id, "response": "…"} | change_audios([{"audio": f"CREMA-D/{clip.audio}"}])
        for clip in corpus.clips
    ]
    write_lines(tmp_path / "train.jsonl", *(json.dumps(row) for row in rows))
    found = [row["clip"] for row in Manifest(tmp_path / "train.jsonl", tmp_path)]
    assert found == [str(corpus.path(clip)) for clip in corpus.clips]
