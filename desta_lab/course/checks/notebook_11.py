"""Checks of notebook 11: names of a released file, two tensors exchanged, the user's turn, and an IFrate undone."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from desta_lab.course.checks import Wrong, check
from desta_lab.model.chat import END, SLOT, START
from desta_lab.model.connector import QFormer
from desta_lab.published import adapters

_LAYER = f"{adapters.PREFIX}qformer.layer."
_SWAPPED = {"crossattention.output.LayerNorm.": "norms.2.", "output.LayerNorm.": "norms.1."}


def _names(cut: str = _LAYER, **other: str) -> Callable[[str], str]:
    """An answer that names by `published.PARTS`, with some parts named otherwise (`__` stands for a point)."""
    parts = adapters.LAYER_NAMES | {part.replace("__", "."): own for part, own in other.items()}

    def ours(name: str) -> str:
        number, part = name.removeprefix(_LAYER).split(".", 1)
        theirs = next(theirs for theirs in parts if part.startswith(theirs))
        return (
            f"{_LAYER.removeprefix(cut)}blocks.{number}.{parts[theirs]}{part.removeprefix(theirs)}"
        )

    return ours


def _anywhere(name: str) -> str:
    number, part = name.removeprefix(_LAYER).split(".", 1)
    theirs = next(theirs for theirs in adapters.LAYER_NAMES if theirs in part)
    return f"blocks.{number}.{adapters.LAYER_NAMES[theirs]}{part.split(theirs)[1]}"


def _small() -> QFormer:
    """A connector of the published form, no two tensors of which are alike."""
    connector = QFormer(taps=2, d_enc=8, d_llm=6, queries=3, depth=2, heads=2, ffn=12)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for parameter in connector.parameters():
            nn.init.normal_(parameter)
    return connector


@check(
    wrong={
        "the prefix is still there": _names(cut=""),
        "found anywhere in the name": _anywhere,
        "the GELU has a number too": _names(output__dense__="mlp.1."),
        "norms in another order": _names(
            **{name.replace(".", "__"): own for name, own in _SWAPPED.items()}
        ),
    }
)
def our_name(answer: Callable[[str], str]) -> None:
    """Our name for a tensor of a published Q-Former layer."""
    own = _small().state_dict()
    file = {
        name: tensor
        for name, tensor in adapters.to_published(own).items()
        if name.startswith(_LAYER)
    }
    got = {theirs: answer(theirs) for theirs in file}
    if kept := [name for name in got.values() if name.startswith(adapters.PREFIX)]:
        raise Wrong(f"{kept[0]}: the prefix is still there; ours begins with blocks.")
    for theirs, name in got.items():
        fault = f"{theirs} becomes {name}"
        if "crossattention." in theirs and ("self_attention." in name or "norms.0." in name):
            raise Wrong(
                f"{fault}: attention. was found anywhere in the name; ask how the part starts."
            )
        if "mlp.1." in name:
            raise Wrong(f"{fault}: the GELU has a number too, 1; the second Linear is mlp.2.")
        if name not in own:
            raise Wrong(
                f"{fault}, which our connector does not have; its names are in its state_dict()."
            )
        if "LayerNorm." in theirs and not torch.equal(own[name], file[theirs]):
            raise Wrong(
                f"{fault}: norms in another order. It would load, and hear something else. Ours stand as used."
            )
        if own[name].shape != file[theirs].shape or not torch.equal(own[name], file[theirs]):
            raise Wrong(f"{fault}, which is another tensor of ours.")


def _exchange(first: str, second: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    a, b = (f"{_LAYER}0.{name}" for name in (first, second))
    return lambda file: {**file, a: file[b], b: file[a]}


def _in_place(file: dict[str, Tensor]) -> dict[str, Tensor]:
    a, b = (f"{_LAYER}0.attention.self.{name}.weight" for name in ("query", "key"))
    file[a], file[b] = file[b], file[a]
    return file


@check(
    wrong={
        "shapes that differ": _exchange("intermediate.dense.weight", "output.dense.weight"),
        "nothing was exchanged": dict,
        "the file itself was changed": _in_place,
        "names were changed": lambda file: {
            name.replace("query", "Query"): tensor for name, tensor in file.items()
        },
    }
)
def exchanged(answer: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """The tensors of a file, two of one shape in each other's place."""
    file = adapters.to_published(_small().state_dict())
    before = dict(file)
    got = answer(file)
    if any(file[name] is not tensor for name, tensor in before.items()):
        raise Wrong("Afterwards the file itself was changed; build a new dict from it.")
    if got.keys() != file.keys():
        raise Wrong(
            "A strict load would find it: names were changed. Leave all names, exchange what they hold."
        )
    if any(got[name].shape != tensor.shape for name, tensor in file.items()):
        raise Wrong(
            "A strict load would find it: these are shapes that differ. Take two tensors of one shape."
        )
    moved = [name for name, tensor in file.items() if not torch.equal(got[name], tensor)]
    if not moved:
        raise Wrong("Every name holds what it held: nothing was exchanged.")
    if (
        len(moved) != 2
        or not torch.equal(got[moved[0]], file[moved[1]])
        or not torch.equal(got[moved[1]], file[moved[0]])
    ):
        raise Wrong(
            f"{len(moved)} tensors differ; exactly two should, each holding what the other held."
        )


def _pairs(text: str) -> list[int]:
    """A tokenizer that takes two letters at a time: where a text is cut shows in its ids."""
    return [
        sum(ord(letter) * 1000**i for i, letter in enumerate(text[at : at + 2]))
        for at in range(0, len(text), 2)
    ]


@check(
    wrong={
        "the transcript stands before the slots": lambda encode, before, after, words, queries: [
            *encode(before + START),
            *encode(words),
            *[SLOT] * queries,
            *encode(END + after),
        ],
        "the transcript stands after the end tag": lambda encode, before, after, words, queries: [
            *encode(before + START),
            *[SLOT] * queries,
            *encode(END + words + after),
        ],
        "one slot for the whole clip": lambda encode, before, after, words, queries: [
            *encode(before + START),
            SLOT,
            *encode(words),
            *encode(END + after),
        ],
        "tags tokenised on their own": lambda encode, before, after, words, queries: [
            *encode(before),
            *encode(START),
            *[SLOT] * queries,
            *encode(words),
            *encode(END),
            *encode(after),
        ],
        "the transcript is tokenised with the tag": lambda encode, before, after, words, queries: [
            *encode(before + START),
            *[SLOT] * queries,
            *encode(words + END + after),
        ],
        "no tags around the clip": lambda encode, before, after, words, queries: [
            *encode(before),
            *[SLOT] * queries,
            *encode(words),
            *encode(after),
        ],
    }
)
def laid_out(answer: Callable[..., Sequence[int]]) -> None:
    """Token ids of a conversation in DeSTA2.5-Audio's layout."""
    before, words, after, queries = "system user\n", "hello there", "\nWhat?", 5
    got = list(answer(_pairs, before, after, words, queries))
    left, heard, right = _pairs(before + START), _pairs(words), _pairs(END + after)
    slots = [SLOT] * queries
    if got == [*left, *slots, *heard, *right]:
        return
    if got.count(SLOT) == 1:
        raise Wrong("There is one slot for the whole clip; it needs one for each query.")
    if got.count(SLOT) != queries:
        raise Wrong(f"There are {got.count(SLOT)} slots for {queries} queries.")
    if got == [*_pairs(before), *slots, *heard, *_pairs(after)]:
        raise Wrong(
            "There are no tags around the clip: chat.START before the slots, chat.END after the transcript."
        )
    if got == [*left, *heard, *slots, *right]:
        raise Wrong("The transcript stands before the slots; the model hears first, then reads.")
    if got == [*left, *slots, *_pairs(END + words + after)]:
        raise Wrong(
            "The transcript stands after the end tag; it belongs to the clip, inside the tags."
        )
    if got == [*left, *slots, *_pairs(words + END + after)]:
        raise Wrong("The transcript is tokenised with the tag that follows; encode it on its own.")
    if got == [*_pairs(before), *_pairs(START), *slots, *heard, *_pairs(END), *_pairs(after)]:
        raise Wrong(
            "Here are tags tokenised on their own; they are plain text, encoded at once with what they touch."
        )
    raise Wrong(
        "The order is: what stands before with the start tag, slots, transcript, the end tag with the rest."
    )


@check(
    wrong={
        "per cent taken as a share": lambda if_audio, delta: if_audio / (1 + delta),
        "points were added, not a rate undone": lambda if_audio, delta: if_audio - delta,
        "the rate of the wrong one": lambda if_audio, delta: if_audio * (1 - delta / 100),
    }
)
def text_ifrate(answer: Callable[[float, float], float]) -> None:
    """The IFrate of the text LLM, from the audio model's and the forgetting rate, all in per cent."""
    got = answer(40.0, -50.0)
    if np.isclose(got, 90.0):
        raise Wrong("Half of 80 is 40, and you say 90: points were added, not a rate undone.")
    if np.isclose(got, 60.0):
        raise Wrong(
            "Half of 80 is 40, and you say 60: the rate of the wrong one. Δ is relative to the text LLM."
        )
    if got < 0:
        raise Wrong(f"An IFrate of {got:.2f}: per cent taken as a share. Divide Δ by 100 first.")
    if not (np.isclose(got, 80.0) and np.isclose(answer(70.0, 0.0), 70.0)):
        raise Wrong(
            f"A model at 40 with Δ = −50 lost half, so its text LLM has 80; you say {got:.2f}."
        )
