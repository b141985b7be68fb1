"""AudioLLM: encoder, connector and backbone put together; answers, and connector files."""

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
from safetensors.torch import load_file
from torch import Tensor, nn

from desta_lab import audio, cache
from desta_lab.model import chat
from desta_lab.model.backbone import Backbone
from desta_lab.model.bounds import hashed_fields
from desta_lab.model.connector import ConnectorShape, OwnConnector
from desta_lab.model.encoder import Encoder
from desta_lab.model.presets import LATER, is_nano
from desta_lab.model.sites import ForwardPass, list_sites, run_forward

TUNED = "backbone."  # prefix of the backbone's trained tensors in a connector file

# What a connector file and the parts around it must share, beside `presets.LATER`. Not names, paths
# or precision.
COMPARED = ("encoder_sha256", "backbone_sha256", "taps", "seconds", "connector", "tuning")


class ProvenanceError(ValueError):
    """A connector file and the parts around it do not belong together; the message says why."""


class ProvenanceWarning(UserWarning):
    """Parts of other weights than a connector was trained with are used all the same."""


@dataclass(frozen=True)
class Generation:
    """What `AudioLLM.generate` returns, one entry a conversation."""

    text: list[str]
    ids: list[tuple[int, ...]]
    audios: list[list[tuple[str, str]]]  # (file, transcript) of every clip


class AudioLLM(nn.Module):
    """A frozen encoder and a frozen backbone with a trained connector between them.

        waveforms ─► encoder ─► connector ─► audio embeddings ─┐
                                             token embeddings ─┴─► backbone ─► answer

    Args:
        provenance: what the parts are (`COMPARED`), and whatever else determines results. Precision
            and attention of the backbone are added. Neither names nor paths belong here, so that
            the same parts have the same provenance.
        names: the names of encoder and backbone, by which they can be found again.
        revisions: the commits of encoder and backbone on the model hub, where they are known.
        transcribe: waveforms → words, for messages that ask for a transcript.

    `result` is what the run of its connector was judged as, where that is known; `transcript` is
    whether it was trained with the words of a clip behind its audio embeddings.
    """

    def __init__(
        self,
        encoder: Encoder,
        connector: nn.Module,
        backbone: Backbone,
        provenance: Mapping[str, Any] | None = None,
        *,
        names: Mapping[str, str] | None = None,
        revisions: Mapping[str, str | None] | None = None,
        transcribe: Callable[[Sequence[Any]], list[str]] | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.connector, self.backbone = encoder, connector, backbone
        self.names, self.transcribe = dict(names or {}), transcribe
        self.revisions = dict(revisions or {})
        self.result: dict[str, Any] | None = None
        self.transcript = False
        self.provenance: dict[str, Any] = {
            **(provenance or {}),
            "dtype": str(backbone.dtype).removeprefix("torch."),
            "attention": backbone.attention,
        }

    @classmethod
    def from_run(
        cls,
        folder: Path | str,
        step: int | None = None,
        root: Path | None = None,
        connector: OwnConnector | None = None,
    ) -> "AudioLLM":
        """The AudioLLM of a training run, with the connector of one checkpoint.

        Args:
            folder: the run's folder, with its `checkpoints/`.
            step: the training step; by default the last one.
            root: the folder of models; `weights.models_dir()` by default.
            connector: what built it, where it is somebody's own.

        Raises:
            FileNotFoundError: there is no run.
            ProvenanceError: encoder or backbone is not here, there is no such checkpoint, or a file
                was changed.
        """
        from desta_lab.model.runs import open_run  # it builds what this module defines

        return open_run(Path(folder), step, root, connector)

    @classmethod
    def from_pretrained(
        cls,
        place: Path | str,
        revision: str | None = None,
        *,
        strict: bool = True,
        root: Path | None = None,
        connector: OwnConnector | None = None,
    ) -> "AudioLLM":
        """The AudioLLM that `save_pretrained` wrote to a folder, or `push_to_hub` to the hub.

        Args:
            place: a folder, or an id on the model hub such as `org/name`.
            revision: the commit on the hub.
            strict: refuse encoder and backbone whose weights are not those it was trained with;
                otherwise those of the same names are taken, with a warning.
            root: the folder of models; `weights.models_dir()` by default.
            connector: what built it, where it is somebody's own.

        Raises:
            WeightsError: the place cannot be had.
            ProvenanceError: encoder or backbone is not here, a file was changed, or an own
                connector is missing or another one.
        """
        from desta_lab.model.sharing import open_pretrained  # it needs what this module defines

        return open_pretrained(place, revision, strict=strict, root=root, connector=connector)

    def save_pretrained(
        self, folder: Path | str, card: Path | str | Mapping[str, Any] | None = None
    ) -> Path:
        """Write what is trained to a folder that `from_pretrained` opens on any machine.

        The folder has `model.safetensors`; `config.json`, which names encoder and backbone by repo,
        revision and hash; and `README.md`, a model card made of the result card.

        Args:
            card: the `card.json` of the main job, or its content; by default what the run that was
                opened was judged as.

        Raises:
            ProvenanceError: this AudioLLM does not know its parts, there is no such card, or it is
                that of another connector.
        """
        from desta_lab.model.sharing import save_pretrained

        return save_pretrained(self, folder, card)

    def push_to_hub(
        self,
        repo_id: str,
        card: Path | str | Mapping[str, Any] | None = None,
        *,
        private: bool = False,
    ) -> str:
        """Upload what `save_pretrained` writes to the model hub; returns the commit's address.

        Raises:
            WeightsError: the hub cannot be reached, or refuses.
        """
        from desta_lab.model.sharing import push_to_hub

        return push_to_hub(self, repo_id, card, private=private)

    # ---- from waveforms to logits ----

    @property
    def glass_box(self) -> bool:
        """Whether the backbone is a nano LLM, of any size, which knows only its own text world."""
        return is_nano(self.names.get("backbone", ""))

    @property
    def queries(self) -> int:
        """Audio embeddings per clip."""
        return int(self.connector.queries)  # type: ignore[arg-type]

    @torch.no_grad()
    def encode_audio(
        self, waves: Sequence[Float[np.ndarray, "_"]]
    ) -> Float[Tensor, "clip query d_llm"]:
        """Audio embeddings of waveforms at 16 kHz, through encoder and connector."""
        self.connector.eval()
        return self.connect(self.encoder.encode(waves))

    def connect(
        self, states: Float[Tensor, "layer batch frame d_enc"]
    ) -> Float[Tensor, "batch query d_llm"]:
        """Audio embeddings of encoder states, in the precision of the connector's weights.

        The connector multiplies in bf16 if the backbone does; its weights stay float32. States
        travel in the precision they have, and are not waited for where their memory is pinned.
        """
        weight, half = next(self.connector.parameters()), self.backbone.dtype is torch.bfloat16
        states = states.to(weight.device, non_blocking=states.is_pinned()).to(weight.dtype)
        with torch.autocast(self.backbone.device.type, torch.bfloat16, enabled=half):
            embeddings: Tensor = self.connector(states)
        return embeddings.to(weight.dtype)

    def splice(
        self, ids: Int[Tensor, "batch token"], audio_embeddings: Float[Tensor, "clip query d_llm"]
    ) -> Float[Tensor, "batch token d_llm"]:
        """Token embeddings whose audio slots are filled, clip after clip, row after row."""
        embeddings = self.backbone.embed(ids)
        slots = (ids == chat.SLOT).to(embeddings.device)
        clips, queries = audio_embeddings.shape[:2]
        if int(slots.sum()) != clips * queries:
            given = f"{clips} clips of {queries} audio embeddings were given"
            fault = f"The messages hold {int(slots.sum())} audio slots, but {given}"
            raise chat.ChatError(f"{fault}; match them.")
        return embeddings.masked_scatter(slots[..., None], audio_embeddings.to(embeddings))

    def response_logits(
        self,
        prefix: Sequence[int],
        ids: Int[Tensor, "batch token"],
        at: Bool[Tensor, "batch token"],
        audio_embeddings: Float[Tensor, "clip query d_llm"],
    ) -> Float[Tensor, "position vocabulary"]:
        """Next-token logits (float32) at the positions `at`, after a prefix that all rows share."""
        hidden = self.backbone.hidden_states(self.splice(ids, audio_embeddings), prefix)
        return self.backbone.logits(hidden[at.to(self.backbone.device)])

    # ---- answers ----

    def build_stream(
        self, messages: Sequence[chat.Message], new_tokens: int = 0, **how: Any
    ) -> chat.TokenStream:
        """The token stream of a conversation for these parts, with the options of `chat`'s own.

        With the tokens that are to follow it is at most as long as the backbone can read.
        """
        limit = self.backbone.max_positions
        how["max_tokens"] = None if limit is None else limit - new_tokens
        return chat.build_stream(self.backbone.tokenizer, messages, self.queries, **how)

    @torch.no_grad()
    def generate(
        self,
        messages: Sequence[Any],
        *,
        max_new_tokens: int = 32,
        with_transcript: bool = False,
        **options: Any,
    ) -> Generation:
        """Answers to conversations in the message format of the DeSTA models.

        Without audio this is the untouched backbone.

        Args:
            messages: one conversation or a list of them. The text of a user's message may hold
                `<|AUDIO|>`, once for each of its `audios: [{"audio": path, "text": None | words}]`.
            with_transcript: let Whisper transcribe the clips that have no words, and put the words
                after the clip's audio embeddings.
            options: for `generate` of transformers, such as do_sample, temperature and top_p.

        Raises:
            ChatError: a conversation is no list of messages or too long, or clips and placeholders
                do not match.
        """
        streams, waves, audios = [], [], []
        for talk in chat.list_conversations(messages):
            clips = [clip for message in talk for clip in message.get("audios") or ()]
            own = [audio.read_audio(clip["audio"]) for clip in clips]
            texts = self._transcripts(clips, own, with_transcript)
            streams.append(self.build_stream(talk, max_new_tokens, transcripts=texts))
            waves += own
            names = [str(clip["audio"]) for clip in clips]
            audios.append(list(zip(names, texts, strict=True)))
        embeddings = self.encode_audio(waves) if waves else None
        ids = self.generate_ids(streams, embeddings, max_new_tokens=max_new_tokens, **options)
        return Generation([self.backbone.decode(row) for row in ids], ids, audios)

    @torch.no_grad()
    def generate_ids(
        self,
        streams: Sequence[chat.TokenStream],
        audio_embeddings: Float[Tensor, "clip query d_llm"] | None,
        **options: Any,
    ) -> list[tuple[int, ...]]:
        """Ids of the answers to streams, as one batch, up to and with the end of turn.

        Where the backbone is tuned, streams without slots are a batch of their own.

        Args:
            audio_embeddings: what fills the streams' slots, clip after clip; None for streams
                without slots, which the backbone answers as it was before any tuning.
            options: for `generate` of transformers.
        """
        heard = [chat.SLOT in stream.ids for stream in streams]
        if audio_embeddings is None:
            if any(heard):
                raise chat.ChatError(f"There is {chat.AUDIO} but no clips were given; match them.")
            with self.backbone.untuned():
                return self.backbone.generate_ids(streams, batch=len(streams), **options)
        if self.backbone.trainable_parameters and 0 < sum(heard) < len(heard):
            text, spoken = (
                [stream for stream, has in zip(streams, heard, strict=True) if has is wanted]
                for wanted in (False, True)
            )
            untuned = iter(self.generate_ids(text, None, **options))
            tuned = iter(self.generate_ids(spoken, audio_embeddings, **options))
            return [next(tuned if has else untuned) for has in heard]
        ids, mask = self.backbone.pad_left(streams)
        embeddings = self.splice(ids, audio_embeddings).to(self.backbone.dtype)
        return self.backbone.answer(inputs_embeds=embeddings, attention_mask=mask, **options)

    def _transcripts(
        self, clips: Sequence[Mapping[str, Any]], waves: Sequence[Any], with_transcript: bool
    ) -> list[str]:
        """The transcript of every clip: as given, from Whisper if asked for, or empty."""
        given = [clip.get("text") for clip in clips]
        if not with_transcript or all(text is not None for text in given):
            return [text or "" for text in given]
        if self.transcribe is None:
            raise ProvenanceError("This AudioLLM has no Whisper decoder; pass transcribe=….")
        written = self.transcribe(waves)
        return [own if text is None else text for text, own in zip(given, written, strict=True)]

    # ---- look inside ----

    def sites(self) -> list[str]:
        """The names of all places whose values `run` can record or edit (`sites.list_sites`)."""
        return list(list_sites(self))

    def run(self, clips: Sequence[Any], question: str, **options: Any) -> ForwardPass:
        """Ask one question about clips (waveforms or files); what flows at sites is returned.

        The options, such as `sites` and `edits`, are those of `sites.run_forward`.
        """
        return run_forward(self, clips, question, **options)

    # ---- what is trained, and its files ----

    @property
    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """All parameters that learn: the connector's, and those of the backbone that are tuned."""
        own = {name: p for name, p in self.connector.named_parameters() if p.requires_grad}
        return own | self._tuned_parameters()

    def _tuned_parameters(self) -> dict[str, nn.Parameter]:
        return {f"{TUNED}{name}": p for name, p in self.backbone.trainable_parameters.items()}

    def trainable_state(self) -> dict[str, Tensor]:
        """The tensors of a connector file: the connector's, and the tuned ones of the backbone."""
        tensors = self.connector.state_dict() | self._tuned_parameters()
        return {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}

    @torch.no_grad()
    def load_trainable_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy in tensors that are named as in `trainable_state`.

        Raises:
            RuntimeError: other names or shapes.
        """
        tuned = self._tuned_parameters()
        given = {name for name in tensors if name.startswith(TUNED)}
        if given != set(tuned):
            raise RuntimeError(f"it tunes other tensors of the backbone: {given ^ set(tuned)}")
        self.connector.load_state_dict(
            {name: tensor for name, tensor in tensors.items() if name not in given}, strict=True
        )
        for name, parameter in tuned.items():
            parameter.copy_(tensors[name])

    def save_connector(self, path: Path) -> str:
        """Write what is trained, and the hashes of the parts around it; returns the file's sha256.

        The same weights give the same file on every machine. For that the header has one entry,
        because safetensors writes several in any order.
        """
        shared = (*COMPARED, *LATER)
        compared = {key: self.provenance[key] for key in shared if key in self.provenance}
        header = {"provenance": json.dumps({**self.names, **compared}, sort_keys=True)}
        cache.save_tensors(path, self.trainable_state(), **header)
        return cache.hash_file(path)

    def load_connector(self, path: Path, *, strict: bool = True) -> None:
        """Read a connector file strictly; without `strict`, the weights around it may be others.

        Raises:
            ProvenanceError: it was trained with other parts, or has other tensors.
        """
        theirs = read_connector_provenance(path)
        for key in (*COMPARED, *LATER):
            its, ours = (one.get(key, LATER.get(key)) for one in (theirs, self.provenance))
            if its != ours and (strict or "sha256" not in key):
                fault = f"{path}: trained with {key} {its}, but here {key} is {ours}"
                raise ProvenanceError(f"{fault}; load the parts it was trained with.")
        tensors, own = load_file(path), self.connector.state_dict()
        for name, tensor in tensors.items():
            learns = name not in own or own[name].is_floating_point()  # or a buffer of an own one
            if learns and not tensor.is_floating_point():
                fault = f"{name} holds {tensor.dtype}, which no connector learns"
                raise ProvenanceError(f"{path}: {fault}; copy it again or train again.")
            if not tensor.isfinite().all():
                remedy = "take an earlier checkpoint, or train again with a lower learning rate"
                raise ProvenanceError(f"{path}: {name} holds NaN or infinity; {remedy}.")
        try:
            self.load_trainable_state(tensors)
        except RuntimeError as error:
            fault = f"another connector's tensors ({str(error).splitlines()[-1].strip()})"
            raise ProvenanceError(f"{path}: {fault}; build the connector it was.") from error


def read_connector_provenance(path: Path) -> dict[str, Any]:
    """What a connector file says of the parts it was trained with: their names, and `COMPARED`.

    A field of the connector's shape that is younger than the file has its default.

    Raises:
        ProvenanceError: it is no whole safetensors file.
    """
    try:
        with safe_open(path, "pt") as file:
            about: Any = json.loads((file.metadata() or {}).get("provenance", "{}"))
        if not isinstance(about, dict):
            raise TypeError(f"its provenance is {type(about).__name__}")
    except Exception as error:
        fault = f"{path}: no whole safetensors file ({error})"
        raise ProvenanceError(f"{fault}; copy it again or train again.") from error
    if isinstance(shape := about.get("connector"), dict) and "class" not in shape:
        about["connector"] = hashed_fields(ConnectorShape()) | shape
    return about


def hash_tensors(module: nn.Module, without: Collection[str] = ()) -> str:
    """One sha256 over all tensors of a module but those named; it shows whether any bit changed."""
    tensors = module.state_dict().items()
    return hash_state({name: tensor for name, tensor in tensors if name not in without})


def hash_state(tensors: Mapping[str, Tensor]) -> str:
    """One sha256 over named tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
