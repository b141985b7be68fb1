"""The main job: two runs, scored under every control, judged, drawn and put on a card."""

import platform
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

import desta_lab
from desta_lab import cache, processes
from desta_lab.clips import Clip
from desta_lab.evaluation import verdict
from desta_lab.evaluation.conditions import ORACLE
from desta_lab.evaluation.scoring import missing_values
from desta_lab.evaluation.statistics import pool_seeds
from desta_lab.evaluation.tasks import Task
from desta_lab.experiments import rows
from desta_lab.experiments.corpus_tasks import clip_counts
from desta_lab.experiments.experiment import (
    ENOUGH_CLIPS,
    ENOUGH_SPEAKERS,
    RUNS,
    Experiment,
    are_enough,
    describe_size,
)
from desta_lab.experiments.quickstart_figures import draw_figures, save_figures, save_table
from desta_lab.model.presets import PRESETS, part_id, without_paths
from desta_lab.model.runs import VERDICT
from desta_lab.training import checkpoints, trainer
from desta_lab.training.targets import Target, target_perplexity
from desta_lab.views import card
from desta_lab.views.claim_figures import plot_held_out
from desta_lab.views.progress import report_each
from desta_lab.views.saving import save_figure, save_parquet
from desta_lab.views.style import state_seeds
from desta_lab.world.describe import attribute_coverage

LIBRARIES = ("torch", "transformers", "accelerate", "numpy", "pandas")
FEW_SPEAKERS = (  # tests/evaluation/test_statistics.py
    "An interval over {} speakers is too narrow: in a simulation the 95 % interval held the truth "
    "in about 75 of 100 cases with 4 speakers, 87 with 8, 90 with 12 and 91 with 16."
)
FEW_CHECKPOINTS = (
    "Scored before training and at the last step; when a rung rose between is not known."
)
SAME_SPEAKER = "Same speaker: this measures recognition of your recordings, not of new voices."
CLAIM = (
    "one task, with targets that the model wrote itself, teaches it to answer what it was never "
    "trained on; bare labels do not"
)
BESIDE_AUDIO = (ORACLE, *verdict.CONTROLS)  # conditions that the card shows beside it


def run_quickstart(experiment: Experiment, out: Path | None = None) -> dict[str, Any]:
    """Collective: train both runs, score and judge them; figures and card go to a folder.

    Args:
        out: the folder; `experiment.figures_folder("quickstart")` by default.

    Returns:
        The result that the card shows, with `seconds_now`, what this call took.

    Raises:
        ValueError: the backbone can answer no question about a corpus that was brought.
        OSError: the folder cannot be written.
    """
    begin = time.perf_counter()
    out = cache.make_folder(out or experiment.figures_folder("quickstart"))
    brought = experiment.own_corpus or experiment.asked.own
    if brought and not able_attributes(experiment):  # before minutes of training
        description = experiment.describe(experiment.clips("test")[0].attributes)
        raise ValueError(
            f"{part_id(experiment.preset.backbone)} answers no question about "
            f"{', '.join(experiment.values)} even when it reads “{description}”, so what it "
            "hears could not be judged; take a larger preset, or other words in the table."
        )
    table = experiment.score_table()
    result: dict[str, Any] = {}
    with experiment.costs.stage("figures"):
        _ = experiment.targets  # collective, so not in the block of one rank
        if processes.is_main_rank():
            result = write_report(experiment, table, out)
        result = processes.broadcast(result)
    return {**result, "seconds_now": time.perf_counter() - begin}


def run_seeds(
    make: Callable[[int], Experiment], seeds: Sequence[int], out: Path | None = None
) -> dict[str, Any]:
    """Collective: the main job with every seed; what holds over them joins the first one's card.

    Args:
        make: the experiment of a seed, which draws its world, its connector and the order.
        out: the folder of the first seed's results; those of seed 1 go to `seed-1` in it.

    Returns:
        The first seed's result, with `seeds`, a row a task and measure, and a further figure where
        there are several; `seconds_now` is what all took.
    """
    begin = time.perf_counter()
    results: list[dict[str, Any]] = []
    tables: dict[int, pd.DataFrame] = {}
    for seed in seeds:
        experiment = make(seed)
        out = out or experiment.figures_folder("quickstart")
        results.append(run_quickstart(experiment, out / f"seed-{seed}" if results else out))
        if len(seeds) > 1:
            tables[seed] = experiment.score_table()
    if out is not None and tables and processes.is_main_rank():
        results[0] = write_seeds(results, tables, cache.make_folder(out))
    return {**processes.broadcast(results[0]), "seconds_now": time.perf_counter() - begin}


def write_seeds(
    results: Sequence[dict[str, Any]], tables: Mapping[int, pd.DataFrame], out: Path
) -> dict[str, Any]:
    """Put what holds over all seeds, by their results and score tables, on the first one's card."""
    measures = tuple(verdict.HEIGHTS)
    tasks = {
        seed: verdict.score_per_task(verdict.add_untrained(table), measures)
        for seed, table in tables.items()
    }
    pooled = pool_seeds(tasks, ["measure", "run", "step", "condition", "task"])
    pooled["counted"] = pooled["counted"] == 1  # its oracle can do it with every seed
    over = f"Over {len(tables)} seeds ({', '.join(map(str, tables))})"
    figures, found = list(results[0]["figures"]), []
    for name, (measure, how) in zip(("verdict", "said"), verdict.HEIGHTS.items(), strict=True):
        counts = Counter(one[name]["verdict"] for one in results)
        found.append(f"{', '.join(f'{word} in {n}' for word, n in counts.items())} {how}")
        if (pooled["measure"] == measure).any():
            picture = plot_held_out(pooled, f"{over}: {found[-1]}", measure)
            state_seeds(picture, list(tables))
            path = save_figure(picture, out, f"seeds_{name}", provenance={"seeds": list(tables)})
            figures.append((str(path), f"Accuracy per attribute. {over}: {found[-1]}."))
    result = {
        **results[0],
        "found": "; ".join([results[0]["found"], f"{over}: {' and '.join(found)}"]),
        "seeds": _seeds_side_by_side(pooled, results),
        "figures": figures,
    }
    card.write_card(out, result)
    return result


def _seeds_side_by_side(
    pooled: pd.DataFrame, results: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """One row a counted rung-3 task and measure at the last step: means over the seeds."""
    columns = ["task", "attribute", "accuracy", "low", "high", "measure", "above every control"]
    columns += ["chance", *BESIDE_AUDIO, "label_run"]
    rows: list[dict[str, Any]] = []
    for name, measure in zip(("verdict", "said"), verdict.HEIGHTS, strict=True):
        found = beside_controls(pooled, measure)
        found = found[(found["rung"] == 3) & found["counted"]]
        above = [one[name]["above_controls"]["self"] for one in results]
        counts = [sum(attribute in some for some in above) for attribute in found["attribute"]]
        more = {
            "measure": measure,
            "above every control": [f"{count} of {len(above)} seeds" for count in counts],
            "label_run": beside_controls(pooled, measure, "label")["accuracy"],
        }
        rows += found.assign(**more).reset_index().reindex(columns=columns).to_dict("records")
    return rows


def beside_controls(
    tasks: pd.DataFrame, measure: str = "calibrated", run: str = "self"
) -> pd.DataFrame:
    """By task, a run's scores (`verdict.score_per_task`) at the last step beside every control."""
    here = tasks[(tasks["step"] == tasks["step"].max()) & (tasks["measure"] == measure)]
    here = here[here["run"] == run]
    wide = here.pivot(index="task", columns="condition", values="accuracy")
    heard = here[here["condition"] == "audio"].set_index("task")
    heard = heard[["rung", "attribute", "counted", "accuracy", "low", "high", "chance"]]
    return heard.join(wide[[name for name in BESIDE_AUDIO if name in wide]])


def write_report(experiment: Experiment, table: pd.DataFrame, out: Path) -> dict[str, Any]:
    """Judge the claim by a score table, draw the figures and write the card: one rank, alone."""
    folders = {kind: experiment.run_folder(kind) for kind in RUNS}
    ranked, said = (judge(experiment, table, measure) for measure in verdict.HEIGHTS)
    compared = compare_targets(experiment)
    complete = verdict.add_untrained(table)
    parted = verdict.split_label_run(complete, experiment.preset.label)
    rungs = [verdict.score_per_rung(parted, measure) for measure in verdict.HEIGHTS]
    tasks = verdict.score_per_task(complete, ("calibrated", "raw", "said"))
    costs = experiment.costs.total()
    versions = {name: version(name) for name in LIBRARIES} | {"desta_lab": desta_lab.__version__}
    about = {"hashes": _hashes(experiment, folders)}
    about["versions"] = {"python": platform.python_version(), **versions}
    provenance = {"preset": without_paths(experiment.preset), "seeds": [experiment.seed], **about}
    found = _describe_findings(experiment, [ranked, said], tasks)
    checkpoints.load_checkpoint(folders["self"], experiment.llm, experiment.train_config.steps)
    drawn = draw_figures(experiment, rungs[0], tasks, compared, found)
    last = experiment.train_config.steps
    crossings = verdict.rung_crossings(rungs[0]).to_dict("records")
    result = {
        "title": "Does one self-generated task teach the others?",
        "preset": experiment.preset.name,
        "claim": CLAIM,
        "found": "; ".join(found),
        "verdict": asdict(ranked),
        "said": asdict(said),
        "rungs": [row for one in rungs for row in one[one["step"] == last].to_dict("records")],
        "tasks": _tasks_side_by_side(table, tasks),
        "crossings": crossings if experiment.preset.every_checkpoint else [],
        "targets": {name: compared[name] for name in ("perplexity", "coverage")},
        "stages": costs["seconds"],
        "peak_memory_gb": costs["peak_memory_gb"],
        **about,
        "notes": _notes(experiment, table, compared),
        "figures": save_figures(drawn, out, provenance),
    }
    save_table(table, out)
    save_parquet(table, out / "table.parquet")
    card.write_card(out, result)
    for kind, folder in folders.items():
        of_run = asdict(ranked) | {"checkpoint": about["hashes"][f"checkpoint {kind}"]}
        of_run["corpus"] = experiment.corpus.name
        cache.write_where_allowed(folder / VERDICT, cache.to_json(of_run))
    return result


# ---- the verdict ----


def judge(
    experiment: Experiment, table: pd.DataFrame, measure: str = "calibrated"
) -> verdict.Verdict:
    """The verdict at one of `verdict.HEIGHTS`; on too small a corpus its numbers alone."""
    disjoint = experiment.splits.disjoint_speakers
    units = "speakers" if disjoint else "clips"
    judged = verdict.judge_claim(table, experiment.preset.label, units=units, measure=measure)
    test, able = experiment.clips("test"), able_attributes(experiment)
    if not experiment.own_corpus or (are_enough(test) and len(able) > 1):
        return judged
    reason = (
        f"Tested with {describe_size(test, disjoint)} on "
        f"{len(able)} attribute{'s' * (len(able) != 1)}; a verdict needs {ENOUGH_CLIPS} clips, "
        f"{ENOUGH_SPEAKERS} speakers and 2 attributes at least."
    )
    if disjoint and clip_counts(test)[1] < ENOUGH_SPEAKERS:
        reason += " A column `split` gives the test more speakers."
    return replace(judged, verdict="TOO FEW CLIPS TO JUDGE", reasons=[reason, *judged.reasons])


def able_attributes(experiment: Experiment) -> list[str]:
    """The attributes whose question the backbone answers when it reads the description."""
    able = verdict.able_tasks(experiment.oracle())
    tasks = [task for task in experiment.tasks if task.rung == 3 and task.name in able]
    return list(dict.fromkeys(task.attribute for task in tasks))


# ---- what a kind of target keeps ----


def compare_targets(experiment: Experiment) -> dict[str, Any]:
    """Perplexity, attribute coverage and share of cut-off responses of every kind of target."""

    def compare() -> dict[str, Any]:
        clips = experiment.splits.clips["train"]
        known = {experiment.describe(clip.attributes): clip.attributes for clip in clips}
        result: dict[str, Any] = {"perplexity": {}, "coverage": {}, "truncated": {}}
        kinds = list(all_targets(experiment).items())
        for kind, targets in report_each(kinds, experiment.progress("compare targets")):
            attributes = [known[row.description] for row in targets]
            responses = [row.response for row in targets]
            result["perplexity"][kind] = target_perplexity(experiment.llm.backbone, targets)
            result["coverage"][kind] = attribute_coverage(responses, attributes, experiment.values)
            result["truncated"][kind] = sum(row.truncated for row in targets) / len(targets)
        return result

    return cache.find_or_make(experiment.root, coverage_provenance(experiment), compare)


def coverage_provenance(experiment: Experiment) -> cache.Provenance:
    """What determines the comparison of the kinds of target."""
    return experiment.targets_provenance.derive(
        "coverage",
        label=experiment.preset.label,
        corpus=experiment.corpus.hash,
        other=rows.can_nano_write(experiment.asked, experiment.preset),
        **experiment.asked.own,
    )


def all_targets(experiment: Experiment) -> dict[str, list[Target]]:
    """A target of every kind for every description that the backbone wrote about, to compare."""
    describe, train = experiment.describe, experiment.splits.clips["train"]
    clip_of = {describe(clip.attributes): clip for clip in reversed(train)}
    pairs = [(row.description, row.prompt) for row in experiment.targets.rows]
    clips = [clip_of[description] for description, _ in pairs]
    found = {}
    other = ["other"] * rows.can_nano_write(experiment.asked, experiment.preset)
    for kind in ("self", "label", "template", *other):
        known, targets = experiment.targets_of_kind(kind, clips, pairs)
        found[kind] = [
            replace(target, description=describe(clip.attributes))
            for clip, target in zip(known, targets, strict=True)
        ]
    return found


# ---- the card ----


def _describe_findings(
    experiment: Experiment, verdicts: Sequence[verdict.Verdict], tasks: pd.DataFrame
) -> list[str]:
    """The verdict at every height, each with the number of attributes above every control."""
    found = []
    for (measure, how), judged in zip(verdict.HEIGHTS.items(), verdicts, strict=True):
        counted = (tasks["rung"] == 3) & tasks["counted"] & (tasks["measure"] == measure)
        asked, above = tasks[counted]["attribute"].nunique(), judged.above_controls["self"]
        risen = f"{len(above)} of {asked} attributes never asked about rose above every control"
        none = "the backbone tells no attribute well even when it reads the description"
        found.append(f"{judged.verdict} {how}: {risen if asked else none}")
    return found if experiment.splits.disjoint_speakers else [*found, SAME_SPEAKER]


def _hashes(experiment: Experiment, folders: dict[str, Path]) -> dict[str, str]:
    last = {
        kind: checkpoints.list_checkpoints(folder)[-1]["sha256"] for kind, folder in folders.items()
    }
    models = experiment.llm.provenance
    return {
        **{f"run {kind}": folder.name for kind, folder in folders.items()},
        **{f"checkpoint {kind}": sha256 for kind, sha256 in last.items()},
        "corpus": experiment.corpus.hash,
        **{name: value for name, value in models.items() if name.endswith("sha256")},
    }


def _notes(experiment: Experiment, table: pd.DataFrame, compared: dict[str, Any]) -> list[str]:
    able = verdict.able_tasks(table)
    left_out = [task.name for task in experiment.tasks if task.name not in able]
    return [
        "Tasks that the text oracle cannot do, or answers alike about every clip, left out of "
        "every claim: "
        f"{', '.join(left_out) or 'none'}.",
        f"The bare-label run stands in two parts: its own attribute ({experiment.preset.label}) "
        "and the others.",
        f"{compared['truncated']['self']:.0%} of the self-generated targets were cut off and carry "
        "no end of turn.",
        _note_on_clips(experiment),
        *([] if experiment.preset.every_checkpoint else [FEW_CHECKPOINTS]),
        *_notes_on_own_pieces(experiment),
        *_notes_on_own_corpus(experiment),
        *_notes_on_device(experiment),
    ]


def _note_on_clips(experiment: Experiment) -> str:
    test, calibration = experiment.clips("test"), experiment.clips("validation")
    train_ids = {clip.id for clip in experiment.splits.clips["train"]}
    trained = sum(clip.id in train_ids for clip in calibration)
    also = f", {trained} of them trained with" if trained else ""
    clips, speakers = clip_counts(test)
    if experiment.splits.disjoint_speakers:
        tested = f"{clips} clips of {speakers} speakers never heard in training"
        others = f"{len(calibration)} clips of other speakers{also}"
    else:
        tested = (
            f"{SAME_SPEAKER} With too few speakers to keep some for the test, {clips} single "
            "clips were kept"
        )
        others = f"{len(calibration)} other clips{also}"
    if lacking := describe_missing(experiment.tasks, test):
        tested += f", none of which is {lacking}"
    weights = _describe_balance(experiment.tasks, calibration)
    return f"{tested}; calibration on {others}, {weights}; one seed ({experiment.seed})."


def describe_missing(tasks: Sequence[Task], clips: Sequence[Clip]) -> str:
    """The values that are asked about and that no clip has, such as `gender = male`."""
    missing = {f"{t.attribute} = {value}" for t in tasks for value in missing_values(t, clips)}
    return " or ".join(sorted(missing))


def _describe_balance(tasks: Sequence[Task], clips: Sequence[Clip]) -> str:
    """How even the values of attributes are among the clips that calibrate."""
    counts = {
        name: Counter(clip.attributes[name] for clip in clips if name in clip.attributes)
        for name in dict.fromkeys(task.attribute for task in tasks)
    }
    uneven = {name: max(n.values()) / min(n.values()) for name, n in counts.items() if n}
    words = "every value weighing the same"
    if uneven:
        name = max(uneven, key=lambda name: uneven[name])
        shares = ", ".join(f"{value} {n}" for value, n in counts[name].most_common())
        words += f" (least even there: {name}, {shares} clips)"
    if missing := describe_missing(tasks, clips):
        words += f"; none is {missing}, so their questions are calibrated with silence"
    return words


def _notes_on_own_pieces(experiment: Experiment) -> list[str]:
    """Which of the usual pieces somebody replaced, and by what."""
    own, connector = experiment.asked.own, experiment.llm.provenance["connector"]
    description = experiment.describe(experiment.clips("test")[0].attributes)
    words = {
        "attributes": f"the attributes {', '.join(own.get('attributes', ()))}",
        "tasks": f"{len(experiment.tasks)} tasks",
        "prompts": f"the training prompts “{'”, “'.join(experiment.asked.prompts)}”",
        "descriptions": f"descriptions like “{description}”",
    }
    pieces = [words[name] for name in own if name != "tasks" or experiment.asked.tasks_brought]
    preset = experiment.preset
    usual = PRESETS[preset.name]() if preset.name in PRESETS else None
    for part in ("encoder", "backbone"):
        if (name := getattr(preset, part)) != getattr(usual, part, None):
            pieces.append(f"the {part} {part_id(name)}")
    pieces += [f"the connector {connector['class']}"] if experiment.connector is not None else []
    return [f"Brought by the experiment: {'; '.join(pieces)}."] if pieces else []


def _notes_on_device(experiment: Experiment) -> list[str]:
    """Within what a GPU repeats itself; nothing of a CPU, where the same run is the same."""
    llm = experiment.llm
    if llm.backbone.device.type == "cpu":
        return []
    written, soft = experiment.training_rows("self")
    how = experiment.train_config, soft, experiment.preset.accumulate
    apart = trainer.compare_gradients(llm, experiment.features, written, *how)
    told = "is the same to the bit."
    if apart:
        told = f"differs by {apart:.1g} of its largest value, so the same run, trained again, may "
        told += "part from this one at its first step."
    return [f"Computed on {llm.backbone.device}: one gradient, taken twice there, {told}"]


def _notes_on_own_corpus(experiment: Experiment) -> list[str]:
    corpus, seconds = experiment.own_corpus, experiment.preset.seconds
    if corpus is None:
        return []
    long = sum(clip.seconds > seconds for clip in corpus.clips)
    description = experiment.describe(experiment.clips("test")[0].attributes)
    together = corpus.recipe.get("together")
    speakers = clip_counts(experiment.clips("test"))[1]
    few = experiment.splits.disjoint_speakers and speakers < 12
    return [
        *([f"All speakers of one {together} are in one split."] if together else []),
        *([FEW_SPEAKERS.format(speakers)] if few else []),
        f"Corpus {corpus.name} ({corpus.licence}): {len(corpus.clips)} clips, "
        f"{len(experiment.clips('train'))} of them trained with, described like “{description}”",
        f"Of clips longer than {seconds:g} s the beginning is heard: {long}.",
    ]


def _tasks_side_by_side(table: pd.DataFrame, tasks: pd.DataFrame) -> list[dict[str, Any]]:
    """One row a task at the last step: the self-generated run, and every control beside it."""
    audio = (table["run"] == "self") & (table["condition"] == "audio")
    audio &= table["step"] == table["step"].max()
    words = table[audio].groupby("task")[["free_form", "obeyed", "logprob"]].mean()
    raw, label_run = beside_controls(tasks, "raw"), beside_controls(tasks, run="label")
    rows = beside_controls(tasks).join(words)
    rows = rows.assign(raw=raw["accuracy"], label_run=label_run["accuracy"]).reset_index()
    columns = ["task", "rung", "attribute", "counted", "accuracy", "low", "high", "raw", *words]
    columns += ["chance", *BESIDE_AUDIO, "label_run"]
    return rows.sort_values(["rung", "task"])[columns].to_dict("records")
