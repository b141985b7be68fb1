"""A test set is told by its files, and a bad row is named with its place and remedy."""

import json

import pytest

from desta_lab.benchmarks.benchmark import Benchmark, get_benchmark, list_benchmarks
from desta_lab.benchmarks.formats import BenchmarkError
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
        ("m.json", [mmau(question=7)], "mmau", "item 0: question is 7, not a text"),
        ("m.json", [mmau(choices=7)], "mmau", "choices is 7, not a list, each a text or a number"),
        ("m.json", [mmau(choices=["a", None])], "mmau", r'choices is \["a", null\], not a list'),
        ("m.json", [mmau(task=[1])], "mmau", r"task is \[1\], not a text"),
        ("m.json", [mmau(model_output={})], "mmau", "model_output is {}, not a text or a number"),
        ("m.json", [mmau(scores=["0", "1"])], "mmau", "scores is .*, not a list, each a number"),
        ("m.json", [mmau(scores=0.5)], "mmau", "scores is 0.5, not a list, each a number"),
        (
            "m.json",
            [mmau(scores=[10**400, 0])],
            "mmau",
            r"item 0: scores are \[inf, 0\.0\], not all",
        ),
        ("m.json", [mmau(scores=[True, False])], "mmau", "not a list, each a number"),
        ("m.json", [mmau(scores=[float("nan"), 0.0])], "mmau", "NaN is no number"),
        ("m.json", '[{"scores": [1e999, 0]}]', "mmau", "item 0: no id"),
        ("m.json", [mmau(audio_id="../../etc/passwd")], "mmau", "leads out of its folder"),
        ("m.json", [mmau(audio_id="/etc/passwd")], "mmau", "leads out of its folder"),
        ("m.json", [mmau(audio_id="a\\..\\..\\b")], "mmau", "leads out of its folder"),
        ("m.json", [mmau(id=str(i)) for i in (1, 2, 3)] * 2, "mmau", "1, sound  2, sound  3 are"),
        ("m.json", [None], "mmau", "item 0: no id"),
        ("m.json", '{"predictions": [], "predictions": []}', "dynamic-superb", "stands twice"),
        (
            "m.json",
            {"predictions": [{"id": "a", "instruction": "?", "label": "x"}] * 2},
            "dynamic-superb",
            "only closed questions",
        ),
        (
            "m.json",
            {"predictions": [{"id": "", "instruction": "?", "label": x} for x in "ab"]},
            "dynamic-superb",
            "'' names no clip; write the name of its file",
        ),
        (
            "metadata.json",
            {"..": {"instruction": "?", "label": "x"}, "b.wav": {"instruction": "?", "label": "y"}},
            "dynamic-superb",
            "leads out of its folder",
        ),
        ("m.json", {"predictions": [1]}, "dynamic-superb", "predictions is .*, each an object"),
        (
            "m.json",
            {"attribute": 7, "type": "multi", "results": {"a": 1}},
            "sakura",
            "attribute is 7, not a text",
        ),
        ("m.json", "[" * 100_000, "mmau", "no JSON"),
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


def test_scores_that_are_not_finite_are_refused(tmp_path):
    text = json.dumps([mmau(scores=[0.5, -1.0])]).replace("0.5", "1e999")
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(BenchmarkError, match=r"item 0: scores are \[inf, -1.0\], not all finite"):
        list_benchmarks()["mmau"].read(tmp_path)


def test_a_file_in_another_encoding_is_a_sentence_and_a_byte_order_mark_is_none(tmp_path):
    path = tmp_path / "m.json"
    path.write_text(json.dumps([mmau()]), encoding="utf-16")
    with pytest.raises(BenchmarkError, match="no text in UTF-8"):
        list_benchmarks()["mmau"].read(path)
    path.write_text(json.dumps([mmau()]), encoding="utf-8-sig")
    assert len(list_benchmarks()["mmau"].read(path)) == 1


def test_a_file_that_is_not_there_is_looked_for_and_not_saved_anew(tmp_path):
    with pytest.raises(BenchmarkError, match=r"m\.json: no file that can be read .*check the path"):
        get_benchmark(None, tmp_path / "m.json")


def test_an_answer_that_is_there_twice_is_named(tmp_path):
    said = {"instruction": "Is it? The answer could be yes or no.", "label": "yes", "pred": "no"}
    rows = [said | {"id": clip} for clip in ("a.wav", "b.wav", "a.wav")]
    path = write_json(tmp_path / "S.json", {"predictions": rows})
    with pytest.raises(BenchmarkError, match=r"a\.wav is there twice; keep one of each"):
        list_benchmarks()["dynamic-superb"].read(path)


def recognise(path) -> str:
    return get_benchmark(None, path).name


def test_the_test_set_is_told_by_its_files(tmp_path):
    assert recognise(answers(tmp_path / "s", capital=1, reasoned=1)) == "speech-ifeval"
    assert recognise(sakura(tmp_path / "k", {"single": [0]})) == "sakura"
    assert recognise(write_json(tmp_path / "m.json", [mmau()])) == "mmau"
    assert recognise(write_json(tmp_path / "d" / "d.json", {"predictions": []})) == "dynamic-superb"
    with pytest.raises(BenchmarkError, match="--benchmark"):
        recognise(tmp_path / "nothing")


def test_a_test_set_whose_files_have_no_name_of_their_own_is_told_by_its_answers(tmp_path):
    class Plain(type(list_benchmarks()["dynamic-superb"])):
        questions = Benchmark.questions  # a subclass need not say it
        answers = "said"

    assert not Plain().recognises(tmp_path)
    write_json(tmp_path / "a.json", {"said": []})
    assert Plain().recognises(tmp_path)


def test_a_folder_of_two_test_sets_asks_which(tmp_path):
    answers(tmp_path, capital=1, reasoned=1)
    write_json(tmp_path / "m.json", [mmau()])
    with pytest.raises(BenchmarkError, match="files of mmau or speech-ifeval; say which"):
        get_benchmark(None, tmp_path)
    assert get_benchmark("mmau", tmp_path).name == "mmau"
    with pytest.raises(BenchmarkError, match="no test set 'mmlu'; there is dynamic-superb, mmau"):
        get_benchmark("mmlu", tmp_path)
