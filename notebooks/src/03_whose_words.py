# %% [markdown]
# # 03 · Targets: whose words should the connector learn to draw out?
#
# For every clip there is a text description, and for every description a *target*: the response that training will try to get from the frozen language model when it hears the clip. Somebody has to write that response. It can be a bare label, a filled-in form, another writer, or the language model itself, which reads the description and answers.
#
# You will watch the model write, measure how much each writer's words surprise it (*perplexity*) and how much of the clip they keep (*coverage*), hunt for descriptions that leak into the prompt, and cut a target short. The last figure sets perplexity beside coverage for every writer and three controls.
#
# *Needs: 00; softmax and cross-entropy. 33 minutes of exercises; reading and running take about as long again.*

# %%
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

import desta_lab
from desta_lab.evaluation.tasks import TRAINED_PROMPT
from desta_lab.experiments.quickstart import all_targets
from desta_lab.model import chat
from desta_lab.training import targets
from desta_lab.views import claim_figures, style
from desta_lab.world.attributes import ATTRIBUTES, DESCRIBED
from desta_lab.world.describe import attribute_coverage, describe

lesson = desta_lab.setup("03")
experiment = lesson.experiment
backbone = experiment.llm.backbone

# %% [markdown]
# ## From attributes to a description
#
# One clip of the training voices, and all that is known about it:

# %%
train = experiment.clips("train")
clip = train[0]
desta_lab.show_players(experiment.corpus, [clip])

# %%
pd.Series(clip.attributes, name=clip.id).to_frame()

# %% [markdown]
# `describe` puts six of the seven attributes into one sentence. The topic is left out on purpose: it is kept for rung 5 of the task ladder, what no target ever mentions.

# %%
description = describe(clip.attributes)
description

# %% [markdown]
# ## Watch the backbone write
#
# The backbone reads the description, then the one prompt of this course, “Paraphrase the description.”, and answers greedily (always the likeliest token). Its answer is the *self-generated target*. Two are written here and now:

# %%
pairs = [(describe(c.attributes), TRAINED_PROMPT) for c in train[:2]]
live = targets.generate_targets(
    backbone,
    experiment.preset.backbone,
    experiment.llm.provenance["backbone_sha256"],
    pairs,
    kind="soft",
)
pd.DataFrame(
    [{"reads": one.description, "writes": one.response} for one in live.values()]
).style.hide()

# %% [markdown]
# All the others were written before, one for each different description, with the hash of their writer. The two that you saw should be among them:

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
# Other writers could have made the target. `all_targets(experiment)` holds some: the bare *label* of one attribute, and a *template*, a form that a program fills in.

# %%
kinds = all_targets(experiment)
firsts = [
    {"kind": kind, "prompt": some[0].prompt, "target": some[0].response}
    for kind, some in kinds.items()
]
pd.DataFrame(firsts).style.hide()

# %% [markdown]
# *Another* writer is missing where the backbone is the smallest one there is (preset nano). There a program stands in for it: the same facts as a fluent sentence that the backbone did not write.

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
# *Perplexity* is what a text costs a reader: 1 for a reader who foresaw every token, 10 for one who was as unsure as between ten equal choices. The reader here is the backbone, with the description before its eyes. Two bets.

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
# One conversation as token ids: system, user with the description, then the response from position `start` on. The backbone gives logits over its whole vocabulary at every position.

# %%
one = rows[0]
messages = chat.description_messages(one.description, one.prompt)
stream = chat.build_stream(
    backbone.tokenizer, messages, 0, response=one.response, truncated=one.truncated
)
ids = torch.tensor(stream.ids)
with torch.no_grad():
    logits = backbone.logits(backbone.hidden_states(backbone.embed(ids[None])))[0]
print(
    "ids:",
    tuple(ids.shape),
    "  logits (position, vocabulary):",
    tuple(logits.shape),
    "  response from",
    stream.start,
)

# %% [markdown]
# The first attempt takes, for every response token, the probability that stands at the token's own position.

# %%
logp = logits.log_softmax(-1)
naive = -logp[stream.start :].gather(1, ids[stream.start :, None])
float(naive.mean().exp())

# %% [markdown]
# A number of that size for words that the backbone wrote itself cannot be right. What stands at position *t* is a guess about token *t + 1*.
#
# ### Exercise 3.2 · Measure a reader's surprise · fill in · 9 min
# Write `perplexity(logits, ids, start)` for one conversation: `logits` [position, vocabulary], `ids` [position]; the response runs from `start` to the end. It is exp of the mean surprise of the response's tokens; the surprise of a token is minus the natural logarithm of its probability, counted in *nats*.


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
# The position before `start` already guesses a response token; the last position guesses what nobody wrote. `tensor.gather(1, ids[:, None])` picks one column in every row.

# %% [markdown]
# The package says the same of this target, so from here on its version is used, for all targets at once.

# %%
nats = -logp[stream.start - 1 : -1].gather(1, ids[stream.start :, None])[:, 0]
theirs = targets.target_perplexity(backbone, [one])
torch.testing.assert_close(float(nats.mean().exp()), theirs, rtol=1e-4, atol=0)
print(f"by hand {float(nats.mean().exp()):.4f}, the package {theirs:.4f}")

# %% [markdown]
# ## Which tokens carry the clip?
#
# The same target, token by token, for three readers: one has its description, one has another clip's, one has none. Where a column changes colour from row to row, the token says something about the clip; where it does not, it is only manner of speaking.


# %%
def sureness(reads):
    logp, ids = next(iter(targets.text_log_probs(backbone, [replace(one, description=reads)])))
    return logp.gather(1, torch.tensor(ids)[:, None])[:, 0].exp().numpy()


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
strip = np.stack([sureness(reads) for reads in readers.values()])
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
axes.set(ylabel="the reader has", xlabel="token of the target, in order")
picture.colorbar(image, ax=axes, label="probability", pad=0.01)
picture

# %% [markdown]
# What a *soft target* keeps is the whole guess and not only the token that won: the likeliest 50 tokens of every position with their log-probabilities. Here are the first tokens of the target with their closest rivals. A rival of some weight means that the writer might as well have gone on otherwise.

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
# *Coverage* asks of every target which attributes it names rightly. To name is to hold one of a few words, such as “male”, “man”, “he”.
#
# ### Exercise 3.3 · Find a word, not a part of one · fill in · 6 min
# Write `says(text, words)`: true if the text holds one of the words (given in small letters) as a whole word, whatever its case and the punctuation around it.


# %% tags=["exercise"]
def says(text, words):
    ### BEGIN SOLUTION
    held = {part.strip(".,;:!?\"'“”()") for part in text.lower().split()}
    return bool(held & set(words))
    ### END SOLUTION


# %%
lesson.check("says", says)

# %% [markdown] tags=["hint"]
# Split the text at blanks, strip the punctuation from each part, and compare whole parts with whole words.

# %% [markdown]
# The package's `coverage` is stricter: the right value must be named, and no other. The bars show it for each kind of target.

# %%
named = {
    kind: attribute_coverage([t.response for t in some], attributes) for kind, some in kinds.items()
}
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
# A training example holds the messages that the backbone will see. The clip stands in them as `<|AUDIO|>`, and the description must not be there: a model that can read the answer need not hear it.

# %%
examples, _ = experiment.training_rows("self")
pd.Series(examples[0]).drop(["messages", "provenance"]).to_frame("example").style

# %%
examples[0]["messages"]

# %% [markdown]
# ### Exercise 3.4 · Search the messages · fill in · 7 min
# `examples` are dicts like the one above. Write `find_leaks(examples)`: the list of the ids of those examples in which any message holds the example's own `seed_description`, whatever its case. The response may hold it: that is what is learned.


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
# `row["messages"]` is a list of `{"role": …, "content": …}`; every one of them is shown to the backbone, the system's too.

# %% [markdown]
# The builder of examples does the same search, and refuses. Put the description into the prompt and see:

# %%
try:
    targets.training_row(
        clip.id, replace(rows[0], prompt=f"{rows[0].description} {TRAINED_PROMPT}"), "spoken"
    )
except targets.TargetError as refusal:
    print(refusal)

# %% [markdown]
# ### Exercise 3.5 · Smuggle a description past the builder · break · 7 min
# No search for a sentence finds the same facts in other words. A `target` here is a row of `rows`, with its fields `description`, `prompt` and `response`. Write `smuggled(target)`: a copy of it whose `prompt` gives away at least three of the clip's attributes and still passes the builder. Leave description and response alone.


# %% tags=["exercise"]
def smuggled(target):
    ### BEGIN SOLUTION
    return replace(target, prompt=f"{target.response} {target.prompt}")
    ### END SOLUTION


# %%
lesson.check("smuggled", smuggled)

# %% [markdown] tags=["hint"]
# `replace(target, prompt=…)` makes the copy. Somebody has already said the same as the description in other words: look into the target itself.

# %% [markdown]
# What a leak does: below, the backbone reads no description and hears nothing, only the prompt. If the perplexity of the self-generated targets with a leak is as low as with the description, then nothing is left for a connector to learn.


# %%
def unheard(prompt_of):
    return targets.target_perplexity(
        backbone, [replace(row, description="", prompt=prompt_of(row)) for row in rows[:64]]
    )


pd.Series(
    {
        "clean": unheard(lambda row: row.prompt),
        "the description leaks": unheard(lambda row: f"{row.description}\n{row.prompt}"),
        "the answer leaks": unheard(lambda row: f"{row.response}\n{row.prompt}"),
    },
    name="perplexity",
).round(3)

# %% [markdown]
# So what does prove that nothing leaks? Messages that are the same for every clip. A constant cannot tell one clip from another, in whatever words.

# %%
different = {str(row["messages"]) for row in examples}
assert len(different) == 1 and chat.AUDIO in different.pop()
print(f"{len(examples)} examples, one and the same messages, with {chat.AUDIO} in them")

# %% [markdown]
# ## A cut is not an end
#
# A response ends in an end-of-turn token, and that token is learned too. If the writer ran out of room, the end is not its own. Allow it 12 tokens:

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
# How probable is the false end to the one who wrote the text? If it is not, a connector that learns it learns to stop in the middle of a sentence.

# %%
ended = replace(short, truncated=False, ids=None)  # as if its words were a whole answer
logp, response = next(iter(targets.text_log_probs(backbone, [ended])))
print(f"probability of the false end of turn: {float(logp[-1, response[-1]].exp()):.1e}")
print(f"perplexity, marked as cut: {targets.target_perplexity(backbone, [short]):.3g}")
print(f"perplexity, not marked: {targets.target_perplexity(backbone, [ended]):.3g}")

# %% [markdown]
# ## Whose words?
#
# Three controls belong in the figure. *Shuffled*: the backbone's own target, of another clip. *No description*: its own target, but the reader has nothing to read. *Reordered*: its own sentences in alphabetical order, so every fact and every word is its own and only the order is not.


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
# Perplexity is a ratio, nats over tokens, so its interval comes from drawing whole targets again and again (a bootstrap over targets). Coverage is the mean over the six attributes, from the same draws.

# %%
draws = np.random.default_rng(0).integers(len(rows), size=(1000, len(rows)))


def measured(some):
    read = targets.text_log_probs(backbone, some)
    nats, tokens = np.array(
        [(-float(p.gather(1, torch.tensor(ids)[:, None]).sum()), len(ids)) for p, ids in read]
    ).T
    each = [
        attribute_coverage([t.response], [a]).values()
        for t, a in zip(some, attributes, strict=True)
    ]
    named = np.array([sum(values) / len(values) for values in each])
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


# %% tags=["expensive"]
table = pd.DataFrame(
    [
        {"kind": kind, "control": kind in controls, **measured(some)}
        for kind, some in {**kinds, **controls}.items()
    ]
)
table.style.hide().format("{:.3g}", subset=list(table.columns[2:]))

# %% [markdown]
# Two lines help to read it: a reader who knows nothing and finds every token of the vocabulary as likely as any other has a perplexity of the vocabulary's size, and a writer who guesses each attribute names it rightly one time in as many as it has values; the line is the mean over the six.

# %%
vocabulary = len(backbone.tokenizer)
guessing = np.mean([1 / len(ATTRIBUTES[name]) for name in DESCRIBED])
full = table[~table["control"] & (table["coverage"] > 0.95)].sort_values("perplexity")
best, second = full.iloc[0], full.iloc[1]
more = np.log10(second.perplexity / best.perplexity)
headline = (
    f"Of the writers who keep the clip, “{best.kind}” has perplexity {best.perplexity:.2f}; "
    f"the next, “{second.kind}”, {more:.1f} powers of ten more"
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
    range(len(table)), [f"{row.kind}{' (control)' * row.control}" for row in table.itertuples()]
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
# That the backbone foresees its own words best is no discovery: they were chosen, token by token, as the likeliest. What is measured is by how much the others miss, and whether the clip is kept.
#
# Read the controls against each other. Perplexity hears the *voice*: compare the backbone's own words about the wrong clip with its own facts in an order that it would not choose. Coverage hears the *content*. Neither alone says that a target is good, and a perplexity above the vocabulary's size says that the reader is not unsure but convinced of something else.
#
# ## What we now know
#
# The table says which writer keeps the attributes and is still foreseen by the backbone. If that is the backbone itself, a connector can reach such targets by changing what the backbone knows about the clip; for a writer whom the backbone does not foresee, we expect that it must also bend how the backbone speaks, and that is not what we want it to learn. This notebook has measured targets, not what training on them does.
#
# **What would change our mind**: a rival with full coverage whose perplexity is no higher; or a connector that is trained on words the backbone does not foresee and follows new instructions as well. At nano the other writer is a program, and the backbone is tiny and very sure of itself, so the powers of ten are its own: compare with `desta_lab.setup("03", "cpu")`.
#
# Next: **04**, what a connector learns when it is trained on these targets, step by step.

# %%
lesson.card()
