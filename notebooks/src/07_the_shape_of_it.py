# %% [markdown]
# # 07 · The shape of it: what shape does sound take on its way into the language model?
#
# A clip enters the language model as a handful of vectors, its *audio embeddings*. A few hundred clips are a cloud of points. A cloud has a shape: it says which clips lie close together. A description of the same clip enters as vectors too. So the language model knows two clouds of the same clips: one is heard, and one is read.
#
# You will draw maps of the cloud before and after training. You will make noise look like a discovery. You will measure whether two clouds have the same shape, with a measure that does not flatter. The last figure asks two questions: does hearing take the shape of reading, and does it move to the place where reading lies? Its maps and its likeness of shape come from your functions where their checks pass, and from the package's elsewhere. The headline says whose code ran.
#
# *Needs: 02 and 06, some linear algebra. 31 minutes of exercises, about 20 of reading and running.*

# %%
import numpy as np
import pandas as pd
import torch
from scipy.spatial.distance import cdist
from sklearn.manifold import trustworthiness

import desta_lab
from desta_lab.analysis import geometry
from desta_lab.analysis.probe_sites import pool_over_time
from desta_lab.course.checks import notebook_07 as pieces
from desta_lab.evaluation import statistics
from desta_lab.model import chat
from desta_lab.views import representation_figures, style
from desta_lab.world.attributes import ATTRIBUTES

lesson = desta_lab.setup("07")
experiment = lesson.experiment

# %% [markdown]
# One constant to turn: the attribute that colours the maps. The accent was the hardest attribute for the probes of notebook 01. Try `"rate"` or `"scene"` afterwards.

# %%
COLOUR = "accent"

# %% [markdown]
# ## One clip, many sites
#
# Listen to one clip of a speaker whom training never heard.

# %%
look = desta_lab.Inside.from_experiment(experiment)
desta_lab.show_players(experiment.corpus, look.clips[:1])

# %% [markdown]
# On its way, this clip is first a spectrogram, then the frames of four encoder layers, then audio embeddings. Each of these places is a *site*. The next cell runs all clips of the held-out speakers and keeps what flows at every site. It does so twice: with the untrained connector (step 0) and with the trained one.

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
# The sites before the connector are kept as mean and standard deviation over time. The audio embeddings are kept whole, queries × width. From here on each clip is one long row.

# %%
heard = {0: untrained.reshape(len(untrained), -1), look.last: trained.reshape(len(trained), -1)}
labels = np.array(look.labels[COLOUR])
speakers = np.array(look.speakers)

# %% [markdown]
# ## A map by hand
#
# Nobody can look at thousands of numbers of a clip. *Principal component analysis* keeps the two directions in which the clips differ most.
#
# ### Exercise 7.1 · Draw the map by hand · fill in · 6 min
# Write `principal_map(site)`: from `(clip, feature)` to `(clip, 2)`. It returns each clip's place along the first two principal components. `np.linalg.svd(…, full_matrices=False)` gives the directions, the strongest first.


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
# A direction starts in the middle of the cloud, so take the mean clip away first. `u, s, v = np.linalg.svd(…)`: the rows of `v` are the directions among the features.

# %% [markdown]
# The package draws the same map. A direction has no sign: its opposite is as good. So each axis of your map is turned to point as the package's does.

# %%
project = lesson.use("principal_map", principal_map, pieces.project_clips, tensors=False)


def draw_by_hand(site):
    mine = np.asarray(project(site.astype(float)))
    theirs = geometry.map_clips({0: site}, "pca")[0][["x", "y"]].to_numpy()
    mine = mine * np.sign((mine * theirs).sum(0))
    torch.testing.assert_close(mine, theirs.astype(float), rtol=1e-2, atol=1e-2)
    return mine


print(f"the first three clips on the map, by {lesson.credit}:")
draw_by_hand(heard[look.last])[:3].round(2)

# %% [markdown]
# The run's own table has a map of every checkpoint. All of them use the axes of the last one. Three numbers stand above each map. *Trustworthiness* is 1 if neighbours on the map are also neighbours in the full space. *Variance* is the share of the variance that the two directions hold. *Neighbours alike* says how often the 15 nearest clips of other speakers have the same value, and how often random labels would have it. Watch these numbers and the colours along training.

# %%
every = look.table("points")
representation_figures.plot_maps(
    every,
    COLOUR,
    f"Principal components of the audio embeddings, by {COLOUR}",
    purity=look.table("purity"),
)

# %% [markdown]
# UMAP bends the cloud to keep neighbours together. Its coordinates come from the run's table, because UMAP takes a minute, and another machine would draw another map.

# %%
representation_figures.plot_maps(
    every,
    COLOUR,
    f"The same clips through UMAP, by {COLOUR}",
    method="umap",
    purity=look.table("purity"),
)

# %% [markdown]
# How much of this comes from the drawing? Here are the same data and the same method with another random seed.


# %%
def draw_map(axes, flat, title, axis):
    looks = zip(ATTRIBUTES[COLOUR], style.COLOURS, style.MARKERS, strict=False)
    for value, colour, marker in looks:
        ink = {"color": colour, "marker": marker, "edgecolor": "white", "s": 20, "lw": 0.4}
        axes.scatter(*flat[labels == value].T, label=value, **ink)
    axes.set_title(title, loc="left")
    axes.set(xticks=[], yticks=[], xlabel=f"{axis} 1", ylabel=f"{axis} 2")


# %%
last = every[(every["method"] == "umap") & (every["step"] == look.last)]
picture, panels = style.subplots(
    1, 2, f"One cloud through UMAP, two random seeds, by {COLOUR}", (7, 3.6)
)
for axes, (seed, rows) in zip(panels, last.groupby("seed"), strict=True):
    draw_map(axes, rows.sort_values("row")[["x", "y"]].to_numpy(), f"seed {seed}", "UMAP dimension")
style.add_legend(picture, panels, columns=4)
picture

# %% [markdown]
# The method makes the islands, their distances and their sizes. A map can only suggest. What it suggests has to be measured in the full space.
#
# ## A map is not evidence
#
# ### Exercise 7.2 · Make clusters out of noise · break · 7 min
# Take noise with many features, and wish for any groups you like. Write `wishful_axes(noise, groups)`. `noise` is `(clip, feature)`. `groups` is `(clip, group)`, with a 1 in the column of the clip's own group and 0 elsewhere. Return two directions, `(feature, 2)`. On the map `noise @ directions` the clips shall fall into the groups, as far apart as they can be: those of a group nearly on one point, and every group on a point of its own, be it three groups or four.


# %% tags=["exercise"]
def wishful_axes(noise, groups):
    ### BEGIN SOLUTION
    angles = 2 * np.pi * groups.argmax(1) / groups.shape[1]
    corners = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    directions, *_ = np.linalg.lstsq(noise, corners, rcond=None)
    return directions
    ### END SOLUTION


# %%
lesson.check("wishful_axes", wishful_axes)

# %% [markdown] tags=["hint"]
# Every feature is one more unknown. With enough unknowns, `noise @ directions` can be nearly anything. So choose a point of the map for every group, such as a corner of a polygon. `np.linalg.lstsq` finds the directions for which every clip comes nearest to the point of its group.

# %% [markdown]
# Here is noise for as many clips as we have, with two features for every three clips. A real attribute gives the colours. Left: the noise from which the axes were computed. Right: new noise on the same axes.

# %%
wish = lesson.use("wishful_axes", wishful_axes, pieces.wish_axes, tensors=False)
draw = np.random.default_rng(0)
noise, fresh = draw.normal(size=(2, len(labels), 2 * len(labels) // 3))
wished = np.asarray(wish(noise, pd.get_dummies(labels).to_numpy(float)))

# %%
picture, panels = style.subplots(1, 2, f"Noise, coloured by {COLOUR}", (7, 3.6))
draw_map(panels[0], noise @ wished, "the noise behind the axes", "chosen axis")
draw_map(panels[1], fresh @ wished, "new noise, the same axes", "chosen axis")
style.add_legend(picture, panels, columns=4)
picture

# %% [markdown]
# Labels that choose the picture make clusters. A supervised map does this. So do a probe's own directions, and so does the prettiest of forty maps. Principal components never see a label, and this is one reason to begin with them. The cure is the one of notebook 06: test on other speakers.
#
# The next question needs no map. It looks at the full space. Of the 15 nearest clips *of other speakers*, how many share the attribute?


# %%
def sharing(site, labels, near=15):
    apart = cdist(site, site)
    apart[speakers[:, None] == speakers] = np.inf
    return (labels[apart.argsort(1)[:, :near]] == labels[:, None]).mean(1)


# %% [markdown]
# The control gives every clip a random label. `geometry.neighbour_purity` must find the same share.

# %%
shares = {f"step {step}": sharing(site, labels) for step, site in heard.items()}
shares["random labels"] = sharing(heard[look.last], draw.permutation(labels))
theirs = geometry.neighbour_purity(heard[look.last], list(labels), list(speakers))["purity"]
torch.testing.assert_close(shares[f"step {look.last}"].mean(), theirs, rtol=0, atol=1e-3)
pd.DataFrame(shares).mean().to_frame("share of neighbours alike").round(2)

# %% [markdown]
# Is the share at the last step above the share at step 0, and are both above random labels? Then the change of colours was not made by the map.
#
# ## Alike, or only large?
#
# *Centred kernel alignment* (CKA, [Kornblith et al., 2019](https://arxiv.org/abs/1905.00414)) compares two clouds of the same clips. The clouds may have different widths. Take the mean clip away on both sides. K holds the inner products between all pairs of clips of the first cloud, and L those of the second. Then
#
# > CKA = HSIC(K, L) / √( HSIC(K, K) · HSIC(L, L) )
#
# In its usual form HSIC(K, L) is the sum over all products Kᵢⱼ · Lᵢⱼ. CKA is 1 for clouds of the same shape.


# %%
def usual_cka(x, y):
    x, y = x - x.mean(0), y - y.mean(0)
    k, l = x @ x.T, y @ y.T  # noqa: E741
    return (k * l).sum() / np.sqrt((k * k).sum() * (l * l).sum())


# %% [markdown]
# ### Exercise 7.3 · Say what noise scores · predict · 3 min
# Two matrices of *independent* noise, 128 clips × 896 features each, have nothing in common. What does `usual_cka` say about them? The second question is about the real clouds: the trained audio embeddings and the descriptions of the same clips. How alike will they be by a CKA without bias?

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
# Two clouds of nothing look alike. The reason is that every clip is like itself: the diagonals of `k` and `l`, the matrices of inner products (*Gram matrices*), are large. The bias shrinks with more clips, but slowly. Most clouds in this course have fewer clips than features.

# %%
many = np.random.default_rng(1).normal(size=(2, 4096, 896))
pd.Series(
    {clips: usual_cka(*many[:, :clips]) for clips in (64, 128, 512, 2048)}, name="CKA of noise"
).round(2)

# %% [markdown]
# The repair is another HSIC. It leaves out the pairs of a clip with itself, and its mean over random draws of independent clouds is 0. This is equation 5 of Song et al. (2012). It wants Gram matrices whose diagonals are zero.


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
# Write `debiased_cka(x, y)` for two `(clip, feature)` matrices of the same clips. Make the Gram matrices of the centred clips. Set their diagonals to zero. Then use the formula of CKA above with the `hsic` of the last cell, so that a cloud scores 1 against itself.


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
# `np.fill_diagonal(k, 0)` changes `k` in place and returns nothing.

# %%
alike = lesson.use("debiased_cka", debiased_cka, geometry.cka, tensors=False)
torch.testing.assert_close(float(alike(x, y)), geometry.cka(x, y))
print(f"independent noise, debiased: {alike(x, y):.3f}, by {lesson.credit_of('debiased_cka')}")

# %% [markdown]
# This is near 0. How near is near enough? A *permutation null* answers: put the clips of one cloud in random order, measure again, and do so a few hundred times. `geometry.compare_with_null` returns the 95th percentile as `null`. It also returns an interval from half-samples of the clips. Both treat clips as independent. Clips of one speaker are not, so both are a little too narrow.

# %%
representation_figures.plot_similarity(
    look.table("similar_steps"), "How much of the untrained shape is left along training"
)

# %% [markdown]
# Read the first row. It says when the cloud changes, and how much of its first shape is left. The next figure compares the sites at the last step.

# %%
representation_figures.plot_similarity(
    look.table("similar_sites"), "Which sites lay out the clips alike"
)

# %% [markdown]
# Look at the last encoder layer. If it stands apart, the connector's output has a shape more like that of the layers below. Likeness does not say where the shape was taken from.
#
# ## Hearing against reading
#
# Now the other cloud. A description enters the language model as token embeddings. Their mean is one row for each clip.

# %%
embed, tokenizer = look.llm.backbone.embed, look.llm.backbone.tokenizer
texts = [desta_lab.describe(clip.attributes) for clip in look.clips]
tokens = [
    embed(torch.tensor(chat.encode_text(tokenizer, text))).float().cpu().numpy() for text in texts
]
written = np.stack([row.mean(0) for row in tokens])
print(texts[0], written.shape)

# %% [markdown]
# CKA knows the shape of a cloud and not its place. The next table compares the shape of the descriptions with the shapes of other clouds: noise, the sound, every encoder layer, and the audio embeddings before and after training. The column `cka` comes from your function.

# %%
compared = {
    "noise (control)": noise,
    **{name: pool_over_time(site).numpy() for name, site in before.items()},
}
compared |= {"heard, untrained": heard[0], "heard, trained": heard[look.last]}
shape = pd.DataFrame(
    [
        {"site": name, **geometry.compare_with_null(site, written), "cka": alike(site, written)}
        for name, site in compared.items()
    ]
)
lesson.lock("shape")  # the next line tells its answer
shape.round(3)

# %% [markdown]
# The place of the cloud is another question: the *modality gap* ([Liang et al., 2022](https://arxiv.org/abs/2203.02053)). One measure of it is the cosine between the mean audio embedding of a clip and its own description. 1 means the same direction, and 0 means that they have none in common. This is the cosine at step 0.

# %%
gap = look.table("gap")
start = gap[(gap["step"] == 0) & (gap["measure"] == "cosine to its own text")]["value"].item()
print(f"cosine to the own description at step 0: {start:.2f}")

# %% [markdown]
# ### Exercise 7.5 · Say whether the gap closes · predict · 2 min
# Training made the language model answer as if it had read the description. Did the connector's output move towards the description?

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
# A distance without a scale says nothing, because both clouds may have grown. Write `gap_in_spreads(a, b)` for two clouds `(clip, feature)`:
#
# > gap = ‖ mean of a − mean of b ‖ / √( (s²ₐ + s²_b) / 2 )
#
# s² of a cloud is the mean squared distance of its clips to its own mean.


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
spreads_apart = lesson.use("gap_in_spreads", gap_in_spreads, pieces.measure_gap, tensors=False)
rows = {}
for step, cloud in {0: untrained.mean(1), look.last: trained.mean(1)}.items():
    rows[f"step {step}"] = {
        "distance": pieces.measure_distance(cloud, written),
        "spread of the heard cloud": pieces.measure_spread(cloud),
        "gap in spreads": spreads_apart(cloud, written),
    }
pd.DataFrame(rows).T.round(2)

# %% [markdown]
# Compare all three columns. A gap can grow as a distance and shrink in spreads. Then the middle of the heard cloud has moved away, and the cloud has grown wider by more. So no single number is “the” gap. The next figure shows length and direction. The direction has two controls. One is the description of another speaker's clip. The other puts a sentence that says nothing about the clip in the place of the embeddings.

# %%
lesson.lock("cosine")  # the figure tells its answer
representation_figures.plot_modality_gap(
    gap, "The gap along training: length, and direction against another clip's text"
)

# %% [markdown]
# The embeddings are no descriptions. Are they words? The next figure shows the words of the vocabulary that each query lies nearest to, with the cosine. The word in bold is the one that the query began as. A large vocabulary always has a nearest word. So a cell is hatched if it is no nearer than a random direction is to *its* nearest word.

# %%
representation_figures.plot_nearest_words(
    look.table("words"), "The words that each query lies nearest to"
)

# %% [markdown]
# Judge for yourself. Which queries left the word that they began as? Do their new words name a value that they carry?
#
# A direction needs no word. A *sparse autoencoder* finds a few hundred directions, and it builds every embedding from a few of them. The panel shows the directions that tell a value better than any direction does under shuffled labels. It also shows the clips in which a direction is strongest.

# %%
desta_lab.FeaturePanel(look)

# %% [markdown]
# ## The shape of it
#
# One figure. Its upper row has three maps, drawn by your function, each on its own principal components. Its lower row has the measures, each with its control: neighbours in the full space, shape (debiased CKA) and place (cosine).

# %%
clouds = {"heard, untrained": heard[0], "heard, trained": heard[look.last], "read": written}
drawn = []
for name, site in clouds.items():
    flat = draw_by_hand(site)
    title = f"{name}\ntrustworthiness {trustworthiness(site, flat, n_neighbors=15):.2f}"
    cells = {"x": flat[:, 0], "y": flat[:, 1], "part": "map", "name": title, "label": labels}
    drawn.append(pd.DataFrame(cells))

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
likeness = shape.rename(columns={"site": "name", "cka": "value"}).assign(part="shape")
along = gap[gap["measure"] != "norm ratio"].rename(columns={"measure": "name"}).assign(part="place")
table = pd.concat([*drawn, beside.assign(part="neighbours"), likeness, along], ignore_index=True)


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
    lowest = min(0, rows["low"].min() - 0.02)  # another clip's text may lie below 0
    axes.set(ylim=(lowest, None), xlabel="training step", ylabel="cosine, heard to read")
    axes.set_title("place", loc="left")
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.18), "frameon": False}
    axes.legend(fontsize=7, title="bars and bands: 95 % interval", title_fontsize=7, **below)


# %%
def draw_all(table, headline):
    picture, (top, bottom) = style.subplots(2, 3, headline, (10.5, 6.6))
    for axes, (name, rows) in zip(
        top, table[table["part"] == "map"].groupby("name", sort=False), strict=True
    ):
        draw_map(axes, rows[["x", "y"]].to_numpy(), name, "principal component")
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
*_, first, final = likeness.itertuples()
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
    f"and {place} its place (cosine {own.iloc[0]:.2f}, {own.iloc[-1]:.2f}; "
    f"seed {experiment.seed}). "
    f"Maps and CKA by {lesson.credit_of('principal_map', 'debiased_cka')}"
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
# A map suggests, and a measure with a null decides. People say “alignment” for two different things, and the figure keeps them apart. One is the *shape* of the cloud: CKA sees it, however the cloud is turned. The other is its *place*, and the training loss says nothing about it.
#
# The language model does not work as CKA does: turn the cloud, and its answers would change. So a like shape is not yet a reason for the answers. The figure does say which of the two training has changed. It also says how much of the shape was there before training. An untrained connector is a random projection of a good encoder, and this is no blank page.
#
# **What would change our mind**: a connector trained on bare labels that comes as close to the shape of the descriptions. Other seeds that do not repeat it. An embedding of descriptions that is better than a mean of tokens, which knows no word order. Also, CKA weighs large directions most, so it may miss a small one that the answer uses. Notebook 06 erased directions and looked at what broke. All intervals are over clips or speakers of one run.
#
# Next: **08**, where the model looks, and whether that is why it answers.

# %%
lesson.card()
