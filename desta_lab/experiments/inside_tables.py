"""The tables of the analysis, each one question about a run, in the order in which they are asked."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from desta_lab.analysis import attention, attribution, geometry
from desta_lab.analysis import evidence as evidence_
from desta_lab.analysis import lens as lens_
from desta_lab.analysis import probes as probes_
from desta_lab.analysis import sites as sites_
from desta_lab.evaluation import conditions, scoring, statistics
from desta_lab.evaluation.evaluate import evaluate
from desta_lab.experiments.inside_subject import (
    BATCH,
    CHECKED,
    PAIRS,
    SAMPLES,
    SEEDS,
    WORDS,
    Subject,
    tabled,
)
from desta_lab.model import chat
from desta_lab.training import checkpoints
from desta_lab.views import representation_figures
from desta_lab.world.attributes import NEUTRAL
from desta_lab.world.describe import describe

# ---- present, readable, spoken ----


@tabled()
def probes(subject: Subject) -> pd.DataFrame:
    """What a linear probe reads off every site of every checkpoint, per attribute, with random labels beside it."""
    strata = [f"{c.attributes['gender']} {c.attributes['accent']}" for c in subject.clips]
    splits = probes_.speaker_folds(subject.speakers, strata)
    jobs = [(0, name, site) for name, site in subject.before().items()]
    jobs += [
        (step, name, site)
        for step in subject.checkpoints
        for name, site in subject.sites(step).items()
    ]
    jobs = [job for job in jobs if not job[1].startswith("scores")]
    tell, tables = subject.progress("probes"), []
    for done, (step, name, site) in enumerate(jobs):
        family, _, attribute = name.partition(": ")  # an answer site is that of one question
        labels = {attribute: subject.labels[attribute]} if attribute else subject.labels
        measured = probes_.fit_probes(
            sites_.pool_over_time(site).numpy(), labels, subject.speakers, splits
        )
        tables.append(probes_.summarise_accuracy(measured).assign(step=step, site=family))
        tell(done + 1, len(jobs))
    return pd.concat(tables, ignore_index=True)


@tabled()
def spoken(subject: Subject) -> pd.DataFrame:
    """What the model can say, of the same clips: ranking calibrated on the validation speakers."""
    clips, tokenizer = [subject.clips[i] for i in subject.scored], subject.llm.backbone.tokenizer
    tables = []
    for step in subject.checkpoints:
        sites = subject.sites(step)
        scores = [sites[f"scores {task.name}"].float() for task in subject.tasks]
        own = [score[subject.scored] for score in scores]
        others = [score[subject.held_out] for score in scores]
        judged = scoring.judge_scores(tokenizer, subject.tasks, clips, own, others)
        judged = judged.rename(columns={"calibrated": "correct"})
        tables.append(probes_.summarise_accuracy(judged, ["attribute"]).assign(step=step))
    return pd.concat(tables, ignore_index=True)


@tabled()
def trainable_parameters(subject: Subject) -> pd.DataFrame:
    """How many clips the probe needs: on the log-mel, the last tapped layer and the audio embeddings."""
    fixed, now = subject.before(), subject.sites(subject.last)
    sites = {
        "log-mel": fixed["log-mel"],
        list(fixed)[-1]: fixed[list(fixed)[-1]],
        "audio embeddings": now["audio embeddings"],
    }
    sizes = [size for size in (16, 32, 64, 128, 216) if size <= len(subject.clips) * 3 // 4]
    return pd.concat(
        [
            probes_.learning_curve(
                sites_.pool_over_time(site).numpy(), subject.labels, subject.speakers, sizes
            ).assign(site=name)
            for name, site in sites.items()
        ],
        ignore_index=True,
    )


# ---- the shape of it ----


@tabled()
def similar_sites(subject: Subject) -> pd.DataFrame:
    """Debiased CKA between sites at the last step."""
    sites = {**subject.before(), **subject.sites(subject.last)}
    names = representation_figures.thin_sites(
        [name for name in sites if not name.startswith(("answer", "scores"))], 4
    )
    return geometry.similarity_table(
        {name: sites_.pool_over_time(sites[name]).numpy() for name in names}
    )


@tabled()
def similar_steps(subject: Subject) -> pd.DataFrame:
    """Debiased CKA of the audio embeddings between checkpoints."""
    return geometry.similarity_table(
        {f"step {step}": site for step, site in _frames(subject).items()}
    )


def _frames(subject: Subject) -> dict[int, np.ndarray]:
    return {
        step: subject.sites(step)["audio embeddings"].float().flatten(1).numpy()
        for step in subject.checkpoints
    }


@tabled()
def points(subject: Subject) -> pd.DataFrame:
    """Both maps with their trustworthiness in every row; `clip` and its attributes beside the coordinates."""
    tell, frames, tables = subject.progress("maps"), _frames(subject), []
    for done, method in enumerate(("pca", "umap")):
        points, trust = geometry.map_clips(frames, method, SEEDS)
        tables.append(points.merge(trust, on=["step", "method", "seed"]))
        tell(done + 1, 2)
    points = pd.concat(tables, ignore_index=True)
    known = pd.DataFrame(
        [{"row": i, "clip": c.id, **c.attributes} for i, c in enumerate(subject.clips)]
    )
    return points.merge(known, on="row")


@tabled()
def gap(subject: Subject) -> pd.DataFrame:
    """How far hearing lies from reading at every checkpoint, with another clip's text as control."""
    backbone, rows = subject.llm.backbone, subject.scored
    ids = [
        chat.encode_text(backbone.tokenizer, describe(subject.clips[i].attributes)) for i in rows
    ]
    tokens = [backbone.embed(torch.tensor(row)).float().cpu().numpy() for row in ids]
    norm = float(np.mean([np.linalg.norm(row, axis=1).mean() for row in tokens]))
    written = np.stack([row.mean(0) for row in tokens])
    partners = conditions.shuffled_partners([subject.clips[i] for i in rows])
    tables = []
    for step in subject.checkpoints:
        found = geometry.modality_gap(
            subject.spoken(rows, step).cpu().numpy(), written, partners, norm
        )
        for measure, values in found.items():
            table = pd.DataFrame(
                {
                    "value": values,
                    "speaker": [subject.speakers[i] for i in rows],
                    "measure": measure,
                }
            )
            tables.append(statistics.interval_table(table, "value", ["measure"]).assign(step=step))
    return pd.concat(tables, ignore_index=True)


@tabled()
def words(subject: Subject) -> pd.DataFrame:
    """The words that each query's audio embeddings lie nearest to, beside the one it was born as."""
    backbone = subject.llm.backbone
    vocabulary = backbone.model.get_input_embeddings().weight.detach().float().cpu().numpy()
    born = (
        chat.encode_text(backbone.tokenizer, NEUTRAL)
        if subject.job.preset.connector.anchored
        else []
    )
    tables = []
    for step in (0, sorted(subject.checkpoints)[len(subject.checkpoints) // 2], subject.last):
        words = geometry.nearest_words(
            subject.spoken(subject.scored[:WORDS], step).cpu().numpy(), vocabulary, born
        )
        tables.append(
            words.assign(step=step, word=[backbone.tokenizer.decode([t]) for t in words["token"]])
        )
    table = pd.concat(tables, ignore_index=True)
    return table.assign(
        anchor=[backbone.tokenizer.decode([born[q]]) if born else "" for q in table["query"]]
    )


# ---- where it looks, and whether that is why ----


def looks(subject: Subject, attribute: str) -> dict[str, np.ndarray]:
    """Profiles over time (clip, frame or window) of every way to say where the answer came from.

    Attention first; then attribution to the queries, carried on to the frames they attend to, and to windows of the
    waveform.
    """
    rows, clips = subject.explained
    task, values = subject.task(attribute), [clip.attributes[attribute] for clip in clips]
    spoken, states = subject.spoken(rows), subject.states(rows)
    where = attention.query_attention_over_time(subject.llm.connector, states)
    answer = attention.answer_attention(subject.llm, task, spoken)
    found = {
        "query attention": where.mean(1),
        "answer attention": attribution.queries_to_frames(answer["weights"].mean((1, 2)), where),
        "answer rollout": attribution.queries_to_frames(answer["rollout"], where),
    }
    tell, ways = subject.progress("attribution"), [*attribution.METHODS, "ablation", "shapley"]
    for done, method in enumerate(ways):
        if done < len(attribution.METHODS):
            told = attribution.attribute_queries(
                method, subject.llm, task, values, spoken, samples=SAMPLES
            )
            found[f"{method}, queries"] = attribution.queries_to_frames(told.values, where)
        else:
            told = attribution.attribute_windows(
                method, subject.llm, task, values, subject.waves(clips), samples=SAMPLES
            )
            found[f"{method}, windows"] = told.values
        tell(done + 1, len(ways))
    checkpoints.load_checkpoint(subject.folder, subject.llm, 0)
    found["query attention, untrained"] = attention.query_attention_over_time(
        subject.llm.connector, states
    ).mean(1)
    checkpoints.load_checkpoint(subject.folder, subject.llm, subject.last)
    return {
        name.replace("_", " "): profile.detach().cpu().numpy().astype(float)
        for name, profile in found.items()
    }


@tabled()
def profiles(subject: Subject) -> pd.DataFrame:
    """Every profile, one row a clip, method and place in time: of the scene, whose window each clip draws anew."""
    _, clips = subject.explained
    attribute = subject.job.preset.label
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "attribute": attribute,
                    "method": method,
                    "clip": clip.id,
                    "place": range(len(profile)),
                    "value": profile,
                }
            )
            for method, profiles in looks(subject, attribute).items()
            for clip, profile in zip(clips, profiles, strict=True)
        ],
        ignore_index=True,
    )


@tabled()
def evidence(subject: Subject) -> pd.DataFrame:
    """How well every profile falls on the seconds that hold the evidence, against its nulls."""
    _, clips = subject.explained
    tables = []
    for (method, attribute), rows in subject.table("profiles").groupby(
        ["method", "attribute"], sort=False
    ):
        wide = rows.pivot(index="clip", columns="place", values="value").loc[
            [clip.id for clip in clips]
        ]
        seconds = subject.llm.encoder.seconds
        tables.append(
            evidence_.profile_scores(wide.to_numpy(), clips, str(attribute), seconds, str(method))
        )
    return evidence_.summarise_scores(pd.concat(tables, ignore_index=True))


@tabled()
def heads(subject: Subject) -> pd.DataFrame:
    """Layer × head of the backbone: attention on the audio as the answer begins, and whether it points at the scene."""
    rows, clips = subject.explained
    attribute = subject.job.preset.label
    weights = attention.answer_attention(
        subject.llm, subject.task(attribute), subject.spoken(rows)
    )["weights"]
    where = attention.query_attention_over_time(subject.llm.connector, subject.states(rows))
    table = []
    for layer, head in np.ndindex(*weights.shape[1:3]):
        profiles = (
            attribution.queries_to_frames(weights[:, layer, head], where).numpy().astype(float)
        )
        hits = [
            evidence_.score_profile(
                profile, evidence_.evidence_spans(clip, attribute), subject.llm.encoder.seconds
            )["pointing"]
            for profile, clip in zip(profiles, clips, strict=True)
        ]
        share = float(weights[:, layer, head].sum(-1).mean())
        table.append({"layer": layer, "head": head, "share": share, "pointing": np.mean(hits)})
    return pd.DataFrame(table)


@tabled()
def deletion(subject: Subject) -> pd.DataFrame:
    """Deletion and insertion curves of the waveform's windows, in the order of Shapley values and at random."""
    _, clips = subject.explained
    attribute = subject.job.preset.label
    told = subject.table("profiles")
    told = told[(told["method"] == "shapley, windows") & (told["attribute"] == attribute)]
    worth = told.pivot(index="clip", columns="place", values="value").loc[
        [clip.id for clip in clips]
    ]
    cases = attribution.window_cases(
        subject.llm,
        subject.task(attribute),
        [c.attributes[attribute] for c in clips],
        subject.waves(clips),
    )
    names = [clip.id for clip in clips]
    drawn = attribution.deletion_curves(cases, torch.tensor(worth.to_numpy()), names, draws=1)
    drawn["speaker"] = drawn["clip"].map({clip.id: clip.speaker for clip in clips})
    return statistics.interval_table(drawn, "margin", ["curve", "order", "share"], "margin")


@tabled()
def randomisation(subject: Subject) -> pd.DataFrame:
    """Weight randomisation, and what integrated gradients miss of the margin (convergence delta)."""
    rows, clips = subject.explained
    rows, clips = rows[:CHECKED], clips[:CHECKED]
    attribute = subject.job.preset.label
    task, values, states = (
        subject.task(attribute),
        [c.attributes[attribute] for c in clips],
        subject.states(rows),
    )
    connector = subject.llm.connector
    checkpoints.load_checkpoint(subject.folder, subject.llm, 0)
    born = {name: tensor.detach().clone() for name, tensor in connector.state_dict().items()}
    checkpoints.load_checkpoint(subject.folder, subject.llm, subject.last)
    found = []

    def explain(method: str) -> Callable[[], Tensor]:
        def told() -> Tensor:
            spoken = conditions.embed_clips(subject.llm, states)
            result = attribution.attribute_queries(method, subject.llm, task, values, spoken)
            found.append(
                {"method": method, "measure": "delta / margin", "value": _relative(result)}
            )
            return result.values

        return told

    tables = []
    for method in ("integrated_gradients", "ablation"):
        for against, weights in {
            "untrained": born,
            "shuffled weights": attribution.shuffle_weights(connector),
        }.items():
            same = attribution.randomisation_correlation(connector, weights, explain(method))
            tables.append(
                {
                    "method": method,
                    "measure": f"rank correlation with {against}",
                    "value": np.nanmean(same),
                }
            )
    return pd.DataFrame(
        [*tables, *found[::4]]
    )  # each method explained four times, the first time as it is


def _relative(told: attribution.Attribution) -> float:
    """Median size of what the parts miss, in sizes of what they sum to."""
    return float((told.delta.abs() / told.values.sum(1).abs().clamp_min(1e-6)).median())


# ---- lenses ----


@tabled()
def lens(subject: Subject) -> pd.DataFrame:
    """Which layer of the backbone has the answer, hearing and reading, with both controls."""
    rows, held_out, llm = subject.scored, subject.held_out, subject.llm
    truth = [clip.attributes for clip in subject.clips]
    swap = [rows[i] for i in conditions.shuffled_partners([subject.clips[i] for i in rows])]
    texts = [describe(attributes) for attributes in truth]
    unique = list(dict.fromkeys(texts))
    read = sites_.capture_oracle_sites(llm, subject.tasks, unique)
    at = torch.tensor([unique.index(text) for text in texts])
    captured = {
        "audio": (subject.sites(subject.last), None),
        "untrained": (subject.sites(0), None),
        "shuffled": (subject.sites(subject.last), swap),
        "oracle": ({k: v[at] for k, v in read.items()}, None),
    }
    tables = []
    for condition, (sites, swapped) in captured.items():
        told = lens_.logit_lens(llm, subject.tasks, sites, truth, held_out, swapped)
        told["speaker"] = [subject.speakers[i] for i in told["row"]]
        middle = told.groupby(["attribute", "layer"], as_index=False)["margin"].mean()
        summed = probes_.summarise_accuracy(told, ["attribute", "layer"]).merge(
            middle, on=["attribute", "layer"]
        )
        tables.append(summed.assign(condition=condition))
    return pd.concat(tables, ignore_index=True)


@tabled()
def patching(subject: Subject) -> pd.DataFrame:
    """Which query carries which attribute: one clip's audio embeddings put into another's, query by query."""
    rows = subject.scored[: 2 * PAIRS]
    truth = [subject.clips[i].attributes for i in rows]
    partners = conditions.shuffled_partners([subject.clips[i] for i in rows])
    pairs = [(partners[b], b) for b in range(PAIRS)]
    told = lens_.patch_queries(
        subject.llm,
        subject.tasks,
        subject.spoken(rows),
        truth,
        pairs,
        progress=subject.progress("patching"),
    )
    words = subject.table("words").groupby("query")["anchor"].first()
    table = []
    for (attribute, query), shifts in told.groupby(["attribute", "query"]):
        moved, whole = shifts["shift"].to_numpy(), shifts["whole"].to_numpy()

        def share(
            rows: np.ndarray, moved: np.ndarray = moved, whole: np.ndarray = whole
        ) -> np.ndarray:
            """Of sums, because a single pair may differ by nothing."""
            return moved[rows].sum(-1) / whole[rows].sum(-1)

        value, low, high = statistics.bootstrap_interval(share, len(shifts))
        table.append(
            {
                "attribute": attribute,
                "query": query,
                "moved": value,
                "low": low,
                "high": high,
                "word": words.get(query, ""),
            }
        )
    return pd.DataFrame(table)


@tabled(revision=2)
def erasure(subject: Subject) -> pd.DataFrame:
    """Each attribute erased from the audio embeddings (learnt on other speakers), every attribute asked for."""
    names = list(dict.fromkeys(subject.speakers[i] for i in subject.scored))
    asked = set(
        names[len(names) // 2 :]
    )  # half of the test speakers; the directions are learnt on all others
    calibration = subject.held_out[:32]
    scored = [i for i in subject.scored if subject.speakers[i] in asked]
    train = [i for i, speaker in enumerate(subject.speakers) if speaker not in asked]
    everything = subject.spoken(range(len(subject.clips)))
    ways: list[tuple[str, str, Tensor]] = [("nothing", "untouched", everything)]
    for attribute, labels in subject.labels.items():
        random = probes_.shuffle_labels(
            np.array(labels), np.array(subject.speakers), seed=0
        ).tolist()
        ways.append((attribute, "erased", lens_.erase_attribute(everything, train, labels)))
        ways.append(
            (attribute, "random direction", lens_.erase_attribute(everything, train, random))
        )
    rows = [*scored, *calibration]
    clips, others = ([subject.clips[i] for i in some] for some in (scored, calibration))
    tell, tables = subject.progress("erasing"), []
    for done, (erased, kind, embeddings) in enumerate(ways):
        judged = evaluate(
            subject.llm,
            subject.tasks,
            clips,
            others,
            conditions=["audio"],
            audio_embeddings=embeddings[rows],
            batch=BATCH,
        )
        judged = judged.rename(columns={"attribute": "asked", "calibrated": "correct"})
        tables.append(
            probes_.summarise_accuracy(judged, ["asked"]).assign(erased=erased, kind=kind)
        )
        tell(done + 1, len(ways))
    return pd.concat(tables, ignore_index=True)
