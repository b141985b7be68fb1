"""One small spoken world, rendered once for all its tests."""

import pytest

from desta_lab.world import spoken

SMALL = {"train": 96, "test": 32}


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    return spoken.build_spoken_corpus(
        tmp_path_factory.mktemp("world") / "spoken", clips=SMALL, workers=1
    )
