"""The command line: quickstart, ask, doctor, bench, nano."""

import argparse
import importlib.metadata
import json
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

SLOW = 5.0  # seconds between two lines of progress where there is no terminal


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; an error that the package foresees is one sentence and exit status 1."""
    parser = argparse.ArgumentParser(prog="python -m desta_lab", description="The laboratory for the DeSTA claim.")
    commands = parser.add_subparsers(dest="command", required=True)
    lab = commands.add_parser("quickstart", help="train on one task, measure the others, draw the card")
    lab.add_argument("--preset", help="nano, cpu, t4, workstation or desta25; by default the one that suits this machine")
    lab.add_argument("--seed", type=int, default=0)
    lab.add_argument("--steps", type=int, help="training steps instead of the preset's")
    lab.add_argument("--out", type=Path, help="folder for figures and card")
    question = commands.add_parser("ask", help="ask a finished run about a clip")
    question.add_argument("clip", type=Path)
    question.add_argument("question")
    question.add_argument("--run", type=Path, help="a folder under data/runs; by default the newest self-generated one")
    question.add_argument("--transcript", action="store_true", help="let Whisper write the words after the clip")
    commands.add_parser("doctor", help="is this machine ready, and what will the quickstart cost")
    bench = commands.add_parser("bench", help="speed as ratios against named baselines, in one run")
    bench.add_argument("--json", action="store_true")
    glass = commands.add_parser("nano", help="train the glass-box LLM on text again")
    glass.add_argument("folder", type=Path)
    args = parser.parse_args(argv)
    try:
        return {"quickstart": quickstart, "ask": ask, "doctor": doctor, "bench": benchmark, "nano": nano}[args.command](args)
    except KeyboardInterrupt:
        print("Stopped; run the same command again and it goes on where it was.", file=sys.stderr)
        return 130
    except (ValueError, RuntimeError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1


def bars(stream: Any = None) -> Callable[[str], Callable[..., None]]:
    """Progress for people: a bar on a terminal or in a notebook, a line every few seconds elsewhere."""
    out = stream or sys.stderr
    if out.isatty() or "ipykernel" in sys.modules:
        return _bar
    return lambda stage: _lines(stage, out)


def _bar(stage: str) -> Callable[..., None]:
    from tqdm.auto import tqdm

    bar: list[Any] = []

    def tell(*news: Any) -> None:
        if isinstance(news[0], str):
            tqdm.write(news[0])
            return
        done, total, *rest = news
        if not bar:
            bar.append(tqdm(total=total, desc=stage, leave=True))
        bar[0].update(done - bar[0].n)
        if rest:
            bar[0].set_postfix(loss=f"{rest[0]['loss']:.3f}")
        if done >= total:
            bar[0].close()

    return tell


def _lines(stage: str, out: Any) -> Callable[..., None]:
    begin, last = time.perf_counter(), [0.0]

    def tell(*news: Any) -> None:
        if isinstance(news[0], str):
            print(news[0], file=out, flush=True)
            return
        done, total, *rest = news
        now = time.perf_counter() - begin
        if done and (now - last[0] >= SLOW or done >= total):
            last[0] = now
            left = now / done * (total - done)
            loss = f", loss {rest[0]['loss']:.3f}" if rest else ""
            print(f"{stage}: {done}/{total}{loss}, {now:.0f} s, {left:.0f} s left", file=out, flush=True)

    return tell


def cost(preset: Any) -> str:
    """What a preset takes, in one sentence: measured where it was measured, and said where it was not."""
    from desta_lab.model import weights

    fetch = [n for n in (preset.encoder, preset.backbone) if not Path(n).is_dir() and not weights.installed(n)]
    known = sum(weights.KNOWN[n].download_mb for n in fetch if n in weights.KNOWN)
    others = [n for n in fetch if n not in weights.KNOWN]
    load = f"a download of {known} MB first" if known else "no download"
    load += f" and {', '.join(others)} from the model hub" if others else ""
    if preset.minutes is None:
        return f"Preset {preset.name}: time and memory were not measured on this kind of machine yet; {load}."
    return (
        f"Preset {preset.name}: about {preset.minutes:g} minutes on two CPU cores, {preset.memory_gb:g} GB of memory, "
        f"{preset.disk_gb:g} GB of disk, {load}. A second run takes seconds."
    )


def quickstart(args: argparse.Namespace) -> int:
    """The main job."""
    from desta_lab.model import presets
    from desta_lab.quickstart import Quickstart
    from desta_lab.views import card

    preset = presets.named(args.preset) if args.preset else presets.pick()
    if args.steps:
        preset = replace(preset, steps=args.steps)
    print(cost(preset), flush=True)
    job = Quickstart(preset, seed=args.seed, out=args.out, progress=bars())
    result = job.run()
    print(card.text(result))
    print(f"Figures and card: {job.out / 'card.html'} ({result['seconds_now']:.0f} s this time)")
    return 0


def ask(args: argparse.Namespace) -> int:
    """A finished run's answer about a clip, with the untouched LLM's text beside it."""
    from desta_lab.quickstart import reopen

    llm, folder = reopen(args.run)
    message = {"role": "user", "content": f"<|AUDIO|>\n{args.question}", "audios": [{"audio": args.clip, "text": None}]}
    from desta_lab.model.chat import SYSTEM

    system = {"role": "system", "content": SYSTEM}
    heard = llm.generate([system, message], with_transcript=args.transcript, max_new_tokens=48)
    deaf = llm.generate([system, {"role": "user", "content": args.question}], max_new_tokens=48)
    print(f"run             {folder.name}")
    if args.transcript:
        print(f"transcript      {heard.audios[0][0][1]}")
    print(f"with the clip   {heard.text[0]}")
    print(f"without it      {deaf.text[0]}   (the untouched LLM, text only)")
    return 0


def doctor(args: argparse.Namespace) -> int:
    """A table of OK and FAIL: Python, torch, device, versions, weights, disk, preset and its cost."""
    rows = list(_checks())
    wide = max(len(name) for name, *_ in rows)
    for name, ok, said in rows:
        print(f"{'OK  ' if ok else 'FAIL'}  {name:<{wide}}  {said}")
    return 0 if all(ok for _, ok, _ in rows) else 1


def _checks() -> Any:
    from packaging.requirements import Requirement

    yield "python", (3, 11) <= sys.version_info[:2] <= (3, 13), f"{platform.python_version()} (3.11 to 3.13)"
    wrong, count = [], 0
    for text in importlib.metadata.requires("desta-lab") or []:
        need = Requirement(re.sub(r";.*extra.*", "", text)) if "extra" not in text else None
        if need is None:
            continue
        count += 1
        try:
            found = importlib.metadata.version(need.name)
            if not need.specifier.contains(found, prereleases=True):
                wrong.append(f"{need.name} {found} is outside {need.specifier}")
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{need.name} is missing")
    remedy = "; run `pip install -c constraints.txt -e .`"
    yield "packages", not wrong, "; ".join(wrong) + remedy if wrong else f"{count} in range"
    import torch

    from desta_lab.model import backbone, presets, weights

    where = presets.device()
    capability = ".".join(map(str, torch.cuda.get_device_capability())) if where.type == "cuda" else "no GPU"
    dtype = str(backbone.fastest_dtype(where)).removeprefix("torch.")
    yield "torch", True, f"{torch.__version__}, {where.type} (compute capability: {capability}), frozen parts in {dtype}"
    preset = presets.pick()
    for name in (preset.encoder, preset.backbone):
        here = Path(name).is_dir() or weights.installed(name)
        known = name in weights.KNOWN
        said = "present" if here else f"will be fetched ({weights.KNOWN[name].download_mb} MB)" if known else "from the hub"
        yield f"weights {name}", here or known or where.type == "cuda", said
    yield "nano weights", (presets.NANO / "model.safetensors").exists(), str(presets.NANO)
    root = weights.models_dir().parent
    free = shutil.disk_usage(root if root.exists() else Path.cwd()).free / 1e9
    need_gb = (preset.disk_gb or 10.0) + 1
    yield "disk", free > need_gb, f"{free:.0f} GB free, {need_gb:g} GB needed"
    yield "preset", True, cost(preset)


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
        print(f"{row['name']:<{wide}}  {row['value']:8.2f} {row['unit']:<3} {aim:<10} {row['detail']}")
    return 0


def nano(args: argparse.Namespace) -> int:
    """Train the nano LLM on text alone, as the shipped weights were trained."""
    from desta_lab.evaluation.tasks import nano_rows
    from desta_lab.model import nano as glass

    model, tokenizer = glass.train(nano_rows(), progress=bars()("nano"))
    glass.save(model, tokenizer, args.folder)
    print(f"Saved to {args.folder}")
    return 0
