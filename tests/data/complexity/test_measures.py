"""Sequence measures against brute force, closed forms and what must not change them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nca_interp.data.complexity import measures

sequences = st.lists(st.integers(0, 4), min_size=2, max_size=40)


def phrases_by_definition(s: list[int]) -> int:
    """Lempel, Ziv 1976: each phrase is the shortest string that does not occur, overlapping or not, before its last symbol."""
    count, start = 0, 0
    while start < len(s):
        end = start + 1
        while end <= len(s) and any(s[i : i + end - start] == s[start:end] for i in range(start)):
            end += 1
        count, start = count + 1, end
    return count


@settings(max_examples=200, deadline=None)
@given(sequences)
def test_lempel_ziv_is_its_definition(s):
    assert measures.lz76(np.array([s]))[0] == phrases_by_definition(s)


@pytest.mark.parametrize(
    ("s", "phrases"),
    [([0], 1), ([0] * 50, 2), ([0, 1] * 25, 3), ([0, 0, 0, 1, 1, 0, 1, 0, 0, 1, 0, 0, 0, 1, 0, 1], 6)],
)
def test_lempel_ziv_of_known_strings(s, phrases):
    """The last is the worked example of the 1976 paper, 0.001.10.100.1000.101."""
    assert measures.lz76(np.array([s]))[0] == phrases


def test_lempel_ziv_scale_and_rate():
    rng = np.random.default_rng(0)
    for alphabet in (2, 10, 5000):
        iid = rng.integers(0, alphabet, (20, 1024))
        assert measures.lempel_ziv(iid, alphabet).normalised.mean() == pytest.approx(1, abs=0.03)
        assert measures.lempel_ziv(iid * 0 + 3, alphabet).normalised.tolist() == [0] * 20
    coin = (rng.random((4, 20_000)) < 0.11).astype(int)
    rate = -(0.11 * math.log(0.11) + 0.89 * math.log(0.89))
    assert measures.lempel_ziv(coin, 2).rate.mean() == pytest.approx(rate, rel=0.1)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000))
def test_relabelling_tokens_changes_nothing_but_gzip(seed):
    rng = np.random.default_rng(seed)
    rows = rng.choice(30, (3, 300), p=rng.dirichlet(np.ones(30)))
    other = rng.permutation(1000)[:30][rows]
    for measure in (
        measures.lz76,
        measures.row_entropies,
        measures.row_conditional_entropies,
        lambda x: measures.block_entropy(x, 3),
        measures.rank_slope,
        lambda x: measures.mutual_information(x, [1, 7]).value,
    ):
        assert measure(other) == pytest.approx(measure(rows))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 200))
def test_gzip_hardly_sees_the_order_of_independent_tokens(seed, alphabet):
    """The measure of the published filter: permuting a row of independent tokens leaves it where it was."""
    rng = np.random.default_rng(seed)
    rows = rng.choice(alphabet, (4, 1024), p=rng.dirichlet(np.ones(alphabet)))
    plain, shuffled = (measures.gzip_rows(r, alphabet, np.uint16).ratio for r in (rows, rng.permuted(rows, axis=1)))
    assert shuffled == pytest.approx(plain, abs=0.02)


def test_conditional_entropy_of_a_markov_chain():
    """A chain with known entropy rate; a second-order one that one token of context does not explain."""
    rng = np.random.default_rng(0)
    transition = rng.dirichlet(np.ones(5), 5)
    state, rows = rng.integers(0, 5, 200), []
    for _ in range(3000):
        state = (rng.random(200)[:, None] > transition[state].cumsum(axis=1)).sum(axis=1)
        rows.append(state)
    chain = np.stack(rows, axis=1)
    values, vectors = np.linalg.eig(transition.T)
    stationary = np.real(vectors[:, np.argmax(np.real(values))])
    stationary = stationary / stationary.sum()
    rate = -(stationary[:, None] * transition * np.log(transition)).sum()
    assert measures.conditional_entropy(chain) == pytest.approx(rate, abs=2e-3)
    assert measures.conditional_entropy(chain, 2) == pytest.approx(rate, abs=2e-3)
    first, second = rng.integers(0, 2, (2, 100))
    rows = [first, second]
    for _ in range(998):
        rows.append(rows[-1] ^ rows[-2])
    parity = np.stack(rows, axis=1)[(first | second) > 0]
    assert measures.conditional_entropy(parity) == pytest.approx(math.log(2) * 2 / 3, abs=0.01)
    assert measures.conditional_entropy(parity, 2) == pytest.approx(0, abs=1e-3)


def test_miller_madow_takes_most_of_the_bias_off():
    rng = np.random.default_rng(0)
    drawn = [np.bincount(rng.integers(0, 50, 200), minlength=50) for _ in range(300)]
    plain = [-(c[c > 0] / 200 * np.log(c[c > 0] / 200)).sum() for c in drawn]
    corrected = [measures.entropy(c) for c in drawn]
    truth = math.log(50)
    assert abs(np.mean(corrected) - truth) < 0.15 * abs(np.mean(plain) - truth)


def test_mutual_information_of_independent_tokens_is_zero():
    rng = np.random.default_rng(0)
    for alphabet in (2, 20, 2000):
        rows = rng.choice(alphabet, (200, 512), p=rng.dirichlet(np.ones(alphabet)))
        found = measures.mutual_information(rows, [1, 5, 60])
        error = found.value.std(axis=0) / 200**0.5
        assert (np.abs(found.value.mean(axis=0)) < 4 * error + 1e-3).all()
        assert (found.bias > 0).all()


@pytest.mark.parametrize("kinds", [5, 90, 300, 2000])
def test_mutual_information_is_the_plug_in_estimate_however_pairs_are_counted(kinds):
    """Few pairs, a table of them, and more kinds in a row than a table takes."""

    def entropy(*parts: np.ndarray) -> float:
        shares = np.unique(np.stack(parts), axis=1, return_counts=True)[1] / len(parts[0])
        return float(-(shares * np.log(shares)).sum())

    rows = np.random.default_rng(kinds).integers(0, kinds, (2, 3000))
    found = measures.mutual_information(rows, [1, 40])
    for row, plain in zip(rows, found.value + found.bias, strict=True):
        for lag, value in zip((1, 40), plain, strict=True):
            first, second = row[:-lag], row[lag:]
            wanted = entropy(first) + entropy(second) - entropy(first, second)
            assert value == pytest.approx(wanted, abs=1e-10)


def test_mutual_information_peaks_at_the_period():
    rng = np.random.default_rng(0)
    period = 13
    rows = np.stack([np.tile(rng.integers(0, 8, period), 40) for _ in range(20)])
    noisy = np.where(rng.random(rows.shape) < 0.3, rng.integers(0, 8, rows.shape), rows)
    found = measures.mutual_information(noisy, np.arange(1, 40)).value.mean(axis=0)
    assert set(np.argsort(found)[-3:] + 1) == {13, 26, 39}


def test_mutual_information_of_a_sticky_coin_is_its_closed_form():
    """P(differ after d) = (1 - (1 - 2 q)^d) / 2, I(d) = ln 2 - h(that): it decays exponentially, and is fitted so."""
    rng = np.random.default_rng(0)
    q = 0.1
    rows = np.cumsum(rng.random((300, 2000)) < q, axis=1) % 2
    lags = np.arange(1, 20)
    differ = (1 - (1 - 2 * q) ** lags) / 2
    truth = math.log(2) + differ * np.log(differ) + (1 - differ) * np.log(1 - differ)
    found = measures.mutual_information(rows, lags)
    assert found.value.mean(axis=0) == pytest.approx(truth, abs=4e-3)
    decay = measures.mi_decay(found)
    assert decay.preference < -10
    assert decay.length == pytest.approx(-0.5 / math.log(1 - 2 * q), rel=0.15)


def test_decay_fit_recovers_a_power_law():
    lags = measures.default_lags(1024)
    rng = np.random.default_rng(0)
    value = 0.5 * lags**-0.7 + rng.normal(0, 0.01, (50, len(lags)))
    decay = measures.mi_decay(measures.MutualInformation(lags, value, value * 0))
    assert decay.exponent == pytest.approx(0.7, abs=0.03)
    assert decay.preference > 10


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_a_row_is_measured_alike_whatever_stands_beside_it(seed):
    rows = np.random.default_rng(seed).integers(0, 9, (6, 300))
    together = measures.mutual_information(rows, [1, 2]).value
    assert np.array_equal(together[3:], measures.mutual_information(rows[3:], [1, 2]).value)


def test_lags_must_fit_the_row():
    with pytest.raises(ValueError, match="lags: 1 to 300; legal: 1 to 299"):
        measures.mutual_information(np.zeros((1, 300), int), [1, 300])


def test_no_law_is_fitted_where_none_can_hold():
    """A falling curve with noise: none; one negative lag, one peak, each far beyond the noise: named."""
    rng, lags = np.random.default_rng(0), np.array([1, 2, 4, 8, 16, 32])
    flaws = 0
    for _ in range(200):
        value = 0.3 / lags + rng.normal(0, 0.05, (60, 6))
        flaws += bool(measures.undescribed(measures.MutualInformation(lags, value, value * 0)))
    assert flaws <= 10  # at most 2 % expected
    for change, told in (({4: -0.08}, "below 0 at lag 16"), ({3: 0.4}, "rises again at lag 8")):
        planted = value.copy()
        for lag, mean in change.items():
            planted[:, lag] += mean - planted[:, lag].mean()
        mi = measures.MutualInformation(lags, planted, planted * 0)
        assert told in measures.mi_decay(mi).flaw
        assert measures.undescribed(mi._replace(value=planted[:1])) == ""
