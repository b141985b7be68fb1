# %% [markdown]
# # 06 · Probing: what does the adapter know before the model says it?
#
# An attribute can be *present* in the sound. It can be *readable*: a linear probe tells it from the audio embeddings. And it can be *spoken*: the model says it. These are three different things, and only the third is an answer. You read the connector before and after training with a probe of your own. Then you change the embeddings, to find out what the answer really uses.
#
# A probe fools people easily. So half of this notebook is about its controls: other speakers, random labels, and the mistakes that let the answer leak in. Your functions run wherever their checks pass, and the package's run elsewhere. The headline says whose code ran.
#
# *Needs: 00; some NumPy. 36 minutes of exercises, about 25 of reading and running.*

# %%
import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import RidgeCV

import desta_lab
from desta_lab.analysis import interventions, lens, probe_sites, probes
from desta_lab.course.checks import notebook_06 as pieces
from desta_lab.evaluation import conditions, scoring, statistics
from desta_lab.evaluation.evaluate import answer_free_form
from desta_lab.evaluation.tasks import named_values
from desta_lab.views import explanation_figures, replies, representation_figures, style

lesson = desta_lab.setup("06")
experiment = lesson.experiment

# %% [markdown]
# The attribute that is read by hand, the one that is erased, and the number of folds of the cross-validation.

# %%
READ, ERASED, FOLDS = "accent", "gender", 4

# %% [markdown]
# ## Hear a clip, ask twice
#
# `Inside` opens the finished run with clips of speakers whom training never heard. How many test clips does the trained model answer rightly, in its own words? The players hold the first right one of each value.

# %%
look = desta_lab.Inside.from_experiment(experiment)
tested = look.pick(look.scored)
answered = answer_free_form(
    look.llm, [look.task(ERASED)], tested, look.audio_embeddings(look.scored)
)
right, truth = answered["free_form"] == 1, pd.Series(look.values(ERASED, look.scored))
options = look.task(ERASED).options
print({value: f"{right[truth == value].sum()} of {sum(truth == value)}" for value in options})
pair = [tested[(right & (truth == value)).to_numpy().argmax()] for value in options]
desta_lab.show_players(experiment.corpus, pair)

# %% [markdown]
# Ask about these two clips again, with the untrained and with the trained connector. Expect the untrained connector to give the same answer for both, because nobody taught it to tell them apart.

# %%
answers = {"truth": [clip.attributes[ERASED] for clip in pair]}
for name, step in {"untrained": 0, "trained": look.last}.items():
    with replies.use_checkpoint(experiment, step) as llm:
        heard = [replies.embed_audio(llm, replies.read_wave(experiment, clip)) for clip in pair]
        answers[name] = [
            replies.answer_audio(llm, one, look.task(ERASED).question).text for one in heard
        ]
pd.DataFrame(answers)

# %% [markdown]
# ### Exercise 6.1 · Commit yourself · predict · 4 min
# First question: a linear probe reads the accent off the embeddings of a connector that was *never trained*. The speakers are new to it. How often is it right? The accent has three values, so guessing gives 0.33.
#
# Second question: the trained model tells the gender. A clip's embeddings have thousands of dimensions, and now one direction is erased. How often is the answer right then? Guessing gives 0.5.

# %%
lesson.predict(
    "readable",
    f"Accuracy of a probe for the {READ}, untrained connector, unseen speakers?",
    0,
    1,
    step=0.05,
)

# %%
lesson.predict(
    "erased",
    f"Accuracy of the answer about the {ERASED} with one direction erased?",
    0,
    1,
    step=0.05,
)

# %% [markdown]
# ## Capture
#
# The language model is given *audio embeddings*, [clip, query, width]: one vector for each of the connector's *query tokens* (notebook 02). We take them before and after training. For the probe each clip becomes one row: the mean and the standard deviation over its query tokens.

# %% tags=["expensive"]
embeddings = {"untrained": look.sites(0)["audio embeddings"].float()}
embeddings["trained"] = look.sites(look.last)["audio embeddings"].float()
rows = {name: probe_sites.pool_over_time(site).numpy() for name, site in embeddings.items()}
speakers = np.array(look.speakers)
{name: (tuple(embeddings[name].shape), rows[name].shape) for name in rows} | {
    "speakers": len(set(speakers))
}

# %% [markdown]
# ## A split that cannot cheat
#
# A probe is fitted to some clips and tested on others. If a voice is on both sides, the probe may recognise the voice and remember what belongs to it. Make the worst case, to see that this can happen.
#
# ### Exercise 6.2 · Give every voice a print · break · 5 min
# `speakers` is an array [clip] of names. Write `voiceprint(speakers, width, rng)`: an array [clip, width] of normal random numbers, drawn from `rng`. All clips of a speaker have the same numbers, and every speaker has others. Added to the features, such a print tells who speaks, and it tells nothing else.


# %% tags=["exercise"]
def voiceprint(speakers, width, rng):
    ### BEGIN SOLUTION
    names, which = np.unique(speakers, return_inverse=True)
    return rng.normal(size=(len(names), width))[which]
    ### END SOLUTION


# %%
lesson.check("voiceprint", voiceprint)

# %% [markdown] tags=["hint"]
# `names, which = np.unique(speakers, return_inverse=True)`: `which` is the number of every clip's speaker. Draw one row per name. Index the rows with `which`.

# %% [markdown]
# ### Exercise 6.3 · Split by speaker · fill in · 7 min
# Write `folds_by_speaker(speakers, count)`: a list of `count` pairs (training rows, test rows). The rows are arrays of clip numbers. No speaker may be on both sides of a pair. Every clip is tested exactly once. (If you did exercise 1.3, you know this one.)


# %% tags=["exercise"]
def folds_by_speaker(speakers, count):
    ### BEGIN SOLUTION
    names = np.random.default_rng(0).permutation(np.unique(speakers))
    tested = [np.isin(speakers, part) for part in np.array_split(names, count)]
    return [(np.flatnonzero(~test), np.flatnonzero(test)) for test in tested]
    ### END SOLUTION


# %%
lesson.check("folds_by_speaker", folds_by_speaker)

# %% [markdown] tags=["hint"]
# Split the *names* into `count` parts (`np.array_split`). The test rows of a fold are those whose speaker is in its part (`np.isin`). All other rows are training rows.

# %% [markdown]
# Two splits of the real clips. The first is yours. (The package's also spreads genders and accents evenly.) The second is naive: it ignores who speaks.


# %%
strata = [f"{clip.attributes['gender']} {clip.attributes['accent']}" for clip in look.clips]


def even_folds(speakers, count):
    return probes.speaker_folds(list(speakers), strata, count)


split = lesson.use("folds_by_speaker", folds_by_speaker, even_folds, tensors=False)
disjoint = [tuple(map(np.asarray, pair)) for pair in split(speakers, FOLDS)]
mixed = np.array_split(np.random.default_rng(0).permutation(len(speakers)), FOLDS)
naive = [(np.setdiff1d(np.arange(len(speakers)), test), test) for test in mixed]

# %% [markdown]
# ### Exercise 6.4 · Standardise without looking · fill in · 5 min
# *Ridge* is a linear regression that is kept from large weights. A ridge probe needs features of mean 0 and standard deviation 1. `train` and `test` are both [clip, feature]. Write `standardised(train, test)`, which returns both on one scale:
#
# > scaled feature = (feature − μ) / σ
#
# μ is the feature's mean over the training clips, and σ is its standard deviation over the training clips (the squares are divided by their number, as in `np.std`). The test clips use the same two numbers, because the probe may not see them before the test.


# %% tags=["exercise"]
def standardised(train, test):
    ### BEGIN SOLUTION
    mean, std = train.mean(0), train.std(0)
    return (train - mean) / std, (test - mean) / std
    ### END SOLUTION


# %%
lesson.check("standardised", standardised)

# %% [markdown] tags=["hint"]
# Take one mean and one standard deviation per feature (`axis 0`) from `train`. Use them for both.

# %% [markdown]
# ## A probe by hand
#
# The probe standardises the features with your function. Then a ridge regression predicts one number for each value: +1 where the clip has the value, −1 where it has not. The largest prediction is the probe's answer. The penalty of the regression is chosen inside the training clips. The result must agree with `probes.fit_probes`, clip by clip.

# %%
scale = lesson.use("standardised", standardised, pieces.scale_both, tensors=False)


def probe(features, labels, splits):
    right = np.zeros(len(labels))
    for train, test in splits:
        known, asked = scale(features[train], features[test])
        kinds = np.unique(labels[train])
        ridge = RidgeCV(probes.PENALTIES, alpha_per_target=True)
        ridge.fit(known, (labels[train][:, None] == kinds) * 2.0 - 1)
        right[test] = kinds[ridge.predict(asked).argmax(1)] == labels[test]
    return right


# %%
labels = {name: np.array(values) for name, values in look.labels.items()}
by_hand = probe(rows["untrained"], labels[READ], disjoint)
theirs = probes.fit_probes(rows["untrained"], {READ: labels[READ]}, look.speakers, disjoint)
theirs = theirs[theirs["kind"] == "probe"].sort_values("row")["correct"].to_numpy()
torch.testing.assert_close(torch.tensor(by_hand), torch.tensor(theirs))
lesson.lock("readable")  # the next line tells its answer
print(f"{READ}, untrained connector, unseen speakers: {by_hand.mean():.3f} ({lesson.credit})")

# %% [markdown]
# ## What a leak is worth
#
# Toss a coin for every speaker, twenty times, and let the probe learn the coins. They mean nothing, so an honest probe is right in about half of the cases. The naive split may do better, because it can recognise voices. The probe reads the embeddings as they are, and with your voice prints added.

# %%
stamp = lesson.use("voiceprint", voiceprint, pieces.print_voices, tensors=False)
prints = np.asarray(stamp(speakers, rows["untrained"].shape[1], np.random.default_rng(0)))
seen = {"embeddings": rows["untrained"]}
seen["with voice prints"] = rows["untrained"] + rows["untrained"].std(0) * prints
names, which = np.unique(speakers, return_inverse=True)
coins = [np.random.default_rng(seed).integers(2, size=len(names))[which] for seed in range(20)]
splits = {"naive": naive, "by speaker": disjoint}


# %%
def by_split(features, labellings):
    return {
        name: np.mean([probe(features, values, folds) for values in labellings])
        for name, folds in splits.items()
    }


leaks = {name: by_split(features, coins) for name, features in seen.items()}
leaks[f"{READ}, embeddings"] = by_split(rows["untrained"], [labels[READ]])
pd.DataFrame(leaks).round(2)

# %% [markdown]
# With voice prints the naive probe reads coins that do not exist. The first column shows what the naive split gains on the embeddings themselves, the last column for a true attribute. If the gain is small, these synthetic voices leave little trace. You cannot know this before you look, so you split by speaker.
#
# ## Does it read, or does it learn by heart?
#
# A flexible probe can learn by heart. This does not help it on speakers that it never heard. So we train the same probe on *random labels*, of the same kind and number. It shows what a probe scores where there is nothing to read. The difference is called *selectivity* after [Hewitt and Liang (2019)](https://arxiv.org/abs/1909.03368):
#
# > selectivity = accuracy of the probe − accuracy of the same probe on random labels
#
# ### Exercise 6.5 · Probe in three lines · fill in · 3 min
# The package's probe is short to use. `probes.fit_probes(features, {"own": labels}, speakers)` splits by speaker and gives a row per clip and `kind`. `probes.summarise_accuracy` makes of it a row per `kind` with the column `accuracy`. The kinds are `probe`, `random labels` and `majority`. Write `selectivity(features, labels, speakers)`, one number. `features` is [clip, feature], and `labels` is a list of values.


# %% tags=["exercise"]
def selectivity(features, labels, speakers):
    ### BEGIN SOLUTION
    correct = probes.fit_probes(features, {"own": labels}, speakers)
    accuracy = probes.summarise_accuracy(correct).set_index("kind")["accuracy"]
    return accuracy["probe"] - accuracy["random labels"]
    ### END SOLUTION


# %%
lesson.check("selectivity", selectivity)

# %% [markdown] tags=["hint"]
# `probes.summarise_accuracy(…).set_index("kind")["accuracy"]` is a column with an entry for `"probe"` and one for `"random labels"`.

# %% [markdown]
# Your function on every attribute, before and after training. Look at the untrained row. Random weights do not destroy information: they mix the states of a trained encoder.

# %%
read = lesson.use("selectivity", selectivity, pieces.measure_selectivity, tensors=False)
pd.DataFrame(
    {
        attribute: {name: read(x, list(values), look.speakers) for name, x in rows.items()}
        for attribute, values in labels.items()
    }
).round(2)

# %% [markdown]
# How many clips must a probe see? A site that needs fewer clips holds the attribute closer to the surface.

# %%
curves = look.table("learning_curves").replace({"audio embeddings": "embeddings, trained"})
curves = curves.sort_values(
    "attribute", key=lambda names: names.map(list(labels).index), kind="stable"
)
representation_figures.plot_learning_curves(curves, "How many clips a probe needs")

# %% [markdown]
# ## Readable is not used
#
# A probe shows that somebody *could* read an attribute there. Does the language model read it? Only a change can tell: take the information out, and see whether the answer changes.
#
# ### Exercise 6.6 · Erase a direction · fill in · 8 min
# `x` is [clip, d]. `direction` and `center` are [d]. Write `erase(x, direction, center)`. Along `direction`, every clip shall stand where `center` stands. Across it, nothing changes. `direction` may have any length.


# %% tags=["exercise"]
def erase(x, direction, center):
    ### BEGIN SOLUTION
    unit = direction / direction.norm()
    return x - ((x - center) @ unit)[:, None] * unit
    ### END SOLUTION


# %%
lesson.check("erase", erase)

# %% [markdown] tags=["hint"]
# First make the direction one unit long. The inner product of the unit with `x − center` says how far each clip stands from `center` along it. Take this much away.

# %% [markdown]
# The direction is the mean embedding of one value minus the mean embedding of the other, over all query tokens at once. It is learned on clips of the validation speakers (`look.calibration`). Two controls lose a direction too. The first is a random direction. The second is learned from random labels, one label for each speaker. It is the harder control, because it points where voices differ.


# %%
def between(values):
    first = np.unique(values)[0]
    known = flat[look.calibration]
    is_first = torch.tensor(values[look.calibration] == first)
    return known[is_first].mean(0) - known[~is_first].mean(0)


flat = embeddings["trained"].flatten(1)
center = flat[look.calibration].mean(0)
random = torch.randn(flat.shape[1], generator=torch.Generator().manual_seed(0))
directions = {"nothing": None, "the attribute": between(labels[ERASED]), "random": random}
for draw in range(5):
    directions[f"random labels {draw}"] = between(
        probes.draw_labels(labels[ERASED], speakers, seed=draw)
    )

# %% [markdown]
# The model is asked about the test speakers, on whom no direction was learned. The ranking is *calibrated* (notebook 05): how much the model likes each option of any clip is taken away. The clips that calibrate it lose the same direction.

# %% tags=["slow"]
take_out = lesson.use("erase", erase, pieces.erase_along)
task, tested = look.task(ERASED), look.scored[::2]
used = [*look.calibration[::3], *tested]
count = len(used) - len(tested)
correct = {}
for name, direction in directions.items():
    x = flat[used] if direction is None else take_out(flat[used], direction, center)
    with torch.no_grad():
        (scores,) = scoring.score_options(
            look.llm, [task], x.unflatten(1, embeddings["trained"].shape[1:])
        )
    chosen = (scores[count:] - scores[:count].mean(0)).argmax(1).numpy()
    correct[name] = np.array(list(task.options))[chosen] == labels[ERASED][tested]

# %%
erasing = pd.DataFrame(correct).astype(float).assign(speaker=speakers[tested])
erasing = erasing.melt("speaker", var_name="erased", value_name="correct")
erasing["erased"] = erasing["erased"].str.rstrip(" 0123456789")
erased = statistics.bootstrap_intervals(erasing, "correct", ["erased"])
print(lesson.reveal("erased", erased["the attribute",][0]))
pd.DataFrame(
    {key[0]: value for key, value in erased.items()}, index=["accuracy", "low", "high"]
).T.round(2)

# %% [markdown]
# Compare both controls with the attribute's own direction. One random direction among thousands should hit nothing. Random labels may cost a lot. The direction was learned from few speakers, so a draw may part women from men by luck. Then its direction is close to that of the gender. The cosines show how close.

# %%
one = directions["the attribute"]
cosine = {
    name: abs(torch.cosine_similarity(one, d, dim=0).item())
    for name, d in directions.items()
    if d is not None
}
pd.Series(cosine).to_frame("|cosine| with the attribute's direction").round(2)

# %% [markdown]
# A difference of means is a blunt knife. LEACE ([Belrose et al., 2023](https://arxiv.org/abs/2306.03819)) is a sharper one. It changes the embeddings as little as possible, so that no linear probe can tell the attribute on the clips that it learned from. Here it has fewer clips than dimensions, so it reaches this goal only nearly. LEACE learned on other speakers than those asked about. The run's table has it for every attribute. The control takes out as many directions that were learned from random labels. Expect a change on the diagonal of the left map, where the attribute asked about is the one erased, and nowhere else.

# %%
explanation_figures.plot_erasure(
    look.table("erasure"), "What the answer uses: the change of accuracy when directions are erased"
)

# %% [markdown]
# ## Where it sits
#
# Erasing says *whether* the answer uses an attribute. Patching says *where* the attribute sits. One query token of clip A is put into clip B. If it carries the attribute, the model may now answer about B as it does about A. The run's table names the pair of attribute and query token that moves most. It is the best of all, so its number is a little too good.

# %%
moved = look.table("patching")
best = moved[moved["query"] >= 0].sort_values("moved").iloc[-1]
best[["attribute", "query", "word", "moved", "low", "high"]].to_frame("moves most")

# %%
asked, query = look.task(best["attribute"]), int(best["query"])
values = labels[best["attribute"]]
value_a, value_b = list(asked.options)[:2]
every = ([i for i in look.scored if values[i] == v] for v in (value_a, value_b))
of_a, of_b = map(list, zip(*list(zip(*every, strict=False))[:16], strict=True))
whole = {f"clip A ({value_a})": look.audio_embeddings(of_a)}
whole[f"clip B ({value_b})"] = look.audio_embeddings(of_b)
for place in (query, (query + 1) % embeddings["trained"].shape[1]):
    mixed = look.audio_embeddings(of_b)
    mixed[:, place] = look.audio_embeddings(of_a)[:, place]
    whole[f"B with A's query {place}"] = mixed

# %% [markdown]
# An answer *flips* if it names B's value before the patch and A's value after it. Of 16 pairs, how many flip? The first that does is printed. The next query token is the control.

# %%
said = {
    name: answer_free_form(look.llm, [asked], look.pick(of_b), x)["answer"]
    for name, x in whole.items()
}
named = {name: [named_values(asked, text) for text in texts] for name, texts in said.items()}
_, before, *after = named
flips = {
    name: [pair == ({value_b}, {value_a}) for pair in zip(named[before], named[name], strict=True)]
    for name in after
}
print({name: f"{sum(flipped)} of {len(flipped)} pairs flip" for name, flipped in flips.items()})
one = int(np.argmax(flips[after[0]]))
a, b = of_a[one], of_b[one]
pd.Series({name: texts[one] for name, texts in said.items()}).to_frame("answer")

# %% [markdown]
# ### Exercise 6.7 · Patch a site · fill in · 4 min
# `llm.run(clips, question, sites=[…], edits={…})` records what flows at sites, and it edits what flows. `llm.run(…)[site]` is what flowed at a site, and `llm.run(…).logits` are the logits. `llm.sites()` lists the names of the sites. An edit is a function of what flows, and `interventions.set_to(value)` puts a value in its place. With `stem=task.stem` the answer is begun (“The speaker is”), so that the next word is the value.
#
# Write `patched(llm, a, b, task, site)`: run clip `b` while at `site` flows what flowed there in clip `a`. Return the `logits` of this run. `a` and `b` are waveforms, and both runs ask `task.question` with `task.stem`.


# %% tags=["exercise"]
def patched(llm, a, b, task, site):
    ### BEGIN SOLUTION
    given = llm.run([a], task.question, stem=task.stem, sites=[site])[site]
    edits = {site: interventions.set_to(given)}
    return llm.run([b], task.question, stem=task.stem, edits=edits).logits
    ### END SOLUTION


# %%
lesson.check("patched", patched)

# %% [markdown] tags=["hint"]
# `llm.run([a], …, sites=[site])[site]` is what flowed in clip a. In the second run, `edits` has `site` as its key.

# %% [markdown]
# The *lean* is the logit of A's value minus the logit of B's value. If all audio embeddings are patched, the lean of clip B must be that of clip A. Below, one part of one layer of the language model is patched at a time. 0 leaves the answer where clip B had it, and 1 moves it all the way to clip A's.

# %%
swap = lesson.use("patched", patched, pieces.patch_flow)
waves, first = look.read_waves([a, b]), lens.first_option_tokens(look.llm, asked)
toward, away = (first[list(asked.options).index(values[row])] for row in (a, b))


def lean(given, into, site):
    logits = swap(look.llm, given, into, asked, site)[0]
    return float(logits[toward] - logits[away])


of_a, of_b = (lean(wave, wave, "audio_embeddings") for wave in waves)
whole = lean(*waves, "audio_embeddings")
torch.testing.assert_close(whole, of_a, rtol=1e-3, atol=1e-3)
print(f"lean of clip B {of_b:.1f}, of clip A {of_a:.1f}, of B with A's embeddings {whole:.1f}")

# %%
layers = range(len(look.llm.backbone.model.get_decoder().layers))
moved = {
    f"layer {i}": {
        part: (lean(*waves, f"backbone.{i}.{part}") - of_b) / (of_a - of_b)
        for part in ("attention", "mlp")
    }
    for i in layers
}
pd.DataFrame(moved).round(2)

# %% [markdown]
# Which layer's attention fetches the value for the answer? Which network then makes the word of it? The parts do not sum to 1, because a later layer works on what an earlier one has changed. `interventions.patch_sites` does the same for many pairs, beside a null.

# %% [markdown]
# ## Present, readable, spoken
#
# Now the figure. The left panel shows what your probe reads: off the log-mel spectrogram, and off the embeddings of the untrained and of the trained connector. Its control, random labels, comes from the run's table, so your probe is tested on the folds of that table. The right panel shows what the model says about the same clips of unseen speakers. Its control is shuffled audio.


# %%
def read_all(features, **cell):
    folds = even_folds(speakers, FOLDS)
    tables = [
        pd.DataFrame(
            {
                "attribute": attribute,
                "speaker": speakers,
                "correct": probe(features, values, folds),
                "chance": pd.Series(values).value_counts(normalize=True).max(),
            }
        )
        for attribute, values in labels.items()
    ]
    return probes.summarise_accuracy(pd.concat(tables), ["attribute"]).assign(**cell)


# %%
sound = look.fixed_sites()["log-mel"].float().numpy()
steps = {"untrained": 0, "trained": look.last}
null = look.table("probes").query("site == 'audio embeddings' and kind == 'random labels'")
null = null[null["step"].isin(steps.values())].assign(series="random labels")
own = [read_all(rows[name], series=name, step=step) for name, step in steps.items()]
readable = pd.concat([read_all(sound, series="log-mel", step=0), null, *own])
readable = readable.assign(part="readable")

# %%
answered = look.table("answers")
answered = answered[answered["step"].isin([0, look.last])].assign(part="spoken")
answered["series"] = np.where(answered["step"] == 0, "untrained", "trained")

# %% [markdown]
# Shuffled audio: the same scores, but every clip is judged by the truth of another speaker's clip.

# %%
scores = [look.sites(look.last)[f"scores {task.name}"].float() for task in look.tasks]
swap = [look.scored[i] for i in conditions.shuffled_partners([look.clips[i] for i in look.scored])]
shuffled = scoring.judge_scores(
    look.llm.backbone.tokenizer,
    look.tasks,
    [look.clips[i] for i in look.scored],
    [score[swap] for score in scores],
    look.calibrate(scores, look.last),
).rename(columns={"calibrated": "correct"})
shuffled = probes.summarise_accuracy(shuffled, ["attribute"]).assign(
    part="spoken", series="shuffled", step=look.last
)

# %% [markdown]
# An attribute counts as *read* if its interval lies above the interval of random labels at the same step. It counts as *said* if its interval lies above the interval of shuffled audio.

# %%
columns = ["part", "series", "attribute", "step", "accuracy", "low", "high", "chance"]
final = pd.concat([readable, answered, shuffled], ignore_index=True)[columns]
ends = final.set_index(["part", "series", "step", "attribute"]).sort_index()
clear = {}
for series, step in (("untrained", 0), ("trained", look.last)):
    null = {"readable": ("random labels", step), "spoken": ("shuffled", look.last)}
    for part in null:
        above = ends.loc[(part, series, step), "low"] > ends.loc[(part, *null[part]), "high"]
        clear[part, series] = int(above.sum())
headline = (
    f"Untrained: a probe reads {clear['readable', 'untrained']} of {len(labels)} attributes, "
    "the model says "
    f"{clear['spoken', 'untrained']}. Trained: it reads {clear['readable', 'trained']}, the "
    f"model says {clear['spoken', 'trained']} (seed {experiment.seed}). "
    f"Probe by {lesson.credit_of('standardised')}"
)


# %%
ALIKE = {"trained": "self", "random labels": "shuffled"}  # drawn as these are everywhere


def panel(axes, part, names):
    rows = final[final["part"] == part]
    order = list(labels)
    for (series, label), shift in zip(
        names.items(), np.linspace(0.27, -0.27, len(names)), strict=True
    ):
        some = rows[rows["series"] == series]
        reach = np.clip([some["accuracy"] - some["low"], some["high"] - some["accuracy"]], 0, None)
        places = some["attribute"].map(order.index) + shift
        look = style.marker_style(ALIKE.get(series, series))
        if series == "log-mel":
            look["marker"] = "s"  # another shape than the trained connector's, for grey pages
        axes.errorbar(some["accuracy"], places, xerr=reach, label=label, **look)
    for place, name in enumerate(order):
        chance = rows.loc[rows["attribute"] == name, "chance"].iloc[0]
        axes.plot([chance] * 2, [place - 0.45, place + 0.45], color="#707070", ls=":", lw=1.2)
    axes.set_yticks(range(len(order)), order)
    axes.set(ylim=(len(order) - 0.5, -0.5), xlim=(0, 1.02), xlabel="accuracy (dotted: chance)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)


# %%
READABLE = {
    "log-mel": "log-mel spectrogram",
    "random labels": "random labels (both)",
    "untrained": "embeddings, untrained",
    "trained": "embeddings, trained",
}
SPOKEN = {
    "shuffled": "shuffled audio, trained",
    "untrained": "untrained connector",
    "trained": "trained connector",
}

# %% tags=["headline"]
picture, (left, right) = style.subplots(1, 2, headline, (10.0, 5.6), sharey=True)
panel(left, "readable", READABLE)
panel(right, "spoken", SPOKEN)
left.set_title("readable: a linear probe on unseen speakers", loc="left")
right.set_title("spoken: the model's calibrated answer", loc="left")
lesson.show(
    picture,
    f"Accuracy per attribute of a probe and of the model, untrained and trained. {headline}.",
    final,
)

# %%
print(lesson.reveal("readable", ends.loc[("readable", "untrained", 0, READ), "accuracy"]))

# %% [markdown]
# ## What we now know
#
# The left panel says what could be known, and the right panel says what is told. Some attributes are readable before training and said only after it. For them, training did not bring the information. It made the information usable for the frozen language model.
#
# The probes alone do not show that the answer uses what they read. Erasing and patching do. Compare the log-mel row, too. What a probe reads off the spectrogram is no merit of any model.
#
# **What would change our mind**: an attribute that no probe reads before training and that the model says after it. A control direction that costs as much as the attribute's own. Or the voices of people, which may leave stronger prints than these voices. All intervals are over speakers, of one run.
#
# Next: **07**, the shape of what the connector puts out: maps, and what a map can show.

# %%
lesson.card()
