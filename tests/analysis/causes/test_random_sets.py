"""Random sets: never a head of the chosen set, all of them where they are few, and a rank that is exact whatever carries the load."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from nca_interp.analysis.causes.random_sets import random_sets, ranked


def test_sets_avoid_the_chosen_heads_and_match_its_layers():
    chosen = [(0, 1), (0, 3), (2, 0)]
    found = random_sets(chosen, 6, 50)
    assert found == random_sets(reversed(chosen), 6, 50)
    assert len(found.sets) == len(set(found.sets)) == 6 * 5  # 4 choose 2 pairs x 5: all there are
    assert found.complete
    for heads in found.sets:
        assert sorted(layer for layer, _ in heads) == [0, 0, 2]
        assert not heads & set(chosen)
    few = random_sets(chosen, 12, 50)
    assert (len(few.sets), len(set(few.sets)), few.complete) == (50, 50, False)
    assert few.sets[: len(few.round)] == few.round


def test_a_round_is_disjoint_and_as_long_as_the_heads_allow():
    for chosen, n_heads, length in (([(1, 2)], 4, 3), ([(1, 2), (1, 3)], 9, 3), ([(0, 0), (1, 0), (1, 1)], 9, 3), ([(0, 0), (5, 8)], 9, 8)):  # fmt: skip
        round_ = random_sets(chosen, n_heads, 50).round
        assert len(round_) == length
        heads = [head for part in (chosen, *round_) for head in part]
        assert len(heads) == len(set(heads))
    assert random_sets([(0, 0), (0, 1), (0, 2)], 5, 50) == ((), (), True)  # too few heads for one other set
    assert random_sets([(0, 0)], 1, 50).sets == ()


def test_the_rank_of_a_sum_is_that_of_all_choices():
    rng = np.random.default_rng(0)
    chosen, rounds = rng.normal(size=3), [rng.normal(size=n).tolist() for n in (3, 1, 4)]
    sums = [sum(way) for way in itertools.product(*([c, *others] for c, others in zip(chosen, rounds, strict=True)))]
    found = ranked(chosen.tolist(), rounds)
    assert found.p == pytest.approx(np.mean(np.array(sums) >= sum(chosen) - 1e-12))
    assert found.floor == 1 / (4 * 2 * 5)
    assert ranked([1.0] * 3, [[1.0] * 3] * 3).p == 1  # ties count against it
    many = ranked([5.0] * 12, [[0.0, 0.1, 0.2]] * 12)  # too many ways to count
    assert many.p == many.floor == 1e-5
    with pytest.raises(ValueError, match="one model or more"):
        ranked([], [])


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("carriers", [1, 2])
def test_p_holds_where_few_heads_carry_everything_and_the_chosen_ones_are_any(size, carriers):
    """Sets that only avoid the chosen heads would say p = 1 / (1 + sets) whenever the chosen set holds the carrier by chance."""
    rng, seeds, models = np.random.default_rng(size), 2, 400
    p = []
    for _ in range(models):
        harms, rounds = [], []
        for _ in range(seeds):
            load = np.zeros((2, 8))
            load.ravel()[rng.choice(16, carriers, replace=False)] = 5.0
            load += 0.01 * rng.normal(size=load.shape)
            chosen = [(0, int(h)) for h in rng.choice(8, size, replace=False)] + [(1, int(rng.integers(8)))]
            harm = [sum(load[head] for head in part) for part in (chosen, *random_sets(chosen, 8, 50).round)]
            harms.append(harm[0])
            rounds.append(harm[1:])
        p.append(ranked(harms, rounds).p)
    for level in (0.05, 0.1, 0.25):
        assert np.mean(np.array(p) <= level) <= level + 3 * np.sqrt(level * (1 - level) / models)
