"""Any model, any clips: the analysis takes plain things; a table says what it cannot do without."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import soundfile
import torch
from torch import nn

from desta_lab.analysis import geometry, probe_sites
from desta_lab.audio import RATE
from desta_lab.clips import Span
from desta_lab.evaluation.evaluate import evaluate
from desta_lab.evaluation.tasks import task_ladder
from desta_lab.experiments.inside import Inside
from desta_lab.experiments.inside_inputs import InsideError
from desta_lab.experiments.inside_tables import NEEDS, TABLES
from desta_lab.model import build, presets
from desta_lab.model.audio_llm import AudioLLM
from desta_lab.model.connector import FrameStack
from desta_lab.model.sites import ForwardPass
from desta_lab.model.weights import NANO_FOLDER
from desta_lab.published import systems
from desta_lab.published.adapters import save_adapter
from desta_lab.training import checkpoints
from desta_lab.views.panels import FeaturePanel
from tests import tiny
from tests.published import llama

COUNT = 16
FEW = {
    "explained": 3,
    "traced": 4,
    "random orders": 2,
    "points": 3,
    "checked": 2,
    "orders": 1,
    "pairs": 4,
    "words": 4,
    "random": 2,
    "heads": 5,
    "window": 0.2,
    "draws": 2,
    "curve": (8,),
    "similar": 2,
    "features": 8,
    "active": 2,
    "training": 5,
    "steered": 6,
    "directions": 2,
    "knocked": (0.25,),
    "factors": (1,),
}
ASKED = [task for task in task_ladder() if task.name in ("ask_scene", "ask_gender")]
# the tiny tokenizers know bytes: behind a blank all options begin alike
TASKS = [replace(task, options={"a": "alpha", "b": "beta"}) for task in ASKED]
LABELS = {
    "gender": ["a" if i // 2 % 2 else "b" for i in range(COUNT)],
    "scene": ["a" if i % 2 else "b" for i in range(COUNT)],
}
SPEAKERS = [f"speaker {i // 2}" for i in range(COUNT)]
WAVES = [tiny.wave(i) for i in range(COUNT)]
WORDS = ["hello there", "", "a few words more than that"] * 5 + ["end"]
SPANS = [[Span("scene:a", 0.1, 0.2), Span("speech", 0.0, 0.3)]] * COUNT


class OwnConnector(nn.Module):
    """A connector that somebody brings: means of frames through one linear layer."""

    queries = 3

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(64, tiny.WIDTH)])

    def forward(self, states):
        parts = nn.functional.adaptive_avg_pool1d(states[-1].transpose(1, 2), 3)
        return self.blocks[0](parts.transpose(1, 2))


@pytest.fixture(autouse=True)
def no_umap(monkeypatch):
    """UMAP takes half a minute to be imported."""
    monkeypatch.setattr(geometry, "_fit_umap", lambda site, onto, seed: site[:, :2].copy())


def look_into(llm, **how) -> Inside:
    given = {"speakers": SPEAKERS, "sizes": FEW, "label": "scene"}
    return Inside(llm, WAVES, LABELS, TASKS, **{**given, **how})


def with_connector(connector: nn.Module) -> AudioLLM:
    own = tiny.audio_llm(dropout=0.0)
    torch.manual_seed(0)
    return AudioLLM(own.encoder, connector.eval(), own.backbone)


def make_llm(kind: str, folder) -> AudioLLM:
    if kind == "frames":
        return with_connector(FrameStack(d_enc=64, d_llm=tiny.WIDTH, queries=5, hidden=16))
    if kind == "own":
        return with_connector(OwnConnector())
    if kind == "published":
        preset, file, _ = llama.system(folder)
        return systems.open_system(file, preset)
    return tiny.audio_llm(dropout=0.0)


@pytest.mark.parametrize("kind", ["qformer", "frames", "own", "published"])
def test_every_connector_gets_every_table_that_needs_no_more_than_clips(kind, tmp_path):
    look = look_into(make_llm(kind, tmp_path), transcripts=WORDS)
    tables = look.run()
    assert set(tables) == set(TABLES) - {"evidence", "similar_steps"} == set(TABLES) - set(NEEDS)
    assert all(len(table) for table in tables.values())
    assert look.refused == {
        "evidence": "The table 'evidence' needs spans: where in each clip the label is heard, in "
        "a part of it; give spans=[…].",
        "similar_steps": "The table 'similar_steps' needs checkpoints: two steps of training; give "
        "the folder of a run.",
    }
    attends = kind in ("qformer", "published")
    assert ("query attention" in set(tables["profiles"]["method"])) == attends
    assert "shapley, windows" in set(tables["profiles"]["method"])
    assert set(tables["heads"]["pointing"].isna()) == {True}
    assert set(tables["lens"]["condition"]) == {"audio", "shuffled", "oracle", "tuned lens"}


def test_with_spans_and_checkpoints_nothing_is_missing_and_figures_are_saved(tmp_path):
    llm, run = tiny.audio_llm(dropout=0.0), tmp_path / "run"
    checkpoints.save_checkpoint(run, llm, 0, None)
    with torch.no_grad():
        for parameter in llm.connector.parameters():
            parameter += 0.05
    checkpoints.save_checkpoint(run, llm, 8, 1.0)
    look = look_into(llm, spans=SPANS, checkpoints=run, out=tmp_path / "figures")
    tables = look.run()
    assert set(tables) == set(TABLES) and not look.refused
    assert "untrained" in set(tables["lens"]["condition"])
    assert set(tables["answers"]["step"]) == {0, 8}
    assert len(list((tmp_path / "figures").glob("*.png"))) == 18
    one = {0: run / "checkpoints" / "000000.safetensors"}
    first = look_into(llm, checkpoints=one).table("answers")
    pd.testing.assert_frame_equal(first, tables["answers"].query("step == 0"))


def test_a_second_question_about_an_attribute_is_analysed_beside_the_first():
    llm = tiny.audio_llm(dropout=0.0)
    more = [*TASKS, replace(TASKS[0], name="again", question="Which one is it?")]
    given = {"speakers": SPEAKERS, "sizes": FEW, "label": "scene"}
    look = Inside(llm, WAVES, LABELS, more, **given)
    tables = look.run()
    assert set(tables) == {*TABLES} - {"evidence", "similar_steps"}
    alone = look_into(llm)
    for name in ("patching", "sparse_features"):  # one question stands for its attribute
        assert list(tables[name]["attribute"]) == list(alone.table(name)["attribute"])
    pd.testing.assert_frame_equal(tables["patching"], alone.table("patching"))


def test_transcripts_reach_the_answers(tmp_path):
    """An independent reference: the evaluator, which reads the transcripts of the clips."""
    llm = tiny.audio_llm(dropout=0.0)
    look = look_into(llm, transcripts=WORDS)
    judged = evaluate(
        llm,
        look.tasks,
        look.pick(look.scored),
        look.pick(look.calibration),
        conditions=["audio"],
        audio_embeddings=look.audio_embeddings([*look.scored, *look.calibration]),
        transcripts=True,
    )
    expected = judged.groupby("attribute")["calibrated"].mean()
    answers = look.table("answers").set_index("attribute")["accuracy"]
    pd.testing.assert_series_equal(answers.sort_index(), expected, check_names=False)
    mute = look_into(llm)
    for name in (
        *("lens", "profiles", "heads", "patching", "randomisation"),
        *("listening_heads", "audio_direction"),
    ):
        assert not look.table(name).equals(mute.table(name)), name
    assert look.provenance("lens").key != mute.provenance("lens").key


def test_a_run_that_was_trained_with_transcripts_is_not_analysed_without(tmp_path):
    llm = tiny.audio_llm(dropout=0.0)
    checkpoints.save_checkpoint(tmp_path, llm, 0, None)
    (tmp_path / "config.json").write_text('{"transcript": true}')
    with pytest.raises(InsideError, match=r"trained with transcripts .* give transcripts="):
        look_into(llm, checkpoints=tmp_path)
    assert look_into(llm, checkpoints=tmp_path, transcripts=WORDS).last == 0


def test_a_model_that_was_trained_with_transcripts_is_not_analysed_without():
    llm = tiny.audio_llm(dropout=0.0)
    llm.transcript = True  # as `from_pretrained` and `open_system` have it
    with pytest.raises(InsideError, match=r"This model was trained with transcripts .* give"):
        look_into(llm)
    assert look_into(llm, transcripts=WORDS).last == 0


def test_a_dictionary_is_trained_once_on_the_clips_that_calibrate(tmp_path):
    look = look_into(tiny.audio_llm(dropout=0.0), root=tmp_path)
    assert look.dictionary_sites == ["audio embeddings", "slots 0"]
    for site in look.dictionary_sites:
        trained, vectors = look.dictionary(site), look.slot_vectors(site)
        assert vectors.shape == (COUNT, 5, tiny.WIDTH)
        torch.testing.assert_close(trained.mean, vectors[look.calibration].mean(0))
        assert torch.equal(look.dictionary(site).decoder, trained.decoder)
    with pytest.raises(InsideError, match="no dictionary of 'slots 1'; take one of audio"):
        look.dictionary("slots 1")


def test_the_panel_of_features_shows_and_plays_the_clips_that_light_one_most():
    look = look_into(tiny.audio_llm(dropout=0.0))
    panel = FeaturePanel(look)
    assert panel.note.value == ""
    first = panel.picture.value
    assert first[:4] == b"\x89PNG" and all(player.value for player in panel.players)
    panel.attribute.value = "gender"
    assert panel.note.value == "" and panel.picture.value
    assert "<audio" in panel.still() and "<img" in panel.still()


def test_results_are_kept_in_memory_or_in_a_folder_by_the_hash_of_all_that_goes_in(tmp_path):
    llm = tiny.audio_llm(dropout=0.0)
    look = look_into(llm, root=tmp_path)
    kept = look.table("answers")
    folder = look.provenance("answers").folder(tmp_path)
    assert folder.is_dir()
    pd.testing.assert_frame_equal(look_into(llm).table("answers"), kept)
    other = [tiny.wave(i + 1) for i in range(COUNT)]
    changed = [
        Inside(llm, other, LABELS, TASKS, speakers=SPEAKERS, sizes=FEW, label="scene"),
        look_into(llm, sizes={**FEW, "draws": 3}),
        look_into(llm, label="gender"),
        look_into(llm, speakers=SPEAKERS[::-1]),
        look_into(llm, transcripts=WORDS),
        look_into(tiny.audio_llm(dropout=0.0, seed=1)),
    ]
    keys = {one.provenance("answers").key for one in (look, *changed)}
    assert len(keys) == len(changed) + 1
    assert look_into(llm).provenance("answers").key == look.provenance("answers").key


def test_a_site_that_is_added_reaches_the_probes_and_is_not_missed_in_what_was_kept(
    tmp_path, monkeypatch
):
    llm = tiny.audio_llm(dropout=0.0)
    before = look_into(llm, root=tmp_path).table("probes")
    monkeypatch.setitem(probe_sites._NAMES, r"connector\.blocks\.0\.cross_attention", "heard")
    after = look_into(llm, root=tmp_path).table("probes")
    assert set(after["site"]) == {*before["site"], "heard"}


def test_files_clips_of_a_corpus_and_waveforms_are_the_same_clips(tmp_path):
    llm, corpus = tiny.audio_llm(dropout=0.0), tiny.corpus(tmp_path, 8)
    files = [corpus.path(clip) for clip in corpus.clips]
    given = {"speakers": [clip.speaker for clip in corpus.clips], "sizes": FEW}
    labels = {"gender": [clip.attributes["gender"] for clip in corpus.clips]}
    named = Inside(llm, corpus.clips, folder=corpus.folder, sizes=FEW)
    assert set(named.labels) >= {"gender", "scene"} and named.speakers == given["speakers"]
    assert named.transcripts is None
    by_file = Inside(llm, files, labels, **given)
    waves = [soundfile.read(file, dtype="float32")[0] for file in files]
    by_wave = Inside(llm, waves, labels, **given)
    right = llm.run(files, "What?", sites=["audio_embeddings"])["audio_embeddings"]
    for look in (named, by_file, by_wave):
        torch.testing.assert_close(look.audio_embeddings(range(8)), right, atol=2e-2, rtol=1e-2)
    assert by_file.clips[0].id == "000.wav" and by_wave.clips[1].id == "clip 1"


def test_ten_clips_without_speakers_are_enough_and_three_are_not(tmp_path):
    llm = tiny.audio_llm(dropout=0.0)
    labels = {"scene": ["a", "b"] * 5}
    look = Inside(
        llm, WAVES[:10], labels, TASKS[:1] if TASKS[0].attribute == "scene" else TASKS[1:]
    )
    assert len(look.calibration) + len(look.scored) == 10
    for name in ("probes", "learning_curves", "similar_sites", "lens"):
        assert len(look.table(name))
    with pytest.raises(ValueError, match="3 clips of 3 speakers are too few for 4 folds"):
        Inside(llm, WAVES[:3], {"scene": ["a", "b", "a"]}, look.tasks).table("probes")


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"labels": {"scene": ["a"] * 3}}, "16 clips and 3 values of scene; give one for each"),
        ({"labels": {"scene": ["a"] * COUNT}}, "All 16 clips have the same scene"),
        ({"labels": None}, "No label tells these clips apart"),
        ({"speakers": ["x"]}, "16 clips and 1 speakers; give one for each"),
        ({"transcripts": ["x"]}, "16 clips and 1 transcripts; give one for each"),
        ({"tasks": []}, "No task is given"),
        ({"label": "age"}, "No task asks about 'age'; the label is one of"),
        ({"sizes": {"clips": 3}}, "no size 'clips'; there are traced"),
        ({"labels": {**LABELS, "scene": ["a", "c"] * 8}}, "'c' in a clip; give every clip"),
        ({"labels": {"scene": ["a", "b"] * 8}}, "asks about gender, of which there are no labels"),
        ({"calibration": [0, 99]}, "calibration has the row 99, and there are 0 to 15; give"),
        ({"calibration": []}, "calibration has the row none, and there are 0 to 15; give"),
        ({"calibration": range(COUNT)}, "The 0 clips not in calibration have 0 speakers, and a"),
        ({"calibration": range(14)}, "The 2 clips not in calibration have 1 speakers, and a"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(how, sentence):
    given = {"labels": LABELS, "tasks": TASKS, "speakers": SPEAKERS, **how}
    with pytest.raises(InsideError, match=sentence):
        Inside(tiny.audio_llm(), WAVES, given.pop("labels"), given.pop("tasks"), **given)


def test_clips_in_the_order_of_their_speakers_lose_a_table_and_not_the_analysis():
    """The first that are patched, or explained, are all of one speaker."""
    speakers = ["x"] * 4 + ["y"] * 6 + ["z"] * 6
    sizes = FEW | {"pairs": 3, "traced": 6}
    look = look_into(
        tiny.audio_llm(dropout=0.0),
        speakers=speakers,
        calibration=range(4),
        sizes=sizes,
        spans=SPANS,
    )
    for name in ("patching", "evidence"):
        with pytest.raises(InsideError, match=r"The . clips .* have 1 speakers, .* mixed order"):
            look.table(name)
    assert len(look.table("gap"))


def test_a_checkpoint_that_never_shipped_is_told_without_advice_to_delete(tmp_path):
    llm = tiny.audio_llm(dropout=0.0)
    for step in (0, 4, 8):
        with torch.no_grad():
            for parameter in llm.connector.parameters():
                parameter += 0.01
        checkpoints.save_checkpoint(tmp_path, llm, step, None)
    (tmp_path / "checkpoints" / "000004.safetensors").unlink()
    look = look_into(llm, checkpoints=tmp_path)
    with pytest.raises(checkpoints.CheckpointError) as caught:
        look.sites(4)
    assert "the files of steps 0, 8" in str(caught.value) and "elete" not in str(caught.value)
    with pytest.raises(InsideError, match="no checkpoint of step 5; take one of 0, 4, 8"):
        look.sites(5)
    assert look.sites(0)["audio embeddings"].shape[0] == COUNT


def test_an_attribute_without_a_question_is_named_with_those_there_are():
    look = Inside(tiny.audio_llm(), WAVES, LABELS, TASKS, speakers=SPEAKERS)
    assert look.task("scene").attribute == "scene"
    with pytest.raises(InsideError, match="No task asks about 'mood'; there are questions about "):
        look.task("mood")


def test_an_unknown_table_is_named_with_those_there_are():
    with pytest.raises(InsideError, match="no table 'nothing'; there are probes"):
        look_into(tiny.audio_llm()).table("nothing")


# ---- the page "Analyse from Python" ----


def script() -> str:
    """The code of ten clips on the page."""
    page = Path(__file__).resolve().parents[2] / "docs" / "analysis.md"
    return page.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]


def test_the_script_of_ten_clips_is_short():
    lines = [line for line in script().splitlines() if line.strip()]
    assert len(lines) <= 25
    assert sum(line.startswith(("import", "from")) for line in lines) == 3


@pytest.mark.parametrize("kind", ["saved", "published"])
def test_the_script_of_ten_clips_runs(kind, tmp_path, monkeypatch, capsys):
    """On a connector that was saved and on a tiny published system; the backbone is nano's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DESTA_LAB_DATA", str(tmp_path))
    (tmp_path / "recordings").mkdir()
    for i in range(10):
        scene = ("rain", "birds")[i % 2]
        soundfile.write(tmp_path / "recordings" / f"{scene}_v{i // 2}_{i}.wav", WAVES[i], RATE)
    code, names = script(), {}
    if kind == "saved":
        tiny.hf_folder(tmp_path / "models" / "ears", tiny.whisper())
        small = replace(presets.SMALL, width=16, heads=2, ffn=16, depth=1)
        about = {"seconds": tiny.SECONDS, "taps": (1, 3), "connector": small}
        preset = presets.Preset("tiny", "ears", presets.NANO, "a test", **about)
        build.build_audio_llm(preset).save_pretrained("my connector")
    else:
        preset, *_ = llama.system(tmp_path)
        save_adapter(llama.connector(d_enc=48, d_llm=192, ffn=64), tmp_path / "adapter.safetensors")
        preset = replace(preset, backbone=str(NANO_FOLDER))
        names["llm"] = systems.open_system(tmp_path / "adapter.safetensors", preset)
        code = code.replace("llm = AudioLLM", "_ = AudioLLM and llm  #")
        code = code.replace("files, labels,", "files, labels, transcripts=['a'] * 10,")
    exec(code, names)
    kept = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert {"forward.safetensors", "probes.csv", "lens.csv", "patching.csv"} <= kept
    forward = ForwardPass.load(tmp_path / "forward.safetensors")
    assert {"audio_embeddings", "backbone.1.attention.pattern"} <= set(forward.sites)
    assert "connector.blocks.0.cross_attention.pattern" in forward.sites
    assert capsys.readouterr().out.count("backbone.1") == 2  # the audio slots, and the answer
