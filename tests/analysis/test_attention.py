"""Attention read by hooks: it sums to one, it is where it was forced to be, and the backbone is as
it was.
"""

import pytest
import torch

from desta_lab.analysis import attention
from desta_lab.evaluation.tasks import task_ladder
from desta_lab.model.sites import eager_attention
from tests import tiny

TASK = next(task for task in task_ladder() if task.rung == 3)


@pytest.fixture(scope="module")
def states(llm):
    return llm.encoder.encode([tiny.wave(i) for i in range(2)])


def test_every_query_spends_all_its_attention_on_the_clip(llm, states):
    weights = attention.query_attention(llm.connector, states)
    assert weights.shape == (2, 1, 4, 4, 5, 20)  # clip, block, tap, head, query, frame
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    torch.testing.assert_close(
        attention.query_attention_over_time(llm.connector, states).sum(-1), torch.ones(2, 5)
    )


def test_clips_and_taps_are_not_mixed_up(llm, states):
    together = attention.query_attention(llm.connector, states)
    torch.testing.assert_close(
        together[1:], attention.query_attention(llm.connector, states[:, 1:])
    )


def test_attention_forced_to_one_frame_is_found_there(llm, states):
    def force(module, inputs, weights):
        forced = torch.zeros_like(weights)
        forced[..., 7] = 1
        return forced

    hook = llm.connector.blocks[0].cross_attention.softmax.register_forward_hook(force)
    try:
        seen = attention.query_attention_over_time(llm.connector, states)
    finally:
        hook.remove()
    # a hook that records must be set before the one that forces to miss it; here it sees what the
    # module hands on
    assert (seen.argmax(-1) == 7).all()


def test_answer_attention_is_that_of_an_eager_forward_and_sdpa_is_back_afterwards(llm, states):
    before = llm.backbone.model.config._attn_implementation
    with torch.no_grad():
        embeddings = llm.connect(states)
    found = attention.answer_attention(llm, TASK, embeddings, batch=1)
    assert found.weights.shape == (2, 2, 4, 5)  # clip, layer, head, query
    assert ((found.weights >= 0) & (found.weights <= 1)).all()
    assert (found.weights.sum(-1) < 1).all()  # the question and the system prompt get their share
    assert llm.backbone.model.config._attn_implementation == before
    assert found.rollout.shape == (2, 5) and (found.rollout > 0).all()


def test_an_error_inside_eager_puts_the_implementation_back(llm):
    before = llm.backbone.model.config._attn_implementation
    with pytest.raises(RuntimeError, match="inside"), eager_attention(llm.backbone.model):
        assert llm.backbone.model.config._attn_implementation == "eager"
        raise RuntimeError("inside")
    assert llm.backbone.model.config._attn_implementation == before


def test_rollout_of_identity_attention_stays_in_place():
    layers = [torch.eye(4).expand(1, 2, 4, 4)] * 3
    torch.testing.assert_close(attention._rollout(layers), torch.eye(4)[None])
