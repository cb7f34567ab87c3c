"""How large a model is, from the shape in its configuration: how much it is shown, and estimates of time.

A large model of others is shown at most SHOWN tokens of a stimulus, a random model of its shape at most SHOWN_RANDOM: whole
sequences, the first ones. Its scores are means over fewer sequences; `n` and `sd` of the tables say how exact they are. Fewer
sequences make the null of random models wider, never narrower. Our own runs, which are compared with each other, are shown all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nca_interp.base import UserError

LARGE = 1e8
"""FLOPs a token, from which a model is large: about 50 million parameters."""
SHOWN, SHOWN_RANDOM = 2**13, 2**11
"""Tokens of a stimulus that a large model, and a random one of its shape, is shown at most."""
FEWEST = 4
"""Sequences of a stimulus that it is shown at least, where there are so many."""
THROUGHPUT = 1e11
"""FLOP/s that estimates suppose: of a processor's core, in fp32."""
OVERHEAD = 0.3
"""Seconds that a measurement of a checkpoint takes however small it is, about."""


def flops_per_token(config: Any) -> float:
    """FLOPs of a forward pass a token, about: 24 d_model^2 a layer, and the unembedding; of a Hugging Face `config`."""
    text = config.get_text_config()
    width, layers = int(getattr(text, "hidden_size", None) or 64), int(getattr(text, "num_hidden_layers", None) or 1)
    return 24.0 * layers * width**2 + 2.0 * width * int(getattr(text, "vocab_size", None) or 0)


def is_large(config: Any) -> bool:
    """Whether it is shown less."""
    return flops_per_token(config) >= LARGE


def seconds(directory: Path, tokens: float) -> float:
    """Seconds that so many tokens take, about, of the checkpoint in a directory; where its configuration is not readable, OVERHEAD."""
    from nca_interp.model.checkpoint import load_config

    try:
        return OVERHEAD + tokens * flops_per_token(load_config(directory)) / THROUGHPUT
    except UserError:
        return OVERHEAD
