"""The NCA source against a brute-force reference, and the properties its rows promise."""

from __future__ import annotations

import gzip
import hashlib
import math
import subprocess
import sys
import time

import numpy as np
import pytest

from nca_interp.base import UserError
from nca_interp.data.gzip_score import gzip_floor_ceiling, gzip_ratio
from nca_interp.data.nca import (
    draw_weights,
    frames_to_tokens,
    gzip_score,
    initial_cells,
    make_rules,
    patch_tokens,
    rule_keys,
    score_dtype,
    simulate,
    tokens_to_frames,
    trajectory_keys,
)
from nca_interp.data.nca_rows import Search, judge, nca_rows, nca_trajectory
from nca_interp.data.rng import below, bits, mix, uniforms
from nca_interp.data.specs import NcaSpec
from nca_interp.data.tokens import TokenFile, write_tokens


def rows_of(spec, n_rows, n_tokens, seed=0, split="train", threads=1):
    return np.concatenate(list(nca_rows(spec, seed, split, n_rows, n_tokens, threads, Search())))


def one_hot(spec, state):
    """[grid, grid, inputs]: the cells, in `release` with the state axis wrapped by one on either side."""
    hot = np.eye(spec.n_states)[state]
    return np.pad(hot, ((0, 0), (0, 0), (1, 1)), mode="wrap") if spec.variant == "release" else hot


def slow_logits(spec, weights, state):
    """Convolution, two 1x1 layers, ReLU between the last two: written as in the paper, in float64, nothing folded."""
    conv, up, out = (w.astype(np.float64) for w in weights)
    padded = np.pad(one_hot(spec, state), ((1, 1), (1, 1), (0, 0)), mode="wrap")
    logits = np.zeros((spec.grid, spec.grid, spec.n_states))
    for y in range(spec.grid):
        for x in range(spec.grid):
            features = np.zeros(spec.channels)
            for dy in range(3):
                for dx in range(3):
                    features += padded[y + dy, x + dx] @ conv[3 * dy + dx]
            logits[y, x] = np.maximum(features @ up, 0) @ out
            logits[y, x, state[y, x]] += spec.identity_bias
    return logits


def slow_step(spec, weights, state, key, step):
    """The next state, and whether a cell is so close to a border of its cumulative distribution that rounding decides."""
    logits = slow_logits(spec, weights, state)
    noise = uniforms(key, step * spec.grid**2 + np.arange(spec.grid**2)).reshape(spec.grid, spec.grid)
    chosen, close = np.empty_like(state), np.zeros(state.shape, bool)
    for cell in np.ndindex(state.shape):
        z = logits[cell]
        best = int(z.argmax())
        close[cell] = np.sort(z)[-1] - np.sort(z)[-2] < 1e-5
        chosen[cell] = best
        if spec.tau > 0:
            order = [best, *(k for k in range(spec.n_states) if k != best)]
            weight = np.exp((z[order] - z[best]) / spec.tau)
            levels = np.cumsum(weight / weight.sum())
            chosen[cell] = order[min(int(np.searchsorted(levels, noise[cell], side="right")), spec.n_states - 1)]
            close[cell] |= bool(np.abs(levels[:-1] - noise[cell]).min() < 1e-5 / spec.tau + 1e-9)
    return chosen, close


def strict_step(spec, rules, rule, state, key, step):
    """The next state in float32 with the kernel's promised order of additions, from the folded table; no shortcut."""
    n, size = spec.n_states, spec.grid
    table, readout = rules.table[rule], rules.readout[rule]
    new = np.empty_like(state)
    for y in range(size):
        for x in range(size):
            hidden = None
            for p in range(9):
                neighbour = int(state[(y + p // 3 - 1) % size, (x + p % 3 - 1) % size])
                row = table[p * n + neighbour]
                hidden = row if hidden is None else hidden + row
            hidden = np.maximum(hidden, np.float32(0))
            z = np.zeros(n, np.float32)
            for unit in range(len(hidden)):
                z = z + hidden[unit] * readout[unit]
            if spec.identity_bias:
                z[state[y, x]] += np.float32(spec.identity_bias)
            best = int(z.argmax())
            order = [best, *(k for k in range(n) if k != best)]
            new[y, x] = best
            if spec.tau > 0:
                away = [float(z[best] - z[k]) * (1.0 / spec.tau) for k in range(n)]
                weights = [math.exp(-d) if d < 24 else 0.0 for d in away]
                rest = float(uniforms(key, step * size * size + y * size + x)) * sum(weights)
                for k in order:
                    if weights[k] > 0:
                        new[y, x] = k
                        rest -= weights[k]
                    if rest < 0:
                        break
    return new


CASES = [
    pytest.param(dict(variant=variant, n_states=n, tau=tau, grid=6, patch=2, **more), id=f"{variant}-{n}-{tau}")
    for variant in ("paper", "release")
    for n, tau, more in (
        (2, 1.0, {}),
        (2, 1e-3, {}),
        (4, 0.0, {"hidden": 9, "channels": 3}),
        (4, 0.3, {"identity_bias": 0.5, "dt": 2}),
        (10, 1e-3, {"burn_in": 3}),
        (10, 1e-2, {}),
        (10, 1.0, {"identity_bias": -1.0}),
        (10, 0.0, {}),
    )
]


@pytest.mark.parametrize("options", CASES)
def test_trajectory_equals_a_strict_float32_loop(options):
    spec = NcaSpec(band=None, **{"burn_in": 2, **options})
    keys = rule_keys(3, "train", np.arange(2))
    noise = trajectory_keys(keys, 0)
    rules = make_rules(spec, keys)
    frames = simulate(spec, rules, noise, 4)
    for rule in range(2):
        state = initial_cells(spec, mix(noise))[rule]
        for step in range(spec.burn_in + 3 * spec.dt + 1):
            if step >= spec.burn_in and (step - spec.burn_in) % spec.dt == 0:
                np.testing.assert_array_equal(frames[rule, (step - spec.burn_in) // spec.dt], state)
            state = strict_step(spec, rules, rule, state, noise[rule], step)


@pytest.mark.parametrize("options", CASES)
def test_steps_equal_the_unfolded_network(options):
    """Each recorded state follows from the one before by one-hot, padded convolution, ReLU, softmax and inverse CDF."""
    spec = NcaSpec(band=None, **{**options, "burn_in": 0, "dt": 1})
    keys = rule_keys(4, "train", np.arange(3))
    noise = trajectory_keys(keys, 0)
    weights = draw_weights(spec, keys)
    frames = simulate(spec, make_rules(spec, keys), noise, 6)
    certain = 0
    for rule in range(3):
        for step in range(5):
            expected, close = slow_step(spec, [w[rule] for w in weights], frames[rule, step], noise[rule], step)
            np.testing.assert_array_equal(frames[rule, step + 1][~close], expected[~close])
            certain += int((~close).sum())
    assert certain > 0.8 * 3 * 5 * 36


def test_tau_zero_is_argmax_and_the_limit_of_small_tau():
    keys = rule_keys(0, "train", np.arange(8))
    noise = trajectory_keys(keys, 0)
    frames = [
        simulate(spec, make_rules(spec, keys), noise, 12)
        for spec in (NcaSpec(tau=0, band=None), NcaSpec(tau=1e-30, band=None))
    ]
    np.testing.assert_array_equal(*frames)


def test_equal_logits_take_the_lowest_state_at_tau_zero():
    """A table of zeros gives equal logits: state 0 at tau 0, uniform states at tau > 0."""
    spec = NcaSpec(tau=0, band=None, burn_in=1)
    keys = rule_keys(0, "train", np.arange(2))
    rules = make_rules(spec, keys)
    rules = rules._replace(table=np.zeros_like(rules.table))
    assert not simulate(spec, rules, keys, 2).any()
    hot = simulate(NcaSpec(tau=1.0, band=None, burn_in=1), rules, keys, 100)
    counts = np.bincount(hot.ravel(), minlength=10) / hot.size
    np.testing.assert_allclose(counts, 0.1, atol=0.01)


def test_high_temperature_frequencies_follow_the_softmax():
    """2000 noise streams on one state: frequencies within five standard errors of the probabilities."""
    spec = NcaSpec(grid=3, patch=1, n_states=4, tau=0.5, burn_in=1, band=None)
    key = rule_keys(5, "train", np.arange(1))
    rules = make_rules(spec, key)
    n = 4000
    noise = bits(77, np.arange(n))
    state = initial_cells(spec, key)[0]
    spread = type(rules)(np.repeat(rules.table, n, 0), np.repeat(rules.readout, n, 0))
    after = simulate(spec, spread, noise, 2, after=np.repeat(state[None], n, 0))[:, 1]
    z = slow_logits(spec, [w[0] for w in draw_weights(spec, key)], state) / spec.tau
    expected = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    seen = np.stack([(after == k).mean(0) for k in range(4)], -1)
    assert (np.abs(seen - expected) < 5 * np.sqrt(expected * (1 - expected) / n) + 1e-6).all()


def test_continuing_a_trajectory_equals_one_run():
    spec = NcaSpec(band=None, dt=3, tau=0.1)
    keys = rule_keys(0, "train", np.arange(3))
    rules = make_rules(spec, keys)
    whole = simulate(spec, rules, keys, 9)
    rest = simulate(spec, rules, keys, 6, after=whole[:, 3], done=3)
    np.testing.assert_array_equal(rest, whole[:, 3:])


def test_weights_have_lecun_variance_and_are_cut():
    spec = NcaSpec()
    for kernel, fan_in in zip(draw_weights(spec, bits(1, np.arange(400))), (90, 4, 16), strict=True):
        assert kernel.std() * fan_in**0.5 == pytest.approx(1, abs=0.02)
        assert np.abs(kernel).max() * fan_in**0.5 <= 2 / 0.87962566103423978 + 1e-5
        assert abs(kernel.mean()) * fan_in**0.5 < 0.03


@pytest.mark.parametrize(("variant", "parameters"), [("paper", 4 * 90 + 4 * 16 + 160), ("release", 4 * 108 + 4 * 16 + 160)])
def test_parameter_count(variant, parameters):
    """Weights of the published network, without its 30 zero biases (614 and 686 with them)."""
    kernels = draw_weights(NcaSpec(variant=variant), bits(0, np.arange(1)))
    assert sum(k.size for k in kernels) == parameters
    assert parameters + 4 + 16 + 10 == {"paper": 614, "release": 686}[variant]


def test_initial_cells():
    paper = initial_cells(NcaSpec(), bits(0, np.arange(300)))
    counts = np.stack([np.bincount(c.ravel(), minlength=10) for c in paper])
    chi2 = ((counts - 14.4) ** 2 / 14.4).sum(1)
    assert chi2.mean() == pytest.approx(9, abs=1)
    release = initial_cells(NcaSpec(variant="release"), bits(0, np.arange(300)))
    shares = np.stack([np.bincount(c.ravel(), minlength=10) for c in release]) / 144
    assert shares.mean(0) == pytest.approx(np.full(10, 0.1), abs=0.03)
    assert shares.max(1).mean() > 0.25  # far from uniform: the largest of ten log-normal shares


def test_tokens_are_as_documented_and_come_back():
    spec = NcaSpec(grid=4, patch=2, n_states=10)
    frame = np.array([[1, 2, 5, 6], [3, 4, 7, 8], [0, 0, 9, 9], [0, 1, 9, 9]], np.uint8)
    tokens = frames_to_tokens(spec, frame[None])
    assert tokens.tolist() == [10_000, 4321, 8765, 1000, 9999, 10_001]
    np.testing.assert_array_equal(tokens_to_frames(spec, tokens)[0], frame)


@pytest.mark.parametrize(("n", "patch"), [(2, 1), (2, 3), (4, 2), (10, 2), (15, 2), (256, 1)])
def test_round_trip(n, patch):
    spec = NcaSpec(n_states=n, patch=patch)
    frames = below(1, np.arange(5 * 144), n).astype(np.uint8).reshape(5, 12, 12)
    tokens = frames_to_tokens(spec, frames)
    assert tokens.max() < spec.vocab_size
    np.testing.assert_array_equal(tokens_to_frames(spec, tokens), frames)
    np.testing.assert_array_equal(tokens_to_frames(spec, tokens[:-1]), frames[:-1])


@pytest.mark.parametrize("more", [{}, {"n_rules": 7}, {"control": "shuffle_tokens"}, {"control": "shuffle_frames"}])
def test_rows_do_not_depend_on_threads_or_number(more):
    spec = NcaSpec(**more)
    one, two = (rows_of(spec, 150, 400, threads=threads) for threads in (1, 2))
    np.testing.assert_array_equal(one, two)
    assert one.shape == (150, 400)
    if "n_rules" not in more:
        np.testing.assert_array_equal(rows_of(spec, 20, 400), one[:20])
    if "control" not in more:
        np.testing.assert_array_equal(rows_of(spec, 20, 300), one[:20, :300])


def test_rows_of_another_process_are_identical():
    code = (
        "import hashlib, numpy as np\n"
        "from nca_interp.data.nca_rows import *\nfrom nca_interp.data.specs import NcaSpec\n"
        "rows = np.concatenate(list(nca_rows(NcaSpec(), 5, 'train', 70, 500, 2, Search())))\n"
        "print(hashlib.sha256(rows.tobytes()).hexdigest())"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert there == hashlib.sha256(rows_of(NcaSpec(), 70, 500, seed=5).tobytes()).hexdigest()


def test_splits_and_seeds_share_no_rule():
    keys = [set(rule_keys(seed, split, np.arange(5000)).tolist()) for seed in (0, 1) for split in ("train", "val")]
    assert len(set.union(*keys)) == 20_000
    train, val = (rows_of(NcaSpec(), 30, 200, split=split) for split in ("train", "val"))
    assert not {r.tobytes() for r in train} & {r.tobytes() for r in val}


@pytest.mark.parametrize("variant", ["paper", "release"])
@pytest.mark.parametrize("band", [(0.5, 1.0), (0.3, 0.4)])
def test_scores_of_accepted_rules_lie_in_the_band(variant, band):
    """Recomputed from the rows themselves with the gzip module."""
    spec = NcaSpec(variant=variant, band=band, tau=1e-4)
    rows = rows_of(spec, 40, 38 * 12)
    patches = rows.reshape(40, 12, 38)[:, :10, 1:-1]
    assert patches.max() < 10_000
    for row in patches:
        data = row.astype("<u2" if variant == "paper" else "<i4").tobytes()
        assert band[0] <= len(gzip.compress(data, 9, mtime=0)) / len(data) < band[1]


def test_score_equals_gzip_of_the_documented_bytes():
    frames = simulate(spec := NcaSpec(), make_rules(spec, rule_keys(0, "train", [0])), bits(0, np.arange(1)), 10)[0]
    data = patch_tokens(spec, frames).astype(score_dtype(spec)).tobytes()
    assert len(data) == 720
    assert gzip_score(spec, frames) == len(gzip.compress(data, 9, mtime=0)) / len(data)
    assert score_dtype(NcaSpec(variant="release")) == np.dtype("<i4")
    assert score_dtype(NcaSpec(n_states=20)) == np.dtype("<u4")


def test_measured_reach_of_the_score():
    """The figures of the paper's notes: constant 0.022, independent uniform tokens 0.669 (360 tokens as int32)."""
    reach = gzip_floor_ceiling(360, 10_000, np.int32)
    assert reach.floor == pytest.approx(0.022, abs=0.003)
    assert reach.ceiling == pytest.approx(0.669, abs=0.01)
    with pytest.raises(ValueError, match="empty"):
        gzip_ratio(b"")


def test_unreachable_band_is_given_up_with_its_figures():
    spec = NcaSpec(grid=4, n_states=2, band=(5.0, 6.0), burn_in=1, score_frames=2)
    begin = time.perf_counter()
    with pytest.raises(UserError) as caught:
        rows_of(spec, 3, 20, threads=2)
    assert time.perf_counter() - begin < 20
    message = str(caught.value)
    assert "0 of 20," in message
    for word in ("band", "[5, 6)", "min", "max", "out of reach"):
        assert word in message


def test_a_patch_depends_on_four_by_four_cells():
    """At tau 0 a cell outside the 4x4 around a patch never changes the patch's next token; one inside sometimes does."""
    spec = NcaSpec(tau=0, band=None)
    keys = rule_keys(0, "train", np.arange(25))
    rules = make_rules(spec, keys)
    state = initial_cells(spec, keys)
    base = patch_tokens(spec, simulate(spec, rules, keys, 2, after=state)[:, 1])
    inside = {(y % 12, x % 12) for y in range(3, 7) for x in range(9, 13)}  # of the patch at rows 4-5, columns 10-11
    patch, changed = 2 * 6 + 5, 0
    for y, x in np.ndindex(12, 12):
        flipped = state.copy()
        flipped[:, y, x] = (flipped[:, y, x] + 3) % 10
        after = patch_tokens(spec, simulate(spec, rules, keys, 2, after=flipped)[:, 1])
        different = int((after[:, patch] != base[:, patch]).sum())
        if (y, x) in inside:
            changed += different > 0
        else:
            assert different == 0, (y, x)
    assert changed == 16


def test_gzip_hardly_sees_the_order_of_tokens():
    spec = NcaSpec()
    rows = rows_of(spec, 40, 380)
    shuffled = rows_of(NcaSpec(control="shuffle_tokens"), 40, 380)

    def score(tokens):
        return np.array([gzip_score(spec, tokens_to_frames(spec, row)) for row in tokens])

    assert score(shuffled).mean() / score(rows).mean() == pytest.approx(1, abs=0.08)


def test_acceptance_of_the_published_filter():
    spec = NcaSpec(variant="release", tau=1e-4)
    judged = judge(spec, 0, "train", 0, 300)
    assert len(judged.scores) == 300
    assert 0.35 < len(judged.candidates) / 300 < 0.57


@pytest.mark.parametrize("seq_len", [1024, 75])
def test_first_whole_frame_is_never_a_target(tmp_path, seq_len):
    meta = write_tokens(tmp_path / "t", NcaSpec(), n_train=4, n_val=2, seq_len=seq_len, seed=0, threads=1)
    assert meta.unsupervised_prefix == meta.tokens_per_frame == 38
    assert (meta.vocab_size, meta.dtype, meta.frame_offset) == (10_002, "uint16", 0)
    rows = TokenFile.open(tmp_path / "t").train
    assert rows.shape == (4, seq_len + 1)
    assert (rows[:, ::38] == 10_000).all()
    assert (rows[:, 37::38] == 10_001).all()
    assert meta.provenance["train"]["candidates_tried"] >= 4
    assert 0 < meta.provenance["train"]["acceptance_rate"] <= 1


def test_wide_vocabulary_is_stored_as_uint32(tmp_path):
    spec = NcaSpec(n_states=20, band=None)
    meta = write_tokens(tmp_path / "t", spec, n_train=3, n_val=1, seq_len=100, seed=0)
    assert (meta.vocab_size, meta.dtype) == (160_002, "uint32")
    np.testing.assert_array_equal(TokenFile.open(tmp_path / "t").train, rows_of(spec, 3, 101))


def test_shuffled_tokens_keep_delimiters_and_multisets():
    plain, mixed = (rows_of(NcaSpec(control=c), 20, 395) for c in ("none", "shuffle_tokens"))
    for delimiter in (10_000, 10_001):
        np.testing.assert_array_equal(plain == delimiter, mixed == delimiter)
    np.testing.assert_array_equal(np.sort(plain, 1), np.sort(mixed, 1))
    assert (plain != mixed).mean() > 0.5


def test_shuffled_frames_are_the_same_frames():
    plain, mixed = (rows_of(NcaSpec(control=c), 20, 395) for c in ("none", "shuffle_frames"))
    np.testing.assert_array_equal(plain[:, 380:], mixed[:, 380:])  # the frame that is cut stays
    moved = 0
    for a, b in zip(plain[:, :380].reshape(20, 10, 38), mixed[:, :380].reshape(20, 10, 38), strict=True):
        assert sorted(a.tolist()) == sorted(b.tolist())
        moved += int((a != b).any())
    assert moved == 20
    assert len({tuple(r) for r in mixed.tolist()}) == 20


def test_limited_rules_return_on_new_trajectories():
    spec = NcaSpec(n_rules=5, tau=0)
    rows = rows_of(spec, 15, 38 * 2)
    np.testing.assert_array_equal(rows[:5], rows_of(NcaSpec(tau=0), 5, 38 * 2))
    assert len(np.unique(rows, axis=0)) == 15
    frames = np.stack([tokens_to_frames(spec, r) for r in rows])
    found = judge(spec, 0, "train", 0, 64).candidates[:5]
    weights = draw_weights(spec, rule_keys(0, "train", found))
    for row in range(15):
        expected, close = slow_step(spec, [w[row % 5] for w in weights], frames[row, 0], 0, 0)
        np.testing.assert_array_equal(frames[row, 1][~close], expected[~close])
    np.testing.assert_array_equal(  # the limit is for training rows only
        rows_of(spec, 15, 76, split="val"), rows_of(NcaSpec(tau=0), 15, 76, split="val")
    )


@pytest.mark.parametrize("n_frames", [3, 10, 14])
def test_trajectory_of_a_rule_is_its_row(n_frames):
    spec = NcaSpec()
    rows = rows_of(spec, 9, 38 * n_frames, seed=2)
    for rule in (0, 8):
        np.testing.assert_array_equal(nca_trajectory(spec, 2, rule, n_frames), tokens_to_frames(spec, rows[rule]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"patch": 5}, "legal: 1, 2, 3, 4, 6, 12"),
        ({"n_states": 50}, "n_states may be at most 45"),
        ({"patch": 6}, "smaller patch"),
        ({"band": (0.6, 0.5)}, "lo < hi"),
    ],
)
def test_illegal_specifications_say_what_is_legal(options, words):
    with pytest.raises(ValueError, match=words):
        NcaSpec(**options)
