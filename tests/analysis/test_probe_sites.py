"""Capture by hooks: what is kept is what flows, and nothing stays behind."""

import hashlib
from dataclasses import replace

import pytest
import torch

from desta_lab.analysis import probe_sites
from desta_lab.evaluation import scoring
from desta_lab.evaluation.tasks import task_ladder
from desta_lab.model import chat
from tests import tiny

TASKS = [task for task in task_ladder() if task.rung == 3]


@pytest.fixture(scope="module")
def states(llm):
    return llm.encoder.encode([tiny.wave(i) for i in range(3)])


@pytest.fixture(scope="module")
def sites(llm, states):
    return probe_sites.capture_sites(llm, TASKS, states.split(2, dim=1))


def hooks(llm) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in llm.modules())


def weights(llm) -> str:
    return hashlib.sha256(
        b"".join(t.numpy().tobytes() for t in llm.state_dict().values())
    ).hexdigest()


def test_every_site_is_there_for_every_clip(llm, sites):
    assert sites["audio embeddings"].shape == (3, 5, tiny.WIDTH)
    wanted = {
        "block 0",
        "mixture",
        "audio embeddings",
        "slots 0",
        "slots 1",
        "answer 1: ask_scene",
        "scores ask_scene",
    }
    assert wanted <= set(sites)
    assert all(len(site) == 3 for site in sites.values())


def test_a_site_that_is_no_output_of_a_module_is_not_probed(llm, monkeypatch):
    monkeypatch.setitem(probe_sites._NAMES, r"backbone\.0\.attention\.pattern", "pattern")
    with pytest.raises(ValueError, match=r"backbone\.0\.attention\.pattern is no output of a"):
        probe_sites.site_modules(llm)


def test_audio_embeddings_are_those_the_backbone_is_given(llm, states, sites):
    with torch.no_grad():
        torch.testing.assert_close(
            sites["audio embeddings"].float(), llm.connect(states), atol=1e-2, rtol=1e-2
        )


def test_the_answer_site_is_the_last_token_before_the_option(llm, states, sites):
    """An independent reference: one plain forward a task, up to the end of its stem."""
    task = TASKS[-1]
    start = chat.build_stream(
        llm.backbone.tokenizer, chat.audio_messages(task.question), llm.queries
    )
    ids = torch.tensor([[*start.ids, *scoring.tokenize_options(llm.backbone.tokenizer, task)[0]]])
    with torch.no_grad():
        embeddings = llm.splice(ids, llm.connect(states)[:1])
        out = llm.backbone.model.get_decoder()(inputs_embeds=embeddings, output_hidden_states=True)
    first_layer = out.hidden_states[1][0, -1]
    torch.testing.assert_close(
        sites[f"answer 0: {task.name}"][0].float(), first_layer, atol=2e-2, rtol=2e-2
    )


def test_scores_are_those_of_the_ranking(llm, states, sites):
    with torch.no_grad():
        ranked = scoring.score_options(llm, TASKS, llm.connect(states))
    torch.testing.assert_close(
        sites[f"scores {TASKS[0].name}"].float(), ranked[0].float(), atol=0.1, rtol=2e-3
    )


def test_a_block_keeps_the_clips_apart(llm, states):
    """Taps come before clips inside the connector: clip 1 alone gives what clip 1 gives among
    others.
    """
    together = probe_sites.capture_sites(llm, TASKS[:1], [states])
    alone = probe_sites.capture_sites(llm, TASKS[:1], [states[:, 1:2]])
    for name in ("block 0", "mixture", "slots 1"):
        torch.testing.assert_close(together[name][1], alone[name][0], atol=1e-2, rtol=1e-2)


def test_the_model_is_left_untouched(llm, states):
    before = weights(llm), hooks(llm)
    probe_sites.capture_sites(llm, TASKS[:1], [states])
    assert (weights(llm), hooks(llm)) == before


def test_reading_gives_the_answer_positions_of_the_text_view(llm):
    texts = [
        "A female speaker talks.",
        "A male speaker with a Scottish accent whispers at a slow speed.",
    ]
    together, alone = (
        probe_sites.capture_oracle_sites(llm, TASKS, some, batch=2) for some in (texts, texts[:1])
    )
    name = f"answer 1: {TASKS[2].name}"
    torch.testing.assert_close(
        together[name][:1], alone[name], atol=2e-2, rtol=2e-2
    )  # padding changes nothing


def test_two_questions_about_one_attribute_have_sites_of_their_own(llm, states):
    task = TASKS[0]
    other = replace(task, name="ask_again", question="Say once more: what is it?")
    sites = probe_sites.capture_sites(llm, [task, other], [states])
    first, second = (sites[f"answer 1: {name}"] for name in (task.name, "ask_again"))
    assert not torch.equal(first, second)


def test_one_query_token_alone_is_pooled_without_a_deviation():
    site = torch.arange(6.0).view(2, 1, 3)
    pooled = probe_sites.pool_over_time(site)
    torch.testing.assert_close(pooled, torch.cat([site[:, 0], torch.zeros(2, 3)], dim=1))
