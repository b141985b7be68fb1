"""Inside a model: what flows at every site and checkpoint, its tables and its figures."""

import functools
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from desta_lab import audio, cache
from desta_lab.analysis.capture import (
    Sites,
    capture_fixed_sites,
    capture_sites,
    site_facts,
    site_modules,
)
from desta_lab.analysis.dictionary import SparseAutoencoder, slot_states, train_dictionary
from desta_lab.analysis.evidence import leaves_room
from desta_lab.analysis.probes import ProbeError, speaker_folds
from desta_lab.cache import Provenance, make_folder
from desta_lab.clips import Clip, Span, balance_speakers
from desta_lab.evaluation import scoring
from desta_lab.evaluation.conditions import embed_silence
from desta_lab.evaluation.statistics import SeedsError, format_interval, pool_seeds
from desta_lab.evaluation.tasks import Task, task_ladder
from desta_lab.experiments.experiment import (
    Experiment,
    Progress,
    are_enough,
    no_progress,
    report_each,
)
from desta_lab.experiments.inside_tables import (
    MAP_SEEDS,
    OTHER_SIZES,
    ROWS,
    SIZES,
    TABLES,
    InsideError,
)
from desta_lab.model.audio_llm import AudioLLM, hash_state, hash_tensors
from desta_lab.model.presets import Preset
from desta_lab.model.runs import read_run_config
from desta_lab.model.sites import Sound, read_waves
from desta_lab.training import checkpoints as runs
from desta_lab.training.features import FeatureStore
from desta_lab.views import clip_figures, saving, style
from desta_lab.views.explanation_figures import (
    plot_answer_attention,
    plot_deletion,
    plot_erasure,
    plot_evidence,
    plot_features,
    plot_listening,
    plot_logit_lens,
    plot_patching,
)
from desta_lab.views.representation_figures import (
    plot_learning_curves,
    plot_maps,
    plot_modality_gap,
    plot_nearest_words,
    plot_probe_accuracy,
    plot_selectivity,
    plot_similarity,
    save_film,
)
from desta_lab.views.style import pick_evenly
from desta_lab.world.describe import describe_plainly, order_values

# clips of speakers never heard in training; those of validation calibrate
CLIPS = {"validation": 96, "test": 192}
NEEDS = {  # what a table cannot do without
    "evidence": ("spans", "where in each clip the label is heard, in a part of it; give spans=[…]"),
    "similar_steps": ("checkpoints", "two steps of training; give the folder of a run"),
}


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
        known = _check_labels(clips, labels)
        self.clips = _make_clips(clips, known, speakers, transcripts, spans)
        self.speakers = [clip.speaker for clip in self.clips]
        self.transcripts = None if transcripts is None else list(transcripts)
        self.tasks = _check_tasks(known, tasks)
        self.labels = {task.attribute: list(known[task.attribute]) for task in self.tasks}
        self.label = label or self.tasks[0].attribute
        if self.label not in self.labels:
            raise InsideError(
                f"No task asks about {self.label!r}; the label is one of {', '.join(self.labels)}."
            )
        self.calibration = _pick_calibration(self.speakers, self.labels, calibration)
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
            if read_run_config(folder).get("transcript") and self.transcripts is None:
                raise InsideError(
                    f"{folder}: it was trained with transcripts behind the audio embeddings; give "
                    "transcripts=[…], the words of every clip."
                )
        picked = pick_evenly(sorted(self._steps), self.sizes["checkpoints"])
        self.checkpoints = {step: self._steps[step] for step in picked}
        self.last = max(self._steps)
        self.untrained = 0 if self.last > 0 and 0 in self.checkpoints else None
        self._load(self.last)

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
        """Encoder states of these rows, as the connector takes them."""
        if self._features is None:
            return self.llm.encoder.encode(self.read_waves(rows)).float()
        return self._features()[[clip.id for clip in self.pick(rows)]]

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

    def run(self) -> dict[str, pd.DataFrame]:
        """Compute every table that can be had and, where there is `out`, save every figure.

        `refused` says of the other tables what they need.
        """
        tables, self.refused = {}, {}
        for name in report_each(list(TABLES), self.progress("analysis")):
            try:
                tables[name] = self.table(name)
            except (InsideError, ProbeError) as error:
                self.refused[name] = str(error)
        if self.out is None:
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
            "clips": [_hash_sound(sound) for sound in self.sounds],
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


# ---- what is looked into ----


def _merge_sizes(sizes: Mapping[str, Any]) -> dict[str, Any]:
    usual = {**SIZES, **OTHER_SIZES}
    if unknown := sorted(set(sizes) - set(usual)):
        raise InsideError(f"There is no size {unknown[0]!r}; there are {', '.join(usual)}.")
    return {**usual, **sizes}


def _check_counts(count: int, given: Mapping[str, Sequence[Any] | None]) -> None:
    for what, some in given.items():
        if some is not None and len(some) != count:
            raise InsideError(f"There are {count} clips and {len(some)} {what}; give one for each.")


def _check_labels(
    clips: Sequence[Clip | Sound], labels: Mapping[str, Sequence[str]] | None
) -> Mapping[str, Sequence[str]]:
    """The labels as given, or all that `Clip`s have in common and that tells them apart."""
    if labels is None:
        known = [clip.attributes if isinstance(clip, Clip) else {} for clip in clips]
        shared = [name for name in (known or [{}])[0] if all(name in own for own in known)]
        found = {name: [own[name] for own in known] for name in shared}
        labels = {name: values for name, values in found.items() if len(set(values)) > 1}
    _check_counts(len(clips), {f"values of {name}": values for name, values in labels.items()})
    if same := [name for name, values in labels.items() if len(set(values)) < 2]:
        raise InsideError(
            f"All {len(clips)} clips have the same {same[0]}; a label needs two values."
        )
    if not labels:
        raise InsideError("No label tells these clips apart; give labels={name: [a value a clip]}.")
    return labels


def _make_clips(
    clips: Sequence[Clip | Sound],
    labels: Mapping[str, Sequence[str]],
    speakers: Sequence[str] | None,
    transcripts: Sequence[str] | None,
    spans: Sequence[Sequence[Span]] | None,
) -> list[Clip]:
    """All that is known of every clip, a file being named by its name."""
    given = {"speakers": speakers, "transcripts": transcripts, "spans": spans}
    _check_counts(len(clips), given)
    names = [f"clip {i}" if isinstance(c, np.ndarray) else _name(c) for i, c in enumerate(clips)]
    often, made = Counter(names), []
    for row, (one, name) in enumerate(zip(clips, names, strict=True)):
        alone = name if often[name] == 1 else f"{row} {name}"
        clip = one if isinstance(one, Clip) else Clip(alone, "", 0.0, "", alone, {})
        own = {name: values[row] for name, values in labels.items()}
        made.append(
            replace(
                clip,
                attributes={**clip.attributes, **own},
                speaker=speakers[row] if speakers is not None else clip.speaker,
                transcript=transcripts[row] if transcripts is not None else clip.transcript,
                spans=tuple(spans[row]) if spans is not None else clip.spans,
            )
        )
    return made


def _name(clip: Any) -> str:
    return clip.id if isinstance(clip, Clip) else Path(clip).name


def _check_tasks(labels: Mapping[str, Sequence[str]], tasks: Sequence[Task] | None) -> list[Task]:
    """The tasks as given, or a plain question about every label."""
    if tasks is None:
        values = {name: order_values(name, own) for name, own in labels.items()}
        return [task for task in task_ladder(values) if task.rung == 3]
    for task in tasks:
        if task.attribute not in labels:
            raise InsideError(
                f"{task.name} asks about {task.attribute}, of which there are no labels; give them."
            )
        if strange := sorted(set(labels[task.attribute]) - set(task.options)):
            raise InsideError(
                f"{task.name} asks about {task.attribute}, which is {strange[0]!r} in a clip; give "
                f"every clip one of its options ({', '.join(task.options)})."
            )
    if not tasks:
        raise InsideError("No task is given; give one at least, or None for a plain question.")
    return list(tasks)


def _pick_calibration(
    speakers: Sequence[str], labels: Mapping[str, Sequence[str]], rows: Sequence[int] | None
) -> list[int]:
    """The rows that calibrate: as given, or those of a third of the speakers."""
    if rows is not None:
        return list(rows)
    strata = ["/".join(values) for values in zip(*labels.values(), strict=True)]
    return sorted(speaker_folds(speakers, strata, count=3)[0][1].tolist())


def _choose_clips(experiment: Experiment, split: str, count: int, asked: set[str]) -> list[Clip]:
    """Clips of a split that have every attribute; few to calibrate are joined by training's."""
    own = experiment.splits.clips
    clips = own[split]
    if experiment.own_corpus and split == "validation" and not are_enough(clips):
        clips = clips + own["train"]
    whole = [clip for clip in clips if asked <= set(clip.attributes)]
    if not whole:
        raise InsideError(
            f"{experiment.corpus.folder}: no {split} clip has all of {', '.join(sorted(asked))}; "
            "fill the table, or leave out the columns that have gaps."
        )
    return balance_speakers(whole, count)


def _hash_sound(sound: Sound) -> str:
    if isinstance(sound, np.ndarray):
        return hashlib.sha256(np.ascontiguousarray(sound).tobytes()).hexdigest()
    return cache.hash_file(Path(sound))


# ---- figures ----


def draw_figures(
    inside: Inside, tables: dict[str, pd.DataFrame], seeds: int = 1
) -> dict[str, saving.Picture]:
    """Every figure whose tables, perhaps pooled over seeds, are there, by the name of its file."""
    label, drawn = inside.label, {}
    for name, (draw, sources, title) in FIGURES.items():
        if set(sources.split()) <= set(tables):
            given = [tables[source] for source in sources.split()]
            headline = title.format(label=label) if isinstance(title, str) else title(*given, seeds)
            drawn[name] = draw(*given, headline)
    if "purity" in tables:
        for method, title in MAPS.items():
            how = label, title.format(label=label), method, tables["purity"]
            drawn[f"map_{method}"] = plot_maps(tables["points"], *how)
    if "profiles" in tables:
        drawn["listen_where"] = _draw_profiles(inside, tables["profiles"], label)
    return drawn


def _state_evidence(summary: pd.DataFrame, seeds: int) -> str:
    """How many methods find the evidence, by their paired gains in mass over another clip's."""
    own = summary[(summary["null"] == "own") & (summary["measure"] == "mass")]
    found = own[own["gain_low"] > 0]["method"].tolist()
    names = f" ({'; '.join(found)})" if 0 < len(found) < 4 else ""
    return (
        f"{len(found)} of {len(own)} methods find the evidence better than another clip's{names}; "
        "of methods that find nothing, one in forty would"
    )


def state_features(features: pd.DataFrame, seeds: int = 1) -> str:
    """How many sparse features stand for a value, and how many of those added move the answer.

    Of a table pooled over several `seeds`, what is found in every one of them.
    """
    pure, moving, names = [], [], []
    steered = features.dropna(subset="p")
    for site, rows in steered.groupby("site", sort=False):
        pure.append(f"{rows['pure'].sum():.0f} ({site})")
        moved = rows[(rows["p"] < 0.05) & (rows["low"] > 0)]
        moving.append(f"{len(moved)} of {len(rows)}")
        names += [f"{row.attribute}: {row.value}" for row in moved.itertuples()]
    which, count = f" ({'; '.join(names)})" if names else "", features["features"].iloc[0]
    return (
        f"Of {count:.0f} features {' and '.join(pure)} are purer than shuffled labels make any; "
        f"added to other clips, {' and '.join(moving)} move the answer beyond every random "
        f"direction{' in every seed' if seeds > 1 else ''}{which}"
    )


def state_listening(heads: pd.DataFrame, direction: pd.DataFrame, seeds: int = 1) -> str:
    """Whether the listening heads carry the answer, and whether a louder audio raises accuracy.

    Of tables pooled over several `seeds`, what holds in every one of them.
    """
    last = heads[(heads["asked"] == "all") & (heads["knocked"] == heads["knocked"].max())]
    without, random = (last[last["kind"] == kind].iloc[0] for kind in LISTENING)
    more = without["p"] < 0.05 and without["change_high"] < 0
    factor = direction.loc[direction["best"].astype(float).idxmax(), "factor"]  # of most seeds
    best = direction[(direction["asked"] == "all") & (direction["factor"] == factor)]
    best = best.set_index("kind")
    louder, by_chance = best.loc["audio minus silence"], best.loc["random directions"]
    than = "more" if more else "no more"
    if seeds > 1:
        than = f"{'' if more else 'not '}in every seed more"
    how = "changes nothing in" if seeds == 1 else "does not surely change"
    if louder["change_high"] < 0:
        how = "lowers"
    elif louder["change_low"] > 0 and louder["p"] < 0.05:
        how = "raises"
    return (
        f"Without the {without['knocked']} heads that look at the audio most accuracy changes by "
        f"{_change(without)}, {than} than without random ones "
        f"({_change(random)}); audio minus silence × {louder['factor']:g} {how} that of "
        f"uncalibrated answers ({_change(louder)}; random directions {_change(by_chance)})"
    )


def _change(row: pd.Series) -> str:
    return format_interval(row[["change", "change_low", "change_high"]].tolist(), "+.2f")


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


LISTENING = "listening heads", "random heads"
MAPS = {
    "pca": "The audio embeddings of unseen speakers, by {label}",
    "umap": "The same clips through UMAP",
}
# figure → how it is drawn, from which tables, and its title or what writes it from these tables
FIGURES: dict[str, tuple[Callable[..., saving.Picture], str, str | Callable[..., str]]] = {
    "readable": (plot_probe_accuracy, "probes answers", "Present, readable, spoken: three things"),
    "selectivity": (plot_selectivity, "probes", "What a probe reads, and what of random labels"),
    "learning_curves": (plot_learning_curves, "learning_curves", "How many clips a probe needs"),
    "similar_sites": (plot_similarity, "similar_sites", "Which sites lay out the clips alike"),
    "similar_steps": (
        plot_similarity,
        "similar_steps",
        "How the audio embeddings change along training",
    ),
    "modality_gap": (plot_modality_gap, "gap", "Does hearing come closer to reading?"),
    "nearest_words": (plot_nearest_words, "words", "The words that each query lies nearest to"),
    "answer_attention": (plot_answer_attention, "heads", "Which heads look at the audio"),
    "evidence": (partial(plot_evidence, measure="mass"), "evidence", _state_evidence),
    "deletion": (plot_deletion, "deletion", "Taking away what matters ({label})"),
    "logit_lens": (plot_logit_lens, "lens", "At which layer the answer is there"),
    "patching": (plot_patching, "patching", "Which query carries which attribute"),
    "erasure": (plot_erasure, "erasure", "What the answer uses"),
    "sparse_features": (plot_features, "sparse_features", state_features),
    "listening_heads": (plot_listening, "listening_heads audio_direction", state_listening),
}


# ---- several training seeds ----


def look_over_seeds(
    experiments: Iterable[Experiment], kind: str = "self", *, out: Path | None = None, **how: Any
) -> tuple[Inside, dict[str, pd.DataFrame]]:
    """Look into a run of every experiment, which differ in their seed, and pool the tables.

    Every figure is drawn over the seeds, and saved with a table that has a row of each seed and of
    their mean. A clip, a map and words are those of the first seed, and the figure says so.

    Args:
        out: where figures go; `figures_folder("inside/seeds")` of the first experiment by default.
        how: as in `Inside.from_experiment`.

    Returns:
        The look at the first seed, whose `refused` says which tables are left out, and the tables.

    Raises:
        InsideError: there is no experiment.
    """
    found: dict[int, dict[str, pd.DataFrame]] = {}
    first: Inside | None = None
    for experiment in experiments:
        out = out or experiment.figures_folder("inside/seeds")
        look = Inside.from_experiment(experiment, kind, out=out, **how)
        look.out = None  # no figures of one seed
        found[experiment.seed] = look.run()
        first = first or look
        first.refused = look.refused | first.refused
    if first is None or out is None:
        raise InsideError("There is no experiment to look into; give one for each seed.")
    first.out = out
    own, pooled = next(iter(found.values())), _pool_tables(found, first.refused)
    _save_over_seeds(first, found, pooled, out)
    return first, own | pooled


def _pool_tables(
    found: Mapping[int, Mapping[str, pd.DataFrame]], refused: dict[str, str]
) -> dict[str, pd.DataFrame]:
    """The tables that can be pooled and that every seed has; of others `refused` says why not."""
    pooled = {}
    for name, rows in ROWS.items():
        tables = {seed: own[name] for seed, own in found.items() if name in own}
        if name == "sparse_features":  # the features that answers were steered with
            tables = {seed: table.dropna(subset="change") for seed, table in tables.items()}
        if len(tables) == len(found):
            try:
                pooled[name] = pool_seeds(tables, rows)
            except SeedsError as error:
                refused[name] = f"{name}: {error}"
    return pooled


def _save_over_seeds(
    first: Inside,
    found: Mapping[int, Mapping[str, pd.DataFrame]],
    pooled: dict[str, pd.DataFrame],
    out: Path,
) -> None:
    """Save the figures of pooled tables with the rows of every seed, and the rest of the first."""
    facts = first.facts | {"seeds": list(found)}
    seed, own = next(iter(found.items()))
    alone = {name: table for name, table in own.items() if name not in ROWS}
    for name, picture in draw_figures(first, alone).items():
        style.state_seeds(picture, [seed])
        saving.save_figure(picture, out, name, provenance=facts | {"seeds": [seed]})
    parts = {
        seed: draw_figures(first, {name: tables[name] for name in pooled})
        for seed, tables in found.items()
    }
    for name, picture in draw_figures(first, pooled, len(found)).items():
        style.state_seeds(picture, list(found))
        rows = [figures[name].table.assign(seed=seed) for seed, figures in parts.items()]
        rows.append(picture.table.assign(seed="mean"))
        saving.save_figure(picture, out, name, pd.concat(rows), provenance=facts)


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
        row = {
            "attribute": attribute,
            "chance": measured["chance"].iloc[0],
            "log-mel": accuracy["log-mel"].iloc[0],
            "best encoder layer": encoder.max(),
        }
        for name, values in (("embeddings", embeddings), ("answers", answers)):
            if last > 0 and 0 in values.index:
                row[f"{name}, untrained"] = values[0]
            row[name] = values[last]
        rows.append(row)
    return pd.DataFrame(rows).round(2)
