"""Inside a finished run: what flows at every site and checkpoint, its tables and its figures."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from desta_lab import audio
from desta_lab.analysis.capture import Sites, capture_fixed_sites, capture_sites, site_modules
from desta_lab.analysis.evidence import leaves_room
from desta_lab.cache import Provenance, find_or_make, make_folder
from desta_lab.clips import Clip, balance_speakers
from desta_lab.evaluation.tasks import Task
from desta_lab.experiments.experiment import Experiment, report_each
from desta_lab.experiments.inside_tables import BATCH, SIZES, TABLES
from desta_lab.training import checkpoints
from desta_lab.training.features import FeatureStore
from desta_lab.views import clip_figures, explanation_figures, representation_figures, saving
from desta_lab.views.style import pick_evenly
from desta_lab.world.describe import describe

# clips of speakers never heard in training; those of validation calibrate
CLIPS = {"validation": 96, "test": 192}
CHECKPOINTS = 8  # that are looked into, the first and the last among them


class Inside:
    """What a run's connector and backbone hold at every site, along training: tables and figures.

    Between any two measurements the model stands at the last checkpoint. Rows are numbers of
    `clips`: `calibration` and `scored` have other speakers; `traced` are those scored ones whose
    profiles over time are compared with the evidence, and `explained` the first of them.

    Args:
        experiment: the run is found on disk, or trained first.
        kind: which of its runs: `self` or `label`.
        out: where figures go; `experiment.figures_folder("inside")` by default.

    Raises:
        ValueError: the run was trained on another corpus than the spoken world.
    """

    def __init__(
        self, experiment: Experiment, kind: str = "self", *, out: Path | None = None
    ) -> None:
        if experiment.describe is not describe:
            raise ValueError(
                f"{experiment.corpus.folder}: the analysis asks about the attributes and spans of "
                "the spoken world, which this corpus lacks; look into a run of the spoken world."
            )
        self.experiment, self.progress = experiment, experiment.progress
        self.out = make_folder(out or experiment.figures_folder("inside"))
        corpus = experiment.corpus
        self.folder, self.llm = experiment.train(kind), experiment.llm
        listed = {one["step"]: one["sha256"] for one in checkpoints.list_checkpoints(self.folder)}
        self.checkpoints = {step: listed[step] for step in pick_evenly(sorted(listed), CHECKPOINTS)}
        self.last = max(listed)
        checkpoints.load_checkpoint(self.folder, self.llm, self.last)
        self.tasks: list[Task] = [task for task in experiment.tasks if task.rung == 3]
        parts = [balance_speakers(corpus.split(split), count) for split, count in CLIPS.items()]
        self.clips: list[Clip] = [clip for part in parts for clip in part]
        self.calibration = list(range(len(parts[0])))
        self.scored = list(range(len(parts[0]), len(self.clips)))
        self.traced = self._find_room(experiment.preset.label)[: SIZES["traced"]]
        self.explained = self.traced[: SIZES["explained"]]
        self.speakers = [clip.speaker for clip in self.clips]
        self.labels = {task.attribute: self.values(task.attribute) for task in self.tasks}

    # ---- clips and questions ----

    def task(self, attribute: str) -> Task:
        """The question of rung 3 about an attribute."""
        return next(task for task in self.tasks if task.attribute == attribute)

    def pick(self, rows: Sequence[int]) -> list[Clip]:
        """The clips of these rows."""
        return [self.clips[row] for row in rows]

    def values(self, attribute: str, rows: Sequence[int] | None = None) -> list[str]:
        """The values of an attribute in these rows, by default in all."""
        clips = self.clips if rows is None else self.pick(rows)
        return [clip.attributes[attribute] for clip in clips]

    def read_waves(self, rows: Sequence[int]) -> list[np.ndarray]:
        """The waveforms of these rows."""
        return [audio.read_audio(self.experiment.corpus.path(clip)) for clip in self.pick(rows)]

    def _find_room(self, attribute: str) -> list[int]:
        """The scored rows whose evidence leaves a profile room to miss it."""
        clips, seconds = self.clips, self.llm.encoder.seconds
        return [row for row in self.scored if leaves_room(clips[row], attribute, seconds)]

    # ---- what flows ----

    @cached_property
    def features(self) -> FeatureStore:
        """Encoder states of all clips."""
        return self.experiment.store_features(self.clips)

    def encoder_states(self, rows: Sequence[int]) -> Tensor:
        """Encoder states of these rows, as the connector takes them."""
        return self.features[[clip.id for clip in self.pick(rows)]]

    def audio_embeddings(self, rows: Sequence[int], step: int | None = None) -> Tensor:
        """Audio embeddings of these rows in float32 at a checkpoint, by default the last."""
        site = self.sites(self.last if step is None else step)["audio embeddings"]
        return site[list(rows)].float().to(self.llm.backbone.device)

    def sites(self, step: int) -> Sites:
        """Every site behind the encoder at one checkpoint, for all clips."""

        def capture() -> Sites:
            batches = map(self.encoder_states, self._batches(f"sites, step {step}"))
            with self.at_checkpoint(step):
                return capture_sites(self.llm, self.tasks, batches)

        return self._find_or_capture(self.checkpoints[step], capture)

    def fixed_sites(self) -> Sites:
        """The sites that training does not move, for all clips."""
        encoder = self.llm.encoder

        def inputs(rows: Sequence[int]) -> tuple[Tensor, Tensor]:
            mel = audio.log_mel(self.read_waves(rows), encoder.seconds, encoder.mel_bins)
            return mel, self.encoder_states(rows)

        return self._find_or_capture(
            None, lambda: capture_fixed_sites(self.llm, map(inputs, self._batches("spectrograms")))
        )

    @contextmanager
    def at_checkpoint(self, step: int) -> Iterator[None]:
        """Inside the context, the model stands at this checkpoint; outside, at the last."""
        checkpoints.load_checkpoint(self.folder, self.llm, step)
        try:
            yield
        finally:
            checkpoints.load_checkpoint(self.folder, self.llm, self.last)

    def _batches(self, stage: str) -> Iterator[list[int]]:
        rows = range(len(self.clips))
        batches = [list(rows[first : first + BATCH]) for first in rows[::BATCH]]
        return report_each(batches, self.progress(stage))

    # ---- results ----

    def table(self, name: str) -> pd.DataFrame:
        """One of the analysis's tables (`inside_tables.TABLES`), found on disk or computed.

        Raises:
            ValueError: there is no such table.
        """
        if name not in TABLES:
            raise ValueError(f"There is no table {name!r}; there are {', '.join(TABLES)}.")
        provenance = self.provenance(name)
        return find_or_make(self.experiment.root, provenance, lambda: TABLES[name](self))

    def provenance(self, table: str, **facts: Any) -> Provenance:
        """What determines a table of this analysis, or of one's own with these facts."""
        shared = {"checkpoints": self.checkpoints, "sizes": SIZES}
        return self._measured.derive("inside", table=table, **shared, **facts)

    def run(self) -> dict[str, pd.DataFrame]:
        """Compute every table and save every figure."""
        names = report_each(list(TABLES), self.progress("analysis"))
        tables = {name: self.table(name) for name in names}
        facts = {
            "run": self.folder.name,
            "checkpoints": self.checkpoints,
            "seeds": [self.experiment.seed],
        }
        for name, picture in draw_figures(self, tables).items():
            saving.save_figure(picture, self.out, name, provenance=facts)
        label = self.experiment.preset.label
        for method in ("pca", "umap"):
            path = self.out / f"map_{method}.gif"
            representation_figures.save_film(tables["points"], path, label, method)
        return tables

    @property
    def _measured(self) -> Provenance:
        """The model, the clips and the questions; not the checkpoint."""
        return self.experiment.provenance(
            "sites",
            corpus=self.experiment.corpus.hash,
            clips=[clip.id for clip in self.clips],
            tasks=[repr(task) for task in self.tasks],
        )

    def _find_or_capture(self, checkpoint: str | None, capture: Any) -> Sites:
        provenance = self._measured.derive(
            "sites", checkpoint=checkpoint, sites=list(site_modules(self.llm))
        )
        return find_or_make(self.experiment.root, provenance, capture)


def draw_figures(inside: Inside, tables: dict[str, pd.DataFrame]) -> dict[str, saving.Picture]:
    """Every figure of the analysis, by the name of its file."""
    label, points = inside.experiment.preset.label, tables["points"]
    trust, purity = points.drop_duplicates(["step", "method", "seed"]), tables["purity"]
    return {
        "readable": representation_figures.plot_probe_accuracy(
            tables["probes"], tables["answers"], "Present, readable, spoken: three things"
        ),
        "selectivity": representation_figures.plot_selectivity(
            tables["probes"], "What a probe reads, and what of random labels"
        ),
        "learning_curves": representation_figures.plot_learning_curves(
            tables["learning_curves"], "How many clips a probe needs"
        ),
        "similar_sites": representation_figures.plot_similarity(
            tables["similar_sites"], "Which sites lay out the clips alike"
        ),
        "similar_steps": representation_figures.plot_similarity(
            tables["similar_steps"], "How the audio embeddings change along training"
        ),
        "map_pca": representation_figures.plot_maps(
            points,
            trust,
            label,
            f"The audio embeddings of unseen speakers, by {label}",
            "pca",
            purity,
        ),
        "map_umap": representation_figures.plot_maps(
            points, trust, label, "The same clips through UMAP", "umap", purity
        ),
        "modality_gap": representation_figures.plot_modality_gap(
            tables["gap"], "Does hearing come closer to reading?"
        ),
        "nearest_words": representation_figures.plot_nearest_words(
            tables["words"], "The words that each query lies nearest to"
        ),
        "answer_attention": explanation_figures.plot_answer_attention(
            tables["heads"], "Which heads look at the audio"
        ),
        "evidence": explanation_figures.plot_evidence(
            tables["evidence"], _state_evidence(tables["evidence"], "mass"), "mass"
        ),
        "deletion": explanation_figures.plot_deletion(
            tables["deletion"], f"Taking away what matters ({label})"
        ),
        "logit_lens": explanation_figures.plot_logit_lens(
            tables["lens"], "At which layer the answer is there"
        ),
        "patching": explanation_figures.plot_patching(
            tables["patching"], "Which query carries which attribute"
        ),
        "erasure": explanation_figures.plot_erasure(tables["erasure"], "What the answer uses"),
        "listen_where": _draw_profiles(inside, tables["profiles"], label),
    }


def _state_evidence(summary: pd.DataFrame, measure: str) -> str:
    """How many methods find the evidence, by their paired gains over another clip's."""
    own = summary[(summary["null"] == "own") & (summary["measure"] == measure)]
    found = own[own["gain_low"] > 0]["method"].tolist()
    names = f" ({', '.join(found)})" if 0 < len(found) < 4 else ""
    return (
        f"{len(found)} of {len(own)} methods find the evidence better than another clip's{names}; "
        "of methods that find nothing, one in forty would"
    )


def _draw_profiles(inside: Inside, profiles: pd.DataFrame, label: str) -> saving.Picture:
    """The profiles of the first scored clip over its spectrogram."""
    row, encoder = inside.scored[0], inside.llm.encoder
    clip = inside.clips[row]
    own = profiles[(profiles["attribute"] == label) & (profiles["clip"] == clip.id)]
    by_method = {
        str(method): rows.sort_values("place")["value"].to_numpy()
        for method, rows in own.groupby("method", sort=False)
    }
    (mel,) = audio.log_mel(inside.read_waves([row]), encoder.seconds, encoder.mel_bins)
    return clip_figures.plot_time_profiles(
        mel.numpy(),
        encoder.seconds,
        by_method,
        clip.spans,
        f"Where the answer about the {label} was heard",
    )


def summarise_tables(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Accuracy per attribute: of probes before and behind the connector, and of the answers."""
    probed = tables["probes"].query("kind == 'probe'")
    last = probed["step"].max()
    rows = []
    for attribute, measured in probed.groupby("attribute"):
        accuracy = measured.set_index(["site", "step"])["accuracy"]
        encoder = measured[measured["site"].str.startswith("encoder")]["accuracy"]
        embeddings = accuracy["audio embeddings"]
        answers = tables["answers"].query("attribute == @attribute").set_index("step")["accuracy"]
        rows.append(
            {
                "attribute": attribute,
                "chance": measured["chance"].iloc[0],
                "log-mel": accuracy["log-mel"].iloc[0],
                "best encoder layer": encoder.max(),
                "embeddings, untrained": embeddings[0],
                "embeddings": embeddings[last],
                "answers, untrained": answers[0],
                "answers": answers[last],
            }
        )
    return pd.DataFrame(rows).round(2)
