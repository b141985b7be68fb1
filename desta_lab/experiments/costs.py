"""What an experiment costs: the seconds of every stage and the peak memory."""

import json
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from desta_lab import cache, processes

# what a file that is no JSON raises, and what other JSON does
_UNREADABLE = (OSError, ValueError, OverflowError, RecursionError)
_OTHER = (LookupError, TypeError, AttributeError)


class StageCosts:
    """Seconds by stage. A stage found on disk keeps the time that it took when it was computed.

    Args:
        path: the file that holds the costs, also those of earlier processes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage without the stages inside it, and write it at once, in case of a kill."""
        begin, inner = time.perf_counter(), sum(self.seconds.values())
        yield
        nested = sum(self.seconds.values()) - inner
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin - nested
        if processes.is_main_rank():
            cache.write_where_allowed(self.path, cache.to_json(self.total()))

    def total(self) -> dict[str, Any]:
        """`seconds` by stage and `peak_memory_gb`, of this process and of those before it."""
        before, peak = self._read_earlier()
        seconds = {
            name: round(max(before.get(name, 0.0), self.seconds.get(name, 0.0)), 1)
            for name in {**before, **self.seconds}
        }
        return {"seconds": seconds, "peak_memory_gb": round(max(peak, _peak_memory_gb()), 2)}

    def _read_earlier(self) -> tuple[dict[str, float], float]:
        """Seconds and peak memory of earlier processes; of a damaged file nothing is known."""
        try:
            found = json.loads(cache.read_text(self.path))
            seconds = {str(name): float(value) for name, value in found["seconds"].items()}
            return seconds, float(found["peak_memory_gb"])
        except (*_UNREADABLE, *_OTHER):
            return {}, 0.0


def _peak_memory_gb() -> float:
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss: bytes there, kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
