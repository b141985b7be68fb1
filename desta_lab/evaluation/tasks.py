"""The task ladder: from the prompt that was trained (rung 0) to what no target ever mentioned (rung 5)."""

import itertools
import json
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from desta_lab.world.attributes import (
    ATTRIBUTES,
    DESCRIBED,
    NEUTRAL,
    VOCABULARY,
    Attribute,
    plain_attribute,
)
from desta_lab.world.describe import attribute_clause, describe, mentioned_values

TRAINED_PROMPT = "Paraphrase the description."
PARAPHRASES = ("Rewrite the sentence.", "Describe the audio clip again in other words.")
PROMPTS = (  # what a run with several prompts trains: all ask for a description, none for one attribute
    TRAINED_PROMPT,
    *PARAPHRASES,
    "Describe the audio clip.",
    "What do you hear?",
    "Write it again.",
)

_PROMPTED = {
    "trained": TRAINED_PROMPT,
    **{f"paraphrase{number}": prompt for number, prompt in enumerate(PARAPHRASES, start=1)},
}

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
    """One question about one attribute, with the answer each value of the attribute calls for.

    Ranking scores `stem + options[value]` as the start of the backbone's answer; generation asks the question
    alone and looks for the value in the text. `constraint` is an IFEval instruction id that the generated answer
    must obey (rung 2).
    """

    name: str
    rung: int
    attribute: str
    question: str
    stem: str
    options: Mapping[str, str]
    constraint: str | None = None

    @property
    def chance(self) -> float:
        """The accuracy of a guess: one over the number of options."""
        return 1 / len(self.options)


def named_values(task: Task, answer: str) -> set[str]:
    """The values of a task's attribute that an answer names, in the option's words or the attribute's."""
    text = f" {answer.lower()} "
    options = {
        value for value, words in task.options.items() if f" {words.strip().lower()}" in text
    }
    return options | mentioned_values(answer, task.attribute, task.options)


def _options(attribute: str, texts: str) -> dict[str, str]:
    return dict(zip(ATTRIBUTES[attribute], texts.split("|"), strict=True))


_CONSTRAINED = (
    (
        "json_gender",
        "gender",
        "Answer in JSON.",
        '{"gender": "',
        "female|male",
        "detectable_format:json_format",
    ),
    (
        "json_scene",
        "scene",
        "Answer in JSON.",
        '{"background": "',
        "rain|siren|birds|music",
        "detectable_format:json_format",
    ),
    (
        "capital_rate",
        "rate",
        "Answer in capital letters.",
        "THE SPEED IS",
        " SLOW| FAST",
        "change_case:english_capital",
    ),
    (
        "capital_scene",
        "scene",
        "Answer in capital letters.",
        "THE BACKGROUND SOUND IS",
        " RAIN| A SIREN| BIRDS| MUSIC",
        "change_case:english_capital",
    ),
)
_MULTI_HOP = (
    (
        "pronoun",
        "gender",
        "Which pronoun should be used for the speaker?",
        "The pronoun is",
        " she| he",
    ),
    ("royalty", "gender", "Is the speaker a king or a queen?", "The speaker is a", " queen| king"),
    (
        "country",
        "accent",
        "Which country does the speaker come from?",
        "The speaker comes from",
        " the United States| Scotland| Jamaica",
    ),
    (
        "city",
        "accent",
        "Which city does the speaker come from?",
        "The speaker comes from",
        " New York| Glasgow| Kingston",
    ),
    ("hurry", "rate", "Is the speaker calm or in a hurry?", "The speaker is", " calm| in a hurry"),
    (
        "knob",
        "loudness",
        "Should I turn the volume up or down?",
        "You should turn the volume",
        " up| down",
    ),
    (
        "take",
        "scene",
        "What should you take with you if you go there?",
        "You should take",
        " an umbrella| an ambulance| binoculars| a guitar",
    ),
    (
        "maker",
        "scene",
        "Who or what makes the background sound?",
        "The background sound is made by",
        " clouds| an ambulance| animals| instruments",
    ),
)


def task_ladder(attributes: Mapping[str, Sequence[str]] | None = None) -> list[Task]:
    """Every task of the ladder, from near to far; with `attributes` (name → its values) that of another corpus.

    An attribute that the spoken world describes, with no other values, keeps its tasks there. Any other is asked about
    plainly ("What is the emotion?", "The emotion is"), on rungs 0 to 3: nobody wrote further questions about it.
    """
    if attributes is None:
        return _spoken()
    tasks = []
    for attribute, values in attributes.items():
        if attribute in DESCRIBED and set(values) <= set(ATTRIBUTES[attribute]):
            for task in _spoken():
                if task.attribute == attribute:
                    tasks.append(
                        replace(task, options={value: task.options[value] for value in values})
                    )
        else:
            tasks += _plain(attribute, values)
    return sorted(tasks, key=lambda task: task.rung)


def _plain(name: str, values: Sequence[str]) -> list[Task]:
    """The tasks of an attribute of which only its name and its values are known."""
    attribute = plain_attribute(name, tuple(values))
    quoted = {value: json.dumps(value, ensure_ascii=False)[1:-1] for value in values}
    capitals = {value: text.upper() for value, text in attribute.options.items()}
    return [
        *(_prompt_task(kind, prompt, attribute) for kind, prompt in _PROMPTED.items()),
        Task(
            f"json_{name}",
            2,
            name,
            f"{attribute.question} Answer in JSON.",
            f'{{"{attribute.noun}": "',
            quoted,
            "detectable_format:json_format",
        ),
        Task(
            f"capital_{name}",
            2,
            name,
            f"{attribute.question} Answer in capital letters.",
            attribute.stem.upper(),
            capitals,
            "change_case:english_capital",
        ),
        _question_task(attribute, 3),
    ]


def _spoken() -> list[Task]:
    described = [VOCABULARY[name] for name in DESCRIBED]
    tasks = [
        _prompt_task(kind, prompt, attribute)
        for kind, prompt in _PROMPTED.items()
        for attribute in described
    ]
    for name, attribute, ask, stem, texts, constraint in _CONSTRAINED:
        question = f"{VOCABULARY[attribute].question} {ask}"
        tasks.append(
            Task(name, 2, attribute, question, stem, _options(attribute, texts), constraint)
        )
    tasks += [_question_task(attribute, 3) for attribute in described]
    for name, attribute, question, stem, texts in _MULTI_HOP:
        tasks.append(Task(name, 4, attribute, question, stem, _options(attribute, texts)))
    hidden = [attribute for attribute in VOCABULARY.values() if attribute.name not in DESCRIBED]
    return tasks + [_question_task(attribute, 5) for attribute in hidden]


def _prompt_task(kind: str, prompt: str, attribute: Attribute) -> Task:
    """Rungs 0 and 1: what a description, asked for by this prompt, says of an attribute."""
    rung = 0 if kind == "trained" else 1
    name = f"{kind}_{attribute.name}"
    return Task(name, rung, attribute.name, prompt, attribute.stem, attribute.options)


def _question_task(attribute: Attribute, rung: int) -> Task:
    """The question about an attribute itself."""
    name, stem = f"ask_{attribute.name}", attribute.answer_stem or attribute.stem
    return Task(name, rung, attribute.name, attribute.question, stem, attribute.options)


# ---- the text world: what the nano backbone is taught, the ladder's questions and others like them ----

NANO_ROWS = 35_200  # 2,200 steps of 16

# other words for questions, and for parts of questions
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
        "Is the speaker female or male?",
        "Is it a woman or a man?",
    ),
    "What is the accent of the speaker?": (
        "Which accent does the speaker have?",
        "Name the accent.",
    ),
    "What is the speed of the speech?": ("How fast is the speech?", "Is the speed slow or fast?"),
    "What is the volume of the voice?": ("How loud is the voice?", "Is the volume low or high?"),
    "Does the speaker talk or whisper?": (
        "How does the speaker use the voice?",
        "Is the speech spoken or whispered?",
    ),
    "What is the background sound?": (
        "What is in the background?",
        "Which sound is behind the voice?",
    ),
    "What is the talk about?": (
        "What is the topic of the talk?",
        "Which topic does the speaker talk about?",
    ),
    "Which pronoun should be used for": ("Is it she or he for", "Name the pronoun of"),
    "Is the speaker a king or a queen?": (
        "If the speaker had a crown, what would the speaker be?",
    ),
    "Which country does the speaker come from?": (
        "Where does the speaker come from?",
        "Name the country.",
    ),
    "Which city does the speaker come from?": (
        "In which city was the speaker born?",
        "Name the city.",
    ),
    "Is the speaker calm or in a hurry?": (
        "Does the speaker have time?",
        "How does the speaker feel about time?",
    ),
    "Should I turn the volume up or down?": (
        "What should I do with the volume?",
        "Which way should I turn the knob?",
    ),
    "What should you take with you if you go there?": (
        "What do you need there?",
        "What should I bring?",
    ),
    "Who or what makes the background sound?": ("What is the source of the background sound?",),
    "Answer in JSON.": ("Use JSON.", "Reply with a JSON object."),
    "Answer in capital letters.": ("Use capital letters only.", "Reply in upper case."),
}
_MORE_MULTI_HOP = (
    ("gender", "How should I address the speaker?", "You should say", " madam| sir"),
    ("gender", "Is the speaker a mother or a father?", "The speaker is a", " mother| father"),
    (
        "accent",
        "Which money does the speaker pay with?",
        "The speaker pays with",
        " dollars| pounds| Jamaican dollars",
    ),
    (
        "rate",
        "Is the speaker like a snail or like a rocket?",
        "The speaker is like a",
        " snail| rocket",
    ),
    ("loudness", "Would the voice wake a baby?", "The baby would", " sleep| wake"),
    ("manner", "Is it a secret?", "The talk is", " open| a secret"),
    (
        "scene",
        "What would you see there?",
        "You would see",
        " puddles| a flashing light| wings| a stage",
    ),
    (
        "scene",
        "Is there trouble, water, nature or a party?",
        "There is",
        " water| trouble| nature| a party",
    ),
)


def _others() -> list[Task]:
    """Tasks beside the ladder: each question under each constraint, and more multi-hop."""
    tasks = [
        Task("", 4, name, question, stem, _options(name, texts))
        for name, question, stem, texts in _MORE_MULTI_HOP
    ]
    for name in DESCRIBED:
        attribute = VOCABULARY[name]
        question, stem = attribute.question, attribute.answer_stem or attribute.stem
        options = attribute.options
        bare = {value: word.removeprefix("a ") for value, word in attribute.words.items()}
        upper = {value: text.upper() for value, text in options.items()}
        lower = {value: text.lower() for value, text in options.items()}
        tasks += [
            Task("", 2, name, f"{question} Answer in JSON.", f'{{"{attribute.noun}": "', bare),
            Task("", 2, name, f"{question} Answer in capital letters.", stem.upper(), upper),
            Task("", 2, name, f"{question} Answer in lower case.", stem.lower(), lower),
            Task("", 2, name, f"{question} Put the answer in quotes.", f'"{stem}', options),
            Task("", 2, name, f"{question} Start with a bullet.", f"* {stem}", options),
            Task("", 2, name, f"{question} Answer in one word.", "", bare),
        ]
    return tasks


def _answer(task: Task, value: str) -> str:
    end = {"{": '"}', '"': '."'}.get(task.stem[:1], ".")
    return task.stem + task.options[value] + end


def _reworded(question: str, rng: random.Random) -> str:
    for said, others in _REWORDED.items():
        if said in question and rng.random() < 0.5:
            question = question.replace(said, rng.choice(others))
    return question


def _retold(names: list[str], attributes: Mapping[str, str], rng: random.Random) -> str:
    """The facts of a description, each in other words, in any order; at times words alone: "rain, male, fast, …"."""
    words = {name: VOCABULARY[name].words[attributes[name]] for name in names}
    order = rng.sample(names, len(names))
    if rng.random() < 0.3:
        return ", ".join(words[name] for name in order) + "."
    sentences = []
    for name in order:
        attribute, value = VOCABULARY[name], attributes[name]
        form = rng.choice((attribute_clause(name, value), *attribute.restatements))
        text = form.format(words[name], attribute.synonyms.get(value, words[name]))
        sentences.append(text[0].upper() + text[1:])
    return " ".join(sentences)


def _half_known(attributes: Mapping[str, str], rng: random.Random) -> str:
    """`NEUTRAL` with some of its blanks filled in, or none."""
    sentence, share = NEUTRAL, rng.random()
    for name in DESCRIBED:
        if rng.random() < share:
            attribute = VOCABULARY[name]
            sentence = sentence.replace(attribute.unknown, attribute.fill_blank(attributes[name]))
    return sentence


def text_world(
    rows: int, *, seed: int = 0, unseen: Collection[str] = ()
) -> Iterator[tuple[str, str, str]]:
    """(description, question, answer), in the order in which the nano backbone learns to read; only text.

    The first fifth asks for everything, or for several attributes, of descriptions by `describe`: many look-ups a row.
    Then come the ladder's questions, reworded, and others like them: the same answers under more constraints, more
    multi-hop, yes or no. Half of the descriptions then say the same facts in other words and any order, or leave some
    open (`NEUTRAL` with gaps filled); what is open is guessed, evenly, so that the backbone has no favourites. Clips
    whose `describe` is among `unseen` are left out, whatever the words. The topic is asked only where it is stated.
    """
    rng = random.Random(seed)
    listed, others = [task for task in task_ladder() if task.rung >= 2], _others()
    weights = [
        len(task.options) * (3 if task.rung == 5 else 1) for task in listed
    ]  # the more options, the more often
    made = 0
    while made < rows:
        a = {name: rng.choice(values) for name, values in ATTRIBUTES.items()}
        if describe(a) in unseen:
            continue
        task = rng.choices(listed, weights)[0] if rng.random() < 0.8 else rng.choice(others)
        kind = rng.random() * (0.2 if made < rows / 5 else 1)
        topic = rng.random() < 0.15 or (kind >= 0.3 and task.attribute == "topic")
        said = [*DESCRIBED, "topic"] if topic else list(DESCRIBED)
        if kind < 0.15:  # say it all, from any clause on
            first = rng.randrange(len(said))
            question = _reworded(rng.choice((TRAINED_PROMPT, *PARAPHRASES)), rng)
            answer = " ".join(
                attribute_clause(name, a[name]) for name in said[first:] + said[:first]
            )
        elif kind < 0.25:  # several attributes
            asked = rng.sample(said, rng.randint(2, 3))
            question = f"What is the {' and the '.join(VOCABULARY[name].noun for name in asked)}?"
            answer = " ".join(attribute_clause(name, a[name]) for name in asked)
        elif kind < 0.3:  # yes or no
            name = rng.choice(said)
            guess = rng.choice(ATTRIBUTES[name])
            question = f"Is this right? {attribute_clause(name, guess)}"
            answer = f"{'Yes' if guess == a[name] else 'No'}. {attribute_clause(name, a[name])}"
        else:
            question, answer = _reworded(task.question, rng), _answer(task, a[task.attribute])
        if made < rows / 5 or rng.random() < 0.5:
            description = describe(a, topic=topic)
        elif rng.random() < 0.2 and not topic:
            description = _half_known(a, rng)
        else:
            description = _retold(said, a, rng)
        made += 1
        yield description, question, answer


def held_back() -> frozenset[str]:
    """An eighth of all descriptions, never shown to the nano backbone that ships: does it read, or know by heart?"""
    combinations = itertools.product(*(ATTRIBUTES[name] for name in DESCRIBED))
    descriptions = [describe(dict(zip(DESCRIBED, values, strict=True))) for values in combinations]
    return frozenset(random.Random(0).sample(descriptions, len(descriptions) // 8))


def nano_rows() -> Iterator[tuple[str, str, str]]:
    """What the nano backbone that ships was taught, in its order."""
    return text_world(NANO_ROWS, unseen=held_back())
