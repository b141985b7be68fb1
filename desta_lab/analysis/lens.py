"""Logit lens, patching, erasing: what each layer would answer, what the answer depends on."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from desta_lab.analysis.probe_sites import Sites
from desta_lab.analysis.probes import PENALTIES
from desta_lab.evaluation import scoring
from desta_lab.evaluation.tasks import Task
from desta_lab.model.audio_llm import AudioLLM

BATCH = 16  # clips in one forward

# ---- logit lens ----


def first_option_tokens(llm: AudioLLM, task: Task) -> list[int]:
    """The token with which each option begins, behind the task's stem.

    Raises:
        ValueError: two options begin with the same token.
    """
    first = [option[0] for option in scoring.tokenize_options(llm.backbone.tokenizer, task)[1]]
    if len(set(first)) < len(first):
        raise ValueError(
            f"Two options of {task.name} begin with the same token; the lens cannot tell them."
        )
    return first


@torch.no_grad()
def option_logits(
    llm: AudioLLM, task: Task, hidden: Float[Tensor, "clip d_llm"]
) -> Float[Tensor, "clip option"]:
    """Logits of every option's first token, as if the layer that put this out were the last."""
    first = first_option_tokens(llm, task)
    state = hidden.to(llm.backbone.device, llm.backbone.dtype)
    return llm.backbone.logits(llm.backbone.model.get_decoder().norm(state))[:, first].cpu()


def logit_lens(
    llm: AudioLLM,
    tasks: Sequence[Task],
    sites: Sites,
    truth: Sequence[Mapping[str, str]],
    calibration: Sequence[int],
    swap: Sequence[int] | None = None,
) -> pd.DataFrame:
    """Per task, layer and clip: is the right option ahead where the answer begins, and how far?

    In every layer, what each option gets on average over the `calibration` rows is subtracted
    first, every value weighing the same; these rows are not scored.

    Args:
        sites: those of `probe_sites.capture_sites` or `probe_sites.capture_oracle_sites`.
        truth: the attributes of every row.
        swap: for every scored row the row whose state is read instead (shuffled audio).
    """
    held_out = list(calibration)
    scored = sorted(set(range(len(truth))) - set(held_out))
    read = scored if swap is None else list(swap)
    tables = []
    for task in tasks:
        values = list(task.options)
        right = torch.tensor([values.index(truth[row][task.attribute]) for row in scored])
        known = [truth[row][task.attribute] for row in held_out]
        for layer in _answer_layers(sites, task.name):
            logits = option_logits(llm, task, sites[f"answer {layer}: {task.name}"])
            logits = (logits - scoring.balanced_mean(logits[held_out], known))[read]
            own = logits.gather(1, right[:, None])[:, 0]
            best_other = logits.scatter(1, right[:, None], -torch.inf).amax(1)
            columns = {
                "attribute": task.attribute,
                "layer": layer,
                "row": scored,
                "correct": (own > best_other).float().numpy(),
                "margin": (own - best_other).numpy(),
                "chance": task.chance,
            }
            tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def tune_lens(sites: Sites, tasks: Sequence[Task], calibration: Sequence[int]) -> Sites:
    """Answer sites as the last layer would have them, for `logit_lens`: a tuned lens.

    Per layer a ridge regression, fitted to the `calibration` rows of all tasks, foretells the last
    layer's state. It never sees a label. The tuned lens of Belrose et al. (2023, arXiv 2303.08112)
    has the same affine form, and is trained on the KL divergence of the answers instead.
    """
    *layers, last = _answer_layers(sites, tasks[0].name)

    def states(layer: int) -> Float[np.ndarray, "row d_llm"]:
        own = [sites[f"answer {layer}: {task.name}"][list(calibration)] for task in tasks]
        return torch.cat(own).double().numpy()

    tuned = {f"answer {last}: {task.name}": sites[f"answer {last}: {task.name}"] for task in tasks}
    for layer in layers:
        ridge = make_pipeline(StandardScaler(), RidgeCV(PENALTIES))
        ridge.fit(states(layer), states(last))
        for name in [f"answer {layer}: {task.name}" for task in tasks]:
            tuned[name] = torch.from_numpy(ridge.predict(sites[name].double())).to(sites[name])
    return tuned


def _answer_layers(sites: Sites, task: str) -> list[int]:
    """The layers whose state at the answer position of a task is among the sites."""
    names = [name for name in sites if name.endswith(f": {task}")]
    return sorted(int(name.split()[1].rstrip(":")) for name in names)


# ---- patching ----


@torch.no_grad()
def patch_queries(
    llm: AudioLLM,
    tasks: Sequence[Task],
    audio_embeddings: Float[Tensor, "clip query d_llm"],
    truth: Sequence[Mapping[str, str]],
    pairs: Iterable[tuple[int, int]],
    transcripts: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Put clip A's audio embeddings into clip B, one query at a time: which query moves the answer?

    The margin is log p(A's value) − log p(B's value). Where A and B have the same value, which is
    the null, the next value in the task's order stands for A's. Where there are `transcripts`, one
    a clip, B's stays.

    Returns:
        One row per pair (A, B), task and query (−1: all queries): `shift`, how far the margin moves
        from what it is in B, `whole`, how far it is from B to A, and whether the values `differ`.
    """
    queries = audio_embeddings.shape[1]
    rows: list[dict[str, object]] = []
    for a, b in pairs:
        mixed = audio_embeddings[b].repeat(queries + 2, 1, 1)
        mixed[torch.arange(queries), torch.arange(queries)] = audio_embeddings[a]
        mixed[queries] = audio_embeddings[a]  # the last row stays B
        words = None if transcripts is None else [transcripts[b]] * len(mixed)
        scores = scoring.score_options(llm, tasks, mixed, BATCH, words)
        for task, score in zip(tasks, scores, strict=True):
            values = list(task.options)
            of_a, of_b = (values.index(truth[row][task.attribute]) for row in (a, b))
            differ = of_a != of_b
            margin = score[:, of_a if differ else (of_b + 1) % len(values)] - score[:, of_b]
            shifts = (margin[:-1] - margin[-1]).tolist()
            cell = {"attribute": task.attribute, "row": b, "whole": shifts[-1], "differ": differ}
            for query, shift in zip([*range(queries), -1], shifts, strict=True):
                rows.append({**cell, "query": query, "shift": shift})
    return pd.DataFrame(rows)


# ---- erasing ----


Matrix = Float[np.ndarray, "d d"]


def whiten(features: Float[np.ndarray, "clip d"]) -> tuple[Matrix, Matrix]:
    """Σ^(−1/2) and Σ^(1/2) of some clips' features.

    Fewer clips than features leave Σ singular, so it is shrunk (Ledoit and Wolf, 2004).
    """
    spectrum, basis = np.linalg.eigh(ledoit_wolf(features)[0])
    root = np.sqrt(np.maximum(spectrum, spectrum.max() * 1e-6))
    return basis / root @ basis.T, basis * root @ basis.T


def fit_eraser(
    features: Float[np.ndarray, "clip d"],
    labels: Sequence[str],
    whitening: tuple[Matrix, Matrix] | None = None,
) -> Callable[[Float[np.ndarray, "other d"]], Float[np.ndarray, "other d"]]:
    """Fit LEACE (Belrose et al., 2023): the least change after which no probe tells the labels.

    r(x) = x − W⁻¹ P W (x − μ) with W = Σ^(−1/2) and P the projection onto W Σ_xz. The shrinking of
    `whiten` puts it between LEACE and removing the class means.

    Args:
        whitening: what `whiten` gives for these features, if it is known.
    """
    values, which = np.unique(np.asarray(labels), return_inverse=True)
    mean = features.mean(0)
    indicator = np.eye(len(values))[which]
    cross = (features - mean).T @ (indicator - indicator.mean(0)) / len(features)
    to_white, back = whiten(features) if whitening is None else whitening
    directions, sizes, _ = np.linalg.svd(to_white @ cross, full_matrices=False)
    directions = directions[:, sizes > sizes.max() * 1e-6]
    remove = back @ directions @ directions.T @ to_white
    return lambda x: x - (x - mean) @ remove.T


def whiten_queries(
    audio_embeddings: Float[Tensor, "clip query d_llm"], train: Sequence[int]
) -> list[tuple[Matrix, Matrix]]:
    """`whiten` for every query, of the `train` rows."""
    return [whiten(query[list(train)]) for query in _by_query(audio_embeddings)]


def erase_attribute(
    audio_embeddings: Float[Tensor, "clip query d_llm"],
    train: Sequence[int],
    labels: Sequence[str],
    whitenings: Sequence[tuple[Matrix, Matrix]] | None = None,
) -> Float[Tensor, "clip query d_llm"]:
    """Erase these labels from audio embeddings, query by query, as the `train` rows tell them.

    Args:
        whitenings: what `whiten_queries` gives, which is the same for all labels.
    """
    known, rows = [labels[row] for row in train], list(train)
    known_whitenings = whiten_queries(audio_embeddings, train) if whitenings is None else whitenings
    erased = [
        fit_eraser(query[rows], known, whitening)(query)
        for query, whitening in zip(_by_query(audio_embeddings), known_whitenings, strict=True)
    ]
    return torch.from_numpy(np.stack(erased, axis=1)).to(audio_embeddings)


def _by_query(
    audio_embeddings: Float[Tensor, "clip query d_llm"],
) -> Float[np.ndarray, "query clip d_llm"]:
    return audio_embeddings.double().cpu().numpy().transpose(1, 0, 2)
