# %% [markdown]
# # 04 · Training: what does the connector learn from one task in a minute?
#
# Training has one aim: hearing a clip, the frozen language model shall give the response that it gave when it read the clip's description. Nothing else is asked for, no label and no question. Only the connector may move.
#
# You will mark which tokens are learned, write a loss, draw up the learning rate, and train a few steps in a loop that calls your three functions. There are two losses. The *hard* loss knows the tokens of the response alone. The *soft* loss compares the whole next-token distribution with that of the target's *writer*, the language model that read the description. Then the package trains three short runs: soft, hard, and one in which every clip has the *wrong* target, paired by your fourth function. The last figure shows their losses and what each can do, on the trained prompt and on questions that were never trained, beside a finished run.
#
# *Needs: 00 and 03; PyTorch's training loop, cross-entropy. 31 minutes of exercises, about 25 of reading and running.*

# %%
import hashlib
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.colors import ListedColormap
from safetensors.torch import load_file

import desta_lab
from desta_lab.course.checks import notebook_04 as pieces
from desta_lab.evaluation import verdict
from desta_lab.evaluation.evaluate import evaluate
from desta_lab.model import chat
from desta_lab.model.audio_llm import hash_tensors
from desta_lab.training import batches, checkpoints, trainer
from desta_lab.training import targets as target
from desta_lab.views import claim_figures, replies, style

lesson = desta_lab.setup("04")
experiment = lesson.experiment
tokenizer = experiment.llm.backbone.tokenizer

# %% [markdown]
# How long and how fast: the dials of this notebook. The finished run had soft targets, and the steps and the batch of its preset. Ours are shorter, so that three of them take a minute.

# %%
config = replace(experiment.train_config, steps=80, batch=8)
experiment.train("self")  # finds the finished run; only another preset or seed has to train it now
print(
    "finished run:",
    experiment.train_config.steps,
    "steps ×",
    experiment.train_config.batch,
    "  here:",
    config.steps,
    "steps ×",
    config.batch,
)

# %% [markdown]
# ## One example
#
# A clip, and the response that the backbone wrote when it read the clip's description.

# %%
train = experiment.clips("train")
examples, soft = experiment.training_rows("self")
desta_lab.show_players(experiment.corpus, train[:1])

# %%
print(examples[0]["messages"][-1]["content"], "→", examples[0]["response"])

# %% [markdown]
# As a stream of token ids: `-1` marks the slots into which the connector writes its audio embeddings, and from `start` on stands the response with its end-of-turn token.

# %%
streams = [
    chat.build_stream(
        tokenizer,
        row["messages"],
        experiment.llm.queries,
        response=row["response"],
        truncated=row["provenance"]["truncated"],
    )
    for row in examples
]
one = streams[0]
print(
    len(one.ids),
    "tokens,",
    one.ids.count(chat.SLOT),
    "of them audio slots; the response starts at",
    one.start,
)

# %% [markdown]
# ### Exercise 4.1 · Mark what is learned · fill in · 8 min
# Write `labels_of(ids, start, truncated)`, a list as long as `ids`: for every position the token that it shall predict, and −100 where it shall learn nothing. `ids` always ends in the end-of-turn token. Learn the response and that end. But the writer may have been cut off (`truncated` is true). Then it did not choose the end of turn, and no position learns it.


# %% tags=["exercise"]
def labels_of(ids, start, truncated):
    ### BEGIN SOLUTION
    last = len(ids) - 1 - truncated
    labels = [ids[t + 1] if start <= t + 1 <= last else -100 for t in range(len(ids) - 1)]
    return [*labels, -100]
    ### END SOLUTION


# %%
lesson.check("labels_of", labels_of)

# %% [markdown] tags=["hint"]
# Position *t* predicts token *t + 1*: so the position before `start` already learns, and the last one never does.

# %% [markdown]
# A batch is padded on the right. What all rows share in front of the clip (the `prefix`) is left out of the ids: it is read once for the whole batch. `labels_for` marks a batch with your function, and must give what the package's `collate` gives. (A response that was cut off has no end-of-turn token in its stream, so none is `truncated` here.) Black below is what is learned. Grey and blue are read and not learned. White is padding, which is not even read.


# %%
label = lesson.use("labels_of", labels_of, pieces.label_response)


def labels_for(streams, batch):
    labels = torch.full_like(batch.labels, batches.IGNORE)
    for i, stream in enumerate(streams):
        own = torch.as_tensor(label(list(stream.ids), stream.start, False))[len(batch.prefix) :]
        labels[i, : len(own)] = own
    return labels


batch = batches.collate(streams[:4], experiment.llm.backbone.pad_id)
torch.testing.assert_close(labels_for(streams[:4], batch), batch.labels)

# %%
learned = (batch.labels != batches.IGNORE).int() * 2 + (batch.ids == chat.SLOT).int()
for i, stream in enumerate(streams[:4]):
    learned[i, len(stream.ids) - len(batch.prefix) :] = 3
picture, axes = style.subplots(
    1, 1, "Four clips of one batch: audio slots (blue), learned (black), padding (white)", (9, 2.2)
)
colours = ["#E0E0E0", style.PALETTE["audio"], style.PALETTE["text"], "white"]
axes.imshow(learned, aspect="auto", cmap=ListedColormap(colours), vmin=0, vmax=3)
axes.set(
    xlabel=f"position after the shared prefix of {len(batch.prefix)} tokens",
    ylabel="clip",
    yticks=range(4),
)
picture

# %% [markdown]
# ## Two losses
#
# The *hard* loss is the cross-entropy with the token that the writer chose. The *soft* loss is a divergence between two next-token distributions at each position. The *teacher* p is the backbone that reads the description. The *student* q is the backbone that hears the clip.
#
# > KL(p ‖ q) = Σ p(w) (log p(w) − log q(w)), summed over all words w of the vocabulary
#
# Where the writer wavered between two ways to begin, hard targets punish one of them; soft targets ask for both.
#
# ### Exercise 4.2 · Compare two distributions · fill in · 7 min
# Write `soft_loss(logits, teacher)`: the student's `logits` [position, vocabulary] and the teacher's log-probabilities of the same shape become one number, the mean over positions of KL(teacher ‖ student), in nats. The student learns from this number, so let torch compute it, and return a tensor with its gradient.


# %% tags=["exercise"]
def soft_loss(logits, teacher):
    ### BEGIN SOLUTION
    student = logits.log_softmax(-1)
    return (teacher.exp() * (teacher - student)).sum(-1).mean()
    ### END SOLUTION


# %%
lesson.check("soft_loss", soft_loss)

# %% [markdown] tags=["hint"]
# The teacher is p, and it comes as logarithms. `logits.log_softmax(-1)` gives those of the student.

# %% [markdown]
# Why this direction? KL(teacher ‖ student) weighs a mistake by how likely the *teacher* is to go that way. So the student must give some room to all that the teacher might say. The other direction weighs by the student's own habits. A student that has learned only one of two equally good beginnings would then lose log 2 and no more. And what do soft targets carry beyond the chosen token? The teacher's second and third choices ([Hinton et al., 2015](https://arxiv.org/abs/1503.02531)). If it wavers between “talks” and “speaks”, the two mean the same to it. If it wavers between “low” and “high”, it does not know.
#
# The package keeps only the likeliest 50 tokens of the teacher, and one bucket for all the rest. How much does that lose? Here the student is a backbone that reads *nothing*, and the teacher is the one that reads the description.

# %%
loss_of = lesson.use("soft_loss", soft_loss, pieces.mean_divergence)
row = experiment.targets.rows[0]
teacher, _ = next(target.text_log_probs(experiment.llm.backbone, [row]))
student, _ = next(target.text_log_probs(experiment.llm.backbone, [replace(row, description="")]))
whole = loss_of(student, teacher)
packed = target.kl_loss(student, experiment.targets.soft[0].ids, experiment.targets.soft[0].logp)
torch.testing.assert_close(packed, whole, rtol=0.02, atol=1e-3)
print(
    f"KL over the whole vocabulary {float(whole):.4f} nats a token, over 50 tokens and a "
    f"bucket {float(packed):.4f}"
)

# %% [markdown]
# ## Warm up, then cool down
#
# ### Exercise 4.3 · Draw up the learning rate · fill in · 5 min
# Write `learning_rate(step, steps, lr, warmup, floor)` for the step that is about to be taken, counted from 0: a straight line that reaches `lr` in the last of the `warmup` steps (number `warmup` − 1), then half a cosine from `lr` at step `warmup` down to `floor` × `lr` at step `steps`. The first step must not be wasted: its rate is above 0.


# %% tags=["exercise"]
def learning_rate(step, steps, lr, warmup, floor):
    ### BEGIN SOLUTION
    if step < warmup:
        return lr * (step + 1) / warmup
    done = (step - warmup) / (steps - warmup)
    return lr * (floor + (1 - floor) * (1 + np.cos(np.pi * done)) / 2)
    ### END SOLUTION


# %%
lesson.check("learning_rate", learning_rate)

# %% [markdown] tags=["hint"]
# The cosine runs over the steps *after* the warm-up: (1 + cos(π · done)) / 2 goes from 1 to 0 as `done` goes from 0 to 1.

# %% [markdown]
# Why warm up? Adam divides each step by the size of recent gradients. At the start it has seen only one or two of them, so its first steps are large in directions that chance has picked ([Liu et al., 2020](https://arxiv.org/abs/1908.03265)). Why cool down? Each batch pulls the weights its own way. With a small rate the last batches pull less, and their pulls average out.
#
# The learning rate of our short runs by your function, and below it the steps at which the connector is saved: the *checkpoints* are dense where learning begins, because that is where things change fastest.

# %%
rate = lesson.use("learning_rate", learning_rate, pieces.rate_of_step)
how = (config.steps, config.lr, config.warmup, config.floor)
rates = [float(rate(step, *how)) for step in range(config.steps)]
saved_steps = checkpoints.checkpoint_steps(config.steps, config.checkpoint_every)
picture, axes = style.subplots(
    1, 1, f"Learning rate, and the {len(saved_steps)} checkpoints of a run", (7, 2.4)
)
axes.plot(rates, color="#222222")
axes.plot(
    saved_steps, np.zeros(len(saved_steps)), ls="none", marker="^", color="#222222", clip_on=False
)
axes.set(xlabel="training step", ylabel="learning rate", ylim=(0, None))
picture

# %% [markdown]
# ## A loop that you can read
#
# The encoder is frozen, so its states of every clip are computed once and kept on disk.

# %% tags=["expensive"]
store = experiment.features
print(store.shape, "(layer, frame, width) of one clip,", f"{store.gigabytes:.2f} GB in all")

# %% [markdown]
# Six steps by hand, from the untrained connector, with your labels, your loss and your learning rate. The hash of a model changes if any number in it does, so hashes before and after say what moved. `config.batch_rows` draws the clips of a step, `connect` makes their audio embeddings, and `response_logits` gives the logits at the learned positions.


# %%
def hashes(llm):
    parts = {"encoder": llm.encoder, "connector": llm.connector, "backbone": llm.backbone.model}
    return {name: hash_tensors(part) for name, part in parts.items()}


# %%
written = {(row.description, row.prompt): row for row in experiment.targets.rows}
losses = []
with replies.use_checkpoint(experiment, step=0) as llm:
    before = hashes(llm)
    how = {"lr": config.lr, "betas": config.betas, "weight_decay": config.weight_decay}
    optimizer = torch.optim.AdamW(llm.connector.train().parameters(), **how)
    for step in range(6):
        rows = config.batch_rows(step, len(examples))
        batch = batches.collate([streams[i] for i in rows], llm.backbone.pad_id)
        learned = labels_for([streams[i] for i in rows], batch) != batches.IGNORE
        audio_embeddings = llm.connect(store[[examples[i]["id"] for i in rows]])
        logits = llm.response_logits(batch.prefix, batch.ids, learned, audio_embeddings)
        read = [written[examples[i]["seed_description"], examples[i]["prompt"]] for i in rows]
        teacher = torch.cat([logp for logp, _ in target.text_log_probs(llm.backbone, read)])
        loss = loss_of(logits.float(), teacher.to(logits.device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(llm.connector.parameters(), config.max_grad_norm)
        optimizer.param_groups[0]["lr"] = rates[step]
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    after = hashes(llm)
print(f"The loop ran with {lesson.credit}.")
{name: "moved" if after[name] != before[name] else "the same, bit for bit" for name in before}

# %% [markdown]
# Only the connector should have moved. The gradient went through the frozen backbone to reach the connector, but nothing of the backbone was allowed to follow it.
#
# ## Commit yourself
#
# ### Exercise 4.4 · Bet on a short run · predict · 4 min
# The package is about to train for 80 steps, three times: with soft targets, with hard targets, and with soft targets that belong to another speaker's clip. Two bets. The score is 0 for guessing and 1 for perfect. Both are locked when the first run begins.

# %%
lesson.predict(
    "rung3",
    "Soft targets: mean score on the six questions that were never trained?",
    0,
    1,
    step=0.05,
)

# %%
lesson.predict(
    "fall",
    "WRONG targets: by how many per cent does the loss fall, first to last ten steps?",
    0,
    100,
    step=5,
)

# %% [markdown]
# ## The same loop, in the package
#
# `trainer.train` runs the same steps, keeps records, checkpoints and a state to go on from. A run lives in a folder whose name is the hash of all that determines it, so the second time it is found, not trained.


# %%
def short_run(name, examples, soft):
    responses = "\n".join(row["response"] for row in examples)
    pairs = [name, hashlib.sha256(responses.encode()).hexdigest()]
    about = {**experiment.run_config("self"), "train_config": asdict(config), "pairs": pairs}
    folder = trainer.run_folder(experiment.root / "runs", f"{experiment.preset.name}-{name}", about)
    if not trainer.is_finished(folder, config):
        with replies.use_checkpoint(experiment, step=0) as llm:
            trainer.train(
                llm,
                store,
                examples,
                config,
                folder,
                soft_targets=soft,
                progress=experiment.progress(f"train {name}"),
            )
    return folder


# %%
lesson.lock("rung3", "fall")

# %% tags=["expensive"]
runs = {"soft": short_run("soft", examples, soft)}
records = pd.DataFrame(checkpoints.read_records(runs["soft"]))
torch.testing.assert_close(
    torch.tensor(losses), torch.tensor(records["loss"][:6].to_numpy()).float(), rtol=0.03, atol=0
)
print("by hand:", np.round(losses, 4), "  package:", records["loss"][:6].round(4).tolist())

# %% [markdown]
# The six losses of the loop above are those of the package, but for the bucket: from here on it is trusted. The second run sees the same clips in the same order, with hard targets.

# %% tags=["expensive"]
runs["hard"] = short_run("hard", examples, None)

# %% [markdown]
# ## Kill it, and go on
#
# A notebook loses its kernel, a cluster its node. A run that is killed and started again must end in the same weights, or no result could be repeated. Here are four steps in one go, and four steps with a kill after the third. The state is kept every two steps.

# %%
tiny = replace(config, steps=4, batch=2, warmup=2)


def killer(done, total, record):
    if done == 3:
        raise KeyboardInterrupt


def four_steps(folder, progress=None):
    with replies.use_checkpoint(
        experiment, step=0
    ) as llm:  # the untrained connector: nothing is left in memory
        trainer.train(
            llm, store, examples, tiny, folder, soft_targets=soft, state_every=2, progress=progress
        )


# %%
with tempfile.TemporaryDirectory() as place:
    once, twice = Path(place, "once"), Path(place, "twice")
    four_steps(once)
    try:
        four_steps(twice, killer)
    except KeyboardInterrupt:
        print(
            "killed after step 3; kept so far:",
            sorted(path.name for path in (twice / "checkpoints").iterdir()),
        )
    four_steps(twice)
    whole, resumed = (
        load_file(folder / "checkpoints" / "000004.safetensors") for folder in (once, twice)
    )
print(
    sum(torch.equal(whole[name], resumed[name]) for name in whole),
    "of",
    len(whole),
    "tensors equal, bit for bit",
)

# %% [markdown]
# ## Break the pairs
#
# A loss that falls proves that something was learned, not that anything was heard. The control has the same clips and the same targets, and no clip has its own.
#
# ### Exercise 4.5 · Give every clip a wrong target · break · 7 min
# Write `mispaired(rows)`: examples are dicts with (among others) `id`, `seed_description` and `response`. Return a list with the same ids in the same order, each with all the rest from an example of *another* description. Spread these examples: no few of them for all clips. Leave the rows themselves alone.


# %% tags=["exercise"]
def mispaired(rows):
    ### BEGIN SOLUTION
    rng = np.random.default_rng(0)

    def partner(row):
        strangers = [
            other for other in rows if other["seed_description"] != row["seed_description"]
        ]
        return strangers[rng.integers(len(strangers))]

    return [{**partner(row), "id": row["id"]} for row in rows]
    ### END SOLUTION


# %%
lesson.check("mispaired", mispaired)

# %% [markdown] tags=["hint"]
# For each row, gather the rows of other descriptions and draw one of them: `{**other, "id": row["id"]}`. Clips of the same description share a target, so a mere shift of the list leaves some with their own.

# %% [markdown]
# The run below trains on your pairs. A value such as “female” may still be right by chance, as often as in the corpus.

# %% tags=["expensive"]
mispair = lesson.use("mispaired", mispaired, pieces.give_strangers_targets, tensors=False)
wrong = mispair(examples)
place = {(row["seed_description"], row["response"]): j for j, row in enumerate(examples)}
partners = [place[row["seed_description"], row["response"]] for row in wrong]
runs["mispaired"] = short_run("mispaired", wrong, [soft[j] for j in partners])

# %% [markdown]
# ## What can each of them do?
#
# Each last connector answers the trained prompt (rung 0) and six questions that were never trained (rung 3), on voices that it never heard, with silence and another speaker's clip as controls.


# %%
def score(folder):
    tasks = [task for task in experiment.tasks if task.rung in (0, 3)]
    test, other = experiment.clips("test"), experiment.clips("validation")
    checkpoints.load_checkpoint(folder, experiment.llm, config.steps)
    return evaluate(experiment.llm, tasks, test, other, store)


# %% tags=["expensive"]
scored = [
    lesson.find_or_make(
        "scores", lambda folder=folder: score(folder), short_run=folder.name
    ).assign(run=name, step=config.steps)
    for name, folder in runs.items()
]
pd.concat(scored).groupby(["run", "condition", "rung"])["calibrated"].mean().unstack().round(2)

# %% [markdown]
# Those are accuracies, not yet corrected for chance (*calibrated* ranking is taken apart in notebook 05). The finished run, the untrained connector and the text oracle were scored in the same way; they come from the table of the experiment.

# %%
finished = (
    experiment.score_table()
    .query("run == 'self' and rung in (0, 3) and step == @experiment.train_config.steps")
    .assign(run="finished")
)
untrained = experiment.score_table().query(
    "run == 'self' and rung in (0, 3) and step == 0 and condition == 'audio'"
)
every = pd.concat(
    [*scored, finished, untrained.assign(run="soft"), untrained.assign(run="hard")],
    ignore_index=True,
)

# %%
margins = verdict.control_margins(every, "soft", config.steps)
risen = sum(min(over.values()) > 0 for over in margins.values())
tasks = verdict.score_per_task(every)
headline = (
    f"After {config.steps} steps with soft targets {risen} of {len(margins)} questions stand "
    "above every control"
)
claim_figures.plot_held_out(tasks[tasks["run"].isin(["soft", "hard"])], headline)

# %% [markdown]
# A short run shows an order: some questions may already be answered while others stand at chance. What comes first, and whether it comes suddenly, is the question of notebook 05.
#
# ## What was learned
#
# First the losses. They have different floors. A student that equals its teacher has a soft loss of 0. Its hard loss is the teacher's own surprise at its words. (This is no true floor: hard targets reward a student for being surer than the teacher.) With wrong targets the best that a student can do is to say what is likely of any clip.

# %%
curves = pd.concat(
    [
        pd.DataFrame(checkpoints.read_records(folder))[["step", "loss"]].assign(run=name)
        for name, folder in runs.items()
    ]
)
floor = float(np.log(target.target_perplexity(experiment.llm.backbone, experiment.targets.rows)))
ends = curves.groupby("run")["loss"].agg(
    first=lambda loss: loss.iloc[:10].mean(), last=lambda loss: loss.iloc[-10:].mean()
)
ends["fall in %"] = 100 * (1 - ends["last"] / ends["first"])
ends.round(3)

# %%
found = verdict.score_per_rung(every)
pick = {
    "untrained connector": ("soft", "audio", 0),
    "silence, soft": ("soft", "silence", config.steps),
    "shuffled audio, soft": ("soft", "shuffled", config.steps),
    "wrong targets": ("mispaired", "audio", config.steps),
    "hard targets": ("hard", "audio", config.steps),
    "soft targets": ("soft", "audio", config.steps),
    f"finished run (soft), {experiment.train_config.steps} × {experiment.train_config.batch}": (
        "finished",
        "audio",
        experiment.train_config.steps,
    ),
    "text oracle": ("finished", "oracle", experiment.train_config.steps),
}

# %%
cells = found.set_index(["run", "condition", "step"])
dots = pd.concat(
    [cells.loc[[key]].reset_index().assign(name=name) for name, key in pick.items()],
    ignore_index=True,
)
third = dots[dots["rung"] == 3].set_index("name")["score"]
headline = (
    f"{config.steps} steps on one task take questions never trained from "
    f"{third['untrained connector']:.2f} to "
    f"{third['soft targets']:.2f} (soft), {third['hard targets']:.2f} (hard), "
    f"{third['wrong targets']:.2f} (wrong targets), seed {experiment.seed}"
)

# %%
LOOK = {name: style.get_series(name) for name in ("soft", "hard", "mispaired")}
picture, (left, right) = style.subplots(1, 2, headline, (10.5, 4.2), width_ratios=[1, 1.25])
for run, name in (
    ("soft", "soft targets"),
    ("hard", "hard targets"),
    ("mispaired", "wrong targets (soft)"),
):
    curve = curves[curves["run"] == run].set_index("step")["loss"]
    ink = {"color": LOOK[run].colour, "ls": LOOK[run].line}
    left.plot(curve, color=LOOK[run].colour, lw=0.6, alpha=0.4)
    left.plot(curve.rolling(10, min_periods=3).mean(), lw=2, label=name, **ink)

# %%
left.axhline(floor, color=LOOK["hard"].colour, ls=":", lw=1.2, label="the writer's own, hard")
left.set(xlabel="training step (thick: mean of ten)", ylabel="loss, nats a token", ylim=(0, None))
left.legend(loc="lower left", ncols=2, fontsize=8)
right.axvline(0, color="#B0B0B0", lw=0.8)
for row in dots.itertuples():
    place, up = list(pick).index(row.name), {0: 0.16, 3: -0.16}[row.rung]
    own = {"finished": "self"}.get(row.run, row.run) if row.step else "untrained"
    look = style.get_series(own if row.condition == "audio" else row.condition)
    reach = [[row.score - row.low], [row.high - row.score]]
    right.errorbar(
        row.score,
        place + up,
        xerr=reach,
        marker=look.marker,
        ms=7,
        color=look.colour,
        mfc="white" if up > 0 else look.colour,
    )

# %% tags=["headline"]
right.set_yticks(range(len(pick)), list(pick))
right.set_xlabel(
    "accuracy above chance (bars: 95 % over speakers)\n"
    "open: trained prompt (rung 0), filled: never trained (rung 3)"
)
table = pd.concat([dots, curves.assign(name="loss")])
lesson.show(picture, f"Loss curves and scores of three short runs. {headline}.", table)

# %%
print(lesson.reveal("rung3", third["soft targets"]))
print(lesson.reveal("fall", ends.loc["mispaired", "fall in %"]))

# %% [markdown]
# ## What we now know
#
# The right panel says how far a short run on a single task goes, on that task and beside it. The run with wrong targets says how much of that needs the right clip. The left panel says what a falling loss is worth: compare how far each loss fell with what its run can do. The loss with wrong targets hardly falls. One reading is that the untrained connector already says nearly what is likely of any clip, so that only the clip itself is left to learn. This figure cannot settle whether soft targets beat hard ones, even where the bars part. They are intervals over speakers, and each kind was trained once.
#
# **What would change our mind**: a run with wrong targets that rises above chance; a rung 3 that stays at chance while rung 0 rises, which would be learning the task and nothing beside it; other seeds that turn the order of soft and hard round. `config = replace(config, steps=160)` above is the next thing to try.
#
# Next: **05**, when each ability emerges, and whether it does so suddenly.

# %%
lesson.card()
