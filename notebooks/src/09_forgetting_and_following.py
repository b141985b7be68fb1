# %% [markdown]
# # 09 · Forgetting and following: does it still follow instructions, and what has it forgotten?
#
# “What is the background sound? Answer in JSON.” Two things are asked there: *what* is heard, and *in which form* it is to be said. Speech models that were tuned on speech tasks often keep the first and lose the second ([Speech-IFEval, 2025](https://arxiv.org/abs/2505.19037)); where the language model itself was changed, it may be lost in plain text too, where no sound is involved at all.
#
# You will write a rule that says whether an answer obeys, put a number on what the ear costs, prove that a frozen backbone forgets nothing, and then thaw it a little, with LoRA (small matrices that learn beside the frozen weights), and measure what goes. The backbone of the run that ships has a few million parameters and knows one small world: this is a glass-box demonstration of a mechanism, not a measurement of large models.
#
# *Needs: 00; 04 helps. 33 minutes of exercises; reading and running take about as long again.*

# %%
import copy
import json
import warnings

import numpy as np
import pandas as pd
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer

import desta_lab
from desta_lab.evaluation import conditions, constraints, statistics
from desta_lab.evaluation.evaluate import answer_free_form
from desta_lab.evaluation.tasks import named_values
from desta_lab.experiments import ablation, forgetting
from desta_lab.model import build, chat
from desta_lab.model.audio_llm import hash_tensors
from desta_lab.training import batches, checkpoints, features, trainer
from desta_lab.views import replies, study_figures, style

warnings.filterwarnings(
    "ignore", message=".*is_gradient_checkpointing"
)  # peft asks transformers by an old name
lesson = desta_lab.setup("09")
experiment = lesson.experiment

# %% [markdown]
# ## One clip, three forms
#
# Hear it, then read what the finished self-generated run says to three questions about it. The second column is the same language model *reading* the description (the text condition). If the connector speaks the backbone's language, the two columns should have the same form, whatever they say.

# %%
clip = experiment.clips("test")[0]
desta_lab.show_players(experiment.corpus, [clip])

# %%
question = "What is the background sound?"
forms = [question, f"{question} Answer in JSON.", f"{question} Answer in capital letters."]
with replies.use_checkpoint(experiment) as llm:
    heard = replies.embed_audio(llm, replies.read_wave(experiment, clip))
    rows = [
        (
            form,
            replies.answer_audio(llm, heard, form).text,
            replies.answer_text(llm, clip, form).text,
        )
        for form in forms
    ]
pd.DataFrame(rows, columns=["question", "by ear", "by reading"])

# %% [markdown]
# ## Obeying is checked by rule
#
# Nobody has to judge whether an answer is JSON. IFEval ([Zhou et al., 2023](https://arxiv.org/abs/2311.07911)) made a list of such *output constraints* with a rule for each, and Speech-IFEval asks speech models under them. Only the form is scored: `{"background": "rain"}` obeys even when birds sing.
#
# ### Exercise 9.1 · Write a rule for JSON · fill in · 6 min
# `obeys_json(answer)` takes a string and returns whether the whole of it is one JSON value. Models like to wrap JSON in a code fence, with or without the word json behind the opening one: that counts as obeying. An answer that cannot be read must give `False`, not an error.


# %% tags=["exercise"]
def obeys_json(answer):
    ### BEGIN SOLUTION
    text = answer.strip().removeprefix("```").removesuffix("```").strip().removeprefix("json")
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
    ### END SOLUTION


# %%
lesson.check("obeys_json", obeys_json)

# %% [markdown] tags=["hint"]
# `json.loads` raises `ValueError` where a text is no JSON; `str.removeprefix` takes a fence off, and does nothing where there is none.

# %% [markdown]
# The package has thirteen such rules under their IFEval ids. Two of them stand on rung 2 of the task ladder (notebook 00). Here is every answer that both finished runs gave there, judged by your rule, or by the package's while the exercise is open; the two must agree on every one.

# %%
table = experiment.score_table()
last = table[
    (table["step"] == experiment.train_config.steps) & table["condition"].isin(["audio", "oracle"])
]
asked = last.dropna(subset=["obeyed"]).assign(answer=lambda rows: rows["answer"].fillna(""))
json_asked = asked[asked["task"].str.startswith("json")]
rule = constraints.json_format if obeys_json("{}") is None else obeys_json
assert [rule(answer) for answer in json_asked["answer"]] == json_asked["obeyed"].astype(
    bool
).tolist()
json_asked.groupby(["run", "condition", "task"])["answer"].first().unstack("task")

# %% [markdown]
# ## All thirteen, by reading and by ear
#
# Two constraints are few, so here are all thirteen, each with six questions, about voices never heard in training. First the untouched language model *reads*: once with the constraint stated, once without. A constraint that it obeys in less than half of its answers could not be lost by listening, and one that it obeys unasked is not followed; both are left out, by name.

# %% tags=["expensive"]
ask = experiment.clips("test")[:32]
items = forgetting.make_instructions(
    ask, [task.question for task in experiment.tasks if task.rung == 3]
)
known = lesson.find_or_make(
    "constraints", lambda: forgetting.rate_constraints(experiment.llm, items)
).set_index("constraint")
print("left out:", ", ".join(known.index[~known["counted"]]) or "none")
known.round(2)

# %% [markdown]
# Those that are left are put to the finished self-generated run, by ear and in text. Twelve answers each are few: an interval without width means that every speaker's answers obeyed alike, not that we know for certain.


# %% tags=["expensive"]
def following():
    """Answers of the finished run under every counted constraint, by ear and in text."""
    some = [item for item in items if known["counted"][item.constraint]]
    with replies.use_checkpoint(experiment) as llm:
        heard = conditions.embed_clips(
            llm, llm.encoder.encode([replies.read_wave(experiment, clip) for clip in ask]).float()
        )
        audio_embeddings = heard[[ask.index(item.clip) for item in some]]
        answers = {
            "by ear": forgetting.answer_instructions(llm, some, audio_embeddings),
            "in text": forgetting.answer_instructions(llm, some),
        }
    return pd.concat([rows.assign(condition=condition) for condition, rows in answers.items()])


answered = lesson.find_or_make("following", following)
answered["speaker"] = answered["clip"].map({clip.id: clip.speaker for clip in ask})
rates = statistics.bootstrap_intervals(answered, "obeyed", ["constraint", "condition"])
rates = pd.DataFrame(rates, index=["rate", "low", "high"]).T.unstack().swaplevel(axis=1)
rates[pd.MultiIndex.from_product([["in text", "by ear"], ["rate", "low", "high"]])].round(2)

# %% [markdown]
# Only the form was graded. One answer by ear to each, to read:

# %%
answered[answered["condition"] == "by ear"].groupby("constraint")[
    ["question", "answer", "obeyed"]
].first()

# %% [markdown]
# ## What does the ear cost?
#
# The share of answers that obey is the **IFrate**. A weak language model obeys little even when it reads, so the fair question is how much of its *own* obedience it loses when it listens. That is the **forgetting rate** Δ of Speech-IFEval: 0 is nothing lost, −1 everything, −0.5 half.
#
# ### Exercise 9.2 · Work out the forgetting rate · fill in · 4 min
# Write `forgetting_rate(if_audio, if_text)`: take two IFrates, of the audio condition and of the same backbone's text condition, and return Δ: the change, relative to what the text condition could do.


# %% tags=["exercise"]
def forgetting_rate(if_audio, if_text):
    ### BEGIN SOLUTION
    return (if_audio - if_text) / if_text
    ### END SOLUTION


# %%
lesson.check("forgetting_rate", forgetting_rate)

# %% [markdown] tags=["hint"]
# DeSTA2 has 89.0 by ear and its backbone 92.5 by reading: Δ = −3.5 / 92.5, about −0.04.

# %% [markdown]
# ### Exercise 9.3 · Commit yourself · predict · 4 min
# Two ranges, before the numbers. The first is about the run that learned the bare label of the background from its birth, with the backbone frozen. The second is about an experiment further down: the finished self-generated run is taught the bare label for a few steps more, with low-rank adapters (LoRA) in every layer of the backbone at five times the connector's learning rate, and then asked in *text only*.

# %%
lesson.predict(
    "delta_label", "Forgetting rate Δ of the bare-label run, by ear?", -1, 0.5, step=0.05
)

# %%
lesson.predict("text_lora", "IFrate of the LoRA-tuned backbone in plain text?", 0, 1, step=0.05)


# %% [markdown]
# Δ of both finished runs, with an interval that resamples speakers: the same people in both conditions, so that an easy voice is easy in both.


# %%
def delta(rows):
    """Δ and its 95 % interval, from rows of both conditions of one run."""
    people = rows.pivot_table(index="speaker", columns="condition", values="obeyed")
    drawn = np.random.default_rng(0).integers(len(people), size=(1000, len(people)))
    drawn = np.vstack([np.arange(len(people)), drawn])  # the first row is the data itself
    heard, read = (people[condition].to_numpy()[drawn].mean(1) for condition in ("audio", "oracle"))
    return pd.Series(
        [((heard - read) / read)[0], *np.percentile((heard - read) / read, [2.5, 97.5])]
    )


rates = (
    asked.groupby("run")[["speaker", "condition", "obeyed"]]
    .apply(delta)
    .set_axis(["Δ", "low", "high"], axis=1)
)
asked.groupby(["run", "condition"])["obeyed"].mean().unstack().join(rates).round(2)

# %% [markdown]
# The column `oracle` is the text condition: both runs have the same backbone, and it reads equally well. So where Δ is clearly below zero, the fault lies in the ear: for instance in a connector that makes the backbone say one word, whatever the question was; the answers above show whether it does. An interval without width means that every answer was the same, not that we know for certain.
#
# ## Frozen means frozen
#
# That the backbone is the same can be proved. Every tensor of the backbone goes into one hash; training refuses to finish if that hash has changed. But would one changed weight among millions show?
#
# ### Exercise 9.4 · Nudge one weight · break · 6 min
# Write `nudged(module)`: a copy of the module in which exactly one number of one tensor is different, while the module itself stays as it was. Mind the precision: in bfloat16, one plus a millionth is one.


# %% tags=["exercise"]
def nudged(module):
    ### BEGIN SOLUTION
    other = copy.deepcopy(module)
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1
    return other
    ### END SOLUTION


# %%
lesson.check("nudged", nudged)

# %% [markdown] tags=["hint"]
# `copy.deepcopy` copies a module with its weights; inside `torch.no_grad()` a parameter can be written to, and `.view(-1)[0]` is its first number.

# %%
backbone = experiment.llm.backbone.model
before = hash_tensors(backbone)
spoiled = nudged(backbone)
print("backbone      ", before[:16], " parameters:", sum(p.numel() for p in backbone.parameters()))
print("one number off", "not tried yet" if spoiled is None else hash_tensors(spoiled)[:16])

# %% [markdown]
# ## Teach it one more thing
#
# Now the experiment. Take the finished self-generated run and go on training it for a few steps on bare labels: the question about the background, and “rain”, “siren”, … as the whole answer. Three pupils: one with the backbone **frozen**, and two with **LoRA** beside every linear layer of the backbone, at the connector's own learning rate and at five times that.

# %%
STEPS, BATCH, CLIPS, RANK = 40, 12, 256, 8
RATES = (
    experiment.preset.lr,
    5 * experiment.preset.lr,
)  # of the adapters; the connector keeps the first
learn = experiment.clips("train")[:CLIPS]
tasks = [task for task in experiment.tasks if task.rung in (2, 3)]

# %% tags=["expensive"]
store = features.FeatureStore(
    experiment.root / "features",
    experiment.llm.encoder,
    experiment.llm.provenance["encoder_sha256"],
    experiment.corpus,
    [*learn, *ask],
)
store.compute(experiment.progress("features"))

# %% [markdown]
# ### Exercise 9.5 · Add a low-rank path · fill in · 7 min
# LoRA leaves a frozen weight `W` (out × in) alone and adds a detour through `r` numbers: `A` (r × in) and `B` (out × r), scaled by `alpha / r`. For rows `x` (batch × in), return what the layer gives (batch × out). `B` is born as zeros, so at first the detour says nothing.


# %% tags=["exercise"]
def lora_forward(x, W, A, B, alpha):
    ### BEGIN SOLUTION
    return x @ W.T + alpha / len(A) * (x @ A.T @ B.T)
    ### END SOLUTION


# %%
lesson.check("lora_forward", lora_forward)

# %% [markdown] tags=["hint"]
# A row `x` goes through a weight of shape out × in as `x @ W.T`. The rank `r` is the number of rows of `A`.


# %% [markdown]
# A pupil is a fresh copy of the finished run, so that the finished run stays as it is. `get_peft_model` puts adapters beside every linear layer of its backbone.


# %%
def pupil(lora):
    """The finished run once more, with adapters in its backbone or without."""
    llm = build.build_audio_llm(
        experiment.preset, root=experiment.root / "models", seed=experiment.seed
    )
    checkpoints.load_checkpoint(experiment.train("self"), llm, experiment.train_config.steps)
    torch.manual_seed(0)  # A starts at random
    if lora:
        get_peft_model(
            llm.backbone.model, LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear")
        )
    return llm


def adapters(llm):
    return [module for module in llm.backbone.model.modules() if isinstance(module, LoraLayer)]


# %% [markdown]
# By hand and by peft, on a copy of one layer whose detour was made to say something:

# %%
pupils = {None: pupil(lora=False)} | {rate: pupil(lora=True) for rate in RATES}
layer = copy.deepcopy(adapters(pupils[RATES[0]])[0]).float()
A, B = layer.lora_A["default"].weight, torch.nn.init.normal_(layer.lora_B["default"].weight)
x = torch.randn(3, layer.in_features)
by_hand = x @ layer.base_layer.weight.T + 2 * RANK / RANK * (x @ A.T @ B.T)
torch.testing.assert_close(by_hand, layer(x), rtol=1e-4, atol=1e-4)

# %% [markdown]
# The loop is that of notebook 04 in short: draw clips, one forward, cross-entropy on the words of the answer, one step. The optimiser is given the connector *and* the adapters, if there are any. Whatever stands before the clip is read anew each time, because with adapters it changes too.

# %%
examples = experiment.training_rows("label")[0][:CLIPS]
config = trainer.TrainConfig(STEPS, BATCH, experiment.preset.lr, warmup=5, seed=experiment.seed)


# %%
def teach(llm, rate):
    """Bare labels for a few steps: the connector learns, and the adapters at their own rate."""
    learning = [p for p in llm.backbone.parameters() if p.requires_grad]
    groups = [{"params": [*llm.connector.parameters()]}, {"params": learning, "lr": rate or 0.0}]
    how = {"lr": config.lr, "betas": config.betas, "weight_decay": config.weight_decay}
    optimizer = torch.optim.AdamW(groups, **how)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: config.learning_rate(step) / config.lr
    )
    for step in range(STEPS):
        rows = [examples[i] for i in config.batch_rows(step, len(examples))]
        ids, labels = batch_of(llm, rows)
        audio_embeddings = llm.connect(store[[row["id"] for row in rows]])
        logits = llm.response_logits((), ids, labels != batches.IGNORE, audio_embeddings)
        words = labels[labels != batches.IGNORE].to(logits.device)
        loss = torch.nn.functional.cross_entropy(logits, words)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(
            [*llm.connector.parameters(), *learning], config.max_grad_norm
        )
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return float(loss.detach())


# %%
def batch_of(llm, rows):
    """Token ids of whole conversations, and which token each position should say next."""
    tokenizer = llm.backbone.tokenizer
    streams = [
        chat.build_stream(tokenizer, r["messages"], llm.queries, response=r["response"])
        for r in rows
    ]
    batch = batches.collate(streams, llm.backbone.pad_id)
    before = torch.tensor(batch.prefix).expand(len(rows), -1)
    silent = torch.full_like(before, batches.IGNORE)
    return torch.cat([before, batch.ids], 1), torch.cat([silent, batch.labels], 1)


# %% [markdown]
# What a pupil has learned is kept under all that determines it, and found there the second time.


# %%
def learned_weights(llm, rate):
    """The trainable weights of a pupil after its lesson."""
    loss = teach(llm, rate)
    print(f"adapters' rate {rate or 'none: frozen'}: loss {loss:.3f} at the last step")
    return {name: p.detach() for name, p in llm.named_parameters() if p.requires_grad}


# %% tags=["expensive"]
how = {"steps": STEPS, "batch": BATCH, "clips": CLIPS, "rank": RANK}
for rate, llm in pupils.items():
    weights = lesson.find_or_make(
        "pupils", lambda llm=llm, rate=rate: learned_weights(llm, rate), rate=rate, **how
    )
    llm.load_state_dict(weights, strict=False)

# %% [markdown]
# The frozen pupil's backbone has the hash that it had; the text condition of this model *is* that of the untouched backbone, token for token, and its forgetting rate in text is zero by construction. With LoRA, the big weights stand still too, but there is more to the backbone now than those.

# %%
assert hash_tensors(pupils[None].backbone.model) == before
sizes = {
    rate: sum(p.numel() for p in llm.backbone.parameters() if p.requires_grad)
    for rate, llm in pupils.items()
}
print("numbers of the backbone that may learn:", sizes)

# %% [markdown]
# ## What was learned, what was forgotten
#
# Construction is one thing, measurement another. Every model is asked ten things about each of the test clips, of voices never heard in training: four under a constraint, six plain ones. Once by ear, and once in **text only**. `set_scale` turns all adapters down at test time; SALMONN's authors did so when their model had overfitted to its training task ([Tang et al., 2024](https://arxiv.org/abs/2310.13289)). At 0 the backbone is the old one, and what remains is the connector that grew up beside adapters.


# %%
def measured(llm):
    """Answers by ear and in text only, a row per clip and task."""
    heard = conditions.embed_clips(llm, store[[clip.id for clip in ask]])
    answers = [answer_free_form(llm, tasks, ask, given) for given in (heard, None)]
    return pd.concat(answers, ignore_index=True)


def scaled(llm, scale):
    for module in adapters(llm):
        module.set_scale("default", scale)
    return llm


# %% tags=["expensive"]
answers = {}
for step, name in ((0, "untrained"), (experiment.train_config.steps, "self-generated")):
    with replies.use_checkpoint(experiment, step) as llm:
        answers[name] = lesson.find_or_make("run", lambda llm=llm: measured(llm), step=step)
for rate, llm in pupils.items():
    for scale in (1, 0.5, 0) if rate == RATES[-1] else (1,):
        name = (
            f"+ label, LoRA {rate:g}{f', scale {scale:g}' * (scale < 1)}"
            if rate
            else "+ label, frozen"
        )
        answers[name] = lesson.find_or_make(
            "answers",
            lambda llm=llm, scale=scale: measured(scaled(llm, scale)),
            **how,
            rate=rate,
            scale=scale,
        )
answers = pd.concat([rows.assign(model=name) for name, rows in answers.items()])

# %% [markdown]
# One clip before any average: what is said in **text only**, where the right answer stands in the question.

# %%
text = answers[(answers["condition"] == "oracle") & (answers["clip"] == ask[0].id)].fillna(
    {"answer": ""}
)
text.pivot(index="model", columns="task", values="answer").loc[
    answers["model"].unique(), ["ask_scene", "ask_gender", "json_scene", "capital_rate"]
]

# %% [markdown]
# Now the averages. The bare-label run that shipped joins with the answers it gave; the *shuffled* control grades the answer to one clip by the truth of another speaker's clip.

# %%
shipped = last[(last["run"] == "label") & last["rung"].isin((2, 3))].dropna(subset=["free_form"])
graded = pd.concat([answers, shipped.assign(model="label from birth")], ignore_index=True).fillna(
    {"answer": ""}
)
people = {clip.id: clip for clip in experiment.clips("test")}
graded["speaker"] = [people[clip].speaker for clip in graded["clip"]]
graded["rung"] = graded["task"].map({task.name: task.rung for task in tasks})
taught = next(task for task in tasks if task.name == f"ask_{experiment.preset.label}")


def swapped(rows):
    """The same answers, each graded by another speaker's clip."""
    clips = [people[clip] for clip in rows["clip"]]
    said = rows["answer"].to_numpy()[conditions.shuffled_partners(clips)]
    truth = [clip.attributes[taught.attribute] for clip in clips]
    return rows.assign(
        free_form=[float(named_values(taught, a) == {t}) for a, t in zip(said, truth, strict=True)]
    )


# %%
ear, read = graded[graded["condition"] == "audio"], graded[graded["condition"] == "oracle"]
own, plain = ear[ear["task"] == taught.name], ear[ear["rung"] == 3]
shuffled = pd.concat([swapped(rows) for _, rows in own.groupby("model")])
PARTS = {
    "taught": (own, "free_form"),
    "shuffled": (shuffled, "free_form"),
    "others": (plain[plain["task"] != taught.name], "free_form"),
    "obeys by ear": (ear, "obeyed"),
    "obeys in text": (read, "obeyed"),
    "right in text": (read[read["rung"] == 3], "free_form"),
}
summary = pd.DataFrame(
    [
        {"part": part, "model": model, "score": score, "low": low, "high": high}
        for part, (rows, measure) in PARTS.items()
        for (model,), (score, low, high) in statistics.bootstrap_intervals(
            rows, measure, ["model"]
        ).items()
    ]
)
MODELS = ["untrained", "label from birth", *answers["model"].unique()[1:]]
summary.pivot(index="model", columns="part", values="score").loc[MODELS, list(PARTS)].round(2)

# %% [markdown]
# Read it by columns: *taught* is the attribute whose bare label was trained, *others* are the five it was not, all by ear; the two last columns hold no sound at all. Look at the untrained connector first: an IFrate says nothing about hearing. The picture puts three questions side by side: what was learned, does it still follow by ear, what has the backbone forgotten.


# %%
def panel(axes, title, looks):
    """One part of the table: a dot and its interval for every model."""
    for part, (label, how) in looks.items():
        rows = summary[summary["part"] == part].set_index("model").reindex(MODELS)
        reach = np.clip([rows["score"] - rows["low"], rows["high"] - rows["score"]], 0, None)
        lift = 0.16 * (list(looks).index(part) - (len(looks) - 1) / 2)
        axes.errorbar(
            rows["score"],
            np.arange(len(MODELS)) + lift,
            xerr=reach,
            label=label,
            ls="none",
            ms=6,
            **how,
        )
    shade = "LoRA in the backbone" if axes.get_subplotspec().is_last_col() else None
    axes.axhspan(MODELS.index(frozen) + 0.5, len(MODELS), color="#F0F0F0", zorder=-1, label=shade)
    axes.set(title=title, xlim=(-0.06, 1.06), ylim=(len(MODELS) - 0.5, -0.5))
    axes.set_yticks(range(len(MODELS)), MODELS)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), fontsize=8)


blue, black, pink = (style.PALETTE[name] for name in ("audio", "text", "shuffled"))
weak, strong, frozen = *(f"+ label, LoRA {rate:g}" for rate in RATES), "+ label, frozen"

# %%
value = summary.set_index(["model", "part"])["score"]
headline = (
    f"After {STEPS} steps on bare labels the backbone obeys "
    f"{value[strong, 'obeys in text']:.0%} of constraints in "
    f"plain text with LoRA at rate {RATES[-1]:g}, {value[weak, 'obeys in text']:.0%} at "
    f"{RATES[0]:g}, "
    f"{value[frozen, 'obeys in text']:.0%} frozen"
)
figure, (left, middle, right) = style.subplots(1, 3, headline, size=(10, 4.6), sharey=True)

# %% tags=["headline"]
panel(
    left,
    "Learned: names it rightly, by ear",
    {
        "taught": (f"{experiment.preset.label} (taught)", {"color": blue, "marker": "o"}),
        "others": ("five others (not taught)", {"color": blue, "marker": "s", "mfc": "white"}),
        "shuffled": (f"{experiment.preset.label}, shuffled audio", {"color": pink, "marker": "^"}),
    },
)
obeys = ("IFrate by ear (dashed: in text, Δ = 0)", {"color": blue, "marker": "o"})
panel(middle, "Follows: obeys the constraint, by ear", {"obeys by ear": obeys})
in_text = value["self-generated", "obeys in text"]  # Δ = 0
middle.axvline(in_text, color=black, ls="--", lw=1, zorder=0)
panel(
    right,
    "Kept: the backbone in plain text",
    {
        "obeys in text": ("IFrate in text (text oracle)", {"color": black, "marker": "*"}),
        "right in text": ("plain questions right", {"color": black, "marker": "s", "mfc": "white"}),
    },
)
lesson.show(figure, f"What {len(MODELS)} models learned, follow and kept. {headline}.", summary)

# %%
print(lesson.reveal("delta_label", rates.loc["label", "Δ"]))
print(lesson.reveal("text_lora", value[strong, "obeys in text"]))
following = value.unstack().loc[MODELS, ["obeys by ear", "obeys in text"]]
(following / value["self-generated", "obeys in text"] - 1).set_axis(
    ["Δ by ear", "Δ in text"], axis=1
).round(2)

# %% [markdown]
# ### Exercise 9.6 · Turn LoRA down yourself · tweak · 6 min
# Is there a scale at which the adapters still help the ear and no longer hurt the text? Change `SCALE`, or `RATE` to the other pupil's, and run the next two cells again. Say first which of the four numbers you expect to move most.

# %%
SCALE, RATE = 0.25, RATES[-1]

# %% tags=["expensive"]
rows = measured(scaled(pupils[RATE], SCALE))
scores = (
    rows.groupby("condition")[["obeyed", "free_form"]]
    .mean()
    .rename(index={"audio": "by ear", "oracle": "in text"})
)
scores.rename(columns={"obeyed": "IFrate", "free_form": "names it rightly"}).round(2)

# %% [markdown]
# ## The trade-off plane
#
# Three pupils, each trained once, are an anecdote. The same question was put as a study, on preset nano: five ways of tuning the backbone (frozen; LoRA of rank 2, 8 and 32; all of it) times three kinds of targets, from birth, over several seeds. It is scored on the constraints that you saw above. Higher is more learned by ear, further right is more kept. A thin line turns the adapters down at test time, to 0. The table ships; `python -m desta_lab ablate forgetting` makes it again.

# %%
swept = ablation.load_table("forgetting")
study_figures.plot_tradeoff(forgetting.learned_and_forgotten(swept), forgetting.headline(swept))

# %% [markdown]
# The left panel holds no sound: what is lost there, the language model itself has forgotten. The right one is what a listener meets. An arm that stands at 0 on the left and far from it on the right has an intact backbone and a poor ear. The orange dotted line is where a model stands that answers everything with the bare label: some constraints, such as one word alone, that model obeys by accident.

# %%
print("\n".join(forgetting.state_findings(swept)))

# %% [markdown]
# Which constraints go first? Here are all arms that tuned the whole backbone, in text and by ear:

# %%
forgetting.rates_per_constraint(swept[swept["arm"].str.startswith("full")]).dropna().round(2)

# %% [markdown]
# ## What we now know
#
# Following and knowing are two things, and forgetting has two places. The first column of the table of Δ says what the *ear* makes the model disobey; the backbone can be intact the while. The second says what the *backbone* itself has lost: exactly nothing for every row without adapters, by hash and by measurement, since all of them hold the same weights. Adapters *can* carry the fault into plain text. The two learning rates say how much that depends on how hard they are trained, so the strong one alone would tell half of the story. Turned down to 0 the adapters give the text back by construction; what happens between is measured. Each pupil was trained once, with intervals over speakers; the plane has intervals over seeds, and where its arms disagree with the pupils, the recipe is the likely reason: the study has one learning rate, trains from birth and longer.
#
# **What would change our mind**: LoRA that learns the label as well, and costs neither ear nor text anything (look how near the row of the smaller rate comes, in text and by ear); or a connector trained on bare labels whose Δ by ear is zero. So few constraints and so small a backbone do not speak for large models. Speech-IFEval does, with Δ from −0.04 (DeSTA2) to −0.55 (LTU-AS).
#
# Next: **10**, your own change, and your own recordings.

# %%
lesson.card()
