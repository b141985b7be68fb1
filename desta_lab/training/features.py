"""Encoder states of the tapped layers in fp16: computed once and memory-mapped, or heard when they are asked for."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from jaxtyping import Float, Float16
from torch import Tensor

from desta_lab import audio, cache, processes
from desta_lab.clips import Clip, Corpus
from desta_lab.model.encoder import Encoder

SHARD = 64  # clips per file: at most this many are computed again after a kill


def features_folder(home: Path) -> Path:
    """Where features are kept: `$DESTA_LAB_FEATURES`, on any disk, else `features` in the home of all data."""
    return Path(os.environ.get("DESTA_LAB_FEATURES") or home / "features")


class OnTheFlyFeatures:
    """Tapped layers of any clips, heard when they are asked for; nothing is hashed, written or kept.

    A name is the path of the audio, unless `find` tells where a name's audio lies. States are rounded to fp16, as
    those of a FeatureStore are; the two differ by what a batch of another size does to a sum.
    """

    def __init__(self, encoder: Encoder, find: Callable[[str], Path] = Path) -> None:
        self.encoder, self.find = encoder, find

    def __getitem__(self, names: Sequence[str]) -> Float[Tensor, "layer batch frame d_enc"]:
        """Encoder states of these clips, each heard once; raises AudioError."""
        unique = list(dict.fromkeys(names))
        states = _heard(self.encoder, [self.find(name) for name in unique])
        return states[:, [unique.index(name) for name in names]].float()


class FeatureStore:
    """Tapped layers of a corpus's clips on disk: one shard of (clip, layer, frame, width) fp16 per 64 clips.

    The folder's name is the hash of everything that determines the numbers: encoder, layers, crop, clips and their
    audio, which is read for it (a gigabyte a second). Layers are the published ones where they hold the tapped ones, so
    that encoders with fewer taps share a store. A shard is written under another name and moved into
    place; its checksum stands in `shards.json`.

    Without `compute`, or while shards are missing, a store is partial: their clips are heard when they are asked for.
    With `keep`, the whole shard of such a clip is computed and stays.
    """

    def __init__(
        self,
        root: Path,
        encoder: Encoder,
        encoder_sha256: str,
        corpus: Corpus,
        clips: Sequence[Clip],
        *,
        keep: bool = False,
    ) -> None:
        self.encoder, self.corpus, self.clips, self.keep = encoder, corpus, list(clips), keep
        self.layers = encoder.published_taps
        self._taps = [self.layers.index(tap) for tap in encoder.taps]
        key = {
            "encoder": encoder_sha256,
            "taps": self.layers,
            "seconds": encoder.seconds,
            "clips": [
                (clip.id, _checksum(corpus.path(clip))) for clip in self.clips
            ],  # in order: rows have no names
            "shard": SHARD,
        }
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        self.folder = root / digest[:16]
        self._lock = FileLock(
            self.folder / ".lock"
        )  # others may fill the same folder: other ranks, other jobs
        self._row = {str(corpus.path(clip)): i for i, clip in enumerate(self.clips)}
        self._row |= {clip.id: i for i, clip in enumerate(self.clips)}
        self._open: dict[
            int, np.ndarray | None
        ] = {}  # None: missing or torn when it was looked for

    @property
    def shape(self) -> tuple[int, int, int]:
        """(layer, frame, width) of one clip on disk."""
        return len(self.layers), self.encoder.frames, self.encoder.width

    @property
    def gigabytes(self) -> float:
        """What the whole store takes on disk."""
        return len(self.clips) * int(np.prod(self.shape)) * 2 / 1e9

    def compute(self, progress: Callable[[int, int], None] | None = None, batch: int = 16) -> None:
        """Compute the shards that are missing, torn or foreign; nothing else. Several ranks do it together.

        Raises:
            OSError: the disk is too full, before anything is written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        known = self._checksums()
        shards = range(-(-len(self.clips) // SHARD))
        missing = processes.broadcast([n for n in shards if not self._whole(n, known)])
        need = sum(len(self._clips(n)) for n in missing) * int(np.prod(self.shape)) * 2
        free = shutil.disk_usage(self.folder).free
        if need > free:
            raise OSError(
                f"{self.folder}: the features need {need / 1e9:.3g} GB and {free / 1e9:.3g} GB are free; free some, "
                "use fewer clips, or set DESTA_LAB_FEATURES to a folder on a larger disk."
            )
        mine = processes.share_of_rank(missing)
        done, total = 0, sum(len(self._clips(n)) for n in mine)
        for n in mine:
            for part in self._make(n, batch):
                done += part
                if progress:
                    progress(done, total)
        processes.wait_for_all()
        self._open = {n: self._map(n) for n in shards}

    def _make(self, n: int, batch: int = 16) -> Iterator[int]:
        """Compute one shard and move it into place; yields the number of clips of every batch heard."""
        clips = self._clips(n)
        rows = np.empty((len(clips), *self.shape), dtype=np.float16)
        for first in range(0, len(clips), batch):
            part = clips[first : first + batch]
            states = _heard(self.encoder, [self.corpus.path(clip) for clip in part], self.layers)
            rows[first : first + len(part)] = states.transpose(0, 1).cpu().numpy()
            yield len(part)
        path = self.folder / f"{n:05d}.npy"
        np.save(path.with_suffix(".part.npy"), rows)
        path.with_suffix(".part.npy").replace(path)
        with self._lock:
            known = self._checksums() | {path.name: _checksum(path)}
            cache.write_whole(
                self.folder / "shards.json", json.dumps(known, indent=1, sort_keys=True).encode()
            )

    def __getitem__(self, names: Sequence[str]) -> Float[Tensor, "layer batch frame d_enc"]:
        """Encoder states of these clips, named by id or by the path of their audio, as the connector takes them.

        Raises:
            ValueError: the store knows no such clip.
        """
        unknown = next((name for name in names if name not in self._row), None)
        if unknown is not None:
            raise ValueError(
                f"{unknown} is none of the {len(self.clips)} clips of {self.folder}; open the store with it, or use "
                "OnTheFly, which hears any."
            )
        rows = [self._row[name] for name in names]
        shards = {n: self._shard(n) for n in {row // SHARD for row in rows}}
        absent = [row for row in dict.fromkeys(rows) if shards[row // SHARD] is None]
        states = {}
        if absent:
            heard = _heard(
                self.encoder, [self.corpus.path(self.clips[row]) for row in absent]
            ).cpu()
            states = dict(zip(absent, heard.unbind(1), strict=True))
        for row in set(rows) - set(absent):
            shard: Any = shards[row // SHARD]
            states[row] = torch.from_numpy(shard[row % SHARD][self._taps])
        return torch.stack([states[row] for row in rows], dim=1).float()

    def _shard(self, n: int) -> np.ndarray | None:
        """A shard as it is on disk, checked when it is first looked for; None where it is missing or torn."""
        if n not in self._open and self.keep:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._lock:
                if not self._whole(n, self._checksums()):
                    list(self._make(n))
        if n not in self._open:
            self._open[n] = self._map(n) if self._whole(n, self._checksums()) else None
        return self._open[n]

    def _map(self, n: int) -> np.ndarray:
        return np.load(self.folder / f"{n:05d}.npy", mmap_mode="r", allow_pickle=False)

    def _clips(self, n: int) -> list[Clip]:
        return self.clips[n * SHARD : (n + 1) * SHARD]

    def _whole(self, n: int, known: dict[str, Any]) -> bool:
        path = self.folder / f"{n:05d}.npy"
        return path.exists() and known.get(path.name) == _checksum(path)

    def _checksums(self) -> dict[str, Any]:
        try:
            known: dict[str, Any] = json.loads((self.folder / "shards.json").read_text())
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}


def _heard(
    encoder: Encoder, paths: Sequence[Path], layers: Sequence[int] | None = None
) -> Float16[Tensor, "layer batch frame d_enc"]:
    return encoder.encode([audio.read_audio(path) for path in paths], layers).half()


def _checksum(path: Path) -> str:
    """blake2b of a shard: a gigabyte a second, so every store is checked whenever it is opened."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
