"""The training forward pass is the Hugging Face model, only faster: same loss, same gradients, no matrix of all logits."""

from __future__ import annotations

import os

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from nca_interp.config import ModelConfig
from nca_interp.model import loss as loss_module
from nca_interp.model.attention import block_rows, causal_attention
from nca_interp.model.fast import fast_forward
from nca_interp.model.llama import build
from nca_interp.model.loss import IGNORE, LOGITS, MIN_ROWS, linear_nll_sum
from nca_interp.train.compiling import forget_other_processors

CONFIG = ModelConfig(n_layers=2, d_model=32, n_heads=4, d_mlp=48, n_ctx=160)


def plain(hidden, weight, targets):
    logits = F.linear(hidden, weight.to(hidden.dtype)).double()
    return F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum")


def with_gradients(function, hidden, weight, targets, scale):
    hidden, weight = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    total = function(hidden, weight, targets)
    (total * scale).backward()
    return total.detach().double(), hidden.grad.double(), weight.grad.double()


def drawn(n, d, v, seed, ignored=0.2, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    targets = torch.randint(v, (n,), generator=g)
    targets[torch.rand(n, generator=g) < ignored] = IGNORE
    return torch.randn(n, d, generator=g).to(dtype), torch.randn(v, d, generator=g), targets


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 60), d=st.integers(1, 24), v=st.integers(1, 50), rows=st.integers(1, 64), seed=st.integers(0, 999)
)
def test_chunked_loss_is_the_plain_one_with_its_gradients(n, d, v, rows, seed):
    hidden, weight, targets = drawn(n, d, v, seed)
    before = loss_module.MIN_ROWS, loss_module.LOGITS
    loss_module.MIN_ROWS, loss_module.LOGITS = rows, {"cpu": 1}
    try:
        ours = with_gradients(linear_nll_sum, hidden, weight, targets, 0.3)
    finally:
        loss_module.MIN_ROWS, loss_module.LOGITS = before
    expected = with_gradients(plain, hidden.double(), weight.double(), targets, 0.3)
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-5)


def test_extreme_logits_and_nothing_to_predict():
    hidden, weight = torch.tensor([[200.0], [-200.0]]), torch.tensor([[1.0], [-1.0]])
    assert linear_nll_sum(hidden, weight, torch.tensor([1, 1])).item() == pytest.approx(400.0)
    total, *gradients = with_gradients(linear_nll_sum, hidden, weight, torch.tensor([IGNORE, IGNORE]), 1.0)
    assert total == 0
    assert all(not g.any() for g in gradients)


def test_bf16_loss_is_as_near_to_the_truth_as_the_plain_one():
    hidden, weight, targets = drawn(3000, 64, 700, 0, dtype=torch.bfloat16)
    truth = with_gradients(plain, hidden.double(), weight.bfloat16().double(), targets, 1 / 3000)
    ours = with_gradients(linear_nll_sum, hidden, weight, targets, 1 / 3000)
    theirs = with_gradients(plain, hidden, weight, targets, 1 / 3000)
    assert abs(ours[0] / truth[0] - 1) < 1e-5
    for a, b, t in zip(ours[1:], theirs[1:], truth[1:], strict=True):
        assert (a - t).norm() <= 1.1 * (b - t).norm()
        assert (a - t).norm() < 1e-2 * t.norm()


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that was made."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


@pytest.mark.parametrize("n", [2048, 8192])
def test_memory_of_the_loss_does_not_grow_with_tokens_times_vocabulary(n):
    hidden, weight, targets = drawn(n, 4, 1000, 0)
    with Largest() as largest:
        with_gradients(linear_nll_sum, hidden, weight, targets, 1.0)
    assert largest.numel == max(MIN_ROWS, LOGITS["cpu"] // 1000) * 1000
    with Largest() as largest:
        with_gradients(plain, hidden, weight, targets, 1.0)
    assert largest.numel == n * 1000


def by_torch(function, *arguments):
    """What torch's own attention gives in bf16, the reference; skips where it cannot: under ATEN_CPU_CAPABILITY=default or avx2 on a
    processor that has AMX it packs for an instruction that it was not compiled for (torch 2.13)."""
    try:
        return function(*arguments)
    except RuntimeError as error:
        if "ATEN_CPU_CAPABILITY" not in os.environ:
            raise
        return pytest.skip(f"torch's own attention in bf16: {error}")


@pytest.mark.parametrize("d_head", [16, 64])
@pytest.mark.parametrize("blocks", [0.0, 0.3, 1.0, 2.4])
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_attention_in_blocks_is_causal_attention(d_head, blocks, more):
    n = max(1, int(blocks * block_rows(d_head)) + more)
    g = torch.Generator().manual_seed(n)
    q, k, v, grad = (torch.randn(2, n, 3, d_head, generator=g) for _ in range(4))

    def run(attend, dtype):
        inputs = [x.to(dtype).requires_grad_() for x in (q, k, v)]
        out = attend(*inputs)
        return [x.double() for x in (out.detach(), *torch.autograd.grad(out, inputs, grad.to(dtype)))]

    def sdpa(*qkv):
        return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in qkv), is_causal=True).transpose(1, 2)

    truth = run(sdpa, torch.float64)
    reference = by_torch(run, sdpa, torch.bfloat16)
    for ours, theirs, true in zip(run(causal_attention, torch.bfloat16), reference, truth, strict=True):
        assert (ours - true).norm() <= max(2 * (theirs - true).norm(), 1e-6)
        assert (ours - true).norm() <= 0.02 * true.norm() + 1e-6


def test_attention_in_blocks_does_not_look_ahead():
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 200, 2, 8, generator=g).bfloat16() for _ in range(3))
    before = causal_attention(q, k, v)
    k[:, 150:], v[:, 150:] = 9.0, -9.0
    assert torch.equal(causal_attention(q, k, v)[:, :150], before[:, :150])


def batch(vocab=90, n_ctx=160):
    g = torch.Generator().manual_seed(3)
    x, y = (torch.randint(vocab, (3, n_ctx), generator=g) for _ in range(2))
    y[0, :9] = IGNORE
    return x, y


def hugging_face(model, x, y, precision="fp32"):
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        logits = model(input_ids=x, use_cache=False).logits
    return F.cross_entropy(logits.float().flatten(0, 1), y.flatten(), ignore_index=IGNORE, reduction="sum")


def gradients(model, function):
    model.zero_grad()
    total = function() / 400
    total.backward()
    return total.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize(
    "changes", [{}, {"tied": True}, {"d_head": 6, "n_heads": 3, "d_model": 30}, {"embed_std": 1.0, "rope_base": 500.0}]
)
def test_fast_forward_is_the_model_in_fp32(changes):
    model = build(CONFIG.model_copy(update=changes), 90, 0, "pt").train()
    x, y = batch()
    expected, theirs = gradients(model, lambda: hugging_face(model, x, y))
    with fast_forward(model, "fp32"):
        total, ours = gradients(model, lambda: model(x, y))
    torch.testing.assert_close(total, expected, rtol=2e-6, atol=0)
    for name, value in theirs.items():
        assert (ours[name] - value).norm() < 1e-5 * value.norm(), name


def test_fast_forward_in_bf16_is_as_near_to_fp32_as_autocast():
    model = build(CONFIG.model_copy(update={"init_std": 0.2}), 90, 0, "pt").train()
    x, y = batch()
    truth, exact = gradients(model, lambda: hugging_face(model, x, y))
    _, autocast = by_torch(gradients, model, lambda: hugging_face(model, x, y, "bf16"))
    with fast_forward(model, "bf16"):
        total, ours = gradients(model, lambda: model(x, y))
    assert abs(total / truth - 1) < 2e-3

    def error(found):
        return sum((found[n] - exact[n]).square().sum() for n in exact).sqrt()

    assert error(ours) < 1.5 * error(autocast)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradient_checkpointing_changes_nothing(precision):
    model = build(CONFIG, 90, 0, "pt").train()
    x, y = batch()
    found = []
    for checkpointing in (False, True):
        with fast_forward(model, precision, checkpointing=checkpointing):
            found.append(gradients(model, lambda: model(x, y)))
    assert torch.equal(found[0][0], found[1][0])
    assert all(torch.equal(value, found[1][1][name]) for name, value in found[0][1].items())


def test_compiled_blocks_compute_the_same():
    # torch's fault, not its choice of instructions: the key of its graph cache lacks ATEN_CPU_CAPABILITY, so that code which another
    # run left there for AVX-512 is taken for a processor without it
    forget_other_processors()
    model = build(CONFIG, 90, 0, "pt").train()
    x, y = batch()
    with fast_forward(model, "bf16"):
        expected, eager = gradients(model, lambda: model(x, y))
    with fast_forward(model, "bf16", compiled=True):
        total, ours = gradients(model, lambda: model(x, y))
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=0)
    for name, value in eager.items():
        assert (ours[name] - value).norm() < 0.02 * value.norm(), name


def test_the_model_is_itself_again_afterwards():
    model = build(CONFIG, 90, 0, "pt").eval()
    x, y = batch()
    before = model(input_ids=x).logits
    with pytest.raises(KeyError), fast_forward(model, "bf16"):
        raise KeyError
    assert torch.equal(model(input_ids=x).logits, before)
    with torch.no_grad(), fast_forward(model, "fp32"):
        assert model(x, y).item() == pytest.approx(hugging_face_sum(before, y), rel=1e-5)


def hugging_face_sum(logits, y):
    return F.cross_entropy(logits.flatten(0, 1), y.flatten(), ignore_index=IGNORE, reduction="sum").item()
