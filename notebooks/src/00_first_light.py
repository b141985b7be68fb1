# %% [markdown]
# # 00 · Ears and environment: can a model answer about sound what it was never asked in training?
#
# The encoder of Whisper, a speech recogniser, hears, and a language model, the *backbone*, speaks. Both are *frozen*: nothing here trains them. Between them a small *connector* has learned one task: to make the language model say about a clip what it would have said about a text description of that clip (the idea of [DeSTA2](https://arxiv.org/abs/2409.20007)). Then it was asked six questions that training never contained.
#
# You will hear two clips, see what the encoder sees, ask the model something yourself, and read the figure that the whole course is about. The later notebooks take it apart. If you lose a word, look it up in `notebooks/GLOSSARY.md`.
#
# *Needs: Python, a little PyTorch. 20 minutes of exercises, about 15 of reading and running.*

# %%
import numpy as np
import pandas as pd
import torch
from transformers.audio_utils import mel_filter_bank

import desta_lab
from desta_lab import audio
from desta_lab.course.checks import notebook_00 as pieces
from desta_lab.evaluation import verdict
from desta_lab.views import claim_figures, clip_figures, replies

lesson = desta_lab.setup("00")
experiment = lesson.experiment

# %% [markdown]
# That line checked this machine and unpacked a small finished run, so nothing needs training here. The first time it also lets a speech synthesiser speak 1,056 clips, which takes a while. You may run the cell again. It installs nothing.
#
# ## Hear two clips
#
# Those clips are the *corpus*. Who speaks, how, and what sounds behind them is known for every clip, and each of these *attributes* is drawn independently of the others. The two clips are of the *test* voices, which training never heard. Under each player stands the *seed description*, the only thing the language model ever read about the clip.

# %%
clips = experiment.clips("test")[:2]
desta_lab.show_players(experiment.corpus, clips)

# %% [markdown]
# And here is what they look like. A *spectrogram* has time from left to right and pitch from low to high; the colour says how strong each pitch is at each moment. The bars above each spectrogram are *evidence spans*: when somebody speaks, and when the scene sounds.

# %%
desta_lab.plot_clips(experiment.corpus, clips, columns=2)

# %% [markdown]
# How does a sound become such a picture? In four steps.
#
# 1. A clip is a *waveform*: 16,000 numbers a second, the air pressure at a microphone.
# 2. Windows of 25 ms, one every 10 ms, go through the Fourier transform. The squared size of each result says how strong a frequency is in that window. This is the *power spectrum*, with 201 frequencies from 0 to 8,000 Hz.
# 3. 80 *mel bands* add up neighbouring frequencies. Low bands are narrow and high ones wide, because the ear tells 200 Hz from 300 Hz easily, and 7,200 Hz from 7,300 Hz hardly ([Stevens et al., 1937](https://doi.org/10.1121/1.1915893)).
# 4. The logarithm comes last, because loudness is heard in ratios. Without it the strongest sound hides all others, as the third picture shows. With it a clip that is ten times weaker gives the same picture, one shade paler: the *log-mel*.

# %%
wave = audio.read_audio(experiment.corpus.path(clips[0]))
window = torch.hann_window(400)
spectrum = torch.stft(torch.from_numpy(wave), 400, 160, window=window, return_complex=True)
power = spectrum.abs() ** 2
bands = mel_filter_bank(201, 80, 0.0, 8000.0, audio.RATE, norm="slaney", mel_scale="slaney")
mel = torch.from_numpy(bands).float().T @ power
log_mel = mel.clamp(min=1e-10).log10()
clip_figures.plot_steps_to_mel(
    {
        "waveform": wave,
        "frequency\n(of 201)": power.numpy(),
        "mel band": mel.numpy(),
        "mel band,\nlogarithm": log_mel.clamp(min=log_mel.max() - 8).numpy(),
    },
    experiment.preset.seconds,
)

# %% [markdown]
# The last picture has 100 *frames* a second. Whisper's encoder ([Radford et al., 2022](https://arxiv.org/abs/2212.04356)) halves that: its output has 50 frames a second, each a vector of `width` numbers. The encoder is a stack of layers, and we keep the output (the *states*) of several.

# %%
states = experiment.llm.encoder.encode([wave])
print(f"{len(wave):,} samples; encoder states (layer, clip, frame, width): {tuple(states.shape)}")

# %% [markdown]
# ### Exercise 0.1 · Say when a frame starts · fill in · 4 min
# Every picture of this course has frames on one side and seconds on the other. Write the function from the number of an encoder frame, counted from 0, to the second at which it starts. (In every exercise: replace the `...`, run the cell, then the next one, which checks it in words. Hint and solution are folded below. Unsolved exercises stop nothing.)


# %% tags=["exercise"]
def seconds_of_frame(frame):
    ### BEGIN SOLUTION
    return frame / 50
    ### END SOLUTION


# %%
lesson.check("seconds_of_frame", seconds_of_frame)

# %% [markdown] tags=["hint"]
# 200 encoder frames make a clip of 4 seconds.

# %% [markdown]
# Your function translates the evidence spans of the first clip into frames. (While an exercise is open, the package's function takes the place of yours, here and in all notebooks.) Notebook 08 asks whether the model looks at these frames.

# %%
start_of = lesson.use("seconds_of_frame", seconds_of_frame, pieces.start_of_frame, tensors=False)
starts = np.array([float(start_of(frame)) for frame in range(states.shape[2])])
rows = []
for span in clips[0].spans:
    frames = np.flatnonzero((starts >= span.start) & (starts < span.end))
    rows.append({"hears": span.name, "from (s)": span.start, "to (s)": span.end})
    rows[-1] |= {"first frame": frames[0], "last frame": frames[-1]}
pd.DataFrame(rows).round(2)

# %% [markdown]
# ## Ask
#
# The language model that speaks here is *nano*. It has two million numbers and a vocabulary of 961 words. It was trained on text alone, in a few minutes: on sentences that describe such clips, and on questions about these sentences. Among them are the very questions of this course. So “a question that training never contained” always means the training of the *connector*. Nano itself could answer these questions in text before, and it knows nothing else.
#
# The run that ships answers about the clip it hears: the *audio condition*. Beside it stand its *controls*. Two get the same question about silence, and without any clip. In the third the language model *reads* the description instead of hearing the clip. This is the *text oracle*. Its answers are those of the text condition.

# %%
experiment.ask(clips[0], "What is the background sound?")

# %% [markdown]
# Silence and no clip make the language model guess. A model that answered as well without the clip would have learned the corpus, not to hear.
#
# Now break it. Outside its world nano is lost, whatever it is given. Put other questions into this cell: how far can you go from the first one before the answer makes no sense?

# %%
experiment.ask(clips[0], "What is 2+2?")

# %% [markdown]
# A real language model is larger, and has read the web. The smallest one here is SmolLM2, with 135 million numbers: about seventy times as many. Asked “What is 2+2?” in text, with nothing before it, it answers: “The answer to this classic math problem is 4.” `python -m desta_lab quickstart --preset cpu` runs the whole experiment with it.

# %% [markdown]
# ### Exercise 0.2 · Silence the evidence · break · 8 min
# If the answer was heard, it should go when the sound goes, and stay when as much of something else goes. `wave` is a NumPy array of samples. Write `silenced(wave, start, end)`: the same clip with the samples from second `start` to second `end` set to zero. Leave `wave` as it was.


# %% tags=["exercise"]
def silenced(wave, start, end):
    ### BEGIN SOLUTION
    quiet = wave.copy()
    quiet[int(start * audio.RATE) : int(end * audio.RATE)] = 0
    return quiet
    ### END SOLUTION


# %%
lesson.check("silenced", silenced)

# %% [markdown] tags=["hint"]
# `audio.RATE` is the number of samples in a second; `wave.copy()` is yours to change.

# %% [markdown]
# We ask about two things: the scene, and the speaker's gender. Which clip? Where the scene lies under all of the speech, silence would take the speaker away with it. So the scene has to leave room, as much as possible. On silence the model guesses. If such a guess were right, the answer could stay right without the sound. So both guesses have to be wrong for this clip, and both answers about the whole clip right. The control silences as much of the clip where the scene is not. (`use_checkpoint` puts the finished connector into the model, `embed_audio` makes the audio embeddings, `answer_audio` answers.)


# %%
questions = {
    "scene": "What is the background sound?",
    "gender": "What is the gender of the speaker?",
}


def answers_about(wave):
    with replies.use_checkpoint(experiment) as llm:
        heard = replies.embed_audio(llm, wave)
        return {name: replies.answer_audio(llm, heard, q).text for name, q in questions.items()}


guesses = answers_about(0 * wave)
pd.Series(guesses, name="said of silence").to_frame()


# %%
def scene_of(clip):
    return next(span for span in clip.spans if span.name.startswith("scene"))


def room(clip):
    scene = scene_of(clip)
    return max(scene.start, experiment.preset.seconds - scene.end) - (scene.end - scene.start)


def rightly(clip, answers):
    return [f" {clip.attributes[name]}" in answer for name, answer in answers.items()]


def told_rightly(clip):
    return all(rightly(clip, answers_about(audio.read_audio(experiment.corpus.path(clip)))))


test = experiment.clips("test")
fit = [clip for clip in test if room(clip) > 0 and not any(rightly(clip, guesses))]
apart = next(clip for clip in sorted(fit, key=room, reverse=True) if told_rightly(clip))
scene, whole = scene_of(apart), audio.read_audio(experiment.corpus.path(apart))
print(f"{apart.id}: in truth {apart.attributes['scene']} and {apart.attributes['gender']}")

# %%
silence = lesson.use("silenced", silenced, pieces.silence_span, tensors=False)
length = scene.end - scene.start
other = 0.0 if scene.start >= length else experiment.preset.seconds - length
versions = {
    "the whole clip": whole,
    "its scene silenced": silence(whole, scene.start, scene.end),
    "as much elsewhere silenced": silence(whole, other, other + length),
}
rows = {name: answers_about(np.float32(version)) for name, version in versions.items()}
print(f"Silenced by {lesson.credit_of('silenced')}.")
pd.DataFrame({**rows, "silence alone": guesses}).T

# %% [markdown]
# If the answer about the background goes with the scene, and not with as much elsewhere, it was heard there. If the answer about the speaker goes with the scene too, the silence itself may disturb the model. Silence elsewhere may take the speaker away, because it covers much of the speech. One clip proves neither. Notebook 08 counts over many.
#
# And here is a clip that the model gets wrong.

# %%
missed = next((clip for clip in test if not told_rightly(clip)), None)
if missed is not None:
    print(f"{missed.id}: in truth {missed.attributes['scene']} and {missed.attributes['gender']}")
    print(*answers_about(audio.read_audio(experiment.corpus.path(missed))).values(), sep="\n")

# %% [markdown]
# Nothing was silenced here, and still an answer is wrong, in the same fluent sentence as a right one. Silencing could show nothing on such a clip, because an answer that was never right cannot go.

# %% [markdown]
# ## What was never asked
#
# The connector was trained on one prompt about the clip, “Paraphrase the description.”. What it should draw out is the language model's own paraphrase of the description: a *self-generated target*. That paraphrase names all six attributes. So the questions at the end ask for nothing that the targets left out. Only the questions are new. Its rival, the *bare-label run*, had the same clips and as many steps. It learned the bare label of the background scene: “rain”, “siren”, … Now both are asked about all six attributes, on voices that were never heard in training.
#
# ### Exercise 0.3 · Make guessing worth nothing · fill in · 5 min
# A question with two options is half right by guessing, one with four a quarter. Put accuracy on a scale where guessing scores 0 and all right scores 1, whatever the number of options.


# %% tags=["exercise"]
def above_chance(accuracy, options):
    ### BEGIN SOLUTION
    chance = 1 / options
    return (accuracy - chance) / (1 - chance)
    ### END SOLUTION


# %%
lesson.check("above_chance", above_chance)

# %% [markdown] tags=["hint"]
# Subtract something so that guessing becomes 0; then divide by what is left of the scale.

# %% [markdown]
# ### Exercise 0.4 · Commit yourself · predict · 3 min
# Two numbers, before you see them. The six attributes are gender, accent, speed, loudness, manner (spoken or whispered) and background scene. A run can *tell* an attribute if its answers about it beat every control. Your *interval score* adds two costs: the width of your range, and ten times the distance by which it misses. Both are measured in widths of the slider: 0 is best, the whole slider scores 1. If you mean the range as it stands, tick its box. It locks when the answer is shown. The card at the end counts how often your ranges held the answer, and gives their mean score.

# %%
lesson.predict(
    "risen_self", "How many of the six attributes can the self-generated run tell?", 0, 6, step=1
)

# %%
lesson.predict(
    "risen_label",
    "How many of the five other attributes can the bare-label run tell?",
    0,
    5,
    step=1,
)

# %% [markdown]
# ## The figure of the course
#
# Height is the score of exercise 0.3: 0 is guessing, 1 is perfect. Each panel is a *rung* of the task ladder, from near the training to far from it. *Rung 0* is the trained prompt itself, rung 1 the same in other words, rung 2 questions that ask for a form (“Answer in JSON.”), *rung 3* the plain questions never trained (*held-out tasks*), rung 4 questions that need one thought more, *rung 5* what no target ever mentioned (the topic of the talk). Two controls are new: *shuffled audio* asks about another speaker's clip, and the *untrained connector* is the one before its first step. Look at the controls before you believe the blue line. The dotted orange line is the bare-label run on the one attribute of its training: of that it has learned as much, in any words. What it did not learn is the dashed orange line. The bands are 95 % intervals over speakers: they say how far other voices could move this run, and nothing about the next seed.

# %%
lesson.lock("risen_self", "risen_label")
table = experiment.score_table()
judged = verdict.judge_claim(table, experiment.preset.label)
rungs = verdict.score_per_rung(
    verdict.split_label_run(verdict.add_untrained(table), experiment.preset.label)
)

# %% [markdown]
# Before the curves their ends: the six plain questions after the last step, one row a condition, on your scale.

# %%
scale = lesson.use("above_chance", above_chance, pieces.correct_for_chance, tensors=False)
ends = table.query("run == 'self' and rung == 3 and step == step.max()")
ends = ends.groupby(["condition", "attribute"])[["calibrated", "chance"]].mean()
ends["score"] = [float(scale(row.calibrated, round(1 / row.chance))) for row in ends.itertuples()]
ends["score"].unstack().round(2)

# %% tags=["headline"]
above = judged.above_controls["self"]
outcome = judged.verdict.replace("_", " ").lower()
headline = (
    f"On questions never trained, {len(above)} of 6 attributes rose above every control "
    f"(seed {experiment.seed}): the claim is {outcome}.\n"
    f"Their mean score is {ends.loc['audio', 'score'].mean():.2f} "
    f"by {lesson.credit_of('above_chance')}"
)
lesson.show(
    claim_figures.plot_emergence(rungs, headline),
    f"Score of every rung along training. {headline}.",
)

# %%
others = set(judged.above_controls["label"]) - {experiment.preset.label}
print(lesson.reveal("risen_self", len(above)))
print(lesson.reveal("risen_label", len(others)))
print(f"By its rule the claim is {judged.verdict}. This was asked, and does it hold?")
judged.tabulate()

# %% [markdown]
# ## What we now know
#
# The verdict is computed from the table by the rule it prints, never written by hand. It says of this run whether a connector that learned one task answers others, and whether the bare label teaches more than itself. It does not say why. The two runs differ in who wrote the targets *and* in how many attributes the targets name. This figure does not pull the two apart.
#
# **What would change our mind**: a bare-label run that rises on attributes it was not trained on, a shuffled-audio control that does as well as the clip, a run on filled-in forms that name all six attributes and does as well, or other seeds that do not repeat it. `desta_lab.setup("00", seed=1)` and `run_quickstart(experiment)` try another seed in a few minutes.
#
# Next: **01**, what the two frozen models bring with them.

# %%
lesson.card()
