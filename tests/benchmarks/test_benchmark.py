"""A test set is told by its files, and a bad row is named with its place and remedy."""

import json

import pytest

from desta_lab.benchmarks.benchmark import BenchmarkError, get_benchmark, list_benchmarks
from tests.benchmarks.samples import answers, mmau, sakura, write_json


@pytest.mark.parametrize(
    "name, content, benchmark, said",
    [
        ("m.json", "[", "mmau", "no JSON"),
        ("m.json", {"a": 1}, "mmau", "no list of questions"),
        ("m.json", [mmau(), {"id": 1}], "mmau", "item 1: no audio_id, question, choices; add"),
        ("m.json", [mmau(), mmau()], "mmau", "sound  7 is there twice"),
        ("m.json", [mmau(choices=["one"])], "mmau", "item 0: 1 choices"),
        ("m.json", [mmau(scores=[0.0])], "mmau", "item 0: 1 scores for 2 options"),
        ("m.json", [], "mmau", "no question here"),
        (
            "m.json",
            {"attribute": "Animal", "type": "one", "results": {"a": 1}},
            "sakura",
            "neither single nor multi",
        ),
        (
            "m.json",
            {"attribute": "Animal", "type": "multi", "results": {"a.wav": {"label": "x"}}},
            "sakura",
            "a.wav: no instruction",
        ),
        ("m.json", {"result": {}}, "sakura", "no attribute, type, results"),
        (
            "metadata.csv",
            "file,single_instruction\na.wav,?\n",
            "sakura",
            "line 2: no single_answer, multi_instruction",
        ),
        (
            "m.json",
            {"predictions": [{"id": "a.wav", "pred": "x"}]},
            "dynamic-superb",
            "a.wav: no instruction, label",
        ),
        (
            "m.json",
            {"predictions": [{"instruction": "Say.", "label": "x"}]},
            "dynamic-superb",
            "only closed questions",
        ),
        ("m.json", [1], "dynamic-superb", "no predictions"),
    ],
)
def test_a_bad_row_of_a_choice_is_named_with_its_file_and_remedy(
    tmp_path, name, content, benchmark, said
):
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / name).write_text(text)
    with pytest.raises(BenchmarkError, match=said) as error:
        list_benchmarks()[benchmark].read(tmp_path)
    assert str(tmp_path) in str(error.value)


def recognise(path) -> str:
    return get_benchmark(None, path).name


def test_the_test_set_is_told_by_its_files(tmp_path):
    assert recognise(answers(tmp_path / "s", capital=1, reasoned=1)) == "speech-ifeval"
    assert recognise(sakura(tmp_path / "k", {"single": [0]})) == "sakura"
    assert recognise(write_json(tmp_path / "m.json", [mmau()])) == "mmau"
    assert recognise(write_json(tmp_path / "d" / "d.json", {"predictions": []})) == "dynamic-superb"
    with pytest.raises(BenchmarkError, match="--benchmark"):
        recognise(tmp_path / "nothing")


def test_a_folder_of_two_test_sets_asks_which(tmp_path):
    answers(tmp_path, capital=1, reasoned=1)
    write_json(tmp_path / "m.json", [mmau()])
    with pytest.raises(BenchmarkError, match="files of mmau or speech-ifeval; say which"):
        get_benchmark(None, tmp_path)
    assert get_benchmark("mmau", tmp_path).name == "mmau"
    with pytest.raises(BenchmarkError, match="no test set 'mmlu'; there is dynamic-superb, mmau"):
        get_benchmark("mmlu", tmp_path)
