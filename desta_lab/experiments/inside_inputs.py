"""What is looked into: clips, labels, speakers and tasks that fit each other."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from desta_lab import cache
from desta_lab.analysis.probes import speaker_folds
from desta_lab.clips import Clip, Span
from desta_lab.evaluation.tasks import Task, task_ladder
from desta_lab.model.sites import Sound
from desta_lab.world.describe import order_values


class InsideError(ValueError):
    """What these clips or this model cannot be asked; the message says what is missing."""


def _check_counts(count: int, given: Mapping[str, Sequence[Any] | None]) -> None:
    for what, some in given.items():
        if some is not None and len(some) != count:
            raise InsideError(f"There are {count} clips and {len(some)} {what}; give one for each.")


def check_labels(
    clips: Sequence[Clip | Sound], labels: Mapping[str, Sequence[str]] | None
) -> Mapping[str, Sequence[str]]:
    """The labels as given, or all that `Clip`s have in common and that tells them apart."""
    if labels is None:
        known = [clip.attributes if isinstance(clip, Clip) else {} for clip in clips]
        shared = [name for name in (known or [{}])[0] if all(name in own for own in known)]
        found = {name: [own[name] for own in known] for name in shared}
        labels = {name: values for name, values in found.items() if len(set(values)) > 1}
    _check_counts(len(clips), {f"values of {name}": values for name, values in labels.items()})
    if same := [name for name, values in labels.items() if len(set(values)) < 2]:
        raise InsideError(
            f"All {len(clips)} clips have the same {same[0]}; a label needs two values."
        )
    if not labels:
        raise InsideError("No label tells these clips apart; give labels={name: [a value a clip]}.")
    return labels


def make_clips(
    clips: Sequence[Clip | Sound],
    labels: Mapping[str, Sequence[str]],
    speakers: Sequence[str] | None,
    transcripts: Sequence[str] | None,
    spans: Sequence[Sequence[Span]] | None,
) -> list[Clip]:
    """All that is known of every clip, a file being named by its name."""
    given = {"speakers": speakers, "transcripts": transcripts, "spans": spans}
    _check_counts(len(clips), given)
    names = [f"clip {i}" if isinstance(c, np.ndarray) else _name(c) for i, c in enumerate(clips)]
    often, made = Counter(names), []
    for row, (one, name) in enumerate(zip(clips, names, strict=True)):
        alone = name if often[name] == 1 else f"{row} {name}"
        clip = one if isinstance(one, Clip) else Clip(alone, "", 0.0, "", alone, {})
        own = {name: values[row] for name, values in labels.items()}
        made.append(
            replace(
                clip,
                attributes={**clip.attributes, **own},
                speaker=speakers[row] if speakers is not None else clip.speaker,
                transcript=transcripts[row] if transcripts is not None else clip.transcript,
                spans=tuple(spans[row]) if spans is not None else clip.spans,
            )
        )
    return made


def _name(clip: Any) -> str:
    return clip.id if isinstance(clip, Clip) else Path(clip).name


def check_tasks(labels: Mapping[str, Sequence[str]], tasks: Sequence[Task] | None) -> list[Task]:
    """The tasks as given, or a plain question about every label."""
    if tasks is None:
        values = {name: order_values(name, own) for name, own in labels.items()}
        return [task for task in task_ladder(values) if task.rung == 3]
    for task in tasks:
        if task.attribute not in labels:
            raise InsideError(
                f"{task.name} asks about {task.attribute}, of which there are no labels; give them."
            )
        if strange := sorted(set(labels[task.attribute]) - set(task.options)):
            raise InsideError(
                f"{task.name} asks about {task.attribute}, which is {strange[0]!r} in a clip; give "
                f"every clip one of its options ({', '.join(task.options)})."
            )
    if not tasks:
        raise InsideError("No task is given; give one at least, or None for a plain question.")
    return list(tasks)


def pick_calibration(
    speakers: Sequence[str], labels: Mapping[str, Sequence[str]], rows: Sequence[int] | None
) -> list[int]:
    """The rows that calibrate: as given, or those of a third of the speakers.

    Raises:
        InsideError: a row is none, or of the other speakers' clips there are too few.
    """
    if rows is not None:
        chosen, there = list(rows), range(len(speakers))
        if not chosen or not set(chosen) <= set(there):
            odd = next((row for row in chosen if row not in there), "none")
            fault = f"calibration has the row {odd}, and there are 0 to {there[-1]}"
            raise InsideError(f"{fault}; give rows of clips, at least one.")
        known = {speakers[row] for row in chosen}
        check_speakers([name for name in speakers if name not in known], "not in calibration")
        return chosen
    strata = ["/".join(values) for values in zip(*labels.values(), strict=True)]
    return sorted(speaker_folds(speakers, strata, count=3)[0][1].tolist())


def check_speakers(speakers: Sequence[str], which: str) -> None:
    """Refuse clips of one speaker where a control takes another speaker's clip.

    Raises:
        InsideError: it says `which` clips they are.
    """
    if len(set(speakers)) < 2:
        raise InsideError(
            f"The {len(speakers)} clips {which} have {len(set(speakers))} speakers, and a control "
            "takes a clip of another; give clips of two or more, in mixed order."
        )


def hash_sound(sound: Sound) -> str:
    """The sha256 of a sound: of its file, or of the samples of a waveform."""
    if isinstance(sound, np.ndarray):
        return hashlib.sha256(np.ascontiguousarray(sound).tobytes()).hexdigest()
    return cache.hash_file(Path(sound))
