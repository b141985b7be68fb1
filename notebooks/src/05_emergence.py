# %% [markdown]
# # 05 · Emergence: does the ability to answer what was never asked appear suddenly, or does the metric make it look so?
#
# Somewhere between step 0 and the last step the connector begins to answer questions that training never contained. On many plots such an ability *emerges*: it is flat, then suddenly there ([Wei et al., 2022](https://arxiv.org/abs/2206.07682)). [Schaeffer et al. (2023)](https://arxiv.org/abs/2304.15004) argue, for models of growing size, that a sharp metric such as exact match can make a jump out of steady progress (a *mirage*), and that a smooth metric shows the progress. Here it is training that grows, and the smooth metrics are probability and log-probability.
#
# You will measure a jump, grade one run in five ways, put an interval over speakers on a score, and decide when it has risen. The last figure sets the jump of accuracy beside the jump of log-probability.
#
# *Needs: 00; some NumPy and pandas. 35 minutes of exercises, about 20 of reading and running.*

# %%
import numpy as np
import pandas as pd
import torch

import desta_lab
from desta_lab import audio
from desta_lab.course.checks import notebook_05 as pieces
from desta_lab.evaluation import conditions, scoring, statistics, verdict
from desta_lab.experiments import emergence_claims
from desta_lab.experiments.emergence import HOME
from desta_lab.views import replies, style

lesson = desta_lab.setup("05")
experiment = lesson.experiment

# %% [markdown]
# ## What was kept along training
#
# The run left *checkpoints*, and at each of them every task of the task ladder was scored: one row per run, step, condition, task and clip. The *condition* says what the model was given: the clip (`audio`), another speaker's (`shuffled`), `silence`, or the description (`oracle`). The steps of the checkpoints double at first and then go on evenly. Remember that when you see a curve.

# %%
table = experiment.score_table()
steps = np.array(sorted(table["step"].unique()))
print("checkpoints at steps", *steps)

# %% [markdown]
# First one clip, before any average. Hear it, then read what the model answered about it, in its own words, at some of the checkpoints. Even a wrong answer is fluent. The language model always knows how to answer; what it lacks is the clip.

# %%
first = experiment.clips("test")[0]
desta_lab.show_players(experiment.corpus, [first])

# %%
asked = table[(table["rung"] == 3) & (table["run"] == "self") & (table["condition"] == "audio")]
answers_by_step = asked[asked["clip"] == first.id].pivot(
    index="attribute", columns="step", values="answer"
)
answers_by_step[steps[[0, len(steps) // 2, -4, -1]]].assign(truth=pd.Series(first.attributes))

# %% [markdown]
# ## What is a jump?
#
# ### Exercise 5.1 · Take the jump share · fill in · 5 min
# Write `jump_share(curves)`. `curves` is an array [curve, checkpoint]: each row is one curve along training, and it ends higher than it began. Take the largest rise between two neighbouring checkpoints, as a share of the whole rise from the first checkpoint to the last. Return one number for each row, [curve].


# %% tags=["exercise"]
def jump_share(curves):
    ### BEGIN SOLUTION
    return np.diff(curves).max(-1) / (curves[:, -1] - curves[:, 0])
    ### END SOLUTION


# %%
lesson.check("jump_share", jump_share)

# %% [markdown] tags=["hint"]
# `np.diff` takes the differences along the last axis, `.max(-1)` the largest of each row. A fall is a negative rise: no `abs`.

# %% [markdown]
# What does it say of progress that is even? The checkpoints lie further apart towards the end. So a rise that is even from step to step looks like a jump there. The last two rows are a student who answers better and better, at an even pace: `p` is the share of single questions that are right. *All right at once* counts a clip only if its six answers are all right. That is `p` to the power of six, if mistakes are independent. Nothing jumped but the metric. Turn `AT_ONCE`, and see.

# %%
AT_ONCE = 6  # answers that must be right at once

measure_jump = lesson.use("jump_share", jump_share, emergence_claims.jump_share, tensors=False)


def share_of(curves):
    return np.asarray(measure_jump(np.asarray(curves, dtype=float)), dtype=float)


p = np.linspace(0, 1, len(steps))
progress = {
    "even from step to step": steps,
    "all at once": steps > 1,
    "even from checkpoint to checkpoint": p,
    f"the same, {AT_ONCE} answers right at once": p**AT_ONCE,
}
pd.Series(share_of([*progress.values()]), [*progress], name="jump share").round(2).to_frame()

# %% [markdown]
# ### Exercise 5.2 · Commit yourself · predict · 3 min
# What is the jump share of this run's mean over the six questions of rung 3, graded by accuracy, and graded by the log-probability of the right answer? The table above shows both extremes: the smallest and the largest that a curve without falls can have.

# %%
lesson.predict("jump_accuracy", "Jump share of accuracy?", 0, 1, step=0.05)

# %%
lesson.predict(
    "jump_logprob", "Jump share of the log-probability of the right answer?", 0, 1, step=0.05
)

# %% [markdown]
# ## From scores to a choice
#
# *Closed-set ranking* never lets the model speak. It asks how likely each of the allowed answers would be, and takes the likeliest: the column `raw`. (The column `calibrated` is what exercise 5.3 is about.) Of all attributes we take the one whose score depends most on how that is done, and compute its scores here, for the test clips and for clips of other speakers.

# %%
last = asked[asked["step"] == steps[-1]]
means = last.groupby("attribute")[["calibrated", "raw"]].mean()
attribute = (means["calibrated"] - means["raw"]).idxmax()
task = next(task for task in experiment.tasks if task.name == f"ask_{attribute}")
print(task.question, "·", " or ".join(task.options))

# %% tags=["slow"]
test, others = experiment.clips("test"), experiment.clips("validation")
waves = [audio.read_audio(experiment.corpus.path(clip)) for clip in [*test, *others]]
with replies.use_checkpoint(experiment) as llm, torch.no_grad():
    scores = scoring.score_options(
        llm, [task], conditions.embed_clips(llm, llm.encoder.encode(waves).float())
    )[0]
scores, held_out = scores[: len(test)], scores[len(test) :]

# %% [markdown]
# One line per option: its mean log-probability over the clips of the other speakers, and over those of them for which it is the truth. The model prefers one option whatever it hears. That preference is the *option prior* ([Zhao et al., 2021](https://arxiv.org/abs/2102.09690)). It belongs to the words, not to the clip.

# %%
values = list(task.options)
truth = torch.tensor([values.index(clip.attributes[attribute]) for clip in others])
pd.DataFrame(
    {
        option: {
            "over all clips": held_out[:, i].mean().item(),
            "where it is true": held_out[truth == i, i].mean().item(),
        }
        for i, option in enumerate(values)
    }
).T

# %% [markdown]
# ### Exercise 5.3 · Take the prior out · fill in · 7 min
# `scores` is [clip, option]: the log-probability of each option for the clips that are graded. `held_out` is [other clip, option], from other speakers, and `truth` [other clip] says which option is right there. Return the *calibrated* scores [clip, option]: what this clip says beyond what the model says of any clip. The other clips may hold four women to one man; let every value weigh the same, or the commonest one sets the prior.


# %% tags=["exercise"]
def calibrated(scores, held_out, truth):
    ### BEGIN SOLUTION
    means = [held_out[truth == value].mean(0) for value in truth.unique()]
    return scores - torch.stack(means).mean(0)
    ### END SOLUTION


# %%
lesson.check("calibrated", calibrated)

# %% [markdown] tags=["hint"]
# The prior is one number per option: the mean over the held-out clips of each value, then the mean of these means. In log-probabilities, to divide is to subtract.

# %% [markdown]
# The package does it in `scoring.Calibration`. Here is how often the right option is ahead by your scores, by the package's, and by raw ranking.

# %%
calibration = scoring.Calibration(others, [held_out])
calibrate = lesson.use("calibrated", calibrated, pieces.take_out_prior)
judged = scoring.judge_scores(
    experiment.llm.backbone.tokenizer, [task], test, [scores], calibration
)
right = torch.tensor([values.index(clip.attributes[attribute]) for clip in test])
chosen = calibrate(scores, held_out, truth).argmax(1)
print(f"calibrated by {lesson.credit_of('calibrated')}: {(chosen == right).float().mean():.2f}")
judged[["calibrated", "raw"]].mean().round(2).rename("right").to_frame()

# %% [markdown]
# Now all six attributes at the last step, graded in three ways on the same clips: *calibrated ranking*, raw ranking, and *free-form match*, where the model answers in its own words and must name the right value and no other. Nobody calibrates a spoken answer: expect free-form to follow raw where the prior is strong.

# %%
spoken_too = last.dropna(subset=["free_form"])
grades = spoken_too.groupby("attribute")[["calibrated", "raw", "free_form"]].mean()
grades.assign(clips=spoken_too.groupby("attribute").size()).round(2)

# %% [markdown]
# Where the columns differ, the model hears more than it says. On the `cpu` preset they differ more, because its backbone likes to chat. So “can it do the task?” has no answer before we say how it is graded.
#
# ## How sure is one number?
#
# The clips of one speaker are not independent: a voice that is hard once is hard every time. To know how far the score would move with other *people*, resample people.
#
# ### Exercise 5.4 · Resample the speakers · fill in · 8 min
# `correct` (1 right, 0 wrong) and `speakers` (names) are arrays [clip]. A thousand times, draw as many speakers as there are, with replacement, take all clips of each drawn speaker (twice, if drawn twice), and note the mean over all these clips. Return the 2.5th and the 97.5th percentile of these means.


# %% tags=["exercise"]
def speaker_interval(correct, speakers):
    ### BEGIN SOLUTION
    rng = np.random.default_rng(0)
    groups = [correct[speakers == name] for name in np.unique(speakers)]
    drawn = [rng.integers(len(groups), size=len(groups)) for _ in range(1000)]
    return np.percentile(
        [np.concatenate([groups[i] for i in some]).mean() for some in drawn], [2.5, 97.5]
    )
    ### END SOLUTION


# %%
lesson.check("speaker_interval", speaker_interval)

# %% [markdown] tags=["hint"]
# `groups = [correct[speakers == name] for name in np.unique(speakers)]` has the clips of each speaker; `rng.integers(n, size=n)` draws with replacement; `np.percentile(means, [2.5, 97.5])`.

# %% [markdown]
# Yours beside the package's, for one attribute. The draws are not the same: expect agreement to a few hundredths.

# %%
some = last[last["attribute"] == attribute]
theirs = statistics.bootstrap_intervals(some, "calibrated", ["attribute"])[attribute,]


def package_interval(correct, speakers):
    rows = pd.DataFrame({"correct": correct, "speaker": speakers, "all": "clips"})
    return statistics.bootstrap_intervals(rows, "correct", ["all"])["clips",][1:]


interval = lesson.use("speaker_interval", speaker_interval, package_interval)
yours = interval(some["calibrated"].to_numpy(), some["speaker"].to_numpy())
by = lesson.credit_of("speaker_interval")
for whose, (low, high) in {"the package": theirs[1:], by: yours}.items():
    print(f"mean {theirs[0]:.2f}, interval [{low:.3f}, {high:.3f}] by {whose}")

# %% [markdown]
# ## When has it risen?
#
# A question of two options is half right by guessing, so every accuracy is put on the scale of notebook 00: 0 is guessing, 1 is all right. `score_per_rung` does that, averages over the tasks of a rung that the text oracle can do, and adds the interval over speakers.

# %%
lesson.lock("jump_accuracy", "jump_logprob")  # the next tables tell them
rungs = verdict.score_per_rung(verdict.add_untrained(table))
curve = rungs[(rungs["run"] == "self") & (rungs["rung"] == 3)].pivot(
    index="step", columns="condition", values="score"
)
curve.round(2)

# %% [markdown]
# ### Exercise 5.5 · Find the step at which it has risen · fill in · 6 min
# A curve may touch a line and fall back, and a control may rise with it. Return the first step from which on, to the end, `score` is at least `threshold` *and* above `control`; `nan` where there is none. All of `steps`, `score` and `control` are arrays [checkpoint].


# %% tags=["exercise"]
def crossing(steps, score, control, threshold):
    ### BEGIN SOLUTION
    good = (score >= threshold) & (score > control)
    for i, step in enumerate(steps):
        if good[i:].all():
            return step
    return float("nan")
    ### END SOLUTION


# %%
lesson.check("crossing", crossing)

# %% [markdown] tags=["hint"]
# Make an array `good` [checkpoint] that is true where both conditions hold. `good[i:].all()` says whether they hold from checkpoint `i` to the end.

# %% [markdown]
# First rung 3, by your function. Then every rung of both runs, by the package's `rung_crossings`. That looks at the threshold alone, and leaves the controls to the verdict below. Read it as an order: which rungs follow the trained prompt at once, which late, which never?

# %%
crossed = verdict.rung_crossings(rungs, threshold=0.5)
rise = lesson.use("crossing", crossing, pieces.crossing_above)
reached = rise(steps, *(curve[name].to_numpy() for name in ("audio", "shuffled")), 0.5)
print(
    f"Rung 3 stays above 0.5 and above shuffled audio from step {float(reached):g} "
    f"(by {lesson.credit_of('crossing')})."
)
crossed.pivot(index="rung", columns="run", values="stable")

# %% [markdown]
# ## The verdict, by hand
#
# The claim of the course is a rule. Its core: an attribute has risen if the clip beats *every* control. Take the clip's score minus the control's, clip by clip (the *paired difference*). The 95 % interval over speakers of its mean must lie above zero. A few lines apply this to the last step, with your interval.

# %%
done = verdict.add_untrained(table[table["task"].isin(verdict.able_tasks(table))])
done = done[(done["run"] == "self") & (done["step"] == steps[-1]) & (done["rung"] == 3)]
wide = done.pivot(
    index=["attribute", "clip", "speaker"], columns="condition", values="calibrated"
).reset_index()
low = pd.DataFrame(
    {
        control: {
            name: float(
                interval((rows["audio"] - rows[control]).to_numpy(), rows["speaker"].to_numpy())[0]
            )
            for name, rows in wide.groupby("attribute")
        }
        for control in verdict.CONTROLS
    }
)
low.round(2)

# %% [markdown]
# Every cell is the lower end of an interval. The rows that are positive throughout should be the ones that the package counts. (An interval may end so near to zero that the draw decides.) The package then applies the other parts of the rule, among them that the rival run must *not* have risen. The rule asks six times, and corrects nothing for it. If nothing were heard, one of six would rise by luck in at most about one run of seven. Four of six would hardly ever rise so. Therefore the rule asks for most of them. Luck with the seed is another matter: one run cannot show it.

# %%
judged = verdict.judge_claim(table, experiment.preset.label)
mine = sorted(low.index[(low > 0).all(axis=1)])
print(f"With intervals by {lesson.credit_of('speaker_interval')}, risen:", ", ".join(mine))
print("by the package:", ", ".join(judged.above_controls["self"]))
print(f"By its rule the claim is {judged.verdict}. This was asked, and does it hold?")
judged.tabulate()

# %% [markdown]
# ## A jump, or a mirage?
#
# If it rose, did it jump? Five ways to grade the same answers:
#
# - *accuracy*, calibrated, above chance: right or wrong, a step function;
# - *probability* of the right option among the options, above chance: smooth;
# - *log-probability* of the right answer, in nats: smooth, and unbounded below;
# - *free-form* match: the right value named, and no other;
# - *all right at once*: a clip counts if all of its attributes are told right.
#
# Every row of `clips` is a clip at a step, under each metric. For the bare-label run only the attributes that it was not trained on count. (Between the ends half of the clips were scored, and those are the ones we take.)

# %%
METRICS = {
    "accuracy": "accuracy",
    "prob": "probability",
    "logprob": "log-probability",
    "free_form": "free-form",
    "all": "all right at once",
}
every_step = set(asked.loc[asked["step"] == steps[1], "clip"])
graded = table[(table["rung"] == 3) & table["clip"].isin(every_step)]
graded = graded[
    (graded["run"] == "self")
    | ((graded["condition"] == "audio") & (graded["attribute"] != experiment.preset.label))
]
graded = graded.assign(
    series=graded["condition"].where(
        graded["condition"] != "audio", graded["run"].replace("label", "label_others")
    ),
    accuracy=(graded["calibrated"] - graded["chance"]) / (1 - graded["chance"]),
    prob=(graded["share"] - graded["chance"]) / (1 - graded["chance"]),
    all=graded["calibrated"],
)
how = {name: (name, "min" if name == "all" else "mean") for name in METRICS}
clips = graded.groupby(["series", "step", "clip", "speaker"], as_index=False).agg(**how)

# %% [markdown]
# To compare metrics that have different units, each is put on one scale: 0 is where the untrained connector stands, 1 is the text oracle. The intervals are those over speakers.

# %%
rows = []
for name in METRICS:
    level = clips.groupby(["series", "step"])[name].mean()
    top = level["oracle"].iloc[-1]
    for (series, step), values in statistics.bootstrap_intervals(
        clips, name, ["series", "step"]
    ).items():
        zero = level["label_others" if series == "label_others" else "self", 0]
        score, low, high = (np.array(values) - zero) / (top - zero)
        rows.append(
            {
                "part": "curve",
                "metric": METRICS[name],
                "series": series,
                "step": step,
                "score": score,
                "low": low,
                "high": high,
            }
        )
curves = pd.DataFrame(rows).dropna(subset=["score"])

# %% [markdown]
# ### Exercise 5.6 · Write the null · fill in · 6 min
# How large is the jump share of a curve that does not jump? Not zero: of several noisy rises the largest is large. So we need a null: a rise of the same size, even from step to step, with the same noise.
#
# `seen` [checkpoint] is the measured curve, and `drawn` [draw, checkpoint] are the curves of resampled speakers. What a draw has more or less than `seen` is its noise. Write `steady_rise(seen, drawn, steps)`, [draw, checkpoint]: the noise of each draw, added to a straight line over `steps` [checkpoint] that begins and ends where `seen` does. `steps` begins at 0.


# %% tags=["exercise"]
def steady_rise(seen, drawn, steps):
    ### BEGIN SOLUTION
    line = seen[0] + (seen[-1] - seen[0]) * steps / steps[-1]
    return drawn - seen + line
    ### END SOLUTION


# %%
lesson.check("steady_rise", steady_rise)

# %% [markdown] tags=["hint"]
# `drawn - seen` is the noise. The line has risen by the share `steps / steps[-1]` of the whole rise.

# %% [markdown]
# Now both are taken over speakers. All metrics see the same draws of speakers, so a difference between two metrics can be taken draw by draw. (Free-form has fewer clips, and draws of its own.) `steady` is your null: it shows how much of the jump share is noise and uneven checkpoints.


# %%
def by_speaker(name, series="self"):
    some = clips[clips["series"] == series].dropna(subset=[name])
    means = some.pivot_table(index="speaker", columns="step", values=name)
    means = means.dropna().to_numpy()
    drawn = np.random.default_rng(0).integers(len(means), size=(1000, len(means)))
    return means.mean(0), means[drawn].mean(1)  # [checkpoint] and [draw, checkpoint]


# %%
level_out = lesson.use("steady_rise", steady_rise, pieces.rise_steadily, tensors=False)
found, draws = [], {}
for name, metric in METRICS.items():
    seen, drawn = by_speaker(name)
    draws[name] = {"self": share_of(drawn), "steady": share_of(level_out(seen, drawn, steps))}
    at = int(np.diff(seen).argmax())
    for series, center in (
        ("self", share_of(seen[None])[0]),
        ("steady", np.median(draws[name]["steady"])),
    ):
        low, high = np.percentile(draws[name][series], statistics.PERCENTILES)
        found.append(
            {
                "part": "jump",
                "metric": metric,
                "series": series,
                "before": steps[at],
                "step": steps[at + 1],
                "score": center,
                "low": low,
                "high": high,
            }
        )

# %%
jumps = pd.DataFrame(found)
np.testing.assert_allclose(share_of(drawn), emergence_claims.jump_share(drawn))
jumps.drop(columns="part").round(2)

# %% [markdown]
# This is one run, and its checkpoints are far apart where it rises. The package ships the tables of [an emergence report](../figures/emergence/README.md): several runs, each with its own world and newborn connector, and a checkpoint every 16 steps. Its smooth metric is the calibrated *margin*: how far the right option is above the best other one, without the prior of exercise 5.3. Accuracy is the sign of the margin, nothing else. The report states the rule; this is what it gives.

# %%
several = {name: pd.read_csv(HOME / f"{name}.csv") for name in ("curves", "jumps")}
claim = emergence_claims.judge_jumps(several["jumps"], several["curves"])
print(f"{claim.verdict[0].upper()}{claim.verdict[1:]}.", claim.numbers[-1])

# %% [markdown]
# A metric can make a jump, and an average can hide one: attributes that rise one after the other average to a slope. Here is the step from which on each attribute stays above half way, by accuracy and by probability. Where accuracy comes first, the option prior stood in the way: accuracy is calibrated here, probability is not.

# %%
alone = graded[graded["series"] == "self"].melt(
    ["attribute", "step"], ["accuracy", "prob"], "run", "score"
)
alone = alone.groupby(["run", "attribute", "step"], as_index=False)["score"].mean()
alone = verdict.rung_crossings(
    alone.rename(columns={"attribute": "rung"}).assign(condition="audio")
)
alone.pivot(index="rung", columns="run", values="stable").rename_axis(
    index="attribute", columns="half way from step"
)

# %% [markdown]
# ## The answer
#
# Five panels, one a metric, with its controls. (Free-form answers were asked for on fewer clips, so their bands are wider.) The grey band marks the largest rise. The sixth panel sets the jump shares beside each other.
#
# One curve may leave its panel. Log-probability has no lower end. A connector that has learned to listen is sure of what it hears. With shuffled audio it hears another clip, so it gives the right answer hardly any probability.


# %%
FLOOR = -0.85  # of the panels


# %%
def draw_curve(axes, rows, series):
    some, look = rows[rows["series"] == series], style.get_series(series)
    colour, width = style.get_colour(series), 2 if series == "self" else 1.1
    axes.fill_between(some["step"], some["low"], some["high"], color=colour, alpha=0.15, lw=0)
    ink = {"color": colour, "ls": look.line, "label": look.label, "marker": look.marker}
    axes.plot(some["step"], some["score"], ms=3.5, lw=width, **ink)


# %%
def draw(axes, metric):
    rows, at = curves[curves["metric"] == metric], share.loc[metric]
    axes.axvspan(at["before"], at["step"], color="#E6E6E6", zorder=0, lw=0)
    for series in ("oracle", "silence", "shuffled", "label_others", "self"):
        draw_curve(axes, rows, series)
    untrained = style.marker_style("untrained")
    axes.plot(0, 0, label=style.get_series("untrained").label, zorder=4, **untrained)
    rise = f"largest rise: {at['score']:.0%}, steps {at['before']} to {at['step']}"
    axes.set_title(f"{metric}\n{rise}", loc="left")
    style.set_step_axis(axes, int(steps[-1]))
    axes.set(ylim=(FLOOR, 1.1), xlabel="training step")
    if rows["score"].min() < FLOOR:
        lowest = rows.loc[rows["score"].idxmin()]
        axes.text(
            -0.1,
            FLOOR + 0.05,
            f"{style.get_series(lowest['series']).label} falls to {lowest['score']:.1f}",
            fontsize=8,
        )


# %%
def compare(axes):
    names = list(METRICS.values())
    for series, shift, colour in (
        ("steady", 0.18, "#7F7F7F"),
        ("self", -0.12, style.PALETTE["self"]),
    ):
        rows = jumps[jumps["series"] == series]
        reach = np.clip([rows["score"] - rows["low"], rows["high"] - rows["score"]], 0, None)
        places = rows["metric"].map(names.index) + shift
        axes.errorbar(rows["score"], places, xerr=reach, color=colour, fmt="o", ms=5)
    axes.set_yticks(range(len(names)), names)
    axes.set(ylim=(len(names) - 0.4, -0.5), xlim=(0, 1.05), xlabel="share of the whole rise")
    axes.set_title(
        "largest rise: measured (blue), and of a\nsteady rise with the same noise (grey)",
        loc="left",
    )


# %% [markdown]
# The headline is computed. If the interval of the difference between accuracy and log-probability lies above zero, the metric made a part of the jump. If it does not, and the log-probability jumps more than your null, then no mirage is shown. A small one is not excluded: the interval of the difference says how large a mirage may have been missed.

# %%
share = jumps[jumps["series"] == "self"].set_index("metric")
accuracy, smooth = share.loc["accuracy"], share.loc["log-probability"]
apart = np.percentile(draws["accuracy"]["self"] - draws["logprob"]["self"], statistics.PERCENTILES)
beyond = np.percentile(
    draws["logprob"]["self"] - draws["logprob"]["steady"], statistics.PERCENTILES
)
reading = "No jump: a smooth metric rises no more suddenly than a steady rise would"
if beyond[0] > 0:
    reading = "No mirage shown: a smooth metric jumps too"
if apart[0] > 0:
    reading = "Part of the jump is the metric"
headline = (
    f"{reading}. The jump share is {accuracy['score']:.2f} by accuracy and {smooth['score']:.2f} "
    f"by log-probability, a difference of {accuracy['score'] - smooth['score']:+.2f} "
    f"[{apart[0]:+.2f}, {apart[1]:+.2f}] (seed {experiment.seed}, "
    f"{lesson.credit_of('jump_share', 'steady_rise')})"
)

# %% tags=["headline"]
picture, grid = style.subplots(2, 3, headline, (11.0, 6.4))
for axes, metric in zip(grid.flat, METRICS.values(), strict=False):
    draw(axes, metric)
compare(grid[1, 2])
picture.supylabel("0: untrained connector, 1: text oracle (bands: 95 % over speakers)", fontsize=9)
style.add_legend(picture, list(grid.flat[:5]), columns=3)
lesson.show(
    picture,
    f"Rung 3 along training under five metrics, with controls. {headline}.",
    pd.concat([curves, jumps]),
)

# %%
print(lesson.reveal("jump_accuracy", accuracy["score"]))
print(lesson.reveal("jump_logprob", smooth["score"]))

# %% [markdown]
# ## What we now know
#
# We have seen how to grade, how sure to be, when to say “risen”, and whether accuracy jumped more than a smooth metric did, in one run. A metric can make a jump, an average can hide one, and checkpoints that lie far apart can make one as well. So a sentence on emergence needs the metric, the interval and the steps.
#
# **What would change our mind**: other seeds; more checkpoints inside the grey band; and a metric of calibrated margins, which neither the prior nor the threshold touches. [The emergence report](../figures/emergence/README.md) has all three. Where it disagrees with this run, believe the report. It has no connector without an anchor, and no real speech.
#
# Next: **06**, what the connector knows before the model can say it.

# %%
lesson.card()
