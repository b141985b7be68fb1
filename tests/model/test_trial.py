"""An LLM of any architecture is read as it reads by itself, or refused as it is opened."""

import re
from functools import partial

import pytest
import torch

from desta_lab.analysis import interventions, probe_sites
from desta_lab.evaluation import scoring
from desta_lab.evaluation.tasks import task_ladder
from desta_lab.model.backbone import TESTED, Backbone
from desta_lab.model.chat import SLOT, audio_messages, build_stream, description_messages
from desta_lab.model.trial import Trial
from tests import tiny
from tests.model.test_backbone import KINDS

OTHERS = ["granite", "cohere", "gpt2", "bloom", "mpt", "opt", "qwen3_5"]
ONE_BY_ONE = ["bloom", "mpt", "qwen3_5"]  # no mask says which token sees which
TEXTS = ("a", "A much longer description of what is heard.", "some birds")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_needs_no_trial_passes_it(kind, dtype):
    llm = tiny.backbone(kind, dtype=dtype)
    assert llm.model.config.model_type in TESTED
    llm._try_readings()
    assert llm.shares_prefix and llm.takes_masks


@pytest.mark.parametrize("kind", OTHERS)
def test_what_may_be_shared_is_found_out(kind):
    llm = tiny.backbone(kind)
    assert llm.takes_masks == (kind not in ONE_BY_ONE)
    assert llm.shares_prefix == (kind != "qwen3_5")  # whose state is no keys and values


@pytest.mark.parametrize("kind", OTHERS)
def test_logits_are_the_models_own_also_behind_a_prefix(kind):
    llm = tiny.backbone(kind)
    ids = torch.randint(0, 300, (3, 14), generator=torch.Generator().manual_seed(0))
    ids[:, :5] = ids[:1, :5]
    with torch.no_grad():
        own = llm.model(ids).logits
        torch.testing.assert_close(llm.logits(llm.hidden_states(llm.embed(ids))), own)
        hidden = llm.hidden_states(llm.embed(ids[:, 5:]), ids[0, :5].tolist())
    torch.testing.assert_close(llm.logits(hidden), own[:, 5:], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", OTHERS)
def test_answers_in_a_batch_are_answers_one_by_one(kind):
    llm = tiny.backbone(kind)
    streams = [
        build_stream(llm.tokenizer, description_messages(text, "What?"), 0) for text in TEXTS
    ]
    together = llm.generate_ids(streams, max_new_tokens=6)
    assert together == [llm.generate_ids([one], max_new_tokens=6)[0] for one in streams]
    assert len(set(together)) > 1


@pytest.mark.parametrize("kind", OTHERS)
def test_options_are_scored_as_one_by_one(kind):
    llm, noise = tiny.audio_llm(kind), torch.Generator().manual_seed(0)
    embeddings = torch.randn(3, llm.queries, tiny.WIDTH, generator=noise)
    tasks, words = task_ladder()[::4], ["one", "a much longer sentence about rain", ""]
    together = scoring.score_options(llm, tasks, embeddings, batch=2, transcripts=words)
    alone = scoring.score_options_one_by_one(llm, tasks, embeddings, words)
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    both = scoring.score_options_of_text(llm.backbone, tasks, TEXTS)
    single = [scoring.score_options_of_text(llm.backbone, tasks, [text]) for text in TEXTS]
    for task, rows in zip(both, zip(*single, strict=True), strict=True):
        torch.testing.assert_close(task, torch.cat(rows), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", OTHERS)
def test_gradients_reach_the_audio_embeddings_and_layers_may_be_computed_twice(kind):
    llm = tiny.audio_llm(kind)
    stream = build_stream(llm.backbone.tokenizer, audio_messages("What?"), llm.queries)
    before = stream.ids.index(SLOT)
    ids, gradients = torch.tensor([stream.ids[before:]]), []
    for twice in (False, True):
        llm.backbone.gradient_checkpointing = twice
        embeddings = torch.ones(1, llm.queries, tiny.WIDTH, requires_grad=True)
        hidden = llm.backbone.hidden_states(llm.splice(ids, embeddings), stream.ids[:before])
        llm.backbone.logits(hidden).log_softmax(-1)[0, -1, 7].backward()
        gradients.append(embeddings.grad)
    assert gradients[0].any()
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("kind", OTHERS)
def test_every_layer_is_a_site(kind):
    llm = tiny.audio_llm(kind, dropout=0.0)
    waves = [tiny.wave(number) for number in range(3)]
    flow = {"backbone.0", "backbone.1", "backbone.1.attention", "backbone.1.attention.heads"}
    assert flow <= {*llm.sites()}
    for name in flow:
        seen = llm.run(waves, "What is it?", sites=[name])[name]
        one = llm.run(waves[1:2], "What is it?", sites=[name])[name][0]
        torch.testing.assert_close(seen[1], one, atol=1e-4, rtol=1e-3)


def test_a_site_that_mixes_clips_and_tokens_is_refused():
    llm = tiny.audio_llm("opt")  # its second linear layer sees clips × tokens
    with pytest.raises(ValueError, match=r"At a Linear flows .* not clip, token, feature; leave"):
        llm.run([tiny.wave(0), tiny.wave(1)], "What is it?", sites=["backbone.0.mlp"])


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        ("bert", r"A bert cannot be a backbone here: logits are [\d.]+% of their size apart"),
        ("rwkv", r"A rwkv cannot be a backbone here: logits are [\d.]+% of"),  # it sees padding
        ("gemma4", "A gemma4_text cannot be a backbone here: .* without providing `input_ids`"),
    ],
)
def test_what_cannot_be_read_so_is_refused_as_it_is_opened(kind, fault):
    with pytest.raises(ValueError, match=f"{fault}.*; take another LLM"):
        tiny.backbone(kind)


def test_logits_that_are_more_than_the_heads_are_refused():
    model = tiny.causal()
    model.config.logits_scaling = 8.0  # which this architecture does not know
    with pytest.raises(ValueError, match="A llama cannot be a backbone here: logits are"):
        Backbone(model, tiny.tokenizer())


def test_logits_that_are_no_numbers_are_left_to_where_they_are_used():
    model = tiny.causal("gpt2")
    model.get_output_embeddings().weight.data.fill_(torch.inf)
    assert Backbone(model, tiny.tokenizer()).shares_prefix


def test_a_reading_that_changes_something_is_told_from_one_that_does_not():
    trial = Trial(tiny.backbone())
    assert trial.differs(trial.read_embeddings) == ""
    shifted = partial(lambda logits, place: (logits + 1, place), *trial.read_embeddings())
    assert re.fullmatch(r"logits are [\d.]+% of their size apart", trial.differs(shifted))


def test_where_options_are_scored_one_by_one_no_forward_of_all_tasks_is_recorded():
    llm, tasks = tiny.audio_llm("qwen3_5"), task_ladder()[:2]
    states = [torch.zeros(4, 2, 20, 64)]
    for measure in (
        lambda: probe_sites.capture_sites(llm, tasks, states),
        lambda: probe_sites.capture_oracle_sites(llm, tasks, TEXTS),
        lambda: interventions.mean_heads(llm, tasks, llm.connect(states[0])),
    ):
        with pytest.raises(ValueError, match=r"takes no mask .* ask llm.run about one question"):
            measure()
