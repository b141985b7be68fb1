"""AudioLLM: encoder → connector → backbone, put together; generation, and connector files that refuse other parts."""

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from desta_lab import audio
from desta_lab.model import chat
from desta_lab.model.backbone import Backbone
from desta_lab.model.encoder import Encoder

UNFROZEN = "backbone."  # what of the backbone learns is named so in a connector file

# what a connector file and the parts around it must share; not ids, paths or precision: the same weights are the same
COMPARED = ("encoder_sha256", "backbone_sha256", "taps", "seconds", "connector", "tuning")


class ProvenanceError(ValueError):
    """A connector file and the parts around it do not belong together; the message says which."""


@dataclass(frozen=True)
class Generation:
    """What `generate` returns, one entry a conversation."""

    text: list[str]
    ids: list[tuple[int, ...]]
    audios: list[list[tuple[str, str]]]  # (file, transcript) of every clip


class AudioLLM(nn.Module):
    """A frozen encoder and a frozen backbone with a trained connector between them.

    Args:
        provenance: what the connector is tied to (`COMPARED`), and whatever more determines results. Precision and
            attention of the backbone are added to it. Neither ids nor paths: the same parts give the same provenance.
        names: the ids under which encoder and backbone were found; a connector file keeps them to find the parts again.
        transcribe: waveforms → words, used where a message asks for a transcript (`audios: [{"text": None}]` with
            `with_transcript=True`).
    """

    def __init__(
        self,
        encoder: Encoder,
        connector: nn.Module,
        backbone: Backbone,
        provenance: Mapping[str, Any] | None = None,
        *,
        names: Mapping[str, str] | None = None,
        transcribe: Callable[[Sequence[Any]], list[str]] | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.connector, self.backbone = encoder, connector, backbone
        self.names, self.transcribe = dict(names or {}), transcribe
        self.provenance: dict[str, Any] = {
            **(provenance or {}),
            "dtype": str(backbone.dtype).removeprefix("torch."),
            "attention": backbone.attention,
        }

    @property
    def queries(self) -> int:
        """Audio embeddings per clip."""
        return int(self.connector.queries)  # type: ignore[arg-type]

    def autocast(self) -> torch.autocast:
        """In this context the connector multiplies in bf16 where the frozen parts do; its weights stay float32."""
        half = self.backbone.dtype is torch.bfloat16
        return torch.autocast(self.backbone.device.type, torch.bfloat16, enabled=half)

    @torch.no_grad()
    def encode_audio(
        self, waves: Sequence[Float[np.ndarray, "_"]]
    ) -> Float[Tensor, "clip query d_llm"]:
        """Audio embeddings of waveforms at 16 kHz: through encoder and connector, without gradient."""
        self.connector.eval()
        return self.connect(self.encoder.encode(waves))

    def connect(
        self, states: Float[Tensor, "layer batch frame d_enc"]
    ) -> Float[Tensor, "batch query d_llm"]:
        """Audio embeddings of encoder states, in the precision of the connector's weights."""
        weight = next(self.connector.parameters())
        with self.autocast():
            spoken: Tensor = self.connector(states.to(weight))
        return spoken.to(weight.dtype)

    def splice(
        self, ids: Int[Tensor, "batch token"], spoken: Float[Tensor, "clip query d_llm"]
    ) -> Float[Tensor, "batch token d_llm"]:
        """Token embeddings with audio embeddings written into the slots, clip after clip, row after row."""
        embeddings = self.backbone.embed(ids)
        slots = (ids == chat.SLOT).to(embeddings.device)
        if int(slots.sum()) != spoken.shape[0] * spoken.shape[1]:
            raise chat.ChatError(
                f"The messages hold {int(slots.sum())} audio slots, but {spoken.shape[0]} clips of {spoken.shape[1]} "
                "audio embeddings were given; match them."
            )
        return embeddings.masked_scatter(slots[..., None], spoken.to(embeddings.dtype))

    def response_logits(
        self,
        prefix: Sequence[int],
        ids: Int[Tensor, "batch token"],
        at: Bool[Tensor, "batch token"],
        spoken: Float[Tensor, "clip query d_llm"],
    ) -> Float[Tensor, "position vocabulary"]:
        """Next-token logits (float32) at the positions marked by `at`, after a shared prefix."""
        return self.backbone.logits(
            self.backbone.hidden_states(self.splice(ids, spoken), prefix)[
                at.to(self.backbone.device)
            ]
        )

    @torch.no_grad()
    def generate(
        self,
        messages: Sequence[Any],
        *,
        max_new_tokens: int = 32,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_p: float = 1.0,
        with_transcript: bool = False,
    ) -> Generation:
        """Answers to conversations in the message format of the DeSTA models.

        `messages` is one conversation or a list of them; a user message may hold `<|AUDIO|>` placeholders and
        `audios: [{"audio": path, "text": None | transcript}]`. Without audio the call is the untouched backbone.

        Raises:
            ChatError: clips and placeholders do not match, or a conversation is longer than the backbone can read.
        """
        chats = (
            [list(messages)]
            if messages and isinstance(messages[0], dict)
            else [list(m) for m in messages]
        )
        clips = [[clip for message in c for clip in message.get("audios", ())] for c in chats]
        waves = [[audio.read_audio(clip["audio"]) for clip in some] for some in clips]
        words = [
            self._words(some, heard, with_transcript)
            for some, heard in zip(clips, waves, strict=True)
        ]
        room = (
            None
            if self.backbone.max_positions is None
            else self.backbone.max_positions - max_new_tokens
        )
        streams = [
            chat.build_stream(
                self.backbone.tokenizer, c, self.queries, transcripts=w, max_tokens=room
            )
            for c, w in zip(chats, words, strict=True)
        ]
        every = [wave for some in waves for wave in some]
        spoken = self.encode_audio(every) if every else None
        how = {"do_sample": True, "temperature": temperature, "top_p": top_p} if do_sample else {}
        ids = self.generate_ids(streams, spoken, max_new_tokens=max_new_tokens, **how)
        files = [[str(clip["audio"]) for clip in some] for some in clips]
        audios = [list(zip(f, w, strict=True)) for f, w in zip(files, words, strict=True)]
        return Generation([self.backbone.decode(row) for row in ids], ids, audios)

    @torch.no_grad()
    def generate_ids(
        self,
        streams: Sequence[chat.TokenStream],
        spoken: Float[Tensor, "clip query d_llm"] | None,
        **how: Any,
    ) -> list[tuple[int, ...]]:
        """Generated ids for streams whose slots are filled by `spoken`, clip after clip, all in one batch."""
        if spoken is None:
            if any(chat.SLOT in s.ids for s in streams):
                raise chat.ChatError(
                    f"The messages hold {chat.AUDIO} but no clips were given; match them."
                )
            with self.backbone.untuned():
                return self.backbone.generate_ids(streams, batch=len(streams), **how)
        ids, mask = self.backbone.pad_left(streams)
        embeddings = self.splice(ids, spoken).to(self.backbone.dtype)
        out = self.backbone.generate(inputs_embeds=embeddings, attention_mask=mask, **how)
        return [self.backbone.trim_at_end(row) for row in out.tolist()]

    def _words(
        self, clips: Sequence[dict[str, Any]], waves: Sequence[Any], with_transcript: bool
    ) -> list[str]:
        """The transcript of every clip: as given, written down by Whisper when asked for, or none."""
        given = [clip.get("text") for clip in clips]
        if not with_transcript or all(text is not None for text in given):
            return [text or "" for text in given]
        if self.transcribe is None:
            raise ProvenanceError(
                "A transcript was asked for, but this AudioLLM has no Whisper decoder; pass transcribe=…."
            )
        written = self.transcribe(waves)
        return [own if text is None else text for text, own in zip(given, written, strict=True)]

    @property
    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """All that learns, by its name in a connector file: the connector, and what of the backbone was thawed."""
        thawed = {f"{UNFROZEN}{name}": p for name, p in self.backbone.trainable_parameters.items()}
        return {
            name: p for name, p in self.connector.named_parameters() if p.requires_grad
        } | thawed

    def trainable_state(self) -> dict[str, Tensor]:
        """The tensors of a connector file: the connector's, and under `backbone.` what was thawed."""
        tensors = self.connector.state_dict() | {
            n: p for n, p in self.trainable_parameters.items() if n.startswith(UNFROZEN)
        }
        return {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}

    @torch.no_grad()
    def load_trainable_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take these tensors, named as in `trainable_state`; raises RuntimeError where names or shapes are others."""
        mine = {n: p for n, p in self.trainable_parameters.items() if n.startswith(UNFROZEN)}
        given = {name for name in tensors if name.startswith(UNFROZEN)}
        if given != set(mine):
            raise RuntimeError(
                f"tensors of the backbone that are in one and not the other: {sorted(given ^ set(mine))}"
            )
        self.connector.load_state_dict(
            {n: t for n, t in tensors.items() if n not in given}, strict=True
        )
        for name, parameter in mine.items():
            parameter.copy_(tensors[name])

    def save_connector(self, path: Path) -> str:
        """Write what learns, with the ids and hashes of the parts it was trained with; returns the file's sha256.

        That is the connector alone, unless the backbone was thawed.
        The same weights give the same file: its header has one entry, because safetensors writes several in any order.
        """
        part = path.with_suffix(".part")
        save_file(self.trainable_state(), part, metadata={"provenance": self._header()})
        part.replace(path)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def _header(self) -> str:
        """What a connector file says of the parts: their ids, and what is compared when it is loaded."""
        compared = {key: self.provenance[key] for key in COMPARED if key in self.provenance}
        return json.dumps({**self.names, **compared}, sort_keys=True)

    def load_connector(self, path: Path) -> None:
        """Read a connector file strictly; refuses a file of other parts, other shapes or other names.

        Raises:
            PartsError: with the first difference, and what to do.
        """
        try:
            with safe_open(path, "pt") as file:
                theirs = json.loads((file.metadata() or {}).get("provenance", "{}"))
        except Exception as error:
            raise ProvenanceError(
                f"{path}: no whole safetensors file ({error}); copy it again or train again."
            ) from error
        for key in COMPARED:
            mine = self.provenance.get(key)
            if theirs.get(key) != mine:
                raise ProvenanceError(
                    f"{path}: trained with {key} {theirs.get(key)}, but here {key} is {mine}; load the parts it names."
                )
        try:
            self.load_trainable_state(load_file(path))
        except RuntimeError as error:
            fault = str(error).splitlines()[-1].strip()
            raise ProvenanceError(
                f"{path}: another connector's tensors ({fault}); build the connector it was."
            ) from error


def hash_tensors(module: nn.Module, without: Collection[str] = ()) -> str:
    """One hash over every tensor of a module but those named: the freeze guard compares it before and after a run."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if name in without:
            continue
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()
