"""The controls answer what they are asked, and nothing else."""

from desta_lab.clips import Clip
from desta_lab.evaluation import conditions
from desta_lab.evaluation.tasks import task_ladder
from desta_lab.world.recipes import describe_plainly
from tests import tiny


def test_the_oracle_reads_some_tasks_just_as_it_reads_all() -> None:
    llm = tiny.audio_llm()
    people = [Clip(f"c{i}", "", 1.0, "", f"s{i}", {**tiny.attributes(i)}) for i in range(3)]
    asked = [
        task for task in task_ladder() if task.rung == 3
    ]  # none is about the topic, which a description may state
    whole = conditions.score_oracle(
        llm, [task for task in task_ladder() if task.rung in (3, 5)], people, people
    )
    some = conditions.score_oracle(llm, asked, people, people)
    assert set(some["task"]) == {task.name for task in asked}
    assert some["chosen"].tolist() == whole.loc[whole["rung"] == 3, "chosen"].tolist()


def test_a_clip_is_not_asked_about_what_is_not_known_of_it() -> None:
    llm = tiny.audio_llm()
    tasks = task_ladder({"mood": ("calm", "angry"), "place": ("in", "out")})
    told = [{"mood": "calm", "place": "in"}, {"place": "out"}, {"mood": "angry"}]
    people = [Clip(f"c{i}", "", 1.0, "", f"s{i}", known) for i, known in enumerate(told)]
    ranked = conditions.score_oracle(llm, tasks, people, people, describe_plainly)
    free = conditions.answer_free_form(
        llm, tasks, people, None, max_new_tokens=2, describe=describe_plainly
    )
    for table in (ranked, free):
        some = table[table["task"] == "ask_mood"]
        assert list(some["clip"]) == ["c0", "c2"]
