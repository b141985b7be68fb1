"""Our numbers beside those of the published code, on the same weights and inputs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Int
from safetensors.torch import load_file
from torch import Tensor, nn

from desta_lab.audio import MEL_FRAMES_PER_SECOND
from desta_lab.model import chat, weights
from desta_lab.model.audio_llm import AudioLLM, ProvenanceError
from desta_lab.model.backbone import Backbone
from desta_lab.model.connector import QFormer
from desta_lab.model.encoder import Encoder
from desta_lab.published.adapters import load_adapter

NEEDED = {"tapped_layers": list, "prompt_size": int, "qformer_num_hidden_layers": int}
LIMITS = {torch.float32: 1e-5, torch.float64: 1e-10}  # largest difference that counts as the same
LLAMA_LAYOUT = (
    "{% for turn in messages %}<|start_header_id|>{{ turn['role'] }}<|end_header_id|>\n\n"
    "{{ turn['content'] }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}"
    "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
FILES = (
    "desta25.json",
    "case.safetensors",
    "connector.safetensors",
    "llm.safetensors",
    "whisper_encoder.safetensors",
    "llm/config.json",
    "whisper/config.json",
)


@dataclass(frozen=True)
class ParityCase:
    """A published model and one run of it, in a folder like `tests/data/desta25_tiny`."""

    folder: Path
    config: dict[str, Any]
    tensors: dict[str, Tensor]

    @classmethod
    def read(cls, folder: Path | str) -> "ParityCase":
        """Read a case. Raises ProvenanceError where a file is missing, WeightsError if damaged."""
        folder = Path(folder)
        if missing := [name for name in FILES if not (folder / name).exists()]:
            wanted = f"a parity case has {', '.join(FILES)}"
            raise ProvenanceError(f"{folder}: no {missing[0]} here; {wanted}.")
        config = weights.read_object(folder / "desta25.json", NEEDED)
        with weights.reading(folder):
            return cls(folder, config, load_file(folder / "case.safetensors"))

    def build_system(self, attention: str, dtype: torch.dtype) -> AudioLLM:
        """The published weights in our encoder, connector and backbone, with bytes as tokens."""
        from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

        whisper_config = AutoConfig.from_pretrained(self.folder / "whisper")
        whisper = AutoModel.from_config(whisper_config, attn_implementation=attention)
        whisper.encoder.load_state_dict(load_file(self.folder / "whisper_encoder.safetensors"))
        seconds = self.tensors["mel"].shape[-1] / MEL_FRAMES_PER_SECOND
        encoder = Encoder(whisper.encoder, self.config["tapped_layers"], seconds)
        config = AutoConfig.from_pretrained(self.folder / "llm")
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
        model.load_state_dict(load_file(self.folder / "llm.safetensors"))
        backbone = Backbone(model, byte_tokenizer())  # a case brings token ids, and no tokenizer
        connector = QFormer(
            taps=len(encoder.taps),
            d_enc=encoder.width,
            d_llm=config.hidden_size,
            queries=self.config["prompt_size"],
            depth=self.config["qformer_num_hidden_layers"],
            heads=whisper_config.encoder_attention_heads,
        )
        load_adapter(connector, self.folder / "connector.safetensors")
        return AudioLLM(encoder, connector, backbone).eval().to(dtype)

    def ids(self, queries: int) -> Int[Tensor, "batch token"]:
        """The case's token ids, with audio slots and the transcript's tokens after them."""
        ids = self.tensors["input_ids"].clone()
        lengths = self.tensors["transcription_lengths"].tolist()
        words = self.tensors["transcription_ids"].split(lengths)
        starts = self.tensors["start_positions"].tolist()
        for row, (start, own) in enumerate(zip(starts, words, strict=True)):
            ids[row, start : start + queries] = chat.SLOT
            ids[row, start + queries : start + queries + len(own)] = own
        return ids


def byte_tokenizer() -> Any:
    """A tokenizer of 259 tokens, three special ones and the bytes, with Llama 3's chat layout.

    With it a case can be asked questions; the words mean nothing to it.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>"]
    tokens = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    by_bytes = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, []))
    by_bytes.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    by_bytes.decoder = decoders.ByteLevel()
    names = dict(zip(("pad_token", "bos_token", "eos_token"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=by_bytes, chat_template=LLAMA_LAYOUT, **names)


@torch.no_grad()
def compute_case(
    case: ParityCase, attention: str = "eager", dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Our audio embeddings, logits and loss of a case, in the published shapes."""
    mask, labels = case.tensors["attention_mask"], case.tensors["labels"]
    with _exact_softmax(dtype):
        llm = case.build_system(attention, dtype)
        audio_embeddings = llm.connect(llm.encoder(case.tensors["mel"]))
        embeddings = llm.splice(case.ids(llm.queries), audio_embeddings)
        hidden = llm.backbone.hidden_states(embeddings, attention_mask=mask)
        logits = llm.backbone.logits(hidden)
    loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    return {"audio_embeddings": audio_embeddings, "logits": logits[mask.bool()], "loss": loss[None]}


def compare(folder: Path | str) -> pd.DataFrame:
    """Largest difference to the published numbers, per quantity, attention and precision.

    In float32 the reference is what the published code computed. In float64 there is none, so the
    two attention implementations are compared with each other.
    """
    case = ParityCase.read(folder)
    real = case.tensors["attention_mask"].bool()
    published = {**case.tensors, "logits": case.tensors["logits"][real]}
    rows = []
    for dtype, limit in LIMITS.items():
        with weights.reading(case.folder):
            ours = {name: compute_case(case, name, dtype) for name in ("eager", "sdpa")}
        single = dtype is torch.float32
        reference = published if single else ours["eager"]
        for attention, values in ours.items():
            rows += [
                {
                    "quantity": name,
                    "attention": attention,
                    "precision": str(dtype).removeprefix("torch."),
                    "reference": "published code" if single else "eager, recomputed",
                    "difference": float((value - reference[name]).abs().max()),
                    "limit": limit,
                }
                for name, value in values.items()
            ]
    return pd.DataFrame(rows)


@contextmanager
def _exact_softmax(dtype: torch.dtype) -> Iterator[None]:
    """Undo, in float64, that eager attention takes its softmax in float32 in any precision."""
    softmax = nn.functional.softmax
    if dtype is torch.float64:
        nn.functional.softmax = lambda scores, dim, **options: scores.softmax(dim)
    try:
        yield
    finally:
        nn.functional.softmax = softmax
