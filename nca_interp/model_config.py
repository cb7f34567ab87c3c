"""The shape of a network."""

from __future__ import annotations

from pydantic import Field, model_validator

from nca_interp.base import Frozen
from nca_interp.checkpoint_spec import Architecture


class ModelConfig(Frozen):
    """Shape of a `LlamaForCausalLM` (RMSNorm, SwiGLU, RoPE), or of what `architecture` says; names follow TransformerLens."""

    n_layers: int = Field(ge=1, le=256)
    """Number of blocks."""
    d_model: int = Field(ge=8, le=65_536)
    """Width of the residual stream."""
    n_heads: int = Field(ge=1, le=1024)
    """Attention heads a layer; must divide d_model unless d_head is given."""
    d_head: int | None = Field(default=None, ge=2, le=1024)
    """Width of a head (even, for RoPE); null means d_model / n_heads."""
    d_mlp: int = Field(ge=8, le=262_144)
    """Hidden width of the gated MLP."""
    n_ctx: int = Field(ge=8, le=1_048_576)
    """Context length in tokens."""
    rope_base: float = Field(default=10_000.0, gt=0)
    """Base of the rotary position embedding."""
    tied: bool = False
    """Whether the unembedding shares the embedding's weights."""
    init_std: float = Field(default=0.02, gt=0, le=1)
    """Standard deviation of every freshly drawn matrix of the body."""
    embed_std: float = Field(default=0.02, gt=0, le=100)
    """Standard deviation of freshly drawn embeddings (the released code uses 1.0; arXiv 2603.10055 code, models.py)."""
    unembed_std: float | None = Field(default=None, gt=0, le=100)
    """Standard deviation of a freshly drawn unembedding that is not tied; null: `embed_std`."""
    architecture: Architecture | None = None
    """Another network than this Llama, of which the fields above are then a description; null: this Llama."""

    @model_validator(mode="after")
    def _heads(self) -> ModelConfig:
        if self.d_head is None and self.d_model % self.n_heads:
            legal = [h for h in range(1, self.d_model + 1) if self.d_model % h == 0 and (self.d_model // h) % 2 == 0]
            raise ValueError(
                f"n_heads: {self.n_heads} does not divide d_model {self.d_model}; legal: {', '.join(map(str, legal))}"
            )
        if self.head_width % 2 and self.architecture is None:
            raise ValueError(f"d_head: {self.head_width} is odd; rotary positions need an even width")
        return self

    @property
    def head_width(self) -> int:
        """Width of one head."""
        return self.d_head or self.d_model // self.n_heads

    @property
    def n_params_body(self) -> int:
        """Parameters outside embedding and unembedding."""
        if self.architecture is not None:
            return self.architecture.n_params_body
        attn = 4 * self.d_model * self.n_heads * self.head_width
        return self.n_layers * (attn + 3 * self.d_model * self.d_mlp + 2 * self.d_model) + self.d_model

    def n_params(self, vocab_size: int) -> int:
        """All parameters for a vocabulary of `vocab_size` tokens."""
        return self.n_params_body + vocab_size * self.d_model * (1 if self.tied else 2)

    def flops_per_token(self, vocab_size: int) -> float:
        """Training FLOPs a token: 6 x parameters in matrix products + 12 x n_layers x width x n_ctx / 2 for attention."""
        matmul = self.n_params_body + vocab_size * self.d_model
        return 6.0 * matmul + 6.0 * self.n_layers * self.n_heads * self.head_width * self.n_ctx
