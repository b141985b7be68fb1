"""Lenses and interventions on planted directions."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from desta_lab.analysis import lens, probes
from desta_lab.analysis.probe_sites import capture_sites
from desta_lab.evaluation import scoring
from desta_lab.evaluation.tasks import task_ladder
from desta_lab.model import chat
from tests import tiny

TASKS = [task for task in task_ladder() if task.rung == 3]
# the tiny tokenizer knows bytes: without their common blank the options begin differently
BARE = {
    t.attribute: replace(t, options={v: o.strip() for v, o in t.options.items()}) for t in TASKS
}
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def embeddings(llm):
    with torch.no_grad():
        return llm.connect(llm.encoder.encode([tiny.wave(i) for i in range(6)]))


TRUTH = [tiny.attributes(i) for i in range(6)]


def test_the_lens_at_the_last_layer_is_what_the_model_says(llm):
    """An independent reference: the model's own logits after the stem."""
    states, task = llm.encoder.encode([tiny.wave(i) for i in range(6)]), BARE["gender"]
    sites = capture_sites(llm, [task], [states])
    start = chat.build_stream(
        llm.backbone.tokenizer, chat.audio_messages(task.question), llm.queries
    )
    stem, options = scoring.tokenize_options(llm.backbone.tokenizer, task)
    ids = torch.tensor([[*start.ids, *stem]]).expand(6, -1)
    with torch.no_grad():
        said = llm.backbone.model(inputs_embeds=llm.splice(ids, llm.connect(states))).logits[:, -1]
    found = lens.option_logits(llm, task, sites["answer 1: ask_gender"])
    torch.testing.assert_close(
        found, said[:, [option[0] for option in options]], atol=3e-2, rtol=3e-2
    )


def test_the_lens_reads_a_planted_word(llm):
    task = BARE["manner"]
    first = [option[0] for option in scoring.tokenize_options(llm.backbone.tokenizer, task)[1]]
    rows = llm.backbone.model.get_output_embeddings().weight[first].float()
    truth = [{"manner": list(task.options)[i % 2]} for i in range(12)]
    hidden = torch.stack([rows[i % 2] for i in range(12)]) * 5
    sites = {
        "answer 0: ask_manner": hidden.half(),
        "answer 1: ask_manner": 0.01 * torch.randn(12, tiny.WIDTH).half(),
    }
    held_out = [0, 1, 2, 3]
    table = lens.logit_lens(llm, [task], sites, truth, held_out)
    assert table[table["layer"] == 0]["correct"].mean() == 1
    assert (table[table["layer"] == 0]["margin"] > 0).all()
    assert set(table["row"]) == set(range(4, 12))
    wrong = lens.logit_lens(llm, [task], sites, truth, held_out, swap=[5, 4, 7, 6, 9, 8, 11, 10])
    assert wrong[wrong["layer"] == 0]["correct"].mean() == 0


def test_the_lens_weighs_every_value_alike_when_it_calibrates(llm):
    """Of the clips that calibrate five in six are of one value; the answers stay right."""
    task = BARE["manner"]
    first = [option[0] for option in scoring.tokenize_options(llm.backbone.tokenizer, task)[1]]
    rows = llm.backbone.model.get_output_embeddings().weight[first].float()
    values = [0] * 10 + [1] * 2 + [0, 1] * 4
    truth = [{"manner": list(task.options)[value]} for value in values]
    noise = 0.3 * torch.randn(20, tiny.WIDTH, generator=torch.Generator().manual_seed(0))
    hidden = torch.stack([rows[value] for value in values]) + noise
    table = lens.logit_lens(
        llm, [task], {f"answer 0: {task.name}": hidden.half()}, truth, list(range(12))
    )
    assert table["correct"].mean() == 1


def test_a_tuned_lens_reads_a_turned_state_that_the_plain_lens_cannot(llm):
    task = BARE["manner"]
    first = [option[0] for option in scoring.tokenize_options(llm.backbone.tokenizer, task)[1]]
    rows = llm.backbone.model.get_output_embeddings().weight[first].float()
    truth = [{"manner": list(task.options)[i % 2]} for i in range(200)]
    dice = torch.Generator().manual_seed(0)
    last = torch.stack([rows[i % 2] for i in range(200)])
    last = 5 * last + torch.randn(200, tiny.WIDTH, generator=dice)
    turn = torch.linalg.qr(torch.randn(tiny.WIDTH, tiny.WIDTH, generator=dice))[0]
    sites = {f"answer 0: {task.name}": last @ turn, f"answer 1: {task.name}": last}
    calibration = list(range(120))
    plain = lens.logit_lens(llm, [task], sites, truth, calibration)
    tuned = lens.tune_lens(sites, [task], calibration)
    assert torch.equal(tuned[f"answer 1: {task.name}"], last)
    read = lens.logit_lens(llm, [task], tuned, truth, calibration)
    margin = {name: t[t["layer"] == 0]["margin"].mean() for name, t in (("p", plain), ("t", read))}
    assert read[read["layer"] == 0]["correct"].mean() > 0.95
    assert margin["t"] > 2 * margin["p"]


def test_clips_of_the_same_value_are_the_null_of_a_patch(llm, embeddings):
    table = lens.patch_queries(llm, TASKS, embeddings, TRUTH, [(0, 1), (0, 2), (0, 3)])
    same = table[~table["differ"]]
    assert set(table["differ"]) == {True, False}
    for _, row in same.iterrows():
        assert TRUTH[0][row["attribute"]] == TRUTH[row["row"]][row["attribute"]]


def test_patching_all_queries_gives_the_other_clips_answer(llm, embeddings):
    table = lens.patch_queries(llm, TASKS, embeddings, TRUTH, [(0, 1), (2, 3)])
    with torch.no_grad():
        scores = scoring.score_options(llm, TASKS, embeddings)
    for i, task in enumerate(TASKS):
        a, b = (list(task.options).index(TRUTH[k][task.attribute]) for k in (0, 1))
        if a != b:
            margin = scores[i][:, a] - scores[i][:, b]
            row = table[
                (table["attribute"] == task.attribute)
                & (table["row"] == 1)
                & (table["query"] == -1)
            ]
            assert row["shift"].iloc[0] == pytest.approx(float(margin[0] - margin[1]), abs=1e-3)


def test_patching_a_query_with_itself_moves_nothing(llm, embeddings):
    twins = torch.cat([embeddings[:1], embeddings[:1]])
    table = lens.patch_queries(llm, TASKS, twins, TRUTH[:2], [(0, 1)])
    assert table["shift"].abs().max() < 1e-3


def planted(
    strength: float = 4.0, clips: int = 120, width: int = 20
) -> tuple[np.ndarray, list[str], list[str]]:
    speakers = [f"s{i // 6}" for i in range(clips)]
    labels = [("rain", "siren")[i % 2] for i in range(clips)]
    features = RNG.normal(size=(clips, width)) @ RNG.normal(size=(width, width))
    direction = RNG.normal(size=width)
    features += strength * np.outer(np.arange(clips) % 2, direction)
    return features, labels, speakers


def test_after_erasing_no_probe_reads_the_label_and_others_still_do():
    features, labels, speakers = planted()
    other = [("low", "high")[(i // 2) % 2] for i in range(len(labels))]
    features[:, 0] += 8.0 * np.array([v == "high" for v in other])
    both = {"scene": labels, "loudness": other}

    def read(x):
        return probes.summarise_accuracy(probes.fit_probes(x, both, speakers)).set_index(
            ["attribute", "kind"]
        )["accuracy"]

    before, after = read(features), read(lens.fit_eraser(features, labels)(features))
    assert before["scene", "probe"] > 0.95
    assert after["scene", "probe"] < 0.65
    assert after["loudness", "probe"] > before["loudness", "probe"] - 0.1


def test_erasing_changes_only_as_many_directions_as_there_are_differences():
    features, labels, _ = planted()
    change = lens.fit_eraser(features, labels)(features) - features
    assert np.linalg.matrix_rank(change, tol=1e-6 * np.linalg.norm(change)) == 1


def test_erasing_a_planted_direction_flips_the_answer():
    """A readout that uses the planted direction alone answers at chance once it is erased."""
    features, labels, _ = planted(8.0)
    means = [features[np.array(labels) == v].mean(0) for v in ("rain", "siren")]
    readout = np.linalg.solve(np.cov(features.T) + np.eye(features.shape[1]), means[1] - means[0])
    middle = features.mean(0)

    def accuracy(x):
        said = np.where((x - middle) @ readout > 0, "siren", "rain")
        return (said == np.array(labels)).mean()

    assert accuracy(features) > 0.9
    assert accuracy(lens.fit_eraser(features, labels)(features)) < 0.7


def test_the_eraser_of_audio_embeddings_leaves_its_input_alone(embeddings):
    before = embeddings.clone()
    labels = [row["gender"] for row in TRUTH]
    without = lens.erase_attribute(embeddings, range(6), labels)
    assert without.shape == embeddings.shape and torch.equal(embeddings, before)
    means = [without[[i for i in range(6) if labels[i] == v]].mean(0) for v in set(labels)]
    gap = [embeddings[[i for i in range(6) if labels[i] == v]].mean(0) for v in set(labels)]
    assert (means[0] - means[1]).norm() < 0.7 * (gap[0] - gap[1]).norm()
