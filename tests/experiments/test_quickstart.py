"""The claim, end to end at `nano`: real audio, a real Whisper, real training."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import soundfile

from desta_lab import cli
from desta_lab.audio import RATE
from desta_lab.evaluation import statistics, verdict
from desta_lab.evaluation.tasks import PROMPTS
from desta_lab.experiments import quickstart
from desta_lab.experiments.experiment import Experiment
from desta_lab.experiments.quickstart import run_quickstart, write_seeds
from desta_lab.experiments.rows import KINDS
from desta_lab.model import presets
from desta_lab.model.audio_llm import AudioLLM
from desta_lab.model.chat import SYSTEM, build_stream
from tests import tiny

pytestmark = pytest.mark.weights

WHAT = "ask_scene", "calibrated"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where figures and card go."""
    return tmp_path_factory.mktemp("figures")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """The nano experiment in a data folder of its own: whatever the checkout has, it is trained.

    Two thirds of its steps, scored at both ends: the whole and the curve are the finished run's.
    """
    preset = replace(presets.nano(), steps=200, every_checkpoint=False)
    return Experiment(preset, root=tiny.data_folder(tmp_path_factory.mktemp("data")))


@pytest.fixture(scope="module")
def result(lab: Experiment, out: Path) -> dict:
    return run_quickstart(lab, out)


@pytest.fixture(scope="module")
def table(out: Path, result: dict) -> pd.DataFrame:
    return pd.read_csv(out / "table.csv.gz")


def scores(table: pd.DataFrame, run: str, rung: int, condition: str = "audio") -> float:
    rungs = verdict.score_per_rung(verdict.add_untrained(table))
    last = rungs[
        (rungs["run"] == run) & (rungs["condition"] == condition) & (rungs["rung"] == rung)
    ].sort_values("step")
    return float(last["score"].iloc[-1])


def test_self_generated_targets_teach_questions_never_asked(
    lab: Experiment, result: dict, table: pd.DataFrame
) -> None:
    assert result["verdict"]["verdict"] == "SUPPORTED", result["verdict"]["reasons"]
    assert len(result["verdict"]["above_controls"]["self"]) >= 4
    assert scores(table, "self", 3) > 0.5
    assert scores(table, "self", 0) > 0.5


def test_a_bare_label_teaches_its_own_attribute_and_no_other(lab: Experiment, result: dict) -> None:
    risen = result["verdict"]["above_controls"]["label"]
    assert lab.preset.label in risen
    assert len(set(risen) - {lab.preset.label}) <= 1, risen


def test_every_kind_of_target_comes_with_the_loss_it_needs(lab: Experiment) -> None:
    written, soft = lab.training_rows("self")
    hard, none = lab.training_rows("hard")
    assert (
        soft is not None
        and none is None
        and [e["response"] for e in hard] == [e["response"] for e in written]
    )
    template, _ = lab.training_rows("template")
    assert {e["provenance"]["kind"] for e in template} == {"template"}
    assert all(
        "accent is" in e["response"] and e["messages"] == w["messages"]
        for e, w in zip(template, written, strict=True)
    )
    assert len({lab.run_folder(kind).name for kind in KINDS if kind != "other"}) == len(KINDS) - 1


def test_instruction_free_targets_go_on_after_the_description_and_nothing_is_asked(
    lab: Experiment,
) -> None:
    written, _ = lab.training_rows("self")
    alone, soft = lab.training_rows("instruction-free")
    assert soft is not None and len(soft) == len(alone) == len(written)
    assert {e["messages"][-1]["content"] for e in alone} == {"<|AUDIO|>"}
    assert {e["prompt"] for e in alone} == {""}
    assert [e["seed_description"] for e in alone] == [e["seed_description"] for e in written]
    backbone, row = lab.llm.backbone, alone[0]
    asked = [{"role": "system", "content": SYSTEM}]
    asked.append({"role": "user", "content": row["seed_description"]})
    answer = backbone.generate_ids([build_stream(backbone.tokenizer, asked, 0)], 40)[0]
    assert row["response_ids"] == list(answer), "the backbone's own continuation of it"


def test_several_prompts_train_the_same_clips_and_fewer_clips_keep_their_prompts(
    lab: Experiment,
) -> None:
    many = Experiment(replace(lab.preset, prompts=3, train=96), root=lab.root)
    examples, soft = many.training_rows("self")
    asked = {e["id"]: e["prompt"] for e in examples}
    assert soft is not None and set(asked.values()) == set(PROMPTS[:3])
    few = Experiment(replace(lab.preset, prompts=3, train=48), root=lab.root)
    some = {e["id"]: e["prompt"] for e in few.training_rows("template")[0]}
    assert len(some) == 48 and some.items() <= asked.items()
    assert few.corpus.hash == lab.corpus.hash and few.features.folder == lab.features.folder
    assert len({job.run_folder("self").name for job in (lab, many, few)}) == 3


def test_the_transcript_is_a_switch_and_another_run(lab: Experiment) -> None:
    job = Experiment(replace(lab.preset, transcript=True), root=lab.root)
    with_words, without = job.training_rows("self")[0], lab.training_rows("self")[0]
    said = {clip.id: clip.transcript for clip in lab.clips("train")}
    assert all(e["transcripts"] == [said[e["id"]]] for e in with_words)
    assert not any("transcripts" in e for e in without)
    assert (
        job.run_folder("self") != lab.run_folder("self")
        and job.features.folder == lab.features.folder
    )


def test_a_backbone_that_tells_nothing_when_it_reads_is_said_to(
    lab: Experiment, table: pd.DataFrame
) -> None:
    complete = verdict.add_untrained(table)
    tasks = verdict.score_per_task(complete, tuple(verdict.HEIGHTS)).assign(counted=False)
    judged = [quickstart.judge(lab, table)] * len(verdict.HEIGHTS)
    for found in quickstart._describe_findings(lab, judged, tasks):
        assert "tells no attribute well even when it reads" in found and " of 0 " not in found


def test_what_no_target_mentions_stays_near_chance(result: dict, table: pd.DataFrame) -> None:
    assert abs(scores(table, "self", 5)) < 0.3


@pytest.mark.parametrize("condition", ["shuffled", "silence", "untrained"])
def test_every_control_stays_near_chance(condition: str, result: dict, table: pd.DataFrame) -> None:
    for rung in (0, 1, 3, 4):
        assert abs(scores(table, "self", rung, condition)) < 0.25, (condition, rung)


def test_the_glass_box_can_do_every_rung_when_it_reads(result: dict, table: pd.DataFrame) -> None:
    oracle = table[table["condition"] == "oracle"].groupby("rung")["calibrated"].mean()
    assert (oracle >= 0.95).all(), oracle


def test_every_row_has_its_controls_and_no_speaker_is_in_two_splits(
    lab: Experiment, table: pd.DataFrame
) -> None:
    assert set(table["condition"]) == {"audio", "oracle", "shuffled", "silence"}
    heard = {
        split: {clip.speaker for clip in lab.clips(split)}
        for split in ("train", "validation", "test")
    }
    assert not heard["train"] & heard["test"] and not heard["validation"] & heard["test"]
    assert set(table["speaker"]) == heard["test"]


def test_a_second_run_starts_from_the_caches(lab: Experiment, out: Path, result: dict) -> None:
    again = Experiment(lab.preset, root=lab.root)
    begin = time.perf_counter()
    second = run_quickstart(again, out)
    assert not any(stage.startswith(("train", "features")) for stage in again.costs.seconds), (
        again.costs.seconds
    )
    assert time.perf_counter() - begin < 0.5 * sum(second["stages"].values())
    assert second["verdict"] == result["verdict"]


def test_the_card_holds_every_number_and_the_rule(out: Path, result: dict) -> None:
    data = json.loads((out / "card.json").read_text())
    assert data["crossings"] == [] and "when a rung rose between is not known" in str(data["notes"])
    assert data["verdict"]["rule"].startswith("SUPPORTED if")
    for row in data["tasks"]:
        assert {
            "accuracy",
            "low",
            "high",
            "raw",
            "oracle",
            "shuffled",
            "silence",
            "untrained",
            "label_run",
        } <= set(row)
    assert {"corpus", "encoder_sha256", "backbone_sha256"} <= set(data["hashes"])
    page = (out / "card.html").read_text()
    assert data["verdict"]["verdict"] in page
    for name in ("emergence", "held_out", "layer_mixture", "query_to_time"):
        assert (out / f"{name}.png").exists() and (out / f"{name}.csv").exists()


def test_ask_answers_from_a_finished_run(
    lab: Experiment, result: dict, capsys: pytest.CaptureFixture
) -> None:
    clip = lab.clips("test")[0]
    folder = lab.run_folder("self")
    command = [
        "ask",
        str(lab.corpus.path(clip)),
        "What is the background sound?",
        "--run",
        str(folder),
    ]
    assert cli.main(command) == 0
    said = capsys.readouterr().out
    assert "with the clip" in said and "without it" in said


def test_ask_answers_from_a_saved_connector_as_from_its_run(
    lab: Experiment, result: dict, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = lab.run_folder("self")
    saved = AudioLLM.from_run(run).save_pretrained(tmp_path / "saved")
    clip = str(lab.corpus.path(lab.clips("test")[0]))
    answers = []
    for folder in (run, saved):
        assert cli.main(["ask", clip, "What is the background sound?", "--run", str(folder)]) == 0
        answers.append(capsys.readouterr().out.splitlines()[1:])
    assert answers[0] == answers[1] and "with the clip" in answers[0][0]


def test_ask_says_what_is_wrong_with_a_file(
    result: dict, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "empty.wav").touch()
    assert cli.main(["ask", str(tmp_path / "empty.wav"), "What is it?"]) == 1
    assert "empty.wav" in capsys.readouterr().err


# ---- a corpus of one's own ----


def test_several_seeds_are_pooled_on_the_card_of_the_first(
    result: dict, table: pd.DataFrame, tmp_path: Path
) -> None:
    here = (table["run"] == "self") & (table["condition"] == "audio") & (table["step"] > 0)
    other = table.assign(calibrated=table["calibrated"].where(~here, 1.0))
    worse = {**result, "verdict": {**result["verdict"], "verdict": "NOT SUPPORTED"}}
    done = write_seeds([result, worse], {3: table, 4: other}, tmp_path)
    row = next(row for row in done["seeds"] if (row["task"], row["measure"]) == WHAT)
    last = table[here & (table["step"] == table["step"].max()) & (table["task"] == WHAT[0])]
    means = [float(last["calibrated"].mean()), 1.0]
    assert (row["accuracy"], row["low"], row["high"]) == pytest.approx(
        statistics.mean_interval(means)
    )
    assert row["above every control"] == "2 of 2 seeds"
    card = json.loads((tmp_path / "card.json").read_text())
    assert "Over 2 seeds (3, 4)" in card["found"] and len(card["seeds"]) == len(done["seeds"])
    assert "SUPPORTED in 1, NOT SUPPORTED in 1" in card["found"]
    assert "over all seeds" in (tmp_path / "card.html").read_text()
    assert (tmp_path / "seeds_verdict.png").exists() and "seeds" not in result


def table_of(folder: Path, columns: dict[str, list[str]], speakers: list[str]) -> Path:
    """A folder of short tones with a table, as a student may bring it."""
    folder.mkdir()
    for i in range(len(speakers)):
        soundfile.write(folder / f"{i}.wav", tiny.wave(i), RATE)
    rows = {"audio": [f"{i}.wav" for i in range(len(speakers))], "speaker": speakers}
    pd.DataFrame(
        {
            **rows,
            **{name: (values * len(speakers))[: len(speakers)] for name, values in columns.items()},
        }
    ).to_csv(folder / "clips.csv", index=False)
    return folder


def test_a_folder_of_one_voice_is_trained_on_and_the_card_says_what_that_measures(
    tmp_path: Path,
) -> None:
    own = table_of(
        tmp_path / "mine",
        {"manner": ["spoken", "whispered"], "scene": ["rain", "music", "birds"]},
        ["me"] * 18,
    )
    tiny.share_weights(tmp_path)
    short = replace(
        presets.nano(), seconds=1.0, steps=2, batch=4, checkpoint_every=1, free_form_clips=1
    )
    job = Experiment(short, corpus=own, label="manner", root=tmp_path)
    result = run_quickstart(job, tmp_path / "out")
    assert result["verdict"]["verdict"] == "TOO FEW CLIPS TO JUDGE" and "not of new voices" in str(
        result["notes"]
    )
    assert {row["attribute"] for row in result["tasks"]} == {"manner", "scene"}
    assert not {c.id for c in job.clips("train")} & {c.id for c in job.clips("test")}
    targets = {row.description: row.writer for row in job.targets.rows}
    assert set(targets) == {job.describe(c.attributes) for c in job.clips("train")}
    assert "The speaker talks. In the background there is rain." in {
        job.describe(c.attributes) for c in job.corpus.clips
    }
    assert "reading the description" in set(
        job.ask(job.clips("test")[0], "What is the background sound?")["condition"]
    )


def test_the_card_says_which_values_nobody_was_tested_with(tmp_path: Path) -> None:
    splits, genders = ["train"] * 6 + ["test"] * 3, ["female", "male", "male"] * 2 + ["male"] * 3
    columns = {"split": splits, "gender": genders, "manner": ["spoken", "whispered"]}
    own = table_of(tmp_path / "men", columns, [f"voice {i}" for i in range(9)])
    note = quickstart._note_on_clips(Experiment(presets.nano(), corpus=own, root=tmp_path))
    assert "3 speakers never heard in training, none of which is gender = female; " in note


def test_clips_of_which_nothing_is_known_count_for_no_test(tmp_path: Path) -> None:
    splits, speakers = ["train"] * 6 + ["test"] * 4, [f"voice {i}" for i in range(10)]
    columns = {"split": splits, "manner": [*["spoken", "whispered"] * 4, "", ""]}
    own = table_of(tmp_path / "some", columns, speakers)
    job = Experiment(presets.nano(), corpus=own, root=tmp_path)
    assert [clip.id for clip in job.clips("test")] == ["6", "7"]
    columns["manner"][6:] = ["spoken", "", "", ""]
    with pytest.raises(ValueError, match=r"of fewer than two speakers .* anything is known"):
        Experiment(presets.nano(), corpus=table_of(tmp_path / "one", columns, speakers))


def test_the_glass_box_refuses_words_it_never_read_and_a_label_must_be_an_attribute(
    tmp_path: Path,
) -> None:
    moods = table_of(tmp_path / "moods", {"emotion": ["angry", "calm"]}, ["me"] * 18)
    with pytest.raises(ValueError, match=r"nothing of emotion = 'angry', .*or take the preset cpu"):
        Experiment(presets.nano(), corpus=moods)
    assert Experiment(presets.cpu(), corpus=moods).preset.label == "emotion"
    with pytest.raises(ValueError, match="'scene'; the label is one of emotion"):
        Experiment(presets.cpu(), corpus=moods, label="scene")
    late = table_of(
        tmp_path / "late",
        {"split": [*["train"] * 14, "validation", "validation", "test", "test"]}
        | {"emotion": ["angry", "calm"], "hall": [*[""] * 16, "big", "small"]},
        [f"voice {i}" for i in range(18)],
    )
    with pytest.raises(ValueError, match=r"No training clip is asked about 'hall'; .* emotion"):
        Experiment(presets.cpu(), corpus=late, label="hall")
    same = table_of(tmp_path / "same", {"emotion": ["calm"]}, ["me"] * 18)
    with pytest.raises(ValueError, match="no attribute has two values"):
        Experiment(presets.cpu(), corpus=same)
