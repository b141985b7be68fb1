"""Checks of notebook 11: names and tensors of a released file, a patch, an IFrate."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from desta_lab.course.checks import Wrong, catches, expect
from desta_lab.model.connector import QFormer
from desta_lab.published import adapters

File = dict[str, Tensor]
_LAYER = f"{adapters.PREFIX}qformer.layer."
_NORMS = {"crossattention.output.LayerNorm.": "norms.2.", "output.LayerNorm.": "norms.1."}


def _renamed(
    parts: dict[str, str], prefix: str = "", anywhere: bool = False
) -> Callable[[str], str]:
    """An answer that names by the published parts, some of them otherwise."""
    parts = adapters.LAYER_NAMES | parts

    def ours(name: str) -> str:
        number, part = name.removeprefix(_LAYER).split(".", 1)
        theirs = next(p for p in parts if (p in part if anywhere else part.startswith(p)))
        return f"{prefix}blocks.{number}.{parts[theirs]}{part.split(theirs, 1)[1]}"

    return ours


rename_tensor = _renamed({})  # a published name → ours


def _small() -> QFormer:
    """A connector of the published form, no two tensors of which are alike."""
    connector = QFormer(taps=2, d_enc=8, d_llm=6, queries=3, depth=2, heads=2, ffn=12)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for parameter in connector.parameters():
            nn.init.normal_(parameter)
    return connector


@catches("the prefix is still there", _renamed({}, prefix=_LAYER))
@catches("found anywhere in the name", _renamed({}, anywhere=True))
@catches("the GELU has a number too", _renamed({"output.dense.": "mlp.1."}))
@catches("norms in another order", _renamed(_NORMS))
def our_name(answer: Callable[[str], str]) -> None:
    """Our name for a tensor of a published Q-Former layer."""
    own = _small().state_dict()
    published = adapters.to_published(own)
    file = {name: tensor for name, tensor in published.items() if name.startswith(_LAYER)}
    for theirs, tensor in file.items():
        name = answer(theirs)
        fault = f"{theirs} becomes {name}"
        if name.startswith(adapters.PREFIX):
            raise Wrong(f"{name}: the prefix is still there; ours begins with blocks.")
        if "crossattention." in theirs and ("self_attention." in name or "norms.0." in name):
            raise Wrong(f"{fault}: found anywhere in the name; ask how the part starts.")
        if "mlp.1." in name:
            raise Wrong(f"{fault}: the GELU has a number too, 1; the second Linear is mlp.2.")
        if name not in own:
            raise Wrong(f"{fault}; our connector has no such name (see its state_dict()).")
        if torch.equal(own[name], tensor):
            continue
        if "LayerNorm." in theirs:
            raise Wrong(f"{fault}: norms in another order. It would load, and hear otherwise.")
        raise Wrong(f"{fault}, which is another tensor of ours.")


def exchange(file: File, a: str, b: str) -> File:
    """The tensors of a file, those of two names in each other's place."""
    return {**file, a: file[b], b: file[a]}


def _exchange(first: str, second: str) -> Callable[[File], File]:
    a, b = (f"{_LAYER}0.{name}.weight" for name in (first, second))
    return lambda file: exchange(file, a, b)


exchange_norms = _exchange("attention.output.LayerNorm", "output.LayerNorm")


def _in_place(file: File) -> File:
    file.update(_exchange("attention.self.query", "attention.self.key")(file))
    return file


def _other_names(file: File) -> File:
    return {name.replace("query", "Query"): tensor for name, tensor in file.items()}


@catches("shapes that differ", _exchange("intermediate.dense", "output.dense"))
@catches("nothing was exchanged", dict)
@catches("work on a copy, not in place", _in_place)
@catches("names were changed", _other_names)
def exchanged(answer: Callable[[File], File]) -> None:
    """The tensors of a file, two of one shape in each other's place."""
    file = adapters.to_published(_small().state_dict())
    got = answer(file)
    if got.keys() != file.keys():
        raise Wrong("A strict load would find it: names were changed. Exchange what they hold.")
    if any(got[name].shape != tensor.shape for name, tensor in file.items()):
        raise Wrong("A strict load would find shapes that differ. Take two tensors of one shape.")
    moved = [name for name, tensor in file.items() if not torch.equal(got[name], tensor)]
    if not moved:
        raise Wrong("Every name holds what it held: nothing was exchanged.")
    first, second = moved[0], moved[-1]
    crossed = torch.equal(got[first], file[second]) and torch.equal(got[second], file[first])
    if len(moved) != 2 or not crossed:
        raise Wrong(f"{len(moved)} tensors differ; two should, each holding what the other held.")


def measure_way(patched: Tensor, own: Tensor, other: Tensor) -> Tensor:
    """How far each clip's logits moved along the way from its own to another clip's, as a share."""
    return _along(patched, own, other) / (other - own).square().sum(-1)


def _along(patched: Tensor, own: Tensor, other: Tensor) -> Tensor:
    return ((patched - own) * (other - own)).sum(-1)


@catches("At another clip's own logits it should be 1: not divided by the square.", _along)
@catches("Divided once by the length.", lambda p, a, b: _along(p, a, b) / (b - a).norm(dim=-1))
@catches(
    "That is a distance, which counts every direction; take the part along the way.",
    lambda patched, own, other: (patched - own).norm(dim=-1) / (other - own).norm(dim=-1),
)
@catches("That is one number for all clips.", lambda *given: measure_way(*given).mean())
@catches("0 stands for own logits: the other way round.", lambda p, a, b: measure_way(p, b, a))
@catches("not in place", lambda p, a, b: measure_way(p.sub_(a), 0 * a, b - a))
def share_of_way(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """How far patched logits lie on the way from a clip's own logits to another clip's."""
    draw = torch.Generator().manual_seed(0)
    own, other, aside = torch.randn((3, 4, 7), generator=draw, dtype=torch.float64)
    way = other - own
    aside -= (aside * way).sum(-1, keepdim=True) / way.square().sum(-1, keepdim=True) * way
    shares = torch.tensor([0.0, 1.0, 0.25, -0.5], dtype=torch.float64)
    given = (own + shares[:, None] * way + aside, own, other)
    fault = "The shares are {right}, whatever lies aside; yours are {got}."
    expect(share_of_way, answer, lambda *given: shares, fault, given)


def undo_rate(if_audio: float, delta: float) -> float:
    """The IFrate of the text LLM in per cent, from the audio model's and the forgetting rate."""
    return if_audio / (1 + delta / 100)


@catches("Per cent taken as a share: divide Δ by 100.", lambda if_audio, d: if_audio / (1 + d))
@catches("Points were added, not a rate undone.", lambda if_audio, delta: if_audio - delta)
@catches("The rate of the wrong one: Δ is of the text LLM.", lambda rate, d: rate * (1 - d / 100))
def text_ifrate(answer: Callable[[float, float], float]) -> None:
    """The IFrate of the text LLM in per cent, from the audio model's and the forgetting rate."""
    fault = "At {0} with Δ = {1} the text LLM has {right}; you say {got}."
    expect(text_ifrate, answer, undo_rate, fault, (40.0, -50.0), (70.0, 0.0), (30.0, -60.0))
