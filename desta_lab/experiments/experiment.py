"""What a preset trains and measures: corpus, features, targets, runs, and their ladders under every control."""

import hashlib
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pandas as pd

from desta_lab import audio, cache, processes
from desta_lab.clips import Clip, ClipSplits, Corpus, balance_speakers, split_clips
from desta_lab.evaluation import conditions, verdict
from desta_lab.evaluation.evaluate import FreeForm, evaluate
from desta_lab.evaluation.tasks import PROMPTS, task_ladder
from desta_lab.model import build, chat, presets, weights
from desta_lab.model.audio_llm import AudioLLM
from desta_lab.model.backbone import Backbone
from desta_lab.model.weights import hash_folder, models_dir
from desta_lab.training import checkpoints, trainer
from desta_lab.training import targets as target
from desta_lab.training.features import FeatureStore, features_folder
from desta_lab.world import spoken, tables
from desta_lab.world.attributes import ATTRIBUTES, DESCRIBED
from desta_lab.world.describe import (
    askable_attributes,
    describe,
    describe_plainly,
    description_function,
    is_spoken_world,
)

ENOUGH = {
    "clips": 24,
    "speakers": 4,
}  # in the test: an interval over fewer resampled voices is none
Progress = Callable[
    [str], Callable[..., None]
]  # a stage's name → what is told (done, total) as it goes


def no_progress(stage: str) -> Callable[..., None]:
    """The progress of someone who does not want to hear any."""
    return lambda *news: None


class Experiment:
    """One preset at work; every stage is found on disk by the hash of what determines it, or done and kept.

    Several ranks share features, targets, training and scoring; `table` and what it calls they do together.

    Args:
        corpus: what to train on instead of the spoken world: a corpus, or its folder (with a `clips.csv`, or with
            the manifest files that `PublicCorpus.build` wrote).
        label: the attribute of the rival run, by default the preset's, or the corpus's first if it lacks that.
        root: where corpora, features, targets and runs are kept; `data/` by default.
        out: where figures and the card go; `figures/quickstart` by default.
        progress: stage name → a function that is told (done, total) while the stage runs.

    Raises:
        ValueError: nothing of the corpus can be asked about, or not in words that the backbone knows, or there is no
            such label; CorpusError: its table is wrong, or its clips are too few.
    """

    def __init__(
        self,
        preset: presets.Preset,
        *,
        seed: int = 0,
        corpus: Corpus | Path | str | None = None,
        label: str | None = None,
        root: Path | None = None,
        out: Path | None = None,
        progress: Progress = no_progress,
    ) -> None:
        self.preset, self.seed, self.progress = (
            preset,
            seed,
            progress if processes.is_main_rank() else no_progress,
        )
        self.root = root or models_dir().parent
        self.tasks, self.describe, self.values = (
            task_ladder(),
            describe,
            {name: ATTRIBUTES[name] for name in DESCRIBED},
        )
        self.own: Corpus | None = (
            None  # whoever brings a corpus; else the spoken world, made when it is needed
        )
        if corpus is not None:
            self._adopt(corpus if isinstance(corpus, Corpus) else tables.open_corpus(corpus))
        label = label or (preset.label if preset.label in self.values else next(iter(self.values)))
        if label not in self.values:
            raise ValueError(
                f"No clip is asked about {label!r}; the label is one of {', '.join(self.values)}."
            )
        self.preset = replace(preset, label=label)
        name = "quickstart" if preset.name == "cpu" else f"quickstart-{preset.name}"
        name += f"-{self.own.name}" if self.own else ""
        self.out = out or self.root.parent / "figures" / name
        self.seconds: dict[str, float] = {}

    def _adopt(self, corpus: Corpus) -> None:
        """Take words, questions and splits from a corpus; the spoken world's own stay as they are."""
        self.own = corpus
        if is_spoken_world(corpus):
            return
        self.values, self.describe = (askable_attributes(corpus), description_function(corpus))
        if not self.values:
            raise ValueError(
                f"{corpus.folder}: no attribute has two values or more, so there is nothing to ask about; add a column "
                "to the table that tells clips apart."
            )
        if self.preset.glass_box:
            self._readable(corpus)
        self.tasks = task_ladder(self.values)

    def _readable(self, corpus: Corpus) -> None:
        """The glass box knows the words of its text world and no others."""
        told = {(name, value) for clip in corpus.clips for name, value in clip.attributes.items()}
        strange = sorted(
            f"{n} = {v!r}" for n, v in told if n not in DESCRIBED or v not in ATTRIBUTES[n]
        )
        if strange or self.describe is not describe_plainly:
            known = "; ".join(f"{name}: {', '.join(ATTRIBUTES[name])}" for name in DESCRIBED)
            raise ValueError(
                f"{corpus.folder}: the nano LLM knows only the words of its own text world ({known}), and nothing of "
                f"{', '.join(strange[:3]) or f'the sentences of {corpus.name}'}; leave such columns out of the table, "
                "or take the preset cpu."
            )

    # ---- parts, each made once ----

    @cached_property
    def corpus(self) -> Corpus:
        """The corpus that was brought, or the spoken world of this preset and seed."""
        if self.own:
            return self.own
        key = _hash(
            {
                "clips": self.preset.clips,
                "seconds": self.preset.seconds,
                "seed": self.seed,
                "v": cache.VERSIONS["corpora"],
            }
        )
        with self._stage("corpus"), processes.main_first():
            return spoken.build_spoken_corpus(
                self.root / "corpora" / f"spoken-{key}",
                clips=self.preset.clips,
                seconds=self.preset.seconds,
                seed=self.seed,
                progress=self.progress("corpus"),
            )

    @cached_property
    def llm(self) -> AudioLLM:
        """Frozen encoder, new connector, frozen backbone."""
        with self._stage("models"):
            tell = self.progress("models")
            return build.build_audio_llm(
                self.preset, root=self.root / "models", seed=self.seed, progress=lambda s: tell(s)
            )

    def clips(self, split: str) -> list[Clip]:
        """The clips of a split that this job uses: all for training, for scoring as many of each speaker as of any.

        Of a corpus that was brought, training clips help to calibrate where validation has a few or few voices: one
        voice alone, say a woman's, would calibrate women away.
        """
        every = self.splits.clips[split]
        if self.own and split == "validation" and not enough(every):
            every = every + self.splits.clips["train"]
        some = {
            "train": self.preset.train,
            "validation": self.preset.held_out,
            "test": self.preset.test,
        }[split]
        return every if some is None else balance_speakers(every, some)

    @cached_property
    def splits(self) -> ClipSplits:
        """The clips of each split, and whether no speaker is in two of them."""
        return split_clips(self.corpus)

    @cached_property
    def features(self) -> FeatureStore:
        """Tapped layers of every clip that is used."""
        used = [clip for split in ("validation", "test") for clip in self.clips(split)]
        every = [
            *self.splits.clips["train"],
            *used,
        ]  # all of them: runs that train with fewer find the same store
        store = FeatureStore(
            features_folder(self.root),
            self.llm.encoder,
            self.llm.provenance["encoder_sha256"],
            self.corpus,
            every,
        )
        with self._stage("features"):
            store.compute(self.progress("features"))
        return store

    @cached_property
    def targets(self) -> tuple[list[target.Target], list[target.SoftTarget], str]:
        """The backbone's own answers to every description it is trained with, and how sure it was of each token."""
        train = self.splits.clips["train"]
        descriptions = [self.describe(clip.attributes) for clip in train]
        pairs = list(dict.fromkeys(zip(descriptions, self._prompts(train), strict=True)))
        revision = self.llm.provenance["backbone_sha256"]
        read: list[Any] = [d for d, _ in pairs] if self.preset.prompts == 1 else pairs
        key = {
            "revision": revision,
            "prompt": self._prompt,
            "tokens": 40,
            "k": target.TOP_K,
            "read": read,
        }
        key |= self._rounding

        def write() -> tuple[list[target.Target], list[target.SoftTarget]]:
            return target.generate_soft_targets(
                self.llm.backbone,
                self.preset.backbone,
                revision,
                pairs,
                progress=self.progress("targets"),
            )

        with self._stage("targets"):
            rows, soft, folder = target.cached_targets(self.root / "targets", key, write)
        target.check_writer(rows, revision)
        return rows, soft, folder.name

    @property
    def _rounding(self) -> dict[str, str]:
        """How the backbone computes, as it enters a hash: done in another way, the same sum rounds otherwise."""
        attention = {"attention": self.preset.attention} if self.preset.attention else {}
        return {"dtype": str(self.llm.backbone.dtype), **attention}

    @property
    def _prompt(self) -> str | list[str]:
        """The trained prompt, or all of them, as they enter a hash."""
        return PROMPTS[0] if self.preset.prompts == 1 else list(PROMPTS[: self.preset.prompts])

    def _prompts(self, clips: Sequence[Clip]) -> list[str]:
        """The prompt of each clip, by the hash of its name: with fewer clips, each keeps its own."""
        some = PROMPTS[: self.preset.prompts]
        return [
            some[int(hashlib.sha256(clip.id.encode()).hexdigest(), 16) % len(some)]
            for clip in clips
        ]

    def training_rows(
        self, kind: str
    ) -> tuple[list[dict[str, Any]], list[target.SoftTarget] | None]:
        """Training rows of a run: `self` (soft targets), `hard` (their tokens alone), `label`, `template` or `other`.

        A template names every attribute, as a self-generated target does, in words that are not the backbone's: beside
        `hard` it tells apart who wrote the targets from how much they name. `other` are another LLM's answers.
        """
        train = self.clips("train")
        prompts = self._prompts(train)
        pairs = [
            (self.describe(clip.attributes), prompt)
            for clip, prompt in zip(train, prompts, strict=True)
        ]
        if kind == "label":
            train = [clip for clip in train if self.preset.label in clip.attributes]
            targets, soft = [self._bare(clip) for clip in train], None
        elif kind == "template":
            targets, soft = (
                [self._template(c, prompt) for c, prompt in zip(train, prompts, strict=True)],
                None,
            )
        elif kind == "other":
            targets, soft = self._others(pairs), None
        else:
            written, every, _ = self.targets
            index = {(row.description, row.prompt): i for i, row in enumerate(written)}
            targets = [written[index[pair]] for pair in pairs]
            soft = [every[index[pair]] for pair in pairs] if kind == "self" else None
        name = self.own.name if self.own else "spoken"
        rows = [target.clip_row(c, one, name) for c, one in zip(train, targets, strict=True)]
        if words := self.words(train):
            rows = [{**row, "transcripts": [text]} for row, text in zip(rows, words, strict=True)]
        return rows, soft

    def words(self, clips: Sequence[Clip]) -> list[str] | None:
        """The transcripts that stand behind the audio embeddings of these clips; None where none do."""
        return [clip.transcript for clip in clips] if self.preset.transcript else None

    def _bare(self, clip: Clip) -> target.Target:
        question = next(
            task.question for task in self.tasks if task.name == f"ask_{self.preset.label}"
        )
        return target.label_target(clip, self.preset.label, question)

    def _template(self, clip: Clip, prompt: str) -> target.Target:
        return target.template_target(clip, prompt, self.values, self.describe)

    def _others(self, pairs: list[tuple[str, str]]) -> list[target.Target]:
        """Another LLM's answers to (description, prompt): the nano LLM's, which can write of the spoken world alone."""
        if self.preset.glass_box or self.describe is not describe:
            raise ValueError(
                "The other LLM is nano; take the spoken world and another backbone, such as preset cpu."
            )
        writer, revision = Backbone.load(weights.NANO_FOLDER), hash_folder(weights.NANO_FOLDER)
        some = list(dict.fromkeys(pairs))
        answers = target.generate_targets(
            writer, "nano", revision, some, kind="other", max_new_tokens=48
        )
        return [answers[pair] for pair in pairs]

    # ---- the two runs ----

    @property
    def train_config(self) -> trainer.TrainConfig:
        """The recipe both runs share."""
        p = self.preset
        return trainer.TrainConfig(
            p.steps, p.batch, p.lr, seed=self.seed, checkpoint_every=p.checkpoint_every
        )

    def run_config(self, kind: str) -> dict[str, Any]:
        """All that determines a run."""
        ours = {
            "label": self.preset.label,
            "template": "template",
        }  # self and hard are written by the backbone
        if kind == "other":
            ours["other"] = hash_folder(weights.NANO_FOLDER)
        return {
            "kind": kind,
            "train_config": asdict(self.train_config),
            "provenance": self.llm.provenance,
            "corpus": self.corpus.hash,
            "targets": ours[kind] if kind in ours else self.targets[2],
            "prompt": self._prompt,
            **self._rounding,
            "device": self.llm.backbone.device.type,
            **({} if self.preset.train is None else {"train": self.preset.train}),
            **({"transcript": True} if self.preset.transcript else {}),
        }

    def run_folder(self, kind: str) -> Path:
        """The run's folder, named by the hash of its config."""
        return trainer.run_folder(
            self.root / "runs", f"{self.preset.name}-{kind}", self.run_config(kind)
        )

    def train(self, kind: str) -> Path:
        """Train one run, or go on with it, or find it finished."""
        folder = self.run_folder(kind)
        if processes.broadcast(trainer.is_finished(folder, self.train_config)):
            return folder
        examples, soft = self.training_rows(kind)
        store = self.features
        shape, encoder = self.preset.connector, self.llm.encoder
        self.llm.backbone.reset_tuning()
        born = build.build_connector(
            shape, len(encoder.taps), encoder.width, self.llm.backbone, self.seed
        )
        self.llm.connector.load_state_dict(born.state_dict())
        with self._stage(f"train {kind}"):
            trainer.train(
                self.llm,
                store,
                examples,
                self.train_config,
                folder,
                soft_targets=soft,
                accumulate=self.preset.accumulate,
                progress=self.progress(f"train {kind}"),
            )
        return folder

    # ---- measuring ----

    def key(self, **more: Any) -> str:
        """The hash of what is asked of which clips, and of whatever more determines a table."""
        used = {split: [clip.id for clip in self.clips(split)] for split in ("validation", "test")}
        how = {
            "tasks": [repr(t) for t in self.tasks],
            "free_form_clips": self.preset.free_form_clips,
        }
        return _hash({"clips": used, "corpus": self.corpus.hash, **how, **more})

    def oracle(self) -> pd.DataFrame:
        """The text oracle of every task, closed-set and in its own words."""
        with self._stage("text oracle"), self.llm.backbone.untuned(), processes.main_first():
            return cache.cached_table(self.oracle_path, self._oracle)

    @property
    def oracle_path(self) -> Path:
        """Where the oracle's table is kept."""
        return (
            self.root
            / "oracles"
            / f"{self.key(backbone=self.llm.provenance['backbone_sha256'])}.csv"
        )

    def _oracle(self) -> pd.DataFrame:
        test, held_out = self.clips("test"), self.clips("validation")
        tell = self.progress("text oracle")
        tell(0, 1)
        table = evaluate(
            self.llm,
            self.tasks,
            test,
            held_out,
            conditions=["oracle"],
            free_form=FreeForm(2 * self.preset.free_form_clips),
            describe=self.describe,
        )
        tell(1, 1)
        return table

    def evaluate(self, kind: str) -> pd.DataFrame:
        """The task ladder with its controls at every rung of a run's checkpoint ladder."""
        folder = self.run_folder(kind)
        rungs = list(zip(checkpoints.list_checkpoints(folder), self.evals(kind), strict=True))
        if processes.world_size() > 1:
            _ = self.features  # made together, before each rank has rungs of its own

        def one(rung: tuple[dict[str, Any], Path]) -> pd.DataFrame:
            return cache.cached_table(rung[1], partial(self._evaluate, folder, rung[0])).assign(
                step=rung[0]["step"]
            )

        with self._stage(f"evaluate {kind}"):
            tables = processes.map_over_ranks(rungs, one, self.progress(f"evaluate {kind}"))
        return pd.concat(tables, ignore_index=True).assign(run=kind, seed=self.seed)

    def evals(self, kind: str) -> list[Path]:
        """Where the table of every rung of a run is kept; what both runs share is kept once."""
        folder, paths = self.run_folder(kind), []
        for rung in checkpoints.list_checkpoints(folder):
            how = {"transcript": True} if self.preset.transcript else {}
            key = self.key(checkpoint=rung["sha256"], thorough=self._thorough(rung), **how)
            name = f"{rung['step']:06d}-{key}.csv"
            twins = sorted(
                (self.root / "runs").glob(f"*/evals/{name}")
            )  # both runs are born the same
            paths.append(twins[0] if twins else folder / "evals" / name)
        return paths

    def _thorough(self, rung: dict[str, Any]) -> bool:
        """The first and the last rung carry the verdict and get every clip; those between get half."""
        return rung["step"] in (0, self.train_config.steps)

    def _evaluate(self, folder: Path, rung: dict[str, Any]) -> pd.DataFrame:
        checkpoints.load_checkpoint(folder, self.llm, rung["step"])
        part = 1 if self._thorough(rung) else 2
        test, held_out = (
            self.clips(s)[: len(self.clips(s)) // part] for s in ("test", "validation")
        )
        last = rung["step"] == self.train_config.steps
        return evaluate(
            self.llm,
            self.tasks,
            test,
            held_out,
            self.features,
            transcripts=self.preset.transcript,
            free_form=FreeForm(
                self.preset.free_form_clips * (2 if last else 1),
                tasks=None if last else [task for task in self.tasks if task.rung == 3],
                max_new_tokens=24 if last else 8,
            ),
        )

    def score_table(self) -> pd.DataFrame:
        """Every measurement of both runs: one row per run × step × condition × task × clip, the text oracle among them."""
        for kind in ("self", "label"):
            self.train(kind)
        measured = [self.evaluate(kind) for kind in ("self", "label")]
        oracle = self.oracle()
        read = [
            oracle.assign(run=table["run"].iloc[0], step=step, seed=self.seed)
            for table in measured
            for step in sorted(table["step"].unique())
        ]
        return pd.concat([*measured, *read], ignore_index=True)

    def ask(self, clip: Clip, question: str) -> pd.DataFrame:
        """One question under every condition: the clip, silence, the description (text oracle), and no clip at all."""
        folder = self.train("self")
        checkpoints.load_checkpoint(folder, self.llm, self.train_config.steps)
        spoken_clip = conditions.embed_clips(
            self.llm, self.llm.encoder.encode([audio.read_audio(self.corpus.path(clip))])
        )
        asked = {
            "with the clip": (chat.audio_messages(question), spoken_clip),
            "with silence": (chat.audio_messages(question), conditions.embed_silence(self.llm)),
            "reading the description": (
                chat.description_messages(self.describe(clip.attributes), question),
                None,
            ),
            "without the clip": (chat.description_messages("", question), None),
        }
        rows = []
        for condition, (messages, heard) in asked.items():
            stream = chat.build_stream(
                self.llm.backbone.tokenizer, messages, 0 if heard is None else self.llm.queries
            )
            ids = self.llm.generate_ids([stream], heard, max_new_tokens=32)
            rows.append({"condition": condition, "answer": self.llm.backbone.decode(ids[0])})
        return pd.DataFrame(rows)

    def kinds(self) -> dict[str, list[target.Target]]:
        """A target of every kind for every description, to compare their perplexity and what they keep."""
        rows, _, _ = self.targets
        first = {
            self.describe(clip.attributes): clip for clip in reversed(self.splits.clips["train"])
        }
        clips = [first[row.description] for row in rows]
        kinds = {
            "self": rows,
            "label": [
                replace(self._bare(clip), description=row.description)
                for clip, row in zip(clips, rows, strict=True)
                if self.preset.label in clip.attributes
            ],
            "template": [
                self._template(clip, row.prompt) for clip, row in zip(clips, rows, strict=True)
            ],
        }
        spoken_too = self.describe is describe  # the words that the nano LLM can write about
        if spoken_too and weights.NANO_FOLDER.is_dir() and not self.preset.glass_box:
            kinds["other"] = self._others([(row.description, row.prompt) for row in rows])
        return kinds

    def able_attributes(self) -> list[str]:
        """The attributes whose question (rung 3) the backbone answers from the description."""
        able = verdict.able_tasks(self.oracle())
        return [task.attribute for task in self.tasks if task.rung == 3 and task.name in able]

    # ---- what it cost ----

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        """Time a stage without the stages inside it, and note it at once: a killed job keeps what it knows."""
        begin, inner = time.perf_counter(), sum(self.seconds.values())
        yield
        nested = sum(self.seconds.values()) - inner
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin - nested
        if processes.is_main_rank():
            self._costs.parent.mkdir(parents=True, exist_ok=True)
            cache.write_whole(self._costs, cache.to_json(self.cost()))

    @property
    def _costs(self) -> Path:
        work = replace(
            self.preset, minutes=None, memory_gb=None, disk_gb=None
        )  # what is done, not what was said of it
        own = [self.own.hash] if self.own else []
        return (
            self.root
            / "costs"
            / f"{work.name}-{_hash([presets.hashed_fields(work), self.seed, *own])}.json"
        )

    def cost(self) -> dict[str, Any]:
        """Seconds of every stage when it was really done (one found on disk keeps its old time), and peak memory."""
        before: dict[str, Any] = {"seconds": {}, "peak_memory_gb": 0.0}
        if self._costs.exists():
            before = json.loads(self._costs.read_text())
        names = {**before["seconds"], **self.seconds}
        unit = (
            1 if sys.platform == "darwin" else 1024
        )  # of ru_maxrss: bytes there, kilobytes elsewhere
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
        return {
            "seconds": {
                n: round(max(before["seconds"].get(n, 0.0), self.seconds.get(n, 0.0)), 1)
                for n in names
            },
            "peak_memory_gb": round(max(before["peak_memory_gb"], peak), 2),
        }


def enough(clips: Sequence[Clip]) -> bool:
    """Whether these are clips and voices enough for an interval."""
    return (
        len(clips) >= ENOUGH["clips"]
        and len({clip.speaker for clip in clips}) >= ENOUGH["speakers"]
    )


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def newest_run(root: Path | None = None) -> Path:
    """The self-generated run that was finished last, if possible of those that a main job judged.

    Raises:
        FileNotFoundError: there is no run; the message says how to make one.
    """
    runs = (root or models_dir().parent) / "runs"
    lists = list(runs.glob("*-self-*/checkpoints/checkpoints.json"))
    if not lists:
        raise FileNotFoundError(
            f"{runs}: no finished run here; make one with `python -m desta_lab quickstart`."
        )
    judged = [path for path in lists if (path.parents[1] / "evals").is_dir()]
    return max(judged or lists, key=lambda path: path.stat().st_mtime).parents[1]
