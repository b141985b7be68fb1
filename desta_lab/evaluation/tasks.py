"""The task ladder: from the trained prompt (rung 0) to what no target ever mentions (rung 5)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

from desta_lab.world.attributes import (
    ATTRIBUTES,
    DESCRIBED,
    GENDER,
    LOUDNESS,
    RATE,
    SCENE,
    VOCABULARY,
    Attribute,
    plain_attribute,
)
from desta_lab.world.describe import named_by_phrases, surface_words

TRAINED_PROMPT = "Paraphrase the description."
PARAPHRASES = ("Rewrite the sentence.", "Describe the audio clip again in other words.")
KINDS = (  # of tasks of rungs 0 and 1: name, rung, prompt
    ("trained", 0, TRAINED_PROMPT),
    ("paraphrase1", 1, PARAPHRASES[0]),
    ("paraphrase2", 1, PARAPHRASES[1]),
)
# what a run with several prompts trains: all ask for a description, none for one attribute
PROMPTS = (
    TRAINED_PROMPT,
    *PARAPHRASES,
    "Describe the audio clip.",
    "What do you hear?",
    "Write it again.",
)

RUNGS = {
    0: "trained prompt",
    1: "paraphrased prompt",
    2: "output constraint",
    3: "question never trained",
    4: "multi-hop question",
    5: "attribute never mentioned",
}


@dataclass(frozen=True)
class Task:
    """One question about one attribute, with the answer that each value of the attribute calls for.

    Ranking scores `stem + options[value]` as the start of the backbone's answer; generation asks
    the question alone and looks for the value in the text. `constraint` is an IFEval instruction id
    that the generated answer must obey (rung 2). `in_words` is another form of the question, for
    generation alone; empty where there is none.
    """

    name: str
    rung: int
    attribute: str
    question: str
    stem: str
    options: Mapping[str, str]
    constraint: str | None = None
    in_words: str = ""

    def __repr__(self) -> str:
        """Every field that is used: cached results are found by it."""
        used = [field.name for field in fields(self) if field.name != "in_words" or self.in_words]
        return f"Task({', '.join(f'{name}={getattr(self, name)!r}' for name in used)})"

    @property
    def chance(self) -> float:
        """The accuracy of a guess: one over the number of options."""
        return 1 / len(self.options)

    @property
    def hidden(self) -> str | None:
        """The attribute of rung 5, which no description mentions; None on other rungs."""
        return self.attribute if self.rung == 5 else None


def named_values(task: Task, answer: str) -> set[str]:
    """The values that an answer names, in the words of the options or of the attribute."""
    words = {
        value: (option, *surface_words(task.attribute, value))
        for value, option in task.options.items()
    }
    return named_by_phrases(answer, words)


# ---- the ladder ----


def task_ladder(attributes: Mapping[str, Sequence[str]] | None = None) -> list[Task]:
    """Every task of the ladder, from near to far; with `attributes`, that of another corpus.

    `attributes` gives each name its values. An attribute that the spoken world describes, with no
    other values, keeps its tasks there. Any other is asked about plainly ("What is the emotion?",
    "The emotion is"), on rungs 0 to 3: nobody wrote further questions about it.
    """
    if attributes is None:
        return _spoken_ladder()
    tasks = []
    for name, values in attributes.items():
        if name in DESCRIBED and set(values) <= set(ATTRIBUTES[name]):
            own = [task for task in _spoken_ladder() if task.attribute == name]
            tasks += [
                replace(t, options={value: t.options[value] for value in values}) for t in own
            ]
        else:
            tasks += _plain_tasks(plain_attribute(name, tuple(values)))
    return sorted(tasks, key=lambda task: task.rung)


def name_options(tasks: Sequence[Task]) -> list[Task]:
    """The same tasks, in words with their options where a general LLM needs to know them.

    To "What is the volume of the voice?" such an LLM answers "100%", even when it reads it.
    """
    forms = [task.in_words or IN_WORDS.get(task.question, "") for task in tasks]
    return [replace(task, in_words=form) for task, form in zip(tasks, forms, strict=True)]


def _spoken_ladder() -> list[Task]:
    described = [VOCABULARY[name] for name in DESCRIBED]
    hidden = [attribute for attribute in VOCABULARY.values() if attribute.name not in DESCRIBED]
    tasks = [
        *[prompt_task(*kind, attribute) for kind in KINDS for attribute in described],
        json_task(GENDER),
        json_task(SCENE),
        capital_task(RATE),
        capital_task(SCENE),
        *[question_task(attribute, rung=3) for attribute in described],
        *[further_task(*row) for row in QUESTIONS],
        *[question_task(attribute, rung=5) for attribute in hidden],
    ]
    return sorted(tasks, key=lambda task: task.rung)


def _plain_tasks(attribute: Attribute) -> list[Task]:
    """The tasks of an attribute of which only its name and its values are known."""
    return [
        *[prompt_task(*kind, attribute) for kind in KINDS],
        json_task(attribute),
        capital_task(attribute),
        question_task(attribute, rung=3),
    ]


# ---- the tasks of an attribute ----


def prompt_task(kind: str, rung: int, prompt: str, attribute: Attribute) -> Task:
    """Rungs 0 and 1: what a description, asked for by this prompt, says of an attribute."""
    name = f"{kind}_{attribute.name}"
    return Task(name, rung, attribute.name, prompt, attribute.stem, attribute.options)


def question_task(attribute: Attribute, rung: int) -> Task:
    """Rungs 3 and 5: the question about the attribute itself."""
    name = f"ask_{attribute.name}"
    stem = answer_stem(attribute)
    return Task(name, rung, attribute.name, attribute.question, stem, attribute.options)


def json_task(attribute: Attribute) -> Task:
    """Rung 2: the same question, to be answered in JSON."""
    quoted = {
        value: json.dumps(word, ensure_ascii=False)[1:-1]
        for value, word in bare_words(attribute).items()
    }
    return Task(
        f"json_{attribute.name}",
        2,
        attribute.name,
        f"{attribute.question} Answer in JSON.",
        f'{{"{attribute.noun}": "',
        quoted,
        "detectable_format:json_format",
    )


def capital_task(attribute: Attribute) -> Task:
    """Rung 2: the same question, to be answered in capital letters."""
    return Task(
        f"capital_{attribute.name}",
        2,
        attribute.name,
        f"{attribute.question} Answer in capital letters.",
        answer_stem(attribute).upper(),
        {value: text.upper() for value, text in attribute.options.items()},
        "change_case:english_capital",
    )


def further_task(
    rung: int, name: str, attribute: str, question: str, stem: str, answers: str
) -> Task:
    """A row of `QUESTIONS`, such as one of rung 4, whose answer needs general knowledge."""
    options = dict(zip(ATTRIBUTES[attribute], answers.split("|"), strict=True))
    return Task(name, rung, attribute, question, stem, options)


def answer_stem(attribute: Attribute) -> str:
    """How an answer to the question about an attribute begins."""
    return attribute.answer_stem or attribute.stem


def bare_words(attribute: Attribute) -> dict[str, str]:
    """The words of an attribute's values, without the article that a sentence needs."""
    return {
        value: word if word == value else word.removeprefix("a ")
        for value, word in attribute.words.items()
    }


# Further questions: to ask another one, add a row. Columns: rung, name, attribute, question,
# stem of the answer, answers in the order of the attribute's values.
# fmt: off
QUESTIONS = (
    (4, "pronoun", "gender", "Which pronoun should be used for the speaker?",
     "The pronoun is", " she| he"),
    (4, "royalty", "gender", "Is the speaker a king or a queen?",
     "The speaker is a", " queen| king"),
    (4, "country", "accent", "Which country does the speaker come from?",
     "The speaker comes from", " the United States| Scotland| Jamaica"),
    (4, "city", "accent", "Which city does the speaker come from?",
     "The speaker comes from", " New York| Glasgow| Kingston"),
    (4, "hurry", "rate", "Is the speaker calm or in a hurry?",
     "The speaker is", " calm| in a hurry"),
    (4, "knob", "loudness", "Should I turn the volume up or down?",
     "You should turn the volume", " up| down"),
    (4, "take", "scene", "What should you take with you if you go there?",
     "You should take", " an umbrella| an ambulance| binoculars| a guitar"),
    (4, "maker", "scene", "Who or what makes the background sound?",
     "The background sound is made by", " clouds| an ambulance| animals| instruments"),
)
# fmt: on

# the form of a question that names its options
IN_WORDS = {
    RATE.question: "Is the speech slow or fast?",
    LOUDNESS.question: "Is the volume of the voice low or high?",
}
