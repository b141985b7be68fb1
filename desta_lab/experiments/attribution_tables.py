"""Tables of attribution: where the model looks for its answer, and whether that is why."""

import itertools
from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from desta_lab.analysis import attention, attribution, evidence
from desta_lab.evaluation import conditions
from desta_lab.evaluation.statistics import interval_table
from desta_lab.experiments.inside_inputs import check_speakers
from desta_lab.views.progress import report_each

if TYPE_CHECKING:
    from desta_lab.experiments.inside import Inside


def profile_answers(inside: "Inside") -> pd.DataFrame:
    """Where the answer about the label was heard: a value per method, clip and place in time."""
    tables = []
    for method, profiles in _time_profiles(inside).items():
        count, places = profiles.shape
        cell: dict[str, Any] = {"attribute": inside.label, "method": method}
        names = [clip.id for clip in inside.pick(inside.traced[:count])]
        cell |= {"clip": np.repeat(names, places), "place": np.tile(np.arange(places), count)}
        tables.append(pd.DataFrame({**cell, "value": profiles.detach().cpu().double().flatten()}))
    return pd.concat(tables, ignore_index=True)


def _time_profiles(inside: "Inside") -> dict[str, Tensor]:
    """Profiles over time (clip, frame or window): attention first, then attributions.

    What is said of queries is carried on to the frames that they attend to; where a connector
    attends to none, there are the profiles of windows alone. Shapley values of windows, which take
    the longest, are of the first clips alone (`explained`).
    """
    rows, llm, task = inside.traced, inside.llm, inside.task(inside.label)
    windows, words = _window_cases(inside, rows), inside.words(rows)
    asked = [("ablation", "windows", windows)]
    asked += [("shapley", "windows", windows[: len(inside.explained)])]
    profiles: dict[str, Tensor] = {}
    looks = None
    if attention.has_query_attention(llm.connector):
        embeddings, states = inside.audio_embeddings(rows), inside.encoder_states(rows)
        looks = attention.query_attention_over_time(llm.connector, states)
        answer = attention.answer_attention(llm, task, embeddings, transcripts=words)
        heads = answer.weights.mean((1, 2))
        profiles["query attention"] = looks.mean(1)
        profiles["answer attention"] = attribution.queries_to_frames(heads, looks)
        profiles["answer rollout"] = attribution.queries_to_frames(answer.rollout, looks)
        values = inside.values(inside.label, rows)
        queries = attribution.query_cases(llm, task, values, embeddings, words)
        asked = [*((method, "queries", queries) for method in attribution.METHODS), *asked]
    for method, parts, cases in report_each(asked, inside.progress("attribution")):
        found = attribution.attribute_parts(method, cases, samples=inside.sizes["orders"])
        if looks is not None and parts == "queries":
            found = attribution.queries_to_frames(found, looks)
        profiles[f"{method.replace('_', ' ')}, {parts}"] = found
    if looks is not None and inside.untrained is not None:
        with inside.at_checkpoint(inside.untrained):
            untrained = attention.query_attention_over_time(llm.connector, states)
        profiles["query attention, untrained"] = untrained.mean(1)
    return profiles


def _window_cases(inside: "Inside", rows: Sequence[int]) -> list[attribution.Case]:
    """The answers about the label of some clips, as functions of windows of sound."""
    return attribution.window_cases(
        inside.llm,
        inside.task(inside.label),
        inside.values(inside.label, rows),
        inside.read_waves(rows),
        inside.sizes["window"],
        inside.words(rows),
    )


def score_evidence(inside: "Inside") -> pd.DataFrame:
    """How well every profile falls on the seconds that hold the evidence, against its nulls."""
    seconds, tables = inside.llm.encoder.seconds, []
    for method, rows in inside.table("profiles").groupby("method", sort=False):
        clips = inside.pick(inside.traced[: rows["clip"].nunique()])
        check_speakers([clip.speaker for clip in clips], f"explained by {method}")
        values = _by_clip(rows, [clip.id for clip in clips])
        scores = evidence.score_profiles(values, clips, inside.label, seconds, str(method))
        tables.append(scores)
    return evidence.summarise_scores(pd.concat(tables, ignore_index=True))


def _by_clip(profiles: pd.DataFrame, clips: list[str]) -> np.ndarray:
    """Profiles as a matrix of clips × places."""
    wide = profiles.pivot(index="clip", columns="place", values="value")
    return np.asarray(wide.loc[clips])


def score_heads(inside: "Inside") -> pd.DataFrame:
    """Attention to the audio as the answer begins, per layer × head; does it find the label?

    `null_low` and `null_high` hold 95 of 100 heads with random weights over the query tokens: what
    the queries' own looks, which all heads share, give by themselves. Without spans, or where the
    connector attends to no frames, `pointing` is missing.
    """
    rows, seconds = inside.explained, inside.llm.encoder.seconds
    given = inside.task(inside.label), inside.audio_embeddings(rows)
    answer = attention.answer_attention(inside.llm, *given, transcripts=inside.words(rows))
    weights = answer.weights.movedim(0, 2)  # layer, head, clip, query
    heads = list(np.ndindex(*weights.shape[:2]))
    table = pd.DataFrame(heads, columns=["layer", "head"])
    table["share"] = [float(weights[head].sum(-1).mean()) for head in heads]
    table[["pointing", "null_low", "null_high"]] = np.nan
    if not (inside.has_spans and attention.has_query_attention(inside.llm.connector)):
        return table
    looks = attention.query_attention_over_time(inside.llm.connector, inside.encoder_states(rows))
    spans = [evidence.evidence_spans(clip, inside.label) for clip in inside.pick(rows)]
    windows = [evidence.inside_spans(own, looks.shape[-1], seconds) for own in spans]

    def pointing(of_head: Tensor) -> float:
        profiles = attribution.queries_to_frames(of_head, looks).double().numpy()
        return float(np.mean(list(map(evidence.points_at, profiles, windows))))

    table["pointing"] = [pointing(weights[head]) for head in heads]
    dice = torch.Generator().manual_seed(0)
    noise = -torch.rand(inside.sizes["heads"], *weights.shape[2:], generator=dice).log()
    null = [pointing(one) for one in noise / noise.sum(-1, keepdim=True)]
    table["null_low"], table["null_high"] = np.percentile(null, (2.5, 97.5))
    return table


def delete_windows(inside: "Inside") -> pd.DataFrame:
    """Deletion and insertion curves of windows, in the order of Shapley values and at random.

    `gain` is how much lower (deletion) or higher (insertion) the curve of the Shapley values lies
    than those of random orders, paired clip by clip (`attribution.deletion_gain`).
    """
    rows, profiles = inside.explained, inside.table("profiles")
    speakers = {clip.id: clip.speaker for clip in inside.pick(rows)}
    values = _by_clip(profiles.query("method == 'shapley, windows'"), list(speakers))
    curves = attribution.deletion_curves(
        report_each(_window_cases(inside, rows), inside.progress("deletion")),
        torch.tensor(values),
        list(speakers),
        draws=inside.sizes["random orders"],
        points=inside.sizes["points"],
    )
    gains = attribution.deletion_gain(curves)
    gains["speaker"] = gains["clip"].map(speakers)
    gain = interval_table(gains, "gain", ["curve"], "gain", "gain_")
    curves = curves.groupby(["clip", "curve", "order", "share"], as_index=False)["margin"].mean()
    curves["speaker"] = curves["clip"].map(speakers)
    table = interval_table(curves, "margin", ["curve", "order", "share"], "margin")
    return table.merge(gain.assign(order="attribution"), on=["curve", "order"], how="left")


def randomise_weights(inside: "Inside") -> pd.DataFrame:
    """Whether attributions depend on the weights, and what they miss of the margin (delta)."""
    rows, llm = inside.explained[: inside.sizes["checked"]], inside.llm
    task, values = inside.task(inside.label), inside.values(inside.label, rows)
    states, words = inside.encoder_states(rows), inside.words(rows)
    other_weights: dict[str, Any] = {}
    if inside.untrained is not None:
        with inside.at_checkpoint(inside.untrained):
            other_weights["untrained"] = deepcopy(llm.connector.state_dict())
    other_weights["shuffled weights"] = attribution.shuffle_weights(llm.connector)

    def list_cases() -> list[attribution.Case]:
        embeddings = conditions.embed_clips(llm, states)
        return attribution.query_cases(llm, task, values, embeddings, words)

    def explain(method: str) -> Tensor:
        return attribution.attribute_parts(method, list_cases())

    methods, table = ("integrated_gradients", "ablation"), []
    for method, (name, weights) in itertools.product(methods, other_weights.items()):
        how = weights, partial(explain, method)
        same = attribution.randomisation_correlation(llm.connector, *how)
        table.append((method, f"rank correlation with {name}", np.nanmean(same)))
    for method in methods:  # the median size of what the parts miss, in sizes of their sum
        found = attribution.attribute(method, list_cases())
        missed = found.delta.abs() / found.values.sum(1).abs().clamp_min(1e-6)
        table.append((method, "delta / margin", float(missed.median())))
    return pd.DataFrame(table, columns=["method", "measure", "value"])
