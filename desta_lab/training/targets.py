"""Targets: what the backbone itself answers to a description, and the rivals it is compared with."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from desta_lab import processes
from desta_lab.clips import Clip
from desta_lab.model import chat
from desta_lab.model.backbone import Backbone
from desta_lab.world.attributes import DESCRIBED
from desta_lab.world.describe import describe, surface_words

Kind = Literal["self", "soft", "label", "template", "other"]
TOP_K = 50  # next-token probabilities kept per position of a soft target; the rest is one number


class TargetError(ValueError):
    """Targets that would spoil the experiment (a foreign writer, a leak); the message says which."""


@dataclass(frozen=True)
class Target:
    """One response with its provenance. `truncated`: the writer was cut off, so no end of turn is learned."""

    description: str
    prompt: str
    response: str
    kind: Kind
    writer: str
    revision: str
    decoding: str
    truncated: bool = False


@dataclass(frozen=True)
class SoftTarget:
    """The backbone's next-token distributions along one response: the likeliest tokens and what is left over."""

    ids: Int[Tensor, "token k"]
    logp: Float[Tensor, "token k"]


def generate_targets(
    backbone: Backbone,
    writer: str,
    revision: str,
    pairs: Iterable[tuple[str, str]],
    *,
    kind: Kind = "self",
    max_new_tokens: int = 40,
    batch: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> dict[tuple[str, str], Target]:
    """Greedy answers of an LLM to (description, prompt) pairs under the text condition; equal pairs are answered once."""
    unique = list(dict.fromkeys(pairs))
    answers: dict[tuple[str, str], Target] = {}
    for first in range(0, len(unique), batch):
        part = unique[first : first + batch]
        streams = [
            chat.build_stream(backbone.tokenizer, chat.description_messages(d, p), 0)
            for d, p in part
        ]
        with backbone.untuned():
            written = backbone.generate_ids(streams, max_new_tokens, batch)
        for (description, prompt), ids in zip(part, written, strict=True):
            cut = ids[-1] not in backbone.end_ids
            answers[description, prompt] = Target(
                description,
                prompt,
                backbone.decode(ids),
                kind,
                writer,
                revision,
                f"greedy, {max_new_tokens} tokens",
                cut,
            )
        if progress:
            progress(min(first + batch, len(unique)), len(unique))
    return answers


def label_target(clip: Clip, attribute: str, question: str) -> Target:
    """The rival of the claim: the bare value of one attribute as the whole response."""
    return Target(
        "", question, clip.attributes[attribute], "label", "corpus", "", "attribute value"
    )


def template_target(
    clip: Clip,
    prompt: str,
    names: Iterable[str] = DESCRIBED,
    describe: Callable[..., str] = describe,
) -> Target:
    """A sentence no LLM wrote: those of the attributes that are known, and their values, filled into a fixed form."""
    known = [name for name in names if name in clip.attributes]
    said = "; ".join(f"{name} is {surface_words(name, clip.attributes[name])[0]}" for name in known)
    return Target(
        describe(clip.attributes),
        prompt,
        f"Annotation: {said}.",
        "template",
        "corpus",
        "",
        "fixed form",
    )


def check_writer(targets: Iterable[Target], backbone_revision: str) -> None:
    """Refuse self-generated targets that another LLM wrote.

    Raises:
        TargetError: names the writer, and the kind that would be honest.
    """
    for target in targets:
        if target.kind in ("self", "soft") and target.revision != backbone_revision:
            raise TargetError(
                f"A '{target.kind}' target was written by {target.writer} ({target.revision[:8]}), not by this "
                f"backbone ({backbone_revision[:8]}); write the targets again, or call their kind 'other'."
            )


def clip_row(clip: Clip, target: Target, dataset: str) -> dict[str, Any]:
    """The row of a clip and its target: see `row`."""
    return training_row(clip.id, target, dataset)


def training_row(name: str, target: Target, dataset: str) -> dict[str, Any]:
    """One row in the columns of DeSTA-AQA5M. `messages`, all that training sees, is built from the prompt alone.

    Raises:
        TargetError: the description found its way into the messages.
    """
    messages = chat.audio_messages(target.prompt)
    for message in messages:
        if target.description and _plain(target.description) in _plain(message["content"]):
            raise TargetError(
                f"{name}: the description leaks into the training prompt; change the prompt."
            )
    return {
        "id": name,
        "dataset": dataset,
        "seed_description": target.description,
        "prompt": target.prompt,
        "response": target.response,
        "messages": messages,
        "provenance": {
            "kind": target.kind,
            "writer": target.writer,
            "revision": target.revision,
            "decoding": target.decoding,
            "truncated": target.truncated,
        },
    }


def _plain(text: str) -> str:
    """Text without what hides a copy: case, line breaks, punctuation at its ends."""
    return " ".join(text.casefold().split()).strip(".,;:!? ")


@torch.no_grad()
def text_log_probs(
    backbone: Backbone, targets: Sequence[Target], batch: int = 16
) -> Iterable[tuple[Float[Tensor, "token vocabulary"], tuple[int, ...]]]:
    """Next-token log-probabilities along each response while the backbone reads the description, with its ids."""
    streams = [
        chat.build_stream(
            backbone.tokenizer,
            chat.description_messages(t.description, t.prompt),
            0,
            response=t.response,
            truncated=t.truncated,
        )
        for t in targets
    ]
    for first in range(0, len(streams), batch):
        part = streams[first : first + batch]
        longest = max(len(s.ids) for s in part)
        ids = torch.tensor([list(s.ids) + [backbone.pad_id] * (longest - len(s.ids)) for s in part])
        hidden = backbone.hidden_states(backbone.embed(ids))
        for row, s in enumerate(part):
            logits = backbone.logits(hidden[row, s.start - 1 : len(s.ids) - 1])
            yield logits.log_softmax(-1).cpu(), s.response


@torch.no_grad()
def soften_targets(
    backbone: Backbone, targets: Sequence[Target], k: int = TOP_K
) -> list[SoftTarget]:
    """The backbone's own uncertainty about each response: soft targets, for a KL loss."""
    soft = []
    with backbone.untuned():
        for logp, _ in text_log_probs(backbone, targets):
            top = logp.topk(min(k, logp.shape[-1]), dim=-1)
            soft.append(SoftTarget(top.indices.int(), top.values.half()))
    return soft


def generate_soft_targets(
    backbone: Backbone,
    writer: str,
    revision: str,
    pairs: Iterable[tuple[str, str]],
    *,
    max_new_tokens: int = 40,
    batch: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Target], list[SoftTarget]]:
    """Self-written targets with the backbone's uncertainty about them, in the order of the pairs.

    Several ranks do it together, each its share of the batches: the same batches as one alone, so the same numbers.
    """
    unique = list(dict.fromkeys(pairs))

    def write(part: Sequence[tuple[str, str]]) -> tuple[list[Target], list[SoftTarget]]:
        answers = generate_targets(
            backbone,
            writer,
            revision,
            part,
            kind="soft",
            max_new_tokens=max_new_tokens,
            batch=batch,
        )
        return list(answers.values()), soften_targets(backbone, list(answers.values()))

    done = processes.map_over_ranks(
        [unique[i : i + batch] for i in range(0, len(unique), batch)], write, progress
    )
    return [training_row for rows, _ in done for training_row in rows], [
        one for _, soft in done for one in soft
    ]


@torch.no_grad()
def target_perplexity(backbone: Backbone, targets: Sequence[Target]) -> float:
    """How surprising a kind of target is to the backbone that reads the description: exp of the mean NLL per token."""
    nats, tokens = 0.0, 0
    for logp, ids in text_log_probs(backbone, targets):
        nats -= float(logp.gather(1, torch.tensor(ids)[:, None]).sum())
        tokens += len(ids)
    return float(torch.tensor(nats / tokens).exp())


def token_evidence(backbone: Backbone, target: Target) -> tuple[list[str], Float[Tensor, "token"]]:
    """Which words of a target carry the audio: KL per token between reading the description and reading nothing."""
    blind = Target("", target.prompt, target.response, target.kind, "", "", "", target.truncated)
    (seen, ids), (unseen, _) = (next(iter(text_log_probs(backbone, [t]))) for t in (target, blind))
    tokens = [str(backbone.tokenizer.decode([i])) for i in ids]
    return tokens, (seen.exp() * (seen - unseen)).sum(-1)


def kl_loss(
    logits: Float[Tensor, "position vocabulary"],
    ids: Int[Tensor, "position k"],
    logp: Float[Tensor, "position k"],
) -> Float[Tensor, ""]:
    """Mean KL(text condition ‖ audio condition) over the kept tokens plus one bucket for the rest, in nats a token."""
    student = logits.log_softmax(-1)
    kept = student.gather(1, ids.long())
    teacher = logp.float()
    rest_t = (1 - teacher.exp().sum(-1)).clamp_min(1e-6)
    rest_s = torch.log1p(-kept.exp().sum(-1).clamp(max=1 - 1e-6))
    return ((teacher.exp() * (teacher - kept)).sum(-1) + rest_t * (rest_t.log() - rest_s)).mean()
