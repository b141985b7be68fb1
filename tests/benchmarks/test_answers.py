"""A run answers a test set in its format, goes on where it was stopped, and hears the clips."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from filelock import FileLock

from desta_lab import cli
from desta_lab.audio import RATE
from desta_lab.benchmarks import answers
from desta_lab.benchmarks.answers import answer_items
from desta_lab.benchmarks.benchmark import get_benchmark, list_benchmarks
from desta_lab.benchmarks.formats import BenchmarkError
from desta_lab.benchmarks.mmau import BENCHMARK as MMAU
from desta_lab.benchmarks.sakura import BENCHMARK as SAKURA
from desta_lab.clips import Corpus
from desta_lab.course import finished
from desta_lab.evaluation import scoring
from desta_lab.evaluation.tasks import Task
from desta_lab.experiments.experiment import Experiment
from desta_lab.model import presets
from tests import tiny

RUN = {"name": "tiny"}


def clip(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.sin(np.arange(RATE // 2) * len(path.name) / 50), RATE)
    return path


def questions(folder: Path, kind: str) -> Path:
    """Two clips with a question or two each, in a test set's own layout."""
    asked = {"question": "What?", "choices": ["a dog", "cat"], "answer": "cat", "task": "sound"}
    if kind == "sakura":
        lines = [
            "file,attribute_label,single_instruction,single_answer,multi_instruction,multi_answer"
        ]
        for name in ("one.wav", "three.wav"):
            clip(folder / "Animal" / "audio" / name)
            lines.append(
                f'{name},dog,"What is it? (a) dog (b) cat",(a) dog,'
                '"It can (a) fly (b) bark",(b) bark'
            )
        (folder / "Animal" / "metadata.csv").write_text("\n".join(lines))
    elif kind == "mmau":
        rows = [
            asked
            | {"id": str(i), "audio_id": f"./clips/{clip(folder / 'clips' / f'{i}.wav').name}"}
            for i in (1, 22)
        ]
        (folder / "test.json").write_text(json.dumps(rows))
    elif kind == "dynamic-superb":
        said = {"instruction": "Is it speech? The answer could be yes or no.", "label": "yes"}
        rows = {clip(folder / "Speech" / name).name: said for name in ("one.wav", "three.wav")}
        (folder / "Speech" / "metadata.json").write_text(json.dumps(rows))
    else:
        rule = {
            "instruction_id_list": ["change_case:english_capital"],
            "kwargs": [{}],
            "instruction": "SHOUT.",
        }
        rows = [
            rule | {"audio_filepath": clip(folder / "audios" / "g" / f"{i}.wav").name}
            for i in (1, 22)
        ]
        rows = [row | {"audio_filepath": f"g/{row['audio_filepath']}"} for row in rows]
        (folder / "eval_data").mkdir()
        (folder / "eval_data" / "close.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows)
        )
    return folder


@pytest.mark.parametrize("kind", ["sakura", "mmau", "dynamic-superb", "speech-ifeval"])
def test_answers_are_read_back_from_the_test_sets_own_format(tmp_path: Path, kind: str):
    folder = questions(tmp_path / "asked", kind)
    benchmark = list_benchmarks()[kind]
    assert get_benchmark(None, folder) is benchmark
    items = answer_items(
        tiny.audio_llm(), benchmark.read(folder), tmp_path / "out", RUN, max_new_tokens=3
    )
    benchmark.write(items, tmp_path / "out")
    assert get_benchmark(None, tmp_path / "out") is benchmark
    again = benchmark.read(tmp_path / "out")
    for name in ("id", "hop", "response", "scores", "silence", "answer"):
        assert sorted(map(str, (getattr(i, name) for i in again))) == sorted(
            map(str, (getattr(i, name) for i in items))
        )
    assert cli.main(["score", str(tmp_path / "out"), "--out", str(tmp_path / "figures")]) == 0


def test_an_option_is_scored_per_token_as_the_start_of_the_answer(tmp_path: Path):
    llm = tiny.audio_llm()
    item = answer_items(
        llm, MMAU.read(questions(tmp_path, "mmau")), tmp_path / "out", RUN, max_new_tokens=3
    )[0]
    task = Task("", 3, "", item.question, "", {text: text for text in item.options})
    plain = scoring.score_options_one_by_one(
        llm, [task], llm.connect(llm.encoder.encode([_wave(tmp_path / "clips" / "1.wav")]))
    )[0][0]
    lengths = [
        len(llm.backbone.tokenizer(text, add_special_tokens=False).input_ids)
        for text in item.options
    ]
    assert lengths[0] != lengths[1]
    np.testing.assert_allclose(item.scores, plain.numpy() / lengths, rtol=1e-4)
    assert item.scores != item.silence


def test_a_run_that_was_trained_with_transcripts_is_asked_with_them(tmp_path: Path):
    llm, items = tiny.audio_llm(), MMAU.read(questions(tmp_path, "mmau"))
    with pytest.raises(BenchmarkError, match="no Whisper decoder"):
        answer_items(llm, items, tmp_path / "none", RUN, with_transcript=True)
    llm.transcribe = lambda waves: ["a cat says so"] * len(waves)
    heard = [
        answer_items(llm, items, tmp_path / str(how), RUN, max_new_tokens=3, with_transcript=how)
        for how in (False, True)
    ]
    without, by_words = (some[0] for some in heard)
    assert by_words.scores != without.scores and by_words.silence == without.silence
    with pytest.raises(BenchmarkError, match="answers with another with_transcript"):
        answer_items(llm, items, tmp_path / "True", RUN, max_new_tokens=3)


def _wave(path: Path) -> np.ndarray:
    return soundfile.read(path, dtype="float32")[0]


def test_a_stopped_call_goes_on_where_it_was_even_within_a_line(tmp_path: Path):
    items = SAKURA.read(questions(tmp_path / "asked", "sakura"))
    llm, out = tiny.audio_llm(), tmp_path / "out"

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answer_items(llm, items, out, RUN, max_new_tokens=3, progress=stop)
    with (out / answers.LINES).open("a") as lines:
        lines.write('{"item": ["animal", "sin')
    seen: list[int] = []
    ended = answer_items(
        llm, items, out, RUN, max_new_tokens=3, progress=lambda done, total: seen.append(done)
    )
    assert seen == [3, 4]
    assert ended == answer_items(llm, items, tmp_path / "whole", RUN, max_new_tokens=3)


def test_answers_belong_to_their_question_whatever_their_order_and_what_is_missing(tmp_path: Path):
    items = SAKURA.read(questions(tmp_path / "asked", "sakura"))
    llm, out = tiny.audio_llm(), tmp_path / "out"
    whole = answer_items(llm, items, out, RUN, max_new_tokens=3)
    head, *rows = (out / answers.LINES).read_text().splitlines(keepends=True)
    (out / answers.LINES).write_text("".join([head, rows[3], rows[0], rows[2]]))  # one is lost
    seen: list[int] = []
    ended = answer_items(
        llm, items, out, RUN, max_new_tokens=3, progress=lambda done, total: seen.append(done)
    )
    assert seen == [4] and ended == whole


@pytest.mark.parametrize(
    "line, said",
    [
        ('{"item": ["sound", "", "9"], "response": "x"}', r"line 4: no answer to .*\(sound  9\)"),
        ('{"item": ["sound", "", "1"], "response": "x"}', "line 4: .* or a second one"),
        ('{"response": "x"}', "line 4: no item"),
        ('{"item": 1, "response": "x"}', "line 4: item is 1, not a list, each a text"),
        ('{"item": ["sound", "", "1"], "response": 4}', "line 4: response is 4, not a text"),
        ("half a li", "line 4: no JSON"),
    ],
)
def test_a_line_that_answers_no_question_is_named(tmp_path: Path, line: str, said: str):
    items = MMAU.read(questions(tmp_path / "asked", "mmau"))
    llm, out = tiny.audio_llm(), tmp_path / "out"
    answer_items(llm, items, out, RUN, max_new_tokens=3)
    with (out / answers.LINES).open("a") as lines:
        lines.write(line + "\n")
    with pytest.raises(BenchmarkError, match=said):
        answer_items(llm, items, out, RUN, max_new_tokens=3)


def test_one_call_at_a_time_writes_to_a_folder(tmp_path: Path):
    items = MMAU.read(questions(tmp_path / "asked", "mmau"))
    llm, out = tiny.audio_llm(), tmp_path / "out"
    out.mkdir()
    with FileLock(out / answers.LOCK), pytest.raises(BenchmarkError, match="another call writes"):
        answer_items(llm, items, out, RUN, max_new_tokens=3)


def test_a_choice_that_is_listed_twice_is_scored_once_and_written_twice(tmp_path: Path):
    folder = questions(tmp_path / "asked", "mmau")
    rows = json.loads((folder / "test.json").read_text())
    for row in rows:
        row["choices"] = ["a dog", "cat", "a dog"]
    (folder / "test.json").write_text(json.dumps(rows))
    one, *_ = answer_items(
        tiny.audio_llm(), MMAU.read(folder), tmp_path / "out", RUN, max_new_tokens=3
    )
    assert one.scores is not None and len(one.scores) == 3 and one.scores[0] == one.scores[2]


def test_scores_that_are_not_finite_are_never_written(tmp_path: Path, monkeypatch):
    items = MMAU.read(questions(tmp_path / "asked", "mmau"))
    scores = torch.tensor([[float("nan"), 0.0]] * 2)
    monkeypatch.setattr(scoring, "score_options_one_by_one", lambda *_: [scores])
    with pytest.raises(ValueError, match="item 0: 2 of 2 clips have a log-probability that is not"):
        answer_items(tiny.audio_llm(), items, tmp_path / "out", RUN, max_new_tokens=3)


def test_answers_of_another_run_or_question_are_never_mixed(tmp_path: Path):
    items = MMAU.read(questions(tmp_path / "asked", "mmau"))
    llm, out = tiny.audio_llm(), tmp_path / "out"
    answer_items(llm, items, out, RUN, max_new_tokens=3)
    with pytest.raises(ValueError, match="another run; give another --out"):
        answer_items(llm, items, out, {"name": "other"}, max_new_tokens=3)
    with pytest.raises(ValueError, match="another questions"):
        answer_items(llm, items[:1], out, RUN, max_new_tokens=3)


def test_a_missing_clip_is_said_before_the_first_answer(tmp_path: Path):
    folder = questions(tmp_path / "asked", "mmau")
    (folder / "clips" / "22.wav").unlink()
    with pytest.raises(FileNotFoundError, match=r"item 1: no clip .*--audio"):
        answer_items(tiny.audio_llm(), MMAU.read(folder), tmp_path / "out", RUN)
    assert not (tmp_path / "out").exists()


# ---- the run that ships ----


def asked_of(corpus: Corpus, folder: Path, clips: Iterable[int]) -> Path:
    """Clips of the spoken world in SAKURA's layout: what is heard, and what follows."""
    track = folder / "Gender"
    (track / "audio").mkdir(parents=True)
    lines = ["file,attribute_label,single_instruction,single_answer,multi_instruction,multi_answer"]
    for i in clips:
        one = corpus.clips[i]
        (track / "audio" / f"{i}.flac").write_bytes((corpus.folder / one.audio).read_bytes())
        woman = one.attributes["gender"] == "female"
        single = "(a) female" if woman else "(b) male"
        multi = "(a) she" if woman else "(b) he"
        lines.append(
            f"{i}.flac,{one.attributes['gender']},What is the gender of the speaker? (a) female "
            f"(b) male,{single},"
            f"Which pronoun should be used for the speaker? (a) she (b) he,{multi}"
        )
    (track / "metadata.csv").write_text("\n".join(lines))
    return folder


@pytest.mark.weights
def test_the_shipped_run_answers_and_is_scored(tmp_path: Path, capsys, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("DESTA_LAB_DATA", str(tiny.data_folder(tmp_path / "data")))
    lab = Experiment(presets.nano())
    corpus = lab.corpus
    finished.restore(lab)
    folder = asked_of(
        corpus, tmp_path / "asked", range(0, len(corpus.clips), len(corpus.clips) // 12)
    )
    run = ["--run", str(lab.run_folder("self"))]
    assert (
        cli.main(["answer", str(folder), "--out", str(tmp_path / "out"), *run, "--tokens", "12"])
        == 0
    )
    assert cli.main(["score", str(tmp_path / "out"), "--out", str(tmp_path / "figures")]) == 0
    assert "DeSTA2" in capsys.readouterr().out
    found = SAKURA.score(SAKURA.read(tmp_path / "out"))
    single = found[(found["group"] == "all") & (found["metric"] == "single")].set_index("protocol")
    assert single.loc["parsed", "low"] > single.loc["silence", "value"]  # it hears who speaks
    assert (
        single.loc["calibrated", "value"] > single.loc["ranked", "value"]
    )  # and never starts with an option
