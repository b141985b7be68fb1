"""Speech-IFEval is scored by its rules: IFrate, the forgetting rate, and reasoning told by whom."""

import json
import os
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from desta_lab.benchmarks import speech_ifeval
from desta_lab.benchmarks.formats import BenchmarkError
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
    judged = [{"id": i, "correct": i < 9} for i in range(10)]
    write(tmp_path / "reports" / "llm_eval@chain-of-thought.jsonl", judged)
    items = speech_items(tmp_path)
    rates = {p: speech_ifeval.ifrate(items, p).set_index("set")["rate"] for p in ("rule", "judge")}
    assert rates["rule"]["cot"] == 0 and rates["judge"]["cot"] == 90
    assert rates["rule"]["closed"] == rates["judge"]["closed"] == 100
    scored = speech_ifeval.BENCHMARK.score(speech_ifeval.BENCHMARK.read(tmp_path))
    assert list(scored["judged_by"].unique()) == ["our rule", "judge", "IFEval"]


@pytest.mark.parametrize(
    "rows, said",
    [
        ([{"id": 0, "correct": "false"}], 'line 1: correct is "false", not true or false'),
        ([{"id": 0, "correct": 1}], "line 1: correct is 1, not true or false"),
        ([{"id": 0}], "line 1: no correct"),
        ([{"id": 0, "correct": True}] * 2, "0 is there twice"),
        ([{"id": 0, "correct": True}], "1 judged and 2 answered, apart in 1"),
        ([{"id": i, "correct": True} for i in range(3)], "3 judged and 2 answered, apart in 2"),
    ],
)
def test_a_judge_is_read_strictly(tmp_path, rows, said):
    answers(tmp_path, capital=0, reasoned=0, of=2)
    write(tmp_path / "reports" / "llm_eval@chain-of-thought.jsonl", rows)
    with pytest.raises(BenchmarkError, match=said):
        speech_items(tmp_path)


def test_an_item_without_a_response_is_named(tmp_path):
    rows = [{"audio_filepath": "a.wav", "instruction": "SHOUT.", **CAPITAL}]
    write(tmp_path / "close.jsonl", rows)
    with pytest.raises(BenchmarkError, match=r"close\.jsonl, line 1: no response; let the model"):
        speech_items(tmp_path)


def test_other_items_than_the_text_llms_are_refused(tmp_path):
    audio = speech_items(answers(tmp_path / "audio", capital=4, reasoned=4, of=9))
    text = speech_items(answers(tmp_path / "text", capital=8, reasoned=8))
    with pytest.raises(BenchmarkError, match="different items"):
        speech_ifeval.forgetting_rate(audio, text)


def test_questions_are_paired_by_clip_and_instruction_however_their_ids_count(tmp_path):
    def folder(name: str, first: int, right: int) -> pd.DataFrame:
        rows = [
            {
                "id": first + i,
                "audio_filepath": f"{i}.wav",
                "instruction": "SHOUT.",
                "response": "RAIN" if i < right else "rain",
                **CAPITAL,
            }
            for i in range(12)
        ]
        write(tmp_path / name / "close.jsonl", rows)
        thoughts = [{"audio_filepath": "1.wav", "instruction": "Think.", "response": "Rain."}]
        write(tmp_path / name / "chain-of-thought.jsonl", thoughts)
        return speech_items(tmp_path / name)

    audio, text = folder("audio", 0, 3), folder("text", 1, 6)
    assert speech_ifeval.forgetting_rate(audio, text)[0] == pytest.approx(-50)


def test_ids_that_are_there_twice_are_named(tmp_path):
    row = {"id": 7, "response": "RAIN", **CAPITAL}
    write(tmp_path / "close.jsonl", [row | {"audio_filepath": f"{i}.wav"} for i in range(2)])
    with pytest.raises(BenchmarkError, match="7 is there twice"):
        speech_items(tmp_path)


BULLETS = {"instruction_id_list": ["detectable_format:number_bullet_lists"]}
PARAGRAPHS = {"instruction_id_list": ["length_constraints:number_paragraphs"]}


@pytest.mark.parametrize(
    "rule, response, published, ifeval",
    [
        ("bullets", "Here:\n• one\n• two", 2, 0),
        ("bullets", "1. one\n  2) two\n- three", 3, 1),
        ("bullets", "**Bold**\n* one\n-two\n*", 2, 2),
        ("bullets", "In 1990 it began\n1990 it ended", 1, 0),
        ("paragraphs", "One.\n\nTwo.", 2, 1),
        ("paragraphs", "One.\nTwo.\n\n\nThree.", 3, 1),
        ("paragraphs", "One.\n***\nTwo.", 2, 2),
        ("paragraphs", "One. *** Two.", 2, 2),
    ],
)
def test_the_published_rule_stands_under_its_name_and_ifevals_beside_it(
    tmp_path, rule, response, published, ifeval
):
    asked = BULLETS if rule == "bullets" else PARAGRAPHS
    rows = [
        {"id": i, "response": response, "kwargs": [{f"num_{rule}": i}], **asked} for i in range(4)
    ]
    write(tmp_path / "open.jsonl", rows)
    found = speech_items(tmp_path)
    obeyed = found[found["followed"] == 1].set_index("protocol")["id"]
    assert obeyed.get("rule", "0") == str(published) and obeyed.get("IFEval") == str(ifeval)


SHARED = Path(__file__).resolve().parents[3] / "shared" / "speech_ifeval"
PUBLISHED = Path(os.environ.get("DESTA_LAB_SPEECH_IFEVAL", SHARED)) / "DeSTA-ntu--DeSTA2-8B-beta"


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="needs the outputs that kehanlu published")
def test_desta2s_published_outputs_get_the_authors_verdict_on_every_item():
    items = speech_ifeval.BENCHMARK.read(PUBLISHED)
    found = speech_ifeval.check_items(items)
    mine = found[found["protocol"] == "rule"].set_index(["set", "id"])["followed"]
    for item in items:
        file = PUBLISHED / f"rule_{speech_ifeval.SETS[item.group][0]}"
        if item.group != "cot":
            theirs = _verdicts(file)[item.id]
            assert mine[item.group, item.id] == theirs, item.where
    rates = speech_ifeval.ifrate(found).set_index("set")["rate"].round(2)
    assert (rates["closed"], rates["creative"]) == (83.71, 91.75)
    assert speech_ifeval.ifrate(found, "IFEval").set_index("set")["rate"]["creative"] == 60.25


@cache
def _verdicts(file: Path) -> dict[str, bool]:
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {
        f"{row['audio_filepath']}: {row['instruction']}": row["follow_all_instructions"]
        for row in rows
    }


@pytest.mark.parametrize(
    "line, said",
    [
        ("{", "line 2: no JSON"),
        ('{"id": 0, "response": 3}', "line 2: response is 3, not a text"),
        ('{"id": [1], "response": "x"}', "line 2: id is "),
        ('{"response": "x", "instruction_id_list": "a"}', "line 2: instruction_id_list is "),
        ('{"response": "x", "instruction_id_list": [], "kwargs": {}}', "line 2: kwargs is {}"),
        ('{"response": "x", "instruction_id_list": [1]}', "line 2: instruction_id_list is "),
        ('{"response": "x", "audio_filepath": "../up"}', "line 2: the path '../up' leads out"),
        ('{"response": "x", "response": "y"}', "line 2: no JSON .response stands twice"),
        ('{"response": "x", "score": NaN}', "line 2: no JSON .NaN is no number"),
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
            "line 2: no response",
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
    with pytest.raises(BenchmarkError, match="line 1: no response"):
        speech_ifeval.check_items([item])
