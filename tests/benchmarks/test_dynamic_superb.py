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
