"""Interventions: an edit does what its name says, and a patch is held against its null."""

import numpy as np
import pytest
import torch

from desta_lab.analysis import interventions
from desta_lab.analysis.interventions import add, erase, only, set_to
from desta_lab.evaluation.tasks import task_ladder
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
