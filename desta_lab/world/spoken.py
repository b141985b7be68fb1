"""The spoken world: a factorial corpus rendered with espeak-ng, every attribute known and independent of the others."""

import itertools
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from jaxtyping import Float
from joblib import Parallel, delayed

from desta_lab.audio import RATE, crop_or_pad
from desta_lab.clips import HEAD, Clip, Corpus, CorpusError, Span
from desta_lab.world import scenes
from desta_lab.world.attributes import ATTRIBUTES, DESCRIBED
from desta_lab.world.sentences import make_sentence, shorten_words
from desta_lab.world.voices import (
    SPEAKERS_PER_GENDER,
    Utterance,
    get_synthesiser,
    list_speakers,
    whisper_filter,
)

VERSION = 1  # of the recipe: raise it when the same seed gives other bytes
CROSSED = {name: ATTRIBUTES[name] for name in DESCRIBED}  # the cells of the factorial design
DEFAULT_CLIPS = {"train": 1440, "validation": 192, "test": 384}
SPLIT_SPEAKERS = {"train": 40, "validation": 8, "test": 16}  # half of each gender
WORDS_PER_MINUTE = {"slow": (110, 130), "fast": (210, 240)}
LEVEL = {"quiet": (-40.0, -36.0), "loud": (-24.0, -20.0)}  # dBFS of the whole clip
SCENE_RATIO = (7.0, 13.0)  # dB that the scene lies below the speech
LICENCE = "CC0-1.0; speech rendered with espeak-ng"
_QUIETEST_ROOM = -55.0  # dB below the clip: a noise floor, so that no clip has digital silence
_PEAK = 0.97  # of full scale, where a clip is turned down rather than clipped
_LEAD, _TAIL = 0.05, 0.10  # seconds of a clip before and after which nobody speaks


def build_spoken_corpus(
    folder: Path | str,
    *,
    clips: Mapping[str, int] = DEFAULT_CLIPS,
    seconds: float = 4.0,
    seed: int = 0,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Corpus:
    """Render the spoken world into a folder, or read it there if the same recipe and seed made it before.

    The clips are the same bytes for any number of workers. `progress` is told how many of how many are done.
    The folder appears at the end, whole; an interrupted build leaves nothing.
    """
    folder = Path(folder)
    recipe = {"world": "spoken", "version": VERSION, "clips": dict(clips), "seconds": seconds}
    if (folder / HEAD).is_file():
        corpus = Corpus.read(folder)
        if (corpus.recipe, corpus.seed) == (recipe, seed):
            return corpus
    if folder.exists() and any(folder.iterdir()):
        raise CorpusError(
            f"{folder}: holds something other than {recipe} with seed {seed}; choose another folder."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        draft.chmod(0o755)
        plans = [
            plan for split, count in clips.items() for plan in design_clips(split, count, seed)
        ]
        for split in clips:
            (draft / "audio" / split).mkdir(parents=True)
        jobs = (delayed(_render_to)(draft, plan, seconds) for plan in plans)
        done: list[Clip] = []
        for clip in Parallel(n_jobs=workers, return_as="generator")(jobs):
            done.append(clip)
            if progress is not None:
                progress(len(done), len(plans))
        names = {split: [speaker.name for speaker in split_speakers(split)] for split in clips}
        Corpus.write(
            draft, done, name="spoken", recipe=recipe, seed=seed, licence=LICENCE, splits=names
        )
        os.replace(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Corpus.read(folder)


def split_speakers(split: str) -> list[Any]:
    """The speakers of a split: disjoint from every other split, half female, half male."""
    if split not in SPLIT_SPEAKERS:
        raise CorpusError(
            f"The spoken world has no split {split!r}; it has {', '.join(SPLIT_SPEAKERS)}."
        )
    order = np.random.default_rng(64).permutation(SPEAKERS_PER_GENDER)
    bounds = np.cumsum([0, *SPLIT_SPEAKERS.values()]) // 2
    place = list(SPLIT_SPEAKERS).index(split)
    chosen = {int(number) for number in order[bounds[place] : bounds[place + 1]]}
    return [
        speaker
        for index, speaker in enumerate(list_speakers())
        if index % SPEAKERS_PER_GENDER in chosen
    ]


def design_clips(split: str, count: int, seed: int) -> list[dict[str, Any]]:
    """What is to be rendered: all 192 cells in turn, then topic and speaker spread evenly over every attribute."""
    people, number = split_speakers(split), list(SPLIT_SPEAKERS).index(split)
    rng = np.random.default_rng([seed, number])
    cells = [
        dict(zip(CROSSED, values, strict=True)) for values in itertools.product(*CROSSED.values())
    ]
    rows = [dict(cell) for _ in range(count // len(cells)) for cell in cells]
    rows += _fraction(cells, count % len(cells), rng)
    _spread(rows, "topic", lambda row: ATTRIBUTES["topic"], rng)
    by_gender = {
        gender: [s.name for s in people if s.gender == gender] for gender in ATTRIBUTES["gender"]
    }
    _spread(rows, "speaker", lambda row: by_gender[row["gender"]], rng)
    order = rng.permutation(len(rows))
    return [
        {"id": f"{split}-{place:05d}", "split": split, "seed": (seed, number, place), **rows[row]}
        for place, row in enumerate(order)
    ]


def _fraction(
    cells: Sequence[dict[str, str]], count: int, rng: np.random.Generator
) -> list[dict[str, str]]:
    """Some of the cells, chosen one by one: even in every value, then in whole cells, then in pairs of values."""
    order = [cells[index] for index in rng.permutation(len(cells))]
    seen: Counter[Any] = Counter()

    def crowding(cell: dict[str, str]) -> tuple[int, int, int]:
        singles, pairs = (
            sum(map(seen.__getitem__, cell.items())),
            sum(map(seen.__getitem__, _pairs(cell))),
        )
        return singles, seen[tuple(cell.values())], pairs

    chosen: list[dict[str, str]] = []
    for _ in range(count):
        best = min(order, key=crowding)
        seen.update([*best.items(), tuple(best.values()), *_pairs(best)])
        chosen.append(dict(best))
    return chosen


def _pairs(row: Mapping[str, str]) -> Iterable[tuple[tuple[str, str], tuple[str, str]]]:
    return itertools.combinations(row.items(), 2)


def _spread(
    rows: list[dict[str, str]],
    name: str,
    values: Callable[[dict[str, str]], Sequence[str]],
    rng: np.random.Generator,
) -> None:
    """Give each row a value of a new attribute: the rarest so far, then the rarest beside the row's other values."""
    seen: Counter[Any] = Counter()
    for index in rng.permutation(len(rows)):
        row = rows[index]
        options = [values(row)[place] for place in rng.permutation(len(values(row)))]
        row[name] = min(
            options, key=lambda value: (seen[value], sum(seen[value, item] for item in row.items()))
        )
        seen.update([row[name], *((row[name], item) for item in row.items() if item[0] != name)])


def _speak(plan: Mapping[str, Any], room: float, rng: np.random.Generator) -> tuple[str, Utterance]:
    """As many words as fit the room (seconds), cut at a word that can end a sentence."""
    words = make_sentence(plan["topic"], rng).split()
    speed = int(rng.integers(*WORDS_PER_MINUTE[plan["rate"]], endpoint=True))
    voice = {
        "words_per_minute": speed,
        "pitch": int(rng.integers(35, 66)),
        "melody": int(rng.integers(40, 71)),
    }
    words = words[: int(1.4 * room * speed / 60) + 3]
    while True:
        text = " ".join(words).rstrip(",") + "."
        said = get_synthesiser().say(
            text[0].upper() + text[1:], plan["speaker"], plan["accent"], **voice
        )
        if said.words[-1][2] <= room:
            return text[0].upper() + text[1:], said
        fitting = sum(end <= room for _, _, end in said.words)
        words = shorten_words(words, min(fitting, len(words) - 1))


def render_clip(
    plan: Mapping[str, Any], seconds: float
) -> tuple[Float[np.ndarray, "sample"], Clip]:
    """One clip of a design: the wave and all that is known about it."""
    rng = np.random.default_rng(plan["seed"])
    room = seconds - _LEAD - _TAIL - 0.1
    text, said = _speak(plan, room, rng)
    end = said.words[-1][2]
    onset = rng.uniform(_LEAD, seconds - _TAIL - end)
    speech = whisper_filter(said.wave, rng) if plan["manner"] == "whispered" else said.wave
    speech = crop_or_pad(
        np.pad(speech[: round((end + 0.05) * RATE)], (round(onset * RATE), 0)), seconds
    )
    length = rng.uniform(0.4, 0.85) * seconds
    start = rng.uniform(0, seconds - length)
    background = scenes.render_scene(plan["scene"], length + 0.01, rng)
    mixed = scenes.mix_scene(speech, background, rng.uniform(*SCENE_RATIO), (start, start + length))
    room_noise = scenes.set_level(
        rng.standard_normal(len(mixed)), scenes.measure_level(mixed) + _QUIETEST_ROOM
    )
    wave = scenes.set_level(mixed + room_noise, rng.uniform(*LEVEL[plan["loudness"]]))
    wave *= min(1.0, _PEAK / float(np.abs(wave).max()))
    spans = [Span(f"word:{word}", onset + begin, onset + stop) for word, begin, stop in said.words]
    spans += [
        Span("speech", onset, onset + end),
        Span(f"scene:{plan['scene']}", start, start + length),
    ]
    spans = [Span(span.name, round(span.start, 3), round(span.end, 3)) for span in spans]
    attributes = {name: plan[name] for name in ATTRIBUTES}
    audio = f"audio/{plan['split']}/{plan['id']}.flac"
    return wave, Clip(plan["id"], audio, seconds, text, plan["speaker"], attributes, tuple(spans))


def _render_to(folder: Path, plan: Mapping[str, Any], seconds: float) -> Clip:
    wave, clip = render_clip(plan, seconds)
    soundfile.write(str(folder / clip.audio), wave, RATE, subtype="PCM_16")
    return clip
