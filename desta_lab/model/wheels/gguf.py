"""SmolLM2 out of a GGUF file, which transformers de-quantises."""

from pathlib import Path
from typing import Any

import torch
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from desta_lab.cache import to_json


def convert(raw: Path, ready: Path) -> None:
    """Write the model of a GGUF file in the Hugging Face layout, with its tokenizer."""
    file = next(raw.glob("*.gguf")).name
    loaded = AutoModelForCausalLM.from_pretrained(raw, gguf_file=file, dtype=torch.float32)
    settings = loaded.config.to_dict()
    settings.pop("quantization_config", None)  # with it, save_pretrained refuses
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings))
    model.load_state_dict(loaded.state_dict(), strict=True)
    tokenizer = AutoTokenizer.from_pretrained(raw, gguf_file=file)
    kinds = ("bos_token_id", "eos_token_id", "pad_token_id")
    model.generation_config = GenerationConfig(**{kind: getattr(tokenizer, kind) for kind in kinds})
    model.half().save_pretrained(ready)
    _save_tokenizer(tokenizer, model.config.max_position_embeddings, ready)


def _save_tokenizer(tokenizer: Any, max_positions: int, ready: Path) -> None:
    """Write the tokenizer with SmolLM's rule for splitting text, which cuts digits apart.

    A GGUF file only names that rule ("smollm"), and transformers takes GPT-2's instead.
    """
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = Sequence(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
    )
    backend.save(str(ready / "tokenizer.json"))
    special = tokenizer.special_tokens_map.items()
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{kind: token for kind, token in special if isinstance(token, str)},
        "chat_template": tokenizer.chat_template,
        "model_max_length": max_positions,
    }
    (ready / "tokenizer_config.json").write_bytes(to_json(about))
