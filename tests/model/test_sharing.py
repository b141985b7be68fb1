"""A saved connector opens in another environment, with its own parts or not at all."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from desta_lab.model import build, presets, weights
from desta_lab.model.audio_llm import AudioLLM, ProvenanceError, ProvenanceWarning, hash_tensors
from desta_lab.training import checkpoints
from tests import tiny

JUDGED = {"verdict": "SUPPORTED", "rule": "SUPPORTED if it holds.", "reasons": ["yes: it holds."]}
RUNGS = [{"run": "self", "rung": 0, "score": 0.9751, "low": 0.95, "high": 1.0}]


@pytest.fixture
def root(tmp_path):
    return tiny.model_folders(tmp_path / "models", "org--tiny-ears", "org--tiny-mind")


@pytest.fixture
def llm(root):
    small = replace(presets.SMALL, width=16, heads=2, ffn=16, depth=1)
    preset = presets.Preset(
        "mine",
        "org/tiny-ears",
        "org/tiny-mind",
        "a test",
        seconds=1.0,
        taps=(1, 3),
        connector=small,
    )
    made = build.build_audio_llm(replace(preset, tuning="lora-2"), root=root, seed=3)
    with torch.no_grad():
        for parameter in made.trainable_parameters.values():
            parameter += 0.1
    return made


def test_a_colleague_opens_it_in_a_clean_environment(llm, root, tmp_path):
    folder = llm.save_pretrained(tmp_path / "shared")
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
    }
    theirs = tmp_path / "colleague"
    shutil.copytree(folder, theirs / "shared")
    shutil.copytree(root / "org--tiny-ears", theirs / "models" / "whatever name")
    shutil.copytree(root / "org--tiny-mind", theirs / "models" / "org--tiny-mind")
    opened = AudioLLM.from_pretrained(theirs / "shared", root=theirs / "models")
    assert opened.provenance == llm.provenance and opened.names == llm.names
    for name, tensor in llm.trainable_state().items():
        assert torch.equal(opened.trainable_state()[name], tensor), name
    waves = [tiny.wave(0)]
    seen, known = (one.run(waves, "What?", sites=[]).logits for one in (opened, llm))
    torch.testing.assert_close(seen, known, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"encoder_sha256": 5}, "encoder_sha256 takes str, not 5"),
        ({"taps": [10**400]}, "it does not fit the parts that it names"),
        ({"taps": "01"}, r"taps takes a list such as \[0,3\]"),
        ({"seconds": 20.0}, "it does not fit the parts that it names"),
        ({"seconds": "4"}, "seconds takes float, not '4'"),
        ({"tuning": None}, "tuning takes str, not None"),
        ({"connector": {}}, "it does not fit the parts that it names"),
        ({"connector": {"dropout": None}}, "dropout takes float, not None"),
        ({"connector": {"dropout": 10**400}}, "dropout takes float"),
        ({"connector": {"depth": {}}}, "depth takes int, not {}"),
    ],
)
def test_a_connector_of_what_cannot_be_is_named(llm, root, tmp_path, change, words):
    path = tmp_path / "a.safetensors"
    llm.save_connector(path)
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["provenance"])
    save_file(load_file(path), path, metadata={"provenance": json.dumps(about | change)})
    with pytest.raises(ProvenanceError, match=f"^{path}: .*{words}"):
        build.open_connector(path, root)


class Mean(nn.Module):
    """A connector of somebody's own."""

    queries, version = 2, 1

    def __init__(self, taps, d_enc, d_llm):
        super().__init__()
        self.d_llm = d_llm
        self.project = nn.Linear(d_enc, 2 * d_llm)

    def forward(self, states):
        return self.project(states[-1].mean(1)).unflatten(-1, (2, self.d_llm))


class Other(Mean):
    version = 2


def test_an_own_connector_is_opened_with_its_class_and_refused_without(root, tmp_path):
    preset = presets.Preset(
        "mine", "org/tiny-ears", "org/tiny-mind", "a test", seconds=1.0, taps=(1, 3)
    )
    made = build.build_audio_llm(preset, root=root, connector=Mean)
    with torch.no_grad():
        made.connector.project.bias += 0.1
    folder = made.save_pretrained(tmp_path / "own")
    config = json.loads((folder / "config.json").read_text())
    assert config["connector"]["class"] == "Mean"
    assert config["connector"]["settings"] == {"queries": 2, "version": 1, "d_llm": tiny.WIDTH}
    assert 'its id on the hub", connector=Mean)' in (folder / "README.md").read_text()
    opened = AudioLLM.from_pretrained(folder, root=root, connector=Mean)
    assert torch.equal(opened.connector.project.bias, made.connector.project.bias)
    with pytest.raises(ProvenanceError, match=r"its connector is Mean, .* connector=Mean\.$"):
        AudioLLM.from_pretrained(folder, root=root)
    with pytest.raises(ProvenanceError, match="connector"):
        AudioLLM.from_pretrained(folder, root=root, connector=Other)


def test_parts_are_named_by_repo_revision_and_hash_and_no_file_has_a_path(llm, tmp_path):
    llm.revisions["backbone"] = "b" * 40
    folder = llm.save_pretrained(tmp_path / "shared")
    config = json.loads((folder / "config.json").read_text())
    assert config["backbone"] == {
        "repo": "org/tiny-mind",
        "revision": "b" * 40,
        "sha256": llm.provenance["backbone_sha256"],
    }
    assert config["encoder"]["repo"] == "org/tiny-ears"
    for path in folder.iterdir():
        assert str(tmp_path).encode() not in path.read_bytes(), path.name
    assert weights.repo_of("whisper-tiny.en") == "openai/whisper-tiny.en"
    pinned = weights.KNOWN["whisper-tiny.en"].revision
    assert weights.revision_of("openai/whisper-tiny.en", tmp_path) == pinned
    assert weights.revision_of("org/x", tmp_path / "snapshots" / "abc") == "abc"
    assert weights.revision_of("org/x", tmp_path) is None


def test_other_weights_are_refused_or_taken_with_a_warning(llm, root, tmp_path):
    folder = llm.save_pretrained(tmp_path / "shared")
    shutil.rmtree(root / "org--tiny-mind")
    tiny.hf_folder(root / "org--tiny-mind", tiny.causal(seed=1), tiny.tokenizer())
    with pytest.raises(ProvenanceError, match=r"its backbone org/tiny-mind .* is not here"):
        AudioLLM.from_pretrained(folder, root=root)
    with pytest.warns(ProvenanceWarning, match="backbone org/tiny-mind has other weights here"):
        opened = AudioLLM.from_pretrained(folder, strict=False, root=root)
    assert hash_tensors(opened.connector) == hash_tensors(llm.connector)
    assert opened.provenance["backbone_sha256"] != llm.provenance["backbone_sha256"]


def test_what_was_changed_or_is_no_connector_is_refused(llm, root, tmp_path):
    folder = llm.save_pretrained(tmp_path / "shared")
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ProvenanceError, match="changed since it was saved; get the folder again"):
        AudioLLM.from_pretrained(folder, root=root)
    with pytest.raises(ProvenanceError, match="no connector of DeSTA Lab; give a folder"):
        AudioLLM.from_pretrained(root / "org--tiny-ears", root=root)
    with pytest.raises(weights.WeightsError, match="could not be fetched from the model hub"):
        AudioLLM.from_pretrained("org/nothing", root=root)
    with pytest.raises(ProvenanceError, match="does not know its"):
        AudioLLM(llm.encoder, llm.connector, llm.backbone).save_pretrained(tmp_path / "other")


def test_the_model_card_is_made_of_the_result_card(llm, root, tmp_path):
    bare = (llm.save_pretrained(tmp_path / "bare") / "README.md").read_text()
    assert "without the result card" in bare
    about = huggingface_hub.ModelCard(bare).data
    assert about.base_model == ["org/tiny-ears", "org/tiny-mind"]
    assert about.library_name == "desta-lab"
    card = tmp_path / "card.json"
    card.write_text(json.dumps({"verdict": JUDGED, "rungs": RUNGS, "notes": ["one seed"]}))
    text = (llm.save_pretrained(tmp_path / "whole", card) / "README.md").read_text()
    assert "**SUPPORTED.** SUPPORTED if it holds." in text and "- yes: it holds." in text
    assert "| self | 0 | 0.975 | 0.95 | 1 |" in text and "- one seed" in text
    run = tmp_path / "run"
    checkpoints.save_checkpoint(run, llm, 0, None)
    (run / "verdict.json").write_text(json.dumps(JUDGED))
    opened = AudioLLM.from_run(run, root=root)
    text = (opened.save_pretrained(tmp_path / "judged") / "README.md").read_text()
    assert "**SUPPORTED.**" in text
    with pytest.raises(ProvenanceError, match="no readable result card"):
        llm.save_pretrained(tmp_path / "none", tmp_path / "nothing.json")


def test_whether_it_was_trained_with_transcripts_is_saved_with_it(llm, root, tmp_path):
    run = tmp_path / "run"
    checkpoints.save_checkpoint(run, llm, 0, None)
    for name, trained_with in (("words", True), ("sound", False)):
        (run / "config.json").write_text(json.dumps({"transcript": trained_with}))
        saved = AudioLLM.from_run(run, root=root).save_pretrained(tmp_path / name)
        assert AudioLLM.from_pretrained(saved, root=root).transcript == trained_with
        assert ("transcript" in (saved / "config.json").read_text()) == trained_with
        assert ("with_transcript=True" in (saved / "README.md").read_text()) == trained_with
    preset = presets.Preset("own", "org/tiny-ears", "org/tiny-mind", "", seconds=1.0, taps=(1, 3))
    preset = replace(preset, connector=replace(presets.SMALL, width=16, heads=2), transcript=True)
    assert build.build_audio_llm(preset, root=root).transcript


def test_the_card_of_another_connector_is_refused(llm, tmp_path):
    sha256 = llm.save_connector(tmp_path / "own.safetensors")
    judged = {"verdict": JUDGED, "hashes": {"checkpoint self": sha256}}
    text = (llm.save_pretrained(tmp_path / "own", judged) / "README.md").read_text()
    assert "**SUPPORTED.**" in text
    judged["hashes"]["checkpoint self"] = "f" * 64
    with pytest.raises(ProvenanceError, match=f"of connector f{{64}}, and this is {sha256}; give"):
        llm.save_pretrained(tmp_path / "other", judged)
    assert not (tmp_path / "other" / "README.md").exists()


def test_what_is_pushed_comes_back_from_the_hub_at_its_revision(llm, root, tmp_path, monkeypatch):
    hub = tmp_path / "hub" / "snapshots" / ("c" * 40)

    def upload(self, *, repo_id, folder_path, commit_message):
        shutil.copytree(folder_path, hub)
        return f"https://huggingface.co/{repo_id}/commit/{'c' * 40}"

    def download(repo, *, revision, **options):
        assert repo == "me/mine" and revision == "c" * 40
        return str(hub)

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda self, name, **how: None)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert llm.push_to_hub("me/mine", JUDGED).endswith("c" * 40)
    assert Path(hub / "README.md").read_text().count("SUPPORTED") == 2
    opened = AudioLLM.from_pretrained("me/mine", "c" * 40, root=root)
    assert hash_tensors(opened.connector) == hash_tensors(llm.connector)


def test_a_hub_that_cannot_be_reached_is_one_sentence(llm, monkeypatch):
    def refuse(self, name, **how):
        raise ConnectionError("no network\nat all")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    with pytest.raises(
        weights.WeightsError, match=r"me/mine could not be pushed .* no network. Log"
    ):
        llm.push_to_hub("me/mine")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("sha256", None, "it has no 'sha256'"),
        ("sha256", 7, "'sha256' is 7"),
        ("attention", None, "it has no 'attention'"),
        ("encoder", None, "it has no 'encoder'"),
        ("backbone", "org/tiny-mind", "'backbone' is \"org/tiny-mind\""),
        ("backbone", {"revision": 7}, "a revision is a commit on the hub or null"),
    ],
)
def test_a_shared_config_without_its_fields_is_one_sentence(llm, root, tmp_path, key, value, words):
    path = llm.save_pretrained(tmp_path / "shared") / "config.json"
    config = json.loads(path.read_text())
    config.pop(key)
    path.write_text(json.dumps(config | ({} if value is None else {key: value})))
    with pytest.raises(
        (weights.WeightsError, ProvenanceError), match=f"config.json: .*{words}.*(get|copy) "
    ):
        AudioLLM.from_pretrained(path.parent, root=root)


@pytest.mark.parametrize("card", [{"rungs": 3}, {"tasks": [1]}, {"notes": "one"}, {"reasons": "x"}])
def test_a_card_of_other_types_is_refused_before_a_model_card_is_written(llm, tmp_path, card):
    with pytest.raises(
        ProvenanceError, match=r"are not those of a result card; give the card\.json"
    ):
        llm.save_pretrained(tmp_path / "shared", card)
    assert not (tmp_path / "shared").exists()
