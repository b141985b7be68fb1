"""Interventions: edits of what flows at layer × place × head, and whether the answer moves."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from desta_lab.analysis.lens import first_option_tokens
from desta_lab.evaluation import scoring
from desta_lab.evaluation.statistics import sign_flip_p
from desta_lab.evaluation.tasks import Task
from desta_lab.model.audio_llm import AudioLLM
from desta_lab.model.sites import Edit, ForwardPass, Sound, apply_edits, read_waves

# ---- edits: for sites whose axes are (clip, place, …, feature) ----


def set_to(value: int | float | Tensor) -> Edit:
    """Put a number (0 knocks out), a mean, or another clip's values in the place of what flows."""
    return lambda flow: torch.as_tensor(value).to(flow).expand_as(flow)


def add(direction: Float[Tensor, "*shape feature"], scale: int | float = 1) -> Edit:
    """Add a direction, so many times."""
    return lambda flow: flow + scale * direction.to(flow)


def erase(direction: Float[Tensor, "feature"]) -> Edit:
    """Remove what flows along a direction."""

    def project_out(flow: Tensor) -> Tensor:
        unit = (direction / direction.norm()).to(flow)
        return flow - (flow @ unit)[..., None] * unit

    return project_out


def only(edit: Edit, positions: Sequence[int] | Tensor, heads: Sequence[int] | None = None) -> Edit:
    """Keep an edit to some positions (axis 1) and, at a site of heads, to some heads (axis 2).

    Positions are the same for every clip or, as (clip, position), each clip's own, for clips that
    are one batch.
    """
    at = torch.as_tensor(positions).cpu()

    def restrict(flow: Tensor) -> Tensor:
        if at.dim() == 2 and len(at) != len(flow):
            raise ValueError(
                f"There are positions of {len(at)} clips and a batch of {len(flow)}; run as many "
                f"clips, with batch={len(at)}."
            )
        clips, own = torch.arange(len(flow))[:, None], at.expand(len(flow), -1)
        places: tuple[Tensor, ...] = (clips, own)
        if heads is not None:
            places = (clips[..., None], own[..., None], torch.as_tensor(heads))
        edited = flow.clone()
        edited[places] = edit(flow).expand_as(flow)[places].to(flow)
        return edited

    return restrict


def knock_out(
    heads: Iterable[tuple[int, int]],
    means: Mapping[str, Float[Tensor, "token head feature"]] | None = None,
) -> dict[str, Edit]:
    """Edits that take away what heads of the backbone, each (layer, head), put out.

    Args:
        means: of `mean_heads`: then what a clip makes of each head is taken away, and their mean
            over clips is left; by default they put out 0.
    """
    chosen: dict[str, list[int]] = {}
    for layer, head in heads:
        chosen.setdefault(f"backbone.{layer}.attention.heads", []).append(head)
    return {
        site: _silence(some, None if means is None else means[site])
        for site, some in chosen.items()
    }


def _silence(heads: list[int], mean: Float[Tensor, "token head feature"] | None) -> Edit:
    def silence(flow: Tensor) -> Tensor:
        left = flow.clone()
        places = slice(None) if mean is None else slice(-len(mean), None)
        left[:, places, heads] = 0 if mean is None else mean[:, heads].to(flow)
        return left

    return silence


@torch.no_grad()
def mean_heads(
    llm: AudioLLM,
    tasks: Sequence[Task],
    audio_embeddings: Float[Tensor, "clip query d_llm"],
    transcripts: Sequence[str] | None = None,
    batch: int = 16,
) -> dict[str, Float[Tensor, "token head feature"]]:
    """The mean over clips of what heads put out at each token behind them, by the heads' site.

    The tokens are those of all tasks, as `score_options` asks them.
    """
    scoring.check_one_forward(llm.backbone)
    tokens = len(scoring.audio_branches(llm, tasks).trie.tokens)
    layers = range(len(llm.backbone.layers))
    sums: dict[str, Tensor] = {}

    def add_up(site: str) -> Edit:
        def see(flow: Tensor) -> Tensor:
            sums[site] = sums.get(site, 0) + flow[:, -tokens:].float().sum(0)
            return flow

        return see

    sites = [f"backbone.{layer}.attention.heads" for layer in layers]
    with apply_edits(llm, {site: add_up(site) for site in sites}):
        scoring.score_options(llm, tasks, audio_embeddings, batch, transcripts)
    return {site: total / len(audio_embeddings) for site, total in sums.items()}


# ---- does it carry the answer? ----


def draw_triples(values: Sequence[str]) -> list[tuple[int, int, int]]:
    """For `patch_sites`: every clip with one of another value and another one of its own.

    A clip whose value no other clip has is left out.

    Raises:
        ValueError: nothing is left.
    """
    rng, names = np.random.default_rng(0), np.asarray(values)
    triples = []
    for target, value in enumerate(names):
        others, same = np.flatnonzero(names != value), np.flatnonzero(names == value)
        same = same[same != target]
        if len(others) and len(same):
            triples.append((target, int(rng.choice(others)), int(rng.choice(same))))
    if not triples:
        raise ValueError(
            f"{len(names)} clips with the values {', '.join(sorted(set(values)))} make no "
            "contrast; give two clips of one value and one of another at least."
        )
    return triples


@torch.no_grad()
def patch_sites(
    llm: AudioLLM,
    task: Task,
    clips: Sequence[Sound],
    values: Sequence[str],
    triples: Sequence[tuple[int, int, int]],
    sites: Sequence[str],
    places: Mapping[str, Sequence[int] | Tensor] | None = None,
    transcripts: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Put what flowed in one clip into another, place by place: how far does the answer move?

    The margin is log p(source's value) − log p(target's value), of the first tokens of the options.

    Args:
        values: the value of every clip.
        triples: (target, source, same), rows of `clips`: into `target` is put what flowed in
            `source`, of another value, and for the null in `same`, another clip of its own value.
        sites: of the backbone, names or patterns; at `attention.heads` each head by itself.
        places: name → positions among the tokens, of all clips or as (clip, position); by default
            "audio" (all slots) and "answer".
        transcripts: words of every clip, which stand behind its audio embeddings and stay there.

    Returns:
        One row per triple × site × head (−1: all of them) × place: `shift`, how far the margin
        moves; `same`, how far it moves by `same`; `whole`, how far it is from target to source.

    Raises:
        ValueError: two options begin with the same token, or a triple's values are not as said.
    """
    _check_triples(values, triples)
    target, source, same = (list(rows) for rows in zip(*triples, strict=True))
    options = list(task.options)
    gain, loss = ([options.index(values[row]) for row in rows] for rows in (source, target))
    first, waves = first_option_tokens(llm, task), read_waves(clips)
    plain = llm.run(waves, task.question, sites=sites, transcripts=transcripts, stem=task.stem)
    places = places or {"audio": plain.slots, "answer": [plain.answer]}
    own = None if transcripts is None else [transcripts[row] for row in target]
    how: dict[str, Any] = {"transcripts": own, "stem": task.stem, "batch": len(target)}

    def margins(logits: Float[Tensor, "triple vocabulary"]) -> np.ndarray:
        scores, row = logits[:, first].cpu().numpy(), np.arange(len(logits))
        return scores[row, gain] - scores[row, loss]

    def shift(site: str, head: int, at: Tensor, donors: list[int]) -> np.ndarray:
        edits = {site: _put(plain[site][donors], at[donors], at[target], head)}
        some = [waves[row] for row in target]
        edited = llm.run(some, task.question, sites=[], edits=edits, **how)
        return margins(edited.logits) - margins(plain.logits[target])

    whole, rows = margins(plain.logits[source]) - margins(plain.logits[target]), []
    for site, head in _list_heads(plain):
        for place, positions in places.items():
            # counted from the end, as clips are padded in front, and fewer clips perhaps by less
            at = torch.as_tensor(positions).cpu().expand(len(waves), -1) - len(plain.tokens[0])
            cell = {"triple": range(len(target)), "site": site, "head": head, "place": place}
            cell["shift"] = shift(site, head, at, source)
            cell["same"] = shift(site, head, at, same)
            rows.append(pd.DataFrame({**cell, "whole": whole}))
    return pd.concat(rows, ignore_index=True)


def _put(
    given: Float[Tensor, "clip token *feature"],
    there: Int[Tensor, "clip position"],
    here: Int[Tensor, "clip position"],
    head: int,
) -> Edit:
    """Put what flowed at some places of other clips to places here, of all heads or of one."""
    part, each = slice(None) if head < 0 else head, torch.arange(len(here))[:, None]

    def put(flow: Tensor) -> Tensor:
        patched = flow.clone()
        patched[each, here, part] = given[each, there][:, :, part]
        return patched

    return put


def _list_heads(forward: ForwardPass) -> list[tuple[str, int]]:
    """Every site with each of its heads, or with −1 where it has none."""
    return [
        (site, head)
        for site, flow in forward.sites.items()
        for head in (range(flow.shape[2]) if forward.axes[site][2] == "head" else [-1])
    ]


def summarise_patches(patched: pd.DataFrame) -> pd.DataFrame:
    """How far each place moves the answer, as a share of the way, beside its null.

    Returns:
        Per cell `moved` and `same` (shares of the way, of sums over triples) and `p`: of no
        difference between the two, corrected for the number of cells (`sign_flip_p`).
    """
    cells = patched.groupby(["site", "head", "place"], sort=False)
    sums = cells[["shift", "same", "whole"]].sum()
    table = pd.DataFrame(
        {"moved": sums["shift"] / sums["whole"], "same": sums["same"] / sums["whole"]}
    )
    gains = [(rows["shift"] - rows["same"]).to_numpy() for _, rows in cells]
    return table.assign(p=sign_flip_p(np.stack(gains, axis=1))).reset_index()


def _check_triples(values: Sequence[str], triples: Sequence[tuple[int, int, int]]) -> None:
    for target, source, same in triples:
        if values[target] == values[source] or values[target] != values[same] or target == same:
            raise ValueError(
                f"The triple {(target, source, same)} has the values {values[target]}, "
                f"{values[source]}, {values[same]}; the second must differ from the first, "
                "and the third be another clip with the first's."
            )
