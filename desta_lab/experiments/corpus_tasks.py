"""What a corpus is asked and trained with: usual or somebody's own words, prompts and tasks."""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from desta_lab.clips import Clip, Corpus
from desta_lab.evaluation.constraints import CHECKS
from desta_lab.evaluation.tasks import (
    PROMPTS,
    RUNGS,
    TRAINED_PROMPT,
    Task,
    name_options,
    task_ladder,
)
from desta_lab.model.presets import NANO, Preset, part_id
from desta_lab.training.targets import TargetError, check_leak
from desta_lab.world.attributes import ATTRIBUTES, DESCRIBED
from desta_lab.world.describe import (
    askable_attributes,
    describe,
    describe_known,
    describe_plainly,
    description_function,
    is_recorded,
    is_spoken_world,
)

Values = Mapping[str, tuple[str, ...]]  # attribute → its values
Attributes = Mapping[str, str]  # of one clip


@dataclass(frozen=True)
class CorpusTasks:
    """Attribute → its values, the function that describes a clip, every task, what trains.

    Args:
        prompts: what the training clips are asked, each clip one of them.
        own: what somebody's own pieces add to the facts of a result, by their content; empty where
            none differs from what the corpus brings.
    """

    values: dict[str, tuple[str, ...]]
    describe: Callable[..., str]
    tasks: list[Task]
    prompts: tuple[str, ...]
    own: dict[str, Any] = field(default_factory=dict)

    def label_question(self, attribute: str) -> str | None:
        """The question that the bare-label run trains: that of rung 3; None where there is none."""
        asked = [t for t in self.tasks if t.rung == 3 and t.attribute == attribute]
        named = [task for task in asked if task.name == f"ask_{attribute}"]
        return next((task.question for task in [*named, *asked]), None)


def corpus_tasks(
    corpus: Corpus | None,
    preset: Preset,
    *,
    attributes: Iterable[str] | None = None,
    tasks: Sequence[Task] | None = None,
    prompts: Sequence[str] | None = None,
    describe: Callable[[Attributes], str] | None = None,
) -> CorpusTasks:
    """The attributes, descriptions, training prompts and tasks of a corpus.

    Args:
        corpus: one that someone brought; None is the spoken world.
        preset: how many of the usual prompts train, and whether the backbone is the nano LLM,
            which knows few words.
        attributes, tasks, prompts, describe: somebody's own, as for `Experiment`.

    Raises:
        ValueError: no attribute has two values, the nano LLM does not know its words, or an own
            piece does not fit the corpus.
    """
    usual = _usual_tasks(corpus, preset)
    described = _described(corpus)
    values: Values = usual.values
    ladder = usual.tasks
    if attributes is not None:
        values = _pick_values(list(attributes), described)
        ladder = _ladder(preset, values)
    if prompts is not None:
        _check_prompts(prompts)
        ladder = [
            replace(t, question=prompts[0]) if t.question == TRAINED_PROMPT else t for t in ladder
        ]
    if tasks is not None:
        _check_tasks(tasks, described)
        ladder = list(tasks)
    asked = CorpusTasks(
        dict(values), describe or usual.describe, ladder, tuple(prompts or usual.prompts)
    )
    texts = _describe_all(asked.describe, described) if describe or prompts else []
    for prompt, text in itertools.product(asked.prompts if texts else (), dict.fromkeys(texts)):
        _check_prompt_leak(prompt, text)
    own = {
        "attributes": list(asked.values) if asked.values != usual.values else None,
        "tasks": [repr(t) for t in asked.tasks] if asked.tasks != usual.tasks else None,
        "prompts": list(asked.prompts) if asked.prompts != usual.prompts else None,
        "descriptions": _hash_descriptions(described, texts)
        if asked.describe is not usual.describe
        else None,
    }
    return replace(asked, own={name: fact for name, fact in own.items() if fact is not None})


def _usual_tasks(corpus: Corpus | None, preset: Preset) -> CorpusTasks:
    """What a corpus is asked where nothing is somebody's own."""
    prompts = PROMPTS[: preset.prompts]
    if corpus is None or is_spoken_world(corpus):
        known = {name: ATTRIBUTES[name] for name in DESCRIBED}
        return CorpusTasks(known, describe, _ladder(preset), prompts)
    values = askable_attributes(corpus)
    if not values:
        raise ValueError(
            f"{corpus.folder}: no attribute has two values or more, so there is nothing to ask "
            "about; add a column to the table that tells clips apart."
        )
    if preset.glass_box:
        _check_nano_words(corpus)
    return CorpusTasks(values, description_function(corpus), _ladder(preset, values), prompts)


def _ladder(preset: Preset, values: Values | None = None) -> list[Task]:
    """The ladder in the words of the backbone: nano LLMs, of any size, know one form of each."""
    ladder, (kind, *_) = task_ladder(values), part_id(preset.backbone).split("-")
    return ladder if kind == NANO else name_options(ladder)


def clip_counts(clips: list[Clip]) -> tuple[int, int]:
    """The number of clips and of their speakers."""
    return len(clips), len({clip.speaker for clip in clips})


def _check_nano_words(corpus: Corpus) -> None:
    pairs = {pair for clip in corpus.clips for pair in clip.attributes.items()}
    unknown = sorted(
        f"{name} = {value!r}"
        for name, value in pairs
        if (name not in DESCRIBED and not is_recorded(corpus))
        or (name in DESCRIBED and value not in ATTRIBUTES[name])
    )
    if not unknown and description_function(corpus) in (describe_known, describe_plainly):
        return
    known = "; ".join(f"{name}: {', '.join(ATTRIBUTES[name])}" for name in DESCRIBED)
    strange = ", ".join(unknown[:3]) or f"the sentences of {corpus.name}"
    raise ValueError(
        f"{corpus.folder}: the nano LLM knows only the words of its own text world ({known}), and "
        f"nothing of {strange}; leave such columns out of the table, or take the preset cpu."
    )


# ---- somebody's own ----


def _described(corpus: Corpus | None) -> list[dict[str, str]]:
    """The attributes of every clip, or every combination that the spoken world can render."""
    if corpus is not None:
        unique = {json.dumps(clip.attributes, sort_keys=True): clip for clip in corpus.clips}
        return [dict(unique[text].attributes) for text in sorted(unique)]
    combinations = itertools.product(*ATTRIBUTES.values())
    return [dict(zip(ATTRIBUTES, values, strict=True)) for values in combinations]


def _values_of(name: str, described: Sequence[Attributes]) -> tuple[str, ...]:
    """The values of an attribute that occur, in the order of the spoken world where it has them."""
    found = {attributes[name] for attributes in described if name in attributes}
    known = ATTRIBUTES.get(name, ())
    return tuple(v for v in known if v in found) if found <= set(known) else tuple(sorted(found))


def _pick_values(names: Sequence[str], described: Sequence[Attributes]) -> Values:
    there = list(dict.fromkeys(name for attributes in described for name in attributes))
    values = {name: _values_of(name, described) for name in names}
    if not names or (poor := [name for name, some in values.items() if len(some) < 2]):
        fault = (
            f"{poor[0]!r} has fewer than two values in this corpus" if names else "none is named"
        )
        raise ValueError(
            f"attributes are those that clips are asked about, and {fault}; take some of "
            f"{', '.join(name for name in there if len(_values_of(name, described)) > 1)}."
        )
    return values


def _check_prompts(prompts: Sequence[str]) -> None:
    if isinstance(prompts, str) or not prompts or len({*prompts}) < len(prompts):
        raise ValueError(f"prompts are different texts, at least one, in a list, not {prompts!r}.")
    for prompt in prompts:
        if not isinstance(prompt, str) or not prompt.strip():
            raise ValueError(f"The training prompt {prompt!r} asks nothing; write a sentence.")


def _check_prompt_leak(prompt: str, description: str) -> None:
    try:
        check_leak(f"the prompt {prompt!r}", description, [prompt])
    except TargetError as error:
        raise ValueError(f"{str(error).rstrip('.')}: it holds {description!r}.") from error


def _check_tasks(tasks: Sequence[Task], described: Sequence[Attributes]) -> None:
    """Raise ValueError for the first task that cannot be asked about these clips."""
    if not tasks:
        raise ValueError("tasks are at least one; without any, leave tasks out.")
    if doubled := [t.name for n, t in enumerate(tasks) if t.name in {u.name for u in tasks[:n]}]:
        raise ValueError(f"Two tasks are named {doubled[0]!r}; give each its own name.")
    for task in tasks:
        if fault := _find_fault(task, described):
            raise ValueError(f"The task {task.name!r} {fault}.")


def _find_fault(task: Task, described: Sequence[Attributes]) -> str | None:
    """What is wrong with a task, as the end of a sentence; None where nothing is."""
    values = _values_of(task.attribute, described)
    without = [value for value in values if value not in task.options]
    if not values:
        there = dict.fromkeys(name for attributes in described for name in attributes)
        return f"asks about {task.attribute!r}, which no clip has; take one of {', '.join(there)}"
    if without:
        return f"has no option for {task.attribute} = {without[0]!r}; add one, or leave it out"
    if len({*task.options.values()}) < max(2, len(task.options)):
        return f"needs two options or more with different texts, not {dict(task.options)}"
    if not task.question.strip():
        return "asks nothing; write a question"
    if task.rung not in RUNGS:
        return f"is on rung {task.rung}; the rungs are 0 to {max(RUNGS)}"
    if task.constraint and task.constraint not in CHECKS:
        return f"has the constraint {task.constraint!r}; take one of {', '.join(CHECKS)}"
    return None


def _describe_all(describe: Callable[..., str], described: Sequence[Attributes]) -> list[str]:
    """What a function writes of every combination; raise ValueError where that is no sentence."""
    texts = []
    for attributes in described:
        try:
            text, again = (describe(dict(attributes)) for _ in range(2))
        except Exception as error:
            fault = f"{type(error).__name__}: {error}"
            raise ValueError(f"describe fails on {dict(attributes)} ({fault}); mend it.") from error
        if not isinstance(text, str) or not text.strip():
            raise ValueError(
                f"describe returns {text!r} for {dict(attributes)}; let it return a sentence."
            )
        if text != again:
            raise ValueError(
                f"describe returns {text!r} and then {again!r} for the same clip; let it return "
                "the same text each time."
            )
        texts.append(text)
    return texts


def _hash_descriptions(described: Sequence[Attributes], texts: Sequence[str]) -> str:
    """One sha256 of what a function writes of every clip."""
    rows = [[attributes, text] for attributes, text in zip(described, texts, strict=True)]
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
