# %% [markdown]
# # 02 · Build the adapter: can you build the adapter yourself?
#
# A few million numbers stand between the ears and the language model. They form five small pieces: query tokens, attention to the frames, a block, a mixture of layers, a projection. You will write the decisive lines of them. The adapter is then put together from your functions and gets the weights of the run that ships. You compare it with the package's. The headline says whose code ran.
#
# Then you will break the pieces on purpose. Every broken adapter still runs, and every one of them answers. The last figure says how one notices.
#
# *Needs: PyTorch, notebooks 00 and 01. 36 minutes of exercises, about 20 of reading and running.*

# %%
import copy
import hashlib

import pandas as pd
import torch
from torch.nn.functional import scaled_dot_product_attention

import desta_lab
from desta_lab import audio
from desta_lab.clips import balance_speakers
from desta_lab.course.checks import notebook_02 as pieces
from desta_lab.evaluation import conditions, statistics
from desta_lab.evaluation.evaluate import evaluate
from desta_lab.model import chat
from desta_lab.model.connector import QFormer
from desta_lab.views import replies, style
from desta_lab.world.describe import attribute_coverage

torch.set_grad_enabled(False)  # nothing learns here
lesson = desta_lab.setup("02")
experiment = lesson.experiment

# %% [markdown]
# The run saved its connector at many steps of training: its *checkpoints*. `use_checkpoint` loads one of them: first the untrained connector, which we copy, then the last one, which stays.

# %%
with replies.use_checkpoint(experiment, step=0) as llm:
    untrained = copy.deepcopy(llm.connector).cpu()
connector = copy.deepcopy(experiment.llm.connector).cpu().eval()  # by hand we compute on the CPU
parts = {
    name: sum(p.numel() for p in part.parameters()) for name, part in connector.named_children()
}
parts |= {name: p.numel() for name, p in connector.named_parameters(recurse=False)}
pd.Series(parts, name="parameters").sort_values(ascending=False).to_frame()

# %% [markdown]
# (What the `anchor` is stands before the whole adapter, after exercise 2.3.)
#
# ### Exercise 2.1 · Commit yourself · predict · 4 min
# Two numbers. The *score* is accuracy above chance on six questions never trained: 0 is guessing, 1 is perfect. A softmax over the *queries* instead of the frames is a classic slip: it runs, and its output has the right shape.

# %%
lesson.predict(
    "published",
    "How many million parameters has the published connector of DeSTA2.5-Audio?",
    0,
    300,
)

# %%
lesson.predict(
    "wrong_axis",
    "What does the trained connector score when its softmax runs over the queries?",
    0,
    1,
)

# %% [markdown]
# ## The way of a clip
#
# ```
# encoder states        (layer, clip, frame, width of Whisper)    what the frozen encoder puts out
#   │ neighbours averaged, one input projection a layer
# frames of one layer   (clip, frame, width)
#   │                                                             the same blocks for every layer:
# query tokens          (query, width)  ──► block ──► block ──►   the queries take home what they ask for
#   │
# read                  (layer, clip, query, width)
#   │ layer mixture: each query weighs the layers
# mixed                 (clip, query, width)
#   │ projection
# audio embeddings      (clip, query, width of the language model)
# ```
#
# Learned queries that attend to a frozen encoder are the *Q-Former* of [BLIP-2 (Li et al., 2023)](https://arxiv.org/abs/2301.12597), where the encoder sees pictures. They turn any number of frames into a fixed number of vectors.
#
# ## Attention to the frames
#
# One clip, as the encoder leaves it. Neighbouring frames are averaged in groups of `pool`, and each tapped layer goes through an input projection of its own.

# %%
clip = experiment.clips("test")[0]
states = experiment.llm.encoder.encode([audio.read_audio(experiment.corpus.path(clip))])
states = states.float().cpu()
pooled = states.unfold(2, connector.pool, connector.pool).mean(-1)
frames = connector.inputs[0](pooled[0])
print(
    "states (layer, clip, frame, width):",
    tuple(states.shape),
    "→ frames of one layer:",
    tuple(frames.shape),
)

# %% [markdown]
# The other side are the *query tokens*: learned vectors, the same for every clip, that ask what the frames hold. Query and frame are compared in every *head*, and a softmax turns the comparisons into weights.

# %%
block, attention = connector.blocks[0], connector.blocks[0].cross_attention


def heads(x):
    return x.unflatten(-1, (attention.heads, -1)).transpose(
        -3, -2
    )  # (clip, head, token, width of a head)


tokens = connector.query_tokens[0][None]
q = heads(attention.query(block.norms[1](tokens)))
k, v = heads(attention.key(frames)), heads(attention.value(frames))
print("queries:", tuple(q.shape), "  keys and values:", tuple(k.shape))

# %% [markdown]
# ### Exercise 2.2 · Attend · fill in · 8 min
# Write `cross_attention(q, k, v)`: compare each query with each frame, divide by the square root of the head's width, take the softmax, and average the values. `q` is (…, query, width), `k` and `v` are (…, frame, width), the result is (…, query, width).
#
# Why divide? The product of two vectors is a sum over `width` terms. If their numbers are independent and have variance 1, the sum has variance `width`. At a width of 64 the comparisons spread by 8. A softmax of such numbers gives nearly all to one frame, and leaves hardly a gradient for the others. Divided by the root, they spread by 1 ([Vaswani et al., 2017](https://arxiv.org/abs/1706.03762), section 3.2.1).


# %% tags=["exercise"]
def cross_attention(q, k, v):
    ### BEGIN SOLUTION
    compared = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    return compared.softmax(-1) @ v
    ### END SOLUTION


# %%
lesson.check("cross_attention", cross_attention)

# %% [markdown] tags=["hint"]
# `q @ k.transpose(-1, -2)` is (…, query, frame). The frames are its last axis.

# %% [markdown]
# Which axis sums to one? Both would run, and both give the same shape. To see the weights themselves, let every frame's value be a vector that is 1 at its own place: the average of those *is* the weights. On the left is your function, on the right one whose softmax runs over the queries.

# %%
attend_to = lesson.use("cross_attention", cross_attention, pieces.attend)
torch.testing.assert_close(attend_to(q, k, v), scaled_dot_product_attention(q, k, v))

picture, axes = style.subplots(
    1, 2, "The same shape, another question: where a query looks, and who looks at a frame", (10, 3)
)
extent = (0, experiment.preset.seconds, connector.queries - 0.5, -0.5)
own_place = torch.eye(k.shape[-2]).expand(*k.shape[:2], -1, -1)
for ax, weigh, title in zip(
    axes,
    (attend_to, pieces.over_queries),
    ("softmax over the frames", "softmax over the queries"),
    strict=True,
):
    weights = weigh(q, k, own_place)[0].mean(0)
    ax.imshow(weights / weights.max(), aspect="auto", cmap="mako_r", extent=extent)
    ax.set(
        title=f"{title}: a query's weights sum to {weights.sum(-1).mean():.1f}", xlabel="time (s)"
    )
    ax.set_yticks(range(0, connector.queries, 3))
axes[0].set_ylabel("query token")
picture

# %% [markdown]
# Darker is more. Only on the left are a query's weights shares of one, so that what it takes home is a weighted *average* of the frames.
#
# `attend` adds what is around it: heads are split, and joined again. With it, your function stands where the package's module stood, and must give the same.


# %%
def attend(part, queries, source, attention=None):
    q, k, v = (
        heads(layer(x))
        for layer, x in ((part.query, queries), (part.key, source), (part.value, source))
    )
    return part.out((attention or attend_to)(q, k, v).transpose(-3, -2).flatten(-2))


torch.testing.assert_close(attend(attention, tokens, frames), attention(tokens, frames))

# %% [markdown]
# ## One block
#
# Three steps: the queries attend to each other, then to the frames, then each goes through a small network on its own. Each step adds to what was there. Here a LayerNorm stands *before* each step (pre-norm); in the published form it stands after the sum (post-norm).


# %%
def one_block(block, x, frames, attention=None):
    first, second, third = block.norms
    x = x + attend(block.self_attention, first(x), first(x))
    x = x + attend(block.cross_attention, second(x), frames, attention)
    return x + block.mlp(third(x))


torch.testing.assert_close(one_block(block, tokens, frames), block(tokens, frames))

# %% [markdown]
# ## A mixture of layers
#
# The same blocks read every tapped layer, each with query tokens of its own. So each query comes home with one vector a layer, and has to decide between them: a softmax over the layers, *for each query*. This is the *layer mixture*, and these are its shares after training.

# %%
pd.DataFrame(
    connector.mixture(), columns=[f"layer {tap}" for tap in experiment.llm.encoder.taps]
).describe().loc[["min", "mean", "max"]].round(3)

# %% [markdown]
# ### Exercise 2.3 · Mix the layers · fill in · 5 min
# Write `layer_mixture(read, logits)`: `read` is (layer, clip, query, width), `logits` is (query, layer); the result is (clip, query, width), for each query its own weighted average of the layers.


# %% tags=["exercise"]
def layer_mixture(read, logits):
    ### BEGIN SOLUTION
    return torch.einsum("lbqd,ql->bqd", read, logits.softmax(-1))
    ### END SOLUTION


# %%
lesson.check("layer_mixture", layer_mixture)

# %% [markdown] tags=["hint"]
# `torch.einsum("lbqd,ql->bqd", read, shares)` multiplies and sums over the layers. What must the shares of one query sum to?

# %% [markdown]
# ## The whole adapter
#
# At the end every query goes through a LayerNorm and a linear layer to the width of the language model. The small connectors multiply that by the embedding scale. Then they add the *anchor*: the embeddings of a neutral sentence (“A person with some accent …”), one token of it for each query, so that even an untrained connector says something. What comes out are the *audio embeddings* of the clip, (clip, query, width of the language model). That is all of it:


# %%
mix = lesson.use("layer_mixture", layer_mixture, pieces.mix_layers)


def adapter(c, states, attention=None, mixture=None):
    pooled = states.unfold(2, c.pool, c.pool).mean(-1)
    read = []
    for tokens, project, layer in zip(c.query_tokens, c.inputs, pooled, strict=True):
        x, frames = tokens.expand(layer.shape[0], -1, -1), project(layer)
        for block in c.blocks:
            x = one_block(block, x, frames, attention)
        read.append(x)
    read = torch.stack(read)
    mixed = mixture(read, c.layer_weights) if mixture else mix(read, c.layer_weights)
    return c.scale * c.proj(mixed) + c.anchor


audio_embeddings = adapter(connector, states)
torch.testing.assert_close(audio_embeddings, connector(states), atol=1e-4, rtol=1e-4)
print("audio embeddings (clip, query, width):", tuple(audio_embeddings.shape))

# %% [markdown]
# Is a small difference rounding or a fault? Float64 tells: there a fault is as large as before, and rounding is below 1e-10. Two ways of adding that agree to the last bit differ by 0.

# %%
double = copy.deepcopy(connector).double()
differences = {
    "float32": float((audio_embeddings - connector(states)).abs().max()),
    "float64": float((adapter(double, states.double()) - double(states.double())).abs().max()),
}
torch.testing.assert_close(differences["float64"], 0.0, atol=1e-10, rtol=0)
print("largest difference:", *(f"{each:.1g} in {kind};" for kind, each in differences.items()))

# %% [markdown]
# ## What the published one is
#
# Ours differs in four things of form: it pools frames, narrows them to a `width` of its own, puts the LayerNorm first, and is anchored. (It also starts at the embedding scale and has no dropout.) And it is smaller. By how much?
#
# ### Exercise 2.4 · Count a block · fill in · 6 min
# Write `block_parameters(width, ffn)`: the number of parameters of one block. It has two attentions of four linear layers (width → width), a network width → ffn → width, and three LayerNorms. Linear layers have biases.


# %% tags=["exercise"]
def block_parameters(width, ffn):
    ### BEGIN SOLUTION
    attentions = 2 * 4 * (width * width + width)
    network = width * ffn + ffn + ffn * width + width
    norms = 3 * 2 * width
    return attentions + network + norms
    ### END SOLUTION


# %%
lesson.check("block_parameters", block_parameters)

# %% [markdown] tags=["hint"]
# A linear layer a → b has a · b weights and b biases. A LayerNorm has a scale and a shift for each of its dimensions.

# %% [markdown]
# The published connector, on the `meta` device: all shapes, no memory. Whisper large-v3 is 1,280 wide, Llama-3.1-8B 4,096. Your function counts its blocks; what is left are the query tokens, the mixture and the projection.

# %%
count_block = lesson.use("block_parameters", block_parameters, pieces.count_block, tensors=False)
with torch.device("meta"):
    published = QFormer(taps=4, d_enc=1280, d_llm=4096)
count = {
    name: sum(p.numel() for p in c.parameters())
    for name, c in (("published", published), ("ours", connector))
}
count["six published blocks"] = len(published.blocks) * count_block(1280, 3072)
count["the rest of it"] = count["published"] - count["six published blocks"]
assert count["six published blocks"] == sum(p.numel() for p in published.blocks.parameters())
print(f"Blocks counted by {lesson.credit_of('block_parameters')}.")
print(lesson.reveal("published", count["published"] / 1e6))
pd.Series(count, name="parameters").map("{:,}".format).to_frame()

# %% [markdown]
# That is the number counted in the authors' own code: 131,540,224. Large beside ours, and still less than two per cent of the eight billion it speaks to.
#
# ## Into the language model
#
# The prompt holds a *slot* for each audio embedding, an id that no token has. Text gets its embeddings by look-up, slots get theirs from the adapter.

# %%
question = "What is the background sound?"
stream = chat.build_stream(
    experiment.llm.backbone.tokenizer, chat.audio_messages(question), connector.queries
)
ids = torch.tensor([stream.ids], device=experiment.llm.backbone.device)
at = (ids == chat.SLOT)[0].nonzero().flatten()
print(f"{ids.shape[1]} tokens, slots from {int(at[0])} to {int(at[-1])}")

# %% [markdown]
# ### Exercise 2.5 · Fill the slots · fill in · 7 min
# Write `splice(embeddings, slots, audio_embeddings)`: `embeddings` is (row, token, width), `slots` (row, token) is True where a slot is, `audio_embeddings` is (clip, query, width). Slots are filled row after row, clip after clip, query after query; everything else stays. A row may hold two clips, or none. Return a new tensor.


# %% tags=["exercise"]
def splice(embeddings, slots, audio_embeddings):
    ### BEGIN SOLUTION
    filled = embeddings.clone()
    filled[slots] = audio_embeddings.flatten(0, 1)
    return filled
    ### END SOLUTION


# %%
lesson.check("splice", splice)

# %% [markdown] tags=["hint"]
# `filled[slots]` picks the slots of all rows in order, as one list of vectors; it can be assigned to.

# %% [markdown]
# Against the package, and then the proof that counts: the audio embeddings come from the adapter above, fill the slots, and the words that come out are those of `experiment.ask`.

# %%
backbone = experiment.llm.backbone
fill = lesson.use("splice", splice, pieces.fill_slots)
heard = adapter(connector, states).to(backbone.device, backbone.dtype)
filled = fill(backbone.embed(ids), ids == chat.SLOT, heard)
torch.testing.assert_close(filled, experiment.llm.splice(ids, heard))

# %%
out = backbone.generate(
    inputs_embeds=filled, attention_mask=torch.ones_like(ids), max_new_tokens=32
)
spoken = backbone.decode(backbone.trim_at_end(out[0].tolist()))
theirs = experiment.ask(clip, question).set_index("condition")["answer"]
assert spoken == theirs["with the clip"]
theirs.to_frame()

# %% [markdown]
# ## Now break it
#
# First a fault that should be fatal: destroy time.
#
# ### Exercise 2.6 · Shuffle time · break · 6 min
# Write `shuffled_in_time(states, pool, seed)`: the groups of `pool` neighbouring frames in a random order, the same order in all layers. `states` is (layer, clip, frame, width), and so is the result. Before you go on: what will it cost?


# %% tags=["exercise"]
def shuffled_in_time(states, pool, seed):
    ### BEGIN SOLUTION
    groups = states.unflatten(2, (-1, pool))
    order = torch.randperm(groups.shape[2], generator=torch.Generator().manual_seed(seed))
    return groups[:, :, order].flatten(2, 3)
    ### END SOLUTION


# %%
lesson.check("shuffled_in_time", shuffled_in_time)

# %% [markdown] tags=["hint"]
# `states.unflatten(2, (-1, pool))` makes the groups an axis; `.flatten(2, 3)` takes it back. `torch.randperm` gives an order.

# %%
shuffle = lesson.use("shuffled_in_time", shuffled_in_time, pieces.shuffle_groups)
mixed_up = shuffle(states, connector.pool, 0)
torch.testing.assert_close(adapter(connector, mixed_up), audio_embeddings, atol=1e-4, rtol=1e-4)

# %% [markdown]
# It costs nothing at all: attention is a sum over frames, and a sum has no order. What the adapter knows of time must stand *in* the frames, where Whisper adds a position (notebook 01) and mixes neighbours. Shuffling after the encoder is no fault; it goes into the figure as a second check that must agree.
#
# The real faults are those people make. Each is one change to the adapter that we built, with the weights as they are:


# %%
FAULTS = {
    "softmax over the queries": lambda x: adapter(connector, x, pieces.over_queries),
    "not divided by √width": lambda x: adapter(connector, x, pieces.undivided),
    "keys and values swapped": lambda x: adapter(connector, x, pieces.swapped),
    "mixture over the queries": lambda x: adapter(connector, x, mixture=pieces.mix_over_queries),
    "no softmax in the mixture": lambda x: adapter(connector, x, mixture=pieces.mix_logits),
    "tapped one layer too early": lambda x: adapter(connector, early),
    "one mean frame": lambda x: adapter(connector, x.mean(2, keepdim=True).expand_as(x)),
    "slots off by one": lambda x: adapter(connector, x).roll(1, dims=1),
}

# %% [markdown]
# Each hears clips of voices never trained, and the likeliest of the allowed answers counts. First the scores are *calibrated*: how much the model likes each answer anyway, measured on clips of other speakers, is taken away (notebook 05). The fault is in place there too. So a fault that shifts everything alike is forgiven.

# %% tags=["slow"]
clips, others = (
    balance_speakers(experiment.clips("test"), 32),
    balance_speakers(experiment.clips("validation"), 32),
)
encoder, heard, before = experiment.llm.encoder, [], []
for some in torch.arange(len(clips) + len(others)).split(16):
    waves = [audio.read_audio(experiment.corpus.path((*clips, *others)[i])) for i in some]
    mel = audio.log_mel(waves, encoder.seconds, encoder.mel_bins).to(encoder.whisper.conv1.weight)
    hidden = encoder.whisper(mel, output_hidden_states=True).hidden_states
    heard.append(encoder(mel))
    before.append(torch.stack([hidden[tap] for tap in encoder.taps]))  # what enters a tapped layer
every, early = (torch.cat(some, dim=1).float().cpu() for some in (heard, before))
silent = encoder.encode([torch.zeros(round(encoder.seconds * audio.RATE)).numpy()]).float().cpu()

# %%
reference = connector(every)
vectors = {
    "built by hand": adapter(connector, every),
    "package, as it runs": conditions.embed_clips(experiment.llm, every).cpu(),
}
vectors["frames shuffled"] = adapter(connector, shuffle(every, connector.pool, 0))
vectors |= {name: fault(every) for name, fault in FAULTS.items()}
swap = [
    *conditions.shuffled_partners(clips),
    *range(len(clips), len(every[0])),
]  # the clips that calibrate stay
vectors |= {"untrained connector": untrained(every), "another speaker's clip": reference[swap]}
quiet = connector(silent).expand(len(clips), -1, -1)
vectors["silence"] = torch.cat([quiet, reference[len(clips) :]])

# %% [markdown]
# Before the average, one example: what each adapter lets the language model say about one clip. Of the first eight clips it is the one of which the adapter built by hand names most attributes rightly. (From here on your guess is locked.)


# %%
lesson.lock("wrong_axis")


def described(name, i):
    question = "Describe the audio clip again in other words."
    return replies.answer_audio(experiment.llm, vectors[name][i : i + 1], question).text


def named_rightly(i):
    said = described("built by hand", i)
    return sum(attribute_coverage([said], [clips[i].attributes]).values())


example = max(range(8), key=named_rightly)
print(desta_lab.describe(clips[example].attributes))
pd.Series({name: described(name, example) for name in vectors}).to_frame("answer")

# %%
tasks = [task for task in experiment.tasks if task.rung == 3]


def judged(vectors):
    """One row a clip and task; found by the hash of the vectors: others are judged anew."""
    sha256 = hashlib.sha256(vectors.float().cpu().numpy().tobytes()).hexdigest()

    def judge():
        return evaluate(
            experiment.llm, tasks, clips, others, conditions=["audio"], audio_embeddings=vectors
        )

    return lesson.find_or_make("variants", judge, vectors=sha256)


# %% tags=["expensive"]
answers = pd.concat([judged(one).assign(variant=name) for name, one in vectors.items()])

# %%
read = experiment.oracle()
read = read[(read["rung"] == 3) & read["clip"].isin([c.id for c in clips])].assign(
    variant="text oracle"
)
answers = pd.concat([answers, read], ignore_index=True)
answers["score"] = (answers["calibrated"] - answers["chance"]) / (1 - answers["chance"])
right = answers[answers["variant"] == "built by hand"].set_index(["clip", "task"])["score"]
answers["lost"] = [
    right[key] for key in zip(answers["clip"], answers["task"], strict=True)
] - answers["score"]

# %% [markdown]
# `lost` is the difference to the right adapter on the same clip and question; its interval is over speakers. A fault is *seen in the answers* when that interval lies above zero. A fault that is not seen was not shown to cost anything on these 32 clips. That does not make it harmless. The comparison *catches* a fault whose largest difference is more than a hundred times that of rounding. How large is rounding? The package's adapter in float32 differs from the same adapter in float64 by nothing else.

# %%
score, lost = (
    statistics.bootstrap_intervals(answers, measure, ["variant"]) for measure in ("score", "lost")
)
table = pd.DataFrame(
    [
        {
            "variant": name,
            "kind": "fault" if name in FAULTS else "right" if i < 3 else "control",
            "difference": float((vectors[name] - reference)[: len(clips)].abs().max())
            if name in vectors
            else None,
            **dict(zip(("score", "low", "high"), score[name,], strict=True)),
            **dict(zip(("lost", "lost_low", "lost_high"), lost[name,], strict=True)),
        }
        for i, name in enumerate([*vectors, "text oracle"])
    ]
)
rounding = float((double(every.double()) - reference)[: len(clips)].abs().max())
bound = 100 * rounding
table["seen"] = (table["lost_low"] > 0).where(table["kind"] == "fault")
table["caught"] = (table["difference"] > bound).where(table["kind"] == "fault")
print(f"Rounding makes a difference of {rounding:.0e}; above {bound:.0e} a fault is caught.")
table.round(4)

# %%
row = table.set_index("variant")
print(lesson.reveal("wrong_axis", row.at["softmax over the queries", "score"]))

# %% [markdown]
# ## How one notices
#
# The left panel shows the largest difference of any number of any audio embedding to the package's, over all clips. Its axis is logarithmic, but begins with 0. The dotted line is a hundred times rounding. The right panel shows what the answers score. The hexagons are the faults. Which of them would you have found in the right panel, and which in the left? (The second row is the right adapter in the precision in which it runs, which may be coarser than float32: its difference is the rounding of that, and no fault.)

# %%
faults = table[table["kind"] == "fault"]
off = row.at["built by hand", "difference"]
built = lesson.credit_of("cross_attention", "layer_mixture", "splice", "shuffled_in_time")
headline = (
    f"Built with {built} it {f'differs by {off:.0e}' if off else 'is the same'}. Of "
    f"{len(faults)} faults, which all run,\nthe answers of this run betray "
    f"{int(faults['seen'].sum())} (of another run they may betray others), the comparison "
    f"{int(faults['caught'].sum())}"
)

# %%
NAMES = {
    "untrained connector": "untrained",
    "another speaker's clip": "shuffled",
    "silence": "silence",
    "text oracle": "oracle",
}
picture, (left, right) = style.subplots(1, 2, headline, (10, 5.2), sharey=True)
for place, one in enumerate(table.itertuples()):
    look = NAMES.get(one.variant, "fault" if one.kind == "fault" else "self")
    left.plot(one.difference, place, **style.marker_style(look))
    reach = [[max(0, one.score - one.low)], [max(0, one.high - one.score)]]
    right.errorbar(one.score, place, xerr=reach, elinewidth=1.4, **style.marker_style(look))
style.name_rows(left, list(table["variant"]))
for place in range(1, len(table), 2):
    right.axhspan(place - 0.5, place + 0.5, color="#F3F3F3", zorder=-1, lw=0)

# %% tags=["headline"]
right.tick_params(axis="y", length=0)
right.axvline(0, color="#B0B0B0", lw=0.8)
right.axvspan(
    row.at["built by hand", "low"],
    row.at["built by hand", "high"],
    color=style.PALETTE["self"],
    alpha=0.12,
)
left.set_title("Is it the same adapter?", loc="left")
right.set_title("Does it still answer? (shaded: built by hand)", loc="left")
left.set_xscale("symlog", linthresh=1e-8, linscale=0.5)
left.set(xlim=(-2e-9, 4), xticks=[0, 1e-8, 1e-6, 1e-4, 1e-2, 1])
left.set(xlabel="largest difference to the package's audio embeddings")
left.axvline(bound, color="#707070", lw=1.2, ls=style.DOTTED, zorder=0)
right.set(xlabel="score on questions never trained (0: chance)\nbars: 95 % interval over speakers")
lesson.show(
    picture,
    f"{headline}. Difference to the package and score of each variant, with controls.",
    table,
)

# %% [markdown]
# ## What we now know
#
# The adapter is a few lines. It is right when it agrees with a reference. That it runs, or that it answers, shows less. The table says which faults cost little here. There are reasons to expect some. A mixture that training left nearly even hardly needs the right axis of its softmax, and the LayerNorm behind it removes a wrong size. An attribute that lasts the whole clip survives a mean over time. This is a fact about this corpus and these weights. They were trained with the right adapter, and one that is *trained* with a fault may do better or worse.
#
# **What would change our mind**: a difference in float64 that is larger than rounding, a control that scores like the clip, or clips whose question can only be answered by *when* something happens.
#
# Next: **03**, whose words the adapter should learn.

# %%
lesson.card()
