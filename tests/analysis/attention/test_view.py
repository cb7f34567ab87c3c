"""Reductions of attention against brute force, closed forms, and the ways to a log-sum-exp."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nca_interp.analysis.attention import kernel
from nca_interp.analysis.attention import scores as scores_module
from nca_interp.analysis.attention.kernel import Rule, attend, blocked
from nca_interp.analysis.attention.view import Attention
from tests.analysis.models import attention_of, batch_of, random_patterns

SPACE = {"seed": st.integers(0, 10_000), "length": st.integers(2, 23), "queries": st.integers(1, 25)}
RULES = ("plain", "softcap", "window", "padded")


def _rule(kind: str, batch: int, length: int) -> Rule:
    q, k = torch.arange(length)[:, None], torch.arange(length)
    if kind == "softcap":
        return Rule(0.6, softcap=2.0)
    if kind == "window":
        return Rule(0.6, allowed=((q - k < 4) & (k <= q))[None])
    if kind == "padded":  # the first sequence is padded on the left, the second on the right
        real = torch.ones(batch, length, dtype=torch.bool)
        real[0, : length // 3] = False
        real[1, length - length // 3 :] = False
        return Rule(0.6, allowed=(k <= q) & real[:, None])
    return Rule(0.6)


def _probabilities(q: torch.Tensor, k: torch.Tensor, rule: Rule) -> torch.Tensor:
    """Attention in fp64, straight from the definition; zeros for queries that may attend to nothing."""
    scores = q.double() @ k.double().mT * rule.scale
    if rule.softcap:
        scores = rule.softcap * torch.tanh(scores / rule.softcap)
    length = scores.shape[-1]
    allowed = torch.ones(length, length, dtype=torch.bool).tril()[None]
    allowed = allowed if rule.allowed is None else allowed & rule.allowed
    scores = scores.masked_fill(~allowed[:, None], -math.inf)
    return scores.softmax(-1).nan_to_num(0.0)


@settings(max_examples=60, deadline=None)
@given(**SPACE, kind=st.sampled_from(RULES), sparse=st.sampled_from([0, 10**9]))
def test_reductions_equal_brute_force(seed, length, queries, kind, sparse):
    """Whatever the rule, the size of the blocks, and whether key sets are gathered (sparse 0) or masked."""
    generator = torch.Generator().manual_seed(seed)
    q, k = (2 * torch.randn(2, 3, length, 4, generator=generator) for _ in range(2))
    tokens = np.random.default_rng(seed).integers(0, 5, (2, length))
    rule = _rule(kind, 2, length)
    a = _probabilities(q, k, rule)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "QUERIES", queries)  # several blocks: their borders must not show
        patch.setattr(kernel, "BLOCK_ELEMENTS", 3 * queries * length)
        patch.setattr(scores_module, "SPARSE", sparse)
        _, lse = blocked(q, k, q, rule)
        stimulus = batch_of(tokens)
        for _ in range(2):  # the second view knows all key sets beforehand and sums them over one map
            _compare(Attention(q, k, lse, rule, stimulus), a, tokens, length)


def _compare(view: Attention, a: torch.Tensor, tokens: np.ndarray, length: int) -> None:
    q, k = torch.arange(length)[:, None], torch.arange(length)[None]
    entropy = -torch.special.xlogy(a, a).sum(-1)
    two = torch.where((q - k <= 2) & (k <= q), a, 0.0).sum(-1)
    expected = {
        "entropy": (view.entropy(), entropy.mean(-1)),
        "normalised": (view.entropy(True), (entropy[..., 1:] / torch.log(torch.arange(2, length + 1.0))).mean(-1)),
        "distance": (view.distance(), (a * (q - k)).sum(-1).mean(-1)),
        "relative": (view.distance(True), ((a * (q - k)).sum(-1)[..., 1:] / (torch.arange(1, length) / 2)).mean(-1)),
        "first": (view.first(), a[..., 0].mean(-1)),
        "self": (view.self_(), a.diagonal(0, -2, -1).mean(-1)),
        "offset": (view.offset(1), a.diagonal(-1, -2, -1).mean(-1)),
        "within": (view.within(2), two.mean(-1)),
    }
    for name, (scores, value) in expected.items():
        torch.testing.assert_close(scores.mean().double(), value, atol=2e-5, rtol=1e-4, msg=name)
    profile = torch.stack([a.diagonal(-d, -2, -1).mean(-1) for d in range(length)], -1)
    torch.testing.assert_close(view.profile(length).double(), profile, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(view.corner(5).double(), a[:, :, :5, :5], atol=1e-5, rtol=1e-4)
    best = view.strongest()
    torch.testing.assert_close(a.gather(-1, best[..., None])[..., 0], a.amax(-1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(view.pattern(1, 1).double(), a[1, 1], atol=1e-5, rtol=1e-4)
    for shift in (0, 1):
        same = np.zeros((2, length, length), dtype=bool)
        for b, i, j in np.ndindex(same.shape):
            same[b, i, j] = j < i and j >= shift and tokens[b, j - shift] == tokens[b, i]
        mask = torch.from_numpy(same)
        scores = view.same_token(shift)
        assert torch.equal(scores.exists, mask.any(-1))
        torch.testing.assert_close(scores.values.double(), (a * mask[:, None]).sum(-1), atol=1e-5, rtol=1e-4)
    ids = tokens - 1  # -1 matches nothing
    match = torch.from_numpy((ids[:, :, None] == ids[:, None]) & (ids[:, None] >= 0))
    found = view.matching(ids, ids).values
    torch.testing.assert_close(found.double(), (a * match[:, None]).sum(-1), atol=1e-5, rtol=1e-4)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), length=st.integers(2, 23))
def test_mask_as_tensor_array_and_function_agree(seed, length):
    view = attention_of(random_patterns(seed, 2, 3, length), batch_of(np.zeros((2, length), dtype=np.int64)))
    mask = torch.rand(2, length, length, generator=torch.Generator().manual_seed(seed)) < 0.3
    whole = view.to(mask)
    for other in (view.to(lambda start, stop: mask[:, start:stop, :stop]), view.to(mask.numpy())):
        assert torch.equal(whole.values, other.values)
        assert torch.equal(whole.exists, other.exists)
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
def test_fast_and_blocked_attention_agree(dtype):
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(2, 3, 301, 16, generator=generator).to(dtype) for _ in range(3))
    out, lse = attend(q, k, v, Rule(0.7))
    assert lse.dtype == torch.float32
    tolerance = 2e-5 if dtype == torch.float32 else 2e-2
    for block in (64, 500):
        other, other_lse = blocked(q, k, v, Rule(0.7), block)
        torch.testing.assert_close(lse, other_lse, atol=tolerance, rtol=tolerance)
        torch.testing.assert_close(out, other, atol=tolerance, rtol=tolerance)
    expected = _probabilities(q.float(), k.float(), Rule(0.7)) @ v.double()
    torch.testing.assert_close(out.double(), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("kind", RULES)
def test_blocked_attention_of_every_rule(kind):
    q, k, v = torch.randn(3, 2, 3, 29, 8, generator=torch.Generator().manual_seed(2)).unbind(0)
    rule = _rule(kind, 2, 29)
    out, lse = blocked(q, k, v, rule, block=7)
    expected = _probabilities(q, k, rule)
    torch.testing.assert_close(out.double(), expected @ v.double(), atol=1e-5, rtol=1e-5)
    assert lse.isinf().any() == (kind == "padded")


def test_without_the_fast_operations_the_blocked_ones_are_used(monkeypatch):
    q, k, v = torch.randn(3, 1, 2, 33, 8).unbind(0)
    expected = attend(q, k, v, Rule(1.0))

    class Without:
        def __getattr__(self, name):
            raise AttributeError(name)

    monkeypatch.setattr(kernel.torch.ops, "aten", Without())
    for one, other in zip(attend(q, k, v, Rule(1.0)), expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_operation_of_gpus_takes_our_arguments(dtype):
    """On the meta device, which knows shapes only: the call for CUDA is legal and gives what the engine expects."""
    q = torch.empty(2, 3, 45, 16, device="meta", dtype=dtype)
    found = kernel._fast(q, q, q, 0.25)
    assert found is not None
    out, lse = found
    assert (out.shape, out.dtype) == (q.shape, dtype)
    assert (lse.shape, lse.dtype) == (q.shape[:3], torch.float32)
    assert kernel._fast(q[..., :5], q[..., :5], q[..., :5], 0.25) is None  # widths that the operation refuses


def test_memory_is_bounded_by_blocks(monkeypatch):
    monkeypatch.setattr(kernel, "BLOCK_ELEMENTS", 2**17)
    view = Attention(torch.zeros(3, 4, 600, 2), torch.zeros(3, 4, 600, 2), torch.zeros(3, 4, 600), Rule(1.0), batch_of(np.zeros((3, 600), int)))  # fmt: skip
    sizes = [block.mass.numel() for block in view.blocks()]
    queries = kernel.QUERIES
    assert max(sizes) <= max(2**17, 4 * queries * 600)
    assert sum(sizes) == 3 * 4 * sum(min(queries, 600 - s) * min(600, s + queries) for s in range(0, 600, queries))


def test_a_mask_of_wrong_shape_or_type_is_refused():
    view = Attention.uniform(batch_of(np.zeros((2, 9), dtype=np.int64)))
    for mask in (torch.ones(9, 9), torch.ones(3, 9, 9, dtype=torch.bool), torch.ones(9, 8, dtype=torch.bool)):
        with pytest.raises(ValueError, match="legal: bool"):
            view.to(mask)
    with pytest.raises(ValueError, match="back: -1"):
        view.offset(-1)
