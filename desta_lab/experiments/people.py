"""People: a finished run is asked about recordings of people, beside its own test."""

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from desta_lab import cache
from desta_lab.clips import Clip, Corpus
from desta_lab.evaluation import conditions, verdict
from desta_lab.evaluation.evaluate import evaluate
from desta_lab.evaluation.statistics import format_interval
from desta_lab.evaluation.tasks import Task
from desta_lab.experiments.corpus_tasks import describe_all, occurring_values
from desta_lab.experiments.experiment import Experiment
from desta_lab.experiments.quickstart import BESIDE_AUDIO, beside_controls, describe_missing
from desta_lab.experiments.quickstart_figures import Figures, save_figures, save_table
from desta_lab.experiments.scoring_plan import ScoringPlan
from desta_lab.model.runs import checkpoint_path
from desta_lab.training import checkpoints, trainer
from desta_lab.training.features import FeatureStore
from desta_lab.views import card, claim_figures, clip_figures, style
from desta_lab.views.progress import report_each
from desta_lab.world.describe import describe, describe_known, describe_plainly
from desta_lab.world.recorded import KNOWN, Voices, build_recorded_corpus, read_voices

CLIPS = 192  # made of the recordings, half of them for each half of the speakers
HALVES = ("test", "validation")
OWN_TEST = "own test"  # of the run, on the voices that it was trained with
SHOWN = 6  # people whose answers are shown
TITLE = "Does it hold for people?"


def test_voices(
    experiment: Experiment,
    folder: Path | str | Voices,
    *,
    together: str | None = None,
    every_checkpoint: bool = False,
    clips: int = CLIPS,
    out: Path | None = None,
) -> dict[str, Any]:
    """Ask a finished run about people: tables, figures and a card go to a folder.

    The recordings are mixed with the scenes of the spoken world at its levels. Their speakers are
    split in two halves, and each half is scored with the ranking calibrated on the other. The card
    of the run itself gets these lines, too, where it lies in its usual place.

    Args:
        folder: the recordings with their table, or what `recorded.read_voices` read there.
        together: a column, such as `language`, whose values each stay in one half.
        every_checkpoint: score every checkpoint that is on disk, not the first and the last alone.
        clips: how many are made of the recordings.
        out: the folder; `experiment.figures_folder("voices-…")` by default.

    Returns:
        The result that the card shows, with `table`, the scores of every clip and task.

    Raises:
        ValueError: the run is not finished, or was trained on these people.
        CorpusError: the recordings cannot be used.
    """
    run = _find_finished(experiment)
    voices = folder if isinstance(folder, Voices) else read_voices(folder, together)
    if known := sorted(_trained_speakers(experiment) & voices.lines.keys()):
        raise ValueError(
            f"{voices.folder}: the run was trained on {len(known)} speakers of these names, such "
            f"as {known[0]!r}; give recordings of other people, or other names where they are "
            "others."
        )
    out = cache.make_folder(out or experiment.figures_folder(f"voices-{voices.folder.name}"))
    corpus = build_recorded_corpus(
        experiment.root,
        voices,
        dict.fromkeys(HALVES, clips // 2),
        seconds=experiment.preset.seconds,
        seed=experiment.seed,
        together=together,
        progress=experiment.progress("voices"),
    )
    listed = checkpoints.list_checkpoints(run)
    kept = [
        one for one in listed if every_checkpoint and checkpoint_path(run, one["step"]).exists()
    ]
    steps = [one for one in listed if one in (listed[0], *kept, listed[-1])]
    table, left_out = score_people(experiment, corpus, steps)
    own_test = score_own_test(experiment, steps)
    result = _write_report(experiment, voices, corpus, table, own_test, left_out, out)
    return {**result, "table": table}


def _find_finished(experiment: Experiment) -> Path:
    """The folder of the run, if it is finished; the corpus is not rendered to know that none is."""
    name = experiment.preset.name
    if not any((experiment.root / "runs").glob(f"{name}-self-*")):
        raise ValueError(
            f"No run of {name} is here, so there is nothing to test on people; train it first, by "
            "the same command without --test-voices, or take --preset nano, which ships."
        )
    run = experiment.run_folder("self")
    if not trainer.is_finished(run, experiment.train_config):
        raise ValueError(
            f"{run.name} is not finished, so there is nothing to test on people; train it first: "
            "the same command without --test-voices."
        )
    return run


def _trained_speakers(experiment: Experiment) -> set[str]:
    """The speakers of somebody's own corpus that a run was trained on."""
    if not experiment.own_corpus:
        return set()
    trained = {clip.id for clip in experiment.splits.clips["train"]}
    return {clip.speaker for clip in experiment.own_corpus.clips if clip.id in trained}


# ---- scores ----


def score_people(
    experiment: Experiment, corpus: Corpus, listed: Sequence[Mapping[str, Any]]
) -> tuple[pd.DataFrame, list[str]]:
    """The scores of a run's checkpoints on people, and what they lack, in sentences.

    One row per step × condition × task × clip, the text oracle among the conditions. Each half of
    the speakers is calibrated on the other. At the first and the last checkpoint rung 3 is also
    answered in words about every clip, and the rest of the ladder about a few. Raises ValueError
    where nothing on rung 3 can be asked, or an own `describe` fails.
    """
    tasks, left_out = _askable_tasks(experiment.tasks, corpus)
    halves = [_keep_options(corpus.split(name), tasks) for name in HALVES]
    plans = [
        ScoringPlan(replace(experiment.preset, test=len(own)), corpus.hash, tasks, own, other)
        for own, other in (halves, halves[::-1])
    ]
    llm, transcript = experiment.llm, experiment.preset.transcript
    reads, read_facts = _pick_description(experiment.describe, [*halves[0], *halves[1]])
    ends = listed[0]["step"], listed[-1]["step"]

    def tasks_at(step: int) -> list[Task]:
        """Between the ends of the run, where nothing is answered in words, rung 3 alone."""
        return [task for task in tasks if step in ends or task.rung == 3]

    def score_both(step: int, **how: Any) -> pd.DataFrame:
        tables = []
        for plan in plans:
            how |= {"free_form": plan.free_form(step) if step in ends else ()}
            asked = tasks_at(step), plan.test, plan.calibration
            tables.append(evaluate(llm, *asked, describe=reads, **how))
        return pd.concat(tables, ignore_index=True)

    @functools.cache
    def store_features() -> FeatureStore:
        return experiment.store_features([clip for half in halves for clip in half], corpus)

    def score_step(step: int) -> pd.DataFrame:
        checkpoints.load_checkpoint(experiment.run_folder("self"), llm, step)
        return score_both(step, features=store_features(), transcripts=transcript)

    def facts_at(step: int) -> dict[str, Any]:
        said = [one.facts() for one in plans[0].free_form(step)] if step in ends else []
        asked = [repr(task) for task in tasks_at(step)]
        about = {"corpus": corpus.hash, "tasks": asked, "halves": HALVES, "free_form": said}
        return about | experiment.asked.description_facts

    read = experiment.text_provenance("oracles", **facts_at(ends[1]), **read_facts)
    oracle = cache.find_or_make(
        experiment.root, read, lambda: score_both(ends[1], conditions=[conditions.ORACLE])
    )
    tables = []
    for one in report_each(listed, experiment.progress("people")):
        facts = {**facts_at(one["step"]), **conditions.condition_facts(), "transcript": transcript}
        heard = cache.find_or_make(
            experiment.root,
            experiment.provenance("scores", **facts, checkpoint=one["sha256"]),
            partial(score_step, one["step"]),
        )
        tables.append(pd.concat([heard, oracle]).assign(step=one["step"]))
    return pd.concat(tables, ignore_index=True).assign(run="self", seed=experiment.seed), left_out


def _askable_tasks(tasks: Sequence[Task], corpus: Corpus) -> tuple[list[Task], list[str]]:
    """The tasks about what is known of some clips, and in sentences what the clips lack.

    Raises ValueError where no question of rung 3 is left.
    """
    occurring = occurring_values([clip.attributes for clip in corpus.clips])
    kept, missing = [], {}
    for task in tasks:
        found = occurring.get(task.attribute, ())
        if len({*found} & {*task.options}) > 1:
            kept.append(task)
        elif task.attribute not in missing:
            there = ", ".join(sorted(found)) or "nothing"
            asks = ", ".join(task.options)
            missing[task.attribute] = (
                f"Nothing is asked about {task.attribute}: the recordings have {there}, and the "
                f"run tells {asks} apart."
            )
    if not any(task.rung == 3 for task in kept):
        raise ValueError(f"Nothing can be asked about {corpus.name}. {' '.join(missing.values())}")
    return kept, [*_note_silence(kept, corpus), *missing.values()]


def _pick_description(
    own: Callable[..., str], clips: Sequence[Clip]
) -> tuple[Callable[..., str], dict[str, str]]:
    """What the text oracle reads of each of these clips, tried on them all, and its provenance.

    A function of the package that has its name alone is told by it, any other by all that it says.
    """
    reads = describe_known if own is describe else own
    texts = describe_all(reads, [clip.attributes for clip in clips])
    facts = {"reads": getattr(reads, "__name__", type(reads).__name__)}
    if reads not in (describe_known, describe_plainly):
        facts["texts"] = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
    return reads, facts


def _keep_options(clips: Sequence[Clip], tasks: Sequence[Task]) -> list[Clip]:
    """The clips without values that are not an option of every task about their attribute."""

    def is_option(name: str, value: str) -> bool:
        asked = [task for task in tasks if task.attribute == name]
        return bool(asked) and all(value in task.options for task in asked)

    return [
        replace(clip, attributes={k: v for k, v in clip.attributes.items() if is_option(k, v)})
        for clip in clips
    ]


def score_own_test(experiment: Experiment, listed: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """What the run hears on its own test at some checkpoints; rung 3 is ranked where none is known.

    With half of the clips between the first and the last step, as in the main job.
    """
    run, tables = experiment.run_folder("self"), []
    asked = [task for task in experiment.tasks if task.rung == 3]
    ranked = replace(experiment.scoring_plan, tasks=asked, in_words=False)
    for one in report_each(listed, experiment.progress("own test")):
        known = cache.find(experiment.root, experiment.score_provenance(one)) is not None
        own = experiment.score_checkpoint(run, one, None if known else ranked)
        tables.append(own[own["condition"] == "audio"].assign(run="self"))
    return pd.concat(tables, ignore_index=True)


# ---- the report ----


def _write_report(
    experiment: Experiment,
    voices: Voices,
    corpus: Corpus,
    table: pd.DataFrame,
    own_test: pd.DataFrame,
    left_out: Sequence[str],
    out: Path,
) -> dict[str, Any]:
    summary = verdict.score_per_task(verdict.add_untrained(table), ("calibrated", "raw", "said"))
    own = verdict.score_per_task(own_test[own_test["task"].isin(table["task"])])
    curves = pd.concat([_curves(summary), _curves(own, OWN_TEST)])
    heard = _list_heard(voices, corpus)
    languages = {about["language"] for about in heard if "language" in about}
    people = f"{len(heard)} people" + (f" of {len(languages)} languages" if languages else "")
    headlines = [_headline(table, measure, people) for measure in verdict.HEIGHTS]
    provenance = {
        "preset": experiment.preset.name,
        "run": experiment.run_folder("self").name,
        "corpus": corpus.hash,
        "voices": voices.sha256,
        "seeds": [experiment.seed],
    }
    drawn = _draw_figures(curves, summary, headlines)
    if len(answers := pick_answers(table, experiment.tasks, corpus, voices)):
        drawn["people_answers"] = (
            clip_figures.plot_answers(answers, "What it says about people, in its own words"),
            "What the model answered, in its own words, about some of the people.",
        )
    result = {
        "title": TITLE,
        "preset": experiment.preset.name,
        "people": _last_rows(summary, curves),
        "notes": _notes(voices, corpus, headlines, people, left_out),
        "hashes": {name: str(provenance[name]) for name in ("run", "corpus", "voices")},
        "figures": save_figures(drawn, out, provenance),
    }
    cache.write_whole(out / "scores.csv", summary.round(4).to_csv(index=False).encode())
    save_table(table, out)
    card.write_card(out, result)
    usual = experiment.figures_folder("quickstart")
    card.add_people(usual, experiment.run_folder("self").name, result)
    return result


def _headline(table: pd.DataFrame, measure: str, people: str) -> str:
    """What was found at one of the two heights."""
    margins = verdict.control_margins(table, "self", int(table["step"].max()), measure)
    above = [task for task, margin in margins.items() if min(margin.values()) > 0]
    how = verdict.HEIGHTS[measure]
    if not margins:
        return f"No question never trained can be answered {how}, even by reading"
    return (
        f"{len(above)} of {len(margins)} questions never trained are answered above every control "
        f"about {people}, {how}"
    )


def _draw_figures(curves: pd.DataFrame, summary: pd.DataFrame, headlines: Sequence[str]) -> Figures:
    ranked, said = headlines
    figures: Figures = {
        "people": (
            claim_figures.plot_people(curves, ranked),
            "Accuracy on questions never trained along training: people, the run's own test, and "
            "the controls for people.",
        ),
        "people_last": (
            claim_figures.plot_held_out(summary, ranked),
            "Accuracy on questions never trained at the last step, for people, with every control.",
        ),
    }
    if (summary["measure"] == "said").any():
        figures["people_said"] = (
            claim_figures.plot_held_out(summary, said, "said"),
            "Share of right answers in the model's own words at the last step, for people, with "
            "every control.",
        )
    return figures


def pick_answers(
    table: pd.DataFrame, tasks: Sequence[Task], corpus: Corpus, voices: Voices
) -> pd.DataFrame:
    """What the trained run said about one clip each of some people: rows of `plot_answers`.

    Asked are the trained prompt, one question under an output constraint, and the questions never
    trained that the text oracle can answer in words, or all of them where it can answer none.
    """
    heard = table[(table["condition"] == "audio") & (table["step"] == table["step"].max())]
    heard = heard.dropna(subset=["answer"]) if "answer" in heard else heard.iloc[:0]
    able = verdict.able_tasks(table, "said") if len(heard) else {}
    given = [task for task in tasks if task.name in set(heard["task"])]
    trained, formed, never = ([task for task in given if task.rung == rung] for rung in (0, 2, 3))
    readable = [task for task in never if task.name in able]
    asked = [*trained, *[task for task in formed if task.name in able][:1], *(readable or never)]
    clips = {clip.id: clip for clip in corpus.clips}
    complete = heard.groupby("clip")["task"].agg(set)
    everything = {task.name for task in asked}
    whole = [clips[one] for one, done in complete.items() if everything <= done]
    first = list({clip.speaker: clip for clip in reversed(whole)}.values())[::-1]
    said = heard.set_index(["clip", "task"])
    rows = []
    for clip in style.pick_evenly(first, SHOWN) if first else []:
        about = voices.about[clip.speaker]
        who = ", ".join(about[name] for name in KNOWN if name in about) or clip.speaker
        for task in asked:
            found = said.loc[(clip.id, task.name)]
            question = task.in_words or task.question
            value = clip.attributes[task.attribute]
            named = {"answer": found["answer"], "value": value, "said": found["said"]}
            rows.append({"clip": clip.id, "who": who, "question": question, **named})
    return pd.DataFrame(rows)


def _curves(summary: pd.DataFrame, name: str = "people") -> pd.DataFrame:
    """Rung 3 along training: what is heard under the name of the voices, controls by their own."""
    rows = summary[(summary["rung"] == 3) & (summary["measure"] == "calibrated")]
    heard = rows["condition"] == "audio"
    return rows.assign(series=rows["condition"].mask(heard, name))


def _last_rows(summary: pd.DataFrame, curves: pd.DataFrame) -> list[dict[str, Any]]:
    """One row a task at the last step: people, the run's own test, every control, and words."""
    last = summary["step"].max()
    own = curves[(curves["series"] == OWN_TEST) & (curves["step"] == last)]
    own = own.set_index("task")["accuracy"]
    words = summary[(summary["step"] == last) & (summary["measure"] == "said")]
    said = words[words["condition"] == "audio"].set_index("task")["accuracy"]
    read = words[words["condition"] == conditions.ORACLE].set_index("task")["accuracy"]
    rows = beside_controls(summary).assign(said=said, said_by_reading=read)
    rows.insert(rows.columns.get_loc("said"), OWN_TEST, own)
    return rows.reset_index().sort_values(["rung", "task"]).to_dict("records")


def _notes(
    voices: Voices, corpus: Corpus, headlines: Sequence[str], people: str, left_out: Sequence[str]
) -> list[str]:
    together = corpus.recipe.get("together")
    genders = [about.get("gender", "unknown") for about in _list_heard(voices, corpus)]
    counts = ", ".join(f"{genders.count(one)} {one}" for one in sorted(set(genders)))
    apart = f", all speakers of one {together} in one half" if together else ""
    notes = [
        *[f"{headline}." for headline in headlines],
        f"People: {len(corpus.clips)} clips made of the recordings in {corpus.name} ({people}; "
        f"{counts}), with the lab's scenes, levels, whisper filter and speeds; intervals over "
        "speakers.",
        "Calibration: the speakers stand in two halves, and each is calibrated on the other"
        f"{apart}.",
        *left_out,
    ]
    if voices.left_out:
        notes.append(f"{voices.left_out} whispered or sung recordings were left out.")
    return notes


def _list_heard(voices: Voices, corpus: Corpus) -> list[Mapping[str, str]]:
    """What is known of each speaker of whom there is a clip: voices may be more than clips."""
    return [voices.about[name] for name in dict.fromkeys(clip.speaker for clip in corpus.clips)]


def _note_silence(tasks: Sequence[Task], corpus: Corpus) -> list[str]:
    """A sentence for each half that lacks a value which is asked about, so cannot calibrate it."""
    missing = dict.fromkeys(describe_missing(tasks, corpus.split(name)) for name in HALVES)
    return [
        f"No clip of one half is {values}, so the other half is calibrated with silence there."
        for values in filter(None, missing)
    ]


def format_people(result: Mapping[str, Any]) -> str:
    """The result in a few lines of plain text, for the terminal."""
    lines = [str(result["title"])]
    for row in result["people"]:
        if row["rung"] != 3:
            continue
        interval = format_interval((row["accuracy"], row["low"], row["high"]))
        beside = ", ".join(
            f"{name} {row[name]:.2f}"
            for name in (OWN_TEST, *BESIDE_AUDIO)
            if name in row and row[name] == row[name]
        )
        lines.append(f"  {row['attribute']:<10} {interval} (chance {row['chance']:.2f}; {beside})")
    lines += [f"  note: {note}" for note in result["notes"]]
    return "\n".join(lines)
