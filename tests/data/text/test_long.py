"""Very long documents and words: the same tokens in pieces, time in proportion, one key whatever the pieces."""

from __future__ import annotations

import hashlib
import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from nca_interp.data.specs import TokenizerSpec
from nca_interp.data.text import long
from nca_interp.data.text.documents import make_tokenizer
from nca_interp.data.text.encode import Encoder
from nca_interp.data.text.long import cut_long, document_key

WORDS = [
    "the",
    "cat",
    "it's",
    "naïve",
    "☃",
    "字字",
    "x = 1;",
    "1234",
    "\n",
    "\n\n",
    "  ",
    "\t",
    "a\r\nb",
    "...",
    "'ll",
    "",
]
RANDOM = random.Random(0)
PROSE = [" ".join(RANDOM.choices(WORDS, k=400)) for _ in range(60)]


@pytest.fixture(scope="module")
def byte_level() -> Tokenizer:
    return make_tokenizer(TokenizerSpec(vocab_size=400), PROSE)[0]


@pytest.fixture(scope="module")
def prepending() -> Tokenizer:
    """As in Llama 2: a blank goes before every text, all blanks become one sign, and the text is a single word."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=False, unk_token="?"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    words = pre_tokenizers.Metaspace()
    tokenizer.pre_tokenizer = words
    tokenizer.train_from_iterator(PROSE, trainers.BpeTrainer(vocab_size=300, special_tokens=["?"], show_progress=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("\0", "isolated")
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def whole(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("kind", ["byte_level", "prepending"])
@settings(max_examples=40, deadline=None)
@given(words=st.lists(st.sampled_from(WORDS), min_size=30, max_size=200), limit=st.integers(40, 90))
def test_pieces_have_the_tokens_of_the_whole(kind, request, words, limit):
    tokenizer, text = request.getfixturevalue(kind), " ".join(words)
    pieces = cut_long(text, tokenizer, limit)
    assert all(len(piece) <= limit for piece in pieces.texts)
    if not pieces.inside:
        assert [i for piece in pieces.texts for i in whole(tokenizer, piece)] == whole(tokenizer, text)


@pytest.mark.parametrize("kind", ["byte_level", "prepending"])
def test_borders_are_found_in_prose(kind, request):
    tokenizer = request.getfixturevalue(kind)
    text = " ".join("the cat sat on a naïve mat, 1234 times." for _ in range(200))
    pieces = cut_long(text, tokenizer, 500)
    assert pieces.inside == 0
    assert len(pieces.texts) == pytest.approx(len(text) / 500, abs=2)
    assert [i for piece in pieces.texts for i in whole(tokenizer, piece)] == whole(tokenizer, text)


def test_a_word_without_end_is_cut_inside_and_counted(byte_level, monkeypatch):
    monkeypatch.setattr(long, "PIECE_CHARACTERS", 1000)
    pieces = cut_long("A" * 3500, byte_level, 1000)
    assert (pieces.inside, list(map(len, pieces.texts))) == (3, [1000, 1000, 1000, 500])
    short = ["ab", "the cat " * 50, "c"]
    ids, counts, inside = Encoder(byte_level, 7, np.dtype("<u2")).encode(short)
    assert inside == 0
    assert counts == [len(whole(byte_level, t)) + 1 for t in short]
    assert ids.tolist() == [i for t in short for i in (*whole(byte_level, t), 7)]


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet="ab \t\n\u2028é", max_size=40), size=st.integers(1, 9))
def test_the_key_does_not_depend_on_pieces(text, size):
    plain = " ".join(text.split())
    expected = hashlib.blake2b(plain.encode(), digest_size=8).digest() if plain else b""
    before, long.PIECE_CHARACTERS = long.PIECE_CHARACTERS, size
    try:
        assert document_key(text) == expected
    finally:
        long.PIECE_CHARACTERS = before


def test_a_bpe_is_trained_on_unbroken_letters_in_bounded_time():
    """80,000 letters in one word took 8 s, and 16 times as long for 4 times as many."""
    dna = "".join(random.Random(1).choices("ACGT", k=400_000))
    begin = time.process_time()
    tokenizer, *_ = make_tokenizer(TokenizerSpec(vocab_size=400), [dna])
    assert time.process_time() - begin < 20
    assert len(whole(tokenizer, dna[:50_000])) < 50_000 / 2
    assert tokenizer.decode(whole(tokenizer, dna[:5000])) == dna[:5000]
