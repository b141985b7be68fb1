"""One visible training loop: the connector learns; killed at any step it resumes to the same weights."""

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from desta_lab import cache, processes
from desta_lab.model import chat
from desta_lab.model.audio_llm import AudioLLM, hash_tensors
from desta_lab.training import checkpoints
from desta_lab.training.batches import IGNORE, collate
from desta_lab.training.features import FeatureStore, OnTheFlyFeatures
from desta_lab.training.targets import SoftTarget, kl_loss

AHEAD = 4096  # examples tokenised before the first step, and kept: of a small set all, of millions some megabytes


class FreezeError(RuntimeError):
    """Something frozen moved, or something trainable did not; the message names it."""


class LossError(RuntimeError):
    """The loss is no number any more; the message names the step."""


class StateError(ValueError):
    """A run's state on disk cannot be gone on from; the message names the file and what to do."""


@dataclass(frozen=True)
class TrainConfig:
    """How long and how fast to train; every number is part of the run's hash."""

    steps: int
    batch: int = 8
    lr: float = 1e-3
    warmup: int = 20
    floor: float = 0.1  # the cosine ends at this share of lr
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    seed: int = 0
    checkpoint_every: int = 64  # linear spacing of the ladder after its powers of two

    def learning_rate(self, step: int) -> float:
        """Learning rate of the step that is about to be taken (0-based): linear warm-up, then cosine."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * (self.floor + (1 - self.floor) * (1 + math.cos(math.pi * done)) / 2)

    def batch_rows(self, step: int, examples: int) -> list[int]:
        """The examples of one step: epochs in an order that depends on the seed and the epoch alone."""
        wanted = range(step * self.batch, (step + 1) * self.batch)
        return [
            int(_order(self.seed * 100_003 + i // examples, examples)[i % examples]) for i in wanted
        ]


@lru_cache(maxsize=2)  # a step may end one epoch and begin the next
def _order(seed: int, examples: int) -> Int[Tensor, "example"]:
    return torch.randperm(examples, generator=torch.Generator().manual_seed(seed))


def train(
    llm: AudioLLM,
    store: FeatureStore | OnTheFlyFeatures,
    examples: Sequence[dict[str, Any]],
    recipe: TrainConfig,
    folder: Path,
    *,
    soft: Sequence[SoftTarget] | None = None,
    state_every: int = 50,
    accumulate: int = 1,
    progress: Callable[[int, int, dict[str, Any]], None] | None = None,
) -> None:
    """Train the connector, and what of the backbone was thawed, on the examples.

    Leaves `records.jsonl`, `checkpoints/` and `state/` in `folder`. An example is read when its step comes, so that a
    `Manifest` of millions fits; its clip is asked of the store by its `clip`, or by its `id` if it has none.
    `soft` gives the teacher's distributions, one for each example; without it the loss is cross-entropy on the
    response. Rows of a batch are drawn from the recipe's seed, and so is dropout: the state on disk is what learns,
    its moments and the step, nothing else.

    Several ranks share every batch, and each computes its share in `accumulate` parts, to save memory. What is learned
    is the same but for rounding, as every token weighs the same in whatever part it is; only dropout, where there is
    any, draws other zeros. So neither is part of the recipe, and a run may go on with others.

    Raises:
        ValueError: the batch has fewer rows than there are parts.
        FreezeError: at the end something frozen has changed, or something that learns has not. The last rung
            is kept only after that check, so that such a run never looks finished.
        LossError: the loss is no number any more.
        StateError: the state on disk is damaged.
        ChatError: an example is longer than the backbone can read; found before the first step among the first
            4096 examples, before its own step among the others.
    """
    parts = processes.world_size() * accumulate
    if recipe.batch < parts:
        raise ValueError(
            f"A batch of {recipe.batch} has no row for each of {parts} parts "
            f"({processes.world_size()} processes, accumulate {accumulate}); enlarge it, or take fewer."
        )
    llm.connector.train()
    learning = list(llm.trainable_parameters.values())
    optimizer = torch.optim.AdamW(
        learning, lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay, fused=True
    )

    @lru_cache(maxsize=AHEAD)
    def read(i: int) -> tuple[chat.TokenStream, str]:
        e = examples[i]
        try:
            stream = chat.build_stream(
                llm.backbone.tokenizer,
                e["messages"],
                llm.queries,
                response=e["response"],
                truncated=e.get("provenance", {}).get("truncated", False),
                transcripts=e.get("transcripts"),
                max_tokens=llm.backbone.max_positions,
            )
        except chat.ChatError as error:
            raise chat.ChatError(f"Example {i + 1} ({e['id']}): {error}") from error
        return stream, e.get("clip", e["id"])

    for i in range(min(AHEAD, len(examples))):
        read(i)
    frozen = _frozen(llm)
    folder.mkdir(parents=True, exist_ok=True)
    with processes.main_first():
        first = _resume(folder, llm, optimizer)
        if first == 0:
            _be_born(folder, llm)
    rungs = set(checkpoints.checkpoint_steps(recipe.steps, recipe.checkpoint_every))
    written = folder / "records.jsonl" if processes.is_main_rank() else Path(os.devnull)
    with written.open("a", buffering=1) as records, torch.random.fork_rng(devices=[]):
        for step in range(first, recipe.steps):
            begin = time.perf_counter()
            rows = recipe.batch_rows(step, len(examples))
            tokens = sum(len(read(i)[0].response) for i in rows)
            said: Any = 0.0
            for part in processes.share_of_rank(range(parts)):
                mine = rows[part::parts]
                seed = recipe.seed * 100_003 + step + (part << 32)
                torch.manual_seed(seed)  # dropout: a resumed step draws what the first one drew
                streams, clips = zip(*map(read, mine), strict=True)
                loss = _loss(llm, streams, store[clips], soft and [soft[i] for i in mine])
                loss = loss * (sum(len(s.response) for s in streams) / tokens)
                loss.backward()
                said = said + loss.detach()
            processes.sum_over_ranks([said, *(p.grad for p in learning if p.grad is not None)])
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate(step)
            norm = nn.utils.clip_grad_norm_(learning, recipe.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            record = {
                "step": step + 1,
                "loss": float(said),
                "lr": recipe.learning_rate(step),
                "grad_norm": float(norm),
                "tokens": tokens,
                "seconds": time.perf_counter() - begin,
            }
            if not math.isfinite(record["loss"]):
                raise LossError(
                    f"The loss of step {step + 1} is {record['loss']}; lower the learning rate."
                )
            records.write(json.dumps(record) + "\n")
            if step + 1 == recipe.steps:
                _guard(llm, frozen, folder, recipe)
                processes.wait_for_all()  # no rank found anything
            if step + 1 in rungs and processes.is_main_rank():
                checkpoints.save_checkpoint(folder, llm, step + 1, record["loss"])
            if (
                (step + 1) % state_every == 0 or step + 1 == recipe.steps
            ) and processes.is_main_rank():
                _keep(folder, llm, optimizer, step + 1)
            if progress:
                progress(step + 1, recipe.steps, record)
    llm.connector.eval()
    processes.wait_for_all()  # until the last rung is there


def _loss(
    llm: AudioLLM,
    streams: Sequence[chat.TokenStream],
    states: Float[Tensor, "layer batch frame d_enc"],
    teacher: Sequence[SoftTarget] | None,
) -> Float[Tensor, ""]:
    """The mean loss of some rows, in nats a token of their responses."""
    batch = collate(streams, llm.backbone.pad_id)
    at = batch.labels != IGNORE
    with llm.autocast():
        spoken = llm.connector(states.to(next(llm.connector.parameters()).device))
    logits = llm.response_logits(batch.prefix, batch.ids, at, spoken)
    if teacher is None:
        return nn.functional.cross_entropy(logits, batch.labels[at].to(logits.device))
    ids, logp = torch.cat([t.ids for t in teacher]), torch.cat([t.logp for t in teacher])
    return kl_loss(logits, ids.to(logits.device), logp.to(logits.device))


def _be_born(folder: Path, llm: AudioLLM) -> None:
    """Keep the connector as step 0, or go back to the step 0 of a run that began here and left no state."""
    if checkpoints.index_path(folder).exists():
        checkpoints.load_checkpoint(folder, llm, 0)
    else:
        checkpoints.save_checkpoint(folder, llm, 0, None)


def _frozen(llm: AudioLLM) -> dict[str, str]:
    """The hash of each part without what learns."""
    return {
        "encoder": hash_tensors(llm.encoder),
        "backbone": hash_tensors(llm.backbone.model, without=_twins(llm.backbone.model)),
    }


def _twins(model: nn.Module) -> set[str]:
    """The names of all tensors that learn, tied ones under each of theirs."""
    places = {p.data_ptr() for p in model.parameters() if p.requires_grad}
    return {name for name, tensor in model.state_dict().items() if tensor.data_ptr() in places}


def _guard(llm: AudioLLM, before: dict[str, str], folder: Path, recipe: TrainConfig) -> None:
    """Frozen means frozen, and trained means trained; a run that broke this keeps no state to go on from."""
    after = _frozen(llm)
    moved = [part for part in before if before[part] != after[part]]
    with safe_open(checkpoints.checkpoint_path(folder, 0), "pt") as born:
        asleep = [
            name
            for name, p in llm.trainable_parameters.items()
            if torch.equal(p.detach().cpu(), born.get_tensor(name))
        ]
    if moved or asleep:
        (folder / "state" / "state.safetensors").unlink(missing_ok=True)
    if moved:
        raise FreezeError(
            f"The frozen {' and '.join(moved)} changed during training; load them again, and train again."
        )
    if asleep:
        raise FreezeError(
            f"After {recipe.steps} steps these tensors never moved: {', '.join(asleep)}."
        )


def _keep(folder: Path, llm: AudioLLM, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write what learns, Adam's moments and the step as one safetensors file, moved into place whole."""
    tensors: dict[str, Tensor] = {f"weight.{n}": t for n, t in llm.trainable_state().items()}
    for i, parameter in enumerate(llm.trainable_parameters.values()):
        moments = optimizer.state[parameter]
        tensors |= {f"moment.{i}.{k}": torch.as_tensor(v) for k, v in moments.items()}
    path = folder / "state" / "state.safetensors"
    path.parent.mkdir(exist_ok=True)
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    save_file(tensors, path.with_suffix(".part"), metadata={"step": str(step)})
    path.with_suffix(".part").replace(path)


def _resume(folder: Path, llm: AudioLLM, optimizer: torch.optim.Optimizer) -> int:
    """Put back the last state, and drop the records written after it; returns the step to go on from."""
    path = folder / "state" / "state.safetensors"
    step = 0
    if path.exists():
        try:
            with safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
                step = int(file.metadata()["step"])
            llm.load_trainable_state(
                {
                    n.removeprefix("weight."): t
                    for n, t in tensors.items()
                    if n.startswith("weight.")
                }
            )
        except (SafetensorError, RuntimeError, TypeError, KeyError, ValueError) as error:
            fault = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
            raise StateError(
                f"{path}: damaged ({fault}); delete it and train again: step 0 leads to the same."
            ) from error
        for i, parameter in enumerate(llm.trainable_parameters.values()):
            keys = [n for n in tensors if n.startswith(f"moment.{i}.")]
            optimizer.state[parameter] = {
                n.split(".", 2)[2]: tensors[n]
                if n.endswith("step")
                else tensors[n].to(parameter.device)
                for n in keys
            }
    records = folder / "records.jsonl"
    if records.exists() and processes.is_main_rank():
        lines = records.read_text().splitlines()[:step]
        cache.write_whole(records, "".join(line + "\n" for line in lines).encode())
    return step


def run_folder(root: Path, name: str, config: dict[str, Any]) -> Path:
    """`<root>/<name>-<hash of the config>/` with its `config.json`: the same config finds the same run."""
    text = json.dumps(config, sort_keys=True, default=str)
    folder = root / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    if processes.is_main_rank() and not (folder / "config.json").exists():
        cache.write_whole(folder / "config.json", json.dumps(json.loads(text), indent=1).encode())
    return folder


def is_finished(folder: Path, recipe: TrainConfig) -> bool:
    """Whether a run holds every rung of its ladder already."""
    if not checkpoints.index_path(folder).exists():
        return False
    kept = {rung["step"] for rung in checkpoints.list_checkpoints(folder)}
    return set(checkpoints.checkpoint_steps(recipe.steps, recipe.checkpoint_every)) <= kept
