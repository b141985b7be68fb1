"""An attribution finds what was planted, adds up, is faithful, changes with the weights, and leaves
nothing behind.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from captum.attr import FeatureAblation, IntegratedGradients, ShapleyValueSampling
from torch import Tensor

from desta_lab.analysis import attribution
from desta_lab.analysis.attribution import Attribution, Case
from desta_lab.evaluation import conditions, scoring
from desta_lab.evaluation.tasks import task_ladder
from desta_lab.model.audio_llm import AudioLLM, hash_tensors
from tests import tiny

TASK = {task.name: task for task in task_ladder()}["ask_gender"]
SCENE = {task.name: task for task in task_ladder()}["ask_scene"]
VALUES = ["female", "male", "female"]
WAVES = [tiny.wave(number) for number in range(3)]
QUARTER = tiny.SECONDS / 4


@pytest.fixture(scope="module")
def llm() -> AudioLLM:
    """In float64, so that what must be equal is."""
    return tiny.audio_llm(dropout=0.0).double()


@pytest.fixture(scope="module")
def embeddings(llm) -> Tensor:
    """What the connector says of the clips, far enough from silence to matter."""
    silence = conditions.embed_silence(llm)
    return silence + 10 * (conditions.embed_clips(llm, llm.encoder.encode(WAVES)) - silence)


def additive(seed: int = 0, parts: int = 8) -> Case:
    """A scalar to which every part adds its own amount: (case).scalar = Σ weight · number."""
    draw = torch.Generator().manual_seed(seed)
    given, absent, weights = (
        torch.randn(1, parts, 3, generator=draw, dtype=torch.float64) for _ in range(3)
    )
    return Case(
        lambda x: (x * weights).sum((1, 2)), given, absent, torch.arange(parts)[None, :, None]
    )


def truth(case: Case) -> Tensor:
    """What every part of an additive case adds."""
    alone = case.evaluate(torch.eye(case.part_count, dtype=torch.bool))
    return (alone - case.evaluate(torch.zeros(1, case.part_count, dtype=torch.bool))).float()


def attribute_queries(method, llm, task, values, embeddings, **options) -> Attribution:
    """What every audio embedding adds to the margin."""
    return attribution.attribute(
        method, attribution.query_cases(llm, task, values, embeddings), **options
    )


def attribute_windows(method, llm, waves, **options) -> Attribution:
    """What every quarter of the waveform adds to the margin."""
    return attribution.attribute(
        method, attribution.window_cases(llm, TASK, VALUES, waves, QUARTER), **options
    )


# ---- the margin ----


def test_the_margin_is_the_right_option_over_the_mean_of_the_others(llm, embeddings):
    right = ["birds", "rain", "music"]
    (scores,) = scoring.score_options(llm, [SCENE], embeddings)
    found = attribution.answer_margin(llm, SCENE, right)(embeddings)
    for row, value, one in zip(scores, right, found, strict=True):
        others = [row[i] for i, option in enumerate(SCENE.options) if option != value]
        torch.testing.assert_close(one, row[list(SCENE.options).index(value)] - sum(others) / 3)


def test_clips_may_come_several_times_over_as_captum_stacks_them(llm, embeddings):
    of = attribution.answer_margin(llm, TASK, VALUES)
    torch.testing.assert_close(of(embeddings.repeat(2, 1, 1)), of(embeddings).repeat(2))
    with pytest.raises(ValueError, match="2 clips were given, but 3 right values"):
        of(embeddings[:2])


def test_a_value_that_is_no_option_is_refused(llm):
    with pytest.raises(ValueError, match="ask_gender has no option for loud; it has female, male"):
        attribution.answer_margin(llm, TASK, ["loud"])


def test_the_margin_of_audio_hears_first(llm):
    heard = conditions.embed_clips(llm, llm.encoder.encode(WAVES))
    waves = torch.from_numpy(np.stack(WAVES))
    found = attribution.answer_margin_of_audio(llm, TASK, VALUES)(waves)
    torch.testing.assert_close(found, attribution.answer_margin(llm, TASK, VALUES)(heard))


# ---- attribution ----


@pytest.mark.parametrize("method", attribution.METHODS)
def test_where_parts_add_up_every_method_agrees_with_the_truth(method):
    cases = [additive(0), additive(1)]
    found = attribution.attribute(method, cases)
    torch.testing.assert_close(
        found.values, torch.stack([truth(case) for case in cases]), atol=1e-5, rtol=1e-5
    )
    assert found.delta.abs().max() < 1e-5


@pytest.mark.parametrize("method", attribution.METHODS)
def test_the_one_query_that_carries_the_answer_is_found(llm, method):
    planted = conditions.embed_silence(llm).repeat(3, 1, 1)
    planted[:, 3] += 0.5 * torch.randn(
        3, tiny.WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    found = attribute_queries(method, llm, TASK, VALUES, planted)
    of, nothing = (
        attribution.answer_margin(llm, TASK, VALUES),
        conditions.embed_silence(llm).repeat(3, 1, 1),
    )
    torch.testing.assert_close(
        found.values[:, 3], (of(planted) - of(nothing)).float(), atol=1e-3, rtol=1e-3
    )
    assert found.values[:, 3].abs().min() > 0.01
    assert found.values[:, [0, 1, 2, 4]].abs().max() < 1e-6


@pytest.mark.parametrize("method", attribution.METHODS)
def test_a_query_that_is_not_read_gets_nothing(method):
    case = additive()
    deaf = Case(lambda x: torch.tanh(x[:, 5].sum(-1)), case.input, case.baseline, case.parts)
    values = attribution.attribute(method, [deaf]).values[0]
    assert (
        values.abs().argmax() == 5
        and values[[0, 1, 2, 3, 4, 6, 7]].abs().max() < 1e-6 < values[5].abs()
    )


@pytest.mark.parametrize("method", ["ablation", "shapley"])
def test_the_one_window_that_sounds_is_found(llm, method):
    waves = [
        np.where(np.arange(len(w)) // (len(w) // 4) == 2, w, 0).astype(np.float32) for w in WAVES
    ]
    found = attribute_windows(method, llm, waves, samples=4)
    assert found.values.shape == (3, 4)
    assert found.values[:, [0, 1, 3]].abs().max() < 1e-6 < 1e-3 < found.values[:, 2].abs().min()
    assert found.delta.abs().max() < 1e-5


def test_a_last_window_may_be_shorter(llm):
    cases = attribution.window_cases(llm, TASK, VALUES[:1], WAVES[:1], window=0.15)
    assert cases[0].parts[0].bincount().tolist() == [2400, 2400, 1600]


def test_waveforms_have_no_gradient_to_integrate(llm):
    with pytest.raises(ValueError, match="take ablation or shapley"):
        attribute_windows("integrated_gradients", llm, WAVES)


@pytest.mark.parametrize("method", ["ablation", "shapley"])
def test_switched_parts_are_captums_attributions_of_the_numbers_themselves(method):
    """Each number of a part gets the value of its whole part, as captum gives it with a mask."""
    case = additive(3)
    captums = {"ablation": FeatureAblation, "shapley": ShapleyValueSampling}[method]
    spread = captums(case.scalar).attribute(case.input, case.baseline, feature_mask=case.parts)
    found = attribution.attribute_parts(method, [case], samples=3)
    torch.testing.assert_close(found[0], spread[0, :, 0].float())


def test_the_values_alone_cost_no_more_than_themselves():
    """Ablation looks at the whole, and at the whole without each part; the check at two more."""
    seen, case = [], additive()
    counted = replace(case, scalar=lambda x: seen.append(len(x)) or case.scalar(x))
    values = attribution.attribute_parts("ablation", [counted])
    assert sum(seen) == 1 + case.part_count
    whole = attribution.attribute("ablation", [counted])
    assert sum(seen) == 2 * (1 + case.part_count) + 2 and torch.equal(whole.values, values)


def test_a_method_that_is_not_there_is_refused():
    with pytest.raises(
        ValueError, match="no method 'lime'; take one of integrated_gradients, ablation, shapley"
    ):
        attribution.attribute("lime", [additive()])


def test_integrated_gradients_add_up_to_the_margin_over_silence(llm, embeddings):
    of, silence = (
        attribution.answer_margin(llm, TASK, VALUES),
        conditions.embed_silence(llm).repeat(3, 1, 1),
    )
    found = attribute_queries("integrated_gradients", llm, TASK, VALUES, embeddings, steps=48)
    way = (of(embeddings) - of(silence)).float()
    torch.testing.assert_close(found.values.sum(1), way, atol=1e-4, rtol=1e-4)
    assert found.delta.abs().max() < 1e-4 < 0.05 < way.abs().max()
    coarse = attribute_queries("integrated_gradients", llm, TASK, VALUES, embeddings, steps=2)
    assert coarse.delta.abs().max() > 10 * found.delta.abs().max()


def test_delta_is_captums_convergence_delta(llm, embeddings):
    of, silence = (
        attribution.answer_margin(llm, TASK, VALUES),
        conditions.embed_silence(llm).repeat(3, 1, 1),
    )
    found = attribute_queries("integrated_gradients", llm, TASK, VALUES, embeddings, steps=3)
    plain = IntegratedGradients(of)
    values, delta = plain.attribute(embeddings, silence, n_steps=3, return_convergence_delta=True)
    torch.testing.assert_close(found.values, values.sum(-1).float(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.delta, delta.float(), atol=1e-5, rtol=1e-4)


def test_shapley_values_add_up_where_ablation_does_not(llm, embeddings):
    found = {
        m: attribute_queries(m, llm, TASK, VALUES, embeddings, samples=4)
        for m in ("shapley", "ablation")
    }
    assert found["shapley"].delta.abs().max() < 1e-5 < 1e-2 < found["ablation"].delta.abs().max()


def test_sampling_is_repeatable_and_has_a_seed(llm, embeddings):
    first, again, other = (
        attribute_queries("shapley", llm, TASK, VALUES, embeddings, samples=2, seed=seed).values
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.allclose(first, other)


def test_the_size_of_a_forward_changes_no_number(llm, embeddings):
    for method in attribution.METHODS:
        one, many = (
            attribute_queries(
                method, llm, TASK, VALUES, embeddings, batch=batch, samples=2, steps=6
            ).values
            for batch in (1, 7)
        )
        torch.testing.assert_close(one, many, atol=1e-5, rtol=1e-4)


def test_nothing_is_left_behind(llm, embeddings):
    modules = list(llm.modules())
    before = [
        hash_tensors(llm),
        [p.requires_grad for p in llm.parameters()],
        torch.get_rng_state().tolist(),
    ]
    heard = embeddings.clone()
    for method in attribution.METHODS:
        attribute_queries(method, llm, TASK, VALUES, heard, samples=1, steps=2)
    attribute_windows("shapley", llm, WAVES, samples=1)
    after = [
        hash_tensors(llm),
        [p.requires_grad for p in llm.parameters()],
        torch.get_rng_state().tolist(),
    ]
    assert before == after
    assert all(parameter.grad is None for parameter in llm.parameters())
    assert not any(module._forward_hooks or module._backward_hooks for module in modules)
    assert torch.equal(heard, embeddings) and not heard.requires_grad and heard.grad is None


# ---- answer → query → frame ----


def test_each_query_hands_its_value_to_the_frames_it_looks_at():
    looks = torch.tensor(
        [[[2.0, 0.0, 0.0, 0.0], [0.0, 0.0, 3.0, 3.0]]]
    )  # rows that do not sum to one
    found = attribution.queries_to_frames(torch.tensor([[5.0, -1.0]]), looks)
    torch.testing.assert_close(found, torch.tensor([[5.0, 0.0, -0.5, -0.5]]))


# ---- is it faithful? ----


def curve_areas(drawn: pd.DataFrame) -> pd.DataFrame:
    """The area under every curve, one row a clip: low is good for deletion, high for insertion."""
    by = ["clip", "curve", "order"]
    drawn = drawn.groupby([*by, "share"], as_index=False)["margin"].mean()
    groups = drawn.groupby(by)[["share", "margin"]]
    areas = groups.apply(lambda rows: np.trapezoid(rows["margin"], rows["share"]))
    return areas.unstack(["curve", "order"])


def test_deletion_by_attribution_drops_faster_than_at_random_and_insertion_rises_faster():
    cases = [additive(seed) for seed in range(4)]
    values = attribution.attribute("ablation", cases).values
    drawn = attribution.deletion_curves(cases, values, [f"c{i}" for i in range(4)], draws=2)
    assert list(drawn) == ["clip", "curve", "order", "draw", "share", "margin"]
    assert len(drawn) == 4 * 2 * (1 + 2) * 9
    area = curve_areas(drawn)
    assert (area["deletion"]["attribution"] < area["deletion"]["random"]).all()
    assert (area["insertion"]["attribution"] > area["insertion"]["random"]).all()
    worst = curve_areas(attribution.deletion_curves(cases, -values, list("abcd")))
    assert (worst["deletion"]["attribution"] > worst["deletion"]["random"]).all()


def test_curves_go_from_all_of_the_clip_to_none_and_back(llm, embeddings):
    cases = attribution.query_cases(llm, TASK, VALUES[:1], embeddings[:1])
    values = attribution.attribute("ablation", cases).values
    curves = attribution.deletion_curves(cases, values, ["c"])
    drawn = curves[curves["draw"] == 0].set_index(["curve", "order", "share"])["margin"]
    of = attribution.answer_margin(llm, TASK, VALUES[:1])
    whole, none = float(of(embeddings[:1])), float(of(conditions.embed_silence(llm)))
    for order in ("attribution", "random"):
        assert (
            drawn["deletion", order, 0.0] == pytest.approx(whole) == drawn["insertion", order, 1.0]
        )
        assert (
            drawn["deletion", order, 1.0] == pytest.approx(none) == drawn["insertion", order, 0.0]
        )
    first = whole - drawn["deletion", "attribution", 1 / 5]
    assert first == pytest.approx(
        float(values.max()), abs=1e-5
    )  # the first to go is the one worth most


def test_a_curve_at_fewer_points_is_the_same_curve(llm, embeddings):
    cases = attribution.query_cases(llm, TASK, VALUES[:1], embeddings[:1])
    values = attribution.attribute("ablation", cases).values
    by = ["curve", "order", "draw", "share"]
    whole, few = (
        attribution.deletion_curves(cases, values, ["c"], draws=3, points=points).set_index(by)
        for points in (None, 4)
    )
    assert len(few) == 2 * 4 * 4 < len(whole)
    np.testing.assert_allclose(few["margin"], whole["margin"].loc[few.index], atol=1e-5)


def test_a_faithful_order_gains_over_chance_and_a_random_one_gains_nothing():
    cases = [additive()] * 40
    values = attribution.attribute("ablation", cases).values
    dice = torch.Generator().manual_seed(0)
    guesses = torch.stack([v[torch.randperm(len(v), generator=dice)] for v in values])
    names = [str(i) for i in range(len(cases))]
    gains = {
        name: attribution.deletion_gain(attribution.deletion_curves(cases, some, names))
        for name, some in (("own", values), ("chance", guesses))
    }
    assert (gains["own"]["gain"] > 0).all() and (gains["own"]["beaten"] > 0.9).all()
    chance = gains["chance"].groupby("curve")
    error = chance["gain"].std() / len(cases) ** 0.5
    assert (chance["gain"].mean().abs() < 3 * error).all()
    assert chance["beaten"].mean().between(0.35, 0.65).all()


def test_random_orders_have_a_seed():
    cases = [additive()]
    values = attribution.attribute("ablation", cases).values
    first, again, other = (
        attribution.deletion_curves(cases, values, ["c"], seed=seed) for seed in (0, 0, 1)
    )
    assert first.equals(again) and not first.equals(other)


def explained(llm: AudioLLM) -> Tensor:
    """Ablation over the audio embeddings under the connector of the moment."""
    return attribute_queries(
        "ablation", llm, TASK, VALUES, conditions.embed_clips(llm, llm.encoder.encode(WAVES))
    ).values


def test_other_weights_give_another_attribution_and_the_same_weights_the_same(llm):
    before, own = hash_tensors(llm), llm.connector.state_dict()
    same = attribution.randomisation_correlation(
        llm.connector, {name: t.clone() for name, t in own.items()}, lambda: explained(llm)
    )
    others = [
        attribution.randomisation_correlation(
            llm.connector, attribution.shuffle_weights(llm.connector, seed), lambda: explained(llm)
        )
        for seed in range(3)
    ]
    assert same == pytest.approx(np.ones(3))
    assert np.mean(others) < 0.6
    assert hash_tensors(llm) == before


def test_shuffled_weights_hold_the_same_numbers(llm):
    shuffled = attribution.shuffle_weights(llm.connector)
    for name, tensor in llm.connector.state_dict().items():
        assert torch.equal(shuffled[name].flatten().sort().values, tensor.flatten().sort().values)
    assert not torch.equal(shuffled["query_tokens"], llm.connector.query_tokens)


def test_the_weights_come_back_after_an_error(llm):
    before, flags = hash_tensors(llm), [p.requires_grad for p in llm.parameters()]

    with (
        pytest.raises(ZeroDivisionError),
        attribution.replace_weights(llm.connector, attribution.shuffle_weights(llm.connector)),
    ):
        assert hash_tensors(llm) != before
        _ = 1 / 0
    part = {name: t + 1 for name, t in llm.connector.state_dict().items() if name != "query_tokens"}
    with (
        pytest.raises(RuntimeError, match="query_tokens"),
        attribution.replace_weights(llm.connector, part),
    ):
        pass
    assert hash_tensors(llm) == before and [p.requires_grad for p in llm.parameters()] == flags
