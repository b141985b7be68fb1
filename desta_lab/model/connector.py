"""The connector, the only part that learns: query tokens turn encoder states into embeddings."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from desta_lab.model.bounds import Count, Share, check_bounds


@dataclass(frozen=True)
class ConnectorShape:
    """Sizes of the connector; the defaults are those of DeSTA2.5-Audio."""

    kind: str = "qformer"  # one of `CONNECTORS`
    queries: Count = 64
    depth: Count = 6
    heads: Count = 20
    ffn: Count = 3072
    width: Count | None = None  # of a narrower Q-Former; None: the encoder's
    pool: Count = 1  # neighbouring frames averaged before they are read
    post_norm: bool = True
    dropout: Share = 0.1
    scaled: bool = False  # multiply the output by the backbone's embedding scale
    anchored: bool = False  # start as a neutral sentence, whose length sets the number of queries

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.kind not in CONNECTORS:
            known = ", ".join(CONNECTORS)
            raise ValueError(f"There is no connector {self.kind!r}; take one of {known}.")
        if self.kind == "qformer" and self.width is not None:
            check_heads(self.heads, self.width)


def check_heads(heads: int, width: int) -> None:
    """Raise ValueError where attention heads do not share the width evenly."""
    if width % heads:
        raise ValueError(f"{heads} attention heads do not divide a width of {width}; change one.")


class Attention(nn.Module):
    """Multi-head attention, written out so that a hook on `softmax` sees (head, query, frame)."""

    def __init__(self, width: int, heads: int, d_source: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.key, self.value = nn.Linear(d_source, width), nn.Linear(d_source, width)
        self.softmax, self.dropout = nn.Softmax(dim=-1), nn.Dropout(dropout)

    def forward(
        self,
        queries: Float[Tensor, "batch query width"],
        source: Float[Tensor, "batch frame d_source"],
    ) -> Float[Tensor, "batch query width"]:
        q = self._split_heads(self.query(queries))
        k, v = self._split_heads(self.key(source)), self._split_heads(self.value(source))
        weights = self.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5)
        return self.out((self.dropout(weights) @ v).transpose(1, 2).flatten(2))

    def _split_heads(
        self, x: Float[Tensor, "batch token width"]
    ) -> Float[Tensor, "batch head token d_head"]:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """One Q-Former layer: queries attend to each other, then to the frames, then pass an MLP."""

    def __init__(
        self, width: int, heads: int, ffn: int, *, post_norm: bool, dropout: float
    ) -> None:
        super().__init__()
        self.post_norm = post_norm
        self.self_attention = Attention(width, heads, width, dropout)
        self.cross_attention = Attention(width, heads, width, dropout)
        self.mlp = nn.Sequential(nn.Linear(width, ffn), nn.GELU(), nn.Linear(ffn, width))
        norms = [nn.LayerNorm(width, eps=1e-12) for _ in range(3)]  # BERT's epsilon
        self.norms = nn.ModuleList(norms)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        queries: Float[Tensor, "batch query width"],
        frames: Float[Tensor, "batch frame width"],
    ) -> Float[Tensor, "batch query width"]:
        steps: list[Callable[[Tensor], Tensor]] = [
            lambda x: self.self_attention(x, x),
            lambda x: self.cross_attention(x, frames),
            self.mlp,
        ]
        for norm, step in zip(self.norms, steps, strict=True):
            if self.post_norm:
                queries = norm(queries + self.dropout(step(queries)))
            else:
                queries = queries + self.dropout(step(norm(queries)))
        return queries


class QFormer(nn.Module):
    """The modality adapter of DeSTA2.5-Audio: a Q-Former shared by all tapped layers.

        layer l ──► Q-Former(query tokens l) ──► (query, width) ─┐
                                                                 ├─ mixture per query ─► linear
        layer l'──► Q-Former(query tokens l')──► (query, width) ─┘

    The defaults are the published form (modeling_desta25.py). The small presets change four things,
    each measured in LOG.md: `pool`, `width`, `post_norm=False` and `anchor`.

    Args:
        taps: number of tapped layers.
        width: of a narrower Q-Former, to which every tapped layer is projected.
        pool: this many neighbouring frames are averaged.
        scale: the output is multiplied by it, to start at the scale of the backbone's embeddings.
        anchor: token embeddings of a text of as many tokens as there are queries. They are added to
            the output and trained, so that an untrained connector says this text.
    """

    def __init__(
        self,
        *,
        taps: int,
        d_enc: int,
        d_llm: int,
        queries: int = 64,
        depth: int = 6,
        heads: int = 20,
        ffn: int = 3072,
        width: int | None = None,
        pool: int = 1,
        post_norm: bool = True,
        dropout: float = 0.1,
        scale: float = 1.0,
        anchor: Float[Tensor, "query d_llm"] | None = None,
    ) -> None:
        super().__init__()
        inner = width or d_enc
        check_heads(heads, inner)
        if anchor is not None and len(anchor) != queries:
            fault = f"The anchor has {len(anchor)} tokens, the connector {queries} queries"
            raise ValueError(f"{fault}; make them equal.")
        self.queries, self.pool, self.scale = queries, pool, scale
        self.inputs = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(d_enc), nn.Linear(d_enc, inner)) if width else nn.Identity()
            for _ in range(taps)
        )
        self.query_tokens = nn.Parameter(torch.randn(taps, queries, inner))
        self.blocks = nn.ModuleList(
            Block(inner, heads, ffn, post_norm=post_norm, dropout=dropout) for _ in range(depth)
        )
        # the share of a single tapped layer is 1 and has no gradient
        self.layer_weights = nn.Parameter(torch.zeros(queries, taps), requires_grad=taps > 1)
        self.proj = nn.Sequential(nn.LayerNorm(inner), nn.Linear(inner, d_llm))
        self.anchor = nn.Parameter(anchor.detach().clone().float()) if anchor is not None else None

    def forward(
        self, states: Float[Tensor, "layer batch frame d_enc"]
    ) -> Float[Tensor, "batch query d_llm"]:
        taps, batch = states.shape[:2]
        if self.pool > 1:
            states = states.unfold(2, self.pool, self.pool).mean(-1)
        frames = torch.stack([project(x) for project, x in zip(self.inputs, states, strict=True)])
        queries = self.query_tokens[:, None].expand(-1, batch, -1, -1).flatten(0, 1)
        for block in self.blocks:
            queries = block(queries, frames.flatten(0, 1))
        mixed = torch.einsum("lbqd,ql->bqd", queries.unflatten(0, (taps, batch)), self.mixture())
        out = self.scale * self.proj(mixed)
        return out if self.anchor is None else out + self.anchor

    def mixture(self) -> Float[Tensor, "query layer"]:
        """The layer mixture: the share of each tapped layer in each query; rows sum to one."""
        return self.layer_weights.softmax(-1)


class FrameStack(nn.Module):
    """The comparison connector: stacked frames of the last tapped layer through an MLP (SLAM-ASR).

    The clip's frames are cut into `queries` equal groups. A group is averaged in `stack` parts,
    which are concatenated.
    """

    def __init__(
        self,
        *,
        d_enc: int,
        d_llm: int,
        queries: int,
        stack: int = 4,
        hidden: int = 1024,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.queries, self.stack, self.scale = queries, stack, scale
        self.mlp = nn.Sequential(
            nn.LayerNorm(stack * d_enc),
            nn.Linear(stack * d_enc, hidden),
            nn.GELU(),
            nn.LayerNorm(hidden),
            nn.Linear(hidden, d_llm),
        )

    def forward(
        self, states: Float[Tensor, "layer batch frame d_enc"]
    ) -> Float[Tensor, "batch query d_llm"]:
        parts = nn.functional.adaptive_avg_pool1d(
            states[-1].transpose(1, 2), self.queries * self.stack
        )
        groups = parts.transpose(1, 2).unflatten(1, (self.queries, self.stack)).flatten(2)
        return self.scale * self.mlp(groups)


def build_qformer(shape: ConnectorShape, **sizes: Any) -> QFormer:
    """A Q-Former of this shape."""
    own = ("depth", "heads", "ffn", "width", "pool", "post_norm", "dropout")
    return QFormer(**{name: getattr(shape, name) for name in own}, **sizes)


def build_frame_stack(shape: ConnectorShape, taps: int, anchor: Any, **sizes: Any) -> FrameStack:
    """The comparison connector, which has no shape beside its sizes."""
    return FrameStack(**sizes)


# ---- somebody's own ----

OwnConnector = nn.Module | Callable[..., nn.Module]  # a built one, or what builds it


def build_own(own: OwnConnector, *, taps: int, d_enc: int, d_llm: int, frames: int) -> nn.Module:
    """A new connector of somebody's own, checked on encoder states drawn at random.

    A connector is a module with the number of its `queries`, which turns encoder states
    `(tap, batch, frame, d_enc)` into audio embeddings `(batch, query, d_llm)`.

    Args:
        own: what is called with taps, d_enc and d_llm and returns the module; or a module, of
            which a copy is returned.
        frames: of a clip.

    Raises:
        ValueError: it is no such module; the message says what it does instead.
    """
    name = name_own(own)
    try:
        if isinstance(own, nn.Module):
            connector = copy.deepcopy(own)
        else:
            connector = own(taps=taps, d_enc=d_enc, d_llm=d_llm)
    except TypeError as error:
        fault = f"The connector {name} cannot be built from taps, d_enc and d_llm ({error})"
        raise ValueError(f"{fault}; let it take these three names.") from error
    if not isinstance(connector, nn.Module):
        raise ValueError(f"The connector {name} is a {type(connector).__name__}, not a module.")
    queries = getattr(connector, "queries", None)
    if not isinstance(queries, int) or queries < 1:
        raise ValueError(f"The connector {name} has no `queries`; set its number of embeddings.")
    if not any(parameter.requires_grad for parameter in connector.parameters()):
        raise ValueError(f"The connector {name} has no parameter that learns.")
    _check_output(connector.float(), name, torch.randn(taps, 2, frames, d_enc), queries, d_llm)
    return connector


def _check_output(
    connector: nn.Module, name: str, states: Tensor, queries: int, d_llm: int
) -> None:
    """Raise ValueError unless a connector gives (batch, query, d_llm)."""
    taps, batch, frames, d_enc = states.shape
    training = connector.training
    try:
        with torch.no_grad():
            found = tuple(connector.eval()(states).shape)
    except (RuntimeError, ValueError, AttributeError, TypeError) as error:
        fault = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ValueError(
            f"The connector {name} fails on encoder states of {taps} taps, {batch} clips, {frames} "
            f"frames and a width of {d_enc} ({fault}); let it take these."
        ) from error
    finally:
        connector.train(training)
    if found != (batch, queries, d_llm):
        raise ValueError(
            f"The connector {name} gives {found} for {batch} clips; the backbone takes "
            f"{(batch, queries, d_llm)}: clips, its queries, and the width of the backbone."
        )


def name_own(own: OwnConnector) -> str:
    """The name of somebody's own connector: of its function, or of its class."""
    return str(getattr(own, "__name__", type(own).__name__))


def describe_own(connector: nn.Module) -> dict[str, Any]:
    """What tells a connector of somebody's own from another: class, settings and modules.

    Settings are the plain values (numbers, texts, true, false) among the attributes of the class
    and of the module. A change of its code alone is not seen: give the class a `version`.
    """
    kind = type(connector)
    inherited = [vars(one) for one in reversed(kind.__mro__) if issubclass(one, nn.Module)][1:]
    values = {name: value for one in [*inherited, vars(connector)] for name, value in one.items()}
    settings = {
        name: value
        for name, value in values.items()
        if isinstance(value, bool | int | float | str)
        and not name.startswith("_")
        and name != "training"
    }
    return {"class": kind.__qualname__, "settings": settings, "modules": repr(connector)}


# kind → what builds it from shape, taps, anchor and the sizes d_enc, d_llm, queries and scale
CONNECTORS: dict[str, Callable[..., nn.Module]] = {
    "qformer": build_qformer,
    "frames": build_frame_stack,
}
