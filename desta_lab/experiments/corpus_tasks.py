"""What a corpus is asked and trained with: usual or somebody's own words, prompts and tasks."""

import hashlib
import itertools
import json
from collections import Counter, defaultdict
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
from desta_lab.model.presets import Preset, is_nano, part_id
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
    order_values,
)

Values = dict[str, tuple[str, ...]]  # attribute → its values
Attributes = Mapping[str, str]  # of one clip


@dataclass(frozen=True)
class CorpusTasks:
    """Attribute → its values, the function that describes a clip, every task, what trains.

    Args:
        prompts: what the training clips are asked, each clip one of them.
        own: what somebody's own pieces add to the facts of a result, by their content; empty where
            none differs from what the corpus brings.
        tasks_brought: whether the tasks are somebody's own; those of other attributes or of
            another prompt differ, too.
    """

    values: Values
    describe: Callable[..., str]
    tasks: list[Task]
    prompts: tuple[str, ...]
    own: dict[str, Any] = field(default_factory=dict)
    tasks_brought: bool = False

    def label_question(self, attribute: str) -> str | None:
        """The question that the bare-label run trains: that of rung 3; None where there is none."""
        asked = [t for t in self.tasks if t.rung == 3 and t.attribute == attribute]
        named = [task for task in asked if task.name == f"ask_{attribute}"]
        return next((task.question for task in [*named, *asked]), None)

    @property
    def description_facts(self) -> dict[str, str]:
        """What is read of a clip, for a provenance; nothing for the usual descriptions."""
        read = self.own.get("descriptions")
        return {} if read is None else {"descriptions": read}

    def run_facts(self, kind: str, label: str) -> dict[str, Any]:
        """What somebody's own pieces change of a run of this kind; nothing where they do not."""
        read = ("self", "hard", "instruction-free", "other")
        kinds = {"descriptions": read, "attributes": ("template",)}
        facts = {name: self.own[name] for name in kinds if name in self.own and kind in kinds[name]}
        if kind == "label" and "tasks" in self.own:
            facts["question"] = self.label_question(label)
        return facts


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
    usual, described = _usual_tasks(corpus, preset), _described(corpus)
    values, ladder, occurring = usual.values, usual.tasks, occurring_values(described)
    if isinstance(attributes, str):
        raise ValueError(f"attributes are a list, also of one; write [{attributes!r}].")
    if attributes is not None:
        values = _pick_values(list(attributes), occurring)
        ladder = _ladder(preset, values)
    if prompts is not None:
        _check_prompts(prompts)
        ladder = [
            replace(t, question=prompts[0]) if t.question == TRAINED_PROMPT else t for t in ladder
        ]
    if tasks is not None:
        _check_tasks(tasks, occurring)
        ladder = _word_tasks(preset, tasks)
    asked = CorpusTasks(values, describe or usual.describe, ladder, tuple(prompts or usual.prompts))
    texts = describe_all(asked.describe, described) if describe or prompts else []
    for prompt, text in itertools.product(asked.prompts if texts else (), dict.fromkeys(texts)):
        _check_prompt_leak(prompt, text)
    own: dict[str, Any] = {}
    if list(asked.values.items()) != list(usual.values.items()):  # a template has their order
        own["attributes"] = list(asked.values)
    if asked.tasks != usual.tasks:
        own["tasks"] = [repr(task) for task in asked.tasks]
    if asked.prompts != usual.prompts:
        own["prompts"] = list(asked.prompts)
    if asked.describe is not usual.describe:
        content = json.dumps(list(zip(described, texts, strict=True)), sort_keys=True)
        own["descriptions"] = hashlib.sha256(content.encode()).hexdigest()
    return replace(asked, own=own, tasks_brought=tasks is not None)


def _usual_tasks(corpus: Corpus | None, preset: Preset) -> CorpusTasks:
    """What a corpus is asked where nothing is somebody's own."""
    prompts = PROMPTS[: preset.prompts]
    if corpus is None or is_spoken_world(corpus):
        known = {name: ATTRIBUTES[name] for name in DESCRIBED}
        return CorpusTasks(known, describe, _ladder(preset), prompts)
    values = askable_attributes(corpus)
    if not values:
        raise ValueError(
            f"{corpus.folder}: no attribute has two values; add a column that tells clips apart."
        )
    if preset.glass_box:
        _check_nano_words(corpus)
    return CorpusTasks(values, description_function(corpus), _ladder(preset, values), prompts)


def _ladder(preset: Preset, values: Values | None = None) -> list[Task]:
    return _word_tasks(preset, task_ladder(values))


def _word_tasks(preset: Preset, tasks: Sequence[Task]) -> list[Task]:
    """Tasks in the words of the backbone: nano LLMs, of any size, know one form of each."""
    return list(tasks) if is_nano(part_id(preset.backbone)) else name_options(tasks)


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


def occurring_values(described: Sequence[Attributes]) -> Values:
    """The values of each attribute, in the order of the spoken world where it has all of them."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, value in itertools.chain.from_iterable(one.items() for one in described):
        found[name].add(value)
    return {name: order_values(name, values) for name, values in found.items()}


def _pick_values(names: Sequence[str], occurring: Values) -> Values:
    poor = [name for name in names if len(occurring.get(name, ())) < 2]
    if poor or not names:
        fault = f"{poor[0]!r} has fewer than two values in this corpus" if poor else "none is named"
        raise ValueError(
            f"attributes are those that clips are asked about, and {fault}; take some of "
            f"{', '.join(name for name, values in occurring.items() if len(values) > 1)}."
        )
    return {name: occurring[name] for name in names}


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


def _check_tasks(tasks: Sequence[Task], occurring: Values) -> None:
    """Raise ValueError for the first task that cannot be asked about these clips."""
    if not tasks:
        raise ValueError("tasks are at least one; without any, leave tasks out.")
    if doubled := [n for n, count in Counter(task.name for task in tasks).items() if count > 1]:
        raise ValueError(f"Two tasks are named {doubled[0]!r}; give each its own name.")
    for task in tasks:
        if fault := _find_fault(task, occurring):
            raise ValueError(f"The task {task.name!r} {fault}.")


def _find_fault(task: Task, occurring: Values) -> str | None:
    """What is wrong with a task, as the end of a sentence; None where nothing is."""
    if task.attribute not in occurring:
        there = ", ".join(occurring)
        return f"asks about {task.attribute!r}, which no clip has; take one of {there}"
    if without := [value for value in occurring[task.attribute] if value not in task.options]:
        return f"has no option for {task.attribute} = {without[0]!r}; add one, or leave it out"
    if len({*task.options.values()} - {""}) < max(2, len(task.options)):
        return f"needs two options or more with different texts, not {dict(task.options)}"
    if not task.question.strip():
        return "asks nothing; write a question"
    if task.rung not in RUNGS:
        return f"is on rung {task.rung}; the rungs are 0 to {max(RUNGS)}"
    if task.constraint and task.constraint not in CHECKS:
        return f"has the constraint {task.constraint!r}; take one of {', '.join(CHECKS)}"
    return None


def describe_all(describe: Callable[..., str], described: Sequence[Attributes]) -> list[str]:
    """What a function writes of every combination; raises ValueError where that is no sentence."""
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
                f"describe returns {text!r} and {again!r}; let it return the same text each time."
            )
        texts.append(text)
    return texts
