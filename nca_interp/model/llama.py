"""Build a `LlamaForCausalLM` whose every tensor is a pure function of (seed, stream, tensor name, shape).

Because each tensor has its own named random stream, two models of one seed agree in all tensors that both have:
regimes start from the same body, re-initialising nothing changes nothing, and re-initialising everything gives scratch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from nca_interp.base import stream_seed
from nca_interp.config import ModelConfig, Module

if TYPE_CHECKING:
    from transformers import LlamaConfig


def build(config: ModelConfig, vocab_size: int, seed: int, stream: str) -> Any:
    """A freshly initialised fp32 model on the CPU.

    `seed` determines the body; the embedding and unembedding also depend on `stream` ("ppt", "pt"), so that the
    language embedding of every regime is the same fresh draw. Matrices ~ N(0, init_std^2), embeddings ~
    N(0, embed_std^2), an untied unembedding ~ N(0, unembed_std^2), norm gains 1. Another architecture: model/family.py.
    """
    if config.architecture is not None:
        from nca_interp.model.family import build_family

        return build_family(config, vocab_size, seed, stream)
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM(hf_config(config, vocab_size))
    fill(model, config, seed, stream, {name for name, _ in model.named_parameters()})
    return model


def hf_config(config: ModelConfig, vocab_size: int) -> LlamaConfig:
    """What transformers builds the project's own Llama from."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=config.d_model,
        intermediate_size=config.d_mlp,
        num_hidden_layers=config.n_layers,
        num_attention_heads=config.n_heads,
        num_key_value_heads=config.n_heads,
        head_dim=config.head_width,
        max_position_embeddings=config.n_ctx,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_base},
        tie_word_embeddings=config.tied,
        initializer_range=config.init_std,
        attn_implementation="sdpa",  # type: ignore[call-arg]
        use_cache=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )


@torch.no_grad()
def fill(model: Any, config: ModelConfig, seed: int, stream: str, names: set[str], draw: str = "init") -> None:
    """Overwrite the named parameters with the values of (`seed`, `draw`, name), embeddings also of `stream`, in place."""
    if config.architecture is not None:
        from nca_interp.model.family import fill_family

        fill_family(model, config, seed, stream, names, draw)
        return
    for name, parameter in model.named_parameters():
        if name not in names:
            continue
        if parameter.ndim == 1:
            parameter.fill_(1.0)
            continue
        embedding = kind_of(name) == "embed"
        key = (seed, draw, stream, name) if embedding else (seed, draw, name)
        std = config.embed_std if embedding else config.init_std
        if "lm_head" in name and config.unembed_std is not None:
            std = config.unembed_std
        parameter.copy_(standard_normal(parameter.shape, *key) * std)


def standard_normal(shape: tuple[int, ...] | torch.Size, *key: Any) -> torch.Tensor:
    """N(0, 1) fp32 of one named random stream: `(seed, draw, name)` of a body tensor, `(seed, draw, stream, name)` of an embedding."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(stream_seed(*key)))


def kind_of(name: str) -> Module | str:
    """Module type of a Llama parameter by its name: attn, mlp, norm or embed."""
    if "norm" in name:
        return "norm"
    if ".self_attn." in name:
        return "attn"
    if ".mlp." in name:
        return "mlp"
    assert "embed_tokens" in name or "lm_head" in name, name
    return "embed"
