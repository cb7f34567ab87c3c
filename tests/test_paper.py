"""The published protocol: its page is its recipe, and every switch does what it says."""

from __future__ import annotations

import sys
from typing import Any, get_args

import pytest
import torch

from nca_interp import discover
from nca_interp.base import UserError
from nca_interp.config import Study
from nca_interp.overrides import call_recipe


@pytest.fixture(scope="module")
def recipe() -> Any:
    """The loaded file runs/paper.py."""
    return sys.modules[discover.find("runs", "paper").value.__module__]


def test_the_page_is_that_of_the_recipe(recipe, root):
    assert (root / "docs" / "published_protocol.md").read_text() == recipe.page(), "run: python runs/paper.py"


def test_every_switch_changes_the_study_and_is_listed(recipe):
    base = recipe.paper()
    for name, field in recipe.Switches.model_fields.items():
        legal = get_args(field.annotation) or {"tau": (1e-3,), "tied": (True,)}[name]
        others = [value for value in legal if value != field.default]
        assert others, name
        for value in others:
            changed = recipe.paper(recipe.Switches(**{name: value}))
            assert changed.model_dump(exclude={"deviations"}) != base.model_dump(exclude={"deviations"}), (name, value)
            assert f"| `{name}` |" in recipe.page()


def test_the_sides_differ_where_the_accounts_do(recipe):
    paper, code = (call_recipe(discover.find("runs", f"published-{side}").value, []) for side in ("paper", "code"))
    assert (paper.ppt.batch_size, paper.ppt.steps, paper.ppt.horizon) == (16, 10_000, None)
    assert (code.ppt.batch_size, code.ppt.steps, code.ppt.horizon) == (32, 5_000, 50_000)
    assert paper.ppt.steps * 16 * 1024 == code.ppt.steps * 32 * 1024 == 163_840_000
    assert (paper.regime("nca").source.tau, code.regime("nca").source.tau) == (1e-3, 1e-4)
    assert (paper.model.tied, code.model.tied) == (True, False)
    assert (code.model.embed_std, code.model.unembed_std) == (1.0, pytest.approx(2048**-0.5 / 3**0.5))
    assert (code.ppt.vocab_rows, code.pt.vocab_rows, code.domain("code").pt.vocab_rows) == (64_000, None, 64_000)
    assert code.pt.clip == 1 / 32
    for study, other in ((paper, "code: "), (code, "paper: ")):
        assert any(other in line for line in study.deviations)
    assert all(f"{missing.what}: " in " ".join(paper.deviations) for missing in recipe.NOT_SWITCHES)


def test_switches_are_set_like_any_field(recipe):
    study = call_recipe(recipe.paper, ["switches.tau=1e-3", "pt.steps=5", "switches.batch=16"])
    assert study.regime("nca").source.tau == 1e-3
    assert (study.ppt.batch_size, study.pt.steps) == (16, 5)
    assert isinstance(study, Study)
    with pytest.raises(UserError, match="unknown key 'tua'; did you mean 'tau'"):
        call_recipe(recipe.paper, ["switches.tua=1"])
    with pytest.raises(UserError, match=r"batch: Input should be 16 or 32 \(got 17\)"):
        call_recipe(recipe.paper, ["switches.batch=17"])


def test_summed_gradients_are_a_tighter_clip_and_a_smaller_epsilon():
    """What the switch `accumulation` rests on: AdamW on n summed gradients = on their mean with clip / n and eps / n."""
    n, results = 32, []
    for scale, clip, eps in ((n, 1.0, 1e-3), (1, 1.0 / n, 1e-3 / n)):
        generator = torch.Generator().manual_seed(0)
        weight = torch.nn.Parameter(torch.ones(50, dtype=torch.float64))
        optimizer = torch.optim.AdamW([weight], lr=1e-2, eps=eps, weight_decay=0.1)
        for _ in range(20):
            weight.grad = scale * torch.randn(50, generator=generator, dtype=torch.float64) * 0.01
            torch.nn.utils.clip_grad_norm_([weight], clip)
            optimizer.step()
        results.append(weight.detach().clone())
    torch.testing.assert_close(*results, rtol=1e-4, atol=0)
