"""Small random models with a tokenizer of bytes, as checkpoints from elsewhere."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.evaluate.planted import END, byte_tokenizer


def checkpoint(folder: Path, seed: int = 0, n_ctx: int = 160) -> Path:
    """A two-layer Llama that `AutoModelForCausalLM` opens."""
    tokenizer = byte_tokenizer()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=n_ctx, bos_token_id=None, eos_token_id=tokenizer.token_to_id(END),
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}'
    )
    return folder
