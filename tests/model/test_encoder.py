"""The encoder returns the outputs of its tapped layers, in order and before the last norm."""

from types import SimpleNamespace

import pytest
import torch
from transformers import GenerationConfig, WhisperModel

from desta_lab.model import encoder as whisper_encoder
from desta_lab.model.encoder import PUBLISHED_TAPS, Encoder
from tests import tiny


@pytest.fixture
def mel() -> torch.Tensor:
    return torch.randn(3, 80, 600, generator=torch.Generator().manual_seed(1))


def test_taps_are_layer_outputs_before_the_final_norm_numbered_from_zero(mel):
    reference = tiny.whisper().encoder
    with torch.no_grad():
        out = reference(mel, output_hidden_states=True)
        before_last = reference.layers[3](out.hidden_states[3], None)
    states = Encoder(tiny.whisper().encoder, (0, 1, 2, 3), 6.0)(mel)
    for layer in range(3):
        torch.testing.assert_close(states[layer], out.hidden_states[layer + 1])
    before_last = before_last[0] if isinstance(before_last, tuple) else before_last
    torch.testing.assert_close(states[3], before_last)
    torch.testing.assert_close(reference.layer_norm(states[3]), out.last_hidden_state)
    assert not torch.allclose(states[3], out.last_hidden_state, atol=0.1)


def test_taps_come_in_the_order_asked_for(mel):
    every = Encoder(tiny.whisper().encoder, (0, 1, 2, 3), 6.0)(mel)
    torch.testing.assert_close(Encoder(tiny.whisper().encoder, (2, 0), 6.0)(mel), every[[2, 0]])


def test_the_batch_axis_is_kept_and_clips_do_not_mix(mel):
    encoder = Encoder(tiny.whisper().encoder, (1, 3), 6.0)
    assert encoder(mel).shape == (2, 3, 300, 64)
    assert encoder(mel[:1]).shape == (2, 1, 300, 64)
    torch.testing.assert_close(encoder(mel[1:2])[:, 0], encoder(mel)[:, 1], atol=1e-5, rtol=1e-4)


def test_a_crop_reads_the_first_rows_of_the_position_table(mel):
    whole = tiny.whisper()
    config = type(whole.config)(**{**whole.config.to_dict(), "max_source_positions": 200})
    short = WhisperModel(config).eval()
    weights = whole.state_dict()
    weights["encoder.embed_positions.weight"] = weights["encoder.embed_positions.weight"][:200]
    short.load_state_dict(weights)
    with torch.no_grad():
        expected = short.encoder(mel[..., :400], output_hidden_states=True).hidden_states[2]
    encoder = Encoder(whole.encoder, (1,), 4.0)
    assert encoder.frames == 200
    torch.testing.assert_close(encoder(mel[..., :400])[0], expected)


def test_the_attention_implementation_does_not_change_the_numbers(mel):
    encoder = Encoder(tiny.whisper().encoder, (0, 3), 6.0).double()
    states = {}
    for how in ("eager", "sdpa"):
        encoder.whisper.set_attn_implementation(how)
        assert encoder.whisper.layers[0].self_attn.config._attn_implementation == how
        states[how] = encoder(mel.double())
    torch.testing.assert_close(states["eager"], states["sdpa"], atol=1e-10, rtol=0)


def test_nothing_in_it_learns():
    encoder = Encoder(tiny.whisper().encoder, (0,), 1.0)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder(torch.zeros(1, 80, 100)).requires_grad


def test_no_hook_stays_behind(mel):
    encoder = Encoder(tiny.whisper().encoder, (0, 1), 6.0)
    with pytest.raises(ValueError, match="mel"):
        encoder(mel[..., :10])
    encoder(mel)
    assert not any(layer._forward_hooks for layer in encoder.whisper.layers)


@pytest.mark.parametrize("taps", [(), (4,), (-1,), (0, 7)])
def test_taps_outside_the_encoder_are_refused(taps):
    with pytest.raises(ValueError, match=r"must lie in 0 … 3"):
        Encoder(tiny.whisper().encoder, taps, 1.0)


@pytest.mark.parametrize("seconds", [6.02, 30.0, 0.0])
def test_more_seconds_than_it_knows_are_refused(seconds):
    with pytest.raises(ValueError, match=r"this encoder knows 300, that is 6 s"):
        Encoder(tiny.whisper().encoder, (0,), seconds)


@pytest.mark.parametrize("layers", [4, 12])
def test_a_folder_loads_with_the_published_taps_of_its_size(tmp_path, layers):
    tiny.hf_folder(tmp_path, tiny.whisper(layers))
    encoder = Encoder.load(tmp_path, 1.0)
    assert encoder.taps == PUBLISHED_TAPS[layers]
    states = encoder.encode([tiny.wave(0, 0.5), tiny.wave(1, 3.0)])
    assert states.shape == (4, 2, 50, 64)
    assert states.isfinite().all()


def test_a_size_without_published_taps_asks_for_them(tmp_path):
    tiny.hf_folder(tmp_path, tiny.whisper(3))
    with pytest.raises(ValueError, match="no published taps for 3 encoder layers; pass taps="):
        Encoder.load(tmp_path, 1.0)
    assert Encoder.load(tmp_path, 1.0, taps=(0, 2)).taps == (0, 2)


@pytest.mark.parametrize(("tokens", "many"), [(51_864, False), (51_865, True)])
def test_old_settings_of_a_whisper_are_completed(tokens, many):
    settings = GenerationConfig()
    model = SimpleNamespace(generation_config=settings, config=SimpleNamespace(vocab_size=tokens))
    marks = {"<|en|>": 1, "<|haw|>": 2, "<|transcribe|>": 3, "<|notimestamps|>": 4, "a": 5}
    assert whisper_encoder._speaks_many(model, SimpleNamespace(get_vocab=lambda: marks)) is many
    if many:
        assert settings.lang_to_id == {"<|en|>": 1, "<|haw|>": 2}
        assert settings.task_to_id == {"transcribe": 3}
        assert settings.no_timestamps_token_id == 4
