"""Our numbers beside those of the published code, on the same weights and inputs."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import torch
from jaxtyping import Int
from safetensors.torch import load_file
from torch import Tensor, nn

from desta_lab.audio import MEL_FRAMES_PER_SECOND
from desta_lab.model import chat
from desta_lab.model.audio_llm import AudioLLM, ProvenanceError
from desta_lab.model.backbone import Backbone
from desta_lab.model.connector import QFormer
from desta_lab.model.encoder import Encoder
from desta_lab.published.desta import load_adapter

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
        needed = (
            "desta25.json",
            "case.safetensors",
            "connector.safetensors",
            "llm.safetensors",
            "whisper_encoder.safetensors",
            "llm/config.json",
            "whisper/config.json",
        )
        if missing := [name for name in needed if not (folder / name).exists()]:
            raise ProvenanceError(
                f"{folder}: no {missing[0]} here; a parity case has {', '.join(needed)}."
            )
        about = json.loads((folder / "desta25.json").read_text(encoding="utf-8"))
        return cls(folder, about, load_file(folder / "case.safetensors"))

    def system(self, attention: str, dtype: torch.dtype) -> AudioLLM:
        """The published weights in our encoder, connector and backbone."""
        from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

        ears = AutoConfig.from_pretrained(self.folder / "whisper")
        whisper = AutoModel.from_config(ears, attn_implementation=attention)
        whisper.encoder.load_state_dict(load_file(self.folder / "whisper_encoder.safetensors"))
        seconds = self.tensors["mel"].shape[-1] / MEL_FRAMES_PER_SECOND
        encoder = Encoder(whisper.encoder, self.about["tapped_layers"], seconds)
        config = AutoConfig.from_pretrained(self.folder / "llm")
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
        model.load_state_dict(load_file(self.folder / "llm.safetensors"))
        wordless = SimpleNamespace(
            chat_template="", eos_token_id=0
        )  # a case brings token ids, and no tokenizer
        connector = QFormer(
            taps=len(encoder.taps),
            d_enc=encoder.width,
            d_llm=config.hidden_size,
            queries=self.about["prompt_size"],
            depth=self.about["qformer_num_hidden_layers"],
            heads=ears.encoder_attention_heads,
        )
        load_adapter(connector, self.folder / "connector.safetensors")
        return AudioLLM(encoder, connector, Backbone(model, wordless), {}).eval().to(dtype)

    def ids(self, queries: int) -> Int[Tensor, "batch token"]:
        """Token ids of the case, with audio slots where it hears a clip and the transcript's tokens after them."""
        ids = self.tensors["input_ids"].clone()
        words = self.tensors["transcription_ids"].split(
            self.tensors["transcription_lengths"].tolist()
        )
        for row, (start, own) in enumerate(
            zip(self.tensors["start_positions"].tolist(), words, strict=True)
        ):
            ids[row, start : start + queries] = chat.SLOT
            ids[row, start + queries : start + queries + len(own)] = own
        return ids


@torch.no_grad()
def computed(
    case: Case, attention: str = "eager", dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """What our code makes of a case: audio embeddings, logits and loss, as the published code returned them."""
    mask, labels = case.tensors["attention_mask"], case.tensors["labels"]
    with _exact_softmax(dtype):
        llm = case.system(attention, dtype)
        spoken = llm.connect(llm.encoder(case.tensors["mel"]))
        embeddings = llm.splice(case.ids(llm.queries), spoken)
        logits = llm.backbone.logits(llm.backbone.hidden_states(embeddings, attention_mask=mask))
    loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    return {"audio_embeddings": spoken, "logits": logits[mask.bool()], "loss": loss[None]}


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
                rows.append(
                    {
                        "quantity": name,
                        "attention": attention,
                        "precision": str(dtype).removeprefix("torch."),
                        "reference": "published code"
                        if dtype is torch.float32
                        else "eager, recomputed",
                        "difference": float((value - other[name]).abs().max()),
                        "limit": LIMITS[dtype],
                    }
                )
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
