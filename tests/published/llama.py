"""A tokenizer of Llama 3's form, and a tiny published system that uses it."""

from dataclasses import replace
from pathlib import Path

import soundfile
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from desta_lab.audio import RATE
from desta_lab.model import presets
from desta_lab.model.connector import QFormer
from desta_lab.published.adapters import save_adapter
from tests import tiny

HEAD, CLOSE, TURN, FIRST = (
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|begin_of_text|>",
)


def llama_tokenizer() -> PreTrainedTokenizerFast:
    """Llama 3's form: its special tokens, splitting rule, template, and a BOS from two places."""
    rule = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(rule), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    special = [FIRST, TURN, HEAD, CLOSE]
    text = [
        "system user assistant audio\n\n start_audio end_audio What is it? hello there. "
        "Focus on the audio clips"
    ] * 2
    bpe.train_from_iterator(
        text,
        trainers.BpeTrainer(
            vocab_size=380,
            special_tokens=special,
            show_progress=False,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        ),
    )
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{FIRST} $A", special_tokens=[(FIRST, 0)]
    )
    template = (
        "{% for message in messages %}"
        "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
        " + message['content'] | trim + '<|eot_id|>' %}"
        "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
        "{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=FIRST, eos_token=TURN, chat_template=template
    )


def connector(**how) -> QFormer:
    sizes = {"taps": 4, "d_enc": 64, "d_llm": 48, "queries": 6, "depth": 2, "heads": 4}
    return QFormer(**{**sizes, **how}).eval()


def system(folder: Path) -> tuple[presets.Preset, Path, QFormer]:
    """A preset of tiny folders, an adapter under DeSTA2's names, and its connector."""
    ears = tiny.hf_folder(folder / "ears", tiny.whisper(12, width=48))
    mind = tiny.hf_folder(folder / "mind", tiny.causal(bos=True), llama_tokenizer())
    shape = replace(presets.desta2().connector, queries=6, heads=4, ffn=64)
    preset = replace(
        presets.desta2(),
        encoder=str(ears),
        backbone=str(mind),
        seconds=tiny.SECONDS,
        connector=shape,
    )
    torch.manual_seed(7)
    adapter = connector(d_enc=48, ffn=64)
    save_adapter(adapter, folder / "adapter.safetensors", prefix="speech_perception.connector.")
    soundfile.write(folder / "clip.wav", tiny.wave(0), RATE)
    return preset, folder / "adapter.safetensors", adapter
