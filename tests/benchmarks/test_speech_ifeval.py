"""Speech-IFEval is scored by its rules: IFrate, the forgetting rate, and reasoning told by whom."""

import json

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from desta_lab.benchmarks import speech_ifeval
from desta_lab.benchmarks.benchmark import BenchmarkError
from tests.benchmarks.samples import CAPITAL, answers, speech_items, write


def test_ifrate_is_the_mean_of_the_sets_with_intervals_over_items(tmp_path):
    rates = speech_ifeval.ifrate(speech_items(answers(tmp_path, capital=8, reasoned=4))).set_index(
        "set"
    )
    assert rates.loc["closed", "rate"] == 80 and rates.loc["cot", "rate"] == 40
    assert rates.loc["IFrate", "rate"] == pytest.approx(60)
    assert (rates["low"] < rates["rate"]).all() and (rates["rate"] < rates["high"]).all()


def test_the_forgetting_rate_is_relative_to_the_models_own_text_llm(tmp_path):
    audio = speech_items(answers(tmp_path / "audio", capital=4, reasoned=4))
    text = speech_items(answers(tmp_path / "text", capital=8, reasoned=8))
    assert speech_ifeval.forgetting_rate(audio, text)[0] == pytest.approx(-50)
    assert speech_ifeval.forgetting_rate(text, text) == (0.0, 0.0, 0.0)


def test_a_mean_is_no_sum_and_the_published_one_is_checked():
    closed, creative, cot = (
        83.71,
        91.75,
        91.50,
    )  # DeSTA2's line; its printed IFrate of 89.23 is not the mean
    assert speech_ifeval._mean(
        {"closed": closed, "creative": creative, "cot": cot}
    ) == pytest.approx(88.99, abs=0.005)


def test_a_published_table_can_be_rebuilt_from_items():
    items = pd.DataFrame(
        {
            "set": ["closed"] * 4,
            "id": list("0123"),
            "constraint": "x",
            "protocol": "rule",
            "followed": [1.0, 1.0, 1.0, 0.0],
        }
    )
    assert speech_ifeval.ifrate(items).set_index("set")["rate"].to_dict() == {
        "closed": 75.0,
        "IFrate": 75.0,
    }


def test_a_judges_word_on_reasoning_stands_apart_from_the_rule(tmp_path):
    answers(tmp_path, capital=10, reasoned=0)
    judged = [{"id": i, "correct": True} for i in range(10)]
    write(tmp_path / "reports" / "llm_eval@chain-of-thought.jsonl", judged)
    items = speech_items(tmp_path)
    rates = {p: speech_ifeval.ifrate(items, p).set_index("set")["rate"] for p in ("rule", "judge")}
    assert rates["rule"]["cot"] == 0 and rates["judge"]["cot"] == 100
    assert rates["rule"]["closed"] == rates["judge"]["closed"] == 100


def test_other_items_than_the_text_llms_are_refused(tmp_path):
    audio = speech_items(answers(tmp_path / "audio", capital=4, reasoned=4, of=9))
    text = speech_items(answers(tmp_path / "text", capital=8, reasoned=8))
    with pytest.raises(BenchmarkError, match="different items"):
        speech_ifeval.forgetting_rate(audio, text)


@pytest.mark.parametrize(
    "line, said",
    [
        ("{", "line 2: no JSON"),
        ("[1]", "line 2: no field"),
        ('"id response"', "line 2: no field"),
        ("7", "line 2: no field"),
        ('{"id": 1}', "line 2: no field response"),
        (
            '{"id": 1, "response": "x", "instruction_id_list": ["no:such"], "kwargs": [{}]}',
            "No check for",
        ),
        ('{"id": 1, "response": "x", "instruction_id_list": ["a"], "kwargs": []}', "line 2 "),
        (
            '{"id": 1, "response": null, '
            '"instruction_id_list": ["startend:quotation"], "kwargs": [{}]}',
            "line 2 ",
        ),
    ],
)
def test_a_bad_row_is_named_with_its_file_and_line(tmp_path, line, said):
    path = tmp_path / "close.jsonl"
    path.write_text(json.dumps({"id": 0, "response": "RAIN", **CAPITAL}) + "\n" + line + "\n")
    with pytest.raises(BenchmarkError, match=said) as error:
        speech_items(tmp_path)
    assert "close.jsonl" in str(error.value)


def test_an_empty_folder_says_what_it_should_hold(tmp_path):
    with pytest.raises(BenchmarkError, match=r"closed_ended_questions\.jsonl"):
        speech_items(tmp_path)


@pytest.mark.parametrize(
    "response, shown",
    [
        ("Rain.", False),
        ("The answer is rain because I hear drops.", False),
        ("It rains. It pours.", False),
        ("Step 1: I listen to the noise. Step 2: I hear drops, so it is rain.", True),
        ("1. Drops fall.\n2. So it must be raining.", True),
        ("", False),
        ("I hear drops on a roof. Therefore it is raining.", True),
    ],
)
def test_reasoning_is_two_sentences_and_a_step(response, shown):
    assert speech_ifeval.shows_reasoning(response) is shown


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=200))
def test_any_text_shows_reasoning_or_does_not(answer):
    assert speech_ifeval.shows_reasoning(answer) in (True, False)


def test_a_question_needs_no_response_and_an_answer_no_question(tmp_path):
    asked = {"instruction": "SHOUT.", "audio_filepath": "g/1.wav", **CAPITAL}
    write(tmp_path / "close.jsonl", [asked])
    (item,) = speech_ifeval.BENCHMARK.read(tmp_path)
    assert (item.question, item.clips, item.response) == ("SHOUT.", ("g/1.wav",), None)
    with pytest.raises(BenchmarkError, match="line 1 "):
        speech_ifeval.check_items([item])
