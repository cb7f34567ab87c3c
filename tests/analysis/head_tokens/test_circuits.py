"""Tokens of heads: planted heads are read off, and every figure is that of the whole matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nca_interp.analysis.causes.folded import read_weights
from nca_interp.analysis.head_tokens.circuits import EACH, FIRST, PAIRS, Options, choose_sources, head_tokens
from nca_interp.analysis.stimuli.base import NotApplicable
from tests.analysis.models import TOKENS, planted_gpt2, tiny


def by_circuit(model, sources, options=None):
    found = head_tokens(model, np.asarray(sources), options or Options(sources=len(sources)))
    return {
        (layer, head): {c: [f for f in each if f.circuit == c] for c in {f.circuit for f in each}}
        for layer, head, each in found
    }


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    from transformers import GPT2LMHeadModel

    return GPT2LMHeadModel.from_pretrained(planted_gpt2(tmp_path_factory.mktemp("planted"))).eval()


def test_a_planted_copying_head_copies_and_an_anti_copying_one_does_not(planted):
    heads = by_circuit(planted, range(TOKENS))
    assert heads[1, 0]["copies"][0].value == 1.0
    assert heads[1, 1]["copies"][0].value == 0.0
    for pair in heads[1, 0]["pair"][::EACH]:
        assert pair.source == pair.target
    assert len(heads[1, 0]["pair"]) == PAIRS * EACH
    # the head before reads positions, no token makes it look anywhere
    assert max(abs(f.value) for f in heads[0, 0]["attends"] + heads[0, 0]["match"]) < 1e-6


@pytest.mark.parametrize("family", ["llama-gqa", "gpt2", "neox", "qwen2"])
def test_it_is_what_the_whole_matrices_say(family):
    model = tiny(family)
    weights, sources = read_weights(model), np.arange(3, 90, 3)
    heads = by_circuit(model, sources)
    for layer in range(2):
        for head in range(4):
            read = weights.w_e[sources]
            read = read / read.norm(dim=1, keepdim=True)
            ov = read @ weights.w_v[layer, head] @ weights.w_o[layer, head] @ weights.w_u
            ov = ov - ov.mean(1, keepdim=True)
            ours, mean = heads[layer, head], ov.mean(0)
            assert [f.target for f in ours["promotes"]] == mean.argsort(descending=True)[:6].tolist()
            assert [f.target for f in ours["suppresses"]] == mean.argsort()[:6].tolist()
            assert [f.value for f in ours["suppresses"]] == pytest.approx(mean.sort().values[:6].tolist(), rel=1e-3)
            ranks = (ov > ov[range(len(sources)), sources][:, None]).sum(1)
            copied = (ranks < FIRST) & (ov[range(len(sources)), sources] > 0)
            assert ours["copies"][0].value == pytest.approx(float(copied.double().mean()))
            apart = ov - mean
            best = ours["pair"][0]
            assert best.value == pytest.approx(float(apart.max()), rel=1e-3)
            assert (best.source, best.target) == (sources[int(apart.argmax()) // 97], int(apart.argmax()) % 97)
            q = read @ weights.w_q[layer, head] @ weights.rotations[layer, 0]
            scores = q @ (read @ weights.w_k[layer, head]).T
            scores = scores - scores.mean(1, keepdim=True)
            assert ours["attends"][0].target == sources[int(scores.mean(0).argmax())]
            apart = scores - scores.mean(0)
            assert ours["match"][0].value == pytest.approx(float(apart.max()), rel=1e-3)


def test_slices_of_rows_change_nothing(monkeypatch):
    from nca_interp.analysis.head_tokens import circuits

    model, sources = tiny("llama"), np.arange(50)
    whole = by_circuit(model, sources)
    monkeypatch.setattr(circuits, "ROWS", 7)
    for place, each in by_circuit(model, sources).items():
        for circuit, found in each.items():
            assert [f[:4] for f in found] == [f[:4] for f in whole[place][circuit]]


def test_options_say_how_much_is_listed():
    few, many = (by_circuit(tiny("llama"), range(20), Options(tokens=n))[0, 0] for n in (2, 9))
    assert [len(found["promotes"]) for found in (few, many)] == [2, 9]
    assert many["promotes"][:2] == few["promotes"]


def test_what_queries_and_keys_do_costs_only_their_circuit():
    heads = by_circuit(tiny("qwen3"), range(20))  # its queries and keys are normalised
    assert all({"promotes", "copies", "reads"} <= set(found) and "attends" not in found for found in heads.values())
    assert len(heads) == 8


def test_a_stream_that_is_no_sum_is_refused_with_the_reason():
    with pytest.raises(NotApplicable, match="normalises what its attention writes"):
        by_circuit(tiny("gemma2"), range(20))


def test_sources_are_the_most_frequent_or_evenly_spaced():
    rows = np.array([[3, 3, 3, 1], [1, 7, 9, 9]])
    assert choose_sources(rows, 10, 3).tolist() == [3, 1, 9]
    assert choose_sources(rows, 10, 99).tolist() == [3, 1, 9, 7]
    assert choose_sources(None, 11, 3).tolist() == [0, 5, 10]
    assert choose_sources(None, 4, 99).tolist() == [0, 1, 2, 3]


def test_weights_of_other_precision_are_read_too():
    model = tiny("llama")
    other = by_circuit(tiny("llama").to(torch.bfloat16), range(20))
    for place, found in by_circuit(model, range(20)).items():
        assert found["copies"][0].value == pytest.approx(other[place]["copies"][0].value, abs=0.11)


def test_a_model_without_attention_is_refused_with_the_reason():
    from transformers import MambaConfig, MambaForCausalLM

    model = MambaForCausalLM(MambaConfig(vocab_size=60, hidden_size=32, num_hidden_layers=2, state_size=4)).eval()
    assert not hasattr(model.config, "max_position_embeddings")
    with pytest.raises(NotApplicable, match="attention of MambaForCausalLM cannot be read"):
        list(head_tokens(model, np.arange(8), Options()))
