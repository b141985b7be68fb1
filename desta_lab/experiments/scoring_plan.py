"""The scoring plan: which clips are asked what at each checkpoint of a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from desta_lab.clips import Clip
from desta_lab.evaluation.evaluate import FreeForm
from desta_lab.evaluation.tasks import Task
from desta_lab.model.presets import Preset


@dataclass(frozen=True)
class ScoringPlan:
    """What is scored: everything at the first and the last step, less between.

    Args:
        preset: how many clips are answered in words, and which step is the last.
        corpus: the hash of the corpus that the clips are of.
        tasks: all that is asked.
        test: the clips that are scored.
        calibration: the clips of other speakers that the ranking is calibrated on.
        in_words: whether anything is also answered in the backbone's own words.
    """

    preset: Preset
    corpus: str
    tasks: Sequence[Task]
    test: list[Clip]
    calibration: list[Clip]
    in_words: bool = True

    def clips(self, step: int) -> tuple[list[Clip], list[Clip]]:
        """Clips to score and to calibrate with: all at the first and last step, else half.

        Half of a small test keeps two clips, as the first two are of different speakers, and half
        of the others keeps one.
        """
        part = 1 if step in (0, self.preset.steps) else 2
        calibration = self.calibration[: max(1, len(self.calibration) // part)]
        return self.test[: max(2, len(self.test) // part)], calibration

    def free_form(self, step: int) -> list[FreeForm]:
        """What is answered in words: at the ends rung 3 about every test clip, else about few."""
        few, last = self.preset.free_form_clips, step == self.preset.steps
        clips = self.preset.test if last or step == 0 else few
        asked = [FreeForm(clips, [t for t in self.tasks if t.rung == 3], max_new_tokens=16)]
        others = [t for t in self.tasks if t.rung != 3]
        if last and others:
            asked.append(FreeForm(2 * few, others))
        return asked if self.in_words else []

    def facts(self, step: int) -> dict[str, Any]:
        """What determines the scores of a step besides the models, for a provenance."""
        test, calibration = self.clips(step)
        return {
            "corpus": self.corpus,
            "test": [clip.id for clip in test],
            "calibration": [clip.id for clip in calibration],
            "tasks": [repr(task) for task in self.tasks],
            "free_form": [one.facts() for one in self.free_form(step)],
        }
