"""Attention without the previous token: what is hidden, that nothing leaks past the mask, and that without it no bit changes."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from nca_interp import discover
from nca_interp.config import ModelConfig
from nca_interp.engine.plan import make_plan
from nca_interp.model.attention import causal_attention, without_previous_token
from nca_interp.model.fast import fast_forward
from nca_interp.model.llama import build
from nca_interp.model.loss import IGNORE

CONFIG = ModelConfig(n_layers=2, d_model=32, n_heads=4, d_mlp=48, n_ctx=24)


def tokens(n: int = 24, symbols: int = 5) -> torch.Tensor:
    return torch.randint(symbols, (3, n), generator=torch.Generator().manual_seed(0))


def test_hidden_is_the_token_before_the_query_and_no_other():
    allowed = without_previous_token(24)
    for q in range(24):
        assert [k for k in range(24) if allowed[q, k]] == [k for k in range(q + 1) if k != q - 1]


def test_what_a_token_was_is_never_known_one_place_later():
    """However many layers there are, the loss of the target at q + 1 does not depend on the token at q - 1 through position q: changed
    is only what positions from q + 1 on say, which see it two or more places back."""
    model, x = build(CONFIG.model_copy(update={"n_layers": 3}), 30, 0, "pt"), torch.arange(24)[None]
    other, near = x.clone(), range(9, 14)
    other[0, 10] = 29

    def losses(tokens):
        with torch.no_grad(), fast_forward(model, "fp32", no_previous_token=True):
            return [float(model(tokens, torch.where(torch.arange(24)[None] == q, 5, IGNORE))) for q in near]

    changed = [q for q, a, b in zip(near, losses(x), losses(other), strict=True) if a != b]
    assert changed == [10, 12, 13]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_masked_attention_is_the_plain_softmax_over_the_allowed_keys(dtype):
    rng = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(3, 24, 4, 8, generator=rng) for _ in range(3))
    allowed = without_previous_token(24)
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / 8**0.5
    expected = torch.einsum("bhqk,bkhd->bqhd", scores.masked_fill(~allowed, -torch.inf).softmax(-1), v)
    found = causal_attention(q.to(dtype), k.to(dtype), v.to(dtype), allowed)
    torch.testing.assert_close(found.float(), expected, rtol=1e-5, atol=1e-5 if dtype == torch.float32 else 0.05)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_without_the_mask_no_bit_changes_and_with_it_the_loss_does(checkpointing):
    x, y, model = tokens(), tokens().roll(-1, 1), build(CONFIG, 30, 0, "pt").train()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.mul_(8.0 if "q_proj" in name or "k_proj" in name else 1.0)

    def loss_and_gradient(**more):
        model.zero_grad()
        with fast_forward(model, "fp32", checkpointing=checkpointing, **more):
            total = model(x, y)
            total.backward()
        return total.detach(), model.model.layers[0].self_attn.q_proj.weight.grad.clone()

    plain, off, on = (
        loss_and_gradient(),
        loss_and_gradient(no_previous_token=False),
        loss_and_gradient(no_previous_token=True),
    )
    assert all(torch.equal(a, b) for a, b in zip(plain, off, strict=True))
    assert not torch.equal(plain[0], on[0])
    assert not torch.equal(plain[1], on[1])


def test_a_regime_is_hindered_in_the_stages_that_it_names():
    study = discover.find("runs", "smoke").value()
    nca = study.regime("nca")
    arms = [
        nca.model_copy(update={"name": f"nca-{'-'.join(s)}", "no_previous_token": s})
        for s in (("ppt",), ("pt",), ("ppt", "pt"))
    ]
    plan = make_plan(
        study.model_copy(update={"regimes": (*study.regimes, *arms)}), "fp32", domain="web", seed=0, analyze=False
    )
    runs = {run.id: run for run in plan.runs}
    hindered = {name for name, run in runs.items() if run.config.no_previous_token}
    assert hindered == {
        "ppt.nca-ppt.s0", "pt.nca-pt.web.s0", "pt.nca-ppt-pt.web.s0",
    }  # fmt: skip
    parents = {name: run.parent for name, run in runs.items() if name.startswith("pt.nca")}
    assert parents["pt.nca.web.s0"] == parents["pt.nca-pt.web.s0"] == "ppt.nca.s0"
    assert parents["pt.nca-ppt.web.s0"] == parents["pt.nca-ppt-pt.web.s0"] == "ppt.nca-ppt.s0"


def test_scratch_has_no_synthetic_stage_to_hinder():
    study = discover.find("runs", "smoke").value()
    wrong = study.regime("scratch").model_copy(update={"name": "wrong", "no_previous_token": ("ppt",)})
    with pytest.raises(ValidationError, match=r"regimes.wrong.no_previous_token: ppt, .*legal: pt"):
        type(study).model_validate(study.model_copy(update={"regimes": (*study.regimes, wrong)}).model_dump())


def test_answers_are_not_generated_behind_a_mask():
    study = discover.find("runs", "smoke").value()
    wrong = study.model_copy(update={"ft": study.ft.model_copy(update={"no_previous_token": True})})
    with pytest.raises(ValidationError, match=r"ft.no_previous_token: true, .*legal: false"):
        type(study).model_validate(wrong.model_dump())
