"""Names become built parts: a device, a precision, a connector, a whole AudioLLM."""

import warnings
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import torch
from torch import nn

from desta_lab import processes
from desta_lab.audio import FRAMES_PER_SECOND
from desta_lab.model import chat, presets, weights
from desta_lab.model.audio_llm import (
    COMPARED,
    AudioLLM,
    ProvenanceError,
    ProvenanceWarning,
    read_connector_provenance,
)
from desta_lab.model.backbone import Backbone
from desta_lab.model.bounds import convert_value, hashed_fields
from desta_lab.model.connector import (
    CONNECTORS,
    ConnectorShape,
    OwnConnector,
    build_own,
    check_heads,
    describe_own,
)
from desta_lab.model.encoder import PUBLISHED_TAPS, Encoder, check_taps, transcribe
from desta_lab.model.presets import LATER, PARTS, Preset, part_id
from desta_lab.world.attributes import NEUTRAL


def pick_device() -> torch.device:
    """A CUDA GPU if there is one (of several ranks, each its own), else the CPU."""
    processes.join_ranks()
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pick_preset() -> Preset:
    """The preset that suits this machine, if its weights are there or the model hub answers.

    On a GPU `workstation` or `t4`, by its memory; on a CPU with bf16 `laptop`. Otherwise `cpu`,
    whose weights also come as packages; a machine without a GPU that has them stays with it.
    `desta25` and `desta2` are never picked, as their backbones are behind a licence gate.
    """
    usual, best = presets.cpu(), _largest_preset()
    if best.name == usual.name or _are_installed(best):
        return best
    settled = best.name == "laptop" and _are_installed(usual)
    return best if not settled and weights.hub_answers() else usual


def _largest_preset() -> Preset:
    """The largest preset that this machine runs in reasonable time, by its GPU or its CPU."""
    if torch.cuda.is_available():
        memory_gb = torch.cuda.get_device_properties(0).total_memory / 1e9
        return presets.workstation() if memory_gb > 20 else presets.t4()
    bf16 = pick_dtype(torch.device("cpu")) is torch.bfloat16
    return presets.laptop() if bf16 else presets.cpu()


def _are_installed(preset: Preset) -> bool:
    return all(weights.is_installed(part) for part in (preset.encoder, preset.backbone))


def pick_dtype(device: torch.device) -> torch.dtype:
    """The precision for frozen weights, by what the hardware multiplies fast.

    A GPU of compute capability 8 or more gets bf16, an older one fp16 (its bf16 is emulated). A CPU
    with bf16 instructions gets bf16 (two to three times faster, LOG.md), anything else float32. No
    timing decides, so the choice never changes between two runs.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
    instructions = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    bf16 = device.type == "cpu" and any(getattr(torch.cpu, name, bool)() for name in instructions)
    return torch.bfloat16 if bf16 else torch.float32


def minutes_here(preset: Preset) -> float | None:
    """How long the quickstart takes on two CPU cores of this kind; None where nobody measured."""
    with_bf16, without = preset.minutes or (None, None)
    return with_bf16 if pick_dtype(torch.device("cpu")) is torch.bfloat16 else without


def state_minutes(preset: Preset) -> str:
    """How long the quickstart takes on two CPU cores of this kind, in words."""
    minutes = minutes_here(preset)
    if minutes is None:
        return "not measured yet"
    kind = "" if pick_dtype(torch.device("cpu")) is torch.bfloat16 else " without bf16"
    return f"about {minutes:g} minutes on two CPU cores{kind}"


def build_connector(
    shape: ConnectorShape | OwnConnector, encoder: Encoder, backbone: Backbone, seed: int = 0
) -> nn.Module:
    """A new connector, the same for the same seed, with parameters in float32.

    Args:
        shape: of one that the package has, or somebody's own (`connector.build_own`).
    """
    ids = torch.tensor(chat.encode_text(backbone.tokenizer, NEUTRAL))
    sizes = {"taps": len(encoder.taps), "d_enc": encoder.width, "d_llm": backbone.width}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if not isinstance(shape, ConnectorShape):
            return build_own(shape, frames=encoder.frames, **sizes)
        return CONNECTORS[shape.kind](
            shape,
            anchor=backbone.embed(ids).detach().float() if shape.anchored else None,
            queries=len(ids) if shape.anchored else shape.queries,
            scale=backbone.embedding_scale if shape.scaled else 1.0,
            **sizes,
        )


def build_audio_llm(
    preset: Preset,
    *,
    root: Path | None = None,
    seed: int = 0,
    progress: weights.Progress | None = None,
    connector: OwnConnector | None = None,
    **backbone_options: Any,
) -> AudioLLM:
    """Encoder, new connector and backbone of a preset, on the fastest device and precision.

    Args:
        root: the folder of models; `weights.models_dir()` by default.
        connector: somebody's own, instead of the preset's (`connector.build_own`).
        backbone_options: for `from_pretrained` of the backbone (dtype, quantization_config, …).
            With a `device_map` among them the backbone stays where that puts it.

    Raises:
        WeightsError: encoder or backbone cannot be had.
    """
    check_parts(preset, root, connector)  # before one of them is downloaded
    with processes.main_first():  # one rank downloads
        folders = {
            part: weights.find_weights(getattr(preset, part), root, progress=progress)
            for part in PARTS
        }
    return _assemble(preset, folders, seed, backbone_options, connector)


def check_parts(
    preset: Preset, root: Path | None = None, connector: OwnConnector | None = None
) -> None:
    """Check what is known of a preset's models before they are fetched or read.

    Raises:
        WeightsError: a name can be no model's.
        ValueError: the models are on disk, and taps, attention heads or an own connector do not
            fit them.
    """
    for name in (preset.encoder, preset.backbone):
        weights.check_name(name, root)
        if Path(name).is_dir():
            weights.check_folder(Path(name), ("config.json",))
    about = _read_config(preset.encoder, root)
    if preset.taps is not None and "encoder_layers" in about:
        check_taps(preset.taps, about["encoder_layers"])
    if connector is not None:
        _check_own(preset, about, _read_config(preset.backbone, root), connector)
    elif preset.connector.kind == "qformer" and "d_model" in about:
        check_heads(preset.connector.heads, preset.connector.width or about["d_model"])


def _read_config(name: str, root: Path | None) -> dict[str, Any]:
    """The config of a model that is on disk; nothing of one that is not."""
    if not weights.is_installed(name, root):
        return {}
    return weights.read_object(weights.find_weights(name, root) / "config.json")


def _check_own(
    preset: Preset, encoder: dict[str, Any], backbone: dict[str, Any], connector: OwnConnector
) -> None:
    """Try an own connector on the widths of models that are on disk."""
    d_llm = backbone.get("hidden_size") or backbone.get("text_config", {}).get("hidden_size")
    taps = preset.taps or PUBLISHED_TAPS.get(encoder.get("encoder_layers", 0))
    if taps and d_llm and "d_model" in encoder:
        frames, d_enc = round(preset.seconds * FRAMES_PER_SECOND), encoder["d_model"]
        with torch.random.fork_rng(devices=[]):
            build_own(connector, taps=len(taps), d_enc=d_enc, d_llm=d_llm, frames=frames)


def _assemble(
    preset: Preset,
    folders: Mapping[str, Path],
    seed: int,
    options: dict[str, Any],
    own: OwnConnector | None,
) -> AudioLLM:
    """The AudioLLM of these folders: frozen parts may be in half precision, the connector is not.

    In fp16 from end to end the loss becomes NaN, so connector and loss are in float32.
    A backbone that learns whole is in float32 too: small steps vanish in half precision.
    """
    device = pick_device()
    dtype = pick_dtype(device)
    encoder_dtype = torch.float32 if device.type == "cpu" else dtype
    encoder = Encoder.load(folders["encoder"], preset.seconds, preset.taps, dtype=encoder_dtype)
    encoder.to(device)
    settings: dict[str, Any] = {"dtype": torch.float32 if preset.tuning == "full" else dtype}
    if preset.attention:
        settings["attn_implementation"] = preset.attention
    backbone = Backbone.load(folders["backbone"], **{**settings, **options})
    backbone.gradient_checkpointing = preset.gradient_checkpointing
    if "device_map" not in options:
        backbone.to(device)
    _check_finite(folders["encoder"], encoder)
    _check_finite(folders["backbone"], backbone)
    shape = preset.connector if own is None else own
    connector = build_connector(shape, encoder, backbone, seed).to(device)
    backbone.unfreeze(preset.tuning, seed)
    provenance = {
        **{f"{part}_sha256": weights.hash_folder(folder) for part, folder in folders.items()},
        "taps": list(encoder.taps),
        "seconds": preset.seconds,
        "connector": hashed_fields(preset.connector) if own is None else describe_own(connector),
        "tuning": preset.tuning,
    }
    # facts only where they say something, so that older results are still found
    later = {name: getattr(preset, name) for name in LATER}
    provenance |= {name: value for name, value in later.items() if value != LATER[name]}
    if prompt := chat.template_hash(backbone.tokenizer):
        provenance["prompt"] = prompt
    if backbone.ignored_settings:
        provenance["ignored_settings"] = backbone.ignored_settings
    llm = AudioLLM(
        encoder,
        connector,
        backbone,
        provenance,
        names={part: part_id(getattr(preset, part)) for part in PARTS},
        revisions={p: weights.revision_of(getattr(preset, p), folders[p]) for p in PARTS},
        transcribe=lambda waves: transcribe(folders["encoder"], waves),
    )
    llm.transcript = preset.transcript
    return llm


def _check_finite(folder: Path, part: nn.Module) -> None:
    for name, parameter in part.named_parameters():
        if not (parameter.is_meta or parameter.isfinite().all()):
            fault = f"{folder}: {name} holds NaN or infinity as {parameter.dtype}"
            remedy = "copy the folder again from its source, or load it in bfloat16 or float32"
            raise weights.WeightsError(f"{fault}; {remedy}.")


def open_connector(
    path: Path,
    root: Path | None = None,
    attention: str | None = None,
    connector: OwnConnector | None = None,
    *,
    strict: bool = True,
    revisions: Mapping[str, str | None] | None = None,
) -> AudioLLM:
    """The AudioLLM that a connector file was trained in, with that connector.

    Encoder and backbone are found by their names, or by their hashes under any other name.
    Precision goes by this machine, and `attention` is the backbone's. A file of somebody's own
    `connector` needs what built it.

    Args:
        strict: refuse other weights of encoder and backbone; otherwise those of the same names are
            taken, with a warning.
        revisions: the commits of encoder and backbone on the hub.

    Raises:
        ProvenanceError: encoder or backbone is not here, or the file is no connector file.
    """
    about = read_connector_provenance(path)
    preset = _read_preset(path, about, attention, connector)
    with processes.main_first():  # one rank downloads
        folders = {
            part: _find_part(path, part, about, root, (revisions or {}).get(part), strict)
            for part in PARTS
        }
    try:
        llm = _assemble(preset, folders, 0, {}, connector)
    except ValueError as error:
        if connector is not None or isinstance(error, ProvenanceError):
            raise
        fault = f"{path}: it does not fit the parts that it names ({error})"
        raise ProvenanceError(f"{fault}; copy it again or train again.") from error
    llm.revisions |= {part: commit for part, commit in (revisions or {}).items() if commit}
    llm.load_connector(path, strict=strict)
    return llm


def _read_preset(
    path: Path, about: Mapping[str, Any], attention: str | None, connector: OwnConnector | None
) -> Preset:
    """The preset of the system that a connector file says it was trained in."""
    if missing := [key for key in (*PARTS, *COMPARED) if key not in about]:
        raise ProvenanceError(f"{path}: it names no {missing[0]}; give a file of a training run.")
    known = {field.name for field in fields(ConnectorShape)}
    shape = about["connector"] if isinstance(about["connector"], dict) else {}
    if "class" in shape and connector is None:
        fault = f"its connector is {shape['class']}, which the package does not have"
        raise ProvenanceError(f"{path}: {fault}; give connector={shape['class']}.")
    if "class" not in shape and (unknown := sorted(set(shape) - known)):
        raise ProvenanceError(f"{path}: its connector has {unknown[0]}; update DeSTA Lab.")
    told = {name: about[name] for name in (*PARTS, "taps", "seconds", "tuning")}
    told |= {name: about.get(name, value) for name, value in LATER.items()}
    of_preset, of_shape = get_type_hints(Preset), get_type_hints(ConnectorShape)
    try:
        for name in (f"{part}_sha256" for part in PARTS):
            convert_value(name, about[name], str)
        sizes = {} if "class" in shape else {**about["connector"]}
        given = {name: convert_value(name, one, of_shape[name]) for name, one in sizes.items()}
        return Preset(
            "opened",
            purpose="a trained connector",
            connector=ConnectorShape(**given),
            attention=attention,
            **{name: convert_value(name, value, of_preset[name]) for name, value in told.items()},
        )
    except (TypeError, ValueError, AttributeError) as error:
        fault = f"{path}: what it says of its connector cannot be ({error})"
        raise ProvenanceError(f"{fault}; copy it again or train again.") from error


def _find_part(
    path: Path,
    part: str,
    about: Mapping[str, Any],
    root: Path | None,
    revision: str | None,
    strict: bool,
) -> Path:
    """The folder of the weights with this hash: under their name first, then under any other."""
    name, sha256 = about[part], about[f"{part}_sha256"]
    root = root or weights.models_dir()
    local = [weights.NANO_FOLDER, *sorted(root.glob("[!.]*"))]
    local.sort(key=lambda folder: folder.name != name.replace("/", "--"))
    for folder in local:
        if weights.has_weights(folder) and weights.hash_folder(folder) == sha256:
            return folder
    try:
        folder = weights.find_weights(name, root, revision=revision)
        if weights.hash_folder(folder) == sha256:
            return folder
        if not strict:
            warnings.warn(
                f"{path}: its {part} {name} has other weights here than it was trained with "
                f"(sha256 {sha256[:12]}…); answers may differ.",
                ProvenanceWarning,
                stacklevel=2,
            )
            return folder
        fault = f"{folder} holds other weights."
    except weights.WeightsError as error:
        fault = str(error)
    raise ProvenanceError(
        f"{path}: its {part} {name} (sha256 {sha256[:12]}…) is not here; put the folder with "
        f"these weights into {root}, under any name. {fault}"
    )
