"""The finished run that ships stands in for one's own, and only where it is the same run."""

import json
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from desta_lab import cli
from desta_lab.course import finished
from desta_lab.experiments.experiment import Experiment
from desta_lab.experiments.inside import Inside
from desta_lab.experiments.inside_tables import TABLES
from desta_lab.model import build, presets, weights
from desta_lab.model.audio_llm import ProvenanceError, ProvenanceWarning, read_connector_provenance
from desta_lab.model.nano import LIMITS
from desta_lab.model.runs import checkpoint_path, find_checkpoint, list_checkpoints
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


@pytest.mark.parametrize("preset", ["nano", "laptop"])
def test_an_archive_holds_plain_relative_names_and_no_pickle(preset: str) -> None:
    with zipfile.ZipFile(finished.shipped_archive(preset)) as archive:
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


def test_where_no_run_of_ones_own_is_the_one_that_ships_answers_and_says_which_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = Experiment(presets.nano(), root=tiny.data_folder(tmp_path)).corpus
    monkeypatch.setenv("DESTA_LAB_DATA", str(tmp_path))
    monkeypatch.setattr(weights, "is_installed", lambda *place: place[0] == presets.NANO)
    line = ["ask", str(corpus.path(corpus.clips[0])), "What is the gender of the speaker?"]
    assert cli.main(line) == 0
    said = capsys.readouterr().out
    assert "the nano run that ships answers" in said
    assert "(preset nano, corpus spoken, step 300)" in said and LIMITS in said
    assert not (tmp_path / "runs").exists()


def test_an_archive_answers_as_it_is_and_nothing_of_it_stays(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted((experiment.root / "runs").rglob("*"))
    monkeypatch.setenv("DESTA_LAB_DATA", str(experiment.root))
    clip, question = experiment.corpus.path(experiment.corpus.clips[0]), "Where is the speaker?"
    answers = []
    for run in (experiment.run_folder("self"), finished.ARCHIVE):
        assert cli.main(["ask", str(clip), question, "--run", str(run)]) == 0
        said = capsys.readouterr().out.splitlines()
        answers.append([line for line in said if not line.startswith("run ")])
        assert "(preset nano, corpus spoken, step 300)" in said[0]
    assert answers[0] == answers[1]
    assert sorted((experiment.root / "runs").rglob("*")) == before


def test_what_is_said_of_an_archive_opened_names_it(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = experiment.root / "models"
    monkeypatch.setattr(weights, "hash_folder", lambda folder: "0" * 64)
    with pytest.warns(ProvenanceWarning, match=r"nano\.zip/runs/.*has other weights here") as told:
        finished.open_last(finished.ARCHIVE, models)
    assert {str(one.message).split(":")[0] for one in told} == {
        f"{finished.ARCHIVE}/runs/self/checkpoints/000300.safetensors"
    }

    def refuse(*place: object, **how: object) -> Path:
        raise weights.WeightsError("No hub here.")

    monkeypatch.setattr(weights, "find_weights", refuse)
    with pytest.raises(ProvenanceError, match=r"nano\.zip/runs/.*is not here"):
        finished.open_last(finished.ARCHIVE, models)


def test_without_a_run_of_ones_own_that_of_laptop_answers_where_its_backbone_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DESTA_LAB_DATA", str(tmp_path))
    monkeypatch.setattr(
        weights, "is_installed", lambda *place: place[0] == presets.laptop().backbone
    )
    assert cli._find_run() == finished.shipped_archive("laptop")
    assert "the laptop run that ships answers" in capsys.readouterr().out


@torch.no_grad()
def test_a_rounded_connector_gives_the_same_where_bf16_multiplies(experiment: Experiment) -> None:
    connector = build.build_connector(
        experiment.preset.connector, experiment.llm.encoder, experiment.llm.backbone, seed=1
    )
    states = torch.randn(len(experiment.llm.encoder.taps), 2, 200, experiment.llm.encoder.width)
    outputs = []
    for _ in range(2):
        for half in (True, False):
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                outputs.append(connector(states))
        finished.round_weights(connector)
    half, whole, half_after, whole_after = outputs
    assert torch.equal(half, half_after)
    assert not torch.equal(whole, whole_after)


def test_the_last_checkpoint_is_rounded_once(experiment: Experiment, tmp_path: Path) -> None:
    job = at_root(experiment, tmp_path)
    finished.restore(job)
    finished.round_checkpoint(job)
    once = list_checkpoints(job.run_folder("self"))
    finished.round_checkpoint(job)
    assert list_checkpoints(job.run_folder("self")) == once
    path = checkpoint_path(job.run_folder("self"), job.train_config.steps)
    weights_of = {name: t for name, t in load_file(path).items() if name.endswith(".weight")}
    linear = [t for t in weights_of.values() if t.dim() == 2]
    assert linear and all(torch.equal(t, t.to(torch.bfloat16).float()) for t in linear)


def test_the_run_of_laptop_is_whole_and_was_judged(tmp_path: Path) -> None:
    with zipfile.ZipFile(finished.shipped_archive("laptop")) as archive:
        archive.extractall(tmp_path)
    run, preset = tmp_path / "runs" / "self", presets.laptop()
    path = find_checkpoint(run, preset.steps)
    about = read_connector_provenance(path)
    assert (about["encoder"], about["backbone"]) == (preset.encoder, preset.backbone)
    assert len(checkpoints.read_records(run, preset.steps)) == preset.steps
    verdict = json.loads((run / "verdict.json").read_text(encoding="utf-8"))
    assert verdict["checkpoint"] == list_checkpoints(run)[-1]["sha256"]
    kinds = {folder.name for folder in (tmp_path / "results").iterdir()}
    assert kinds == {"oracles", "scores"}


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
    assert len(list((tmp_path / "elsewhere").glob("*.png"))) == 18


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


def test_where_nothing_was_run_the_cost_is_told_before_any_model_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "pick_dtype", lambda device: torch.bfloat16)
    experiment = Experiment(presets.cpu(), root=tmp_path)
    assert "about 23 minutes" in finished.restore(experiment)
    assert "llm" not in vars(experiment) and not any(tmp_path.iterdir())


# ---- an archive that is not what was packed ----


def odd_archive(path: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """The runs, the anchor and one result of the archive that ships, with a change."""
    with zipfile.ZipFile(finished.ARCHIVE) as shipped:
        kept = [name for name in shipped.namelist() if "/oracles/" in name or "runs/" in name]
        members = {name: shipped.read(name) for name in [*kept, finished.ANCHOR]}
    change(members)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def at_root(experiment: Experiment, root: Path) -> Experiment:
    """The same experiment with the same models, and nothing else of its own yet."""
    other = Experiment(presets.nano(), root=root)
    other.__dict__ |= {"llm": experiment.llm, "corpus": experiment.corpus}
    return other


@pytest.mark.parametrize(
    "name",
    [
        "../out.json",
        "/tmp/out.json",
        "runs/../../x",
        "runs\\..\\x",
        "C:x",
        "runs/self/evil.sh",
        "runs/self/./config.json",
        "runs/self/state/state.safetensors",
        "runs/self/checkpoints/",
        "Runs/Self/config.json",
        "results/scores/0123456789abcdef/../x.csv",
    ],
)
def test_an_archive_with_any_other_file_is_refused(name: str, tmp_path: Path) -> None:
    archive = tmp_path / "odd.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(name, "{}")
    experiment = Experiment(presets.nano(), root=tmp_path / "data")
    with pytest.raises(finished.ArchiveError, match="is no file of a finished run; get it again"):
        finished.restore(experiment, archive)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["odd.zip"]


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO])
def test_an_archive_with_a_link_is_refused(kind: int, tmp_path: Path) -> None:
    archive, entry = tmp_path / "odd.zip", zipfile.ZipInfo("runs/self/config.json")
    entry.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(entry, "/etc/passwd")
    with pytest.raises(finished.ArchiveError, match="is a link"):
        finished.restore(Experiment(presets.nano(), root=tmp_path), archive)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04", None, "folder", "pipe"])
def test_what_is_no_archive_is_refused_and_does_not_hang(content: object, tmp_path: Path) -> None:
    archive = tmp_path / "odd.zip"
    if isinstance(content, bytes):
        archive.write_bytes(content)
    elif content is None:
        archive.write_bytes(finished.ARCHIVE.read_bytes()[:-30])
    else:
        (os.mkfifo if content == "pipe" else os.mkdir)(archive)
    with pytest.raises(finished.ArchiveError, match=r"odd\.zip: .*; get it again from where"):
        finished.restore(Experiment(presets.nano(), root=tmp_path / "data"), archive)


def test_an_archive_that_holds_a_file_twice_or_too_much_is_refused(tmp_path: Path) -> None:
    archive = odd_archive(tmp_path / "odd.zip", lambda members: None)
    job = Experiment(presets.nano(), root=tmp_path / "data")
    with zipfile.ZipFile(archive, "a") as file:
        with file.open("runs/self/checkpoints/000001.safetensors", "w", force_zip64=True) as member:
            member.write(b"x")
        file.infolist()[-1].file_size = finished.LARGEST  # as a bomb's own list has it
    with pytest.raises(finished.ArchiveError, match="it would unpack to more than 500,000,000"):
        finished.restore(job, archive)
    archive = odd_archive(tmp_path / "odd.zip", lambda members: None)
    with zipfile.ZipFile(archive, "a") as file, pytest.warns(UserWarning, match="Duplicate name"):
        file.writestr("runs/self/records.jsonl", "{}")
    with pytest.raises(finished.ArchiveError, match="a file is there twice"):
        finished.restore(job, archive)


LISTED, RECORDS, CONFIG = (
    f"runs/self/{name}" for name in (finished.LIST, finished.RECORDS, finished.CONFIG)
)
LAST = "runs/self/checkpoints/000300.safetensors"


def replace_with(name: str, content: bytes) -> Callable[[dict[str, bytes]], None]:
    return lambda members: members.update({name: content})


def swap_runs(name: str) -> Callable[[dict[str, bytes]], None]:
    return lambda members: members.update({name: members[name.replace("self", "label")]})


def edit_head(**values: object) -> Callable[[dict[str, bytes]], None]:
    def change(members: dict[str, bytes]) -> None:
        name = next(name for name in members if name.endswith("provenance.json"))
        head = json.loads(members[name])
        head["determined_by"] |= values
        members[name] = json.dumps(head).encode()

    return change


def cut_table(members: dict[str, bytes]) -> None:
    name = next(name for name in members if name.endswith("table.csv"))
    members[name] = members[name][:-9]


ODD = {
    "no config": (lambda members: members.pop(CONFIG), f"it has no '{CONFIG}'"),
    "no anchor": (lambda members: members.pop(finished.ANCHOR), "it has no 'anchor.safetensors'"),
    "a config of another type": (replace_with(CONFIG, b"[]"), "config.json: list, not an object"),
    "a config that is no JSON": (replace_with(CONFIG, b"["), "config.json: no JSON"),
    "an empty list": (replace_with(LISTED, b"[]"), "no readable list of checkpoints"),
    "the other run's list": (swap_runs(LISTED), "not what this run wrote there"),
    "the other run's records": (swap_runs(RECORDS), "line 1: not what this run wrote there"),
    "a verdict of another type": (replace_with("runs/self/verdict.json", b"[]"), "not an object"),
    "a changed checkpoint": (replace_with(LAST, b"x"), "is not what its list has"),
    "no checkpoint": (lambda members: members.pop(LAST), "it has no checkpoint of step 300"),
    "no anchor's tensors": (replace_with(finished.ANCHOR, b"x"), "not the anchor of this"),
    "a result of nothing": (edit_head(facts=[1]), "does not say what determines its result"),
    "a result of other facts": (edit_head(facts={"a": 1}), "its result was changed"),
    "a changed table": (cut_table, "not the result that was packed"),
}


@pytest.mark.parametrize("fault", ODD)
def test_an_archive_that_is_not_whole_is_refused(
    experiment: Experiment, tmp_path: Path, fault: str
) -> None:
    change, words = ODD[fault]
    archive = odd_archive(tmp_path / "odd.zip", change)
    job = at_root(experiment, tmp_path / "data")
    with pytest.raises(finished.ArchiveError, match=rf"odd\.zip: .*{words}.*; get it again"):
        finished.restore(job, archive)
    assert not list((tmp_path / "data").rglob("checkpoints.json")) or fault == "no anchor's tensors"


def test_a_restored_run_has_the_hash_of_its_records(experiment: Experiment) -> None:
    for kind in ("self", "label"):
        folder = experiment.run_folder(kind)
        records = checkpoints.read_records(folder)
        assert len(records) == experiment.train_config.steps
        listed = checkpoints.list_checkpoints(folder)
        assert listed[-1]["records"] == checkpoints.hash_records(records)
