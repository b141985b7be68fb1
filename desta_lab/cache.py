"""One way to keep a result: what determines it names a folder, which is whole or absent.

    provenance ─► root/<kind>/<key>/provenance.json   facts, and the sha256 and type of every piece
                                    table.csv …       the pieces

A result is found if its folder holds exactly what was written. Anything else there is made again,
never read.
"""

import csv
import dataclasses
import errno
import glob
import hashlib
import json
import math
import os
import platform
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from filelock import FileLock

# The version of the code that computes each kind of result. Raise it, and every such result is
# computed again.
VERSIONS: dict[str, int] = {
    "answers": 1,
    "cells": 3,
    "corpora": 1,
    "costs": 1,
    "coverage": 2,
    "features": 1,
    "inside": 6,
    "lessons": 1,
    "oracles": 3,
    "probes": 1,
    "runs": 1,
    "scores": 3,
    "sites": 2,
    "targets": 1,
}
HEAD = "provenance.json"
STALE = 3600.0  # seconds after which nobody is still writing a draft, on whatever machine
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
_REMEDIES = {  # of what keeps a file from being written, by its number
    **dict.fromkeys(_READ_ONLY, "choose a folder that you may write"),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free some space"),
    **dict.fromkeys((errno.EISDIR, errno.ENOTDIR, errno.ELOOP), "move away what is there"),
}
MISSING = "\\N"  # a missing value in a table on disk; an empty text is an empty text

Result = TypeVar("Result")


class CacheError(ValueError):
    """A result or a fact that cannot be kept; the message says what to change."""


@dataclass(frozen=True)
class Provenance:
    """All that determines a result, as plain data: hashes, settings, questions; never a path.

    `kind` is what the result is, one of `VERSIONS`; the version of its code is part of the key.
    `facts` gives each name its value, as JSON can hold it.
    """

    kind: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in VERSIONS:
            fault = f"There is no version of {self.kind!r}"
            raise CacheError(f"{fault}; add it to desta_lab.cache.VERSIONS.")
        paths = [name for name, value in self.facts.items() if isinstance(value, Path)]
        if paths:
            raise CacheError(f"{paths[0]} is a path, and files move; name its content by a hash.")

    @property
    def text(self) -> str:
        """The facts, the kind and its version as canonical JSON."""
        whole = {"kind": self.kind, "version": VERSIONS[self.kind], "facts": to_plain(self.facts)}
        return json.dumps(whole, sort_keys=True, ensure_ascii=False)

    @property
    def key(self) -> str:
        """The name of the result: 16 hexadecimal digits that change with every fact."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]

    def derive(self, kind: str, **facts: Any) -> "Provenance":
        """The provenance of a result that depends on all of these facts and on more."""
        return Provenance(kind, {**self.facts, **facts})

    def folder(self, root: Path) -> Path:
        """Where the result lies in a data folder."""
        return root / self.kind / self.key


def find_or_make(root: Path, provenance: Provenance, make: Callable[[], Result]) -> Result:
    """The result with this provenance: from disk if it is there and whole, else made and kept.

    A result is a table (DataFrame), a dict of tensors, JSON data, or a dict of such pieces by name.
    It comes back as it is read from disk, so it has the same types whether it was made or found:
    JSON data with NaN and ∞ as None, tables with rows numbered anew. Of several processes that ask
    at the same time, one makes it and the others wait.

    Raises:
        CacheError: the result holds something that a file cannot give back as it was.
        OSError: the folder cannot be written.
    """
    folder = provenance.folder(root)
    found = find(root, provenance)
    if found is None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f".{provenance.key}.lock"):
            remove_drafts(folder.parent)  # also those of other results
            found = find(root, provenance)
            if found is None:
                _write(folder, provenance, make())
                found = find(root, provenance)
    assert found is not None, f"{folder}: what was written does not read back."
    return found


def find(root: Path, provenance: Provenance) -> Any:
    """The result with this provenance; None if it is absent, torn or another's."""
    folder = provenance.folder(root)
    try:
        head = json.loads(read_text(folder / HEAD))
        pieces = head["pieces"]
        if head["determined_by"] != json.loads(provenance.text) or not pieces:
            return None
        if head.get("pieces_sha256", _hash_json(pieces)) != _hash_json(pieces):
            return None  # results of earlier releases, as the one that ships, have no such hash
        result = {name: _read_piece(folder, piece) for name, piece in pieces.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return result[""] if set(result) == {""} else result


def remove(root: Path, provenance: Provenance) -> None:
    """Delete a result, so that it is made again; one that may not be deleted stays."""
    with suppress(OSError):
        _delete(provenance.folder(root))


# ---- a result on disk: pieces, and a head that is written last ----


def _write(folder: Path, provenance: Provenance, result: Any) -> None:
    named = isinstance(result, Mapping) and any(
        isinstance(piece, pd.DataFrame) or _is_tensors(piece) for piece in result.values()
    )
    with draft_of(folder) as draft:
        draft.mkdir()
        pieces = result.items() if named else [("", result)]
        written = {name: _write_piece(draft, name, piece) for name, piece in pieces}
        head = {"determined_by": json.loads(provenance.text), "pieces": written}
        (draft / HEAD).write_bytes(to_json(head | {"pieces_sha256": _hash_json(written)}))
        _delete(folder)


def _hash_json(data: Any) -> str:
    return hashlib.sha256(to_json(data)).hexdigest()


def _delete(path: Path) -> None:
    """Delete a file, a link or a folder, or nothing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_tensors(piece: Any) -> bool:
    """Whether a piece is a dict of tensors; torch is not imported for one that is not."""
    return isinstance(piece, Mapping) and any(
        hasattr(one, "untyped_storage") for one in piece.values()
    )


def _write_piece(folder: Path, name: str, piece: Any) -> dict[str, Any]:
    """Write one piece and return what its reader must know: file, sha256, and types or order."""
    if not re.fullmatch(r"\w*", name):
        raise CacheError(f"{name!r} cannot name a file; use letters, digits and underscores.")
    more: dict[str, Any] = {}
    if isinstance(piece, pd.DataFrame):
        path = folder / f"{name or 'table'}.csv"
        more["types"] = _write_table(piece, path)
    elif _is_tensors(piece):
        path = folder / f"{name or 'tensors'}.safetensors"
        more["order"] = list(piece)
        save_tensors(path, piece)
    else:
        path = folder / f"{name or 'data'}.json"
        path.write_bytes(to_json(piece))
    return {"file": path.name, "sha256": hash_file(path), **more}


def _read_piece(folder: Path, piece: Mapping[str, Any]) -> Any:
    path = folder / Path(piece["file"]).name
    if hash_file(path) != piece["sha256"]:
        raise ValueError(f"{path}: not the file that was written.")
    if path.suffix == ".csv":
        return _read_table(path, piece["types"])
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            tensors = load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path}: no tensors ({error}).") from error
        return {key: tensors[key] for key in piece["order"]}
    return json.loads(path.read_text(encoding="utf-8"))


def _write_table(table: pd.DataFrame, path: Path) -> dict[str, str]:
    """Write a table as CSV and return the type of every column."""
    types = {}
    if not table.columns.is_unique:
        twice = table.columns[table.columns.duplicated()][0]
        raise CacheError(f"Two columns are named {twice!r}; give each its own name.")
    for name, column in table.items():
        if column.dtype.kind in "mMc":  # times and complex numbers do not come back
            raise CacheError(f"Column {name!r} holds {column.dtype}; write it as text or numbers.")
        is_text = column.dtype == object or isinstance(column.dtype, pd.StringDtype)
        if is_text and not column.dropna().map(lambda value: isinstance(value, str)).all():
            raise CacheError(f"Column {name!r} mixes types; give it one.")
        if is_text and column.eq(MISSING).any():
            raise CacheError(
                f"Column {name!r} holds {MISSING!r}, which stands for a missing value; write "
                "another word."
            )
        types[str(name)] = "str" if is_text else str(column.dtype)
    how: dict[str, Any] = {"lineterminator": "\n", "quoting": csv.QUOTE_NONNUMERIC}
    table.to_csv(path, index=False, na_rep=MISSING, **how)
    return types


def _read_table(path: Path, types: Mapping[str, str]) -> pd.DataFrame:
    """A CSV with columns of these types: no text becomes a number, no word a missing value."""
    if not types:
        return pd.DataFrame()
    how: dict[str, Any] = {"keep_default_na": False, "na_values": [MISSING]}
    numbers = {name: kind for name, kind in types.items() if kind.startswith("float")}
    table = pd.read_csv(path, dtype={**types, **dict.fromkeys(numbers, "object")}, **how)
    return table.astype(numbers)  # Python reads a decimal number exactly, pandas may not


# ---- whole files ----


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; its folder is made if need be."""
    with draft_of(path) as draft:
        draft.write_bytes(content)


def write_where_allowed(path: Path, content: bytes) -> None:
    """Write a file whole, or leave it where this user may not write: nothing depends on it."""
    try:
        write_whole(path, content)
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise


@contextmanager
def draft_of(path: Path) -> Iterator[Path]:
    """A place beside a file or folder to write it, from where it is moved when all is written.

    The draft of a block that fails is removed. One that a kill left is removed when its file is
    written again, see `remove_drafts`. Raises OSError as `writing` does.
    """
    draft = path.with_name(f".{path.name}.{_machine()}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_drafts(path.parent, pattern=f".{glob.escape(path.name)}.*.part")
            yield draft
            draft.replace(path)
    finally:
        with suppress(OSError):
            _delete(draft)


@contextmanager
def appending(path: Path) -> Iterator[Callable[[str], None]]:
    """A function that adds a line to a file at once; nothing of it waits for the file's end.

    A disk that fills up leaves half of a line at most. Raises OSError as `writing` does.
    """
    with writing(path):
        file = path.open("ab", buffering=0)  # a buffer would be written once more when it closes

    def append(line: str) -> None:
        content = f"{line}\n".encode()
        with writing(path):
            while content:
                content = content[file.write(content) :]

    with file:
        yield append


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Let a full disk and a folder that may not be written be one sentence with what to do.

    Also where it was safetensors that met the full disk, as it is for a model of transformers.
    """
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        if "I/O error" not in str(error):  # it read a damaged file
            raise
        raise OSError(f"{path} cannot be written ({error}); free some space.") from error
    except OSError as error:
        if error.errno not in _REMEDIES:
            raise
        remedy = _REMEDIES[error.errno]
        fault = type(error)(f"{path} cannot be written ({error.strerror}); {remedy}.")
        fault.errno = error.errno
        raise fault from error


def make_folder(folder: Path) -> Path:
    """Make a folder that results will go to, and try it. Raises OSError if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        fault = f"{folder} is no folder that can be written ({error.strerror})"
        raise OSError(f"{fault}; give another one.") from error


def save_tensors(path: Path, tensors: Mapping[str, Any], **metadata: str) -> None:
    """Write tensors as one safetensors file, whole or not at all, with the rights of any new file.

    Raises OSError if the disk is full or the folder cannot be written.
    """
    from safetensors.torch import save_file

    on_cpu: dict[str, Any] = {}
    memory = set()  # safetensors refuses two tensors that share theirs, as tied weights do
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        place = plain.untyped_storage().data_ptr()
        on_cpu[name] = plain.clone() if place in memory else plain
        memory.add(place)
    with draft_of(path) as draft:
        draft.touch()  # with the rights of this user's files; safetensors gives its own 0600
        rights = draft.stat().st_mode
        save_file(on_cpu, draft, metadata=metadata or None)
        draft.chmod(rights)


def remove_drafts(folder: Path, seconds: float = STALE, pattern: str = "*.part") -> None:
    """Remove what kills left half-written in a folder.

    That is drafts whose process on this machine has ended, and those unchanged for so long.
    """
    for draft in folder.glob(pattern):
        with suppress(OSError):  # another process removes it too
            if _has_no_writer(draft) or time.time() - draft.stat().st_mtime >= seconds:
                _delete(draft)


def _has_no_writer(draft: Path) -> bool:
    """Whether the process that wrote a draft was one of this machine and has ended."""
    named = re.search(r"\.([0-9a-f]{8})\.(\d+)\.\d+\.part$", draft.name)
    if named is None or named[1] != _machine() or os.name != "posix":
        return False  # elsewhere the signal 0 is not a question
    try:
        os.kill(int(named[2]), 0)
    except OSError as error:  # another one: it is there, and another user's
        return isinstance(error, ProcessLookupError)
    return False


@cache
def _machine() -> str:
    """Eight digits that name this machine, and on it this container: their process numbers."""
    space = ""
    with suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(f"{platform.node()} {space}".encode()).hexdigest()[:8]


def show_name(path: Path) -> str:
    """The last part of a path as a text; what of it is no UTF-8 on this disk is marked (U+FFFD)."""
    return os.fsencode(path.resolve().name).decode(errors="replace")


def hash_file(path: Path) -> str:
    """The sha256 of a file's content. Raises OSError where there is no file."""
    with _check_file(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_text(path: Path) -> str:
    """The text of a file in UTF-8. Raises OSError where there is no file, UnicodeError."""
    return _check_file(path).read_text(encoding="utf-8")


def _check_file(path: Path) -> Path:
    """The path, unless something else than a file is there: a pipe would never end."""
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is no plain file; move it away.")
    return path


def to_json(data: Any) -> bytes:
    """Plain data as indented JSON with sorted keys."""
    text = json.dumps(to_plain(data), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def to_plain(value: Any) -> Any:
    """A value as JSON can hold it: any library's numbers, tables as records, NaN and ∞ as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, pd.DataFrame):
        value = value.to_dict("records")
    if hasattr(value, "tolist"):  # numpy arrays and scalars
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): to_plain(one) for key, one in value.items()}
    if isinstance(value, set | frozenset):
        value = sorted(value, key=repr)  # its own order is another in every process
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return [to_plain(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
