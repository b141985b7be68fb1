"""The finished run that ships stands in for one's own, and only where it is the same run."""

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from desta_lab.course import finished
from desta_lab.experiments.experiment import Experiment
from desta_lab.experiments.inside import Inside
from desta_lab.experiments.inside_tables import TABLES
from desta_lab.model import build, presets
from desta_lab.model.weights import models_dir
from desta_lab.training import checkpoints

pytestmark = pytest.mark.weights


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder as a fresh clone has it, but for the corpus and the weights, which take time."""
    folder = tmp_path_factory.mktemp("data")
    Experiment(presets.nano()).corpus  # noqa: B018 (rendered here, if it was not)
    for name in ("models", "corpora"):
        (folder / name).symlink_to(models_dir().parent / name)
    build.build_audio_llm(presets.nano())  # fetched here, if they were not
    return folder


@pytest.fixture(scope="module")
def lab(root: Path) -> Experiment:
    lab = Experiment(presets.nano(), root=root)
    said = finished.restore(lab)
    assert said.endswith("Nothing needs training."), said
    return lab


def test_the_archive_holds_plain_relative_names_and_no_pickle() -> None:
    with zipfile.ZipFile(finished.ARCHIVE) as archive:
        assert archive.testzip() is None
        for name in archive.namelist():
            assert not Path(name).is_absolute() and ".." not in Path(name).parts
            assert Path(name).suffix in {".json", ".jsonl", ".csv", ".safetensors"}


def test_a_restored_run_needs_neither_training_nor_scoring(lab: Experiment) -> None:
    table = lab.score_table()
    assert not any(stage.startswith("train") for stage in lab.seconds)
    assert set(table["run"]) == {"self", "label"} and set(table["condition"]) >= {
        "audio",
        "oracle",
        "shuffled",
        "silence",
    }


def test_its_first_and_last_rung_can_be_climbed(lab: Experiment) -> None:
    for step in (0, lab.train_config.steps):
        checkpoints.load_checkpoint(lab.run_folder("self"), lab.llm, step)
    with pytest.raises(checkpoints.CheckpointError, match="train again"):
        checkpoints.load_checkpoint(lab.run_folder("self"), lab.llm, 64)


def test_every_table_of_the_analysis_is_there(lab: Experiment) -> None:
    look = Inside(lab)
    assert all(look.provenance(name).folder(lab.root).is_dir() for name in TABLES)


def test_a_table_that_is_gone_comes_back_with_the_next_restore(lab: Experiment) -> None:
    folder = Inside(lab).provenance("answers").folder(lab.root)
    before = (folder / "table.csv").read_bytes()
    shutil.rmtree(folder)
    finished.restore(Experiment(lab.preset, root=lab.root))
    assert (folder / "table.csv").read_bytes() == before


def test_restoring_again_changes_nothing(lab: Experiment) -> None:
    files = {
        path: path.stat().st_mtime_ns for path in (lab.root / "runs").rglob("*") if path.is_file()
    }
    finished.restore(Experiment(lab.preset, root=lab.root))
    assert files == {
        path: path.stat().st_mtime_ns for path in (lab.root / "runs").rglob("*") if path.is_file()
    }


def test_a_lab_of_other_steps_or_seed_is_told_what_it_costs(root: Path) -> None:
    other = Experiment(replace(presets.nano(), steps=20), root=root)
    assert "lab.run() makes it" in finished.restore(other)
    assert not (other.run_folder("self") / "checkpoints").exists()


def test_a_machine_of_another_precision_gets_the_same_run(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Experiment(presets.nano(), root=root)
    own = other.run_config
    monkeypatch.setattr(
        other, "config", lambda kind: {**own(kind), "dtype": "torch.float16", "device": "cuda"}
    )
    assert "Nothing needs training" in finished.restore(other)
    made = json.loads((other.run_folder("self") / "checkpoints" / "checkpoints.json").read_text())
    assert made[-1]["step"] == other.train_config.steps


def test_where_nothing_was_run_the_cost_is_told_before_any_model_is_read(tmp_path: Path) -> None:
    lab = Experiment(presets.cpu(), root=tmp_path)
    assert "about 18 minutes" in finished.restore(lab)
    assert "llm" not in vars(lab) and not any(tmp_path.iterdir())
