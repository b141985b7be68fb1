"""Answers that students gave: wrong ones with words of the sentence that must meet them, and right
ones in other styles.
"""

import copy
import hashlib
import itertools
import json
import math
import random
import re
import string
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression, Perceptron, RidgeClassifier, SGDClassifier
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from desta_lab.analysis import geometry, probes
from desta_lab.course.checks import (
    notebook_01,
    notebook_02,
    notebook_03,
    notebook_04,
    notebook_05,
    notebook_06,
    notebook_07,
    notebook_08,
    notebook_11,
)


@dataclass(frozen=True)
class Mistake:
    """A wrong answer to an exercise, and words of the sentence that says what is wrong."""

    exercise: str
    words: str
    answer: Any


def interval(
    draws: int = 1000,
    ends: tuple[float, float] = (2.5, 97.5),
    unique: bool = False,
    by_mean: bool = False,
    seed: int = 0,
) -> Any:
    def answer(correct, speakers):
        rng = np.random.default_rng(seed)
        groups = [correct[speakers == name] for name in np.unique(speakers)]
        means = []
        for _ in range(draws):
            drawn = rng.integers(len(groups), size=len(groups))
            some = [groups[i] for i in (np.unique(drawn) if unique else drawn)]
            means.append(
                np.mean([one.mean() for one in some]) if by_mean else np.concatenate(some).mean()
            )
        return np.percentile(means, ends)

    return answer


def ways_clip_by_clip(patched, own, other):
    """Shares of the way as a list of NumPy numbers."""
    rows = zip(patched.numpy(), own.numpy(), other.numpy(), strict=True)
    return [np.dot(p - a, b - a) / np.sum((b - a) ** 2) for p, a, b in rows]


def scaled_in_place(train, test):
    mean, std = train.mean(0), train.std(0)
    for side in (train, test):
        side -= mean
        side /= std
    return train, test


def patched_by_lambda(llm, a, b, task, site):
    """A patch without `interventions`, of what `run` lists under `sites`."""
    forward = llm.run([a], task.question, sites=[site], stem=task.stem)
    edits = {site: lambda flow: forward.sites[site]}
    return llm.run([b], task.question, sites=[], stem=task.stem, edits=edits).logits


def one_step_on(rows):
    """Targets of the next clip, which may be about the same thing."""
    others = [*rows[1:], rows[0]]
    return [{**other, "id": row["id"]} for row, other in zip(rows, others, strict=True)]


def drawn_partners(rows):
    rng = np.random.default_rng(0)
    found = []
    for row in rows:
        strangers = [o for o in rows if o["seed_description"] != row["seed_description"]]
        found.append(strangers[rng.integers(len(strangers))])
    return found


def in_place(rows):
    for row, other in zip(rows, [dict(one) for one in drawn_partners(rows)], strict=True):
        row["response"], row["seed_description"] = other["response"], other["seed_description"]
    return rows


def drawn_from_all(rows):
    rng = np.random.default_rng(0)
    return [{**rows[rng.integers(len(rows))], "id": row["id"]} for row in rows]


def a_plain_shuffle(seed) -> Any:
    def answer(rows):
        others = [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]
        return [{**other, "id": row["id"]} for row, other in zip(rows, others, strict=True)]

    return answer


def nearest_stranger(rows):
    """For every clip the first of its strangers, which is one of few."""
    facts = list(dict.fromkeys(row["seed_description"] for row in rows))
    firsts = {row["seed_description"]: row for row in reversed(rows)}
    after = dict(zip(facts, facts[1:] + facts[:1], strict=True))
    return [{**firsts[after[row["seed_description"]]], "id": row["id"]} for row in rows]


def labels_by_token(ids, start, truncated):
    """Places are looked up by their token, which may stand at several."""
    last = len(ids) - 1 - truncated
    told = [
        ids[t + 1] if start <= ids.index(ids[t + 1]) <= last else -100 for t in range(len(ids) - 1)
    ]
    return [*told, -100]


def labels_from_3(ids, start, truncated):
    return sliced_labels(ids, 3, truncated)


def rate_with(**fixed) -> Any:
    """A right rate, but some of what is given is a fixed number."""

    def answer(step, steps, lr, warmup, floor):
        given = {"steps": steps, "lr": lr, "warmup": warmup, "floor": floor} | fixed
        return notebook_04.rate_of_step(step, **given)

    return answer


def rate_cut_off(step, steps, lr, warmup, floor):
    if step < warmup:
        return lr * (step + 1) / warmup
    done = (step - warmup) / (steps - warmup)
    return lr * max(floor, (1 + math.cos(math.pi * done)) / 2)


def response_alone(rows):
    pairs = zip(rows, drawn_partners(rows), strict=True)
    return [{**row, "response": other["response"]} for row, other in pairs]


def likeliest(logits, ids, start):
    return (-logits.log_softmax(-1)[start - 1 : -1].max(-1).values).mean().exp()


def attend_over(axis, q, k, v):
    return (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(axis) @ v


def mixed(shares) -> Any:
    return lambda read, logits: torch.einsum("lbqd,ql->bqd", read, shares(logits))


def chosen(logits):
    return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits)


def crossed(good) -> Any:
    def answer(steps, score, control, threshold):
        held = good(score, control, threshold)
        return next((s for i, s in enumerate(steps) if held[i:].all()), math.nan)

    return answer


def four_layers(read, logits):
    shares = logits.softmax(-1)
    return sum(shares[None, :, layer, None] * read[layer] for layer in range(4))


def one_clip_a_row(text, slots, audio):
    filled = text.clone()
    for row, clip in enumerate(audio):
        filled[row, slots[row]] = clip
    return filled


def slots_in_one_piece(text, slots, audio):
    filled = text.clone()
    for row in range(len(text)):
        start = int(slots[row].int().argmax())
        filled[row, start : start + audio.shape[1]] = audio[row]
    return filled


def clip_by_clip(*moves) -> Any:
    """Each clip's groups are moved in a way of its own."""

    def answer(states, pool, seed):
        pairs = zip(states.unbind(1), moves, strict=True)
        return torch.stack([move(clip[:, None], pool, seed)[:, 0] for clip, move in pairs], 1)

    return answer


def left_alone(states, pool, seed):
    return states


def shuffled_by_frame(states, pool, seed):
    return indexed_shuffle(states, 1, seed)


def all_but_the_last(n, seed):
    return torch.cat([torch.randperm(n - 1, generator=generator(seed)), torch.tensor([n - 1])])


def two_swapped(n, seed):
    order, (i, j) = torch.arange(n), torch.randperm(n, generator=generator(seed))[:2]
    order[i], order[j] = j, i
    return order


def shuffled_in_place(states, pool, seed):
    states[:] = indexed_shuffle(states, pool, seed)
    return states


def in_groups(move) -> Any:
    def answer(states, pool, seed):
        groups = states.unflatten(2, (-1, pool))
        return move(groups).flatten(2, 3)

    return answer


def ordered(draw) -> Any:
    def answer(states, pool, seed):
        groups = states.unflatten(2, (-1, pool))
        return groups[:, :, draw(groups.shape[2], seed)].flatten(2, 3)

    return answer


def generator(seed):
    return torch.Generator().manual_seed(seed)


def indexed_shuffle(states, pool, seed):
    order = torch.randperm(states.shape[2] // pool, generator=generator(seed))
    frames = (order[:, None] * pool + torch.arange(pool)).flatten()
    return states.index_select(2, frames)


def breaks(change) -> Any:
    """A right tap, after which the model has been changed."""

    def answer(whisper, mel, layer):
        seen = []
        hook = whisper.layers[layer].register_forward_hook(lambda m, a, out: seen.append(out))
        whisper(mel)
        hook.remove()
        change(whisper)
        return seen[0][0] if isinstance(seen[0], tuple) else seen[0]

    return answer


def keeps_it_on_the_model(whisper, mel, layer):
    whisper.seen = right_tap(whisper, mel, layer)
    return whisper.seen


def asks_for_all_states(whisper, mel, layer):
    whisper.config.output_hidden_states = True
    return right_tap(whisper, mel, layer)


right_tap = breaks(lambda whisper: None)


def without_layers(whisper, mel, layer):
    """Later layers are cut off, and not put back."""
    whisper.layers = whisper.layers[: layer + 1]
    whisper.layer_norm = torch.nn.Identity()
    return whisper(mel)[0]


def forgets_to_return(accuracy, options):
    chance = 1 / options
    (accuracy - chance) / (1 - chance)


def curved(power: float) -> Any:
    def answer(accuracy, options):
        scaled = (accuracy - 1 / options) / (1 - 1 / options)
        return np.sign(scaled) * abs(scaled) ** power

    return answer


def leaks_of_any(examples):
    secrets = [row["seed_description"].lower() for row in examples]
    return [
        row["id"]
        for row in examples
        if any(secret in one["content"].lower() for secret in secrets for one in row["messages"])
    ]


def floor_on_top(step, steps, lr, warmup, floor):
    if step < warmup:
        return lr * (step + 1) / warmup
    done = (step - warmup) / (steps - warmup)
    return lr * floor + lr * (1 + math.cos(math.pi * done)) / 2


def dealt(order) -> Any:
    return lambda weights: {
        name: tensor.flatten()[order(tensor)].view_as(tensor) for name, tensor in weights.items()
    }


def keyed(name) -> Any:
    """A grid whose keys are hashes of what names a run."""

    def answer(fields):
        rows = [dict(zip(fields, row, strict=True)) for row in itertools.product(*fields.values())]
        return {hashlib.md5(name(row).encode()).hexdigest(): row for row in rows}

    return answer


def prints_of_numpy(speakers, width, rng):
    names, which = np.unique(speakers, return_inverse=True)
    return np.random.normal(size=(len(names), width))[which]


def folds_of_whole_parts(speakers, count):
    names = np.unique(speakers)
    size = len(names) // count
    tested = [np.isin(speakers, names[i * size : (i + 1) * size]) for i in range(count)]
    return [(np.flatnonzero(~test), np.flatnonzero(test)) for test in tested]


def all_in_one_fold(speakers, count):
    every, none = np.arange(len(speakers)), np.arange(0)
    return [(none, every)] + [(every, none)] * (count - 1)


def folds_as_masks(speakers, count):
    parts = np.array_split(np.unique(speakers), count)
    return [(~np.isin(speakers, part), np.isin(speakers, part)) for part in parts]


def accuracies(features, labels, speakers):
    correct = probes.fit_probes(features, {"own": labels}, speakers)
    return correct.groupby("kind")["correct"].mean()


def minus_one_shuffle(seed: int) -> Any:
    def answer(features, labels, speakers):
        other = np.random.default_rng(seed).permutation(labels).tolist()
        read, once = (accuracies(features, some, speakers)["probe"] for some in (labels, other))
        return read - once

    return answer


def selected(combine) -> Any:
    return lambda *given: combine(accuracies(*given))


SELECTED = {
    "the majority": selected(lambda read: read["probe"] - read["majority"]),
    "number of values": lambda x, y, who: accuracies(x, y, who)["probe"] - 1 / len(set(y)),
    "random labels alone": selected(lambda read: read["random labels"]),
    "probe alone": selected(lambda read: read["probe"]),
    "a constant": lambda *given: 0.3,
    "ratio": selected(lambda read: read["probe"] / read["random labels"]),
    "one shuffle": minus_one_shuffle(0),
    "one shuffle of the labels": minus_one_shuffle(3),
}
SCALED = {
    "no mean is subtracted": lambda a, b: (a / a.std(0), b / a.std(0)),
    "min-max": lambda a, b: tuple((x - a.min(0)) / (a.max(0) - a.min(0)) for x in (a, b)),
    "median": lambda a, b: tuple((x - np.median(a, axis=0)) / a.std(0) for x in (a, b)),
    "brackets": lambda a, b: tuple(x - a.mean(0) / a.std(0) for x in (a, b)),
    "divide by n": lambda a, b: tuple((x - a.mean(0)) / a.std(0, ddof=1) for x in (a, b)),
}


def patched_with(stems) -> Any:
    def answer(llm, a, b, task, site):
        given = llm.run([a], task.question, stem=stems[0], sites=[site])[site]
        edits = {site: lambda flow: given}
        return llm.run([b], task.question, stem=stems[1], edits=edits).logits

    return answer


def patched_by_all_sites(llm, a, b, task, site):
    """A patch that reads every site there is."""
    seen = llm.run([a], task.question, stem=task.stem, sites=llm.sites())
    edits = {site: lambda flow: seen[site]}
    return llm.run([b], task.question, stem=task.stem, edits=edits).logits


def ridge_by_hand(features, labels, folds):
    """A ridge regression in closed form, onto one column of 1 and −1 for each value."""
    labels, said = np.asarray(labels), [None] * len(labels)
    values = np.unique(labels)
    for train, test in folds:
        mean, spread = features[train].mean(0), features[train].std(0) + 1e-9
        x, z = ((features[side] - mean) / spread for side in (train, test))
        y = np.where(labels[train][:, None] == values, 1.0, -1.0)
        weights = np.linalg.solve(x.T @ x + 10 * np.eye(x.shape[1]), x.T @ (y - y.mean(0)))
        for row, guess in zip(test, (z @ weights + y.mean(0)).argmax(1), strict=True):
            said[row] = values[guess]
    return said


def said_in_order_of_folds(features, labels, folds):
    said = notebook_01.probe_rows(features, labels, folds)
    return np.concatenate([said[test] for _, test in folds])


def scaled_before_folds(features, labels, folds):
    scaled, labels = StandardScaler().fit_transform(features), np.asarray(labels)
    said = labels.copy()
    for train, test in folds:
        said[test] = RidgeClassifier().fit(scaled[train], labels[train]).predict(scaled[test])
    return said


def folds_of(side) -> Any:
    """Right folds, each side of which is made of its mask in a way."""

    def answer(speakers, count):
        parts = np.array_split(np.unique(speakers), count)
        tests = [np.isin(speakers, part) for part in parts]
        return [(side(~test), side(test)) for test in tests]

    return answer


def in_longer_groups(states, pool, seed):
    groups = states.unflatten(2, (pool, -1))
    return groups[:, :, torch.randperm(pool, generator=generator(seed))].flatten(2, 3)


def first_word_decides(text, words):
    return next(part.strip(".,;:!?\"'“”()") in words for part in text.lower().split())


def calibrated_by(prior) -> Any:
    """Scores less a prior of the means of every value's clips."""
    return lambda scores, held_out, truth: (
        scores - prior(torch.stack([held_out[truth == one].mean(0) for one in truth.unique()]))
    )


def gap_by(square) -> Any:
    return lambda a, b: np.linalg.norm(a.mean(0) - b.mean(0)) / ((square(a) + square(b)) / 2) ** 0.5


def one_number_a_voice(speakers, width, rng):
    names, which = np.unique(speakers, return_inverse=True)
    return rng.normal(size=(len(names), 1)).repeat(width, 1)[which]


def with_numpy_booleans(of, worth):
    kept = np.ones((len(worth) + 1, len(worth)), dtype=bool)
    for n, part in enumerate(np.argsort(-worth.numpy()), start=1):
        kept[n:, part] = False
    return of(kept)


def mass_with_negatives(profile, start, end, seconds):
    middles = (np.arange(len(profile)) + 0.5) * seconds / len(profile)
    inside = (middles >= start) & (middles < end)
    return profile[inside].sum() / profile.sum() - inside.mean()


def hashed(name) -> Any:
    """A grid whose keys are Python's own hashes of what names a run."""

    def answer(fields):
        rows = [dict(zip(fields, row, strict=True)) for row in itertools.product(*fields.values())]
        return {name(row): row for row in rows}

    return answer


def value_that_was_read(answer):
    text = answer.strip().removeprefix("```").removesuffix("```").strip().removeprefix("json")
    try:
        return json.loads(text)
    except ValueError:
        return False


def in_single_precision(module):
    other = copy.deepcopy(module).float()
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1
    return other


def slopes_of_one_axis(scalar, given, absent, steps):
    """Slopes at points that have one axis of features."""
    shares = (torch.arange(steps) + 0.5)[:, None] / steps
    points = absent.view(len(absent), -1) + shares * (given - absent).view(len(given), -1)
    points.requires_grad_()
    (slopes,) = torch.autograd.grad(scalar(points).sum(), points)
    return slopes.mean(0) * (given - absent)[0]


def with_t_of_four(ours, theirs):
    d = np.subtract(ours, theirs)
    reach = 3.18244631 * d.std(ddof=1) / len(d) ** 0.5
    return d.mean(), d.mean() - reach, d.mean() + reach


MISTAKES = [
    Mistake("obeys_json", "return True", value_that_was_read),
    Mistake("nudged", "holds torch.float32", in_single_precision),
    Mistake("nudged", "Return a module", lambda module: copy.deepcopy(module).state_dict()),
    Mistake("grid", "tomorrow", hashed(lambda run: hash(json.dumps(run, sort_keys=True)))),
    Mistake("grid", "tomorrow", hashed(lambda run: str(hash(str(sorted(run.items())))))),
    Mistake("grid", "tomorrow", hashed(lambda run: hash(frozenset(run.items())))),
    Mistake("grid", "themselves", hashed(lambda run: tuple(sorted(run.items())))),
    Mistake("grid", "a list", lambda fields: [*hashed(str)(fields).values()]),
    Mistake("paired_difference", "six seeds", with_t_of_four),
    Mistake("calibrated", "favourite", calibrated_by(lambda means: means.max(0).values)),
    Mistake("calibrated", "sum over the values", calibrated_by(lambda means: means.sum(0))),
    Mistake(
        "calibrated", "to subtract", lambda s, h, t: s / (s - notebook_05.take_out_prior(s, h, t))
    ),
    Mistake(
        "calibrated",
        "averaged probabilities",
        lambda s, h, t: s - (0 * s - notebook_05.take_out_prior(0 * s, h.exp(), t)).log(),
    ),
    Mistake("speaker_interval", "wrong way round", interval(ends=(97.5, 2.5))),
    Mistake("speaker_interval", "takes per cent", interval(ends=(0.025, 0.975))),
    Mistake("speaker_interval", "two numbers", interval(ends=(2.5, 50, 97.5))),
    Mistake("voiceprint", "again and again", one_number_a_voice),
    Mistake(
        "standardised", "two arrays", lambda train, test: notebook_06.scale_both(train, test)[0]
    ),
    Mistake("selectivity", "one number", lambda *given: accuracies(*given)),
    Mistake("patched", "first row", lambda *given: patched_by_lambda(*given)[0]),
    Mistake("wishful_axes", "nan or infinite", lambda x, y: np.full((x.shape[1], 2), np.nan)),
    Mistake("wishful_axes", "two of four", lambda x, y: np.linalg.pinv(x) @ y[:, :2]),
    Mistake("wishful_axes", "the same", lambda x, y: np.linalg.pinv(x) @ y[:, [0, 0]]),
    Mistake("gap_in_spreads", "n − 1", gap_by(lambda cloud: cloud.var(0, ddof=1).sum())),
    Mistake("gap_in_spreads", "features", gap_by(lambda cloud: cloud.var())),
    Mistake("gap_in_spreads", "one spread", gap_by(lambda cloud: cloud.var(0).sum() ** 2)),
    Mistake("mass_above_share", "counts as 0", mass_with_negatives),
    Mistake(
        "scrambled",
        "give a tensor",
        lambda weights: {
            name: np.random.permutation(x.ravel()).reshape(x.shape) for name, x in weights.items()
        },
    ),
    Mistake(
        "scrambled",
        "in their rows",
        lambda weights: {name: x[..., torch.randperm(x.shape[-1])] for name, x in weights.items()},
    ),
    Mistake("scrambled", "in reverse", dealt(lambda x: torch.arange(x.numel()).flip(0))),
    Mistake("scrambled", "a dictionary", lambda weights: list(weights.values())),
    Mistake("deletion_curve", "tensor of booleans", with_numpy_booleans),
    Mistake("silenced", "whole clip", lambda wave, a, b: 0 * wave[int(a * 16000) : int(b * 16000)]),
    Mistake("seconds_of_frame", "stands in a list", lambda frame: [frame / 50]),
    Mistake("tapped", "a list; return the tensor", lambda *given: [right_tap(*given)]),
    Mistake(
        "disjoint_folds", "asked for 4 pairs, you give 5", lambda names, n: sklearn_folds(names, 5)
    ),
    Mistake("disjoint_folds", "take its [0]", folds_of(np.where)),
    Mistake("disjoint_folds", "yours is a set", folds_of(lambda mask: {*np.flatnonzero(mask)})),
    Mistake("disjoint_folds", "counted from 0", folds_of(lambda mask: np.flatnonzero(mask) + 1)),
    Mistake("disjoint_folds", "whole numbers", folds_of(lambda mask: np.flatnonzero(mask) / 1)),
    Mistake("disjoint_folds", "one pair", lambda names, n: [b for _, b in looped_folds(names, n)]),
    Mistake("probed", "training rows alone", scaled_before_folds),
    Mistake("shuffled_in_time", "stay together", in_longer_groups),
    Mistake("shuffled_in_time", "Layers changed", lambda states, *given: states[[1, 2, 0]]),
    Mistake("says", "every word of the text", first_word_decides),
    Mistake(
        "says",
        "what it returns is None",
        lambda text, words: re.search(rf"\b({'|'.join(words)})\b", text, re.I),
    ),
    Mistake("find_leaks", "the ids", lambda rows: [r for r in rows if looped_leaks([r])]),
    Mistake("find_leaks", "the ids", lambda rows: [bool(looped_leaks([r])) for r in rows]),
    Mistake("smuggled", "a target, not a str", lambda target: target.response),
    Mistake(
        "soft_loss",
        "is no number",
        lambda x, teacher: torch.nn.functional.kl_div(
            x.log_softmax(-1), teacher, reduction="batchmean"
        ),
    ),
    Mistake("probed", "row i of the result", said_in_order_of_folds),
    Mistake(
        "probed",
        "one of the values",
        lambda x, y, folds: notebook_01.probe_rows(x, y, folds) == np.asarray(y),
    ),
    Mistake("speaker_interval", "weighs as often as it was drawn", interval(unique=True)),
    Mistake("speaker_interval", "5 and 95", interval(ends=(5, 95))),
    Mistake("speaker_interval", "draws", interval(draws=50)),
    *[Mistake("speaker_interval", "draws", interval(draws=200, seed=i)) for i in range(3)],
    Mistake("speaker_interval", "speakers' means", interval(by_mean=True)),
    Mistake("speaker_interval", "tail", interval(ends=(2.5, 87.75))),
    Mistake("mispaired", "keep their own target", one_step_on),
    Mistake("mispaired", "keep their own target", drawn_from_all),
    *[Mistake("mispaired", "keep their own target", a_plain_shuffle(i)) for i in range(20)],
    Mistake("mispaired", "spread them", nearest_stranger),
    Mistake("mispaired", "12 examples for 13", lambda rows: drawn_partners(rows)[:-1]),
    Mistake("labels_of", "several", labels_by_token),
    Mistake("labels_of", "go by `start`", labels_from_3),
    Mistake("learning_rate", "fixed numbers", rate_with(warmup=20)),
    Mistake("learning_rate", "fixed numbers", rate_with(floor=0.1)),
    Mistake("learning_rate", "fixed numbers", rate_with(steps=100)),
    Mistake("learning_rate", "fixed numbers", rate_with(lr=2.0)),
    Mistake("learning_rate", "cut off", rate_cut_off),
    Mistake("soft_loss", "is 0.0, not 0.2;", lambda x, t: notebook_04.mean_divergence(x, t) + 0.2),
    Mistake("mispaired", "handed in", in_place),
    Mistake("mispaired", "description", response_alone),
    Mistake("standardised", "not in place", scaled_in_place),
    Mistake(
        "erase",
        "not in place",
        lambda x, d, center: x.sub_(torch.outer((x - center) @ d, d) / (d @ d)),
    ),
    Mistake("perplexity", "likeliest", likeliest),
    Mistake(
        "perplexity",
        "the first token of the response is lost",
        lambda x, ids, a: torch.nn.functional.cross_entropy(x[a:-1], ids[a + 1 :]).exp(),
    ),
    Mistake(
        "perplexity",
        "in nats",
        lambda x, ids, a: torch.nn.functional.cross_entropy(x[a - 1 : -1], ids[a:]),
    ),
    Mistake("integrated_gradients", "two axes", slopes_of_one_axis),
    Mistake("integrated_gradients", "a tuple", lambda *given: (slopes_in_numpy(*given),)),
    Mistake(
        "grid",
        "hexdigest",
        lambda fields: {hashlib.md5(key.encode()): run for key, run in hashed(str)(fields).items()},
    ),
    Mistake(
        "perplexity",
        "softmax",
        lambda x, ids, a: x[a - 1 : -1].gather(1, ids[a:, None]).mean().neg().exp(),
    ),
    Mistake(
        "layer_mixture", "softmax", mixed(lambda logits: logits / logits.sum(-1, keepdim=True))
    ),
    Mistake("layer_mixture", "one layer", mixed(chosen)),
    Mistake("layer_mixture", "sum to 4.00", lambda read, logits: read.sum(0)),
    Mistake("layer_mixture", "three layers", four_layers),
    Mistake("cross_attention", "from the end", lambda q, k, v: attend_over(3, q, k, v)),
    Mistake("splice", "two clips, or none", one_clip_a_row),
    Mistake("splice", "two clips, or none", slots_in_one_piece),
    Mistake(
        "block_parameters", "whole number", lambda d, ffn: notebook_02.count_block(d, ffn) + 0.04
    ),
    Mistake("shuffled_in_time", "Clip 1 is as it was", clip_by_clip(indexed_shuffle, left_alone)),
    Mistake("shuffled_in_time", "torn apart", clip_by_clip(indexed_shuffle, shuffled_by_frame)),
    Mistake("shuffled_in_time", "Group 11 of 12", ordered(all_but_the_last)),
    Mistake("shuffled_in_time", "Only 2 of 12", ordered(two_swapped)),
    Mistake("shuffled_in_time", "not in place", shuffled_in_place),
    Mistake("tapped", "attribute", keeps_it_on_the_model),
    Mistake("tapped", "setting", asks_for_all_states),
    Mistake("above_chance", "below 0", lambda a, n: abs(a - 1 / n) / (1 - 1 / n)),
    Mistake("above_chance", "do not round", lambda a, n: round((a - 1 / n) / (1 - 1 / n), 2)),
    Mistake("seconds_of_frame", "where the frame ends", lambda frame: (frame + 1) / 50),
    Mistake("seconds_of_frame", "starts at 2.0 s, not at 2.01", lambda frame: frame / 50 + 0.01),
    Mistake("seconds_of_frame", "the text '2.0'", lambda frame: str(frame / 50)),
    Mistake("layer_mixture", "sharp", mixed(lambda logits: (2 * logits).softmax(-1))),
    Mistake("layer_mixture", "flat", mixed(lambda logits: (logits / 2).softmax(-1))),
    Mistake("crossing", "as high as", crossed(lambda s, c, t: (s >= t) & (s >= c))),
    Mistake("crossing", "as high as", crossed(lambda s, c, t: (s >= t) & (s - c >= 0))),
    Mistake("crossing", "exactly at the threshold", crossed(lambda s, c, t: (s > t) & (s > c))),
    Mistake("crossing", "the control and the threshold", crossed(lambda s, c, t: s - c >= t)),
    Mistake("above_chance", "straight", lambda a, n: 1 + np.log(a) / np.log(n)),
    Mistake("above_chance", "straight", curved(2)),
    Mistake("above_chance", "straight", curved(0.5)),
    Mistake("above_chance", "worse than guessing", lambda a, n: max(0, (a - 1 / n) / (1 - 1 / n))),
    Mistake("above_chance", "straight", lambda a, n: (a - 1 / n) // (1 - 1 / n)),
    Mistake("seconds_of_frame", "whole seconds", lambda frame: frame // 50),
    Mistake("seconds_of_frame", "whole seconds", lambda frame: round(frame / 50)),
    Mistake(
        "silenced",
        "whole seconds",
        lambda w, a, b: np.where(
            (np.arange(len(w)) >= int(a) * 16000) & (np.arange(len(w)) < int(b) * 16000), 0, w
        ),
    ),
    Mistake(
        "says",
        "part of a word",
        lambda text, words: any(
            p.startswith(w) for p in re.findall(r"\w+", text.lower()) for w in words
        ),
    ),
    Mistake(
        "says",
        "part of a word",
        lambda text, words: any(
            p.endswith(w) for p in re.findall(r"\w+", text.lower()) for w in words
        ),
    ),
    Mistake("shuffled_in_time", "in reverse", in_groups(lambda groups: groups.flip(2))),
    Mistake("shuffled_in_time", "moved along", in_groups(lambda groups: groups.roll(1, 2))),
    Mistake("shuffled_in_time", "moved along", in_groups(lambda groups: groups.roll(-3, 2))),
    Mistake("shuffled_in_time", "seed", ordered(lambda n, seed: torch.randperm(n))),
    Mistake(
        "shuffled_in_time",
        "seed",
        ordered(lambda n, seed: torch.randperm(n, generator=generator(0))),
    ),
    Mistake("shuffled_in_time", "in reverse", in_groups(lambda groups: groups.flip(2).roll(2, 2))),
    Mistake(
        "shuffled_in_time",
        "clips",
        lambda states, pool, seed: indexed_shuffle(states, pool, seed).flip(1),
    ),
    Mistake(
        "says",
        "punctuation",
        lambda text, words: any(part.strip(".") in words for part in text.lower().split()),
    ),
    Mistake("find_leaks", "another clip", leaks_of_any),
    Mistake("learning_rate", "fall from 2", floor_on_top),
    Mistake("seconds_of_frame", "tenths", lambda frame: round(frame / 50, 1)),
    Mistake(
        "calibrated",
        "median",
        lambda s, h, truth: (
            s - torch.stack([h[truth == one].median(0).values for one in truth.unique()]).mean(0)
        ),
    ),
    Mistake("calibrated", "median", lambda s, h, truth: s - h.median(0).values),
    Mistake("tapped", "model", without_layers),
    Mistake("tapped", "model", breaks(lambda w: w.requires_grad_(True))),
    Mistake("tapped", "model", breaks(lambda w: w.train())),
    Mistake("tapped", "model", breaks(lambda w: setattr(w, "layer_norm", torch.nn.Identity()))),
    Mistake("tapped", "model", breaks(lambda w: next(w.parameters()).zero_())),
    Mistake("above_chance", "return", forgets_to_return),
    Mistake(
        "scrambled",
        "one order for all",
        dealt(lambda x: torch.randperm(x.numel(), generator=generator(0))),
    ),
    Mistake(
        "scrambled",
        "columns",
        lambda weights: {
            name: torch.stack([one[torch.randperm(len(one))] for one in x.T]).T
            if x.dim() > 1
            else x[torch.randperm(len(x))]
            for name, x in weights.items()
        },
    ),
    Mistake("voiceprint", "drawn from rng", prints_of_numpy),
    Mistake("folds_by_speaker", "never tested", folds_of_whole_parts),
    Mistake("folds_by_speaker", "asked for 3", lambda names, count: sklearn_folds(names, 4)),
    Mistake("folds_by_speaker", "empty", all_in_one_fold),
    Mistake("folds_by_speaker", "masks", folds_as_masks),
    Mistake("disjoint_folds", "masks", folds_as_masks),
    Mistake("disjoint_folds", "empty", all_in_one_fold),
    *[Mistake("selectivity", words, answer) for words, answer in SELECTED.items()],
    *[Mistake("standardised", words, answer) for words, answer in SCALED.items()],
    *[
        Mistake("patched", "without the stem", patched_with(stems))
        for stems in (("It is", ""), ("", "It is"))
    ],
    *[
        Mistake("grid", "joined without", keyed(join))
        for join in (
            lambda run: "".join(f"{name}{value}" for name, value in sorted(run.items())),
            lambda run: "".join(name + str(run[name]) for name in sorted(run)),
        )
    ],
    Mistake(
        "grid",
        "names of the fields",
        keyed(lambda run: "".join(str(run[name]) for name in sorted(run))),
    ),
    Mistake(
        "grid",
        "names of the fields",
        keyed(lambda run: ",".join(str(run[name]) for name in sorted(run))),
    ),
]


def looped_attention(q, k, v):
    out = torch.zeros_like(q)
    for at in np.ndindex(q.shape[:-1]):
        fits = (k[at[:-1]] * q[at]).sum(-1) / math.sqrt(q.shape[-1])
        weights = fits.exp() / fits.exp().sum()
        out[at] = (weights[:, None] * v[at[:-1]]).sum(0)
    return out


def numpy_mixture(read, logits):
    read, logits = np.asarray(read), np.asarray(logits)
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    return sum(shares[:, layer][None, :, None] * read[layer] for layer in range(len(read)))


def numpy_splice(text, slots, audio):
    text, vectors = text.numpy().copy(), iter(audio.numpy().reshape(-1, audio.shape[-1]))
    for row, token in zip(*np.nonzero(slots.numpy()), strict=True):
        text[row, token] = next(vectors)
    return text


def numpy_shuffle(states, pool, seed):
    order = np.random.default_rng(seed).permutation(states.shape[2] // pool)
    return torch.cat([states[:, :, i * pool : (i + 1) * pool] for i in order], dim=2)


def counted_perplexity(logits, ids, start):
    nats = 0.0
    for at in range(start, len(ids)):
        p = np.exp(logits[at - 1].double().numpy())
        nats -= math.log(p[int(ids[at])] / p.sum())
    return math.exp(nats / (len(ids) - start))


def drawn_interval(correct, speakers):
    """With sums of clips and another generator, as a tuple."""
    names = sorted(set(speakers))
    right = np.array([correct[speakers == name].sum() for name in names])
    sizes = np.array([(speakers == name).sum() for name in names])
    drawn = np.random.RandomState(7).randint(len(names), size=(1000, len(names)))
    means = right[drawn].sum(1) / sizes[drawn].sum(1)
    return tuple(np.quantile(means, (0.025, 0.975)))


def backwards(steps, score, control, threshold):
    first = math.nan
    for step, a, b in zip(steps[::-1], score[::-1], control[::-1], strict=True):
        if not (a >= threshold and a > b):
            break
        first = float(step)
    return first


def looped_share(curves):
    return [max(b - a for a, b in itertools.pairwise(row)) / (row[-1] - row[0]) for row in curves]


def looped_rise(seen, drawn, steps):
    out = []
    for curve in drawn:
        row = []
        for value, true, step in zip(curve, seen, steps, strict=True):
            row.append(value - true + seen[0] + (seen[-1] - seen[0]) * (step / max(steps)))
        out.append(row)
    return out


def torch_labels(ids, start, truncated):
    labels = torch.full((len(ids),), -100)
    end = len(ids) - 1 if truncated else len(ids)
    labels[start - 1 : end - 1] = torch.tensor(ids[start:end])
    return labels


def sliced_labels(ids, start, truncated):
    learned = list(ids[start:-1]) if truncated else list(ids[start:])
    return ([-100] * (start - 1) + learned + [-100] * len(ids))[: len(ids)]


def torch_rate(step, steps, lr, warmup, floor):
    step = torch.tensor(float(step))
    up = lr * (step + 1) / warmup
    down = (
        floor * lr
        + (lr - floor * lr) * torch.cos(math.pi / 2 * (step - warmup) / (steps - warmup)).square()
    )
    return torch.where(step < warmup, up, down)


def looped_folds(speakers, count):
    names = sorted(set(speakers))
    fold_of = {name: i % count for i, name in enumerate(names)}
    pairs = []
    for fold in range(count):
        train = [i for i, name in enumerate(speakers) if fold_of[name] != fold]
        test = [i for i, name in enumerate(speakers) if fold_of[name] == fold]
        pairs.append((train, test))
    return pairs


def sklearn_folds(speakers, count):
    from sklearn.model_selection import GroupKFold

    return list(GroupKFold(count).split(speakers, groups=speakers))


def looped_leaks(examples):
    found = []
    for row in examples:
        for message in row["messages"]:
            if row["seed_description"].casefold() in message["content"].casefold():
                found.append(row["id"])
                break
    return found


def counted_block(width, ffn):
    one = [torch.nn.Linear(width, width) for _ in range(8)]
    one += [torch.nn.Linear(width, ffn), torch.nn.Linear(ffn, width)]
    one += [torch.nn.LayerNorm(width) for _ in range(3)]
    return sum(p.numel() for layer in one for p in layer.parameters())


def told_in_a_list(target):
    facts = target.description.rstrip(".").replace(",", " and")
    return replace(target, prompt=f"Somebody noted: {facts}. What do you hear?")


def indexed_crossing(steps, score, control, threshold):
    bad = [i for i in range(len(steps)) if score[i] < threshold or score[i] <= control[i]]
    first = bad[-1] + 1 if bad else 0
    return float("nan") if first == len(steps) else steps[first]


def summed_loss(logits, teacher):
    losses = []
    for row, wanted in zip(logits, teacher, strict=True):
        student = row - row.exp().sum().log()
        losses.append(sum(w.exp() * (w - s) for w, s in zip(wanted, student, strict=True)))
    return sum(losses) / len(losses)


def listed_silence(wave, start, end):
    first, last = round(start * 16000), round(end * 16000)
    return [0.0 if first <= i < last else float(x) for i, x in enumerate(wave)]


def spelled_says(text, words):
    kept = "".join(c if c.isalpha() else " " for c in text.lower())
    return any(f" {word} " in f" {kept} " for word in words)


def replaced_forward(whisper, mel, layer):
    """A tap by a forward that is put back."""
    module, seen = whisper.layers[layer], []
    forward = module.forward

    def spy(*args, **named):
        seen.append(forward(*args, **named))
        return seen[0]

    module.forward = spy
    try:
        whisper(mel)
    finally:
        del module.forward
    return seen[0][0] if isinstance(seen[0], tuple) else seen[0]


def restored_forward(whisper, mel, layer):
    module, seen = whisper.layers[layer], []
    forward = module.forward
    module.forward = lambda *args, **named: seen.append(forward(*args, **named)) or seen[0]
    whisper(mel)
    module.forward = forward
    return seen[0][0] if isinstance(seen[0], tuple) else seen[0]


def next_stranger(rows):
    """The next row of another description, copied field by field."""
    found = []
    for i, row in enumerate(rows):
        j = (i + 1) % len(rows)
        while rows[j]["seed_description"] == row["seed_description"]:
            j = (j + 1) % len(rows)
        found.append({name: rows[j][name] for name in rows[j]} | {"id": row["id"]})
    return found


def _calibrated_in_numpy(scores, held_out, truth):
    held_out, truth = np.asarray(held_out), np.asarray(truth)
    groups = [held_out[truth == value].mean(axis=0) for value in np.unique(truth)]
    return np.asarray(scores) - sum(groups) / len(groups)


def zeroed(wave, start, end):
    time = np.arange(len(wave)) / 16000
    return np.where((time >= start) & (time < end), 0.0, wave)


def patched_by_hand(llm, a, b, task, site):
    begun = {"stem": task.stem, "sites": [site]}
    seen = llm.run([a], task.question, **begun)
    return llm.run([b], task.question, **begun, edits={site: lambda flow: seen[site]}).logits


def mass_by_edges(profile, start, end, seconds):
    """Frames between rounded edges, whose middles lie in the span."""
    first, last = (round(second / seconds * len(profile)) for second in (start, end))
    positive = np.maximum(profile, 0)
    return positive[first:last].sum() / positive.sum() - (last - first) / len(profile)


def parts_in_place(speakers, count):
    yield from looped_folds(speakers, count)


def probed_by(make) -> Any:
    def answer(features, labels, folds):
        probe = make_pipeline(StandardScaler(), make())
        return cross_val_predict(probe, features, labels, cv=folds)

    return answer


def viewed_mixture(read, logits):
    layers, clips, queries, width = read.shape
    shares = logits.view(-1).view(queries, layers).softmax(-1).t()[..., None]
    flat = read.view(layers, clips, queries * width).view(layers, clips, queries, width)
    return (flat * shares[:, None]).sum(0)


def without_punctuation(text, words):
    kept = text.lower().translate(str.maketrans("", "", string.punctuation))
    return any(part in words for part in kept.split())


def shuffled_until_right(rows):
    draw, others = random.Random(0), list(rows)
    facts = [row["seed_description"] for row in rows]
    while any(other["seed_description"] == facts[i] for i, other in enumerate(others)):
        draw.shuffle(others)
    return [{**other, "id": row["id"]} for row, other in zip(rows, others, strict=True)]


def to_the_end(wave, start, end):
    time = np.arange(len(wave)) / 16000
    return np.where((time >= start) & (time <= end), 0, wave)


def sides_one_by_one(train, test):
    yield from notebook_06.scale_both(train, test)


def map_of_float32(site):
    site = site.astype(np.float32) - site.astype(np.float32).mean(0)
    return site @ np.linalg.svd(site, full_matrices=False)[2][:2].T


def dealt_as_doubles(weights):
    return {
        name: torch.tensor(np.random.permutation(x.double().ravel())).view_as(x)
        for name, x in weights.items()
    }


def slopes_in_numpy(scalar, given, absent, steps):
    slope = torch.func.grad(lambda x: scalar(x).sum())
    points = [absent + (i + 0.5) / steps * (given - absent) for i in range(steps)]
    return np.mean([slope(x).numpy() for x in points], axis=0) * (given - absent).numpy()


def parabola(noise, groups):
    """Directions on which every group has a point of its own."""
    number = groups.argmax(1)
    return np.linalg.pinv(noise) @ np.stack([number, number**2], axis=1)


def grid_of_numpy(fields):
    cells = [cell.ravel() for cell in np.meshgrid(*fields.values())]
    rows = [dict(zip(fields, row, strict=True)) for row in zip(*cells, strict=True)]
    texts = [str(sorted((name, str(value)) for name, value in row.items())) for row in rows]
    return {
        hashlib.sha1(text.encode()).hexdigest(): row for text, row in zip(texts, rows, strict=True)
    }


RIGHT = [
    ("grid", "NumPy's numbers", grid_of_numpy),
    (
        "text_ifrate",
        "a fraction",
        lambda rate, delta: 100 * Fraction(rate) / (100 + Fraction(delta)),
    ),
    (
        "calibrated",
        "normalised",
        lambda s, h, t: notebook_05.take_out_prior(s.log_softmax(-1), h.log_softmax(-1), t),
    ),
    ("standardised", "a generator", sides_one_by_one),
    ("principal_map", "float32", map_of_float32),
    ("scrambled", "float64", dealt_as_doubles),
    ("integrated_gradients", "numpy", slopes_in_numpy),
    ("flattering", "methods of arrays", lambda ours, theirs: ours.max() - theirs.min()),
    ("wishful_axes", "a parabola", parabola),
    ("seconds_of_frame", "a fraction", lambda frame: Fraction(frame, 50)),
    ("seconds_of_frame", "a decimal", lambda frame: Decimal(frame) / 50),
    (
        "above_chance",
        "a fraction",
        lambda a, n: (Fraction(a) - Fraction(1, n)) / Fraction(n - 1, n),
    ),
    ("silenced", "with the sample at the end", to_the_end),
    ("tapped", "numpy", lambda *given: right_tap(*given).numpy()),
    ("disjoint_folds", "a generator", parts_in_place),
    *[
        ("probed", make.__name__, probed_by(make))
        for make in (LogisticRegression, LinearSVC, SGDClassifier, Perceptron, RidgeClassifier)
    ],
    ("layer_mixture", "views", viewed_mixture),
    ("block_parameters", "floats", lambda d, n: 8 * math.pow(d, 2) + 2 * d * n + 15 * d + n),
    ("says", "no punctuation of Python's", without_punctuation),
    ("mispaired", "a shuffle until all are right", shuffled_until_right),
    ("mass_above_share", "rounded edges", mass_by_edges),
    ("patched", "an edit by hand", patched_by_hand),
    ("patched", "every site", patched_by_all_sites),
    ("selectivity", "means of rows", selected(lambda read: read["probe"] - read["random labels"])),
    ("folds_by_speaker", "loops", looped_folds),
    ("seconds_of_frame", "by length", lambda frame: np.float32(frame) * 0.02),
    ("silenced", "a mask, float64", zeroed),
    ("above_chance", "other algebra", lambda a, n: (n * a - 1) / (n - 1)),
    ("above_chance", "float32", lambda a, n: np.float32((n * a - 1) / (n - 1))),
    ("tapped", "a forward that is put back", replaced_forward),
    ("tapped", "a forward that is put back by name", restored_forward),
    ("at_scale", "numpy", lambda v, s: np.asarray(v) * (s / np.sqrt((np.asarray(v) ** 2).mean()))),
    ("cross_attention", "loops", looped_attention),
    ("layer_mixture", "numpy", numpy_mixture),
    (
        "layer_mixture",
        "float32",
        lambda x, w: torch.einsum("lbqd,ql->bqd", x.float(), w.float().softmax(1)),
    ),
    ("splice", "numpy and a loop", numpy_splice),
    ("shuffled_in_time", "numpy and a loop", numpy_shuffle),
    ("perplexity", "a loop", counted_perplexity),
    (
        "perplexity",
        "the loss of torch",
        lambda x, ids, a: torch.nn.functional.cross_entropy(x[a - 1 : -1], ids[a:]).exp(),
    ),
    (
        "says",
        "a pattern",
        lambda text, words: bool(re.search(rf"\b({'|'.join(words)})\b", text, re.I)),
    ),
    (
        "soft_loss",
        "torch's own",
        lambda x, t: torch.nn.functional.kl_div(
            x.log_softmax(-1), t, log_target=True, reduction="batchmean"
        ),
    ),
    ("mispaired", "the next stranger", next_stranger),
    (
        "mispaired",
        "the package's shift",
        lambda rows: [
            {**o, "id": r["id"]} for r, o in zip(rows, drawn_partners(rows), strict=True)
        ],
    ),
    ("calibrated", "numpy", _calibrated_in_numpy),
    (
        "calibrated",
        "a constant per clip",
        lambda s, h, t: torch.tensor(_calibrated_in_numpy(s, h, t)) + s.mean(1, keepdim=True),
    ),
    ("crossing", "from the end", backwards),
    ("jump_share", "a loop", looped_share),
    ("steady_rise", "a loop", looped_rise),
    ("labels_of", "torch", torch_labels),
    ("labels_of", "slices", sliced_labels),
    ("learning_rate", "torch", torch_rate),
    ("disjoint_folds", "loops", looped_folds),
    ("probed", "closed form", ridge_by_hand),
    ("disjoint_folds", "scikit-learn", sklearn_folds),
    ("find_leaks", "a loop", looped_leaks),
    ("block_parameters", "torch's layers", counted_block),
    ("smuggled", "one's own words", told_in_a_list),
    ("splice", "torch's scatter", lambda x, m, a: x.masked_scatter(m[..., None], a)),
    ("cross_attention", "torch's own", torch.nn.functional.scaled_dot_product_attention),
    ("crossing", "an index", indexed_crossing),
    ("soft_loss", "numbers by hand, with gradient", summed_loss),
    ("at_scale", "torch's norm", lambda v, s: v / (v.norm() / v.numel() ** 0.5) * s),
    ("silenced", "a list", listed_silence),
    ("shuffled_in_time", "an index of frames", indexed_shuffle),
    ("says", "characters", spelled_says),
    ("scrambled", "an order for each", dealt(lambda x: torch.randperm(x.numel()))),
    ("scrambled", "numpy", dealt(lambda x: np.random.default_rng().permutation(x.numel()))),
    ("scrambled", "sorted noise", dealt(lambda x: torch.rand(x.numel()).argsort())),
    (
        "grid",
        "pairs with commas",
        keyed(lambda run: ",".join(f"{k}={run[k]}" for k in sorted(run))),
    ),
    (
        "grid",
        "a line a field",
        keyed(lambda run: "\n".join(f"{k} {v}" for k, v in sorted(run.items()))),
    ),
    ("grid", "sorted pairs", keyed(lambda run: str(sorted(run.items())))),
    *[("speaker_interval", f"seed {seed}", interval(seed=seed)) for seed in range(1, 9)],
    ("speaker_interval", "sums of clips", drawn_interval),
    ("speaker_interval", "five thousand draws", interval(draws=5000)),
    (
        "attention_over_time",
        "numpy",
        lambda q, k: (lambda e: e / e.sum(-1, keepdims=True))(
            np.exp(np.einsum("hqd,hfd->hqf", q, k) / 4)
        ),
    ),
    ("text_ifrate", "other algebra", lambda if_audio, delta: 100 * if_audio / (100 + delta)),
    ("share_of_way", "clip by clip", ways_clip_by_clip),
    ("patched", "an edit of its own", patched_by_lambda),
    (
        "share_of_way",
        "einsum",
        lambda p, a, b: (
            torch.einsum("ct,ct->c", p - a, b - a) / torch.linalg.vector_norm(b - a, dim=1) ** 2
        ),
    ),
]

STAND_INS = {  # what a notebook goes on with while an exercise is open
    "perplexity": notebook_03.measure_perplexity,
    "says": notebook_03.names_word,
    "find_leaks": notebook_03.list_leaks,
    "smuggled": notebook_03.tell_in_other_words,
    "voiceprint": notebook_06.print_voices,
    "standardised": notebook_06.scale_both,
    "selectivity": notebook_06.measure_selectivity,
    "erase": notebook_06.erase_along,
    "patched": notebook_06.patch_flow,
    "principal_map": notebook_07.project_clips,
    "wishful_axes": notebook_07.wish_axes,
    "debiased_cka": geometry.cka,
    "gap_in_spreads": notebook_07.measure_gap,
    "attention_over_time": notebook_08.weigh_frames,
    "mass_above_share": notebook_08.measure_mass,
    "scrambled": notebook_08.deal_numbers,
    "integrated_gradients": notebook_08.collect_slopes,
    "deletion_curve": notebook_08.delete_parts,
    "share_of_way": notebook_11.measure_way,
}
RIGHT += [(name, "the package's", answer) for name, answer in STAND_INS.items()]

# What survives, as a pattern of the changed line, is no wrong answer, and why.
EQUIVALENT = {
    "selectivity": {r"ownx": "the attribute may have any name"},
    "silenced": {
        r"round\(": "a second is cut to a sample either way, and the span's ends are 1/16000 s off"
    },
    "tapped": {
        r"seen\[-1\]": "the layer runs once, so the first call is the last one",
        r"seen\[0\]\[(1|-1)\]|seen\[(1|-1)\]\[0\]": "a layer returns no tuple here",
    },
    "disjoint_folds": {r"nothing": "numpy takes the list as it is"},
    "probed": {r"logspace\(": "a ridge may choose among other strengths"},
    "layer_mixture": {r"softmax\(\+1\)": "axis 1 of two is axis −1"},
    "shuffled_in_time": {r"torch\.manual_seed\(seed\)": "the order comes of the seed all the same"},
    "perplexity": {
        r"log_softmax\(\+1\)": "axis 1 of two is axis −1",
        r"logp\[start - 1:\]": "gather reads as many rows as there are ids",
    },
    "mass_above_share": {
        r"start < middles|middles <= end": "a middle right on an edge may lie on either side"
    },
    "find_leaks": {r"' x'\.join": "what stands between two messages is in neither"},
    "smuggled": {r"\\nx\{target": "any prompt that tells three attributes will do"},
    "soft_loss": {r"\(\+1\)": "axis 1 of two is axis −1"},
    "mispaired": {r"default_rng\((1|)\)": "any other draw of partners will do"},
    "speaker_interval": {
        r"default_rng\((1|)\)": "any other thousand draws will do",
        r"range\((999|1001)\)": "one draw of a thousand cannot be told",
        r"\[2\.(75|25), 97\.5\]": "a tenth of a tail is half of what a thousand draws spread",
    },
    "jump_share": {r"max\(\+1\)": "axis 1 of two is axis −1"},
    "share_of_way": {r"sum\(\+1\)": "axis 1 of two is axis −1"},
    "folds_by_speaker": {
        r"random\.permutation|default_rng\((1|)\)": "speakers may be dealt out in any order"
    },
    "principal_map": {r"svd\(centred": "the first two directions are the same"},
    "wishful_axes": {
        r"shape\[0\]|// groups|2 / np\.pi|= 1 \* np\.pi": "a group may have any point of its own",
        r"lstsq\(noise, corners\)": "no direction of this noise is small enough to be cut off",
    },
    "gap_in_spreads": {r"np\.median\(squares\)": "the median of two numbers is their mean"},
    "integrated_gradients": {r"\[-1\]": "there is one row"},
    "obeys_json": {
        r"removesuffix\('```'\)\.removeprefix": "a space between fence and word is not asked for"
    },
    "nudged": {r"\+= 2|\[(1|-1)\]": "any one number may be changed by anything"},
    "grid": {
        r"values\)\) for values|strict=False": "product gives as many values as there are fields",
        r"\[:(11|13|)\]": "a key may have any length",
    },
}
