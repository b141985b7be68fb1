"""Numbers in prose are those of the tables that ship."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from desta_lab.evaluation.statistics import mean_interval
from desta_lab.experiments.ablation import load_table
from desta_lab.experiments.findings import scores_by_arm
from desta_lab.experiments.forgetting import learned_and_forgotten

ROOT = Path(__file__).resolve().parents[1]
PEOPLE = ROOT / "figures" / "people"
README = (ROOT / "README.md").read_text(encoding="utf-8")
RECORDINGS = (ROOT / "docs" / "recordings.md").read_text(encoding="utf-8")
ATTRIBUTES = ("gender", "loudness", "manner", "rate", "scene")
SEEDS = ("", "-seed-1", "-seed-2")


def short(number: float) -> str:
    """Two digits, as prose has them: .83, 1.00, -.36."""
    return re.sub(r"^(-?)0\.", r"\1.", f"{number:.2f}")


def short_interval(mean: float, low: float, high: float) -> str:
    return f"{short(mean)} [{short(low)}, {short(high)}]"


def rung_3(folder: str, attribute: str, condition: str = "audio", height: str = "calibrated"):
    """The one row of a test on people, at its last step."""
    table = pd.read_csv(PEOPLE / folder / "scores.csv")
    asked = (table["rung"] == 3) & (table["attribute"] == attribute)
    last = (table["step"] == table["step"].max()) & (table["condition"] == condition)
    (row,) = table[asked & last & (table["measure"] == height)].itertuples()
    return row


def cell(row) -> str:
    return short_interval(row.accuracy, row.low, row.high)


def along_training(folder: str, attribute: str, series: str) -> pd.DataFrame:
    table = pd.read_csv(PEOPLE / folder / "people.csv")
    own = (table["attribute"] == attribute) & (table["series"] == series)
    return table[own].sort_values("step")


def own_test(folder: str, attribute: str) -> str:
    return short(along_training(folder, attribute, "own test")["accuracy"].iloc[-1])


def arrives(folder: str, attribute: str, series: str) -> int:
    """The first step from which on the interval is above chance."""
    rows = along_training(folder, attribute, series)
    below = np.flatnonzero((rows["low"] <= rows["chance"]).to_numpy())
    return int(rows["step"].iloc[below[-1] + 1 if len(below) else 0])


def row_of_nano(attribute: str) -> list[str]:
    folders = [f"nano{seed}" for seed in SEEDS]
    ranked, said = (
        [cell(rung_3(folder, attribute, height=height)) for folder in folders]
        for height in ("calibrated", "said")
    )
    own = ", ".join(own_test(folder, attribute) for folder in folders)
    return [*ranked, own, *said, short(rung_3("nano", attribute).chance)]


def row_of_cpu(attribute: str) -> list[str]:
    folders = [f"cpu{seed}" for seed in SEEDS]
    rows = [rung_3(folder, attribute) for folder in folders]
    mean = mean_interval(pd.Series([row.accuracy for row in rows]))
    own = ", ".join(own_test(folder, attribute) for folder in folders)
    untrained, oracle = (
        [rung_3(folder, attribute, condition).accuracy for folder in folders]
        for condition in ("untrained", "oracle")
    )
    known = [", ".join(map(short, untrained)), short(np.mean(oracle)), short(rows[0].chance)]
    return [*map(cell, rows), short_interval(*mean), own, *known]


def row_of_laptop(attribute: str) -> list[str]:
    rows = [
        rung_3(f"laptop{seed}", attribute, height=height)
        for height in ("calibrated", "said")
        for seed in SEEDS
    ]
    return [*map(cell, rows), short(rows[0].chance)]


@pytest.mark.parametrize("row_of", [row_of_nano, row_of_cpu, row_of_laptop])
def test_the_page_on_recordings_has_the_rows_of_its_tables(row_of):
    page = RECORDINGS.replace("**", "").splitlines()
    rows = [f"| {' | '.join([attribute, *row_of(attribute)])} |" for attribute in ATTRIBUTES]
    assert not [row for row in rows if row not in page]


@pytest.mark.parametrize("preset", ["nano", "cpu"])
def test_the_page_on_recordings_says_when_it_arrives_over_seeds(preset):
    for attribute in ATTRIBUTES:
        cells = [
            ", ".join(str(arrives(f"{preset}{seed}", attribute, series)) for seed in SEEDS)
            for series in ("people", "own test")
        ]
        assert f"| {attribute} | {' | '.join(cells)} |" in RECORDINGS.splitlines()


def test_the_page_on_recordings_has_the_rows_of_few_and_many_speakers():
    table = pd.read_csv(PEOPLE / "speakers" / "speakers.csv")
    heard = table[table["condition"] == "audio"]
    for (kind, speakers), rows in heard.groupby(["kind", "speakers"]):
        means = rows.drop_duplicates("attribute").set_index("attribute").loc[list(ATTRIBUTES)]
        cells = [short_interval(*row) for row in means[["mean", "low", "high"]].to_numpy()]
        who = "people" if kind == "people" else "synthetic voices"
        assert f"| {speakers} {who} | {' | '.join(cells)} |" in RECORDINGS.splitlines()


KINDS = {  # arms of the study of targets, in the README's words
    "self": "its own words, with the distribution over each next token",
    "hard": "its own words, as tokens alone",
    "another LLM": "a smaller LLM's paraphrases",
    "template": "sentences from templates",
    "instruction-free": "how it goes on after the description, without a prompt (it often refuses)",
    "label": "bare labels of one attribute",
}


def test_the_readme_has_the_means_of_the_kinds_of_target():
    table = load_table("words", "laptop", ROOT / "figures" / "ablations")
    scores = [
        scores_by_arm(table, 3),
        scores_by_arm(table, 3, height="said"),
        scores_by_arm(table, 2, height="said"),
    ]
    shown = [
        {arm: mean_interval(by_arm[arm] - by_arm["self"])[2] < 0 for arm in by_arm}
        for by_arm in scores
    ]
    rows = [line.strip() for line in README.splitlines()]
    for arm, name in KINDS.items():
        means = [short(by_arm[arm].mean()) for by_arm in scores]
        cells = [f"**{m}**" if s[arm] else m for m, s in zip(means, shown, strict=True)]
        assert f"| {name} | {' | '.join(cells)} |" in rows


TUNED = {  # arms of the study of forgetting, in the README's words
    "frozen, self": "frozen | its own words",
    "lora-8, self": "LoRA of rank 8 | its own words",
    "lora-2, self": "LoRA of rank 2, one seed | its own words",
    "frozen, label": "frozen | bare labels",
    "lora-8, label": "LoRA of rank 8 | bare labels",
}


def test_the_readme_says_what_every_tuning_forgets_and_learns():
    table = load_table("forgetting", "laptop", ROOT / "figures" / "ablations")
    means = learned_and_forgotten(table)
    whole = means[means["share"] == 1].set_index(["arm", "measure"])

    def change(arm: str, measure: str) -> str:
        mean, low, high = whole.loc[(arm, measure), ["mean", "low", "high"]]
        if not high > low:  # one seed, or the same in each
            return f"{mean:+.0f}" if mean else "0"
        return f"{mean:+.0f} [{low:+.0f}, {high:+.0f}]"

    def learned(arm: str) -> str:
        mean, low, high = whole.loc[(arm, "learned"), ["mean", "low", "high"]]
        return short_interval(mean, low, high) if high > low else short(mean)

    rows = [line.strip() for line in README.splitlines()]
    for arm, name in TUNED.items():
        cells = change(arm, "forgotten"), change(arm, "by ear"), learned(arm)
        assert f"| {name} | {' | '.join(cells)} |" in rows
    alone = "LoRA of rank 2, one seed"
    assert [a for a, n in TUNED.items() if whole.loc[(a, "learned"), "seeds"] == 1] == [
        arm for arm, name in TUNED.items() if alone in name
    ]
    own = table[(table["arm"] == "lora-8, label") & (table["share"] == 1)]
    obeyed = own[own["attribute"] == "following"].pivot(
        index="seed", columns="condition", values="score"
    )
    assert len(obeyed) == 3
    assert (obeyed["text"] == obeyed["label"]).all() and (obeyed["audio"] == obeyed["label"]).all()


def test_the_readme_says_what_laptop_names_of_people():
    flat = " ".join(README.split())
    scores = {name: short(rung_3("laptop", name, height="said").accuracy) for name in ATTRIBUTES}
    named = "the scene ({scene}, chance .25), the manner ({manner}) and the rate ({rate})"
    assert named.format(**scores) in flat
    assert "gender ({gender}) and loudness ({loudness}) not".format(**scores) in flat
    ends = {}
    for name in ("scene", "loudness", "gender"):
        seeds = [rung_3(f"laptop{seed}", name).accuracy for seed in SEEDS]
        ends[name] = f"{short(min(seeds))} to {short(max(seeds))}"
    ranked = "accuracy of scene {scene}, loudness {loudness} and gender {gender} over three seeds"
    assert ranked.format(**ends) in flat
