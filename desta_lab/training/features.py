"""Encoder states of the tapped layers, computed once, kept in fp16 and memory-mapped."""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from desta_lab import audio
from desta_lab.clips import Clip, Corpus
from desta_lab.model.encoder import Encoder

SHARD = 64  # clips per file: at most this many are computed again after a kill


class FeatureStore:
    """Tapped layers of a corpus's clips on disk: one shard of (clip, layer, frame, width) fp16 per 64 clips.

    The folder's name is the hash of everything that determines the numbers: encoder, tapped layers, crop, clips and
    their audio. A shard is written under another name and moved into place; its checksum stands in `shards.json`.
    """

    def __init__(
        self, root: Path, encoder: Encoder, encoder_sha256: str, corpus: Corpus, clips: Sequence[Clip]
    ) -> None:
        self.encoder, self.corpus, self.clips = encoder, corpus, list(clips)
        key = {
            "encoder": encoder_sha256,
            "taps": encoder.taps,
            "seconds": encoder.seconds,
            "clips": [(clip.id, _checksum(corpus.path(clip))) for clip in self.clips],  # in order: rows have no names
            "shard": SHARD,
        }
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        self.folder = root / digest[:16]
        self._row = {clip.id: i for i, clip in enumerate(self.clips)}
        self._open: dict[int, np.ndarray] = {}

    @property
    def shape(self) -> tuple[int, int, int]:
        """(layer, frame, width) of one clip."""
        return len(self.encoder.taps), self.encoder.frames, self.encoder.width

    @property
    def gigabytes(self) -> float:
        """What the whole store takes on disk."""
        return len(self.clips) * int(np.prod(self.shape)) * 2 / 1e9

    def compute(self, progress: Callable[[int, int], None] | None = None, batch: int = 16) -> None:
        """Compute the shards that are missing, torn or foreign; nothing else.

        Raises:
            OSError: the disk is too full, before anything is written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        known = self._checksums()
        shards = [self.clips[first : first + SHARD] for first in range(0, len(self.clips), SHARD)]
        missing = [n for n in range(len(shards)) if not self._whole(n, known)]
        total = sum(len(shards[n]) for n in missing)
        need = total * int(np.prod(self.shape)) * 2
        free = shutil.disk_usage(self.folder).free
        if need > free:
            raise OSError(
                f"{self.folder}: the features need {need / 1e9:.3g} GB and {free / 1e9:.3g} GB are free; free some, "
                "use fewer clips, or set DESTA_LAB_DATA to a larger disk."
            )
        done = 0
        for n in missing:
            clips = shards[n]
            rows = np.empty((len(clips), *self.shape), dtype=np.float16)
            for first in range(0, len(clips), batch):
                part = clips[first : first + batch]
                states = self.encoder.hear([audio.read(self.corpus.path(clip)) for clip in part])
                rows[first : first + len(part)] = states.transpose(0, 1).half().cpu().numpy()
                done += len(part)
                if progress:
                    progress(done, total)
            path = self.folder / f"{n:05d}.npy"
            np.save(path.with_suffix(".part.npy"), rows)
            path.with_suffix(".part.npy").replace(path)
            known[path.name] = _checksum(path)
            self._write_checksums(known)
        self._open.clear()

    def __getitem__(self, ids: Sequence[str]) -> Float[Tensor, "layer batch frame d_enc"]:
        """Encoder states of these clips, as the connector takes them."""
        rows = []
        for clip_id in ids:
            row = self._row[clip_id]
            n = row // SHARD
            if n not in self._open:
                self._open[n] = np.load(self.folder / f"{n:05d}.npy", mmap_mode="r", allow_pickle=False)
            rows.append(torch.from_numpy(np.array(self._open[n][row % SHARD])))
        return torch.stack(rows, dim=1).float()

    def _whole(self, n: int, known: dict[str, Any]) -> bool:
        path = self.folder / f"{n:05d}.npy"
        return path.exists() and known.get(path.name) == _checksum(path)

    def _checksums(self) -> dict[str, Any]:
        try:
            known: dict[str, Any] = json.loads((self.folder / "shards.json").read_text())
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}

    def _write_checksums(self, known: dict[str, Any]) -> None:
        part = self.folder / "shards.json.part"
        part.write_text(json.dumps(known, indent=1))
        part.replace(self.folder / "shards.json")


def _checksum(path: Path) -> str:
    """blake2b of a shard: a gigabyte a second, so every store is checked whenever it is opened."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
