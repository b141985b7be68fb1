"""A finished run is tested on recordings of people, beside its own test and every control."""

import functools
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from desta_lab import cli
from desta_lab.clips import Clip, Corpus
from desta_lab.course import finished, notebooks
from desta_lab.evaluation import verdict
from desta_lab.evaluation.tasks import task_ladder
from desta_lab.experiments import people
from desta_lab.experiments.experiment import Experiment
from desta_lab.model import presets
from desta_lab.training import checkpoints
from desta_lab.world.recorded import Voices, build_recorded_corpus, read_voices
from tests import tiny

pytestmark = pytest.mark.weights


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """The nano run that ships, in a data folder of its own."""
    root = tmp_path_factory.mktemp("lab") / "data"
    root.mkdir()
    experiment = Experiment(presets.nano(), root=tiny.data_folder(root))
    finished.restore(experiment)
    return experiment


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.people(tmp_path_factory.mktemp("voices") / "people")


@pytest.fixture(scope="module")
def result(lab: Experiment, voices: Path) -> dict:
    usual = lab.figures_folder("quickstart")
    usual.mkdir(parents=True)
    about = {"hashes": {"run self": lab.run_folder("self").name}, "notes": ["one seed."]}
    (usual / "card.json").write_text(json.dumps(about))
    return people.test_voices(lab, voices, together="language", clips=32)


def test_people_stand_beside_every_control_with_intervals_over_speakers(result: dict) -> None:
    table = result["table"]
    assert set(table["condition"]) == {"audio", "silence", "shuffled", "oracle"}
    assert set(table["step"]) == {0, 300}
    asked = {row["attribute"] for row in result["people"]}
    assert asked == {"gender", "rate", "loudness", "manner", "scene"}
    for row in result["people"]:
        assert row["low"] <= row["accuracy"] <= row["high"]
        assert {"untrained", "oracle", "silence", "shuffled", "own test"} <= row.keys()
    manner = next(row for row in result["people"] if row["task"] == "ask_manner")
    assert manner["accuracy"] > 0.7 > manner["silence"]


def test_what_is_said_of_people_stands_beside_the_same_controls(result: dict) -> None:
    table = result["table"]
    asked = table[table["rung"] == 3]
    assert asked["said"].notna().all()  # of every clip, untrained and trained, and by reading
    summary = verdict.score_per_task(verdict.add_untrained(table), ["said"])
    manner = summary[(summary["task"] == "ask_manner") & (summary["step"] == 300)]
    accuracy = manner.set_index("condition")["accuracy"]
    assert accuracy["oracle"] == 1 and accuracy["audio"] > 0.7 > accuracy["untrained"]
    json = summary[(summary["task"] == "json_gender") & (summary["condition"] == "audio")]
    assert set(json["clips"]) == {24} and set(json["step"]) == {300}  # a few, at the end alone
    manner = next(row for row in result["people"] if row["task"] == "ask_manner")
    assert manner["said"] == accuracy["audio"] and manner["said_by_reading"] == 1
    assert "in the backbone's own words" in result["notes"][1]


def test_own_test_is_ranked_at_checkpoints_that_the_main_job_left_out(lab: Experiment) -> None:
    """A preset may score the ends alone; when answers arrive is asked of people and of it alike."""
    last = checkpoints.list_checkpoints(lab.run_folder("self"))[-1]
    known = people.score_own_test(lab, [last])
    other = Experiment(replace(presets.nano(), free_form_clips=2), root=lab.root)  # never scored
    ranked = people.score_own_test(other, [last])
    assert set(ranked["rung"]) == {3} and set(ranked["step"]) == {300}
    both = known.merge(ranked, on=["task", "clip"], suffixes=("", "_ranked"))
    assert len(both) == len(ranked) and "answer" not in ranked
    assert (both["calibrated"] == both["calibrated_ranked"]).mean() > 0.95  # two machines


def test_answers_about_some_people_are_shown_as_they_were_given(
    lab: Experiment, result: dict
) -> None:
    shown = pd.read_csv(lab.figures_folder("voices-people") / "people_answers.csv")
    assert shown.groupby("clip")["question"].nunique().eq(shown["question"].nunique()).all()
    table = result["table"]
    heard = table[(table["condition"] == "audio") & (table["step"] == 300)]
    given = set(heard[["clip", "answer", "said"]].dropna().itertuples(index=False, name=None))
    assert set(shown[["clip", "answer", "said"]].itertuples(index=False, name=None)) <= given
    assert shown["question"].iloc[0] == "Paraphrase the description."
    assert set(shown["who"]) <= {
        f"{one}, {of}" for one in ("female", "male") for of in ("de", "en", "it")
    }


def test_other_conditions_and_descriptions_are_other_scores(
    lab: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keys(describe=None) -> list[str]:
        job = Experiment(presets.nano(), root=lab.root, describe=describe)
        job.llm, found = lab.llm, []

        def keep(root: Path, provenance, make) -> pd.DataFrame:
            found.append(provenance.key)
            return pd.DataFrame()

        monkeypatch.setattr(people.cache, "find_or_make", keep)
        people.score_people(job, lab.corpus, [{"step": 0, "sha256": "a"}])
        return found

    usual = keys()
    one, other = (keys(lambda a, word=word: f"{word} {a['scene']}.") for word in ("Hear", "It is"))
    assert len({usual[0], one[0], other[0]}) == 3  # what the text oracle reads
    conditions = people.conditions.AUDIO_CONDITIONS
    monkeypatch.setitem(conditions, "noise", conditions["silence"])
    assert keys()[0] == usual[0] and keys()[1] != usual[1]


def test_what_is_read_of_people_determines_their_oracle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A description may differ about people alone, of whom something is not known."""
    made = {"gender": "female", "rate": "slow"}, {"gender": "male", "rate": "fast"}
    clips = [Clip(f"{i}", "", 1.0, "", "abcd"[i], dict(made[i % 2])) for i in range(4)]
    splits = {"test": ("a", "b"), "validation": ("c", "d")}
    corpus = Corpus(tmp_path, "people", {}, 0, "unknown", splits, tuple(clips))

    def say(known: dict[str, str], unknown: str) -> str:
        return f"A {known['gender']} voice with {known.get('accent', unknown)} accent."

    def key(**pieces) -> str:
        job = Experiment(presets.nano(), root=tmp_path, **pieces)
        job.llm, found = SimpleNamespace(provenance={}), []

        def keep(root: Path, provenance, make) -> pd.DataFrame:
            found.append(provenance.key)
            return pd.DataFrame()

        monkeypatch.setattr(people.cache, "find_or_make", keep)
        people.score_people(job, corpus, [{"step": 0, "sha256": "a"}])
        return found[0]

    some, no = (functools.partial(say, unknown=word) for word in ("some", "no"))
    assert len({key(), key(describe=some), key(describe=no)}) == 3
    assert key(describe=some) == key(describe=functools.partial(say, unknown="some"))
    named, other = lambda known: say(known, "some"), lambda known: say(known, "no")
    assert key(describe=named) != key(describe=other)


def test_all_speakers_are_scored_and_what_is_not_known_is_said(result: dict) -> None:
    assert result["table"]["speaker"].nunique() == 6
    assert any("Nothing is asked about accent" in note for note in result["notes"])
    assert any("calibrated on the other" in note for note in result["notes"])


def test_table_figures_and_card_are_there_and_the_runs_own_card_has_the_lines(
    lab: Experiment, result: dict
) -> None:
    out = lab.figures_folder("voices-people")
    drawn = [f"people{which}.png" for which in ("", "_last", "_said", "_answers")]
    for name in (*drawn, "scores.csv", "table.csv.gz", "card.html"):
        assert (out / name).is_file(), name
    assert len(pd.read_csv(out / "scores.csv"))
    own = json.loads((lab.figures_folder("quickstart") / "card.json").read_text())
    assert own["people"] == json.loads((out / "card.json").read_text())["people"]
    assert own["notes"][0] == "one seed."
    assert "gender" in people.format_people(result)


def test_the_cells_of_notebook_10_test_a_folder_of_a_few_voices(
    lab: Experiment, voices: Path, result: dict, capsys
) -> None:
    (source,) = notebooks.find_sources(["10"])
    cells = [cell.source for cell in notebooks.build_notebook(source, solved=True).cells]
    where = next(i for i, cell in enumerate(cells) if cell.startswith("VOICES = "))
    few = functools.partial(people.test_voices, together="language", clips=32)  # as in `result`
    names = {
        "experiment": lab,
        "people": SimpleNamespace(test_voices=few, format_people=people.format_people),
    }
    exec(cells[where].replace('""', repr(str(voices)), 1), names)
    exec(cells[where + 1], names)
    said = capsys.readouterr().out
    assert said.strip().endswith(people.format_people(result).strip()) and "gender" in said


def test_without_any_run_nothing_is_rendered_for_the_test(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No run of cpu is here, so there is nothing to test"):
        people.test_voices(Experiment(presets.cpu(), root=tmp_path), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_run_that_is_not_finished_is_refused_in_a_sentence(lab: Experiment, voices: Path) -> None:
    other = Experiment(presets.nano(), seed=5, root=lab.root)
    other.corpus = lab.corpus  # not rendered anew
    with pytest.raises(ValueError, match="is not finished, so there is nothing to test on people"):
        people.test_voices(other, voices)


def test_people_of_the_training_are_refused_wherever_their_folder_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny.people(tmp_path / "people", 8)
    counts = {"train": 4, "validation": 4, "test": 4}
    corpus = build_recorded_corpus(tmp_path, read_voices(folder), counts, workers=1)
    job = Experiment(presets.nano(), corpus=corpus, root=tmp_path)
    monkeypatch.setattr(people, "_find_finished", lambda _: tmp_path)
    with pytest.raises(ValueError, match="the run was trained on 4 speakers of these names"):
        people.test_voices(job, folder.rename(tmp_path / "others"))


def test_recordings_of_which_nothing_can_be_asked_or_read_are_refused(lab: Experiment) -> None:
    both = [*lab.corpus.split("test")[:4], *lab.corpus.split("validation")[:4]]
    clips = [replace(clip, attributes={"manner": "spoken"}) for clip in both]
    corpus = replace(lab.corpus, clips=tuple(clips))
    with pytest.raises(ValueError, match=r"Nothing can be asked about spoken\. Nothing is asked"):
        people.score_people(lab, corpus, [{"step": 0, "sha256": "a"}])
    job = Experiment(presets.nano(), root=lab.root, describe=lambda known: known["accent"])
    job.llm = lab.llm
    clips[0].attributes["manner"] = "whispered"
    with pytest.raises(ValueError, match="describe fails on"):
        people.score_people(job, corpus, [{"step": 0, "sha256": "a"}])


def test_what_a_half_cannot_calibrate_is_said(lab: Experiment) -> None:
    assert not people._note_silence(lab.tasks, lab.corpus)
    women = set(lab.corpus.splits["test"])
    clips = [
        replace(one, attributes={**one.attributes, "gender": "female"})
        for one in lab.corpus.clips
        if one.speaker in women
    ]
    others = [one for one in lab.corpus.clips if one.speaker not in women]
    assert people._note_silence(lab.tasks, replace(lab.corpus, clips=(*clips, *others))) == [
        "No clip of one half is gender = male, so the other half is calibrated with silence there."
    ]


def test_people_of_whom_no_clip_was_made_are_not_counted(tmp_path: Path) -> None:
    about = {who: {"gender": "female" if who == "a" else "male"} for who in "abcd"}
    voices = Voices(tmp_path, "unknown", dict.fromkeys(about, ()), about, None, 0, "0")
    clips = tuple(Clip(who, "", 1.0, "", who, {}) for who in "aab")
    corpus = Corpus(tmp_path, "x", {}, 0, "", {"test": ("a",), "validation": ("b",)}, clips)
    notes = people._notes(voices, corpus, [], "2 people", [])
    assert "(2 people; 1 female, 1 male)" in notes[0]


def test_a_value_that_one_of_two_questions_does_not_know_is_not_asked_about() -> None:
    usual = [task for task in task_ladder() if task.name == "ask_gender"]
    more = replace(usual[0], options={**usual[0].options, "other": " neither"})
    clips = [Clip("a", "", 1.0, "", "a", {"gender": "other"})]
    assert people._keep_options(clips, [more])[0].attributes == {"gender": "other"}
    assert not people._keep_options(clips, [*usual, more])[0].attributes


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--voices", "a", "--corpus", "b"], "--corpus and --voices name two corpora"),
        (["--together", "language"], "--together is about recordings"),
        (["--every-checkpoint"], "--every-checkpoint is about the test on people"),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(given, words, capsys) -> None:
    assert cli.main(["quickstart", "--preset", "nano", *given]) == 1
    assert words in capsys.readouterr().err
