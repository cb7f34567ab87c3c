"""Probes on natural text: what followed the same words before, and kinds of tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nca_interp import discover
from nca_interp.analysis.attention.view import Attention
from nca_interp.analysis.probing.engine import analyze
from nca_interp.analysis.stimuli.base import NotApplicable, Subject, natural
from nca_interp.analysis.stimuli.vocabulary import token_text
from tests.analysis.models import attention_of, batch_of, random_patterns
from tests.analysis.reference import KEYS, in_class, mass


@pytest.fixture(scope="module")
def probes():
    return {name: d.value for name, d in discover.load("probes").items()}


def looking_at(keys: list[tuple[int, int]], length: int) -> torch.Tensor:
    """One head that looks at given keys (query, key), elsewhere at itself."""
    pattern = torch.eye(length)[None, None].clone()
    for q, k in keys:
        pattern[..., q, :] = 0.0
        pattern[..., q, k] = 1.0
    return pattern


@pytest.mark.parametrize(("n", "found"), [(1, [(3, 1), (4, 2), (5, 3)]), (2, [(4, 2), (5, 3)]), (3, [(5, 3)])])
def test_an_induction_head_on_text_scores_one_and_only_queries_that_repeat_count(probes, n, found):
    """7 8 9 7 8 9: the query 7 looks at 8, the query 7 8 at 9, the query 7 8 9 at 7."""
    batch = batch_of(np.array([[7, 8, 9, 7, 8, 9]]))
    probe = probes[f"natural_induction_{n}"].function
    assert probe(attention_of(looking_at(found, 6), batch)).item() == pytest.approx(1.0)
    assert probe(attention_of(looking_at([], 6), batch)).item() == pytest.approx(0.0), "looking at itself is none"
    previous = attention_of(looking_at([(q, q - 1) for q in range(1, 6)], 6), batch)
    assert probe(previous).item() == pytest.approx(0.0)
    expected = np.mean([1 / (q + 1) for q, _ in found])
    assert probe(Attention.uniform(batch)).item() == pytest.approx(expected)
    assert probes[f"natural_repeats_{n}"].function(batch).item() == pytest.approx(len(found) / 6)


def test_a_text_without_repeats_has_no_query(probes):
    batch = batch_of(np.arange(6)[None])
    assert probes["natural_induction_1"].function(Attention.uniform(batch)).isnan().all()
    assert probes["natural_repeats_1"].function(batch).tolist() == [0.0]


def test_equals_its_definition_on_text_that_repeats_itself(probes):
    tokens = np.random.default_rng(0).integers(0, 4, (3, 40))
    batch, maps = batch_of(tokens), random_patterns(1, 3, 2, 40)
    for n in (1, 2, 3):
        ours = probes[f"natural_induction_{n}"].function(attention_of(maps, batch))
        found = [
            mass(maps[b : b + 1].double().numpy(), KEYS[f"natural_induction_{n}"](batch.rows(b, b + 1)))
            for b in range(3)
        ]
        np.testing.assert_allclose(ours.numpy(), np.stack(found), atol=1e-5)


TEXTS = (" the", ",", "\n", " 12", " cat", "s", " .\n", "7", " of", "The", " ...", "word")
MEMBERS = {
    "function_word": {0, 8}, "punctuation": {1, 6, 10}, "newline": {2, 6}, "digit": {3, 7}, "word_start": {0, 4, 8},
}  # fmt: skip


@pytest.mark.parametrize("name", MEMBERS)
def test_a_class_is_what_its_definition_says(probes, name):
    """A head on tokens of the class alone scores 1, a head on all others 0, and uniform attention its share."""
    length = len(TEXTS)
    batch, probe = batch_of(np.arange(length)[None], texts=TEXTS), probes[f"to_{name}"].function
    first, *_ = sorted(MEMBERS[name])
    inside = attention_of(
        looking_at([(q, max(m for m in MEMBERS[name] if m <= q)) for q in range(first, length)], length), batch
    )
    assert probe(inside).item() == pytest.approx(1.0)
    others = [k for k in range(length) if k not in MEMBERS[name]]
    late = [(q, max(k for k in others if k <= q)) for q in range(max(first, others[0]), length)]
    outside = attention_of(looking_at(late, length), batch)
    assert probe(outside).item() == pytest.approx(0.0 if others[0] < first or others[0] == 0 else 1 / (length - first))
    shares = [sum(m <= q for m in MEMBERS[name]) / (q + 1) for q in range(first, length)]
    assert probe(Attention.uniform(batch)).item() == pytest.approx(np.mean(shares))


def test_a_users_class_is_any_function_of_the_text():
    batch = batch_of(np.random.default_rng(0).integers(0, 12, (3, 30)), texts=TEXTS)
    maps = random_patterns(2, 3, 2, 30)
    mine = lambda text: text in (" cat", "word")
    ours = attention_of(maps, batch).to_class(mine).mean()
    found = [mass(maps[b : b + 1].double().numpy(), in_class(mine)(batch.rows(b, b + 1))) for b in range(3)]
    np.testing.assert_allclose(ours.numpy(), np.stack(found), atol=1e-5)


def test_without_a_tokenizer_classes_do_not_apply(probes):
    with pytest.raises(NotApplicable, match="no tokenizer"):
        probes["to_digit"].function(Attention.uniform(batch_of(np.arange(6)[None])))


@pytest.fixture
def worded(tmp_path, tiny_checkpoint):
    """A checkpoint with a byte-level tokenizer, whose tokens are text."""
    import shutil

    from tests.analysis.models import byte_tokenizer

    return byte_tokenizer(shutil.copytree(tiny_checkpoint, tmp_path / "model"))


def test_natural_text_of_a_checkpoint_knows_its_words(worded):
    rows = np.arange(60).reshape(2, 30)
    batch = natural(sequences=2).build(Subject("x", 300, 100, rows=rows, tokenizer=worded))
    assert len(batch.texts) == 300
    assert batch.texts[290] == ""
    names = [f"to_{name}" for name in ("punctuation", "newline")]
    frame = analyze(worded, probes=names)
    assert set(frame[frame["head"].notna()].probe) == set(names)
    assert frame.attrs["problems"] == frame.attrs["skipped"] == []
    assert (frame.value.between(0, 1) & (frame.chance > 0)).all()


def test_sentencepiece_pieces_keep_their_leading_space():
    from tokenizers import Tokenizer, decoders, models

    tokenizer = Tokenizer(models.WordLevel({"\u2581the": 0, "s": 1}, unk_token="s"))
    tokenizer.decoder = decoders.Metaspace()
    assert [token_text(tokenizer, token) for token in (0, 1)] == [" the", "s"]
