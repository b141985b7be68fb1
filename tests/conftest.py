"""What every test shares: shapes and types of the package are checked, nothing reaches the network,
no window opens. And how two workers share the tests.
"""

import gc
import os
import re
from collections.abc import Iterator

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models gain nothing from a second thread

import pytest
import torch
from jaxtyping import install_import_hook
from xdist.scheduler import LoadScopeScheduling

# Before anything imports desta_lab: from here on each of its functions checks its arguments' types
# and shapes.
install_import_hook("desta_lab", "beartype.beartype")

# The units of work that take minutes, longest first.
LONG = (
    "tests/experiments/test_quickstart.py",
    "notebook 10",
    "tests/experiments/test_inside.py",
    "notebook 04",
    "notebook 09",
    "notebook 06",
    "notebook 08",
)


def unit(nodeid: str) -> str:
    """What one worker runs as a whole: a file, or all tests of one notebook, which runs once."""
    file, _, test = nodeid.partition("::")
    of_notebook = re.search(r"notebooks/test_(\d\d)_", file) or (
        file.endswith("test_notebooks.py") and re.search(r"\[(?:\w+-)?(\d\d)\]$", test)
    )
    return f"notebook {of_notebook[1]}" if of_notebook else file


class ByUnit(LoadScopeScheduling):
    """Gives each unit to the next free worker, in the order of the tests."""

    def _split_scope(self, nodeid: str) -> str:
        return unit(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByUnit:
    config.option.loadscopereorder = False  # ours is the order
    return ByUnit(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long units come first: one that began last would run alone while the other worker waits."""
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(unit(item.nodeid), len(LONG)))


THREADS = torch.get_num_threads()


@pytest.fixture(autouse=True)
def _the_number_of_threads_stays() -> Iterator[None]:
    """A library that raises it slows every test after it, and the other worker's."""
    yield
    assert torch.get_num_threads() == THREADS


def pytest_collection_finish() -> None:
    """What the imports left lives to the end: garbage collections need not look at it."""
    gc.collect()
    gc.freeze()
