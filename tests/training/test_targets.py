"""Targets: written by the backbone itself, never leaking, with their uncertainty in few numbers."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from desta_lab.clips import Clip
from desta_lab.model import chat
from desta_lab.training import targets
from desta_lab.training.targets import Target, TargetError, generate_targets, kl_loss
from desta_lab.world.attributes import ATTRIBUTES
from desta_lab.world.describe import describe, surface_words
from tests import tiny

PROMPT = "Paraphrase the description."
REVISION = "b" * 64


def clip(number: int) -> Clip:
    return Clip(f"c{number}", f"{number}.wav", 1.0, "", "s", tiny.attributes(number))


def written(llm, pairs, **how):
    return generate_targets(llm, "tiny", REVISION, pairs, **{"max_new_tokens": 6, **how})


OWN = Target("A dog barks.", PROMPT, "A tone.", "self", "tiny", REVISION, "greedy")


def target(response: str = OWN.response, description: str = OWN.description, **how) -> Target:
    return replace(OWN, response=response, description=description, **how)


@pytest.fixture(scope="module")
def llm():
    return tiny.backbone()


# ---- self-generated ----


def test_equal_pairs_are_answered_once_and_by_the_backbone_itself(llm, monkeypatch):
    asked = []
    generate_ids = type(llm).generate_ids

    def counting(self, streams, *rest):
        asked.extend(streams)
        return generate_ids(self, streams, *rest)

    monkeypatch.setattr(type(llm), "generate_ids", counting)
    pairs = [(describe(tiny.attributes(i % 3)), PROMPT) for i in range(9)]
    told = []
    answers = written(llm, pairs, batch=2, progress=lambda *news: told.append(news))
    assert len(asked) == len(answers) == 3
    assert told == [(2, 3), (3, 3)]
    for description, prompt in pairs:
        answer = answers[description, prompt]
        ids = generate_ids(
            llm,
            [chat.build_stream(llm.tokenizer, chat.description_messages(description, prompt), 0)],
            6,
        )[0]
        assert answer.response == llm.decode(ids)
        assert (answer.kind, answer.writer, answer.revision) == ("self", "tiny", REVISION)
        assert answer.decoding == "greedy, 6 tokens"


def test_an_answer_that_was_cut_off_is_marked_and_trained_without_an_end(llm):
    pair = ("A dog barks.", PROMPT)
    cut = written(llm, [pair])[pair]
    assert cut.truncated
    end = chat.build_stream(llm.tokenizer, chat.description_messages(*pair), 0)
    first = llm.generate_ids([end], 6)[0][0]
    whole = tiny.backbone()
    whole.model.generation_config.eos_token_id = first  # now the first token ends the turn
    assert not written(whole, [pair])[pair].truncated

    row = targets.training_row("c0", cut, "tones")
    stream = chat.build_stream(
        llm.tokenizer, row["messages"], 3, response="a b", truncated=row["provenance"]["truncated"]
    )
    assert llm.tokenizer.eos_token_id not in stream.response


# ---- rows ----


def test_a_row_has_the_columns_of_desta_aqa5m_and_its_provenance():
    row = targets.training_row("c0", target(truncated=True), "tones")
    assert list(row) == [
        "id",
        "dataset",
        "seed_description",
        "prompt",
        "response",
        "messages",
        "provenance",
    ]
    assert row["provenance"] == {
        "kind": "self",
        "writer": "tiny",
        "revision": REVISION,
        "decoding": "greedy",
        "truncated": True,
    }
    assert (row["id"], row["dataset"], row["seed_description"]) == ("c0", "tones", "A dog barks.")
    assert row["messages"] == chat.audio_messages(PROMPT)


@pytest.mark.parametrize(
    "prompt",
    ["A dog barks. What?", "Rewrite: a dog  barks", "Rewrite “A DOG\nBARKS!” in other words."],
)
def test_a_description_in_the_prompt_is_a_leak(prompt):
    with pytest.raises(
        TargetError, match="c0: the description leaks into the training prompt; change the prompt"
    ):
        targets.training_row("c0", target(prompt=prompt), "tones")


def test_no_training_prompt_says_anything_of_the_description():
    tokenizer = tiny.tokenizer()
    for number in range(12):
        one = clip(number)
        for made in (
            target(description=describe(one.attributes)),
            targets.template_target(one, PROMPT),
            targets.label_target(one, "scene", "What is in the background?"),
        ):
            row = targets.training_row(one.id, made, "tones")
            stream = chat.build_stream(tokenizer, row["messages"], 3, response=row["response"])
            read = tokenizer.decode(
                [i for i in stream.ids[: stream.start] if i != chat.SLOT]
            ).lower()
            words = {word.strip(".,!?:<>_|") for word in read.split()}
            for name, values in ATTRIBUTES.items():
                for value in values:
                    assert not words & set(surface_words(name, value)), name


def test_label_and_template_say_what_the_clip_is():
    one = clip(1)
    bare = targets.label_target(one, "scene", "What is in the background?")
    assert (bare.response, bare.kind, bare.description) == (one.attributes["scene"], "label", "")
    form = targets.template_target(one, PROMPT)
    assert form.kind == "template"
    assert all(name in form.response for name in ATTRIBUTES if name != "topic")
    assert "topic" not in form.response


# ---- writers ----


@pytest.mark.parametrize("kind", ["self", "soft"])
def test_another_writer_under_our_own_name_is_refused(kind):
    with pytest.raises(
        TargetError,
        match=r"written by other \(cccccccc\), not by this backbone \(bbbbbbbb\); .* 'other'",
    ):
        targets.check_writer(
            [target(), target(kind=kind, writer="other", revision="c" * 64)], REVISION
        )


def test_another_writer_may_say_so():
    others = [target(kind=kind, revision="c" * 64) for kind in ("other", "label", "template")]
    targets.check_writer([target(), *others], REVISION)


# ---- soft ----


def reference(llm, one: Target) -> torch.Tensor:
    """Next-token log-probabilities along a response, by transformers and the template alone."""
    messages = chat.description_messages(one.description, one.prompt)
    asked = llm.tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=True
    )["input_ids"]
    said = llm.tokenizer(one.response).input_ids + (
        [] if one.truncated else [llm.tokenizer.eos_token_id]
    )
    with torch.no_grad():
        return (
            llm.model(torch.tensor([asked + said])).logits[0, len(asked) - 1 : -1].log_softmax(-1)
        )


ROWS = [
    target(),
    target("A much longer answer that is cut", truncated=True),
    target("Yes", "Birds sing, far away."),
]


@pytest.mark.parametrize("k", [5, 10_000])
def test_soft_targets_are_the_likeliest_tokens_and_one_number_for_the_rest(llm, k):
    for soft, one in zip(targets.soften_targets(llm, ROWS, k), ROWS, strict=True):
        expected = reference(llm, one)
        kept = min(k, expected.shape[1])
        assert soft.ids.shape == soft.logp.shape == (len(expected), kept)
        top = expected.topk(kept)
        torch.testing.assert_close(soft.logp.float(), top.values, atol=2e-2, rtol=1e-3)
        torch.testing.assert_close(
            expected.gather(1, soft.ids.long()), top.values, atol=1e-4, rtol=1e-4
        )
        rest = 1 - soft.logp.float().exp().sum(-1)
        assert (rest > -2e-3).all()
        left_out = torch.ones_like(expected, dtype=torch.bool).scatter(1, soft.ids.long(), False)
        torch.testing.assert_close(rest, (expected.exp() * left_out).sum(-1), atol=2e-3, rtol=0)


def test_kl_over_the_whole_vocabulary_is_torchs():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (
        torch.randn(7, 40, generator=generator, dtype=torch.float64) * 3 for _ in range(2)
    )
    logp, ids = teacher.log_softmax(-1).sort(-1, descending=True)
    expected = nn.functional.kl_div(
        student.log_softmax(-1), teacher.log_softmax(-1), log_target=True, reduction="batchmean"
    )
    torch.testing.assert_close(kl_loss(student, ids, logp).double(), expected, atol=1e-5, rtol=1e-5)


def test_kl_of_the_likeliest_has_one_bucket_for_the_rest():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(7, 40, generator=generator) * 2 for _ in range(2))
    top = teacher.log_softmax(-1).topk(6)
    p = torch.cat([top.values.exp(), 1 - top.values.exp().sum(-1, keepdim=True)], -1)
    mine = student.softmax(-1).gather(1, top.indices)
    q = torch.cat([mine, 1 - mine.sum(-1, keepdim=True)], -1)
    torch.testing.assert_close(
        kl_loss(student, top.indices, top.values), (p * (p / q).log()).sum(-1).mean()
    )


@pytest.mark.parametrize("k", [1, 6, 40])
def test_kl_is_zero_when_the_student_says_what_the_teacher_says_and_only_then(k):
    teacher = torch.randn(7, 40, generator=torch.Generator().manual_seed(0)) * 2
    top = teacher.log_softmax(-1).topk(k)
    same = teacher.clone().requires_grad_(True)
    loss = kl_loss(same, top.indices, top.values)
    loss.backward()
    assert abs(loss.item()) < 1e-5
    assert same.grad.abs().max() < 1e-5
    assert kl_loss(teacher + torch.randn(7, 40), top.indices, top.values) > 0.05


def test_kl_stays_finite_for_a_student_that_is_sure_and_wrong():
    student = torch.full((2, 40), -200.0)
    student[:, 3] = 200.0
    student.requires_grad_(True)
    loss = kl_loss(
        student, torch.tensor([[1, 2]] * 2), torch.tensor([[math.log(0.5), math.log(0.4)]] * 2)
    )
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


# ---- measures ----


def test_perplexity_is_the_one_transformers_computes(llm):
    nats, tokens = 0.0, 0
    for one in ROWS:
        messages = chat.description_messages(one.description, one.prompt)
        asked = llm.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=True
        )["input_ids"]
        said = llm.tokenizer(one.response).input_ids + (
            [] if one.truncated else [llm.tokenizer.eos_token_id]
        )
        ids, labels = torch.tensor([asked + said]), torch.tensor([[-100] * len(asked) + said])
        with torch.no_grad():
            nats += llm.model(input_ids=ids, labels=labels).loss.item() * len(said)
        tokens += len(said)
    assert targets.target_perplexity(llm, ROWS) == pytest.approx(math.exp(nats / tokens), rel=1e-4)


def test_token_evidence_is_one_number_a_token_and_none_where_nothing_was_told(llm):
    tokens, nats = targets.token_evidence(llm, ROWS[0])
    said = llm.tokenizer(ROWS[0].response).input_ids
    assert tokens == [llm.tokenizer.decode([i]) for i in said] + [tiny.END]
    assert nats.shape == (len(tokens),)
    assert (nats > 0).all()
    _, nothing = targets.token_evidence(llm, replace(ROWS[0], description=""))
    assert nothing.abs().max() < 1e-5
