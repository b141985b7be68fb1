"""Ways to get tasks done: by processes that share this machine, or on a Slurm cluster.

Each yields, as tasks end, the number of the task and how it ended, in words; None where it was done or a person stopped
it.
"""

import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch

DONE = "task done"  # what a worker prints after each task
MOST = 8  # tasks of one worker: memory that it does not give back ends with it
_STOPPED = (-2, -15, 130, 143)  # exit statuses of a process that a person stopped


def run_workers(
    command: list[str], tasks: Sequence[str], jobs: int
) -> Iterator[tuple[int, str | None]]:
    """So many workers on this machine, each with its `share`; all end with the caller.

    A worker is the command: it reads a task a line from its standard input, and prints `DONE` on a line of its own when
    it is done with it. One that dies ends its task. Another takes its place, and that of one with `MOST` behind it.
    """
    workers: list[Worker] = []
    slots: SimpleQueue[tuple[dict[str, str], Worker | None]] = SimpleQueue()
    for slot in range(jobs):
        slots.put((worker_environment(slot, jobs, visible_gpus()), None))

    def one(task: str) -> str | None:
        mine, worker = slots.get()
        if worker is None:
            worker = Worker(command, os.environ | mine)
            workers.append(worker)
        how = worker.do(task)
        if how is None and worker.process.poll() is None and worker.done < MOST:
            slots.put((mine, worker))
        else:
            worker.end()
            slots.put((mine, None))
        return how

    pool = ThreadPoolExecutor(jobs)
    try:
        futures = {pool.submit(one, task): i for i, task in enumerate(tasks)}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.end()


class Worker:
    """A process that does one task after the other."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.done = 0
        self.said = tempfile.TemporaryFile("a+b")  # noqa: SIM115 (closed by `end`; written at its end, read anywhere)
        pipes: dict[str, Any] = {
            "stdin": subprocess.PIPE,
            "stdout": subprocess.PIPE,
            "stderr": self.said,
        }
        self.process = subprocess.Popen(command, env=environment, text=True, **pipes)

    def do(self, task: str) -> str | None:
        """Hand over a task and wait; how the process ended, in words, if it did not get to the end of it."""
        begin, stdin, stdout = (
            os.fstat(self.said.fileno()).st_size,
            self.process.stdin,
            self.process.stdout,
        )
        assert stdin and stdout
        with suppress(BrokenPipeError):  # it died already: there is no line to read below, either
            stdin.write(f"{task}\n")
            stdin.flush()
        if any(line == f"{DONE}\n" for line in stdout):
            self.done += 1
            return None
        status = self.process.wait()
        self.said.seek(begin)
        said = self.said.read().decode(errors="replace")
        return (
            None if status in _STOPPED else _words(f"Its process ended with status {status}", said)
        )

    def end(self) -> None:
        """Stop the process, whatever it does, and close its files."""
        self.process.terminate()
        self.process.wait()
        for file in (self.process.stdin, self.process.stdout, self.said):
            with suppress(BrokenPipeError):
                file.close()  # type: ignore[union-attr]


def run_on_slurm(
    commands: Sequence[list[str]], folder: Path, cluster: str | None = None, **how: Any
) -> Iterator[tuple[int, str | None]]:
    """As one array of jobs, with submitit's parameters; its logs go to the folder.

    Raises:
        ValueError: submitit is not installed.
    """
    try:
        submitit = import_module("submitit")
    except ImportError as error:
        raise ValueError(
            'Slurm needs the package submitit: `pip install "desta-lab[slurm]"`.'
        ) from error
    executor = submitit.AutoExecutor(folder, cluster=cluster)
    executor.update_parameters(**{"name": "desta-lab", **how})
    functions = [submitit.helpers.CommandFunction(command, verbose=False) for command in commands]
    with executor.batch():
        jobs = [executor.submit(function) for function in functions]
    numbers = {id(job): i for i, job in enumerate(jobs)}
    for job in submitit.helpers.as_completed(jobs, poll_frequency=1):
        fault = job.exception()
        yield numbers[id(job)], _words("Its job failed", str(fault)) if fault else "Its job ended"


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    every = ",".join(map(str, range(torch.cuda.device_count())))
    return [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", every).split(",") if name]


def worker_environment(slot: int, jobs: int, graphics: list[str]) -> dict[str, str]:
    """The environment of one of several processes: its part of the cores, and one GPU in turn."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    own = min(max(1, cores // jobs), int(os.environ.get("OMP_NUM_THREADS") or cores))
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(own))
    return threads | ({"CUDA_VISIBLE_DEVICES": graphics[slot % len(graphics)]} if graphics else {})


def _words(how: str, said: str) -> str:
    """How something ended, and the last line that it said."""
    return ": ".join([how, *said.strip().splitlines()[-1:]])
