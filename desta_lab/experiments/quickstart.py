"""The main job: two runs and their ladders under every control, judged by the rule, drawn, and told on a card."""

import json
import sys
import time
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

import desta_lab
from desta_lab import audio, cache, processes
from desta_lab.analysis.attention import query_attention_over_time
from desta_lab.evaluation import verdict
from desta_lab.evaluation.tasks import RUNGS
from desta_lab.experiments.experiment import ENOUGH, Experiment, enough
from desta_lab.training import checkpoints
from desta_lab.training import targets as target
from desta_lab.views import card, claim_figures, saving
from desta_lab.views.widgets import plot_clips
from desta_lab.world.describe import attribute_coverage

SAME = "Same speaker: this measures recognition of your recordings, not of new voices."


class Quickstart(Experiment):
    """A lab whose claim is put to the test: self-generated targets against a bare label."""

    def run(self) -> dict[str, Any]:
        """Everything, in order; returns the result that the card shows. A finished job is read from disk."""
        begin = time.perf_counter()
        if self.own and not self.able_attributes():  # said before minutes of training
            raise ValueError(
                f"{self.preset.backbone} answers no question about {', '.join(self.values)} even when it reads "
                f"“{self.describe(self.clips('test')[0].attributes)}”, so what it hears could not be judged; take "
                "a larger preset, or other words in the table."
            )
        table = self.score_table()
        folders = {kind: self.run_folder(kind) for kind in ("self", "label")}
        with self._stage("figures"):
            result = processes.broadcast(
                _report(self, table, folders) if processes.is_main_rank() else {}
            )
        result["seconds_now"] = time.perf_counter() - begin
        return result


def _report(job: Experiment, table: pd.DataFrame, folders: dict[str, Path]) -> dict[str, Any]:
    """Judge the claim by a job's measurements, draw its figures and write the card; returns what the card shows.

    `table` is `job.score_table()`; `folders` are those of its runs, by kind.
    """
    judged, info, able = _judged(job, table), _kinds(job), verdict.able_tasks(table)
    full = verdict.add_untrained(table)
    rungs, tasks = (
        verdict.score_per_rung(verdict.split_label_run(full, job.preset.label)),
        verdict.score_per_task(full),
    )
    rungs_last, tasks_last = (t[t["step"] == t["step"].max()] for t in (rungs, tasks))
    last = {
        kind: checkpoints.list_checkpoints(folder)[-1]["sha256"] for kind, folder in folders.items()
    }
    hashes = {
        **{f"run {kind}": folder.name for kind, folder in folders.items()},
        **{f"checkpoint {kind}": sha256 for kind, sha256 in last.items()},
        "corpus": job.corpus.hash,
        **{key: value for key, value in job.llm.provenance.items() if key.endswith("sha256")},
    }
    libraries = ("torch", "transformers", "accelerate", "numpy", "pandas")
    versions = {
        "python": sys.version.split()[0],
        **{name: version(name) for name in libraries},
        "desta_lab": desta_lab.__version__,
    }
    provenance = {
        "preset": asdict(job.preset),
        "seeds": [job.seed],
        "hashes": hashes,
        "versions": versions,
    }
    left_out = [task.name for task in job.tasks if task.name not in able]
    cost = job.cost()
    result = {
        "title": "Does one self-generated task teach the others?",
        "preset": job.preset.name,
        "verdict": asdict(judged),
        "rungs": rungs_last.to_dict("records"),
        "tasks": _side_by_side(table, tasks_last),
        "crossings": verdict.rung_crossings(rungs).to_dict("records"),
        "targets": {key: info[key] for key in ("perplexity", "coverage")},
        "stages": cost["seconds"],
        "peak_memory_gb": cost["peak_memory_gb"],
        "versions": versions,
        "hashes": hashes,
        "notes": [
            f"Tasks that the text oracle cannot do, left out of every claim: {', '.join(left_out) or 'none'}.",
            f"The bare-label run stands in two parts: its own attribute ({job.preset.label}) and the others.",
            f"{info['truncated']['self']:.0%} of the self-generated targets were cut off and carry no end of turn.",
            *_about_clips(job),
        ],
        "figures": _figures(job, rungs, tasks, judged, folders, info, provenance),
    }
    job.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(job.out / "table.csv.gz", index=False, compression={"method": "gzip", "mtime": 0})
    card.write_card(job.out, result)
    return result


def _judged(job: Experiment, table: pd.DataFrame) -> verdict.Verdict:
    """The verdict of the claim, withheld where the corpus is too small for one; all numbers stay."""
    judged, test = verdict.judge_claim(table, job.preset.label), job.clips("test")
    if not job.splits.disjoint_speakers:
        rule = judged.rule.replace("on speakers never", "on clips never").replace(
            "over speakers", "over clips"
        )
        judged = replace(judged, rule=rule)
    asked = len(job.able_attributes())
    if not job.own or (enough(test) and asked > 1):
        return judged
    voices = len({clip.speaker for clip in test}) if job.splits.disjoint_speakers else "too few"
    few = (
        f"Tested with {len(test)} clips of {voices} speakers on {asked} attributes; a verdict needs "
        f"{ENOUGH['clips']} clips, {ENOUGH['speakers']} speakers and 2 attributes at least."
    )
    return replace(judged, verdict="TOO FEW CLIPS TO JUDGE", reasons=[few, *judged.reasons])


def _kinds(job: Experiment) -> dict[str, Any]:
    """Perplexity and attribute coverage of every target kind, kept beside the targets."""
    path = job.root / "targets" / job.targets[2] / f"kinds-{job.preset.label}.json"
    if not path.exists():
        kinds = job.kinds()
        known = {
            job.describe(clip.attributes): clip.attributes for clip in job.splits.clips["train"]
        }
        read = {kind: [known[row.description] for row in rows] for kind, rows in kinds.items()}
        data = {
            "perplexity": {
                kind: target.target_perplexity(job.llm.backbone, rows)
                for kind, rows in kinds.items()
            },
            "coverage": {
                kind: attribute_coverage([r.response for r in rows], read[kind], job.values)
                for kind, rows in kinds.items()
            },
            "truncated": {
                kind: sum(r.truncated for r in rows) / len(rows) for kind, rows in kinds.items()
            },
        }
        cache.write_whole(path, cache.to_json(data))
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _about_clips(job: Experiment) -> list[str]:
    """What the clips are that were tested with, in words, and what they cannot show."""
    test, held_out = job.clips("test"), job.clips("validation")
    trained = len({clip.id for clip in held_out} & {clip.id for clip in job.splits.clips["train"]})
    others = (
        f"{len(held_out)} clips of other speakers"
        if job.splits.disjoint_speakers
        else f"{len(held_out)} other clips"
    )
    others += f", {trained} of them trained with" if trained else ""
    if job.splits.disjoint_speakers:
        heard = f"{len(test)} clips of {len({c.speaker for c in test})} speakers never heard in training"
    else:
        heard = f"{SAME} With too few speakers to keep some for the test, {len(test)} single clips were kept"
    notes = [f"{heard}; calibration on {others}; one seed ({job.seed})."]
    if job.own:
        long = sum(clip.seconds > job.preset.seconds for clip in job.own.clips)
        notes += [
            f"Corpus {job.own.name} ({job.own.licence}): {len(job.own.clips)} clips, {len(job.clips('train'))} "
            f"of them trained with, described like “{job.describe(test[0].attributes)}”",
            f"Of clips longer than {job.preset.seconds:g} s the beginning is heard: {long}.",
        ]
    return notes


def _figures(
    job: Experiment,
    rungs: pd.DataFrame,
    tasks: pd.DataFrame,
    judged: verdict.Verdict,
    folders: dict[str, Path],
    info: dict[str, Any],
    provenance: dict[str, Any],
) -> list[tuple[str, str]]:
    """Draw everything from the tables; returns (file, alternative text)."""
    up = judged.above_controls["self"]
    asked = tasks[(tasks["rung"] == 3) & tasks["counted"]]["attribute"].nunique()
    headline = f"{judged.verdict}: {len(up)} of {asked} attributes never asked about rose above every control"
    headline += "" if job.splits.disjoint_speakers else f". {SAME}"
    names = {
        rung: name for rung, name in RUNGS.items() if any(task.rung == rung for task in job.tasks)
    }
    share = pd.DataFrame(
        [
            {
                "kind": kind,
                "attribute": name,
                "share": value,
                "perplexity": info["perplexity"][kind],
            }
            for kind, shares in info["coverage"].items()
            for name, value in shares.items()
        ]
    )
    drawn = [
        (
            "emergence",
            claim_figures.plot_emergence(rungs, headline, names=names),
            f"Score of every rung along training. {headline}.",
        ),
        (
            "held_out",
            claim_figures.plot_held_out(tasks, headline),
            "Accuracy on questions never trained, per attribute, for both runs and every control.",
        ),
        (
            "coverage",
            claim_figures.plot_coverage(share, "What a target drops it cannot teach"),
            "Share of targets that name each attribute, per kind of target.",
        ),
    ]
    checkpoints.load_checkpoint(folders["self"], job.llm, job.train_config.steps)
    connector: Any = job.llm.connector
    if hasattr(connector, "mixture"):
        mixture = connector.mixture().detach().cpu().numpy()
        clip = job.clips("test")[0]
        waves = [audio.read_audio(job.corpus.path(clip))]
        attention = query_attention_over_time(connector, job.llm.encoder.encode(waves).float())[
            0
        ].numpy()
        mel = audio.log_mel(waves, job.preset.seconds, job.llm.encoder.mel_bins)[0].numpy()
        drawn += [
            (
                "layer_mixture",
                claim_figures.plot_layer_mixture(
                    mixture, job.llm.encoder.taps, "Where each query token reads"
                ),
                "Share of every tapped layer in every query token.",
            ),
            (
                "query_to_time",
                claim_figures.plot_query_attention(
                    attention,
                    mel,
                    clip.spans,
                    job.preset.seconds,
                    headline="Where each query token looks",
                ),
                "Spectrogram of one clip with its evidence spans, above the time each query token attends to.",
            ),
        ]
    drawn.append(
        (
            "corpus",
            plot_clips(job.corpus, job.clips("train")[:6]),
            "Spectrograms of six clips with their attributes and evidence spans.",
        )
    )
    tokens, nats = target.token_evidence(job.llm.backbone, job.targets[0][0])
    drawn.append(
        (
            "token_evidence",
            claim_figures.plot_token_evidence(tokens, nats.tolist(), "Which words carry the clip"),
            "KL per token of one target between reading the description and reading nothing.",
        )
    )
    return [
        (str(saving.save_figure(f, job.out, name, provenance=provenance)), alt)
        for name, f, alt in drawn
    ]


def _side_by_side(table: pd.DataFrame, tasks: pd.DataFrame) -> list[dict[str, Any]]:
    """One row a task at the last step: our run with its interval, raw and free-form beside it, and every control."""
    rows = []
    wide = (
        tasks[tasks["measure"] == "calibrated"].set_index(["run", "condition", "task"]).sort_index()
    )
    raw = (
        tasks[tasks["measure"] == "raw"]
        .set_index(["run", "condition", "task"])["accuracy"]
        .sort_index()
    )
    last = table[
        (table["step"] == table["step"].max())
        & (table["run"] == "self")
        & (table["condition"] == "audio")
    ]
    free = last.groupby("task")[["free_form", "obeyed", "logprob"]].mean()
    for task in wide.loc[("self", "audio")].index:
        own = wide.loc[("self", "audio", task)]
        rows.append(
            {
                "task": task,
                "rung": int(own["rung"]),
                "attribute": own["attribute"],
                "counted": bool(own["counted"]),
                "accuracy": own["accuracy"],
                "low": own["low"],
                "high": own["high"],
                "raw": raw["self", "audio", task],
                "free_form": free.loc[task, "free_form"],
                "obeyed": free.loc[task, "obeyed"],
                "logprob": free.loc[task, "logprob"],
                "chance": own["chance"],
                **{
                    v: wide.loc[("self", v, task), "accuracy"]
                    for v in ("oracle", "shuffled", "silence", "untrained")
                },
                "label_run": wide.loc[("label", "audio", task), "accuracy"],
            }
        )
    return sorted(rows, key=lambda row: (row["rung"], row["task"]))
