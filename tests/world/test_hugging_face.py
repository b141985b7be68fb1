"""A Hugging Face dataset becomes a corpus, and a fault is named by split and row.

Tried on the library where it is installed, and on a double of what is used of it.
"""

import io
import sys
import types

import numpy as np
import pytest
import soundfile

from desta_lab.clips import Corpus, CorpusError
from desta_lab.world.hugging_face import corpus_from_dataset
from desta_lab.world.tables import deal_speaker
from tests.world.files import write_lines


class Part(list):
    """A double of datasets.Dataset: rows, their columns and their features."""

    def __init__(self, rows, features):
        super().__init__(rows)
        self.features, self.column_names = features, list(features)

    def select_columns(self, names):
        kept = {name: self.features[name] for name in names}
        return Part([{name: row[name] for name in names} for row in self], kept)

    def cast_column(self, name, feature):
        assert feature.decode is False
        return self


class Double:
    """A stand-in for the library: `save` keeps what load_from_disk gives back."""

    def __init__(self):
        self.saved = {}
        self.module = types.ModuleType("datasets")
        self.module.Audio = lambda decode: types.SimpleNamespace(decode=decode)
        self.module.load_from_disk = lambda path: self.saved[path]
        self.module.load_dataset = self.load_dataset
        self.module.exceptions = types.SimpleNamespace(
            DatasetsError=type("DatasetsError", (Exception,), {})
        )

    def load_dataset(self, name, config):
        raise FileNotFoundError(f"Dataset '{name}' doesn't exist on the Hub")

    def save(self, path, splits):
        label = types.SimpleNamespace(names=["sad", "happy"])
        features = {"audio": None, "who": None, "label": label, "text": None}
        parts = {split: Part(rows, features) for split, rows in splits.items()}
        write_lines(path / "state.json", "{}")
        self.saved[str(path)] = parts if len(parts) > 1 else next(iter(parts.values()))


class Real:
    """The library itself; audio is put in as bytes, since its own encoder needs torchcodec."""

    def __init__(self):
        why = "the optional package datasets (with pyarrow) is not installed; pip install datasets"
        self.module = pytest.importorskip("datasets", reason=why)

    def save(self, path, splits):
        kinds = self.module
        stored = {"bytes": kinds.Value("binary"), "path": kinds.Value("string")}
        rest = {"who": kinds.Value("int64"), "label": kinds.ClassLabel(names=["sad", "happy"])}
        features = kinds.Features({"audio": stored, **rest, "text": kinds.Value("string")})
        parts = {
            split: kinds.Dataset.from_list(rows, features=features).cast_column(
                "audio", kinds.Audio()
            )
            for split, rows in splits.items()
        }
        (kinds.DatasetDict(parts) if len(parts) > 1 else next(iter(parts.values()))).save_to_disk(
            str(path)
        )


@pytest.fixture(params=[Double, Real])
def library(request, monkeypatch):
    made = request.param()
    monkeypatch.setitem(sys.modules, "datasets", made.module)
    return made


def stored(kind="WAV", seconds=0.5):
    file = io.BytesIO()
    soundfile.write(
        file,
        0.1 * np.random.default_rng(1).standard_normal(round(8_000 * seconds)),
        8_000,
        format=kind,
    )
    return {"bytes": file.getvalue(), "path": "somewhere/else.bin"}


def voice(who, label=0, text="Hello.", **sound):
    return {"audio": sound.get("audio", stored()), "who": who, "label": label, "text": text}


COLUMNS = {"speaker": "who", "transcript": "text", "emotion": "label"}


def test_a_dataset_on_disk_becomes_a_corpus(library, tmp_path):
    rows = {"train": [voice(1), voice(2, 1, None)], "test": [voice(3, 1, audio=stored("FLAC"))]}
    library.save(tmp_path / "moods", rows)
    corpus = corpus_from_dataset(tmp_path / "moods", tmp_path / "here", COLUMNS, licence="CC0-1.0")
    assert corpus.splits == {"train": ("1", "2"), "test": ("3",)}
    assert [clip.audio for clip in corpus.clips] == [
        "audio/train/000000.wav",
        "audio/train/000001.wav",
        "audio/test/000000.flac",
    ]
    assert [clip.transcript for clip in corpus.clips] == ["Hello.", "", "Hello."]
    assert [clip.attributes["emotion"] for clip in corpus.clips] == ["sad", "happy", "happy"]
    assert (corpus.name, corpus.licence) == ("moods", "CC0-1.0")
    assert (
        corpus.path(corpus.clips[0]).read_bytes() == rows["train"][0]["audio"]["bytes"]
    )  # as it was stored
    Corpus.read(tmp_path / "here", check_audio=True)


def test_the_speakers_of_one_split_are_dealt(library, tmp_path):
    library.save(tmp_path / "one", {"train": [voice(who) for who in range(40)]})
    corpus = corpus_from_dataset(tmp_path / "one", tmp_path / "here", COLUMNS)
    assert {who: deal_speaker(who) for who in map(str, range(40))} == {
        who: split for split, members in corpus.splits.items() for who in members
    }


def test_splits_that_share_a_speaker_are_refused_or_dealt_anew(library, tmp_path):
    library.save(tmp_path / "two", {"train": [voice(1)], "test": [voice(1)]})
    with pytest.raises(
        CorpusError, match="split test, row 0: speaker '1' is in 'train' and 'test'; "
    ):
        corpus_from_dataset(tmp_path / "two", tmp_path / "here", COLUMNS)
    dealt = corpus_from_dataset(tmp_path / "two", tmp_path / "here", COLUMNS, own_splits=False)
    assert len(dealt.splits) == 1


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (voice(None), "the speaker is empty; "),
        (voice(1, audio={"bytes": b"not audio", "path": None}), "not readable as audio "),
        (voice(1, audio=None), "no audio is stored, and its path is None; "),
    ],
)
def test_a_bad_row_of_a_dataset_is_named(library, tmp_path, row, words):
    library.save(tmp_path / "bad", {"train": [voice(2), row]})
    with pytest.raises(CorpusError, match=f"bad, split all, row 1: .*{words}"):
        corpus_from_dataset(tmp_path / "bad", tmp_path / "here", COLUMNS)


def test_a_missing_number_is_no_class(tmp_path, monkeypatch):
    library = Double()  # pandas writes None and NaN for what is missing among numbers
    monkeypatch.setitem(sys.modules, "datasets", library.module)
    rows = [voice(1, text=float("nan")), voice(1, text=None), voice(2, text=7)]
    library.save(tmp_path / "moods", {"train": rows})
    corpus = corpus_from_dataset(
        tmp_path / "moods", tmp_path / "here", {"speaker": "who", "age": "text"}
    )
    assert [clip.attributes for clip in corpus.clips] == [{}, {}, {"age": "7"}]


def test_splits_of_the_hub_are_known_by_their_names(library, tmp_path):
    rows = {"train.clean.100": [voice(1)], "train.clean.360": [voice(2)], "dev": [voice(3)]}
    library.save(tmp_path / "libri", rows)
    corpus = corpus_from_dataset(tmp_path / "libri", tmp_path / "here", COLUMNS)
    assert corpus.splits == {"train": ("1", "2"), "validation": ("3",)}
    assert len({clip.audio for clip in corpus.clips}) == 3


def test_a_split_cannot_name_a_place_outside(tmp_path, monkeypatch):
    library = Double()
    monkeypatch.setitem(sys.modules, "datasets", library.module)
    library.save(tmp_path / "bad", {"train": [voice(1)], "../../test": [voice(2)]})
    with pytest.raises(CorpusError, match=r"'\.\./\.\./test' cannot name a split's folder; "):
        corpus_from_dataset(tmp_path / "bad", tmp_path / "here", COLUMNS)


def test_another_corpus_is_not_written_over(library, tmp_path):
    library.save(tmp_path / "one", {"train": [voice(1)]})
    library.save(tmp_path / "two", {"train": [voice(2)]})
    corpus_from_dataset(tmp_path / "one", tmp_path / "here", COLUMNS)
    corpus_from_dataset(tmp_path / "one", tmp_path / "here", COLUMNS)
    with pytest.raises(CorpusError, match="choose another folder"):
        corpus_from_dataset(tmp_path / "two", tmp_path / "here", COLUMNS)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"transcript": "text"}, "columns name no speaker; "),
        ({"speaker": "client_id"}, "no column client_id; there are audio, who, label, text"),
        ({"speaker": "who", "emotion": "audio"}, "'audio' holds dict; choose a column of words"),
    ],
)
def test_columns_that_cannot_be_used_are_named(library, tmp_path, columns, words):
    library.save(tmp_path / "any", {"train": [voice(1)]})
    with pytest.raises(CorpusError, match=words):
        corpus_from_dataset(tmp_path / "any", tmp_path / "here", columns)


def test_a_text_that_can_be_no_path_is_none(tmp_path, monkeypatch):
    library = Double()
    monkeypatch.setitem(sys.modules, "datasets", library.module)
    library.save(tmp_path / "any", {"train": [voice(1, audio={"bytes": None, "path": "x" * 300})]})
    with pytest.raises(CorpusError, match="any, split all, row 0: no audio is stored, and its pat"):
        corpus_from_dataset(tmp_path / "any", tmp_path / "here", COLUMNS)


@pytest.mark.parametrize("kind", [ImportError, TypeError, ValueError, NotImplementedError])
def test_what_the_library_cannot_take_for_audio_is_named(tmp_path, monkeypatch, kind):
    library = Double()
    monkeypatch.setitem(sys.modules, "datasets", library.module)
    library.save(tmp_path / "any", {"train": [voice(1)]})

    def refuse(*_):
        raise kind("cannot cast")

    monkeypatch.setattr(Part, "cast_column", refuse)
    with pytest.raises(CorpusError, match=r"any, split all: .*'audio' .* \(cannot cast\); store"):
        corpus_from_dataset(tmp_path / "any", tmp_path / "here", COLUMNS)


@pytest.mark.parametrize("audio", [[0.1, 0.2], 3, {"array": [0.1], "sampling_rate": 8_000}])
def test_numbers_in_the_place_of_audio_are_refused(tmp_path, monkeypatch, audio):
    library = Real()
    monkeypatch.setitem(sys.modules, "datasets", library.module)
    library.module.Dataset.from_list([{"audio": audio, "who": 1}]).save_to_disk(tmp_path / "any")
    with pytest.raises(CorpusError, match=r"any, split all(, row 0)?: "):
        corpus_from_dataset(tmp_path / "any", tmp_path / "here", {"speaker": "who"})


def test_a_dataset_that_is_nowhere_is_named(library, tmp_path):
    with pytest.raises(CorpusError, match=r"nobody/nothing: not loaded .*check the name or folder"):
        corpus_from_dataset("nobody/nothing", tmp_path / "here", COLUMNS)


def test_without_the_library_a_sentence_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(CorpusError, match="pip install datasets"):
        corpus_from_dataset("any/name", tmp_path, COLUMNS)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_parquet_files_is_read_as_the_hub_is(tmp_path, monkeypatch):
    library = Real()
    monkeypatch.setattr(library.module.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    library.save(tmp_path / "saved", {"train": [voice(1), voice(2)]})
    part = library.module.load_from_disk(str(tmp_path / "saved"))
    (tmp_path / "hub" / "data").mkdir(parents=True)
    part.to_parquet(str(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet"))
    corpus = corpus_from_dataset(tmp_path / "hub", tmp_path / "here", COLUMNS)
    assert {clip.speaker for clip in corpus.clips} == {"1", "2"}


def test_what_the_library_itself_needs_is_passed_on(tmp_path, monkeypatch):
    library = Double()  # as the real one does for a loose folder of sounds, which it encodes anew
    monkeypatch.setitem(sys.modules, "datasets", library.module)

    def fails(name, config):
        raise library.module.exceptions.DatasetsError("An error occurred") from ImportError(
            "install 'torchcodec'"
        )

    library.module.load_dataset = fails
    with pytest.raises(CorpusError, match=r"not loaded \(install 'torchcodec'\); "):
        corpus_from_dataset(tmp_path / "sounds", tmp_path / "here", COLUMNS)
