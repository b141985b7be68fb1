"""Our numbers beside those of the published code, on the same weights and inputs."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from desta_lab.model import chat
from desta_lab.model.audio_llm import PartsError
from desta_lab.model.connector import QFormer
from desta_lab.model.encoder import Encoder
from desta_lab.model.published import load_adapter

LIMITS = {torch.float32: 1e-5, torch.float64: 1e-10}  # largest difference that counts as the same


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


def compare(folder: Path | str) -> pd.DataFrame:
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
