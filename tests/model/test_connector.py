"""The connector: the published sizes, a birth at the right size, attention in both directions."""

import pytest
import torch
from torch import nn

from desta_lab.model.connector import Attention, FrameStack, QFormer


@pytest.mark.parametrize(
    ("sizes", "trainable"),
    [
        (
            {"d_enc": 1280, "d_llm": 4096},
            131_540_224,
        ),  # DeSTA2.5: Whisper large-v3, Llama-3.1-8B, the defaults
        (
            {"d_enc": 768, "d_llm": 4096, "depth": 2, "heads": 12},
            22_251_776,
        ),  # DeSTA2: Whisper small, Llama-3-8B
        (
            {"d_enc": 384, "d_llm": 1024, "depth": 2, "heads": 6},
            7_589_120,
        ),  # Whisper tiny, Qwen3-0.6B
    ],
)
def test_it_has_as_many_parameters_as_the_published_one(sizes, trainable):
    with torch.device("meta"):
        connector = QFormer(taps=4, **sizes)
    assert sum(p.numel() for p in connector.parameters()) == trainable
    assert connector.query_tokens.shape == (4, 64, sizes["d_enc"])


def test_published_query_tokens_are_born_standard_normal():
    torch.manual_seed(0)
    tokens = QFormer(taps=4, d_enc=64, d_llm=48, depth=1, heads=4).query_tokens
    assert abs(tokens.std().item() - 1) < 0.05


# ---- what it computes ----


def small(**how) -> QFormer:
    torch.manual_seed(0)
    sizes = {
        "taps": 3,
        "d_enc": 32,
        "d_llm": 24,
        "queries": 4,
        "depth": 2,
        "heads": 4,
        "ffn": 48,
        "dropout": 0.0,
    }
    return QFormer(**{**sizes, **how}).eval()


STATES = torch.randn(3, 2, 10, 32, generator=torch.Generator().manual_seed(2))


def test_attention_is_that_of_torch():
    torch.manual_seed(0)
    own = Attention(16, 4, 16, 0.0)
    reference = nn.MultiheadAttention(16, 4, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(
            torch.cat([own.query.weight, own.key.weight, own.value.weight])
        )
        reference.in_proj_bias.copy_(torch.cat([own.query.bias, own.key.bias, own.value.bias]))
        reference.out_proj.load_state_dict(own.out.state_dict())
    queries, frames = torch.randn(2, 5, 16), torch.randn(2, 9, 16)
    torch.testing.assert_close(own(queries, frames), reference(queries, frames, frames)[0])


@pytest.mark.parametrize("form", [{}, {"width": 16, "post_norm": False}])
def test_queries_attend_to_each_other_in_both_directions(form):
    connector = small(**form)
    before = connector(STATES)
    for changed, watched in ((3, 0), (0, 3)):
        other = small(**form)
        with torch.no_grad():
            other.query_tokens[:, changed] = -other.query_tokens[:, changed]
        assert (other(STATES) - before)[:, watched].abs().max() > 1e-4


def test_the_mixture_is_even_at_birth_and_its_rows_sum_to_one():
    connector = small()
    torch.testing.assert_close(connector.mixture(), torch.full((4, 3), 1 / 3))
    with torch.no_grad():
        connector.layer_weights.normal_()
    torch.testing.assert_close(connector.mixture().sum(-1), torch.ones(4))


def test_a_query_whose_mixture_is_one_layer_hears_that_layer_alone():
    connector = small()
    with torch.no_grad():
        connector.layer_weights[0] = torch.tensor([0.0, 100.0, 0.0])
    other = STATES.clone()
    other[[0, 2]] += 1.0
    change = (connector(other) - connector(STATES)).abs().amax((0, 2))
    assert change[0] < 1e-6
    assert change[1] > 1e-3


def test_one_tapped_layer_leaves_nothing_to_mix():
    connector = small(taps=1)
    connector(STATES[:1]).sum().backward()
    assert connector.mixture().tolist() == [[1.0]] * 4
    assert not connector.layer_weights.requires_grad


def test_clips_of_a_batch_do_not_mix():
    connector = small(width=16)
    torch.testing.assert_close(connector(STATES[:, 1:]), connector(STATES)[1:])


def test_it_is_born_saying_its_anchor_and_a_little_more():
    scale = 0.05
    anchor = torch.randn(4, 24) * scale
    connector = small(width=16, post_norm=False, scale=scale, anchor=anchor)
    more = connector(STATES) - anchor
    rms = more.pow(2).mean().sqrt().item()
    assert 0.1 * scale < rms < scale
    assert 0.5 * scale < connector(STATES).pow(2).mean().sqrt().item() < 2 * scale
    assert connector.anchor.requires_grad
    assert connector.anchor.data_ptr() != anchor.data_ptr()


def test_without_an_anchor_the_scale_sets_the_size_of_the_output():
    plain, scaled = small(), small(scale=0.02)
    torch.testing.assert_close(scaled(STATES), 0.02 * plain(STATES))


def test_an_anchor_of_another_length_is_refused():
    with pytest.raises(
        ValueError, match="The anchor has 5 tokens, the connector 4 queries; make them equal"
    ):
        small(anchor=torch.zeros(5, 24))


def test_dropout_acts_in_training_alone():
    connector = small(dropout=0.5)
    assert torch.equal(connector(STATES), connector(STATES))
    connector.train()
    assert not torch.equal(connector(STATES), connector(STATES))


# ---- the comparison ----


def test_stacked_frames_become_as_many_embeddings_as_asked_for():
    stack = FrameStack(d_enc=32, d_llm=24, queries=3, stack=2, hidden=16)
    assert stack(STATES).shape == (2, 3, 24)
    assert FrameStack(d_enc=32, d_llm=24, queries=8, stack=4, hidden=16)(STATES).shape == (
        2,
        8,
        24,
    )  # fewer frames


def test_stacked_frames_hear_the_last_tapped_layer_in_order_of_time():
    stack = FrameStack(d_enc=32, d_llm=24, queries=5, stack=2, hidden=16)
    early = STATES.clone()
    early[0] += 1.0
    assert torch.equal(stack(early), stack(STATES))
    late = STATES.clone()
    late[-1, :, -1] += 1.0  # the last of ten frames belongs to the last of five queries
    changed = (stack(late) - stack(STATES)).abs().amax((0, 2))
    assert changed[:-1].max() < 1e-6 < changed[-1]
