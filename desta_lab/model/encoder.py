"""The frozen Whisper encoder: log-mel in, the outputs of its tapped layers out."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from desta_lab.audio import FRAMES_PER_SECOND, WHISPER_SECONDS, log_mel
from desta_lab.model import weights
from desta_lab.model.sites import record_outputs

MULTILINGUAL = 51_865  # tokens of a multilingual Whisper; an English one has 51 864
TRANSCRIPT_TOKENS = 128  # of 30 s at most, as DeSTA2.5-Audio writes them (modeling_desta25.py)
LANGUAGE = re.compile(r"<\|[a-z]{2,3}\|>")  # a language's token, such as <|en|>

# Tapped layers of DeSTA2.5-Audio, 0-based, by the number of encoder layers (modeling_desta25.py).
PUBLISHED_TAPS = {
    4: (0, 1, 2, 3),
    6: (1, 3, 5),
    12: (2, 5, 8, 11),
    24: (5, 11, 17, 23),
    32: (7, 15, 23, 31),
}


class Encoder(nn.Module):
    """A frozen Whisper encoder for clips of `seconds`, which returns its tapped layers' outputs.

        waveform ─► log-mel ─► layer 0 ─► layer 1 ─► … ─► layer n
                                  └──── tapped ────┴─► (layer, batch, frame, d_enc)

    A tapped layer is read before Whisper's final LayerNorm, as in DeSTA2.5-Audio. The position
    table keeps its first rows only, so that 4 s cost an eighth of 30 s. The given module is frozen
    and cropped in place.

    Raises:
        ValueError: a tapped layer does not exist, or the clips are longer than the encoder knows.
    """

    def __init__(self, whisper: Any, taps: Sequence[int], seconds: float = WHISPER_SECONDS) -> None:
        super().__init__()
        check_taps(taps, len(whisper.layers))
        self.whisper = whisper.eval().requires_grad_(False)
        self.taps, self.seconds = tuple(taps), seconds
        self.frames = round(seconds * FRAMES_PER_SECOND)
        self.mel_bins = int(whisper.config.num_mel_bins)
        self.width = int(whisper.config.d_model)
        positions = whisper.embed_positions.weight.data
        if not 0 < self.frames <= len(positions):
            raise ValueError(
                f"{seconds} s are {self.frames} frames and this encoder knows {len(positions)}, "
                f"that is {len(positions) / FRAMES_PER_SECOND:g} s; crop the clips to less."
            )
        whisper.embed_positions = nn.Embedding.from_pretrained(positions[: self.frames].clone())
        whisper.config.max_source_positions = self.frames  # the layers share this config

    @classmethod
    def load(
        cls,
        folder: Path | str,
        seconds: float = WHISPER_SECONDS,
        taps: Sequence[int] | None = None,
        **options: Any,
    ) -> "Encoder":
        """The encoder of a Whisper folder, by default with the published taps of its size.

        `options` go to `from_pretrained` (dtype, …).

        Raises:
            ValueError: there are no published taps for this size.
            WeightsError: the folder holds no whole encoder.
        """
        from transformers import WhisperConfig, WhisperModel

        with weights.reading(folder):
            layers = WhisperConfig.from_pretrained(folder).encoder_layers
        if taps is None and layers not in PUBLISHED_TAPS:
            fault = f"{folder}: no published taps for {layers} encoder layers"
            raise ValueError(f"{fault}; pass taps=(…), numbers from 0.")
        taps = PUBLISHED_TAPS[layers] if taps is None else taps
        model = weights.load_whole(WhisperModel, folder, needed="encoder.", **options)
        return cls(model.encoder, taps, seconds)

    @torch.no_grad()
    def forward(
        self, mel: Float[Tensor, "batch mel mel_frame"], layers: Sequence[int] | None = None
    ) -> Float[Tensor, "layer batch frame d_enc"]:
        """Encoder states of the tapped layers, or of other layers.

        Two mel frames make one encoder frame (20 ms).
        """
        layers = self.taps if layers is None else layers
        with record_outputs({layer: self.whisper.layers[layer] for layer in layers}) as outputs:
            self.whisper(mel.to(next(self.whisper.parameters()).dtype))
        return torch.stack([outputs[layer][0] for layer in layers])

    def encode(
        self, waves: Sequence[Float[np.ndarray, "_"]], layers: Sequence[int] | None = None
    ) -> Float[Tensor, "layer batch frame d_enc"]:
        """Encoder states of waveforms at 16 kHz, which are cropped or padded to `seconds`."""
        device = next(self.whisper.parameters()).device
        return self(log_mel(waves, self.seconds, self.mel_bins).to(device), layers)

    @property
    def published_taps(self) -> tuple[int, ...]:
        """The published taps of this size if ours are among them, else ours."""
        published = PUBLISHED_TAPS.get(len(self.whisper.layers), ())
        return published if set(self.taps) <= set(published) else self.taps


def check_taps(taps: Sequence[int], layers: int) -> None:
    """Raise ValueError for tapped layers that the encoder does not have."""
    if not taps or not all(0 <= tap < layers for tap in taps):
        raise ValueError(f"The tapped layers {tuple(taps)} must lie in 0 … {layers - 1}.")


@torch.no_grad()
def transcribe(folder: Path | str, waves: Sequence[Float[np.ndarray, "_"]]) -> list[str]:
    """Transcripts by the whole Whisper of a folder, greedy, of 30 s windows, taken as English.

    One ends after `TRANSCRIPT_TOKENS`, whatever is said behind.
    """
    from transformers import WhisperForConditionalGeneration

    kind = WhisperForConditionalGeneration
    model = weights.load_whole(kind, folder).eval()
    mel = log_mel(waves, WHISPER_SECONDS, int(model.config.num_mel_bins))
    tokenizer = weights.load_tokenizer(folder)
    task = {"language": "en", "task": "transcribe"} if _speaks_many(model, tokenizer) else {}
    ids = model.generate(
        mel,
        attention_mask=torch.ones(mel.shape[0], mel.shape[-1], dtype=torch.long),
        max_new_tokens=TRANSCRIPT_TOKENS,
        num_beams=1,
        do_sample=False,
        **task,
    )
    return [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]


def _speaks_many(model: Any, tokenizer: Any) -> bool:
    """Whether a Whisper is multilingual; settings older than that word are completed."""
    settings = model.generation_config
    if getattr(settings, "is_multilingual", None) is None:
        settings.is_multilingual = model.config.vocab_size >= MULTILINGUAL
    if settings.is_multilingual and getattr(settings, "lang_to_id", None) is None:
        known = {mark: i for mark, i in tokenizer.get_vocab().items() if mark.startswith("<|")}
        settings.lang_to_id = {mark: i for mark, i in known.items() if LANGUAGE.fullmatch(mark)}
        tasks = {task: f"<|{task}|>" for task in ("transcribe", "translate")}
        settings.task_to_id = {task: known[mark] for task, mark in tasks.items() if mark in known}
        settings.no_timestamps_token_id = known["<|notimestamps|>"]
    return bool(settings.is_multilingual)
