"""Interventions: an edit does what its name says, and a patch is held against its null."""

import numpy as np
import pytest
import torch

from desta_lab.analysis import interventions
from desta_lab.analysis.interventions import add, erase, only, set_to
from desta_lab.evaluation import scoring
from desta_lab.evaluation.tasks import task_ladder
from desta_lab.model.sites import apply_edits
from tests import tiny

FLOW = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0))
WAVES = [tiny.wave(i) for i in range(6)]
TASK = next(task for task in task_ladder() if task.name == "ask_scene")


def test_an_edit_is_what_its_name_says():
    direction = torch.tensor([1.0, 0, 0, 0])
    assert not set_to(0)(FLOW).any()
    assert torch.equal(set_to(FLOW[:1])(FLOW), FLOW[:1].expand_as(FLOW))
    assert torch.equal(add(direction, 2)(FLOW), FLOW + 2 * direction)
    erased = erase(3 * direction)(FLOW)
    torch.testing.assert_close(erased[..., 0], torch.zeros(2, 5, 3))
    torch.testing.assert_close(erased[..., 1:], FLOW[..., 1:])


@pytest.mark.parametrize("heads", [None, [0, 2]])
def test_an_edit_can_be_kept_to_places_and_heads(heads):
    edited = only(set_to(0), [1, 4], heads)(FLOW)
    changed = (edited != FLOW).any(-1)
    expected = torch.zeros(2, 5, 3, dtype=torch.bool)
    for place in (1, 4):
        expected[:, place, heads or slice(None)] = True
    assert torch.equal(changed, expected)


def first_letters(task):
    """The tiny tokenizer knows bytes: without their common blank the options begin differently."""
    from dataclasses import replace

    return replace(task, options={"a": "alpha", "b": "beta", "c": "gamma"})


def test_all_of_the_stream_at_the_answer_moves_all_of_the_way():
    """At the last layer the answer's own place decides alone; a clip put into itself does not."""
    llm, task = tiny.audio_llm(dropout=0.0), first_letters(TASK)
    values = ["a", "b", "a", "b", "c", "c"]
    triples = [(0, 1, 2), (1, 0, 3), (4, 0, 5)]
    patched = interventions.patch_sites(
        llm, task, WAVES, values, triples, ["backbone.1", "backbone.0.attention.heads"]
    )
    last = patched[(patched["site"] == "backbone.1") & (patched["place"] == "answer")]
    np.testing.assert_allclose(last["shift"], last["whole"], atol=1e-4)
    audio = patched[(patched["site"] == "backbone.1") & (patched["place"] == "audio")]
    np.testing.assert_allclose(audio["shift"], 0, atol=1e-4)  # nothing reads it any more
    heads = patched[patched["site"] == "backbone.0.attention.heads"]
    assert sorted(set(heads["head"])) == [0, 1, 2, 3]
    assert len(patched) == 3 * 2 * (1 + 4)
    summary = interventions.summarise_patches(patched)
    assert len(summary) == 10
    moved = summary.set_index(["site", "place"])["moved"]["backbone.1", "answer"]
    assert moved.item() == pytest.approx(1, abs=1e-3)


def test_triples_that_are_no_contrast_are_refused():
    llm, task = tiny.audio_llm(dropout=0.0), first_letters(TASK)
    for triple in ((0, 2, 2), (0, 1, 0), (0, 1, 1)):
        with pytest.raises(ValueError, match="the second must differ from the first"):
            interventions.patch_sites(llm, task, WAVES, ["a", "b", "a"], [triple], ["backbone.0"])


def test_knocked_out_heads_put_out_nothing_and_others_stay():
    llm = tiny.audio_llm(dropout=0.0)
    site = "backbone.1.attention.heads"
    plain = llm.run(WAVES, "?", sites=[site])
    silent = llm.run(WAVES, "?", sites=[site], edits=interventions.knock_out([(1, 0), (1, 2)]))
    assert not silent[site][:, :, [0, 2]].any()
    torch.testing.assert_close(silent[site][:, :, [1, 3]], plain[site][:, :, [1, 3]])
    assert (silent.logits != plain.logits).any()


@pytest.mark.parametrize("words", [None, ["hello", "a few words more", "", "no"]])
def test_without_what_clips_make_of_all_heads_all_clips_are_answered_alike(words):
    """Means are of each token behind the clip, whatever stands before it."""
    llm, tasks = tiny.audio_llm(dropout=0.0), [TASK]
    embeddings = llm.encode_audio(WAVES[:4])
    means = interventions.mean_heads(llm, tasks, embeddings, words, batch=3)
    plain = scoring.score_options(llm, tasks, embeddings, 3, words)[0]
    heads = [(layer, head) for layer in range(2) for head in range(4)]
    for some, alike in (([], False), (heads, True)):
        with apply_edits(llm, interventions.knock_out(some, means)):
            (scores,) = scoring.score_options(llm, tasks, embeddings, 3, words)
        assert torch.allclose(scores, scores[:1].expand_as(scores), atol=1e-3) == alike
        assert torch.allclose(scores, plain, atol=1e-4) != alike
    torch.testing.assert_close(scoring.score_options(llm, tasks, embeddings, 3, words)[0], plain)


def test_only_sites_of_the_backbone_are_edited_outside_a_run():
    llm = tiny.audio_llm(dropout=0.0)
    edits = {"encoder.0": set_to(0)}
    with pytest.raises(ValueError, match="is no site of the backbone"), apply_edits(llm, edits):
        pass
