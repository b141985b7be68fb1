"""The ladder of any corpus: options are its values, and questions give nothing away."""

from dataclasses import replace

import pytest

from desta_lab.clips import Clip
from desta_lab.evaluation import tasks as ladder_tasks
from desta_lab.evaluation.constraints import is_obeyed
from desta_lab.evaluation.tasks import Task, named_values, task_ladder
from desta_lab.experiments.corpus_tasks import corpus_tasks
from desta_lab.model import presets
from desta_lab.training import targets
from desta_lab.world.attributes import ATTRIBUTES, DESCRIBED
from desta_lab.world.describe import describe_plainly
from desta_lab.world.public_corpora import CREMA_D

OWN = {
    "emotion": ("neutral", "angry"),
    "gender": ("female", "male"),
    "voice_type": ("child's", 'the "boss"', "grown up"),
}
ENDS = {"detectable_format:json_format": '"}', "change_case:english_capital": "."}


def test_the_spoken_world_keeps_its_ladder_and_a_corpus_like_it_gets_the_same() -> None:
    described = [task for task in task_ladder() if task.rung < 5]
    assert sorted(task_ladder({name: ATTRIBUTES[name] for name in DESCRIBED}), key=repr) == sorted(
        described, key=repr
    )


def test_a_part_of_the_spoken_world_has_its_questions_with_the_values_that_occur() -> None:
    tasks = {task.name: task for task in task_ladder({"scene": ("birds", "music")})}
    assert tasks["ask_scene"].question == "What is the background sound?"
    assert list(tasks["take"].options) == ["birds", "music"] and tasks["take"].chance == 0.5


def test_a_general_llm_is_told_the_options_in_words_and_nano_is_asked_as_it_learned() -> None:
    plain, told = task_ladder(), ladder_tasks.name_options(task_ladder())
    assert {t.name: t.in_words for t in told if t.in_words} == {
        "ask_rate": "Is the speech slow or fast?",
        "ask_loudness": "Is the volume of the voice low or high?",
    }
    assert [t.question for t in told] == [t.question for t in plain]
    assert corpus_tasks(None, presets.cpu()).tasks == told
    for name in ("nano", "nano-64x2"):
        assert corpus_tasks(None, replace(presets.nano(), backbone=name)).tasks == plain


def test_another_form_of_a_question_is_another_result_and_none_is_the_same_as_ever() -> None:
    task = Task("ask", 3, "rate", "How fast?", "It is", {"slow": " slow", "fast": " fast"})
    assert repr(task) == (
        "Task(name='ask', rung=3, attribute='rate', question='How fast?', stem='It is', "
        "options={'slow': ' slow', 'fast': ' fast'}, constraint=None)"
    )
    assert repr(replace(task, in_words="Slow or fast?")) == (
        repr(task).removesuffix(")") + ", in_words='Slow or fast?')"
    )


def test_every_attribute_is_asked_on_the_first_four_rungs_with_all_its_values() -> None:
    tasks = task_ladder(OWN)
    assert len({task.name for task in tasks}) == len(tasks)
    for attribute, values in OWN.items():
        asked = [task for task in tasks if task.attribute == attribute]
        assert {task.rung for task in asked} >= {0, 1, 2, 3} and [t.rung for t in tasks] == sorted(
            t.rung for t in tasks
        )
        assert all(
            tuple(task.options) == values and len(set(task.options.values())) == len(values)
            for task in asked
        )


@pytest.mark.parametrize(
    "task", [t for t in task_ladder(OWN) if t.rung == 2], ids=lambda task: task.name
)
def test_the_answers_of_rung_two_obey_their_constraint_and_the_plain_ones_do_not(
    task: Task,
) -> None:
    assert task.constraint
    for value, option in task.options.items():
        assert is_obeyed(task.constraint, task.stem + option + ENDS[task.constraint])
        assert not is_obeyed(task.constraint, f"The {task.attribute} is {value}.")


def test_no_message_holds_the_description_or_the_value_that_is_asked_for() -> None:
    attributes = {"emotion": "angry", "voice_type": "grown up", "age": "fifties"}
    for describe in (describe_plainly, CREMA_D.describe):
        description = describe(attributes)
        for task in task_ladder({name: (value, "other") for name, value in attributes.items()}):
            target = targets.Target(description, task.question, "Hm.", "self", "", "", "")
            messages = targets.training_row("one", target, "own")[
                "messages"
            ]  # raises where the description leaks
            assert all(
                value not in message["content"]
                for message in messages
                for value in attributes.values()
            )


def test_an_answer_names_a_value_of_another_corpus_by_its_own_words() -> None:
    emotion = next(task for task in task_ladder(OWN) if task.name == "ask_emotion")
    assert named_values(emotion, "The speaker sounds ANGRY.") == {"angry"}
    assert named_values(emotion, "Not a word of it") == set()
    manner = Task(
        "ask_manner", 3, "manner", "?", "The manner is", {"spoken": " spoken", "sung": " sung"}
    )
    assert named_values(manner, "She whispers.") == set() and named_values(
        manner, "It is sung."
    ) == {"sung"}


def test_an_answer_names_no_value_whose_word_only_begins_another_word() -> None:
    tasks = {task.name: task for task in task_ladder()}
    assert named_values(tasks["pronoun"], "The pronoun is her.") == {"female"}
    assert named_values(tasks["knob"], "It is upsetting.") == set()
    assert named_values(tasks["ask_scene"], "There is no music but rain.") == {"rain"}
    assert named_values(tasks["json_gender"], '{"gender":"male"}') == {"male"}


def test_a_template_names_what_is_known_in_the_corpus_own_words() -> None:
    clip = Clip("c", "c.wav", 1.0, "", "s", {"emotion": "angry", "gender": "female"})
    target = targets.template_target(clip, "Describe.", OWN, describe_plainly)
    assert target.response == "Annotation: emotion is angry; gender is female."
    assert target.description == "The emotion is angry. The speaker is female."


def test_a_question_of_a_further_wording_stands_on_its_rung(monkeypatch) -> None:
    row = (3, "sex", "gender", "Is it a man or a woman?", "It is a", " woman| man")
    monkeypatch.setattr(ladder_tasks, "QUESTIONS", (*ladder_tasks.QUESTIONS, row))
    ladder = task_ladder()
    assert [task.rung for task in ladder] == sorted(task.rung for task in ladder)
    (asked,) = [task for task in ladder if task.name == "sex"]
    assert (asked.rung, asked.options) == (3, {"female": " woman", "male": " man"})
