"""The nano LLM, a glass box: an instruct model of 2 M parameters, trained here on text alone."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from desta_lab import cache
from desta_lab.model import chat

LIMITS = (
    "The glass-box LLM knows only the words and questions of its own text world; what it answers "
    "to others means nothing."
)
Row = tuple[str, str, str]  # description, question, answer

TURN, END, PAD = "<|im_start|>", "<|im_end|>", "<|pad|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
MAX_POSITIONS = 1024  # tokens
HEAD = 32  # width of an attention head
ROPE_THETA = 1e6  # so slow that a word is found at any position
INITIAL_SCALE = 0.1  # standard deviation of the weights; at 0.02 attention stays flat (LOG.md)
IGNORED = -100  # the label that transformers' loss leaves out


def build_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer in which every word of the texts is one token.

    A blank belongs to the word behind it. So the ids of a stem and of an option that begins with a
    blank are together the ids of the two written as one. The marks of a turn and the tags around a
    clip are one token each. Other text falls into pieces.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,  # more than the text world fills: merging ends when every word is whole
        min_frequency=1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[PAD, TURN, END, chat.START, chat.END],
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[TURN, chat.START, chat.END],
        model_max_length=MAX_POSITIONS,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def train_nano(
    rows: Iterable[Row],
    *,
    steps: int | None = None,
    batch: int = 16,
    width: int = 192,
    layers: int = 4,
    lr: float = 1.5e-3,
    seed: int = 0,
    progress: Callable[[int, int, dict[str, float]], None] | None = None,
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Train a Llama of the text world, and its tokenizer, from nothing; returns both.

    It learns to predict the answers. Every other description stands between the audio tags, where a
    clip will stand. The same arguments give the same weights on the same machine and threads.

    Args:
        rows: (description, question, answer), taken in their order.
        steps: None takes each row once.
        progress: called with the steps done, their number and {"loss": …}.

    Raises:
        ValueError: there are no rows.
    """
    rows = list(rows)
    if not rows:
        raise ValueError("The nano LLM cannot learn from 0 rows; hand in some.")
    steps = math.ceil(len(rows) / batch) if steps is None else steps
    frame = f"{chat.SYSTEM}\nsystem\nuser\nassistant"
    tokenizer = build_tokenizer(text for row in rows for text in (*row, frame))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(_config(tokenizer, width, layers)).train()
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.05, fused=True
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
        for step, (ids, labels) in enumerate(_batches(rows, tokenizer, steps, batch)):
            loss = model(input_ids=ids, labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            if progress is not None:
                progress(step + 1, steps, {"loss": loss.item()})
    return model.eval().requires_grad_(False), tokenizer


def save_nano(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path | str,
    recipe: Mapping[str, Any] | None = None,
) -> None:
    """Write the Hugging Face layout, and `recipe.json`: how it was made and what it can do."""
    folder = Path(folder)
    about = f"{json.dumps(recipe or {}, indent=2)}\n"
    with cache.writing(folder):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder, save_jinja_files=False)  # the config has the template
        (folder / "recipe.json").write_text(about, encoding="utf-8")


def _config(tokenizer: PreTrainedTokenizerFast, width: int, layers: int) -> LlamaConfig:
    """Llama's architecture with tied embeddings."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=8 * width // 3,
        num_hidden_layers=layers,
        num_attention_heads=width // HEAD,
        max_position_embeddings=MAX_POSITIONS,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        initializer_range=INITIAL_SCALE,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _rate(step: int, steps: int, warm_up: int = 50) -> float:
    """The share of the learning rate at a step: a linear warm-up, then linear decay to zero."""
    return min((step + 1) / warm_up, (steps - step) / max(1, steps - warm_up))


def _batches(
    rows: list[Row], tokenizer: PreTrainedTokenizerFast, steps: int, batch: int, window: int = 8
) -> Iterator[tuple[Int[Tensor, "batch token"], Int[Tensor, "batch token"]]]:
    """Batches of ids and labels. In a window of batches, rows of similar length go together."""
    for first in range(0, steps, window):
        count = min(window, steps - first)
        taken = range(first * batch, (first + count) * batch)
        encoded = [_encode(rows[i % len(rows)], tokenizer, tagged=i % 2 == 1) for i in taken]
        encoded.sort(key=lambda example: len(example[0]))
        for k in torch.randperm(count).tolist():
            ids, labels = zip(*encoded[k * batch : (k + 1) * batch], strict=True)
            yield (  # filled up behind, where a causal model needs no mask
                pad_sequence([torch.tensor(row) for row in ids], True, tokenizer.pad_token_id),
                pad_sequence([torch.tensor(row) for row in labels], True, IGNORED),
            )


def _encode(
    row: Row, tokenizer: PreTrainedTokenizerFast, *, tagged: bool
) -> tuple[list[int], list[int]]:
    """The ids and labels of one conversation; the answer and its end are learned.

    If tagged, the description is the transcript of a clip without slots, so that the words stand in
    the place of a clip.
    """
    description, question, answer = row
    if tagged:
        messages, transcripts = chat.audio_messages(question), [description]
    else:
        messages, transcripts = chat.description_messages(description, question), None
    stream = chat.build_stream(tokenizer, messages, 0, response=answer, transcripts=transcripts)
    return list(stream.ids), [IGNORED] * stream.start + list(stream.response)
