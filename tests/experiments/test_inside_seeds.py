"""Several training seeds: tables are pooled row by row, and every figure says what it is over."""

from types import SimpleNamespace

import pandas as pd
import pytest

from desta_lab.analysis import geometry
from desta_lab.evaluation.statistics import SeedsError, mean_interval, pool_seeds
from desta_lab.experiments.inside import Inside
from desta_lab.experiments.inside_figures import state_features, state_listening
from desta_lab.experiments.inside_inputs import InsideError
from desta_lab.experiments.inside_seeds import look_over_seeds
from desta_lab.experiments.inside_tables import ROWS, TABLES
from tests import tiny
from tests.experiments.test_inside_own import SPANS, look_into

BY = ("asked", "kind")


def table_of(seed: int) -> pd.DataFrame:
    """Changes as of one training seed: of an erased attribute, and of random directions."""
    rows = []
    for asked, own in (("scene", -0.5), ("gender", -0.1)):
        for kind, change in (("erased", own - 0.1 * seed), ("random direction", -0.02 * seed)):
            row = {"asked": asked, "kind": kind, "accuracy": 0.9 + change, "low": 0.1}
            row |= {"high": 0.95, "change": change, "change_low": change - 0.05}
            row |= {"change_high": 0.01 * seed, "p": 0.01 * (seed + 1), "value": f"v{seed // 2}"}
            rows.append(row)
    return pd.DataFrame(rows)


def test_a_pooled_row_is_the_mean_of_the_seeds_with_their_t_interval():
    tables = {seed: table_of(seed) for seed in range(3)}
    pooled = pool_seeds(tables, BY)
    assert list(pooled) == list(tables[0])
    assert pooled[list(BY)].equals(tables[0][list(BY)])
    scene = pooled.iloc[0]
    change = mean_interval([-0.5, -0.6, -0.7])
    assert scene[["change", "change_low", "change_high"]].tolist() == pytest.approx(change)
    accuracy = mean_interval([0.4, 0.3, 0.2])
    assert scene[["accuracy", "low", "high"]].tolist() == pytest.approx(accuracy)
    assert scene["p"] == pytest.approx(0.03) and scene["value"] == "v0 / v1"


def test_what_is_random_keeps_the_ends_of_its_draws():
    pooled = pool_seeds({seed: table_of(seed) for seed in range(3)}, BY).iloc[1]
    assert pooled["kind"] == "random direction"
    ends = pooled[["change", "change_low", "change_high"]].tolist()
    assert ends == pytest.approx([-0.02, -0.07, 0.01])


def test_one_seed_gives_the_bytes_that_it_gave_before():
    pooled = pool_seeds({4: table_of(4)}, BY)
    assert pooled.to_csv() == table_of(4).to_csv()


def test_tables_of_other_rows_are_refused():
    less = table_of(1).iloc[:3]
    sentence = "seeds 0 and 1 cannot be pooled: one alone has the row gender, random direction"
    with pytest.raises(SeedsError, match=sentence):
        pool_seeds({0: table_of(0), 1: less}, BY)


@pytest.fixture
def seeds(monkeypatch: pytest.MonkeyPatch, tmp_path):
    """Two training seeds of a tiny model; the second finds what the first one found."""
    monkeypatch.setattr(geometry, "_fit_umap", lambda site, onto, seed: site[:, :2].copy())
    look = look_into(tiny.audio_llm(dropout=0.0), spans=SPANS)
    tables = look.run()
    monkeypatch.setattr(look, "run", lambda save: tables)
    monkeypatch.setattr(Inside, "from_experiment", lambda experiment, kind, out: look)
    return [SimpleNamespace(seed=seed, figures_folder=tmp_path.joinpath) for seed in (0, 5)]


def test_every_table_is_pooled_and_every_figure_has_the_rows_of_each_seed(seeds, tmp_path):
    look, tables = look_over_seeds(iter(seeds))
    assert set(tables) == set(TABLES) - {"similar_steps"} and set(look.refused) == {"similar_steps"}
    out = tmp_path / "inside" / "seeds"
    pictures = {path.stem for path in out.glob("*.png")}
    alone = {"map_pca", "map_umap", "listen_where", "nearest_words"}
    assert alone < pictures and len(pictures) == 17
    for name in pictures:
        drawn = pd.read_csv(out / f"{name}.csv", low_memory=False)
        note = (out / f"{name}.json").read_text(encoding="utf-8")
        if name in alone:
            assert "seed" not in drawn or "map" in name
        else:
            assert list(dict.fromkeys(drawn["seed"].astype(str))) == ["0", "5", "mean"]
            assert len(set(drawn["seed"].value_counts())) == 1 and '"seeds": [' in note
    for name in set(ROWS) & set(tables):
        rows = list(ROWS[name])
        assert not tables[name].duplicated(rows).any()
    assert "direction in every seed" in state_features(tables["sparse_features"], 2)
    both = tables["listening_heads"], tables["audio_direction"]
    assert "in every seed more than without random ones" in state_listening(*both, 2)


def test_without_an_experiment_there_is_nothing_to_pool():
    with pytest.raises(InsideError, match="no experiment"):
        look_over_seeds([])
