"""Adapter files of DeSTA2 and DeSTA2.5-Audio: their tensor names and this package's.

Names and layout are those of DeSTA2.5-Audio (`perception.connector.*`, modeling_desta25.py). The
adapter of DeSTA2 has the same tensors under `speech_perception.connector.` or no prefix
(modeling_desta.py).
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from desta_lab import cache
from desta_lab.model.audio_llm import ProvenanceError
from desta_lab.model.connector import QFormer

PREFIX = "perception.connector."  # of DeSTA2.5-Audio's released file
PREFIXES = (PREFIX, "speech_perception.connector.", "")  # and of DeSTA2's, whole and alone

# Tensor of a published Q-Former layer → ours. The first that fits counts, so the longer ones of
# ours (`self_attention.out.`) stand before the shorter (`self_attention.`).
LAYER_NAMES = {
    "attention.output.dense.": "self_attention.out.",
    "attention.output.LayerNorm.": "norms.0.",
    "attention.self.": "self_attention.",
    "crossattention.output.dense.": "cross_attention.out.",
    "crossattention.output.LayerNorm.": "norms.1.",
    "crossattention.self.": "cross_attention.",
    "intermediate.dense.": "mlp.0.",
    "output.dense.": "mlp.2.",
    "output.LayerNorm.": "norms.2.",
}


def from_published(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published adapter's tensors under this package's names.

    The query tokens of all layers (`layer_prompts.0`, …) become one tensor.

    Raises:
        ProvenanceError: a tensor that no published adapter has; the message names it.
    """
    prefix = next((p for p in PREFIXES if any(name.startswith(p) for name in published)), "")
    prompts: dict[int, Tensor] = {}
    ours: dict[str, Tensor] = {}
    unknown = []
    for name, tensor in published.items():
        plain = name.removeprefix(prefix) if name.startswith(prefix) else ""
        if plain.startswith("layer_prompts."):
            prompts[int(plain.removeprefix("layer_prompts."))] = tensor
        elif plain == "layer_weights" or plain.startswith("proj."):
            ours[plain] = tensor
        elif new := _rename(plain, "qformer.layer.", "blocks.", LAYER_NAMES):
            ours[new] = tensor
        else:
            unknown.append(name)
    if unknown or not prompts:
        fault = f"{min(unknown)} is no tensor of theirs" if unknown else "it has no layer_prompts"
        fault = f"This is no adapter of DeSTA2 or DeSTA2.5-Audio: {fault}"
        raise ProvenanceError(f"{fault}; give the file that they released.")
    return {"query_tokens": torch.cat([prompts[i] for i in sorted(prompts)]), **ours}


def to_published(ours: Mapping[str, Tensor], prefix: str = PREFIX) -> dict[str, Tensor]:
    """A connector's tensors under the published names, the reverse of `from_published`."""
    back = {own: theirs for theirs, own in LAYER_NAMES.items()}
    published: dict[str, Tensor] = {}
    for name, tensor in ours.items():
        if name == "query_tokens":
            for layer, tokens in enumerate(tensor.split(1)):
                published[f"{prefix}layer_prompts.{layer}"] = tokens.clone()
        else:
            new = _rename(name, "blocks.", "qformer.layer.", back) or name
            published[prefix + new] = tensor
    return published


def _rename(name: str, layer: str, new_layer: str, names: Mapping[str, str]) -> str | None:
    """The other name of a tensor in a Q-Former layer; None if it is none."""
    number, _, rest = name.removeprefix(layer).partition(".")
    for old, new in names.items():
        if name.startswith(layer) and rest.startswith(old):
            return f"{new_layer}{number}.{new}{rest.removeprefix(old)}"
    return None


def load_adapter(connector: nn.Module, path: Path | str) -> None:
    """Read a published adapter into a connector of its form, strictly.

    Raises:
        ProvenanceError: the file is no safetensors, no such adapter, or of other sizes.
    """
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ProvenanceError(
            f"{path}: no whole safetensors file ({error}). A .pth or .bin is pickled and is never "
            "read: open it where you trust it, and save its tensors with safetensors."
        ) from error
    try:
        connector.load_state_dict(from_published(tensors), strict=True)
    except RuntimeError as error:
        fault = f"an adapter of other sizes ({str(error).splitlines()[-1].strip()})"
        raise ProvenanceError(f"{path}: {fault}; build the connector of its config.") from error


def save_adapter(connector: nn.Module, path: Path | str, prefix: str = PREFIX) -> None:
    """Write a connector of the published form so that the published code opens it.

    Raises:
        ProvenanceError: the connector differs from the published form; the message says in what.
    """
    if not isinstance(connector, QFormer):
        fault = f"A {type(connector).__name__} is no Q-Former"
        raise ProvenanceError(f"{fault}; only the published form can be exported.")
    narrow = any(not isinstance(part, nn.Identity) for part in connector.inputs)
    differences = {
        "a narrower Q-Former (width)": narrow,
        "pre-norm": not all(block.post_norm for block in connector.blocks),
        "an anchor": connector.anchor is not None,
        "pooled frames": connector.pool != 1,
        "a scaled output": connector.scale != 1.0,
    }
    if found := [name for name, present in differences.items() if present]:
        raise ProvenanceError(
            f"This connector has {', '.join(found)}, which the published code does not know; train "
            "one of the published form (`presets.desta25().connector`)."
        )
    cache.save_tensors(Path(path), to_published(connector.state_dict(), prefix))
