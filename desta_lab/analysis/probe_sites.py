"""The sites that probes read: what flows there for many clips and every task, by name.

log-mel ─► encoder i ─► block i ─► mixture ─► audio embeddings ─► slots i, answer i ─► scores
"""

import re
from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from desta_lab.evaluation import scoring
from desta_lab.evaluation.tasks import Task
from desta_lab.model import chat
from desta_lab.model.audio_llm import AudioLLM
from desta_lab.model.sites import list_sites, record_outputs

# site → (clip, feature), or (clip, query, feature) in the connector; float16 on the CPU
Sites = dict[str, Tensor]

# ---- names ----

_NAMES = {  # site of the model → its name in tables
    r"connector\.blocks\.(\d+)": r"block \1",
    r"connector\.proj\.0": "mixture",  # as the LayerNorm before the projection leaves it
    "audio_embeddings": "audio embeddings",
    r"backbone\.(\d+)": r"backbone \1",
}
# stays: a provenance names the sites where they are others than these
_SHIPPED = [r"block \1", "mixture", "audio embeddings", r"backbone \1"]


def site_modules(llm: AudioLLM) -> dict[str, nn.Module]:
    """The module behind every site that is captured, in signal order, by the name in tables.

    Raises:
        ValueError: a site is no output of a module, such as heads or an attention pattern.
    """
    modules = {}
    for name, site in list_sites(llm).items():
        for pattern, own in _NAMES.items():
            if found := re.fullmatch(pattern, name):
                if site.at != "output":
                    fault = f"The site {name} is no output of a module, so it cannot be probed"
                    raise ValueError(f"{fault}; take it out of probe_sites._NAMES.")
                modules[found.expand(own)] = site.module
    return modules


def site_facts(llm: AudioLLM) -> dict[str, list[str]]:
    """The names of all sites; nothing where they are those of the tables that were kept."""
    return {} if list(_NAMES.values()) == _SHIPPED else {"sites": list(site_modules(llm))}


# ---- capture for many clips and every task ----


def pool_over_time(site: Tensor) -> Float[Tensor, "clip feature"]:
    """Mean and standard deviation over frames, queries or tokens; a site without any stays.

    The deviation of one alone is 0.
    """
    site = site.float()
    if site.dim() == 2:
        return site
    spread = site.std(1, correction=int(site.shape[1] > 1))
    return torch.cat([site.mean(1), spread], dim=-1)


def log_mel_site(mel: Float[Tensor, "clip mel frame"]) -> Float[Tensor, "clip feature"]:
    """The log-mel baseline: what a probe reads before any model has heard the clip."""
    return pool_over_time(mel.transpose(1, 2))


def capture_fixed_sites(
    llm: AudioLLM,
    batches: Iterable[tuple[Float[Tensor, "_ mel _"], Float[Tensor, "layer _ frame d_enc"]]],
) -> Sites:
    """The sites that no training moves: the log-mel, and the states of every tapped layer."""
    parts = []
    for mel, states in batches:
        layers = zip(llm.encoder.taps, states, strict=True)
        encoder = {f"encoder {tap}": pool_over_time(layer) for tap, layer in layers}
        parts.append(_to_half({"log-mel": log_mel_site(mel), **encoder}))
    return _concatenate(parts)


@torch.no_grad()
def capture_sites(
    llm: AudioLLM,
    tasks: Sequence[Task],
    batches: Iterable[Float[Tensor, "layer _ frame d_enc"]],
    transcripts: Sequence[str] | None = None,
) -> Sites:
    """Every site behind the encoder, from batches of encoder states, with the model as it is now.

        block i, mixture            inside the connector (a connector without blocks has neither)
        audio embeddings            (clip, query, d_llm), not pooled
        slots i                     backbone layer i over the audio slots, pooled
        answer i: <task>            backbone layer i where the answer to the task begins
        scores <task>               log-probability of every option

    One forward of a clip answers all tasks (`scoring.score_options`), so one more task costs a few
    tokens. `transcripts`, one a clip, stand behind the audio embeddings.
    """
    scoring.check_one_forward(llm.backbone)
    llm.connector.eval()
    branches, modules, done, parts = scoring.audio_branches(llm, tasks), site_modules(llm), 0, []
    for states in batches:
        clips = states.shape[1]
        words = None if transcripts is None else transcripts[done : done + clips]
        done += clips
        with record_outputs(modules) as outputs:
            scores = scoring.score_options(llm, tasks, llm.connect(states), clips, words)
        trunks = scoring.build_trunks(llm, tasks, clips, words)
        slots = (llm.backbone.pad_left(trunks)[0] == chat.SLOT).nonzero().view(clips, -1, 2)
        sites = {}
        for name, (flow, *_) in outputs.items():
            if name.startswith("backbone "):
                at_slots = flow.to(slots.device)[slots[..., 0], slots[..., 1]]
                sites[name.replace("backbone", "slots")] = pool_over_time(at_slots)
            else:  # a block sees tap after tap of all clips; a clip's queries are of all its taps
                sites[name] = flow.unflatten(0, (-1, clips)).transpose(0, 1).flatten(1, 2)
        parts.append(_to_half(sites | _answer_sites(outputs, tasks, branches, scores)))
    return _concatenate(parts)


@torch.no_grad()
def capture_oracle_sites(
    llm: AudioLLM, tasks: Sequence[Task], descriptions: Sequence[str], batch: int = 16
) -> Sites:
    """Answer sites and scores of the text oracle: the untouched backbone reads descriptions."""
    scoring.check_one_forward(llm.backbone)
    branches = scoring.text_branches(llm.backbone, tasks, descriptions[0])
    modules = {n: m for n, m in site_modules(llm).items() if n.startswith("backbone ")}
    parts = []
    for first in range(0, len(descriptions), batch):
        texts = descriptions[first : first + batch]
        with record_outputs(modules) as outputs, llm.backbone.untuned():
            scores = scoring.score_options_of_text(llm.backbone, tasks, texts, batch=batch)
        parts.append(_to_half(_answer_sites(outputs, tasks, branches, scores)))
    return _concatenate(parts)


def _answer_sites(
    outputs: Mapping[str, Sequence[Tensor]],
    tasks: Sequence[Task],
    branches: scoring.Branches,
    scores: scoring.Scores,
) -> Sites:
    """What leaves each layer of the backbone where the answers begin, and the options' scores."""
    sites = {
        f"{name.replace('backbone', 'answer')}: {task.name}": flow[:, place]
        for name, (flow, *_) in outputs.items()
        if name.startswith("backbone ")
        for task, place in zip(tasks, branches.answers, strict=True)
    }
    return sites | {f"scores {task.name}": score for task, score in zip(tasks, scores, strict=True)}


def _to_half(sites: Mapping[str, Tensor]) -> Sites:
    """Sites in half precision, clipped to what that can hold."""
    limit = torch.finfo(torch.float16).max
    return {name: site.float().clamp(-limit, limit).half().cpu() for name, site in sites.items()}


def _concatenate(parts: Sequence[Sites]) -> Sites:
    """Batches of the same sites, one after the other."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
