"""Checks of notebook 06: sides of a split, scales, probes, a direction taken out, a patch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from desta_lab.analysis import interventions, probes
from desta_lab.course.checks import (
    Wrong,
    catches,
    expect,
    expect_number,
    expect_shape,
    load_checks,
    same,
)
from desta_lab.course.checks.notebook_01 import Folds, fold_by_speaker, judge_folds

Sides = tuple[np.ndarray, np.ndarray]
_SPEAKERS = np.random.default_rng(1).permutation([f"voice {i}" for i in range(8) for _ in range(3)])


def print_voices(speakers: np.ndarray, width: int, rng: np.random.Generator) -> np.ndarray:
    """A row of normal numbers for every clip, the same for all clips of a speaker."""
    names, which = np.unique(speakers, return_inverse=True)
    return rng.normal(size=(len(names), width))[which]


@catches("another print for every clip", lambda who, width, rng: rng.normal(size=(len(who), width)))
@catches(
    "the same print for everyone",
    lambda who, n, rng: 0 * print_voices(who, n, rng) + rng.normal(size=n),
)
@catches("not drawn from rng", lambda who, n, rng: print_voices(who, n, np.random.default_rng(7)))
@catches("not normal", lambda who, n, rng: 1 - 2.0 * (print_voices(who, n, rng) < 0))
@catches("one row a speaker", lambda who, n, rng: rng.normal(size=(len(np.unique(who)), n)))
def voiceprint(answer: Callable[..., np.ndarray]) -> None:
    """Noise that tells who speaks, and nothing else."""
    got, again = (
        np.asarray(answer(_SPEAKERS, 200, np.random.default_rng(seed))) for seed in (0, 1)
    )
    if got.shape == (8, 200):
        raise Wrong("Eight rows for 24 clips: one row a speaker, not a clip. Index by speaker.")
    expect_shape(got, (24, 200), "(clip, width)")
    if (got == got[0]).all():
        raise Wrong("This is the same print for everyone, so nobody can be told from anybody.")
    prints = [np.unique(got[name == _SPEAKERS], axis=0) for name in np.unique(_SPEAKERS)]
    if any(len(rows) > 1 for rows in prints):
        raise Wrong("Clips of one speaker differ: another print for every clip is noise, no voice.")
    if len(np.unique(got, axis=0)) < 8:
        raise Wrong("Some speakers share a print; draw one for each.")
    if (got == got[:, :1]).all():
        raise Wrong("A clip has one number, again and again: draw `width` numbers for a speaker.")
    if not 0.8 < got.std() < 1.2:
        raise Wrong(f"The standard deviation of the numbers should be 1; yours is {got.std():.2f}.")
    if not 0.6 < (abs(got) < 1).mean() < 0.76:
        raise Wrong("Two thirds of normal numbers lie between -1 and 1, so yours are not normal.")
    if (got == again).any():
        raise Wrong("Two generators give some of the same numbers: not drawn from rng.")
    if not same(got, answer(_SPEAKERS, 200, np.random.default_rng(0))):
        raise Wrong("Two generators of one seed give other numbers: not all are drawn from rng.")


def _by_clip(speakers: np.ndarray, count: int) -> Folds:
    parts = np.array_split(np.random.default_rng(0).permutation(len(speakers)), count)
    return [(np.setdiff1d(np.arange(len(speakers)), part), part) for part in parts]


def _drop(folds: Folds) -> Folds:
    return [(train[::3], test) for train, test in folds]


@catches("speaker overlap", _by_clip)
@catches("never tested", lambda *given: [(a, b[:-1]) for a, b in fold_by_speaker(*given)])
@catches("training rows are thrown away", lambda *given: _drop(fold_by_speaker(*given)))
def folds_by_speaker(answer: Callable[[np.ndarray, int], Folds]) -> None:
    """Folds in which no speaker is on both sides."""
    for count in (4, 3):
        judge_folds(answer(_SPEAKERS, count), _SPEAKERS, count)


def _scaled(x: np.ndarray, seen: np.ndarray, axis: int | None = 0) -> np.ndarray:
    scaled: np.ndarray = (x - seen.mean(axis, keepdims=True)) / seen.std(axis, keepdims=True)
    return scaled


def scale_both(train: np.ndarray, test: np.ndarray) -> Sides:
    """Both sides on the scale of the training clips."""
    return _scaled(train, train), _scaled(test, train)


def _on_both(train: np.ndarray, test: np.ndarray) -> Sides:
    both = np.concatenate([train, test])
    return _scaled(train, both), _scaled(test, both)


def _by(middle: Callable[..., Any], spread: Callable[..., Any]) -> Callable[..., Sides]:
    """Both sides on another scale of the training clips."""

    def scale(train: np.ndarray, test: np.ndarray) -> Sides:
        own, width = middle(train, 0), spread(train, 0)
        return (train - own) / width, (test - own) / width

    return scale


_SCALES: dict[str, Callable[[np.ndarray, np.ndarray], Sides]] = {
    "Test clips in the scaler: take μ and σ from the training clips alone.": _on_both,
    "The test clips are on a scale of their own.": lambda a, b: (_scaled(a, a), _scaled(b, b)),
    "This is one mean for all features; take one for each (axis 0).": lambda a, b: (
        _scaled(a, a, None),
        _scaled(b, a, None),
    ),
    "Rows have mean 0: every clip is on a scale of its own. Scale features.": lambda a, b: (
        _scaled(a, a, 1),
        _scaled(b, b, 1),
    ),
    "No mean is subtracted: this only divides by σ.": _by(lambda x, axis: 0, np.std),
    "This only subtracts the mean: divide by σ, too.": _by(np.mean, lambda x, axis: 1),
    "This is min-max scaling: subtract the mean, divide by the standard deviation.": _by(
        np.min, np.ptp
    ),
    "This subtracts the median; subtract the mean.": _by(np.median, np.std),
    "Brackets are missing: (feature − μ) / σ, not feature − μ / σ.": lambda a, b: (
        a - a.mean(0) / a.std(0),
        b - a.mean(0) / a.std(0),
    ),
    "σ is divided by n − 1 (ddof=1); divide by n, the number of training clips.": _by(
        np.mean, lambda x, axis: x.std(axis, ddof=1)
    ),
    "This divides by the variance; divide by σ, its root.": _by(np.mean, np.var),
}


def standardised(answer: Callable[[np.ndarray, np.ndarray], Sides]) -> None:
    """Both sides on one scale, learned from the training clips alone."""
    rng = np.random.default_rng(0)
    train = rng.normal([2, 5, -3], [1, 10, 0.1], (40, 3))
    test = rng.normal([4, 9, -2], [3, 1, 0.5], (12, 3))
    sides = [*answer(train.copy(), test.copy())]
    if len(sides) != 2:
        raise Wrong("Return two arrays: the training clips and the test clips, both scaled.")
    a, b = (np.asarray(side) for side in sides)
    expect_shape(a, train.shape, "(training clip, feature)")
    expect_shape(b, test.shape, "(test clip, feature)")
    for mistake, wrong in _SCALES.items():
        if all(map(same, (a, b), wrong(train, test))):
            raise Wrong(mistake)
    if not same(a, next(iter(answer(train.copy(), test + 7)))):
        raise Wrong("Other test clips change the training clips: test clips in the scaler.")
    if not all(map(same, (a, b), scale_both(train, test))):
        raise Wrong("Subtract the training mean, divide by the training deviation, on both sides.")


for _mistake, _wrong in _SCALES.items():
    catches(_mistake, _wrong)(standardised)


def _along(x: Tensor, direction: Tensor) -> Tensor:
    return (x @ direction)[:, None] * direction


def erase_along(x: Tensor, direction: Tensor, center: Tensor) -> Tensor:
    """Clips that stand where the center stands along a direction."""
    return x - _along(x - center, direction) / direction.norm() ** 2


@catches("The direction is not of unit length.", lambda x, d, center: x - _along(x - center, d))
@catches("It projects onto, instead of out.", lambda x, d, mid: x - erase_along(x, d, mid) + mid)
@catches("Clips stand at 0: removes the mean too.", lambda x, d, mid: erase_along(x, d, 0 * mid))
@catches("One step for all clips erases nothing.", lambda x, along, center: x - along)
@catches(
    "Clips stand where their own mean does, not where `center` does.",
    lambda x, along, center: erase_along(x, along, x.mean(0)),
)
@catches(
    "Every clip moved by −center: take what is too much away from x, not from x − center.",
    lambda x, along, center: erase_along(x, along, center) - center,
)
def erase(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """Clips without what they have along a direction, measured from a center."""
    draw = torch.Generator().manual_seed(0)
    x, direction, center = (torch.randn(*shape, generator=draw) for shape in ((6, 5), (5,), (5,)))
    unit = direction / direction.norm()
    given = (x, 3 * unit, center + 6 * unit)
    fault = "Every clip should stand where the center does along the direction, else where it was."
    expect(erase, answer, erase_along, fault, given, axes="(clip, feature)")


Read = Callable[[np.ndarray, list[str], Sequence[str]], float]


def _read(features: np.ndarray, labels: list[str], speakers: Sequence[str]) -> dict[str, float]:
    """The accuracy of a probe and of its baselines, by kind."""
    correct = probes.fit_probes(features, {"own": labels}, list(speakers))
    accuracy = probes.summarise_accuracy(correct).set_index("kind")["accuracy"]
    return {str(kind): float(value) for kind, value in accuracy.items()}


def measure_selectivity(features: np.ndarray, labels: list[str], speakers: Sequence[str]) -> float:
    """The accuracy of a probe minus that of random labels, on unseen speakers."""
    read = _read(features, labels, speakers)
    return read["probe"] - read["random labels"]


def _shuffled_once(x: np.ndarray, labels: list[str], who: Sequence[str]) -> float:
    """The probe minus the same probe on one shuffle of the labels."""
    one = np.random.default_rng(0).permutation(labels).tolist()
    return _read(x, labels, who)["probe"] - _read(x, one, who)["probe"]


@catches(
    "This subtracts one shuffle of the labels; `fit_probes` takes a mean over draws.",
    _shuffled_once,
)
@catches(
    "This is the accuracy of the probe alone; subtract that of random labels.",
    lambda x, labels, who: _read(x, labels, who)["probe"],
)
@catches(
    "This is the accuracy on random labels alone; subtract it from the probe's.",
    lambda x, labels, who: _read(x, labels, who)["random labels"],
)
@catches(
    "You subtract the wrong way round.", lambda x, labels, who: -measure_selectivity(x, labels, who)
)
@catches(
    "This is a ratio; take the difference.",
    lambda x, labels, who: _read(x, labels, who)["probe"] / _read(x, labels, who)["random labels"],
)
@catches(
    "You subtract the majority, which is another baseline; subtract the random labels.",
    lambda x, labels, who: _read(x, labels, who)["probe"] - _read(x, labels, who)["majority"],
)
@catches(
    "You subtract 1 / (number of values), which nobody measured; subtract the random labels.",
    lambda x, labels, who: _read(x, labels, who)["probe"] - 1 / len(set(labels)),
)
@catches("the same for all features: a constant", lambda x, labels, who: 0.35)
@catches(
    "Your probe has voices on both sides: give it the speakers.",
    lambda x, y, _: measure_selectivity(x, y, [*map(str, range(72))]),
)
@catches(
    "Here the labels were not used as they are.",
    lambda x, y, _: measure_selectivity(x, y[::2] + y[1::2], _),
)
def selectivity(answer: Read) -> None:
    """What a probe reads on other speakers, beyond what it makes of random labels."""
    rng = np.random.default_rng(0)
    speakers = [f"voice {i // 3}" for i in range(72)]
    prints = rng.normal(size=(24, 40)).repeat(3, axis=0)
    coins = rng.permutation(["yes", "no"] * 12).repeat(3).tolist()
    noise, labels = rng.normal(size=(72, 8)), rng.permutation(["fast"] * 44 + ["slow"] * 28)
    planted = noise + 1.5 * (labels == "fast")[:, None]
    cases = [(planted, labels.tolist(), speakers), (prints, coins, speakers)]
    got, leak = both = [expect_number(answer(*given)) for given in cases]
    right = [measure_selectivity(*given) for given in cases]
    if same(both, right):
        return
    if got == leak:
        raise Wrong(f"{got:.2f} is the same for all features: a constant.")
    for mistake, wrong in load_checks()["selectivity"].wrong.items():
        if same(both, [wrong(*given) for given in cases]):
            raise Wrong(mistake)
    if leak > 0.3:
        raise Wrong(
            f"Coins tossed for each voice score {leak:.2f}: your probe has voices on both sides: "
            "give it the speakers."
        )
    raise Wrong(
        f"It should be {right[0]:.3f}; yours is {got:.3f}. Subtract the random labels of "
        "`fit_probes`, with its own seed and number of draws: one shuffle of the labels says "
        "little."
    )


@dataclass(frozen=True)
class Chain:
    """A model of sites in a row and a way around them; a clip is four numbers, or four a head."""

    names: tuple[str, ...] = ("audio_embeddings", "backbone.0", "backbone.1")

    def sites(self) -> list[str]:
        """The names of all places whose values `run` can record or edit."""
        return list(self.names)

    def run(
        self,
        clips: Sequence[Any],
        question: str,
        *,
        stem: str = "",
        sites: Sequence[str] | None = None,
        edits: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
        **how: Any,
    ) -> "_Forward":
        """What flows at sites, by default the first, and logits that also see the clip itself."""
        given = torch.stack([torch.as_tensor(clip, dtype=torch.float32) for clip in clips])
        flow, flows = given[:, None], {}
        for i, site in enumerate(self.names):
            flow = torch.sin(flow.roll(1, -1) * (i + 1) + len(question) + len(stem))
            flow = (edits or {}).get(site, lambda same: same)(flow)
            flows[site] = flow
        wanted = {site: flows[site] for site in sites or self.names[:1]}
        logits = flow[:, 0] + 0.1 * given * flows[self.names[0]][:, 0]
        return _Forward(wanted, logits.view(len(clips), -1, 4).sum(1))


class _Forward(dict[str, Tensor]):
    """What `run` returns: sites by name, and logits."""

    def __init__(self, sites: Mapping[str, Tensor], logits: Tensor) -> None:
        super().__init__(sites)
        self.sites, self.logits = sites, logits


def patch_flow(llm: Any, a: Any, b: Any, task: Any, site: str) -> Tensor:
    """The logits after clip b, with what flowed at a site in clip a."""
    given = llm.run([a], task.question, stem=task.stem, sites=[site])[site]
    return _run(llm, b, task, edits={site: interventions.set_to(given)})


def _run(llm: Any, clip: Any, task: Any, site: str = "", **how: Any) -> Tensor:
    forward = llm.run([clip], task.question, stem=task.stem, **how)
    flow: Tensor = forward[site] if site else forward.logits
    return flow


@catches(
    "These are clip b's own logits: nothing was patched.",
    lambda llm, a, b, task, _: _run(llm, b, task),
)
@catches(
    "These are clip a's own logits: only clip a was run.",
    lambda llm, a, b, task, _: _run(llm, a, task),
)
@catches("The clips are exchanged.", lambda llm, a, b, *of: patch_flow(llm, b, a, *of))
@catches(
    "Another site was patched.", lambda llm, a, b, t, _: patch_flow(llm, a, b, t, "backbone.1")
)
@catches("This is the first row of the logits: return them all.", lambda *of: patch_flow(*of)[0])
@catches("This is what flowed, not the logits.", lambda llm, a, b, *of: _run(llm, a, *of))
@catches(
    "The answer was not begun: the stem is left out.",
    lambda llm, a, b, task, site: patch_flow(
        llm, a, b, SimpleNamespace(question=task.question, stem=""), site
    ),
)
@catches(
    "Clip a was run without the stem: begin the answer in both runs.",
    lambda llm, a, b, task, site: _run(
        llm, b, task, edits={site: interventions.set_to(llm.run([a], "?", sites=[site])[site])}
    ),
)
@catches(
    "Clip b was run without the stem: begin the answer in both runs.",
    lambda llm, a, b, task, site: (
        llm.run(
            [b], "?", edits={site: interventions.set_to(_run(llm, a, task, site, sites=[site]))}
        ).logits
    ),
)
def patched(answer: Callable[[Any, Any, Any, Any, str], Tensor]) -> None:
    """The logits after one clip, with what flowed at a site in another."""
    llm, task = Chain(), SimpleNamespace(question="?", stem="It is")
    a, b = np.array([0.1, 0.7, 0.3, 0.9]), np.array([0.5, 0.2, 0.8, 0])
    cases = [(llm, a, b, task, site) for site in ("audio_embeddings", "backbone.0")]
    fault = "Logits of clip b with what flowed at {4} in clip a are another: return `….logits`."
    expect(patched, answer, patch_flow, fault, *cases)
