"""Progress for people: a bar on a terminal or in a notebook, elsewhere a line every few seconds;
and for trackers of experiments.
"""

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, TypeVar

from tqdm.auto import tqdm

SECONDS_BETWEEN_LINES = 5.0  # where there is no terminal
SECONDS_BETWEEN_BARS = 0.5  # in a notebook
LEAST_SECONDS = 2.0  # that a bar stays

Item = TypeVar("Item")
Progress = Callable[[str], Callable[..., None]]  # a stage → what is called with (done, total)


def no_progress(stage: str) -> Callable[..., None]:
    """Report no progress."""
    return lambda *news: None


def report_each(items: Sequence[Item], report: Callable[..., None]) -> Iterator[Item]:
    """The items one by one; the number that are done is reported after each."""
    for done, item in enumerate(items, 1):
        yield item
        report(done, len(items))


def progress_reporter(stream: Any = None) -> Progress:
    """A function that gives for the name of a stage what its progress is reported to.

    That takes the number done, the total and, of training, the last record (`loss`); or a sentence
    alone. `stream` is standard error by default.
    """
    out = stream or sys.stderr
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if stream is None and hasattr(shell, "kernel"):
        return _report_in_notebook
    if out.isatty():
        return _report_by_bar
    return lambda stage: _report_by_lines(stage, out)


def _report_in_notebook(stage: str) -> Callable[..., None]:
    """A bar in the cell's output, which is empty at the end; a saved page would keep a widget's."""
    from IPython.display import display

    handle: Any = None
    begin = shown = time.perf_counter()

    def show(done: int, total: int, *records: Any) -> None:
        nonlocal handle, shown
        now = time.perf_counter()
        if done >= total:
            if handle is not None:
                handle.update({"text/plain": ""}, raw=True)
        elif now - begin > 1 and now - shown > SECONDS_BETWEEN_BARS:
            shown = now
            left = _seconds_left(now - begin, done, total)
            line = f"{_say_done(stage, done, total, *records)}, {left:.0f} s left"
            bar = f'<progress max="{total}" value="{done}"></progress> {escape(line)}'
            content = {"text/plain": line, "text/html": bar}
            if handle is not None:
                handle.update(content, raw=True)
            elif left >= LEAST_SECONDS:
                handle = display(content, raw=True, display_id=True)

    return _by_kind(print, show)


def _report_by_bar(stage: str) -> Callable[..., None]:
    """A bar where a second is over and more are to come, so none flashes."""
    bar: Any = None
    begin = time.perf_counter()

    def show(done: int, total: int, *records: Any) -> None:
        nonlocal bar
        if bar is None:
            now = time.perf_counter() - begin
            if now < 1 or _seconds_left(now, done, total) < LEAST_SECONDS:
                return
            bar = tqdm(total=total, desc=stage, initial=done)
        bar.update(done - bar.n)
        if records:
            bar.set_postfix(loss=f"{records[0]['loss']:.3f}")
        if done >= total:
            bar.close()

    return _by_kind(tqdm.write, show)


def _report_by_lines(stage: str, out: Any) -> Callable[..., None]:
    begin, last, say = time.perf_counter(), 0.0, partial(print, file=out, flush=True)

    def show(done: int, total: int, *records: Any) -> None:
        nonlocal last
        now = time.perf_counter() - begin
        if done and (now - last >= SECONDS_BETWEEN_LINES or done >= total):
            last, left = now, _seconds_left(now, done, total)
            say(f"{_say_done(stage, done, total, *records)}, {now:.0f} s, {left:.0f} s left")

    return _by_kind(say, show)


def _by_kind(say: Callable[[str], Any], show: Callable[..., None]) -> Callable[..., None]:
    """What says a sentence that comes alone, and shows any other news."""
    return lambda *news: (say if isinstance(news[0], str) else show)(*news)


def _say_done(stage: str, done: int, total: int, *records: Any) -> str:
    loss = "".join(f", loss {record['loss']:.3f}" for record in records)
    return f"{stage}: {done}/{total}{loss}"


def _seconds_left(seconds: float, done: int, total: int) -> float:
    """What is left after so many seconds, at the same pace."""
    return seconds / max(done, 1) * (total - done)


# ---- trackers ----

# name → the packages of which one is needed
TRACKERS = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "trackio": ("trackio",),
}
PROJECT = "desta_lab"  # the name under which Weights & Biases and Trackio keep runs


def open_trackers(name: str, folder: Path) -> Callable[[str], Any]:
    """A function that opens a tracker of accelerate for a run of a name.

    Args:
        name: one of `TRACKERS`.
        folder: where TensorBoard and Weights & Biases keep their files.

    Raises:
        ImportError: its package is not installed.
    """
    packages = TRACKERS[name]
    if not any(importlib.util.find_spec(package) for package in packages):
        raise ImportError(
            f"The tracker {name} needs the package {packages[0]}; run `pip install {packages[0]}`, "
            "or leave --track out."
        )

    def open_tracker(run: str) -> Any:
        from accelerate import tracking

        tracker: Any
        if name == "tensorboard":
            tracker = tracking.TensorBoardTracker(run, folder)
        elif name == "wandb":
            folder.mkdir(parents=True, exist_ok=True)
            tracker = tracking.WandBTracker(PROJECT, name=run, dir=str(folder))
        else:
            tracker = tracking.TrackioTracker(PROJECT, name=run)
        tracker.start()
        return tracker

    return open_tracker
