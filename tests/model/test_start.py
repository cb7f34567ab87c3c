"""The measure of a network before its first step, against brute force and planted cases."""

from __future__ import annotations

import pytest
import torch

from nca_interp.config import ModelConfig
from nca_interp.model.llama import build, kind_of
from nca_interp.model.loss import IGNORE
from nca_interp.model.start import measure_start

CONFIG = ModelConfig(n_layers=2, d_model=32, n_heads=4, d_mlp=48, n_ctx=512)


def measured(model, x, y):
    return {(r["quantity"], r["layer"]): r["value"] for r in measure_start(model, x, y)}


@pytest.fixture
def rows():
    tokens = torch.randint(50, (9, 513), generator=torch.Generator().manual_seed(0))  # more than one forward pass
    x, y = tokens[:, :-1], tokens[:, 1:].clone()
    y[:, :7] = IGNORE
    return x, y


@pytest.mark.parametrize("tied", [False, True])
def test_it_is_what_one_pass_over_everything_gives(rows, tied):
    config = CONFIG.model_copy(update={"tied": tied, "init_std": 0.1, "embed_std": 0.3})
    model = build(config, 50, 0, "pt")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    found = measured(model, *rows)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())
    out = model(input_ids=rows[0], output_hidden_states=True)
    for layer in (0, 1):  # the last hidden state has passed the final norm
        x = out.hidden_states[layer].double().flatten(0, 1)
        assert found["resid_rms", layer] == pytest.approx(x.square().mean().sqrt().item(), rel=1e-5)
        e = out.hidden_states[0].double().flatten(0, 1)
        cx, ce = x - x.mean(0), e - e.mean(0)
        share = (cx * ce).sum() ** 2 / (cx.square().sum() * ce.square().sum())
        assert found["token_share", layer] == pytest.approx(share.item(), rel=1e-4)
    loss = torch.nn.functional.cross_entropy(out.logits.flatten(0, 1), rows[1].flatten(), ignore_index=IGNORE)
    assert found["loss", None] == pytest.approx(loss.item(), rel=1e-5)
    loss.backward()
    for part in ("embed", "attn", "mlp", "norm", "unembed"):
        own = [
            p.grad.flatten()
            for n, p in model.named_parameters()
            if ("unembed" if "lm_head" in n else kind_of(n)) == part
        ]
        assert (f"grad_norm_{part}", None) in found if own else (f"grad_norm_{part}", None) not in found
        if own:
            assert found[f"grad_norm_{part}", None] == pytest.approx(torch.cat(own).norm().item(), rel=1e-4)


def test_blocks_that_write_nothing_leave_all_of_the_stream_to_the_token(rows):
    model = build(CONFIG, 50, 0, "pt")
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "o_proj" in name or "down_proj" in name:
                p.zero_()
    found = measured(model, *rows)
    assert [found["token_share", layer] for layer in range(3)] == pytest.approx([1.0] * 3)
    assert found["resid_rms", 2] == pytest.approx(found["resid_rms", 0])


def test_a_small_embedding_is_drowned_by_blocks_with_large_weights(rows):
    share = {}
    for std in (0.02, 1.0):
        model = build(CONFIG.model_copy(update={"init_std": 0.15, "embed_std": std}), 50, 0, "pt")
        share[std] = measured(model, *rows)["token_share", 2]
    assert share[0.02] < 0.1 < 0.5 < share[1.0]
