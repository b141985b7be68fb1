# %% [markdown]
# # 11 · The published system: does it follow instructions as well as the language model inside it, and does ours?
#
# Everything so far was a small copy of something real. [DeSTA2.5-Audio](https://arxiv.org/abs/2507.02768) joins Whisper large-v3 to an 8-billion-parameter Llama, both frozen. Here you take its release apart: what is in the file, what its tensors are called, what a conversation looks like token for token, and what it takes to open it.
#
# Where this machine has the memory and the weights, the system is opened and asked about a clip; elsewhere one sentence says what is missing. Nothing below needs it. The last figure sets what was published of its predecessor DeSTA2 and of other systems above our own finished run: two protocols, two pictures, no ranking.
#
# *Needs: 02; 09 helps. 36 minutes of exercises; reading and running take about as long again.*

# %%
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file

import desta_lab
from desta_lab import audio
from desta_lab.benchmarks import comparison, speech_ifeval
from desta_lab.evaluation import conditions
from desta_lab.evaluation.evaluate import answer_free_form
from desta_lab.model import chat, presets
from desta_lab.model.audio_llm import ProvenanceError
from desta_lab.model.connector import QFormer
from desta_lab.model.encoder import PUBLISHED_TAPS
from desta_lab.model.weights import WeightsError
from desta_lab.published import adapters, parity, systems
from desta_lab.views import replies, style
from desta_lab.world.describe import describe

lesson = desta_lab.setup("11")
experiment = lesson.experiment

# %% [markdown]
# ## What was released
#
# A preset is data. This one is the published system:

# %%
presets.desta25()

# %% [markdown]
# Encoder and backbone belong to others and never changed, so they were not released again. The file holds the connector and nothing else.
#
# ### Exercise 11.1 · Commit yourself · predict · 4 min
# Three ranges, before anything is counted. The third is about the control at the end: the finished run of this course hears silence, and is asked four questions under a constraint (“Answer in JSON.”).

# %%
lesson.predict(
    "released", "Per cent of the system's parameters that are in the file?", 0, 20, step=0.5
)

# %%
lesson.predict("memory", "GB of memory for the system with its backbone in bf16?", 0, 60, step=1)

# %%
lesson.predict("deaf", "IFrate of our run on a clip of silence, in per cent?", 0, 100, step=5)

# %% [markdown]
# Shapes can be had without memory: on torch's *meta* device a tensor has a shape and no numbers. The Q-Former's own defaults are the published form; the two widths belong to the frozen models.

# %%
WHISPER_WIDTH, LLAMA_WIDTH = 1280, 4096  # of whisper-large-v3 and Llama-3.1-8B, from their configs
with torch.device("meta"):
    theirs = QFormer(taps=len(PUBLISHED_TAPS[32]), d_enc=WHISPER_WIDTH, d_llm=LLAMA_WIDTH)
in_file = sum(p.numel() for p in theirs.parameters())
size = systems.SystemSize.of(presets.desta25())
parts = {
    "connector (in the file)": in_file,
    "encoder (frozen)": size.encoder,
    "backbone (frozen)": size.backbone,
}
whole = sum(parts.values())
pd.DataFrame(
    {"parameters": parts.values(), "per cent": [100 * n / whole for n in parts.values()]},
    list(parts),
)

# %%
print(f"In float32 the file has about {4 * in_file / 1e9:.2f} GB.")
print(lesson.reveal("released", 100 * in_file / whole))
print(lesson.reveal("memory", size.memory_gb("bf16")))

# %% [markdown]
# ## The names in the file
#
# In `tests/data/desta25_tiny` of this repository lies a tiny instance of the published model: its own code, random weights, and what that code computed from them. Its file has the names of the released one. Does the arithmetic of the file hold? Four bytes a number, and a header that says what is where:

# %%
TINY = Path(desta_lab.__file__).parents[1] / "tests" / "data" / "desta25_tiny"
file = load_file(TINY / "connector.safetensors")
numbers = sum(tensor.numel() for tensor in file.values())
print(
    "bytes for numbers:",
    4 * numbers,
    "  of the file:",
    (TINY / "connector.safetensors").stat().st_size,
)

# %%
LAYER = f"{adapters.PREFIX}qformer.layer."
shapes = {
    name.removeprefix(LAYER): tuple(tensor.shape)
    for name, tensor in file.items()
    if f"{LAYER}0." in name
}
pd.Series(shapes, name="published, below perception.connector.qformer.layer.").to_frame()

# %% [markdown]
# And our own connector of the same size: one block, as PyTorch prints it.

# %%
tiny = QFormer(taps=4, d_enc=64, d_llm=48, queries=6, depth=2, heads=4)
tiny.blocks[0]

# %% [markdown]
# ### Exercise 11.2 · Rename their tensors · fill in · 9 min
# Write `our_name(name)`: from the full published name of a tensor of a Q-Former layer to its name in our connector, such as `perception.connector.qformer.layer.0.attention.self.query.bias` to `blocks.0.self_attention.query.bias`. Read the two lists above side by side. A post-norm block uses its three norms in the order in which its three steps end: self-attention, cross-attention, MLP.


# %% tags=["exercise"]
def our_name(name):
    ### BEGIN SOLUTION
    parts = {
        "attention.self.": "self_attention.",
        "attention.output.dense.": "self_attention.out.",
        "attention.output.LayerNorm.": "norms.0.",
        "crossattention.self.": "cross_attention.",
        "crossattention.output.dense.": "cross_attention.out.",
        "crossattention.output.LayerNorm.": "norms.1.",
        "intermediate.dense.": "mlp.0.",
        "output.dense.": "mlp.2.",
        "output.LayerNorm.": "norms.2.",
    }
    number, part = name.removeprefix("perception.connector.qformer.layer.").split(".", 1)
    theirs = next(theirs for theirs in parts if part.startswith(theirs))
    return f"blocks.{number}.{parts[theirs]}{part.removeprefix(theirs)}"
    ### END SOLUTION


# %%
lesson.check("our_name", our_name)

# %% [markdown] tags=["hint"]
# Nine parts need a name of their own; a dict of nine lines does it. Compare with `startswith`, for `crossattention.` contains `attention.`

# %% [markdown]
# What is not in a layer keeps its name, and the query tokens of all taps, a tensor each there (`layer_prompts.0`, …), are one tensor here. The package does both. By your hand, where the exercise is solved, and by the package, the same:

# %%
ours = adapters.from_published(file)
for name, tensor in file.items():
    if LAYER in name and our_name(name) is not None:
        torch.testing.assert_close(ours[our_name(name)], tensor)
tiny.load_state_dict(ours, strict=True)

# %% [markdown]
# `strict=True` matters. The published training code loads with `strict=False`, and so a file of nothing but wrong names loads in silence there.
#
# ## The same numbers?
#
# All keys matched. Is it now the same model? `parity` hands the clips and token ids of the stored run to our encoder, connector and backbone, and compares what comes out with what the published code had computed.


# %%
def differences(connector):
    """Largest difference to the published numbers, in float32, with these tensors in the file."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(TINY, folder, dirs_exist_ok=True)
        save_file(connector, Path(folder) / "connector.safetensors")
        table = parity.compare(folder)
    eager = table[(table["attention"] == "eager") & (table["precision"] == "float32")]
    return eager.set_index("quantity")[["difference", "limit"]]


differences(file)

# %% [markdown]
# ### Exercise 11.3 · Exchange what a strict load does not miss · break · 6 min
# Names and shapes are all that a strict load sees. Write `exchanged(file)`: take the dict of names and tensors, and return a new one in which two tensors of the same shape have changed places. Leave `file` as it is.


# %% tags=["exercise"]
def exchanged(file):
    ### BEGIN SOLUTION
    part = "perception.connector.qformer.layer.0"
    a, b = f"{part}.attention.output.LayerNorm.weight", f"{part}.output.LayerNorm.weight"
    return {**file, a: file[b], b: file[a]}
    ### END SOLUTION


# %%
lesson.check("exchanged", exchanged)

# %% [markdown] tags=["hint"]
# `{**file, a: file[b], b: file[a]}` is a new dict. Any two names of one shape will do; two norms of a layer are the mistake that people really make.

# %%
spoiled = exchanged(file)
differences(spoiled) if spoiled else "not tried yet"

# %% [markdown]
# It loads, strictly, and it is another model. One exchange is invisible even here, and rightly so:

# %%
a, b = (f"{LAYER}{layer}.attention.self.key.bias" for layer in (0, 1))
differences({**file, a: file[b], b: file[a]})

# %% [markdown]
# The bias of the keys adds the same number to every score of a query, and a softmax does not see that. (Its values change nothing; its size still counts among the parameters.)
#
# ## A conversation, token for token
#
# What does the backbone read? In DeSTA2.5-Audio a user's text holds the placeholder `<|AUDIO|>`; around it come two tags, and they are plain text, no special tokens. Between them stand the *audio slots*, one per query, whose embeddings the connector gives, and then the clip's **transcript**, written by the same Whisper. (The runs of this course hear without a transcript.)

# %%
question = "What is the background sound?"
words = "hello there."  # what Whisper would have written
text = experiment.llm.backbone.tokenizer.apply_chat_template(
    chat.audio_messages(question), tokenize=False, add_generation_prompt=True
)
before, after = text.split(chat.AUDIO)
print(text)

# %% [markdown]
# ### Exercise 11.4 · Lay out the conversation · fill in · 8 min
# `before` and `after` are the text on both sides of the placeholder, tags not yet there. `encode` turns a text into a list of token ids; an audio slot is the id `chat.SLOT`. Return the ids of the whole: start tag, `queries` slots, transcript, end tag. Tags are encoded in one go with the text that they touch, the transcript on its own. (`chat.START`, `chat.END`.)


# %% tags=["exercise"]
def laid_out(encode, before, after, transcript, queries):
    ### BEGIN SOLUTION
    left, right = encode(before + chat.START), encode(chat.END + after)
    return [*left, *[chat.SLOT] * queries, *encode(transcript), *right]
    ### END SOLUTION


# %%
lesson.check("laid_out", laid_out)

# %% [markdown] tags=["hint"]
# Three calls of `encode`: the left side with its tag, the transcript, the right side with its tag. The slots come right after the first.


# %% [markdown]
# By hand, and by the one function that training, generation and scoring share:


# %%
def encode(text):
    return chat.encode_text(experiment.llm.backbone.tokenizer, text)


stream = chat.build_stream(
    experiment.llm.backbone.tokenizer, chat.audio_messages(question), 3, transcripts=[words]
)  # 64 there, 3 to look at
by_hand = laid_out(encode, before, after, words, 3)
assert by_hand is None or list(stream.ids) == by_hand

# %%
says = [
    "(audio)" if i == chat.SLOT else experiment.llm.backbone.tokenizer.decode([i])
    for i in stream.ids
]
at = stream.ids.index(chat.SLOT)
pd.DataFrame({"id": stream.ids, "says": [repr(word) for word in says]})[at - 3 : at + 14].T

# %% [markdown]
# The ids are those of this course's own tokenizer, which was given one token for each tag; with `preset="cpu"` the same cells show SmolLM2's. Llama's has no such token and cuts the tags into pieces, in the same places: a test holds the layout to the published one. DeSTA2's released inference has two quirks more, a doubled first token and a clip that stands one token early; `desta2.build_desta2_stream` keeps both, so that its answers can be compared with theirs.
#
# ## What it takes to open it
#
# Counted from parameters, and held against the memory of this machine:

# %%
print(systems.describe_memory(presets.desta25()))

# %% [markdown]
# With a GPU the same lines say where `offload=True` helps, which spreads the backbone over GPU and RAM. The time to load and to answer is not known: nobody has timed it with this package.
#
# ### Exercise 11.5 · Make it fit · tweak · 5 min
# Which form fits a GPU of 24 GB, which one of 16 GB? Does the older system, with the smaller Whisper, need much less? Say first which part you expect to weigh most, then turn the two constants: `desta25` or `desta2`; `float32`, `bf16` or `int8`.

# %%
WHICH, FORM = "desta25", "int8"

# %%
one = systems.SystemSize.of(presets.get_preset(WHICH))
print(
    f"{WHICH}, {FORM}: {one.memory_gb(FORM):.1f} GB, of which encoder "
    f"{4 * one.encoder / 1e9:.1f} GB (float32)"
)

# %% [markdown]
# Now open it, if it can be had. The released file is on the model hub (`DeSTA-ntu/DeSTA2.5-Audio-Llama-3.1-8B`), and Llama's weights ask for a licence to be accepted; `ADAPTER` is where you put the file. Both cells below were **not run with the released weights** on the machine that built this page: it does not have them. A test runs the same cells with tiny ones.

# %%
ADAPTER = experiment.root / "models" / "desta25" / "model.safetensors"
SYSTEM = presets.desta25()

# %%
try:
    system = systems.open_system(ADAPTER, SYSTEM, progress=print)
except (RuntimeError, ProvenanceError, WeightsError) as fault:
    system = None
    print("Not opened here:", str(fault).splitlines()[0])
    print("What was published of its kin stands below.")

# %%
clip = experiment.clips("test")[0]
if system:
    sound = {"audios": [{"audio": str(experiment.corpus.path(clip)), "text": None}]}
    turns, user = chat.audio_messages(question)[:-1], chat.audio_messages(question)[-1]
    heard = system.generate([*turns, {**user, **sound}], with_transcript=True, max_new_tokens=48)
    read, blind = (
        system.generate(messages, max_new_tokens=48)
        for messages in (
            chat.description_messages(describe(clip.attributes), question),
            [*turns, {**user, "content": question}],
        )
    )
    said = {"hears the clip": heard, "reads its description": read, "neither": blind}
    print(
        {"transcript": heard.audios[0][0][1]}
        | {condition: answer.text[0] for condition, answer in said.items()}
    )

# %% [markdown]
# Three answers side by side: the system hears the clip and reads its own transcript; the same language model, untouched, reads the description (the text oracle); and it is asked with neither, which is guessing.
#
# ## What others measured
#
# [Speech-IFEval](https://arxiv.org/abs/2505.19037) asked such systems questions about speech under an output constraint (notebook 09): three sets, of which closed questions and creative writing are checked by rule and chain of thought by a judge, which is another language model. This is what its authors' repository prints, with the protocol of every number:

# %%
printed = comparison.read_published("Speech-IFEval")
names = printed["system"].unique()
wide = printed.pivot(index="system", columns="metric", values="value").loc[names]
wide.round(2)

# %%
printed[["metric", "protocol", "source"]].drop_duplicates()

# %% [markdown]
# DeSTA2.5-Audio is not in it: the table holds only what could be read in a public repository, and its own row stands in its paper.
#
# Numbers in print are to be added up again. The IFrate is the mean of the three sets; is it?

# %%
sets = {
    "closed": 933,
    "creative": 400,
    "cot": 200,
}  # questions in each, counted in the authors' repository
added = wide[["IFrate"]].assign(mean=wide[[*sets]].mean(axis=1))
added.assign(off=added["IFrate"] - added["mean"]).round(2)

# %% [markdown]
# ### Exercise 11.6 · Undo a rate · fill in · 4 min
# Only one text LLM stands in the table, DeSTA2's. The others can be had from Δ. Write `text_ifrate(if_audio, delta)`: the IFrate of the language model alone, from that of the model that listens and its Δ, all in per cent.


# %% tags=["exercise"]
def text_ifrate(if_audio, delta):
    ### BEGIN SOLUTION
    return if_audio / (1 + delta / 100)
    ### END SOLUTION


# %%
lesson.check("text_ifrate", text_ifrate)

# %% [markdown] tags=["hint"]
# Δ = 100 · (IFrate by ear − IFrate in text) / IFrate in text. Solve for the IFrate in text.

# %% [markdown]
# The row of the text LLM itself checks the arithmetic: DeSTA2's must come out as it was printed. Two systems with the same number probably have the same language model inside; where no Δ was published, there was no tuned text LLM to compare with. Beside it, how far other questions of the same sets could move an IFrate: a 95 % interval from the number of questions, ours, for none was published.

# %%
published = wide.drop("Llama-3-8B-Instruct (text)").astype(float)
published["text"] = published["IFrate"] / (1 + published["delta"] / 100)
spread = sum(
    published[name] * (100 - published[name]) / n for name, n in sets.items()
) ** 0.5 / len(sets)
published["low"], published["high"] = (
    published["IFrate"] - 1.96 * spread,
    published["IFrate"] + 1.96 * spread,
)
by_hand = [text_ifrate(*row) for row in published[["IFrate", "delta"]].to_numpy()]
assert by_hand[0] is None or np.allclose(by_hand, published["text"], equal_nan=True)
published[["IFrate", "low", "high", "delta", "text"]].round(2)

# %% [markdown]
# ## And ours
#
# The finished runs answered four questions of rung 2, under two constraints (JSON, capital letters), about a few clips of voices never heard in training. One clip first:

# %%
table = experiment.score_table()
last = table[table["step"] == experiment.train_config.steps].dropna(subset=["obeyed"])
ask = [clip for clip in experiment.clips("test") if clip.id in set(last["clip"])]
asked = [task for task in experiment.tasks if task.name in set(last["task"])]
one = last[last["clip"] == ask[0].id]
one.pivot_table(index=["run", "condition"], columns="task", values="answer", aggfunc="first")

# %% [markdown]
# Two controls are not in the shipped table: the connector before its first step, and the trained one on a clip of zeros. If silence obeys as well, obeying says nothing about hearing.


# %%
def heard_nothing():
    """Answers of the untrained connector about the clips, and of the trained one about silence."""
    states = experiment.llm.encoder.encode(
        [audio.read_audio(experiment.corpus.path(clip)) for clip in ask]
    )
    with replies.use_checkpoint(experiment, 0) as llm:
        untrained = answer_free_form(llm, asked, ask, conditions.embed_clips(llm, states.float()))
    with replies.use_checkpoint(experiment) as llm:
        silent = answer_free_form(
            llm, asked, ask, conditions.embed_silence(llm).expand(len(ask), -1, -1)
        )
    return pd.concat(
        [untrained.assign(model="untrained connector"), silent.assign(model="ours, on silence")]
    )


# %% tags=["expensive"]
missing = lesson.find_or_make("heard nothing", heard_nothing)
missing["speaker"] = missing["clip"].map({clip.id: clip.speaker for clip in ask})

# %% [markdown]
# Scored by the functions that score Speech-IFEval's files: the same arithmetic on other questions. What is resampled is speakers.


# %%
def items(rows):
    """Answers in the scorer's format, an item a speaker."""
    people = rows.groupby("speaker")["obeyed"].mean()
    return pd.DataFrame(
        {"set": "closed", "id": people.index, "protocol": "rule", "followed": people.to_numpy()}
    )


heard, read = (
    last[last["condition"] == "audio"],
    items(last[(last["condition"] == "oracle") & (last["run"] == "self")]),
)
answers = {
    "ours, self-generated": heard[heard["run"] == "self"],
    "ours, bare label": heard[heard["run"] == "label"],
}

# %%
answers |= dict(list(missing.groupby("model"))[::-1])
rows = []
for model, said in answers.items():
    rate = speech_ifeval.ifrate(items(said)).set_index("set").loc["IFrate", ["rate", "low", "high"]]
    with np.errstate(
        divide="ignore", invalid="ignore"
    ):  # of a text LLM that obeys nothing, nothing can be lost
        lost = speech_ifeval.forgetting_rate(items(said), read)
    rows.append([model, *rate, *lost])
own = pd.DataFrame(
    rows, columns=["system", "IFrate", "low", "high", "delta", "delta_low", "delta_high"]
)
own = own.set_index("system").assign(text=speech_ifeval.ifrate(read)["rate"].iloc[-1])
own.astype(float).round(1)

# %% [markdown]
# An interval without width means that all speakers agreed, not that we know for certain: where twelve clips show no fault, up to a quarter of all clips could still have one (the rule of three, 3/12). And where a language model obeys nothing even in text, Δ has no value: that happens with `preset="cpu"`, whose small SmolLM2 kept neither constraint in the 24 tokens that an answer is given.
#
# Now the picture. Above, what was published; below, ours. The axes are the same and the protocols are not: hundreds of real recordings and thirteen constraints against a synthesiser's world and two, questions that an 8-billion-parameter model was never taught against a backbone that was trained on just such forms. Compare within a panel, never across.


# %%
blue, black = style.PALETTE["audio"], style.PALETTE["text"]
COLOURS = {
    "ours, bare label": style.PALETTE["label"],
    "untrained connector": style.PALETTE["untrained"],
    "ours, on silence": style.PALETTE["silence"],
}


# %%
def rates(axes, rows, title, note):
    """IFrate by ear with its interval, and of the text LLM, a row a system."""
    y, colours = np.arange(len(rows)), [COLOURS.get(name, blue) for name in rows.index]
    axes.hlines(y, rows["IFrate"], rows["text"], color="#BBBBBB", lw=2, zorder=0)
    axes.scatter(
        rows["text"], y, color=black, marker="*", label="its language model alone, in text", s=170
    )
    axes.hlines(y, rows["low"], rows["high"], color=colours, lw=2)
    axes.scatter(
        rows["IFrate"],
        y,
        color=colours,
        label="by ear, with 95 % interval",
        s=40,
        ec="white",
        zorder=3,
    )
    axes.set(xlim=(-3, 105), ylim=(len(rows) - 0.5, -0.5), yticks=y, yticklabels=rows.index)
    axes.set_title(title, loc="left")
    axes.text(5, 0, note, va="center", fontsize=8)


# %%
def losses(axes, rows, title):
    """Forgetting rate, with its interval where there is one."""
    y, colours = np.arange(len(rows)), [COLOURS.get(name, blue) for name in rows.index]
    axes.barh(y, rows["delta"], color=colours, height=0.5)
    axes.axvline(0, color=black, ls="--", lw=1)
    if "delta_low" in rows:
        axes.hlines(y, rows["delta_low"], rows["delta_high"], color="#333333", lw=1.5)
    for i, lost in enumerate(rows["delta"]):
        said = "no Δ" if np.isnan(lost) else f"{lost:.0f} %".replace("-", "−")
        axes.text(2, i, said, va="center", fontsize=8)
    axes.set(xlim=(-75, 25), ylim=(len(rows) - 0.5, -0.5), yticks=[], xticks=range(-60, 1, 20))
    axes.set_title(title, loc="left")


# %%
result = pd.concat(
    [published.assign(protocol="Speech-IFEval"), own.assign(protocol="ours")]
).rename_axis("system")
kept_by_ear, rate = 100 + published["delta"], own["IFrate"].to_dict()
headline = (
    f"By ear DeSTA2 keeps {kept_by_ear['DeSTA2']:.0f} % of its language model's obedience, "
    f"{kept_by_ear.idxmin()} "
    f"{kept_by_ear.min():.0f} %. By another protocol, on a tiny world, ours obeys "
    f"{rate['ours, self-generated']:.0f} % "
    f"by ear, {rate['ours, on silence']:.0f} % on silence, its language model "
    f"{own['text'].iloc[0]:.0f} % in text"
)
sizes = {"height_ratios": [len(published), len(own)]}
figure, ((top, top_lost), (low, low_lost)) = style.subplots(
    2, 2, headline, size=(10, 6), gridspec_kw=sizes
)

# %% tags=["headline"]
note = f"{sum(sets.values())} questions\n13 constraints\nrules and a judge"
rates(top, published, "IFrate, per cent: Speech-IFEval, as published", note)
losses(top_lost, published, "Forgetting rate Δ, per cent: as published")
note = f"{len(ask)} clips × {len(asked)} questions, 2 constraints, rules alone"
rates(low, own, "IFrate, per cent: OUR OWN PROTOCOL", note)
losses(low_lost, own, "Δ, per cent: OUR OWN PROTOCOL")
for axes in (low, low_lost):
    axes.set_facecolor("#F0F0F0")
low_lost.set_xlabel("grey panels must not be compared with those above")
figure.legend(*top.get_legend_handles_labels(), loc="outside lower left", ncols=2, fontsize=8)
lesson.show(
    figure,
    f"IFrate and Δ of published systems, and ours by another protocol. {headline}.",
    result.reset_index(),
)

# %%
print(lesson.reveal("deaf", own.loc["ours, on silence", "IFrate"]))
own[["IFrate", "delta"]].astype(float).round(1)

# %% [markdown]
# Read the grey rows with the controls in mind. Where silence, or a connector before its first step, obeys as well as one that hears, a Δ of 0 is easily had: it says that the ear did no harm, and nothing about what was heard. The bare-label run shows the harm, with a backbone that is frozen all the same. Above, compare the two systems that share a text IFrate: if it is one Llama, the language model alone does not decide what is kept.
#
# Following is not all that was published. What else is stored here; mind the protocol, which moves numbers by itself (the note on DeSTA2.5-Audio says by how much):

# %%
others = pd.concat([comparison.read_published(name) for name in ("SAKURA", "MMAU v05.15.25 mini")])
others[["benchmark", "system", "metric", "value", "protocol", "note"]].fillna("")

# %% [markdown]
# ## What we now know
#
# The release is a small file, between one and two per cent of the system; the rest is other people's frozen models. Our connector takes that file's tensors under other names, and on a tiny instance it computes the published code's numbers to rounding. At full size it was not opened here. By its authors' protocol DeSTA2 follows nearly as well as the Llama inside it, and others lose up to half. They differ in data, adapter and language model at once, so the table shows that they differ and does not say why.
#
# **What would change our mind**: the released weights, opened here, giving other answers than the published code gives on the same clips; a second run of Speech-IFEval by other hands with another Δ; or our own run losing obedience on constraints that its backbone was never trained on. `python -m desta_lab score` takes answers in Speech-IFEval's format.
#
# This is the last notebook. The door leads outside: **00** again, with `preset="cpu"`, or your own experiment from **10**.

# %%
lesson.card()
