"""The text world asks what the ladder asks, answers rightly, and tells what it does not show."""

import itertools

from desta_lab.evaluation.tasks import TRAINED_PROMPT, task_ladder
from desta_lab.evaluation.text_world import generate_text_world
from desta_lab.world.attributes import ATTRIBUTES
from desta_lab.world.describe import describe

COMBINATIONS = [
    dict(zip(ATTRIBUTES, values, strict=True)) for values in itertools.product(*ATTRIBUTES.values())
]


def test_the_text_world_asks_every_task_of_the_ladder_and_answers_rightly():
    rows = list(generate_text_world(6000, seed=5))
    for task in (task for task in task_ladder() if task.rung >= 2):
        begun = {answer for _, question, answer in rows if question == task.question}
        assert all(
            any(said.startswith(task.stem + text) for said in begun)
            for text in task.options.values()
        ), task.name
    assert len({question for _, question, _ in rows}) > 200


def test_every_clause_may_open_an_answer_to_the_trained_prompt():
    answers = [
        said
        for _, question, said in generate_text_world(6000, seed=5)
        if question == TRAINED_PROMPT
    ]
    for task in (task for task in task_ladder() if task.rung == 0):
        opens = [
            said.startswith(task.stem + text) for said in answers for text in task.options.values()
        ]
        assert sum(opens) > len(answers) / 20


def test_the_text_world_repeats_itself_and_keeps_what_is_unseen_unseen():
    hidden = {describe(a) for a in COMBINATIONS[:60]}
    rows = list(generate_text_world(2000, seed=2, unseen=hidden))
    assert rows == list(generate_text_world(2000, seed=2, unseen=hidden))
    assert not [
        description
        for description, _, _ in rows
        if any(description.startswith(one) for one in hidden)
    ]


def test_the_topic_is_asked_only_where_it_is_told():
    topics = set(ATTRIBUTES["topic"])
    for description, question, said in generate_text_world(4000, seed=4):
        if "topic" in question or "The talk is about" in said:
            assert topics & set(description.lower().replace(".", " ").replace(",", " ").split()), (
                description,
                question,
                said,
            )
