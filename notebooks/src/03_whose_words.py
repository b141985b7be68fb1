# %% [markdown]
# # 03 · Targets: whose words should the connector learn to draw out?
#
# For every clip there is a text description. For every description there is a *target*: the response that training tries to get from the frozen language model when it hears the clip. Somebody has to write this response. It can be a bare label. It can be a form that a program fills in. It can be the text of another writer. Or it is the text of the language model itself, which reads the description and answers (DeSTA2, [Lu et al., 2024](https://arxiv.org/abs/2409.20007), and DeSTA2.5-Audio, [Lu et al., 2025](https://arxiv.org/abs/2507.02768)).
#
# You will watch the model write. You will measure how much each writer's words surprise the model (*perplexity*), and how much of the clip they keep (*coverage*). You will search for descriptions that leak into the prompt, and you will cut a target short. The last figure sets perplexity beside coverage, for every writer and for three controls. Your functions measure both. Where an exercise is open, the package's function takes its place, and the headline says whose code ran.
#
# *Needs: 00; softmax and cross-entropy. 33 minutes of exercises, about 20 of reading and running.*

# %%
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

import desta_lab
from desta_lab.course.checks import notebook_03 as pieces
from desta_lab.evaluation.tasks import TRAINED_PROMPT
from desta_lab.experiments.quickstart import all_targets
from desta_lab.model import chat
from desta_lab.training import targets
from desta_lab.views import claim_figures, style
from desta_lab.world.attributes import ATTRIBUTES, DESCRIBED
from desta_lab.world.describe import attribute_coverage, describe, surface_words

lesson = desta_lab.setup("03")
experiment = lesson.experiment
backbone = experiment.llm.backbone

# %% [markdown]
# ## From attributes to a description
#
# This is one clip of a training voice, and all that is known about it.

# %%
train = experiment.clips("train")
clip = train[0]
desta_lab.show_players(experiment.corpus, [clip])

# %%
pd.Series(clip.attributes, name=clip.id).to_frame()

# %% [markdown]
# `describe` puts six of the seven attributes into one sentence. The topic is left out on purpose. No target ever mentions it, and rung 5 of the task ladder asks about it.

# %%
description = describe(clip.attributes)
description

# %% [markdown]
# ## Watch the backbone write
#
# The backbone reads the description and then the one prompt of this course, “Paraphrase the description.” It answers greedily: it always takes the likeliest token. Its answer is the *self-generated target*. The next cell writes two of them.

# %%
pairs = [(describe(c.attributes), TRAINED_PROMPT) for c in train[:2]]
live = targets.generate_targets(
    backbone,
    experiment.preset.backbone,
    experiment.llm.provenance["backbone_sha256"],
    pairs,
    kind="soft",
)
pd.DataFrame([{"reads": one.description, "writes": one.response} for one in live.values()])

# %% [markdown]
# The others were written before: one for each different description. The hash of their writer is kept with them. The two that you saw should be among them.

# %%
rows, soft = experiment.targets.rows, experiment.targets.soft
kept = {row.description: row.response for row in rows}
same = sum(kept[one.description] == one.response for one in live.values())
print(
    f"{len(train)} clips, {len(rows)} different descriptions; {same} of 2 written again word "
    "for word"
)

# %% [markdown]
# ## The rivals
#
# Other writers could have made the target. `all_targets(experiment)` holds two of them. A *label* is the bare value of one attribute. A *template* is a form that a program fills in.

# %%
NAMES = {"self": "self-generated", "label": "bare label", "other": "another writer"}
NAMES |= {"template": "template"}
kinds = all_targets(experiment)
firsts = [
    {"writer": NAMES[kind], "prompt": some[0].prompt, "target": some[0].response}
    for kind, some in kinds.items()
]
pd.DataFrame(firsts)

# %% [markdown]
# A third rival is the text of *another* language model. On preset nano there is no other model, so a program stands in for it. It writes the same facts as a fluent sentence, in words that the backbone would not choose.

# %%
first = {describe(c.attributes): c.attributes for c in reversed(train)}
attributes = [first[row.description] for row in rows]
SAY = {
    "female": "woman",
    "male": "man",
    "American": "America",
    "Scottish": "Scotland",
    "Caribbean": "Jamaica",
    "slow": "slowly",
    "fast": "quickly",
    "quiet": "softly",
    "loud": "loudly",
    "spoken": "talking",
    "whispered": "whispering",
    "rain": "rain",
    "siren": "a siren",
    "birds": "birds",
    "music": "music",
}


# %%
def rewritten(a):
    who, place, speed, volume, manner, scene = (SAY[a[name]] for name in DESCRIBED)
    return f"Over {scene} you can hear a {who} from {place} {manner} {speed} and {volume}."


kinds.setdefault(
    "other",
    [
        replace(row, response=rewritten(a), ids=None, kind="other")
        for row, a in zip(rows, attributes, strict=True)
    ],
)
kinds["other"][0].response

# %% [markdown]
# ### Exercise 3.1 · Bet on the surprise · predict · 4 min
# *Perplexity* says how much a text surprises a reader. It is 1 for a reader who foresaw every token. It is 10 for a reader who was as unsure at each token as between ten equal choices. Our reader is the backbone, and it has read the description. Make two bets.

# %%
lesson.predict(
    "template",
    "Template against self-generated: how many powers of ten more perplexity?",
    0,
    10,
    step=0.5,
)

# %%
lesson.predict(
    "shuffled", "Self-generated targets of the WRONG clip: which perplexity?", 1, 21, step=0.5
)

# %% [markdown]
# ## Perplexity by hand
#
# The next cell holds one conversation as token ids: the system's message, the user's message with the description, and then the response, from position `start` on. At every position the backbone gives logits over its whole vocabulary. The logits at position *t* are a guess about token *t + 1*.

# %%
one = rows[0]
messages = chat.description_messages(one.description, one.prompt)
stream = chat.build_stream(
    backbone.tokenizer, messages, 0, response=one.response, truncated=one.truncated
)
ids = torch.tensor(stream.ids)
with torch.no_grad():
    logits = backbone.logits(backbone.hidden_states(backbone.embed(ids[None])))[0].cpu()
print("ids", tuple(ids.shape), "· logits (position, vocabulary)", tuple(logits.shape))
print("the response begins at position", stream.start)

# %% [markdown]
# ### Exercise 3.2 · Measure a reader's surprise · fill in · 9 min
# The reader gives each token *w* of the response a probability *p*. The *surprise* of the token is −log *p*, in *nats* (the logarithm is the natural one). For a response of *T* tokens
#
# > perplexity = exp( (surprise of w₁ + … + surprise of w_T) / T )
#
# Write `perplexity(logits, ids, start)` for one conversation. `logits` is [position, vocabulary] and `ids` is [position]. The response runs from `start` to the end.


# %% tags=["exercise"]
def perplexity(logits, ids, start):
    ### BEGIN SOLUTION
    logp = logits.log_softmax(-1)
    nats = -logp[start - 1 : -1].gather(1, ids[start:, None])
    return nats.mean().exp()
    ### END SOLUTION


# %%
lesson.check("perplexity", perplexity)

# %% [markdown] tags=["hint"]
# The position before `start` guesses the first response token. The last position guesses a token that nobody wrote. `tensor.gather(1, ids[:, None])` picks one column in every row.

# %% [markdown]
# Your function must agree with the package on this target. The second line shows a slip that runs without an error: it reads the logits one position late. The backbone wrote these words itself, so such a number cannot be right.

# %%
surprise = lesson.use("perplexity", perplexity, pieces.measure_perplexity)
mine = float(surprise(logits, ids, stream.start))
theirs = targets.target_perplexity(backbone, [one])
torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=0)
print(f"by {lesson.credit}: {mine:.4f}; by the package: {theirs:.4f}")
print(f"one position late: {float(surprise(logits.roll(-1, 0), ids, stream.start)):.3g}")

# %% [markdown]
# From here on this function reads every target. `conversations` gives it what it needs: the backbone's guesses about each target, the target's tokens, and where they start. The prompt is left out, because nobody asks how surprising it is.


# %%
def conversations(some):
    for logp, response in targets.text_log_probs(backbone, some):
        yield torch.cat([logp, logp[-1:]]), torch.tensor([0, *response]), 1


def nats_and_tokens(some):  # (target, 2): all its surprise, and how many tokens it has
    read = [(float(surprise(*seen)), len(seen[1]) - 1) for seen in conversations(some)]
    return np.array([(np.log(each) * tokens, tokens) for each, tokens in read])


def perplexity_of(some):
    nats, tokens = nats_and_tokens(some).sum(0)
    return float(np.exp(nats / tokens))


# %% [markdown]
# ## Which tokens carry the clip?
#
# Three readers see the same target, token by token. The first has read the clip's description, the second another clip's, the third nothing. Where a column changes its colour from row to row, the token says something about the clip. Where it does not, the token belongs to the manner of speaking. (One over the perplexity of a single token is its probability.)


# %%
def sureness(reads):
    logits, ids, first = next(conversations([replace(one, description=reads)]))
    cuts = range(first, len(ids))
    return [1 / float(surprise(logits[: i + 1], ids[: i + 1], i)) for i in cuts]


wrong = next(
    row
    for row, a in zip(rows, attributes, strict=True)
    if all(a[n] != attributes[0][n] for n in DESCRIBED)
)
readers = {
    "its description": one.description,
    "another description": wrong.description,
    "nothing": "",
}
strip = np.array([sureness(reads) for reads in readers.values()])
words = [style.printable(backbone.tokenizer.decode([i])) for i in stream.response]

# %%
picture, axes = style.subplots(
    1, 1, "How sure the reader is of each token of one target", (10, 2.6)
)
image = axes.imshow(strip, aspect="auto", cmap="mako_r", vmin=0, vmax=1)
axes.set_xticks(
    range(len(words)), words, rotation=60, ha="right", rotation_mode="anchor", fontsize=8
)
axes.set_yticks(range(3), list(readers))
axes.set(ylabel="the reader has read", xlabel="token of the target, in order")
picture.colorbar(image, ax=axes, label="probability", pad=0.01)
picture

# %% [markdown]
# A *soft target* keeps more than the token that won. At every position it keeps the 50 likeliest tokens with their log-probabilities. The table shows the first tokens of the target with their closest rivals. Where a rival has much probability, the writer could nearly as well have written that token.

# %%
pd.DataFrame(
    [
        {"written": backbone.tokenizer.decode([token])}
        | {
            f"guess {k + 1}": f"{backbone.tokenizer.decode([int(guess[k])])!r} {share[k].exp():.2f}"
            for k in range(3)
        }
        for token, guess, share in list(
            zip(stream.response, soft[0].ids, soft[0].logp.float(), strict=True)
        )[:8]
    ]
)

# %% [markdown]
# ## What a target drops it cannot teach
#
# *Coverage* is the share of a clip's attributes that a target names rightly. A target names a value if it holds one of the value's words. For “male” the words are “male”, “man” and “he”, among others.
#
# ### Exercise 3.3 · Find a word, not a part of one · fill in · 6 min
# Write `says(text, words)`. It returns `True` if the text holds one of the words as a whole word, and else `False`. The words are given in small letters. The text may have capitals, and punctuation around a word.


# %% tags=["exercise"]
def says(text, words):
    ### BEGIN SOLUTION
    held = {part.strip(".,;:!?\"'“”()") for part in text.lower().split()}
    return bool(held & set(words))
    ### END SOLUTION


# %%
lesson.check("says", says)

# %% [markdown] tags=["hint"]
# Split the text at blanks. Strip the punctuation from each part. Compare whole parts with whole words.

# %% [markdown]
# A target names an attribute rightly if it says the right value and no other one. Your function decides what it says. The package has a rule of its own, which also knows “not” and hyphens. The line shows how far the two are apart.


# %%
say = lesson.use("says", says, pieces.names_word, tensors=False)


def names_rightly(text, name, value):
    return {v for v in ATTRIBUTES[name] if say(text, surface_words(name, v))} == {value}


def named_by(some):  # (target, attribute)
    pairs = zip(some, attributes, strict=True)
    return np.array([[names_rightly(t.response, n, a[n]) for n in DESCRIBED] for t, a in pairs])


named = {
    kind: dict(zip(DESCRIBED, named_by(some).mean(0), strict=True)) for kind, some in kinds.items()
}
apart = max(
    abs(named[kind][name] - theirs)
    for kind, some in kinds.items()
    for name, theirs in attribute_coverage([t.response for t in some], attributes).items()
)
print(f"coverage by {lesson.credit_of('says')}; at most {apart:.2f} from the package's rule")

# %%
share = (
    pd.DataFrame(named)
    .rename_axis("attribute")
    .reset_index()
    .melt("attribute", var_name="kind", value_name="share")
)
claim_figures.plot_coverage(share, "What a target drops it cannot teach")

# %% [markdown]
# ## Hunt for leaks
#
# A training example holds the messages that the backbone will see. `<|AUDIO|>` stands in them for the clip. The description must not be there. A model that can read the answer does not need to hear it.

# %%
examples, _ = experiment.training_rows("self")
pd.Series(examples[0]).drop(["messages", "provenance"]).to_frame("example")

# %%
examples[0]["messages"]

# %% [markdown]
# ### Exercise 3.4 · Search the messages · fill in · 7 min
# `examples` are dicts like the one above. Write `find_leaks(examples)`. It returns the ids of the examples that leak, as a list. An example leaks if any of its messages holds its own `seed_description`, in small letters or capitals. The response may hold the description: the response is what is learned.


# %% tags=["exercise"]
def find_leaks(examples):
    ### BEGIN SOLUTION
    def leaks(row):
        shown = " ".join(message["content"] for message in row["messages"])
        return row["seed_description"].lower() in shown.lower()

    return [row["id"] for row in examples if leaks(row)]
    ### END SOLUTION


# %%
lesson.check("find_leaks", find_leaks)

# %% [markdown] tags=["hint"]
# `row["messages"]` is a list of `{"role": …, "content": …}`. The backbone sees every one of them, the system's too.

# %% [markdown]
# Search the real training examples. Then plant one leak, to see that the search would have found one.

# %%
search = lesson.use("find_leaks", find_leaks, pieces.list_leaks, tensors=False)
leak = chat.audio_messages(f"{rows[0].description} {TRAINED_PROMPT}")
planted = {**examples[0], "seed_description": rows[0].description, "messages": leak}
print(
    f"{len(search(examples))} of {len(examples)} examples leak, and {len(search([planted]))} of 1"
)

# %% [markdown]
# The builder of examples searches too, and refuses. Put the description into the prompt and see.

# %%
try:
    targets.training_row(
        clip.id, replace(rows[0], prompt=f"{rows[0].description} {TRAINED_PROMPT}"), "spoken"
    )
except targets.TargetError as refusal:
    print(refusal)

# %% [markdown]
# ### Exercise 3.5 · Smuggle a description past the builder · break · 7 min
# A search for a sentence cannot find the same facts in other words. A `target` is a row of `rows`. It has the fields `description`, `prompt` and `response`. Write `smuggled(target)`: a copy whose `prompt` gives away at least three of the clip's attributes and still passes the builder. Leave the description and the response as they are.


# %% tags=["exercise"]
def smuggled(target):
    ### BEGIN SOLUTION
    return replace(target, prompt=f"{target.response}\n{target.prompt}")
    ### END SOLUTION


# %%
lesson.check("smuggled", smuggled)

# %% [markdown] tags=["hint"]
# `replace(target, prompt=…)` makes the copy. Somebody has already said the same as the description, in other words. Look into the target itself.

# %% [markdown]
# What does a leak do? In the next table the backbone reads no description and hears nothing. It has the prompt alone. A perplexity near 1 means that the prompt already tells the answer. Then a connector has nothing left to learn. The last column says how many of these leaks the search of exercise 3.4 finds.

# %%
smuggle = lesson.use("smuggled", smuggled, pieces.tell_in_other_words, tensors=False)
some = rows[:64]
prompts = {
    "clean": [row.prompt for row in some],
    "the description leaks": [f"{row.description}\n{row.prompt}" for row in some],
    "smuggled in": [smuggle(row).prompt for row in some],
}


def unheard(prompts):
    blind = [replace(row, description="", prompt=p) for row, p in zip(some, prompts, strict=True)]
    shown = [
        {"id": p, "seed_description": row.description, "messages": chat.audio_messages(p)}
        for row, p in zip(some, prompts, strict=True)
    ]
    return {"perplexity": round(perplexity_of(blind), 3), "found": len(search(shown))}


pd.DataFrame([{"prompt": name, **unheard(each)} for name, each in prompts.items()])

# %% [markdown]
# How can one prove that nothing leaks? By messages that are the same for every clip. A constant cannot tell one clip from another, in any words.

# %%
different = {str(row["messages"]) for row in examples}
assert len(different) == 1 and chat.AUDIO in different.pop()
print(f"{len(examples)} examples, one and the same messages, with {chat.AUDIO} in them")

# %% [markdown]
# ## A cut is not an end
#
# A response ends with an end-of-turn token, and this token is learned too. If the writer ran out of room, it did not choose this end. Here it may write 12 tokens.

# %%
short = targets.generate_targets(backbone, "nano", "", pairs[:1], max_new_tokens=12)[pairs[0]]
print(short.response, "| truncated:", short.truncated)
for truncated in (True, False):
    read = chat.build_stream(
        backbone.tokenizer,
        chat.description_messages(*pairs[0]),
        0,
        response=short.response,
        truncated=truncated,
    )
    print(
        "truncated" if truncated else "not marked",
        "→ ends in",
        repr(backbone.tokenizer.decode(read.ids[-1:])),
    )

# %% [markdown]
# How probable is this false end to the writer itself? A connector that learns an improbable end learns to stop in the middle of a sentence.

# %%
ended = replace(short, truncated=False, ids=None)  # as if its words were a whole answer
logits, ids, _ = next(conversations([ended]))
print(f"probability of the false end of turn: {1 / float(surprise(logits, ids, len(ids) - 1)):.1e}")
print(f"perplexity, marked as cut: {perplexity_of([short]):.3g}")
print(f"perplexity, not marked: {perplexity_of([ended]):.3g}")

# %% [markdown]
# ## Whose words?
#
# The figure needs three controls.
#
# - *Shuffled*: the backbone's own target, but of another clip.
# - *No description*: its own target, but the reader has read nothing.
# - *Reordered*: its own sentences in alphabetical order. All facts and all words are the backbone's own. Only their order is another.


# %%
def reordered(response):
    return ". ".join(sorted(response.rstrip(".").split(". "))) + "."


turn = [*range(97, len(rows)), *range(97)]
controls = {
    "shuffled": [
        replace(row, response=rows[j].response, ids=rows[j].ids)
        for row, j in zip(rows, turn, strict=True)
    ],
    "no description": [replace(row, description="") for row in rows],
    "reordered": [replace(row, response=reordered(row.response), ids=None) for row in rows],
}

# %% [markdown]
# Each kind of target gets one perplexity and one coverage, with intervals. Perplexity divides all nats by all tokens. So its interval comes from drawing whole targets again and again (a bootstrap over targets). Coverage is the mean over the six attributes, and it uses the same draws.

# %%
lesson.lock("template", "shuffled")  # the next table tells them
draws = np.random.default_rng(0).integers(len(rows), size=(1000, len(rows)))


def measured(some):
    nats, tokens = nats_and_tokens(some).T
    named = named_by(some).mean(1)
    low, high = np.exp(np.percentile(nats[draws].sum(1) / tokens[draws].sum(1), (2.5, 97.5)))
    share_low, share_high = np.percentile(named[draws].mean(1), (2.5, 97.5))
    return {
        "perplexity": np.exp(nats.sum() / tokens.sum()),
        "low": low,
        "high": high,
        "coverage": named.mean(),
        "coverage_low": share_low,
        "coverage_high": share_high,
    }


# %% tags=["slow"]
table = pd.DataFrame(
    [
        {"kind": kind, "control": kind in controls, **measured(some)}
        for kind, some in {**kinds, **controls}.items()
    ]
)
pd.options.display.float_format = "{:.3g}".format  # from one to billions
table

# %% [markdown]
# Two lines help to read the figure. The first is the size of the vocabulary: this is the perplexity of a reader who finds every token equally likely. The second is the coverage of a writer who guesses every attribute: one over the number of its values, as a mean over the six.

# %%
vocabulary = len(backbone.tokenizer)
guessing = np.mean([1 / len(ATTRIBUTES[name]) for name in DESCRIBED])
full = table[~table["control"] & (table["coverage"] > 0.95)].sort_values("perplexity")
best, second = full.iloc[0], full.iloc[1]
more = np.log10(second.perplexity / best.perplexity)
headline = (
    f"Of the targets that keep the clip, “{NAMES[best.kind]}” has perplexity "
    f"{best.perplexity:.2f}; the next, “{NAMES[second.kind]}”, {more:.1f} powers of ten more. "
    f"Measured with {lesson.credit_of('perplexity', 'says')} (seed {experiment.seed})"
)

# %%
picture, (left, right) = style.subplots(
    1, 2, headline, (9.5, 4.2), sharey=True, width_ratios=[1.7, 1]
)
for place, row in enumerate(table.itertuples()):
    colour, marker = style.get_colour(row.kind), style.get_series(row.kind).marker
    ink = {
        "ecolor": colour,
        "mfc": "white" if row.control else colour,
        "mec": colour if row.control else "#222222",
    }
    for axes, value, low, high in (
        (left, row.perplexity, row.low, row.high),
        (right, row.coverage, row.coverage_low, row.coverage_high),
    ):
        reach = [[max(0, value - low)], [max(0, high - value)]]
        axes.errorbar(value, place, xerr=reach, marker=marker, ms=8, elinewidth=1.5, **ink)
        number = (
            f"{value:.2f}" if value < 10 else f"{value:.0f}" if value < 1000 else f"{value:.1e}"
        )
        axes.annotate(
            number, (value, place), (0, 8), textcoords="offset points", ha="center", fontsize=8
        )

# %% tags=["headline"]
for axes, at, words in (
    (left, vocabulary, f"every token as likely ({vocabulary}) "),
    (right, guessing, "guessing "),
):
    axes.axvline(at, color="#707070", ls=":", lw=1.2, zorder=0)
    axes.text(at, -0.65, words, fontsize=8, color="#555555", ha="right")
left.set_yticks(
    range(len(table)),
    [f"{NAMES.get(r.kind, r.kind)}{' (control)' * r.control}" for r in table.itertuples()],
)
left.set(xscale="log", xlim=(0.5, None), ylim=(len(table) - 0.5, -0.95))
left.set_xlabel("perplexity under the backbone (log)\nbars: 95 % interval over targets")
right.set(xlim=(0, 1.08), xlabel="coverage: share of the six\nattributes named rightly")
lesson.show(picture, f"Perplexity and coverage of every kind of target. {headline}.", table)

# %%
cost = table.set_index("kind")["perplexity"]
print(lesson.reveal("template", np.log10(cost["template"] / cost["self"])))
print(lesson.reveal("shuffled", cost["shuffled"]))

# %% [markdown]
# The backbone foresees its own words best. This is no discovery: it chose them, token by token, as the likeliest. Two other things are measured here: by how much the other writers miss, and whether the clip is kept.
#
# Compare two controls. “Shuffled” has the backbone's own words about the wrong clip. “Reordered” has the right facts in an order that the backbone would not choose. Perplexity measures the *voice* of a text, and coverage measures its *content*. Neither alone says that a target is good. A reader who finds every token equally likely has the size of the vocabulary as its perplexity. A higher one means that the reader was sure of another token.
#
# ## What we now know
#
# The table says which writer keeps the attributes and is still foreseen by the backbone. If this is the backbone itself, a connector can reach the targets by changing what the backbone knows about the clip. A target that the backbone does not foresee asks for more: we expect that the connector must then also change how the backbone speaks. We do not want it to learn that. This notebook measured targets. It did not measure what training on them does.
#
# **What would change our mind**: a rival with full coverage whose perplexity is no higher. Or a connector that is trained on words that the backbone does not foresee, and still follows new instructions as well. On preset nano the other writer is a program, and the backbone is tiny and very sure of itself. So the powers of ten belong to nano alone: compare with `desta_lab.setup("03", "cpu")`.
#
# Next: **04**, what a connector learns from these targets, step by step.

# %%
lesson.card()
