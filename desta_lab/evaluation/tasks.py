"""The task ladder: from the prompt that was trained (rung 0) to what no target ever mentioned (rung 5)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from desta_lab.world.describe import ATTRIBUTES, DESCRIBED

TRAINED_PROMPT = "Paraphrase the description."
PARAPHRASES = ("Rewrite the sentence.", "Describe the audio clip again in other words.")

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


# how a description goes on at the place where the attribute is said (rungs 0 and 1)
_SAID = {
    "gender": ("The speaker is", " female| male"),
    "accent": ("The accent is", " American| Scottish| Caribbean"),
    "rate": ("The speed is", " slow| fast"),
    "loudness": ("The volume is", " low| high"),
    "manner": ("The speaker", " talks| whispers"),
    "scene": ("In the background there is", " rain| a siren| birds| music"),
}
_ASKED = {
    "gender": ("What is the gender of the speaker?", "The speaker is", " female| male"),
    "accent": ("What is the accent of the speaker?", "The accent is", " American| Scottish| Caribbean"),
    "rate": ("What is the speed of the speech?", "The speed is", " slow| fast"),
    "loudness": ("What is the volume of the voice?", "The volume is", " low| high"),
    "manner": ("Does the speaker talk or whisper?", "The speaker", " talks| whispers"),
    "scene": ("What is the background sound?", "The background sound is", " rain| a siren| birds| music"),
}
_CONSTRAINED = (
    ("json_gender", "gender", "Answer in JSON.", '{"gender": "', "female|male", "detectable_format:json_format"),
    ("json_scene", "scene", "Answer in JSON.", '{"background": "', "rain|siren|birds|music",
     "detectable_format:json_format"),
    ("capital_rate", "rate", "Answer in capital letters.", "THE SPEED IS", " SLOW| FAST",
     "change_case:english_capital"),
    ("capital_scene", "scene", "Answer in capital letters.", "THE BACKGROUND SOUND IS",
     " RAIN| A SIREN| BIRDS| MUSIC", "change_case:english_capital"),
)  # fmt: skip
_MULTI_HOP = (
    ("pronoun", "gender", "Which pronoun should be used for the speaker?", "The pronoun is", " she| he"),
    ("royalty", "gender", "Is the speaker a king or a queen?", "The speaker is a", " queen| king"),
    ("country", "accent", "Which country does the speaker come from?", "The speaker comes from",
     " the United States| Scotland| Jamaica"),
    ("city", "accent", "Which city does the speaker come from?", "The speaker comes from",
     " New York| Glasgow| Kingston"),
    ("hurry", "rate", "Is the speaker calm or in a hurry?", "The speaker is", " calm| in a hurry"),
    ("knob", "loudness", "Should I turn the volume up or down?", "You should turn the volume", " up| down"),
    ("take", "scene", "What should you take with you if you go there?", "You should take",
     " an umbrella| an ambulance| binoculars| a guitar"),
    ("maker", "scene", "Who or what makes the background sound?", "The background sound is made by",
     " clouds| an ambulance| animals| instruments"),
)  # fmt: skip


def ladder() -> list[Task]:
    """Every task of the ladder, from near to far."""
    tasks = []
    for rung, prompts in ((0, (TRAINED_PROMPT,)), (1, PARAPHRASES)):
        for i, prompt in enumerate(prompts):
            for attribute, (stem, texts) in _SAID.items():
                name = f"{'trained' if rung == 0 else f'paraphrase{i + 1}'}_{attribute}"
                tasks.append(Task(name, rung, attribute, prompt, stem, _options(attribute, texts)))
    for name, attribute, ask, stem, texts, constraint in _CONSTRAINED:
        question = f"{_ASKED[attribute][0]} {ask}"
        tasks.append(Task(name, 2, attribute, question, stem, _options(attribute, texts), constraint))
    for attribute, (question, stem, texts) in _ASKED.items():
        tasks.append(Task(f"ask_{attribute}", 3, attribute, question, stem, _options(attribute, texts)))
    for name, attribute, question, stem, texts in _MULTI_HOP:
        tasks.append(Task(name, 4, attribute, question, stem, _options(attribute, texts)))
    topic = _options("topic", " food| travel| sport")
    tasks.append(Task("ask_topic", 5, "topic", "What is the talk about?", "The talk is about", topic))
    return tasks


def own_attribute(task: Task, trained_label: str) -> bool:
    """Whether a run trained on the bare label of one attribute has seen this task's attribute (reported apart)."""
    return task.attribute == trained_label


def text_world(descriptions: Mapping[str, Mapping[str, str]]) -> Iterator[tuple[str, str, str]]:
    """(description, question, answer) for every task of the ladder: what the nano backbone is trained to read.

    Only text. Rung 5 is asked of descriptions that state the topic, so that the oracle can answer it; where the
    description is silent about it the caller adds no row.
    """
    for description, attributes in descriptions.items():
        for task in ladder():
            if task.attribute in DESCRIBED or f"about {attributes['topic']}" in description:
                yield description, task.question, task.stem + task.options[attributes[task.attribute]]
