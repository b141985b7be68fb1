"""A tiny random Whisper as CTranslate2 would write it."""

import struct
from pathlib import Path

import numpy as np
import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

NAME = "tiny-whisper"
MARKS = [
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|translate|>",
    "<|transcribe|>",
    "<|startofprev|>",
]
MARKS += ["<|notimestamps|>"]
TYPES = {"float32": 0, "int16": 2, "float16": 4}


def tiny_whisper() -> WhisperForConditionalGeneration:
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=len(MARKS),
        d_model=8,
        num_mel_bins=80,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=12,
        decoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_attention_heads=4,
        max_source_positions=10,
        max_target_positions=7,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=1,
    )
    model = WhisperForConditionalGeneration(config)
    for parameter in model.parameters():  # no zeros or ones that would hide a swapped pair
        torch.nn.init.normal_(parameter)
    return model.half().float()


def ctranslate2_arrays(model: WhisperForConditionalGeneration) -> dict[str, np.ndarray]:
    """The arrays CTranslate2 would write, spelled out from the model's modules."""
    arrays: dict[str, np.ndarray] = {}

    def put(name: str, *modules: torch.nn.Module) -> None:
        fused = torch.cat([module.weight for module in modules])
        if isinstance(modules[0], torch.nn.Embedding):
            arrays[name] = fused.detach().numpy()
            return
        norm = isinstance(modules[0], torch.nn.LayerNorm)
        arrays[f"{name}/{'gamma' if norm else 'weight'}"] = fused.detach().numpy()
        biases = [m.bias if m.bias is not None else torch.zeros(m.out_features) for m in modules]
        arrays[f"{name}/{'beta' if norm else 'bias'}"] = torch.cat(biases).detach().numpy()

    for side in ("encoder", "decoder"):
        part = getattr(model.model, side)
        put(f"{side}/layer_norm", part.layer_norm)
        put(f"{side}/position_encodings/encodings", part.embed_positions)
        arrays[f"{side}/num_heads"] = np.array(part.layers[0].self_attn.num_heads, np.int16)
        for i, layer in enumerate(part.layers):
            at, own = f"{side}/layer_{i}", layer.self_attn
            put(f"{at}/self_attention/layer_norm", layer.self_attn_layer_norm)
            put(f"{at}/self_attention/linear_0", own.q_proj, own.k_proj, own.v_proj)
            put(f"{at}/self_attention/linear_1", own.out_proj)
            put(f"{at}/ffn/layer_norm", layer.final_layer_norm)
            put(f"{at}/ffn/linear_0", layer.fc1)
            put(f"{at}/ffn/linear_1", layer.fc2)
            if side == "decoder":
                cross = layer.encoder_attn
                put(f"{at}/attention/layer_norm", layer.encoder_attn_layer_norm)
                put(f"{at}/attention/linear_0", cross.q_proj)
                put(f"{at}/attention/linear_1", cross.k_proj, cross.v_proj)
                put(f"{at}/attention/linear_2", cross.out_proj)
    put("encoder/conv1", model.model.encoder.conv1)
    put("encoder/conv2", model.model.encoder.conv2)
    put("decoder/embeddings/weight", model.model.decoder.embed_tokens)
    return arrays


def ctranslate2_bytes(arrays: dict[str, np.ndarray]) -> bytes:
    def text(name: str) -> bytes:
        return struct.pack("<H", len(name) + 1) + name.encode() + b"\0"

    out = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, len(arrays))
    for name, value in arrays.items():
        array = value.astype(np.float16) if value.dtype == np.float32 else value
        out += text(name) + struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
        out += struct.pack("<BI", TYPES[str(array.dtype)], array.nbytes) + array.tobytes()
    return (
        out
        + struct.pack("<I", 1)
        + text("decoder/projection/weight")
        + text("decoder/embeddings/weight")
    )


def visible(root: Path) -> list[str]:
    """What a conversion left under a root, the lock file aside."""
    return sorted(path.name for path in root.iterdir() if path.suffix != ".lock")
