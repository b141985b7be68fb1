"""The published systems, exactly: their adapter files to our connector and back, and opened whole.

Names and layout are those of DeSTA2.5-Audio (`perception.connector.*`, modeling_desta25.py) and of DeSTA2, whose
adapter has the same parts under no prefix or `speech_perception.connector.` (modeling_desta.py).
"""

import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from desta_lab import audio, cache
from desta_lab.model import build, chat, presets, weights
from desta_lab.model.audio_llm import AudioLLM, Generation, ProvenanceError
from desta_lab.model.connector import QFormer

PREFIX = "perception.connector."  # of DeSTA2.5-Audio's released file
PREFIXES = (
    PREFIX,
    "speech_perception.connector.",
    "",
)  # of DeSTA2.5-Audio, DeSTA2, and DeSTA2's connector alone

# a part of the published Q-Former layer → ours; the first that fits counts, so `self_attention.out.` stands early
PARTS = {
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


def to_ours(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """A published adapter's tensors under this package's names; the prompts of all layers become one tensor.

    Raises:
        PartsError: a tensor that no published adapter has; the message names it.
    """
    prefix = next((p for p in PREFIXES if any(name.startswith(p) for name in published)), "")
    prompts: dict[int, Tensor] = {}
    renamed: dict[str, Tensor] = {}
    stray = []
    for name, tensor in published.items():
        plain = name.removeprefix(prefix) if name.startswith(prefix) else ""
        if plain.startswith("layer_prompts."):
            prompts[int(plain.removeprefix("layer_prompts."))] = tensor
        elif plain == "layer_weights" or plain.startswith("proj."):
            renamed[plain] = tensor
        elif ours := _renamed(plain, "qformer.layer.", "blocks.", PARTS):
            renamed[ours] = tensor
        else:
            stray.append(name)
    if stray or not prompts:
        fault = f"{min(stray)} is no tensor of theirs" if stray else "it has no layer_prompts"
        raise ProvenanceError(
            f"This is no adapter of DeSTA2 or DeSTA2.5-Audio: {fault}; give the file that they released."
        )
    return {"query_tokens": torch.cat([prompts[i] for i in sorted(prompts)]), **renamed}


def to_published(ours: dict[str, Tensor], prefix: str = PREFIX) -> dict[str, Tensor]:
    """The tensors of a connector of the published form under the published names; `to_ours` takes them back."""
    back = {own: theirs for theirs, own in PARTS.items()}
    named: dict[str, Tensor] = {}
    for name, tensor in ours.items():
        if name == "query_tokens":
            named |= {
                f"{prefix}layer_prompts.{i}": one.clone() for i, one in enumerate(tensor.split(1))
            }
        else:
            named[prefix + (_renamed(name, "blocks.", "qformer.layer.", back) or name)] = tensor
    return named


def _renamed(name: str, layer: str, other: str, parts: dict[str, str]) -> str | None:
    """The other name of a layer's tensor: `layer` becomes `other`, its part that of `parts`; None where it is none."""
    number, _, rest = name.removeprefix(layer).partition(".")
    for old, new in parts.items():
        if name.startswith(layer) and rest.startswith(old):
            return f"{other}{number}.{new}{rest.removeprefix(old)}"
    return None


def load_adapter(connector: nn.Module, path: Path | str) -> None:
    """Read a published adapter into a connector of its form, strictly.

    Raises:
        PartsError: the file is no safetensors, no such adapter, or of other sizes; the message says which.
    """
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ProvenanceError(
            f"{path}: no whole safetensors file ({error}). A .pth or .bin is pickled and is never read: open it where "
            "you trust it, and save its tensors with safetensors."
        ) from error
    try:
        connector.load_state_dict(to_ours(tensors), strict=True)
    except RuntimeError as error:
        fault = str(error).splitlines()[-1].strip()
        raise ProvenanceError(
            f"{path}: an adapter of other sizes ({fault}); build the connector of its config."
        ) from error


def save_adapter(connector: nn.Module, path: Path | str, prefix: str = PREFIX) -> None:
    """Write a connector of the published form under the published names, so that the published code opens it.

    Raises:
        PartsError: the connector differs from the published form; the message says in what.
    """
    if not isinstance(connector, QFormer):
        raise ProvenanceError(
            f"A {type(connector).__name__} is no Q-Former; only the published form can be exported."
        )
    differs = {
        "a narrower Q-Former (width)": any(
            not isinstance(part, nn.Identity) for part in connector.inputs
        ),
        "pre-norm": not all(block.post_norm for block in connector.blocks),
        "an anchor": connector.anchor is not None,
        "pooled frames": connector.pool != 1,
        "a scaled output": connector.scale != 1.0,
    }
    if found := [name for name, true in differs.items() if true]:
        raise ProvenanceError(
            f"This connector has {', '.join(found)}, which the published code does not know; train one of the "
            "published form (`presets.desta25().connector`)."
        )
    ours = {name: tensor.cpu().contiguous() for name, tensor in connector.state_dict().items()}
    save_file(to_published(ours, prefix), path)


# ---- a published system, whole ----

Form = Literal["bf16", "int8", "float32"]

# Parameters of the frozen parts, counted on models without weights (meta device) of the published sizes:
# a Whisper and its encoder alone, an LLM and its embeddings and head, which int8 leaves in bf16.
PARAMETERS = {
    "openai/whisper-small": (241_734_912, 88_154_112),
    "openai/whisper-large-v3": (1_543_490_560, 636_968_960),
    "meta-llama/Meta-Llama-3-8B-Instruct": (8_030_261_248, 1_050_673_152),
    "meta-llama/Llama-3.1-8B-Instruct": (8_030_261_248, 1_050_673_152),
}


@dataclass(frozen=True)
class Size:
    """Parameters of a system's parts, and the memory they take, in GB (1e9 bytes)."""

    whisper: int  # decoder included
    encoder: int
    backbone: int
    unquantised: int  # the backbone's embeddings and head

    @classmethod
    def of(cls, preset: presets.Preset, root: Path | None = None) -> "Size":
        """From the configs where they lie here, else from the known numbers; raises RuntimeError without either."""
        return cls(*_parameters(preset.encoder, root), *_parameters(preset.backbone, root))

    @property
    def writing(self) -> float:
        """The whole Whisper in float32, while it writes a transcript on the CPU."""
        return 4 * self.whisper / 1e9

    def held(self, form: Form) -> float:
        """The backbone in this form and the encoder in float32 (less on a GPU: bf16), without what an answer needs.

        That is 0.13 GB for 1000 tokens of Llama-3.
        """
        spared = (
            self.unquantised if form == "int8" else 0
        )  # int8: 1 byte each, 2 where it leaves bf16
        return (
            {"int8": 1, "bf16": 2, "float32": 4}[form] * self.backbone + spared + 4 * self.encoder
        ) / 1e9


def estimate(preset: presets.Preset, root: Path | None = None) -> str:
    """What a system takes in bf16, int8 and float32, and whether this machine's GPU or free RAM can hold it.

    Sizes are counted from parameters, a lower bound: the connector and what an answer needs come on top. Times are not
    known: nobody has timed an 8 B backbone with this package yet.
    """
    size, (ram, gpu) = Size.of(preset, root), _memory()
    lines = [
        f"{preset.name}: backbone {size.backbone / 1e9:.2f} B parameters, encoder {size.encoder / 1e9:.2f} B; this "
        f"machine has {ram:.1f} GB of RAM free and {f'a GPU of {gpu:.1f} GB' if gpu else 'no GPU'}."
    ]
    for form in ("bf16", "int8", "float32"):
        need = size.held(form)
        lines.append(f"{form:<8} {need:5.1f} GB  {_verdict(need, need + size.writing, ram, gpu)}")
    lines.append(
        f"A transcript takes {size.writing:.1f} GB of RAM more while the whole Whisper writes it; connector and "
        "context take up to 1 GB. Estimated from parameter counts; the time to load and to answer was not measured."
    )
    return "\n".join(lines)


def _verdict(need: float, writing: float, ram: float, gpu: float) -> str:
    if gpu:
        return (
            "fits the GPU"
            if need < gpu
            else "fits with offload=True"
            if need < gpu + ram
            else "does not fit"
        )
    if need < ram < writing:
        return "fits the RAM, but not while a transcript is written"
    return "fits the RAM" if need < ram else "does not fit"


def open_system(
    adapter: Path | str,
    preset: presets.Preset,
    root: Path | None = None,
    *,
    quantise: Literal["int8"] | None = None,
    offload: bool = False,
    force: bool = False,
    progress: Callable[[str], None] | None = None,
) -> AudioLLM:
    """A published system as an AudioLLM: `preset` is `presets.desta25()` or `desta2()`, its models names or folders.

    The backbone is in bf16, as published; `quantise="int8"` halves its layers (bitsandbytes), `offload=True` spreads
    it over GPU and RAM (accelerate). Ask with `with_transcript=True`, for the published systems always write the words
    after the clip: theirs are a blank where a voice detector finds no speech, ours are what Whisper writes anyway.
    DeSTA2 has a message layout of its own: `answer_desta2`.

    Raises:
        RuntimeError: this machine clearly cannot hold it (`force=True` tries all the same), or no bitsandbytes.
        PartsError: there is no such file, it is no published adapter, or one of other sizes.
        WeightsError: encoder or backbone cannot be had.
    """
    if quantise not in (None, "int8"):
        raise ValueError(
            f"There is no form {quantise!r} to quantise to; take 'int8', or None for bf16."
        )
    if quantise and importlib.util.find_spec("bitsandbytes") is None:
        raise RuntimeError(
            "int8 needs bitsandbytes, which is not installed: `pip install bitsandbytes`. It is made for NVIDIA GPUs; "
            "without one, open the system in bf16."
        )
    form: Form = quantise or "bf16"
    ram, gpu = _memory()
    need, room = Size.of(preset, root).held(form), ram + gpu if offload else gpu or ram
    if need > room and not force:
        raise RuntimeError(
            f"{preset.name} needs {need:.1f} GB in {form}, but {room:.1f} GB are there; take "
            f"quantise='int8', offload=True or a larger machine, or try all the same with force=True.\n"
            f"{estimate(preset, root)}"
        )
    if not Path(adapter).is_file():  # told before the frozen giants are fetched
        raise ProvenanceError(
            f"{adapter}: no such file; give the adapter that was released for {preset.name}."
        )
    how: dict[str, Any] = {
        "dtype": torch.bfloat16,
        "device_map": "auto" if offload else {"": build.pick_device()},
    }
    if quantise:
        from transformers import BitsAndBytesConfig

        how["quantization_config"] = BitsAndBytesConfig(
            load_in_8bit=True, llm_int8_enable_fp32_cpu_offload=offload
        )
    llm = build.build_audio_llm(preset, root=root, progress=progress, **how)
    load_adapter(llm.connector, adapter)
    llm.connector.eval()
    digest = cache.hash_file(Path(adapter))
    llm.provenance |= {
        "adapter": Path(adapter).name,
        "adapter_sha256": digest,
        "backbone_form": form,
    }
    return llm


def _parameters(name: str, root: Path | None) -> tuple[int, int]:
    """Parameters of a Whisper and of its encoder, or of an LLM and of what int8 leaves alone."""
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    folder = (root or weights.models_dir()) / name.replace("/", "--")
    try:
        config = AutoConfig.from_pretrained(
            folder if folder.is_dir() else name, local_files_only=True
        )
    except (OSError, ValueError) as error:
        if name in PARAMETERS:
            return PARAMETERS[name]
        raise RuntimeError(
            f"The size of {name} is not known before its config.json is here; fetch it first."
        ) from error
    with torch.device("meta"):  # shapes without memory
        if config.is_encoder_decoder:
            whisper = AutoModel.from_config(config)
            return _count(whisper), _count(whisper.encoder)
        model = AutoModelForCausalLM.from_config(config)
    ends = nn.ModuleList([model.get_input_embeddings(), model.get_output_embeddings()])
    return _count(model), _count(ends)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _memory() -> tuple[float, float]:
    """RAM that is free (all of it where the system does not say) and the GPU's memory, 0 without one, in GB."""
    ram = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    if (told := Path("/proc/meminfo")).exists():
        free = next(
            line for line in told.read_text().splitlines() if line.startswith("MemAvailable")
        )
        ram = int(free.split()[1]) * 1024 / 1e9
    return ram, torch.cuda.get_device_properties(
        0
    ).total_memory / 1e9 if torch.cuda.is_available() else 0.0


# ---- DeSTA2's own messages ----


def stream_desta2(
    tokenizer: Any, messages: Sequence[chat.Message], queries: int, transcript: str
) -> chat.TokenStream:
    """Token ids as DeSTA2's released inference makes them, quirks included: use it with `presets.desta2()` only.

        messages: {"role": "system", …}, {"role": "audio", "content": "clip.wav"}, {"role": "user", …}

    The chat template's text is cut where the clip's path stands; left + transcript + right is tokenised at once WITH
    special tokens, so a Llama-3 stream begins with two BOS; and the audio embeddings go where the left text ends when
    it is counted without the second one, that is one token early: before the last token of the audio turn's header.
    Source: kehanlu/DeSTA2, modeling_desta.py, `process_text` and `prepare_llm_input`. `chat.stream` has neither quirk.

    Raises:
        ChatError: there is not exactly one audio message, or its path does not stand once in the conversation.
    """
    path = _heard(messages)
    turns = [{"role": m["role"], "content": str(m["content"])} for m in messages]
    text = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    if text.count(path) != 1:
        raise chat.ChatError(
            f"The path {path!r} stands {text.count(path)} times in the conversation; give the clip a name that stands "
            "there once."
        )
    left, right = text.split(path)
    ids = list(tokenizer(left + transcript + right).input_ids)
    at = len(chat.encode_text(tokenizer, left))
    ids[at:at] = [chat.SLOT] * queries
    return chat.TokenStream(tuple(ids), len(ids))


def _heard(messages: Sequence[chat.Message]) -> str:
    """The path in the one audio message."""
    paths = [str(message["content"]) for message in messages if message["role"] == "audio"]
    if len(paths) != 1:
        raise chat.ChatError(
            f"DeSTA2 hears one clip a conversation, here are {len(paths)} audio messages; give one."
        )
    return paths[0]


@torch.no_grad()
def answer_desta2(
    llm: AudioLLM, messages: Sequence[chat.Message], transcript: str | None = None, **how: Any
) -> Generation:
    """Answer one conversation in DeSTA2's message format; without a transcript, Whisper writes it.

    Whisper's words open with a blank there, so they do here. Not reproduced: they pass clips through 22.05 kHz, let
    Whisper guess the language (ours is told English), and sample at temperature 0.6 (ours is greedy unless told).
    """
    path = _heard(messages)
    wave = audio.read_audio(path)
    if transcript is None:
        if llm.transcribe is None:
            raise ProvenanceError(
                "DeSTA2 reads a transcript, but this AudioLLM has no Whisper decoder; pass transcript=…."
            )
        transcript = " " + llm.transcribe([wave])[0]
    stream = stream_desta2(llm.backbone.tokenizer, messages, llm.queries, transcript)
    llm.connector.eval()
    ids = llm.generate_ids([stream], llm.connect(llm.encoder.encode([wave])), **how)
    return Generation([llm.backbone.decode(row) for row in ids], ids, [[(path, transcript)]])
