# %% [markdown]
# # 08 · Where it looks: where does the model look in a clip, and is that why it answers as it does?
#
# The connector attends to frames, and the language model attends to the connector's output, so there are pictures of where it looks. They are easy to draw and easy to believe. But looking somewhere is not the same as using what is there ([Jain and Wallace, 2019](https://arxiv.org/abs/1902.10186)).
#
# This corpus knows when each clip's background scene sounds: the *evidence span*. So for every way to say where an answer came from, attention or attribution, we can ask whether it finds those seconds better than those of another clip, and whether taking away what it points at takes away the answer.
#
# *Needs: 02, some calculus. 40 minutes of exercises; reading and running take about as long again.*

# %%
import numpy as np
import pandas as pd
import torch

import desta_lab
from desta_lab import audio, cache
from desta_lab.analysis import attention, attribution, evidence, interventions
from desta_lab.evaluation import conditions, statistics
from desta_lab.experiments.inside import state_listening
from desta_lab.model.sites import record_outputs
from desta_lab.views import clip_figures, explanation_figures, replies, style

lesson = desta_lab.setup("08")
experiment = lesson.experiment

# %% [markdown]
# ## One clip, one question
#
# All of this notebook is about one question, “What is the background sound?”, and about 16 clips of speakers never heard in training. We begin with the one whose scene sounds for the shortest time: there is most room to be wrong.

# %%
look = desta_lab.Inside.from_experiment(experiment)
llm, seconds, task = look.llm, look.llm.encoder.seconds, look.task("scene")
rows = look.explained
clips = look.pick(rows)
spans = [evidence.evidence_spans(clip, "scene")[0] for clip in clips]
number = int(np.argmin([span.end - span.start for span in spans]))
clip, span = clips[number], spans[number]

# %%
desta_lab.show_players(experiment.corpus, [clip])

# %% [markdown]
# The model's own words about it, and the number that everything below explains: the *margin*, the log-probability of the right answer over the mean of the wrong ones, for this clip and for silence. Above 0 it leans to the right answer.

# %%
wave = audio.read_audio(experiment.corpus.path(clip))
states = llm.encoder.encode([wave])
audio_embeddings = conditions.embed_clips(llm, states)
print(task.question, "→", replies.answer_audio(llm, audio_embeddings, task.question).text)

# %%
margin = attribution.answer_margin(llm, task, [clip.attributes["scene"]])
with torch.no_grad():
    whole, nothing = margin(audio_embeddings).item(), margin(conditions.embed_silence(llm)).item()
print(f"margin of “{clip.attributes['scene']}”: {whole:.2f} nats, of silence {nothing:.2f}")

# %% [markdown]
# ## Where the query tokens look
#
# In the connector each query token compares itself with every frame. A hook can catch what it compares: the queries `q`, the keys `k`, and the weights that came of it.

# %%
attend = llm.connector.blocks[-1].cross_attention
with record_outputs({"q": attend.query, "k": attend.key, "weights": attend.softmax}) as seen:
    llm.connector(states)
q, k = (
    seen[name][0][-1].unflatten(-1, (attend.heads, -1)).transpose(0, 1) for name in "qk"
)  # of the last tap
tuple(q.shape), tuple(k.shape)

# %% [markdown]
# ### Exercise 8.1 · Compute where a query looks · fill in · 6 min
# Write `attention_over_time(q, k)`: from `(head, query, width)` and `(head, frame, width)` to the weights `(head, query, frame)`, scaled as in every transformer, and summing to 1 over what may be looked at.


# %% tags=["exercise"]
def attention_over_time(q, k):
    ### BEGIN SOLUTION
    products = q @ k.transpose(-1, -2)
    return (products / q.shape[-1] ** 0.5).softmax(-1)
    ### END SOLUTION


# %%
lesson.check("attention_over_time", attention_over_time)

# %% [markdown] tags=["hint"]
# `k.transpose(-1, -2)` makes frames the last axis; a query shares its attention out over that axis. The scale is the root of the width of one head.

# %%
package = attention.query_attention(llm.connector, states)[0, -1, -1]  # clip, block, tap
torch.testing.assert_close(seen["weights"][0][-1], package)
mine = attention_over_time(q, k)
if mine is not None:
    torch.testing.assert_close(mine, package, rtol=1e-3, atol=1e-4)

# %% [markdown]
# Now every query token of this clip, averaged over heads and blocks, tapped layers weighed as the mixture weighs them. Above it the spectrogram with its spans: does the dark follow the scene? Whatever you see, it is one clip.

# %%
where = attention.query_attention_over_time(llm.connector, states)
mel = audio.log_mel([wave], seconds, llm.encoder.mel_bins)[0].numpy()
clip_figures.plot_query_attention(
    where[0].numpy(), mel, clip.spans, seconds, headline="Where each query token looks in one clip"
)

# %% [markdown]
# Listen to what it looks at. The panel cuts out the quarter of the clip that carries most weight, of all query tokens or of one; a still of it stays where no widget runs.

# %%
desta_lab.ListenPanel(
    experiment,
    attention=replies.make_attention_profile(experiment, attention.query_attention_over_time),
)

# %% [markdown]
# ## Is it on the evidence?
#
# A *profile* is a weight for every moment of a clip, whatever made it. A profile over time lies on the scene or it does not. But a scene that fills most of a clip is easy to hit.
#
# ### Exercise 8.2 · Take the share of time away · fill in · 5 min
# Write `mass_above_share(profile, start, end, seconds)` for a NumPy profile over `seconds`, of any number of frames: the share of its *positive* weight that lies from `start` to `end`, minus the share of time that the span has. Negative weight speaks against the answer and is left out.


# %% tags=["exercise"]
def mass_above_share(profile, start, end, seconds):
    ### BEGIN SOLUTION
    positive = profile.clip(min=0)
    first, last = (round(second / seconds * len(profile)) for second in (start, end))
    return positive[first:last].sum() / positive.sum() - (end - start) / seconds
    ### END SOLUTION


# %%
lesson.check("mass_above_share", mass_above_share)

# %% [markdown] tags=["hint"]
# `second / seconds * len(profile)` is a frame, whatever the frame rate. A flat profile must score 0.

# %%
profile = where[0].mean(0).numpy().astype(float)
scored = evidence.score_profile(profile, [span], seconds)
pd.Series(
    {
        "package": scored["mass"] - scored["share"],
        "by hand": mass_above_share(profile, span.start, span.end, seconds),
    }
).to_frame("mass above share")

# %% [markdown]
# The two differ by the edges: the package asks of every frame whether its middle lies in the span. 0 is what a flat profile scores. But more than 0 may still be a habit: whoever always looks at the middle of a clip hits scenes, which tend to be there. So the control is *another clip's evidence*: the same profile against the window of another speaker's clip. The difference is called the *gain*.
#
# ### Exercise 8.3 · Say who finds the scene · predict · 4 min
# Two gains, each a mean over 16 clips. A gain of 0 is a habit. Even a profile that is the scene's window itself gains little, about 0.2 on this corpus, because the windows of two clips overlap. First the attention of all query tokens, then Shapley values of windows of the waveform, which you will meet below.

# %%
lesson.predict("attention", "Gain of query attention?", -0.1, 0.2, step=0.02)

# %%
lesson.predict("shapley", "Gain of Shapley values of the waveform's windows?", -0.1, 0.2, step=0.02)

# %% [markdown]
# ## Does the picture need the training?
#
# ### Exercise 8.4 · Break the connector · break · 6 min
# An explanation of what was learned must go when the learning goes ([Adebayo et al., 2018](https://arxiv.org/abs/1810.03292)). Write `scrambled(weights)`: from a dictionary of tensors to a new one in which each tensor holds the same numbers in random order. Leave `weights` as they were.


# %% tags=["exercise"]
def scrambled(weights):
    ### BEGIN SOLUTION
    mixed = {}
    for name, tensor in weights.items():
        order = torch.randperm(tensor.numel())
        mixed[name] = tensor.flatten()[order].view_as(tensor)
    return mixed
    ### END SOLUTION


# %%
lesson.check("scrambled", scrambled)

# %% [markdown] tags=["hint"]
# `torch.randperm(tensor.numel())` is a random order of all its numbers; `flatten()` before, `view_as(tensor)` after.

# %% [markdown]
# The same clip under other weights: dealt at random, and those of the untrained connector. Beside them a control that costs nothing: another clip under the trained weights. The number is the rank correlation with the profile you saw, mean over query tokens.


# %%
def likeness(other):
    pairs = zip(where[0].numpy(), other[0].numpy(), strict=True)
    return np.mean([pd.Series(a).corr(pd.Series(b), method="spearman") for a, b in pairs])


stranger = attention.query_attention_over_time(
    llm.connector, llm.encoder.encode(look.read_waves(rows[number - 1 : number]))
)
with attribution.replace_weights(llm.connector, attribution.shuffle_weights(llm.connector)):
    dealt = attention.query_attention_over_time(llm.connector, states)
with replies.use_checkpoint(experiment, 0) as untrained_llm:
    untrained = attention.query_attention_over_time(untrained_llm.connector, states)

# %%
others = {"dealt weights": dealt, "untrained": untrained, "another clip, trained": stranger}
pd.Series({name: likeness(other) for name, other in others.items()}, name="rank correlation").round(
    2
)

# %% [markdown]
# If the first two are near 0, the map needs the training, and passes this test. It does not say that the map explains the answer: a map can depend on every weight and still be about something else. If the third is high, a part of the map is a habit that no clip changes.
#
# ## Where the answer looks
#
# The language model has attention of its own: from the place where its answer begins, back to the audio slots. Every layer and head of it:

# %%
heads = look.table("heads")
explanation_figures.plot_answer_attention(
    heads, "Which heads look at the audio as the answer begins"
)

# %% [markdown]
# On the right (`pointing` in the table) is the share of clips in which a head's weight, carried on from query tokens to frames, peaks inside the scene's window. Do not be impressed before you know what a flat profile scores, and how good the best of so many heads looks by luck alone (drawn here as if heads were independent).

# %%
summary = look.table("evidence")
flat = summary[(summary["null"] == "uniform") & (summary["measure"] == "pointing")]["value"].iloc[0]
lucky = np.random.default_rng(0).binomial(len(clips), flat, size=(10_000, len(heads))).max(
    1
).mean() / len(clips)
print(
    f"best head {heads['pointing'].max():.2f}; a flat profile {flat:.2f}, the best of "
    f"{len(heads)} such {lucky:.2f}"
)

# %% [markdown]
# ### Exercise 8.5 · Knock a head out · fill in · 4 min
# Looking is not mattering; what a head does can be taken away. Write `without_head(llm, clips, question, layer, head)`: the `logits` of `llm.run` when what this head puts out is 0. `interventions.knock_out([(layer, head), …])` makes the `edits` for it.


# %% tags=["exercise"]
def without_head(llm, clips, question, layer, head):
    ### BEGIN SOLUTION
    edits = interventions.knock_out([(layer, head)])
    forward = llm.run(clips, question, edits=edits)
    return forward.logits
    ### END SOLUTION


# %%
lesson.check("without_head", without_head)

# %% [markdown] tags=["hint"]
# `llm.run(clips, question, edits=edits)` returns everything that flowed; `.logits` are those where the answer begins.

# %% [markdown]
# The run did it for the heads that look at the audio most, many at once, and for as many random ones (left). On the right nothing is taken away: the last layer's state is moved further from that of silence, as in [Glazer et al. (2026)](https://arxiv.org/abs/2603.06854), beside random directions.

# %%
listening = look.table("listening_heads"), look.table("audio_direction")
explanation_figures.plot_listening(*listening, state_listening(*listening))

# %% [markdown]
# ## From looking to mattering
#
# Attention asks what is weighed. *Attribution* asks what the margin hangs on. *Integrated gradients* ([Sundararajan et al., 2017](https://arxiv.org/abs/1703.01365)) walk from the embeddings of silence to those of the clip and collect the slope on the way.
#
# ### Exercise 8.6 · Integrate the gradient · fill in · 8 min
# Write `integrated_gradients(scalar, given, absent, steps)`. `given` and `absent` are `(1, *feature)`; `scalar` takes a batch `(steps, *feature)` and gives one number each. Take `steps` points evenly on the way (the middle of each part of it), average their gradients, and multiply by the whole difference: `(*feature)`.


# %% tags=["exercise"]
def integrated_gradients(scalar, given, absent, steps):
    ### BEGIN SOLUTION
    shares = (torch.arange(steps) + 0.5) / steps
    shares = shares.view(-1, *[1] * (given.dim() - 1))
    points = (absent + shares * (given - absent)).requires_grad_()
    (slopes,) = torch.autograd.grad(scalar(points).sum(), points)
    return slopes.mean(0) * (given - absent)[0]
    ### END SOLUTION


# %%
lesson.check("integrated_gradients", integrated_gradients)

# %% [markdown] tags=["hint"]
# `points = absent + shares * (given - absent)` with `shares` of shape `(steps, 1, …, 1)`, then `points.requires_grad_()`; `torch.autograd.grad(scalar(points).sum(), points)` gives every point its own gradient, in a tuple.

# %% [markdown]
# captum, a library of attribution methods, does the same, with points of its own choice. An audio embedding is many numbers; what they add is summed.

# %%
cases = attribution.query_cases(llm, task, [clip.attributes["scene"]], audio_embeddings)
package = attribution.attribute("integrated_gradients", cases)
mine = integrated_gradients(margin, audio_embeddings, conditions.embed_silence(llm), 32)
if mine is not None:
    torch.testing.assert_close(mine.sum(-1), package.values[0], rtol=0.1, atol=0.1)

# %% [markdown]
# *Completeness*: the parts must sum to the way from silence to the clip. What they miss of it is the convergence delta. This holds whether or not the explanation is any good: it is a check of the sum, not of its meaning.

# %%
print(
    f"sum {package.values.sum():.2f}, from silence to the clip {whole - nothing:.2f}, delta "
    f"{package.delta.item():.2f}"
)

# %% [markdown]
# Embeddings are not seconds. They can be carried on to the frames that each query attends to, which trusts attention again. Or the waveform itself is cut into windows of a quarter of a second and these are taken away, which trusts only the silence in their place. The *Shapley value* of a window is what the margin gains when that window is put back, averaged over all orders in which the windows can be put back; captum draws a few of them.

# %% tags=["expensive"]
values = [clip.attributes["scene"]]
cases = attribution.window_cases(llm, task, values, [wave])
shapley = attribution.attribute("shapley", cases, samples=3)
print(
    f"{shapley.values.shape[1]} windows; sum {shapley.values.sum():.2f}, delta "
    f"{shapley.delta.item():.2f}"
)

# %% [markdown]
# The three ways on one time axis. Below a strip's line is evidence against.

# %%
strips = {"query attention": where[0].mean(0), "Shapley, windows": shapley.values[0]}
strips["int. gradients, queries"] = attribution.queries_to_frames(package.values, where)[0]
clip_figures.plot_time_profiles(
    mel, seconds, strips, clip.spans, "Three answers to where the scene was heard, in one clip"
)

# %% [markdown]
# ## Is that why?
#
# The test of *faithfulness*: take away what an explanation calls important. If it is right, the margin falls early.
#
# ### Exercise 8.7 · Delete what matters first · fill in · 7 min
# Write `deletion_curve(of, worth)`. `of(kept)` takes booleans `(batch, part)` and gives the margin of each row with only these parts kept; `worth` is `(part,)`. Return `part + 1` margins: nothing taken away, then the most important part, then the two most important, … until nothing is left.


# %% tags=["exercise"]
def deletion_curve(of, worth):
    ### BEGIN SOLUTION
    place = worth.argsort(descending=True).argsort()  # 0 is the most important
    gone = torch.arange(len(worth) + 1)[:, None]
    return of(place >= gone)
    ### END SOLUTION


# %%
lesson.check("deletion_curve", deletion_curve)

# %% [markdown] tags=["hint"]
# `worth.argsort(descending=True)` says who is first; `argsort` of that says in which place each part stands. Row `n` keeps the parts whose place is `n` or later.

# %%
curve = attribution.deletion_curves(cases, shapley.values, [clip.id], draws=1).query(
    "curve == 'deletion'"
)
mine = deletion_curve(cases[0].evaluate, shapley.values[0])
if mine is not None:
    package = curve.query("order == 'attribution'")["margin"].to_numpy()
    np.testing.assert_allclose(mine, package, rtol=0.02, atol=0.05)

# %% [markdown]
# The run's own table has this for all 16 clips, in the order of their Shapley values and at random.

# %%
explanation_figures.plot_deletion(
    look.table("deletion"), "Taking sound away, and putting it back, window by window"
)

# %% [markdown]
# The other ways to say where an answer came from are not in it. So the last measurement takes the same quarter of the windows away from every clip under every method, and compares the fall of the margin, clip by clip, with that of a random quarter.
#
# First the profiles. The run keeps one a clip and method. *Query attention* is the one you computed; *answer attention* is that of the language model, and *answer rollout* multiplies it through its layers. *Ablation* takes one part away at a time. “queries” means that audio embeddings were judged and carried on to frames, “windows” that the waveform was. One is added: the patching of notebook 06 says which query token carries the scene, and if attention means anything, it should be in that one. (The query was chosen on clips that include these 16, which favours it a little.)

# %%
profile_table, ids = look.table("profiles"), [clip.id for clip in clips]
profiles = {
    name: some.pivot(index="clip", columns="place", values="value").loc[ids].to_numpy()
    for name, some in profile_table.groupby("method", sort=False)
}

# %%
moved = look.table("patching").query("attribute == 'scene' and query >= 0")
carrier = int(moved.loc[moved["moved"].idxmax(), "query"])
every = (
    attention.query_attention_over_time(llm.connector, llm.encoder.encode(look.read_waves(rows)))
    .numpy()
    .astype(float)
)
profiles[f"attention, query {carrier}"] = every[:, carrier]

# %% [markdown]
# And two controls: a flat profile, which must gain nothing, and the scene's window itself: a profile that knows the span and nothing else. It is a yardstick, not a ceiling, since some parts of a window may tell more than others.

# %%
frames = every.shape[-1]
windows = np.stack([evidence.inside_spans([span], frames, seconds).astype(float) for span in spans])
framed = {"a flat profile": np.ones((len(clips), frames)), "the window itself": windows}


# %%
def gains(profiles):
    tables = [
        evidence.score_profiles(some, clips, "scene", seconds, name)
        for name, some in profiles.items()
    ]
    scores = pd.concat(tables).assign(above=lambda row: row["mass"] - row["share"])
    wide = scores.pivot(
        index=["method", "clip", "speaker"], columns="null", values="above"
    ).reset_index()
    wide["gain"] = wide["own"] - wide["shuffled"]
    found = statistics.bootstrap_intervals(wide, "gain", ["method"])
    rows = [
        (name, wide.loc[wide["method"] == name, "own"].mean(), *found[name,]) for name in profiles
    ]
    return pd.DataFrame(rows, columns=["method", "own", "gain", "gain_low", "gain_high"])


found = gains(profiles | framed)
found.round(3)

# %% [markdown]
# `own` is the mass above share in the own window, `gain` what is left of it after another clip's. Where the first is large and the second small, a habit was measured.
#
# Now the quarter. A random quarter, and one drawn inside the scene's window, are controls; both are drawn a few times.

# %%
PART, DRAWS = 0.25, 4


def by_window(profile, count):
    summed = np.r_[0, np.cumsum(profile)]
    return np.diff(np.interp(np.linspace(0, len(profile), count + 1), range(len(summed)), summed))


def without_most(worth):
    place = np.argsort(np.argsort(-worth))  # 0 is the most important
    return place >= round(PART * len(worth))


# %%
def take_away():
    draw, margins_of = np.random.default_rng(0), []
    scenes = [clip.attributes["scene"] for clip in clips]
    cases = attribution.window_cases(llm, task, scenes, look.read_waves(rows))
    for i, (case, clip) in enumerate(zip(cases, clips, strict=True)):
        pairs = [(name, by_window(some[i], case.part_count)) for name, some in profiles.items()]
        for luck in draw.random((DRAWS, case.part_count)):
            inside = evidence.inside_spans([spans[i]], case.part_count, seconds)
            pairs += [("a flat profile", luck), ("the window itself", luck + inside)]
        margins = case.evaluate(torch.tensor(np.stack([without_most(worth) for _, worth in pairs])))
        margins_of += [
            (name, clip.id, clip.speaker, m)
            for (name, _), m in zip(pairs, margins.tolist(), strict=True)
        ]
    return pd.DataFrame(margins_of, columns=["method", "clip", "speaker", "margin"])


# %% tags=["expensive"]
asked = look.provenance("taken", part=PART, draws=DRAWS, carrier=carrier)
taken = cache.find_or_make(experiment.root, asked, take_away)

# %%
mean = taken.groupby(["method", "clip", "speaker"])["margin"].mean().unstack("method")
fall = mean.rsub(mean["a flat profile"], axis=0).stack().rename("fall").reset_index()
fell = statistics.bootstrap_intervals(fall, "fall", ["method"])
rows = [(name, *fell[name,]) for name in found["method"]]
fell = pd.DataFrame(rows, columns=["method", "fall", "fall_low", "fall_high"])

# %% [markdown]
# And the sanity check for attributions that exercise 8.4 made for attention: rank correlation with the same clips under an untrained connector, and under dealt weights.

# %%
look.table("randomisation").round(2)

# %% [markdown]
# ## Who finds the evidence, and is that why?
#
# Each row is one way to say where the answer came from. On the left, how much better it finds the own scene than another clip's; on the right, how much more the answer's margin falls when the quarter it points at is silenced than when a random quarter is. 0 is nothing on both sides, and bars are 95 % intervals over speakers, one clip each.

# %%
CONTROLS = ("a flat profile", "the window itself", "query attention, untrained")


def draw_rows(axes, table, value, xlabel, title):
    for place, row in enumerate(table.to_dict("records")):
        colour = style.PALETTE["silence" if row["method"] in CONTROLS else "audio"]
        ends = [[row[value] - row[f"{value}_low"]], [row[f"{value}_high"] - row[value]]]
        axes.errorbar(row[value], place, xerr=ends, fmt="o", color=colour, ms=5)
    style.name_rows(axes, list(table["method"].str.replace("integrated", "int.")))
    axes.axvline(0, color="black", lw=0.8, ls=":")
    axes.set(xlabel=xlabel)
    axes.set_title(title, loc="left")


# %%
table = found.merge(fell, on="method").sort_values("gain", ignore_index=True)
tried = table[~table["method"].isin(CONTROLS)]
finds = tried[tried["gain_low"] > 0]["method"].tolist()
hurts = tried[tried["fall_low"] > 0]["method"]
attends = r"attention|rollout"
headline = (
    f"The scene is found by {len(finds)} of {len(tried)} ways ({'; '.join(finds) or 'none'}); "
    f"silencing what they point at hurts the answer more than chance for {len(hurts)}, "
    f"for {hurts.str.contains(attends).sum()} of "
    f"{tried['method'].str.contains(attends).sum()} kinds of attention"
)
picture, (left, right) = style.subplots(1, 2, headline, (10.5, 4.8), sharey=True)

# %% tags=["headline"]
draw_rows(
    left,
    table,
    "gain",
    "mass above share: own window minus another clip's",
    "Does it find the scene? (grey: controls)",
)
draw_rows(
    right, table, "fall", "fall of the margin beyond a random quarter's (nats)", "Is that why?"
)
lesson.show(
    picture,
    f"Per method, gain over another clip's evidence and fall of the margin. {headline}.",
    table,
)

# %%
gain = table.set_index("method")["gain"]
print(lesson.reveal("attention", gain["query attention"]))
print(lesson.reveal("shapley", gain["shapley, windows"]))

# %% [markdown]
# ## What we now know
#
# Where the weights lie and what the answer hangs on are two questions, and the figure puts both to every method, against the same controls. A row whose interval holds 0 has not been shown to find the scene, which is not the same as shown not to. And one row clear of 0 beside another that is not does not yet make the first the better: that would take their difference, clip by clip. Shapley values and ablation of windows are made from such deletions, so the right side is no surprise for them; what tests them is the left side, where they know no window. And the row of the window itself is the yardstick: where its fall is small, a quarter of the scene can go because the rest of it still sounds.
#
# **What would change our mind**: more clips (16 have wide intervals, and of so many methods one may win by luck), other seeds, scenes that fill less of a clip; an attribute whose evidence is a word; and a baseline other than silence, itself a sound that training never had.
#
# Next: **09**, whether it still follows instructions, and what it has forgotten.

# %%
lesson.card()
