"""Tokenizers wherever they lie: each kind gives the ids of its original, and what is none is refused with what is legal."""

from __future__ import annotations

import json
import shutil

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from nca_interp.analysis.stimuli.text import sample_text
from nca_interp.base import UserError
from nca_interp.data.specs import END, TextSpec, TokenizerSpec
from nca_interp.data.text import documents as text
from nca_interp.data.text.tokenizer import has_tokenizer, open_tokenizer
from nca_interp.data.tokens import write_tokens

SAMPLE = sample_text().text[:20_000] + "\n\n  two  spaces, 12 of 345, naïve déjà-vu\t(x)\n"


@pytest.fixture(scope="module")
def bpe(tmp_path_factory):
    """A byte-level BPE: vocab.json and merges.txt alone, and the ids of the sample."""
    from tokenizers.implementations import ByteLevelBPETokenizer

    folder = tmp_path_factory.mktemp("bpe")
    made = ByteLevelBPETokenizer()
    made.train_from_iterator([SAMPLE], vocab_size=400, special_tokens=["<|endoftext|>"], show_progress=False)
    made.save_model(str(folder))
    return folder, made


def ids(where) -> list[int]:
    return open_tokenizer(where).tokenizer.encode(SAMPLE, add_special_tokens=False).ids


def test_vocabulary_and_merges(bpe):
    folder, made = bpe
    expected = made.encode(SAMPLE).ids
    assert has_tokenizer(folder)
    for where in (folder, folder / "vocab.json", folder / "merges.txt", str(folder)):
        assert ids(where) == expected
    opened = open_tokenizer(folder)
    assert opened.end_id == 0
    assert opened.tokenizer.decode(expected) == SAMPLE
    assert opened.tokenizer.get_added_tokens_decoder()[0].special


def test_a_tokenizer_file_and_its_folder(bpe, tmp_path):
    _, made = bpe
    made.enable_truncation(5)  # as some files on the hub have it; a text must not be cut
    made.enable_padding(length=9)
    made.save(str(tmp_path / "tokenizer.json"))
    made.no_truncation(), made.no_padding()
    assert ids(tmp_path) == ids(tmp_path / "tokenizer.json") == made.encode(SAMPLE).ids
    shutil.copyfile(tmp_path / "tokenizer.json", tmp_path / "mine.json")
    assert ids(tmp_path / "mine.json") == made.encode(SAMPLE).ids


def test_the_end_of_text_is_what_the_files_say(bpe, tmp_path):
    _, made = bpe
    made.save(str(tmp_path / "tokenizer.json"))
    assert open_tokenizer(tmp_path).end_id == 0
    (tmp_path / "config.json").write_text('{"eos_token_id": 7}')
    assert open_tokenizer(tmp_path).end_id == 7
    for legal, end in (
        ("[7, 8]", 7),
        ("[99999, 8]", 8),
        ("true", 0),
        ("-1", 0),
        ("99999999999", 0),
        ("[]", 0),
        ('"no"', 0),
    ):
        (tmp_path / "config.json").write_text(f'{{"eos_token_id": {legal}}}')
        assert open_tokenizer(tmp_path).end_id == end
    token = made.id_to_token(9)
    for eos in (token, {"content": token}):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": eos}))
        assert open_tokenizer(tmp_path).end_id == 9


def test_an_id_that_no_table_could_hold_is_refused(bpe, tmp_path):
    settings = json.loads(bpe[1].to_str())
    settings["model"]["vocab"]["zzz"] = 2**31
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"a token has the id 2,147,483,648; legal: less than 16,777,216"):
        open_tokenizer(tmp_path)


def test_nothing_is_random_in_a_tokenizer(bpe, tmp_path):
    _, made = bpe
    settings = json.loads(made.to_str())
    settings["model"]["dropout"] = 0.5
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings))
    assert len({tuple(open_tokenizer(tmp_path).tokenizer.encode(SAMPLE).ids) for _ in range(5)}) == 1
    assert open_tokenizer(tmp_path).tokenizer.encode(SAMPLE).ids == made.encode(SAMPLE).ids


def test_our_own_token_directory(tmp_path):
    (tmp_path / "c.txt").write_text(SAMPLE)
    (tmp_path / "d.txt").write_text(SAMPLE[::-1])
    spec = TextSpec(source=f"files:{tmp_path}/*.txt", tokenizer=TokenizerSpec(vocab_size=300))
    write_tokens(tmp_path / "own", spec, n_train=4, n_val=2, seq_len=32, seed=0)
    own = Tokenizer.from_file(str(tmp_path / "own" / "tokenizer.json"))
    assert ids(tmp_path / "own") == own.encode(SAMPLE, add_special_tokens=False).ids
    tokenizer, end, _, _ = text.make_tokenizer(TokenizerSpec(kind="hf", name=str(tmp_path / "own")), [])
    assert end == own.token_to_id(END)
    assert tokenizer.get_vocab() == own.get_vocab()


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize(
    "options",
    [
        {},  # spaces joined and cut, a space put before the text: sentencepiece's defaults
        {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "byte_fallback": True},  # Llama
        {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "add_dummy_prefix": False},  # Gemma
        {"user_defined_symbols": ["<x>"], "split_digits": True},
    ],
)
def test_a_sentencepiece_model_gives_the_ids_of_sentencepiece(tmp_path, kind, options):
    spm = pytest.importorskip("sentencepiece")
    lines = iter(SAMPLE.split("\n"))
    prefix = str(tmp_path / "tokenizer")
    spm.SentencePieceTrainer.train(
        sentence_iterator=lines, model_prefix=prefix, vocab_size=500, model_type=kind, minloglevel=2, **options
    )
    expected = spm.SentencePieceProcessor(model_file=f"{prefix}.model").encode(SAMPLE)
    assert ids(tmp_path / "tokenizer.model") == expected
    assert ids(tmp_path) == expected
    assert open_tokenizer(tmp_path).end_id == 2
    for model_type in ("llama", "mistral"):  # the folder of a model: its class adds nothing to the pieces
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
        assert ids(tmp_path) == expected


def test_a_sentencepiece_model_that_would_give_other_tokens_is_refused(tmp_path):
    spm = pytest.importorskip("sentencepiece")
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(SAMPLE.split("\n")), model_prefix=str(tmp_path / "t"), vocab_size=500, minloglevel=2,
        treat_whitespace_as_suffix=True,
    )  # fmt: skip
    with pytest.raises(UserError, match="t.model: converted, it gives other tokens than sentencepiece"):
        open_tokenizer(tmp_path / "t.model")


def test_code_in_the_folder_is_never_run(bpe, tmp_path, monkeypatch):
    folder, _ = bpe
    shutil.copytree(folder, tmp_path / "evil")
    (tmp_path / "evil" / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    (tmp_path / "evil" / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}})
    )
    with pytest.raises(UserError, match="evil: not a tokenizer that transformers opens"):
        open_tokenizer(tmp_path / "evil")
    assert not (tmp_path / "ran").exists()


def test_what_is_no_tokenizer(bpe, tmp_path):
    folder, _ = bpe
    (tmp_path / "a").mkdir()
    with pytest.raises(
        UserError, match="a: no tokenizer there; legal: a tokenizer.json, a sentencepiece .model, a token"
    ):
        open_tokenizer(tmp_path / "a")
    with pytest.raises(UserError, match="--tokenizer: '.*gone.json' cannot be loaded: no such file or folder; legal"):
        open_tokenizer(tmp_path / "gone.json")
    with pytest.raises(UserError, match="tokenizer.name: 'no/such': cannot be loaded"):
        open_tokenizer("no/such", "tokenizer.name")
    for name, content in (("x.json", "{"), ("x.model", "no protobuf"), ("x.txt", "text")):
        (tmp_path / name).write_text(content)
        with pytest.raises(UserError, match=f"{name}: not a "):
            open_tokenizer(tmp_path / name)
    shutil.copyfile(folder / "merges.txt", tmp_path / "a" / "merges.txt")
    (tmp_path / "a" / "vocab.json").write_text("[1]")
    with pytest.raises(UserError, match="a: no byte-level BPE in vocab.json and merges.txt"):
        open_tokenizer(tmp_path / "a")
    (tmp_path / "a" / "merges.txt").write_text("#version: 0.2\n")
    (tmp_path / "a" / "vocab.json").write_text('{"a": 0, "b": 1}')
    with pytest.raises(UserError, match="vocab.json has no token for 254 of the 256 bytes"):
        open_tokenizer(tmp_path / "a")


def test_a_named_tokenizer_needs_an_end_of_text(tmp_path):
    alphabet = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    Tokenizer(models.BPE(vocab=alphabet, merges=[])).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match=r"tokenizer\.name: .* has no end-of-text token"):
        text.make_tokenizer(TokenizerSpec(kind="hf", name=str(tmp_path)), [])


def test_analyze_takes_each_of_them_from_the_command_line(bpe, tmp_path, monkeypatch, capsys):
    from nca_interp.cli.app import call as main

    monkeypatch.chdir(tmp_path)
    from tests.analysis.models import tiny

    folder, _ = bpe
    tiny("llama", vocab_size=400).save_pretrained(tmp_path / "model")
    for where in (folder, folder / "vocab.json"):
        call = ["analyze", "--checkpoint", tmp_path / "model", "--probe", "entropy", "--tokenizer", where]
        assert main([*map(str, call), "--only", "--out", f"out-{where.name}"]) == 0
        assert "entropy" in capsys.readouterr().out
    for name in ("vocab.json", "merges.txt"):  # the checkpoint's own
        shutil.copyfile(folder / name, tmp_path / "model" / name)
    assert main([*map(str, call[:5]), "--only", "--out", "own"]) == 0
    assert "entropy" in capsys.readouterr().out
