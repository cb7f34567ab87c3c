"""Samples: rows of every source with what lies behind them."""

from __future__ import annotations

import numpy as np
import pytest

from nca_interp.base import UserError
from nca_interp.data.nca.rows import Search, nca_rows
from nca_interp.data.nca.rules import frames_to_tokens, make_rules, simulate, trajectory_keys
from nca_interp.data.sample import draw
from nca_interp.data.specs import DyckSpec, NcaSpec, TextSpec, TokenizerSpec


def text(folder, **changes) -> TextSpec:
    for i in range(30):
        words = " ".join(f"w{i}x{j % (5 + i)}" for j in range(400))
        (folder / f"{i:02}.txt").write_text(words)
    return TextSpec(source=f"files:{folder}/*.txt", tokenizer=TokenizerSpec(vocab_size=300), **changes)


def test_nca_rows_come_with_their_grids_and_rules():
    spec = NcaSpec(grid=6, n_states=4, band=(0.3, 0.9))
    sample = draw(spec, n=20, length=99, seed=2)
    rows = np.concatenate(list(nca_rows(spec, 2, "inspect", 20, 99, 1, Search())))
    assert np.array_equal(sample.tokens, rows)
    assert sample.frames.shape == (20, 9, 6, 6)
    assert np.array_equal(frames_to_tokens(spec, sample.frames), rows)
    again = simulate(spec, make_rules(spec, sample.keys), trajectory_keys(sample.keys, 0), 9)
    assert np.array_equal(again, sample.frames)
    assert sample.groups == [str(c) for c in sample.candidates]
    assert 0 < sample.found["acceptance_rate"] <= 1
    assert sample.vocab_size == 258
    assert not np.array_equal(sample.tokens, draw(spec, n=20, length=99, seed=2, split="train").tokens)


def test_fixed_rules_are_groups_of_the_training_split_only():
    spec = NcaSpec(grid=6, n_states=4, band=None, n_rules=3)
    assert len(set(draw(spec, n=9, length=50, split="train").groups)) == 3
    assert len(set(draw(spec, n=9, length=50).groups)) == 9


def test_text_rows_are_consecutive_text_of_their_group(tmp_path):
    spec = text(tmp_path)
    sample = draw(spec, n=40, length=64, seed=1)
    assert sample.tokens.shape == (40, 64)
    assert sample.tokens.max() < sample.vocab_size == sample.tokenizer.get_vocab_size()
    documents = [p.read_text() for p in sorted(tmp_path.glob("*.txt"))]
    for row, group, shown in zip(sample.tokens, sample.groups, sample.texts, strict=True):
        assert sample.tokenizer.decode(row.tolist(), skip_special_tokens=False) == shown
        parts = shown.split("<|endoftext|>")
        longest = max(parts, key=len)
        assert longest in group
        assert group in documents
    assert np.array_equal(sample.tokens, draw(spec, n=40, length=64, seed=1).tokens)
    other = draw(spec, n=40, length=64, seed=2)
    assert set(other.groups) != set(sample.groups)


def test_text_splits_share_no_document(tmp_path):
    spec = text(tmp_path, val_fraction=0.4)
    train, val = (draw(spec, n=5000, length=64, split=split) for split in ("train", "val"))
    assert not set(train.groups) & set(val.groups)
    assert len(train.tokens) < 5000  # all there is


def test_dyck_rows_and_a_bootstrap():
    sample = draw(DyckSpec(k=3), n=6, length=20)
    taken = sample.take([5, 5, 0])
    assert np.array_equal(taken.tokens, sample.tokens[[5, 5, 0]])
    assert taken.groups == ["5", "5", "0"]
    assert taken.keys is None


def test_what_cannot_be_drawn_is_refused(tmp_path):
    with pytest.raises(UserError, match="n: 0; legal: 1 or more"):
        draw(DyckSpec(), n=0)
    (tmp_path / "a.txt").write_text("short")
    spec = TextSpec(source=f"files:{tmp_path}/a.txt", tokenizer=TokenizerSpec(vocab_size=258))
    with pytest.raises(UserError, match="is too short: a row needs at least 1,024 tokens, it holds 6"):
        draw(spec)
