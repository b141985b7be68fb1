"""Messages become token streams with audio slots, for training, generation and scoring alike."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

AUDIO = "<|AUDIO|>"  # stands in a user's text for a clip
START, END = "<start_audio>", "<end_audio>"  # plain text around every clip, as in DeSTA2.5-Audio
TAGGED = f"{START}{AUDIO}{END}"
SYSTEM = "Focus on the audio clips and instructions."
SLOT = -1  # the id of an audio slot: no token has it, so a slot that is never filled fails loudly

# What every chat template is given: no thoughts before the answer, and one date for ever. A
# template that knows a name obeys it (Qwen3, SmolLM3, Llama 3, …), any other does not see it.
TEMPLATE_ARGUMENTS = {"enable_thinking": False, "thinking": False, "date_string": "26 Jul 2024"}
# the same date for a template that asks for today's; it hides the function of transformers
PINNED_DATE = (
    "{%- macro strftime_now(format) -%}{{ format.replace('%d', '26').replace('%b', 'Jul')"
    ".replace('%B', 'July').replace('%m', '07').replace('%Y', '2024').replace('%y', '24')"
    ".replace('%A', 'Friday').replace('%a', 'Fri').replace('%H', '12').replace('%M', '00')"
    ".replace('%S', '00') }}{%- endmacro %}"
)
THOUGHT = "<think>"  # a prompt that ends in it opens a thought, whatever it was told
HELD = "\ue000"  # parts a control token that a message spells out; two stand for one of a text

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
    return description_messages(AUDIO, question, system)


def description_messages(
    description: str, question: str, system: str = SYSTEM
) -> list[dict[str, str]]:
    """The text condition of a question: the description stands in the place of the clip."""
    asked = f"{description}\n{question}" if question else description
    return [{"role": "system", "content": system}, {"role": "user", "content": asked}]


def list_conversations(messages: Any) -> list[Sequence[Message]]:
    """The conversations in the message format of the DeSTA models, of which one may stand alone.

    Raises:
        ChatError: there is none, or something else than messages, each with role and content, and
            clips, each with `audio`.
    """
    given = list(messages) if _is_list(messages) else []
    conversations = [given] if given and isinstance(given[0], Mapping) else given
    for talk in conversations or [messages]:
        listed = _is_list(talk) and bool(talk)
        wrong = [one for one in talk if not _is_message(one)] if listed else talk
        if wrong or not listed:
            told = f"the text {wrong!r}" if isinstance(wrong, str) else str(wrong)[:60]
            fault = f"A conversation is a list of messages, not {told}"
            remedy = 'write [{"role": "user", "content": …}], clips as "audios": [{"audio": path}]'
            raise ChatError(f"{fault}; {remedy}.")
    return conversations


def _is_list(given: Any) -> bool:
    return isinstance(given, Sequence) and not isinstance(given, str)


def _is_message(one: Any) -> bool:
    """Whether this is a message with role and content as texts, and clips with their `audio`."""
    if not isinstance(one, Mapping):
        return False
    clips = one.get("audios") or ()
    texts = (one.get("role"), one.get("content"))
    whole = all(isinstance(clip, Mapping) and "audio" in clip for clip in clips)
    return all(isinstance(text, str) for text in texts) and whole


def build_stream(
    tokenizer: Any,
    messages: Sequence[Message],
    queries: int,
    *,
    response: str | None = None,
    response_ids: Sequence[int] | None = None,
    truncated: bool = False,
    transcripts: Sequence[str] | None = None,
    max_tokens: int | None = None,
) -> TokenStream:
    """Token ids of a conversation up to the backbone's turn, and of its response when one is given.

        system · user: <start_audio> [slot × queries] transcript <end_audio> question
               · assistant: response <end of turn>

    The chat template brings its own BOS, so nothing is added twice. A response ends in one
    end-of-turn token, a truncated one in none, because a cut is not an end. A control token that a
    message, a transcript or a response spells out is text: nobody's words begin another turn.

    Args:
        queries: audio slots for each clip; 0 where there are no clips.
        response_ids: the ids that the writer of the response chose, with its end of turn if it
            came to one; they are learned as they are.
        transcripts: one text for each clip, written after its slots; None for no text.
        max_tokens: the longest stream that is allowed.

    Raises:
        ChatError: placeholders and transcripts do not match, ids and words of the response differ,
            the stream is longer than `max_tokens`, or the chat template refuses the messages.
    """
    tagged = []
    for message in messages:
        bare = _hold(tokenizer, message["content"].replace(TAGGED, AUDIO))
        tagged.append({"role": message["role"], "content": bare.replace(AUDIO, TAGGED)})
    first, *rest = _apply_template(tokenizer, tagged).split(AUDIO)
    if transcripts is None and rest and not queries:
        raise ChatError(f"A text holds {AUDIO}, which stands for a clip; take it out.")
    texts = [""] * len(rest) if transcripts is None else transcripts
    if len(texts) != len(rest):
        fault = f"The messages hold {len(rest)} {AUDIO} but {len(texts)} clips were given"
        raise ChatError(f"{fault}; match them.")
    ids = _encode_held(tokenizer, first)
    for transcript, piece in zip(texts, rest, strict=True):
        ids += [SLOT] * queries
        ids += encode_words(tokenizer, transcript) + _encode_held(tokenizer, piece)
    start = len(ids)
    if response_ids is not None:
        _check_words(tokenizer, response, response_ids)
        ids += response_ids
    elif response is not None:
        ids += _encode_response(tokenizer, response, truncated)
    if max_tokens is not None and len(ids) > max_tokens:
        fault = f"The conversation has {len(ids)} tokens and the limit is {max_tokens}"
        raise ChatError(f"{fault}; shorten it.")
    return TokenStream(tuple(ids), start)


def common_trunk(streams: Sequence[TokenStream], behind: int = 0) -> TokenStream:
    """The longest common beginning of several streams: everything up to the question.

    At least `behind` tokens of every stream are left out of it.
    """
    shortest = min(len(stream.ids) for stream in streams) - behind
    differs = (i for i in range(shortest) if len({stream.ids[i] for stream in streams}) > 1)
    length = next(differs, shortest)
    return TokenStream(streams[0].ids[:length], length)


def end_of_turn(tokenizer: Any) -> int:
    """The id that the chat template writes after an assistant's turn, which ends an answer.

    It is the first control token behind the turn's words: Gemma's is `<end_of_turn>` and not its
    `eos_token`. Where the template writes none, it is `eos_token`.
    """
    words = "an answer"
    turns = [{"role": "user", "content": "a question"}, {"role": "assistant", "content": words}]
    behind = _render(tokenizer, turns, add_generation_prompt=False).rpartition(words)[2]
    marks = control_tokens(tokenizer)
    found = next((i for i in encode_text(tokenizer, behind) if i in marks), None)
    return int(tokenizer.eos_token_id if found is None else found)


def control_tokens(tokenizer: Any) -> dict[int, str]:
    """The added tokens that steer a conversation: special ones, and those the template writes."""
    template = str(tokenizer.chat_template or "")
    return {
        number: token.content
        for number, token in tokenizer.added_tokens_decoder.items()
        if token.special or (token.content in template and not token.content.isspace())
    }


def template_hash(tokenizer: Any) -> str | None:
    """A hash of how the chat template writes a conversation; None for plain ChatML.

    Results of plain ChatML were kept before this hash was a part of their key.
    """
    turns = [{"role": "system", "content": "a system"}, {"role": "user", "content": "a question"}]
    text = _apply_template(tokenizer, turns)
    chatml = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in turns)
    if text == f"{chatml}<|im_start|>assistant\n":
        return None
    return hashlib.sha256(text.encode()).hexdigest()


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a piece of text, without added special tokens."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        fault = f"{text[:40]!r}: no text in UTF-8 ({error.reason} at {error.start + 1})"
        raise ChatError(f"{fault}; write it anew.") from error
    return list(tokenizer(text, add_special_tokens=False).input_ids) if text else []


def encode_words(tokenizer: Any, text: str) -> list[int]:
    """Token ids of somebody's words, in which a control token is the letters it is written in."""
    return _encode_held(tokenizer, _hold(tokenizer, text))


def decode_ids(tokenizer: Any, ids: Sequence[int]) -> str:
    """Token ids as text, without special tokens."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True)).strip()


def _apply_template(tokenizer: Any, messages: list[dict[str, str]]) -> str:
    """The conversation as text, up to the backbone's turn.

    Where the template knows no system role, the system's words open the user's turn.
    """
    try:
        text = _render(tokenizer, messages, add_generation_prompt=True)
    except ChatError:
        if len(messages) < 2 or messages[0]["role"] != "system":
            raise
        system, user, *rest = messages  # Gemma's template, for one, knows no system role
        user = {**user, "content": f"{system['content']}\n\n{user['content']}"}
        return _apply_template(tokenizer, [user, *rest])
    if text.rstrip().endswith(THOUGHT):
        fault = f"The chat template opens a thought ({THOUGHT}) and cannot be told not to"
        raise ChatError(f"{fault}; take an instruct model that answers at once.")
    return text


def _render(tokenizer: Any, messages: list[dict[str, str]], *, add_generation_prompt: bool) -> str:
    """The conversation as the chat template writes it; raises ChatError where it refuses."""
    how: dict[str, Any] = {**TEMPLATE_ARGUMENTS, "add_generation_prompt": add_generation_prompt}
    try:
        if "strftime_now" in str(tokenizer.chat_template):
            how["chat_template"] = PINNED_DATE + tokenizer.get_chat_template()
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **how))
    except Exception as error:  # jinja2's own, or a sentence of the template's author
        fault = f"The chat template refuses these messages ({error})"
        raise ChatError(f"{fault}; change roles or their order.") from error


def _check_words(tokenizer: Any, response: str | None, ids: Sequence[int]) -> None:
    """Refuse ids that say other words than the response they came with."""
    if response is not None and decode_ids(tokenizer, ids) != response.strip():
        fault = f"The ids of a response do not say {response[:60]!r}"
        raise ChatError(f"{fault}; leave the ids out where the words were changed.")


def _encode_response(tokenizer: Any, response: str, truncated: bool) -> list[int]:
    """Token ids of an assistant's words, with the end of turn unless they were cut off."""
    end = end_of_turn(tokenizer)
    for mark in (tokenizer.decode([end]), tokenizer.eos_token):
        response = response.removesuffix(mark)
    return encode_words(tokenizer, response) + ([] if truncated else [end])


def _hold(tokenizer: Any, text: str) -> str:
    """The text with `HELD` behind the first letter of each control token, which then is none."""
    held = text.replace(HELD, HELD * 2)
    for mark in sorted(control_tokens(tokenizer).values(), key=len, reverse=True):
        if mark != AUDIO:
            held = held.replace(mark, f"{mark[:1]}{HELD}{mark[1:]}")
    return held


def _encode_held(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text as it was before `_hold`; what that parted is encoded apart."""
    pieces = re.split(f"{HELD}({HELD}?)", text)
    return [token for piece in pieces for token in encode_text(tokenizer, piece)]
