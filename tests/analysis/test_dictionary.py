"""Sparse features: a planted dictionary is found, and a null holds at the rate that it states."""

import numpy as np
import pytest
import torch

from desta_lab.analysis import dictionary, interventions
from desta_lab.evaluation import scoring
from desta_lab.evaluation.tasks import task_ladder
from tests import tiny

TASKS = [task for task in task_ladder() if task.name in ("ask_scene", "ask_gender")]
SPEAKERS = [f"speaker {i // 4}" for i in range(32)]
VALUES = [("rain", "music")[i % 2] for i in range(32)]


def planted(clips: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors that few of eight directions make up, and how much of each is in them."""
    dice = torch.Generator().manual_seed(seed)
    directions = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(9)))[0]
    amounts = torch.rand(clips, 3, 8, generator=dice) * (
        torch.rand(clips, 3, 8, generator=dice) < 0.2
    )
    return amounts @ directions[:8] + torch.arange(48.0).view(3, 16), directions[:8]


def test_the_features_are_the_directions_that_make_up_the_vectors():
    vectors, directions = planted(200, 0)
    trained = dictionary.train_dictionary(vectors, features=16, active=3, steps=400)
    alike = (trained.decoder @ directions.T).amax(0)
    assert (alike > 0.9).all()
    assert dictionary.explained_variance(trained, planted(50, 1)[0]) > 0.9
    assert int((trained.encode(vectors) > 0).sum(-1).max()) <= 3
    again = dictionary.train_dictionary(vectors, features=16, active=3, steps=400)
    assert torch.equal(again.decoder, trained.decoder)
    assert torch.allclose(trained.decoder.norm(dim=-1), torch.ones(16))


def test_what_a_slot_always_holds_is_no_feature():
    vectors, _ = planted(60, 0)
    trained = dictionary.train_dictionary(vectors, features=16, active=3, steps=1)
    moved = dictionary.train_dictionary(vectors + torch.randn(3, 16), 16, 3, 1)
    torch.testing.assert_close(trained.decoder, moved.decoder, rtol=1e-3, atol=1e-3)


def test_purity_is_the_area_under_the_curve_and_finds_a_planted_value():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    activations = rng.random((32, 5)).round(1)
    activations[:, 2] += np.array(VALUES) == "rain"
    found = dictionary.measure_purity(activations, {"scene": VALUES}, SPEAKERS, shuffles=200)
    for row in found.itertuples():
        expected = roc_auc_score(np.array(VALUES) == row.value, activations[:, row.feature])
        assert row.purity == pytest.approx(expected)
    pure = found[found["purity"] > found["null"]]
    assert pure["feature"].tolist() == [2] and pure["value"].tolist() == ["rain"]


def test_of_twenty_sites_with_labels_that_mean_nothing_about_one_has_a_pure_feature():
    """Simulated: the features know voices, one attribute belongs to the speaker, one does not."""
    any_pure, rng = [], np.random.default_rng(0)
    for _ in range(120):
        voices = rng.normal(size=(8, 10)).repeat(4, axis=0)
        activations = (voices + rng.normal(size=(32, 10))).clip(min=0)
        labels = {
            "gender": rng.permutation(["a", "b"] * 4).repeat(4).tolist(),
            "scene": rng.permutation(["a", "b", "c", "d"] * 8).tolist(),
        }
        how = {"shuffles": 100, "seed": int(rng.integers(1000))}
        found = dictionary.measure_purity(activations, labels, SPEAKERS, **how)
        any_pure.append(bool((found["purity"] > found["null"]).any()))
    assert 0 < np.mean(any_pure) < 0.12


@pytest.mark.parametrize("words", [None, ["a few words more", "", "hello"]])
def test_what_leaves_a_layer_is_edited_at_the_slots_and_nowhere_else(llm, words):
    """At the last layer nothing reads the slots any more; before it, the answer may move."""
    embeddings = llm.encode_audio([tiny.wave(i) for i in range(3)])
    edit, how = interventions.add(torch.ones(tiny.WIDTH)), (words, 2)
    plain = scoring.score_options(llm, TASKS, embeddings, 2, words)
    for layer, moves in ((1, False), (0, True)):
        steered = dictionary.score_edited(llm, TASKS, embeddings, layer, edit, *how)
        same = all(torch.allclose(a, b, atol=1e-4) for a, b in zip(steered, plain, strict=True))
        assert same != moves
    states = dictionary.slot_states(llm, TASKS, embeddings, 0, *how)
    assert states.shape == (3, 5, tiny.WIDTH)
    forward = llm.run([tiny.wave(i) for i in range(3)], "?", sites=["backbone.0"])
    torch.testing.assert_close(states, forward.at_slots("backbone.0"), rtol=1e-3, atol=1e-3)


def test_random_directions_lie_where_the_vectors_vary():
    vectors, directions = planted(80, 0)
    trained = dictionary.train_dictionary(vectors, features=16, active=3, steps=1)
    drawn = dictionary.draw_directions(trained, vectors, 20)
    assert torch.allclose(drawn.norm(dim=-1), torch.ones(20))
    torch.testing.assert_close((drawn @ directions.T).norm(dim=-1), torch.ones(20))
