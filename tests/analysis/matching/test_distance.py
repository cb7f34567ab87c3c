"""Footing, distance, bootstrap and verdicts of `match`, on hand-made rows and grids."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nca_interp.analysis.complexity.calibration import (
    COORDINATES,
    LENGTHS,
    NAMES,
    Rows,
    column_means,
    in_use,
    matched,
    vectors,
)
from nca_interp.analysis.matching.distance import MIN_GROUPS, Source, check, distances, redrawn_cells, resampled_means
from nca_interp.analysis.matching.grid import ROWS, Cell, Grid, default_bands, make_cells
from nca_interp.analysis.matching.matching import failures, match
from nca_interp.analysis.matching.run import cautions
from nca_interp.base import UserError
from nca_interp.data.sample import Sample
from nca_interp.data.specs import DyckSpec, NcaSpec

LENGTH = LENGTHS["symbols"]
SPEC = DyckSpec(k=4)
ENDS = [i for i, c in enumerate(COORDINATES) if c.name in ("gzip", "lempel_ziv", "conditional_entropy", "entropy")]


def rows(symbols, alphabet, groups=None):
    sample = Sample(SPEC, alphabet, symbols, [], None, None, None, "made by hand")
    return Rows(np.asarray(symbols, np.int64), alphabet, groups or [str(i) for i in range(len(symbols))], sample)


def hand_made_grid(points, spread=0.1, footing="symbols"):
    """Cells with given means [cells, coordinates]; unit reference spread."""
    points = np.asarray(points, float)
    bands = [band for _, band in default_bands(NcaSpec(n_states=4))]
    names = [level for level, _ in default_bands(NcaSpec(n_states=4))]
    cells = [Cell(NcaSpec(n_states=4, band=bands[i % 5], dt=1 + i // 5), names[i % 5]) for i in range(len(points))]
    cov = np.repeat(spread**2 * np.eye(len(NAMES))[None], len(points), axis=0)
    return Grid(footing, cells, points, cov, np.full(len(points), 0.1), np.eye(len(NAMES)), [])


def source(grid, centre, n=64, noise=0.05, seed=0, groups=None):
    values = np.asarray(centre) + noise * np.random.default_rng(seed).standard_normal((n, len(NAMES)))
    return Source(rows(np.zeros((n, 8), int), 4, groups or [str(i) for i in range(n)]), values, grid)


@pytest.mark.parametrize("alphabet", [2, 4, 26, 90])
def test_iid_uniform_rows_are_one_and_constant_rows_are_zero(alphabet):
    uniform = np.random.default_rng(1).integers(0, alphabet, (6, LENGTH))
    top, bottom = vectors(rows(uniform, alphabet)), vectors(rows(np.zeros((2, LENGTH), int), alphabet))
    np.testing.assert_allclose(top[:, ENDS], 1, atol=0.02)
    np.testing.assert_allclose(bottom[:, ENDS], 0, atol=1e-9)
    assert np.isnan(bottom[:, NAMES.index("zipf_slope")]).all()


def test_conditional_entropy_does_not_exist_for_an_alphabet_that_the_row_cannot_show():
    symbols = np.random.default_rng(0).integers(0, 5000, (2, 1024))
    found = vectors(rows(symbols, 5000))
    assert np.isnan(found[:, NAMES.index("conditional_entropy")]).all()
    assert not np.isnan(found[:, NAMES.index("gzip")]).any()


@pytest.mark.parametrize("stay", [0.3, 0.7])
def test_lempel_ziv_and_conditional_entropy_measure_a_known_rate_that_the_order_blind_entropy_misses(stay):
    rng, k = np.random.default_rng(2), 8
    fresh, keep = rng.integers(0, k, (8, LENGTH)), rng.random((8, LENGTH)) < stay
    last = np.maximum.accumulate(np.where(keep, 0, np.arange(LENGTH)), axis=1)
    found = column_means(vectors(rows(np.take_along_axis(fresh, last, axis=1), k)))
    same, other = stay + (1 - stay) / k, (1 - stay) / k
    rate = -(same * np.log(same) + (k - 1) * other * np.log(other)) / np.log(k)
    assert found[NAMES.index("conditional_entropy")] == pytest.approx(rate, abs=0.01)
    assert found[NAMES.index("lempel_ziv")] == pytest.approx(rate, abs=0.06)
    assert found[NAMES.index("entropy")] > 0.98


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30))
def test_alphabet_in_use_is_the_fewest_kinds_that_hold_the_share(counts):
    counts = np.array([1, *counts])
    total = counts.sum()
    kept = [k for k in range(1, len(counts) + 1) if np.sort(counts)[::-1][:k].sum() >= 0.999 * total]
    assert in_use(counts) == max(2, kept[0])


def test_a_stray_symbol_does_not_change_the_alphabet():
    assert in_use(np.array([5000, 5000, 3])) == 2
    assert in_use(np.full(10, 7)) == 10


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_only_gzip_depends_on_how_symbols_are_numbered(seed):
    rng = np.random.default_rng(seed)
    symbols = rng.integers(0, 6, (2, 256)) * rng.integers(0, 2, (2, 256))
    renamed = rng.permutation(6)[symbols]
    found, again = vectors(rows(symbols, 6)), vectors(rows(renamed, 6))
    np.testing.assert_allclose(found[:, 1:], again[:, 1:], atol=1e-12)


def test_distances_by_brute_force():
    rng = np.random.default_rng(3)
    grid = hand_made_grid(rng.random((7, len(NAMES))))
    a = rng.standard_normal((len(NAMES), len(NAMES)))
    grid = grid._replace(reference=a @ a.T + np.eye(len(NAMES)))
    x, columns = rng.random(len(NAMES)), [0, 1, 2]
    sd = np.sqrt(np.diag(grid.reference))
    for i, mean in enumerate(grid.mean):
        z = [(mean[j] - x[j]) / sd[j] for j in columns]
        assert distances(x, grid, columns)[i] == pytest.approx(np.mean(np.abs(z)))
        assert distances(x, grid, columns, "rms")[i] == pytest.approx(np.sqrt(np.mean(np.square(z))))
        gap = (mean - x)[columns]
        far = np.sqrt(gap @ np.linalg.inv(grid.reference[:3, :3]) @ gap / 3)
        assert distances(x, grid, columns, "whitened")[i] == pytest.approx(far)
    many = distances(np.stack([x, x + 1]), grid, columns, cells=np.stack([grid.mean, grid.mean + 1]))
    np.testing.assert_allclose(many[0], many[1])


@pytest.mark.parametrize("apart", [1e-6, 0.0])
def test_whitening_does_not_count_the_same_measure_twice(apart):
    """A coordinate that is a copy of another adds nothing to the whitened distance, and does to the plain one."""
    grid = hand_made_grid([[0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0]])
    reference = np.eye(len(NAMES))
    reference[0, 1] = reference[1, 0] = 1 - apart
    grid = grid._replace(reference=reference)
    x = np.zeros(len(NAMES))
    one = distances(x, grid, [0], "whitened")[1]
    two = distances(x, grid, [0, 1], "whitened")[1]
    assert two * np.sqrt(2) == pytest.approx(one, rel=1e-3)


def test_the_bootstrap_resamples_documents_not_rows():
    """Rows of a document are copies: the standard error is that of 12 documents, not of 120 rows."""
    rng = np.random.default_rng(4)
    per_document = rng.standard_normal((12, len(NAMES)))
    values, groups = np.repeat(per_document, 10, axis=0), [f"d{i}" for i in range(12) for _ in range(10)]
    means = resampled_means(values, groups, 4000, rng)
    np.testing.assert_allclose(means.std(axis=0), per_document.std(axis=0) / np.sqrt(12), rtol=0.08)
    np.testing.assert_allclose(means.mean(axis=0), values.mean(axis=0), atol=0.03)


def test_the_bootstrap_leaves_missing_values_out():
    values = np.ones((20, len(NAMES)))
    values[::2, 3] = np.nan
    means = resampled_means(values, [str(i) for i in range(20)], 200, np.random.default_rng(0))
    np.testing.assert_allclose(means[~np.isnan(means)], 1)


def test_redrawn_cells_have_the_sampling_error_of_their_rows():
    rng = np.random.default_rng(5)
    grid = hand_made_grid(rng.random((3, len(NAMES))))
    a = rng.standard_normal((3, 3))
    grid.cov[1][:3, :3] = a @ a.T
    drawn = redrawn_cells(grid, [0, 1, 2], 20_000, rng)
    np.testing.assert_allclose(drawn.mean(axis=0), grid.mean, atol=0.01)
    np.testing.assert_allclose(np.cov(drawn[:, 1, :3].T) * ROWS, grid.cov[1][:3, :3], rtol=0.1, atol=0.05)
    np.testing.assert_array_equal(drawn[:, :, 3:], np.broadcast_to(grid.mean[:, 3:], drawn[:, :, 3:].shape))


def test_one_strange_measure_does_not_outvote_two():
    grid = hand_made_grid([[0, 0, 0, 0, 0, 0], [0.2, 0.2, 0.4, 0, 0, 0]])
    strange = np.array([0.0, 0.0, 0.35, 0, 0, 0])
    assert distances(strange, grid, [0, 1, 2]).argmin() == 0
    assert distances(strange, grid, [0, 1, 2], "rms").argmin() == 1


def ladder(n=5, step=0.2):
    """Cells in a row along the matched coordinates."""
    points = np.zeros((n, len(NAMES)))
    points[:, matched("symbols")] = step * np.arange(n)[:, None]
    return hand_made_grid(points)


def test_a_corpus_at_a_cell_is_clear():
    grid = ladder()
    found = match("at the third", source(grid, grid.mean[2]), None)
    assert found.nearest is grid.cells[2]
    assert found.resembles
    assert found.tied == [grid.cells[2].name]
    assert [s.verdict for s in found.settings] == ["clear", "not varied", "not varied"]
    assert found.cells.share.iloc[0] > 0.99
    assert found.cells.share.sum() == pytest.approx(1)
    assert list(found.cells["rank"]) == [1, 2, 3, 4, 5]


def test_a_corpus_between_two_cells_is_inconclusive_and_names_both():
    grid = ladder()
    # its own sampling error straddles the middle
    found = match("between", source(grid, grid.mean[1:3].mean(axis=0), noise=0.5, n=20), None)
    assert set(found.tied) >= {grid.cells[1].name, grid.cells[2].name}
    level = found.settings[0]
    assert level.verdict == "inconclusive"
    assert {level.value, *level.others} >= {grid.cells[1].level, grid.cells[2].level}


def test_a_corpus_far_from_every_cell_resembles_none():
    grid = ladder()
    found = match("far", source(grid, np.full(len(NAMES), 3.0)), None)
    assert found.nearest is grid.cells[-1]
    assert not found.resembles
    assert found.distance > found.own_spread


def test_the_other_footing_can_make_a_setting_inconclusive():
    grid = ladder()
    other = grid._replace(footing="tokens")
    agreeing, other_view = source(other, grid.mean[2]), source(other, grid.mean[0])
    assert match("same", source(grid, grid.mean[2]), agreeing).settings[0].verdict == "clear"
    found = match("not the same", source(grid, grid.mean[2]), other_view)
    assert found.settings[0].verdict == "inconclusive"
    assert grid.cells[0].level in found.settings[0].others
    assert [f.condition for f in found.settings[0].failed] == ["footing"]
    said = next(text for text in cautions(found) if "is inconclusive" in text)
    assert f"measured on tokens it is {grid.cells[0].level}" in said
    assert "of the resamples" not in said


VOTES = st.lists(st.sampled_from("ab"), max_size=8)


@given(st.integers(0, 2000), VOTES, st.sampled_from([None, "tokens", "symbols"]), st.sampled_from("ab"))
def test_every_reason_that_is_given_fails_and_every_failed_condition_is_given(won, votes, footing, there):
    """Planted votes: the numbers in each sentence contradict the threshold beside them."""
    told = {f"reading {i}": vote for i, vote in enumerate(votes)} | ({footing: there} if footing else {})
    found = {f.condition: f.words for f in failures("a", won / 2000, told)}
    agree = sum(vote == "a" for vote in told.values())
    assert ("resamples" in found) == (won < 1900)
    assert ("readings" in found) == (3 * agree < 2 * len(told))
    assert ("footing" in found) == (footing is not None and there != "a")
    if "resamples" in found:
        assert float(re.findall(r"[\d.]+", found["resamples"])[0]) < 95
    if "readings" in found:
        assert found["readings"].startswith(f"the choice of {agree} of {len(told)} other ways")
    if "footing" in found:
        assert found["footing"] == f"measured on {footing} it is b"


def test_the_recommendation_has_no_vote():
    grid = ladder()
    found = match("at the third", source(grid, grid.mean[2]), None)
    level = found.settings[0]
    assert (level.readings, level.agree) == (len(found.readings) - 1, len(found.readings) - 1)
    assert found.readings[0].counts == "the recommendation"


@pytest.mark.parametrize(("x", "edge"), [(-0.2, "below"), (0.0, None), (0.9, None), (1.0, "above")])
def test_beyond_the_grid_nothing_but_complexity_is_clear(x, edge):
    """Two steps lie apart in one direction, so the nearest cell wins every resample at either end."""
    points = np.zeros((10, len(NAMES)))
    points[:, matched("symbols")] = 0.1 * np.arange(10)[:, None]
    grid = hand_made_grid(points)
    centre = np.full(len(NAMES), x)
    found = match("x", source(grid, centre), source(grid._replace(footing="tokens"), centre))
    level, _, dt = found.settings
    assert found.edge == edge
    assert (level.verdict, dt.verdict) == ("clear", "clear" if edge is None else "inconclusive")
    assert [f.condition for f in dt.failed] == (["edge"] if edge else [])
    assert any(f"lies {edge} every cell" in text for text in cautions(found)) == (edge is not None)


def test_the_order_of_the_grid_does_not_matter():
    grid = hand_made_grid(np.random.default_rng(6).random((9, len(NAMES))))
    order = np.random.default_rng(7).permutation(9)
    turned = grid._replace(cells=[grid.cells[i] for i in order], mean=grid.mean[order], cov=grid.cov[order])
    a, b = (match("x", source(g, np.full(len(NAMES), 0.5)), None) for g in (grid, turned))
    assert list(a.cells.cell) == list(b.cells.cell)
    np.testing.assert_array_equal(a.cells.distance, b.cells.distance)


def test_every_field_that_the_grid_varies_is_a_setting():
    grid = ladder()
    cells = [c._replace(spec=c.spec.model_copy(update={"tau": 1e-3 * (1 + i % 2)})) for i, c in enumerate(grid.cells)]
    found = match("tau", source(grid._replace(cells=cells), grid.mean[1]), None)
    assert [(s.setting, s.value) for s in found.settings][3:] == [("tau", "0.002")]
    assert found.settings[3].verdict == "clear"


def test_a_measure_that_does_not_exist_is_left_out_and_named():
    grid = ladder()
    main = source(grid, grid.mean[2])
    main.values[:, NAMES.index("conditional_entropy")] = np.nan
    found = match("no H1", main, None)
    assert found.nearest is grid.cells[2]
    row = found.coordinates.set_index("coordinate").loc["conditional_entropy"]
    assert not row.matched
    assert "does not exist" in row.note
    assert any("conditional_entropy" in note for note in found.notes)


def test_too_few_documents_get_one_message():
    few = rows(np.zeros((40, LENGTH), int), 4, ["a", "b"] * 20)
    with pytest.raises(
        UserError, match=rf"gives 40 rows from 2 documents; .*at least {MIN_GROUPS} rows of 4,096 symbols"
    ):
        check(few, "x", "symbols")
    with pytest.raises(UserError, match="gives 1 row from 1 document; .* rows of 1,024 tokens"):
        check(rows(np.zeros((1, 1024), int), 4), "x", "tokens")
    check(rows(np.zeros((MIN_GROUPS, 8), int), 4), "x", "symbols")


def test_default_bands_leave_no_gap_and_no_overlap():
    for n in (2, 4, 10, 15):
        bands = [band for _, band in default_bands(NcaSpec(n_states=n))]
        assert bands[0][0] == 0
        assert [a[1] for a in bands[:-1]] == [b[0] for b in bands[1:]]


def test_grid_axes_replace_and_add():
    cells = make_cells(["n_states=4", "band=0.3:0.4,null", "dt=1", "tau=1e-4,1e-3"])
    assert [(c.spec.band, c.spec.tau) for c in cells] == [
        ((0.3, 0.4), 1e-4),
        ((0.3, 0.4), 1e-3),
        (None, 1e-4),
        (None, 1e-3),
    ]
    assert {c.level for c in cells} == {"band 0.3-0.4", "no band"}
    assert len({c.name for c in cells}) == 4


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        ("n_stats=3", "unknown field 'n_stats'; did you mean 'n_states'"),
        ("n_states", "expected field=value"),
        ("n_states=", "expected field=value"),
        ("band=0.4", "'0.4' is no band; legal: lo:hi"),
        ("band=0.4:0.3", "band"),
        ("n_states=70", "need a vocabulary of"),
        ("n_states=ten", "n_states"),
        ("control=unigram", "unknown field 'control'"),
    ],
)
def test_wrong_axes_name_the_option(axis, message):
    with pytest.raises(UserError, match="--grid") as error:
        make_cells([axis])
    assert message in str(error.value)
