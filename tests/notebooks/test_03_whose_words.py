"""Notebook 03 sets what a target costs the backbone beside what it keeps of the clip, for every
writer and control.
"""

import pytest

pytestmark = pytest.mark.weights


def test_every_writer_and_every_control_is_in_the_figure(ran) -> None:
    table = ran.table
    assert {"self", "label", "template", "other"} == set(table.loc[~table["control"], "kind"])
    assert {"shuffled", "no description", "reordered"} == set(table.loc[table["control"], "kind"])
    assert (table["low"] <= table["perplexity"]).all() and (
        table["perplexity"] <= table["high"]
    ).all()


def test_the_backbones_own_words_surprise_it_least_and_keep_every_attribute(ran) -> None:
    table = ran.table.set_index("kind")
    rivals = table[~table["control"]].drop("self")
    assert table.loc["self", "high"] < rivals["low"].min()
    assert table.loc["self", "coverage"] > 0.95


def test_a_bare_label_drops_what_it_was_not_asked(ran) -> None:
    table = ran.table.set_index("kind")
    assert (
        table.loc["label", "coverage"]
        < 0.2
        < 0.95
        < table.loc[["template", "other"], "coverage"].min()
    )


def test_perplexity_hears_the_voice_and_coverage_the_content(ran) -> None:
    """Own words about another clip surprise less than any rival's true words, and name no more than
    a guesser.
    """
    table = ran.table.set_index("kind")
    assert (
        table.loc["shuffled", "perplexity"]
        < table.loc[["label", "template", "other"], "perplexity"].min()
    )
    assert table.loc["shuffled", "coverage"] == pytest.approx(0.43, abs=0.08)
    assert (
        table.loc[["shuffled", "no description", "reordered"], "low"].min()
        > table.loc["self", "high"]
    )


def test_a_leak_makes_the_clip_needless_and_the_builder_refuses_the_plain_one(ran) -> None:
    printed = ran.printed
    assert "leaks into the training prompt" in printed
    assert "one and the same messages, with <|AUDIO|>" in printed


def test_a_cut_response_is_learned_without_an_end(ran) -> None:
    printed = ran.printed
    assert "truncated: True" in printed and "not marked → ends in '<|im_end|>'" in printed
    cut, whole = (
        float(printed.split(f"{name}: ")[1].split()[0]) for name in ("marked as cut", "not marked")
    )
    assert cut < whole
