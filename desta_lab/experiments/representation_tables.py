"""Tables of representations: what is present, readable and answered; how sites are laid out."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from desta_lab.analysis import geometry, probe_sites, probes
from desta_lab.evaluation import conditions, scoring
from desta_lab.evaluation.statistics import interval_table
from desta_lab.model import chat
from desta_lab.views.progress import report_each
from desta_lab.views.representation_figures import thin_sites
from desta_lab.world.attributes import NEUTRAL

if TYPE_CHECKING:
    from desta_lab.experiments.inside import Inside


# ---- present, readable, answered ----


def measure_probes(inside: "Inside") -> pd.DataFrame:
    """What a linear probe reads per attribute at every site and checkpoint, beside baselines."""
    folds = None
    if all({"gender", "accent"} <= set(clip.attributes) for clip in inside.clips):
        strata = [f"{c.attributes['gender']} {c.attributes['accent']}" for c in inside.clips]
        folds = probes.speaker_folds(inside.speakers, strata)
    draws = inside.sizes["draws"]
    probed = [(0, name, site) for name, site in inside.fixed_sites().items()]
    for step in inside.checkpoints:
        found = inside.sites(step).items()
        probed += [(step, name, site) for name, site in found if not name.startswith("scores")]
    asked = {inside.task(attribute).name: attribute for attribute in inside.labels}
    tables = []
    for step, name, site in report_each(probed, inside.progress("probes")):
        family, _, question = name.partition(": ")  # an answer site belongs to one question
        if question and question not in asked:
            continue
        labels = {asked[question]: inside.labels[asked[question]]} if question else inside.labels
        features = probe_sites.pool_over_time(site).numpy()
        measured = probes.fit_probes(features, labels, inside.speakers, folds, draws=draws)
        tables.append(probes.summarise_accuracy(measured).assign(step=step, site=family))
    return pd.concat(tables, ignore_index=True)


def score_answers(inside: "Inside") -> pd.DataFrame:
    """How often the model's own answer is right, for the same clips: calibrated ranking."""
    tables = []
    for step in inside.checkpoints:
        scores = option_scores(inside, step)
        judged = scoring.judge_scores(
            inside.llm.backbone.tokenizer,
            inside.tasks,
            inside.pick(inside.scored),
            [score[inside.scored] for score in scores],
            inside.calibrate(scores, step),
        )
        judged = judged.rename(columns={"calibrated": "correct"})
        tables.append(probes.summarise_accuracy(judged, ["attribute"]).assign(step=step))
    return pd.concat(tables, ignore_index=True)


def option_scores(inside: "Inside", step: int) -> list[Tensor]:
    """Log-probabilities of the options of every task, for all clips: (clip, option)."""
    sites = inside.sites(step)
    return [sites[f"scores {task.name}"].float() for task in inside.tasks]


def measure_learning_curves(inside: "Inside") -> pd.DataFrame:
    """How many clips a probe needs on the log-mel, the last tapped layer, the audio embeddings."""
    fixed = inside.fixed_sites()
    chosen = {name: fixed[name] for name in ("log-mel", list(fixed)[-1])}
    if inside.untrained is not None:
        chosen["embeddings, untrained"] = inside.sites(inside.untrained)["audio embeddings"]
    chosen["audio embeddings"] = inside.sites(inside.last)["audio embeddings"]
    most = len(inside.clips) * 3 // 4
    sizes = [size for size in inside.sizes["curve"] if size <= most] or [most]
    tables = []
    for name, site in chosen.items():
        features = probe_sites.pool_over_time(site).numpy()
        curve = probes.learning_curve(features, inside.labels, inside.speakers, sizes)
        tables.append(curve.assign(site=name))
    random = probes.learning_curve(features, inside.labels, inside.speakers, sizes, "random labels")
    tables.append(random.assign(site="random labels"))
    return pd.concat(tables, ignore_index=True)


# ---- geometry ----


def compare_sites(inside: "Inside") -> pd.DataFrame:
    """Debiased CKA between sites at the last checkpoint."""
    found = inside.fixed_sites() | inside.sites(inside.last)
    names = [name for name in found if not name.startswith(("answer", "scores"))]
    names = thin_sites(names, inside.sizes["similar"])
    return geometry.similarity_table(
        {name: probe_sites.pool_over_time(found[name]).numpy() for name in names}
    )


def compare_checkpoints(inside: "Inside") -> pd.DataFrame:
    """Debiased CKA of the audio embeddings between checkpoints."""
    embeddings = _flat_embeddings(inside)
    return geometry.similarity_table({f"step {step}": site for step, site in embeddings.items()})


def map_embeddings(inside: "Inside") -> pd.DataFrame:
    """Maps of the audio embeddings at every checkpoint, with what may be believed of each."""
    embeddings, tables = _flat_embeddings(inside), []
    for method in report_each(("pca", "umap"), inside.progress("maps")):
        points, trust = geometry.map_clips(embeddings, method, inside.seeds)
        tables.append(points.merge(trust, on=["step", "method", "seed"]))
    clips = [{"row": i, "clip": clip.id, **clip.attributes} for i, clip in enumerate(inside.clips)]
    return pd.concat(tables, ignore_index=True).merge(pd.DataFrame(clips), on="row")


def measure_purity(inside: "Inside") -> pd.DataFrame:
    """How often neighbours on a map are alike, per attribute, beside random labels."""
    points, rows = inside.table("points"), []
    for (step, method, seed), own in points.groupby(["step", "method", "seed"], sort=False):
        places = own.sort_values("row")[["x", "y"]].to_numpy()
        for attribute, labels in inside.labels.items():
            cell = {"step": step, "method": method, "seed": seed, "attribute": attribute}
            rows.append({**cell, **geometry.neighbour_purity(places, labels, inside.speakers)})
    return pd.DataFrame(rows)


def _flat_embeddings(inside: "Inside") -> dict[int, np.ndarray]:
    """Audio embeddings at every checkpoint, one row of numbers a clip."""
    return {
        step: inside.sites(step)["audio embeddings"].float().flatten(1).numpy()
        for step in inside.checkpoints
    }


def measure_gap(inside: "Inside") -> pd.DataFrame:
    """How far audio embeddings lie from their text along training, beside two controls.

    Another clip's text, and in the place of the embeddings a sentence that says nothing of the
    clip, as which an anchored connector begins.
    """
    backbone, clips = inside.llm.backbone, inside.pick(inside.scored)

    def embed_text(text: str) -> np.ndarray:
        ids = torch.tensor(chat.encode_text(backbone.tokenizer, text))
        return np.asarray(backbone.embed(ids).float().cpu())

    tokens = [embed_text(inside.describe(clip.attributes)) for clip in clips]
    norm = float(np.mean([np.linalg.norm(row, axis=1).mean() for row in tokens]))
    texts = np.stack([row.mean(0) for row in tokens])
    partners, speakers = conditions.shuffled_partners(clips), [clip.speaker for clip in clips]
    neutral = np.stack([embed_text(NEUTRAL)] * len(clips))
    floor = geometry.modality_gap(neutral, texts, partners, norm)["cosine to its own text"]
    tables = []
    for step in inside.checkpoints:
        embeddings = inside.audio_embeddings(inside.scored, step).cpu().numpy()
        gap = geometry.modality_gap(embeddings, texts, partners, norm)
        for measure, values in {**gap, "cosine, a sentence that says nothing": floor}.items():
            cell = {"step": step, "measure": measure, "speaker": speakers, "value": values}
            tables.append(interval_table(pd.DataFrame(cell), "value", ["step", "measure"]))
    return pd.concat(tables, ignore_index=True)


def find_nearest_words(inside: "Inside") -> pd.DataFrame:
    """The words nearest to each query's audio embeddings, and the word it began as (`anchor`).

    `null` is what the nearest word of an embedding whose numbers are in random order stays below.
    """
    backbone = inside.llm.backbone
    vocabulary = backbone.model.get_input_embeddings().weight.detach().float().cpu().numpy()
    sentence = chat.encode_text(backbone.tokenizer, NEUTRAL)
    anchored = getattr(inside.llm.connector, "anchor", None) is not None
    initial = sentence if anchored and len(sentence) == inside.llm.queries else []
    rows, steps = inside.scored[: inside.sizes["words"]], sorted(inside.checkpoints)
    tables = []
    for step in sorted({steps[0], steps[len(steps) // 2], inside.last}):
        embeddings = inside.audio_embeddings(rows, step).cpu().numpy()
        tables.append(geometry.nearest_words(embeddings, vocabulary, initial).assign(step=step))
    table = pd.concat(tables, ignore_index=True)
    table["word"] = [backbone.tokenizer.decode([token]) for token in table["token"]]
    anchors = [backbone.tokenizer.decode([token]) for token in initial]
    return table.assign(anchor=[anchors[query] if anchors else "" for query in table["query"]])
