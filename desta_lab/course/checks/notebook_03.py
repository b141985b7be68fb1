"""Checks of notebook 03: perplexity, whole words, descriptions that leak into the prompt."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from desta_lab.course.checks import Wrong, catches, expect
from desta_lab.model import chat
from desta_lab.training import targets
from desta_lab.training.targets import Target
from desta_lab.world.attributes import DESCRIBED
from desta_lab.world.describe import describe, mentioned_values, named_by_phrases


def _nats(logits: Tensor, ids: Tensor, start: int = 1, shift: int = 1) -> Tensor:
    """The surprise of every token from `start` on, in nats."""
    logp = logits.log_softmax(-1)[start - shift : len(ids) - shift]
    return -logp.gather(1, ids[start:, None])[:, 0]


def _perplexity(
    average: Callable[[Tensor], Tensor] = torch.mean, shift: int = 1, first: int = 0
) -> Callable[[Tensor, Tensor, int], Tensor]:
    return lambda logits, ids, start: average(_nats(logits, ids, first or start, shift)).exp()


measure_perplexity = _perplexity()  # e to the mean surprise of the tokens from `start` on


def _likeliest(logits: Tensor, ids: Tensor, start: int) -> Tensor:
    return -logits.log_softmax(-1)[start - 1 : len(ids) - 1].max(-1).values


@catches("Sure of every next token, it should be 1.01: unshifted loss.", _perplexity(shift=0))
@catches("Unlikely tokens before it count: the prompt is counted too.", _perplexity(first=1))
@catches("Three tokens of chance 1/2 give 2, not 8: sum instead of mean.", _perplexity(torch.sum))
@catches(
    "1/2 and 1/8 give 4, not 3.2: probabilities are averaged, not their logarithms.",
    lambda logits, ids, start: 1 / (-_nats(logits, ids, start)).exp().mean(),
)
@catches(
    "The first token of the response is lost: the logits before `start` guess it.",
    lambda logits, ids, start: _nats(logits, ids, start + 1).mean().exp(),
)
@catches(
    "This is the mean surprise itself, in nats; perplexity is exp of it.",
    lambda *given: _nats(*given).mean(),
)
@catches(
    "The sign is turned: surprise is minus the logarithm of the probability.",
    lambda *given: (-_nats(*given).mean()).exp(),
)
@catches(
    "1/2 and 1/50 give 10: you ask for the likeliest token, not for the one said.",
    lambda logits, ids, start: _likeliest(logits, ids, start).mean().exp(),
)
def perplexity(answer: Callable[[Tensor, Tensor, int], Any]) -> None:
    """The exponential of the mean surprise of the response's tokens."""
    cases = [
        (_model_with(chances), torch.arange(6), start)
        for start, chances in (
            (3, [0.99] * 5),
            (3, [0.01, 0.01, 0.5, 0.5, 0.5]),
            (4, [0.5, 0.5, 0.5, 0.5, 0.125]),
            (4, [0.5, 0.5, 0.5, 0.5, 0.02]),  # the others have 0.14 each
        )
    ]
    expect(perplexity, answer, measure_perplexity, "", cases[0])
    if (sure := float(answer(*cases[0]))) < 1:
        raise Wrong(f"{sure:.2f} is below 1, as no perplexity is; is there a log_softmax?")
    fault = "It should be {right}, not {got}: 1/2, 1/2 and 1/2 give 2, and 1/2 with 1/8 gives 4."
    expect(perplexity, answer, measure_perplexity, fault, *cases)


def _model_with(chances: Sequence[float], vocabulary: int = 8) -> Tensor:
    """Logits of a model that gives tokens 1, 2, … these probabilities, and shares out the rest.

    Every position has a constant of its own on top, which a softmax does not see.
    """
    p = torch.tensor([*chances, 1 / vocabulary])[:, None]
    table = ((1 - p) / (vocabulary - 1)).expand(-1, vocabulary).clone()
    rows = torch.arange(len(p))
    table[rows, rows + 1] = p[:, 0]
    return table.log() + torch.arange(len(p))[:, None] / 4


def names_word(text: str, words: Sequence[str]) -> bool:
    """Whether a text names one of some words, by the package's matcher of free text."""
    return bool(named_by_phrases(text, {"sought": words}))


def _case_sensitive(text: str, words: Sequence[str]) -> bool:
    return bool({part.strip(".,;:!?") for part in text.split()} & set(words))


@catches("a part of a word counts", lambda text, words: any(w in text.lower() for w in words))
@catches("case-sensitive", _case_sensitive)
@catches("punctuation sticks", lambda text, words: bool(set(text.lower().split()) & set(words)))
def says(answer: Callable[[str, Sequence[str]], bool]) -> None:
    """Whether a text holds one of some words, whole, in any case and punctuation."""
    words = ["male", "man"]
    if answer("A female speaker talks.", words):
        raise Wrong("“A female speaker” does not say “male”: a part of a word counts for you.")
    if answer("A manual is read. Malevolent!", words):
        raise Wrong("“A manual” does not say “man”: the first part of a word counts for you.")
    if not answer("a man talks", words):
        raise Wrong("“a man talks” says “man”: look at every word of the text, and seek each word.")
    if not answer("The speaker is a man.", words):
        raise Wrong("“The speaker is a man.” says “man”, but punctuation sticks to the word.")
    if not answer("I hear a fox.", ["fox"]) or answer("A bat.", ["at", "ba"]):
        raise Wrong("Letters were taken off with the punctuation: “A fox” says “fox” and no other.")
    if not answer("Male voice with rain behind", words):
        raise Wrong("“Male voice” says “male”, but your version is case-sensitive.")
    if answer("A voice with rain behind", words):
        raise Wrong("“A voice with rain” does not say “man”.")
    if not (answer("Is it a man? I think so.", words) and answer('"Male," she wrote.', words)):
        raise Wrong('“A man?” says “man” and "Male," says “male”, but punctuation sticks to them.')


FACT = "A female speaker with a Scottish accent."
SECRET = FACT.lower()


def _row(prompt: str, response: str = "I hear it.", system: str = chat.SYSTEM) -> dict:
    messages = chat.audio_messages(prompt, system)
    row = {"id": "it", "seed_description": FACT, "prompt": prompt, "response": response}
    return row | {"messages": messages}


def list_leaks(examples: list[dict]) -> list[str]:
    """The ids of the examples whose messages hold their description, by the builder's search."""
    found = []
    for row in examples:
        given = [message["content"] for message in row["messages"]]
        try:
            targets.check_leak(row["id"], row["seed_description"], given)
        except targets.TargetError:
            found.append(row["id"])
    return found


def _leaking(holds: Callable[[dict], bool]) -> Callable[[list[dict]], list[str]]:
    return lambda examples: [row["id"] for row in examples if holds(row)]


@catches("only exact prompts are compared", _leaking(lambda row: row["prompt"].lower() == SECRET))
@catches("looks at the response only", _leaking(lambda row: SECRET in row["response"].lower()))
@catches("case-sensitive", _leaking(lambda row: any(FACT in m["content"] for m in row["messages"])))
@catches(
    "its id is there twice",
    lambda rows: [
        row["id"]
        for row in rows
        for message in row["messages"]
        if row["seed_description"].lower() in message["content"].lower()
    ],
)
@catches(
    "only one message is read",
    _leaking(lambda row: SECRET in row["messages"][-1]["content"].lower()),
)
def find_leaks(answer: Callable[[list[dict]], list[str]]) -> None:
    """The ids of the examples whose messages hold their own description."""
    other = _row("Is it a woman?", "A woman.") | {"seed_description": "A male speaker."}

    def found(*examples: dict) -> list[str]:
        got = list(answer(list(examples)))
        if not all(isinstance(one, str) for one in got):
            raise Wrong(f"Return the ids of the examples that leak, not {type(got[0]).__name__}s.")
        return sorted(got)

    if found(_row("What do you hear?", response=FACT)):
        raise Wrong("A response may repeat the description: yours looks at the response only.")
    if found(_row("What do you hear?"), other):
        raise Wrong("You find a leak where no message holds the description of its clip.")
    if not found(_row(f"Here is a clip. {FACT} What do you hear?")):
        raise Wrong("A description inside a prompt got through: only exact prompts are compared.")
    if not found(_row(f"{FACT.upper()} What do you hear?")):
        raise Wrong("The description in capitals got through: your search is case-sensitive.")
    if not found(_row("What do you hear?", system=f"You are told this: {FACT}")):
        raise Wrong("A description in the system's message got through: only one message is read.")
    if found(_row("What do you hear?"), other | {"messages": _row(f"{FACT} Well?")["messages"]}):
        raise Wrong("A message with the description of another clip is no leak; take its own.")
    if len(found(_row(f"{FACT} Well?", system=f"You are told this: {FACT}"))) > 1:
        raise Wrong("An example leaks in two messages, and its id is there twice; give it once.")
    got = found(other, _row(FACT) | {"id": "one"}, _row(f"{FACT} Well?") | {"id": "two"})
    if got != ["one", "two"]:
        raise Wrong(f"The examples one and two leak; you name {', '.join(map(str, got))}.")


def tell_in_other_words(target: Target) -> Target:
    """A target whose prompt holds the backbone's paraphrase of the description."""
    return replace(target, prompt=f"{target.response}\n{target.prompt}")


def _smuggling(**texts: str) -> Callable[[Target], Target]:
    """An answer that fills the target's own texts into those that replace them."""

    def answer(target: Target) -> Target:
        fields: dict[str, Any] = {name: text.format(**vars(target)) for name, text in texts.items()}
        return replace(target, **fields)

    return answer


@catches("the builder finds it", _smuggling(prompt="{description} {prompt}"))
@catches("the prompt tells nothing", _smuggling(prompt="What can you hear in this clip?"))
@catches("the response was changed", _smuggling(prompt="{response}", response="I hear a clip."))
def smuggled(answer: Callable[[Target], Target]) -> None:
    """A target whose prompt gives away the clip's attributes and passes the builder."""
    facts = {"rate": "slow", "loudness": "loud", "manner": "spoken", "scene": "rain"}
    for gender, accent in (("female", "Scottish"), ("male", "Caribbean")):
        facts |= {"gender": gender, "accent": accent, "topic": "food"}
        own = (
            f"The speaker is {gender}. The accent is {accent}. The speed is slow. The volume is "
            "high. In the background there is rain. The speaker talks."
        )
        prompt = "Paraphrase the description."
        given = Target(describe(facts), prompt, own, "self", "check", "", "greedy")
        got = answer(given)
        if not isinstance(got, Target):
            kind = type(got).__name__
            raise Wrong(f"Return a target, not a {kind}: `replace(target, prompt=…)` makes one.")
        if (got.response, got.description) != (given.response, given.description):
            raise Wrong("Description and response stay as they are; the response was changed.")
        try:
            targets.training_row("check", got, "check")
        except targets.TargetError:
            raise Wrong("TargetError: the builder finds it. Use other words.") from None
        given_away = [
            name for name in DESCRIBED if mentioned_values(got.prompt, name) == {facts[name]}
        ]
        if len(given_away) < 3:
            raise Wrong(f"{len(given_away)} of 6 attributes (3 do): the prompt tells nothing.")
