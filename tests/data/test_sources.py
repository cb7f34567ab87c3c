"""What a user types for a source: every legal form, and one message for each mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from nca_interp import discover
from nca_interp.base import UserError
from nca_interp.data.sources import parse_source
from nca_interp.data.specs import DyckSpec, NcaSpec, TextSpec
from nca_interp.data.text.corpus import Corpus
from nca_interp.data.tokens import write_tokens


@pytest.mark.parametrize(
    ("text", "overrides", "expected"),
    [
        ("nca", [], NcaSpec()),
        (" nca ", ["n_states=2", "band=null"], NcaSpec(n_states=2, band=None)),
        ("nca:n_states=2,band=[0.3,1]", ["tau=0"], NcaSpec(n_states=2, band=(0.3, 1.0), tau=0)),
        ("nca: variant=release , band = [0.3, 1.0], dt=2", [], NcaSpec(variant="release", band=(0.3, 1.0), dt=2)),
        ("nca:n_states=2", ["n_states=3"], NcaSpec(n_states=3)),
        ("dyck", [], DyckSpec()),
        ("dyck:variant=shuffle,k=8", [], DyckSpec(variant="shuffle", k=8)),
        ("site:code", ["tokenizer.vocab_size=300"], TextSpec(source="site:code", tokenizer={"vocab_size": 300})),
        ("arithmetic", [], TextSpec(source="arithmetic:")),
        ("arithmetic:", ["arithmetic.digits=3"], TextSpec(source="arithmetic:", arithmetic={"digits": 3})),
        ("hf:c4", [], TextSpec(source="hf:c4")),
        ("files:a/*.txt,b.jsonl", ["column=body"], TextSpec(source="files:a/*.txt,b.jsonl", column="body")),
    ],
)
def test_every_form(text, overrides, expected):
    assert parse_source(text, overrides) == expected


def test_regimes_and_domains_of_recipes():
    laptop = discover.find("runs", "laptop").value()
    assert parse_source("laptop.nca") == laptop.regime("nca").source
    assert parse_source("laptop.web", ["max_bytes=1000"]).max_bytes == 1000


def test_a_path_is_read_as_that_very_file(tmp_path: Path):
    path = tmp_path / "odd [name]*.txt"
    path.write_text("one text\n" * 30)
    (tmp_path / "odd n.txt").write_text("another\n" * 30)
    assert [d.text for d in Corpus(parse_source(str(path)))] == [path.read_text()]


def test_a_token_directory_gives_its_specification(tmp_path: Path):
    spec = NcaSpec(grid=6, n_states=3, band=None)
    write_tokens(tmp_path / "study" / "tokens" / "nca-1", spec, n_train=2, n_val=2, seq_len=30, seed=0)
    assert parse_source(str(tmp_path / "study" / "tokens" / "nca-1"), ["dt=3"]) == spec.model_copy(update={"dt": 3})
    with pytest.raises(UserError, match=r"holds several token directories; choose one: .*tokens/nca-1"):
        parse_source(str(tmp_path / "study"))


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("nac", [], "'nac' is none of the legal forms, and no such file exists; did you mean 'nca'"),
        ("fles:a.txt", [], "did you mean 'files:a.txt'"),
        ("site-code", [], "did you mean 'site:code'"),
        ("noise:nope", [], "'nope' in 'noise:nope' is none of the legal forms"),
        ("noise:repaet", [], "did you mean 'noise:repeat'?"),
        ("noise:site:speach", [], "did you mean 'site:speeches'?"),
        (
            "noise:stack:n_symbol=8",
            [],
            "source 'noise:stack:n_symbol=8': n_symbol: unknown key 'n_symbol'; did you mean 'n_symbols'?",
        ),
        ("noise:laptop.ncaa", [], "no regime or domain 'ncaa' with data; did you mean 'nca'"),
        ("noise:./nowhere", [], "'./nowhere' in 'noise:./nowhere' is none of the legal forms"),
        (
            "dyck:variant=shufle",
            [],
            "variant: Input should be 'nested' or 'shuffle'; did you mean 'shuffle'? (got 'shufle')",
        ),
        ("site:speach", [], "did you mean 'site:speeches'?"),
        ("", [], "is none of the legal forms"),
        ("nowhere.txt", [], "no such file"),
        ("nca:nstates=3", [], "unknown key 'nstates'; did you mean 'n_states'"),
        ("nca:2", [], "2: expected key=value"),
        ("nca", ["n_states=300"], "n_states: Input should be less than or equal to 256"),
        ("nca", ["patch=5"], "patch: 5 does not divide grid 12; legal: 1, 2, 3, 4, 6, 12"),
        ("nca", ["n_states=64"], "need a vocabulary of"),
        ("nca", ["band=[1,0.5]"], "is not a range"),
        ("dyck", ["k=0"], "k: Input should be greater than or equal to 1"),
        ("site:prose", [], "legal: site:prose-a, site:prose-b, site:code"),
        ("files:", [], "names nothing after the colon"),
        ("laptp.nca", [], "no recipe 'laptp'; did you mean 'laptop'"),
        ("laptop.ncaa", [], "no regime or domain 'ncaa' with data; did you mean 'nca'"),
        ("laptop.scratch", [], "no regime or domain 'scratch' with data"),
    ],
)
def test_mistakes(text, overrides, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        parse_source(text, overrides)
    assert message in str(caught.value)


def test_noise_is_not_suggested_within_noise():
    with pytest.raises(UserError) as caught:
        parse_source("noise:nope")
    assert "did you mean" not in str(caught.value)


def test_noise_matches_any_source(tmp_path: Path):
    spec = NcaSpec(grid=6, n_states=2, band=None)
    write_tokens(tmp_path / "nca-1", spec, n_train=2, n_val=2, seq_len=30, seed=0)
    assert (
        parse_source(f"noise:{tmp_path / 'nca-1'}").weights
        == parse_source("noise:nca:grid=6,n_states=2,band=null").weights
    )
    assert parse_source("noise:n_symbols=16").vocab_size == 16


def test_wrong_kinds_of_files(tmp_path: Path):
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    (tmp_path / "a,b.txt").write_text("text")
    (tmp_path / "folder").mkdir()
    for name, message in (
        ("a.pdf", "is of kind '.pdf'"),
        ("a,b.txt", "comma in its name"),
        ("folder", "without meta.json"),
    ):
        with pytest.raises(UserError, match=message):
            parse_source(str(tmp_path / name))
