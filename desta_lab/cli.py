"""The command line: one function for every command; each imports what it needs, so that `--help` is
quick.
"""

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from desta_lab import processes
from desta_lab.views.progress import progress_reporter

Argument = tuple[tuple[str, ...], dict[str, Any]]  # what argparse's add_argument takes


@dataclass(frozen=True)
class Command:
    """One command: what it does in a line, its arguments, and the function that runs it."""

    help: str
    arguments: tuple[Argument, ...]
    run: Callable[[argparse.Namespace], int]


COMMANDS: dict[str, Command] = {}


def command(name: str, help: str, *arguments: Argument) -> Callable[..., Any]:
    """Register the function below as a command; `docs/commands.md` shows the same words."""

    def register(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
        COMMANDS[name] = Command(help, arguments, run)
        return run

    return register


def argument(*names: str, **how: Any) -> Argument:
    """Describe one argument in argparse's words."""
    return names, how


PRESET = argument(
    "--preset",
    help="nano, cpu, t4, workstation, desta25 or desta2; by default the one that suits the machine",
)
SEED = argument(
    "--seed",
    type=int,
    default=0,
    help="of the world, of the connector at step 0, and of the order of examples",
)
OUT = argument("--out", type=Path, help="folder for figures and tables")
RUN = argument(
    "--run", type=Path, help="a folder under data/runs; by default the newest self-generated one"
)
TEST_SET = argument(
    "--benchmark",
    help="which test set (speech-ifeval, sakura, mmau, dynamic-superb); by default told by "
    "the files",
)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands from their descriptions."""
    parser = argparse.ArgumentParser(
        prog="python -m desta_lab", description="The laboratory for the DeSTA claim."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, one in COMMANDS.items():
        sub = commands.add_parser(name, help=one.help, description=one.run.__doc__)
        for names, how in one.arguments:
            sub.add_argument(*names, **how)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; an error that the package foresees is one sentence and exit status 1."""
    args = build_parser().parse_args(argv)
    several = processes.world_size() > 1
    who = f"Rank {processes.rank()} of {processes.world_size()}: " if several else ""
    if several and args.command != "quickstart":
        print(
            f"{who}several processes share quickstart alone; start {args.command} as one.",
            file=sys.stderr,
        )
        return 1
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return COMMANDS[args.command].run(args)
    except KeyboardInterrupt:
        print(
            f"{who}Stopped; run the same command again and it goes on where it was.",
            file=sys.stderr,
        )
        return 130
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        print(f"{who}{type(error).__name__}: {error}", file=sys.stderr)
        return 1


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    """Print a warning; one of this package's own is a plain sentence."""
    own = category.__module__.startswith("desta_lab")
    where = "Note" if own else f"{filename}:{lineno}: {category.__name__}"
    print(f"{where}: {message}", file=sys.stderr)


def _preset(args: argparse.Namespace) -> Any:
    from desta_lab.model import presets

    return presets.get_preset(args.preset) if args.preset else presets.pick_preset()


@command(
    "quickstart",
    "train on one task, measure the others, draw the card",
    PRESET,
    SEED,
    argument("--steps", type=int, help="training steps instead of the preset's"),
    argument(
        "--corpus", type=Path, help="train on this folder, with its clips.csv or manifest, instead"
    ),
    argument("--label", help="attribute of the rival run, instead of the preset's"),
    OUT,
    argument("--accumulate", type=int, help="compute each batch in so many parts, to save memory"),
    argument(
        "--checkpointing",
        action="store_true",
        help="compute the LLM's layers twice, to save memory",
    ),
)
def quickstart(args: argparse.Namespace) -> int:
    """The main job."""
    from desta_lab.doctor import describe_cost
    from desta_lab.experiments.experiment import Experiment
    from desta_lab.experiments.quickstart import default_folder, run_quickstart
    from desta_lab.views import card

    processes.join_ranks()
    changes = {
        "steps": args.steps,
        "accumulate": args.accumulate,
        "gradient_checkpointing": args.checkpointing,
    }
    preset = replace(_preset(args), **{name: value for name, value in changes.items() if value})
    say = print if processes.is_main_rank() else _silence
    say(describe_cost(preset), flush=True)
    if args.corpus:
        say(
            "That was measured on the preset's own corpus; with yours, features and targets "
            "go by its clips."
        )
    experiment = Experiment(
        preset, seed=args.seed, corpus=args.corpus, label=args.label, progress=progress_reporter()
    )
    out = args.out or default_folder(experiment)
    result = run_quickstart(experiment, out)
    say(card.format_card(result))
    say(f"Figures and card: {out / 'card.html'} ({result['seconds_now']:.0f} s this time)")
    processes.leave_ranks()
    return 0


def _silence(*words: Any, **how: Any) -> None:
    """What ranks other than 0 print."""


@command(
    "inside",
    "probe, map, explain and patch a run of the quickstart",
    PRESET,
    SEED,
    argument("--run", choices=("self", "label"), default="self", help="which of the two runs"),
    OUT,
)
def inside(args: argparse.Namespace) -> int:
    """The analysis of a quickstart's run: tables beside it, figures, and what is present, readable
    and spoken.
    """
    from desta_lab.experiments.experiment import Experiment
    from desta_lab.experiments.inside import Inside, summarise_tables

    preset = _preset(args)
    job = Experiment(preset, seed=args.seed, progress=progress_reporter())
    look = Inside(job, args.run, out=args.out, progress=progress_reporter())
    tables = look.run()
    print(
        "What can be read off each site by a linear probe on unseen speakers, and what is "
        "said, at the last step:"
    )
    print(summarise_tables(tables).to_string(index=False))
    print(
        "Attribution under other weights (0: it depends on them), and what its parts miss of "
        "the whole:"
    )
    print(tables["randomisation"].round(2).to_string(index=False))
    print(f"Figures, each with its table: {look.out}")
    return 0


@command(
    "ask",
    "ask a finished run about a clip",
    argument("clip", type=Path, help="an audio file"),
    argument("question", help="in quotes"),
    RUN,
    argument(
        "--published", type=Path, help="the adapter that DeSTA2 or DeSTA2.5-Audio released, instead"
    ),
    argument(
        "--preset", choices=("desta25", "desta2"), default="desta25", help="whose adapter that is"
    ),
    argument(
        "--transcript", action="store_true", help="let Whisper write the words after the clip"
    ),
)
def ask(args: argparse.Namespace) -> int:
    """A finished run's answer about a clip, or a published system's, with the untouched LLM's text
    beside it.
    """
    from desta_lab import audio
    from desta_lab.experiments.experiment import newest_run
    from desta_lab.model import presets
    from desta_lab.model.audio_llm import AudioLLM
    from desta_lab.model.chat import AUDIO, SYSTEM
    from desta_lab.published.desta2 import answer_desta2
    from desta_lab.published.systems import describe_memory, open_system

    warnings.filterwarnings("ignore", "Of clips longer", audio.DataWarning)  # a line below says it
    length = audio.measure_seconds(args.clip, at_most=audio.WHISPER_SECONDS)
    message = {
        "role": "user",
        "content": f"{AUDIO}\n{args.question}",
        "audios": [{"audio": args.clip, "text": None}],
    }
    system = {"role": "system", "content": SYSTEM}
    transcript = args.transcript or bool(args.published)  # the published systems always write one
    if args.published:
        preset, folder = presets.get_preset(args.preset), args.published
        print(describe_memory(preset), flush=True)
        llm = open_system(args.published, preset)
    else:
        folder = args.run or newest_run()
        llm = AudioLLM.from_run(folder)
    if args.published and args.preset == "desta2":
        turns = [
            system,
            {"role": "audio", "content": str(args.clip)},
            {"role": "user", "content": args.question},
        ]
        answer = answer_desta2(llm, turns, max_new_tokens=48)
    else:
        answer = llm.generate([system, message], with_transcript=transcript, max_new_tokens=48)
    deaf = llm.generate([system, {"role": "user", "content": args.question}], max_new_tokens=48)
    print(f"run             {folder.name}")
    if length > llm.encoder.seconds:
        whole = f"{length:.1f} s" if length <= audio.WHISPER_SECONDS else "more than 30 s"
        print(f"heard           the first {llm.encoder.seconds:g} s of {whole}, as in training")
    if transcript:
        print(f"transcript      {answer.audios[0][0][1]}")
    print(f"with the clip   {answer.text[0]}")
    print(f"without it      {deaf.text[0]}   (the untouched LLM, text only)")
    return 0


@command("doctor", "is this machine ready, and what will the quickstart cost")
def doctor(args: argparse.Namespace) -> int:
    """A table of OK and FAIL: Python, torch, device, versions, weights, disk, preset and its
    cost.
    """
    from desta_lab import doctor as physician

    checks = physician.check_machine()
    print(physician.format_checks(checks))
    return 0 if all(check.ok for check in checks) else 1


@command(
    "bench",
    "speed as ratios against named baselines, in one run",
    argument("--json", action="store_true", help="print the rows as JSON"),
)
def benchmark(args: argparse.Namespace) -> int:
    """Ratios against named baselines, measured in one run on the cpu preset."""
    from desta_lab import bench

    rows = bench.run(progress_reporter())
    if args.json:
        print(json.dumps(rows, indent=1))
        return 0
    wide = max(len(row["name"]) for row in rows)
    for row in rows:
        aim = f"aim {row['aim']}" if row["aim"] else ""
        print(
            f"{row['name']:<{wide}}  {row['value']:8.2f} {row['unit']:<3} {aim:<10} {row['detail']}"
        )
    return 0


@command(
    "parity",
    "compare our numbers with those of the published code",
    argument("folder", type=Path, help="weights, inputs and results under the published names"),
)
def parity(args: argparse.Namespace) -> int:
    """Largest differences to a published model and its run; exit status 1 where one is beyond its
    limit.
    """
    from desta_lab.published.parity import compare

    table = compare(args.folder)
    print(table.to_string(index=False))
    apart = table[~(table["difference"] <= table["limit"])]  # nan, too
    if len(apart):
        worst = apart.sort_values("difference").iloc[-1]  # nan comes last
        print(
            f"NOT THE SAME: {worst['quantity']} differs by {worst['difference']:.2e} "
            f"({worst['precision']})."
        )
    return int(len(apart) > 0)


@command(
    "answer",
    "let a finished run answer a public test set",
    argument(
        "path",
        type=Path,
        help="the questions: a folder or file as the test set's repository has it",
    ),
    argument(
        "--out",
        type=Path,
        required=True,
        help="folder for the answers, in the test set's own format",
    ),
    TEST_SET,
    RUN,
    argument(
        "--audio", type=Path, help="the folder of the clips, where it is not beside the questions"
    ),
    argument("--tokens", type=int, default=48, help="the longest answer"),
)
def answer(args: argparse.Namespace) -> int:
    """A finished run's answers to a test set, in its own format; stopped, it goes on where it
    was.
    """
    from desta_lab.benchmarks.answers import answer_items
    from desta_lab.benchmarks.benchmark import get_benchmark
    from desta_lab.experiments.experiment import newest_run
    from desta_lab.model.audio_llm import AudioLLM
    from desta_lab.training import checkpoints

    benchmark = get_benchmark(args.benchmark, args.path)
    items = benchmark.read(args.path)
    folder = args.run or newest_run()
    llm = AudioLLM.from_run(folder)
    run = {
        "name": folder.name,
        "connector_sha256": checkpoints.list_checkpoints(folder)[-1]["sha256"],
    }
    print(
        f"{len(items)} questions of {benchmark.name}, answered by {folder.name}, which hears the "
        f"first {llm.encoder.seconds:g} s of a clip.",
        flush=True,
    )
    items = answer_items(
        llm,
        items,
        args.out,
        run,
        root=args.audio,
        max_new_tokens=args.tokens,
        progress=progress_reporter()("answer"),
    )
    for path in benchmark.write(items, args.out):
        print(f"Answers: {path}")
    print(f"Score them with `python -m desta_lab score {args.out}`.")
    return 0


@command(
    "score",
    "score answers to a public test set beside published systems",
    argument("path", type=Path, help="the answers: a folder or file in the test set's own format"),
    TEST_SET,
    argument(
        "--text",
        type=Path,
        help="Speech-IFEval: answers of the model's own text LLM, for forgetting",
    ),
    OUT,
)
def score(args: argparse.Namespace) -> int:
    """A test set's numbers by every protocol, with intervals and controls; a figure has them beside
    the published.
    """
    from desta_lab.benchmarks import comparison
    from desta_lab.benchmarks.benchmark import get_benchmark
    from desta_lab.model.weights import models_dir
    from desta_lab.views import saving, study_figures

    benchmark = get_benchmark(args.benchmark, args.path)
    text = benchmark.read(args.text) if args.text else None
    measured = benchmark.score(benchmark.read(args.path), text)
    print(comparison.pivot_protocols(measured).to_string())
    name = args.path.resolve().stem
    table, note = comparison.compare_with_published(measured, benchmark, name)
    others = table[table["kind"] == "published"]
    if len(others):
        print("Published:")
        wide = others.pivot(index="system", columns="metric", values="value")
        print(wide.reindex(others["system"].unique()).round(2).to_string())
    print(note)
    out = args.out or models_dir().parent.parent / "figures" / "score"
    headline = comparison.write_headline(table, benchmark, name)
    figure = study_figures.plot_benchmark(table, headline, note)
    sources = {"benchmark": benchmark.name, "scored": name, "published": comparison.PUBLISHED.name}
    print(f"Figure: {saving.save_figure(figure, out, benchmark.name, provenance=sources)}")
    return 0


@command(
    "sweep",
    "measure a grid of settings and seeds; only what is missing is run",
    PRESET,
    argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=A,B",
        help="values of a field of the config",
    ),
    argument("--seeds", default="0", help="such as 0,1,2"),
    argument("--jobs", type=int, default=1, help="so many processes on this machine"),
    argument(
        "--slurm",
        action="append",
        metavar="NAME=VALUE",
        help="run on Slurm, with submitit's parameters",
    ),
    argument("--retry", action="store_true", help="run what failed again"),
    OUT,
)
def sweep(args: argparse.Namespace) -> int:
    """A grid over settings and seeds: its forecast, one tidy table, and which settings matter."""
    from desta_lab.experiments.cells import parse_grid, parse_slurm
    from desta_lab.experiments.sweep import Sweep
    from desta_lab.views import saving

    preset = _preset(args)
    grid = Sweep(
        preset,
        parse_grid(args.set),
        seeds=[int(seed) for seed in args.seeds.split(",")],
        progress=progress_reporter(),
    )
    slurm = None if args.slurm is None else parse_slurm(args.slurm)
    table = grid.run(args.jobs, retry=args.retry, slurm=slurm)
    out = args.out or grid.root.parent / "figures" / f"sweep-{preset.name}"
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / "table.csv", index=False)
    if table["score"].notna().any():
        print(grid.factor_means().round(2).to_string(index=False))
        saving.save_figure(
            grid.figure(),
            out,
            "knobs",
            provenance={"cells": sorted(set(table["cell"])), "seeds": grid.seeds},
        )
    for cell, error in table.dropna(subset="error")[["cell", "error"]].itertuples(index=False):
        print(f"Cell {cell} failed: {error}")
    print(f"Table and figure: {out}")
    return 0


@command(
    "ablate",
    "the papers' ablations: run what is missing, tables, figures, the page",
    argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="such as targets; by default all that the preset has",
    ),
    argument("--preset", default="nano", help="nano, or cpu for those that carry the claim"),
    argument("--seeds", help="such as 0,1,2; by default five of nano, three of others"),
    argument("--jobs", type=int, default=2, help="so many processes; 0 draws what is finished"),
    argument("--out", type=Path, help="folder for tables and figures; the page goes beside it"),
)
def ablate(args: argparse.Namespace) -> int:
    """Named ablations: what each shows over seeds, its table and figure, and the page of all that
    were run.
    """
    from desta_lab.experiments import ablation
    from desta_lab.experiments.ablation_page import write_page
    from desta_lab.experiments.studies import STUDIES

    names = args.names or [study.name for study in STUDIES.values() if args.preset in study.presets]
    seeds = None if args.seeds is None else [int(seed) for seed in args.seeds.split(",")]
    out = args.out or ablation.SHIPPED / args.preset
    studies = ablation.run_studies(names, args.preset, seeds, args.jobs, out, progress_reporter())
    for study, sentences in studies:
        print("\n  ".join([f"{study.title}:", *sentences]))
    print(f"Page: {write_page(out.parent)}")
    return 0


@command(
    "emerge",
    "measure every checkpoint of several runs and write the emergence report",
    argument("--preset", default="nano", help="as for quickstart"),
    argument("--seeds", default="0,1,2,3,4", help="such as 0,1,2"),
    argument("--checkpoint-every", type=int, default=16, help="steps between two checkpoints"),
    OUT,
)
def emerge(args: argparse.Namespace) -> int:
    """The emergence report: what jumps, what rises together, what comes first, over seeds and
    amounts of data.
    """
    from desta_lab.experiments import emergence

    preset = replace(_preset(args), checkpoint_every=args.checkpoint_every)
    out = args.out or emergence.report_folder(preset)
    emergence.measure_runs(
        preset, [int(seed) for seed in args.seeds.split(",")], out, progress=progress_reporter()
    )
    print(f"Report: {emergence.write_report(out)}")
    return 0


@command(
    "write",
    "write self-generated targets by the million, in files that resume",
    argument("manifest", type=Path, help="JSONL whose rows have id, seed_description and prompt"),
    argument("folder", type=Path, help="where targets-00000.jsonl and so on go"),
    argument("--backbone", required=True, help="name or folder of the LLM that writes"),
    argument(
        "--server",
        metavar="ADDRESS",
        help="ask an OpenAI-compatible server of it: http://host:8000",
    ),
    argument("--vllm", action="store_true", help="run it with vLLM; by default with transformers"),
    argument("--tokens", type=int, default=40, help="the longest answer"),
    argument("--shard", type=int, default=1000, help="rows in a file"),
)
def write(args: argparse.Namespace) -> int:
    """A backbone's own answers to the rows of a manifest; the cost is said once the first file
    tells the speed.
    """
    import time

    from desta_lab.model import weights
    from desta_lab.model.backbone import Backbone
    from desta_lab.model.build import pick_device, pick_dtype
    from desta_lab.training import writers

    if args.server and args.vllm:
        raise ValueError("--server and --vllm name two writers; give one.")
    with args.manifest.open("rb") as lines:
        total = sum(1 for line in lines if line.strip())
    files = -(-total // args.shard)
    print(
        f"{total} rows in {files} files of at most {args.shard}; their cost is said after "
        f"the first.",
        flush=True,
    )
    tell = progress_reporter()("write")
    folder = weights.find_weights(args.backbone, progress=tell)
    name = folder.name if Path(args.backbone).is_dir() else args.backbone
    if args.server:
        writer = writers.server_writer(args.server, folder, name, max_new_tokens=args.tokens)
    elif args.vllm:
        writer = writers.vllm_writer(folder, name, max_new_tokens=args.tokens)
    else:
        device = pick_device()
        backbone = Backbone.load(folder, dtype=pick_dtype(device)).to(device)
        writer = writers.backbone_writer(
            backbone, name, weights.hash_folder(folder), max_new_tokens=args.tokens
        )
    begin, speed_known = time.perf_counter(), False

    def progress(done: int, new: int) -> None:
        nonlocal begin, speed_known
        if not new:
            begin = time.perf_counter()  # what was there already costs nothing
        elif not speed_known:
            speed_known, speed = True, new / (time.perf_counter() - begin)
            tell(
                f"{speed:.1f} rows a second: {(total - done) / speed / 60:.1f} min for the "
                f"{total - done} rows left."
            )
        tell(done, total)

    writers.write_shards(
        writers.read_rows(args.manifest), writer, args.folder, shard=args.shard, progress=progress
    )
    print(f"Targets: {args.folder}")
    return 0


@command(
    "demo",
    "a local page: record or pick a clip, ask anything",
    PRESET,
    argument("--port", type=int, default=7860, help="of this machine"),
)
def demo(args: argparse.Namespace) -> int:
    """A page on this machine alone (loopback), until it is stopped; trains first what is
    missing.
    """
    from desta_lab.experiments.experiment import Experiment
    from desta_lab.views.demo import Demo, build_page

    job = Experiment(_preset(args), progress=progress_reporter())
    job.train("self")
    print(f"The first {job.preset.seconds:g} s of a clip are heard.")
    print(f"Open http://127.0.0.1:{args.port} in a browser; stop with Ctrl+C.", flush=True)
    build_page(Demo(job)).launch(
        server_name="127.0.0.1", server_port=args.port, share=False, quiet=True
    )
    return 0


@command(
    "course",
    "build the notebooks from their sources, or run them all",
    argument("--run", action="store_true", help="execute them: pages, figures and measured costs"),
    argument("--preset", default="nano", help="which preset to run them with"),
    argument("--only", help="numbers, such as 04,05"),
)
def course(args: argparse.Namespace) -> int:
    """Build the student's and the solved notebooks; with `--run`, execute the solved ones and keep
    what they show.
    """
    from desta_lab.course import notebooks

    only = args.only.split(",") if args.only else ()
    for path in notebooks.write_files(only):
        print(f"built {path.relative_to(notebooks.NOTEBOOKS.parent)}")
    if not args.run:
        return 0
    for source in notebooks.find_sources(only):
        took = notebooks.run_notebook(source, args.preset)
        print(
            f"ran {source.stem} on {args.preset}: {took['seconds']:.0f} s, "
            f"{took['memory_gb']:.1f} GB",
            flush=True,
        )
    notebooks.write_files(only)  # with the costs that were measured
    return 0


@command(
    "class",
    "merge a folder of students' cards into one table and one plot",
    argument("folder", type=Path, help="with a card of each student and notebook"),
)
def cohort(args: argparse.Namespace) -> int:
    """One table and one plot of a class's cards."""
    from desta_lab.course import cohort as students

    table = students.read_cards(args.folder)
    print(students.summarise_class(table).to_string(index=False))
    print(f"Table and plot: {students.write_report(table, args.folder)}")
    return 0


@command(
    "nano", "train the nano LLM on text again", argument("folder", type=Path, help="where it goes")
)
def nano(args: argparse.Namespace) -> int:
    """Train the nano LLM on text alone, as the shipped weights were trained, and measure what it
    reads.
    """
    import time

    from desta_lab.evaluation import evaluate, text_world
    from desta_lab.model import nano as glass
    from desta_lab.model.backbone import Backbone

    wall, cpu = time.perf_counter(), time.process_time()
    model, tokenizer = glass.train_nano(
        text_world.nano_training_rows(), progress=progress_reporter()("nano")
    )
    oracle = evaluate.oracle_accuracy(Backbone(model, tokenizer))
    recipe = {
        "made_by": "python -m desta_lab nano",
        "rows": {
            "count": text_world.NANO_ROWS,
            "seed": 0,
            "unseen": sorted(text_world.unseen_descriptions()),
        },
        "parameters": model.num_parameters(),
        "seconds": {
            "wall": round(time.perf_counter() - wall),
            "cpu": round(time.process_time() - cpu),
        },
        "oracle": oracle,
    }
    glass.save_nano(model, tokenizer, args.folder, recipe)
    worst = min(oracle.items(), key=lambda item: item[1])
    print(f"Saved to {args.folder}; text oracle at worst {worst[1][1]:.2f} ({worst[0]})")
    return 0
