"""Closed-set ranking: one forward of the backbone scores every option of every task of a clip."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from desta_lab.clips import Clip
from desta_lab.evaluation.tasks import Task
from desta_lab.model import chat
from desta_lab.model.audio_llm import AudioLLM
from desta_lab.model.backbone import Backbone, padding_arguments

Scores = Sequence[Float[Tensor, "_ _"]]  # for every task: clip × option, log-probabilities

# ---- the tasks as one trie behind the clip ----


@dataclass
class Trie:
    """Token sequences that share their beginnings: each beginning is one node, computed once.

    "\\nWhat is the ─┬─ gender of … ─► The speaker is ─┬─ female
                     └─ accent of … ─► The accent is   └─ male
    """

    tokens: list[int] = field(default_factory=list)
    parent: list[int] = field(default_factory=list)  # -1: the trunk
    depth: list[int] = field(default_factory=list)
    _known: dict[tuple[int, int], int] = field(default_factory=dict)

    def add(self, sequence: Sequence[int]) -> list[int]:
        """Add a sequence; returns the node of each of its tokens."""
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

    def history(self, node: int) -> list[int]:
        """The nodes from the trunk to this one."""
        path = []
        while node >= 0:
            path.append(node)
            node = self.parent[node]
        return path[::-1]

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

    trie: Trie
    paths: list[list[list[tuple[int, int]]]]  # task → option → node of the trie, the token behind

    @property
    def answers(self) -> list[int]:
        """Where each task's answer begins, from the end, as trunks differ in length."""
        return [options[0][0][0] - len(self.trie.tokens) for options in self.paths]


def tokenize_options(tokenizer: Any, task: Task) -> tuple[list[int], list[list[int]]]:
    """Token ids of a task's stem, and of each option behind it.

    An option is tokenised together with the stem where that leaves the stem's tokens as they are.
    """
    stem = chat.encode_text(tokenizer, task.stem)
    options = []
    for text in task.options.values():
        whole = chat.encode_text(tokenizer, task.stem + text)
        together = whole[: len(stem)] == stem
        options.append(whole[len(stem) :] if together else chat.encode_text(tokenizer, text))
    return stem, options


def option_lengths(tokenizer: Any, task: Task) -> Int[Tensor, "_"]:
    """Tokens of each option, by which raw ranking divides its log-probability."""
    return torch.tensor([len(option) for option in tokenize_options(tokenizer, task)[1]])


def audio_branches(llm: AudioLLM, tasks: Sequence[Task]) -> Branches:
    """What follows the trunk, which holds the clip's slots, for each task."""
    return _build_branches(llm.backbone.tokenizer, tasks, _audio_streams(llm, tasks))


def text_branches(backbone: Backbone, tasks: Sequence[Task], description: str) -> Branches:
    """What follows the trunk, which holds the description, for each task; the same for all."""
    streams = _text_streams(backbone, tasks, description)
    return _build_branches(backbone.tokenizer, tasks, streams)


def _build_branches(
    tokenizer: Any, tasks: Sequence[Task], streams: Sequence[chat.TokenStream]
) -> Branches:
    """The trie of what follows the trunk for each task: question, stem and options."""
    trie, paths, trunk = Trie(), [], len(_common_trunk(tasks, streams).ids)
    for task, stream in zip(tasks, streams, strict=True):
        stem, texts = tokenize_options(tokenizer, task)
        options = []
        for option in texts:
            nodes = trie.add([*stream.ids[trunk:], *stem, *option[:-1]])
            options.append(list(zip(nodes[-len(option) :], option, strict=True)))
        paths.append(options)
    return Branches(trie, paths)


def build_trunks(
    llm: AudioLLM, tasks: Sequence[Task], clips: int, transcripts: Sequence[str] | None = None
) -> list[chat.TokenStream]:
    """The trunk of every clip, with its transcript behind the slots where there is one."""
    if transcripts is None:
        return [_common_trunk(tasks, _audio_streams(llm, tasks))] * clips
    if len(transcripts) != clips:
        raise ValueError(
            f"There are {clips} clips and {len(transcripts)} transcripts; give one for each."
        )
    return [_common_trunk(tasks, _audio_streams(llm, tasks, [text])) for text in transcripts]


def _common_trunk(tasks: Sequence[Task], streams: Sequence[chat.TokenStream]) -> chat.TokenStream:
    """What all streams begin with, but for the token that an option without a stem follows."""
    return chat.common_trunk(streams, behind=int(not all(task.stem for task in tasks)))


def _audio_streams(
    llm: AudioLLM, tasks: Sequence[Task], transcripts: Sequence[str] | None = None
) -> list[chat.TokenStream]:
    asked = [chat.audio_messages(task.question) for task in tasks]
    return [llm.build_stream(one, transcripts=transcripts) for one in asked]


def _text_streams(
    backbone: Backbone, tasks: Sequence[Task], description: str
) -> list[chat.TokenStream]:
    asked = [chat.description_messages(description, task.question) for task in tasks]
    return [chat.build_stream(backbone.tokenizer, one, 0) for one in asked]


# ---- log-probabilities of every option ----

ROWS = 8  # clips in one forward on a CPU, and clips whose logits a GPU holds at once
ROWS_ON_GPU = 64  # clips in one forward there


def _rows_at_once(backbone: Backbone) -> int:
    return ROWS if backbone.device.type == "cpu" else ROWS_ON_GPU


def score_options(
    llm: AudioLLM,
    tasks: Sequence[Task],
    audio_embeddings: Float[Tensor, "clip query d_llm"],
    batch: int | None = None,
    transcripts: Sequence[str] | None = None,
    progress: Callable[..., None] | None = None,
) -> list[Float[Tensor, "clip _"]]:
    """Log-probability of every option of every task, given the audio embeddings of some clips.

    `transcripts`, one a clip, stand behind the audio embeddings; `progress` is called with the
    clips that are done and their number. The scores can be differentiated
    with respect to the audio embeddings; call it under `torch.no_grad` where that is not wanted.
    """
    trunks = build_trunks(llm, tasks, len(audio_embeddings), transcripts)
    branches, parts = audio_branches(llm, tasks), []
    batch = batch or _rows_at_once(llm.backbone)
    for first in range(0, len(trunks), batch):
        ids, real = llm.backbone.pad_left(trunks[first : first + batch])
        prefix = llm.splice(ids, audio_embeddings[first : first + batch])
        parts.append(_score_branches(llm.backbone, branches, prefix, real.cpu()))
        if progress is not None:
            progress(first + len(ids), len(trunks))
    return [torch.cat(columns) for columns in zip(*parts, strict=True)]


@torch.no_grad()
def score_options_of_text(
    backbone: Backbone, tasks: Sequence[Task], descriptions: Sequence[str], batch: int | None = None
) -> list[Float[Tensor, "clip _"]]:
    """Log-probability of every option of every task, where the backbone reads a description."""
    streams = [_text_streams(backbone, tasks, text) for text in descriptions]
    trunks = [_common_trunk(tasks, of_text) for of_text in streams]
    branches, parts = text_branches(backbone, tasks, descriptions[0]), []
    batch = batch or _rows_at_once(backbone)
    for first in range(0, len(trunks), batch):
        ids, real = backbone.pad_left(trunks[first : first + batch])
        parts.append(_score_branches(backbone, branches, backbone.embed(ids), real.cpu()))
    return [torch.cat(columns) for columns in zip(*parts, strict=True)]


def _score_branches(
    backbone: Backbone,
    branches: Branches,
    prefix: Float[Tensor, "batch token d_llm"],
    real: Int[Tensor, "batch token"],
) -> list[Float[Tensor, "batch _"]]:
    """One forward over trunk and trie; `real` is 0 where padding stands, left of the trunk."""
    if not backbone.takes_masks:
        return _score_paths(backbone, branches, prefix, real)
    rows, length = prefix.shape[:2]
    nodes = backbone.embed(torch.tensor(branches.trie.tokens)).expand(rows, -1, -1)
    mask, positions = _trie_attention(branches.trie, real)
    embeddings = torch.cat([prefix, nodes.to(prefix.dtype)], dim=1)
    hidden = backbone.hidden_states(embeddings, sees=mask, position_ids=positions)
    wanted = sorted({n for task in branches.paths for path in task for n, _ in path})
    column = {node: i for i, node in enumerate(wanted)}
    pairs = [(column[n], token) for task in branches.paths for path in task for n, token in path]
    at = torch.tensor([length + node for node in wanted], device=backbone.device)
    columns, tokens = torch.tensor(pairs, device=backbone.device).T
    held = hidden[:, at].split(rows if backbone.device.type == "cpu" else ROWS)
    logp = [backbone.logits(some).log_softmax(-1)[:, columns, tokens] for some in held]
    of_tokens = iter(torch.cat(logp).cpu().unbind(1))  # in the order of tasks, options and tokens

    def option_score(path: Sequence[tuple[int, int]]) -> Float[Tensor, "batch"]:
        return torch.stack([next(of_tokens) for _ in path]).sum(0)

    return [torch.stack([option_score(o) for o in task], dim=1) for task in branches.paths]


def check_one_forward(backbone: Backbone) -> None:
    """Raise ValueError where options are scored one by one: no forward has the answers of all."""
    if not backbone.takes_masks:
        raise ValueError(
            f"A {backbone.model.config.model_type} takes no mask of which token sees which, so its "
            "options are scored one by one, and there is no forward of all tasks to record; ask "
            "llm.run about one question, or take another LLM."
        )


def _score_paths(
    backbone: Backbone,
    branches: Branches,
    prefix: Float[Tensor, "batch token d_llm"],
    real: Int[Tensor, "batch token"],
) -> list[Float[Tensor, "batch _"]]:
    """The same for a backbone that takes no mask: one forward for every option, all clips in it."""
    rows, length = prefix.shape[:2]
    trie = branches.trie

    def option_score(path: Sequence[tuple[int, int]]) -> Float[Tensor, "batch"]:
        nodes = trie.history(path[-1][0])
        own = backbone.embed(torch.tensor([trie.tokens[node] for node in nodes]))
        there = torch.cat([real, real.new_ones(rows, len(nodes))], dim=1).to(prefix.device)
        whole = torch.cat([prefix, own.expand(rows, -1, -1).to(prefix)], dim=1)
        hidden = backbone.hidden_states(whole, **padding_arguments(there))
        behind = hidden[:, [length + nodes.index(node) for node, _ in path]]
        tokens = torch.tensor([token for _, token in path], device=hidden.device)
        logp = backbone.logits(behind).log_softmax(-1)
        return logp[:, torch.arange(len(path)), tokens].sum(1).cpu()

    return [torch.stack([option_score(o) for o in task], dim=1) for task in branches.paths]


def _trie_attention(
    trie: Trie, real: Int[Tensor, "batch token"]
) -> tuple[Bool[Tensor, "batch total total"], Int[Tensor, "batch total"]]:
    """Which token sees which over trunk and trie, a node only its own history; and positions."""
    rows, length = real.shape
    count = len(trie.tokens)
    sees = torch.zeros(length + count, length + count, dtype=torch.bool)
    sees[:length, :length] = torch.ones(length, length, dtype=torch.bool).tril()
    sees[length:, :length] = True
    sees[length:, length:] = trie.mask()
    there = torch.cat([real.bool(), torch.ones(rows, count, dtype=torch.bool)], dim=1)
    mask = sees & there[:, None] | torch.eye(length + count, dtype=torch.bool)
    behind = real.sum(1).long()[:, None] + torch.tensor(trie.depth)[None]
    positions = torch.cat([(real.cumsum(1) - 1).clamp_min(0).long(), behind], dim=1)
    return mask, positions


@torch.no_grad()
def score_options_one_by_one(
    llm: AudioLLM,
    tasks: Sequence[Task],
    audio_embeddings: Float[Tensor, "clip query d_llm"],
    transcripts: Sequence[str] | None = None,
) -> list[Float[Tensor, "clip _"]]:
    """What `score_options` gives, the slow way: one forward for every clip, task and option."""
    words = transcripts or [""] * len(audio_embeddings)
    scores = []
    for task in tasks:
        stem, options = tokenize_options(llm.backbone.tokenizer, task)
        rows = []
        for clip, text in zip(audio_embeddings, words, strict=True):
            (stream,) = _audio_streams(llm, [task], [text])
            asked = [*stream.ids, *stem]
            rows.append(torch.stack([_score_option(llm, asked, o, clip) for o in options]))
        scores.append(torch.stack(rows))
    return scores


def _score_option(
    llm: AudioLLM, asked: list[int], option: list[int], clip: Float[Tensor, "query d_llm"]
) -> Float[Tensor, ""]:
    ids = torch.tensor([[*asked, *option]])
    hidden = llm.backbone.hidden_states(llm.splice(ids, clip[None]))[0, -len(option) - 1 : -1]
    logp = llm.backbone.logits(hidden).log_softmax(-1).cpu()
    return logp.gather(1, torch.tensor(option)[:, None]).sum()


# ---- from log-probabilities to choices ----


def check_finite(scores: Float[Tensor, "clip _"], where: str) -> None:
    """Refuse log-probabilities of which one is not finite.

    Raises:
        ValueError: Naming the first clip, and where it is.
    """
    faulty = (~scores.isfinite()).any(1).nonzero()
    if len(faulty):
        raise ValueError(
            f"{where}: {len(faulty)} of {len(scores)} clips have a log-probability that is not "
            f"finite, the first is row {int(faulty[0])}; score them in bfloat16 or float32."
        )


@dataclass(frozen=True)
class Calibration:
    """How much a backbone likes each option, whatever it hears.

    It is the mean score of the option over clips of other speakers, every value of the attribute
    weighing the same however often it occurs, so that a set of four women to one man calibrates as
    a balanced one does. Where a value does not occur, it is the score without content (Zhao et
    al. 2021, arXiv 2102.09690).

    Args:
        clips: those of the other speakers.
        scores: of these clips, for every task.
        content_free: gives, for every task, the scores of one input that says nothing.
    """

    clips: Sequence[Clip]
    scores: Scores
    content_free: Callable[[], Scores] | None = None

    def prior(self, number: int, task: Task) -> Float[Tensor, "option"]:
        """What is subtracted from the scores of the task at this place.

        Raises:
            ValueError: There is no clip; or a value is missing, and so are scores without content.
        """
        if not len(self.clips):
            raise ValueError(f"task {task.name}: no clip to calibrate with; give one at least.")
        check_finite(self.scores[number], f"task {task.name}, clips to calibrate with")
        missing = missing_values(task, self.clips)
        if not missing:
            rows = [i for i, clip in enumerate(self.clips) if task.attribute in clip.attributes]
            values = [self.clips[i].attributes[task.attribute] for i in rows]
            return balanced_mean(self.scores[number][rows], values)
        if self._without_content is None:
            raise ValueError(
                f"task {task.name}: no clip to calibrate with is {task.attribute} = {missing[0]}; "
                "add one, or give scores without content."
            )
        return self._without_content[number][0]

    @cached_property
    def _without_content(self) -> Scores | None:
        """Scored once, where it is first asked for, and not for every task that lacks a value."""
        return None if self.content_free is None else self.content_free()


def missing_values(task: Task, clips: Sequence[Clip]) -> list[str]:
    """The values of a task that none of these clips has."""
    there = {clip.attributes.get(task.attribute) for clip in clips}
    return [value for value in task.options if value not in there]


def balanced_mean(
    scores: Float[Tensor, "clip option"], values: Sequence[str]
) -> Float[Tensor, "option"]:
    """The mean over clips with every value weighing the same."""
    of = {value: [i for i, v in enumerate(values) if v == value] for value in sorted({*values})}
    return torch.stack([scores[rows].mean(0) for rows in of.values()]).mean(0)


def judge_scores(
    tokenizer: Any,
    tasks: Sequence[Task],
    clips: Sequence[Clip],
    scores: Scores,
    calibration: Calibration,
) -> pd.DataFrame:
    """Raw and calibrated choices: a row per task × clip, but none for an attribute it lacks.

    Raw: the option of the highest log-probability per token. Calibrated: what the backbone likes
    to say anyway (`Calibration`) is subtracted first, so that what this clip says remains.

    Columns: task, rung, attribute, chance; raw and calibrated (1 right, 0 wrong); logprob of the
    right option; its share of the probability of all options; margin, its calibrated score above
    that of the best other option (nats; the calibrated choice is right where it is above zero);
    chosen, the calibrated choice; clip and speaker.

    Raises:
        ValueError: A log-probability is not finite, or there is no clip to calibrate with.
    """
    rows = []
    for number, (task, score) in enumerate(zip(tasks, scores, strict=True)):
        check_finite(score, f"task {task.name}")
        raw = (score / option_lengths(tokenizer, task)).argmax(1).tolist()
        calibrated = score - calibration.prior(number, task)
        chosen = calibrated.argmax(1).tolist()
        logp = score.log_softmax(-1)
        values = list(task.options)
        for i, clip in enumerate(clips):
            if task.attribute not in clip.attributes:
                continue
            right = values.index(clip.attributes[task.attribute])
            best_other = torch.cat([calibrated[i, :right], calibrated[i, right + 1 :]]).max()
            rows.append(
                {
                    "task": task.name,
                    "rung": task.rung,
                    "attribute": task.attribute,
                    "chance": task.chance,
                    "raw": float(raw[i] == right),
                    "calibrated": float(chosen[i] == right),
                    "logprob": float(score[i, right]),
                    "share": float(logp[i, right].exp()),
                    "margin": float(calibrated[i, right] - best_other),
                    "chosen": values[chosen[i]],
                    "clip": clip.id,
                    "speaker": clip.speaker,
                }
            )
    return pd.DataFrame(rows)
