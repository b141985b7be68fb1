"""What the model is given under each condition."""

import pytest
import torch

from desta_lab.evaluation import conditions
from tests import tiny


def test_shuffled_audio_is_always_another_speakers(tmp_path) -> None:
    clips = list(tiny.corpus(tmp_path, 12).clips)
    for clip, row in zip(clips, conditions.shuffled_partners(clips), strict=True):
        assert clips[row].speaker != clip.speaker
    with pytest.raises(ValueError, match="two speakers"):
        conditions.shuffled_partners(clips[:2])


def test_silence_is_the_same_for_every_clip_and_hears_none_of_them(tmp_path) -> None:
    llm, clips = tiny.audio_llm(), list(tiny.corpus(tmp_path, 4).clips)
    silence = conditions.make_condition("silence", llm, clips)
    assert list(silence.rows) == [0] * len(clips)
    torch.testing.assert_close(silence.others, conditions.embed_silence(llm))


def test_an_unknown_condition_is_refused_with_the_known_ones(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"'unknown'; there are audio, shuffled, silence.*oracle"):
        conditions.make_condition("unknown", tiny.audio_llm(), [])
