"""Operations that write, run in forked children where a kill, a full disk or a rival meets them.

Started as `python -m tests.faults kill=0,race=8 training,figure FOLDER`; prints one JSON object.
"""

import builtins
import errno
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors.torch
import torch
from safetensors import SafetensorError

from desta_lab import cache
from desta_lab.benchmarks import answers
from desta_lab.benchmarks.benchmark import Item
from desta_lab.cache import Provenance, find_or_make
from desta_lab.clips import Corpus
from desta_lab.experiments import rows
from desta_lab.experiments.costs import StageCosts
from desta_lab.training import features, trainer, writers
from desta_lab.training.targets import SoftTarget, Target, Writer
from desta_lab.views import saving
from desta_lab.world import spoken
from tests import tiny

EVENTS = {  # of Python's audit hooks: those that change a folder, and where their path stands
    "open": 0,
    "os.chmod": 0,
    "os.mkdir": 0,
    "os.remove": 0,
    "os.rename": 0,
    "os.rmdir": 0,
    "os.truncate": 0,
}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC
ROOM = ("open", "write", "os.mkdir")  # events that need room on a disk
REFUSED, DONE = 3, 0


# ---- faults ----


class Fault:
    """What befalls a process at one of its write events under a folder; events are counted."""

    def __init__(self, kind: str, root: Path, at: int = -1, torn: bool = False) -> None:
        self.kind, self.root, self.at, self.torn = kind, f"{root}{os.sep}", at, torn
        self.events: list[str] = []
        self.random = random.Random(at)

    def audit(self, name: str, args: tuple[Any, ...]) -> None:
        if name not in EVENTS or (name == "open" and not args[2] & WRITES):
            return
        path = args[EVENTS[name]]
        path = os.fspath(path) if isinstance(path, str | os.PathLike) else ""
        if str(path).startswith(self.root) and not str(path).endswith(".lock"):
            self.meet(name, str(path), lambda: None)

    def meet(self, name: str, path: str, tear: Callable[[], Any]) -> None:
        """Count one event, and act where it is its turn; `tear` does half of it."""
        self.events.append(name)
        number = len(self.events) - 1
        if self.kind == "race":
            time.sleep(self.random.uniform(0, 0.004))
        elif self.kind == "read-only":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        elif self.kind == "full" and 0 <= self.at <= number:
            if name in ROOM:
                place = () if name == "write" else (path,)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *place)
        elif self.kind == "kill" and number == self.at:
            if self.torn:
                tear()
            os.kill(os.getpid(), signal.SIGKILL)

    def install(self) -> None:
        """For the rest of this process: what Python opens, renames, removes; what it writes."""
        sys.addaudithook(self.audit)
        for module in (builtins, io):
            module.open = self._watched(module.open)  # type: ignore[attr-defined]
        save = safetensors.torch.save_file

        def save_file(tensors: Any, path: Any, **how: Any) -> None:
            def tear() -> None:
                save(tensors, path, **how)
                os.truncate(path, os.path.getsize(path) // 2)

            try:
                self.meet("write", str(path), tear)
            except OSError as error:
                raise SafetensorError(f"I/O error: {error.strerror}") from error
            save(tensors, path, **how)

        safetensors.torch.save_file = save_file

    def _watched(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def opened(path: Any, mode: str = "r", *args: Any, **how: Any) -> Any:
            file = original(path, mode, *args, **how)
            if set(mode) & set("wax+") and str(path).startswith(self.root):
                write = file.write

                def write_watched(content: Any) -> Any:
                    def tear() -> None:
                        write(content[: len(content) // 2])
                        file.flush()

                    self.meet("write", str(path), tear)
                    return write(content)

                file.write = write_watched
            return file

        return opened


# ---- operations ----


def keep(kind: str, make: Callable[[], Any]) -> Callable[[Path], Any]:
    return lambda root: find_or_make(root, Provenance(kind, {"fact": 1}), make)


def table() -> pd.DataFrame:
    return pd.DataFrame({"clip": ["001", "NA", None], "score": [0.5, 1 / 3, 2.0]})


def tensors() -> dict[str, torch.Tensor]:
    return {"b": torch.arange(4.0), "a": torch.ones(2, dtype=torch.float16)}


def pieces() -> dict[str, Any]:
    return {"rows": table(), "soft": tensors(), "about": {"cut": 2}}


def write_manifest(root: Path) -> None:
    """Over that of a corpus with a clip less."""
    tiny.corpus(root / "input", CLIPS)


def tiny_corpus(root: Path) -> Corpus:
    return Corpus.read(root / "input")


def build_corpus(root: Path) -> None:
    spoken.build_spoken_corpus(
        root / "corpora" / "spoken", clips={"train": 3, "test": 1}, seconds=2.0, workers=1
    )


def compute_features(root: Path) -> None:
    words = tiny_corpus(root)
    store = features.FeatureStore(root / "features", LLM.encoder, "e" * 64, words, words.clips)
    store.compute(batch=2)


def write_shards(root: Path) -> None:
    asked = [
        {"id": f"c{i}", "seed_description": f"A sound {i}.", "prompt": "What is it?"}
        for i in range(5)
    ]
    words = tiny.tokenizer()
    writer = Writer(
        "echo", "e" * 64, words, 4, lambda prompts: [(ids[-4:], False) for ids in prompts]
    )
    writers.write_shards(asked, writer, root / "targets", shard=2)


def train(root: Path) -> None:
    words = tiny_corpus(root)
    of = {clip.id: clip for clip in words.clips}
    store = features.OnTheFlyFeatures(LLM.encoder, lambda name: words.path(of[name]))
    recipe = trainer.TrainConfig(steps=5, batch=2, lr=3e-3, warmup=1, checkpoint_every=2)
    folder = trainer.run_folder(root / "runs", "tiny", {"seed": 0})
    if not trainer.is_finished(folder, recipe):
        trainer.train(LLM, store, tiny.examples(words), recipe, folder, state_every=2)


def save_figure(root: Path) -> None:
    picture = saving.Picture(table(), size=(1.0, 1.0))
    saving.save_figure(picture, root / "figures", "one", provenance={"seed": 0})


def answer(root: Path) -> None:
    items = [
        Item(
            id=f"{i}",
            question="What is it?",
            options=("a dog", "cat"),
            clips=(f"{i:03d}.wav",),
            root=root / "input",
            where=f"questions, line {i + 1}",
        )
        for i in range(3)
    ]
    answers.answer_items(LLM, items, root / "answers", {"name": "tiny"}, max_new_tokens=2)


def write_targets(root: Path) -> None:
    pairs = [(f"A sound {i}.", "What is it?") for i in range(5)]

    def write(part: Any, progress: Any) -> tuple[list[Target], list[SoftTarget]]:
        progress(len(part), len(part))
        made = [Target(*pair, "a tone", "self", "tiny", "r", "greedy", False, [1]) for pair in part]
        soft = SoftTarget(torch.ones(1, 2, dtype=torch.int32), torch.zeros(1, 2).half())
        return made, [soft] * len(part)

    facts = {"backbone_sha256": "r", "pairs": pairs}
    rows.find_or_write_parts(
        root, Provenance("targets", facts), pairs, write, lambda done, total: None
    )


def note_costs(root: Path) -> None:
    costs = StageCosts(root / "costs" / "tiny.json")
    costs.total = lambda: {"seconds": {}, "peak_memory_gb": 1.0}  # type: ignore[method-assign]
    with costs.stage("features"):
        pass


def write_whole(root: Path) -> None:
    cache.write_whole(root / "cards" / "card.json", b'{"verdict": "none"}\n')
    cache.write_whole(root / "cards" / "card.json", b'{"verdict": "confirmed"}\n')


OPERATIONS: dict[str, Callable[[Path], Any]] = {
    "table": keep("scores", table),
    "tensors": keep("sites", tensors),
    "data": keep("coverage", lambda: {"share": 0.5}),
    "pieces": keep("cells", pieces),
    "whole files": write_whole,
    "costs": note_costs,
    "manifest": write_manifest,
    "spoken corpus": build_corpus,
    "features": compute_features,
    "targets": write_targets,
    "shards of targets": write_shards,
    "training": train,
    "figure": save_figure,
    "answers": answer,
}
QUICK = tuple(name for name in OPERATIONS if name not in ("spoken corpus", "figure", "answers"))
UNFOUND = ("whole files", "shards of targets", "figure", "answers")
FOUND = tuple(name for name in OPERATIONS if name not in UNFOUND)  # only read what is whole
INPUTS = ("manifest", "features", "training", "answers")  # operations that read a corpus
CLIPS = 5
UNREAD = (".lock", "state.safetensors")
LLM: Any = None


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes: a full disk, to whatever writes there and however."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# ---- children ----


def run_child(
    operation: Callable[[Path], Any], folder: Path, fault: Fault, begin: int | None = None
) -> int:
    """Fork a child that runs an operation under a fault; returns its process number."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        if begin is not None:
            os.read(begin, 1)
        torch.set_num_threads(1)
        fault.install()
        error = None
        try:
            operation(folder)
        except (ValueError, RuntimeError, OSError) as caught:
            error = f"{type(caught).__name__}: {caught}"
        fault.kind = "none"
        report = {"events": fault.events, "error": error}
        folder.with_suffix(f".{os.getpid()}.report").write_text(json.dumps(report))
        status = DONE if error is None else REFUSED
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def ended(child: int, folder: Path) -> tuple[int, dict[str, Any]]:
    """The exit status of a child (a signal is negative), and its report, if it wrote one."""
    _, status = os.waitpid(child, 0)
    path = folder.with_suffix(f".{child}.report")
    report = json.loads(path.read_text()) if path.exists() else {}
    path.unlink(missing_ok=True)
    return os.waitstatus_to_exitcode(status), report


def content(folder: Path) -> dict[str, Any]:
    """Every file under a folder by name, but locks, and the state of a run, which nobody reads
    once it is finished; of records, all but the seconds they took.
    """
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_dir() or path.suffix == ".lock" or path.name in UNREAD:
            continue
        found[str(path.relative_to(folder))] = read_plain(path)
    return found


def read_plain(path: Path) -> Any:
    if path.name != "records.jsonl":
        return path.read_bytes()
    return [json.loads(line) | {"seconds": 0} for line in path.read_text().splitlines()]


class Bench:
    """One operation, its undisturbed result, and copies of its input to try faults on."""

    def __init__(self, name: str, place: Path) -> None:
        self.name, self.operation = name, OPERATIONS[name]
        self.place = place / name.replace(" ", "-")
        self.input = self.place / "input"
        self.input.mkdir(parents=True)
        if name in INPUTS:
            tiny.corpus(self.input / "input", CLIPS - (name == "manifest"))
        whole = self.copy("whole")
        status, report = self.run(whole, Fault("none", whole))
        if status != DONE:
            raise RuntimeError(f"{name} fails undisturbed: {report}")
        self.events, self.whole = report["events"], content(whole)
        if any(".part" in path for path in self.whole):
            raise RuntimeError(f"{name} leaves a draft: {list(self.whole)}")

    def copy(self, name: str) -> Path:
        folder = self.place / name
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.input, folder)
        return folder

    def run(self, folder: Path, fault: Fault) -> tuple[int, dict[str, Any]]:
        return ended(run_child(self.operation, folder, fault), folder)

    def points(self) -> list[tuple[int, bool]]:
        """Before every event, and in the middle of every write."""
        before = [(at, False) for at in range(len(self.events))]
        return before + [(at, True) for at, name in enumerate(self.events) if name == "write"]

    def try_fault(self, kind: str, at: int, torn: bool) -> str | None:
        """What goes wrong when a fault comes at this event; None where nothing does."""
        folder = self.copy("faulty")
        status, report = self.run(folder, Fault(kind, folder, at, torn))
        if kind == "kill" and status != -signal.SIGKILL:
            return f"was not killed, but ended with {status}: {report}"
        if kind == "full":
            if status == REFUSED and not is_sentence(report["error"], folder):
                return f"no sentence: {report['error']!r}"
            if status not in (REFUSED, DONE):
                return f"ended with {status}"
            if drafts := [name for name in content(folder) if is_half(name)]:
                return f"leaves {drafts}"
        return self.try_again(folder)

    def try_again(self, folder: Path) -> str | None:
        status, report = self.run(folder, Fault("none", folder))
        if status != DONE:
            return f"the next run ended with {status}: {report.get('error')}"
        return self.compare(folder)

    def compare(self, folder: Path) -> str | None:
        now = content(folder)
        other = sorted(
            name for name in now.keys() | self.whole.keys() if now.get(name) != self.whole.get(name)
        )
        return f"another result: {', '.join(other)}" if other else None

    def try_race(self, seed: int) -> str | None:
        """Two processes begin the same on one empty folder."""
        folder = self.copy("shared")
        gate, opener = os.pipe()
        faults = [Fault("race", folder, 2 * seed + n) for n in range(2)]
        children = [run_child(self.operation, folder, fault, gate) for fault in faults]
        os.write(opener, b"go")
        ends = [ended(child, folder) for child in children]
        os.close(gate), os.close(opener)
        refused = [report.get("error") for status, report in ends if status == REFUSED]
        if any(status not in (DONE, REFUSED) for status, _ in ends) or len(refused) > 1:
            return f"ended with {ends}"
        if refused and not ("another" in refused[0] and is_sentence(refused[0], folder)):
            return f"no sentence: {refused[0]!r}"
        return self.compare(folder)

    def try_all(self, kind: str, limit: int) -> list[tuple[str, str | None]]:
        """Where a fault came, and what went wrong: at most `limit` of all places; 0 is all."""
        if kind == "race":
            return [(f"race {seed}", self.try_race(seed)) for seed in range(limit)]
        if kind == "read-only":
            return [(kind, self.try_read_only())] if self.name in FOUND else []
        points = [
            one
            for one in self.points()
            if kind == "kill" or (self.events[one[0]] in ROOM and not one[1])
        ]
        return [
            (f"{at} {self.events[at]}{' torn' * torn}", self.try_fault(kind, at, torn))
            for at, torn in spread(points, limit)
        ]

    def try_read_only(self) -> str | None:
        """What is whole is found again where nothing may be written."""
        folder = self.copy("read-only")
        self.run(folder, Fault("none", folder))
        status, report = self.run(folder, Fault("read-only", folder))
        return f"ended with {status}: {report}" if status != DONE else self.compare(folder)


def is_half(name: str) -> bool:
    """Whether a file is a draft, and not the one that a build goes on with."""
    return name.endswith(".part") or ".part/" in name.replace(".spoken.part/", "")


def is_sentence(error: str, folder: Path) -> bool:
    """Whether an error is one line that names the place."""
    return "\n" not in error and str(folder) in error


def spread(items: list[Any], limit: int) -> list[Any]:
    """At most so many of some items, evenly; the last is among them."""
    if limit <= 0 or len(items) <= limit:
        return items
    return [items[round((i + 1) * (len(items) - 1) / limit)] for i in range(limit)]


def main(kinds: str, names: str, place: Path) -> None:
    """Try faults (`kill=2,race=1`: so many trials of each operation; 0 is all) and print JSON."""
    global LLM
    torch.set_num_threads(1)
    features.SHARD, rows.PART = 2, 2
    LLM = tiny.audio_llm(dropout=0.0)
    place.mkdir(parents=True, exist_ok=True)
    tempfile.tempdir = str(place)
    trials: dict[str, dict[str, int]] = {}
    wrong: list[str] = []
    for name in names.split(","):
        bench = Bench(name, place)
        for kind, limit in (one.split("=") for one in kinds.split(",")):
            tried = bench.try_all(kind, int(limit))
            trials.setdefault(kind, {})[name] = len(tried)
            wrong += [f"{kind}, {name}, {at}: {fault}" for at, fault in tried if fault]
        shutil.rmtree(bench.place)
    print(json.dumps({"trials": trials, "faults": wrong}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
