"""The frozen Whisper encoder: log-mel in, the outputs of its tapped layers out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from desta_lab.audio import FRAMES_PER_SECOND, WHISPER_SECONDS, log_mel

# tapped layers of DeSTA2.5-Audio, 0-based, by the number of encoder layers (FACTS: modeling_desta25.py)
PUBLISHED_TAPS = {
    4: (0, 1, 2, 3),
    6: (1, 3, 5),
    12: (2, 5, 8, 11),
    24: (5, 11, 17, 23),
    32: (7, 15, 23, 31),
}


class Encoder(nn.Module):
    """A frozen Whisper encoder, cropped to clips of `seconds`, that returns what its tapped layers put out.

    A tapped layer is read before Whisper's final LayerNorm, as in DeSTA2.5-Audio. Cropping keeps the first rows of
    the position table, so 4 s cost an eighth of the usual 30 s. The module handed in is taken over: frozen, cropped.
    """

    def __init__(self, whisper: Any, taps: Sequence[int], seconds: float = WHISPER_SECONDS) -> None:
        super().__init__()
        layers = len(whisper.layers)
        if not taps or not all(0 <= tap < layers for tap in taps):
            raise ValueError(
                f"The tapped layers {tuple(taps)} must lie in 0 … {layers - 1}, the encoder's layers."
            )
        frames = round(seconds * FRAMES_PER_SECOND)
        positions = whisper.embed_positions
        if not 0 < frames <= positions.num_embeddings:
            raise ValueError(
                f"{seconds} s are {frames} frames and this encoder knows {positions.num_embeddings}, that is "
                f"{positions.num_embeddings / FRAMES_PER_SECOND:g} s; crop the clips to less."
            )
        whisper.embed_positions = nn.Embedding.from_pretrained(
            positions.weight.data[:frames].clone()
        )
        whisper.config.max_source_positions = frames  # in place: the layers share this config
        self.whisper = whisper.eval().requires_grad_(False)
        self.taps, self.seconds, self.frames = tuple(taps), seconds, frames
        self.mel_bins, self.width = int(whisper.config.num_mel_bins), int(whisper.config.d_model)

    @classmethod
    def load(
        cls,
        folder: Path | str,
        seconds: float = WHISPER_SECONDS,
        taps: Sequence[int] | None = None,
        **how: Any,
    ) -> "Encoder":
        """The encoder half of a Whisper folder, by default with the published taps of its size (`TAPS`).

        `how` goes to `from_pretrained` (dtype, …). Raises ValueError for a size without published taps.
        """
        from transformers import WhisperModel

        model = WhisperModel.from_pretrained(folder, **{"dtype": torch.float32, **how})
        layers = len(model.encoder.layers)
        if taps is None and layers not in PUBLISHED_TAPS:
            raise ValueError(
                f"{folder}: no published taps for {layers} encoder layers; pass taps=(…), numbers from 0."
            )
        return cls(model.encoder, PUBLISHED_TAPS[layers] if taps is None else taps, seconds)

    @torch.no_grad()
    def forward(
        self, mel: Float[Tensor, "batch mel mel_frame"], taps: Sequence[int] | None = None
    ) -> Float[Tensor, "layer batch frame d_enc"]:
        """Encoder states of the tapped layers, or of others; two mel frames (20 ms) make one encoder frame."""
        taps = self.taps if taps is None else taps
        kept: dict[int, Tensor] = {}

        def keep(tap: int) -> Any:
            return lambda module, args, out: kept.__setitem__(
                tap, out[0] if isinstance(out, tuple) else out
            )

        hooks = [self.whisper.layers[tap].register_forward_hook(keep(tap)) for tap in taps]
        try:
            self.whisper(mel.to(next(self.whisper.parameters()).dtype))
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack([kept[tap] for tap in taps])

    def encode(
        self, waves: Sequence[Float[np.ndarray, "_"]], taps: Sequence[int] | None = None
    ) -> Float[Tensor, "layer batch frame d_enc"]:
        """Waveforms at 16 kHz, cropped or padded to `seconds`, through mel and encoder."""
        device = next(self.whisper.parameters()).device
        return self(log_mel(waves, self.seconds, self.mel_bins).to(device), taps)

    @property
    def published_taps(self) -> tuple[int, ...]:
        """The published taps of an encoder of this size, where they hold ours; else ours."""
        every = PUBLISHED_TAPS.get(len(self.whisper.layers), ())
        return every if set(self.taps) <= set(every) else self.taps


@torch.no_grad()
def transcribe(
    folder: Path | str,
    waves: Sequence[Float[np.ndarray, "_"]],
    max_new_tokens: int = 64,
    language: str = "en",
) -> list[str]:
    """What the whole Whisper of this folder, decoder included, writes down: greedy, 30 s windows.

    `language` is told to a multilingual Whisper; one that knows a single language needs no telling.
    """
    from transformers import AutoTokenizer, WhisperForConditionalGeneration

    model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    mel = log_mel(waves, WHISPER_SECONDS, int(model.config.num_mel_bins))
    told = (
        {"language": language, "task": "transcribe"}
        if model.generation_config.is_multilingual
        else {}
    )
    mask = torch.ones(mel.shape[0], mel.shape[-1], dtype=torch.long)
    ids = model.generate(
        mel,
        attention_mask=mask,
        max_new_tokens=max_new_tokens,
        num_beams=1,
        do_sample=False,
        **told,
    )
    texts: list[str] = AutoTokenizer.from_pretrained(folder).batch_decode(
        ids, skip_special_tokens=True
    )
    return [text.strip() for text in texts]
