"""Recorded voices: the factorial design of the spoken world over the speech of people."""

import hashlib
import json
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from desta_lab import cache
from desta_lab.audio import RATE, DataWarning, read_audio
from desta_lab.clips import HEAD, LEAST, SPLITS, Clip, Corpus, CorpusError, place_speaker
from desta_lab.world import scenes, spoken
from desta_lab.world.attributes import ATTRIBUTES, VOCABULARY
from desta_lab.world.tables import TABLE, corpus_from_folder, read_table

# relative to the recording, at the same pitch; as far apart as the spoken world's 120 and 225 words
SPEEDS = {"slow": 0.73, "fast": 1.37}
# what the lab makes of a recording: its rate, by stretching, and what needs no synthetic voice
MADE = tuple(n for n, a in VOCABULARY.items() if n == "rate" or a.speech or a.beside or a.clip)
KNOWN = ("gender", "language", "accent")  # what a table may say of a speaker
SHARES = {"train": 0.6, "validation": 0.15, "test": 0.25}  # of speakers; even without training
LEAST_SECONDS = 1.0  # of speech that a speaker needs
_PAUSE = (0.15, 0.35)  # seconds between two lines of one speaker
_LEAST_PIECE = 0.4  # seconds of a line that are worth beginning it
_FULL = 0.75  # of a clip's room: what is cut where it is quiet fills more
_CUT = 0.4  # seconds before the end of the room in which a line is cut where it is quietest
_LEVEL = -26.0  # dBFS of every line, before they are joined
_FRAME = RATE // 100
_QUIET = -35.0  # dB below its loudest frame, at which a recording has not begun yet


@dataclass(frozen=True)
class Voices:
    """People's recordings: the lines of every speaker, and what is known of the speaker.

    `told` gives each split its speakers, where the table does; `sha256` is of all that is heard.
    """

    folder: Path
    licence: str
    lines: dict[str, tuple[Clip, ...]]
    about: dict[str, dict[str, str]]
    told: dict[str, tuple[str, ...]] | None
    left_out: int  # lines that are whispered or sung
    sha256: str


def read_voices(folder: Path | str, together: str | None = None) -> Voices:
    """Read a folder of clean recordings with its table, or with the manifest of a public corpus.

    The table is `clips.csv`, or the only CSV file there; nothing is written beside it. `together`
    is a further column, such as `language` or `group`, to be known of each speaker. Raises
    CorpusError, which names the file and the line that cannot be used.
    """
    folder = Path(folder)
    corpus, told = _read_folder(folder)
    lines: defaultdict[str, list[Clip]] = defaultdict(list)
    about: defaultdict[str, dict[str, str]] = defaultdict(dict)
    if together and not any(together in clip.attributes for clip in corpus.clips):
        columns = dict.fromkeys(name for clip in corpus.clips for name in clip.attributes)
        remedy = f"fill it, or take one of its columns ({', '.join(columns)})"
        raise CorpusError.at(folder, f"the table has nothing in a column {together!r}", remedy)
    source: dict[tuple[str, str], tuple[str, str]] = {}  # speaker and name → value and its file
    names = dict.fromkeys([*KNOWN, *([together] if together else [])])
    left_out = 0
    for clip in corpus.clips:
        if clip.attributes.get("manner", "spoken") != "spoken":
            left_out += 1
            continue
        lines[clip.speaker].append(clip)
        for name in filter(clip.attributes.get, names):
            value = clip.attributes[name]
            before, first = source.setdefault((clip.speaker, name), (value, clip.audio))
            if before != value:
                fault = f"{name} of {clip.speaker!r} is {before!r} in {first} and {value!r} here"
                raise CorpusError.at(corpus.path(clip), fault, "keep one in the table")
            about[clip.speaker][name] = value
    if not lines:
        fault = f"none of {left_out} recordings is spoken, by its column 'manner'"
        raise CorpusError.at(folder, fault, "write spoken there, or leave that column out")
    for speaker, own in lines.items():
        heard = sum(clip.seconds for clip in own)
        if heard < LEAST_SECONDS:
            fault = f"{heard:.1f} s of speaker {speaker!r}"
            raise CorpusError.at(folder, fault, f"record {LEAST_SECONDS:g} s, or leave them out")
        if together and together not in about[speaker]:
            fault = f"no {together} is known of speaker {speaker!r}"
            raise CorpusError.at(corpus.path(own[0]), fault, "fill that column in the table")
    digest = hashlib.sha256(corpus.hash.encode())
    for clip in corpus.clips:
        digest.update(cache.hash_file(corpus.path(clip)).encode())
    speakers = {speaker: tuple(own) for speaker, own in lines.items()}
    known = {speaker: about[speaker] for speaker in speakers}
    return Voices(folder, corpus.licence, speakers, known, told, left_out, digest.hexdigest())


def _read_folder(folder: Path) -> tuple[Corpus, dict[str, tuple[str, ...]] | None]:
    """The recordings as a corpus, and the splits if a table or the authors give them."""
    table, tables = folder / TABLE, sorted(folder.glob("*.csv"))
    if table in tables:
        tables = [table]
    elif (folder / HEAD).is_file():
        corpus = Corpus.read(folder)
        lacking = [name for name, n in LEAST.items() if len(corpus.splits.get(name, ())) < n]
        if lacking and len(corpus.splits) > 1:
            fault = f"its splits have too few speakers for {' and '.join(lacking)}"
            remedy = "so where a corpus to train on is made of it, all speakers are dealt anew"
            warnings.warn(f"{folder}: {fault}, {remedy}.", DataWarning, stacklevel=3)
        return corpus, None if lacking else dict(corpus.splits)
    if len(tables) != 1:
        fault = f"{len(tables)} CSV files, and none is {TABLE}"
        raise CorpusError.at(folder, fault, f"write {TABLE} with the columns audio and speaker")
    # `read_voices` has a hash of the sound of its own
    corpus = corpus_from_folder(folder, tables[0].name, save=False, hash_audio=False)
    rows = read_table(tables[0], ("audio", "speaker"), ("split",))
    told = any(row.get("split") for _, row in rows)
    return corpus, dict(corpus.splits) if told else None


def build_recorded_corpus(
    root: Path,
    voices: Voices,
    clips: Mapping[str, int],
    *,
    seconds: float = 4.0,
    seed: int = 0,
    together: str | None = None,
    workers: int = -1,
    progress: Callable[[int, int], None] | None = None,
) -> Corpus:
    """Make a corpus of people's recordings under a data folder, or find it there.

    Rate, loudness, manner and scene are crossed, and every speaker has them all evenly. Any number
    of workers writes the same bytes; an interrupted build goes on. Warns (DataWarning) of speakers
    of whom there is too little for a clip.

    Args:
        clips: the number of clips by split; speakers are dealt to these splits, as the table tells
            where it tells all of them.
        together: the column whose values each lie in one split.

    Raises:
        CorpusError: there are too few speakers, or the recordings cannot be used.
        ImportError: python-stretch is not installed.
    """
    _import_stretch()
    splits = _choose_splits(voices, list(clips), together)
    recipe: dict[str, Any] = {
        "world": "recorded",
        "version": cache.VERSIONS["corpora"],
        "clips": dict(clips),
        "seconds": seconds,
        "voices": voices.sha256,
        "together": together,
        "speeds": SPEEDS,
        **spoken.attribute_facts(),
    }
    folder = cache.Provenance("corpora", {**recipe, "seed": seed}).folder(root)
    plans = [
        plan
        for split, count in clips.items()
        for plan in design_recorded(voices, splits[split], split, count, seconds, seed)
    ]
    head = {"name": cache.show_name(voices.folder), "recipe": recipe, "seed": seed}
    about = {**head, "licence": voices.licence, "splits": splits}
    render = partial(render_recorded, voices.folder)
    corpus = spoken.render_corpus(folder, plans, render, about, workers, progress)
    _warn_of_short(corpus, voices.folder, spoken.speech_room(seconds))
    return corpus


def _warn_of_short(corpus: Corpus, folder: Path, room: float) -> None:
    """Warn of speakers whose speech does not fill a clip (`room` seconds) that is made fast."""
    short = set()
    for clip in corpus.clips:
        said = [span for span in clip.spans if span.name == "speech"]
        if said[-1].end - said[0].start < _FULL * room:
            short.add(clip.speaker)
    if short:
        fault = f"the speech of {len(short)} speakers, such as {min(short)!r}, does not fill a clip"
        remedy = f"record {SPEEDS['fast'] * room:.1f} s of each, or leave them out"
        sentence = f"{folder}: {fault}, so that its length tells the rate; {remedy}."
        warnings.warn(sentence, DataWarning, stacklevel=3)


def choose_speakers(voices: Voices, splits: Mapping[str, Sequence[str]]) -> Voices:
    """The recordings of these speakers alone; each split has those that are named for it."""
    kept = [speaker for members in splits.values() for speaker in members]
    told = {name: tuple(members) for name, members in splits.items()}
    digest = hashlib.sha256(json.dumps([voices.sha256, told]).encode())
    return replace(
        voices,
        lines={speaker: voices.lines[speaker] for speaker in kept},
        about={speaker: voices.about[speaker] for speaker in kept},
        told=told,
        sha256=digest.hexdigest(),
    )


# ---- the design: who is where, and which clips there are ----


def _choose_splits(
    voices: Voices, names: Sequence[str], together: str | None
) -> dict[str, list[str]]:
    """The speakers of each split: as told, or dealt with their genders in every split."""
    unknown = [s for s in voices.lines if together and together not in voices.about[s]]
    if unknown:  # the voices were read without it
        fault = f"no {together} is known of speaker {unknown[0]!r}"
        remedy = f"fill that column, and read the voices with together={together!r}"
        raise CorpusError.at(voices.folder, fault, remedy)
    trains = "train" in names
    shares = {name: SHARES[name] if trains else 1.0 for name in names}
    splits = deal_speakers(voices.about, shares, together)
    told, remedy = voices.told, "record more people"
    if trains and told is not None:
        splits = {name: [s for s in told.get(name, ()) if s in voices.lines] for name in names}
        remedy = "move some there"
        if together:
            _check_together(voices, splits, together)
    for name, speakers in splits.items():
        least = LEAST[name if trains else "test"]
        if len(speakers) < least:
            kept = f", of one {together} each in one split" if together else ""
            fault = f"{len(voices.lines)} speakers{kept}, so split {name!r} has {len(speakers)}"
            raise CorpusError.at(voices.folder, fault, f"it needs {least}: {remedy}")
    return splits


def _check_together(voices: Voices, splits: Mapping[str, Sequence[str]], together: str) -> None:
    """Raise CorpusError where splits that the table tells part who are to stay together."""
    split_of: dict[str, str] = {}
    for split, speakers in splits.items():
        for value in (voices.about[speaker][together] for speaker in speakers):
            if split_of.setdefault(value, split) != split:
                fault = f"{together} {value!r} is in {split_of[value]!r} and {split!r}"
                raise CorpusError.at(voices.folder, fault, "keep one split in the table")


def deal_speakers(
    about: Mapping[str, Mapping[str, str]], shares: Mapping[str, float], together: str | None = None
) -> dict[str, list[str]]:
    """Deal speakers to splits, large groups first, each to where speakers and genders lack most.

    `about` is what is known of each speaker, and `shares` are those of speakers by split, of which
    only proportions matter. The values of the attribute `together` each stay in one split.
    """
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for speaker in sorted(about, key=place_speaker):
        groups[about[speaker][together] if together else speaker].append(speaker)
    kinds = {s: ("all", about[s].get("gender", "")) for s in about}
    totals = Counter(kind for speaker in about for kind in kinds[speaker])
    shares = {split: share / sum(shares.values()) for split, share in shares.items()}
    dealt: dict[str, list[str]] = {split: [] for split in shares}

    def misfit(split: str, speakers: Sequence[str]) -> float:
        counts = Counter(kind for speaker in speakers for kind in kinds[speaker])
        aims = {kind: shares[split] * total for kind, total in totals.items()}
        return sum((counts[kind] - aim) ** 2 / aim for kind, aim in aims.items())

    for group in sorted(groups.values(), key=len, reverse=True):
        gain = {s: misfit(s, [*dealt[s], *group]) - misfit(s, dealt[s]) for s in dealt}
        dealt[min(gain, key=gain.__getitem__)] += group
    return dealt


def design_recorded(
    voices: Voices, speakers: Sequence[str], split: str, count: int, seconds: float, seed: int
) -> list[dict[str, Any]]:
    """The plan of every clip of a split: what is made of it, its speaker, and the lines said."""
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    rows = spoken.cross_values({name: ATTRIBUTES[name] for name in MADE}, count, rng)
    spoken.spread_evenly(rows, "speaker", [list(speakers)] * count, rng)
    orders = {s: rng.permutation(len(voices.lines[s])) for s in speakers}
    taken: Counter[str] = Counter()
    plans = []
    for place, row in enumerate(rng.permutation(count)):
        speaker = rows[row]["speaker"]
        lines, lacking = [], 2 * SPEEDS[rows[row]["rate"]] * spoken.speech_room(seconds)
        # each clip begins with another line
        for index in np.roll(orders[speaker], -taken[speaker]):
            if lacking > 0:
                line = voices.lines[speaker][index]
                lines.append((line.audio, line.transcript))
                lacking -= line.seconds
        taken[speaker] += 1
        known = {name: value for name, value in voices.about[speaker].items() if name in KNOWN}
        about = {"id": f"{split}-{place:05d}", "split": split, "lines": lines, "known": known}
        plans.append({**rows[row], **about, "seed": (seed, SPLITS.index(split), place)})
    return plans


# ---- the sound ----


def render_recorded(
    folder: Path, plan: spoken.Plan, seconds: float
) -> tuple[Float[np.ndarray, "sample"], Clip]:
    """One clip of a design over the recordings of a folder: its wave, and all that is known."""
    rng = np.random.default_rng(plan["seed"])
    room, speed = spoken.speech_room(seconds), SPEEDS[plan["rate"]]
    wave, spans, words = np.zeros(0, dtype=np.float32), [], []
    for path, text in plan["lines"]:
        pause = rng.uniform(*_PAUSE) / speed if len(wave) else 0.0
        start = len(wave) / RATE + pause
        if len(wave) and room - start < _LEAST_PIECE:
            break
        line = trim_silence(read_audio(folder / path))
        whole = stretch_time(scenes.set_level(line, _LEVEL), speed)
        piece = _cut_quietly(whole, room - start)
        wave = np.concatenate([wave, np.zeros(round(pause * RATE), dtype=np.float32), piece])
        spans.append(("speech", start, len(wave) / RATE))
        said = text.split()
        words += said[: round(len(said) * len(piece) / len(whole))]
    attributes = {**plan["known"], **{name: plan[name] for name in MADE}}
    end = len(wave) / RATE
    return spoken.compose_clip(plan, wave, end, spans, " ".join(words), attributes, seconds, rng)


def trim_silence(wave: Float[np.ndarray, "sample"]) -> Float[np.ndarray, "_"]:
    """A recording from its first to its last sound."""
    levels = _frame_levels(wave)
    loud = np.flatnonzero(levels > levels.max() + _QUIET)
    return wave[max(0, loud[0] - 2) * _FRAME : (loud[-1] + 3) * _FRAME]


def _frame_levels(wave: Float[np.ndarray, "sample"]) -> Float[np.ndarray, "frame"]:
    """The level of every 10 ms, in dB."""
    frames = np.pad(wave, (0, -len(wave) % _FRAME)).reshape(-1, _FRAME)
    return 10 * np.log10((frames.astype(np.float64) ** 2).mean(1) + 1e-12)


def _cut_quietly(wave: Float[np.ndarray, "sample"], room: float) -> Float[np.ndarray, "_"]:
    """A wave that fits the room (seconds), cut where it is quietest near its end."""
    most = int(room * RATE)
    if len(wave) <= most:
        return wave
    levels = _frame_levels(wave[:most])[-round(_CUT * RATE / _FRAME) : -1]
    frame = most // _FRAME - len(levels) + int(levels.argmin())
    piece = wave[: frame * _FRAME].copy()
    piece[-_FRAME:] *= np.linspace(1, 0, _FRAME, dtype=np.float32)
    return piece


def stretch_time(wave: Float[np.ndarray, "sample"], speed: float) -> Float[np.ndarray, "_"]:
    """The same speech at so many times its speed, with its pitch kept (Signalsmith Stretch)."""
    stretch = _import_stretch()(1)  # the seed of its phases
    stretch.preset(1, RATE)
    stretch.setTimeFactor(speed)
    return np.asarray(stretch.process(wave[None].astype(np.float32))[0])


def _import_stretch() -> Any:
    try:
        from python_stretch.Signalsmith import Stretch
    except ImportError as error:
        fault = "Recorded voices need the package python-stretch, which changes their speed"
        raise ImportError(f"{fault}; run `pip install python-stretch`.") from error
    return Stretch
