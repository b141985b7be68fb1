"""Encoder states of the tapped layers in fp16: memory-mapped from disk, or encoded on the fly."""

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from jaxtyping import Float16
from torch import Tensor

from desta_lab import audio, cache, processes
from desta_lab.clips import Clip, Corpus
from desta_lab.model.encoder import Encoder

SHARD = 64  # clips per file: at most this many are computed again after a kill
BYTES = 2  # of a number in fp16


def features_folder(root: Path) -> Path:
    """The folder of features: `$DESTA_LAB_FEATURES`, or `features` in the data folder."""
    return Path(os.environ.get("DESTA_LAB_FEATURES") or root / "features")


class OnTheFlyFeatures:
    """Encoder states of any clips, computed when they are asked for; nothing is written.

    A name is the path of the audio, unless `find` maps names to paths. States are rounded to fp16,
    as those of a FeatureStore are; the two differ by what a batch of another size does to a sum.
    """

    def __init__(self, encoder: Encoder, find: Callable[[str], Path] = Path) -> None:
        self.encoder, self.find = encoder, find

    def __getitem__(self, names: Sequence[str]) -> Float16[Tensor, "layer batch frame d_enc"]:
        """Encoder states of these clips, each encoded once; raises AudioError."""
        unique = list(dict.fromkeys(names))
        states = _encode(self.encoder, [self.find(name) for name in unique])
        return states[:, [unique.index(name) for name in names]]

    def are_on_disk(self, names: Sequence[str]) -> bool:
        """Whether these clips can be read without the encoder: never."""
        return False


class FeatureStore:
    """Encoder states of a corpus's clips on disk, (clip, layer, frame, width) in files of 64 clips.

    The folder is named by all that determines the numbers: encoder, layers, precision, crop, clips
    and their audio, which is read for it. Layers are the published ones where they hold the tapped
    ones, so encoders with fewer taps share a store. `shards.json` has the hash of every shard; a
    torn or foreign one is computed again, never read.

    A store may be partial: clips of missing shards are encoded when they are asked for.

    Args:
        settings: of the models, that may act in the encoder beside its layers and crop.
    """

    def __init__(
        self,
        root: Path,
        encoder: Encoder,
        encoder_sha256: str,
        corpus: Corpus,
        clips: Sequence[Clip],
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.encoder, self.corpus, self.clips = encoder, corpus, list(clips)
        self.layers = encoder.published_taps
        self._taps = [self.layers.index(tap) for tap in encoder.taps]
        facts = {
            "encoder_sha256": encoder_sha256,
            "dtype": str(next(encoder.parameters()).dtype),
            "layers": self.layers,
            "seconds": encoder.seconds,
            "clips": [(clip.id, cache.hash_file(corpus.path(clip))) for clip in self.clips],
            "shard": SHARD,
            **(settings or {}),
        }
        self.folder = root / cache.Provenance("features", facts).key
        self._lock = FileLock(self.folder / ".lock")  # other ranks and jobs may fill the folder
        self._row = {str(corpus.path(clip)): row for row, clip in enumerate(self.clips)}
        self._row |= {clip.id: row for row, clip in enumerate(self.clips)}
        self._shards: dict[int, np.ndarray | None] = {}  # None: missing or torn when first read

    @property
    def shape(self) -> tuple[int, int, int]:
        """(layer, frame, width) of one clip on disk."""
        return len(self.layers), self.encoder.frames, self.encoder.width

    @property
    def gigabytes(self) -> float:
        """The size of the whole store on disk."""
        return self._gigabytes(self.clips)

    def _gigabytes(self, clips: Sequence[Clip]) -> float:
        return len(clips) * math.prod(self.shape) * BYTES / 1e9

    def compute(self, progress: Callable[[int, int], None] | None = None, batch: int = 16) -> None:
        """Collective: compute the shards that are missing, torn or foreign.

        Raises:
            OSError: the disk is too full; raised before anything is written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        cache.remove_drafts(self.folder)
        hashes = self._read_hashes()
        count = -(-len(self.clips) // SHARD)
        missing = processes.broadcast([n for n in range(count) if not self._is_whole(n, hashes)])
        clips = {n: self.clips[n * SHARD : (n + 1) * SHARD] for n in missing}
        need = self._gigabytes([clip for some in clips.values() for clip in some])
        free = shutil.disk_usage(self.folder).free / 1e9
        if need > free:
            raise OSError(
                f"{self.folder}: the features need {need:.3g} GB and {free:.3g} GB are free; free "
                "some, use fewer clips, or set DESTA_LAB_FEATURES to a folder on a larger disk."
            )
        mine = processes.share_of_rank(missing)
        done, total = 0, sum(len(clips[n]) for n in mine)
        for n in mine:
            for encoded in self._compute_shard(n, clips[n], batch):
                done += encoded
                if progress:
                    progress(done, total)
        processes.wait_for_all()
        self._shards = {n: self._map(n) for n in range(count)}

    def _compute_shard(self, n: int, clips: Sequence[Clip], batch: int) -> Iterator[int]:
        """Compute one shard, or wait for who does; yield the number of clips of each batch."""
        path = self._path(n)
        with FileLock(self.folder / f".{n:05d}.lock"):  # another process may compute it, too
            if self._is_whole(n, self._read_hashes()):
                yield len(clips)
                return
            rows = np.empty((len(clips), *self.shape), dtype=np.float16)
            for first in range(0, len(clips), batch):
                paths = [self.corpus.path(clip) for clip in clips[first : first + batch]]
                states = _encode(self.encoder, paths, self.layers)
                rows[first : first + batch] = states.transpose(0, 1).cpu().numpy()
                yield len(paths)
            with cache.draft_of(path) as draft, draft.open("wb") as file:
                np.lib.format.write_array_header_1_0(
                    file, np.lib.format.header_data_from_array_1_0(rows)
                )
                file.write(rows.data)  # np.save says of a full disk neither that nor where
            with self._lock:
                hashes = self._read_hashes() | {path.name: cache.hash_file(path)}
                cache.write_whole(self.folder / "shards.json", cache.to_json(hashes))

    def __getitem__(self, names: Sequence[str]) -> Float16[Tensor, "layer batch frame d_enc"]:
        """Encoder states of these clips, named by id or by the path of their audio.

        They are in fp16, as they lie on disk; `AudioLLM.connect` makes them float32 on its device.

        Raises:
            ValueError: the store has no such clip.
        """
        rows = self._find_rows(names)
        states: dict[int, Tensor] = {}
        for row in dict.fromkeys(rows):
            shard = self._read_shard(row // SHARD)
            if shard is not None:
                states[row] = torch.from_numpy(shard[row % SHARD][self._taps])
        absent = [row for row in dict.fromkeys(rows) if row not in states]
        if absent:
            paths = [self.corpus.path(self.clips[row]) for row in absent]
            encoded = _encode(self.encoder, paths).cpu()
            states |= dict(zip(absent, encoded.unbind(1), strict=True))
        return torch.stack([states[row] for row in rows], dim=1)

    def are_on_disk(self, names: Sequence[str]) -> bool:
        """Whether these clips can be read without the encoder; raises ValueError as reading."""
        shards = {row // SHARD for row in self._find_rows(names)}
        return all(self._read_shard(n) is not None for n in shards)

    def _find_rows(self, names: Sequence[str]) -> list[int]:
        unknown = [name for name in names if name not in self._row]
        if unknown:
            fault = f"{unknown[0]} is none of the {len(self.clips)} clips of {self.folder}"
            remedy = "open the store with it, or use OnTheFlyFeatures, which encodes any"
            raise ValueError(f"{fault}; {remedy}.")
        return [self._row[name] for name in names]

    # ---- shards ----

    def _read_shard(self, n: int) -> np.ndarray | None:
        """A shard of the disk, checked when it is first read; None where it is missing or torn."""
        if n not in self._shards:
            self._shards[n] = self._map(n) if self._is_whole(n, self._read_hashes()) else None
        return self._shards[n]

    def _path(self, n: int) -> Path:
        return self.folder / f"{n:05d}.npy"

    def _map(self, n: int) -> np.ndarray:
        return np.load(self._path(n), mmap_mode="r", allow_pickle=False)

    def _is_whole(self, n: int, hashes: dict[str, Any]) -> bool:
        path = self._path(n)
        return path.exists() and hashes.get(path.name) == cache.hash_file(path)

    def _read_hashes(self) -> dict[str, Any]:
        """The hashes that stand in `shards.json`; none where it is unreadable."""
        try:
            hashes: Any = json.loads(cache.read_text(self.folder / "shards.json"))
        except (OSError, ValueError, RecursionError):
            return {}
        return hashes if isinstance(hashes, dict) else {}


Features = FeatureStore | OnTheFlyFeatures  # they give states for names, and are_on_disk


def _encode(
    encoder: Encoder, paths: Sequence[Path], layers: Sequence[int] | None = None
) -> Float16[Tensor, "layer batch frame d_enc"]:
    states = encoder.encode([audio.read_audio(path) for path in paths], layers).half()
    if not states.isfinite().all():
        fault = f"{paths[0]} and what follows it: encoder states are not finite in float16"
        raise ValueError(f"{fault}; check the encoder's weights, or tap other layers.")
    return states
