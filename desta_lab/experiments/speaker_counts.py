"""Speaker counts: how many people's voices teach as much as how many synthetic ones?"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from desta_lab import cache
from desta_lab.clips import Corpus
from desta_lab.evaluation import verdict
from desta_lab.evaluation.statistics import add_mean_interval, mean_interval
from desta_lab.experiments.experiment import Experiment
from desta_lab.experiments.people import CLIPS, HALVES, score_people
from desta_lab.experiments.quickstart_figures import save_table
from desta_lab.model.presets import Preset
from desta_lab.training import checkpoints
from desta_lab.views import claim_figures
from desta_lab.views.progress import Progress, no_progress, report_each
from desta_lab.views.saving import save_figure
from desta_lab.world import recorded, spoken
from desta_lab.world.attributes import ATTRIBUTES

CLIPS_EACH = 24  # training clips of a speaker, so that more speakers are also more clips
SHARES = {"train": 12.0, "validation": 3.0, "test": 8.0}  # of people; they are proportions
SPEAKERS = {"people": (2, 6, 12), "synthetic": (2, 12, 40)}  # of training, by kind of voice
SPARE = {"validation": 96, "test": 16}  # clips that a corpus needs besides; no score is of them
ARM = ["kind", "speakers", "seed"]


def compare_speakers(
    preset: Preset,
    folder: Path | str,
    root: Path,
    *,
    together: str | None = None,
    speakers: Mapping[str, Sequence[int]] = SPEAKERS,
    clips_each: int = CLIPS_EACH,
    clips: int = CLIPS,
    seeds: Sequence[int] = (0, 1, 2),
    progress: Progress = no_progress,
) -> pd.DataFrame:
    """Train on so many people, and on so many synthetic voices; test all runs on the same people.

    The test people are in no training set. Their halves calibrate each other. A seed chooses the
    speakers, half of each gender, the first weights and the order of clips.

    Args:
        folder: clean recordings with their table (`recorded.read_voices`).
        root: the folder of all data; what is there already is found.
        together: a column, such as `language`, whose values are in training or in the test.
        speakers: numbers of speakers by kind, `people` or `synthetic`.
        clips_each: training clips that each of them brings.
        clips: how many are made of the test people.

    Returns:
        One row per kind, speakers, seed, step (the first and the last), condition, task and clip.

    Raises:
        ValueError: there are too few speakers for a number.
        CorpusError: the recordings cannot be used.
    """
    voices = recorded.read_voices(folder, together)
    dealt = recorded.deal_speakers(voices.about, SHARES, together)
    _check_counts(speakers, len(dealt["train"]))
    test = recorded.build_recorded_corpus(
        root,
        recorded.choose_speakers(voices, {"test": dealt["test"]}),
        dict.fromkeys(HALVES, clips // 2),
        seconds=preset.seconds,
        together=together,
        progress=progress("voices"),
    )
    arms = [(kind, n, seed) for seed in seeds for kind, counts in speakers.items() for n in counts]
    tables = []
    for kind, count, seed in report_each(arms, progress("arms")):
        how: Any = {"seed": seed, "root": root, "progress": progress}
        if kind == "people":
            corpus = _choose_people(preset, voices, dealt, count, clips_each, **how)
        else:
            corpus = _choose_synthetic(preset, count, clips_each, **how)
        job = Experiment(replace(preset, every_checkpoint=False), corpus=corpus, **how)
        listed = checkpoints.list_checkpoints(job.train("self"))
        table, _ = score_people(job, test, [listed[0], listed[-1]])
        tables.append(table.assign(kind=kind, speakers=count, seed=seed))
    return pd.concat(tables, ignore_index=True)


def _check_counts(speakers: Mapping[str, Sequence[int]], people: int) -> None:
    """Raise ValueError where more speakers are asked for than there are, or of another kind."""
    there = {"people": people, "synthetic": len(spoken.split_speakers("train"))}
    for kind, counts in speakers.items():
        if kind not in there:
            raise ValueError(f"Speakers are {' or '.join(there)}, not {kind!r}.")
        if max(counts) > there[kind]:
            fault = f"{max(counts)} speakers ({kind}) were asked for, and {there[kind]} are there"
            raise ValueError(f"{fault} to train on; take fewer, or record more people.")


def _choose_people(
    preset: Preset,
    voices: recorded.Voices,
    dealt: Mapping[str, Sequence[str]],
    count: int,
    clips_each: int,
    *,
    seed: int,
    root: Path,
    progress: Progress,
) -> Corpus:
    """A corpus whose training clips are of `count` of the people dealt to training."""
    genders = {name: voices.about[name].get("gender", "") for name in dealt["train"]}
    chosen = _draw_speakers(genders, count, seed)
    own = recorded.choose_speakers(voices, {**dealt, "train": chosen})
    clips = {"train": clips_each * count, **SPARE}
    report = progress("voices")
    return recorded.build_recorded_corpus(
        root, own, clips, seconds=preset.seconds, seed=seed, progress=report
    )


def _choose_synthetic(
    preset: Preset, count: int, clips_each: int, *, seed: int, **how: Any
) -> Corpus:
    """The spoken world with the training clips of `count` of its voices."""
    genders = {one.name: one.gender for one in spoken.split_speakers("train")}
    clips = {"train": clips_each * len(genders), **SPARE}
    world = Experiment(replace(preset, clips=clips), seed=seed, **how).corpus
    chosen = _draw_speakers(genders, count, seed)
    splits = {**world.splits, "train": tuple(sorted(chosen))}
    kept = {name for names in splits.values() for name in names}
    return replace(
        world,
        name=f"{count}-voices",
        recipe={**world.recipe, "speakers": sorted(chosen)},
        splits=splits,
        clips=tuple(clip for clip in world.clips if clip.speaker in kept),
    )


def _draw_speakers(genders: Mapping[str, str], count: int, seed: int) -> list[str]:
    """So many speakers, half of each gender as far as there are; all of them in their order."""
    if count == len(genders):
        return list(genders)
    rng = np.random.default_rng([seed, count])
    orders = [
        rng.permutation([s for s, own in genders.items() if own == g]) for g in ATTRIBUTES["gender"]
    ]
    chosen = [str(name) for order in orders for name in order[: count // 2]]
    rest = rng.permutation([name for name in genders if name not in chosen])
    return [*chosen, *map(str, rest[: count - len(chosen)])]


# ---- the report ----


def summarise_speakers(table: pd.DataFrame) -> pd.DataFrame:
    """Accuracy on rung 3 at the last step, with its controls: mean and 95 % t-interval over seeds.

    One row per kind, speakers, condition, task and seed; `accuracy` is that seed's.
    """
    full = [verdict.add_untrained(rows) for _, rows in table.groupby(ARM)]
    rows = pd.concat(full, ignore_index=True)
    rows = rows[(rows["rung"] == 3) & (rows["step"] == rows["step"].max())]
    by = ["kind", "speakers", "condition", "task"]
    known = rows.groupby([*by, "seed"], as_index=False).agg(
        attribute=("attribute", "first"),
        chance=("chance", "first"),
        accuracy=("calibrated", "mean"),
        people=("speaker", "nunique"),
        clips=("clip", "nunique"),
    )
    return add_mean_interval(known, by, "accuracy")


def compare_kinds(summary: pd.DataFrame) -> pd.DataFrame:
    """Accuracy after the most people minus that after the most synthetic voices, by attribute.

    Columns: attribute, difference, and low and high of its 95 % t-interval over the seeds.
    """
    heard = summary[summary["condition"] == "audio"]
    most = heard[heard["speakers"] == heard.groupby("kind")["speakers"].transform("max")]
    wide = most.pivot_table("accuracy", ["attribute", "seed"], "kind")
    differences = (wide["people"] - wide["synthetic"]).groupby("attribute")
    rows = [(name, *mean_interval(values)) for name, values in differences]
    return pd.DataFrame(rows, columns=["attribute", "difference", "low", "high"])


def write_report(table: pd.DataFrame, out: Path, preset: Preset) -> pd.DataFrame:
    """Save the figure with its table, the summary, and every score; returns the summary."""
    summary = summarise_speakers(table)
    seeds = sorted(int(seed) for seed in summary["seed"].unique())
    picture = claim_figures.plot_speakers(summary, _say_headline(summary))
    about = {"preset": preset.name, "seeds": seeds}
    save_figure(picture, cache.make_folder(out), "speakers", provenance=about)
    save_table(table, out)
    return summary


def _say_headline(summary: pd.DataFrame) -> str:
    """What the most people teach more, and less, than the most synthetic voices."""
    tested = f"tested on {summary['people'].max()} other people"
    most = summary.groupby("kind")["speakers"].max()
    if len(most) == 1:
        return f"Trained on at most {most.iloc[0]} speakers ({most.index[0]}); {tested}"
    compared = compare_kinds(summary)
    tests = {"more": compared["low"] > 0, "less": compared["high"] < 0}
    said = [f"{how} about {_name(compared[rows])}" for how, rows in tests.items() if rows.any()]
    found = " and ".join(said) or "neither more nor less about anything, as far as is shown"
    return (
        f"{most['people']} people teach {found}\n"
        f"than {most['synthetic']} synthetic voices; {tested}"
    )


def _name(compared: pd.DataFrame) -> str:
    differences = compared[["attribute", "difference"]].itertuples(index=False, name=None)
    return ", ".join(f"{name} ({value:+.2f})" for name, value in differences)
