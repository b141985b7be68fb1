"""Checks of notebook 01: tapped layers, speaker folds, a probe, embedding size."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import RidgeClassifierCV
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from desta_lab.analysis.probes import PENALTIES
from desta_lab.course.checks import Wrong, as_tensors, catches, expect, expect_shape, same

Folds = Sequence[tuple[np.ndarray, np.ndarray]]


def _state(whisper: Any, mel: Tensor, index: int) -> Tensor:
    state: Tensor = whisper(mel, output_hidden_states=True).hidden_states[index]
    return state


def _leaves_its_hook(whisper: Any, mel: Tensor, layer: int) -> Tensor:
    seen: list[Tensor] = []
    whisper.layers[layer].register_forward_hook(lambda module, args, out: seen.append(out))
    whisper(mel)
    return seen[0]


@catches("This is another layer: off by one layer.", _state)
@catches("The final LayerNorm is in it.", lambda model, mel, layer: _state(model, mel, layer + 1))
@catches("the hook was left in the model", _leaves_its_hook)
@torch.no_grad()
def tapped(answer: Callable[[Any, Tensor, int], Tensor]) -> None:
    """What one encoder layer puts out, before the final LayerNorm."""
    for layer in (1, 2):
        whisper, mel = _small_whisper()
        right = _layer_outputs(whisper, mel)[layer]
        _state(whisper, mel, 0)  # for this the library sets hooks of its own
        installed, before = _count_hooks(whisper), _condition(whisper)
        got = answer(whisper, mel, layer)
        if _count_hooks(whisper) > installed:
            raise Wrong("Afterwards the hook was left in the model: every later call runs it.")
        if _condition(whisper) != before:
            raise Wrong(
                "Afterwards the model is another: a part, an attribute, a setting, a weight or a "
                "mode was changed."
            )
        if isinstance(got, list | tuple):
            raise Wrong(f"This is a {type(got).__name__}; return the tensor that stands in it.")
        fault, given = "This is not what layer {2} puts out; read it there.", (whisper, mel, layer)
        axes = "(clip, frame, width)"
        expect(
            tapped, lambda *_, got=got: got, lambda *_, right=right: right, fault, given, axes=axes
        )


def _small_whisper() -> tuple[Any, Tensor]:
    """A random Whisper encoder of three layers, and a log-mel that fits it."""
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    sizes: dict[str, Any] = {"d_model": 16, "encoder_layers": 3, "encoder_attention_heads": 2}
    sizes |= {"encoder_ffn_dim": 32, "num_mel_bins": 8, "max_source_positions": 10}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        whisper = WhisperEncoder(WhisperConfig(**sizes)).eval().requires_grad_(False)
        return whisper, torch.randn(2, 8, 20)


def _layer_outputs(whisper: Any, mel: Tensor) -> list[Tensor]:
    outputs: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda module, args, out: outputs.append(_tensor(out)))
        for layer in whisper.layers
    ]
    whisper(mel)
    for hook in hooks:
        hook.remove()
    return outputs


def _count_hooks(model: Any) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules())


def _condition(model: Any) -> list[Any]:
    """Which parts a model has, in which mode, with which attributes and settings; which weights
    learn, and how large they are.
    """
    parts = [
        (id(part), part.training, _is_own_forward(part), sorted(set(vars(part)) - {"forward"}))
        for part in model.modules()
    ]
    weights = [(id(one), one.requires_grad, float(one.abs().sum())) for one in model.parameters()]
    return [*parts, *weights, str(model.config), str(sorted(vars(model.config)))]


def _is_own_forward(part: Any) -> bool:
    """Whether a part runs the forward of its class, or one that was put in its place."""
    return getattr(part.forward, "__func__", None) is type(part).forward


def _tensor(out: Any) -> Tensor:
    return out if isinstance(out, Tensor) else out[0]


def fold_by_speaker(speakers: Sequence[str] | np.ndarray, count: int) -> Folds:
    """Folds in which every row is tested once and no speaker is on both sides."""
    parts = np.array_split(np.unique(speakers), count)
    tests = [np.isin(np.asarray(speakers), part) for part in parts]
    return [(np.flatnonzero(~test), np.flatnonzero(test)) for test in tests]


def _swap(folds: Folds) -> Folds:
    return [(test, train) for train, test in folds]


@catches("speaker overlap", lambda speakers, count: list(KFold(count).split(speakers)))
@catches("tested more than once", lambda names, count: fold_by_speaker(names, count)[:1] * count)
@catches("training and test are swapped", lambda *given: _swap(fold_by_speaker(*given)))
def disjoint_folds(answer: Callable[[Sequence[str], int], Folds]) -> None:
    """Folds in which every row is tested once and no speaker is on both sides."""
    speakers = np.array([f"speaker_{i * 7 % 10}" for i in range(50)])
    for count in (5, 4):  # 5 is the default of scikit-learn's splitters
        judge_folds(answer(speakers.tolist(), count), speakers, count)


def judge_folds(folds: Iterable[Any], speakers: np.ndarray, count: int) -> None:
    """Refuse folds that do not test every row once, on speakers that they were not trained on."""
    listed = list(folds)
    if len(listed) != count:
        raise Wrong(f"Asked for {count} pairs, you give {len(listed)}.")
    if not all(isinstance(pair, Sequence | np.ndarray) and len(pair) == 2 for pair in listed):
        raise Wrong("Each entry of the list is one pair: (training rows, test rows).")
    pairs = [tuple(map(_read_rows, pair)) for pair in listed]
    rows = np.concatenate([side for pair in pairs for side in pair])
    if rows.min() < 0 or rows.max() >= len(speakers):
        raise Wrong(f"Row {rows.max()} is none: rows are counted from 0 to {len(speakers) - 1}.")
    for train, test in pairs:
        both = sorted(set(speakers[train]) & set(speakers[test]))
        if both:
            raise Wrong(f"Speaker overlap: {', '.join(both[:2])} … are on both sides.")
    if all(len(test) > len(train) for train, test in pairs):
        raise Wrong("The larger part of each pair is tested: training and test are swapped.")
    times = np.bincount(np.concatenate([test for _, test in pairs]), minlength=len(speakers))
    if (times > 1).any():
        raise Wrong(f"{(times > 1).sum()} rows are tested more than once; share the speakers out.")
    if (times == 0).any():
        raise Wrong(f"{(times == 0).sum()} of {len(speakers)} rows are never tested.")
    if any(len(train) + len(test) != len(speakers) for train, test in pairs):
        raise Wrong("What is not tested belongs in training; some training rows are thrown away.")


def _read_rows(side: Any) -> np.ndarray:
    """One side of a pair, if it is row numbers."""
    rows = np.asarray(side)
    if isinstance(side, tuple) and rows.ndim == 2 and len(rows) == 1:
        raise Wrong("`np.where(mask)` gives a tuple: take its [0], or `np.flatnonzero(mask)`.")
    if rows.ndim != 1:
        raise Wrong(
            f"A side of a pair is an array of row numbers; yours is a {type(side).__name__}."
        )
    if not len(rows):
        raise Wrong("A side of a pair is empty; every pair has rows to train on and rows to test.")
    if rows.dtype == bool:
        raise Wrong("These are masks of True and False; give row numbers: `np.flatnonzero(mask)`.")
    if rows.dtype.kind not in "iu":
        raise Wrong(f"Row numbers are whole numbers; yours begin with {rows[0]!r}.")
    return rows


def probe_rows(
    features: np.ndarray,
    labels: Sequence[str],
    folds: Folds,
    scale: bool = True,
    all_rows: bool = False,
) -> np.ndarray:
    """What a probe says of each row, fitted on the training rows of the fold that tests it."""
    truth = np.asarray(labels)
    said = truth.copy()
    for train, test in folds:
        rows = np.arange(len(truth)) if all_rows else train
        parts = [StandardScaler()] * scale + [RidgeClassifierCV(PENALTIES)]
        said[test] = make_pipeline(*parts).fit(features[rows], truth[rows]).predict(features[test])
    return said


def _scaled_on_all(features: np.ndarray, labels: Sequence[str], folds: Folds) -> np.ndarray:
    return probe_rows(StandardScaler().fit_transform(features), labels, folds, scale=False)


def _scaled_apart(features: np.ndarray, labels: Sequence[str], folds: Folds) -> np.ndarray:
    truth = np.asarray(labels)
    said = truth.copy()
    for train, test in folds:
        own, other = (StandardScaler().fit_transform(features[rows]) for rows in (train, test))
        said[test] = RidgeClassifierCV(PENALTIES).fit(own, truth[train]).predict(other)
    return said


@catches(
    "It says labels that were drawn by lot: the probe has seen the rows that it is tested on.",
    lambda x, y, folds: probe_rows(x, y, folds, all_rows=True),
)
@catches(
    "Features of small numbers are not read: scale each by its mean and spread in training.",
    lambda x, y, folds: probe_rows(x, y, folds, scale=False),
)
@catches(
    "The folds that were given are not used",
    lambda x, y, _: probe_rows(x, y, list(KFold(5, shuffle=True, random_state=0).split(x))),
)
@catches("training and test are swapped", lambda x, y, folds: probe_rows(x, y, _swap(folds)))
@catches("the scale is that of the training rows alone", _scaled_on_all)
@catches("the scale is that of the training rows", _scaled_apart)
def probed(answer: Callable[[np.ndarray, list[str], Folds], Any]) -> None:
    """What a probe says of each row, fitted on the training rows of the fold that tests it."""
    draw = np.random.default_rng(0)

    def right(features: np.ndarray, truth: np.ndarray, *parts: np.ndarray) -> np.ndarray:
        """Which rows are said rightly; every part is tested by what the others taught."""
        rows = np.arange(len(truth))
        folds = [(np.setdiff1d(rows, part), part) for part in parts]
        got = np.asarray(answer(features, truth.tolist(), folds))
        expect_shape(got, truth.shape, "(clip,)")
        if not set(map(str, got.tolist())) <= set(truth.tolist()):
            raise Wrong(f"Return for every clip one of the values in `labels`, not {got[0]}.")
        hits: np.ndarray = got == truth
        return hits

    values = np.array(["rain", "siren", "birds"])
    thirds = np.array_split(draw.permutation(60), 3)
    truth = values[np.arange(60) % 3]
    if right(draw.normal(size=(60, 200)), draw.permutation(truth), *thirds).mean() > 0.7:
        raise Wrong(
            "It says labels that were drawn by lot: the probe has seen the rows that it is tested "
            "on. Fit it on the training rows alone."
        )
    plain = 3 * (truth[:, None] == values) + 0.3 * draw.normal(size=(60, 3))
    small = np.hstack([1e-4 * plain + 5, 100 * draw.normal(size=(60, 3))])
    if right(plain, truth, *thirds).mean() < 0.9:
        raise Wrong("Values that are plain to see are said wrongly: is row i of the result clip i?")
    if right(small, truth, *thirds).mean() < 0.9:
        raise Wrong(
            "Features of small numbers are not read: scale each by its mean and spread in training."
        )
    # In some rows the rule is turned round: who learned it elsewhere is wrong there.
    sign = np.where(np.arange(90) % 2, 1.0, -1.0)
    two = np.where(sign > 0, "slow", "fast")
    features = sign[:, None] + 0.1 * draw.normal(size=(90, 4))
    half, other = np.arange(0, 45), np.arange(45, 90)
    turned = np.where(np.arange(90)[:, None] < 45, features, -features)
    if right(turned, two, half, other).mean() > 0.1:
        raise Wrong("The folds that were given are not used: fit once for each pair.")
    # One clip lies far out: who scales by the tested rows, too, reads none of those beside it.
    out = np.hstack([features[:, :1], draw.normal(size=(90, 3))])
    out[0] = 1e5
    if right(out, two, half, other)[1:45].mean() < 0.9:
        raise Wrong(
            "One tested clip far out changes what is said of the others: the scale is that of the "
            "training rows alone."
        )
    # Rows that turn the rule round have a mark, so that a line can part them from the others.
    few = [np.arange(0, 40), np.arange(40, 80), np.arange(80, 90)]
    last = np.arange(90)[:, None] >= 80
    mark = last * 5 * sign[:, None] + 0.1 * draw.normal(size=(90, 1))
    marked = np.hstack([np.where(last, -features, features), mark])
    if right(marked, two, *few)[:80].mean() < 0.9:
        raise Wrong("What the larger part teaches is not said: training and test are swapped.")


def scale_to(vectors: Tensor, scale: float) -> Tensor:
    """The same vectors, multiplied by one number, of a given root mean square."""
    return vectors * scale / vectors.pow(2).mean().sqrt()


@catches("Their norm is 0.25: norm instead of root mean square.", lambda x, to: x * to / x.norm())
@catches("The factor is the scale: multiplied, whatever size they had.", lambda x, scale: x * scale)
@catches(
    "Factors differ: every vector on its own. One number is for all.",
    lambda vectors, scale: vectors * scale / vectors.pow(2).mean(-1, keepdim=True).sqrt(),
)
def at_scale(answer: Callable[[Tensor, float], Tensor]) -> None:
    """The same vectors, multiplied by one number, of a given root mean square."""
    draw = torch.Generator().manual_seed(0)
    vectors = torch.randn(7, 12, generator=draw) * torch.arange(1.0, 8)[:, None]
    expect(at_scale, answer, scale_to, "", (vectors, 0.25))
    got = as_tensors(answer)(vectors, 0.25)
    factors = got / vectors
    if not torch.allclose(factors, factors[0, 0].expand_as(factors), rtol=1e-3):
        raise Wrong("The vectors point elsewhere now; multiply by one number, and do nothing else.")
    if not same(got.pow(2).mean().sqrt(), 0.25):
        raise Wrong(f"Their root mean square is not 0.25 but {got.pow(2).mean().sqrt():.3g}.")
