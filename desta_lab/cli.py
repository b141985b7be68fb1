"""The command line: a function a command, which imports what it needs, so that help is quick."""

import argparse
import io
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from desta_lab import processes
from desta_lab.model.bounds import Bound, Count, CountOrZero, find_bounds, whole_number
from desta_lab.views import ALSO_VARIABLE
from desta_lab.views.progress import TRACKERS, open_trackers, progress_reporter

Argument = tuple[tuple[str, ...], dict[str, Any]]  # what argparse's add_argument takes
Run = Callable[[argparse.Namespace], int | None]  # returns an exit status other than 0


@dataclass(frozen=True)
class Command:
    """One command: its arguments, and the function that runs it, whose docstring is its help."""

    arguments: tuple[Argument, ...]
    run: Run

    @property
    def help(self) -> str:
        """What the command does, in one sentence."""
        return self.run.__doc__ or ""


COMMANDS: dict[str, Command] = {}


def command(name: str, *arguments: Argument) -> Callable[..., Any]:
    """Register the function below as a command; `docs/commands.md` shows the same words."""

    def register(run: Run) -> Run:
        COMMANDS[name] = Command(arguments, run)
        return run

    return register


def argument(*names: str, **how: Any) -> Argument:
    """Describe one argument in argparse's words."""
    return names, how


def parse_within(bound: Bound, text: str) -> int:
    """A whole number within a bound. Raises ArgumentTypeError, which argparse prints."""
    with suppress(ValueError):
        if bound.holds(value := int(text)):
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not {bound.words}")


def number(*names: str, of: Any, **how: Any) -> Argument:
    """Describe one argument that takes a number of a type with a bound, such as `Count`."""
    return names, {"type": partial(parse_within, next(find_bounds(of))), **how}


def parse_seeds(text: str) -> list[int]:
    """`0,1,2` as numbers, none twice: a seed counts once in every mean."""
    seeds = [parse_within(next(find_bounds(CountOrZero)), seed) for seed in text.split(",")]
    if len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"{text!r} names a seed twice; name each once")
    return seeds


def parse_path(text: str) -> Path:
    """A file or folder; an empty text, such as of a variable that is not set, is none."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty; name a file or folder")
    return Path(text)


def path(*names: str, **how: Any) -> Argument:
    """Describe one argument that names a file or folder."""
    return names, {"type": parse_path, **how}


PRESET = argument(
    "--preset",
    help="nano, cpu, laptop, t4, workstation, desta25, desta2 or a file such as mine.toml; by "
    "default the one that suits the machine",
)
PARTS = (
    argument("--backbone", metavar="NAME", help="another LLM: a name, hub id or folder"),
    argument("--encoder", metavar="NAME", help="another Whisper: a name, hub id or folder"),
)
CORPUS = path("--corpus", help="a folder with its clips.csv or manifest")
SEEDS = argument(
    "--seeds", type=parse_seeds, default="0", help="of world, connector and order; 0,1,2 are pooled"
)
OUT = path("--out", help="folder for figures and tables")
ALSO = argument("--also", metavar="FORMS", help="forms beside PNG, SVG and CSV: pdf,parquet")
BY_DEFAULT = "by default the newest self-generated one, or else one that ships"
PLACES = "under data/runs, a folder that save_pretrained wrote, or an archive of data/finished"
RUN = path("--run", help=f"{PLACES}; {BY_DEFAULT}")
TEST_SET = argument("--benchmark", help="test set, such as sakura; by default told by the files")
RETRY = argument("--retry", action="store_true", help="run what failed again")
PORTS = Annotated[int, whole_number(1, 65535)]


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands from their descriptions."""
    parser = argparse.ArgumentParser(
        prog="python -m desta_lab", description="The laboratory for the DeSTA claim."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, one in COMMANDS.items():
        sub = commands.add_parser(name, help=one.help, description=one.help)
        for names, how in one.arguments:
            sub.add_argument(*names, **how)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; an error that the package foresees is one sentence and exit status 1."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a sign that a terminal lacks ends no command
        sys.stdout.reconfigure(errors="backslashreplace")
    args = build_parser().parse_args(argv)
    several = processes.world_size() > 1
    who = f"Rank {processes.rank()} of {processes.world_size()}: " if several else ""
    status, words = 1, f"several processes share quickstart alone; start {args.command} as one."
    if not several or args.command == "quickstart":
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                with _saving_also(getattr(args, "also", None)):
                    return COMMANDS[args.command].run(args) or 0
        except KeyboardInterrupt:
            status, words = 130, "Stopped; run the same command again and it goes on where it was."
        except (ValueError, RuntimeError, OSError, ImportError, MemoryError) as error:
            words = f"{type(error).__name__}: {_describe(error, args)}"
    print(f"{who}{words}", file=sys.stderr)
    return status


@contextmanager
def _saving_also(forms: str | None) -> Iterator[None]:
    """Save figures and tables in the forms of `--also`, or of its variable, beside the usual."""
    before = os.environ.get(ALSO_VARIABLE)
    if forms is not None:
        os.environ[ALSO_VARIABLE] = forms
    try:
        if os.environ.get(ALSO_VARIABLE):
            from desta_lab.views import saving

            saving.parse_also()  # before work begins
        yield
    finally:
        os.environ.pop(ALSO_VARIABLE, None)
        os.environ.update({} if before is None else {ALSO_VARIABLE: before})


def _describe(error: Exception, args: argparse.Namespace) -> str:
    """The error's sentence; one of the system opens with the file, not with its number."""
    if processes.is_out_of_memory(error):
        lower = ("preset", "backbone", "encoder", "tokens", "jobs")  # where a command has them
        return processes.explain_memory(error, [f"--{one}" for one in lower if one in args])
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror[0].lower()}{error.strerror[1:]}."
    return str(error)


def _show_warning(
    message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    """Print a warning; one of this package's own is a plain sentence."""
    own = category.__module__.startswith("desta_lab")
    where = "Note" if own else f"{filename}:{lineno}: {category.__name__}"
    print(f"{where}: {message}", file=sys.stderr)


def _make_folder(folder: Path) -> Path:
    """Make and try the folder of a command's results before its work begins."""
    from desta_lab import cache

    return cache.make_folder(folder)


def _preset(args: argparse.Namespace) -> Any:
    """The preset that a command line asks for, with other parts where it names some."""
    from desta_lab.model import build, presets

    named = args.preset is not None
    preset = presets.get_preset(args.preset) if named else build.pick_preset()
    parts = {part: getattr(args, part, None) for part in ("encoder", "backbone")}
    if any(name is not None for name in parts.values()) or preset.name not in presets.PRESETS:
        preset = presets.change_parts(preset, **parts)
        build.check_parts(preset)
    return preset


@command(
    "quickstart",
    PRESET,
    *PARTS,
    SEEDS,
    number("--steps", of=Count, help="training steps instead of the preset's"),
    CORPUS,
    path("--voices", help="a folder of people's recordings to train on, instead"),
    path("--test-voices", help="test the finished run on such a folder, and stop"),
    argument("--together", metavar="COLUMN", help="of their table: each value in one split"),
    argument("--every-checkpoint", action="store_true", help="test voices at every checkpoint"),
    argument("--label", help="attribute of the rival run, instead of the preset's"),
    OUT,
    number("--accumulate", of=Count, help="compute each batch in so many parts, to save memory"),
    argument("--checkpointing", action="store_true", help="compute layers twice, to save memory"),
    argument("--track", choices=tuple(TRACKERS), help="also log steps and scores there"),
    ALSO,
)
def quickstart(args: argparse.Namespace) -> None:
    """Train on one task, measure the others, draw the card."""
    from desta_lab.doctor import describe_cost
    from desta_lab.experiments.experiment import Experiment
    from desta_lab.experiments.quickstart import run_seeds
    from desta_lab.model.weights import models_dir
    from desta_lab.views import card

    _check_voices(args)
    processes.join_ranks()
    changes = {"steps": args.steps, "accumulate": args.accumulate}
    changes["gradient_checkpointing"] = args.checkpointing or None
    given = {name: value for name, value in changes.items() if value is not None}
    preset = replace(_preset(args), **given)
    say: Any = print if processes.is_main_rank() else lambda *words, **how: None
    if not args.test_voices:
        say(describe_cost(preset), flush=True)
    if args.corpus:
        say("That was measured on the preset's own corpus; yours costs by the number of its clips.")
    folder = models_dir().parent / "tracking"

    def make(seed: int) -> Experiment:
        return Experiment(
            preset,
            seed=seed,
            corpus=_voices_corpus(args, preset, seed) if args.voices else args.corpus,
            label=args.label,
            progress=progress_reporter(),
            track=open_trackers(args.track, folder) if args.track else None,
        )

    if args.test_voices:
        _test_voices(args, make(args.seeds[0]))
        return
    result = run_seeds(make, args.seeds, args.out)
    page = Path(result["figures"][0][0]).with_name("card.html")
    say(card.format_card(result, page))
    say(f"It took {result['seconds_now']:.0f} s this time.")
    processes.leave_ranks()


def _check_voices(args: argparse.Namespace) -> None:
    """Raise ValueError for arguments about recorded voices that contradict each other."""
    if args.corpus and args.voices:
        raise ValueError("--corpus and --voices name two corpora to train on; give one.")
    if args.together and not (args.voices or args.test_voices):
        raise ValueError("--together is about recordings; give --voices or --test-voices, too.")
    if args.every_checkpoint and not args.test_voices:
        raise ValueError("--every-checkpoint is about the test on people; give --test-voices, too.")
    if args.test_voices and len(args.seeds) > 1:
        raise ValueError("--test-voices tests the run of one seed; give one with --seeds.")
    if args.test_voices and args.track:
        raise ValueError("--track logs a training, and --test-voices trains nothing; leave it out.")
    if args.test_voices and processes.world_size() > 1:
        raise ValueError("--test-voices is the work of one process; start it as one.")


def _voices_corpus(args: argparse.Namespace, preset: Any, seed: int) -> Any:
    """The corpus of a preset's size that people's recordings make."""
    from desta_lab.model.weights import models_dir
    from desta_lab.world.recorded import build_recorded_corpus, read_voices

    voices = read_voices(args.voices, args.together)
    how = {"seconds": preset.seconds, "seed": seed, "together": args.together}
    report = progress_reporter()("corpus")
    with processes.main_first():
        root = models_dir().parent
        return build_recorded_corpus(root, voices, preset.clips, progress=report, **how)


def _test_voices(args: argparse.Namespace, experiment: Any) -> None:
    """Test a finished run, be it the one that ships, on recordings of people."""
    from desta_lab.course import finished
    from desta_lab.experiments import people
    from desta_lab.world.recorded import read_voices

    voices = read_voices(args.test_voices, args.together)  # before a run is unpacked for them
    finished.restore(experiment)
    result = people.test_voices(
        experiment,
        voices,
        together=args.together,
        every_checkpoint=args.every_checkpoint,
        out=args.out,
    )
    print(people.format_people(result))
    print(f"Figures and card: {Path(result['figures'][0][0]).with_name('card.html')}")


@command(
    "inside",
    PRESET,
    *PARTS,
    SEEDS,
    CORPUS,
    argument("--label", help="attribute of the rival run, where it is not the preset's"),
    argument("--run", choices=("self", "label"), default="self", help="which of the two runs"),
    OUT,
    ALSO,
)
def inside(args: argparse.Namespace) -> None:
    """Probe, map, explain and patch a run of the quickstart, or of several seeds."""
    from desta_lab.experiments import inside_figures
    from desta_lab.experiments.experiment import Experiment
    from desta_lab.experiments.inside import Inside
    from desta_lab.experiments.inside_seeds import look_over_seeds
    from desta_lab.experiments.inside_tables import summarise_tables

    preset = _preset(args)
    given: dict[str, Any] = {"corpus": args.corpus, "label": args.label}
    jobs = (
        Experiment(preset, seed=seed, **given, progress=progress_reporter()) for seed in args.seeds
    )
    if len(args.seeds) > 1:
        look, tables = look_over_seeds(jobs, args.run, out=args.out)
    else:
        look = Inside.from_experiment(next(jobs), args.run, out=args.out)
        tables = look.run()
    for sentence in look.refused.values():
        print(sentence)
    print("What a linear probe reads at each site on unseen speakers, and what is answered:")
    print(summarise_tables(tables).to_string(index=False))
    print("Attribution under other weights (0: it depends on them), and what its parts miss:")
    print(tables["randomisation"].round(2).to_string(index=False))
    if "sparse_features" in tables:
        print(f"{inside_figures.state_features(tables['sparse_features'], len(args.seeds))}.")
    if {"listening_heads", "audio_direction"} <= set(tables):
        both = tables["listening_heads"], tables["audio_direction"]
        print(f"{inside_figures.state_listening(*both, len(args.seeds))}.")
    print(f"Figures, each with its table: {look.out}")


@command(
    "ask",
    path("clip", help="an audio file"),
    argument("question", help="in quotes"),
    RUN,
    path("--published", help="the adapter that DeSTA2 or DeSTA2.5 released, instead"),
    argument("--preset", help="whose that is: desta25, which is the default, desta2, or a file"),
    *PARTS,
    argument(
        "--transcript",
        action="store_true",
        help="let Whisper add the words, as it does for a run trained with them",
    ),
)
def ask(args: argparse.Namespace) -> None:
    """Ask a finished run about a clip."""
    from desta_lab import audio
    from desta_lab.model import presets
    from desta_lab.model.chat import AUDIO, SYSTEM
    from desta_lab.model.nano import LIMITS
    from desta_lab.published.desta2 import answer_desta2
    from desta_lab.published.systems import describe_memory, open_system

    if not args.question.strip():
        raise ValueError("There is no question; write one in quotes.")
    if args.published and args.run:
        raise ValueError("--published and --run name two systems; give one.")
    named = (args.preset, args.backbone, args.encoder)
    if any(name is not None for name in named) and not args.published:
        raise ValueError(
            "--preset, --backbone and --encoder are of an adapter; give that with --published."
        )
    warnings.filterwarnings("ignore", "Of clips longer", audio.DataWarning)  # a line below says it
    length = audio.measure_seconds(args.clip, at_most=audio.WHISPER_SECONDS)
    audios = [{"audio": args.clip, "text": None}]
    message = {"role": "user", "content": f"{AUDIO}\n{args.question}", "audios": audios}
    system = {"role": "system", "content": SYSTEM}
    text_only = {"role": "user", "content": args.question}
    if args.published:
        args.preset = "desta25" if args.preset is None else args.preset
        run = args.published.name
        preset = _preset(args)
        print(describe_memory(preset), flush=True)
        llm = open_system(args.published, preset)
    else:
        llm, run, _ = _open_run(args.run or _find_run())
    transcript = args.transcript or llm.transcript
    if args.published and preset.connector == presets.desta2().connector:
        turns = [system, {"role": "audio", "content": str(args.clip)}, text_only]
        answer = answer_desta2(llm, turns, max_new_tokens=48)
    else:
        answer = llm.generate([system, message], with_transcript=transcript, max_new_tokens=48)
    deaf = llm.generate([system, text_only], max_new_tokens=48)
    print(f"run             {run}")
    seconds = llm.encoder.seconds
    if length > seconds:
        whole = f"{length:.1f} s" if length <= audio.WHISPER_SECONDS else "more than 30 s"
        print(f"heard           the first {seconds:g} s of {whole}, as in training")
    if transcript:
        print(f"transcript      {answer.audios[0][0][1]}")
    print(f"with the clip   {answer.text[0]}")
    print(f"without it      {deaf.text[0]}   (the untouched LLM, text only)")
    if llm.glass_box:
        print(f"note            {LIMITS}")


def _open_run(place: Path) -> tuple[Any, str, str]:
    """An AudioLLM, what it is in one line, and its connector's sha256."""
    from desta_lab.cache import hash_file
    from desta_lab.course import finished
    from desta_lab.model import weights
    from desta_lab.model.audio_llm import AudioLLM
    from desta_lab.model.runs import describe_run, list_checkpoints

    if place.suffix == ".zip":
        return finished.open_last(place)
    if (place / weights.WEIGHTS).is_file():  # what save_pretrained wrote
        llm = AudioLLM.from_pretrained(place, strict=False)
        return llm, place.name, hash_file(place / weights.WEIGHTS)
    llm = AudioLLM.from_run(place)
    return llm, describe_run(place), list_checkpoints(place)[-1]["sha256"]


def _find_run() -> Path:
    """The newest finished run of this data folder; where there is none, one that ships.

    That of `laptop` if its backbone is on this machine, else that of nano.
    """
    from desta_lab.course import finished
    from desta_lab.model import presets, weights
    from desta_lab.model.runs import newest_run

    try:
        return newest_run()
    except FileNotFoundError:
        for preset in (presets.laptop(), presets.nano()):
            archive = finished.shipped_archive(preset.name)
            if archive.is_file() and weights.is_installed(preset.backbone):
                told = f"No run of yours is here: the {preset.name} run that ships answers."
                print(told, flush=True)
                return archive
        raise


@command("doctor")
def doctor(args: argparse.Namespace) -> int:
    """Say whether this machine is ready, and what the quickstart will cost."""
    from desta_lab.doctor import check_machine, format_checks

    checks = check_machine()
    print(format_checks(checks))
    return 0 if all(check.ok for check in checks) else 1


@command(
    "bench",
    argument("--gpu", action="store_true", help="real sizes on one GPU, of random weights"),
    argument("--scaling", action="store_true", help="seconds of a step against its size, instead"),
    argument(
        "--backbone",
        dest="backbones",  # it adds one; `backbone` is one that another takes the place of
        metavar="NAME",
        action="append",
        help="one more for --scaling, on disk",
    ),
    argument("--json", action="store_true", help="print the rows as JSON"),
    OUT,
)
def benchmark(args: argparse.Namespace) -> int | None:
    """Speed as ratios against named baselines, in one run."""
    from desta_lab.bench import ratios

    if args.gpu and args.scaling:
        raise ValueError("--gpu and --scaling are two measurements; give one of them.")
    if args.scaling:
        _bench_scaling(args)
        return None
    if args.backbones or args.out:
        raise ValueError("--backbone and --out are about --scaling; give it, too.")
    run: Any = ratios.run
    if args.gpu:
        from desta_lab.bench import gpu

        if gpu.find_card().device.type == "cpu":
            print(gpu.NO_GPU, file=sys.stderr)
            return 2
        run = gpu.run
    told = run(progress_reporter())
    if args.json:
        print(json.dumps(told, indent=1))
        return None
    rows, left_out = (told["rows"], told["left_out"]) if args.gpu else (told, [])
    wide = {key: max((len(row[key]) for row in rows), default=0) for key in ("name", "unit")}
    for row in rows:
        aim = f"aim {row['aim']}" if row["aim"] else ""
        measured = f"{row['value']:8.2f} {row['unit']:<{wide['unit']}}  {aim:<10} {row['detail']}"
        print(f"{row['name']:<{wide['name']}}  {measured}")
    for sentence in left_out:
        print(sentence)
    return None


def _bench_scaling(args: argparse.Namespace) -> None:
    """Measure and print what a step costs, one factor at a time."""
    from desta_lab.bench import scaling

    table, figure = scaling.run(progress_reporter(), args.backbones or (), args.out)
    shown = table.drop(columns="per").round({"seconds": 3, "floor": 3})
    print(table.to_json(orient="records", indent=1) if args.json else shown.to_string(index=False))
    if not args.json:
        print(scaling.describe_fit(table))
        print(f"Figure, with its table: {figure}")


@command("parity", path("folder", help="weights, inputs and results under the published names"))
def parity(args: argparse.Namespace) -> int:
    """Compare our numbers with those of the published code."""
    from desta_lab.published.parity import compare

    table = compare(args.folder)
    print(table.to_string(index=False))
    apart = table[~(table["difference"] <= table["limit"])].sort_values("difference")  # nan last
    for _, worst in apart[-1:].iterrows():
        print(
            f"NOT THE SAME: {worst['quantity']} differs by {worst['difference']:.2e} "
            f"({worst['precision']})."
        )
    return int(len(apart) > 0)


@command(
    "answer",
    path("path", help="the questions as the test set's repository has them"),
    path("--out", required=True, help="folder for answers, in the test set's format"),
    TEST_SET,
    RUN,
    path("--audio", help="folder of the clips, where not beside the questions"),
    number("--tokens", of=Count, default=48, help="the longest answer"),
)
def answer(args: argparse.Namespace) -> None:
    """Let a finished run answer a public test set."""
    from desta_lab.benchmarks.answers import answer_items
    from desta_lab.benchmarks.benchmark import get_benchmark

    benchmark = get_benchmark(args.benchmark, args.path)
    items = benchmark.read(args.path)
    place = args.run or _find_run()
    _make_folder(args.out)
    llm, _, sha256 = _open_run(place)
    run = {"name": place.name, "connector_sha256": sha256}
    print(f"{len(items)} questions of {benchmark.name}, answered by {place.name}, which hears the")
    print(f"first {llm.encoder.seconds:g} s of a clip.", flush=True)
    how = {"root": args.audio, "max_new_tokens": args.tokens, "with_transcript": llm.transcript}
    items = answer_items(llm, items, args.out, run, progress=progress_reporter()("answer"), **how)
    for path in benchmark.write(items, args.out):
        print(f"Answers: {path}")
    print(f"Score them with `python -m desta_lab score {args.out}`.")


@command(
    "score",
    path("path", help="the answers: a folder or file in the test set's own format"),
    TEST_SET,
    path("--text", help="Speech-IFEval: answers of the model's own text LLM"),
    OUT,
    ALSO,
)
def score(args: argparse.Namespace) -> None:
    """Score answers to a public test set beside published systems."""
    from desta_lab import cache
    from desta_lab.benchmarks import comparison
    from desta_lab.benchmarks.benchmark import get_benchmark
    from desta_lab.model.weights import models_dir
    from desta_lab.views import saving, study_figures

    benchmark = get_benchmark(args.benchmark, args.path)
    if args.text and not benchmark.compares_text:
        raise ValueError(f"--text is about Speech-IFEval; leave it out for {benchmark.name}.")
    text = benchmark.read(args.text) if args.text else None
    items = benchmark.read(args.path)
    out = _make_folder(args.out or models_dir().parent.parent / "figures" / "score")
    measured = benchmark.score(items, text)
    print(comparison.pivot_protocols(measured).to_string())
    for fault in measured.attrs.get("left_out", []):
        print(f"Left out: {fault}")
    name = Path(cache.show_name(args.path)).stem
    table, note = comparison.compare_with_published(measured, benchmark, name)
    others = table[table["kind"] == "published"]
    if len(others):
        print("Published:")
        wide = others.pivot(index="system", columns="metric", values="value")
        print(wide.reindex(others["system"].unique()).round(2).to_string())
    print(note)
    headline = comparison.write_headline(table, benchmark, name)
    figure = study_figures.plot_benchmark(table, headline, note)
    sources = {"benchmark": benchmark.name, "scored": name, "published": comparison.PUBLISHED.name}
    print(f"Figure: {saving.save_figure(figure, out, benchmark.name, provenance=sources)}")


@command(
    "sweep",
    PRESET,
    *PARTS,
    CORPUS,
    argument("--set", action="append", default=[], metavar="NAME=A,B", help="values of a setting"),
    argument("--seeds", type=parse_seeds, default="0", help="such as 0,1,2"),
    number("--jobs", of=Count, default=1, help="so many processes on this machine"),
    argument("--slurm", action="append", metavar="NAME=A", help="run on Slurm, as submitit says"),
    RETRY,
    OUT,
    ALSO,
)
def sweep(args: argparse.Namespace) -> int:
    """Measure a grid of settings and seeds; only what is missing is run."""
    from desta_lab import cache
    from desta_lab.experiments.cells import parse_grid, parse_slurm
    from desta_lab.experiments.sweep import Sweep
    from desta_lab.model.presets import name_changes
    from desta_lab.views import saving

    if args.slurm and args.jobs > 1:
        raise ValueError("--jobs is about this machine, and --slurm about a cluster; give one.")
    preset = _preset(args)
    settings, report = parse_grid(args.set), progress_reporter()
    grid = Sweep(preset, settings, seeds=args.seeds, corpus=args.corpus, progress=report)
    slurm = parse_slurm(args.slurm) if args.slurm else None
    corpus = grid.cells[0].corpus
    own = name_changes(preset, {}), corpus.name if corpus else ""
    name = "-".join(filter(None, ["sweep", preset.name, *own, *grid.factors]))
    out = args.out or grid.root.parent / "figures" / name
    _make_folder(out)
    table = grid.run(args.jobs, retry=args.retry, slurm=slurm)
    cache.write_whole(out / "table.csv", table.to_csv(index=False).encode())
    saving.save_parquet(table, out / "table.parquet")
    scored = table["score"].notna().any()
    if scored:
        means = grid.factor_means()
        print(means.round(2).to_string(index=False, na_rep="—"))
        if means["low"].isna().any():
            print("—: one cell alone has no interval; more --seeds give one.")
        about = {"cells": sorted(set(table["cell"])), "seeds": grid.seeds}
        saving.save_figure(grid.figure(), out, "knobs", provenance=about)
    print(f"{'Table and figure' if scored else 'Table'}: {out}")
    failed = table.dropna(subset="error").set_index("cell")["error"]
    return _report_failures(len(grid.cells), failed.to_dict())


def _report_failures(cells: int, errors: dict[str, str]) -> int:
    """Say which cells failed and how they are run again; returns the exit status."""
    for cell, error in errors.items():
        print(f"Cell {cell} failed: {error}")
    if errors:
        share = "Every cell" if len(errors) == cells else f"{len(errors)} of {cells} cells"
        print(f"{share} failed; mend the cause, and run this again with --retry.", file=sys.stderr)
    return int(bool(errors))


@command(
    "ablate",
    argument("names", nargs="*", metavar="NAME", help="such as targets; by default all there are"),
    argument("--preset", default="nano", help="nano, or cpu or laptop for some"),
    argument("--seeds", type=parse_seeds, help="by default five of nano, three of other presets"),
    number("--jobs", of=CountOrZero, default=2, help="so many processes; 0 draws what is finished"),
    RETRY,
    path(
        "--out",
        help="folder for the page, with tables and figures in a folder of the preset's name; by "
        "default figures/ablations, which Git tracks, where studies, preset and seeds are those of "
        "the page there, else figures/ablations-own",
    ),
    ALSO,
)
def ablate(args: argparse.Namespace) -> int:
    """The papers' ablations: run what is missing, tables, figures, the page."""
    from desta_lab.experiments import ablation
    from desta_lab.experiments.ablation_page import run_ablation
    from desta_lab.experiments.studies import STUDIES, get_study
    from desta_lab.model import presets

    if args.retry and not args.jobs:
        raise ValueError("--jobs 0 runs nothing, and --retry runs what failed; give one.")
    chosen = presets.get_preset(args.preset)
    preset = chosen.name if chosen.name in presets.PRESETS else chosen
    studies = [get_study(name) for name in args.names]
    studies = studies or [study for study in STUDIES.values() if preset in study.presets]
    if not studies:
        there = dict.fromkeys(name for study in STUDIES.values() for name in study.presets)
        raise ValueError(
            f"No study is of preset {chosen.name}; take one of {', '.join(there)}, or name studies."
        )
    names = list(dict.fromkeys(study.name for study in studies))
    folder = args.out or ablation.page_folder(names, preset, args.seeds)
    how = {"jobs": args.jobs, "retry": args.retry, "folder": folder}
    found = run_ablation(names, preset, args.seeds, **how)
    for name, sentences in found.items():
        print("\n  ".join([f"{STUDIES[name].title}:", *sentences]))
    print(f"Page: {folder / 'README.md'}")
    return _report_failures(*ablation.find_failures(names, preset, args.seeds))


@command(
    "emerge",
    argument("--preset", default="nano", help="as for quickstart"),
    *PARTS,
    argument("--seeds", type=parse_seeds, default="0,1,2,3,4", help="such as 0,1,2"),
    number("--checkpoint-every", of=Count, default=16, help="steps between two checkpoints"),
    OUT,
    ALSO,
)
def emerge(args: argparse.Namespace) -> None:
    """Measure every checkpoint of several runs and write the emergence report."""
    from desta_lab.experiments import emergence

    preset = replace(_preset(args), checkpoint_every=args.checkpoint_every)
    out = _make_folder(args.out or emergence.report_folder(preset, args.seeds))
    emergence.measure_runs(preset, args.seeds, out, progress=progress_reporter())
    print(f"Report: {emergence.write_report(out)}")


@command(
    "write",
    path("manifest", help="JSONL whose rows have id, seed_description and prompt"),
    path("folder", help="where targets-00000.jsonl and so on go"),
    argument("--backbone", required=True, help="name or folder of the LLM that writes"),
    argument("--server", metavar="URL", help="of an OpenAI-compatible server: http://host:8000"),
    number("--tokens", of=Count, default=40, help="the longest answer"),
    number("--shard", of=Count, default=1000, help="rows in a file"),
)
def write(args: argparse.Namespace) -> None:
    """Write self-generated targets by the million, in files that resume."""
    from desta_lab.model import weights
    from desta_lab.training import writers

    if args.server is not None:
        writers.check_address(args.server)
    weights.check_name(args.backbone)
    total = sum(1 for _ in writers.read_rows(args.manifest))  # each is checked
    if not total:
        raise ValueError(f"{args.manifest}: no row here; there is nothing to write.")
    _make_folder(args.folder)
    files = -(-total // args.shard)
    print(f"{total} rows in {files} files of at most {args.shard};", end=" ")
    print("their cost is said after the first.", flush=True)
    tell = progress_reporter()("write")
    writer = _open_writer(args, tell)
    begin, speed_known = time.perf_counter(), False

    def progress(done: int, new: int) -> None:
        nonlocal begin, speed_known
        if not new:
            begin = time.perf_counter()  # what was there already costs nothing
        elif not speed_known:
            speed_known, speed = True, new / max(time.perf_counter() - begin, 1e-9)
            tell(
                f"{speed:.1f} rows a second: {(total - done) / speed / 60:.1f} min for the "
                f"{total - done} rows left."
            )
        tell(done, total)

    paths = writers.write_shards(
        writers.read_rows(args.manifest), writer, args.folder, shard=args.shard, progress=progress
    )
    refusals, first = writers.find_refusals_in(paths)
    if refusals:
        print(f"{refusals} of {total} targets are refusals, such as {first!r}; drop those rows.")
    print(f"Targets: {args.folder}")


def _open_writer(args: argparse.Namespace, tell: Callable[..., None]) -> Any:
    """The writer that a command line asks for, with its model loaded."""
    from desta_lab.model import weights
    from desta_lab.model.backbone import Backbone
    from desta_lab.model.build import pick_device, pick_dtype
    from desta_lab.training import targets, writers

    folder = weights.find_weights(args.backbone, progress=tell)
    name = folder.name if Path(args.backbone).is_dir() else args.backbone
    if args.server is not None:
        return writers.server_writer(args.server, folder, name, max_new_tokens=args.tokens)
    device = pick_device()
    backbone = Backbone.load(folder, dtype=pick_dtype(device)).to(device)
    return targets.backbone_writer(
        backbone, name, weights.hash_folder(folder), max_new_tokens=args.tokens
    )


@command("demo", PRESET, *PARTS, number("--port", of=PORTS, default=7860, help="of this machine"))
def demo(args: argparse.Namespace) -> None:
    """A local page: record or pick a clip, ask anything."""
    import signal
    import threading

    from desta_lab.course import finished
    from desta_lab.experiments.experiment import Experiment
    from desta_lab.views.demo import Demo, check_port, import_gradio, open_page

    preset = _preset(args)
    import_gradio()
    check_port(args.port)
    job = Experiment(preset, progress=progress_reporter())
    finished.restore(job)
    job.train("self")
    print(f"The first {job.preset.seconds:g} s of a clip are heard.")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # recordings are deleted then, too
    with open_page(Demo(job), args.port) as address:
        print(f"Open {address} in a browser; stop with Ctrl+C.", flush=True)
        threading.Event().wait()


@command(
    "course",
    argument("--run", action="store_true", help="execute them: pages, figures and measured costs"),
    argument("--preset", default="nano", help="which preset to run them with"),
    argument("--only", help="numbers, such as 04,05"),
)
def course(args: argparse.Namespace) -> None:
    """Build the notebooks from their sources, or run them all."""
    from nbclient.exceptions import CellExecutionError

    from desta_lab.course import notebooks
    from desta_lab.model import presets

    presets.get_preset(args.preset)
    only = () if args.only is None else args.only.split(",")
    for path in notebooks.write_files(only):
        print(f"built {path.relative_to(notebooks.NOTEBOOKS.parent)}")
    if not args.run:
        return
    for source in notebooks.find_sources(only):
        try:
            took = notebooks.run_notebook(source, args.preset)
        except CellExecutionError as error:
            fault = f"{source}: a cell failed ({error.ename}: {error.evalue})"
            raise RuntimeError(f"{fault}; correct it there, and run `course` again.") from error
        cost = f"{took['seconds']:.0f} s, {took['memory_gb']:.1f} GB"
        print(f"ran {source.stem} on {args.preset}: {cost}", flush=True)
    notebooks.write_files(only)  # with the costs that were measured


@command("class", path("folder", help="with a card of each student and notebook"))
def cohort(args: argparse.Namespace) -> None:
    """Merge a folder of students' cards into one table and one plot."""
    from desta_lab.course import cohort as students

    table, left_out = students.read_cards(args.folder)
    for sentence in left_out:
        print(f"left out: {sentence}", file=sys.stderr)
    print(students.summarise_class(table).to_string(index=False))
    print(f"Table and plot: {students.write_report(table, args.folder)}")


@command(
    "grade",
    path("notebooks", nargs="+", metavar="FILE", help="submitted notebooks, or folders"),
    argument("--preset", default="nano", help="what they run on"),
    path("--out", help="CSV file for the table", default=Path("grades.csv")),
)
def grade(args: argparse.Namespace) -> None:
    """Run the code of submitted notebooks in fresh kernels, and judge every exercise."""
    from desta_lab import cache
    from desta_lab.course import grading

    for path in args.notebooks:
        if not path.exists():
            raise ValueError(f"{path}: there is no such file or folder.")
    if args.out.is_dir():
        raise ValueError(f"{args.out} is a folder; name the CSV file for the table.")
    _make_folder(args.out.parent)
    table, left_out = grading.grade_files(args.notebooks, args.preset)
    for sentence in left_out:
        print(f"left out: {sentence}", file=sys.stderr)
    if table.empty:
        raise ValueError("No notebook of the course was found, so there is nothing to grade.")
    cache.write_whole(args.out, table.to_csv(index=False).encode())
    counts = table.groupby(["file", "notebook", "state"]).size().unstack(fill_value=0)
    print(counts.to_string())
    print(f"Every exercise with its message: {args.out}")


@command("nano", path("folder", help="where it goes"))
def nano(args: argparse.Namespace) -> None:
    """Train the nano LLM on text again."""
    from desta_lab.evaluation import evaluate, text_world
    from desta_lab.model.backbone import Backbone
    from desta_lab.model.nano import save_nano, train_nano

    _make_folder(args.folder)
    wall, cpu = time.perf_counter(), time.process_time()
    model, tokenizer = train_nano(
        text_world.nano_training_rows(), progress=progress_reporter()("nano")
    )
    oracle = evaluate.oracle_accuracy(Backbone(model, tokenizer))
    seconds = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    unseen = sorted(text_world.unseen_descriptions())
    recipe = {
        "made_by": "python -m desta_lab nano",
        "rows": {"count": text_world.NANO_ROWS, "seed": 0, "unseen": unseen},
        "parameters": model.num_parameters(),
        "seconds": {name: round(value) for name, value in seconds.items()},
        "oracle": oracle,
    }
    save_nano(model, tokenizer, args.folder, recipe)
    worst = min(oracle, key=oracle.__getitem__)
    print(f"Saved to {args.folder}; text oracle at worst {oracle[worst][1]:.2f} ({worst})")
