"""Our numbers are those of the published code."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from desta_lab import cli
from desta_lab.analysis import interventions
from desta_lab.published import parity
from tests import tiny

# One run of the published code (transformers 4.54.1, float32, eager) on tiny random weights.
TINY = Path(__file__).parents[1] / "data" / "desta25_tiny"


@pytest.fixture(scope="module")
def table():
    return parity.compare(TINY)


@pytest.mark.parametrize("quantity", ["audio_embeddings", "logits", "loss"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_our_numbers_are_those_of_the_published_code(table, quantity, attention):
    rows = table[(table["quantity"] == quantity) & (table["attention"] == attention)]
    assert set(rows["precision"]) == {"float32", "float64"}
    assert (rows["difference"] <= rows["limit"]).all(), rows
    assert set(rows["limit"]) == {1e-5, 1e-10}


def test_float64_is_really_float64():
    case = parity.ParityCase.read(TINY)
    assert all(
        value.dtype == torch.float64
        for value in parity.compute_case(case, dtype=torch.float64).values()
    )


def test_a_trained_tensor_that_differs_is_found_and_the_command_says_so(tmp_path, capsys):
    folder = tmp_path / "case"
    shutil.copytree(TINY, folder)
    assert cli.main(["parity", str(folder)]) == 0
    tensors = load_file(folder / "connector.safetensors")
    tensors["perception.connector.proj.1.bias"] += 1e-4
    save_file(tensors, folder / "connector.safetensors")
    assert cli.main(["parity", str(folder)]) == 1
    assert "NOT THE SAME" in capsys.readouterr().out


def test_a_case_can_be_asked_a_question_whose_tokens_are_bytes():
    llm = parity.ParityCase.read(TINY).build_system("sdpa", torch.float32)
    waves, words = [tiny.wave(seed) for seed in (0, 1)], ["hello", "there"]
    plain = llm.run(waves, "Who é?", sites=["audio_embeddings"], transcripts=words)
    said = "".join(plain.tokens[1])
    assert "<start_audio>[audio 0]" in said and "[audio 5]there<end_audio>\nWho" in said
    assert said.endswith("<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n")
    edits = {"audio_embeddings": interventions.set_to(plain["audio_embeddings"].flip(0))}
    moved = llm.run(waves, "Who é?", sites=[], edits=edits, transcripts=words[::-1])
    torch.testing.assert_close(moved.logits, plain.logits.flip(0))  # nothing of its own is left


def test_a_case_without_a_file_says_which(tmp_path, capsys):
    shutil.copytree(TINY, tmp_path / "case")
    (tmp_path / "case" / "llm.safetensors").unlink()
    assert cli.main(["parity", str(tmp_path / "case")]) == 1
    assert "no llm.safetensors here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("desta25.json", "{}"),
        ("desta25.json", '{"tapped_layers": 1, "prompt_size": 2}'),
        ("case.safetensors", "x"),
        ("llm.safetensors", "x"),
        ("whisper/config.json", "[]"),
    ],
)
def test_a_damaged_file_of_a_case_is_one_sentence(tmp_path, capsys, file, content):
    shutil.copytree(TINY, tmp_path / "case")
    (tmp_path / "case" / file).write_text(content)
    assert cli.main(["parity", str(tmp_path / "case")]) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert "WeightsError: " in told and "case" in told and "copy" in told
