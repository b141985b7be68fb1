"""Checks of notebook 01: tapped layers, cropped positions, speaker-disjoint folds, the size of embeddings."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import GroupKFold, KFold
from torch import Tensor

from desta_lab import audio
from desta_lab.course.checks import Wrong, check

Splits = Sequence[tuple[np.ndarray, np.ndarray]]


def _leaves_its_hook(whisper: Any, mel: Tensor, layer: int) -> Tensor:
    seen: list[Tensor] = []
    whisper.layers[layer].register_forward_hook(lambda module, args, out: seen.append(out))
    whisper(mel)
    return seen[0]


@check(
    wrong={
        "off by one layer": lambda whisper, mel, layer: whisper(
            mel, output_hidden_states=True
        ).hidden_states[layer],
        "the final LayerNorm is in it": lambda whisper, mel, layer: whisper(
            mel, output_hidden_states=True
        ).hidden_states[layer + 1],
        "the hook was left in the model": _leaves_its_hook,
    }
)
def tapped(answer: Callable[[Any, Tensor, int], Tensor]) -> None:
    """What one encoder layer puts out, before the final LayerNorm."""
    whisper, mel = _small_whisper()
    put_out: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda m, a, out: put_out.append(_tensor(out)))
        for layer in whisper.layers
    ]
    with torch.no_grad():
        hidden = whisper(mel, output_hidden_states=True).hidden_states
    for hook in hooks:
        hook.remove()
    installed = _hooks(whisper)  # the library has some of its own
    last = len(put_out) - 1
    for layer in (1, last):
        with torch.no_grad():
            got = _tensor(answer(whisper, mel, layer))
        if _hooks(whisper) > installed:
            raise Wrong(
                "Afterwards the hook was left in the model: every later forward calls it. Remove it."
            )
        if got.shape != put_out[layer].shape:
            raise Wrong(
                f"The result is (clip, frame, width), here {tuple(put_out[layer].shape)}, not {tuple(got.shape)}."
            )
        if torch.allclose(got, put_out[layer], atol=1e-5):
            continue
        if torch.allclose(got, hidden[layer], atol=1e-5):
            raise Wrong(
                f"Asked for layer {layer}, you give layer {layer - 1}'s output: off by one layer."
            )
        if layer == last and torch.allclose(got, hidden[-1], atol=1e-5):
            raise Wrong("All is well below, but for the last layer the final LayerNorm is in it.")
        raise Wrong(
            f"This is not what layer {layer} puts out; read the output of whisper.layers[layer]."
        )


def _hooks(model: Any) -> int:
    return sum(len(part._forward_hooks) for part in model.modules())


def _tensor(out: Any) -> Tensor:
    return out if isinstance(out, Tensor) else out[0]


def _small_whisper() -> tuple[Any, Tensor]:
    """A random Whisper encoder of three layers whose final LayerNorm does something, and a mel that fits it."""
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = WhisperConfig(
        d_model=16,
        encoder_layers=3,
        encoder_attention_heads=2,
        encoder_ffn_dim=32,
        num_mel_bins=8,
        max_source_positions=10,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        whisper = WhisperEncoder(config).eval().requires_grad_(False)
        return whisper, torch.randn(2, 8, 20)


@check(
    wrong={
        "spectrogram frames, of which there are 100 a second": lambda table, seconds: table[
            : round(100 * seconds)
        ],
        "rows spread over all 30 s": lambda table, seconds: table[
            torch.linspace(0, len(table) - 1, round(50 * seconds)).long()
        ],
        "the end of the table": lambda table, seconds: table[-round(50 * seconds) :],
    }
)
def cropped_positions(answer: Callable[[Tensor, float], Tensor]) -> None:
    """The rows of Whisper's position table that a clip needs."""
    rows = round(audio.WHISPER_SECONDS * audio.FRAMES_PER_SECOND)
    table = torch.arange(float(rows))[:, None].expand(-1, 3)  # a row holds its own number
    for seconds in (4.0, 2.5):
        got, need = answer(table, seconds), round(seconds * audio.FRAMES_PER_SECOND)
        if len(got) == 2 * need:
            raise Wrong(
                f"{len(got)} rows for {seconds:g} s: spectrogram frames, of which there are 100 a second."
            )
        if len(got) != need:
            raise Wrong(
                f"A clip of {seconds:g} s needs {need} rows, one an encoder frame; you give {len(got)}."
            )
        if got[0, 0] == rows - need:
            raise Wrong(
                f"The first row is number {rows - need}: the end of the table, but a clip starts at 0 s."
            )
        if got[-1, 0] == rows - 1:
            raise Wrong(
                "The last row is that of second 30: rows spread over all 30 s. Frames keep their positions."
            )
        if not torch.equal(got, table[:need]):
            raise Wrong(f"The rows should be 0 to {need - 1}, in order and unchanged.")


def _one_speaker_out_of_two(speakers: Sequence[str], count: int) -> Splits:
    splits = list(GroupKFold(count).split(np.zeros(len(speakers)), groups=speakers))
    return [splits[0]] * count


@check(
    wrong={
        "speaker overlap": lambda speakers, count: list(
            KFold(count).split(np.zeros(len(speakers)))
        ),
        "tested more than once": _one_speaker_out_of_two,
        "training and test are swapped": lambda speakers, count: [
            (test, train)
            for train, test in GroupKFold(count).split(np.zeros(len(speakers)), groups=speakers)
        ],
    }
)
def disjoint_folds(answer: Callable[[Sequence[str], int], Splits]) -> None:
    """Folds in which every row is tested once and no speaker is on both sides."""
    speakers = np.array([f"speaker_{i * 7 % 10}" for i in range(50)])
    pairs = [tuple(np.asarray(side) for side in pair) for pair in answer(speakers.tolist(), 5)]
    if len(pairs) != 5:
        raise Wrong(f"Asked for 5 pairs, you give {len(pairs)}.")
    for train, test in pairs:
        both = set(speakers[train]) & set(speakers[test])
        if both:
            raise Wrong(
                f"{len(both)} of 10 speakers are in training and test of one pair: speaker overlap."
            )
    if all(len(test) > len(train) for train, test in pairs):
        raise Wrong("The larger part of each pair is tested: training and test are swapped.")
    times = np.bincount(np.concatenate([test for _, test in pairs]), minlength=len(speakers))
    if (times > 1).any():
        raise Wrong(
            f"{(times > 1).sum()} rows are tested more than once; share the speakers out over the pairs."
        )
    if (times == 0).any():
        raise Wrong(
            f"{(times == 0).sum()} of {len(speakers)} rows are never tested; share all speakers out."
        )
    if any(len(train) + len(test) != len(speakers) for train, test in pairs):
        raise Wrong("A row that is not tested belongs in training; some are in neither.")


@check(
    wrong={
        "norm instead of root mean square": lambda vectors, scale: vectors * scale / vectors.norm(),
        "multiplied, whatever size they had": lambda vectors, scale: vectors * scale,
        "every vector on its own": lambda vectors, scale: (
            vectors * scale / vectors.pow(2).mean(-1, keepdim=True).sqrt()
        ),
    }
)
def at_scale(answer: Callable[[Tensor, float], Tensor]) -> None:
    """The same vectors, multiplied by one number, of a given root mean square."""
    vectors = (
        torch.randn(7, 12, generator=torch.Generator().manual_seed(0))
        * torch.arange(1.0, 8)[:, None]
    )
    before = vectors.clone()
    got = answer(vectors, 0.25)
    if not torch.equal(vectors, before):
        raise Wrong("Afterwards the vectors handed in were changed; return new ones.")
    size = float(got.pow(2).mean().sqrt())
    ratio = got / vectors
    if not torch.allclose(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-3):
        raise Wrong("The vectors point elsewhere now; multiply, and do nothing else.")
    if not torch.allclose(ratio, ratio[0, 0].expand_as(ratio), rtol=1e-3):
        raise Wrong(
            "Long and short vectors got different factors: every vector on its own. One number is for all."
        )
    if np.isclose(float(got.norm()), 0.25, rtol=1e-3):
        raise Wrong(
            "Their norm is 0.25: norm instead of root mean square, which divides by how many they are."
        )
    if np.isclose(float(ratio[0, 0]), 0.25, rtol=1e-3):
        raise Wrong(
            "The factor is the scale itself: multiplied, whatever size they had. Divide by their size first."
        )
    if not np.isclose(size, 0.25, rtol=1e-3):
        raise Wrong(f"The root mean square should be 0.25; it is {size:.3g}.")
