"""What was measured stands beside what was published, and what cannot be compared is marked."""

import io
import os
import sys

import pandas as pd
import pytest

from desta_lab import cli
from desta_lab.audio import DataFault
from desta_lab.benchmarks import comparison
from desta_lab.benchmarks.formats import BenchmarkError
from desta_lab.benchmarks.sakura import BENCHMARK as SAKURA
from desta_lab.benchmarks.speech_ifeval import BENCHMARK as SPEECH_IFEVAL
from tests.benchmarks.samples import answers, sakura


def test_every_published_number_has_a_source_and_a_protocol():
    table = pd.read_csv(comparison.PUBLISHED)
    needed = ["benchmark", "system", "metric", "value", "protocol", "items", "source"]
    assert not table[needed].isna().any(axis=None)
    assert not table.duplicated(["benchmark", "system", "metric"]).any()


def test_published_forgetting_rates_follow_from_their_ifrates():
    table = comparison.read_published("Speech-IFEval").pivot(
        index="system", columns="metric", values="value"
    )
    text = table.loc["Llama-3-8B-Instruct (text)", "IFrate"]
    assert 100 * (table.loc["DeSTA2", "IFrate"] - text) / text == pytest.approx(
        table.loc["DeSTA2", "delta"], abs=0.01
    )


def test_sakuras_published_averages_are_the_means_of_their_tracks():
    table = pd.concat(
        [
            comparison.read_published(f"SAKURA {t}")
            for t in ("gender", "language", "emotion", "animal")
        ]
    )
    means = table.groupby(["system", "metric"]).agg(value=("value", "mean"), items=("items", "sum"))
    total = comparison.read_published("SAKURA").set_index(["system", "metric"]).reindex(means.index)
    assert (means["value"] - total["value"]).abs().max() < 0.06 and (
        means["items"] == total["items"]
    ).all()


def test_what_cannot_be_compared_with_the_published_is_marked_and_said(tmp_path):
    rates = SPEECH_IFEVAL.score(
        SPEECH_IFEVAL.read(answers(tmp_path, capital=4, reasoned=4, of=200))
    )
    table, note = comparison.compare_with_published(rates, SPEECH_IFEVAL, "ours")
    theirs = (
        table[table["kind"] == "published"].set_index(["system", "metric"])["differs"].sort_index()
    )
    assert (
        theirs["DeSTA2", "cot"] == "*"
        and theirs["DeSTA2", "closed"] == "†"
        and theirs["DeSTA2", "IFrate"] == "*†"
    )
    assert (
        "cot: judge (gpt-4o-2024-11-20) there, our rule here" in note
        and "closed: 933 there, 200 here" in note
    )
    assert "creative" not in set(table["metric"])


def test_sakuras_published_means_are_over_the_measured_tracks(tmp_path):
    items = SAKURA.read(sakura(tmp_path, {"single": [0], "multi": [0]}, judged=True))
    table, note = comparison.compare_with_published(SAKURA.score(items), SAKURA, "ours")
    theirs = table[table["kind"] == "published"]
    row = theirs[(theirs["system"] == "DeSTA2") & (theirs["metric"] == "single")].iloc[0]
    assert row["value"] == 34.4 and row["differs"] == "†" and "500 there, 8 here" in note
    assert theirs["system"].iloc[0] == "Qwen-Audio-Chat"  # the best in multi


def test_the_command_scores_a_folder_beside_the_published(tmp_path, capsys):
    answers(tmp_path / "audio", capital=4, reasoned=4)
    answers(tmp_path / "text", capital=8, reasoned=8)
    where = ["--out", str(tmp_path / "out")]
    assert (
        cli.main(["score", str(tmp_path / "audio"), "--text", str(tmp_path / "text"), *where]) == 0
    )
    said = capsys.readouterr().out
    assert "delta" in said and "-50.0" in said and "DeSTA2" in said and "our rule here" in said
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {
        ".png",
        ".svg",
        ".csv",
        ".json",
    }
    assert cli.main(["score", str(tmp_path / "out"), *where]) == 1


def test_neither_a_poor_terminal_nor_a_strange_name_costs_the_figure(tmp_path, monkeypatch):
    strange = tmp_path / os.fsdecode(b"caf\xe9")  # as an old disk names it
    answers(strange, capital=4, reasoned=4)
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert cli.main(["score", str(strange), "--out", str(tmp_path / "out")]) == 0
    assert "caf\ufffd: " in (tmp_path / "out" / "speech-ifeval.csv").read_text(encoding="utf-8")
    terminal.seek(0)
    assert "\\u2020 other items" in terminal.read()


def test_published_numbers_that_were_changed_are_named_by_their_line(tmp_path, monkeypatch):
    lines = comparison.PUBLISHED.read_text(encoding="utf-8").splitlines()
    path = tmp_path / "published.csv"
    monkeypatch.setattr(comparison, "PUBLISHED", path)
    path.write_text("\n".join([lines[0], lines[1].replace(",per cent,", ",,")]) + "\n")
    with pytest.raises(DataFault, match=f"^{path}, line 2: the column 'unit' has nothing"):
        comparison.read_published("MMLU")
    path.write_text(lines[0].replace("protocol", "rule") + "\n")
    with pytest.raises(DataFault, match=f"^{path}, line 1: no column protocol"):
        comparison.read_published("MMLU")


def test_an_unknown_benchmark_is_a_sentence():
    with pytest.raises(BenchmarkError, match="there is Speech-IFEval"):
        comparison.read_published("MMLU")
