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
class TokenStream:
    """One conversation as token ids; `SLOT` marks where audio embeddings go, the response starts at `start`."""

    ids: tuple[int, ...]
    start: int

    @property
    def response(self) -> tuple[int, ...]:
        """The ids that are learned: the response and, unless it was cut off, its end-of-turn token."""
        return self.ids[self.start :]


def audio_messages(question: str, system: str = SYSTEM) -> list[dict[str, str]]:
    """The audio condition of a question: the clip, then the words. This is all that training ever shows the backbone."""
    return [
        {"role": "system", "content": system},
        {"role": "user", "content": f"{AUDIO}\n{question}"},
    ]


def description_messages(
    description: str, question: str, system: str = SYSTEM
) -> list[dict[str, str]]:
    """The text condition of the same question: the description stands where the clip stood."""
    return [
        {"role": "system", "content": system},
        {"role": "user", "content": f"{description}\n{question}"},
    ]


def build_stream(
    tokenizer: Any,
    messages: Sequence[Message],
    queries: int,
    *,
    response: str | None = None,
    truncated: bool = False,
    transcripts: Sequence[str] | None = None,
    max_tokens: int | None = None,
) -> TokenStream:
    """Token ids of a conversation up to the backbone's turn, and of its response when one is given.

        system · user: <start_audio> [slot × queries] transcript <end_audio> question · assistant: response <eos>

    The chat template brings its own BOS, so nothing is added twice. A response ends in one end-of-turn token, a
    truncated one in none: a cut is not an end. `transcripts` has one text a clip (None: nothing is written there).

    Raises:
        ChatError: audio placeholders and transcripts do not match, the stream is longer than `max_tokens`, or the
            chat template refuses the messages.
    """
    text = _rendered(
        tokenizer, [{"role": m["role"], "content": _wrapped(m["content"])} for m in messages]
    )
    pieces = text.split(AUDIO)
    heard = [""] * (len(pieces) - 1) if transcripts is None else transcripts
    if len(heard) != len(pieces) - 1:
        raise ChatError(
            f"The messages hold {len(pieces) - 1} {AUDIO} but {len(heard)} clips were given; match them."
        )
    ids = encode_text(tokenizer, pieces[0])
    for words, piece in zip(heard, pieces[1:], strict=True):
        ids += [SLOT] * queries + encode_text(tokenizer, words) + encode_text(tokenizer, piece)
    start = len(ids)
    if response is not None:
        ids += encode_text(tokenizer, response.removesuffix(tokenizer.eos_token))
        ids += [] if truncated else [tokenizer.eos_token_id]
    if max_tokens is not None and len(ids) > max_tokens:
        raise ChatError(
            f"The conversation has {len(ids)} tokens and the limit is {max_tokens}; shorten it."
        )
    return TokenStream(tuple(ids), start)


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a piece of text with no special tokens added."""
    return list(tokenizer(text, add_special_tokens=False).input_ids) if text else []


def decode_ids(tokenizer: Any, ids: Sequence[int]) -> str:
    """Token ids as words, special tokens left out."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True)).strip()


def _rendered(tokenizer: Any, messages: list[dict[str, str]]) -> str:
    """The conversation as text, up to the backbone's turn; without a system role its words open the user's turn."""
    how = {"tokenize": False, "add_generation_prompt": True}
    try:
        return str(tokenizer.apply_chat_template(messages, **how))
    except (
        Exception
    ) as error:  # whatever the template raises: jinja2's own, or a sentence of its author
        if len(messages) < 2 or messages[0]["role"] != "system":
            raise ChatError(
                f"The chat template refuses these messages ({error}); change roles or their order."
            ) from error
    system, user, *rest = messages  # Gemma's template, for one, knows no system role
    return _rendered(
        tokenizer, [{**user, "content": f"{system['content']}\n\n{user['content']}"}, *rest]
    )


def _wrapped(content: str) -> str:
    """Put the plain-text tags around every placeholder that does not wear them yet."""
    bare = content.replace(f"{START}{AUDIO}{END}", AUDIO)
    return bare.replace(AUDIO, f"{START}{AUDIO}{END}")
