"""Progress for people: a bar where there is a terminal or a notebook, a line every few seconds elsewhere."""

import sys
import time
from collections.abc import Callable
from typing import Any

SLOW = 5.0  # seconds between two lines of progress where there is no terminal


def progress_reporter(stream: Any = None) -> Callable[[str], Callable[..., None]]:
    """Progress for people: a bar on a terminal or in a notebook, a line every few seconds elsewhere."""
    out = stream or sys.stderr
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if out.isatty() or (stream is None and hasattr(shell, "kernel")):
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
            print(
                f"{stage}: {done}/{total}{loss}, {now:.0f} s, {left:.0f} s left",
                file=out,
                flush=True,
            )

    return tell
