"""Other people's test sets: read in their format, scored by their rule, and never fooled by an odd answer."""

import json
import time
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from desta_lab import cli
from desta_lab.benchmarks import comparison, multiple_choice, speech_ifeval, test_sets
from desta_lab.benchmarks.test_sets import BenchmarkError
from desta_lab.evaluation.constraints import CHECKS, is_obeyed

CAPITAL = {"instruction_id_list": ["change_case:english_capital"], "kwargs": [{}]}


def repr_short(answer: str) -> str:
    return repr(answer[:6])


ARGUMENTS = {
    "combination:repeat_prompt": {"prompt_to_repeat": "My answer is"},
    "detectable_format:number_bullet_lists": {"num_bullets": 2},
    "keywords:existence": {"keywords": ["rain", "wind"]},
    "keywords:forbidden_words": {"forbidden_words": ["rain"]},
    "length_constraints:number_paragraphs": {"num_paragraphs": 2},
    "length_constraints:number_sentences": {"num_sentences": 2, "relation": "at least"},
    "length_constraints:number_words": {"num_words": 3, "relation": "less than"},
    "startend:end_checker": {"end_phrase": "That is all."},
}


def write(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def answers(folder: Path, *, capital: int, reasoned: int, of: int = 10) -> Path:
    """A folder in Speech-IFEval's layout in which so many closed-ended and chain-of-thought items are right."""
    closed = [
        {"id": i, "response": "RAIN" if i < capital else "rain", **CAPITAL} for i in range(of)
    ]
    long, short = "First I listen. Then I say rain.", "Rain."
    cot = [
        {"id": i, "response": long if i < reasoned else short, "metric": "cot"} for i in range(of)
    ]
    write(folder / "closed_ended_questions.jsonl", closed)
    write(folder / "chain-of-thought.jsonl", cot)
    return folder


# ---- Speech-IFEval ----


def test_ifrate_is_the_mean_of_the_sets_with_intervals_over_items(tmp_path):
    rates = speech_ifeval.ifrate(
        speech_ifeval.items(answers(tmp_path, capital=8, reasoned=4))
    ).set_index("set")
    assert rates.loc["closed", "rate"] == 80 and rates.loc["cot", "rate"] == 40
    assert rates.loc["IFrate", "rate"] == pytest.approx(60)
    assert (rates["low"] < rates["rate"]).all() and (rates["rate"] < rates["high"]).all()


def test_the_forgetting_rate_is_relative_to_the_models_own_text_llm(tmp_path):
    audio = speech_ifeval.items(answers(tmp_path / "audio", capital=4, reasoned=4))
    text = speech_ifeval.items(answers(tmp_path / "text", capital=8, reasoned=8))
    assert speech_ifeval.delta(audio, text)["delta"] == pytest.approx(-50)
    assert speech_ifeval.delta(text, text) == {"delta": 0.0, "low": 0.0, "high": 0.0}


def test_a_mean_is_no_sum_and_the_published_one_is_checked():
    closed, creative, cot = (
        83.71,
        91.75,
        91.50,
    )  # DeSTA2's line; its printed IFrate of 89.23 is not the mean
    assert speech_ifeval._mean(
        {"closed": closed, "creative": creative, "cot": cot}
    ) == pytest.approx(88.99, abs=0.005)


def test_a_judges_word_on_reasoning_stands_apart_from_the_rule(tmp_path):
    answers(tmp_path, capital=10, reasoned=0)
    judged = [{"id": i, "correct": True} for i in range(10)]
    write(tmp_path / "reports" / "llm_eval@chain-of-thought.jsonl", judged)
    items = speech_ifeval.items(tmp_path)
    rates = {p: speech_ifeval.ifrate(items, p).set_index("set")["rate"] for p in ("rule", "judge")}
    assert rates["rule"]["cot"] == 0 and rates["judge"]["cot"] == 100
    assert rates["rule"]["closed"] == rates["judge"]["closed"] == 100


def test_other_items_than_the_text_llms_are_refused(tmp_path):
    audio = speech_ifeval.items(answers(tmp_path / "audio", capital=4, reasoned=4, of=9))
    text = speech_ifeval.items(answers(tmp_path / "text", capital=8, reasoned=8))
    with pytest.raises(BenchmarkError, match="different items"):
        speech_ifeval.delta(audio, text)


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
            '{"id": 1, "response": null, "instruction_id_list": ["startend:quotation"], "kwargs": [{}]}',
            "line 2 ",
        ),
    ],
)
def test_a_bad_row_is_named_with_its_file_and_line(tmp_path, line, said):
    path = tmp_path / "close.jsonl"
    path.write_text(json.dumps({"id": 0, "response": "RAIN", **CAPITAL}) + "\n" + line + "\n")
    with pytest.raises(BenchmarkError, match=said) as error:
        speech_ifeval.items(tmp_path)
    assert "close.jsonl" in str(error.value)


def test_an_empty_folder_says_what_it_should_hold(tmp_path):
    with pytest.raises(BenchmarkError, match=r"closed_ended_questions\.jsonl"):
        speech_ifeval.items(tmp_path)


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
    assert speech_ifeval.reasons(response) is shown


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=200), st.sampled_from(sorted(CHECKS)))
def test_any_text_gets_a_plain_yes_or_no(answer, name):
    assert is_obeyed(name, answer, **ARGUMENTS.get(name, {})) in (True, False)
    assert speech_ifeval.reasons(answer) in (True, False)


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1, max_size=50))
def test_the_two_cases_exclude_each_other(answer):
    assert not (
        is_obeyed("change_case:english_capital", answer)
        and is_obeyed("change_case:english_lowercase", answer)
    )


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
)


@settings(max_examples=60, deadline=None)
@given(VALUES, st.sampled_from(["", "json", "JSON"]), st.sampled_from(["", "\n", "  \n\n"]))
def test_any_json_value_is_json_with_and_without_a_fence_and_trailing_space(value, tag, trailing):
    text = json.dumps(value)
    assert is_obeyed("detectable_format:json_format", text + trailing)
    assert is_obeyed("detectable_format:json_format", f"```{tag}\n{text}\n```{trailing}")
    assert not is_obeyed("detectable_format:json_format", f"Here you are: {text} enjoy {{")


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40))
def test_what_starts_ends_or_is_quoted_is_found_whatever_surrounds_it(middle):
    assert is_obeyed(
        "combination:repeat_prompt", f"  my ANSWER is {middle}", prompt_to_repeat="My answer is"
    )
    assert is_obeyed("startend:end_checker", f"{middle} that IS all. \n", end_phrase="That is all.")
    assert is_obeyed("startend:quotation", f' "x{middle}x" ')


ODD = ["ẞ STRASSE", "ǅ", "İ", "ŉ", "𝐀", "\u200b", "\x00"]
LONG = ["{", "a", "\n", " ", "\t1", "step ", "- ", "<<", "***", '"']  # 100 kB of each


@pytest.mark.parametrize(
    "answer", [*ODD, *(piece * (100_000 // len(piece)) for piece in LONG)], ids=repr_short
)
def test_adversarial_answers_neither_raise_nor_take_long(answer):
    begin = time.process_time()
    for name in CHECKS:
        assert is_obeyed(name, answer, **ARGUMENTS.get(name, {})) in (True, False)
    assert speech_ifeval.reasons(answer) in (True, False)
    assert multiple_choice.chosen(answer, ["rain", "a siren"]) is None or len(answer) < 10
    assert time.process_time() - begin < 5  # seconds: what is quadratic takes minutes


# ---- multiple choice ----

OPTIONS = ["a bird", "a bird song", "rain", "a siren"]


@pytest.mark.parametrize(
    "response, index",
    [
        ("(b)", 1),
        ("b) a bird song", 1),
        ("B.", 1),
        ("The answer is (c).", 2),
        ("rain", 2),
        ("It is a bird song.", 1),
        ("a bird", 0),
        ("rain or a siren", None),
        ("(a) or (b)", None),
        ("", None),
        ("no idea", None),
        ("D", 3),
        ("It is a Siren!", 3),
        ("trains", None),
        ("(z)", None),
    ],
)
def test_a_generated_answer_names_one_option_or_none(response, index):
    assert multiple_choice.chosen(response, OPTIONS) == index


def test_options_are_found_in_the_question_as_in_sakura():
    question = "Which word(s) fit? (a) dog (b) cat (c) a small bird (d) Mr."
    assert test_sets.lettered(question) == ("dog", "cat", "a small bird", "Mr.")
    with pytest.raises(BenchmarkError, match="in order"):
        test_sets.lettered("Which one? (a) dog (c) cat")


def test_letters_are_taken_off_options_only_where_every_one_has_its_own():
    assert test_sets.plain(["(A) dog", "B. cat", "c) bird"]) == ("dog", "cat", "bird")
    assert test_sets.plain(["A: flat", "C: sharp"]) == ("A: flat", "C: sharp")


def test_an_option_that_is_a_letter_is_named_by_its_text():
    assert (
        multiple_choice.chosen("A", ["D", "A", "G"]) == 1
        and multiple_choice.chosen(' "G". ', ["D", "A", "G"]) == 2
    )


@pytest.mark.parametrize(
    "said, right",
    [("The answer is: a dog.", True), ("dog", False), ("a dog or a cat", False), ("", False)],
)
def test_mmaus_own_rule_wants_every_word_of_the_answer_and_none_of_another(said, right):
    assert multiple_choice.matches(said, "a dog", ["a dog", "a cat"]) is right


def sakura(folder: Path, answered: dict[str, list[int]], judged: bool = False) -> Path:
    """Answer files of one track in SAKURA's format: which clips each hop has right; two options, letters balanced."""
    for hop, correct in answered.items():
        rows = {}
        for i in range(8):
            letter, other = "ab"[i % 2], "ba"[i % 2]
            rows[f"{i}.wav"] = {
                "instruction": "Which? (a) dog (b) cat",
                "label": f"({letter}) {['dog', 'cat'][i % 2]}",
                "response": f"({letter if i in correct else other})",
            }
        about = {"attribute": "Animal", "type": hop}
        write_json(folder / f"m_{hop}.json", about | {"results": rows})
        if judged:
            words = {clip: {"Judgement": "correct"} for clip in rows}
            write_json(folder / f"m_{hop}_judgements.json", {"judge_model": "m", "results": words})
    return folder


def write_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def mmau(**more: object) -> dict:
    return {
        "id": "7",
        "audio_id": "./a/7.wav",
        "question": "What?",
        "choices": ["dog", "cat"],
        "answer": "cat",
        "task": "sound",
        **more,
    }


def test_multi_hop_is_conditioned_on_the_same_clips_single_hop(tmp_path):
    items = test_sets.read(
        sakura(tmp_path, {"single": [0, 1, 2, 3], "multi": [0, 1, 2, 4]}), "sakura"
    )
    rates = (
        multiple_choice.rates(items, "sakura")
        .set_index(["group", "protocol", "metric"])
        .sort_index()
    )
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
    rates = (
        multiple_choice.rates(test_sets.read(tmp_path, "sakura"), "sakura")
        .set_index(["group", "metric"])
        .sort_index()
    )
    assert (
        rates.loc[("animal", "multi"), "value"] == 100
        and rates.loc[("gender", "multi"), "value"] == 0
    )
    assert rates.loc[("all", "multi"), "value"] == 50


def test_a_judges_word_is_a_protocol_of_its_own(tmp_path):
    items = test_sets.read(sakura(tmp_path, {"single": [0], "multi": [0]}, judged=True), "sakura")
    rates = (
        multiple_choice.rates(items, "sakura")
        .set_index(["group", "protocol", "metric"])["value"]
        .sort_index()
    )
    assert rates["all", "judge", "single"] == 100 and rates["all", "parsed", "single"] == 12.5


def test_a_clip_with_one_hop_is_named(tmp_path):
    items = test_sets.read(sakura(tmp_path, {"single": [0]}), "sakura")
    with pytest.raises(BenchmarkError, match=r"0\.wav: answered in one hop"):
        multiple_choice.rates(items, "sakura")


def test_protocols_stand_side_by_side_with_silence_and_a_missing_one_is_not_a_zero(tmp_path):
    row = mmau(model_output="Hard to say", scores=[-3.0, -1.0], silence=[-4.0, -1.5])
    items = test_sets.read(write_json(tmp_path / "m.json", [row]), "mmau")
    both = multiple_choice.scored(items, "mmau").iloc[0]
    assert (both["ranked"], both["calibrated"], both["silence"]) == (1, 0, 1)
    assert both["parsed"] == both["string match"] == 0
    assert both["unparsed"] == 1
    items = test_sets.read(write_json(tmp_path / "m.json", [mmau(model_prediction="cat")]), "mmau")
    assert set(multiple_choice.rates(items, "mmau")["protocol"]) == {"parsed", "string match"}


def test_dynamic_superb_takes_its_options_from_the_instruction_or_the_labels_of_the_file(tmp_path):
    said = "Which emotion? The answer could be anger, joy, or no_emotion."
    rows = [
        {"id": "1.wav", "pred": "Joy", "label": "joy", "instruction": said},
        {"id": "2.wav", "pred": "joy it is", "label": "fear", "instruction": "Which emotion?"},
    ]
    items = test_sets.read(
        write_json(tmp_path / "Emotion.json", {"predictions": rows}), "dynamic-superb"
    )
    assert items[0].options == ("anger", "joy", "no_emotion") and items[1].options == (
        "fear",
        "joy",
    )
    table = multiple_choice.scored(items, "dynamic-superb")
    assert list(table["exact match"]) == [1, 0] and list(table["parsed"]) == [1, 0]


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
        test_sets.read(tmp_path, benchmark)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    "row, said",
    [
        (mmau(answer="cow"), "none of dog, cat"),
        (mmau(answer=None), "no answer; it was not published"),
    ],
)
def test_an_answer_that_is_no_option_or_not_public_is_refused(tmp_path, row, said):
    items = test_sets.read(
        write_json(tmp_path / "m.json", [row | {"model_prediction": "cat"}]), "mmau"
    )
    with pytest.raises(BenchmarkError, match=f"item 0: .*{said}"):
        multiple_choice.rates(items, "mmau")


def test_the_test_set_is_told_by_its_files(tmp_path):
    assert test_sets.which(answers(tmp_path / "s", capital=1, reasoned=1)) == "speech-ifeval"
    assert test_sets.which(sakura(tmp_path / "k", {"single": [0]})) == "sakura"
    assert test_sets.which(write_json(tmp_path / "m.json", [mmau()])) == "mmau"
    assert (
        test_sets.which(write_json(tmp_path / "d" / "d.json", {"predictions": []}))
        == "dynamic-superb"
    )
    with pytest.raises(BenchmarkError, match="--benchmark"):
        test_sets.which(tmp_path / "nothing")


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


# ---- published numbers ----


def test_every_published_number_has_a_source_and_a_protocol():
    table = pd.read_csv(comparison.PUBLISHED)
    needed = ["benchmark", "system", "metric", "value", "protocol", "items", "source"]
    assert not table[needed].isna().any(axis=None)
    assert not table.duplicated(["benchmark", "system", "metric"]).any()


def test_published_forgetting_rates_follow_from_their_ifrates():
    table = comparison.published("Speech-IFEval").pivot(
        index="system", columns="metric", values="value"
    )
    text = table.loc["Llama-3-8B-Instruct (text)", "IFrate"]
    assert 100 * (table.loc["DeSTA2", "IFrate"] - text) / text == pytest.approx(
        table.loc["DeSTA2", "delta"], abs=0.01
    )


def test_sakuras_published_averages_are_the_means_of_their_tracks():
    table = pd.concat(
        [comparison.published(f"SAKURA {t}") for t in ("gender", "language", "emotion", "animal")]
    )
    means = table.groupby(["system", "metric"]).agg(value=("value", "mean"), items=("items", "sum"))
    total = comparison.published("SAKURA").set_index(["system", "metric"]).reindex(means.index)
    assert (means["value"] - total["value"]).abs().max() < 0.06 and (
        means["items"] == total["items"]
    ).all()


def test_what_cannot_be_compared_with_the_published_is_marked_and_said(tmp_path):
    rates = speech_ifeval.rates(
        speech_ifeval.items(answers(tmp_path, capital=4, reasoned=4, of=200))
    )
    table, note = comparison.beside(rates, "speech-ifeval", "ours")
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
    items = test_sets.read(sakura(tmp_path, {"single": [0], "multi": [0]}, judged=True), "sakura")
    table, note = comparison.beside(multiple_choice.rates(items, "sakura"), "sakura", "ours")
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


def test_an_unknown_benchmark_is_a_sentence():
    with pytest.raises(BenchmarkError, match="there is Speech-IFEval"):
        comparison.published("MMLU")
