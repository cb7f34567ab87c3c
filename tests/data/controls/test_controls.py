"""Controls: the rows obey their rule, and the ideal losses are those of the distribution that the rows have."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from nca_interp.base import UserError
from nca_interp.data.control_rows import CHUNK, control_rows, ideal_losses, ideal_nats
from nca_interp.data.controls.base import Control, discover
from nca_interp.data.controls.linear import LinearSpec
from nca_interp.data.controls.markov import MarkovSpec
from nca_interp.data.controls.noise import NoiseSpec
from nca_interp.data.controls.repeat import RepeatSpec
from nca_interp.data.sources import parse_source
from nca_interp.data.specs import CONTROLS
from nca_interp.data.tokens import TokenFile, write_tokens

TINY = {
    "copy": ("copy:n_symbols=2,length=[1,2]", 7),
    "reverse": ("reverse:n_symbols=2,length=[2,3]", 8),
    "sort": ("sort:n_symbols=2,length=[1,2]", 7),
    "set": ("set:n_symbols=2,length=[1,3]", 8),
    "recall": ("recall:n_keys=2,n_values=2,pairs=[1,2]", 10),
    "stack": ("stack:n_symbols=2,length=[1,3],p_push=0.5", 8),
    "markov": ("markov:n_states=2,alpha=0.5", 7),
    "linear": ("linear:modulus=2,n_inputs=2", 9),
    "noise": ("noise:n_symbols=3,exponent=1", 4),
    "repeat": ("repeat:n_symbols=2,period=[2,4]", 7),
    "minimalist": ("minimalist:n_categories=1,n_words=2,n_features=2,max_depth=2", 11),
}


def drawn(spec: Control, n: int, n_tokens: int, seed: int = 0, threads: int = 1) -> np.ndarray:
    return np.concatenate([c.tokens for c in control_rows(spec, seed, "train", n, n_tokens, threads)])


def test_every_control_is_found_and_tried():
    assert discover() == CONTROLS
    assert set(TINY) == set(CONTROLS)


@pytest.mark.parametrize("kind", TINY)
def test_ideal_losses_are_those_of_the_rows_distribution(kind):
    """Probabilities of all rows add up to 1, and each row comes as often as its Bayes loss says."""
    text, width = TINY[kind]
    spec, n = parse_source(text), 20_000
    rows = drawn(spec, n, width)
    nats = ideal_losses(spec, rows, 0, "train")["bayes"].sum(axis=1)
    counts = Counter(map(bytes, rows))
    share = {bytes(row): math.exp(-cost) for row, cost in zip(rows, nats, strict=True)}
    assert 0.97 < sum(share.values()) < 1 + 1e-9
    for row, p in share.items():
        assert abs(counts[row] - n * p) < 5.5 * math.sqrt(n * p) + 5


@pytest.mark.parametrize("kind", TINY)
def test_rows_depend_on_seed_split_and_number_alone(kind):
    spec = CONTROLS[kind]()
    rows = drawn(spec, CHUNK + 20, 129)
    assert np.array_equal(drawn(spec, CHUNK + 20, 129, threads=3), rows)
    assert np.array_equal(drawn(spec, 5, 129), rows[:5])
    assert np.array_equal(drawn(spec, 5, 160)[:, :129], rows[:5])
    assert not np.array_equal(drawn(spec, 5, 129, seed=1), rows[:5])
    assert rows.max() < spec.vocab_size == len(spec.names())


@pytest.mark.parametrize("kind", TINY)
def test_no_rival_beats_bayes(kind):
    found = ideal_nats(CONTROLS[kind](), 0, "val", 300, 129)
    assert found.get("informed", 0) <= found["bayes"] + 0.05
    assert all(found["bayes"] <= found[rival] + 1e-9 for rival in ("bigram", "unigram"))


def tasks(kind: str) -> list[tuple[list[int], list[int]]]:
    """Inputs and outputs of the whole tasks of some rows."""
    spec = CONTROLS[kind]()
    sep, end = spec.names().index("|"), spec.names().index(";")
    found = []
    for row in drawn(spec, 20, 200).tolist():
        for key, part in itertools.groupby(row, lambda token: token == end):
            task = list(part)
            if not key and sep in task and task[-1] != row[-1]:
                cut = task.index(sep)
                found.append((task[:cut], task[cut + 1 :]))
    return found


@pytest.mark.parametrize(
    ("kind", "solve"),
    [
        ("copy", lambda x: x), ("reverse", lambda x: x[::-1]), ("sort", sorted), ("set", lambda x: list(dict.fromkeys(x))),
        ("stack", lambda x: contents(x)),
    ],
)  # fmt: skip
def test_outputs_are_right(kind, solve):
    found = tasks(kind)
    assert len(found) > 20
    low, high = CONTROLS[kind]().length
    for x, y in found:
        assert low <= len(x) <= high
        assert y == solve(x)


def contents(operations: list[int]) -> list[int]:
    stack: list[int] = []
    for token in operations:
        _ = stack.pop() if token == CONTROLS["stack"]().n_symbols else stack.append(token)
    return stack[::-1]


def test_recall_asks_every_key_once():
    n_keys = CONTROLS["recall"]().n_keys
    for x, y in tasks("recall"):
        pairs = dict(zip(x[::2], x[1::2], strict=True))
        assert len(pairs) == len(x) // 2
        assert all(key < n_keys <= value for key, value in pairs.items())
        assert sorted(y[::2]) == sorted(pairs)
        assert all(pairs[key] == value for key, value in zip(y[::2], y[1::2], strict=True))


def test_repeat_has_the_period_it_says_and_every_period():
    spec, width = RepeatSpec(n_symbols=1000, period=(3, 9)), 40
    periods = set()
    for row in drawn(spec, 200, width):
        period = next(p for p in range(3, 10) if np.array_equal(row[p:], row[:-p]))
        periods.add(period)
    assert periods == set(range(3, 10))


def test_bayes_of_repeat_is_the_sum_over_periods():
    spec = RepeatSpec(n_symbols=3, period=(2, 5))
    rows = drawn(spec, 30, 12).astype(int)
    found = ideal_losses(spec, rows, 0, "train")

    def likelihood(part: list[int]) -> float:
        return sum(
            3.0 ** -min(p, len(part)) * all(part[i] == part[i - p] for i in range(p, len(part))) / 4
            for p in range(2, 6)
        )

    for row, nats in zip(rows.tolist(), found["bayes"], strict=True):
        expected = [math.log(likelihood(row[:i]) / likelihood(row[: i + 1])) for i in range(12)]
        assert nats == pytest.approx(expected, abs=1e-9)
    assert set(np.round(found["informed"].ravel(), 9)) == {0.0, round(math.log(3), 9)}


def test_bayes_of_linear_is_the_sum_over_maps():
    spec = LinearSpec(modulus=5, n_inputs=2)
    rows = drawn(spec, 30, 15).astype(int)
    found = ideal_losses(spec, rows, 0, "train")
    maps = list(itertools.product(range(5), repeat=2))
    for row, nats in zip(rows, found["bayes"], strict=True):
        left = maps
        for i in range(2, 15, 3):
            right = [w for w in left if (w[0] * row[i - 2] + w[1] * row[i - 1]) % 5 == row[i]]
            assert nats[i] == pytest.approx(math.log(len(left) / len(right)), abs=1e-9)
            left = right
        assert len(left) >= 1


def test_markov_bayes_approaches_who_knows_the_matrix():
    for spec in (MarkovSpec(n_states=3), MarkovSpec(n_states=2, order=2, alpha=0.5)):
        rows = drawn(spec, 400, 800).astype(np.int64)
        found = ideal_losses(spec, rows, 0, "train")
        excess = (found["bayes"] - found["informed"]).mean(axis=0)
        assert excess[10:30].mean() > 0.03
        assert abs(excess[-200:].mean()) < 0.01


def test_markov_informed_is_the_mean_over_matrices():
    """Weighing many matrices of the prior by how likely they made a row gives the same loss."""
    spec, row = MarkovSpec(n_states=2, alpha=1.0), np.array([[0, 0, 1, 0, 0, 0, 1, 1]])
    found = spec.ideals(row)["informed"][0]
    p = (np.arange(2000) + 0.5) / 2000  # P(1 | 0), and P(1 | 1), uniform
    after = {0: [0, 1, 0, 0, 1], 1: [0, 1]}
    for state, seen in after.items():
        weight = np.prod([p if token else 1 - p for token in seen], axis=0)
        cost = [-(weight * np.log(p if token else 1 - p)).sum() / weight.sum() for token in seen]
        assert found[1:][row[0, :-1] == state] == pytest.approx(cost, abs=1e-3)


def test_phrases_agree_and_displaced_words_come_again():
    spec = CONTROLS["minimalist"]()
    names = spec.names()
    for row in drawn(spec, 20, 200):
        stack: list[tuple[str, str]] = []
        moved, last = "", ""
        for name in (names[t] for t in row):
            if name.startswith("["):
                stack.append((name[1:], ""))
            elif name.endswith("]"):
                assert stack.pop()[0] == name[:-1]
                moved = moved if stack else ""
            elif name.startswith("."):
                assert stack[-1][1] == name[1:]
            elif "." in name:
                stack[-1] = (stack[-1][0], name.split(".")[1])
            elif name != "_" and not stack:
                moved = name
            elif name != "_":
                assert (last, name) == ("_", moved)
            assert len(stack) <= spec.max_depth
            last = name


def test_noise_has_the_frequencies_of_another_source():
    spec = parse_source("noise:stack:n_symbols=3,length=[2,4]")
    assert isinstance(spec, NoiseSpec)
    source = parse_source("stack:n_symbols=3,length=[2,4]")
    assert spec.vocab_size == source.vocab_size
    ours, theirs = (np.bincount(drawn(s, 2000, 100).ravel(), minlength=6) / 200_000 for s in (spec, source))
    assert np.abs(ours - theirs).max() < 0.01
    assert "stack" in spec.describe()


def test_tokens_say_what_the_ideal_predictors_pay(tmp_path):
    meta = write_tokens(tmp_path / "t", RepeatSpec(period=(4, 16)), n_train=40, n_val=30, seq_len=64, seed=3)
    assert meta.provenance["val"]["ideal_nats"] == ideal_nats(RepeatSpec(period=(4, 16)), 3, "val", 30, 65)
    assert meta.vocab_size == 64
    assert np.array_equal(TokenFile.open(tmp_path / "t").train, drawn(RepeatSpec(period=(4, 16)), 40, 65, seed=3))


BAD = [
    ("repeat:period=[8,200]", "repeat.period: [8, 200] is longer than the row of 129 tokens"),
    ("copy:length=[4,90]", "copy.length: [4, 90]: a list of 90 with its output is longer than the row of 129 tokens; legal: up to 63"),
    ("stack:length=[4,90]", "legal: up to 63"),
    ("recall:n_keys=99,pairs=[4,40]", "legal: up to 31"),
    ("linear:n_inputs=16", "linear.n_inputs: 16 inputs need 289 tokens before an output can be known, a row has 129; legal: up to 10"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), BAD)
def test_a_task_longer_than_the_row_is_refused_before_anything_is_written(text, message, tmp_path):
    spec = parse_source(text)
    with pytest.raises(UserError) as told:
        write_tokens(tmp_path / "t", spec, n_train=4, n_val=4, seq_len=128, seed=0)
    assert message in str(told.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("repeat:period=[9,8]", "period: [9, 8] is not a range"),
        ("repeat:n_symbols=1", "n_symbols"),
        ("recall:n_keys=4", "n_keys: 4 is a vocabulary too small for 16 pairs with different keys; legal: 16 or more"),
        ("linear:modulus=15", "15 is no prime; legal: a prime, e.g. 13"),
        ("markov:n_states=1024,order=2", "legal: up to 101"),
        ("noise:weights=[0,0]", "weights: some are negative, or all are 0"),
        ("repeet", "did you mean 'repeat'?"),
        ("repeat:perod=[2,3]", "did you mean 'period'?"),
    ],
)
def test_settings_that_cannot_be(text, message):
    with pytest.raises(UserError) as told:
        parse_source(text)
    assert message in str(told.value)


def test_any_control_can_be_a_regime():
    from nca_interp import discover as definitions
    from nca_interp.config import Regime
    from nca_interp.engine.vocabulary import spec_vocab
    from nca_interp.overrides import parse

    study = definitions.load("runs", on_error=lambda message: None)["smoke"].value()
    regimes = [Regime(name=kind, label=kind, source=parse_source(TINY[kind][0])) for kind in TINY]
    data = study.model_copy(update={"regimes": tuple(regimes)}).model_dump(mode="json")
    again = parse(type(study), data)
    assert [r.source for r in again.regimes] == [r.source for r in regimes]
    for regime in again.regimes:
        assert spec_vocab(regime.source.model_dump(mode="json")) == regime.source.vocab_size
    data["regimes"][0]["source"] = parse_source("repeat:period=[8,4000]").model_dump(mode="json")
    with pytest.raises(UserError, match=r"regimes.copy.source.period: \[8, 4000\] is longer than the row of"):
        parse(type(study), data)
