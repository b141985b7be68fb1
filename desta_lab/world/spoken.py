"""The spoken world: a factorial corpus of synthetic speech whose attributes are independent."""

import hashlib
import io
import itertools
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from filelock import FileLock
from jaxtyping import Float
from joblib import Parallel, delayed

from desta_lab import cache, processes
from desta_lab.audio import RATE, crop_or_pad
from desta_lab.clips import HEAD, Clip, Corpus, CorpusError, Span, parse_clip, parse_json_row
from desta_lab.world import scenes, voices
from desta_lab.world.attributes import ATTRIBUTES, DESCRIBED, VOCABULARY
from desta_lab.world.sentences import make_sentence, shorten_words

CROSSED = {name: ATTRIBUTES[name] for name in DESCRIBED}  # the cells of the factorial design
SPREAD = tuple(name for name in ATTRIBUTES if name not in DESCRIBED)  # spread over the cells
SPLIT_SPEAKERS = {"train": 40, "validation": 8, "test": 16}  # half of each gender
BESIDE_RATIO = (7.0, 13.0)  # dB that what sounds beside the speech lies below it
LICENCE = "CC0-1.0; speech rendered with espeak-ng"
_ROOM_LEVEL = -55.0  # dB of noise relative to the clip, so that no clip has digital silence
_PEAK = 0.97  # of full scale: louder clips are turned down rather than clipped
_DONE = "rendered.jsonl"  # of a draft: its settings, then every clip that is done
_LEAD, _TAIL = 0.05, 0.10  # seconds at the start and the end of a clip without speech
_SHIPPED = "575b41ce2d1405cd"  # stays: other attributes than these are named in a provenance

Plan = Mapping[str, Any]  # of one clip
Render = Callable[[Plan, float], tuple[Float[np.ndarray, "sample"], Clip]]


def spoken_provenance(clips: Mapping[str, int], seconds: float, seed: int) -> cache.Provenance:
    """What determines a spoken corpus: clips by split, seconds a clip, seed and code version."""
    facts = {"world": "spoken", "clips": dict(clips), "seconds": seconds, "seed": seed}
    return cache.Provenance("corpora", facts | attribute_facts())


def attribute_facts() -> dict[str, str]:
    """The hash of all values that clips are drawn from; nothing for those of the world that ships.

    So the corpora and cells that were kept are found, and those of other attributes are others.
    """
    drawn = hashlib.sha256(json.dumps([ATTRIBUTES, list(CROSSED)]).encode()).hexdigest()[:16]
    return {} if drawn == _SHIPPED else {"attributes": drawn}


def build_spoken_corpus(
    folder: Path | str,
    *,
    clips: Mapping[str, int],
    seconds: float = 4.0,
    seed: int = 0,
    workers: int = -1,
    progress: Callable[[int, int], None] | None = None,
) -> Corpus:
    """Render the spoken world into a folder, or read it there if the same settings made it before.

    `clips` is the number of clips by split. Any number of workers writes the same bytes; -1 stands
    for one on every core. `progress` gets the number of clips done and of all. The folder appears
    whole, at the end; an interrupted build goes on with the clips that were rendered, in a hidden
    folder beside it. Of several processes one renders. Raises CorpusError if the folder holds
    something else.
    """
    version = cache.VERSIONS["corpora"]
    recipe = {"world": "spoken", "version": version, "clips": dict(clips), "seconds": seconds}
    recipe |= attribute_facts()
    names = {split: [speaker.name for speaker in split_speakers(split)] for split in clips}
    plans = [plan for split, count in clips.items() for plan in design_clips(split, count, seed)]
    about = {"name": "spoken", "recipe": recipe, "seed": seed, "licence": LICENCE, "splits": names}
    return render_corpus(folder, plans, render_clip, about, workers, progress)


def render_corpus(
    folder: Path | str,
    plans: Sequence[Plan],
    render: Render,
    about: Mapping[str, Any],
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> Corpus:
    """Render planned clips into a folder, or read it there; see `build_spoken_corpus`.

    `plans` gives each clip its id, split, seed and what `render` needs, which takes a plan and the
    seconds of a clip. `about` has name, recipe, seed, licence and splits of the corpus.
    """
    folder, recipe, seed = Path(folder), about["recipe"], about["seed"]
    if (corpus := _find_corpus(folder, recipe, seed)) is not None:
        return corpus
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        if (corpus := _find_corpus(folder, recipe, seed)) is not None:
            return corpus
        draft = folder.parent / f".{folder.name}.part"
        settings = {**recipe, "seed": seed}
        rendered = _render_clips(draft, settings, plans, render, workers, progress)
        Corpus.write(draft, rendered, **about)
        (draft / _DONE).unlink()
        os.replace(draft, folder)
    return Corpus.read(folder)


def _find_corpus(folder: Path, recipe: Mapping[str, Any], seed: int) -> Corpus | None:
    """The corpus of a folder if these settings made it. Raises CorpusError if others did."""
    if (folder / HEAD).is_file():
        corpus = Corpus.read(folder)
        if (corpus.recipe, corpus.seed) == (recipe, seed):
            return corpus
    if folder.exists() and any(folder.iterdir()):
        fault = f"holds something other than {recipe} with seed {seed}"
        raise CorpusError.at(folder, fault, "choose another folder")
    return None


def _render_clips(
    draft: Path,
    about: Mapping[str, Any],
    plans: Sequence[Plan],
    render: Render,
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> list[Clip]:
    """Render what a draft of the same settings lacks; each clip is listed there when it is done."""
    done = _read_draft(draft, about)
    for split in {plan["split"] for plan in plans}:
        (draft / "audio" / split).mkdir(parents=True, exist_ok=True)
    missing = [plan for plan in plans if plan["id"] not in done]
    main = os.getpid()
    tasks = (delayed(_render_to)(draft, plan, render, about["seconds"], main) for plan in missing)
    with cache.appending(draft / _DONE) as append:
        for clip in Parallel(n_jobs=workers, return_as="generator")(tasks):
            done[clip.id] = clip
            append(json.dumps(asdict(clip)))
            if progress is not None:
                progress(len(done), len(plans))
    return [done[plan["id"]] for plan in plans]


def _read_draft(draft: Path, about: Mapping[str, Any]) -> dict[str, Clip]:
    """The clips that a draft of these settings has; another draft is removed."""
    path, first = draft / _DONE, f"{json.dumps(about, sort_keys=True)}\n".encode()
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    if not lines or lines[0] != first:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        cache.write_whole(path, first)
        return {}
    whole = [first, *(line for line in lines[1:] if line.endswith(b"\n"))]
    places = [f"{path}, line {number}" for number in range(2, len(whole) + 1)]
    rows = zip(whole[1:], places, strict=True)
    clips = [parse_clip(parse_json_row(line, where), where) for line, where in rows]
    cache.write_whole(path, b"".join(whole))  # without a last line that was cut off
    return {clip.id: clip for clip in clips if (draft / clip.audio).is_file()}


def _render_to(folder: Path, plan: Plan, render: Render, seconds: float, main: int) -> Clip:
    processes.end_with(main)
    wave, clip = render(plan, seconds)
    content = io.BytesIO()  # so that a full disk is an error
    soundfile.write(content, wave, RATE, format="FLAC", subtype="PCM_16")
    with cache.writing(folder / clip.audio):
        (folder / clip.audio).write_bytes(content.getvalue())
    return clip


# ---- the design: which clips there are ----


def split_speakers(split: str) -> list[voices.Speaker]:
    """The speakers of a split: disjoint from every other split, half female, half male."""
    if split not in SPLIT_SPEAKERS:
        there = ", ".join(SPLIT_SPEAKERS)
        raise CorpusError(f"The spoken world has no split {split!r}; it has {there}.")
    order = np.random.default_rng(64).permutation(voices.SPEAKERS_PER_GENDER)
    bounds = np.cumsum([0, *SPLIT_SPEAKERS.values()]) // 2
    place = list(SPLIT_SPEAKERS).index(split)
    chosen = order[bounds[place] : bounds[place + 1]]
    speakers = enumerate(voices.list_speakers())
    return [speaker for n, speaker in speakers if n % voices.SPEAKERS_PER_GENDER in chosen]


def design_clips(split: str, count: int, seed: int) -> list[dict[str, Any]]:
    """The plan of every clip of a split: its attributes, speaker, id and seed.

    All cells of the described attributes come in turn; what is not described, and the speaker, is
    spread evenly over every attribute.
    """
    speakers = split_speakers(split)
    number = list(SPLIT_SPEAKERS).index(split)
    rng = np.random.default_rng([seed, number])
    rows = cross_values(CROSSED, count, rng)
    for name in SPREAD:
        spread_evenly(rows, name, [ATTRIBUTES[name]] * len(rows), rng)
    by_gender = {
        gender: [speaker.name for speaker in speakers if speaker.gender == gender]
        for gender in ATTRIBUTES["gender"]
    }
    spread_evenly(rows, "speaker", [by_gender[row["gender"]] for row in rows], rng)
    return [
        {"id": f"{split}-{place:05d}", "split": split, "seed": (seed, number, place), **rows[row]}
        for place, row in enumerate(rng.permutation(len(rows)))
    ]


def cross_values(
    values: Mapping[str, Sequence[str]], count: int, rng: np.random.Generator
) -> list[dict[str, str]]:
    """So many rows, in which every combination of values comes in turn."""
    combinations = itertools.product(*values.values())
    cells = [dict(zip(values, cell, strict=True)) for cell in combinations]
    rows = [dict(cell) for _ in range(count // len(cells)) for cell in cells]
    return rows + _choose_cells(cells, count % len(cells), rng)


def _choose_cells(
    cells: Sequence[dict[str, str]], count: int, rng: np.random.Generator
) -> list[dict[str, str]]:
    """Cells chosen one by one: even in single values, then in whole cells, then in pairs."""
    order = [cells[index] for index in rng.permutation(len(cells))]
    seen: Counter[Any] = Counter()

    def crowding(cell: dict[str, str]) -> tuple[int, int, int]:
        singles = sum(seen[item] for item in cell.items())
        pairs = sum(seen[pair] for pair in _pairs(cell))
        return singles, seen[tuple(cell.values())], pairs

    chosen: list[dict[str, str]] = []
    for _ in range(count):
        best = min(order, key=crowding)
        seen.update([*best.items(), tuple(best.values()), *_pairs(best)])
        chosen.append(dict(best))
    return chosen


def _pairs(row: Mapping[str, str]) -> Iterable[tuple[tuple[str, str], tuple[str, str]]]:
    return itertools.combinations(row.items(), 2)


def spread_evenly(
    rows: list[dict[str, str]],
    name: str,
    options: Sequence[Sequence[str]],
    rng: np.random.Generator,
) -> None:
    """Give each row one of its options: the rarest so far, then the rarest beside its values."""
    seen: Counter[Any] = Counter()
    for index in rng.permutation(len(rows)):
        others = list(rows[index].items())

        def crowding(value: str, others: Sequence[tuple[str, str]] = others) -> tuple[int, int]:
            return seen[value], sum(seen[value, item] for item in others)

        order = rng.permutation(len(options[index]))
        value = min((options[index][place] for place in order), key=crowding)
        rows[index][name] = value
        seen.update([value, *((value, item) for item in others)])


# ---- the sound: each stage goes through the attributes that have one there ----


def render_clip(plan: Plan, seconds: float) -> tuple[Float[np.ndarray, "sample"], Clip]:
    """One clip of a design: its wave, and all that is known about it."""
    rng = np.random.default_rng(plan["seed"])
    text, utterance = _speak(plan, speech_room(seconds), rng)
    end = utterance.words[-1][2]
    attributes = {name: plan[name] for name in ATTRIBUTES}
    words = [(f"word:{word}", begin, stop) for word, begin, stop in utterance.words]
    spans = [*words, ("speech", 0.0, end)]
    return compose_clip(plan, utterance.wave, end, spans, text, attributes, seconds, rng)


def speech_room(seconds: float) -> float:
    """How long the speech of a clip can be, in seconds."""
    return seconds - _LEAD - _TAIL - 0.1


def compose_clip(
    plan: Plan,
    speech: Float[np.ndarray, "spoken"],
    end: float,
    spans: Sequence[tuple[str, float, float]],
    text: str,
    attributes: Mapping[str, str],
    seconds: float,
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, "sample"], Clip]:
    """Speech with all else that is heard of a plan: the wave, and the clip.

    In seconds from the first sample of speech, `end` is where the last word ends, at most
    `speech_room`, and `spans` gives what is said its name, start and end.
    """
    onset = rng.uniform(_LEAD, seconds - _TAIL - end)
    before = len(speech)
    for name, attribute in VOCABULARY.items():
        if attribute.speech:
            speech = attribute.speech(plan[name], speech, rng)
    speech = speech[: round((end + 0.05) * RATE) + len(speech) - before]
    wave = crop_or_pad(np.pad(speech, (round(onset * RATE), 0)), seconds)
    placed = [(name, onset + begin, onset + stop) for name, begin, stop in spans]
    for name, attribute in VOCABULARY.items():
        if attribute.beside:
            length = rng.uniform(0.4, 0.85) * seconds
            start = rng.uniform(0, seconds - length)
            window = (start, start + length)
            sound = attribute.beside(plan[name], length + 0.01, rng)
            wave = scenes.mix_scene(wave, sound, rng.uniform(*BESIDE_RATIO), window)
            placed.append((f"{name}:{plan[name]}", *window))
    room_level = scenes.measure_level(wave) + _ROOM_LEVEL
    wave = wave + scenes.set_level(rng.standard_normal(len(wave)), room_level)
    for name, attribute in reversed(VOCABULARY.items()):  # so that loudness sets the level last
        if attribute.clip:
            wave = attribute.clip(plan[name], wave, rng)
    clip = Clip(
        plan["id"],
        f"audio/{plan['split']}/{plan['id']}.flac",
        seconds,
        text,
        plan["speaker"],
        dict(attributes),
        tuple(Span(name, round(begin, 3), round(stop, 3)) for name, begin, stop in placed),
    )
    return wave * min(1.0, _PEAK / float(np.abs(wave).max())), clip


def _speak(plan: Plan, room: float, rng: np.random.Generator) -> tuple[str, voices.Utterance]:
    """As many words as fit the room (seconds), cut at a word that can end a sentence."""
    words = make_sentence(plan["topic"], rng).split()
    told: dict[str, Any] = {}
    for name, attribute in VOCABULARY.items():
        if attribute.voice:
            told |= attribute.voice(plan[name], rng)
    how = {"pitch": int(rng.integers(35, 66)), "melody": int(rng.integers(40, 71))} | told
    words = words[: int(1.4 * room * how["words_per_minute"] / 60) + 3]
    while True:
        text = " ".join(words).rstrip(",") + "."
        text = text[0].upper() + text[1:]
        utterance = voices.get_synthesiser().speak(text, plan["speaker"], **how)
        if utterance.words[-1][2] <= room:
            return text, utterance
        fitting = sum(end <= room for _, _, end in utterance.words)
        words = shorten_words(words, min(fitting, len(words) - 1))
