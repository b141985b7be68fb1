"""SAKURA pairs two questions about a clip, and its judge stands apart."""

import pytest

from desta_lab.benchmarks.formats import BenchmarkError
from desta_lab.benchmarks.sakura import BENCHMARK as SAKURA
from desta_lab.benchmarks.sakura import lettered_options
from tests.benchmarks.samples import sakura, write_json


def test_options_are_found_in_the_question_as_in_sakura():
    question = "Which word(s) fit? (a) dog (b) cat (c) a small bird (d) Mr."
    assert lettered_options(question) == ("dog", "cat", "a small bird", "Mr.")
    with pytest.raises(BenchmarkError, match="in order"):
        lettered_options("Which one? (a) dog (c) cat")


def test_multi_hop_is_conditioned_on_the_same_clips_single_hop(tmp_path):
    items = SAKURA.read(sakura(tmp_path, {"single": [0, 1, 2, 3], "multi": [0, 1, 2, 4]}))
    rates = SAKURA.score(items).set_index(["group", "protocol", "metric"]).sort_index()
    parsed = rates.loc["animal", "parsed"]
    assert parsed["value"].to_dict() == {"single": 50, "multi": 50, "multi | single": 75}
    assert (parsed["low"] < parsed["value"]).all() and (parsed["high"] > parsed["value"]).all()
    assert (
        (parsed["commonest"] == 50).all()
        and (parsed["chance"] == 50).all()
        and (parsed["clips"] == 8).all()
    )


def test_all_of_sakura_is_the_mean_of_its_tracks_and_their_intervals_are_of_clips(tmp_path):
    sakura(tmp_path, {"single": list(range(8)), "multi": list(range(8))})
    for hop in ("single", "multi"):
        row = {"instruction": "? (a) x (b) y", "label": "(a) x", "response": "(b)"}
        write_json(
            tmp_path / f"g_{hop}.json",
            {"attribute": "Gender", "type": hop, "results": {"1.wav": row}},
        )
    rates = SAKURA.score(SAKURA.read(tmp_path)).set_index(["group", "metric"]).sort_index()
    assert (
        rates.loc[("animal", "multi"), "value"] == 100
        and rates.loc[("gender", "multi"), "value"] == 0
    )
    assert rates.loc[("all", "multi"), "value"] == 50


def test_a_judges_word_is_a_protocol_of_its_own(tmp_path):
    items = SAKURA.read(sakura(tmp_path, {"single": [0], "multi": [0]}, judged=True))
    rates = SAKURA.score(items).set_index(["group", "protocol", "metric"])["value"].sort_index()
    assert rates["all", "judge", "single"] == 100 and rates["all", "parsed", "single"] == 12.5


def test_a_clip_with_one_hop_is_named(tmp_path):
    items = SAKURA.read(sakura(tmp_path, {"single": [0]}))
    with pytest.raises(BenchmarkError, match=r"single\.json, 0\.wav: answered in one hop"):
        SAKURA.score(items)


def test_a_judge_is_read_strictly(tmp_path):
    sakura(tmp_path, {"single": [0], "multi": [0]}, judged=True)
    path = tmp_path / "m_single_judgements.json"

    def refused(results: dict, said: str) -> None:
        write_json(path, {"results": results})
        with pytest.raises(BenchmarkError, match=said):
            SAKURA.read(tmp_path)

    refused({"0.wav": {"Judgement": "maybe"}}, "0.wav: the judgement 'maybe' is neither")
    refused({"0.wav": {"Judgement": True}}, "0.wav: Judgement is true, not a text")
    refused({"0.wav": "correct"}, "0.wav: no field")
    refused({"99.wav": {"Judgement": "correct"}}, "99.wav judged, but not answered")


@pytest.mark.parametrize("attribute", ["../../up", "a/b", "/abs", "c:\\x", "a\\b"])
def test_an_attribute_never_becomes_a_path(tmp_path, attribute):
    row = {"instruction": "? (a) x (b) y", "label": "(a) x"}
    content = {"attribute": attribute, "type": "single", "results": {"1.wav": row}}
    with pytest.raises(BenchmarkError, match="is a path; write a name without slashes"):
        SAKURA.read(write_json(tmp_path / "m.json", content))


@pytest.mark.parametrize(
    "content, said",
    [
        (b"file,x\xff\n", "no text in UTF-8"),
        ("file,x\n".encode("utf-16"), "no text in UTF-8"),
        (b"file,single_instruction\n" + b"a" * 131_073 + b",b\n", "line 2: no CSV"),
        (b'file,x\n"open', "line 2: no CSV"),
        (b"file,x,x\na,b,c\n", "line 1: the column 'x' is there twice; keep one of each"),
        (b"file,x\na,b,c\n", "line 2: 1 cells more than columns"),
    ],
)
def test_a_table_that_is_no_csv_is_a_sentence_with_its_line(tmp_path, content, said):
    (tmp_path / "metadata.csv").write_bytes(content)
    with pytest.raises(BenchmarkError, match=said):
        SAKURA.read(tmp_path)
