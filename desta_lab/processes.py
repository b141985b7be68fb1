"""Several processes on one job: whose part is whose. A process alone pays nothing and opens no process group.

`accelerate launch` and torchrun start the processes, one a rank, and tell each its number. Every rank makes the calls
marked *together*, in the same order. All see one data folder; rank 0 alone writes what there is only one of.
"""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

PATIENCE = timedelta(hours=1)  # with a rank that hangs: one that died is noticed at once

Item = TypeVar("Item")
Result = TypeVar("Result")


def world_size() -> int:
    """How many processes share this job; 1 unless a launcher says otherwise."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1


def rank() -> int:
    """The number of this process, from 0."""
    return int(os.environ["RANK"]) if world_size() > 1 else 0


def is_main_rank() -> bool:
    """Whether this is rank 0, which speaks and writes for all."""
    return rank() == 0


def share_of_rank(items: Sequence[Item]) -> Sequence[Item]:
    """Every world-th item: this rank's part of a list that all ranks have."""
    return items[rank() :: world_size()]


@contextmanager
def main_first() -> Iterator[None]:
    """Together: rank 0 goes through the block before the others, which then find what it made."""
    if not is_main_rank():
        wait_for_all()
    yield
    if is_main_rank():
        wait_for_all()


def wait_for_all() -> None:
    """Together: go on when all have come here."""
    if world_size() > 1:
        with _others():
            _state().wait_for_everyone()


def broadcast(value: Result) -> Result:
    """Together: what rank 0 says."""
    if world_size() == 1:
        return value
    from accelerate.utils import broadcast_object_list

    with _others():
        return broadcast_object_list([value])[0]


def map_over_ranks(
    items: Sequence[Item],
    work: Callable[[Item], Result],
    progress: Callable[[int, int], None] | None = None,
) -> list[Result]:
    """Together: the results of all items, in their order, each worked out by one rank and known to all.

    `progress` is told how far this rank's part brings the whole, as all are about as fast.
    """
    done: list[Result] = []
    for item in share_of_rank(items):
        done.append(work(item))
        if progress:
            progress(min(len(done) * world_size(), len(items)), len(items))
    if world_size() == 1:
        return done
    from accelerate.utils import gather_object

    with _others():
        parts: list[list[Result]] = gather_object([done])
    return [parts[i % world_size()][i // world_size()] for i in range(len(items))]


def sum_over_ranks(tensors: Sequence[Any]) -> None:
    """Together: put into every tensor the sum of it over all ranks."""
    if world_size() > 1:
        import torch

        with _others():
            for tensor in tensors:
                torch.distributed.all_reduce(tensor)


def join_ranks() -> None:
    """Together: find each other, and take the GPU of this rank's number where there are GPUs."""
    if world_size() > 1:
        _state()


def leave_ranks() -> None:
    """Together: close the process group, at the very end."""
    if world_size() > 1:
        wait_for_all()
        _state().destroy_process_group()


@cache
def _state() -> Any:
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # a launcher's, like Ctrl+C, leaves time for last words
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)


@contextmanager
def _others() -> Iterator[None]:
    """What the backend says when another rank is gone, as a sentence."""
    _state()
    try:
        yield
    except RuntimeError as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # this rank ends by itself, with these words
        fault = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RuntimeError(
            f"Rank {rank()} of {world_size()} has lost another rank, whose own last words, or the launcher's, say why "
            f"({fault}); run the same command again, and it goes on where it was."
        ) from error
