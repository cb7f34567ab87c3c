"""A tiny random model of every causal family that the installed transformers knows, from its own configuration class."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

VOCAB, CONTEXT = 97, 96
WIDTH = ("hidden_size", "n_embd", "d_model", "embed_dim", "dim", "emb_dim")
LENGTH = ("n_positions", "n_ctx", "max_position_embeddings", "max_seq_len", "max_target_positions")
DEPTH = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers", "depth")
HEADS = (
    "num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads", "encoder_attention_heads",
    "attention_heads", "num_encoder_attention_heads", "num_decoder_attention_heads",
)  # fmt: skip
MLP = (
    "intermediate_size",
    "ffn_dim",
    "decoder_ffn_dim",
    "encoder_ffn_dim",
    "d_ff",
    "n_inner",
    "dim_ff",
    "ffn_hidden_size",
)
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
CHOSEN = ("num_experts_per_tok", "moe_topk", "moe_k", "num_experts_per_token")
SMALL: dict[str, Any] = {
    **dict.fromkeys(WIDTH, 32), **dict.fromkeys(LENGTH, CONTEXT), **dict.fromkeys(DEPTH, 2), **dict.fromkeys(HEADS, 4),
    **dict.fromkeys(MLP, 48), **dict.fromkeys(EXPERTS, 4), **dict.fromkeys(CHOSEN, 2),
    "vocab_size": VOCAB, "num_key_value_heads": 2, "head_dim": 8, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "expert_ffn_hidden_size": 16, "n_group": 1,
    "topk_group": 1, "first_k_dense_replace": 1, "moe_layer_start_index": 0, "kv_lora_rank": 16, "q_lora_rank": 16,
    "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "index_topk": 8, "index_n_heads": 4, "index_head_dim": 16,
    "sliding_window": 16, "window_size": 16, "image_size": 32, "patch_size": 8, "state_size": 4, "mamba_n_heads": 8,
    "mamba_d_head": 8, "mamba_d_state": 4, "mamba_n_groups": 1, "mamba_d_ssm": 64, "linear_head_dim": 8,
    "linear_num_heads": 4, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "vocab_size_per_layer_input": VOCAB, "hidden_size_per_layer_input": 8, "zero_expert_num": 2,
    "pronunciation_vocab_size": 20, "shape_vocab_size": 20, "rotary_dim": 4,
}  # fmt: skip
"""Field of a configuration -> its value, wherever a family has a field of that name."""
HYBRID = {"layer_types": ["linear_attention", "full_attention"]}
ZAMBA = {
    "num_hidden_layers": 4, "num_key_value_heads": 4, "attention_hidden_size": 64, "attention_head_dim": 16,
    "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
}  # fmt: skip
SPECIAL: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("bailing_hybrid", "granitemoehybrid", "kimi_linear", "qwen3_5_text", "qwen3_5_moe_text"), HYBRID),
    "qwen3_next": HYBRID,
    "qwen4_exp_text": HYBRID
    | {"indexer_n_heads": 4, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 8, "indexer_compress_ratio": 2},
    **{family: {"layer_types": ["conv", "full_attention"]} for family in ("lfm2_moe", "lfm3")},
    "bamba": {"attn_layer_indices": [1]},
    "codegen": {"n_ctx": CONTEXT},
    "cohere_compass_text": {
        "rope_parameters": {k: {"rope_type": "default", "rope_theta": 1e4} for k in ("full_attention", "sliding_attention")},
        "layer_types": ["full_attention", "sliding_attention"],
    },
    "dbrx": {
        "attn_config": {"rope_theta": 1e4, "kv_n_heads": 2, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 16, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "dots1": {"n_shared_experts": 1},
    "dots3_note_text": {"num_key_value_heads": 4, "per_layer_config": {}},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gemma4_unified_text": {"num_kv_shared_layers": 0},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "mamba2": {"num_heads": 8},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "reformer": {
        "is_decoder": True, "axial_pos_shape": (8, 12), "axial_pos_embds_dim": (16, 16), "attn_layers": ["local", "lsh"],
        "attention_head_size": 8, "local_attn_chunk_length": 16, "lsh_attn_chunk_length": 16, "num_buckets": 4,
    },
    "xmod": {"default_language": "en_XX"},
    "zamba": ZAMBA | {"n_mamba_heads": 1, "mamba_dt_rank": 4, "use_mamba_kernels": False},
    "zamba2": ZAMBA | {"mamba_headdim": 8, "n_mamba_heads": 8, "mamba_ngroups": 1, "num_mem_blocks": 1},
    "zaya": {"num_experts_per_tok": 1},
}  # fmt: skip
"""Family -> what it needs beside, so that it can be built and some layer attends."""


def families() -> dict[str, type]:
    """Name of every family that `AutoModelForCausalLM` opens -> its configuration class."""
    from transformers import AutoModelForCausalLM

    return {config.model_type: config for config in AutoModelForCausalLM._model_mapping}  # type: ignore[attr-defined]


def tiny_config(kind: type) -> Any:
    """A small configuration of a class, and of the parts that it is composed of."""
    holder: Any = kind
    fields = {field.name for field in dataclasses.fields(holder)} - set(holder.attribute_map)
    given = {name: value for name, value in SMALL.items() if name in fields}
    if "kv_lora_rank" in fields:  # latent attention makes keys for every head
        given["num_key_value_heads"] = SMALL["num_attention_heads"]
    if holder.sub_configs:
        whole = holder()
        parts = {name: getattr(whole, name, None) for name in holder.sub_configs}
        given |= {name: tiny_config(type(part)) for name, part in parts.items() if part is not None}
    return holder(**given | SPECIAL.get(holder.model_type, {}))


def tiny_model(kind: type) -> Any:
    """A random model of a family in evaluation mode, with weights so large that its attention is far from uniform."""
    from transformers import AutoModelForCausalLM

    config = tiny_config(kind)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2 and parameter.is_floating_point():
                parameter.normal_(0, 0.3)
    return model
