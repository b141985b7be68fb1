"""Presets are data; every one of them goes the same way, whatever the models."""

from dataclasses import replace

import pytest
import soundfile
import torch
from transformers import AutoModelForCausalLM

from desta_lab.audio import RATE
from desta_lab.model import presets
from desta_lab.model.connector import FrameStack, QFormer
from desta_lab.training.batches import IGNORE, collate
from tests import tiny


def test_an_unknown_preset_names_the_ones_there_are():
    known = "nano, cpu, t4, workstation, desta25, desta2"
    with pytest.raises(ValueError, match=f"There is no preset 'gpu'; take one of {known}"):
        presets.get_preset("gpu")
    assert {presets.get_preset(name).name for name in presets.PRESETS} == set(presets.PRESETS)


@pytest.mark.parametrize(("name", "depth", "heads"), [("desta25", 6, 20), ("desta2", 2, 12)])
def test_the_published_systems_have_the_published_connector(name, depth, heads):
    preset = presets.get_preset(name)
    shape = preset.connector
    assert (shape.queries, shape.depth, shape.heads, shape.ffn) == (64, depth, heads, 3072)
    assert shape.post_norm
    assert not (shape.width or shape.scaled or shape.anchored)
    assert preset.seconds == 30.0


def test_only_desta2_names_its_own_taps_and_unused_options_enter_no_hash():
    taps = {name: presets.get_preset(name).taps for name in presets.PRESETS}
    assert taps.pop("desta2") == (1, 4, 7, 10)
    assert set(taps.values()) == {None}
    assert not any(
        set(presets.OPTIONS) & set(presets.hashed_fields(presets.get_preset(name))) for name in taps
    )
    assert {"taps", "train"} <= set(presets.hashed_fields(replace(presets.desta2(), train=48)))
    assert presets.replace(presets.desta2(), taps=(2, 5, 8, 11)).taps == (2, 5, 8, 11)


@pytest.mark.parametrize(
    ("memory_gb", "name"), [(16, "t4"), (24, "workstation"), (80, "workstation")]
)
def test_the_hardware_picks_the_preset(monkeypatch, memory_gb, name):
    class Gpu:
        total_memory = memory_gb * 1e9

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Gpu())
    assert presets.pick_preset().name == name


def test_without_a_gpu_the_cpu_preset_is_picked(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert presets.pick_preset().name == "cpu"


ARCHITECTURES = {"t4": (12, "qwen2", (2, 5, 8, 11)), "workstation": (24, "qwen3", (5, 11, 17, 23))}


@pytest.fixture
def folders(request, tmp_path):
    """A preset with its models replaced by tiny random ones of the same architecture."""
    layers, kind, _ = ARCHITECTURES[request.param]
    ears = tiny.hf_folder(tmp_path / "ears", tiny.whisper(layers, width=48))
    mind = tiny.hf_folder(tmp_path / "mind", tiny.causal(kind), tiny.tokenizer())
    return replace(presets.get_preset(request.param), encoder=str(ears), backbone=str(mind))


@pytest.mark.parametrize("folders", ["t4", "workstation"], indirect=True)
def test_the_gpu_presets_go_the_same_way_on_tiny_models(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(presets, "fastest_dtype", lambda where: torch.bfloat16)
    monkeypatch.setattr(presets, "pick_device", lambda: torch.device("cpu"))
    llm = presets.build_audio_llm(folders)
    assert llm.encoder.taps == ARCHITECTURES[folders.name][2]
    assert llm.backbone.dtype == torch.bfloat16
    assert {p.dtype for p in llm.connector.parameters()} == {torch.float32}
    assert llm.provenance["taps"] == list(llm.encoder.taps)
    assert len(llm.provenance["encoder_sha256"]) == len(llm.provenance["backbone_sha256"]) == 64

    row = tiny.examples(tiny.corpus(tmp_path / "corpus", 2))[0]
    stream = presets.chat.build_stream(
        llm.backbone.tokenizer, row["messages"], llm.queries, response=row["response"]
    )
    batch = collate([stream], llm.backbone.pad_id)
    at = batch.labels != IGNORE
    states = llm.encoder.encode([tiny.wave(0)]).float()
    logits = llm.response_logits(batch.prefix, batch.ids, at, llm.connector(states))
    loss = torch.nn.functional.cross_entropy(logits, batch.labels[at])
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in llm.connector.parameters())

    soundfile.write(tmp_path / "clip.wav", tiny.wave(0), RATE)
    answer = llm.generate(tiny.conversation("What is it?", tmp_path / "clip.wav"), max_new_tokens=4)
    assert 1 <= len(answer.ids[0]) <= 4
    text = llm.generate(tiny.conversation("What is it?"), max_new_tokens=4).ids[0]
    own = AutoModelForCausalLM.from_pretrained(folders.backbone, dtype=torch.bfloat16)
    given = tiny.tokenizer().apply_chat_template(
        tiny.conversation("What is it?"),
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    assert (
        list(text)
        == own.generate(**given, max_new_tokens=4, do_sample=False)[0, -len(text) :].tolist()
    )


def test_a_seed_makes_the_same_connector_and_leaves_torchs_own_alone():
    mind = tiny.backbone()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, same, other = (
        presets.build_connector(presets.SMALL, 4, 64, mind, seed) for seed in (0, 0, 1)
    )
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(one.query_tokens, same.query_tokens)
    assert not torch.equal(one.query_tokens, other.query_tokens)


def test_the_small_connector_is_born_saying_the_neutral_sentence():
    mind = tiny.backbone()
    connector = presets.build_connector(presets.SMALL, 4, 64, mind)
    assert isinstance(connector, QFormer)
    ids = torch.tensor(presets.chat.encode_text(mind.tokenizer, presets.NEUTRAL))
    assert connector.queries == len(ids)
    torch.testing.assert_close(connector.anchor.data, mind.embed(ids))
    said = connector(torch.randn(4, 1, 20, 64))[0]
    table = mind.model.get_input_embeddings().weight
    nearest = torch.nn.functional.cosine_similarity(said[:, None], table[None], dim=-1).argmax(1)
    assert nearest.tolist() == ids.tolist()


def test_the_comparison_connector_fits_the_same_place():
    stack = presets.build_connector(replace(presets.SMALL, kind="frames"), 4, 64, tiny.backbone())
    assert isinstance(stack, FrameStack)
    assert stack(torch.randn(4, 2, 200, 64)).shape == (2, stack.queries, tiny.WIDTH)


def test_a_runs_parts_give_back_its_preset():
    small = replace(presets.SMALL, width=64)
    preset = replace(presets.cpu(), seconds=3.0, connector=small, taps=(0, 3), tuning="lora-4")
    parts = {"seconds": 3.0, "connector": presets.asdict(small), "taps": [0, 3], "tuning": "lora-4"}
    assert presets.with_parts(presets.cpu(), parts) == preset
