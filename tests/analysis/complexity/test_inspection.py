"""What the page on a source is made of: acceptance, lags, ranks, rare contexts, examples, intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from nca_interp.analysis.complexity import inspection, inspection_nca
from nca_interp.analysis.verdicts.statistics import cluster_interval, t_interval
from nca_interp.base import UserError
from nca_interp.data.complexity.measures import conditional_entropy
from nca_interp.data.controls.repeat import RepeatSpec
from nca_interp.data.nca import predictors
from nca_interp.data.nca.rows import judge
from nca_interp.data.sample import draw, of_tokens
from nca_interp.data.specs import DyckSpec, NcaSpec, TextSpec, TokenizerSpec
from nca_interp.data.tokens import TokenFile, write_tokens
from nca_interp.report.pages.inspection import RARE

SMALL = NcaSpec(grid=6, n_states=3, band=(0.2, 0.6), score_frames=6)


@pytest.fixture(scope="module")
def small() -> inspection.Tables:
    return inspection.inspect(draw(SMALL, n=40, length=110), threads=1)


def test_cluster_interval_counts_groups_not_values():
    values = np.random.default_rng(0).normal(size=20)
    assert cluster_interval(values, [str(i) for i in range(20)]) == pytest.approx(t_interval(values))
    twice = cluster_interval(np.repeat(values, 2), [str(i // 2) for i in range(40)])
    assert twice == pytest.approx(t_interval(values))
    assert np.isnan(cluster_interval(values, ["one"] * 20).low)


def test_cluster_interval_covers():
    """95 % intervals of clustered values hold the truth in about 95 % of draws; taken as independent they do not."""
    rng, groups = np.random.default_rng(1), np.repeat(np.arange(15), 8)
    held = naive = 0
    for _ in range(400):
        values = np.repeat(rng.normal(size=15), 8) + 0.3 * rng.normal(size=120)
        held += (i := cluster_interval(values, [str(g) for g in groups])).low < 0 < i.high
        naive += (i := t_interval(values)).low < 0 < i.high
    assert 0.91 < held / 400 < 0.98
    assert naive / 400 < 0.75


def test_bands_are_shares_of_random_rules(small):
    bands, candidates = small.frames["bands"], small.frames["candidates"]
    usual, asked = bands[~bands.asked], bands[bands.asked]
    assert usual.inside.sum() == len(candidates) == inspection_nca.CANDIDATES
    assert ((usual.low <= usual.share) & (usual.share <= usual.high)).all()
    assert list(asked.inside) == [candidates.accepted.sum()]
    scores = judge(SMALL.model_copy(update={"band": (0.0, 10.0)}), 0, "inspect", 0, 64).scores
    assert list(candidates.gzip_ratio[:64]) == list(scores)
    assert list(candidates.accepted[:64]) == [0.2 <= s < 0.6 for s in scores]


def test_filters_count_as_asked():
    spec = SMALL.model_copy(update={"where": {"activity": (0.1, 0.5)}})
    candidates, bands = inspection_nca.bands(spec, 0, 1)
    inside = candidates.gzip_ratio.between(0.2, 0.6, inclusive="left")
    assert 0 < candidates.accepted.sum() < inside.sum()
    assert not candidates.accepted[~inside].any()
    assert bands[bands.asked].inside.item() == candidates.accepted.sum()
    assert inspection_nca.unfiltered(spec) == NcaSpec(grid=6, n_states=3, band=None, score_frames=6)
    assert not inspection_nca.bands(inspection_nca.unfiltered(spec), 0, 1)[1].asked.any()


@pytest.mark.parametrize(("grid", "patch"), [(12, 2), (6, 1)])
def test_named_lags_are_what_they_say(grid, patch):
    """Against positions of patches in a row: frame t, row r, column c stands at t * tokens_per_frame + 1 + side * r + c."""
    spec = NcaSpec(grid=grid, patch=patch, n_states=3)
    side, frame = grid // patch, spec.tokens_per_frame
    steps = {
        "patch to the left": (0, 0, -1),
        "row above": (0, -1, 0),
        "patch below, frame before": (-1, 1, 0),
        "patch above, frame before": (-1, -1, 0),
        "right, frame before": (-1, 0, 1),
        "left, frame before": (-1, 0, -1),
        "same patch, 1 frame before": (-1, 0, 0),
        "same patch, 2 frames before": (-2, 0, 0),
        "same patch, 3 frames before": (-3, 0, 0),
    }
    found = {name: lag for lag, name in inspection_nca.named_lags(spec).items()}
    assert found == {name: -(t * frame + side * r + c) for name, (t, r, c) in steps.items()}
    assert inspection_nca.named_lags(DyckSpec()) == {}


def test_ranks_of_a_planted_power_law():
    counts = np.rint(1e5 / np.arange(1, 401)).astype(int)
    table = inspection.ranks(np.repeat(np.arange(400), counts)[None])
    assert table["rank"].iloc[[0, -1]].tolist() == [1, 400]
    assert table["count"].iloc[0] == 100_000
    assert table.fitted.to_numpy() == pytest.approx(table.share.to_numpy(), rel=0.02)


def test_blocks_seen_once_tell_the_size_of_the_sample():
    """iid tokens of 5,000 kinds: far below their entropy and caught; of 4 kinds: right and not."""
    rng = np.random.default_rng(0)
    for kinds, caught in ((5000, True), (4, False)):
        rows = rng.integers(0, kinds, (64, 512))
        found = inspection.sample_size(rows)
        assert set(found) == set(inspection.CONDITIONED)
        for name, before in inspection.CONDITIONED.items():
            value = conditional_entropy(rows, before)
            assert (found[name]["once"] > RARE) == caught
            assert (value < 0.7 * np.log(kinds)) == caught
            assert found[name]["unigram"] == pytest.approx(np.log(kinds), rel=0.01)
            assert found[name]["shuffled"] == pytest.approx(value, rel=0.02, abs=0.01)
    assert inspection.sample_size(np.array([[1, 1, 1, 2, 3]]))["conditional_entropy"]["once"] == 2 / 4  # 11 11 12 23
    ordered = np.tile(np.arange(8), (4, 16))
    found = inspection.sample_size(ordered)["conditional_entropy"]
    assert conditional_entropy(ordered) < 0.1 < found["shuffled"] - 1
    assert inspection.sample_size(np.zeros((3, 1), int)) == {}


def test_examples_lie_at_the_quantiles(small):
    measured = small.frames["measures"]
    axis = (
        measured[(measured.measure == inspection.AXIS) & (measured["sample"] == "drawn")].value.sort_values().to_numpy()
    )
    assert [e["level"] for e in small.record["examples"]] == ["low", "middle", "high"]
    for example, (_, q) in zip(small.record["examples"], inspection.EXAMPLES, strict=True):
        assert example["measures"][inspection.AXIS] == axis[round(q * (len(axis) - 1))]
        frames = draw(SMALL, n=40, length=110).frames[example["row"]]
        assert np.array_equal(example["frames"], frames)


def test_predictor_table_is_the_mean_over_rules(small):
    sample = draw(SMALL, n=40, length=110)
    rows = small.frames["predictors"].set_index(["predictor", "frame", "quantity"])
    lookup = predictors.counting(SMALL, sample.frames)["lookup"]
    known = predictors.oracle(SMALL, sample.frames, sample.keys)
    for frame in range(1, sample.frames.shape[1]):
        interval = t_interval(lookup.cell_accuracy[:, frame])
        assert tuple(rows.loc[("lookup", frame, "cell_accuracy")][["value", "low", "high"]]) == pytest.approx(interval)
        assert rows.loc[("oracle", frame, "cell_nats")].value == pytest.approx(known.cell_nats[:, frame].mean())
    assert small.record["oracle"] == ""


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"control": "shuffle_frames"}, "The oracle is left out: the control shuffle_frames"),
        ({"control": "unigram"}, "The oracle is left out: the control unigram"),
        ({"dt": 3}, "guesses from 32 simulated futures, here on 12 rows"),
        ({"dt": 3, "tau": 0.0}, "the oracle simulates"),
        ({"dt": 1000, "grid": 12}, "too long to simulate"),
    ],
)
def test_where_the_oracle_is_another(changes, told):
    sample = draw(NcaSpec(grid=6, n_states=3, band=None).model_copy(update=changes), n=12, length=114)
    table, sentence = inspection_nca.predictors(sample)
    assert told in sentence
    assert ("oracle" in set(table.predictor)) == ("left out" not in sentence)


def test_summary_says_what_is_missing_and_how_sure_the_rest_is(small):
    rows = small.frames["summary"].set_index("measure")
    assert rows.loc["mutual_information"].note.startswith("needs at least 256 tokens")
    assert np.isnan(rows.loc["mutual_information"].value)
    for name in ("gzip_ratio", "activity", "unigram_entropy", "conditional_entropy"):
        row = rows.loc[name]
        assert row.low < row.value < row.high
        assert row.n == row.groups == 40
    assert rows.loc["recurs"].low < rows.loc["recurs"].high  # a share of 0 or 1 is not certain


def test_unfiltered_rules_stand_beside(small):
    measured = small.frames["measures"]
    assert set(measured["sample"]) == {"drawn", "unfiltered"}
    both = measured[measured.measure == "activity"].groupby("sample").value
    assert (both.count() == 40).all()
    free = inspection.inspect(draw(inspection_nca.unfiltered(SMALL), n=10, length=60), threads=1).frames["measures"]
    assert set(free["sample"]) == {"drawn"}


def test_documents_known_by_their_text_only_get_short_names(tmp_path):
    (tmp_path / "a.txt").write_text("\n\n".join(f"paragraph {i} " + "word " * 900 for i in range(40)))
    found = inspection.inspect(draw(TextSpec(source=f"files:{tmp_path}/a.txt"), n=8, length=128))
    assert found.frames["measures"].group.dropna().map(len).max() <= 13
    example = found.record["examples"][0]
    assert "paragraph" in "".join(example["pieces"]) or "word" in "".join(example["pieces"])
    assert all(b >= 0 for b in example["bits"])


def test_a_foreign_folder_is_left_alone(tmp_path, small):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="not empty and no inspection"):
        small.write(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    small.write(tmp_path / "new")
    small.write(tmp_path / "new")  # its own kind is replaced
    assert len(pd.read_csv(tmp_path / "new" / "tables" / "measures.csv")) == len(small.frames["measures"])


def test_sizes_that_leave_nothing():
    for n, length, message in (
        (0, 100, "--n: 0; legal: 1 or more"),
        (1, 20, r"--length: 20; legal: 22 or more \(two frames of 11 tokens\)"),
    ):
        with pytest.raises(UserError, match=message):
            inspection.check_sizes(SMALL, n, length)


def test_a_token_directory_shows_its_own_rows(tmp_path):
    write_tokens(tmp_path / "nca", SMALL, n_train=9, n_val=2, seq_len=80, seed=3)
    sample = inspection.stored(tmp_path / "nca", 6)
    file = TokenFile.open(tmp_path / "nca")
    assert np.array_equal(sample.tokens, file.train[:6, :80])
    found = inspection.inspect(sample, asked=6, threads=1)
    assert (found.record["seed"], found.record["split"], found.record["unit"]) == (3, "train", "rule")
    oracle = found.frames["predictors"].query("predictor == 'oracle' and quantity == 'cell_accuracy'").value
    assert oracle.min() > 0.9  # the recorded rules are those of the rows

    (tmp_path / "a.txt").write_text("\n\n".join(f"paragraph {i} " + "some word " * 500 for i in range(60)))
    spec = TextSpec(source=f"files:{tmp_path}/a.txt", tokenizer=TokenizerSpec(vocab_size=280))
    write_tokens(tmp_path / "text", spec, n_train=6, n_val=1, seq_len=64, seed=0)
    found = inspection.inspect(inspection.stored(tmp_path / "text", 6))
    assert found.record["unit"] == "row"
    assert "word" in "".join(found.record["examples"][0]["pieces"])


def test_one_number_for_the_information_of_neighbours():
    found = inspection.inspect(draw(DyckSpec(k=3), n=150, length=256))
    row = found.frames["summary"].set_index("measure").loc["mutual_information_1"]
    first = found.frames["information"].iloc[0]
    assert (first.n, first.lag) == (row.n, 1) == (150, 1)
    assert tuple(first[["value", "low", "high"]]) == pytest.approx((row.value, row.low, row.high))


def test_brackets_of_a_row_that_is_known():
    """( ( ) ( [ ] ) ) and a row of pairs, by hand."""
    spec = DyckSpec(k=2, max_depth=4)
    rows = np.array([[0, 0, 2, 0, 1, 3, 2, 2], [0, 2, 1, 3, 0, 2, 1, 3]])
    depth, distance, shares = inspection.brackets(rows, spec)
    assert depth["count"].tolist() == [5, 7, 3, 1, 0]
    assert distance[["low", "high", "count"]].to_numpy().tolist() == [[1, 1, 6], [2, 3, 1], [4, 7, 1]]
    assert (depth.share.sum(), distance.share.sum()) == pytest.approx((1, 1))
    assert shares["unclosed"]["value"] == shares["forced_by_depth"]["value"] == 0
    assert shares["forced_by_end"]["value"] == pytest.approx((3 / 4 + 1 / 4) / 2)


def test_a_control_is_shown_with_its_ideal_losses():
    """Random until the period has passed, free from there; the choices of a row are those of its first period."""
    found = inspection.inspect(draw(RepeatSpec(n_symbols=16, period=(5, 10)), n=40, length=60))
    assert found.record["unit"] == "row"
    ideals = found.frames["ideals"]
    assert set(ideals.predictor) == {"bayes", "informed", "bigram", "unigram"}
    informed = ideals[ideals.predictor == "informed"]
    assert informed[informed["last"] < 5].value.to_numpy() == pytest.approx(np.log(16))
    assert (informed[informed["first"] >= 10].value == 0).all()
    assert found.record["ideal_nats"]["informed"] < found.record["ideal_nats"]["bayes"]
    for example in found.record["examples"]:
        period = int((np.array(example["bits"]) > 0).sum())
        assert 5 <= period <= 10
        assert example["tokens"][period:] == example["tokens"][:-period]
    with pytest.raises(UserError, match=r"repeat.period: \[8, 64\] is longer than the row of 30 tokens"):
        inspection.check_sizes(RepeatSpec(), 4, 30)


@pytest.mark.parametrize("ending", ["balanced", "truncate"])
def test_brackets_are_shown_with_their_ideal_losses(tmp_path, ending):
    """What closes is known where brackets nest, and costs a choice where they are shuffled; rows of a token file end a token later."""
    pays = {}
    for variant in ("nested", "shuffle"):
        spec = DyckSpec(k=8, max_depth=4, variant=variant, ending=ending)
        found = inspection.inspect(draw(spec, n=40, length=60))
        assert set(found.frames["ideals"].predictor) == {"bayes", "bigram", "unigram"}
        pays[variant] = found.record["ideal_nats"]
        assert pays[variant]["bayes"] < min(pays[variant]["bigram"], pays[variant]["unigram"])
        write_tokens(tmp_path / variant, spec, n_train=4, n_val=40, seq_len=61, seed=0)
        stored = inspection.ideals(of_tokens(TokenFile.open(tmp_path / variant)))[1]
        assert stored["bayes"] == pytest.approx(pays[variant]["bayes"], rel=0.1)
    assert pays["nested"]["bayes"] < pays["shuffle"]["bayes"]
