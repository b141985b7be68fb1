"""What an analyst brings of their own reaches every result, determines its key by content, and is
refused before any work where it does not fit.
"""

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from accelerate import tracking
from torch import nn

from desta_lab.evaluation.tasks import PROMPTS, Task, task_ladder
from desta_lab.experiments.corpus_tasks import corpus_tasks
from desta_lab.experiments.experiment import Experiment
from desta_lab.experiments.quickstart import FEW_SPEAKERS, _notes_on_own_pieces, run_quickstart
from desta_lab.model import presets
from desta_lab.model.audio_llm import AudioLLM, ProvenanceError
from desta_lab.training import checkpoints
from tests import tiny

NANO = replace(presets.nano(), clips={"train": 24, "validation": 24, "test": 24})
KING = Task(
    "crown",
    3,
    "gender",
    "Is it a king or a queen?",
    "It is a",
    {"female": " queen", "male": " king"},
)


class MeanPool(nn.Module):
    """The mean of the last tapped layer, projected once for each query."""

    queries = 3
    version = 1

    def __init__(self, taps: int, d_enc: int, d_llm: int) -> None:
        super().__init__()
        self.d_llm = d_llm
        self.project = nn.Linear(d_enc, self.queries * d_llm)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.project(states[-1].mean(1)).unflatten(-1, (self.queries, self.d_llm))


def say_scene(attributes: dict[str, str]) -> str:
    return f"In the background there is {attributes['scene']}."


# ---- refused before any work ----


def wide(taps: int, d_enc: int, d_llm: int) -> nn.Module:
    return MeanPool(taps, d_enc, d_llm + 1)


def nameless(taps: int, d_enc: int, d_llm: int) -> nn.Module:
    return nn.Linear(d_enc, d_llm)


def fails(attributes: dict[str, str]) -> str:
    return attributes["mood"]


LEAK = "Say: In the background there is rain."
MOOD = replace(KING, attribute="mood")
HALF = replace(KING, options={"female": " queen"})
WRONG = {  # what is brought → words of the sentence
    "no clip has": {"tasks": [MOOD]},
    "has no option for gender = 'male'": {"tasks": [HALF]},
    "needs two options or more with different": {
        "tasks": [replace(KING, options={"female": "", "male": " king"})]
    },
    "Two tasks are named 'crown'": {"tasks": [KING, KING]},
    "tasks are at least one": {"tasks": []},
    "No question of rung 3 is about an attribute": {"tasks": [replace(KING, rung=4)]},
    "attributes are a list, also of one": {"attributes": "scene"},
    "is on rung 9; the rungs are 0 to 5": {"tasks": [replace(KING, rung=9)]},
    "has the constraint 'loud'": {"tasks": [replace(KING, constraint="loud")]},
    "asks nothing; write a question": {"tasks": [replace(KING, question=" ")]},
    "the label is one of gender": {"tasks": [KING], "label": "scene"},
    "leaks into the training prompt": {"prompts": [LEAK], "describe": say_scene},
    "prompts are different texts": {"prompts": []},
    "in a list, not 'What?'": {"prompts": "What?"},
    "asks nothing; write a sentence": {"prompts": ["What?", ""]},
    "let it return a sentence": {"describe": lambda attributes: None},
    "describe fails on": {"describe": fails},
    "the same text each time": {"describe": lambda attributes: str(torch.rand(1))},
    "'mood' has fewer than two values": {"attributes": ["mood"]},
    "none is named": {"attributes": []},
    "gives (2, 3, 193) for 2 clips; the backbone takes (2, 3, 192)": {"connector": wide},
    "has no `queries`": {"connector": nameless},
    "cannot be built from taps, d_enc and d_llm": {"connector": nn.Linear},
    "is a dict, not a module": {"connector": lambda **sizes: sizes},
    "fails on encoder states of 4 taps": {"connector": MeanPool(4, 100, 192)},
}


@pytest.mark.weights
@pytest.mark.parametrize("words", WRONG)
def test_a_piece_that_does_not_fit_is_one_sentence_before_any_work(words: str, tmp_path: Path):
    tiny.share_weights(tmp_path)
    with pytest.raises(ValueError) as fault:
        Experiment(NANO, root=tmp_path, **WRONG[words])
    assert words in str(fault.value) and "\n" not in str(fault.value)
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


# ---- what determines a result ----


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    tiny.share_weights(folder)
    return folder


def keys(experiment: Experiment) -> dict[str, str]:
    """The names of an experiment's results."""
    return {
        **{kind: experiment.run_folder(kind).name for kind in ("self", "label", "template")},
        "targets": experiment.targets_provenance.key,
        "oracle": experiment.oracle_provenance.key,
        "scores": experiment.score_provenance({"step": 0, "sha256": "a" * 64}).key,
    }


def test_brought_questions_name_their_options_for_a_general_llm() -> None:
    usual = corpus_tasks(None, presets.cpu())
    same = corpus_tasks(None, presets.cpu(), tasks=task_ladder())
    assert same.tasks == usual.tasks and not same.own
    own = replace(KING, in_words="A king or a queen?")
    more = corpus_tasks(None, presets.cpu(), tasks=[*task_ladder(), own])
    assert more.tasks == [*usual.tasks, own] and set(more.own) == {"tasks"}
    nano = corpus_tasks(None, NANO, tasks=task_ladder())
    assert not any(task.in_words for task in nano.tasks)


def test_the_order_of_attributes_is_that_of_a_template_and_determines_its_run() -> None:
    names = list(corpus_tasks(None, NANO).values)
    usual, turned = (corpus_tasks(None, NANO, attributes=way) for way in (names, names[::-1]))
    assert list(turned.values) == names[::-1]
    assert not usual.run_facts("template", "gender")
    assert turned.run_facts("template", "gender") == {"attributes": names[::-1]}


@pytest.mark.weights
def test_pieces_determine_results_by_their_content_and_the_usual_ones_change_no_key(root: Path):
    usual = Experiment(NANO, root=root)
    llm, before = usual.llm, keys(usual)

    def changed(**pieces) -> set[str]:
        one = Experiment(NANO, root=root, **pieces)
        one.llm = llm  # the same models
        return {name for name, key in keys(one).items() if key != before[name]}

    assert changed(tasks=task_ladder(), prompts=PROMPTS[:1], describe=usual.describe) == set()
    assert changed(tasks=[*task_ladder(), KING]) == {"oracle", "scores", "label"}
    assert changed(prompts=["What now?"]) == {*before}
    assert changed(describe=say_scene) == {"self", "targets", "oracle"}
    assert changed(attributes=["scene", "gender"]) >= {"template", "oracle", "scores"}
    again = Experiment(
        NANO, root=root, describe=lambda a: f"In the background there is {a['scene']}."
    )
    assert again.asked.own == Experiment(NANO, root=root, describe=say_scene).asked.own


@pytest.mark.weights
def test_a_connector_is_told_by_class_settings_modules_and_first_tensors(root: Path):
    class Second(MeanPool):
        version = 2

    one = Experiment(NANO, root=root, connector=MeanPool)
    name = one.run_folder("self")
    assert one.llm.provenance["connector"]["settings"] == {
        "queries": 3,
        "version": 1,
        "d_llm": one.llm.backbone.width,
    }
    assert Experiment(NANO, root=root, connector=MeanPool).run_folder("self") == name
    others = [
        Experiment(NANO, root=root, connector=Second),
        Experiment(NANO, root=root, connector=MeanPool(4, 384, 192)),
        Experiment(NANO, root=root, connector=MeanPool, seed=1),
        Experiment(NANO, root=root),
    ]
    assert len({name, *(other.run_folder("self") for other in others)}) == 5


# ---- end to end ----


class Kept(tracking.GeneralTracker):
    """A tracker that remembers what it is told."""

    name, requires_logging_directory = "kept", False
    runs: ClassVar[dict[str, "Kept"]] = {}

    def __init__(self, run: str) -> None:
        super().__init__()
        self.rows, self.config, self.finished = [], {}, False
        self.runs[run] = self

    @property
    def tracker(self) -> "Kept":
        return self

    def store_init_configuration(self, values: dict) -> None:
        self.config = values

    def log(self, values: dict, step: int | None = None, **how: object) -> None:
        self.rows.append((step, values))

    def finish(self) -> None:
        self.finished = True


@pytest.mark.weights
def test_one_question_about_two_test_clips_is_enough_for_a_main_job(root: Path):
    short = replace(
        presets.nano(), seconds=1.0, steps=2, batch=4, checkpoint_every=1, free_form_clips=1
    )
    own = tiny.recordings(root / "six")
    lines = (own / "clips.csv").read_text().splitlines()[:7]
    (own / "clips.csv").write_text("\n".join(s.replace("me", f"s{i}") for i, s in enumerate(lines)))
    there = {value: f" {value}" for value in ("rain", "music", "birds")}
    weather = Task("weather", 3, "scene", "What is in the background?", "There is", there)
    job = Experiment(short, corpus=own, root=root, tasks=[weather])
    assert [len(job.clips(split)) for split in ("train", "test")] == [3, 2]
    result = run_quickstart(job, root / "few")
    assert result["verdict"]["verdict"] == "TOO FEW CLIPS TO JUDGE"
    assert [row["task"] for row in result["tasks"]] == ["weather"]
    assert FEW_SPEAKERS.format(2) in result["notes"]


@pytest.mark.weights
def test_own_pieces_reach_training_targets_oracle_scores_card_and_verdict(root: Path):
    short = replace(
        presets.nano(), seconds=1.0, steps=2, batch=4, checkpoint_every=1, free_form_clips=1
    )
    own = tiny.recordings(root / "mine")
    tasks = [
        *task_ladder({"scene": ("rain", "birds", "music"), "manner": ("spoken", "whispered")}),
        Task(
            "wet",
            4,
            "scene",
            "Will I get wet?",
            "You will",
            {"rain": " get wet", "birds": " see birds", "music": " hear music"},
        ),
    ]

    def tell(attributes: dict[str, str]) -> str:
        return (
            f"The speaker {attributes['manner']}. In the background there is {attributes['scene']}."
        )

    pieces = {"tasks": tasks, "prompts": ["Describe the audio clip."], "describe": tell}
    job = Experiment(short, corpus=own, root=root, connector=MeanPool, track=Kept, **pieces)
    result = run_quickstart(job, root / "out")
    asked = {task.name for task in job.tasks}
    assert {row["task"] for row in result["tasks"]} == asked and "wet" in asked
    assert {row.prompt for row in job.targets.rows} == {"Describe the audio clip."}
    assert {row.description for row in job.targets.rows} <= {
        tell(c.attributes) for c in job.corpus.clips
    }
    assert set(job.oracle()["task"]) == asked
    (note,) = [one for one in result["notes"] if one.startswith("Brought by the experiment")]
    for words in (f"{len(tasks)} tasks", "“Describe the audio clip.”", "the connector MeanPool"):
        assert words in note
    assert result["verdict"]["verdict"] == "TOO FEW CLIPS TO JUDGE"
    run = job.run_folder("self")
    log, scores = Kept.runs[run.name], Kept.runs[f"{run.name}-scores"]
    assert [step for step, _ in log.rows] == [1, 2] and log.finished and scores.finished
    assert all(set(values) == {"loss", "lr", "grad_norm"} for _, values in log.rows)
    assert [step for step, _ in scores.rows] == [0, 1, 2]
    assert {"accuracy/rung 0/audio", "accuracy/rung 3/silence"} <= set(scores.rows[0][1])
    assert all(isinstance(value, str | float | int) for value in log.config.values())
    job.train("self")
    assert Kept.runs[run.name] is not log and Kept.runs[run.name].rows == log.rows
    with pytest.raises(ProvenanceError, match=r"its connector is MeanPool, .*connector=MeanPool"):
        AudioLLM.from_run(run, root=root / "models")
    opened = AudioLLM.from_run(run, root=root / "models", connector=MeanPool)
    checkpoints.load_checkpoint(run, job.llm, 2)
    assert torch.equal(opened.connector.project.weight, job.llm.connector.project.weight)
    assert "connector.project" in opened.sites()


@pytest.mark.weights
def test_tasks_that_only_follow_from_a_prompt_or_attributes_are_not_called_brought(root: Path):
    given = {
        "the training prompts “What do you hear?”": {"prompts": ["What do you hear?"]},
        "the attributes gender, scene": {"attributes": ["gender", "scene"]},
        "1 tasks": {"tasks": [replace(KING, attribute="gender")], "label": "gender"},
    }
    for words, pieces in given.items():
        notes = _notes_on_own_pieces(Experiment(NANO, root=root, **pieces))
        assert notes == [f"Brought by the experiment: {words}."]


@pytest.mark.weights
def test_a_control_a_site_and_a_rule_of_ones_own_are_had_as_the_page_says(root: Path):
    few = {"train": 8, "validation": 8, "test": 8}
    short = {"steps": 2, "batch": 4, "test": 8, "held_out": 8, "free_form_clips": 1}
    job = Experiment(replace(NANO, clips=few, **short), root=root, connector=MeanPool)
    text = (Path(__file__).resolve().parents[2] / "docs" / "own.md").read_text(encoding="utf-8")
    (code,) = (part for part in text.split("```python")[1:] if "control_margins" in part)
    page = {"experiment": job, "MeanPool": MeanPool}
    exec(code.split("```")[0], page)
    assert set(page["control"]["condition"]) == {"audio"}
    assert set(page["probed"]["kind"]) == {"probe", "random labels", "majority"}
    assert page["supported"] is False
