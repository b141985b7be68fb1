"""DeSTA2's own message layout, with the quirks of its released inference.

Source: kehanlu/DeSTA2, modeling_desta.py, `process_text` and `prepare_llm_input`.
"""

from collections.abc import Sequence
from typing import Any

import torch

from desta_lab import audio
from desta_lab.model import chat
from desta_lab.model.audio_llm import AudioLLM, Generation, ProvenanceError


def build_desta2_stream(
    tokenizer: Any, messages: Sequence[chat.Message], queries: int, transcript: str
) -> chat.TokenStream:
    """Token ids as DeSTA2's released inference makes them; use it with `presets.desta2()` only.

        messages: {"role": "system", …}, {"role": "audio", "content": "clip.wav"},
                  {"role": "user", …}

    Two quirks are kept, neither of which `chat.build_stream` has. The text around the clip is
    tokenised with special tokens, so that a Llama-3 stream begins with two BOS. The audio
    embeddings go where the text before the clip ends when it is counted without the second BOS:
    one token early, before the last token of the audio turn's header.

    Raises:
        ChatError: there is not exactly one audio message, or its path does not stand once in the
            conversation.
    """
    path = _audio_path(messages)
    turns = [{"role": m["role"], "content": str(m["content"])} for m in messages]
    text = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    if text.count(path) != 1:
        fault = f"The path {path!r} stands {text.count(path)} times in the conversation"
        raise chat.ChatError(f"{fault}; give the clip a name that stands there once.")
    before, after = text.split(path)
    ids = list(tokenizer(before + transcript + after).input_ids)
    at = len(chat.encode_text(tokenizer, before))
    ids[at:at] = [chat.SLOT] * queries
    return chat.TokenStream(tuple(ids), len(ids))


def _audio_path(messages: Sequence[chat.Message]) -> str:
    """The path in the one audio message."""
    paths = [str(message["content"]) for message in messages if message["role"] == "audio"]
    if len(paths) != 1:
        fault = f"DeSTA2 hears one clip a conversation, here are {len(paths)} audio messages"
        raise chat.ChatError(f"{fault}; give one.")
    return paths[0]


@torch.no_grad()
def answer_desta2(
    llm: AudioLLM, messages: Sequence[chat.Message], transcript: str | None = None, **options: Any
) -> Generation:
    """Answer one conversation in DeSTA2's message format; without a transcript, Whisper writes it.

    A transcript of Whisper begins with a blank there, and so does ours. Three things differ: they
    resample clips to 22.05 kHz and back, let Whisper guess the language (ours takes English), and
    sample at temperature 0.6 (ours is greedy unless `options` say otherwise).
    """
    path = _audio_path(messages)
    wave = audio.read_audio(path)
    if transcript is None:
        if llm.transcribe is None:
            raise ProvenanceError("This AudioLLM has no Whisper decoder; pass transcript=….")
        transcript = " " + llm.transcribe([wave])[0]
    stream = build_desta2_stream(llm.backbone.tokenizer, messages, llm.queries, transcript)
    ids = llm.generate_ids([stream], llm.encode_audio([wave]), **options)
    return Generation([llm.backbone.decode(row) for row in ids], ids, [[(path, transcript)]])
