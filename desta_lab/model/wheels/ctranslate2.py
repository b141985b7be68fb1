"""OpenAI's Whisper out of a CTranslate2 file, under the names of transformers."""

import json
import re
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from desta_lab.cache import to_json
from desta_lab.model.weights import WeightsError

TYPES = [np.float32, np.int8, np.int16, np.int32, np.float16]  # by their number in the file

# names of CTranslate2 → names of transformers, applied in this order
RENAMES = {
    r"/position_encodings/encodings": "/embed_positions/weight",
    r"/embeddings/": "/embed_tokens/",
    r"/layer_(\d+)/": r"/layers/\1/",
    r"/self_attention/layer_norm/": "/self_attn_layer_norm/",
    r"/attention/layer_norm/": "/encoder_attn_layer_norm/",
    r"/self_attention/linear_1/": "/self_attn/out_proj/",
    r"/attention/linear_2/": "/encoder_attn/out_proj/",
    r"/self_attention/linear_0/(\w+)": r"/self_attn/qkv_proj/\1",
    r"/attention/linear_0/(\w+)": r"/encoder_attn/q_proj/\1",
    r"/attention/linear_1/(\w+)": r"/encoder_attn/kv_proj/\1",
    r"/ffn/layer_norm/": "/final_layer_norm/",
    r"/ffn/linear_0/": "/fc1/",
    r"/ffn/linear_1/": "/fc2/",
    r"/gamma$": "/weight",
    r"/beta$": "/bias",
}


def convert(raw: Path, ready: Path) -> None:
    """Write the Whisper of a `model.bin` in the Hugging Face layout; every tensor must fit."""
    arrays = read_arrays(raw / "model.bin")
    tokenizer = Tokenizer.from_file(str(raw / "tokenizer.json"))
    end = tokenizer.token_to_id("<|endoftext|>")
    ids: dict[str, Any] = {
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "decoder_start_token_id": tokenizer.token_to_id("<|startoftranscript|>"),
    }
    config = WhisperConfig(**_sizes(arrays), **ids)
    model = WhisperForConditionalGeneration(config)
    tensors = {name: torch.from_numpy(array) for name, array in rename_arrays(arrays)}
    model.model.load_state_dict(tensors, strict=True)
    listed = json.loads((raw / "config.json").read_text())
    model.generation_config = _generation_config(tokenizer, listed, ids, config)
    model.half().save_pretrained(ready)
    WhisperFeatureExtractor(feature_size=config.num_mel_bins).save_pretrained(ready)
    shutil.copyfile(raw / "tokenizer.json", ready / "tokenizer.json")
    about = {
        "tokenizer_class": "WhisperTokenizer",
        "model_max_length": config.max_target_positions,
        **{f"{kind}_token": "<|endoftext|>" for kind in ("bos", "eos", "pad", "unk")},
    }
    (ready / "tokenizer_config.json").write_bytes(to_json(about))


def _generation_config(
    tokenizer: Tokenizer, listed: dict[str, Any], ids: dict[str, Any], config: WhisperConfig
) -> GenerationConfig:
    """How transformers 5 decodes; it forces the first tokens by names, not by lists of ids."""
    token = tokenizer.token_to_id
    multilingual = ids["decoder_start_token_id"] != 50257  # one lower in the English vocabulary
    languages: dict[str, Any] = {
        "lang_to_id": {tokenizer.id_to_token(i): i for i in listed["lang_ids"]},
        "task_to_id": {task: token(f"<|{task}|>") for task in ("transcribe", "translate")},
    }
    return GenerationConfig(
        **ids,
        max_length=config.max_target_positions,
        suppress_tokens=listed["suppress_ids"],
        begin_suppress_tokens=listed["suppress_ids_begin"],
        alignment_heads=listed["alignment_heads"],
        no_timestamps_token_id=token("<|notimestamps|>"),
        prev_sot_token_id=token("<|startofprev|>"),
        max_initial_timestamp_index=50,  # the first timestamp lies within 50 × 0.02 s = 1 s
        return_timestamps=False,
        is_multilingual=multilingual,
        **(languages if multilingual else {}),
    )


def _sizes(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """The sizes of a Whisper, as its config names them."""
    vocabulary, width = arrays["decoder/embeddings/weight"].shape
    mels = arrays["encoder/conv1/weight"].shape[1]
    sizes: dict[str, Any] = {"vocab_size": vocabulary, "d_model": width, "num_mel_bins": mels}
    for side, positions in (("encoder", "source"), ("decoder", "target")):
        layers = [key for key in arrays if re.match(rf"{side}/layer_\d+/ffn/linear_0/bias", key)]
        table = arrays[f"{side}/position_encodings/encodings"]
        sizes |= {
            f"max_{positions}_positions": len(table),
            f"{side}_layers": len(layers),
            f"{side}_ffn_dim": len(arrays[layers[0]]),
            f"{side}_attention_heads": int(arrays[f"{side}/num_heads"]),
        }
    return sizes


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The named arrays of a CTranslate2 Whisper `model.bin` (binary version 6), without aliases.

    Little-endian: u32 version · spec name · u32 its revision · u32 count · per array: name,
    u8 rank, u32 per axis, u8 type, u32 bytes, data. A name is a u16 length and that many bytes,
    the last one NUL.

    Raises:
        WeightsError: the file is no such Whisper, or is cut.
    """
    with path.open("rb") as file:

        def take(form: str) -> tuple[int, ...]:
            return struct.unpack(f"<{form}", file.read(struct.calcsize(f"<{form}")))

        def text() -> str:
            return file.read(*take("H"))[:-1].decode()

        def array() -> np.ndarray:
            shape = take(f"{take('B')[0]}I")
            kind, size = take("BI")
            return np.frombuffer(file.read(size), TYPES[kind]).reshape(shape)

        try:
            (version,), spec, (_, count) = take("I"), text(), take("II")
            if (version, spec) != (6, "WhisperSpec"):
                fault = f"version {version} of {spec!r} found"
                raise ValueError(f"{fault}, version 6 of 'WhisperSpec' expected")
            return {text(): array() for _ in range(count)}
        except (struct.error, ValueError, IndexError) as error:
            fault = f"{path.name} is no readable CTranslate2 Whisper: {error}"
            raise WeightsError(f"{fault}. Fetch it again.") from error


def rename_arrays(arrays: dict[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays under the names of `WhisperModel`, in float32, with fused q, k, v taken apart."""
    for key, array in arrays.items():
        if array.ndim == 0 or array.dtype.kind == "i":  # settings, not weights
            continue
        for pattern, new in RENAMES.items():
            key = re.sub(pattern, new, key)
        fused = re.search(r"/(q|k|v)+_proj/", key)
        letters = fused[0].split("_")[0][1:] if fused else "*"
        parts = np.split(array.astype(np.float32), len(letters))
        for letter, part in zip(letters, parts, strict=True):
            name = re.sub(r"/[qkv]+_proj/", f"/{letter}_proj/", key).replace("/", ".")
            if not name.endswith("k_proj.bias"):  # zeros here, absent in transformers
                yield name, part
