"""Examples become padded batches: ids on the right, one row a clip."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from desta_lab.model.chat import SLOT, TokenStream


@dataclass(frozen=True)
class Batch:
    """Streams of several clips, padded on the right, without the `prefix` that all of them share.

    Padding stands behind everything, so a causal backbone never sees it and no mask is needed.
    """

    prefix: tuple[int, ...]
    ids: Int[Tensor, "batch token"]
    labels: Int[
        Tensor, "batch token"
    ]  # the next token where it belongs to a response, IGNORE elsewhere


IGNORE = -100  # torch's default ignore_index


def collate(streams: Sequence[TokenStream], pad_id: int) -> Batch:
    """Pad streams and shift labels: position t is trained on token t+1, responses only."""
    prefix = streams[0].ids[: _first_slot(streams[0])]
    if any(s.ids[: len(prefix)] != prefix or _first_slot(s) != len(prefix) for s in streams):
        prefix = ()
    rows = [s.ids[len(prefix) :] for s in streams]
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), pad_id)
    labels = torch.full((len(rows), longest), IGNORE)
    for i, (row, s) in enumerate(zip(rows, streams, strict=True)):
        ids[i, : len(row)] = torch.tensor(row)
        start = s.start - len(prefix)
        labels[i, start - 1 : len(row) - 1] = ids[i, start : len(row)]
    return Batch(prefix, ids, labels)


def _first_slot(stream: TokenStream) -> int:
    return stream.ids.index(SLOT) if SLOT in stream.ids else 0
