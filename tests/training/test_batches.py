"""Batches: a position is trained on the next token, padding on none; a prefix changes nothing."""

import pytest
import torch
from torch import nn

from desta_lab.model.chat import (
    SLOT,
    ChatError,
    audio_messages,
    build_stream,
    description_messages,
    encode_text,
)
from desta_lab.training.batches import IGNORE, collate, example_reader
from desta_lab.training.targets import SoftTarget
from tests import tiny

RESPONSES = ("A tone.", "A much longer answer about a tone in the background.", "Yes")


def streams(queries=5, question="What is it?"):
    return [
        build_stream(tiny.tokenizer(), audio_messages(question), queries, response=text)
        for text in RESPONSES
    ]


def test_only_responses_are_learned_each_token_one_position_early():
    every = streams()
    batch = collate(every, pad_id=0)
    for row, one in enumerate(every):
        learned = batch.labels[row] != IGNORE
        assert tuple(batch.labels[row][learned].tolist()) == one.response
        before = batch.ids[row][learned].tolist()
        assert (
            tuple(before) == one.ids[one.start - 1 : -1]
        )  # what the model has read when it must say it


def test_the_shared_prefix_ends_where_the_first_clip_begins():
    batch = collate(streams(), pad_id=0)
    assert batch.prefix == streams()[0].ids[: streams()[0].ids.index(SLOT)]
    assert (batch.ids[:, 0] == SLOT).all()
    assert (batch.ids == SLOT).sum().item() == 3 * 5


def test_without_a_common_prefix_nothing_is_cut_off():
    other = build_stream(
        tiny.tokenizer(), audio_messages("What?", system="Listen."), 5, response="Yes"
    )
    batch = collate([*streams(), other], pad_id=0)
    assert batch.prefix == ()
    assert tuple(batch.ids[3, : len(other.ids)].tolist()) == other.ids


def test_streams_without_audio_have_no_prefix():
    one = build_stream(
        tiny.tokenizer(), description_messages("A dog.", "What?"), 0, response="A dog."
    )
    batch = collate([one], pad_id=0)
    assert batch.prefix == ()
    assert tuple(batch.labels[batch.labels != IGNORE].tolist()) == one.response


@pytest.fixture
def teacher():
    """Text streams, padded on the right, of which transformers computes the loss itself."""
    llm = tiny.backbone()
    every = [
        build_stream(llm.tokenizer, description_messages("A dog.", "What?"), 0, response=text)
        for text in RESPONSES
    ]
    longest = max(len(s.ids) for s in every)
    ids = torch.full((3, longest), llm.pad_id)
    labels = torch.full((3, longest), IGNORE)
    for row, one in enumerate(every):
        ids[row, : len(one.ids)] = torch.tensor(one.ids)
        labels[row, one.start : len(one.ids)] = torch.tensor(one.response)
    with torch.no_grad():
        expected = llm.model(
            input_ids=ids, labels=labels
        ).loss  # transformers shifts these labels itself
    return llm, collate(every, llm.pad_id), expected


def test_the_loss_is_the_one_transformers_computes(teacher):
    llm, batch, expected = teacher
    at = batch.labels != IGNORE
    with torch.no_grad():
        logits = llm.logits(llm.hidden_states(llm.embed(batch.ids))[at])
    torch.testing.assert_close(nn.functional.cross_entropy(logits, batch.labels[at]), expected)


@pytest.mark.parametrize("shift", [-1, 1])
def test_labels_off_by_one_would_be_seen(teacher, shift):
    llm, batch, expected = teacher
    wrong = batch.labels.roll(shift, dims=1)
    at = wrong != IGNORE
    with torch.no_grad():
        logits = llm.logits(llm.hidden_states(llm.embed(batch.ids))[at])
    assert abs(nn.functional.cross_entropy(logits, wrong[at]) - expected) > 0.1


@pytest.mark.parametrize("kind", ["llama", "qwen2", "neox"])
def test_the_prefix_read_once_gives_the_same_logits_and_gradients(kind):
    llm = tiny.audio_llm(kind, dropout=0.0).double()
    batch = collate(streams(llm.queries), llm.backbone.pad_id)
    at = batch.labels != IGNORE
    states = torch.randn(
        4, 3, 20, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )

    def step(prefix, ids, at):
        llm.connector.zero_grad()
        logits = llm.response_logits(prefix, ids, at, llm.connector(states))
        nn.functional.cross_entropy(logits, batch.labels[batch.labels != IGNORE]).backward()
        return logits.detach(), {
            name: p.grad.clone() for name, p in llm.connector.named_parameters()
        }

    blank = torch.zeros(3, len(batch.prefix), dtype=torch.bool)
    front = torch.tensor([batch.prefix] * 3)
    plain, expected = step((), torch.cat([front, batch.ids], dim=1), torch.cat([blank, at], dim=1))
    for _ in range(2):  # the second time the prefix is found kept
        shared, gradients = step(batch.prefix, batch.ids, at)
        torch.testing.assert_close(shared, plain, atol=1e-10, rtol=0)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected[name], atol=1e-10, rtol=1e-8)
    assert all(gradient.abs().max() > 0 for gradient in expected.values())


def test_the_ids_of_a_target_are_learned_by_their_own_backbone_alone():
    llm, (row, *_) = tiny.audio_llm(), [{"id": "a", "messages": audio_messages("What?")}]
    tokenizer = llm.backbone.tokenizer
    ids = tuple(i for letter in "system" for i in encode_text(tokenizer, letter))
    row |= {"response": "system", "response_ids": ids}
    for revision, learned in ((llm.provenance["backbone_sha256"], ids), ("other", None)):
        about = {"revision": revision, "truncated": False}
        stream = example_reader(llm, [row | {"provenance": about}], None, 1)(0).stream
        assert (stream.response == ids) is (learned is not None)


def test_a_row_without_anything_to_learn_or_with_anothers_soft_target_is_named():
    llm = tiny.audio_llm()
    row = {"id": "a", "messages": audio_messages("What?"), "response": "", "provenance": None}
    cut = row | {"id": "b", "provenance": {"truncated": True}}
    read = example_reader(llm, [row, cut], None, 2)
    assert len(read(0).stream.response) == 1  # the end of turn
    with pytest.raises(ChatError, match=r"Example 2 \(b\): its response is empty and was cut off"):
        read(1)
    soft = SoftTarget(torch.zeros(3, 1, dtype=torch.int32), torch.zeros(3, 1))
    with pytest.raises(ChatError, match="it learns 1 tokens and its soft target has 3; write"):
        example_reader(llm, [row], [soft], 1)(0)
    with pytest.raises(ValueError, match="There are 2 rows and 1 soft targets; give one for each"):
        example_reader(llm, [row, cut], [soft], 2)
    with pytest.raises(ValueError, match="no rows to train on"):
        example_reader(llm, [], None, 1)
