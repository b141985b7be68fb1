"""Messages become token streams with audio slots, for training, generation and scoring alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

AUDIO = "<|AUDIO|>"  # stands in a user's text for a clip
START, END = "<start_audio>", "<end_audio>"  # plain text around every clip, as in DeSTA2.5-Audio
SYSTEM = "Focus on the audio clips and instructions."
SLOT = -1  # the id of an audio slot: no token has it, so a slot that is never filled fails loudly

Message = Mapping[str, Any]


class ChatError(ValueError):
    """Messages that cannot become a token stream; the message says what to change."""


@dataclass(frozen=True)
class TokenStream:
    """One conversation as token ids, with `SLOT` for each audio embedding."""

    ids: tuple[int, ...]
    start: int  # of the response

    @property
    def response(self) -> tuple[int, ...]:
        """The ids that are learned: the response and, unless it was cut off, its end of turn."""
        return self.ids[self.start :]


def audio_messages(question: str, system: str = SYSTEM) -> list[dict[str, str]]:
    """The audio condition of a question: the clip, then the words. Training shows nothing else."""
    return [
        {"role": "system", "content": system},
        {"role": "user", "content": f"{AUDIO}\n{question}"},
    ]


def description_messages(
    description: str, question: str, system: str = SYSTEM
) -> list[dict[str, str]]:
    """The text condition of a question: the description stands in the place of the clip."""
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

        system · user: <start_audio> [slot × queries] transcript <end_audio> question
               · assistant: response <eos>

    The chat template brings its own BOS, so nothing is added twice. A response ends in one
    end-of-turn token, a truncated one in none, because a cut is not an end.

    Args:
        queries: audio slots for each clip.
        transcripts: one text for each clip, written after its slots; None for no text.
        max_tokens: the longest stream that is allowed.

    Raises:
        ChatError: placeholders and transcripts do not match, the stream is longer than
            `max_tokens`, or the chat template refuses the messages.
    """
    tagged = [{"role": m["role"], "content": _add_tags(m["content"])} for m in messages]
    first, *rest = _apply_template(tokenizer, tagged).split(AUDIO)
    texts = [""] * len(rest) if transcripts is None else transcripts
    if len(texts) != len(rest):
        raise ChatError(
            f"The messages hold {len(rest)} {AUDIO} but {len(texts)} clips were given; match them."
        )
    ids = encode_text(tokenizer, first)
    for transcript, piece in zip(texts, rest, strict=True):
        ids += [SLOT] * queries
        ids += encode_text(tokenizer, transcript) + encode_text(tokenizer, piece)
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
    """Token ids of a piece of text, without added special tokens."""
    return list(tokenizer(text, add_special_tokens=False).input_ids) if text else []


def decode_ids(tokenizer: Any, ids: Sequence[int]) -> str:
    """Token ids as text, without special tokens."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True)).strip()


def _apply_template(tokenizer: Any, messages: list[dict[str, str]]) -> str:
    """The conversation as text, up to the backbone's turn.

    Where the template knows no system role, the system's words open the user's turn.
    """
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return str(text)
    except Exception as error:  # jinja2's own, or a sentence of the template's author
        if len(messages) < 2 or messages[0]["role"] != "system":
            raise ChatError(
                f"The chat template refuses these messages ({error}); change roles or their order."
            ) from error
    system, user, *rest = messages  # Gemma's template, for one, knows no system role
    user = {**user, "content": f"{system['content']}\n\n{user['content']}"}
    return _apply_template(tokenizer, [user, *rest])


def _add_tags(content: str) -> str:
    """Put the plain-text tags around every placeholder that has none yet."""
    bare = content.replace(f"{START}{AUDIO}{END}", AUDIO)
    return bare.replace(AUDIO, f"{START}{AUDIO}{END}")
