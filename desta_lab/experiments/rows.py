"""Training rows: which prompt each clip is trained with, and whose words the response is."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from desta_lab import cache, processes
from desta_lab.cache import Provenance
from desta_lab.clips import Clip
from desta_lab.experiments.corpus_tasks import CorpusTasks
from desta_lab.model.backbone import Backbone
from desta_lab.model.presets import Preset
from desta_lab.model.weights import NANO_FOLDER, hash_folder
from desta_lab.training.targets import (
    SoftTarget,
    Target,
    check_writer,
    generate_targets,
    label_target,
    template_target,
    training_row,
)
from desta_lab.world.describe import describe

KINDS = ("self", "hard", "instruction-free", "label", "template", "other")
WRITTEN = ("self", "hard", "instruction-free")  # by the backbone itself
SOFT = ("self", "instruction-free")  # learned with the distribution over each next token
PART = 256  # pairs, whole batches: at most this many of a rank are written again after a kill
MAX_NEW_TOKENS = 40  # of a self-generated target

Pairs = Sequence[tuple[str, str]]  # (description, prompt)
Write = Callable[[], tuple[list[Target], list[SoftTarget]]]


@dataclass(frozen=True)
class Targets:
    """The backbone's own responses, and its next-token distributions along each of them."""

    rows: list[Target]
    soft: list[SoftTarget]

    def of_pairs(self, pairs: Pairs) -> "Targets":
        """The targets of these (description, prompt) pairs, in their order."""
        index = {(row.description, row.prompt): i for i, row in enumerate(self.rows)}
        chosen = [index[pair] for pair in pairs]
        return Targets([self.rows[i] for i in chosen], [self.soft[i] for i in chosen])


def assign_prompts(clips: Sequence[Clip], prompts: Sequence[str]) -> list[str]:
    """One of the prompts for each clip, by the hash of its id: it keeps it among fewer clips."""
    digests = [hashlib.sha256(clip.id.encode()).hexdigest() for clip in clips]
    return [prompts[int(digest, 16) % len(prompts)] for digest in digests]


def training_prompts(kind: str, asked: CorpusTasks) -> tuple[str, ...]:
    """What the clips of a run are asked: with instruction-free targets nothing (2601.06086)."""
    return ("",) if kind == "instruction-free" else asked.prompts


def pair_clips(
    clips: Sequence[Clip], asked: CorpusTasks, kind: str = "self"
) -> list[tuple[str, str]]:
    """(description, prompt) of each clip in a run of a kind."""
    descriptions = [asked.describe(clip.attributes) for clip in clips]
    prompts = assign_prompts(clips, training_prompts(kind, asked))
    return list(zip(descriptions, prompts, strict=True))


# ---- the backbone's own words ----


def find_or_write_targets(root: Path, provenance: Provenance, write: Write) -> Targets:
    """Collective: targets from disk, or written by all ranks, each its share.

    Args:
        write: the collective that writes them; not called if they are on disk.

    Raises:
        TargetError: another LLM wrote them.
    """
    written: tuple[list[Target], list[SoftTarget]] = ([], [])
    if not processes.broadcast(cache.find(root, provenance) is not None):
        written = write()
    targets = _unpack(cache.find_or_make(root, provenance, lambda: _pack(*written)))
    check_writer(targets.rows, provenance.facts["backbone_sha256"])
    return targets


def _pack(rows: Sequence[Target], soft: Sequence[SoftTarget]) -> dict[str, Any]:
    tensors = {
        "ids": torch.cat([one.ids for one in soft]),
        "logp": torch.cat([one.logp for one in soft]),
        "tokens": torch.tensor([len(one.ids) for one in soft]),
    }
    return {"rows": [asdict(row) for row in rows], "soft": tensors}


def _unpack(result: Mapping[str, Any]) -> Targets:
    tensors = result["soft"]
    tokens = tensors["tokens"].tolist()
    parts = zip(tensors["ids"].split(tokens), tensors["logp"].split(tokens), strict=True)
    return Targets(
        [Target(**row) for row in result["rows"]], [SoftTarget(ids, logp) for ids, logp in parts]
    )


def find_or_write_parts(
    root: Path,
    provenance: Provenance,
    pairs: Pairs,
    write: Callable[..., tuple[list[Target], list[SoftTarget]]],
    progress: Callable[[int, int], None],
) -> Targets:
    """Collective: targets of many pairs, kept part by part until all are there, in case of a kill.

    Args:
        pairs: (description, prompt), none twice.
        write: the collective that writes those of some pairs, and reports its progress.
        progress: called with (pairs done, pairs in all).
    """
    size = PART * processes.world_size()
    parts = {first: pairs[first : first + size] for first in range(0, len(pairs), size)}
    kept = {first: provenance.derive("targets", pairs=part) for first, part in parts.items()}

    def write_part(first: int) -> tuple[list[Target], list[SoftTarget]]:
        def report(done: int, total: int) -> None:
            progress(first + len(parts[first]) * done // total, len(pairs))

        return write(parts[first], progress=report)

    def write_all() -> tuple[list[Target], list[SoftTarget]]:
        if len(parts) == 1:
            return write_part(0)
        found = [find_or_write_targets(root, kept[n], partial(write_part, n)) for n in parts]
        return [row for one in found for row in one.rows], [s for one in found for s in one.soft]

    targets = find_or_write_targets(root, provenance, write_all)
    processes.wait_for_all()  # every rank has read what is removed
    if processes.is_main_rank() and len(parts) > 1:
        for one in kept.values():
            cache.remove(root, one)
    return targets


# ---- other words ----


def other_targets(
    kind: str, clips: Sequence[Clip], pairs: Pairs, asked: CorpusTasks, preset: Preset
) -> tuple[Sequence[Clip], list[Target]]:
    """The clips that have a target which the backbone did not write, and their targets.

    Args:
        kind: `label`, which a clip without the label's attribute has not, `template` or `other`.
        pairs: the (description, prompt) of each clip.

    Raises:
        ValueError: the nano LLM, which is the other writer, cannot write here.
    """
    if kind == "label":
        clips = [clip for clip in clips if preset.label in clip.attributes]
        question = asked.label_question(preset.label) or ""
        return clips, [label_target(clip, preset.label, question) for clip in clips]
    if kind == "template":
        return clips, [
            template_target(clip, prompt, asked.values, asked.describe)
            for clip, (_, prompt) in zip(clips, pairs, strict=True)
        ]
    if not can_nano_write(asked, preset):
        raise ValueError("The other LLM is nano; take the spoken world and the preset cpu.")
    return clips, nano_targets(pairs)


def can_nano_write(asked: CorpusTasks, preset: Preset) -> bool:
    """Whether nano can be the other writer: of its own world, beside another backbone."""
    return asked.describe is describe and NANO_FOLDER.is_dir() and not preset.glass_box


def nano_targets(pairs: Pairs) -> list[Target]:
    """What another LLM answers to these pairs: nano, which can write of the spoken world."""
    writer, revision = Backbone.load(NANO_FOLDER), hash_folder(NANO_FOLDER)
    answers = generate_targets(
        writer, "nano", revision, list(dict.fromkeys(pairs)), kind="other", max_new_tokens=48
    )
    return [answers[pair] for pair in pairs]


# ---- rows ----


def build_rows(
    clips: Sequence[Clip], targets: Sequence[Target], corpus: str, transcript: bool
) -> list[dict[str, Any]]:
    """The training rows of clips with their targets, and transcripts where training has them."""
    pairs = zip(clips, targets, strict=True)
    words = {clip.id: {"transcripts": [clip.transcript]} if transcript else {} for clip in clips}
    return [{**training_row(clip.id, target, corpus), **words[clip.id]} for clip, target in pairs]
