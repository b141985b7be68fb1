"""The figures of the main job stand where little could be measured, too."""

from unittest.mock import Mock

import pytest

from desta_lab.evaluation import verdict
from desta_lab.evaluation.tasks import task_ladder
from desta_lab.experiments import quickstart_figures
from desta_lab.experiments.experiment import Experiment
from tests.evaluation.test_verdict import table


def test_where_the_oracle_can_do_no_task_there_is_no_curve_and_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(quickstart_figures, "_example_figures", lambda _: {})
    scored = table({})
    scored.loc[scored["condition"] == "oracle", ["calibrated", "raw"]] = 0.0
    complete = verdict.add_untrained(scored)
    llm = Mock(connector=object())  # it has no mixture of layers to draw
    figures = quickstart_figures.draw_figures(
        Mock(spec=Experiment, tasks=task_ladder(), llm=llm),
        verdict.score_per_rung(complete),
        verdict.score_per_task(complete),
        {"coverage": {"self": {"gender": 1.0}}, "perplexity": {"self": 2.0}},
        verdict.NOT_TESTABLE,
    )
    assert set(figures) == {"held_out", "coverage"}
