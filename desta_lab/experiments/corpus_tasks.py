"""What is asked about a corpus: its attributes with their values, its descriptions, its task
ladder.
"""

from collections.abc import Callable
from dataclasses import dataclass

from desta_lab.clips import Clip, Corpus
from desta_lab.evaluation.tasks import Task, task_ladder
from desta_lab.world.attributes import ATTRIBUTES, DESCRIBED
from desta_lab.world.describe import (
    askable_attributes,
    describe,
    describe_plainly,
    description_function,
    is_spoken_world,
)


@dataclass(frozen=True)
class CorpusTasks:
    """Attribute → its values, the function that describes a clip, and every task."""

    values: dict[str, tuple[str, ...]]
    describe: Callable[..., str]
    tasks: list[Task]


def corpus_tasks(corpus: Corpus | None, glass_box: bool) -> CorpusTasks:
    """The attributes, descriptions and tasks of a corpus.

    Args:
        corpus: one that someone brought; None is the spoken world.
        glass_box: whether the backbone is the nano LLM, which knows few words.

    Raises:
        ValueError: no attribute has two values, or the nano LLM does not know its words.
    """
    if corpus is None or is_spoken_world(corpus):
        known = {name: ATTRIBUTES[name] for name in DESCRIBED}
        return CorpusTasks(known, describe, task_ladder())
    values = askable_attributes(corpus)
    if not values:
        raise ValueError(
            f"{corpus.folder}: no attribute has two values or more, so there is nothing to ask "
            "about; add a column to the table that tells clips apart."
        )
    if glass_box:
        _check_nano_words(corpus)
    return CorpusTasks(values, description_function(corpus), task_ladder(values))


def clip_counts(clips: list[Clip]) -> tuple[int, int]:
    """The number of clips and of their speakers."""
    return len(clips), len({clip.speaker for clip in clips})


def _check_nano_words(corpus: Corpus) -> None:
    pairs = {pair for clip in corpus.clips for pair in clip.attributes.items()}
    unknown = sorted(
        f"{name} = {value!r}"
        for name, value in pairs
        if name not in DESCRIBED or value not in ATTRIBUTES[name]
    )
    if not unknown and description_function(corpus) is describe_plainly:
        return
    known = "; ".join(f"{name}: {', '.join(ATTRIBUTES[name])}" for name in DESCRIBED)
    strange = ", ".join(unknown[:3]) or f"the sentences of {corpus.name}"
    raise ValueError(
        f"{corpus.folder}: the nano LLM knows only the words of its own text world ({known}), and "
        f"nothing of {strange}; leave such columns out of the table, or take the preset cpu."
    )
