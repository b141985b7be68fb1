"""Targets: what the backbone itself answers to a description, and rivals of that."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from desta_lab import processes
from desta_lab.clips import Clip
from desta_lab.model import chat
from desta_lab.model.backbone import Backbone
from desta_lab.world.attributes import DESCRIBED
from desta_lab.world.describe import describe, surface_words

Kind = Literal["self", "soft", "label", "template", "other"]
OWN: tuple[Kind, ...] = ("self", "soft")  # of the backbone itself: its ids are the writer's
PROVENANCE = ("kind", "writer", "revision", "decoding", "truncated")  # of a row, in this order
TOP_K = 50  # next-token probabilities of a soft target at each position; the rest is one number


class TargetError(ValueError):
    """Targets that would spoil the experiment: a foreign writer, a leak."""


@dataclass(frozen=True)
class Target:
    """One response with its provenance.

    A response is `truncated` where its writer was cut off; then no end of turn is learned.
    """

    description: str
    prompt: str
    response: str
    kind: Kind
    writer: str
    revision: str
    decoding: str
    truncated: bool = False
    # the ids that the writer chose, which are learned; None where only the words are known
    ids: Sequence[int] | None = None


@dataclass(frozen=True)
class SoftTarget:
    """The backbone's next-token distributions along one response: its k likeliest tokens."""

    ids: Int[Tensor, "token k"]
    logp: Float[Tensor, "token k"]


# ---- writers ----

Answer = tuple[Sequence[int] | str, bool]  # token ids or text, and whether the answer was cut off
Complete = Callable[[Sequence[tuple[int, ...]]], Sequence[Answer]]


@dataclass(frozen=True)
class Writer:
    """An LLM that answers prompts of token ids greedily.

    Args:
        name: the LLM, as provenance names it.
        revision: the hash of its weights.
        complete: prompts → one answer each, in the same order.
        max_positions: tokens that the LLM can read and write; None where nobody knows.
    """

    name: str
    revision: str
    tokenizer: Any
    max_new_tokens: int
    complete: Complete
    max_positions: int | None = None

    @property
    def decoding(self) -> str:
        """How answers are chosen."""
        return f"greedy, {self.max_new_tokens} tokens"

    def encode_prompt(self, description: str, question: str) -> tuple[int, ...]:
        """The token ids of the text condition.

        Raises:
            ChatError: with its answer, it would be longer than the LLM can read.
        """
        messages = chat.description_messages(description, question)
        known = self.max_positions
        room = None if known is None else known - self.max_new_tokens
        return chat.build_stream(self.tokenizer, messages, 0, max_tokens=room).ids

    def check_answers(self, prompts: Sequence[Any], answers: Sequence[Answer]) -> None:
        """Raise ValueError unless there is one possible answer to each prompt."""
        if len(answers) != len(prompts):
            fault = f"{self.name} gave {len(answers)} answers to {len(prompts)} prompts"
            raise ValueError(f"{fault}; is it vLLM's server?")
        known, most = len(self.tokenizer), self.max_new_tokens
        for ids in (answer for answer, _ in answers if not isinstance(answer, str)):
            if len(ids) > most or not all(type(i) is int and 0 <= i < known for i in ids):
                raise ValueError(
                    f"{self.name} answered {str(list(ids))[:80]}, which are not at most {most} ids "
                    f"of {known} tokens; does it serve this model?"
                )

    def make_target(self, description: str, prompt: str, answer: Answer, kind: Kind) -> Target:
        """An answer with its provenance; its ids are kept where this is the backbone itself."""
        said, cut_off = answer
        words = said.strip() if isinstance(said, str) else chat.decode_ids(self.tokenizer, said)
        ids = None if isinstance(said, str) or kind not in OWN else said
        who = (self.name, self.revision, self.decoding)
        return Target(description, prompt, words, kind, *who, cut_off, ids)


def backbone_writer(
    backbone: Backbone, name: str, revision: str, *, max_new_tokens: int = 40, batch: int = 32
) -> Writer:
    """The backbone itself, in this process."""

    def complete(prompts: Sequence[tuple[int, ...]]) -> list[Answer]:
        streams, ends = [chat.TokenStream(ids, len(ids)) for ids in prompts], backbone.end_ids
        with backbone.untuned():
            answers = backbone.generate_ids(streams, max_new_tokens, batch)
        return [(ids, ids[-1] not in ends) for ids in answers]

    known = backbone.max_positions
    return Writer(name, revision, backbone.tokenizer, max_new_tokens, complete, known)


# ---- self-generated ----


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
    """Greedy answers of an LLM to (description, prompt) pairs; equal pairs are answered once.

    Args:
        writer: the LLM's name, and `revision` the hash of its weights, as provenance has them.

    Raises:
        ChatError: a pair and its answer are longer than the backbone can read.
    """
    own = backbone_writer(backbone, writer, revision, max_new_tokens=max_new_tokens, batch=batch)
    unique = list(dict.fromkeys(pairs))
    targets: dict[tuple[str, str], Target] = {}
    for first in range(0, len(unique), batch):
        part = unique[first : first + batch]
        answers = own.complete([own.encode_prompt(*pair) for pair in part])
        for pair, answer in zip(part, answers, strict=True):
            targets[pair] = own.make_target(*pair, answer, kind)
        if progress:
            progress(min(first + batch, len(unique)), len(unique))
    return targets


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
    """Collective: self-generated targets and their soft targets, in the order of the pairs.

    Equal pairs have one target, so that there are as many as there are different pairs.
    Each rank writes its share of the batches: those of one process alone, so the same numbers.
    """
    unique = list(dict.fromkeys(pairs))
    batches = [unique[first : first + batch] for first in range(0, len(unique), batch)]

    how: Any = {"kind": "soft", "max_new_tokens": max_new_tokens, "batch": batch}

    def write(part: Sequence[tuple[str, str]]) -> list[tuple[Target, SoftTarget]]:
        targets = list(generate_targets(backbone, writer, revision, part, **how).values())
        return list(zip(targets, soften_targets(backbone, targets), strict=True))

    written = [both for part in processes.map_over_ranks(batches, write, progress) for both in part]
    return [target for target, _ in written], [soft_target for _, soft_target in written]


@torch.no_grad()
def soften_targets(
    backbone: Backbone, targets: Sequence[Target], k: int = TOP_K
) -> list[SoftTarget]:
    """The backbone's own uncertainty about each response, for a KL loss."""
    soft_targets = []
    with backbone.untuned():
        for logp, _ in text_log_probs(backbone, targets):
            top = logp.topk(min(k, logp.shape[-1]), dim=-1)
            soft_targets.append(SoftTarget(top.indices.int(), top.values.half()))
    return soft_targets


def check_writer(targets: Iterable[Target], backbone_revision: str) -> None:
    """Refuse self-generated targets that another LLM wrote.

    Raises:
        TargetError: names the writer, and the kind that would be honest.
    """
    for target in targets:
        if target.kind in OWN and target.revision != backbone_revision:
            raise TargetError(
                f"A '{target.kind}' target was written by {target.writer} "
                f"({target.revision[:8]}), not by this backbone ({backbone_revision[:8]}); "
                "write the targets again, or call their kind 'other'."
            )


# ---- rivals ----


def label_target(clip: Clip, attribute: str, question: str) -> Target:
    """The rival of the claim: the bare value of one attribute as the whole response."""
    value = clip.attributes[attribute]
    return Target("", question, value, "label", "corpus", "", "attribute value")


def template_target(
    clip: Clip,
    prompt: str,
    names: Iterable[str] = DESCRIBED,
    describe: Callable[..., str] = describe,
) -> Target:
    """A sentence that no LLM wrote: the known attributes and their values in a fixed form."""
    known = [name for name in names if name in clip.attributes]
    values = [f"{name} is {surface_words(name, clip.attributes[name])[0]}" for name in known]
    response = f"Annotation: {'; '.join(values)}."
    description = describe(clip.attributes)
    return Target(description, prompt, response, "template", "corpus", "", "fixed form")


# ---- rows ----


def training_row(name: str, target: Target, dataset: str) -> dict[str, Any]:
    """One row in the columns of DeSTA-AQA5M.

    `messages`, all that the model is given in training, is built from the prompt alone.

    Raises:
        TargetError: the description is in the messages.
    """
    messages = chat.audio_messages(target.prompt)
    check_leak(name, target.description, [message["content"] for message in messages])
    row = {
        "id": name,
        "dataset": dataset,
        "seed_description": target.description,
        "prompt": target.prompt,
        "response": target.response,
        "messages": messages,
        "provenance": {field: getattr(target, field) for field in PROVENANCE},
    }
    return row if target.ids is None else {**row, "response_ids": list(target.ids)}


def check_leak(name: str, description: str, given: Iterable[str]) -> None:
    """Raise TargetError where a text that training is given holds the description."""
    sought = _words_of(description)
    if sought.strip() and any(sought in _words_of(text) for text in given):
        fault = "the description leaks into the training prompt"
        raise TargetError(f"{name}: {fault}; change the prompt.")


def _words_of(text: str) -> str:
    """The words of a text, without what hides a copy: case, forms of letters, blanks, marks."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    words = " ".join(re.findall(r"[^\W_]+", plain))
    return f" {words} "


# ---- refusals ----

REFUSAL = re.compile(
    r"\b(?:I'm sorry|I am sorry|I apologi[sz]e)\b"
    r"|\bas an? (?:text[- ]based |large )?(?:AI|artificial intelligence|language model)\b"
    r"|\bI (?:can't|cannot|can not|am unable to|'m unable to|am not able to|don't have the ability)"
    r"[^.]{0,60}\b(?:audio|hear|listen|sound|transcribe|access|process)",
    re.IGNORECASE,
)


def find_refusals(responses: Iterable[str]) -> list[str]:
    """The responses in which a writer says that it cannot hear, as it was given no audio.

    Trained on, they teach a connector that there is nothing to hear.
    """
    return [text for text in responses if REFUSAL.search(text.replace("\u2019", "'"))]


# ---- measures ----


@torch.no_grad()
def text_log_probs(
    backbone: Backbone, targets: Sequence[Target], batch: int = 16
) -> Iterator[tuple[Float[Tensor, "token vocabulary"], tuple[int, ...]]]:
    """Next-token log-probabilities along each response under the text condition, with its ids."""
    streams = [
        chat.build_stream(
            backbone.tokenizer,
            chat.description_messages(target.description, target.prompt),
            0,
            response=target.response,
            response_ids=target.ids,
            truncated=target.truncated,
        )
        for target in targets
    ]
    for first in range(0, len(streams), batch):
        part = streams[first : first + batch]
        rows = [torch.tensor(stream.ids) for stream in part]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=backbone.pad_id)
        hidden = backbone.hidden_states(backbone.embed(ids))
        for row, stream in enumerate(part):
            logits = backbone.logits(hidden[row, stream.start - 1 : len(stream.ids) - 1])
            yield logits.log_softmax(-1).cpu(), stream.response


@torch.no_grad()
def target_perplexity(backbone: Backbone, targets: Sequence[Target]) -> float:
    """How surprising targets are under the text condition: exp of the mean NLL per token."""
    nats, tokens = 0.0, 0
    for logp, ids in text_log_probs(backbone, targets):
        nats -= float(logp.gather(1, torch.tensor(ids)[:, None]).sum())
        tokens += len(ids)
    return float(torch.tensor(nats / tokens).exp())


def token_evidence(backbone: Backbone, target: Target) -> tuple[list[str], Float[Tensor, "token"]]:
    """Which tokens of a target carry the audio: KL(with description ‖ without), in nats a token."""
    [(informed, ids)] = text_log_probs(backbone, [target])
    [(blind, _)] = text_log_probs(backbone, [replace(target, description="")])
    tokens = [str(backbone.tokenizer.decode([i])) for i in ids]
    return tokens, (informed.exp() * (informed - blind)).sum(-1)


def kl_loss(
    logits: Float[Tensor, "position vocabulary"],
    ids: Int[Tensor, "position k"],
    logp: Float[Tensor, "position k"],
) -> Float[Tensor, ""]:
    """Mean KL(text condition ‖ audio condition), nats a token; one bucket has all but k tokens."""
    log_student = logits.log_softmax(-1).gather(1, ids.long())
    log_teacher = logp.float()
    teacher = log_teacher.exp()
    rest_teacher = (1 - teacher.sum(-1)).clamp_min(1e-6)
    log_rest_student = torch.log1p(-log_student.exp().sum(-1).clamp(max=1 - 1e-6))
    top = (teacher * (log_teacher - log_student)).sum(-1)
    rest = rest_teacher * (rest_teacher.log() - log_rest_student)
    return (top + rest).mean()
