"""Models and attention with known answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from nca_interp.analysis.attention.kernel import Rule
from nca_interp.analysis.attention.view import Attention
from nca_interp.analysis.stimuli.base import Batch

TOKENS, CONTEXT = 24, 40


def attention_of(patterns: torch.Tensor, stimulus: Batch) -> Attention:
    """An `Attention` whose probabilities are exactly `patterns` [batch, head, query, key]."""
    batch, heads, length, _ = patterns.shape
    keys = torch.eye(length).expand(batch, heads, length, length)
    return Attention(patterns.clamp(min=1e-30).log(), keys, torch.zeros(batch, heads, length), Rule(1.0), stimulus)


def batch_of(tokens: np.ndarray, **more) -> Batch:
    """A stimulus of given tokens."""
    return Batch(tokens, tokens[:, 1:], **more)


def random_patterns(seed: int, batch: int, heads: int, length: int) -> torch.Tensor:
    """Sharp random causal attention, rows summing to 1."""
    scores = 3 * torch.randn(batch, heads, length, length, generator=torch.Generator().manual_seed(seed))
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    return scores.masked_fill(future, -torch.inf).softmax(-1)


def planted_gpt2(directory: Path) -> Path:
    """A checkpoint with known heads: 0.0 previous token, 1.0 induction that copies, 1.1 induction that anti-copies.

    Residual stream: token one-hot, position one-hot, the previous token's one-hot (written by 0.0). Every position has
    one of each, so LayerNorm is the same affine map everywhere. Token 23 begins the sequence. Head 0.1 is uniform.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    width = 2 * TOKENS + CONTEXT
    half = width // 2
    config = GPT2Config(
        vocab_size=TOKENS, n_positions=CONTEXT, n_embd=width, n_layer=2, n_head=2, n_inner=4, bos_token_id=TOKENS - 1,
        eos_token_id=TOKENS - 1,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    token, place, before = slice(0, TOKENS), slice(TOKENS, TOKENS + CONTEXT), slice(TOKENS + CONTEXT, width)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
        transformer = model.transformer
        for block in transformer.h:
            block.ln_1.weight.fill_(1.0)
            block.ln_2.weight.fill_(1.0)
        transformer.ln_f.weight.fill_(1.0)
        transformer.wte.weight[:, token] = torch.eye(TOKENS)
        transformer.wpe.weight[:, place] = torch.eye(CONTEXT)
        first, second = transformer.h[0].attn, transformer.h[1].attn
        # c_attn [d_model, 3 * d_model]: queries, keys, values, each head by head
        query, key, value = 0, width, 2 * width
        first.c_attn.weight[place, query : query + CONTEXT] = 10.0 * torch.eye(CONTEXT)
        first.c_attn.weight[place, key : key + CONTEXT] = torch.diag(
            torch.ones(CONTEXT - 1), 1
        )  # key p matches query p + 1
        first.c_attn.weight[token, value : value + TOKENS] = torch.eye(TOKENS)
        first.c_proj.weight[:TOKENS, before] = torch.eye(TOKENS)
        for head, sign in ((0, 1.0), (1, -1.0)):
            start = head * half
            second.c_attn.weight[token, query + start : query + start + TOKENS] = 10.0 * torch.eye(TOKENS)
            second.c_attn.weight[before, key + start : key + start + TOKENS] = torch.eye(TOKENS)
            second.c_attn.weight[token, value + start : value + start + TOKENS] = torch.eye(TOKENS)
            second.c_proj.weight[start : start + TOKENS, token] = sign * (3.0 if sign > 0 else 1.0) * torch.eye(TOKENS)
    model.save_pretrained(directory)
    return directory


def letter_tokenizer(directory: Path, n: int, prefix: dict[str, int] | None = None, special: bool = True) -> Path:
    """Give a checkpoint a tokenizer of `n` letters, ids 0 to n - 1; other characters are left out. The added tokens
    `prefix` (text -> id) begin every text."""
    from tokenizers import AddedToken, Tokenizer, models, processors

    prefix = prefix or {}
    letters = [c for c in map(chr, range(ord("a"), 0x3000)) if c.isalpha()][:n]
    vocabulary = {c: i for i, c in enumerate(letters)} | prefix
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.add_special_tokens([AddedToken(token, special=special) for token in prefix])
    if prefix:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{' '.join(prefix)} $A", special_tokens=list(prefix.items())
        )
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory


def byte_tokenizer(directory: Path, merges: tuple[str, ...] = ()) -> Path:
    """Give a checkpoint a tokenizer of bytes (ids 0 to 255 in the order of `ByteLevel.alphabet`) and of merged words, whose ids
    follow; each of `merges` is a word with its leading space."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    pairs: list[tuple[str, str]] = []
    for word in merges:
        letters = word.replace(" ", "\u0120")
        for end in range(2, len(letters) + 1):
            pair = (letters[: end - 1], letters[end - 1])
            if pair not in pairs:
                pairs.append(pair)
                vocabulary.setdefault(letters[:end], len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory


def tiny(family: str, **more):
    """A random model of a family, sharpened so that its attention is far from uniform."""
    import transformers as t

    common = {
        "vocab_size": 97,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 96,
    }
    kinds = {
        "llama": (t.LlamaConfig, t.LlamaForCausalLM, {}),
        "llama-gqa": (t.LlamaConfig, t.LlamaForCausalLM, {"num_key_value_heads": 2}),
        "llama-mqa": (t.LlamaConfig, t.LlamaForCausalLM, {"num_key_value_heads": 1}),
        "neox": (t.GPTNeoXConfig, t.GPTNeoXForCausalLM, {}),
        "qwen2": (t.Qwen2Config, t.Qwen2ForCausalLM, {"num_key_value_heads": 2}),
        "mistral": (t.MistralConfig, t.MistralForCausalLM, {"num_key_value_heads": 2, "sliding_window": None}),
        "olmo2": (t.Olmo2Config, t.Olmo2ForCausalLM, {"num_key_value_heads": 4}),
        "gemma": (t.GemmaConfig, t.GemmaForCausalLM, {"num_key_value_heads": 1, "head_dim": 8}),
        "qwen3": (t.Qwen3Config, t.Qwen3ForCausalLM, {"num_key_value_heads": 2, "head_dim": 8}),
        "olmo": (t.OlmoConfig, t.OlmoForCausalLM, {"num_key_value_heads": 4}),
        "gemma3": (t.Gemma3TextConfig, t.Gemma3ForCausalLM, {"num_key_value_heads": 2, "head_dim": 8}),
        "gpt_oss": (
            t.GptOssConfig,
            t.GptOssForCausalLM,
            {"num_key_value_heads": 2, "head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1},
        ),
        "gemma2": (t.Gemma2Config, t.Gemma2ForCausalLM, {"num_key_value_heads": 2, "head_dim": 8}),
        "gpt2": (t.GPT2Config, t.GPT2LMHeadModel, {}),
    }
    config_class, model_class, extra = kinds[family]
    torch.manual_seed(0)
    if family == "gpt2":
        config = config_class(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=96, **more)
    else:
        config = config_class(**{**common, **extra, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, **more})
    model = model_class(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.mul_(
                8.0
                if any(k in name for k in ("q_proj", "k_proj", "query_key_value", "c_attn")) and p.ndim == 2
                else 1.0
            )
    return model


def linear_gpt2(n_layers: int = 2):
    """A model whose losses are linear in what its heads put out: uniform attention (no queries), no norms, no MLPs, and a last
    token whose constant logit of 60 makes every log-sum-exp that logit."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=TOKENS, n_positions=CONTEXT, n_embd=32, n_layer=n_layers, n_head=4, bos_token_id=None,
        eos_token_id=None, tie_word_embeddings=False,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        model.transformer.ln_f = torch.nn.Identity()
        for block in model.transformer.h:
            block.ln_1, block.ln_2 = torch.nn.Identity(), torch.nn.Identity()
            block.mlp.c_proj.weight.zero_()
            block.mlp.c_proj.bias.zero_()
            block.attn.c_attn.weight[:, :32] = 0.0
            block.attn.c_attn.bias[:32] = 0.0
            block.attn.c_attn.weight[:, 64:] = 0.3 * torch.randn(32, 32)
            block.attn.c_proj.weight.copy_(0.3 * torch.randn(32, 32))
            block.attn.c_proj.weight[:, 31] = 0.0
        model.transformer.wte.weight.copy_(torch.randn(TOKENS, 32))
        model.transformer.wte.weight[:, 31] = 1.0
        model.transformer.wpe.weight[:, 31] = 0.0
        model.lm_head.weight.copy_(0.1 * torch.randn(TOKENS, 32))
        model.lm_head.weight[-1] = 0.0
        model.lm_head.weight[:, 31] = 0.0
        model.lm_head.weight[-1, 31] = 60.0
    return model


def composing_heads(n_layers: int, n_heads: int, edge: tuple[tuple[int, int], tuple[int, int]] | None = None):
    """Random heads of width 8 in a stream of 96 as `folded.Weights`, whose writing and reading prefers a quarter of the stream (so
    all pairs compose more than chance); keys of the later head of `edge` read what the earlier one writes."""
    from nca_interp.analysis.causes.folded import Weights

    rng = torch.Generator().manual_seed(0)
    scale = torch.cat([torch.full((24,), 3.0), torch.ones(72)]).double()
    q, k, v = (
        scale[:, None] * torch.randn(n_layers, n_heads, 96, 8, generator=rng, dtype=torch.float64) for _ in range(3)
    )
    o = torch.randn(n_layers, n_heads, 8, 96, generator=rng, dtype=torch.float64) * scale
    if edge is not None:
        (earlier, later) = edge
        k[later] = o[earlier].T
    one = torch.randn(30, 96, generator=rng, dtype=torch.float64)
    return Weights(one, one.T, q, k, v, o, torch.eye(8, dtype=torch.float64).expand(n_layers, 1, 8, 8))
