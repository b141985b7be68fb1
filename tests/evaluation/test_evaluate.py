"""One call scores a checkpoint under every condition, and each control is what it says."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

from desta_lab.clips import Clip
from desta_lab.evaluation import conditions
from desta_lab.evaluation import evaluate as evaluation
from desta_lab.evaluation.evaluate import (
    FreeForm,
    answer_free_form,
    evaluate,
    judge_answer,
    oracle_accuracy,
)
from desta_lab.evaluation.tasks import task_ladder
from desta_lab.world.attributes import ATTRIBUTES
from desta_lab.world.describe import describe_plainly
from tests import tiny

ASKED = [task for task in task_ladder() if task.rung == 3]


def people(count: int, known=tiny.attributes) -> list[Clip]:
    return [Clip(f"c{i}", "", 1.0, "words", f"s{i % 5}", dict(known(i))) for i in range(count)]


@pytest.fixture(scope="module")
def llm():
    return tiny.audio_llm()


@pytest.fixture(scope="module")
def embeddings(llm):
    draw = torch.Generator().manual_seed(0)
    return torch.randn(9, llm.queries, tiny.WIDTH, generator=draw)


def of(table: pd.DataFrame, condition: str) -> pd.DataFrame:
    return table[table["condition"] == condition].drop(columns="condition").reset_index(drop=True)


def test_every_clip_is_scored_on_every_task_under_every_condition(llm, embeddings) -> None:
    clips = people(9)
    table = evaluate(llm, ASKED, clips[:6], clips[6:], audio_embeddings=embeddings)
    assert list(table["condition"].unique()) == [*conditions.AUDIO_CONDITIONS]
    assert len(table) == len(conditions.AUDIO_CONDITIONS) * 6 * len(ASKED)
    cells = table.groupby(["condition", "task"])["clip"].agg(list)
    assert all(cell == [clip.id for clip in clips[:6]] for cell in cells)


def test_progress_is_told_from_the_first_batch_to_the_last(llm, embeddings) -> None:
    clips, told = people(9), []
    how = {"audio_embeddings": embeddings, "batch": 4}
    evaluate(llm, ASKED, clips[:6], clips[6:], **how, progress=lambda *news: told.append(news))
    assert told == [(4, 10), (8, 10), (10, 10)]  # of nine clips and silence


def test_shuffled_audio_is_scored_as_the_partners_audio_would_be(llm, embeddings) -> None:
    clips = people(9)
    table = evaluate(llm, ASKED, clips[:6], clips[6:], audio_embeddings=embeddings)
    partners = conditions.shuffled_partners(clips[:6])
    swapped = embeddings[[*partners, 6, 7, 8]]
    own = evaluate(llm, ASKED, clips[:6], clips[6:], audio_embeddings=swapped, conditions=["audio"])
    pd.testing.assert_frame_equal(of(table, "shuffled"), of(own, "audio"), rtol=1e-4)


def test_a_further_control_is_one_entry_among_the_conditions(llm, embeddings, monkeypatch) -> None:
    noise = conditions.AudioCondition([1, 0, 0, 0, 0, 0], torch.zeros_like(embeddings[:2]))
    monkeypatch.setitem(conditions.AUDIO_CONDITIONS, "noise", lambda llm, clips: noise)
    clips = people(9)
    table = evaluate(llm, ASKED, clips[:6], clips[6:], audio_embeddings=embeddings)
    assert list(table["condition"].unique()) == [*conditions.AUDIO_CONDITIONS]
    assert (of(table, "noise").groupby("task")["chosen"].nunique() == 1).all()
    alone = evaluate(
        llm, ASKED, clips[:6], clips[6:], audio_embeddings=embeddings, conditions=["audio"]
    )
    pd.testing.assert_frame_equal(of(table, "audio"), of(alone, "audio"), rtol=1e-4, atol=1e-4)


def test_silence_gives_every_clip_the_same_answer(llm, embeddings) -> None:
    clips = people(9)
    table = evaluate(llm, ASKED, clips[:6], clips[6:], audio_embeddings=embeddings)
    assert (of(table, "silence").groupby("task")["chosen"].nunique() == 1).all()


def test_features_are_heard_by_the_connector_as_it_is(tmp_path) -> None:
    llm, store, _ = tiny.prepared(tmp_path)
    clips = store.clips
    given = conditions.embed_clips(llm, store[[clip.id for clip in clips]])
    pd.testing.assert_frame_equal(
        evaluate(llm, ASKED, clips[:5], clips[5:], store),
        evaluate(llm, ASKED, clips[:5], clips[5:], audio_embeddings=given),
        rtol=1e-4,
    )
    with pytest.raises(ValueError, match="give features, or audio embeddings"):
        evaluate(llm, ASKED, clips[:5], clips[5:])


def test_free_answers_stand_beside_the_ranking_of_their_clips(llm, embeddings) -> None:
    clips = people(9)
    table = evaluate(
        llm,
        ASKED,
        clips[:6],
        clips[6:],
        audio_embeddings=embeddings,
        conditions=["audio", "shuffled", "oracle"],
        free_form=[FreeForm(2, ASKED[:1], 3), FreeForm(1, ASKED[1:], 3)],
    )
    answered = table.dropna(subset=["answer"])
    assert set(answered["condition"]) == {"audio", "shuffled", "oracle"}
    first = answered[answered["task"] == ASKED[0].name]
    assert set(first["clip"]) == {"c0", "c1"}
    text = first.pivot(index="clip", columns="condition", values="answer")
    assert text["shuffled"].tolist() == text["audio"].tolist()[::-1]  # two clips change places
    rest = answered[answered["task"] != ASKED[0].name]
    assert set(rest["clip"]) == {"c0"} and "shuffled" not in set(rest["condition"])
    none = evaluate(llm, ASKED, clips, clips, conditions=["oracle"], free_form=[FreeForm(0, ASKED)])
    assert none["answer"].isna().all()


def test_an_answer_counts_as_said_where_it_is_right_and_obeys(llm) -> None:
    clip = people(1)[0]
    task = next(task for task in task_ladder() if task.name == "json_gender")
    right = clip.attributes["gender"]
    json_answer = judge_answer(task, clip, f'{{"gender": "{right}"}}')
    assert (json_answer["free_form"], json_answer["obeyed"], json_answer["said"]) == (1, 1, 1)
    plain = judge_answer(task, clip, f"The speaker is {right}.")
    assert (plain["free_form"], plain["obeyed"], plain["said"]) == (1, 0, 0)
    free = judge_answer(replace(task, constraint=None), clip, f"The speaker is {right}.")
    assert free["said"] == 1


def test_the_oracle_reads_some_tasks_just_as_it_reads_all(llm) -> None:
    clips = people(3)
    ladder = [task for task in task_ladder() if task.rung in (3, 5)]
    whole = evaluate(llm, ladder, clips, clips, conditions=["oracle"])
    some = evaluate(llm, ASKED, clips, clips, conditions=["oracle"])
    assert set(some["task"]) == {task.name for task in ASKED}
    assert some["chosen"].tolist() == whole.loc[whole["rung"] == 3, "chosen"].tolist()


def test_a_clip_is_not_asked_about_what_is_not_known_of_it(llm) -> None:
    tasks = task_ladder({"mood": ("calm", "angry"), "place": ("in", "out")})
    known = [{"mood": "calm", "place": "in"}, {"place": "out"}, {"mood": "angry"}]
    clips = people(3, lambda i: known[i])
    ranked = evaluate(llm, tasks, clips, clips, conditions=["oracle"], describe=describe_plainly)
    free = answer_free_form(llm, tasks, clips, None, max_new_tokens=2, describe=describe_plainly)
    for table in (ranked, free):
        assert list(table.loc[table["task"] == "ask_mood", "clip"]) == ["c0", "c2"]
    nothing = answer_free_form(llm, tasks, people(1, lambda i: {}), None, 2, describe_plainly)
    assert not len(nothing) and (nothing.dtypes == free.dtypes)[["free_form", "said"]].all()


def test_an_answer_in_words_is_to_the_form_for_words(llm, embeddings) -> None:
    clips, task = people(3), ASKED[0]
    other = replace(task, name="other", question=ASKED[1].question)
    both = [task, other, replace(other, name="told", in_words=task.question)]
    for heard in (None, embeddings[:3]):
        answers = answer_free_form(llm, both, clips, heard, max_new_tokens=6)
        said = answers.pivot(index="clip", columns="task", values="answer")
        assert said["told"].equals(said[task.name].rename("told"))
        assert not said["told"].equals(said["other"].rename("told"))


def test_a_backbones_reading_is_measured_on_every_task(llm, monkeypatch) -> None:
    few = {name: values[:1] for name, values in ATTRIBUTES.items()} | {"rate": ("slow", "fast")}
    monkeypatch.setattr(evaluation, "ATTRIBUTES", few)
    found = oracle_accuracy(llm.backbone)
    assert set(found) == {task.name for task in task_ladder()}
    assert all(value in (0, 0.5, 1) for pair in found.values() for value in pair)
