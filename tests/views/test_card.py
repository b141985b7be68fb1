"""The card says everything once, in a page that needs nothing else, and in JSON that any reader
takes.
"""

import base64
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from desta_lab import cache
from desta_lab.audio import DataWarning
from desta_lab.views import card
from desta_lab.views.claim_figures import plot_layer_mixture
from desta_lab.views.saving import save_figure

VOID = {"meta", "img", "br", "hr"}


class Outline(HTMLParser):
    """The tags of a page, checked for balance while it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict]] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data + " "


def read(page: str) -> Outline:
    outline = Outline()
    outline.feed(page)
    outline.close()
    assert not outline.open
    return outline


@pytest.fixture
def result(tmp_path: Path) -> dict:
    png = save_figure(
        plot_layer_mixture(np.full((8, 4), 0.25), (0, 1, 2, 3)), tmp_path / "figures", "mixture"
    )
    rung = {"step": 300, "measure": "calibrated", "low": 0.7, "high": 0.9}
    return {
        "title": "Quickstart <nano> & more",
        "preset": "nano",
        "verdict": {
            "verdict": "SUPPORTED",
            "rule": "Most rung-3 attributes lie above every control.",
            "reasons": ["scene 0.96 [0.90, 1.00] > 0.31", "gender <b>0.61</b>"],
        },
        "rungs": pd.DataFrame(
            [
                {
                    **rung,
                    "run": run,
                    "condition": condition,
                    "rung": number,
                    "score": np.float64(0.8),
                }
                for number in (3, 0)
                for run, condition in (("self", "audio"), ("self", "silence"), ("label", "audio"))
            ]
        ),
        "tasks": [
            {
                "task": "ask_scene",
                "rung": 3,
                "accuracy": 0.96,
                "low": 0.9,
                "high": 1.0,
                "free_form": math.nan,
            },
            {
                "task": "ask_gender",
                "rung": 3,
                "accuracy": 0.61,
                "low": 0.5,
                "high": 0.7,
                "counted": False,
            },
        ],
        "targets": {
            "perplexity": {"self": 1.9, "label": 812.4},
            "coverage": {"self": {"gender": 0.9, "scene": 1.0}},
        },
        "stages": {"corpus": 3.0, "training": 120.5},
        "peak_memory_gb": 1.234,
        "versions": {"python": "3.11", "torch": "2.13.0"},
        "hashes": {"connector": "ab" * 32},
        "notes": ["ask_accent is left out: the oracle scores 0.40."],
        "figures": [(png, 'The "mixture" of layers')],
    }


def test_the_page_is_balanced_and_needs_nothing_from_outside(result):
    page, _ = card.render_card(result)
    outline = read(page)
    links = [
        value
        for _, attributes in outline.seen
        for name, value in attributes.items()
        if name in ("src", "href")
    ]
    assert all(link.startswith("data:image/png;base64,") for link in links)
    assert not {tag for tag, _ in outline.seen} & {"script", "link", "iframe"}
    assert "@import" not in page
    assert "url(" not in page


def test_the_page_says_everything(result):
    said = read(card.render_card(result)[0]).text
    for words in (
        "SUPPORTED",
        "Most rung-3 attributes",
        "3 question never trained",
        "0.80 [0.70, 0.90]",
        "0.96 [0.90, 1.00]",
        "812",
        "1.23 GB",
        "ab" * 32,
        "ask_accent is left out",
        "2.13.0",
    ):
        assert words in said


def test_words_from_outside_stay_words(result):
    page, _ = card.render_card(
        {**result, "notes": ["<script>alert(1)</script>"], "preset": '"><img src=x>'}
    )
    assert "<script>" not in page
    assert len([tag for tag, _ in read(page).seen if tag == "img"]) == 1
    assert "Quickstart <nano> & more" in read(page).text


def test_every_figure_has_its_picture_and_its_words(result):
    (image,) = [
        attributes for tag, attributes in read(card.render_card(result)[0]).seen if tag == "img"
    ]
    assert image["alt"] == 'The "mixture" of layers'
    assert (
        base64.b64decode(image["src"].split(",")[1]) == Path(result["figures"][0][0]).read_bytes()
    )


def test_every_table_has_a_caption_and_header_cells_with_a_scope(result):
    seen = read(card.render_card(result)[0]).seen
    tags = [tag for tag, _ in seen]
    assert tags.count("table") == tags.count("caption") == 7
    assert all("scope" in attributes for tag, attributes in seen if tag == "th")


def test_rungs_stand_in_order_with_a_column_for_each_run_and_condition(result):
    page, _ = card.render_card(result)
    table = page[page.index("Rungs at") : page.index("</table>")]
    columns = re.findall(r'<th scope="col">(.*?)</th>', table)
    assert columns == ["rung", "measure", "self: audio", "self: silence", "label: audio"]
    assert table.index("0 trained prompt") < table.index("3 question never trained")


def test_the_json_holds_the_result_with_sorted_keys_and_no_nan(result, tmp_path):
    page = card.write_card(tmp_path / "card", result)
    raw = (page.parent / "card.json").read_text()
    data = json.loads(raw, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert list(data) == sorted(data)
    assert data["tasks"][0]["free_form"] is None
    assert data["rungs"][0]["score"] == 0.8
    assert data["figures"] == [["mixture.png", 'The "mixture" of layers']]
    assert str(tmp_path) not in raw + page.read_text()


def test_the_same_result_gives_the_same_bytes(result, tmp_path):
    one, two = (card.write_card(tmp_path / name, result).parent for name in ("one", "two"))
    for name in ("card.html", "card.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_writing_the_card_leaves_the_result_alone(result, tmp_path):
    before = repr(result)
    card.write_card(tmp_path, result)
    assert repr(result) == before


def test_another_test_on_people_takes_the_place_of_the_one_before(result, tmp_path):
    folder = tmp_path / "figures"
    card.write_card(folder, {**result, "hashes": {"run self": "nano-self-1"}})
    for name in ("A", "B"):
        people = {"people": [{"task": name}], "notes": [f"People of {name}.", "In halves."]}
        card.add_people(folder, "nano-self-1", people)
    data = json.loads((folder / "card.json").read_text())
    assert data["people"] == [{"task": "B"}]
    assert data["notes"] == [*result["notes"], "People of B.", "In halves."]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 100_000,
        b'{"hashes": 5}',
        b'{"figures": [[5, ""]]}',
    ],
)
def test_a_card_that_cannot_be_read_stays_as_it_is_with_a_word(tmp_path, content):
    (tmp_path / "card.json").write_bytes(content)
    people = {"people": [{"task": "A"}], "notes": []}
    with pytest.warns(DataWarning, match=r"card\.json: no readable card .*run the main job again"):
        card.add_people(tmp_path, "nano-self-1", people)
    assert (tmp_path / "card.json").read_bytes() == content


def test_an_empty_result_is_still_a_page():
    page, data = card.render_card({})
    assert read(page).text.split()[:3] == ["DeSTA", "Lab:", "result"]
    assert data == {"figures": []}


def test_the_terminal_says_first_what_was_claimed_what_was_found_and_where_to_look(result):
    said = {"verdict": "NOT SUPPORTED", "rule": "SUPPORTED if it says so.", "reasons": ["no"]}
    found = (
        "SUPPORTED with options ranked: 6 of 6; NOT SUPPORTED in the backbone's own words: 0 of 2"
    )
    whole = {**result, "claim": "one task teaches all", "found": found, "said": said}
    lines = card.format_card(whole, "out/card.html").splitlines()
    assert lines[:3] == [
        "Claim: one task teaches all (preset nano).",
        f"Found: {found}",
        "See:   out/card.html",
    ]
    assert "NOT SUPPORTED. Rule: SUPPORTED if it says so." in lines
    page = read(card.render_card(whole)[0]).text
    assert "Claim: one task teaches all." in page and found in page
    assert page.count("Rule: ") == 2


def test_the_terminal_gets_the_verdict_its_rule_and_its_reasons(result):
    lines = card.format_card(result).splitlines()
    assert lines[0] == "Quickstart <nano> & more (preset nano)"
    assert lines[1] == "SUPPORTED. Rule: Most rung-3 attributes lie above every control."
    assert lines[2] == "  - scene 0.96 [0.90, 1.00] > 0.31"
    assert lines[-2:] == ["124 s: corpus 3 s, training 120 s", "Peak memory 1.23 GB"]
    assert card.format_card({}).splitlines() == [
        "DeSTA Lab: result",
        "NO VERDICT. Rule: no rule was applied.",
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.inf, None),
        (np.float32("nan"), None),
        (np.int64(3), 3),
        (np.array([1.0, np.nan]), [1.0, None]),
        ({3: Path("a")}, {"3": "a"}),
        (pd.DataFrame({"a": [1]}), [{"a": 1}]),
        (True, True),
    ],
)
def test_anything_becomes_plain_data(value, expected):
    assert cache.to_plain(value) == expected
