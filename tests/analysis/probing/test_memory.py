"""A model in memory gives the numbers of its directory, and is afterwards as it was."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from nca_interp import analyze
from nca_interp.base import UserError
from tests.analysis.models import letter_tokenizer, tiny

IDENTITY = ["run"]


@pytest.fixture
def saved(tmp_path):
    """A directory with a tokenizer that puts a token before every text."""
    tiny("llama").save_pretrained(tmp_path / "model")
    return letter_tokenizer(tmp_path / "model", 60, {"<s>": 60})


def fast_tokenizer(folder):
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))


def test_the_same_numbers_as_from_the_directory(saved):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(saved)
    model.name_or_path = model.config.name_or_path = ""  # nothing but what is given is read
    found = analyze(model, fast_tokenizer(saved), random=1)
    expected = analyze(saved, random=1)
    assert {"entropy", "in_context_learning", "copying", "induction"} <= set(found.probe), "natural text too"
    pd.testing.assert_frame_equal(found.drop(columns=IDENTITY), expected.drop(columns=IDENTITY))
    assert set(found.run) == {"LlamaForCausalLM"}
    ours, theirs = found.attrs["provenance"], expected.attrs["provenance"]
    same = ("engine", "probes", "dtype", "device", "random")
    assert {k: ours[k] for k in same} == {k: theirs[k] for k in same}
    assert ours["tokens"]["rows_sha256"] == theirs["tokens"]["rows_sha256"] != ""
    assert (ours["tokens"]["prefix"], ours["tokens"]["drawn_from"]) == ([60], theirs["tokens"]["drawn_from"])
    bare = analyze(model, probes=["induction"])
    assert bare.attrs["provenance"]["tokens"]["drawn_from"] == 94, "without a tokenizer: all ids but the special ones"


def test_the_model_is_as_it_was(saved):
    model = tiny("llama").train()
    model.set_attn_implementation("eager")
    model.model.layers[0].eval()
    before = {m: m.training for m in model.modules()}
    first = analyze(model, probes=["induction"])
    assert model.config._attn_implementation == "eager"
    assert {m: m.training for m in model.modules()} == before
    with torch.no_grad():
        model.model.layers[1].self_attn.o_proj.weight[0, 0] += 1.0
    again = analyze(model, probes=["induction"])
    hashes = [frame.attrs["provenance"]["checkpoint_sha256"] for frame in (first, again)]
    assert hashes[0] != hashes[1]
    assert analyze(tiny("llama"), probes=["induction"]).attrs["provenance"]["checkpoint_sha256"] == hashes[0]


def test_a_failure_leaves_the_model_as_it_was():
    model = tiny("llama").train()
    before = model.config._attn_implementation
    with pytest.raises(UserError, match="entropy does not apply: no token file"):
        analyze(model, probes=["entropy"])
    assert model.training
    assert model.config._attn_implementation == before


def test_what_is_no_model_and_no_tokenizer(saved):
    model = tiny("llama")
    with pytest.raises(UserError, match="checkpoint: Linear; legal: a directory, .* or a causal language model"):
        analyze(torch.nn.Linear(2, 2))
    with pytest.raises(UserError, match="checkpoint: LlamaModel; legal"):
        analyze(model.model)
    with pytest.raises(UserError, match="tokenizer: list; legal: .*probes are named with probes="):
        analyze(saved, ["induction"])
    with pytest.raises(UserError, match="'cuda': a model in memory is measured where it is"):
        analyze(model, device="cuda")
