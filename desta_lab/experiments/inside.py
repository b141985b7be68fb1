"""Inside a model: what flows at every site and checkpoint, its tables and its figures."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from desta_lab import audio, cache
from desta_lab.analysis.dictionary import SparseAutoencoder, slot_states, train_dictionary
from desta_lab.analysis.evidence import leaves_room
from desta_lab.analysis.probe_sites import (
    Sites,
    capture_fixed_sites,
    capture_sites,
    site_facts,
    site_modules,
)
from desta_lab.analysis.probes import ProbeError
from desta_lab.cache import Provenance, make_folder
from desta_lab.clips import Clip, Span, balance_speakers
from desta_lab.evaluation import scoring
from desta_lab.evaluation.conditions import embed_silence
from desta_lab.evaluation.tasks import Task
from desta_lab.experiments.experiment import Experiment
from desta_lab.experiments.inside_figures import MAPS, draw_figures
from desta_lab.experiments.inside_inputs import (
    InsideError,
    check_labels,
    check_tasks,
    hash_sound,
    make_clips,
    pick_calibration,
)
from desta_lab.experiments.inside_tables import MAP_SEEDS, NEEDS, OTHER_SIZES, SIZES, TABLES
from desta_lab.model.audio_llm import AudioLLM, hash_state, hash_tensors
from desta_lab.model.presets import Preset
from desta_lab.model.runs import read_run_config
from desta_lab.model.sites import Sound, read_waves
from desta_lab.training import checkpoints as runs
from desta_lab.training.features import FeatureStore
from desta_lab.views import saving
from desta_lab.views.progress import Progress, no_progress, report_each
from desta_lab.views.representation_figures import save_film
from desta_lab.views.style import pick_evenly
from desta_lab.world.describe import describe_plainly

# clips of speakers never heard in training; those of validation calibrate
CLIPS = {"validation": 96, "test": 192}


class Inside:
    """What an AudioLLM holds at every site for some clips, along training if it has checkpoints.

    Between any two measurements the model stands at the last checkpoint. Rows are numbers of
    `clips`: `calibration` and `scored` have other speakers; `traced` are those scored ones whose
    profiles over time are compared with the evidence, and `explained` the first of them.

    Args:
        clips: audio files, waveforms at 16 kHz, or `Clip`s, which bring labels, speakers and spans.
        labels: attribute → its value in every clip; by default what all `Clip`s have.
        tasks: questions about these attributes; by default one plain question about each.
        spans: of every clip, where something is heard.
        checkpoints: the folder of a run, or step → connector file; by default the model as it is.
        seeds: of maps by UMAP.
        speakers: of every clip; by default each clip counts as a speaker of its own.
        transcripts: words of every clip, which stand behind its audio embeddings.
        describe: attributes → a sentence, which the text oracle reads.
        calibration: rows that calibrate the answers; by default those of a third of the speakers.
        label: the attribute whose answers are explained; by default the first task's.
        sizes: of the analysis, by the names in `inside_tables.SIZES` and `OTHER_SIZES`.
        folder: what the audio of `Clip`s is relative to.
        root: a data folder that keeps all results; by default they are kept in memory.
        out: where `run` saves figures; by default nowhere.

    Raises:
        InsideError: clips, labels, speakers, transcripts and tasks do not fit each other.
    """

    def __init__(
        self,
        llm: AudioLLM,
        clips: Sequence[Clip | Sound],
        labels: Mapping[str, Sequence[str]] | None = None,
        tasks: Sequence[Task] | None = None,
        spans: Sequence[Sequence[Span]] | None = None,
        checkpoints: Path | str | Mapping[int, Path] | None = None,
        seeds: Sequence[int] = MAP_SEEDS,
        *,
        speakers: Sequence[str] | None = None,
        transcripts: Sequence[str] | None = None,
        describe: Callable[..., str] = describe_plainly,
        calibration: Sequence[int] | None = None,
        label: str | None = None,
        sizes: Mapping[str, Any] | None = None,
        folder: Path | None = None,
        root: Path | None = None,
        out: Path | None = None,
        progress: Progress = no_progress,
    ) -> None:
        self.llm, self.describe, self.seeds = llm, describe, tuple(seeds)
        self.sizes = _merge_sizes(sizes or {})
        self.root, self.progress = root, progress
        self.out = None if out is None else make_folder(out)
        self.sounds = [
            (folder or Path()) / one.audio if isinstance(one, Clip) else one for one in clips
        ]
        known = check_labels(clips, labels)
        self.clips = make_clips(clips, known, speakers, transcripts, spans)
        self.speakers = [clip.speaker for clip in self.clips]
        self.transcripts = None if transcripts is None else list(transcripts)
        self.tasks = check_tasks(known, tasks)
        self.labels = {task.attribute: list(known[task.attribute]) for task in self.tasks}
        self.label = label or self.tasks[0].attribute
        if self.label not in self.labels:
            raise InsideError(
                f"No task asks about {self.label!r}; the label is one of {', '.join(self.labels)}."
            )
        self.calibration = pick_calibration(self.speakers, self.labels, calibration)
        others = {self.speakers[row] for row in self.calibration}
        self.scored = [i for i, speaker in enumerate(self.speakers) if speaker not in others]
        room = self._find_room()
        self.has_spans = bool(room)
        self.traced = (room or self.scored)[: self.sizes["traced"]]
        self.explained = self.traced[: self.sizes["explained"]]
        self.refused: dict[str, str] = {}  # table → why `run` left it out
        self._features: Callable[[], FeatureStore] | None = None
        self._memory: dict[str, Any] = {}
        self._drawn_with: dict[str, Any] = {}
        if llm.transcript:
            self._refuse_without_words("This model")
        self._open_checkpoints(checkpoints)

    @classmethod
    def from_experiment(
        cls,
        experiment: Experiment,
        kind: str = "self",
        *,
        clips: Mapping[str, int] = CLIPS,
        sizes: Mapping[str, Any] | None = None,
        seeds: Sequence[int] = MAP_SEEDS,
        out: Path | None = None,
    ) -> "Inside":
        """Look into a run of an experiment, which is found on disk, or trained first.

        Args:
            kind: which of its runs: `self` or `label`.
            clips: how many of each split; those of validation calibrate.
            out: where figures go; `experiment.figures_folder("inside")` by default.
        """
        out = make_folder(out or experiment.figures_folder("inside"))
        tasks = [task for task in experiment.tasks if task.rung == 3]
        asked = {task.attribute for task in tasks}
        parts = [_choose_clips(experiment, split, clips[split], asked) for split in CLIPS]
        chosen = [clip for part in parts for clip in part]
        corpus, preset = experiment.corpus, experiment.preset
        words = [clip.transcript for clip in chosen] if preset.transcript else None
        look = cls(
            experiment.llm,
            chosen,
            {name: [clip.attributes[name] for clip in chosen] for name in asked},
            tasks,
            checkpoints=experiment.train(kind),
            seeds=seeds,
            transcripts=words,
            describe=experiment.describe,
            calibration=range(len(parts[0])),
            label=preset.label,
            sizes=sizes,
            folder=corpus.folder,
            root=experiment.root,
            out=out,
            progress=experiment.progress,
        )
        about: dict[str, Any] = {"corpus": corpus.hash, "clips": [clip.id for clip in chosen]}
        # facts only where they say something, so that older results are still found
        if words is not None:
            about["transcript"] = True
        if look.label != Preset.label:
            about["label"] = look.label
        about |= experiment.asked.description_facts
        look._drawn_with |= {"run": experiment.run_folder(kind).name, "seeds": [experiment.seed]}
        look._measured = experiment.provenance(
            "sites", **about, tasks=[repr(task) for task in tasks]
        )
        # computed when they are first asked for: tables may be there
        look._features = functools.cache(partial(experiment.store_features, chosen))
        return look

    # ---- clips and questions ----

    def task(self, attribute: str) -> Task:
        """The question about an attribute. Raises InsideError if there is none."""
        for task in self.tasks:
            if task.attribute == attribute:
                return task
        there = ", ".join(dict.fromkeys(task.attribute for task in self.tasks))
        raise InsideError(f"No task asks about {attribute!r}; there are questions about {there}.")

    @property
    def first_tasks(self) -> list[Task]:
        """The first question about each attribute, for tables with a row for each attribute."""
        return [self.task(attribute) for attribute in self.labels]

    def pick(self, rows: Sequence[int]) -> list[Clip]:
        """The clips of these rows."""
        return [self.clips[row] for row in rows]

    def values(self, attribute: str, rows: Sequence[int] | None = None) -> list[str]:
        """The values of an attribute in these rows, by default in all."""
        clips = self.clips if rows is None else self.pick(rows)
        return [clip.attributes[attribute] for clip in clips]

    def words(self, rows: Sequence[int]) -> list[str] | None:
        """The transcripts of these rows; None where no transcripts are given."""
        return None if self.transcripts is None else [self.transcripts[row] for row in rows]

    def read_waves(self, rows: Sequence[int]) -> list[np.ndarray]:
        """The waveforms of these rows."""
        return read_waves([self.sounds[row] for row in rows])

    def _find_room(self) -> list[int]:
        """The scored rows whose evidence is known, and leaves a profile room to miss it."""
        rows, seconds = [], self.llm.encoder.seconds
        for row in self.scored:
            with suppress(ValueError):  # no span holds the label
                if leaves_room(self.clips[row], self.label, seconds):
                    rows.append(row)
        return rows

    # ---- checkpoints ----

    def _open_checkpoints(self, given: Path | str | Mapping[int, Path] | None) -> None:
        """Tell which checkpoints there are, and let the model stand at the last."""
        if given is None:
            self._steps = {0: hash_state(self.llm.trainable_state())}
            self._load: Callable[[int], None] = lambda step: None
        elif isinstance(given, Mapping):
            self._steps = {step: cache.hash_file(path) for step, path in sorted(given.items())}
            self._load = lambda step: self.llm.load_connector(given[step])
        else:
            folder = Path(given)
            self._steps = {one["step"]: one["sha256"] for one in runs.list_checkpoints(folder)}
            self._load = lambda step: runs.load_checkpoint(folder, self.llm, step)
            if read_run_config(folder).get("transcript"):
                self._refuse_without_words(f"{folder}: it")
        picked = pick_evenly(sorted(self._steps), self.sizes["checkpoints"])
        self.checkpoints = {step: self._steps[step] for step in picked}
        self.last = max(self._steps)
        self.untrained = 0 if self.last > 0 and 0 in self.checkpoints else None
        self._load(self.last)

    def _refuse_without_words(self, trained: str) -> None:
        if self.transcripts is None:
            raise InsideError(
                f"{trained} was trained with transcripts behind the audio embeddings; give "
                "transcripts=[…], the words of every clip."
            )

    @contextmanager
    def at_checkpoint(self, step: int) -> Iterator[None]:
        """Inside the context, the model stands at this checkpoint; outside, at the last.

        Raises:
            InsideError: there is no such step.
            CheckpointError: its file is not here.
        """
        self._hash_of(step)
        self._load(step)
        try:
            yield
        finally:
            self._load(self.last)

    def _hash_of(self, step: int) -> str:
        if step not in self._steps:
            there = ", ".join(map(str, self._steps))
            raise InsideError(f"There is no checkpoint of step {step}; take one of {there}.")
        return self._steps[step]

    # ---- what flows ----

    def encoder_states(self, rows: Sequence[int]) -> Tensor:
        """Encoder states of these rows in float32, as the connector takes them."""
        if self._features is None:
            return self.llm.encoder.encode(self.read_waves(rows)).float()
        return self._features()[[clip.id for clip in self.pick(rows)]].float()

    def audio_embeddings(self, rows: Sequence[int], step: int | None = None) -> Tensor:
        """Audio embeddings of these rows in float32 at a checkpoint, by default the last."""
        site = self.sites(self.last if step is None else step)["audio embeddings"]
        return site[list(rows)].float().to(self.llm.backbone.device)

    def sites(self, step: int | None = None) -> Sites:
        """Every site behind the encoder at one checkpoint, for all clips; by default the last.

        Raises:
            InsideError: there is no such step.
            CheckpointError: its file is not here.
        """
        at = self.last if step is None else step

        def capture() -> Sites:
            batches = map(self.encoder_states, self._batches(f"sites, step {at}"))
            with self.at_checkpoint(at):
                return capture_sites(self.llm, self.tasks, batches, self.transcripts)

        return self._find_or_capture(self._hash_of(at), capture)

    def calibrate(self, scores: scoring.Scores, step: int) -> scoring.Calibration:
        """The rows that calibrate, of the scores of all clips on all tasks at a checkpoint."""
        words = None if self.transcripts is None else [""]

        def score_silence() -> scoring.Scores:
            with self.at_checkpoint(step), torch.no_grad():
                silence = embed_silence(self.llm)
                return scoring.score_options(self.llm, self.tasks, silence, transcripts=words)

        known = [score[list(self.calibration)] for score in scores]
        return scoring.Calibration(self.pick(self.calibration), known, score_silence)

    def fixed_sites(self) -> Sites:
        """The sites that training does not move, for all clips."""
        encoder = self.llm.encoder

        def inputs(rows: Sequence[int]) -> tuple[Tensor, Tensor]:
            mel = audio.log_mel(self.read_waves(rows), encoder.seconds, encoder.mel_bins)
            return mel, self.encoder_states(rows)

        return self._find_or_capture(
            None, lambda: capture_fixed_sites(self.llm, map(inputs, self._batches("spectrograms")))
        )

    def slot_vectors(self, site: str) -> Tensor:
        """The vectors of all clips at a site of `dictionary_sites`, (clip, query, d_llm)."""
        every = range(len(self.clips))
        if site == "audio embeddings":
            return self.sites(self.last)[site].float()

        def capture() -> Sites:
            given = self.audio_embeddings(every), int(site.split()[1]), self.transcripts
            return {"vectors": slot_states(self.llm, self.tasks, *given, self.sizes["batch"])}

        about = self._about_last("vectors", site)
        found: Tensor = self._find_or_make(about, capture)["vectors"]
        return found.float()

    @property
    def dictionary_sites(self) -> list[str]:
        """Where a dictionary is trained: the audio embeddings, and half-way up the backbone."""
        half = (len(self.llm.backbone.model.get_decoder().layers) - 1) // 2
        return ["audio embeddings", f"slots {half}"]

    def dictionary(self, site: str = "audio embeddings") -> SparseAutoencoder:
        """The sparse autoencoder of a site at the last checkpoint, trained on `calibration`.

        Raises:
            InsideError: there is no dictionary of such a site.
        """
        if site not in self.dictionary_sites:
            there = ", ".join(self.dictionary_sites)
            raise InsideError(f"There is no dictionary of {site!r}; take one of {there}.")
        sizes = {name: self.sizes[name] for name in ("features", "active", "training")}

        def train() -> Sites:
            vectors = self.slot_vectors(site)[self.calibration]
            trained = train_dictionary(vectors, *sizes.values())
            return {name: tensor.contiguous() for name, tensor in trained.state_dict().items()}

        state = self._find_or_make(self._about_last("dictionary", site, **sizes), train)
        model = SparseAutoencoder(state["mean"], state["spread"], state["decoder"], sizes["active"])
        model.load_state_dict(state)
        return model.eval().requires_grad_(False)

    def _about_last(self, what: str, site: str, **facts: Any) -> Provenance:
        checkpoint = self._hash_of(self.last)
        return self._measured.derive("sites", what=what, site=site, checkpoint=checkpoint, **facts)

    def _batches(self, stage: str) -> Iterator[list[int]]:
        rows, batch = range(len(self.clips)), self.sizes["batch"]
        batches = [list(rows[first : first + batch]) for first in rows[::batch]]
        return report_each(batches, self.progress(stage))

    # ---- results ----

    def table(self, name: str) -> pd.DataFrame:
        """One of the analysis's tables (`inside_tables.TABLES`), found or computed.

        Raises:
            InsideError: there is no such table, or it needs what is not given.
            ProbeError: there are too few clips or speakers.
        """
        if name not in TABLES:
            raise InsideError(f"There is no table {name!r}; there are {', '.join(TABLES)}.")
        part, remedy = NEEDS.get(name, ("", ""))
        if part and not getattr(self, f"has_{part}"):
            raise InsideError(f"The table {name!r} needs {part}: {remedy}.")
        return self._find_or_make(self.provenance(name), lambda: TABLES[name](self))

    @property
    def has_checkpoints(self) -> bool:
        """Whether there are two steps or more."""
        return len(self.checkpoints) > 1

    def provenance(self, table: str, **facts: Any) -> Provenance:
        """What determines a table of this analysis, or of one's own with these facts."""
        shared: dict[str, Any] = {"checkpoints": self.checkpoints}
        shared["sizes"] = {name: self.sizes[name] for name in SIZES}
        for name, usual in OTHER_SIZES.items():
            if self.sizes[name] != usual and name not in ("batch", "checkpoints"):
                shared[name] = self.sizes[name]
        if self.seeds != MAP_SEEDS:
            shared["seeds"] = self.seeds
        shared |= site_facts(self.llm)
        return self._measured.derive("inside", table=table, **shared, **facts)

    def run(self, *, save: bool = True) -> dict[str, pd.DataFrame]:
        """Compute every table that can be had and, where there is `out`, save every figure.

        With `save=False` no figure is saved. `refused` says of the other tables what they need.
        """
        tables, self.refused = {}, {}
        for name in report_each(list(TABLES), self.progress("analysis")):
            try:
                tables[name] = self.table(name)
            except (InsideError, ProbeError) as error:
                self.refused[name] = str(error)
        if self.out is None or not save:
            return tables
        for name, picture in draw_figures(self, tables).items():
            saving.save_figure(picture, self.out, name, provenance=self.facts)
        if self.has_checkpoints and "points" in tables:
            for method in MAPS:
                path = self.out / f"map_{method}.gif"
                save_film(tables["points"], path, self.label, method)
        return tables

    @property
    def facts(self) -> dict[str, Any]:
        """What a figure of this analysis was made of: measurements, checkpoints, run, seeds."""
        about = {"measured": self._measured.key, "checkpoints": self.checkpoints}
        return {**about, **self._drawn_with}

    @functools.cached_property
    def _measured(self) -> Provenance:
        """The model, the clips and the questions; not the checkpoint.

        Where no experiment says it, this is all that goes in.
        """
        llm, facts = self.llm, dict(self.llm.provenance)
        parts = {"encoder_sha256": llm.encoder, "backbone_sha256": llm.backbone.model}
        hashes = {name: hash_tensors(part) for name, part in parts.items() if name not in facts}
        about = {
            "connector_form": repr(llm.connector),
            "taps": list(llm.encoder.taps),
            "seconds": llm.encoder.seconds,
            "clips": [hash_sound(sound) for sound in self.sounds],
            "about": [[clip.id, clip.speaker, clip.attributes, clip.spans] for clip in self.clips],
            "descriptions": [self.describe(clip.attributes) for clip in self.clips],
            "transcripts": self.transcripts,
            "tasks": [repr(task) for task in self.tasks],
            "calibration": self.calibration,
            "label": self.label,
        }
        return Provenance("sites", {**facts, **hashes, **about})

    def _find_or_capture(self, checkpoint: str | None, capture: Callable[[], Sites]) -> Sites:
        provenance = self._measured.derive(
            "sites", checkpoint=checkpoint, sites=list(site_modules(self.llm))
        )
        found: Sites = self._find_or_make(provenance, capture)
        return found

    def _find_or_make(self, provenance: Provenance, make: Callable[[], Any]) -> Any:
        if self.root is not None:
            return cache.find_or_make(self.root, provenance, make)
        if provenance.key not in self._memory:
            self._memory[provenance.key] = make()
        kept = self._memory[provenance.key]
        return kept.copy() if isinstance(kept, pd.DataFrame) else kept


def _merge_sizes(sizes: Mapping[str, Any]) -> dict[str, Any]:
    usual = {**SIZES, **OTHER_SIZES}
    if unknown := sorted(set(sizes) - set(usual)):
        raise InsideError(f"There is no size {unknown[0]!r}; there are {', '.join(usual)}.")
    return {**usual, **sizes}


def _choose_clips(experiment: Experiment, split: str, count: int, asked: set[str]) -> list[Clip]:
    """Clips of a split that have every attribute; few to calibrate are joined by training's."""
    clips = experiment.available_clips(split)
    whole = [clip for clip in clips if asked <= set(clip.attributes)]
    if not whole:
        raise InsideError(
            f"{experiment.corpus.folder}: no {split} clip has all of {', '.join(sorted(asked))}; "
            "fill the table, or leave out the columns that have gaps."
        )
    return balance_speakers(whole, count)
