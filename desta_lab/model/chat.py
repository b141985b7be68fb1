"""Messages become token streams with audio slots: the one function behind training, generation and scoring."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

AUDIO = "<|AUDIO|>"  # stands in a user's text where a clip is heard
START, END = "<start_audio>", "<end_audio>"  # plain text around every clip, as in DeSTA2.5-Audio
SYSTEM = "Focus on the audio clips and instructions."
SLOT = -1  # the id of an audio slot: no token has it, so a slot that is never filled fails loudly

Message = Mapping[str, Any]


class ChatError(ValueError):
    """Messages that cannot become a token stream; the message says what to change."""


@dataclass(frozen=True)
class Stream:
    """One conversation as token ids; `SLOT` marks where audio embeddings go, the response starts at `start`."""

    ids: tuple[int, ...]
    start: int

    @property
    def response(self) -> tuple[int, ...]:
        """The ids that are learned: the response and, unless it was cut off, its end-of-turn token."""
        return self.ids[self.start :]


def ask(question: str, system: str = SYSTEM) -> list[dict[str, str]]:
    """The audio view of a question: the clip, then the words. This is all that training ever shows the backbone."""
    return [{"role": "system", "content": system}, {"role": "user", "content": f"{AUDIO}\n{question}"}]


def read(description: str, question: str, system: str = SYSTEM) -> list[dict[str, str]]:
    """The text view of the same question: the description stands where the clip stood."""
    return [{"role": "system", "content": system}, {"role": "user", "content": f"{description}\n{question}"}]


def stream(
    tokenizer: Any,
    messages: Sequence[Message],
    queries: int,
    *,
    response: str | None = None,
    truncated: bool = False,
    transcripts: Sequence[str] = (),
    max_tokens: int | None = None,
) -> Stream:
    """Token ids of a conversation up to the backbone's turn, and of its response when one is given.

        system · user: <start_audio> [slot × queries] transcript <end_audio> question · assistant: response <eos>

    The chat template brings its own BOS, so nothing is added twice. A truncated response gets no end-of-turn token:
    a cut is not an end.

    Raises:
        ChatError: audio placeholders and transcripts do not match, or the stream is longer than `max_tokens`.
    """
    plain = [{"role": m["role"], "content": _wrapped(m["content"])} for m in messages]
    text = tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True)
    pieces = text.split(AUDIO)
    heard = list(transcripts) or [""] * (len(pieces) - 1)
    if len(heard) != len(pieces) - 1:
        raise ChatError(f"The messages hold {len(pieces) - 1} {AUDIO} but {len(heard)} clips were given; match them.")
    ids = encode(tokenizer, pieces[0])
    for words, piece in zip(heard, pieces[1:], strict=True):
        ids += [SLOT] * queries + encode(tokenizer, words) + encode(tokenizer, piece)
    start = len(ids)
    if response is not None:
        ids += encode(tokenizer, response) + ([] if truncated else [tokenizer.eos_token_id])
    if max_tokens is not None and len(ids) > max_tokens:
        raise ChatError(f"The conversation has {len(ids)} tokens, the limit is {max_tokens}; shorten it or raise the limit.")
    return Stream(tuple(ids), start)


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a piece of text with no special tokens added."""
    return list(tokenizer(text, add_special_tokens=False).input_ids) if text else []


def _wrapped(content: str) -> str:
    """Put the plain-text tags around every placeholder that does not wear them yet."""
    bare = content.replace(f"{START}{AUDIO}{END}", AUDIO)
    return bare.replace(AUDIO, f"{START}{AUDIO}{END}")
