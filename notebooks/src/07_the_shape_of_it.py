# %% [markdown]
# # 07 · The shape of it: what shape does sound take on its way into the language model?
#
# A clip enters the language model as a handful of vectors, its *audio embeddings*. A few hundred clips are a cloud of points, and a cloud has a shape: who lies beside whom. A description of the same clip enters as vectors too, so the language model knows two clouds of the same clips, one heard and one read.
#
# You will draw maps of the cloud before and after training, make noise look like a discovery, measure whether two clouds have the same shape with a measure that does not flatter, and end with one figure: does hearing take the shape of reading, and does it come to lie where reading lies?
#
# *Needs: 02 and 06, some linear algebra. 31 minutes of exercises; reading and running take about as long again.*

# %%
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from scipy.spatial.distance import cdist

import desta_lab
from desta_lab.analysis import geometry
from desta_lab.analysis.capture import pool_over_time
from desta_lab.evaluation import statistics
from desta_lab.model import chat
from desta_lab.views import representation_figures, style

lesson = desta_lab.setup("07")
experiment = lesson.experiment

# %% [markdown]
# One constant to turn: the attribute that colours the maps. Accent was the hardest for the probes of the run that ships (notebook 01). Try `"rate"` or `"scene"` afterwards.

# %%
COLOUR = "accent"

# %% [markdown]
# ## One clip, many sites
#
# Hear one clip of a speaker whom training never heard.

# %%
look = desta_lab.Inside.from_experiment(experiment)
desta_lab.show_players(experiment.corpus, look.clips[:1])

# %% [markdown]
# On its way that clip is a spectrogram, then frames of four encoder layers, then audio embeddings. Each of these places is a *site*. The next cell hears all clips of the held-out speakers and keeps what flows at every site: once under the untrained connector (step 0), once under the trained one.

# %% tags=["expensive"]
everyone = range(len(look.clips))
before = look.fixed_sites()
untrained, trained = (
    look.audio_embeddings(everyone, step).cpu().numpy() for step in (0, look.last)
)

# %%
sites = {"audio embeddings": trained, **before}
pd.Series(
    {name: tuple(site.shape[1:]) for name, site in sites.items()}, name="numbers of one clip"
).to_frame()

# %% [markdown]
# The sites before the connector are kept as mean and standard deviation over time. The audio embeddings are kept whole, queries × width. For what follows each clip is one long row.

# %%
heard = {0: untrained.reshape(len(untrained), -1), look.last: trained.reshape(len(trained), -1)}
labels = np.array(look.labels[COLOUR])
speakers = np.array(look.speakers)

# %% [markdown]
# ## A map by hand
#
# Thousands of numbers a clip cannot be looked at. *Principal component analysis* keeps the two directions in which the clips differ most.
#
# ### Exercise 7.1 · Draw the map by hand · fill in · 6 min
# Write `principal_map(site)`: from `(clip, feature)` to `(clip, 2)`, the clips on their first two principal components. `np.linalg.svd(…, full_matrices=False)` gives the directions, strongest first.


# %% tags=["exercise"]
def principal_map(site):
    ### BEGIN SOLUTION
    centred = site - site.mean(0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    return centred @ directions[:2].T
    ### END SOLUTION


# %%
lesson.check("principal_map", principal_map)

# %% [markdown] tags=["hint"]
# A direction starts from the middle of the cloud: take the mean clip away first. Of `u, s, v` the rows of `v` are the directions among the features.

# %% [markdown]
# The package draws the same map; a direction has no sign, so only sizes are compared. From here on the package's version is used.

# %%
points, trust = geometry.map_clips({look.last: heard[look.last]}, "pca")
mine = principal_map(heard[look.last])
if mine is not None:
    ours = points[["x", "y"]].to_numpy()
    torch.testing.assert_close(np.abs(mine), np.abs(ours), rtol=1e-2, atol=1e-2)

# %% [markdown]
# The run's own table of maps has every checkpoint, on the axes of the last one. *Trustworthiness* is 1 if neighbours on the map are neighbours in truth; *variance* is the share of it that two directions hold; *neighbours alike* says how often the 15 nearest clips of other speakers have the same value, and how often random labels would. Watch what happens to them, and to the colours, along training.

# %%
every = look.table("points")
representation_figures.plot_maps(
    every,
    every,
    COLOUR,
    f"Principal components of the audio embeddings, by {COLOUR}",
    purity=look.table("purity"),
)

# %% [markdown]
# UMAP bends the cloud to keep neighbours together. Its coordinates come from the run's table: importing and fitting it takes a minute, and another machine would draw another map.

# %%
representation_figures.plot_maps(
    every,
    every,
    COLOUR,
    f"The same clips through UMAP, by {COLOUR}",
    method="umap",
    purity=look.table("purity"),
)

# %% [markdown]
# How much of that is the drawing? The same data, the same method, another random seed:


# %%
def draw_map(axes, flat, title):
    look_of = {
        "hue": labels,
        "style": labels,
        "hue_order": sorted(set(labels)),
        "palette": "colorblind",
        "s": 18,
    }
    sns.scatterplot(x=flat[:, 0], y=flat[:, 1], ax=axes, **look_of)
    axes.set_title(title, loc="left")
    axes.set(xticks=[], yticks=[])
    axes.get_legend().remove()


# %%
last = every[(every["method"] == "umap") & (every["step"] == look.last)]
picture, panels = style.subplots(
    1, 2, f"One cloud through UMAP, two random seeds, by {COLOUR}", (7, 3.6)
)
for axes, (seed, rows) in zip(panels, last.groupby("seed"), strict=True):
    draw_map(axes, rows.sort_values("row")[["x", "y"]].to_numpy(), f"seed {seed}")
style.add_legend(picture, panels, columns=4)
picture

# %% [markdown]
# Islands, their distances and their sizes are made by the method. What a map may suggest has to be measured in the full space.
#
# ## A map is not evidence
#
# ### Exercise 7.2 · Make clusters out of noise · break · 7 min
# Take noise with many features, and wish for any groups you like. Write `wishful_axes(noise, groups)`. `noise` is `(clip, feature)`; `groups` is `(clip, group)`, with a 1 in the column of the clip's own group and 0 elsewhere. Return two directions, `(feature, 2)`, such that on the map `noise @ directions` the clips fall into these groups.


# %% tags=["exercise"]
def wishful_axes(noise, groups):
    ### BEGIN SOLUTION
    wanted = groups - groups.mean(0)
    directions, *_ = np.linalg.lstsq(noise, wanted, rcond=None)
    return directions[:, :2]
    ### END SOLUTION


# %%
lesson.check("wishful_axes", wishful_axes)

# %% [markdown] tags=["hint"]
# Every feature is one more unknown, and with enough of them `noise @ directions` can be nearly anything: `np.linalg.lstsq` finds the directions for which it comes nearest to `groups`.

# %% [markdown]
# Noise for as many clips, two features for three clips, coloured by a real attribute. On the left the noise on which the axes were chosen, on the right new noise on the same axes. While the exercise is open, the first two features stand in for the axes.

# %%
draw = np.random.default_rng(0)
noise, fresh = draw.normal(size=(2, len(labels), 2 * len(labels) // 3))
wished = wishful_axes(noise, pd.get_dummies(labels).to_numpy(float))
wished = np.eye(noise.shape[1])[:, :2] if wished is None else wished

# %%
picture, panels = style.subplots(1, 2, f"Noise, coloured by {COLOUR}", (7, 3.6))
draw_map(panels[0], noise @ wished, "the noise that chose the axes")
draw_map(panels[1], fresh @ wished, "new noise, the same axes")
style.add_legend(picture, panels, columns=4)
picture

# %% [markdown]
# Whoever lets the labels choose the picture (a supervised map, a probe's own directions, the prettiest of forty maps) will see clusters. Principal components never see a label, which is one reason to begin with them. The cure is the one of notebook 06: other speakers.
#
# So here is a question for the full space, with no map in it. Of the 15 nearest clips *of other speakers*, how many share the attribute?


# %%
def sharing(site, labels, near=15):
    apart = cdist(site, site)
    apart[speakers[:, None] == speakers] = np.inf
    return (labels[apart.argsort(1)[:, :near]] == labels[:, None]).mean(1)


# %% [markdown]
# The control deals the labels out at random.

# %%
shares = {f"step {step}": sharing(site, labels) for step, site in heard.items()}
shares["random labels"] = sharing(heard[look.last], draw.permutation(labels))
pd.DataFrame(shares).mean().round(2)

# %% [markdown]
# If the number at the last step is above the one at step 0, and both above random labels, the change of colours on the map was no trick of the map.
#
# ## Alike, or only large?
#
# *Centred kernel alignment* (CKA, [Kornblith et al., 2019](https://arxiv.org/abs/1905.00414)) compares two clouds of the same clips whatever their width: the inner products between clips on one side against those on the other. In its usual form it is three lines.


# %%
def usual_cka(x, y):
    x, y = x - x.mean(0), y - y.mean(0)
    k, l = x @ x.T, y @ y.T  # noqa: E741
    return (k * l).sum() / np.sqrt((k * k).sum() * (l * l).sum())


# %% [markdown]
# ### Exercise 7.3 · Say what noise scores · predict · 3 min
# Two matrices of *independent* noise, 128 clips × 896 features each, have nothing in common. What does `usual_cka` say of them? Then say how alike hearing and reading will be once the bias is gone: the trained audio embeddings against the descriptions of the same clips.

# %%
lesson.predict("noise", "Usual CKA of two independent noise matrices, 128 × 896?", 0, 1, step=0.05)

# %%
lesson.predict(
    "shape", "Debiased CKA of trained audio embeddings and descriptions?", 0, 1, step=0.05
)

# %%
x, y = np.random.default_rng(0).normal(size=(2, 128, 896))
lesson.reveal("noise", usual_cka(x, y))

# %% [markdown]
# Two clouds of nothing look alike, because every clip is like itself: the diagonals of `k` and `l`, the matrices of inner products (*Gram matrices*), are large. With more clips this bias shrinks, slowly. Most clouds in this course have fewer clips than features.

# %%
many = np.random.default_rng(1).normal(size=(2, 4096, 896))
pd.Series(
    {clips: usual_cka(*many[:, :clips]) for clips in (64, 128, 512, 2048)}, name="CKA of noise"
).round(2)

# %% [markdown]
# The numerator of CKA, the sum over `k * l`, is called HSIC. The repair is to leave out the pairs of a clip with itself, and to do the sums so that for independent clouds their mean over random draws is 0: equation 5 of Song et al. (2012), for Gram matrices whose diagonal was set to zero.


# %%
def hsic(k, l):  # noqa: E741
    n = len(k)
    pairs, whole, rows = (k * l).sum(), k.sum() * l.sum(), k.sum(0) @ l.sum(0)
    return (pairs + whole / ((n - 1) * (n - 2)) - 2 * rows / (n - 2)) / (n * (n - 3))


# %%
torch.testing.assert_close(
    hsic(geometry.gram_matrix(x), geometry.gram_matrix(y)),
    geometry.hsic(geometry.gram_matrix(x), geometry.gram_matrix(y)),
)

# %% [markdown]
# ### Exercise 7.4 · Take the bias out · fill in · 7 min
# Write `debiased_cka(x, y)` for `(clip, feature)` matrices of the same clips: Gram matrices of the centred clips, their diagonals set to zero, and `hsic` of both, divided by the geometric mean of what each has with itself, so that a cloud against itself scores 1.


# %% tags=["exercise"]
def debiased_cka(x, y):
    ### BEGIN SOLUTION
    k, l = ((site - site.mean(0)) @ (site - site.mean(0)).T for site in (x, y))  # noqa: E741
    np.fill_diagonal(k, 0)
    np.fill_diagonal(l, 0)
    return hsic(k, l) / np.sqrt(hsic(k, k) * hsic(l, l))
    ### END SOLUTION


# %%
lesson.check("debiased_cka", debiased_cka)

# %% [markdown] tags=["hint"]
# `np.fill_diagonal(k, 0)` changes `k` in place and returns nothing. The form is that of a correlation: `hsic(k, l)` over the root of `hsic(k, k)` times `hsic(l, l)`.

# %%
yours = debiased_cka(x, y)
if yours is not None:
    torch.testing.assert_close(yours, geometry.cka(x, y))
print(f"independent noise, debiased: {geometry.cka(x, y):.3f}")

# %% [markdown]
# Near 0, but how near is near? A *permutation null* says: the same two clouds with the clips of one in random order, a few hundred times. `geometry.compare` returns its 95th percentile as `null`, beside an interval from half-samples of the clips. Both treat clips as independent; clips of one speaker are not, so both are somewhat too narrow.

# %%
representation_figures.plot_similarity(
    look.table("similar_steps"), "How much of the untrained shape is left along training"
)

# %% [markdown]
# Read the first row: it says when the cloud changes and how much of its birth shape survives. Between the sites at the last step:

# %%
representation_figures.plot_similarity(
    look.table("similar_sites"), "Which sites lay out the clips alike"
)

# %% [markdown]
# Look at the last encoder layer: if it stands apart, the shape of the connector's output is more like that of the layers below. Likeness does not say where it was taken from.
#
# ## Hearing against reading
#
# Now the other cloud. A description enters the language model as token embeddings; their mean is one row a clip.

# %%
embed, tokenizer = look.llm.backbone.embed, look.llm.backbone.tokenizer
texts = [desta_lab.describe(clip.attributes) for clip in look.clips]
tokens = [
    embed(torch.tensor(chat.encode_text(tokenizer, text))).float().cpu().numpy() for text in texts
]
written = np.stack([row.mean(0) for row in tokens])
print(texts[0], written.shape)

# %% [markdown]
# CKA knows nothing of where a cloud lies, only of its shape. Against the shape of the descriptions: noise, the sound, every encoder layer, and the audio embeddings before and after training.

# %%
compared = {
    "noise (control)": noise,
    **{name: pool_over_time(site).numpy() for name, site in before.items()},
}
compared |= {"heard, untrained": heard[0], "heard, trained": heard[look.last]}
shape = pd.DataFrame(
    [{"site": name, **geometry.compare_with_null(site, written)} for name, site in compared.items()]
)
shape.round(3)

# %% [markdown]
# Where the cloud lies is another question, the *modality gap* ([Liang et al., 2022](https://arxiv.org/abs/2203.02053)). At step 0 this is the cosine between the mean audio embedding of a clip and its own description (1: the same direction, 0: none in common):

# %%
gap = look.table("gap")
start = gap[(gap["step"] == 0) & (gap["measure"] == "cosine to its own text")]["value"].item()
print(f"cosine to the own description at step 0: {start:.2f}")

# %% [markdown]
# ### Exercise 7.5 · Say whether the gap closes · predict · 2 min
# The connector was trained until the language model answers as if it had read the description. Does its output move towards the description?

# %%
lesson.predict(
    "cosine",
    f"Cosine to the own description after training (it began at {start:.2f})?",
    0,
    1,
    step=0.05,
)

# %% [markdown]
# ### Exercise 7.6 · Measure the gap in spreads · fill in · 6 min
# A distance without a scale says nothing: both clouds may have grown. Write `gap_in_spreads(a, b)` for two clouds `(clip, feature)`: the distance between their means, divided by one spread for both. For each cloud take the mean squared distance of its clips to its own mean; the spread is the root of the mean of these two numbers.


# %% tags=["exercise"]
def gap_in_spreads(a, b):
    ### BEGIN SOLUTION
    between = np.linalg.norm(a.mean(0) - b.mean(0))
    squares = [((cloud - cloud.mean(0)) ** 2).sum(1).mean() for cloud in (a, b)]
    return between / np.sqrt(np.mean(squares))
    ### END SOLUTION


# %%
lesson.check("gap_in_spreads", gap_in_spreads)

# %% [markdown] tags=["hint"]
# Each cloud has its own middle, `cloud.mean(0)`. Average the two squared spreads before you take the root.

# %%
rows = {}
for step, cloud in {0: untrained.mean(1), look.last: trained.mean(1)}.items():
    away = np.linalg.norm(cloud.mean(0) - written.mean(0))
    wide = np.sqrt(((cloud - cloud.mean(0)) ** 2).sum(1).mean())
    rows[f"step {step}"] = {
        "distance": away,
        "own spread": wide,
        "in spreads": gap_in_spreads(cloud, written),
    }
pd.DataFrame(rows).T.round(2)

# %% [markdown]
# Read all three. A gap can grow as a distance and shrink in spreads, because the cloud of what is heard opens while its middle walks away. No single number is “the” gap, so the next picture shows direction and length. The direction has two controls: the description of another speaker's clip, and in the place of the embeddings a sentence that says nothing of the clip.

# %%
representation_figures.plot_modality_gap(
    gap, "The gap along training: length, and direction against another clip's text"
)

# %% [markdown]
# If embeddings are no descriptions, are they words? Here are the vocabulary entries that each query lies nearest to, with the cosine. The word that a query was born as is in bold. A hatched cell is no nearer than a random direction is to *its* nearest word: with a large vocabulary, there is always a nearest one.

# %%
representation_figures.plot_nearest_words(
    look.table("words"), "The words that each query lies nearest to"
)

# %% [markdown]
# Judge them yourself: which queries left the word they were born as, and do the words that they came nearer to name a value they carry?
#
# Directions need no word. A *sparse autoencoder* finds a few hundred of them of which a few make up every embedding; the panel shows those whose presence tells a value better than any does under shuffled labels, and the clips that light one most.

# %%
desta_lab.FeaturePanel(look)

# %% [markdown]
# ## The shape of it
#
# One figure. Above, three maps made in the same way, each with its own principal components. Below, what may be believed: neighbours in the full space, shape (debiased CKA) and place (cosine), each with its control.

# %%
clouds = {"heard, untrained": heard[0], "heard, trained": heard[look.last], "read": written}
drawn = []
for name, site in clouds.items():
    flat, trusted = geometry.map_clips({0: site}, "pca")
    title = f"{name}\ntrustworthiness {trusted['trustworthiness'].iloc[0]:.2f}"
    drawn.append(flat[["x", "y"]].assign(part="map", name=title, label=labels))

# %% [markdown]
# Neighbours get an interval over speakers.

# %%
near = {"read, random labels": sharing(written, draw.permutation(labels))}
near |= {name: sharing(site, labels) for name, site in clouds.items()}
rows = [
    pd.DataFrame({"name": name, "share": share, "speaker": speakers})
    for name, share in near.items()
]
found = statistics.bootstrap_intervals(pd.concat(rows), "share", ["name"])
beside = pd.DataFrame(
    [(name, *found[name,]) for name in near], columns=["name", "value", "low", "high"]
)

# %%
alike = shape.rename(columns={"site": "name", "cka": "value"}).assign(part="shape")
along = gap[gap["measure"] != "norm ratio"].rename(columns={"measure": "name"}).assign(part="place")
table = pd.concat([*drawn, beside.assign(part="neighbours"), alike, along], ignore_index=True)


# %%
def draw_dots(axes, rows, xlabel):
    colours = {"heard, untrained": "untrained", "heard, trained": "audio", "read": "oracle"}
    for place, (_, row) in enumerate(rows.iterrows()):
        colour = style.PALETTE[colours.get(row["name"], "silence")]
        ends = [[row["value"] - row["low"]], [row["high"] - row["value"]]]
        axes.errorbar(row["value"], place, xerr=ends, fmt="o", color=colour, ms=5)
    style.name_rows(axes, list(rows["name"]))
    axes.set(xlim=(-0.05, 1), xlabel=xlabel)
    axes.set_title(rows["part"].iloc[0], loc="left")


# %%
def draw_place(axes, rows):
    for name, some in rows.groupby("name", sort=False):
        style.draw_line(axes, some, "step", "value", style.ANALYSIS_SERIES[name])
    style.set_step_axis(axes, int(rows["step"].max()))
    axes.set(ylim=(0, None), xlabel="training step", ylabel="cosine, heard to read")
    axes.set_title("place", loc="left")
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.18), "frameon": False}
    axes.legend(fontsize=7, title="bars and bands: 95 % interval", title_fontsize=7, **below)


# %%
def draw_all(table, headline):
    picture, (top, bottom) = style.subplots(2, 3, headline, (10.5, 6.6))
    for axes, (name, rows) in zip(
        top, table[table["part"] == "map"].groupby("name", sort=False), strict=True
    ):
        draw_map(axes, rows[["x", "y"]].to_numpy(), name)
        axes.set(xlabel="principal component 1", ylabel="principal component 2")
    top[0].legend(fontsize=7, handletextpad=0.1)
    draw_dots(
        bottom[0],
        table[table["part"] == "neighbours"],
        f"share of 15 neighbours of the same {COLOUR}",
    )
    rows = table[table["part"] == "shape"]
    draw_dots(bottom[1], rows, "debiased CKA with the descriptions")
    bottom[1].plot(
        rows["null"], range(len(rows)), "|", color="black", ms=9, label="permutation null (95 %)"
    )
    bottom[1].legend(fontsize=7)
    draw_place(bottom[2], table[table["part"] == "place"])
    return picture


# %% tags=["headline"]
*_, first, final = alike.itertuples()
ends = along[along["name"] == "cosine to its own text"].sort_values("step")
own = ends["value"]
nearer = "takes" if final.low > first.high else "does not take"
place = (
    "comes closer to" if ends["low"].iloc[-1] > ends["high"].iloc[0] else "does not come closer to"
)
place = "moves away from" if ends["high"].iloc[-1] < ends["low"].iloc[0] else place
headline = (
    f"Hearing {nearer} the shape of reading (CKA {first.value:.2f} before training, "
    f"{final.value:.2f} after) "
    f"and {place} its place (cosine {own.iloc[0]:.2f}, {own.iloc[-1]:.2f})"
)
lesson.show(
    draw_all(table, headline),
    f"Three maps above; below them neighbours, shape and place. {headline}.",
    table,
)

# %%
print(lesson.reveal("shape", final.value))
print(lesson.reveal("cosine", own.iloc[-1]))
beside.set_index("name").round(2)

# %% [markdown]
# ## What we now know
#
# A map suggests, and a measure with a null decides. The figure keeps two things apart that “alignment” mixes up: the *shape* of the cloud, which CKA sees through any rotation, and its *place*, about which the training loss says nothing. The frozen language model is no CKA: turn the cloud and its answers would change, so likeness of shape is not yet a reason for the answers. It says which of the two training has changed, and how much of the shape was there before training began: an untrained connector, a random projection of a good encoder, is no blank page.
#
# **What would change our mind**: a connector trained on bare labels that comes as close to the shape of the descriptions; other seeds that do not repeat it; and an embedding of descriptions better than a mean of tokens, which knows no word order. CKA also weighs large directions most: a small one that the answer uses may be missed. Notebook 06 erased directions and looked at what broke. And all intervals are over clips or speakers of one run.
#
# Next: **08**, where does it look, and is that why it answers?

# %%
lesson.card()
