# %% [markdown]
# # 01 · Two frozen models: what do they bring with them?
#
# Nothing changes a weight of Whisper or of the language model, until notebook 09 tries it on purpose. So the two must bring all that a connector can ever use: one must hold the sound, the other must be able to answer from embeddings that are not words.
#
# You will open Whisper layer by layer and ask what a linear *probe* (a linear classifier, trained on the layer's numbers) can read there, on voices it has never heard. Then you will feed the language model embeddings by hand: those of words, mixtures of two words, and noise.
#
# *Needs: PyTorch, notebook 00. 30 minutes of exercises, about 26 of reading and running.*

# %%
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from sklearn.linear_model import RidgeClassifierCV
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import WhisperModel

import desta_lab
from desta_lab import audio
from desta_lab.analysis import probe_sites, probes
from desta_lab.clips import balance_speakers
from desta_lab.course.checks import notebook_01 as pieces
from desta_lab.evaluation import scoring, statistics
from desta_lab.model import chat, weights
from desta_lab.views import style
from desta_lab.views.style import PALETTE, Series

lesson = desta_lab.setup("01")
experiment = lesson.experiment

# %% [markdown]
# ### Exercise 1.1 · Commit yourself · predict · 4 min
# Three numbers before you have seen anything. A *tapped layer* is an encoder layer whose output we read; the first layer has number 0. The *accent* is one of three. The coin is tossed once for each speaker, and has nothing to do with the sound. A *mixture* of two words is `(1 - share) * one + share * other`, as embeddings.

# %%
taps = experiment.llm.encoder.taps
lesson.predict(
    "best_layer", "At which tapped layer can the accent be read best?", taps[0], taps[-1], step=1
)

# %%
question = (
    "A coin is tossed for each speaker. How often does a probe that has heard the speaker say "
    "which side it fell on?"
)
lesson.predict("leak", question, 0, 1)

# %%
lesson.predict(
    "flip", "How much “male” must be mixed into “female” before the answer changes?", 0, 1
)

# %% [markdown]
# ## What Whisper's layers hold
#
# One clip first. The encoder turns a log-mel spectrogram of 100 frames a second into 50 states a second. It does so in layers. We *tap* some of them, counted from 0.

# %%
clip = experiment.clips("test")[0]
desta_lab.show_players(experiment.corpus, [clip])

# %%
wave = audio.read_audio(experiment.corpus.path(clip))
whisper = experiment.llm.encoder.whisper
mel = audio.log_mel([wave], experiment.preset.seconds, experiment.llm.encoder.mel_bins).to(
    whisper.conv1.weight
)
states = experiment.llm.encoder.encode([wave])
print("log-mel:", tuple(mel.shape), "  states (layer, clip, frame, width):", tuple(states.shape))

# %% [markdown]
# Here they are, each dimension scaled to its own spread. Speech and background are plain to see in the spectrogram. The slow waves in layer 0 are no sound. They are Whisper's table of positions, which tells a frame when it is. Further up we see nothing that we could name.

# %%
picture, axes = style.subplots(
    1, 1 + len(taps), "One clip, from the spectrogram to the last tapped layer", (11, 2.6)
)
rows = [mel[0].T, *states[:, 0]]
for ax, seen, name in zip(axes, rows, ["log-mel", *(f"layer {tap}" for tap in taps)], strict=True):
    seen = (seen.float() - seen.float().mean(0)) / (seen.float().std(0) + 1e-6)
    extent = (0, experiment.preset.seconds, 0, seen.shape[1])
    ax.imshow(
        seen.T.cpu(), aspect="auto", origin="lower", cmap="Greys", vmin=-2, vmax=2, extent=extent
    )
    ax.set(title=name, xlabel="time (s)", ylabel="band" if name == "log-mel" else "dimension")
picture

# %% [markdown]
# ### The trap in `hidden_states`
#
# The library (`transformers`) returns one tensor more than there are layers: `hidden_states[i + 1]` is what layer `i` puts out. We compare each with the package's tap, which is read by a *hook*: a function that PyTorch calls whenever a module has run.

# %%
with torch.no_grad():
    hidden = whisper(mel, output_hidden_states=True).hidden_states
apart = {f"layer {t}": float((hidden[t + 1] - states[i]).abs().max()) for i, t in enumerate(taps)}
pd.Series(apart, name="largest difference").to_frame()

# %% [markdown]
# All are equal but the last: the library has already sent that one through Whisper's final LayerNorm. DeSTA taps *before* it. Send our tap through the LayerNorm too, and the difference is gone:

# %%
torch.testing.assert_close(whisper.layer_norm(states[-1]), hidden[-1])
print(f"spread after the LayerNorm {hidden[-1].std():.2f}, before it {states[-1].std():.2f}")

# %% [markdown]
# ### Exercise 1.2 · Tap one layer · fill in · 8 min
# Write `tapped(whisper, mel, layer)`: what encoder layer `layer` (counted from 0) puts out, for the last one too, before the final LayerNorm. `mel` is (clip, band, frame), the result (clip, frame, width). Leave the model as you found it.


# %% tags=["exercise"]
def tapped(whisper, mel, layer):
    ### BEGIN SOLUTION
    seen = []
    hook = whisper.layers[layer].register_forward_hook(lambda module, args, out: seen.append(out))
    with torch.no_grad():
        whisper(mel)
    hook.remove()
    return seen[0][0] if isinstance(seen[0], tuple) else seen[0]
    ### END SOLUTION


# %%
lesson.check("tapped", tapped)

# %% [markdown] tags=["hint"]
# `module.register_forward_hook(function)` calls `function(module, inputs, output)` whenever the module runs, and returns something with `.remove()`. Some versions of the library return a tuple from a layer.

# %% [markdown]
# Yours, or the package's where the exercise is open, on the last layer, where the library's list lies:

# %%
tap_layer = lesson.use("tapped", tapped, lambda whisper, mel, layer: states[taps.index(layer)])
torch.testing.assert_close(tap_layer(whisper, mel, taps[-1]), states[-1])

# %% [markdown]
# Beware of code that counts otherwise: one released DeSTA2 pipeline taps one layer earlier when it answers than it did when it was trained. Nothing crashes. Notebook 02 measures what such a slip costs our connector.
#
# ## Four seconds instead of thirty
#
# Whisper was trained on clips of 30 s, and has a *position table* of 1,500 rows, one a frame. Our clips last 4 s. The package keeps the first 200 rows and never computes the rest. Is a cropped clip the same clip? In 30 s every frame also attends to 26 s of padding. So we measure by how much the states differ.

# %%
folder = weights.find_weights(experiment.preset.encoder, experiment.root / "models")
whole = WhisperModel.from_pretrained(folder, dtype=torch.float32).encoder.eval()
with torch.no_grad():
    padded = whole(
        audio.log_mel([wave], audio.WHISPER_SECONDS, experiment.llm.encoder.mel_bins)
    ).last_hidden_state
cropped = whisper.layer_norm(states[-1]).float().cpu()
cosine = torch.cosine_similarity(padded[:, : cropped.shape[1]], cropped, dim=-1)
print(
    f"cosine of a frame heard in 30 s and in {experiment.preset.seconds:g} s: median "
    f"{cosine.median():.2f}"
)

# %% [markdown]
# They are not the same states. That is allowed as long as the connector is trained and asked with the same crop, and it is one more thing that a connector file must remember.
#
# ## Reading it off: a probe, and how it lies
#
# A *probe* is a linear classifier on the states ([Alain and Bengio, 2016](https://arxiv.org/abs/1610.01644)). What may it claim? If it does well on new speakers, the attribute is *there*, and a linear map can read it. That does not say that anybody reads it: notebook 06 asks what the model uses. If it does badly, the attribute may still be there in a form that no linear map reads.
#
# And a probe can do well for a wrong reason. To see how, we ask for something that is not in the sound at all ([Hewitt and Liang, 2019](https://arxiv.org/abs/1909.03368), call this a control task). Every speaker gets a coin's side by chance. The probe guesses it from a clip, once with the speaker's other clips in training, and once without.
#
# Eight speakers, and only clips that are spoken aloud, because a whisper hides the voice. For the probe each clip becomes one row of numbers: mean and spread over its frames, once for the spectrogram and once for each tapped layer.

# %%
names = sorted({c.speaker for c in experiment.corpus.split("train")})[::5][:8]
aloud = [
    c
    for c in experiment.corpus.split("train")
    if c.speaker in names and c.attributes["manner"] == "spoken"
]
some = balance_speakers(aloud, 80)
speakers = np.array([c.speaker for c in some])
pd.Series(speakers, name="speaker").value_counts().rename("clips").to_frame()

# %% tags=["slow"]
waves = [audio.read_audio(experiment.corpus.path(c)) for c in some]
heard = torch.cat(
    [experiment.llm.encoder.encode(waves[i : i + 16]) for i in range(0, len(waves), 16)], dim=1
)
mels = audio.log_mel(waves, experiment.preset.seconds, experiment.llm.encoder.mel_bins)
pooled = {"log-mel": probe_sites.log_mel_site(mels).numpy()}
pooled |= {
    f"layer {tap}": probe_sites.pool_over_time(layer).cpu().numpy()
    for tap, layer in zip(taps, heard, strict=True)
}

# %% [markdown]
# ### Exercise 1.3 · Keep the speakers apart · fill in · 8 min
# `speakers` is a list with the speaker's name of every row. Write `disjoint_folds(speakers, count)`: a list of `count` pairs (training rows, test rows), each an array of row numbers counted from 0. Every row is tested exactly once, and no speaker is on both sides of a pair.


# %% tags=["exercise"]
def disjoint_folds(speakers, count):
    ### BEGIN SOLUTION
    speakers = np.asarray(speakers)
    folds = []
    for part in np.array_split(np.unique(speakers), count):
        test = np.isin(speakers, part)
        folds.append((np.flatnonzero(~test), np.flatnonzero(test)))
    return folds
    ### END SOLUTION


# %%
lesson.check("disjoint_folds", disjoint_folds)

# %% [markdown] tags=["hint"]
# Share out the *names*, not the rows: `np.array_split(np.unique(speakers), count)`, then `np.isin`.

# %% [markdown]
# Ten tosses, both ways of splitting: with your folds, and with folds over single clips. The package refuses the leaking split unless it is forced to show the leak.

# %%
lesson.lock("leak")  # here its answer is measured
keep_apart = lesson.use("disjoint_folds", disjoint_folds, pieces.fold_by_speaker, tensors=False)


def folds_of(speakers, count):
    return [tuple(map(np.asarray, pair)) for pair in keep_apart(list(speakers), count)]


def tossed(features, seed, leak):
    sides = np.random.default_rng(seed).permutation(["heads", "tails"] * (len(names) // 2))
    coin = np.array([dict(zip(names, sides, strict=True))[s] for s in speakers])
    over = list(KFold(4, shuffle=True, random_state=0).split(features))
    folds = over if leak else folds_of(speakers, 4)
    guessed = probes.fit_probes(features, {"coin": coin}, speakers, folds, force=leak)
    return guessed.loc[guessed["kind"] == "probe", "correct"].mean()


# %% tags=["slow"]
tosses = pd.DataFrame(
    [
        {
            "site": site,
            "split": "speaker on both sides" if leak else "speakers apart",
            "toss": toss,
            "correct": tossed(features, toss, leak),
        }
        for site, features in pooled.items()
        for leak in (True, False)
        for toss in range(10)
    ]
)
coins = tosses.groupby(["site", "split"])["correct"].mean().unstack()
coins.loc[list(pooled)].round(2)

# %%
leak = coins.loc[f"layer {taps[0]}", "speaker on both sides"]
picture, ax = style.subplots(
    1, 1, f"A probe that knows the voices guesses {leak:.0%} of the coins", (7, 3)
)
colours = {"speaker on both sides": style.get_colour("leak"), "speakers apart": PALETTE["audio"]}
sns.stripplot(
    tosses,
    x="site",
    y="correct",
    hue="split",
    dodge=True,
    palette=colours,
    ax=ax,
    alpha=0.7,
    jitter=False,
)
ax.axhline(0.5, color=PALETTE["silence"], ls=":")
ax.set(ylim=(0, 1), ylabel="coin guessed rightly\n(a dot a toss)", xlabel="", title="")
sns.move_legend(ax, "lower left", title=None, ncol=2)
picture

# %%
print(lesson.reveal("leak", leak))

# %% [markdown]
# Where grey stands above blue, the probe “reads” a coin that nobody can hear: it knows the voices. Deeper layers bring the grey dots down to the blue ones: they no longer tell these voices apart. A single toss proves nothing. It may happen to go with something that can be heard, and is then guessed well both ways. From now on all probes are scored on speakers they have not heard.

# %% [markdown]
# ## Layer by layer
#
# Now the real attributes, on 288 clips of 24 speakers. Again each clip is one row: mean and spread over the frames of a *site*, the spectrogram or a layer. This time the probe is yours.
#
# ### Exercise 1.4 · Fit the probe · fill in · 5 min
# Write `probed(features, labels, folds)`. `features` is an array [clip, number], `labels` a list with the value of each clip, and `folds` are pairs as in exercise 1.3. In each fold, scale every feature by its mean and spread in the training rows. Fit a linear classifier on the training rows, and let it say the values of the test rows. Return an array [clip]: what was said of each clip when it was tested. A good classifier is *ridge*: a linear regression that is kept from large weights. `RidgeClassifierCV(np.logspace(0, 6, 7))` chooses among seven strengths by itself.


# %% tags=["exercise"]
def probed(features, labels, folds):
    ### BEGIN SOLUTION
    labels = np.asarray(labels)
    said = labels.copy()
    for train, test in folds:
        probe = make_pipeline(StandardScaler(), RidgeClassifierCV(np.logspace(0, 6, 7)))
        said[test] = probe.fit(features[train], labels[train]).predict(features[test])
    return said
    ### END SOLUTION


# %%
lesson.check("probed", probed)

# %% [markdown] tags=["hint"]
# `labels` is a list, and rows can be picked out of an array alone: `labels = np.asarray(labels)` first. `make_pipeline(StandardScaler(), RidgeClassifierCV(…))` scales and fits: `.fit(features[train], labels[train])`, then `.predict(features[test])`.

# %% [markdown]
# The next cell finds the clips, and a null from the package. *Random labels* is the same probe on shuffled labels: it shows what a probe scores if nothing is there. (On so few speakers that is a little below chance, because a fold with fewer of a class in training has more of it to test.)

# %% tags=["expensive"]
look = desta_lab.Inside.from_experiment(experiment)
measured = look.table("probes")
measured = measured[measured["site"].str.match("log-mel|encoder")]
null = measured[measured["kind"] == "random labels"]

# %% [markdown]
# Then your probe, on your folds, reads every attribute at every site. The intervals are over speakers. (Your guess about the best layer is locked here.)

# %%
lesson.lock("best_layer")
probe = lesson.use("probed", probed, pieces.probe_rows, tensors=False)
site_names, rows = ["log-mel", *(f"encoder {tap}" for tap in taps)], []
for site, whole in look.fixed_sites().items():
    features = probe_sites.pool_over_time(whole).numpy()
    for name, labels in look.labels.items():
        right = np.asarray(probe(features, list(labels), folds_of(look.speakers, 6))) == labels
        about = {"site": site, "attribute": name, "speaker": look.speakers}
        rows.append(pd.DataFrame({**about, "correct": right.astype(float)}))
read = statistics.interval_table(pd.concat(rows), "correct", ["attribute", "site"], "accuracy")
wide = read.pivot(index="attribute", columns="site", values="accuracy")[site_names]
print(f"Read by {lesson.credit_of('disjoint_folds', 'probed')}.")
wide.round(2)

# %%
accent = wide.loc["accent"].drop("log-mel")
print(lesson.reveal("best_layer", int(accent.idxmax().split()[1])))

# %% [markdown]
# Compare the first column with the others. What is already in the spectrogram? What do the layers make linear? Does the last one lose something again? Neighbouring layers often lie within each other's intervals, so “the best layer” is a guess. Where the best is not the last, that speaks for reading several layers, as DeSTA does.
#
# ## What the language model does with embeddings
#
# Now the other model, the *backbone*. Here it is nano: two million numbers and 961 words, trained on text about such clips and on questions about that text, never on sound (notebook 00). That it can answer our questions from text is therefore no wonder. Can it answer from vectors?
#
# A language model never sees words. It looks up one vector for each token, and from there on there are only vectors. We hand it the vectors ourselves. (`chat.build_stream` turns the messages of a conversation into token ids.)

# %%
backbone = experiment.llm.backbone
stream = chat.build_stream(
    backbone.tokenizer,
    chat.description_messages(desta_lab.describe(clip.attributes), "Which accent is it?"),
    0,
)
ids = torch.tensor([stream.ids], device=backbone.device)
by_id = backbone.model(input_ids=ids).logits
by_vector = backbone.model(inputs_embeds=backbone.embed(ids)).logits
torch.testing.assert_close(by_vector, by_id)

# %% [markdown]
# The same logits, to the last bit that matters. So only vectors count, and we may write any where a clip will stand. First what the connector is meant to imitate: the embeddings of the description's own words, in the *audio slots* of the prompt, the places that are kept free for the clip.


# %%
def words(attributes):
    ids = chat.encode_text(backbone.tokenizer, desta_lab.describe(attributes))
    return backbone.embed(torch.tensor(ids)).float()


def answer_from(question, vectors):
    stream = chat.build_stream(backbone.tokenizer, chat.audio_messages(question), len(vectors))
    return backbone.decode(
        experiment.llm.generate_ids([stream], vectors[None], max_new_tokens=16)[0]
    )


answer_from("What is the gender of the speaker?", words(clip.attributes))

# %% [markdown]
# It reads them like text, though no id was given. Next noise of the same size, three times. The *embedding scale* is the root mean square of all numbers in the table of token embeddings.

# %%
one = words(clip.attributes)
print(f"embedding scale: {backbone.embedding_scale:.3f}")
for seed in range(3):
    noise = torch.randn(one.shape, generator=torch.Generator().manual_seed(seed)).to(one)
    print(answer_from("What is the gender of the speaker?", backbone.embedding_scale * noise))

# %% [markdown]
# An answer comes back every time, and it is worth nothing. A fluent sentence is no sign that anything was heard; that is what controls are for.
#
# ### Exercise 1.5 · Speak at the wrong size · break · 5 min
# Write `at_scale(vectors, scale)`: the same (token, width) vectors multiplied by one number, so that the root mean square of all their entries is `scale`. Then guess how far the size may go before the answers fail.


# %% tags=["exercise"]
def at_scale(vectors, scale):
    ### BEGIN SOLUTION
    return vectors * scale / vectors.pow(2).mean().sqrt()
    ### END SOLUTION


# %%
lesson.check("at_scale", at_scale)

# %% [markdown] tags=["hint"]
# First divide by the root mean square that the vectors have now; it is one number for all of them.

# %% [markdown]
# To score the answers we need the probability of each option. `chosen` lets the answer begin with its *stem* (“The speaker is”). There it reads how likely the first token of each option is (“ female”, “ male”).


# %%
def chosen(task, vectors):
    """(row, token, width) → (row, option): the share of each option where the answer goes on."""
    start = chat.build_stream(
        backbone.tokenizer, chat.audio_messages(task.question), vectors.shape[1]
    ).ids
    ids = torch.tensor([*start, *chat.encode_text(backbone.tokenizer, task.stem)]).expand(
        len(vectors), -1
    )
    logits = backbone.logits(
        backbone.hidden_states(experiment.llm.splice(ids, vectors.to(backbone.device)))[:, -1]
    )
    return (
        logits[:, [chat.encode_text(backbone.tokenizer, text)[0] for text in task.options.values()]]
        .softmax(-1)
        .cpu()
    )


tasks = {task.attribute: task for task in experiment.tasks if task.rung == 3}
share = dict(zip(tasks["gender"].options, chosen(tasks["gender"], one[None])[0], strict=True))
print("; ".join(f"{option}: {float(each):.2f}" for option, each in share.items()))

# %% tags=["slow"]
times = [0.001, 0.01, 0.1, 0.3, 1, 3, 10, 30, 100]
rows = []
rescale = lesson.use("at_scale", at_scale, pieces.scale_to)
for c in experiment.clips("test")[:12]:
    one = words(c.attributes)
    size = float(one.pow(2).mean().sqrt())
    vectors = torch.stack([rescale(one, k * size).to(one) for k in times])
    for name, task in tasks.items():
        best = chosen(task, vectors).argmax(-1)
        right = best == list(task.options).index(c.attributes[name])
        rows += [
            {"times": k, "task": name, "right": float(r)} for k, r in zip(times, right, strict=True)
        ]
sizes = pd.DataFrame(rows).groupby("times")["right"].mean()

# %%
safe = [k for k, right in sizes.items() if right >= sizes[1] - 0.1]
said = f"From {min(safe):g} to {max(safe):g} times the size of words the answers stay as good\n"
said += f"(rescaled by {lesson.credit_of('at_scale')})"
picture, ax = style.subplots(1, 1, said, (6, 2.8))
ax.plot(sizes.index, sizes, "-o", color=PALETTE["text"], label="words, rescaled")
guess = np.mean([task.chance for task in tasks.values()])
ax.axhline(guess, color=PALETTE["silence"], ls=":", label="chance")
ax.set(
    xscale="log",
    ylim=(0, 1.05),
    xlabel="size, as a multiple of the words' own",
    ylabel="right, six questions",
)
ax.legend(loc="lower left")
picture

# %% [markdown]
# Read off how wide that range is. Every layer of these models first divides its input by its size (RMSNorm). So why does the size matter at all? For two reasons. Each layer *adds* to its input, and what it adds is small beside a very large vector and large beside a very small one. And a very small vector disappears beside the constant that keeps the division from dividing by zero. How much that matters depends on the backbone. SmolLM2-135M, asked in the same way (`desta_lab.setup("01", "cpu")`), no longer read the words at a third of their size. So the small connectors start at the embedding scale.
#
# ## Between two words
#
# Last, embeddings that no word has. We mix the descriptions “… male …” and “… female …” step by step, in 16 different descriptions for each attribute, and ask which of the two the model says. As a control, two noises are mixed in the same way; and the *text oracle* reads the two descriptions as plain text.

# %%
PAIRS = {
    "gender": ("female", "male"),
    "accent": ("Scottish", "Caribbean"),
    "rate": ("slow", "fast"),
    "loudness": ("quiet", "loud"),
    "manner": ("spoken", "whispered"),
    "scene": ("rain", "music"),
}
shares = torch.linspace(0, 1, 11)


def mixed(one, other):
    return (1 - shares[:, None, None]) * one.cpu() + shares[:, None, None] * other.cpu()


lesson.lock("flip")
for share, vectors in zip(
    shares,
    mixed(
        words({**clip.attributes, "gender": "female"}), words({**clip.attributes, "gender": "male"})
    ),
    strict=True,
):
    print(f"{share:.1f}", answer_from("What is the gender of the speaker?", vectors))


# %%
def second(name, scores):
    """Of the two values that are mixed, the share of the second."""
    at = [list(tasks[name].options).index(value) for value in PAIRS[name]]
    return (scores[:, at[1]] / scores[:, at].sum(-1)).tolist()


def asked(name, attributes, number):
    """One row a share: answers from mixed words, mixed noise and, at both ends, plain text."""
    pair = [{**attributes, name: value} for value in PAIRS[name]]
    draw = torch.Generator().manual_seed(number)
    noise = backbone.embedding_scale * torch.randn(2, *words(pair[0]).shape, generator=draw)
    read = scoring.score_options_of_text(
        backbone, [tasks[name]], [desta_lab.describe(a) for a in pair]
    )[0].softmax(-1)
    lines = {
        "words": (shares.tolist(), second(name, chosen(tasks[name], mixed(*map(words, pair))))),
        "noise": (shares.tolist(), second(name, chosen(tasks[name], mixed(*noise)))),
        "oracle": ([0.0, 1.0], second(name, read)),
    }
    tables = [
        pd.DataFrame({"kind": kind, "x": x, "value": value}) for kind, (x, value) in lines.items()
    ]
    return pd.concat(tables).assign(attribute=name, speaker=number)


# %% tags=["expensive"]
def mix_all():
    numbered = list(enumerate(experiment.clips("test")[:16]))
    every = [asked(name, c.attributes, number) for name in PAIRS for number, c in numbered]
    return pd.concat(every, ignore_index=True)


mixes = lesson.find_or_make("mixes", mix_all, pairs=PAIRS, shares=len(shares), clips=16)
by = ["attribute", "kind", "x"]
found = statistics.bootstrap_intervals(
    mixes, "value", by
)  # resamples descriptions, as it does speakers elsewhere
mixing = pd.DataFrame(
    [(*key, *interval) for key, interval in found.items()], columns=[*by, "value", "low", "high"]
)

# %%
gender = mixing[(mixing["attribute"] == "gender") & (mixing["kind"] == "words")].sort_values("x")
flip = float(np.interp(0.5, gender["value"], gender["x"]))
print(lesson.reveal("flip", flip))
print(f"Layer tapped, folds, probe and sizes by {lesson.credit}.")

# %% [markdown]
# ## What they bring
#
# One figure for both. Above stands what can be read off Whisper, below what the language model makes of embeddings. Each has its *null* in pink, which shows what would be seen if nothing were there: a probe on random labels, and mixed noise. An attribute counts as *held* if at any tapped layer the probe's interval lies above that of random labels. (The spectrogram may do as well: look left.) It counts as *answered* if the interval is on the right side of one half at both ends of the mixture.

# %%
reading = pd.concat([read.assign(kind="probe"), null]).rename(columns={"accuracy": "value"})
reading = reading.assign(x=reading["site"].map(site_names.index), model="Whisper")
columns = ["model", "attribute", "kind", "x", "value", "low", "high"]
both = pd.concat([reading[columns], mixing.assign(model="LLM")[columns]], ignore_index=True)
both.groupby(["model", "kind"])["value"].describe()[["count", "min", "max"]].round(2)

# %%
probed = both[both["model"] == "Whisper"].set_index(["attribute", "x", "kind"]).sort_index()
held = [
    name
    for name in PAIRS
    if any(
        probed.at[(name, x, "probe"), "low"] > probed.at[(name, x, "random labels"), "high"]
        for x in range(1, len(site_names))
    )
]
ends = mixing[mixing["kind"] == "words"].set_index(["attribute", "x"]).sort_index()
followed = [
    name for name in PAIRS if ends.at[(name, 0.0), "high"] < 0.5 < ends.at[(name, 1.0), "low"]
]
headline = (
    f"Whisper holds {len(held)} of {len(PAIRS)} attributes above its null, and the untouched "
    f"LLM answers {len(followed)} of {len(PAIRS)} from embeddings alone (seed {experiment.seed}).\n"
    f"Folds and probe: {lesson.credit_of('disjoint_folds', 'probed')}"
)

# %%
LOOKS = {
    "probe": style.ANALYSIS_SERIES["probe"],
    "random labels": style.ANALYSIS_SERIES["random labels"],
    "words": Series("embeddings of two words, mixed", PALETTE["text"], "-", "s"),
    "noise": Series("noise of the same size, mixed", PALETTE["shuffled"], "-.", "^"),
}
picture, axes = style.subplots(2, len(PAIRS), headline, (12, 5.4), sharey=True)

# %%
for column, (name, pair) in enumerate(PAIRS.items()):
    rows = both[both["attribute"] == name]
    for kind, series in LOOKS.items():
        style.draw_line(
            axes[int(kind in ("words", "noise")), column],
            rows[rows["kind"] == kind],
            "x",
            "value",
            series,
        )
    oracle = rows[rows["kind"] == "oracle"]
    axes[1, column].plot(
        oracle["x"], oracle["value"], label="text oracle", **style.marker_style("oracle")
    )
    axes[0, column].axhline(tasks[name].chance, color="#B0B0B0", lw=0.8, label="chance")
    axes[0, column].set_title(name, loc="left")
    axes[0, column].set_xticks(range(len(site_names)), ["mel", *map(str, taps)])
    axes[0, column].set(ylim=(-0.03, 1.05), xlabel="encoder layer")
    axes[1, column].set_xticks([0, 1], pair)
    axes[1, column].set_xlabel("embeddings, mixed")
    for label, side in zip(axes[1, column].get_xticklabels(), ("left", "right"), strict=True):
        label.set_ha(side)

# %% tags=["headline"]
axes[0, 0].set_ylabel("Whisper: accuracy of a\nlinear probe, new speakers")
axes[1, 0].set_ylabel("LLM: share of the answer\nwritten on the right")
style.add_legend(
    picture,
    list(axes.flat),
    3,
    "bands: 95 % interval over speakers (above) and descriptions (below)",
)
lesson.show(
    picture,
    f"{headline}. Above, probes by encoder layer; below, answers along mixtures of words.",
    both,
)

# %% [markdown]
# ## What we now know
#
# The upper row says which attributes are linearly there in the encoder, on voices the probe never heard, and at which layer. The lower row says whether the language model answers from vectors, and how sharply it turns from one word to the other. The picture of sizes says how much error it bears. These vectors were still those of words. Whether a connector can make such vectors from sound is not shown here. Neither model brings the way between them: the states of the one and the vectors of the other need not even have the same width. That way is what the connector has to learn.
#
# **What would change our mind**: a probe on random labels that does as well, an attribute that only the spectrogram has, mixed noise that the model follows, or a backbone that answers from words and not from the same vectors.
#
# Next: **02**, the adapter between them, built by hand.

# %%
lesson.card()
