"""The task ladder: from the prompt that was trained (rung 0) to what no target ever mentioned (rung 5)."""

import itertools
import json
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from desta_lab.world.describe import (
    ATTRIBUTES,
    DESCRIBED,
    NEUTRAL,
    SAID,
    attribute_clause,
    attribute_phrase,
    describe,
)

TRAINED_PROMPT = "Paraphrase the description."
PARAPHRASES = ("Rewrite the sentence.", "Describe the audio clip again in other words.")
PROMPTS = (  # what a run with several prompts trains: all ask for a description, none for one attribute
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


def _options(attribute: str, texts: str) -> dict[str, str]:
    return dict(zip(ATTRIBUTES[attribute], texts.split("|"), strict=True))


_ASKED = {
    "gender": ("What is the gender of the speaker?", "The speaker is", " female| male"),
    "accent": (
        "What is the accent of the speaker?",
        "The accent is",
        " American| Scottish| Caribbean",
    ),
    "rate": ("What is the speed of the speech?", "The speed is", " slow| fast"),
    "loudness": ("What is the volume of the voice?", "The volume is", " low| high"),
    "manner": ("Does the speaker talk or whisper?", "The speaker", " talks| whispers"),
    "scene": (
        "What is the background sound?",
        "The background sound is",
        " rain| a siren| birds| music",
    ),
}
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


def _plain(attribute: str, values: Sequence[str]) -> list[Task]:
    """The tasks of an attribute of which only its name and its values are known."""
    noun = attribute.replace("_", " ")
    question, stem, options = (
        f"What is the {noun}?",
        f"The {noun} is",
        {value: f" {value}" for value in values},
    )
    prompts = {
        "trained": TRAINED_PROMPT,
        **{f"paraphrase{i}": prompt for i, prompt in enumerate(PARAPHRASES, start=1)},
    }
    tasks = [
        Task(f"{name}_{attribute}", int(name != "trained"), attribute, prompt, stem, options)
        for name, prompt in prompts.items()
    ]
    written = {
        value: json.dumps(value, ensure_ascii=False)[1:-1] for value in values
    }  # as it stands in quotes
    shouted = {value: text.upper() for value, text in options.items()}
    return [
        *tasks,
        Task(
            f"json_{attribute}",
            2,
            attribute,
            f"{question} Answer in JSON.",
            f'{{"{noun}": "',
            written,
            "detectable_format:json_format",
        ),
        Task(
            f"capital_{attribute}",
            2,
            attribute,
            f"{question} Answer in capital letters.",
            stem.upper(),
            shouted,
            "change_case:english_capital",
        ),
        Task(f"ask_{attribute}", 3, attribute, question, stem, options),
    ]


def _spoken() -> list[Task]:
    tasks = []
    for rung, prompts in ((0, (TRAINED_PROMPT,)), (1, PARAPHRASES)):
        for i, prompt in enumerate(prompts):
            for attribute in DESCRIBED:
                stem, texts = SAID[attribute]
                name = f"{'trained' if rung == 0 else f'paraphrase{i + 1}'}_{attribute}"
                tasks.append(Task(name, rung, attribute, prompt, stem, _options(attribute, texts)))
    for name, attribute, ask, stem, texts, constraint in _CONSTRAINED:
        question = f"{_ASKED[attribute][0]} {ask}"
        tasks.append(
            Task(name, 2, attribute, question, stem, _options(attribute, texts), constraint)
        )
    for attribute, (question, stem, texts) in _ASKED.items():
        tasks.append(
            Task(f"ask_{attribute}", 3, attribute, question, stem, _options(attribute, texts))
        )
    for name, attribute, question, stem, texts in _MULTI_HOP:
        tasks.append(Task(name, 4, attribute, question, stem, _options(attribute, texts)))
    topic = _options("topic", " food| travel| sport")
    tasks.append(
        Task("ask_topic", 5, "topic", "What is the talk about?", "The talk is about", topic)
    )
    return tasks


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
_NOUN = {
    "gender": "gender",
    "accent": "accent",
    "rate": "speed",
    "loudness": "volume",
    "manner": "manner",
    "scene": "background",
    "topic": "topic",
}
# the facts of a description in other words; {0} is the word of the rung-0 clause, {1} another for the same
_FACTS = {
    "gender": ("It is a {0} speaker.", "A {1} is heard.", "{0}."),
    "accent": ("The speaker has the {0} accent.", "The voice sounds {0}.", "{0} accent."),
    "rate": ("The speech is {0}.", "The speed of the speech is {0}.", "{0} speed."),
    "loudness": ("The voice has a {0} volume.", "The voice is {1}.", "{0} volume."),
    "manner": ("The voice {0}.", "The speech is {1}.", "{0}."),
    "scene": (
        "There is {0} in the background.",
        "Behind the voice there is {0}.",
        "{0} in the background.",
    ),
    "topic": ("The topic is {0}.", "The talk is on {0}.", "{0}."),
}
_SYNONYMS = {
    "female": "woman",
    "male": "man",
    "low": "quiet",
    "high": "loud",
    "talks": "spoken",
    "whispers": "whispered",
}

# the same facts in the sentence that knows none of them: what stands there, and what stands there once it is known
_BLANKS = {
    "gender": ("person", "{0} person"),
    "accent": ("some accent", "{0} accent"),
    "rate": ("some speed", "{0} speed"),
    "loudness": ("some volume", "{0} volume"),
    "manner": ("speaks", "{0}"),
    "scene": ("something", "{0}"),
}


def _others() -> list[Task]:
    """Tasks beside the ladder: each question under each constraint, and more multi-hop."""
    tasks = [
        Task("", 4, a, question, stem, _options(a, texts))
        for a, question, stem, texts in _MORE_MULTI_HOP
    ]
    for a, (question, stem, texts) in _ASKED.items():
        bare = texts.replace(" a ", " ").replace(" ", "")
        tasks += [
            Task("", 2, a, f"{question} Answer in JSON.", f'{{"{_NOUN[a]}": "', _options(a, bare)),
            Task(
                "",
                2,
                a,
                f"{question} Answer in capital letters.",
                stem.upper(),
                _options(a, texts.upper()),
            ),
            Task(
                "",
                2,
                a,
                f"{question} Answer in lower case.",
                stem.lower(),
                _options(a, texts.lower()),
            ),
            Task("", 2, a, f"{question} Put the answer in quotes.", f'"{stem}', _options(a, texts)),
            Task("", 2, a, f"{question} Start with a bullet.", f"* {stem}", _options(a, texts)),
            Task("", 2, a, f"{question} Answer in one word.", "", _options(a, bare)),
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


def _retold(said: list[str], attributes: Mapping[str, str], rng: random.Random) -> str:
    """The facts of a description, each in other words, in any order; at times words alone: "rain, male, fast, …"."""
    words = {name: attribute_phrase(name, attributes[name])[1].strip() for name in said}
    order = rng.sample(said, len(said))
    if rng.random() < 0.3:
        return ", ".join(words[name] for name in order) + "."
    told = []
    for name in order:
        forms = (attribute_clause(name, attributes[name]), *_FACTS[name])
        text = rng.choice(forms).format(words[name], _SYNONYMS.get(words[name], words[name]))
        told.append(text[0].upper() + text[1:])
    return " ".join(told)


def _half_known(attributes: Mapping[str, str], rng: random.Random) -> str:
    """`NEUTRAL` with some of its blanks filled in, or none."""
    sentence, share = NEUTRAL, rng.random()
    for name, (blank, known) in _BLANKS.items():
        if rng.random() < share:
            sentence = sentence.replace(
                blank, known.format(attribute_phrase(name, attributes[name])[1].strip())
            )
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
            question = f"What is the {' and the '.join(_NOUN[name] for name in asked)}?"
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
