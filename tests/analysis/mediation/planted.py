"""What the planted transfer is made of: a text in which copying pays, and a synthetic stage that trains two heads alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nca_interp.train.setup import Initial

CARRIERS = ((0, 1), (1, 2))
"""Layer and head of the two heads that are trained."""


def copied_text(path: Path, documents: int = 4000) -> Path:
    """Documents of random letters, the same string over and over."""
    rng = random.Random(0)
    lines = []
    for _ in range(documents):
        word = "".join(rng.choice("abcdefghijklmnop") for _ in range(rng.randint(4, 12)))
        lines.append((word * 12)[:48])
    path.write_text("\n".join(lines) + "\n")
    return path


def only_carriers(initial_model: Callable[..., Initial]) -> Callable[..., Initial]:
    """`initial_model` whose models of the synthetic stage have a gradient in CARRIERS and embeddings alone."""

    def wrapped(study: Any, config: Any, vocab_size: int) -> Initial:
        found = initial_model(study, config, vocab_size)
        if config.stage == "ppt":
            width = config.model.head_width
            for name, p in found.model.named_parameters():
                if "embed_tokens" not in name and "lm_head" not in name:
                    p.register_hook(_mask(name, p, width))
        return found

    return wrapped


def _mask(name: str, p: Any, width: int) -> Callable[[Any], Any]:
    mask = p.detach() * 0
    for layer, head in CARRIERS:
        rows = slice(head * width, (head + 1) * width)
        if f"layers.{layer}.self_attn" in name:
            if "o_proj" in name:
                mask[:, rows] = 1
            elif "norm" not in name:
                mask[rows] = 1
    return lambda gradient: gradient * mask.to(gradient)
