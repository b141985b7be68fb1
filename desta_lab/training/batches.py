"""Rows become examples (token streams with their clips), examples micro-batches, padded."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float16, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from desta_lab.model import chat
from desta_lab.model.audio_llm import AudioLLM
from desta_lab.model.chat import SLOT, TokenStream
from desta_lab.training.targets import SoftTarget

IGNORE = -100  # torch's default ignore_index


@dataclass(frozen=True)
class Example:
    """One training row as the backbone reads it, its clip's name, and its soft target if any."""

    stream: TokenStream
    clip: str
    soft_target: SoftTarget | None


def example_reader(
    llm: AudioLLM, rows: Sequence[Any], soft_targets: Sequence[SoftTarget] | None, cached: int
) -> Callable[[int], Example]:
    """Return a function from a row's number to its example; it keeps the last `cached` of them.

    `rows` are mappings, each of which may be read from disk when it is asked for. The function
    raises ChatError, with the number of the row, where a row is longer than the backbone can read,
    has nothing to learn, or is not what its soft target was made of.

    Raises:
        ValueError: there are no rows, or not one soft target a row.
    """
    if not rows:
        raise ValueError("There are no rows to train on; give one at least.")
    if soft_targets is not None and len(soft_targets) != len(rows):
        fault = f"There are {len(rows)} rows and {len(soft_targets)} soft targets"
        raise ValueError(f"{fault}; give one for each.")

    @lru_cache(maxsize=cached)
    def read(number: int) -> Example:
        row = rows[number]
        about = row.get("provenance") or {}
        own = about.get("revision") == llm.provenance.get("backbone_sha256")
        try:
            stream = llm.build_stream(
                row["messages"],
                response=row["response"],
                response_ids=row.get("response_ids") if own else None,
                truncated=about.get("truncated", False),
                transcripts=row.get("transcripts"),
            )
        except chat.ChatError as error:
            raise chat.ChatError(f"Example {number + 1} ({row['id']}): {error}") from error
        soft_target = soft_targets[number] if soft_targets else None
        learned = len(stream.response)
        fault = ""
        if not learned:
            fault = "its response is empty and was cut off; take the row out"
        elif soft_target is not None and len(soft_target.ids) != learned:
            fault = f"it learns {learned} tokens and its soft target has {len(soft_target.ids)}"
            fault += "; write both again"
        if fault:
            raise chat.ChatError(f"Example {number + 1} ({row['id']}): {fault}.")
        return Example(stream, row.get("clip", row["id"]), soft_target)

    return read


# ---- ahead of the step ----


@dataclass(frozen=True)
class MicroBatch:
    """Examples that are computed at once, and how many tokens their whole batch learns.

    `states` are those of the encoder, None where it has to run for them.
    """

    examples: Sequence[Example]
    tokens: int
    states: Float16[Tensor, "layer batch frame d_enc"] | None = None


@contextmanager
def read_ahead(
    read: Callable[[int, int], MicroBatch], places: Iterable[tuple[int, int]]
) -> Iterator[Iterator[MicroBatch]]:
    """The micro-batches of places (step, number), in their order, one of them read ahead.

    One thread reads the next while one is learned; it ends with the block, however that ends. An
    error of `read` is raised where its own micro-batch is asked for.
    """
    thread = ThreadPoolExecutor(1)

    def results() -> Iterator[MicroBatch]:
        ahead = None
        for place in places:
            now, ahead = ahead, thread.submit(read, *place)
            if now:
                yield now.result()
        if ahead:
            yield ahead.result()

    try:
        yield results()
    finally:
        thread.shutdown(cancel_futures=True)


# ---- padded ----


@dataclass(frozen=True)
class Batch:
    """Streams of several clips, padded on the right, without the `prefix` that all of them share.

    `labels` holds the next token where it belongs to a response, and IGNORE elsewhere. Padding
    stands behind everything, so a causal backbone never sees it and no mask is needed.
    """

    prefix: tuple[int, ...]
    ids: Int[Tensor, "batch token"]
    labels: Int[Tensor, "batch token"]


def collate(streams: Sequence[TokenStream], pad_id: int) -> Batch:
    """Pad streams and shift labels: position t is trained on token t+1, responses only."""
    prefix = _shared_prefix(streams)
    rows = [torch.tensor(stream.ids[len(prefix) :]) for stream in streams]
    ids = pad_sequence(rows, batch_first=True, padding_value=pad_id)
    labels = torch.full_like(ids, IGNORE)
    for learned, row, stream in zip(labels, rows, streams, strict=True):
        start = stream.start - len(prefix)
        learned[start - 1 : len(row) - 1] = row[start:]
    return Batch(prefix, ids, labels)


def _shared_prefix(streams: Sequence[TokenStream]) -> tuple[int, ...]:
    """The tokens before the first audio slot, if they are the same in all streams; else none."""
    before_audio = {
        stream.ids[: stream.ids.index(SLOT)] if SLOT in stream.ids else () for stream in streams
    }
    return before_audio.pop() if len(before_audio) == 1 else ()
