"""The papers' ablations at lab scale, as data: each a question, named arms, and its limits.

A study is a sweep over named arms. One of your own is added by `register_study`.
"""

import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from desta_lab.experiments import forgetting
from desta_lab.experiments.cells import LADDER, WORDS, check_setting, list_settings, make_cell
from desta_lab.experiments.measures import train_and_ask
from desta_lab.experiments.sweep import Measure
from desta_lab.model import presets
from desta_lab.model.bounds import is_number
from desta_lab.views import study_figures

Arms = Mapping[str, Mapping[str, Any]]  # name → setting → value

# preset → settings of all its studies; nano: steps that tell arms apart before the best arms are
# perfect, and the faster attention
PRESET_SETTINGS: dict[str, dict[str, Any]] = {"nano": {"steps": 150, "attention": "eager"}}
PRESET_SEEDS = {"nano": (0, 1, 2, 3, 4)}
DEFAULT_SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Study:
    """A question put to a trained connector by changing one thing.

    Another kind of study brings its own `measure` under the name `measured`, and may bring `draw`
    and `state`, which then make its figure and its sentences.

    Args:
        arms: name → settings; an arm without settings is the preset itself.
        limits: what the study does not show, whatever it measures.
        baseline: the arm that the others are compared with; by default the one without settings.
        amount: the setting that is an amount; a curve is fitted over it.
        more: preset → arms that only this preset can run.
        only: preset → the arms that it runs, where not all.
        presets: the presets that it is run on.
        frozen_parts: models that are made before it runs, by their name in `frozen_parts.MAKERS`.
        columns: of its table, beside the usual ones.
    """

    name: str
    title: str
    question: str
    arms: Arms
    limits: str
    baseline: str = ""
    amount: str = ""
    more: Mapping[str, Arms] = field(default_factory=dict)
    only: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    presets: tuple[str, ...] = ("nano",)
    frozen_parts: tuple[str, ...] = ()
    measure: Measure | None = None
    measured: str = LADDER
    columns: tuple[str, ...] = ()
    draw: Callable[["Study", pd.DataFrame], Any] | None = None
    state: Callable[["Study", pd.DataFrame], list[str]] | None = None

    def arms_of(self, preset: str) -> Arms:
        """The arms that a preset runs."""
        arms = {**self.arms, **self.more.get(preset, {})}
        return {name: arms[name] for name in self.only.get(preset, arms)}

    @property
    def baseline_arm(self) -> str:
        """The arm that the others are compared with; none is empty."""
        plain = [name for name, settings in self.arms.items() if not settings]
        return self.baseline or next(iter(plain), "")


def get_study(name: str) -> Study:
    """A study by its name. Raises ValueError with the names that exist."""
    if name not in STUDIES:
        raise ValueError(f"There is no study {name!r}; take one of {', '.join(STUDIES)}.")
    return STUDIES[name]


def register_study(study: Study) -> Study:
    """Add a study of your own: `ablation.run_studies` runs it, the page draws it.

    Registered again under its name it takes the place of the one before, but of none that the
    package brings.

    Raises:
        ValueError: its name is taken or no name of a file, it has fewer than two arms or no
            baseline among them, `only` names an arm that is none, a setting or value of an arm does
            not exist, or its amount is none.
    """
    if study.name in BROUGHT:
        raise ValueError(f"The package has a study {study.name!r}; give yours another name.")
    if not re.fullmatch(r"\w[\w-]*", study.name):
        raise ValueError(f"A study's name is of letters, digits, '_' and '-', not {study.name!r}.")
    there = {*study.arms, *itertools.chain(*study.more.values())}
    if unknown := sorted({*itertools.chain(*study.only.values())} - there):
        raise ValueError(
            f"The study {study.name!r} has no arm {', '.join(unknown)}, which `only` names; it has "
            f"{', '.join(sorted(there))}."
        )
    for preset in study.presets:
        arms, start = study.arms_of(preset), presets.get_preset(preset)
        if len(arms) < 2:
            raise ValueError(f"The study {study.name!r} compares arms; give it two or more.")
        for settings in arms.values():
            checked = {name: check_setting(start, name, v) for name, v in settings.items()}
            changed = list_settings(make_cell(start, checked, 0, study.measured).preset)
            if study.amount not in ("", "train") and not is_number(changed.get(study.amount)):
                raise ValueError(
                    f"The amount of the study {study.name!r} is a setting with a number, such as "
                    f"steps or connector.depth, not {study.amount!r}."
                )
        if study.baseline_arm not in arms:
            raise ValueError(
                f"The study {study.name!r} has no baseline; name an arm, or give one no settings."
            )
    STUDIES[study.name] = study
    return study


STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        Study(
            "targets",
            "Target kind",
            "Whose words should the connector learn to draw out?",
            {
                "self": {},
                "hard": {"target": "hard"},
                "template": {"target": "template"},
                "label": {"target": "label"},
            },
            "It is one synthetic world of short clips and one small frozen LLM, whose own words "
            "are few; how far apart the kinds stand for a large LLM is not known from it. The "
            "label arm names one attribute (the scene) where the others name all, so it differs "
            "in more than who wrote it. On nano there is no arm of another LLM's words: SmolLM2's "
            "words are not in nano's vocabulary, so it is left out. (Our self is the papers' "
            "soft, the LLM's own answers with its distribution over the next token; our hard is "
            "the papers' self, the same answers as tokens alone.)",
            more={"cpu": {"another LLM": {"target": "other"}}},
            presets=("nano", "cpu"),
        ),
        Study(
            "prompts",
            "One prompt or many",
            "Does one prompt teach as much as several, at equal steps?",
            {"1": {}, "3": {"prompts": 3}, "6": {"prompts": 6}},
            "All six prompts ask for a description in other words. What training on many kinds "
            "of tasks would do, as other systems are trained, it does not show.",
            presets=("nano", "cpu"),
        ),
        Study(
            "layers",
            "Tapped layers",
            "How many layers of the encoder does the connector need, and which?",
            {
                "all four": {},
                "first": {"taps": (0,)},
                "middle two": {"taps": (1, 2)},
                "last": {"taps": (3,)},
            },
            "Whisper tiny.en has four layers. Which layers of a deep encoder matter, it does not "
            "show; and fewer taps are also a smaller connector, because each tapped layer brings "
            "its own queries.",
        ),
        Study(
            "queries",
            "Query tokens",
            "How many query tokens does the connector need, and must they start as words?",
            {
                "4": {"connector.anchored": False, "connector.queries": 4},
                "16": {"connector.anchored": False, "connector.queries": 16},
                "64": {"connector.anchored": False, "connector.queries": 64},
                "anchored": {},
            },
            "A clip of this world holds six attributes and lasts 4 s; how many tokens longer or "
            "richer sound needs, it does not show. The anchored arm has as many queries as the "
            "sentence it starts as, 19 here, so it differs from 16 in both.",
            baseline="16",
        ),
        Study(
            "depth",
            "Q-Former depth",
            "How deep must the Q-Former be?",
            {"1": {"connector.depth": 1}, "2": {}, "4": {"connector.depth": 4}},
            "All depths train for the same few steps at the same learning rate; a deeper one may "
            "need more of the first or less of the second, and was not tuned for itself.",
        ),
        Study(
            "connector",
            "Connector kind",
            "Does a Q-Former earn its place beside stacked frames and one projection?",
            {"Q-Former": {}, "frames": {"connector.kind": "frames"}},
            "The two differ in parameters, in the layers they read and in how they start, and "
            "neither was tuned. It shows what each reaches with the shared recipe, not which of "
            "its parts makes the difference.",
        ),
        Study(
            "transcript",
            "Transcript",
            "Does the clip's transcript behind the audio embeddings help or hinder?",
            {"without": {}, "with": {"transcript": True}},
            "The transcript is the sentence that was rendered, not what Whisper hears. What is "
            "said has nothing to do with the attributes here, so there is nothing to gain from "
            "it; and the nano LLM learned to read a clip's description where its transcript "
            "stands. Questions about what is said are not in this score.",
        ),
        Study(
            "clips",
            "Clips (data scaling)",
            "How many clips does the claim need?",
            {
                "48": {"train": 48},
                "96": {"train": 96},
                "192": {"train": 192},
                "384": {"train": 384},
                "all": {},
            },
            "The steps are equal, so fewer clips are seen more often; and the clips are rendered "
            "from at most 192 descriptions. How the score grows with hours of varied, real "
            "sound, it does not show, and the curve holds between its ends alone.",
            amount="train",
            presets=("nano", "cpu"),
        ),
        Study(
            "steps",
            "Steps (compute scaling)",
            "How does the score grow with training?",
            {"40": {"steps": 40}, "80": {"steps": 80}, "150": {}, "300": {"steps": 300}},
            "Each length has its own learning-rate schedule, so the points are no checkpoints of "
            "one run. The curve holds between its ends alone; that it levels off at its top is "
            "its form, not a finding.",
            amount="steps",
        ),
        Study(
            "tuning",
            "Frozen or tuned",
            "Does it help to let the LLM learn, too?",
            {"frozen": {}, "LoRA, rank 8": {"tuning": "lora-8"}, "full": {"tuning": "full"}},
            "One learning rate serves the connector and the LLM, chosen for the connector. What "
            "the LLM forgets while it learns is not in this score.",
        ),
        Study(
            "forgetting",
            "Forgetting",
            "What does the LLM forget while it learns to hear, and what does that buy?",
            {"frozen, self": {}}
            | {
                f"{tuning}, {target}": {"tuning": tuning, "target": target}
                for tuning, target in itertools.product(
                    ("frozen", "lora-2", "lora-8", "lora-32", "full"), ("self", "template", "label")
                )
                if (tuning, target) != ("frozen", "self")
            },
            "One learning rate serves the connector and the LLM, chosen for the connector; "
            "another for the LLM was not tried. The nano LLM knows one small world and a handful "
            "of constraints by heart, and SmolLM2 obeys few constraints to begin with; how much "
            "a large LLM forgets, it does not show.",
            only={
                "cpu": (
                    "frozen, self",
                    "frozen, template",
                    "frozen, label",
                    "lora-2, self",
                    "lora-8, self",
                    "lora-8, template",
                    "lora-8, label",
                    "lora-32, self",
                ),
                "laptop": (
                    "frozen, self",
                    "frozen, label",
                    "lora-2, self",
                    "lora-8, self",
                    "lora-8, label",
                ),
            },
            presets=("nano", "cpu", "laptop"),
            measure=forgetting.train_and_forget,
            measured="forgetting",
            columns=("share",),
            draw=lambda _, table: study_figures.plot_tradeoff(
                forgetting.learned_and_forgotten(table), forgetting.headline(table)
            ),
            state=lambda _, table: forgetting.state_findings(table),
        ),
        Study(
            "words",
            "Target kind, in words",
            "Whose words teach the model to say what it hears, where it can say it?",
            {
                "self": {},
                "hard": {"target": "hard"},
                "instruction-free": {"target": "instruction-free"},
                "template": {"target": "template"},
                "label": {"target": "label"},
            },
            "It is one small LLM and one synthetic world, and the other LLM is the nano LLM, whose "
            "words are few. The label arm names one attribute (the scene) where the others name "
            "all. The instruction-free arm has the LLM go on after the description alone, at most "
            "40 tokens of it (AZeroS, arXiv 2601.06086), and has no question in training; this "
            "LLM, made for code, refuses most of these descriptions (LOG.md).",
            more={"laptop": {"another LLM": {"target": "other"}}},
            presets=("laptop",),
            measure=train_and_ask,
            measured=WORDS,
            columns=("said",),
        ),
        Study(
            "backbone",
            "Backbone",
            "Does a smaller LLM hear worse?",
            {
                "64 wide, 2 layers": {"backbone": "nano-64x2"},
                "96 wide, 3 layers": {"backbone": "nano-96x3"},
                "192 wide, 4 layers": {},
            },
            "All sizes are nano LLMs, trained on this world's text alone, each once. What an LLM "
            "expects of its input has fewer dimensions the smaller it is, and all arms train for "
            "the same few steps; whether the larger ones catch up, or which of width and depth "
            "matters, it does not show. Tasks that an LLM cannot do when it reads are left out "
            "of its score, so arms may be scored on different tasks (see the text oracle).",
            frozen_parts=("nano-64x2", "nano-96x3"),
        ),
        Study(
            "encoder",
            "Encoder",
            "How much of it is what Whisper learned?",
            {
                "tiny.en": {},
                "tiny.en, re-drawn": {"encoder": "whisper-tiny.en-redrawn"},
                "base": {"encoder": "whisper-base"},
            },
            "Base is larger than tiny.en, was trained on more languages, and is tapped at three "
            "of its six layers; it does not show which of these matters. The re-drawn weights "
            "were drawn once.",
            frozen_parts=("whisper-tiny.en-redrawn",),
        ),
        Study(
            "rounding",
            "Rounding",
            "How far does a cell move where nothing changes but how its sums round?",
            {"written out": {}, "fused": {"attention": None}},
            "The two compute the LLM's attention in another order, which rounds otherwise; "
            "nothing else differs. Another machine, number of threads or version of torch rounds "
            "elsewhere, and may move a cell further.",
        ),
    )
}
BROUGHT = frozenset(STUDIES)  # by the package; the command line knows these
