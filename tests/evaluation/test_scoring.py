"""Ranking in one forward gives what one per option gives, and calibrates on other clips."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from desta_lab.clips import Clip
from desta_lab.evaluation import scoring
from desta_lab.evaluation.tasks import Task, task_ladder
from tests import tiny


@pytest.fixture(scope="module")
def llm():
    return tiny.audio_llm()


@pytest.mark.parametrize("kind", ["llama", "qwen2", "mistral", "gemma2"])  # two with a window of 8
def test_one_forward_for_all_tasks_equals_one_forward_per_option(kind: str) -> None:
    llm = tiny.audio_llm(kind)
    embeddings = torch.randn(3, llm.queries, tiny.WIDTH, generator=torch.Generator().manual_seed(0))
    tasks = task_ladder()
    together, alone = (
        scoring.score_options(llm, tasks, embeddings, batch=2),
        scoring.score_options_one_by_one(llm, tasks, embeddings),
    )
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_options_without_a_stem_follow_the_question_also_of_one_task_alone(llm) -> None:
    embeddings = torch.randn(2, llm.queries, tiny.WIDTH, generator=torch.Generator().manual_seed(0))
    tasks = [replace(task, stem="") for task in task_ladder()[:2]]
    assert tasks[0].question == tasks[1].question
    for asked in (tasks[:1], tasks):
        slowly = scoring.score_options_one_by_one(llm, asked, embeddings)
        for a, b in zip(scoring.score_options(llm, asked, embeddings), slowly, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
        assert len(scoring.score_options_of_text(llm.backbone, asked, ["A clip."])) == len(asked)


def test_transcripts_of_any_length_stand_behind_their_own_clip(llm) -> None:
    embeddings = torch.randn(3, llm.queries, tiny.WIDTH, generator=torch.Generator().manual_seed(0))
    words, tasks = ["one", "a much longer sentence about rain and birds", ""], task_ladder()[:8]
    together = scoring.score_options(llm, tasks, embeddings, batch=2, transcripts=words)
    for a, b in zip(
        together, scoring.score_options_one_by_one(llm, tasks, embeddings, words), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    mute = scoring.score_options(llm, tasks, embeddings)
    assert torch.allclose(mute[0][2], together[0][2], atol=1e-4) and not torch.allclose(
        mute[0][1], together[0][1]
    )


def test_text_view_does_not_depend_on_which_descriptions_share_a_batch(llm) -> None:
    texts = [
        "A short one.",
        "A much longer description of a clip, with rain in the background, said at length.",
    ]
    tasks = task_ladder()[:8]
    both = scoring.score_options_of_text(llm.backbone, tasks, texts)
    single = [scoring.score_options_of_text(llm.backbone, tasks, [text]) for text in texts]
    for i, task in enumerate(both):
        torch.testing.assert_close(
            task, torch.cat([single[0][i], single[1][i]]), rtol=1e-4, atol=1e-4
        )


def test_a_trie_computes_every_shared_beginning_once() -> None:
    trie = scoring.Trie()
    paths = [trie.add([1, 2, 3]), trie.add([1, 2, 4]), trie.add([5])]
    assert len(trie.tokens) == 5
    assert paths[0][:2] == paths[1][:2]
    assert trie.mask()[paths[1][2]].nonzero().flatten().tolist() == paths[1]


TWO = Task("t", 3, "gender", "Who?", "A", {"female": " woman", "male": " man"})


def clips_of(task: Task, values: list[str]) -> list[Clip]:
    return [Clip(f"c{i}", "", 1.0, "", "s", {task.attribute: v}) for i, v in enumerate(values)]


def judge(
    task: Task,
    values: list[str],
    score: torch.Tensor,
    others: torch.Tensor,
    known: list[str] | None = None,
    content_free: torch.Tensor | None = None,
):
    """`known` are the values of the clips that calibrate; by default each in turn."""
    turns = list(itertools.islice(itertools.cycle(task.options), len(others)))
    calibration = scoring.Calibration(
        clips_of(task, turns if known is None else known),
        [others],
        None if content_free is None else lambda: [content_free],
    )
    return scoring.judge_scores(
        tiny.tokenizer(), [task], clips_of(task, values), [score], calibration
    )


def test_a_favourite_option_hides_what_calibration_shows() -> None:
    one = Task("t", 3, "gender", "Who?", "A", {"female": " a", "male": " b"})
    # always prefers the first, less so for men
    score = torch.tensor([[-1.0, -5.0], [-1.5, -4.5]] * 4)
    table = judge(one, ["female", "male"] * 4, score, score + 1)
    assert table["raw"].mean() == 0.5
    assert table["calibrated"].mean() == 1.0


def test_the_margin_is_above_zero_where_the_calibrated_choice_is_right() -> None:
    three = Task(
        "t", 3, "accent", "Where?", "A", {"American": " a", "Scottish": " b", "Caribbean": " c"}
    )
    draw = torch.Generator().manual_seed(0)
    score, other = torch.randn(40, 3, generator=draw), torch.randn(9, 3, generator=draw)
    table = judge(three, ["American", "Scottish", "Caribbean", "Scottish"] * 10, score, other)
    assert table["calibrated"].nunique() == 2
    assert ((table["margin"] > 0) == (table["calibrated"] == 1)).all()
    by_hand = score[0] - other.mean(0)  # three clips of each value
    assert table["margin"][0] == pytest.approx(float(by_hand[0] - by_hand[1:].max()))


def test_calibration_never_reads_the_clips_it_scores() -> None:
    score = torch.tensor([[-1.0, -1.1]])
    for others, right in (([[0.0, -3.0]], 1.0), ([[-3.0, 0.0]], 0.0)):
        table = judge(TWO, ["male"], score, torch.tensor(others * 2))
        assert table["calibrated"].tolist() == [right]


def test_a_set_of_four_women_to_one_man_calibrates_as_a_balanced_one_does() -> None:
    draw = np.random.default_rng(0)

    def hear(women: int, men: int) -> tuple[list[str], torch.Tensor]:
        """Scores that prefer women by 2 nats and tell a voice by 2 nats, with noise of 0.7."""
        values = ["female"] * women + ["male"] * men
        told = np.array([[1.0, -1.0] if value == "female" else [-1.0, 1.0] for value in values])
        score = told + np.array([1.0, -1.0]) + draw.normal(0, 0.5, told.shape)
        return values, torch.tensor(score, dtype=torch.float32)

    def accuracy(women: int, men: int) -> float:
        known, others = hear(women, men)
        return judge(TWO, *hear(500, 500), others, known)["calibrated"].mean()

    balanced, uneven = accuracy(200, 200), accuracy(320, 80)
    _, others = hear(320, 80)
    values, score = hear(500, 500)
    plain = (score - others.mean(0)).argmax(1) == torch.tensor([v == "male" for v in values]).int()
    assert balanced > 0.99
    assert abs(uneven - balanced) < 0.01
    assert plain.float().mean() < 0.97  # what weighing clips alike would give


def test_a_value_that_no_other_speaker_has_is_calibrated_with_what_says_nothing() -> None:
    score, others = torch.tensor([[-1.0, -1.5]]), torch.tensor([[-1.0, -1.0]] * 3)
    silence = torch.tensor([[-1.0, -2.0]])
    table = judge(TWO, ["male"], score, others, ["female"] * 3, silence)
    assert table["calibrated"].tolist() == [1.0]
    assert table["margin"].tolist() == [0.5]
    with pytest.raises(ValueError, match="task t: no clip to calibrate with is gender = male; add"):
        judge(TWO, ["male"], score, others, ["female"] * 3)


def test_what_says_nothing_is_scored_once_for_all_tasks_that_lack_a_value() -> None:
    asked = []

    def score_nothing() -> list[torch.Tensor]:
        asked.append("once")
        return [torch.tensor([[-1.0, -2.0]])] * 2

    others = torch.tensor([[-1.0, -1.0]])
    known = scoring.Calibration(clips_of(TWO, ["female"]), [others, others], score_nothing)
    assert known.prior(0, TWO).tolist() == known.prior(1, TWO).tolist() == [-1.0, -2.0]
    assert asked == ["once"]


def test_clips_that_lack_the_attribute_do_not_calibrate_it() -> None:
    clips = [*clips_of(TWO, ["female", "male"]), Clip("x", "", 1.0, "", "s", {})]
    others = torch.tensor([[0.0, -2.0], [-2.0, 0.0], [90.0, -90.0]])
    assert scoring.Calibration(clips, [others]).prior(0, TWO).tolist() == [-1.0, -1.0]


def test_raw_ranking_divides_by_the_length_of_an_option() -> None:
    long = Task("t", 3, "gender", "Who?", "A", {"female": " xyz", "male": "z"})
    lengths = scoring.option_lengths(tiny.tokenizer(), long)
    assert lengths[0] >= 2 * lengths[1]
    score = torch.tensor([[-3.0, -2.0]])
    assert judge(long, ["female"], score, score.repeat(2, 1))["raw"].tolist() == [1.0]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_log_probability_that_is_not_finite_is_refused_with_its_task_and_clip(value) -> None:
    good = torch.tensor([[-1.0, -2.0]] * 2)
    bad = good.clone()
    bad[1, 0] = value
    said = r"task t.*: 1 of 2 clips have a log-probability that is not finite, the first is row 1"
    for score, others in ((bad, good), (good, bad)):
        with pytest.raises(ValueError, match=said):
            judge(TWO, ["male", "female"], score, others)
    with pytest.raises(ValueError, match="task t: no clip to calibrate with"):
        judge(TWO, ["male", "female"], good, good[:0])
