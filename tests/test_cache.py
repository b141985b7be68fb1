"""A result is found with the types it was made with, or made again; what determines it names it."""

import hashlib
import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError

from desta_lab import cache
from desta_lab.cache import CacheError, Provenance, find_or_make
from tests import tiny

FACTS = {"encoder": "e" * 64, "dtype": "torch.float32", "taps": (0, 1), "attention": None}
ORACLE = Provenance("oracles", FACTS)


def forbidden():
    raise AssertionError("What is on disk was made again.")


def table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "speaker": ["001", "NA", "", None, "null", 'a,b\n"c"'],
            "score": [0.1, 1 / 3, np.nan, np.inf, -0.0, 1e-300],
            "count": [1, 2, 3, 4, 5, 2**60],
            "right": [True, False, True, False, True, False],
            "rung": pd.array([1, None, 3, 4, 5, 6], dtype="Int64"),
        }
    )


# ---- the key ----


def test_every_fact_changes_the_key():
    keys = {Provenance("oracles", {**FACTS, name: "another"}).key for name in FACTS}
    assert len(keys | {ORACLE.key}) == len(FACTS) + 1


def test_what_is_derived_depends_on_all_that_it_is_derived_from():
    scores = ORACLE.derive("scores", checkpoint="c" * 64)
    assert scores.facts == {**FACTS, "checkpoint": "c" * 64}
    other = Provenance("oracles", {**FACTS, "dtype": "torch.bfloat16"}).derive(
        "scores", checkpoint="c" * 64
    )
    assert scores.key != other.key


def test_the_order_of_facts_and_the_kind_of_a_sequence_do_not_matter():
    turned = Provenance("oracles", dict(reversed(FACTS.items())) | {"taps": [0, 1]})
    assert turned.key == ORACLE.key


def test_a_new_version_of_the_code_makes_a_new_result(monkeypatch):
    before = ORACLE.key
    monkeypatch.setitem(cache.VERSIONS, "oracles", cache.VERSIONS["oracles"] + 1)
    assert ORACLE.key != before


def test_a_path_is_no_fact():
    with pytest.raises(CacheError, match="folder is a path"):
        Provenance("oracles", {"folder": Path("data")})


def test_a_kind_without_a_version_is_refused():
    with pytest.raises(CacheError, match="no version of 'dreams'"):
        Provenance("dreams", {})


# ---- types ----


def test_a_table_comes_back_with_its_types_whether_made_or_found(tmp_path):
    made = find_or_make(tmp_path, ORACLE, table)
    found = find_or_make(tmp_path, ORACLE, forbidden)
    pd.testing.assert_frame_equal(made, found)
    pd.testing.assert_frame_equal(found, table(), check_dtype=False)
    assert found["speaker"].tolist()[:3] == ["001", "NA", ""] and found["speaker"].isna().sum() == 1
    assert [str(kind) for kind in found.dtypes[1:]] == ["float64", "int64", "bool", "Int64"]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")).filter(
                lambda text: text != cache.MISSING
            ),
            st.floats(),
            st.integers(-(2**63), 2**63 - 1),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_any_text_and_any_number_come_back(rows):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        made = pd.DataFrame(rows, columns=["text", "float", "int"]).astype({"int": "int64"})
        found = find_or_make(Path(folder), ORACLE, lambda: made)
    pd.testing.assert_frame_equal(found, made, check_dtype=False, check_exact=True)


def test_tensors_and_data_come_back_in_order(tmp_path):
    tensors = {"b": torch.ones(2, dtype=torch.float16), "a": torch.arange(3)}
    found = find_or_make(tmp_path, Provenance("sites", FACTS), lambda: tensors)
    assert list(found) == ["b", "a"] and all(
        torch.equal(found[name], tensors[name]) for name in tensors
    )
    data = {"share": 0.5, "names": ["x"], "none": None}
    assert find_or_make(tmp_path, Provenance("coverage", FACTS), lambda: data) == data


def test_a_result_of_several_pieces_comes_back_whole(tmp_path):
    made = {"rows": table(), "soft": {"0.ids": torch.arange(4)}, "about": {"cut": 2}}
    provenance = Provenance("targets", FACTS)
    find_or_make(tmp_path, provenance, lambda: made)
    found = find_or_make(tmp_path, provenance, forbidden)
    assert found["about"] == {"cut": 2} and torch.equal(found["soft"]["0.ids"], torch.arange(4))
    assert found["rows"]["speaker"].tolist()[:2] == ["001", "NA"]


def test_a_column_of_several_types_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(CacheError, match="'mixed' mixes types"):
        find_or_make(tmp_path, ORACLE, lambda: pd.DataFrame({"mixed": ["a", 1]}))
    assert not ORACLE.folder(tmp_path).exists()
    pd.testing.assert_frame_equal(find_or_make(tmp_path, ORACLE, table), table(), check_dtype=False)


# ---- whole or absent ----


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "table.csv").write_text("speaker,score\n"),
        lambda folder: (folder / "table.csv").unlink(),
        lambda folder: (folder / cache.HEAD).write_text("{"),
        lambda folder: (folder / cache.HEAD).write_text("[]"),
        lambda folder: (folder / cache.HEAD).unlink(),
    ],
    ids=["another table", "no table", "half a head", "a foreign head", "no head"],
)
def test_what_is_torn_or_foreign_is_made_again(tmp_path, damage):
    find_or_make(tmp_path, ORACLE, table)
    damage(ORACLE.folder(tmp_path))
    calls = []
    find_or_make(tmp_path, ORACLE, lambda: calls.append(1) or table())
    assert calls == [1]
    find_or_make(tmp_path, ORACLE, forbidden)


def test_tensors_that_are_none_are_made_again_whatever_their_hash(tmp_path):
    provenance, content = Provenance("sites", FACTS), b"no tensors"
    find_or_make(tmp_path, provenance, lambda: {"x": torch.ones(2)})
    head = provenance.folder(tmp_path) / cache.HEAD
    found = json.loads(head.read_text())
    del found["pieces_sha256"]  # as of an earlier release
    found["pieces"][""]["sha256"] = hashlib.sha256(content).hexdigest()
    head.write_text(json.dumps(found))
    (head.parent / "tensors.safetensors").write_bytes(content)
    assert cache.find(tmp_path, provenance) is None
    made = find_or_make(tmp_path, provenance, lambda: {"x": torch.zeros(2)})
    assert torch.equal(made["x"], torch.zeros(2))


def test_the_result_of_other_facts_in_this_folder_is_not_read(tmp_path):
    other = ORACLE.derive("oracles", dtype="torch.bfloat16")
    find_or_make(tmp_path, other, table)
    other.folder(tmp_path).rename(ORACLE.folder(tmp_path))
    calls = []
    find_or_make(tmp_path, ORACLE, lambda: calls.append(1) or table())
    assert calls == [1]


def test_the_draft_of_a_killed_process_is_no_result(tmp_path):
    own = tmp_path / "oracles" / f".{ORACLE.key}.{tiny.ended_process()}.part"
    other = own.with_name(f".{'0' * 16}.{tiny.ended_process()}.part")
    for draft in (own, other):
        draft.mkdir(parents=True)
        (draft / "table.csv").write_text("half")
    find_or_make(tmp_path, ORACLE, table)
    assert not own.exists() and not other.exists()


def test_of_two_that_ask_at_once_one_makes_it(tmp_path):
    calls = []

    def slow() -> pd.DataFrame:
        calls.append(1)
        time.sleep(0.2)
        return table()

    threads = [
        threading.Thread(target=find_or_make, args=(tmp_path, ORACLE, slow)) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [1]


def test_the_head_says_what_determined_the_result(tmp_path):
    find_or_make(tmp_path, ORACLE, table)
    head = json.loads((ORACLE.folder(tmp_path) / cache.HEAD).read_text())
    assert head["determined_by"]["facts"]["dtype"] == "torch.float32"


# ---- whole files ----


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "file.json"
    cache.write_whole(path, b"one")
    with pytest.raises(TypeError):
        cache.write_whole(path, "no bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"one" and [one.name for one in path.parent.iterdir()] == [
        "file.json"
    ]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "Two columns are named 'a'"),
        (pd.DataFrame({"a": pd.to_datetime(["2026-11-30"])}), "'a' holds datetime64"),
        (pd.DataFrame({"a": pd.to_timedelta(["1 s"])}), "'a' holds timedelta64"),
        (pd.DataFrame({"a": [1j]}), "'a' holds complex128"),
    ],
)
def test_a_table_that_would_come_back_otherwise_is_refused(tmp_path, table, words):
    with pytest.raises(CacheError, match=words):
        find_or_make(tmp_path, ORACLE, lambda: table)


def test_a_set_has_one_order_in_every_process():
    names = [f"name {number}" for number in range(20)]
    assert cache.to_plain(set(names)) == cache.to_plain(frozenset(names)) == sorted(names)


def test_json_holds_numbers_of_any_library_and_no_nan():
    data = {
        "array": np.arange(2),
        "nan": float("nan"),
        "path": Path("a/b"),
        "table": pd.DataFrame({"x": [1]}),
    }
    assert json.loads(cache.to_json(data)) == {
        "array": [0, 1],
        "nan": None,
        "path": "a/b",
        "table": [{"x": 1}],
    }


# ---- drafts ----


def test_a_draft_that_a_kill_left_is_removed_and_one_that_is_written_stays(tmp_path):
    old, new = tmp_path / ".a.json.1.1.part", tmp_path / "state.part"
    old.mkdir()
    new.write_text("x")
    os.utime(old, (0, 0))
    cache.remove_drafts(tmp_path)
    assert not old.exists() and new.exists()
    cache.remove_drafts(tmp_path, 0.0)
    assert not new.exists()


def test_a_draft_whose_writer_fails_is_removed(tmp_path):
    with pytest.raises(KeyboardInterrupt), cache.draft_of(tmp_path / "a") as draft:
        draft.write_text("half")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_tensors_have_the_rights_of_any_new_file(tmp_path):
    before = os.umask(0o027)
    try:
        cache.save_tensors(tmp_path / "a.safetensors", {"x": torch.zeros(2)}, about="b")
    finally:
        os.umask(before)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o640


def test_tensors_that_share_memory_come_back_each(tmp_path):
    one = torch.arange(6.0)
    shared = {"whole": one, "again": one, "half": one[3:], "rows": one.view(2, 3)}
    found = find_or_make(tmp_path, Provenance("sites", FACTS), lambda: shared)
    assert all(torch.equal(found[name], shared[name]) for name in shared)


def test_tensors_on_a_full_disk_are_one_sentence(tmp_path, monkeypatch):
    def full(*_, **__):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match=r"a.safetensors cannot be written .*No space.*free some"):
        cache.save_tensors(tmp_path / "a.safetensors", {"x": torch.zeros(2)})
    assert not list(tmp_path.iterdir())


# ---- something else than a file ----


@pytest.mark.parametrize("piece", ["provenance.json", "table.csv"])
def test_a_pipe_among_the_files_of_a_result_does_not_hang(tmp_path, piece):
    provenance, table = cache.Provenance("lessons", {"a": 1}), pd.DataFrame({"x": [1.5]})
    cache.find_or_make(tmp_path, provenance, lambda: table)
    path = provenance.folder(tmp_path) / piece
    path.unlink()
    os.mkfifo(path)
    assert cache.find(tmp_path, provenance) is None
    pd.testing.assert_frame_equal(cache.find_or_make(tmp_path, provenance, lambda: table), table)


def test_a_folder_in_the_place_of_a_file_is_one_sentence(tmp_path):
    (tmp_path / "a.json").mkdir()
    with pytest.raises(OSError, match=r"a\.json cannot be written .*; move away what is there"):
        cache.write_whole(tmp_path / "a.json", b"{}")
    with pytest.raises(OSError, match=r"a\.json is no plain file; move it away"):
        cache.hash_file(tmp_path / "a.json")
