"""Reductions of attention against brute force, closed forms, and the two ways to a log-sum-exp."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nca_interp.analysis import attention as module
from nca_interp.analysis.attention import Attention, attend, blocked_lse
from tests.analysis.models import attention_of, batch_of, random_patterns

SPACE = {"seed": st.integers(0, 10_000), "length": st.integers(2, 23), "rows": st.integers(1, 7)}


def _case(seed, length, rows):
    patterns = random_patterns(seed, 2, 3, length)
    tokens = np.random.default_rng(seed).integers(0, 5, (2, length))
    view = attention_of(patterns, batch_of(tokens))
    view._rows = min(rows, length)  # several blocks: their borders must not show
    return patterns.double(), tokens, view


@settings(max_examples=40, deadline=None)
@given(**SPACE)
def test_reductions_equal_brute_force(seed, length, rows):
    a, tokens, view = _case(seed, length, rows)
    q, k = torch.arange(length)[:, None], torch.arange(length)[None]
    entropy = -(a * a.clamp(min=1e-30).log()).sum(-1)
    expected = {
        "entropy": (view.entropy(), entropy.mean(-1)),
        "normalised": (
            view.entropy(normalised=True),
            (entropy[..., 1:] / torch.log(torch.arange(2, length + 1.0))).mean(-1),
        ),
        "distance": (view.distance(), (a * (q - k)).sum(-1).mean(-1)),
        "relative": (
            view.distance(normalised=True),
            ((a * (q - k)).sum(-1)[..., 1:] / (torch.arange(1, length) / 2)).mean(-1),
        ),
        "first": (view.first(), a[..., 0].mean(-1)),
        "self": (view.self_(), a.diagonal(0, -2, -1).mean(-1)),
        "offset": (view.offset(1), a.diagonal(-1, -2, -1).mean(-1)),
    }
    for name, (scores, value) in expected.items():
        torch.testing.assert_close(scores.mean().double(), value, atol=2e-5, rtol=1e-4, msg=name)
    for shift in (0, 1):
        same = np.zeros((2, length, length), dtype=bool)
        for b, i, j in np.ndindex(same.shape):
            same[b, i, j] = j < i and j >= shift and tokens[b, j - shift] == tokens[b, i]
        mask = torch.from_numpy(same)
        values = (a * mask[:, None]).sum(-1)
        scores = view.same_token(shift)
        assert torch.equal(scores.exists, mask.any(-1))
        torch.testing.assert_close(scores.values.double(), values, atol=1e-6, rtol=1e-4)


@settings(max_examples=20, deadline=None)
@given(**SPACE)
def test_mask_as_tensor_and_as_function_agree(seed, length, rows):
    _, _, view = _case(seed, length, rows)
    mask = torch.rand(2, length, length, generator=torch.Generator().manual_seed(seed)) < 0.3
    whole, blocked = view.to(mask), view.to(lambda start, stop: mask[:, start:stop, :stop])
    assert torch.equal(whole.values, blocked.values)
    assert torch.equal(whole.exists, blocked.exists)
    total = view.to(torch.ones(length, length, dtype=torch.bool)).values
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-5, rtol=0)


def test_uniform_attention_has_its_closed_forms():
    length = 37
    view = Attention.uniform(batch_of(np.zeros((2, length), dtype=np.int64)))
    q = torch.arange(length, dtype=torch.float64)
    for back in (0, 1, 5, 36):
        scores = view.offset(back)
        assert scores.exists[0].sum() == length - back
        assert scores.mean()[0, 0].item() == pytest.approx((1 / (q[back:] + 1)).mean().item(), rel=1e-6)
    torch.testing.assert_close(view.entropy().values[0, 0].double(), torch.log(q + 1), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(view.distance().values[0, 0].double(), q / 2, atol=1e-5, rtol=1e-6)
    assert view.distance(normalised=True).mean()[0, 0].item() == pytest.approx(1.0, abs=1e-5)
    torch.testing.assert_close(view.pattern(0).sum(-1), torch.ones(length), atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_flash_and_blocked_log_sum_exp_agree(dtype):
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(2, 3, 301, 16, generator=generator).to(dtype) for _ in range(3))
    out, lse = attend(q, k, v, 0.7)
    tolerance = 2e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(lse, blocked_lse(q, k, 0.7, block=64), atol=tolerance, rtol=tolerance)
    scores = (q.float() @ k.float().mT * 0.7).masked_fill(torch.ones(301, 301, dtype=torch.bool).triu(1), -math.inf)
    torch.testing.assert_close(out.float(), scores.softmax(-1) @ v.float(), atol=tolerance, rtol=tolerance)


def test_without_the_flash_operation_the_blocked_one_is_used(monkeypatch):
    q, k, v = torch.randn(3, 1, 2, 33, 8).unbind(0)
    expected = attend(q, k, v, 1.0)

    class Without:
        def __getattr__(self, name):
            raise AttributeError(name)

    monkeypatch.setattr(module.torch.ops, "aten", Without())
    for one, other in zip(attend(q, k, v, 1.0), expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_memory_is_bounded_by_blocks():
    view = Attention(
        torch.zeros(1, 4, 600, 2),
        torch.zeros(1, 4, 600, 2),
        torch.zeros(1, 4, 600),
        1.0,
        batch_of(np.zeros((1, 600), int)),
    )
    view._rows = 32
    assert max(block.shape[2] for _, _, block in view.blocks()) == 32
    assert view._kept is None


def test_a_mask_of_wrong_shape_or_type_is_refused():
    view = Attention.uniform(batch_of(np.zeros((2, 9), dtype=np.int64)))
    for mask in (torch.ones(9, 9), torch.ones(3, 9, 9, dtype=torch.bool), torch.ones(9, 8, dtype=torch.bool)):
        with pytest.raises(ValueError, match="legal: bool"):
            view.to(mask)
    with pytest.raises(ValueError, match="back: -1"):
        view.offset(-1)
