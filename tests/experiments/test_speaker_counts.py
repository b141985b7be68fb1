"""Runs of few and many speakers, people or synthetic voices, meet the same people in the test."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from desta_lab.clips import HEAD, Corpus
from desta_lab.experiments import speaker_counts
from desta_lab.model import presets
from tests import tiny

ARMS = {"people": (2,), "synthetic": (2,)}
pytestmark = pytest.mark.weights


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lab") / "data"
    folder.mkdir()
    tiny.share_weights(folder)
    return folder


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.people(tmp_path_factory.mktemp("voices") / "people", 12)


@pytest.fixture(scope="module")
def table(root: Path, voices: Path) -> pd.DataFrame:
    """Two steps of training: nothing is learned, all is wired."""
    short = replace(presets.nano(), steps=2, checkpoint_every=2)
    how: dict = {"together": "language", "speakers": ARMS, "seeds": (0,)}
    return speaker_counts.compare_speakers(short, voices, root, clips_each=2, clips=16, **how)


def test_every_run_is_tested_on_the_same_people(table: pd.DataFrame) -> None:
    tested = {
        arm: (frozenset(rows["speaker"]), rows["clip"].nunique())
        for arm, rows in table.groupby(["kind", "speakers"])
    }
    assert set(tested) == {("people", 2), ("synthetic", 2)}
    assert len(set(tested.values())) == 1 and len(tested["people", 2][0]) == 4
    assert set(table["condition"]) == {"audio", "silence", "shuffled", "oracle"}
    assert set(table["step"]) == {0, 2}


def test_nobody_of_the_test_is_trained_on_and_genders_are_even(
    table: pd.DataFrame, root: Path
) -> None:
    corpora = [Corpus.read(path.parent) for path in sorted(root.glob(f"corpora/*/{HEAD}"))]
    made_of_people = [one for one in corpora if "voices" in one.recipe and "train" in one.splits]
    assert [len(one.splits["train"]) for one in made_of_people] == [2]
    clips = made_of_people[0].split("train")
    assert len(clips) == 4
    assert not {clip.speaker for clip in clips} & set(table["speaker"])
    assert {clip.attributes["gender"] for clip in clips} == {"female", "male"}


def test_more_speakers_than_there_are_is_refused(root: Path, voices: Path) -> None:
    with pytest.raises(ValueError, match="Speakers are people or synthetic, not 'women'"):
        speaker_counts.compare_speakers(presets.nano(), voices, root, speakers={"women": (2,)})
    arms = {"people": (40,)}
    with pytest.raises(ValueError, match=r"40 speakers \(people\) were asked for, and 6 are there"):
        speaker_counts.compare_speakers(
            presets.nano(), voices, root, together="language", speakers=arms, seeds=(0,)
        )


def test_the_summary_has_every_control_and_intervals_over_seeds(
    table: pd.DataFrame, tmp_path: Path
) -> None:
    both = pd.concat([table, table.assign(seed=1)])
    summary = speaker_counts.write_report(both, tmp_path, presets.nano())
    assert set(summary["condition"]) == {"audio", "silence", "shuffled", "oracle", "untrained"}
    assert (summary["seeds"] == 2).all() and summary["people"].eq(4).all()
    one = summary.query("kind == 'people' and speakers == 2 and task == 'ask_manner'")
    heard = table.query(
        "kind == 'people' and speakers == 2 and task == 'ask_manner' and step == 2"
        " and condition == 'audio'"
    )
    assert one.query("condition == 'audio'")["mean"].iloc[0] == heard["calibrated"].mean()
    assert {path.suffix for path in tmp_path.iterdir()} >= {".png", ".svg", ".csv", ".json", ".gz"}
    alone = speaker_counts.write_report(both[both["kind"] == "people"], tmp_path, presets.nano())
    assert set(alone["kind"]) == {"people"}


def test_the_most_people_are_compared_with_the_most_voices_over_the_seeds() -> None:
    rows = [
        {
            "kind": kind,
            "speakers": n,
            "condition": "audio",
            "attribute": name,
            "seed": seed,
            "accuracy": value + 0.01 * seed,
        }
        for kind, n, name, value in [
            ("people", 2, "rate", 0.1),
            ("people", 12, "rate", 0.8),
            ("people", 12, "scene", 0.5),
            ("synthetic", 40, "rate", 0.6),
            ("synthetic", 40, "scene", 0.9),
        ]
        for seed in range(3)
    ]
    compared = speaker_counts.compare_kinds(pd.DataFrame(rows)).set_index("attribute")
    assert compared["difference"].round(6).to_dict() == {"rate": 0.2, "scene": -0.4}
    assert (compared["low"] <= compared["difference"]).all()
