"""A DeSTA-AQA5M manifest is read a row at a time, and a fault is named by its line."""

import itertools
import json

import pytest

from desta_lab.clips import CorpusError
from desta_lab.world.manifests import iterate_manifest
from desta_lab.world.public_corpora import CREMA_D
from tests.world.files import write_lines
from tests.world.test_public_corpora import crema_d


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
    rows = iterate_manifest(path, root="clips")
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
    assert list(iterate_manifest(path)) == [row]


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
        list(iterate_manifest(path))


def test_a_published_manifest_meets_the_clips_of_a_public_corpus(tmp_path):
    crema_d(tmp_path / "CREMA-D")
    corpus = CREMA_D.build(tmp_path / "CREMA-D")
    sounds = [{"audio": f"CREMA-D/{clip.audio}", "text": clip.transcript} for clip in corpus.clips]
    rows = [
        {
            "id": str(i),
            "response": "…",
            "messages": [{"role": "user", "content": "<|AUDIO|>", "audios": [sound]}],
        }
        for i, sound in enumerate(sounds)
    ]
    write_lines(tmp_path / "train.jsonl", *(json.dumps(row) for row in rows))
    paths = [
        row["messages"][0]["audios"][0]["audio"]
        for row in iterate_manifest(tmp_path / "train.jsonl", tmp_path)
    ]
    assert paths == [str(corpus.path(clip)) for clip in corpus.clips]
