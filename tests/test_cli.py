"""Commands speak in sentences, say what they cost, and fail without a traceback."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile

from desta_lab import audio, cli, doctor
from desta_lab.audio import RATE
from desta_lab.model import presets
from desta_lab.views.progress import progress_reporter


def test_doctor_names_every_check_and_its_remedy(capsys, monkeypatch):
    assert cli.main(["doctor"]) in (0, 1)
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith(("OK  ", "FAIL")) for line in lines)
    for part in ("python", "packages", "torch", "weights", "disk", "preset"):
        assert any(part in line for line in lines), part


def test_doctor_fails_on_a_version_out_of_range(monkeypatch):
    monkeypatch.setattr(doctor.importlib.metadata, "version", lambda name: "0.0.1")
    rows = {name: (ok, finding) for name, ok, finding in doctor.check_machine()}
    ok, finding = rows["packages"]
    assert not ok and "outside" in finding and "pip install" in finding


def test_the_nano_preset_needs_no_download_of_its_backbone():
    assert "nano from the model hub" not in doctor.describe_cost(presets.nano())


def test_the_cost_is_said_or_said_to_be_unknown():
    assert "minutes on two CPU cores" in doctor.describe_cost(presets.cpu())
    assert "not measured" in doctor.describe_cost(presets.t4())


def test_an_unknown_preset_is_one_sentence(capsys):
    assert cli.main(["quickstart", "--preset", "mega"]) == 1
    assert capsys.readouterr().err.strip() == (
        "ValueError: There is no preset 'mega'; take one of nano, cpu, t4, workstation, "
        "desta25, desta2."
    )


def test_ask_without_a_run_says_how_to_make_one(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setenv("DESTA_LAB_DATA", str(tmp_path))
    wave = np.sin(np.arange(RATE) / 10)
    soundfile.write(tmp_path / "a.wav", wave, RATE)
    assert cli.main(["ask", str(tmp_path / "a.wav"), "What is it?"]) == 1
    assert "python -m desta_lab quickstart" in capsys.readouterr().err


@pytest.mark.filterwarnings("default")
def test_a_warning_of_this_package_is_one_line(capsys, monkeypatch):
    def warn(args):
        warnings.warn("Two clips are long.", audio.DataWarning, stacklevel=1)
        return 0

    monkeypatch.setitem(cli.COMMANDS, "doctor", cli.Command("", (), warn))
    assert cli.main(["doctor"]) == 0
    assert capsys.readouterr().err == "Note: Two clips are long.\n"


def test_progress_without_a_terminal_is_a_line_at_a_time():
    out = io.StringIO()
    tell = progress_reporter(out)("features")
    tell("Downloading …")
    for done in range(1, 4):
        tell(done, 3, {"loss": 0.5})
    assert out.getvalue().splitlines()[0] == "Downloading …"
    assert out.getvalue().splitlines()[-1].startswith("features: 3/3, loss 0.500")
    assert (
        len(out.getvalue().splitlines()) == 2
    )  # nothing in between: less than five seconds went by
