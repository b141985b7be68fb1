"""A finished run, ready to be looked into: its clips, and what flows in it at every site and checkpoint."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from desta_lab import audio, cache
from desta_lab.analysis import sites as captured
from desta_lab.clips import Clip, balance_speakers
from desta_lab.evaluation.tasks import Task
from desta_lab.experiments.experiment import Experiment, Progress, no_progress
from desta_lab.training import checkpoints
from desta_lab.training.features import FeatureStore, features_folder
from desta_lab.views.style import pick_evenly
from desta_lab.world.describe import describe

VERSION = 1  # of what is captured and computed here: raise it and everything is done again
CLIPS = {
    "validation": 96,
    "test": 192,
}  # of speakers never heard in training; validation calibrates
STEPS = 8  # rungs of the ladder that are looked into, first and last among them
EXPLAINED = 16  # clips whose answers are attributed
CHECKED = 8  # of these, explained again under other weights
PAIRS = 24  # clips patched into others
SEEDS = (0, 1)  # of UMAP
WORDS = 64  # clips whose audio embeddings are looked up in the vocabulary
BATCH = 16
SAMPLES = 3  # orders of Shapley sampling

Make = Callable[["Subject"], pd.DataFrame]
TABLES: dict[str, Make] = {}  # what there is to know, in the order it is found out
REVISIONS: dict[str, int] = {}  # of how a table is computed


def tabled(revision: int = 1) -> Callable[[Make], Make]:
    """Make a function one of the analysis's tables, under its own name; a new revision is computed anew."""

    def register(make: Make) -> Make:
        TABLES[make.__name__], REVISIONS[make.__name__] = make, revision
        return make

    return register


class Subject:
    """A finished run with the clips it is looked at with, and what flows in it at every site and checkpoint.

    Args:
        job: a quickstart; the run is found on disk, or trained first.
        kind: which of its runs: `self` or `label`.

    Raises:
        ValueError: the run was trained on another corpus than the spoken world.
    """

    def __init__(
        self, job: Experiment, kind: str = "self", *, progress: Progress = no_progress
    ) -> None:
        if job.describe is not describe:
            raise ValueError(
                f"{job.corpus.folder}: the analysis asks about the spoken world's attributes and its spans, which this "
                "corpus lacks; look into a run of the spoken world."
            )
        self.job, self.progress = job, progress
        self.folder = job.train(kind)
        self.llm = job.llm
        self.tasks: list[Task] = [task for task in job.tasks if task.rung == 3]
        rungs = {rung["step"]: rung["sha256"] for rung in checkpoints.list_checkpoints(self.folder)}
        self.checkpoints = {step: rungs[step] for step in pick_evenly(sorted(rungs), STEPS)}
        self.last = max(self.checkpoints)
        checkpoints.load_checkpoint(
            self.folder, self.llm, self.last
        )  # where it stands between any two measurements
        self.clips = [
            c
            for split, count in CLIPS.items()
            for c in balance_speakers(job.corpus.split(split), count)
        ]
        validation = set(job.corpus.splits["validation"])
        self.held_out = [i for i, clip in enumerate(self.clips) if clip.speaker in validation]
        self.scored = [i for i, clip in enumerate(self.clips) if clip.speaker not in validation]
        self.speakers = [clip.speaker for clip in self.clips]
        self.labels = {
            task.attribute: [c.attributes[task.attribute] for c in self.clips]
            for task in self.tasks
        }

    # ---- what is captured ----

    @cached_property
    def store(self) -> FeatureStore:
        """Encoder states of the clips looked at."""
        sha256 = self.llm.provenance["encoder_sha256"]
        store = FeatureStore(
            features_folder(self.job.root), self.llm.encoder, sha256, self.job.corpus, self.clips
        )
        store.compute(self.progress("features"))
        return store

    def waves(self, clips: Sequence[Clip]) -> list[np.ndarray]:
        """Their waveforms."""
        return [audio.read_audio(self.job.corpus.path(clip)) for clip in clips]

    def states(self, rows: Sequence[int]) -> Tensor:
        """Encoder states of these rows, as the connector takes them."""
        return self.store[[self.clips[i].id for i in rows]]

    def sites(self, step: int) -> captured.Sites:
        """Everything behind the connector at one checkpoint."""

        def capture() -> captured.Sites:
            checkpoints.load_checkpoint(self.folder, self.llm, step)
            batches = (self.states(rows) for rows in self._batches(f"activations, step {step}"))
            try:
                return captured.capture_sites(self.llm, self.tasks, batches)
            finally:
                checkpoints.load_checkpoint(self.folder, self.llm, self.last)

        return captured.cached_sites(
            self.folder / "inside", {"step": self.checkpoints[step], **self._what}, capture
        )

    def before(self) -> captured.Sites:
        """The sites that training does not move."""

        def capture() -> captured.Sites:
            encoder = self.llm.encoder
            return captured.capture_fixed_sites(
                self.llm,
                (
                    (
                        audio.log_mel(
                            self.waves([self.clips[i] for i in rows]),
                            encoder.seconds,
                            encoder.mel_bins,
                        ),
                        self.states(rows),
                    )
                    for rows in self._batches("spectrograms")
                ),
            )

        return captured.cached_sites(
            self.folder / "inside", {"step": "none", **self._what}, capture
        )

    def spoken(self, rows: Sequence[int], step: int | None = None) -> Tensor:
        """Audio embeddings of these rows, float32, as the backbone is given them at a step (the last by default)."""
        whole = self.sites(self.last if step is None else step)["audio embeddings"]
        return whole[list(rows)].float().to(self.llm.backbone.device)

    def _batches(self, stage: str) -> Iterator[list[int]]:
        tell = self.progress(stage)
        for first in range(0, len(self.clips), BATCH):
            yield list(range(first, min(first + BATCH, len(self.clips))))
            tell(min(first + BATCH, len(self.clips)), len(self.clips))

    @property
    def _what(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "corpus": self.job.corpus.hash,
            "clips": [clip.id for clip in self.clips],
            "tasks": [repr(task) for task in self.tasks],
            "provenance": self.llm.provenance,
            "dtype": str(self.llm.backbone.dtype),
        }

    def task(self, attribute: str) -> Task:
        """The question of rung 3 about an attribute."""
        return next(task for task in self.tasks if task.attribute == attribute)

    @property
    def explained(self) -> tuple[list[int], list[Clip]]:
        """Rows and clips whose answers are attributed."""
        rows = self.scored[:EXPLAINED]
        return rows, [self.clips[i] for i in rows]

    def table(self, name: str) -> pd.DataFrame:
        """One of the analysis's tables, from disk or computed now."""
        return cache.cached_table(self.path(name), lambda: TABLES[name](self))

    def path(self, name: str) -> Path:
        """Where a table is kept, named by the hash of what determines it."""
        if name not in TABLES:
            raise ValueError(f"There is no table {name!r}; there are {', '.join(TABLES)}.")
        sizes = (EXPLAINED, CHECKED, PAIRS, SEEDS, WORDS, SAMPLES)
        key = json.dumps([self.checkpoints, self._what, sizes, REVISIONS[name]], sort_keys=True)
        digest = hashlib.sha256(key.encode()).hexdigest()[:12]
        return self.folder / "inside" / f"{name}-{digest}.csv"
