"""What notebook 02 shows: the adapter by hand is the package's, faults run, and only a reference
finds them all.
"""

import re

import pandas as pd
import pytest

from desta_lab.world.attributes import DESCRIBED
from desta_lab.world.describe import mentioned_values

pytestmark = pytest.mark.weights


@pytest.fixture
def table(ran) -> pd.DataFrame:
    return ran.table.set_index("variant")


def test_what_was_built_by_hand_is_the_packages_adapter(table) -> None:
    assert table.at["built by hand", "difference"] < 1e-4
    assert abs(table.at["built by hand", "score"] - table.at["package, as it runs", "score"]) < 0.06
    assert table.at["built by hand", "score"] > 0.7


def test_the_order_of_frames_changes_nothing(table) -> None:
    assert table.at["frames shuffled", "difference"] < 1e-4


def test_every_fault_runs_and_shows_in_the_comparison(table) -> None:
    faults = table[table["kind"] == "fault"]
    assert (
        len(faults) == 8
        and (faults["difference"] > 100 * table.at["built by hand", "difference"]).all()
        and (faults["caught"].map(str) == "True").all()
    ), faults


def test_rounding_is_measured_and_lies_far_below_every_fault(ran, table) -> None:
    rounding = float(ran.printed.split("makes a difference of ")[1].split(";")[0])
    faults = table[table["kind"] == "fault"]
    assert 0 < rounding < 1e-4 and faults["difference"].min() > 100 * rounding


def test_the_right_adapter_tells_the_clip_of_the_example_rightly(ran) -> None:
    cell = next(c for c in ran.notebook.cells if "def named_rightly" in c.source)
    description, page = cell.outputs[0]["text"], cell.outputs[-1]["data"]["text/html"]
    said = re.findall(r"<th>built by hand</th>\s*<td>(.+?)</td>", page)[0]
    for name in DESCRIBED:
        assert mentioned_values(said, name) == mentioned_values(description, name), said


def test_answers_betray_some_faults_and_hide_others(table) -> None:
    seen = table.loc[table["kind"] == "fault", "seen"].map(str) == "True"
    assert seen["keys and values swapped"] and not seen.all(), seen
    assert table.at["softmax over the queries", "low"] > 0.3, "it still hears"


def test_the_controls_stay_at_chance_and_the_oracle_does_not(table) -> None:
    assert (
        table.loc[["untrained connector", "another speaker's clip", "silence"], "score"].abs()
        < 0.25
    ).all()
    assert table.at["text oracle", "score"] > 0.9


def test_the_published_connector_has_as_many_parameters_as_its_authors_count(ran) -> None:
    measured = ran.measured
    assert measured["published"] == pytest.approx(131.540224)
