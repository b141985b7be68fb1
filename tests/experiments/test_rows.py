"""Every clip has its prompt whatever is trained beside it, and targets are written once."""

import pytest
import torch

from desta_lab.cache import Provenance
from desta_lab.evaluation.tasks import PROMPTS
from desta_lab.experiments import rows
from desta_lab.experiments.experiment import Experiment
from desta_lab.model import presets
from desta_lab.training.targets import SoftTarget, Target, TargetError
from tests import tiny

OWN = Provenance("targets", {"backbone_sha256": "r", "pairs": [["A dog barks.", "What is it?"]]})
ROWS = [
    Target("A dog barks.", f"Question {i}?", "No,\n“NA”.", "soft", "tiny", "r", "greedy", i == 1)
    for i in range(3)
]


def soft_targets() -> list[SoftTarget]:
    """Distributions along responses of several lengths."""
    torch.manual_seed(0)
    return [
        SoftTarget(torch.randint(0, 9, (n, 3)).int(), torch.randn(n, 3).half()) for n in (4, 2, 5)
    ]


def test_targets_are_written_once_and_come_back_the_same(tmp_path):
    soft, calls = soft_targets(), []

    def write() -> tuple[list[Target], list[SoftTarget]]:
        calls.append(1)
        return ROWS, soft

    for _ in range(3):
        found = rows.find_or_write_targets(tmp_path, OWN, write)
        assert found.rows == ROWS
        for one, other in zip(found.soft, soft, strict=True):
            assert torch.equal(one.ids, other.ids) and torch.equal(one.logp, other.logp)
            assert (one.ids.dtype, one.logp.dtype) == (torch.int32, torch.float16)
    assert len(calls) == 1
    (OWN.folder(tmp_path) / "soft.safetensors").write_bytes(b"torn")
    assert rows.find_or_write_targets(tmp_path, OWN, write).rows == ROWS and len(calls) == 2


def test_targets_of_some_pairs_come_in_their_order():
    targets = rows.Targets(ROWS, soft_targets())
    some = targets.of_pairs([("A dog barks.", "Question 2?"), ("A dog barks.", "Question 0?")])
    assert some.rows == [ROWS[2], ROWS[0]]
    assert [len(one.ids) for one in some.soft] == [5, 4]


def test_targets_of_another_writer_are_refused(tmp_path):
    other = Provenance("targets", {"backbone_sha256": "another"})
    with pytest.raises(TargetError, match="not by this backbone"):
        rows.find_or_write_targets(tmp_path, other, lambda: (ROWS, soft_targets()))


def test_a_clip_keeps_its_prompt_among_fewer_clips(tmp_path):
    clips = tiny.corpus(tmp_path).clips
    prompts = rows.assign_prompts(clips, PROMPTS[:3])
    assert set(prompts) == set(PROMPTS[:3])
    assert rows.assign_prompts(clips[4:8], PROMPTS[:3]) == prompts[4:8]
    assert set(rows.assign_prompts(clips, PROMPTS[:1])) == {PROMPTS[0]}


def test_a_clip_without_the_attribute_has_no_label(tmp_path):
    first, *others = clips = tiny.corpus(tmp_path).clips
    del first.attributes["scene"]
    experiment = Experiment(presets.nano(), label="scene")
    known, labels = experiment.targets_of_kind("label", clips, [("", "")] * len(clips))
    assert known == others
    assert labels[0].response == others[0].attributes["scene"]


def test_a_transcript_stands_in_a_row_where_training_gives_it(tmp_path):
    clips = tiny.corpus(tmp_path).clips[:3]
    targets = [ROWS[0]] * 3
    assert all(r["transcripts"] == ["word"] for r in rows.build_rows(clips, targets, "t", True))
    assert not any("transcripts" in r for r in rows.build_rows(clips, targets, "t", False))
