"""The sites of a forward pass: their names, how they are recorded, and how they are edited.

waveform ─► encoder.i ─► connector.… ─► audio_embeddings ─► backbone.i ─► logits
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from desta_lab import audio, cache
from desta_lab.model import chat
from desta_lab.model.backbone import padding_arguments
from desta_lab.model.connector import Attention

if TYPE_CHECKING:
    from desta_lab.model.audio_llm import AudioLLM

Edit = Callable[[Tensor], Tensor]  # what flows at a site → what flows on instead
Sound = Float[np.ndarray, "_"] | Path | str  # a waveform at 16 kHz, or its file
Name = TypeVar("Name")

# How architectures of transformers name the parts of a layer.
_ATTENTION = ("self_attn", "self_attention", "attention", "attn")
_HEADS_INTO = ("o_proj", "out_proj", "dense", "c_proj")  # the projection that reads all heads
_MLP = ("mlp", "feed_forward", "fc2")  # a Whisper layer has no module but its last linear layer

# ---- names ----


@dataclass(frozen=True)
class Site:
    """A place in a module: its output, its attention weights (the second output), or its input.

    Args:
        axes: their names; the first is the clip. None: only that the last is the feature.
        heads: the last axis holds so many heads, which are parted.
    """

    module: nn.Module
    axes: tuple[str, ...] | None
    at: Literal["output", "weights", "input"] = "output"
    heads: int | None = None


def list_sites(llm: "AudioLLM") -> dict[str, Site]:
    """Every site of a model by name, in the order of the signal.

    encoder.3                       layer 3 of Whisper; backbone.3: layer 3 of the LLM
    ….attention, ….mlp              what these two add to the layer's stream
    ….attention.pattern             attention weights, (clip, head, query, key)
    ….attention.heads               output of each head before the projection that mixes them
    connector.<module>              every module of the connector, by its own path
    audio_embeddings                what the connector gives the backbone
    backbone.norm                   behind the last layer, before the logits
    """
    whisper, decoder = llm.encoder.whisper, llm.backbone.model.get_decoder()
    sites = _layer_sites("encoder", whisper.layers, whisper.config.encoder_attention_heads, "frame")
    for path, module in llm.connector.named_modules():
        sites |= _connector_sites(f"connector.{path}", module) if path else {}
    sites["audio_embeddings"] = Site(llm.connector, ("clip", "query", "feature"))
    heads = getattr(decoder.config, "num_attention_heads", None)  # a state-space model has none
    sites |= _layer_sites("backbone", llm.backbone.layers, heads, "token")
    norm = _first_part(decoder, ("norm", "final_layer_norm", "ln_f"))
    return sites | ({"backbone.norm": Site(norm, ("clip", "token", "feature"))} if norm else {})


def _layer_sites(stack: str, layers: Any, heads: int | None, place: str) -> dict[str, Site]:
    sites, flow = {}, ("clip", place, "feature")
    for number, layer in enumerate(layers):
        name = f"{stack}.{number}"
        attention, mlp = _first_part(layer, _ATTENTION), _first_part(layer, _MLP)
        if attention is not None:
            mix = _first_part(attention, _HEADS_INTO)
            axes = ("clip", "head", place, "key")
            sites[f"{name}.attention.pattern"] = Site(attention, axes, "weights")
            if mix is not None:
                axes = ("clip", place, "head", "feature")
                sites[f"{name}.attention.heads"] = Site(mix, axes, "input", heads)
            sites[f"{name}.attention"] = Site(attention, flow)
        if mlp is not None:
            sites[f"{name}.mlp"] = Site(mlp, flow)
        sites[name] = Site(layer, flow)
    return sites


def _connector_sites(name: str, module: nn.Module) -> dict[str, Site]:
    """The sites of one of the connector's modules; of what computes nothing there are none."""
    if isinstance(module, nn.Dropout | nn.Identity | nn.ModuleList):
        return {}
    if isinstance(module, nn.Softmax):
        axes = ("clip", "tap", "head", "query", "key")
        return {name.removesuffix("softmax") + "pattern": Site(module, axes)}
    if isinstance(module, Attention):
        axes = ("clip", "tap", "query", "head", "feature")
        return {
            f"{name}.heads": Site(module.out, axes, "input", module.heads),
            name: Site(module, ("clip", "tap", "query", "feature")),
        }
    return {name: Site(module, None)}


def _first_part(module: Any, names: Sequence[str]) -> Any:
    return next((getattr(module, name) for name in names if hasattr(module, name)), None)


def choose_sites(known: Mapping[str, Site], wanted: Sequence[str] | None) -> list[str]:
    """The names that match, in the order of the signal; by default the stream between layers.

    A `*` in a name stands for anything: `backbone.*.attention.pattern`.

    Raises:
        ValueError: a name matches no site.
    """
    if wanted is None:
        stream = [name for name in known if name.partition(".")[2].isdecimal()]
        return [*stream, "audio_embeddings"]
    for name in wanted:
        if not any(fnmatchcase(site, name) for site in known):
            shown = ", ".join(choose_sites(known, None))
            raise ValueError(f"There is no site {name!r}; llm.sites() lists all, such as {shown}.")
    return [site for site in known if any(fnmatchcase(site, name) for name in wanted)]


# ---- record and edit ----


@contextmanager
def record_outputs(modules: Mapping[Name, nn.Module]) -> Iterator[dict[Name, list[Tensor]]]:
    """Inside the context, every output of these modules is added to the list of its name."""
    outputs: dict[Name, list[Tensor]] = {name: [] for name in modules}
    with ExitStack() as hooks:
        for name, module in modules.items():
            hooks.enter_context(_watch(Site(module, None), outputs[name].append))
        yield outputs


@contextmanager
def _watch(site: Site, act: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Inside the context, `act` is given what flows at a site; what it returns flows on instead."""

    def on_output(_: nn.Module, __: Any, output: Any) -> Any:
        values = (output,) if isinstance(output, Tensor) else output
        place = 1 if site.at == "weights" else 0
        if len(values) <= place or values[place] is None:
            raise RuntimeError("This model returns no attention; it has no eager form of it.")
        new = act(values[place])
        if new is None:
            return None
        return new if isinstance(output, Tensor) else (*output[:place], new, *output[place + 1 :])

    def on_input(_: nn.Module, inputs: Any) -> Any:
        new = act(inputs[0])
        return None if new is None else (new, *inputs[1:])

    if site.at == "input":
        handle = site.module.register_forward_pre_hook(on_input)
    else:
        handle = site.module.register_forward_hook(on_output)
    try:
        yield
    finally:
        handle.remove()


def _part_axes(flow: Tensor, site: Site, clips: int) -> Tensor:
    """What flows, with the clip as its first axis and heads apart.

    A Q-Former sees tap after tap of all clips, so that its rows are taps × clips.
    """
    if site.heads:
        flow = flow.unflatten(-1, (site.heads, -1))
    by_tap = "tap" in (site.axes or ())
    if site.axes and not by_tap and (flow.dim(), len(flow)) != (len(site.axes), clips):
        kind, shape = type(site.module).__name__, tuple(flow.shape)
        fault = f"At a {kind} flows {shape}, whose axes are not {', '.join(site.axes)}"
        raise ValueError(f"{fault}; leave this site out.")
    if len(flow) == clips and not by_tap:
        return flow
    return flow.unflatten(0, (-1, clips)).transpose(0, 1)  # of a single tap, too


def _join_axes(parted: Tensor, flow: Tensor) -> Tensor:
    """The way back of `_part_axes`, to the shape and precision of the flow as it was."""
    clips_first = len(parted) == len(flow)
    return (parted if clips_first else parted.transpose(0, 1)).reshape(flow.shape).to(flow.dtype)


@contextmanager
def apply_edits(llm: "AudioLLM", edits: Mapping[str, Edit]) -> Iterator[None]:
    """Inside the context, what flows at these sites of the backbone is edited, whoever runs it.

    Raises:
        ValueError: there is no such site, or it is none of the backbone that can be edited.
    """
    changes = _choose_edits(list_sites(llm), edits)
    for name in edits:
        if not name.startswith("backbone."):
            raise ValueError(f"{name!r} is no site of the backbone; edit it in llm.run(edits=…).")
    with ExitStack() as hooks:
        for site, edit in changes:
            hooks.enter_context(_edit(site, edit))
        yield


@contextmanager
def _edit(site: Site, edit: Edit, clips: int | None = None) -> Iterator[None]:
    """Inside the context, a site is edited in the shape in which it is recorded."""

    def change(flow: Tensor) -> Tensor:
        parted = _part_axes(flow, site, clips or len(flow))
        edited, shape = edit(parted), tuple(parted.shape)
        if not isinstance(edited, Tensor) or edited.shape != parted.shape:
            found = tuple(edited.shape) if isinstance(edited, Tensor) else type(edited).__name__
            raise ValueError(f"An edit returns {found} where {shape} flows; return that shape.")
        return _join_axes(edited, flow)

    with _watch(site, change):
        yield


@contextmanager
def eager_attention(*models: Any) -> Iterator[None]:
    """Inside the context, these models of transformers return their attention; sdpa cannot."""
    before = [model.config._attn_implementation for model in models]
    for model in models:
        model.set_attn_implementation("eager")
    try:
        yield
    finally:
        for model, name in zip(models, before, strict=True):
            model.set_attn_implementation(name)


# ---- one question about some clips ----


@dataclass(frozen=True)
class ForwardPass:
    """What flowed while the backbone was asked one question about some clips.

    Args:
        sites: raw tensors by site, the clip first, in the precision in which they flowed.
        axes: names of their axes.
        slots: positions of the audio embeddings among the backbone's tokens.
        answer: the position from which the next token, the first of the answer, is predicted.
        tokens: of every clip, as text; an audio slot is `[audio 0]`, padding in front is empty.
        logits: next-token logits at the answer position, float32.
    """

    sites: dict[str, Tensor]
    axes: dict[str, tuple[str, ...]]
    slots: Int[Tensor, "clip query"]
    answer: int
    tokens: list[list[str]]
    logits: Float[Tensor, "clip vocabulary"]

    def __getitem__(self, site: str) -> Tensor:
        return self.sites[site]

    def at_slots(self, site: str) -> Float[Tensor, "clip query *feature"]:
        """A site of the backbone's stream at the audio slots of every clip."""
        clips = torch.arange(len(self.slots), device=self.slots.device)[:, None]
        return self.sites[site][clips, self.slots]

    def to_frame(self, site: str) -> pd.DataFrame:
        """A site as a table: a row for every place, indexed by its axes; a column per feature."""
        tensor = self.sites[site].detach().float().cpu()
        *places, last = self.axes[site]
        index = pd.MultiIndex.from_product([range(n) for n in tensor.shape[:-1]], names=places)
        columns = pd.RangeIndex(tensor.shape[-1], name=last)
        return pd.DataFrame(tensor.flatten(0, -2).numpy(), index, columns)

    def save(self, path: Path | str) -> None:
        """Write everything to one safetensors file, which `ForwardPass.load` reads."""
        tensors = {**self.sites, "_slots": self.slots, "_logits": self.logits}
        about = {"axes": self.axes, "answer": self.answer, "tokens": self.tokens}
        cache.save_tensors(Path(path), tensors, about=json.dumps(about))

    @classmethod
    def load(cls, path: Path | str) -> "ForwardPass":
        """Read what `save` wrote. Raises ValueError for any other file."""
        try:
            with safe_open(path, "pt") as file:
                about = json.loads(file.metadata()["about"])
                sites = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            axes = {name: tuple(names) for name, names in about["axes"].items()}
            slots, logits = sites.pop("_slots"), sites.pop("_logits")
            ordered = {name: sites[name] for name in axes}
            return cls(ordered, axes, slots, about["answer"], about["tokens"], logits)
        except (SafetensorError, ValueError, TypeError, LookupError, AttributeError) as error:
            fault = f"{path}: no forward pass that `save` wrote ({error})"
            raise ValueError(f"{fault}; save it again.") from error


def run_forward(
    llm: "AudioLLM",
    clips: Sequence[Sound],
    question: str,
    *,
    sites: Sequence[str] | None = None,
    edits: Mapping[str, Edit] | None = None,
    transcripts: Sequence[str] | None = None,
    stem: str = "",
    batch: int = 16,
    gradients: bool = False,
) -> ForwardPass:
    """Ask one question about some clips; record sites and edit what flows at others.

    Attention patterns of encoder and backbone switch the attention to its written-out form and put
    it back; they can be read, not edited (edit `attention.heads`).

    Args:
        clips: waveforms at 16 kHz, or files.
        sites: names of `list_sites`, or patterns of names; by default the stream between layers.
        edits: site → a function of what flows there, in the shape in which it is recorded; what it
            returns flows on instead, and is recorded.
        transcripts: words of every clip, which stand behind its audio embeddings.
        stem: how the answer begins; `answer` is then its last token.
        gradients: keep the graph, back to what the connector reads; all clips are one batch.

    Raises:
        ValueError: there are no clips or no such site, a pattern that cannot be edited is to be, or
            an edit returns something of another shape.
    """
    known = list_sites(llm)
    names = choose_sites(known, sites)
    changes = _choose_edits(known, edits or {})
    waves = read_waves(clips)
    ids, mask = llm.backbone.pad_left(build_streams(llm, len(waves), question, transcripts, stem))
    size = len(waves) if gradients else batch
    used = [known[name] for name in names]
    patterns = any(site.at == "weights" for site in used)
    eager = [llm.encoder.whisper, llm.backbone.model] if patterns else []
    parts = []
    with torch.set_grad_enabled(gradients), eager_attention(*eager):
        for first in range(0, len(waves), size):
            rows = slice(first, first + size)
            parts.append(_forward_batch(llm, waves[rows], ids[rows], mask[rows], used, changes))
    flows = [
        torch.cat(flow) if len(flow) > 1 else flow[0]  # one batch stays in the graph of gradients
        for flow in zip(*(flows for flows, _ in parts), strict=True)
    ]
    axes = [_name_axes(site, flow) for site, flow in zip(used, flows, strict=True)]
    return ForwardPass(
        dict(zip(names, flows, strict=True)),
        dict(zip(names, axes, strict=True)),
        (ids == chat.SLOT).nonzero()[:, 1].reshape(len(waves), -1),
        ids.shape[1] - 1,
        [
            _name_tokens(llm, row, kept)
            for row, kept in zip(ids.tolist(), mask.tolist(), strict=True)
        ],
        torch.cat([logits for _, logits in parts]),
    )


def read_waves(clips: Sequence[Sound]) -> list[Float[np.ndarray, "_"]]:
    """The waveforms of clips, of which some may be files.

    Raises ValueError if there is no list, or if a waveform is on another scale than −1 … 1.
    """
    if isinstance(clips, str | Path) or not len(clips):
        raise ValueError(f"clips are a list of files or waveforms, at least one, not {clips!r}.")
    return [
        _check_wave(clip) if isinstance(clip, np.ndarray) else audio.read_audio(clip)
        for clip in clips
    ]


def _check_wave(wave: Float[np.ndarray, "_"]) -> Float[np.ndarray, "_"]:
    """A waveform, unless it is on another scale, as the integers of a file are."""
    peak = np.abs(wave.astype(np.float64)).max(initial=0.0)
    if not peak <= audio.OVERSHOOT:  # nor is NaN
        fault = f"A waveform has a peak of {peak:g} where full scale is 1"
        raise ValueError(f"{fault}; divide it by its full scale.")
    return wave


def _choose_edits(known: Mapping[str, Site], edits: Mapping[str, Edit]) -> list[tuple[Site, Edit]]:
    changes = [
        (known[name], edit) for key, edit in edits.items() for name in choose_sites(known, [key])
    ]
    if any(site.at == "weights" for site, _ in changes):
        raise ValueError("The pattern of a frozen layer is read only; edit its attention.heads.")
    return changes


def build_streams(
    llm: "AudioLLM", clips: int, question: str, transcripts: Sequence[str] | None, stem: str
) -> list[chat.TokenStream]:
    """The tokens of one question about every clip, up to where the answer goes on behind `stem`.

    Raises:
        ValueError: there are more or fewer transcripts than clips.
    """
    texts = [""] * clips if transcripts is None else transcripts
    if len(texts) != clips:
        fault = f"There are {clips} clips and {len(texts)} transcripts"
        raise ValueError(f"{fault}; give one for each.")
    messages = chat.audio_messages(question)
    return [
        llm.build_stream(messages, response=stem, truncated=True, transcripts=[text])
        for text in texts
    ]


def _forward_batch(
    llm: "AudioLLM",
    waves: Sequence[np.ndarray],
    ids: Int[Tensor, "clip token"],
    mask: Int[Tensor, "clip token"],
    sites: Sequence[Site],
    changes: Sequence[tuple[Site, Edit]],
) -> tuple[list[Tensor], Float[Tensor, "clip vocabulary"]]:
    """What flowed at these sites for a batch of clips, and the logits at the answer position."""
    clips, flows = len(waves), [list[Tensor]() for _ in sites]
    padded = padding_arguments(mask)
    llm.connector.eval()
    with ExitStack() as hooks:
        for site, edit in changes:
            hooks.enter_context(_edit(site, edit, clips))
        for site, kept in zip(sites, flows, strict=True):

            def keep(flow: Tensor, site: Site = site, kept: list[Tensor] = kept) -> Tensor | None:
                kept.append(_part_axes(flow, site, clips))
                return _join_axes(kept[-1], flow) if torch.is_grad_enabled() else None

            hooks.enter_context(_watch(site, keep))
        embeddings = llm.splice(ids, llm.connect(llm.encoder.encode(waves)))
        hidden = llm.backbone.hidden_states(embeddings.to(llm.backbone.dtype), **padded)
    # a module that is called more than once puts its calls side by side
    recorded = [calls[0] if len(calls) == 1 else torch.stack(calls, dim=1) for calls in flows]
    return recorded, llm.backbone.logits(hidden[:, -1])


def _name_axes(site: Site, flow: Tensor) -> tuple[str, ...]:
    if site.axes is not None and len(site.axes) == flow.dim():
        return site.axes
    return ("clip", *(f"axis {i}" for i in range(1, flow.dim() - 1)), "feature")


def _name_tokens(llm: "AudioLLM", ids: Sequence[int], kept: Sequence[int]) -> list[str]:
    names, slot = [], 0
    for token, real in zip(ids, kept, strict=True):
        if token == chat.SLOT:
            names.append(f"[audio {slot}]")
            slot += 1
        else:
            names.append(llm.backbone.tokenizer.decode([token]) if real else "")
    return names
