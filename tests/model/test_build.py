"""Names become built parts, and a run opens from what its own files say."""

import json
import shutil
from dataclasses import replace

import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from desta_lab.audio import RATE
from desta_lab.model import build, chat, presets, runs, weights
from desta_lab.model.audio_llm import AudioLLM, ProvenanceError, hash_tensors
from desta_lab.model.connector import FrameStack, QFormer
from desta_lab.model.encoder import Encoder
from desta_lab.training import checkpoints, trainer
from desta_lab.training.batches import IGNORE, collate
from desta_lab.training.features import OnTheFlyFeatures
from desta_lab.training.trainer import run_folder
from desta_lab.world.attributes import NEUTRAL
from tests import tiny

EARS = Encoder(tiny.whisper().encoder, (0, 1, 2, 3), tiny.SECONDS)  # 64 wide
ARCHITECTURES = {"t4": (12, "qwen2", (2, 5, 8, 11)), "workstation": (24, "qwen3", (5, 11, 17, 23))}


@pytest.fixture
def folders(request, tmp_path):
    """A preset with its models replaced by tiny random ones of the same architecture."""
    layers, kind, _ = ARCHITECTURES[request.param]
    ears = tiny.hf_folder(tmp_path / "ears", tiny.whisper(layers, width=48))
    mind = tiny.hf_folder(tmp_path / "mind", tiny.causal(kind), tiny.tokenizer())
    return replace(presets.get_preset(request.param), encoder=str(ears), backbone=str(mind))


@pytest.mark.parametrize(
    ("memory_gb", "name"), [(16, "t4"), (24, "workstation"), (80, "workstation")]
)
def test_a_gpu_picks_the_preset(monkeypatch, memory_gb, name):
    class Gpu:
        total_memory = memory_gb * 1e9

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Gpu())
    for answers, picked in ((True, name), (False, "cpu")):
        monkeypatch.setattr(weights, "hub_answers", lambda answers=answers: answers)
        assert build.pick_preset().name == picked
    monkeypatch.setattr(weights, "is_installed", lambda part: True)
    assert build.pick_preset().name == name


# (bf16, what is on disk, whether the hub answers) → what a machine without a GPU picks
PICKED = [
    ((True, "", True), "laptop"),
    ((True, "", False), "cpu"),
    ((True, "cpu", True), "cpu"),  # what was picked before is picked again
    ((True, "cpu laptop", False), "laptop"),
    ((False, "cpu laptop", True), "cpu"),  # without bf16 it would take hours
]


@pytest.mark.parametrize(("machine", "name"), PICKED)
def test_without_a_gpu_the_largest_preset_whose_weights_can_be_had_is_picked(
    monkeypatch, machine, name
):
    bf16, there, answers = machine
    parts = {p for one in there.split() for p in parts_of(presets.get_preset(one))}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(build, "pick_dtype", lambda _: torch.bfloat16 if bf16 else torch.float32)
    monkeypatch.setattr(weights, "is_installed", lambda part: part in parts)
    monkeypatch.setattr(weights, "hub_answers", lambda: answers)
    assert build.pick_preset().name == name


def parts_of(preset: presets.Preset) -> tuple[str, str]:
    return preset.encoder, preset.backbone


@pytest.mark.parametrize("folders", ["t4", "workstation"], indirect=True)
def test_the_gpu_presets_go_the_same_way_on_tiny_models(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "pick_dtype", lambda where: torch.bfloat16)
    monkeypatch.setattr(build, "pick_device", lambda: torch.device("cpu"))
    llm = build.build_audio_llm(folders)
    assert llm.encoder.taps == ARCHITECTURES[folders.name][2]
    assert llm.backbone.dtype == torch.bfloat16
    assert {p.dtype for p in llm.connector.parameters()} == {torch.float32}
    assert llm.provenance["taps"] == list(llm.encoder.taps)
    assert len(llm.provenance["encoder_sha256"]) == len(llm.provenance["backbone_sha256"]) == 64

    row = tiny.examples(tiny.corpus(tmp_path / "corpus", 2))[0]
    stream = chat.build_stream(
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


@pytest.mark.parametrize("folders", ["t4"], indirect=True)
def test_a_t4_trains_a_float32_connector_and_loss_between_frozen_halves(
    folders, tmp_path, monkeypatch
):
    pick, load, mean_loss, seen = build.pick_dtype, Encoder.load, trainer._mean_loss, []
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)  # what a T4 claims
    monkeypatch.setattr(build, "pick_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(Encoder, "load", lambda *given, **how: seen.append(how["dtype"]))
    with pytest.raises(AttributeError):  # of the encoder that is not there
        build.build_audio_llm(folders)
    assert seen == [torch.float16]

    monkeypatch.setattr(Encoder, "load", load)
    monkeypatch.setattr(build, "pick_dtype", lambda device: pick(torch.device("cuda")))
    monkeypatch.setattr(build, "pick_device", lambda: torch.device("cpu"))
    llm = build.build_audio_llm(folders)
    assert llm.backbone.dtype == torch.float16
    assert {p.dtype for p in llm.connector.parameters()} == {torch.float32}

    def noted(*given):
        seen.append(mean_loss(*given))
        return seen[-1]

    monkeypatch.setattr(trainer, "_mean_loss", noted)
    llm.connector.proj.register_forward_hook(
        lambda module, given, out: seen.append((out.dtype, torch.is_autocast_enabled("cpu")))
    )
    words = tiny.corpus(tmp_path / "corpus", 4)
    of = {clip.id: words.path(clip) for clip in words.clips}
    recipe = trainer.TrainConfig(steps=2, batch=2)
    live = OnTheFlyFeatures(llm.encoder, of.__getitem__)
    trainer.train(llm, live, tiny.examples(words), recipe, tmp_path / "run")
    assert [one if isinstance(one, tuple) else one.dtype for one in seen[1:]] == 2 * [
        (torch.float32, False),
        torch.float32,
    ]


@pytest.mark.parametrize("part", ["ears", "mind"])
@pytest.mark.parametrize("folders", ["t4"], indirect=True)
def test_frozen_weights_with_a_number_that_is_none_are_refused(folders, tmp_path, part):
    path = tmp_path / part / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if "encoder.layers.0" in name or "layers.0.mlp" in name)
    tensors[name] = tensors[name] * float("nan")
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(weights.WeightsError, match=f"{part}: .*layers.0.* holds NaN or infinity"):
        build.build_audio_llm(folders)


def test_a_seed_makes_the_same_connector_and_leaves_torchs_own_alone():
    mind = tiny.backbone()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, same, other = (
        build.build_connector(presets.SMALL, EARS, mind, seed) for seed in (0, 0, 1)
    )
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(one.query_tokens, same.query_tokens)
    assert not torch.equal(one.query_tokens, other.query_tokens)


def test_the_small_connector_is_born_saying_the_neutral_sentence():
    mind = tiny.backbone()
    connector = build.build_connector(presets.SMALL, EARS, mind)
    assert isinstance(connector, QFormer)
    ids = torch.tensor(chat.encode_text(mind.tokenizer, NEUTRAL))
    assert connector.queries == len(ids)
    torch.testing.assert_close(connector.anchor.data, mind.embed(ids))
    said = connector(torch.randn(4, 1, 20, 64))[0]
    table = mind.model.get_input_embeddings().weight
    nearest = torch.nn.functional.cosine_similarity(said[:, None], table[None], dim=-1).argmax(1)
    assert nearest.tolist() == ids.tolist()


def test_the_comparison_connector_fits_the_same_place():
    stack = build.build_connector(replace(presets.SMALL, kind="frames"), EARS, tiny.backbone())
    assert isinstance(stack, FrameStack)
    assert stack(torch.randn(4, 2, 200, 64)).shape == (2, stack.queries, tiny.WIDTH)


# ---- opening a run ----

PARTS = {"encoder": "tiny-ears", "backbone": "org/tiny-mind"}


@pytest.fixture
def models(tmp_path):
    """A folder of models with a tiny encoder and backbone, under names that no preset has."""
    return tiny.model_folders(tmp_path / "models", "tiny-ears", "org--tiny-mind")


@pytest.fixture
def run(models, tmp_path):
    """A run with its own name, taps, connector and tuning, and checkpoints of two steps."""
    small = replace(presets.SMALL, width=16, heads=2, ffn=16, depth=1)
    preset = presets.Preset(
        "mine",
        **PARTS,
        purpose="a test",
        seconds=1.0,
        taps=(1, 3),
        connector=small,
        tuning="lora-2",
    )
    llm = build.build_audio_llm(preset, root=models, seed=3)
    folder = tmp_path / "runs" / "any name"
    checkpoints.save_checkpoint(folder, llm, 0, None)
    with torch.no_grad():
        for parameter in llm.trainable_parameters.values():
            parameter += 0.5
    checkpoints.save_checkpoint(folder, llm, 8, 1.0)
    return folder, llm


def test_a_run_opens_from_its_own_files_with_its_parts_and_its_last_connector(run, models):
    folder, trained = run
    llm = AudioLLM.from_run(folder, root=models)
    assert llm.provenance == trained.provenance and llm.names == PARTS
    assert llm.encoder.taps == (1, 3) and llm.provenance["tuning"] == "lora-2"
    assert hash_tensors(llm.connector) == hash_tensors(trained.connector)
    for name, tensor in trained.trainable_state().items():
        assert torch.equal(llm.trainable_state()[name], tensor), name
    states = llm.encoder.encode([tiny.wave(0)])
    torch.testing.assert_close(llm.connect(states), trained.connect(states), rtol=0, atol=0)


def test_a_run_opens_with_the_attention_that_its_config_names(run, models):
    folder, _ = run
    (folder / "config.json").write_text('{"attention": "eager"}')
    assert AudioLLM.from_run(folder, root=models).provenance["attention"] == "eager"


def test_any_checkpoint_of_a_run_opens_and_a_step_without_one_is_refused(run, models):
    folder, trained = run
    first = AudioLLM.from_run(folder, 0, models)
    assert hash_tensors(first.connector) != hash_tensors(trained.connector)
    with pytest.raises(checkpoints.CheckpointError, match="no checkpoint at step 5; it has 0, 8"):
        AudioLLM.from_run(folder, 5, models)


def test_a_later_setting_of_the_models_is_kept_compared_and_put_back(models, tmp_path, monkeypatch):
    monkeypatch.setitem(presets.LATER, "accumulate", 1)  # as if it were one of the models
    small = replace(presets.SMALL, width=16, heads=2, ffn=16, depth=1)
    preset = presets.Preset("mine", **PARTS, purpose="a test", seconds=1.0, connector=small)
    usual, other = (
        build.build_audio_llm(replace(preset, accumulate=count), root=models) for count in (1, 2)
    )
    assert "accumulate" not in usual.provenance and other.provenance["accumulate"] == 2
    older, newer = tmp_path / "older.safetensors", tmp_path / "newer.safetensors"
    usual.save_connector(older)
    other.save_connector(newer)
    assert build.open_connector(newer, models).provenance == other.provenance
    for llm, path, its, ours in ((usual, newer, 2, 1), (other, older, 1, 2)):
        fault = f"trained with accumulate {its}, but here accumulate is {ours}"
        with pytest.raises(ProvenanceError, match=fault):
            llm.load_connector(path)


def test_a_saved_connector_is_no_run_and_the_sentence_says_how_it_opens(run, models, tmp_path):
    run[1].save_pretrained(tmp_path / "saved")
    with pytest.raises(FileNotFoundError, match=r"open it with AudioLLM\.from_pretrained"):
        AudioLLM.from_run(tmp_path / "saved", root=models)


def test_a_folder_without_a_run_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoints of a run here; train one with"):
        AudioLLM.from_run(tmp_path)


def test_the_same_weights_in_a_renamed_folder_are_accepted(run, models):
    folder, trained = run
    (models / "tiny-ears").rename(models / "copied from a colleague")
    (models / "org--tiny-mind").rename(models / "mind")
    llm = AudioLLM.from_run(folder, root=models)
    assert llm.provenance == trained.provenance


def test_parts_given_by_path_leave_no_path_in_what_determines_a_run(run, models):
    _, trained = run
    elsewhere = shutil.copytree(models, models.parent / "elsewhere")
    preset = presets.Preset(
        "mine",
        str(elsewhere / "tiny-ears"),
        str(elsewhere / "org--tiny-mind"),
        "a test",
        seconds=1.0,
        taps=(1, 3),
        connector=replace(presets.SMALL, width=16, heads=2, ffn=16, depth=1),
        tuning="lora-2",
    )
    llm = build.build_audio_llm(preset)
    assert llm.provenance == trained.provenance
    assert not any("/" in name for name in llm.names.values())


@pytest.mark.parametrize(
    ("part", "name"), [("tiny-ears", "encoder"), ("org--tiny-mind", "backbone")]
)
def test_a_missing_part_is_refused_by_its_name_with_the_remedy(
    run, models, part, name, monkeypatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder, _ = run
    shutil.rmtree(models / part)
    with pytest.raises(ProvenanceError, match=rf"its {name} {PARTS[name]} .* put the folder with"):
        AudioLLM.from_run(folder, root=models)


def test_other_weights_under_the_name_of_a_part_are_refused(run, models):
    folder, _ = run
    tiny.hf_folder(models / "tiny-ears", tiny.whisper(seed=1))
    with pytest.raises(ProvenanceError, match=r"its encoder tiny-ears .* holds other weights"):
        AudioLLM.from_run(folder, root=models)


def test_a_changed_checkpoint_is_refused(run, models):
    folder, _ = run
    path = folder / "checkpoints" / "000008.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"1234")
    with pytest.raises(ProvenanceError, match="changed since it was saved"):
        AudioLLM.from_run(folder, root=models)


@pytest.mark.weights
def test_a_run_with_a_smaller_nano_llm_and_another_whisper_opens(tmp_path, monkeypatch):
    from desta_lab.model import nano, weights

    root = tmp_path / "models"
    root.mkdir()
    (root / "whisper-tiny.en").symlink_to(weights.find_weights("whisper-tiny.en"))
    model, words = nano.train_nano([("A dog.", "What is it?", "A dog.")] * 4, width=64, layers=2)
    nano.save_nano(model, words, root / "nano-64x2")
    preset = replace(presets.nano(), backbone="nano-64x2", seconds=1.0)
    assert presets.nano().glass_box and not preset.glass_box
    llm = build.build_audio_llm(preset, root=root)
    checkpoints.save_checkpoint(tmp_path / "run", llm, 0, None)
    assert AudioLLM.from_run(tmp_path / "run", root=root).backbone.width == 64


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)],
)
def test_precision_goes_by_compute_capability(monkeypatch, capability, dtype):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)  # what a T4 claims
    assert build.pick_dtype(torch.device("cuda")) == dtype


@pytest.mark.parametrize(("has", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_precision_on_a_cpu_goes_by_its_instructions(monkeypatch, has, dtype):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert build.pick_dtype(torch.device("cpu")) == dtype


def test_precision_elsewhere_is_full():
    assert build.pick_dtype(torch.device("mps")) == torch.float32


def test_a_verdict_is_of_the_last_step_of_its_run_alone(run, models):
    folder, _ = run
    last = checkpoints.list_checkpoints(folder)[-1]["sha256"]
    judged = {"verdict": "SUPPORTED", "rule": "It holds.", "reasons": [], "checkpoint": last}
    (folder / "verdict.json").write_text(json.dumps(judged))
    assert AudioLLM.from_run(folder, root=models).result == judged
    assert AudioLLM.from_run(folder, 0, root=models).result is None
    for other, words in (({"checkpoint": "0" * 64}, "another connector"), ({"verdict": 1}, "is 1")):
        (folder / "verdict.json").write_text(json.dumps(judged | other))
        with pytest.raises((ProvenanceError, weights.WeightsError), match=words):
            AudioLLM.from_run(folder, root=models)


def test_a_run_is_described_by_its_preset_its_corpus_and_its_last_step(tmp_path):
    corpus = tiny.corpus(tmp_path / "corpora" / "0")
    for of, named in ((corpus.hash, "tones"), ("d" * 64, "dddddddd")):
        folder = run_folder(tmp_path / "runs", "my-own-self", {"corpus": of})
        runs.index_path(folder).parent.mkdir()
        runs.index_path(folder).write_text('[{"step": 9, "sha256": "0", "loss": null}]')
        said = f"{folder.name} (preset my-own, corpus {{}}, step 9)"
        assert runs.describe_run(folder) == said.format(named)
    (folder / "verdict.json").write_text('{"corpus": "calls"}')  # which lies elsewhere
    assert runs.describe_run(folder) == said.format("calls")


def test_a_config_that_does_not_name_the_folder_of_its_run_is_refused(tmp_path):
    folder = run_folder(tmp_path, "nano", {"attention": "eager", "lr": 0.1})
    assert runs.read_run_config(folder) == {"attention": "eager", "lr": 0.1}
    (folder / "config.json").write_text('{"attention": "sdpa", "lr": 0.1}')
    with pytest.raises(ProvenanceError, match=r"config\.json: not the config of this run"):
        runs.read_run_config(folder)
    run_folder(tmp_path, "nano", {"attention": "eager", "lr": 0.1})  # which knows what it was
    assert runs.read_run_config(folder) == {"attention": "eager", "lr": 0.1}
