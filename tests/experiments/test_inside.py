"""The analysis, end to end at `nano`: its instruments on a real run, each claim beside its
control.
"""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

import desta_lab
from desta_lab import audio
from desta_lab.analysis import attribution, evidence, geometry
from desta_lab.course import finished
from desta_lab.experiments.experiment import Experiment
from desta_lab.experiments.inside import Inside
from desta_lab.experiments.inside_figures import state_features, state_listening
from desta_lab.experiments.inside_tables import TABLES, summarise_tables
from desta_lab.model import presets
from desta_lab.training import checkpoints
from tests import tiny

pytestmark = pytest.mark.weights

# clips and draws enough for each sentence below
CLIPS = {"validation": 48, "test": 96}
SMALL = {
    "traced": 3,
    "explained": 3,
    "checked": 2,
    "random orders": 2,
    "pairs": 24,
    "calibrating": 16,
    "random": 3,
    "heads": 50,
    "checkpoints": 2,
    "training": 200,
    "steered": 24,
    "knocked": (0.25,),
}


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    """The finished run that ships, looked into at its first and last checkpoint (it has no other)
    with fewer draws; no table ships for these sizes, so each is computed.
    """
    root = tiny.data_folder(tmp_path_factory.mktemp("data"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DESTA_LAB_DATA", str(root))
        patch.setattr(geometry, "PERMUTATIONS", 40)
        patch.setattr(geometry, "HALF_SAMPLES", 40)
        experiment = Experiment(presets.nano())
        finished.restore(experiment)
        out = tmp_path_factory.mktemp("inside")
        yield Inside.from_experiment(experiment, clips=CLIPS, sizes=SMALL, out=out)


@pytest.fixture(scope="module")
def tables(inside: Inside) -> dict[str, pd.DataFrame]:
    return inside.run()


def test_every_table_has_rows_and_every_figure_is_saved_with_its_table(
    inside: Inside, tables: dict
) -> None:
    assert set(tables) == set(TABLES)
    assert all(len(table) for table in tables.values())
    pictures = {path.stem for path in inside.out.glob("*.png")}
    assert len(pictures) == 18
    assert pictures == {path.stem for path in inside.out.glob("*.csv")}


def test_what_the_oracle_reads_is_in_the_key(inside: Inside, monkeypatch) -> None:
    """A label run is the same run under other descriptions; tables that read them are not."""
    keys = []
    monkeypatch.setattr(checkpoints, "load_checkpoint", lambda *given: None)  # the last is not here
    for describe in (None, lambda a: f"Hear {a['scene']}."):
        job = Experiment(presets.nano(), describe=describe)
        job.llm = inside.llm
        look = Inside.from_experiment(job, "label", clips=CLIPS, sizes=SMALL)
        keys.append((look._steps[look.last], look.provenance("lens").key))
    (run, one), (same, other) = keys
    assert run == same and one != other


def test_what_can_be_read_is_not_yet_answered(tables: dict) -> None:
    """Before training every attribute can be read from Whisper, and no answer has it."""
    found = summarise_tables(tables).set_index("attribute")
    assert (found["best encoder layer"] - found["chance"]).min() > 0.25
    assert (found["answers, untrained"] - found["chance"]).abs().max() < 0.25
    assert ((found["answers"] - found["chance"]) > 0.25).sum() >= 4


def test_random_labels_cannot_be_read_anywhere(tables: dict) -> None:
    random = tables["probes"].query("kind == 'random labels'")
    assert (random["accuracy"] - random["chance"]).abs().mean() < 0.05


def test_the_answer_comes_late_and_only_with_the_clip(tables: dict) -> None:
    """Logit lens: at the last layer the clip decides, and another speaker's clip does not."""
    lens = tables["lens"].assign(above=lambda t: t["accuracy"] - t["chance"])
    mean = lens.groupby(["condition", "layer"])["above"].mean()
    last = lens["layer"].max()
    assert mean["audio", last] > max(0.3, mean["audio", 0] + 0.05)
    assert mean["oracle", last] > 0.4
    assert abs(mean["shuffled", last]) < 0.12 and abs(mean["untrained", last]) < 0.12


@pytest.mark.slow
def test_windows_that_matter_lie_where_the_scene_sounds(inside: Inside) -> None:
    """Shapley values of windows, for as many clips as the analysis itself explains, in fewer
    orders.
    """
    experiment = Experiment(presets.nano())
    clips = experiment.clips("test")[:16]
    waves = [audio.read_audio(experiment.corpus.path(clip)) for clip in clips]
    scenes = [clip.attributes["scene"] for clip in clips]
    cases = attribution.window_cases(inside.llm, inside.task("scene"), scenes, waves)
    found = attribution.attribute("shapley", cases, samples=2).values
    seconds, values = inside.llm.encoder.seconds, found.double().numpy()
    scores = evidence.score_profiles(values, clips, "scene", seconds, "shapley, windows")
    mass = evidence.summarise_scores(scores).query("null == 'own' and measure == 'mass'")
    assert mass["gain_low"].item() > 0


def test_all_queries_patched_move_the_whole_answer_and_no_single_one_more(tables: dict) -> None:
    patched = tables["patching"].set_index(["attribute", "query"])["moved"]
    assert patched.xs(-1, level="query").sub(1).abs().max() < 1e-6


def test_erasing_an_attribute_hurts_it_more_than_a_random_direction(tables: dict) -> None:
    own = (
        tables["erasure"]
        .query("erased == asked")
        .pivot(index="asked", columns="kind", values="accuracy")
    )
    assert (own["random direction"] - own["erased"]).mean() > 0.1


def test_features_stand_for_values_and_heads_that_listen_carry_the_answer(tables: dict) -> None:
    features = tables["sparse_features"].set_index("site")
    assert features["explained"].min() > 0.7
    assert (features["purity"] > features["null"]).groupby("site").mean().min() > 0.1
    assert "beyond every random direction" in state_features(tables["sparse_features"])
    heads = tables["listening_heads"].query("asked == 'all' and knocked > 0").set_index("kind")
    assert heads["change"]["listening heads"] < heads["change"]["random heads"] - 0.02
    added = tables["audio_direction"].query("asked == 'all' and best").set_index("kind")
    assert added["change"]["audio minus silence"] > added["change"]["another clip's"] + 0.1
    sentence = state_listening(tables["listening_heads"], tables["audio_direction"])
    assert sentence.startswith("Without the 6 heads") and " × " in sentence


def test_a_second_look_reads_the_tables(inside: Inside, tables: dict) -> None:
    def read_times() -> dict[Path, int]:
        folders = [inside.provenance(name).folder(inside.root) for name in TABLES]
        files = [path for folder in folders for path in folder.iterdir()]
        return {path: path.stat().st_mtime_ns for path in files}

    before = read_times()
    experiment = Experiment(presets.nano())
    again = Inside.from_experiment(experiment, clips=CLIPS, sizes=SMALL, out=inside.out)
    for name, table in tables.items():
        pd.testing.assert_frame_equal(again.table(name), table)
    assert read_times() == before


def test_the_connector_stands_at_its_last_step_afterwards(inside: Inside, tables: dict) -> None:
    from desta_lab.training import checkpoints

    before = {name: tensor.clone() for name, tensor in inside.llm.connector.state_dict().items()}
    folder = Experiment(presets.nano()).run_folder("self")
    checkpoints.load_checkpoint(folder, inside.llm, inside.last)
    assert all(
        before[name].equal(tensor) for name, tensor in inside.llm.connector.state_dict().items()
    )


def test_an_unknown_table_is_named_with_those_there_are(inside: Inside) -> None:
    with pytest.raises(ValueError, match="no table 'nothing'; there are probes"):
        inside.table("nothing")


def code_of(page: str) -> list[str]:
    """The Python blocks of a page."""
    text = (Path(__file__).resolve().parents[2] / page).read_text(encoding="utf-8")
    return [part.split("```")[0] for part in text.split("```python\n")[1:]]


def test_the_code_of_the_readme_and_of_the_analysis_page_runs(
    inside: Inside, tables: dict, capsys: pytest.CaptureFixture
) -> None:
    _, *blocks = code_of("docs/analysis.md")  # the first is run in test_inside_own.py
    assert code_of("README.md") == blocks[:1]
    names: dict = {}
    for block in blocks:
        exec(block, names)
    printed = capsys.readouterr().out
    assert "audio      0" in printed and "torch.Size([8, 19, 192])" in printed
    assert float(printed.split("torch.Size([8, 19, 192])\n")[1].split("(")[1].split(")")[0]) > 0
    panel = desta_lab.MapPanel(names["experiment"], names["look"].table("points"))
    panel.play(inside.clips[0].id)
    assert inside.clips[0].id in panel.still()
    assert "data:image/png" in desta_lab.FeaturePanel(inside).still()
