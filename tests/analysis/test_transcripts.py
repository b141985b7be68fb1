"""Words behind the audio embeddings reach every analysis; the reference asks clip by clip."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from desta_lab.analysis import attention, attribution, interventions, lens, probe_sites
from desta_lab.evaluation import scoring
from desta_lab.evaluation.tasks import task_ladder
from tests import tiny

TASKS = [replace(task, options={"a": "alpha", "b": "beta"}) for task in task_ladder()[-2:]]
TASK, VALUES = TASKS[0], ["a", "b", "a", "b"]
WORDS = ["hello", "", "a much longer sentence with many words", "hello there"]
WAVES = [tiny.wave(i) for i in range(4)]


@pytest.fixture(scope="module")
def states(llm):
    return llm.encoder.encode(WAVES)


@pytest.fixture(scope="module")
def embeddings(llm, states):
    with torch.no_grad():
        return llm.connect(states)


def alone(llm, row: int, sites: list[str]):
    return llm.run([WAVES[row]], TASK.question, sites=sites, transcripts=[WORDS[row]])


def test_captured_sites_are_those_of_each_clip_with_its_own_words(llm, states, embeddings):
    sites = probe_sites.capture_sites(llm, TASKS, states.split(3, dim=1), WORDS)
    right = scoring.score_options_one_by_one(llm, TASKS, embeddings, WORDS)
    for task, scores in zip(TASKS, right, strict=True):
        torch.testing.assert_close(
            sites[f"scores {task.name}"].float(), scores, atol=2e-2, rtol=1e-2
        )
    mute = probe_sites.capture_sites(llm, TASKS, [states])
    assert (mute[f"scores {TASK.name}"] - sites[f"scores {TASK.name}"]).abs().max() > 0.1
    for row in range(4):
        own = alone(llm, row, ["backbone.1"]).at_slots("backbone.1")
        pooled = probe_sites.pool_over_time(own)[0]
        torch.testing.assert_close(sites["slots 1"][row].float(), pooled, atol=2e-2, rtol=1e-2)


def test_attention_of_the_answer_is_that_of_each_clip_with_its_own_words(llm, embeddings):
    found = attention.answer_attention(llm, TASK, embeddings, batch=3, transcripts=WORDS)
    for row in range(4):
        how = {"transcripts": [WORDS[row]], "stem": TASK.stem}
        one = llm.run([WAVES[row]], TASK.question, sites=["backbone.*.pattern"], **how)
        own = torch.stack([one[site][0, :, -1, one.slots[0]] for site in one.sites])
        torch.testing.assert_close(found.weights[row], own.float(), atol=1e-5, rtol=1e-4)
        single = attention.answer_attention(
            llm, TASK, embeddings[row : row + 1], transcripts=[WORDS[row]]
        )
        torch.testing.assert_close(found.rollout[row], single.rollout[0], atol=1e-5, rtol=1e-4)


def test_margins_and_their_cases_hold_the_words(llm, embeddings):
    (scores,) = scoring.score_options_one_by_one(llm, [TASK], embeddings, WORDS)
    right = torch.tensor([0, 1, 0, 1])
    margins = scores.gather(1, right[:, None]) - scores.gather(1, 1 - right[:, None])
    margin = attribution.answer_margin(llm, TASK, VALUES, WORDS)
    twice = margin(torch.cat([embeddings, embeddings])).detach()
    torch.testing.assert_close(twice, margins[:, 0].repeat(2), atol=1e-4, rtol=1e-4)
    queries = attribution.query_cases(llm, TASK, VALUES, embeddings, WORDS)
    windows = attribution.window_cases(llm, TASK, VALUES, WAVES, 0.2, WORDS)
    for cases in (queries, windows):
        whole = [case.evaluate(torch.ones(1, case.part_count).bool())[0] for case in cases]
        torch.testing.assert_close(torch.stack(whole), margins[:, 0], atol=1e-4, rtol=1e-4)


def test_a_patched_clip_keeps_its_own_words(llm, embeddings):
    patched = lens.patch_queries(
        llm, [TASK], embeddings, [{TASK.attribute: v} for v in VALUES], [(0, 1)], transcripts=WORDS
    )
    both = torch.stack([embeddings[0], embeddings[1]])
    (scores,) = scoring.score_options_one_by_one(llm, [TASK], both, [WORDS[1]] * 2)
    margin = scores[:, 0] - scores[:, 1]
    whole = patched.set_index("query").loc[-1, "whole"]
    assert whole == pytest.approx(float(margin[0] - margin[1]), abs=1e-4)


@pytest.mark.parametrize("words", [None, WORDS])
def test_what_flows_is_put_to_the_same_place_of_a_clip_with_other_words(llm, words):
    triples = [(2, 1, 0), (0, 3, 2)]
    sites = ["backbone.1", "backbone.0.attention.heads"]
    together = interventions.patch_sites(
        llm, TASK, WAVES, VALUES, triples, sites, transcripts=words
    )
    for number, triple in enumerate(triples):  # three clips, of which one has no padding
        rows = [triple[0], triple[1], triple[2]]
        one = interventions.patch_sites(
            llm,
            TASK,
            [WAVES[row] for row in rows],
            [VALUES[row] for row in rows],
            [(0, 1, 2)],
            sites,
            transcripts=words and [words[row] for row in rows],
        )
        own = together[together["triple"] == number]
        for column in ("shift", "same", "whole"):
            np.testing.assert_allclose(own[column], one[column], atol=1e-4)
    last = together[(together["site"] == "backbone.1") & (together["place"] == "answer")]
    np.testing.assert_allclose(last["shift"], last["whole"], atol=1e-4)


def test_a_head_is_knocked_out_at_each_clips_own_slots(llm):
    plain = llm.run(WAVES, TASK.question, sites=["backbone.0.attention.heads"], transcripts=WORDS)
    silent = interventions.only(interventions.set_to(0), plain.slots, heads=[2])
    site = "backbone.0.attention.heads"
    how = {"sites": [site], "edits": {site: silent}, "transcripts": WORDS}
    edited = llm.run(WAVES, TASK.question, **how)
    changed = (edited[site] != plain[site]).any(-1)
    expected = torch.zeros_like(changed)
    expected[torch.arange(4)[:, None], plain.slots, 2] = True
    assert torch.equal(changed, expected)
    with pytest.raises(ValueError, match="positions of 4 clips and a batch of 3; run as many"):
        llm.run(WAVES, TASK.question, batch=3, **how)


def test_a_contrast_has_two_values_of_which_one_stands_twice():
    triples = interventions.draw_triples(["a", "b", "a", "c"])
    assert [(target, same) for target, _, same in triples] == [(0, 2), (2, 0)]
    assert {source for _, source, _ in triples} <= {1, 3}
    with pytest.raises(ValueError, match="2 clips with the values a, b make no contrast"):
        interventions.draw_triples(["a", "b"])


def test_more_transcripts_than_clips_are_refused(llm, embeddings):
    with pytest.raises(ValueError, match="4 clips and 3 transcripts; give one for each"):
        scoring.score_options(llm, TASKS, embeddings, transcripts=WORDS[:3])
