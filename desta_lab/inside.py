"""The analysis of a finished run: every table kept by its hash, every figure drawn from its table."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from desta_lab import audio
from desta_lab.analysis import activations, attention, attribution, evidence, geometry, lens, probes
from desta_lab.clips import Clip, spread
from desta_lab.evaluation import controls, emergence, scoring
from desta_lab.evaluation.tasks import Task
from desta_lab.model import chat
from desta_lab.quickstart import Progress, Quickstart, kept, silent
from desta_lab.training import ladder
from desta_lab.training.features import FeatureStore
from desta_lab.views import figures, insights
from desta_lab.world.describe import NEUTRAL, describe

VERSION = 1  # of what is captured and computed here: raise it and everything is done again
CLIPS = {"validation": 96, "test": 192}  # of speakers never heard in training; validation calibrates
STEPS = 8  # rungs of the ladder that are looked into, first and last among them
EXPLAINED = 16  # clips whose answers are attributed
PAIRS = 24  # clips patched into others
SEEDS = (0, 1)  # of UMAP
WORDS = 64  # clips whose audio embeddings are looked up in the vocabulary
BATCH = 16
SAMPLES = 3  # orders of Shapley sampling


class Inside:
    """What one run's connector and backbone hold, at every site and along training.

    Args:
        job: a quickstart; the run is found on disk, or trained first.
        kind: which of its runs: `self` or `label`.
        out: where figures go; `figures/inside` by default, with the preset's name where that is not `cpu`.
    """

    def __init__(
        self, job: Quickstart, kind: str = "self", *, out: Path | None = None, progress: Progress = silent
    ) -> None:
        self.job, self.progress = job, progress
        self.folder = job.train(kind)
        self.llm = job.llm
        own = "" if job.preset.name == "cpu" else f"-{job.preset.name}"
        self.out = out or job.root.parent / "figures" / f"inside{own}"
        self.tasks: list[Task] = [task for task in job.tasks if task.rung == 3]
        rungs = {rung["step"]: rung["sha256"] for rung in ladder.entries(self.folder / "ladder")}
        chosen = np.unique(np.linspace(0, len(rungs) - 1, min(STEPS, len(rungs))).round().astype(int))
        self.checkpoints = {step: rungs[step] for step in (sorted(rungs)[i] for i in chosen)}
        self.last = max(self.checkpoints)
        ladder.climb(self.folder / "ladder", self.llm, self.last)  # where it stands between any two measurements
        self.clips = [c for split, count in CLIPS.items() for c in spread(job.corpus.split(split), count)]
        validation = set(job.corpus.splits["validation"])
        self.held_out = [i for i, clip in enumerate(self.clips) if clip.speaker in validation]
        self.scored = [i for i, clip in enumerate(self.clips) if clip.speaker not in validation]
        self.speakers = [clip.speaker for clip in self.clips]
        self.labels = {task.attribute: [c.attributes[task.attribute] for c in self.clips] for task in self.tasks}

    # ---- what is captured ----

    @cached_property
    def store(self) -> FeatureStore:
        """Encoder states of the clips looked at."""
        sha256 = self.llm.parts["encoder_sha256"]
        store = FeatureStore(self.job.root / "features", self.llm.encoder, sha256, self.job.corpus, self.clips)
        store.compute(self.progress("features"))
        return store

    def waves(self, clips: Sequence[Clip]) -> list[np.ndarray]:
        """Their waveforms."""
        return [audio.read(self.job.corpus.path(clip)) for clip in clips]

    def states(self, rows: Sequence[int]) -> Tensor:
        """Encoder states of these rows, as the connector takes them."""
        return self.store[[self.clips[i].id for i in rows]]

    def sites(self, step: int) -> activations.Sites:
        """Everything behind the connector at one checkpoint."""

        def capture() -> activations.Sites:
            ladder.climb(self.folder / "ladder", self.llm, step)
            batches = (self.states(rows) for rows in self._batches(f"activations, step {step}"))
            try:
                return activations.heard(self.llm, self.tasks, batches)
            finally:
                ladder.climb(self.folder / "ladder", self.llm, self.last)

        return activations.kept(self.folder / "inside", {"step": self.checkpoints[step], **self._what}, capture)

    def before(self) -> activations.Sites:
        """The sites that training does not move."""

        def capture() -> activations.Sites:
            encoder = self.llm.encoder
            return activations.fixed(
                self.llm,
                (
                    (audio.log_mel(self.waves([self.clips[i] for i in rows]), encoder.seconds, encoder.mels),
                     self.states(rows))
                    for rows in self._batches("spectrograms")
                ),
            )  # fmt: skip

        return activations.kept(self.folder / "inside", {"step": "none", **self._what}, capture)

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
            "version": VERSION, "corpus": self.job.corpus.hash, "clips": [clip.id for clip in self.clips],
            "tasks": [repr(task) for task in self.tasks], "parts": self.llm.parts,
            "dtype": str(self.llm.backbone.dtype),
        }  # fmt: skip

    def table(self, name: str) -> pd.DataFrame:
        """One of the analysis's tables, from disk or computed now."""
        if name not in TABLES:
            raise ValueError(f"There is no table {name!r}; there are {', '.join(TABLES)}.")
        sizes = (EXPLAINED, PAIRS, SEEDS, WORDS, SAMPLES)
        key = json.dumps([self.checkpoints, self._what, sizes], sort_keys=True)
        digest = hashlib.sha256(key.encode()).hexdigest()[:12]

        return kept(self.folder / "inside" / f"{name}-{digest}.csv", lambda: TABLES[name](self))

    # ---- the result ----

    def run(self) -> dict[str, pd.DataFrame]:
        """Every table and every figure, in order."""
        tell, tables = self.progress("analysis"), {}
        for done, name in enumerate(TABLES):
            tables[name] = self.table(name)
            tell(done + 1, len(TABLES))
        provenance = {"run": self.folder.name, "checkpoints": self.checkpoints, "seeds": [self.job.seed]}
        for name, picture in draw(self, tables).items():
            figures.save(picture, self.out, name, provenance=provenance)
        for method in ("pca", "umap"):
            insights.film(tables["points"], self.out / f"map_{method}.gif", self.job.preset.label, method)
        return tables


# ---- present, readable, spoken ----


def _probes(inside: Inside) -> pd.DataFrame:
    who = np.array(inside.speakers)
    kept_apart = probes.folds(
        inside.speakers, [f"{c.attributes['gender']} {c.attributes['accent']}" for c in inside.clips]
    )
    every = {0: inside.before()}
    jobs = [(0, name, site, inside.labels) for name, site in inside.before().items()]
    for step in inside.checkpoints:
        every[step] = inside.sites(step)
        for name, site in every[step].items():
            family, _, attribute = name.partition(": ")
            if not name.startswith("scores"):
                jobs.append((step, family, site, {attribute: inside.labels[attribute]} if attribute else inside.labels))
    tell, tables = inside.progress("probes"), []
    for done, (step, name, site, labels) in enumerate(jobs):
        measured = probes.probe(activations.pooled(site).numpy(), labels, who.tolist(), kept_apart)
        tables.append(probes.summary(measured).assign(step=step, site=name))
        tell(done + 1, len(jobs))
    return pd.concat(tables, ignore_index=True)


def _spoken(inside: Inside) -> pd.DataFrame:
    """What the model can say, of the same clips: ranking calibrated on the validation speakers."""
    truth = [inside.clips[i].attributes for i in inside.scored]
    lengths = [scoring.option_lengths(inside.llm.backbone.tokenizer, task) for task in inside.tasks]
    tables = []
    for step in inside.checkpoints:
        scores = [inside.sites(step)[f"scores {task.name}"].float() for task in inside.tasks]
        judged = scoring.judge(
            inside.tasks, [s[inside.scored] for s in scores], [s[inside.held_out] for s in scores], truth, lengths
        )
        judged["speaker"] = [inside.speakers[inside.scored[i]] for i in judged["row"]]
        judged = judged.rename(columns={"calibrated": "correct"})
        tables.append(probes.summary(judged, ["attribute"]).assign(step=step))
    return pd.concat(tables, ignore_index=True)


def _learning(inside: Inside) -> pd.DataFrame:
    fixed, now = inside.before(), inside.sites(inside.last)
    sites = {
        "log-mel": fixed["log-mel"],
        list(fixed)[-1]: fixed[list(fixed)[-1]],
        "audio embeddings": now["audio embeddings"],
    }
    sizes = [size for size in (16, 32, 64, 128, 216) if size <= len(inside.clips) * 3 // 4]
    return pd.concat(
        [
            probes.learning_curve(activations.pooled(site).numpy(), inside.labels, inside.speakers, sizes).assign(
                site=name
            )
            for name, site in sites.items()
        ],
        ignore_index=True,
    )


# ---- the shape of it ----


def _thinned(names: Sequence[str], most: int = 4) -> list[str]:
    """At most so many sites of each family (encoder, block, slots), spread evenly."""
    families: dict[str, list[str]] = {}
    for name in names:
        families.setdefault(name.split()[0], []).append(name)
    return [
        family[i]
        for family in families.values()
        for i in np.unique(np.linspace(0, len(family) - 1, min(most, len(family))).round().astype(int))
    ]


def _similar_sites(inside: Inside) -> pd.DataFrame:
    sites = {**inside.before(), **inside.sites(inside.last)}
    names = _thinned([name for name in sites if not name.startswith(("answer", "scores"))])
    return geometry.similarity({name: activations.pooled(sites[name]).numpy() for name in names})


def _similar_steps(inside: Inside) -> pd.DataFrame:
    return geometry.similarity(
        {f"step {s}": inside.sites(s)["audio embeddings"].float().flatten(1).numpy() for s in inside.checkpoints}
    )


def _frames(inside: Inside) -> dict[int, np.ndarray]:
    return {step: inside.sites(step)["audio embeddings"].float().flatten(1).numpy() for step in inside.checkpoints}


def _points(inside: Inside) -> pd.DataFrame:
    """Both maps with their trustworthiness in every row; `clip` and its attributes beside the coordinates."""
    tell = inside.progress("maps")
    tables = []
    for done, method in enumerate(("pca", "umap")):
        points, trust = geometry.maps(_frames(inside), method, SEEDS)
        tables.append(points.merge(trust, on=["step", "method", "seed"]))
        tell(done + 1, 2)
    points = pd.concat(tables, ignore_index=True)
    known = pd.DataFrame([{"row": i, "clip": c.id, **c.attributes} for i, c in enumerate(inside.clips)])
    return points.merge(known, on="row")


def _gap(inside: Inside) -> pd.DataFrame:
    backbone, rows = inside.llm.backbone, inside.scored
    ids = [chat.encode(backbone.tokenizer, describe(inside.clips[i].attributes)) for i in rows]
    tokens = [backbone.embed(torch.tensor(row)).float().cpu().numpy() for row in ids]
    norm = float(np.mean([np.linalg.norm(row, axis=1).mean() for row in tokens]))
    written = np.stack([row.mean(0) for row in tokens])
    partners = controls.partners([inside.clips[i] for i in rows])
    tables = []
    for step in inside.checkpoints:
        found = geometry.gap(inside.spoken(rows, step).cpu().numpy(), written, partners, norm)
        for measure, values in found.items():
            table = pd.DataFrame({"value": values, "speaker": [inside.speakers[i] for i in rows], "measure": measure})
            (interval,) = emergence.bootstrap(table, "value", ["measure"]).values()
            tables.append(
                {"step": step, "measure": measure, **dict(zip(("value", "low", "high"), interval, strict=True))}
            )
    return pd.DataFrame(tables)


def _words(inside: Inside) -> pd.DataFrame:
    backbone = inside.llm.backbone
    vocabulary = backbone.model.get_input_embeddings().weight.detach().float().cpu().numpy()
    born = chat.encode(backbone.tokenizer, NEUTRAL) if inside.job.preset.connector.anchored else []
    tables = []
    for step in (0, sorted(inside.checkpoints)[len(inside.checkpoints) // 2], inside.last):
        words = geometry.nearest_words(inside.spoken(inside.scored[:WORDS], step).cpu().numpy(), vocabulary, born)
        tables.append(words.assign(step=step, word=[backbone.tokenizer.decode([t]) for t in words["token"]]))
    table = pd.concat(tables, ignore_index=True)
    return table.assign(anchor=[backbone.tokenizer.decode([born[q]]) if born else "" for q in table["query"]])


# ---- where it looks, and whether that is why ----


def _explained(inside: Inside) -> tuple[list[int], list[Clip]]:
    rows = inside.scored[:EXPLAINED]
    return rows, [inside.clips[i] for i in rows]


def _task(inside: Inside, attribute: str) -> Task:
    return next(task for task in inside.tasks if task.attribute == attribute)


def looks(inside: Inside, attribute: str) -> dict[str, np.ndarray]:
    """Profiles over time (clip, frame or window) of every way to say where the answer came from.

    Attention first; then attribution to the queries, carried on to the frames they attend to, and to windows of the
    waveform.
    """
    rows, clips = _explained(inside)
    task, values = _task(inside, attribute), [clip.attributes[attribute] for clip in clips]
    spoken, states = inside.spoken(rows), inside.states(rows)
    where = attention.query_to_time(inside.llm.connector, states)
    answer = attention.answer_to_audio(inside.llm, task, spoken)
    found = {
        "query attention": where.mean(1),
        "answer attention": attribution.to_seconds(answer["weights"].mean((1, 2)), where),
        "answer rollout": attribution.to_seconds(answer["rollout"], where),
    }
    tell, ways = inside.progress("attribution"), [*attribution.METHODS, "ablation", "shapley"]
    for done, method in enumerate(ways):
        if done < len(attribution.METHODS):
            told = attribution.over_queries(method, inside.llm, task, values, spoken, samples=SAMPLES)
            found[f"{method}, queries"] = attribution.to_seconds(told.values, where)
        else:
            told = attribution.over_windows(method, inside.llm, task, values, inside.waves(clips), samples=SAMPLES)
            found[f"{method}, windows"] = told.values
        tell(done + 1, len(ways))
    ladder.climb(inside.folder / "ladder", inside.llm, 0)
    found["query attention, untrained"] = attention.query_to_time(inside.llm.connector, states).mean(1)
    ladder.climb(inside.folder / "ladder", inside.llm, inside.last)
    return {name.replace("_", " "): profile.detach().cpu().numpy().astype(float) for name, profile in found.items()}


def _profiles(inside: Inside) -> pd.DataFrame:
    """Every profile, one row a clip, method and place in time: of the scene, whose window each clip draws anew."""
    _, clips = _explained(inside)
    attribute = inside.job.preset.label
    return pd.concat(
        [
            pd.DataFrame({
                "attribute": attribute, "method": method, "clip": clip.id, "place": range(len(profile)),
                "value": profile,
            })
            for method, profiles in looks(inside, attribute).items()
            for clip, profile in zip(clips, profiles, strict=True)
        ],
        ignore_index=True,
    )  # fmt: skip


def _evidence(inside: Inside) -> pd.DataFrame:
    _, clips = _explained(inside)
    tables = []
    for (method, attribute), rows in inside.table("profiles").groupby(["method", "attribute"], sort=False):
        wide = rows.pivot(index="clip", columns="place", values="value").loc[[clip.id for clip in clips]]
        seconds = inside.llm.encoder.seconds
        tables.append(evidence.table(wide.to_numpy(), clips, str(attribute), seconds, str(method)))
    return evidence.summary(pd.concat(tables, ignore_index=True))


def _heads(inside: Inside) -> pd.DataFrame:
    """Layer × head of the backbone: attention on the audio as the answer begins, and whether it points at the scene."""
    rows, clips = _explained(inside)
    attribute = inside.job.preset.label
    weights = attention.answer_to_audio(inside.llm, _task(inside, attribute), inside.spoken(rows))["weights"]
    where = attention.query_to_time(inside.llm.connector, inside.states(rows))
    table = []
    for layer, head in np.ndindex(*weights.shape[1:3]):
        profiles = attribution.to_seconds(weights[:, layer, head], where).numpy().astype(float)
        hits = [
            evidence.score(profile, evidence.evidence(clip, attribute), inside.llm.encoder.seconds)["pointing"]
            for profile, clip in zip(profiles, clips, strict=True)
        ]
        share = float(weights[:, layer, head].sum(-1).mean())
        table.append({"layer": layer, "head": head, "share": share, "pointing": np.mean(hits)})
    return pd.DataFrame(table)


def _deletion(inside: Inside) -> pd.DataFrame:
    _, clips = _explained(inside)
    attribute = inside.job.preset.label
    told = inside.table("profiles")
    told = told[(told["method"] == "shapley, windows") & (told["attribute"] == attribute)]
    worth = told.pivot(index="clip", columns="place", values="value").loc[[clip.id for clip in clips]]
    cases = attribution.window_cases(
        inside.llm, _task(inside, attribute), [c.attributes[attribute] for c in clips], inside.waves(clips)
    )
    names = [clip.id for clip in clips]
    drawn = attribution.curves(cases, torch.tensor(worth.to_numpy()), names, draws=1)
    drawn["speaker"] = drawn["clip"].map({clip.id: clip.speaker for clip in clips})
    found = emergence.bootstrap(drawn, "margin", ["curve", "order", "share"])
    return pd.DataFrame(
        [
            dict(zip(("curve", "order", "share", "margin", "low", "high"), (*k, *v), strict=True))
            for k, v in found.items()
        ]
    )


def _sanity(inside: Inside) -> pd.DataFrame:
    """Weight randomisation, and what integrated gradients miss of the margin (convergence delta)."""
    rows, clips = _explained(inside)
    attribute = inside.job.preset.label
    task, values, states = _task(inside, attribute), [c.attributes[attribute] for c in clips], inside.states(rows)
    connector = inside.llm.connector
    ladder.climb(inside.folder / "ladder", inside.llm, 0)
    born = {name: tensor.detach().clone() for name, tensor in connector.state_dict().items()}
    ladder.climb(inside.folder / "ladder", inside.llm, inside.last)
    found = []

    def explain(method: str) -> Callable[[], Tensor]:
        def told() -> Tensor:
            spoken = controls.hear(inside.llm, states)
            result = attribution.over_queries(method, inside.llm, task, values, spoken)
            found.append({"method": method, "measure": "delta / margin", "value": _relative(result)})
            return result.values

        return told

    tables = []
    for method in ("integrated_gradients", "ablation"):
        for against, weights in {"untrained": born, "shuffled weights": attribution.shuffled(connector)}.items():
            same = attribution.randomised(connector, weights, explain(method))
            tables.append({"method": method, "measure": f"rank correlation with {against}", "value": np.nanmean(same)})
    return pd.DataFrame([*tables, *found[::4]])


def _relative(told: attribution.Attribution) -> float:
    """Median size of what the parts miss, in sizes of what they sum to."""
    return float((told.delta.abs() / told.values.sum(1).abs().clamp_min(1e-6)).median())


# ---- lenses ----


def _lens(inside: Inside) -> pd.DataFrame:
    rows, held_out, llm = inside.scored, inside.held_out, inside.llm
    truth = [clip.attributes for clip in inside.clips]
    swap = [rows[i] for i in controls.partners([inside.clips[i] for i in rows])]
    texts = [describe(attributes) for attributes in truth]
    unique = list(dict.fromkeys(texts))
    read = activations.read(llm, inside.tasks, unique)
    at = torch.tensor([unique.index(text) for text in texts])
    views = {
        "audio": (inside.sites(inside.last), None), "untrained": (inside.sites(0), None),
        "shuffled": (inside.sites(inside.last), swap), "oracle": ({k: v[at] for k, v in read.items()}, None),
    }  # fmt: skip
    tables = []
    for view, (sites, swapped) in views.items():
        told = lens.logit_lens(llm, inside.tasks, sites, truth, held_out, swapped)
        told["speaker"] = [inside.speakers[i] for i in told["row"]]
        middle = told.groupby(["attribute", "layer"], as_index=False)["margin"].mean()
        summed = probes.summary(told, ["attribute", "layer"]).merge(middle, on=["attribute", "layer"])
        tables.append(summed.assign(view=view))
    return pd.concat(tables, ignore_index=True)


def _patching(inside: Inside) -> pd.DataFrame:
    rows = inside.scored[: 2 * PAIRS]
    truth = [inside.clips[i].attributes for i in rows]
    partners = controls.partners([inside.clips[i] for i in rows])
    pairs = [(partners[b], b) for b in range(PAIRS)]
    told = lens.patched(
        inside.llm, inside.tasks, inside.spoken(rows), truth, pairs, progress=inside.progress("patching")
    )
    words = inside.table("words").groupby("query")["anchor"].first()
    table = []
    for (attribute, query), shifts in told.groupby(["attribute", "query"]):
        share = shifts["shift"].sum() / shifts["whole"].sum()  # of sums: a single pair may differ by nothing
        drawn = np.random.default_rng(0).integers(len(shifts), size=(emergence.DRAWS, len(shifts)))
        several = shifts["shift"].to_numpy()[drawn].sum(1) / shifts["whole"].to_numpy()[drawn].sum(1)
        low, high = np.percentile(several, emergence.LEVEL)
        table.append({"attribute": attribute, "query": query, "moved": share, "low": low, "high": high,
                      "word": words.get(query, "")})  # fmt: skip
    return pd.DataFrame(table)


def _erasure(inside: Inside) -> pd.DataFrame:
    """Each attribute erased from the audio embeddings (learnt on other speakers), every attribute asked for."""
    rows = [*inside.held_out[:32], *inside.scored[-96:]]
    train = [i for i in range(len(inside.clips)) if i not in set(inside.scored[-96:])]
    everything = inside.spoken(range(len(inside.clips)))
    ways: list[tuple[str, str, Tensor]] = [("nothing", "untouched", everything)]
    for attribute, labels in inside.labels.items():
        random = probes.shuffled(np.array(labels), np.array(inside.speakers), seed=0).tolist()
        ways.append((attribute, "erased", lens.erased(everything, train, labels)))
        ways.append((attribute, "random direction", lens.erased(everything, train, random)))
    lengths = [scoring.option_lengths(inside.llm.backbone.tokenizer, task) for task in inside.tasks]
    truth = [inside.clips[i].attributes for i in rows[32:]]
    tell, tables = inside.progress("erasing"), []
    for done, (erased, kind, spoken) in enumerate(ways):
        with torch.no_grad():
            scores = scoring.rank(inside.llm, inside.tasks, spoken[rows], batch=BATCH)
        judged = scoring.judge(inside.tasks, [s[32:] for s in scores], [s[:32] for s in scores], truth, lengths)
        judged["speaker"] = [inside.speakers[rows[32 + i]] for i in judged["row"]]
        judged = judged.rename(columns={"attribute": "asked", "calibrated": "correct"})
        tables.append(probes.summary(judged, ["asked"]).assign(erased=erased, kind=kind))
        tell(done + 1, len(ways))
    return pd.concat(tables, ignore_index=True)


TABLES: dict[str, Callable[[Inside], pd.DataFrame]] = {
    "probes": _probes, "spoken": _spoken, "learning": _learning, "similar_sites": _similar_sites,
    "similar_steps": _similar_steps, "points": _points, "gap": _gap, "words": _words, "profiles": _profiles,
    "evidence": _evidence, "heads": _heads, "deletion": _deletion, "sanity": _sanity, "lens": _lens,
    "patching": _patching, "erasure": _erasure,
}  # fmt: skip


def draw(inside: Inside, tables: dict[str, pd.DataFrame]) -> dict[str, figures.Picture]:
    """Every figure of the analysis, by the name of its file."""
    points = tables["points"]
    trust = points.drop_duplicates(["step", "method", "seed"])
    label = inside.job.preset.label
    clip = inside.clips[inside.scored[0]]
    own = tables["profiles"].query("attribute == @label and clip == @clip.id")
    profiles = {str(m): rows.sort_values("place")["value"].to_numpy() for m, rows in own.groupby("method", sort=False)}
    mel = audio.log_mel(inside.waves([clip]), inside.llm.encoder.seconds, inside.llm.encoder.mels)[0].numpy()
    return {
        "readable": insights.readable(tables["probes"], tables["spoken"], "Present, readable, spoken: three things"),
        "selectivity": insights.selectivity(tables["probes"], "What a probe reads, and what of random labels"),
        "learning_curves": insights.learning_curves(tables["learning"], "How many clips a probe needs"),
        "similar_sites": insights.similarity(tables["similar_sites"], "Which sites lay out the clips alike"),
        "similar_steps": insights.similarity(tables["similar_steps"], "How the audio embeddings change along training"),
        "map_pca": insights.maps(points, trust, label, "The audio embeddings of unseen speakers, by scene"),
        "map_umap": insights.maps(points, trust, label, "The same clips through UMAP", method="umap"),
        "modality_gap": insights.modality_gap(tables["gap"], "Does hearing come closer to reading?"),
        "nearest_words": insights.nearest_words(tables["words"], "The words that each query lies nearest to"),
        "answer_attention": insights.answer_attention(tables["heads"], "Which heads look at the audio"),
        "evidence": insights.evidence(
            tables["evidence"], "Attention is not explanation: who finds the evidence?", "mass"
        ),
        "deletion": insights.deletion(tables["deletion"], f"Taking away what matters ({label})"),
        "logit_lens": insights.logit_lens(tables["lens"], "At which layer the answer is there"),
        "patching": insights.patching(tables["patching"], "Which query carries which attribute"),
        "erasure": insights.erasure(tables["erasure"], "What the answer uses"),
        "listen_where": insights.listen_where(
            mel, inside.llm.encoder.seconds, profiles, clip.spans, f"Where the answer about the {label} was heard"
        ),
    }  # fmt: skip


def digest(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Per attribute at the last step: the best site before the connector, the audio embeddings, and the answer."""
    probed = tables["probes"].query("kind == 'probe'")
    last = probed["step"].max()
    rows = []
    for attribute, some in probed.groupby("attribute"):
        fixed = some[some["site"].str.startswith(("log-mel", "encoder"))].set_index("site")["accuracy"]
        own = some[(some["site"] == "audio embeddings")].set_index("step")["accuracy"]
        said = tables["spoken"].query("attribute == @attribute").set_index("step")["accuracy"]
        rows.append({
            "attribute": attribute, "chance": some["chance"].iloc[0], "log-mel": fixed["log-mel"],
            "best encoder layer": fixed.drop("log-mel").max(), "embeddings, untrained": own[0],
            "embeddings": own[last], "spoken, untrained": said[0], "spoken": said[last],
        })  # fmt: skip
    return pd.DataFrame(rows).round(2)
