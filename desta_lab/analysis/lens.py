"""Lenses and interventions: what each layer would say, and what changes when a query or a direction is changed."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from sklearn.covariance import ledoit_wolf
from torch import Tensor

from desta_lab.analysis.sites import Sites
from desta_lab.evaluation import scoring
from desta_lab.evaluation.tasks import Task
from desta_lab.model.audio_llm import AudioLLM

# ---- what each layer would say ----


@torch.no_grad()
def option_logits(
    llm: AudioLLM, task: Task, hidden: Float[Tensor, "clip d_llm"]
) -> Float[Tensor, "clip option"]:
    """Logits of the first token of every option, read from a layer's output as if it were the last (logit lens)."""
    first = [option[0] for option in scoring.tokenize_options(llm.backbone.tokenizer, task)[1]]
    if len(set(first)) < len(first):
        raise ValueError(
            f"Two options of {task.name} begin with the same token; the lens cannot tell them apart."
        )
    state = hidden.to(llm.backbone.device, llm.backbone.dtype)
    return llm.backbone.logits(llm.backbone.model.get_decoder().norm(state))[:, first].cpu()


def logit_lens(
    llm: AudioLLM,
    tasks: Sequence[Task],
    sites: Sites,
    truth: Sequence[Mapping[str, str]],
    held_out: Sequence[int],
    swap: Sequence[int] | None = None,
) -> pd.DataFrame:
    """Per layer, task and clip: is the right option ahead at the answer position, and by how many nats?

    `sites` are those of `activations.heard` or `.read`. As in the ranking, each option's mean over the `held_out`
    rows is subtracted first, and these rows are not scored. `swap` scores another clip's state against this clip's
    truth (shuffled audio).
    """
    rows = []
    scored = sorted(set(range(len(truth))) - set(held_out))
    for task in tasks:
        values = list(task.options)
        right = torch.tensor([values.index(truth[i][task.attribute]) for i in scored])
        numbers = [
            int(name.split()[1].rstrip(":"))
            for name in sites
            if name.endswith(f": {task.attribute}")
        ]
        for layer in sorted(numbers):
            logits = option_logits(llm, task, sites[f"answer {layer}: {task.attribute}"])
            logits = (logits - logits[list(held_out)].mean(0))[
                scored if swap is None else list(swap)
            ]
            own = logits.gather(1, right[:, None])[:, 0]
            others = logits.scatter(1, right[:, None], -torch.inf).amax(1)
            rows.append(
                pd.DataFrame(
                    {
                        "attribute": task.attribute,
                        "layer": layer,
                        "row": scored,
                        "correct": (own > others).float().numpy(),
                        "margin": (own - others).numpy(),
                        "chance": task.chance,
                    }
                )
            )
    return pd.concat(rows, ignore_index=True)


# ---- patching ----


@torch.no_grad()
def patch_queries(
    llm: AudioLLM,
    tasks: Sequence[Task],
    spoken: Float[Tensor, "clip query d_llm"],
    truth: Sequence[Mapping[str, str]],
    pairs: Sequence[tuple[int, int]],
    batch: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Audio embeddings of clip A put into clip B, one query at a time: which query moves the answer?

    Per pair (A, B), task in which their values differ, and query (−1: all of them): `shift`, how far the margin
    log p(A's value) − log p(B's value) moves from what it is in B, and `whole`, how far it is from B to A.
    """
    count = spoken.shape[1]
    rows: list[dict[str, object]] = []
    for done, (a, b) in enumerate(pairs):
        mixed = spoken[b].repeat(count + 2, 1, 1)
        mixed[torch.arange(count), torch.arange(count)] = spoken[a]
        mixed[count] = spoken[a]  # the last row is B, untouched
        for task, scores in zip(
            tasks, scoring.score_options(llm, tasks, mixed, batch=batch), strict=True
        ):
            theirs, ours = (list(task.options).index(truth[i][task.attribute]) for i in (a, b))
            if theirs != ours:
                margin = scores[:, theirs] - scores[:, ours]
                shift = (margin[:-1] - margin[-1]).tolist()
                rows += [
                    {
                        "attribute": task.attribute,
                        "row": b,
                        "query": q if q < count else -1,
                        "shift": s,
                        "whole": shift[-1],
                    }
                    for q, s in enumerate(shift)
                ]
        if progress:
            progress(done + 1, len(pairs))
    return pd.DataFrame(rows)


# ---- erasing ----


def fit_eraser(
    features: Float[np.ndarray, "clip d"], labels: Sequence[str]
) -> Callable[[Float[np.ndarray, "other d"]], Float[np.ndarray, "other d"]]:
    """The least change of features after which no linear probe can tell the labels (LEACE, Belrose et al. 2023).

    r(x) = x − W⁻¹ P W (x − μ) with W = Σ^(−1/2) and P the projection onto W Σ_xz. Fewer clips than features leave Σ
    singular, so it is shrunk (Ledoit and Wolf, 2004): between LEACE and removing the class means.
    """
    values, which = np.unique(np.asarray(labels), return_inverse=True)
    mean = features.mean(0)
    indicator = np.eye(len(values))[which]
    cross = (features - mean).T @ (indicator - indicator.mean(0)) / len(features)
    spectrum, basis = np.linalg.eigh(ledoit_wolf(features)[0])
    root = np.sqrt(np.maximum(spectrum, spectrum.max() * 1e-6))
    white, colour = basis / root @ basis.T, basis * root @ basis.T
    directions, sizes, _ = np.linalg.svd(white @ cross, full_matrices=False)
    directions = directions[:, sizes > sizes.max() * 1e-6]
    remove = colour @ directions @ directions.T @ white
    return lambda x: x - (x - mean) @ remove.T


def erase_attribute(
    spoken: Float[Tensor, "clip query d_llm"], train: Sequence[int], labels: Sequence[str]
) -> Float[Tensor, "clip query d_llm"]:
    """The audio embeddings without what tells these labels, query by query, learnt from the `train` rows alone."""
    whole = spoken.double().cpu().numpy()
    known = [labels[i] for i in train]
    without = [fit_eraser(query[list(train)], known)(query) for query in whole.transpose(1, 0, 2)]
    return torch.from_numpy(np.stack(without, axis=1)).to(spoken)
