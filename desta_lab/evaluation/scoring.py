"""Closed-set ranking through a shared prefix: one forward of the backbone answers every task of a clip."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from desta_lab.evaluation.tasks import Task, task_ladder
from desta_lab.model import chat
from desta_lab.model.audio_llm import AudioLLM
from desta_lab.model.backbone import Backbone
from desta_lab.world.attributes import ATTRIBUTES
from desta_lab.world.describe import describe


@dataclass
class Trie:
    """Token sequences that share their beginnings: every distinct beginning is one node, computed once.

    "\\nWhat is the ─┬─ gender of … ─► The speaker is ─┬─ female
                     └─ accent of … ─► The accent is   └─ male
    """

    tokens: list[int] = field(default_factory=list)
    parent: list[int] = field(default_factory=list)  # -1: the trunk
    depth: list[int] = field(default_factory=list)
    _known: dict[tuple[int, int], int] = field(default_factory=dict)

    def add(self, sequence: Sequence[int]) -> list[int]:
        """Node of every token of a sequence, made where it is new."""
        path, node = [], -1
        for token in sequence:
            if (node, token) not in self._known:
                self._known[node, token] = len(self.tokens)
                self.tokens.append(token)
                self.parent.append(node)
                self.depth.append(0 if node < 0 else self.depth[node] + 1)
            node = self._known[node, token]
            path.append(node)
        return path

    def mask(self) -> Bool[Tensor, "node node"]:
        """Which node sees which: itself and its ancestors."""
        sees = torch.eye(len(self.tokens), dtype=torch.bool)
        for node, parent in enumerate(self.parent):
            if parent >= 0:
                sees[node] |= sees[parent]
        return sees


@dataclass(frozen=True)
class Branches:
    """The tasks as one trie behind the clip, and where each option's tokens are predicted."""

    tasks: Sequence[Task]
    trie: Trie
    paths: list[
        list[tuple[list[int], list[int]]]
    ]  # task → option → (predicting nodes, predicted ids)


def tokenize_options(tokenizer: object, task: Task) -> tuple[list[int], list[list[int]]]:
    """Token ids of a task's stem and of each option behind it, as the whole is tokenised where that keeps the stem."""
    stem, options = chat.encode_text(tokenizer, task.stem), []
    for text in task.options.values():
        whole = chat.encode_text(tokenizer, task.stem + text)
        options.append(
            whole[len(stem) :] if whole[: len(stem)] == stem else chat.encode_text(tokenizer, text)
        )
    return stem, options


def build_branches(
    tokenizer: object,
    tasks: Sequence[Task],
    trunk: chat.TokenStream,
    streams: Sequence[chat.TokenStream],
) -> Branches:
    """Build the trie of what follows the trunk in each task's stream: question, stem and options."""
    trie, paths = Trie(), []
    for task, stream in zip(tasks, streams, strict=True):
        tail = list(stream.ids[len(trunk.ids) :])
        stem, texts = tokenize_options(tokenizer, task)
        options = []
        for option in texts:
            nodes = trie.add([*tail, *stem, *option[:-1]])
            options.append((nodes[len(nodes) - len(option) :], option))
        paths.append(options)
    return Branches(tasks, trie, paths)


def common_trunk(streams: Sequence[chat.TokenStream]) -> chat.TokenStream:
    """The longest common beginning of several streams: everything up to the question."""
    shortest = min(len(s.ids) for s in streams)
    same = next((i for i in range(shortest) if len({s.ids[i] for s in streams}) > 1), shortest)
    return chat.TokenStream(streams[0].ids[:same], same)


def build_layout(llm: AudioLLM, tasks: Sequence[Task]) -> tuple[chat.TokenStream, Branches]:
    """The trunk, which holds the clip's slots, and the tasks' branches behind it."""
    streams = [
        chat.build_stream(llm.backbone.tokenizer, chat.audio_messages(task.question), llm.queries)
        for task in tasks
    ]
    trunk = common_trunk(streams)
    return trunk, build_branches(llm.backbone.tokenizer, tasks, trunk, streams)


def score_options(
    llm: AudioLLM,
    tasks: Sequence[Task],
    spoken: Float[Tensor, "clip query d_llm"],
    batch: int = 8,
    transcripts: Sequence[str] | None = None,
) -> list[Float[Tensor, "clip _"]]:
    """Log-probability of every option of every task under the audio condition, for clips already heard by the connector.

    `transcripts`, one a clip, stand behind the audio embeddings where they did in training. It can be differentiated
    with respect to `spoken`; who does not want that calls it under `torch.no_grad`.
    """
    trunk, tree = build_layout(llm, tasks)
    trunks = [trunk] * len(spoken)
    if transcripts is not None:
        tokenizer = llm.backbone.tokenizer
        trunks = [
            common_trunk(
                [
                    chat.build_stream(
                        tokenizer, chat.audio_messages(t.question), llm.queries, transcripts=[words]
                    )
                    for t in tasks
                ]
            )
            for words in transcripts
        ]
    parts = []
    for first in range(0, len(spoken), batch):
        ids, real = llm.backbone.pad_left(trunks[first : first + batch])
        parts.append(
            _scores(llm.backbone, tree, llm.splice(ids, spoken[first : first + batch]), real.cpu())
        )
    return [torch.cat(columns) for columns in zip(*parts, strict=True)]


@torch.no_grad()
def score_options_of_text(
    backbone: Backbone, tasks: Sequence[Task], descriptions: Sequence[str], batch: int = 8
) -> list[Float[Tensor, "clip _"]]:
    """The same scores under the text condition: the backbone reads each description (the text oracle)."""
    tokenizer = backbone.tokenizer
    every = [
        [
            chat.build_stream(tokenizer, chat.description_messages(d, task.question), 0)
            for task in tasks
        ]
        for d in descriptions
    ]
    trunks = [common_trunk(streams) for streams in every]
    tree = build_branches(tokenizer, tasks, trunks[0], every[0])
    parts = []
    for first in range(0, len(trunks), batch):
        ids, real = backbone.pad_left(trunks[first : first + batch])
        parts.append(_scores(backbone, tree, backbone.embed(ids), real.cpu()))
    return [torch.cat(columns) for columns in zip(*parts, strict=True)]


def _scores(
    backbone: Backbone,
    tree: Branches,
    trunk: Float[Tensor, "batch token d_llm"],
    real: Int[Tensor, "batch token"],
) -> list[Float[Tensor, "batch _"]]:
    """One forward over trunk and trie, every node masked to its own history; padding stands left of the trunk."""
    trie, device = tree.trie, backbone.device
    rows, long = trunk.shape[:2]
    nodes = backbone.embed(torch.tensor(trie.tokens)).expand(rows, -1, -1).to(trunk.dtype)
    total = long + len(trie.tokens)
    sees = torch.zeros(total, total, dtype=torch.bool)
    sees[:long, :long] = torch.ones(long, long, dtype=torch.bool).tril()
    sees[long:, :long] = True
    sees[long:, long:] = trie.mask()
    padded = torch.cat([real.bool(), torch.ones(rows, len(trie.tokens), dtype=torch.bool)], dim=1)
    allowed = sees & padded[:, None] | torch.eye(total, dtype=torch.bool)
    lengths = real.sum(1).long()
    positions = torch.cat(
        [
            (real.cumsum(1) - 1).clamp_min(0).long(),
            lengths[:, None] + torch.tensor(trie.depth)[None],
        ],
        dim=1,
    )
    lowest = torch.finfo(backbone.dtype).min
    mask = torch.zeros(rows, 1, total, total, dtype=backbone.dtype).masked_fill(
        ~allowed[:, None], lowest
    )
    hidden = backbone.hidden_states(
        torch.cat([trunk, nodes], dim=1),
        attention_mask=mask.to(device),
        position_ids=positions.to(device),
    )
    wanted = sorted({node for task in tree.paths for before, _ in task for node in before})
    at = torch.tensor([long + node for node in wanted], device=device)
    logp = backbone.logits(hidden[:, at]).log_softmax(-1).cpu()
    row = {node: i for i, node in enumerate(wanted)}
    return [
        torch.stack(
            [
                torch.stack([logp[:, row[n], t] for n, t in zip(*option, strict=True)]).sum(0)
                for option in task
            ],
            dim=1,
        )
        for task in tree.paths
    ]


@torch.no_grad()
def score_options_one_by_one(
    llm: AudioLLM,
    tasks: Sequence[Task],
    spoken: Float[Tensor, "clip query d_llm"],
    transcripts: Sequence[str] | None = None,
) -> list[Float[Tensor, "clip _"]]:
    """The same scores the slow way, one forward for every clip, task and option: the reference of `rank`."""
    scores, tokenizer = [], llm.backbone.tokenizer
    for task in tasks:
        stem, options = tokenize_options(tokenizer, task)
        columns = []
        for option in options:
            rows = []
            for one, words in zip(spoken, transcripts or [""] * len(spoken), strict=True):
                start = chat.build_stream(
                    tokenizer, chat.audio_messages(task.question), llm.queries, transcripts=[words]
                )
                ids = torch.tensor([[*start.ids, *stem, *option]])
                hidden = llm.backbone.hidden_states(llm.splice(ids, one[None]))[
                    0, -len(option) - 1 : -1
                ]
                logp = llm.backbone.logits(hidden).log_softmax(-1).cpu()
                rows.append(logp.gather(1, torch.tensor(option)[:, None]).sum())
            columns.append(torch.stack(rows))
        scores.append(torch.stack(columns, dim=1))
    return scores


def option_lengths(tokenizer: object, task: Task) -> Int[Tensor, "_"]:
    """Tokens of each option, by which raw ranking divides its log-probability."""
    return torch.tensor([len(option) for option in tokenize_options(tokenizer, task)[1]])


def judge_scores(
    tasks: Sequence[Task],
    scores: Sequence[Float[Tensor, "clip _"]],
    held_out: Sequence[Float[Tensor, "other _"]],
    truth: Sequence[dict[str, str]],
    lengths: Sequence[Int[Tensor, "_"]],
) -> pd.DataFrame:
    """Raw and calibrated choices, one row per clip × task, but where the task's attribute is not known of the clip.

    Raw: the highest log-probability per token. Calibrated: each option's mean log-probability over `held_out` clips
    (other speakers, never the ones scored here; no labels are used) is subtracted first, so that what remains is what
    this clip says and not what the backbone likes to say. `margin` is the calibrated log-probability of the right
    option above that of the best other one, in nats: the choice is right where it is above zero.
    """
    rows = []
    for task, score, other, length in zip(tasks, scores, held_out, lengths, strict=True):
        values = list(task.options)
        raw = (score / length).argmax(1).tolist()
        lead = score - other.mean(0)
        calibrated = lead.argmax(1).tolist()
        logp = score.log_softmax(-1)
        for i, attributes in enumerate(truth):
            if task.attribute not in attributes:  # not told of this clip
                continue
            right = values.index(attributes[task.attribute])
            best_other = torch.cat([lead[i, :right], lead[i, right + 1 :]]).max()
            rows.append(
                {
                    "task": task.name,
                    "rung": task.rung,
                    "attribute": task.attribute,
                    "chance": task.chance,
                    "row": i,
                    "raw": float(raw[i] == right),
                    "calibrated": float(calibrated[i] == right),
                    "logprob": float(score[i, right]),
                    "share": float(logp[i, right].exp()),
                    "margin": float(lead[i, right] - best_other),
                    "chosen": values[calibrated[i]],
                }
            )
    return pd.DataFrame(rows)


def oracle_accuracy(backbone: Backbone) -> dict[str, list[float]]:
    """[raw, calibrated] accuracy of a backbone on every task, reading every described combination of attributes."""
    found: dict[str, list[float]] = {}
    crossed = [
        dict(zip(ATTRIBUTES, values, strict=True))
        for values in itertools.product(*ATTRIBUTES.values())
    ]
    for topic in (False, True):
        tasks = [task for task in task_ladder() if (task.attribute == "topic") == topic]
        texts = list(dict.fromkeys(describe(a, topic=topic) for a in crossed))
        truth = {describe(a, topic=topic): a for a in crossed}
        scores = score_options_of_text(backbone, tasks, texts)
        lengths = [option_lengths(backbone.tokenizer, task) for task in tasks]
        table = judge_scores(tasks, scores, scores, [truth[text] for text in texts], lengths)
        means = table.groupby("task")[["raw", "calibrated"]].mean().round(4)
        found |= {
            str(task): [float(row["raw"]), float(row["calibrated"])]
            for task, row in means.iterrows()
        }
    return found
