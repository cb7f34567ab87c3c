"""Small random checkpoints of several architectures, as others would have left them."""

from __future__ import annotations

from pathlib import Path

import torch

FAMILIES = ("llama", "llama-gqa", "neox", "gpt2", "qwen2", "qwen3")


def saved(family: str, folder: Path, *, seed: int = 0, tied: bool | None = None) -> Path:
    """A checkpoint directory; its weights have grown from what they began with, norms and biases too."""
    import transformers as t

    common = {
        "vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
        "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip
    if tied is not None:
        common["tie_word_embeddings"] = tied
    kinds = {
        "llama": (t.LlamaConfig, t.LlamaForCausalLM, {}),
        "llama-gqa": (t.LlamaConfig, t.LlamaForCausalLM, {"num_key_value_heads": 2}),
        "neox": (t.GPTNeoXConfig, t.GPTNeoXForCausalLM, {}),
        "qwen2": (t.Qwen2Config, t.Qwen2ForCausalLM, {"num_key_value_heads": 2}),
        "qwen3": (t.Qwen3Config, t.Qwen3ForCausalLM, {"num_key_value_heads": 2, "head_dim": 8}),
    }
    torch.manual_seed(seed)
    if family == "gpt2":
        named = {"bos_token_id": 1, "eos_token_id": 1} | ({} if tied is None else {"tie_word_embeddings": tied})
        model = t.GPT2LMHeadModel(
            t.GPT2Config(vocab_size=61, n_embd=32, n_layer=2, n_head=4, n_inner=48, n_positions=64, **named)
        )
    else:
        config_class, model_class, extra = kinds[family]
        model = model_class(config_class(**common, **extra))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.5).add_(0.05 * torch.randn_like(p))
    model.save_pretrained(folder)
    return folder
