"""The published systems, exactly: their adapter files to our connector and back, and our numbers beside theirs.

Names and layout are those of DeSTA2.5-Audio (`perception.connector.*`, modeling_desta25.py) and of DeSTA2, whose
adapter has the same parts under no prefix or `speech_perception.connector.` (modeling_desta.py).
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from desta_lab.model import chat
from desta_lab.model.audio_llm import PartsError
from desta_lab.model.connector import QFormer
from desta_lab.model.encoder import Encoder

PREFIX = "perception.connector."  # of DeSTA2.5-Audio's released file
PREFIXES = (PREFIX, "speech_perception.connector.", "")  # of DeSTA2.5-Audio, DeSTA2, and DeSTA2's connector alone
LIMITS = {torch.float32: 1e-5, torch.float64: 1e-10}  # largest difference that counts as the same

# a part of the published Q-Former layer → ours
_PARTS = {
    "attention.self.": "self_attention.",
    "attention.output.dense.": "self_attention.out.",
    "attention.output.LayerNorm.": "norms.0.",
    "crossattention.self.": "cross_attention.",
    "crossattention.output.dense.": "cross_attention.out.",
    "crossattention.output.LayerNorm.": "norms.1.",
    "intermediate.dense.": "mlp.0.",
    "output.dense.": "mlp.2.",
    "output.LayerNorm.": "norms.2.",
}


def to_ours(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """A published adapter's tensors under this package's names; the prompts of all layers become one tensor.

    Raises:
        PartsError: a tensor that no published adapter has; the message names it.
    """
    prefix = next(p for p in PREFIXES if any(name.startswith(p) for name in published))
    plain = {name.removeprefix(prefix): tensor for name, tensor in published.items() if name.startswith(prefix)}
    stray = sorted(set(published) - {prefix + name for name in plain})
    prompts = {int(n.split(".")[1]): t for n, t in plain.items() if n.startswith("layer_prompts.")}
    renamed = {"query_tokens": torch.cat([prompts[i] for i in sorted(prompts)])} if prompts else {}
    for name, tensor in plain.items():
        if name.startswith("layer_prompts."):
            continue
        if name == "layer_weights" or name.startswith("proj."):
            renamed[name] = tensor
            continue
        number, part = _layer(name, "qformer.layer.", _PARTS)
        if part is None:
            stray.append(name)
        else:
            renamed[f"blocks.{number}.{part}"] = tensor
    if stray or not prompts:
        fault = f"{stray[0]} is no tensor of theirs" if stray else "it has no layer_prompts"
        raise PartsError(f"This is no adapter of DeSTA2 or DeSTA2.5-Audio: {fault}; give the file that they released.")
    return renamed


def to_published(ours: dict[str, Tensor], prefix: str = PREFIX) -> dict[str, Tensor]:
    """The tensors of a connector of the published form under the published names; `to_ours` takes them back."""
    back = {own: theirs for theirs, own in _PARTS.items()}
    named: dict[str, Tensor] = {}
    for name, tensor in ours.items():
        if name == "query_tokens":
            named |= {f"{prefix}layer_prompts.{i}": one.clone() for i, one in enumerate(tensor.split(1))}
            continue
        number, part = _layer(name, "blocks.", back)
        named[f"{prefix}qformer.layer.{number}.{part}" if part else prefix + name] = tensor
    return named


def _layer(name: str, start: str, parts: dict[str, str]) -> tuple[str, str | None]:
    """The layer's number, and the rest of a tensor's name under its other name; None where it is no layer's."""
    if not name.startswith(start):
        return "", None
    number, rest = name.removeprefix(start).split(".", 1)
    longest = sorted((old for old in parts if rest.startswith(old)), key=len, reverse=True)
    return number, parts[longest[0]] + rest.removeprefix(longest[0]) if longest else None


def load_adapter(connector: QFormer, path: Path | str) -> None:
    """Read a published adapter into a connector of its form, strictly.

    Raises:
        PartsError: the file is no safetensors, no such adapter, or of other sizes; the message says which.
    """
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise PartsError(
            f"{path}: no whole safetensors file ({error}). A .pth or .bin is pickled and is never read: open it where "
            "you trust it, and save its tensors with safetensors."
        ) from error
    try:
        connector.load_state_dict(to_ours(tensors), strict=True)
    except RuntimeError as error:
        fault = str(error).splitlines()[-1].strip()
        raise PartsError(f"{path}: an adapter of other sizes ({fault}); build the connector of its config.") from error


def save_adapter(connector: nn.Module, path: Path | str, prefix: str = PREFIX) -> None:
    """Write a connector of the published form under the published names, so that the published code opens it.

    Raises:
        PartsError: the connector differs from the published form; the message says in what.
    """
    if not isinstance(connector, QFormer):
        raise PartsError(f"A {type(connector).__name__} is no Q-Former; only the published form can be exported.")
    differs = {
        "a narrower Q-Former (width)": any(not isinstance(part, nn.Identity) for part in connector.inputs),
        "pre-norm": not all(block.post_norm for block in connector.blocks),
        "an anchor": connector.anchor is not None,
        "pooled frames": connector.pool != 1,
        "a scaled output": connector.scale != 1.0,
    }
    if found := [name for name, true in differs.items() if true]:
        raise PartsError(
            f"This connector has {', '.join(found)}, which the published code does not know; train one of the "
            "published form (`presets.desta25().connector`)."
        )
    tensors = to_published({name: t.detach().cpu().contiguous() for name, t in connector.state_dict().items()}, prefix)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


# ---- our numbers beside theirs ----


@dataclass(frozen=True)
class Case:
    """A published model and one run of it: folder layout as in `tests/data/desta25_tiny`."""

    folder: Path
    about: dict[str, Any]
    tensors: dict[str, Tensor]

    @classmethod
    def read(cls, folder: Path | str) -> "Case":
        """Raises PartsError with the first file that is missing."""
        folder = Path(folder)
        needed = ("desta25.json", "case.safetensors", "connector.safetensors", "llm.safetensors",
                  "whisper_encoder.safetensors", "llm/config.json", "whisper/config.json")  # fmt: skip
        if missing := [name for name in needed if not (folder / name).exists()]:
            raise PartsError(f"{folder}: no {missing[0]} here; a parity case has {', '.join(needed)}.")
        about = json.loads((folder / "desta25.json").read_text(encoding="utf-8"))
        return cls(folder, about, load_file(folder / "case.safetensors"))

    def parts(self, attention: str, dtype: torch.dtype) -> tuple[Encoder, QFormer, Any]:
        """Encoder, connector and backbone model with the published weights."""
        from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

        ears = AutoConfig.from_pretrained(self.folder / "whisper")
        whisper = AutoModel.from_config(ears, attn_implementation=attention)
        whisper.encoder.load_state_dict(load_file(self.folder / "whisper_encoder.safetensors"))
        seconds = self.tensors["mel"].shape[-1] / 100  # mel frames of 10 ms
        encoder = Encoder(whisper.encoder, self.about["tapped_layers"], seconds)
        config = AutoConfig.from_pretrained(self.folder / "llm")
        backbone = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
        backbone.load_state_dict(load_file(self.folder / "llm.safetensors"))
        connector = QFormer(
            taps=len(encoder.taps), d_enc=encoder.width, d_llm=config.hidden_size, queries=self.about["prompt_size"],
            depth=self.about["qformer_num_hidden_layers"], heads=ears.encoder_attention_heads,
        )  # fmt: skip
        load_adapter(connector, self.folder / "connector.safetensors")
        return encoder.to(dtype), connector.eval().to(dtype), backbone.eval().to(dtype)

    def embeddings(self, spoken: Tensor, embed: nn.Module) -> Tensor:
        """Token embeddings of the case with audio embeddings in their slots, and the transcript's after them."""
        ids, queries = self.tensors["input_ids"].clone(), spoken.shape[1]
        words = self.tensors["transcription_ids"].split(self.tensors["transcription_lengths"].tolist())
        for row, (start, own) in enumerate(zip(self.tensors["start_positions"].tolist(), words, strict=True)):
            ids[row, start : start + queries] = chat.SLOT
            ids[row, start + queries : start + queries + len(own)] = own
        slots = ids == chat.SLOT
        return embed(ids.clamp(min=0)).masked_scatter(slots[..., None], spoken)


@torch.no_grad()
def computed(case: Case, attention: str = "eager", dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """What our code makes of a case: audio embeddings, logits and loss, as the published code returned them."""
    with _exact_softmax(dtype):
        encoder, connector, backbone = case.parts(attention, dtype)
        spoken = connector(encoder(case.tensors["mel"].to(dtype)))
        embeddings = case.embeddings(spoken, backbone.get_input_embeddings())
        logits = backbone(inputs_embeds=embeddings, attention_mask=case.tensors["attention_mask"]).logits
    loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), case.tensors["labels"][:, 1:].flatten())
    real = case.tensors["attention_mask"].bool()
    return {"audio_embeddings": spoken, "logits": logits[real], "loss": loss[None]}


def parity(folder: Path | str) -> pd.DataFrame:
    """Largest difference to the published numbers, per quantity, attention and precision, with its limit.

    In float32 the reference is what the published code computed. float64 has none, so there the two attentions of
    the backbone are compared with each other.
    """
    case = Case.read(folder)
    real = case.tensors["attention_mask"].bool()
    theirs = {**case.tensors, "logits": case.tensors["logits"][real]}
    rows = []
    for dtype in LIMITS:
        ours = {attention: computed(case, attention, dtype) for attention in ("eager", "sdpa")}
        for attention, values in ours.items():
            other = theirs if dtype is torch.float32 else ours["eager"]
            for name, value in values.items():
                rows.append({
                    "quantity": name, "attention": attention, "precision": str(dtype).removeprefix("torch."),
                    "reference": "published code" if dtype is torch.float32 else "eager, recomputed",
                    "difference": float((value - other[name]).abs().max()), "limit": LIMITS[dtype],
                })  # fmt: skip
    return pd.DataFrame(rows)


@contextmanager
def _exact_softmax(dtype: torch.dtype) -> Iterator[None]:
    """Undo, in float64, that eager attention takes its softmax in float32 whatever the model is in."""
    softmax = nn.functional.softmax
    if dtype is torch.float64:
        nn.functional.softmax = lambda scores, dim, **how: scores.softmax(dim)
    try:
        yield
    finally:
        nn.functional.softmax = softmax
