"""The training forward pass of a `LlamaForCausalLM`: the same parameters, the same function, fewer passes over memory.

No mask is built, normalised activations are cast once for the products that share them, attention and loss never hold
their whole matrix, and a block can be compiled. The model stays a plain Hugging Face model; only `forward` is replaced
while the context lasts, and tests hold loss and gradients against the original.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from nca_interp.model.attention import causal_attention, without_previous_token
from nca_interp.model.loss import linear_nll_sum

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM


@contextmanager
def fast_forward(
    model: LlamaForCausalLM, precision: str, *, compiled: bool = False, checkpointing: bool = False,
    no_previous_token: bool = False,
) -> Iterator[None]:  # fmt: skip
    """While the context lasts, `model(inputs, targets)` is the summed loss of the targets in nats (fp32 scalar).

    `precision` "bf16" computes matrix products in bf16, with weights, residual stream, norms and loss in fp32.
    `compiled`: blocks through torch.compile (one compilation for all). `checkpointing`: activations inside a block are
    computed again in backward. `no_previous_token`: without the key before the query (`attention.without_previous_token`). Works inside DDP and after `fully_shard`, whose hooks see the modules they know.
    """
    assert is_fast(model.config), model.config
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    block = torch.compile(_block) if compiled else _block
    layers = list(model.model.layers)
    try:
        for layer in layers:
            layer.forward = partial(_run_block, layer, block, checkpointing, dtype)
        model.forward = partial(_forward, model, dtype, no_previous_token)
        yield
    finally:
        for module in (model, *layers):
            module.__dict__.pop("forward", None)


def is_fast(config: Any) -> bool:
    """Whether a model of this Hugging Face configuration computes what `fast_forward` does."""
    wanted = {
        "model_type": "llama", "hidden_act": "silu", "attention_bias": False, "mlp_bias": False,
        "attention_dropout": 0.0, "num_key_value_heads": getattr(config, "num_attention_heads", 0),
    }  # fmt: skip
    if any(getattr(config, name, None) != value for name, value in wanted.items()):
        return False
    rotary = config.rope_parameters
    return rotary["rope_type"] == "default" and rotary.get("partial_rotary_factor", 1.0) == 1.0


def _forward(
    model: LlamaForCausalLM, dtype: torch.dtype, no_previous_token: bool, inputs: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Summed loss of `targets` [batch, position] after `inputs` [batch, position]."""
    x = model.model.embed_tokens(inputs)
    position = torch.arange(inputs.shape[1], device=inputs.device, dtype=torch.float32)
    angle = torch.outer(position, model.model.rotary_emb.inv_freq.float())[:, None, :]
    cos, sin = angle.cos(), angle.sin()
    given = (cos, sin, without_previous_token(inputs.shape[1], inputs.device)) if no_previous_token else (cos, sin)
    for layer in model.model.layers:
        x = layer(x, *given)
    x = _norm(x, model.model.norm, dtype)
    return linear_nll_sum(x.flatten(0, 1), model.lm_head.weight, targets.flatten())


def _run_block(
    layer: Any, block: Callable[..., torch.Tensor], checkpointing: bool, dtype: torch.dtype, *arguments: torch.Tensor
) -> torch.Tensor:
    if not torch.is_grad_enabled():  # not worth a second compilation
        return _block(layer, dtype, *arguments)
    if checkpointing:
        return checkpoint(block, layer, dtype, *arguments, use_reentrant=False)
    return block(layer, dtype, *arguments)


def _block(
    layer: Any,
    dtype: torch.dtype,
    x: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    allowed: torch.Tensor | None = None,
) -> torch.Tensor:
    """One decoder layer on the residual stream x [batch, position, d_model]; cos, sin [position, 1, d_head / 2]; `allowed`: keys of
    each query, as `causal_attention` takes them."""
    attn, mlp = layer.self_attn, layer.mlp
    h = _norm(x, layer.input_layernorm, dtype)
    q, k, v = (_linear(h, proj).unflatten(-1, (-1, attn.head_dim)) for proj in (attn.q_proj, attn.k_proj, attn.v_proj))
    z = causal_attention(_rotate(q, cos, sin), _rotate(k, cos, sin), v, allowed)
    x = x + _linear(z.flatten(2), attn.o_proj)
    h = _norm(x, layer.post_attention_layernorm, dtype)
    return x + _linear(F.silu(_linear(h, mlp.gate_proj)) * _linear(h, mlp.up_proj), mlp.down_proj)


def _linear(x: torch.Tensor, layer: Any) -> torch.Tensor:
    return F.linear(x, layer.weight.to(x.dtype))


def _norm(x: torch.Tensor, layer: Any, dtype: torch.dtype) -> torch.Tensor:
    scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + layer.variance_epsilon)
    return (x * scale * layer.weight).to(dtype)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding of x [batch, position, head, d_head], computed in fp32."""
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(x.dtype)
