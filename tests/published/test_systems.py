"""A published system opens whole, where it fits, and answers."""

import hashlib
import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from desta_lab import cli
from desta_lab.audio import log_mel
from desta_lab.model import build, presets
from desta_lab.model.audio_llm import ProvenanceError
from desta_lab.published import systems
from desta_lab.published.adapters import save_adapter
from tests import tiny
from tests.published import llama
from tests.published.llama import connector

ADAPTER = Path(__file__).parents[1] / "data" / "desta25_tiny" / "connector.safetensors"


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    return llama.system(tmp_path_factory.mktemp("system"))


def test_a_system_opens_with_its_parts_recorded_and_its_adapter_in_place(system):
    preset, file, adapter = system
    llm = systems.open_system(file, preset)
    assert all(
        torch.equal(value, adapter.state_dict()[name])
        for name, value in llm.connector.state_dict().items()
    )
    assert llm.provenance["adapter_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert llm.provenance["taps"] == [1, 4, 7, 10]
    assert len(llm.provenance["encoder_sha256"]) == len(llm.provenance["backbone_sha256"]) == 64
    assert llm.backbone.dtype == torch.bfloat16
    assert not any(
        p.requires_grad for part in (llm.encoder, llm.backbone) for p in part.parameters()
    )
    clip = tiny.conversation("What is it?", file.parent / "clip.wav")
    assert 1 <= len(llm.generate(clip, max_new_tokens=4).ids[0]) <= 4


def test_desta2_hears_what_its_released_inference_picks_from_the_hidden_states(system):
    preset, file, _ = system
    llm = systems.open_system(file, preset)
    wave = tiny.wave(1)
    every = llm.encoder.whisper(
        log_mel([wave], tiny.SECONDS), output_hidden_states=True
    ).hidden_states
    theirs = torch.stack([state for index, state in enumerate(every) if index in (2, 5, 8, 11)])
    torch.testing.assert_close(llm.encoder.encode([wave]), theirs)
    late = systems.open_system(file, replace(preset, taps=(2, 5, 8, 11)))
    assert not torch.allclose(late.encoder.encode([wave]), theirs)


def test_spread_by_accelerate_it_answers_the_same(system):
    preset, file, _ = system
    clip = tiny.conversation("What is it?", file.parent / "clip.wav")
    whole, spread = (
        systems.open_system(file, preset, offload=offload) for offload in (False, True)
    )
    assert whole.generate(clip, max_new_tokens=6).ids == spread.generate(clip, max_new_tokens=6).ids


def test_int8_without_its_package_says_what_to_install(system, monkeypatch):
    preset, file, _ = system
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match=r"pip install bitsandbytes.*NVIDIA"):
        systems.open_system(file, preset, quantise="int8")


@pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is optional"
)
@pytest.mark.filterwarnings("ignore")  # its own
def test_in_int8_the_layers_are_halved_and_it_answers(system):
    preset, file, _ = system
    whole, small = (systems.open_system(file, preset, quantise=form) for form in (None, "int8"))
    assert small.backbone.model.get_memory_footprint() < whole.backbone.model.get_memory_footprint()
    layer = small.backbone.model.model.layers[0].mlp.up_proj.weight
    assert layer.dtype == torch.int8
    assert small.generate(tiny.conversation("Hm?", file.parent / "clip.wav"), max_new_tokens=4).ids[
        0
    ]


def test_an_adapter_of_other_sizes_does_not_open(system, tmp_path):
    preset, _, _ = system
    save_adapter(connector(d_enc=48, ffn=32), tmp_path / "other.safetensors")
    with pytest.raises(ProvenanceError, match="adapter of other sizes"):
        systems.open_system(tmp_path / "other.safetensors", preset)


def test_a_tiny_folder_is_counted_as_it_is(system):
    preset, _, _ = system
    size = systems.SystemSize.of(preset)
    llm = tiny.causal()
    assert size.encoder == sum(p.numel() for p in tiny.whisper(12, width=48).encoder.parameters())
    assert size.backbone == sum(p.numel() for p in llm.parameters())
    assert size.unquantised == 2 * llm.get_input_embeddings().weight.numel()


@pytest.mark.parametrize(("name", "bf16"), [("desta25", "18.6 GB"), ("desta2", "16.4 GB")])
def test_the_published_sizes_are_known_without_any_file(name, bf16, tmp_path, monkeypatch):
    monkeypatch.setattr(systems, "free_memory", lambda: (17.0, 0.0))
    said = systems.describe_memory(presets.get_preset(name), tmp_path)
    assert f"bf16      {bf16}" in said
    assert "8.03 B" in said
    assert "was not measured" in said


@pytest.mark.parametrize(
    ("ram", "gpu", "verdicts"),
    [
        (
            17.0,
            0.0,
            ["does not fit", "fits the RAM, but not while a transcript is written", "does not fit"],
        ),
        (
            40.0,
            0.0,
            ["fits the RAM", "fits the RAM", "fits the RAM, but not while a transcript is written"],
        ),
        (9.0, 15.0, ["fits GPU and RAM together (offload=True)", "fits the GPU", "does not fit"]),
        (9.0, 80.0, ["fits the GPU"] * 3),
    ],
)
def test_the_estimate_says_where_each_form_fits(ram, gpu, verdicts, tmp_path, monkeypatch):
    monkeypatch.setattr(systems, "free_memory", lambda: (ram, gpu))
    lines = systems.describe_memory(presets.desta25(), tmp_path).splitlines()[1:4]
    assert [line.split(" GB  ")[1] for line in lines] == verdicts


def test_a_machine_that_clearly_cannot_hold_it_is_told_before_anything_is_fetched(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(systems, "free_memory", lambda: (12.0, 6.0))
    with pytest.raises(
        RuntimeError,
        match=r"needs 18.6 GB in bf16, but 6.0 GB are there; take a larger machine, or in Python",
    ) as refused:
        systems.open_system(ADAPTER, presets.desta25(), tmp_path)
    assert "\n" not in str(refused.value)  # one sentence; `describe_memory` has the table
    with pytest.raises(RuntimeError, match="could not be fetched"):  # tried, and there is no model
        systems.open_system(ADAPTER, presets.desta25(), tmp_path, force=True)


def test_a_missing_adapter_is_told_before_anything_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(systems, "free_memory", lambda: (100.0, 0.0))
    with pytest.raises(
        ProvenanceError, match="no such file; give the adapter that was released for desta25"
    ):
        systems.open_system(tmp_path / "none.safetensors", presets.desta25(), tmp_path)


def test_an_unknown_model_without_a_config_has_no_size(tmp_path):
    with pytest.raises(RuntimeError, match="not known before its config"):
        systems.describe_memory(replace(presets.desta25(), backbone="someone/unheard-of"), tmp_path)


@pytest.mark.parametrize("name", ["desta25", "desta2"])
def test_the_command_asks_a_published_system(system, name, monkeypatch, capsys):
    preset, file, _ = system
    monkeypatch.setitem(presets.PRESETS, name, lambda: preset)
    monkeypatch.setattr(build, "transcribe", lambda ears, waves: ["hello there."])
    clip = str(file.parent / "clip.wav")
    assert cli.main(["ask", clip, "What is it?", "--published", str(file), "--preset", name]) == 0
    said = capsys.readouterr().out
    assert "was not measured" in said
    assert "transcript      " in said and "hello there." in said
    assert "without it" in said
