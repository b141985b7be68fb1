"""Dynamic-SUPERB's closed questions show what could be answered."""

from desta_lab.benchmarks.dynamic_superb import BENCHMARK as DYNAMIC_SUPERB
from tests.benchmarks.samples import write_json


def test_dynamic_superb_takes_its_options_from_the_instruction_or_the_labels_of_the_file(tmp_path):
    said = "Which emotion? The answer could be anger, joy, or no_emotion. Answer with one word."
    rows = [
        {"id": "1.wav", "pred": "Joy", "label": "joy", "instruction": said},
        {"id": "2.wav", "pred": "joy it is", "label": "fear", "instruction": "Which emotion?"},
    ]
    items = DYNAMIC_SUPERB.read(write_json(tmp_path / "Emotion.json", {"predictions": rows}))
    assert items[0].options == ("anger", "joy", "no_emotion") and items[1].options == (
        "fear",
        "joy",
    )
    table = DYNAMIC_SUPERB.grade(items)
    assert list(table["exact match"]) == [1, 0] and list(table["parsed"]) == [1, 0]


def test_chance_and_what_is_unparsed_are_means_of_the_instances_as_the_score_is(tmp_path):
    said = {"A": "The answer could be yes or no.", "B": "The answer could be a b, c d, e f or g h."}
    for name, (word, count) in {"A": ("yes", 1), "B": ("c d", 3)}.items():
        row = {"pred": word if name == "A" else "?", "label": word, "instruction": said[name]}
        rows = [row | {"id": f"{name}{i}.wav"} for i in range(count)]
        write_json(tmp_path / f"{name}.json", {"predictions": rows})
    scored = DYNAMIC_SUPERB.score(DYNAMIC_SUPERB.read(tmp_path)).set_index(["group", "protocol"])
    whole, parts = (
        scored.loc["all", "parsed"],
        scored.xs("parsed", level="protocol").loc[["A", "B"]],
    )
    assert parts["chance"].tolist() == [50, 25] and parts["unparsed"].tolist() == [0, 100]
    assert (whole["value"], whole["chance"], whole["unparsed"]) == (50, 37.5, 50)


def test_the_interval_of_all_instances_does_not_hang_on_the_order_of_their_clips(tmp_path):
    said, widths = "The answer could be yes or no.", []
    for order in ("same", "reversed"):
        for name in "ABCD":
            words = ["yes"] * 25 + ["no"] * 25
            words = words[::-1] if order == "reversed" and name in "BD" else words
            row = {"label": "yes", "instruction": said}
            rows = [row | {"id": f"{i}.wav", "pred": word} for i, word in enumerate(words)]
            write_json(tmp_path / order / f"{name}.json", {"predictions": rows})
        scored = DYNAMIC_SUPERB.score(DYNAMIC_SUPERB.read(tmp_path / order))
        found = scored.set_index(["group", "protocol"]).loc["all", "parsed"]
        assert found["value"] == 50
        widths.append(found["high"] - found["low"])
    expected = 2 * 1.96 * 50 / (4 * 50) ** 0.5  # of 200 independent clips
    assert all(abs(width / expected - 1) < 0.15 for width in widths)
