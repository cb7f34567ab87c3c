"""Direct logit attribution: shares sum to the logit, are those of TransformerLens, and name the part that was planted."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch

from nca_interp.analysis.causes.resume import Trunk
from nca_interp.analysis.causes.transformer_lens import to_transformer_lens
from nca_interp.analysis.probing.measure import open_scored
from nca_interp.analysis.prompts.attribution import directions, neurons, parts
from nca_interp.analysis.prompts.linear import held, pulled
from nca_interp.analysis.prompts.look import look
from nca_interp.analysis.prompts.texts import Encoder, Options
from nca_interp.analysis.stimuli.base import NotApplicable
from tests.analysis.models import TOKENS, planted_gpt2, tiny

TOKENS_OF = torch.randint(3, 97, (1, 12), generator=torch.Generator().manual_seed(1))
NEXT = torch.cat([TOKENS_OF[0, 1:], TOKENS_OF[0, :1]])


def attributed(family: str):
    model = tiny(family)
    trunk = Trunk(model)
    passage = trunk.passage(TOKENS_OF)
    along = directions(trunk, passage, NEXT)
    return model, trunk, passage, along, parts(trunk, passage, along)


@pytest.mark.parametrize("family", ["llama-gqa", "gpt2", "neox", "olmo2", "gemma", "gemma3"])
def test_shares_sum_to_the_logit_and_to_its_height_above_the_mean(family):
    model, trunk, passage, along, found = attributed(family)
    with torch.no_grad():
        logits = model(TOKENS_OF).logits[0].double()
    wanted = logits.gather(1, NEXT[:, None])[:, 0]
    torch.testing.assert_close(found.total, torch.stack([wanted, wanted - logits.mean(-1)]), atol=1e-6, rtol=0)
    for n, layer in enumerate(found.layers):
        assert layer.heads.abs().max() > 1e-4
        if family in ("olmo2", "gemma3"):  # a norm lies behind the MLP
            with pytest.raises(NotApplicable, match="norm or factor"):
                neurons(trunk, passage, n, along, layer.mlp)
            continue
        each, bias = neurons(trunk, passage, n, along, layer.mlp)
        torch.testing.assert_close(each.sum(-1) + bias, layer.mlp, atol=1e-6, rtol=0)


def test_shares_are_those_of_transformer_lens():
    model, _, _, _, found = attributed("llama-gqa")
    bridge = to_transformer_lens(deepcopy(model), "tiny")
    with torch.inference_mode():
        _, cache = bridge.run_with_cache(TOKENS_OF)
    last = cache["blocks.1.hook_resid_post"][0].double()
    scale = (last.pow(2).mean(-1, keepdim=True) + model.config.rms_norm_eps).rsqrt()
    u = model.lm_head.weight[NEXT].double() * model.model.norm.weight.double() * scale
    torch.testing.assert_close(
        found.embedding[0], (cache["blocks.0.hook_resid_pre"][0].double() * u).sum(-1), atol=1e-6, rtol=0
    )
    for n, layer in enumerate(found.layers):
        w_o = model.model.layers[n].self_attn.o_proj.weight.T.double().reshape(4, -1, 32)
        heads = torch.einsum("phd,hdm,pm->ph", cache[f"blocks.{n}.attn.hook_z"][0].double(), w_o, u)
        torch.testing.assert_close(layer.heads[0], heads, atol=1e-6, rtol=0)
        mlp = (cache[f"blocks.{n}.hook_mlp_out"][0].double() * u).sum(-1)
        torch.testing.assert_close(layer.mlp[0], mlp, atol=1e-6, rtol=0)


def test_neurons_are_activations_times_their_output_weights():
    model, trunk, passage, along, found = attributed("llama-gqa")
    seen: list[torch.Tensor] = []
    handle = model.model.layers[1].mlp.down_proj.register_forward_pre_hook(lambda m, a: seen.append(a[0]))
    with torch.no_grad():
        model(TOKENS_OF)
    handle.remove()
    written = seen[0][0, :, :, None].double() * model.model.layers[1].mlp.down_proj.weight.T.double()
    expected = torch.einsum("pnd,pd->pn", written, along.vectors[0])
    each = neurons(trunk, passage, 1, along, found.layers[1].mlp).each[0]
    torch.testing.assert_close(each, expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize("width", [8, 9])
def test_a_held_norm_is_the_norm_where_it_was_held_and_linear_elsewhere(width):
    torch.manual_seed(0)
    x = torch.randn(5, width)
    for norm in (torch.nn.LayerNorm(width), torch.nn.RMSNorm(width)):
        torch.nn.init.uniform_(norm.weight)
        if norm.__class__ is torch.nn.LayerNorm:
            torch.nn.init.normal_(norm.bias)
        found, direction = held(norm, x), torch.randn(5, width).double()
        assert found.centred is isinstance(norm, torch.nn.LayerNorm)
        back, constant = pulled([found], direction)
        expected = (norm(x).double() * direction).sum(-1)
        torch.testing.assert_close((x.double() * back).sum(-1) + constant, expected, atol=1e-5, rtol=0)


def test_what_is_no_norm_is_refused():
    with pytest.raises(NotApplicable, match="Tanh"):
        held(torch.nn.Tanh(), torch.randn(4, 8))
    with pytest.raises(NotApplicable, match="Linear"):
        held(torch.nn.Linear(8, 4), torch.randn(4, 8))


class Letters:
    """A tokenizer of letters."""

    def decode(self, ids, skip_special_tokens=False):
        return "".join(chr(97 + i) for i in ids)

    def id_to_token(self, token):
        return chr(97 + token)


def test_the_planted_head_says_what_comes_next(tmp_path):
    """a b c d a: head 1.0 raises b, 1.1 lowers it, nothing else adds anything; the lens sees it behind layer 1 alone."""
    model = open_scored(planted_gpt2(tmp_path))
    ids = [TOKENS - 1, 0, 1, 2, 3, 0]
    found = look(model, Trunk(model), ids, Encoder(Letters(), ()), Options())  # type: ignore[arg-type]
    rows = [row for row in found.rows if row["kind"] == "part" and row["position"] == 5]
    shares = {(row["layer"], row.get("head")): row["centred"] for row in rows if row["part"] == "head"}
    assert max(shares, key=shares.__getitem__) == (1, 0)
    assert min(shares, key=shares.__getitem__) == (1, 1)
    assert all(abs(v) < 1e-3 for place, v in shares.items() if place[0] == 0)
    said = {row["place"]: row for row in found.rows if row["kind"] == "prediction" and row["position"] == 5}
    assert said[1]["text"] == "b"
    lens = {row["layer"]: row["text"] for row in found.rows if row["kind"] == "lens" and row["position"] == 5}
    assert lens[2] == "b"
    assert lens[0] != "b"
    assert lens[1] != "b"
    np.testing.assert_allclose(found.patterns[1, 0][5].astype(float), np.eye(6)[2], atol=1e-3)
    sums = sum(row["centred"] for row in rows if row["part"] in ("embedding", "bias", "attn", "mlp"))
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, 5]
    assert sums == pytest.approx(float(logits[1] - logits.mean()), abs=1e-4)


def test_loss_rank_and_predictions_are_the_models_own():
    model = tiny("llama")
    trunk = Trunk(model)
    ids = TOKENS_OF[0].tolist()
    found = look(model, trunk, ids, Encoder(Letters(), ()), Options(predictions=3))  # type: ignore[arg-type]
    with torch.no_grad():
        logs = model(TOKENS_OF).logits[0].log_softmax(-1)
    tokens = [row for row in found.rows if row["kind"] == "token"]
    assert "nll" not in tokens[0]
    for p in range(1, 12):
        assert tokens[p]["nll"] == pytest.approx(-float(logs[p - 1, ids[p]]), abs=1e-5)
        assert tokens[p]["rank"] == 1 + int((logs[p - 1] > logs[p - 1, ids[p]]).sum())
    top = [row["token"] for row in found.rows if row["kind"] == "prediction" and row["position"] == 4]
    assert top == logs[4].topk(3).indices.tolist()
    end = {row["position"]: row for row in found.rows if row["kind"] == "lens" and row["layer"] == 2}
    assert end[3]["nll"] == pytest.approx(-float(logs[3, ids[4]]), abs=1e-5)
    assert end[3]["kl"] == pytest.approx(0.0, abs=1e-6)


def test_a_model_that_is_not_entered_still_says_its_loss():
    model = tiny("llama")
    found = look(model, NotApplicable("its layers"), TOKENS_OF[0].tolist(), Encoder(Letters(), ()), Options())  # type: ignore[arg-type]
    assert {row["kind"] for row in found.rows} == {"token", "prediction"}
    assert found.notes == ["not entered: its layers"]
