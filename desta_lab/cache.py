"""Files that are there whole or not at all: bytes, JSON, and tables that are made once."""

import dataclasses
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: beside its place first, then moved there. Its folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


def cached_table(path: Path, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """A table from its CSV, or made and kept; a CSV that cannot be read is made again."""
    try:
        return pd.read_csv(path)
    except (OSError, pd.errors.ParserError, pd.errors.EmptyDataError):
        table = make()
        write_whole(path, table.to_csv(index=False).encode())
        return table


def to_json(data: Any) -> bytes:
    """Plain data as indented JSON with sorted keys."""
    return (
        json.dumps(to_plain(data), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
        + "\n"
    ).encode()


def to_plain(value: Any) -> Any:
    """A value as JSON can hold it: numbers of any library, tables as records, paths as text, NaN and ∞ as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, pd.DataFrame):
        value = value.to_dict("records")
    if hasattr(value, "tolist"):  # numpy arrays and scalars
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): to_plain(one) for key, one in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return [to_plain(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
