"""Dyck: bit for bit a plain reference, legal everywhere, and distributed as the exact Markov chain says."""

from __future__ import annotations

import math
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nca_interp.base import stream_seed
from nca_interp.data.dyck.ideal import dyck_nats
from nca_interp.data.dyck.rows import CHUNK, dyck_rows
from nca_interp.data.dyck.statistics import dyck_stats
from nca_interp.data.specs import DyckSpec
from tests.data.reference import GOLDEN, MASK, word

SPECS = st.builds(
    DyckSpec,
    variant=st.sampled_from(["nested", "shuffle"]),
    ending=st.sampled_from(["balanced", "truncate"]),
    k=st.integers(1, 9),
    max_depth=st.integers(1, 7),
    p_open=st.floats(0.05, 0.95),
)


def rows(spec: DyckSpec, n: int, n_tokens: int, seed: int = 0, split: str = "train", threads: int = 1) -> np.ndarray:
    return np.concatenate(list(dyck_rows(spec, seed, split, n, n_tokens, threads)))


def reference(spec: DyckSpec, seed: int, row: int, n_tokens: int) -> list[int]:
    """One row from the definition: Python integers, lists that are searched."""
    key = word((stream_seed(seed, "dyck", "train") * GOLDEN) & MASK, row)
    end = n_tokens // 2 * 2
    opened: list[int] = []  # nested: the stack; shuffle: open types, one entry a type
    counts: Counter[int] = Counter()
    out = []
    for step in range(n_tokens):
        random64 = word(key, step)
        high, low = random64 >> 32, random64 & 0xFFFFFFFF
        depth = counts.total()
        opens = high < round(spec.p_open * 2**32) and depth < spec.max_depth
        if spec.ending == "balanced" and step < end and depth == end - step:
            opens = False
        if opens or depth == 0:
            new = low * spec.k >> 32
            if spec.variant == "nested" or not counts[new]:
                opened.append(new)
            counts[new] += 1
            out.append(new)
            continue
        place = low * len(opened) >> 32 if spec.variant == "shuffle" else len(opened) - 1
        closed = opened[place]
        counts[closed] -= 1
        if spec.variant == "nested" or not counts[closed]:
            opened[place] = opened[-1]
            opened.pop()
        out.append(closed + spec.k)
    return out


@settings(deadline=None, max_examples=60)
@given(spec=SPECS, n_tokens=st.integers(1, 90), seed=st.integers(0, 1000))
def test_bit_for_bit_the_reference(spec, n_tokens, seed):
    assert rows(spec, 3, n_tokens, seed).tolist() == [reference(spec, seed, r, n_tokens) for r in range(3)]


@settings(deadline=None, max_examples=60)
@given(spec=SPECS, n_tokens=st.integers(1, 90), seed=st.integers(0, 1000))
def test_every_prefix_is_legal_and_the_ending_as_asked(spec, n_tokens, seed):
    made = rows(spec, 3, n_tokens, seed)
    found = dyck_stats(made, spec)
    for index, row in enumerate(made.tolist()):
        opened: list[int] = []
        depths, distances, positions = Counter(), Counter(), []
        for step, token in enumerate(row):
            if token < spec.k:
                opened.append(token)
                positions.append(step)
            else:
                assert token < spec.vocab_size
                if spec.variant == "nested":
                    assert opened[-1] == token - spec.k
                place = len(opened) - 1 - opened[::-1].index(token - spec.k)  # ValueError if none of this type is open
                opened.pop(place)
                distances[step - positions.pop(place)] += 1
            depths[len(opened)] += 1
            assert len(opened) <= spec.max_depth
        if spec.ending == "balanced":
            assert len(opened) == n_tokens % 2
        # the statistics of the same row, counted another way
        assert dict(depths) == {d: n for d, n in enumerate(found.depth[index].tolist()) if n}
        assert dict(distances) == {d: n for d, n in enumerate(found.distance[index].tolist()) if n}
        assert found.unclosed[index] == len(opened)
    assert not found.illegal.any()


def chain(spec: DyckSpec, n_tokens: int) -> tuple[np.ndarray, float, float]:
    """Expected tokens at each depth, and expected closers forced by the end and by the depth, by the exact chain."""
    end = n_tokens // 2 * 2 if spec.ending == "balanced" else n_tokens + spec.max_depth
    here = np.zeros(spec.max_depth + 1)
    here[0] = 1
    total, by_end, by_depth = np.zeros_like(here), 0.0, 0.0
    for step in range(n_tokens):
        after = np.zeros_like(here)
        for depth, mass in enumerate(here):
            must_close = depth > 0 and (depth == spec.max_depth or depth == end - step)
            up = 1.0 if depth == 0 else 0.0 if must_close else spec.p_open
            if must_close and mass:
                by_end += mass * (depth == end - step)
                by_depth += mass * (depth != end - step)
            if up:
                after[depth + 1] += up * mass
            if up < 1:
                after[depth - 1] += (1 - up) * mass
        here = after
        total += here
    return total, by_end, by_depth


@pytest.mark.parametrize("ending", ["balanced", "truncate"])
@pytest.mark.parametrize(("variant", "p_open", "max_depth"), [("nested", 0.5, 16), ("shuffle", 0.51, 8)])
def test_depths_follow_the_exact_chain(variant, p_open, max_depth, ending):
    spec = DyckSpec(variant=variant, p_open=p_open, max_depth=max_depth, ending=ending)
    n = 4000
    found = dyck_stats(rows(spec, n, 257), spec)
    want, by_end, by_depth = chain(spec, 257)
    # per-row counts are independent: five standard errors of their mean
    assert (abs(found.depth.mean(axis=0) - want) < 5 * found.depth.std(axis=0) / n**0.5 + 1e-9).all()
    for counts, expected in ((found.forced_by_end, by_end), (found.forced_by_depth, by_depth)):
        assert abs(counts.mean() - expected) <= 5 * counts.std() / n**0.5 + 1e-9
    if ending == "balanced":
        assert by_end > 1


def test_shuffle_closes_every_open_type_equally_often():
    """With types 0, 0, 1 open, 0 and 1 are equally likely: types are drawn, not brackets."""
    spec = DyckSpec(variant="shuffle", k=2, max_depth=3, ending="truncate", p_open=0.9)
    made = rows(spec, 40_000, 4)
    three = made[(made[:, :3] < 2).all(axis=1) & (made[:, :3].sum(axis=1) == 1)]  # 0, 0, 1 in any order
    assert (three[:, 3] == 2).mean() == pytest.approx(0.5, abs=5 * 0.5 / len(three) ** 0.5)


def test_truncate_is_the_published_packing_of_strings():
    """Strings that end when the stack empties, packed until the row is full: the published procedure, other randomness."""
    rng, target = random.Random(0), 129

    def string() -> list[int]:
        out = [1]
        while sum(out):
            out.append(1 if sum(out) < 4 and rng.random() < 0.5 else -1)
        return out

    packed = []
    for _ in range(3000):
        row: list[int] = []
        while len(row) < target:
            row += string()
        packed.append(np.cumsum(row[:target]))
    spec = DyckSpec(k=1, max_depth=4, ending="truncate")
    ours = np.cumsum(1 - 2 * rows(spec, 3000, target).astype(int), axis=1)
    for depth in range(5):
        counts = [(np.array(x) == depth).sum(axis=1) for x in (packed, ours)]
        error = np.hypot(*(c.std() for c in counts)) / 3000**0.5
        assert abs(counts[0].mean() - counts[1].mean()) < 5 * error


@pytest.mark.parametrize("variant", ["nested", "shuffle"])
def test_all_types_are_used_equally(variant):
    spec = DyckSpec(variant=variant, k=64, max_depth=8)
    counts = np.bincount(rows(spec, 400, 257).ravel(), minlength=128)
    assert counts.min() > 0.8 * counts.mean()
    assert counts.max() < 1.2 * counts.mean()


def test_shuffle_crosses_and_nested_does_not():
    made = rows(DyckSpec(variant="shuffle", k=8, max_depth=8), 20, 400)
    assert not dyck_stats(made, DyckSpec(variant="shuffle", k=8, max_depth=8)).illegal.any()
    assert dyck_stats(made, DyckSpec(k=8, max_depth=8)).illegal.all()


def test_statistics_of_a_known_row():
    #        (  [  ]  (  )  )  (  | and a closer of nothing, an opener beyond the depth, a number that is no bracket
    row = [0, 1, 3, 0, 2, 2, 0, 3, 1, 1, 4]
    found = dyck_stats(np.array([row]), DyckSpec(k=2, max_depth=2, ending="truncate"))
    assert found.depth.tolist() == [[1, 4, 3]]
    assert found.distance[0].tolist() == [0, 2, 0, 0, 0, 1] + [0] * 5
    assert (found.unclosed[0], found.illegal[0], found.forced_by_end[0], found.forced_by_depth[0]) == (2, 3, 0, 2)
    assert found.shares()["unclosed"][0] == 2 / 5
    twice = dyck_stats(np.array([row, row]), DyckSpec(k=2, max_depth=2, ending="truncate")).pooled()
    assert twice.depth.tolist() == [[2, 8, 6]]
    balanced = dyck_stats(np.array([[0, 1, 3, 2, 1]]), DyckSpec(k=2, max_depth=9))
    assert (balanced.forced_by_end[0], balanced.unclosed[0]) == (2, 1)


def test_rows_depend_on_seed_split_and_number_only():
    spec = DyckSpec(variant="shuffle")
    n = 5 * CHUNK + 3
    whole = rows(spec, n, 33)
    assert np.array_equal(whole, rows(spec, n, 33, threads=2))
    assert np.array_equal(whole[:10], rows(spec, 10, 33))
    assert not np.array_equal(rows(spec, 10, 33), rows(spec, 10, 33, split="val"))
    assert not np.array_equal(rows(spec, 10, 33), rows(spec, 10, 33, seed=1))


@pytest.mark.parametrize("variant", ["nested", "shuffle"])
@pytest.mark.parametrize("ending", ["balanced", "truncate"])
@pytest.mark.parametrize("width", [6, 7])
def test_ideal_losses_are_those_of_the_rows_distribution(variant, ending, width):
    """Probabilities of all rows add up to 1, and each row comes as often as its loss says; what is shown of a row costs the same."""
    spec, n = DyckSpec(variant=variant, ending=ending, k=2, max_depth=2, p_open=0.3), 20_000
    drawn = rows(spec, n, width)
    nats = dyck_nats(spec, drawn)
    share = {bytes(row): math.exp(-cost) for row, cost in zip(drawn, nats.sum(axis=1), strict=True)}
    assert 0.97 < sum(share.values()) < 1 + 1e-9
    counts = Counter(map(bytes, drawn))
    for row, p in share.items():
        assert abs(counts[row] - n * p) < 5.5 * math.sqrt(n * p) + 5
    assert np.array_equal(dyck_nats(spec, drawn[:, :-1], width), nats[:, :-1])
