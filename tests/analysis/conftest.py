"""What the tests of the instruments share."""

import pytest

from desta_lab.model.audio_llm import AudioLLM
from tests import tiny


@pytest.fixture(scope="module")
def llm() -> AudioLLM:
    """A tiny AudioLLM without dropout, new in every file."""
    return tiny.audio_llm(dropout=0.0)
