# %% [markdown]
# # 06 · Probing: what does the adapter know before the model says it?
#
# An attribute can be *present* in the sound, *readable* off the audio embeddings by a linear probe, and *spoken* by the model. These are three things, and only the third is an answer. Here you take the connector untrained and trained, read both with a probe that you write yourself, and then change the embeddings to find out what the answer really uses.
#
# A probe is easy to fool and easy to be fooled by. So half of this notebook is about its controls: other speakers, random labels, and the mistakes that let the answer leak in.
#
# *Needs: 00; some NumPy. 42 minutes of exercises; reading and running take about as long again.*

# %%
import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import RidgeCV

import desta_lab
from desta_lab.analysis import capture, interventions, probes
from desta_lab.evaluation import conditions, scoring, statistics
from desta_lab.views import explanation_figures, replies, representation_figures, style

lesson = desta_lab.setup("06")
experiment = lesson.experiment

# %% [markdown]
# The constants of this notebook: the attribute that is read by hand, the one that is erased, and the folds of the cross-validation.

# %%
READ, ERASED, FOLDS = "accent", "gender", 4

# %% [markdown]
# ## Hear a clip, ask twice
#
# `Inside` opens the finished run with clips of speakers whom training never heard. Two of them, and what the model answers about them with the untrained and with the trained connector. Expect the untrained one to say the same of every clip: nothing tells it what it hears.

# %%
look = desta_lab.Inside.from_experiment(experiment)
pair = [
    next(c for c in look.clips if c.attributes[ERASED] == value)
    for value in look.task(ERASED).options
]
desta_lab.show_players(experiment.corpus, pair)

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
# The accent has three values, so guessing gives 0.33. How often is a linear probe right that reads the embeddings of a connector that was *never trained*, on unseen speakers? And after training: the model tells the gender; now one direction, of all the thousands of dimensions of a clip's embeddings, is taken out. How often is its answer right then (guessing: 0.5)?

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
# The *audio embeddings* of every clip, [clip, query, width], as the language model is given them, at both ends of training: one vector for each of the connector's *query tokens* (notebook 02). To read them, each clip becomes one row: mean and standard deviation over its query tokens.

# %% tags=["expensive"]
embeddings = {"untrained": look.sites(0)["audio embeddings"].float()}
embeddings["trained"] = look.sites(look.last)["audio embeddings"].float()
rows = {name: capture.pool_over_time(site).numpy() for name, site in embeddings.items()}
speakers = np.array(look.speakers)
{name: (tuple(embeddings[name].shape), rows[name].shape) for name in rows} | {
    "speakers": len(set(speakers))
}

# %% [markdown]
# ## A split that cannot cheat
#
# A probe is fitted to some clips and tested on others. If a voice is on both sides, the probe may recognise the voice and remember what belongs to it. To see whether that can happen, make it as bad as it can be.
#
# ### Exercise 6.2 · Give every voice a print · break · 5 min
# `speakers` is an array [clip] of names. Return an array [clip, width] of normal random numbers, drawn from `rng`, that is the same for all clips of a speaker and different between speakers. Added to the features, it is a voice that anybody can recognise, and says nothing else.


# %% tags=["exercise"]
def voiceprint(speakers, width, rng):
    ### BEGIN SOLUTION
    names, which = np.unique(speakers, return_inverse=True)
    return rng.normal(size=(len(names), width))[which]
    ### END SOLUTION


# %%
lesson.check("voiceprint", voiceprint)

# %% [markdown] tags=["hint"]
# `names, which = np.unique(speakers, return_inverse=True)`: `which` has the number of every clip's speaker. Draw one row per name and index it with `which`.

# %% [markdown]
# ### Exercise 6.3 · Split by speaker · fill in · 7 min
# Again `speakers` is [clip]. (If you did exercise 1.4, you know this one.) Return a list of `count` pairs (training rows, test rows), arrays of clip numbers. No speaker may be on both sides of a pair, and every clip is tested exactly once.


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
# Split the *names* into `count` parts (`np.array_split`). The test rows of a fold are those whose speaker is in its part (`np.isin`), the training rows all others.

# %% [markdown]
# From here on we use the package's `probes.folds`, which does the same and also spreads genders and accents evenly. The naive split beside it ignores who speaks.

# %%
strata = [f"{clip.attributes['gender']} {clip.attributes['accent']}" for clip in look.clips]
disjoint = probes.speaker_folds(look.speakers, strata, FOLDS)
mixed = np.array_split(np.random.default_rng(0).permutation(len(speakers)), FOLDS)
naive = [(np.setdiff1d(np.arange(len(speakers)), test), test) for test in mixed]

# %% [markdown]
# ### Exercise 6.4 · Standardise without looking · fill in · 5 min
# A ridge probe wants features of mean 0 and standard deviation 1. Return `train` and `test`, both [clip, feature], on one scale: for each feature a mean and a standard deviation, which are learned from the training clips alone; nobody who is tested may have been seen.


# %% tags=["exercise"]
def standardised(train, test):
    ### BEGIN SOLUTION
    mean, std = train.mean(0), train.std(0)
    return (train - mean) / std, (test - mean) / std
    ### END SOLUTION


# %%
lesson.check("standardised", standardised)

# %% [markdown] tags=["hint"]
# One mean and one standard deviation per feature (`axis 0`), from `train`, used for both.

# %% [markdown]
# ## A probe by hand
#
# Standardise, regress on one indicator per value (ridge, its penalty chosen inside the training clips), and take the largest. By hand in eight lines, then against `probes.probe`, clip by clip.


# %%
def probe(features, labels, splits):
    right = np.zeros(len(labels))
    for train, test in splits:
        mean, std = features[train].mean(0), features[train].std(0)
        kinds = np.unique(labels[train])
        ridge = RidgeCV(probes.PENALTIES, alpha_per_target=True)
        ridge.fit((features[train] - mean) / std, (labels[train][:, None] == kinds) * 2.0 - 1)
        right[test] = kinds[ridge.predict((features[test] - mean) / std).argmax(1)] == labels[test]
    return right


# %%
labels = {name: np.array(values) for name, values in look.labels.items()}
by_hand = probe(rows["untrained"], labels[READ], disjoint)
theirs = probes.fit_probes(rows["untrained"], {READ: labels[READ]}, look.speakers, disjoint)
theirs = theirs[theirs["kind"] == "probe"].sort_values("row")["correct"].to_numpy()
torch.testing.assert_close(torch.tensor(by_hand), torch.tensor(theirs))
print(f"{READ}, untrained connector, unseen speakers: {by_hand.mean():.3f}")

# %% [markdown]
# ## What a leak is worth
#
# Toss a coin for every speaker. The labels mean nothing, so an honest probe is right in about half of the cases; the naive split may do better, by recognising voices. Twenty tosses, on the embeddings as they are, and with the voice prints.

# %%
names, which = np.unique(speakers, return_inverse=True)
prints = np.random.default_rng(0).normal(size=(len(names), rows["untrained"].shape[1]))
seen = {"embeddings": rows["untrained"]}
seen["with voice prints"] = rows["untrained"] + rows["untrained"].std(0) * prints[which]
coins = [np.random.default_rng(seed).integers(2, size=len(names))[which] for seed in range(20)]
splits = {"naive": naive, "by speaker": disjoint}

# %%
pd.DataFrame(
    {
        name: {
            split: np.mean([probe(features, coin, folds) for coin in coins])
            for split, folds in splits.items()
        }
        for name, features in seen.items()
    }
    | {
        f"{READ}, embeddings": {
            split: probe(rows["untrained"], labels[READ], folds).mean()
            for split, folds in splits.items()
        }
    }
).round(2)

# %% [markdown]
# With voice prints the naive probe reads coins that do not exist. What the naive split gains on the embeddings themselves stands in the first column, and on a true attribute in the last. If that is little, these synthetic voices leave little trace; you cannot know it before you have looked, so you split by speaker.
#
# ## Does it read, or does it learn by heart?
#
# A flexible probe can also learn by heart. On speakers it never heard that does not help, so the same probe on *random labels*, of the same kind and number, says what is scored where there is nothing to read. Probe minus random labels is called *selectivity* after [Hewitt and Liang (2019)](https://arxiv.org/abs/1909.03368); their control task, with the same words on both sides, is the stricter one: it can be learned by heart, and so measures how much the probe does.

# %%
measured = probes.summarise_accuracy(
    probes.fit_probes(rows["untrained"], labels, look.speakers, disjoint)
)
wide = measured.pivot(index="attribute", columns="kind", values="accuracy")
wide.assign(selectivity=wide["probe"] - wide["random labels"]).round(2)

# %% [markdown]
# ### Exercise 6.5 · Probe in three lines · fill in · 3 min
# That was the package's probe, and it is short to use. Write `selectivity(features, labels, speakers)`: `features` is [clip, feature], `labels` a list of values. `probes.fit_probes` takes a dictionary of labels by attribute and gives a row per clip and `kind`, `probes.summarise_accuracy` a row per kind. Return the accuracy of the probe minus that of random labels, one number.


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
# These are the embeddings of a connector that was never trained. Random weights need not destroy information: they mix it, and what they mix are the states of a trained encoder.
#
# How many clips must a probe see? The same question for the spectrogram, for the last tapped layer, and for the trained connector's embeddings. What needs fewer clips lies closer to the surface.

# %%
representation_figures.plot_learning_curves(
    look.table("learning_curves"), "How many clips a probe needs"
)

# %% [markdown]
# ### Exercise 6.6 · Show the probe less · tweak · 6 min
# The probe above reads hundreds of numbers of every clip. Write `less(embeddings)`: from [clip, query, width] make [clip, at most 32], out of each clip's own embeddings only. Try single query tokens, means, differences, and watch which attribute goes first.


# %% tags=["exercise"]
def less(embeddings):
    ### BEGIN SOLUTION
    return embeddings.mean(1)[:, :32]
    ### END SOLUTION


# %%
lesson.check("less", less)

# %% [markdown] tags=["hint"]
# `embeddings[:, 3, :32]` is the beginning of query token 3; `embeddings.mean(1)` is the mean over the query tokens.

# %%
few = {name: less(site) for name, site in embeddings.items()}
few = {
    name: site if some is None else some
    for (name, site), some in zip(rows.items(), few.values(), strict=True)
}
pd.DataFrame(
    {
        name: {a: probe(np.asarray(some), values, disjoint).mean() for a, values in labels.items()}
        for name, some in few.items()
    }
).round(2)

# %% [markdown]
# ## Readable is not used
#
# A probe shows that somebody *could* read an attribute there. Whether the language model does is another question, and only a change can answer it: take the information out, and see whether the answer goes.
#
# ### Exercise 6.7 · Erase a direction · fill in · 8 min
# `x` is [clip, d], `direction` and `center` are [d]. Return `x` without what it has along `direction`, measured from `center`: afterwards every clip has there what `center` has. `direction` comes in any length.


# %% tags=["exercise"]
def erase(x, direction, center):
    ### BEGIN SOLUTION
    unit = direction / direction.norm()
    return x - ((x - center) @ unit)[:, None] * unit
    ### END SOLUTION


# %%
lesson.check("erase", erase)

# %% [markdown] tags=["hint"]
# Make the direction one unit long first. An inner product with it says how far each clip stands from `center` along it; take that much of it away.

# %% [markdown]
# The direction is learned on clips of the validation speakers (`look.calibration`, which also calibrate the ranking): the mean embedding of one value minus that of the other, over all query tokens at once. Two controls lose a direction too: a random one, and one learned from random labels, one drawn for each speaker, which is the harder control, since it points where voices differ.


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
# The model is asked about the test speakers, none of whom the direction was learned on; the clips that calibrate lose the same direction.

# %% tags=["expensive"]
task, tested = look.task(ERASED), look.scored[::2]
used = [*look.calibration[::3], *tested]
count = len(used) - len(tested)
correct = {}
for name, direction in directions.items():
    x = flat[used]
    if direction is not None:
        unit = direction / direction.norm()
        x = x - ((x - center) @ unit)[:, None] * unit
    with torch.no_grad():
        (scores,) = scoring.score_options(
            look.llm, [task], x.unflatten(1, embeddings["trained"].shape[1:])
        )
    chosen = (scores[count:] - scores[:count].mean(0)).argmax(1).numpy()
    correct[name] = np.array(list(task.options))[chosen] == labels[ERASED][tested]

# %%
erasing = pd.concat(
    [
        pd.DataFrame(
            {
                "erased": name.rstrip(" 0123456789"),
                "correct": right * 1.0,
                "speaker": speakers[tested],
            }
        )
        for name, right in correct.items()
    ]
)
erased = statistics.bootstrap_intervals(erasing, "correct", ["erased"])
pd.DataFrame(
    {key[0]: value for key, value in erased.items()}, index=["accuracy", "low", "high"]
).T.round(2)

# %% [markdown]
# Read both controls against the attribute's own direction. A random direction among thousands should hit nothing. Random labels may cost a lot: they seldom split a few speakers evenly, and then the difference of their means points along what tells voices apart best. How nearly the directions are the same says so:

# %%
one = directions["the attribute"]
cosine = {
    name: abs(torch.cosine_similarity(one, d, dim=0).item())
    for name, d in directions.items()
    if d is not None
}
pd.Series(cosine, name="|cosine| with the attribute's direction").round(2)

# %% [markdown]
# So a difference of means is a blunt knife. LEACE ([Belrose et al., 2023](https://arxiv.org/abs/2306.03819)) takes out the least after which no linear probe can tell the attribute of the clips it learned on; with fewer clips than dimensions it is shrunk, and comes near to that only. The run's table has it for every attribute, with as many directions of random labels as its control. Expect a fall on the diagonal of the left map, where the attribute asked about is the one erased, and nowhere else. (It learned on other speakers than those that are asked about.)

# %%
explanation_figures.plot_erasure(
    look.table("erasure"), "What the answer uses: the fall of accuracy when a direction is erased"
)

# %% [markdown]
# ## Where it sits
#
# Erasing says *whether*; patching says *where*. One query token of clip A is put into clip B. If it carries the attribute, B is now answered as A. The table of the run names the pair of attribute and query token that moves most: the best of all pairs, so its number flatters a little.

# %%
moved = look.table("patching")
best = moved[moved["query"] >= 0].sort_values("moved").iloc[-1]
best[["attribute", "query", "word", "moved", "low", "high"]]

# %%
asked, query = look.task(best["attribute"]), int(best["query"])
values = labels[best["attribute"]]
a, b = (next(i for i in look.scored if values[i] == value) for value in list(asked.options)[:2])
mixes = {f"clip B ({values[b]})": b, f"clip A ({values[a]})": a}
whole = {name: look.audio_embeddings([row]) for name, row in mixes.items()}
for place in (query, (query + 1) % embeddings["trained"].shape[1]):
    whole[f"B with A's query {place}"] = look.audio_embeddings([b])
    whole[f"B with A's query {place}"][0, place] = look.audio_embeddings([a])[0, place]
pd.Series(
    {name: replies.answer_audio(look.llm, one, asked.question).text for name, one in whole.items()}
)

# %% [markdown]
# ### Exercise 6.8 · Patch a site · fill in · 4 min
# `llm.run(clips, question, sites=[…], edits={…})` records what flows at sites, by name (`llm.sites()` lists them), and edits it: an edit is a function of what flows, and `interventions.set_to(value)` puts a value in its place. Write `patched(llm, a, b, question, site)`: the `logits` after clip `b`, a waveform, when at `site` flows what flowed there in clip `a`.


# %% tags=["exercise"]
def patched(llm, a, b, question, site):
    ### BEGIN SOLUTION
    given = llm.run([a], question, sites=[site])[site]
    edits = {site: interventions.set_to(given)}
    return llm.run([b], question, edits=edits).logits
    ### END SOLUTION


# %%
lesson.check("patched", patched)

# %% [markdown] tags=["hint"]
# `llm.run([a], question, sites=[site])[site]` is what flowed in clip a. In the second run, `edits` has `site` as its key.

# %% [markdown]
# If all audio embeddings are patched, clip B must be answered as clip A, to the last digit.

# %%
waves = look.read_waves([a, b])
whole_patch = patched(look.llm, *waves, asked.question, "audio_embeddings")
if whole_patch is not None:
    alone = look.llm.run(waves[:1], asked.question, sites=[]).logits
    torch.testing.assert_close(whole_patch, alone, rtol=1e-3, atol=1e-3)

# %% [markdown]
# ## Present, readable, spoken
#
# Now the figure. Left, what a probe reads: off the log-mel spectrogram, off the embeddings of the untrained and of the trained connector, and of random labels. Right, what the model says, with shuffled audio as its control, asked of the same clips of unseen speakers.

# %%
picked = [
    ("log-mel", "log-mel", "probe", 0),
    ("random labels", "audio embeddings", "random labels", 0),
    ("random labels", "audio embeddings", "random labels", look.last),
    ("untrained", "audio embeddings", "probe", 0),
    ("trained", "audio embeddings", "probe", look.last),
]
readable = pd.concat(
    [
        look.table("probes")
        .query("site == @site and kind == @kind and step == @step")
        .assign(part="readable", series=name)
        for name, site, kind, step in picked
    ]
)

# %%
answered = look.table("answers")
answered = answered[answered["step"].isin([0, look.last])].assign(part="spoken")
answered["series"] = np.where(answered["step"] == 0, "untrained", "trained")

# %% [markdown]
# The same scores, with every clip judged by another speaker's truth:

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
# An attribute counts as *read* when the lower end of its interval is above the upper end of the random labels' at the same step, and as *said* when it is above that of shuffled audio.

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
    f"model says {clear['spoken', 'trained']}"
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
        axes.errorbar(
            some["accuracy"],
            places,
            xerr=reach,
            label=label,
            **style.marker_style(ALIKE.get(series, series)),
        )
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
print(lesson.reveal("erased", erased["the attribute",][0]))

# %% [markdown]
# ## What we now know
#
# The left panel says what could be known, the right one what is told. Where an attribute is readable before training and said only after it, training did not bring the information: it made it usable to the frozen language model. Erasing and patching, which change the embeddings, say whether the answer uses it there, and in which query tokens; the probes alone do not. Compare log-mel: what a probe reads off the spectrogram is no merit of any model.
#
# **What would change our mind**: an attribute that no probe reads before training and the model says after it; a control direction that costs as much as the attribute's own; or human voices, whose prints are not as faint as these.
#
# All intervals are over speakers, of one run.
#
# Next: **07**, the shape of what the connector says: maps, and what they may be read for.

# %%
lesson.card()
