"""Stimuli hold only tokens that the tokenizer knows as text, and every row begins as the tokenizer begins a text."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, models, processors

from nca_interp.analysis.probing.engine import analyze
from nca_interp.analysis.stimuli.base import Subject, account, drawable, natural, repeated_tokens
from nca_interp.analysis.stimuli.streams import dyck, nca_frames
from nca_interp.analysis.stimuli.subject import describe
from nca_interp.analysis.stimuli.vocabulary import read_vocabulary
from nca_interp.model.checkpoint import load_config
from nca_interp.store import write_json
from tests.analysis.models import letter_tokenizer, tiny

STIMULI = (repeated_tokens(period=16), nca_frames(), dyck())


def checkpoint(folder, n=60, prefix=None, **config):
    """97 rows of embedding for `n` letters; ids 1, 2, 0 are named begin, end and padding by the configuration."""
    tiny("llama", **config).save_pretrained(folder)
    return letter_tokenizer(folder, n, prefix)


def subject_of(folder, provenance=None, **more):
    return describe(folder, load_config(folder), provenance or {}, **more)


def test_random_stimuli_draw_from_the_tokenizer_and_not_from_padding(tmp_path):
    folder = checkpoint(tmp_path)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens(["<end>"])
    tokenizer.add_tokens([AddedToken("<control>", special=False), AddedToken("    ", special=False)])
    tokenizer.save(str(folder / "tokenizer.json"))
    subject = subject_of(folder)
    assert subject.vocab_size == 97
    assert set(drawable(subject)) <= set(range(60)) - {0, 1, 2}
    for stimulus in STIMULI:
        assert set(np.unique(stimulus.build(subject).inputs)) <= set(range(60)) - {0, 1, 2}
    n = len(drawable(subject))
    frame = analyze(folder, probes=["induction"])
    told = frame.attrs["provenance"]["tokens"]
    assert (told["drawn_from"], told["vocab_size"], told["tokenizer"]) == (n, 97, str(folder))
    assert f"drawn from {n} of 97 ids (ordinary tokens of the tokenizer" in told["sentence"]


def test_without_a_tokenizer_it_is_said_and_nothing_is_put_before(tmp_path):
    tiny("llama").save_pretrained(tmp_path)
    subject = subject_of(tmp_path)
    assert (subject.prefix, len(drawable(subject))) == ((), 94)
    assert "no tokenizer is there: all ids but the special ones" in account(subject)["sentence"]


@pytest.mark.parametrize("prefix", [{}, {"<s>": 60}, {"[gMASK]": 60, "<sop>": 61}])
def test_all_rows_begin_as_the_tokenizer_begins_a_text(tmp_path, prefix):
    folder = checkpoint(tmp_path, prefix=prefix)
    subject, first = subject_of(folder), list(prefix.values())
    assert subject.prefix == tuple(first)
    bare = natural().build(Subject("x", 97, 96, rows=subject.rows))
    for stimulus in (natural(), *STIMULI):
        batch = stimulus.build(subject)
        assert batch.inputs.shape[1] <= 96
        assert batch.inputs[:, : len(first)].tolist() == [first] * len(batch.inputs)
        assert np.array_equal(batch.inputs[:, 1:], batch.targets[:, : batch.length - 1])
    shown = natural().build(subject)
    assert np.array_equal(shown.inputs[:, len(first) :], bare.inputs[:, : 96 - len(first)])
    assert np.array_equal(
        shown.targets[:, -1], np.concatenate([bare.inputs, bare.targets[:, -1:]], 1)[:, 96 - len(first)]
    )


def test_the_beginning_is_found_where_the_alphabet_is_a_small_one(tmp_path):
    """A tokenizer of DNA knows no "a"."""
    tokenizer = Tokenizer(models.BPE({"A": 0, "C": 1, "G": 2, "T": 3, "<s>": 4}, []))
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A <s>", special_tokens=[("<s>", 4)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert read_vocabulary(tmp_path) == ({0, 1, 2, 3}, (4,))


@pytest.mark.parametrize("wanted", [True, False, None])
@pytest.mark.parametrize("template", [True, False])
def test_the_beginning_is_that_of_transformers(tmp_path, wanted, template):
    """The post-processor of tokenizer.json decides, whatever tokenizer_config.json says."""
    from transformers import AutoTokenizer

    folder = checkpoint(tmp_path, prefix={"<s>": 60} if template else None)
    if not template:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.add_special_tokens(["<s>"])
        tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>"}
    write_json(folder / "tokenizer_config.json", settings | ({} if wanted is None else {"add_bos_token": wanted}))
    expected = AutoTokenizer.from_pretrained(folder)("abc")["input_ids"][:-3]
    assert list(subject_of(folder).prefix) == expected == ([60] if template else [])


def test_rows_of_our_own_models_begin_as_in_training(tmp_path):
    folder = checkpoint(tmp_path, prefix={"<s>": 60})
    own = subject_of(folder, {"run": "pt.nca.web.s0", "meta": {"vocab_size": 61, "spec": {"kind": "text"}}})
    assert (own.prefix, own.vocab_size) == ((), 61)
    assert account(own)["sentence"].endswith("no begin-of-sequence token, as in training")


def test_tokens_that_are_equally_frequent_stay_or_go_together():
    """Most tokens do not occur: which of them are left out must not be a matter of their number."""
    rng = np.random.default_rng(0)
    seen = rng.permutation(1000)[:300]
    rows = np.tile(np.repeat(seen, np.arange(1, 301)), (2, 1))
    drawn = set(drawable(Subject("x", 1000, 64, rows=rows)).tolist())
    assert set(range(1000)) - drawn == set(seen[-40:].tolist()), "the most frequent 4 % alone"
    full = np.tile(np.repeat(np.arange(100), 1 + np.arange(100) // 10), (2, 1))  # ten tokens of each frequency
    assert set(drawable(Subject("x", 100, 64, rows=full)).tolist()) == set(range(100))
