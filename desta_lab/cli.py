"""The command line: one function for every command; each imports what it needs, so that `--help` is quick."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from desta_lab import processes
from desta_lab.views.progress import bars


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; an error that the package foresees is one sentence and exit status 1."""
    parser = argparse.ArgumentParser(
        prog="python -m desta_lab", description="The laboratory for the DeSTA claim."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    lab = commands.add_parser(
        "quickstart", help="train on one task, measure the others, draw the card"
    )
    lab.add_argument(
        "--preset",
        help="nano, cpu, t4, workstation or desta25; by default the one that suits this machine",
    )
    lab.add_argument("--seed", type=int, default=0)
    lab.add_argument("--steps", type=int, help="training steps instead of the preset's")
    lab.add_argument(
        "--corpus", type=Path, help="train on this folder, with its clips.csv or manifest, instead"
    )
    lab.add_argument("--label", help="attribute of the rival run, instead of the preset's")
    lab.add_argument("--out", type=Path, help="folder for figures and card")
    lab.add_argument(
        "--accumulate", type=int, help="compute each batch in so many parts, to save memory"
    )
    lab.add_argument(
        "--checkpointing",
        action="store_true",
        help="compute the LLM's layers twice, to save memory",
    )
    look = commands.add_parser(
        "inside", help="probe, map, explain and patch a run of the quickstart"
    )
    look.add_argument("--preset", help="as for quickstart")
    look.add_argument("--seed", type=int, default=0)
    look.add_argument(
        "--run", choices=("self", "label"), default="self", help="which of the two runs"
    )
    look.add_argument("--out", type=Path, help="folder for figures")
    question = commands.add_parser("ask", help="ask a finished run about a clip")
    question.add_argument("clip", type=Path)
    question.add_argument("question")
    question.add_argument(
        "--run",
        type=Path,
        help="a folder under data/runs; by default the newest self-generated one",
    )
    question.add_argument(
        "--published", type=Path, help="the adapter that DeSTA2 or DeSTA2.5-Audio released, instead"
    )
    question.add_argument(
        "--preset", choices=("desta25", "desta2"), default="desta25", help="whose adapter that is"
    )
    question.add_argument(
        "--transcript", action="store_true", help="let Whisper write the words after the clip"
    )
    commands.add_parser("doctor", help="is this machine ready, and what will the quickstart cost")
    bench = commands.add_parser("bench", help="speed as ratios against named baselines, in one run")
    bench.add_argument("--json", action="store_true")
    same = commands.add_parser(
        "parity", help="compare our numbers with those of the published code"
    )
    same.add_argument(
        "folder", type=Path, help="weights, inputs and results under the published names"
    )
    sets = ("speech-ifeval", "sakura", "mmau", "dynamic-superb")
    ours = commands.add_parser("answer", help="let a finished run answer a public test set")
    ours.add_argument(
        "path",
        type=Path,
        help="the questions: a folder or file as the test set's repository has it",
    )
    ours.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder for the answers, in the test set's own format",
    )
    ours.add_argument("--benchmark", choices=sets, help="by default told by the files")
    ours.add_argument(
        "--run",
        type=Path,
        help="a folder under data/runs; by default the newest self-generated one",
    )
    ours.add_argument(
        "--audio", type=Path, help="the folder of the clips, where it is not beside the questions"
    )
    ours.add_argument("--tokens", type=int, default=48, help="the longest answer")
    answers = commands.add_parser(
        "score", help="score answers to a public test set beside published systems"
    )
    answers.add_argument(
        "path", type=Path, help="the answers: a folder or file in the test set's own format"
    )
    answers.add_argument("--benchmark", choices=sets, help="by default told by the files")
    answers.add_argument(
        "--text",
        type=Path,
        help="Speech-IFEval: answers of the model's own text LLM, for forgetting",
    )
    answers.add_argument("--out", type=Path, help="folder for the figure and its table")
    grid = commands.add_parser(
        "sweep", help="measure a grid of settings and seeds; only what is missing is run"
    )
    grid.add_argument("--preset", help="as for quickstart")
    grid.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=A,B",
        help="values of a field of the config",
    )
    grid.add_argument("--seeds", default="0", help="such as 0,1,2")
    grid.add_argument("--jobs", type=int, default=1, help="so many processes on this machine")
    grid.add_argument(
        "--slurm",
        action="append",
        metavar="NAME=VALUE",
        help="run on Slurm, with submitit's parameters",
    )
    grid.add_argument("--retry", action="store_true", help="run what failed again")
    grid.add_argument("--out", type=Path, help="folder for table and figure")
    papers = commands.add_parser(
        "ablate", help="the papers' ablations: run what is missing, tables, figures, the page"
    )
    papers.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="such as targets; by default all that the preset has",
    )
    papers.add_argument(
        "--preset", default="nano", help="nano, or cpu for the three that carry the claim"
    )
    papers.add_argument("--seeds", help="such as 0,1,2; by default five of nano, three of others")
    papers.add_argument(
        "--jobs", type=int, default=2, help="so many processes; 0 draws what is finished"
    )
    papers.add_argument(
        "--out", type=Path, help="folder for tables and figures; the page goes beside it"
    )
    rise = commands.add_parser(
        "emerge", help="measure every rung of several runs and write the emergence report"
    )
    rise.add_argument("--preset", default="nano", help="as for quickstart; nano by default")
    rise.add_argument("--seeds", default="0,1,2,3,4", help="such as 0,1,2")
    rise.add_argument(
        "--rungs", type=int, default=16, help="steps between two rungs of the checkpoint ladder"
    )
    rise.add_argument("--out", type=Path, help="folder for tables, figures and report")
    many = commands.add_parser(
        "write", help="write self-generated targets by the million, in files that resume"
    )
    many.add_argument(
        "manifest", type=Path, help="JSONL whose rows have id, seed_description and prompt"
    )
    many.add_argument("folder", type=Path, help="where targets-00000.jsonl and so on go")
    many.add_argument("--backbone", required=True, help="name or folder of the LLM that writes")
    where = many.add_mutually_exclusive_group()
    where.add_argument(
        "--server",
        metavar="ADDRESS",
        help="ask an OpenAI-compatible server of it: http://host:8000",
    )
    where.add_argument(
        "--vllm", action="store_true", help="run it with vLLM; by default with transformers"
    )
    many.add_argument("--tokens", type=int, default=40, help="the longest answer")
    many.add_argument("--shard", type=int, default=1000, help="rows in a file")
    show = commands.add_parser("demo", help="a local page: record or pick a clip, ask anything")
    show.add_argument("--preset", help="as for quickstart")
    show.add_argument("--port", type=int, default=7860)
    course = commands.add_parser(
        "course", help="build the notebooks from their sources, or run them all"
    )
    course.add_argument(
        "--run", action="store_true", help="execute them: pages, figures and measured costs"
    )
    course.add_argument("--preset", default="nano", help="which preset to run them with")
    course.add_argument("--only", help="numbers, such as 04,05")
    merge = commands.add_parser(
        "class", help="merge a folder of students' cards into one table and one plot"
    )
    merge.add_argument("folder", type=Path)
    glass = commands.add_parser("nano", help="train the glass-box LLM on text again")
    glass.add_argument("folder", type=Path)
    args = parser.parse_args(argv)
    who = (
        f"Rank {processes.rank()} of {processes.world_size()}: "
        if processes.world_size() > 1
        else ""
    )
    if who and args.command != "quickstart":
        print(
            f"{who}several processes share quickstart alone; start {args.command} as one.",
            file=sys.stderr,
        )
        return 1
    try:
        return COMMANDS[args.command](args)
    except KeyboardInterrupt:
        print(
            f"{who}Stopped; run the same command again and it goes on where it was.",
            file=sys.stderr,
        )
        return 130
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        print(f"{who}{type(error).__name__}: {error}", file=sys.stderr)
        return 1


def _preset(args: argparse.Namespace) -> Any:
    from desta_lab.model import presets

    return presets.get_preset(args.preset) if args.preset else presets.pick_preset()


def quickstart(args: argparse.Namespace) -> int:
    """The main job."""
    from desta_lab.doctor import cost
    from desta_lab.experiments.quickstart import Quickstart
    from desta_lab.views import card

    processes.join_ranks()
    told = {"steps": args.steps, "accumulate": args.accumulate, "checkpointing": args.checkpointing}
    preset = replace(_preset(args), **{name: value for name, value in told.items() if value})
    say = print if processes.is_main_rank() else _silence
    say(cost(preset), flush=True)
    if args.corpus:
        say(
            "That was measured on the preset's own corpus; with yours, features and targets go by its clips."
        )
    job = Quickstart(
        preset, seed=args.seed, corpus=args.corpus, label=args.label, out=args.out, progress=bars()
    )
    result = job.run()
    say(card.text(result))
    say(f"Figures and card: {job.out / 'card.html'} ({result['seconds_now']:.0f} s this time)")
    processes.leave_ranks()
    return 0


def _silence(*words: Any, **how: Any) -> None:
    """What ranks other than 0 print."""


def inside(args: argparse.Namespace) -> int:
    """The analysis of a quickstart's run: tables beside it, figures, and what is present, readable and spoken."""
    from desta_lab.experiments.inside import Inside, digest
    from desta_lab.experiments.quickstart import Quickstart

    preset = _preset(args)
    job = Quickstart(preset, seed=args.seed, progress=bars())
    look = Inside(job, args.run, out=args.out, progress=bars())
    tables = look.run()
    print(
        "What can be read off each site by a linear probe on unseen speakers, and what is said, at the last step:"
    )
    print(digest(tables).to_string(index=False))
    print(
        "Attribution under other weights (0: it depends on them), and what its parts miss of the whole:"
    )
    print(tables["randomisation"].round(2).to_string(index=False))
    print(f"Figures: {look.out}; tables: {look.folder / 'inside'}")
    return 0


def ask(args: argparse.Namespace) -> int:
    """A finished run's answer about a clip, or a published system's, with the untouched LLM's text beside it."""
    from desta_lab import audio
    from desta_lab.experiments.experiment import reopen
    from desta_lab.model import presets
    from desta_lab.model.chat import AUDIO, SYSTEM
    from desta_lab.published import desta

    length = audio.read_header(args.clip, max_seconds=float("inf")).seconds
    message = {
        "role": "user",
        "content": f"{AUDIO}\n{args.question}",
        "audios": [{"audio": args.clip, "text": None}],
    }
    system = {"role": "system", "content": SYSTEM}
    transcript = args.transcript or bool(args.published)  # the published systems always write one
    if args.published:
        preset, folder = presets.get_preset(args.preset), args.published
        print(desta.estimate(preset), flush=True)
        llm = desta.open_system(args.published, preset)
    else:
        llm, folder = reopen(args.run)
    if args.published and args.preset == "desta2":
        turns = [
            system,
            {"role": "audio", "content": str(args.clip)},
            {"role": "user", "content": args.question},
        ]
        heard = desta.answer_desta2(llm, turns, max_new_tokens=48)
    else:
        heard = llm.generate([system, message], with_transcript=transcript, max_new_tokens=48)
    deaf = llm.generate([system, {"role": "user", "content": args.question}], max_new_tokens=48)
    print(f"run             {folder.name}")
    if length > llm.encoder.seconds:
        print(
            f"heard           the first {llm.encoder.seconds:g} s of {length:.1f} s, as in training"
        )
    if transcript:
        print(f"transcript      {heard.audios[0][0][1]}")
    print(f"with the clip   {heard.text[0]}")
    print(f"without it      {deaf.text[0]}   (the untouched LLM, text only)")
    return 0


def doctor(args: argparse.Namespace) -> int:
    """A table of OK and FAIL: Python, torch, device, versions, weights, disk, preset and its cost."""
    from desta_lab import doctor as physician

    text, well = physician.table()
    print(text)
    return 0 if well else 1


def benchmark(args: argparse.Namespace) -> int:
    """Ratios against named baselines, measured in one run on the cpu preset."""
    from desta_lab import bench

    rows = bench.run(bars())
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


def parity(args: argparse.Namespace) -> int:
    """Largest differences to a published model and its run; exit status 1 where one is beyond its limit."""
    from desta_lab.published.parity import compare

    table = compare(args.folder)
    print(table.to_string(index=False))
    apart = table[~(table["difference"] <= table["limit"])]  # nan, too
    if len(apart):
        worst = apart.sort_values("difference").iloc[-1]  # nan comes last
        print(
            f"NOT THE SAME: {worst['quantity']} differs by {worst['difference']:.2e} ({worst['precision']})."
        )
    return int(len(apart) > 0)


def answer(args: argparse.Namespace) -> int:
    """A finished run's answers to a test set, in its own format; stopped, it goes on where it was."""
    from desta_lab.benchmarks import answers, test_sets
    from desta_lab.experiments.experiment import reopen
    from desta_lab.training import checkpoints

    benchmark = args.benchmark or test_sets.which(args.path)
    items = test_sets.read(args.path, benchmark)
    llm, folder = reopen(args.run)
    run = {
        "name": folder.name,
        "connector_sha256": checkpoints.list_checkpoints(folder / "ladder")[-1]["sha256"],
    }
    print(f"{len(items)} questions of {benchmark}, answered by {folder.name}.", flush=True)
    items = answers.answer(
        llm,
        items,
        args.out,
        run,
        root=args.audio,
        max_new_tokens=args.tokens,
        progress=bars()("answer"),
    )
    for path in answers.write(items, benchmark, args.out):
        print(f"Answers: {path}")
    print(f"Score them with `python -m desta_lab score {args.out}`.")
    return 0


def score(args: argparse.Namespace) -> int:
    """A test set's numbers by every protocol, with intervals and controls; a figure has them beside the published."""
    from desta_lab.benchmarks import comparison, multiple_choice, speech_ifeval, test_sets
    from desta_lab.model.weights import models_dir
    from desta_lab.views import claim_figures

    benchmark = args.benchmark or test_sets.which(args.path)
    if benchmark == "speech-ifeval":
        text = speech_ifeval.items(args.text) if args.text else None
        measured = speech_ifeval.rates(speech_ifeval.items(args.path), text)
    else:
        measured = multiple_choice.rates(test_sets.read(args.path, benchmark), benchmark)
    print(comparison.side_by_side(measured).to_string())
    name = args.path.resolve().stem
    table, note = comparison.beside(measured, benchmark, name)
    others = table[table["kind"] == "published"]
    if len(others):
        print("Published:")
        wide = others.pivot(index="system", columns="metric", values="value")
        print(wide.reindex(others["system"].unique()).round(2).to_string())
    print(note)
    out = args.out or models_dir().parent.parent / "figures" / "score"
    said = comparison.headline(table, benchmark, name)
    figure = claim_figures.benchmark(table, said, note)
    sources = {"benchmark": benchmark, "scored": name, "published": comparison.PUBLISHED.name}
    print(f"Figure: {claim_figures.save(figure, out, benchmark, provenance=sources)}")
    return 0


def sweep(args: argparse.Namespace) -> int:
    """A grid over settings and seeds: its cost, what is missing of it, one tidy table, and which knobs matter."""
    from desta_lab.experiments.sweep import Sweep, parse, parse_slurm
    from desta_lab.views import claim_figures

    preset = _preset(args)
    grid = Sweep(
        preset,
        parse(args.set),
        seeds=[int(seed) for seed in args.seeds.split(",")],
        progress=bars(),
    )
    slurm = None if args.slurm is None else parse_slurm(args.slurm)
    table = grid.run(args.jobs, retry=args.retry, slurm=slurm)
    out = args.out or grid.root.parent / "figures" / f"sweep-{preset.name}"
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / "table.csv", index=False)
    if table["score"].notna().any():
        print(grid.knobs().round(2).to_string(index=False))
        claim_figures.save(
            grid.picture(),
            out,
            "knobs",
            provenance={"cells": sorted(set(table["cell"])), "seeds": grid.seeds},
        )
    for cell, error in table.dropna(subset="error")[["cell", "error"]].itertuples(index=False):
        print(f"Cell {cell} failed: {error}")
    print(f"Table and figure: {out}")
    return 0


def ablate(args: argparse.Namespace) -> int:
    """Named ablations: what each shows over seeds, its table and figure, and the page of all that were run."""
    from desta_lab.experiments import studies

    names = args.names or [
        study.name for study in studies.STUDIES.values() if args.preset in study.presets
    ]
    seeds = None if args.seeds is None else [int(seed) for seed in args.seeds.split(",")]
    out = args.out or studies.HOME / args.preset
    for study, said in studies.run(names, args.preset, seeds, args.jobs, out, bars()):
        print("\n  ".join([f"{study.title}:", *said]))
    print(f"Page: {studies.write_page(out.parent)}")
    return 0


def emerge(args: argparse.Namespace) -> int:
    """The emergence report: what jumps, what rises together, what comes first, over seeds and amounts of data."""
    from desta_lab.experiments import emergence

    preset = replace(_preset(args), checkpoint_every=args.rungs)
    out = args.out or emergence.home(preset)
    emergence.measure(preset, [int(seed) for seed in args.seeds.split(",")], out, progress=bars())
    print(f"Report: {emergence.report(out)}")
    return 0


def write(args: argparse.Namespace) -> int:
    """A backbone's own answers to the rows of a manifest; the cost is said once the first file tells the speed."""
    import time

    from desta_lab.model import presets, weights
    from desta_lab.model.backbone import Backbone, fastest_dtype
    from desta_lab.training import writers

    with args.manifest.open("rb") as lines:
        total = sum(1 for line in lines if line.strip())
    files = -(-total // args.shard)
    print(
        f"{total} rows in {files} files of at most {args.shard}; their cost is said after the first.",
        flush=True,
    )
    tell = bars()("write")
    folder = weights.find_weights(args.backbone, progress=tell)
    name = folder.name if Path(args.backbone).is_dir() else args.backbone
    if args.server:
        writer = writers.server_writer(args.server, folder, name, max_new_tokens=args.tokens)
    elif args.vllm:
        writer = writers.vllm_writer(folder, name, max_new_tokens=args.tokens)
    else:
        dtype = fastest_dtype(presets.pick_device())
        backbone = Backbone.load(folder, dtype=dtype).to(presets.pick_device())
        writer = writers.backbone_writer(
            backbone, name, weights.hash_folder(folder), max_new_tokens=args.tokens
        )
    begin, said = time.perf_counter(), False

    def progress(done: int, new: int) -> None:
        nonlocal begin, said
        if not new:
            begin = time.perf_counter()  # what was there already costs nothing
        elif not said:
            said, speed = True, new / (time.perf_counter() - begin)
            tell(
                f"{speed:.1f} rows a second: {(total - done) / speed / 60:.1f} min for the {total - done} rows left."
            )
        tell(done, total)

    writers.write_shards(
        writers.read_rows(args.manifest), writer, args.folder, shard=args.shard, progress=progress
    )
    print(f"Targets: {args.folder}")
    return 0


def demo(args: argparse.Namespace) -> int:
    """A page on this machine alone (loopback), until it is stopped; trains first what is missing."""
    from desta_lab.experiments.quickstart import Quickstart
    from desta_lab.views.demo import Demo, page

    job = Quickstart(_preset(args), progress=bars())
    job.train("self")
    print(f"Open http://127.0.0.1:{args.port} in a browser; stop with Ctrl+C.", flush=True)
    page(Demo(job)).launch(server_name="127.0.0.1", server_port=args.port, share=False, quiet=True)
    return 0


def course(args: argparse.Namespace) -> int:
    """Build the student's and the solved notebooks; with `--run`, execute the solved ones and keep what they show."""
    from desta_lab.course import build

    only = args.only.split(",") if args.only else ()
    for path in build.write(only):
        print(f"built {path.relative_to(build.NOTEBOOKS.parent)}")
    if not args.run:
        return 0
    for source in build.sources(only):
        took = build.run(source, args.preset)
        print(
            f"ran {source.stem} on {args.preset}: {took['seconds']:.0f} s, {took['memory_gb']:.1f} GB",
            flush=True,
        )
    build.write(only)  # with the costs that were measured
    return 0


def cohort(args: argparse.Namespace) -> int:
    """One table and one plot of a class's cards."""
    from desta_lab.course import cohort as students

    table = students.gather(args.folder)
    print(students.digest(table).to_string(index=False))
    print(f"Table and plot: {students.report(table, args.folder)}")
    return 0


def nano(args: argparse.Namespace) -> int:
    """Train the nano LLM on text alone, as the shipped weights were trained, and measure what it reads."""
    import time

    from desta_lab.evaluation import scoring, tasks
    from desta_lab.model import nano as glass
    from desta_lab.model.backbone import Backbone

    wall, cpu = time.perf_counter(), time.process_time()
    model, tokenizer = glass.train_nano(tasks.nano_rows(), progress=bars()("nano"))
    oracle = scoring.oracle_accuracy(Backbone(model, tokenizer))
    recipe = {
        "made_by": "python -m desta_lab nano",
        "rows": {"count": tasks.NANO_ROWS, "seed": 0, "unseen": sorted(tasks.held_back())},
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


COMMANDS = {
    "quickstart": quickstart,
    "inside": inside,
    "ask": ask,
    "doctor": doctor,
    "bench": benchmark,
    "parity": parity,
    "answer": answer,
    "score": score,
    "sweep": sweep,
    "ablate": ablate,
    "emerge": emerge,
    "write": write,
    "demo": demo,
    "course": course,
    "class": cohort,
    "nano": nano,
}
