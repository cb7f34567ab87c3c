"""Which rules are shown: filters, freshness, the record of the rules, and the null models."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from nca_interp.analysis.complexity.vector import MEASURES, profile
from nca_interp.base import UserError
from nca_interp.data.complexity.scores import SCORES
from nca_interp.data.nca import rows as nca_rows
from nca_interp.data.nca import rules as nca
from nca_interp.data.nca.dynamics import damage
from nca_interp.data.nca.filters import rule_scores
from nca_interp.data.rng import GOLDEN, stream_key
from nca_interp.data.sample import draw, of_tokens
from nca_interp.data.specs import RULE_MEASURES, NcaSpec
from nca_interp.data.tokens import TokenFile, write_tokens
from nca_interp.discover import find
from nca_interp.overrides import with_overrides

SMALL = {"grid": 6, "n_states": 4}
SPLITS = ("train", "val", "new", "inspect", "unigram pool")


def rows(spec: NcaSpec, n: int, n_tokens: int = 120, split: str = "train", threads: int = 1):
    return np.concatenate(list(nca_rows.nca_rows(spec, 0, split, n, n_tokens, threads, nca_rows.Search())))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(SPLITS), st.sampled_from(SPLITS))
def test_splits_share_no_rule_by_construction(seed, one, other):
    """A rule's key is a bijection of (start of its split on one cycle of 2^64 places) + (candidate number): splits share no
    key as long as their starts are further apart than the candidates tried; here 2^40 of each."""
    if one == other:
        return
    inverse = pow(GOLDEN, -1, 2**64)
    apart = (stream_key(seed, "nca", one) - stream_key(seed, "nca", other)) * inverse % 2**64
    assert min(apart, 2**64 - apart) > 2**40
    assert len(np.unique([nca.rule_keys(seed, s, np.arange(50)) for s in (one, other)])) == 100


def test_names_of_filters_are_the_measures_of_single_rows():
    assert set(RULE_MEASURES) == set(SCORES)


@pytest.mark.parametrize(
    "where",
    [
        {"activity": (0.2, 0.6)},
        {"damage": (0.3, 0.9)},
        {"lempel_ziv": (0.2, 0.7), "damage_slope": (0.0, 1.0)},
        {"period": (1, 2)},
    ],
    ids=str,
)
@pytest.mark.parametrize("band", [None, (0.3, 0.8)])
def test_filters_accept_what_lies_inside_and_keep_the_order(where, band):
    spec = NcaSpec(**SMALL, band=band, where=where)
    judged = nca_rows.judge(spec, 0, "train", 0, 200)
    keys = nca.rule_keys(0, "train", np.arange(200))
    frames = nca.simulate(spec, nca.make_rules(spec, keys), nca.trajectory_keys(keys, 0), spec.score_frames)
    inside = np.ones(200, bool)
    if band is not None:
        scores = nca.gzip_scores(spec, frames)
        inside &= (scores >= band[0]) & (scores < band[1])
    for name, (low, high) in where.items():
        values = rule_scores(spec, keys, frames, [name])[name]
        inside &= (values >= low) & (values < high)
    assert judged.candidates.tolist() == np.flatnonzero(inside).tolist()
    assert 0 < inside.sum() < 200


@pytest.mark.parametrize("name", RULE_MEASURES)
def test_every_measure_can_filter_and_its_rows_do_not_depend_on_threads(name):
    """Half of the rules by each measure: its values on the accepted ones, measured again from the sample, lie in the range."""
    everything = NcaSpec(**SMALL, band=None, score_frames=30)
    keys = nca.rule_keys(0, "inspect", np.arange(64))
    frames = nca.simulate(everything, nca.make_rules(everything, keys), nca.trajectory_keys(keys, 0), 30)
    values = rule_scores(everything, keys, frames, [name])[name]
    middle = float(np.nanmedian(values))
    low, high = (middle, 1e9) if (values >= middle).mean() < 1 else (-1e9, middle + 1e-9)
    spec = everything.model_copy(update={"where": {name: (low, high)}})
    sample = draw(spec, n=12, length=spec.tokens_per_frame * 30, threads=1)
    assert np.array_equal(sample.tokens, draw(spec, n=12, length=spec.tokens_per_frame * 30, threads=2).tokens)
    again = rule_scores(spec, sample.keys, sample.frames, [name])[name]
    assert ((again >= low) & (again < high)).all()


def test_filters_out_of_reach_stop_with_what_can_be_reached(monkeypatch):
    monkeypatch.setattr(nca_rows, "TRIES", 500)
    crossed = NcaSpec(**SMALL, band=(0.0, 0.2), where={"damage": (0.9, 1.0), "activity": (0.9, 1.0)})
    message = r"band: \[0, 0\.2\) and where\.damage: .* and where\.activity: .* are out of reach together: 0 of 5\d\d .*activity of the \d+ that came to it: min 0"
    with pytest.raises(UserError, match=message):
        rows(crossed, 1)
    with pytest.raises(UserError, match=r"where.damage: \[5, 6\) is out of reach.*damage of the .*max [0-3]\."):
        rows(NcaSpec(**SMALL, band=None, where={"damage": (5, 6)}), 1)


def test_bad_filters_are_refused_before_work_starts():
    with pytest.raises(ValidationError, match="where: unknown measure 'damages'; did you mean 'damage'"):
        NcaSpec(where={"damages": (0, 1)})
    with pytest.raises(ValidationError, match=r"where.activity: \[0.5, 0.5\] is not a range"):
        NcaSpec(where={"activity": (0.5, 0.5)})
    with pytest.raises(
        UserError,
        match="score_frames: 4 frames of 36 patches; where.mutual_information needs at least 256 tokens, score_frames 8",
    ):
        rows(NcaSpec(score_frames=4, where={"mutual_information": (0, 1)}), 1)
    with pytest.raises(UserError, match="score_frames: 1 frames .* score_frames 2 or more"):
        rows(NcaSpec(score_frames=1, where={"activity": (0, 1)}), 1)


def test_rules_and_trajectories_are_separate_settings():
    """(n_rules, n_trajectories): paper (null, null), released code (16,000, null), and both others."""
    numbers = np.arange(12)
    expected = {
        (None, None): (numbers, numbers * 0),
        (4, None): (numbers % 4, numbers // 4),
        (None, 3): (numbers // 3, numbers % 3),
        (4, 2): (numbers % 4, numbers // 4 % 2),
    }
    own = NcaSpec(**SMALL, band=(0.2, 1.2))
    rules = nca_rows.judge(own, 0, "train", 0, 64).candidates
    for (n_rules, n_trajectories), (rule, trajectory) in expected.items():
        spec = own.model_copy(update={"n_rules": n_rules, "n_trajectories": n_trajectories})
        frames = nca_rows.trajectory(spec, 0, "train", rules[rule], trajectory, 11)
        assert np.array_equal(rows(spec, 12), nca.frames_to_tokens(spec, frames)[:, :120])
        assert np.array_equal(rows(spec, 12)[:7], rows(spec, 7))
        assert np.array_equal(rows(spec, 5, split="val"), rows(own, 5, split="val"))


@pytest.mark.parametrize(
    "changes", [{}, {"n_rules": 5}, {"n_trajectories": 4}, {"where": {"damage": (0.2, 2.0)}}], ids=str
)
def test_any_row_is_made_again_from_the_recorded_rules(tmp_path, changes):
    spec = NcaSpec(**SMALL, **changes)
    meta = write_tokens(tmp_path / "a", spec, n_train=14, n_val=6, seq_len=109, seed=3, threads=1)
    assert {"train_rules.bin", "val_rules.bin"} <= set(meta.sha256)
    file = TokenFile.open(tmp_path / "a")
    for split, stored in (("train", file.train), ("val", file.val)):
        rules = file.row_rules(split, np.arange(len(stored)))
        frames = nca_rows.trajectory(spec, 3, split, rules.candidate, rules.trajectory, 10)
        assert np.array_equal(stored, nca.frames_to_tokens(spec, frames))
    if not changes:
        assert len(set(file.row_rules("train", np.arange(14)).candidate)) == 14
    sample = of_tokens(file, "train", 14)
    assert np.array_equal(sample.tokens, file.train[:, :109])
    assert len(set(sample.groups)) == {"n_rules": 5, "n_trajectories": 4}.get(next(iter(changes), ""), 14)
    (tmp_path / "a" / "val_rules.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"damaged tokens, val_rules\.bin has 0 bytes"):
        TokenFile.open(tmp_path / "a")


def test_null_models_keep_and_destroy_what_they_say():
    """shuffle_frames: frames and their own statistics stay, dynamics go. shuffle_tokens: the row's unigram stays, frames go.
    unigram: the source's unigram stays, and no row differs from another but by chance."""
    spec = NcaSpec(**SMALL, band=None)
    samples = {
        c: draw(spec.model_copy(update={"control": c}), n=64, length=720)
        for c in ("none", "shuffle_frames", "shuffle_tokens", "unigram")
    }
    names = ["token_entropy", "own_cell_entropy", "activity", "recurs"]
    found = {c: profile(s, names).groupby("measure").value.apply(np.array) for c, s in samples.items()}
    plain = found["none"]
    for control in ("shuffle_frames", "shuffle_tokens"):
        assert np.array_equal(np.sort(samples[control].tokens), np.sort(samples["none"].tokens))
        assert found[control].token_entropy == pytest.approx(plain.token_entropy)
    assert np.array_equal(
        np.sort(samples["shuffle_frames"].frames.reshape(64, -1)), np.sort(samples["none"].frames.reshape(64, -1))
    )
    assert found["shuffle_frames"].recurs.tolist() == plain.recurs.tolist()
    assert found["shuffle_frames"].own_cell_entropy.mean() > plain.own_cell_entropy.mean() + 0.02
    assert found["shuffle_tokens"].own_cell_entropy.mean() > found["shuffle_frames"].own_cell_entropy.mean() + 0.02
    # unigram: all rows alike, the pooled frequencies kept
    assert found["unigram"].token_entropy.std() < 0.1 * plain.token_entropy.std()
    many = draw(spec, n=512, length=720, split="other").tokens
    pooled, drawn = (np.bincount(t.ravel(), minlength=258) / t.size for t in (many, samples["unigram"].tokens))
    assert np.corrcoef(pooled, drawn)[0, 1] > 0.95
    assert drawn[-2:] == pytest.approx(pooled[-2:])
    assert samples["unigram"].candidates is None


def test_unigram_rows_are_a_function_of_their_number(tmp_path):
    spec = NcaSpec(**SMALL, control="unigram")
    one = rows(spec, 150)
    assert np.array_equal(one, rows(spec, 150, threads=2))
    assert np.array_equal(one[:20], rows(spec, 20))
    assert not np.array_equal(one[:20], rows(spec, 20, split="val"))
    meta = write_tokens(tmp_path / "a", spec, n_train=4, n_val=2, seq_len=119, seed=0)
    assert set(meta.sha256) == {"train.bin", "val.bin"}
    assert TokenFile.open(tmp_path / "a").row_rules("train", [0]) is None


def test_damage_filter_crosses_gzip():
    """The 2-D design: low and high damage at one and the same gzip band."""
    means = []
    for low, high in ((0.0, 0.5), (0.9, 1.2)):
        sample = draw(NcaSpec(band=(0.5, 0.9), where={"damage": (low, high)}), n=8, length=400)
        found = profile(sample, ["gzip_ratio", "damage"]).groupby("measure").value.mean()
        assert low <= found.damage < high
        assert damage(sample.spec, sample.keys).spread.mean() == pytest.approx(found.damage)
        means.append(found.gzip_ratio)
    assert abs(means[0] - means[1]) < 0.35


def test_a_filter_is_set_from_the_command_line():
    study = with_overrides(find("runs", "smoke").value(), ["regimes.nca.source.where.damage=[0.0, 0.5]"])
    assert study.regime("nca").source.where == {"damage": (0.0, 0.5)}
    with pytest.raises(UserError, match="unknown measure 'damaged'; did you mean 'damage'"):
        with_overrides(find("runs", "smoke").value(), ["regimes.nca.source.where.damaged=[0.0, 0.5]"])


def test_every_measure_is_documented(root):
    words = set(re.findall(r"\w+", (root / "docs" / "measures.md").read_text()))
    assert set(MEASURES) <= words
