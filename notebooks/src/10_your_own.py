# %% [markdown]
# # 10 · Your own: what does your own change do, and does it hear your own recordings?
#
# Until here you took a finished run apart. Now you change something. Part A is an *ablation*: you turn one knob of the connector and leave everything else as it is. Every setting is trained from several seeds, because a single seed can show anything. Part B leaves the corpus: the lab reads a folder of recordings with a table beside it (yours, if you have one), checks it, and asks the finished run about it. Part C trains a new connector on such a folder alone.
#
# You will lay out a grid of runs, put an interval on a difference, and learn how to fool yourself. You will see what a telephone line does to a connector that never heard one, and how much a few dozen clips can teach. The later cells run your functions; where an exercise is open, the package's function takes its place, and the headline says whose code ran.
#
# *Needs: 00; 05 helps. 43 minutes of exercises; reading and running take about as long again.*

# %%
import hashlib
import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import soxr
from scipy import signal, stats

import desta_lab
from desta_lab import audio, cache

# %%
from desta_lab.clips import CorpusError
from desta_lab.course.checks import notebook_10 as pieces
from desta_lab.evaluation import conditions, statistics, verdict
from desta_lab.evaluation.evaluate import evaluate
from desta_lab.experiments import ablation, findings, people
from desta_lab.experiments.experiment import Experiment
from desta_lab.experiments.studies import get_study
from desta_lab.model import build
from desta_lab.training import checkpoints
from desta_lab.views import card, replies, style
from desta_lab.world import attributes, public_corpora, spoken
from desta_lab.world.tables import corpus_from_folder

lesson = desta_lab.setup("10")
experiment = lesson.experiment

# %% [markdown]
# ## Part A: turn one knob
#
# Everything that can be turned on the connector, in one line:

# %%
experiment.preset.connector

# %% [markdown]
# We turn `anchored`. An *anchored* connector says a neutral sentence before any training (“A person with some accent …”), and only has to change words in it. A connector without the anchor starts from embeddings that mean nothing. On a larger backbone, with one seed, the model named the gender only with the anchor. So the anchor may help. Does it help here, in a short training?
#
# The runs are small: few clips and few steps. Come back to these constants for the last exercise.

# %%
KNOB, VALUES = "anchored", (True, False)
SEEDS, STEPS = (0, 1), 40
CLIPS = {"train": 192, "validation": 24, "test": 48}

# %% [markdown]
# ### Exercise 10.1 · Lay out a grid · fill in · 7 min
# Write `grid(fields)`. `grid({"pool": [1, 2], "seed": [0, 1]})` should return a dict with one entry for every *combination* of values. The value of an entry is its settings, such as `{"pool": 1, "seed": 0}`. Its key is a hash of those settings and of nothing else: the order of the fields must not matter. Then a run that was done is found again, whatever you add to the grid later.


# %% tags=["exercise"]
def grid(fields):
    ### BEGIN SOLUTION
    rows = [
        dict(zip(fields, values, strict=True)) for values in itertools.product(*fields.values())
    ]
    return {
        hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()[:12]: row
        for row in rows
    }
    ### END SOLUTION


# %%
lesson.check("grid", grid)

# %% [markdown] tags=["hint"]
# `itertools.product(*fields.values())` gives all combinations of values. `json.dumps(row, sort_keys=True)` writes equal dicts equally, and `hashlib.sha256(text.encode()).hexdigest()` is the same on every day; Python's own `hash` of a text is not.

# %% [markdown]
# ### Exercise 10.2 · Commit yourself · predict · 3 min
# The score is the accuracy above chance on the six questions of rung 3, which were never trained, on voices that were never heard: 0 is guessing, 1 is perfect. The run that ships has about 0.9 after 300 steps.

# %%
lesson.predict(
    "effect",
    f"Mean score with {KNOB} = {VALUES[0]} minus {KNOB} = {VALUES[1]}?",
    -0.5,
    0.5,
    step=0.05,
)

# %%
lesson.predict(
    "between", "How far are two seeds of the same setting apart, on average?", 0, 0.5, step=0.02
)


# %% [markdown]
# Each run is a small job with its own seed: other sentences, another order of clips, another untrained connector. The runs have a folder of their own, so other commands still find the finished run.


# %%
def job_of(value, seed):
    """The main job of this preset with one knob turned, made small."""
    connector = replace(
        experiment.preset.connector, **{"queries": experiment.llm.queries, KNOB: value}
    )
    small = replace(
        experiment.preset,
        connector=connector,
        clips=CLIPS,
        test=48,
        held_out=24,
        steps=STEPS,
        minutes=None,
    )
    job = Experiment(
        small, seed=seed, root=experiment.root / "ablation", progress=experiment.progress
    )
    job.llm = build.build_audio_llm(small, root=experiment.root / "models", seed=seed)
    return job


# %% [markdown]
# Each run is measured like the finished run: before and after training, with silence, shuffled audio and the text oracle.


# %%
def measured(job):
    """Rung 3 of a job's first and last step under every condition; trained if it was not."""
    folder, last = job.train("self"), job.train_config.steps

    def make():
        tasks = [task for task in job.tasks if task.rung == 3]
        test, others = job.clips("test"), job.clips("validation")
        read = evaluate(job.llm, tasks, test, others, conditions=["oracle"], describe=job.describe)
        rows = [read.assign(step=0), read.assign(step=last)]
        for step in (0, last):
            checkpoints.load_checkpoint(folder, job.llm, step)
            rows.append(evaluate(job.llm, tasks, test, others, job.features).assign(step=step))
        return pd.concat(rows, ignore_index=True).assign(run="self", seed=job.seed)

    return cache.find_or_make(job.root, job.provenance("lessons", run=folder.name, rung=3), make)


# %% [markdown]
# Your grid says which runs there are (the package's does while the exercise is open).

# %%
lay_out = lesson.use("grid", grid, pieces.lay_out, tensors=False)
runs = lay_out({KNOB: list(VALUES), "seed": list(SEEDS)})
plan = [(run[KNOB], run["seed"]) for run in runs.values()]
plan.sort(key=lambda run: (VALUES.index(run[0]), SEEDS.index(run[1])))
pd.DataFrame(runs).T

# %% tags=["expensive"]
jobs = {(value, seed): job_of(value, seed) for value, seed in plan}
tables = {key: measured(job) for key, job in jobs.items()}

# %% [markdown]
# One clip before any average: what two runs chose for it, attribute by attribute, beside the truth. (Each seed has its own clips. These two runs share the first seed.)

# %%
name = f"{jobs[plan[0]].clips('test')[0].id}"
chosen = {
    f"{KNOB} = {value}": rows[
        (rows["clip"] == name) & (rows["condition"] == "audio") & (rows["step"] == STEPS)
    ].set_index("attribute")["chosen"]
    for (value, seed), rows in tables.items()
    if seed == SEEDS[0]
}
pd.DataFrame(chosen).assign(truth=pd.Series(jobs[plan[0]].clips("test")[0].attributes))

# %% [markdown]
# Now the scores of every run under every condition. The figure at the end adds an interval over *speakers*. That interval says how sure we are about this one run. It says nothing about the next seed.

# %%
scores = pd.concat(
    [
        verdict.score_per_rung(verdict.add_untrained(rows))
        .query("step == @STEPS")
        .assign(setting=f"{KNOB} = {value}", seed=seed)
        for (value, seed), rows in tables.items()
    ],
    ignore_index=True,
)
scores.pivot(index=["setting", "seed"], columns="condition", values="score").round(2)

# %%
heard = scores[scores["condition"] == "audio"].pivot(
    index="seed", columns="setting", values="score"
)
ours, theirs = (heard[f"{KNOB} = {value}"].to_numpy() for value in VALUES)
each = pd.concat(
    {
        f"{KNOB} = {value}, seed {seed}": rows[
            (rows["condition"] == "audio") & (rows["step"] == STEPS)
        ]
        .groupby("attribute")["calibrated"]
        .mean()
        for (value, seed), rows in tables.items()
    },
    axis=1,
)
each.round(2)

# %% [markdown]
# This is the accuracy on each attribute, not corrected for chance. Two runs of one setting need not agree: the seed has a part in which question is answered first.
#
# ### Exercise 10.3 · Put an interval on a difference · fill in · 8 min
# `ours` and `theirs` hold one score per seed, in the same order. Seed 0 meets seed 0, so an easy corpus is easy for both. Write `paired_difference(ours, theirs)`. Return three numbers: the mean difference, and the lower and upper end of its 95 % interval, `mean ± t · s / √n`. Here `s` is the standard deviation of the differences, `n` is the number of seeds, and `t` is the 97.5 % quantile of Student's distribution with `n` − 1 degrees of freedom.


# %% tags=["exercise"]
def paired_difference(ours, theirs):
    ### BEGIN SOLUTION
    difference = np.subtract(ours, theirs)
    reach = stats.t.ppf(0.975, len(difference) - 1) * stats.sem(difference)
    return difference.mean(), difference.mean() - reach, difference.mean() + reach
    ### END SOLUTION


# %%
lesson.check("paired_difference", paired_difference)

# %% [markdown] tags=["hint"]
# `stats.sem` is `s / √n`, with n − 1 inside; `stats.t.ppf(0.975, n - 1)` is the quantile.

# %% [markdown]
# The effect of the knob by your function (the package's while the exercise is open). Both must agree.

# %%
compare = lesson.use("paired_difference", paired_difference, pieces.compare_seeds, tensors=False)
effect, low, high = (float(number) for number in compare(ours, theirs))
np.testing.assert_allclose((effect, low, high), pieces.compare_seeds(ours, theirs))
print(f"{effect:+.2f} [{low:+.2f}, {high:+.2f}] over {len(SEEDS)} seeds, by {lesson.credit}")

# %% [markdown]
# With two seeds `t` is 12.7. This is needed: two numbers say little about how far apart the next two will be. Suppose that the differences keep the standard deviation that they have here. Then more seeds would bring half of the interval down to:

# %%
count = np.array([2, 3, 5, 10, 20])
reach = statistics.t_half_width(np.std(ours - theirs, ddof=1) / np.sqrt(count), count)
pd.DataFrame({"seeds": count, "half of the interval": reach}).set_index("seeds").T.round(2)

# %% [markdown]
# ### Exercise 10.4 · Flatter your own setting · break · 5 min
# A paper reports “our best run against the baseline”. Write `flattering(ours, theirs)`. Return the largest difference in your favour that you can get if you *choose* one seed on each side.


# %% tags=["exercise"]
def flattering(ours, theirs):
    ### BEGIN SOLUTION
    return max(ours) - min(theirs)
    ### END SOLUTION


# %%
lesson.check("flattering", flattering)

# %% [markdown] tags=["hint"]
# Which of your seeds would you show, and which of theirs?

# %% [markdown]
# What would your function report in a world where the knob does *nothing*? Here are a thousand such worlds. Their scores have a standard deviation of 0.08 over seeds.

# %%
flatter = lesson.use("flattering", flattering, pieces.flatter, tensors=False)
worlds = np.random.default_rng(0).normal(0.4, 0.08, size=(1000, 2, 10))
pd.DataFrame(
    [
        {
            "seeds": n,
            "honest mean difference": np.mean([a[:n].mean() - b[:n].mean() for a, b in worlds]),
            "flattering difference": np.mean([flatter(a[:n], b[:n]) for a, b in worlds]),
        }
        for n in (1, 2, 5, 10)
    ]
).set_index("seeds").round(3)

# %% [markdown]
# The honest difference stays near zero. The flattering difference grows with the number of seeds that one can choose from.
#
# The larger studies of this package follow the honest rule, over five seeds: which layers, how deep, how many clips. Their tables ship. The sentence below is computed from one of them.

# %%
STUDY = "clips"
try:
    print(*findings.state_findings(get_study(STUDY), ablation.load_table(STUDY)), sep="\n")
except FileNotFoundError as missing:
    print(str(missing).split(": ", 1)[1])

# %% [markdown]
# You can add an arm of your own. Only the new arm is run; what was measured is found. The cell below says what this would take. `mine.run()` does it.

# %%
mine = ablation.build_sweep(STUDY, seeds=(0,), more={"my arm": {"train": 24}}, root=experiment.root)
mine.forecast()

# %% [markdown]
# ## Part B: your own recordings
#
# Your folder holds audio files and a table `clips.csv`. The table has the columns `audio` and `speaker`, and one column for each attribute that you know, with the values below. You need at least four speakers. The model is asked about a column if every row has a value there. Write the path of the folder into `FOLDER`. While it is empty, the next cells make a stand-in.

# %%
{name: attributes.ATTRIBUTES[name] for name in attributes.DESCRIBED}

# %%
FOLDER = ""  # where your recordings lie


# %% [markdown]
# The stand-in has new sentences, pitches and scenes, spoken by the test speakers of the course. The connector never heard these speakers in training. Each clip is saved twice: as it is (*studio*), and through a *telephone* line, 300 to 3400 Hz, 8000 samples a second, with some noise. Real recordings will differ more than both.


# %%
def telephone(wave, rng):
    band = signal.butter(4, (300, 3400), "bandpass", fs=audio.RATE, output="sos")
    narrow = soxr.resample(signal.sosfilt(band, wave).astype(np.float32), audio.RATE, 8000)
    return narrow + 0.03 * np.abs(narrow).max() * rng.standard_normal(len(narrow)).astype(
        np.float32
    )


# %%
def stand_in(folder, count=16):
    folder.mkdir(parents=True, exist_ok=True)
    rows, rng = [], np.random.default_rng(2026)
    for plan in spoken.design_clips("test", count, seed=2026):
        wave, clip = spoken.render_clip(
            {**plan, "seed": (2026, *plan["seed"])}, experiment.preset.seconds
        )
        for channel, sound, rate in (
            ("studio", wave, audio.RATE),
            ("telephone", telephone(wave, rng), 8000),
        ):
            soundfile.write(folder / f"{clip.id}-{channel}.wav", sound, rate)
            known = {name: clip.attributes[name] for name in attributes.DESCRIBED}
            rows.append(
                {
                    "audio": f"{clip.id}-{channel}.wav",
                    "speaker": clip.speaker,
                    "channel": channel,
                    **known,
                }
            )
    pd.DataFrame(rows).to_csv(folder / "clips.csv", index=False)
    return folder


# %%
folder = Path(FOLDER) if FOLDER else stand_in(experiment.root / "own" / "standin")
own = corpus_from_folder(folder)
pd.read_csv(folder / "clips.csv", dtype=str, keep_default_na=False).head(4)

# %% [markdown]
# Every row is checked as it is read, because a wrong table is the most common fault. This table names a file that does not exist:

# %%
table = (folder / "clips.csv").read_text().splitlines()
bad = folder / "bad.csv"
bad.write_text("\n".join([*table[:3], table[3].replace(own.clips[2].audio, "nobody.wav")]))
try:
    corpus_from_folder(folder, bad.name)
except CorpusError as error:
    print(str(error).replace(str(folder), "…"))
bad.unlink()

# %% [markdown]
# Hear the first two clips. The sentence above each clip is its seed description, made from its row in the table.

# %%
full = all(
    set(attributes.DESCRIBED) <= clip.attributes.keys() for clip in own.clips
)  # else there is nothing to read
desta_lab.show_players(own, own.clips[:2])

# %% [markdown]
# ### Exercise 10.5 · Split by speaker · fill in · 7 min
# Ranking is *calibrated* (notebook 05): the model's liking for each option is measured on other clips, and subtracted. No voice may be on both sides, or the voice itself is a clue. Write `split_recordings(speakers, share)`. `speakers` holds the speaker of every recording. `share` is the part of the speakers that belongs to the first split. Return two lists of row numbers. No speaker may be in both, no recording may be lost, and neither list may be empty if there are two speakers or more.


# %% tags=["exercise"]
def split_recordings(speakers, share):
    ### BEGIN SOLUTION
    people = sorted(set(speakers))
    count = min(max(1, round(share * len(people))), len(people) - 1)
    first = set(people[:count])
    return [i for i, s in enumerate(speakers) if s in first], [
        i for i, s in enumerate(speakers) if s not in first
    ]
    ### END SOLUTION


# %%
lesson.check("split_recordings", split_recordings)

# %% [markdown] tags=["hint"]
# Deal out the sorted names, not the rows; then `min` and `max` keep one name on each side.

# %% [markdown]
# First the finished run answers in its own words: what is the background? Beside its answers are that to silence, and those of the text oracle, which reads your table instead of hearing.

# %%
waves = [audio.read_audio(own.path(clip)) for clip in own.clips[:8]]
scene = next(task for task in experiment.tasks if task.name == f"ask_{experiment.preset.label}")
answers = {}
with replies.use_checkpoint(experiment) as llm:
    answers["by ear"] = [
        replies.answer_audio(llm, replies.embed_audio(llm, wave), scene.question).text
        for wave in waves
    ]
    answers["silence"] = replies.answer_audio(
        llm, conditions.embed_silence(llm), scene.question
    ).text
    if full:
        answers["by reading"] = [
            replies.answer_text(llm, clip, scene.question).text for clip in own.clips[:8]
        ]
pd.DataFrame(answers, index=[clip.id for clip in own.clips[:8]])

# %% [markdown]
# Then every question about a column of the table, ranked. Your function splits the speakers into halves (the package's does while the exercise is open). Each half calibrates the other. Every value weighs the same there, however often it occurs. Only the first seconds of a recording are heard, as many as in training.

# %%
split = lesson.use("split_recordings", split_recordings, pieces.deal_speakers, tensors=False)


# %%
def by_halves(llm, clips, states):
    """Every clip scored once, calibrated on the clips of the other half of the speakers."""
    embeddings = conditions.embed_clips(llm, states)
    people = sorted({clip.speaker for clip in clips})
    # sorted names would part women from men, so every other name goes to the front
    mixed = {name: f"{i % 2} {name}" for i, name in enumerate(people)}
    first, second = map(list, split([mixed[clip.speaker] for clip in clips], 0.5))
    return pd.concat(
        [
            evaluate(
                llm,
                asked,
                [clips[i] for i in mine],
                [clips[i] for i in others],
                audio_embeddings=embeddings[[*mine, *others]],
            )
            for mine, others in ((first, second), (second, first))
        ]
    )


# %% tags=["slow"]
asked = [
    t
    for t in experiment.tasks
    if t.rung == 3 and all(t.attribute in clip.attributes for clip in own.clips)
]
channel_of = {clip.id: clip.attributes.get("channel", "your recordings") for clip in own.clips}
rows = []
for channel in sorted(set(channel_of.values())):
    clips = [clip for clip in own.clips if channel_of[clip.id] == channel]
    states = experiment.llm.encoder.encode(
        [audio.read_audio(own.path(clip)) for clip in clips]
    ).float()
    for step in (0, experiment.train_config.steps):
        with replies.use_checkpoint(experiment, step) as llm:
            heard = by_halves(llm, clips, states)
        rows.append(
            heard[heard["condition"] == "audio"].assign(condition="untrained")
            if step == 0
            else heard
        )
    if full:
        rows.append(evaluate(experiment.llm, asked, clips, clips, conditions=["oracle"]))
graded = pd.concat(rows, ignore_index=True)
graded["channel"] = graded["clip"].map(channel_of)
graded["score"] = (graded["calibrated"] - graded["chance"]) / (1 - graded["chance"])

# %%
heard = statistics.bootstrap_intervals(graded, "score", ["condition", "channel", "attribute"])
overall = statistics.bootstrap_intervals(
    graded.assign(attribute="all of them"), "score", ["condition", "channel", "attribute"]
)
recordings = pd.DataFrame(
    [
        dict(zip(("condition", "channel", "row"), key, strict=True))
        | dict(zip(("score", "low", "high"), found, strict=True))
        for key, found in (heard | overall).items()
    ]
)
recordings[recordings["condition"] == "audio"].pivot(
    index="row", columns="channel", values="score"
).round(2)

# %% [markdown]
# You can also put real voices into the lab's own scenes. This takes a folder of *clean* recordings of four people or more, with a table `clips.csv` (`audio`, `speaker`, and what you know of `gender`, `language`, `accent`). The lab makes them whispered, loud or fast, as in its own test, and tests the finished run on them with every control. On the command line this is `quickstart --test-voices FOLDER`.

# %%
VOICES = ""  # where clean recordings of people lie

# %%
if VOICES:
    print(people.format_people(people.test_voices(experiment, VOICES)))
else:
    print("Put clean recordings and their clips.csv into a folder, and its path into VOICES.")

# %% [markdown]
# ## Part C: train on a folder
#
# The finished run learned from the course's corpus. Now a connector learns from *one folder* and nothing else. The backbone writes a target for every description that your table makes. The rest is as before. Write a path into `TRAIN_FOLDER` to train on your own recordings. The nano LLM reads only the words shown at the start of part B, and refuses others. `setup("10", preset="cpu")` takes any words.

# %%
TRAIN_FOLDER = ""  # your recordings with their clips.csv; empty: the stand-in
TELLS = ("gender", "manner", "scene")  # the columns of the stand-in's table


# %% [markdown]
# The stand-in again, *as if it were yours*: 96 new clips by 16 of the course's voices, with three columns that say what is true of them. A column `split` keeps four voices for the test and four for calibration. Without this column the package splits the speakers itself. With fewer than four speakers it splits single clips, and the card says: *same speaker: this measures recognition of your recordings, not of new voices*.


# %%
def as_if_yours(folder, count=96):
    folder.mkdir(parents=True, exist_ok=True)
    plans, rows = spoken.design_clips("test", count, seed=2027), []
    speakers = {plan["speaker"] for plan in plans}
    voices = sorted(speakers, key=lambda name: name[::-1])  # women and men mixed
    split = {
        name: "test" if i < 4 else "validation" if i < 8 else "train"
        for i, name in enumerate(voices)
    }
    for plan in plans:
        wave, clip = spoken.render_clip(
            {**plan, "seed": (2027, *plan["seed"])}, experiment.preset.seconds
        )
        soundfile.write(folder / f"{clip.id}.wav", wave, audio.RATE)
        about = {name: clip.attributes[name] for name in TELLS}
        row = {"audio": f"{clip.id}.wav", "speaker": clip.speaker, "split": split[clip.speaker]}
        rows.append(row | about)
    pd.DataFrame(rows).to_csv(folder / "clips.csv", index=False)
    return folder


# %%
corpus = corpus_from_folder(TRAIN_FOLDER or as_if_yours(experiment.root / "own" / "mine"))
few = replace(experiment.preset, steps=60, checkpoint_every=1, test=48, held_out=24, minutes=None)
job = Experiment(few, corpus=corpus, root=experiment.root / "own", progress=experiment.progress)
job.llm = build.build_audio_llm(few, root=experiment.root / "models", seed=0)
desta_lab.show_players(corpus, job.clips("train")[:2])

# %% [markdown]
# This is what the backbone wrote for the first two descriptions. Look for words that are not in your table. Where a description leaves something open, the nano LLM writes a guess. A target can teach only what its description says.

# %%
for one in job.targets.rows[:2]:
    print(f"read:  {one.description}\nwrote: {one.response}\n")

# %% [markdown]
# ### Exercise 10.6 · Foresee your folder · predict · 3 min
# About 48 clips train it for 60 steps, so each clip is seen about 20 times. The score is that of rung 3, on the four test voices.

# %%
lesson.predict(
    "folder",
    "Mean score of the questions about the folder, on voices it never heard?",
    -0.2,
    1,
    step=0.05,
)

# %% tags=["expensive"]
of_folder = measured(job)
taught = verdict.add_untrained(of_folder).query("step == @job.train_config.steps")
taught = taught.assign(score=(taught["calibrated"] - taught["chance"]) / (1 - taught["chance"]))

# %%
by_row = statistics.bootstrap_intervals(taught, "score", ["condition", "attribute"])
by_row |= statistics.bootstrap_intervals(
    taught.assign(attribute="all of them"), "score", ["condition", "attribute"]
)
folder_rows = pd.DataFrame(
    [
        dict(zip(("series", "row", "score", "low", "high"), (*key, *found), strict=True))
        for key, found in by_row.items()
    ]
)
folder_rows.pivot(index="row", columns="series", values="score").round(2)

# %% [markdown]
# Compare each row with its controls. *audio* must stand above silence, shuffled audio and the untrained connector. The text oracle shows what reading the table would give. The rule of the verdict is strict: when voices are drawn again, the *difference* to every control must stay above zero. This is hard with four voices, above all for gender. Silence gives every clip the same answer, and that answer is right for all clips of some voices. An attribute that fails the rule was not shown. It may have been learned all the same.

# %%
heard_of = {
    split: (len(job.clips(split)), len({c.speaker for c in job.clips(split)}))
    for split in ("train", "test")
}
margins = verdict.control_margins(of_folder, "self", job.train_config.steps)
learned = [
    task.removeprefix("ask_") for task, margin in margins.items() if min(margin.values()) > 0
]
print(
    f"(clips, voices): {heard_of}; clear of every control: {', '.join(learned) or 'nothing'} "
    f"of {', '.join(job.values)}."
)

# %% [markdown]
# `run_quickstart(job)` goes further. It also trains the rival run on bare labels, and measures every rung at every checkpoint. Then it writes the card with a verdict. Below 24 clips, 4 voices or 2 attributes the card says *too few clips to judge*.
#
# ## All three answers in one picture
#
# On the left is the ablation, with one row per run, so you see both settings *and* seeds. In the middle the finished run hears the recordings. On the right is the connector that learned from a folder alone. Compare every blue dot with its controls. (The middle panel draws the controls of the first channel. The table `recordings` has the others.) An untrained connector may stand off zero, too. This comes from its random weights, and the interval over speakers does not cover it.


# %%
def dots(axes, rows, names, series):
    """One dot with its interval for every name and series."""
    for k, (condition, label, how) in enumerate(series):
        some = rows[rows["series"] == condition].set_index("row").reindex(names)
        reach = np.clip([some["score"] - some["low"], some["high"] - some["score"]], 0, None)
        at = np.arange(len(names)) + 0.55 * (k / (len(series) - 1) - 0.5)
        axes.errorbar(some["score"], at, xerr=reach, label=label, elinewidth=1, **how)
    axes.axvline(0, color="#B0B0B0", lw=0.8, zorder=0)
    for at in range(1, len(names), 2):
        axes.axhspan(at - 0.5, at + 0.5, color="#F3F3F3", zorder=-1, lw=0)
    axes.set(
        xlim=(-0.65, 1.08),
        ylim=(len(names) - 0.5, -0.5),
        xlabel="score (0 is guessing, 1 is perfect)",
    )
    axes.set_yticks(range(len(names)), names)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, fontsize=8)


# %%
left_rows = scores.assign(
    panel="ablation",
    row=scores["setting"] + ", seed " + scores["seed"].astype(str),
    series=scores["condition"].replace("audio", "self"),
)
first = sorted(set(channel_of.values()))[
    0
]  # its controls stand for the others', which are drawn from the same labels
right_rows = recordings[(recordings["condition"] == "audio") | (recordings["channel"] == first)]
right_rows = right_rows.assign(
    panel="recordings",
    series=right_rows["condition"].where(right_rows["condition"] != "audio", right_rows["channel"]),
)
last_rows = folder_rows.assign(
    panel="folder", series=folder_rows["series"].replace("audio", "self")
)

# %%
drawn = pd.concat([left_rows, right_rows, last_rows])[
    ["panel", "row", "series", "score", "low", "high"]
]
CONTROLS = [
    (name, style.SERIES[name].label, style.marker_style(name))
    for name in ("untrained", "shuffled", "silence", "oracle")
]
BLUE = style.marker_style("self")
HEARD = [
    (name, f"{name}, by ear", BLUE | {"marker": m, "mfc": c, "mec": BLUE["color"]})
    for name, m, c in zip(
        sorted(set(channel_of.values())), "osv^D", [BLUE["color"], *["white"] * 4], strict=False
    )
]

# %%
shown = "shown" if low > 0 or high < 0 else "not shown"
total = recordings[
    (recordings["condition"] == "audio") & (recordings["row"] == "all of them")
].set_index("channel")["score"]
all_taught = by_row["audio", "all of them"][0]
whose = "recordings" if FOLDER else "synthetic stand-ins"
headline = (
    f"{KNOB} = {VALUES[0]} minus {VALUES[1]}: {effect:+.2f} [{low:+.2f}, {high:+.2f}] over "
    f"{len(SEEDS)} seeds, {shown}; "
    f"the finished run on {whose}: "
    f"{', '.join(f'{name} {score:.2f}' for name, score in total.items())}; "
    f"taught by {heard_of['train'][0]} clips of a folder alone: {all_taught:.2f} "
    f"(by {lesson.credit})"
)

# %%
PANELS = [
    (
        "ablation",
        f"A: rung 3 after {STEPS} steps, a row per run",
        list(dict.fromkeys(left_rows["row"])),
        "after training, by ear",
    ),
    (
        "recordings",
        "B: the finished run on a folder",
        [*(task.attribute for task in asked), "all of them"],
        None,
    ),
    (
        "folder",
        f"C: trained on {heard_of['train'][0]} clips of a folder",
        [*job.values, "all of them"],
        "after training, by ear",
    ),
]

# %% tags=["headline"]
figure, every = style.subplots(1, 3, headline, size=(13.5, 4.8))
for axes, (panel, title, names, label) in zip(every, PANELS, strict=True):
    ours_of = [("self", label, BLUE)] if label else HEARD
    dots(axes, drawn[drawn["panel"] == panel], names, [*ours_of, *CONTROLS])
    axes.set_title(title)
lesson.show(
    figure,
    f"An ablation over seeds, recordings asked about, and a folder trained on. {headline}.",
    drawn,
)

# %%
print(lesson.reveal("effect", effect))
between = float(np.mean([np.ptp(scores_of) for scores_of in (ours, theirs)]))
print(lesson.reveal("between", between))
print(lesson.reveal("folder", all_taught))

# %% [markdown]
# Compare the first two printed numbers. If two seeds of one setting lie as far apart as the two settings, the ablation has measured seeds. In the middle panel, see where *telephone* falls behind *studio*. Its distance to the controls is what still works on the telephone. In the right panel, see which attributes a few dozen clips teach. A row that stays at its controls was not learned from this folder in these steps. It does not show that the attribute cannot be heard.
#
# ## A result card
#
# The card is what you would hand in: the rule, the numbers, and what they were made from. It is one page, and the same as JSON.

# %%
RULE = (
    "SHOWN if the 95 % interval of the paired difference over seeds (Student's t) does not hold "
    "zero."
)
result = {
    "title": f"Does {KNOB} = {VALUES[0]} help over {VALUES[1]}?",
    "preset": experiment.preset.name,
    "verdict": {"verdict": shown.upper(), "rule": RULE, "reasons": [headline]},
    "tasks": left_rows[["row", "series", "score", "low", "high"]],
    "notes": [
        f"{len(SEEDS)} seeds, {STEPS} steps, {CLIPS['train']} training clips; intervals in "
        "the table: speakers."
    ],
    "hashes": {
        f"run {value} {seed}": job.run_folder("self").name for (value, seed), job in jobs.items()
    },
    "figures": [(str(lesson.out / "10.png"), headline)],
}
card.write_card(lesson.out / "ablation", result).name

# %% [markdown]
# ### Exercise 10.7 · Turn your knob · tweak · 10 min
# Go back to the constants, and change `KNOB` and `VALUES`: `pool` (1 or 4 frames are averaged before they are read), `depth` (1 or 2 blocks), `scaled`, `post_norm`. Say first what you expect, and how sure you are. Then run all cells from there. Runs that are done are found again. If you have time, take a third seed, and decide so before you look: who adds seeds until the interval leaves zero always finds something. What does the third seed do to the interval?
#
# ## The emotion track
#
# Somebody shouts *“Answer me!”* A model hears anger only if its data can teach anger. In the course's corpus nobody is angry. `loudness` says how loud a file is. No description names a feeling, so no target does. Nothing tells the connector that a strained voice matters. More steps do not change this, but other data do. The package can read and describe two public corpora of actors. It does not ship their audio:

# %%
for one in (public_corpora.CREMA_D, public_corpora.RAVDESS):
    print(f"{one.name}: {', '.join(one.attributes['emotion'])}\n{one.licence}\n{one.how_to_get}\n")

# %% [markdown]
# For a clip of CREMA-D the backbone would read this:

# %%
public_corpora.CREMA_D.describe(
    {"gender": "female", "age": "fifties", "emotion": "angry", "intensity": "high"}
)

# %% [markdown]
# The nano LLM knows none of these words, and 7,442 clips need a GPU. On Colab choose *Runtime → Change runtime type → T4 GPU*, run the first cell of this notebook, and then the lines below. They are **not run here, and nothing of this was measured**:
#
# ```python
# !git lfs install && git clone https://github.com/CheyneyComputerScience/CREMA-D
# import desta_lab
# from desta_lab.model import presets
# from desta_lab.views import card
# from desta_lab.views.progress import progress_reporter
# from desta_lab.world import public_corpora
#
# corpus = public_corpora.CREMA_D.build("CREMA-D")  # checks every file; 91 actors, dealt 80 : 10 : 10
# job = desta_lab.Experiment(presets.t4(), corpus=corpus, label="gender", progress=progress_reporter())
# print(card.format_card(desta_lab.run_quickstart(job)))
# ```
#
# With `label="gender"` both runs are asked about emotion, and neither is trained on a question about it: targets mention emotion, and no prompt asks for it. RAVDESS works the same way with `public_corpora.RAVDESS.build(folder)`. It has 24 actors, and its test has four voices, the fewest that get a verdict. The encoded clips take disk. With `t4` a clip takes 4 layers × 200 frames × 768 numbers × 2 bytes = 1.2 MB, so CREMA-D's training clips take about 7 GB.
#
# Do not expect much. *People* who only heard CREMA-D's clips named the intended emotion in 40.9 % of them, with six to choose from (Cao et al. 2014, abstract). On SAKURA's emotion track, five hundred clips in multiple choice, DeSTA2 answered 34.8 % of the direct questions and Qwen2-Audio-Instruct 64.2 % (SAKURA's README; the numbers are in `data/published.csv`). So look at three things: how far *emotion* stands above its controls, whether the text oracle can answer at all, and angry against neutral before all six. Acted anger in twelve fixed sentences is also not your own shout. That would be another test.
#
# ## What we now know
#
# A change to the training is a claim about many runs. So its figure has a row per seed, and its interval is over seeds. If the interval holds zero, these runs cannot tell. It does not mean that the knob does nothing.
#
# A connector that was trained on one synthetic world can be asked about any recording. The controls show how much of its knowledge still works there. The stand-in is a mild test: the synthesiser and the speakers are those of the course's own test, so *studio* is hardly another world.
#
# A connector can learn from a folder of a few dozen clips. The backbone writes the targets from the table, and the controls show which columns were learned. What is in no table, such as anger, is in no target.
#
# **What would change our mind**: more seeds that agree; an interval clear of zero for a knob that was chosen before looking; and, for parts B and C, real voices in real rooms. This notebook has tested none.
#
# Next: **11**, the published system, of which all this was a small copy. Outside the notebooks, `python -m desta_lab sweep --set steps=40,80 --seeds 0,1,2` turns any field over seeds, finds the runs that are done, and draws which knobs matter. `python -m desta_lab class FOLDER` merges the cards of a class. The README says how to try a larger preset.

# %%
lesson.card()
