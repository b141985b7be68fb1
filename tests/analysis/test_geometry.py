"""Similarity, maps and gaps, against independent references and planted shapes."""

import numpy as np
import pytest

from desta_lab.analysis import geometry

RNG = np.random.default_rng(0)


def reference(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased HSIC by its definition as a U-statistic over quadruples (Song et al. 2012, eq. 3),
    in plain loops.
    """
    mine, yours, n = x @ x.T, y @ y.T, len(x)

    def u(a, b):
        total = 0.0
        for i in range(n):
            for j in range(n):
                for q in range(n):
                    for r in range(n):
                        if len({i, j, q, r}) == 4:
                            total += a[i, j] * (b[i, j] + b[q, r] - 2 * b[i, q])
        return total / (n * (n - 1) * (n - 2) * (n - 3))

    return u(mine, yours) / (u(mine, mine) * u(yours, yours)) ** 0.5


def test_cka_agrees_with_the_u_statistic_written_out():
    x = RNG.normal(size=(9, 5))
    y = x @ RNG.normal(size=(5, 4)) + RNG.normal(size=(9, 4))
    assert geometry.cka(x, y) == pytest.approx(reference(x, y), rel=1e-9)


def test_independent_data_have_no_similarity_and_the_null_says_so():
    x, y = RNG.normal(size=(128, 896)), RNG.normal(size=(128, 896))
    found = geometry.compare_with_null(x, y)
    assert abs(found["cka"]) < 0.05
    assert found["p"] > 0.05


def test_the_same_shape_turned_and_scaled_is_one():
    x = RNG.normal(size=(60, 8))
    turn, _ = np.linalg.qr(RNG.normal(size=(8, 8)))
    found = geometry.compare_with_null(x, 3.0 * x @ turn)
    assert found["cka"] == pytest.approx(1.0)
    assert found["p"] < 0.01 and found["null"] < 0.3


def test_the_interval_holds_the_value():
    x = RNG.normal(size=(100, 6))
    found = geometry.compare_with_null(x, x + RNG.normal(size=(100, 6)))
    assert found["low"] < found["cka"] < found["high"]
    assert found["high"] - found["low"] < 0.4


def test_cka_wants_the_same_clips():
    with pytest.raises(ValueError, match="these are 5 and 6"):
        geometry.cka(RNG.normal(size=(5, 3)), RNG.normal(size=(6, 3)))


def test_similarity_lists_each_pair_once():
    table = geometry.similarity_table({name: RNG.normal(size=(20, 4)) for name in "abc"})
    assert list(zip(table["a"], table["b"], strict=True)) == [("a", "b"), ("a", "c"), ("b", "c")]


def groups() -> tuple[np.ndarray, np.ndarray]:
    which = np.arange(60) % 3
    return RNG.normal(size=(60, 20)) + 12 * np.eye(20)[which], which


@pytest.mark.parametrize("method", ["pca", pytest.param("umap", marks=pytest.mark.slow)])
def test_a_map_keeps_planted_groups_together_and_its_seed(method):
    site, which = groups()
    points, trust = geometry.map_clips(
        {0: RNG.normal(size=(60, 20)), 8: site}, method, seeds=(0, 1)
    )
    again, _ = geometry.map_clips(
        {0: points[["x", "y"]].to_numpy()[:60] @ np.ones((2, 20)), 8: site}, method
    )
    last = points[(points["step"] == 8) & (points["seed"] == 0)][["x", "y"]].to_numpy()
    np.testing.assert_allclose(
        last, again[again["step"] == 8][["x", "y"]].to_numpy(), rtol=1e-4, atol=1e-4
    )
    centres = np.stack([last[which == g].mean(0) for g in range(3)])
    spread = np.mean(
        [np.linalg.norm(last[which == g] - centres[g], axis=1).mean() for g in range(3)]
    )
    apart = np.linalg.norm(centres[[0, 1, 2]] - centres[[1, 2, 0]], axis=1).min()
    assert apart > 2 * spread
    assert trust.loc[trust["step"] == 8, "trustworthiness"].min() > 0.7


def test_alignment_undoes_a_turn_a_mirror_and_a_shift():
    flat = RNG.normal(size=(30, 2))
    moved = flat @ np.array([[0.0, 1.0], [1.0, 0.0]]) + 5
    np.testing.assert_allclose(geometry.align_map(moved, flat), flat, atol=1e-9)


def test_the_gap_closes_for_embeddings_of_the_own_text():
    written = RNG.normal(size=(6, 16))
    embeddings = np.repeat(written[:, None], 4, axis=1)
    found = geometry.modality_gap(embeddings, written, [1, 2, 3, 4, 5, 0], token_norm=1.0)
    np.testing.assert_allclose(found["cosine to its own text"], 1.0)
    assert found["cosine, other clip's text"].mean() < 0.5


def test_nearest_words_names_the_planted_token():
    vocabulary = RNG.normal(size=(50, 12))
    embeddings = np.stack([vocabulary[[7, 9]] * scale for scale in (1.0, 2.0, 3.0)])
    words = geometry.nearest_words(embeddings, vocabulary, top=1)
    assert words[["query", "token", "share"]].to_numpy().tolist() == [[0, 7, 1], [1, 9, 1]]
    np.testing.assert_allclose(words["cosine"], 1.0)
    assert (words["null"] < 0.95).all() and words["initial_cosine"].isna().all()


def test_the_word_a_query_began_as_is_listed_with_its_cosine():
    vocabulary = RNG.normal(size=(50, 12))
    embeddings = np.stack([vocabulary[[7, 9]] + 0.1 * vocabulary[[3, 4]]] * 2)
    words = geometry.nearest_words(embeddings, vocabulary, initial=[7, 3])
    first = words.groupby("query").first()
    assert first["token"].tolist() == [7, 9]
    assert first.loc[0, "initial_cosine"] == first.loc[0, "cosine"]
    assert first.loc[1, "initial_cosine"] < 0.9


def test_random_directions_are_nearest_to_a_word_as_often_as_their_null_says():
    vocabulary = RNG.normal(size=(300, 24))
    embeddings = np.random.default_rng(1).normal(size=(2, 4000, 24))
    words = geometry.nearest_words(embeddings, vocabulary, top=1)
    assert 0.043 < (words["cosine"] > words["null"]).mean() < 0.057


def test_a_feature_of_great_size_hides_a_shape_that_scaling_shows():
    shape = RNG.normal(size=(60, 8))
    loud = np.concatenate([shape, 1000 * RNG.normal(size=(60, 1))], axis=1)
    row = geometry.similarity_table({"plain": shape, "loud": loud}).iloc[0]
    assert row["cka"] < 0.1 < 0.8 < row["scaled"]
    assert row["a_largest"] < 0.4 < 0.99 < row["b_largest"]


def test_neighbours_share_a_planted_label_and_random_labels_lie_in_their_null():
    site, which = groups()
    speakers = [f"s{i % 20}" for i in range(60)]
    planted = geometry.neighbour_purity(site, [str(g) for g in which], speakers)
    assert planted["purity"] > 0.95 > planted["null_high"]
    outside = 0
    for seed in range(60):
        dice = np.random.default_rng(1000 + seed)
        found = geometry.neighbour_purity(site, dice.choice(["a", "b"], 60).tolist(), speakers, 100)
        outside += not found["null_low"] <= found["purity"] <= found["null_high"]
    assert outside <= 9  # of 60, where 3 are expected


def test_neighbours_need_a_second_speaker():
    with pytest.raises(ValueError, match="one speaker"):
        geometry.neighbour_purity(RNG.normal(size=(8, 2)), ["a", "b"] * 4, ["me"] * 8)


def test_a_site_at_which_all_clips_are_alike_has_no_shape_and_no_p():
    other = np.random.default_rng(0).normal(size=(16, 4))
    found = geometry.compare_with_null(np.full((16, 8), 0.3), other)
    assert set(found) == set(geometry.compare_with_null(other, other))
    assert np.isnan(list(found.values())).all()
