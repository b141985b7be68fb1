"""The published systems: their names, their numbers, and files that go there and back."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from desta_lab import cli
from desta_lab.model import published
from desta_lab.model.audio_llm import PartsError
from desta_lab.model.connector import FrameStack, QFormer

# One run of the published code (transformers 4.54.1, float32, eager) on tiny random weights; see DESIGN.md, FACTS.md.
TINY = Path(__file__).parents[1] / "data" / "desta25_tiny"
ADAPTER = TINY / "connector.safetensors"


def connector(**how) -> QFormer:
    sizes = {"taps": 4, "d_enc": 64, "d_llm": 48, "queries": 6, "depth": 2, "heads": 4}
    return QFormer(**{**sizes, **how}).eval()


@pytest.fixture(scope="module")
def table():
    return published.parity(TINY)


@pytest.mark.parametrize("quantity", ["audio_embeddings", "logits", "loss"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_our_numbers_are_those_of_the_published_code(table, quantity, attention):
    rows = table[(table["quantity"] == quantity) & (table["attention"] == attention)]
    assert set(rows["precision"]) == {"float32", "float64"}
    assert (rows["difference"] <= rows["limit"]).all(), rows
    assert set(rows["limit"]) == {1e-5, 1e-10}


def test_float64_is_really_float64():
    case = published.Case.read(TINY)
    assert all(value.dtype == torch.float64 for value in published.computed(case, dtype=torch.float64).values())


def test_a_trained_tensor_that_differs_is_found_and_the_command_says_so(tmp_path, capsys):
    folder = tmp_path / "case"
    shutil.copytree(TINY, folder)
    assert cli.main(["parity", str(folder)]) == 0
    tensors = load_file(folder / "connector.safetensors")
    tensors["perception.connector.proj.1.bias"] += 1e-4
    save_file(tensors, folder / "connector.safetensors")
    assert cli.main(["parity", str(folder)]) == 1
    assert "NOT THE SAME" in capsys.readouterr().out


def test_a_case_without_a_file_says_which(tmp_path, capsys):
    shutil.copytree(TINY, tmp_path / "case")
    (tmp_path / "case" / "llm.safetensors").unlink()
    assert cli.main(["parity", str(tmp_path / "case")]) == 1
    assert "no llm.safetensors here" in capsys.readouterr().err


def test_an_adapter_goes_there_and_back_unchanged(tmp_path):
    own = connector()
    published.load_adapter(own, ADAPTER)
    published.save_adapter(own, tmp_path / "out.safetensors")
    theirs, ours = load_file(ADAPTER), load_file(tmp_path / "out.safetensors")
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)


@pytest.mark.parametrize("prefix", published.PREFIXES)
def test_the_adapter_of_desta2_has_other_prefixes_and_is_read_too(tmp_path, prefix):
    own, other = connector(), connector()
    published.save_adapter(own, tmp_path / "out.safetensors", prefix=prefix)
    published.load_adapter(other, tmp_path / "out.safetensors")
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in own.state_dict().items())


@pytest.mark.parametrize(
    "tensors, said",
    [
        ({"llama.lm_head.weight": torch.zeros(2)}, "no adapter of DeSTA2"),
        ({"perception.connector.layer_prompts.0": torch.zeros(1, 6, 64)}, "adapter of other sizes"),
        ({"perception.connector.layer_prompts.0": torch.zeros(1, 6, 64), "perception.connector.extra": torch.zeros(1)},
         "extra is no tensor of theirs"),
        ({"perception.connector.layer_prompts.0": torch.zeros(1, 6, 64), "whisper.x": torch.zeros(1)},
         "whisper.x is no tensor of theirs"),
    ],
)  # fmt: skip
def test_nothing_but_wrong_keys_never_loads_in_silence(tmp_path, tensors, said):
    save_file(tensors, tmp_path / "bad.safetensors")
    with pytest.raises(PartsError, match=said):
        published.load_adapter(connector(), tmp_path / "bad.safetensors")


def test_a_pickled_adapter_is_refused_with_the_way_out(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "qformer_connector.pth")
    with pytest.raises(PartsError, match="never read"):
        published.load_adapter(connector(), tmp_path / "qformer_connector.pth")


@pytest.mark.parametrize(
    "made, said",
    [
        (lambda: connector(width=32, post_norm=False, pool=2), "width.*pre-norm.*pooled"),
        (lambda: connector(anchor=torch.zeros(6, 48), scale=0.5), "an anchor, a scaled output"),
        (lambda: FrameStack(d_enc=64, d_llm=48, queries=6), "FrameStack is no Q-Former"),
    ],
)
def test_a_connector_of_another_form_is_not_exported(tmp_path, made, said):
    with pytest.raises(PartsError, match=said):
        published.save_adapter(made(), tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
