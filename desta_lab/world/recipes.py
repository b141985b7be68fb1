"""Published corpora as data: how CREMA-D, RAVDESS, ESC-50, Common Voice and LibriSpeech become a corpus and words."""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from desta_lab import audio
from desta_lab.clips import Corpus, CorpusError
from desta_lab.world.attributes import ATTRIBUTES, DESCRIBED
from desta_lab.world.describe import attribute_clause, describe
from desta_lab.world.sources import Row, build_corpus, read_table

MOST = 20  # values of an attribute whose vocabulary nobody stated
GENDER = ("female", "male")
DECADES = (
    "teens",
    "twenties",
    "thirties",
    "forties",
    "fifties",
    "sixties",
    "seventies",
    "eighties",
    "nineties",
)
EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgusted", "surprised")
_WHO = (("A {gender} speaker", "A speaker"), (" in their {age}", ""))
_FELT = ((" sounds {emotion}", " speaks"), (", with {intensity} intensity", ""))


@dataclass(frozen=True)
class CorpusRecipe:
    """How one published corpus becomes a Corpus: its rows, its attributes and the sentence that describes a clip.

    `attributes` gives each attribute its values; `()` is an open vocabulary, taken as it is told. `sentence` is a row
    of clauses, each as it reads where its attributes are known and where one is not; `words` are values as they stand
    in it.
    """

    name: str
    licence: str
    how_to_get: str
    attributes: Mapping[str, tuple[str, ...]]
    sentence: tuple[tuple[str, str], ...]
    rows: Callable[[Path], Iterator[Row]]
    words: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def corpus(
        self,
        folder: Path | str,
        *,
        own_splits: bool = True,
        max_seconds: float = audio.WHISPER_SECONDS,
    ) -> Corpus:
        """Write the manifest files into the unpacked download, and read the corpus back, validated.

        Clips longer than max_seconds, and clips known to be faulty, are left out and counted in the corpus's recipe.
        With own_splits=False speakers are dealt 80 : 10 : 10, as for a download of one part only. Raises CorpusError.
        """
        return build_corpus(
            folder,
            self.rows(Path(folder)),
            name=self.name,
            recipe={"source": self.name, "own_splits": own_splits},
            licence=self.licence,
            own_splits=own_splits,
            max_seconds=max_seconds,
            leave_out_long=True,
        )

    def describe(self, attributes: Mapping[str, str]) -> str:
        """One or two English sentences that say what is known of a clip; what is not told is not mentioned.

        Raises:
            KeyError: an attribute has a value that this corpus does not know.
        """
        for name, values in self.attributes.items():
            if values and attributes.get(name, values[0]) not in values:
                raise KeyError(
                    f"The attribute {name} cannot be {attributes[name]!r}; it is one of {', '.join(values)}."
                )
        said = {
            name: self.words.get(name, {}).get(value, value) for name, value in attributes.items()
        }
        return "".join(_clause(known, unknown, said) for known, unknown in self.sentence)


def is_spoken_world(corpus: Corpus) -> bool:
    """Whether a corpus is the spoken world."""
    return corpus.recipe.get("world") == "spoken"


def description_function(corpus: Corpus) -> Callable[..., str]:
    """What turns the attributes of a corpus into its seed descriptions: the spoken world's, a recipe's, or plain."""
    if is_spoken_world(corpus):
        return describe
    recipe = RECIPES.get(corpus.recipe.get("source", ""))
    return recipe.describe if recipe else describe_plainly


def describe_plainly(attributes: Mapping[str, str]) -> str:
    """The description of a clip of which nobody wrote a sentence: one short sentence an attribute."""
    return (
        " ".join(itertools.starmap(attribute_clause, attributes.items())) or "This is a recording."
    )


def askable_attributes(corpus: Corpus) -> dict[str, tuple[str, ...]]:
    """The attributes that clips of a corpus can be asked about, each with the values that occur, in order.

    Left out: what never differs, and an open vocabulary of more than `MOST` values (a name, a note, a measurement).
    """
    if is_spoken_world(corpus):
        return {name: ATTRIBUTES[name] for name in DESCRIBED}
    recipe = RECIPES.get(corpus.recipe.get("source", ""))
    known = recipe.attributes if recipe else ATTRIBUTES
    every: dict[str, set[str]] = {}
    for clip in corpus.clips:
        for name, value in clip.attributes.items():
            every.setdefault(name, set()).add(value)
    found = {}
    for name, values in every.items():
        order = known.get(name, ())
        closed = bool(order) and values <= set(order)
        if len(values) > 1 and (closed or len(values) <= MOST):
            found[name] = (
                tuple(value for value in order if value in values)
                if closed
                else tuple(sorted(values))
            )
    return found


def _clause(known: str, unknown: str, said: Mapping[str, str]) -> str:
    try:
        return known.format_map(said)
    except KeyError:
        return unknown


def _meant(where: Path | str, what: str, code: str, table: Mapping[str, str]) -> str:
    """What a code stands for; raises CorpusError, with the codes there are, where it stands for nothing."""
    if code not in table:
        raise CorpusError(
            f"{where}: unknown {what} {code!r}; it is one of {', '.join(filter(None, table))}."
        )
    return table[code]


def _files(folder: Path, pattern: str) -> list[Path]:
    """The files of a pattern in order, without those that some systems leave beside them (`._name`)."""
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


# ---- CREMA-D: 1001_DFA_ANG_XX.wav is actor, sentence, emotion, intensity; VideoDemographics.csv knows the actors ----

CREMA_D_SENTENCES = {
    "IEO": "It's eleven o'clock.",
    "TIE": "That is exactly what happened.",
    "IOM": "I'm on my way to the meeting.",
    "IWW": "I wonder what this is about.",
    "TAI": "The airplane is almost full.",
    "MTI": "Maybe tomorrow it will be cold.",
    "IWL": "I would like a new alarm clock.",
    "ITH": "I think I have a doctor's appointment.",
    "DFA": "Don't forget a jacket.",
    "ITS": "I think I've seen this before.",
    "TSI": "The surface is slick.",
    "WSI": "We'll stop in a couple of minutes.",
}
CREMA_D_EMOTIONS = {
    "ANG": "angry",
    "DIS": "disgusted",
    "FEA": "fearful",
    "HAP": "happy",
    "NEU": "neutral",
    "SAD": "sad",
}
CREMA_D_INTENSITIES = {
    "LO": "low",
    "MD": "medium",
    "HI": "high",
    "XX": "",
    "X": "",
}  # X: a slip in older copies
CREMA_D_SEXES = {"Female": "female", "Male": "male"}
# reported by people who worked with the files, and left out
CREMA_D_FAULTY = {"1076_MTI_SAD_XX": "silent", "1064_IEO_DIS_MD": "every emotion in one file"}


def crema_d_name(path: Path | str) -> dict[str, str]:
    """What the name of a CREMA-D file says: speaker, transcript, emotion and intensity ("" where unspecified)."""
    codes = Path(path).stem.split("_")
    if len(codes) != 4 or not codes[0].isdigit():
        raise CorpusError(f"{path}: not named like 1001_DFA_ANG_XX.wav; move it out of the folder.")
    speaker, sentence, emotion, intensity = codes
    return {
        "speaker": speaker,
        "transcript": _meant(path, "sentence", sentence, CREMA_D_SENTENCES),
        "emotion": _meant(path, "emotion", emotion, CREMA_D_EMOTIONS),
        "intensity": _meant(path, "intensity", intensity, CREMA_D_INTENSITIES),
    }


def _crema_d(folder: Path) -> Iterator[Row]:
    table = folder / "VideoDemographics.csv"
    actors: dict[str, dict[str, str]] = {}
    for where, actor in read_table(table, ("ActorID", "Age", "Sex")):
        if not actor["Age"].isdigit():
            raise CorpusError(f"{where}: the age {actor['Age']!r} is no whole number; correct it.")
        decade = int(actor["Age"]) // 10
        age = DECADES[decade - 1] if 0 < decade <= len(DECADES) else ""
        gender = _meant(where, "Sex", actor["Sex"].capitalize(), CREMA_D_SEXES)
        actors[actor["ActorID"]] = {"gender": gender, "age": age}
    for path in _files(folder, "AudioWAV/*.wav"):
        told = crema_d_name(path)
        speaker, transcript = told.pop("speaker"), told.pop("transcript")
        if speaker not in actors:
            raise CorpusError(
                f"{path}: speaker {speaker!r} is not in {table}; add the actor or move the file away."
            )
        attributes = {**actors[speaker], **told}
        unfit = CREMA_D_FAULTY.get(path.stem, "")
        yield Row(str(path), f"AudioWAV/{path.name}", speaker, transcript, "", attributes, unfit)


CREMA_D = CorpusRecipe(
    name="crema-d",
    licence="ODbL-1.0 (database), DbCL-1.0 (contents); Cao et al. 2014, doi:10.1109/TAFFC.2014.2336244",
    how_to_get="git clone https://github.com/CheyneyComputerScience/CREMA-D, with git-lfs installed: without it the "
    "WAV files are pointers of a few bytes. The folder needs AudioWAV/ and VideoDemographics.csv.",
    attributes={
        "gender": GENDER,
        "age": DECADES,
        "emotion": tuple(emotion for emotion in EMOTIONS if emotion in CREMA_D_EMOTIONS.values()),
        "intensity": ("low", "medium", "high"),
    },
    sentence=(*_WHO, *_FELT, (".", "")),
    rows=_crema_d,
)


# ---- RAVDESS: 03-01-06-01-02-01-12.wav is modality, channel, emotion, intensity, statement, repetition, actor ----

RAVDESS_MODALITIES = {"03": "audio alone"}  # 01 and 02 are films
RAVDESS_STATEMENTS = {"01": "Kids are talking by the door.", "02": "Dogs are sitting by the door."}
RAVDESS_EMOTIONS = {f"{number:02d}": emotion for number, emotion in enumerate(EMOTIONS, start=1)}
RAVDESS_INTENSITIES = {"01": "normal", "02": "strong"}
RAVDESS_CHANNELS = {"01": "spoken", "02": "sung"}
RAVDESS_ACTORS = 24
# 24 voices are too few for a deal by hash: the last eight actors, half of them women, are kept from training
RAVDESS_SPLITS = {"train": range(1, 17), "validation": range(17, 21), "test": range(21, 25)}


def ravdess_name(path: Path | str) -> dict[str, str]:
    """What the name of a RAVDESS file says; actors with odd numbers are male, with even numbers female."""
    codes = Path(path).stem.split("-")
    if len(codes) != 7 or not all(re.fullmatch(r"\d\d", code) for code in codes):
        raise CorpusError(
            f"{path}: not named like 03-01-06-01-02-01-12.wav; move it out of the folder."
        )
    modality, channel, emotion, intensity, statement, _, actor = codes
    _meant(path, "modality", modality, RAVDESS_MODALITIES)
    if not 1 <= int(actor) <= RAVDESS_ACTORS:
        raise CorpusError(
            f"{path}: unknown actor {actor!r}; they are numbered 01 to {RAVDESS_ACTORS}."
        )
    return {
        "speaker": f"actor-{actor}",
        "transcript": _meant(path, "statement", statement, RAVDESS_STATEMENTS),
        "split": next(split for split, actors in RAVDESS_SPLITS.items() if int(actor) in actors),
        "gender": "male" if int(actor) % 2 else "female",
        "emotion": _meant(path, "emotion", emotion, RAVDESS_EMOTIONS),
        "intensity": _meant(path, "intensity", intensity, RAVDESS_INTENSITIES),
        "manner": _meant(path, "vocal channel", channel, RAVDESS_CHANNELS),
    }


def _ravdess(folder: Path) -> Iterator[Row]:
    for path in _files(folder, "**/Actor_*/*.wav"):
        told = ravdess_name(path)
        speaker, transcript, split = (told.pop(name) for name in ("speaker", "transcript", "split"))
        yield Row(str(path), path.relative_to(folder).as_posix(), speaker, transcript, split, told)


RAVDESS = CorpusRecipe(
    name="ravdess",
    licence="CC-BY-NC-SA-4.0; Livingstone and Russo 2018, doi:10.1371/journal.pone.0196391",
    how_to_get="Audio_Speech_Actors_01-24.zip, and Audio_Song_Actors_01-24.zip into a folder of its own, from "
    "https://zenodo.org/records/1188976, unpacked: the folder needs Actor_01/ to Actor_24/, at any depth.",
    attributes={
        "gender": GENDER,
        "emotion": EMOTIONS,
        "intensity": tuple(RAVDESS_INTENSITIES.values()),
        "manner": tuple(RAVDESS_CHANNELS.values()),
    },
    sentence=(_WHO[0], (" {manner} and", ""), *_FELT, (".", "")),
    rows=_ravdess,
    words={"manner": {"spoken": "speaks", "sung": "sings"}},
)


# ---- ESC-50: meta/esc50.csv with filename, fold, target, category, src_file; nobody speaks ----

ESC_50_KINDS = {  # the events of each kind in the order of their numbers
    "animal": ("dog", "rooster", "pig", "cow", "frog", "cat", "hen", "insects", "sheep", "crow"),
    "nature": (
        "rain",
        "sea waves",
        "crackling fire",
        "crickets",
        "chirping birds",
        "water drops",
        "wind",
        "pouring water",
        "toilet flush",
        "thunderstorm",
    ),
    "human": (
        "crying baby",
        "sneezing",
        "clapping",
        "breathing",
        "coughing",
        "footsteps",
        "laughing",
        "brushing teeth",
        "snoring",
        "drinking sipping",
    ),
    "home": (
        "door wood knock",
        "mouse click",
        "keyboard typing",
        "door wood creaks",
        "can opening",
        "washing machine",
        "vacuum cleaner",
        "clock alarm",
        "clock tick",
        "glass breaking",
    ),
    "city": (
        "helicopter",
        "chainsaw",
        "siren",
        "car horn",
        "engine",
        "train",
        "church bells",
        "airplane",
        "fireworks",
        "hand saw",
    ),
}
ESC_50_EVENTS = {event: kind for kind, events in ESC_50_KINDS.items() for event in events}
ESC_50_SPLITS = {
    "1": "train",
    "2": "train",
    "3": "train",
    "4": "validation",
    "5": "test",
}  # by the authors' fold


def _esc_50(folder: Path) -> Iterator[Row]:
    """The fold is the split, and the recording that clips were cut from stands where a speaker would.

    Folds keep the fragments of one recording together; with the fold in its name a group can never be in two splits.
    """
    for where, row in read_table(
        folder / "meta" / "esc50.csv", ("filename", "fold", "category", "src_file")
    ):
        event = row["category"].replace("_", " ")
        attributes = {"event": event, "kind": _meant(where, "category", event, ESC_50_EVENTS)}
        split = _meant(where, "fold", row["fold"], ESC_50_SPLITS)
        group = f"fold {row['fold']}, recording {row['src_file']}" if row["src_file"] else ""
        yield Row(where, f"audio/{row['filename']}", group, "", split, attributes)


ESC_50 = CorpusRecipe(
    name="esc-50",
    licence="CC-BY-NC-3.0 (the clips marked esc10: CC-BY); Piczak 2015, doi:10.1145/2733373.2806390",
    how_to_get="https://github.com/karolpiczak/ESC-50/archive/master.zip (600 MB), unpacked: the folder needs audio/ "
    "and meta/esc50.csv.",
    attributes={"event": tuple(ESC_50_EVENTS), "kind": tuple(ESC_50_KINDS)},
    sentence=(
        ("A recording of one sound: {event}.", "A recording of one sound."),
        (" It comes from {kind}.", ""),
    ),
    rows=_esc_50,
    words={
        "kind": {
            "animal": "an animal",
            "nature": "nature",
            "human": "a person",
            "home": "a home",
            "city": "a city",
        }
    },
)


# ---- Common Voice: train.tsv, dev.tsv and test.tsv over clips/*.mp3; what speakers tell of themselves ----

COMMON_VOICE_TABLES = {"train.tsv": "train", "dev.tsv": "validation", "test.tsv": "test"}
COMMON_VOICE_GENDERS = {
    "female": "female",
    "female_feminine": "female",
    "male": "male",
    "male_masculine": "male",
    # told otherwise, or not told: the clip stays, the attribute with its two classes is left out
    "": "",
    "other": "",
    "transgender": "",
    "non-binary": "",
    "intersex": "",
    "do_not_wish_to_say": "",
}
COMMON_VOICE_AGES = {"": "", "fourties": "forties"} | {decade: decade for decade in DECADES}


def _common_voice(folder: Path) -> Iterator[Row]:
    """The three tables, whose speakers the authors keep apart; where none is there, validated.tsv, to be dealt."""
    tables = [name for name in COMMON_VOICE_TABLES if (folder / name).is_file()] or [
        "validated.tsv"
    ]
    for table in tables:
        for where, row in read_table(
            folder / table, ("client_id", "path", "sentence", "age", "gender"), tabs=True
        ):
            attributes = {
                "gender": _meant(where, "gender", row["gender"], COMMON_VOICE_GENDERS),
                "age": _meant(where, "age", row["age"], COMMON_VOICE_AGES),
                "accent": row.get("accents")
                or row.get("accent")
                or "",  # the column's name before and since 2022
            }
            split = COMMON_VOICE_TABLES.get(table, "")
            yield Row(
                where, f"clips/{row['path']}", row["client_id"], row["sentence"], split, attributes
            )


COMMON_VOICE = CorpusRecipe(
    name="common-voice",
    licence="CC0-1.0; not to be hosted again, and no speaker may be identified (terms of the download)",
    how_to_get="A language's archive from Mozilla Data Collective, by way of https://commonvoice.mozilla.org/datasets, "
    "unpacked: the folder is that of the language, with clips/ and train.tsv, dev.tsv, test.tsv (or "
    "validated.tsv alone).",
    attributes={"gender": GENDER, "age": DECADES, "accent": ()},
    sentence=(*_WHO, (" speaks with this accent: {accent}.", " speaks.")),
    rows=_common_voice,
)


# ---- LibriSpeech: SPEAKERS.TXT, and part/reader/chapter/ with *.flac and *.trans.txt ----

LIBRISPEECH_SPLITS = {
    "train": "train",
    "dev": "validation",
    "test": "test",
}  # by the first word of the part


def librispeech_speakers(path: Path) -> dict[str, str]:
    """The gender of each reader, of lines like `14   | F | train-clean-360 | 25.03 | Kristin LeMoine`."""
    if not path.is_file():
        raise CorpusError(
            f"{path}: no such file; it lies beside the parts in every LibriSpeech archive."
        )
    genders = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith(";"):
            continue
        cells = [cell.strip() for cell in line.split("|", 4)]  # one reader's name holds bars itself
        if len(cells) != 5 or cells[1] not in ("F", "M"):
            raise CorpusError(
                f"{path}, line {number}: not reader | F or M | part | minutes | name; correct it."
            )
        genders[cells[0]] = "female" if cells[1] == "F" else "male"
    return genders


def _librispeech(folder: Path) -> Iterator[Row]:
    genders = librispeech_speakers(folder / "SPEAKERS.TXT")
    for path in _files(folder, "*/*/*/*.trans.txt"):
        chapter = path.parent.relative_to(folder)
        part = chapter.parts[0].split("-")[0]  # its first word
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            name, _, transcript = line.partition(" ")
            reader = name.split("-")[0]
            split = _meant(where, "part", part, LIBRISPEECH_SPLITS)
            if reader not in genders:
                raise CorpusError(
                    f"{where}: reader {reader!r} is not in SPEAKERS.TXT; add the reader there."
                )
            sound, gender = (chapter / f"{name}.flac").as_posix(), {"gender": genders[reader]}
            yield Row(where, sound, reader, transcript, split, gender)


LIBRISPEECH = CorpusRecipe(
    name="librispeech",
    licence="CC-BY-4.0; Panayotov et al. 2015, doi:10.1109/ICASSP.2015.7178964",
    how_to_get="Archives from https://www.openslr.org/12, unpacked: the folder is LibriSpeech/, with SPEAKERS.TXT and "
    "parts such as dev-clean/. With one part only, deal its readers: corpus(folder, own_splits=False).",
    attributes={"gender": GENDER},
    sentence=(_WHO[0], (" reads aloud from a book.", "")),
    rows=_librispeech,
)

RECIPES = {recipe.name: recipe for recipe in (CREMA_D, RAVDESS, ESC_50, COMMON_VOICE, LIBRISPEECH)}
