"""The text world: the nano backbone is taught the ladder's questions and others, in text."""

import itertools
import random
from collections.abc import Collection, Iterator, Mapping, Sequence

from desta_lab.evaluation.tasks import (
    PARAPHRASES,
    TRAINED_PROMPT,
    Task,
    answer_stem,
    bare_words,
    capital_task,
    further_task,
    json_task,
    task_ladder,
)
from desta_lab.world.attributes import ATTRIBUTES, DESCRIBED, VOCABULARY, Attribute
from desta_lab.world.describe import attribute_clause, describe, fill_neutral

NANO_ROWS = 35_200  # 2,200 steps of 16

# other words for questions, and for parts of questions
# fmt: off
_REWORDED = {
    TRAINED_PROMPT: (
        "Paraphrase what you hear.",
        "Say the description in other words.",
        "Describe the audio clip.",
    ),
    PARAPHRASES[0]: ("Rewrite the description.", "Rewrite it.", "Write it again."),
    PARAPHRASES[1]: (
        "What do you hear?",
        "Describe the clip in other words.",
        "Tell me all about the audio clip.",
    ),
    "What is the gender of the speaker?": (
        "Is the speaker female or male?", "Is it a woman or a man?",
    ),
    "What is the accent of the speaker?": (
        "Which accent does the speaker have?", "Name the accent.",
    ),
    "What is the speed of the speech?": ("How fast is the speech?", "Is the speed slow or fast?"),
    "What is the volume of the voice?": ("How loud is the voice?", "Is the volume low or high?"),
    "Does the speaker talk or whisper?": (
        "How does the speaker use the voice?", "Is the speech spoken or whispered?",
    ),
    "What is the background sound?": (
        "What is in the background?", "Which sound is behind the voice?",
    ),
    "What is the talk about?": (
        "What is the topic of the talk?", "Which topic does the speaker talk about?",
    ),
    "Which pronoun should be used for": ("Is it she or he for", "Name the pronoun of"),
    "Is the speaker a king or a queen?": (
        "If the speaker had a crown, what would the speaker be?",
    ),
    "Which country does the speaker come from?": (
        "Where does the speaker come from?", "Name the country.",
    ),
    "Which city does the speaker come from?": (
        "In which city was the speaker born?", "Name the city.",
    ),
    "Is the speaker calm or in a hurry?": (
        "Does the speaker have time?", "How does the speaker feel about time?",
    ),
    "Should I turn the volume up or down?": (
        "What should I do with the volume?", "Which way should I turn the knob?",
    ),
    "What should you take with you if you go there?": (
        "What do you need there?", "What should I bring?",
    ),
    "Who or what makes the background sound?": ("What is the source of the background sound?",),
    "Answer in JSON.": ("Use JSON.", "Reply with a JSON object."),
    "Answer in capital letters.": ("Use capital letters only.", "Reply in upper case."),
}
_MORE_MULTI_HOP = (
    ("gender", "How should I address the speaker?", "You should say", " madam| sir"),
    ("gender", "Is the speaker a mother or a father?", "The speaker is a", " mother| father"),
    ("accent", "Which money does the speaker pay with?",
     "The speaker pays with", " dollars| pounds| Jamaican dollars"),
    ("rate", "Is the speaker like a snail or like a rocket?",
     "The speaker is like a", " snail| rocket"),
    ("loudness", "Would the voice wake a baby?", "The baby would", " sleep| wake"),
    ("manner", "Is it a secret?", "The talk is", " open| a secret"),
    ("scene", "What would you see there?",
     "You would see", " puddles| a flashing light| wings| a stage"),
    ("scene", "Is there trouble, water, nature or a party?",
     "There is", " water| trouble| nature| a party"),
)
# fmt: on


def generate_text_world(
    rows: int, *, seed: int = 0, unseen: Collection[str] = ()
) -> Iterator[tuple[str, str, str]]:
    """(description, question, answer), in the order in which the nano backbone learns to read.

    The first fifth asks for everything, or for several attributes, of descriptions by `describe`:
    many look-ups a row. Then come the ladder's questions, reworded, and others like them: the same
    answers under more constraints, more multi-hop, yes or no. Half of the descriptions then say the
    same facts in other words and any order, or leave some open (`NEUTRAL` with gaps filled); what
    is open is guessed, evenly, so that the backbone has no favourites. Clips whose `describe` is
    among `unseen` are left out, whatever the words. The topic is asked only where it is stated.
    """
    rng = random.Random(seed)
    ladder, others = [task for task in task_ladder() if task.rung >= 2], _other_tasks()
    # the more options, the more often
    weights = [len(task.options) * (3 if task.rung == 5 else 1) for task in ladder]
    made = 0
    while made < rows:
        values = {name: rng.choice(choices) for name, choices in ATTRIBUTES.items()}
        if describe(values) in unseen:
            continue
        early = made < rows / 5
        task = rng.choices(ladder, weights)[0] if rng.random() < 0.8 else rng.choice(others)
        kind = rng.random() * (0.2 if early else 1)
        topic = rng.random() < 0.15 or (kind >= 0.3 and task.attribute == "topic")
        names = [*DESCRIBED, "topic"] if topic else list(DESCRIBED)
        question, answer = _ask(kind, task, names, values, rng)
        if early or rng.random() < 0.5:
            description = describe(values, topic=topic)
        elif rng.random() < 0.2 and not topic:
            description = _describe_some(values, rng)
        else:
            description = _restate(names, values, rng)
        made += 1
        yield description, question, answer


def unseen_descriptions() -> frozenset[str]:
    """An eighth of all descriptions, never shown to the nano backbone that ships."""
    combinations = itertools.product(*(ATTRIBUTES[name] for name in DESCRIBED))
    descriptions = [describe(dict(zip(DESCRIBED, values, strict=True))) for values in combinations]
    return frozenset(random.Random(0).sample(descriptions, len(descriptions) // 8))


def nano_training_rows() -> Iterator[tuple[str, str, str]]:
    """What the nano backbone that ships was taught, in its order."""
    return generate_text_world(NANO_ROWS, unseen=unseen_descriptions())


# ---- questions and answers ----


def _other_tasks() -> list[Task]:
    """Tasks beside the ladder: each question under each constraint, and more multi-hop."""
    tasks = [further_task(4, "", *row) for row in _MORE_MULTI_HOP]
    for name in DESCRIBED:
        tasks += _constrained_tasks(VOCABULARY[name])
    return tasks


def _constrained_tasks(attribute: Attribute) -> list[Task]:
    stem, options = answer_stem(attribute), attribute.options
    lower = {value: text.lower() for value, text in options.items()}

    def ask(request: str, stem: str, options: Mapping[str, str]) -> Task:
        return Task("", 2, attribute.name, f"{attribute.question} {request}", stem, options)

    return [
        json_task(attribute),
        capital_task(attribute),
        ask("Answer in lower case.", stem.lower(), lower),
        ask("Put the answer in quotes.", f'"{stem}', options),
        ask("Start with a bullet.", f"* {stem}", options),
        ask("Answer in one word.", "", bare_words(attribute)),
    ]


def _ask(
    kind: float, task: Task, names: Sequence[str], values: Mapping[str, str], rng: random.Random
) -> tuple[str, str]:
    """A question with its answer: about all attributes, several, yes or no, or the task's."""
    if kind < 0.15:  # everything, from any clause on
        first = rng.randrange(len(names))
        question = _reword(rng.choice((TRAINED_PROMPT, *PARAPHRASES)), rng)
        return question, _state([*names[first:], *names[:first]], values)
    if kind < 0.25:
        asked = rng.sample(names, rng.randint(2, 3))
        nouns = " and the ".join(VOCABULARY[name].noun for name in asked)
        return f"What is the {nouns}?", _state(asked, values)
    if kind < 0.3:
        name = rng.choice(names)
        guess = rng.choice(ATTRIBUTES[name])
        answer = f"{'Yes' if guess == values[name] else 'No'}. {_state([name], values)}"
        return f"Is this right? {attribute_clause(name, guess)}", answer
    question = _reword(task.question, rng)
    end = {"{": '"}', '"': '."'}.get(task.stem[:1], ".")
    return question, task.stem + task.options[values[task.attribute]] + end


def _state(names: Sequence[str], values: Mapping[str, str]) -> str:
    return " ".join(attribute_clause(name, values[name]) for name in names)


def _reword(question: str, rng: random.Random) -> str:
    for words, others in _REWORDED.items():
        if words in question and rng.random() < 0.5:
            question = question.replace(words, rng.choice(others))
    return question


# ---- descriptions ----


def _restate(names: Sequence[str], values: Mapping[str, str], rng: random.Random) -> str:
    """The facts of a description in other words and any order, or words: "rain, male, …"."""
    words = {name: VOCABULARY[name].words[values[name]] for name in names}
    order = rng.sample(names, len(names))
    if rng.random() < 0.3:
        return ", ".join(words[name] for name in order) + "."
    sentences = []
    for name in order:
        attribute, value = VOCABULARY[name], values[name]
        form = rng.choice((attribute_clause(name, value), *attribute.restatements))
        text = form.format(words[name], attribute.synonyms.get(value, words[name]))
        sentences.append(text[0].upper() + text[1:])
    return " ".join(sentences)


def _describe_some(values: Mapping[str, str], rng: random.Random) -> str:
    """`NEUTRAL` with some of its blanks filled in, or none."""
    share = rng.random()
    return fill_neutral({name: values[name] for name in DESCRIBED if rng.random() < share})
