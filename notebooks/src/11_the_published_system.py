# %% [markdown]
# # 11 · The published system: does it follow instructions as well as the language model inside it, and does ours?
#
# So far you saw a small copy of a published system. [DeSTA2.5-Audio](https://arxiv.org/abs/2507.02768) joins Whisper large-v3 to an 8-billion-parameter Llama, and both are frozen. Here you take its release apart: what is in the file, what its tensors are called, how a conversation looks token for token, and what it takes to open the system. You look into a miniature of the same form, with random weights, and ask whether its answer comes from the sound or from the words beside it.
#
# If this machine has the memory and the weights, the system is opened and asked about a clip. Otherwise one sentence says what is missing, and nothing below needs it. The last figure shows published numbers of its predecessor DeSTA2 and of other systems, and below them those of our own finished run: two protocols, two pictures, no ranking. The later cells run your functions; where an exercise is open, the package's function takes its place, and the headline says whose code ran.
#
# *Needs: 02; 09 helps. 32 minutes of exercises, about 25 of reading and running.*

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
from desta_lab.analysis import interventions
from desta_lab.benchmarks import comparison, speech_ifeval
from desta_lab.course.checks import notebook_11 as pieces
from desta_lab.evaluation import conditions, statistics
from desta_lab.evaluation.evaluate import answer_free_form
from desta_lab.model import chat, presets
from desta_lab.model.audio_llm import ProvenanceError
from desta_lab.model.connector import QFormer
from desta_lab.model.encoder import PUBLISHED_TAPS
from desta_lab.model.weights import WeightsError
from desta_lab.published import adapters, parity, systems
from desta_lab.views import replies, style
from desta_lab.world.describe import describe

# %%
lesson = desta_lab.setup("11")
experiment = lesson.experiment

# %% [markdown]
# ## What was released
#
# A preset is data. This preset is the published system:

# %%
presets.desta25()

# %% [markdown]
# Encoder and backbone were made by others, and training did not change them. So they were not released again. The file holds the connector and nothing else.
#
# ### Exercise 11.1 · Commit yourself · predict · 4 min
# Give three ranges before anything is counted. The third is about a control at the end: the finished run of this course hears silence, and answers four questions under a constraint (“Answer in JSON.”). Its IFrate is the share of answers that obey.

# %%
lesson.predict(
    "released", "Per cent of the system's parameters that are in the file?", 0, 20, step=0.5
)

# %%
lesson.predict("memory", "GB of memory for the system with its backbone in bf16?", 0, 60, step=1)

# %%
lesson.predict("deaf", "IFrate of our run on a clip of silence, in per cent?", 0, 100, step=5)

# %% [markdown]
# Torch's *meta* device makes tensors that have a shape and no numbers, so counting takes no memory. The defaults of our Q-Former are the published form. The two widths are those of the frozen models.

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
lesson.lock("released", "memory")  # the next line tells an answer
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
# `tests/data/desta25_tiny` in this repository holds a tiny instance of the published model. It was made with the published code and random weights, and it stores what that code computed. Its file has the names of the released file. Does the size of the file add up? It should be four bytes a number, and a header that lists names and places:

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

# %% [markdown]
# The weights of its first layer, below `perception.connector.qformer.layer.` (each has a bias beside it):


# %%
def list_weights(tensors, prefix):
    """Names and shapes of the weights whose names begin with the prefix."""
    names = [name for name in tensors if name.startswith(prefix) and name.endswith("weight")]
    return pd.Series({name: tuple(tensors[name].shape) for name in names}, name="shape").to_frame()


LAYER = f"{adapters.PREFIX}qformer.layer."
list_weights(file, f"{LAYER}0.").rename(index=lambda name: name.removeprefix(LAYER))

# %% [markdown]
# And those of the first block of our own connector, at the same size:

# %%
tiny = QFormer(taps=4, d_enc=64, d_llm=48, queries=6, depth=2, heads=4)
list_weights(tiny.state_dict(), "blocks.0.")

# %% [markdown]
# ### Exercise 11.2 · Rename their tensors · fill in · 9 min
# Write `our_name(name)`. It takes the full published name of a tensor in a Q-Former layer, and returns the name in our connector. For example, `perception.connector.qformer.layer.0.attention.self.query.bias` becomes `blocks.0.self_attention.query.bias`. Read the two lists above side by side. A block of this form has three steps: self-attention, cross-attention, MLP. Each step ends with its norm, so the three norms come in this order.


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
# The tensors outside the layers need less: the package renames them, and joins the query tokens of all taps (`layer_prompts.0`, …) to one tensor. Your function names all tensors in the layers (the package's does while the exercise is open). Then our connector loads them all.

# %%
rename = lesson.use("our_name", our_name, pieces.rename_tensor, tensors=False)
outside = {
    name: tensor
    for name, tensor in adapters.from_published(file).items()
    if not name.startswith("blocks.")
}
inside = {rename(name): tensor for name, tensor in file.items() if name.startswith(LAYER)}
print(f"{len(inside)} tensors named by {lesson.credit}, {len(outside)} outside the layers")
tiny.load_state_dict(outside | inside, strict=True)

# %% [markdown]
# `strict=True` matters. The published training code loads with `strict=False`. There, a file with wrong names only would load without a word.
#
# ## The same numbers?
#
# All names matched. Is it now the same model? `parity` gives the clips and token ids of the stored run to our encoder, connector and backbone. It compares every result with what the published code had computed. The connector that you just filled goes in.


# %%
def differences(connector):
    """Largest difference to the published numbers, in float32, with these tensors in the file."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(TINY, folder, dirs_exist_ok=True)
        save_file(connector, Path(folder) / "connector.safetensors")
        table = parity.compare(folder)
    eager = table[(table["attention"] == "eager") & (table["precision"] == "float32")]
    return eager.set_index("quantity")[["difference", "limit"]]


differences(adapters.to_published(tiny.state_dict()))

# %% [markdown]
# ### Exercise 11.3 · Exchange what a strict load does not miss · break · 6 min
# A strict load compares names and shapes, and nothing else. Write `exchanged(file)`. It takes the dict of names and tensors. Return a new dict in which two tensors of the same shape have changed places. Leave `file` as it is.


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
exchange = lesson.use("exchanged", exchanged, pieces.exchange_norms, tensors=False)
differences(exchange(file))

# %% [markdown]
# It loads, strictly, and it is another model. But one exchange changes nothing even here (if you chose it, you saw so above). Two layers swap the biases of their keys:

# %%
a, b = (f"{LAYER}{layer}.attention.self.key.bias" for layer in (0, 1))
differences(pieces.exchange(file, a, b))

# %% [markdown]
# A bias of the keys adds the same number to all scores of a query. A softmax gives the same weights then. (So the values of this bias change nothing. It still counts among the parameters.)
#
# ## A conversation, token for token
#
# What does the backbone read? In DeSTA2.5-Audio the text of a user holds the placeholder `<|AUDIO|>`. Two tags stand around it. They are plain text, no special tokens. Between the tags come the *audio slots*, one per query, which the connector fills with audio embeddings. After the slots comes the clip's **transcript**, written by the same Whisper. (The runs of this course hear without a transcript.)

# %%
question = "What is the background sound?"
words = "hello there."  # what Whisper would have written
text = experiment.llm.backbone.tokenizer.apply_chat_template(
    chat.audio_messages(question), tokenize=False, add_generation_prompt=True
)
print(text)

# %% [markdown]
# The ids of the whole conversation come in this order: the text before with the start tag, the slots, the transcript, the end tag with the text after. One function lays them out for training, generation and scoring:

# %%
stream = chat.build_stream(
    experiment.llm.backbone.tokenizer, chat.audio_messages(question), 3, transcripts=[words]
)
ids = list(stream.ids)  # 64 slots there, 3 to look at
says = ["(audio)" if i == chat.SLOT else experiment.llm.backbone.tokenizer.decode([i]) for i in ids]
at = ids.index(chat.SLOT)
pd.DataFrame({"id": ids, "says": [repr(word) for word in says]})[at - 3 : at + 14].T

# %% [markdown]
# The ids are those of this course's own tokenizer, which has one token for each tag. With `preset="cpu"` the same cells show SmolLM2's. Llama's tokenizer has no such token, and cuts each tag into several. The layout is the same, and a test compares it with the published one. The released inference of DeSTA2 has two oddities: it doubles the first token, and the clip comes one token early. `desta2.build_desta2_stream` does the same, so its answers can be compared with theirs.
#
# ## Look inside the miniature
#
# The tiny instance is a whole system: an encoder, a connector of the published form, and a Llama of two layers. So it can be opened and asked, like the runs of this course. **Its weights are random, its tokens are single bytes, and it hears two seconds. No number of this section says anything about DeSTA2.5-Audio.** What can be learned here is the analysis: the released system, once it is open (below), takes the same calls.

# %%
mini = parity.ParityCase.read(TINY).build_system("sdpa", torch.float32)
some = experiment.clips("test")[:12]
waves = [audio.read_audio(experiment.corpus.path(clip)) for clip in some]
spoken = [clip.transcript[:20] for clip in some]  # as many bytes for every clip
sites = ["audio_embeddings", "backbone.0", "backbone.1"]
plain = mini.run(waves, question, transcripts=spoken, sites=sites)
print("".join(plain.tokens[0]))
{site: tuple(plain[site].shape) for site in sites}

# %% [markdown]
# A system of this form is told about a clip twice: by its audio embeddings, and by its transcript. Does the answer come from the sound or from the words? Patching tells (notebook 06). Run a clip, put the audio embeddings of *another* speaker's clip into the slots, and leave the words. Then do the opposite. How far does the answer go over to the other clip?
#
# ### Exercise 11.4 · Measure how far an answer moved · fill in · 4 min
# A margin between two words is no use here, because this model knows no words. So take all next-token logits. `patched`, `own` and `other` are tensors [clip, token]: the logits of the patched run, of the clip's own run, and of the other clip's run. Write `share_of_way(patched, own, other)`, one number for each clip:
#
# > share of the way = (patched − own) · (other − own) / ‖other − own‖²
#
# The dot is an inner product. 0 means that the logits stayed, and 1 that they went over to those of the other clip.


# %% tags=["exercise"]
def share_of_way(patched, own, other):
    ### BEGIN SOLUTION
    way = other - own
    return ((patched - own) * way).sum(-1) / (way * way).sum(-1)
    ### END SOLUTION


# %%
lesson.check("share_of_way", share_of_way)

# %% [markdown] tags=["hint"]
# An inner product is the sum of the products: `(a * b).sum(-1)`. ‖w‖² is the inner product of `w` with itself.

# %% [markdown]
# Three controls stand beside the two patches. *Both* at once must give 1, because then nothing of the own clip is left. The last two put in sound or words of a *third* clip, of a third speaker. This takes something of the own clip away too, so the logits move, and a part of the move points to the other clip by chance. Only what a patch moves beyond its third clip comes from the other clip.

# %%
way = lesson.use("share_of_way", share_of_way, pieces.measure_way)
people = np.array([clip.speaker for clip in some])
other, draw = conditions.shuffled_partners(some), np.random.default_rng(0)
third = [
    int(draw.choice(np.flatnonzero((people != people[i]) & (people != people[j]))))
    for i, j in enumerate(other)
]


def patch(sound=None, words=None):
    """Share of the way to the other clip, with sound or words of these clips put in."""
    flow = {} if sound is None else {"audio_embeddings": plain["audio_embeddings"][sound]}
    edits = {site: interventions.set_to(given) for site, given in flow.items()}
    said = spoken if words is None else [spoken[i] for i in words]
    run = mini.run(waves, question, transcripts=said, sites=[], edits=edits)
    return way(run.logits, plain.logits, plain.logits[other]).numpy()


# %%
put_in = {
    "sound": patch(sound=other),
    "words": patch(words=other),
    "both (must be 1)": patch(other, other),
    "sound of a third clip": patch(sound=third),
    "words of a third clip": patch(words=third),
}
shares = pd.DataFrame(put_in).assign(speaker=people).melt("speaker", var_name="put in")
ways = statistics.bootstrap_intervals(shares, "value", ["put in"])
pd.DataFrame({name: ways[name,] for name in put_in}, index=["share of the way", "low", "high"]).T

# %% [markdown]
# In the miniature the words do everything. A random connector gives nearly the same embeddings for every clip, so the sound has nothing to say. A trained system should be asked the same question: if only its transcript counts, it cannot know the accent.
#
# Where in the language model do the words act? Now we put in what flows *behind* a layer, at one kind of token. What the transcript's tokens no longer move, the tokens after them have read already.

# %%
first = int(plain.slots[0, -1]) + 1  # of the transcript's tokens
kinds = {"audio slots": plain.slots[0].tolist(), "transcript": list(range(first, first + 20))}
held = [place for kind in kinds.values() for place in kind]
kinds["other tokens"] = [place for place in range(len(plain.tokens[0])) if place not in held]
moved = {}
for site in sites[1:]:
    for kind, places in kinds.items():
        edits = {site: interventions.only(interventions.set_to(plain[site][other]), places)}
        run = mini.run(waves, question, transcripts=spoken, sites=[], edits=edits)
        shift = way(run.logits, plain.logits, plain.logits[other])
        moved[site, kind] = float(shift.mean())
pd.Series(moved).unstack().round(2)

# %% [markdown]
# Behind the last layer only the last token counts. It is one of the *other tokens*, so their share must be 1 there. (All clips have as many bytes of transcript here, so their tokens stand at the same places. `interventions.patch_sites` does without this.)
#
# ## What it takes to open it
#
# The memory is counted from parameters, and compared with that of this machine:

# %%
print(systems.describe_memory(presets.desta25()))

# %% [markdown]
# With a GPU the same lines say where `offload=True` helps. It spreads the backbone over GPU and RAM. Nobody has timed with this package how long it takes to load and to answer.
#
# ### Exercise 11.5 · Make it fit · tweak · 5 min
# Which form fits a GPU of 24 GB, and which fits 16 GB? Does the older system, with the smaller Whisper, need much less? Say first which part you expect to be largest. Then change the two constants: `desta25` or `desta2`; `float32`, `bf16` or `int8`.

# %%
WHICH, FORM = "desta25", "int8"

# %%
one = systems.SystemSize.of(presets.get_preset(WHICH))
print(
    f"{WHICH}, {FORM}: {one.memory_gb(FORM):.1f} GB, of which encoder "
    f"{4 * one.encoder / 1e9:.1f} GB (float32)"
)

# %% [markdown]
# Now open the system, if you have it. The released file is on the model hub (`DeSTA-ntu/DeSTA2.5-Audio-Llama-3.1-8B`), and for Llama's weights you must accept a licence. `ADAPTER` is where you put the file. The two cells below were **not run with the released weights**: the machine that built this page does not have them. A test runs the same cells with tiny weights.

# %%
ADAPTER = experiment.root / "models" / "desta25" / "model.safetensors"
SYSTEM = presets.desta25()

# %%
try:
    system = systems.open_system(ADAPTER, SYSTEM, progress=print)
except (RuntimeError, ProvenanceError, WeightsError) as fault:
    system = None
    print("Not opened here:", str(fault).splitlines()[0])
    print("Published numbers of related systems stand below.")

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
# With the weights there are three answers side by side. In the first the system hears the clip and reads its own transcript. In the second the same language model, untouched, reads the description (the text oracle). In the third it has neither, and guesses.
#
# ## What others measured
#
# [Speech-IFEval](https://arxiv.org/abs/2505.19037) asked such systems questions about speech under an output constraint (notebook 09). It has three sets. Closed questions and creative writing are checked by rule. Chain of thought is checked by a judge, which is another language model. This is what its authors' repository prints, with the protocol of every number:

# %%
printed = comparison.read_published("Speech-IFEval")
names = printed["system"].unique()
wide = printed.pivot(index="system", columns="metric", values="value").loc[names]
wide.round(2)

# %%
printed[["metric", "protocol", "source"]].drop_duplicates()

# %% [markdown]
# DeSTA2.5-Audio is missing here. The table holds only what could be read in a public repository, and its row is in its paper.
#
# Printed numbers should be computed again. The IFrate should be the mean of the three sets. Is it?

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
# The table holds only one text LLM, that of DeSTA2. The others follow from the forgetting rate Δ = 100 · (a − t) / t. Here `a` is the IFrate by ear and `t` is the IFrate of the language model alone, in text; all three are in per cent. Write `text_ifrate(if_audio, delta)`. It takes `a` and Δ, and returns `t`.


# %% tags=["exercise"]
def text_ifrate(if_audio, delta):
    ### BEGIN SOLUTION
    return if_audio / (1 + delta / 100)
    ### END SOLUTION


# %%
lesson.check("text_ifrate", text_ifrate)

# %% [markdown] tags=["hint"]
# Multiply both sides by `t`, then bring every `t` to one side.

# %% [markdown]
# Your function works out the column `text` (the package's does while the exercise is open). DeSTA2's row checks it: its text LLM was printed, too. Two systems with the same number probably hold the same language model. Where no Δ was published, there is no value.
#
# The columns `low` and `high` say how far other questions of the same sets could move an IFrate. None was published, so this 95 % interval is ours. A set with rate p per cent and n questions has the variance p (100 − p) / n.

# %%
undo = lesson.use("text_ifrate", text_ifrate, pieces.undo_rate, tensors=False)
published = wide.drop("Llama-3-8B-Instruct (text)").astype(float)
published["text"] = [undo(*row) for row in published[["IFrate", "delta"]].to_numpy()]
spread = sum(
    published[name] * (100 - published[name]) / n for name, n in sets.items()
) ** 0.5 / len(sets)
published["low"], published["high"] = (
    published["IFrate"] - 1.96 * spread,
    published["IFrate"] + 1.96 * spread,
)
published[["IFrate", "low", "high", "delta", "text"]].round(2)

# %% [markdown]
# ## And ours
#
# The finished runs answered four questions of rung 2, under two constraints (JSON, capital letters), about a few clips of voices that were never heard in training. One clip first:

# %%
table = experiment.score_table()
last = table[table["step"] == experiment.train_config.steps].dropna(subset=["obeyed"])
ask = [clip for clip in experiment.clips("test") if clip.id in set(last["clip"])]
asked = [task for task in experiment.tasks if task.name in set(last["task"])]
one = last[last["clip"] == ask[0].id]
one.pivot_table(index=["run", "condition"], columns="task", values="answer", aggfunc="first")

# %% [markdown]
# The shipped table lacks two controls: the connector before its first step, and the trained connector on a clip of zeros. If answers to silence obey as well, obeying says nothing about hearing.


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
# The functions that score Speech-IFEval's files score these answers: the same arithmetic on other questions. Here speakers are resampled.


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
print(lesson.reveal("deaf", own.loc["ours, on silence", "IFrate"]))
own.astype(float).round(1)

# %% [markdown]
# An interval without width means that all speakers agreed. It does not mean that we know for certain. If twelve clips show no fault, up to a quarter of all clips could still have one (the rule of three, 3/12). If a language model obeys nothing even in text, Δ has no value. This happens with `preset="cpu"`: its SmolLM2 kept neither constraint in the 24 tokens of an answer.
#
# Now the picture: published numbers above, ours below. The axes are the same, but the protocols are not. They used hundreds of real recordings and thirteen constraints; we used a synthesiser's world and two constraints. Their language models were not trained for these questions; our backbone was trained on just such forms. Compare within a panel, never across panels.


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
    f"{own['text'].iloc[0]:.0f} % in text (by {lesson.credit})"
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
own[["IFrate", "delta"]].astype(float).round(1)

# %% [markdown]
# Look at the controls in the grey panels first. Silence, and a connector before its first step, obey as well as a connector that hears. So a Δ of 0 says that the ear did no harm. It says nothing about what was heard. The bare-label run shows harm, although its backbone is frozen, too. In the upper panels compare the two systems with the same text IFrate. If both hold the same Llama, the language model alone does not decide what is kept.
#
# Other abilities were published, too, and the package stores some of the numbers. SAKURA asks about one attribute of a clip (*single*), or for a conclusion from it (*multi*). A judge reads the answers. The values are per cent right, means over tracks:

# %%
sakura = comparison.read_published("SAKURA").rename(columns={"note": "mean"})
sakura = sakura.assign(mean=sakura["mean"].str.removeprefix("mean of "))
sakura.pivot(index=["system", "mean"], columns="metric", values="value")

# %% [markdown]
# MMAU is multiple choice, per cent right. Mind the protocol, because it moves numbers by itself. The note on DeSTA2.5-Audio says by how much:

# %%
mmau = comparison.read_published("MMAU v05.15.25 mini").fillna("").set_index("system")
print(mmau.loc["DeSTA2.5-Audio", "note"])
mmau[["value", "protocol"]]

# %% [markdown]
# ## What we now know
#
# The release is a small file, between one and two per cent of the system. The rest are frozen models of other people. Our connector takes the tensors of the file under other names. On a tiny instance it computes the numbers of the published code, up to rounding. That miniature was opened, patched and asked whether sound or words move its answer. It was the words, by random weights: this says what the question is, and not what the released system would answer. The full system was not opened here.
#
# By its authors' protocol DeSTA2 follows instructions nearly as well as the Llama inside it. Other systems lose more, the worst of them more than half. These systems differ in data, adapter and language model at once. So the table shows that they differ, and does not say why.
#
# **What would change our mind**: released weights that give other answers here than in the published code, on the same clips; a second run of Speech-IFEval by other people with another Δ; or our own run losing obedience on constraints that its backbone was never trained on. `python -m desta_lab score` takes answers in Speech-IFEval's format.
#
# This is the last notebook. Go on with **00** again on `preset="cpu"`, or with your own experiment from **10**.

# %%
lesson.card()
