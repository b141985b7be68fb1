"""Names become folders in a fixed order, checked by hash, whole or not at all."""

import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from desta_lab.model import weights
from desta_lab.model.weights import WeightsError, find_weights, is_installed
from desta_lab.model.wheels import ctranslate2, packages

NAME = "tiny-whisper"
MARKS = [
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|translate|>",
    "<|transcribe|>",
    "<|startofprev|>",
]
MARKS += ["<|notimestamps|>"]
TYPES = {"float32": 0, "int16": 2, "float16": 4}


def tiny_whisper() -> WhisperForConditionalGeneration:
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=len(MARKS),
        d_model=8,
        num_mel_bins=80,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=12,
        decoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_attention_heads=4,
        max_source_positions=10,
        max_target_positions=7,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=1,
    )
    model = WhisperForConditionalGeneration(config)
    for parameter in model.parameters():  # no zeros or ones that would hide a swapped pair
        torch.nn.init.normal_(parameter)
    return model.half().float()


def ctranslate2_arrays(model: WhisperForConditionalGeneration) -> dict[str, np.ndarray]:
    """The arrays CTranslate2 would write, spelled out from the model's modules."""
    arrays: dict[str, np.ndarray] = {}

    def put(name: str, *modules: torch.nn.Module) -> None:
        fused = torch.cat([module.weight for module in modules])
        if isinstance(modules[0], torch.nn.Embedding):
            arrays[name] = fused.detach().numpy()
            return
        norm = isinstance(modules[0], torch.nn.LayerNorm)
        arrays[f"{name}/{'gamma' if norm else 'weight'}"] = fused.detach().numpy()
        biases = [m.bias if m.bias is not None else torch.zeros(m.out_features) for m in modules]
        arrays[f"{name}/{'beta' if norm else 'bias'}"] = torch.cat(biases).detach().numpy()

    for side in ("encoder", "decoder"):
        part = getattr(model.model, side)
        put(f"{side}/layer_norm", part.layer_norm)
        put(f"{side}/position_encodings/encodings", part.embed_positions)
        arrays[f"{side}/num_heads"] = np.array(part.layers[0].self_attn.num_heads, np.int16)
        for i, layer in enumerate(part.layers):
            at, own = f"{side}/layer_{i}", layer.self_attn
            put(f"{at}/self_attention/layer_norm", layer.self_attn_layer_norm)
            put(f"{at}/self_attention/linear_0", own.q_proj, own.k_proj, own.v_proj)
            put(f"{at}/self_attention/linear_1", own.out_proj)
            put(f"{at}/ffn/layer_norm", layer.final_layer_norm)
            put(f"{at}/ffn/linear_0", layer.fc1)
            put(f"{at}/ffn/linear_1", layer.fc2)
            if side == "decoder":
                cross = layer.encoder_attn
                put(f"{at}/attention/layer_norm", layer.encoder_attn_layer_norm)
                put(f"{at}/attention/linear_0", cross.q_proj)
                put(f"{at}/attention/linear_1", cross.k_proj, cross.v_proj)
                put(f"{at}/attention/linear_2", cross.out_proj)
    put("encoder/conv1", model.model.encoder.conv1)
    put("encoder/conv2", model.model.encoder.conv2)
    put("decoder/embeddings/weight", model.model.decoder.embed_tokens)
    return arrays


def ctranslate2_bytes(arrays: dict[str, np.ndarray]) -> bytes:
    def text(name: str) -> bytes:
        return struct.pack("<H", len(name) + 1) + name.encode() + b"\0"

    out = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, len(arrays))
    for name, value in arrays.items():
        array = value.astype(np.float16) if value.dtype == np.float32 else value
        out += text(name) + struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
        out += struct.pack("<BI", TYPES[str(array.dtype)], array.nbytes) + array.tobytes()
    return (
        out
        + struct.pack("<I", 1)
        + text("decoder/projection/weight")
        + text("decoder/embeddings/weight")
    )


@pytest.fixture
def members() -> dict[str, bytes]:
    """A package's files: a tiny random Whisper whose model.bin comes in two parts."""
    tokenizer = Tokenizer(models.BPE({mark: i for i, mark in enumerate(MARKS)}, []))
    model = ctranslate2_bytes(ctranslate2_arrays(tiny_whisper()))
    lists = {
        "suppress_ids": [2],
        "suppress_ids_begin": [0],
        "alignment_heads": [[0, 1]],
        "lang_ids": [],
    }
    parts = {"model.bin.part1": model[:1000], "model.bin.part2": model[1000:]}
    return {
        **parts,
        "config.json": json.dumps(lists).encode(),
        "tokenizer.json": tokenizer.to_str().encode(),
    }


@pytest.fixture
def downloads(members: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The tiny package is known, its wheel is copied instead of downloaded, no hub answers."""
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in members.items()}
    source = weights.Source("org/tiny", "0" * 40, ("tiny==1",), hashes, "ctranslate2", "MIT", 1, 1)
    monkeypatch.setitem(weights.KNOWN, NAME, source)
    asked: list[tuple[str, ...]] = []

    def download(packages: tuple[str, ...], wheels: Path) -> None:
        asked.append(packages)
        wheels.mkdir()
        with zipfile.ZipFile(wheels / "tiny-1-py3-none-any.whl", "w") as wheel:
            for name, data in members.items():
                wheel.writestr(f"tiny/data/{name}", data)

    monkeypatch.setattr(packages, "download", download)
    monkeypatch.setattr(weights, "_from_hub", lambda *_: (None, "ConnectError: nobody answers."))
    return asked


def visible(root: Path) -> list[str]:
    """What a conversion left under a root, the lock file aside."""
    return sorted(path.name for path in root.iterdir() if path.suffix != ".lock")


def test_a_ctranslate2_file_comes_back_as_the_same_whisper(downloads, tmp_path):
    folder = find_weights(NAME, tmp_path)
    loaded, info = WhisperForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert (
        not info["missing_keys"] and not info["unexpected_keys"] and loaded.dtype == torch.float32
    )
    original = tiny_whisper().state_dict()
    assert loaded.state_dict().keys() == original.keys()
    for name, value in loaded.state_dict().items():
        torch.testing.assert_close(value, original[name], rtol=0, atol=0, msg=name)
    assert loaded.generation_config.suppress_tokens == [2]
    assert loaded.generation_config.decoder_start_token_id == MARKS.index("<|startoftranscript|>")


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


def test_a_conversion_is_silent_and_draws_no_random_numbers(downloads, tmp_path, capfd):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    find_weights(NAME, tmp_path)
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)
    assert capfd.readouterr() == ("", "")


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


@pytest.mark.parametrize("cut", [3, 40, 5000])
def test_a_cut_model_file_is_refused(cut, members, tmp_path):
    whole = members["model.bin.part1"] + members["model.bin.part2"]
    (tmp_path / "model.bin").write_bytes(whole[:cut])
    with pytest.raises(
        WeightsError, match=r"model.bin is no readable CTranslate2 Whisper: .* Fetch it again."
    ):
        ctranslate2.read_arrays(tmp_path / "model.bin")


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


def test_offline_mode_asks_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(
        "huggingface_hub.get_session", lambda: pytest.fail("the hub was asked in offline mode")
    )
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(WeightsError, match=r"HF_HUB_OFFLINE is set\. Run `hf download org/model"):
        find_weights("org/model", tmp_path)


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


@pytest.mark.weights
def test_smollm2_knows_the_capital_of_france():
    folder = find_weights("SmolLM2-135M-Instruct")
    tokenizer, model = (
        AutoTokenizer.from_pretrained(folder),
        AutoModelForCausalLM.from_pretrained(folder),
    )
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    assert prompt.startswith(
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    )
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
    out = model.generate(**ids, do_sample=False, max_new_tokens=20)[0, ids.input_ids.shape[1] :]
    assert "Paris" in tokenizer.decode(out)
    assert out[-1] == tokenizer.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.weights
def test_smollm2_splits_digits_one_by_one_and_keeps_every_character():
    tokenizer = AutoTokenizer.from_pretrained(find_weights("SmolLM2-135M-Instruct"))
    assert tokenizer.tokenize("a  12") == ["a", "ĠĠ", "1", "2"]
    for text in ("  two  spaces, 3.14 and\n\n\tdon't", "naïve 日本語 🎧<|im_end|>"):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


@pytest.mark.weights
def test_whisper_tiny_en_loads_strictly_with_its_tokenizer():
    folder = find_weights("whisper-tiny.en")
    model, info = WhisperForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (
        tokenizer.decode(tokenizer("Good morning").input_ids, skip_special_tokens=True)
        == "Good morning"
    )
    start = [
        model.generation_config.decoder_start_token_id,
        model.generation_config.no_timestamps_token_id,
    ]
    assert tokenizer.convert_ids_to_tokens(start) == ["<|startoftranscript|>", "<|notimestamps|>"]
