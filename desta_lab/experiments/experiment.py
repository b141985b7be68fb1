"""An experiment: what a preset trains and measures, each part found on disk or made."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from desta_lab import audio, cache, processes
from desta_lab.cache import Provenance
from desta_lab.clips import Clip, ClipSplits, Corpus, balance_speakers, split_clips
from desta_lab.evaluation import conditions
from desta_lab.evaluation.evaluate import evaluate
from desta_lab.evaluation.tasks import Task
from desta_lab.experiments import rows, tracking
from desta_lab.experiments.corpus_tasks import clip_counts, corpus_tasks
from desta_lab.experiments.costs import StageCosts
from desta_lab.experiments.scoring_plan import ScoringPlan
from desta_lab.model import build, weights
from desta_lab.model.audio_llm import AudioLLM, hash_tensors
from desta_lab.model.bounds import hashed_fields
from desta_lab.model.connector import OwnConnector, name_own
from desta_lab.model.presets import CLIPS_USED, LATER, MEASURED, Preset, name_changes, part_id
from desta_lab.training import checkpoints, trainer
from desta_lab.training.features import FeatureStore, features_folder
from desta_lab.training.targets import TOP_K, Target, generate_soft_targets
from desta_lab.views.progress import Progress, no_progress
from desta_lab.world import spoken, tables

ENOUGH_CLIPS, ENOUGH_SPEAKERS = 24, 4  # below, an interval over resampled speakers means little
RUNS = ("self", "label")  # the two runs of the claim
# facts of the models that change nothing of what the untouched backbone reads
AUDIO_FACTS = ("encoder_sha256", "taps", "seconds", "connector", "tuning")


class Experiment:
    """One preset on one corpus with one seed; every part is found by its provenance or made.

    What somebody brings of their own determines results by its content (docs/own.md). Without it
    every result is found as before.

    Args:
        corpus: a corpus or its folder (with a `clips.csv` or manifests), instead of the spoken
            world.
        label: the attribute of the bare-label run; by default the preset's, or the first of the
            corpus.
        attributes: the names of those that are asked about, instead of all.
        tasks: all that is asked, instead of the task ladder; `[*task_ladder(), Task(…)]` adds one.
        prompts: what the training clips are asked, instead of the preset's prompts; the first
            is also what rung 0 asks.
        describe: the attributes of a clip → the sentence that the backbone reads of it.
        connector: a function that builds a connector from taps, d_enc and d_llm, such as a class,
            or a built module (`connector.build_own`).
        root: the folder of all data; `data/` by default.
        progress: a stage's name → a function that is called with (done, total).
        track: the name of a run → an open tracker of accelerate (`progress.open_trackers`, or a
            `GeneralTracker`). It gets loss, lr and grad_norm of every step; under the name with
            `-scores`, the accuracy of every rung and condition at every checkpoint.

    Raises:
        ValueError: no attribute can be asked about, the backbone does not know the words, there is
            no such label, or an own piece does not fit.
        CorpusError: the table of the corpus is wrong, or it has too few clips.
    """

    def __init__(
        self,
        preset: Preset,
        *,
        seed: int = 0,
        corpus: Corpus | Path | str | None = None,
        label: str | None = None,
        attributes: Sequence[str] | None = None,
        tasks: Sequence[Task] | None = None,
        prompts: Sequence[str] | None = None,
        describe: Callable[..., str] | None = None,
        connector: OwnConnector | None = None,
        root: Path | None = None,
        progress: Progress = no_progress,
        track: Callable[[str], Any] | None = None,
    ) -> None:
        self.seed, self.track = seed, track
        self.root = root or weights.models_dir().parent
        self.progress = progress if processes.is_main_rank() else no_progress
        if corpus is not None and not isinstance(corpus, Corpus):
            corpus = tables.open_corpus(corpus)
        self.own_corpus = corpus
        # by the prompts that train, which kinds of target share
        self._pairs: dict[tuple[str, ...], list[tuple[str, str]]] = {}
        self._targets: dict[tuple[str, ...], rows.Targets] = {}
        self.asked = asked = corpus_tasks(
            corpus, preset, attributes=attributes, tasks=tasks, prompts=prompts, describe=describe
        )
        self.tasks, self.describe, self.values = asked.tasks, asked.describe, asked.values
        self.preset = preset
        self.connector = copy.deepcopy(connector) if isinstance(connector, nn.Module) else connector
        names = [name for name in self.values if asked.label_question(name)]
        if corpus is not None:
            trained = {name for clip in self.clips("train") for name in clip.attributes}
            names = [name for name in names if name in trained]
            if clip_counts(self.clips("test"))[1] < 2:
                fault = "of fewer than two speakers (or clips) of the test anything is known"
                raise ValueError(f"{corpus.folder}: {fault} that is asked about; fill its columns.")
        elif label is None and not asked.own:  # its attributes are known: another is a mistake
            label = preset.label
        self.preset = replace(preset, label=_pick_label(label, preset.label, names))
        if connector is not None:
            build.check_parts(self.preset, self.root / "models", connector)
        used = hashed_fields(self.preset) | dict.fromkeys(MEASURED)
        facts = {"preset": used, "corpus": corpus.hash if corpus else None, **self._own_facts}
        key = Provenance("costs", facts).key
        self.costs = StageCosts(self.root / "costs" / f"{preset.name}-{key}.json")

    @property
    def _own_facts(self) -> dict[str, Any]:
        """The seed, and what somebody's own pieces are told from the usual ones by."""
        own = {} if self.connector is None else {"connector": name_own(self.connector)}
        return {**self.asked.own, "seed": self.seed, **own}

    def figures_folder(self, name: str) -> Path:
        """Where figures of this name go, with preset, corpus and settings if they are not usual."""
        preset = "" if self.preset.name == "cpu" else self.preset.name
        corpus = self.own_corpus.name if self.own_corpus else ""
        parts = name, preset, corpus, name_changes(self.preset, self._own_facts)
        return self.root.parent / "figures" / "-".join(filter(None, parts))

    # ---- parts ----

    @cached_property
    def corpus(self) -> Corpus:
        """The corpus that was brought, or the spoken world of this preset and seed."""
        if self.own_corpus:
            return self.own_corpus
        preset = self.preset
        how: Any = {"clips": preset.clips, "seconds": preset.seconds, "seed": self.seed}
        folder = spoken.spoken_provenance(**how).folder(self.root)
        with self.costs.stage("corpus"), processes.main_first():
            return spoken.build_spoken_corpus(folder, **how, progress=self.progress("corpus"))

    @cached_property
    def splits(self) -> ClipSplits:
        """The clips of each split, and whether no speaker is in two of them."""
        return split_clips(self.corpus)

    def available_clips(self, split: str) -> list[Clip]:
        """All clips of a split that may be used: but for training, those that are asked about.

        Where validation has few clips or speakers, those of training help to calibrate: a single
        speaker, say a woman, would calibrate women away.
        """
        clips, asked = self.splits.clips[split], {task.attribute for task in self.tasks}
        if split != "train":
            clips = [clip for clip in clips if asked & clip.attributes.keys()]
        if self.own_corpus and split == "validation" and not are_enough(clips):
            clips = clips + self.splits.clips["train"]
        return clips

    def clips(self, split: str) -> list[Clip]:
        """The clips of a split that are used, balanced over speakers."""
        clips, count = self.available_clips(split), getattr(self.preset, CLIPS_USED[split])
        return clips if count is None else balance_speakers(clips, count)

    @cached_property
    def llm(self) -> AudioLLM:
        """The frozen encoder, a new connector and the frozen backbone."""
        how: Any = {"root": self.root / "models", "seed": self.seed, "connector": self.connector}
        with self.costs.stage("models"):
            return build.build_audio_llm(self.preset, progress=self.progress("models"), **how)

    @cached_property
    def features(self) -> FeatureStore:
        """Collective: encoder states of the tapped layers of every clip that is used.

        All training clips are in it, so that runs with fewer of them share the store.
        """
        clips = [*self.splits.clips["train"], *self.clips("validation"), *self.clips("test")]
        with self.costs.stage("features"):
            return self.store_features(clips)

    def store_features(self, clips: Sequence[Clip], corpus: Corpus | None = None) -> FeatureStore:
        """Collective: encoder states of the tapped layers of some clips, found or computed.

        Args:
            corpus: that of the clips, if they are not of this experiment's.
        """
        folder, sha256 = features_folder(self.root), self.llm.provenance["encoder_sha256"]
        later = {name: v for name, v in self.llm.provenance.items() if name in LATER}
        corpus = corpus or self.corpus
        store = FeatureStore(folder, self.llm.encoder, sha256, corpus, clips, later)
        store.compute(self.progress("features"))
        return store

    # ---- what determines a result ----

    def provenance(self, kind: str, **facts: Any) -> Provenance:
        """The provenance of a result that depends on the AudioLLM, its precision and attention."""
        return Provenance(kind, {**self.llm.provenance, **facts})

    def text_provenance(self, kind: str, **facts: Any) -> Provenance:
        """The provenance of a result that depends on the untouched backbone alone."""
        models = {name: v for name, v in self.llm.provenance.items() if name not in AUDIO_FACTS}
        return Provenance(kind, {**models, **facts})

    # ---- targets and training rows ----

    @property
    def targets_provenance(self) -> Provenance:
        """What determines the self-generated targets."""
        return self.written_provenance("self")

    def written_provenance(self, kind: str) -> Provenance:
        """What determines the targets of a kind that the backbone writes (`rows.WRITTEN`)."""
        how = {"max_new_tokens": rows.MAX_NEW_TOKENS, "top_k": TOP_K}
        return self.text_provenance("targets", pairs=self._training_pairs(kind), **how)

    def _training_pairs(self, kind: str) -> list[tuple[str, str]]:
        """(description, prompt) of all training clips, none twice."""
        prompts = rows.training_prompts(kind, self.asked)
        if prompts not in self._pairs:
            pairs = rows.pair_clips(self.splits.clips["train"], self.asked, kind)
            self._pairs[prompts] = list(dict.fromkeys(pairs))
        return self._pairs[prompts]

    @property
    def targets(self) -> rows.Targets:
        """Collective: the backbone's own responses to the descriptions of all training clips."""
        return self.written_targets("self")

    def written_targets(self, kind: str) -> rows.Targets:
        """Collective: the targets of a kind that the backbone writes (`rows.WRITTEN`)."""
        prompts = rows.training_prompts(kind, self.asked)
        if prompts not in self._targets:
            self._targets[prompts] = self._write_targets(kind)
        return self._targets[prompts]

    def _write_targets(self, kind: str) -> rows.Targets:
        write = partial(
            generate_soft_targets,
            self.llm.backbone,
            part_id(self.preset.backbone),
            self.llm.provenance["backbone_sha256"],
            max_new_tokens=rows.MAX_NEW_TOKENS,
        )
        with self.costs.stage("targets"):
            progress, pairs = self.progress("targets"), self._training_pairs(kind)
            return rows.find_or_write_parts(
                self.root, self.written_provenance(kind), pairs, write, progress
            )

    def training_rows(self, kind: str) -> tuple[list[dict[str, Any]], list[Any] | None]:
        """Collective: the rows of a run, and its soft targets if it has any.

        Args:
            kind: `self` (the backbone's words with its distributions), `hard` (its words alone),
                `instruction-free` (as `self`, and no prompt at all), `label` (the value of one
                attribute), `template` (every attribute in a fixed form) or `other` (another LLM's
                words).
        """
        train = self.clips("train")
        pairs = rows.pair_clips(train, self.asked, kind)
        clips, targets = self.targets_of_kind(kind, train, pairs)
        soft = self.written_targets(kind).of_pairs(pairs).soft if kind in rows.SOFT else None
        name = self.own_corpus.name if self.own_corpus else "spoken"
        return rows.build_rows(clips, targets, name, self.preset.transcript), soft

    def targets_of_kind(
        self, kind: str, clips: Sequence[Clip], pairs: rows.Pairs
    ) -> tuple[Sequence[Clip], list[Target]]:
        """The clips that have a target of a kind, and their targets.

        Args:
            kind: as for `training_rows`.
            pairs: the (description, prompt) of each clip.

        Raises:
            ValueError: the nano LLM, which is the other writer, cannot write here.
        """
        if kind in rows.WRITTEN:
            return clips, self.written_targets(kind).of_pairs(pairs).rows
        return rows.other_targets(kind, clips, pairs, self.asked, self.preset)

    # ---- runs ----

    @property
    def train_config(self) -> trainer.TrainConfig:
        """How long and how fast every run trains."""
        names = {field.name for field in fields(trainer.TrainConfig)} - {"seed"}
        settings = {name: getattr(self.preset, name) for name in names}
        return trainer.TrainConfig(**settings, seed=self.seed)

    def run_config(self, kind: str) -> dict[str, Any]:
        """Everything that determines a run."""
        sources: dict[str, Any] = {"label": self.preset.label, "template": "template"}
        if kind in rows.WRITTEN:
            sources[kind] = self.written_provenance(kind).key
        if kind == "other":
            sources[kind] = weights.hash_folder(weights.NANO_FOLDER)
        own = self.connector is not None
        return {
            **self.llm.provenance,
            "target": kind,
            "targets": sources[kind],
            **self.asked.run_facts(kind, self.preset.label),
            **({"connector_start": self._connector_start} if own else {}),
            "prompts": list(rows.training_prompts(kind, self.asked)),
            "train_config": hashed_fields(self.train_config),
            "corpus": self.corpus.hash,
            "train": self.preset.train,
            "transcript": self.preset.transcript,
            "device": self.llm.backbone.device.type,
        }

    @cached_property
    def _connector_start(self) -> str:
        """One sha256 of the tensors that an own connector begins with."""
        return hash_tensors(self._new_connector())

    def run_folder(self, kind: str) -> Path:
        """The folder of a run, named by what determines it."""
        name = f"{self.preset.name}-{kind}"
        return trainer.run_folder(self.root / "runs", name, self.run_config(kind))

    def train(self, kind: str) -> Path:
        """Collective: train a run, go on with it, or find it finished; returns its folder."""
        folder, config = self.run_folder(kind), partial(self.run_config, kind)
        if processes.broadcast(trainer.is_finished(folder, self.train_config)):
            tracking.log_finished(self.track, folder, config)
            return folder
        training_rows, soft = self.training_rows(kind)
        features, report = self.features, self.progress(f"train {kind}")
        self.llm.backbone.reset_tuning()
        self.llm.connector.load_state_dict(self._new_connector().state_dict())
        with (
            self.costs.stage(f"train {kind}"),
            tracking.log_training(self.track, folder, config) as log,
        ):

            def report_step(step: int, steps: int, record: dict[str, Any]) -> None:
                log(step, record)
                report(step, steps, record)

            trainer.train(
                self.llm,
                features,
                training_rows,
                self.train_config,
                folder,
                soft_targets=soft,
                accumulate=self.preset.accumulate,
                progress=report_step,
            )
        return folder

    def _new_connector(self) -> nn.Module:
        """The connector as training begins with it."""
        shape = self.preset.connector if self.connector is None else self.connector
        return build.build_connector(shape, self.llm.encoder, self.llm.backbone, self.seed)

    # ---- scores ----

    @cached_property
    def scoring_plan(self) -> ScoringPlan:
        """Which clips are asked what at each checkpoint."""
        test, calibration = self.clips("test"), self.clips("validation")
        return ScoringPlan(self.preset, self.corpus.hash, self.tasks, test, calibration)

    @property
    def oracle_provenance(self) -> Provenance:
        """What determines the scores of the text oracle."""
        facts = self.scoring_plan.facts(self.preset.steps)
        return self.text_provenance("oracles", **facts, **self.asked.description_facts)

    def oracle(self) -> pd.DataFrame:
        """The scores of the text oracle on every task: the untouched backbone reads."""
        report = self.progress("text oracle")

        def score() -> pd.DataFrame:
            report(0, 1)
            table = evaluate(
                self.llm,
                self.tasks,
                *self.scoring_plan.clips(self.preset.steps),
                conditions=[conditions.ORACLE],
                free_form=self.scoring_plan.free_form(self.preset.steps),
                describe=self.describe,
            )
            report(1, 1)
            return table

        with self.costs.stage("text oracle"):
            return cache.find_or_make(self.root, self.oracle_provenance, score)

    def evaluate(self, kind: str) -> pd.DataFrame:
        """Collective: the scores of a run under every condition by ear (`scored_checkpoints`)."""
        folder = self.run_folder(kind)
        if processes.world_size() > 1:
            _ = self.features  # made together, before each rank has checkpoints of its own
        listed = self.scored_checkpoints(kind)
        with self.costs.stage(f"evaluate {kind}"):
            scores = processes.map_over_ranks(
                listed, partial(self.score_checkpoint, folder), self.progress(f"evaluate {kind}")
            )
        config = partial(self.run_config, kind)
        tracking.log_scores(self.track, f"{folder.name}-scores", config, scores)
        return pd.concat(scores, ignore_index=True).assign(run=kind, seed=self.seed)

    def scored_checkpoints(self, kind: str) -> list[dict[str, Any]]:
        """The checkpoints of a run that the main job scores.

        Every one (of the rival of the claim every second: no verdict needs more, and its crossings
        are coarser), or the first and the last, as the preset says.
        """
        start, *later = checkpoints.list_checkpoints(self.run_folder(kind))
        every = (2 if kind == RUNS[1] else 1) if self.preset.every_checkpoint else len(later)
        return [start, *later[::-every][::-1]]

    def score_checkpoint(
        self, folder: Path, checkpoint: Mapping[str, Any], plan: ScoringPlan | None = None
    ) -> pd.DataFrame:
        """The scores of one checkpoint, by another plan than the run's own where one is given.

        Runs that start alike share those of step 0.
        """
        plan, step = plan or self.scoring_plan, checkpoint["step"]

        def score() -> pd.DataFrame:
            checkpoints.load_checkpoint(folder, self.llm, step)
            return evaluate(
                self.llm,
                plan.tasks,
                *plan.clips(step),
                self.features,
                transcripts=self.preset.transcript,
                free_form=plan.free_form(step),
            )

        table = cache.find_or_make(self.root, self.score_provenance(checkpoint, plan), score)
        return table.assign(step=step)

    def score_provenance(
        self, checkpoint: Mapping[str, Any], plan: ScoringPlan | None = None
    ) -> Provenance:
        """What determines the scores of one checkpoint."""
        return self.provenance(
            "scores",
            **(plan or self.scoring_plan).facts(checkpoint["step"]),
            checkpoint=checkpoint["sha256"],
            conditions=list(conditions.AUDIO_CONDITIONS),
            transcript=self.preset.transcript,
        )

    def score_table(self) -> pd.DataFrame:
        """Collective: every score of both runs, trained first if need be.

        One row per run × step × condition × task × clip, the text oracle among the conditions.
        """
        for kind in RUNS:
            self.train(kind)
        scores = [self.evaluate(kind) for kind in RUNS]
        oracle = self.oracle()
        copies = [
            oracle.assign(run=kind, step=step, seed=self.seed)
            for kind, table in zip(RUNS, scores, strict=True)
            for step in sorted(table["step"].unique())
        ]
        return pd.concat([*scores, *copies], ignore_index=True)

    def ask(self, clip: Clip, question: str) -> pd.DataFrame:
        """Ask one question with the clip, with silence, with its description, and with nothing."""
        checkpoints.load_checkpoint(self.train("self"), self.llm, self.train_config.steps)
        wave, description = audio.read_audio(self.corpus.path(clip)), self.describe(clip.attributes)
        return conditions.ask_each(self.llm, wave, description, question)


def are_enough(clips: list[Clip]) -> bool:
    """Whether clips and speakers are enough for an interval over speakers."""
    count, speakers = clip_counts(clips)
    return count >= ENOUGH_CLIPS and speakers >= ENOUGH_SPEAKERS


def describe_size(clips: list[Clip], disjoint: bool) -> str:
    """How many clips and speakers there are, in words; too few where speakers are in two splits."""
    count, speakers = clip_counts(clips)
    return f"{count} clips of {speakers if disjoint else 'too few'} speakers"


def _pick_label(label: str | None, default: str, attributes: list[str]) -> str:
    if not attributes:
        raise ValueError(
            "No question of rung 3 is about an attribute of a training clip, and the bare-label "
            "run needs one; add such a task, or fill the columns of training."
        )
    if label is None:
        label = default if default in attributes else attributes[0]
    if label not in attributes:
        raise ValueError(
            f"No training clip is asked about {label!r}; the label is one of "
            f"{', '.join(attributes)}."
        )
    return label
