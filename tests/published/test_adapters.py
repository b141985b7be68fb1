"""Adapter files of the published systems go there and back, and nothing else loads."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from desta_lab.model.audio_llm import ProvenanceError
from desta_lab.model.connector import FrameStack
from desta_lab.published import adapters
from tests.published.llama import connector

# One run of the published code (transformers 4.54.1, float32, eager) on tiny random weights.
TINY = Path(__file__).parents[1] / "data" / "desta25_tiny"
ADAPTER = TINY / "connector.safetensors"


def test_an_adapter_goes_there_and_back_unchanged(tmp_path):
    own = connector()
    adapters.load_adapter(own, ADAPTER)
    adapters.save_adapter(own, tmp_path / "out.safetensors")
    theirs, ours = load_file(ADAPTER), load_file(tmp_path / "out.safetensors")
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)


@pytest.mark.parametrize("prefix", adapters.PREFIXES)
def test_the_adapter_of_desta2_has_other_prefixes_and_is_read_too(tmp_path, prefix):
    own, other = connector(), connector()
    adapters.save_adapter(own, tmp_path / "out.safetensors", prefix=prefix)
    adapters.load_adapter(other, tmp_path / "out.safetensors")
    assert all(
        torch.equal(value, other.state_dict()[name]) for name, value in own.state_dict().items()
    )


@pytest.mark.parametrize(
    "tensors, said",
    [
        ({"llama.lm_head.weight": torch.zeros(2)}, "no adapter of DeSTA2"),
        ({"perception.connector.layer_prompts.0": torch.zeros(1, 6, 64)}, "adapter of other sizes"),
        (
            {
                "perception.connector.layer_prompts.0": torch.zeros(1, 6, 64),
                "perception.connector.extra": torch.zeros(1),
            },
            "extra is no tensor of theirs",
        ),
        (
            {
                "perception.connector.layer_prompts.0": torch.zeros(1, 6, 64),
                "whisper.x": torch.zeros(1),
            },
            "whisper.x is no tensor of theirs",
        ),
    ],
)
def test_nothing_but_wrong_keys_never_loads_in_silence(tmp_path, tensors, said):
    save_file(tensors, tmp_path / "bad.safetensors")
    with pytest.raises(ProvenanceError, match=said):
        adapters.load_adapter(connector(), tmp_path / "bad.safetensors")


def test_a_pickled_adapter_is_refused_with_the_way_out(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "qformer_connector.pth")
    with pytest.raises(ProvenanceError, match="never read"):
        adapters.load_adapter(connector(), tmp_path / "qformer_connector.pth")


@pytest.mark.parametrize(
    "made, said",
    [
        (lambda: connector(width=32, post_norm=False, pool=2), "width.*pre-norm.*pooled"),
        (lambda: connector(anchor=torch.zeros(6, 48), scale=0.5), "an anchor, a scaled output"),
        (lambda: FrameStack(d_enc=64, d_llm=48, queries=6), "FrameStack is no Q-Former"),
    ],
)
def test_a_connector_of_another_form_is_not_exported(tmp_path, made, said):
    with pytest.raises(ProvenanceError, match=said):
        adapters.save_adapter(made(), tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
