"""Checks of notebook 03: perplexity, whole words, and descriptions that leak into the prompt."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from desta_lab.clips import Clip
from desta_lab.course.checks import Wrong, check
from desta_lab.model import chat
from desta_lab.training import targets
from desta_lab.world.attributes import DESCRIBED
from desta_lab.world.describe import describe, mentioned_values


def _nats(logits: torch.Tensor, ids: torch.Tensor, shift: int = 1) -> torch.Tensor:
    """The surprise of every id but the first, in nats."""
    logp = logits.log_softmax(-1)
    return -logp[1 - shift : len(ids) - shift].gather(1, ids[1:, None])[:, 0]


def _certain(ids: torch.Tensor, vocabulary: int, chances: Sequence[float]) -> torch.Tensor:
    """Logits of a model that gives each id (from the second on) this probability, and shares out the rest evenly."""
    rows = []
    for token, p in zip(ids[1:].tolist(), chances, strict=True):
        row = torch.full((vocabulary,), (1 - p) / (vocabulary - 1))
        row[token] = p
        rows.append(row)
    return torch.stack([*rows, torch.full((vocabulary,), 1 / vocabulary)]).log()


@check(
    wrong={
        "unshifted loss": lambda logits, ids, start: (
            _nats(logits, ids, shift=0)[start - 1 :].mean().exp()
        ),
        "the prompt is counted too": lambda logits, ids, start: _nats(logits, ids).mean().exp(),
        "sum instead of mean": lambda logits, ids, start: (
            _nats(logits, ids)[start - 1 :].sum().exp()
        ),
        "probabilities are averaged, not their logarithms": lambda logits, ids, start: (
            1 / (-_nats(logits, ids)[start - 1 :]).exp().mean()
        ),
    }
)
def perplexity(answer: Callable[[torch.Tensor, torch.Tensor, int], Any]) -> None:
    """The exponential of the mean surprise of the response's tokens, each predicted from the position before it."""
    ids = torch.tensor([0, 1, 2, 3, 4, 5])
    sure = float(answer(_certain(ids, 8, [0.99] * 5), ids, 3))
    if sure > 2:
        raise Wrong(
            f"A model that is 99 % sure of every next token has perplexity 1.01, not {sure:.3g}: unshifted loss. The "
            "logits at position t are about the token at t + 1."
        )
    half = float(answer(_certain(ids, 8, [0.01, 0.01, 0.5, 0.5, 0.5]), ids, 3))
    if np.isclose(half, 8.0, rtol=1e-3):
        raise Wrong(
            "Three tokens of probability 1/2 give perplexity 2, not 8: sum instead of mean."
        )
    if half > 3:
        raise Wrong(
            f"The response's tokens have probability 1/2 each, so its perplexity is 2, not {half:.3g}: the prompt is "
            "counted too. Only tokens from `start` on belong to the response."
        )
    uneven = float(answer(_certain(ids, 8, [0.5, 0.5, 0.5, 0.5, 0.125]), ids, 4))
    if np.isclose(uneven, 3.2, rtol=1e-3):
        raise Wrong(
            "Probabilities 1/2 and 1/8 give 4, not 3.2: probabilities are averaged, not their logarithms."
        )
    if not (np.isclose(half, 2, rtol=1e-3) and np.isclose(uneven, 4, rtol=1e-3)):
        raise Wrong(
            f"Probabilities of 1/2 should give 2, and 1/2 with 1/8 should give 4; you give {half:g}, {uneven:g}."
        )


@check(
    wrong={
        "a part of a word counts": lambda text, words: any(word in text.lower() for word in words),
        "case-sensitive": lambda text, words: bool(
            {part.strip(".,;:!?") for part in text.split()} & set(words)
        ),
        "punctuation sticks to the word": lambda text, words: bool(
            set(text.lower().split()) & set(words)
        ),
    }
)
def says(answer: Callable[[str, Sequence[str]], bool]) -> None:
    """Whether a text holds one of some words, whole, whatever its case and the punctuation around it."""
    if answer("A female speaker talks.", ["male", "man"]):
        raise Wrong(
            "“A female speaker” does not say “male”: a part of a word counts in your version."
        )
    if not answer("The speaker is a man.", ["male", "man"]):
        raise Wrong("“The speaker is a man.” says “man”, but punctuation sticks to the word.")
    if not answer("Male voice with rain behind", ["male", "man"]):
        raise Wrong("“Male voice” says “male”, but your version is case-sensitive.")
    if answer("A voice with rain behind", ["male", "man"]) or not answer(
        "a man talks", ["male", "man"]
    ):
        raise Wrong(
            "“A voice with rain” says neither “male” nor “man”, and “a man talks” says “man”."
        )


def _row(
    name: str,
    description: str,
    prompt: str,
    response: str = "I hear it.",
    system: str = chat.SYSTEM,
) -> dict:
    messages = chat.audio_messages(prompt, system)
    return {
        "id": name,
        "seed_description": description,
        "prompt": prompt,
        "response": response,
        "messages": messages,
    }


def _leaking(holds: Callable[[dict], bool]) -> Callable[[list[dict]], list[str]]:
    return lambda examples: [row["id"] for row in examples if holds(row)]


@check(
    wrong={
        "only exact prompts are compared": _leaking(
            lambda row: row["prompt"].lower() == row["seed_description"].lower()
        ),
        "looks at the response only": _leaking(
            lambda row: row["seed_description"].lower() in row["response"].lower()
        ),
        "case-sensitive": _leaking(
            lambda row: any(row["seed_description"] in m["content"] for m in row["messages"])
        ),
        "only one message is read": _leaking(
            lambda row: row["seed_description"].lower() in row["messages"][-1]["content"].lower()
        ),
    }
)
def find_leaks(answer: Callable[[list[dict]], list[str]]) -> None:
    """The ids of the examples whose messages hold their own description."""
    fact = "A female speaker with a Scottish accent."
    clean = [
        _row("clean", fact, "What do you hear?"),
        _row("other", "A male speaker.", "Is it a woman?", "A woman."),
    ]
    told = _row("response", fact, "What do you hear?", response=fact)
    if "response" in list(answer([told])):
        raise Wrong(
            "A response may repeat the description, that is what is learned: yours looks at the response only."
        )
    if list(answer(clean)):
        raise Wrong(
            f"{', '.join(answer(clean))}: no message holds the description there, so nothing leaks."
        )
    if list(answer([_row("inside", fact, f"Here is a clip. {fact} What do you hear?")])) != [
        "inside"
    ]:
        raise Wrong(
            "A description in the middle of a prompt got through: only exact prompts are compared."
        )
    if list(answer([_row("loud", fact, f"{fact.upper()} What do you hear?")])) != ["loud"]:
        raise Wrong(
            "The description in capital letters got through: your search is case-sensitive."
        )
    if list(
        answer([_row("system", fact, "What do you hear?", system=f"You are told this: {fact}")])
    ) != ["system"]:
        raise Wrong("A description in the system's message got through: only one message is read.")
    mixed = [*clean, _row("one", fact, fact), _row("two", fact, f"{fact} Well?")]
    if sorted(answer(mixed)) != ["one", "two"]:
        raise Wrong(
            f"The leaking examples are one and two; you name {', '.join(map(str, answer(mixed))) or 'none'}."
        )


@check(
    wrong={
        "the builder finds it": lambda target: replace(
            target, prompt=f"{target.description} {target.prompt}"
        ),
        "the prompt tells nothing": lambda target: replace(
            target, prompt="What can you hear in this clip?"
        ),
        "the response was changed": lambda target: replace(
            target, prompt=f"{target.response} {target.prompt}", response="I hear a clip."
        ),
    }
)
def smuggled(answer: Callable[[targets.Target], targets.Target]) -> None:
    """A target whose prompt gives away the clip's attributes and passes the builder all the same."""
    for gender, accent in (("female", "Scottish"), ("male", "Caribbean")):
        facts = {
            "gender": gender,
            "accent": accent,
            "rate": "slow",
            "loudness": "loud",
            "manner": "spoken",
            "scene": "rain",
            "topic": "food",
        }
        clip = Clip("check", "check.wav", 4.0, "", "nobody", facts)
        own = (
            f"The speaker is {gender}. The accent is {accent}. The speed is slow. The volume is high. In the "
            + ("background there is rain. The speaker talks.")
        )
        given = targets.Target(
            describe(facts), "Paraphrase the description.", own, "self", "check", "", "greedy"
        )
        got = answer(given)
        if (got.response, got.description) != (given.response, given.description):
            raise Wrong(
                "Response and description stay as they are; here the response was changed, or the description."
            )
        try:
            targets.clip_row(clip, got, "check")
        except targets.TargetError:
            raise Wrong(
                "TargetError: the builder finds it. Tell the same in other words."
            ) from None
        told = [name for name in DESCRIBED if mentioned_values(got.prompt, name) == {facts[name]}]
        if len(told) < 3:
            raise Wrong(
                f"The prompt tells nothing, or little: it names {len(told)} of 6 attributes rightly ({got.prompt!r}); "
                "three would do."
            )
