"""The analysis of a run: every table kept by its hash, every figure drawn from its table."""

from pathlib import Path

import pandas as pd

from desta_lab import audio
from desta_lab.experiments.experiment import Experiment, Progress, no_progress
from desta_lab.experiments.inside_subject import TABLES, Subject
from desta_lab.views import clip_figures, explanation_figures, representation_figures, saving


class Inside(Subject):
    """What one run's connector and backbone hold, at every site and along training, as tables and figures.

    Args:
        out: where figures go; `figures/inside` by default, with the preset's name where that is not `cpu`.
    """

    def __init__(
        self,
        job: Experiment,
        kind: str = "self",
        *,
        out: Path | None = None,
        progress: Progress = no_progress,
    ) -> None:
        super().__init__(job, kind, progress=progress)
        own = "" if job.preset.name == "cpu" else f"-{job.preset.name}"
        self.out = out or job.root.parent / "figures" / f"inside{own}"

    def run(self) -> dict[str, pd.DataFrame]:
        """Every table and every figure, in order."""
        tell, tables = self.progress("analysis"), {}
        for done, name in enumerate(TABLES):
            tables[name] = self.table(name)
            tell(done + 1, len(TABLES))
        provenance = {
            "run": self.folder.name,
            "checkpoints": self.checkpoints,
            "seeds": [self.job.seed],
        }
        for name, picture in draw(self, tables).items():
            saving.save_figure(picture, self.out, name, provenance=provenance)
        for method in ("pca", "umap"):
            representation_figures.save_film(
                tables["points"], self.out / f"map_{method}.gif", self.job.preset.label, method
            )
        return tables


def draw(inside: Subject, tables: dict[str, pd.DataFrame]) -> dict[str, saving.Picture]:
    """Every figure of the analysis, by the name of its file."""
    points = tables["points"]
    trust = points.drop_duplicates(["step", "method", "seed"])
    label = inside.job.preset.label
    clip = inside.clips[inside.scored[0]]
    own = tables["profiles"].query("attribute == @label and clip == @clip.id")
    profiles = {
        str(m): rows.sort_values("place")["value"].to_numpy()
        for m, rows in own.groupby("method", sort=False)
    }
    mel = audio.log_mel(
        inside.waves([clip]), inside.llm.encoder.seconds, inside.llm.encoder.mel_bins
    )[0].numpy()
    return {
        "readable": representation_figures.plot_probe_accuracy(
            tables["probes"], tables["spoken"], "Present, readable, spoken: three things"
        ),
        "selectivity": representation_figures.plot_selectivity(
            tables["probes"], "What a probe reads, and what of random labels"
        ),
        "learning_curves": representation_figures.plot_learning_curves(
            tables["learning"], "How many clips a probe needs"
        ),
        "similar_sites": representation_figures.plot_similarity(
            tables["similar_sites"], "Which sites lay out the clips alike"
        ),
        "similar_steps": representation_figures.plot_similarity(
            tables["similar_steps"], "How the audio embeddings change along training"
        ),
        "map_pca": representation_figures.plot_maps(
            points, trust, label, f"The audio embeddings of unseen speakers, by {label}"
        ),
        "map_umap": representation_figures.plot_maps(
            points, trust, label, "The same clips through UMAP", method="umap"
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
            tables["evidence"], "Attention is not explanation: who finds the evidence?", "mass"
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
        "listen_where": clip_figures.plot_time_profiles(
            mel,
            inside.llm.encoder.seconds,
            profiles,
            clip.spans,
            f"Where the answer about the {label} was heard",
        ),
    }


def digest(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Per attribute at the last step: the best site before the connector, the audio embeddings, and the answer."""
    probed = tables["probes"].query("kind == 'probe'")
    last = probed["step"].max()
    rows = []
    for attribute, some in probed.groupby("attribute"):
        fixed = some[some["site"].str.startswith(("log-mel", "encoder"))].set_index("site")[
            "accuracy"
        ]
        own = some[(some["site"] == "audio embeddings")].set_index("step")["accuracy"]
        said = tables["spoken"].query("attribute == @attribute").set_index("step")["accuracy"]
        rows.append(
            {
                "attribute": attribute,
                "chance": some["chance"].iloc[0],
                "log-mel": fixed["log-mel"],
                "best encoder layer": fixed.drop("log-mel").max(),
                "embeddings, untrained": own[0],
                "embeddings": own[last],
                "spoken, untrained": said[0],
                "spoken": said[last],
            }
        )
    return pd.DataFrame(rows).round(2)
