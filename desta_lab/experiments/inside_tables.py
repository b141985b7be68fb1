"""The tables of the analysis, in the order in which they are asked, and their sizes."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pandas as pd

from desta_lab.analysis import attribution, dictionary, probes
from desta_lab.experiments import attribution_tables as attributions
from desta_lab.experiments import intervention_tables as interventions
from desta_lab.experiments import representation_tables as representations

if TYPE_CHECKING:
    from desta_lab.experiments.inside import Inside

BATCH = 16  # clips in one forward
SIZES = {  # always in the key of a table
    "traced": 64,  # clips whose profiles are compared with the evidence
    "explained": 16,  # of these, explained by window in several orders, and head by head
    "checked": 8,  # of these, explained again under other weights
    "orders": 3,  # of Shapley sampling
    "pairs": 48,  # of clips, one patched into the other
    "random orders": 20,  # in which a clip's windows are taken away
    "words": 64,  # clips whose audio embeddings are looked up in the vocabulary
    "calibrating": 32,  # clips that calibrate where attributes are erased
    "random": 20,  # random directions that are erased for each number of values
    "heads": 500,  # random heads over the query tokens
}
OTHER_SIZES = {  # in the key where they differ from these; `batch` and `checkpoints` never are
    "curve": (16, 32, 64, 128, 216),  # clips that a probe is fitted to
    "similar": 4,  # sites of each family that are compared
    "points": 5,  # of a deletion curve, both ends among them
    "window": attribution.WINDOW,  # seconds that are taken away
    "draws": probes.DRAWS,  # of random labels
    "features": dictionary.FEATURES,  # of a sparse autoencoder
    "active": dictionary.ACTIVE,  # of these in each vector
    "training": dictionary.STEPS,  # of a sparse autoencoder
    "steered": 32,  # clips whose answers are steered, and with heads knocked out
    "knocked": (1 / 8, 1 / 4),  # shares of the heads that are knocked out together
    "factors": (0.25, 0.5, 1, 2, 4),  # of the audio direction
    "directions": 20,  # at random, beside each that is not; fewer never make p < .05
    "checkpoints": 8,  # that are looked into, the first and the last among them
    "batch": BATCH,
}
MAP_SEEDS = (0, 1)  # of UMAP

# table → what tells its rows apart, of those that can be pooled over training seeds
ROWS = {
    "probes": ("step", "site", "attribute", "kind"),
    "answers": ("step", "attribute"),
    "learning_curves": ("site", "attribute", "clips"),
    "similar_sites": ("a", "b"),
    "similar_steps": ("a", "b"),
    "gap": ("step", "measure"),
    "evidence": ("method", "attribute", "null", "measure"),
    "heads": ("layer", "head"),
    "deletion": ("curve", "order", "share"),
    "randomisation": ("method", "measure"),
    "lens": ("attribute", "layer", "condition"),
    "patching": ("attribute", "query"),
    "erasure": ("erased", "asked", "kind"),
    "sparse_features": ("site", "attribute"),
    "listening_heads": ("asked", "kind", "knocked"),
    "audio_direction": ("asked", "kind", "factor"),
}

TABLES: dict[str, Callable[["Inside"], pd.DataFrame]] = {
    "probes": representations.measure_probes,
    "answers": representations.score_answers,
    "learning_curves": representations.measure_learning_curves,
    "similar_sites": representations.compare_sites,
    "similar_steps": representations.compare_checkpoints,
    "points": representations.map_embeddings,
    "purity": representations.measure_purity,
    "gap": representations.measure_gap,
    "words": representations.find_nearest_words,
    "profiles": attributions.profile_answers,
    "evidence": attributions.score_evidence,
    "heads": attributions.score_heads,
    "deletion": attributions.delete_windows,
    "randomisation": attributions.randomise_weights,
    "lens": interventions.read_layers,
    "patching": interventions.patch_clips,
    "erasure": interventions.erase_attributes,
    "sparse_features": interventions.find_features,
    "listening_heads": interventions.knock_out_heads,
    "audio_direction": interventions.add_audio_direction,
}


NEEDS = {  # what a table cannot do without
    "evidence": ("spans", "where in each clip the label is heard, in a part of it; give spans=[…]"),
    "similar_steps": ("checkpoints", "two steps of training; give the folder of a run"),
}


def summarise_tables(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Accuracy per attribute: of probes before and behind the connector, and of the answers."""
    probed = tables["probes"].query("kind == 'probe'")
    last = probed["step"].max()
    rows = []
    for attribute, measured in probed.groupby("attribute"):
        accuracy = measured.set_index(["site", "step"])["accuracy"]
        encoder = measured[measured["site"].str.startswith("encoder")]["accuracy"]
        embeddings = accuracy["audio embeddings"]
        answers = tables["answers"].query("attribute == @attribute").set_index("step")["accuracy"]
        row = {
            "attribute": attribute,
            "chance": measured["chance"].iloc[0],
            "log-mel": accuracy["log-mel"].iloc[0],
            "best encoder layer": encoder.max(),
        }
        for name, values in (("embeddings", embeddings), ("answers", answers)):
            if last > 0 and 0 in values.index:
                row[f"{name}, untrained"] = values[0]
            row[name] = values[last]
        rows.append(row)
    return pd.DataFrame(rows).round(2)
