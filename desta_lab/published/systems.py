"""A published system as a whole: the memory it takes, and the AudioLLM it becomes."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from accelerate.utils import get_max_memory

from desta_lab.cache import hash_file
from desta_lab.model import weights
from desta_lab.model.audio_llm import AudioLLM, ProvenanceError
from desta_lab.model.build import build_audio_llm, pick_device
from desta_lab.model.presets import Preset
from desta_lab.published.adapters import load_adapter

Form = Literal["bf16", "int8", "float32"]

# Parameters, counted on models without weights: of a Whisper and its encoder; of an LLM and its
# embeddings and head, which int8 leaves in bf16.
PARAMETERS = {
    "openai/whisper-small": (241_734_912, 88_154_112),
    "openai/whisper-large-v3": (1_543_490_560, 636_968_960),
    "meta-llama/Meta-Llama-3-8B-Instruct": (8_030_261_248, 1_050_673_152),
    "meta-llama/Llama-3.1-8B-Instruct": (8_030_261_248, 1_050_673_152),
}


@dataclass(frozen=True)
class SystemSize:
    """Parameters of a system's parts, and the memory they take, in GB (1e9 bytes)."""

    whisper: int  # decoder included
    encoder: int
    backbone: int
    unquantised: int  # the backbone's embeddings and head

    @classmethod
    def of(cls, preset: Preset, root: Path | None = None) -> "SystemSize":
        """From the configs that are here, else from known numbers.

        Raises:
            RuntimeError: neither is there.
        """
        encoder, backbone = preset.encoder, preset.backbone
        return cls(*_count_parameters(encoder, root), *_count_parameters(backbone, root))

    def memory_gb(self, form: Form) -> float:
        """The backbone in this form and the encoder in float32, without what an answer needs.

        An answer needs 0.13 GB for 1000 tokens of Llama-3. On a GPU the encoder is in bf16.
        """
        width = {"int8": 1, "bf16": 2, "float32": 4}[form]  # bytes a parameter
        kept = self.unquantised if form == "int8" else 0  # one byte more each
        return (width * self.backbone + kept + 4 * self.encoder) / 1e9

    @property
    def transcript_gb(self) -> float:
        """The whole Whisper in float32, while it writes a transcript on the CPU."""
        return 4 * self.whisper / 1e9


def describe_memory(preset: Preset, root: Path | None = None) -> str:
    """What a system takes in each form, and whether this machine can hold it.

    Sizes are counted from parameters. They are a lower bound: the connector and what an answer
    needs come on top.
    """
    size, (ram, gpu) = SystemSize.of(preset, root), free_memory()
    lines = [
        f"{preset.name}: backbone {size.backbone / 1e9:.2f} B parameters, encoder "
        f"{size.encoder / 1e9:.2f} B; this machine has {ram:.1f} GB of RAM free and "
        f"{f'a GPU of {gpu:.1f} GB' if gpu else 'no GPU'}."
    ]
    for form in get_args(Form):
        need = size.memory_gb(form)
        lines.append(f"{form:<8} {need:5.1f} GB  {_fit(need, size.transcript_gb, ram, gpu)}")
    lines.append(
        f"A transcript takes {size.transcript_gb:.1f} GB of RAM more while the whole Whisper "
        "writes it; connector and context take up to 1 GB. Estimated from parameter counts; the "
        "time to load and to answer was not measured."
    )
    return "\n".join(lines)


def _fit(need: float, transcript: float, ram: float, gpu: float) -> str:
    """Where so many GB fit, in words."""
    if gpu > need:
        return "fits the GPU"
    if gpu:
        return "fits GPU and RAM together (offload=True)" if need < gpu + ram else "does not fit"
    if need < ram < need + transcript:
        return "fits the RAM, but not while a transcript is written"
    return "fits the RAM" if need < ram else "does not fit"


def free_memory() -> tuple[float, float]:
    """Free RAM and the free memory of the first GPU (0 without one), in GB."""
    memory = get_max_memory()
    return memory["cpu"] / 1e9, memory.get(0, 0) / 1e9


def _count_parameters(name: str, root: Path | None) -> tuple[int, int]:
    """The numbers of `PARAMETERS`, of a model whose config is here or which is known."""
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    folder = (root or weights.models_dir()) / name.replace("/", "--")
    place = folder if folder.is_dir() else name
    try:
        config = AutoConfig.from_pretrained(place, local_files_only=True)
    except (OSError, ValueError) as error:
        if name in PARAMETERS:
            return PARAMETERS[name]
        fault = f"The size of {name} is not known before its config.json is here"
        raise RuntimeError(f"{fault}; fetch it first.") from error
    with torch.device("meta"):  # shapes without memory
        if config.is_encoder_decoder:
            whisper = AutoModel.from_config(config)
            return whisper.num_parameters(), whisper.encoder.num_parameters()
        model = AutoModelForCausalLM.from_config(config)
    ends = {*model.get_input_embeddings().parameters(), *model.get_output_embeddings().parameters()}
    return model.num_parameters(), sum(parameter.numel() for parameter in ends)


def open_system(
    adapter: Path | str,
    preset: Preset,
    root: Path | None = None,
    *,
    quantise: Literal["int8"] | None = None,
    offload: bool = False,
    force: bool = False,
    progress: Callable[[str], None] | None = None,
) -> AudioLLM:
    """A published system as an AudioLLM, its backbone in bf16 as published.

    Ask it with `with_transcript=True`, because the published systems always put a transcript after
    the clip. (Theirs is empty where a voice detector finds no speech, ours is what Whisper writes.)
    DeSTA2 has its own message layout, see `desta2.answer_desta2`.

    Args:
        adapter: the released adapter file.
        preset: `presets.desta25()` or `presets.desta2()`; its models are names or folders.
        quantise: "int8" halves the backbone's layers (bitsandbytes).
        offload: spread the backbone over GPU and RAM (accelerate).
        force: try although the machine seems too small.

    Raises:
        RuntimeError: this machine clearly cannot hold it, or bitsandbytes is missing.
        ProvenanceError: the file is missing, is no published adapter, or has other sizes.
        WeightsError: encoder or backbone cannot be had.
    """
    if quantise not in (None, "int8"):
        raise ValueError(f"There is no form {quantise!r}; take 'int8', or None for bf16.")
    form: Form = quantise or "bf16"
    if not force:
        _check_memory(preset, root, form, offload)
    path = Path(adapter)
    if not path.is_file():  # said before gigabytes are fetched
        remedy = f"give the adapter that was released for {preset.name}"
        raise ProvenanceError(f"{path}: no such file; {remedy}.")
    options: dict[str, Any] = {
        "dtype": torch.bfloat16,
        "device_map": "auto" if offload else {"": pick_device()},
        **(_int8_options(offload) if quantise else {}),
    }
    llm = build_audio_llm(preset, root=root, progress=progress, **options)
    load_adapter(llm.connector, path)
    llm.connector.eval()
    llm.transcript = True
    llm.provenance |= {"adapter_sha256": hash_file(path), "backbone_form": form}
    return llm


def _int8_options(offload: bool) -> dict[str, Any]:
    """What `from_pretrained` needs to load in int8."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise RuntimeError(
            "int8 needs bitsandbytes, which is not installed: `pip install bitsandbytes`. It is "
            "made for NVIDIA GPUs; without one, open the system in bf16."
        )
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_enable_fp32_cpu_offload=offload)
    return {"quantization_config": config}


def _check_memory(preset: Preset, root: Path | None, form: Form, offload: bool) -> None:
    """Raise RuntimeError if the system does not fit this machine."""
    ram, gpu = free_memory()
    need = SystemSize.of(preset, root).memory_gb(form)
    there = ram + gpu if offload else gpu or ram
    if need > there:
        raise RuntimeError(
            f"{preset.name} needs {need:.1f} GB in {form}, but {there:.1f} GB are there; take "
            "a larger machine, or in Python `published.systems.open_system` with quantise='int8', "
            "offload=True or, to try all the same, force=True."
        )
