"""The finished run that ships stands in for one's own, and only where it is the same run."""

import json
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from desta_lab.course import finished
from desta_lab.experiments.experiment import Experiment
from desta_lab.experiments.inside import Inside
from desta_lab.experiments.inside_tables import TABLES
from desta_lab.model import presets
from desta_lab.training import checkpoints
from tests import tiny

pytestmark = pytest.mark.weights


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.data_folder(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def experiment(root: Path) -> Experiment:
    experiment = Experiment(presets.nano(), root=root)
    sentence = finished.restore(experiment)
    assert sentence.endswith("Nothing needs training."), sentence
    return experiment


def test_the_archive_holds_plain_relative_names_and_no_pickle() -> None:
    with zipfile.ZipFile(finished.ARCHIVE) as archive:
        assert archive.testzip() is None
        for name in archive.namelist():
            assert not Path(name).is_absolute() and ".." not in Path(name).parts
            assert Path(name).suffix in {".json", ".jsonl", ".csv", ".safetensors"}


def test_a_restored_run_needs_neither_training_nor_scoring(experiment: Experiment) -> None:
    table = experiment.score_table()
    assert not any(stage.startswith("train") for stage in experiment.costs.seconds)
    assert set(table["run"]) == {"self", "label"} and set(table["condition"]) >= {
        "audio",
        "oracle",
        "shuffled",
        "silence",
    }


def test_its_first_and_last_checkpoint_load(experiment: Experiment) -> None:
    for step in (0, experiment.train_config.steps):
        checkpoints.load_checkpoint(experiment.run_folder("self"), experiment.llm, step)
    with pytest.raises(checkpoints.CheckpointError, match="train again"):
        checkpoints.load_checkpoint(experiment.run_folder("self"), experiment.llm, 64)


def test_every_table_of_the_analysis_is_there(experiment: Experiment) -> None:
    look = Inside.from_experiment(experiment)
    assert all(look.provenance(name).folder(experiment.root).is_dir() for name in TABLES)


ON_A_CLOSED_DISK = """
import sys
from pathlib import Path
from desta_lab import cli
from desta_lab.course.setup import setup
from desta_lab.model.audio_llm import AudioLLM
from tests.faults import Fault

root, run, clip, out = map(Path, sys.argv[1:])
Fault("read-only", root).install()
assert cli.main(["ask", str(clip), "What is heard?", "--run", str(run)]) == 0
assert AudioLLM.from_run(run).queries
assert setup("05", root=root).experiment.run_folder("self") == run
assert cli.main(["inside", "--preset", "nano", "--out", str(out)]) == 0
"""


def test_where_data_may_only_be_read_a_finished_run_opens_and_is_drawn_elsewhere(
    experiment: Experiment, tmp_path: Path
) -> None:
    clip, run = experiment.corpus.path(experiment.corpus.clips[0]), experiment.run_folder("self")
    given = [str(experiment.root), str(run), str(clip), str(tmp_path / "elsewhere")]
    done = subprocess.run(
        [sys.executable, "-c", ON_A_CLOSED_DISK, *given],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"DESTA_LAB_DATA": str(experiment.root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "with the clip" in done.stdout and "Nothing needs training." in done.stdout
    assert len(list((tmp_path / "elsewhere").glob("*.png"))) == 16


def test_a_table_that_is_gone_comes_back_with_the_next_restore(experiment: Experiment) -> None:
    folder = Inside.from_experiment(experiment).provenance("answers").folder(experiment.root)
    before = (folder / "table.csv").read_bytes()
    shutil.rmtree(folder)
    finished.restore(Experiment(experiment.preset, root=experiment.root))
    assert (folder / "table.csv").read_bytes() == before


def test_restoring_again_changes_nothing(experiment: Experiment) -> None:
    files = {
        path: path.stat().st_mtime_ns
        for path in (experiment.root / "runs").rglob("*")
        if path.is_file()
    }
    finished.restore(Experiment(experiment.preset, root=experiment.root))
    assert files == {
        path: path.stat().st_mtime_ns
        for path in (experiment.root / "runs").rglob("*")
        if path.is_file()
    }


def test_an_experiment_of_other_steps_is_told_what_it_costs(root: Path) -> None:
    other = Experiment(replace(presets.nano(), steps=20), root=root)
    assert "run_quickstart(experiment) makes it" in finished.restore(other)
    assert not (other.run_folder("self") / "checkpoints").exists()


def test_a_machine_of_another_precision_gets_the_same_run(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Experiment(presets.nano(), root=root)
    own = other.run_config
    monkeypatch.setattr(
        other, "run_config", lambda kind: {**own(kind), "dtype": "torch.float16", "device": "cuda"}
    )
    assert "Nothing needs training" in finished.restore(other)
    made = json.loads((other.run_folder("self") / "checkpoints" / "checkpoints.json").read_text())
    assert made[-1]["step"] == other.train_config.steps


def test_where_nothing_was_run_the_cost_is_told_before_any_model_is_read(tmp_path: Path) -> None:
    experiment = Experiment(presets.cpu(), root=tmp_path)
    assert "about 18 minutes" in finished.restore(experiment)
    assert "llm" not in vars(experiment) and not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["../out.json", "/tmp/out.json", "runs/../../x", "runs\\..\\x", "C:x"]
)
def test_an_archive_that_leads_out_of_its_folder_is_refused(name: str, tmp_path: Path) -> None:
    archive = tmp_path / "odd.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(name, "{}")
    experiment = Experiment(presets.nano(), root=tmp_path / "data")
    with pytest.raises(ValueError, match="leads out of the folder"):
        finished.restore(experiment, archive)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["odd.zip"]


def test_an_archive_with_a_link_is_refused(tmp_path: Path) -> None:
    archive, entry = tmp_path / "odd.zip", zipfile.ZipInfo("runs/self/config.json")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(entry, "/etc/passwd")
    with pytest.raises(ValueError, match="is a link"):
        finished.restore(Experiment(presets.nano(), root=tmp_path), archive)
