"""Public corpora: CREMA-D, RAVDESS, ESC-50, Common Voice and LibriSpeech, read and described.

To add one, write a function that yields its rows, describe it as a `PublicCorpus`, and list it in
`PUBLIC_CORPORA`.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from desta_lab import audio
from desta_lab.clips import Corpus, CorpusError
from desta_lab.world.tables import Row, build_corpus, read_table, read_text

GENDERS = ("female", "male")
_TENS = "teens, twenties, thirties, forties, fifties, sixties, seventies, eighties, nineties"
DECADES = tuple(_TENS.split(", "))
EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgusted", "surprised")
_SPEAKER = ("A {gender} speaker", "A speaker")
_AGE = (" in their {age}", "")
_EMOTION = (" sounds {emotion}", " speaks")
_INTENSITY = (", with {intensity} intensity", "")


@dataclass(frozen=True)
class PublicCorpus:
    """How one public corpus becomes a Corpus, and how its clips are described.

    `attributes` gives each attribute its values; `()` is an open vocabulary. `sentence` is a row of
    clauses, each with its attributes known and with one of them unknown; `words` gives values the
    words that stand for them there. `read_rows` reads the unpacked download.
    """

    name: str
    licence: str
    how_to_get: str
    attributes: Mapping[str, tuple[str, ...]]
    sentence: tuple[tuple[str, str], ...]
    read_rows: Callable[[Path], Iterator[Row]]
    words: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def build(
        self,
        folder: Path | str,
        *,
        own_splits: bool = True,
        max_seconds: float = audio.WHISPER_SECONDS,
    ) -> Corpus:
        """Write the manifest files into the unpacked download, and read the corpus back.

        Clips longer than max_seconds, and clips known to be faulty, are left out and counted in the
        corpus's recipe. With own_splits=False speakers are dealt 80 : 10 : 10, as for a download of
        one part only. Raises CorpusError.
        """
        return build_corpus(
            folder,
            self.read_rows(Path(folder)),
            name=self.name,
            recipe={"source": self.name, "own_splits": own_splits},
            licence=self.licence,
            own_splits=own_splits,
            max_seconds=max_seconds,
        )

    def describe(self, attributes: Mapping[str, str]) -> str:
        """One or two English sentences that name what is known of a clip, and nothing else.

        Raises KeyError if an attribute has a value that this corpus does not know.
        """
        for name, values in self.attributes.items():
            if values and attributes.get(name, values[0]) not in values:
                fault = f"The attribute {name} cannot be {attributes[name]!r}"
                raise KeyError(f"{fault}; it is one of {', '.join(values)}.")
        words = {n: self.words.get(n, {}).get(value, value) for n, value in attributes.items()}
        return "".join(_fill_clause(known, unknown, words) for known, unknown in self.sentence)


def _fill_clause(known: str, unknown: str, words: Mapping[str, str]) -> str:
    try:
        return known.format_map(words)
    except KeyError:
        return unknown


def _look_up(where: Path | str, what: str, code: str, table: Mapping[str, str]) -> str:
    """The meaning of a code. Raises CorpusError, with the codes there are, if it has none."""
    if code not in table:
        codes = ", ".join(filter(None, table))
        raise CorpusError.at(where, f"unknown {what} {code!r}", f"it is one of {codes}")
    return table[code]


def _list_files(folder: Path, pattern: str) -> list[Path]:
    """The files of a pattern in order, without those that some systems add (`._name`)."""
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


# ---- CREMA-D: 1001_DFA_ANG_XX.wav is actor, sentence, emotion, intensity ----

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
# X: a slip in older copies
CREMA_D_INTENSITIES = {"LO": "low", "MD": "medium", "HI": "high", "XX": "", "X": ""}
CREMA_D_SEXES = {"Female": "female", "Male": "male"}
# reported by people who worked with the files, and left out
CREMA_D_FAULTY = {"1076_MTI_SAD_XX": "silent", "1064_IEO_DIS_MD": "every emotion in one file"}


def _read_crema_d(folder: Path) -> Iterator[Row]:
    table = folder / "VideoDemographics.csv"
    actors = _read_crema_d_actors(table)
    for path in _list_files(folder, "AudioWAV/*.wav"):
        codes = path.stem.split("_")
        if len(codes) != 4 or not codes[0].isdigit():
            fault = "not named like 1001_DFA_ANG_XX.wav"
            raise CorpusError.at(path, fault, "move it out of the folder")
        speaker, sentence, emotion, intensity = codes
        transcript = _look_up(path, "sentence", sentence, CREMA_D_SENTENCES)
        emotion = _look_up(path, "emotion", emotion, CREMA_D_EMOTIONS)
        intensity = _look_up(path, "intensity", intensity, CREMA_D_INTENSITIES)
        if speaker not in actors:
            fault = f"speaker {speaker!r} is not in {table}"
            raise CorpusError.at(path, fault, "add the actor or move the file away")
        attributes = {**actors[speaker], "emotion": emotion, "intensity": intensity}
        unfit = CREMA_D_FAULTY.get(path.stem, "")
        yield Row(str(path), f"AudioWAV/{path.name}", speaker, transcript, "", attributes, unfit)


def _read_crema_d_actors(table: Path) -> dict[str, dict[str, str]]:
    actors: dict[str, dict[str, str]] = {}
    for where, actor in read_table(table, ("ActorID", "Age", "Sex")):
        if not re.fullmatch("[1-9][0-9]", actor["Age"]):
            fault = f"the age {actor['Age']!r} is no whole number from 10 to 99"
            raise CorpusError.at(where, fault, "correct it")
        gender = _look_up(where, "Sex", actor["Sex"].capitalize(), CREMA_D_SEXES)
        found = {"gender": gender, "age": DECADES[int(actor["Age"]) // 10 - 1]}
        _tell_once(actors, actor["ActorID"], found, where)
    return actors


def _tell_once(known: dict[str, Any], name: str, found: Any, where: str) -> None:
    """Note what a table says of a speaker. Raises CorpusError if it said another thing before."""
    if known.setdefault(name, found) != found:
        fault = f"speaker {name!r} is there twice, with other words"
        raise CorpusError.at(where, fault, "keep the row that is true")


CREMA_D = PublicCorpus(
    name="crema-d",
    licence="ODbL-1.0 (database), DbCL-1.0 (contents); Cao et al. 2014, "
    "doi:10.1109/TAFFC.2014.2336244",
    how_to_get="git clone https://github.com/CheyneyComputerScience/CREMA-D, with git-lfs "
    "installed: without it the WAV files are pointers of a few bytes. The folder needs AudioWAV/ "
    "and VideoDemographics.csv.",
    attributes={
        "gender": GENDERS,
        "age": DECADES,
        "emotion": tuple(word for word in EMOTIONS if word in CREMA_D_EMOTIONS.values()),
        "intensity": ("low", "medium", "high"),
    },
    sentence=(_SPEAKER, _AGE, _EMOTION, _INTENSITY, (".", "")),
    read_rows=_read_crema_d,
)


# ---- RAVDESS: 03-01-06-01-02-01-12.wav is modality, channel, emotion, intensity, statement,
# repetition, actor; actors with odd numbers are male, with even numbers female ----

RAVDESS_MODALITIES = {"03": "audio alone"}  # 01 and 02 are films
RAVDESS_STATEMENTS = {"01": "Kids are talking by the door.", "02": "Dogs are sitting by the door."}
RAVDESS_EMOTIONS = {f"{number:02d}": emotion for number, emotion in enumerate(EMOTIONS, start=1)}
RAVDESS_INTENSITIES = {"01": "normal", "02": "strong"}
RAVDESS_CHANNELS = {"01": "spoken", "02": "sung"}
# 24 voices are too few for a deal by hash: eight actors, half of them women, are held out
RAVDESS_SPLITS = {"train": range(1, 17), "validation": range(17, 21), "test": range(21, 25)}


def _read_ravdess(folder: Path) -> Iterator[Row]:
    seen: dict[str, Path] = {}
    for path in _list_files(folder, "**/Actor_*/*.wav"):
        if not re.fullmatch(r"\d\d(-\d\d){6}", path.stem):
            fault = "not named like 03-01-06-01-02-01-12.wav"
            raise CorpusError.at(path, fault, "move it out of the folder")
        if seen.setdefault(path.stem, path) != path:
            raise CorpusError.at(path, f"the same file as {seen[path.stem]}", "remove one of them")
        modality, channel, emotion, intensity, statement, _, actor = path.stem.split("-")
        _look_up(path, "modality", modality, RAVDESS_MODALITIES)
        if (emotion, intensity) == ("01", "02"):
            fault = "neutral with strong intensity, which the corpus does not have"
            raise CorpusError.at(path, fault, "get the file again from its authors")
        split = next((split for split, ours in RAVDESS_SPLITS.items() if int(actor) in ours), "")
        if not split:
            raise CorpusError.at(path, f"unknown actor {actor!r}", "they are numbered 01 to 24")
        attributes = {
            "gender": "male" if int(actor) % 2 else "female",
            "emotion": _look_up(path, "emotion", emotion, RAVDESS_EMOTIONS),
            "intensity": _look_up(path, "intensity", intensity, RAVDESS_INTENSITIES),
            "manner": _look_up(path, "vocal channel", channel, RAVDESS_CHANNELS),
        }
        transcript = _look_up(path, "statement", statement, RAVDESS_STATEMENTS)
        if path.parent.name != f"Actor_{actor}":
            raise CorpusError.at(path, f"not in the folder Actor_{actor}", "move it there")
        sound = path.relative_to(folder).as_posix()
        yield Row(str(path), sound, f"actor-{actor}", transcript, split, attributes)


RAVDESS = PublicCorpus(
    name="ravdess",
    licence="CC-BY-NC-SA-4.0; Livingstone and Russo 2018, doi:10.1371/journal.pone.0196391",
    how_to_get="Audio_Speech_Actors_01-24.zip, and Audio_Song_Actors_01-24.zip into a folder of "
    "its own, from https://zenodo.org/records/1188976, unpacked: the folder needs Actor_01/ to "
    "Actor_24/, at any depth.",
    attributes={
        "gender": GENDERS,
        "emotion": EMOTIONS,
        "intensity": tuple(RAVDESS_INTENSITIES.values()),
        "manner": tuple(RAVDESS_CHANNELS.values()),
    },
    sentence=(_SPEAKER, (" {manner} and", ""), _EMOTION, _INTENSITY, (".", "")),
    read_rows=_read_ravdess,
    words={"manner": {"spoken": "speaks", "sung": "sings"}},
)


# ---- ESC-50: meta/esc50.csv has filename, fold, target, category, src_file; nobody speaks ----

_ESC_50_KINDS = {  # the events of each kind in the order of their numbers
    "animal": "dog, rooster, pig, cow, frog, cat, hen, insects, sheep, crow",
    "nature": "rain, sea waves, crackling fire, crickets, chirping birds, water drops, wind, "
    "pouring water, toilet flush, thunderstorm",
    "human": "crying baby, sneezing, clapping, breathing, coughing, footsteps, laughing, "
    "brushing teeth, snoring, drinking sipping",
    "home": "door wood knock, mouse click, keyboard typing, door wood creaks, can opening, "
    "washing machine, vacuum cleaner, clock alarm, clock tick, glass breaking",
    "city": "helicopter, chainsaw, siren, car horn, engine, train, church bells, airplane, "
    "fireworks, hand saw",
}
ESC_50_EVENTS = {
    event: kind for kind, events in _ESC_50_KINDS.items() for event in events.split(", ")
}
# by the authors' fold
ESC_50_SPLITS = {"1": "train", "2": "train", "3": "train", "4": "validation", "5": "test"}


def _read_esc_50(folder: Path) -> Iterator[Row]:
    """The fold is the split, and the recording that clips were cut from counts as their speaker.

    With the fold in its name no speaker can be in two splits.
    """
    needed = ("filename", "fold", "category", "src_file")
    for where, row in read_table(folder / "meta" / "esc50.csv", needed):
        event = row["category"].replace("_", " ")
        attributes = {"event": event, "kind": _look_up(where, "category", event, ESC_50_EVENTS)}
        split = _look_up(where, "fold", row["fold"], ESC_50_SPLITS)
        told = row["fold"], str(list(ESC_50_EVENTS).index(event))
        named = re.fullmatch(r"(\d+)-\w+-\w+-(\d+)\.\w+", row["filename"])
        if named and named.groups() != told:
            fault = f"fold {told[0]} and category number {told[1]}, but {row['filename']} names "
            fault += " and ".join(named.groups())
            raise CorpusError.at(where, fault, "get the table again from its authors")
        group = f"fold {row['fold']}, recording {row['src_file']}" if row["src_file"] else ""
        yield Row(where, f"audio/{row['filename']}", group, "", split, attributes)


ESC_50 = PublicCorpus(
    name="esc-50",
    licence="CC-BY-NC-3.0 (the clips marked esc10: CC-BY); Piczak 2015, "
    "doi:10.1145/2733373.2806390",
    how_to_get="https://github.com/karolpiczak/ESC-50/archive/master.zip (600 MB), unpacked: the "
    "folder needs audio/ and meta/esc50.csv.",
    attributes={"event": tuple(ESC_50_EVENTS), "kind": tuple(_ESC_50_KINDS)},
    sentence=(
        ("A recording of one sound: {event}.", "A recording of one sound."),
        (" It comes from {kind}.", ""),
    ),
    read_rows=_read_esc_50,
    words={
        "kind": {"animal": "an animal", "human": "a person", "home": "a home", "city": "a city"}
    },
)


# ---- Common Voice: train.tsv, dev.tsv and test.tsv over clips/*.mp3 ----

COMMON_VOICE_TABLES = {"train.tsv": "train", "dev.tsv": "validation", "test.tsv": "test"}
COMMON_VOICE_GENDERS = {
    "female": "female",
    "female_feminine": "female",
    "male": "male",
    "male_masculine": "male",
    # the attribute has two classes: of other clips it is left out, and the clips stay
    **dict.fromkeys(
        ("", "other", "transgender", "non-binary", "intersex", "do_not_wish_to_say"), ""
    ),
}
COMMON_VOICE_AGES = {"": "", "fourties": "forties"} | {decade: decade for decade in DECADES}


def _read_common_voice(folder: Path) -> Iterator[Row]:
    """The authors' three splits if their tables are there, else validated.tsv, to be dealt."""
    tables = [name for name in COMMON_VOICE_TABLES if (folder / name).is_file()]
    needed = ("client_id", "path", "sentence", "age", "gender")
    for table in tables or ["validated.tsv"]:
        split = COMMON_VOICE_TABLES.get(table, "")
        for where, row in read_table(folder / table, needed, tabs=True):
            attributes = {
                "gender": _look_up(where, "gender", row["gender"], COMMON_VOICE_GENDERS),
                "age": _look_up(where, "age", row["age"], COMMON_VOICE_AGES),
                # the column's name since 2022, and before
                "accent": row.get("accents") or row.get("accent") or "",
            }
            sound = f"clips/{row['path']}"
            yield Row(where, sound, row["client_id"], row["sentence"], split, attributes)


COMMON_VOICE = PublicCorpus(
    name="common-voice",
    licence="CC0-1.0; not to be hosted again, and no speaker may be identified (terms of the "
    "download)",
    how_to_get="A language's archive from Mozilla Data Collective, by way of "
    "https://commonvoice.mozilla.org/datasets, unpacked: the folder is that of the language, with "
    "clips/ and train.tsv, dev.tsv, test.tsv (or validated.tsv alone).",
    attributes={"gender": GENDERS, "age": DECADES, "accent": ()},
    sentence=(_SPEAKER, _AGE, (" speaks with this accent: {accent}.", " speaks.")),
    read_rows=_read_common_voice,
)


# ---- LibriSpeech: SPEAKERS.TXT, and part/reader/chapter/ with *.flac and *.trans.txt ----

# by the first word of the part
LIBRISPEECH_SPLITS = {"train": "train", "dev": "validation", "test": "test"}


def _read_librispeech(folder: Path) -> Iterator[Row]:
    genders = _read_librispeech_readers(folder / "SPEAKERS.TXT")
    for path in _list_files(folder, "*/*/*/*.trans.txt"):
        chapter = path.parent.relative_to(folder)
        part, named = chapter.parts[0].split("-")[0], set()
        for where, line in _read_lines(path):
            name, _, transcript = line.replace("\t", " ").partition(" ")
            reader = name.split("-")[0]
            split = _look_up(where, "part", part, LIBRISPEECH_SPLITS)
            if reader not in genders:
                fault = f"reader {reader!r} is not in SPEAKERS.TXT"
                raise CorpusError.at(where, fault, "add the reader there")
            sound, attributes = (chapter / f"{name}.flac").as_posix(), {"gender": genders[reader]}
            named.add(f"{name}.flac")
            yield Row(where, sound, reader, transcript, split, attributes)
        for file in _list_files(path.parent, "*.flac"):
            if file.name not in named:
                place = (chapter / file.name).as_posix()
                yield Row(str(file), place, chapter.parts[1], unfit="without a transcript")


def _read_librispeech_readers(path: Path) -> dict[str, str]:
    """The gender of each reader, from lines like `14 | F | train-clean-360 | 25.03 | A name`."""
    if not path.is_file():
        remedy = "it lies beside the parts in every LibriSpeech archive"
        raise CorpusError.at(path, "no such file", remedy)
    genders: dict[str, str] = {}
    for where, line in _read_lines(path):
        if line.startswith(";"):
            continue
        cells = [cell.strip() for cell in line.split("|", 4)]  # one reader's name holds bars itself
        if len(cells) != 5 or cells[1] not in ("F", "M"):
            raise CorpusError.at(where, "not reader | F or M | part | minutes | name", "correct it")
        _tell_once(genders, cells[0], "female" if cells[1] == "F" else "male", where)
    return genders


def _read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """The lines that are not empty, each with its file and number."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            yield f"{path}, line {number}", line.strip()


LIBRISPEECH = PublicCorpus(
    name="librispeech",
    licence="CC-BY-4.0; Panayotov et al. 2015, doi:10.1109/ICASSP.2015.7178964",
    how_to_get="Archives from https://www.openslr.org/12, unpacked: the folder is LibriSpeech/, "
    "with SPEAKERS.TXT and parts such as dev-clean/. With one part only, deal its readers: "
    "build(folder, own_splits=False).",
    attributes={"gender": GENDERS},
    sentence=(_SPEAKER, (" reads aloud from a book.", "")),
    read_rows=_read_librispeech,
)

PUBLIC_CORPORA = {
    corpus.name: corpus for corpus in (CREMA_D, RAVDESS, ESC_50, COMMON_VOICE, LIBRISPEECH)
}
