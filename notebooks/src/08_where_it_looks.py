# %% [markdown]
# # 08 · Where it looks: where does the model look in a clip, and is that why it answers as it does?
#
# The connector attends to frames, and the language model attends to the connector's output. So one can draw where the model looks. Such pictures are easy to draw and easy to believe. But a model can look at something and not use it ([Jain and Wallace, 2019](https://arxiv.org/abs/1902.10186)).
#
# This corpus knows when the background scene of each clip sounds: its *evidence span*. There are many ways to say where an answer came from, by attention or by attribution. We ask two questions of each. Does it find the seconds of its own clip better than those of another clip? And if we silence what it points at, does the answer go?
#
# Your functions run where their checks pass, and the package's run elsewhere. The headline says whose code ran.
#
# *Needs: 02, some calculus. 36 minutes of exercises, about 25 of reading and running.*

# %%
import numpy as np
import pandas as pd
import torch

import desta_lab
from desta_lab import audio, cache
from desta_lab.analysis import attention, attribution, evidence
from desta_lab.course.checks import notebook_08 as pieces
from desta_lab.evaluation import conditions, statistics
from desta_lab.experiments.inside_figures import state_listening
from desta_lab.model.sites import record_outputs
from desta_lab.views import clip_figures, explanation_figures, replies, style

lesson = desta_lab.setup("08")
experiment = lesson.experiment

# %% [markdown]
# ## One clip, one question
#
# This notebook has one question, “What is the background sound?”, and 16 clips of speakers whom training never heard. We begin with the clip whose scene is the shortest. In this clip a method has the most room to be wrong.

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
# The next cells show what the model says about the clip, and the number that this whole notebook explains:
#
# > margin = log-probability of the right answer − mean log-probability of the wrong answers
#
# Above 0 the model leans to the right answer. The margin of silence stands beside the margin of the clip.

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
# In the connector each query token compares itself with every frame. The next cell records what it compares in every block: the queries `q` and the keys `k`. It shows those of the last block at the last tapped layer.


# %%
def record_sides(connector, states):
    # side → (block, tap · clip, head, token, width of a head)
    parts = [block.cross_attention for block in connector.blocks]
    sides = {f"q{i}": part.query for i, part in enumerate(parts)}
    sides |= {f"k{i}": part.key for i, part in enumerate(parts)}
    with torch.no_grad(), record_outputs(sides) as seen:
        connector(states.to(next(connector.parameters())))
    split = {name: flow[0].unflatten(-1, (parts[0].heads, -1)) for name, flow in seen.items()}
    return [
        torch.stack([split[f"{side}{i}"] for i in range(len(parts))]).transpose(-3, -2).float()
        for side in "qk"
    ]


q, k = (side[-1, -1] for side in record_sides(llm.connector, states))
print("q (head, query, width)", tuple(q.shape), "· k (head, frame, width)", tuple(k.shape))

# %% [markdown]
# ### Exercise 8.1 · Compute where a query looks · fill in · 6 min
# Write `attention_over_time(q, k)`: from `(head, query, width)` and `(head, frame, width)` to the weights `(head, query, frame)`. A query's weights are shares of 1 over the frames. Scale the comparisons as every transformer does (exercise 2.2).


# %% tags=["exercise"]
def attention_over_time(q, k):
    ### BEGIN SOLUTION
    products = q @ k.transpose(-1, -2)
    return (products / q.shape[-1] ** 0.5).softmax(-1)
    ### END SOLUTION


# %%
lesson.check("attention_over_time", attention_over_time)

# %% [markdown] tags=["hint"]
# `k.transpose(-1, -2)` makes frames the last axis, and a query shares its attention over this axis. The scale is the root of the width of one head.

# %% [markdown]
# `look_over_time` calls your function in every block, for every tapped layer and every clip. It takes the mean over heads and blocks. It weighs the tapped layers as the layer mixture does. The result must agree with the package's.

# %%
look_at = lesson.use("attention_over_time", attention_over_time, pieces.weigh_frames)


def look_over_time(connector, states):  # → (clip, query, frame)
    q, k = record_sides(connector, states)
    pairs = zip(q.flatten(0, 1), k.flatten(0, 1), strict=True)
    weights = torch.stack([look_at(*pair).mean(0) for pair in pairs])
    over_blocks = weights.unflatten(0, (len(q), *states.shape[:2])).mean(0)
    mixture = connector.mixture().detach().to(weights)
    return torch.einsum("tcqf,qt->cqf", over_blocks, mixture).cpu()


where = look_over_time(llm.connector, states)
package = attention.query_attention_over_time(llm.connector, states)
torch.testing.assert_close(where, package, rtol=1e-3, atol=1e-4)

# %% [markdown]
# Each row of the next figure is a query token of this clip. Above them stands the spectrogram with its spans. Do the dark places follow the scene? Whatever you see, it is one clip.

# %%
mel = audio.log_mel([wave], seconds, llm.encoder.mel_bins)[0].numpy()
clip_figures.plot_query_attention(
    where[0].numpy(), mel, clip.spans, seconds, headline="Where each query token looks in one clip"
)

# %% [markdown]
# Listen to what it looks at. The panel cuts out the quarter of the clip that has the most weight, of all query tokens or of one. Where no widget runs, a still of it stays.

# %%
desta_lab.ListenPanel(
    experiment,
    attention=replies.make_attention_profile(experiment, attention.query_attention_over_time),
)

# %% [markdown]
# ## Is it on the evidence?
#
# A *profile* is a weight for every moment of a clip, whatever method made it. Its weight lies on the scene or it does not. But a scene that fills most of a clip is easy to hit.
#
# ### Exercise 8.2 · Take the span's share away · fill in · 5 min
# `profile` is a NumPy array of n frames over `seconds`. The middle of frame i is at (i + ½) · seconds / n. A frame is in the span if its middle lies from `start` to `end`. Write `mass_above_share(profile, start, end, seconds)`:
#
# > mass above share = (positive weight in the span) / (all positive weight) − (frames in the span) / n
#
# Negative weight speaks against the answer, so it counts as 0. A flat profile scores 0.


# %% tags=["exercise"]
def mass_above_share(profile, start, end, seconds):
    ### BEGIN SOLUTION
    middles = (np.arange(len(profile)) + 0.5) * seconds / len(profile)
    inside = (start <= middles) & (middles < end)
    positive = profile.clip(min=0)
    return positive[inside].sum() / positive.sum() - inside.mean()
    ### END SOLUTION


# %%
lesson.check("mass_above_share", mass_above_share)

# %% [markdown] tags=["hint"]
# `(np.arange(n) + 0.5) * seconds / n` are the middles of all frames. Compare them with `start` and `end`: this gives an array of booleans that picks frames, and its mean is the share of frames.

# %%
measure = lesson.use("mass_above_share", mass_above_share, pieces.measure_mass, tensors=False)
profile = where[0].mean(0).numpy().astype(float)
found = float(measure(profile, span.start, span.end, seconds))
scored = evidence.score_profile(profile, [span], seconds)
np.testing.assert_allclose(found, scored["mass"] - scored["share"], atol=1e-6)
print(f"query attention, mass above share in this clip: {found:.3f}")

# %% [markdown]
# More than 0 may still be a habit. Scenes tend to lie in the middle of a clip. A method that always looks at the middle hits them without listening. So the control is *another clip's evidence*: the same profile is measured on the span of another speaker's clip.
#
# > gain = mass above share in the own span − mass above share in the other clip's span
#
# ### Exercise 8.3 · Say who finds the scene · predict · 4 min
# Predict two gains, each a mean over 16 clips. The first is that of the attention of all query tokens. The second is that of the Shapley values of windows of the waveform, which you will meet below. A gain of 0 is a habit. Even a profile that is the scene's window itself gains about 0.3 only, because the windows of two clips overlap.

# %%
lesson.predict("attention", "Gain of query attention?", -0.2, 0.6, step=0.02)

# %%
lesson.predict("shapley", "Gain of Shapley values of the waveform's windows?", -0.2, 0.6, step=0.02)

# %% [markdown]
# ## Does the picture need the training?
#
# ### Exercise 8.4 · Break the connector · break · 6 min
# An explanation of what was learned must change when the learning is taken away ([Adebayo et al., 2018](https://arxiv.org/abs/1810.03292)). `weights` is a dictionary of tensors. Write `scrambled(weights)`: a new dictionary in which each tensor holds the same numbers in random order. Leave `weights` as they were.


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
# `torch.randperm(tensor.numel())` is a random order of all its numbers. Use `flatten()` before it and `view_as(tensor)` after it.

# %% [markdown]
# We look at the same clip with two other sets of weights: your scrambled ones, and those of the untrained connector. The control is another clip with the trained weights. The number is the rank correlation with the profile that you saw, as a mean over query tokens.


# %%
def likeness(other):
    pairs = zip(where[0].numpy(), other[0].numpy(), strict=True)
    return np.mean([pd.Series(a).corr(pd.Series(b), method="spearman") for a, b in pairs])


deal = lesson.use("scrambled", scrambled, pieces.deal_numbers, tensors=False)
torch.manual_seed(0)
with attribution.replace_weights(llm.connector, deal(llm.connector.state_dict())):
    dealt = look_over_time(llm.connector, states)
with replies.use_checkpoint(experiment, 0) as untrained_llm:
    untrained = look_over_time(untrained_llm.connector, states)
another = llm.encoder.encode(look.read_waves([rows[number - 1]]))
stranger = look_over_time(llm.connector, another)

# %%
others = {"scrambled weights": dealt, "untrained": untrained, "another clip, trained": stranger}
pd.Series({name: likeness(other) for name, other in others.items()}, name="rank correlation").round(
    2
)

# %% [markdown]
# If the first two are near 0, the map needs the training and passes this test. The test does not say that the map explains the answer. A map can depend on every weight and still be about something else. If the third number is high, a part of the map is a habit that no clip changes.
#
# ## Where the answer looks
#
# The language model has attention of its own. It goes from the place where the answer begins back to the audio slots. The next figure shows it for every layer and head.

# %%
heads = look.table("heads")
explanation_figures.plot_answer_attention(
    heads, "Which heads look at the audio as the answer begins"
)

# %% [markdown]
# The right panel shows *pointing*. A head's weights on query tokens are carried on to the frames that these tokens look at. Pointing is the share of clips in which the peak lies inside the scene's window. Two numbers keep you from being impressed too soon: what a flat profile scores, and what the best of so many heads scores by luck (as if heads were independent).

# %%
summary = look.table("evidence")
flat = summary[(summary["null"] == "uniform") & (summary["measure"] == "pointing")]["value"].iloc[0]
lucky = np.random.default_rng(0).binomial(len(clips), flat, size=(10_000, len(heads))).max(
    1
).mean() / len(clips)
best = heads["pointing"].max()
print(f"pointing: best head {best:.2f}, flat {flat:.2f}, best of {len(heads)} flat {lucky:.2f}")

# %% [markdown]
# A head that looks need not matter. To find out, *knock it out*: set what it puts out to 0. A single head can hide, because another head may do the same work. So the run knocks out many at once: the heads that look at the audio most, and as many random heads (left panel). On the right nothing is taken away. The last layer's state is moved further away from that of silence, as in [Glazer et al. (2026)](https://arxiv.org/abs/2603.06854), beside random directions.

# %%
listening = look.table("listening_heads"), look.table("audio_direction")
explanation_figures.plot_listening(*listening, state_listening(*listening))

# %% [markdown]
# ## From looking to mattering
#
# Attention says what is weighed. *Attribution* says what the margin depends on. *Integrated gradients* ([Sundararajan et al., 2017](https://arxiv.org/abs/1703.01365)) walk on a straight line from the embeddings of silence, x₀, to those of the clip, x. On the way they collect the slope of the margin m:
#
# > attribution of feature j = (xⱼ − x₀ⱼ) · mean over the way of ∂m/∂xⱼ
#
# ### Exercise 8.5 · Integrate the gradient · fill in · 8 min
# Write `integrated_gradients(scalar, given, absent, steps)`. `given` is x and `absent` is x₀, both `(1, *feature)`. `scalar` is m: it takes a batch `(steps, *feature)` and gives one number for each row. Cut the way into `steps` equal parts, and take the gradient in the middle of each part. Return `(*feature)`.


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
# `points = absent + shares * (given - absent)` with `shares` of shape `(steps, 1, …, 1)`, then `points.requires_grad_()`. `torch.autograd.grad(scalar(points).sum(), points)` gives every point its own gradient, in a tuple.

# %% [markdown]
# captum is a library of attribution methods. It does the same with other points, so the two agree nearly. An audio embedding is many numbers, and what they add is summed: one number for each query token. *Completeness* says that these numbers sum to the whole way from silence to the clip. This checks the sum. It does not say that the explanation is any good.

# %%
collect = lesson.use("integrated_gradients", integrated_gradients, pieces.collect_slopes)
silence = conditions.embed_silence(llm).cpu()
of_query = collect(margin, audio_embeddings.cpu(), silence, 32).detach().sum(-1).flatten()
cases = attribution.query_cases(llm, task, [clip.attributes["scene"]], audio_embeddings)
package = attribution.attribute("integrated_gradients", cases)
torch.testing.assert_close(of_query, package.values[0], rtol=0.1, atol=0.1)
print(f"sum {of_query.sum():.2f} by {lesson.credit_of('integrated_gradients')},")
print(f"{package.values.sum():.2f} by captum; from silence to the clip {whole - nothing:.2f}")

# %% [markdown]
# Embeddings have no place in time. One can carry them on to the frames that each query attends to, but this trusts attention again. Or one cuts the waveform into windows of a quarter of a second and silences some of them. This trusts nothing but the silence. The *Shapley value* of a window is what the margin gains when this window is put back, as a mean over all orders in which windows can be put back. captum draws a few orders.

# %% tags=["slow"]
values = [clip.attributes["scene"]]
cases = attribution.window_cases(llm, task, values, [wave])
shapley = attribution.attribute("shapley", cases, samples=3)
print(
    f"{shapley.values.shape[1]} windows; sum {shapley.values.sum():.2f}, delta "
    f"{shapley.delta.item():.2f}"
)

# %% [markdown]
# Here are the three methods on one time axis. What lies below a strip's line is evidence against the answer.

# %%
strips = {"query attention": where[0].mean(0), "Shapley, windows": shapley.values[0]}
strips["int. gradients, queries"] = attribution.queries_to_frames(of_query[None], where)[0]
clip_figures.plot_time_profiles(
    mel, seconds, strips, clip.spans, "Three answers to where the scene was heard, in one clip"
)

# %% [markdown]
# ## Is that why?
#
# *Faithfulness* has a test: take away what an explanation calls important. If the explanation is right, the margin falls early.
#
# ### Exercise 8.6 · Delete what matters first · fill in · 7 min
# `worth` is `(part,)`: how important each part is. `of(kept)` takes a tensor of booleans `(batch, part)` and gives one margin for each row, with only these parts kept. Write `deletion_curve(of, worth)`, which returns the *deletion curve*: `part + 1` margins. The first has nothing taken away. The second lacks the most important part, the third the two most important ones, and so on until nothing is left.


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
# `worth.argsort(descending=True)` says which part is first. `argsort` of this says in which place each part stands. Row `n` keeps the parts whose place is `n` or later.

# %% [markdown]
# Your function deletes the windows of this clip in three orders: by their Shapley values, by query attention, and at random. An early fall means a good explanation. The package's curve for the Shapley values must be the same.


# %%
def by_window(profile, count):
    summed = np.r_[0, np.cumsum(profile)]
    return np.diff(np.interp(np.linspace(0, len(profile), count + 1), range(len(summed)), summed))


count, chance = cases[0].part_count, torch.Generator().manual_seed(0)
orders = {
    "Shapley values": (shapley.values[0], "-", "audio"),
    "query attention": (torch.tensor(by_window(profile, count)), (0, (5, 2)), "audio"),
    "chance": (torch.rand(count, generator=chance), "-.", "shuffled"),
}
delete = lesson.use("deletion_curve", deletion_curve, pieces.delete_parts)
curves = {name: delete(cases[0].evaluate, worth) for name, (worth, *_) in orders.items()}
package = attribution.deletion_curves(cases, shapley.values, [clip.id], draws=1)
package = package.query("curve == 'deletion' and order == 'attribution'")["margin"]
np.testing.assert_allclose(curves["Shapley values"], package, rtol=0.02, atol=0.05)

# %%
picture, axes = style.subplots(
    1, 1, f"One clip, silenced window by window (by {lesson.credit_of('deletion_curve')})"
)
for name, (_, line, colour) in orders.items():
    axes.plot(curves[name], ls=line, color=style.PALETTE[colour], label=name)
axes.axhline(0, **style.ZERO)
axes.set(xlabel="windows of 0.25 s taken away", ylabel="margin (nats)")
axes.legend(title="in the order of")
picture

# %% [markdown]
# The last point of every curve is silence. If it is above 0, the model leans to the right answer without hearing anything.
#
# The run's own table has this for all 16 clips, in the order of their Shapley values and in random order.

# %%
explanation_figures.plot_deletion(
    look.table("deletion"), "Taking sound away, and putting it back, window by window"
)

# %% [markdown]
# This table knows Shapley values alone. So the last measurement takes a quarter of the windows away from every clip: the quarter that a method calls most important. It compares the fall of the margin, clip by clip, with the fall for a random quarter.
#
# First the profiles. The run keeps one for each clip and method.
#
# - *Query attention* is yours, computed for all 16 clips.
# - *Answer attention* is that of the language model. *Answer rollout* multiplies it through the layers.
# - *Ablation* takes one part away at a time.
# - “queries” means that audio embeddings were judged and carried on to frames. “windows” means that windows of the waveform were judged.
# - One profile is added. The patching of notebook 06 says which query token carries the scene. If attention means anything, it should show in this token. (The token was chosen on clips that include these 16. This favours it a little.)

# %%
profile_table, ids = look.table("profiles"), [clip.id for clip in clips]
profiles = {
    name: some.pivot(index="clip", columns="place", values="value").loc[ids].to_numpy()
    for name, some in profile_table.groupby("method", sort=False)
}

# %%
moved = look.table("patching").query("attribute == 'scene' and query >= 0")
carrier = int(moved.loc[moved["moved"].idxmax(), "query"])
every = look_over_time(llm.connector, look.encoder_states(rows)).numpy().astype(float)
np.testing.assert_allclose(every.mean(1), profiles["query attention"], rtol=1e-3, atol=1e-5)
profiles["query attention"] = every.mean(1)
profiles[f"attention, query {carrier}"] = every[:, carrier]

# %% [markdown]
# Two controls are added. A flat profile must gain nothing. The scene's window itself is a profile that knows the span and nothing else. It is a yardstick and no upper limit, because some parts of a window may tell more than others.

# %%
frames = every.shape[-1]
windows = np.stack([evidence.inside_spans([span], frames, seconds).astype(float) for span in spans])
framed = {"a flat profile": np.ones((len(clips), frames)), "the window itself": windows}


# %%
partners = conditions.shuffled_partners(clips)


def mass_of(profile, span):
    if not (profile > 0).any():  # nothing in it speaks for the answer
        return np.nan
    return float(measure(profile, span.start, span.end, seconds))


# %%
def gains(profiles):
    cells = [
        (name, clip.id, clip.speaker, mass_of(profile, own), mass_of(profile, spans[partner]))
        for name, some in profiles.items()
        for profile, clip, own, partner in zip(some, clips, spans, partners, strict=True)
    ]
    wide = pd.DataFrame(cells, columns=["method", "clip", "speaker", "own", "other"])
    wide = wide.assign(gain=wide["own"] - wide["other"]).sort_values(["method", "clip"])
    found = statistics.bootstrap_intervals(wide, "gain", ["method"])
    rows = [
        (name, wide.loc[wide["method"] == name, "own"].mean(), *found[name,]) for name in profiles
    ]
    return pd.DataFrame(rows, columns=["method", "own", "gain", "gain_low", "gain_high"])


found = gains(profiles | framed)
gain = found.set_index("method")["gain"]
print(lesson.reveal("attention", gain["query attention"]))
print(lesson.reveal("shapley", gain["shapley, windows"]))
found.round(3)

# %% [markdown]
# `own` is the mass above share in the own span. `gain` is what is left of it after the other clip's. A large `own` with a small `gain` is a habit.
#
# Now the quarter. The controls are a random quarter, and a quarter drawn inside the scene's window. Both are drawn a few times.

# %%
PART, DRAWS = 0.25, 4


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
# Exercise 8.4 tested attention with other weights. The run's table has the same test for attributions: their rank correlation with those under an untrained connector and under scrambled weights.

# %%
look.table("randomisation").round(2)

# %% [markdown]
# ## Who finds the evidence, and is that why?
#
# Each row is one way to say where the answer came from. The left panel shows its gain: how much better it finds the own scene than another clip's. The right panel silences the quarter that it points at. It shows how much more the margin falls than for a random quarter. 0 means nothing on both sides. The bars are 95 % intervals over speakers, with one clip each.

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
    f"{tried['method'].str.contains(attends).sum()} kinds of attention ({len(clips)} clips, seed "
    f"{experiment.seed}: the counts move with both). Gains by "
    f"{lesson.credit_of('attention_over_time', 'mass_above_share')}"
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

# %% [markdown]
# ## What we now know
#
# Where does the weight lie? What does the answer depend on? These are two questions. The figure asks both of every method, beside the same controls.
#
# A row whose interval holds 0 was not shown to find the scene. This is not the same as shown *not* to find it. One row may be clear of 0 while another is not. This does not yet make the first one better: that would take their difference, clip by clip.
#
# Shapley values and ablation of windows are made from such deletions, so the right panel is no surprise for them. The left panel tests them, because they do not know the spans. The row of the window itself is the yardstick. Where its fall is small, a quarter of the scene can go because the rest of it still sounds.
#
# **What would change our mind**: more clips, because 16 clips give wide intervals, and one of so many methods may win by luck. Other seeds. Scenes that fill less of a clip. An attribute whose evidence is a word. Or another baseline than silence, which is itself a sound that training never had.
#
# Next: **09**, whether the model still follows instructions, and what it has forgotten.

# %%
lesson.card()
