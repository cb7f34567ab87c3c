"""Attribution: exact where the metric is linear, a gradient by finite differences elsewhere, and the ranking that is checked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from nca_interp.analysis.attention.kernel import register
from nca_interp.analysis.causes import attribution, effects
from nca_interp.analysis.causes.ablation import Site, ablate, mean_outputs
from nca_interp.analysis.causes.attribution import attribute
from nca_interp.analysis.causes.attribution_rows import attribution_rows, check_rows, checked_heads
from nca_interp.analysis.causes.effects import Metric, nca_task, repeated_task
from nca_interp.analysis.causes.resume import Trunk
from nca_interp.analysis.causes.rows import effect_rows
from nca_interp.analysis.stimuli.base import Subject
from tests.analysis.models import linear_gpt2, tiny

SUBJECT = Subject("tiny", 97, 96, prefix=(1,))
LOSS, GAIN = "repeated_token_loss", "repeated_token_gain"


def test_equals_exact_ablation_where_the_metric_is_linear():
    trunk = Trunk(linear_gpt2())
    task = repeated_task(Subject("linear", 23, 40))
    found, exact = attribute(trunk, task), ablate(trunk, task, knock_outs=False)
    assert set(found) == {LOSS, GAIN}
    for name, values in found.items():
        ours = torch.stack([exact.change(Site("head", *at), name) for at in np.ndindex(2, 4)]).view(2, 4, -1)
        assert ours.abs().max() > 0.01
        assert torch.allclose(values, ours, atol=1e-4)


@pytest.mark.parametrize("family", ["llama-gqa", "gemma2"])
def test_is_the_slope_of_a_small_step_towards_the_mean(family):
    model = tiny(family)
    model.set_attn_implementation(register())
    trunk, task = Trunk(model), repeated_task(SUBJECT)
    means, step = mean_outputs(trunk, task), 0.02
    found = attribute(trunk, task)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    passage = trunk.passage(task.tokens("cpu"))
    full = effects.score(trunk, passage, passage.residuals[-1], task)
    for layer in range(2):
        head = int(found[LOSS][layer].mean(-1).abs().argmax())  # of the others a step is lost in rounding
        heads = trunk.heads(passage, layer)
        towards = step * (means[layer][:, head] - heads.z[:, :, head])
        written = heads.written + trunk.change(layer, head, towards)
        after = trunk.finish(passage, layer + 1, trunk.resume(passage, layer, heads, written))
        slope = (effects.score(trunk, passage, after, task)[LOSS] - full[LOSS]).mean() / step
        assert float(found[LOSS][layer, head].mean()) == pytest.approx(float(slope), rel=0.1)


def test_slices_and_metrics_without_a_gradient(monkeypatch):
    model = tiny("llama")
    model.set_attn_implementation(register())
    trunk, task = Trunk(model), nca_task(Subject("language", 97, 96, prefix=(1,)))
    whole = attribute(trunk, task)
    assert set(whole) == {"nca_loss"}  # an accuracy has none
    monkeypatch.setattr(attribution, "TOKENS", 3 * task.batch.length)
    assert torch.allclose(attribute(trunk, task)["nca_loss"], whole["nca_loss"], atol=1e-6)


def test_heads_to_check_are_the_largest_and_others_at_random():
    task = replace(repeated_task(SUBJECT), metrics={LOSS: Metric(lambda s, b: s.nll.mean(1), "nats", 1)})
    sizes = torch.arange(40.0).view(10, 4)
    signs = torch.where(torch.arange(40).view(10, 4) % 2 == 0, 1.0, -1.0)
    rows = attribution_rows(task, {LOSS: (sizes * signs)[..., None].expand(10, 4, 3)})
    top, others = checked_heads(rows, LOSS, 6)
    assert top == [(9, 3), (9, 2), (9, 1), (9, 0), (8, 3), (8, 2)]
    assert len(set(others)) == 6
    assert not set(others) & set(top)
    assert checked_heads(rows, LOSS, 6) == (top, others)
    assert next(r for r in rows if r["rank"] == 1)["value"] == 38  # most harm, not the largest size
    assert next(r for r in rows if r["rank"] == 40)["value"] == -39


def test_the_correlation_with_exact_ablation_is_of_each_group():
    trunk = Trunk(linear_gpt2())
    task = repeated_task(Subject("linear", 23, 40))
    rows = attribution_rows(task, attribute(trunk, task)) + effect_rows(task, ablate(trunk, task), "mean")
    groups = {"all": [(n, h) for n in range(2) for h in range(4)], "two": [(0, 0), (1, 1)]}
    found = check_rows(rows, groups)
    assert [(r["metric"], r["by"], r["n"]) for r in found] == [(LOSS, "all", 8), (GAIN, "all", 8)]  # two are too few
    assert [r["value"] for r in found] == [1.0, 1.0]
    flipped = [{**r, "value": -r["value"]} if r["probe"] == "attribution" else r for r in rows]
    assert [r["value"] for r in check_rows(flipped, groups)] == [-1.0, -1.0]
