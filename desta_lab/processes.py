"""Several processes: the ranks of one job, worker processes of this machine, jobs of a cluster.

`accelerate launch` and torchrun start the ranks and tell each its number. A function marked
*collective* must be called by every rank, in the same order, and never inside a block that only one
rank enters. All ranks see one data folder; rank 0 alone writes what there is only one of. A process
alone opens no process group.
"""

import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

TIMEOUT = timedelta(hours=1)  # for a rank that hangs; one that died is noticed at once
TASKS_PER_WORKER = 8  # then a new process takes its place, which frees memory
_STOPPED = (2, 15, -2, -15, 130, 143)  # exit statuses of a process that a person stopped

Item = TypeVar("Item")
Result = TypeVar("Result")
Task = TypeVar("Task")


# ---- the ranks of one job ----


def world_size() -> int:
    """Return how many processes share this job; 1 unless a launcher says otherwise."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return int(os.environ["RANK"]) if world_size() > 1 else 0


def is_main_rank() -> bool:
    """Return whether this is rank 0, which speaks and writes for all."""
    return rank() == 0


def share_of_rank(items: Sequence[Item]) -> Sequence[Item]:
    """Return this rank's part of a list that all ranks have: every world-th item."""
    return items[rank() :: world_size()]


@contextmanager
def main_first() -> Iterator[None]:
    """Collective: let rank 0 run the block before the others, which then find what it made."""
    if not is_main_rank():
        wait_for_all()
    yield
    if is_main_rank():
        wait_for_all()


def wait_for_all() -> None:
    """Collective: go on when all ranks have come here."""
    if world_size() > 1:
        with _lost_rank_explained():
            _state().wait_for_everyone()


def broadcast(value: Result) -> Result:
    """Collective: return the value that rank 0 passes."""
    if world_size() == 1:
        return value
    from accelerate.utils import broadcast_object_list

    with _lost_rank_explained():
        return broadcast_object_list([value])[0]


def map_over_ranks(
    items: Sequence[Item],
    work: Callable[[Item], Result],
    progress: Callable[[int, int], None] | None = None,
) -> list[Result]:
    """Collective: return the results of all items in their order, each worked out by one rank.

    `progress` is called with (items done, items in all), counting that all ranks are about as fast.
    """
    done: list[Result] = []
    for item in share_of_rank(items):
        done.append(work(item))
        if progress:
            progress(min(len(done) * world_size(), len(items)), len(items))
    if world_size() == 1:
        return done
    from accelerate.utils import gather_object

    with _lost_rank_explained():
        parts: list[list[Result]] = gather_object([done])
    return [parts[i % world_size()][i // world_size()] for i in range(len(items))]


def sum_over_ranks(tensors: Sequence[Any]) -> None:
    """Collective: put into every tensor the sum of it over all ranks."""
    if world_size() > 1:
        import torch

        with _lost_rank_explained():
            for tensor in tensors:
                torch.distributed.all_reduce(tensor)


def join_ranks() -> None:
    """Collective: connect the ranks; each takes the GPU of its number where there are GPUs."""
    if world_size() > 1:
        _state()


def leave_ranks() -> None:
    """Collective: close the process group, at the very end."""
    if world_size() > 1:
        wait_for_all()
        _state().destroy_process_group()


@cache
def _state() -> Any:
    """Accelerate's state of this rank; a launcher's SIGTERM now lets it say a last sentence."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available(), timeout=TIMEOUT)


class LostRankError(RuntimeError):
    """Another rank is gone; the message says what to do."""


@contextmanager
def _lost_rank_explained() -> Iterator[None]:
    """Turn the backend's error about a lost rank into one sentence."""
    _state()
    try:
        yield
    except RuntimeError as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # this rank ends by itself, with these words
        fault = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise LostRankError(
            f"Rank {rank()} of {world_size()} has lost another rank, whose own last words, or the "
            f"launcher's, say why ({fault}); run the same command again: it goes on where it was."
        ) from error


# ---- memory ----


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error of torch or Python says that memory, of GPU or CPU, ran out."""
    if isinstance(error, MemoryError):
        return True
    own = type(error).__module__.startswith(__package__)
    said = ("out of memory", "ALLOC_FAILED", "can't allocate memory", "not enough memory")
    return isinstance(error, RuntimeError) and not own and any(w in str(error) for w in said)


def explain_memory(error: BaseException, options: Sequence[str]) -> str:
    """Return a sentence about such an error, with the options of a command that need less."""
    size = re.search(r"allocate ([\d.]+ \w+)", str(error))
    place = "GPU" if "CUDA" in str(error) else "machine"
    fault = f"The {place} has no memory for another {size[1] if size else 'tensor'}"
    less = f", or take less by {' or '.join(options)}" if options else ""
    return f"{fault}; end other programs that use it{less}."


# ---- worker processes and cluster jobs ----


def run_workers(
    work: Callable[[Task], Any], tasks: Sequence[Task], jobs: int
) -> Iterator[tuple[int, str | None]]:
    """Run tasks in worker processes of this machine that share its cores and GPUs.

    Yields the number of every task when it ends, and how it ended in words: None if it was done or
    a person stopped it. A worker that dies ends its task alone. `work` is a function of an
    importable module, as its workers import it.

    Raises:
        ValueError: workers would run the script that starts them, as it has no `if __name__`.
    """
    from pebble import ProcessExpired, ProcessPool

    _check_guarded(sys.modules["__main__"])
    pools = [
        ProcessPool(
            max_workers=1,
            max_tasks=TASKS_PER_WORKER,
            initializer=_start_worker,
            initargs=(worker_environment(slot, jobs, visible_gpus()), os.getpid()),
            context=multiprocessing.get_context("spawn"),
        )
        for slot in range(jobs)
    ]
    free: SimpleQueue[Any] = SimpleQueue()
    for pool in pools:
        free.put(pool)

    def run(task: Task) -> str | None:
        pool = free.get()
        try:
            pool.schedule(work, args=(task,)).result()
        except ProcessExpired as error:
            stopped = error.exitcode in _STOPPED
            return None if stopped else f"Its process ended with status {error.exitcode}"
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        finally:
            free.put(pool)
        return None

    threads = ThreadPoolExecutor(jobs)
    try:
        futures = {threads.submit(run, task): number for number, task in enumerate(tasks)}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for pool in pools:
            pool.stop()
        for pool in pools:
            pool.join()


def _check_guarded(main: Any) -> None:
    """Refuse a script, which every worker imports, that would start workers in each of them."""
    path = getattr(main, "__file__", None)
    if path is None or main.__spec__ is not None:  # a notebook, or started by the name of a module
        return
    if b"__name__" not in Path(path).read_bytes():
        raise ValueError(
            f"{path}: worker processes import this script; put what it does below "
            '`if __name__ == "__main__":`, or take jobs=1.'
        )


def run_on_slurm(
    work: Callable[[Task], Any],
    tasks: Sequence[Task],
    folder: Path,
    cluster: str | None = None,
    **parameters: Any,
) -> Iterator[tuple[int, str | None]]:
    """Run tasks as one array of Slurm jobs, with submitit's parameters; logs go to the folder.

    Yields as `run_workers` does, but says of every job that it ended, as a cluster may end a job
    without an error. Raises ValueError if submitit is not installed.
    """
    try:
        submitit = import_module("submitit")
    except ImportError as error:
        remedy = '`pip install "desta-lab[slurm]"`'
        raise ValueError(f"Slurm needs the package submitit: {remedy}.") from error
    executor = submitit.AutoExecutor(folder, cluster=cluster)
    executor.update_parameters(**{"name": "desta-lab", **parameters})
    with executor.batch():
        jobs = [executor.submit(work, task) for task in tasks]
    numbers = {id(job): number for number, job in enumerate(jobs)}
    for job in submitit.helpers.as_completed(jobs, poll_frequency=1):
        fault = job.exception()
        last_line = str(fault).strip().splitlines()[-1:] if fault else []
        yield numbers[id(job)], ": ".join([f"Its job {'failed' if fault else 'ended'}", *last_line])


def _start_worker(environment: dict[str, str], main: int) -> None:
    """Set what libraries read when a worker first imports them, and let it end with its parent."""
    os.environ.update(environment)
    end_with(main)


@cache
def end_with(main: int) -> None:
    """Let this worker end within a second of the process that started it, even if that is killed.

    In that process itself nothing happens.
    """

    def wait() -> None:
        while os.getppid() == main:
            time.sleep(1)
        os._exit(1)

    if os.getpid() != main:
        threading.Thread(target=wait, daemon=True).start()


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    every = ",".join(map(str, range(torch.cuda.device_count())))
    return [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", every).split(",") if name]


def worker_environment(slot: int, jobs: int, gpus: Sequence[str]) -> dict[str, str]:
    """Return the environment of a worker: its share of the cores, and one GPU in turn."""
    cores = os.cpu_count() or 1
    with suppress(AttributeError):  # not on every system
        cores = len(os.sched_getaffinity(0))
    threads = min(max(1, cores // jobs), int(os.environ.get("OMP_NUM_THREADS") or cores))
    environment = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    return environment | ({"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if gpus else {})
