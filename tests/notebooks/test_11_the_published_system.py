"""Notebook 11: the published numbers are printed as stored, ours stand apart, and obeying is not
hearing.
"""

import re
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest

from desta_lab.benchmarks import comparison
from desta_lab.course import notebooks
from desta_lab.model import chat, presets
from desta_lab.model.audio_llm import ProvenanceError
from desta_lab.model.connector import ConnectorShape, QFormer
from desta_lab.model.weights import WeightsError
from desta_lab.published import adapters, systems
from desta_lab.world.describe import describe
from tests import tiny

pytestmark = pytest.mark.weights


@pytest.fixture(scope="module")
def rates(ran) -> pd.DataFrame:
    """System × column, from the table of the headline."""
    return ran.table.set_index("system")


def test_what_was_published_is_drawn_as_stored(rates) -> None:
    stored = comparison.read_published("Speech-IFEval").pivot(
        index="system", columns="metric", values="value"
    )
    theirs = rates[rates["protocol"] == "Speech-IFEval"]
    assert len(theirs) == 7
    for metric in ("IFrate", "delta"):
        pd.testing.assert_series_equal(theirs[metric], stored.loc[theirs.index, metric])
    assert theirs.loc["DeSTA2", "text"] == pytest.approx(
        stored.loc["Llama-3-8B-Instruct (text)", "IFrate"], abs=0.05
    )


def test_ours_carry_their_own_protocol_and_their_controls(rates) -> None:
    ours = rates[rates["protocol"] == "ours"]
    assert set(ours.index) == {
        "ours, self-generated",
        "ours, bare label",
        "untrained connector",
        "ours, on silence",
    }
    assert ((ours["low"] <= ours["IFrate"]) & (ours["IFrate"] <= ours["high"])).all()
    assert (ours["text"] > 90).all()  # the text oracle


def test_bare_labels_disobey_by_ear_and_silence_obeys_as_well_as_the_clip(rates) -> None:
    assert rates.loc["ours, bare label", "delta_high"] < 0
    assert (
        rates.loc["ours, on silence", "IFrate"] > 90
        and rates.loc["ours, self-generated", "IFrate"] > 90
    )


def test_a_small_part_was_released_and_the_machine_is_told_what_the_rest_takes(ran) -> None:
    assert 1 < ran.measured["released"] < 2
    assert ran.measured["memory"] == pytest.approx(18.6, abs=0.1)
    assert "Not opened here: " in ran.printed or "hears the clip" in ran.printed


def test_the_miniature_is_patched_with_its_controls(ran) -> None:
    rows = re.findall(r"^((?:both|sound|words).*?)  +(\S+) +(\S+) +(\S+)$", ran.printed, re.M)
    share, low, high = ({row[0]: float(row[i]) for row in rows} for i in (1, 2, 3))
    assert len(share) == 5
    assert share["both (must be 1)"] == pytest.approx(1, abs=1e-4)
    assert share["words"] > share["words of a third clip"]
    assert all(low[name] <= share[name] <= high[name] for name in share)


def test_the_cells_that_open_the_system_answer_where_its_parts_are(
    tmp_path, monkeypatch, capsys
) -> None:
    ears = tiny.hf_folder(tmp_path / "ears", tiny.whisper())
    mind = tiny.hf_folder(tmp_path / "mind", tiny.causal(), tiny.tokenizer())
    shape = ConnectorShape(queries=6, depth=1, heads=4, ffn=32)
    system = replace(
        presets.desta25(),
        encoder=str(ears),
        backbone=str(mind),
        seconds=tiny.SECONDS,
        connector=shape,
    )
    width = tiny.causal().config.hidden_size
    adapter = QFormer(taps=4, d_enc=64, d_llm=width, queries=6, depth=1, heads=4, ffn=32)
    adapters.save_adapter(adapter, tmp_path / "adapter.safetensors")
    monkeypatch.setattr("desta_lab.model.build.transcribe", lambda ears, waves: ["hello there."])
    corpus = tiny.corpus(tmp_path / "corpus", 2)
    names = {
        "ADAPTER": tmp_path / "adapter.safetensors",
        "SYSTEM": system,
        "question": "What is it?",
        "chat": chat,
        "systems": systems,
        "describe": describe,
        "ProvenanceError": ProvenanceError,
        "WeightsError": WeightsError,
        "experiment": SimpleNamespace(clips=lambda split: corpus.clips, corpus=corpus),
    }
    (source,) = notebooks.find_sources(["11"])
    cells = [
        cell.source
        for cell in notebooks.build_notebook(source, solved=True).cells
        if cell.cell_type == "code"
    ]
    opening = next(i for i, cell in enumerate(cells) if "systems.open_system(" in cell)
    for cell in cells[opening : opening + 2]:
        exec(cell, names)
    said = capsys.readouterr().out
    assert "hello there." in said and "reads its description" in said and "Not opened" not in said
