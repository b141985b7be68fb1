"""What flows where: every site of the system captured by hooks, for many clips, kept on disk by hash."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from desta_lab.evaluation import scoring
from desta_lab.evaluation.tasks import Task
from desta_lab.model import chat
from desta_lab.model.audio_llm import AudioLLM

FAMILIES = (
    "log-mel",
    "encoder",
    "block",
    "mixture",
    "audio embeddings",
    "slots",
    "answer",
    "scores",
)  # of sites
Sites = dict[
    str, Tensor
]  # site → (clip, feature), or (clip, query, feature) in the connector; fp16


def _tensor(out: Any) -> Tensor:
    """What a module says: itself, or the first of several (a transformers layer may return either)."""
    return out if isinstance(out, Tensor) else out[0]


@contextmanager
def record_outputs(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, list[Tensor]]]:
    """Inside, every call of these modules adds its output to the list of its name; outside, the hooks are gone."""
    seen: dict[str, list[Tensor]] = {name: [] for name in modules}
    with ExitStack() as hooks:
        for name, module in modules.items():

            def keep(_: nn.Module, __: Any, out: Any, name: str = name) -> None:
                seen[name].append(_tensor(out).detach())

            hooks.callback(module.register_forward_hook(keep).remove)
        yield seen


@contextmanager
def replace_output(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Inside, the module's output is `change(output)`; outside, it is what it was."""

    def swap(_: nn.Module, __: Any, out: Any) -> Any:
        new = change(_tensor(out))
        return new if isinstance(out, Tensor) else (new, *out[1:])

    handle = module.register_forward_hook(swap)
    try:
        yield
    finally:
        handle.remove()


def backbone_layers(llm: AudioLLM) -> dict[str, nn.Module]:
    """The backbone's layers by site name; `backbone 0` is the first layer's output."""
    return {
        f"backbone {i}": layer for i, layer in enumerate(llm.backbone.model.get_decoder().layers)
    }


def pool_over_time(site: Tensor) -> Float[Tensor, "clip feature"]:
    """Mean and standard deviation over frames or tokens: the same reading of every site, whatever its length."""
    site = site.float()
    return site if site.dim() == 2 else torch.cat([site.mean(1), site.std(1)], dim=-1)


def log_mel_site(mel: Float[Tensor, "clip mel frame"]) -> Float[Tensor, "clip feature"]:
    """The log-mel baseline: what a probe reads before any model has heard the clip."""
    return pool_over_time(mel.transpose(1, 2))


def capture_fixed_sites(
    llm: AudioLLM,
    batches: Iterable[tuple[Float[Tensor, "_ mel _"], Float[Tensor, "layer _ frame d_enc"]]],
) -> Sites:
    """The sites that no training moves, from (log-mel, encoder states): the spectrogram and every tapped layer."""
    return _joined(
        {"log-mel": _small(log_mel_site(mel))}
        | {
            f"encoder {tap}": _small(pool_over_time(layer))
            for tap, layer in zip(llm.encoder.taps, states, strict=True)
        }
        for mel, states in batches
    )


@torch.no_grad()
def capture_sites(
    llm: AudioLLM, tasks: Sequence[Task], batches: Iterable[Float[Tensor, "layer _ frame d_enc"]]
) -> Sites:
    """The sites behind the connector as it is now, and the log-probability of every option (`scores <task>`).

        block i, mixture            inside the connector (a connector without blocks has neither)
        audio embeddings            (clip, query, d_llm), whole
        slots i                     backbone layer i over the audio slots, pooled
        answer i: <attribute>       backbone layer i where the answer to the attribute's task begins

    One forward a clip answers all tasks (`scoring.rank`), so a task more costs a few tokens.
    """
    llm.connector.eval()
    trunk, tree = scoring.build_layout(llm, tasks)
    slots = [i for i, token in enumerate(trunk.ids) if token == chat.SLOT]
    begin = [len(trunk.ids) + node for node in tree.answer_nodes]
    inner = _inside(llm.connector)
    parts: list[Sites] = []
    for states in batches:
        with record_outputs({**inner, **backbone_layers(llm)}) as seen:
            spoken = llm.connect(states)
            scores = scoring.score_options(llm, tasks, spoken, batch=len(spoken))
        now = {name: _by_clip(seen[name][0], len(spoken)) for name in inner} | {
            "audio embeddings": spoken
        }
        for name in backbone_layers(llm):
            flow, number = seen[name][0], name.removeprefix("backbone ")
            now[f"slots {number}"] = pool_over_time(flow[:, slots])
            now |= {
                f"answer {number}: {t.attribute}": flow[:, i]
                for t, i in zip(tasks, begin, strict=True)
            }
        now |= {f"scores {task.name}": score for task, score in zip(tasks, scores, strict=True)}
        parts.append({name: _small(site) for name, site in now.items()})
    return _joined(parts)


@torch.no_grad()
def capture_oracle_sites(
    llm: AudioLLM, tasks: Sequence[Task], descriptions: Sequence[str], batch: int = 16
) -> Sites:
    """The text oracle's answer positions: the backbone reads the description instead of hearing the clip."""
    backbone = llm.backbone
    every = [
        chat.build_stream(
            backbone.tokenizer, chat.description_messages(descriptions[0], task.question), 0
        )
        for task in tasks
    ]
    tree = scoring.build_branches(backbone.tokenizer, tasks, scoring.common_trunk(every), every)
    begin = [
        node - len(tree.trie.tokens) for node in tree.answer_nodes
    ]  # counted from the end: trunks differ
    parts: list[Sites] = []
    for first in range(0, len(descriptions), batch):
        with record_outputs(backbone_layers(llm)) as seen, backbone.untuned():
            scores = scoring.score_options_of_text(
                backbone, tasks, descriptions[first : first + batch], batch=batch
            )
        now = {f"scores {task.name}": score for task, score in zip(tasks, scores, strict=True)}
        for name in backbone_layers(llm):
            number = name.removeprefix("backbone ")
            now |= {
                f"answer {number}: {t.attribute}": seen[name][0][:, i]
                for t, i in zip(tasks, begin, strict=True)
            }
        parts.append({name: _small(site) for name, site in now.items()})
    return _joined(parts)


def cached_sites(folder: Path, key: Mapping[str, Any], make: Callable[[], Sites]) -> Sites:
    """Sites of this key from disk, or captured and kept; a file that cannot be read is made again."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()[:16]
    path = folder / f"{digest}.safetensors"
    try:
        return order_sites(load_file(path))
    except (OSError, SafetensorError):
        sites = {name: site.contiguous() for name, site in make().items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(sites, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)
    return order_sites(sites)


def order_sites(sites: Sites) -> Sites:
    """The same sites from the sound down to the answer; a file knows no order."""

    def place(name: str) -> tuple[int, int]:
        digits = "".join(c for c in name.partition(":")[0] if c.isdigit())
        return next(i for i, family in enumerate(FAMILIES) if name.startswith(family)), int(
            digits or 0
        )

    return {name: sites[name] for name in sorted(sites, key=place)}


def _inside(connector: nn.Module) -> dict[str, nn.Module]:
    """Blocks of a Q-Former and its mixture (as the LayerNorm before the projection leaves it)."""
    if not hasattr(connector, "blocks"):
        return {}
    blocks: Any = connector.blocks
    proj: Any = connector.proj
    return {f"block {i}": block for i, block in enumerate(blocks)} | {"mixture": proj[0]}


def _by_clip(flow: Float[Tensor, "_ query width"], clips: int) -> Float[Tensor, "clip _ width"]:
    """A block sees tap after tap of all clips; a clip's tokens are the queries of all its taps."""
    return flow.unflatten(0, (-1, clips)).transpose(0, 1).flatten(1, 2)


def _joined(parts: Iterable[Sites]) -> Sites:
    """Batches of the same sites, one after the other."""
    every = list(parts)
    return {name: torch.cat([part[name] for part in every]) for name in every[0]}


def _small(site: Tensor) -> Tensor:
    """As it is kept: in half precision, clipped to what that can hold."""
    limit = torch.finfo(torch.float16).max
    return site.float().clamp(-limit, limit).half().cpu()
