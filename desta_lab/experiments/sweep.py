"""Grids over any field of a run's config: a cell is measured once, however, wherever and whenever it is asked for.

A cell is one config and one seed. It leaves one file, `data/sweeps/<hash>.json`, whole or not at all: its scores, or
the sentence it failed with. So a sweep that was killed goes on, and a larger one finds the cells of a smaller one.
"""

import gc
import hashlib
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pandas as pd
import torch
from filelock import FileLock

from desta_lab import cache, processes
from desta_lab.evaluation import conditions, verdict
from desta_lab.evaluation.evaluate import evaluate
from desta_lab.evaluation.statistics import add_mean_interval, mean_interval
from desta_lab.evaluation.tasks import task_ladder
from desta_lab.experiments import forgetting
from desta_lab.experiments.experiment import Experiment, Progress
from desta_lab.model import presets, weights
from desta_lab.model.presets import ConnectorShape, Preset
from desta_lab.model.weights import hash_folder, models_dir
from desta_lab.training import checkpoints, targets
from desta_lab.views import claim_figures, saving
from desta_lab.views.progress import progress_reporter
from desta_lab.world.attributes import DESCRIBED
from desta_lab.world.describe import describe

VERSION = 1  # of what a cell measures: another version, other files
RUNGS = (0, 2, 3)
CHOICES = {
    "target": ("self", "hard", "label", "template", "other"),
    "label": DESCRIBED,
    "connector.kind": ("qformer", "frames"),
}
SAID = (
    "name",
    "purpose",
    "minutes",
    "memory_gb",
    "disk_gb",
)  # what is said of a preset, not what is done
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of what adapters have learned, at test time
COLUMNS = ["seed", "cell", "run", "error", "rung", "attribute", "condition", "share", "score"]
KINDS = dict.fromkeys(("run", "error", "attribute", "condition"), "string") | {
    "rung": "Int64",
    "share": "float",
    "score": "float",
}


@dataclass(frozen=True)
class Cell:
    """One config and one seed."""

    preset: Preset
    target: str
    seed: int
    measured: str = (
        "ladder"  # what is measured: rungs 0, 2 and 3, or what another `measure` says it is
    )

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Every field of the cell, by its dotted name; the glass box by its hash, not its place."""
        nano = f"nano-{hash_folder(weights.NANO_FOLDER)[:12]}"
        own = {"backbone": nano} if self.preset.glass_box else {}
        return {**fields(self.preset), "target": self.target, **own}

    @cached_property
    def key(self) -> str:
        """The hash of all that determines it: another task, world or measurement is another cell."""
        used = presets.hashed_fields(self.preset)
        done = {
            name: v
            for name, v in self.settings.items()
            if name not in presets.OPTIONS or name in used
        }
        how = [VERSION] if self.measured == "ladder" else [VERSION, self.measured]
        world = [*how, cache.VERSIONS["corpora"], [repr(task) for task in task_ladder() if task.rung in RUNGS]]
        text = json.dumps([done, self.seed, world], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def place(self, root: Path) -> Path:
        """The cell's file in a data folder."""
        return root / "sweeps" / f"{self.key}.json"


Measure = Callable[
    [Cell, Path], dict[str, Any]
]  # a cell and the data folder → its `rows`, and what they cost


def fields(preset: Preset) -> dict[str, Any]:
    """Every field that a sweep can turn, by its dotted name, as this preset has it."""
    flat: dict[str, Any] = {"target": "self"}
    for name, value in asdict(preset).items():
        inner = (
            {f"{name}.{leaf}": v for leaf, v in value.items()}
            if isinstance(value, dict)
            else {name: value}
        )
        flat |= {} if name in SAID else inner
    return flat


def turn(preset: Preset, name: str, value: Any) -> Preset:
    """The preset with one field, named as in `fields`, set to another value."""
    head, _, leaf = name.partition(".")
    inner = getattr(preset, head)
    if leaf:
        value = (
            {**inner, leaf: value} if isinstance(inner, dict) else replace(inner, **{leaf: value})
        )
    return replace(preset, **{head: value})


def _checked(preset: Preset, name: str, value: Any) -> Any:
    """A value as its field takes it, or a ValueError that says what the field takes."""
    if name not in fields(preset):
        raise ValueError(f"A sweep cannot turn {name!r}; it turns {', '.join(fields(preset))}.")
    head, _, leaf = name.partition(".")
    known = {
        "target": str,
        "clips": int,
        "taps": tuple,
        "connector": get_type_hints(ConnectorShape).get(leaf),
    }
    kind: Any = known.get(head) or get_type_hints(Preset)[head]
    value = tuple(value) if kind is tuple and isinstance(value, list) else value
    value = value.item() if isinstance(value, np.generic) else value
    value = float(value) if kind is float and type(value) is int else value
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{name} takes {getattr(kind, '__name__', kind)}, not {value!r}.")
    if value not in CHOICES.get(name, (value,)):
        raise ValueError(f"{name} is one of {', '.join(CHOICES[name])}, not {value!r}.")
    return value


def parse(settings: Iterable[str]) -> dict[str, list[Any]]:
    """`["steps=40,80", "label=rate"]` as a grid: numbers, true, false and null as JSON writes them, else words."""
    grid: dict[str, list[Any]] = {}
    for setting in settings:
        name, values = _pair(setting)
        grid.setdefault(name, []).extend(_value(text) for text in values.split(","))
    return grid


def parse_slurm(settings: Iterable[str]) -> dict[str, Any]:
    """`["slurm_partition=gpu", "timeout_min=60"]` as submitit's parameters; a comma is part of its value."""
    return {name: _value(text) for name, text in map(_pair, settings)}


def _pair(setting: str) -> tuple[str, str]:
    name, sign, text = setting.partition("=")
    if not sign:
        raise ValueError(f"{setting!r} sets nothing; write a name and a value, such as steps=40.")
    return name, text


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


class Sweep:
    """A grid of cells: every combination of the values of every knob, for every seed; or named arms, for every seed.

    `Sweep(preset, {"steps": [40, 80], "connector.pool": [1, 2]}, seeds=range(3)).run()` is a tidy table. A seed is that
    of the world, of the connector's birth and of the order of examples, so intervals over seeds hold all three.
    `Sweep(preset, arms={"all layers": {}, "the last": {"taps": (3,)}})` names its settings, each a few fields.

    Args:
        grid: field → its values.
        arms: name → field → value, instead of a grid; the table then has one column `arm`.
        root: where corpora, runs and cells are kept; `data/` by default.
        measure: what runs a cell; `train_and_score` by default.
        measured: the name of what another `measure` measures; cells of another name are other cells.
        progress: as for Lab; also told the cost, before anything runs.

    Raises:
        ValueError: a knob or a value is none; the message lists those there are.
    """

    def __init__(
        self,
        preset: Preset,
        grid: Mapping[str, Any] | None = None,
        *,
        seeds: Iterable[int] = (0,),
        arms: Mapping[str, Mapping[str, Any]] | None = None,
        root: Path | None = None,
        measure: Measure | None = None,
        measured: str = "ladder",
        progress: Progress | None = None,
    ) -> None:
        self.preset, self.root, self.measure = (
            preset,
            root or models_dir().parent,
            measure or train_and_score,
        )
        self.measured, self.progress = measured, progress or progress_reporter()
        self.grid: dict[str, list[Any]] = {}
        for name, values in sorted((grid or {}).items()):
            many = isinstance(values, Iterable) and not isinstance(values, str)
            given = {_checked(preset, name, value) for value in (values if many else [values])}
            self.grid[name] = sorted(given, key=lambda value: (value is None, value or 0))
        self.seeds = sorted({int(seed) for seed in seeds})
        if not self.seeds or not all(self.grid.values()):
            raise ValueError("A sweep needs a seed, and a value for each of its knobs.")
        if arms:
            self.grid = {"arm": list(arms)}
            turned = [
                {name: _checked(preset, name, value) for name, value in arm.items()}
                for arm in arms.values()
            ]
        else:
            turned = [
                dict(zip(self.grid, values, strict=True))
                for values in itertools.product(*self.grid.values())
            ]
        names = [{"arm": arm} for arm in arms] if arms else turned
        self.cells = [self._cell(knobs, seed) for seed in self.seeds for knobs in turned]
        self.about = [
            {**about, "seed": seed} for seed in self.seeds for about in names
        ]  # of each cell
        if any(
            "connector.queries" in knobs and self._cell(knobs, 0).preset.connector.anchored
            for knobs in turned
        ):
            raise ValueError(
                "connector.queries changes nothing while connector.anchored is true: the sentence that the connector "
                "is born saying sets the number of its query tokens; turn connector.anchored to false as well."
            )

    def _cell(self, knobs: dict[str, Any], seed: int) -> Cell:
        preset = self.preset
        for name, value in knobs.items():
            preset = preset if name == "target" else turn(preset, name, value)
        return Cell(preset, knobs.get("target", "self"), seed, self.measured)

    def found(self) -> list[dict[str, Any] | None]:
        """What each cell left, in the order of `cells`; None for those that are missing."""
        return [read(cell.place(self.root)) for cell in self.cells]

    def run(
        self, jobs: int = 1, *, retry: bool = False, slurm: Mapping[str, Any] | None = None
    ) -> pd.DataFrame:
        """Say the cost, run what is missing (with `retry` also what failed) and return `table`.

        One after the other in this process, in `jobs` processes of this machine that share its cores and GPUs, or as
        jobs of a Slurm cluster: `slurm` holds submitit's parameters, such as `{"slurm_partition": "gpu"}`. Killed at
        any moment, the same call goes on.
        """
        for cell, found in zip(self.cells, self.found(), strict=True):
            if retry and "error" in (found or {}):
                cell.place(self.root).unlink()
        tell = self.progress("sweep")
        tell(self.cost(jobs))
        todo = [cell for cell, found in zip(self.cells, self.found(), strict=True) if found is None]
        first = {cell.seed: cell for cell in reversed(todo)}
        todo.sort(
            key=lambda cell: cell is not first[cell.seed]
        )  # seeds are prepared side by side: none waits
        for done, cell in enumerate(self._launch(todo, jobs, slurm), 1):
            if error := (read(cell.place(self.root)) or {}).get("error"):
                tell(f"Cell {cell.key} (seed {cell.seed}) failed. {error}")
            tell(done, len(todo))
        return self.table()

    def cost(self, jobs: int = 1) -> str:
        """What is there, what is to be run, and how long that takes by what was measured, in a few sentences."""
        found = self.found()
        todo = [cell for cell, one in zip(self.cells, found, strict=True) if one is None]
        failed, count = sum("error" in (one or {}) for one in found), len(found) // len(self.seeds)
        words = (
            f"{len(found)} cells (settings: {count}, seeds: {len(self.seeds)}): {len(found) - len(todo) - failed} "
            f"finished, {failed} failed, {len(todo)} to run"
        )
        steps = sum(cell.preset.steps for cell in todo)
        if not todo:
            return f"{words}."
        return f"{words}, {steps} training steps in all. {self._time(todo, steps, jobs)}{self._disk(len(todo))}"

    def _disk(self, runs: int) -> str:
        """What so many runs take, by those that are there; nothing where there is none."""
        some = sorted((self.root / "runs").glob(f"{self.preset.name}-*/checkpoints"))[:8]
        if not some:
            return ""
        sizes = [
            sum(file.stat().st_size for file in path.parent.rglob("*") if file.is_file())
            for path in some
        ]
        return f" On disk they take about {runs * statistics.median(sizes) / 1e9:.2g} GB."

    def _time(self, todo: list[Cell], steps: int, jobs: int) -> str:
        ears, minds = ({cell.settings[part] for cell in todo} for part in ("encoder", "backbone"))
        kept = [read(path) or {} for path in sorted((self.root / "sweeps").glob("*.json"))]
        past = [one for one in kept if "trained" in one]
        past = [
            one
            for one in past
            if one["settings"]["encoder"] in ears and one["settings"]["backbone"] in minds
        ]
        side = max(1, min(jobs, len(todo)))
        if not past:
            logs = map(_steps, (self.root / "runs").glob(f"{self.preset.name}-*/records.jsonl"))
            if not (rates := [second for log in logs for second in log]):
                return "How long that takes was not measured yet; the first cells will tell."
            rate = statistics.median(rates)
            return (
                f"Training alone takes about {_long(steps * rate / side)}, by the {rate:.2g} s a step of earlier runs "
                f"of preset {self.preset.name}; scoring was not measured yet."
            )
        rate = statistics.median(one["trained"] / one["settings"]["steps"] for one in past)
        score = statistics.median(one["scored"] for one in past)
        known = {one["seed"] for one in past}
        ready = statistics.median(
            max(one["prepared"] for one in past if one["seed"] == seed) for seed in known
        )
        total = steps * rate + len(todo) * score + len({cell.seed for cell in todo} - known) * ready
        return (
            f"That takes about {_long(total / side)}{f', if {side} at a time do not slow each other' * (side > 1)}: "
            f"{rate:.2g} s a step, {score:.2g} s to score a cell, {ready:.2g} s to prepare a new seed (finished cells: "
            f"{len(past)}, on {', '.join(sorted({one['device'] for one in past}))})."
        )

    def _launch(
        self, todo: list[Cell], jobs: int, slurm: Mapping[str, Any] | None
    ) -> Iterator[Cell]:
        """Each cell when it is done; one whose process died without leaving its file gets one that says so."""
        if slurm is None and jobs == 1:
            for cell in todo:
                work(cell, self.root, self.measure)
                yield cell
            return
        tasks = [(cell, self.root.resolve(), self.measure) for cell in todo]
        if slurm is None:
            ended = processes.run_workers(_work_in_another_process, tasks, jobs)
        else:
            folder = self.root / "sweeps" / "jobs"
            ended = processes.run_on_slurm(_work_in_another_process, tasks, folder, **slurm)
        for i, how in ended:
            if how and read(todo[i].place(self.root)) is None:
                keep(todo[i], self.root, {"error": how})
            yield todo[i]

    # ---- the result ----

    def table(self) -> pd.DataFrame:
        """One row per cell × rung, or attribute of rung 3, × condition: the `score`, above chance and calibrated; beside it
        its `mean` over seeds with a 95 % t-interval, NaN where there is one seed. A failed cell is one row."""
        rows: list[dict[str, Any]] = []
        for cell, named, found in zip(self.cells, self.about, self.found(), strict=True):
            if found is not None:
                about = {name: "none" if value is None else value for name, value in named.items()}
                about |= {"cell": cell.key, "run": found.get("run"), "error": found.get("error")}
                rows += [{**about, **row} for row in found.get("rows") or [{}]]
        table = pd.DataFrame(rows, columns=[*self.grid, *COLUMNS]).astype(KINDS)
        table = table.fillna({"share": 1.0})
        return add_mean_interval(table, [*self.grid, "rung", "attribute", "condition", "share"])

    def knobs(self, rung: int = 3) -> pd.DataFrame:
        """Mean score of a rung at every value of every knob, with its 95 % interval over the cells that have it; the
        knob that moves the audio condition most comes first, the seed (what chance alone moves) last."""
        table = self.table()
        some = table[
            (table["rung"] == rung) & (table["attribute"] == "all") & (table["share"] == 1)
        ]
        if some.empty:
            raise ValueError(
                f"No cell of this sweep has a score on rung {rung}; run it, or read the errors in its table."
            )
        every = [name for name in (*self.grid, "seed") if some[name].nunique() > 1] or ["seed"]
        parts = []
        for knob in every:
            means = add_mean_interval(some, [knob, "condition"], count="cells").drop_duplicates(
                [knob, "condition"]
            )
            parts.append(means.assign(knob=knob, name=means[knob].astype(str), score=means["mean"]))
        heard = [means.loc[means["condition"] == "audio", "score"] for means in parts]
        order = sorted(
            range(len(parts)), key=lambda i: (every[i] == "seed", heard[i].min() - heard[i].max())
        )
        return pd.concat([parts[i] for i in order])[
            ["knob", "name", "condition", "score", "low", "high", "cells"]
        ].reset_index(drop=True)

    def picture(self, rung: int = 3) -> saving.Picture:
        """Which knobs matter: `knobs`, drawn. The headline's difference is that of cells that share all else."""
        means, table = self.knobs(rung), self.table()
        knob, heard = means["knob"].iloc[0], means[means["condition"] == "audio"]
        low, high = (heard[heard["knob"] == knob].sort_values("score").iloc[end] for end in (0, -1))
        if low["name"] == high["name"]:
            return claim_figures.plot_knobs(
                means, f"Rung {rung}: {low['score']:.2f} at {knob} {low['name']}", rung
            )
        some = table[
            (table["rung"] == rung)
            & (table["attribute"] == "all")
            & (table["condition"] == "audio")
        ]
        some = some[some["share"] == 1]
        wide = some.assign(at=some[knob].astype(str)).pivot_table(
            index=[name for name in (*self.grid, "seed") if name != knob] or ["condition"],
            columns="at",
            values="score",
        )
        gaps = (wide[high["name"]] - wide[low["name"]]).dropna()
        mean, lower, upper = mean_interval(gaps)
        sure = f"[{lower:+.2f}, {upper:+.2f}]" if len(gaps) > 1 else "in one pair of cells"
        words = f"{low['score']:.2f} at {low['name']}, {high['score']:.2f} at {high['name']}"
        words = f"{knob} moves rung {rung} most: {words}; all else equal {mean:+.2f} {sure}"
        return claim_figures.plot_knobs(means, words, rung)


def read(path: Path) -> dict[str, Any] | None:
    """What a cell left; None where there is nothing, or nothing whole."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and ("rows" in found or "error" in found) else None


def keep(cell: Cell, root: Path, found: Mapping[str, Any]) -> None:
    """Write a cell's file, whole."""
    device = (
        torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()}-core CPU"
    )
    about = {"settings": cell.settings, "seed": cell.seed, "device": device}
    cell.place(root).parent.mkdir(parents=True, exist_ok=True)
    cache.write_whole(cell.place(root), cache.to_json({**about, **found}))


def work(cell: Cell, root: Path, measure: Measure) -> None:
    """Measure one cell and keep its rows, or the error it failed with; a cell that is there is left alone."""
    with _alone(root, cell.key):
        if read(cell.place(root)) is None:
            try:
                found = measure(cell, root)
            except Exception as error:
                found = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
            keep(cell, root, found)


def _work_in_another_process(task: tuple[Cell, Path, Measure]) -> None:
    """`work`, in a worker process."""
    work(*task)
    gc.collect()  # models hold themselves by cycles


def train_and_score(cell: Cell, root: Path) -> dict[str, Any]:
    """Train a cell, or find its run, and score rungs 0, 2 and 3 at the last step beside every control, calibrated."""
    lab, folder, trained, prepared = _train(cell, root)
    begin = time.perf_counter()
    rows = above_chance(_score(lab, folder)).to_dict("records")
    scored = lab.seconds["models"] + time.perf_counter() - begin
    return {
        "run": folder.name,
        "rows": rows,
        "trained": trained,
        "scored": scored,
        "prepared": prepared,
    }


def train_and_forget(cell: Cell, root: Path) -> dict[str, Any]:
    """`train_and_score`, and what the backbone has forgotten: the share of instructions obeyed and its perplexity, in
    text, beside the untouched backbone's, and obeyed by ear. Adapters are measured at every share of `SHARES`, too.

    Rows without a rung: `following` (or one constraint's id) as the backbone obeys it now (`text`), `untouched`,
    with no constraint stated (`unasked`), by ear (`audio`), and as the bare label would, whatever is asked (`label`);
    `perplexity` is that of the untouched backbone's own answers.
    """
    lab, folder, trained, prepared = _train(cell, root)
    begin = time.perf_counter()
    table, llm = _score(lab, folder), lab.llm
    heard = conditions.embed_clips(llm, lab.features[[clip.id for clip in lab.clips("test")]])
    controlled = table[table["condition"] != "audio"]
    at = {clip.id: i for i, clip in enumerate(lab.clips("test"))}
    questions = [task.question for task in lab.tasks if task.rung == 3]
    items = forgetting.instructions(lab.clips("test"), questions)
    known = forgetting.counted(llm, items)
    items = [
        item for item in items if item.constraint in set(known.loc[known["counted"], "constraint"])
    ]
    written = _own_answers(lab)
    rows = [
        {"attribute": one.constraint, "condition": condition, "score": getattr(one, condition)}
        for one in known.itertuples()
        for condition in ("untouched", "unasked")
    ]
    for condition in ("untouched", "unasked"):
        rows.append(
            {
                "attribute": "following",
                "condition": condition,
                "score": known.loc[known["counted"], condition].mean(),
            }
        )
    bare = float(np.mean([item.obeyed(item.clip.attributes[cell.preset.label]) for item in items]))
    rows.append({"attribute": "following", "condition": "label", "score": bare})
    with llm.backbone.untuned():
        before = targets.target_perplexity(llm.backbone, written)
    rows.append({"attribute": "perplexity", "condition": "untouched", "score": before})
    rows = above_chance(table).to_dict("records") + rows
    for share in SHARES if cell.preset.tuning.startswith("lora") else (1.0,):
        llm.backbone.scale_adapters(share)
        now = [
            {
                "attribute": "perplexity",
                "condition": "text",
                "score": targets.target_perplexity(llm.backbone, written),
            }
        ]
        for condition, said in (
            ("text", None),
            ("audio", heard[[at[item.clip.id] for item in items]]),
        ):
            obeyed = forgetting.followed(llm, items, said).groupby("constraint")["obeyed"].mean()
            now += [
                {"attribute": name, "condition": condition, "score": score}
                for name, score in obeyed.items()
            ]
            now.append({"attribute": "following", "condition": condition, "score": obeyed.mean()})
        if share != 1:
            scores = above_chance(pd.concat([_scored(lab), controlled]))
            now += scores[scores["condition"] == "audio"].to_dict("records")
        rows += [{**row, "share": share} for row in now]
    scored = lab.seconds["models"] + time.perf_counter() - begin
    return {
        "run": folder.name,
        "rows": rows,
        "trained": trained,
        "scored": scored,
        "prepared": prepared,
    }


def _train(cell: Cell, root: Path) -> tuple[Experiment, Path, float, float]:
    """The cell's lab and run, with the seconds that training and what went before it took."""
    lab = Experiment(cell.preset, seed=cell.seed, root=root)
    with _alone(
        root, f"prepare-{cell.seed}"
    ):  # cells share corpus, targets and oracle: one makes them, all find them
        _, folder = lab.oracle(), lab.run_folder(cell.target)
    with _alone(root, f"hear-{cell.seed}-{Path(cell.preset.encoder).name}"):
        _ = lab.features
    prepared = sum(lab.seconds.values()) - lab.seconds["models"]
    with _alone(root, folder.name):
        lab.train(cell.target)
    return lab, folder, sum(_steps(folder / "records.jsonl")), prepared


def _score(lab: Experiment, folder: Path) -> pd.DataFrame:
    """The last step under every control; the model stays there."""
    first, last = (checkpoints.list_checkpoints(folder)[i] for i in (0, -1))

    def newborn() -> pd.DataFrame:
        checkpoints.load_checkpoint(folder, lab.llm, first["step"])
        table = _scored(lab)
        return table[table["condition"] == "audio"].assign(condition="untrained")

    # many cells are born alike
    key = lab.key(v=VERSION, checkpoint=first["sha256"], transcript=lab.preset.transcript)
    untrained = cache.cached_table(lab.root / "oracles" / f"untrained-{key}.csv", newborn)
    checkpoints.load_checkpoint(folder, lab.llm, last["step"])
    oracle = lab.oracle()
    return pd.concat([_scored(lab), untrained, oracle[oracle["rung"].isin(RUNGS)]])


def _scored(lab: Experiment) -> pd.DataFrame:
    """The scored rungs of the ladder by ear, with the model as it is now."""
    tasks = [task for task in lab.tasks if task.rung in RUNGS]
    test, held_out = lab.clips("test"), lab.clips("validation")
    return evaluate(lab.llm, tasks, test, held_out, lab.features, transcripts=lab.preset.transcript)


def _own_answers(lab: Experiment, descriptions: int = 4) -> list[targets.Target]:
    """What the untouched backbone says to the ladder's questions about some held-out descriptions."""
    questions = dict.fromkeys(task.question for task in lab.tasks if task.attribute != "topic")
    some = list(dict.fromkeys(describe(clip.attributes) for clip in lab.clips("test")))[
        :descriptions
    ]
    pairs = itertools.product(some, questions)
    return list(targets.generate_targets(lab.llm.backbone, lab.preset.backbone, "", pairs).values())


def above_chance(table: pd.DataFrame) -> pd.DataFrame:
    """Calibrated accuracy above chance of the tasks that the text oracle can do, per condition, rung and, on rung 3,
    attribute: 0 is chance, 1 is perfect."""
    some = table[table["task"].isin(verdict.able_tasks(table))]
    tasks = (
        some.groupby(["condition", "rung", "attribute", "task"])[["calibrated", "chance"]]
        .mean()
        .reset_index()
    )
    tasks["score"] = (tasks["calibrated"] - tasks["chance"]) / (1 - tasks["chance"])
    whole = (
        tasks.groupby(["condition", "rung"])["score"].mean().reset_index().assign(attribute="all")
    )
    single = (
        tasks[tasks["rung"] == 3]
        .groupby(["condition", "rung", "attribute"])["score"]
        .mean()
        .reset_index()
    )
    return pd.concat([whole, single], ignore_index=True)


def _alone(root: Path, name: str) -> FileLock:
    """A lock that ends with the process that holds it, however that ends."""
    folder = root / "sweeps" / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"{name}.lock")


def _steps(records: Path) -> list[float]:
    lines = records.read_text().splitlines()  # the last one may be half a line while a run goes on
    return [json.loads(line)["seconds"] for line in lines if line.endswith("}")]


def _long(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"
