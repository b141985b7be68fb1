"""Tables of interventions: what the answer uses, by layer, query, direction, feature and head."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from desta_lab import audio
from desta_lab.analysis import attention, dictionary, interventions, lens, probe_sites, probes
from desta_lab.evaluation import conditions, scoring
from desta_lab.evaluation.evaluate import evaluate
from desta_lab.evaluation.statistics import (
    bootstrap_interval,
    group_difference_p,
    interval_table,
    null_ends,
    rank_p,
)
from desta_lab.experiments.inside_inputs import InsideError, check_speakers
from desta_lab.experiments.representation_tables import option_scores
from desta_lab.model.sites import apply_edits
from desta_lab.views.progress import report_each

if TYPE_CHECKING:
    from desta_lab.experiments.inside import Inside


# ---- layers, queries, directions ----


def read_layers(inside: "Inside") -> pd.DataFrame:
    """Which layer of the backbone has the answer: for audio, the text oracle and two controls.

    `tuned lens` reads the audio's states through `lens.tune_lens`, the others as they are.
    """
    rows, llm, tasks = inside.scored, inside.llm, inside.tasks
    attributes = [clip.attributes for clip in inside.clips]
    swap = [rows[i] for i in conditions.shuffled_partners(inside.pick(rows))]
    texts = [inside.describe(values) for values in attributes]
    unique = list(dict.fromkeys(texts))
    oracle = probe_sites.capture_oracle_sites(llm, tasks, unique)
    of_clip = torch.tensor([unique.index(text) for text in texts])
    last = inside.sites(inside.last)
    captured: dict[str, tuple[probe_sites.Sites, Sequence[int] | None]] = {"audio": (last, None)}
    if inside.untrained is not None:
        captured["untrained"] = inside.sites(inside.untrained), None
    captured |= {
        "shuffled": (last, swap),
        "oracle": ({name: site[of_clip] for name, site in oracle.items()}, None),
        "tuned lens": (lens.tune_lens(last, tasks, inside.calibration), None),
    }
    by, tables = ["attribute", "layer"], []
    for condition, (found, swapped) in captured.items():
        read = lens.logit_lens(llm, tasks, found, attributes, inside.calibration, swapped)
        read["speaker"] = [inside.speakers[row] for row in read["row"]]
        margins = read.groupby(by, as_index=False)["margin"].mean()
        accuracy = probes.summarise_accuracy(read, by)
        tables.append(accuracy.merge(margins, on=by).assign(condition=condition))
    return pd.concat(tables, ignore_index=True)


def patch_clips(inside: "Inside") -> pd.DataFrame:
    """Which query carries which attribute: queries of one clip put into another, one by one.

    Per attribute and query (−1: all of them) the share of the way that the answer moves; `same`,
    what it moves between clips of the same value; `p` of no difference, for all queries of the
    attribute at once (`statistics.group_difference_p`).
    """
    rows = inside.scored[: 2 * inside.sizes["pairs"]]
    clips = inside.pick(rows)
    check_speakers([clip.speaker for clip in clips], "that are patched, the first of those scored,")
    pairs = [(a, b) for b, a in enumerate(conditions.shuffled_partners(clips))]
    pairs = pairs[: inside.sizes["pairs"]]
    patched = lens.patch_queries(
        inside.llm,
        inside.first_tasks,
        inside.audio_embeddings(rows),
        [clip.attributes for clip in clips],
        report_each(pairs, inside.progress("patching")),
        inside.words(rows),
    )
    anchors = inside.table("words").groupby("query")["anchor"].first()
    table = []
    for attribute, of_task in patched.groupby("attribute"):
        shifts = of_task.pivot(index="row", columns="query", values="shift")
        differ = of_task.groupby("row")["differ"].first()
        if not differ.any():
            continue
        chances = group_difference_p(shifts.to_numpy(), differ.to_numpy(bool))
        way = shifts.loc[differ, -1]  # that of all queries is the whole of it
        same = shifts[~differ].mean() / way.mean()
        for query, p in zip(shifts.columns, chances, strict=True):
            share = _share_moved(shifts.loc[differ, query].to_numpy(), way.to_numpy())
            moved, low, high = bootstrap_interval(share, len(way))
            cell = {"attribute": attribute, "query": query, "word": anchors.get(query, "")}
            cell |= {"moved": moved, "low": low, "high": high, "same": same[query], "p": p}
            table.append(cell)
    if not table:
        raise InsideError(f"None of {len(pairs)} pairs of clips differs in a label; give more.")
    return pd.DataFrame(table)


def _share_moved(shift: np.ndarray, whole: np.ndarray) -> Callable[[np.ndarray], Any]:
    """The share of the way that drawn pairs moved: of sums, as one pair may differ by nothing.

    NaN where all of them do.
    """

    def share(drawn: np.ndarray) -> Any:
        way = whole[drawn].sum(-1)
        return shift[drawn].sum(-1) / np.where(way == 0, np.nan, way)

    return share


def _judge_rows(
    inside: "Inside",
    rows: Sequence[int],
    calibration: Sequence[int],
    audio_embeddings: Float[Tensor, "clip query d_llm"],
) -> pd.DataFrame:
    """Every answer about some rows, from their audio embeddings and then those that calibrate."""
    judged = evaluate(
        inside.llm,
        inside.tasks,
        inside.pick(rows),
        inside.pick(calibration),
        conditions=["audio"],
        audio_embeddings=audio_embeddings,
        transcripts=inside.transcripts is not None,
        batch=inside.sizes["batch"],
    )
    return judged.rename(columns={"attribute": "asked", "calibrated": "correct"})


def erase_attributes(inside: "Inside") -> pd.DataFrame:
    """Accuracy of every answer when one attribute is erased, as other speakers tell it.

    `change` is paired clip by clip with the untouched accuracy. Of an erased attribute it has an
    interval over speakers; of `random direction`s, which draw as many values as the attribute has
    for the same kind of unit (speaker or clip), it is the mean and their range (`null_ends`).
    """
    speakers = list(dict.fromkeys(inside.speakers[row] for row in inside.scored))
    asked = set(speakers[len(speakers) // 2 :])  # half of the test speakers; the rest train
    scored = [row for row in inside.scored if inside.speakers[row] in asked]
    train = [row for row, speaker in enumerate(inside.speakers) if speaker not in asked]
    calibration = inside.calibration[: inside.sizes["calibrating"]]
    embeddings = inside.audio_embeddings(range(len(inside.clips)))
    whitenings = lens.whiten_queries(embeddings, train)

    def judge(changed: Tensor) -> pd.DataFrame:
        return _judge_rows(inside, scored, calibration, changed[[*scored, *calibration]])

    def erase(labels: Sequence[str]) -> pd.DataFrame:
        return judge(lens.erase_attribute(embeddings, train, labels, whitenings))

    def erase_random(name: str, seed: int) -> pd.DataFrame:
        given = np.array(inside.labels[name]), np.array(inside.speakers)
        return erase(probes.draw_labels(*given, seed).tolist())

    kinds = {name: _label_kind(inside, name) for name in inside.labels}
    first = {kind: name for name, kind in reversed(kinds.items())}  # of each kind, one attribute
    seeds = range(inside.sizes["random"])
    untouched = judge(embeddings)
    erased = {name: erase(labels) for name, labels in inside.labels.items()}
    draws = report_each([*itertools.product(first.values(), seeds)], inside.progress("erasing"))
    drawn = {draw: erase_random(*draw) for draw in draws}
    random = [{name: drawn[first[kind], seed] for name, kind in kinds.items()} for seed in seeds]
    judged = {"untouched": [{"nothing": untouched}], "erased": [erased], "random direction": random}
    return _compare(judged, untouched, "erased").drop(columns="draws")


def _label_kind(inside: "Inside", attribute: str) -> tuple[int, bool]:
    """How many values an attribute has, and whether they belong to the speaker."""
    pairs = set(zip(inside.speakers, inside.labels[attribute], strict=True))
    return len(set(inside.labels[attribute])), len(pairs) == len(set(inside.speakers))


def _compare(
    kinds: Mapping[str, Sequence[Mapping[Any, pd.DataFrame]]], untouched: pd.DataFrame, along: str
) -> pd.DataFrame:
    """Accuracy of judged answers, and its paired change from those that are untouched.

    Args:
        kinds: kind → of every draw: amount → the answers. Of a kind whose name begins with "random"
            there are the mean of many draws and the ends of their range (`null_ends`); of another
            one draw with its intervals over speakers.
        along: the column of the amounts.

    Returns:
        One row per kind, amount and attribute asked; `draws` are the changes of random ones.
    """
    tables = []
    for kind, curves in kinds.items():
        pool = _pool_draws if kind.startswith("random") else _measure_change
        for amount in curves[0]:
            judged = [curve[amount] for curve in curves]
            changed = [one.assign(change=one["correct"] - untouched["correct"]) for one in judged]
            tables.append(pool(changed).assign(kind=kind, **{along: amount}))
    return pd.concat(tables, ignore_index=True)


def _measure_change(draws: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Accuracy and change of the only draw per attribute asked, with intervals over speakers."""
    (paired,) = draws
    change = interval_table(paired, "change", ["asked"], "change", "change_")
    return probes.summarise_accuracy(paired, ["asked"]).merge(change, on="asked")


def _pool_draws(draws: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The mean of draws per attribute asked, and the ends of their range."""
    means = [one.groupby("asked")[["correct", "change", "chance"]].mean() for one in draws]
    groups = pd.concat(means).groupby("asked")
    table = groups.mean().rename(columns={"correct": "accuracy"})
    for name, prefix in (("correct", ""), ("change", "change_")):
        ends = [null_ends(own.to_numpy()) for _, own in groups[name]]
        table[f"{prefix}low"], table[f"{prefix}high"] = zip(*ends, strict=True)
    return table.assign(draws=groups["change"].agg(list)).reset_index()


# ---- features, listening heads ----


def find_features(inside: "Inside") -> pd.DataFrame:
    """What the features of each site's dictionary stand for, and whether the answer follows.

    A dictionary is trained on the clips that calibrate and measured on those that are scored. One
    row per site and feature: its best `attribute` and `value`, `purity` and `null`
    (`dictionary.measure_purity`), `lit`, the share of clips in which it is, and `clips` that light
    it most; of the site, `explained` variance, the number of `features` and the share of these that
    are `dead`; and how many features of the attribute are `pure`, above the null.

    The purest feature of each attribute is added at every slot, as long as the spread of the site:
    `change` is how much more often clips of other values are then answered with its value,
    calibrated as untouched; `random` (with its range) is that of random directions of the
    same length, and `p` the rank of the feature among them.
    """
    tables = []
    for site in report_each(inside.dictionary_sites, inside.progress("features")):
        trained, vectors = inside.dictionary(site), inside.slot_vectors(site)
        clips = inside.pick(inside.scored)
        activations = trained.encode(vectors[inside.scored]).amax(1).numpy()
        labels = {name: inside.values(name, inside.scored) for name in inside.labels}
        speakers = [clip.speaker for clip in clips]
        purity = dictionary.measure_purity(activations, labels, speakers)
        purity["above"] = purity["purity"] - purity["null"]
        own = purity.sort_values("above").drop_duplicates("feature", keep="last")
        own = own.sort_values("feature", ignore_index=True).assign(site=site)
        own["features"] = len(own)
        own["pure"] = (own["above"] > 0).groupby(own["attribute"]).transform("sum")
        own["lit"] = (activations > 0).mean(0)
        names = np.array([clip.id for clip in clips])
        own["clips"] = [" ".join(names[row[:5]]) for row in (-activations).argsort(0).T]
        own["explained"] = dictionary.explained_variance(trained, vectors[inside.scored])
        seen = trained.encode(vectors[inside.calibration]).amax((0, 1))
        own["dead"] = float((seen == 0).float().mean())
        purest = own.sort_values("above").drop_duplicates("attribute", keep="last")
        steered = _steer_features(inside, site, purest)
        tables.append(own.merge(steered, on="feature", how="left").drop(columns="above"))
    return pd.concat(tables, ignore_index=True)


def _steer_features(inside: "Inside", site: str, features: pd.DataFrame) -> pd.DataFrame:
    """How the answers change when features, or random directions, are added at a site."""
    trained, rows = inside.dictionary(site), inside.scored[: inside.sizes["steered"]]
    vectors = inside.slot_vectors(site)[inside.calibration]
    random = dictionary.draw_directions(trained, vectors, inside.sizes["directions"])
    embeddings, words = inside.audio_embeddings(rows), inside.words(rows)
    untouched, batch = option_scores(inside, inside.last), inside.sizes["batch"]
    calibration = inside.calibrate(untouched, inside.last)
    clips, tokenizer = inside.pick(rows), inside.llm.backbone.tokenizer

    first = [task.name for task in inside.first_tasks]

    def choose(scores: scoring.Scores) -> pd.DataFrame:
        judged = scoring.judge_scores(tokenizer, inside.tasks, clips, scores, calibration)
        judged = judged[judged["task"].isin(first)]
        return judged.set_index(["attribute", "clip"])[["chosen", "speaker"]]

    def steer(direction: Tensor) -> pd.DataFrame:
        more, asked = interventions.add(direction * trained.spread), (inside.llm, inside.tasks)
        if site == "audio embeddings":
            return choose(scoring.score_options(*asked, more(embeddings), batch, words))
        layer = int(site.split()[1])
        return choose(dictionary.score_edited(*asked, embeddings, layer, more, words, batch))

    before, drawn = choose([score[rows] for score in untouched]), [steer(one) for one in random]
    table = []
    for row in features.itertuples():
        base = before.loc[[row.attribute]]
        base = base[np.array(inside.values(row.attribute, rows)) != row.value]
        steered = [steer(trained.decoder[row.feature]), *drawn]
        chosen = [after["chosen"].loc[base.index] == row.value for after in steered]
        change, *by_chance = (one * 1.0 - (base["chosen"] == row.value) for one in chosen)
        own = base.assign(change=change, feature=row.feature)
        (found,) = interval_table(own, "change", ["feature"], "change").to_dict("records")
        means = np.array([one.mean() for one in by_chance])
        low, high = null_ends(means)
        found |= {"random": means.mean(), "random_low": low, "random_high": high}
        table.append(found | {"p": rank_p(found["change"], means)})
    return pd.DataFrame(table)


def knock_out_heads(inside: "Inside") -> pd.DataFrame:
    """Accuracy without the heads that look at the audio most as the answer begins.

    As in arXiv 2603.06854 they are found by their attention, on the clips that calibrate. What a
    clip makes of them is taken away at every token behind it (`interventions.mean_heads`). Beside
    them `random heads`, drawn again and again, with their range. `knocked` is the number of
    heads; `p` of a fall (all numbers together) is the rank among the draws.
    """
    rows, calibration = inside.scored, inside.calibration[: inside.sizes["calibrating"]]
    rows = rows[:: max(1, len(rows) // inside.sizes["steered"])]
    embeddings, words = inside.audio_embeddings(calibration), inside.words(calibration)
    looks = [
        attention.answer_attention(inside.llm, task, embeddings, transcripts=words).weights
        for task in inside.tasks
    ]
    share = torch.stack(looks).sum(-1).mean((0, 1))
    heads = [(int(i), int(j)) for i, j in np.ndindex(*share.shape)]
    ranked = sorted(heads, key=lambda head: -float(share[head]))
    means = interventions.mean_heads(inside.llm, inside.tasks, embeddings, words)
    counts = sorted({round(part * len(heads)) or 1 for part in inside.sizes["knocked"]})
    both = inside.audio_embeddings([*rows, *calibration])

    def judge(silent: Sequence[tuple[int, int]]) -> pd.DataFrame:
        with apply_edits(inside.llm, interventions.knock_out(silent, means)):
            return _with_all(_judge_rows(inside, rows, calibration, both))

    rng, untouched = np.random.default_rng(0), judge([])
    drawn = [rng.permutation(len(heads)) for _ in range(inside.sizes["directions"])]
    orders = [ranked, *([heads[i] for i in order] for order in drawn)]
    listening, *random = (
        {0: untouched, **{n: judge(order[:n]) for n in counts}}
        for order in report_each(orders, inside.progress("heads"))
    )
    kinds = {"listening heads": [listening], "random heads": random}
    return _beside_draws(kinds, untouched, "knocked", falls=True)


def add_audio_direction(inside: "Inside") -> pd.DataFrame:
    """Uncalibrated accuracy when what the audio does at the last layer is made larger.

    To the last layer's state where the answer begins, its difference from the state after silence
    is added `factor` times (arXiv 2603.06854). Beside it: another speaker's difference; `random
    directions` of the same length, with their range; and `calibrated` answers, untouched.
    The options' first tokens are read. `best` marks the factor that is best on the clips that
    calibrate; `p` of a gain is the rank among the draws.
    """
    states, own = _last_states(inside)
    partner = torch.tensor(conditions.shuffled_partners(inside.clips))
    dice, factors = torch.Generator().manual_seed(0), inside.sizes["factors"]

    def judge(added: Sequence[Tensor], factor: float | int, rows: Sequence[int]) -> pd.DataFrame:
        moved = [state + factor * more for state, more in zip(states, added, strict=True)]
        return _judge_states(inside, moved, rows)

    def turn_random() -> list[Tensor]:
        one = torch.randn(states[0].shape[1], generator=dice)
        return [more.norm(dim=1, keepdim=True) * one / one.norm() for more in own]

    untouched = judge(own, 0, inside.scored)
    added = {"audio minus silence": [own], "another clip's": [[more[partner] for more in own]]}
    added["random directions"] = [turn_random() for _ in range(inside.sizes["directions"])]
    kinds = {
        kind: [{f: judge(one, f, inside.scored) for f in (0, *factors)} for one in several]
        for kind, several in added.items()
    }
    kinds["calibrated"] = [{0: _judge_states(inside, states, inside.scored, inside.calibration)}]
    known = [judge(own, factor, inside.calibration)["correct"].mean() for factor in factors]
    best = factors[int(np.argmax(known))]
    table = _beside_draws(kinds, untouched, "factor")
    return table.assign(best=table["factor"] == best)


def _last_states(inside: "Inside") -> tuple[list[Tensor], list[Tensor]]:
    """Of every task, the last layer's states where the answer begins, and less those of silence."""
    llm, batch, every = inside.llm, inside.sizes["batch"], range(len(inside.clips))
    silent = llm.encoder.encode([np.zeros(round(llm.encoder.seconds * audio.RATE), np.float32)])
    sizes = [len(every[i : i + batch]) for i in every[::batch]] if inside.transcripts else [1]
    batches = [silent.float().expand(-1, size, -1, -1) for size in sizes]
    quiet = probe_sites.capture_sites(llm, inside.tasks, batches, inside.transcripts)
    last, layer = inside.sites(inside.last), len(llm.backbone.model.get_decoder().layers) - 1
    names = [f"answer {layer}: {task.name}" for task in inside.tasks]
    states = [last[name].float() for name in names]
    return states, [s - quiet[name].float() for s, name in zip(states, names, strict=True)]


def _judge_states(
    inside: "Inside",
    states: Sequence[Tensor],
    rows: Sequence[int],
    calibration: Sequence[int] | None = None,
) -> pd.DataFrame:
    """Which answers are right, as the last layer's states of every task have them."""
    tables = []
    for task, state in zip(inside.tasks, states, strict=True):
        logits, values = lens.option_logits(inside.llm, task, state), list(task.options)
        if calibration is not None:
            known = inside.values(task.attribute, calibration)
            logits = logits - scoring.balanced_mean(logits[list(calibration)], known)
        right = [values.index(value) for value in inside.values(task.attribute, rows)]
        correct = logits[list(rows)].argmax(1).numpy() == right
        cell = {"asked": task.attribute, "speaker": [inside.speakers[row] for row in rows]}
        tables.append(pd.DataFrame({**cell, "correct": correct * 1.0, "chance": task.chance}))
    return _with_all(pd.concat(tables))


def _beside_draws(
    kinds: dict[str, list[dict[Any, pd.DataFrame]]],
    untouched: pd.DataFrame,
    along: str,
    falls: bool = False,
) -> pd.DataFrame:
    """`_compare`, and `p` of the first kind: its rank among the draws of a random one."""
    table = _compare(kinds, untouched, along).assign(p=np.nan)
    draws, sign = table.dropna(subset="draws").set_index(["asked", along])["draws"], 1 - 2 * falls
    first = table["kind"] == next(iter(kinds))
    for row in table[first & (table[along] != 0)].itertuples():
        by_chance = sign * np.array(draws[row.asked, getattr(row, along)])
        table.loc[row.Index, "p"] = rank_p(sign * row.change, by_chance)
    return table.drop(columns="draws")


def _with_all(judged: pd.DataFrame) -> pd.DataFrame:
    """The answers about every attribute, and once more as those about `all` together."""
    whole = judged.assign(asked="all", chance=judged["chance"].mean())
    return pd.concat([judged, whole], ignore_index=True)
