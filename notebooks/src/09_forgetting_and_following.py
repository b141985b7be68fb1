# %% [markdown]
# # 09 · Forgetting and following: does it still follow instructions, and what has it forgotten?
#
# “What is the background sound? Answer in JSON.” This asks for two things: *what* is heard, and the *form* of the answer. Speech models that were tuned on speech tasks often keep the first and lose the second ([Speech-IFEval, 2025](https://arxiv.org/abs/2505.19037)). If the language model itself was changed, the form may be lost in plain text as well, where no sound is involved.
#
# You will write a rule that judges whether an answer obeys, and a number for what the ear costs. You will prove that a frozen backbone forgets nothing. Then you let the backbone learn a little, with LoRA (small matrices that learn beside the frozen weights), and measure what it loses. The later cells run your functions; where an exercise is open, the package's function takes its place, and the headline says whose code ran.
#
# The backbone of the run that ships has a few million parameters, and was trained on text about one small world. So this notebook demonstrates a mechanism. It does not measure large models.
#
# *Needs: 00; 04 helps. 27 minutes of exercises, about 25 of reading and running.*

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
from desta_lab.course.checks import notebook_09 as pieces
from desta_lab.evaluation import conditions, constraints, statistics
from desta_lab.evaluation.evaluate import answer_free_form
from desta_lab.evaluation.tasks import named_values
from desta_lab.experiments import ablation, forgetting
from desta_lab.model import build, chat
from desta_lab.model.audio_llm import hash_tensors
from desta_lab.training import batches, checkpoints, features, trainer
from desta_lab.views import replies, study_figures, style

# %%
warnings.filterwarnings(
    "ignore", message=".*is_gradient_checkpointing"
)  # peft asks transformers by an old name
lesson = desta_lab.setup("09")
experiment = lesson.experiment

# %% [markdown]
# ## One clip, three forms
#
# Hear the clip. Then read what the finished self-generated run answers to three questions about it. In the second column the same language model *reads* the description instead of hearing the clip: this is the text condition. If the ear costs no obedience, both columns have the same form, whatever they say.

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
# A program can tell whether an answer is JSON. IFEval ([Zhou et al., 2023](https://arxiv.org/abs/2311.07911)) has a list of such *output constraints*, with a rule for each. Speech-IFEval asks speech models under the same constraints. The rule scores the form alone: `{"background": "rain"}` obeys even when birds sing.
#
# ### Exercise 9.1 · Write a rule for JSON · fill in · 6 min
# `obeys_json(answer)` takes a string and returns whether the whole string is one JSON value. Models like to put JSON into a code fence: three backticks before it and three after it, and sometimes the word json behind the first three. That counts as obeying. For an answer that is no JSON return `False`, and raise no error.


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
# The package has thirteen such rules under their IFEval ids. Two of them are on rung 2 of the task ladder (notebook 00). Both finished runs answered there. From here on, your rule judges every answer that should be JSON (the package's rule does while the exercise is open).


# %%
rule = lesson.use("obeys_json", obeys_json, constraints.json_format, tensors=False)


def judged(rows, column="task"):
    """The rows; where JSON was asked for, the rule of exercise 9.1 says whether it is obeyed."""
    rows = rows.assign(answer=rows["answer"].fillna(""))
    asked_for = rows[column].str.contains("json")
    rows.loc[asked_for, "obeyed"] = [float(rule(answer)) for answer in rows["answer"][asked_for]]
    return rows


# %%
table = experiment.score_table()
last = table[
    (table["step"] == experiment.train_config.steps) & table["condition"].isin(["audio", "oracle"])
]
graded = last.dropna(subset=["obeyed"])
asked = judged(graded)
json_asked = asked[asked["task"].str.startswith("json")]
apart = int((asked["obeyed"] != graded["obeyed"]).sum())
print(f"{len(json_asked)} answers judged by {lesson.credit}; the package differs on {apart}.")
shown = json_asked[json_asked["run"] == "self"]
shown.groupby(["condition", "task"])["answer"].first().unstack("task")

# %% [markdown]
# These are answers of the self-generated run, by ear (`audio`) and by reading (`oracle`). Those of the bare-label run wait for your guess in exercise 9.3.
#
# ## All thirteen, by reading and by ear
#
# Two constraints are few. So here are all thirteen, each with six questions, about voices that were never heard in training. First the untouched language model *reads*, once with the constraint and once without it. Two kinds of constraints are left out, by name. If the model obeys a constraint in less than half of its answers when it reads, listening cannot make it lose much. If it obeys a constraint that nobody stated, obeying shows nothing.

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
# The finished self-generated run now answers under every constraint that is left, by ear and in text. Twelve answers each are few. An interval without width means that every speaker's answers obeyed alike. It does not mean that we know for certain.


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


answered = judged(lesson.find_or_make("following", following), "constraint")
answered["speaker"] = answered["clip"].map({clip.id: clip.speaker for clip in ask})
rates = statistics.bootstrap_intervals(answered, "obeyed", ["constraint", "condition"])
rates = pd.DataFrame(rates, index=["rate", "low", "high"]).T.unstack().swaplevel(axis=1)
rates[pd.MultiIndex.from_product([["in text", "by ear"], ["rate", "low", "high"]])].round(2)

# %% [markdown]
# Only the form was graded. To read, one answer by ear under each constraint:

# %%
answered[answered["condition"] == "by ear"].groupby("constraint")[
    ["question", "answer", "obeyed"]
].first()

# %% [markdown]
# ## What does the ear cost?
#
# The **IFrate** is the share of answers that obey: obeying answers / all answers. A weak language model obeys little even when it reads. So the fair question is: how much of its *own* obedience does it lose when it listens? The **forgetting rate** Δ of Speech-IFEval says this: 0 is nothing lost, −1 is all, −0.5 is half.
#
# ### Exercise 9.2 · Work out the forgetting rate · fill in · 4 min
# Write `forgetting_rate(if_audio, if_text)`. It takes two IFrates: `if_audio` by ear, and `if_text` of the same backbone in the text condition. Return Δ, the change from text to ear, relative to the text condition.


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
# Give two ranges before you see the numbers. The first is about the bare-label run: it learned the one-word label of the background from step 0, with the backbone frozen. The second is about an experiment further down. The finished self-generated run learns the bare label for a few more steps, with LoRA in every layer of the backbone, at five times the connector's learning rate. Then it is asked in *text only*.

# %%
lesson.predict(
    "delta_label", "Forgetting rate Δ of the bare-label run, by ear?", -1, 0.5, step=0.05
)

# %%
lesson.predict("text_lora", "IFrate of the LoRA-tuned backbone in plain text?", 0, 1, step=0.05)


# %% [markdown]
# Δ of both finished runs by your function (the package's while the exercise is open), with an interval over speakers. Each resample takes the same people in both conditions, so an easy voice is easy in both.


# %%
rate_lost = lesson.use("forgetting_rate", forgetting_rate, pieces.share_lost, tensors=False)


def delta(rows):
    """Δ and its 95 % interval, from rows of both conditions of one run."""
    people = rows.pivot_table(index="speaker", columns="condition", values="obeyed")
    drawn = np.random.default_rng(0).integers(len(people), size=(1000, len(people)))
    drawn = np.vstack([np.arange(len(people)), drawn])  # the first row is the data itself
    rates = [people[condition].to_numpy()[drawn].mean(1) for condition in ("audio", "oracle")]
    lost = [rate_lost(heard, read) for heard, read in zip(*rates, strict=True)]
    return pd.Series([lost[0], *np.percentile(lost, [2.5, 97.5])])


rates = (
    asked.groupby("run")[["speaker", "condition", "obeyed"]]
    .apply(delta)
    .set_axis(["Δ", "low", "high"], axis=1)
)
print(lesson.reveal("delta_label", rates.loc["label", "Δ"]))
asked.groupby(["run", "condition"])["obeyed"].mean().unstack().join(rates).round(2)

# %% [markdown]
# The column `oracle` is the text condition. Both runs have the same backbone, so both read equally well. If Δ is clearly below zero, the model obeys less because it listens: the backbone is the same. A connector may, for instance, make the backbone say one word whatever the question was. Here is one answer of the bare-label run to each question.

# %%
label = asked[asked["run"] == "label"]
label.groupby(["condition", "task"])["answer"].first().unstack("task")

# %% [markdown]
# ## Frozen means frozen
#
# Can we prove that the backbone is still the same? Every tensor of the backbone goes into one hash, and training refuses to finish if that hash has changed. But would the hash show one changed weight among millions?
#
# ### Exercise 9.4 · Nudge one weight · break · 6 min
# Write `nudged(module)`. Return a copy of the module in which exactly one number of one tensor is different. The module itself must stay as it was. Mind the precision: in bfloat16, one plus a millionth is one.


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
nudge = lesson.use("nudged", nudged, pieces.nudge, tensors=False)
print("backbone      ", before[:16], " parameters:", sum(p.numel() for p in backbone.parameters()))
print("one number off", hash_tensors(nudge(backbone))[:16])

# %% [markdown]
# ## Teach it one more thing
#
# Now the experiment. Take the finished self-generated run, and train it for a few more steps on bare labels: the prompt asks for the background, and the whole response is “rain”, “siren”, … Three copies of the run are trained; let us call them pupils. The first keeps its backbone **frozen**. The other two have **LoRA** beside every linear layer of the backbone: one learns at the connector's own learning rate, the other at five times that rate.

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
# LoRA ([Hu et al., 2021](https://arxiv.org/abs/2106.09685)) leaves a frozen weight `W` (out × in) alone, and adds a detour: `A` (r × in) takes the input down to `r` numbers, and `B` (out × r) takes them up again. The rank `r` is small. The detour is multiplied by `alpha / r` and added to what `W` gives. For the rows of `x` (batch × in), return the output of the layer (batch × out). `B` begins as zeros, so the detour adds nothing at first.


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
# A pupil is a fresh copy of the finished run, so the finished run stays as it is. `get_peft_model` puts LoRA's matrices, the *adapters*, beside every linear layer of its backbone.


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
# Your layer (the package's while the exercise is open) beside peft's, on a copy of one layer. Its `B` was filled with random numbers, so that the detour adds something:

# %%
pupils = {None: pupil(lora=False)} | {rate: pupil(lora=True) for rate in RATES}
layer = copy.deepcopy(adapters(pupils[RATES[0]])[0]).float().cpu()
A, B = layer.lora_A["default"].weight, torch.nn.init.normal_(layer.lora_B["default"].weight)
x = torch.randn(3, layer.in_features)
detour = lesson.use("lora_forward", lora_forward, pieces.add_detour)
by_hand = detour(x, layer.base_layer.weight, A, B, 2 * RANK)
torch.testing.assert_close(by_hand, layer(x), rtol=1e-4, atol=1e-4)
print(f"largest difference: {(by_hand - layer(x)).detach().abs().max():.1g}")

# %% [markdown]
# The training loop is that of notebook 04 in short: draw clips, run the model forward, take the cross-entropy on the tokens of the response, take one step. The optimiser gets the connector *and* the adapters, if there are any. The tokens before the clip are read anew at every step, because adapters change what the backbone makes of them.

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
# The weights that a pupil has learned are kept on disk. A second run of this notebook finds them there.


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
# The frozen pupil's backbone still has its hash. In text it *is* the untouched backbone, token for token, so its forgetting rate in text is zero by construction. With LoRA the large weights stand still, too. But now the adapters are a part of the backbone.

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
# What holds by construction should still be measured. Every model answers ten questions about each test clip, of voices that were never heard in training: four questions under a constraint, and six plain ones. It answers once by ear and once in **text only**. `set_scale` turns all adapters down at test time. SALMONN's authors did so when their model had overfitted to its training task ([Tang et al., 2024](https://arxiv.org/abs/2310.13289)). At scale 0 the backbone is the old one. The connector is still the one that was trained beside the adapters.


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
# One clip before any average. These are answers in **text only**, where the description states the right answer.

# %%
text = answers[(answers["condition"] == "oracle") & (answers["clip"] == ask[0].id)].fillna(
    {"answer": ""}
)
lesson.lock("text_lora")  # the next line hints at its answer
text.pivot(index="model", columns="task", values="answer").loc[
    answers["model"].unique(), ["ask_scene", "ask_gender", "json_scene", "capital_rate"]
]

# %% [markdown]
# Now the averages. The bare-label run that ships joins, with the answers that it gave. Your rule judges the JSON again. The *shuffled* control grades each answer by the truth about another speaker's clip.

# %%
shipped = last[(last["run"] == "label") & last["rung"].isin((2, 3))].dropna(subset=["free_form"])
graded = pd.concat([answers, shipped.assign(model="bare-label run")], ignore_index=True)
graded = judged(graded)
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
MODELS = ["untrained", "bare-label run", *answers["model"].unique()[1:]]
summary.pivot(index="model", columns="part", values="score").loc[MODELS, list(PARTS)].round(2)

# %% [markdown]
# Read the table by columns. *taught* is the attribute whose bare label was trained. *others* are the five other attributes. Both are by ear. The last two columns involve no sound. Look at the row of the untrained connector first: it obeys and hears nothing, so an IFrate says nothing about hearing. The picture asks three questions. What was learned? Does the model still follow by ear? What has the backbone forgotten?


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
    f"{value[frozen, 'obeys in text']:.0%} frozen (each trained once), judged by {lesson.credit}"
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
print(lesson.reveal("text_lora", value[strong, "obeys in text"]))
following = value.unstack().loc[MODELS, ["obeys by ear", "obeys in text"]]
lost = following.map(lambda obeyed: rate_lost(obeyed, value["self-generated", "obeys in text"]))
lost.set_axis(["Δ by ear", "Δ in text"], axis=1).round(2)

# %% [markdown]
# ## The trade-off plane
#
# Three pupils, each trained once, prove little. So the package has a study of the same question, on preset nano: five ways of tuning the backbone (frozen; LoRA of rank 2, 8 and 32; all of it), three kinds of targets, several seeds, all trained from step 0. It is scored on the constraints that you saw above. A point further up has learned more by ear. A point further right has kept more. A thin line shows an arm whose adapters are turned down to 0 at test time. The table ships; `python -m desta_lab ablate forgetting` makes it again.

# %%
swept = ablation.load_table("forgetting")
study_figures.plot_tradeoff(forgetting.learned_and_forgotten(swept), forgetting.headline(swept))

# %% [markdown]
# The left panel is about text alone: what is lost there, the language model itself has forgotten. The right panel is by ear. An arm at 0 on the left and far from 0 on the right has an intact backbone and a poor ear. The orange dotted line marks a model that answers everything with the bare label. Such a model obeys some constraints by accident, for instance an answer of one word.

# %%
print("\n".join(forgetting.state_findings(swept)[:2]))  # in text, and by ear

# %% [markdown]
# [The page of the ablations](../figures/ablations/README.md) reads out the rest: what each arm learned, and what the adapters do at scale 0.
#
# Which constraints go first? These are the arms that tuned the whole backbone, in text and by ear:

# %%
forgetting.rates_per_constraint(swept[swept["arm"].str.startswith("full")]).dropna().round(2)

# %% [markdown]
# ## What we now know
#
# Following and knowing are two things, and a model can forget in two places. The first column of the table of Δ says what the *ear* makes the model disobey. The backbone can be intact all the same. The second column says what the *backbone* itself has lost. For every row without adapters this is exactly nothing, by hash and by measurement, because all these rows have the same weights.
#
# Adapters *can* carry the fault into plain text. The two learning rates show how much this depends on the training, so the larger rate alone would tell half of the story. Turned down to 0 the adapters give the text back by construction. What happens between 0 and 1 is measured.
#
# Each pupil was trained once, and its intervals are over speakers. The plane has intervals over seeds. Where its arms disagree with the pupils, the training is the likely reason: the study has one learning rate, and trains longer, from step 0.
#
# **What would change our mind**: LoRA that learns the label as well, and costs nothing by ear or in text. (Compare the row of the smaller rate with the row without adapters: how far apart are they?) Or a connector trained on bare labels whose Δ by ear is zero. So few constraints and so small a backbone do not speak for large models. Speech-IFEval does, with Δ from −0.04 (DeSTA2) to −0.55 (LTU-AS).
#
# Next: **10**, your own change, and your own recordings.

# %%
lesson.card()
