"""Bytes of tokens: for any text they add up to those of the text, or the count says that they do not."""

from __future__ import annotations

import json
import random
import unicodedata

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from nca_interp.data.specs import TextSpec, TokenizerSpec
from nca_interp.data.text.byte_counts import byte_counts
from nca_interp.data.tokens import TokenFile, write_tokens

END = "</s>"
TEXTS = [
    "def f(x):\n    return x\n",
    "Ein Café kostet 3 €.",
    "日本語 text",
    "a▁b",
    "  two  spaces   ",
    "\t\n x",
    "naïve 🙂 ok",
]
ALPHABET = "ab  \n\t.é€🙂▁日" + "e\u0301<|>/s"


def random_texts(seed, n=200):
    rng = random.Random(seed)
    return TEXTS + ["".join(rng.choices(ALPHABET, k=rng.randint(1, 30))) for _ in range(n)]


def byte_level(prefix_space=False, normalizer=None):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=[END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    if normalizer:
        tokenizer.normalizer = normalizer
    return tokenizer


def runs_of_spaces():
    tokenizer = byte_level()
    tokenizer.add_tokens([AddedToken(" " * n, special=False) for n in range(8, 1, -1)])
    tokenizer.add_tokens([AddedToken("€🙂", special=False)])
    return tokenizer


def sentencepiece(prepend=True):
    """Llama-like: spaces as ▁, other characters as bytes."""
    vocabulary = {END: 0} | {f"<0x{b:02X}>": b + 1 for b in range(256)}
    vocabulary |= {c: i + 257 for i, c in enumerate(["▁", "a", "b", "e", ".", "é", "▁a"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("▁", "a")], byte_fallback=True, fuse_unk=False))
    replace = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace]) if prepend else replace
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([END])
    return tokenizer


def metaspace():
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), (END, 0.0), *((c, -3.0) for c in "▁abe.é")], 0))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer.add_special_tokens([END])
    return tokenizer


def word_piece():
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, END: 1, "a": 2, "##b": 3, "b": 4}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    tokenizer.add_special_tokens([END])
    return tokenizer


KINDS = {
    "byte level": (byte_level, 1.0), "runs of spaces": (runs_of_spaces, 1.0),
    "prefix space": (lambda: byte_level(prefix_space=True), 0.5), "NFC": (lambda: byte_level(normalizer=normalizers.NFC()), 0.5),
    "lower case": (lambda: byte_level(normalizer=normalizers.NFKD()), 0.1), "sentencepiece": (sentencepiece, 0.2),
    "sentencepiece without prefix": (lambda: sentencepiece(prepend=False), 0.2), "metaspace": (metaspace, 0.0),
    "word piece": (word_piece, 0.0),
}  # fmt: skip
"""And the least share of the texts on which the count must be exact."""


@pytest.mark.parametrize("kind", KINDS)
def test_counts_add_up_to_the_text_or_say_that_they_do_not(kind):
    make, least = KINDS[kind]
    tokenizer = make()
    tokenizer.encode_special_tokens = True
    end = tokenizer.token_to_id(END)
    counts, exact, texts = byte_counts(tokenizer, end), 0, random_texts(0)
    assert counts.sizes[end] == 0
    for text in texts:
        ids = np.array([*tokenizer.encode(text, add_special_tokens=False).ids, end])
        true = len(text.encode())
        counted, differing = counts.of_documents(ids, np.array([len(ids)]), np.array([true]))
        assert differing == (not counts.known or counted != true)
        exact += not differing
    assert least * len(texts) <= exact
    assert exact < len(texts) or least == 1.0, "this kind changes some of these texts"


def test_documents_are_told_apart():
    counts = byte_counts(tokenizer := byte_level(), end := tokenizer.token_to_id(END))
    ids = [[*tokenizer.encode(text).ids, end] for text in TEXTS[:3]]
    true = np.array([len(text.encode()) for text in TEXTS[:3]])
    flat, lengths = np.concatenate(ids), np.array([len(i) for i in ids])
    assert counts.of_documents(flat, lengths, true) == (true.sum(), 0)
    assert counts.of_documents(flat, lengths, true + [0, 1, 2])[1] == 2
    assert counts.of_documents(flat[:0], lengths[:0], true[:0]) == (0, 0)


def prepare(folder, documents, tokenizer):
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END).save_pretrained(folder / "tok")
    (folder / "x.jsonl").write_text("".join(json.dumps({"text": d}) + "\n" for d in documents))
    spec = TextSpec(
        source=f"files:{folder}/x.jsonl", tokenizer=TokenizerSpec(kind="hf", name=str(folder / "tok")), val_fraction=0.3
    )
    meta = write_tokens(folder / "t", spec, n_train=10_000, n_val=10_000, seq_len=32, seed=0, threads=1)
    return meta, TokenFile.open(folder / "t").val


@pytest.mark.parametrize("make", [runs_of_spaces, sentencepiece, lambda: sentencepiece(prepend=False)])
def test_the_bytes_of_the_targets_are_those_of_the_text(tmp_path, make):
    """Against decoding: all rows are one stream of documents, each row's first token is not a target."""
    documents = [f"a b\n    e {i}" + "  a" * (i % 9) + "\n        b" for i in range(300)]
    meta, val = prepare(tmp_path, documents, make())
    assert meta.provenance["bytes_per_token_exact"]
    tokenizer = Tokenizer.from_file(str(tmp_path / "t" / "tokenizer.json"))
    sizes = byte_counts(tokenizer, meta.end_id).sizes
    ends = np.flatnonzero(val.ravel() == meta.end_id)
    by_text = {tuple(tokenizer.encode(d).ids): len(d.encode()) for d in documents}
    whole = [tuple(val.ravel()[a + 1 : b].tolist()) for a, b in zip(ends[:-1], ends[1:], strict=True)]
    assert len(whole) > 50
    inside = sum(by_text[ids] for ids in whole)
    prefix = 1 if make is sentencepiece else 0
    places = np.arange(val.size)
    outside = (places <= ends[0]) | (places > ends[-1])
    heads = (places % val.shape[1] == 0) & ~outside
    starts = np.isin(places - 1, ends)
    lost = sizes[val.ravel()[heads]].sum() - prefix * (heads & starts).sum()
    others = outside & (places % val.shape[1] > 0)
    rest = sizes[val.ravel()[others]].sum() - prefix * (others & starts).sum()
    assert meta.val_bytes == inside - lost + rest
    assert meta.bytes_per_token == meta.val_bytes / (val.size - len(val))


def test_a_normaliser_that_changes_the_text_is_noticed_and_the_original_counted(tmp_path):
    plain = [f"café {i} " * 20 for i in range(200)]
    for name, documents, exact in (("c", plain, True), ("d", [unicodedata.normalize("NFD", d) for d in plain], False)):
        (tmp_path / name).mkdir()
        meta, val = prepare(tmp_path / name, documents, byte_level(normalizer=normalizers.NFC()))
        assert meta.provenance["bytes_per_token_exact"] is exact
        assert (meta.provenance["val_documents_miscounted"] == meta.provenance["val_documents"]) is not exact
        tokenizer = Tokenizer.from_file(str(tmp_path / name / "t" / "tokenizer.json"))
        decoded = sum(len(tokenizer.decode(row[1:].tolist()).encode("utf-8")) for row in val)
        grown = 1.0 if exact else len(documents[100].encode()) / len(plain[100].encode())
        assert meta.val_bytes == pytest.approx(decoded * grown, rel=0.02)
