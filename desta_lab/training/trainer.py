"""The training loop: the connector learns; a run killed at any step resumes to the same weights."""

import gc
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from jaxtyping import Float, Int
from safetensors import safe_open
from torch import Tensor, nn

from desta_lab import cache, processes
from desta_lab.model.audio_llm import AudioLLM, hash_tensors
from desta_lab.model.backbone import PrecisionError
from desta_lab.model.bounds import Count, CountOrZero, Positive, Share, check_bounds
from desta_lab.model.runs import checkpoint_path, index_path
from desta_lab.training import checkpoints
from desta_lab.training.batches import (
    IGNORE,
    Example,
    MicroBatch,
    collate,
    example_reader,
    read_ahead,
)
from desta_lab.training.features import Features
from desta_lab.training.targets import SoftTarget, kl_loss

AHEAD = 4096  # examples read before the first step, and kept: some megabytes


class FreezeError(RuntimeError):
    """Something frozen changed, or something trainable did not; the message names it."""


class LossError(RuntimeError):
    """The loss is not a number any more; the message names the step."""


class StepMemoryError(RuntimeError):
    """A micro-batch does not fit into memory; the message says how many rows do."""


@dataclass(frozen=True)
class TrainConfig:
    """How long and how fast to train; every number is part of the run's identity."""

    steps: Count
    batch: Count = 8
    lr: Positive = 1e-3
    warmup: CountOrZero = 20
    floor: Share = 0.1  # the cosine ends at this share of lr
    betas: tuple[Share, Share] = (0.9, 0.98)
    weight_decay: Share = 0.01
    max_grad_norm: Positive = 1.0
    seed: CountOrZero = 0
    checkpoint_every: Count = 64  # steps between checkpoints, after the powers of two

    def __post_init__(self) -> None:
        """Raise ValueError for a setting that cannot be."""
        check_bounds(self)

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step (0-based): linear warm-up, then cosine."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * (self.floor + (1 - self.floor) * (1 + math.cos(math.pi * done)) / 2)

    def batch_rows(self, step: int, examples: int) -> list[int]:
        """The numbers of one step's rows; the order of an epoch depends on seed and epoch alone."""
        drawn = range(step * self.batch, (step + 1) * self.batch)
        seed = self.seed * 100_003
        return [int(_permutation(seed + i // examples, examples)[i % examples]) for i in drawn]


@lru_cache(maxsize=2)  # a step may end one epoch and begin the next
def _permutation(seed: int, examples: int) -> Int[Tensor, "example"]:
    return torch.randperm(examples, generator=torch.Generator().manual_seed(seed))


# ---- the loop ----


def train(
    llm: AudioLLM,
    features: Features,
    rows: Sequence[Any],
    config: TrainConfig,
    folder: Path,
    *,
    soft_targets: Sequence[SoftTarget] | None = None,
    state_every: int = 50,
    accumulate: int = 1,
    progress: Callable[[int, int, dict[str, Any]], None] | None = None,
) -> None:
    """Collective: train the connector, and what of the backbone was unfrozen, on rows.

    Writes `records.jsonl`, `checkpoints/` and `state/` into `folder`, and resumes from them. Of
    several jobs with one folder, one trains; the others wait, and find the run finished. A row
    is read when its step comes, so that a `Manifest` of millions fits; its clip is its `clip`, or
    its `id`. The loss is cross-entropy, or the KL divergence from `soft_targets`, one a row.

    The ranks share every batch, and each computes its share in `accumulate` micro-batches to save
    memory. The result is the same but for rounding and dropout, as every token weighs the same.

    Raises:
        ValueError: the batch has fewer rows than there are micro-batches.
        FreezeError: something frozen has changed, or something trainable has not; no last
            checkpoint is saved then.
        LossError: the loss is not a number any more.
        StepMemoryError: a micro-batch does not fit into memory; with more, the run goes on.
        StateError: the state on disk is damaged.
        ChatError: a row is too long for the backbone; of the first 4096, raised before step 1.
    """
    micro_batches = _count_micro_batches(config, accumulate)
    llm.connector.train()
    optimizer = build_optimizer(llm, config)
    read = example_reader(llm, rows, soft_targets, AHEAD)
    for number in range(min(AHEAD, len(rows))):
        read(number)
    hashes = _hash_frozen(llm)
    with own_run(folder), torch.random.fork_rng(devices=[]):
        with processes.main_first():
            first, hashed = _resume(folder, llm, optimizer, config)
        path = checkpoints.records_path(folder) if processes.is_main_rank() else Path(os.devnull)
        ahead = read_parts(llm, features, read, config, len(rows), micro_batches, first)
        with ahead as parts, cache.appending(path) as append:  # a line when a step is done
            for step in range(first, config.steps):
                begin = time.perf_counter()
                record = take_step(llm, features, parts, optimizer, config, step, micro_batches)
                record["seconds"] = time.perf_counter() - begin
                append(json.dumps(record))
                hashed = checkpoints.hash_records([record], hashed)
                if step + 1 == config.steps:
                    _check_frozen(llm, hashes, folder, config)
                    processes.wait_for_all()  # every rank has passed the check
                if processes.is_main_rank():
                    _save(folder, llm, optimizer, record, hashed, config, state_every)
                if progress:
                    progress(step + 1, config.steps, record)
    llm.connector.eval()
    processes.wait_for_all()  # the last checkpoint is on disk


def _count_micro_batches(config: TrainConfig, accumulate: int) -> int:
    """The number of parts that a batch is computed in, over all ranks."""
    micro_batches = processes.world_size() * accumulate
    if config.batch < micro_batches:
        raise ValueError(
            f"A batch of {config.batch} has no row for each of {micro_batches} micro-batches "
            f"({processes.world_size()} processes, accumulate {accumulate}); "
            "enlarge it, or take fewer."
        )
    return micro_batches


def build_optimizer(llm: AudioLLM, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW over all that learns, without gradients that an interrupted step left."""
    optimizer = torch.optim.AdamW(
        llm.trainable_parameters.values(),
        lr=config.lr,
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=True,
    )
    optimizer.zero_grad()  # what a step left that was interrupted
    return optimizer


def read_parts(
    llm: AudioLLM,
    features: Features,
    read: Callable[[int], Example],
    config: TrainConfig,
    examples: int,
    micro_batches: int,
    first: int,
) -> AbstractContextManager[Iterator[MicroBatch]]:
    """This rank's micro-batches from a step on, read ahead, with states where they are on disk."""
    on_gpu = next(llm.connector.parameters()).is_cuda

    def read_part(step: int, number: int) -> MicroBatch:
        whole = [read(row) for row in config.batch_rows(step, examples)]
        own = whole[number::micro_batches]
        names = [example.clip for example in own]
        states = features[names] if features.are_on_disk(names) else None
        if states is not None and on_gpu:
            states = states.pin_memory()
        return MicroBatch(own, sum(len(one.stream.response) for one in whole), states)

    numbers = processes.share_of_rank(range(micro_batches))
    steps = range(first, config.steps)
    return read_ahead(read_part, ((step, number) for step in steps for number in numbers))


# ---- one step ----


def take_step(
    llm: AudioLLM,
    features: Features,
    parts: Iterator[MicroBatch],
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    step: int,
    micro_batches: int,
) -> dict[str, Any]:
    """Collective: learn from one batch, each rank from its micro-batches; return the record."""
    parameters = list(llm.trainable_parameters.values())
    loss: Any = 0.0
    for number in processes.share_of_rank(range(micro_batches)):
        part = next(parts)
        seed = config.seed * 100_003 + step + (number << 32)
        torch.manual_seed(seed)  # dropout: a resumed step draws what the first one drew
        try:
            share = _learn(llm, features, part)
        except PrecisionError as error:
            if all(parameter.isfinite().all() for parameter in parameters):
                raise
            fault = f"The loss of step {step + 1} is nan; lower the learning rate."
            raise LossError(fault) from error
        if share is None:
            optimizer.zero_grad()
            raise StepMemoryError(_explain_memory(llm, features, part, config, step, micro_batches))
        loss = loss + share
    processes.sum_over_ranks([loss, *(p.grad for p in parameters if p.grad is not None)])
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate(step)
    grad_norm = nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
    mean_loss, norm = float(loss), float(grad_norm)
    for name, value in (("loss", mean_loss), ("gradient", norm)):
        if not math.isfinite(value):
            remedy = "lower the learning rate"
            if llm.backbone.dtype is torch.float16:
                remedy += ", or load the backbone, now float16, in bfloat16 or float32"
            raise LossError(f"The {name} of step {step + 1} is {value}; {remedy}.")
    optimizer.step()
    optimizer.zero_grad()
    rate = config.learning_rate(step)
    about = {"loss": mean_loss, "lr": rate, "grad_norm": norm, "tokens": part.tokens}
    return {"step": step + 1, **about}


def _learn(llm: AudioLLM, features: Features, part: MicroBatch) -> Float[Tensor, ""] | None:
    """Add up the gradients of a micro-batch; its share of the loss, None if memory is too small.

    What was computed until memory ran out is freed on return, with the error that refers to it.
    """
    learned = sum(len(example.stream.response) for example in part.examples)
    try:
        share = _mean_loss(llm, features, part) * (learned / part.tokens)
        share.backward()
    except (RuntimeError, MemoryError) as error:
        if not processes.is_out_of_memory(error):
            raise
        return None
    return share.detach()


def _mean_loss(llm: AudioLLM, features: Features, part: MicroBatch) -> Float[Tensor, ""]:
    """The mean loss of a micro-batch, in nats a token of its responses."""
    examples, states = part.examples, part.states
    if states is None:
        states = features[[example.clip for example in examples]]
    batch = collate([example.stream for example in examples], llm.backbone.pad_id)
    learned = batch.labels != IGNORE
    audio_embeddings = llm.connect(states)
    logits = llm.response_logits(batch.prefix, batch.ids, learned, audio_embeddings)
    teachers = [example.soft_target for example in examples if example.soft_target is not None]
    if not teachers:
        return nn.functional.cross_entropy(logits, batch.labels[learned].to(logits.device))
    ids = torch.cat([teacher.ids for teacher in teachers]).to(logits.device)
    logp = torch.cat([teacher.logp for teacher in teachers]).to(logits.device)
    return kl_loss(logits, ids, logp)


def _explain_memory(
    llm: AudioLLM,
    features: Features,
    part: MicroBatch,
    config: TrainConfig,
    step: int,
    micro_batches: int,
) -> str:
    """Where memory ran out, and what to do, in words; how many rows fit is tried."""
    world, fitting = processes.world_size(), _count_fitting(llm, features, part)
    more = range(micro_batches // world + 1, config.batch // world + 1)
    enough = [n for n in more if math.ceil(config.batch / (n * world)) <= fitting]
    remedies = []
    if enough:
        remedies.append(f"go on with --accumulate {enough[0]} (the preset's accumulate)")
    if not llm.backbone.gradient_checkpointing:
        remedies.append("go on with --checkpointing (its gradient_checkpointing)")
    remedies.append("take a smaller backbone")
    return (
        f"Step {step + 1} needs more memory than {llm.backbone.device} has, at "
        f"{len(part.examples)} rows at once (batch {config.batch} in {micro_batches} "
        f"micro-batches), and {fitting} would fit; {', or '.join(remedies)}."
    )


def _count_fitting(llm: AudioLLM, features: Features, part: MicroBatch) -> int:
    """How many of a micro-batch's rows fit into memory, of its halves, the longest rows first."""
    longest = sorted(part.examples, key=lambda one: len(one.stream.ids), reverse=True)
    count = len(longest) // 2
    while count:
        gc.collect()
        torch.cuda.empty_cache()
        fits = _learn(llm, features, MicroBatch(longest[:count], part.tokens)) is not None
        for parameter in llm.trainable_parameters.values():
            parameter.grad = None
        if fits:
            break
        count //= 2
    return count


def compare_gradients(
    llm: AudioLLM,
    features: Features,
    rows: Sequence[Any],
    config: TrainConfig,
    soft_targets: Sequence[SoftTarget] | None = None,
    accumulate: int = 1,
) -> float:
    """How far the gradient of the first micro-batch moves when it is taken twice.

    It is the largest difference as a share of the largest value. Where it is 0, as on a CPU, the
    same run ends in the same numbers; where it is not, two runs part at their first step.
    """
    read = example_reader(llm, rows, soft_targets, config.batch)
    parameters = llm.trainable_parameters.values()
    micro_batches = _count_micro_batches(config, accumulate)
    with read_parts(llm, features, read, config, len(rows), micro_batches, 0) as parts:
        part = next(parts)
    taken = []
    with torch.random.fork_rng(devices=[]):
        for _ in range(2):
            torch.manual_seed(config.seed)
            _learn(llm, features, part)
            taken.append([p.grad for p in parameters if p.grad is not None])
            for parameter in parameters:
                parameter.grad = None
    largest = max(float(grad.abs().max()) for grad in taken[0])
    pairs = zip(*taken, strict=True)
    return max(float((first - second).abs().max()) for first, second in pairs) / largest


# ---- what stays frozen ----


def _hash_frozen(llm: AudioLLM) -> dict[str, str]:
    """The hash of each frozen part, without those of its tensors that learn."""
    backbone = llm.backbone.model
    named = backbone.named_parameters(remove_duplicate=False)  # one that is tied has two names
    learn = {name for name, parameter in named if parameter.requires_grad}
    return {"encoder": hash_tensors(llm.encoder), "backbone": hash_tensors(backbone, learn)}


def _check_frozen(
    llm: AudioLLM, before: Mapping[str, str], folder: Path, config: TrainConfig
) -> None:
    """Raise FreezeError unless frozen parts are unchanged and trained tensors changed.

    A run that fails the check keeps no state to resume from.
    """
    after = _hash_frozen(llm)
    changed = [part for part in before if before[part] != after[part]]
    with safe_open(checkpoint_path(folder, 0), "pt") as start:
        unchanged = [
            name
            for name, parameter in llm.trainable_parameters.items()
            if torch.equal(parameter.detach().cpu(), start.get_tensor(name))
        ]
    if changed or unchanged:
        checkpoints.state_path(folder).unlink(missing_ok=True)
    if changed:
        fault = f"The frozen {' and '.join(changed)} changed during training"
        raise FreezeError(f"{fault}; load them again, and train again.")
    if unchanged:
        never = f"these tensors never changed: {', '.join(unchanged)}"
        raise FreezeError(f"After {config.steps} steps {never}.")


# ---- a run on disk ----


def _resume(
    folder: Path, llm: AudioLLM, optimizer: torch.optim.Optimizer, config: TrainConfig
) -> tuple[int, str]:
    """Go back to the last state, or to step 0, and drop the records and checkpoints after it.

    Returns the step, and the hash of the records up to it. A state is not gone on with if the list
    has not all checkpoints before it: step 0 leads to the same.
    """
    if processes.is_main_rank():  # no one else writes here
        for place in (folder, folder / "checkpoints", folder / "state"):
            cache.remove_drafts(place, 0.0)
    step = checkpoints.load_state(folder, llm, optimizer, config.steps)
    listed = checkpoints.list_checkpoints(folder) if index_path(folder).exists() else []
    saved = [one["step"] for one in listed]
    due = checkpoints.checkpoint_steps(config.steps, config.checkpoint_every)
    if any(one not in saved for one in due if one < step):
        optimizer.state.clear()
        step = 0
    if step == 0 and 0 in saved:
        checkpoints.load_checkpoint(folder, llm, 0)
    elif step == 0:
        checkpoints.save_checkpoint(folder, llm, 0, None)
    records = checkpoints.read_records(folder, step) if step else []
    hashed = checkpoints.hash_records(records)
    if processes.is_main_rank():
        if step in due and step not in saved and step:
            checkpoints.save_checkpoint(folder, llm, step, records[-1]["loss"], hashed)
        if not step:
            checkpoints.state_path(folder).unlink(missing_ok=True)
        checkpoints.keep_checkpoints(folder, [one for one in due if one <= step])
        lines = "".join(json.dumps(record) + "\n" for record in records)
        cache.write_whole(checkpoints.records_path(folder), lines.encode())
    return step, hashed


@contextmanager
def own_run(folder: Path) -> Iterator[None]:
    """Let one job at a time into the folder of a run; rank 0 waits for its turn."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock") if processes.is_main_rank() else nullcontext():
        yield


def _save(
    folder: Path,
    llm: AudioLLM,
    optimizer: torch.optim.Optimizer,
    record: Mapping[str, Any],
    hashed: str,
    config: TrainConfig,
    state_every: int,
) -> None:
    """Write the checkpoint and the state of this step where they are due."""
    step = record["step"]
    if step in checkpoints.checkpoint_steps(config.steps, config.checkpoint_every):
        checkpoints.save_checkpoint(folder, llm, step, record["loss"], hashed)
    if step % state_every == 0 or step == config.steps:
        checkpoints.save_state(folder, llm, optimizer, step)


def run_folder(root: Path, name: str, config: Mapping[str, Any]) -> Path:
    """`<root>/<name>-<key>/` with its `config.json`: the same config finds the same run.

    The config is all that determines the run, as plain data without paths (see `Provenance`).
    """
    provenance = cache.Provenance("runs", config)
    folder, about = root / f"{name}-{provenance.key}", cache.to_json(config)
    folder.mkdir(parents=True, exist_ok=True)
    for place in (folder, folder / "checkpoints", folder / "state"):
        cache.remove_drafts(place)  # a kill may have left one in a run that is finished
    written = folder / "config.json"
    if processes.is_main_rank() and not (written.is_file() and written.read_bytes() == about):
        cache.write_whole(written, about)
    return folder


def is_finished(folder: Path, config: TrainConfig) -> bool:
    """Whether the list of a run has all its checkpoints, and no other."""
    if not index_path(folder).exists():
        return False
    saved = [one["step"] for one in checkpoints.list_checkpoints(folder)]
    return checkpoints.checkpoint_steps(config.steps, config.checkpoint_every) == saved
