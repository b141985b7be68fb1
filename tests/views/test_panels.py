"""The panels, operated from Python: what they show, what stays of them, and how they speak of what
goes wrong.
"""

import dataclasses
import datetime
import io
from html import escape
from pathlib import Path
from types import SimpleNamespace

import ipywidgets
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
import traitlets

from desta_lab import audio
from desta_lab.evaluation.tasks import task_ladder as task_ladder
from desta_lab.model.audio_llm import hash_tensors
from desta_lab.training import checkpoints
from desta_lab.views import panel_base, panels, replies
from desta_lab.views.panel_base import encode_wav, take_upload
from desta_lab.views.panel_figures import CONDITIONS
from desta_lab.world.attributes import ATTRIBUTES
from desta_lab.world.describe import describe
from tests import tiny

STEPS = (0, 1, 4)


def stand_in(folder: Path) -> SimpleNamespace:
    """What a panel needs of a job, with tiny models and a ladder whose rungs differ."""
    llm, words = tiny.audio_llm(), tiny.corpus(folder / "corpus")
    for step in STEPS:
        torch.manual_seed(step)
        with torch.no_grad():
            llm.connector.query_tokens.normal_()
        checkpoints.save_checkpoint(folder / "self", llm, step, None)
    some = list(words.clips[:8])
    return SimpleNamespace(
        corpus=words,
        llm=llm,
        tasks=task_ladder(),
        describe=describe,
        preset=SimpleNamespace(transcript=False),
        clips=lambda split: some,
        run_folder=lambda kind: folder / kind,
    )


def points(job: SimpleNamespace) -> pd.DataFrame:
    """A map on which the clips part by scene as training goes on; two clips share a place."""
    rows = []
    for method in ("pca", "umap"):
        for step in STEPS:
            rng = np.random.default_rng(1)
            for clip in job.corpus.clips:
                centre = step * ATTRIBUTES["scene"].index(clip.attributes["scene"])
                x, y = rng.normal(size=2) + np.array([centre, centre % 3])
                rows.append(
                    {
                        "step": step,
                        "method": method,
                        "seed": 0,
                        "clip": clip.id,
                        "x": x,
                        "y": y,
                        **clip.attributes,
                    }
                )
    return pd.DataFrame(rows)


def rungs() -> pd.DataFrame:
    """Scores of every rung, as `emergence.per_rung` gives them, of two runs at all steps but
    one.
    """
    conditions = {"audio": 0.9, "oracle": 1.0, "silence": 0.0, "shuffled": 0.02, "untrained": -0.05}
    rows = [
        {
            "run": run,
            "step": step,
            "condition": condition,
            "rung": rung,
            "score": top * (step / 4 if condition == "audio" else 1),
        }
        for run in ("self", "label")
        for step in STEPS[::2]
        for condition, top in conditions.items()
        for rung in range(6)
    ]
    table = pd.DataFrame(rows)
    return table.assign(low=table["score"] - 0.1, high=table["score"] + 0.1)


def attention(connector, states) -> torch.Tensor:
    """Query q looks at encoder frame 4 q."""
    return torch.eye(states.shape[2])[::4][: connector.queries] + 0.01


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    return stand_in(tmp_path_factory.mktemp("job"))


@pytest.fixture
def ask(job):
    return panels.AskPanel(job)


def is_png(content: bytes) -> bool:
    return content[:8] == b"\x89PNG\r\n\x1a\n" and len(content) > 1000


def upload(panel: panels.AskPanel, name: str, content: bytes) -> None:
    when = datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC)
    file = {"name": name, "type": "audio/wav", "size": len(content), "content": memoryview(content)}
    if isinstance(panel.upload.value, dict):  # ipywidgets 7
        panel.upload.set_trait("value", {name: {"metadata": {}, "content": content}})
    else:
        panel.upload.value = ({**file, "last_modified": when},)


# ---- ask ----


def test_asking_answers_under_every_condition_side_by_side(ask, job):
    assert ask.question.value and ask.task.value.rung == 3 and ask.table.value == ""
    ask.button.click()
    assert ask.note.value == ""
    assert all(condition in ask.table.value for condition in CONDITIONS.values())
    assert is_png(ask.bars.value)
    last = replies.embed_audio(job.llm, audio.read_audio(job.corpus.path(job.corpus.clips[0])))
    assert escape(replies.answer_audio(job.llm, last, ask.question.value).text) in ask.table.value


def test_a_question_of_ones_own_has_answers_and_no_bars(ask):
    ask.question.value = "Is it a cat?"
    ask.clip.index = 1
    ask.button.click()
    assert ask.question.value == "Is it a cat?"
    assert ask.task.value is None and ask.bars.value == b"" and "<td" in ask.table.value


def test_a_run_with_transcripts_is_asked_with_those_of_the_clip_or_of_whisper(job, monkeypatch):
    heard = SimpleNamespace(**{**vars(job), "preset": SimpleNamespace(transcript=True)})
    clip = job.corpus.clips[0]
    wave = replies.read_wave(job, clip)
    assert replies.find_words(job, wave, clip) is None
    assert replies.find_words(heard, wave, clip) == clip.transcript
    monkeypatch.setattr(job.llm, "transcribe", lambda waves: ["as Whisper hears it"])
    assert replies.find_words(heard, wave) == "as Whisper hears it"
    panel, task = panels.AskPanel(heard), job.tasks[-1]
    embeddings = replies.embed_audio(job.llm, wave)
    (told,) = [panel._answer(task.question, task, clip)["audio"]]
    assert told == replies.answer_audio(job.llm, embeddings, task.question, task, clip.transcript)
    assert told.options != replies.answer_audio(job.llm, embeddings, task.question, task).options


def test_options_share_one_probability_and_the_topic_is_read_out_to_the_oracle(job):
    task = job.tasks[-1]
    reply = replies.answer_text(job.llm, job.corpus.clips[0], task.question, task)
    assert reply.options.keys() == task.options.keys() and sum(
        reply.options.values()
    ) == pytest.approx(1)
    assert (
        reply.options
        != replies.answer_text(job.llm, job.corpus.clips[1], task.question, task).options
    )


def test_the_last_rung_is_put_back_whatever_happens(job):
    with replies.use_checkpoint(job):
        last = hash_tensors(job.llm.connector)
    with pytest.raises(ZeroDivisionError), replies.use_checkpoint(job, 0) as llm:
        assert hash_tensors(llm.connector) != last
        raise ZeroDivisionError
    assert hash_tensors(job.llm.connector) == last
    panels.AskPanel(job).ask()
    panels.CheckpointPanel(job, points(job), rungs()).step.value = 0
    assert hash_tensors(job.llm.connector) == last


def test_an_uploaded_recording_is_heard_but_nothing_is_known_of_it(ask):
    file = io.BytesIO()
    soundfile.write(file, np.tile(tiny.wave(3), 3), 8_000, format="FLAC")
    upload(ask, "mine.flac", file.getvalue())
    assert ask.clip.value == "mine.flac" and not ask.upload.value
    assert "mine.flac lasts 2.4 s; the encoder hears its first 0.4 s" in ask.note.value
    ask.button.click()
    assert "(it has no description)" in ask.table.value and is_png(ask.bars.value)
    assert len(soundfile.read(io.BytesIO(ask.player.value))[0]) == 2.4 * audio.RATE


def test_an_upload_is_taken_once_in_the_form_of_either_ipywidgets():
    class OfColab(traitlets.HasTraits):
        value = traitlets.Dict(read_only=True)

    old, new = OfColab(), ipywidgets.FileUpload()
    old.set_trait("value", {"mine.wav": {"metadata": {"name": "mine.wav"}, "content": b"RIFF"}})
    assert take_upload(old) == ("mine.wav", b"RIFF") and old.value == {}
    assert take_upload(old) is None and take_upload(new) is None


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("voice.webm", b"\x1aE\xdf\xa3" * 40, "voice.webm: not readable as audio"),
        ("empty.wav", b"", "empty.wav: the file has 0 bytes"),
        ("still.wav", encode_wav(np.zeros(9_000, dtype=np.float32)), "still.wav: silent"),
    ],
)
def test_bad_audio_is_refused_in_a_sentence_that_names_the_file_alone(ask, name, content, sentence):
    before = ask.clip.value
    upload(ask, name, content)
    assert f"⚠ {sentence}" in ask.note.value and ask.clip.value == before
    assert not ask.button.disabled


def test_an_error_of_the_models_lands_in_the_panel(ask, job, monkeypatch):
    monkeypatch.setattr(job.llm, "generate_ids", lambda *_, **__: 1 / 0)
    ask.button.click()
    assert "ZeroDivisionError: division by zero" in ask.note.value and not ask.button.disabled


def test_an_empty_question_is_no_question(ask):
    ask.question.value = "  "
    ask.button.click()
    assert "There is no question yet" in ask.note.value


def test_a_panel_says_when_it_works_and_takes_no_second_press(ask, monkeypatch):
    seen = []
    monkeypatch.setattr(
        ask, "_answer", lambda *_: seen.append((ask.note.value, ask.button.disabled)) or {}
    )
    ask.button.click()
    assert seen == [("<em>working…</em>", True)] and not ask.button.disabled


# ---- ladder ----


def test_the_slider_moves_map_rungs_and_answer_and_remembers(job, monkeypatch):
    panel = panels.CheckpointPanel(job, points(job), rungs())
    seen = {}
    for step in STEPS:
        panel.step.value = step
        assert panel.note.value == ""
        seen[step] = panel.picture.value
        assert is_png(seen[step]) and f">{step}</td>" in panel.words.value
    assert len(set(seen.values())) == len(STEPS)
    monkeypatch.setattr(
        replies, "answer_audio", lambda *_: pytest.fail("a remembered answer was asked for again")
    )
    panel.step.value = 0
    assert panel.note.value == "" and panel.picture.value == seen[0]
    panel.attribute.value = "scene"
    assert panel.picture.value != seen[0]


def test_a_damaged_rung_is_told_and_the_slider_goes_on(tmp_path):
    job = stand_in(tmp_path)
    panel = panels.CheckpointPanel(job, points(job), rungs())
    (tmp_path / "self" / "checkpoints" / "000001.safetensors").write_bytes(b"torn")
    panel.step.value = 1
    assert "changed since it was saved" in panel.note.value
    panel.step.value = 0
    assert panel.note.value == ""


def test_points_without_attributes_are_refused(job):
    bare = points(job)[["step", "method", "seed", "clip", "x", "y"]]
    for make in (
        lambda: panels.MapPanel(job, bare),
        lambda: panels.CheckpointPanel(job, bare, rungs()),
    ):
        with pytest.raises(ValueError, match="no column of an attribute"):
            make()


# ---- listen ----


def test_a_query_token_is_heard_where_it_looks(job):
    panel = panels.ListenPanel(job, attention=replies.make_attention_profile(job, attention))
    panel.query.label = "query token 2"  # frame 8 of 20: 0.16 to 0.18 s
    assert panel.note.value == "" and "0.1" in panel.words.value and is_png(panel.picture.value)
    whole, part = (
        soundfile.read(io.BytesIO(player.value))[0] for player in (panel.whole, panel.part)
    )
    at, far = (
        slice(round(0.16 * audio.RATE), round(0.18 * audio.RATE)),
        slice(round(0.32 * audio.RATE), None),
    )
    np.testing.assert_allclose(part[at], whole[at], atol=1e-4)
    assert 0 < np.abs(part[far]).max() < 0.1 * np.abs(whole[far]).max()


def test_a_profile_that_knows_no_question_says_so_and_another_answers(job):
    asked = []

    def attribution(clip, query, task):
        asked.append((clip.id, query, task and task.name))
        return np.linspace(1, 2, 20)

    panel = panels.ListenPanel(
        job, attention=replies.make_attention_profile(job, attention), attribution=attribution
    )
    panel.query.label = next(
        label for label, _ in panel.query._options_full if "background sound? [scene]" in label
    )
    assert "knows no question" in panel.note.value and panel.part.value == b""
    panel.profile.value = "attribution"
    panel.share.value = 0.5
    assert panel.note.value == "" and asked == [("clip-000", None, "ask_scene")]


@pytest.mark.parametrize("share", [0.05, 0.25, 0.95])
def test_as_many_frames_are_kept_as_asked(share):
    weights = np.random.default_rng(0).random(100)
    assert replies.select_frames(weights, 2.0, share).sum() == round(100 * share)
    wave = tiny.wave(0, 2.0)
    np.testing.assert_allclose(
        replies.isolate_frames(wave, np.ones(100, dtype=bool)), wave, atol=1e-6
    )


# ---- map ----


def test_pressing_a_point_plays_its_clip_and_says_what_is_known(job):
    panel = panels.MapPanel(job, points(job))
    clip = job.corpus.clips[5]
    panel.buttons[clip.id].click()
    np.testing.assert_allclose(
        soundfile.read(io.BytesIO(panel.player.value))[0],
        audio.read_audio(job.corpus.path(clip)),
        atol=1e-4,
    )
    assert (
        all(value in panel.words.value for value in clip.attributes.values())
        and clip.id in panel.words.value
    )


def test_every_point_has_a_cell_of_its_own_and_its_letter(job):
    panel = panels.MapPanel(job, points(job))
    assert len({button.layout.grid_area for button in panel.buttons.values()}) == len(
        job.corpus.clips
    )
    panel.attribute.value = "accent"
    for clip in job.corpus.clips:
        assert panel.buttons[clip.id].description == clip.attributes["accent"][0].lower()
    before = [button.layout.grid_area for button in panel.buttons.values()]
    panel.step.value = 0
    assert before != [button.layout.grid_area for button in panel.buttons.values()]


def test_cells_keep_up_and_down_left_and_right():
    rows = pd.DataFrame({"x": [0.0, 1.0, 0.0, 0.0], "y": [0.0, 1.0, 1.0, 1.0]})
    (bottom, left), (top, right), one, other = panels.find_cells(rows, 24)
    assert (bottom, left, top, right) == (23, 0, 0, 23)
    assert one == (0, 0) and other in {(0, 1), (1, 0)}


# ---- text is text ----


def test_no_value_of_a_clip_becomes_html_or_mathematics(job):
    odd = "<img src=x onerror=alert(1)> $\\frac{$"
    panel = panels.MapPanel(job, points(job).assign(scene=odd))
    panel.attribute.value = "scene"
    assert "<img" not in panel.legend.value and ">&lt;</span>" in panel.legend.value
    assert panel.note.value == "" and "<img src=x" not in panel.still()
    clip = dataclasses.replace(job.corpus.clips[0], id=odd, speaker=odd, transcript=odd)
    assert "<img" not in panel_base.clip_html(clip, odd) + panel_base.table_html([odd], [odd])
    assert "<img src=x" not in panel_base.image_html(b"", odd)


# ---- what stays ----


def test_widget_and_still_are_both_left_and_the_still_follows(job, monkeypatch):
    shown = []
    handle = SimpleNamespace(update=lambda page: shown.append(page.data))
    monkeypatch.setattr(
        "desta_lab.views.panel_base.display", lambda one, **how: shown.append(one) or handle
    )
    panel = panels.AskPanel(job)
    panel._ipython_display_()
    assert "application/vnd.jupyter.widget-view+json" in shown[0]
    assert "data:audio/wav;base64," in shown[1].data and "<td" not in shown[1].data
    panel.ask()
    assert "<td" in shown[-1] and "data:image/png;base64," in shown[-1]


def test_every_panel_has_a_still_with_its_picture_and_no_script(job):
    looking = replies.make_attention_profile(job, attention)
    every = [
        panels.CheckpointPanel(job, points(job), rungs()),
        panels.ListenPanel(job, attention=looking),
        panels.MapPanel(job, points(job)),
    ]
    for panel in every:
        page = panel.still()
        assert "data:image/png;base64," in page and "<script" not in page and "http" not in page
        assert ":has(." in page  # hidden only while the widgets live beside it
